//! Brings tensors to their places in the weights' memory, rearranged and rounded on the device.

use super::elements::Element;
use super::kernels::{Argument, Defines, Kernels, Variant, eight_bits};
use crate::{Error, Result};
use steadyhand_cuda_driver::{Buffer, DevicePtr, Launch, Stream, kernel_params};
use steadyhand_gr00t::checkpoint::{Dtype, Weight};

/// Bytes of a checkpoint that are on their way at a time.
const STAGING: usize = 64 << 20;

kernel_params! {
    /// Argument of kernels in `weights.cu`.
    pub(super) struct PackParams {
        /// The tensor's elements from `from_index` on; null for synthetic ones.
        from: DevicePtr as "const void*",
        /// `[.., ld]`.
        to: DevicePtr,
        /// Of element 0, 0 of what is packed, in the whole tensor.
        from_index: u64,
        /// In elements of the tensor: `[outputs, inputs]` has (inputs, 1), [inputs, outputs] (1, outputs).
        row_stride: u64,
        column_stride: u64,
        /// `[n]`: largest magnitudes of rows, or of their layer; null where nothing is scaled.
        amaxes: DevicePtr as "float*",
        /// `[n]`: dequantization scales of the rows.
        scales: DevicePtr as "float*",
        /// Of a synthetic tensor.
        key: u64,
        scale: f32,
        offset: f32,
        rows: u32,
        columns: u32,
        ld: u32,
        /// Of these rows in the result.
        first_row: u32,
        from_element: u32,
        to_element: u32,
        format: u32,
        /// Row r goes to r / 8 * 8 * interleave + lane * 8 + r % 8; 1 for the same order.
        interleave: u32,
        lane: u32,
        /// Fills the struct up.
        padding: u32,
    }
}

impl Argument for PackParams {
    fn fixed(&self) -> Defines {
        vec![eight_bits(&[self.to_element])]
    }
}

/// A tensor, or part of one, to bring to its place: `[rows, columns]`.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) weight: Weight,
    /// Elements of the tensor before the first that is packed.
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Whether the tensor has a row for each column of what is packed.
    pub(super) transposed: bool,
    /// Bytes before the result in the weights' memory.
    pub(super) to: usize,
    pub(super) ld: usize,
    /// Rows of the result before the first that is packed.
    pub(super) first_row: usize,
    pub(super) element: Element,
    /// What is rounded to on the way.
    pub(super) format: Element,
    /// Eights of rows from one to the next: 2 where gate and up take turns.
    pub(super) interleave: usize,
    /// Which of them.
    pub(super) lane: usize,
    /// Where elements of 8 bits have their scales.
    pub(super) scaled: Option<ScaledJob>,
}

/// Where the scales of a job's rows go.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScaledJob {
    /// Whether all rows share a scale.
    pub(super) by_layer: bool,
    /// Bytes before the largest magnitudes, `[rows of the product]`.
    pub(super) amaxes: usize,
    /// Bytes before the dequantization scales, `[rows of the GEMM's weights]`.
    pub(super) scales: usize,
}

impl Job {
    /// Rows that are brought at a time. A transposed tensor's rows are spread over all of it.
    fn rows_at_a_time(&self) -> usize {
        let row = self.columns * self.weight.dtype().size();
        if self.transposed { self.rows } else { (STAGING / row.max(1)).clamp(1, self.rows.max(1)) }
    }

    /// Bytes of staging memory.
    pub(super) fn staging(&self) -> usize {
        if self.weight.synthetic().is_some() {
            return 0;
        }
        self.rows_at_a_time() * self.columns * self.weight.dtype().size()
    }

    pub(super) fn run(
        &self,
        memory: &Buffer,
        staging: &Buffer,
        stream: &Stream,
        kernels: &Kernels,
    ) -> Result<()> {
        let each_chunk = |entries: &[&'static str]| -> Result<()> {
            let chunk = self.rows_at_a_time();
            for first in (0..self.rows).step_by(chunk) {
                let rows = chunk.min(self.rows - first);
                self.stage(first, rows, staging)?;
                for entry in entries {
                    self.launch(entry, first, rows, [memory, staging], stream, kernels)?;
                }
                if self.weight.synthetic().is_none() {
                    stream.synchronize()?;
                }
            }
            Ok(())
        };
        match self.scaled {
            None => each_chunk(&["pack"]),
            Some(ScaledJob { by_layer: false, .. }) => each_chunk(&["row_largest", "pack"]),
            Some(ScaledJob { by_layer: true, .. }) => {
                // All rows must have been seen before the first is scaled.
                each_chunk(&["row_largest"])?;
                self.launch("spread_largest", 0, self.rows, [memory, staging], stream, kernels)?;
                each_chunk(&["pack"])
            }
        }
    }

    /// Copies rows of the tensor to where kernels read them; those of a synthetic one are computed there.
    fn stage(&self, first: usize, rows: usize, staging: &Buffer) -> Result<()> {
        if self.weight.synthetic().is_some() {
            return Ok(());
        }
        let size = self.weight.dtype().size();
        let start = self.first + first * self.columns;
        let bytes = self.weight.bytes().ok_or_else(|| self.absent())?;
        Ok(staging.upload(0, &bytes[start * size..(start + rows * self.columns) * size])?)
    }

    /// Runs a kernel of `weights.cu` on rows that are staged.
    fn launch(
        &self,
        entry: &'static str,
        first: usize,
        rows: usize,
        [memory, staging]: [&Buffer; 2],
        stream: &Stream,
        kernels: &Kernels,
    ) -> Result<()> {
        let synthetic = self.weight.synthetic();
        let of_scales = |at: fn(&ScaledJob) -> usize| {
            self.scaled.as_ref().map_or(DevicePtr::NULL, |scaled| memory.at(at(scaled)))
        };
        let params = PackParams {
            from: if synthetic.is_some() { DevicePtr::NULL } else { staging.at(0) },
            to: memory.at(self.to),
            from_index: (self.first + first * self.columns) as u64,
            row_stride: if self.transposed { 1 } else { self.columns as u64 },
            column_stride: if self.transposed { self.rows as u64 } else { 1 },
            amaxes: of_scales(|scaled| scaled.amaxes),
            scales: of_scales(|scaled| scaled.scales),
            key: synthetic.map_or(0, |s| s.key),
            scale: synthetic.map_or(0.0, |s| s.scale),
            offset: synthetic.map_or(0.0, |s| s.offset),
            rows: rows as u32,
            columns: self.columns as u32,
            ld: self.ld as u32,
            first_row: (self.first_row + first) as u32,
            from_element: element_of(self.weight.dtype()).code(),
            to_element: self.element.code(),
            format: self.format.code(),
            interleave: self.interleave as u32,
            lane: self.lane as u32,
            padding: 0,
        };
        let variant = Variant::weights(entry).for_argument(&params);
        let (kernel, block, shared_bytes) = (kernels.get(&variant)?, variant.block, variant.shared_bytes);
        let blocks = match entry {
            "row_largest" => rows,
            "spread_largest" => 1,
            _ => (rows * self.columns).div_ceil(block as usize).min(MAX_BLOCKS),
        };
        let grid = [blocks as u32, 1, 1];
        let launch =
            Launch { grid, block, shared_bytes, cluster: 1, programmatic: false, cooperative: false };
        Ok(stream.launch(&kernel, &launch, &params)?)
    }

    fn absent(&self) -> Error {
        Error::engine("load weights", format!("{}: the tensor has no bytes", self.weight.name()))
    }
}

/// Blocks of a kernel that walks over a tensor: enough to fill any device.
const MAX_BLOCKS: usize = 4096;

pub(super) fn element_of(dtype: Dtype) -> Element {
    match dtype {
        Dtype::Bf16 => Element::Bf16,
        Dtype::F16 => Element::Fp16,
        Dtype::F32 => Element::F32,
    }
}
