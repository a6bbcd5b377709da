"""Clients of `steady serve` as robots have them: pyzmq, msgpack and msgpack-numpy.

    client.py TEST PORT FOLDER

FOLDER/expected.f32 has the actions that `Policy::act` gives for the observations made here, for seed 42.
"""

import io
import socket
import struct
import sys
import threading
import time

import msgpack
import msgpack_numpy
import numpy as np
import zmq

HORIZON = 16
GROUPS = {"left_arm": 7, "right_arm": 7, "left_hand": 6, "right_hand": 6}
LANGUAGE = "annotation.human.task_description"
OBSERVATIONS = 4
TEST, PORT, FOLDER = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def encode_npy(value):
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        np.save(file, value, allow_pickle=value.dtype == object)
        return {"__ndarray_class__": True, "as_npy": file.getvalue()}
    return value


def decode_npy(value):
    if "__ndarray_class__" in value:
        return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False)
    return value


DIALECTS = {"npy": (encode_npy, decode_npy), "msgpack-numpy": (msgpack_numpy.encode, msgpack_numpy.decode)}


class Client:
    """A REQ socket that waits for a minute at most."""

    def __init__(self, dialect="npy", kind=zmq.REQ, token=None):
        self.encode, self.decode = DIALECTS[dialect]
        self.token = token
        self.socket = zmq.Context.instance().socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 60_000)
        self.socket.connect(f"tcp://127.0.0.1:{PORT}")

    def pack(self, endpoint, data=None):
        request = {"endpoint": endpoint}
        if data is not None:
            request["data"] = data
        if self.token is not None:
            request["api_token"] = self.token
        return msgpack.packb(request, default=self.encode)

    def raw(self, message):
        self.socket.send(message)
        return msgpack.unpackb(self.socket.recv(), object_hook=self.decode)

    def call(self, endpoint, data=None):
        return self.raw(self.pack(endpoint, data))

    def act(self, observation, options=None):
        reply = self.call("get_action", {"observation": observation, "options": options})
        assert isinstance(reply, list), reply
        return reply

    def refused(self, reply, *words):
        assert isinstance(reply, dict) and "error" in reply, reply
        for word in words:
            assert word in reply["error"], (word, reply)


def parts(k):
    """Frame, states and instruction of an observation, without dimensions of batch and time."""
    frame = (np.arange(256 * 256 * 3) * 31 + k * 17) % 251
    states = {}
    for g, (group, dim) in enumerate(GROUPS.items()):
        whole = (np.arange(dim) * 7 + k * 3 + g * 5) % 13 - 6
        states[group] = whole.astype(np.float32) / np.float32(10)
    return frame.astype(np.uint8).reshape(256, 256, 3), states, "pick up the squash"


def nested(*ks):
    """Batched and nested, as Gr00tPolicy takes it."""
    frames, states, texts = zip(*map(parts, ks))
    return {
        "video": {"ego_view": np.stack(frames)[:, None]},
        "state": {group: np.stack([state[group] for state in states])[:, None] for group in GROUPS},
        "language": {LANGUAGE: [[text] for text in texts]},
    }


def flat(*ks):
    """Batched and flat, as the simulators' wrapper takes it."""
    deep = nested(*ks)
    found = {f"video.{key}": value for key, value in deep["video"].items()}
    found |= {f"state.{key}": value for key, value in deep["state"].items()}
    return found | {LANGUAGE: [text for [text] in deep["language"][LANGUAGE]], "unknown.key": np.zeros(3)}


def expected(*ks, file="expected.f32"):
    """Actions by group, [B, T, D]."""
    rows = sum(GROUPS.values()) * HORIZON
    values = np.fromfile(f"{FOLDER}/{file}", "<f4").reshape(OBSERVATIONS, rows)[list(ks)]
    found, at = {}, 0
    for group, dim in GROUPS.items():
        found[group] = values[:, at : at + HORIZON * dim].reshape(len(ks), HORIZON, dim)
        at += HORIZON * dim
    return found


def same(actions, wanted, prefix=""):
    assert list(actions) == [prefix + group for group in wanted], actions.keys()
    for group, values in wanted.items():
        found = actions[prefix + group]
        assert found.dtype == np.float32 and found.shape == values.shape, (found.dtype, found.shape)
        assert found.tobytes() == values.tobytes(), (group, np.abs(found - values).max())


def both_dialects_and_all_forms():
    for dialect in DIALECTS:
        # The first inference of a client has the noise of a policy that was just opened.
        action, info = Client(dialect).act(nested(1))
        same(action, expected(1))
        assert (info["seed"], info["episode"], info["inference"]) == (42, 0, 0), info
        assert 0 < info["inference_ms"] < info["server_ms"], info
        same(Client(dialect).act(flat(2))[0], expected(2), "action.")
        frame, states, text = parts(3)
        alone = {group: values[0] for group, values in expected(3).items()}
        for states in (states, {group: values[None].astype(np.float64) for group, values in states.items()}):
            deep = {"video": {"ego_view": frame}, "state": states, "language": {LANGUAGE: text}}
            same(Client(dialect).act(deep)[0], alone)
        wide = {f"state.{group}": values for group, values in states.items()}
        wide |= {"video.ego_view": frame[None], LANGUAGE: np.array([text])}
        same(Client(dialect).act(wide)[0], alone, "action.")
        # Fortran's order, and a view that is not contiguous.
        odd = nested(1)
        odd["video"]["ego_view"] = np.asfortranarray(odd["video"]["ego_view"])
        same(Client(dialect).act(odd)[0], expected(1))
        # A batch: its first observation has the noise that is named, the second that of the next inference.
        action, _ = Client(dialect).act(nested(0, 1), {"seed": 42, "inference": 0})
        assert all(action[group].shape == (2, HORIZON, dim) for group, dim in GROUPS.items())
        first = {group: values[:1] for group, values in action.items()}
        same(first, expected(0))
        _, info = Client(dialect).act(nested(0), {"temperature": 1})
        assert info["ignored_options"] == ["temperature"], info


def all_endpoints():
    client = Client()
    assert client.call("ping")["status"] == "ok"
    for dialect in DIALECTS:
        config = Client(dialect).call("get_modality_config")
        assert list(config) == ["video", "state", "action", "language"], config
        for name, keys in (("video", ["ego_view"]), ("state", list(GROUPS)), ("language", [LANGUAGE])):
            assert config[name]["__ModalityConfig_class__"] is True
            assert config[name]["as_json"]["modality_keys"] == keys, config[name]
            assert config[name]["as_json"]["delta_indices"] == [0]
        assert config["action"]["as_json"]["delta_indices"] == list(range(HORIZON))
        assert config["action"]["as_json"]["action_configs"] is None
    assert client.call("reset", {"options": None}) == {"episode": 0}
    client.act(nested(0))
    assert client.call("reset") == {"episode": 1}
    assert client.act(nested(0))[1]["episode"] == 1
    assert client.call("reset", {"options": {"episode": 0}}) == {"episode": 0}
    # No endpoint is get_action, as in the official server.
    message = msgpack.packb({"data": {"observation": nested(1)}}, default=encode_npy)
    same(client.raw(message)[0], expected(1))
    client.refused(client.call("kill"), "--allow-kill")
    client.refused(client.call("unknown"), "Unknown endpoint: unknown")
    late = client.call("get_action", {"observation": nested(1), "options": {"deadline_ms": 0}})
    assert late["late"] is True, late


def wrong_tokens():
    for token in (None, "", "wrong", "secret ", 5, b"\xff"):
        client = Client(token=token)
        client.refused(client.call("ping"), "Unauthorized")
        client.refused(client.call("get_action", {"observation": nested(1)}), "Unauthorized")
    same(Client(token="secret").act(nested(1))[0], expected(1))


def damaged_requests():
    for dialect in DIALECTS:
        client = Client(dialect)
        good = client.pack("get_action", {"observation": nested(1), "options": None})
        for message in (b"", good[:-1], good[: len(good) // 2], good[:9], good + b"\x00", b"\xc1", b"\xff" * 100):
            client.refused(client.raw(message), "message: ")
        # A gibibyte is claimed by bytes, text, list and map.
        for code in (b"\xc6", b"\xdb", b"\xdd", b"\xdf"):
            client.refused(client.raw(code + struct.pack(">I", 1 << 30)), "message: ")

        def changed(change):
            observation = nested(1)
            change(observation)
            return client.call("get_action", {"observation": observation})

        def put(modality, key, value):
            return lambda observation: observation[modality].__setitem__(key, value)

        frame = np.zeros((1, 1, 256, 256, 3), np.uint8)
        nan = np.full((1, 1, 7), np.nan, np.float32)
        for change, words in (
            (put("state", "left_arm", np.array([[[None] * 7]], object)), ["observation.state.left_arm", "pickle"]),
            (put("state", "left_arm", nan), ["left_arm"]),
            (put("state", "left_arm", np.zeros((1, 1, 8), np.float32)), ["left_arm"]),
            (put("state", "left_arm", np.zeros((2, 1, 7), np.float32)), ["left_arm", "1 observations, found 2"]),
            (put("state", "left_arm", np.zeros((1, 7), np.float32)), ["left_arm", "expected a batch"]),
            (put("state", "left_arm", np.zeros((1, 1, 7), np.int64)), ["left_arm", "<i8"]),
            (put("state", "left_arm", np.zeros((1, 1, 7), ">f4")), ["left_arm", ">f4"]),
            (put("state", "left_arm", np.zeros((1, 0, 7), np.float32)), ["left_arm"]),
            (put("state", "left_arm", [0.0] * 7), ["left_arm", "found a list"]),
            (put("video", "ego_view", frame.astype(np.float32)), ["ego_view", "uint8", "float32"]),
            (put("video", "ego_view", frame[..., :1]), ["ego_view"]),
            (put("video", "ego_view", frame[:, :0]), ["ego_view"]),
            (put("video", "ego_view", frame[:0]), ["ego_view", "found 0"]),
            (put("video", "ego_view", np.zeros((1, 2, 8, 8, 3), np.uint8)), ["ego_view", "1 frames, found 2"]),
            (put("video", "ego_view", np.zeros((999, 1, 1, 1, 3), np.uint8)), ["ego_view", "found 999"]),
            (put("language", LANGUAGE, [["a"], ["b"]]), [LANGUAGE, "1 texts, found 2"]),
            (put("language", LANGUAGE, 5), [LANGUAGE]),
            (put("language", LANGUAGE, [["x" * 100_000]]), ["instruction"]),
            (lambda observation: observation["state"].pop("left_arm"), ["state.left_arm", "there are right_arm"]),
            (lambda observation: observation.pop("video"), ["video.ego_view"]),
            (lambda observation: observation["video"].update(other=observation["video"].pop("ego_view")), ["ego_view"]),
        ):
            client.refused(changed(change), *words)
        wrong = {"observation": nested(1), "other": 1}
        client.refused(client.call("get_action", wrong), "data.other")
        client.refused(client.call("get_action", {"observation": [1]}), "observation: expected a map")
        client.refused(client.call("get_action", [1]), "data: expected a map")
        for options, word in (
            ([1], "options: expected a map"),
            ({"seed": -1}, "options.seed"),
            ({"seed": "x"}, "options.seed"),
            ({"episode": 1}, "options.seed"),
            ({"deadline_ms": "soon"}, "options.deadline_ms"),
            ({"rtc": {}}, "overlap_steps"),
            ({"rtc": {"overlap_steps": 4, "other": 1}}, "options.rtc.other"),
            ({"rtc": {"overlap_steps": 4, "previous": {}}}, "options.rtc.previous.left_arm"),
        ):
            client.refused(client.call("get_action", {"observation": nested(1), "options": options}), word)
        # What was refused moved no noise.
        same(client.act(nested(1))[0], expected(1))


def broken_connections():
    def connection(after):
        raw = socket.create_connection(("127.0.0.1", PORT))
        raw.sendall(after)
        return raw

    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
    ready = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03REQ"
    # A frame that claims 4 EiB after the delimiter.
    held = [connection(greeting + ready + b"\x01\x00\x02\x40" + bytes(7))]
    held += [connection(b"GET / HTTP/1.1\r\n\r\n"), connection(b""), connection(greeting), connection(bytes(64))]
    for _ in range(20):
        gone = Client()
        gone.socket.send(gone.pack("get_action", {"observation": nested(1)}))
        time.sleep(0.01)
        gone.socket.close()
    same(Client().act(nested(1))[0], expected(1))
    [raw.close() for raw in held]


def several_clients_at_once():
    wrong = []

    def robot(number):
        try:
            k = number % OBSERVATIONS
            client = Client(list(DIALECTS)[number // OBSERVATIONS])
            for round in range(10):
                form = (nested, flat)[round % 2]
                action, _ = client.act(form(k), {"seed": 42})
                same(action, expected(k), "action." if form is flat else "")
        except BaseException as error:
            wrong.append((number, error))

    robots = [threading.Thread(target=robot, args=(number,)) for number in range(2 * OBSERVATIONS)]
    [thread.start() for thread in robots]
    [thread.join() for thread in robots]
    assert not wrong, wrong


def requests_ahead():
    """A DEALER may ask again before it was answered; answers come in order."""
    client = Client(kind=zmq.DEALER)
    for k in range(OBSERVATIONS):
        data = {"observation": nested(k), "options": {"seed": 42}}
        client.socket.send_multipart([b"", client.pack("get_action", data)])
    for k in range(OBSERVATIONS):
        delimiter, body = client.socket.recv_multipart()
        assert delimiter == b""
        same(msgpack.unpackb(body, object_hook=decode_npy)[0], expected(k))


def one_queue_for_two_engines():
    several_clients_at_once()
    requests_ahead()
    # What a chunk goes on from is kept with the client, whichever engine computed it.
    for _ in range(4):
        going_on()


def models_by_name():
    """Of [[model]] left, small and right; left and right are embodiments of one checkpoint."""
    gr1 = expected(1, file="expected.gr1.f32")
    assert any(gr1[group].tobytes() != values.tobytes() for group, values in expected(1).items())
    for dialect in DIALECTS:
        client = Client(dialect)
        # A client that says nothing has the first one, and each has the noise of its own first inference.
        same(client.act(nested(1))[0], expected(1))
        action, info = client.act(nested(1), {"model": "right"})
        same(action, gr1)
        assert info["model"] == "right" and "ignored_options" not in info, info
        same(client.act(nested(1), {"embodiment_tag": "gr1", "seed": 42})[0], gr1)
        assert client.act(nested(1))[1]["inference"] == 1
    keys = lambda config: config["state"]["as_json"]["modality_keys"]
    small = client.call("get_modality_config", {"options": {"model": "small"}})
    assert keys(client.call("get_modality_config")) == list(GROUPS) != keys(small), small
    assert client.call("ping", {"options": {"model": "small"}})["precision_name"] == "bf16"
    assert client.call("ping")["precision_name"] == "f32"
    # After a reset that names a model it is this client's, as for a client that can give no options elsewhere.
    assert client.call("reset", {"options": {"model": "small"}}) == {"episode": 0}
    assert keys(client.call("get_modality_config")) == keys(small)
    client.refused(client.call("get_action", {"observation": nested(1)}), "observation.")
    client.refused(client.call("get_action", {"observation": nested(1), "options": {"model": "x"}}), "options.model", "left (")


def two_embodiments():
    client = Client()
    same(client.act(nested(1))[0], expected(1))
    same(client.act(nested(1), {"embodiment_tag": "gr1"})[0], expected(1, file="expected.gr1.f32"))
    same(Client().act(nested(2), {"model": "gr1"})[0], expected(2, file="expected.gr1.f32"))
    client.refused(client.call("reset", {"options": {"embodiment_tag": "g1"}}), "options.embodiment_tag", "gr1 (gr1)")


def going_on():
    client = Client()
    first, info = client.act(nested(1), {"rtc": {"overlap_steps": 8, "frozen_steps": 8}})
    assert info["rtc"] is False, info
    own, info = client.act(nested(1), {"seed": 5, "rtc": {"overlap_steps": 8, "frozen_steps": 8}})
    assert info["rtc"] is True, info
    # The chunk before may be given: the same one gives the same actions.
    given = {"previous": first, "overlap_steps": 8, "frozen_steps": 8}
    same(Client().act(nested(1), {"seed": 5, "rtc": given})[0], own)
    for group in GROUPS:
        assert np.abs(own[group][:, :8] - first[group][:, 8:]).max() < 1e-4 * np.abs(first[group]).max(), group


def kill():
    assert Client().call("kill") is None


def nothing():
    pass


globals()[TEST]()
