"""OpenPI's clients of `steady serve --openpi-port`, over websockets.

    openpi.py TEST PORT FOLDER

Arrays are written as openpi_client.msgpack_numpy writes them; the observations are those of client.py, as is FOLDER.
"""

import http.client
import sys

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

TEST, PORT, FOLDER = sys.argv[1], int(sys.argv[2]), sys.argv[3]
# Only what makes observations is taken of it.
sys.argv[1] = "nothing"
from client import GROUPS, HORIZON, LANGUAGE, expected, flat, nested, parts  # noqa: E402


def encode(value):
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    return value


def decode(value):
    if b"__ndarray__" in value:
        return np.ndarray(buffer=value[b"data"], dtype=value[b"dtype"], shape=value[b"shape"])
    return value


class Policy:
    """As openpi_client.WebsocketClientPolicy."""

    def __init__(self, key=None):
        headers = {"Authorization": f"Api-Key {key}"} if key else None
        self.socket = connect(f"ws://127.0.0.1:{PORT}", compression=None, max_size=None, additional_headers=headers)
        self.metadata = msgpack.unpackb(self.socket.recv(), object_hook=decode)

    def infer(self, observation):
        self.socket.send(msgpack.packb(observation, default=encode))
        reply = self.socket.recv()
        if isinstance(reply, str):
            raise RuntimeError(reply)
        return msgpack.unpackb(reply, object_hook=decode)

    def refused(self, observation, words):
        try:
            self.infer(observation)
        except RuntimeError as error:
            assert words in str(error), error
        else:
            raise AssertionError(f"not refused: {words}")


def unbatched(k):
    frame, states, text = parts(k)
    return {"video.ego_view": frame, **{f"state.{group}": state for group, state in states.items()}, "prompt": text}


def side_by_side(k):
    return np.concatenate([values[0] for values in expected(k).values()], axis=1)


def openpi_clients():
    policy = Policy()
    metadata = policy.metadata
    assert metadata["views"] == ["video.ego_view"] and metadata["action_horizon"] == HORIZON, metadata
    assert metadata["state"] == [f"state.{group}" for group in GROUPS], metadata
    assert metadata["models"] == [metadata["model"]] == ["new_embodiment"], metadata
    found = policy.infer(unbatched(1))
    assert found["actions"].dtype == np.float32 and found["actions"].shape == (HORIZON, sum(GROUPS.values()))
    assert found["actions"].tobytes() == side_by_side(1).tobytes()
    for group, values in expected(1).items():
        assert found[f"action.{group}"].tobytes() == values.tobytes(), group
    assert found["server_timing"]["infer_ms"] > 0 and "prev_total_ms" not in found["server_timing"], found
    # The next one has the noise of the next inference, unless it names another.
    again = policy.infer(unbatched(1))
    assert again["server_timing"]["prev_total_ms"] > found["server_timing"]["infer_ms"]
    assert again["actions"].tobytes() != found["actions"].tobytes()
    named = policy.infer({**unbatched(2), "options": {"seed": 42}})
    assert named["actions"].tobytes() == side_by_side(2).tobytes()
    # A batch, with the instruction by the checkpoint's own key.
    batch = policy.infer({**flat(3), "options": {"seed": 42}})
    assert batch["actions"].shape == (1, HORIZON, sum(GROUPS.values()))
    assert batch["actions"][0].tobytes() == side_by_side(3).tobytes()
    # Errors are texts, and the connection goes on.
    policy.refused({**unbatched(1), "state.left_arm": np.zeros(8, np.float32)}, "left_arm")
    policy.refused({**unbatched(1), "state.left_arm": np.zeros(7, ">f4")}, "state.left_arm: expected dtype")
    policy.refused({**unbatched(1), "options": {"model": "x"}}, "options.model: expected one of")
    policy.refused({**unbatched(1), "options": {"deadline_ms": 0}}, "deadline_ms")
    policy.refused([1], "observation: expected a map")
    policy.socket.send("text")
    assert "expected msgpack" in policy.socket.recv()
    policy.socket.send(b"\xc1")
    assert "message: " in policy.socket.recv()
    assert policy.infer({**unbatched(2), "options": {"seed": 42}})["actions"].tobytes() == side_by_side(2).tobytes()
    # A message beyond the limit (1 MiB here) ends its connection only.
    try:
        Policy().infer({"large": bytes(2 << 20)})
    except ConnectionClosed:
        pass
    else:
        raise AssertionError("not refused")
    health = http.client.HTTPConnection("127.0.0.1", PORT)
    health.request("GET", "/healthz")
    assert health.getresponse().read() == b"OK\n"
    assert Policy().infer(unbatched(1))["actions"].tobytes() == side_by_side(1).tobytes()


def openpi_names():
    frame, states, text = parts(1)
    whole = np.concatenate(list(states.values()))
    named = {f"observation/{group}": state for group, state in states.items()}
    options = {"seed": 42}
    for observation in [
        {"observation/image": frame, "observation/state": whole, "prompt": text},
        {"images": {"ego_view": frame.transpose(2, 0, 1).copy()}, "state": whole.astype(np.float64), "prompt": text},
        {"observation/ego_view": frame, **named, "prompt": text, "unknown": 1},
        {"image": frame, **states, LANGUAGE: text},
    ]:
        found = Policy().infer(observation | {"options": options})
        assert found["actions"].tobytes() == side_by_side(1).tobytes(), list(observation)
    batch = Policy().infer(nested(1) | {"options": options})
    assert batch["actions"][0].tobytes() == side_by_side(1).tobytes()
    policy = Policy()
    good = {"image": frame, "state": whole, "prompt": text}
    policy.refused({}, "expected one of video.ego_view, observation/ego_view, ego_view")
    policy.refused({"image": frame, "prompt": text}, "observation: expected one of state.left_arm")
    policy.refused({"image": frame, "state": whole}, f"expected one of {LANGUAGE}, prompt, found image, state")
    policy.refused(good | {"state": whole[1:]}, "observation.state: expected float32 or float64 [26] (left_arm 7, ")
    policy.refused(good | {"state": text}, "found text")
    policy.refused(good | {"image": frame / 255}, "observation.video.ego_view: expected uint8")
    assert policy.infer(good)["actions"].tobytes() == side_by_side(1).tobytes()


def openpi_own_client():
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    policy = WebsocketClientPolicy("127.0.0.1", PORT, api_key="secret")
    assert policy.get_server_metadata()["embodiment_tag"] == "new_embodiment"
    frame, states, text = parts(0)
    good = {"observation/image": frame, "state": np.concatenate(list(states.values())), "prompt": text}
    for _ in range(2):
        found = policy.infer(good | {"options": {"seed": 42}})
        assert found["actions"].tobytes() == side_by_side(0).tobytes()
    try:
        policy.infer({"prompt": text})
    except RuntimeError as error:
        assert "observation: expected one of" in str(error), error
    else:
        raise AssertionError("not refused")
    assert policy.infer(good)["actions"].shape == (HORIZON, sum(GROUPS.values()))


def openpi_tokens():
    for key in (None, "wrong", "secret2"):
        try:
            Policy(key)
        except InvalidStatus as refused:
            assert refused.response.status_code == 401, refused
        else:
            raise AssertionError(f"not refused: {key}")
    assert Policy("secret").infer(unbatched(1))["actions"].tobytes() == side_by_side(1).tobytes()


globals()[TEST]()
