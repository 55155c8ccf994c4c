//! The Rust types that can stand for the elements of a dtype.

use half::{bf16, f16};
use safetensors::Dtype;

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that can stand for the elements of a tensor. Every bit pattern is a value of it.
pub trait Element: bytemuck::Pod + sealed::Sealed {
    /// The dtypes whose elements it can stand for.
    const DTYPES: &'static [Dtype];
}

macro_rules! elements {
    ($($type:ty: $($dtype:ident)+;)+) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPES: &'static [Dtype] = &[$(Dtype::$dtype),+];
        }
    )+};
}

elements! {
    f64: F64;
    f32: F32;
    f16: F16;
    bf16: BF16;
    i64: I64;
    i32: I32;
    i16: I16;
    i8: I8;
    u64: U64;
    u32: U32;
    u16: U16;
    // `bool` is absent, because only two of its bit patterns are values.
    u8: U8 BOOL;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes_agree<T: Element>() {
        for dtype in T::DTYPES {
            assert_eq!(dtype.bitsize(), 8 * size_of::<T>(), "{dtype}");
        }
    }

    #[test]
    fn elements_have_the_size_of_their_dtypes() {
        sizes_agree::<f64>();
        sizes_agree::<f32>();
        sizes_agree::<f16>();
        sizes_agree::<bf16>();
        sizes_agree::<i64>();
        sizes_agree::<i32>();
        sizes_agree::<i16>();
        sizes_agree::<i8>();
        sizes_agree::<u64>();
        sizes_agree::<u32>();
        sizes_agree::<u16>();
        sizes_agree::<u8>();
    }
}
