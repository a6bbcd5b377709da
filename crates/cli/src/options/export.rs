//! How graphs are written.

use anyhow::{Result, ensure};
use clap::ValueEnum;
use steadyhand_gr00t::export::{Component, Names};
use steadyhand_gr00t::ops::onnx::Products;

/// [`Products`] as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProductsArg {
    /// In the narrow format, results included: what accelerators run fast.
    Native,
    /// In f32 on rounded operands: the reference's numbers, and all that ONNX Runtime runs on a CPU.
    Widened,
}

impl From<ProductsArg> for Products {
    fn from(products: ProductsArg) -> Self {
        match products {
            ProductsArg::Native => Products::Native,
            ProductsArg::Widened => Products::Widened,
        }
    }
}

/// [`Names`] as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NamesArg {
    /// Ours.
    Steady,
    /// Those of NVIDIA's exporter.
    Nvidia,
}

impl From<NamesArg> for Names {
    fn from(names: NamesArg) -> Self {
        match names {
            NamesArg::Steady => Names::Steady,
            NamesArg::Nvidia => Names::Nvidia,
        }
    }
}

/// Fails where an option was given that graphs of this component do not depend on.
///
/// # Errors
/// The option.
pub fn refuse_unused(
    component: Component,
    images: bool,
    denoising_steps: bool,
    state_horizon: bool,
) -> Result<()> {
    let (sees, acts) = match component {
        Component::Dit
        | Component::Blocks(_)
        | Component::VlSelfAttention
        | Component::StateEncoder
        | Component::ActionEncoder
        | Component::ActionDecoder
        | Component::Llm => (false, false),
        Component::ActionHead => (false, true),
        Component::Vit | Component::Backbone => (true, false),
        Component::Policy => (true, true),
    };
    for (option, given, used, by) in [
        ("--image", images, sees, "vit, backbone or policy"),
        ("--denoising-steps", denoising_steps, acts, "action_head or policy"),
        ("--state-horizon", state_horizon, acts, "action_head or policy"),
    ] {
        ensure!(!given || used, "{option}: expected with --component {by}, found with {component}");
    }
    Ok(())
}
