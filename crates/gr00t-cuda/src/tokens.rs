//! Image patches, embeddings and the Euler step.

use super::builder::Builder;
use super::elements::Element;
use super::kernels::{Argument, Defines, Variant, eight_bits};
use super::program::{TapPlace, Tensor};
use super::weights::Table;
use crate::Result;
use steadyhand_cuda_driver::{DevicePtr, bytes_of, kernel_params};
use steadyhand_gr00t::ops::{Grid, Patching, Site};

kernel_params! {
    /// One image of every item.
    pub(super) struct PatchImage {
        /// `[batch, frames, 3, height, width]`.
        pixels: DevicePtr as "const float*",
        height: u32,
        width: u32,
        frames: u32,
        /// Of its patches in its item.
        first_row: u32,
    }
}

kernel_params! {
    /// Argument of kernels in `patches.cu`.
    pub struct PatchesParams {
        images: DevicePtr as "const PatchImage*",
        /// `[batch * item_rows, out_ld]`.
        out: DevicePtr,
        tap: DevicePtr as "float*",
        image_count: u32,
        rows: u32,
        /// Patches of all images of one item.
        item_rows: u32,
        /// Of a patch.
        size: u32,
        /// That a patch spans.
        frames: u32,
        channels_first: u32,
        /// Patches of a side of the squares that they are walked in.
        square: u32,
        out_element: u32,
        out_ld: u32,
        format: u32,
    }
}

kernel_params! {
    /// Argument of kernels in `tokens.cu`.
    pub struct EmbedParams {
        /// `[rows]`.
        ids: DevicePtr as "const unsigned int*",
        /// `[vocabulary, table_ld]`.
        table: DevicePtr as "const void*",
        /// `[rows]`: the row of `images` that takes the token's place, or u32's maximum.
        sources: DevicePtr as "const unsigned int*",
        /// `[.., images_ld]`.
        images: DevicePtr as "const void*",
        /// `[rows, out_ld]`.
        out: DevicePtr,
        /// Before images take their places.
        tap: DevicePtr as "float*",
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
    /// Argument of kernels in `tokens.cu`.
    pub struct AddRowsParams {
        /// `[rows, x_ld]`.
        x: DevicePtr as "const void*",
        /// `[rows]`: the row of `values` that is added, or u32's maximum.
        sources: DevicePtr as "const unsigned int*",
        /// `[.., values_ld]`.
        values: DevicePtr as "const void*",
        /// `[rows, out_ld]`.
        out: DevicePtr,
        tap: DevicePtr as "float*",
        features: u32,
        x_element: u32,
        x_ld: u32,
        values_element: u32,
        values_ld: u32,
        out_element: u32,
        out_ld: u32,
        format: u32,
    }
}

kernel_params! {
    /// Argument of kernels in `tokens.cu`.
    pub struct EulerParams {
        /// `[batch * tokens, velocity_ld]`: the last `horizon` tokens of each item count.
        velocity: DevicePtr as "const void*",
        /// `[batch * horizon, features]`, in place.
        actions: DevicePtr as "float*",
        /// The same for the next step's product, `[.., operand_ld]`; null after the last.
        operand: DevicePtr,
        /// `[batch * horizon, features]`: by how much each value follows the velocity; null for wholly.
        strength: DevicePtr as "const float*",
        tap: DevicePtr as "float*",
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
        vec![
            eight_bits(&[self.out_element]),
            ("CHANNELS_FIRST", self.channels_first as usize),
            ("SQUARE", self.square as usize),
        ]
    }
}

impl Argument for AddRowsParams {
    fn fixed(&self) -> Defines {
        vec![eight_bits(&[self.out_element])]
    }
}

impl Argument for EmbedParams {
    fn fixed(&self) -> Defines {
        vec![eight_bits(&[self.out_element])]
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
    /// `[batch, frames, 3, height, width]`, f32.
    pub pixels: DevicePtr,
    /// Frames of an item.
    pub frames: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
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
    /// By how much each action follows the velocity, as `actions`; wholly where there is none.
    pub strength: Option<&'t Tensor>,
    /// Actions of an item.
    pub horizon: usize,
    /// Time step.
    pub dt: f64,
    /// The site.
    pub at: Site,
}

impl Builder<'_> {
    /// Images cut into rows of pixels, `[batch * patches of all images, values of a patch]`, stored as `out`.
    ///
    /// # Errors
    /// Grids that are not walked alike, formats without a kernel, no memory.
    pub fn patches(
        &mut self,
        images: &[DeviceImage],
        grids: &[Grid],
        patching: Patching,
        out: Element,
        at: Site,
    ) -> Result<Tensor> {
        let format = self.storage(&at)?;
        let square = grids.first().map_or(1, |grid| grid.block);
        if images.len() != grids.len() || grids.iter().any(|grid| grid.block != square) {
            let what = format!("{} images in {grids:?}", images.len());
            return Err(
                steadyhand_gr00t::Error::Shape { site: at.to_string(), operation: "patches", what }.into()
            );
        }
        let item_rows: usize = grids.iter().map(|grid| grid.patches()).sum();
        let features = patching.features();
        let out = self.tensor(self.batch * item_rows, features, out)?;
        let mut first_row = 0;
        let mut described = Vec::new();
        for (image, grid) in images.iter().zip(grids) {
            described.push(PatchImage {
                pixels: image.pixels,
                height: image.height as u32,
                width: image.width as u32,
                frames: image.frames as u32,
                first_row: first_row as u32,
            });
            first_row += grid.patches();
        }
        let params = PatchesParams {
            images: self.constant_bytes(bytes_of(&described))?,
            out: out.pointer(),
            tap: DevicePtr::NULL,
            image_count: images.len() as u32,
            rows: out.rows as u32,
            item_rows: item_rows as u32,
            size: patching.size as u32,
            frames: patching.frames as u32,
            channels_first: u32::from(patching.channels_first),
            square: square as u32,
            out_element: out.element.code(),
            out_ld: out.ld as u32,
            format: format.code(),
        };
        let taps = vec![TapPlace::whole(at, out.rows, features, |p: &mut PatchesParams, at| p.tap = at)];
        self.launch_flat(Variant::patches(), out.rows * features, params, taps);
        Ok(out)
    }

    /// Rows of `table` by token id; rows whose source is not `u32::MAX` come from `images` instead. `sources` has one for
    /// each row.
    ///
    /// # Errors
    /// Formats without a kernel, no memory.
    pub fn embed(
        &mut self,
        ids: DevicePtr,
        table: &Table,
        (sources, rows): (DevicePtr, usize),
        images: &Tensor,
        at: Site,
    ) -> Result<Tensor> {
        let format = self.storage(&at)?;
        let out = self.tensor(rows, table.features, format.common(images.element))?;
        let params = EmbedParams {
            ids,
            table: table.region.pointer(),
            sources,
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

    /// `x`, its rows that have a source with that row of `values` added; `u32::MAX` is none. `sources` has one for each row
    /// of `x`.
    ///
    /// # Errors
    /// Formats without a kernel, no memory.
    pub fn add_rows(&mut self, x: &Tensor, sources: DevicePtr, values: &Tensor, at: Site) -> Result<Tensor> {
        let format = self.storage(&at)?;
        let out = self.tensor(x.rows, x.features, format)?;
        let params = AddRowsParams {
            x: x.pointer(),
            sources,
            values: values.pointer(),
            out: out.pointer(),
            tap: DevicePtr::NULL,
            features: x.features as u32,
            x_element: x.element.code(),
            x_ld: x.ld as u32,
            values_element: values.element.code(),
            values_ld: values.ld as u32,
            out_element: out.element.code(),
            out_ld: out.ld as u32,
            format: format.code(),
        };
        let taps = vec![TapPlace::whole(at, x.rows, x.features, |p: &mut AddRowsParams, at| p.tap = at)];
        self.launch_grid(Variant::tokens("add_rows"), [x.rows, 1, 1], params, taps);
        Ok(out)
    }

    /// `actions + strength * dt * velocity`; products are rounded before the sum.
    ///
    /// # Errors
    /// Formats without a kernel.
    pub fn euler(&mut self, step: EulerStep) -> Result<()> {
        let EulerStep { velocity, actions, operand, strength, horizon, dt, at } = step;
        let params = EulerParams {
            velocity: velocity.pointer(),
            actions: actions.pointer(),
            operand: operand.map_or(DevicePtr::NULL, Tensor::pointer),
            strength: strength.map_or(DevicePtr::NULL, Tensor::pointer),
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
        self.launch_flat(Variant::tokens("euler"), actions.rows * actions.features, params, taps);
        Ok(())
    }

    pub(super) fn launch_flat<P: Argument + Send + Sync + 'static>(
        &mut self,
        variant: Variant,
        values: usize,
        params: P,
        taps: Vec<TapPlace<P>>,
    ) {
        let blocks = values.div_ceil(variant.block as usize);
        self.launch_grid(variant, [blocks, 1, 1], params, taps);
    }
}
