//! Faults in words: what happened, and what to do about it.

use super::Fault;

impl Fault {
    /// What happened, as the end of a sentence that begins "The engine".
    pub fn describe(&self) -> String {
        match self {
            Fault::Reinterpreted { site, stored, read } if stored.bits() == read.bits() => {
                format!("writes {stored} at `{site}` and the bytes are read as {read}")
            }
            Fault::Reinterpreted { site, stored, read } => format!(
                "writes {}-bit {stored} at `{site}` into a buffer that is read as {}-bit {read}",
                stored.bits(),
                read.bits()
            ),
            Fault::Stale { site } => format!("gives the previous inference's `{site}`"),
            Fault::UnwrittenTail { site, tokens } => {
                format!("never writes the last {tokens} tokens of `{site}`")
            }
            Fault::MaskedRow { site } => format!("lets a query of `{site}` see no key: 0 / 0"),
            Fault::Narrow { site, formats } => format!(
                "runs {} in other formats: storage {}, compute {}, accumulation {}",
                place(site),
                formats.storage,
                formats.compute,
                formats.accumulate
            ),
            Fault::SwappedMasks => {
                "shows image tokens to the blocks that should see text, and the reverse".to_owned()
            }
            Fault::NotCausal { layer } => {
                format!("runs the language layers from {layer} on without the causal mask")
            }
            Fault::TimestepAngle { format } => {
                format!("rounds the angles of the timestep embedding to {format}")
            }
            Fault::TimestepOffset { buckets } => {
                format!("is told a timestep that is {buckets:+} buckets off")
            }
            Fault::TimestepFolded => "sees the first step's timestep in every Euler step".to_owned(),
            Fault::Eps { site, eps } => format!("uses an epsilon of {eps:e} in `{site}`"),
            Fault::SwappedGelu { site } => format!("confuses the erf and tanh forms of GELU in `{site}`"),
            Fault::TransposedHeads { site, .. } => {
                format!("lays `{site}` out as [head_dim, heads] instead of [heads, head_dim]")
            }
            Fault::MisgroupedHeads { site, heads } => {
                format!("exchanges neighbours among the {heads} heads of `{site}`")
            }
            Fault::Embodiment { slot } => format!("uses the weights of embodiment slot {slot}"),
            Fault::OldWeights { site, .. } => {
                format!(
                    "computes `{site}` otherwise than the checkpoint's weights do, on inputs that are right"
                )
            }
            Fault::StaleScale { site, fraction } => format!(
                "cuts `{site}` off at {:.0} % of its range, as an fp8 scale from other data does",
                fraction * 100.0
            ),
            Fault::UnpairedNoise { .. } => "starts from other noise than the reference".to_owned(),
            Fault::ChannelOrder => "is given BGR images".to_owned(),
            Fault::ShiftedPixels => "is given images resized half a pixel off".to_owned(),
            Fault::OtherPixels => "is given other pixels than the reference".to_owned(),
            Fault::OtherStatistics { .. } => {
                "is given another normalized state than the reference".to_owned()
            }
        }
    }

    /// What to do about it.
    pub fn fix(&self) -> String {
        match self {
            Fault::Reinterpreted { stored, .. } => format!(
                "allocate the output buffer with the engine's own type, {stored}, as the binding reports it, and convert by value"
            ),
            Fault::Stale { .. } | Fault::UnwrittenTail { .. } => {
                "check that the buffer bound is the one that is read, its size, and that reading waits for the stream".to_owned()
            }
            Fault::MaskedRow { .. } => "give every query at least one key, or skip the row".to_owned(),
            Fault::Narrow { site, .. } => format!("keep {} in a wider format: a layer precision, or a Cast in the export", place(site)),
            Fault::SwappedMasks => "exchange the masks image_mask and not image_mask of the cross-attention blocks".to_owned(),
            Fault::NotCausal { .. } => "export the language model with its causal mask".to_owned(),
            Fault::TimestepAngle { .. } => "compute the timestep's angles in f32 and round after sine and cosine".to_owned(),
            Fault::TimestepOffset { .. } => "pass int(t * num_timestep_buckets) with t = step / steps".to_owned(),
            Fault::TimestepFolded => "export the timestep as an input, not as the constant it was traced with".to_owned(),
            Fault::Eps { .. } => "take the epsilon from the checkpoint's configuration (MODEL.md lists them)".to_owned(),
            Fault::SwappedGelu { .. } => "use tanh GELU in the vision tower and the DiT, erf GELU in the connector".to_owned(),
            Fault::TransposedHeads { .. } | Fault::MisgroupedHeads { .. } => {
                "compare the reshape and transpose around this projection with the checkpoint's layout".to_owned()
            }
            Fault::Embodiment { .. } => "pass the slot that embodiment_id.json gives for the tag".to_owned(),
            Fault::OldWeights { site, .. } => {
                format!("compare the weights of `{site}` in the engine with the checkpoint's, and rebuild the engine from it")
            }
            Fault::StaleScale { site, .. } => format!("calibrate `{site}` again on this dataset and embodiment"),
            Fault::UnpairedNoise { .. } => "give both engines the same initial noise before comparing them".to_owned(),
            Fault::ChannelOrder => "convert BGR to RGB before the processor".to_owned(),
            Fault::ShiftedPixels | Fault::OtherPixels => {
                "compare resizing, cropping and normalization with processor_config.json".to_owned()
            }
            Fault::OtherStatistics { .. } => "use the checkpoint's own statistics.json, and the same state".to_owned(),
        }
    }
}

/// A site as it stands in a sentence.
fn place(site: &str) -> String {
    if site.is_empty() { "the whole model".to_owned() } else { format!("`{site}`") }
}
