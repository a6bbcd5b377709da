"""A policy server as NVIDIA's `PolicyServer` is, with recorded actions instead of a policy.

    recorded_server.py DIALECT FLAW ACTIONS.npz

Prints its port. DIALECT is `npy` or `msgpack-numpy`, and only that one is understood; keys are nested or flat (`-flat` behind
the dialect). Inference n after a reset is answered with rows 16 n to 16 n + 16 of `predicted`. FLAW says what is wrong with
the answers: `none`, `nan`, `names`, `shapes`, `lists`.
"""

import io
import sys

import msgpack
import msgpack_numpy
import numpy as np
import zmq

HORIZON = 16
GROUPS = {"left_arm": 7, "right_arm": 7, "left_hand": 6, "right_hand": 6}
LANGUAGE = "annotation.human.task_description"
DIALECT, FLAW = sys.argv[1], sys.argv[2]
ARRAYS, FLAT = DIALECT.removesuffix("-flat"), DIALECT.endswith("-flat")
PREDICTED = np.load(sys.argv[3])["predicted"]


def modality(keys, steps, **more):
    fields = {"delta_indices": steps, "modality_keys": keys, "sin_cos_embedding_keys": None}
    return {"__ModalityConfig_class__": True, "as_json": {**fields, "of_this_server": 1, **more}}


CONFIG = {
    "video": modality(["ego_view"], [0]),
    "state": modality(list(GROUPS), [0]),
    "action": modality(list(GROUPS), list(range(HORIZON))),
    "language": modality([LANGUAGE], [0]),
}


def encode(value):
    if not isinstance(value, np.ndarray):
        return value
    if ARRAYS == "msgpack-numpy":
        return msgpack_numpy.encode(value)
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def decode(value):
    if ARRAYS == "msgpack-numpy":
        return msgpack_numpy.decode(value)
    if "__ndarray_class__" in value:
        return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False)
    return value


class Policy:
    def __init__(self):
        self.inference = 0

    def reset(self, options=None):
        # As NVIDIA's ReplayPolicy is told its episode.
        assert options["episode_index"] == 0, options
        self.inference = 0
        return {}

    def get_action(self, observation, options=None):
        if FLAT:
            video, texts = observation["video.ego_view"], observation[LANGUAGE]
            state = {group: observation[f"state.{group}"] for group in GROUPS}
            assert isinstance(texts[0], str), texts
        else:
            video, state = observation["video"]["ego_view"], observation["state"]
            [[text]] = observation["language"][LANGUAGE]
            assert isinstance(text, str), text
        assert video.dtype == np.uint8 and video.shape[:2] == (1, 1) and video.shape[4:] == (3,), video.shape
        for group, dim in GROUPS.items():
            assert state[group].dtype == np.float32 and state[group].shape == (1, 1, dim), state[group].shape
        rows = PREDICTED[HORIZON * self.inference : HORIZON * (self.inference + 1)].copy()
        self.inference += 1
        if FLAW == "nan":
            rows[3, 0] = np.nan
        prefix = "action." if FLAT else ""
        action, at = {}, 0
        for group, dim in GROUPS.items():
            values = rows[None, :, at : at + dim].astype(np.float32)
            at += dim
            values = values[:, :-1] if FLAW == "shapes" else values
            name = group.upper() if FLAW == "names" else group
            action[prefix + name] = values.tolist() if FLAW == "lists" else values
        return [action, {}]


policy = Policy()
endpoints = {
    "ping": lambda: {"status": "ok", "message": "Server is running"},
    "get_modality_config": lambda: CONFIG,
    "reset": policy.reset,
    "get_action": policy.get_action,
}
socket = zmq.Context().socket(zmq.REP)
print(socket.bind_to_random_port("tcp://127.0.0.1"), flush=True)
while True:
    try:
        request = msgpack.unpackb(socket.recv(), object_hook=decode)
        handler = endpoints[request.get("endpoint", "get_action")]
        reply = handler(**(request.get("data") or {}))
    except Exception as error:
        reply = {"error": f"{type(error).__name__}: {error}"}
    socket.send(msgpack.packb(reply, default=encode))
