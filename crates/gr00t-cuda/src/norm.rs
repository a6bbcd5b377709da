//! LayerNorm and RMSNorm of rows, with what is fused into them.

use super::builder::Builder;
use super::elements::{Element, Stored};
use super::kernels::{Argument, Defines, Variant, eight_bits};
use super::program::{TapPlace, Tensor};
use super::weights::Region;
use crate::Result;
use steadyhand_cuda_driver::{DevicePtr, kernel_params};
use steadyhand_gr00t::ops::Site;

/// Scale and shift of a norm on the device, in f32, rounded to the site's storage format.
#[derive(Debug, Clone)]
pub struct Affine {
    /// `[features]`.
    pub weight: Region,
    /// `[features]`; none for RMSNorm.
    pub bias: Option<Region>,
}

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Norm {
    /// Nothing: rows are only moved.
    None = 0,
    /// LayerNorm.
    Layer = 1,
    /// RMSNorm.
    Rms = 2,
}

/// Where the rows come from and go to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rows {
    /// `[rows, 4]`: the patches that a row joins; null for a row of x.
    pub joined: Option<DevicePtr>,
    /// Rows of x that a row consists of, one behind the other; one where it is 0.
    pub parts: usize,
    /// Rows of the result that come to stand side by side in one; one where it is 0.
    pub group: usize,
    /// `[rows]`: where a row goes; null for the same row.
    pub out: Option<DevicePtr>,
}

/// A norm and its place.
#[derive(Debug, Clone)]
pub struct NormAt<'w> {
    /// What is computed.
    pub norm: Norm,
    /// Scale and shift, where they are learned.
    pub affine: Option<&'w Affine>,
    /// Added to the variance.
    pub eps: f64,
    /// The site.
    pub site: Site,
}

/// Scale and shift of AdaLN, `[features]` each, f32.
#[derive(Debug, Clone)]
pub struct Modulation {
    /// Scale, to which 1 is added.
    pub scale: DevicePtr,
    /// Shift.
    pub shift: DevicePtr,
    /// The site of the modulated result.
    pub site: Site,
}

kernel_params! {
    /// Kernels are compiled for what `fixed` reads of it.
    #[derive(Default)]
    pub struct NormParams {
        /// `[rows, x_ld]`, or patches [.., x_ld].
        x: DevicePtr as "const void*",
        /// `[features]`, null for ones.
        weight: DevicePtr as "const float*",
        /// `[features]`, null for zeros.
        bias: DevicePtr as "const float*",
        /// `[features]` of the modulation, null for none.
        scale: DevicePtr as "const float*",
        shift: DevicePtr as "const float*",
        /// `[rows, 4]`: the patches that make up a row, null for none.
        patches: DevicePtr as "const unsigned int*",
        /// `[rows]`: where a row goes, null for the same row.
        out_rows: DevicePtr as "const unsigned int*",
        /// `[.., out_ld]`.
        out: DevicePtr,
        tap_norm: DevicePtr as "float*",
        tap_modulated: DevicePtr as "float*",
        features: u32,
        x_element: u32,
        x_ld: u32,
        out_element: u32,
        out_ld: u32,
        norm: u32,
        norm_format: u32,
        modulated_format: u32,
        eps: f32,
        /// Brings the result into the range of an 8-bit element type.
        out_factor: f32,
        /// Rows of x in a row, at least 1.
        parts: u32,
        /// Rows side by side in a row of `out`, at least 1.
        group: u32,
        rows: u32,
        /// Fills the struct up.
        padding: u32,
    }
}

impl Argument for NormParams {
    fn fixed(&self) -> Defines {
        let given = |pointer: DevicePtr| usize::from(pointer != DevicePtr::NULL);
        vec![
            eight_bits(&[self.out_element]),
            ("KIND", self.norm as usize),
            ("WEIGHTED", given(self.weight)),
            ("BIASED", given(self.bias)),
            ("MODULATES", given(self.scale)),
            ("JOINS", given(self.patches)),
            ("PARTS", self.parts.max(1) as usize),
            ("GROUP", self.group.max(1) as usize),
            ("MOVES", given(self.out_rows)),
            ("WHOLE", usize::from(self.features.is_multiple_of(8))),
            ("X_ELEMENT", self.x_element as usize),
            ("OUT_ELEMENT", self.out_element as usize),
            ("NORM_FORMAT", self.norm_format as usize),
            (
                "MODULATED_FORMAT",
                if self.scale == DevicePtr::NULL { 0 } else { self.modulated_format as usize },
            ),
        ]
    }
}

/// Norms of every kind that a model has before GEMMs of `operand`, as [`gemm::kinds`](super::gemm::kinds).
pub fn kinds(operand: Element) -> Vec<Defines> {
    let narrow = if operand == Element::E4m3 { Element::Bf16 } else { operand };
    let mut kinds = Vec::new();
    for format in [narrow, Element::F32] {
        let (given, code) = (DevicePtr(1), format.code());
        let plain = NormParams {
            norm: Norm::Layer as u32,
            x_element: code,
            out_element: operand.code(),
            norm_format: code,
            modulated_format: code,
            ..NormParams::default()
        };
        let affine = NormParams { weight: given, bias: given, ..plain };
        kinds.extend(
            [
                plain,
                NormParams { scale: given, shift: given, ..plain },
                affine,
                NormParams { patches: given, ..affine },
                NormParams { parts: 4, ..affine },
                NormParams { group: 4, ..affine },
                NormParams { out_rows: given, ..affine },
                NormParams { norm: Norm::None as u32, out_rows: given, ..plain },
                NormParams { norm: Norm::Rms as u32, weight: given, ..plain },
            ]
            .map(|params| params.fixed()),
        );
    }
    kinds
}

/// Features that a block keeps in its registers.
const MAX_FEATURES: usize = 4 * 2048;

impl Builder<'_> {
    /// LayerNorm or RMSNorm of every row of `x`, stored as `out`.
    ///
    /// # Errors
    /// More features than the kernel holds, formats without a kernel, no memory.
    pub fn norm(&mut self, x: &Tensor, norm: NormAt, out: impl Into<Stored>) -> Result<Tensor> {
        let out = self.tensor(x.rows, x.features, out)?;
        self.norm_into(x, norm, None, Rows::default(), &out)?;
        Ok(out)
    }

    /// LayerNorm, then `x (1 + scale) + shift`.
    ///
    /// # Errors
    /// As [`Builder::norm`].
    pub fn norm_modulate(
        &mut self,
        x: &Tensor,
        norm: NormAt,
        modulation: &Modulation,
        out: impl Into<Stored>,
    ) -> Result<Tensor> {
        let out = self.tensor(x.rows, x.features, out)?;
        self.norm_into(x, norm, Some(modulation), Rows::default(), &out)?;
        Ok(out)
    }

    /// A norm into a tensor that exists, whose features say how many a row has, or a group of rows.
    ///
    /// # Errors
    /// As [`Builder::norm`].
    pub fn norm_into(
        &mut self,
        x: &Tensor,
        norm: NormAt,
        modulation: Option<&Modulation>,
        rows: Rows,
        out: &Tensor,
    ) -> Result<()> {
        let NormAt { norm, affine, eps, site } = norm;
        let [parts, group] = [rows.parts, rows.group].map(|count| count.max(1));
        let features = out.features / group;
        let width = features / parts;
        if features > MAX_FEATURES || (parts * group > 1 && !width.is_multiple_of(8)) {
            let what = format!(
                "expected at most {MAX_FEATURES} features, a multiple of 8 in rows that are joined, found {features} in \
                 {parts} parts"
            );
            return Err(
                steadyhand_gr00t::Error::Shape { site: site.to_string(), operation: "norm", what }.into()
            );
        }
        let null = DevicePtr::NULL;
        let storage = match norm {
            Norm::None => self.storage(&site)?,
            Norm::Layer | Norm::Rms => self.norm_storage(&site)?,
        };
        let modulated = modulation.map(|m| self.storage(&m.site)).transpose()?;
        let params = NormParams {
            x: x.pointer(),
            weight: affine.map_or(null, |affine| affine.weight.pointer()),
            bias: affine.and_then(|affine| affine.bias.as_ref()).map_or(null, Region::pointer),
            scale: modulation.map_or(null, |m| m.scale),
            shift: modulation.map_or(null, |m| m.shift),
            patches: rows.joined.unwrap_or(null),
            out_rows: rows.out.unwrap_or(null),
            out: out.pointer(),
            tap_norm: null,
            tap_modulated: null,
            features: features as u32,
            x_element: x.element.code(),
            x_ld: x.ld as u32,
            out_element: out.element.code(),
            out_ld: out.ld as u32,
            norm: norm as u32,
            norm_format: storage.code(),
            modulated_format: modulated.unwrap_or(storage).code(),
            eps: eps as f32,
            out_factor: out.factor(),
            parts: parts as u32,
            group: group as u32,
            rows: (out.rows * group) as u32,
            padding: 0,
        };
        let mut taps: Vec<TapPlace<NormParams>> = Vec::new();
        let rows = out.rows * group;
        if norm != Norm::None {
            taps.push(TapPlace::whole(site, rows, features, |p: &mut NormParams, at| p.tap_norm = at));
        }
        if let Some(modulation) = modulation {
            let site = modulation.site.clone();
            taps.push(TapPlace::whole(site, rows, features, |p: &mut NormParams, at| p.tap_modulated = at));
        }
        let multiprocessors = self.device.properties().multiprocessors as usize;
        let (variant, rows_of_a_block) = Variant::norm(features, rows, multiprocessors);
        self.launch_grid(variant, [rows.div_ceil(rows_of_a_block), 1, 1], params, taps);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_compiled_for_what_its_norm_does() {
        let given = DevicePtr(1);
        let plain = NormParams { norm: Norm::Layer as u32, ..NormParams::default() };
        let modulates = NormParams { scale: given, shift: given, ..plain };
        for (from, to, expected) in [
            (plain, NormParams { norm: Norm::Rms as u32, ..plain }, &[("KIND", 2)][..]),
            (plain, NormParams { weight: given, ..plain }, &[("WEIGHTED", 1)]),
            (plain, NormParams { bias: given, ..plain }, &[("BIASED", 1)]),
            (plain, modulates, &[("MODULATES", 1)]),
            (plain, NormParams { patches: given, ..plain }, &[("JOINS", 1)]),
            (plain, NormParams { parts: 4, ..plain }, &[("PARTS", 4)]),
            (plain, NormParams { group: 4, ..plain }, &[("GROUP", 4)]),
            (plain, NormParams { out_rows: given, ..plain }, &[("MOVES", 1)]),
            (plain, NormParams { features: 12, ..plain }, &[("WHOLE", 0)]),
            (plain, NormParams { x_element: 1, ..plain }, &[("X_ELEMENT", 1)]),
            (plain, NormParams { out_element: 3, ..plain }, &[("EIGHT_BITS", 1), ("OUT_ELEMENT", 3)]),
            (plain, NormParams { norm_format: 2, ..plain }, &[("NORM_FORMAT", 2)]),
            (modulates, NormParams { modulated_format: 2, ..modulates }, &[("MODULATED_FORMAT", 2)]),
            (plain, NormParams { modulated_format: 2, ..plain }, &[]),
        ] {
            let before = from.fixed();
            let changed: Vec<_> = to.fixed().into_iter().filter(|define| !before.contains(define)).collect();
            assert_eq!(changed, expected, "{to:?}");
        }
    }
}
