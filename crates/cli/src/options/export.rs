//! How graphs are written.

use clap::ValueEnum;
use steadyhand_gr00t::export::Names;
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
