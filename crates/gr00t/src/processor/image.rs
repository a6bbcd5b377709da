//! From a camera frame to the vision tower's pixels: the official evaluation transform, then the
//! resize to whole tokens and the scaling to `[-1, 1]`.
//!
//! Source: `image_augmentations.py` in `gr00t/model/gr00t_n1d6` and `gr00t_n1d7` (both variants), albumentations
//! 1.4.18 `SmallestMaxSize`, torchvision v2 `CenterCrop`.

use pulp::{Arch, Simd, WithSimd};
use std::path::Path;

use super::config::{PROCESSOR_CONFIG, ProcessorConfig};
use super::grid::{Grid, Size, check_aspect};
use super::view::{CHANNELS, Frame, Part, View};
use super::{resize_opencv, resize_separable};
use crate::{Error, Image, Result, Version};

/// Longest side that a configured size may have.
const MAX_SIDE: usize = 7000;
/// Camera frames beyond this side length are taken for a mistake.
const MAX_INPUT_SIDE: usize = 16_384;
/// Bound on what a very narrow frame may be enlarged to on the way.
const MAX_INTERMEDIATE_PIXELS: usize = 1 << 26;

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
    pub fn check_sizes(&self, frames: &[(String, &Image)]) -> Result<()> {
        let Some(((first, frame), others)) = frames.split_first().filter(|_| self.one_size) else {
            return Ok(());
        };
        let size = |image: &Image| self.transform.size((image.width, image.height));
        check_frame(first, frame)?;
        let expected = size(frame);
        for (field, frame) in others {
            check_frame(field, frame)?;
            let found = size(frame);
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
        let square = self.transform.square((image.width, image.height));
        let square =
            square.map(|size| check_intermediate(field, size).map(|()| letterbox(image))).transpose()?;
        let frame = self.transform.apply(field, square.as_ref().unwrap_or(image))?;
        let (width, height) = self.grid.smart_resize(field, (frame.view().width(), frame.view().height()))?;
        let resized = resize_separable::resize(frame.view(), width, height, self.grid.method);
        normalize_into(resized.view(), pixels);
        resized.recycle();
        frame.recycle();
        Ok(())
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

    /// The size that a frame of this size has after the transform.
    fn size(&self, frame: Size) -> Size {
        match *self {
            Transform::ShortestEdge { edge, fraction, .. } => {
                let resized = smallest_to(self.square(frame).unwrap_or(frame), edge);
                let part = center(resized, fraction);
                smallest_to((part.width, part.height), edge)
            }
            Transform::Resizes { target, .. } => target,
        }
    }

    /// What follows the bars.
    fn apply<'a>(&self, field: &str, image: &'a Image) -> Result<Frame<'a>> {
        match *self {
            Transform::ShortestEdge { edge, fraction, .. } => {
                let size = smallest_to((image.width, image.height), edge);
                check_intermediate(field, size)?;
                let cropped = resize_cropped(image, size, center(size, fraction));
                let (width, height) = (cropped.view().width(), cropped.view().height());
                let size = smallest_to((width, height), edge);
                check_intermediate(field, size)?;
                if size == (width, height) {
                    return Ok(cropped);
                }
                let resized = Frame::New(resize_opencv::area(cropped.view(), size, whole(size)));
                cropped.recycle();
                Ok(resized)
            }
            Transform::Resizes { crop: (width, height), target, .. } => {
                let resized = bilinear(image.clone(), target);
                Ok(Frame::New(bilinear(crop_padded(&resized, width, height), target)))
            }
        }
    }
}

fn check_frame(field: &str, image: &Image) -> Result<()> {
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

fn crop_at(image: &Image, left: usize, top: usize, width: usize, height: usize) -> Image {
    let mut rgb = Vec::with_capacity(width * height * CHANNELS);
    View::part(image, Part { left, top, width, height }).rows().for_each(|row| rgb.extend_from_slice(row));
    Image { width, height, rgb }
}

/// Black canvas of the given size with the image at `(left, top)`.
fn pad(image: &Image, left: usize, top: usize, width: usize, height: usize) -> Image {
    let mut rgb = vec![0; width * height * 3];
    let rows = image.rgb.chunks_exact(image.width * 3);
    for (out, row) in rgb.chunks_exact_mut(width * 3).skip(top).zip(rows) {
        out[left * 3..(left + image.width) * 3].copy_from_slice(row);
    }
    Image { width, height, rgb }
}

fn letterbox(image: &Image) -> Image {
    let side = image.width.max(image.height);
    pad(image, (side - image.width) / 2, (side - image.height) / 2, side, side)
}

/// Torchvision's centre crop: pads with black where the crop is larger, and rounds half margins to even.
fn crop_padded(image: &Image, width: usize, height: usize) -> Image {
    let (full_width, full_height) = (image.width.max(width), image.height.max(height));
    let padded =
        pad(image, (full_width - image.width) / 2, (full_height - image.height) / 2, full_width, full_height);
    let margin = |full: usize, part: usize| ((full - part) as f64 / 2.0).round_ties_even() as usize;
    crop_at(&padded, margin(full_width, width), margin(full_height, height), width, height)
}

fn bilinear(image: Image, (width, height): Size) -> Image {
    let method = resize_separable::Method::TorchBilinear;
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

#[cfg(test)]
mod tests {
    use super::super::pattern;
    use super::*;

    /// Bytes of the resized image, before the scaling to `[-1, 1]`.
    fn bytes(pixels: &PixelValues) -> Vec<u8> {
        let plane = pixels.width * pixels.height;
        let level = |value: f32| (value * 127.5 + 127.5).round() as u8;
        (0..plane).flat_map(|at| [0, 1, 2].map(|c| level(pixels.data[c * plane + at]))).collect()
    }

    fn images(transform: Transform) -> Images {
        Images { transform, grid: Grid::of(Version::N1_6), one_size: false }
    }

    fn assert_pixels(transform: Transform, frame: Size, size: Size, digest: u64) {
        let mut pixels = PixelValues::default();
        let image = pattern::image(frame.0, frame.1);
        images(transform.clone()).apply_into("video.view", &image, &mut pixels).expect("a frame");
        assert_eq!((pixels.width, pixels.height), size, "{transform:?} {frame:?}");
        assert_eq!(pattern::digest(&bytes(&pixels)), digest, "{transform:?} {frame:?}");
    }

    #[test]
    fn albumentations_frames_are_reproduced() {
        // Edge, fraction, frame, result and its digest: opencv-python 4.11.0.86 with the rounding
        // of albumentations 1.4.18, the official smart_resize, Pillow 11.3.0.
        for (edge, fraction, frame, size, digest) in [
            (256, 0.95, (256, 256), (252, 252), 52594438760598546),
            (256, 0.95, (321, 105), (784, 252), 163303374197124810),
            (300, 0.9, (640, 480), (392, 308), 99893305293881221),
            (300, 0.9, (720, 1280), (308, 532), 135577077705229945),
            (224, 1.0, (480, 640), (224, 308), 57060635204237032),
            (512, 0.95, (224, 224), (504, 504), 210023636983616653),
            (64, 0.88, (182, 420), (56, 140), 6478891689819491),
            (64, 0.88, (447, 3), (7000, 56), 318259588752640444),
        ] {
            assert_pixels(Transform::ShortestEdge { edge, fraction, bars: false }, frame, size, digest);
        }
    }

    #[test]
    fn torchvision_frames_are_reproduced() {
        // Crop, target, frame, result and its digest: the official transform on torchvision 0.29.2,
        // the official smart_resize, Pillow 11.3.0.
        for (crop, target, frame, size, digest) in [
            ((244, 244), (256, 256), (480, 640), (252, 252), 41453888573169015),
            ((243, 243), (256, 256), (641, 479), (252, 252), 41459554623089433),
            ((333, 200), (320, 224), (1280, 720), (308, 224), 34767622192101849),
            ((252, 252), (252, 252), (270, 256), (252, 252), 49893843625391367),
        ] {
            assert_pixels(Transform::Resizes { crop, target, bars: true }, frame, size, digest);
        }
    }

    #[test]
    fn bars_make_a_frame_square_first() {
        let pixels = |transform: Transform, image: &Image| {
            let mut pixels = PixelValues::default();
            images(transform).apply_into("video.view", image, &mut pixels).expect("a frame");
            pixels
        };
        let (wide, square) = (pattern::image(320, 180), letterbox(&pattern::image(320, 180)));
        assert_eq!((square.width, square.height), (320, 320));
        for bars in [false, true] {
            let edge = Transform::ShortestEdge { edge: 256, fraction: 0.95, bars };
            let resizes = Transform::Resizes { crop: (230, 230), target: (256, 256), bars };
            for transform in [edge, resizes] {
                // What is square stays as it is; bars make the same of a wide frame.
                let expected = pixels(transform.clone(), &square);
                assert_eq!(pixels(transform, &wide) == expected, bars);
            }
        }
        let wide_without = pixels(Transform::ShortestEdge { edge: 256, fraction: 0.95, bars: false }, &wide);
        assert_eq!((wide_without.width, wide_without.height), (448, 252));
    }

    #[test]
    fn unusable_frames_are_refused() {
        let images = images(Transform::ShortestEdge { edge: 256, fraction: 0.95, bars: false });
        let refused = |width: usize, height: usize, bytes: usize| {
            let image = Image { width, height, rgb: vec![0; bytes] };
            let mut pixels = PixelValues::default();
            images.apply_into("video.view", &image, &mut pixels).expect_err("unusable").to_string()
        };
        assert!(refused(0, 480, 0).starts_with("video.view: expected sides of 1 to"));
        assert!(refused(usize::MAX, 2, 12).contains("found 18446744073709551615x2"));
        assert_eq!(refused(4, 2, 23), "video.view: expected 24 bytes for 4x2 RGB, found 23");
        assert!(refused(201, 1, 603).contains("1:200"));
    }

    #[test]
    fn the_size_after_the_transform_is_known_beforehand() {
        let frames = [(256, 256), (320, 180), (223, 301), (97, 130), (640, 480), (427, 239)];
        for (frame, bars) in frames.into_iter().flat_map(|frame| [(frame, false), (frame, true)]) {
            for transform in [
                Transform::ShortestEdge { edge: 256, fraction: 0.95, bars },
                Transform::ShortestEdge { edge: 120, fraction: 0.9, bars },
                Transform::Resizes { crop: (230, 200), target: (256, 192), bars },
            ] {
                let image = pattern::image(frame.0, frame.1);
                let square = transform.square(frame).map(|_| letterbox(&image));
                let found =
                    transform.apply("video.view", square.as_ref().unwrap_or(&image)).expect("a frame");
                let found = (found.view().width(), found.view().height());
                assert_eq!(transform.size(frame), found, "{transform:?} {frame:?}");
            }
        }
    }
}
