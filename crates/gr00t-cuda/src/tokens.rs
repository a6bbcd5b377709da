//! Kernels that bring values to where they are used: inputs, image patches, embeddings, the Euler step.

use super::builder::Builder;
use super::elements::Element;
use super::kernels::{Argument, Defines, Variant, eight_bits};
use super::program::{Scale, TapPlace, Tensor};
use super::weights::Table;
use crate::{Error, Result};
use steadyhand_cuda_driver::DevicePtr;
use steadyhand_cuda_driver::kernel_params;
use steadyhand_gr00t::ops::Site;
use steadyhand_gr00t::precision::ActivationScale;

kernel_params! {
    /// As `PatchesParams` in `tokens.cu`.
    pub struct PatchesParams {
        images: DevicePtr,
        out: DevicePtr,
        tap: DevicePtr,
        image_count: u32,
        rows: u32,
        item_rows: u32,
        size: u32,
        out_element: u32,
        out_ld: u32,
        format: u32,
        padding: u32,
    }
}

kernel_params! {
    /// As `EmbedParams` in `tokens.cu`.
    pub struct EmbedParams {
        ids: DevicePtr,
        table: DevicePtr,
        sources: DevicePtr,
        images: DevicePtr,
        out: DevicePtr,
        tap: DevicePtr,
        features: u32,
        table_element: u32,
        table_ld: u32,
        images_element: u32,
        images_ld: u32,
        out_element: u32,
        out_ld: u32,
        format: u32,
    }
}

kernel_params! {
    /// As `ConvertParams` in `tokens.cu`.
    pub struct ConvertParams {
        x: DevicePtr,
        out: DevicePtr,
        copy: DevicePtr,
        tap: DevicePtr,
        rows: u32,
        features: u32,
        x_element: u32,
        x_ld: u32,
        out_element: u32,
        out_ld: u32,
        copy_element: u32,
        copy_ld: u32,
        format: u32,
        padding: u32,
    }
}

kernel_params! {
    /// As `QuantizeParams` in `tokens.cu`.
    struct QuantizeParams {
        x: DevicePtr,
        out: DevicePtr,
        partials: DevicePtr,
        amaxes: DevicePtr,
        item_rows: u32,
        features: u32,
        x_element: u32,
        x_ld: u32,
        out_ld: u32,
        partials_ld: u32,
        amax: f32,
        padding: u32,
    }
}

/// Parts of an item whose largest magnitudes are found apart: `PARTS` in `tokens.cu`.
const LARGEST_PARTS: usize = 32;
/// Threads of a block: `THREADS` in `tokens.cu`.
const QUANTIZE_THREADS: usize = 256;

kernel_params! {
    /// As `EulerParams` in `tokens.cu`.
    pub struct EulerParams {
        velocity: DevicePtr,
        actions: DevicePtr,
        operand: DevicePtr,
        tap: DevicePtr,
        batch: u32,
        horizon: u32,
        tokens: u32,
        features: u32,
        velocity_element: u32,
        velocity_ld: u32,
        operand_element: u32,
        operand_ld: u32,
        format: u32,
        dt: f32,
    }
}

impl Argument for PatchesParams {
    fn fixed(&self) -> Defines {
        vec![eight_bits(&[self.out_element])]
    }
}

impl Argument for EmbedParams {
    fn fixed(&self) -> Defines {
        vec![eight_bits(&[self.out_element])]
    }
}

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

impl Argument for EulerParams {
    fn fixed(&self) -> Defines {
        vec![eight_bits(&[self.operand_element])]
    }
}

/// One image of every item, on the device.
#[derive(Debug, Clone, Copy)]
pub struct DeviceImage {
    /// `[batch, 3, height, width]`, f32.
    pub pixels: DevicePtr,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
}

/// Where a value from outside goes.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'t> {
    /// Where it goes.
    pub out: &'t Tensor,
    /// Where it also goes, in another element type.
    pub copy: Option<&'t Tensor>,
}

/// One Euler step.
#[derive(Debug, Clone)]
pub struct EulerStep<'t> {
    /// The decoder's output, `[batch * tokens, features]`: the last `horizon` tokens of each item count.
    pub velocity: &'t Tensor,
    /// The actions, `[batch * horizon, features]`, f32, changed in place.
    pub actions: &'t Tensor,
    /// The actions again, as the next step's operand.
    pub operand: Option<&'t Tensor>,
    /// Actions of an item.
    pub horizon: usize,
    /// Time step.
    pub dt: f64,
    /// The site.
    pub at: Site,
}

impl Builder<'_> {
    /// Images cut into rows of pixels, `[batch * patches of all images, size * size * 3]`, stored as `out`.
    ///
    /// # Errors
    /// Formats without a kernel, no memory.
    pub fn patches(&mut self, images: &[DeviceImage], size: usize, out: Element, at: Site) -> Result<Tensor> {
        let format = self.storage(&at)?;
        let count = |image: &DeviceImage| (image.height / size) * (image.width / size);
        let item_rows: usize = images.iter().map(count).sum();
        let features = size * size * 3;
        let out = self.tensor(self.batch * item_rows, features, out)?;
        let mut first_row = 0;
        let mut described = Vec::new();
        for image in images {
            // As `PatchImage` in `tokens.cu`.
            described.extend(image.pixels.0.to_le_bytes());
            for number in [image.height, image.width, first_row, 0] {
                described.extend((number as u32).to_le_bytes());
            }
            first_row += count(image);
        }
        let params = PatchesParams {
            images: self.constant_bytes(&described)?,
            out: out.pointer(),
            tap: DevicePtr::NULL,
            image_count: images.len() as u32,
            rows: out.rows as u32,
            item_rows: item_rows as u32,
            size: size as u32,
            out_element: out.element.code(),
            out_ld: out.ld as u32,
            format: format.code(),
            padding: 0,
        };
        let taps = vec![TapPlace::whole(at, out.rows, features, |p: &mut PatchesParams, at| p.tap = at)];
        self.launch_flat("patches", out.rows * features, params, taps);
        Ok(out)
    }

    /// Rows of `table` by token id; rows whose source is not `u32::MAX` come from `images` instead.
    ///
    /// # Errors
    /// Formats without a kernel, no memory.
    pub fn embed(
        &mut self,
        ids: DevicePtr,
        table: &Table,
        sources: &[u32],
        images: &Tensor,
        at: Site,
    ) -> Result<Tensor> {
        let format = self.storage(&at)?;
        let out = self.tensor(sources.len(), table.features, format.common(images.element))?;
        let params = EmbedParams {
            ids,
            table: table.region.pointer(),
            sources: self.constant_indices(sources.iter().copied())?,
            images: images.pointer(),
            out: out.pointer(),
            tap: DevicePtr::NULL,
            features: out.features as u32,
            table_element: table.element.code(),
            table_ld: table.features as u32,
            images_element: images.element.code(),
            images_ld: images.ld as u32,
            out_element: out.element.code(),
            out_ld: out.ld as u32,
            format: format.code(),
        };
        let taps = vec![TapPlace::whole(at, out.rows, out.features, |p: &mut EmbedParams, at| p.tap = at)];
        self.launch_grid(Variant::tokens("embed"), [out.rows, 1, 1], params, taps);
        Ok(out)
    }

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
        self.launch_flat("convert", out.rows * out.features, params, taps);
        Ok(())
    }

    /// `actions + dt * velocity`; the product is rounded before the sum.
    ///
    /// # Errors
    /// Formats without a kernel.
    pub fn euler(&mut self, step: EulerStep) -> Result<()> {
        let EulerStep { velocity, actions, operand, horizon, dt, at } = step;
        let params = EulerParams {
            velocity: velocity.pointer(),
            actions: actions.pointer(),
            operand: operand.map_or(DevicePtr::NULL, Tensor::pointer),
            tap: DevicePtr::NULL,
            batch: self.batch as u32,
            horizon: horizon as u32,
            tokens: (velocity.rows / self.batch) as u32,
            features: actions.features as u32,
            velocity_element: velocity.element.code(),
            velocity_ld: velocity.ld as u32,
            operand_element: operand.map_or(Element::F32, |operand| operand.element).code(),
            operand_ld: operand.map_or(0, |operand| operand.ld as u32),
            format: self.storage(&at)?.code(),
            dt: dt as f32,
        };
        let taps =
            vec![TapPlace::whole(at, actions.rows, actions.features, |p: &mut EulerParams, at| p.tap = at)];
        self.launch_flat("euler", actions.rows * actions.features, params, taps);
        Ok(())
    }

    fn launch_flat<P: Argument + Send + Sync + 'static>(
        &mut self,
        entry: &'static str,
        values: usize,
        params: P,
        taps: Vec<TapPlace<P>>,
    ) {
        let variant = Variant::tokens(entry);
        let blocks = values.div_ceil(variant.block as usize);
        self.launch_grid(variant, [blocks, 1, 1], params, taps);
    }
}
