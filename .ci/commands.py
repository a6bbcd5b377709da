#!/usr/bin/env python3
"""Runs every command of the documentation. Python's standard library alone.

usage: commands.py STEADY [--only TEXT] [--timeout SECONDS]

Of README.md, SPEED.md, docs/*.md and crates/cli/README.md every block of ```sh is run, line by line, in a folder of its
page with links to what the repository has. CHECKPOINT, DIR and C stand for the demo's checkpoint, DATASET and D for its
dataset; `cargo run --release --` is STEADY. In a block with lines that begin with `$ ` those are the commands, and the
others must be printed by them.

What follows `sh` in the line that opens a block is for this script, and is not shown to readers:
  needs-WHAT=TEXT   lines that hold TEXT need WHAT, and are skipped, by name, where it is missing. WHAT is gpu, gpus (two),
                    onnxruntime, tensorrt, or one of `never`: something that no machine has, such as a reader's engine
  exit1=TEXT        lines that hold TEXT end with 1, as a diagnosis does that finds something
A block of ```toml with file=NAME is written to that file before its page is run.

Exit code: 0 where every command that was run ended as it should, else 1.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "SPEED.md", "docs/*.md", "crates/cli/README.md"]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.M | re.S)
STANDS_FOR = {
    "CHECKPOINT": "demo/checkpoint", "DIR": "demo/checkpoint", "C": "demo/checkpoint",
    "DATASET": "demo/dataset", "D": "demo/dataset",
}
# What a page's commands take for granted.
BEFORE = {"docs/PRECISION.md": ["steady precision calibrate --frames 4 --out calibration.json"]}


def python_has(module):
    python = os.environ.get("STEADY_PYTHON", "python3")
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0


def gpus():
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return listed.stdout.count("GPU ") if listed.returncode == 0 else 0


HAS = {
    "gpu": lambda: gpus() > 0,
    "gpus": lambda: gpus() > 1,
    "onnxruntime": lambda: python_has("onnxruntime"),
    "tensorrt": lambda: python_has("tensorrt_rtx_libs") or "TENSORRT_RTX_PATH" in os.environ,
    "never": lambda: False,
}


def command_of(line):
    """The line with what it stands for, without its comment."""
    line = re.sub(r"\s+#\s.*$", "", line).replace("cargo run --release -- ", "steady ")
    return " ".join(STANDS_FOR.get(word, word) for word in line.split(" "))


def words_of(line):
    """The whole text of a line, single spaces: pages wrap and align."""
    return " ".join(line.split())


class Runner:
    def __init__(self, steady, timeout):
        self.steady, self.timeout = steady, timeout
        self.has = {}
        self.failed, self.skipped, self.run_count = [], [], 0

    def missing(self, line, marks):
        for name, text in marks:
            if name.startswith("needs-") and text in line:
                what = name.removeprefix("needs-")
                if what not in self.has:
                    self.has[what] = HAS[what]()
                if not self.has[what]:
                    return what
        return None

    def command(self, page, folder, line, marks, printed):
        missing = self.missing(line, marks)
        if missing:
            self.skipped.append(f"{page}: {words_of(line)} ({'not run here' if missing == 'never' else 'needs ' + missing})")
            return
        environment = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        started = time.monotonic()
        command = ["bash", "-euo", "pipefail", "-c", command_of(line)]
        try:
            result = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=self.timeout
            )
            code, out, said = result.returncode, result.stdout, result.stderr
        except subprocess.TimeoutExpired:
            code, out, said = "no end", "", f"it ran for more than {self.timeout} s"
        expected = 1 if any(name == "exit1" and text in line for name, text in marks) else 0
        self.run_count += 1
        print(f"{time.monotonic() - started:6.1f} s  {page}: {words_of(line)}", flush=True)
        lines = {words_of(shown) for shown in out.splitlines()}
        absent = [shown for shown in printed if words_of(shown) not in lines]
        if code != expected or absent:
            self.failed.append(f"{page}: {words_of(line)}\n  exit code {code}, expected {expected}")
            self.failed[-1] += "".join(f"\n  not printed: {shown}" for shown in absent)
            self.failed[-1] += "".join(f"\n  | {text}" for text in said.strip().splitlines()[-6:])

    def page(self, path):
        page = str(path.relative_to(ROOT))
        blocks = BLOCK.findall(path.read_text())
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "bin").mkdir()
            (folder / "bin/steady").symlink_to(self.steady)
            for part in ["demo", "tests", "docs", "bench", "crates"]:
                (folder / part).symlink_to(ROOT / part)
            for language, info, text in blocks:
                for mark in info.split():
                    if language == "toml" and mark.startswith("file="):
                        (folder / mark.removeprefix("file=")).write_text(text)
            for line in BEFORE.get(page, []):
                self.command(page, folder, line, [], [])
            for language, info, text in blocks:
                if language != "sh":
                    continue
                marks = [tuple(mark.split("=", 1)) for mark in info.split()]
                lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
                shown = any(line.startswith("$ ") for line in lines)
                while lines:
                    line = lines.pop(0)
                    printed = []
                    while shown and lines and not lines[0].startswith("$ "):
                        printed.append(lines.pop(0))
                    self.command(page, folder, line.removeprefix("$ "), marks, printed)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("steady", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--timeout", type=int, default=600)
    args = parser.parse_args()
    runner = Runner(args.steady.resolve(), args.timeout)
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            if args.only in str(path.relative_to(ROOT)):
                runner.page(path)
    for line in runner.skipped:
        print(f"skipped: {line}")
    for line in runner.failed:
        print(f"FAILED: {line}")
    print(f"{runner.run_count} commands run, {len(runner.failed)} failed, {len(runner.skipped)} skipped")
    return 1 if runner.failed or not runner.run_count else 0


if __name__ == "__main__":
    sys.exit(main())
