//! A model golden: weights, inputs and every tap of the official code, in f32, and its bf16 result.

use super::{Measure, Ran, Row, VerifyArgs, golden_input};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::config::Attends;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::policy::{load_model, precision};
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t::processor::PixelValues;
use steadyhand_gr00t::session::{Tensor, Tensors};

/// f32: the official f32 code lies up to 7.1e-7 from its f64 run (`floor.json`); another order of summation
/// may cost as much again at each of a dozen layers. Measured here: 1.1e-6.
const F32_LIMIT: f64 = 1e-5;

/// Lower precisions: the official bf16 result's own distance from the official f32 result, times this.
const OFFICIAL_BF16_FACTOR: f64 = 1.2;
/// The same at taps in between, some of which have a few hundred values: there the ratio of two draws of rounding varies
/// more. Measured over the 144 taps of a golden: 1.28 (`dit.block.2.attention_output`), the next 1.27; times 1.2.
const OFFICIAL_BF16_TAP_FACTOR: f64 = 1.5;
/// The taps that every golden has of the official bf16 run: what the backbone and the policy give.
const RESULTS: [&str; 2] = ["backbone_features", "action_pred"];

/// Compares every tap that the golden holds (f32), or those that it has of the official bf16 run (other precisions).
pub(super) fn verify(folder: &Path, label: &str, args: &VerifyArgs, rows: &mut Vec<Row>) -> Result<Ran> {
    let model = load_model(folder)?;
    let input = golden_input::read(folder, &model.config)?;
    let taps = Taps::of(&model, &input)?;
    let checkpoint = args.fingerprint(&model);
    let (found, ran) = infer(model, input, args, checkpoint)?;
    let found = |name: &str, expected| taps.distance(&found, name, expected, folder);
    let expected = both(folder, "expected_f32", "expected_detail_f32")?;
    if args.engine.precision()?.name() == "f32" {
        let floor = official_floor(folder)?;
        for (name, tensor) in &expected {
            let limit = args.max_relative_l2.unwrap_or(F32_LIMIT);
            let note = floor.get(name).map(|floor| format!("{floor:.1e} from f64")).unwrap_or_default();
            rows.push(row(label, name, found(name, tensor)?, limit, note));
        }
        return Ok(ran);
    }
    for (name, bf16) in &both(folder, "expected_bf16", "expected_bf16_taps")? {
        let f32 = expected.get(name).with_context(|| format!("{}: {name}: none in f32", folder.display()))?;
        let own = taps.own(name, bf16, f32);
        let factor =
            if RESULTS.contains(&name.as_str()) { OFFICIAL_BF16_FACTOR } else { OFFICIAL_BF16_TAP_FACTOR };
        let limit = args.max_relative_l2.unwrap_or(own * factor);
        let note = format!("bf16 {own:.2e} from f32, {:.2e} from ours", found(name, bf16)?);
        rows.push(row(label, name, found(name, f32)?, limit, note));
    }
    Ok(ran)
}

/// The taps of a golden's file, and of a second one that some goldens have. Tables of cosines and sines are not taps here.
fn both(folder: &Path, first: &str, second: &str) -> Result<BTreeMap<String, Tensor<f32>>> {
    let path = |name: &str| folder.join(format!("{name}.safetensors"));
    let mut taps = Tensors::read(&path(first))?.floats().clone();
    if path(second).exists() {
        taps.extend(Tensors::read(&path(second))?.floats().clone());
    }
    taps.retain(|name, _| !name.contains(".rope."));
    Ok(taps)
}

fn row(label: &str, name: &str, found: f64, limit: f64, note: String) -> Row {
    Row { fixture: label.to_owned(), name: name.to_owned(), found, limit, what: Measure::RelativeL2, note }
}

/// How the taps of a golden stand to those of this crate.
struct Taps {
    /// Where a patch of a `vision` tap stands here, if elsewhere.
    patches: Option<Vec<usize>>,
    /// The tokens that each block of the DiT attends to; all, where there is none.
    memory: Vec<Option<Vec<usize>>>,
}

impl Taps {
    fn of(model: &Model, input: &ModelInput) -> Result<Self> {
        let config = &model.config;
        let kinds = |images: bool| {
            let ids = input.input_ids.iter().enumerate();
            ids.filter(|(_, id)| (**id == config.image_token()) == images).map(|(at, _)| at).collect()
        };
        let memory = |block: usize| match config.attends(block) {
            Attends::Text => Some(kinds(false)),
            Attends::Images => Some(kinds(true)),
            Attends::Itself | Attends::Everything => None,
        };
        let eagle = model.deepstack.is_empty();
        Ok(Taps {
            patches: eagle.then(|| official_patch_order(&input.images.pixels())),
            memory: (0..config.diffusion_model_cfg.num_layers).map(memory).collect(),
        })
    }

    fn distance(&self, found: &Recorder, name: &str, expected: &Tensor<f32>, folder: &Path) -> Result<f64> {
        let moved = self.patches.as_ref().filter(|_| name.starts_with("vision."));
        let moved = moved.map(|order| by_rows(expected, order));
        let (name, rows) = self.once(name);
        let chosen = rows.map(|rows| chosen(expected, rows));
        distance(found, name, moved.as_ref().or(chosen.as_ref()).unwrap_or(expected), folder)
    }

    /// How far two official tensors are apart, where they are compared with this crate's.
    fn own(&self, name: &str, bf16: &Tensor<f32>, f32: &Tensor<f32>) -> f64 {
        match self.once(name) {
            (_, Some(rows)) => relative_l2(&chosen(bf16, rows).values, &chosen(f32, rows).values),
            (_, None) => relative_l2(&bf16.values, &f32.values),
        }
    }

    /// Keys and values of cross-attention are computed once here, of the tokens that are attended to.
    fn once<'n>(&self, name: &'n str) -> (&'n str, Option<&[usize]>) {
        let of = || {
            let (_, path) = name.strip_prefix("step.")?.split_once('.')?;
            let (block, operation) = path.strip_prefix("dit.block.")?.split_once('.')?;
            let tokens = self.memory.get(block.parse::<usize>().ok()?)?.as_deref()?;
            ["key", "value"].contains(&operation).then_some((path, Some(tokens)))
        };
        of().unwrap_or((name, None))
    }
}

/// The rows `tokens` of a tensor `[1, all tokens, features]`.
fn chosen(tensor: &Tensor<f32>, tokens: &[usize]) -> Tensor<f32> {
    let features = tensor.shape.last().copied().unwrap_or(1).max(1);
    let values = tokens.iter().flat_map(|token| &tensor.values[token * features..(token + 1) * features]);
    Tensor { shape: vec![1, tokens.len(), features], values: values.copied().collect() }
}

fn distance(found: &Recorder, name: &str, expected: &Tensor<f32>, folder: &Path) -> Result<f64> {
    let (shape, values) = found
        .tensors
        .get(name)
        .with_context(|| format!("{}: {name}: the model has no tap of this name", folder.display()))?;
    // The official code keeps some results by head.
    let joined = match expected.shape[..] {
        [batch, tokens, heads, head_dim] => vec![batch, tokens, heads * head_dim],
        _ => expected.shape.clone(),
    };
    let same = shape.iter().filter(|dim| **dim != 1).eq(joined.iter().filter(|dim| **dim != 1));
    ensure!(same, "{}: {name}: expected {:?}, found {shape:?}", folder.display(), expected.shape);
    Ok(relative_l2(values, &expected.values))
}

/// Where the official vision tower keeps each patch, in the order of its taps: it walks an image in windows
/// of 14x14 patches, window by window, although its attention is not windowed. Ours walks row by row.
/// Source: `split_patch_embeddings_to_windows_with_meta` in `modeling_siglip2.py`.
fn official_patch_order(images: &[PixelValues]) -> Vec<usize> {
    const WINDOW: usize = 14;
    const PATCH: usize = 14;
    let mut order = Vec::new();
    for image in images {
        let (first, rows, cols) = (order.len(), image.height / PATCH, image.width / PATCH);
        let windows = (0..rows).step_by(WINDOW).flat_map(|y| (0..cols).step_by(WINDOW).map(move |x| (y, x)));
        for (top, left) in windows {
            for y in top..rows.min(top + WINDOW) {
                order.extend((left..cols.min(left + WINDOW)).map(|x| first + y * cols + x));
            }
        }
    }
    order
}

/// The tensor `[1, rows, features]` with its row `i` moved to row `order[i]`.
fn by_rows(tensor: &Tensor<f32>, order: &[usize]) -> Tensor<f32> {
    let features = tensor.values.len() / order.len().max(1);
    let mut values = vec![f32::NAN; tensor.values.len()];
    for (row, to) in tensor.values.chunks_exact(features.max(1)).zip(order) {
        if let Some(place) = values.get_mut(to * features..(to + 1) * features) {
            place.copy_from_slice(row);
        }
    }
    Tensor { shape: tensor.shape.clone(), values }
}

fn infer(
    model: Model,
    input: ModelInput,
    args: &VerifyArgs,
    checkpoint: Option<String>,
) -> Result<(Recorder, Ran)> {
    let steps = model.config.num_inference_timesteps;
    let formats = precision(&model, args.engine.precision()?, None)?;
    let mut engine = args.engine.backend()?.open(model, formats, steps)?;
    let mut recorder = Recorder::all();
    engine.infer(&[input], Some(&mut recorder))?;
    let (engine, precision) = (engine.name().to_owned(), engine.precision().name().to_owned());
    Ok((recorder, Ran { checkpoint, engine, precision }))
}

/// The official f32 code's distance from its f64 run, by tap.
fn official_floor(folder: &Path) -> Result<BTreeMap<String, f64>> {
    #[derive(serde::Deserialize)]
    struct Floor {
        official_f32_vs_f64_relative_l2: BTreeMap<String, f64>,
    }
    let path = folder.join("floor.json");
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let floor: Floor = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(floor.official_f32_vs_f64_relative_l2)
}
