//! The norms and the rotation of query and key heads.

use super::builder::Builder;
use super::elements::Element;
use super::kernels::{Argument, Defines, Variant, eight_bits};
use super::program::{TapPlace, Tensor};
use super::weights::Region;
use crate::Result;
use steadyhand_cuda_driver::{DevicePtr, kernel_params};
use steadyhand_gr00t::ops::{Heads, Site};

kernel_params! {
    /// Argument of kernels in `rotary.cu`.
    pub struct RotaryParams {
        /// `[rows, q_ld]`.
        q: DevicePtr as "const void*",
        /// `[rows, k_ld]`.
        k: DevicePtr as "const void*",
        /// `[rows, v_ld]`.
        v: DevicePtr as "const void*",
        /// `[HEAD_DIM]`.
        query_weight: DevicePtr as "const float*",
        key_weight: DevicePtr as "const float*",
        /// `[tokens, HEAD_DIM]`: cosines, then sines.
        turns: DevicePtr as "const float*",
        /// `[rows, out_ld]`: query heads, key heads, value heads.
        out: DevicePtr,
        /// `[rows, heads * HEAD_DIM]`.
        tap_query_norm: DevicePtr as "float*",
        /// `[rows, kv_heads * HEAD_DIM]`.
        tap_key_norm: DevicePtr as "float*",
        tap_query: DevicePtr as "float*",
        tap_key: DevicePtr as "float*",
        q_element: u32,
        q_ld: u32,
        k_element: u32,
        k_ld: u32,
        v_element: u32,
        v_ld: u32,
        out_element: u32,
        out_ld: u32,
        rows: u32,
        /// Of one item of the batch.
        tokens: u32,
        heads: u32,
        kv_heads: u32,
        query_norm_format: u32,
        key_norm_format: u32,
        query_format: u32,
        key_format: u32,
        eps: f32,
        /// Fills the struct up.
        padding: u32,
    }
}

impl Argument for RotaryParams {
    fn fixed(&self) -> Defines {
        vec![eight_bits(&[self.out_element])]
    }
}

/// The sites of a layer's query and key norms and rotations.
#[derive(Debug, Clone)]
pub struct RotarySites {
    /// The query heads' RMSNorm.
    pub query_norm: Site,
    /// The key heads' RMSNorm.
    pub key_norm: Site,
    /// The query heads' rotation.
    pub query: Site,
    /// The key heads' rotation.
    pub key: Site,
}

/// What normalizes and turns the heads of a layer.
#[derive(Debug, Clone)]
pub struct Rotary<'w> {
    /// Scale of the query norm, `[head_dim]`, f32.
    pub query_norm: &'w Region,
    /// Scale of the key norm, `[head_dim]`, f32.
    pub key_norm: &'w Region,
    /// `[tokens, head_dim]`: cosines, then sines, f32.
    pub turns: DevicePtr,
    /// Added to the mean square.
    pub eps: f64,
    /// Tokens of one item of the batch.
    pub tokens: usize,
}

impl Builder<'_> {
    /// Query heads and key heads normalized and turned, value heads as they are, side by side:
    /// `[rows, (heads + 2 kv_heads) * head_dim]`, stored as `out`.
    ///
    /// # Errors
    /// Formats without a kernel, no memory.
    pub fn norm_rotary(
        &mut self,
        [q, k, v]: [&Tensor; 3],
        heads: Heads,
        w: &Rotary,
        out: Element,
        at: RotarySites,
    ) -> Result<Tensor> {
        let [of_query, of_key] = [self.norm_storage(&at.query_norm)?, self.norm_storage(&at.key_norm)?];
        let rotated = self.rotary_storage(&at.query, &at.key)?;
        let out = self.tensor(q.rows, (heads.heads + 2 * heads.kv_heads) * heads.head_dim, out)?;
        let null = DevicePtr::NULL;
        let params = RotaryParams {
            q: q.pointer(),
            k: k.pointer(),
            v: v.pointer(),
            query_weight: w.query_norm.pointer(),
            key_weight: w.key_norm.pointer(),
            turns: w.turns,
            out: out.pointer(),
            tap_query_norm: null,
            tap_key_norm: null,
            tap_query: null,
            tap_key: null,
            q_element: q.element.code(),
            q_ld: q.ld as u32,
            k_element: k.element.code(),
            k_ld: k.ld as u32,
            v_element: v.element.code(),
            v_ld: v.ld as u32,
            out_element: out.element.code(),
            out_ld: out.ld as u32,
            rows: q.rows as u32,
            tokens: w.tokens as u32,
            heads: heads.heads as u32,
            kv_heads: heads.kv_heads as u32,
            query_norm_format: of_query.code(),
            key_norm_format: of_key.code(),
            query_format: rotated.code(),
            key_format: rotated.code(),
            eps: w.eps as f32,
            padding: 0,
        };
        let (rows, queries, keys) = (q.rows, heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
        let taps: Vec<TapPlace<RotaryParams>> = vec![
            TapPlace::whole(at.query_norm, rows, queries, |p: &mut RotaryParams, at| p.tap_query_norm = at),
            TapPlace::whole(at.key_norm, rows, keys, |p: &mut RotaryParams, at| p.tap_key_norm = at),
            TapPlace::whole(at.query, rows, queries, |p: &mut RotaryParams, at| p.tap_query = at),
            TapPlace::whole(at.key, rows, keys, |p: &mut RotaryParams, at| p.tap_key = at),
        ];
        let variant = Variant::rotary(heads.head_dim);
        let warps = q.rows * (heads.heads + 2 * heads.kv_heads);
        let blocks = warps.div_ceil(variant.block as usize / 32);
        self.launch_grid(variant, [blocks, 1, 1], params, taps);
        Ok(out)
    }
}
