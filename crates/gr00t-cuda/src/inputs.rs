//! The inputs of a batch in one piece of memory, so that one copy brings them to the device.

use super::tokens::DeviceImage;
use crate::Result;
use steadyhand_cuda_driver::{Buffer, Device, DevicePtr, Pinned, Stream};
use steadyhand_gr00t::model::Batch;
use steadyhand_gr00t::ops::ImageBatch;

/// Where an input may start.
const INPUT_ALIGN: usize = 256;

/// The inputs of one shape of batches, on the host and on the device.
pub struct InputMemory {
    host: Pinned,
    device: Buffer,
    /// Bytes before each image's pixels, and before the other inputs.
    images: Vec<usize>,
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
        let mut bytes = 0;
        let mut reserve = |values: usize| {
            let first = bytes;
            bytes = (first + values * 4).next_multiple_of(INPUT_ALIGN);
            first
        };
        let images = batch.images.iter().map(|image| reserve(image.pixels.len())).collect();
        let ids = reserve(batch.input_ids.iter().map(Vec::len).sum());
        let (state, noise) = (reserve(batch.state.len()), reserve(batch.noise.len()));
        let strength = reserve(strength(batch).len());
        Ok(InputMemory {
            host: device.alloc_pinned(bytes)?,
            device: device.alloc_zeroed(bytes)?,
            images,
            ids,
            state,
            noise,
            strength,
        })
    }

    /// The images on the device.
    pub fn images(&self, batch: &Batch) -> Vec<DeviceImage> {
        let image = |(image, first): (&ImageBatch, &usize)| DeviceImage {
            pixels: self.device.at(*first),
            height: image.height,
            width: image.width,
            frames: image.frames,
        };
        batch.images.iter().zip(&self.images).map(image).collect()
    }

    /// Puts a batch's inputs where the copy to the device takes them from.
    pub fn fill(&mut self, batch: &Batch) {
        let ids: Vec<u8> = batch.input_ids.iter().flatten().flat_map(|id| id.to_le_bytes()).collect();
        self.host.as_bytes_mut()[self.ids..self.ids + ids.len()].copy_from_slice(&ids);
        let host = self.host.as_f32_mut();
        let mut put = |first: usize, values: &[f32]| {
            host[first / 4..first / 4 + values.len()].copy_from_slice(values);
        };
        batch.images.iter().zip(&self.images).for_each(|(image, first)| put(*first, &image.pixels));
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
