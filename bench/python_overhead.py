#!/usr/bin/env python3
"""What `Policy.get_action` takes in Python beyond the same call in Rust.

usage: python_overhead.py [--checkpoint PATH] [--engine cpu] [--precision f32] [--frames 8x8 256x256 480x640] [--calls 200]
           [--at-most MICROSECONDS] [--json FILE]

Needs the package steadyhand. The overhead of a call is its time by `time.perf_counter_ns` less `info["call_ms"]`, the Rust
call's own (frames in memory that Rust owns to physical actions). The frames' bytes must be copied once, so beside it stands
`numpy.copyto` of as many bytes into memory that was used before, also measured after an inference: an engine on the CPU
leaves the caches cold, for both. Medians and the range from the 10th to the 90th percentile, after 10 calls.

The exit code is 1 where, at some size of frames, the median overhead is more than --at-most above that of the copy.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from time import perf_counter_ns

import numpy as np

import steadyhand

WARMUP = 10


def spread(values):
    tenths = statistics.quantiles(values, n=10)
    return {"p50": statistics.median(values), "p10": tenths[0], "p90": tenths[-1]}


def measure(policy, frame, calls):
    """Microseconds of the overhead and of copying the bytes, milliseconds of the Rust call."""
    observation, other = (policy.random_observation(frame=frame, seed=seed) for seed in (0, 1))
    sources = list(other["video"].values())
    targets = [np.zeros_like(source) for source in sources]
    overhead, copying, rust = [], [], []
    for call in range(WARMUP + calls):
        start = perf_counter_ns()
        _, info = policy.get_action(observation)
        taken = perf_counter_ns() - start
        # Other frames than the policy's: those were read just now.
        start = perf_counter_ns()
        for target, source in zip(targets, sources):
            np.copyto(target, source)
        copied = perf_counter_ns() - start
        if call >= WARMUP:
            overhead.append(taken / 1e3 - 1e3 * info["call_ms"])
            copying.append(copied / 1e3)
            rust.append(info["call_ms"])
    size = sum(source.nbytes for source in sources)
    return {"frame": frame, "bytes": size, "overhead_us": spread(overhead), "copy_us": spread(copying), "rust_ms": spread(rust)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint")
    parser.add_argument("--engine", default="cpu")
    parser.add_argument("--precision")
    parser.add_argument("--frames", nargs="+", default=["8x8", "256x256", "480x640"])
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--at-most", type=float)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    policy = steadyhand.Policy.open(
        args.checkpoint or steadyhand.demo().checkpoint, engine=args.engine, precision=args.precision
    )
    rows = []
    print(f"{policy!r}: medians (p10 to p90)")
    for frame in args.frames:
        height, width = map(int, frame.split("x"))
        row = measure(policy, (height, width), args.calls)
        rows.append(row)
        told = {name: "{p50:.1f} ({p10:.1f} to {p90:.1f})".format(**row[name]) for name in ("overhead_us", "copy_us", "rust_ms")}
        print(f"{frame}: overhead {told['overhead_us']} us; copying {row['bytes']} bytes {told['copy_us']} us; Rust {told['rust_ms']} ms")
    if args.json is not None:
        found = {"engine": policy.engine, "precision": policy.precision, "checkpoint": str(policy.path), "rows": rows}
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    beyond = max(row["overhead_us"]["p50"] - row["copy_us"]["p50"] for row in rows)
    print(f"at most {beyond:.1f} us beyond copying the bytes once")
    return 0 if args.at_most is None or beyond <= args.at_most else 1


if __name__ == "__main__":
    sys.exit(main())
