//! The inputs of a batch in one piece of page-locked memory, so that one copy brings them to the device: images, or the frames
//! that the device makes them of.

use super::images::DeviceFrames;
use super::tokens::DeviceImage;
use crate::Result;
use steadyhand_cuda_driver::{Buffer, Device, DevicePtr, Pinned, Stream};
use steadyhand_gr00t::model::Batch;
use steadyhand_gr00t::ops::ImageBatch;
use steadyhand_gr00t::processor::RawImage;

/// Where an input may start.
const INPUT_ALIGN: usize = 256;

/// The inputs of one shape of batches, on the host and on the device.
pub struct InputMemory {
    host: Pinned,
    device: Buffer,
    /// Pixels that the device makes of frames; empty where they are copied.
    made: Buffer,
    /// Bytes before each image's pixels, in `made` where there are frames.
    images: Vec<usize>,
    /// Bytes before each frame, by image and item, and before the other inputs.
    frames: Vec<Vec<usize>>,
    ids: usize,
    state: usize,
    noise: usize,
    strength: usize,
}

impl InputMemory {
    /// Memory for a batch of this shape.
    ///
    /// # Errors
    /// No memory is left.
    pub fn new(device: &Device, batch: &Batch) -> Result<Self> {
        let reserve_bytes = |taken: &mut usize, bytes: usize| {
            let first = *taken;
            *taken = (first + bytes).next_multiple_of(INPUT_ALIGN);
            first
        };
        let (mut bytes, mut made) = (0, 0);
        let mut frame = |image: &&RawImage| reserve_bytes(&mut bytes, image.frame().rgb.len());
        let frames = batch.raw.iter().map(|items| items.iter().map(&mut frame).collect()).collect();
        let mut reserve = |values: usize| reserve_bytes(&mut bytes, values * 4);
        let images = batch.images.iter().map(|image| match batch.raw.is_empty() {
            true => reserve(image.pixels.len()),
            false => {
                reserve_bytes(&mut made, 4 * batch.len() * image.frames * 3 * image.height * image.width)
            }
        });
        let images = images.collect();
        let ids = reserve(batch.input_ids.iter().map(Vec::len).sum());
        let (state, noise) = (reserve(batch.state.len()), reserve(batch.noise.len()));
        let strength = reserve(strength(batch).len());
        Ok(InputMemory {
            host: device.alloc_pinned(bytes)?,
            device: device.alloc_zeroed(bytes)?,
            made: device.alloc_zeroed(made)?,
            images,
            frames,
            ids,
            state,
            noise,
            strength,
        })
    }

    /// The images on the device.
    pub fn images(&self, batch: &Batch) -> Vec<DeviceImage> {
        let memory = if batch.raw.is_empty() { &self.device } else { &self.made };
        let image = |(image, first): (&ImageBatch, &usize)| DeviceImage {
            pixels: memory.at(*first),
            height: image.height,
            width: image.width,
            frames: image.frames,
        };
        batch.images.iter().zip(&self.images).map(image).collect()
    }

    /// The frames on the device, where it makes the images.
    pub fn frames<'a>(&self, batch: &'a Batch) -> Option<DeviceFrames<'a>> {
        DeviceFrames::of(batch, |image, item| self.device.at(self.frames[image][item]))
    }

    /// Puts a batch's inputs where the copy to the device takes them from.
    pub fn fill(&mut self, batch: &Batch) {
        for (image, first) in batch.raw.iter().flatten().zip(self.frames.iter().flatten()) {
            let rgb = &image.frame().rgb;
            self.host.as_bytes_mut()[*first..*first + rgb.len()].copy_from_slice(rgb);
        }
        let ids: Vec<u8> = batch.input_ids.iter().flatten().flat_map(|id| id.to_le_bytes()).collect();
        self.host.as_bytes_mut()[self.ids..self.ids + ids.len()].copy_from_slice(&ids);
        let host = self.host.as_f32_mut();
        let mut put = |first: usize, values: &[f32]| {
            host[first / 4..first / 4 + values.len()].copy_from_slice(values);
        };
        if batch.raw.is_empty() {
            batch.images.iter().zip(&self.images).for_each(|(image, first)| put(*first, &image.pixels));
        }
        put(self.state, &batch.state);
        put(self.noise, &batch.noise);
        put(self.strength, &strength(batch));
    }

    /// Token ids, `[batch * tokens]`, u32.
    pub fn ids(&self) -> DevicePtr {
        self.device.at(self.ids)
    }

    /// `[batch * state_horizon, max_state_dim]`, f32.
    pub fn state(&self) -> DevicePtr {
        self.device.at(self.state)
    }

    /// `[batch * action_horizon, max_action_dim]`, f32.
    pub fn noise(&self) -> DevicePtr {
        self.device.at(self.noise)
    }

    /// By how much each value follows the velocity, as the noise, where the batch says it.
    pub fn strength(&self, batch: &Batch) -> Option<DevicePtr> {
        batch.strength.is_some().then(|| self.device.at(self.strength))
    }

    /// Queues the copy to the device.
    ///
    /// # Errors
    /// The copy fails.
    pub fn upload(&self, stream: &Stream) -> Result<()> {
        Ok(stream.upload(&self.host, 0, &self.device, 0, self.host.len())?)
    }
}

/// The strengths of a batch's action steps, for each value of each item; none where the batch has none.
fn strength(batch: &Batch) -> Vec<f32> {
    let Some(steps) = &batch.strength else { return Vec::new() };
    let each = batch.noise.len() / (batch.len() * steps.len()).max(1);
    let item: Vec<f32> = steps.iter().flat_map(|strength| std::iter::repeat_n(*strength, each)).collect();
    item.repeat(batch.len())
}
