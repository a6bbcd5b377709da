//! From a camera frame to the vision tower's pixels: the official evaluation transform, then the
//! resize to whole tokens and the scaling to `[-1, 1]`.
//!
//! Source: `image_augmentations.py` in `gr00t/model/gr00t_n1d6` and `gr00t_n1d7` (both variants), albumentations
//! 1.4.18 `SmallestMaxSize`, torchvision v2 `CenterCrop`.

use pulp::{Arch, Simd, WithSimd};
use std::path::Path;
use std::sync::Arc;

use super::config::{PROCESSOR_CONFIG, ProcessorConfig};
use super::grid::{Grid, Size, check_aspect};
use super::plan::Route;
use super::resize_separable::Method;
use super::view::{CHANNELS, Frame, Part, View};
use super::{resize_opencv, resize_separable};
use crate::{Error, Image, Result, Version};

/// Longest side that a configured size may have.
const MAX_SIDE: usize = 7000;
/// Camera frames beyond this side length are taken for a mistake.
const MAX_INPUT_SIDE: usize = 16_384;
/// Bound on what a very narrow frame may be enlarged to on the way.
const MAX_INTERMEDIATE_PIXELS: usize = 1 << 26;

#[cfg(test)]
mod tests;

/// One image as the vision tower takes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PixelValues {
    /// Rows; a multiple of a token's side.
    pub height: usize,
    /// Columns; a multiple of a token's side.
    pub width: usize,
    /// `[frames, 3, height, width]` in `[-1, 1]`, channels R, G, B. One frame, what a processor gives, stands for all
    /// frames that a patch spans.
    pub data: Vec<f32>,
}

impl PixelValues {
    /// How many frames there are.
    pub fn frames(&self) -> usize {
        self.data.len() / (3 * self.height * self.width).max(1)
    }
}

/// The way of a checkpoint's frames.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Images {
    transform: Transform,
    grid: Grid,
    /// Whether all frames of an observation must have one size after the transform: the official code of N1.7 stacks
    /// them, later code of N1.6 does not.
    one_size: bool,
}

/// The configured evaluation transform. With `bars`, black ones make a frame square first.
#[derive(Debug, Clone, PartialEq)]
enum Transform {
    /// Albumentations: shorter side to `edge` (area), centre crop, shorter side to `edge` again.
    ShortestEdge { edge: usize, fraction: f64, bars: bool },
    /// Torchvision: resize to `target`, centre crop, resize to `target`.
    Resizes { crop: Size, target: Size, bars: bool },
}

/// The sizes that a frame of one size has on its way, all of them within bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Way {
    /// With bars, where it gets some.
    square: Option<Size>,
    /// After the transform's first resize.
    resized: Size,
    /// What is cut out of that, or out of what it is padded to.
    part: Part,
    /// After the transform's second resize.
    transformed: Size,
    /// As the vision tower takes it.
    pub last: Size,
}

/// A step of the way of a frame that other implementations leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageStep {
    /// The centre crop.
    Crop,
    /// The bars that make a frame square; where a checkpoint asks for none, adding them.
    Letterbox,
}

impl ImageStep {
    /// Every step.
    pub const ALL: [ImageStep; 2] = [ImageStep::Crop, ImageStep::Letterbox];
}

impl Images {
    /// What a checkpoint configures.
    ///
    /// # Errors
    /// [`Error::File`] about `processor_config.json` when sizes are absent or out of range.
    pub fn new(config: &ProcessorConfig, checkpoint: &Path) -> Result<Self> {
        Ok(Images {
            transform: Transform::new(config, checkpoint)?,
            grid: Grid::of(config.version),
            one_size: match config.version {
                Version::N1_6 => false,
                Version::N1_7 => true,
            },
        })
    }

    /// The same without the step, or with bars where there are none; none where that is no other way.
    pub fn without(&self, step: ImageStep) -> Option<Self> {
        let mut transform = self.transform.clone();
        match (step, &mut transform) {
            (ImageStep::Crop, Transform::ShortestEdge { fraction, .. }) => *fraction = 1.0,
            (ImageStep::Crop, Transform::Resizes { crop, target, .. }) => *crop = *target,
            (
                ImageStep::Letterbox,
                Transform::ShortestEdge { bars, .. } | Transform::Resizes { bars, .. },
            ) => *bars = !*bars,
        }
        (transform != self.transform).then_some(Images { transform, ..self.clone() })
    }

    /// Whether frames that are not square get bars.
    pub fn has_bars(&self) -> bool {
        let (Transform::ShortestEdge { bars, .. } | Transform::Resizes { bars, .. }) = self.transform;
        bars
    }

    /// The sizes that the vision tower takes.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Whether frames, each with its name for errors, fit each other.
    ///
    /// # Errors
    /// [`Error::Input`] about a frame that is unusable, or becomes of another size than the first one.
    pub fn check_sizes(&self, frames: &[(String, &Arc<Image>)]) -> Result<()> {
        let Some(((first, frame), others)) = frames.split_first().filter(|_| self.one_size) else {
            return Ok(());
        };
        let size = |field: &str, image: &Image| -> Result<Size> {
            check_frame(field, image)?;
            Ok(self.way(field, (image.width, image.height))?.transformed)
        };
        let expected = size(first, frame)?;
        for (field, frame) in others {
            let found = size(field, frame)?;
            if found != expected {
                let of = |(width, height): Size| format!("{width}x{height}");
                let what = format!(
                    "expected {} after resize and crop, as {first}, found {}: the frames of an observation become \
                     one stack; letter_box_transform in {PROCESSOR_CONFIG} makes all of them square, if the policy \
                     was trained so",
                    of(expected),
                    of(found),
                );
                return Err(Error::input(field.as_str(), what));
            }
        }
        Ok(())
    }

    /// The whole way of one frame, into `pixels`, whose memory is used again. `field` names it in errors.
    ///
    /// # Errors
    /// [`Error::Input`] for a frame without pixels, of the wrong byte length, absurdly large, or
    /// narrower than 1:200.
    pub fn apply_into(&self, field: &str, image: &Image, pixels: &mut PixelValues) -> Result<()> {
        check_frame(field, image)?;
        let way = self.way(field, (image.width, image.height))?;
        self.follow(&way, image, pixels);
        Ok(())
    }

    /// The sizes that a frame of this size has on its way. `field` names it in errors.
    ///
    /// # Errors
    /// [`Error::Input`] for a frame that would be enlarged too far, or becomes narrower than 1:200.
    pub(super) fn way(&self, field: &str, frame: Size) -> Result<Way> {
        let square = self.transform.square(frame);
        if let Some(size) = square {
            check_intermediate(field, size)?;
        }
        let whole_frame = square.unwrap_or(frame);
        let way = match self.transform {
            Transform::ShortestEdge { edge, fraction, .. } => {
                let resized = smallest_to(whole_frame, edge);
                check_intermediate(field, resized)?;
                let part = center(resized, fraction);
                let transformed = smallest_to((part.width, part.height), edge);
                check_intermediate(field, transformed)?;
                Way { square, resized, part, transformed, last: (0, 0) }
            }
            Transform::Resizes { crop, target, .. } => {
                let part = padded_crop(target, crop).1[1];
                Way { square, resized: target, part, transformed: target, last: (0, 0) }
            }
        };
        Ok(Way { last: self.grid.smart_resize(field, way.transformed)?, ..way })
    }

    /// The steps of a frame's way up to the resize to whole tokens.
    pub(super) fn record(&self, way: &Way, route: &mut Route) {
        if let Some(square) = way.square {
            let (width, height) = route.looked_at();
            route.pad((square.0 - width) / 2, (square.1 - height) / 2, square);
        }
        match self.transform {
            Transform::ShortestEdge { .. } => {
                route.area(way.resized, way.part);
                route.area(way.transformed, whole(way.transformed));
            }
            Transform::Resizes { crop, .. } => {
                route.separable(way.resized, Method::TorchBilinear, false);
                let (full, [before, part]) = padded_crop(route.looked_at(), crop);
                route.pad(before.left, before.top, full);
                route.crop(part);
                route.separable(way.transformed, Method::TorchBilinear, false);
            }
        }
    }

    /// Takes a frame its way into `pixels`: that of its size.
    pub(super) fn follow(&self, way: &Way, image: &Image, pixels: &mut PixelValues) {
        let square = way.square.map(|_| letterbox(image));
        let frame = self.transform.apply(way, square.as_ref().unwrap_or(image));
        let (width, height) = way.last;
        let resized = resize_separable::resize(frame.view(), width, height, self.grid.method);
        normalize_into(resized.view(), pixels);
        resized.recycle();
        frame.recycle();
    }
}

impl Transform {
    fn new(config: &ProcessorConfig, checkpoint: &Path) -> Result<Self> {
        let error = |what: String| Error::file(checkpoint.join(PROCESSOR_CONFIG), what);
        let pair = |field: &str, value: &Option<Vec<usize>>| match value.as_deref() {
            Some(&[height, width]) if (1..=MAX_SIDE).contains(&height) && (1..=MAX_SIDE).contains(&width) => {
                Ok((width, height))
            }
            found => {
                Err(error(format!("{field}: expected [height, width] of 1 to {MAX_SIDE}, found {found:?}")))
            }
        };
        let crop = || pair("image_crop_size", &config.image_crop_size);
        let target = || pair("image_target_size", &config.image_target_size);
        if !config.use_albumentations {
            // Files older than the switch were trained with bars.
            let bars = config.letter_box_transform.unwrap_or(true);
            return Ok(Transform::Resizes { crop: crop()?, target: target()?, bars });
        }
        let edge = match config.shortest_image_edge {
            Some(edge) => edge,
            None => target()?.1,
        };
        let fraction = match config.crop_fraction {
            Some(fraction) => fraction,
            None => crop()?.1 as f64 / target()?.1 as f64,
        };
        if !(1..=MAX_SIDE).contains(&edge) {
            return Err(error(format!("shortest_image_edge: expected 1 to {MAX_SIDE}, found {edge}")));
        }
        if !(fraction > 0.0 && fraction <= 1.0) {
            return Err(error(format!("crop_fraction: expected above 0 and at most 1, found {fraction}")));
        }
        let bars = config.letter_box_transform.unwrap_or(false);
        Ok(Transform::ShortestEdge { edge, fraction, bars })
    }

    /// The size of a frame with bars; `None` where it gets none.
    fn square(&self, (width, height): Size) -> Option<Size> {
        let (Transform::ShortestEdge { bars, .. } | Transform::Resizes { bars, .. }) = *self;
        let side = width.max(height);
        (bars && width != height).then_some((side, side))
    }

    /// What follows the bars.
    fn apply<'a>(&self, way: &Way, image: &'a Image) -> Frame<'a> {
        match self {
            Transform::ShortestEdge { .. } => {
                let cropped = resize_cropped(image, way.resized, way.part);
                let size = way.transformed;
                if size == (cropped.view().width(), cropped.view().height()) {
                    return cropped;
                }
                let resized = Frame::New(resize_opencv::area(cropped.view(), size, whole(size)));
                cropped.recycle();
                resized
            }
            Transform::Resizes { crop, .. } => {
                let resized = bilinear(image.clone(), way.resized);
                Frame::New(bilinear(crop_padded(&resized, *crop), way.transformed))
            }
        }
    }
}

/// Whether a frame has pixels, as many as it should.
///
/// # Errors
/// [`Error::Input`] naming `field`.
pub(super) fn check_frame(field: &str, image: &Image) -> Result<()> {
    let &Image { width, height, ref rgb } = image;
    let sides = 1..=MAX_INPUT_SIDE;
    if !sides.contains(&width) || !sides.contains(&height) {
        let what = format!("expected sides of 1 to {MAX_INPUT_SIDE} pixels, found {width}x{height}");
        return Err(Error::input(field, what));
    }
    let expected = width * height * 3;
    if rgb.len() != expected {
        let what = format!("expected {expected} bytes for {width}x{height} RGB, found {}", rgb.len());
        return Err(Error::input(field, what));
    }
    check_aspect(field, (width, height))
}

fn check_intermediate(field: &str, (width, height): Size) -> Result<()> {
    if width.saturating_mul(height) > MAX_INTERMEDIATE_PIXELS {
        let what =
            format!("would be enlarged to {width}x{height}, more than {MAX_INTERMEDIATE_PIXELS} pixels");
        return Err(Error::input(field, what));
    }
    Ok(())
}

/// The size whose shorter side is `edge`; Python's `round` takes halves to even.
fn smallest_to((width, height): Size, edge: usize) -> Size {
    let scale = edge as f64 / width.min(height) as f64;
    let scaled = |side: usize| ((side as f64 * scale).round_ties_even() as usize).max(1);
    if scale == 1.0 { (width, height) } else { (scaled(width), scaled(height)) }
}

fn fraction_of(side: usize, fraction: f64) -> usize {
    ((side as f64 * fraction) as usize).max(1)
}

fn whole((width, height): Size) -> Part {
    Part { left: 0, top: 0, width, height }
}

/// Centre crop with the official integer division: an odd margin leaves the larger part below/right.
fn center(size: Size, fraction: f64) -> Part {
    let (width, height) = (fraction_of(size.0, fraction), fraction_of(size.1, fraction));
    Part { left: (size.0 - width) / 2, top: (size.1 - height) / 2, width, height }
}

/// The image resized to `size`, of which `part` is made.
fn resize_cropped(image: &Image, size: Size, part: Part) -> Frame<'_> {
    if size == (image.width, image.height) {
        return Frame::Same(View::part(image, part));
    }
    Frame::New(resize_opencv::area(View::of(image), size, part))
}

/// Black canvas of the given size with the image at `(left, top)`.
fn pad(image: &Image, left: usize, top: usize, width: usize, height: usize) -> Image {
    let mut rgb = vec![0; width * height * 3];
    let rows = image.rgb.chunks_exact(image.width * 3);
    for (out, row) in rgb.chunks_exact_mut(width * 3).skip(top).zip(rows) {
        out[left * 3..(left + image.width) * 3].copy_from_slice(row);
    }
    Image { width, height, rgb: rgb.into() }
}

fn letterbox(image: &Image) -> Image {
    let side = image.width.max(image.height);
    pad(image, (side - image.width) / 2, (side - image.height) / 2, side, side)
}

/// Torchvision's centre crop: pads with black where the crop is larger, and rounds half margins to even. The padded size,
/// where the image lies in it, and the part of it that is kept.
fn padded_crop((width, height): Size, crop: Size) -> (Size, [Part; 2]) {
    let full = (width.max(crop.0), height.max(crop.1));
    let margin = |full: usize, part: usize| ((full - part) as f64 / 2.0).round_ties_even() as usize;
    let image = Part { left: (full.0 - width) / 2, top: (full.1 - height) / 2, width, height };
    let (left, top) = (margin(full.0, crop.0), margin(full.1, crop.1));
    (full, [image, Part { left, top, width: crop.0, height: crop.1 }])
}

fn crop_padded(image: &Image, crop: Size) -> Image {
    let ((width, height), [place, part]) = padded_crop((image.width, image.height), crop);
    let padded = pad(image, place.left, place.top, width, height);
    let mut rgb = Vec::with_capacity(part.width * part.height * CHANNELS);
    View::part(&padded, part).rows().for_each(|row| rgb.extend_from_slice(row));
    Image { width: part.width, height: part.height, rgb: rgb.into() }
}

fn bilinear(image: Image, (width, height): Size) -> Image {
    let method = Method::TorchBilinear;
    let resized = match resize_separable::resize(View::of(&image), width, height, method) {
        Frame::New(resized) => Some(resized),
        Frame::Same(_) => None,
    };
    resized.unwrap_or(image)
}

/// Bytes to `[-1, 1]`, channels first.
fn normalize_into(image: View, pixels: &mut PixelValues) {
    (pixels.width, pixels.height) = (image.width(), image.height());
    // What was there is written over.
    pixels.data.resize(CHANNELS * pixels.width * pixels.height, 0.0);
    Arch::new().dispatch(Planes { image, values: &mut pixels.data });
}

/// The loop of [`normalize_into`], compiled for each kind of vector instructions.
struct Planes<'a> {
    image: View<'a>,
    values: &'a mut [f32],
}

impl WithSimd for Planes<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Planes { image, values } = self;
        let (width, plane) = (image.width(), image.width() * image.height());
        let (red, others) = values.split_at_mut(plane);
        let (green, blue) = others.split_at_mut(plane);
        let planes = red.chunks_exact_mut(width).zip(green.chunks_exact_mut(width));
        for (row, ((red, green), blue)) in image.rows().zip(planes.zip(blue.chunks_exact_mut(width))) {
            let values = red.iter_mut().zip(green).zip(blue);
            for (pixel, ((red, green), blue)) in row.chunks_exact(CHANNELS).zip(values) {
                (*red, *green, *blue) = (level(pixel[0]), level(pixel[1]), level(pixel[2]));
            }
        }
    }
}

/// What a byte becomes: mean and standard deviation are 0.5 of 255.
#[inline(always)]
fn level(byte: u8) -> f32 {
    (f32::from(byte) - 127.5) / 127.5
}
