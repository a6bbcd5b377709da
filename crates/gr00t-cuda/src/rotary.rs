//! The rotation of query and key heads, and the norms before it.

use super::builder::Builder;
use super::elements::Element;
use super::kernels::{Argument, Defines, Variant, eight_bits};
use super::program::{TapPlace, Tensor};
use super::weights::Region;
use crate::Result;
use steadyhand_cuda_driver::{DevicePtr, kernel_params};
use steadyhand_gr00t::ops::cpu::rotary_turns;
use steadyhand_gr00t::ops::{self, Heads, Site, Stores};

kernel_params! {
    /// Argument of kernels in `rotary.cu`, which are compiled for what `fixed` reads of it.
    #[derive(Default)]
    pub struct RotaryParams {
        /// `[rows, q_ld]`.
        q: DevicePtr as "const void*",
        /// `[rows, k_ld]`.
        k: DevicePtr as "const void*",
        /// `[rows, v_ld]`.
        v: DevicePtr as "const void*",
        /// `[HEAD_DIM]`; null where heads are not normalized.
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
        /// What turned heads are rounded to.
        format: u32,
        /// What products are rounded to before they are added.
        product_format: u32,
        eps: f32,
        /// Fills the struct up.
        padding: u32,
    }
}

impl Argument for RotaryParams {
    fn fixed(&self) -> Defines {
        let norms = self.query_weight != DevicePtr::NULL;
        let norm_format = |format: u32| if norms { format as usize } else { 0 };
        vec![
            eight_bits(&[self.out_element]),
            ("NORMS", usize::from(norms)),
            ("Q_ELEMENT", self.q_element as usize),
            ("K_ELEMENT", self.k_element as usize),
            ("V_ELEMENT", self.v_element as usize),
            ("OUT_ELEMENT", self.out_element as usize),
            ("QUERY_NORM_FORMAT", norm_format(self.query_norm_format)),
            ("KEY_NORM_FORMAT", norm_format(self.key_norm_format)),
            ("FORMAT", self.format as usize),
            ("PRODUCT_FORMAT", self.product_format as usize),
        ]
    }
}

/// Rotations of every kind before attention of `operand`, as [`gemm::kinds`](super::gemm::kinds).
pub fn kinds(operand: Element, norms: bool) -> Vec<Defines> {
    let kind = |format: Element, products: Element| {
        let (format, product_format) = (format.code(), products.code());
        let query_weight = if norms { DevicePtr(1) } else { DevicePtr::NULL };
        RotaryParams {
            query_weight,
            q_element: format,
            k_element: format,
            v_element: format,
            out_element: operand.code(),
            query_norm_format: format,
            key_norm_format: format,
            format,
            product_format,
            ..RotaryParams::default()
        }
        .fixed()
    };
    let f32 = Element::F32;
    vec![kind(operand, operand), kind(operand, f32), kind(f32, f32)]
}

/// RMSNorm of query and key heads.
#[derive(Debug, Clone)]
pub struct HeadNorms<'w> {
    /// Scale of the query norm, `[head_dim]`, f32.
    pub query: &'w Region,
    /// Scale of the key norm, `[head_dim]`, f32.
    pub key: &'w Region,
    /// Added to the mean square.
    pub eps: f64,
    /// The sites of both.
    pub sites: [Site; 2],
}

/// What turns the heads of a layer.
#[derive(Debug, Clone)]
pub struct Rotary<'w> {
    /// What comes before.
    pub norms: Option<HeadNorms<'w>>,
    /// `[tokens, head_dim]`: cosines, then sines, f32.
    pub turns: DevicePtr,
    /// What is rounded on the way.
    pub stores: Stores,
    /// Tokens of one item of the batch.
    pub tokens: usize,
    /// The sites of the rotated queries and keys.
    pub sites: [Site; 2],
}

impl Builder<'_> {
    /// For each layer, of these rotated queries and keys, the cosines and sines at the places, `[places, head_dim]`, f32.
    /// Layers that store alike read the same.
    ///
    /// # Errors
    /// Formats without a kernel, no memory.
    pub fn turns(
        &mut self,
        rotary: &ops::Rotary,
        places: &[[usize; 3]],
        layers: impl IntoIterator<Item = [Site; 2]>,
    ) -> Result<Vec<DevicePtr>> {
        let mut known: Vec<(Element, DevicePtr)> = Vec::new();
        let mut of_layer = |[query, key]: [Site; 2]| {
            let storage = self.rotary_storage(&query, &key)?;
            if let Some((_, turns)) = known.iter().find(|(element, _)| *element == storage) {
                return Ok(*turns);
            }
            let values = rotary_turns(rotary, places, storage.format());
            let turns = self.constant_bytes(&Element::F32.encode(&values))?;
            known.push((storage, turns));
            Ok(turns)
        };
        layers.into_iter().map(&mut of_layer).collect()
    }

    /// Query heads and key heads turned, normalized before where they are, value heads as they are, side by side:
    /// `[rows, (heads + 2 kv_heads) * head_dim]`, stored as `out`.
    ///
    /// # Errors
    /// Formats without a kernel, no memory.
    pub fn rotary(
        &mut self,
        [q, k, v]: [&Tensor; 3],
        heads: Heads,
        w: Rotary,
        out: Element,
    ) -> Result<Tensor> {
        let Rotary { norms, turns, stores, tokens, sites: [of_query, of_key] } = w;
        let rotated = self.rotary_storage(&of_query, &of_key)?;
        let mut norm_formats = [rotated; 2];
        if let Some(HeadNorms { sites: [query, key], .. }) = &norms {
            norm_formats = [self.norm_storage(query)?, self.norm_storage(key)?];
        }
        let out = self.tensor(q.rows, (heads.heads + 2 * heads.kv_heads) * heads.head_dim, out)?;
        let null = DevicePtr::NULL;
        let params = RotaryParams {
            q: q.pointer(),
            k: k.pointer(),
            v: v.pointer(),
            query_weight: norms.as_ref().map_or(null, |norms| norms.query.pointer()),
            key_weight: norms.as_ref().map_or(null, |norms| norms.key.pointer()),
            turns,
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
            tokens: tokens as u32,
            heads: heads.heads as u32,
            kv_heads: heads.kv_heads as u32,
            query_norm_format: norm_formats[0].code(),
            key_norm_format: norm_formats[1].code(),
            format: rotated.code(),
            product_format: match stores {
                Stores::Products => rotated.code(),
                Stores::Angles => Element::F32.code(),
            },
            eps: norms.as_ref().map_or(0.0, |norms| norms.eps as f32),
            padding: 0,
        };
        let (rows, queries, keys) = (q.rows, heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
        let mut taps: Vec<TapPlace<RotaryParams>> = vec![
            TapPlace::whole(of_query, rows, queries, |p: &mut RotaryParams, at| p.tap_query = at),
            TapPlace::whole(of_key, rows, keys, |p: &mut RotaryParams, at| p.tap_key = at),
        ];
        if let Some(HeadNorms { sites: [query, key], .. }) = norms {
            taps.push(TapPlace::whole(query, rows, queries, |p: &mut RotaryParams, at| {
                p.tap_query_norm = at
            }));
            taps.push(TapPlace::whole(key, rows, keys, |p: &mut RotaryParams, at| p.tap_key_norm = at));
        }
        let all = heads.heads + 2 * heads.kv_heads;
        let multiprocessors = self.device.properties().multiprocessors as usize;
        let (variant, together) = Variant::rotary(heads.head_dim, q.rows * all, multiprocessors);
        let blocks = (q.rows * all.div_ceil(together)).div_ceil(variant.block as usize / 32);
        self.launch_grid(variant, [blocks, 1, 1], params, taps);
        Ok(out)
    }
}
