//! What is said where ONNX Runtime cannot be loaded. A file of its own: a process keeps the first library.

use std::path::Path;
use steadyhand_external::onnxruntime::{OnnxRuntimeEngine, RuntimeOptions};
use steadyhand_gr00t::policy::load_model;
use steadyhand_gr00t::precision::PrecisionPolicy;

#[test]
fn places_that_were_looked_at_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let garbage = folder.path().join("libonnxruntime.so.1");
    let refusal = |path: &Path| {
        let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/checkpoint");
        let model = load_model(&checkpoint).expect("the demo");
        let policy = PrecisionPolicy::preset("f32").expect("a preset");
        let runtime = RuntimeOptions { library: Some(path.to_path_buf()), ..RuntimeOptions::default() };
        match OnnxRuntimeEngine::exporting(model, "test", policy, 4, &runtime) {
            Ok(_) => panic!("expected a refusal"),
            Err(error) => error.to_string(),
        }
    };
    let empty = refusal(folder.path());
    assert!(empty.contains("pip install onnxruntime"), "{empty}");
    assert!(empty.ends_with(&format!("{}: no library", folder.path().display())), "{empty}");
    assert!(refusal(&garbage).ends_with(&format!("{}: nothing there", garbage.display())));
    std::fs::write(&garbage, b"not a library").expect("a file");
    let damaged = refusal(folder.path());
    assert!(damaged.contains(&format!("{}: failed to load", garbage.display())), "{damaged}");
}
