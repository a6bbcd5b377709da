//! Attention: scores, softmax and weighted values in one kernel.

use super::builder::Builder;
use super::elements::{Element, Stored};
use super::kernels::{Argument, Defines, Variant, eight_bits};
use super::program::{TapPlace, Tensor};
use crate::Result;
use steadyhand_cuda_driver::DevicePtr;
use steadyhand_cuda_driver::kernel_params;
use steadyhand_gr00t::ops::{Heads, Operation, Site};

/// Query rows and the key rows that they see. As `Segment` in `attention.cuh`.
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

/// Which keys a query sees.
#[derive(Debug, Clone)]
pub struct Seen {
    segments: DevicePtr,
    count: usize,
    max_queries: usize,
    max_keys: usize,
    causal: bool,
}

kernel_params! {
    /// As `AttentionParams` in `attention.cuh`. Kernels are compiled for what `fixed` reads of it.
    #[derive(Default)]
    pub struct AttentionParams {
        q: DevicePtr,
        k: DevicePtr,
        v: DevicePtr,
        segments: DevicePtr,
        out: DevicePtr,
        tap: DevicePtr,
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
        out_factor: f32,
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

/// Attention of every kind that a model has with these operands before products of `next`, as
/// [`product::kinds`](super::product::kinds).
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
    /// Puts segments on the device. With `causal` a query sees the keys of its segment up to its own position.
    ///
    /// # Errors
    /// No memory is left.
    pub fn seen(&mut self, segments: &[Segment], causal: bool) -> Result<Seen> {
        let numbers = segments.iter().flat_map(|s| [s.query_start, s.queries, s.key_start, s.keys]);
        Ok(Seen {
            segments: self.constant_indices(numbers.map(|number| number as u32))?,
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
        seen: &Seen,
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
        let variant = Variant::attention(elements.compute, head_dim, seen.max_keys);
        let grid = [seen.max_queries.div_ceil(variant.queries_of_a_block()), count, seen.count];
        let params = AttentionParams {
            q: q.pointer(),
            k: k.pointer(),
            v: v.pointer(),
            segments: seen.segments,
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
            causal: u32::from(seen.causal),
            scale: 1.0 / (head_dim as f32).sqrt(),
            out_factor: out.factor(),
            padding: 0,
        };
        let place = TapPlace::whole(at, out.rows, out.features, |p: &mut AttentionParams, at| p.tap = at);
        self.launch_grid(variant, grid, params, vec![place]);
        Ok(out)
    }
}
