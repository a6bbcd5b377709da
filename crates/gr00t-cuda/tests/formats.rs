//! The check of a policy and the engine agree: for every site of a model and every format that a policy can give it,
//! what [`check`] admits is laid out and recorded, and what it refuses is not. No GPU is needed.

mod variations;

use rayon::prelude::*;
use steadyhand_cuda_driver::Properties;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::model::{Batch, Layout, Model};
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::synthetic::{tiny, tiny_n1_7};
use steadyhand_gr00t_cuda::{check, plan};
use variations::variations;

/// GPUs with e4m3 whose GEMMs are those of warps, and of warpgroups.
const CAPABILITIES: [(u32, u32); 2] = [(8, 9), (9, 0)];

fn device(compute_capability: (u32, u32)) -> Properties {
    Properties {
        name: "planned".to_owned(),
        compute_capability,
        multiprocessors: 132,
        total_memory: 80 << 30,
        l2_bytes: 50 << 20,
        driver_version: 13000,
        shared_memory_per_block: if compute_capability == (9, 0) { 227 << 10 } else { 99 << 10 },
    }
}

/// What `check` and the plan say where they do not agree.
fn disagreement(model: &Model, sites: &[ModelSite], policy: &PrecisionPolicy) -> Option<String> {
    let side = model.config.image_token_side();
    let layout =
        Layout::example(&model.config, &[[2 * side, 3 * side]], model.config.state_rows().unwrap_or(3), 2);
    let batch = Batch::of_layout(&model.config, &layout).expect("a layout that fits");
    for capability in CAPABILITIES {
        let checked = check(policy, sites, Some(capability)).map_err(|error| error.to_string());
        let planned = plan(model, policy, &batch, device(capability)).map_err(|error| error.to_string());
        match (checked, planned) {
            (Ok(()), Err(error)) => return Some(format!("{policy}: admitted, and then: {error}")),
            (Err(error), Ok(_)) => return Some(format!("{policy}: recorded, and refused before: {error}")),
            (Err(error), _) if !error.contains("site `") => {
                return Some(format!("{policy}: no site named: {error}"));
            }
            _ => {}
        }
    }
    None
}

#[test]
fn the_check_and_the_engine_agree_at_every_site_in_every_format() {
    agree(tiny());
}

#[test]
fn the_check_and_the_engine_agree_on_n1_7() {
    agree(tiny_n1_7());
}

fn agree(config: Config) {
    let model = Model::synthetic(config, 1).expect("consistent sizes");
    let sites = model.sites().expect("sites");
    let mut policies = Vec::new();
    for name in PrecisionPolicy::PRESETS {
        policies.push(PrecisionPolicy::preset(name).expect("a preset"));
    }
    for name in ["mixed", "fp8"] {
        policies.extend(variations(&PrecisionPolicy::preset(name).expect("a preset"), &sites));
    }
    let found: Vec<String> =
        policies.par_iter().filter_map(|policy| disagreement(&model, &sites, policy)).collect();
    assert!(
        found.is_empty(),
        "{} of {} policies:\n{}",
        found.len(),
        policies.len(),
        found[..found.len().min(20)].join("\n")
    );
    // Neither side may admit everything, nor refuse it.
    let refused = policies.iter().filter(|policy| check(policy, &sites, None).is_err()).count();
    assert!(refused > policies.len() / 4 && refused < policies.len() / 2, "{refused} refused");
}
