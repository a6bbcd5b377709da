#!/usr/bin/env python3
"""Runs an engine on what `steady record` wrote, and saves its outputs for `steady diagnose`.

    steady record --inferences 4 --out recorded
    python3 run_engine.py dit.onnx recorded engine
    steady diagnose --b trace:engine --isolated

The engine here is a graph exported with `steady export onnx`, under our names or NVIDIA's (`--io-names nvidia`), of any
precision, in ONNX Runtime: a part that NVIDIA's exporter cuts, some of which are called once an Euler step, or a whole policy. For TensorRT or PyTorch replace
`load`, `bindings`, `run` and `precision_of`; nothing else knows what the engine is. Outputs are saved in the type the engine
gave them: whatever went wrong with types must still be visible in the file. numpy has no bf16: such a tensor is its 16 bits
a value, as uint16. What the recording says of its episode, steps and seed goes into the trace, so that diagnose can hold it
against its options, and so does what the engine ran at: what its graph says, or `--precision NAME`.
"""

import ctypes
import json
import pathlib
import struct
import sys

try:
    import numpy as np
    import onnxruntime
    from safetensors import safe_open
except ImportError as missing:
    raise SystemExit(f"{missing.name} is not installed: pip install numpy onnxruntime safetensors")

KEPT = ("checkpoint", "dataset", "embodiment_tag", "episode", "steps", "seed", "denoising_steps")
# Element types by their names in ONNX: that of numpy, and that of safetensors.
TYPES = {
    "float": (np.float32, "F32"), "float16": (np.float16, "F16"), "bfloat16": (np.uint16, "BF16"), "double": (np.float64, "F64"),
    "int64": (np.int64, "I64"), "int32": (np.int32, "I32"), "bool": (np.bool_, "BOOL"),
}
ONNX_BFLOAT16 = 16
# What the vision tower of NVIDIA's cut gives, by the tap that each is.
VISION_TAPS = {"vit_embeds": "vision.post_layernorm", "image_embeds": "vision.merger"}


def load(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def bindings(engine):
    """Name -> element type of each input, and the names of all outputs."""
    return {i.name: i.type[7:-1] for i in engine.get_inputs()}, [o.name for o in engine.get_outputs()]


def precision_of(engine):
    """What the graph says of its number formats, if it does."""
    return engine.get_modelmeta().custom_metadata_map.get("steadyhand.precision")


def run(engine, names, inputs):
    """Name -> (element type, values) of each output for inputs of the same form."""
    values = {name: ort_value(*typed) for name, typed in inputs.items()}
    return {name: from_ort_value(name, value) for name, value in zip(names, engine.run_with_ort_values(names, values))}


def ort_value(type_, values):
    if type_ == "bfloat16":
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(values, ONNX_BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(values)


def from_ort_value(name, value):
    type_, shape = value.data_type()[7:-1], value.shape()
    if type_ not in TYPES:
        raise SystemExit(f"output {name}: expected one of {', '.join(TYPES)}, found {type_}")
    if type_ != "bfloat16":
        return type_, np.ascontiguousarray(value.numpy())
    bits = ctypes.string_at(value.data_ptr(), 2 * int(np.prod(shape)))
    return type_, np.frombuffer(bits, np.uint16).reshape(shape)


def cast(name, values, type_):
    """A recorded tensor in the type of its input; to bf16 it is rounded to the nearest, ties to even."""
    if type_ not in TYPES:
        raise SystemExit(f"input {name}: expected one of {', '.join(TYPES)}, found {type_}")
    if type_ != "bfloat16":
        return type_, np.ascontiguousarray(values).astype(TYPES[type_][0])
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16
    return type_, np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def inputs_of(read, said, wanted, inference, step):
    """What the recording has for each input, by our names and NVIDIA's."""
    at = f"{inference}/step.{step}." if step is not None else f"{inference}/"
    # What the DiT attends to; a model of N1.7 has more between.
    memory = f"{inference}/{said.get('dit_memory', 'action_head.vl_norm')}"
    ids = read(f"{inference}/input_ids")
    known = {
        "state_action_tokens": lambda: read(at + "dit.tokens"), "sa_embs": lambda: read(at + "dit.tokens"),
        "vl_features": lambda: read(memory), "vl_embs": lambda: read(memory),
        "vl_norm": lambda: read(f"{inference}/action_head.vl_norm"), "hidden_states": lambda: read(f"{inference}/action_head.vl_norm"),
        "actions_in": lambda: read(at + "actions_in"), "actions": lambda: read(at + "actions_in"),
        "dit_output": lambda: read(at + "dit.output"), "model_output": lambda: read(at + "dit.output"),
        "timestep": lambda: read(at + "timestep"), "timesteps": lambda: read(at + "timestep"), "image_mask": lambda: ids == int(said["image_token_index"]),
        "backbone_attention_mask": lambda: np.ones(ids.shape, bool), "input_ids": lambda: ids,
        "state": lambda: read(f"{inference}/action_head.state"),
        "inputs_embeds": lambda: read(f"{inference}/language.inputs"), "attention_mask": lambda: np.ones(ids.shape, np.int64),
        "visual_pos_masks": lambda: ids == int(said["image_token_index"]), "pixel_values": lambda: pixels_of(read, inference),
    }
    known |= {f"deepstack_{k}": lambda k=k: read(f"{inference}/vision.deepstack.{k}")[0] for k in range(3)}
    found = {}
    for name, type_ in wanted.items():
        try:
            values = known[name]() if name in known else read(f"{inference}/{name}")
        except KeyError:
            raise SystemExit(f"{name}: the recording has no tensor for this input of the engine; record with --all, or map it in `inputs_of`")
        found[name] = cast(name, values, type_)
    return found


def pixels_of(read, inference):
    """The patches of an inference where image tokens have rows and columns (N1.7), all images otherwise (N1.6)."""
    try:
        read(f"{inference}/position_ids")
    except KeyError:
        images = []
        try:
            while True:
                images.append(read(f"{inference}/pixel_values.{len(images)}"))
        except KeyError:
            return np.concatenate(images)
    return read(f"{inference}/vision.patches")[0]


def taps_of(name, part, values):
    """The taps that an output is, with their values."""
    if name == "deepstack_features":
        return {f"vision.deepstack.{index}": layer[None] for index, layer in enumerate(values)}
    if name in VISION_TAPS:
        return {VISION_TAPS[name]: values.reshape(1, -1, values.shape[-1])}
    return {part or name: values}


def part_of(said, wanted):
    """The tap that a part of NVIDIA's cut gives, where it has one output; None for the vision tower and engines of more."""
    parts = {
        "dit.output": {"sa_embs", "state_action_tokens"}, said.get("dit_memory", "action_head.vl_norm"): {"hidden_states", "vl_norm"},
        "action_features": {"actions", "actions_in"}, "decoder": {"model_output", "dit_output"}, said.get("features", "language.norm"): {"inputs_embeds"},
    }
    if set(wanted) == {"state", "embodiment_id"}:
        return "action_head.state_features"
    return next((tap for tap, inputs in parts.items() if inputs & set(wanted)), None)


def save(path, tensors):
    """Name -> (element type, values) as a safetensors file."""
    header, parts, end = {}, [], 0
    for name, (type_, values) in tensors.items():
        parts.append(np.ascontiguousarray(values).tobytes())
        header[name] = {"dtype": TYPES[type_][1], "shape": list(values.shape), "data_offsets": [end, end + len(parts[-1])]}
        end += len(parts[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def main(engine_path, recorded, out, *options):
    recorded, out = pathlib.Path(recorded), pathlib.Path(out)
    precision = options[1] if len(options) == 2 and options[0] == "--precision" else None
    if options and precision is None:
        raise SystemExit(f"expected --precision NAME after the three paths, found {' '.join(options)}")
    if out.exists():
        raise SystemExit(f"{out}: expected a folder that does not exist yet")
    if not pathlib.Path(engine_path).is_file():
        raise SystemExit(f"{engine_path}: expected an engine's file, found none")
    try:
        manifest = json.loads((recorded / "manifest.json").read_text())
        said, files = manifest["metadata"], {tensor["name"]: tensor["file"] for tensor in manifest["tensors"]}
        euler_steps = int(said["denoising_steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{recorded}: expected a folder that `steady record` wrote: {type(error).__name__}: {error}")
    read = lambda name: safe_open(recorded / files[name], "np").get_tensor(name)
    try:
        engine = load(engine_path)
    except Exception as error:  # ONNX Runtime's own have no common class
        hint = " (its CPU multiplies no bf16: export with --products widened)" if "NOT_IMPLEMENTED" in str(error) else ""
        raise SystemExit(f"{engine_path}: ONNX Runtime does not load it: {error}{hint}")
    wanted, names = bindings(engine)
    by_step = {"timestep", "timesteps", "dit_output", "model_output"}
    steps = range(euler_steps) if by_step & set(wanted) else [None]
    metadata = {key: said[key] for key in KEPT if key in said}
    # A stage is fed what was recorded before it; a policy feeds itself.
    part = part_of(said, wanted)
    metadata["mode"] = "isolated" if part or {"backbone_features", "pixel_values"} & set(wanted) else "run"
    if precision := precision or precision_of(engine):
        metadata["precision"] = precision
    traces = {}
    for inference in sorted({name.split("/")[0] for name in files}):
        outputs = {}
        for step in steps:
            inputs = inputs_of(read, said, wanted, inference, step)
            try:
                made = run(engine, names, inputs)
            except Exception as error:
                raise SystemExit(f"{engine_path}: inference {inference}: ONNX Runtime does not run it: {error}")
            for name, (type_, values) in made.items():
                if name == "image_mask":
                    continue
                for tap, own in taps_of(name, part, values).items():
                    outputs[f"{inference}/step.{step}.{tap}" if step is not None else f"{inference}/{tap}"] = type_, own
        traces[inference] = outputs
    # Nothing is written where a call fails.
    out.mkdir(parents=True)
    tensors = []
    for inference, outputs in traces.items():
        file = f"{inference}.safetensors"
        save(out / file, outputs)
        tensors += [{"name": n, "dtype": TYPES[type_][1], "shape": list(v.shape), "file": file} for n, (type_, v) in outputs.items()]
    (out / "manifest.json").write_text(json.dumps({"format": manifest["format"], "version": manifest["version"], "complete": True, "metadata": metadata, "tensors": tensors}, indent=1))
    print(f"{out}: {len(tensors)} tensors of {len(traces)} inferences")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    try:
        main(*sys.argv[1:])
    except OSError as error:
        raise SystemExit(f"{error.filename or sys.argv[3]}: {error.strerror or error}")
