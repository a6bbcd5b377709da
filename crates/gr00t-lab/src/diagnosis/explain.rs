//! What explains an engine's errors: place by place where it shows tensors, else from its actions.

use super::actions_alone;
use super::baseline::Baseline;
use super::examine::Examinations;
use super::given;
use super::inferred;
use super::likeness::{self, Likeness, Pair};
use super::replay::{AS_WELL, Finding, GAIN, Progress, prefer_wider};
use super::report::{Considered, Hypothesis};
use super::teacher_forced::LocalError;
use super::verdict::{self, Cause, Located, Nearest, Proof, Unit};
use crate::Result;
use crate::fault::{Fault, PIXELS, Results, is_category_specific};
use std::cell::Cell;
use std::collections::BTreeSet;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::ops::Site;

/// Hypotheses that are kept for the report.
const KEPT: usize = 20;
/// Faults that are told apart at most.
const MOST_FAULTS: usize = 3;
/// Places that are examined at most.
const MOST_PLACES: usize = 4;
/// Hypotheses that are verified in every inference.
const VERIFIED: usize = 8;

/// What was made of an engine.
pub(super) struct Explained {
    /// Faults that were told apart, in the order of execution.
    pub(super) found: Vec<Located>,
    /// Hypotheses of the first of them, best first.
    pub(super) findings: Vec<Finding>,
    /// What the tensor at its place looks like.
    pub(super) matches: Vec<(String, Likeness)>,
    pub(super) considered: Considered,
    /// The inference that errors and hypotheses are of.
    pub(super) shown: usize,
    /// What the findings' residuals are measured in.
    pub(super) unit: Unit,
    /// The error that the findings explain, in that unit.
    pub(super) error: f64,
}

/// The first wrong tensor of those whose errors are not `explained`: its path, and the inferences in which it errs.
fn first_place(examined: &Examinations, explained: &BTreeSet<String>) -> Option<(String, Vec<usize>)> {
    let open = |error: &&LocalError| error.is_fault() && !explained.contains(&error.name);
    let positions = examined.of.values().filter_map(|one| {
        let errors = one.base.errors.iter();
        errors.enumerate().find(|(_, error)| open(error)).map(|(at, error)| (at, error.path.clone()))
    });
    let (_, path) = positions.min_by_key(|(at, _)| *at)?;
    let errs = |errors: &[LocalError]| errors.iter().any(|error| open(&error) && error.path == path);
    let inferences = examined.of.iter().filter(|(_, one)| errs(&one.base.errors)).map(|(at, _)| *at);
    let inferences = inferences.collect();
    Some((path, inferences))
}

/// Explains what an engine shows of its tensors.
///
/// # Errors
/// An input does not fit the model.
pub(super) fn tensors(
    examined: &Examinations,
    baseline: &Baseline,
    progress: &dyn Fn(Progress),
) -> Result<Explained> {
    let last = examined.of.keys().next_back().copied().unwrap_or_default();
    let mut all = Explained {
        found: Vec::new(),
        findings: Vec::new(),
        matches: Vec::new(),
        considered: Considered::default(),
        shown: last,
        unit: Unit::OfRounding,
        error: 0.0,
    };
    let mut explained = BTreeSet::new();
    // Whether every place so far whose cause is not known was the only one of its kind.
    let mut lone = true;
    for _ in 0..MOST_PLACES {
        let Some((path, inferences)) = first_place(examined, &explained) else { break };
        let one = place(examined, &path, &inferences, &explained, progress)?;
        // What the engine was given takes the place of what it should have been given: what comes behind is told apart.
        let settled = one.located.cause.is_some() || is_given(examined, &path);
        // What errs alone among all that is left errs by itself: it was judged on the engine's own tensors.
        let last = lone && paths(&open(examined, &explained)).len() == 1;
        all.considered.hypotheses += one.findings.len();
        all.considered.replays += one.replays;
        explained.extend(one.explains);
        let first = all.found.is_empty();
        if first {
            (all.findings, all.matches, all.shown) = (one.findings, one.matches, one.shown);
            all.error = one.error;
        }
        if !settled {
            // Operations of the same kind may err by the same fault, of which nothing more can be told.
            let alike = alike(examined, &path);
            lone &= paths(&alike).len() == 1;
            explained.extend(alike.into_iter().map(|error| error.name.clone()));
        }
        // Behind a place of which the cause is not known only what is proven is told, and a place that is the only one left
        // and lies far beyond rounding: behind a fault values are others than those that tolerances were measured on.
        match first || settled || last && one.error >= GAIN {
            // In some inferences the same fault may show at a step where in others nothing can be told.
            true if all.found.iter().any(|before| before.is_same(&one.located)) => {}
            true => all.found.push(one.located),
            false => lone = false,
        }
        if all.found.len() == MOST_FAULTS {
            break;
        }
    }
    // An engine that shows nothing but its actions, or a tensor or two: the rest is asked of its actions.
    let few = examined.of.values().all(|one| one.base.errors.iter().all(|error| error.path == "action_pred"));
    if few && all.found.iter().all(|found| found.cause.is_none()) {
        return actions_alone::actions(
            examined.setup,
            examined.policy,
            examined.evidence,
            baseline,
            progress,
        );
    }
    Ok(all)
}

/// The errors of all inferences that rounding cannot give and that are not `explained`.
fn open<'e>(examined: &'e Examinations, explained: &BTreeSet<String>) -> Vec<&'e LocalError> {
    let errors = examined.of.values().flat_map(|one| &one.base.errors);
    errors.filter(|error| error.is_fault() && !explained.contains(&error.name)).collect()
}

fn paths<'e>(errors: &[&'e LocalError]) -> BTreeSet<&'e str> {
    errors.iter().map(|error| error.path.as_str()).collect()
}

/// The errors of operations of the same kind as that at `path`.
fn alike<'e>(examined: &'e Examinations, path: &str) -> Vec<&'e LocalError> {
    let kind = |path: &str| path.rsplit('.').next().map(str::to_owned);
    let mut errors = open(examined, &BTreeSet::new());
    errors.retain(|error| kind(&error.path) == kind(path));
    errors
}

/// Whether `path` is an input that the engine shows and that differs.
fn is_given(examined: &Examinations, path: &str) -> bool {
    examined.given.values().any(|given| given.differences.iter().any(|of| of.error.path == path))
}

/// An input that differs: nothing has to be replayed.
fn difference(examined: &Examinations, path: &str, inferences: &[usize]) -> Option<Place> {
    let differences = |inference: &usize| examined.given[inference].differences.iter();
    let of = || inferences.iter().flat_map(differences).filter(|of| of.error.path == path);
    let first = of().next()?;
    let mut steps: Vec<usize> = of().filter_map(|of| Site::of_tap(&of.error.name).step()).collect();
    steps.sort_unstable();
    steps.dedup();
    let made = (path == PIXELS).then(|| made_otherwise(examined, inferences)).flatten();
    let description = match made {
        Some(fault) => format!("{}: the engine {}", first.description, fault.description),
        None => first.description.clone(),
    };
    Some(Place {
        located: Located {
            place: path.to_owned(),
            inferences: inferences.to_vec(),
            steps,
            error: None,
            expected: 0.0,
            unshown: Vec::new(),
            slot_unshown: false,
            shown_by: None,
            cause: None,
            likeness: Some(verdict::Likeness {
                description,
                fix: "give the engine what the processor makes of the same observation".to_owned(),
                left: 0.0,
            }),
            rivals: Vec::new(),
        },
        findings: Vec::new(),
        matches: Vec::new(),
        explains: of().map(|of| of.error.name.clone()).collect(),
        replays: 0,
        shown: inferences[inferences.len() - 1],
        error: first.error.error,
    })
}

/// The way in which the images that the engine was given were made, where it is one that is known.
fn made_otherwise<'e>(examined: &'e Examinations, inferences: &[usize]) -> Option<&'e Fault> {
    let gives = |fault: &&Fault| {
        inferences.iter().all(|inference| {
            let mut input = examined.setup.inputs[*inference].clone();
            fault.damage_inputs(std::slice::from_mut(&mut input));
            let (given, made) = (examined.given[inference].input.images.pixels(), input.images.pixels());
            let mut pairs = given.iter().zip(&*made);
            given.len() == made.len()
                && pairs.all(|(given, made)| relative_l2(&given.data, &made.data) <= given::PIXELS)
        })
    };
    examined.made_otherwise.iter().find(gives)
}

/// What was made of one place.
struct Place {
    located: Located,
    findings: Vec<Finding>,
    matches: Vec<(String, Likeness)>,
    explains: BTreeSet<String>,
    replays: usize,
    shown: usize,
    /// The largest error in units of what a healthy engine shows.
    error: f64,
}

/// Explains the first error, which is at `path` in these inferences.
fn place(
    examined: &Examinations,
    path: &str,
    inferences: &[usize],
    explained: &BTreeSet<String>,
    progress: &dyn Fn(Progress),
) -> Result<Place> {
    if let Some(place) = difference(examined, path, inferences) {
        return Ok(place);
    }
    // The last one: a buffer that was not written holds what the one before left.
    let shown = inferences[inferences.len() - 1];
    let (examination, base) = examined.at(shown);
    let previous = examined.previous(shown, path)?;
    let replays = Cell::new(0);
    let mut findings = examination.explain_but(explained, &previous, base, &|told| {
        replays.set(told.of);
        progress(told);
    })?;
    verify(examined, path, inferences, &mut findings)?;
    let likenesses = looks_like(examined, path, inferences)?;
    let errors = || {
        let of = |inference: &usize| examined.of[inference].base.errors.iter();
        inferences.iter().flat_map(of).filter(|error| error.path == path && error.is_fault())
    };
    let worst = errors().max_by(|a, b| (a.error / a.expected).total_cmp(&(b.error / b.expected)));
    let decisive = likenesses.iter().find(|likeness| likeness.decisive && findings.iter().all(|f| !f.proven));
    let (cause, rivals) = match (findings.first().filter(|best| best.proven), decisive) {
        (Some(best), _) => (Some(cause(best)), rivals(best, &findings)),
        (None, Some(likeness)) => (Some(likeness_as_cause(path, likeness, worst)), Vec::new()),
        (None, None) => (None, Vec::new()),
    };
    let cause = cause.filter(|_| rivals.is_empty());
    let explains = match (&cause, findings.first()) {
        (Some(_), Some(best)) if best.proven => best.explains.clone(),
        _ => errors().map(|error| error.name.clone()).collect(),
    };
    let before = match cause {
        Some(_) => None,
        None => inferred::place_before(examined, path, inferences)?,
    };
    // The same fault explains the same taps in every inference.
    let mut steps: Vec<usize> = errors().filter_map(|error| Site::of_tap(&error.name).step()).collect();
    steps.sort_unstable();
    steps.dedup();
    Ok(Place {
        located: Located {
            place: before.unwrap_or(path).to_owned(),
            shown_by: before.map(|_| path.to_owned()),
            inferences: inferences.to_vec(),
            steps,
            error: worst.map(|error| error.error).filter(|error| error.is_finite()),
            expected: worst.map_or(0.0, |error| error.expected),
            unshown: worst.map(|error| error.unshown.clone()).unwrap_or_default(),
            slot_unshown: before.is_none()
                && is_category_specific(path)
                && !examined.evidence.shows_slot(inferences),
            likeness: likenesses.first().filter(|_| before.is_none()).map(|likeness| verdict::Likeness {
                description: likeness.description.clone(),
                fix: likeness.fix.clone(),
                left: likeness.residual,
            }),
            cause,
            rivals,
        },
        matches: likenesses.into_iter().map(|likeness| (path.to_owned(), likeness)).collect(),
        findings,
        explains,
        replays: replays.get(),
        shown,
        error: worst.map_or(0.0, |error| error.error / error.expected),
    })
}

/// Keeps as proven only what explains the error in every inference that shows it.
fn verify(examined: &Examinations, path: &str, inferences: &[usize], findings: &mut [Finding]) -> Result<()> {
    let (shown, others) = inferences.split_last().unwrap_or((&0, &[]));
    let mut verified = 0;
    for finding in findings.iter_mut().filter(|finding| finding.proven) {
        verified += 1;
        if verified > VERIFIED {
            finding.proven = false;
            continue;
        }
        for inference in others.iter().filter(|inference| *inference != shown) {
            let (examination, base) = examined.at(*inference);
            let previous = match finding.fault.kind {
                "stale" => examined.previous(*inference, path)?,
                _ => Results::new(),
            };
            finding.residual =
                finding.residual.max(examination.verify(&finding.fault, path, &previous, base)?);
        }
        finding.proven = finding.residual <= 1.0;
    }
    // Proven ones stay first, in the order of what they leave.
    findings.sort_by(|a, b| {
        (!a.proven).cmp(&!b.proven).then_with(|| match a.proven {
            true => a.residual.total_cmp(&b.residual),
            false => std::cmp::Ordering::Equal,
        })
    });
    prefer_wider(findings);
    Ok(())
}

pub(super) fn cause(best: &Finding) -> Cause {
    Cause {
        kind: best.fault.kind.to_owned(),
        place: best.fault.place.clone(),
        description: best.fault.description.clone(),
        fix: best.fault.fix.clone(),
        left: best.residual,
        unit: Unit::OfRounding,
        proof: Proof::Injected,
    }
}

/// Other kinds of faults, or the same elsewhere, that explain the error as well.
fn rivals(best: &Finding, findings: &[Finding]) -> Vec<String> {
    let within = |a: &str, b: &str| Site::new(a).is_within(b) || Site::new(b).is_within(a);
    let same = |other: &Fault| other.is_alike(&best.fault) && within(&other.place, &best.fault.place);
    let as_well = (2.0 * best.residual).max(AS_WELL);
    // What explains less than the best is no rival.
    let as_much = |other: &Finding| best.explains.is_subset(&other.explains);
    let rivals = findings
        .iter()
        .filter(|other| other.proven && other.residual <= as_well && as_much(other) && !same(&other.fault));
    rivals.take(3).map(|rival| rival.fault.description.clone()).collect()
}

/// A likeness that itself says what was done: undone, it leaves the reference's tensor, and nothing behind it errs.
pub(super) fn likeness_as_cause(path: &str, likeness: &Likeness, worst: Option<&LocalError>) -> Cause {
    if let Some(fault) = likeness.as_fault(path) {
        let left = worst.map_or(likeness.residual, |worst| likeness.residual / worst.expected);
        let (kind, place) = (fault.kind.to_owned(), fault.place);
        return Cause {
            kind,
            place,
            description: fault.description,
            fix: fault.fix,
            left,
            unit: Unit::OfRounding,
            proof: Proof::Undone,
        };
    }
    let whose = match path {
        "action_pred" => "the final actions (`action_pred`)".to_owned(),
        path => format!("`{path}`"),
    };
    Cause {
        kind: "looks-like".to_owned(),
        place: path.to_owned(),
        description: format!("gives {whose} so that {}", likeness.description),
        fix: likeness.fix.clone(),
        left: worst.map_or(likeness.residual, |worst| likeness.residual / worst.expected),
        unit: Unit::OfRounding,
        proof: Proof::Undone,
    }
}

/// What the tensors at `path` look like that err in these inferences.
fn looks_like(examined: &Examinations, path: &str, inferences: &[usize]) -> Result<Vec<Likeness>> {
    struct Tensor {
        right: Vec<f32>,
        found: Vec<f32>,
        shape: Vec<usize>,
        floor: f64,
        previous: Vec<f32>,
    }
    let mut tensors = Vec::new();
    for inference in inferences {
        let (examination, base) = examined.at(*inference);
        let right = right_results(examined, *inference, path)?;
        let before = match inference.checked_sub(1) {
            Some(before) => right_results(examined, before, path)?,
            None => Results::new(),
        };
        for error in base.errors.iter().filter(|error| error.path == path && error.is_fault()) {
            let (Some(right), Some((shape, found))) =
                (right.get(&error.name), examination.observed.read(&error.name))
            else {
                continue;
            };
            let previous = before.get(&error.name).cloned().unwrap_or_else(|| vec![0.0; right.len()]);
            tensors.push(Tensor { right: right.clone(), found, shape, floor: error.expected, previous });
        }
    }
    let pairs: Vec<Pair> = tensors
        .iter()
        .map(|tensor| Pair {
            right: &tensor.right,
            found: &tensor.found,
            shape: &tensor.shape,
            floor: tensor.floor,
            previous: Some(&tensor.previous),
        })
        .collect();
    let mut groups: Vec<usize> = Vec::new();
    for layers in examined.setup.model.topology.parts.iter().filter_map(|part| part.layers.as_ref()) {
        groups.extend(layers.head_counts());
    }
    Ok(likeness::common(&pairs, &groups))
}

/// The reference's results at `path` on the engine's own inputs. What is handed on to the caller is what the last Euler
/// step gave.
pub(super) fn right_results(examined: &Examinations, inference: usize, path: &str) -> Result<Results> {
    let (examination, base) = examined.at(inference);
    if path == "action_pred" {
        return Ok([(path.to_owned(), base.actions.data.clone())].into());
    }
    Ok(examination.results_at(path, Some(base))?)
}

/// The best hypothesis that is not proven, where it explains at least half of the `error`, which is in the findings' own
/// unit.
pub(super) fn nearest(findings: &[Finding], error: f64) -> Option<Nearest> {
    let open = findings.iter().filter(|finding| !finding.proven && !finding.fault.opaque);
    let best = open.min_by(|a, b| a.residual.total_cmp(&b.residual))?;
    let share = best.residual / error;
    (share <= 0.5).then(|| Nearest { description: best.fault.description.clone(), share })
}

/// The findings that explain at least half of the `error` as plain data; where none is proven, what the tensor at the first bad place looks like comes before
/// them.
pub(super) fn hypotheses(
    findings: &[Finding],
    matches: &[(String, Likeness)],
    (unit, error): (Unit, f64),
) -> Vec<Hypothesis> {
    let plain = |finding: &Finding| Hypothesis {
        kind: finding.fault.kind.to_owned(),
        place: finding.fault.place.clone(),
        description: finding.fault.description.clone(),
        fix: finding.fault.fix.clone(),
        residual: finding.residual,
        unit,
        proven: finding.proven,
    };
    let worth = |finding: &&Finding| {
        finding.proven || finding.fault.opaque && finding.residual <= 1.0 || finding.residual <= 0.5 * error
    };
    let mut hypotheses: Vec<Hypothesis> = findings.iter().filter(worth).map(plain).collect();
    let proven = hypotheses.iter().filter(|hypothesis| hypothesis.proven).count();
    let looks = matches.iter().map(|(place, found)| {
        let fault = found.as_fault(place);
        let kind = fault.as_ref().map_or("looks-like", |fault| fault.kind);
        let description = fault.map(|fault| fault.description);
        Hypothesis {
            kind: kind.to_owned(),
            place: place.clone(),
            description: description
                .unwrap_or_else(|| format!("gives `{place}` so that {}", found.description)),
            fix: found.fix.clone(),
            residual: found.residual,
            unit: Unit::RelativeL2,
            proven: found.decisive && proven == 0,
        }
    });
    hypotheses.splice(proven..proven, looks);
    hypotheses.truncate(KEPT);
    hypotheses
}
