//! Marks of quantised layers: the JSON beside a weight, and the list in a file's metadata.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weightsd_core::{
    header::{Dtype, Header, TensorInfo, byte_length},
    layers::{Sought, layers},
    naming::Naming,
    quantisation::{LAYERS_LIST, Mark, Rotation},
    source::SourceId,
    table::Table,
};

/// Rows and columns of the layer.
const SHAPE: [u64; 2] = [4, 1024];

fuzz_target!(|input: &[u8]| {
    let (beside, listed) = match input.iter().position(|&byte| byte == 255) {
        Some(at) => (&input[..at], Some(&input[at + 1..])),
        None => (input, None),
    };
    let read = Mark::parse(beside);
    let padded = [beside, &[0; 7]].concat();
    assert_eq!(Mark::parse(&padded), read, "padding says nothing");
    if let Err(error) = &read {
        reads_well(&error.to_string());
    }
    let mut table = table();
    table.add_marks(SourceId(0), |name| (name == "a.comfy_quant").then(|| beside.into()));
    if let Some(list) = listed.and_then(|list| std::str::from_utf8(list).ok()) {
        let metadata = [(LAYERS_LIST.to_owned(), list.to_owned())].into();
        if let Err(error) = table.add_list(&metadata) {
            reads_well(&error.to_string());
        }
    }
    let weight = table.get("a.weight").and_then(|weight| weight.mark.clone());
    let entry = weight.map(|entry| Mark::parse(&entry));
    let sought = Sought {
        component: "model",
        table: &table,
        declaration: None,
        catalogue: None,
        naming: &Naming::NONE,
        stands_for: &|_| None,
    };
    let found = layers(&sought);
    for opaque in found.opaque.values() {
        reads_well(&opaque.why);
    }
    let Some(coded) = found.coded.get("a") else { return };
    let mark = read.expect("a layer whose mark cannot be read is not made plain");
    if let Some(entry) = entry {
        assert_eq!(entry.as_ref(), Ok(&mark), "they agree");
    }
    assert!(mark.unknown.is_empty() && coded.coding.format.marks.contains(&mark.format.as_str()));
    let rotation = coded.coding.decoding.rotation;
    match mark.rotation {
        Rotation::On(columns) => assert_eq!(rotation, Some(columns)),
        Rotation::Off => assert_eq!(rotation, None),
        Rotation::Unsaid => assert!(rotation.is_none() || mark.format == "convrot_w4a4"),
    }
});

/// A layer of integers with a scale for each row, and its mark.
fn table() -> Table {
    let mut begin = 8;
    let tensors = [("a.comfy_quant", Dtype::U8, vec![1]), ("a.weight", Dtype::I8, SHAPE.to_vec()),
        ("a.weight_scale", Dtype::F32, vec![SHAPE[0], 1])];
    let tensors = tensors.map(|(name, dtype, shape)| {
        let range = begin..begin + byte_length(dtype, &shape).expect("it is small");
        begin = range.end;
        TensorInfo { name: name.into(), dtype, shape, range, encoding: None }
    });
    Table::of_file(Header { data_start: 8, file_length: begin, tensors: tensors.into(), metadata: Default::default() })
}

fn reads_well(text: &str) {
    assert!(text.len() < 4096 && !text.chars().any(char::is_control), "{text:?}");
}
