"""A live PyTorch model, recorded and diagnosed. The model is a stand-in: `stand_in.py` says of what."""

import json
import re
from contextlib import contextmanager

import pytest
from conftest import ROOT

import steadyhand

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import steadyhand.torch as recording  # noqa: E402
from stand_in import Gr00t  # noqa: E402

INFERENCES = 2


@pytest.fixture(scope="module")
def model(demo):
    return Gr00t(demo.checkpoint)


def read(folder):
    """Tensors of a trace, an inference each."""
    from safetensors.torch import load_file

    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            inference, tap = name.split("/")
            tensors.setdefault(inference, {})[tap] = tensor
    return [tensors[inference] for inference in sorted(tensors)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What the reference was shown, an inference each."""
    folder = tmp_path_factory.mktemp("reference") / "recorded"
    steadyhand.record(folder, inferences=INFERENCES, all=True, progress=False)
    return read(folder)


def diagnosed(model, inputs, folder, **options):
    with recording.record(model, folder / "trace", precision="f32"):
        for recorded in inputs:
            model.get_action(recorded)
    return steadyhand.diagnose(
        f"trace:{folder / 'trace'}", inferences=len(inputs), out=folder / "out", progress=False, **options
    )


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


# Two correct f32 implementations: the official code's own distance from f64 is at most 5.8e-7 at any tap of N1.7
# (tests/fixtures/golden_n1d7/mixed_shapes/floor.json); times 17, which is the limit of `steady verify`.
LIMIT = 1e-5
BACKBONE = ("vision.", "connector", "language.")


def distance(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def test_every_stage_is_recorded_under_the_names_of_the_reference(model, inputs, tmp_path):
    """Tap by tap what `steady record --all` has: same names, shapes and, but for rounding, values."""
    with recording.record(model, tmp_path / "trace") as recorder:
        for recorded in inputs:
            model.get_action(recorded)
    assert not recorder.left_out
    for found, expected in zip(read(tmp_path / "trace"), inputs):
        for tap, tensor in found.items():
            assert tensor.shape == expected[tap].shape, tap
            assert tensor.dtype == torch.int64 or distance(tensor, expected[tap]) < LIMIT, tap
        missing = {re.sub(r"[.]\d+", ".N", tap) for tap in expected.keys() - found.keys() if tap.startswith(BACKBONE)}
        # What official modules compute between two others, or in another order.
        assert missing == {
            "vision.patches", "vision.patch_embedding", "vision.position_embedding",
            "language.layer.N.query_rope", "language.layer.N.key_rope",
        }


def test_stages_can_be_left_out(model, inputs, tmp_path):
    with recording.record(model, tmp_path / "a", stages=["connector", "action_head"]):
        model.get_action(inputs[0])
    (found,) = read(tmp_path / "a")
    assert {tap for tap in found if tap.startswith(BACKBONE)} == {"connector.norm", "connector.fc1", "connector.gelu", "connector"}
    assert "backbone_features" in found and "step.3.decoder" in found
    for stages, text in [(["vision"], "no action_head"), (["head", "action_head"], "'head'")]:
        with pytest.raises(steadyhand.Error, match=text):
            with recording.record(model, tmp_path / "b", stages=stages):
                pass


@contextmanager
def exchanged(module, name, value):
    """An attribute of a module, or what a parameter holds, for a while."""
    kept = getattr(module, name)
    if isinstance(kept, torch.Tensor):
        before = kept.detach().clone()
        with torch.no_grad():
            kept.copy_(value)
        yield
        with torch.no_grad():
            kept.copy_(before)
        return
    setattr(module, name, value)
    yield
    setattr(module, name, kept)


@pytest.mark.parametrize(("module", "name", "change", "place"), [
    ("vision_model.vision_model.encoder.layers.1.mlp", "approximate", "none", "vision.layer.1.gelu"),
    ("vision_model.vision_model.encoder.layers.0.self_attn.k_proj", "weight", 1.05, "vision.layer.0.key"),
    ("mlp1.0", "eps", 1e-2, "connector.norm"),
    ("mlp1.3", "weight", 1.05, "connector"),
    ("language_model.model.layers.2.self_attn", "theta", 1e4, "language.layer.2."),
    ("language_model.model.layers.1.post_attention_layernorm", "weight", 1.05, "language.layer.1.norm2"),
])
def test_a_fault_in_the_backbone_is_named(model, inputs, tmp_path, module, name, change, place):
    part = model.backbone.model.get_submodule(module)
    value = getattr(part, name)
    with exchanged(part, name, value.detach() * change if isinstance(value, torch.Tensor) else change):
        found = diagnosed(model, inputs, tmp_path)
    assert not found.healthy and found.place.startswith(place), found.headline


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


def test_modules_of_n1_7_are_recorded_under_the_names_of_the_official_taps(tmp_path):
    """Tap by tap what the official code left of the same weights and inputs."""
    pytest.importorskip("transformers", minversion="4.57")
    from safetensors.torch import load_file
    from stand_in_n1d7 import Gr00t as Gr00tN1d7

    golden = ROOT / "tests/fixtures/golden_n1d7/mixed_shapes"
    inputs = load_file(golden / "inputs.safetensors")
    model = Gr00tN1d7(golden)
    with recording.record(model, tmp_path / "trace"):
        model.get_action(inputs)
    (found,) = read(tmp_path / "trace")
    official = {
        **load_file(golden / "expected_f32.safetensors"), **load_file(golden / "expected_detail_f32.safetensors")
    }
    compared = found.keys() & official.keys()
    for tap in sorted(compared):
        assert found[tap].numel() == official[tap].numel(), tap
        assert distance(found[tap].flatten(), official[tap].flatten()) < LIMIT, tap
    assert {tap for tap in found if tap.startswith(BACKBONE) and ".0" in tap} - compared == set()
    missing = {re.sub(r"[.]\d+", ".N", tap) for tap in official.keys() - compared if not tap.startswith("step.")}
    # Tables, positions, and what is computed between two modules.
    assert missing == {
        "position_ids", "language.rope.cos", "language.rope.sin", "vision.rope.cos", "vision.rope.sin",
        "vision.position_embedding",
    }


def test_n1_7_healthy_and_with_a_fault_in_the_backbone(demo, tmp_path):
    pytest.importorskip("transformers", minversion="4.57")
    from stand_in_n1d7 import Gr00t as Gr00tN1d7

    checkpoint = ROOT.parent / "shared/demo_n1d7/checkpoint"
    if not checkpoint.exists():
        pytest.skip("needs a checkpoint of N1.7 (../shared/demo_n1d7)")
    shown = {"checkpoint": checkpoint, "dataset_path": demo.dataset}
    steadyhand.record(tmp_path / "recorded", inferences=1, all=True, progress=False, **shown)
    (recorded,) = read(tmp_path / "recorded")
    height, width = (side // 16 for side in recorded["pixel_values.0"].shape[-2:])
    inputs = {
        **recorded,
        "attention_mask": torch.ones_like(recorded["input_ids"]),
        "pixel_values": recorded["vision.patches"][0],
        "image_grid_thw": torch.tensor([[1, height, width]]),
        "state": recorded["action_head.state"],
    }
    model = Gr00tN1d7(checkpoint)
    healthy = diagnosed(model, [inputs], tmp_path / "healthy", **shown)
    assert healthy.healthy, healthy.headline
    norm = model.backbone.model.model.visual.deepstack_merger_list[1].norm
    with exchanged(norm, "weight", norm.weight.detach() * 1.05):
        found = diagnosed(model, [inputs], tmp_path / "wrong", **shown)
    assert not found.healthy and found.place == "vision.deepstack.1.norm", found.headline


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
