//! The answer: a value, and the sentences that are built from it alone.
//!
//! What is known is a [`Judgement`]; the status follows from it, and so does every word of the headline and the
//! paragraph. A sentence can claim no more than the value holds: nothing here sees tensors, errors or hypotheses.

use super::baseline::MARGIN;
use serde::Serialize;
use std::fmt::Write;

/// How sure the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Rounding at the engine's precision explains everything.
    NoFault,
    /// What went wrong first is known: made in the reference too, it leaves no error that rounding does not explain, but at
    /// other places that are told.
    Cause,
    /// The first result that is wrong is known; what went wrong there is not proven.
    Place,
    /// Something is wrong; where it begins is not known.
    Unexplained,
}

/// What is known of an engine.
#[derive(Debug, Clone, Serialize)]
pub struct Judgement {
    /// Faults that were told apart, in the order of execution.
    pub found: Vec<Located>,
    /// What the answer rests on.
    pub evidence: Evidence,
}

/// One fault, where it shows first.
#[derive(Debug, Clone, Serialize)]
pub struct Located {
    /// The path of the first tensor that is wrong, without a step.
    pub place: String,
    /// Inferences in which it is, counted from 0.
    pub inferences: Vec<usize>,
    /// Euler steps in which it is; empty where the place lies outside of them.
    pub steps: Vec<usize>,
    /// Its largest local error, relative L2; none where only actions are known, or where it has no size.
    pub error: Option<f64>,
    /// What a healthy engine may show there.
    pub expected: f64,
    /// Operations whose results the engine does not show and that may be the ones that err instead.
    pub unshown: Vec<String>,
    /// Whether its weights are those of an embodiment slot which the engine does not show.
    pub slot_unshown: bool,
    /// The tensor that shows the error, where the place itself is not shown and nothing else can be wrong.
    pub shown_by: Option<String>,
    /// What went wrong, where that is proven.
    pub cause: Option<Cause>,
    /// What the tensor looks like, where that is known.
    pub likeness: Option<Likeness>,
    /// Other hypotheses that explain the error as well.
    pub rivals: Vec<String>,
}

impl Located {
    /// Whether the other one is the same proven fault at the same place, in other inferences.
    pub(super) fn is_same(&self, other: &Located) -> bool {
        let cause = |located: &Located| {
            located.cause.as_ref().map(|cause| (cause.kind.clone(), cause.description.clone()))
        };
        self.place == other.place && cause(self).is_some() && cause(self) == cause(other)
    }
}

/// A proven cause.
#[derive(Debug, Clone, Serialize)]
pub struct Cause {
    /// The kind of the fault.
    pub kind: String,
    /// Where it is made: a site, or a part of the model.
    pub place: String,
    /// What happened, as the end of a sentence that begins "The engine".
    pub description: String,
    /// What to do about it.
    pub fix: String,
    /// What is left of the error, and in which unit.
    pub left: f64,
    /// The unit of `left`.
    pub unit: Unit,
    /// How it was proven.
    pub proof: Proof,
}

/// How a cause was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// The fault was made in the reference too.
    Injected,
    /// The change was undone in the engine's own tensor, or made in the right one.
    Undone,
}

/// What an error that is left is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// What a healthy engine may show at a tensor: up to 1 is rounding.
    OfRounding,
    /// Relative L2.
    RelativeL2,
}

/// What a wrong tensor looks like.
#[derive(Debug, Clone, Serialize)]
pub struct Likeness {
    /// What happened to the right tensor, as a sentence without its end.
    pub description: String,
    /// What to do about it.
    pub fix: String,
    /// Relative L2 that it leaves.
    pub left: f64,
}

/// What an answer rests on.
#[derive(Debug, Clone, Serialize)]
pub struct Evidence {
    /// Inferences that the engine is known by.
    pub inferences: usize,
    /// Tensors of an inference that were compared; none where only actions are known.
    pub tensors: Option<usize>,
    /// Relative L2 of the normalized actions to the reference's.
    pub actions: f64,
    /// What rounding gives.
    pub rounding: f64,
    /// The precision that was judged by.
    pub precision: String,
    /// Mean squared error of the reference and of the engine against recorded actions.
    pub recorded: Option<(f64, f64)>,
    /// Hypotheses that were tried.
    pub hypotheses: usize,
    /// The nearest of them that is not proven, where it explains at least half of the error.
    pub nearest: Option<Nearest>,
    /// Whether the engine gave other bits when an inference was run again; none where that is not known.
    pub repeats: Option<bool>,
}

/// A hypothesis that is not proven.
#[derive(Debug, Clone, Serialize)]
pub struct Nearest {
    /// What would have happened, as the end of a sentence that begins "The engine".
    pub description: String,
    /// The share of the error that it leaves.
    pub share: f64,
}

/// The answer, for people and for programs.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// How sure it is.
    pub status: Status,
    /// The path of the first tensor that is wrong, without a step.
    pub place: Option<String>,
    /// Inferences in which it is.
    pub inferences: Vec<usize>,
    /// Hypotheses that explain the error as well as the one that is named.
    pub rivals: Vec<String>,
    /// One line.
    pub headline: String,
    /// Place, evidence, cost and what to do, in one paragraph.
    pub paragraph: String,
    /// What the sentences are built from.
    #[serde(flatten)]
    judgement: Judgement,
}

impl Verdict {
    /// What is known.
    pub fn judgement(&self) -> &Judgement {
        &self.judgement
    }
}

impl From<Judgement> for Verdict {
    fn from(judgement: Judgement) -> Self {
        let first = judgement.found.first();
        Verdict {
            status: judgement.status(),
            place: first.map(|first| first.place.clone()),
            inferences: first.map(|first| first.inferences.clone()).unwrap_or_default(),
            rivals: judgement.found.iter().flat_map(|found| found.rivals.clone()).collect(),
            headline: judgement.headline(),
            paragraph: judgement.paragraph(),
            judgement,
        }
    }
}

impl Judgement {
    /// What the evidence is enough for.
    pub fn status(&self) -> Status {
        let within = self.evidence.actions <= self.evidence.rounding * MARGIN;
        match &self.found[..] {
            [] if within => Status::NoFault,
            [] => Status::Unexplained,
            [first, ..] if first.cause.is_some() => Status::Cause,
            _ => Status::Place,
        }
    }

    fn headline(&self) -> String {
        let Evidence { precision, .. } = &self.evidence;
        match self.status() {
            Status::NoFault => format!("rounding at {precision} explains the engine"),
            Status::Unexplained => match self.evidence.tensors {
                Some(_) => {
                    "the actions differ by more than rounding gives, and no tensor that was shown does"
                        .to_owned()
                }
                None => {
                    "the actions differ by more than rounding gives; from actions alone no cause is proven"
                        .to_owned()
                }
            },
            Status::Cause | Status::Place => self
                .found
                .iter()
                .enumerate()
                .map(|(at, found)| found.headline(&self.evidence, at == 0))
                .collect::<Vec<_>>()
                .join("; and "),
        }
    }

    fn paragraph(&self) -> String {
        let mut text = self.cost();
        for found in &self.found {
            found.explain(&self.evidence, &mut text);
        }
        match self.status() {
            Status::NoFault => {}
            Status::Cause => {}
            Status::Place => self.nearest(&mut text),
            Status::Unexplained => {
                self.nearest(&mut text);
                let next = match self.evidence.tensors {
                    Some(_) => "record the tensors between those that were shown",
                    None => {
                        "record what leaves the engine's stages under the names that `steady record` uses, and \
                             diagnose the trace"
                    }
                };
                let _ = write!(text, " Next: {next}.");
            }
        }
        if self.evidence.repeats == Some(false) {
            text += " The engine gave other bits when an inference was run again.";
        }
        text
    }

    fn cost(&self) -> String {
        let Evidence { actions, rounding, precision, recorded, .. } = &self.evidence;
        let recorded = match recorded {
            Some((a, b)) => {
                format!("; the mean squared error against the recording is {b:.6} instead of {a:.6}")
            }
            None => String::new(),
        };
        format!(
            "The engine's actions lie {actions:.2e} (relative L2) from the reference's, where rounding at {precision} \
             gives {rounding:.2e}{recorded}."
        )
    }

    fn nearest(&self, text: &mut String) {
        let Evidence { hypotheses, nearest, .. } = &self.evidence;
        let _ = match nearest {
            Some(Nearest { description, share }) => write!(
                text,
                " Not proven: of {hypotheses} hypotheses the nearest is that the engine {description}, which leaves \
                 {:.0} % of the error.",
                share * 100.0
            ),
            None if *hypotheses > 0 => {
                write!(text, " Ruled out: none of {hypotheses} known faults explains half of it.")
            }
            None => Ok(()),
        };
    }
}

/// What the model is given, in words; its differences are no operation's.
fn given(place: &str) -> Option<&'static str> {
    Some(match place {
        "noise" => "the initial noise",
        "vision.patches" => "the pixels",
        "action_head.state" => "the normalized state",
        "input_ids" => "the token ids of the prompt",
        "embodiment_id" => "the embodiment slot",
        "timestep" => "the timesteps",
        _ => return None,
    })
}

impl Located {
    /// The place as it stands in a sentence.
    fn place(&self) -> String {
        match (given(&self.place), self.place.as_str()) {
            (Some(words), place) => format!("{words} (`{place}`)"),
            (None, "action_pred") => "the final actions (`action_pred`)".to_owned(),
            (None, place) => format!("`{place}`"),
        }
    }

    /// When it happens, where that is not always.
    fn when(&self, evidence: &Evidence) -> String {
        let list = |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let mut when = String::new();
        if self.inferences.len() < evidence.inferences {
            let _ = write!(when, " in inference {} of {}", list(&self.inferences), evidence.inferences);
        }
        if !self.steps.is_empty() && !self.steps.contains(&0) {
            let _ = write!(when, " in Euler step {}", list(&self.steps));
        }
        when
    }

    fn headline(&self, evidence: &Evidence, first: bool) -> String {
        let when = self.when(evidence);
        if let Some(Cause { kind, description, .. }) = &self.cause {
            // Before the first call a buffer holds zeros.
            let zeros =
                if kind == "stale" && self.inferences.contains(&0) { ", zeros in the first" } else { "" };
            return format!("the engine {description}{zeros}{when}");
        }
        let place = self.place();
        let looks = match &self.likeness {
            Some(likeness) => format!(": {}", likeness.description),
            None => String::new(),
        };
        if let Some(behind) = &self.shown_by {
            return format!(
                "{place}, which is not shown, is wrong{when}: what `{behind}` errs by is the same in every token, and only \
                 that input of it is"
            );
        }
        if given(&self.place).is_some() {
            return format!("{place} that the engine works on differ from the reference's{when}{looks}");
        }
        match self.unshown.is_empty() {
            true if self.slot_unshown => {
                format!("{place} is wrong{when}{looks}, and the embodiment slot is not shown to be right")
            }
            true => format!("{place} is wrong on inputs that are right{when}{looks}"),
            false if first => format!("{place} is the first tensor shown that is wrong{when}{looks}"),
            false => format!("{place} is wrong beyond what it was handed{when}{looks}"),
        }
    }

    /// Adds what the claim rests on and what to do.
    fn explain(&self, evidence: &Evidence, text: &mut String) {
        let place = self.place();
        if let Some(error) = self.error {
            let at = self.shown_by.as_ref().map_or(place.clone(), |behind| format!("`{behind}`"));
            let _ = write!(
                text,
                " At {at}{} the error is {error:.2e} on the engine's own inputs, where {:.2e} is healthy.",
                self.when(evidence),
                self.expected
            );
        }
        match (&self.cause, &self.likeness) {
            (Some(Cause { description, fix, left, unit, proof, .. }), _) => {
                let left = match unit {
                    Unit::OfRounding => format!("{left:.2} of what a healthy engine shows"),
                    Unit::RelativeL2 => format!("{left:.2e} (relative L2)"),
                };
                let proof = match proof {
                    Proof::Injected => "the reference with the same fault leaves",
                    Proof::Undone => "but for this the engine's tensor is the right one; what is left is",
                };
                let _ = write!(
                    text,
                    " The engine {description}. Proof: {proof} {left}, in every inference that shows the error. Fix: \
                     {fix}."
                );
            }
            (None, Some(Likeness { fix, .. })) if given(&self.place).is_some() && self.error.is_none() => {
                let _ = write!(text, " Next: {fix}.");
            }
            (None, Some(Likeness { description, fix, left })) => {
                let _ = write!(
                    text,
                    " The tensor looks like the right one but for this: {description}, which leaves {left:.2e}. \
                     Next: {fix}."
                );
            }
            (None, None) if self.shown_by.is_some() => {
                let _ = write!(
                    text,
                    " It is the same in every token and not in every Euler step, as only that of {place} can be. Next: record it."
                );
            }
            (None, None) if given(&self.place).is_some() => {
                let _ = write!(text, " Next: compare how {place} are made with the reference's.");
            }
            (None, None) if self.unshown.is_empty() && !self.slot_unshown => {
                let _ = write!(
                    text,
                    " Everything that it was computed from was compared and is right; what it does instead is not \
                     known. Next: dump the operands of `{}` from the engine.",
                    self.place
                );
            }
            (None, None) if self.unshown.is_empty() => {}
            (None, None) => {
                let (first, last) = (&self.unshown[0], &self.unshown[self.unshown.len() - 1]);
                let between = match first == last {
                    true => format!("`{first}`"),
                    false => format!("{} operations from `{first}` to `{last}`", self.unshown.len()),
                };
                let _ = write!(
                    text,
                    " The error is made there or in what leads to it and is not shown: {between}. Next: record those."
                );
            }
        }
        if self.slot_unshown && self.cause.is_none() {
            *text += " Its weights are those of one embodiment, and which slot the engine took is not known. Next: record \
                      `embodiment_id`.";
        }
        if !self.rivals.is_empty() {
            let _ = write!(
                text,
                " As well explained, and not told apart: that the engine {}.",
                self.rivals.join(", or that it ")
            );
        }
    }
}

#[cfg(test)]
mod tests;
