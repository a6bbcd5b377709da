//! Records programs.

use super::driver::Buffer;
use super::driver::{Device, DevicePtr, Kernel, Launch, Params};
use super::elements::{Element, SiteElements, elements, storage};
use super::kernels::Kernels;
use super::product::Tiling;
use super::program::{Constant, HandOver, KernelStep, Program, Step, Tap, TapPlace, Tensor, TensorTap};
use crate::Result;
use crate::component::Component;
use crate::ops::Site;
use crate::precision::PrecisionPolicy;
use std::ops::Range;
use std::sync::Arc;

/// Rows of a tile of a product: tensors have room for a whole tile beyond their last row.
const TILE_ROWS: usize = 128;
/// Row strides are a multiple of this, so that a product's inner dimension needs no remainder.
pub const ALIGN: usize = 64;

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

    /// Lets a run with patches replace what `component` hands over, the result of `at`. Each of `copies` holds it in
    /// parts whose rows follow each other.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn hand_over(&mut self, component: Component, at: &Site, copies: Vec<Vec<Tensor>>) -> Result<()> {
        let (step, format) = (at.step(), self.storage(at)?);
        self.steps.push(Box::new(HandOver { component, step, format, copies }));
        Ok(())
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
