//! A checkpoint as mflux saves it: a folder for each component and no config, names of its own modules, kernels in MLX's
//! order, and shards that are called by numbers.

use crate::{Checkpoint, Dtype};

impl Checkpoint {
    /// The same model as mflux saves it, in BF16, with at most `shard_bytes_max` bytes of tensors in a file.
    #[must_use]
    pub fn as_mflux(mut self, shard_bytes_max: u64) -> Self {
        self.documents.clear();
        for component in &mut self.components {
            let of = component.site.name.clone();
            for tensor in &mut component.tensors {
                tensor.name = renamed(&of, &tensor.name);
                if let [out, input, height, width] = *tensor.shape.as_slice() {
                    tensor.shape = vec![out, height, width, input];
                }
            }
            component.numbered = true;
            component.set_dtype(Dtype::BF16).set_shard_bytes_max(shard_bytes_max);
            component.metadata.clear();
            component.put_metadata("mflux_version", "0.9.0").put_metadata("quantization_level", "None");
        }
        self
    }
}

fn renamed(component: &str, name: &str) -> String {
    match component {
        "transformer" => name
            .replace("t_embedder.mlp.0.", "t_embedder.linear1.")
            .replace("t_embedder.mlp.2.", "t_embedder.linear2.")
            .replace("all_final_layer.2-1.adaLN_modulation.1.", "all_final_layer.2-1.adaLN_modulation.0."),
        "text_encoder" => name.strip_prefix("model.").unwrap_or(name).to_owned(),
        _ => name
            .replace("encoder.conv_in.", "encoder.conv_in.conv2d.")
            .replace("encoder.conv_out.", "encoder.conv_out.conv2d.")
            .replace("decoder.conv_in.", "decoder.conv_in.conv.")
            .replace("decoder.conv_out.", "decoder.conv_out.conv.")
            .replace(".conv_norm_out.", ".conv_norm_out.norm."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Contents, Dims};

    #[test]
    fn names_and_orders_are_those_of_its_modules() {
        let model = Checkpoint::new(&Dims::true_size(), Contents::Sparse).unwrap().as_mflux(2 << 30);
        assert_eq!(model.component("vae").tensor("decoder.conv_in.conv.weight").shape, [512, 3, 3, 16]);
        assert_eq!(model.component("vae").tensor("encoder.conv_norm_out.norm.weight").shape, [512]);
        assert_eq!(model.component("text_encoder").tensor("embed_tokens.weight").shape, [151_936, 2560]);
        assert_eq!(model.component("transformer").tensor("t_embedder.linear1.weight").shape, [1024, 256]);
        let files = crate::plan::files(&model.documents, &model.components);
        let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        for expected in ["vae/0.safetensors", "vae/model.safetensors.index.json", "transformer/5.safetensors"] {
            assert!(paths.contains(&expected), "{paths:?}");
        }
        assert!(!paths.iter().any(|path| path.contains("config") || path.contains("model_index")), "{paths:?}");
    }
}
