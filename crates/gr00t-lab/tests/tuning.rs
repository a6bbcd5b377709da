//! Tuning for targets that are not here: one that measures times with noise, refuses formats, or fails to open.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::ops::{ModelSite, Operation};
use steadyhand_gr00t::policy::prepare;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::processor::{Processor, random_instruction};
use steadyhand_gr00t::{Error, Matrix, Result, Version, synthetic};
use steadyhand_gr00t_lab::tuning::ranges::Ranges;
use steadyhand_gr00t_lab::tuning::target::Cost;
use steadyhand_gr00t_lab::tuning::{
    CALIBRATED, CpuTarget, Deadline, KindEffect, Outcome, State, Subject, Target, Unit, tune,
};

/// Milliseconds that a product takes by its operands' bits, and what each difference is off by at random.
const MS_OF_BIT: f64 = 0.002;
const NOISE: f64 = 1e-4;
/// Milliseconds for each format beyond the first among the products of a DiT block, where neighbours count: more than
/// any product saves in fp8.
const MS_OF_ANOTHER_FORMAT: f64 = 0.06;

/// A device: the reference's actions, and times that follow from the formats.
struct Device {
    cpu: CpuTarget,
    sites: Vec<ModelSite>,
    /// Refuses fp8 when it is asked whether it can run it.
    refuses: bool,
    /// Fails to open a policy with fp8 in the language model.
    breaks: bool,
    /// Takes longer for products of other operands than their neighbours'.
    neighbours: bool,
    measured: Cell<u32>,
}

impl Device {
    fn new(model: &Model) -> Self {
        let sites = model.sites().expect("sites");
        let measured = Cell::new(0);
        let (refuses, breaks, neighbours) = (false, false, false);
        Device { cpu: CpuTarget::new(model.clone(), 2), sites, refuses, breaks, neighbours, measured }
    }

    fn has_fp8(&self, policy: &PrecisionPolicy, section: &str) -> bool {
        self.sites.iter().any(|site| {
            let products = site.operation.multiplies() && site.path.starts_with(section);
            products && policy.formats_of(&site.path).compute == Format::Fp8E4m3
        })
    }

    fn time(&self, policy: &PrecisionPolicy) -> f64 {
        let products = self.sites.iter().filter(|site| site.operation.multiplies());
        let time: f64 =
            products.map(|site| f64::from(policy.formats_of(&site.path).compute.bits()) * MS_OF_BIT).sum();
        time + if self.neighbours { self.others(policy) as f64 * MS_OF_ANOTHER_FORMAT } else { 0.0 }
    }

    /// Formats beyond the first among the linear layers of each DiT block; its modulation is computed elsewhere.
    fn others(&self, policy: &PrecisionPolicy) -> usize {
        let mut blocks: BTreeMap<&str, Vec<Format>> = BTreeMap::new();
        let linear = self.sites.iter().filter(|site| site.operation == Operation::Linear);
        for site in linear.filter(|site| !site.path.ends_with("modulation")) {
            let (block, _) = site.path.rsplit_once('.').unwrap_or_default();
            let format = policy.formats_of(&site.path).compute;
            let formats = blocks.entry(block).or_default();
            if block.starts_with("dit.block") && !formats.contains(&format) {
                formats.push(format);
            }
        }
        blocks.values().map(|formats| formats.len().saturating_sub(1)).sum()
    }
}

impl Target for Device {
    fn name(&self) -> &'static str {
        "device"
    }

    fn device(&self) -> String {
        "a device of this test".to_owned()
    }

    fn unit(&self) -> Unit {
        Unit::Milliseconds
    }

    fn check(&self, policy: &PrecisionPolicy) -> Result<()> {
        match self.refuses && self.has_fp8(policy, "") {
            true => Err(Error::input("precision", "no kernel for fp8_e4m3")),
            false => Ok(()),
        }
    }

    fn actions(&mut self, policy: &PrecisionPolicy, inputs: &[ModelInput]) -> Result<Vec<Matrix>> {
        if self.breaks && self.has_fp8(policy, "language") {
            return Err(Error::engine("open: the language model has no fp8"));
        }
        self.cpu.actions(policy, inputs)
    }

    fn cost(&mut self, policy: &PrecisionPolicy, _: &[ModelInput], _: &Ranges, _: bool) -> Result<Cost> {
        // Different on every call, as a clock's readings are.
        self.measured.set(self.measured.get() + 1);
        let off = f64::from(self.measured.get() * 37 % 11) / 5.0 - 1.0;
        let baseline = self.time(&PrecisionPolicy::preset("bf16")?);
        Ok(Cost { value: self.time(policy) + off * NOISE, baseline, noise: NOISE })
    }
}

/// The small model on random observations.
fn with_subject(test: impl FnOnce(&Subject)) {
    let config = synthetic::tiny();
    let processor = Processor::synthetic(Version::N1_6, &config, 1, 56).expect("a processor");
    let model = Model::synthetic(config, 7).expect("consistent sizes");
    let observe = |seed| processor.random_observation(seed, [60, 60], random_instruction(7, 5));
    let observations: Vec<_> = (0..2).map(observe).collect();
    let noise = |frame| gaussian(7, frame, 0, model.config.action_horizon, model.config.max_action_dim);
    let pairs = observations.iter().zip(0..);
    let inputs = pairs.map(|(o, frame)| prepare(&processor, o, noise(frame)).expect("an input")).collect();
    test(&Subject {
        model: &model,
        processor: &processor,
        observations: observations.clone(),
        inputs,
        spread: None,
        checkpoint: synthetic::fingerprint("synth:tiny", 7),
        dataset: "random".to_owned(),
        seed: 7,
        denoising_steps: 2,
    });
}

fn run(
    subject: &Subject,
    device: &mut Device,
    state: &Path,
    limit: Option<Duration>,
    budget: &str,
) -> Outcome {
    let state = State::open(state, &subject.header(device)).expect("a state");
    let budget = budget.parse().expect("a budget");
    let deadline = Deadline::after(limit);
    tune(subject, device, &budget, state, deadline, &mut |_| ()).expect("tuned").0
}

#[test]
fn times_with_noise_lead_to_a_faster_policy_and_records_to_the_same() {
    with_subject(|subject| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.jsonl");
        let mut device = Device::new(subject.model);
        let found = run(subject, &mut device, &path, None, "error<=1.0x bf16");
        let (choice, bf16) = (found.choice(), found.of_preset("bf16").expect("measured"));
        assert!(!found.cut_short && choice.lasting);
        // The scales that are known before an inference begins are a policy of their own.
        let fp8 = ["fp8", CALIBRATED].map(|name| found.of_preset(name).expect("measured"));
        assert_eq!(fp8.map(|measured| measured.policy.calibration().is_some()), [false, true]);
        assert!(fp8[1].lasting && fp8[1].error != fp8[0].error, "{fp8:?}");
        assert!(choice.error <= bf16.error && choice.cost < bf16.cost, "{choice:?}");
        let faster = found.pareto.iter().map(|index| &found.policies[*index]).any(|policy| {
            policy.cost < choice.cost && policy.error.expect("finite") <= 2.0 * bf16.error.expect("finite")
        });
        assert!(faster, "{:?}", found.policies);
        let before = device.measured.get();
        let again = run(subject, &mut device, &path, None, "error<=1.0x bf16");
        assert_eq!(device.measured.get(), before, "everything was taken over");
        assert_eq!(again.choice().policy, choice.policy);
        // Another budget is no other experiment.
        let wider = run(subject, &mut device, &path, None, "error<=3x bf16");
        assert!(wider.choice().cost < choice.cost && wider.taken_over > 0);
    });
}

#[test]
fn layers_get_fp8_as_wholes_where_no_product_saves_beside_others() {
    with_subject(|subject| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.jsonl");
        let mut device = Device { neighbours: true, ..Device::new(subject.model) };
        let found = run(subject, &mut device, &path, None, "error<=2x bf16");
        for name in ["query-key-value (text)", "attention_output", "fc1", "fc2"] {
            let of = |kind: &&KindEffect| kind.kind.ends_with(name) && kind.kind.starts_with("dit.block");
            let mut kinds = found.kinds.iter().filter(of).filter(|kind| kind.format == Format::Fp8E4m3);
            assert!(kinds.next().is_some_and(|kind| !kind.saves), "{name}: {:?}", found.kinds);
        }
        let section =
            found.sections.iter().find(|section| section.section == "dit.block.*").expect("measured");
        assert!(section.saves, "{section:?}");
        let mut searched = found.policies.iter().filter(|measured| measured.base.is_some());
        let fc1 = |block: usize| format!("dit.block.{block}.fc1");
        let in_fp8 = |policy: &PrecisionPolicy| (0..3).any(|block| device.has_fp8(policy, &fc1(block)));
        assert!(
            searched.any(|measured| in_fp8(&measured.policy) && device.others(&measured.policy) == 0),
            "{:?}",
            found.policies
        );
        // Neither bases of other operands nor whole layers lead predictions astray.
        for searched in &found.policies {
            let predicted = searched.predicted.map_or(searched.cost, |predicted| predicted.cost);
            assert!((predicted - searched.cost).abs() < MS_OF_ANOTHER_FORMAT, "{searched:?}");
        }
    });
}

#[test]
fn formats_that_a_target_refuses_are_left_out_and_named() {
    with_subject(|subject| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut device = Device { refuses: true, ..Device::new(subject.model) };
        let path = folder.path().join("refuses.jsonl");
        let found = run(subject, &mut device, &path, None, "error<=1.0x bf16");
        assert!(found.policies.iter().all(|measured| !device.has_fp8(&measured.policy, "")));
        for name in ["fp8", CALIBRATED] {
            assert!(found.refused[name].contains("no kernel for fp8_e4m3"), "{:?}", found.refused);
        }
        assert!(found.choice().error <= found.of_preset("bf16").expect("measured").error);

        let mut device = Device { breaks: true, ..Device::new(subject.model) };
        let path = folder.path().join("breaks.jsonl");
        let found = run(subject, &mut device, &path, None, "error<=2.0x bf16");
        assert!(found.policies.iter().all(|measured| !device.has_fp8(&measured.policy, "language")));
        assert!(device.has_fp8(&found.choice().policy, "dit"), "{:?}", found.choice());
        assert!(
            found.refused["language.layer.*.down fp8_e4m3"].contains("has no fp8"),
            "{:?}",
            found.refused
        );
    });
}

#[test]
fn without_time_the_best_preset_is_given() {
    with_subject(|subject| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.jsonl");
        let mut device = Device::new(subject.model);
        let found = run(subject, &mut device, &path, Some(Duration::ZERO), "error<=1.0x bf16");
        assert!(found.cut_short && found.kinds.is_empty() && found.groups.is_empty());
        assert!(found.choice().error <= found.of_preset("bf16").expect("measured").error);
    });
}
