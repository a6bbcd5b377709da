//! Attention: scores, softmax and weighted values in one kernel.

use super::builder::Builder;
use super::elements::{Element, Stored};
use super::kernels::{Argument, Defines, Variant, eight_bits};
use super::program::{TapPlace, Tensor};
use crate::Result;
use steadyhand_cuda_driver::{DevicePtr, bytes_of, kernel_params};
use steadyhand_gr00t::ops::{Heads, Operation, Site};

/// Query rows and the key rows that they attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First query row.
    pub query_start: usize,
    /// Query rows.
    pub queries: usize,
    /// First key row.
    pub key_start: usize,
    /// Key rows.
    pub keys: usize,
}

impl Segment {
    fn on_device(&self) -> DeviceSegment {
        DeviceSegment {
            query_start: self.query_start as u32,
            queries: self.queries as u32,
            key_start: self.key_start as u32,
            keys: self.keys as u32,
        }
    }
}

/// Which keys a query attends to.
#[derive(Debug, Clone)]
pub struct AttentionMask {
    segments: DevicePtr,
    count: usize,
    max_queries: usize,
    max_keys: usize,
    causal: bool,
}

kernel_params! {
    /// A [`Segment`] on the device.
    pub(super) struct DeviceSegment {
        query_start: u32,
        queries: u32,
        key_start: u32,
        keys: u32,
    }
}

kernel_params! {
    /// Kernels are compiled for what `fixed` reads of it.
    #[derive(Default)]
    pub struct AttentionParams {
        /// `[rows, q_ld]`, head h at column h * HEAD_DIM.
        q: DevicePtr as "const void*",
        /// `[rows, k_ld]`, the head of a group of query heads at column h / group * HEAD_DIM.
        k: DevicePtr as "const void*",
        /// `[rows, v_ld]`.
        v: DevicePtr as "const void*",
        segments: DevicePtr as "const DeviceSegment*",
        /// `[rows, out_ld]`.
        out: DevicePtr,
        /// `[rows, heads * HEAD_DIM]`.
        tap: DevicePtr as "float*",
        q_ld: u32,
        k_ld: u32,
        v_ld: u32,
        out_ld: u32,
        out_element: u32,
        out_format: u32,
        heads: u32,
        group: u32,
        causal: u32,
        scale: f32,
        /// Brings the result into the range of an 8-bit element type.
        out_factor: f32,
        /// Fills the struct up.
        padding: u32,
    }
}

impl Argument for AttentionParams {
    fn fixed(&self) -> Defines {
        vec![
            eight_bits(&[self.out_element]),
            ("OUT_ELEMENT", self.out_element as usize),
            ("OUT_FORMAT", self.out_format as usize),
            ("CAUSAL", self.causal as usize),
        ]
    }
}

/// Attention of every kind that a model has with these operands before GEMMs of `next`, as
/// [`gemm::kinds`](super::gemm::kinds).
pub fn kinds(operand: Element, next: Element) -> Vec<Defines> {
    let kind = |out: Element, format: Element, causal: u32| {
        let (out_element, out_format) = (out.code(), format.code());
        AttentionParams { out_element, out_format, causal, ..AttentionParams::default() }.fixed()
    };
    vec![
        kind(next, operand, 0),
        kind(next, operand, 1),
        kind(next, Element::F32, 0),
        kind(Element::F32, Element::F32, 0),
    ]
}

/// Features of a head that the kernels are compiled for, at most.
const MAX_HEAD_DIM: usize = 256;

impl Builder<'_> {
    /// Puts a mask of segments on the device. With `causal` a query attends to the keys of its segment up to its own position.
    ///
    /// # Errors
    /// No memory is left.
    pub fn attention_mask(&mut self, segments: &[Segment], causal: bool) -> Result<AttentionMask> {
        let on_device: Vec<DeviceSegment> = segments.iter().map(Segment::on_device).collect();
        Ok(AttentionMask {
            segments: self.constant_bytes(bytes_of(&on_device))?,
            count: segments.len(),
            max_queries: segments.iter().map(|s| s.queries).max().unwrap_or(0),
            max_keys: segments.iter().map(|s| s.keys).max().unwrap_or(0),
            causal,
        })
    }

    /// `softmax(q kᵀ / sqrt(head_dim)) v`, `[rows of q, heads * head_dim]`, stored as `out`.
    ///
    /// # Errors
    /// Widths that are not those of the heads, formats without a kernel, no memory.
    pub fn attention(
        &mut self,
        [q, k, v]: [&Tensor; 3],
        heads: Heads,
        mask: &AttentionMask,
        out: impl Into<Stored>,
        at: Site,
    ) -> Result<Tensor> {
        let widths = [q, k, v].map(|tensor| tensor.features);
        let Heads { heads: count, kv_heads, head_dim } = heads;
        if widths != [count * head_dim, kv_heads * head_dim, kv_heads * head_dim] || head_dim > MAX_HEAD_DIM {
            let what = format!("q, k, v of {widths:?} features, {heads:?}, heads of at most {MAX_HEAD_DIM}");
            return Err(steadyhand_gr00t::Error::Shape {
                site: at.to_string(),
                operation: "attention",
                what,
            }
            .into());
        }
        let elements = self.operands(&at, Operation::Attention)?;
        let [q, k, v] = [q, k, v].map(|tensor| self.as_operand(tensor, elements.compute));
        let (q, k, v) = (q?, k?, v?);
        let out = self.tensor(q.rows, q.features, out)?;
        let shape = [mask.max_queries, mask.max_keys, count * mask.count];
        let multiprocessors = self.device.properties().multiprocessors as usize;
        let (variant, of_a_block) = Variant::attention(elements.compute, head_dim, shape, multiprocessors);
        let grid = [mask.max_queries.div_ceil(of_a_block), count, mask.count];
        let params = AttentionParams {
            q: q.pointer(),
            k: k.pointer(),
            v: v.pointer(),
            segments: mask.segments,
            out: out.pointer(),
            tap: DevicePtr::NULL,
            q_ld: q.ld as u32,
            k_ld: k.ld as u32,
            v_ld: v.ld as u32,
            out_ld: out.ld as u32,
            out_element: out.element.code(),
            out_format: elements.storage.code(),
            heads: count as u32,
            group: (count / kv_heads) as u32,
            causal: u32::from(mask.causal),
            scale: 1.0 / (head_dim as f32).sqrt(),
            out_factor: out.factor(),
            padding: 0,
        };
        let place = TapPlace::whole(at, out.rows, out.features, |p: &mut AttentionParams, at| p.tap = at);
        self.launch_grid(variant, grid, params, vec![place]);
        Ok(out)
    }
}
