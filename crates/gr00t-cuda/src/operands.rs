//! Inputs and operands: values rounded to an element type, or quantized to e4m3.

use super::builder::Builder;
use super::elements::Element;
use super::kernels::{Argument, Defines, Variant, eight_bits};
use super::program::{Scale, TapPlace, Tensor};
use crate::{Error, Result};
use steadyhand_cuda_driver::{DevicePtr, kernel_params};
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::precision::ActivationScale;

kernel_params! {
    /// Argument of kernels in `tokens.cu`.
    pub struct ConvertParams {
        /// `[rows, x_ld]`.
        x: DevicePtr as "const void*",
        /// `[rows, out_ld]`.
        out: DevicePtr,
        /// The same in another element type, null for none.
        copy: DevicePtr,
        tap: DevicePtr as "float*",
        rows: u32,
        features: u32,
        x_element: u32,
        x_ld: u32,
        out_element: u32,
        out_ld: u32,
        copy_element: u32,
        copy_ld: u32,
        format: u32,
        /// Fills the struct up.
        padding: u32,
    }
}

kernel_params! {
    /// Argument of kernels in `tokens.cu`.
    pub(super) struct QuantizeParams {
        /// `[items * item_rows, x_ld]`.
        x: DevicePtr as "const void*",
        /// `[items * item_rows, out_ld]`, e4m3.
        out: DevicePtr,
        /// `[items, partials_ld]`: the largest magnitudes of the parts of an item; null where `amax` is known.
        partials: DevicePtr as "float*",
        /// `[items]`.
        amaxes: DevicePtr as "float*",
        item_rows: u32,
        features: u32,
        x_element: u32,
        x_ld: u32,
        out_ld: u32,
        partials_ld: u32,
        amax: f32,
        /// Fills the struct up.
        padding: u32,
    }
}

/// Parts of an item whose largest magnitudes are found apart: `PARTS` in `tokens.cu`.
const LARGEST_PARTS: usize = 32;
/// Threads of a block: `THREADS` in `tokens.cu`.
const QUANTIZE_THREADS: usize = 256;

impl Argument for ConvertParams {
    fn fixed(&self) -> Defines {
        vec![eight_bits(&[self.out_element, self.copy_element])]
    }
}

/// What quantizes stores elements of 8 bits and nothing else.
impl Argument for QuantizeParams {
    fn fixed(&self) -> Defines {
        vec![eight_bits(&[Element::E4m3.code()])]
    }
}

/// Where a value from outside goes.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'t> {
    /// Where it goes.
    pub out: &'t Tensor,
    /// Where it also goes, in another element type.
    pub copy: Option<&'t Tensor>,
}

impl Builder<'_> {
    /// Rounds f32 values from outside, `[rows, features]` without padding, to the site's storage format.
    ///
    /// # Errors
    /// Formats without a kernel.
    pub fn input(&mut self, values: DevicePtr, to: Placed, at: Site) -> Result<()> {
        let format = self.storage(&at)?;
        let taps =
            vec![TapPlace::whole(at, to.out.rows, to.out.features, |p: &mut ConvertParams, at| p.tap = at)];
        self.convert(values, Element::F32, to.out.features, to, format, taps)
    }

    /// `x` in an element type: `x` itself, or a rounded copy.
    ///
    /// # Errors
    /// No memory is left.
    pub fn as_operand(&mut self, x: &Tensor, element: Element) -> Result<Tensor> {
        if x.element == element {
            return Ok(x.clone());
        }
        let out = self.tensor(x.rows, x.features, element)?;
        self.convert(x.pointer(), x.element, x.ld, Placed { out: &out, copy: None }, element, Vec::new())?;
        Ok(out)
    }

    /// `x` in e4m3, scaled as a linear layer asks for: `x` itself, or a quantized copy.
    ///
    /// # Errors
    /// `x` in e4m3 with another scale, no memory.
    pub fn as_scaled_operand(&mut self, x: &Tensor, activations: ActivationScale) -> Result<Tensor> {
        if x.element == Element::E4m3 {
            return match (&x.scale, activations) {
                (Scale::Known(found), ActivationScale::Calibrated(expected)) if *found == expected => {
                    Ok(x.clone())
                }
                (Scale::Measured(..), ActivationScale::Dynamic) => Ok(x.clone()),
                (found, _) => Err(Error::engine(
                    "quantize",
                    format!("expected the scale {activations:?}, found {found:?}"),
                )),
            };
        }
        let rows_each = self.rows_each(x.rows);
        let items = x.rows / rows_each;
        let out = self.tensor(x.rows, x.features, Element::E4m3)?;
        let mut params = QuantizeParams {
            x: x.pointer(),
            out: out.pointer(),
            partials: DevicePtr::NULL,
            amaxes: DevicePtr::NULL,
            item_rows: rows_each as u32,
            features: x.features as u32,
            x_element: x.element.code(),
            x_ld: x.ld as u32,
            out_ld: out.ld as u32,
            partials_ld: 0,
            amax: 0.0,
            padding: 0,
        };
        let scale = match activations {
            ActivationScale::Calibrated(amax) => {
                params.amax = amax;
                Scale::Known(amax)
            }
            ActivationScale::Dynamic => {
                let partials = self.tensor(items, LARGEST_PARTS, Element::F32)?;
                let amaxes = self.tensor(1, items, Element::F32)?;
                (params.partials, params.amaxes) = (partials.pointer(), amaxes.pointer());
                params.partials_ld = partials.ld as u32;
                let largest = Variant::tokens("largest");
                self.launch_grid(largest, [LARGEST_PARTS, items, 1], params, Vec::new());
                Scale::Measured(amaxes.memory, rows_each)
            }
        };
        let eights = rows_each * x.features.div_ceil(8);
        let grid = [eights.div_ceil(QUANTIZE_THREADS), items, 1];
        self.launch_grid(Variant::tokens("quantize"), grid, params, Vec::new());
        Ok(Tensor { scale, ..out })
    }

    /// Rounds values to a format and stores them.
    fn convert(
        &mut self,
        x: DevicePtr,
        x_element: Element,
        x_ld: usize,
        Placed { out, copy }: Placed,
        format: Element,
        taps: Vec<TapPlace<ConvertParams>>,
    ) -> Result<()> {
        let params = ConvertParams {
            x,
            out: out.pointer(),
            copy: copy.map_or(DevicePtr::NULL, Tensor::pointer),
            tap: DevicePtr::NULL,
            rows: out.rows as u32,
            features: out.features as u32,
            x_element: x_element.code(),
            x_ld: x_ld as u32,
            out_element: out.element.code(),
            out_ld: out.ld as u32,
            copy_element: copy.map_or(Element::F32, |copy| copy.element).code(),
            copy_ld: copy.map_or(0, |copy| copy.ld as u32),
            format: format.code(),
            padding: 0,
        };
        self.launch_flat(Variant::tokens("convert"), out.rows * out.features, params, taps);
        Ok(())
    }
}
