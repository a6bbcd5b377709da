"""A real bf16 engine whose host reads the DiT's output in fp16.

usage: misread.py POLICY.onnx RECORDED OUT

Runs a bf16 export of the whole policy in ONNX Runtime on what `steady record --all` left. The DiT's output of each Euler
step leaves the graph, is read as fp16 bit by bit, and enters the graph again, as a host does that binds its buffer to the
wrong type. Leaves OUT/full (every tap), OUT/stages (what leaves the stages) and OUT/actions (final actions alone, for
expected:).
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from safetensors import safe_open
from safetensors.numpy import save_file

OUTPUT = "dit.output"


def recording(folder):
    """Metadata, and the tensors of each inference."""
    manifest = json.loads((folder / "manifest.json").read_text())
    inferences = {}
    for tensor in manifest["tensors"]:
        inference, name = tensor["name"].split("/", 1)
        with safe_open(folder / tensor["file"], "np") as file:
            inferences.setdefault(inference, {})[name] = file.get_tensor(tensor["name"])
    return manifest["metadata"], inferences


def cut(model, steps, taps):
    """What makes the DiT's output of a step stays; what reads it reads an input of the graph. Taps become outputs."""
    graph = model.graph
    made = {output for node in graph.node for output in node.output}
    for step in range(steps):
        output = f"step.{step}.{OUTPUT}"
        given, narrow = f"misread.{step}", f"misread.{step}.bf16"
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == output:
                    node.input[index] = narrow
        graph.input.append(helper.make_tensor_value_info(given, TensorProto.FLOAT, [1, None, None]))
        graph.node.insert(0, helper.make_node("Cast", [given], [narrow], to=TensorProto.BFLOAT16))
    shown = [tap for tap in taps if tap in made]
    for tap in shown:
        # Python's runtime has no arrays of bf16; a wider format changes no value.
        graph.node.append(helper.make_node("Cast", [tap], [f"shown.{tap}"], to=TensorProto.FLOAT))
        graph.output.append(helper.make_tensor_value_info(f"shown.{tap}", TensorProto.FLOAT, None))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]), shown


def misread(values):
    """The fp16 numbers that the bits of bf16 numbers stand for."""
    bits = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits.view(np.float16).astype(np.float32)


def run(session, shown, recorded, steps):
    """Every tap as the host saw it."""
    given = {
        "input_ids": recorded["input_ids"],
        "embodiment_id": recorded["embodiment_id"],
        "state": recorded["action_head.state"],
        "noise": recorded["noise"],
        **{name: values for name, values in recorded.items() if name.startswith("pixel_values.")},
    }
    names = {value.name for value in session.get_inputs()}
    given = {name: values for name, values in given.items() if name in names}
    given |= {f"misread.{step}": np.zeros_like(recorded[f"step.{step}.{OUTPUT}"]) for step in range(steps)}
    for step in range(steps):
        (output,) = session.run([f"shown.step.{step}.{OUTPUT}"], given)
        given[f"misread.{step}"] = misread(output)
    found = dict(zip(shown, session.run([f"shown.{tap}" for tap in shown], given)))
    for step in range(steps):
        found[f"step.{step}.{OUTPUT}"] = given[f"misread.{step}"]
    # Keys and values of cross-attention: all tokens in the graph, the attended ones in the taps.
    return {tap: values for tap, values in found.items() if values.shape == recorded[tap].shape}


def save(folder, metadata, tensors):
    folder.mkdir(parents=True)
    for inference, of_one in tensors.items():
        named = {f"{inference}/{tap}": np.ascontiguousarray(values) for tap, values in of_one.items()}
        save_file(named, folder / f"{inference}.safetensors", metadata)


def main(graph, recorded, out):
    metadata, inferences = recording(recorded)
    steps = int(metadata["denoising_steps"])
    kept = ("denoising_steps", "episode", "steps", "seed")
    metadata = {key: metadata[key] for key in kept} | {"precision": "bf16", "mode": "run"}
    session, shown = cut(onnx.load(graph), steps, list(inferences["000"]))
    found = {name: run(session, shown, tensors, steps) for name, tensors in inferences.items()}
    ends = ("vision.post_layernorm", "connector", "backbone_features", "action_head.state_features", OUTPUT, "decoder")
    stage = lambda tap: tap == "action_pred" or any(tap.endswith(name) for name in ends)
    save(out / "full", metadata, found)
    save(out / "stages", metadata, {name: {t: v for t, v in of.items() if stage(t)} for name, of in found.items()})
    shape = inferences["000"]["noise"].shape[-2:]
    actions = np.stack([of["action_pred"].reshape(shape) for of in found.values()])
    noise = np.stack([tensors["noise"].reshape(shape) for tensors in inferences.values()])
    (out / "actions").mkdir()
    save_file({"normalized_actions.engine": actions, "noise": noise}, out / "actions/episode_000000.safetensors")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
