//! A model golden: weights, inputs and every tap of the official code, in f32, and its bf16 result.

use super::{Measure, Row, VerifyArgs};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use steadyhand_fidelity::relative_l2;
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::policy::{load_model, precision};
use steadyhand_gr00t::probe::Recorder;
use steadyhand_gr00t::processor::PixelValues;
use steadyhand_gr00t::session::{Tensor, Tensors};

/// f32: the official f32 code lies up to 7.1e-7 from its f64 run (`floor.json`); another order of summation
/// may cost as much again at each of a dozen layers. Measured here: 1.1e-6.
const F32_LIMIT: f64 = 1e-5;

/// Lower precisions: the official bf16 result's own distance from the official f32 result, times this.
const OFFICIAL_BF16_FACTOR: f64 = 1.2;

/// Compares every tap that the golden holds (f32), or features and actions (other precisions).
pub(super) fn verify(folder: &Path, label: &str, args: &VerifyArgs, rows: &mut Vec<Row>) -> Result<()> {
    let expected = Tensors::read(&folder.join("expected_f32.safetensors"))?;
    let input = read_input(&folder.join("inputs.safetensors"))?;
    let order = official_patch_order(&input.images);
    let found = infer(folder, input, args)?;
    if args.engine.precision()? == "f32" {
        let floor = official_floor(folder)?;
        for (name, tensor) in expected.floats() {
            let limit = args.max_relative_l2.unwrap_or(F32_LIMIT);
            let note = floor.get(name).map(|floor| format!("{floor:.1e} from f64")).unwrap_or_default();
            let found = if name.starts_with("vision.") {
                distance(&found, name, &by_rows(tensor, &order), folder)?
            } else {
                distance(&found, name, tensor, folder)?
            };
            rows.push(row(label, name, found, limit, note));
        }
        return Ok(());
    }
    let official = Tensors::read(&folder.join("expected_bf16.safetensors"))?;
    for (name, bf16) in official.floats() {
        let f32 = expected.float(name)?;
        let own = relative_l2(&bf16.values, &f32.values);
        let limit = args.max_relative_l2.unwrap_or(own * OFFICIAL_BF16_FACTOR);
        let to_bf16 = distance(&found, name, bf16, folder)?;
        let note = format!("bf16 {own:.2e} from f32, {to_bf16:.2e} from ours");
        rows.push(row(label, name, distance(&found, name, f32, folder)?, limit, note));
    }
    Ok(())
}

fn row(label: &str, name: &str, found: f64, limit: f64, note: String) -> Row {
    Row { name: format!("{label} {name}"), found, limit, what: Measure::RelativeL2, note }
}

fn distance(found: &Recorder, name: &str, expected: &Tensor<f32>, folder: &Path) -> Result<f64> {
    let (shape, values) = found
        .tensors
        .get(name)
        .with_context(|| format!("{}: {name}: the model has no tap of this name", folder.display()))?;
    let same = shape.iter().filter(|dim| **dim != 1).eq(expected.shape.iter().filter(|dim| **dim != 1));
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

fn infer(folder: &Path, input: ModelInput, args: &VerifyArgs) -> Result<Recorder> {
    let model = load_model(folder)?;
    let steps = model.config.num_inference_timesteps;
    let formats = precision(&model, args.engine.precision()?, None)?;
    let mut engine = args.engine.backend()?.open(model, formats, steps)?;
    let mut recorder = Recorder::all();
    engine.infer(&[input], Some(&mut recorder))?;
    Ok(recorder)
}

fn read_input(path: &Path) -> Result<ModelInput> {
    let inputs = Tensors::read(path)?;
    let mut images = Vec::new();
    while let Some(pixels) = inputs.floats().get(&format!("pixel_values.{}", images.len())) {
        let [1, 3, height, width] = pixels.shape[..] else {
            anyhow::bail!(
                "{}: pixel_values: expected [1, 3, H, W], found {:?}",
                path.display(),
                pixels.shape
            );
        };
        images.push(PixelValues { height, width, data: pixels.values.clone() });
    }
    let matrix = |name: &str| -> Result<Matrix> {
        let tensor = inputs.float(name)?;
        let [1, rows, cols] = tensor.shape[..] else {
            anyhow::bail!("{}: {name}: expected [1, rows, cols], found {:?}", path.display(), tensor.shape);
        };
        Ok(Matrix { rows, cols, data: tensor.values.clone() })
    };
    let embodiment = inputs.integer("embodiment_id")?.values.first().copied();
    // A padded token takes part in nothing: the model never sees it.
    let ids = inputs.integer("input_ids")?.values.iter().zip(&inputs.integer("attention_mask")?.values);
    Ok(ModelInput {
        images,
        input_ids: ids
            .filter(|(_, seen)| **seen != 0)
            .map(|(id, _)| u32::try_from(*id))
            .collect::<Result<_, _>>()?,
        state: matrix("state")?,
        embodiment_id: usize::try_from(embodiment.context("embodiment_id: empty")?)?,
        noise: matrix("noise")?,
    })
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
