//! Options that cannot work.

use crate::support::{Demo, read_tensors, repo, steady, write_tensors};
use std::fs;

#[test]
fn an_unknown_embodiment_lists_the_known_ones() {
    Demo::copy().eval(&["--embodiment-tag", "gr1"]).refuses(&["gr1", "known: new_embodiment"]);
}

#[test]
fn a_checkpoint_of_several_embodiments_needs_one_named() {
    let demo = Demo::copy();
    demo.rewrite_json("processor_config.json", |config| {
        let configs = &mut config["processor_kwargs"]["modality_configs"];
        configs["gr1"] = configs["new_embodiment"].clone();
    });
    demo.eval(&[]).refuses(&["--embodiment-tag", "gr1, new_embodiment"]);
    demo.eval(&["--embodiment-tag", "new_embodiment"]).succeeds();
}

#[test]
fn numbers_that_make_no_sense() {
    let demo = Demo::copy();
    for option in ["--action-horizon", "--denoising-steps", "--steps"] {
        demo.eval(&[option, "0"]).refuses(&[option, "at least 1", "found 0"]);
        demo.eval(&[option, "-1"]).refuses(&[]);
    }
    // Known before an engine is opened: the runtime that is not there is not missed.
    let horizon = ["--action-horizon", "17", "--engine", "onnxruntime", "--onnxruntime", "nowhere"];
    demo.eval(&horizon).refuses(&["action_horizon", "at most 16", "new_embodiment", "found 17"]);
    demo.eval(&["--precision", "fp4"]).refuses(&["--precision", "fp4", "bf16", ".toml"]);
    let narrow = demo.folder().join("narrow.toml");
    fs::write(&narrow, "base = \"mixed\"\n[[site]]\npattern = \"dit.block.0.fc1\"\ncompute = \"fp8_e5m2\"\n")
        .unwrap();
    demo.eval(&["--engine", "cuda", "--precision", narrow.to_str().unwrap()]).refuses(&[
        "precision narrow",
        "`dit.block.0.fc1`",
        "found fp8_e5m2",
    ]);
    demo.eval(&["--engine", "cpu", "--device", "0"]).refuses(&["--device", "cuda, auto or tensorrt"]);
    demo.eval(&["--engine", "cpu", "--kernel-cache", "kernels"]).refuses(&["--kernel-cache", "cuda or auto"]);
    demo.eval(&["--save-plot-path", "plot.pdf"]).refuses(&["--save-plot-path", ".png", ".pdf"]);
    steady(demo.folder(), ["eval", "--no-such-option"]).refuses(&["--no-such-option"]);
}

#[test]
fn recorded_noise_is_missing_or_does_not_fit() {
    let demo = Demo::copy();
    let folder = demo.folder().join("noise");
    let options = ["--noise", folder.to_str().unwrap()];
    demo.eval(&options).refuses(&["noise/episode_000000.safetensors"]);

    fs::create_dir(&folder).unwrap();
    let path = folder.join("episode_000000.safetensors");
    let mut tensors = read_tensors(&repo("tests/fixtures/demo_expected/episode_000000.safetensors"));
    tensors.get_mut("noise").unwrap().1 = vec![13, 32, 16];
    write_tensors(&path, &tensors);
    demo.eval(&options).refuses(&[path.to_str().unwrap(), "noise", "[2, 16, 32]", "[13, 32, 16]"]);

    tensors.get_mut("noise").unwrap().1 = vec![13, 16, 32];
    write_tensors(&path, &tensors);
    demo.eval(&options).succeeds();
    let longer = [&options[..], &["--steps", "209"]].concat();
    demo.eval(&longer).refuses(&["noise", "[14, 16, 32]", "[13, 16, 32]"]);

    let (_, _, bytes) = tensors.get_mut("noise").unwrap();
    bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    write_tensors(&path, &tensors);
    demo.eval(&options).refuses(&[path.to_str().unwrap(), "noise", "NaN at 0"]);

    tensors.remove("noise");
    write_tensors(&path, &tensors);
    demo.eval(&options).refuses(&[path.to_str().unwrap(), "noise", "found none"]);
}

#[test]
fn a_file_stands_where_the_output_goes() {
    let demo = Demo::copy();
    fs::write(demo.folder().join("taken"), "").unwrap();
    demo.eval(&["--out", "taken"]).refuses(&["taken"]);
    demo.eval(&["--json", "taken/report.json"]).refuses(&["taken"]);
    demo.eval(&["--save-plot-path", "taken"]).refuses(&["taken"]);
    steady(demo.folder(), ["demo", "--out", "taken"]).refuses(&["taken"]);
    // Nothing was computed for a result that cannot be kept.
    assert!(!demo.folder().join("steady-out/episode000_output_cpu.png").exists());
}

#[test]
fn sizes_that_no_machine_holds_are_refused_before_memory_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let huge = usize::MAX.to_string();
    let sizes = format!("{huge}x{huge}");
    let shorter = format!("{0}x{0}", 28_u64 << 40);
    for (option, value) in [
        ("--batch", "65535"),
        ("--views", "100000000"),
        ("--image-size", &huge),
        ("--text-tokens", &huge),
        ("--action-horizon", &huge),
        ("--frame-size", &sizes),
    ] {
        let words = ["bench", "--checkpoint", "synth:tiny", "--engine", "cpu", option, value];
        let what = if option == "--batch" { "is not in 1..=1024" } else { "expected" };
        steady(folder.path(), words).refuses(&[what]);
    }
    let checkpoint = repo("demo/checkpoint");
    for (option, value) in
        [("--image", &sizes), ("--image", &shorter), ("--state-horizon", &huge), ("--denoising-steps", &huge)]
    {
        let words = ["export", "onnx", "--checkpoint", checkpoint.to_str().unwrap(), "--out", "x.onnx"];
        let image = if option == "--image" { [option, value] } else { ["--image", "28x28"] };
        let words = words.into_iter().chain(image);
        match option {
            "--image" => steady(folder.path(), words).refuses(&["expected"]),
            _ => steady(folder.path(), words.chain([option, value])).refuses(&["expected at most"]),
        };
    }
}
