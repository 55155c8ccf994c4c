//! The tensors of a diffusers checkpoint as the original code and ComfyUI lay them out. Written line by line from the
//! published names, without the tables of `weightsd-core`, which it is to check.

use crate::Tensor;

/// A tensor of the other layout, and the diffusers tensors whose bytes it has.
pub(crate) struct Other {
    pub(crate) tensor: Tensor,
    pub(crate) pieces: Vec<Tensor>,
}

/// The tensors of a component in the other layout.
pub(crate) fn of(component: &str, tensors: &[Tensor]) -> Vec<Other> {
    match component {
        "transformer" => transformer(tensors),
        "vae" => vae(tensors),
        // Language models have one layout.
        _ => tensors.iter().map(|tensor| alone(tensor, tensor.name.clone(), tensor.shape.clone())).collect(),
    }
}

/// The tensors of a language model as llama.cpp's converter names them.
pub(crate) fn of_llama_cpp(tensors: &[Tensor]) -> Vec<Other> {
    const NAMES: [(&str, &str); 14] = [
        ("model.embed_tokens.", "token_embd."),
        ("model.norm.", "output_norm."),
        ("model.layers.", "blk."),
        (".input_layernorm.", ".attn_norm."),
        (".post_attention_layernorm.", ".ffn_norm."),
        (".self_attn.q_proj.", ".attn_q."),
        (".self_attn.k_proj.", ".attn_k."),
        (".self_attn.v_proj.", ".attn_v."),
        (".self_attn.o_proj.", ".attn_output."),
        (".self_attn.q_norm.", ".attn_q_norm."),
        (".self_attn.k_norm.", ".attn_k_norm."),
        (".mlp.gate_proj.", ".ffn_gate."),
        (".mlp.up_proj.", ".ffn_up."),
        (".mlp.down_proj.", ".ffn_down."),
    ];
    let renamed = |name: &String| NAMES.iter().fold(name.clone(), |name, (theirs, other)| name.replace(theirs, other));
    tensors.iter().map(|tensor| alone(tensor, renamed(&tensor.name), tensor.shape.clone())).collect()
}

fn alone(tensor: &Tensor, name: String, shape: Vec<u64>) -> Other {
    Other { tensor: Tensor { name, dtype: tensor.dtype, shape }, pieces: vec![tensor.clone()] }
}

fn transformer(tensors: &[Tensor]) -> Vec<Other> {
    let find = |name: String| tensors.iter().find(|tensor| tensor.name == name);
    let mut others = Vec::new();
    for tensor in tensors {
        let name = &tensor.name;
        if let Some(base) = name.strip_suffix(".to_q.weight") {
            let parts: Vec<Tensor> =
                ["q", "k", "v"].iter().filter_map(|part| find(format!("{base}.to_{part}.weight")).cloned()).collect();
            let rows = parts.iter().map(|part| part.shape[0]).sum();
            let shape = vec![rows, tensor.shape[1]];
            let fused = Tensor { name: format!("{base}.qkv.weight"), dtype: tensor.dtype, shape };
            others.push(Other { tensor: fused, pieces: parts });
        } else if !name.ends_with(".to_k.weight") && !name.ends_with(".to_v.weight") {
            let renamed = name
                .replace(".attention.to_out.0.", ".attention.out.")
                .replace(".attention.norm_q.", ".attention.q_norm.")
                .replace(".attention.norm_k.", ".attention.k_norm.")
                .replace("all_x_embedder.2-1.", "x_embedder.")
                .replace("all_final_layer.2-1.", "final_layer.");
            others.push(alone(tensor, renamed, tensor.shape.clone()));
        }
    }
    others
}

fn vae(tensors: &[Tensor]) -> Vec<Other> {
    let blocks = tensors
        .iter()
        .filter_map(|tensor| tensor.name.strip_prefix("decoder.up_blocks.")?.split('.').next()?.parse::<usize>().ok())
        .max()
        .map_or(0, |last| last + 1);
    let rename = |tensor: &Tensor| {
        let mut parts: Vec<String> = tensor.name.split('.').map(str::to_owned).collect();
        let mut shape = tensor.shape.clone();
        let text = |parts: &[String]| parts.join(".");
        match parts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [half, "conv_norm_out", leaf] => parts = vec![(*half).into(), "norm_out".into(), (*leaf).into()],
            [half, "mid_block", "resnets", number, rest @ ..] => {
                let number: usize = number.parse().unwrap_or_default();
                let start = [(*half).to_owned(), "mid".to_owned(), format!("block_{}", number + 1)];
                parts = start.into_iter().chain(rest.iter().map(|part| (*part).to_owned())).collect();
            }
            [half, "mid_block", "attentions", "0", rest @ .., leaf] => {
                let module = match *rest {
                    ["group_norm"] => "norm",
                    ["to_q"] => "q",
                    ["to_k"] => "k",
                    ["to_v"] => "v",
                    _ => "proj_out",
                };
                if shape.len() == 2 {
                    shape.extend([1, 1]);
                }
                parts = [*half, "mid", "attn_1", module, *leaf].map(str::to_owned).to_vec();
            }
            [half, "down_blocks" | "up_blocks", number, kind, inner, rest @ ..] => {
                let number: usize = number.parse().unwrap_or_default();
                let (side, number) = if *half == "encoder" { ("down", number) } else { ("up", blocks - 1 - number) };
                let mut all = vec![(*half).to_owned(), side.to_owned(), number.to_string()];
                match *kind {
                    "resnets" => all.extend(["block".to_owned(), (*inner).to_owned()]),
                    "downsamplers" => all.push("downsample".to_owned()),
                    _ => all.push("upsample".to_owned()),
                }
                all.extend(rest.iter().map(|part| part.replace("conv_shortcut", "nin_shortcut")));
                parts = all;
            }
            _ => {}
        }
        alone(tensor, text(&parts), shape)
    };
    tensors.iter().map(rename).collect()
}
