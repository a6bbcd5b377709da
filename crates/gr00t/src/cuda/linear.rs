//! Products with weights, and what is fused into them.

use super::driver::{DevicePtr, Kernel, Launch, Properties};
use super::elements::Element;
use super::kernels::Variant;
use super::program::{ALIGN, Builder, Tap, TapPlace, Tensor};
use super::weights::Region;
use crate::ops::{Activation, Site};
use crate::{Error, Result, kernel_params};

/// `y = x Wᵀ + b` with its weights on the device.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[out_features rounded up, in_features rounded up]`, zeros beyond.
    pub weight: Region,
    /// `[out_features]` in f32, rounded to the site's storage format.
    pub bias: Option<Region>,
    /// Element type of the weights, and of the operands.
    pub element: Element,
    /// Columns of the result; of gate and up together where they are one product.
    pub out_features: usize,
    /// Columns of x.
    pub in_features: usize,
    /// Whether the product is stored before the bias is added, as category-specific layers do.
    pub stores_product: bool,
}

/// One of the layers of a [`Projection`].
#[derive(Debug, Clone)]
pub struct Part {
    /// Its site's path.
    pub path: String,
    /// Its product.
    pub product: usize,
    /// Its first column in the product.
    pub first: usize,
    /// Its columns.
    pub features: usize,
}

/// Several layers of the same input, in as few products as their formats allow.
#[derive(Debug, Clone)]
pub struct Projection {
    /// The products, and what their results are stored in.
    pub products: Vec<(Linear, Element)>,
    /// The layers, in order.
    pub parts: Vec<Part>,
}

/// What follows a product, and the sites.
#[derive(Debug, Clone)]
pub enum Then<'t> {
    /// Nothing.
    Store,
    /// The non-linearity, and its site.
    Activate(Activation, Site),
    /// A residual is added at the site; a residual of fewer rows repeats.
    Add(&'t Tensor, Site),
    /// The product of gate and up, whose columns come in turns of eight, is `activation(gate) * up`.
    Gate {
        /// The gate's non-linearity.
        activation: (Activation, Site),
        /// Up's site.
        up: Site,
        /// The product's site.
        gated: Site,
    },
}

/// Where rows of a result go: row `r` to `(r / item_rows) * item_stride + item_offset + r % item_rows`.
#[derive(Debug, Clone, Copy)]
pub struct RowMap {
    /// Rows of one item of the batch.
    pub item_rows: usize,
    /// Rows from item to item.
    pub item_stride: usize,
    /// Rows before an item's first.
    pub item_offset: usize,
}

kernel_params! {
    /// As `LinearParams` in `linear.cu` and `linear_f32.cu`, from `bias` on `Epilogue` in `epilogue.cuh`.
    pub struct LinearParams {
        x: DevicePtr,
        w: DevicePtr,
        rows: u32,
        n: u32,
        inner: u32,
        ldx: u32,
        bias: DevicePtr,
        residual: DevicePtr,
        out: DevicePtr,
        tap_linear: DevicePtr,
        tap_activation: DevicePtr,
        tap_up: DevicePtr,
        tap_result: DevicePtr,
        residual_element: u32,
        residual_ld: u32,
        residual_rows: u32,
        out_element: u32,
        out_ld: u32,
        item_rows: u32,
        item_stride: u32,
        item_offset: u32,
        activation: u32,
        gated: u32,
        product_format: u32,
        linear_format: u32,
        activation_format: u32,
        up_format: u32,
        result_format: u32,
        padding: u32,
    }
}

/// The kernel's code of an activation.
fn code(activation: Activation) -> u32 {
    match activation {
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Silu => 3,
        Activation::Swish => 4,
        Activation::Relu => 5,
    }
}

/// The tile of a product, how many blocks share its inner dimension, and how far a block fetches ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Rows of a tile.
    pub rows: usize,
    /// Columns of a tile.
    pub columns: usize,
    /// Blocks of a cluster, which share a tile's inner dimension.
    pub split: usize,
    /// Stages of 64 elements of the inner dimension in shared memory.
    pub stages: usize,
}

/// Elements of the inner dimension in a stage.
const DEPTH: usize = 64;
/// What a block's start and end cost, in rows of [`DEPTH`] elements fetched.
const START: usize = 512;

impl Tiling {
    /// Every tile that kernels are compiled for, not split.
    pub fn all() -> Vec<Tiling> {
        let tile = |rows, columns| Tiling { rows, columns, split: 1, stages: 4 };
        vec![tile(64, 128), tile(64, 64), tile(128, 128), tile(128, 64)]
    }

    /// Bytes of one stage: rows of x and of the weights.
    pub fn stage_bytes(&self) -> usize {
        (self.rows + self.columns) * DEPTH * 2
    }

    /// The tiling of least cost for a product `[rows, inner] x [inner, n]` on this device. Cost: waves of blocks,
    /// each as long as what it fetches and its start and end.
    pub fn choose(rows: usize, n: usize, inner: usize, device: &Properties) -> Tiling {
        let processors = device.multiprocessors as usize;
        let splits: &[usize] = if device.compute_capability.0 >= 9 { &[1, 2, 4, 8] } else { &[1] };
        let wide = if rows <= 64 { 64 } else { 128 };
        let tilings = Tiling::all().into_iter().filter(|tiling| tiling.rows == wide);
        let fits = |tiling: &Tiling| tiling.stages * tiling.stage_bytes() <= device.shared_memory_per_block;
        let tilings = tilings
            .filter(fits)
            .flat_map(|tiling| splits.iter().map(move |&split| Tiling { split, ..tiling }))
            .filter(|tiling| inner / DEPTH >= tiling.split);
        let cost = |tiling: &Tiling| {
            let blocks = rows.div_ceil(tiling.rows) * n.div_ceil(tiling.columns) * tiling.split;
            let depth = (inner / DEPTH).div_ceil(tiling.split);
            let work = depth * (tiling.rows + tiling.columns) + START * (1 + usize::from(tiling.split > 1));
            blocks.div_ceil(processors) * work
        };
        tilings.min_by_key(cost).unwrap_or(Tiling { rows: 64, columns: 64, split: 1, stages: 4 })
    }
}

impl Builder<'_> {
    /// `x Wᵀ + b` at the site, and what follows, stored as `out`.
    ///
    /// # Errors
    /// Shapes that do not fit, formats without a kernel, no memory.
    pub fn linear(&mut self, w: &Linear, x: &Tensor, out: Element, at: Site, then: Then) -> Result<Tensor> {
        let features = if matches!(then, Then::Gate { .. }) { w.out_features / 2 } else { w.out_features };
        let out = self.tensor(x.rows, features, out)?;
        self.linear_into(w, x, &out, None, at, then)?;
        Ok(out)
    }

    /// [`Builder::linear`] into a tensor that exists, rows placed by `map`.
    ///
    /// # Errors
    /// As [`Builder::linear`].
    pub fn linear_into(
        &mut self,
        w: &Linear,
        x: &Tensor,
        out: &Tensor,
        map: Option<RowMap>,
        at: Site,
        then: Then,
    ) -> Result<()> {
        let (kernel, launch, mut params) = self.product(w, x, out, map, &at)?;
        let mut taps = vec![place(x.rows, &at, w.out_features, |p, at| p.tap_linear = at)];
        match then {
            Then::Store => {}
            Then::Activate(kind, site) => {
                params.activation = code(kind);
                params.activation_format = self.elements(&site)?.storage.code();
                taps.push(place(x.rows, &site, w.out_features, |p, at| p.tap_activation = at));
            }
            Then::Add(residual, site) => {
                params.residual = residual.pointer();
                params.residual_element = residual.element.code();
                (params.residual_ld, params.residual_rows) = (residual.ld as u32, residual.rows as u32);
                params.result_format = self.elements(&site)?.storage.code();
                taps.push(place(x.rows, &site, w.out_features, |p, at| p.tap_result = at));
            }
            Then::Gate { activation: (kind, activated), up, gated } => {
                let features = w.out_features / 2;
                params.gated = 1;
                params.activation = code(kind);
                params.activation_format = self.elements(&activated)?.storage.code();
                params.up_format = self.elements(&up)?.storage.code();
                params.result_format = self.elements(&gated)?.storage.code();
                taps = vec![
                    place(x.rows, &at, features, |p, at| p.tap_linear = at),
                    place(x.rows, &activated, features, |p, at| p.tap_activation = at),
                    place(x.rows, &up, features, |p, at| p.tap_up = at),
                    place(x.rows, &gated, features, |p, at| p.tap_result = at),
                ];
            }
        }
        self.launch(kernel, launch, params, taps);
        Ok(())
    }

    /// The layers of a projection, `step` being the Euler step they stand in.
    ///
    /// # Errors
    /// As [`Builder::linear`].
    pub fn project(&mut self, w: &Projection, x: &Tensor, step: Option<usize>) -> Result<Vec<Tensor>> {
        let site = |path: &str| step.map_or(Site::new(path), |step| Site::in_step(path, step));
        let mut results = Vec::with_capacity(w.products.len());
        for (index, (linear, element)) in w.products.iter().enumerate() {
            let out = self.tensor(x.rows, linear.out_features, *element)?;
            let parts = || w.parts.iter().filter(|part| part.product == index);
            let Some(first) = parts().next() else { continue };
            let at = site(&first.path);
            let (kernel, launch, params) = self.product(linear, x, &out, None, &at)?;
            let mut taps = place(x.rows, &at, linear.out_features, |p, at| p.tap_linear = at);
            let tap = |part: &Part| Tap {
                site: site(&part.path),
                rows: 0..x.rows,
                columns: part.first..part.first + part.features,
            };
            taps.taps = parts().map(tap).collect();
            self.launch(kernel, launch, params, vec![taps]);
            results.push(out);
        }
        let view = |part: &Part| results[part.product].columns(part.first..part.first + part.features);
        Ok(w.parts.iter().map(view).collect())
    }

    /// The kernel of a product that is stored with its bias.
    fn product(
        &mut self,
        w: &Linear,
        x: &Tensor,
        out: &Tensor,
        map: Option<RowMap>,
        at: &Site,
    ) -> Result<(Kernel, Launch, LinearParams)> {
        if x.features != w.in_features {
            let what = format!("[{}, {}] by [{}, {}]", x.rows, x.features, w.out_features, w.in_features);
            return Err(Error::Shape { site: at.to_string(), operation: "linear", what });
        }
        let x = self.as_operand(x, w.element)?;
        let inner = w.in_features.next_multiple_of(ALIGN);
        let mut tiling = Tiling::choose(x.rows, w.out_features, inner, self.kernels.device().properties());
        if w.element == Element::F32 {
            (tiling.rows, tiling.columns) = (64, 64);
        }
        let (kernel, block, shared_bytes) = self.kernels.get(&Variant::linear(w.element, tiling))?;
        let grid = [w.out_features.div_ceil(tiling.columns), x.rows.div_ceil(tiling.rows), tiling.split];
        let (grid, cluster) = (grid.map(|size| size as u32), tiling.split as u32);
        let launch = Launch { grid, block, shared_bytes, cluster, programmatic: false };
        let storage = self.elements(at)?.storage.code();
        let map = map.unwrap_or(RowMap { item_rows: x.rows, item_stride: x.rows, item_offset: 0 });
        let null = DevicePtr::NULL;
        let params = LinearParams {
            x: x.pointer(),
            w: w.weight.pointer(),
            rows: x.rows as u32,
            n: w.out_features as u32,
            inner: inner as u32,
            ldx: x.ld as u32,
            bias: w.bias.as_ref().map_or(null, Region::pointer),
            residual: null,
            out: out.pointer(),
            tap_linear: null,
            tap_activation: null,
            tap_up: null,
            tap_result: null,
            residual_element: 0,
            residual_ld: 0,
            residual_rows: 1,
            out_element: out.element.code(),
            out_ld: out.ld as u32,
            item_rows: map.item_rows as u32,
            item_stride: map.item_stride as u32,
            item_offset: map.item_offset as u32,
            activation: 0,
            gated: 0,
            product_format: if w.stores_product { storage } else { Element::F32.code() },
            linear_format: storage,
            activation_format: storage,
            up_format: storage,
            result_format: storage,
            padding: 0,
        };
        Ok((kernel, launch, params))
    }
}

/// A place for the tensor of one site, by its field in the epilogue.
fn place(
    rows: usize,
    site: &Site,
    features: usize,
    set: fn(&mut LinearParams, DevicePtr),
) -> TapPlace<LinearParams> {
    let taps = vec![Tap { site: site.clone(), rows: 0..rows, columns: 0..features }];
    TapPlace { set, rows, features, taps }
}
