//! No sentence claims what its evidence lacks.

use super::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn cause() -> impl Strategy<Value = Cause> {
    (0.0..2.0f64, any::<bool>()).prop_map(|(left, rounding)| Cause {
        kind: "a-kind".to_owned(),
        place: "a.part".to_owned(),
        description: "CAUSED it".to_owned(),
        fix: "MEND it".to_owned(),
        left,
        unit: if rounding { Unit::OfRounding } else { Unit::RelativeL2 },
        proof: if rounding { Proof::Injected } else { Proof::Undone },
    })
}

fn located() -> impl Strategy<Value = Located> {
    let likeness = option::of((0.0..1.0f64).prop_map(|left| Likeness {
        description: "LOOKS like it".to_owned(),
        fix: "UNDO it".to_owned(),
        left,
    }));
    let place = prop::sample::select(vec!["dit.block.3.fc1", "noise", "vision.patches", "action_pred"]);
    let unshown = vec(Just("a.hidden.site".to_owned()), 0..3);
    let shown_by = option::of(Just("SHOWN by it".to_owned()));
    let unshown = (unshown, any::<bool>(), shown_by);
    let rivals = vec(Just("RIVALLED it".to_owned()), 0..2);
    let (inferences, steps) = (vec(0usize..4, 1..4), vec(0usize..4, 0..4));
    let error = option::of(0.0..1e3f64);
    (place, inferences, steps, error, unshown, option::of(cause()), likeness, rivals).prop_map(
        |(place, inferences, steps, error, (unshown, slot_unshown, shown_by), cause, likeness, rivals)| {
            Located {
                place: place.to_owned(),
                inferences,
                steps,
                error,
                expected: 1e-6,
                unshown,
                slot_unshown,
                shown_by,
                cause,
                likeness,
                rivals,
            }
        },
    )
}

fn judgement() -> impl Strategy<Value = Judgement> {
    let nearest =
        option::of((0.0..0.5f64).prop_map(|share| Nearest { description: "NEARLY did".to_owned(), share }));
    let evidence = (
        option::of(0usize..2000),
        0.0..1.0f64,
        1e-6..1e-2f64,
        0usize..200,
        nearest,
        option::of(any::<bool>()),
    );
    (vec(located(), 0..3), evidence).prop_map(
        |(found, (tensors, actions, rounding, hypotheses, nearest, repeats))| Judgement {
            found,
            evidence: Evidence {
                inferences: 4,
                tensors,
                actions,
                rounding,
                precision: "bf16".to_owned(),
                recorded: None,
                hypotheses,
                nearest,
                repeats,
            },
        },
    )
}

proptest! {
    #[test]
    fn no_sentence_claims_more_than_the_evidence_holds(judgement in judgement()) {
        let verdict = Verdict::from(judgement.clone());
        let text = format!("{}. {}", verdict.headline, verdict.paragraph);
        let any = |holds: fn(&Located) -> bool| judgement.found.iter().any(holds);
        let claims = [
            ("Proof", any(|found| found.cause.is_some())),
            ("the same fault", any(|found| found.cause.as_ref().is_some_and(|cause| cause.proof == Proof::Injected))),
            ("CAUSED", any(|found| found.cause.is_some())),
            ("MEND", any(|found| found.cause.is_some())),
            ("LOOKS", any(|found| found.likeness.is_some() && found.cause.is_none())),
            ("UNDO", any(|found| found.likeness.is_some() && found.cause.is_none())),
            ("inputs that are right", any(|found| found.unshown.is_empty() && !found.slot_unshown)),
            ("compared and is right", any(|found| found.unshown.is_empty() && !found.slot_unshown)),
            ("embodiment slot is not shown", any(|found| found.slot_unshown && found.cause.is_none())),
            ("record `embodiment_id`", any(|found| found.slot_unshown && found.cause.is_none())),
            ("a.hidden.site", any(|found| !found.unshown.is_empty())),
            ("SHOWN", any(|found| found.shown_by.is_some() && (found.cause.is_none() || found.error.is_some()))),
            ("same in every token", any(|found| found.shown_by.is_some() && found.cause.is_none())),
            ("RIVALLED", any(|found| !found.rivals.is_empty())),
            ("NEARLY", judgement.evidence.nearest.is_some()),
            ("Ruled out", judgement.evidence.nearest.is_none() && judgement.evidence.hypotheses > 0),
            ("other bits", judgement.evidence.repeats == Some(false)),
            ("`dit.block.3.fc1`", any(|found| found.place == "dit.block.3.fc1")),
            ("weights", any(|found| found.slot_unshown && found.cause.is_none())),
        ];
        for (claim, held) in claims {
            prop_assert!(held || !text.contains(claim), "{claim:?} without evidence: {text}");
        }
        let within = judgement.evidence.actions <= 2.0 * judgement.evidence.rounding;
        prop_assert_eq!(verdict.status == Status::NoFault, judgement.found.is_empty() && within);
        prop_assert_eq!(verdict.headline.contains("explains the engine"), verdict.status == Status::NoFault);
        if verdict.status == Status::Cause {
            prop_assert!(judgement.found[0].cause.is_some() && verdict.place.is_some());
        }
        if verdict.status == Status::Unexplained {
            prop_assert!(verdict.place.is_none() && text.contains("Next:"));
        }
    }
}
