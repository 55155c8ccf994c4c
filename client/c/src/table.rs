//! The tensors, layers and views of a component as C reads them: structs that stay where they are until the component
//! is freed, and whose pointers lead into the mapped files and into tables of the component.

use std::{
    collections::{BTreeMap, TryReserveError},
    ffi::{CString, c_char, c_void},
    ptr, slice,
};

use weightsd_client::{Tensors, proto};

use crate::{
    constants::{
        coding_role, dtype, mode, segment_kind, weightsd_coding_role, weightsd_dtype, weightsd_mode,
        weightsd_segment_kind,
    },
    error::Failure,
    outgoing,
};

/// A layer's coding: how its numbers are stored, and a tensor's part in that. Lives as long as its tensor.
#[repr(C)]
#[derive(Debug)]
pub struct weightsd_coding {
    /// The name of the format, such as "scaled FP8".
    pub format: *const c_char,
    /// One code: "E4M3", "E5M2", "I8", "I4", "U4" or "E2M1".
    pub codes: *const c_char,
    /// What says so: `.comfy_quant`, `_quantization_metadata`, `scaled_fp8`, its config or its tensors.
    pub provenance: *const c_char,
    /// The tensor's part in the layer.
    pub role: weightsd_coding_role,
    /// Columns of the groups in which the weight was rotated before it was quantised; 0 when it was not.
    pub rotation: u64,
    /// Rows and columns that share a scale, `block_rank` of them: the layer's own when all of it does.
    pub block: *const u64,
    /// Number of sides of a block; 0 when there is no scale.
    pub block_rank: usize,
    /// Dimensions of the layer's weight; `rank` of them.
    pub shape: *const u64,
    /// Number of dimensions.
    pub rank: usize,
}

/// One tensor. It and everything that it points at live until `weightsd_component_free`.
#[repr(C)]
#[derive(Debug)]
pub struct weightsd_tensor {
    /// Its name in the layout that was asked for, in UTF-8.
    pub name: *const c_char,
    /// The name's length in bytes, without the null at its end.
    pub name_length: usize,
    /// Its name in the checkpoint.
    pub source_name: *const c_char,
    /// The type of its elements.
    pub dtype: weightsd_dtype,
    /// Whether its first byte is aligned for its type. If not, copy its bytes before reading elements.
    pub is_aligned: bool,
    /// The type's name in safetensors, such as "BF16".
    pub dtype_name: *const c_char,
    /// Its dimensions, row-major; `rank` of them.
    pub shape: *const u64,
    /// Number of dimensions; 0 for a scalar.
    pub rank: usize,
    /// Its bytes, little endian, row-major, without gaps, in pages that all processes share. Read only: writing ends the
    /// process.
    pub data: *const c_void,
    /// Number of its bytes.
    pub length: usize,
    /// Number of its segment.
    pub segment: usize,
    /// Where its bytes begin in that segment.
    pub offset: u64,
    /// The coding of the layer that it is a part of; null unless the layer is stored in a format that MLX does not have and
    /// that the daemon makes plain on demand.
    pub coding: *const weightsd_coding,
}

/// A layer that is quantised in a format of MLX. Lives as long as its tensors.
#[repr(C)]
#[derive(Debug)]
pub struct weightsd_layer {
    /// The common beginning of its tensors' names, without the dot.
    pub name: *const c_char,
    /// How its codes stand for numbers.
    pub mode: weightsd_mode,
    /// Bits of a code.
    pub bits: u32,
    /// Weights that share a scale.
    pub group_size: u32,
    /// Dimensions of the weight before it was quantised; `rank` of them.
    pub shape: *const u64,
    /// Number of dimensions.
    pub rank: usize,
    /// The packed codes.
    pub weight: *const weightsd_tensor,
    /// One number for each group.
    pub scales: *const weightsd_tensor,
    /// A second number for each group; null unless the mode is AFFINE.
    pub biases: *const weightsd_tensor,
    /// A factor on the scales; null where there is none.
    pub global_scale: *const weightsd_tensor,
}

/// The view of a segment: its file, mapped whole. Lives as long as its tensors.
#[repr(C)]
#[derive(Debug)]
pub struct weightsd_view {
    /// Its path when it was lent.
    pub path: *const c_char,
    /// Its first byte, at the beginning of a page. Read only.
    pub data: *const c_void,
    /// Its length in bytes.
    pub length: usize,
    /// Where its bytes come from.
    pub kind: weightsd_segment_kind,
}

/// All of them. The pointers inside lead into `texts`, `shapes`, and into the [`Tensors`] that the owner keeps beside.
#[derive(Debug)]
pub(crate) struct Table {
    tensors: Vec<weightsd_tensor>,
    layers: Vec<weightsd_layer>,
    views: Vec<weightsd_view>,
    _names: Vec<u8>,
    _texts: Vec<CString>,
    _shapes: Vec<Vec<u64>>,
    _codings: Vec<weightsd_coding>,
}

impl Table {
    /// The table of these tensors, which must be kept for as long as it.
    ///
    /// # Errors
    /// When memory runs out, or a layer lacks a part.
    pub(crate) fn new(tensors: &Tensors, info: &proto::Component) -> Result<Table, Failure> {
        let names = names(tensors)?;
        let mut texts = Vec::new();
        let codings = codings(tensors, &mut texts);
        let listed = list(tensors, &names, &codings)?;
        let mut table = Table {
            tensors: listed,
            layers: Vec::new(),
            views: Vec::new(),
            _names: names,
            _texts: texts,
            _shapes: Vec::new(),
            _codings: codings,
        };
        table.add_layers(tensors)?;
        table.add_views(tensors, info)?;
        Ok(table)
    }

    fn add_layers(&mut self, tensors: &Tensors) -> Result<(), Failure> {
        for layer in tensors.quantised_layers()? {
            let name = outgoing::text(layer.name);
            let shape = layer.packing.logical_shape.clone();
            let part = |name: &str| self.named(name.as_bytes()).map_or(ptr::null(), ptr::from_ref);
            let other = |tensor: Option<weightsd_client::Tensor<'_>>| tensor.map_or(ptr::null(), |it| part(it.name()));
            let made = weightsd_layer {
                name: name.as_ptr(),
                mode: mode(layer.packing.mode),
                bits: layer.packing.bits,
                group_size: layer.packing.group_size,
                shape: shape.as_ptr(),
                rank: shape.len(),
                weight: part(layer.weight.name()),
                scales: part(layer.scales.name()),
                biases: other(layer.biases),
                global_scale: other(layer.global_scale),
            };
            // What the pointers lead to is on the heap and does not move with its owner.
            self._texts.push(name);
            self._shapes.push(shape);
            self.layers.push(made);
        }
        Ok(())
    }

    fn add_views(&mut self, tensors: &Tensors, info: &proto::Component) -> Result<(), Failure> {
        for (view, segment) in tensors.views().iter().zip(&info.segments) {
            let path = outgoing::text(segment.path.as_str());
            self.views.push(weightsd_view {
                path: path.as_ptr(),
                data: view.as_ptr().cast(),
                length: view.len(),
                kind: segment_kind(segment.kind),
            });
            self._texts.push(path);
        }
        Ok(())
    }

    pub(crate) fn tensors(&self) -> &[weightsd_tensor] {
        &self.tensors
    }

    pub(crate) fn layers(&self) -> &[weightsd_layer] {
        &self.layers
    }

    pub(crate) fn views(&self) -> &[weightsd_view] {
        &self.views
    }

    /// The tensor of that name.
    pub(crate) fn named(&self, name: &[u8]) -> Option<&weightsd_tensor> {
        // The client sorts them by the bytes of their names.
        let found = self.tensors.binary_search_by(|tensor| {
            // SAFETY: the name and its length are those of `list`, in `_names`, which this table keeps.
            let bytes = unsafe { slice::from_raw_parts(tensor.name.cast::<u8>(), tensor.name_length) };
            bytes.cmp(name)
        });
        found.ok().map(|at| &self.tensors[at])
    }
}

impl From<TryReserveError> for Failure {
    fn from(_: TryReserveError) -> Failure {
        Failure::Memory
    }
}

/// All names, each with a null behind it: of each tensor its own, and its name in the checkpoint where that differs.
fn names(tensors: &Tensors) -> Result<Vec<u8>, Failure> {
    let differs = |tensor: &weightsd_client::Tensor<'_>| tensor.source_name() != tensor.name();
    let length = |tensor: weightsd_client::Tensor<'_>| {
        tensor.name().len() + 1 + if differs(&tensor) { tensor.source_name().len() + 1 } else { 0 }
    };
    let mut names = Vec::new();
    names.try_reserve_exact(tensors.iter().map(length).sum())?;
    for tensor in tensors.iter() {
        names.extend_from_slice(tensor.name().as_bytes());
        names.push(0);
        if differs(&tensor) {
            names.extend_from_slice(tensor.source_name().as_bytes());
            names.push(0);
        }
    }
    Ok(names)
}

/// The codings of the tensors that have one, in the order of the tensors. Their texts, each once, are added to `texts`; their
/// blocks and shapes are those of the [`Tensors`].
fn codings(tensors: &Tensors, texts: &mut Vec<CString>) -> Vec<weightsd_coding> {
    let mut known: BTreeMap<&str, *const c_char> = BTreeMap::new();
    let mut made = Vec::new();
    for coding in tensors.iter().filter_map(|tensor| tensor.coding()) {
        let [format, codes, provenance] = [&coding.format, &coding.codes, &coding.provenance].map(|text| {
            *known.entry(text).or_insert_with(|| {
                let owned = outgoing::text(text.as_str());
                let pointer = owned.as_ptr();
                texts.push(owned);
                pointer
            })
        });
        made.push(weightsd_coding {
            format,
            codes,
            provenance,
            role: coding_role(coding.role),
            rotation: coding.rotation,
            block: coding.block.as_ptr(),
            block_rank: coding.block.len(),
            shape: coding.logical_shape.as_ptr(),
            rank: coding.logical_shape.len(),
        });
    }
    made
}

/// The tensors, with their names in `names` and their codings in `codings`, both in the order of the tensors.
fn list(tensors: &Tensors, names: &[u8], codings: &[weightsd_coding]) -> Result<Vec<weightsd_tensor>, Failure> {
    let mut listed = Vec::new();
    listed.try_reserve_exact(tensors.len())?;
    let (mut rest, mut codings) = (names, codings.iter());
    for tensor in tensors.iter() {
        let name: *const c_char = rest.as_ptr().cast();
        rest = &rest[tensor.name().len() + 1..];
        let mut source_name = name;
        if tensor.source_name() != tensor.name() {
            source_name = rest.as_ptr().cast();
            rest = &rest[tensor.source_name().len() + 1..];
        }
        let (number, dtype_name) = dtype(tensor.dtype());
        let (segment, offset) = tensor.place();
        listed.push(weightsd_tensor {
            name,
            name_length: tensor.name().len(),
            source_name,
            dtype: number,
            is_aligned: tensor.is_aligned(),
            dtype_name: dtype_name.as_ptr().cast(),
            shape: tensor.shape().as_ptr(),
            rank: tensor.shape().len(),
            data: tensor.bytes().as_ptr().cast(),
            length: tensor.bytes().len(),
            segment,
            offset,
            coding: tensor.coding().and_then(|_| codings.next()).map_or(ptr::null(), ptr::from_ref),
        });
    }
    Ok(listed)
}
