//! Adopted pages: where the arrays lie, and that nobody writes to them.

use std::{fs::File, io::Write as _, ops::Range, sync::Arc};

use weightsd_arrays::{
    Adopted, ArrayError, PackedMatrix, bytes, copied, dequantise, filled, mlx_rs, quantise, release_unused,
};
use weightsd_core::{
    header::Dtype,
    quantisation::{Mode, Scheme},
};
use weightsd_segment::{FileIdentity, View};

fn view(content: &[u8]) -> Arc<View> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    let identity = FileIdentity::of_file(&file).unwrap();
    Arc::new(View::map(&file, &identity).unwrap())
}

/// What `tensors` need of a mapping. They fit the smallest limit of the stand-in for Metal under which CI runs this.
fn adopted(view: &Arc<View>, tensors: &[Range<u64>]) -> Adopted {
    Adopted::new(view, tensors).unwrap()
}

fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

#[test]
fn arrays_lie_in_the_mapping() {
    let view = view(&floats((0..10_000).map(|number| number as f32)));
    let tensors = [(0, [50, 100]), (4, [3, 7]), (4 * 9_000, [10, 100])];
    let ranges = tensors.map(|(offset, [rows, columns])| offset..offset + 4 * rows * columns);
    let adopted = adopted(&view, &ranges);
    for (offset, shape) in tensors {
        let array = adopted.array(offset, Dtype::F32, &shape).unwrap();
        let seen = bytes(&array).unwrap();
        assert_eq!(seen.as_ptr(), view.bytes(offset, 1).unwrap().as_ptr());
        assert_eq!(seen, view.bytes(offset, 4 * shape[0] * shape[1]).unwrap());
    }
    let rows = adopted.array(4 * 100, Dtype::F32, &[2, 3]).unwrap();
    assert_eq!(rows.sum(None).unwrap().item_exact::<f32>(), 615.0);
    assert_eq!(
        adopted.array(2, Dtype::F32, &[1]).unwrap_err(),
        ArrayError::Misaligned { dtype: Dtype::F32, offset: 2 }
    );
    for (offset, shape) in [(4, 10_000), (40_000, 1), (u64::MAX - 3, 1)] {
        let error = adopted.array(offset, Dtype::F32, &[shape]).unwrap_err();
        assert!(matches!(error, ArrayError::Length { .. }), "{error}");
    }
    assert!(matches!(adopted.array(0, Dtype::U8, &[1 << 32]), Err(ArrayError::Shape(_) | ArrayError::Length { .. })));
}

#[test]
fn nothing_is_written_to_an_array_that_is_the_last_one() {
    let content = floats((0..7_000).map(|number| number as f32));
    let view = view(&content);
    let adopted = adopted(&view, std::slice::from_ref(&(0..28_000)));
    // What is to be computed has the only reference to its input, and MLX would take the input's memory for the result.
    let array = adopted.array(0, Dtype::F32, &[7_000]).unwrap().add(mlx_rs::array!(1.0f32)).unwrap();
    drop(adopted);
    array.eval().unwrap();
    assert_eq!(array.max(None).unwrap().item_exact::<f32>(), 7_000.0);
    assert_eq!(view.bytes(0, content.len() as u64).unwrap(), content);
}

#[test]
fn a_mapping_goes_with_its_last_array() {
    let view = view(&floats([1.0; 1000]));
    let watch = Arc::downgrade(&view);
    let adopted = adopted(&view, std::slice::from_ref(&(0..40)));
    let first = adopted.array(0, Dtype::F32, &[10]).unwrap();
    let second = first.clone();
    drop((view, adopted));
    release_unused();
    assert!(watch.upgrade().is_some(), "two arrays need it");
    drop(first);
    release_unused();
    assert_eq!(second.sum(None).unwrap().item_exact::<f32>(), 10.0);
    drop(second);
    release_unused();
    assert!(watch.upgrade().is_none(), "nobody needs it any more");
}

#[test]
fn an_empty_file_has_nothing_to_adopt_and_odd_shapes_are_arrays() {
    let none = adopted(&view(&[]), &[]).array(0, Dtype::F32, &[1]).unwrap_err();
    assert!(matches!(none, ArrayError::Length { .. }), "{none}");
    let none = copied(Dtype::F32, &[0, 5], &[]).unwrap();
    assert_eq!((none.shape(), bytes(&none).unwrap().len()), (&[0, 5][..], 0));
    let scalar = copied(Dtype::BF16, &[], &[0x80, 0x3f]).unwrap();
    assert_eq!((scalar.ndim(), bytes(&scalar).unwrap()), (0, &[0x80, 0x3f][..]));
    assert!(matches!(copied(Dtype::F4, &[2], &[1]), Err(ArrayError::Dtype(Dtype::F4))));
    assert!(matches!(copied(Dtype::F32, &[2], &[1]), Err(ArrayError::Length { .. })));
}

#[test]
fn what_cannot_be_read_is_no_array() {
    let file = File::open("/dev/null").unwrap();
    let read = |memory: &mut [u8]| {
        std::io::Read::read_exact(&mut &file, memory).map_err(|error| ArrayError::Mlx(error.to_string()))
    };
    assert!(filled(Dtype::F32, &[4], read).is_err());
}

#[test]
fn every_mode_goes_there_and_back() {
    let weight = copied(Dtype::F32, &[8, 128], &floats((0..1024).map(|number| (number % 17) as f32 / 16.0))).unwrap();
    let affine = [2, 3, 4, 5, 6, 8].into_iter().flat_map(|bits| [32, 64, 128].map(|group| (Mode::Affine, bits, group)));
    for (mode, bits, group) in affine.chain([(Mode::Mxfp4, 4, 32), (Mode::Mxfp8, 8, 32), (Mode::Nvfp4, 4, 16)]) {
        let scheme = Scheme::new(mode, Some(bits), Some(group)).unwrap();
        let parts = quantise(&weight, &scheme).unwrap();
        assert_eq!(parts.len(), scheme.slots().count(), "{scheme}");
        for (part, spec) in parts.iter().zip(scheme.slots()) {
            let shape: Vec<u64> = part.shape().iter().map(|&dimension| dimension as u64).collect();
            assert_eq!(shape, scheme.shape_of(spec.role, &[8, 128]).unwrap(), "{scheme}");
        }
        let [codes, scales] = [0, 1].map(|at: usize| parts[at].clone());
        let packed = PackedMatrix { weight: codes, scales, biases: parts.get(2).cloned(), global_scale: None };
        let back = dequantise(&packed, &scheme).unwrap();
        let distance = back.subtract(&weight).unwrap().abs().unwrap().max(None).unwrap();
        assert!(distance.item_cast::<f32>() <= 0.5, "{scheme}: {distance}");
    }
    let odd = copied(Dtype::F32, &[3, 5], &floats([0.0; 15])).unwrap();
    let error = quantise(&odd, &Scheme::new(Mode::Affine, Some(4), Some(64)).unwrap()).unwrap_err();
    assert!(matches!(error, ArrayError::Mlx(_)), "{error}");
}

#[test]
fn it_is_the_version_whose_results_are_right() {
    // SAFETY: the handle is made, filled, read as text that ends with a zero, and freed.
    let found = unsafe {
        let mut text = mlx_sys::mlx_string_new();
        assert_eq!(mlx_sys::mlx_version(&mut text), 0);
        let found = std::ffi::CStr::from_ptr(mlx_sys::mlx_string_data(text)).to_str().unwrap().to_owned();
        mlx_sys::mlx_string_free(text);
        found
    };
    assert_eq!(found, weightsd_core::derive::MLX_VERSION);
}

/// Metal takes windows of a mapping, with rules of its own. This machine has none, so the shim refuses in its place what
/// Metal refuses; all tests of this file run under it.
#[cfg(not(target_os = "macos"))]
#[test]
fn all_of_this_holds_under_the_rules_of_metal() {
    const STAND_IN: &str = "WEIGHTSD_METAL_STAND_IN";
    if std::env::var_os(STAND_IN).is_some() {
        return;
    }
    for limit in ["32768", "1048576", "0"] {
        let run = std::process::Command::new(std::env::current_exe().unwrap()).env(STAND_IN, limit).output().unwrap();
        assert!(run.status.success(), "limit {limit}:\n{}", String::from_utf8_lossy(&run.stdout));
    }
}
