//! The way of a frame as tables, for an engine that processes frames itself: which source pixels become which pixel of
//! a result, with which weights. They are those that the processor's own resizes multiply with, so that an engine gets
//! its bytes.
//!
//! | filter | a byte of the result |
//! |---|---|
//! | separable | windows along x summed in integers and brought to bytes, then windows along y of those, likewise |
//! | area | f32 sums: along x in each row, `sum + pixel * weight`; then `sum + weight * row` over the rows; nearest, ties to even |
//! | block means | sum of a block; of 2x2 `(sum + 2) >> 2`, else times 1 / pixels in f32; nearest, ties to even |
//! | linear | two neighbours along x: `(a * p + b * q) >> 4`; two of those along y: `((a * u >> 16) + (b * v >> 16) + 2) >> 2` |
//!
//! No product is fused with a sum. A byte is at last `(value - 127.5) / 127.5`.

use super::config::ProcessorConfig;
use super::grid::Size;
use super::image::{Images, Way, check_frame};
use super::resize_separable::Method;
use super::view::Part;
use super::{PixelValues, resize_opencv, resize_separable};
use crate::{Image, Result};
use std::path::Path;
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// A camera frame on its way to an engine that processes it.
#[derive(Debug, Clone)]
pub struct RawImage {
    frame: Arc<Image>,
    plan: Arc<ImagePlan>,
}

/// The way of frames of one size to the vision tower's pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct ImagePlan {
    images: Images,
    way: Way,
    /// Width and height.
    frame: Size,
    steps: Vec<Resample>,
}

/// None of its numbers is NaN. `Arc`s of one plan are then equal at a glance.
impl Eq for ImagePlan {}

/// A resize of part of an image, whose surroundings are black.
#[derive(Debug, Clone, PartialEq)]
pub struct Resample {
    /// What is done with the pixels.
    pub filter: Filter,
    /// Where in the source the windows along x and y count from, in pixels from its left and upper edge.
    pub origin: [i32; 2],
    /// Columns of the result.
    pub x: Windows,
    /// Rows of the result.
    pub y: Windows,
}

/// How weighted pixels become one; see the module's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// Pillow's and torchvision's antialiased resizes.
    Separable,
    /// OpenCV's `INTER_AREA` where it shrinks.
    Area,
    /// The same at integer ratios.
    BlockMeans,
    /// The same where it enlarges.
    Linear,
}

impl Filter {
    /// Every filter.
    pub const ALL: [Filter; 4] = [Filter::Separable, Filter::Area, Filter::BlockMeans, Filter::Linear];
}

/// Which pixels of the source along one axis become each pixel of the result.
#[derive(Debug, Clone, PartialEq)]
pub struct Windows {
    /// The first pixel of each window, counted from the origin.
    pub firsts: Vec<u32>,
    /// Pixels of a window.
    pub taps: usize,
    /// The last pixel there is, which stands for those behind it.
    pub last: u32,
    /// `[pixels of the result, taps]`: integers, of an area the bits of an f32, none for block means.
    pub weights: Vec<i32>,
    /// Of a separable filter: bits after the binary point of a weight.
    pub precision: u32,
}

impl Windows {
    /// Every pixel as it is, for a separable filter.
    fn identity(pixels: usize) -> Self {
        Windows {
            firsts: (0..pixels as u32).collect(),
            taps: 1,
            last: pixels as u32 - 1,
            weights: vec![2; pixels],
            precision: 1,
        }
    }

    /// Pixels of the result.
    pub fn len(&self) -> usize {
        self.firsts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.firsts.is_empty()
    }
}

impl RawImage {
    /// A frame with what a checkpoint of this configuration does with it.
    ///
    /// # Errors
    /// A frame without pixels or of the wrong byte length, sizes that are absent or out of range.
    pub fn of(frame: Arc<Image>, config: &ProcessorConfig) -> Result<Self> {
        check_frame("image", &frame)?;
        let images = Images::new(config, Path::new("configuration"))?;
        let plan = ImagePlan::new(&images, "image", (frame.width, frame.height))?;
        Ok(RawImage { frame, plan: Arc::new(plan) })
    }

    /// A frame of the plan's size.
    pub(super) fn new(frame: Arc<Image>, plan: Arc<ImagePlan>) -> Self {
        RawImage { frame, plan }
    }

    /// The frame, of the plan's size.
    pub fn frame(&self) -> &Image {
        &self.frame
    }

    /// What is to be done with it.
    pub fn plan(&self) -> &Arc<ImagePlan> {
        &self.plan
    }

    /// What the processor makes of it.
    pub fn pixels(&self) -> PixelValues {
        let mut pixels = PixelValues::default();
        self.plan.images.follow(&self.plan.way, &self.frame, &mut pixels);
        pixels
    }
}

impl ImagePlan {
    /// The plan of frames of this width and height. `field` names them in errors.
    ///
    /// # Errors
    /// As [`Images::way`].
    pub(super) fn new(images: &Images, field: &str, frame: Size) -> Result<Self> {
        let way = images.way(field, frame)?;
        let mut route = Route { left: 0, top: 0, width: frame.0, height: frame.1, steps: Vec::new() };
        images.record(&way, &mut route);
        route.separable(way.last, images.grid().method, true);
        Ok(ImagePlan { images: images.clone(), way, frame, steps: route.steps })
    }

    /// Height and width of the frames.
    pub fn frame(&self) -> [usize; 2] {
        [self.frame.1, self.frame.0]
    }

    /// Height and width of what becomes of them.
    pub fn size(&self) -> [usize; 2] {
        [self.way.last.1, self.way.last.0]
    }

    /// One after the other, each of the result of the one before; the last one is separable.
    pub fn steps(&self) -> &[Resample] {
        &self.steps
    }
}

/// The steps so far, and the part of the last one's result that is looked at.
pub(super) struct Route {
    left: i32,
    top: i32,
    width: usize,
    height: usize,
    steps: Vec<Resample>,
}

impl Route {
    /// Width and height of what is looked at.
    pub fn looked_at(&self) -> Size {
        (self.width, self.height)
    }

    /// What is looked at becomes that of a larger image around it.
    pub fn pad(&mut self, left: usize, top: usize, (width, height): Size) {
        (self.left, self.top) = (self.left - left as i32, self.top - top as i32);
        (self.width, self.height) = (width, height);
    }

    /// Only a part of it is looked at.
    pub fn crop(&mut self, part: Part) {
        (self.left, self.top) = (self.left + part.left as i32, self.top + part.top as i32);
        (self.width, self.height) = (part.width, part.height);
    }

    /// OpenCV's area resize to a size, of which a part is made.
    pub fn area(&mut self, size: Size, part: Part) {
        if size == (self.width, self.height) {
            return self.crop(part);
        }
        let (filter, x, y) = resize_opencv::plan((self.width, self.height), size, part);
        self.push(filter, x, y);
    }

    /// A separable resize; one that changes nothing is left out unless it is `kept`.
    pub fn separable(&mut self, size: Size, method: Method, kept: bool) {
        if size == (self.width, self.height) && !kept {
            return;
        }
        let windows = |from: usize, to: usize| match from == to {
            true => Windows::identity(to),
            false => resize_separable::plan(from, to, method),
        };
        let (x, y) = (windows(self.width, size.0), windows(self.height, size.1));
        self.push(Filter::Separable, x, y);
    }

    fn push(&mut self, filter: Filter, x: Windows, y: Windows) {
        let (width, height) = (x.len(), y.len());
        self.steps.push(Resample { filter, origin: [self.left, self.top], x, y });
        *self = Route { left: 0, top: 0, width, height, steps: std::mem::take(&mut self.steps) };
    }
}
