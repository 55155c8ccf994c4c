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
    use weightsd_proto::v1;

    use super::*;
    use crate::{Tensors, table::Table};

    fn part(name: &str, role: PackingRole) -> v1::Tensor {
        let packing = Packing { bits: 4, group_size: 64, role: role.into(), ..Packing::default() };
        let (name, dtype, shape) = (name.into(), "U8".into(), vec![0]);
        v1::Tensor { name, dtype, shape, packing: Some(packing), ..v1::Tensor::default() }
    }

    fn of(parts: &[v1::Tensor]) -> Tensors {
        let file = weightsd_segment::sealed(b"x").unwrap();
        let view = weightsd_segment::View::map_sealed(&file).unwrap();
        Tensors::new(vec![view], Table::of_pages(parts.to_vec(), &[1]).unwrap())
    }

    #[test]
    fn parts_are_put_together_across_other_names() {
        use PackingRole::{Biases, Scales, Weight};
        let plain = v1::Tensor { packing: None, ..part("a.norm.weight", Weight) };
        let parts = [
            part("a.biases", Biases),
            plain,
            part("a.scales", Scales),
            part("a.sub.scales", Scales),
            part("a.sub.weight", Weight),
            part("a.weight", Weight),
        ];
        let tensors = of(&parts);
        let found = tensors.quantised_layers().unwrap();
        assert_eq!(found.iter().map(|layer| layer.name).collect::<Vec<_>>(), ["a", "a.sub"]);
        assert_eq!((found[0].weight.name(), found[0].scales.name()), ("a.weight", "a.scales"));
        assert!(found[0].biases.is_some() && found[1].biases.is_none());
        assert_eq!((found[0].packing.bits, found[0].packing.group_size), (4, 64));
    }

    #[test]
    fn a_layer_that_lacks_a_part_is_refused() {
        for parts in [[part("a.weight", PackingRole::Weight)], [part("a.scales", PackingRole::Scales)]] {
            assert_eq!(of(&parts).quantised_layers().unwrap_err(), ProtocolError::TornLayer { name: "a".into() });
        }
        let unknown = [part("a.codebook", PackingRole::Unspecified)];
        assert_eq!(
            of(&unknown).quantised_layers().unwrap_err(),
            ProtocolError::UnknownPart { name: "a.codebook".into() }
        );
    }
}
