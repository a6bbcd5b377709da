"""The table: kept row by row while it grows, written whole at the end, compared."""

from __future__ import annotations

import csv
import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _native
from ._work import TIMES, Row, Unit

if TYPE_CHECKING:
    import pandas

_KEY = tuple(one.name for one in fields(Unit))
_RESULTS: dict[str, type] = {
    "error": str, "mse": float, "mae": float, "groups": str, "evaluated_steps": int, "inferences": int,
    "actions_sha256": str, "ran_on": str, "precision_identity": str, "checkpoint_fingerprint": str,
}
_HOW: dict[str, type] = {
    "inference_ms": float, "data_preparation_ms": float, "load_ms": float, "worker": str, "attempts": int,
}
_WHOLE = ("episode", "seed", "steps", "action_horizon", "denoising_steps", "skip_timing_steps")
_TYPES: dict[str, type] = {**{name: int if name in _WHOLE else str for name in _KEY}, **_RESULTS, **_HOW}
assert tuple(_HOW) == TIMES
_DRAWS = 10_000
"""Bootstrap samples of an interval."""
_AT_A_TIME = 500
"""Of them, so that memory stays small."""
FEWEST_EPISODES = 6
"""For a verdict: of five episodes without a difference all lie on one side in 2 of 32 cases, more often than 5 %."""


class Interval(NamedTuple):
    """A mean over episodes, and between what 95 % of the bootstrap samples of it lie."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much the MSE of checkpoint `b` lies below (negative) or above that of `a`, episode by episode."""

    a: str
    b: str
    precision: str
    episodes: int
    """That both have results of; those of several datasets count as different ones."""
    seeds: int
    """Most that an episode has of both."""
    left_out: int
    """Results of one that the other lacks."""
    mean: float
    low: float
    """95 % of bootstrap samples, of episodes and of the seeds of each, lie between `low` and `high`."""
    high: float

    @property
    def verdict(self) -> str:
        """`b is better`, `a is better`, `no difference shown`, or `too few episodes` for any of them."""
        if self.episodes < FEWEST_EPISODES:
            return "too few episodes"
        return "b is better" if self.high < 0 else "a is better" if self.low > 0 else "no difference shown"


@dataclass(frozen=True)
class Table:
    """Rows of an evaluation."""

    rows: list[Row]
    path: Path

    def to_dict(self) -> dict[str, Any]:
        """Rows and path."""
        return {"path": str(self.path), "rows": [dict(row) for row in self.rows]}

    def results(self) -> list[Row]:
        """The rows without what depends on where and when they were computed."""
        return [{name: value for name, value in row.items() if name not in TIMES} for row in self.rows]

    def to_pandas(self) -> pandas.DataFrame:
        """A row an episode. Needs pandas."""
        import pandas

        return pandas.DataFrame(self.rows, columns=list(_TYPES))

    def differences(self) -> list[Difference]:
        """Every checkpoint against the first, for each precision. What failed in one is left out of both."""
        found = []
        checkpoints = list(dict.fromkeys(row["checkpoint"] for row in self.rows))
        for precision in dict.fromkeys(row["precision"] for row in self.rows):
            of = {name: self._errors(name, precision) for name in checkpoints}
            for other in checkpoints[1:]:
                found.append(_difference(checkpoints[0], other, precision, of[checkpoints[0]], of[other]))
        return found

    def _errors(self, checkpoint: str, precision: str) -> dict[tuple[str, int, int], float]:
        return {
            (row["dataset"], row["episode"], row["seed"]): row["mse"]
            for row in self.rows
            if (row["checkpoint"], row["precision"]) == (checkpoint, precision) and row["error"] is None
        }

    def report(self, path: str | os.PathLike[str]) -> None:
        """Writes a page: the error of each checkpoint and precision, and which checkpoint is better by how much."""
        Path(path).write_text(_page(self))


def _difference(
    a: str, b: str, precision: str, of_a: Mapping[tuple[str, int, int], float], of_b: Mapping[tuple[str, int, int], float]
) -> Difference:
    both = of_a.keys() & of_b.keys()
    groups = _by_episode({key: of_b[key] - of_a[key] for key in both})
    seeds = max((len(group) for group in groups), default=0)
    return Difference(a, b, precision, len(groups), seeds, len(of_a.keys() ^ of_b.keys()), *_interval(groups))


def _by_episode(values: Mapping[tuple[str, int, int], float]) -> list[list[float]]:
    """The values of each episode's seeds."""
    found: dict[tuple[str, int], list[float]] = {}
    for key in sorted(values):
        found.setdefault(key[:2], []).append(values[key])
    return list(found.values())


def _interval(groups: Sequence[Sequence[float]]) -> Interval:
    """The mean of the groups' means. Groups are drawn, and of each as many of its values as it has, both with replacement:
    noise differs from episode to episode, so a seed is a draw within its episode."""
    if not groups:
        return Interval(float("nan"), float("nan"), float("nan"))
    counts = np.array([len(group) for group in groups])
    values = np.zeros((len(groups), counts.max()))
    for place, group in enumerate(groups):
        values[place, : len(group)] = group
    rng, means = np.random.default_rng(0), []
    for _ in range(_DRAWS // _AT_A_TIME):
        drawn = rng.integers(0, len(groups), (_AT_A_TIME, len(groups)))
        of = counts[drawn][..., None]
        seeds = (rng.random((*drawn.shape, values.shape[1])) * of).astype(int)
        kept = np.arange(values.shape[1]) < of
        means.append(((values[drawn[..., None], seeds] * kept).sum(axis=2) / counts[drawn]).mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(float(np.mean([np.mean(group) for group in groups])), float(low), float(high))


class Kept:
    """The file of a table, and the rows that are done while it is not whole: `OUT.rows`, a row a line."""

    def __init__(self, path: Path) -> None:
        if path.suffix not in (".parquet", ".csv"):
            raise _native.Error(f"out: expected a .parquet or .csv file, found {path}")
        self._path, self._journal = path, path.with_name(path.name + ".rows")
        if path.suffix == ".parquet":
            _pyarrow()
        self._rows: dict[tuple[Any, ...], Row] = {}
        rows = _read(path) if path.exists() else []
        if self._journal.exists():
            # The last line may be cut short where the driver was killed.
            lines = self._journal.read_text().splitlines(keepends=True)
            rows += [json.loads(line) for line in lines if line.endswith("\n")]
            self._journal.write_text("".join(line for line in lines if line.endswith("\n")))
        for row in rows:
            self._rows[tuple(row[name] for name in _KEY)] = row
        path.parent.mkdir(parents=True, exist_ok=True)

    def find(self, unit: Unit) -> Row | None:
        """The row of a unit that was evaluated before. One that failed is tried again."""
        row = self._rows.get(tuple(asdict(unit).values()))
        return row if row is not None and row["error"] is None else None

    def keep(self, row: Row) -> None:
        """Keeps a row on disk."""
        with self._journal.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def close(self, rows: list[Row]) -> Table:
        """Writes the table, with rows of other evaluations that the file had before."""
        rows = [{name: row.get(name) for name in _TYPES} for row in rows]
        new = {tuple(row[name] for name in _KEY) for row in rows}
        others = [{name: row.get(name) for name in _TYPES} for key, row in self._rows.items() if key not in new]
        whole = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        _write(whole, self._path.suffix, others + rows)
        os.replace(whole, self._path)
        self._journal.unlink(missing_ok=True)
        return Table(rows, self._path)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise _native.Error("out: expected a .csv file, or the package pyarrow for a .parquet file, found neither") from error
    return pyarrow


def _write(path: Path, suffix: str, rows: list[Row]) -> None:
    if suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(_TYPES))
            writer.writeheader()
            # repr of a float is read back as the same number.
            writer.writerows({name: "" if value is None else repr(value) if isinstance(value, float) else value
                              for name, value in row.items()} for row in rows)
        return
    arrow = _pyarrow()
    types = {int: arrow.int64(), float: arrow.float64(), str: arrow.string()}
    # Seeds have 64 bits.
    schema = arrow.schema([(name, arrow.uint64() if name == "seed" else types[kind]) for name, kind in _TYPES.items()])
    arrow.parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), path)


def _read(path: Path) -> list[Row]:
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        read = [{name: _TYPES[name](text) if text else None for name, text in row.items() if name in _TYPES} for row in rows]
    else:
        read = _pyarrow().parquet.read_table(path).to_pylist()
    for row in read:
        missing = [name for name in _KEY if name not in row]
        if missing:
            raise _native.Error(f"{path}: column {missing[0]}: expected in the table of an evaluation, found none")
    return read


def _told(interval: Interval, sign: str, episodes: int) -> str:
    if episodes < FEWEST_EPISODES:
        return "-"
    return f"{interval.low:{sign}.6f} to {interval.high:{sign}.6f}"


def _page(table: Table) -> str:
    def cells(values: list[str], tag: str = "td") -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"

    heads = ["checkpoint", "dataset", "precision", "episodes", "seeds", "mean MSE", "95 % interval", "failed"]
    errors = [cells(heads, "th")]
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in table.rows:
        groups.setdefault((row["checkpoint"], row["dataset"], row["precision"]), []).append(row)
    for (checkpoint, dataset, precision), rows in groups.items():
        good = {(dataset, row["episode"], row["seed"]): row["mse"] for row in rows if row["error"] is None}
        episodes, seeds = len({key[1] for key in good}), len({key[2] for key in good})
        found = _interval(_by_episode(good))
        told = [f"{found.mean:.6f}" if good else "-", _told(found, "", episodes)]
        errors.append(cells([checkpoint, dataset, precision, str(episodes), str(seeds), *told, str(len(rows) - len(good))]))
    differences = table.differences()
    heads = ["precision", "a", "b", "episodes", "seeds", "left out", "MSE of b minus a", "95 % interval", "verdict"]
    compared = [cells(heads, "th")]
    for one in differences:
        counted = [str(one.episodes), str(one.seeds), str(one.left_out)]
        interval = _told(Interval(one.mean, one.low, one.high), "+", one.episodes)
        compared.append(cells([one.precision, one.a, one.b, *counted, f"{one.mean:+.6f}", interval, one.verdict]))
    style = "body{font:15px sans-serif;max-width:70em;margin:2em auto}td,th{padding:.3em .8em;text-align:left;border-bottom:1px solid #ccc}"
    return (
        f"<!doctype html><meta charset=utf-8><title>Evaluation</title><style>{style}</style><h1>Evaluation</h1>"
        f"<table>{''.join(errors)}</table><h2>Which checkpoint is better</h2><table>{''.join(compared)}</table>"
        "<p>Differences are taken episode by episode and seed by seed; what one of the two lacks is left out. An interval holds "
        f"95 % of {_DRAWS} bootstrap samples: episodes are drawn with replacement, and of each its seeds; where it does not hold "
        f"0, a difference is shown. Fewer than {FEWEST_EPISODES} episodes give no interval and no verdict. It says what other "
        "episodes and seeds of the same kind would give, open loop, and nothing of other tasks or of a robot that moves. Each of "
        f"the {len(differences)} comparisons stands by itself: of twenty without a difference one shows one by chance.</p>"
    )
