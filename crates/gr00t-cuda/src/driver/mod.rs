//! A safe face of what the engine needs from the CUDA driver, and of NVRTC.
//!
//! The driver's primary context of one device is shared by everything opened from a [`Device`], and is made
//! current on the calling thread by each call. Calls that are not named asynchronous have ended when they
//! return. A failure of asynchronous work (a copy, a kernel, a replayed graph) is returned by the next call that
//! waits for it, such as [`Stream::synchronize`], and by every call after it: the context is then lost.
//!
//! Addresses given to kernels are not checked against buffers. A wrong one damages or reads device memory, or
//! ends in an error from CUDA; it does not reach memory that Rust looks after.
#![allow(unsafe_code)] // Every call of the driver and of NVRTC crosses a C interface.

mod device;
mod elf;
mod graph;
mod memory;
mod module;
mod nvrtc;
mod stream;
mod tensor_map;

pub use device::{Device, Properties, Survey, survey};
pub use graph::{Event, Graph};
pub use memory::{Buffer, DevicePtr, Pinned};
pub use module::{Kernel, Module, Params, Plain};
pub(super) use nvrtc::Nvrtc;
pub use stream::{Launch, Stream};
pub use tensor_map::{Boxes, TensorMap};

use cudarc::driver::sys;
use std::ffi::{CStr, c_char};
use steadyhand_gr00t::{Error, Result};

/// `Ok` for success, otherwise CUDA's name and description of the failure.
fn check(operation: &str, result: sys::CUresult) -> Result<()> {
    match result {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        failure => Err(Error::cuda(operation, describe(failure))),
    }
}

/// Such as `CUDA_ERROR_OUT_OF_MEMORY: out of memory`.
fn describe(failure: sys::CUresult) -> String {
    let text = |get: unsafe fn(sys::CUresult, *mut *const c_char) -> sys::CUresult| {
        let mut text = std::ptr::null();
        // SAFETY: both functions only write the address of a static string, or null for a code they do not know.
        let known = unsafe { get(failure, &mut text) } == sys::CUresult::CUDA_SUCCESS && !text.is_null();
        // SAFETY: checked above; the string is static and ends in a zero.
        known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    };
    let name = text(sys::cuGetErrorName).unwrap_or_else(|| format!("CUDA error {}", failure as u32));
    match text(sys::cuGetErrorString) {
        Some(description) => format!("{name}: {description}"),
        None => name,
    }
}

/// An error for bytes `offset..offset + bytes` that do not lie in a memory of `size`.
fn check_range(operation: &str, offset: usize, bytes: usize, size: usize) -> Result<()> {
    match offset.checked_add(bytes) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::cuda(
            operation,
            format!("{bytes} bytes from byte {offset} do not lie in {size} bytes"),
        )),
    }
}
