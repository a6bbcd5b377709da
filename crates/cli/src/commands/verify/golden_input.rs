//! What a model golden was given: the images in either version's form, the prompt, the state, the noise, and the chunk before.

use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use steadyhand_gr00t::Matrix;
use steadyhand_gr00t::config::{Config, Vision};
use steadyhand_gr00t::engine::ModelInput;
use steadyhand_gr00t::ops::{Grid, Patching};
use steadyhand_gr00t::processor::PixelValues;
use steadyhand_gr00t::rtc::{Rtc, RtcOptions};
use steadyhand_gr00t::session::{Tensor, Tensors};

/// Reads `inputs.safetensors`, and `options.json` where there is one.
pub(super) fn read(folder: &Path, config: &Config) -> Result<ModelInput> {
    let path = &folder.join("inputs.safetensors");
    let inputs = Tensors::read(path)?;
    let matrix = |name: &str| -> Result<Matrix> {
        let tensor = inputs.float(name)?;
        let [1, rows, cols] = tensor.shape[..] else {
            bail!("{}: {name}: expected [1, rows, cols], found {:?}", path.display(), tensor.shape);
        };
        Ok(Matrix { rows, cols, data: tensor.values.clone() })
    };
    let embodiment = inputs.integer("embodiment_id")?.values.first().copied();
    // A padded token takes part in nothing: the model never sees it.
    let ids = inputs.integer("input_ids")?.values.iter().zip(&inputs.integer("attention_mask")?.values);
    Ok(ModelInput {
        images: match inputs.floats().get("pixel_values") {
            Some(patches) => {
                of_patches(patches, inputs.integer("image_grid_thw")?, &config.backbone().vision)
                    .with_context(|| format!("{}: pixel_values", path.display()))?
            }
            None => of_images(&inputs)?,
        }
        .into(),
        input_ids: ids
            .filter(|(_, seen)| **seen != 0)
            .map(|(id, _)| u32::try_from(*id))
            .collect::<Result<_, _>>()?,
        state: matrix("state")?,
        embodiment_id: usize::try_from(embodiment.context("embodiment_id: empty")?)?,
        noise: matrix("noise")?,
        rtc: match options(folder)? {
            Some(options) => Some(Rtc { previous: matrix("action")?, options }),
            None => None,
        },
    })
}

/// Images as `pixel_values.N: [1, 3, height, width]`.
fn of_images(inputs: &Tensors) -> Result<Vec<PixelValues>> {
    let mut images = Vec::new();
    while let Some(pixels) = inputs.floats().get(&format!("pixel_values.{}", images.len())) {
        let [1, 3, height, width] = pixels.shape[..] else {
            bail!(
                "{}: pixel_values: expected [1, 3, H, W], found {:?}",
                inputs.path().display(),
                pixels.shape
            );
        };
        images.push(PixelValues { height, width, data: pixels.values.clone() });
    }
    Ok(images)
}

/// Images put together from the patches of all of them, `[patches, features]`, and their grids `[images, 3]`: frames (one of
/// a patch each), rows and columns of patches.
fn of_patches(patches: &Tensor<f32>, grids: &Tensor<i64>, vision: &Vision) -> Result<Vec<PixelValues>> {
    let patching = Patching { size: vision.patch_size, frames: vision.frames, channels_first: true };
    let features = patching.features();
    ensure!(patches.shape.last() == Some(&features), "expected {features} values of a patch");
    let mut patches = patches.values.chunks_exact(features);
    let mut images = Vec::new();
    for grid in grids.values.chunks_exact(3) {
        let [1, rows, cols] =
            grid.iter().map(|size| usize::try_from(*size)).collect::<Result<Vec<_>, _>>()?[..]
        else {
            bail!("expected grids of one frame, found {grid:?}");
        };
        let (size, width) = (patching.size, cols * patching.size);
        let plane = rows * size * width;
        let mut data = vec![0.0; patching.frames * 3 * plane];
        for ([row, col], patch) in (Grid { rows, cols, block: vision.merge }).places().zip(&mut patches) {
            for (at, values) in patch.chunks_exact(size).enumerate() {
                let (channel, frame, y) =
                    (at / size / patching.frames, at / size % patching.frames, at % size);
                let start = (frame * 3 + channel) * plane + (row * size + y) * width + col * size;
                data[start..start + size].copy_from_slice(values);
            }
        }
        images.push(PixelValues { height: rows * size, width, data });
    }
    ensure!(patches.next().is_none(), "expected as many patches as the grids have, found more");
    Ok(images)
}

/// How the golden goes on from the chunk before.
fn options(folder: &Path) -> Result<Option<RtcOptions>> {
    #[derive(serde::Deserialize)]
    struct File {
        action_horizon: usize,
        rtc_overlap_steps: usize,
        rtc_frozen_steps: usize,
        rtc_ramp_rate: f32,
    }
    let path = folder.join("options.json");
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let file: File = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(Some(RtcOptions {
        action_horizon: file.action_horizon,
        overlap_steps: file.rtc_overlap_steps,
        frozen_steps: file.rtc_frozen_steps,
        ramp_rate: file.rtc_ramp_rate,
    }))
}
