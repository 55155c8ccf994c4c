//! Layers that are quantised, quantised otherwise, or made plain, beside the component as it is. That the numbers are
//! MLX's own, `tests/python/test_derive.py` sees to.

use weightsd_client::{
    Client, ErrorReason, FloatType, LoadRequest,
    proto::{EventKind, PackingRole, Quantisation, QuantisationMode, SegmentKind, Tensor},
};
use weightsd_fixtures::{Checkpoint, Dtype, Quantisation as Packed};

use crate::{
    harness::{Daemon, Home, events, tiny},
    raw,
};

const ENCODER: &str = "text_encoder";
/// Layers of the tiny text encoder that the rule packs: seven matrices in each of three blocks.
const LAYERS: usize = 21;

async fn model(checkpoint: &Checkpoint) -> (Home, Daemon, Client) {
    let home = Home::new();
    checkpoint.write_directory(home.path().join("model")).unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await;
    (home, daemon, client)
}

fn request(home: &Home) -> LoadRequest {
    home.usual_request(home.path().join("model").to_str().unwrap(), ENCODER)
}

fn scheme(mode: &str, bits: u32, group_size: u32) -> Quantisation {
    let mode = match mode {
        "" => QuantisationMode::Unspecified,
        name => QuantisationMode::from_str_name(&format!("QUANTISATION_MODE_{}", name.to_uppercase())).unwrap(),
    };
    Quantisation { mode: mode.into(), bits, group_size, ..Quantisation::default() }
}

fn named(quantisation: Quantisation, only: &[&str], excluding: &[&str]) -> Quantisation {
    let list = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Quantisation { only: list(only), excluding: list(excluding), ..quantisation }
}

/// The messages about the tensors of a component that is packed.
async fn tensors(daemon: &Daemon, request: LoadRequest) -> Vec<Tensor> {
    let message = request.message().clone();
    raw::load(&mut raw::service(daemon.socket()).await, message).await.unwrap().tensors
}

/// The tensors of packed layers are those of `scheme`, of that many layers.
#[track_caller]
fn assert_packed(tensors: &[Tensor], (mode, bits, group): (&str, u32, u32), layers: usize) {
    let weights = tensors.iter().filter_map(|tensor| Some((tensor, tensor.packing.as_ref()?)));
    let mut found = 0;
    for (tensor, packing) in weights {
        assert_eq!(packing.mode, scheme(mode, 0, 0).mode, "{}", tensor.name);
        assert_eq!((packing.bits, packing.group_size), (bits, group), "{}", tensor.name);
        let [rows, columns] = packing.logical_shape[..] else { panic!("{packing:?}") };
        let (dtype, columns) = match (packing.role(), mode) {
            (PackingRole::Weight, _) => ("U32", columns * u64::from(bits) / 32),
            (_, "affine") => ("BF16", columns / u64::from(group)),
            (_, _) => ("U8", columns / u64::from(group)),
        };
        assert_eq!((tensor.dtype.as_str(), &tensor.shape), (dtype, &vec![rows, columns]), "{}", tensor.name);
        found += usize::from(packing.role() == PackingRole::Weight);
    }
    assert_eq!(found, layers, "{mode}");
}

#[tokio::test(flavor = "multi_thread")]
async fn quantised_variants_lie_beside_the_plain_one_and_each_is_computed_once() {
    let (home, daemon, client) = model(&tiny(1)).await;
    let plain = client.load(request(&home), |_| ()).await.unwrap();
    assert_eq!(plain.info().computed_bytes, 0);
    let schemes = [("affine", 4, 64), ("affine", 8, 32), ("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)];
    let mut held = Vec::new();
    for (mode, bits, group) in schemes {
        let asked = || request(&home).quantise(scheme(mode, bits, group));
        let component = client.load(asked(), |_| ()).await.unwrap();
        assert_packed(&tensors(&daemon, asked()).await, (mode, bits, group), LAYERS);
        let segments = &component.info().segments;
        for tensor in component.tensors() {
            let is_packed = segments[tensor.place().0].kind() == SegmentKind::Derived;
            assert_eq!(is_packed, plain.tensor(tensor.name()).is_none_or(|plain| plain.dtype() != tensor.dtype()));
            assert!(is_packed || tensor.bytes() == plain.tensor(tensor.name()).unwrap().bytes(), "{}", tensor.name());
        }
        assert!(component.info().computed_bytes > 0 && component.audit().unwrap().clean);
        held.push(component);
    }
    // What is left out is the mode's own, so it is the same component.
    for (number, quantisation) in [(0, scheme("", 0, 0)), (0, scheme("affine", 4, 0)), (2, scheme("mxfp4", 0, 0))] {
        let same = client.load(request(&home).quantise(quantisation), |_| ()).await.unwrap();
        assert_eq!((same.id(), same.info().warm), (held[number].id(), true));
    }
    assert_eq!(events(&client, EventKind::Derived).await.len(), schemes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_choose_the_layers() {
    let (home, daemon, client) = model(&tiny(1)).await;
    let cases = [
        (named(scheme("affine", 8, 64), &["model.layers.*.mlp.*"], &[]), 9),
        (named(scheme("affine", 8, 64), &["model.layers.*.mlp.*"], &["*.0.*"]), 6),
        (named(scheme("affine", 8, 64), &[], &["*.mlp.*"]), 12),
        (named(scheme("affine", 8, 64), &["model.layers.{0,2}.mlp.up_proj", "*.1.*k_proj"], &[]), 3),
    ];
    for (quantisation, layers) in cases {
        assert_packed(&tensors(&daemon, request(&home).quantise(quantisation)).await, ("affine", 8, 64), layers);
    }
    let absent = named(scheme("affine", 8, 64), &["model.layers.7.*"], &[]);
    let error = client.load(request(&home).quantise(absent), |_| ()).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::CannotConvert), "{error}");
    assert!(error.to_string().contains("model.layers.7.*") && error.to_string().contains("matches none"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn quantised_layers_stay_become_plain_or_are_quantised_anew() {
    let mut checkpoint = tiny(2);
    checkpoint.quantise(ENCODER, Packed::MlxLm { bits: 4, group_size: 64 });
    let (home, daemon, client) = model(&checkpoint).await;
    // As it is, and asked for as it is: nothing to do.
    let stored = client.load(request(&home), |_| ()).await.unwrap();
    let same = client.load(request(&home).quantise(scheme("affine", 4, 64)), |_| ()).await.unwrap();
    for component in [&stored, &same] {
        assert_eq!((component.info().computed_bytes, component.info().image.is_none()), (0, true));
    }
    let plain = client.load(request(&home).dequantise(), |_| ()).await.unwrap();
    let sound = tiny(2);
    for tensor in plain.tensors() {
        let expected = sound.component(ENCODER).tensor(tensor.source_name());
        assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::BF16, expected.shape.as_slice()), "{}", tensor.name());
    }
    assert_eq!(plain.tensors().len(), sound.component(ENCODER).tensors().len());
    assert_packed(&tensors(&daemon, request(&home).quantise(scheme("mxfp8", 0, 0))).await, ("mxfp8", 8, 32), LAYERS);
    assert_eq!(events(&client, EventKind::Derived).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn to_dequantise_what_is_plain_changes_nothing_and_is_remarked() {
    let (home, _daemon, client) = model(&tiny(1)).await;
    let plain = client.load(request(&home).dequantise(), |_| ()).await.unwrap();
    assert_eq!(plain.info().computed_bytes, 0);
    let remarks = &plain.audit().unwrap().remarks;
    assert!(remarks.iter().any(|remark| remark.contains("none was dequantised")), "{remarks:?}");
    // Together they contradict each other; an adapter or a dtype goes with either.
    let error = client.load(request(&home).dequantise().quantise(scheme("", 0, 0)), |_| ()).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::InvalidRequest), "{error}");
    let both = request(&home).dtype(FloatType::F32).quantise(scheme("", 0, 0));
    let both = client.load(both, |_| ()).await.unwrap();
    let floats = both.tensors().filter(|tensor| tensor.dtype() != Dtype::U32);
    assert!(
        floats.into_iter().all(|tensor| tensor.dtype() == Dtype::F32),
        "scales are of the dtype that was asked for"
    );
}
