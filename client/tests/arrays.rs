//! Components as arrays of mlx-rs: where they lie, what is copied, and that nobody's pages are written to.

mod daemon;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use safetensors::{
    Dtype,
    tensor::{Metadata, TensorView},
};
use tempfile::TempDir;
use weightsd_client::{
    Arrays, ArraysError, Client, Component, CopyReason, LoadRequest, Tree,
    mlx_rs::{
        self, Array,
        builder::Builder as _,
        macros::ModuleParameters,
        module::{Module as _, ModuleParameters as _},
        nn::{Linear, LinearBuilder},
    },
    proto, release_unused,
};

/// Name, dtype, shape and bytes of a tensor.
type Content = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// Writes a safetensors file; its tensors as the daemon would describe them.
fn write(path: &Path, segment: u32, contents: &[Content]) -> Vec<proto::Tensor> {
    let view = |(name, dtype, shape, bytes): &Content| {
        (*name, TensorView::new(*dtype, shape.clone(), bytes.clone().leak()).unwrap())
    };
    let file = safetensors::serialize(contents.iter().map(view), None).unwrap();
    fs::write(path, &file).unwrap();
    let (header, metadata): (usize, Metadata) = safetensors::SafeTensors::read_metadata(&file).unwrap();
    let tensors = metadata.tensors().into_iter().map(|(name, info)| proto::Tensor {
        name,
        dtype: info.dtype.to_string(),
        shape: info.shape.iter().map(|&dimension| dimension as u64).collect(),
        segment,
        offset: (8 + header + info.data_offsets.0) as u64,
        length: (info.data_offsets.1 - info.data_offsets.0) as u64,
        ..proto::Tensor::default()
    });
    tensors.collect()
}

/// A component of the given files, and the end of its lease.
async fn component(folder: &TempDir, files: &[&[Content]]) -> (Component, daemon::Leases, Vec<PathBuf>) {
    let paths: Vec<_> = (0..files.len()).map(|index| folder.path().join(format!("{index}.safetensors"))).collect();
    let tensors = files.iter().enumerate().flat_map(|(index, file)| write(&paths[index], index as u32, file));
    let (options, leases) = daemon::serve(folder.path(), paths.clone(), tensors.collect());
    let client = Client::connect(options).await.unwrap();
    (client.load(LoadRequest::new("a/b", "vae"), |_| {}).await.unwrap(), leases, paths)
}

fn address(array: &Array) -> usize {
    weightsd_arrays::bytes(array).unwrap().as_ptr().addr()
}

fn is_send<T: Send>(_: &T) {}

#[tokio::test]
async fn aligned_tensors_lie_in_the_mapping() {
    let folder = tempfile::tempdir().unwrap();
    let one: &[Content] = &[
        ("a.weight", Dtype::F32, vec![2, 3], floats((0..6).map(|value| value as f32))),
        ("b.weight", Dtype::BF16, vec![2], vec![0x80, 0x3f, 0, 0x40]),
        ("b.mask", Dtype::BOOL, vec![3], vec![0, 1, 1]),
    ];
    let other: &[Content] = &[("c", Dtype::I64, vec![], vec![7, 0, 0, 0, 0, 0, 0, 0])];
    let (vae, _leases, _) = component(&folder, &[one, other]).await;
    let arrays = vae.arrays().unwrap();
    is_send(&arrays);
    assert_eq!(arrays.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a.weight", "b.mask", "b.weight", "c"]);
    for tensor in vae.tensors() {
        let array = arrays.get(tensor.name()).unwrap();
        assert_eq!(address(array), tensor.bytes().as_ptr().addr(), "{}", tensor.name());
        assert_eq!(weightsd_arrays::bytes(array).unwrap(), tensor.bytes());
        assert_eq!(array.dtype(), weightsd_arrays::dtype(tensor.dtype()).unwrap());
        assert!(array.shape().iter().map(|&dimension| dimension as u64).eq(tensor.shape().iter().copied()));
    }
    assert!(arrays.get("a").is_none());
    let report = arrays.report();
    assert_eq!((report.adopted, report.adopted_bytes, report.copied_bytes()), (4, 24 + 4 + 3 + 8, 0));
    assert_eq!(arrays.get("a.weight").unwrap().sum(None).unwrap().item_exact::<f32>(), 15.0);
    assert_eq!(arrays.get("c").unwrap().item_exact::<i64>(), 7);
}

#[tokio::test]
async fn a_misaligned_tensor_is_copied_counted_and_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.safetensors");
    // Written by hand: the safetensors crate would put the larger elements first.
    let mut header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
        "b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]},
        "c":{"dtype":"U8","shape":[3],"data_offsets":[9,12]},
        "d":{"dtype":"F32","shape":[0,4],"data_offsets":[12,12]}}"#
        .to_owned();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    let data = file.len() as u64;
    file.push(1);
    file.extend(floats([1.5, -2.0]));
    file.extend([7, 8, 9]);
    fs::write(&path, file).unwrap();
    let tensor = |name: &str, dtype: &str, shape: &[u64], offset: u64, length: u64| {
        let (name, dtype, shape) = (name.into(), dtype.into(), shape.to_vec());
        proto::Tensor { name, dtype, shape, offset: data + offset, length, ..proto::Tensor::default() }
    };
    let tensors = vec![
        tensor("a", "U8", &[1], 0, 1),
        tensor("b", "F32", &[2], 1, 8),
        tensor("c", "U8", &[3], 9, 3),
        tensor("d", "F32", &[0, 4], 12, 0),
    ];
    let (options, _leases) = daemon::serve(folder.path(), vec![path], tensors);
    let vae = Client::connect(options).await.unwrap().load(LoadRequest::new("a/b", "vae"), |_| {}).await.unwrap();
    let arrays = vae.arrays().unwrap();
    assert_eq!(arrays.get("b").unwrap().as_slice::<f32>(), [1.5, -2.0]);
    assert_ne!(address(arrays.get("b").unwrap()), vae.tensor("b").unwrap().bytes().as_ptr().addr());
    assert_eq!(address(arrays.get("c").unwrap()), vae.tensor("c").unwrap().bytes().as_ptr().addr());
    assert_eq!(arrays.get("d").unwrap().shape(), [0, 4]);
    let copied: Vec<_> =
        arrays.report().copied.iter().map(|copied| (&*copied.name, copied.bytes, copied.why)).collect();
    assert_eq!(copied, [("b", 8, CopyReason::Misaligned), ("d", 0, CopyReason::Empty)]);
    assert_eq!((arrays.report().adopted, arrays.report().adopted_bytes, arrays.report().copied_bytes()), (2, 4, 8));
}

#[tokio::test]
async fn a_dtype_that_mlx_lacks_is_an_error_that_names_the_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let file: &[Content] = &[("good", Dtype::U8, vec![1], vec![1]), ("odd", Dtype::F8_E5M2, vec![2], vec![1, 2])];
    let (vae, _leases, _) = component(&folder, &[file]).await;
    let error = vae.arrays().unwrap_err();
    assert!(matches!(&error, ArraysError::Tensor { name, dtype: Dtype::F8_E5M2, .. } if name == "odd"), "{error}");
}

#[tokio::test]
async fn arrays_outlive_component_and_lease() {
    let folder = tempfile::tempdir().unwrap();
    let file: &[Content] = &[("a", Dtype::F32, vec![1000], floats([1.0; 1000]))];
    let (vae, mut leases, paths) = component(&folder, &[file]).await;
    let arrays = vae.arrays().unwrap();
    drop(vae);
    let lease = leases.recv().await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), lease.closed()).await.unwrap();
    fs::remove_file(&paths[0]).unwrap();
    assert_eq!(arrays.get("a").unwrap().sum(None).unwrap().item_exact::<f32>(), 1000.0);
    let kept = arrays.get("a").unwrap().clone();
    drop(arrays);
    assert_eq!(kept.sum(None).unwrap().item_exact::<f32>(), 1000.0);
}

#[tokio::test]
async fn an_operation_on_the_last_array_writes_to_nobodys_pages() {
    let folder = tempfile::tempdir().unwrap();
    let file: &[Content] = &[("a", Dtype::F32, vec![100_000], floats((0..100_000).map(|value| value as f32)))];
    let (vae, _leases, paths) = component(&folder, &[file]).await;
    let before = fs::read(&paths[0]).unwrap();
    let tensors = vae.release();
    let mut last = tensors.arrays().unwrap().into_flattened();
    // The sum alone refers to its input, whose memory MLX would take for it: the pages cannot be written to, and the
    // process would end here.
    let sum = last.remove("a").unwrap().add(mlx_rs::array!(1.0f32)).unwrap();
    sum.eval().unwrap();
    assert_eq!(sum.max(None).unwrap().item_exact::<f32>(), 100_000.0);
    assert_eq!(fs::read(&paths[0]).unwrap(), before);
    assert_eq!(tensors.get("a").unwrap().bytes()[..8], floats([0.0, 1.0]));
}

#[tokio::test]
async fn the_mapping_goes_with_the_last_array() {
    let folder = tempfile::tempdir().unwrap();
    let file: &[Content] = &[("a", Dtype::F32, vec![4], floats([1.0; 4]))];
    let (vae, _leases, _) = component(&folder, &[file]).await;
    let view = std::sync::Arc::downgrade(&vae.storage().views()[0]);
    let mut arrays = vae.arrays().unwrap().into_flattened();
    drop(vae);
    release_unused();
    assert!(view.upgrade().is_some(), "an array needs it");
    arrays.clear();
    release_unused();
    assert!(view.upgrade().is_none(), "nobody needs it any more");
}

/// A module of two layers in a list, as `to_out.0` and the layers of a transformer are.
#[derive(Debug, ModuleParameters)]
struct Stack {
    #[param]
    layers: Vec<Linear>,
}

fn layers() -> Vec<Content> {
    vec![
        ("layers.0.weight", Dtype::F32, vec![2, 3], floats([1.0, 0.0, 0.0, 0.0, 2.0, 0.0])),
        ("layers.0.bias", Dtype::F32, vec![2], floats([0.5, -0.5])),
        ("layers.1.weight", Dtype::F32, vec![1, 2], floats([10.0, 1.0])),
        ("layers.1.bias", Dtype::F32, vec![1], floats([100.0])),
    ]
}

fn stack() -> Stack {
    Stack {
        layers: [(3, 2), (2, 1)].map(|(inputs, outputs)| LinearBuilder::new(inputs, outputs).build().unwrap()).into(),
    }
}

fn run(stack: &mut Stack) -> f32 {
    let input = Array::from_slice(&[1.0f32, 2.0, 3.0], &[1, 3]);
    let hidden = stack.layers[0].forward(&input).unwrap();
    stack.layers[1].forward(&hidden).unwrap().item_exact::<f32>()
}

#[tokio::test]
async fn a_module_takes_the_arrays_and_computes() {
    let folder = tempfile::tempdir().unwrap();
    let (vae, _leases, _) = component(&folder, &[&layers()]).await;
    let expected = 10.0 * (1.0 + 0.5) + (2.0 * 2.0 - 0.5) + 100.0;

    let mut flat = stack();
    flat.update_flattened(vae.arrays().unwrap().into_flattened());
    assert_eq!(run(&mut flat), expected);
    for (name, parameter) in flat.parameters().flatten() {
        assert_eq!(address(parameter), vae.tensor(&name).unwrap().bytes().as_ptr().addr(), "{name}");
    }
    let mut nested = stack();
    nested.update(vae.arrays().unwrap().nested().unwrap());
    assert_eq!(run(&mut nested), expected);
    drop(vae);
    assert_eq!((run(&mut flat), run(&mut nested)), (expected, expected));
}

#[tokio::test]
async fn names_become_maps_or_a_tree_with_lists() {
    let folder = tempfile::tempdir().unwrap();
    let (vae, _leases, _) = component(&folder, &[&layers()]).await;
    let arrays = vae.arrays().unwrap();
    let flat = arrays.nested().unwrap().flatten();
    assert_eq!(flat.len(), arrays.len());
    for (name, array) in arrays.iter() {
        assert_eq!(address(&flat[name]), address(array));
    }
    let tree = arrays.tree().unwrap();
    let Some(Tree::List(layers)) = tree.get("layers") else { panic!("layers are a list") };
    let bias = layers[1].get("bias").and_then(Tree::as_tensor).unwrap();
    assert_eq!(bias.as_slice::<f32>(), [100.0]);
}

#[tokio::test]
#[ignore = "a measurement: run with --release --ignored --nocapture"]
async fn a_thousand_tensors_take_milliseconds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.safetensors");
    fs::write(&path, vec![0x3f; 1095 * 4096]).unwrap();
    let tensor = |index: u64| proto::Tensor {
        name: format!("model.layers.{index}.attention.weight"),
        dtype: "BF16".into(),
        shape: vec![32, 64],
        offset: 4096 * index,
        length: 4096,
        ..proto::Tensor::default()
    };
    let (options, _leases) = daemon::serve(folder.path(), vec![path], (0..1095).map(tensor).collect());
    let vae = Client::connect(options).await.unwrap().load(LoadRequest::new("a/b", "vae"), |_| {}).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..100 {
        let start = Instant::now();
        let arrays: Arrays = vae.arrays().unwrap();
        times.push(start.elapsed());
        assert_eq!(arrays.report().adopted, 1095);
    }
    times.sort();
    println!("first of 100 {:?}, p50 {:?}, last {:?}", times[0], times[50], times[99]);
    assert!(times[50] < Duration::from_millis(10));
}

#[tokio::test]
async fn only_what_no_buffer_of_the_gpu_can_hold_is_copied() {
    const LONG: usize = 48 << 10;
    let folder = tempfile::tempdir().unwrap();
    let file: &[Content] = &[
        ("a", Dtype::F32, vec![25], floats((0..25).map(|value| value as f32))),
        ("b", Dtype::F32, vec![LONG / 4], floats((0..LONG / 4).map(|value| value as f32))),
        ("c", Dtype::U8, vec![5], vec![1, 2, 3, 4, 5]),
    ];
    let (vae, _leases, _) = component(&folder, &[file]).await;
    let arrays = vae.arrays().unwrap();
    let limit = std::env::var(STAND_IN).ok().and_then(|limit| limit.parse::<usize>().ok()).filter(|&limit| limit > 0);
    for tensor in vae.tensors() {
        let array = arrays.get(tensor.name()).unwrap();
        assert_eq!(weightsd_arrays::bytes(array).unwrap(), tensor.bytes(), "{}", tensor.name());
        let is_too_long = limit.is_some_and(|limit| tensor.bytes().len() > limit);
        assert_eq!(address(array) != tensor.bytes().as_ptr().addr(), is_too_long, "{}", tensor.name());
    }
    let copied: Vec<_> = arrays.report().copied.iter().map(|copied| (&*copied.name, copied.why)).collect();
    match limit {
        Some(limit) if limit < LONG => assert_eq!(copied, [("b", CopyReason::TooLong)]),
        _ => assert_eq!(copied, []),
    }
    assert_eq!(arrays.get("c").unwrap().sum(None).unwrap().item_cast::<i64>(), 15);
}

/// Tests of machines without Metal set it to the longest buffer in bytes, or to 0 for no limit.
const STAND_IN: &str = "WEIGHTSD_METAL_STAND_IN";

/// Metal takes windows of a mapping, with rules of its own. This machine has none, so the shim refuses in its place what
/// Metal refuses; all tests of this file run under it.
#[cfg(not(target_os = "macos"))]
#[test]
fn all_of_this_holds_under_the_rules_of_metal() {
    if std::env::var_os(STAND_IN).is_some() {
        return;
    }
    for limit in ["32768", "1048576", "0"] {
        let run = std::process::Command::new(std::env::current_exe().unwrap()).env(STAND_IN, limit).output().unwrap();
        assert!(run.status.success(), "limit {limit}:\n{}", String::from_utf8_lossy(&run.stdout));
    }
}
