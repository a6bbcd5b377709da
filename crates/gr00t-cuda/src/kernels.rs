//! The kernels: which there are, and those that are compiled and loaded.

use super::elements::Element;
use super::sources::Sources;
use super::tiling::{Multiplier, Tiling};
use crate::{Error, Result};
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::Mutex;
use steadyhand_cuda_driver::compile::{Arch, Compiler};
use steadyhand_cuda_driver::{Device, Kernel, Module, Params};

/// A kernel, compiled for what is fixed when it is compiled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Its file.
    pub file: &'static str,
    /// What it is compiled for.
    pub defines: Defines,
    /// Its name in the file.
    pub entry: &'static str,
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared_bytes: u32,
}

/// Names and values that a kernel is compiled for.
pub type Defines = Vec<(&'static str, usize)>;

/// The argument of a kernel, part of which the kernel is compiled for.
pub trait Argument: Params {
    /// Formats, element types, what is to be done at all: names that the kernel's code has in place of the fields.
    /// A kernel that decided them row by row would spend most of its time on that, and on fetching the code that it
    /// does not run.
    fn fixed(&self) -> Defines;
}

/// Whether elements of 8 bits are among what a kernel stores, as a kernel is told it.
pub fn eight_bits(elements: &[u32]) -> (&'static str, usize) {
    ("EIGHT_BITS", usize::from(elements.contains(&Element::E4m3.code())))
}

/// Queries of a block of `attention.cu` where there are few.
const BLOCK_QUERIES: usize = 64;
/// Features of a head up to which two blocks of eight warps have registers enough, as `attention.cu` has it.
const NARROW_HEAD: usize = 80;
/// Shared memory that a block of an attention kernel may have: what every device of compute capability 8.0 has.
const ATTENTION_SHARED: usize = 99 << 10;

/// Features of a row that a warp keeps in its registers.
const FEATURES_BY_WARP: usize = 2048;
/// Rows for each multiprocessor from which on a warp takes one.
const ROWS_BY_WARP: usize = 24;

/// Heads of a row that a warp turns where there are many.
const HEADS_TOGETHER: usize = 4;
/// Heads of all rows for each multiprocessor from which on they are many.
const HEADS_APART: usize = 256;

impl Variant {
    /// A GEMM of operands of this type.
    pub fn gemm(element: Element, tiling: Tiling) -> Self {
        let Tiling { multiplier, rows, columns, split, stages, k_groups } = tiling;
        let (file, block, names) = match multiplier {
            Multiplier::CudaCores => {
                return Variant::plain("gemm_f32.cu", "gemm", 256).compiled_for([("SPLIT", split)]);
            }
            Multiplier::MmaSync => ("gemm_mma.cu", 256, ["TILE_ROWS", "TILE_COLUMNS"]),
            // A warpgroup of each k group for 64 columns, and a warp that fetches for each operand.
            Multiplier::Wgmma => {
                ("gemm_wgmma.cu", (2 * k_groups * columns) as u32 + 64, ["TOKENS", "FEATURES"])
            }
            // A warpgroup that fetches.
            Multiplier::Persistent => {
                ("gemm_persistent.cu", (2 * columns) as u32 + 128, ["TOKENS", "FEATURES"])
            }
        };
        let defines = vec![
            ("ELEMENT", element.code() as usize),
            (names[0], rows),
            (names[1], columns),
            ("STAGES", stages),
            ("K_GROUPS", k_groups),
            ("SPLIT", split),
        ];
        Variant { defines, shared_bytes: tiling.shared_bytes() as u32, ..Variant::plain(file, "gemm", block) }
    }

    /// Attention of operands of this type, and how many queries a block takes: `queries` that see up to `keys` keys,
    /// `heads` times, all heads of all segments counted.
    pub fn attention(
        element: Element,
        head_dim: usize,
        [queries, keys, heads]: [usize; 3],
        multiprocessors: usize,
    ) -> (Self, usize) {
        let mut defines = vec![("ELEMENT", element.code() as usize), ("HEAD_DIM", head_dim)];
        if element == Element::F32 {
            // Keys, values and the queries of eight warps.
            let shared_bytes = (2 * 32 * (head_dim + 1) + 8 * head_dim) * 4;
            let plain = Variant::plain("attention_f32.cu", "attention", 256);
            return (Variant { defines, shared_bytes: shared_bytes as u32, ..plain }, 8);
        }
        // The block's queries, and two buffers of keys and values for each split of the keys.
        let row = (head_dim.next_multiple_of(16) + 8) * 2;
        let of = |block: usize, splits: usize, tile: usize| {
            (block, splits, tile, (block + splits * 4 * tile) * row)
        };
        let fits = |(.., bytes): &&(usize, usize, usize, usize)| *bytes <= ATTENTION_SHARED;
        let few = queries.div_ceil(BLOCK_QUERIES) * heads <= multiprocessors;
        let chosen = if few {
            // Merging splits costs time, so few keys are not split. Where more splits begin to pay was not measured: unsplit, 51
            // and 81 keys were faster than in two splits of half the queries, and 324 keys in four than in two that shared
            // tiles, in earlier forms of the kernel.
            let most = match keys {
                0..=96 => 1,
                97..=128 => 2,
                _ => 4,
            };
            let wanted =
                [(4, 32), (2, 32), (1, 64), (1, 32)].map(|(splits, tile)| of(BLOCK_QUERIES, splits, tile));
            wanted.iter().filter(|(_, splits, ..)| *splits <= most).find(fits).copied()
        } else {
            // Other blocks hide what one waits for. Large blocks read keys and values less often; of wide heads a warp has
            // no registers for two of them, and more keys at a time than 32 leave it none.
            let blocks =
                if head_dim > NARROW_HEAD { &[BLOCK_QUERIES][..] } else { &[128, 112, BLOCK_QUERIES] };
            let block = blocks.iter().copied().min_by_key(|block| queries.next_multiple_of(*block));
            let block = block.unwrap_or(BLOCK_QUERIES);
            let tile = if block == BLOCK_QUERIES && head_dim <= NARROW_HEAD { 64 } else { 32 };
            // One block for each multiprocessor at most: the warps of two splits fill it better.
            let splits = if keys > 128 && queries.div_ceil(block) * heads <= multiprocessors { 2 } else { 1 };
            [of(block, splits, tile), of(block, 1, 32)].iter().find(fits).copied()
        };
        let (block, splits, tile, shared_bytes) = chosen.unwrap_or(of(BLOCK_QUERIES, 1, 32));
        defines.extend([("QUERIES", block), ("KV_SPLITS", splits), ("KEYS", tile)]);
        let plain = Variant::plain("attention.cu", "attention", (2 * block * splits) as u32);
        (Variant { defines, shared_bytes: shared_bytes as u32, ..plain }, block)
    }

    /// LayerNorm and RMSNorm of rows of so many features, and how many rows a block takes: a row a warp where every
    /// multiprocessor gets as many as it has warps for, and they fit a warp's registers.
    pub fn norm(features: usize, rows: usize, multiprocessors: usize) -> (Self, usize) {
        const BLOCK: usize = 256;
        let by_warp = rows >= multiprocessors * ROWS_BY_WARP && features <= FEATURES_BY_WARP;
        let threads = if by_warp { 32 } else { BLOCK };
        let chunks = features.div_ceil(8 * threads).max(1);
        let defines = vec![("ROW_THREADS", threads), ("CHUNKS", chunks)];
        (Variant { defines, ..Variant::plain("norm.cu", "normalize", BLOCK as u32) }, BLOCK / threads)
    }

    /// Norms and rotation of heads, and how many of a row a warp takes: several, where there are many times as many as warps
    /// run at a time.
    pub fn rotary(head_dim: usize, heads: usize, multiprocessors: usize) -> (Self, usize) {
        let together = if heads >= multiprocessors * HEADS_APART { HEADS_TOGETHER } else { 1 };
        let defines = vec![("HEAD_DIM", head_dim), ("HEADS", together)];
        (Variant { defines, ..Variant::plain("rotary.cu", "rotary", 128) }, together)
    }

    /// Frames on their way to images.
    pub fn images() -> Self {
        Variant::plain("images.cu", "resample", 256)
    }

    /// Images to rows of patches.
    pub fn patches() -> Self {
        Variant::plain("patches.cu", "patches", 256)
    }

    /// One of the kernels of `tokens.cu`.
    pub fn tokens(entry: &'static str) -> Self {
        Variant::plain("tokens.cu", entry, 256)
    }

    /// All blocks of the DiT in one.
    pub fn dit_persistent(shared_bytes: u32) -> Self {
        Variant { shared_bytes, ..Variant::plain("dit_persistent.cu", "dit", 512) }
    }

    /// One of the kernels of `dit_pack.cu`.
    pub fn dit_pack(entry: &'static str) -> Self {
        Variant::plain("dit_pack.cu", entry, 256)
    }

    /// One of the kernels of `weights.cu`.
    pub fn weights(entry: &'static str) -> Self {
        Variant::plain("weights.cu", entry, 256)
    }

    fn plain(file: &'static str, entry: &'static str, block: u32) -> Self {
        Variant { file, defines: Vec::new(), entry, block, shared_bytes: 0 }
    }

    /// The kernel to launch with this argument.
    #[must_use]
    pub fn for_argument(self, argument: &impl Argument) -> Self {
        self.compiled_for(argument.fixed())
    }

    /// The same kernel, compiled for more.
    #[must_use]
    pub fn compiled_for(mut self, more: impl IntoIterator<Item = (&'static str, usize)>) -> Self {
        self.defines.extend(more);
        self
    }
}

/// The kernels of one device: compiled when first asked for, or found in the cache on disk.
pub struct Kernels {
    device: Device,
    compiler: Compiler,
    sources: Sources,
    arch: Arch,
    modules: Mutex<HashMap<ModuleKey, Module>>,
}

/// A module's file and what it was compiled for.
type ModuleKey = (&'static str, Defines);

impl Kernels {
    /// Kernels for a device, none compiled yet.
    pub fn new(device: &Device, compiler: Compiler, sources: Sources) -> Self {
        let arch = Arch::of(device.properties().compute_capability);
        Kernels { device: device.clone(), compiler, sources, arch, modules: Mutex::default() }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Compiles and loads kernels, several at a time.
    ///
    /// # Errors
    /// NVRTC is missing or a kernel does not compile.
    pub fn prepare<'v>(&self, variants: impl IntoIterator<Item = &'v Variant>) -> Result<()> {
        let mut keys: Vec<ModuleKey> = variants.into_iter().map(Variant::module).collect();
        keys.sort();
        keys.dedup();
        keys.par_iter().try_for_each(|key| self.module(key).map(|_| ()))
    }

    /// The kernel of this variant. A variant that is not [`Variant::for_argument`] of what it is launched with does not
    /// compile: its code lacks the names that the argument fixes.
    ///
    /// # Errors
    /// NVRTC is missing, the kernel does not compile, or it needs more shared memory than the device has.
    pub fn get(&self, variant: &Variant) -> Result<Kernel> {
        let available = self.device.properties().shared_memory_per_block;
        if variant.shared_bytes as usize > available {
            let what = format!(
                "{:?} needs {} bytes of shared memory, the device has {available}",
                variant.defines, variant.shared_bytes
            );
            return Err(Error::engine(variant.file, what));
        }
        Ok(self.module(&variant.module())?.kernel(variant.entry, variant.shared_bytes as usize)?)
    }

    fn module(&self, key: &ModuleKey) -> Result<Module> {
        let modules = || self.modules.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(module) = modules().get(key) {
            return Ok(module.clone());
        }
        // Not locked while compiling: others compile their own kernels meanwhile.
        let (file, defines) = key;
        let cubin = self.sources.compile(file, defines, &self.compiler, self.arch)?;
        let module = self.device.load_module(&cubin)?;
        modules().insert(key.clone(), module.clone());
        Ok(module)
    }
}

impl Variant {
    /// The cubin for an architecture.
    ///
    /// # Errors
    /// No such file; the compiler's.
    pub fn compile(&self, sources: &Sources, compiler: &Compiler, arch: Arch) -> Result<Vec<u8>> {
        sources.compile(self.file, &self.defines, compiler, arch)
    }

    fn module(&self) -> ModuleKey {
        (self.file, self.defines.clone())
    }
}

impl std::fmt::Display for Variant {
    /// Such as `gemm_mma.cu linear TILE_ROWS=64 STAGES=4 EIGHT_BITS=1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.file, self.entry)?;
        self.defines.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For an H100: queries of a block, splits of the keys, keys at a time.
    #[test]
    fn attention_is_cut_by_how_many_blocks_there_are() {
        for (what, head_dim, shape, expected) in [
            ("vision, one view", 72, [324, 324, 16], [64, 4, 32]),
            ("vision, two views", 72, [324, 324, 32], [112, 2, 32]),
            ("vision, 16 observations", 72, [324, 324, 256], [112, 1, 32]),
            ("language", 128, [202, 202, 16], [64, 2, 32]),
            ("language, 16 observations", 128, [121, 121, 256], [64, 1, 32]),
            ("the DiT", 48, [51, 81, 32], [64, 1, 64]),
            ("the DiT, 16 observations", 48, [51, 81, 512], [64, 1, 64]),
        ] {
            let (variant, block) = Variant::attention(Element::Bf16, head_dim, shape, 132);
            let value =
                |name| variant.defines.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            let found = ["QUERIES", "KV_SPLITS", "KEYS"].map(value);
            assert_eq!(found, expected.map(Some), "{what}");
            assert_eq!(
                (block, variant.block as usize),
                (expected[0], 2 * expected[0] * expected[1]),
                "{what}"
            );
        }
    }

    /// Rows of one observation are spread over blocks, or warps, each; those of many observations are not.
    #[test]
    fn many_rows_are_taken_by_warps() {
        for (rows, of_a_block) in [(51, 1), (1936, 1), (5184, 8)] {
            assert_eq!(Variant::norm(1152, rows, 132).1, of_a_block, "{rows} rows");
        }
        assert_eq!(Variant::norm(4096, 5184, 132).1, 1, "as many features as a warp has no registers for");
        for (heads, of_a_warp) in [(121 * 32, 1), (1936 * 32, 4)] {
            assert_eq!(Variant::rotary(128, heads, 132).1, of_a_warp, "{heads} heads");
        }
    }
}
