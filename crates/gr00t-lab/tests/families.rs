//! Every family of faults, planted and explained: what is named is what was done.

mod scene;

use scene::Scene;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t_lab::diagnosis::{Examination, Finding, Inputs};
use steadyhand_gr00t_lab::fault::{
    Change, Effect, Fault, FaultyEngine, Handed, Reach, Results, of_operation,
};

const STEPS: usize = 2;

/// One operation of each kind, as their families differ.
const SITES: [&str; 15] = [
    "vision.layer.1.norm1",
    "vision.layer.1.gelu",
    "vision.layer.1.attention",
    "vision.layer.1",
    "connector",
    "language.layer.1.query_norm",
    "language.layer.1.query_rope",
    "language.layer.1.attention",
    "language.layer.1.gate",
    "language.layer.1.silu",
    "action_tokens",
    "dit.block.0.attention",
    "dit.block.1.norm1",
    "dit.block.1.modulated",
    "decoder.relu",
];

/// The kinds of faults that these operations have and that change what they give, with what is changed.
const KINDS: [&str; 34] = [
    "activated-up Operation",
    "activation Operation",
    "attention-scale Operation",
    "bias-twice Operation",
    "cast-weights Operation",
    "causal Mask",
    "causal-mask Operation",
    "causal-mask-off Operation",
    "exchanged-weights Model",
    "modulation Operation",
    "no-bias Operation",
    "no-masks Model",
    "no-masks Operation",
    "no-norm Operation",
    "no-rope Operation",
    "norm Operation",
    "not-causal Mask",
    "post-norm Operation",
    "residual-operand Operation",
    "residual-term Operation",
    "residual-twice Operation",
    "rope-position Operation",
    "rope-theta Operation",
    "rotation Operation",
    "scale-as-shift Operation",
    "scale-without-one Operation",
    "softmax Operation",
    "stored-weights StoredWeights",
    "swapped-masks Model",
    "swapped-masks Operation",
    "tiled-heads Operation",
    "transposed-weight Operation",
    "weights-before Model",
    "weights-two-after Model",
];

fn recorded(engine: &mut dyn Engine, input: &ModelInput) -> Recorder {
    let mut taps = Recorder::all();
    engine.infer(std::slice::from_ref(input), Some(&mut taps)).expect("an inference");
    taps
}

fn f32() -> PrecisionPolicy {
    PrecisionPolicy::preset("f32").expect("a preset")
}

/// What explains the engine that left `taps`, the best first; none where rounding explains it.
fn explained(model: &Model, input: &ModelInput, taps: &Recorder) -> Option<Vec<Finding>> {
    let examination = Examination {
        model,
        policy: &f32(),
        denoising_steps: STEPS,
        input,
        observed: taps,
        inputs: Inputs::Own,
        expected: &BTreeMap::new(),
        made_otherwise: &[],
    };
    let base = examination.localize().expect("an examination");
    let wrong = base.errors.iter().any(|error| error.is_fault() && error.error > 3.0 * error.expected);
    let findings = || examination.explain(&Results::new(), &base, &|_| {}).expect("findings");
    wrong.then(findings)
}

/// Plants every fault of an operation that lies there or in its layer alone; the kinds that were seen.
fn plant_all(model: &Model, input: &ModelInput, site: &str) -> BTreeSet<String> {
    let faults = of_operation(model, site, f32().formats_of(site));
    let here = |fault: &Fault| fault.place == site || Some(&*fault.place) == model.topology.layer_of(site);
    let alone: Vec<Fault> = faults.into_iter().filter(here).collect();
    let mut seen = BTreeSet::new();
    for fault in alone {
        let taps = recorded(&mut FaultyEngine::new(model, &f32(), STEPS, fault.clone()), input);
        let Some(findings) = explained(model, input, &taps) else { continue };
        let best = findings.first().filter(|best| best.proven);
        let best = best.unwrap_or_else(|| panic!("nothing is proven of: {}", fault.description));
        let (planted, named) = (&fault.place, &best.fault.place);
        let same = best.fault.is_alike(&fault) && (planted.starts_with(named) || named.starts_with(planted));
        assert!(same, "{} is called: {}", fault.description, best.fault.description);
        seen.insert(format!("{} {:?}", fault.kind, fault.effect));
    }
    seen
}

#[test]
fn what_an_operation_does_otherwise_is_named() {
    let scene = Scene::new();
    let setup = scene.setup(STEPS);
    let (model, input) = (setup.model, &setup.inputs[0]);
    let right = recorded(&mut CpuEngine::new(model.clone(), f32(), STEPS), input);
    assert!(explained(model, input, &right).is_none());
    let of = |site: &&str| plant_all(model, input, site);
    let [first, second] = [&SITES[..7], &SITES[7..]];
    let mut seen: BTreeSet<String> = thread::scope(|scope| {
        let other = scope.spawn(|| second.iter().flat_map(of).collect::<BTreeSet<_>>());
        first.iter().flat_map(of).chain(other.join().expect("no panic")).collect()
    });
    // What does nothing when it is planted was not seen.
    for kind in KINDS {
        assert!(seen.remove(kind), "{kind}");
    }
    assert!(seen.is_empty(), "{seen:?}");
}

/// Where weights are cut off is in no list: it is found.
#[test]
fn the_share_that_weights_are_cut_off_at_is_found() {
    let scene = Scene::new();
    let setup = scene.setup(STEPS);
    let (model, input) = (setup.model, &setup.inputs[0]);
    let fault = Fault {
        kind: "planted",
        place: "dit.block.1.fc1".to_owned(),
        reach: Reach::Place,
        effect: Effect::Operation(Change::ClippedWeights(0.6137)),
        opaque: false,
        description: String::new(),
        fix: String::new(),
    };
    let taps = recorded(&mut FaultyEngine::new(model, &f32(), STEPS, fault), input);
    let findings = explained(model, input, &taps).expect("an error");
    let best = &findings[0];
    assert!(best.proven && best.fault.kind == "clipped-weights", "{}", best.fault.description);
    assert!(best.fault.description.contains("0.6137"), "{}", best.fault.description);
}

/// An engine of one part that takes its buffers for another type, from every tensor and from what parts hand over alone.
#[test]
fn misread_buffers_of_a_part_are_named() {
    let scene = Scene::new();
    let setup = scene.setup(STEPS);
    let (model, input) = (setup.model, &setup.inputs[0]);
    let handed = |stored, read, memory, back| {
        Effect::Operation(Change::Handed(Handed { stored, read, own: true, memory, back }))
    };
    let (bf16, fp16) = (Format::Bf16, Format::Fp16);
    let planted: [(&str, &'static [&'static str], Effect); 6] = [
        ("dit", &["dit"], handed(bf16, fp16, true, false)),
        ("dit", &["dit"], handed(bf16, fp16, true, true)),
        ("dit", &["dit"], handed(bf16, fp16, false, false)),
        ("decoder", &["decoder"], handed(bf16, fp16, false, true)),
        (
            "action_head.state_encoder",
            &["action_head.state_encoder", "action_head.state_features"],
            handed(bf16, fp16, false, false),
        ),
        ("language", &["language"], handed(bf16, fp16, false, false)),
    ];
    for (place, paths, effect) in planted {
        let fault = Fault {
            kind: "misread-input",
            place: place.to_owned(),
            reach: Reach::Paths(paths),
            effect,
            opaque: false,
            description: String::new(),
            fix: String::new(),
        };
        let all = recorded(&mut FaultyEngine::new(model, &f32(), STEPS, fault.clone()), input);
        let edges = |name: &String| {
            let site = Site::of_tap(name);
            let shown = model.topology.is_cut(site.path()) || site.path() == model.topology.features;
            shown || site.path() == "dit.tokens"
        };
        let cut = all.tensors.iter().filter(|(name, _)| edges(name));
        let mut few = Recorder::all();
        few.tensors = cut.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        for (taps, what) in [(&all, "every tensor"), (&few, "the edges")] {
            let findings = explained(model, input, taps).unwrap_or_default();
            let best = findings.first().unwrap_or_else(|| panic!("{place}: {what}: nothing found"));
            assert!(best.proven, "{place}: {what}: {best:?}");
            let (Effect::Operation(found), Effect::Operation(planted)) = (&best.fault.effect, &fault.effect)
            else {
                panic!("{place}: {what}: {best:?}");
            };
            assert_eq!((found, &*best.fault.place), (planted, place), "{what}");
            let others = findings.iter().filter(|other| other.proven && other.fault.kind != best.fault.kind);
            assert_eq!(others.count(), 0, "{place}: {what}");
        }
    }
}
