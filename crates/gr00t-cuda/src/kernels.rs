//! The kernels: which there are, and those that are compiled and loaded.

use super::elements::Element;
use super::product::{self, Multiplier, SPLITS, Tiling};
use super::{attention, dit_persistent, norm};
use crate::{Error, Result};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use steadyhand_cuda_driver::compile::{Arch, Compiler, Source};
use steadyhand_cuda_driver::{Device, Kernel, Module, Params};
use steadyhand_gr00t::config::Config;

/// Files of `kernels/` with their texts.
macro_rules! embedded {
    ($($file:literal),* $(,)?) => { &[$(($file, include_str!(concat!("kernels/", $file)))),*] };
}

/// Name and text of the files with kernels.
const SOURCES: &[(&str, &str)] = embedded![
    "attention.cu",
    "attention_f32.cu",
    "dit_pack.cu",
    "dit_persistent.cu",
    "linear.cu",
    "linear_f32.cu",
    "linear_hopper.cu",
    "norm.cu",
    "rotary.cu",
    "tokens.cu",
    "weights.cu",
];

/// Name and text of the files that they include.
const HEADERS: &[(&str, &str)] = embedded![
    "attention.cuh",
    "dit_attention.cuh",
    "dit_exchange.cuh",
    "dit_loader.cuh",
    "dit_products.cuh",
    "dit_sums.cuh",
    "epilogue.cuh",
    "machine.cuh",
    "numeric.cuh",
];

/// Options of every kernel.
const OPTIONS: &[&str] = &["--std=c++17"];

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

/// Queries of a block of `attention.cu`.
const BLOCK_QUERIES: usize = 64;
/// Shared memory that a block of an attention kernel may have: what every device of compute capability 8.0 has.
const ATTENTION_SHARED: usize = 99 << 10;

impl Variant {
    /// A product of operands of this type.
    pub fn linear(element: Element, tiling: Tiling) -> Self {
        let Tiling { multiplier, rows, columns, split, stages, teams } = tiling;
        let (file, block, names) = match multiplier {
            Multiplier::Cores => {
                return Variant::plain("linear_f32.cu", "linear", 256).compiled_for([("SPLIT", split)]);
            }
            Multiplier::Warps => ("linear.cu", 256, ["TILE_ROWS", "TILE_COLUMNS"]),
            // A warpgroup of each team for 64 columns, and a warp that fetches for each operand.
            Multiplier::Warpgroups => {
                ("linear_hopper.cu", (2 * teams * columns) as u32 + 64, ["TOKENS", "FEATURES"])
            }
        };
        let defines = vec![
            ("ELEMENT", element.code() as usize),
            (names[0], rows),
            (names[1], columns),
            ("STAGES", stages),
            ("TEAMS", teams),
            ("SPLIT", split),
        ];
        Variant {
            defines,
            shared_bytes: tiling.shared_bytes() as u32,
            ..Variant::plain(file, "linear", block)
        }
    }

    /// Attention of operands of this type, for queries that see up to `keys` keys.
    pub fn attention(element: Element, head_dim: usize, keys: usize) -> Self {
        let mut defines = vec![("ELEMENT", element.code() as usize), ("HEAD_DIM", head_dim)];
        if element == Element::F32 {
            // Keys, values and the queries of eight warps.
            let shared_bytes = (2 * 32 * (head_dim + 1) + 8 * head_dim) * 4;
            let plain = Variant::plain("attention_f32.cu", "attention", 256);
            return Variant { defines, shared_bytes: shared_bytes as u32, ..plain };
        }
        // The block's queries, and two buffers of keys and values for each team.
        let row = (head_dim.next_multiple_of(16) + 8) * 2;
        let of = |teams: usize, tile: usize| (teams, tile, (BLOCK_QUERIES + teams * 4 * tile) * row);
        // Putting teams together costs time, so few keys get one. Where more teams begin to pay was not measured: with one
        // team 51 and 81 keys were faster than with two of half the queries, and 324 keys with four than with two that
        // shared tiles, in earlier forms of the kernel.
        let teams = match keys {
            0..=96 => 1,
            97..=128 => 2,
            _ => 4,
        };
        let wanted = [of(4, 32), of(2, 32), of(1, 64), of(1, 32)];
        let fits = |(count, _, bytes): &&(usize, usize, usize)| *count <= teams && *bytes <= ATTENTION_SHARED;
        let (teams, tile, shared_bytes) = wanted.iter().find(fits).copied().unwrap_or(of(1, 32));
        defines.extend([("TEAMS", teams), ("KEYS", tile)]);
        let plain = Variant::plain("attention.cu", "attention", 128 * teams as u32);
        Variant { defines, shared_bytes: shared_bytes as u32, ..plain }
    }

    /// Queries that a block of an attention kernel takes.
    pub fn queries_of_a_block(&self) -> usize {
        if self.file == "attention_f32.cu" { 8 } else { BLOCK_QUERIES }
    }

    /// LayerNorm and RMSNorm of rows of so many features.
    pub fn norm(features: usize) -> Self {
        let defines = vec![("CHUNKS", features.div_ceil(2048).max(1))];
        Variant { defines, ..Variant::plain("norm.cu", "normalize", 256) }
    }

    /// Norms and rotation of heads.
    pub fn rotary(head_dim: usize) -> Self {
        Variant { defines: vec![("HEAD_DIM", head_dim)], ..Variant::plain("rotary.cu", "rotary", 128) }
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

/// Kernels of every kind that a model of these sizes may use with these operands on a device of this compute
/// capability: each tiling of a product, each thing that a kernel does with its result, each element type that it
/// stores, though not each of them with every other.
pub fn catalogue(config: &Config, operands: &[Element], capability: (u32, u32)) -> Vec<Variant> {
    let vision = &config.eagle_config.vision_config;
    let text = &config.eagle_config.text_config;
    let head_dims = [
        vision.hidden_size / vision.num_attention_heads,
        text.head_dim,
        config.diffusion_model_cfg.attention_head_dim,
    ];
    let joined = vision.hidden_size * config.eagle_config.unshuffle().pow(2);
    let widths = [vision.hidden_size, joined, text.hidden_size, config.input_embedding_dim];
    let bits = [false, true].into_iter().filter(|eight| !eight || operands.contains(&Element::E4m3));
    let with_bits = |variant: Variant| {
        bits.clone().map(move |eight| variant.clone().compiled_for([("EIGHT_BITS", usize::from(eight))]))
    };
    // What a product may be followed by: a product of its own operands, or of 8 bits.
    let eight = operands.contains(&Element::E4m3).then_some(Element::E4m3);
    let nexts = |element| [Some(element), eight.filter(|eight| *eight != element)].into_iter().flatten();
    let mut variants = Vec::new();
    for &element in operands {
        // Attention has no operands of 8 bits.
        for keys in [96, 128, 129].into_iter().filter(|_| element != Element::E4m3) {
            let attention = |dim, kind: Defines| Variant::attention(element, dim, keys).compiled_for(kind);
            for (index, kind) in nexts(element).flat_map(|next| attention::kinds(element, next)).enumerate() {
                let dims = if index == 0 { &head_dims[..] } else { &head_dims[..1] };
                variants.extend(dims.iter().map(|dim| attention(*dim, kind.clone())));
            }
        }
        let norm = |width, kind: &Defines| Variant::norm(width).compiled_for(kind.clone());
        let kinds = norm::kinds(element);
        variants.extend(widths.map(|width| norm(width, &kinds[0])));
        variants.extend(kinds.iter().map(|kind| norm(widths[0], kind)));
        let kinds: Vec<Defines> = nexts(element).flat_map(|next| product::kinds(element, next)).collect();
        let product =
            |tiling: Tiling, kind: &Defines| Variant::linear(element, tiling).compiled_for(kind.clone());
        for (index, tiling) in Tiling::all(element, capability).into_iter().enumerate() {
            // Every kind and every split in the first tile, the others as they are most often.
            let kinds = if index == 0 { &kinds[..] } else { &kinds[..1] };
            let splits = if index == 0 && capability.0 >= 9 { &SPLITS[..] } else { &SPLITS[..1] };
            variants.extend(kinds.iter().map(|kind| product(tiling, kind)));
            variants.extend(splits.iter().map(|&split| product(Tiling { split, ..tiling }, &kinds[0])));
        }
    }
    variants.extend(with_bits(Variant::rotary(text.head_dim)));
    variants.extend(with_bits(Variant::weights("pack")));
    if capability >= (9, 0) && operands.contains(&Element::Bf16) {
        let one = dit_persistent::variants().into_iter();
        variants.extend(one.map(|variant| variant.compiled_for([("EIGHT_BITS", 0)])));
    }
    let entries = ["patches", "embed", "convert", "euler"];
    variants.extend(entries.into_iter().flat_map(|entry| with_bits(Variant::tokens(entry))));
    if operands.contains(&Element::E4m3) {
        let scaled = ["row_largest", "spread_largest"].map(Variant::weights);
        let quantized = ["largest", "quantize"].map(Variant::tokens);
        let all = scaled.into_iter().chain(quantized);
        variants.extend(all.map(|variant| variant.compiled_for([("EIGHT_BITS", 1)])));
    }
    let mut seen = HashSet::new();
    variants.retain(|variant| seen.insert(variant.clone()));
    variants
}

/// The kernels of one device: compiled when first asked for, or found in the cache on disk.
pub struct Kernels {
    device: Device,
    compiler: Compiler,
    arch: Arch,
    modules: Mutex<HashMap<ModuleKey, Module>>,
}

/// A module's file and what it was compiled for.
type ModuleKey = (&'static str, Defines);

impl Kernels {
    /// Kernels for a device, none compiled yet.
    pub fn new(device: &Device, compiler: Compiler) -> Self {
        let arch = Arch::of(device.properties().compute_capability);
        Kernels { device: device.clone(), compiler, arch, modules: Mutex::default() }
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
        let cubin = compile(key, &self.compiler, self.arch)?;
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
    pub fn compile(&self, compiler: &Compiler, arch: Arch) -> Result<Vec<u8>> {
        compile(&self.module(), compiler, arch)
    }

    fn module(&self) -> ModuleKey {
        (self.file, self.defines.clone())
    }
}

fn compile((file, defines): &ModuleKey, compiler: &Compiler, arch: Arch) -> Result<Vec<u8>> {
    let source = SOURCES.iter().find(|(name, _)| name == file);
    let (name, text) = source.ok_or_else(|| Error::engine("compile", format!("no kernel source {file}")))?;
    let defines = defines.iter().map(|(name, value)| format!("-D{name}={value}"));
    let options: Vec<String> = OPTIONS.iter().map(|option| option.to_string()).chain(defines).collect();
    Ok(compiler.compile(&Source { name, text, headers: HEADERS }, &options, arch)?)
}

impl std::fmt::Display for Variant {
    /// Such as `linear.cu linear TILE_ROWS=64 STAGES=4 EIGHT_BITS=1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.file, self.entry)?;
        self.defines.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn of_all_devices() -> Vec<Variant> {
        let of = |capability| catalogue(&Config::default(), &Element::ALL, capability);
        of((8, 0)).into_iter().chain(of((9, 0))).collect()
    }

    #[test]
    fn every_file_is_embedded_and_every_source_has_a_variant() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda/kernels");
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let list = if name.ends_with(".cuh") { HEADERS } else { SOURCES };
            assert!(list.iter().any(|(embedded, _)| *embedded == name), "{name} is not embedded");
        }
        let variants = of_all_devices();
        for (file, _) in SOURCES {
            assert!(variants.iter().any(|variant| variant.file == *file), "{file} is compiled for nothing");
        }
    }

    #[test]
    fn variants_differ_and_each_says_whether_it_meets_elements_of_8_bits() {
        let variants = catalogue(&Config::default(), &Element::ALL, (9, 0));
        let different: HashSet<_> = variants.iter().collect();
        assert_eq!(different.len(), variants.len());
        for variant in &variants {
            let says = variant.defines.iter().filter(|(name, _)| *name == "EIGHT_BITS").count();
            assert_eq!(says, 1, "{variant}");
        }
    }

    #[test]
    fn nothing_of_8_bits_is_compiled_for_a_policy_without() {
        for variant in catalogue(&Config::default(), &[Element::F32, Element::Bf16], (9, 0)) {
            assert!(variant.defines.contains(&("EIGHT_BITS", 0)), "{variant}");
        }
    }
}
