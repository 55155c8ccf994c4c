//! Adapters: the keys and shapes of a stranger's file, and the config beside it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weightsd_core::{
    adapter::{AdapterConfig, AdapterInput, FileStrengths, Incomplete, Weights, alphas, plan},
    derive::{Delta, Product},
    family::{Family, z_image::ZImage},
    header::{Dtype, TensorInfo, byte_length},
    source::SourceId,
    table::{Sourced, Table},
};

/// Width of the model, and how many blocks each list has.
const WIDTH: u64 = 24;
const BLOCKS: u64 = 3;

fuzz_target!(|input: &[u8]| {
    let (config, keys) = match input.iter().position(|&byte| byte == 0) {
        Some(at) => (AdapterConfig::parse("adapter_config.json", &input[..at]), &input[at + 1..]),
        None => (AdapterConfig::parse("adapter_config.json", b"{}"), input),
    };
    let config = match config {
        Ok(config) => Some(config),
        Err(error) => {
            reads_well(&error.to_string());
            None
        }
    };
    // The same bytes are what the file itself may say.
    let own = input.split(|&byte| byte == 0).next().map(String::from_utf8_lossy).unwrap_or_default();
    let metadata = [("lora_adapter_metadata", own.as_ref()), ("lora_alpha", "8"), ("r", own.as_ref())];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let metadata = match FileStrengths::parse(&metadata.into()) {
        Ok(metadata) => metadata,
        Err(error) => {
            reads_well(&error.to_string());
            FileStrengths::default()
        }
    };
    let Ok(text) = std::str::from_utf8(keys) else { return };
    let Some(table) = table(text) else { return };
    let alphas = alphas(&table).map(|tensor| (tensor.info.name.to_string(), 2.0)).collect();
    for component in ["transformer", "text_encoder"] {
        let targets = ZImage.adapter_targets(component).expect("the family knows them");
        let incomplete = if keys.len() % 2 == 0 { Incomplete::Refused } else { Incomplete::Reported };
        let adapter = AdapterInput {
            name: "x",
            tensors: &table,
            alphas: &alphas,
            config: config.as_ref(),
            metadata: &metadata,
            scale: 1.0,
            incomplete,
        };
        match plan(&adapter, component, targets, &weights()) {
            Ok(plan) => plan.deltas.values().flatten().for_each(fits),
            Err(error) => reads_well(&error.to_string()),
        }
    }
});

/// Square layers and vectors under the names of both components.
fn weights() -> Weights {
    let blocks = |list: &'static str, layers: &'static [&'static str]| {
        (0..BLOCKS).flat_map(move |block| layers.iter().map(move |layer| format!("{list}.{block}.{layer}")))
    };
    const LAYERS: [&str; 6] = ["attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0",
        "feed_forward.w1", "feed_forward.w2"];
    const OF_TEXT: [&str; 3] = ["self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"];
    let layers = blocks("layers", &LAYERS).chain(blocks("model.layers", &OF_TEXT)).chain(["lm_head".to_owned()]);
    let matrices = layers.map(|layer| (format!("{layer}.weight"), vec![WIDTH, WIDTH]));
    let vectors = blocks("layers", &["attention_norm1.weight", "feed_forward.w1.bias"]).map(|name| (name, vec![WIDTH]));
    Weights::new(matrices.chain(vectors))
}

/// One tensor a line: its name, and its dimensions.
fn table(text: &str) -> Option<Table> {
    let mut begin = 8;
    let mut tensors = Vec::new();
    for line in text.lines().take(64) {
        let mut words = line.split(' ');
        let name = words.next().filter(|name| !name.is_empty() && name.len() < 512)?;
        let shape: Vec<u64> = words.map(|word| word.parse().ok().filter(|&number| number < 4096)).collect::<Option<_>>()?;
        let bytes = byte_length(Dtype::F32, &shape).filter(|_| shape.len() < 8)?;
        let info = TensorInfo { name: name.into(), dtype: Dtype::F32, shape, range: begin..begin + bytes, encoding: None };
        begin += bytes;
        tensors.push(Sourced { source: SourceId(0), info, origin: None, packed: None, coded: None, mark: None });
    }
    Table::of(tensors).ok()
}

/// What is added has the shape of what it is added to.
fn fits(delta: &Delta) {
    let rows = match &delta.product {
        Product::Full(whole) if whole.slice.shape.len() == 1 => whole.slice.shape[0],
        product => {
            let (rows, columns) = product.dimensions().expect("a product of matrices that fit");
            assert_eq!(columns, WIDTH);
            rows
        }
    };
    assert!(delta.rows.end <= rows && delta.rows.end - delta.rows.start == WIDTH, "{delta:?}");
    assert!(delta.divisor.is_finite() && delta.divisor > 0.0 && delta.alpha.is_finite(), "{delta:?}");
}

fn reads_well(text: &str) {
    assert!(text.len() < 4096 && !text.chars().any(char::is_control), "{text:?}");
}
