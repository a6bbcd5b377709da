//! What a trace says about the engine that left it, and what its tensors show where it says nothing.

use steadyhand_fidelity::{Format, Trace};

/// Key of a trace's metadata: the precision that the engine ran at, as
/// [`PrecisionPolicy::identity`](steadyhand_gr00t::precision::PrecisionPolicy::identity) gives it.
pub const PRECISION: &str = "precision";
/// Key of a trace's metadata: what a precision that is no preset is called.
pub const PRECISION_NAME: &str = "precision_name";
/// Key of a trace's metadata: `run`, each stage fed by the one before, or `isolated`, each fed from a recording.
pub const MODE: &str = "mode";
/// The [`MODE`] of stages that ran by themselves.
pub const ISOLATED: &str = "isolated";
/// The [`MODE`] of one run.
pub const RUN: &str = "run";
/// The key that names the tensor that the DiT attends to.
pub const MEMORY: &str = "dit_memory";

/// Tensors that are looked at.
const SAMPLED: usize = 48;
/// Share of them that must hold values of a format alone.
const SHARE: f64 = 0.9;
/// Names of products, which mixed precision rounds and keeps the rest in f32.
const PRODUCTS: [&str; 8] = ["query", "key", "value", "fc1", "fc2", "gate", "up", "down"];

/// The preset that a trace's tensors of the first inference look like: 16 bits where they hold values of such a format
/// alone, mixed where only the products do, f32 otherwise.
pub fn precision_of(trace: &Trace) -> &'static str {
    let names: Vec<&str> = trace.names().filter(|name| is_result(name)).collect();
    let all = |names: &[&str], format| share_in(trace, names, format) >= SHARE;
    let ends = |name: &&&str| PRODUCTS.iter().any(|product| name.ends_with(&format!(".{product}")));
    let products: Vec<&str> = names.iter().filter(ends).copied().collect();
    match () {
        () if all(&names, Format::Bf16) => "bf16",
        () if all(&names, Format::Fp16) => "fp16",
        () if all(&products, Format::Bf16) => "mixed",
        () if all(&products, Format::Fp16) => "mixed-fp16",
        () => "f32",
    }
}

/// Whether a tensor is a result of the first inference, and nothing that was handed to it.
fn is_result(name: &str) -> bool {
    let given = ["input_ids", "embodiment_id", "noise", "action_head.state"];
    name.strip_prefix("000/").is_some_and(|tap| {
        !given.contains(&tap)
            && !tap.starts_with("pixel_values")
            && !tap.ends_with(".timestep")
            && !tap.ends_with("vision.patches")
    })
}

/// The share of these tensors, or of some of them, that hold values of `format` alone; none of none.
fn share_in(trace: &Trace, names: &[&str], format: Format) -> f64 {
    let every = names.len().div_ceil(SAMPLED).max(1);
    let (mut seen, mut held) = (0usize, 0usize);
    for name in names.iter().step_by(every) {
        let Ok(values) = trace.read(name) else { continue };
        seen += 1;
        held += usize::from(values.iter().all(|value| value.is_nan() || format.round(*value) == *value));
    }
    if seen == 0 { 0.0 } else { held as f64 / seen as f64 }
}
