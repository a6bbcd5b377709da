//! The faults that a diagnosis is tested on: each in a strong and a weak variant.

use super::Fault;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::precision::Formats;

/// One fault in two strengths.
#[derive(Debug, Clone)]
pub struct Case {
    /// What goes wrong, in the words of the people it happens to.
    pub name: &'static str,
    /// Hard to miss.
    pub strong: Fault,
    /// Near what rounding does, or in one place only.
    pub weak: Fault,
}

const NARROW_FP16: Formats = Formats::new(Format::Fp16, Format::Fp16, Format::F32);

/// The suite for a model of these sizes.
pub fn suite(config: &Config) -> Vec<Case> {
    let sites = Sites::new(config);
    let mut cases = buffers(&sites);
    cases.extend(formats(&sites));
    cases.extend(mathematics(config, &sites));
    cases.extend(inputs());
    cases
}

/// Places in the middle of the model.
struct Sites {
    /// An even DiT block, which cross-attends.
    cross: String,
    /// The odd block after it, which attends to itself.
    own: String,
    language: String,
    vision: String,
}

impl Sites {
    fn new(config: &Config) -> Self {
        let middle = config.diffusion_model_cfg.num_layers / 4 * 2;
        Sites {
            cross: format!("dit.block.{middle}"),
            own: format!("dit.block.{}", middle + 1),
            language: format!("language.layer.{}", config.select_layer / 2),
            vision: format!("vision.layer.{}", config.eagle_config.vision_config.num_hidden_layers / 2),
        }
    }
}

fn owned(site: &str) -> String {
    site.to_owned()
}

/// Buffers between the engine and its caller.
fn buffers(sites: &Sites) -> Vec<Case> {
    let misread = |site: &str, stored, read| Fault::Reinterpreted { site: owned(site), stored, read };
    vec![
        Case {
            name: "bf16 read as fp16",
            strong: misread("dit.output", Format::Bf16, Format::Fp16),
            weak: misread(&format!("{}.attention_output", sites.cross), Format::Bf16, Format::Fp16),
        },
        Case {
            name: "fp16 read as bf16",
            strong: misread("dit.output", Format::Fp16, Format::Bf16),
            weak: misread(&format!("{}.gated", sites.language), Format::Fp16, Format::Bf16),
        },
        Case {
            name: "f32 buffer read as bf16",
            strong: misread("dit.output", Format::F32, Format::Bf16),
            weak: misread(&format!("{}.attention_output", sites.own), Format::F32, Format::Bf16),
        },
        Case {
            name: "output of the previous call",
            strong: Fault::Stale { site: owned("dit.output") },
            weak: Fault::Stale { site: format!("{}.attention", sites.own) },
        },
        Case {
            name: "unwritten tail",
            strong: Fault::UnwrittenTail { site: owned("dit.output"), tokens: 8 },
            weak: Fault::UnwrittenTail { site: owned("language.norm"), tokens: 1 },
        },
    ]
}

/// Number formats in places where they do not fit.
fn formats(sites: &Sites) -> Vec<Case> {
    let narrow = |site: &str, formats| Fault::Narrow { site: owned(site), formats };
    let all = |format| Formats::new(format, format, Format::F32);
    let accumulate = |format| Formats::new(Format::F32, Format::F32, format);
    vec![
        Case {
            name: "residual stream in fp8",
            strong: narrow(&format!("{}.residual1", sites.own), all(Format::Fp8E4m3)),
            weak: narrow(&format!("{}.residual1", sites.own), NARROW_FP16),
        },
        Case {
            name: "norm statistics in a narrow format",
            strong: narrow(&format!("{}.norm1", sites.language), accumulate(Format::Fp8E4m3)),
            weak: narrow(&format!("{}.norm1", sites.language), accumulate(Format::Fp16)),
        },
        Case {
            name: "low-precision softmax",
            strong: narrow(&format!("{}.attention", sites.own), accumulate(Format::Fp8E4m3)),
            weak: narrow(&format!("{}.attention", sites.own), accumulate(Format::Bf16)),
        },
        Case {
            name: "Euler state in a narrow format",
            strong: narrow("euler", all(Format::Bf16)),
            weak: narrow("euler", all(Format::Fp16)),
        },
        Case {
            name: "one layer silently at low precision",
            strong: narrow(&sites.own, all(Format::Fp8E4m3)),
            weak: narrow(&sites.own, all(Format::Bf16)),
        },
        Case {
            name: "fp8 scale stale",
            strong: Fault::StaleScale { site: format!("{}.fc1", sites.own), fraction: 0.1 },
            weak: Fault::StaleScale { site: format!("{}.fc1", sites.own), fraction: 0.7 },
        },
        Case {
            name: "timestep angle in bf16",
            strong: Fault::TimestepAngle { format: Format::Bf16 },
            weak: Fault::TimestepAngle { format: Format::Fp16 },
        },
    ]
}

/// Another computation than the model's.
fn mathematics(config: &Config, sites: &Sites) -> Vec<Case> {
    let heads = config.diffusion_model_cfg.num_attention_heads;
    let text = &config.eagle_config.text_config;
    let last = config.select_layer - 1;
    let other_slot = usize::from(config.max_num_embodiments > 1);
    vec![
        Case {
            name: "fully masked row",
            strong: Fault::MaskedRow { site: format!("{}.attention", sites.cross) },
            weak: Fault::MaskedRow { site: format!("language.layer.{last}.attention") },
        },
        Case {
            name: "text and image masks exchanged",
            strong: Fault::SwappedMasks,
            weak: Fault::SwappedMasks,
        },
        Case {
            name: "causal mask missing",
            strong: Fault::NotCausal { layer: 0 },
            weak: Fault::NotCausal { layer: last },
        },
        Case {
            name: "timestep off or folded",
            strong: Fault::TimestepFolded,
            weak: Fault::TimestepOffset { buckets: 1 },
        },
        Case {
            name: "wrong epsilon",
            strong: Fault::Eps { site: owned("dit"), eps: 1e-2 },
            weak: Fault::Eps { site: format!("{}.norm1", sites.vision), eps: 1e-4 },
        },
        Case {
            name: "erf and tanh GELU confused",
            strong: Fault::SwappedGelu { site: owned("dit") },
            weak: Fault::SwappedGelu { site: owned("connector") },
        },
        Case {
            name: "QKV transposed or mis-grouped",
            strong: Fault::TransposedHeads { site: format!("{}.query", sites.own), heads },
            weak: Fault::MisgroupedHeads {
                site: format!("{}.key", sites.language),
                heads: text.num_key_value_heads,
            },
        },
        Case {
            name: "wrong embodiment slot",
            strong: Fault::Embodiment { slot: other_slot },
            weak: Fault::Embodiment { slot: other_slot },
        },
        Case {
            name: "one layer with old weights",
            strong: Fault::OldWeights { site: format!("{}.fc1", sites.own), change: 0.3 },
            weak: Fault::OldWeights { site: format!("{}.fc1", sites.own), change: 0.01 },
        },
    ]
}

/// Other inputs than the reference's.
fn inputs() -> Vec<Case> {
    vec![
        Case {
            name: "unpaired noise",
            strong: Fault::UnpairedNoise { seed: 1 },
            weak: Fault::UnpairedNoise { seed: 2 },
        },
        Case {
            name: "channel order or resize of the image wrong",
            strong: Fault::ChannelOrder,
            weak: Fault::ShiftedPixels,
        },
        Case {
            name: "statistics of another dataset",
            strong: Fault::OtherStatistics { spread: 0.5 },
            weak: Fault::OtherStatistics { spread: 0.02 },
        },
    ]
}
