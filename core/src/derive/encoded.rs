//! Tensors whose bytes are not their elements, such as the blocks of a GGUF file: they are always computed, as layers of
//! MLX where that loses nothing and somebody wants such layers, and as floats everywhere else.

use super::{
    CannotConvert, Conversion, Delta, Input, Job, Merged, Packing, Slice,
    outputs::{Planned, outputs, reordered},
};
use crate::{
    ggml::{BlockType, Encoding},
    header::Dtype,
    layer_name::layer_of,
    place::{Placed, Stored},
    quantisation::{Scheme, exact_scheme},
    shown::shown,
};

/// What becomes of encoded layers that MLX's quantisation can say exactly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExactLayers {
    /// They stay quantised.
    Packed,
    /// They become floats, for a caller without modules for quantised layers.
    #[default]
    Plain,
}

/// What is to be done with an encoded tensor.
pub(super) fn encoded(
    placed: &Placed,
    encoding: Encoding,
    (conversion, layers): (&Conversion, ExactLayers),
    asked: Option<Scheme>,
    deltas: Vec<Delta>,
) -> Result<Planned, CannotConvert> {
    if !encoding.blocks.is_decoded() {
        let name = shown(placed.source_name.as_ref().unwrap_or(&placed.name));
        return Err(CannotConvert::Blocks { name, kind: encoding.blocks });
    }
    let reorder = reordered(placed);
    let is_layer = layer_of(&placed.canonical).is_some() && reorder.is_none();
    let exact = exact_scheme(&encoding, &placed.shape).filter(|_| is_layer);
    let quantise = match (&conversion.packing, asked) {
        (_, Some(asked)) => Some(asked),
        (Packing::Plain, None) => None,
        (_, None) if !deltas.is_empty() && conversion.merged == Merged::Plain => None,
        (_, None) if layers == ExactLayers::Packed => exact,
        (_, None) => None,
    };
    let wanted = conversion.dtype.map(super::Float::dtype);
    let (dtype, cast) = match quantise {
        // As it was: a layer of half floats, with the bits that the file has or anew.
        Some(scheme) if exact == Some(scheme) => (Dtype::F16, (!deltas.is_empty()).then_some(Dtype::F16)),
        _ => {
            let dtype = wanted.unwrap_or(placed.dtype);
            // Whatever it is, decoding makes F32 of it.
            (dtype, (dtype != Dtype::F32).then_some(dtype))
        }
    };
    let (outputs, models) = outputs(placed, dtype, &placed.shape, quantise);
    let models = models.into_iter().map(|model| Placed { encoding: None, ..model }).collect();
    let shape = reorder.and_then(|axes| axes.inverse().ordered(&placed.shape)).unwrap_or_else(|| placed.shape.clone());
    let Stored { source, range } = placed.at.clone();
    let bytes = range.end - range.start;
    let slice = Slice { source, range, dtype: Dtype::U8, shape: vec![bytes] };
    let input = Input::Encoded { slice, encoding, shape };
    Ok((Job { input, deltas, cast, reorder, quantise, outputs }, models))
}

/// Says what became of encoded tensors: which types the file has, and as what they are lent.
pub(super) fn told(jobs: &[Planned]) -> Option<String> {
    let encoded = jobs.iter().filter_map(|(job, _)| match &job.input {
        Input::Encoded { encoding, .. } if !encoding.blocks.is_plain_float() => Some((job, encoding.blocks)),
        _ => None,
    });
    let (exact, plain): (Vec<_>, Vec<_>) = encoded.partition(|(job, _)| job.is_exact());
    let kinds = |of: &[(&Job, BlockType)]| {
        let mut kinds: Vec<&str> = of.iter().map(|(_, kind)| kind.name()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds.join(", ")
    };
    let exact_told = (!exact.is_empty())
        .then(|| format!("{} layers of {} are lent as MLX's affine layers, bit for bit", exact.len(), kinds(&exact)));
    let quantised = plain.iter().filter(|(job, _)| job.quantise.is_some()).count();
    let dtypes = || {
        let plain = plain.iter().filter(|(job, _)| job.quantise.is_none());
        let mut dtypes: Vec<String> = plain.flat_map(|(job, _)| &job.outputs).map(|it| it.dtype.to_string()).collect();
        dtypes.sort_unstable();
        dtypes.dedup();
        dtypes.join(", ")
    };
    let plain_told = (plain.len() > quantised)
        .then(|| format!("{} tensors of {} are dequantised to {}", plain.len() - quantised, kinds(&plain), dtypes()));
    let told: Vec<String> = exact_told.into_iter().chain(plain_told).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        derive::{self, Alignment, CodedLayers, Converted, Float, Held, LayerFilter, Rule, Setting},
        place::{At, Making},
        quantisation::Mode,
        source::SourceId,
    };

    fn placed(name: &str, kind: BlockType, shape: &[u64]) -> Placed {
        let bytes = kind.length(shape.iter().product()).unwrap();
        Placed {
            name: name.to_owned(),
            canonical: name.into(),
            source_name: None,
            making: Making::AsStored,
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            at: Stored { source: SourceId(0), range: 64..64 + bytes },
            origin: None,
            packed: None,
            coded: None,
            encoding: Some(Encoding::of(kind)),
        }
    }

    fn run(tensors: Vec<Placed>, conversion: &Conversion, layers: ExactLayers) -> Result<Converted, CannotConvert> {
        let (opaque, deltas, metadata) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let quantises = |_: &str| true;
        let (rule, alignment, files) = (Rule::Family, Alignment::Mended, Held::Otherwise);
        let coded = CodedLayers::Plain;
        let setting =
            Setting { quantises: &quantises, rule, opaque: &opaque, coded, alignment, deltas, metadata, files, layers };
        derive::plan(tensors, conversion, setting)
    }

    fn job(converted: &Converted) -> &Job {
        &converted.derivation.as_ref().unwrap().jobs[0]
    }

    #[test]
    fn what_mlx_can_say_exactly_stays_quantised_where_layers_are_wanted() {
        let tensors = || vec![placed("a.weight", BlockType::Q8_0, &[4, 64])];
        let found = run(tensors(), &Conversion::default(), ExactLayers::Packed).unwrap();
        assert!(job(&found).is_exact() && !job(&found).needs_engine());
        let shapes: Vec<_> = found.tensors.iter().map(|it| (it.name.as_str(), it.dtype, it.shape.as_slice())).collect();
        let expected: [(&str, Dtype, &[u64]); 3] =
            [("a.biases", Dtype::F16, &[4, 2]), ("a.scales", Dtype::F16, &[4, 2]), ("a.weight", Dtype::U32, &[4, 16])];
        assert_eq!(shapes, expected);
        assert!(found.tensors.iter().all(|it| it.packed.is_some() && matches!(it.at, At::Derived(_))));
        assert!(
            found.remarks.iter().any(|said| said.contains("Q8_0") && said.contains("affine")),
            "{:?}",
            found.remarks
        );

        let found = run(tensors(), &Conversion::default(), ExactLayers::Plain).unwrap();
        assert_eq!((found.tensors[0].dtype, found.tensors[0].shape.as_slice()), (Dtype::F32, &[4, 64][..]));
        let plain = Conversion { packing: Packing::Plain, dtype: Some(Float::Bf16), ..Conversion::default() };
        let found = run(tensors(), &plain, ExactLayers::Packed).unwrap();
        assert_eq!((found.tensors[0].dtype, job(&found).needs_engine()), (Dtype::BF16, false));
        assert!(found.remarks.iter().all(|said| !said.contains("no layer is quantised")), "{:?}", found.remarks);
    }

    #[test]
    fn other_blocks_become_floats_and_are_quantised_when_that_is_asked() {
        let tensors = || vec![placed("a.weight", BlockType::Q6_K, &[4, 256])];
        let found = run(tensors(), &Conversion::default(), ExactLayers::Packed).unwrap();
        assert_eq!((found.tensors[0].dtype, job(&found).needs_engine()), (Dtype::F32, false));
        let scheme = Scheme::new(Mode::Affine, Some(4), Some(64)).unwrap();
        let quantised = Conversion {
            packing: Packing::Quantised(scheme, LayerFilter::default()),
            dtype: Some(Float::Bf16),
            ..Conversion::default()
        };
        let found = run(tensors(), &quantised, ExactLayers::Packed).unwrap();
        assert!(job(&found).needs_engine() && job(&found).cast == Some(Dtype::BF16));
        assert_eq!(found.tensors.len(), 3);
    }

    #[test]
    fn a_scheme_that_the_blocks_already_have_is_kept_bit_for_bit() {
        let scheme = Scheme::new(Mode::Affine, Some(8), Some(32)).unwrap();
        let packing = Packing::Quantised(scheme, LayerFilter::default());
        let asked = Conversion { packing, dtype: Some(Float::Bf16), ..Conversion::default() };
        let found = run(vec![placed("a.weight", BlockType::Q8_0, &[4, 64])], &asked, ExactLayers::Plain).unwrap();
        assert!(job(&found).is_exact());
    }

    #[test]
    fn types_without_known_numbers_and_vectors_are_not_packed() {
        let refused =
            run(vec![placed("a.weight", BlockType::IQ2_XS, &[1, 256])], &Conversion::default(), ExactLayers::Packed);
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("IQ2_XS") && error.to_string().contains("a.weight"), "{error}");
        for tensor in [placed("a.weight", BlockType::Q8_0, &[64]), placed("a.token", BlockType::Q8_0, &[2, 64])] {
            let found = run(vec![tensor], &Conversion::default(), ExactLayers::Packed).unwrap();
            assert_eq!(found.tensors[0].dtype, Dtype::F32);
        }
    }
}
