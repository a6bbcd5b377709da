"""One piece of work and what does it: an episode, and an open policy."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from dataclasses import asdict, dataclass
from typing import Any

from .. import _native
from ..policy import Policy

Row = dict[str, Any]

TIMES = ("inference_ms", "data_preparation_ms", "load_ms", "worker", "attempts")
"""Columns that say how a row came about; all others are the same wherever it was computed."""


@dataclass(frozen=True)
class Unit:
    """An episode with everything that its result depends on."""

    checkpoint: str
    dataset: str
    episode: int
    precision: str
    seed: int
    engine: str
    embodiment_tag: str | None
    tokenizer: str | None
    steps: int
    action_horizon: int
    denoising_steps: int
    skip_timing_steps: int
    version: str

    @property
    def policy(self) -> tuple[Any, ...]:
        """What an open policy depends on."""
        return (self.checkpoint, self.precision, self.engine, self.embodiment_tag, self.tokenizer, self.denoising_steps)


def _median_ms(seconds: list[float]) -> float | None:
    return 1e3 * sorted(seconds)[len(seconds) // 2] if seconds else None


class Evaluator:
    """Evaluates episodes; a policy stays open as long as the next episode needs the same one."""

    def __init__(self, device: int | None = None) -> None:
        self._device = device
        self._open: tuple[tuple[Any, ...], Policy] | None = None

    def _policy(self, unit: Unit) -> Policy:
        if self._open is None or self._open[0] != unit.policy:
            # Two policies do not fit a GPU together.
            self._open = None
            on_gpu = unit.engine.split(":")[0] in ("cuda", "auto")
            policy = Policy.open(
                unit.checkpoint,
                embodiment_tag=unit.embodiment_tag,
                engine=unit.engine,
                precision=unit.precision,
                denoising_steps=unit.denoising_steps,
                tokenizer=unit.tokenizer,
                device=self._device if on_gpu else None,
            )
            self._open = (unit.policy, policy)
        return self._open[1]

    def evaluate(self, unit: Unit) -> Row:
        """The row of an episode; one that cannot be evaluated has an `error` in place of numbers."""
        row: Row = {**asdict(unit), "error": None, "worker": f"{socket.gethostname()}:{os.getpid()}"}
        try:
            policy = self._policy(unit)
            text, predicted = policy._native.evaluate_episode(
                unit.dataset, unit.episode, unit.seed, unit.steps, unit.action_horizon, unit.skip_timing_steps
            )
        except _native.Error as error:
            return {**row, "error": str(error)}
        report = json.loads(text)
        return {
            **row,
            "mse": report["mse"],
            "mae": report["mae"],
            "groups": json.dumps({group["name"]: {"mse": group["mse"], "mae": group["mae"]} for group in report["groups"]}),
            "evaluated_steps": report["steps"],
            "inferences": report["inferences"],
            "actions_sha256": hashlib.sha256(predicted.tobytes()).hexdigest(),
            "ran_on": policy.engine,
            "precision_identity": policy.precision_identity,
            "checkpoint_fingerprint": policy.fingerprint(),
            "inference_ms": _median_ms(report["inference_seconds"]),
            "data_preparation_ms": _median_ms(report["data_preparation_seconds"]),
            "load_ms": 1e3 * report["episode_load_seconds"],
        }
