//! What each choice of a format does to the error and to the cost, measured.

use super::groups::{Group, Groups, Kind};
use super::measure::Measurer;
use super::ranges::{Damage, Finding, Ranges};
use super::sections::{self, SectionEffect, Together};
use super::target::{BASELINE, Unit};
use serde::Serialize;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::Calibration;
use steadyhand_gr00t::precision::{Formats, Pattern, PrecisionPolicy, Rule};
use steadyhand_gr00t::{Error, Result};

/// Operand formats that are chosen from.
pub const FORMATS: [Format; 4] = [Format::Bf16, Format::Fp16, Format::Fp8E4m3, Format::F32];
/// The presets that a policy starts from: they decide what results are stored in.
pub const BASES: [&str; 4] = ["bf16", "mixed", "mixed-fp16", "fp16"];
/// What a group gets where the base's format overflows: the range of f32 at the cost of fp16.
const FALLBACK: Format = Format::Bf16;
/// What a storage format that overflows is replaced by.
const WIDE: Format = Format::F32;
/// Standard errors that a saving must exceed to count as one.
const SIGNIFICANT: f64 = 3.0;
/// The share of the best base's cost that a measured saving must exceed as well: taking turns may favour one of two
/// engines a little.
const NOTICEABLE: f64 = 1e-3;
/// The share of the time after which no more kinds, or groups, are measured.
const UNTIL: [f64; 2] = [0.45, 0.65];

/// The choices that a model and its ranges leave.
pub(super) struct Choices {
    pub(super) sites: Vec<ModelSite>,
    pub(super) groups: Groups,
    pub(super) ranges: Ranges,
    pub(super) calibration: Calibration,
    /// By group and format of [`FORMATS`]: why it is excluded.
    pub(super) excluded: Vec<[Option<Finding>; FORMATS.len()]>,
    /// What costs are counted in.
    pub(super) unit: Unit,
}

/// A preset with what its ranges ask for.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub(super) name: &'static str,
    /// Its operand format.
    pub(super) compute: Format,
    /// What it stores results in.
    pub(super) storage: Format,
    /// Its operand formats by group, where something else is needed included.
    pub(super) defaults: Vec<Format>,
    pub(super) error: f64,
    pub(super) cost: f64,
}

/// What it does to give all groups of a kind another format.
#[derive(Debug, Clone, Serialize)]
pub struct KindEffect {
    /// The kind's name.
    pub kind: String,
    /// The format.
    pub format: Format,
    /// How many groups got it.
    pub groups: usize,
    /// Error with it, everything else as the best base has it; none where actions are not finite.
    pub error: Option<f64>,
    /// What it costs an inference, compared with the best base.
    pub cost_difference: f64,
    /// The standard error of that.
    pub noise: f64,
    /// Whether that is a saving beyond the noise. Its groups were then measured one by one, as they are where its
    /// section saves.
    pub saves: bool,
}

/// What it does to give one group another format.
#[derive(Debug, Clone, Serialize)]
pub struct GroupEffect {
    /// The group's name.
    pub group: String,
    /// The number of its layer.
    pub layer: Option<usize>,
    /// Its kind.
    pub kind: String,
    /// The format.
    pub format: Format,
    /// Error with it, everything else as the best base has it; none where actions are not finite.
    pub error: Option<f64>,
}

/// What raising a kind's operands to f32 does to the baseline.
#[derive(Debug, Clone, Serialize)]
pub struct Raising {
    /// The kind's name.
    pub kind: String,
    /// The baseline's error with the kind's operands in f32.
    pub error: Option<f64>,
}

/// Everything that was learned about choices.
pub(super) struct Sensitivity {
    pub(super) bases: Vec<Base>,
    /// The base of least error, from which formats are lowered.
    pub(super) best: usize,
    pub(super) sections: Vec<SectionEffect>,
    pub(super) kinds: Vec<KindEffect>,
    pub(super) raising: Vec<Raising>,
    pub(super) groups: Vec<GroupEffect>,
    /// By group: what can be chosen.
    pub(super) options: Vec<Vec<GroupOption>>,
    /// What layers cost besides when all of their groups are chosen so.
    pub(super) together: Vec<Together>,
    /// Whether time was up before everything was measured.
    pub(super) cut_short: bool,
}

/// A format that a group can get.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupOption {
    pub(super) format: Format,
    /// What it adds to the square of the best base's error.
    pub(super) square: f64,
    /// What it adds to the best base's cost.
    pub(super) cost: f64,
}

impl Choices {
    pub(super) fn new(
        sites: Vec<ModelSite>,
        groups: Groups,
        ranges: Ranges,
        calibration: Calibration,
        unit: Unit,
    ) -> Self {
        let overflow = |group: &Group, format: Format| {
            let findings = group.sites.iter().flat_map(|path| ranges.operand_findings(path, format));
            findings.into_iter().find(|finding| finding.damage == Damage::Overflow)
        };
        let excluded = groups.groups.iter().map(|group| FORMATS.map(|f| overflow(group, f))).collect();
        Choices { sites, groups, ranges, calibration, excluded, unit }
    }

    pub(super) fn is_excluded(&self, group: usize, format: Format) -> bool {
        FORMATS.iter().zip(&self.excluded[group]).any(|(known, why)| *known == format && why.is_some())
    }

    /// Operand formats of every group under a preset's operand format.
    fn defaults(&self, compute: Format) -> Vec<Format> {
        let default = |group| if self.is_excluded(group, compute) { FALLBACK } else { compute };
        (0..self.groups.groups.len()).map(default).collect()
    }

    /// A base with these operand formats by group.
    pub(super) fn policy(&self, base: &str, formats: &[Format], name: &str) -> Result<PrecisionPolicy> {
        let preset = PrecisionPolicy::preset(base)?;
        let of_group = |(group, format): (&Group, &Format)| {
            let has = |path: &String| preset.formats_of(path).compute == *format;
            (!group.sites.iter().all(has)).then_some(*format)
        };
        let chosen: Vec<Option<Format>> = self.groups.groups.iter().zip(formats).map(of_group).collect();
        let scaled = self.groups.groups.iter().zip(formats).any(|(g, format)| g.linear && format.bits() == 8);
        let policy = self.storage_rules(&preset).into_iter().fold(preset, PrecisionPolicy::with_rule);
        let policy =
            self.groups.rules(&chosen)?.into_iter().fold(policy, PrecisionPolicy::with_rule).named(name);
        Ok(if scaled { policy.with_calibration(self.calibration.clone()) } else { policy })
    }

    /// What a difference of costs must exceed to be one: nothing where costs are counted.
    pub(super) fn least_difference(&self, noise: f64, cost: f64) -> f64 {
        match self.unit {
            Unit::Bytes => 0.0,
            Unit::Milliseconds => (SIGNIFICANT * noise).max(NOTICEABLE * cost),
        }
    }

    /// Wider storage for results that overflow the preset's.
    fn storage_rules(&self, preset: &PrecisionPolicy) -> Vec<Rule> {
        let overflows = |path: &str| {
            let found = self.ranges.result_finding(path, preset.formats_of(path).storage);
            found.is_some_and(|finding| finding.damage == Damage::Overflow)
        };
        let sites = self.sites.iter().filter(|site| overflows(&site.path));
        let rule = |site: &ModelSite| Rule {
            pattern: Pattern::path(&site.path),
            storage: Some(WIDE),
            compute: None,
            accumulate: None,
            scale: None,
            weights: None,
            activations: None,
        };
        sites.map(rule).collect()
    }
}

impl Sensitivity {
    /// Measures the bases, then sections and kinds, then the groups of those that save something.
    ///
    /// # Errors
    /// Those of the measurements.
    pub(super) fn measure(m: &mut Measurer, choices: &Choices) -> Result<Self> {
        let bases = bases(m, choices)?;
        let least = |a: &(usize, &Base), b: &(usize, &Base)| a.1.error.total_cmp(&b.1.error);
        let best = bases.iter().enumerate().min_by(least).map_or(0, |(index, _)| index);
        let mut found = Sensitivity {
            bases,
            best,
            sections: Vec::new(),
            kinds: Vec::new(),
            raising: Vec::new(),
            groups: Vec::new(),
            options: Vec::new(),
            together: Vec::new(),
            cut_short: false,
        };
        found.measure_sections(m, choices)?;
        found.measure_kinds(m, choices)?;
        found.measure_raising(m, choices)?;
        found.measure_groups(m, choices)?;
        found.options =
            (0..choices.groups.groups.len()).map(|group| found.options_of(choices, group)).collect();
        let layers =
            |section: &SectionEffect| section.together(choices, &found.options, &found.kinds, found.best());
        found.together = found.sections.iter().flat_map(layers).collect();
        Ok(found)
    }

    /// The best base.
    pub(super) fn best(&self) -> &Base {
        &self.bases[self.best]
    }

    /// Counted costs add up: there is nothing to learn of whole layers.
    fn measure_sections(&mut self, m: &mut Measurer, choices: &Choices) -> Result<()> {
        if choices.unit == Unit::Milliseconds {
            match m.deadline.passed(UNTIL[0]) {
                true => self.cut_short = true,
                false => self.sections = sections::measure(m, choices, &self.best().clone())?,
            }
        }
        Ok(())
    }

    /// Narrow formats first: where time is short, they matter most.
    fn measure_kinds(&mut self, m: &mut Measurer, choices: &Choices) -> Result<()> {
        let best = self.best().clone();
        let mut formats: Vec<Format> = FORMATS.into_iter().filter(|format| *format != best.compute).collect();
        formats.sort_by_key(|format| format.bits());
        m.phase("kinds of sites", choices.groups.kinds.len() * formats.len());
        for format in formats {
            for kind in &choices.groups.kinds {
                if m.deadline.passed(UNTIL[0]) {
                    self.cut_short = true;
                    return Ok(());
                }
                self.kinds.extend(kind_effect(m, choices, &best, kind, format)?);
                m.done();
            }
        }
        Ok(())
    }

    fn measure_raising(&mut self, m: &mut Measurer, choices: &Choices) -> Result<()> {
        m.phase("raising kinds to f32", choices.groups.kinds.len());
        let compute = PrecisionPolicy::preset(BASELINE)?.formats_of("").compute;
        for kind in &choices.groups.kinds {
            if m.deadline.passed(UNTIL[0]) {
                self.cut_short = true;
                return Ok(());
            }
            let mut chosen = choices.defaults(compute);
            kind.groups.iter().for_each(|group| chosen[*group] = Format::F32);
            let policy = choices.policy(BASELINE, &chosen, &format!("{} f32", kind.name))?;
            if m.runs(&policy, &choices.sites)
                && let Some(error) = m.error(&policy)?
            {
                let error = Some(m.level(&error)).filter(|error| error.is_finite());
                self.raising.push(Raising { kind: kind.name.clone(), error });
            }
            m.done();
        }
        Ok(())
    }

    /// One group at a time, for the formats that save something; those that save most for their error first.
    fn measure_groups(&mut self, m: &mut Measurer, choices: &Choices) -> Result<()> {
        let best = self.best().clone();
        let saved = |effect: &KindEffect| self.saved(choices, effect);
        let mut saving: Vec<&KindEffect> =
            self.kinds.iter().filter(|effect| effect.groups > 1 && saved(effect) > 0.0).collect();
        let worth = |effect: &KindEffect| {
            let square = (effect.error.unwrap_or(f64::INFINITY).powi(2) - best.error.powi(2)).max(0.0);
            saved(effect) / (square + best.error.powi(2)).max(f64::MIN_POSITIVE)
        };
        saving.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
        m.phase("single groups", saving.iter().map(|effect| effect.groups).sum());
        let (mut effects, mut cut_short) = (Vec::new(), false);
        'all: for effect in saving {
            let Some(kind) = choices.groups.kinds.iter().find(|kind| kind.name == effect.kind) else {
                continue;
            };
            for &index in kind.groups.iter().filter(|group| !choices.is_excluded(**group, effect.format)) {
                if m.deadline.passed(UNTIL[1]) {
                    cut_short = true;
                    break 'all;
                }
                let mut chosen = best.defaults.clone();
                chosen[index] = effect.format;
                let group = &choices.groups.groups[index];
                let policy =
                    choices.policy(best.name, &chosen, &format!("{} {}", group.name, effect.format))?;
                if m.runs(&policy, &choices.sites)
                    && let Some(error) = m.error(&policy)?
                {
                    effects.push(GroupEffect {
                        group: group.name.clone(),
                        layer: group.layer,
                        kind: kind.name.clone(),
                        format: effect.format,
                        error: Some(m.level(&error)).filter(|error| error.is_finite()),
                    });
                }
                m.done();
            }
        }
        self.groups = effects;
        self.cut_short |= cut_short;
        Ok(())
    }

    /// What a kind saves by itself, or as a part of whole layers where that is more.
    fn saved(&self, choices: &Choices, effect: &KindEffect) -> f64 {
        let own = if effect.saves { -effect.cost_difference } else { 0.0 };
        let kind = choices.groups.kinds.iter().find(|kind| kind.name == effect.kind);
        let groups = kind.map_or(&[][..], |kind| &kind.groups);
        let shares = self.sections.iter().map(|section| section.saved_by(groups, effect.format));
        shares.fold(own, f64::max)
    }

    /// What a group can get: the best base's format, and every other whose effect is known. A group that was not
    /// measured by itself has its share of its kind.
    fn options_of(&self, choices: &Choices, index: usize) -> Vec<GroupOption> {
        let best = self.best();
        let (group, default) = (&choices.groups.groups[index], best.defaults[index]);
        let kind = &choices.groups.kinds[group.kind].name;
        let mut options = vec![GroupOption { format: default, square: 0.0, cost: 0.0 }];
        for effect in self.kinds.iter().filter(|effect| effect.kind == *kind && effect.format != default) {
            if choices.is_excluded(index, effect.format) {
                continue;
            }
            let own = self.groups.iter().find(|own| own.group == group.name && own.format == effect.format);
            let parts = effect.groups as f64;
            let (error, share) = own.map_or((effect.error, 1.0 / parts), |own| (own.error, 1.0));
            let Some(error) = error else { continue };
            let square = (error.powi(2) - best.error.powi(2)) * share;
            // A narrower format does not make actions better but by chance.
            let square = if effect.format.contains(default) { square } else { square.max(0.0) };
            let least = choices.least_difference(effect.noise, best.cost);
            let differs = effect.cost_difference.abs() > least;
            let cost = if differs { effect.cost_difference / parts } else { 0.0 };
            options.push(GroupOption { format: effect.format, square, cost });
        }
        options
    }
}

/// What a format does in all groups of a kind that it is not excluded from; none where the target refuses it.
fn kind_effect(
    m: &mut Measurer,
    choices: &Choices,
    best: &Base,
    kind: &Kind,
    format: Format,
) -> Result<Option<KindEffect>> {
    let mut chosen = best.defaults.clone();
    let allowed = kind.groups.iter().filter(|group| !choices.is_excluded(**group, format));
    let groups = allowed.map(|group| chosen[*group] = format).count();
    let policy = choices.policy(best.name, &chosen, &format!("{} {format}", kind.name))?;
    if groups == 0 || !m.runs(&policy, &choices.sites) {
        return Ok(None);
    }
    let Some(error) = m.error(&policy)? else { return Ok(None) };
    let Some((cost, noise)) = m.cost(&policy, &choices.ranges, false)? else { return Ok(None) };
    let (kind, cost_difference) = (kind.name.clone(), cost - best.cost);
    let error = Some(m.level(&error)).filter(|error| error.is_finite());
    let saves = -cost_difference > choices.least_difference(noise, best.cost);
    Ok(Some(KindEffect { kind, format, groups, error, cost_difference, noise, saves }))
}

/// The bases that the target runs, with their errors and costs.
fn bases(m: &mut Measurer, choices: &Choices) -> Result<Vec<Base>> {
    m.phase("bases", BASES.len());
    let mut bases = Vec::new();
    for name in BASES {
        let Formats { compute, storage, .. } = PrecisionPolicy::preset(name)?.formats_of("");
        let defaults = choices.defaults(compute);
        let policy = choices.policy(name, &defaults, name)?;
        if m.runs(&policy, &choices.sites)
            && let Some(error) = m.error(&policy)?
            && let Some((cost, _)) = m.cost(&policy, &choices.ranges, false)?
            && m.level(&error).is_finite()
        {
            bases.push(Base { name, compute, storage, defaults, error: m.level(&error), cost });
        }
        m.done();
    }
    match bases.is_empty() {
        true => {
            Err(Error::input("base", format!("expected one of {} to give finite actions", BASES.join(", "))))
        }
        false => Ok(bases),
    }
}
