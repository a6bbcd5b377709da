//! What keeps the DiT's blocks from being one kernel.

use super::check;
use super::dit::{Dit, block_site};
use super::dit_persistent::{
    CLUSTER, FF, GRID, HEAD_DIM, HEADS, HIDDEN, MAX_BLOCKS, SHARED_BYTES, matrices, variant,
};
use super::elements::Element;
use super::kernels::{Kernels, eight_bits};
use crate::Result;
use steadyhand_cuda_driver::{Device, Launch, Stream};
use steadyhand_gr00t::model::dit::Attends;
use steadyhand_gr00t::ops::Operation;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// What of the model or the policy the kernel has no form for.
pub(super) fn of_model(policy: &PrecisionPolicy, w: &Dit) -> Result<Option<String>> {
    let (heads, head_dim) = (w.heads.heads, w.heads.head_dim);
    if (heads, head_dim, w.heads.kv_heads) != (HEADS, HEAD_DIM, HEADS) {
        return Ok(Some(format!("written for {HEADS} heads of {HEAD_DIM}, not for {heads} of {head_dim}")));
    }
    let blocks = w.blocks.len();
    if blocks == 0 || blocks > MAX_BLOCKS || blocks % 2 == 1 {
        return Ok(Some(format!(
            "written for an even number of up to {MAX_BLOCKS} blocks, not for {blocks}"
        )));
    }
    for (index, block) in w.blocks.iter().enumerate() {
        if (block.attends == Attends::Itself) != (index % 2 == 1) {
            return Ok(Some(format!(
                "block {index}: expected even blocks to attend to a memory, odd ones not"
            )));
        }
        let shapes = [(&block.output, HIDDEN, HIDDEN), (&block.fc1, FF, HIDDEN), (&block.fc2, HIDDEN, FF)];
        if let Some((linear, ..)) = shapes
            .into_iter()
            .find(|(linear, out, inner)| (linear.out_features, linear.in_features) != (*out, *inner))
        {
            let shape = [linear.out_features, linear.in_features];
            return Ok(Some(format!("block {index}: not written for a product of {shape:?}")));
        }
        if let Some(path) = other_format(policy, index, block.attends == Attends::Itself)? {
            return Ok(Some(format!("site `{path}` is not computed and stored in bf16")));
        }
        let biased = matrices(w, index).iter().all(|(_, linear)| linear.bias.is_some());
        if block.own.gemms.len() != 1 || !biased {
            return Ok(Some(format!(
                "block {index}: expected one product with a bias for what it attends with"
            )));
        }
    }
    Ok(None)
}

/// The first site of a block that is not bf16 throughout.
fn other_format(policy: &PrecisionPolicy, index: usize, itself: bool) -> Result<Option<String>> {
    let at = &block_site(index);
    let mut linears = vec!["query", "attention_output", "fc1", "fc2"];
    if itself {
        linears.extend(["key", "value"]);
    }
    for name in linears {
        let site = at / name;
        let elements = check::operands(policy, site.path(), Operation::Linear)?;
        if elements.storage != Element::Bf16 || elements.compute != Element::Bf16 {
            return Ok(Some(site.path().to_owned()));
        }
    }
    let attention = at / "attention";
    let elements = check::operands(policy, attention.path(), Operation::Attention)?;
    if elements.storage != Element::Bf16 || elements.compute != Element::Bf16 {
        return Ok(Some(attention.path().to_owned()));
    }
    let stored = ["norm1", "modulated", "residual1", "norm2", "gelu"].map(|name| at / name);
    for site in stored.iter().chain([at]) {
        if check::storage(policy, site.path())? != Element::Bf16 {
            return Ok(Some(site.path().to_owned()));
        }
    }
    Ok(None)
}

/// What the device lacks.
pub(super) fn of_device(device: &Device, kernels: &Kernels, stream: &Stream) -> Result<Option<String>> {
    let properties = device.properties();
    if properties.compute_capability != (9, 0) {
        let (major, minor) = properties.compute_capability;
        return Ok(Some(format!("needs compute capability 9.0, the device has {major}.{minor}")));
    }
    if (properties.multiprocessors as usize) < GRID {
        let found = properties.multiprocessors;
        return Ok(Some(format!("needs {GRID} multiprocessors, the device has {found}")));
    }
    if properties.shared_memory_per_block < SHARED_BYTES {
        return Ok(Some(format!("needs {SHARED_BYTES} bytes of shared memory")));
    }
    let variant = variant().compiled_for([eight_bits(&[])]);
    let launch = Launch {
        grid: [1, 1, GRID as u32],
        block: variant.block,
        shared_bytes: variant.shared_bytes,
        cluster: CLUSTER as u32,
        programmatic: false,
        cooperative: true,
    };
    let clusters = stream.clusters_at_a_time(&kernels.get(&variant)?, &launch)?;
    let needed = GRID / CLUSTER;
    let few = format!("needs {needed} clusters of {CLUSTER} blocks at a time, the device has {clusters}");
    Ok((clusters < needed).then_some(few))
}
