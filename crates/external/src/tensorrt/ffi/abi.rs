//! The interface of TensorRT and TensorRT-RTX, as their libraries lay it out.
//!
//! A library exports a few C functions, which give objects of C++ classes; everything else goes through their
//! tables of virtual functions. On Linux, C++ compilers follow the Itanium ABI, in which such a call is a call of the
//! C convention with the object as its first argument, and a class's table has its functions in the order of their
//! declaration. So no C++ compiler is needed, only each function's place in its table, which [`super::tables`] has for
//! each version. A public object holds its own table and, behind it, the address of an implementation, whose table has
//! the methods; a layer holds two, that of any layer and that of its own kind.

use super::dims::{Dims, NarrowDims};
use super::tables::Tables;
use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

/// A public object: its table, whose first functions destroy it, and its implementations.
#[repr(C)]
struct Public<const COUNT: usize> {
    table: *const *const c_void,
    implementations: [*mut c_void; COUNT],
}

/// The implementation of a public object.
///
/// # Safety
/// `object` is a living public object.
unsafe fn implementation(object: NonNull<c_void>) -> *mut c_void {
    // SAFETY: the caller's promise; the layout is `Public`'s.
    unsafe { object.cast::<Public<1>>().as_ref().implementations[0] }
}

/// What makes a layer one of its kind.
///
/// # Safety
/// `object` is a living layer of a kind that has more methods than every layer.
unsafe fn own_kind(object: NonNull<c_void>) -> *mut c_void {
    // SAFETY: the caller's promise; the layout is `Public`'s.
    unsafe { object.cast::<Public<2>>().as_ref().implementations[1] }
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

/// Weights as the library takes them: `Weights`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights {
    pub(super) data_type: i32,
    pub(super) values: *const c_void,
    pub(super) count: i64,
}

/// Declares an interface: a type around an object's address with one method for each function that is called, and the
/// type of its places, a field for each function. An `owned` object is destroyed when dropped; a `borrowed` one belongs
/// to another. A `narrow` method is the one at the same place where dimensions are [`NarrowDims`].
///
/// Every method needs of its caller that the object lives and that the pointers among its arguments are what the
/// interface asks for.
macro_rules! interface {
    ($(#[$doc:meta])* owned $name:ident, $($rest:tt)*) => {
        interface! { $(#[$doc])* borrowed $name, $($rest)* }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the object was given to this value alone, and this is its last use. The function is the
                // destructor that also frees.
                unsafe {
                    let destroy = function(self.object.as_ptr(), self.destroyer());
                    let destroy: unsafe extern "C" fn(*mut c_void) = std::mem::transmute(destroy);
                    destroy(self.object.as_ptr());
                }
            }
        }
    };
    ($(#[$doc:meta])* borrowed $name:ident, $places:ident of $table:ident, $methods:ident {
        $($method:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*
    } $(narrow {
        $($of:ident as $narrow:ident($($narrow_argument:ident: $narrow_type:ty),*) $(-> $narrow_result:ty)?;)*
    })?) => {
        #[doc = concat!("Places of the functions of [`", stringify!($name), "`].")]
        #[derive(Debug)]
        pub(super) struct $places {
            $(pub(super) $method: usize,)*
        }

        $(#[$doc])*
        pub(super) struct $name {
            pub(super) object: NonNull<c_void>,
            pub(super) tables: &'static Tables,
        }

        impl $name {
            /// The object at this address; none for null.
            ///
            /// # Safety
            /// The address is null or that of such an object of a library with these tables; an owned one is given to
            /// this value alone.
            pub(super) unsafe fn from_address(address: *mut c_void, tables: &'static Tables) -> Option<Self> {
                NonNull::new(address).map(|object| $name { object, tables })
            }

            $(interface! { @call $name, $table, $methods, $method, $method($($argument: $type),*) $(-> $result)? })*
            $($(interface! {
                @call $name, $table, $methods, $of, $narrow($($narrow_argument: $narrow_type),*) $(-> $narrow_result)?
            })*)?
        }
    };
    (@call $name:ident, $table:ident, $methods:ident, $place:ident,
     $method:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?) => {
        /// Calls the function of this name; see [`interface`] for what it needs.
        pub(super) unsafe fn $method(&self, $($argument: $type),*) $(-> $result)? {
            // SAFETY: the object lives, and the table's function at this place has this signature.
            unsafe {
                let object = $methods(self.object);
                let called = function(object, self.tables.$table.$place);
                let called: unsafe extern "C" fn(*mut c_void $(, $type)*) $(-> $result)? =
                    std::mem::transmute(called);
                called(object $(, $argument)*)
            }
        }
    };
}

/// Place of the destructor that also frees, in a public object's own table.
const DESTROY: usize = 1;

/// Where a type's objects are destroyed.
macro_rules! destroyed {
    ($($name:ident)*) => {$(
        impl $name {
            fn destroyer(&self) -> usize {
                DESTROY
            }
        }
    )*};
}

destroyed! { Builder Config Network HostMemory Runtime Engine Inspector Context TimingCache }

impl Parser {
    /// A parser's methods are in the same table as its destructor.
    fn destroyer(&self) -> usize {
        self.tables.parser_destroyer
    }
}

interface! {
    /// `IBuilder`.
    owned Builder, BuilderPlaces of builder, implementation {
        create_config() -> *mut c_void;
        create_network(flags: u32) -> *mut c_void;
        create_profile() -> *mut c_void;
        build_serialized_network(network: *mut c_void, config: *mut c_void) -> *mut c_void;
    }
}

interface! {
    /// `IBuilderConfig`.
    owned Config, ConfigPlaces of config, implementation {
        clear_flag(flag: i32);
        set_flag(flag: i32);
        flag(flag: i32) -> bool;
        add_profile(profile: *mut c_void) -> i32;
        set_verbosity(verbosity: i32);
        set_tactic_sources(sources: u32) -> bool;
        tactic_sources() -> u32;
        create_timing_cache(bytes: *const c_void, size: usize) -> *mut c_void;
        set_timing_cache(cache: *const c_void, ignore_mismatch: bool) -> bool;
        set_memory_limit(pool: i32, bytes: usize);
        memory_limit(pool: i32) -> usize;
    }
}

interface! {
    /// `ITimingCache`.
    owned TimingCache, TimingCachePlaces of timing_cache, implementation {
        serialize() -> *mut c_void;
    }
}

interface! {
    /// `IOptimizationProfile`, which belongs to its builder.
    borrowed Profile, ProfilePlaces of profile, implementation {
        set_dimensions(name: *const c_char, which: i32, dims: *const Dims) -> bool;
        is_valid() -> bool;
    } narrow {
        set_dimensions as set_narrow_dimensions(name: *const c_char, which: i32, dims: NarrowDims) -> bool;
    }
}

interface! {
    /// `INetworkDefinition`.
    owned Network, NetworkPlaces of network, implementation {
        add_input(name: *const c_char, data_type: i32, dims: *const Dims) -> *mut c_void;
        mark_output(tensor: *mut c_void);
        add_activation(tensor: *mut c_void, kind: i32) -> *mut c_void;
        add_softmax(tensor: *mut c_void) -> *mut c_void;
        add_concatenation(tensors: *const *mut c_void, count: i32) -> *mut c_void;
        add_elementwise(left: *mut c_void, right: *mut c_void, operation: i32) -> *mut c_void;
        add_unary(tensor: *mut c_void, operation: i32) -> *mut c_void;
        add_shuffle(tensor: *mut c_void) -> *mut c_void;
        layer_count() -> i32;
        layer(index: i32) -> *mut c_void;
        input_count() -> i32;
        input(index: i32) -> *mut c_void;
        output_count() -> i32;
        output(index: i32) -> *mut c_void;
        add_reduce(tensor: *mut c_void, operation: i32, axes: u32, keep: bool) -> *mut c_void;
        add_gather(data: *mut c_void, indices: *mut c_void, axis: i32) -> *mut c_void;
        add_matrix_multiply(left: *mut c_void, of_left: i32, right: *mut c_void, of_right: i32) -> *mut c_void;
        add_constant(dims: *const Dims, weights: Weights) -> *mut c_void;
        add_identity(tensor: *mut c_void) -> *mut c_void;
        add_slice(tensor: *mut c_void, start: *const Dims, size: *const Dims, stride: *const Dims) -> *mut c_void;
        add_shape(tensor: *mut c_void) -> *mut c_void;
        add_select(condition: *mut c_void, then: *mut c_void, otherwise: *mut c_void) -> *mut c_void;
    } narrow {
        add_input as add_narrow_input(name: *const c_char, data_type: i32, dims: NarrowDims) -> *mut c_void;
        add_constant as add_narrow_constant(dims: NarrowDims, weights: Weights) -> *mut c_void;
        add_slice as add_narrow_slice(
            tensor: *mut c_void, start: NarrowDims, size: NarrowDims, stride: NarrowDims
        ) -> *mut c_void;
    }
}

interface! {
    /// `ILayer`, which belongs to its network.
    borrowed Layer, LayerPlaces of layer, implementation {
        kind() -> i32;
        set_name(name: *const c_char);
        name() -> *const c_char;
        output(index: i32) -> *mut c_void;
        set_input(index: i32, tensor: *mut c_void);
    }
}

interface! {
    /// `IShuffleLayer`.
    borrowed Shuffle, ShufflePlaces of shuffle, own_kind {
        set_first_transpose(order: *const [i32; super::dims::MAX_DIMS]);
        set_reshape(dims: *const Dims);
    } narrow {
        set_reshape as set_narrow_reshape(dims: NarrowDims);
    }
}

interface! {
    /// `ISoftMaxLayer`.
    borrowed Softmax, SoftmaxPlaces of softmax, own_kind {
        set_axes(axes: u32);
    }
}

interface! {
    /// `IConcatenationLayer`.
    borrowed Concatenation, ConcatenationPlaces of concatenation, own_kind {
        set_axis(axis: i32);
    }
}

interface! {
    /// `ITensor`, which belongs to its network.
    borrowed NetworkTensor, TensorPlaces of tensor, implementation {
        set_name(name: *const c_char);
        name() -> *const c_char;
        dimensions() -> Dims;
        data_type() -> i32;
        dimension_name(index: i32) -> *const c_char;
    } narrow {
        dimensions as narrow_dimensions() -> NarrowDims;
    }
}

interface! {
    /// `IHostMemory`.
    owned HostMemory, HostMemoryPlaces of host_memory, implementation {
        data() -> *mut c_void;
        size() -> usize;
    }
}

interface! {
    /// `IRuntime`. A version whose function takes fewer arguments than this leaves the last ones unread.
    owned Runtime, RuntimePlaces of runtime, implementation {
        deserialize_engine(bytes: *const c_void, size: usize, no_plugins: *const c_void) -> *mut c_void;
    }
}

interface! {
    /// `ICudaEngine`. A version whose function takes fewer arguments than this leaves the last ones unread.
    owned Engine, EnginePlaces of engine, implementation {
        create_context(strategy: i32) -> *mut c_void;
        profile_count() -> i32;
        create_inspector() -> *mut c_void;
        shape(name: *const c_char) -> Dims;
        data_type(name: *const c_char) -> i32;
        location(name: *const c_char) -> i32;
        mode(name: *const c_char) -> i32;
        format(name: *const c_char) -> i32;
        profile_shape(name: *const c_char, profile: i32, which: i32) -> Dims;
        tensor_count() -> i32;
        tensor_name(index: i32) -> *const c_char;
    } narrow {
        shape as narrow_shape(name: *const c_char) -> NarrowDims;
        profile_shape as narrow_profile_shape(name: *const c_char, profile: i32, which: i32) -> NarrowDims;
    }
}

interface! {
    /// `IEngineInspector`.
    owned Inspector, InspectorPlaces of inspector, implementation {
        engine_information(format: i32) -> *const c_char;
    }
}

interface! {
    /// `IExecutionContext`.
    owned Context, ContextPlaces of context, implementation {
        set_input_shape(name: *const c_char, dims: *const Dims) -> bool;
        shape(name: *const c_char) -> Dims;
        set_address(name: *const c_char, address: *mut c_void) -> bool;
        enqueue(stream: *mut c_void) -> bool;
    } narrow {
        set_input_shape as set_narrow_input_shape(name: *const c_char, dims: *const NarrowDims) -> bool;
        shape as narrow_shape(name: *const c_char) -> NarrowDims;
    }
}

interface! {
    /// `nvonnxparser::IParser`, whose methods are in its own table.
    owned Parser, ParserPlaces of parser, itself {
        parse_from_file(path: *const c_char, verbosity: i32) -> bool;
        error_count() -> i32;
        error(index: i32) -> *mut c_void;
    }
}

interface! {
    /// `nvonnxparser::IParserError`, which belongs to its parser.
    borrowed ParserError, ParserErrorPlaces of parser_error, itself {
        description() -> *const c_char;
        node_name() -> *const c_char;
        node_operator() -> *const c_char;
    }
}

/// Declares functions that only some versions have: a method of an interface above that takes the place.
macro_rules! of_some_versions {
    ($($name:ident, $methods:ident: $(#[$doc:meta])* $method:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {$(
        impl $name {
            $(#[$doc])*
            /// See [`interface`] for what a call needs; the version's table has the function at `place`.
            pub(super) unsafe fn $method(&self, place: usize, $($argument: $type),*) $(-> $result)? {
                // SAFETY: the object lives, and the table's function at this place has this signature.
                unsafe {
                    let object = $methods(self.object);
                    let called: unsafe extern "C" fn(*mut c_void $(, $type)*) $(-> $result)? =
                        std::mem::transmute(function(object, place));
                    called(object $(, $argument)*)
                }
            }
        }
    )*};
}

of_some_versions! {
    Layer, implementation: /// `setPrecision`, of weakly typed networks.
        set_precision(data_type: i32);
    Layer, implementation: /// `setOutputType`, of weakly typed networks.
        set_output_type(index: i32, data_type: i32);
    NetworkTensor, implementation: /// `setType`, of weakly typed networks.
        set_data_type(data_type: i32);
    Network, implementation: /// `addCast`, of versions that have such a layer.
        add_cast(tensor: *mut c_void, data_type: i32) -> *mut c_void;
    Config, implementation: /// `setBuilderOptimizationLevel`, of versions since 8.6.
        set_optimization_level(level: i32);
    Config, implementation: /// `getBuilderOptimizationLevel`, of versions since 8.6.
        optimization_level() -> i32;
    Runtime, implementation: /// `getEngineValidity`, of TensorRT-RTX.
        validity(bytes: *const c_void, size: i64, diagnostics: *mut u64) -> i32;
}
