//! Products with weights: which kernel computes one, in which tiles.

use super::builder::{Builder, depth, row_stride};
use super::elements::Element;
use super::kernels::{Argument, Defines, Variant, eight_bits};
use super::linear::{ACTIVATIONS, Linear, code};
use super::program::{TapPlace, Tensor};
use crate::{Error, Result};
use steadyhand_cuda_driver::kernel_params;
use steadyhand_cuda_driver::{Boxes, DevicePtr, Properties, TensorMap};
use steadyhand_gr00t::ops::Activation;

kernel_params! {
    /// As `Epilogue` in `epilogue.cuh`. Kernels are compiled for what `fixed` reads of it.
    #[derive(Default)]
    pub struct Epilogue {
        /// `[n]`, f32.
        pub bias: DevicePtr,
        /// `[residual_rows, residual_ld]`.
        pub residual: DevicePtr,
        /// `[.., out_ld]`.
        pub out: DevicePtr,
        /// Where a probe wants the product with its bias.
        pub tap_linear: DevicePtr,
        /// Where a probe wants the activated product.
        pub tap_activation: DevicePtr,
        /// Where a probe wants what a gate multiplies.
        pub tap_up: DevicePtr,
        /// Where a probe wants the sum with the residual, or the gated product.
        pub tap_result: DevicePtr,
        /// `[n]`, f32: what a unit of the weights stands for, where operands have 8 bits.
        pub units: DevicePtr,
        /// Largest magnitudes of x, f32, one for `rows_each` rows; null where `unit` is known.
        pub amaxes: DevicePtr,
        /// Rows of x that share a scale.
        pub rows_each: u32,
        /// What a unit of x stands for.
        pub unit: f32,
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
        /// See [`RowMap`](super::linear::RowMap).
        pub item_rows: u32,
        /// See [`RowMap`](super::linear::RowMap).
        pub item_stride: u32,
        /// See [`RowMap`](super::linear::RowMap).
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
    /// As `LinearParams` in `linear.cu` and `linear_f32.cu`.
    struct LinearParams {
        x: DevicePtr,
        w: DevicePtr,
        rows: u32,
        n: u32,
        inner: u32,
        ldx: u32,
        epilogue: Epilogue,
    }
}

kernel_params! {
    /// As `HopperLinearParams` in `linear_hopper.cu`.
    struct HopperLinearParams {
        x: TensorMap,
        w: TensorMap,
        rows: u32,
        n: u32,
        inner: u32,
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
        let scaled = self.units != DevicePtr::NULL;
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

/// Epilogues of every kind that a model has: everything rounded to what this product multiplies, or nothing but the
/// operand of the next one. For compiling them without a device.
pub fn kinds(operand: Element, next: Element) -> Vec<Defines> {
    let narrow = if operand == Element::E4m3 { Element::Bf16 } else { operand };
    let mut kinds = Vec::new();
    for format in [narrow, Element::F32] {
        let plain = Epilogue {
            units: if operand == Element::E4m3 { DevicePtr(1) } else { DevicePtr::NULL },
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

impl Argument for LinearParams {
    fn fixed(&self) -> Defines {
        self.epilogue.fixed(self.rows, self.n)
    }
}

impl Argument for HopperLinearParams {
    fn fixed(&self) -> Defines {
        self.epilogue.fixed(self.rows, self.n)
    }
}

/// A tensor of an epilogue that a probe may ask for.
pub type EpilogueTap = TapPlace<Epilogue>;

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Multiplier {
    /// The ordinary cores, in f32.
    Cores,
    /// Tensor cores by warps: compute capability 8.0 and higher.
    Warps,
    /// Tensor cores by warpgroups, fed by the copy engine: compute capability 9.0.
    Warpgroups,
}

/// The tile of a product, how many blocks share its inner dimension, and how far a block fetches ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// What multiplies.
    pub multiplier: Multiplier,
    /// Rows of x in a tile.
    pub rows: usize,
    /// Rows of the weights, columns of the result, in a tile.
    pub columns: usize,
    /// Blocks of a cluster, which share a tile's inner dimension.
    pub split: usize,
    /// Stages in shared memory: rows of 128 bytes of the inner dimension.
    pub stages: usize,
    /// Teams of warpgroups that take turns at the stages.
    pub teams: usize,
}

/// Bytes of the inner dimension in a stage.
const DEPTH_BYTES: usize = 128;
/// How many blocks may share an inner dimension, where there are clusters: those that `epilogue.cuh` adds up.
pub const SPLITS: [usize; 4] = [1, 2, 4, 8];

impl Tiling {
    /// Every tile that kernels are compiled for on a device of this compute capability, not split.
    pub fn all(element: Element, capability: (u32, u32)) -> Vec<Tiling> {
        let tile = |multiplier, rows, columns, stages| Tiling {
            multiplier,
            rows,
            columns,
            split: 1,
            stages,
            teams: 1,
        };
        if element == Element::F32 {
            return vec![tile(Multiplier::Cores, 64, 64, 0)];
        }
        if !element.exists_on(capability) {
            return Vec::new();
        }
        let warps = |rows, columns| tile(Multiplier::Warps, rows, columns, 4);
        if capability != (9, 0) {
            return vec![warps(64, 128), warps(64, 64), warps(128, 128), warps(128, 64)];
        }
        let groups = |teams, rows, columns, stages| Tiling {
            teams,
            ..tile(Multiplier::Warpgroups, rows, columns, stages)
        };
        // Those that were fastest for a product of the model, or within 2 % of it. Two teams make only the smallest faster.
        let mut tilings = vec![groups(2, 64, 64, 12), groups(1, 128, 128, 6)];
        // Each stage's sums of 8-bit products apart from those of all stages: larger tiles leave no registers for both.
        if element != Element::E4m3 {
            tilings.extend([groups(1, 192, 64, 6), groups(1, 192, 128, 5), groups(1, 256, 128, 4)]);
        }
        tilings
    }

    /// Bytes of one stage: rows of x and of the weights.
    pub fn stage_bytes(&self) -> usize {
        (self.rows + self.columns) * DEPTH_BYTES
    }

    /// Whether each block of a cluster has a stage of this inner dimension.
    pub fn fits(&self, element: Element, inner: usize) -> bool {
        inner.div_ceil(depth(element)) >= self.split
    }

    /// Bytes of dynamic shared memory.
    pub fn shared_bytes(&self) -> usize {
        self.stages * self.stage_bytes()
    }

    /// Every tiling that a device can run.
    pub fn candidates(element: Element, device: &Properties) -> Vec<Tiling> {
        let splits: &[usize] = if device.compute_capability.0 >= 9 { &SPLITS } else { &[1] };
        Tiling::all(element, device.compute_capability)
            .into_iter()
            .filter(|tiling| tiling.shared_bytes() <= device.shared_memory_per_block)
            .flat_map(|tiling| splits.iter().map(move |&split| Tiling { split, ..tiling }))
            .collect()
    }

    /// The tiling of least estimated time for a product `[rows, inner] x [inner, n]`, of those that fit it.
    pub fn choose(
        candidates: &[Tiling],
        element: Element,
        [rows, n, inner]: [usize; 3],
        processors: usize,
    ) -> Option<Tiling> {
        let fitting = candidates.iter().filter(|tiling| tiling.fits(element, inner));
        let stages = inner.div_ceil(depth(element));
        fitting.min_by_key(|tiling| tiling.cost([rows, n, stages], processors)).copied()
    }

    /// Estimated nanoseconds: waves of blocks, one to a multiprocessor. A block starts, multiplies its share of the
    /// stages, meets the others of its cluster and finishes its share of the rows; a stage takes as long as its products,
    /// or as its fetch where all blocks fetch. The five numbers were searched for until every product of the model that
    /// was timed on an H200 (`examples/kernels.rs`) got the fastest of these tilings.
    fn cost(&self, [rows, n, stages]: [usize; 3], processors: usize) -> usize {
        // The blocks of a cluster need places in one part of the device: the larger it is, the more stay empty.
        let usable = match self.split {
            1 | 2 => processors,
            4 => processors * 7 / 8,
            _ => processors * 3 / 4,
        };
        let blocks = rows.div_ceil(self.rows) * n.div_ceil(self.columns) * self.split;
        let waves = blocks.div_ceil(usable);
        // 3300 pairs of 16 bits a nanosecond; twice as many of 8 bits take as long.
        let multiply = self.rows * self.columns * depth(Element::Bf16) / 3300;
        let fetch = blocks / waves * self.stage_bytes() / 14000;
        let share = stages.div_ceil(self.split);
        let meet = if self.split > 1 { 250 * self.split } else { 0 };
        let finish = self.rows * self.columns / self.split / 16;
        waves * (4200 + share * multiply.max(fetch) + meet + finish)
    }
}

impl Builder<'_> {
    /// Records the product of `x`, which is of the weights' element type, and the weights.
    ///
    /// # Errors
    /// No memory is left, or the kernel does not compile.
    pub fn product(
        &mut self,
        w: &Linear,
        x: &Tensor,
        epilogue: Epilogue,
        taps: Vec<EpilogueTap>,
    ) -> Result<()> {
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
        let variant = Variant::linear(w.element, tiling);
        let grid = [w.out_features.div_ceil(tiling.columns), x.rows.div_ceil(tiling.rows), tiling.split];
        let (rows, n, inner) = (x.rows, w.out_features, inner);
        if tiling.multiplier == Multiplier::Warpgroups {
            let element = w.element.into();
            let of_x = Boxes { element, rows, columns: inner, ld: x.ld, box_rows: tiling.rows };
            let of_w = Boxes { element, rows: n, columns: inner, ld: inner, box_rows: tiling.columns };
            let params = HopperLinearParams {
                x: TensorMap::new(self.device, x.pointer(), of_x)?,
                w: TensorMap::new(self.device, w.weight.pointer(), of_w)?,
                rows: rows as u32,
                n: n as u32,
                inner: inner as u32,
                padding: 0,
                epilogue,
            };
            let taps = within(taps, |p: &mut HopperLinearParams| &mut p.epilogue);
            self.launch_clusters(variant, grid, tiling.split, params, taps);
            return Ok(());
        }
        let params = LinearParams {
            x: x.pointer(),
            w: w.weight.pointer(),
            rows: rows as u32,
            n: n as u32,
            inner: inner as u32,
            ldx: x.ld as u32,
            epilogue,
        };
        let taps = within(taps, |p: &mut LinearParams| &mut p.epilogue);
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

    /// The tilings that were fastest on an H200.
    #[test]
    fn the_models_products_get_the_tiles_that_were_fastest() {
        let device = Properties {
            name: "NVIDIA H200".to_owned(),
            compute_capability: (9, 0),
            multiprocessors: 132,
            total_memory: 150 << 30,
            l2_bytes: 60 << 20,
            driver_version: 13000,
            shared_memory_per_block: 227 << 10,
        };
        let of_16_bits = [
            ([51, 1536, 1536], 64, 64, 2),
            ([51, 4608, 1536], 64, 64, 1),
            ([51, 6144, 1536], 64, 64, 1),
            ([51, 1536, 6144], 64, 64, 4),
            ([81, 24576, 2048], 128, 128, 1),
            ([121, 4096, 2048], 64, 64, 1),
            ([121, 2048, 2048], 64, 64, 1),
            ([121, 12288, 2048], 128, 128, 1),
            ([121, 2048, 6144], 64, 64, 2),
            ([202, 12288, 2048], 256, 128, 1),
            ([324, 3456, 1152], 192, 64, 1),
            ([324, 1152, 1152], 64, 64, 1),
            ([324, 4304, 1152], 128, 128, 1),
            ([324, 1152, 4304], 128, 128, 4),
            ([648, 3456, 1152], 192, 128, 1),
            ([648, 1152, 4304], 128, 128, 2),
        ];
        let of_8_bits = [
            ([51, 1536, 1536], 64, 64, 2),
            ([51, 4608, 1536], 64, 64, 1),
            ([51, 6144, 1536], 64, 64, 1),
            ([51, 1536, 6144], 64, 64, 4),
            ([121, 12288, 2048], 128, 128, 1),
            ([324, 4304, 1152], 128, 128, 1),
        ];
        for (element, products) in [(Element::Bf16, &of_16_bits[..]), (Element::E4m3, &of_8_bits)] {
            let candidates = Tiling::candidates(element, &device);
            for &([rows, n, inner], tile_rows, tile_columns, split) in products {
                let shape = [rows, n, row_stride(inner, element)];
                let tiling = Tiling::choose(&candidates, element, shape, 132).expect("a tiling");
                let chosen = (tiling.rows, tiling.columns, tiling.split);
                assert_eq!(chosen, (tile_rows, tile_columns, split), "{element:?} {shape:?}");
            }
        }
    }

    /// A kernel compiled for another value than its argument has would compute something else, which only a GPU shows.
    #[test]
    fn a_kernel_is_compiled_for_what_its_epilogue_does_and_nothing_else() {
        let given = DevicePtr(1);
        let plain = Epilogue { item_rows: 4, residual_rows: 4, ..Epilogue::default() };
        let add = Epilogue { residual: given, ..plain };
        let gate = Epilogue { gated: 1, activation: 3, ..plain };
        for (from, to, n, expected) in [
            (plain, Epilogue { units: given, ..plain }, 8, &[("EIGHT_BITS", 1), ("SCALED", 1)][..]),
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

    #[test]
    fn every_device_has_a_tiling_for_every_shape() {
        for (capability, shared_memory_per_block) in
            [((8, 0), 163 << 10), ((8, 9), 99 << 10), ((9, 0), 227 << 10)]
        {
            let device = Properties {
                name: String::new(),
                compute_capability: capability,
                multiprocessors: 16,
                total_memory: 0,
                l2_bytes: 0,
                driver_version: 13000,
                shared_memory_per_block,
            };
            for element in Element::ALL.into_iter().filter(|element| element.exists_on(capability)) {
                let candidates = Tiling::candidates(element, &device);
                for shape in [[1, 8, 128], [5000, 100_000, 128], [64, 64, 64 * 1000]] {
                    assert!(
                        Tiling::choose(&candidates, element, shape, 16).is_some(),
                        "{capability:?} {element:?} {shape:?}"
                    );
                }
            }
        }
    }
}
