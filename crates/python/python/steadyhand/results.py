"""What commands give. Every class has `to_dict()`, the whole of the JSON that the program writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class _Report:
    raw: Mapping[str, Any] = field(repr=False, kw_only=True, default_factory=dict)
    """The JSON as it was written."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON as it was written."""
        return dict(self.raw)


@dataclass(frozen=True)
class GroupError:
    """Errors of one joint group, in physical units (squared)."""

    name: str
    mse: float
    mae: float


@dataclass(frozen=True)
class Episode:
    """One evaluated episode."""

    index: int
    mse: float
    mae: float
    steps: int
    inferences: int
    instruction: str
    groups: list[GroupError]
    inference_seconds: list[float]
    """One entry an inference, without those that timings leave out."""

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Episode:
        """Of an entry of a report."""
        same = ("mse", "mae", "steps", "inferences", "instruction", "inference_seconds")
        groups = [GroupError(**group) for group in raw["groups"]]
        return cls(index=raw["episode_index"], groups=groups, **{name: raw[name] for name in same})


@dataclass(frozen=True)
class Evaluation(_Report):
    """An open-loop evaluation of one policy on one dataset."""

    status: str
    """`complete`, or `partial` where `failures` says what was skipped."""
    engine: str
    precision: str
    mse: float | None
    """Mean of the episodes' errors, each counting the same."""
    mae: float | None
    groups: list[GroupError]
    episodes: list[Episode]
    failures: dict[int, str]
    """Why an episode was skipped."""

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Evaluation:
        """Of a `report.json`."""
        return cls(
            status=raw["status"],
            engine=raw["engine"],
            precision=raw["precision"],
            mse=raw.get("mse"),
            mae=raw.get("mae"),
            groups=[GroupError(**group) for group in raw["groups"]],
            episodes=[Episode.of(episode) for episode in raw["episodes"]],
            failures={failed["episode_index"]: failed["reason"] for failed in raw["failures"]},
            raw=raw,
        )

    def to_pandas(self) -> pandas.DataFrame:
        """A row an episode: its errors, steps and the median time of an inference. Needs pandas."""
        import pandas

        rows = []
        for episode in self.episodes:
            row: dict[str, Any] = {
                "episode": episode.index, "mse": episode.mse, "mae": episode.mae,
                "steps": episode.steps, "inferences": episode.inferences,
            }
            row.update({f"mse.{group.name}": group.mse for group in episode.groups})
            seconds = sorted(episode.inference_seconds)
            row["inference_ms"] = 1e3 * seconds[len(seconds) // 2] if seconds else None
            rows.append(row)
        return pandas.DataFrame(rows)


@dataclass(frozen=True)
class Tap:
    """One tensor of the model, by its name."""

    name: str
    distance: float
    """Relative L2 distance of the engines."""
    expected: float | None
    """What rounding gives there."""


@dataclass(frozen=True)
class Comparison(_Report):
    """Two engines on the same observations and noise."""

    a: str
    b: str
    relative_l2: float
    """Of the physical actions."""
    expected: float
    """What rounding gives there."""
    mse_a: float | None
    mse_b: float | None
    first_above_rounding: str | None
    """The first tensor that is farther away than rounding gives."""
    taps: list[Tap]

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Comparison:
        """Of a `comparison.json`."""
        actions = raw["actions"]
        return cls(
            a=raw["a"],
            b=raw["b"],
            relative_l2=actions["relative_l2"],
            expected=actions["expected"],
            mse_a=actions.get("mse_a"),
            mse_b=actions.get("mse_b"),
            first_above_rounding=raw.get("first_above_rounding"),
            taps=[Tap(tap["name"], tap["distance"], tap.get("rounding")) for tap in raw["taps"]],
            raw=raw,
        )

    @property
    def within_rounding(self) -> bool:
        """Whether the actions are as near as rounding lets them be."""
        return self.relative_l2 <= self.expected

    def to_pandas(self) -> pandas.DataFrame:
        """A row a tensor. Needs pandas."""
        import pandas

        return pandas.DataFrame([vars(tap) for tap in self.taps])


@dataclass(frozen=True)
class Hypothesis:
    """A cause that was held against the engine."""

    kind: str
    place: str | None
    description: str
    fix: str
    proven: bool


@dataclass(frozen=True)
class Diagnosis(_Report):
    """Whether an engine gives the reference's actions, and if not, why."""

    healthy: bool
    status: str
    """As the program's JSON names the verdict, such as `cause`."""
    headline: str
    paragraph: str
    place: str | None
    """Where the cause is, such as `dit.output`."""
    hypotheses: list[Hypothesis]
    page: Path
    """The page of plots."""

    @classmethod
    def of(cls, raw: Mapping[str, Any], healthy: bool, page: Path) -> Diagnosis:
        """Of a `diagnosis.json`."""
        verdict = raw["verdict"]
        return cls(
            healthy=healthy,
            status=verdict["status"],
            headline=verdict["headline"],
            paragraph=verdict["paragraph"],
            place=verdict.get("place"),
            hypotheses=[
                Hypothesis(known["kind"], known.get("place"), known["description"], known["fix"], known["proven"])
                for known in raw["hypotheses"]
            ],
            page=page,
            raw=raw,
        )


@dataclass(frozen=True)
class Recording(_Report):
    """The reference's tensors for some observations, in a folder."""

    path: Path
    metadata: Mapping[str, str]
    tensors: list[str]
    """Their names, `INFERENCE/TAP`."""

    @classmethod
    def of(cls, raw: Mapping[str, Any], path: Path) -> Recording:
        """Of a `manifest.json`."""
        return cls(path=path, metadata=raw["metadata"], tensors=[tensor["name"] for tensor in raw["tensors"]], raw=raw)


@dataclass(frozen=True)
class Compared:
    """One tensor of this build against the official code's."""

    fixture: str
    tap: str
    """The tensor's name, or what else is compared."""
    measure: str
    """`relative_l2`, `max_level` and `mean_level` (of 255), `mse_change` or `differences`."""
    found: float
    """Not a number, or infinite, is `inf`."""
    limit: float
    """What `found` must not exceed."""
    holds: bool
    official: str
    """The official code's own distance, in words; empty where it is not known."""

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Compared:
        """Of a comparison of a report."""
        numbers = {name: math.inf if raw[name] is None else float(raw[name]) for name in ("found", "limit")}
        return cls(**{**raw, **numbers})


@dataclass(frozen=True)
class Fixture:
    """Recorded results of the official code, and what was compared with them."""

    name: str
    path: Path
    kind: str
    """`model`, `processor` or `demo`."""
    checkpoint: str | None
    """Hash of the weights; a processor's results have none, nor an engine."""
    engine: str | None
    precision: str | None
    comparisons: int
    holding: int

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Fixture:
        """Of a fixture of a report."""
        return cls(**{**raw, "path": Path(raw["path"])})


@dataclass(frozen=True)
class Verification(_Report):
    """This build against results of the official code."""

    holds: bool
    """Whether every comparison is within its limit."""
    worst: Compared
    """The largest relative L2."""
    fixtures: list[Fixture]
    taps: list[Compared]
    """Of each tap the comparison, of all fixtures, that uses up most of its limit."""
    comparisons: list[Compared]
    """All, those that use up most of their limit first."""
    text: str
    """What the program printed: tables of the distances."""

    @classmethod
    def of(cls, raw: Mapping[str, Any], text: str) -> Verification:
        """Of the JSON of `steady verify` and what it printed."""
        return cls(
            holds=raw["verdict"] == "holds",
            worst=Compared.of(raw["worst"]),
            fixtures=[Fixture.of(fixture) for fixture in raw["fixtures"]],
            taps=[Compared.of(tap) for tap in raw["taps"]],
            comparisons=[Compared.of(row) for row in raw["comparisons"]],
            text=text,
            raw=raw,
        )

    def to_pandas(self) -> pandas.DataFrame:
        """A row a comparison. Needs pandas."""
        import pandas

        return pandas.DataFrame([vars(row) for row in self.comparisons])


@dataclass(frozen=True)
class Quantiles:
    """Of a time, in milliseconds."""

    min: float
    p50: float
    p90: float
    p99: float
    mean: float


@dataclass(frozen=True)
class Benchmark(_Report):
    """How long inferences take."""

    engine: str
    precision: str
    load_ms: float
    first_actions_ms: float
    latency_ms: dict[str, Quantiles]
    """By part: `inference` is the model alone, `end to end` frames to physical actions."""
    stages_ms: dict[str, Quantiles]

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Benchmark:
        """Of the JSON of `steady bench`."""
        def quantiles(rows: list[dict[str, Any]]) -> dict[str, Quantiles]:
            kinds = ("min", "p50", "p90", "p99", "mean")
            return {row["name"]: Quantiles(**{kind: row[kind] for kind in kinds}) for row in rows}

        same = ("engine", "precision", "load_ms", "first_actions_ms")
        latency, stages = quantiles(raw["latency_ms"]), quantiles(raw["stages_ms"])
        return cls(**{name: raw[name] for name in same}, latency_ms=latency, stages_ms=stages, raw=raw)


@dataclass(frozen=True)
class Exported:
    """An ONNX graph; its tensors are in the file `PATH.data`."""

    path: Path

    def to_dict(self) -> dict[str, Any]:
        """The path as text."""
        return {"path": str(self.path)}
