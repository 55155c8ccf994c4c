//! Functions of a library that is opened at run time.

/// Declares C functions that are looked up when the library is opened, and a Rust function of the same name for each.
///
/// - The literal is the calling convention of the Rust functions: `"C"` for those that mlx-rs uses as pointers to C
///   functions, `"C-unwind"` for all others, so that they can panic where the library is absent.
/// - The two names are those of the field of [`Functions`](crate::Functions) that holds their addresses, and of
///   its type.
macro_rules! functions {
    ($convention:literal $field:ident: $table:ident {
        $($(#[$attribute:meta])* pub fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?;)*
    }) => {
        /// The addresses of these functions in the library.
        #[allow(non_camel_case_types, non_snake_case)]
        pub(crate) struct $table {
            $($name: unsafe extern "C" fn($($type),*) $(-> $result)?,)*
        }

        impl $table {
            pub(crate) fn find(file: &crate::library::File) -> Result<Self, crate::LoadError> {
                // SAFETY: each function is declared as the library defines it: the build of the library is compared
                // with that of the declarations before.
                Ok(Self { $($name: unsafe { file.function(concat!(stringify!($name), "\0"))? },)* })
            }
        }

        $(
            $(#[$attribute])*
            ///
            /// # Safety
            /// As the C function of this name demands.
            ///
            /// # Panics
            /// When MLX cannot be loaded: see [`load`](crate::load).
            #[inline]
            pub unsafe extern $convention fn $name($($argument: $type),*) $(-> $result)? {
                let function = crate::loaded_functions().$field.$name;
                // SAFETY: the caller keeps the promises that the C function demands.
                unsafe { function($($argument),*) }
            }
        )*
    };
}

pub(crate) use functions;
