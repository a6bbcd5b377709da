#!/usr/bin/env python3
"""Episodes a second of `steady eval` on one GPU and on several, and whether both leave the same results.

usage: eval_devices.py STEADY [--devices 0,1] [--workers-each 1] [--episodes 96] [--steps 200] [--precision bf16]
           [--model-path DIR] [--dataset-path DIR] [--repeats 3] [--at-least RATIO] [--json FILE] [--cpu]

Without --dataset-path a dataset of many episodes is made from the demo's four, in a temporary folder; without
--model-path the checkpoint is the demo's, which is small: what is measured then is mostly how frames are decoded. Every
repetition evaluates with the first GPU alone and then with all of them; the time is that between the first episode's
beginning and the last one's end (`timings.evaluating` of the report), policies open. Reports must be equal but for times,
to the last digit. --workers-each has several policies on each GPU, in both cases. --cpu runs the reference in place of
cuda, one policy and as many as there are --devices, to try this program without a GPU.

Python's standard library alone. Exit code 0 where the results are equal and the median ratio is at least RATIO.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from kill_eval import ROOT, many_episodes, timeless


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("steady", type=Path)
    parser.add_argument("--devices", default="0,1")
    parser.add_argument("--workers-each", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=96)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--model-path", type=Path, default=ROOT / "demo/checkpoint")
    parser.add_argument("--dataset-path", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--at-least", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    devices = args.devices.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = args.dataset_path
        if dataset is None:
            dataset = folder / "dataset"
            many_episodes(dataset, args.episodes)

        def run(count):
            """Episodes a second with so many GPUs, and the report."""
            command = [args.steady.resolve(), "eval", "--model-path", args.model_path, "--dataset-path", dataset]
            command += ["--traj-ids", f"0-{args.episodes - 1}", "--steps", args.steps, "--precision", args.precision]
            command += ["--html-episodes", 0, "--out", "out", "--workers", count * args.workers_each]
            command += ["--engine", "cpu"] if args.cpu else ["--engine", "cuda", "--device", ",".join(devices[:count])]
            shutil.rmtree(folder / "out", ignore_errors=True)
            ran = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True)
            if ran.returncode != 0:
                sys.exit(f"{ran.stdout}{ran.stderr}steady eval ended with {ran.returncode}")
            report = json.loads((folder / "out/report.json").read_text())
            evaluating = report["timings"]["evaluating"]
            if evaluating["workers"] != count * args.workers_each:
                sys.exit(f"expected {count * args.workers_each} policies, found {evaluating['workers']}")
            return len(report["episodes"]) / evaluating["seconds"], timeless(report)

        # Kernels are compiled and files are read once before.
        _, expected = run(len(devices))
        rates, equal = {1: [], len(devices): []}, True
        for _ in range(args.repeats):
            for count in rates:
                rate, report = run(count)
                rates[count].append(rate)
                equal &= report == expected
        medians = {count: statistics.median(found) for count, found in rates.items()}
        ratio = medians[len(devices)] / medians[1]
        for count, found in rates.items():
            each = ", ".join(f"{rate:.2f}" for rate in found)
            print(f"{count} {'of the CPU' if args.cpu else 'GPU' if count == 1 else 'GPUs'}: {medians[count]:.2f} episodes/s (median of {each})")
        print(f"ratio {ratio:.2f}; reports equal but for times: {'yes' if equal else 'NO'}; MSE {expected['mse']:.6f}")
        if args.json is not None:
            options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
            found = {"options": options, "episodes_per_second": rates, "medians": medians, "ratio": ratio, "equal": equal}
            args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if equal and ratio >= args.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
