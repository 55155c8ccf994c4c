//! Tensors as arrays of MLX.

mod nested;
mod report;

use std::{collections::HashMap, fmt, ops::Range, rc::Rc};

use mlx_rs::{
    Array,
    module::{FlattenedModuleParam, ModuleParam},
};
use thiserror::Error;
use weightsd_arrays::{Adopted, ArrayError, NotAdopted, bytes, copied};

pub use self::report::{AdoptionReport, Copied, CopyReason};
use crate::{Dtype, Tensor, Tensors, Tree, UnflattenError, tree};

/// Why tensors cannot be arrays of MLX.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ArraysError {
    /// A file cannot become memory of MLX.
    #[error("segment {segment} cannot be memory of MLX")]
    Segment {
        /// Its index in the component.
        segment: usize,
        /// Why not.
        #[source]
        source: ArrayError,
    },
    /// MLX has no such array.
    #[error("tensor {name:?} of {dtype} and shape {shape:?} cannot be an array of MLX")]
    Tensor {
        /// The tensor.
        name: String,
        /// Its dtype.
        dtype: Dtype,
        /// Its dimensions.
        shape: Vec<u64>,
        /// Why not.
        #[source]
        source: ArrayError,
    },
}

/// The tensors of a component as arrays of MLX, in the shared pages wherever MLX can have them there;
/// [`report`](Self::report) says of every tensor that was copied instead.
///
/// Dtypes are those that MLX has when it loads the same file: 8-bit floats come as their bytes. Arrays and their clones
/// stay valid after this value, the component, its lease and the daemon are gone; [`View`](weightsd_segment::View) says
/// what a mapping of a file cannot promise. No operation writes to the pages. If arrays outlive this value, call
/// [`release_unused`](crate::release_unused) after the last one to get the address space back at once.
pub struct Arrays {
    /// In the order of the tensors. The first field, so that arrays drop before the segments below them.
    arrays: Vec<Array>,
    /// The tensors' names, and the pages.
    tensors: Tensors,
    /// Keeps the pages, so that an array is never the last reference to them.
    _segments: Vec<Adopted>,
    report: AdoptionReport,
}

/// Where the bytes of an array lie.
enum Made {
    InPlace(Array),
    Copied(Array, CopyReason),
}

impl Tensors {
    /// The tensors as arrays of MLX over the same pages; see [`Arrays`].
    ///
    /// # Errors
    /// When a segment cannot become memory of MLX, or MLX has no such array.
    pub fn arrays(&self) -> Result<Arrays, ArraysError> {
        Arrays::new(self.clone())
    }
}

impl Arrays {
    pub(crate) fn new(tensors: Tensors) -> Result<Arrays, ArraysError> {
        let segments = adopt(&tensors)?;
        let mut arrays = Vec::with_capacity(tensors.len());
        let mut report = AdoptionReport::default();
        for tensor in tensors.iter() {
            let (segment, _) = tensor.place();
            let made = make(&tensor, &segments[segment]).map_err(|source| {
                let (name, shape) = (tensor.name().to_owned(), tensor.shape().to_vec());
                ArraysError::Tensor { name, dtype: tensor.dtype(), shape, source }
            })?;
            arrays.push(match made {
                Made::InPlace(array) => {
                    report.count_adopted(&tensor);
                    array
                }
                Made::Copied(array, why) => {
                    report.count_copied(&tensor, why);
                    array
                }
            });
        }
        Ok(Arrays { arrays, tensors, _segments: segments, report })
    }

    /// Number of arrays.
    pub fn len(&self) -> usize {
        self.arrays.len()
    }

    /// Whether the component has no arrays.
    pub fn is_empty(&self) -> bool {
        self.arrays.is_empty()
    }

    /// The array of that name.
    pub fn get(&self, name: &str) -> Option<&Array> {
        Some(&self.arrays[self.tensors.position(name)?])
    }

    /// All arrays with their names, in the order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Array)> + DoubleEndedIterator {
        self.tensors.iter().map(|tensor| tensor.name()).zip(&self.arrays)
    }

    /// The arrays in the shared pages, and the copies with their reasons.
    pub fn report(&self) -> &AdoptionReport {
        &self.report
    }

    /// The arrays by name, as modules of mlx-rs take them:
    /// [`update_flattened`](mlx_rs::module::ModuleParameters::update_flattened) leaves parameters alone that it is not
    /// given, and says nothing of names that it does not know.
    #[must_use]
    pub fn into_flattened(self) -> FlattenedModuleParam {
        let Arrays { arrays, tensors, .. } = self;
        tensors.iter().map(|tensor| Rc::from(tensor.name())).zip(arrays).collect::<HashMap<_, _>>()
    }

    /// The arrays as the maps that the dots in their names describe, as
    /// [`update`](mlx_rs::module::ModuleParameters::update) takes them. Numbers are keys like others.
    pub fn nested(&self) -> Result<ModuleParam, UnflattenError> {
        nested::nested(self.iter())
    }

    /// The arrays as the tree that the dots in their names describe; see [`Tensors::unflatten`].
    pub fn tree(&self) -> Result<Tree<&Array>, UnflattenError> {
        tree::unflatten(self.iter())
    }
}

/// Adopts, of each segment, the pages of its tensors.
fn adopt(tensors: &Tensors) -> Result<Vec<Adopted>, ArraysError> {
    let mut ranges: Vec<Vec<Range<u64>>> = vec![Vec::new(); tensors.views().len()];
    for tensor in tensors.iter() {
        let (segment, offset) = tensor.place();
        ranges[segment].push(offset..offset + tensor.bytes().len() as u64);
    }
    let adopted = |(segment, view): (usize, _)| {
        Adopted::new(view, &ranges[segment]).map_err(|source| ArraysError::Segment { segment, source })
    };
    tensors.views().iter().enumerate().map(adopted).collect()
}

fn make(tensor: &Tensor<'_>, segment: &Adopted) -> Result<Made, ArrayError> {
    let (dtype, shape) = (tensor.dtype(), tensor.shape());
    let copy = |why| Ok(Made::Copied(copied(dtype, shape, tensor.bytes())?, why));
    if tensor.bytes().is_empty() {
        return copy(CopyReason::Empty);
    }
    match segment.array(tensor.place().1, dtype, shape) {
        // Compare addresses, because MLX may accept memory and silently copy it.
        Ok(array) if bytes(&array)?.as_ptr() == tensor.bytes().as_ptr() => Ok(Made::InPlace(array)),
        Ok(array) => Ok(Made::Copied(array, CopyReason::Backend)),
        Err(ArrayError::NotAdopted(why)) => copy(why.into()),
        Err(ArrayError::Misaligned { .. }) => copy(CopyReason::Misaligned),
        Err(error) => Err(error),
    }
}

impl From<NotAdopted> for CopyReason {
    fn from(why: NotAdopted) -> CopyReason {
        match why {
            NotAdopted::Backend => CopyReason::Backend,
            NotAdopted::TooLong => CopyReason::TooLong,
            NotAdopted::Refused => CopyReason::Refused,
        }
    }
}

impl fmt::Debug for Arrays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrays").field("report", &self.report).finish_non_exhaustive()
    }
}
