//! TensorRT-RTX's interface, as its library lays it out.
//!
//! The library exports a few C functions, which give objects of C++ classes; everything else goes through their
//! tables of virtual functions. On Linux, C++ compilers follow the Itanium ABI, in which such a call is a call of the
//! C convention with the object as its first argument, and a class's table has its functions in the order of their
//! declaration. So no C++ compiler is needed, only each function's place in its table. A public object holds its own
//! table and, behind it, the address of an implementation, whose table has the methods.
//!
//! The places are those that a C++ compiler gives for the declarations of TensorRT-RTX 1.5 and 1.6; that the library
//! of 1.7 has the same was found by letting NVIDIA's Python package for 1.7 call tables that report their places.
//! Other versions are refused when the library is loaded: see [`super::library`].

use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

/// The most dimensions of a tensor.
pub(super) const MAX_DIMS: usize = 8;

/// Dimensions of a tensor; -1 stands for one that is open.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Dims {
    pub(super) count: i32,
    pub(super) sizes: [i64; MAX_DIMS],
}

/// A public object: its table, whose first functions destroy it, and its implementation.
#[repr(C)]
struct Public {
    table: *const *const c_void,
    implementation: *mut c_void,
}

/// The implementation of a public object.
///
/// # Safety
/// `object` is a living public object.
unsafe fn implementation(object: NonNull<c_void>) -> *mut c_void {
    // SAFETY: the caller's promise; the layout is `Public`'s.
    unsafe { object.cast::<Public>().as_ref().implementation }
}

/// The object itself, for interfaces that have their methods in their own table.
///
/// # Safety
/// None is needed; unsafe as [`implementation`] is, which stands at the same place.
unsafe fn itself(object: NonNull<c_void>) -> *mut c_void {
    object.as_ptr()
}

/// Function `place` of the table of `object`.
///
/// # Safety
/// `object` is a living object with a table of more than `place` functions.
unsafe fn function(object: *mut c_void, place: usize) -> *const c_void {
    // SAFETY: the caller's promise; an object starts with the address of its table.
    unsafe { *(*object.cast::<*const *const c_void>()).add(place) }
}

/// Declares an interface: a type around an object's address with one method for each function that is called. An
/// `owned` object is destroyed when dropped, by the function at the place given; a `borrowed` one belongs to another.
///
/// Every method needs of its caller that the object lives and that the pointers among its arguments are what the
/// interface asks for.
macro_rules! interface {
    ($(#[$doc:meta])* owned($destroy:literal) $name:ident, $methods:ident { $($body:tt)* }) => {
        interface! { $(#[$doc])* borrowed $name, $methods { $($body)* } }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the object was given to this value alone, and this is its last use. The function is the
                // destructor that also frees.
                unsafe {
                    let destroy = function(self.0.as_ptr(), $destroy);
                    let destroy: unsafe extern "C" fn(*mut c_void) = std::mem::transmute(destroy);
                    destroy(self.0.as_ptr());
                }
            }
        }
    };
    ($(#[$doc:meta])* borrowed $name:ident, $methods:ident {
        $($place:literal $method:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*
    }) => {
        $(#[$doc])*
        pub(super) struct $name(pub(super) NonNull<c_void>);

        impl $name {
            /// The object at this address; none for null.
            ///
            /// # Safety
            /// The address is null or that of such an object; an owned one is given to this value alone.
            pub(super) unsafe fn from_address(address: *mut c_void) -> Option<Self> {
                NonNull::new(address).map($name)
            }

            $(
                /// Calls the function of this name; see [`interface`] for what it needs.
                pub(super) unsafe fn $method(&self, $($argument: $type),*) $(-> $result)? {
                    // SAFETY: the object lives, and the table's function at this place has this signature.
                    unsafe {
                        let object = $methods(self.0);
                        let called = function(object, $place);
                        let called: unsafe extern "C" fn(*mut c_void $(, $type)*) $(-> $result)? =
                            std::mem::transmute(called);
                        called(object $(, $argument)*)
                    }
                }
            )*
        }
    };
}

interface! {
    /// `IBuilder`.
    owned(1) Builder, implementation {
        5 create_config() -> *mut c_void;
        6 create_network(flags: u32) -> *mut c_void;
        7 create_profile() -> *mut c_void;
        11 build_serialized_network(network: *mut c_void, config: *mut c_void) -> *mut c_void;
    }
}

interface! {
    /// `IBuilderConfig`.
    owned(1) Config, implementation {
        8 clear_flag(flag: i32);
        9 set_flag(flag: i32);
        10 flag(flag: i32) -> bool;
        23 add_profile(profile: *mut c_void) -> i32;
        25 set_verbosity(verbosity: i32);
    }
}

interface! {
    /// `IOptimizationProfile`, which belongs to its builder.
    borrowed Profile, implementation {
        2 set_dimensions(name: *const c_char, which: i32, dims: *const Dims) -> bool;
        7 is_valid() -> bool;
    }
}

interface! {
    /// `INetworkDefinition`.
    owned(1) Network, implementation {
        12 layer_count() -> i32;
        13 layer(index: i32) -> *mut c_void;
        14 input_count() -> i32;
        15 input(index: i32) -> *mut c_void;
        16 output_count() -> i32;
        17 output(index: i32) -> *mut c_void;
    }
}

interface! {
    /// `ILayer`, which belongs to its network.
    borrowed Layer, implementation {
        2 kind() -> i32;
        4 name() -> *const c_char;
        8 output(index: i32) -> *mut c_void;
    }
}

interface! {
    /// `ITensor`, which belongs to its network.
    borrowed NetworkTensor, implementation {
        3 name() -> *const c_char;
        5 dimensions() -> Dims;
        6 data_type() -> i32;
        14 dimension_name(index: i32) -> *const c_char;
    }
}

interface! {
    /// `IHostMemory`.
    owned(1) HostMemory, implementation {
        2 data() -> *mut c_void;
        3 size() -> usize;
    }
}

interface! {
    /// `IRuntime`.
    owned(1) Runtime, implementation {
        3 deserialize_engine(bytes: *const c_void, size: usize) -> *mut c_void;
        24 validity(bytes: *const c_void, size: i64, diagnostics: *mut u64) -> i32;
    }
}

interface! {
    /// `ICudaEngine`.
    owned(1) Engine, implementation {
        5 create_context(strategy: i32) -> *mut c_void;
        8 profile_count() -> i32;
        14 create_inspector() -> *mut c_void;
        15 shape(name: *const c_char) -> Dims;
        16 data_type(name: *const c_char) -> i32;
        17 location(name: *const c_char) -> i32;
        19 mode(name: *const c_char) -> i32;
        22 format(name: *const c_char) -> i32;
        25 profile_shape(name: *const c_char, profile: i32, which: i32) -> Dims;
        26 tensor_count() -> i32;
        27 tensor_name(index: i32) -> *const c_char;
    }
}

interface! {
    /// `IEngineInspector`.
    owned(1) Inspector, implementation {
        6 engine_information(format: i32) -> *const c_char;
    }
}

interface! {
    /// `IExecutionContext`.
    owned(1) Context, implementation {
        20 set_input_shape(name: *const c_char, dims: *const Dims) -> bool;
        21 shape(name: *const c_char) -> Dims;
        23 set_address(name: *const c_char, address: *mut c_void) -> bool;
        36 enqueue(stream: *mut c_void) -> bool;
    }
}

interface! {
    /// `nvonnxparser::IParser`, whose methods are in its own table.
    owned(7) Parser, itself {
        1 parse_from_file(path: *const c_char, verbosity: i32) -> bool;
        3 error_count() -> i32;
        4 error(index: i32) -> *mut c_void;
    }
}

interface! {
    /// `nvonnxparser::IParserError`, which belongs to its parser.
    borrowed ParserError, itself {
        1 description() -> *const c_char;
        6 node_name() -> *const c_char;
        7 node_operator() -> *const c_char;
    }
}
