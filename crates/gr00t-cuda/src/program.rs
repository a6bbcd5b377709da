//! A program: the kernels of an inference in order, with the memory that they work in.
//!
//! The model's files record a program for one shape of inputs. It runs in two ways: captured once into a CUDA
//! graph and replayed, or kernel by kernel with a probe. Both launch the same kernels with the same arguments,
//! but for the places that a probe's tensors are written to.

use super::elements::Element;
use super::kernels::{Kernels, Variant};
use crate::{Error, Result};
use std::ops::Range;
use std::sync::Arc;
use steadyhand_cuda_driver::{Buffer, Device, DevicePtr, Kernel, Launch, Params, Pinned, Stream};
use steadyhand_gr00t::exchange::Patches;
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::probe::Probe;

/// What the elements of a tensor stand for.
#[derive(Debug, Clone)]
pub enum Scale {
    /// Themselves.
    One,
    /// This magnitude for the largest value of the element type.
    Known(f32),
    /// The magnitudes that lie there, one f32 for so many rows.
    Measured(Arc<Buffer>, usize),
}

/// `[rows, features]` in device memory, with zeros between `features` and the row stride.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub(super) memory: Arc<Buffer>,
    /// Rows: tokens of all items of the batch.
    pub rows: usize,
    /// Features of a row.
    pub features: usize,
    /// Elements from row to row.
    pub ld: usize,
    /// Element type.
    pub element: Element,
    /// Elements before the first.
    pub(super) first: usize,
    /// What the elements stand for.
    pub(super) scale: Scale,
}

impl Tensor {
    /// Where the first element lies.
    pub fn pointer(&self) -> DevicePtr {
        self.memory.at(self.first * self.element.size())
    }

    /// What a kernel multiplies values with before it stores them here.
    pub fn factor(&self) -> f32 {
        match self.scale {
            Scale::Known(amax) if amax > 0.0 => self.element.format().max() / amax,
            _ => 1.0,
        }
    }

    /// Some of the rows.
    pub fn slice_rows(&self, rows: Range<usize>) -> Tensor {
        Tensor { first: self.first + rows.start * self.ld, rows: rows.len(), ..self.clone() }
    }

    /// Some of the features, at the same row stride.
    pub fn columns(&self, features: Range<usize>) -> Tensor {
        Tensor { first: self.first + features.start, features: features.len(), ..self.clone() }
    }

    /// Fills the tensor with values, `[rows, features]`.
    ///
    /// # Errors
    /// The copy fails.
    pub fn upload(&self, values: &[f32]) -> Result<()> {
        for (row, values) in values.chunks_exact(self.features).take(self.rows).enumerate() {
            self.memory
                .upload((self.first + row * self.ld) * self.element.size(), &self.element.encode(values))?;
        }
        Ok(())
    }

    /// Queues a copy to the host of a tensor without padding.
    ///
    /// # Errors
    /// The copy does not fit.
    pub fn read(&self, stream: &Stream, to: &mut Pinned) -> Result<()> {
        Ok(stream.download(&self.memory, 0, to, 0, self.rows * self.ld * self.element.size())?)
    }

    /// `[rows, features]` as f32.
    pub(super) fn download(&self) -> Result<Vec<f32>> {
        let mut values = Vec::with_capacity(self.rows * self.features);
        let mut raw = vec![0; self.features * self.element.size()];
        for row in 0..self.rows {
            self.memory.download((self.first + row * self.ld) * self.element.size(), &mut raw)?;
            values.extend(self.element.decode(&raw));
        }
        Ok(values)
    }
}

/// Part of what a kernel computed, under its name in the model.
#[derive(Debug, Clone)]
pub struct Tap {
    /// The site.
    pub site: Site,
    /// Its rows.
    pub rows: Range<usize>,
    /// Its columns.
    pub columns: Range<usize>,
}

/// Sets a pointer in a kernel's argument.
pub type SetPointer<P> = Box<dyn Fn(&mut P, DevicePtr) + Send + Sync>;

/// A place where a kernel writes an intermediate tensor for a probe: `[rows, features]`, f32.
pub struct TapPlace<P> {
    /// Sets the kernel's pointer.
    pub set: SetPointer<P>,
    /// Rows that the kernel writes.
    pub rows: usize,
    /// Features that the kernel writes.
    pub features: usize,
    /// What the place holds.
    pub taps: Vec<Tap>,
}

impl<P> TapPlace<P> {
    /// A place that holds the whole tensor of one site.
    pub fn whole(
        site: Site,
        rows: usize,
        features: usize,
        set: impl Fn(&mut P, DevicePtr) + Send + Sync + 'static,
    ) -> Self {
        let taps = vec![Tap { site, rows: 0..rows, columns: 0..features }];
        TapPlace { set: Box::new(set), rows, features, taps }
    }
}

/// Something that is put on a stream.
pub(super) trait Step: Send + Sync {
    /// The kernels that it launches.
    fn variants(&self) -> Vec<&Variant> {
        Vec::new()
    }
    /// Sites of the tensors that it shows to a probe.
    fn sites(&self) -> Vec<&Site> {
        Vec::new()
    }
    /// Takes its kernel.
    fn load(&mut self, _kernels: &Kernels) -> Result<()> {
        Ok(())
    }
    /// Puts it on the stream. `follows_kernel`: what came before is a kernel of ours, whose end this one waits for
    /// itself.
    fn enqueue(&self, stream: &Stream, follows_kernel: bool) -> Result<()>;
    /// Runs it alone and shows its tensors.
    fn probe(
        &self,
        stream: &Stream,
        scratch: &mut Scratch,
        batch: usize,
        probe: &mut dyn Probe,
    ) -> Result<()>;
    /// Puts it on the stream of a run in which components hand their tensors over through `patches`.
    fn patch(
        &self,
        stream: &Stream,
        follows_kernel: bool,
        _batch: usize,
        _patches: &mut dyn Patches,
    ) -> Result<()> {
        self.enqueue(stream, follows_kernel)
    }
}

/// A kernel with its arguments.
pub(super) struct KernelStep<P> {
    pub(super) variant: Variant,
    /// Since the program was finished.
    pub(super) kernel: Option<Kernel>,
    pub(super) launch: Launch,
    pub(super) params: P,
    pub(super) taps: Vec<TapPlace<P>>,
}

impl<P: Params + Send + Sync> KernelStep<P> {
    fn launch(&self, stream: &Stream, launch: &Launch, params: &P) -> Result<()> {
        match &self.kernel {
            Some(kernel) => Ok(stream.launch(kernel, launch, params)?),
            None => Err(Error::engine(self.variant.file, "the program was not finished")),
        }
    }
}

impl<P: Params + Send + Sync> Step for KernelStep<P> {
    fn variants(&self) -> Vec<&Variant> {
        vec![&self.variant]
    }

    fn sites(&self) -> Vec<&Site> {
        self.taps.iter().flat_map(|place| &place.taps).map(|tap| &tap.site).collect()
    }

    fn load(&mut self, kernels: &Kernels) -> Result<()> {
        self.kernel = Some(kernels.get(&self.variant)?);
        Ok(())
    }

    fn enqueue(&self, stream: &Stream, follows_kernel: bool) -> Result<()> {
        let launch = Launch { programmatic: follows_kernel, ..self.launch };
        self.launch(stream, &launch, &self.params)
    }

    fn probe(
        &self,
        stream: &Stream,
        scratch: &mut Scratch,
        batch: usize,
        probe: &mut dyn Probe,
    ) -> Result<()> {
        let mut params = self.params;
        let mut first = 0;
        scratch.reserve(self.taps.iter().map(|place| place.rows * place.features).sum())?;
        for place in &self.taps {
            (place.set)(&mut params, scratch.memory.at(first * 4));
            first += place.rows * place.features;
        }
        self.launch(stream, &self.launch, &params)?;
        stream.synchronize()?;
        first = 0;
        for place in &self.taps {
            let size = place.rows * place.features;
            let mut raw = vec![0; size * 4];
            scratch.memory.download(first * 4, &mut raw)?;
            let values = Element::F32.decode(&raw);
            place.taps.iter().for_each(|tap| show(tap, &values, place.features, batch, probe));
            first += size;
        }
        Ok(())
    }
}

/// Steps that one kernel does at once. It takes their place, except where their tensors are asked for.
pub(super) struct InOne<P> {
    pub(super) whole: KernelStep<P>,
    pub(super) parts: Vec<Box<dyn Step>>,
}

impl<P: Params + Send + Sync> Step for InOne<P> {
    fn variants(&self) -> Vec<&Variant> {
        self.parts.iter().flat_map(|part| part.variants()).chain(self.whole.variants()).collect()
    }

    fn load(&mut self, kernels: &Kernels) -> Result<()> {
        self.parts.iter_mut().try_for_each(|part| part.load(kernels))?;
        self.whole.load(kernels)
    }

    fn enqueue(&self, stream: &Stream, _: bool) -> Result<()> {
        // A grid whose blocks wait for each other starts once the device is free.
        self.whole.enqueue(stream, false)
    }

    fn probe(
        &self,
        stream: &Stream,
        scratch: &mut Scratch,
        batch: usize,
        probe: &mut dyn Probe,
    ) -> Result<()> {
        self.parts.iter().try_for_each(|part| part.probe(stream, scratch, batch, probe))
    }
}

/// Offers part of a tensor `[rows, features]`. What does not divide by the batch belongs to all its items.
fn show(tap: &Tap, values: &[f32], features: usize, batch: usize, probe: &mut dyn Probe) {
    let rows = values.chunks_exact(features).skip(tap.rows.start).take(tap.rows.len());
    let part: Vec<f32> = rows.flat_map(|row| &row[tap.columns.clone()]).copied().collect();
    let count = tap.rows.len();
    let shape = if count.is_multiple_of(batch) && count >= batch {
        [batch, count / batch, tap.columns.len()]
    } else {
        [1, count, tap.columns.len()]
    };
    probe.tap(&tap.site.to_string(), &shape, &part);
}

/// Shows a tensor that lies in memory.
pub(super) struct TensorTap {
    pub(super) tensor: Tensor,
    pub(super) site: Site,
}

impl Step for TensorTap {
    fn sites(&self) -> Vec<&Site> {
        vec![&self.site]
    }

    fn enqueue(&self, _: &Stream, _: bool) -> Result<()> {
        Ok(())
    }

    fn probe(&self, stream: &Stream, _: &mut Scratch, batch: usize, probe: &mut dyn Probe) -> Result<()> {
        stream.synchronize()?;
        let tensor = &self.tensor;
        let tap = Tap { site: self.site.clone(), rows: 0..tensor.rows, columns: 0..tensor.features };
        show(&tap, &tensor.download()?, tensor.features, batch, probe);
        Ok(())
    }
}

/// Where a part's result lies for what comes after it.
pub(super) struct HandOver {
    pub(super) at: Site,
    /// What the result is rounded to, whatever it is stored in.
    pub(super) format: Element,
    /// Each holds the whole result, in parts whose rows follow each other. Copies differ in element type: one to add
    /// to, one as an operand.
    pub(super) copies: Vec<Vec<Tensor>>,
}

impl Step for HandOver {
    fn enqueue(&self, _: &Stream, _: bool) -> Result<()> {
        Ok(())
    }

    fn probe(&self, _: &Stream, _: &mut Scratch, _: usize, _: &mut dyn Probe) -> Result<()> {
        Ok(())
    }

    fn patch(&self, stream: &Stream, _: bool, batch: usize, patches: &mut dyn Patches) -> Result<()> {
        stream.synchronize()?;
        let Some(parts) = self.copies.first() else { return Ok(()) };
        let (mut values, mut rows, mut features) = (Vec::new(), 0, 0);
        for part in parts {
            values.extend(part.download()?);
            (rows, features) = (rows + part.rows, part.features);
        }
        patches.hand_over(&self.at, [batch, rows / batch, features], &mut values);
        self.format.format().round_slice(&mut values);
        for parts in &self.copies {
            let mut rest = &values[..];
            for part in parts {
                let (own, others) = rest.split_at(part.rows * part.features);
                part.upload(own)?;
                rest = others;
            }
        }
        Ok(())
    }
}

/// A value that was computed on the host when the program was recorded: `[1, tokens, features]`.
pub(super) struct Constant {
    pub(super) site: Site,
    pub(super) shape: [usize; 3],
    pub(super) values: Vec<f32>,
}

/// Memory for the tensors that probes see, as large as the largest step needs.
pub struct Scratch {
    device: Device,
    memory: Buffer,
}

impl Scratch {
    /// Empty scratch memory.
    ///
    /// # Errors
    /// No memory is left.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Scratch { device: device.clone(), memory: device.alloc_zeroed(0)? })
    }

    fn reserve(&mut self, elements: usize) -> Result<()> {
        if self.memory.len() < elements * 4 {
            self.memory = self.device.alloc_zeroed(elements * 4)?;
        }
        Ok(())
    }
}

/// The kernels of one shape of inputs, in order.
pub struct Program {
    pub(super) batch: usize,
    pub(super) steps: Vec<Box<dyn Step>>,
    pub(super) constants: Vec<Constant>,
    pub(super) stages: Vec<(String, Range<usize>)>,
    /// Tensors, also those that no later step reads: pointers in the steps do not keep them.
    pub(super) _memory: Vec<Arc<Buffer>>,
}

impl Program {
    /// Puts all steps on the stream. `follows_copy`: a copy was put there before.
    ///
    /// # Errors
    /// A launch fails.
    pub fn enqueue(&self, stream: &Stream) -> Result<()> {
        self.enqueue_steps(stream, 0..self.steps.len())
    }

    /// Puts one stage on the stream.
    ///
    /// # Errors
    /// A launch fails.
    pub fn enqueue_steps(&self, stream: &Stream, steps: Range<usize>) -> Result<()> {
        for (index, step) in self.steps[steps].iter().enumerate() {
            step.enqueue(stream, index > 0)?;
        }
        Ok(())
    }

    /// Runs the program kernel by kernel and shows every tensor.
    ///
    /// # Errors
    /// A launch fails.
    pub fn probe(&self, stream: &Stream, scratch: &mut Scratch, probe: &mut dyn Probe) -> Result<()> {
        for constant in &self.constants {
            probe.tap(&constant.site.to_string(), &constant.shape, &constant.values);
        }
        self.steps.iter().try_for_each(|step| step.probe(stream, scratch, self.batch, probe))
    }

    /// Runs the program step by step, parts handing their tensors over through `patches`.
    ///
    /// # Errors
    /// A launch or a copy fails.
    pub fn patch(&self, stream: &Stream, patches: &mut dyn Patches) -> Result<()> {
        for (index, step) in self.steps.iter().enumerate() {
            step.patch(stream, index > 0, self.batch, patches)?;
        }
        Ok(())
    }

    /// The stages' names and steps, in order.
    pub fn stages(&self) -> &[(String, Range<usize>)] {
        &self.stages
    }
}
