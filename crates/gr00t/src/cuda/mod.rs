//! The CUDA engine: kernels of this crate's own, compiled by NVRTC and run by the driver.
//!
//! Nothing of CUDA is needed to build. The driver's library and NVRTC are loaded when a [`driver::Device`] or
//! a [`compile::Compiler`] is opened; a missing one is an error there.

mod cache;
pub mod compile;
pub mod driver;
mod locate;
