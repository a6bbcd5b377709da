//! Whole layers in fp8. What kinds of sites cost one at a time need not add up: a kernel of other operands than its
//! neighbours' may cost more than it does among its own.

use super::groups::Group;
use super::measure::Measurer;
use super::sensitivity::{Base, Choices, GroupOption, KindEffect};
use serde::Serialize;
use std::collections::BTreeMap;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::Result;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// The preset that says which products of a layer get its format together.
const PRESET: &str = "fp8";
/// The format.
const FORMAT: Format = Format::Fp8E4m3;

/// The layers of a part of the model.
#[derive(Debug, Clone)]
pub(super) struct Section {
    /// Such as `dit.block.*`.
    name: String,
    /// The groups of each layer that [`PRESET`] has in [`FORMAT`].
    layers: Vec<Vec<usize>>,
}

/// What it does to give all layers of a section, as wholes, another format.
#[derive(Debug, Clone, Serialize)]
pub struct SectionEffect {
    /// The section, such as `dit.block.*`.
    pub section: String,
    /// The format.
    pub format: Format,
    /// How many layers got it.
    pub layers: usize,
    /// Error with it, everything else as the best base has it; none where actions are not finite.
    pub error: Option<f64>,
    /// What it costs an inference, compared with the best base.
    pub cost_difference: f64,
    /// The standard error of that.
    pub noise: f64,
    /// Whether that is a saving beyond the noise, so that its groups were measured one by one.
    pub saves: bool,
    #[serde(skip)]
    of: Section,
}

/// A layer that costs less in one format than its groups cost in it one at a time.
#[derive(Debug, Clone)]
pub(super) struct Together {
    pub(super) groups: Vec<usize>,
    pub(super) format: Format,
    /// What is added to the sum of their costs: below zero.
    pub(super) cost: f64,
}

impl Together {
    /// Whether a choice of formats by group has the layer so.
    pub(super) fn is_in(&self, format_of: impl Fn(usize) -> Format) -> bool {
        self.groups.iter().all(|group| format_of(*group) == self.format)
    }
}

/// The sections of the model. Layers whose ranges exclude the format somewhere are left out.
fn sections(choices: &Choices) -> Result<Vec<Section>> {
    let preset = PrecisionPolicy::preset(PRESET)?;
    let narrow = |group: &Group| group.sites.iter().all(|path| preset.formats_of(path).compute == FORMAT);
    let mut layers: BTreeMap<(&str, usize), Vec<usize>> = BTreeMap::new();
    for (index, group) in choices.groups.groups.iter().enumerate().filter(|(_, group)| narrow(group)) {
        if let Some(layer) = group.layer {
            layers.entry((&group.section, layer)).or_default().push(index);
        }
    }
    layers.retain(|_, groups| groups.iter().all(|group| !choices.is_excluded(*group, FORMAT)));
    let mut found: BTreeMap<&str, Vec<Vec<usize>>> = BTreeMap::new();
    layers.into_iter().for_each(|((section, _), groups)| found.entry(section).or_default().push(groups));
    Ok(found.into_iter().map(|(name, layers)| Section { name: format!("{name}.*"), layers }).collect())
}

/// Measures each section in the format; what the target refuses is left out.
///
/// # Errors
/// Those of the measurements.
pub(super) fn measure(m: &mut Measurer, choices: &Choices, best: &Base) -> Result<Vec<SectionEffect>> {
    let sections = sections(choices)?;
    m.phase("sections", sections.len());
    let mut effects = Vec::new();
    for of in sections {
        let mut chosen = best.defaults.clone();
        of.layers.iter().flatten().for_each(|group| chosen[*group] = FORMAT);
        let policy = choices.policy(best.name, &chosen, &format!("{} {FORMAT}", of.name))?;
        if m.runs(&policy, &choices.sites)
            && let Some(error) = m.error(&policy)?
            && let Some((cost, noise)) = m.cost(&policy, &choices.ranges, false)?
        {
            let cost_difference = cost - best.cost;
            effects.push(SectionEffect {
                section: of.name.clone(),
                format: FORMAT,
                layers: of.layers.len(),
                error: Some(m.level(&error)).filter(|error| error.is_finite()),
                cost_difference,
                noise,
                saves: -cost_difference > choices.least_difference(noise, best.cost),
                of,
            });
        }
        m.done();
    }
    Ok(effects)
}

impl SectionEffect {
    /// The share that these groups have of what the section saves; nothing where the section does not save, or has not
    /// all of them.
    pub(super) fn saved_by(&self, groups: &[usize], format: Format) -> f64 {
        let all: Vec<usize> = self.of.layers.iter().flatten().copied().collect();
        let within = format == self.format && groups.iter().all(|group| all.contains(group));
        if self.saves && within {
            -self.cost_difference * groups.len() as f64 / all.len() as f64
        } else {
            0.0
        }
    }

    /// The section's layers, where they cost less as wholes than the sum of `options`, the effects of their groups one
    /// at a time. `kinds` are what those follow from.
    pub(super) fn together(
        &self,
        choices: &Choices,
        options: &[Vec<GroupOption>],
        kinds: &[KindEffect],
        best: &Base,
    ) -> Vec<Together> {
        let cost_of = |group: &usize| options[*group].iter().find(|option| option.format == self.format);
        let apart = self.of.layers.iter().flatten().map(|group| Some(cost_of(group)?.cost));
        let Some(apart) = apart.sum::<Option<f64>>() else { return Vec::new() };
        let of_section = |effect: &&KindEffect| {
            let names = self.of.layers.iter().flatten().map(|group| choices.groups.groups[*group].kind);
            effect.format == self.format
                && names.into_iter().any(|kind| choices.groups.kinds[kind].name == effect.kind)
        };
        let noises = kinds.iter().filter(of_section).map(|effect| effect.noise).chain([self.noise]);
        let noise = noises.map(|noise| noise.powi(2)).sum::<f64>().sqrt();
        let extra = self.cost_difference - apart;
        if -extra <= choices.least_difference(noise, best.cost) {
            return Vec::new();
        }
        let cost = extra / self.of.layers.len() as f64;
        let layer = |groups: &Vec<usize>| Together { groups: groups.clone(), format: self.format, cost };
        self.of.layers.iter().map(layer).collect()
    }
}
