//! What holds for every page.

use super::page;
use crate::commands::diagnose::report::{Inference, Report};
use crate::report::output::WRITTEN_BY;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::topology::Topology;
use steadyhand_gr00t_lab::diagnosis::{
    ActionError, Considered, Diagnosis, EulerSplit, EulerStep, Evidence, Hypothesis, Judgement, Likeness,
    Located, SwapErrors, Swaps, TapError, Trajectory, Unit, Verdict,
};

/// A tap with this local error, in an engine where 1e-3 is healthy.
pub fn tap(name: &str, step: Option<usize>, local: f64) -> TapError {
    let path = step.and_then(|step| name.strip_prefix(&format!("step.{step}."))).unwrap_or(name);
    let topology = Topology::of(&Config::default());
    let part = topology.part_of(path).map_or("", |part| part.name).to_owned();
    let (total, expected, local_expected) = (2.0 * local, 2e-3, 1e-3);
    TapError { name: name.to_owned(), step, part, total, expected, local, local_expected }
}

/// The taps of a model with these numbers of layers.
fn model(vision: usize, language: usize, dit: usize, steps: usize) -> Vec<TapError> {
    let sites: Vec<String> = (0..15).map(|site| format!(".site{site}")).collect();
    let layers = |prefix: &str, count: usize| -> Vec<String> {
        (0..count)
            .flat_map(|i| sites.iter().map(move |site| (i, site)))
            .map(|(i, s)| format!("{prefix}.{i}{s}"))
            .collect()
    };
    let once = [
        vec!["vision.patches".to_owned()],
        layers("vision.layer", vision),
        layers("language.layer", language),
    ];
    let mut taps: Vec<TapError> = once.concat().iter().map(|name| tap(name, None, 4e-4)).collect();
    for step in 0..steps {
        let path =
            [vec!["actions_in".to_owned()], layers("dit.block", dit), vec!["dit.output".to_owned()]].concat();
        taps.extend(path.iter().map(|path| tap(&format!("step.{step}.{path}"), Some(step), 4e-4)));
    }
    taps
}

/// A verdict whose words are these.
fn verdict(words: &str) -> Verdict {
    let located = Located {
        place: words.to_owned(),
        inferences: vec![1],
        steps: vec![1, 2],
        error: Some(0.1),
        expected: 1e-6,
        unshown: Vec::new(),
        slot_unshown: false,
        shown_by: None,
        cause: None,
        likeness: Some(Likeness { description: words.to_owned(), fix: words.to_owned(), left: 1e-3 }),
        rivals: vec![words.to_owned()],
    };
    let evidence = Evidence {
        inferences: 2,
        tensors: Some(100),
        actions: 3e-1,
        rounding: 3e-3,
        precision: "bf16".to_owned(),
        recorded: None,
        hypotheses: 90,
        nearest: None,
        repeats: Some(false),
    };
    Verdict::from(Judgement { found: vec![located], evidence })
}

/// Something in every section.
fn full() -> Report {
    let step = |step| EulerStep { step, total: 4e-2, injected: 1e-2, propagated: 3e-2, contribution: 9e-3 };
    let hypothesis = |index: usize| Hypothesis {
        kind: format!("kind-{index}"),
        place: "dit.output".to_owned(),
        description: "bf16 read as f16".to_owned(),
        fix: "bind as bf16".to_owned(),
        residual: 1e-3,
        unit: Unit::OfRounding,
        proven: index == 0,
    };
    let swap = |name: &str| SwapErrors { component: name.to_owned(), only_b: 3e-1, all_but_b: 1e-3 };
    let trajectory = |index| Trajectory {
        name: format!("joint-{index}."),
        recorded: vec![0.0, 0.5, 1.0],
        a: vec![0.1, 0.5, 0.9],
        b: vec![0.2, 0.5, 0.9 + index as f32],
    };
    let diagnosis = Diagnosis {
        inferences: 2,
        verdict: verdict("bf16 read as f16"),
        shown: 1,
        actions: ActionError {
            relative_l2: 3e-1,
            expected: 3e-3,
            groups: vec![("left_arm".to_owned(), 1e-2), ("right_arm".to_owned(), 2e-2)],
            chunk_positions: vec![1e-1, 2e-1, 3e-1],
            mse_a: Some(1e-3),
            mse_b: Some(2e-3),
        },
        audit: vec!["language.norm is missing".to_owned()],
        determinism: "two runs gave the same bits".to_owned(),
        taps: model(2, 3, 8, 4),
        hypotheses: (0..20).map(hypothesis).collect(),
        considered: Considered { hypotheses: 90, replays: 40 },
        euler: Some(EulerSplit { steps: (0..4).map(step).collect(), conditioning: 2e-3, closure: 0.01 }),
        swaps: Some(Swaps {
            floor: 1e-2,
            all_b: 3e-1,
            components: ["language", "dit"].map(swap).to_vec(),
            located: vec!["dit".to_owned()],
            conclusion: "dit makes the error".to_owned(),
        }),
        trajectories: (0..40).map(trajectory).collect(),
    };
    Report {
        written_by: WRITTEN_BY,
        checkpoint: "demo".to_owned(),
        dataset: "episodes".to_owned(),
        embodiment_tag: "gr1".to_owned(),
        a: "cpu:f32".to_owned(),
        b: "trace:out".to_owned(),
        inferences: vec![Inference { episode: 0, step: 0 }, Inference { episode: 1, step: 8 }],
        diagnosis,
        peak_rss_bytes: Some(1 << 30),
    }
}

/// The values of all attributes that place something.
fn coordinates(html: &str) -> Vec<&str> {
    let names = [" d=\"", " x=\"", " y=\"", " cx=\"", " cy=\"", " width=\"", " height=\"", " viewBox=\""];
    let values = names.iter().flat_map(|name| html.split(name).skip(1));
    values.filter_map(|rest| rest.split('"').next()).collect()
}

/// Every element that is opened is closed, in order.
fn assert_balanced(html: &str) {
    let mut open: Vec<&str> = Vec::new();
    let body = &html[html.find("<body>").unwrap()..html.find("</html>").unwrap()];
    for tag in body.split('<').skip(1) {
        let name = tag.split(|c: char| c.is_whitespace() || c == '>' || c == '/').next().unwrap();
        let whole = tag.split('>').next().unwrap();
        if let Some(closed) = whole.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "near <{tag}");
        } else if !whole.ends_with('/') && name != "wbr" {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_full_page_is_well_formed_and_needs_nothing_else() {
    let html = page(&full());
    assert_balanced(&html);
    for absent in ["<script", "http:", "https:", "src=", "href=", "@import"] {
        assert!(!html.contains(absent), "{absent}");
    }
    for present in [
        "Where the error is made",
        "Euler steps",
        "Components exchanged",
        "● located",
        "Hypotheses",
        "Predicted trajectories",
        "Determinism",
    ] {
        assert!(html.contains(present), "{present}");
    }
}

#[test]
fn tables_and_panels_are_cut_short() {
    let html = page(&full());
    assert_eq!(html.matches("<tr").count(), 1 + 2 + 1 + 12);
    assert!(html.contains("8 more are worse"));
    assert_eq!(html.matches("class=\"name\"").count(), 32);
    assert!(!html.contains(">joint-7.<") && html.contains(">joint-8.<"), "those that differ most are kept");
}

#[test]
fn markup_in_the_data_is_escaped() {
    let evil = r#"<script>alert("1")</script>&'"#;
    let mut report = full();
    let text = || evil.to_owned();
    (report.checkpoint, report.dataset, report.embodiment_tag) = (text(), text(), text());
    (report.a, report.b) = (text(), text());
    let diagnosis = &mut report.diagnosis;
    diagnosis.determinism = text();
    diagnosis.verdict = verdict(evil);
    diagnosis.audit = vec![text()];
    diagnosis.actions.groups[0].0 = text();
    diagnosis.trajectories[39].name = text();
    diagnosis.taps.iter_mut().for_each(|tap| tap.name = text());
    diagnosis.taps[3].local = 1.0;
    let hypothesis = &mut diagnosis.hypotheses[0];
    (hypothesis.kind, hypothesis.place) = (text(), text());
    (hypothesis.description, hypothesis.fix) = (text(), text());
    let swaps = diagnosis.swaps.as_mut().unwrap();
    (swaps.components[0].component, swaps.conclusion) = (text(), text());
    let html = page(&report);
    assert!(!html.contains("<script") && !html.contains(r#"alert("1")"#) && !html.contains("&'"));
    assert_balanced(&html);
}

#[test]
fn values_that_are_not_finite_have_no_coordinates() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, -1.0, 0.0] {
        let mut report = full();
        let diagnosis = &mut report.diagnosis;
        for (index, tap) in diagnosis.taps.iter_mut().enumerate() {
            let fields = [&mut tap.total, &mut tap.expected, &mut tap.local, &mut tap.local_expected];
            fields.into_iter().skip(index % 5).for_each(|field| *field = value);
        }
        let split = diagnosis.euler.as_mut().unwrap();
        (split.conditioning, split.closure) = (value, value);
        for step in &mut split.steps {
            (step.injected, step.propagated, step.contribution) = (value, value, value);
        }
        let actions = &mut diagnosis.actions;
        (actions.relative_l2, actions.expected) = (value, value);
        (actions.mse_a, actions.mse_b) = (Some(value), Some(value));
        (actions.groups[0].1, actions.chunk_positions[1]) = (value, value);
        diagnosis.hypotheses[0].residual = value;
        let swaps = diagnosis.swaps.as_mut().unwrap();
        (swaps.floor, swaps.all_b, swaps.components[1].only_b) = (value, value, value);
        let panel = &mut diagnosis.trajectories[0];
        (panel.recorded[0], panel.b[1]) = (value as f32, value as f32);
        diagnosis.trajectories[1].recorded.clear();
        let html = page(&report);
        for coordinate in coordinates(&html) {
            assert!(!coordinate.contains("NaN") && !coordinate.contains("inf"), "{value}: {coordinate}");
        }
        assert!(!html.contains(" width=\"-") && !html.contains(" height=\"-"), "{value}");
        assert_balanced(&html);
    }
}

#[test]
fn sections_without_data_are_left_out() {
    let whole = full();
    let diagnosis = Diagnosis {
        taps: Vec::new(),
        hypotheses: Vec::new(),
        euler: None,
        swaps: None,
        trajectories: Vec::new(),
        audit: Vec::new(),
        actions: ActionError { mse_a: None, mse_b: None, ..whole.diagnosis.actions },
        ..whole.diagnosis
    };
    let html = page(&Report { diagnosis, ..whole });
    let absent = [
        "Where the error is made",
        "Euler steps",
        "Hypotheses",
        "Predicted trajectories",
        "Audit",
        "MSE",
        "Components",
    ];
    for absent in absent {
        assert!(!html.contains(absent), "{absent}");
    }
    assert!(html.contains("Action error") && html.contains("Determinism"));
    assert_balanced(&html);
}

#[test]
fn a_full_size_model_stays_small() {
    for (dit, steps) in [(32, 8), (32, 64)] {
        let mut report = full();
        let diagnosis = &mut report.diagnosis;
        diagnosis.taps = model(27, 16, dit, steps);
        // The longest page: every cell and every row has something to say.
        diagnosis.taps.iter_mut().for_each(|tap| tap.local = 0.5);
        let taps = diagnosis.taps.len();
        let html = page(&report);
        let size = html.len();
        assert!(taps > 4_000 && size < 1_000_000, "{taps} taps: {size} bytes");
    }
}
