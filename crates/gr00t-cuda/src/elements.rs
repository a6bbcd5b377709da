//! What values are stored in on the device.

use crate::{Error, Result};
use steadyhand_cuda_driver::ElementType;
use steadyhand_fidelity::Format;
use steadyhand_gr00t::ops::{ModelSite, Operation, Site};
use steadyhand_gr00t::precision::{ActivationScale, PrecisionPolicy, Scale};

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
const E4M3_CAPABILITY: (u32, u32) = (8, 9);

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
    /// What the operands of products are.
    pub compute: Element,
    /// How they are scaled, where they have 8 bits.
    pub scaling: Option<Scaling>,
}

impl SiteElements {
    /// What a kernel can store its result as for a product at this site: none where the scale depends on all of the
    /// result.
    pub fn operand(&self) -> Option<Stored> {
        match self.scaling.map(|scaling| scaling.activations) {
            None => Some(self.compute.into()),
            Some(ActivationScale::Calibrated(amax)) => {
                Some(Stored { element: self.compute, amax: Some(amax) })
            }
            Some(ActivationScale::Dynamic) => None,
        }
    }
}

/// Whether the kernels of some device can follow the policy at these sites. What an operation does not use is not
/// judged.
///
/// # Errors
/// The first site with a format that no kernel has; rounding at random.
pub fn check(policy: &PrecisionPolicy, sites: &[ModelSite]) -> Result<()> {
    to_nearest(policy)?;
    sites.iter().try_for_each(|ModelSite { path, operation }| {
        let formats = policy.formats_of(path);
        stored(policy, path, formats.storage)?;
        if operation.multiplies() {
            multiplies(policy, path, *operation)?;
        }
        if operation.accumulates() {
            accumulation(policy, path, formats.accumulate)?;
        }
        Ok(())
    })
}

/// [`check`] for a device of this compute capability.
///
/// # Errors
/// Those of [`check`]; the first site whose operands the device's tensor cores do not have.
pub fn check_on(policy: &PrecisionPolicy, sites: &[ModelSite], capability: (u32, u32)) -> Result<()> {
    check(policy, sites)?;
    let missing = |site: &&ModelSite| {
        let compute = Element::of(policy.formats_of(&site.path).compute);
        site.operation.multiplies() && compute.is_some_and(|element| !element.exists_on(capability))
    };
    let Some(site) = sites.iter().find(missing) else { return Ok(()) };
    let ((major, minor), (least_major, least_minor)) = (capability, E4M3_CAPABILITY);
    let what = format!(
        "compute: expected f32, bf16 or fp16 on a GPU of compute capability {major}.{minor}, found fp8_e4m3, which \
         begins with {least_major}.{least_minor}"
    );
    Err(refusal(policy, &site.path, &what))
}

/// What results at a site are rounded to and stored in, of a policy that [`check`] found fit.
///
/// # Errors
/// A format that no kernel has; the site is named.
pub fn storage(policy: &PrecisionPolicy, site: &Site) -> Result<Element> {
    stored(policy, site.path(), policy.formats(site).storage)
}

/// The formats at the site of a matrix product.
///
/// # Errors
/// The policy asks for what no kernel does; the site is named.
pub fn elements(policy: &PrecisionPolicy, site: &Site) -> Result<SiteElements> {
    to_nearest(policy)?;
    let (path, formats) = (site.path(), policy.formats(site));
    accumulation(policy, path, formats.accumulate)?;
    let compute = operand(policy, path, formats.compute)?;
    let scaling = match (compute, formats.scale) {
        (Element::E4m3, Scale::None) => return Err(refusal(policy, path, UNSCALED)),
        (Element::E4m3, scale) => {
            Some(Scaling { by_layer: scale == Scale::PerTensor, activations: policy.activation_scale(path)? })
        }
        _ => None,
    };
    Ok(SiteElements { storage: stored(policy, path, formats.storage)?, compute, scaling })
}

fn to_nearest(policy: &PrecisionPolicy) -> Result<()> {
    match policy.is_stochastic() {
        true => Err(steadyhand_gr00t::Error::input(
            format!("precision {policy}"),
            "expected rounding to nearest for the CUDA engine, found stochastic rounding",
        )
        .into()),
        false => Ok(()),
    }
}

/// Why e4m3 without a scale is refused: what exceeds it would be no number, which saturating kernels do not give.
const UNSCALED: &str = "scale: expected per_tensor or per_channel with fp8_e4m3, found none";

/// The element type of a storage format at a site.
fn stored(policy: &PrecisionPolicy, path: &str, format: Format) -> Result<Element> {
    let element = Element::of(format).filter(|element| *element != Element::E4m3);
    element
        .ok_or_else(|| refusal(policy, path, &format!("storage: expected f32, bf16 or fp16, found {format}")))
}

/// The element type of a compute format at a site.
fn operand(policy: &PrecisionPolicy, path: &str, format: Format) -> Result<Element> {
    Element::of(format).ok_or_else(|| {
        refusal(policy, path, &format!("compute: expected f32, bf16, fp16 or fp8_e4m3, found {format}"))
    })
}

/// Whether there are products of this kind with the site's operands: 8 bits are for linear layers alone.
fn multiplies(policy: &PrecisionPolicy, path: &str, operation: Operation) -> Result<()> {
    let formats = policy.formats_of(path);
    let compute = operand(policy, path, formats.compute)?;
    match (compute, operation) {
        (Element::E4m3, Operation::Linear) if formats.scale == Scale::None => {
            Err(refusal(policy, path, UNSCALED))
        }
        (Element::E4m3, operation) if operation != Operation::Linear => {
            let what =
                format!("compute: expected f32, bf16 or fp16 in {operation}, found {}", formats.compute);
            Err(refusal(policy, path, &what))
        }
        _ => Ok(()),
    }
}

fn accumulation(policy: &PrecisionPolicy, path: &str, format: Format) -> Result<()> {
    match format {
        Format::F32 => Ok(()),
        other => Err(refusal(policy, path, &format!("accumulate: expected f32, found {other}"))),
    }
}

fn refusal(policy: &PrecisionPolicy, path: &str, what: &str) -> Error {
    let what = format!("site `{path}`: the CUDA engine cannot: {what}");
    steadyhand_gr00t::Error::input(format!("precision {policy}"), what).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadyhand_gr00t::model::Model;
    use steadyhand_gr00t::precision::Formats;
    use steadyhand_gr00t::synthetic::tiny;

    #[test]
    fn elements_survive_encoding() {
        let values = [0.0, -1.5, 448.0, 1.0 / 3.0];
        for element in Element::ALL {
            let rounded: Vec<f32> = values.iter().map(|v| element.format().round(*v)).collect();
            assert_eq!(element.decode(&element.encode(&values)), rounded, "{element:?}");
        }
    }

    #[test]
    fn a_format_without_a_kernel_is_refused_with_its_site() {
        let formats = Formats::new(Format::F32, Format::Fp8E5m2, Format::F32);
        let policy = PrecisionPolicy::preset("mixed").unwrap().with("dit.block.3", formats);
        let at = Site::new("dit.block.3.fc1");
        let error = elements(&policy, &at).unwrap_err().to_string();
        assert!(error.contains("`dit.block.3.fc1`") && error.contains("found fp8_e5m2"), "{error}");
        assert_eq!(storage(&policy, &at).unwrap(), Element::F32);
        assert!(elements(&policy, &Site::new("dit.block.4.fc1")).is_ok());
    }

    #[test]
    fn the_first_site_without_kernels_is_named() {
        let sites = Model::synthetic(tiny(), 1).unwrap().sites().unwrap();
        let preset = |name| PrecisionPolicy::preset(name).unwrap();
        for name in PrecisionPolicy::PRESETS {
            check(&preset(name), &sites).expect(name);
        }
        let narrow = Formats::new(Format::F32, Format::Fp16, Format::Fp16);
        let unscaled = Formats::new(Format::F32, Format::Fp8E4m3, Format::F32);
        let small = Formats::new(Format::Fp8E4m3, Format::F32, Format::F32);
        let tf32 = Formats::new(Format::Tf32, Format::F32, Format::F32);
        for (policy, expected) in [
            (
                preset("mixed").with("dit.block.1", unscaled),
                "site `dit.block.1.modulation`: the CUDA engine cannot: scale: expected per_tensor or per_channel with \
                 fp8_e4m3, found none",
            ),
            (
                preset("mixed").with("dit.block.1.attention", unscaled),
                "site `dit.block.1.attention`: the CUDA engine cannot: compute: expected f32, bf16 or fp16 in \
                 attention, found fp8_e4m3",
            ),
            (
                preset("mixed").with("language.layer.0.norm1", small),
                "site `language.layer.0.norm1`: the CUDA engine cannot: storage: expected f32, bf16 or fp16",
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
    fn a_device_without_e4m3_refuses_it_with_its_site() {
        let sites = Model::synthetic(tiny(), 1).unwrap().sites().unwrap();
        let preset = |name| PrecisionPolicy::preset(name).unwrap();
        check_on(&preset("fp8"), &sites, (8, 9)).unwrap();
        check_on(&preset("mixed"), &sites, (8, 0)).unwrap();
        let error = check_on(&preset("fp8"), &sites, (8, 7)).unwrap_err().to_string();
        let expected = "site `vision.layer.0.query`: the CUDA engine cannot: compute: expected f32, bf16 or fp16 on a \
                        GPU of compute capability 8.7, found fp8_e4m3, which begins with 8.9";
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn only_a_known_scale_lets_a_kernel_store_an_operand() {
        let fp8 = PrecisionPolicy::preset("fp8").unwrap();
        let at = Site::new("dit.block.0.fc1");
        assert_eq!(elements(&fp8, &at).unwrap().operand(), None);
        let wide = elements(&PrecisionPolicy::preset("mixed").unwrap(), &at).unwrap();
        assert_eq!(wide.operand(), Some(Element::Bf16.into()));
        let known = Scaling { by_layer: false, activations: ActivationScale::Calibrated(3.0) };
        let scaled = SiteElements { compute: Element::E4m3, scaling: Some(known), ..wide };
        assert_eq!(scaled.operand(), Some(Stored { element: Element::E4m3, amax: Some(3.0) }));
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
