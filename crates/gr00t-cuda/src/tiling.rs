//! Tilings of a GEMM, and which is chosen for a shape.

use super::builder::depth;
use super::elements::Element;
use steadyhand_cuda_driver::Properties;

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Multiplier {
    /// Fused multiply-adds on the CUDA cores, in f32.
    CudaCores,
    /// `mma.sync`, a warp at a time: compute capability 8.0 and higher.
    MmaSync,
    /// `wgmma`, a warpgroup at a time, fed by the TMA: compute capability 9.0.
    Wgmma,
    /// The same by as many blocks as multiprocessors, which go from tile to tile.
    Persistent,
}

/// The tile of a GEMM, how many blocks share its inner dimension, and how far a block fetches ahead.
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
    /// Groups of warpgroups that take turns at the stages of the inner dimension; their sums are added.
    pub k_groups: usize,
}

/// Bytes of the inner dimension in a stage.
const DEPTH_BYTES: usize = 128;
/// Shared memory that the stages of a tile by `wgmma` may take.
const RING_BYTES: usize = 222 << 10;
/// Shared memory of a warp of a persistent block for the sums that it finishes.
const STAGED_BYTES: usize = 16 * 20 * 4;
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
            k_groups: 1,
        };
        if element == Element::F32 {
            return vec![tile(Multiplier::CudaCores, 64, 64, 0)];
        }
        if !element.exists_on(capability) {
            return Vec::new();
        }
        let warps = |rows, columns| tile(Multiplier::MmaSync, rows, columns, 4);
        if capability != (9, 0) {
            return vec![warps(64, 128), warps(64, 64), warps(128, 128), warps(128, 64)];
        }
        let groups = |k_groups, rows, columns, stages| Tiling {
            k_groups,
            ..tile(Multiplier::Wgmma, rows, columns, stages)
        };
        // Two groups along k make only the smallest faster.
        let mut tilings = vec![groups(2, 64, 64, 12), groups(1, 64, 128, 8)];
        // As many rows as leave little of the last tile empty, for the row counts of the model. Tiles of 192 and 256
        // columns were no faster.
        for (rows, columns) in [72, 88, 96, 104, 112, 128, 136, 168, 192, 208, 216, 256]
            .into_iter()
            .flat_map(|rows| [(rows, 64), (rows, 128)])
        {
            let stages = (RING_BYTES / ((rows + columns) * DEPTH_BYTES)).min(8);
            tilings.push(groups(1, rows, columns, stages));
        }
        // Those that were fastest for some batch of 4 or 16. Blocks that fetched x for each other (multicast) were no faster.
        let persistent = [(136, 192), (168, 192), (192, 192), (208, 192), (192, 128), (216, 128), (256, 128)];
        for (rows, columns) in persistent {
            let ring = RING_BYTES - columns / 16 * STAGED_BYTES;
            tilings.push(tile(
                Multiplier::Persistent,
                rows,
                columns,
                ring / ((rows + columns) * DEPTH_BYTES),
            ));
        }
        // Each stage's sums of 8-bit products apart from those of all stages: other tiles were not measured, and larger
        // ones leave no registers for both.
        if element == Element::E4m3 {
            tilings.retain(|tiling| matches!((tiling.rows, tiling.columns), (64, 64) | (128, 128)));
        }
        tilings
    }

    /// Bytes of one stage: rows of x and of the weights.
    pub fn stage_bytes(&self) -> usize {
        (self.rows + self.columns) * DEPTH_BYTES
    }

    /// Whether each block of a cluster has a stage of this inner dimension. Persistent blocks share none.
    pub fn fits(&self, element: Element, inner: usize) -> bool {
        let splits = self.multiplier != Multiplier::Persistent || self.split == 1;
        splits && inner.div_ceil(depth(element)) >= self.split
    }

    /// Bytes of dynamic shared memory.
    pub fn shared_bytes(&self) -> usize {
        let staged = match self.multiplier {
            // A warp for 16 columns.
            Multiplier::Persistent => self.columns / 16 * STAGED_BYTES,
            _ => 0,
        };
        self.stages * self.stage_bytes() + staged
    }

    /// Blocks that compute a product `[rows, n]`, those of a cluster along the last axis.
    pub fn grid(&self, [rows, n]: [usize; 2], processors: usize) -> [usize; 3] {
        let tiles = [n.div_ceil(self.columns), rows.div_ceil(self.rows)];
        match self.multiplier {
            Multiplier::Persistent => [processors.min(tiles[0] * tiles[1]), 1, 1],
            _ => [tiles[0], tiles[1], self.split],
        }
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

    /// The tiling of least estimated time for a GEMM `[rows, inner] x [inner, n]`, of those that fit it.
    pub fn choose(
        candidates: &[Tiling],
        element: Element,
        [rows, n, inner]: [usize; 3],
        processors: usize,
    ) -> Option<Tiling> {
        let fitting = candidates.iter().filter(|tiling| tiling.fits(element, inner));
        fitting.min_by_key(|tiling| tiling.nanoseconds(element, [rows, n, inner], processors)).copied()
    }

    /// Estimated nanoseconds: waves of blocks, one to a multiprocessor. A block starts, multiplies its share of the
    /// stages, meets the others of its cluster and finishes its share of the rows; a stage takes as long as its products,
    /// or as its fetch where all blocks fetch. The numbers were searched for until GEMMs of vision and language that were
    /// timed on an H100 (`examples/kernels`, 16 shapes) got the fastest of these tilings or one that is 1.3 % slower in the
    /// mean, 8 % at most, and those of the DiT what was fastest on an H200. Those of persistent tilings were chosen so that
    /// GEMMs of batches of 4 and 16 on an H100 (14 shapes) get the fastest tiling or one that is 5 % slower at most, and those
    /// of one observation keep theirs.
    pub fn nanoseconds(&self, element: Element, [rows, n, inner]: [usize; 3], processors: usize) -> usize {
        let stages = inner.div_ceil(depth(element));
        if self.multiplier == Multiplier::Persistent {
            let tiles = rows.div_ceil(self.rows) * n.div_ceil(self.columns);
            let stage = 140 + self.rows * self.columns * depth(Element::Bf16) / 3060;
            return 2700 + tiles.div_ceil(processors) * (stages * stage + 860);
        }
        // The blocks of a cluster need places in one part of the device: the larger it is, the more stay empty.
        let usable = match self.split {
            1 | 2 => processors,
            4 => processors * 7 / 8,
            _ => processors * 3 / 4,
        };
        let blocks = rows.div_ceil(self.rows) * n.div_ceil(self.columns) * self.split;
        let waves = blocks.div_ceil(usable);
        // 2420 pairs of 16 bits a nanosecond; twice as many of 8 bits take as long.
        let multiply = 37 + self.rows * self.columns * depth(Element::Bf16) / 2420;
        // Rows of x are fetched by many blocks at about the same time: they count half.
        let fetch = blocks / waves * (self.rows / 2 + self.columns) * DEPTH_BYTES / 6240;
        let share = stages.div_ceil(self.split);
        let sums = self.rows * self.columns;
        let meet = if self.split > 1 { sums * self.split * 10 / 95 } else { 0 };
        let finish = sums / self.split / 246;
        waves * (1620 + share * multiply.max(fetch) + meet + finish)
    }
}

#[cfg(test)]
mod tests {
    use super::super::builder::row_stride;
    use super::*;

    /// Of 51 rows on an H200, of more on an H100.
    #[test]
    fn the_models_gemms_get_the_tiles_that_were_fastest() {
        let device = Properties {
            name: "NVIDIA H100".to_owned(),
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
            ([121, 4096, 2048], 128, 64, 2),
            ([121, 2048, 2048], 64, 64, 1),
            ([121, 12288, 2048], 128, 128, 1),
            ([121, 2048, 6144], 64, 64, 2),
            ([202, 4096, 2048], 104, 64, 1),
            ([202, 12288, 2048], 208, 128, 1),
            ([202, 2048, 6144], 104, 64, 2),
            ([324, 3456, 1152], 168, 64, 1),
            ([324, 1152, 1152], 72, 64, 1),
            ([324, 4304, 1152], 112, 128, 1),
            ([324, 1152, 4304], 112, 64, 2),
            ([648, 3456, 1152], 168, 128, 1),
            ([648, 1152, 1152], 112, 64, 1),
            ([648, 4304, 1152], 216, 128, 1),
            ([648, 1152, 4304], 216, 64, 2),
            ([816, 4608, 1536], 168, 192, 1),
            ([816, 1536, 1536], 168, 64, 1),
            ([816, 6144, 1536], 208, 192, 1),
            ([816, 1536, 6144], 168, 128, 2),
            ([1296, 4304, 1152], 192, 128, 1),
            ([1936, 4096, 2048], 168, 192, 1),
            ([1936, 2048, 2048], 168, 192, 1),
            ([1936, 2048, 6144], 168, 192, 1),
            ([5184, 3456, 1152], 216, 128, 1),
            ([5184, 1152, 1152], 192, 128, 1),
            ([5184, 1152, 4304], 192, 128, 1),
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
