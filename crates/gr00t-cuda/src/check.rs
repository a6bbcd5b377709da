//! What the engine executes of a precision policy. The functions here are the only ones that refuse a format: the
//! layout of the weights and the recording of programs ask them site by site, [`check`] asks them for all sites of a
//! model before anything is loaded.

use super::elements::{E4M3_CAPABILITY, Element, Scaling, SiteElements, Stored};
use crate::{Error, Result};
use steadyhand_fidelity::Format;
use steadyhand_gr00t::ops::{ModelSite, Operation};
use steadyhand_gr00t::precision::{ActivationScale, PrecisionPolicy, Scale};

/// Whether kernels can follow the policy at these sites: on a device of this compute capability, or on some device.
/// What an operation does not use is not judged.
///
/// # Errors
/// The first site with a format that no kernel has, or whose operands the device's tensor cores do not have; rounding at
/// random.
pub fn check(policy: &PrecisionPolicy, sites: &[ModelSite], capability: Option<(u32, u32)>) -> Result<()> {
    to_nearest(policy)?;
    for ModelSite { path, operation } in sites {
        if operation.multiplies() {
            let operands = operands(policy, path, *operation)?;
            exists_on(policy, path, operands.compute, capability)?;
        } else if operation.accumulates() {
            norm_storage(policy, path)?;
        } else {
            storage(policy, path)?;
        }
        if let (Operation::Linear, Some(layer)) = (operation, path.strip_suffix(".gate")) {
            gate_up_operands(policy, path, &format!("{layer}.up"))?;
        }
        if let (Operation::Rotary, Some(layer)) = (operation, path.strip_suffix(".query_rope")) {
            rotary_storage(policy, path, &format!("{layer}.key_rope"))?;
        }
    }
    Ok(())
}

/// What results at a site are rounded to and stored in.
///
/// # Errors
/// A format that no kernel stores.
pub fn storage(policy: &PrecisionPolicy, path: &str) -> Result<Element> {
    let format = policy.formats_of(path).storage;
    let element = Element::of(format).filter(|element| *element != Element::E4m3);
    element
        .ok_or_else(|| refusal(policy, path, &format!("storage: expected f32, bf16 or fp16, found {format}")))
}

/// What results at the site of a norm are rounded to and stored in: its sums are f32.
///
/// # Errors
/// A format that no kernel stores, or sums in.
pub fn norm_storage(policy: &PrecisionPolicy, path: &str) -> Result<Element> {
    let element = storage(policy, path)?;
    sums_in_f32(policy, path)?;
    Ok(element)
}

/// The formats of an operation that multiplies matrices. Operands of 8 bits are for linear layers alone.
///
/// # Errors
/// Formats that no kernel stores, multiplies or sums in; e4m3 without a scale or a calibration that knows the site;
/// rounding at random.
pub fn operands(policy: &PrecisionPolicy, path: &str, operation: Operation) -> Result<SiteElements> {
    to_nearest(policy)?;
    let storage = storage(policy, path)?;
    let (compute, scaling) = multiplied(policy, path)?;
    if compute == Element::E4m3 && operation != Operation::Linear {
        let what = format!("compute: expected f32, bf16 or fp16 in {operation}, found fp8_e4m3");
        return Err(refusal(policy, path, &what));
    }
    if compute == Element::E4m3 && scaling.is_none() {
        // What exceeds it would be no number, which saturating kernels do not give.
        let what = "scale: expected per_tensor or per_channel with fp8_e4m3, found none";
        return Err(refusal(policy, path, what));
    }
    if let (Operation::Linear, Some(weights)) = (operation, policy.formats_of(path).weights) {
        return Err(refusal(policy, path, &format!("weights: expected none, found {weights}")));
    }
    if let (Operation::Linear, Some(activations)) = (operation, policy.formats_of(path).activations) {
        return Err(refusal(policy, path, &format!("activations: expected none, found {activations}")));
    }
    sums_in_f32(policy, path)?;
    Ok(SiteElements { storage, compute, scaling })
}

/// What a matrix product at a site multiplies, and how that is scaled.
///
/// # Errors
/// A format that no kernel multiplies; a calibration that does not know the site.
pub fn multiplied(policy: &PrecisionPolicy, path: &str) -> Result<(Element, Option<Scaling>)> {
    let formats = policy.formats_of(path);
    let compute = Element::of(formats.compute).ok_or_else(|| {
        let what = format!("compute: expected f32, bf16, fp16 or fp8_e4m3, found {}", formats.compute);
        refusal(policy, path, &what)
    })?;
    let scaling = match (compute, formats.scale) {
        (Element::E4m3, Scale::PerTensor | Scale::PerChannel) => Some(Scaling {
            by_layer: formats.scale == Scale::PerTensor,
            activations: policy.activation_scale(path)?,
        }),
        _ => None,
    };
    Ok((compute, scaling))
}

/// What a kernel can store its result as for a matrix product at a site: none where the scale depends on all of the
/// result.
///
/// # Errors
/// As [`multiplied`].
pub fn as_operand(policy: &PrecisionPolicy, path: &str) -> Result<Option<Stored>> {
    let (element, scaling) = multiplied(policy, path)?;
    Ok(match scaling.map(|scaling| scaling.activations) {
        None => Some(element.into()),
        Some(ActivationScale::Calibrated(amax)) => Some(Stored { element, amax: Some(amax) }),
        Some(ActivationScale::Dynamic) => None,
    })
}

/// The formats of a gate and of what it multiplies: one GEMM computes both. Results may be stored differently.
///
/// # Errors
/// As [`operands`]; operands that are not the same.
pub fn gate_up_operands(policy: &PrecisionPolicy, gate: &str, up: &str) -> Result<SiteElements> {
    let of = |path| operands(policy, path, Operation::Linear);
    let (of_gate, of_up) = (of(gate)?, of(up)?);
    if (of_gate.compute, of_gate.scaling) != (of_up.compute, of_up.scaling) {
        let describe = |formats: SiteElements| match formats.scaling {
            None => formats.compute.format().to_string(),
            Some(scaling) => format!("{} with {scaling:?}", formats.compute.format()),
        };
        let (expected, found) = (describe(of_gate), describe(of_up));
        let what = format!("compute: expected {expected} as at `{gate}`, both being one GEMM, found {found}");
        return Err(refusal(policy, up, &what));
    }
    Ok(of_gate)
}

/// What the query and the key heads of a layer are rounded to when they are rotated: their angles are one table.
///
/// # Errors
/// As [`storage`]; storage that is not the same.
pub fn rotary_storage(policy: &PrecisionPolicy, query: &str, key: &str) -> Result<Element> {
    let (of_query, of_key) = (storage(policy, query)?, storage(policy, key)?);
    if of_query != of_key {
        let (expected, found) = (of_query.format(), of_key.format());
        let what = format!(
            "storage: expected {expected} as at `{query}`, both reading one table of angles, found {found}"
        );
        return Err(refusal(policy, key, &what));
    }
    Ok(of_query)
}

/// Whether a device's tensor cores have an element type.
fn exists_on(
    policy: &PrecisionPolicy,
    path: &str,
    element: Element,
    capability: Option<(u32, u32)>,
) -> Result<()> {
    let Some((major, minor)) = capability.filter(|capability| !element.exists_on(*capability)) else {
        return Ok(());
    };
    let (least_major, least_minor) = E4M3_CAPABILITY;
    let what = format!(
        "compute: expected f32, bf16 or fp16 on a GPU of compute capability {major}.{minor}, found fp8_e4m3, which \
         begins with {least_major}.{least_minor}"
    );
    Err(refusal(policy, path, &what))
}

fn to_nearest(policy: &PrecisionPolicy) -> Result<()> {
    if policy.is_stochastic() {
        let what = "expected rounding to nearest for the CUDA engine, found stochastic rounding";
        return Err(steadyhand_gr00t::Error::input(format!("precision {policy}"), what).into());
    }
    Ok(())
}

fn sums_in_f32(policy: &PrecisionPolicy, path: &str) -> Result<()> {
    match policy.formats_of(path).accumulate {
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
    use std::collections::BTreeMap;
    use steadyhand_gr00t::model::Model;
    use steadyhand_gr00t::precision::Calibration;
    use steadyhand_gr00t::precision::Formats;
    use steadyhand_gr00t::synthetic::{tiny, tiny_n1_7};

    #[test]
    fn a_format_without_a_kernel_is_refused_with_its_site() {
        let formats = Formats::new(Format::F32, Format::Fp8E5m2, Format::F32);
        let policy = PrecisionPolicy::preset("mixed").unwrap().with("dit.block.3", formats);
        let at = "dit.block.3.fc1";
        let error = operands(&policy, at, Operation::Linear).unwrap_err().to_string();
        assert!(error.contains("`dit.block.3.fc1`") && error.contains("found fp8_e5m2"), "{error}");
        assert_eq!(storage(&policy, at).unwrap(), Element::F32);
        assert!(operands(&policy, "dit.block.4.fc1", Operation::Linear).is_ok());
    }

    #[test]
    fn the_first_site_without_kernels_is_named() {
        let sites_of = |config| Model::synthetic(config, 1).unwrap().sites().unwrap();
        let sites = sites_of(tiny());
        let preset = |name| PrecisionPolicy::preset(name).unwrap();
        for name in PrecisionPolicy::PRESETS {
            check(&preset(name), &sites, None).expect(name);
            check(&preset(name), &sites_of(tiny_n1_7()), None).expect(name);
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
            let error = check(&policy, &sites, None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_one_kernel_computes_has_the_same_formats() {
        let sites = Model::synthetic(tiny(), 1).unwrap().sites().unwrap();
        let mixed = PrecisionPolicy::preset("mixed").unwrap();
        let (f32, bf16) = (Format::F32, Format::Bf16);
        let error = |path: &str, formats| {
            let policy = mixed.clone().with(path, formats);
            check(&policy, &sites, None).unwrap_err().to_string()
        };
        assert_eq!(
            error("language.layer.1.up", Formats::new(f32, f32, f32)),
            "precision mixed: site `language.layer.1.up`: the CUDA engine cannot: compute: \
             expected bf16 as at `language.layer.1.gate`, both being one GEMM, found f32"
        );
        assert_eq!(
            error("language.layer.1.query_rope", Formats::new(bf16, f32, f32)),
            "precision mixed: site `language.layer.1.key_rope`: the CUDA engine cannot: \
             storage: expected bf16 as at `language.layer.1.query_rope`, both reading one table of angles, found f32"
        );
        // Formats that both have are no reason.
        let wide = Formats::new(bf16, f32, f32);
        for pair in [["gate", "up"], ["query_rope", "key_rope"]] {
            let both = |policy: PrecisionPolicy, name| policy.with(&format!("language.layer.1.{name}"), wide);
            check(&pair.into_iter().fold(mixed.clone(), both), &sites, None).unwrap();
        }
    }

    #[test]
    fn a_device_without_e4m3_refuses_it_with_its_site() {
        let sites = Model::synthetic(tiny(), 1).unwrap().sites().unwrap();
        let preset = |name| PrecisionPolicy::preset(name).unwrap();
        check(&preset("fp8"), &sites, Some((8, 9))).unwrap();
        check(&preset("mixed"), &sites, Some((8, 0))).unwrap();
        let error = check(&preset("fp8"), &sites, Some((8, 7))).unwrap_err().to_string();
        let expected = "site `vision.layer.0.query`: the CUDA engine cannot: compute: expected f32, bf16 or fp16 on a \
                        GPU of compute capability 8.7, found fp8_e4m3, which begins with 8.9";
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn only_a_known_scale_lets_a_kernel_store_an_operand() {
        let fp8 = PrecisionPolicy::preset("fp8").unwrap();
        let at = "dit.block.0.fc1";
        assert_eq!(as_operand(&fp8, at).unwrap(), None);
        let wide = PrecisionPolicy::preset("mixed").unwrap();
        assert_eq!(as_operand(&wide, at).unwrap(), Some(Element::Bf16.into()));
        let amax = BTreeMap::from([(at.to_owned(), 3.0)]);
        let known = fp8.with_calibration(Calibration::new(String::new(), "", "", 1, 1, 100.0, amax));
        let scaled = Stored { element: Element::E4m3, amax: Some(3.0) };
        assert_eq!(as_operand(&known, at).unwrap(), Some(scaled));
    }

    #[test]
    fn what_an_operation_does_not_use_is_not_judged() {
        let sites = Model::synthetic(tiny(), 1).unwrap().sites().unwrap();
        let unused = Formats::new(Format::F32, Format::Fp8E4m3, Format::Fp16);
        let policy = PrecisionPolicy::preset("mixed").unwrap().with("euler", unused);
        check(&policy, &sites, None).unwrap();
        assert_eq!(storage(&policy, "euler").unwrap(), Element::F32);
    }
}
