"""Asks `steady serve` with the embedded demo's policy for actions: pip install pyzmq msgpack numpy."""

import io

import msgpack
import numpy as np
import zmq


def encode(value):
    if not isinstance(value, np.ndarray):
        return value
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def decode(value):
    if "__ndarray_class__" not in value:
        return value
    return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False)


socket = zmq.Context().socket(zmq.REQ)
socket.setsockopt(zmq.LINGER, 0)
socket.setsockopt(zmq.RCVTIMEO, 15_000)
socket.connect("tcp://127.0.0.1:5555")
observation = {
    "video": {"ego_view": np.zeros((1, 1, 256, 256, 3), np.uint8)},
    "state": {
        group: np.zeros((1, 1, dim), np.float32)
        for group, dim in {"left_arm": 7, "right_arm": 7, "left_hand": 6, "right_hand": 6}.items()
    },
    "language": {"annotation.human.task_description": [["pick up the squash"]]},
}
data = {"observation": observation, "options": {"deadline_ms": 10_000}}
socket.send(msgpack.packb({"endpoint": "get_action", "data": data}, default=encode))
reply = msgpack.unpackb(socket.recv(), object_hook=decode)
if isinstance(reply, dict):
    raise SystemExit(reply["error"])
action, info = reply
print({group: values.shape for group, values in action.items()}, info)
