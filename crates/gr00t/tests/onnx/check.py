"""Checks exported graphs with the onnx package and runs them with ONNX Runtime on the CPU.

Arguments: folders with graph.onnx, graph.onnx.data and, where the graph is to be run, case.safetensors:
tensors `in.NAME` for the graph's inputs and `out.NAME` for what the reference gave. Prints one JSON object
a folder: {"folder", "checked": true or the checker's words, "relative_l2": {NAME: distance}}.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

DTYPES = {"F32": np.float32, "I64": np.int64, "BOOL": np.bool_}


def read_safetensors(path):
    """Name -> array; the format is a length, a JSON table and the bytes."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, entry in json.loads(raw[8:end]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            values = np.frombuffer(raw[end + first : end + last], DTYPES[entry["dtype"]])
            tensors[name] = values.reshape(entry["shape"])
    return tensors


def run(folder):
    tensors = read_safetensors(folder / "case.safetensors")
    options = onnxruntime.SessionOptions()
    # Constants that no kernel can fold are worth no warning here.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        folder / "graph.onnx", options, providers=["CPUExecutionProvider"]
    )
    feeds = {item.name: tensors["in." + item.name] for item in session.get_inputs()}
    names = [item.name for item in session.get_outputs()]
    distances = {}
    for name, found in zip(names, session.run(names, feeds)):
        expected = tensors["out." + name].astype(np.float64)
        if found.shape != expected.shape:
            raise ValueError(f"{name}: expected shape {expected.shape}, found {found.shape}")
        error = np.linalg.norm(found.astype(np.float64) - expected)
        distances[name] = float(error / max(np.linalg.norm(expected), 1e-300))
    return distances


def main():
    for folder in map(Path, sys.argv[1:]):
        result = {"folder": str(folder), "checked": True, "relative_l2": {}}
        try:
            onnx.checker.check_model(str(folder / "graph.onnx"), full_check=True)
        except Exception as error:  # the words are the test's to judge
            result["checked"] = str(error)
        try:
            if (folder / "case.safetensors").exists():
                result["relative_l2"] = run(folder)
        except Exception as error:
            result["error"] = str(error)
        print(json.dumps(result), flush=True)


main()
