//! A precision policy's TOML, checked against the sites of a small model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use steadyhand_fuzz::Scratch;
use steadyhand_gr00t::model::Model;
use steadyhand_gr00t::ops::ModelSite;
use steadyhand_gr00t::precision::PrecisionPolicy;
use steadyhand_gr00t::synthetic;

static FOLDER: LazyLock<Scratch> = LazyLock::new(|| Scratch::new(None));
static SITES: LazyLock<Vec<ModelSite>> = LazyLock::new(|| {
    Model::synthetic(synthetic::tiny(), 1).and_then(|model| model.sites()).expect("sizes that fit")
});

fuzz_target!(|data: &[u8]| {
    let path = FOLDER.put("policy.toml", data);
    if let Ok(policy) = PrecisionPolicy::from_toml_file(&path) {
        let _ = policy.check(&SITES);
        policy.identity();
    }
});
