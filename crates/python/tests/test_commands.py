"""Commands as functions: typed results, the program's errors."""

import doctest
import importlib
import json
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import steadyhand

MODULES = ["steadyhand", *sorted(one.name for one in pkgutil.walk_packages(steadyhand.__path__, "steadyhand."))]


def test_evaluate_gives_the_report(demo, tmp_path):
    said = []
    found = steadyhand.evaluate(
        demo.checkpoint, demo.dataset, episodes=[0, 2], steps=32, engine="cpu", out=tmp_path / "out", progress=said.append
    )
    assert found.status == "complete" and [episode.index for episode in found.episodes] == [0, 2]
    assert found.mse == pytest.approx(sum(episode.mse for episode in found.episodes) / 2)
    assert found.to_dict()["engine"] == "cpu" and (tmp_path / "out/report.json").exists()
    two = steadyhand.evaluate(
        demo.checkpoint, demo.dataset, episodes=[0, 2], steps=32, engine="cpu", workers=2, progress=False
    )
    assert two.mse == found.mse and two.to_dict()["timings"]["evaluating"]["workers"] == 2
    with pytest.raises(steadyhand.Error, match="--workers: expected at least 2, the GPUs of --device, found 1"):
        steadyhand.evaluate(demo.checkpoint, demo.dataset, engine="cuda", device=[0, 1], workers=1, progress=False)
    damaged = tmp_path / "damaged"
    shutil.copytree(demo.dataset, damaged)
    video = next(damaged.glob("videos/*/*/episode_000001.mp4"))
    video.write_bytes(video.read_bytes()[:1000])
    partial = steadyhand.evaluate(demo.checkpoint, damaged, episodes=[0, 1], steps=16, engine="cpu", progress=False)
    assert partial.status == "partial" and [episode.index for episode in partial.episodes] == [0]
    assert "episode_000001.mp4" in partial.failures[1]


def test_an_evaluation_is_a_table(demo):
    pytest.importorskip("pandas")
    frame = steadyhand.evaluate(episodes=[0], steps=16, engine="cpu", progress=False).to_pandas()
    assert list(frame["episode"]) == [0] and {"mse", "mse.left_arm", "inference_ms"} <= set(frame.columns)


def test_errors_are_those_of_the_program(tmp_path):
    command = [sys.executable, "-m", "steadyhand", "eval", "--model-path", "/nonexistent", "--dataset-path", "/nonexistent"]
    command += ["--out", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True).stderr.strip()
    with pytest.raises(steadyhand.Error) as found:
        steadyhand.evaluate("/nonexistent", "/nonexistent", episodes=[0], out=tmp_path)
    assert said.endswith(str(found.value)) and "/nonexistent" in str(found.value)
    with pytest.raises(steadyhand.Error, match="--nonsense"):
        steadyhand.bench("synth:tiny", nonsense=1)


def test_compare_and_diagnose(tmp_path):
    compared = steadyhand.compare("cpu:bf16", inferences=1, progress=False)
    assert compared.within_rounding and compared.b == "cpu:bf16" and len(compared.taps) > 100
    healthy = steadyhand.diagnose("cpu:bf16", inferences=1, out=tmp_path / "a", progress=False)
    assert healthy.healthy and healthy.page.exists()
    wrong = steadyhand.diagnose("fault:unwritten-tail", inferences=1, out=tmp_path / "b", progress=False)
    assert not wrong.healthy and wrong.place == "dit.output" and wrong.hypotheses[0].proven and wrong.hypotheses[0].fix


def test_record_bench_and_export(demo, tmp_path):
    recorded = steadyhand.record(tmp_path / "recorded", inferences=1, progress=False)
    assert "000/action_pred" in recorded.tensors and recorded.metadata["seed"] == "42"
    measured = steadyhand.bench("synth:tiny", engine="cpu", iterations=2, warmup=1, progress=False)
    assert measured.latency_ms["inference"].p50 > 0 and measured.engine == "cpu"
    exported = steadyhand.export(demo.checkpoint, tmp_path / "dit.onnx", component="dit", progress=False)
    assert exported.path.exists()


def test_verify_gives_every_comparison(tmp_path):
    golden = ROOT / "tests/fixtures/golden"
    verified = steadyhand.verify(golden, progress=False)
    assert verified.holds and "comparisons hold" in verified.text
    assert 0 < verified.worst.found < verified.worst.limit
    assert [fixture.name for fixture in verified.fixtures] == ["mixed_shapes", "one_view", "two_views"]
    assert all(fixture.engine == "cpu" and len(fixture.checkpoint) == 16 for fixture in verified.fixtures)
    assert len(verified.comparisons) == sum(fixture.comparisons for fixture in verified.fixtures)
    taps = {tap.tap: tap for tap in verified.taps}
    rows = [row.found for row in verified.comparisons if row.tap == "action_pred"]
    assert len(rows) == 3 and taps["action_pred"].found == max(rows)
    kept = tmp_path / "kept.json"
    failed = steadyhand.verify(golden / "one_view", max_relative_l2=1e-12, json=kept, progress=False)
    assert not failed.holds and not failed.comparisons[0].holds
    assert failed.to_dict() == json.loads(kept.read_text()) and failed.to_dict()["verdict"] == "fails"
    with pytest.raises(steadyhand.Error, match="expected a fixture folder"):
        steadyhand.verify(tmp_path, progress=False)


def test_the_program_is_in_the_package():
    program = Path(sys.executable).parent / "steady"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"steady {steadyhand.__version__}"
    assert subprocess.run([program, "eval"], capture_output=True).returncode == 2


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_run(module):
    if module.endswith("__main__"):
        pytest.skip("is the program")
    try:
        found = importlib.import_module(module)
    except steadyhand.Error as error:
        pytest.skip(str(error))
    except ImportError as error:
        pytest.skip(f"needs {error.name}")
    assert doctest.testmod(found).failed == 0


def test_there_are_examples_that_run():
    modules = [steadyhand, steadyhand.commands, steadyhand.policy]
    assert sum(len(case.examples) for module in modules for case in doctest.DocTestFinder().find(module)) >= 5


def test_types_hold(tmp_path):
    pytest.importorskip("mypy")
    here = ROOT / "crates/python"
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), "-p", "steadyhand"]
    command += ["--config-file", str(here / "pyproject.toml")]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=here / "tests")
    assert checked.returncode == 0, checked.stdout
    # What the stub says of the extension module is what is there.
    command = [sys.executable, "-m", "mypy.stubtest", "steadyhand._native"]
    command += ["--mypy-config-file", str(here / "pyproject.toml")]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(here / "tests/user.py")]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=here / "tests")
    assert checked.returncode == 0, checked.stdout
