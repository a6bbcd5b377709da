//! Engines that others wrote, behind [`steadyhand_gr00t::engine::Engine`]. Their libraries are loaded when an
//! engine is made: none is needed to build or to start the program.

pub mod onnxruntime;
