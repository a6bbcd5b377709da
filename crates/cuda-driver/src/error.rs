//! The crate's one error type: every variant names what was asked for.

use cudarc::driver::sys;
use std::ffi::{CStr, c_char};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between this crate and a GPU.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A library or a GPU is missing, too old, or has too little memory free.
    #[error("{operation}: {what}")]
    Unavailable {
        /// What was asked for, such as `open device`.
        operation: String,
        /// What was expected and what was found.
        what: String,
    },
    /// The driver or NVRTC reported a failure.
    #[error("{operation}: {what}")]
    Failed {
        /// The call, such as `cuMemAlloc` or `compile attention.cu (--gpu-architecture=sm_90a)`.
        operation: String,
        /// CUDA's name and description of the failure; the compiler's log.
        what: String,
    },
    /// An argument that the driver was not called with.
    #[error("{operation}: {what}")]
    Refused {
        /// The operation, such as `upload` or `launch normalize`.
        operation: String,
        /// What was expected and what was found.
        what: String,
    },
}

impl Error {
    /// An [`Error::Unavailable`] of `operation`.
    pub(crate) fn unavailable(operation: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Unavailable { operation: operation.into(), what: what.into() }
    }

    /// An [`Error::Failed`] of `operation`.
    pub(crate) fn failed(operation: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Failed { operation: operation.into(), what: what.into() }
    }

    /// An [`Error::Refused`] of `operation`.
    pub(crate) fn refused(operation: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Refused { operation: operation.into(), what: what.into() }
    }
}

/// `Ok` for success, otherwise CUDA's name and description of the failure.
pub(crate) fn check(operation: &str, result: sys::CUresult) -> Result<()> {
    match result {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        failure => Err(Error::failed(operation, describe(failure))),
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
pub(crate) fn check_range(operation: &str, offset: usize, bytes: usize, size: usize) -> Result<()> {
    match offset.checked_add(bytes) {
        Some(end) if end <= size => Ok(()),
        _ => {
            let what = format!("{bytes} bytes from byte {offset} do not lie in {size} bytes");
            Err(Error::refused(operation, what))
        }
    }
}
