from collections.abc import Mapping
from os import PathLike
from typing import Any, final

import numpy as np
import numpy.typing as npt

__all__ = ["Error", "Policy", "__version__", "demo", "log_notes", "run"]
__version__: str

class Error(Exception):
    """Bad input, or an engine that failed, with the text that `steady` prints."""

def run(args: list[str]) -> int: ...
def demo() -> tuple[str | PathLike[str], str | PathLike[str]]: ...
def log_notes() -> None: ...

@final
class Policy:
    def __new__(
        cls,
        path: str | PathLike[str],
        *,
        embodiment_tag: str | None,
        tokenizer: str | PathLike[str] | None,
        engine: str,
        precision: str | None,
        denoising_steps: int,
        seed: int,
        device: int | None,
        kernel_cache: str | PathLike[str] | None,
        onnxruntime: str | PathLike[str] | None,
        provider: str | None,
        onnx: str | PathLike[str] | None,
    ) -> Policy: ...
    def get_action(
        self,
        observation: Mapping[str, Any],
        options: dict[str, Any] | None,
        noise: npt.NDArray[np.float32] | None,
        seed: int | None,
        episode: int | None,
        inference: int | None,
        rtc: Mapping[str, Any] | None,
    ) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, Any]]: ...
    def reset(self, options: Any) -> tuple[int, list[str]]: ...
    def evaluate_episode(
        self,
        dataset: str | PathLike[str],
        episode: int,
        seed: int,
        steps: int,
        action_horizon: int,
        skip_timing_steps: int,
    ) -> tuple[str, npt.NDArray[np.float32]]: ...
    def observation(
        self, dataset: str | PathLike[str], episode: int, step: int
    ) -> tuple[dict[str, npt.NDArray[np.uint8]], dict[str, npt.NDArray[np.float32]], str]: ...
    def modality_config(self) -> dict[str, dict[str, Any]]: ...
    def groups(self) -> tuple[list[tuple[str, int, int | None]], list[tuple[str, int, int | None]]]: ...
    def fingerprint(self) -> str: ...
    @property
    def embodiment_tag(self) -> str: ...
    @property
    def engine(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def precision_identity(self) -> str: ...
    @property
    def noise_shape(self) -> tuple[int, int]: ...
    @property
    def denoising_steps(self) -> int: ...
    @property
    def seed(self) -> int: ...
