"""Where units are computed: a process of this machine, or an actor of a Ray cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from .. import _native
from ._work import Evaluator, Row, Unit


class Lost(Exception):
    """The worker ended before it answered."""


class Place(Protocol):
    """One worker."""

    def evaluate(self, unit: Unit) -> Row:
        """Raises `Lost` where the worker ended; it may be used again."""

    def close(self) -> None:
        """Ends the worker."""


class Process:
    """A process of this machine, started when it is first needed and again when it was lost."""

    def __init__(self, device: int | None, threads: int | None) -> None:
        self._words = [sys.executable, "-m", "steadyhand.fleet._worker", *([] if device is None else [str(device)])]
        self._environment = dict(os.environ)
        if threads is not None:
            self._environment.setdefault("RAYON_NUM_THREADS", str(threads))
        self._process: subprocess.Popen[str] | None = None

    def evaluate(self, unit: Unit) -> Row:
        """As `Place.evaluate`."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asdict(unit)) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer.endswith("\n"):
            code = self._process.wait()
            raise Lost(f"worker {self._process.pid} ended with {code}")
        row: Row = json.loads(answer)
        return row

    def close(self) -> None:
        """As `Place.close`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Actor:
    """An actor of a Ray cluster, replaced when it was lost."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start
        self._actor: Any = None

    def evaluate(self, unit: Unit) -> Row:
        """As `Place.evaluate`."""
        import ray

        if self._actor is None:
            self._actor = self._start()
        try:
            row: Row = ray.get(self._actor.evaluate.remote(unit))
        except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
            self._actor = None
            raise Lost(str(error).splitlines()[0]) from error
        return row

    def close(self) -> None:
        """As `Place.close`."""
        import ray

        if self._actor is not None:
            ray.kill(self._actor)


def _gpus() -> int:
    """GPUs that a process of this one sees: CUDA counts those that CUDA_VISIBLE_DEVICES names from 0 again."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    names = [name.strip() for name in visible.split(",")]
    # The first that is none hides those behind it.
    ends = (place for place, name in enumerate(names) if not name or name.startswith("-") or name.isdigit() and int(name) >= count)
    return min(next(ends, len(names)), count)


def local(workers: int | None, engine: str) -> list[Place]:
    """Processes of this machine: one for each GPU, or one where there is none, unless `workers` says how many."""
    gpus = _gpus() if engine.split(":")[0] in ("cuda", "auto") else 0
    count = workers if workers is not None else max(gpus, 1)
    threads = max((os.cpu_count() or 1) // count, 1)
    return [Process(place % gpus if gpus else None, None if gpus else threads) for place in range(count)]


def on_ray(address: str, workers: int | None, engine: str, cpus: float) -> list[Place]:
    """Actors of the cluster at `address` (`local` starts one here): one a GPU, or `workers` of them."""
    try:
        import ray
    except ImportError as error:
        raise _native.Error("address: expected the package ray (pip install 'steadyhand[fleet]'), found none") from error
    if not ray.is_initialized():
        ray.init(address=None if address == "local" else address, log_to_driver=False)
    gpus = int(ray.cluster_resources().get("GPU", 0)) if engine.split(":")[0] in ("cuda", "auto") else 0
    count = workers if workers is not None else max(gpus, 1)
    made = ray.remote(num_cpus=cpus, num_gpus=1 if gpus else 0, max_restarts=0)(Evaluator)
    return [Actor(lambda: made.remote()) for _ in range(count)]
