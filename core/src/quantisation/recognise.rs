//! Which layers are quantised, and in which format, by the names and dtypes of their tensors. Shapes and declarations are
//! compared in [`crate::layers`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use super::{
    format::{Format, SlotSpec, Spelling},
    formats::FORMATS,
};
use crate::header::TensorInfo;

/// The suffixes of all slots.
static SUFFIXES: LazyLock<BTreeSet<&'static str>> =
    LazyLock::new(|| FORMATS.iter().flat_map(|format| format.slots).map(|slot| slot.suffix).collect());

/// A layer in a format, with the tensors that belong to it.
#[derive(Debug, Clone)]
pub struct Recognised<'a> {
    /// The format. If several formats of MLX have the same names and dtypes, it is the first: shapes and declarations tell
    /// them apart.
    pub format: &'static Format,
    /// Its tensors.
    pub slots: Vec<(&'static SlotSpec, &'a TensorInfo)>,
}

impl<'a> Recognised<'a> {
    /// The slot whose tensor has that name.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<(&'static SlotSpec, &'a TensorInfo)> {
        self.slots.iter().copied().find(|(_, info)| *info.name == *name)
    }
}

/// The quantised layers among `tensors`, by name. `method` is the word by which a config names their format: it decides
/// where several formats have the same slots.
#[must_use]
pub fn recognise<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a TensorInfo)>,
    method: Option<&str>,
) -> BTreeMap<&'a str, Recognised<'a>> {
    recognise_called(tensors, |_| method)
}

/// As [`recognise`]; `called` gives the word by which a mark, or else the config, names the format of a layer.
#[must_use]
pub fn recognise_called<'a, 'w>(
    tensors: impl IntoIterator<Item = (&'a str, &'a TensorInfo)>,
    called: impl Fn(&str) -> Option<&'w str>,
) -> BTreeMap<&'a str, Recognised<'a>> {
    let mut layers: BTreeMap<&str, BTreeMap<&'static str, &TensorInfo>> = BTreeMap::new();
    for (name, info) in tensors {
        for &suffix in SUFFIXES.iter() {
            let layer = name.strip_suffix(suffix).filter(|layer| !layer.is_empty() && !layer.ends_with('.'));
            if let Some(layer) = layer {
                layers.entry(layer).or_default().insert(suffix, info);
            }
        }
    }
    let format = |layer: &str, found: &BTreeMap<&'static str, &'a TensorInfo>| {
        let is = |slot: &SlotSpec| found.get(slot.suffix).is_some_and(|info| slot.dtype.allows(info.dtype));
        let mut fitting = FORMATS.iter().filter(|format| format.required().all(is));
        let first = fitting.clone().next()?;
        let word = called(layer);
        let declared = fitting.find(|format| word.is_some_and(|word| format.is_called(word)));
        Some(declared.unwrap_or(first))
    };
    layers
        .into_iter()
        .filter_map(|(layer, found)| {
            let format = format(layer, &found)?;
            let slots = format.slots.iter().filter_map(|slot| Some((slot, *found.get(slot.suffix)?))).collect();
            Some((layer, Recognised { format, slots }))
        })
        .collect()
}

/// The layer that a tensor of that name belongs to, if its name is one that only slots of quantised layers have.
#[must_use]
pub fn side_layer(name: &str) -> Option<&str> {
    let slots = FORMATS.iter().flat_map(|format| format.slots).filter(|slot| slot.spelling == Spelling::Own);
    // The longest suffix counts: the layer of `a.weight.absmax` is `a`.
    let longest = slots.filter(|slot| name.ends_with(slot.suffix)).max_by_key(|slot| slot.suffix.len())?;
    name.strip_suffix(longest.suffix).filter(|layer| !layer.is_empty() && !layer.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Dtype;

    /// Tensors of one layer `l`, by suffix.
    fn named(slots: &[(&str, Dtype)], method: Option<&str>) -> Option<&'static str> {
        let tensor = |(suffix, dtype): &(&str, Dtype)| TensorInfo {
            name: format!("l{suffix}").into(),
            dtype: *dtype,
            shape: vec![1],
            range: 0..1,
            encoding: None,
        };
        let tensors: Vec<TensorInfo> = slots.iter().map(tensor).collect();
        let found = recognise(tensors.iter().map(|info| (&*info.name, info)), method);
        found.get("l").map(|found| found.format.name)
    }

    #[test]
    fn each_format_has_a_name_of_its_own() {
        let mut names: Vec<String> = FORMATS.iter().map(|format| format.name.to_lowercase()).collect();
        names.sort_unstable();
        assert_eq!(names.windows(2).find(|pair| pair[0] == pair[1]), None);
    }

    #[test]
    fn each_format_is_told_by_its_parts() {
        use Dtype::{BF16, F8_E4M3, F8_E8M0, F16, F32, I8, I32, U8, U32};
        type Case<'a> = (&'a [(&'a str, Dtype)], Option<&'a str>);
        let cases: &[Case<'_>] = &[
            (&[(".weight", U32), (".scales", F16), (".biases", F16)], Some("affine")),
            (&[(".weight", U32), (".scales", U8)], Some("mxfp4")),
            (&[(".qweight", I32), (".qzeros", I32), (".scales", F16), (".g_idx", I32)], Some("GPTQ")),
            (&[(".qweight", I32), (".qzeros", I32), (".scales", F16)], Some("AWQ")),
            (&[(".weight", U8), (".weight.absmax", F32)], Some("bitsandbytes 4-bit")),
            (&[(".weight", I8), (".SCB", F32)], Some("bitsandbytes 8-bit")),
            (&[(".weight_packed", I32), (".weight_scale", BF16)], Some("compressed-tensors")),
            (&[(".weight", U8), (".weight_scale", F8_E4M3), (".weight_scale_2", F32)], Some("NVFP4 with two scales")),
            (&[(".weight", F8_E4M3), (".weight_scale", F8_E8M0)], Some("MXFP8 in 8-bit floats")),
            (&[(".weight", F8_E4M3), (".weight_scale", F32), (".comfy_quant", U8)], Some("scaled FP8")),
            (&[(".weight", F8_E4M3), (".scale_weight", F32)], Some("scaled FP8 of early ComfyUI")),
            (&[(".weight", F8_E4M3), (".weight_scale_inv", BF16)], Some("FP8 in blocks")),
            (&[(".weight", F8_E4M3), (".weight_scale_inv", F8_E8M0)], Some("FP8 in blocks")),
            (&[(".weight", F8_E4M3), (".scale", F8_E8M0)], Some("FP8 of DeepSeek")),
            (&[(".weight", F8_E4M3), (".scale", F32)], Some("FP8 of DeepSeek")),
            (&[(".weight", I8), (".scale", F8_E8M0)], Some("MXFP4 of DeepSeek")),
            (&[(".weight", F8_E4M3)], Some("FP8 without a scale")),
            (&[(".weight", I8), (".weight_scale", F32)], Some("scaled INT8")),
            (&[("_blocks", U8), ("_scales", U8)], Some("MXFP4 in blocks")),
            // A codec, a norm, and what is left of a layer.
            (&[(".weight", F32), (".scales", F32)], None),
            (&[(".scales", F32)], None),
            (&[(".weight", BF16), (".bias", BF16)], None),
            (&[(".weight", F32), (".scale", F32)], None),
            (&[(".weight_scale", F32)], None),
        ];
        for (slots, expected) in cases {
            assert_eq!(named(slots, None), *expected, "{slots:?}");
        }
        let alike = [(".weight", U8), (".weight_scale", BF16)];
        assert_eq!(named(&alike, Some("bitnet")), Some("BitNet"));
    }

    #[test]
    fn a_method_that_a_config_names_decides_between_formats_of_the_same_parts() {
        let slots = [(".weight", Dtype::F8_E4M3), (".weight_scale", Dtype::BF16)];
        assert_eq!(named(&slots, Some("modelopt")), Some("scaled FP8"));
        let slots = [(".weight", Dtype::F8_E4M3), (".weight_scale_inv", Dtype::F32)];
        assert_eq!(named(&slots, Some("fp8")), Some("FP8 in blocks"), "both are called fp8: the slots tell");
    }
}
