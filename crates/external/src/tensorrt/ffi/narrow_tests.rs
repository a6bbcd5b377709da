//! A network of TensorRT 8.5 and 8.6 made through objects that are laid out as its library's: what arrives is what was asked for.

use super::dims::NarrowDims;
use super::layers::{Draft, Elementwise};
use super::{Library, Product, Version};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_void};
use std::mem::size_of;
use steadyhand_fidelity::trace::Dtype;
use steadyhand_gr00t::ops::onnx::Bytes;

thread_local! {
    /// What was called, in order.
    static CALLED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn note(call: String) {
    CALLED.with(|called| called.borrow_mut().push(call));
}

/// Weights as the header declares them.
#[repr(C)]
struct Weights {
    data_type: i32,
    values: *const u8,
    count: i64,
}

extern "C" fn destroy(_: *mut c_void) {
    note("destroyed".to_owned());
}

/// A table whose functions do nothing but for these.
fn table(functions: &[(usize, *const c_void)]) -> *const *const c_void {
    extern "C" fn nothing(_: *mut c_void) {}
    let mut table = vec![nothing as *const c_void; 70];
    for (place, function) in functions {
        table[*place] = *function;
    }
    Vec::leak(table).as_ptr()
}

/// A public object with these implementations, which lives until the test ends.
fn object(implementations: &[&[(usize, *const c_void)]]) -> *mut c_void {
    let mut words = vec![table(&[(1, destroy as *const c_void)]).cast::<c_void>()];
    for functions in implementations {
        let implementation: &'static [*const c_void] = Vec::leak(vec![table(functions).cast()]);
        words.push(implementation.as_ptr().cast());
    }
    Vec::leak(words).as_mut_ptr().cast()
}

extern "C" fn create_builder(_: *mut c_void, version: i32) -> *mut c_void {
    note(format!("builder for {version}"));
    object(&[&[(9, create_config as *const c_void), (11, create_network as *const c_void)]])
}

extern "C" fn create_config(_: *mut c_void) -> *mut c_void {
    thread_local! {
        static SOURCES: Cell<u32> = const { Cell::new(0b11111) };
        static LEVEL: Cell<i32> = const { Cell::new(3) };
    }
    extern "C" fn set_level(_: *mut c_void, level: i32) {
        note(format!("level {level}"));
        LEVEL.set(level.min(5));
    }
    extern "C" fn level(_: *mut c_void) -> i32 {
        LEVEL.get()
    }
    extern "C" fn sources(_: *mut c_void) -> u32 {
        SOURCES.get()
    }
    extern "C" fn set_sources(_: *mut c_void, sources: u32) -> bool {
        note(format!("tactics {sources:b}"));
        SOURCES.set(sources);
        true
    }
    object(&[&[
        (42, set_sources as *const c_void),
        (43, sources as *const c_void),
        (51, set_level as *const c_void),
        (52, level as *const c_void),
    ]])
}

extern "C" fn create_network(_: *mut c_void, flags: u32) -> *mut c_void {
    note(format!("network {flags}"));
    object(&[&[
        (2, add_input as *const c_void),
        (13, add_elementwise as *const c_void),
        (16, add_shuffle as *const c_void),
        (28, add_constant as *const c_void),
        (30, add_identity as *const c_void),
        (34, add_slice as *const c_void),
    ]])
}

fn shown(dims: NarrowDims) -> String {
    format!("{:?}", super::dims::Dims::from(dims).to_vec().expect("dimensions"))
}

extern "C" fn add_input(
    _: *mut c_void,
    name: *const c_char,
    data_type: i32,
    dims: NarrowDims,
) -> *mut c_void {
    // SAFETY: the draft hands over a string that ends in a zero.
    let name = unsafe { CStr::from_ptr(name) };
    note(format!("input {name:?} {data_type} {}", shown(dims)));
    tensor()
}

extern "C" fn add_constant(_: *mut c_void, dims: NarrowDims, weights: Weights) -> *mut c_void {
    // SAFETY: the draft hands over bytes that live as long as it.
    let first = unsafe { *weights.values };
    note(format!(
        "constant {} type {} count {} first {first}",
        shown(dims),
        weights.data_type,
        weights.count
    ));
    layer()
}

extern "C" fn add_elementwise(_: *mut c_void, _: *mut c_void, _: *mut c_void, operation: i32) -> *mut c_void {
    note(format!("elementwise {operation}"));
    layer()
}

extern "C" fn add_identity(_: *mut c_void, _: *mut c_void) -> *mut c_void {
    note("identity".to_owned());
    layer()
}

extern "C" fn add_shuffle(_: *mut c_void, _: *mut c_void) -> *mut c_void {
    layer()
}

extern "C" fn add_slice(
    _: *mut c_void,
    _: *mut c_void,
    start: NarrowDims,
    size: NarrowDims,
    stride: NarrowDims,
) -> *mut c_void {
    note(format!("slice {} {} {}", shown(start), shown(size), shown(stride)));
    layer()
}

/// A layer with its own kind's functions behind those of every layer.
fn layer() -> *mut c_void {
    extern "C" fn output(_: *mut c_void, _: i32) -> *mut c_void {
        tensor()
    }
    extern "C" fn set_precision(_: *mut c_void, data_type: i32) {
        note(format!("precision {data_type}"));
    }
    extern "C" fn set_output_type(_: *mut c_void, index: i32, data_type: i32) {
        note(format!("output {index} {data_type}"));
    }
    extern "C" fn set_transpose(_: *mut c_void, order: *const [i32; 8]) {
        // SAFETY: the draft hands over an array that lives over the call.
        note(format!("transpose {:?}", unsafe { &*order }));
    }
    extern "C" fn set_reshape(_: *mut c_void, dims: NarrowDims) {
        note(format!("reshape {}", shown(dims)));
    }
    object(&[
        &[
            (8, output as *const c_void),
            (10, set_precision as *const c_void),
            (14, set_output_type as *const c_void),
        ],
        &[(2, set_transpose as *const c_void), (4, set_reshape as *const c_void)],
    ])
}

fn tensor() -> *mut c_void {
    extern "C" fn dimensions(_: *mut c_void) -> NarrowDims {
        super::dims::Dims::new(&[-1, 17]).expect("they fit").narrow()
    }
    object(&[&[(5, dimensions as *const c_void)]])
}

#[test]
fn a_network_of_8_5_is_what_was_asked_for() {
    // As the headers have them.
    assert_eq!((size_of::<NarrowDims>(), size_of::<Weights>()), (36, 24));
    let version = Version { major: 8, minor: 5, patch: 3 };
    let library = Library::standing_in(Product::TensorRt, version, create_builder).expect("a known version");
    let mut draft = Draft::new(&library).expect("a network");
    let input = draft.input("tokens", Dtype::F16, &[-1, 17]).expect("an input");
    assert_eq!(draft.dims(input).expect("dimensions"), [-1, 17]);
    let bytes = Bytes::new(vec![7; 8]);
    let constant = draft.constant("weight", Dtype::F32, &[1, 2], &bytes).expect("a constant");
    let product = draft.elementwise("mul", [input, constant], Elementwise::Product).expect("a layer");
    draft.hold(product, Dtype::F16, Dtype::F16).expect("types that it has");
    draft.cast("cast", product, Dtype::F32).expect("a layer");
    draft.shuffle("shuffle", product, Some(&[1, 0]), Some(&[0, -1])).expect("a layer");
    draft.slice("slice", product, [&[0, 1], &[1, 2], &[1, 1]]).expect("a layer");
    let network = draft.finish();
    assert!(network.use_cublas());
    drop(network);
    let expected = [
        "builder for 8503",
        "network 1",
        "tactics 11000",
        "input \"tokens\" 1 [-1, 17]",
        "constant [1, 2] type 0 count 2 first 7",
        "elementwise 1",
        "precision 1",
        "output 0 1",
        "identity",
        "output 0 0",
        "transpose [1, 0, 0, 0, 0, 0, 0, 0]",
        "reshape [0, -1]",
        "slice [0, 1] [1, 2] [1, 1]",
        "tactics 11011",
        "destroyed",
        "destroyed",
        "destroyed",
    ];
    CALLED.with(|called| assert_eq!(*called.borrow(), expected));
}

#[test]
fn an_optimization_level_is_8_6_s() {
    let network = |minor| {
        let version = Version { major: 8, minor, patch: 0 };
        let library =
            Library::standing_in(Product::TensorRt, version, create_builder).expect("a known version");
        Draft::new(&library).expect("a network").finish()
    };
    assert_eq!(network(5).set_optimization_level(0), Err("this version has none".to_owned()));
    CALLED.with(|called| called.borrow_mut().clear());
    let network = network(6);
    // A library takes its largest level for a larger one.
    assert_eq!([0, 6].map(|level| network.set_optimization_level(level)), [Ok(true), Ok(false)]);
    drop(network);
    let expected = ["builder for 8600", "network 1", "tactics 11000", "level 0", "level 6"];
    CALLED.with(|called| assert_eq!(called.borrow()[..5], expected));
}
