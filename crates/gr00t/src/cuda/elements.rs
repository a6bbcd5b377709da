//! What values are stored in on the device.

use crate::ops::{ModelSite, Site};
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

/// Whether kernels can follow the policy at these sites. What an operation does not use is not judged.
///
/// # Errors
/// The first site with a format that no kernel has; rounding at random.
pub fn check(policy: &PrecisionPolicy, sites: &[ModelSite]) -> Result<()> {
    to_nearest(policy)?;
    sites.iter().try_for_each(|ModelSite { path, operation }| {
        let formats = policy.formats_of(path);
        element(policy, path, "storage", formats.storage)?;
        if operation.multiplies() {
            element(policy, path, "compute", formats.compute)?;
        }
        if operation.accumulates() {
            accumulation(policy, path, formats.accumulate)?;
        }
        Ok(())
    })
}

/// What results at a site are rounded to and stored in, of a policy that [`check`] found fit.
///
/// # Errors
/// A format that no kernel has; the site is named.
pub fn storage(policy: &PrecisionPolicy, site: &Site) -> Result<Element> {
    element(policy, site.path(), "storage", policy.formats(site).storage)
}

/// The formats at the site of a matrix product.
///
/// # Errors
/// The policy asks for what no kernel does; the site is named.
pub fn elements(policy: &PrecisionPolicy, site: &Site) -> Result<SiteElements> {
    to_nearest(policy)?;
    let (path, formats) = (site.path(), policy.formats(site));
    accumulation(policy, path, formats.accumulate)?;
    Ok(SiteElements {
        storage: element(policy, path, "storage", formats.storage)?,
        compute: element(policy, path, "compute", formats.compute)?,
    })
}

fn to_nearest(policy: &PrecisionPolicy) -> Result<()> {
    match policy.is_stochastic() {
        true => Err(Error::input(
            format!("precision {policy}"),
            "expected rounding to nearest for the CUDA engine, found stochastic rounding",
        )),
        false => Ok(()),
    }
}

/// The element type of a format at a site. Those of 8 bits have none, so scales are refused with them.
fn element(policy: &PrecisionPolicy, path: &str, role: &str, format: Format) -> Result<Element> {
    Element::of(format)
        .ok_or_else(|| refusal(policy, path, &format!("{role}: expected f32, bf16 or fp16, found {format}")))
}

fn accumulation(policy: &PrecisionPolicy, path: &str, format: Format) -> Result<()> {
    match format {
        Format::F32 => Ok(()),
        other => Err(refusal(policy, path, &format!("accumulate: expected f32, found {other}"))),
    }
}

fn refusal(policy: &PrecisionPolicy, path: &str, what: &str) -> Error {
    Error::input(format!("precision {policy}"), format!("site `{path}`: the CUDA engine cannot: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;
    use crate::precision::Formats;
    use crate::synthetic::tiny;

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
        let at = Site::new("dit.block.3.fc1");
        let error = elements(&policy, &at).unwrap_err().to_string();
        assert!(error.contains("`dit.block.3.fc1`") && error.contains("found fp8_e4m3"), "{error}");
        assert_eq!(storage(&policy, &at).unwrap(), Element::F32);
        assert!(elements(&policy, &Site::new("dit.block.4.fc1")).is_ok());
    }

    #[test]
    fn the_first_site_without_kernels_is_named() {
        let sites = Model::synthetic(tiny(), 1).unwrap().sites().unwrap();
        let preset = |name| PrecisionPolicy::preset(name).unwrap();
        for name in ["f32", "bf16", "fp16", "mixed", "mixed-fp16"] {
            check(&preset(name), &sites).expect(name);
        }
        let narrow = Formats::new(Format::F32, Format::Fp16, Format::Fp16);
        let tf32 = Formats::new(Format::Tf32, Format::F32, Format::F32);
        for (policy, expected) in [
            (
                preset("fp8"),
                "precision fp8: site `vision.layer.0.query`: the CUDA engine cannot: compute: expected f32, bf16 or \
                 fp16, found fp8_e4m3",
            ),
            (
                preset("mixed").with("dit.block.1.norm1", narrow),
                "site `dit.block.1.norm1`: the CUDA engine cannot: accumulate: expected f32, found fp16",
            ),
            (preset("f32").with("euler", tf32), "site `euler`: the CUDA engine cannot: storage"),
            (preset("bf16").stochastic(1), "found stochastic rounding"),
        ] {
            let error = check(&policy, &sites).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_an_operation_does_not_use_is_not_judged() {
        let sites = Model::synthetic(tiny(), 1).unwrap().sites().unwrap();
        let unused = Formats::new(Format::F32, Format::Fp8E4m3, Format::Fp16);
        let policy = PrecisionPolicy::preset("mixed").unwrap().with("euler", unused);
        check(&policy, &sites).unwrap();
        assert_eq!(storage(&policy, &Site::new("euler")).unwrap(), Element::F32);
    }
}
