//! Takes layers out of a checkpoint by the names that PyTorch gave them.

use crate::checkpoint::Loader;
use crate::ops::{Affine, CategoryLinear, Linear};

/// `nn.Linear` at `path`.
pub(super) fn linear(loader: &mut Loader, path: &str, in_features: usize, out_features: usize) -> Linear {
    let bias = loader.weight(&format!("{path}.bias"), &[out_features]);
    Linear { bias: Some(bias), ..linear_without_bias(loader, path, in_features, out_features) }
}

/// `nn.Linear(bias=False)` at `path`.
pub(super) fn linear_without_bias(
    loader: &mut Loader,
    path: &str,
    in_features: usize,
    out_features: usize,
) -> Linear {
    let weight = loader.weight(&format!("{path}.weight"), &[out_features, in_features]);
    Linear { weight, bias: None }
}

/// `nn.Conv3d` at `path` with a stride of its kernel, `[out, ..kernel]`: one linear layer over the values of a patch, in
/// the order in which the kernel has them.
pub(super) fn convolution(loader: &mut Loader, path: &str, kernel: &[usize]) -> Linear {
    let weight = loader.weight(&format!("{path}.weight"), kernel);
    Linear { weight: weight.into_rows(), bias: Some(loader.weight(&format!("{path}.bias"), &kernel[..1])) }
}

/// `CategorySpecificLinear` at `path`.
pub(super) fn category_linear(
    loader: &mut Loader,
    path: &str,
    slots: usize,
    in_features: usize,
    out_features: usize,
) -> CategoryLinear {
    CategoryLinear {
        weight: loader.weight(&format!("{path}.W"), &[slots, in_features, out_features]),
        bias: loader.weight(&format!("{path}.b"), &[slots, out_features]),
    }
}

/// The scale and shift of `nn.LayerNorm` at `path`.
pub(super) fn affine(loader: &mut Loader, path: &str, features: usize) -> Affine {
    Affine {
        weight: loader.weight(&format!("{path}.weight"), &[features]),
        bias: loader.weight(&format!("{path}.bias"), &[features]),
    }
}
