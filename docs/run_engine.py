#!/usr/bin/env python3
"""Runs an engine on what `steady record` wrote, and saves its outputs for `steady diagnose`.

    steady record --inferences 4 --out recorded
    python3 run_engine.py dit.onnx recorded engine
    steady diagnose --b trace:engine --isolated

The engine here is a DiT exported with `steady export onnx --component dit --io-names nvidia`, in ONNX
Runtime. For TensorRT or PyTorch replace `load` and `run`; nothing else knows what the engine is. Outputs are
saved in the type the engine gave them: whatever went wrong with types must still be visible in the file.
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime
from safetensors import safe_open
from safetensors.numpy import save_file


def load(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(engine, inputs):
    """One call: sa_embs, vl_embs, timestep, image_mask, backbone_attention_mask -> output."""
    names = {binding.name for binding in engine.get_inputs()}
    return engine.run(["output"], {name: value for name, value in inputs.items() if name in names})[0]


def main(engine_path, recorded, out):
    recorded, out = pathlib.Path(recorded), pathlib.Path(out)
    manifest = json.loads((recorded / "manifest.json").read_text())
    metadata, files = manifest["metadata"], {tensor["name"]: tensor["file"] for tensor in manifest["tensors"]}
    read = lambda name: safe_open(recorded / files[name], "np").get_tensor(name)
    engine = load(engine_path)
    out.mkdir()
    for inference in sorted({name.split("/")[0] for name in files}):
        ids, outputs = read(f"{inference}/input_ids"), {}
        for step in range(int(metadata["denoising_steps"])):
            outputs[f"{inference}/step.{step}.dit.output"] = run(engine, {
                "sa_embs": read(f"{inference}/step.{step}.dit.tokens"),
                "vl_embs": read(f"{inference}/action_head.vl_norm"),
                "timestep": read(f"{inference}/step.{step}.timestep"),
                "image_mask": ids == int(metadata["image_token_index"]),
                "backbone_attention_mask": np.ones(ids.shape, bool),
            })
        save_file(outputs, out / f"{inference}.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
