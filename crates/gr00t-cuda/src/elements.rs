//! What values are stored in on the device.

use steadyhand_cuda_driver::ElementType;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::precision::ActivationScale;

/// An element type; also the code of the format that values are rounded to (`Element` in `numeric.cuh`).
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE binary32.
    F32 = 0,
    /// bfloat16.
    Bf16 = 1,
    /// IEEE binary16.
    Fp16 = 2,
    /// 8 bits with 3 of mantissa and no infinity: operands of linear layers alone, scaled into its range.
    E4m3 = 3,
}

impl Element {
    /// Every element type.
    pub const ALL: [Element; 4] = [Element::F32, Element::Bf16, Element::Fp16, Element::E4m3];

    /// The kernels' number of the type.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::Bf16 | Element::Fp16 => 2,
            Element::E4m3 => 1,
        }
    }

    /// The element type of exactly this format, where the device has kernels for it.
    pub fn of(format: Format) -> Option<Self> {
        match format {
            Format::F32 => Some(Element::F32),
            Format::Bf16 => Some(Element::Bf16),
            Format::Fp16 => Some(Element::Fp16),
            Format::Fp8E4m3 => Some(Element::E4m3),
            Format::Tf32 | Format::Fp8E5m2 => None,
        }
    }

    /// What holds the values of both types without rounding any.
    pub fn common(self, other: Element) -> Element {
        if self == other { self } else { Element::F32 }
    }

    /// The format of the values.
    pub fn format(self) -> Format {
        match self {
            Element::F32 => Format::F32,
            Element::Bf16 => Format::Bf16,
            Element::Fp16 => Format::Fp16,
            Element::E4m3 => Format::Fp8E4m3,
        }
    }

    /// Whether every device that the engine runs on has it: e4m3 begins with compute capability 8.9.
    pub fn exists_on(self, capability: (u32, u32)) -> bool {
        self != Element::E4m3 || capability >= E4M3_CAPABILITY
    }

    /// Values as they lie in memory, rounded.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Element::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Element::Bf16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            Element::Fp16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            Element::E4m3 => values.iter().map(|v| Format::Fp8E4m3.encode(*v) as u8).collect(),
        }
    }

    /// The values of elements as they lie in memory.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let halves = || bytes.chunks_exact(2).map(|raw| [raw[0], raw[1]]);
        match self {
            Element::F32 => bytes
                .chunks_exact(4)
                .map(|raw| f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]))
                .collect(),
            Element::Bf16 => halves().map(|raw| half::bf16::from_le_bytes(raw).to_f32()).collect(),
            Element::Fp16 => halves().map(|raw| half::f16::from_le_bytes(raw).to_f32()).collect(),
            Element::E4m3 => bytes.iter().map(|raw| Format::Fp8E4m3.decode(u32::from(*raw))).collect(),
        }
    }
}

impl From<Element> for ElementType {
    fn from(element: Element) -> Self {
        match element {
            Element::F32 => ElementType::F32,
            Element::Bf16 => ElementType::Bf16,
            Element::Fp16 => ElementType::F16,
            Element::E4m3 => ElementType::U8,
        }
    }
}

/// The first compute capability whose tensor cores multiply e4m3.
pub(super) const E4M3_CAPABILITY: (u32, u32) = (8, 9);

/// What a tensor is stored as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stored {
    /// Element type.
    pub element: Element,
    /// The magnitude that becomes the largest value of an 8-bit element type, beyond which values saturate.
    pub amax: Option<f32>,
}

impl From<Element> for Stored {
    fn from(element: Element) -> Self {
        Stored { element, amax: None }
    }
}

/// How the operands of a linear layer are scaled into the range of an 8-bit element type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// Whether all weights of the layer share a scale; otherwise those of an output feature do.
    pub by_layer: bool,
    /// That of the activations.
    pub activations: ActivationScale,
}

/// The formats of a site, as the device has them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SiteElements {
    /// What results are rounded to and stored in.
    pub storage: Element,
    /// What the operands of GEMMs are.
    pub compute: Element,
    /// How they are scaled, where they have 8 bits.
    pub scaling: Option<Scaling>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_survive_encoding() {
        let values = [0.0, -1.5, 448.0, 1.0 / 3.0];
        for element in Element::ALL {
            let rounded: Vec<f32> = values.iter().map(|v| element.format().round(*v)).collect();
            assert_eq!(element.decode(&element.encode(&values)), rounded, "{element:?}");
        }
    }
}
