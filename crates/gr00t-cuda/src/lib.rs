#![doc = include_str!("../README.md")]
//!
//! # About this crate
//!
//! The CUDA engine: kernels of this crate's own, compiled by NVRTC and run by the driver.
//!
//! Nothing of CUDA is needed to build: `steadyhand-cuda-driver` loads the driver's library and NVRTC when an engine is
//! opened; a missing one is an error there.
//!
//! The files are named as those of `model/`: [`vision`], [`connector`], [`language`], [`self_attention`], [`action_head`],
//! [`dit`]. Each
//! lays its weights out ([`weights`]) and records its kernels into a [`program`] for one shape of inputs. What is
//! one operation here and several there is named by its sequence: `norm_modulate`, `norm_rotary`.

pub mod action_head;
pub mod attention;
pub mod builder;
pub mod check;
pub mod connector;
pub mod dit;
mod dit_obstacles;
pub mod dit_persistent;
pub mod elements;
mod engine;
mod error;
pub mod gemm;
pub mod images;
mod inference;
pub mod inputs;
pub mod kernels;
pub mod kinds;
pub mod language;
pub mod linear;
pub mod measure;
pub mod norm;
pub mod operands;
mod pack;
mod profile;
pub mod program;
pub mod rotary;
pub mod self_attention;
pub mod sources;
pub mod tiling;
pub mod tokens;
pub mod vision;
pub mod weights;

pub use check::check;
pub use engine::{Cuda, CudaEngine, Options};
pub use error::{Error, Result};
pub use inference::plan;
