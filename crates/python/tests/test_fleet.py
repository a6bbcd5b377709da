"""Fleets: the same table however it was computed, whatever was killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
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


def made(errors):
    """A table of checkpoints `a` and `b`: MSE by checkpoint, episode and seed; `None` where it failed."""
    rows = [
        {"checkpoint": name, "dataset": "d", "precision": "f32", "episode": episode, "seed": seed, "mse": mse,
         "error": "broken" if mse is None else None}
        for name, episodes in errors.items() for episode, seeds in enumerate(episodes) for seed, mse in enumerate(seeds)
    ]
    return fleet.Table(rows, Path("made.csv"))


def test_checkpoints_are_compared(demo, tmp_path):
    table = fleet.evaluate(
        [demo.checkpoint, str(demo.checkpoint) + "/."], [demo.dataset], seeds=SEEDS, out=tmp_path / "t.csv", **OPTIONS
    )
    (same,) = table.differences()
    assert (same.mean, same.low, same.high, same.verdict) == (0, 0, 0, "too few episodes")
    assert (same.episodes, same.seeds, same.left_out) == (2, 2, 0)
    table.report(tmp_path / "page.html")
    assert "too few episodes" in (tmp_path / "page.html").read_text()


def test_a_difference_is_what_episodes_and_seeds_show(tmp_path):
    rng = np.random.default_rng(3)
    a = rng.uniform(0.5, 1.5, (12, 4))
    worse = a * rng.uniform(1.05, 1.25, a.shape)
    (shown,) = made({"a": a, "b": worse}).differences()
    assert shown.verdict == "a is better" and 0 < shown.low < shown.mean < shown.high
    assert shown.mean == pytest.approx((worse - a).mean()) and (shown.episodes, shown.seeds) == (12, 4)
    (shown,) = made({"a": worse, "b": a}).differences()
    assert shown.verdict == "b is better"
    (none,) = made({"a": a, "b": a + rng.normal(0, 0.3, a.shape)}).differences()
    assert none.verdict == "no difference shown" and none.low < 0 < none.high
    # Five episodes that all lie on one side are no evidence at 95 %, however many seeds they have.
    (few,) = made({"a": a[:5], "b": worse[:5]}).differences()
    assert few.low > 0 and few.verdict == "too few episodes"
    broken = [[None, *row[1:]] if place == 0 else list(row) for place, row in enumerate(worse)]
    table = made({"a": a, "b": broken})
    (left,) = table.differences()
    assert (left.episodes, left.seeds, left.left_out) == (12, 4, 1)
    table.report(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for text in ["a is better", "<td>12</td><td>4</td><td>1</td>", f"{left.low:+.6f} to {left.high:+.6f}", "10000 bootstrap"]:
        assert text in page, text


def test_intervals_hold_the_mean_as_often_as_they_say():
    """300 evaluations of 20 episodes with 3 seeds each, drawn around a known mean; 95 % of them are 285, give or take 4."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(300):
        groups = rng.normal(0, 1, (20, 1)) + rng.normal(0, 2, (20, 3))
        interval = fleet._table._interval(groups.tolist())
        held += interval.low <= 0 <= interval.high
    assert 0.92 <= held / 300 <= 0.99, held


@pytest.mark.parametrize(("visible", "expected"), [
    (None, "012"), ("1,2", "01"), ("2", "0"), ("", ""), ("-1", ""), ("0,9,1", "0"), ("GPU-8f,GPU-9a", "01"),
])
def test_every_gpu_that_is_seen_has_a_process(tmp_path, monkeypatch, visible, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nfor i in 0 1 2; do echo \"GPU $i: NVIDIA H100 (UUID: GPU-$i)\"; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    places = fleet._places.local(None, "cuda:bf16")
    assert [place._words[3:] for place in places] == ([[device] for device in expected] or [[]])
    assert [place._words[3:] for place in fleet._places.local(2, "cpu")] == [[], []]


def test_ray_gives_each_actor_a_gpu(demo, expected, tmp_path):
    """Ray is told of two GPUs that are not there; `auto` runs the reference then."""
    ray = pytest.importorskip("ray")
    seen = []

    class Told(fleet._places.Actor):
        def evaluate(self, unit):
            row = super().evaluate(unit)
            seen.append((row["worker"], ray.get(self._actor.devices.remote())))
            return row

    class Telling(fleet._places.Evaluator):
        def devices(self):
            return os.environ["CUDA_VISIBLE_DEVICES"]

    original = fleet._places.Actor, fleet._places.Evaluator
    fleet._places.Actor, fleet._places.Evaluator = Told, Telling
    try:
        ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
        options = {**OPTIONS, "engine": "auto"}
        table = fleet.evaluate(*arguments(demo), out=tmp_path / "ray.csv", address="local", **options)
    finally:
        fleet._places.Actor, fleet._places.Evaluator = original
        ray.shutdown()
    # A worker each, a GPU each.
    assert len(set(seen)) == 2 == len({worker for worker, _ in seen}) and {device for _, device in seen} == {"0", "1"}
    assert [row["actions_sha256"] for row in table.rows] == [row["actions_sha256"] for row in expected.rows]


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
