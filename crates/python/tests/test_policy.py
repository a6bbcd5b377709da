"""`Policy`: names, shapes, noise, errors, and the bits of `steady eval`."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import flat, same

import steadyhand


def test_shapes_and_names_are_those_of_gr00t_policy(policy, observation):
    actions, info = policy.get_action(observation)
    assert {name: (array.shape, array.dtype) for name, array in actions.items()} == {
        name: ((1, 16, dim), np.float32)
        for name, dim in {"left_arm": 7, "right_arm": 7, "left_hand": 6, "right_hand": 6}.items()
    }
    assert (info["seed"], info["episode"], info["inference"], info["batch"], info["rtc"]) == (42, 0, 0, 1, False)
    config = policy.get_modality_config()
    assert config["video"].modality_keys == ["ego_view"] and config["action"].delta_indices == list(range(16))
    assert config["action"].action_configs is None and config["language"].modality_keys == [policy.language_key]
    assert [(group.name, group.dim) for group in policy.state_groups][0] == ("left_arm", 7)


def test_flat_and_unbatched_observations_are_answered_in_their_form(policy, observation):
    nested, _ = policy.get_action(observation, seed=1)
    of_flat, _ = policy.get_action(flat(observation), seed=1)
    assert same({f"action.{name}": array for name, array in nested.items()}, of_flat)
    unbatched = {
        "video": {name: frames[0] for name, frames in observation["video"].items()},
        "state": {name: rows[0] for name, rows in observation["state"].items()},
        "language": {name: texts[0] for name, texts in observation["language"].items()},
    }
    alone, _ = policy.get_action(unbatched, seed=1)
    assert same({name: array[0] for name, array in nested.items()}, alone)


def test_a_batch_gives_what_its_members_give_alone(demo, policy):
    batch = policy.random_observation(batch=3, frame=(240, 320))
    together, _ = policy.get_action(batch)
    other = steadyhand.Policy.open(demo.checkpoint, engine="cpu")
    for place in range(3):
        one = {
            kind: {name: values[place : place + 1] for name, values in named.items()} for kind, named in batch.items()
        }
        alone, info = other.get_action(one)
        assert info["inference"] == place
        assert same({name: array[place : place + 1] for name, array in together.items()}, alone)


def test_views_that_are_not_contiguous_are_the_same_frames(policy, observation):
    expected, _ = policy.get_action(observation, seed=3)
    bgr = {name: np.ascontiguousarray(frames[..., ::-1]) for name, frames in observation["video"].items()}
    turned = {**observation, "video": {name: frames[..., ::-1] for name, frames in bgr.items()}}
    assert not turned["video"]["ego_view"].flags["C_CONTIGUOUS"]
    assert same(policy.get_action(turned, seed=3)[0], expected)
    double = {**observation, "state": {name: rows.astype(np.float64) for name, rows in observation["state"].items()}}
    assert same(policy.get_action(double, seed=3)[0], expected)


def test_what_is_read_quickly_gives_what_the_reader_of_requests_gives(demo, policy):
    """Plain dictionaries of arrays have a reader of their own; a subclass of a dictionary or a tuple has not."""

    class Other(dict):
        pass

    for batch in (1, 3):
        observation = policy.random_observation(batch=batch, frame=(60, 80), seed=batch)
        for form in (observation, flat(observation)):
            doubled = {
                key: value.astype(np.float64) if key.startswith("state.") else value for key, value in form.items()
            } if form is not observation else form
            expected, info = policy.get_action(Other({key: Other(value) if isinstance(value, dict) else value
                                                      for key, value in form.items()}), seed=7)
            for plain in (form, doubled):
                found, said = policy.get_action(plain, seed=7)
                assert same(found, expected) and list(found) == list(expected)
                times = ("call_ms", "inference_ms")
                assert {k: v for k, v in said.items() if k not in times} == {k: v for k, v in info.items() if k not in times}
            for texts in (("pick it up",) * batch, ["pick it up"] * batch, "pick it up", [["pick it up"]] * batch):
                key = policy.language_key
                written = {**form, key: texts} if form is not observation else {**form, "language": {key: texts}}
                assert same(policy.get_action(written, seed=7)[0], expected)


def test_memory_of_frames_before_leaves_nothing_behind(demo, policy):
    """Sizes, batches and texts in turn: each gives what it gives a policy that has seen nothing else."""
    shown = [
        policy.random_observation(batch=batch, frame=frame, seed=seed, instruction=text)
        for seed, (batch, frame, text) in enumerate(
            [(1, (256, 256), "pick up the yellow bottle"), (2, (60, 80), "pick"), (1, (64, 64), ""), (6, (8, 8), "place")]
        )
    ]
    for observation in [*shown, *reversed(shown)]:
        fresh = steadyhand.Policy.open(demo.checkpoint, engine="cpu")
        expected, _ = fresh.get_action(observation, seed=3)
        given = {kind: {key: value.copy() if kind != "language" else value for key, value in named.items()}
                 for kind, named in observation.items()}
        assert same(policy.get_action(given, seed=3)[0], expected)


def test_noise_advances_is_named_or_given(policy, observation):
    first, _ = policy.get_action(observation)
    second, info = policy.get_action(observation)
    assert info["inference"] == 1 and not same(first, second)
    named, _ = policy.get_action(observation, seed=42, episode=0, inference=0)
    assert same(named, first)
    zeros = np.zeros((1, *policy.noise_shape), np.float32)
    given, info = policy.get_action(observation, noise=zeros)
    assert "seed" not in info and not same(given, first)
    assert same(policy.get_action(observation, noise=zeros[0])[0], given)
    # Neither of them moved the policy's own noise.
    assert policy.get_action(observation)[1]["inference"] == 2
    assert policy.reset() == {"episode": 1}
    assert policy.reset({"episode": 5, "other": 1}) == {"episode": 5, "ignored_options": ["other"]}
    assert policy.get_action(observation)[1]["episode"] == 5


def test_a_chunk_goes_on_from_the_one_before(policy, observation):
    before, _ = policy.get_action(observation)
    options = {"overlap_steps": 8, "frozen_steps": 8}
    after, info = policy.get_action(observation, rtc=options)
    assert info["rtc"]
    for name, actions in after.items():
        np.testing.assert_allclose(actions[:, :8], before[name][:, 8:], atol=1e-4)
    policy.reset()
    assert not policy.get_action(observation, rtc=options)[1]["rtc"]
    given, info = policy.get_action(observation, rtc={**options, "previous": before}, seed=42, inference=1)
    assert info["rtc"] and same(given, after)


def test_errors_have_the_text_of_the_program(demo, policy, observation):
    def refused(**changes):
        with pytest.raises(steadyhand.Error) as found:
            policy.get_action({**observation, **changes})
        return str(found.value)

    assert "observation.video.ego_view: expected uint8" in refused(video={"ego_view": np.zeros((2, 2), np.uint8)})
    assert "observation.video.ego_view: expected an array, found none; there are x" in refused(video={"x": 1})
    wrong = {**observation["state"], "left_arm": np.zeros((1, 1, 7), np.int64)}
    assert "observation.state.left_arm: expected dtype" in refused(state=wrong)
    short = {**observation["state"], "left_arm": np.zeros((1, 1, 6), np.float32)}
    assert "left_arm" in refused(state=short)
    assert "found object" in refused(video={"ego_view": object()})
    with pytest.raises(steadyhand.Error, match=r"noise: expected float32 \[1, 16, 32\], found \[1, 2\]"):
        policy.get_action(observation, noise=np.zeros((1, 2), np.float32))
    # What fails draws nothing.
    assert policy.get_action(observation)[1]["inference"] == 0

    evaluate = ["eval", "--model-path", str(demo.checkpoint), "--dataset-path", str(demo.dataset), "--out", "/nonexistent/steady"]
    for words, options in [
        # `eval` knows servers besides.
        (["verify", str(demo.checkpoint), "--engine", "gpu"], {"engine": "gpu"}),
        ([*evaluate, "--precision", "fp4"], {"precision": "fp4"}),
        ([*evaluate, "--embodiment-tag", "x"], {"embodiment_tag": "x"}),
        ([*evaluate, "--engine", "cpu", "--device", "1"], {"engine": "cpu", "device": 1}),
    ]:
        with pytest.raises(steadyhand.Error) as found:
            steadyhand.Policy.open(demo.checkpoint, **options)
        command = [sys.executable, "-m", "steadyhand", *words]
        said = subprocess.run(command, capture_output=True, text=True).stderr
        # clap puts `invalid value …` and a usage around what a value's reader says.
        assert str(found.value).split(": ", 1)[1].strip() in said or str(found.value) in said, (found.value, said)


def test_threads_take_turns_and_python_goes_on_meanwhile(policy, observation):
    expected, _ = policy.get_action(observation, seed=9)
    found = [None] * 4

    def ask(place):
        found[place] = policy.get_action(observation, seed=9)[0]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    counted = 0
    while any(thread.is_alive() for thread in threads):
        counted += 1
    for thread in threads:
        thread.join()
    assert counted > 100 and all(same(actions, expected) for actions in found)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_actions_are_those_of_steady_eval_to_the_bit(demo, tmp_path, precision):
    """Of an episode in AV1 and one in H.264, each observation as the package reads it and in the other forms."""
    file = tmp_path / "actions.npz"
    words = ["eval", "--model-path", str(demo.checkpoint), "--dataset-path", str(demo.dataset), "--traj-ids", "0", "1"]
    words += ["--steps", "32", "--engine", "cpu", "--precision", precision, "--actions", str(file), "--out", str(tmp_path)]
    subprocess.run([Path(sys.executable).parent / "steady", *words], check=True, capture_output=True)
    written = np.load(file)["predicted"]
    policy = steadyhand.Policy.open(demo.checkpoint, engine="cpu", precision=precision)
    for form in (lambda observation: observation, flat):
        chunks = []
        for episode in (0, 1):
            policy.reset({"episode": episode})
            for step in (0, 16):
                actions, info = policy.get_action(form(policy.observation(demo.dataset, episode=episode, step=step)))
                assert (info["episode"], info["inference"]) == (episode, step // 16)
                chunks.append(np.concatenate([array[0] for array in actions.values()], axis=1))
        ours = np.concatenate(chunks)
        assert ours.shape == written.shape == (64, 26) and ours.tobytes() == written.tobytes()


def test_what_a_dataset_does_not_have_is_named(demo, policy):
    with pytest.raises(steadyhand.Error, match="step: expected below"):
        policy.observation(demo.dataset, episode=0, step=100_000)
    with pytest.raises(steadyhand.Error, match="info.json"):
        policy.observation("/nonexistent", episode=0, step=0)
