//! What kernels are given: structs declared once, for Rust and for CUDA C++.

use super::DevicePtr;

/// Values that lie in memory as a kernel expects them.
///
/// # Safety
/// The type has the size and alignment of [`Plain::CUDA`], every pattern of bits is a value, and no byte of it is padding
/// unless [`Plain::PADDED`] says so.
pub unsafe trait Plain: Copy + 'static {
    /// The type's name in CUDA C++.
    const CUDA: &'static str;
    /// Whether some bytes are padding.
    const PADDED: bool = false;
}

macro_rules! plain {
    ($($type:ty = $cuda:literal),* $(,)?) => { $(
        // SAFETY: the same layout in CUDA C++ on a 64-bit host, and no invalid patterns.
        unsafe impl Plain for $type {
            const CUDA: &'static str = $cuda;
        }
    )* };
}
plain!(
    u8 = "unsigned char",
    u16 = "unsigned short",
    u32 = "unsigned int",
    i32 = "int",
    u64 = "unsigned long long",
    f32 = "float",
    DevicePtr = "void*",
);

/// A struct that a kernel is given, as its argument or in memory. [`kernel_params!`](crate::kernel_params) declares one.
///
/// # Safety
/// The type is `repr(C)` and has the fields of [`Params::declaration`] in their order.
pub unsafe trait Params: Plain {
    /// The struct in CUDA C++: what is given to the compiler as part of a header. Structs that it has as fields are
    /// declared before it.
    fn declaration() -> String;
}

/// Values as the bytes that they are in memory; a type with padding does not compile.
pub fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    const { assert!(!T::PADDED, "padding has no value") };
    // SAFETY: initialised memory without padding, borrowed as long as the result.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The text of a struct with these fields: name and type.
#[doc(hidden)]
pub fn declaration(name: &str, fields: &[(&str, &str)]) -> String {
    let fields: String = fields.iter().map(|(field, cuda)| format!("    {cuda} {field};\n")).collect();
    format!("struct {name} {{\n{fields}}};\n")
}

/// Declares structs that kernels are given, for Rust and for CUDA C++: `repr(C)`, copyable, of
/// [`Plain`](crate::Plain) fields only.
///
/// `as` gives a [`DevicePtr`](crate::DevicePtr) its type in CUDA; without, it is `void*`.
/// [`Params::declaration`](crate::Params::declaration) is the struct's text for the kernel's compiler, so that both sides
/// have one declaration. Where the driver tells (CUDA 12.4 and newer), [`Stream::launch`](crate::Stream::launch)
/// refuses a struct of another size than the kernel was compiled for.
///
/// ```
/// use steadyhand_cuda_driver::{DevicePtr, Params};
/// steadyhand_cuda_driver::kernel_params! {
///     /// What `add` does to a sum.
///     pub struct Scale {
///         /// A factor.
///         pub factor: f32,
///     }
///     /// Arguments of `add`.
///     pub struct AddParams {
///         /// [rows, columns], f32.
///         pub x: DevicePtr as "const float*",
///         /// Rows of x.
///         pub rows: u32,
///         /// Afterwards.
///         pub scale: Scale,
///     }
/// }
/// assert_eq!(size_of::<AddParams>(), 16);
/// assert_eq!(
///     AddParams::declaration(),
///     "struct AddParams {\n    const float* x;\n    unsigned int rows;\n    Scale scale;\n};\n"
/// );
/// ```
#[macro_export]
macro_rules! kernel_params {
    (@type $type:ty) => { <$type as $crate::Plain>::CUDA };
    // Only an address may be named otherwise.
    (@type $type:ty as $cuda:literal) => {{
        let _: fn($type) -> $crate::DevicePtr = |pointer| pointer;
        $cuda
    }};
    ($($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty $(as $cuda:literal)?),* $(,)?
    })*) => { $(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy)]
        $vis struct $name { $($(#[$field_meta])* $field_vis $field: $type),* }

        const _: () = {
            const fn plain<T: $crate::Plain>() {}
            $(plain::<$type>();)*
        };

        // SAFETY: repr(C) with plain fields, by this macro; what their sizes do not add up to is padding.
        #[allow(unsafe_code)]
        unsafe impl $crate::Plain for $name {
            const CUDA: &'static str = stringify!($name);
            const PADDED: bool = size_of::<$name>() != 0 $(+ size_of::<$type>())*
                $(|| <$type as $crate::Plain>::PADDED)*;
        }

        // SAFETY: repr(C) by this macro, which lists the same fields.
        #[allow(unsafe_code)]
        unsafe impl $crate::Params for $name {
            fn declaration() -> String {
                let fields = [$((stringify!($field), $crate::kernel_params!(@type $type $(as $cuda)?))),*];
                $crate::declaration(stringify!($name), &fields)
            }
        }
    )* };
}
