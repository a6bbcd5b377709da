#!/usr/bin/env python3
"""Runs an engine on what `steady record` wrote, and saves its outputs for `steady diagnose`.

    steady record --inferences 4 --out recorded
    python3 run_engine.py dit.onnx recorded engine
    steady diagnose --b trace:engine

The engine here is a graph exported with `steady export onnx`, under our names or NVIDIA's (`--io-names nvidia`), of any
precision, in ONNX Runtime: a DiT, which is called once an Euler step, or a whole policy. For TensorRT or PyTorch replace
`load`, `bindings` and `run`; nothing else knows what the engine is. Outputs are saved in the type the engine gave them:
whatever went wrong with types must still be visible in the file. What the recording says of its episode, steps and seed
goes into the trace, so that diagnose can hold it against its options; `--precision NAME` adds what the engine ran at.
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime
from safetensors import safe_open
from safetensors.numpy import save_file

KEPT = ("checkpoint", "dataset", "embodiment_tag", "episode", "steps", "seed", "denoising_steps")
TYPES = {"float": np.float32, "float16": np.float16, "double": np.float64, "int64": np.int64, "int32": np.int32, "bool": np.bool_}


def load(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def bindings(engine):
    """Name -> element type of each input, and the names of all outputs."""
    return {i.name: i.type[7:-1] for i in engine.get_inputs()}, [o.name for o in engine.get_outputs()]


def run(engine, names, inputs):
    return dict(zip(names, engine.run(names, inputs)))


def cast(name, values, type_):
    """A recorded tensor in the type of its input; numpy has none for bf16."""
    if type_ == "bfloat16":
        raise SystemExit(f"{name}: this input is bfloat16, which numpy does not have: export with --io-names steady, whose "
                         "inputs are f32, or run the graph with `steady engine run`")
    if type_ not in TYPES:
        raise SystemExit(f"{name}: expected an input of type {', '.join(TYPES)}, found {type_}")
    return np.ascontiguousarray(values).astype(TYPES[type_])


def inputs_of(read, wanted, inference, step, image_token):
    """What the recording has for each input, by our names and NVIDIA's."""
    at = f"{inference}/step.{step}." if step is not None else f"{inference}/"
    ids = read(f"{inference}/input_ids")
    known = {
        "state_action_tokens": lambda: read(at + "dit.tokens"), "sa_embs": lambda: read(at + "dit.tokens"),
        "vl_features": lambda: read(f"{inference}/action_head.vl_norm"), "vl_embs": lambda: read(f"{inference}/action_head.vl_norm"),
        "timestep": lambda: read(at + "timestep"), "image_mask": lambda: ids == image_token,
        "backbone_attention_mask": lambda: np.ones(ids.shape, bool), "input_ids": lambda: ids,
        "state": lambda: read(f"{inference}/action_head.state"),
    }
    found = {}
    for name, type_ in wanted.items():
        try:
            values = known[name]() if name in known else read(f"{inference}/{name}")
        except KeyError:
            raise SystemExit(f"{name}: the recording has no tensor for this input of the engine; record with --all, or map it in `inputs_of`")
        found[name] = cast(name, values, type_)
    return found


def main(engine_path, recorded, out, *options):
    recorded, out = pathlib.Path(recorded), pathlib.Path(out)
    precision = options[1] if len(options) == 2 and options[0] == "--precision" else None
    if options and precision is None:
        raise SystemExit(f"expected --precision NAME after the three paths, found {' '.join(options)}")
    if out.exists():
        raise SystemExit(f"{out}: expected a folder that does not exist yet")
    if not (recorded / "manifest.json").exists():
        raise SystemExit(f"{recorded}: expected a folder that `steady record` wrote, found no manifest.json")
    manifest = json.loads((recorded / "manifest.json").read_text())
    said, files = manifest["metadata"], {tensor["name"]: tensor["file"] for tensor in manifest["tensors"]}
    read = lambda name: safe_open(recorded / files[name], "np").get_tensor(name)
    engine = load(engine_path)
    wanted, names = bindings(engine)
    steps = range(int(said["denoising_steps"])) if "timestep" in wanted else [None]
    metadata = {key: said[key] for key in KEPT if key in said}
    # A stage is fed what was recorded before it; a policy feeds itself.
    metadata["mode"] = "isolated" if "timestep" in wanted or "backbone_features" in wanted else "run"
    if precision:
        metadata["precision"] = precision
    traces = {}
    for inference in sorted({name.split("/")[0] for name in files}):
        outputs = {}
        for step in steps:
            made = run(engine, names, inputs_of(read, wanted, inference, step, int(said["image_token_index"])))
            for name, values in made.items():
                # The one output of a DiT is called `output`; any other output has the name of its tap.
                tap = "dit.output" if name == "output" else name
                outputs[f"{inference}/step.{step}.{tap}" if step is not None else f"{inference}/{tap}"] = np.ascontiguousarray(values)
        traces[inference] = outputs
    # Nothing is written where a call fails.
    out.mkdir(parents=True)
    tensors, kinds = [], {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "int32": "I32", "bool": "BOOL"}
    for inference, outputs in traces.items():
        file = f"{inference}.safetensors"
        save_file(outputs, out / file)
        tensors += [{"name": n, "dtype": kinds[str(v.dtype)], "shape": list(v.shape), "file": file} for n, v in outputs.items()]
    (out / "manifest.json").write_text(json.dumps({"format": manifest["format"], "version": manifest["version"], "complete": True, "metadata": metadata, "tensors": tensors}, indent=1))
    print(f"{out}: {len(tensors)} tensors of {len(traces)} inferences")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
