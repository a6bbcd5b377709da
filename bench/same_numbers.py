#!/usr/bin/env python3
"""Compares what two builds of `steady` print and write, number by number. Python's standard library alone.

usage: same_numbers.py OLD NEW [--out DIR] [--only TEXT] [--full]

OLD and NEW are `steady` binaries. Both run every command of CASES from this repository's root. Of printed text every
number counts, those inside names too (`dit.block.5`); of JSON every key and value; of other files every byte. Not
compared: times, memory, paths, the program's version. Changed wording is counted, and fails nothing. The tokenizer
that golden_processor needs is looked for in ../shared; its cases run without it otherwise.

Exit code: 0 where everything is the same, 1 where something differs, 2 for bad arguments.
"""

import argparse
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT.parent / "shared/tokenizer/eagle"
PRESETS = ["f32", "bf16", "fp16", "mixed", "mixed-fp16", "fp8"]
DEMO = ["--dataset-path", "demo/dataset"]
DEMO_NOISE = ["--noise", "tests/fixtures/demo_expected"]


def cases(full):
    """(name, arguments, files to compare, exit code unless 0). {out} is a folder of the run's own.

    `precision` is `policy` in older builds.
    """
    for preset in PRESETS:
        golden = ["verify", "tests/fixtures/golden", "--precision", preset, "--rows", "500"]
        # fp8 lies above the limits that these fixtures come with; its distances are compared all the same.
        yield f"verify golden {preset}", golden, [], int(preset == "fp8")
    for preset in ["f32", "bf16"]:
        demo = ["verify", "tests/fixtures/demo_expected", "--precision", preset, "--rows", "500"]
        yield f"verify demo_expected {preset}", demo, []
    tokenizer = ["--tokenizer", str(TOKENIZER)] if TOKENIZER.exists() else []
    yield "verify golden_processor", ["verify", "tests/fixtures/golden_processor", *tokenizer, "--rows", "500"], []
    yield "demo", ["demo", "--out", "{out}"], ["report.json", "*.png"]
    evaluate = ["eval", "--model-path", "demo/checkpoint", *DEMO, "--traj-ids", "0", "1", "2", "3"]
    for preset in PRESETS:
        arguments = [*evaluate, *DEMO_NOISE, "--precision", preset, "--out", "{out}"]
        yield f"eval {preset}", arguments, ["report.json", "*.png"]
    for preset in PRESETS:
        arguments = ["record", "--all", "--precision", preset, "--out", "{out}/trace"]
        yield f"record {preset}", arguments, ["trace/manifest.json", "trace/*.safetensors"]
    synthetic = ["record", "--all", "--model-path", "synth:tiny", "--out", "{out}/trace"]
    yield "record synth:tiny", synthetic, ["trace/manifest.json", "trace/*.safetensors"]
    for preset in PRESETS:
        yield f"precision show {preset}", ["precision", "show", preset, "--all"], []
    yield "precision diff", ["precision", "diff", "bf16", "fp8", "--all"], []
    yield "precision calibrate", ["precision", "calibrate", "--frames", "8", "--out", "{out}/c.json"], ["c.json"]
    table = ["precision", "table", *DEMO_NOISE, "--json", "{out}/table.json", "--png", "{out}/table.png"]
    yield "precision table", table, ["table.json", "table.png"]
    misread = ["diagnose", "--b", "expected:tests/fixtures/demo_expected#misread", "--out", "{out}"]
    yield "diagnose misread", misread, ["diagnosis.json", "diagnosis.html"], 1
    for preset in ["bf16", "fp8"]:
        arguments = ["diagnose", "--b", f"cpu:{preset}", "--swaps", "--out", "{out}"]
        yield f"diagnose cpu:{preset}", arguments, ["diagnosis.json", "diagnosis.html"]
        arguments = ["compare", "--b", f"cpu:{preset}", "--out", "{out}"]
        yield f"compare cpu:{preset}", arguments, ["comparison.json"]
    yield "faults", ["faults"], []
    tuned = ["policy.toml", "pareto/*", "calibration.json", "tuning.json"]
    yield "tune", ["tune", "--target", "cpu", "--frames", "2", "--out", "{out}"], tuned
    for preset in PRESETS[:-1]:
        arguments = ["export", "onnx", "--checkpoint", "demo/checkpoint", "--image", "252x252"]
        yield f"export {preset}", [*arguments, "--precision", preset, "--out", "{out}/p.onnx"], ["p.onnx", "p.onnx.data"]
    bench = ["bench", "--engine", "cpu", "--json", "{out}/bench.json", "--warmup", "0", "--iterations", "1"]
    for preset in ["f32", "bf16", "fp8"]:
        for shapes in ["W1", "W2"]:
            arguments = [*bench, "--checkpoint", "synth:tiny", "--precision", preset, "--workload", shapes]
            yield f"bench {preset} {shapes}", arguments, ["bench.json"]
    if full:
        yield "bench n1.6", [*bench, "--checkpoint", "synth:n1.6", "--workload", "W1"], ["bench.json"]
    yield "inspect checkpoint", ["inspect", "checkpoint", "demo/checkpoint"], []
    yield "inspect dataset", ["inspect", "dataset", "demo/dataset"], []


# A number with a unit of time, and what is printed for how long a thing took.
TIME = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[-+]?\d+)? ?(?:s|ms|us|µs|ns|min)\b")
# Rows of `bench` hold nothing else: min p50 p90 p99 mean, and how it was measured.
BENCH_ROW = re.compile(r"^.*(?:wall clock|wall clock between taps)$", re.MULTILINE)
PATH = re.compile(r"(?<![\w.])(?:/[\w.+-]+)+/?")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")
# The host, and what a run took of it.
UNCOMPARED = re.compile(r"^(version|peak_rss_bytes|host|.*_seconds|.*seconds|.*_ms|stages_ms|latency_ms)$")
# Entries of the report's `timings` that count instead of measuring.
TIMINGS_COUNTED = {"steps", "skip_timing_steps"}


class Difference(Exception):
    """Where two runs differ, and both values."""


def stable(text):
    """Printed text without times and paths."""
    return TIME.sub("<time>", PATH.sub("<path>", BENCH_ROW.sub("<times>", text)))


def compare_text(old, new):
    """Numbers compared, and lines worded differently."""
    old_lines, new_lines = (stable(text).splitlines() for text in (old, new))
    numbers = 0
    for (old_number, old_line), (new_number, new_line) in paired_numbers(old_lines, new_lines):
        numbers += 1
        if old_number != new_number:
            raise Difference(f"{old_number} became {new_number}: {old_line.strip()!r} -> {new_line.strip()!r}")
    words = [NUMBER.sub("#", "\n".join(lines)).split("\n") for lines in (old_lines, new_lines)]
    reworded = sum(" ".join(a.split()) != " ".join(b.split()) for a, b in zip(*words))
    return numbers, reworded + abs(len(words[0]) - len(words[1]))


def paired_numbers(old_lines, new_lines):
    """Pairs of (number, its line), `none` where a side has run out."""
    sides = [[(number, line) for line in lines for number in NUMBER.findall(line)] for lines in (old_lines, new_lines)]
    longest = max(map(len, sides))
    return zip(*(side + [("none", "end of the output")] * (longest - len(side)) for side in sides))


def leaves(value, at=""):
    """(path, value) of everything in a JSON document that must stay the same."""
    if isinstance(value, dict):
        for key, inner in value.items():
            timed = at.startswith(".timings") and not isinstance(inner, dict) and key not in TIMINGS_COUNTED
            if not UNCOMPARED.match(key) and not timed:
                yield from leaves(inner, f"{at}.{key}")
    elif isinstance(value, list):
        yield f"{at}.length", len(value)
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{at}[{index}]")
    else:
        yield at, PATH.sub("<path>", value) if isinstance(value, str) else value


def compare_json(old, new):
    """Values compared. Numbers are read as their text, so that the last digit counts."""
    sides = [dict(leaves(json.loads(text, parse_float=str, parse_int=str))) for text in (old, new)]
    for at in dict.fromkeys([*sides[0], *sides[1]]):
        found = [side.get(at, "none") for side in sides]
        if found[0] != found[1]:
            raise Difference(f"{at}: {found[0]} became {found[1]}")
    return len(sides[0])


def compare_file(old, new):
    """Numbers, values or bytes compared, and lines worded differently."""
    if old.suffix == ".json":
        return compare_json(old.read_text(), new.read_text()), 0
    if old.suffix in (".html", ".toml"):
        return compare_text(old.read_text(), new.read_text())
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (old, new)]
    if hashes[0] != hashes[1]:
        raise Difference(f"{old.name}: {old.stat().st_size} bytes, and {new.stat().st_size} that differ")
    return old.stat().st_size, 0


def run(binary, arguments, out):
    """(exit code, standard output, standard error). The folder of the run reads `<out>`, as in the other run."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    filled = [argument.replace("{out}", str(out)) for argument in arguments]
    done = subprocess.run([binary, *filled], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "1000"})
    return done.returncode, done.stdout.replace(str(out), "<out>"), done.stderr


def compare(name, arguments, patterns, expected_code, binaries, out):
    """A row of the table: values, bytes, reworded lines, difference."""
    folders = [out / name.replace(" ", "-").replace(":", "-") / side for side in ("old", "new")]
    values = size = reworded = 0
    ended = [run(binary, spelled(binary, arguments), folder) for binary, folder in zip(binaries, folders)]
    for folder, (code, output, errors) in zip(folders, ended):
        (folder / "stdout.txt").write_text(output)
        (folder / "stderr.txt").write_text(errors)
    try:
        for side, (code, _, errors) in zip(("old", "new"), ended):
            if code != expected_code:
                last = (errors.strip() or "nothing on stderr").splitlines()[-1]
                raise Difference(f"{side}: expected exit code {expected_code}, found {code}: {last}")
        values, reworded = compare_text(ended[0][1], ended[1][1])
        for pattern in patterns:
            found = [sorted(path.relative_to(folder) for path in folder.glob(pattern)) for folder in folders]
            if found[0] != found[1] or not found[0]:
                raise Difference(f"{pattern}: {len(found[0])} files became {len(found[1])}, of other names or none")
            for path in found[0]:
                count, lines = compare_file(folders[0] / path, folders[1] / path)
                binary = path.suffix not in (".json", ".html", ".toml")
                size, values = (size + count, values) if binary else (size, values + count)
                reworded += lines
    except Difference as difference:
        return values, size, reworded, str(difference)
    for folder in folders:
        for trace in [*folder.glob("trace/*.safetensors"), *folder.glob("*.data")]:
            trace.unlink()
    return values, size, reworded, None


@functools.cache
def precision_command(binary):
    """`steady precision` was `steady policy` before."""
    known = subprocess.run([binary, "precision", "--help"], capture_output=True).returncode == 0
    return "precision" if known else "policy"


def spelled(binary, arguments):
    """A case's arguments as this build spells them."""
    return [precision_command(binary), *arguments[1:]] if arguments[0] == "precision" else arguments


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--out", type=Path, help="keep the outputs here; a temporary folder otherwise")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--full", action="store_true", help="also the model of the published size: minutes")
    options = parser.parse_args()
    for binary in (options.old, options.new):
        if not binary.is_file():
            parser.error(f"{binary}: expected a program, found none")
    return options


def main():
    options = parsed()
    binaries = [options.old.resolve(), options.new.resolve()]
    chosen = [case for case in cases(options.full) if options.only in case[0]]
    if not chosen:
        print(f"same_numbers: no case's name contains {options.only!r}", file=sys.stderr)
        sys.exit(2)
    differing, total = 0, [0, 0]
    print(f"{'case':26} {'values':>9} {'bytes':>11} {'reworded':>8} {'s':>5}  result")
    with tempfile.TemporaryDirectory() as scratch:
        out = (options.out or Path(scratch)).resolve()
        for name, arguments, patterns, *code in chosen:
            started = time.monotonic()
            expected_code = code[0] if code else 0
            values, size, reworded, difference = compare(name, arguments, patterns, expected_code, binaries, out)
            differing += difference is not None
            total = [total[0] + values, total[1] + size]
            seconds = time.monotonic() - started
            result = "same" if difference is None else f"DIFFERS {difference}"
            print(f"{name:26} {values:9,} {size:11,} {reworded:8} {seconds:5.1f}  {result}", flush=True)
    print(f"\n{len(chosen) - differing} of {len(chosen)} the same: {total[0]:,} values, {total[1]:,} bytes")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
