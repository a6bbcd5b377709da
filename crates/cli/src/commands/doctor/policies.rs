//! What becomes of each policy on this machine.

use super::args::DoctorArgs;
use super::machine::{Gpu, PolicyHere, Runs};
use crate::{demo_assets, engines};
use anyhow::Result;
use std::path::{Path, PathBuf};
use steadyhand_fidelity::Format;
use steadyhand_gr00t::cuda;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::PrecisionPolicy;

/// The checkpoint, and the presets and named policies on it. `gpu` is where the CUDA engine would run; why it cannot
/// run at all otherwise.
///
/// # Errors
/// The checkpoint cannot be loaded: then the reference cannot run either.
pub fn look(args: &DoctorArgs, gpu: Result<&Gpu, &str>) -> Result<(PathBuf, Vec<PolicyHere>)> {
    let checkpoint = match &args.checkpoint {
        Some(folder) => folder.clone(),
        None => demo_assets::temporary()?.checkpoint,
    };
    let model = load_model(&checkpoint)?;
    let sites = model.sites()?;
    let names = PrecisionPolicy::PRESETS.into_iter().chain(args.precision.iter().map(String::as_str));
    let policies = names.map(|name| here(name, &checkpoint, &model, &sites, gpu)).collect();
    Ok((checkpoint, policies))
}

fn here(
    name: &str,
    checkpoint: &Path,
    model: &Model,
    sites: &[ModelSite],
    gpu: Result<&Gpu, &str>,
) -> PolicyHere {
    let (runs, reason) = match engines::policy(name, checkpoint, model, None) {
        Err(error) => (Runs::Refused, Some(crate::describe(&error))),
        Ok(policy) => match native(&policy, sites, gpu) {
            Ok(()) => (Runs::Native, None),
            Err(reason) => (Runs::Emulated, Some(reason)),
        },
    };
    PolicyHere { policy: name.to_owned(), runs, reason }
}

/// Whether the CUDA engine runs the policy, or the first reason why not.
fn native(policy: &PrecisionPolicy, sites: &[ModelSite], gpu: Result<&Gpu, &str>) -> Result<(), String> {
    cuda::check(policy, sites).map_err(|error| error.to_string())?;
    let gpu = gpu?;
    let lacking = sites.iter().filter(|site| site.operation.multiplies()).find_map(|site| {
        let compute = policy.formats_of(&site.path).compute;
        let has = compute == Format::F32 || gpu.tensor_core_formats.contains(&compute);
        (!has).then_some((&site.path, compute))
    });
    match lacking {
        None => Ok(()),
        Some((site, format)) => {
            let (major, minor) = gpu.compute_capability;
            let name = &gpu.name;
            Err(format!("site `{site}`: {name}, compute capability {major}.{minor}, multiplies no {format}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::capability::tensor_core_formats;
    use super::*;
    use steadyhand_gr00t::synthetic::tiny;

    fn gpu(capability: (u32, u32)) -> Gpu {
        Gpu {
            name: "a GPU".to_owned(),
            compute_capability: capability,
            multiprocessors: 16,
            memory_bytes: 1 << 34,
            tensor_core_formats: tensor_core_formats(capability),
            problem: None,
        }
    }

    #[test]
    fn a_policy_needs_an_engine_and_hardware_that_take_its_formats() {
        let sites = Model::synthetic(tiny(), 1).unwrap().sites().unwrap();
        let (turing, orin) = (gpu((7, 5)), gpu((8, 7)));
        let run = |name: &str, gpu| native(&PrecisionPolicy::preset(name).unwrap(), &sites, gpu);
        for name in ["f32", "bf16", "fp16", "mixed", "mixed-fp16"] {
            assert_eq!(run(name, Ok(&orin)), Ok(()), "{name}");
            assert_eq!(run(name, Err("no driver")), Err("no driver".to_owned()), "{name}");
        }
        // A Turing GPU multiplies fp16 alone.
        assert_eq!(run("fp16", Ok(&turing)), Ok(()));
        let reason = run("bf16", Ok(&turing)).unwrap_err();
        assert!(reason.contains("compute capability 7.5, multiplies no bf16"), "{reason}");
        let reason = run("fp8", Ok(&orin)).unwrap_err();
        assert!(reason.contains("site `vision.layer.0.query`") && reason.contains("fp8_e4m3"), "{reason}");
    }
}
