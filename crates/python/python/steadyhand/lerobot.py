"""A policy for LeRobot's code: observations and actions in LeRobot's names and shapes.

    policy = LeRobotPolicy(steadyhand.Policy.open("CHECKPOINT"), "DATASET/meta/modality.json")
    action = policy.select_action(batch)          # [B, action columns], what lerobot's rollouts and robots call
    chunk = policy.predict_action_chunk(batch)    # [B, action_horizon, action columns]

`meta/modality.json` says which columns of `observation.state` and `action` are which joint group, and which camera is which
view, as for `steady eval`. Actions are in physical units: no processor of LeRobot must normalize observations before or
un-normalize actions after.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from . import _native
from .policy import Policy, StrPath


class LeRobotPolicy(torch.nn.Module):
    """A `Policy` with the methods that LeRobot calls: `reset`, `select_action`, `predict_action_chunk`.

    An observation is an item of a `LeRobotDataset`, or a batch of such items: cameras float `[C, H, W]` in 0 to 1 or uint8
    `[H, W, C]`, `observation.state` `[D]`, `task` a text; with one dimension more in front, a batch, and `task` a list.
    """

    def __init__(self, policy: Policy, modality: StrPath | Mapping[str, Any], n_action_steps: int | None = None) -> None:
        """Args:
            modality: A dataset's `meta/modality.json`, or what it holds.
            n_action_steps: Steps of a chunk that `select_action` gives before it asks for the next one; all unless named.

        Raises:
            Error: A view or a joint group of the policy that `modality` has not; more steps than a chunk has; a policy of
                several frames or states, of which an item has one.
        """
        super().__init__()
        self.policy = policy
        where = "modality" if isinstance(modality, Mapping) else str(modality)
        self._modality = dict(modality) if isinstance(modality, Mapping) else json.loads(Path(modality).read_text())
        configs = policy.modality_configs
        for kind in ("video", "state"):
            steps = configs[kind].delta_indices
            if steps != [0]:
                raise _native.Error(f"{kind}: expected a policy of the current step alone, found steps {steps}")
        for kind in ("video", "state", "action"):
            for name in configs[kind].modality_keys:
                if name not in self._modality.get(kind, {}):
                    raise _native.Error(f"{where}: {kind}.{name}: expected, as the checkpoint asks for it, found none")
        most = policy.action_horizon
        self._take = most if n_action_steps is None else n_action_steps
        if not 0 < self._take <= most:
            raise _native.Error(f"n_action_steps: expected 1 to {most}, found {self._take}")
        self._queue: deque[torch.Tensor] = deque()
        self.config = SimpleNamespace(
            type="steadyhand", device="cpu", use_amp=False, chunk_size=most, n_action_steps=self._take
        )
        """What LeRobot's scripts read of a policy's configuration."""

    def reset(self) -> None:
        """An episode begins: what is left of the last chunk is dropped."""
        self._queue.clear()
        self.policy.reset()

    def select_action(self, batch: Mapping[str, Any], **_: Any) -> torch.Tensor:
        """The next action, float32 `[B, columns]`, or `[columns]` for an item. A chunk is asked for where none is left."""
        if not self._queue:
            chunk = self.predict_action_chunk(batch)
            self._queue.extend(chunk[..., step, :] for step in range(self._take))
        return self._queue.popleft()

    def predict_action_chunk(self, batch: Mapping[str, Any], **_: Any) -> torch.Tensor:
        """Actions of all steps, float32 `[B, action_horizon, columns]`, or without B for an item; columns are those of the
        dataset's `action`."""
        actions, _info = self.policy.get_action(self.observation(batch))
        groups = self._modality["action"]
        columns = max(int(group["end"]) for group in groups.values())
        first = next(iter(actions.values()))
        chunk = np.full((*first.shape[:-1], columns), np.nan, np.float32)
        for name, values in actions.items():
            chunk[..., int(groups[name]["start"]) : int(groups[name]["end"])] = values
        if np.isnan(chunk).any():
            left = [name for name in groups if name not in actions]
            raise _native.Error(f"action: expected every column from the policy, found none for {', '.join(left) or 'some'}")
        return torch.from_numpy(chunk)

    def forward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """As `predict_action_chunk`: this policy is not trained."""
        return self.predict_action_chunk(batch)

    def observation(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The observation as `Policy.get_action` takes it."""
        configs = self.policy.modality_configs
        video: dict[str, npt.NDArray[np.uint8]] = {}
        for view in configs["video"].modality_keys:
            key = self._modality["video"][view].get("original_key", f"observation.images.{view}")
            frames = _frames(_array(batch, key), key)
            # One frame of time.
            video[view] = frames[..., None, :, :, :] if frames.ndim == 4 else frames[None]
        state: dict[str, npt.NDArray[np.float32]] = {}
        for group in configs["state"].modality_keys:
            entry = self._modality["state"][group]
            key = entry.get("original_key", "observation.state")
            values = _array(batch, key).astype(np.float32)
            if not 1 <= values.ndim <= 2 or values.shape[-1] < int(entry["end"]):
                raise _native.Error(f"{key}: expected [D] or [B, D] with D from {entry['end']} on, found {list(values.shape)}")
            state[group] = values[..., None, int(entry["start"]) : int(entry["end"])]
        if "task" not in batch:
            raise _native.Error("task: expected a text, found none")
        return {"video": video, "state": state, "language": {self.policy.language_key: batch["task"]}}


def _array(batch: Mapping[str, Any], key: str) -> npt.NDArray[Any]:
    if key not in batch:
        known = ", ".join(sorted(str(name) for name in batch))
        raise _native.Error(f"{key}: expected an array, found none; there are {known}")
    value = batch[key]
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _frames(values: npt.NDArray[Any], key: str) -> npt.NDArray[np.uint8]:
    """uint8 `[H, W, 3]` or `[B, H, W, 3]`."""
    if values.ndim in (3, 4):
        if values.dtype == np.uint8 and values.shape[-1] == 3:
            return np.ascontiguousarray(values)
        if np.issubdtype(values.dtype, np.floating) and values.shape[-3] == 3 and 0 <= values.min() and values.max() <= 1:
            # Frames were bytes before LeRobot divided them by 255: rounding gives those bytes back.
            return np.ascontiguousarray(np.moveaxis(np.rint(values * 255).astype(np.uint8), -3, -1))
    raise _native.Error(
        f"{key}: expected float [3, H, W] or [B, 3, H, W] from 0 to 1, or uint8 [H, W, 3] or [B, H, W, 3], "
        f"found {values.dtype} {list(values.shape)}"
    )
