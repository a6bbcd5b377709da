"""Runs NVIDIA GR00T robot policies as deployed engines, and proves that they give the reference's actions.

    >>> import steadyhand
    >>> demo = steadyhand.demo()
    >>> policy = steadyhand.Policy.open(demo.checkpoint)
    >>> actions, info = policy.get_action(policy.observation(demo.dataset, episode=0, step=0))
    >>> actions["left_arm"].shape  # [B, action_horizon, dim]
    (1, 16, 7)

`Policy` gives actions for observations, with the names and shapes of Isaac-GR00T's `Gr00tPolicy`. `evaluate`, `compare`,
`diagnose`, `record`, `verify`, `bench` and `export` do what the commands of the program `steady` do, and give objects.
`steadyhand.torch` records a live PyTorch model, `steadyhand.lerobot` is a policy for LeRobot's code, `steadyhand.fleet`
evaluates on many processes or machines.

Every failure is a `steadyhand.Error` with the text that `steady` prints. What an engine says beside its results, such as
which one `auto` took, goes to the logger `steadyhand`.
"""

from ._native import Error, __version__
from .commands import bench, compare, diagnose, evaluate, export, record, verify
from .policy import ActionConfig, Demo, Group, ModalityConfig, Policy, demo
from .results import (
    Benchmark,
    Compared,
    Comparison,
    Diagnosis,
    Episode,
    Evaluation,
    Exported,
    Fixture,
    GroupError,
    Hypothesis,
    Quantiles,
    Recording,
    Tap,
    Verification,
)

__all__ = [
    "ActionConfig",
    "Benchmark",
    "Compared",
    "Comparison",
    "Demo",
    "Diagnosis",
    "Episode",
    "Error",
    "Evaluation",
    "Exported",
    "Fixture",
    "Group",
    "GroupError",
    "Hypothesis",
    "ModalityConfig",
    "Policy",
    "Quantiles",
    "Recording",
    "Tap",
    "Verification",
    "__version__",
    "bench",
    "compare",
    "demo",
    "diagnose",
    "evaluate",
    "export",
    "record",
    "verify",
]
