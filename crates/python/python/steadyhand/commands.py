"""What the commands of `steady` do, as functions.

Options have the names and defaults of the command line, which `steady COMMAND --help` explains; those that have no
parameter of their own here go through `**options`, with underscores: `tokenizer="…"`, `strict=True`. Each runs `steady`
in a process of its own: its errors are the program's, to the letter.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from os import fspath
from pathlib import Path
from typing import Any

from ._program import Progress, run
from .policy import StrPath, demo
from .results import Benchmark, Comparison, Diagnosis, Evaluation, Exported, Recording, Verification


def _words(options: Mapping[str, Any]) -> list[str]:
    """`{"a_b": 1, "c": True, "d": None}` as `--a-b 1 --c`."""
    words: list[str] = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            words.append(option)
        elif isinstance(value, (list, tuple, range)):
            words += [option, *map(str, value)]
        else:
            words += [option, fspath(value) if hasattr(value, "__fspath__") else str(value)]
    return words


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def evaluate(
    checkpoint: StrPath | None = None,
    dataset: StrPath | None = None,
    *,
    episodes: Iterable[int] | str = "all",
    embodiment_tag: str | None = None,
    engine: str = "auto",
    precision: str | None = None,
    seed: int = 42,
    steps: int = 200,
    action_horizon: int = 16,
    denoising_steps: int = 4,
    out: StrPath | None = None,
    progress: Progress = True,
    **options: Any,
) -> Evaluation:
    """Evaluates a checkpoint on episodes of a LeRobot dataset, open loop (`steady eval`).

        >>> import steadyhand
        >>> evaluation = steadyhand.evaluate(episodes=[0], steps=32, engine="cpu", progress=False)
        >>> evaluation.status, len(evaluation.episodes)
        ('complete', 1)

    Args:
        checkpoint, dataset: Folders; the embedded demo's where neither is named.
        episodes: Numbers, or text as `0-9` or `all`.
        steps: Most steps of an episode.
        action_horizon: Steps taken of each chunk before the next inference.
        out: Where plots, the report and the page stay; a temporary folder otherwise. With `resume=True` an evaluation
            that was interrupted there goes on.
        progress: Whether progress is shown on `sys.stderr`, or a function that is given each line.

    Raises:
        Error: With the text that `steady eval` prints.
    """
    if checkpoint is None and dataset is None:
        checkpoint, dataset = demo()
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder if out is None else out)
        words = _words({
            "checkpoint": checkpoint, "dataset_path": dataset, "embodiment_tag": embodiment_tag, "engine": engine,
            "precision": precision, "seed": seed, "steps": steps, "action_horizon": action_horizon,
            "denoising_steps": denoising_steps, "out": kept,
            "traj_ids": episodes if isinstance(episodes, str) else list(episodes),
            "html_episodes": 0 if out is None and "html" not in options else None, **options,
        })
        run(["eval", *words], progress, ends=(0, 3))
        return Evaluation.of(_read(Path(options.get("json", kept / "report.json"))))


def compare(
    b: str, *, a: str = "cpu:f32", out: StrPath | None = None, progress: Progress = True, **options: Any
) -> Comparison:
    """Puts two engines side by side on the same noise (`steady compare`): `compare("cuda:bf16", checkpoint=…)`.

    Args:
        b, a: Engines as on the command line: `cpu:bf16`, `cuda:fp8`, `onnxruntime:f32`, `trace:DIR`, …
        out: Where JSON and plot stay; a temporary folder otherwise.
    """
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder if out is None else out)
        run(["compare", *_words({"a": a, "b": b, "out": kept, **options})], progress)
        return Comparison.of(_read(kept / "comparison.json"))


def diagnose(b: str, *, out: StrPath = "steady-out", progress: Progress = True, **options: Any) -> Diagnosis:
    """Says whether an engine gives the reference's actions, and if not, names the cause, the proof and the fix.

        >>> import steadyhand, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> steadyhand.diagnose("fault:unwritten-tail", inferences=1, out=folder, progress=False).place
        'dit.output'

    Args:
        b: The engine: `cuda:bf16`, `onnxruntime:f32`, `trace:DIR` (what `steadyhand.torch.record` writes), …
        out: Where `diagnosis.json` and the page go.
    """
    code = run(["diagnose", *_words({"b": b, "out": out, **options})], progress, ends=(0, 1)).code
    return Diagnosis.of(_read(Path(out) / "diagnosis.json"), code == 0, Path(out) / "diagnosis.html")


def record(out: StrPath, *, progress: Progress = True, **options: Any) -> Recording:
    """Writes the reference's tensors for some observations into a new folder (`steady record`).

    `checkpoint`, `dataset_path`, `traj_id`, `inferences`, `action_horizon`, `seed`, `all`, … go through `options`.
    """
    run(["record", *_words({"out": out, **options})], progress)
    return Recording.of(_read(Path(out) / "manifest.json"), Path(out))


def verify(*folders: StrPath, progress: Progress = True, **options: Any) -> Verification:
    """Compares this build with recorded results of the official code (`steady verify`).

    `engine`, `precision`, `tokenizer`, `max_relative_l2`, `json` (where the report stays), … go through `options`. What does
    not hold is no exception: `holds` says so.

    Raises:
        Error: A folder that has no such results; an engine or an option that does not fit.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(options.pop("json", Path(folder) / "verify.json"))
        words = [*[fspath(folder) for folder in folders], *_words({**options, "json": file})]
        ran = run(["verify", *words], progress, ends=(0, 1))
        return Verification.of(_read(file), ran.printed)


def bench(checkpoint: StrPath, *, engine: str = "auto", progress: Progress = True, **options: Any) -> Benchmark:
    """Measures how long inferences take and where the time goes (`steady bench`).

    `precision`, `iterations`, `warmup`, `batch`, … go through `options`.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(options.pop("json", Path(folder) / "bench.json"))
        words = _words({"checkpoint": checkpoint, "engine": engine, "json": file, **options})
        run(["bench", *words], progress)
        return Benchmark.of(_read(file))


def export(checkpoint: StrPath, out: StrPath, *, progress: Progress = True, **options: Any) -> Exported:
    """Writes the model or a component as an ONNX graph (`steady export onnx`).

    `component`, `precision`, `products`, `opset`, … go through `options`.
    """
    run(["export", "onnx", *_words({"checkpoint": checkpoint, "out": out, **options})], progress)
    return Exported(Path(out))
