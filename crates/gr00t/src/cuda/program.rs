//! A program: the kernels of an inference in order, with the memory that they work in.
//!
//! The model's files record a program for one shape of inputs. It runs in two ways: captured once into a CUDA
//! graph and replayed, or kernel by kernel with a probe. Both launch the same kernels with the same arguments,
//! but for the places that a probe's tensors are written to.

use super::driver::{Buffer, Device, DevicePtr, Kernel, Launch, Params, Pinned, Stream};
use super::elements::{Element, SiteElements, elements, storage};
use super::kernels::Kernels;
use super::product::Tiling;
use crate::Result;
use crate::ops::Site;
use crate::precision::PrecisionPolicy;
use crate::probe::Probe;
use std::ops::Range;
use std::sync::Arc;

/// Rows of a tile of a product: tensors have room for a whole tile beyond their last row.
const TILE_ROWS: usize = 128;
/// Row strides are a multiple of this, so that a product's inner dimension needs no remainder.
pub const ALIGN: usize = 64;

/// `[rows, features]` in device memory, with zeros between `features` and the row stride.
#[derive(Debug, Clone)]
pub struct Tensor {
    memory: Arc<Buffer>,
    /// Rows: tokens of all items of the batch.
    pub rows: usize,
    /// Features of a row.
    pub features: usize,
    /// Elements from row to row.
    pub ld: usize,
    /// Element type.
    pub element: Element,
    /// Elements before the first.
    first: usize,
}

impl Tensor {
    /// Where the first element lies.
    pub fn pointer(&self) -> DevicePtr {
        self.memory.at(self.first * self.element.size())
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
        stream.download(&self.memory, 0, to, 0, self.rows * self.ld * self.element.size())
    }

    /// `[rows, features]` as f32.
    fn download(&self) -> Result<Vec<f32>> {
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
trait Step: Send + Sync {
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
}

/// A kernel with its arguments.
struct KernelStep<P> {
    kernel: Kernel,
    launch: Launch,
    params: P,
    taps: Vec<TapPlace<P>>,
}

impl<P: Params + Send + Sync> Step for KernelStep<P> {
    fn enqueue(&self, stream: &Stream, follows_kernel: bool) -> Result<()> {
        let launch = Launch { programmatic: follows_kernel, ..self.launch };
        stream.launch(&self.kernel, &launch, &self.params)
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
        stream.launch(&self.kernel, &self.launch, &params)?;
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
struct TensorTap {
    tensor: Tensor,
    site: Site,
}

impl Step for TensorTap {
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

/// A value that was computed on the host when the program was recorded: `[1, tokens, features]`.
struct Constant {
    site: Site,
    shape: [usize; 3],
    values: Vec<f32>,
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
    batch: usize,
    steps: Vec<Box<dyn Step>>,
    constants: Vec<Constant>,
    stages: Vec<(String, Range<usize>)>,
    /// Tensors, also those that no later step reads: pointers in the steps do not keep them.
    _memory: Vec<Arc<Buffer>>,
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

    /// The stages' names and steps, in order.
    pub fn stages(&self) -> &[(String, Range<usize>)] {
        &self.stages
    }
}

/// Records a program.
pub struct Builder<'a> {
    device: &'a Device,
    /// Compiled kernels.
    pub kernels: &'a Kernels,
    policy: &'a PrecisionPolicy,
    /// Items in a batch.
    pub batch: usize,
    /// Whether the rows of every tensor are Euler steps, and are shown as such.
    rows_are_steps: bool,
    /// Tilings to choose from, where they are measured; all that the device can run otherwise.
    pub tilings: Option<Vec<Tiling>>,
    memory: Vec<Arc<Buffer>>,
    free: Vec<Tensor>,
    steps: Vec<Box<dyn Step>>,
    constants: Vec<Constant>,
    stages: Vec<(String, Range<usize>)>,
}

impl<'a> Builder<'a> {
    /// An empty program for a batch of `batch` items.
    pub fn new(device: &'a Device, kernels: &'a Kernels, policy: &'a PrecisionPolicy, batch: usize) -> Self {
        let (memory, free, steps) = (Vec::new(), Vec::new(), Vec::new());
        let (constants, stages) = (Vec::new(), Vec::new());
        let (rows_are_steps, tilings) = (false, None);
        Builder {
            device,
            kernels,
            policy,
            batch,
            rows_are_steps,
            tilings,
            memory,
            free,
            steps,
            constants,
            stages,
        }
    }

    /// An empty program whose tensors have a row for each Euler step.
    pub fn by_step(device: &'a Device, kernels: &'a Kernels, policy: &'a PrecisionPolicy) -> Self {
        Builder { rows_are_steps: true, ..Builder::new(device, kernels, policy, 1) }
    }

    /// What was recorded.
    pub fn finish(self) -> Program {
        let Builder { batch, steps, constants, stages, memory, .. } = self;
        Program { batch, steps, constants, stages, _memory: memory }
    }

    /// Records a stage: what `record` puts into the program gets a name, under which it is timed.
    ///
    /// # Errors
    /// Those of `record`.
    pub fn stage<T>(&mut self, name: &str, record: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let first = self.steps.len();
        let result = record(self)?;
        self.stages.push((name.to_owned(), first..self.steps.len()));
        Ok(result)
    }

    /// What results at a site are rounded to and stored in.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn storage(&self, site: &Site) -> Result<Element> {
        storage(self.policy, site)
    }

    /// The formats at the site of a matrix product.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn elements(&self, site: &Site) -> Result<SiteElements> {
        elements(self.policy, site)
    }

    /// What the result of `at` is stored in when it is an operand of `consumers` and nothing else: their element
    /// type where they have one in common, so that it is rounded once, in its own kernel.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn operand(&self, at: &Site, consumers: &[Site]) -> Result<Element> {
        let mut found = None;
        for consumer in consumers {
            let compute = self.elements(consumer)?.compute;
            if found.is_some_and(|element| element != compute) {
                return self.storage(at);
            }
            found = Some(compute);
        }
        Ok(found.unwrap_or(self.storage(at)?))
    }

    /// A tensor whose values are not set. Memory of a tensor of the same layout that nothing holds any more is
    /// taken again: steps run in order, so what was in it has been read.
    ///
    /// # Errors
    /// No memory is left.
    pub fn tensor(&mut self, rows: usize, features: usize, element: Element) -> Result<Tensor> {
        let fits = |tensor: &Tensor| {
            (tensor.rows, tensor.features, tensor.element) == (rows, features, element)
                // This list holds one, the program's memory the other.
                && Arc::strong_count(&tensor.memory) == 2
        };
        if let Some(tensor) = self.free.iter().find(|tensor| fits(tensor)) {
            return Ok(tensor.clone());
        }
        let tensor = self.persistent_tensor(rows, features, element)?;
        self.free.push(tensor.clone());
        Ok(tensor)
    }

    /// A tensor of zeros that keeps its memory: for values that are set when the program is recorded.
    ///
    /// # Errors
    /// No memory is left.
    pub fn persistent_tensor(&mut self, rows: usize, features: usize, element: Element) -> Result<Tensor> {
        self.allocate(rows, features, features.next_multiple_of(ALIGN), element)
    }

    /// A tensor without padding between its rows, as hosts have them. It is no operand of a product.
    ///
    /// # Errors
    /// No memory is left.
    pub fn packed_tensor(&mut self, rows: usize, features: usize, element: Element) -> Result<Tensor> {
        self.allocate(rows, features, features, element)
    }

    fn allocate(&mut self, rows: usize, features: usize, ld: usize, element: Element) -> Result<Tensor> {
        let padded = rows.next_multiple_of(TILE_ROWS) + TILE_ROWS;
        let memory = Arc::new(self.device.alloc_zeroed(padded * ld * element.size())?);
        self.memory.push(Arc::clone(&memory));
        Ok(Tensor { memory, rows, features, ld, element, first: 0 })
    }

    /// Bytes that kernels only read.
    ///
    /// # Errors
    /// No memory is left.
    pub fn constant_bytes(&mut self, bytes: &[u8]) -> Result<DevicePtr> {
        let memory = Arc::new(self.device.alloc_zeroed(bytes.len())?);
        memory.upload(0, bytes)?;
        self.memory.push(Arc::clone(&memory));
        Ok(memory.at(0))
    }

    /// Indices that kernels only read.
    ///
    /// # Errors
    /// No memory is left.
    pub fn constant_indices(&mut self, indices: impl IntoIterator<Item = u32>) -> Result<DevicePtr> {
        let bytes: Vec<u8> = indices.into_iter().flat_map(u32::to_le_bytes).collect();
        self.constant_bytes(&bytes)
    }

    /// Shows host values, `shape` = `[1, tokens, features]`, when the program is probed.
    pub fn constant_tap(&mut self, site: Site, shape: [usize; 3], values: Vec<f32>) {
        self.constants.push(Constant { site, shape, values });
    }

    /// Shows a tensor that lies in memory when the program is probed.
    pub fn tap(&mut self, tensor: &Tensor, site: Site) {
        self.steps.push(Box::new(TensorTap { tensor: tensor.clone(), site }));
    }

    /// Records a kernel.
    pub fn launch<P: Params + Send + Sync + 'static>(
        &mut self,
        kernel: Kernel,
        launch: Launch,
        params: P,
        mut taps: Vec<TapPlace<P>>,
    ) {
        if self.rows_are_steps {
            taps.iter_mut().for_each(|place| place.taps = place.taps.iter().flat_map(by_row).collect());
        }
        self.steps.push(Box::new(KernelStep { kernel, launch, params, taps }));
    }
}

/// A tensor's rows as tensors of the Euler steps of the same number.
fn by_row(tap: &Tap) -> Vec<Tap> {
    let row = |row: usize| Tap {
        site: Site::in_step(tap.site.path(), row),
        rows: row..row + 1,
        columns: tap.columns.clone(),
    };
    tap.rows.clone().map(row).collect()
}
