//! Records programs.

use super::check;
use super::elements::{Element, SiteElements, Stored};
use super::kernels::{Argument, Kernels, Variant};
use super::program::{
    Constant, HandOver, InOne, KernelStep, Program, Scale, Step, Tap, TapPlace, Tensor, TensorTap,
};
use super::tiling::Tiling;
use crate::Result;
use std::ops::Range;
use std::sync::Arc;
use steadyhand_cuda_driver::Buffer;
use steadyhand_cuda_driver::{Device, DevicePtr, Launch};
use steadyhand_gr00t::ops::{Operation, Site};
use steadyhand_gr00t::precision::PrecisionPolicy;

/// Rows of a tile of a GEMM: tensors have room for a whole tile beyond their last row.
const TILE_ROWS: usize = 128;
/// Bytes of the inner dimension that tensor cores are fed at a time: with row strides of a multiple nothing remains.
const ROW_ALIGN: usize = 128;

/// Elements of a GEMM's inner dimension that are multiplied at a time; row strides are a multiple of them.
pub fn depth(element: Element) -> usize {
    match element {
        // No tensor core asks for more: as far apart as the 16-bit elements that they may be rounded to.
        Element::F32 => depth(Element::Bf16),
        _ => ROW_ALIGN / element.size(),
    }
}

/// Elements from row to row of a matrix with so many columns.
pub fn row_stride(columns: usize, element: Element) -> usize {
    columns.next_multiple_of(depth(element))
}

/// Records a program.
pub struct Builder<'a> {
    pub(super) device: &'a Device,
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
    pub fn new(device: &'a Device, policy: &'a PrecisionPolicy, batch: usize) -> Self {
        let (memory, free, steps) = (Vec::new(), Vec::new(), Vec::new());
        let (constants, stages) = (Vec::new(), Vec::new());
        let (rows_are_steps, tilings) = (false, None);
        Builder { device, policy, batch, rows_are_steps, tilings, memory, free, steps, constants, stages }
    }

    /// An empty program whose tensors have a row for each Euler step.
    pub fn by_step(device: &'a Device, policy: &'a PrecisionPolicy) -> Self {
        Builder { rows_are_steps: true, ..Builder::new(device, policy, 1) }
    }

    /// What was recorded, with its kernels: those that are not there yet are compiled, several at a time.
    ///
    /// # Errors
    /// NVRTC is missing or a kernel does not compile.
    pub fn finish(self, kernels: &Kernels) -> Result<Program> {
        kernels.prepare(self.variants())?;
        let Builder { batch, mut steps, constants, stages, memory, .. } = self;
        steps.iter_mut().try_for_each(|step| step.load(kernels))?;
        Ok(Program { batch, steps, constants, stages, _memory: memory })
    }

    /// The kernels that were recorded, in order.
    pub fn variants(&self) -> impl Iterator<Item = &Variant> {
        self.steps.iter().flat_map(|step| step.variants())
    }

    /// Sites of the tensors that a probe of the program would see, in order.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.steps.iter().flat_map(|step| step.sites())
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
        check::storage(self.policy, site.path())
    }

    /// What results at the site of a norm are rounded to and stored in.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn norm_storage(&self, site: &Site) -> Result<Element> {
        check::norm_storage(self.policy, site.path())
    }

    /// What the query and the key heads of a layer are rounded to when they are rotated.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn rotary_storage(&self, query: &Site, key: &Site) -> Result<Element> {
        check::rotary_storage(self.policy, query.path(), key.path())
    }

    /// The formats of an operation that multiplies matrices.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn operands(&self, site: &Site, operation: Operation) -> Result<SiteElements> {
        check::operands(self.policy, site.path(), operation)
    }

    /// What the result of `at` is stored as when it is an operand of `consumers` and nothing else: what they multiply
    /// where that is the same for all, so that it is rounded once, in its own kernel.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn operand(&self, at: &Site, consumers: &[Site]) -> Result<Stored> {
        let storage = self.storage(at)?.into();
        let mut found = None;
        for consumer in consumers {
            let operand = check::as_operand(self.policy, consumer.path())?;
            if operand.is_none() || found.is_some_and(|other| Some(other) != operand) {
                return Ok(storage);
            }
            found = operand;
        }
        Ok(found.unwrap_or(storage))
    }

    /// [`Builder::operand`] of a kernel that stores no element type of 8 bits.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn wide_operand(&self, at: &Site, consumers: &[Site]) -> Result<Element> {
        match self.operand(at, consumers)? {
            Stored { element: Element::E4m3, .. } => self.storage(at),
            Stored { element, .. } => Ok(element),
        }
    }

    /// Rows of one observation in a tensor of so many.
    pub fn rows_each(&self, rows: usize) -> usize {
        if self.rows_are_steps { 1 } else { rows / self.batch }
    }

    /// A tensor whose values are not set. Memory of a tensor of the same layout that nothing holds any more is
    /// taken again: steps run in order, so what was in it has been read.
    ///
    /// # Errors
    /// No memory is left.
    pub fn tensor(&mut self, rows: usize, features: usize, stored: impl Into<Stored>) -> Result<Tensor> {
        let Stored { element, amax } = stored.into();
        let scale = amax.map_or(Scale::One, Scale::Known);
        let fits = |tensor: &Tensor| {
            (tensor.rows, tensor.features, tensor.element) == (rows, features, element)
                // This list holds one, the program's memory the other.
                && Arc::strong_count(&tensor.memory) == 2
        };
        if let Some(tensor) = self.free.iter().find(|tensor| fits(tensor)) {
            return Ok(Tensor { scale, ..tensor.clone() });
        }
        let tensor = self.persistent_tensor(rows, features, element)?;
        self.free.push(tensor.clone());
        Ok(Tensor { scale, ..tensor })
    }

    /// A tensor of zeros that keeps its memory: for values that are set when the program is recorded.
    ///
    /// # Errors
    /// No memory is left.
    pub fn persistent_tensor(&mut self, rows: usize, features: usize, element: Element) -> Result<Tensor> {
        self.allocate(rows, features, row_stride(features, element), element)
    }

    /// A tensor without padding between its rows, as hosts have them. It is no operand of a GEMM.
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
        Ok(Tensor { memory, rows, features, ld, element, first: 0, scale: Scale::One })
    }

    /// Bytes that kernels only read.
    ///
    /// # Errors
    /// No memory is left.
    pub fn constant_bytes(&mut self, bytes: &[u8]) -> Result<DevicePtr> {
        let memory = self.bytes(bytes.len())?;
        memory.upload(0, bytes)?;
        Ok(memory.at(0))
    }

    /// Memory for so many bytes.
    ///
    /// # Errors
    /// No memory is left.
    pub fn bytes(&mut self, count: usize) -> Result<Arc<Buffer>> {
        let memory = Arc::new(self.device.alloc_zeroed(count)?);
        self.memory.push(Arc::clone(&memory));
        Ok(memory)
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

    /// Lets a run with patches replace what a part of the model hands over, the result of `at`. Each of `copies` holds
    /// it in parts whose rows follow each other.
    ///
    /// # Errors
    /// The policy asks for what no kernel does.
    pub fn hand_over(&mut self, at: &Site, copies: Vec<Vec<Tensor>>) -> Result<()> {
        let format = self.storage(at)?;
        self.steps.push(Box::new(HandOver { at: at.clone(), format, copies }));
        Ok(())
    }

    /// Records steps, and the kernel that does all of them at once, over `grid` blocks all of which work together: `whole` has
    /// its argument, from what the steps result in.
    ///
    /// # Errors
    /// Those of `record` and `whole`.
    pub fn in_one<T, P: Argument + Send + Sync + 'static>(
        &mut self,
        record: impl FnOnce(&mut Self) -> Result<T>,
        (variant, grid, cluster): (Variant, [usize; 3], usize),
        whole: impl FnOnce(&T) -> Result<P>,
    ) -> Result<T> {
        let first = self.steps.len();
        let result = record(self)?;
        let parts = self.steps.split_off(first);
        let params = whole(&result)?;
        let variant = variant.for_argument(&params);
        let (grid, cluster) = (grid.map(|blocks| blocks as u32), cluster as u32);
        let Variant { block, shared_bytes, .. } = variant;
        let launch = Launch { grid, block, shared_bytes, cluster, programmatic: false, cooperative: true };
        let whole = KernelStep { variant, kernel: None, launch, params, taps: Vec::new() };
        self.steps.push(Box::new(InOne { whole, parts }));
        Ok(result)
    }

    /// Records a kernel over `grid` blocks, none of which waits for another.
    pub fn launch_grid<P: Argument + Send + Sync + 'static>(
        &mut self,
        variant: Variant,
        grid: [usize; 3],
        params: P,
        taps: Vec<TapPlace<P>>,
    ) {
        self.launch_clusters(variant, grid, 1, params, taps);
    }

    /// Records a kernel over `grid` blocks, `cluster` of which work together.
    pub fn launch_clusters<P: Argument + Send + Sync + 'static>(
        &mut self,
        variant: Variant,
        grid: [usize; 3],
        cluster: usize,
        params: P,
        mut taps: Vec<TapPlace<P>>,
    ) {
        let variant = variant.for_argument(&params);
        let (grid, cluster) = (grid.map(|blocks| blocks as u32), cluster as u32);
        let Variant { block, shared_bytes, .. } = variant;
        let launch = Launch { grid, block, shared_bytes, cluster, programmatic: false, cooperative: false };
        if self.rows_are_steps {
            taps.iter_mut().for_each(|place| place.taps = place.taps.iter().flat_map(by_row).collect());
        }
        self.steps.push(Box::new(KernelStep { variant, kernel: None, launch, params, taps }));
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
