//! The execution providers of the loaded ONNX Runtime.
#![allow(unsafe_code)] // Its C interface gives a list of strings; `ort` asks it for single names alone.

use std::ffi::{CStr, c_char, c_int};
use steadyhand_gr00t::{Error, Result};

/// Names of the providers that the library was built with, the preferred first. The library must be loaded.
///
/// # Errors
/// The library gives no list.
pub(super) fn available() -> Result<Vec<String>> {
    let api = ort::api();
    let (mut list, mut count): (*mut *mut c_char, c_int) = (std::ptr::null_mut(), 0);
    // SAFETY: both are written.
    let status = unsafe { (api.GetAvailableProviders)(&mut list, &mut count) }.0;
    if !status.is_null() {
        // SAFETY: a status that is not null is this caller's to release, once.
        unsafe { (api.ReleaseStatus)(status) };
        return Err(Error::input("onnxruntime", "expected a list of execution providers, found an error"));
    }
    let names = (0..usize::try_from(count).unwrap_or(0)).map(|index| {
        // SAFETY: the list has `count` strings that end in a zero, until it is released.
        unsafe { CStr::from_ptr(*list.add(index)) }.to_string_lossy().into_owned()
    });
    let names = names.collect();
    // SAFETY: released once, as it was given. A failure leaves nothing to be done.
    let _ = unsafe { (api.ReleaseAvailableProviders)(list, count) };
    Ok(names)
}
