//! Faults of the flow-matching time that the model is told.

use super::{Case, Change, Effect, Fault, Reach, Suspect};
use std::sync::Arc;
use steadyhand_fidelity::Format;

/// The encodings of the time, in the DiT and in the action encoder.
const ENCODINGS: [&str; 2] = ["dit.timestep_projection", "action_encoder.time"];
/// Either of them alone.
const DIT: [&str; 1] = ["dit.timestep_projection"];
const ENCODER: [&str; 1] = ["action_encoder.time"];
/// Where faults of the time are said to be.
const PLACE: &str = "dit.timestep_projection";

/// The angles of the timestep embedding are rounded to `format` before sine and cosine.
pub fn timestep_angle(format: Format) -> Fault {
    Fault {
        kind: "timestep-angle",
        place: PLACE.to_owned(),
        reach: Reach::Paths(&ENCODINGS),
        effect: Effect::Angles(format),
        opaque: false,
        description: format!("rounds the angles of the timestep embedding to {format}"),
        fix: "compute the timestep's angles in f32 and round after sine and cosine".to_owned(),
    }
}

/// The timestep is off by some buckets.
pub fn timestep_offset(buckets: i64) -> Fault {
    Fault {
        kind: "timestep-offset",
        place: PLACE.to_owned(),
        reach: Reach::Paths(&ENCODINGS),
        effect: Effect::Time(Arc::new(move |right| right.saturating_add_signed(buckets as isize))),
        opaque: false,
        description: format!("is told a timestep that is {buckets:+} buckets off"),
        fix: "pass int(t * num_timestep_buckets) with t = step / steps".to_owned(),
    }
}

/// The timestep was folded into a constant: every Euler step sees the first one's.
pub fn timestep_folded() -> Fault {
    Fault {
        kind: "timestep-folded",
        place: PLACE.to_owned(),
        reach: Reach::Paths(&ENCODINGS),
        // The first step's time is 0, whatever the number of steps.
        effect: Effect::Time(Arc::new(|_| 0)),
        opaque: false,
        description: "sees the first step's timestep in every Euler step".to_owned(),
        fix: "export the timestep as an input, not as the constant it was traced with".to_owned(),
    }
}

/// Both encodings of the time, or one of them, in words.
const OF: [(&[&str], &str); 3] = [
    (&ENCODINGS, "both encodings"),
    (&DIT, "the DiT's encoding"),
    (&ENCODER, "the action encoder's encoding"),
];

/// The time is encoded in another unit than buckets of `of`, or with other frequencies.
fn other_angles(of: usize) -> Vec<Fault> {
    let units = [
        (1.0 / of as f32, "the time from 0 to 1 instead of buckets", "timestep-unit"),
        (1000.0, "the time in buckets, scaled by 1000 once more", "timestep-unit"),
        (std::f32::consts::TAU / of as f32, "the time from 0 to 2 pi instead of buckets", "timestep-unit"),
    ];
    let mut faults = Vec::new();
    for (paths, whose) in OF {
        let mut add = |change, kind, what: String, fix: &str| {
            faults.push(Fault {
                kind,
                place: paths[0].to_owned(),
                reach: Reach::Paths(paths),
                effect: Effect::Operation(change),
                opaque: false,
                description: what,
                fix: fix.to_owned(),
            });
        };
        for (unit, what, kind) in units {
            let what = format!("encodes another timestep in {whose}: {what}");
            let fix = "pass int(t * num_timestep_buckets) with t = step / steps";
            add(Change::TimeUnit(unit), kind, what, fix);
        }
        let what =
            format!("encodes the timestep with other frequencies in {whose}: the last is left out, or added");
        let fix = "the DiT's frequencies end at 1e-4, the action encoder's one before it";
        add(Change::OtherFrequencies, "time-frequencies", what, fix);
    }
    faults
}

/// Another time, in buckets of `of`, is encoded.
fn other_time(of: usize) -> Vec<Fault> {
    type Time = (&'static str, Arc<dyn Fn(usize) -> usize + Send + Sync>);
    let times: [Time; 11] = [
        ("the time of the end of each Euler step (4 steps)", Arc::new(move |right| right + of / 4)),
        (
            "the last bucket of each Euler step (4 steps)",
            Arc::new(move |right| (right + of / 4).saturating_sub(1)),
        ),
        ("the middle of each Euler step (4 steps)", Arc::new(move |right| right + of / 8)),
        ("4 times from 0 to 1, both ends counted", Arc::new(move |right| right * 4 / 3)),
        (
            "a share of the largest bucket instead of their number",
            Arc::new(move |right| right * (of - 1) / of),
        ),
        ("the time backwards", Arc::new(move |right| of - right)),
        (
            "the time of the steps in reverse order (4 steps)",
            Arc::new(move |right| (of - of / 4).saturating_sub(right)),
        ),
        ("the time in steps (4 steps) instead of buckets", Arc::new(move |right| right * 4 / of)),
        ("the first step's in every one, a folded constant", Arc::new(|_| 0)),
        ("the last timestep of a folded constant", Arc::new(move |_| of - of / 4)),
        ("the timestep of the second step in every one", Arc::new(move |_| of / 4)),
    ];
    let mut faults = Vec::new();
    for (paths, whose) in OF {
        for (what, time) in &times {
            // That of both encodings is `timestep_folded`.
            if paths.len() == 2 && time(of) == 0 && time(of / 2) == 0 {
                continue;
            }
            faults.push(Fault {
                kind: "timestep",
                place: paths[0].to_owned(),
                reach: Reach::Paths(paths),
                effect: Effect::Time(Arc::clone(time)),
                opaque: false,
                description: format!("encodes another timestep in {whose}: {what}"),
                fix: "pass int(t * num_timestep_buckets) with t = step / steps".to_owned(),
            });
        }
    }
    faults
}

pub(super) fn of_any_engine(buckets: usize) -> Vec<Fault> {
    let mut faults = vec![timestep_folded()];
    faults.extend(other_time(buckets));
    faults.extend(other_angles(buckets));
    faults.extend([-2, -1, 1, 2].map(timestep_offset));
    faults.extend([Format::Bf16, Format::Fp16, Format::Tf32].map(timestep_angle));
    faults
}

pub(super) fn candidates(suspect: &Suspect) -> Vec<Fault> {
    if ENCODINGS.iter().any(|path| suspect.may_be(path)) {
        of_any_engine(suspect.model.config.num_timestep_buckets)
    } else {
        Vec::new()
    }
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "timestep angle in bf16",
            strong: timestep_angle(Format::Bf16),
            weak: timestep_angle(Format::Fp16),
        },
        Case { name: "timestep off or folded", strong: timestep_folded(), weak: timestep_offset(1) },
    ]
}
