"""What tests share. Those that need a package that is not there are skipped, by name."""

from pathlib import Path

import numpy as np
import pytest

import steadyhand

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def demo():
    return steadyhand.demo()


@pytest.fixture()
def policy(demo):
    return steadyhand.Policy.open(demo.checkpoint, engine="cpu")


@pytest.fixture()
def observation(policy):
    return policy.random_observation(frame=(256, 256))


def flat(observation):
    """The same with flat keys."""
    keys = {"language": ""}
    return {
        f"{keys.get(kind, kind + '.')}{name}": value for kind, named in observation.items() for name, value in named.items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
