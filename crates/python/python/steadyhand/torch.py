"""Records a live PyTorch model, for `steadyhand.diagnose`.

    with steadyhand.torch.record(policy.model, "trace") as recorder:
        policy.get_action(observation)
    print(steadyhand.diagnose("trace:trace", checkpoint=…, dataset_path=…, inferences=1).headline)

Hooks stand on modules by the names that the official model has (`Gr00tN1d6`, `Gr00tN1d7`); what they see is written under
the names of the reference's taps (MODEL.md), in the type that the model computed it in. The model must be shown the
observations that `diagnose` takes: episode `traj_id`, every `action_horizon` steps. Its noise and inputs are in the trace
and take the place of the reference's, so the seed does not matter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _native
from ._modules import STAGES, Place, places
from .policy import StrPath

if TYPE_CHECKING:
    import torch

_TYPES = {
    "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16", "torch.float64": "F64",
    "torch.int64": "I64", "torch.int32": "I32", "torch.bool": "BOOL",
}


_PATCH, _WINDOW = 14, 14
"""Pixels of a side of N1.6's patches; patches of a side of its windows."""


def _window_order(grids: list[tuple[int, int]]) -> list[int]:
    """Where patches of N1.6's tower, which keeps them window by window between its layers, stand row by row."""
    order: list[int] = []
    for rows, columns in grids:
        first = len(order)
        for top in range(0, rows, _WINDOW):
            for left in range(0, columns, _WINDOW):
                for row in range(top, min(top + _WINDOW, rows)):
                    order += [first + row * columns + column for column in range(left, min(left + _WINDOW, columns))]
    return order


def _grids(images: Any) -> list[tuple[int, int]]:
    """Patches of the height and the width of each image: a tensor `[..., 3, H, W]`, or a list of such."""
    if isinstance(images, (tuple, list)):
        return [grid for image in images for grid in _grids(image)]
    shape: tuple[int, ...] = tuple(getattr(images, "shape", ()))
    if len(shape) not in (3, 4):
        return []
    return [(shape[-2] // _PATCH, shape[-1] // _PATCH)] * (shape[0] if len(shape) == 4 else 1)


@dataclass
class Recorder:
    """What was recorded so far. `inference()` begins the next observation where that is not plain from the model."""

    path: Path
    inferences: list[dict[str, torch.Tensor]] = field(default_factory=list)
    step: int = -1
    left_out: list[str] = field(default_factory=list)
    """Taps of N1.6's tower that were not recorded, as the sizes of its images were not seen."""
    _order: list[int] = field(default_factory=list, repr=False)

    def inference(self) -> None:
        """What comes from now on belongs to the next inference."""
        self.inferences.append({})
        self.step = -1

    def _keep(self, tap: str, tensor: torch.Tensor, place: Place) -> None:
        import torch

        # What an inference computes once comes before its first step; `action_pred` alone comes after.
        if not place.in_step and self.step >= 0 and tap != "action_pred":
            self.inference()
        if not self.inferences:
            self.inferences.append({})
        name = f"step.{self.step}.{tap}" if place.in_step else tap
        # At once: what is added in place later is not part of the result.
        kept = tensor.detach().to("cpu", copy=True)
        if place.stage != "action_head":
            kept = kept.flatten(-2) if tap.endswith(("query_norm", "key_norm")) and kept.dim() == 4 else kept
            kept = kept.reshape(1, -1, kept.shape[-1])
        if place.windows:
            if len(self._order) != kept.shape[1]:
                self.left_out.append(tap)
                return
            ordered = torch.empty_like(kept)
            ordered[:, self._order] = kept
            kept = ordered
        if kept.dim() == 2 and tap.endswith(("modulation", "timestep_embedding")):
            kept = kept.unsqueeze(1)
        if tap == "timestep":
            kept = kept.reshape(-1).to(torch.int64)
        kept = kept.contiguous()
        self.inferences[-1][name] = kept
        if name == "step.0.actions_in":
            self.inferences[-1]["noise"] = kept.clone()


def _tensor(value: Any) -> torch.Tensor | None:
    import torch

    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, (tuple, list)) and value:
        return _tensor(value[0])
    if isinstance(value, Mapping) or hasattr(value, "keys"):
        for name in ("backbone_features", "action_pred"):
            if name in value:
                return _tensor(value[name])
    return None


@contextmanager
def record(
    model: torch.nn.Module,
    out: StrPath,
    *,
    stages: Collection[str] = STAGES,
    precision: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Iterator[Recorder]:
    """Records what `model` computes within the `with` into the new folder `out`, as a trace.

    Args:
        model: The official model (`Gr00tPolicy(...).model`), or a module with its names: what has an `action_head` with
            `action_encoder`, `model` and `action_decoder`. One observation an inference.
        stages: Parts to record, of `vision`, `connector`, `language` and `action_head`; the action head is always needed. At
            the published size all of them take near a GB of memory an inference in bf16.
        precision: What the model is meant to run at, such as `bf16`, where its tensors do not say.
        metadata: More of what a trace may say of itself, such as `episode` and `steps` (docs/DIAGNOSIS.md).

    Raises:
        Error: `out` exists; no module has a known name; nothing was computed; a batch of several observations.
    """
    import torch
    from safetensors.torch import save_file

    folder = Path(out)
    if folder.exists():
        raise _native.Error(f"{folder}: expected a folder that does not exist yet")
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or "action_head" not in stages:
        what = ", ".join(map(repr, unknown)) or "no action_head"
        raise _native.Error(f"stages: expected action_head and any of {', '.join(STAGES)}, found {what}")
    recorder = Recorder(folder)
    modules = dict(model.named_modules())
    known = [(name, place) for name, place in places(modules) if place.stage in stages]
    if not any("action_encoder" in name for name in modules) or not known:
        names = ", ".join(name for name, _ in model.named_children())
        raise _native.Error(f"model: expected a module with action_head.action_encoder, found {names}")
    handles = []
    for name, place in known:
        if place.inputs:
            handles.append(modules[name].register_forward_pre_hook(_before(recorder, place, name), with_kwargs=True))
        if place.output is not None:
            handles.append(modules[name].register_forward_hook(_after(recorder, place)))
    for name, module in modules.items():
        if name.endswith("backbone.model.vision_model") and "vision" in stages:
            handles.append(module.register_forward_pre_hook(_images(recorder), with_kwargs=True))
    answering = model if hasattr(model, "get_action") else getattr(model, "action_head", None)
    answer = getattr(answering, "get_action", None)
    if answering is not None and answer is not None:
        # A method and no `forward`, so that no hook sees what it gives.
        def answered(*args: Any, **kwargs: Any) -> Any:
            result = answer(*args, **kwargs)
            actions = _tensor(result)
            if actions is not None:
                recorder._keep("action_pred", actions, Place("action_head", "action_pred"))
            return result

        answering.__dict__["get_action"] = answered
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()
        if answering is not None:
            answering.__dict__.pop("get_action", None)
    inferences = [tensors for tensors in recorder.inferences if tensors]
    if not inferences:
        raise _native.Error(f"{folder}: expected an inference within the recording, found none")
    for tensors in inferences:
        for name, tensor in tensors.items():
            if tensor.dim() and tensor.shape[0] != 1:
                raise _native.Error(f"{name}: expected one observation an inference, found {tensor.shape[0]}")
    folder.mkdir(parents=True)
    listed = []
    for number, tensors in enumerate(inferences):
        last = max(int(name.split(".")[1]) for name in tensors if name.startswith("step."))
        file = f"{number:03}.safetensors"
        named = {f"{number:03}/{name}": tensor for name, tensor in tensors.items()}
        save_file(named, folder / file)
        for name, tensor in named.items():
            kind = _TYPES[str(tensor.dtype)]
            listed.append({"name": name, "dtype": kind, "shape": list(tensor.shape), "file": file})
    said = {"mode": "run", "denoising_steps": str(last + 1), "torch": torch.__version__, **(metadata or {})}
    if precision is not None:
        said["precision"] = precision
    manifest = {"format": "steadyhand-trace", "version": 1, "complete": True, "metadata": said, "tensors": listed}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _before(recorder: Recorder, place: Place, name: str) -> Callable[..., None]:
    def hook(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name.endswith("action_encoder"):
            recorder.step += 1
        for index, parameter, tap in place.inputs:
            value = kwargs.get(parameter, args[index] if index < len(args) else None)
            tensor = _tensor(value)
            if tensor is not None:
                recorder._keep(tap, tensor, place)

    return hook


def _images(recorder: Recorder) -> Callable[..., None]:
    def hook(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder._order = _window_order(_grids(kwargs.get("pixel_values", args[0] if args else None)))

    return hook


def _after(recorder: Recorder, place: Place) -> Callable[..., None]:
    def hook(_module: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        tensor = _tensor(output)
        if tensor is not None and place.output is not None:
            recorder._keep(place.output, tensor, place)

    return hook
