//! Adapters: the keys and shapes of a stranger's file, and the config beside it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weightsd_core::{
    adapter::{AdapterConfig, AdapterInput, plan},
    derive::Delta,
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
    let Ok(text) = std::str::from_utf8(keys) else { return };
    let Some(table) = table(text) else { return };
    for component in ["transformer", "text_encoder"] {
        let targets = ZImage.adapter_targets(component).expect("the family knows them");
        let shape = |layer: &str| (!layer.contains("pad")).then(|| vec![WIDTH, WIDTH]);
        let adapter = AdapterInput { name: "x", tensors: &table, config: config.as_ref(), scale: 0.5 };
        match plan(&adapter, component, targets, |_| BLOCKS, shape) {
            Ok(plan) => plan.deltas.values().for_each(fits),
            Err(error) => reads_well(&error.to_string()),
        }
    }
});

/// One tensor a line: its name, and its dimensions.
fn table(text: &str) -> Option<Table> {
    let mut begin = 8;
    let mut tensors = Vec::new();
    for line in text.lines().take(64) {
        let mut words = line.split(' ');
        let name = words.next().filter(|name| !name.is_empty() && name.len() < 512)?;
        let shape: Vec<u64> = words.map(|word| word.parse().ok().filter(|&number| number < 4096)).collect::<Option<_>>()?;
        let bytes = byte_length(Dtype::F32, &shape).filter(|_| shape.len() < 8)?;
        let info = TensorInfo { name: name.into(), dtype: Dtype::F32, shape, range: begin..begin + bytes };
        begin += bytes;
        tensors.push(Sourced { source: SourceId(0), info, origin: None, packed: None });
    }
    Table::of(tensors).ok()
}

/// What is added has the shape of what it is added to.
fn fits(delta: &Delta) {
    let (rows, columns) = delta.product.dimensions().expect("a product of matrices that fit");
    assert_eq!(columns, WIDTH);
    assert!(delta.rows.end <= rows && delta.rows.end - delta.rows.start == WIDTH, "{delta:?}");
    assert!(delta.divisor.is_finite() && delta.divisor > 0.0, "{delta:?}");
}

fn reads_well(text: &str) {
    assert!(text.len() < 4096 && !text.chars().any(char::is_control), "{text:?}");
}
