"""A live PyTorch model, recorded and diagnosed. The model is a stand-in: `stand_in.py` says of what."""

import json

import pytest

import steadyhand

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import steadyhand.torch as recording  # noqa: E402
from stand_in import Gr00t  # noqa: E402

INFERENCES = 2


@pytest.fixture(scope="module")
def model(demo):
    return Gr00t(demo.checkpoint)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What the reference was shown, an inference each."""
    from safetensors.torch import load_file

    folder = tmp_path_factory.mktemp("reference") / "recorded"
    steadyhand.record(folder, inferences=INFERENCES, progress=False)
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            inference, tap = name.split("/")
            tensors.setdefault(inference, {})[tap] = tensor
    return [tensors[inference] for inference in sorted(tensors)]


def diagnosed(model, inputs, folder):
    with recording.record(model, folder / "trace", precision="f32"):
        for recorded in inputs:
            model.get_action(recorded)
    return steadyhand.diagnose(f"trace:{folder / 'trace'}", inferences=INFERENCES, out=folder / "out", progress=False)


def test_a_healthy_model_has_no_fault(model, inputs, tmp_path):
    found = diagnosed(model, inputs, tmp_path)
    assert found.healthy, found.headline
    manifest = json.loads((tmp_path / "trace/manifest.json").read_text())
    names = [tensor["name"] for tensor in manifest["tensors"]]
    assert len(names) == len(set(names)) and manifest["metadata"]["denoising_steps"] == "4"
    for name in ["000/backbone_features", "001/noise", "001/step.3.dit.block.7.fc1", "001/action_pred", "000/step.2.timestep"]:
        assert name in names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert "get_action" not in model.__dict__


def test_a_planted_fault_is_named(model, inputs, tmp_path):
    model.action_head.model.transformer_blocks[3].ff.net[0].approximate = "none"
    try:
        found = diagnosed(model, inputs, tmp_path)
    finally:
        del model.action_head.model.transformer_blocks[3].ff.net[0].approximate
    assert not found.healthy and found.place == "dit.block.3.gelu", found.headline


def test_a_weight_that_is_not_the_checkpoints_is_placed(model, inputs, tmp_path):
    weight = model.action_head.model.transformer_blocks[2].ff.net[2].weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight *= 1.05
        found = diagnosed(model, inputs, tmp_path)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert not found.healthy and found.place.startswith("dit.block.2"), found.headline


def test_what_cannot_be_recorded_is_refused(model, inputs, tmp_path):
    with pytest.raises(steadyhand.Error, match="action_head.action_encoder"):
        with recording.record(torch.nn.Linear(2, 2), tmp_path / "a"):
            pass
    with pytest.raises(steadyhand.Error, match="found none"):
        with recording.record(model, tmp_path / "b"):
            pass
    with pytest.raises(steadyhand.Error, match="does not exist yet"):
        with recording.record(model, tmp_path):
            pass
