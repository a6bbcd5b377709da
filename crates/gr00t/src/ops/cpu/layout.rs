//! Operations that only move values.

use super::super::{Grid, Site};
use super::mismatch;
use super::tensor::Tensor;
use crate::ops::{ImageBatch, Patching};
use crate::{Error, Result};

fn moved(operation: &'static str, what: String) -> Error {
    mismatch(&Site::new("layout"), operation, what)
}

pub(super) fn slice_features(x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    if start + len > x.features() {
        return Err(moved("slice_features", format!("{start}..{} of {:?}", start + len, x.shape)));
    }
    let values =
        x.values.chunks_exact(x.features()).flat_map(|row| &row[start..start + len]).copied().collect();
    Ok(Tensor::new([x.shape[0], x.shape[1], len], values))
}

pub(super) fn gather_tokens(x: &Tensor, indices: &[usize]) -> Result<Tensor> {
    if let Some(index) = indices.iter().find(|index| **index >= x.shape[1]) {
        return Err(moved("gather_tokens", format!("token {index} of {:?}", x.shape)));
    }
    let mut values = Vec::with_capacity(x.shape[0] * indices.len() * x.features());
    for item in 0..x.shape[0] {
        indices.iter().for_each(|index| values.extend_from_slice(x.token(item, *index)));
    }
    Ok(Tensor::new([x.shape[0], indices.len(), x.features()], values))
}

pub(super) fn last_tokens(x: &Tensor, count: usize) -> Result<Tensor> {
    let Some(first) = x.shape[1].checked_sub(count) else {
        return Err(moved("last_tokens", format!("{count} of {:?}", x.shape)));
    };
    gather_tokens(x, &(first..x.shape[1]).collect::<Vec<_>>())
}

/// `[batch, patches of all images, features]`, image by image (`convert_images_to_patches` of Eagle, and the processor of
/// Qwen2-VL, whose patches repeat an image's only frame).
pub(super) fn patches(
    images: &[ImageBatch],
    grids: &[Grid],
    Patching { size, frames, channels_first }: Patching,
    batch: usize,
) -> Vec<f32> {
    let mut values = Vec::new();
    for item in 0..batch {
        for (image, grid) in images.iter().zip(grids) {
            let (plane, width) = (image.height * image.width, image.width);
            let pixels = &image.pixels[item * image.frames * 3 * plane..][..image.frames * 3 * plane];
            for [row, col] in grid.places() {
                let (top, left) = (row * size, col * size);
                if channels_first {
                    for (channel, frame) in (0..3).flat_map(|c| (0..frames).map(move |f| (c, f))) {
                        // One frame stands for all.
                        let plane = &pixels[(frame.min(image.frames - 1) * 3 + channel) * plane..][..plane];
                        for y in top..top + size {
                            values.extend_from_slice(&plane[y * width + left..][..size]);
                        }
                    }
                } else {
                    for (y, x) in (top..top + size).flat_map(|y| (left..left + size).map(move |x| (y, x))) {
                        values.extend((0..3).map(|channel| pixels[channel * plane + y * width + x]));
                    }
                }
            }
        }
    }
    values
}

pub(super) fn replace_tokens(x: &Tensor, indices: &[usize], values: &Tensor) -> Result<Tensor> {
    let [batch, tokens, features] = x.shape;
    if values.shape != [batch, indices.len(), features] || indices.iter().any(|index| *index >= tokens) {
        return Err(moved("replace_tokens", format!("{:?} into {:?}", values.shape, x.shape)));
    }
    let mut replaced = x.values.to_vec();
    for item in 0..batch {
        for (from, to) in indices.iter().enumerate() {
            let start = (item * tokens + to) * features;
            replaced[start..start + features].copy_from_slice(values.token(item, from));
        }
    }
    Ok(Tensor::new(x.shape, replaced))
}

/// `x` with the tokens of `values` added at `indices`, not yet rounded.
pub(super) fn add_to_tokens(x: &Tensor, indices: &[usize], values: &Tensor, at: &Site) -> Result<Vec<f32>> {
    let [batch, tokens, features] = x.shape;
    if values.shape != [batch, indices.len(), features] || indices.iter().any(|index| *index >= tokens) {
        return Err(mismatch(at, "add_to_tokens", format!("{:?} to {:?}", values.shape, x.shape)));
    }
    let mut sums = x.values.to_vec();
    for item in 0..batch {
        for (from, to) in indices.iter().enumerate() {
            let start = (item * tokens + to) * features;
            let token = sums[start..start + features].iter_mut();
            token.zip(values.token(item, from)).for_each(|(sum, value)| *sum += value);
        }
    }
    Ok(sums)
}

/// Rows lie one behind the other already.
pub(super) fn join_tokens(x: &Tensor, count: usize) -> Result<Tensor> {
    if count == 0 || !x.shape[1].is_multiple_of(count) {
        return Err(moved("join_tokens", format!("{count} each of {:?}", x.shape)));
    }
    let shape = [x.shape[0], x.shape[1] / count, x.shape[2] * count];
    Ok(Tensor { shape, values: x.values.clone() })
}

pub(super) fn concat_tokens(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.shape[0] != b.shape[0] || a.features() != b.features() {
        return Err(moved("concat_tokens", format!("{:?} and {:?}", a.shape, b.shape)));
    }
    let mut values = Vec::with_capacity(a.values.len() + b.values.len());
    for item in 0..a.shape[0] {
        for x in [a, b] {
            let size = x.shape[1] * x.features();
            values.extend_from_slice(&x.values[item * size..(item + 1) * size]);
        }
    }
    Ok(Tensor::new([a.shape[0], a.shape[1] + b.shape[1], a.features()], values))
}

pub(super) fn concat_features(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let repeats = |part: usize, whole: usize| part == whole || part == 1;
    if !repeats(b.shape[0], a.shape[0]) || !repeats(b.shape[1], a.shape[1]) {
        return Err(moved("concat_features", format!("{:?} and {:?}", a.shape, b.shape)));
    }
    let features = a.features() + b.features();
    let mut values = Vec::with_capacity(a.rows() * features);
    for item in 0..a.shape[0] {
        for token in 0..a.shape[1] {
            values.extend_from_slice(a.token(item, token));
            values.extend_from_slice(b.token(item, token));
        }
    }
    Ok(Tensor::new([a.shape[0], a.shape[1], features], values))
}

pub(super) fn pixel_unshuffle(x: &Tensor, grids: &[Grid], factor: usize) -> Result<Tensor> {
    let patches: usize = grids.iter().map(|grid| grid.patches()).sum();
    let divisible = |grid: &Grid| grid.rows.is_multiple_of(factor) && grid.cols.is_multiple_of(factor);
    if patches != x.shape[1] || !grids.iter().all(divisible) {
        return Err(moved("pixel_unshuffle", format!("{:?} by {grids:?} over {factor}", x.shape)));
    }
    let mut values = Vec::with_capacity(x.values.len());
    for item in 0..x.shape[0] {
        let mut first = 0;
        for grid in grids {
            for (row, col) in
                (0..grid.rows / factor).flat_map(|r| (0..grid.cols / factor).map(move |c| (r, c)))
            {
                let block: Vec<&[f32]> = (0..factor * factor)
                    .map(|i| (row * factor + i / factor) * grid.cols + col * factor + i % factor)
                    .map(|patch| x.token(item, first + patch))
                    .collect();
                for feature in 0..x.features() {
                    values.extend(block.iter().map(|patch| patch[feature]));
                }
            }
            first += grid.patches();
        }
    }
    let area = factor * factor;
    Ok(Tensor::new([x.shape[0], patches / area, x.features() * area], values))
}
