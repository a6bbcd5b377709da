#!/usr/bin/env python3
"""A ROS 2 node that drives a robot by `steady serve`: cameras and joints in, joint trajectories out.

    pip install pyzmq msgpack numpy
    python3 ros2_node.py --ros-args -p server:=tcp://127.0.0.1:5555 -p instruction:="pick up the squash" \
        -p views:="['ego_view=/camera/color/image_raw']" -p groups:="['left_arm=l1,l2,l3,l4,l5,l6,l7']"

`views` says which topic (sensor_msgs/Image, rgb8 or bgr8) is which view of the policy, `groups` which joints of
`joint_states` (sensor_msgs/JointState) are which joint group, in the policy's order. All views and groups that the server
names must be there. Every `execution_horizon` steps of `rate` a chunk is asked for, one at a time, and its first steps are
published on `trajectory` (trajectory_msgs/JointTrajectory). Nothing is published where an observation is older than
`max_age` seconds, where the server refuses, or where its reply comes later than `deadline_ms`: the robot then ends the
trajectory that it has. Positions are in the units of the policy's checkpoint: it was trained on what they are here.

The server's first model is asked; its views and joint groups must have a history of one step.
"""

import io
import sys
import threading
import time

import msgpack
import numpy as np
import rclpy
import zmq
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

PARAMETERS = {
    "server": "tcp://127.0.0.1:5555",
    "api_token": "",
    "instruction": "",
    "views": ["ego_view=/camera/color/image_raw"],
    "groups": [""],
    "joint_states": "/joint_states",
    "trajectory": "/joint_trajectory",
    "rate": 30.0,
    "execution_horizon": 8,
    "deadline_ms": 500,
    "max_age": 0.2,
}


def encode(value):
    if not isinstance(value, np.ndarray):
        return value
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def decode(value):
    return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False) if "__ndarray_class__" in value else value


class Server:
    """A REQ socket. One that waited in vain is of no more use, so that the next request has a new one."""

    def __init__(self, address, api_token):
        self.address, self.api_token, self.socket = address, api_token, None

    def ask(self, endpoint, data, seconds):
        if self.socket is None:
            self.socket = zmq.Context.instance().socket(zmq.REQ)
            self.socket.setsockopt(zmq.LINGER, 0)
            self.socket.connect(self.address)
        self.socket.setsockopt(zmq.RCVTIMEO, int(1000 * seconds))
        request = {"endpoint": endpoint, "data": data, "api_token": self.api_token}
        try:
            self.socket.send(msgpack.packb(request, default=encode))
            reply = msgpack.unpackb(self.socket.recv(), object_hook=decode)
        except zmq.ZMQError as error:
            self.socket.close()
            self.socket = None
            raise RuntimeError(f"{self.address}: {endpoint}: no reply within {seconds:g} s: {error}") from error
        if isinstance(reply, dict) and "error" in reply:
            raise RuntimeError(f"{self.address}: {endpoint}: {reply['error']}")
        return reply


def pairs(name, values):
    """`["a=b"]` as `{"a": "b"}`."""
    for value in values:
        if value.count("=") != 1:
            raise ValueError(f"{name}: expected NAME=VALUE, found {value!r}")
    return dict(value.split("=") for value in values)


def rgb(message):
    """`[height, width, 3]` of an image, whose rows may be padded."""
    if message.encoding not in ("rgb8", "bgr8"):
        raise ValueError(f"expected an image in rgb8 or bgr8, found {message.encoding}")
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    pixels = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
    return np.ascontiguousarray(pixels if message.encoding == "rgb8" else pixels[..., ::-1])


class PolicyNode(Node):
    def __init__(self):
        super().__init__("steady_policy")
        for name, value in PARAMETERS.items():
            self.declare_parameter(name, value)
        value = lambda name: self.get_parameter(name).value
        self.instruction, self.rate, self.horizon = value("instruction"), value("rate"), value("execution_horizon")
        self.deadline, self.max_age = value("deadline_ms"), value("max_age")
        views = pairs("views", value("views"))
        self.groups = {group: joints.split(",") for group, joints in pairs("groups", value("groups")).items()}
        self.server = Server(value("server"), value("api_token"))
        self.check(self.server.ask("get_modality_config", {}, 60), views)
        # Topic of what was seen -> when, and what.
        self.seen, self.lock, self.asking = {}, threading.Lock(), False
        for view, topic in views.items():
            note = lambda message, view=view: self.note(view, message)
            self.create_subscription(Image, topic, note, qos_profile_sensor_data)
        note = lambda message: self.note("joints", message)
        self.create_subscription(JointState, value("joint_states"), note, qos_profile_sensor_data)
        self.trajectory = self.create_publisher(JointTrajectory, value("trajectory"), 1)
        self.views = list(views)
        self.create_timer(self.horizon / self.rate, self.step)

    def check(self, config, views):
        modalities = {name: entry["as_json"] for name, entry in config.items()}
        for modality, given in (("video", views), ("state", self.groups), ("action", self.groups)):
            expected = modalities[modality]["modality_keys"]
            if missing := [key for key in expected if key not in given]:
                raise ValueError(f"{modality}: expected {', '.join(expected)}, {', '.join(missing)} not given")
            if modality != "action" and len(modalities[modality]["delta_indices"]) != 1:
                raise ValueError(f"{modality}: expected a history of one step, found {modalities[modality]['delta_indices']}")
        self.state_groups = modalities["state"]["modality_keys"]
        self.language = modalities["language"]["modality_keys"][0]

    def note(self, what, message):
        with self.lock:
            self.seen[what] = (time.monotonic(), message)

    def step(self):
        """Asks for a chunk where nothing is asked for; cameras and joints go on being noted meanwhile."""
        with self.lock:
            seen, now = dict(self.seen), time.monotonic()
            needed = [*self.views, "joints"]
            late = [what for what in needed if what not in seen or now - seen[what][0] > self.max_age]
            if self.asking:
                return
            self.asking = not late
        if late:
            self.get_logger().warning(f"nothing new of {', '.join(late)}")
        else:
            messages = {what: message for what, (_, message) in seen.items()}
            threading.Thread(target=self.act, args=(messages,), daemon=True).start()

    def act(self, messages):
        try:
            observation = self.observation(messages)
            data = {"observation": observation, "options": {"deadline_ms": self.deadline}}
            action, _ = self.server.ask("get_action", data, 2 * self.deadline / 1000)
            self.publish(action)
        except (RuntimeError, ValueError) as error:
            self.get_logger().error(str(error))
        finally:
            with self.lock:
                self.asking = False

    def observation(self, messages):
        joints = dict(zip(messages["joints"].name, messages["joints"].position))
        if missing := [joint for group in self.state_groups for joint in self.groups[group] if joint not in joints]:
            raise ValueError(f"joint_states: expected {', '.join(missing)}, found {', '.join(joints)}")
        state = {group: [joints[joint] for joint in self.groups[group]] for group in self.state_groups}
        return {
            "video": {view: rgb(messages[view])[None, None] for view in self.views},
            "state": {group: np.array(values, np.float32)[None, None] for group, values in state.items()},
            "language": {self.language: [[self.instruction]]},
        }

    def publish(self, action):
        """The first steps of a chunk, `[1, T, D]` by group."""
        for group, values in action.items():
            if values.shape[-1] != len(self.groups[group]):
                expected = f"expected {len(self.groups[group])} joints, found {values.shape[-1]}"
                raise ValueError(f"action.{group}: {expected}")
        trajectory = JointTrajectory()
        trajectory.joint_names = [joint for group in action for joint in self.groups[group]]
        steps = np.concatenate([values[0] for values in action.values()], axis=-1)[: self.horizon]
        for number, positions in enumerate(steps):
            point = JointTrajectoryPoint()
            point.positions = [float(value) for value in positions]
            point.time_from_start = Duration(seconds=(number + 1) / self.rate).to_msg()
            trajectory.points.append(point)
        self.trajectory.publish(trajectory)


def main():
    rclpy.init(args=sys.argv)
    node = PolicyNode()
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
