#![doc = include_str!("../README.md")]
//!
//! # About this crate
//!
//! Engines that others wrote. ONNX Runtime runs a policy behind [`steadyhand_gr00t::engine::Engine`]; TensorRT-RTX's
//! engines are built, inspected and run by their [`bindings`]. Libraries are loaded when one is asked for: none is
//! needed to build or to start the program.

pub mod bindings;
pub mod chain;
pub mod composed;
pub mod feeds;
pub mod onnxruntime;
mod places;
pub mod tensorrt;
