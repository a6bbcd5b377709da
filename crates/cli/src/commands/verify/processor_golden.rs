//! A processor golden: what the official processor made of images, instruction, state and actions.

use super::{Measure, Row, VerifyArgs};
use anyhow::{Context, Result, bail};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use steadyhand_fidelity::{max_abs_error, relative_l2};
use steadyhand_gr00t::processor::{Encoded, Processor, known_embodiment_tags};
use steadyhand_gr00t::session::{Tensor, Tensors};
use steadyhand_gr00t::{Image, Matrix, Observation};

/// States and actions: the goldens are f32, 6e-8 a rounding. Measured: 3.2e-8; times 30.
const VALUE_LIMIT: f64 = 1e-6;
/// Pixels: measured 0 at every pixel; one level is what two correct 8-bit resizers may differ by.
const MAX_LEVEL: f64 = 1.0;
/// Mean over an image's pixels, in levels.
const MEAN_LEVEL: f64 = 0.05;
/// One level of 255 in pixel values, which lie in [-1, 1].
const LEVELS: f64 = 127.5;

/// Encodes and decodes the case, and compares everything the golden holds.
pub(super) fn verify(folder: &Path, label: &str, args: &VerifyArgs, rows: &mut Vec<Row>) -> Result<()> {
    let case = Tensors::read(&folder.join("case.safetensors"))?;
    let Some(tokenizer) = args.tokenizer.as_deref().or_else(|| own_tokenizer(folder)) else {
        bail!("{}: expected a tokenizer.json, found none; name one with --tokenizer", folder.display());
    };
    let tags = known_embodiment_tags(folder)?;
    let [tag] = &tags[..] else {
        bail!("{}: expected one embodiment, found {}", folder.display(), tags.join(", "));
    };
    let processor = Processor::load(folder, tag, Some(tokenizer))?;
    let observation = observation(folder, &case)?;
    let encoded = processor.encode(&observation)?;
    let mut push = |name: &str, what, found, limit| {
        let (fixture, name) = (label.to_owned(), name.to_owned());
        rows.push(Row { fixture, name, found, limit, what, note: String::new() });
    };
    let ids: Vec<i64> = encoded.input_ids.iter().map(|id| i64::from(*id)).collect();
    let mask: Vec<i64> = encoded.attention_mask.iter().map(|seen| i64::from(*seen)).collect();
    for (name, found) in [("input_ids", ids), ("attention_mask", mask)] {
        let expected = &case.integer(&format!("out.{name}"))?.values;
        push(name, Measure::Differences, differences(&found, expected), 0.0);
    }
    // Only the goldens of N1.7 have these.
    if let Ok(expected) = case.integer("out.image_grid_thw") {
        let found = image_grids(&encoded, processor.token_side());
        push("image_grid_thw", Measure::Differences, differences(&found, &expected.values), 0.0);
    }
    let limit = args.max_relative_l2.unwrap_or(VALUE_LIMIT);
    push(
        "state",
        Measure::RelativeL2,
        relative_l2(&encoded.state.data, &case.float("out.state")?.values),
        limit,
    );
    for (name, max, mean) in pixel_levels(&case, &encoded)? {
        push(&name, Measure::MaxLevel, max, MAX_LEVEL);
        push(&name, Measure::MeanLevel, mean, MEAN_LEVEL);
    }
    let chunk = processor.decode(&matrix(case.float("in.normalized_action")?)?, &observation)?;
    for (group, actions) in &chunk.groups {
        let expected = case.float(&format!("out.action.{group}"))?;
        push(
            &format!("action.{group}"),
            Measure::RelativeL2,
            relative_l2(&actions.data, &expected.values),
            limit,
        );
    }
    Ok(())
}

fn own_tokenizer(folder: &Path) -> Option<&Path> {
    folder.join("tokenizer.json").is_file().then_some(folder)
}

fn observation(folder: &Path, case: &Tensors) -> Result<Observation> {
    let path = folder.join("instruction.txt");
    let instruction = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut images = BTreeMap::new();
    for (name, tensor) in case.bytes() {
        let Some(view) = name.strip_prefix("in.image.") else { continue };
        let [height, width, 3] = tensor.shape[..] else {
            bail!("{}: {name}: expected [H, W, 3], found {:?}", case.path().display(), tensor.shape);
        };
        // Frames of a history are numbered, and come in the order of their names.
        let number = view.rsplit_once('.').filter(|(_, number)| number.parse::<usize>().is_ok());
        let view = number.map_or(view, |(view, _)| view);
        let frame = Arc::new(Image { width, height, rgb: tensor.values.clone().into() });
        images.entry(view.to_owned()).or_insert_with(Vec::new).push(frame);
    }
    let mut state = BTreeMap::new();
    for (name, tensor) in case.floats() {
        if let Some(group) = name.strip_prefix("in.state.") {
            state.insert(group.to_owned(), matrix(tensor)?);
        }
    }
    Ok(Observation { images, state, instruction })
}

/// The last two dimensions as a matrix.
fn matrix(tensor: &Tensor<f32>) -> Result<Matrix> {
    match tensor.shape[..] {
        [rows, cols] | [1, rows, cols] => Ok(Matrix { rows, cols, data: tensor.values.clone() }),
        _ => bail!("expected [rows, cols], found {:?}", tensor.shape),
    }
}

fn differences(found: &[i64], expected: &[i64]) -> f64 {
    let differing = found.iter().zip(expected).filter(|(a, b)| a != b).count();
    (differing + found.len().abs_diff(expected.len())) as f64
}

/// Time, rows and columns in patches of each image; a token is 2 x 2 patches.
fn image_grids(encoded: &Encoded, token_side: usize) -> Vec<i64> {
    let patches = |side: usize| (side * 2 / token_side) as i64;
    encoded.pixel_values.iter().flat_map(|image| [1, patches(image.height), patches(image.width)]).collect()
}

/// Name, largest and mean difference in levels of each image.
fn pixel_levels(case: &Tensors, encoded: &Encoded) -> Result<Vec<(String, f64, f64)>> {
    let mut levels = Vec::new();
    for (index, image) in encoded.pixel_values.iter().enumerate() {
        let expected = pixel_values(case, index)?;
        let max = if expected.shape[..] == [1, 3, image.height, image.width] {
            max_abs_error(&image.data, &expected.values) * LEVELS
        } else {
            f64::INFINITY
        };
        let pairs = image.data.iter().zip(&expected.values);
        let total: f64 = pairs.map(|(a, b)| f64::from((a - b).abs())).sum();
        levels.push((format!("pixel_values.{index}"), max, total / image.data.len() as f64 * LEVELS));
    }
    Ok(levels)
}

/// The official pixels of an image, `[1, 3, height, width]` in `[-1, 1]`: a golden has them so, or as the bytes
/// `[height, width, 3]` that they are made of.
fn pixel_values(case: &Tensors, index: usize) -> Result<Cow<'_, Tensor<f32>>> {
    let name = format!("out.image.{index}");
    let Some(bytes) = case.bytes().get(&name) else {
        return Ok(Cow::Borrowed(case.float(&format!("out.pixel_values.{index}"))?));
    };
    let [height, width, 3] = bytes.shape[..] else {
        bail!("{}: {name}: expected [H, W, 3], found {:?}", case.path().display(), bytes.shape);
    };
    let plane = |channel: usize| bytes.values.iter().skip(channel).step_by(3);
    let level = |byte: &u8| (f32::from(*byte) - 127.5) / 127.5;
    let values = (0..3).flat_map(|channel| plane(channel).map(level)).collect();
    Ok(Cow::Owned(Tensor { shape: vec![1, 3, height, width], values }))
}
