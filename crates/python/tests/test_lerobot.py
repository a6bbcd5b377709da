"""The policy for LeRobot's code, with datasets and functions of the real package."""

import numpy as np
import pytest


import steadyhand

torch = pytest.importorskip("torch")

from steadyhand.lerobot import LeRobotPolicy  # noqa: E402


@pytest.fixture()
def adapter(demo, policy):
    return LeRobotPolicy(policy, demo.dataset / "meta/modality.json", n_action_steps=3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset that the real package wrote and reads."""
    datasets = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    rng = np.random.default_rng(0)
    features = {
        "observation.state": {"dtype": "float32", "shape": (26,), "names": None},
        "action": {"dtype": "float32", "shape": (26,), "names": None},
        "observation.images.ego_view": {"dtype": "image", "shape": (64, 64, 3), "names": ["height", "width", "channels"]},
    }
    root = tmp_path_factory.mktemp("lerobot") / "dataset"
    written = datasets.LeRobotDataset.create("steadyhand/test", fps=30, features=features, root=root, use_videos=False)
    frames = []
    for _ in range(4):
        frame = {
            "observation.state": rng.uniform(-0.5, 0.5, 26).astype(np.float32),
            "action": np.zeros(26, np.float32),
            "observation.images.ego_view": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8),
        }
        frames.append(frame)
        written.add_frame({**frame, "task": "pick up the squash"})
    written.save_episode()
    written.finalize()
    return datasets.LeRobotDataset("steadyhand/test", root=root), frames


def expected(policy, frame, **options):
    groups = {"left_arm": (0, 7), "right_arm": (7, 14), "left_hand": (14, 20), "right_hand": (20, 26)}
    observation = {
        "video": {"ego_view": frame["observation.images.ego_view"][None, None]},
        "state": {name: frame["observation.state"][None, None, a:b] for name, (a, b) in groups.items()},
        "language": {policy.language_key: [["pick up the squash"]]},
    }
    actions, _ = policy.get_action(observation, **options)
    return np.concatenate([actions[name][0] for name in groups], axis=1)


def test_items_and_batches_of_the_real_package(demo, adapter, dataset):
    dataset, frames = dataset
    other = steadyhand.Policy.open(demo.checkpoint, engine="cpu")
    chunk = adapter.predict_action_chunk(dataset[2])
    assert chunk.dtype == torch.float32 and np.array_equal(chunk.numpy(), expected(other, frames[2], seed=42))
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=2)))
    adapter.reset()
    chunks = adapter.predict_action_chunk(batch)
    assert chunks.shape == (2, 16, 26)
    for place in range(2):
        alone = expected(other, frames[place], seed=42, episode=1, inference=place)
        assert np.array_equal(chunks[place].numpy(), alone)


def test_the_real_package_calls_it(demo, adapter, dataset):
    control = pytest.importorskip("lerobot.utils.control_utils")
    _, frames = dataset
    other = steadyhand.Policy.open(demo.checkpoint, engine="cpu")
    robot = {key: value for key, value in frames[0].items() if key != "action"}
    ask = lambda: control.predict_action(
        robot, adapter, torch.device("cpu"), lambda batch: batch, lambda action: action, adapter.config.use_amp,
        task="pick up the squash",
    )
    adapter.reset()
    first = expected(other, frames[0], seed=42)
    for step in range(3):
        assert np.array_equal(ask().squeeze(0).numpy(), first[step])
    # The fourth asks for a new chunk.
    assert np.array_equal(ask().squeeze(0).numpy(), expected(other, frames[0], seed=42, inference=1)[0])


def test_what_does_not_fit_is_named(demo, policy, adapter):
    item = {"observation.images.ego_view": torch.zeros(3, 8, 8), "observation.state": torch.zeros(26), "task": "x"}
    assert adapter.select_action(item).shape == (26,)
    adapter.reset()
    for changes, text in [
        ({"observation.state": torch.zeros(9)}, r"observation.state: expected \[D\]"),
        ({"observation.images.ego_view": torch.full((3, 8, 8), 2.0)}, "from 0 to 1"),
    ]:
        with pytest.raises(steadyhand.Error, match=text):
            adapter.select_action({**item, **changes})
    for missing in item:
        with pytest.raises(steadyhand.Error, match=missing):
            adapter.select_action({key: value for key, value in item.items() if key != missing})
    with pytest.raises(steadyhand.Error, match="state.left_arm"):
        LeRobotPolicy(policy, {"video": {"ego_view": {}}, "state": {}, "action": {}})
    with pytest.raises(steadyhand.Error, match="n_action_steps: expected 1 to 16"):
        LeRobotPolicy(policy, demo.dataset / "meta/modality.json", n_action_steps=17)
