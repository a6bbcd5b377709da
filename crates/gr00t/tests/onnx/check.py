"""Checks exported graphs with the onnx package and runs them.

Arguments: `onnxruntime` or `reference`, what runs them: ONNX Runtime on the CPU, or the onnx package's own
evaluator, slow but with every operation in every format. Then folders with graph.onnx, graph.onnx.data and, where the graph is to be run, case.safetensors:
tensors `in.NAME` for the graph's inputs and `out.NAME` for what the reference gave, or `last.NAME` for what it gave for the
last tokens, those before them being padding. Prints one JSON object
a folder: {"folder", "checked": true or the checker's words, "relative_l2": {NAME: distance}}.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

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


def run_onnxruntime(path, tensors):
    """Output name -> array."""
    options = onnxruntime.SessionOptions()
    # Constants that no kernel can fold are worth no warning here.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {item.name: tensors["in." + item.name] for item in session.get_inputs()}
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds)))


def run_reference(path, tensors):
    """Output name -> array."""
    evaluator = ReferenceEvaluator(str(path))
    feeds = {name: tensors["in." + name] for name in evaluator.input_names}
    return dict(zip(evaluator.output_names, evaluator.run(None, feeds)))


def distances(runner, folder):
    tensors = read_safetensors(folder / "case.safetensors")
    result = {}
    for name, found in runner(folder / "graph.onnx", tensors).items():
        if "last." + name in tensors:
            expected = tensors["last." + name].astype(np.float64)
            found = found[:, -expected.shape[1] :]
        else:
            expected = tensors["out." + name].astype(np.float64)
        if found.shape != expected.shape:
            raise ValueError(f"{name}: expected shape {expected.shape}, found {found.shape}")
        error = np.linalg.norm(found.astype(np.float64) - expected)
        result[name] = float(error / max(np.linalg.norm(expected), 1e-300))
    return result


def main():
    runner = {"onnxruntime": run_onnxruntime, "reference": run_reference}[sys.argv[1]]
    for folder in map(Path, sys.argv[2:]):
        result = {"folder": str(folder), "checked": True, "relative_l2": {}}
        try:
            onnx.checker.check_model(str(folder / "graph.onnx"), full_check=True)
        except Exception as error:  # the words are the test's to judge
            result["checked"] = str(error)
        try:
            if (folder / "case.safetensors").exists():
                result["relative_l2"] = distances(runner, folder)
        except Exception as error:
            result["error"] = str(error)
        print(json.dumps(result), flush=True)


main()
