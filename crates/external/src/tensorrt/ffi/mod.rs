//! A safe face of what is used of TensorRT-RTX. Everything unsafe is in this folder.
#![allow(unsafe_code)] // Every call of the library crosses its C++ interface.

mod abi;
mod engine;
mod library;
mod logger;
mod network;

pub(super) use engine::{Engine, Execution};
pub(super) use library::{KNOWN, Library};
pub(super) use network::{Parsed, Port};

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use steadyhand_fidelity::trace::Dtype;

/// A library's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Such as 1.
    pub major: u32,
    /// Such as 7.
    pub minor: u32,
    /// Such as 1.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// `OptProfileSelector`: smallest, best and largest.
const SELECTORS: [i32; 3] = [0, 1, 2];

/// The type of this `DataType`; the number as the error for one that no tensor here has.
fn data_type(number: i32) -> Result<Dtype, String> {
    Ok(match number {
        0 => Dtype::F32,
        1 => Dtype::F16,
        2 => Dtype::I8,
        3 => Dtype::I32,
        4 => Dtype::Bool,
        5 => Dtype::U8,
        6 => Dtype::F8E4m3,
        7 => Dtype::Bf16,
        8 => Dtype::I64,
        other => return Err(format!("expected a type of whole bytes, found TensorRT's data type {other}")),
    })
}

/// The library's string; empty for null.
///
/// # Safety
/// `text` is null or ends in a zero, and stays as it is over the call.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A name for the library.
fn name(name: &str) -> Result<CString, String> {
    CString::new(name).map_err(|_| format!("expected a name without zeros, found {name:?}"))
}

impl abi::Dims {
    /// Dimensions for the library.
    fn new(sizes: &[usize]) -> Result<Self, String> {
        let mut dims = abi::Dims { count: sizes.len() as i32, sizes: [0; abi::MAX_DIMS] };
        if sizes.len() > abi::MAX_DIMS {
            return Err(format!("expected at most {} dimensions, found {sizes:?}", abi::MAX_DIMS));
        }
        for (to, from) in dims.sizes.iter_mut().zip(sizes) {
            *to =
                i64::try_from(*from).map_err(|_| format!("expected smaller dimensions, found {sizes:?}"))?;
        }
        Ok(dims)
    }

    /// Dimensions from the library; -1 where open.
    fn to_vec(self) -> Result<Vec<i64>, String> {
        let count = usize::try_from(self.count).ok().filter(|count| *count <= abi::MAX_DIMS);
        let count = count.ok_or_else(|| format!("expected dimensions, found a number of {}", self.count))?;
        Ok(self.sizes[..count].to_vec())
    }
}
