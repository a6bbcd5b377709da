//! Inputs of every graph with what the reference makes of them, and the Python that runs the graphs.

use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize_to_file};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use steadyhand_gr00t::export::{Component, Layout};
use steadyhand_gr00t::model::language::{EMBEDDING, INPUTS};
use steadyhand_gr00t::model::{Batch, Model};
use steadyhand_gr00t::noise::gaussian;
use steadyhand_gr00t::ops::ImageBatch;
use steadyhand_gr00t::ops::cpu::Cpu;
use steadyhand_gr00t::ops::{Ops, Site};
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::probe::Recorder;

/// Observations in a case.
const BATCH: usize = 2;
/// Tokens that a mask hides, after the others.
pub const PADDING: usize = 3;
/// Times of the two observations.
const TIMES: [usize; BATCH] = [750, 250];

/// The Python that has what the checks need: `STEADY_PYTHON`, or `python3`.
pub fn python() -> Option<PathBuf> {
    let python = std::env::var_os("STEADY_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from);
    let imports = Command::new(&python).args(["-c", "import onnx, onnxruntime, numpy"]).output();
    imports.is_ok_and(|output| output.status.success()).then_some(python)
}

/// What `check.py` says of each folder, its graph run by `runner`.
pub fn run_script(python: &Path, runner: &str, folders: &[PathBuf]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx/check.py");
    let output = Command::new(python).arg(script).arg(runner).args(folders).output().expect("python runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let lines = String::from_utf8_lossy(&output.stdout);
    let results: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect();
    assert_eq!(results.len(), folders.len(), "{errors}");
    results
}

/// A tensor of a case's file.
struct TensorData {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn floats(name: &str, shape: &[usize], values: &[f32]) -> TensorData {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    TensorData { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec(), bytes }
}

fn integers(name: &str, shape: &[usize], values: impl Iterator<Item = usize>) -> TensorData {
    let bytes = values.flat_map(|value| (value as i64).to_le_bytes()).collect();
    TensorData { name: name.to_owned(), dtype: Dtype::I64, shape: shape.to_vec(), bytes }
}

fn bools(name: &str, row: &[bool]) -> TensorData {
    let bytes = row.repeat(BATCH).into_iter().map(u8::from).collect();
    TensorData { name: name.to_owned(), dtype: Dtype::BOOL, shape: vec![BATCH, row.len()], bytes }
}

/// Inputs of one component, the same for every precision.
pub struct Case {
    component: Component,
    items: Vec<Batch<'static>>,
    /// Backbone features (action head) or normalized features (DiT) of each item.
    features: Vec<Vec<f32>>,
    /// State and action tokens of each item.
    tokens: Vec<Vec<f32>>,
    widths: [usize; 2],
    /// What is added to image tokens behind language layers, by layer.
    added: Vec<Vec<f32>>,
    outputs: Vec<(&'static str, Vec<usize>)>,
    state: [usize; 2],
}

impl Case {
    pub fn new(model: &Model, component: Component, layout: &Layout) -> Self {
        let config = &model.config;
        let whole = model.topology.vision_gives_tokens();
        let alone = whole && matches!(component, Component::Vit | Component::Llm);
        let observations = if alone { 1 } else { BATCH };
        let items: Vec<Batch> = (0..observations).map(|item| batch(model, layout, item)).collect();
        let count = items[0].input_ids[0].len();
        let [state_tokens, state_values] = config.state_shape(layout.state_horizon);
        let own = state_tokens + config.action_horizon;
        let widths = [config.backbone_embedding_dim, config.input_embedding_dim];
        let random = |seed, rows, cols| -> Vec<Vec<f32>> {
            (0..BATCH).map(|item| gaussian(seed, item as u32, 0, rows, cols).data).collect()
        };
        let (text, layers) = (config.backbone().text.hidden_size, model.deepstack.len());
        let patches: usize =
            model.grids(&items[0].images).expect("fitting images").iter().map(|grid| grid.patches()).sum();
        let image_tokens = config.image_tokens(&layout.images);
        if component == Component::Vit && alone {
            let outputs = vec![
                ("image_embeds", vec![image_tokens, text]),
                ("deepstack_features", vec![layers, image_tokens, text]),
            ];
            return Case { outputs, ..Case::without_tokens(component, items) };
        }
        if component == Component::Llm {
            let read = items.iter().map(|item| what_is_read(model, item));
            let (features, mut added): (Vec<_>, Vec<_>) = read.unzip();
            return Case {
                features,
                widths: [text, 0],
                added: added.swap_remove(0),
                outputs: vec![("embeddings", vec![observations, count, text])],
                ..Case::without_tokens(component, items)
            };
        }
        let output = match component {
            Component::Vit => ("vit_embeds", vec![BATCH, patches, config.backbone().vision.hidden_size]),
            Component::Llm => unreachable!("handled before"),
            Component::Blocks(_) => unreachable!("cases are made of components that have a name"),
            Component::Dit => ("dit_output", vec![BATCH, own, config.diffusion_model_cfg.output_dim]),
            Component::Backbone => ("backbone_features", vec![BATCH, count, widths[0]]),
            Component::ActionHead | Component::Policy => {
                ("action_pred", vec![BATCH, config.action_horizon, config.max_action_dim])
            }
            Component::VlSelfAttention => ("vl_features", vec![BATCH, count, widths[0]]),
            Component::StateEncoder => ("state_features", vec![BATCH, state_tokens, widths[1]]),
            Component::ActionEncoder => ("action_features", vec![BATCH, config.action_horizon, widths[1]]),
            Component::ActionDecoder => ("decoder", vec![BATCH, own, config.max_action_dim]),
        };
        // What a component of the DiT's own tokens is given.
        let token_shape = match component {
            Component::ActionEncoder => [config.action_horizon, config.max_action_dim],
            Component::ActionDecoder => [own, config.diffusion_model_cfg.output_dim],
            _ => [own, widths[1]],
        };
        let widths = [widths[0], token_shape[1]];
        let (features, tokens) = (random(3, count, widths[0]), random(4, token_shape[0], token_shape[1]));
        let outputs = vec![output];
        let state = [state_tokens, state_values];
        Case { features, tokens, widths, outputs, state, ..Case::without_tokens(component, items) }
    }

    /// A case of inputs that are those of an observation alone.
    fn without_tokens(component: Component, items: Vec<Batch<'static>>) -> Self {
        let (features, tokens, added, outputs) = Default::default();
        Case { component, items, features, tokens, widths: [0; 2], added, outputs, state: [0; 2] }
    }

    /// The reference's result for the two observations, one after the other.
    pub fn reference(&self, model: &Model, policy: &PrecisionPolicy) -> Vec<f32> {
        let mut values = Vec::new();
        for (index, batch) in self.items.iter().enumerate() {
            let ops = &Cpu::new(policy, None);
            let prompt = model.prompt(batch).expect("a prompt");
            let input = |values: &[f32], width: usize, name: &str| {
                let shape = [1, values.len() / width, width];
                ops.input(values.to_vec(), shape, Site::new(name)).expect("an input")
            };
            let grids = &model.grids(&batch.images).expect("fitting images");
            let result = match self.component {
                Component::Vit => {
                    let patches = model.patches(ops, batch).expect("patches");
                    let seen = model.see(ops, &patches, grids).expect("the reference runs");
                    if model.topology.vision_gives_tokens() {
                        let tokens =
                            model.image_tokens(ops, &seen.patches, grids).expect("the reference runs");
                        let all = std::iter::once(&tokens).chain(&seen.deepstack);
                        all.for_each(|tensor| values.extend_from_slice(tensor.values()));
                        continue;
                    }
                    Ok(seen.patches)
                }
                Component::Llm => {
                    let embeddings = input(&self.features[index], self.widths[0], EMBEDDING);
                    let added = self.added.iter().enumerate().map(|(layer, values)| {
                        input(values, self.widths[0], &format!("vision.deepstack.{layer}"))
                    });
                    model.read(ops, &embeddings, &added.collect::<Vec<_>>(), &prompt, grids)
                }
                Component::Blocks(_) => unreachable!("cases are made of components that have a name"),
                Component::Policy => model.infer(ops, batch),
                Component::Backbone => model.backbone(ops, &prompt, batch),
                Component::ActionHead => {
                    let features = input(&self.features[index], self.widths[0], "backbone_features");
                    model.actions(ops, &features, &prompt, batch)
                }
                Component::Dit => {
                    let features = input(&self.features[index], self.widths[0], "dit.vl_features");
                    let tokens = input(&self.tokens[index], self.widths[1], "dit.state_action_tokens");
                    model.dit(ops, &tokens, &features, &prompt, TIMES[index])
                }
                Component::VlSelfAttention => {
                    let features = input(&self.features[index], self.widths[0], "action_head.vl_norm");
                    model.vl_self_attention(ops, &features)
                }
                Component::StateEncoder => model.state_encoder(ops, batch),
                Component::ActionEncoder => {
                    let actions = input(&self.tokens[index], self.widths[1], "actions_in");
                    model.action_encoder(ops, &actions, TIMES[index], batch)
                }
                Component::ActionDecoder => {
                    let output = input(&self.tokens[index], self.widths[1], "dit_output");
                    model.action_decoder(ops, &output, batch)
                }
            };
            values.extend_from_slice(result.expect("the reference runs").values());
        }
        values
    }

    /// Writes inputs and the expected output. Features get padding that the mask hides.
    /// `before`: tokens of padding before the language layers' own, which move those to later positions.
    pub fn write(&self, model: &Model, expected: &[f32], before: usize, path: &Path) {
        let mut rest = expected;
        let mut tensors = Vec::new();
        for (name, shape) in &self.outputs {
            let (own, others) = rest.split_at(shape.iter().product());
            let padded = if self.component == Component::Llm { "last" } else { "out" };
            tensors.push(floats(&format!("{padded}.{name}"), shape, own));
            rest = others;
        }
        let all = |values: &dyn Fn(&Batch) -> Vec<f32>| -> Vec<f32> {
            self.items.iter().flat_map(values).collect()
        };
        let first = &self.items[0];
        let ids: Vec<usize> =
            self.items.iter().flat_map(|item| item.input_ids[0].iter().map(|id| *id as usize)).collect();
        let count = first.input_ids[0].len();
        let image_mask: Vec<bool> =
            first.input_ids[0].iter().map(|id| *id == first.input_ids[0][1]).collect();
        if matches!(self.component, Component::Policy | Component::Backbone) {
            for (index, image) in first.images.iter().enumerate() {
                let pixels = all(&|item| item.images[index].pixels.to_vec());
                let shape = [BATCH, 3, image.height, image.width];
                tensors.push(floats(&format!("in.pixel_values.{index}"), &shape, &pixels));
            }
            tensors.push(integers("in.input_ids", &[BATCH, count], ids.into_iter()));
        }
        if self.component == Component::Backbone {
            let TensorData { dtype, shape, bytes, .. } = bools("", &image_mask);
            let floats: Vec<f32> = bytes.iter().map(|byte| f32::from(*byte)).collect();
            assert_eq!(dtype, Dtype::BOOL);
            tensors.push(self::floats("out.image_mask", &shape, &floats));
        }
        if matches!(self.component, Component::Policy | Component::ActionHead | Component::StateEncoder) {
            let state = all(&|item| item.state.clone());
            tensors.push(floats("in.state", &[BATCH, self.state[0], self.state[1]], &state));
        }
        if matches!(self.component, Component::Policy | Component::ActionHead) {
            let noise = all(&|item| item.noise.clone());
            tensors.push(floats("in.noise", &self.outputs[0].1, &noise));
        }
        if self.component == Component::Vit {
            tensors.push(self.pixels(model));
        }
        if self.component == Component::Llm {
            tensors.extend(self.embeddings(model, &image_mask, before));
        }
        let without_embodiment =
            [Component::Vit, Component::Llm, Component::Dit, Component::Backbone, Component::VlSelfAttention];
        if !without_embodiment.contains(&self.component) {
            let slots = self.items.iter().map(|item| item.embodiment_ids[0]);
            tensors.push(integers("in.embodiment_id", &[BATCH], slots));
        }
        if matches!(self.component, Component::Dit | Component::ActionHead) {
            let width = self.widths[0];
            let padded: Vec<f32> = self
                .features
                .iter()
                .flat_map(|item| item.iter().copied().chain(std::iter::repeat_n(9.0, PADDING * width)))
                .collect();
            let name = if self.component == Component::Dit { "vl_features" } else { "backbone_features" };
            tensors.push(floats(&format!("in.{name}"), &[BATCH, count + PADDING, width], &padded));
            let padding = [true, false, true];
            tensors.push(bools("in.image_mask", &[&image_mask[..], &padding].concat()));
            tensors.push(bools(
                "in.backbone_attention_mask",
                &[vec![true; count], vec![false; PADDING]].concat(),
            ));
        }
        if self.component == Component::VlSelfAttention {
            tensors.push(floats("in.vl_norm", &[BATCH, count, self.widths[0]], &self.features.concat()));
        }
        let own = match self.component {
            Component::Dit => Some("state_action_tokens"),
            Component::ActionEncoder => Some("actions_in"),
            Component::ActionDecoder => Some("dit_output"),
            _ => None,
        };
        if let Some(name) = own {
            let rows = self.tokens[0].len() / self.widths[1];
            let shape = [BATCH, rows, self.widths[1]];
            tensors.push(floats(&format!("in.{name}"), &shape, &self.tokens.concat()));
        }
        if matches!(self.component, Component::Dit | Component::ActionEncoder) {
            tensors.push(integers("in.timestep", &[BATCH], TIMES.into_iter()));
        }
        let views = tensors.iter().map(|tensor| {
            let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
            (tensor.name.clone(), view.expect("bytes of the shape"))
        });
        serialize_to_file(views, None, path).expect("the case is written");
    }
}

impl Case {
    /// The images of every observation, or the patches of one.
    fn pixels(&self, model: &Model) -> TensorData {
        let first = &self.items[0];
        if model.topology.vision_gives_tokens() {
            let policy = PrecisionPolicy::preset("f32").expect("a preset");
            let ops = &Cpu::new(&policy, None);
            let patches = model.patches(ops, first).expect("patches");
            let [_, rows, cols] = ops.shape(&patches);
            return floats("in.pixel_values", &[rows, cols], patches.values());
        }
        let [image] = &first.images[..] else { panic!("one image for each observation") };
        let shape = [self.items.len(), 3, image.height, image.width];
        let pixels: Vec<f32> = self.items.iter().flat_map(|item| item.images[0].pixels.to_vec()).collect();
        floats("in.pixel_values", &shape, &pixels)
    }

    /// What the language layers are given, behind padding that a mask hides.
    fn embeddings(&self, model: &Model, image_mask: &[bool], before: usize) -> Vec<TensorData> {
        let (batch, count, width) = (self.items.len(), image_mask.len(), self.widths[0]);
        let padded: Vec<f32> = self.features[..batch]
            .iter()
            .flat_map(|item| std::iter::repeat_n(9.0, before * width).chain(item.iter().copied()))
            .collect();
        let attended = [vec![0; before], vec![1; count]].concat().repeat(batch);
        let shape = [batch, before + count];
        let mut tensors = vec![
            floats("in.inputs_embeds", &[batch, before + count, width], &padded),
            integers("in.attention_mask", &shape, attended.into_iter()),
        ];
        if let Some(places) = model.token_places(&self.items[0]).expect("a prompt") {
            // Those of padding count for nothing.
            let axis = |axis: usize| {
                std::iter::repeat_n(1, before).chain(places.iter().map(move |place| place[axis]))
            };
            let places: Vec<usize> = (0..3).flat_map(axis).collect();
            tensors.push(integers("in.position_ids", &[3, 1, before + count], places.into_iter()));
        }
        if !self.added.is_empty() {
            let seen = [&vec![false; before], image_mask].concat();
            let TensorData { name, dtype, shape: _, bytes } = bools("in.visual_pos_masks", &seen);
            let bytes = bytes[..seen.len()].to_vec();
            tensors.push(TensorData { name, dtype, shape: vec![1, seen.len()], bytes });
        }
        tensors.extend(self.added.iter().enumerate().map(|(layer, values)| {
            floats(&format!("in.deepstack_{layer}"), &[values.len() / width, width], values)
        }));
        tensors
    }
}

/// What the language layers read in an inference: embeddings, and what is added behind layers.
fn what_is_read(model: &Model, item: &Batch) -> (Vec<f32>, Vec<Vec<f32>>) {
    let added = (0..model.deepstack.len()).map(|layer| format!("vision.deepstack.{layer}"));
    let names: Vec<String> = std::iter::once(INPUTS.to_owned()).chain(added).collect();
    let mut taps = Recorder::only(names.clone());
    let policy = PrecisionPolicy::preset("f32").expect("a preset");
    let prompt = model.prompt(item).expect("a prompt");
    model.backbone(&Cpu::new(&policy, Some(&mut taps)), &prompt, item).expect("the reference runs");
    let mut values = names.iter().map(|name| taps.tensors[name].1.clone());
    (values.next().expect("the first name"), values.collect())
}

/// One observation: text, the images' tokens, text.
fn batch(model: &Model, layout: &Layout, item: usize) -> Batch<'static> {
    let config = &model.config;
    let image_token = config.image_token();
    let unit = config.image_token_side();
    let count: usize = layout.images.iter().map(|[height, width]| height / unit * (width / unit)).sum();
    let text = |n: usize| {
        let words = (0..n).map(|i| (17 * i + 31 * item + 11) as u32 % 400);
        words.map(|id| id + u32::from(id == image_token)).collect::<Vec<_>>()
    };
    let random = |seed, rows, cols| gaussian(seed, item as u32, 1, rows, cols).data;
    Batch {
        images: layout
            .images
            .iter()
            .map(|[height, width]| ImageBatch {
                height: *height,
                width: *width,
                frames: 1,
                pixels: random(5, 3 * height, *width).into(),
            })
            .collect(),
        raw: Vec::new(),
        input_ids: vec![[text(1), vec![image_token; count], text(9)].concat()],
        state: random(6, layout.state_horizon, config.max_state_dim),
        state_horizon: layout.state_horizon,
        embodiment_ids: vec![item],
        noise: random(7, config.action_horizon, config.max_action_dim),
        strength: None,
        denoising_steps: layout.denoising_steps,
    }
}
