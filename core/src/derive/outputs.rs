//! The tensors that a job makes, and the tensors that it reads.

use super::{Job, Output, Slice};
use crate::{
    axes::Axes,
    header::Dtype,
    place::{Making, Placed, Stored},
    quantisation::{Packed, Scheme, SlotSpec},
};

/// A job, and for each of its outputs a tensor like it.
pub(super) type Planned = (Job, Vec<Placed>);

/// The outputs of a job, and what they are like.
pub(super) fn outputs(
    like: &Placed,
    dtype: Dtype,
    shape: &[u64],
    quantise: Option<Scheme>,
) -> (Vec<Output>, Vec<Placed>) {
    let output = |name: String, dtype, shape: Vec<u64>| Output { name, dtype, shape, range: 0..0 };
    let layer = |name: &str| {
        let suffix = like.packed.as_deref().and_then(|packed| packed.scheme.slot(packed.role));
        let suffix = suffix.map_or(crate::layer_name::WEIGHT, |slot| slot.suffix);
        name.strip_suffix(suffix).unwrap_or(name).to_owned()
    };
    let Some(scheme) = quantise else {
        let model = Placed { packed: None, ..like.clone() };
        return (vec![output(like.name.clone(), dtype, shape.to_vec())], vec![model]);
    };
    let slot = |slot: &SlotSpec| {
        let packed = Packed { scheme, role: slot.role, logical_shape: shape.to_vec() };
        let model = Placed {
            canonical: format!("{}{}", layer(&like.canonical), slot.suffix).into(),
            packed: Some(Box::new(packed)),
            ..like.clone()
        };
        let shape = scheme.shape_of(slot.role, shape).unwrap_or_default();
        (output(format!("{}{}", layer(&like.name), slot.suffix), slot.dtype.written(dtype), shape), model)
    };
    scheme.slots().map(slot).unzip()
}

/// How the dimensions of a tensor have to be reordered.
pub(super) fn reordered(placed: &Placed) -> Option<Axes> {
    match placed.making {
        Making::ToReorder(axes) => Some(axes),
        Making::AsStored => None,
    }
}

/// The bytes of a tensor where they lie.
pub(super) fn slice(placed: &Placed) -> Slice {
    let stored = reordered(placed).and_then(|axes| axes.inverse().ordered(&placed.shape));
    let shape = stored.unwrap_or_else(|| placed.shape.clone());
    let Stored { source, range } = placed.at.clone();
    Slice { source, range, dtype: placed.dtype, shape }
}
