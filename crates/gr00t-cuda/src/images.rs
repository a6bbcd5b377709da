//! Camera frames to pixels, byte for byte as the processor makes them: its tables, applied by `images.cu`.

use super::builder::Builder;
use super::kernels::{Argument, Defines, Variant, eight_bits};
use super::tokens::DeviceImage;
use crate::Result;
use std::rc::Rc;
use steadyhand_cuda_driver::{DevicePtr, bytes_of, kernel_params};
use steadyhand_gr00t::model::Batch;
use steadyhand_gr00t::processor::{Filter, ImagePlan, Windows};

/// Bytes of the largest image on a frame's way that is processed here: sixteen times a frame of 1280x1024. What is larger is
/// left to the processor: memory for it would be kept as long as its program.
const MAX_IMAGE_BYTES: usize = 60 << 20;
/// Bytes of a pixel.
const CHANNELS: usize = 3;

kernel_params! {
    /// A resize of one image.
    pub(super) struct ResampleImage {
        /// `[source_height, source_width, 3]`.
        source: DevicePtr as "const unsigned char*",
        /// `[height, width, 3]`, or f32 `[3, height, width]`.
        out: DevicePtr,
        /// Of each column of the result the first column under it, counted from `left`; its weights, `[width, taps_x]`.
        firsts_x: DevicePtr as "const unsigned int*",
        weights_x: DevicePtr as "const int*",
        /// The same of rows, counted from `top`.
        firsts_y: DevicePtr as "const unsigned int*",
        weights_y: DevicePtr as "const int*",
        source_width: u32,
        source_height: u32,
        width: u32,
        height: u32,
        /// Added modulo 2^32, so that it may stand for a negative number.
        left: u32,
        top: u32,
        /// The column and the row that stand for those behind them.
        last_column: u32,
        last_row: u32,
        taps_x: u32,
        taps_y: u32,
        precision_x: u32,
        precision_y: u32,
    }
}

kernel_params! {
    /// Argument of `images.cu`.
    pub struct ResampleParams {
        images: DevicePtr as "const ResampleImage*",
        filter: u32,
        to_pixels: u32,
    }
}

impl Argument for ResampleParams {
    fn fixed(&self) -> Defines {
        fixed(self.filter, self.to_pixels)
    }
}

fn fixed(filter: u32, to_pixels: u32) -> Defines {
    vec![eight_bits(&[]), ("FILTER", filter as usize), ("TO_PIXELS", to_pixels as usize)]
}

/// As `enum Filter` of `images.cu`.
pub(super) fn code(filter: Filter) -> u32 {
    match filter {
        Filter::Separable => 0,
        Filter::Area => 1,
        Filter::BlockMeans => 2,
        Filter::Linear => 3,
    }
}

/// What the kernel is compiled for: every filter to bytes, the one that comes last to pixels.
pub(super) fn kinds() -> impl Iterator<Item = Defines> {
    let all = Filter::ALL.into_iter().map(|filter| (filter, 0)).chain([(Filter::Separable, 1)]);
    all.map(|(filter, to_pixels)| fixed(code(filter), to_pixels))
}

/// Whether frames go this way here; the processor takes them otherwise.
pub fn covers(plan: &ImagePlan) -> bool {
    let [height, width] = plan.frame();
    let results = plan.steps().iter().map(|step| step.x.len() * step.y.len());
    results.chain([height * width]).all(|pixels| pixels * CHANNELS <= MAX_IMAGE_BYTES)
}

/// The frames of all items, on the device.
#[derive(Debug, Clone)]
pub struct DeviceFrames<'a> {
    /// The way of each image; all items have the same ones.
    pub plans: Vec<&'a ImagePlan>,
    /// Where the bytes of each image's frame lie, by item.
    pub frames: Vec<Vec<DevicePtr>>,
}

impl<'a> DeviceFrames<'a> {
    /// Those of a batch, where `place` says of image and item; none where its images are processed.
    pub fn of(batch: &'a Batch, place: impl Fn(usize, usize) -> DevicePtr) -> Option<Self> {
        let images = batch.raw.iter().enumerate();
        let at = |(image, items): (usize, &Vec<_>)| (0..items.len()).map(|item| place(image, item)).collect();
        let plans = batch.raw.iter().filter_map(|items| items.first()).map(|first| &**first.plan()).collect();
        (!batch.raw.is_empty()).then(|| DeviceFrames { plans, frames: images.map(at).collect() })
    }
}

/// An image on its way.
struct Traveller<'a> {
    plan: &'a ImagePlan,
    /// Of each step along x and y.
    tables: Rc<Vec<[Table; 2]>>,
    /// Height and width.
    size: [usize; 2],
    at: DevicePtr,
    /// Where it is to be at last.
    pixels: DevicePtr,
    /// Steps that it has made.
    made: usize,
}

/// First pixels and weights of windows.
#[derive(Clone, Copy)]
struct Table {
    firsts: DevicePtr,
    weights: DevicePtr,
}

impl Builder<'_> {
    /// Frames to the pixels that `images` has place for.
    ///
    /// # Errors
    /// No memory.
    pub fn images(&mut self, frames: &DeviceFrames, images: &[DeviceImage]) -> Result<()> {
        let mut travellers = Vec::new();
        for ((&plan, frames), image) in frames.plans.iter().zip(&frames.frames).zip(images) {
            let bytes = CHANNELS * image.height * image.width * size_of::<f32>();
            let tables = plan.steps().iter().map(|step| Ok([self.table(&step.x)?, self.table(&step.y)?]));
            let tables = Rc::new(tables.collect::<Result<Vec<_>>>()?);
            travellers.extend(frames.iter().enumerate().map(|(item, at)| Traveller {
                plan,
                tables: Rc::clone(&tables),
                size: plan.frame(),
                at: *at,
                pixels: DevicePtr(image.pixels.0 + (item * bytes) as u64),
                made: 0,
            }));
        }
        // All arrive with the last step.
        let longest = travellers.iter().map(|image| image.plan.steps().len()).max().unwrap_or(0);
        for left in (0..longest).rev() {
            for filter in Filter::ALL {
                let turn = |image: &&mut Traveller| {
                    let steps = image.plan.steps();
                    steps.len() - image.made == left + 1 && steps[image.made].filter == filter
                };
                let together: Vec<&mut Traveller> = travellers.iter_mut().filter(turn).collect();
                if !together.is_empty() {
                    self.resample(filter, left == 0, together)?;
                }
            }
        }
        Ok(())
    }

    /// The next step of images, all of the same filter.
    fn resample(&mut self, filter: Filter, to_pixels: bool, images: Vec<&mut Traveller>) -> Result<()> {
        let (count, mut most) = (images.len(), 0);
        let mut described = Vec::with_capacity(count);
        for image in images {
            let step = &image.plan.steps()[image.made];
            let ([source_height, source_width], [left, top]) = (image.size, step.origin);
            let (height, width) = (step.y.len(), step.x.len());
            let out = match to_pixels {
                true => image.pixels,
                false => self.bytes(width * height * CHANNELS)?.at(0),
            };
            let [x, y] = image.tables[image.made];
            described.push(ResampleImage {
                source: image.at,
                out,
                firsts_x: x.firsts,
                weights_x: x.weights,
                firsts_y: y.firsts,
                weights_y: y.weights,
                source_width: source_width as u32,
                source_height: source_height as u32,
                width: width as u32,
                height: height as u32,
                left: left as u32,
                top: top as u32,
                last_column: step.x.last,
                last_row: step.y.last,
                taps_x: step.x.taps as u32,
                taps_y: step.y.taps as u32,
                precision_x: step.x.precision,
                precision_y: step.y.precision,
            });
            (image.at, image.size, image.made) = (out, [height, width], image.made + 1);
            most = most.max(width * height);
        }
        let images = self.constant_bytes(bytes_of(&described))?;
        let params = ResampleParams { images, filter: code(filter), to_pixels: u32::from(to_pixels) };
        let variant = Variant::images();
        let blocks = most.div_ceil(variant.block as usize);
        self.launch_grid(variant, [blocks, count, 1], params, Vec::new());
        Ok(())
    }

    fn table(&mut self, windows: &Windows) -> Result<Table> {
        let firsts = self.constant_indices(windows.firsts.iter().copied())?;
        let weights = match windows.weights.is_empty() {
            true => DevicePtr::NULL,
            false => self.constant_bytes(bytes_of(&windows.weights))?,
        };
        Ok(Table { firsts, weights })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use steadyhand_cuda_driver::{Device, Properties};
    use steadyhand_gr00t::precision::PrecisionPolicy;
    use steadyhand_gr00t::processor::{ProcessorConfig, RawImage};
    use steadyhand_gr00t::{Image, Version};

    fn raw(height: usize, width: usize) -> RawImage {
        let mut config = ProcessorConfig::defaults(Version::N1_6);
        (config.use_albumentations, config.shortest_image_edge) = (true, Some(256));
        let frame = Image { width, height, rgb: vec![0; height * width * CHANNELS].into() };
        RawImage::of(Arc::new(frame), &config).expect("a frame")
    }

    fn planned() -> Device {
        Device::planned(Properties {
            name: "planned".to_owned(),
            compute_capability: (9, 0),
            multiprocessors: 132,
            total_memory: 80 << 30,
            l2_bytes: 50 << 20,
            driver_version: 13000,
            shared_memory_per_block: 227 << 10,
        })
    }

    /// What images have in common is one launch, and the last step of all is one.
    #[test]
    fn images_of_other_ways_arrive_together() {
        let (device, policy) = (planned(), PrecisionPolicy::preset("bf16").expect("a preset"));
        let images = [raw(480, 640), raw(256, 256), raw(512, 512)];
        let place = |image: &RawImage| {
            let [height, width] = image.plan().size();
            DeviceImage { pixels: DevicePtr::NULL, frames: 1, height, width }
        };
        let mut b = Builder::new(&device, &policy, 1);
        let frames = DeviceFrames {
            plans: images.iter().map(|image| &**image.plan()).collect(),
            frames: vec![vec![DevicePtr::NULL]; images.len()],
        };
        b.images(&frames, &images.each_ref().map(place)).expect("recorded");
        let found: Vec<Defines> = b.variants().map(|variant| variant.defines.clone()).collect();
        let kinds = [(Filter::Area, 0), (Filter::BlockMeans, 0), (Filter::Linear, 0), (Filter::Separable, 1)];
        assert_eq!(found, kinds.map(|(filter, to_pixels)| fixed(code(filter), to_pixels)));
    }

    #[test]
    fn frames_of_cameras_are_covered_and_huge_ones_are_not() {
        for (height, width, covered) in [(480, 640, true), (2160, 3840, true), (5000, 5000, false)] {
            assert_eq!(covers(raw(height, width).plan()), covered, "{height}x{width}");
        }
    }
}
