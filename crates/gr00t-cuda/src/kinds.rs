//! Kernels of every kind, for compiling them where no GPU is.

use super::elements::Element;
use super::gemm;
use super::kernels::{Defines, Variant};
use super::tiling::{Multiplier, SPLITS, Tiling};
use super::{attention, dit_persistent, images, norm, rotary};
use std::collections::HashSet;
use steadyhand_gr00t::config::{Backbone, Config};

/// Kernels of every kind that a model of these sizes may use with these operands on a device of this compute
/// capability: each tiling of a GEMM, each thing that a kernel does with its result, each element type that it
/// stores, though not each of them with every other.
pub fn every_kind(config: &Config, operands: &[Element], capability: (u32, u32)) -> Vec<Variant> {
    let Backbone { vision, text, .. } = config.backbone();
    let head_dims =
        [vision.heads.head_dim, text.heads.head_dim, config.diffusion_model_cfg.attention_head_dim];
    let joined = vision.hidden_size * vision.merge.pow(2);
    let widths = [vision.hidden_size, joined, text.hidden_size, config.input_embedding_dim];
    let bits = [false, true].into_iter().filter(|eight| !eight || operands.contains(&Element::E4m3));
    let with_bits = |variant: Variant| {
        bits.clone().map(move |eight| variant.clone().compiled_for([("EIGHT_BITS", usize::from(eight))]))
    };
    // What a GEMM may be followed by: a GEMM of its own operands, or of 8 bits.
    let eight = operands.contains(&Element::E4m3).then_some(Element::E4m3);
    let nexts = |element| [Some(element), eight.filter(|eight| *eight != element)].into_iter().flatten();
    let mut variants = Vec::new();
    for &element in operands {
        // Attention has no operands of 8 bits.
        for shape in [
            [1, 96, 1],
            [1, 128, 1],
            [1, 129, 1],
            [324, 324, 32],
            [324, 324, 1 << 10],
            [121, 121, 1 << 10],
            [64, 64, 1 << 10],
        ]
        .into_iter()
        .filter(|_| element != Element::E4m3)
        {
            let attention =
                |dim, kind: Defines| Variant::attention(element, dim, shape, 132).0.compiled_for(kind);
            for (index, kind) in nexts(element).flat_map(|next| attention::kinds(element, next)).enumerate() {
                let dims = if index == 0 { &head_dims[..] } else { &head_dims[..1] };
                variants.extend(dims.iter().map(|dim| attention(*dim, kind.clone())));
            }
        }
        for (heads, norms) in [(text.heads, true), (vision.heads, false)] {
            let kinds = if element == Element::E4m3 { Vec::new() } else { rotary::kinds(element, norms) };
            for heads_of_rows in [1, usize::MAX] {
                let turning = |kind: &Defines| {
                    Variant::rotary(heads.head_dim, heads_of_rows, 1).0.compiled_for(kind.clone())
                };
                variants.extend(kinds.iter().map(turning));
            }
        }
        let kinds = norm::kinds(element);
        for rows in [1, usize::MAX] {
            let norm = |width, kind: &Defines| Variant::norm(width, rows, 1).0.compiled_for(kind.clone());
            variants.extend(widths.map(|width| norm(width, &kinds[0])));
            variants.extend(kinds.iter().map(|kind| norm(widths[0], kind)));
        }
        let kinds: Vec<Defines> = nexts(element).flat_map(|next| gemm::kinds(element, next)).collect();
        let gemm = |tiling: Tiling, kind: &Defines| Variant::gemm(element, tiling).compiled_for(kind.clone());
        let mut multipliers = HashSet::new();
        for tiling in Tiling::all(element, capability) {
            // Every kind and every split in the first tile of each kernel, the others as they are most often.
            let first = multipliers.insert(tiling.multiplier);
            let kinds = if first { &kinds[..] } else { &kinds[..1] };
            let splits = first && capability.0 >= 9 && tiling.multiplier != Multiplier::Persistent;
            let splits = if splits { &SPLITS[..] } else { &SPLITS[..1] };
            variants.extend(kinds.iter().map(|kind| gemm(tiling, kind)));
            variants.extend(splits.iter().map(|&split| gemm(Tiling { split, ..tiling }, &kinds[0])));
        }
    }
    variants.extend(with_bits(Variant::weights("pack")));
    if capability == (9, 0) && operands.contains(&Element::Bf16) {
        let one = dit_persistent::variants().into_iter();
        variants.extend(one.map(|variant| variant.compiled_for([("EIGHT_BITS", 0)])));
    }
    for (channels_first, square) in [(0, 1), (1, vision.merge)] {
        let order = [("CHANNELS_FIRST", channels_first), ("SQUARE", square)];
        let patches = with_bits(Variant::patches());
        variants.extend(patches.map(|variant| variant.compiled_for(order)));
    }
    variants.extend(images::kinds().map(|kind| Variant::images().compiled_for(kind)));
    let entries = ["embed", "add_rows", "convert", "euler"];
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

#[cfg(test)]
mod tests {
    use super::super::sources::SOURCES;
    use super::*;
    fn of_all_devices() -> Vec<Variant> {
        let of = |capability| every_kind(&Config::default(), &Element::ALL, capability);
        of((8, 0)).into_iter().chain(of((9, 0))).collect()
    }

    #[test]
    fn every_source_has_a_variant() {
        let variants = of_all_devices();
        for (file, _) in SOURCES {
            assert!(variants.iter().any(|variant| variant.file == *file), "{file} is compiled for nothing");
        }
    }

    #[test]
    fn variants_differ_and_each_says_whether_it_meets_elements_of_8_bits() {
        let variants = every_kind(&Config::default(), &Element::ALL, (9, 0));
        let different: HashSet<_> = variants.iter().collect();
        assert_eq!(different.len(), variants.len());
        for variant in &variants {
            let says = variant.defines.iter().filter(|(name, _)| *name == "EIGHT_BITS").count();
            assert_eq!(says, 1, "{variant}");
        }
    }

    #[test]
    fn nothing_of_8_bits_is_compiled_for_a_policy_without() {
        for variant in every_kind(&Config::default(), &[Element::F32, Element::Bf16], (9, 0)) {
            assert!(variant.defines.contains(&("EIGHT_BITS", 0)), "{variant}");
        }
    }
}
