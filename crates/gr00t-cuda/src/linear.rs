//! Linear layers, and what is fused into their GEMMs.

use super::builder::Builder;
use super::elements::{Element, Stored};
use super::gemm::{Epilogue, EpilogueTap};
use super::program::{Scale, Tap, TapPlace, Tensor};
use super::weights::Region;
use crate::Result;
use steadyhand_cuda_driver::DevicePtr;
use steadyhand_gr00t::ops::{Activation, Site};
use steadyhand_gr00t::precision::ActivationScale;

/// `y = x Wᵀ + b` with its weights on the device.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[out_features rounded up, in_features rounded up]`, zeros beyond.
    pub weight: Region,
    /// `[out_features]` in f32, rounded to the site's storage format.
    pub bias: Option<Region>,
    /// Element type of the weights, and of the operands.
    pub element: Element,
    /// Scales of operands of 8 bits.
    pub scales: Option<Scales>,
    /// Columns of the result; of gate and up together where they are one GEMM.
    pub out_features: usize,
    /// Columns of x.
    pub in_features: usize,
    /// Whether the product is stored before the bias is added, as category-specific layers do.
    pub stores_product: bool,
}

/// The scales of a GEMM's operands.
#[derive(Debug, Clone)]
pub struct Scales {
    /// `[out_features]`, f32: dequantization scales of the weights.
    pub weights: Region,
    /// The scale that x is brought to.
    pub activations: ActivationScale,
}

/// One of the layers of a [`Projection`].
#[derive(Debug, Clone)]
pub struct Part {
    /// Its site's path.
    pub path: String,
    /// Its GEMM.
    pub gemm: usize,
    /// Its first column in the GEMM's result.
    pub first: usize,
    /// Its columns.
    pub features: usize,
}

/// Several layers of the same input, in as few GEMMs as their formats allow.
#[derive(Debug, Clone)]
pub struct Projection {
    /// The GEMMs, and what their results are stored in.
    pub gemms: Vec<(Linear, Stored)>,
    /// The layers, in order.
    pub parts: Vec<Part>,
}

/// What is fused into a GEMM's epilogue, and the sites.
#[derive(Debug, Clone)]
pub enum Fusion<'t> {
    /// Nothing.
    Store,
    /// The non-linearity, and its site.
    Activate(Activation, Site),
    /// A residual is added at the site; a residual of fewer rows repeats.
    Add(&'t Tensor, Site),
    /// The GEMM of gate and up, whose columns come in turns of eight, is `activation(gate) * up`.
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

/// Dequantization scale of an e4m3 operand: amax / 448, or 1 if amax is 0.
fn dequantization_scale(amax: f32) -> f32 {
    if amax > 0.0 { amax / Element::E4m3.format().max() } else { 1.0 }
}

/// Every activation.
pub(super) const ACTIVATIONS: [Activation; 5] =
    [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Swish, Activation::Relu];

/// The kernel's code of an activation.
pub(super) fn code(activation: Activation) -> u32 {
    match activation {
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Silu => 3,
        Activation::Swish => 4,
        Activation::Relu => 5,
    }
}

impl Builder<'_> {
    /// `x Wᵀ + b` at the site, and what follows, stored as `out`.
    ///
    /// # Errors
    /// Shapes that do not fit, formats without a kernel, no memory.
    pub fn linear(
        &mut self,
        w: &Linear,
        x: &Tensor,
        out: impl Into<Stored>,
        at: Site,
        fusion: Fusion,
    ) -> Result<Tensor> {
        let features =
            if matches!(fusion, Fusion::Gate { .. }) { w.out_features / 2 } else { w.out_features };
        let out = self.tensor(x.rows, features, out)?;
        self.linear_into(w, x, &out, None, at, fusion)?;
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
        fusion: Fusion,
    ) -> Result<()> {
        let x = &self.as_operand_of(w, x)?;
        let mut epilogue = self.epilogue(w, x, out, map, &at)?;
        let (rows, features) = (x.rows, w.out_features);
        let linear = |features| tap(at.clone(), rows, features, |e, to| e.tap_linear = to);
        let mut taps = vec![linear(features)];
        match fusion {
            Fusion::Store => {}
            Fusion::Activate(kind, site) => {
                epilogue.activation = code(kind);
                epilogue.activation_format = self.storage(&site)?.code();
                taps.push(tap(site, rows, features, |e, to| e.tap_activation = to));
            }
            Fusion::Add(residual, site) => {
                epilogue.residual = residual.pointer();
                epilogue.residual_element = residual.element.code();
                (epilogue.residual_ld, epilogue.residual_rows) = (residual.ld as u32, residual.rows as u32);
                epilogue.result_format = self.storage(&site)?.code();
                taps.push(tap(site, rows, features, |e, to| e.tap_result = to));
            }
            Fusion::Gate { activation: (kind, activated), up, gated } => {
                epilogue.gated = 1;
                epilogue.activation = code(kind);
                epilogue.activation_format = self.storage(&activated)?.code();
                epilogue.up_format = self.storage(&up)?.code();
                epilogue.result_format = self.storage(&gated)?.code();
                taps = vec![
                    linear(features / 2),
                    tap(activated, rows, features / 2, |e, to| e.tap_activation = to),
                    tap(up, rows, features / 2, |e, to| e.tap_up = to),
                    tap(gated, rows, features / 2, |e, to| e.tap_result = to),
                ];
            }
        }
        self.gemm(w, x, epilogue, taps)
    }

    /// The layers of a projection, `step` being the Euler step they stand in.
    ///
    /// # Errors
    /// As [`Builder::linear`].
    pub fn project(&mut self, w: &Projection, x: &Tensor, step: Option<usize>) -> Result<Vec<Tensor>> {
        let site = |path: &str| step.map_or(Site::new(path), |step| Site::in_step(path, step));
        let mut results = Vec::with_capacity(w.gemms.len());
        for (index, (linear, element)) in w.gemms.iter().enumerate() {
            let x = &self.as_operand_of(linear, x)?;
            let parts: Vec<&Part> = w.parts.iter().filter(|part| part.gemm == index).collect();
            let out = self.tensor(x.rows, linear.out_features, *element)?;
            let epilogue = self.epilogue(linear, x, &out, None, &site(&parts[0].path))?;
            let of_part = |part: &&Part| Tap {
                site: site(&part.path),
                rows: 0..x.rows,
                columns: part.first..part.first + part.features,
            };
            let taps = parts.iter().map(of_part).collect();
            let (rows, features) = (x.rows, linear.out_features);
            let set = Box::new(|e: &mut Epilogue, to| e.tap_linear = to);
            self.gemm(linear, x, epilogue, vec![TapPlace { set, rows, features, taps }])?;
            results.push(out);
        }
        let view = |part: &Part| results[part.gemm].columns(part.first..part.first + part.features);
        Ok(w.parts.iter().map(view).collect())
    }

    /// `x` as the GEMM multiplies it: `x` itself, or a rounded copy.
    ///
    /// # Errors
    /// `x` in e4m3 with another scale, no memory.
    pub fn as_operand_of(&mut self, w: &Linear, x: &Tensor) -> Result<Tensor> {
        match &w.scales {
            None => self.as_operand(x, w.element),
            Some(scales) => self.as_scaled_operand(x, scales.activations),
        }
    }

    /// An epilogue that stores the GEMM's result with its bias.
    fn epilogue(
        &self,
        w: &Linear,
        x: &Tensor,
        out: &Tensor,
        map: Option<RowMap>,
        at: &Site,
    ) -> Result<Epilogue> {
        if x.features != w.in_features {
            let what = format!("[{}, {}] by [{}, {}]", x.rows, x.features, w.out_features, w.in_features);
            return Err(
                steadyhand_gr00t::Error::Shape { site: at.to_string(), operation: "linear", what }.into()
            );
        }
        let storage = self.storage(at)?.code();
        let map = map.unwrap_or(RowMap { item_rows: x.rows, item_stride: x.rows, item_offset: 0 });
        let null = DevicePtr::NULL;
        let (amaxes, rows_each, x_scale) = match &x.scale {
            Scale::One => (null, 1, 1.0),
            Scale::Known(amax) => (null, 1, dequantization_scale(*amax)),
            Scale::Measured(amaxes, rows_each) => (amaxes.at(0), *rows_each, 1.0),
        };
        Ok(Epilogue {
            bias: w.bias.as_ref().map_or(null, Region::pointer),
            residual: null,
            out: out.pointer(),
            tap_linear: null,
            tap_activation: null,
            tap_up: null,
            tap_result: null,
            weight_scales: w.scales.as_ref().map_or(null, |scales| scales.weights.pointer()),
            amaxes,
            rows_each: rows_each as u32,
            x_scale,
            out_factor: out.factor(),
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
        })
    }
}

/// A place for the tensor of one site, by its field in the epilogue.
fn tap(site: Site, rows: usize, features: usize, set: fn(&mut Epilogue, DevicePtr)) -> EpilogueTap {
    TapPlace::whole(site, rows, features, set)
}
