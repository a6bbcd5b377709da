//! Images that an engine was given without the crop or without the letterbox: named, whatever the engine shows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use steadyhand_fidelity::{Trace, TraceWriter};
use steadyhand_gr00t::engine::{CpuEngine, Engine, ModelInput};
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::policy::prepare;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::{Probe, Recorder};
use steadyhand_gr00t::processor::{ImageStep, Processor};
use steadyhand_gr00t::synthetic::tiny_n1_7;
use steadyhand_gr00t::{Matrix, Observation, Result};
use steadyhand_gr00t_lab::diagnosis::{
    Diagnosis, Inputs, OfInference, Options, Setup, Status, Subject, SwapWhen, diagnose,
};

const STEPS: usize = 2;

/// The checkpoint of N1.7 whose frames get bars and a crop of fixed size, as torchvision does it.
fn checkpoint() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/golden_processor_n1d7/torchvision_letterbox")
}

/// A model, its processor, and what two observations of frames that are not square become.
struct Scene {
    model: Model,
    processor: Processor,
    observations: Vec<Observation>,
    inputs: Vec<ModelInput>,
}

impl Scene {
    fn new() -> Scene {
        let tokenizer = checkpoint().join("../tokenizer.json");
        let processor =
            Processor::load(&checkpoint(), "new_embodiment", Some(&tokenizer)).expect("a processor");
        let observations: Vec<Observation> = (0..2)
            .map(|seed| processor.random_observation(seed, [240, 320], "close the right drawer".to_owned()))
            .collect();
        let ids = processor.encode(&observations[0]).expect("an observation").input_ids;
        let mut config = tiny_n1_7();
        // The fixture's tokenizer has numbers of its own; most of the prompt stands for the image.
        let count = |id: &u32| ids.iter().filter(|other| *other == id).count();
        config.qwen3vl_config.image_token_id = ids.iter().copied().max_by_key(count).expect("a prompt");
        config.qwen3vl_config.text_config.vocab_size = *ids.iter().max().expect("a prompt") as usize + 1;
        config.max_num_embodiments = 32;
        let model = Model::synthetic(config, 3).expect("consistent sizes");
        let (rows, cols) = (model.config.action_horizon, model.config.max_action_dim);
        let input = |(index, observation)| {
            prepare(&processor, observation, gaussian(5, 0, index, rows, cols)).expect("an observation")
        };
        let inputs = (0u32..).zip(&observations).map(input).collect();
        Scene { model, processor, observations, inputs }
    }

    /// What the engine is given in place of the inputs.
    fn without(&self, step: ImageStep) -> Vec<ModelInput> {
        let input = |(observation, right): (&Observation, &ModelInput)| {
            let other = self.processor.encode_without(step, observation).expect("an observation");
            ModelInput { images: other.expect("such a step").pixel_values.into(), ..right.clone() }
        };
        self.observations.iter().zip(&self.inputs).map(input).collect()
    }

    fn engine(&self) -> CpuEngine<'static> {
        CpuEngine::new(self.model.clone(), f32(), STEPS)
    }

    fn judge(&self, subject: Subject) -> Diagnosis {
        let setup = Setup {
            model: &self.model,
            processor: &self.processor,
            denoising_steps: STEPS,
            observations: &self.observations,
            inputs: &self.inputs,
            steps: &[0, 1],
            recorded: &[],
            names: &[],
            physical: false,
        };
        let options = Options { policy: f32(), inputs: Inputs::Own, swaps: SwapWhen::Never, scratch: None };
        diagnose(&setup, subject, &options, &|_| {}).expect("a diagnosis")
    }
}

fn f32() -> PrecisionPolicy {
    PrecisionPolicy::preset("f32").expect("a preset")
}

/// The reference, given other inputs than it is asked with.
struct Given {
    engine: CpuEngine<'static>,
    right: Vec<ModelInput>,
    given: Vec<ModelInput>,
}

impl Engine for Given {
    fn name(&self) -> &str {
        "given"
    }

    fn precision(&self) -> &PrecisionPolicy {
        self.engine.precision()
    }

    fn infer(&mut self, inputs: &[ModelInput], probe: Option<&mut dyn Probe>) -> Result<Vec<Matrix>> {
        let given = inputs.iter().map(|input| {
            let index = self.right.iter().position(|right| right.noise == input.noise).expect("an input");
            self.given[index].clone()
        });
        let given: Vec<ModelInput> = given.collect();
        self.engine.infer(&given, probe)
    }
}

const STEPS_AND_WORDS: [(ImageStep, &str); 2] = [
    (ImageStep::Crop, "is given images that were made without the centre crop"),
    (ImageStep::Letterbox, "is given images that were made without the bars of the letterbox"),
];

#[test]
fn a_step_left_out_is_the_cause_from_every_tensor_and_from_the_actions_alone() {
    let scene = Scene::new();
    for (step, words) in STEPS_AND_WORDS {
        for shows in [true, false] {
            let mut engine =
                Given { engine: scene.engine(), right: scene.inputs.clone(), given: scene.without(step) };
            let subject = if shows { Subject::Live(&mut engine) } else { Subject::Closed(&mut engine) };
            let verdict = scene.judge(subject).verdict;
            assert_eq!(verdict.status, Status::Cause, "{step:?}, tensors {shows}: {}", verdict.headline);
            assert!(verdict.headline.contains(words), "{step:?}, tensors {shows}: {}", verdict.headline);
        }
    }
}

#[test]
fn recorded_pixels_say_how_they_were_made() {
    let scene = Scene::new();
    for (step, words) in STEPS_AND_WORDS {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("trace");
        let mut writer = TraceWriter::create(&path, BTreeMap::new()).expect("a trace");
        for (inference, input) in scene.without(step).iter().enumerate() {
            let mut add = |tensor: &str, shape: &[usize], values: &[f32]| {
                writer.add(&OfInference::name(inference, tensor), shape, values).expect("a tensor");
            };
            for (index, image) in input.images.pixels().iter().enumerate() {
                let shape = [1, 3, image.height, image.width];
                add(&format!("pixel_values.{index}"), &shape, &image.data);
            }
            let mut taps = Recorder::all();
            scene.engine().infer(std::slice::from_ref(input), Some(&mut taps)).expect("an inference");
            taps.tensors.iter().for_each(|(name, (shape, values))| add(name, shape, values));
        }
        writer.finish().expect("a trace");
        let verdict = scene.judge(Subject::Trace(Rc::new(Trace::open(&path).expect("a trace")))).verdict;
        let told = format!("{} {}", verdict.headline, verdict.paragraph);
        assert_eq!(verdict.place.as_deref(), Some("vision.patches"), "{step:?}: {told}");
        assert!(told.contains(words), "{step:?}: {told}");
    }
}
