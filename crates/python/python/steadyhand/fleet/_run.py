"""The evaluation as a whole: what is to be done, who does it, what is kept of it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable, Sequence
from os import fspath
from pathlib import Path

from .. import _native
from ..policy import StrPath
from ._places import Lost, Place, local, on_ray
from ._table import Kept, Table
from ._work import Row, Unit


def evaluate(
    checkpoints: Sequence[StrPath],
    datasets: Sequence[StrPath],
    precisions: Sequence[str] = ("f32",),
    seeds: Sequence[int] = (42,),
    *,
    episodes: Iterable[int] | str = "all",
    out: StrPath = "fleet.parquet",
    engine: str = "auto",
    embodiment_tag: str | None = None,
    tokenizer: str | None = None,
    steps: int = 200,
    action_horizon: int = 16,
    denoising_steps: int = 4,
    skip_timing_steps: int = 1,
    workers: int | None = None,
    address: str | None = None,
    cpus_per_worker: float = 1,
    retries: int = 3,
    progress: bool = True,
) -> Table:
    """Evaluates every checkpoint on every dataset at every precision with every seed, open loop.

    Args:
        checkpoints, datasets: Folders, which every machine must see under the same path.
        episodes: Numbers, or `all` of each dataset.
        out: A `.parquet` file (needs pyarrow) or a `.csv` file. Rows that it, or the `.rows` file beside it that is
            there while an evaluation goes on, has already are not computed again, where everything that they depend on
            is the same, this package's version too.
        engine, embodiment_tag, tokenizer, steps, action_horizon, denoising_steps, skip_timing_steps: As of
            `steadyhand.evaluate`.
        workers: How many; one a GPU unless named, or one where there is no GPU.
        address: A Ray cluster: `auto`, `ray://HOST:PORT`, or `local`, which starts one on this machine. Processes of
            this machine otherwise.
        cpus_per_worker: Of Ray's accounting.
        retries: How often an episode is tried again whose worker was lost.
        progress: Whether each finished episode is told on `sys.stderr`.

    Returns:
        The table, in the order checkpoint, dataset, precision, seed, episode. A row with an `error` has no numbers.

    Raises:
        Error: An option that cannot work, a dataset that cannot be read; an episode whose worker was lost too often.
            What was computed until then is kept.
    """
    whole = [] if isinstance(episodes, str) else list(episodes)
    if isinstance(episodes, str) and episodes != "all":
        raise _native.Error(f"episodes: expected numbers or `all`, found `{episodes}`")
    units = [
        Unit(
            fspath(checkpoint), fspath(dataset), episode, precision, seed, engine, embodiment_tag, tokenizer, steps,
            action_horizon, denoising_steps, skip_timing_steps, _native.__version__,
        )
        for checkpoint in checkpoints
        for dataset in datasets
        for precision in precisions
        for seed in seeds
        for episode in (_all_episodes(Path(dataset)) if isinstance(episodes, str) else whole)
    ]
    if len(set(units)) != len(units):
        raise _native.Error("checkpoints, datasets, precisions, seeds and episodes: expected each once, found one twice")
    kept = Kept(Path(out))
    done = {unit: row for unit in units if (row := kept.find(unit)) is not None}
    todo = [unit for unit in units if unit not in done]
    if todo:
        places = on_ray(address, workers, engine, cpus_per_worker) if address is not None else local(workers, engine)
        try:
            done.update(_Run(todo, kept, retries, progress, len(units)).on(places))
        finally:
            for place in places:
                place.close()
    return kept.close([done[unit] for unit in units])


def _all_episodes(dataset: Path) -> range:
    file = dataset / "meta/info.json"
    try:
        return range(int(json.loads(file.read_text())["total_episodes"]))
    except OSError as error:
        raise _native.Error(f"{file}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _native.Error(f"{file}: total_episodes: expected a number, found none") from error


class _Run:
    """Units on their way; threads of the workers share it."""

    def __init__(self, todo: list[Unit], kept: Kept, retries: int, progress: bool, total: int) -> None:
        self._waiting = list(todo)
        self._kept, self._retries, self._progress, self._total = kept, retries, progress, total
        self._before = total - len(todo)
        self._tried: dict[Unit, int] = {}
        self._done: dict[Unit, Row] = {}
        self._failed: BaseException | None = None
        self._changed = threading.Condition()

    def on(self, places: list[Place]) -> dict[Unit, Row]:
        """Computes everything."""
        threads = [threading.Thread(target=self._work, args=(place,), daemon=True) for place in places]
        # Before the workers take any.
        wanted = len(self._waiting)
        for thread in threads:
            thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._failed is not None or len(self._done) == wanted)
        if self._failed is not None:
            raise self._failed
        for thread in threads:
            thread.join()
        return self._done

    def _next(self, open_policy: tuple[object, ...] | None) -> Unit | None:
        """The next unit, of the policy that the worker has open if there is one; waits while others may come back."""
        def decided() -> bool:
            return bool(self._waiting) or self._failed is not None or len(self._tried) == len(self._done)

        with self._changed:
            self._changed.wait_for(decided)
            if not self._waiting or self._failed is not None:
                return None
            same = (place for place, unit in enumerate(self._waiting) if unit.policy == open_policy)
            unit = self._waiting.pop(next(same, 0))
            self._tried[unit] = self._tried.get(unit, 0) + 1
            return unit

    def _work(self, place: Place) -> None:
        """Evaluates until nothing is left. What fails here, a disk that is full too, ends the whole."""
        try:
            self._evaluate(place)
        except BaseException as error:
            with self._changed:
                self._failed = self._failed or error
                self._changed.notify_all()

    def _evaluate(self, place: Place) -> None:
        open_policy = None
        while (unit := self._next(open_policy)) is not None:
            try:
                row = place.evaluate(unit)
            except Lost as lost:
                self._lost(unit, lost)
                continue
            open_policy = unit.policy
            with self._changed:
                row["attempts"] = self._tried[unit]
                self._kept.keep(row)
                self._done[unit] = row
                self._say(f"{self._before + len(self._done)} of {self._total} episodes: {_told(unit, row)}")
                self._changed.notify_all()

    def _lost(self, unit: Unit, lost: Lost) -> None:
        with self._changed:
            self._say(f"{lost}; episode {unit.episode} of {unit.dataset} is tried again")
            if self._tried[unit] > self._retries:
                what = f"episode {unit.episode} of {unit.dataset}: its worker was lost {self._tried[unit]} times: {lost}"
                self._failed = self._failed or _native.Error(what)
            else:
                self._waiting.insert(0, unit)
            self._changed.notify_all()

    def _say(self, text: str) -> None:
        if self._progress:
            print(text, file=sys.stderr, flush=True)


def _told(unit: Unit, row: Row) -> str:
    what = f"MSE {row['mse']:.6f}" if row["error"] is None else f"skipped: {row['error']}"
    return f"{Path(unit.checkpoint).name}, {Path(unit.dataset).name}, {unit.precision}, seed {unit.seed}, {unit.episode}: {what}"
