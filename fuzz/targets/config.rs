//! `config.json`. A configuration that is taken makes a model, whose shapes are inferred.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use steadyhand_fuzz::Scratch;
use steadyhand_gr00t::config::Config;
use steadyhand_gr00t::model::Model;

static FOLDER: LazyLock<Scratch> = LazyLock::new(|| Scratch::new(None));

fuzz_target!(|data: &[u8]| {
    FOLDER.put("config.json", data);
    if let Ok(config) = Config::load(FOLDER.path()) {
        let model = Model::synthetic(config, 1).expect("a configuration that was taken");
        let _ = model.sites();
    }
});
