//! What becomes of each policy on this machine.

use super::args::DoctorArgs;
use super::cuda;
use super::machine::{Gpu, PolicyHere, Runs};
use crate::options::demo;
use crate::outcome::describe;
use anyhow::Result;
use std::path::PathBuf;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::policy::{load_model, precision};
use steadyhand_gr00t::precision::PrecisionPolicy;

/// The checkpoint, and the presets and named policies on it. `gpu` is where the CUDA engine would run; why it cannot
/// run at all otherwise.
///
/// # Errors
/// The checkpoint cannot be loaded: then the reference cannot run either.
pub fn look(args: &DoctorArgs, gpu: Result<&Gpu, &str>) -> Result<(PathBuf, Vec<PolicyHere>)> {
    let checkpoint = match &args.checkpoint {
        Some(folder) => folder.clone(),
        None => demo::of_user()?.checkpoint,
    };
    let model = load_model(&checkpoint)?;
    let sites = model.sites()?;
    let names = PrecisionPolicy::PRESETS.into_iter().chain(args.precision.iter().map(String::as_str));
    let policies = names.map(|name| here(name, &model, &sites, gpu)).collect();
    Ok((checkpoint, policies))
}

fn here(name: &str, model: &Model, sites: &[ModelSite], gpu: Result<&Gpu, &str>) -> PolicyHere {
    let (runs, reason) = match precision(model, name, None) {
        Err(error) => (Runs::Refused, Some(describe(&error.into()))),
        Ok(policy) => match native(&policy, sites, gpu) {
            Ok(()) => (Runs::Native, None),
            Err(reason) => (Runs::Emulated, Some(reason)),
        },
    };
    PolicyHere { policy: name.to_owned(), runs, reason }
}

/// Whether the CUDA engine runs the policy, or the first reason why not.
fn native(policy: &PrecisionPolicy, sites: &[ModelSite], gpu: Result<&Gpu, &str>) -> Result<(), String> {
    cuda::check(policy, sites, gpu.ok().map(|gpu| gpu.compute_capability))
        .map_err(|error| error.to_string())?;
    Ok(gpu.map(drop)?)
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::super::capability::tensor_core_formats;
    use super::*;
    use steadyhand_fidelity::Format;
    use steadyhand_gr00t::precision::Formats;
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
        let (orin, ada) = (gpu((8, 7)), gpu((8, 9)));
        let run = |name: &str, gpu| native(&PrecisionPolicy::preset(name).unwrap(), &sites, gpu);
        for name in ["f32", "bf16", "fp16", "mixed", "mixed-fp16"] {
            assert_eq!(run(name, Ok(&orin)), Ok(()), "{name}");
            assert_eq!(run(name, Err("no driver")), Err("no driver".to_owned()), "{name}");
        }
        assert_eq!(run("fp8", Ok(&ada)), Ok(()));
        let reason = run("fp8", Ok(&orin)).unwrap_err();
        assert!(reason.contains("site `vision.layer.0.query`") && reason.contains("fp8_e4m3"), "{reason}");
        // What no kernel has is said where there is no GPU too.
        let narrow = PrecisionPolicy::preset("mixed").unwrap();
        let narrow = narrow.with("euler", Formats::new(Format::Tf32, Format::F32, Format::F32));
        let reason = native(&narrow, &sites, Err("no driver")).unwrap_err();
        assert!(reason.contains("site `euler`"), "{reason}");
    }
}
