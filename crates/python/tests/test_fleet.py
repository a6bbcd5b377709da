"""Fleets: the same table however it was computed, whatever was killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import steadyhand
from steadyhand import fleet
from steadyhand.fleet._places import Process

PRECISIONS, SEEDS = ["f32", "bf16", "fp16"], [0, 1]
OPTIONS = {"engine": "cpu", "steps": 32, "episodes": [0, 1], "progress": False}


def arguments(demo):
    return [demo.checkpoint], [demo.dataset], PRECISIONS, SEEDS


@pytest.fixture(scope="module")
def expected(demo, tmp_path_factory):
    """The table of one process."""
    return fleet.evaluate(*arguments(demo), out=tmp_path_factory.mktemp("one") / "table.csv", workers=1, **OPTIONS)


def test_rows_are_those_of_evaluate(demo, expected):
    assert len(expected.rows) == 12 and not any(row["error"] for row in expected.rows)
    evaluated = steadyhand.evaluate(episodes=[1], steps=32, engine="cpu", seed=1, precision="bf16", progress=False)
    row = next(row for row in expected.rows if (row["precision"], row["seed"], row["episode"]) == ("bf16", 1, 1))
    assert (row["mse"], row["mae"]) == (evaluated.episodes[0].mse, evaluated.episodes[0].mae)
    assert len({row["actions_sha256"] for row in expected.rows}) == 12


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_worker_that_is_killed_is_survived(demo, expected, tmp_path, monkeypatch, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    evaluate, killed = Process.evaluate, []

    def once(self, unit):
        if not killed and (unit.precision, unit.seed) == ("bf16", 1):
            killed.append(unit)
            # Its process is there: it has evaluated before. It dies with the unit at hand.
            if self._process is not None:
                self._process.send_signal(signal.SIGSTOP)
                os.kill(self._process.pid, signal.SIGKILL)
        return evaluate(self, unit)

    monkeypatch.setattr(Process, "evaluate", once)
    table = fleet.evaluate(*arguments(demo), out=tmp_path / f"table.{suffix}", workers=2, **OPTIONS)
    assert killed and table.results() == expected.results()
    assert not (tmp_path / f"table.{suffix}.rows").exists()
    # All of it is there: nothing is started.
    monkeypatch.setattr(Process, "evaluate", None)
    assert fleet.evaluate(*arguments(demo), out=table.path, workers=2, **OPTIONS).rows == table.rows


@pytest.mark.parametrize("address", [None, "local"])
def test_a_driver_that_is_killed_goes_on(demo, expected, tmp_path, address):
    if address is not None:
        pytest.importorskip("ray")
    out = tmp_path / "table.csv"
    program = (
        "from steadyhand import fleet\n"
        f"fleet.evaluate([{str(demo.checkpoint)!r}], [{str(demo.dataset)!r}], {PRECISIONS}, {SEEDS}, out={str(out)!r}, "
        f"workers=2, address={address!r}, **{OPTIONS})\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", program])
    journal = tmp_path / "table.csv.rows"
    until = time.monotonic() + 120
    while not (journal.exists() and journal.read_text().count("\n") >= 3) and time.monotonic() < until:
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    before = [json.loads(line) for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]
    assert 3 <= len(before) < 12
    with journal.open("a") as file:
        file.write('{"cut": ')
    table = fleet.evaluate(*arguments(demo), out=out, workers=2, **OPTIONS)
    assert table.results() == expected.results()
    kept = {row["actions_sha256"]: row["worker"] for row in before}
    assert all(row["worker"] == kept.get(row["actions_sha256"], row["worker"]) for row in table.rows)


def test_ray_gives_the_same_table(demo, expected, tmp_path):
    ray = pytest.importorskip("ray")
    from steadyhand.fleet import _places

    evaluate, killed = _places.Actor.evaluate, []

    def once(self, unit):
        if not killed and self._actor is not None:
            killed.append(unit)
            ray.kill(self._actor)
        return evaluate(self, unit)

    _places.Actor.evaluate = once
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        table = fleet.evaluate(*arguments(demo), out=tmp_path / "ray.csv", address="local", workers=2, **OPTIONS)
    finally:
        _places.Actor.evaluate = evaluate
        ray.shutdown()
    assert killed and table.results() == expected.results()
    assert max(row["attempts"] for row in table.rows) == 2


def test_checkpoints_are_compared(demo, tmp_path):
    table = fleet.evaluate(
        [demo.checkpoint, str(demo.checkpoint) + "/."], [demo.dataset], seeds=SEEDS, out=tmp_path / "t.csv", **OPTIONS
    )
    (same,) = table.differences()
    assert (same.mean, same.low, same.high, same.verdict) == (0, 0, 0, "no difference shown")
    for row in table.rows:
        if row["checkpoint"].endswith("/."):
            row["mse"] *= 0.5
    (better,) = table.differences()
    assert better.verdict == "b is better" and better.low <= better.mean <= better.high < 0
    table.report(tmp_path / "page.html")
    assert "b is better" in (tmp_path / "page.html").read_text()


def test_what_fails_is_a_row_and_what_cannot_work_is_refused(demo, tmp_path):
    options = {**OPTIONS, "episodes": [0, 77]}
    table = fleet.evaluate([demo.checkpoint], [demo.dataset], out=tmp_path / "t.csv", **options)
    assert [row["error"] is None for row in table.rows] == [True, False] and "77" in table.rows[1]["error"]
    with pytest.raises(steadyhand.Error, match="parquet or .csv"):
        fleet.evaluate([demo.checkpoint], [demo.dataset], out=tmp_path / "t.txt", **OPTIONS)
    with pytest.raises(steadyhand.Error, match="found one twice"):
        fleet.evaluate([demo.checkpoint] * 2, [demo.dataset], out=tmp_path / "t2.csv", **OPTIONS)
    with pytest.raises(steadyhand.Error, match="info.json"):
        fleet.evaluate([demo.checkpoint], [tmp_path], out=tmp_path / "t3.csv", **{**OPTIONS, "episodes": "all"})


def test_workers_that_are_done_at_once_leave_nobody_waiting(demo, tmp_path, monkeypatch):
    def start(thread):
        """Each worker takes what it can before the driver goes on."""
        original(thread)
        thread.join(0.2)

    original = threading.Thread.start
    monkeypatch.setattr(Process, "evaluate", lambda self, unit: {**vars(unit), "error": None, "mse": 0.0})
    monkeypatch.setattr(threading.Thread, "start", start)
    options = {**OPTIONS, "episodes": range(3)}
    table = fleet.evaluate([demo.checkpoint], [demo.dataset], out=tmp_path / "t.csv", workers=1, **options)
    assert len(table.rows) == 3


def test_a_table_that_cannot_be_kept_is_an_error(demo, tmp_path, monkeypatch):
    def full(self, row):
        raise OSError("no space left")

    monkeypatch.setattr(Process, "evaluate", lambda self, unit: {**vars(unit), "error": None, "mse": 0.0})
    monkeypatch.setattr(fleet._table.Kept, "keep", full)
    with pytest.raises(OSError, match="no space left"):
        fleet.evaluate([demo.checkpoint], [demo.dataset], out=tmp_path / "t.csv", workers=1, **OPTIONS)
