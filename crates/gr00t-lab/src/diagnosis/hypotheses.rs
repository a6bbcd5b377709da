//! Which faults could be behind local errors at given places.

use super::LocalError;
use crate::fault::{Fault, is_category_specific};
use steadyhand_fidelity::Format;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::precision::Formats;

/// Formats that something may have been run in by mistake, the narrowest last.
const NARROW: [Format; 5] = [Format::Tf32, Format::Fp16, Format::Bf16, Format::Fp8E4m3, Format::Fp8E5m2];
/// What was written and what was read.
const MISREAD: [(Format, Format); 5] = [
    (Format::Bf16, Format::Fp16),
    (Format::Fp16, Format::Bf16),
    (Format::F32, Format::Bf16),
    (Format::F32, Format::Fp16),
    (Format::Bf16, Format::F32),
];
/// Epsilons found in the configurations of transformers.
const EPSILONS: [f64; 9] = [0.0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2];

/// Faults that touch exactly such places: `errors` are those local errors that rounding cannot explain, in
/// the order of execution.
pub fn at_site(config: &Config, errors: &[&LocalError]) -> Vec<Fault> {
    let Some(first) = errors.first() else { return Vec::new() };
    let site = first.path.as_str();
    let name = site.rsplit('.').next().unwrap_or(site);
    let common = common_path(errors);
    let mut faults = inputs(config, site);
    faults.extend(time(site));
    faults.extend(operation(config, site, name, &common));
    faults.extend(buffer(config, site));
    faults.extend(narrow(site, &common));
    if first.peak < 0.99 {
        // A scale made for smaller values cuts off what exceeds them.
        faults.push(Fault::StaleScale { site: site.to_owned(), fraction: first.peak as f32 });
    }
    faults.push(Fault::OldWeights { site: site.to_owned(), change: 0.0 });
    faults
}

/// Faults worth trying where nothing but the actions is known: those of whole parts, and of the buffers
/// between the parts that deployments cut the model into.
pub fn catalogue(config: &Config) -> Vec<Fault> {
    let mut faults: Vec<Fault> = ["noise", "vision.patches", "action_head.state"]
        .iter()
        .flat_map(|site| inputs(config, site))
        .collect();
    faults.extend(time("dit.timestep_projection"));
    faults.push(Fault::SwappedMasks);
    faults.push(Fault::NotCausal { layer: 0 });
    faults.extend((0..config.max_num_embodiments).map(|slot| Fault::Embodiment { slot }));
    for site in ["dit.output", "decoder", "language.norm", "action_head.state_features", "connector", "euler"]
    {
        faults.extend(buffer(config, site));
    }
    for part in ["vision", "connector", "language", "dit"] {
        faults.push(Fault::SwappedGelu { site: part.to_owned() });
        faults.extend(EPSILONS.map(|eps| Fault::Eps { site: part.to_owned(), eps }));
    }
    for part in
        ["vision", "connector", "language", "action_head", "action_encoder", "dit", "decoder", "euler"]
    {
        // Fp16 accumulation is left out, for the reason in `narrow`.
        let slow = |fault: &Fault| matches!(fault, Fault::Narrow { formats, .. } if formats.accumulate == Format::Fp16);
        faults.extend(narrow(part, part).into_iter().filter(|fault| !slow(fault)));
    }
    faults
}

/// The longest path that all of the places lie at or below; empty where they are all over the model.
fn common_path(errors: &[&LocalError]) -> String {
    let mut common: Vec<&str> = errors[0].path.split('.').collect();
    for error in errors {
        let shared = common.iter().zip(error.path.split('.')).take_while(|(a, b)| **a == *b).count();
        common.truncate(shared);
    }
    common.join(".")
}

fn inputs(config: &Config, site: &str) -> Vec<Fault> {
    match site {
        "vision.patches" => vec![Fault::ChannelOrder, Fault::ShiftedPixels, Fault::OtherPixels],
        "noise" => vec![Fault::UnpairedNoise { seed: 0 }],
        "action_head.state" => vec![Fault::OtherStatistics { spread: 0.0 }],
        _ if is_category_specific(&Site::new(site)) => {
            (0..config.max_num_embodiments).map(|slot| Fault::Embodiment { slot }).collect()
        }
        _ => Vec::new(),
    }
}

fn time(site: &str) -> Vec<Fault> {
    if !matches!(site, "dit.timestep_projection" | "action_encoder.time") {
        return Vec::new();
    }
    let mut faults = vec![Fault::TimestepFolded];
    faults.extend([-2, -1, 1, 2].map(|buckets| Fault::TimestepOffset { buckets }));
    faults.extend([Format::Bf16, Format::Fp16, Format::Tf32].map(|format| Fault::TimestepAngle { format }));
    faults
}

/// Another computation than this kind of operation's.
fn operation(config: &Config, site: &str, name: &str, common: &str) -> Vec<Fault> {
    let owned = || [site, common].into_iter().filter(|path| !path.is_empty()).map(str::to_owned);
    let mut faults = Vec::new();
    if name.contains("norm") {
        faults.extend(owned().flat_map(|site| EPSILONS.map(|eps| Fault::Eps { site: site.clone(), eps })));
    }
    if name == "gelu" {
        faults.extend(owned().map(|site| Fault::SwappedGelu { site }));
    }
    if name == "attention" {
        faults.push(Fault::MaskedRow { site: site.to_owned() });
        if let Some(layer) = site.strip_prefix("language.layer.").and_then(|rest| rest.split('.').next()) {
            faults.extend(layer.parse().ok().map(|layer| Fault::NotCausal { layer }));
        }
    }
    if name == "key" && site.starts_with("dit.block.") {
        faults.push(Fault::SwappedMasks);
    }
    if matches!(name, "query" | "key" | "value") {
        for heads in head_counts(config, site) {
            faults.push(Fault::TransposedHeads { site: site.to_owned(), heads });
            faults.push(Fault::MisgroupedHeads { site: site.to_owned(), heads });
        }
    }
    faults
}

fn head_counts(config: &Config, site: &str) -> Vec<usize> {
    let text = &config.eagle_config.text_config;
    match site.split('.').next() {
        Some("vision") => vec![config.eagle_config.vision_config.num_attention_heads],
        Some("language") => vec![text.num_attention_heads, text.num_key_value_heads],
        _ => vec![config.diffusion_model_cfg.num_attention_heads],
    }
}

/// What can happen to any buffer.
fn buffer(config: &Config, site: &str) -> Vec<Fault> {
    let owned = || site.to_owned();
    let mut faults: Vec<Fault> =
        MISREAD.iter().map(|&(stored, read)| Fault::Reinterpreted { site: owned(), stored, read }).collect();
    faults.push(Fault::Stale { site: owned() });
    let most = config.action_horizon.max(8);
    faults.extend((1..=most).map(|tokens| Fault::UnwrittenTail { site: owned(), tokens }));
    faults
}

/// A place, or all of a part, in narrower formats.
fn narrow(site: &str, common: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for format in NARROW {
        let f32 = Format::F32;
        let choices = [
            Formats::new(f32, f32, format),
            Formats::new(f32, format, f32),
            Formats::new(format, f32, f32),
            Formats::new(format, format, f32),
        ];
        for formats in choices {
            // Fp16 accumulation of products is emulated term by term: a replay of a whole part would take minutes.
            let slow = formats.accumulate == Format::Fp16;
            let paths = if site == common || slow { vec![site] } else { vec![site, common] };
            faults.extend(paths.into_iter().map(|path| Fault::Narrow { site: path.to_owned(), formats }));
        }
    }
    faults
}
