//! What a tuning found, as evidence: every measurement of a whole policy, ranges, sensitivities.

use super::error::{ActionError, Spread};
use super::ranges::Finding;
use super::search::{Candidate, Prediction};
use super::sections::SectionEffect;
use super::sensitivity::{Choices, FORMATS, GroupEffect, KindEffect, Raising, Sensitivity};
use super::state::Header;
use super::target::Unit;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// The result of a tuning.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// What was measured.
    pub of: Header,
    /// The budget, as it was asked for.
    pub budget: String,
    /// The error that it allows: every error is a multiple of that of the budget's preset, in the joint group where it
    /// is largest.
    pub allowed_error: f64,
    /// The budget's preset.
    pub preset: &'static str,
    /// What errors by joint group are counted in: each is the 95th percentile, over frames and chunk positions, of the
    /// distance of the group's physical actions from those of f32 on the same target.
    pub spread: Spread,
    /// What costs are.
    pub cost_unit: Unit,
    /// Whether time was up before everything was measured.
    pub cut_short: bool,
    /// Measurements taken over from an earlier run.
    pub taken_over: usize,
    /// The presets and [`CALIBRATED`](super::CALIBRATED), then the policies that were searched, as they were measured.
    pub policies: Vec<MeasuredPolicy>,
    /// The chosen one's place in `policies`.
    pub chosen: usize,
    /// The places of those that no other one beats in both error and cost, cheapest first.
    pub pareto: Vec<usize>,
    /// Where the chosen policy has wider operands than it could, and why.
    pub kept: Vec<Kept>,
    /// Tensors that a narrow format does not hold.
    pub ranges: Vec<Finding>,
    /// Policies that the target does not run, by name, and why.
    pub refused: BTreeMap<String, String>,
    /// The base that formats were lowered from.
    pub best_base: &'static str,
    /// What whole layers in fp8 do, by section.
    pub sections: Vec<SectionEffect>,
    /// What each kind's formats do.
    pub kinds: Vec<KindEffect>,
    /// What f32 operands do to the baseline, by kind.
    pub raising: Vec<Raising>,
    /// What single groups' formats do.
    pub groups: Vec<GroupEffect>,
}

/// A policy of the whole model.
#[derive(Debug, Clone, Serialize)]
pub struct MeasuredPolicy {
    /// A preset's name, [`CALIBRATED`](super::CALIBRATED) or `tuned-N`.
    pub name: String,
    /// Its text; a preset's name.
    #[serde(serialize_with = "identity")]
    pub policy: PrecisionPolicy,
    /// The preset that a searched policy starts from.
    pub base: Option<&'static str>,
    /// Its error as a multiple of that of the budget's preset; none where an action is not finite.
    pub error: Option<f64>,
    /// By joint group, in spreads.
    pub error_by_group: ActionError,
    /// Its cost.
    pub cost: f64,
    /// The standard error of its difference from the baseline.
    pub cost_noise: f64,
    /// Whether the cost was measured at length.
    pub lasting: bool,
    /// What was predicted of a searched policy.
    pub predicted: Option<Prediction>,
}

/// A group that could have had narrower or cheaper operands.
#[derive(Debug, Clone, Serialize)]
pub struct Kept {
    /// The group.
    pub group: String,
    /// Its format.
    pub format: Format,
    /// The format that it could have had.
    pub instead_of: Format,
    /// Why it has not.
    pub why: Why,
}

/// Why a group was not given a cheaper format.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Its values overflow it.
    Overflow(Finding),
    /// What it would add to the square of the error, as a share of the square that is allowed.
    Error(f64),
}

fn identity<S: Serializer>(policy: &PrecisionPolicy, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&policy.identity())
}

impl From<&Candidate> for MeasuredPolicy {
    fn from(candidate: &Candidate) -> Self {
        MeasuredPolicy {
            name: candidate.name.clone(),
            policy: candidate.policy.clone(),
            base: candidate.base,
            error: Some(candidate.level).filter(|error| error.is_finite()),
            error_by_group: candidate.error.clone(),
            cost: candidate.cost,
            cost_noise: candidate.noise,
            lasting: candidate.lasting,
            predicted: candidate.predicted,
        }
    }
}

impl Outcome {
    /// The chosen policy.
    pub fn choice(&self) -> &MeasuredPolicy {
        &self.policies[self.chosen]
    }

    /// A preset that was measured, or [`CALIBRATED`](super::CALIBRATED).
    pub fn of_preset(&self, name: &str) -> Option<&MeasuredPolicy> {
        self.policies.iter().find(|policy| policy.base.is_none() && policy.name == name)
    }
}

/// Where a policy's operands are wider than they could be.
pub(super) fn kept(
    choices: &Choices,
    sensitivity: &Sensitivity,
    candidate: &Candidate,
    allowed: f64,
) -> Vec<Kept> {
    let formats_of = |group: usize| match &candidate.formats {
        Some(formats) => formats[group],
        None => candidate.policy.formats_of(&choices.groups.groups[group].sites[0]).compute,
    };
    // Layers that are cheapest as they are, whatever their groups cost alone.
    let whole = sensitivity.together.iter().filter(|layer| layer.is_in(formats_of));
    let whole: Vec<usize> = whole.flat_map(|layer| layer.groups.iter().copied()).collect();
    let mut kept = Vec::new();
    for (index, group) in choices.groups.groups.iter().enumerate() {
        let format = formats_of(index);
        let mut keep = |instead_of: Format, why: Why| {
            kept.push(Kept { group: group.name.clone(), format, instead_of, why });
        };
        for (narrow, finding) in FORMATS.into_iter().zip(&choices.excluded[index]) {
            if let Some(finding) =
                finding.as_ref().filter(|_| narrow != format && narrow.bits() <= format.bits())
            {
                keep(narrow, Why::Overflow(finding.clone()));
            }
        }
        if whole.contains(&index) {
            continue;
        }
        let options = &sensitivity.options[index];
        let Some(own) = options.iter().find(|option| option.format == format) else { continue };
        let cheaper = options.iter().filter(|option| option.cost < own.cost);
        if let Some(cheapest) = cheaper.min_by(|a, b| a.cost.total_cmp(&b.cost)) {
            keep(cheapest.format, Why::Error(cheapest.square / allowed.powi(2)));
        }
    }
    kept
}
