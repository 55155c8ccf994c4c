//! Quantised layers: which tensors belong together, and how their codes stand for numbers.

use std::collections::BTreeMap;

use weightsd_proto::v1::{Packing, PackingRole};

use crate::{ProtocolError, Tensor};

/// A quantised layer in a format of MLX, with all of its tensors.
#[derive(Debug, Clone, Copy)]
pub struct QuantisedLayer<'a> {
    /// The common beginning of its tensors' names, without the dot.
    pub name: &'a str,
    /// Mode, bits, group size, and the shape that the weight had before it was quantised.
    pub packing: &'a Packing,
    /// The packed codes, U32.
    pub weight: Tensor<'a>,
    /// One number for each group.
    pub scales: Tensor<'a>,
    /// A second number for each group; only in affine quantisation.
    pub biases: Option<Tensor<'a>>,
    /// A factor on the scales; only in nvfp4, and there not always.
    pub global_scale: Option<Tensor<'a>>,
}

#[derive(Default)]
struct Parts<'a> {
    weight: Option<(Tensor<'a>, &'a Packing)>,
    scales: Option<Tensor<'a>>,
    biases: Option<Tensor<'a>>,
    global_scale: Option<Tensor<'a>>,
}

/// Puts the parts of each layer together, in the order of the layers' names.
pub(crate) fn layers<'a>(tensors: impl Iterator<Item = Tensor<'a>>) -> Result<Vec<QuantisedLayer<'a>>, ProtocolError> {
    let mut found: BTreeMap<&str, Parts<'_>> = BTreeMap::new();
    for tensor in tensors {
        let Some(packing) = tensor.packing() else { continue };
        let layer = tensor.name().rsplit_once('.').map_or("", |(layer, _)| layer);
        let parts = found.entry(layer).or_default();
        match packing.role() {
            PackingRole::Weight => parts.weight = Some((tensor, packing)),
            PackingRole::Scales => parts.scales = Some(tensor),
            PackingRole::Biases => parts.biases = Some(tensor),
            PackingRole::GlobalScale => parts.global_scale = Some(tensor),
            // The part of a format that a later daemon knows: without it the numbers would be others.
            PackingRole::Unspecified => return Err(ProtocolError::UnknownPart { name: tensor.name().to_owned() }),
        }
    }
    let layer = |(name, parts): (&'a str, Parts<'a>)| {
        let (Some((weight, packing)), Some(scales)) = (parts.weight, parts.scales) else {
            return Err(ProtocolError::TornLayer { name: name.to_owned() });
        };
        Ok(QuantisedLayer { name, packing, weight, scales, biases: parts.biases, global_scale: parts.global_scale })
    };
    found.into_iter().map(layer).collect()
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;
    use weightsd_proto::v1::TensorOperation;

    use super::*;
    use crate::table::Entry;

    fn entry(name: &str, role: PackingRole) -> Entry {
        let packing = Packing { bits: 4, group_size: 64, role: role.into(), ..Packing::default() };
        Entry {
            name: name.into(),
            source_name: String::new(),
            dtype: Dtype::U8,
            shape: vec![0],
            segment: 0,
            offset: 0,
            length: 0,
            operation: TensorOperation::Unspecified,
            packing: Some(Box::new(packing)),
            coding: None,
        }
    }

    fn of(entries: &[Entry]) -> Result<Vec<QuantisedLayer<'_>>, ProtocolError> {
        layers(entries.iter().map(|entry| Tensor { entry, bytes: &[] }))
    }

    #[test]
    fn parts_are_put_together_across_other_names() {
        use PackingRole::{Biases, Scales, Weight};
        let plain = Entry { packing: None, ..entry("a.norm.weight", Weight) };
        let entries = [
            entry("a.biases", Biases),
            plain,
            entry("a.scales", Scales),
            entry("a.sub.scales", Scales),
            entry("a.sub.weight", Weight),
            entry("a.weight", Weight),
        ];
        let found = of(&entries).unwrap();
        assert_eq!(found.iter().map(|layer| layer.name).collect::<Vec<_>>(), ["a", "a.sub"]);
        assert_eq!((found[0].weight.name(), found[0].scales.name()), ("a.weight", "a.scales"));
        assert!(found[0].biases.is_some() && found[1].biases.is_none());
        assert_eq!((found[0].packing.bits, found[0].packing.group_size), (4, 64));
    }

    #[test]
    fn a_layer_that_lacks_a_part_is_refused() {
        for entries in [[entry("a.weight", PackingRole::Weight)], [entry("a.scales", PackingRole::Scales)]] {
            assert_eq!(of(&entries).unwrap_err(), ProtocolError::TornLayer { name: "a".into() });
        }
        let unknown = [entry("a.codebook", PackingRole::Unspecified)];
        assert_eq!(of(&unknown).unwrap_err(), ProtocolError::UnknownPart { name: "a.codebook".into() });
    }
}
