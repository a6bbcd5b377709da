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
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _native
from .policy import StrPath

if TYPE_CHECKING:
    import torch

_TYPES = {
    "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16", "torch.float64": "F64",
    "torch.int64": "I64", "torch.int32": "I32", "torch.bool": "BOOL",
}


@dataclass(frozen=True)
class _Place:
    """A module's result under a tap's name, and those of its arguments that are taps too."""

    output: str | None
    inputs: tuple[tuple[int, str, str], ...] = ()
    """Place among the arguments, name of the parameter, tap."""
    in_step: bool = False


def _places() -> list[tuple[re.Pattern[str], Callable[[re.Match[str]], _Place]]]:
    """Modules of the action head by their names below it, and the backbone's."""
    def place(output: str | None, *inputs: tuple[int, str, str], step: bool = False) -> _Place:
        return _Place(output, inputs, step)

    def of_block(tap: str) -> Callable[[re.Match[str]], _Place]:
        return lambda found: place(f"dit.block.{found[1]}{tap}", step=True)

    def own_tokens(tap: str) -> Callable[[re.Match[str]], _Place]:
        # Keys and values of the other blocks are masked here and left out by the reference: not the same tensors.
        return lambda found: place(f"dit.block.{found[1]}{tap}" if int(found[1]) % 2 else None, step=True)

    block = r"action_head\.model\.transformer_blocks\.(\d+)"
    known: list[tuple[str, Callable[[re.Match[str]], _Place]]] = [
        (r"backbone", lambda _: place("backbone_features")),
        (r"action_head\.vlln", lambda _: place("action_head.vl_norm", (0, "input", "backbone_features"))),
        (r"action_head\.state_encoder", lambda _: place("action_head.state_features", (0, "x", "action_head.state"))),
        (r"action_head\.action_encoder", lambda _: place(
            "action_features", (0, "actions", "actions_in"), (1, "timesteps", "timestep"), step=True)),
        (r"action_head\.model", lambda _: place("dit.output", (0, "hidden_states", "dit.tokens"), step=True)),
        (r"action_head\.model\.timestep_encoder", lambda _: place("timestep_embedding", step=True)),
        (block, of_block("")),
        (block + r"\.norm1", of_block(".modulated")),
        (block + r"\.norm1\.linear", of_block(".modulation")),
        (block + r"\.attn1\.to_q", of_block(".query")),
        (block + r"\.attn1\.to_k", own_tokens(".key")),
        (block + r"\.attn1\.to_v", own_tokens(".value")),
        (block + r"\.attn1", of_block(".attention_output")),
        (block + r"\.norm3", of_block(".norm2")),
        (block + r"\.ff\.net\.0\.proj", of_block(".fc1")),
        (block + r"\.ff\.net\.0", of_block(".gelu")),
        (block + r"\.ff\.net\.2", of_block(".fc2")),
        (r"action_head\.action_decoder", lambda _: place("decoder", step=True)),
    ]
    return [(re.compile(rf"(?:.*\.)?{name}"), made) for name, made in known]


@dataclass
class Recorder:
    """What was recorded so far. `inference()` begins the next observation where that is not plain from the model."""

    path: Path
    inferences: list[dict[str, torch.Tensor]] = field(default_factory=list)
    step: int = -1

    def inference(self) -> None:
        """What comes from now on belongs to the next inference."""
        self.inferences.append({})
        self.step = -1

    def _keep(self, tap: str, tensor: torch.Tensor, in_step: bool) -> None:
        import torch

        # What an inference computes once comes before its first step; `action_pred` alone comes after.
        if not in_step and self.step >= 0 and tap != "action_pred":
            self.inference()
        if not self.inferences:
            self.inferences.append({})
        name = f"step.{self.step}.{tap}" if in_step else tap
        kept = tensor.detach()
        if kept.dim() == 2 and tap.endswith(("modulation", "timestep_embedding")):
            kept = kept.unsqueeze(1)
        if tap == "timestep":
            kept = kept.reshape(-1).to(torch.int64)
        kept = kept.to("cpu", copy=True).contiguous()
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
    model: torch.nn.Module, out: StrPath, *, precision: str | None = None, metadata: Mapping[str, str] | None = None
) -> Iterator[Recorder]:
    """Records what `model` computes within the `with` into the new folder `out`, as a trace.

    Args:
        model: The official model (`Gr00tPolicy(...).model`), or a module with its names: what has an `action_head` with
            `action_encoder`, `model` and `action_decoder`. One observation an inference.
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
    recorder = Recorder(folder)
    handles = []
    known = _places()
    for name, module in model.named_modules():
        for pattern, made in known:
            found = pattern.fullmatch(name)
            if found is None:
                continue
            place = made(found)
            if place.inputs:
                handles.append(module.register_forward_pre_hook(_before(recorder, place, name), with_kwargs=True))
            if place.output is not None:
                handles.append(module.register_forward_hook(_after(recorder, place)))
    if not any("action_encoder" in name for name, _ in model.named_modules()) or not handles:
        for handle in handles:
            handle.remove()
        names = ", ".join(name for name, _ in model.named_children())
        raise _native.Error(f"model: expected a module with action_head.action_encoder, found {names}")
    answering = model if hasattr(model, "get_action") else getattr(model, "action_head", None)
    answer = getattr(answering, "get_action", None)
    if answering is not None and answer is not None:
        # A method and no `forward`, so that no hook sees what it gives.
        def answered(*args: Any, **kwargs: Any) -> Any:
            result = answer(*args, **kwargs)
            actions = _tensor(result)
            if actions is not None:
                recorder._keep("action_pred", actions, False)
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


def _before(recorder: Recorder, place: _Place, name: str) -> Callable[..., None]:
    def hook(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name.endswith("action_encoder"):
            recorder.step += 1
        for index, parameter, tap in place.inputs:
            value = kwargs.get(parameter, args[index] if index < len(args) else None)
            tensor = _tensor(value)
            if tensor is not None:
                recorder._keep(tap, tensor, place.in_step)

    return hook


def _after(recorder: Recorder, place: _Place) -> Callable[..., None]:
    def hook(_module: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        tensor = _tensor(output)
        if tensor is not None and place.output is not None:
            recorder._keep(place.output, tensor, place.in_step)

    return hook
