//! A safe face of what is used of TensorRT and TensorRT-RTX. Everything unsafe is in this folder.
#![allow(unsafe_code)] // Every call of the library crosses its C++ interface.

mod abi;
mod dims;
mod engine;
mod layers;
mod library;
mod logger;
#[cfg(test)]
mod narrow_tests;
mod network;
mod tables;

pub(super) use engine::{Engine, Execution};
pub(super) use layers::{Activation, Draft, Elementwise, Unary, Wire};
pub(super) use library::Library;
pub(super) use logger::write_to as log_to;
pub(super) use network::{Network, Port};
pub(super) use tables::known_versions;

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use steadyhand_fidelity::trace::Dtype;

/// Two libraries of NVIDIA's with nearly the same interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// TensorRT, `libnvinfer`.
    TensorRt,
    /// TensorRT-RTX, `libtensorrt_rtx`.
    TensorRtRtx,
}

impl Product {
    /// As NVIDIA writes it.
    pub fn name(self) -> &'static str {
        match self {
            Product::TensorRt => "TensorRT",
            Product::TensorRtRtx => "TensorRT-RTX",
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

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

/// The `DataType` of this type; none for one that the interface has no number for here.
fn type_number(dtype: Dtype) -> Option<i32> {
    (0..=8).find(|number| data_type(*number) == Ok(dtype))
}

/// A name for the library.
fn name(name: &str) -> Result<CString, String> {
    CString::new(name).map_err(|_| format!("expected a name without zeros, found {name:?}"))
}
