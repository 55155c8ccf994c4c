//! One tensor, as bytes or as a typed slice over the shared pages.

use std::{any::type_name, fmt};

use safetensors::Dtype;
use thiserror::Error;
use weightsd_core::sheet::Row;
use weightsd_proto::v1::{Coding, Packing, TensorOperation};

use crate::Element;

/// A tensor cannot be seen as a slice of that type.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ViewError {
    /// Its elements are something else.
    #[error("tensor {name:?} is {dtype}, which {element} cannot stand for")]
    WrongDtype {
        /// The tensor.
        name: String,
        /// Its dtype.
        dtype: Dtype,
        /// The type that was asked for.
        element: &'static str,
    },
    /// Its first byte is not aligned for the type. safetensors files may place tensors anywhere.
    #[error(
        "tensor {name:?} begins at address {address:#x}, which is no multiple of {alignment} as {element} needs; \
         copy its bytes() to an aligned place"
    )]
    Misaligned {
        /// The tensor.
        name: String,
        /// Address of its first byte.
        address: usize,
        /// The alignment that is needed, in bytes.
        alignment: usize,
        /// The type that was asked for.
        element: &'static str,
    },
}

/// One tensor of a component, in the shared pages.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    pub(crate) row: Row<'a>,
    pub(crate) bytes: &'a [u8],
    pub(crate) packing: Option<&'a Packing>,
    pub(crate) coding: Option<&'a Coding>,
}

impl<'a> Tensor<'a> {
    /// Name in the layout that was asked for.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.row.name
    }

    /// Name in the checkpoint.
    #[must_use]
    pub fn source_name(&self) -> &'a str {
        if self.row.source_name.is_empty() { self.row.name } else { self.row.source_name }
    }

    /// Type of its elements.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.row.dtype
    }

    /// Dimensions, row-major; empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &'a [u64] {
        self.row.shape
    }

    /// Index of its segment in the component, and the place of its first byte there.
    #[must_use]
    pub fn place(&self) -> (usize, u64) {
        (self.row.segment as usize, self.row.offset)
    }

    /// How it follows from the tensor in the checkpoint.
    #[must_use]
    pub fn operation(&self) -> TensorOperation {
        // One that a later daemon knows is none that this client could name.
        TensorOperation::try_from(self.row.operation.cast_signed()).unwrap_or_default()
    }

    /// Its part in a quantised layer. `None` for the tensors of plain layers, and of layers in formats that MLX lacks.
    #[must_use]
    pub fn packing(&self) -> Option<&'a Packing> {
        self.packing
    }

    /// The layer in a format that MLX lacks and that the daemon makes plain: of a tensor that is lent as it is stored the one
    /// that it is a part of, of a [computed](Self::operation) one that it was computed from.
    #[must_use]
    pub fn coding(&self) -> Option<&'a Coding> {
        self.coding
    }

    /// Its bytes, little endian, row-major, without gaps.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether its first byte is aligned for its dtype. Otherwise [`as_slice`](Self::as_slice) fails.
    #[must_use]
    pub fn is_aligned(&self) -> bool {
        // Complex numbers are pairs of floats; the types below a byte have no alignment.
        let alignment = if self.row.dtype == Dtype::C64 { 4 } else { (self.row.dtype.bitsize() / 8).max(1) };
        self.bytes.is_empty() || self.bytes.as_ptr().addr().is_multiple_of(alignment)
    }

    /// Its elements, if `T` stands for its dtype and its first byte is aligned for `T`.
    ///
    /// # Errors
    /// When `T` cannot stand for the dtype, or the tensor's first byte is not aligned for `T`.
    pub fn as_slice<T: Element>(&self) -> Result<&'a [T], ViewError> {
        let element = type_name::<T>();
        if !T::DTYPES.contains(&self.row.dtype) {
            return Err(ViewError::WrongDtype { name: self.row.name.to_owned(), dtype: self.row.dtype, element });
        }
        if self.bytes.is_empty() {
            return Ok(&[]);
        }
        // The length is a multiple of the element's size, because it was checked against shape and dtype.
        bytemuck::try_cast_slice(self.bytes).map_err(|_| ViewError::Misaligned {
            name: self.row.name.to_owned(),
            address: self.bytes.as_ptr().addr(),
            alignment: align_of::<T>(),
            element,
        })
    }
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tensor")
            .field("name", &self.name())
            .field("dtype", &self.dtype())
            .field("shape", &self.shape())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn tensor(dtype: Dtype, bytes: &[u8]) -> Tensor<'_> {
        let row = Row {
            name: "a",
            source_name: "",
            dtype,
            shape: &[],
            segment: 0,
            offset: 0,
            length: bytes.len() as u64,
            operation: 0,
            packing: None,
            coding: None,
        };
        Tensor { row, bytes, packing: None, coding: None }
    }

    #[test]
    fn elements_are_read_in_place() {
        let values = [1.5_f32, -2.0];
        let tensor = tensor(Dtype::F32, bytemuck::cast_slice(&values));
        assert_eq!(tensor.as_slice::<f32>().unwrap(), values);
        assert!(tensor.is_aligned());
        assert_eq!((tensor.name(), tensor.source_name()), ("a", "a"));
    }

    #[test]
    fn a_wrong_type_is_refused() {
        let tensor = tensor(Dtype::BF16, &[0; 4]);
        let error = tensor.as_slice::<half::f16>().unwrap_err();
        assert!(error.to_string().contains("is BF16, which half"), "{error}");
    }

    #[test]
    fn a_misaligned_tensor_says_where_it_is() {
        let words = [0_u64; 2];
        let bytes: &[u8] = bytemuck::cast_slice(&words);
        let askew = tensor(Dtype::BF16, &bytes[1..5]);
        assert!(!askew.is_aligned());
        let error = askew.as_slice::<bf16>().unwrap_err();
        let ViewError::Misaligned { address, alignment, .. } = error else { panic!("{error}") };
        assert_eq!((address, alignment), (bytes.as_ptr().addr() + 1, 2));
        let aligned = tensor(Dtype::BF16, &bytes[2..6]);
        assert_eq!(aligned.as_slice::<bf16>().unwrap().len(), 2);
    }

    #[test]
    fn an_empty_tensor_is_aligned_wherever_it_is() {
        let words = [0_u64; 1];
        let bytes: &[u8] = bytemuck::cast_slice(&words);
        let tensor = tensor(Dtype::F64, &bytes[1..1]);
        assert!(tensor.is_aligned());
        assert_eq!(tensor.as_slice::<f64>(), Ok(&[][..]));
    }

    #[test]
    fn truth_values_are_bytes() {
        let tensor = tensor(Dtype::BOOL, &[0, 1, 7]);
        assert_eq!(tensor.as_slice::<u8>(), Ok(&[0, 1, 7][..]));
    }
}
