//! GEMMs with weights: which kernel computes one, in which tiles.

use super::builder::{Builder, row_stride};
use super::elements::Element;
use super::kernels::{Argument, Defines, Variant, eight_bits};
use super::linear::{ACTIVATIONS, Linear, code};
use super::program::{TapPlace, Tensor};
use super::tiling::{Multiplier, Tiling};
use crate::{Error, Result};
use steadyhand_cuda_driver::kernel_params;
use steadyhand_cuda_driver::{Boxes, DevicePtr, TensorMap};
use steadyhand_gr00t::ops::Activation;

kernel_params! {
    /// Kernels are compiled for what `fixed` reads of it.
    #[derive(Default)]
    pub struct Epilogue {
        /// `[n]`, f32.
        pub bias: DevicePtr as "const float*",
        /// `[residual_rows, residual_ld]`.
        pub residual: DevicePtr as "const void*",
        /// `[.., out_ld]`.
        pub out: DevicePtr,
        /// Where a probe wants the product with its bias.
        pub tap_linear: DevicePtr as "float*",
        /// Where a probe wants the activated product.
        pub tap_activation: DevicePtr as "float*",
        /// Where a probe wants what a gate multiplies.
        pub tap_up: DevicePtr as "float*",
        /// Where a probe wants the sum with the residual, or the gated product.
        pub tap_result: DevicePtr as "float*",
        /// `[n]`, f32: dequantization scales of the weights; null where operands have more than 8 bits.
        pub weight_scales: DevicePtr as "const float*",
        /// Largest magnitudes of x, f32, one for `rows_each` rows; null where `x_scale` is known.
        pub amaxes: DevicePtr as "const float*",
        /// Rows of x that share a scale.
        pub rows_each: u32,
        /// Dequantization scale of x.
        pub x_scale: f32,
        /// Brings the result into the range of an 8-bit element type.
        pub out_factor: f32,
        /// Element type of the residual.
        pub residual_element: u32,
        /// Elements from row to row.
        pub residual_ld: u32,
        /// Rows after which the residual repeats.
        pub residual_rows: u32,
        /// Element type of the result.
        pub out_element: u32,
        /// Elements from row to row.
        pub out_ld: u32,
        /// See `[`RowMap`]`(super::linear::RowMap).
        pub item_rows: u32,
        /// See `[`RowMap`]`(super::linear::RowMap).
        pub item_stride: u32,
        /// See `[`RowMap`]`(super::linear::RowMap).
        pub item_offset: u32,
        /// Code of the non-linearity.
        pub activation: u32,
        /// Whether columns come as eight of a gate, then eight of what it multiplies.
        pub gated: u32,
        /// What the product is rounded to before the bias.
        pub product_format: u32,
        /// What the sum with the bias is rounded to.
        pub linear_format: u32,
        /// What the activated value is rounded to.
        pub activation_format: u32,
        /// What the value that a gate multiplies is rounded to.
        pub up_format: u32,
        /// What the last result is rounded to.
        pub result_format: u32,
    }
}

kernel_params! {
    /// Argument of kernels in `gemm_mma.cu` and `gemm_f32.cu`.
    pub(super) struct GemmParams {
        /// `[rows rounded up to the tile, ldx]`, zeros beyond the inner dimension.
        x: DevicePtr as "const void*",
        /// `[n rounded up to 128, inner]`, zeros beyond.
        w: DevicePtr as "const void*",
        rows: u32,
        n: u32,
        /// A multiple of DEPTH.
        inner: u32,
        ldx: u32,
        epilogue: Epilogue,
    }
}

kernel_params! {
    /// Argument of kernels in `gemm_wgmma.cu` and `gemm_persistent.cu`.
    pub(super) struct GemmWgmmaParams {
        /// `[rows, inner]` in boxes of [TOKENS, DEPTH].
        x: TensorMap,
        /// `[n, inner]` in boxes of [FEATURES, DEPTH].
        w: TensorMap,
        rows: u32,
        n: u32,
        /// A multiple of DEPTH.
        inner: u32,
        /// Fills the struct up.
        padding: u32,
        epilogue: Epilogue,
    }
}

impl Epilogue {
    /// What a kernel that ends in it is compiled for, for a result `[rows, n]`; in `epilogue.cuh` under these names.
    fn fixed(&self, rows: u32, n: u32) -> Defines {
        let adds = self.residual != DevicePtr::NULL;
        let gated = self.gated != 0;
        let flag = usize::from;
        // What is not used is the same for all, so that they share a kernel.
        let used = |code: u32, used: bool| if used { code as usize } else { 0 };
        let width = if gated { 16 } else { 8 };
        let scaled = self.weight_scales != DevicePtr::NULL;
        vec![
            ("EIGHT_BITS", eight_bits(&[self.out_element]).1 | flag(scaled)),
            ("SCALED", flag(scaled)),
            ("ADDS", flag(adds)),
            ("GATED", flag(gated)),
            ("ACTIVATION", self.activation as usize),
            ("RESIDUAL_ELEMENT", used(self.residual_element, adds)),
            ("OUT_ELEMENT", self.out_element as usize),
            ("PRODUCT_FORMAT", self.product_format as usize),
            ("LINEAR_FORMAT", self.linear_format as usize),
            ("ACTIVATION_FORMAT", used(self.activation_format, self.activation != 0)),
            ("UP_FORMAT", used(self.up_format, gated)),
            ("RESULT_FORMAT", used(self.result_format, gated || adds)),
            ("WHOLE", flag(n.is_multiple_of(width))),
            ("MOVES", flag(rows > self.item_rows || self.item_offset != 0)),
            ("REPEATS", flag(adds && rows > self.residual_rows)),
        ]
    }
}

/// Epilogues of every kind that a model has: everything rounded to what this GEMM multiplies, or nothing but the
/// operand of the next one. For compiling them without a device.
pub fn kinds(operand: Element, next: Element) -> Vec<Defines> {
    let narrow = if operand == Element::E4m3 { Element::Bf16 } else { operand };
    let mut kinds = Vec::new();
    for format in [narrow, Element::F32] {
        let plain = Epilogue {
            weight_scales: if operand == Element::E4m3 { DevicePtr(1) } else { DevicePtr::NULL },
            linear_format: format.code(),
            activation_format: format.code(),
            up_format: format.code(),
            result_format: format.code(),
            out_element: narrow.code(),
            residual_element: format.code(),
            item_rows: 1,
            residual_rows: 1,
            ..Epilogue::default()
        };
        let mut kind = |epilogue: Epilogue, n: u32| kinds.push(epilogue.fixed(1, n));
        kind(plain, 8);
        kind(plain, 10);
        kind(Epilogue { product_format: format.code(), item_rows: 0, ..plain }, 8);
        let add = Epilogue { residual: DevicePtr(1), out_element: format.code(), ..plain };
        kind(add, 8);
        kind(Epilogue { residual_rows: 0, item_offset: 1, ..add }, 8);
        for activation in ACTIVATIONS {
            kind(Epilogue { activation: code(activation), out_element: next.code(), ..plain }, 8);
        }
        let gate = Epilogue { gated: 1, activation: code(Activation::Silu), ..plain };
        kind(Epilogue { out_element: next.code(), ..gate }, 16);
    }
    kinds
}

impl Argument for GemmParams {
    fn fixed(&self) -> Defines {
        self.epilogue.fixed(self.rows, self.n)
    }
}

impl Argument for GemmWgmmaParams {
    fn fixed(&self) -> Defines {
        self.epilogue.fixed(self.rows, self.n)
    }
}

/// A tensor of an epilogue that a probe may ask for.
pub type EpilogueTap = TapPlace<Epilogue>;

impl Builder<'_> {
    /// Records the GEMM of `x`, which is of the weights' element type, and the weights.
    ///
    /// # Errors
    /// No memory is left, or the kernel does not compile.
    pub fn gemm(&mut self, w: &Linear, x: &Tensor, epilogue: Epilogue, taps: Vec<EpilogueTap>) -> Result<()> {
        let inner = row_stride(w.in_features, w.element);
        let device = self.device.properties();
        let candidates = match &self.tilings {
            Some(tilings) => tilings.clone(),
            None => Tiling::candidates(w.element, device),
        };
        let shape = [x.rows, w.out_features, inner];
        let tiling = Tiling::choose(&candidates, w.element, shape, device.multiprocessors as usize);
        let tiling =
            tiling.ok_or_else(|| Error::engine("choose a tiling", format!("none fits {shape:?}")))?;
        let variant = Variant::gemm(w.element, tiling);
        let grid = tiling.grid([x.rows, w.out_features], device.multiprocessors as usize);
        let (rows, n, inner) = (x.rows, w.out_features, inner);
        if matches!(tiling.multiplier, Multiplier::Wgmma | Multiplier::Persistent) {
            let element = w.element.into();
            let of_x = Boxes { element, rows, columns: inner, ld: x.ld, box_rows: tiling.rows };
            let of_w = Boxes { element, rows: n, columns: inner, ld: inner, box_rows: tiling.columns };
            let params = GemmWgmmaParams {
                x: TensorMap::new(self.device, x.pointer(), of_x)?,
                w: TensorMap::new(self.device, w.weight.pointer(), of_w)?,
                rows: rows as u32,
                n: n as u32,
                inner: inner as u32,
                padding: 0,
                epilogue,
            };
            let taps = within(taps, |p: &mut GemmWgmmaParams| &mut p.epilogue);
            self.launch_clusters(variant, grid, tiling.split, params, taps);
            return Ok(());
        }
        let params = GemmParams {
            x: x.pointer(),
            w: w.weight.pointer(),
            rows: rows as u32,
            n: n as u32,
            inner: inner as u32,
            ldx: x.ld as u32,
            epilogue,
        };
        let taps = within(taps, |p: &mut GemmParams| &mut p.epilogue);
        self.launch_clusters(variant, grid, tiling.split, params, taps);
        Ok(())
    }
}

/// Places of an epilogue as places of the argument that it is part of.
fn within<P: 'static>(taps: Vec<EpilogueTap>, epilogue: fn(&mut P) -> &mut Epilogue) -> Vec<TapPlace<P>> {
    let outer = |TapPlace { set, rows, features, taps }: EpilogueTap| TapPlace {
        set: Box::new(move |params: &mut P, to| set(epilogue(params), to)),
        rows,
        features,
        taps,
    };
    taps.into_iter().map(outer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel compiled for another value than its argument has would compute something else, which only a GPU shows.
    #[test]
    fn a_kernel_is_compiled_for_what_its_epilogue_does_and_nothing_else() {
        let given = DevicePtr(1);
        let plain = Epilogue { item_rows: 4, residual_rows: 4, ..Epilogue::default() };
        let add = Epilogue { residual: given, ..plain };
        let gate = Epilogue { gated: 1, activation: 3, ..plain };
        for (from, to, n, expected) in [
            (plain, Epilogue { weight_scales: given, ..plain }, 8, &[("EIGHT_BITS", 1), ("SCALED", 1)][..]),
            (plain, Epilogue { out_element: 3, ..plain }, 8, &[("EIGHT_BITS", 1), ("OUT_ELEMENT", 3)]),
            (plain, add, 8, &[("ADDS", 1)]),
            (plain, gate, 16, &[("GATED", 1), ("ACTIVATION", 3)]),
            (plain, Epilogue { product_format: 1, ..plain }, 8, &[("PRODUCT_FORMAT", 1)]),
            (plain, Epilogue { linear_format: 1, ..plain }, 8, &[("LINEAR_FORMAT", 1)]),
            (gate, Epilogue { activation_format: 1, ..gate }, 16, &[("ACTIVATION_FORMAT", 1)]),
            (gate, Epilogue { up_format: 2, ..gate }, 16, &[("UP_FORMAT", 2)]),
            (gate, Epilogue { result_format: 2, ..gate }, 16, &[("RESULT_FORMAT", 2)]),
            (add, Epilogue { result_format: 2, ..add }, 8, &[("RESULT_FORMAT", 2)]),
            (add, Epilogue { residual_element: 1, ..add }, 8, &[("RESIDUAL_ELEMENT", 1)]),
            (add, Epilogue { residual_rows: 3, ..add }, 8, &[("REPEATS", 1)]),
            (plain, Epilogue { item_rows: 2, ..plain }, 8, &[("MOVES", 1)]),
            (plain, Epilogue { item_offset: 1, ..plain }, 8, &[("MOVES", 1)]),
            // Not used: the same kernel.
            (plain, Epilogue { residual_element: 1, residual_rows: 1, result_format: 1, ..plain }, 8, &[]),
            (plain, Epilogue { activation_format: 1, up_format: 1, ..plain }, 8, &[]),
        ] {
            let before = from.fixed(4, n);
            let changed: Vec<_> =
                to.fixed(4, n).into_iter().filter(|define| !before.contains(define)).collect();
            assert_eq!(changed, expected, "{to:?}");
            assert!(before.contains(&("WHOLE", 1)), "{n} columns are whole");
        }
        assert!(plain.fixed(4, 12).contains(&("WHOLE", 0)) && gate.fixed(4, 24).contains(&("WHOLE", 0)));
    }
}
