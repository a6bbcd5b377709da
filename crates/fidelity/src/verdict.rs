//! What a comparison concluded, as plain data. Whoever prints it chooses the words.

use crate::matchers::{FLOOR_FACTOR, Match};
use serde::Serialize;

/// The conclusion about one engine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// What could be concluded.
    pub status: Status,
    /// The cause; present exactly where the status is [`Status::Cause`].
    pub cause: Option<Cause>,
    /// Every hypothesis, best first, proven or not.
    pub hypotheses: Vec<Hypothesis>,
    /// The relative L2 error of the engine's result.
    #[serde(serialize_with = "crate::serialize_f64")]
    pub error: f64,
    /// What a healthy engine's would be.
    #[serde(serialize_with = "crate::serialize_f64")]
    pub floor: f64,
}

/// What could be concluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The error is within the floor.
    NoFault,
    /// The best hypothesis is proven: it explains the error down to the floor.
    Cause,
    /// None is proven, but there are some, in order.
    Ranked,
    /// There is an error and no hypothesis.
    Inconclusive,
}

/// A proven cause.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cause {
    /// What happened.
    pub name: String,
    /// The tensor or site where it happened.
    pub place: String,
    /// What to do about it.
    pub fix: String,
}

/// A possible cause, and what speaks for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hypothesis {
    /// What would have happened.
    pub name: String,
    /// The tensor or site where it would have happened.
    pub place: String,
    /// The relative L2 error that remains if this is assumed.
    #[serde(serialize_with = "crate::serialize_f64")]
    pub residual: f64,
    /// What was observed, a sentence each.
    pub evidence: Vec<String>,
    /// What to do about it.
    pub fix: String,
    /// Whether it explains the error down to the floor. Set by [`rank`].
    pub proven: bool,
}

impl Hypothesis {
    /// The hypothesis that a match at `place` stands for, not ranked yet.
    pub fn from_match(place: &str, found: &Match) -> Self {
        Hypothesis {
            name: found.description.clone(),
            place: place.to_owned(),
            residual: found.residual,
            evidence: Vec::new(),
            fix: found.fix.clone(),
            proven: false,
        }
    }
}

/// Sorts hypotheses by residual, lowest first, and marks as proven those whose residual is at most
/// [`FLOOR_FACTOR`] times `floor`. A residual that is no number ranks last and proves nothing; so does any
/// residual but 0 where the floor is no number.
pub fn rank(hypotheses: &mut [Hypothesis], floor: f64) {
    let allowed = if floor.is_finite() { FLOOR_FACTOR * floor.max(0.0) } else { 0.0 };
    for hypothesis in hypotheses.iter_mut() {
        if hypothesis.residual.is_nan() {
            hypothesis.residual = f64::INFINITY;
        }
        hypothesis.proven = hypothesis.residual <= allowed;
    }
    hypotheses.sort_by(|a, b| a.residual.total_cmp(&b.residual));
}

impl Verdict {
    /// Ranks the hypotheses about an engine with this relative L2 error, and concludes. An error that is
    /// no number is a fault.
    pub fn conclude(error: f64, floor: f64, mut hypotheses: Vec<Hypothesis>) -> Self {
        rank(&mut hypotheses, floor);
        let error = if error.is_nan() { f64::INFINITY } else { error };
        let healthy = error.is_finite() && error <= FLOOR_FACTOR * floor;
        let (status, cause) = match hypotheses.first() {
            _ if healthy => (Status::NoFault, None),
            None => (Status::Inconclusive, None),
            Some(best) if best.proven => {
                let (name, place, fix) = (best.name.clone(), best.place.clone(), best.fix.clone());
                (Status::Cause, Some(Cause { name, place, fix }))
            }
            Some(_) => (Status::Ranked, None),
        };
        Verdict { status, cause, hypotheses, error, floor: if floor.is_nan() { 0.0 } else { floor } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hypothesis(name: &str, residual: f64) -> Hypothesis {
        Hypothesis {
            name: name.into(),
            place: "dit.block.3".into(),
            residual,
            evidence: vec!["seen".into()],
            fix: "mend it".into(),
            proven: false,
        }
    }

    #[test]
    fn hypotheses_rank_by_residual_and_prove_only_within_the_floor() {
        let mut all = vec![
            hypothesis("nan", f64::NAN),
            hypothesis("far", 0.5),
            hypothesis("edge", 0.03),
            hypothesis("near", 0.001),
        ];
        rank(&mut all, 0.01);
        let order: Vec<_> = all.iter().map(|found| (found.name.as_str(), found.proven)).collect();
        assert_eq!(order, [("near", true), ("edge", true), ("far", false), ("nan", false)]);
        for floor in [f64::NAN, f64::INFINITY, -1.0] {
            rank(&mut all, floor);
            assert!(all.iter().all(|found| !found.proven));
        }
        rank(&mut all, 0.0);
        assert!(all.iter().all(|found| !found.proven));
        let mut exact = [hypothesis("exact", 0.0)];
        rank(&mut exact, 0.0);
        assert!(exact[0].proven);
    }

    #[test]
    fn every_status_is_reached() {
        let conclude = |error, residuals: &[f64]| {
            let all = residuals.iter().map(|residual| hypothesis("h", *residual)).collect();
            Verdict::conclude(error, 0.01, all)
        };
        assert_eq!(conclude(0.02, &[]).status, Status::NoFault);
        assert_eq!(conclude(0.02, &[0.0]).status, Status::NoFault);
        assert_eq!(conclude(0.5, &[]).status, Status::Inconclusive);
        assert_eq!(conclude(f64::NAN, &[]).status, Status::Inconclusive);
        assert_eq!(conclude(0.5, &[0.2]).status, Status::Ranked);
        let proven = conclude(0.5, &[0.2, 0.02]);
        assert_eq!(proven.status, Status::Cause);
        assert_eq!(proven.cause.map(|cause| cause.place).as_deref(), Some("dit.block.3"));
        for floor in [f64::NAN, f64::INFINITY] {
            assert_eq!(Verdict::conclude(f64::INFINITY, floor, Vec::new()).status, Status::Inconclusive);
        }
    }

    #[test]
    fn a_verdict_serializes() {
        let verdict = Verdict::conclude(f64::INFINITY, 0.01, vec![hypothesis("h", 0.0)]);
        let json = serde_json::to_value(&verdict).expect("plain data");
        assert_eq!(json["status"], "cause");
        assert_eq!(json["error"], "inf");
        assert_eq!(json["hypotheses"][0]["proven"], true);
        assert_eq!(json["cause"]["fix"], "mend it");
    }

    #[test]
    fn a_match_becomes_a_hypothesis() {
        let reference: Vec<f32> = (0..32).map(|value| value as f32 - 7.5).collect();
        let found: Vec<f32> = reference.iter().map(|value| -value).collect();
        let matches = crate::explain(&reference, &found, &[32], &crate::MatchContext::default());
        let hypothesis = Hypothesis::from_match("actions", &matches[0]);
        assert_eq!((hypothesis.place.as_str(), hypothesis.residual), ("actions", 0.0));
    }
}
