"""The table: kept row by row while it grows, written whole at the end, compared."""

from __future__ import annotations

import csv
import html
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True)
class Difference:
    """How much the MSE of checkpoint `b` lies below (negative) or above that of `a`, episode by episode."""

    a: str
    b: str
    precision: str
    episodes: int
    mean: float
    low: float
    """95 % of bootstrap samples of episodes, each with all its seeds, lie between `low` and `high`."""
    high: float

    @property
    def verdict(self) -> str:
        """`b is better`, `a is better`, or `no difference shown`."""
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
    by_episode: dict[tuple[str, int], list[float]] = {}
    for key in of_a.keys() & of_b.keys():
        by_episode.setdefault(key[:2], []).append(of_b[key] - of_a[key])
    # Seeds of an episode are not independent of each other: episodes are drawn, whole.
    means = np.array([np.mean(by_episode[key]) for key in sorted(by_episode)])
    if not len(means):
        return Difference(a, b, precision, 0, float("nan"), float("nan"), float("nan"))
    drawn = np.random.default_rng(0).integers(0, len(means), (_DRAWS, len(means)))
    low, high = np.quantile(means[drawn].mean(axis=1), [0.025, 0.975])
    return Difference(a, b, precision, len(means), float(means.mean()), float(low), float(high))


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


def _page(table: Table) -> str:
    def cells(values: list[str], tag: str = "td") -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"

    errors = [cells(["checkpoint", "dataset", "precision", "episodes", "seeds", "mean MSE", "failed"], "th")]
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in table.rows:
        groups.setdefault((row["checkpoint"], row["dataset"], row["precision"]), []).append(row)
    for (checkpoint, dataset, precision), rows in groups.items():
        good = [row for row in rows if row["error"] is None]
        mean = f"{np.mean([row['mse'] for row in good]):.6f}" if good else "-"
        count = [str(len({row[name] for row in good})) for name in ("episode", "seed")]
        errors.append(cells([checkpoint, dataset, precision, *count, mean, str(len(rows) - len(good))]))
    compared = [cells(["precision", "a", "b", "episodes", "MSE of b minus a", "95 % interval", "verdict"], "th")]
    for found in table.differences():
        interval = f"{found.low:+.6f} to {found.high:+.6f}"
        compared.append(cells([found.precision, found.a, found.b, str(found.episodes), f"{found.mean:+.6f}", interval, found.verdict]))
    style = "body{font:15px sans-serif;max-width:70em;margin:2em auto}td,th{padding:.3em .8em;text-align:left;border-bottom:1px solid #ccc}"
    return (
        f"<!doctype html><meta charset=utf-8><title>Evaluation</title><style>{style}</style><h1>Evaluation</h1>"
        f"<table>{''.join(errors)}</table><h2>Which checkpoint is better</h2><table>{''.join(compared)}</table>"
        "<p>Differences are taken episode by episode. The interval holds 95 % of bootstrap samples of the episodes, each "
        "with all its seeds; where it does not hold 0, a difference is shown.</p>"
    )
