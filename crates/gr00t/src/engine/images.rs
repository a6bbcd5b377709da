//! The images of a model input: as the vision tower takes them, or as cameras gave them.

use crate::processor::{PixelValues, RawImage};
use std::borrow::Cow;

/// Images in the order of the prompt.
#[derive(Debug, Clone)]
pub enum ModelImages {
    /// Processed, as every engine takes them.
    Pixels(Vec<PixelValues>),
    /// Frames with what is to be done with them. Engines that do not process frames are given what the processor makes of
    /// them.
    Raw(Vec<RawImage>),
}

impl Default for ModelImages {
    /// None.
    fn default() -> Self {
        ModelImages::Pixels(Vec::new())
    }
}

impl From<Vec<PixelValues>> for ModelImages {
    fn from(pixels: Vec<PixelValues>) -> Self {
        ModelImages::Pixels(pixels)
    }
}

impl FromIterator<PixelValues> for ModelImages {
    fn from_iter<I: IntoIterator<Item = PixelValues>>(pixels: I) -> Self {
        ModelImages::Pixels(pixels.into_iter().collect())
    }
}

impl ModelImages {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            ModelImages::Pixels(images) => images.len(),
            ModelImages::Raw(images) => images.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frames, height and width of each as the vision tower takes it.
    pub fn sizes(&self) -> Vec<[usize; 3]> {
        let raw = |image: &RawImage| {
            let [height, width] = image.plan().size();
            [1, height, width]
        };
        match self {
            ModelImages::Pixels(images) => {
                images.iter().map(|image| [image.frames(), image.height, image.width]).collect()
            }
            ModelImages::Raw(images) => images.iter().map(raw).collect(),
        }
    }

    /// The images as the vision tower takes them: raw ones are processed here.
    pub fn pixels(&self) -> Cow<'_, [PixelValues]> {
        match self {
            ModelImages::Pixels(images) => Cow::Borrowed(images),
            ModelImages::Raw(images) => Cow::Owned(images.iter().map(RawImage::pixels).collect()),
        }
    }

    /// Changes the images as the vision tower takes them; raw ones are processed first.
    pub fn change(&mut self, change: impl FnOnce(&mut Vec<PixelValues>)) {
        let mut images = std::mem::take(self).into_pixels();
        change(&mut images);
        *self = ModelImages::Pixels(images);
    }

    /// As [`ModelImages::pixels`].
    pub fn into_pixels(self) -> Vec<PixelValues> {
        match self {
            ModelImages::Pixels(images) => images,
            ModelImages::Raw(images) => images.iter().map(RawImage::pixels).collect(),
        }
    }

    /// The frames, where they are still to be processed.
    pub fn raw(&self) -> Option<&[RawImage]> {
        match self {
            ModelImages::Pixels(_) => None,
            ModelImages::Raw(images) => Some(images),
        }
    }

    /// Whether the images of both become the same sizes in the same way.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (ModelImages::Raw(a), ModelImages::Raw(b)) => {
                a.iter().map(RawImage::plan).eq(b.iter().map(RawImage::plan))
            }
            (ModelImages::Pixels(_), ModelImages::Pixels(_)) => self.sizes() == other.sizes(),
            _ => false,
        }
    }
}
