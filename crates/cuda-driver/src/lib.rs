#![doc = include_str!("../README.md")]
//!
//! # About this crate
//!
//! The CUDA driver and NVRTC behind a safe interface. All `unsafe` code of CUDA is here.
//!
//! Nothing of CUDA is needed to build. The driver's library is loaded when a [`Device`] is opened, NVRTC when a
//! [`compile::Compiler`] is; a missing one is an error there. No GPU is needed to compile a kernel.
//!
//! The driver's primary context of one device is shared by everything opened from a [`Device`], and is made
//! current on the calling thread by each call. Calls that are not named asynchronous have ended when they
//! return. A failure of asynchronous work (a copy, a kernel, a replayed graph) is returned by the next call that
//! waits for it, such as [`Stream::synchronize`], and by every call after it: the context is then lost.
//!
//! Addresses given to kernels are not checked against buffers. A wrong one damages or reads device memory, or
//! ends in an error from CUDA; it does not reach memory that Rust looks after.

mod cache;
pub mod compile;
#[allow(unsafe_code)] // Calls of the driver cross a C interface.
mod device;
pub mod elf;
#[allow(unsafe_code)] // As `device`.
mod error;
#[allow(unsafe_code)] // As `device`.
mod graph;
mod locate;
#[allow(unsafe_code)] // As `device`; the driver gives host memory by its address.
mod memory;
#[allow(unsafe_code)] // As `device`.
mod module;
#[allow(unsafe_code)] // Calls of NVRTC cross a C interface.
mod nvrtc;
#[allow(unsafe_code)] // Promises about the layout of kernels' arguments.
mod params;
#[allow(unsafe_code)] // As `device`.
mod stream;
#[allow(unsafe_code)] // As `device`.
mod tensor_map;

pub use device::{Device, Properties, Survey, survey};
pub use error::{Error, Result};
pub use graph::{Event, Graph};
pub use memory::{Buffer, DevicePtr, Pinned};
pub use module::{Kernel, Module};
#[doc(hidden)]
pub use params::declaration;
pub use params::{Params, Plain, bytes_of};
pub use stream::{Launch, Stream};
pub use tensor_map::{Boxes, ElementType, TensorMap, Tiles};
