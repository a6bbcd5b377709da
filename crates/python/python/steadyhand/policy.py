"""A policy: observations in, actions out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _native

Actions = dict[str, npt.NDArray[np.float32]]
StrPath = str | PathLike[str]


class Demo(NamedTuple):
    """The embedded demo: a small policy and four episodes of a Unitree G1, as ordinary folders."""

    checkpoint: Path
    dataset: Path


def demo() -> Demo:
    """The folders of the embedded demo, which are written to the user's cache folder where they are missing."""
    checkpoint, dataset = _native.demo()
    return Demo(Path(checkpoint), Path(dataset))


@dataclass(frozen=True)
class ActionConfig:
    """How the actions of a joint group are represented; the fields of Isaac-GR00T's class of this name, enums as text."""

    rep: str
    type: str
    format: str
    state_key: str | None = None


@dataclass(frozen=True)
class ModalityConfig:
    """One modality of an embodiment; the fields of Isaac-GR00T's class of this name."""

    delta_indices: list[int]
    """The time of each frame or row, in steps of the dataset relative to now."""
    modality_keys: list[str]
    """Names of the cameras, joint groups or texts."""
    sin_cos_embedding_keys: list[str] | None = None
    mean_std_embedding_keys: list[str] | None = None
    action_configs: list[ActionConfig] | None = None


@dataclass(frozen=True)
class Group:
    """A joint group: rows of time steps, `dim` values each (None where the checkpoint does not tell)."""

    name: str
    steps: int
    dim: int | None = field(default=None)


class Policy:
    """A checkpoint's policy for one embodiment, on one engine.

    It stands where Isaac-GR00T's `Gr00tPolicy` stands: `get_action`, `reset` and `get_modality_config` have its names,
    layouts and shapes. Threads may share it; they take turns. The GIL is free while it computes.

    Noise: an inference starts from random actions. A new policy stands at inference 0 of episode 0; every observation
    advances it by one, `reset` goes to the next episode. The numbers are those of `steady eval` with the same seed, on
    any engine and machine. A call that fails draws nothing.
    """

    def __init__(self, native: _native.Policy, path: StrPath) -> None:
        """Use `Policy.open`."""
        self._native = native
        self.path = fspath(path)
        """The checkpoint's folder, or the name of synthetic sizes."""
        self.modality_configs: dict[str, ModalityConfig] = self.get_modality_config()

    @classmethod
    def open(
        cls,
        path: StrPath,
        *,
        embodiment_tag: str | None = None,
        engine: str = "auto",
        precision: str | None = None,
        denoising_steps: int = 4,
        seed: int = 42,
        tokenizer: StrPath | None = None,
        device: int | None = None,
        kernel_cache: StrPath | None = None,
        onnxruntime: StrPath | None = None,
        provider: str | None = None,
        onnx: StrPath | None = None,
    ) -> Policy:
        """Opens a checkpoint.

        Args:
            path: A checkpoint folder as it is published or as fine-tuning leaves it, or `synth:n1.6`, `synth:n1.7`,
                `synth:tiny`: random weights.
            embodiment_tag: The robot, such as `new_embodiment`; only a checkpoint of one embodiment needs none.
            engine: As on the command line of `steady`: `cpu` (the reference), `cuda`, `auto` (cuda where it can run),
                `onnxruntime`, each with or without its precision, as `cuda:bf16`.
            precision: `f32` (the default), `bf16`, `fp16`, `mixed`, `mixed-fp16`, `fp8`, or the path of a TOML file.
            denoising_steps: Euler steps of an inference.
            seed: Of the initial noise.
            tokenizer: A `tokenizer.json`, or a folder with one or with `vocab.json` and `merges.txt`.
            device: Number of the GPU (cuda).
            kernel_cache: Where compiled kernels are kept (cuda).
            onnxruntime: The library of ONNX Runtime, or its folder (onnxruntime).
            provider: `cpu`, `cuda`, `tensorrt` or `nv-tensorrt-rtx` (onnxruntime).
            onnx: A graph that was exported before (onnxruntime).

        Raises:
            Error: A file of the checkpoint that is missing, malformed or does not fit the others; a precision that the
                engine does not execute; an engine that cannot run here.
        """
        # Not when the package is imported: the program, which imports it too, says such things on standard error.
        _native.log_notes()
        native = _native.Policy(
            fspath(path),
            embodiment_tag=embodiment_tag,
            tokenizer=tokenizer,
            engine=engine,
            precision=precision,
            denoising_steps=denoising_steps,
            seed=seed,
            device=device,
            kernel_cache=kernel_cache,
            onnxruntime=onnxruntime,
            provider=provider,
            onnx=onnx,
        )
        return cls(native, path)

    def get_action(
        self,
        observation: Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        *,
        noise: npt.NDArray[np.float32] | None = None,
        seed: int | None = None,
        episode: int | None = None,
        inference: int | None = None,
        rtc: Mapping[str, Any] | None = None,
    ) -> tuple[Actions, dict[str, Any]]:
        """Actions for an observation, or for each of a batch.

        Args:
            observation: Nested, `observation["video"]["ego_view"]`, as `Gr00tPolicy` takes it, or flat,
                `observation["video.ego_view"]`, as `Gr00tSimPolicyWrapper` does. Video: uint8 `[B, T, H, W, 3]` (or
                without B, or `[H, W, 3]` for one frame); state: float32 or float64 `[B, T, D]` in physical units (or
                without B, or `[D]`); language: B texts, each alone or in a list. Arrays that NumPy can look at, such as
                tensors of PyTorch in host memory, are arrays. Other keys are left aside. B is at most 64.
            options: `seed`, `episode`, `inference` and `rtc` as below, in the form in which clients of a server send
                them; others are ignored, and named in `info["ignored_options"]`.
            noise: The initial noise, float32 `[B, action_horizon, max_action_dim]` of `noise_shape`, or without B for
                one observation, in place of the policy's own, which stays where it is.
            seed: With `episode` and `inference` (0 unless named): the noise of that inference.
            rtc: Real-time chunking: `{"overlap_steps": 8, "frozen_steps": 2, "ramp_rate": 6.0}`; the chunk goes on from
                the last one that was given since `reset`, or from actions in `rtc["previous"]`.

        Returns:
            Actions by joint group in physical units, float32 `[B, action_horizon, D]` (without B, and named
            `action.NAME`, where the observation was); and `info`: `seed`, `episode`, `inference` of the first
            observation's noise, `batch`, `inference_ms` (the engine), `call_ms` (what the same call takes in Rust, frames
            to physical actions), `rtc`.

        Raises:
            Error: The observation does not fit the embodiment: the view, joint group or text is named.
        """
        if type(observation) is not dict:
            observation = dict(observation)
        if noise is not None:
            noise = np.ascontiguousarray(noise, dtype=np.float32)
        return self._native.get_action(observation, dict(options) if options else None, noise, seed, episode, inference, rtc)

    def reset(self, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Begins the next episode, or that of `options["episode"]`; one of which nothing was asked yet stays.

        Returns:
            `{"episode": N}`.
        """
        episode, ignored = self._native.reset(dict(options or {}))
        return {"episode": episode, **({"ignored_options": ignored} if ignored else {})}

    def get_modality_config(self) -> dict[str, ModalityConfig]:
        """What the embodiment observes and does: `video`, `state`, `action` and `language`."""
        configs = {}
        for name, entry in self._native.modality_config().items():
            fields = dict(entry["as_json"])
            actions = fields.pop("action_configs")
            configs[name] = ModalityConfig(
                **fields, action_configs=None if actions is None else [ActionConfig(**config) for config in actions]
            )
        return configs

    def observation(self, dataset: StrPath, episode: int, step: int) -> dict[str, Any]:
        """What a LeRobot dataset has at a step of an episode, as `get_action` takes it, for one observation (B is 1).

        Frames are decoded as `steady eval` decodes them, to the bytes that FFmpeg gives.

        Raises:
            Error: The dataset cannot be read, or lacks a view or a joint group of the embodiment.
        """
        video, state, instruction = self._native.observation(fspath(dataset), episode, step)
        return {
            "video": {view: frames[None] for view, frames in video.items()},
            "state": {group: rows[None] for group, rows in state.items()},
            "language": {self.language_key: [[instruction]]},
        }

    def random_observation(
        self, batch: int = 1, frame: tuple[int, int] = (480, 640), seed: int = 0, instruction: str = "pick it up"
    ) -> dict[str, Any]:
        """A nested observation of random pixels and of joint positions within ±0.5, to try a policy on."""
        rng = np.random.default_rng(seed)
        video, language = self.modality_configs["video"], self.modality_configs["language"]
        shape = (batch, len(video.delta_indices), *frame, 3)
        return {
            "video": {view: rng.integers(0, 256, shape, dtype=np.uint8) for view in video.modality_keys},
            "state": {
                group.name: rng.uniform(-0.5, 0.5, (batch, group.steps, group.dim or 1)).astype(np.float32)
                for group in self.state_groups
            },
            "language": {key: [[instruction] for _ in range(batch)] for key in language.modality_keys},
        }

    def fingerprint(self) -> str:
        """What tells the checkpoint's weights from others. The first call reads them all."""
        return self._native.fingerprint()

    @property
    def state_groups(self) -> list[Group]:
        """Joint groups of the state, in physical units."""
        return [Group(*group) for group in self._native.groups()[0]]

    @property
    def action_groups(self) -> list[Group]:
        """Joint groups of the actions, in physical units."""
        return [Group(*group) for group in self._native.groups()[1]]

    @property
    def language_key(self) -> str:
        """The key of the instruction."""
        return self.modality_configs["language"].modality_keys[0]

    @property
    def embodiment_tag(self) -> str:
        """As the checkpoint spells it."""
        return self._native.embodiment_tag

    @property
    def action_horizon(self) -> int:
        """Steps of an action chunk."""
        return len(self.modality_configs["action"].delta_indices)

    @property
    def noise_shape(self) -> tuple[int, int]:
        """`(action_horizon, max_action_dim)` of the model."""
        return self._native.noise_shape

    @property
    def engine(self) -> str:
        """What runs the model, such as `cpu`."""
        return self._native.engine

    @property
    def precision(self) -> str:
        """The number formats as they were asked for."""
        return self._native.precision

    @property
    def precision_identity(self) -> str:
        """What tells the number formats from others, site by site."""
        return self._native.precision_identity

    @property
    def denoising_steps(self) -> int:
        """Euler steps of an inference."""
        return self._native.denoising_steps

    @property
    def seed(self) -> int:
        """Of the noise."""
        return self._native.seed

    def __repr__(self) -> str:
        return f"Policy({self.path!r}, embodiment_tag={self.embodiment_tag!r}, engine={self.engine!r}, precision={self.precision!r})"
