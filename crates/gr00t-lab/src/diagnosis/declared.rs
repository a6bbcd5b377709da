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
/// The key that names the tensor that is the backbone's features.
pub const FEATURES: &str = "features";

/// Tensors that are looked at.
const SAMPLED: usize = 48;
/// Share of them that must hold values of a format alone.
const SHARE: f64 = 0.9;
/// Names of products, which mixed precision rounds and keeps the rest in f32.
const PRODUCTS: [&str; 8] = ["query", "key", "value", "fc1", "fc2", "gate", "up", "down"];

/// The preset that a trace's tensors of the first inference look like: 16 bits where nearly all hold values of such a
/// format alone, mixed where only the products do, f32 otherwise. Where some are of one 16-bit format and some of the
/// other, most of them decide.
pub fn precision_of(trace: &Trace) -> &'static str {
    let names: Vec<&str> = trace.names().filter(|name| is_result(name)).collect();
    let ends = |name: &&&str| PRODUCTS.iter().any(|product| name.ends_with(&format!(".{product}")));
    let products: Vec<&str> = names.iter().filter(ends).copied().collect();
    match (sixteen_bits(trace, &names), sixteen_bits(trace, &products)) {
        (Some(Format::Bf16), _) => "bf16",
        (Some(_), _) => "fp16",
        (None, Some(Format::Bf16)) => "mixed",
        (None, Some(_)) => "mixed-fp16",
        (None, None) => "f32",
    }
}

/// Whether a tensor is a result of the first inference, and nothing that was handed to it.
fn is_result(name: &str) -> bool {
    let given = ["input_ids", "position_ids", "embodiment_id", "noise", "action_head.state"];
    name.strip_prefix("000/").is_some_and(|tap| {
        !given.contains(&tap)
            && !tap.starts_with("pixel_values")
            && !tap.ends_with(".timestep")
            && !tap.ends_with("vision.patches")
    })
}

/// The 16-bit format that most of these tensors, or of some of them, hold values of alone; none where fewer than [`SHARE`]
/// hold values of either.
fn sixteen_bits(trace: &Trace, names: &[&str]) -> Option<Format> {
    let every = names.len().div_ceil(SAMPLED).max(1);
    let (mut seen, mut bf16, mut fp16) = (0usize, 0usize, 0usize);
    for name in names.iter().step_by(every) {
        let Ok(values) = trace.read(name) else { continue };
        let holds =
            |format: Format| values.iter().all(|value| value.is_nan() || format.round(*value) == *value);
        seen += 1;
        // Values of moderate size that bf16 holds exist in fp16 too; of those that fp16 holds, bf16 has an eighth.
        match holds(Format::Bf16) {
            true => bf16 += 1,
            false => fp16 += usize::from(holds(Format::Fp16)),
        }
    }
    let most = if bf16 >= fp16 { Format::Bf16 } else { Format::Fp16 };
    (seen > 0 && (bf16 + fp16) as f64 >= SHARE * seen as f64).then_some(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use steadyhand_fidelity::TraceWriter;

    /// The preset that tensors of these names and formats look like.
    fn look(tensors: &[(&str, Format)]) -> &'static str {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = TraceWriter::create(folder.path(), BTreeMap::new()).expect("a trace");
        let values: Vec<f32> = (0..64).map(|index| (index as f32 * 0.7).sin()).collect();
        for (name, format) in tensors {
            let mut values = values.clone();
            format.round_slice(&mut values);
            writer.add(&format!("000/{name}"), &[64], &values).expect("written");
        }
        writer.finish().expect("finished");
        precision_of(&Trace::open(folder.path()).expect("a trace"))
    }

    #[test]
    fn a_trace_looks_like_what_most_of_its_tensors_hold() {
        use Format::{Bf16, F32, Fp16};
        assert_eq!(look(&[("connector", Bf16), ("dit.output", Bf16)]), "bf16");
        assert_eq!(look(&[("connector", Fp16), ("dit.output", Fp16)]), "fp16");
        // A bf16 engine whose output was read as fp16.
        assert_eq!(look(&[("connector", Bf16), ("decoder", Bf16), ("dit.output", Fp16)]), "bf16");
        assert_eq!(look(&[("dit.block.0.fc1", Bf16), ("dit.block.0", F32), ("connector", F32)]), "mixed");
        assert_eq!(look(&[("connector", F32), ("noise", Bf16)]), "f32");
        assert_eq!(look(&[]), "f32");
    }
}
