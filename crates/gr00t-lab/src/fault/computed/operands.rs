//! Operands that an operation should not have: results of linear layers of the same layer, on other inputs.

use steadyhand_gr00t::Result;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::cpu::{Cpu, Tensor};
use steadyhand_gr00t::ops::{Activation, Ops, Site};
use steadyhand_gr00t::precision::PrecisionPolicy;

/// The number of a layer whose path begins with `stack`.
fn index(at: &Site, stack: &str) -> Option<usize> {
    at.path().strip_prefix(stack)?.split('.').next()?.parse().ok()
}

/// The non-linearity of `up` of the language layer that the site `at` is in, whose MLP is given `normed`; none elsewhere.
///
/// # Errors
/// Those of the linear layer.
pub(crate) fn activated_up(
    policy: &PrecisionPolicy,
    model: &Model,
    normed: &Tensor,
    kind: Activation,
    at: &Site,
) -> Result<Option<Tensor>> {
    let stack = "language.layer.";
    let layer = index(at, stack).and_then(|index| Some((index, model.language.layers.get(index)?)));
    let Some((index, weights)) = layer else { return Ok(None) };
    let plain = Cpu::new(policy, None);
    let up = plain.linear(normed, &weights.up, Site::new(&format!("{stack}{index}.up")))?;
    plain.activation(&up, kind, at.clone()).map(Some)
}

/// Keys and values of the block of the DiT that the site `at` is in, made of `features`; none elsewhere.
///
/// # Errors
/// Those of the linear layers.
pub(crate) fn memory(
    policy: &PrecisionPolicy,
    model: &Model,
    features: &Tensor,
    at: &Site,
) -> Result<Option<[Tensor; 2]>> {
    let stack = "dit.block.";
    let block = index(at, stack).and_then(|index| Some((index, model.action_head.dit.blocks.get(index)?)));
    let Some((index, weights)) = block else { return Ok(None) };
    let plain = Cpu::new(policy, None);
    let site = |name: &str| Site::new(&format!("{stack}{index}.{name}"));
    let key = plain.linear(features, &weights.key, site("key"))?;
    Ok(Some([key, plain.linear(features, &weights.value, site("value"))?]))
}
