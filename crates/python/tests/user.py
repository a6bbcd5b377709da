"""What a user writes, for mypy: every name here has the type that it is used as."""

import numpy as np
import numpy.typing as npt

import steadyhand


def arm(policy: steadyhand.Policy) -> npt.NDArray[np.float32]:
    actions, info = policy.get_action(policy.random_observation(), seed=1)
    print(info["inference_ms"])
    return actions["left_arm"]


def worst(evaluation: steadyhand.Evaluation) -> steadyhand.Episode:
    return max(evaluation.episodes, key=lambda episode: episode.mse)


def verdict(diagnosis: steadyhand.Diagnosis) -> str:
    return "healthy" if diagnosis.healthy else f"{diagnosis.headline}: {diagnosis.hypotheses[0].fix}"


def farthest(verification: steadyhand.Verification) -> float:
    return max((tap.found for tap in verification.taps if not tap.holds), default=verification.worst.found)


if __name__ == "__main__":
    print(arm(steadyhand.Policy.open(steadyhand.demo().checkpoint)).shape)
    print(worst(steadyhand.evaluate(episodes=[0])).mse)
    print(verdict(steadyhand.diagnose("cpu:bf16")))
