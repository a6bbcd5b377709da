//! What values are stored in on the device.

use crate::ops::Site;
use crate::precision::PrecisionPolicy;
use crate::{Error, Result};
use steadyhand_fidelity::Format;

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
}

impl Element {
    /// Every element type.
    pub const ALL: [Element; 3] = [Element::F32, Element::Bf16, Element::Fp16];

    /// The kernels' number of the type.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::Bf16 | Element::Fp16 => 2,
        }
    }

    /// The element type of exactly this format, where the device has kernels for it.
    pub fn of(format: Format) -> Option<Self> {
        match format {
            Format::F32 => Some(Element::F32),
            Format::Bf16 => Some(Element::Bf16),
            Format::Fp16 => Some(Element::Fp16),
            Format::Tf32 | Format::Fp8E4m3 | Format::Fp8E5m2 => None,
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
        }
    }

    /// Values as they lie in memory, rounded.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Element::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Element::Bf16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            Element::Fp16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
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
        }
    }
}

/// The formats of a site, as the device has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteElements {
    /// What results are rounded to and stored in.
    pub storage: Element,
    /// What the operands of products are.
    pub compute: Element,
}

/// The formats at a site.
///
/// # Errors
/// The policy asks for what no kernel does; the site is named.
pub fn elements(policy: &PrecisionPolicy, site: &Site) -> Result<SiteElements> {
    let formats = policy.formats(site);
    let refuse = |what: &str, format: Format| {
        let message = format!(
            "policy `{policy}` asks for {what} {format:?} at `{}`: the CUDA engine has f32, bf16 and fp16 storage \
             and operands, and accumulates in f32",
            site.path()
        );
        Error::input("precision", message)
    };
    if policy.is_stochastic() {
        return Err(Error::input("precision", "stochastic rounding is the CPU engine's alone"));
    }
    if formats.accumulate != Format::F32 {
        return Err(refuse("accumulation in", formats.accumulate));
    }
    Ok(SiteElements {
        storage: Element::of(formats.storage).ok_or_else(|| refuse("storage in", formats.storage))?,
        compute: Element::of(formats.compute).ok_or_else(|| refuse("operands in", formats.compute))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::Formats;

    #[test]
    fn elements_survive_encoding() {
        let values = [0.0, -1.5, 448.0, 1.0 / 3.0];
        for element in [Element::F32, Element::Bf16, Element::Fp16] {
            let rounded: Vec<f32> = values.iter().map(|v| element.format().round(*v)).collect();
            assert_eq!(element.decode(&element.encode(&values)), rounded, "{element:?}");
        }
    }

    #[test]
    fn a_format_without_a_kernel_is_refused_with_its_site() {
        let formats = Formats::new(Format::F32, Format::Fp8E4m3, Format::F32);
        let policy = PrecisionPolicy::preset("mixed").unwrap().with("dit.block.3", formats);
        let error = elements(&policy, &Site::new("dit.block.3.fc1")).unwrap_err().to_string();
        assert!(error.contains("dit.block.3.fc1") && error.contains("Fp8E4m3"), "{error}");
        assert!(elements(&policy, &Site::new("dit.block.4.fc1")).is_ok());
    }
}
