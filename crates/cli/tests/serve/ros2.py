"""docs/ros2_node.py with a server of the demo's policy. ROS 2 comes from no package index, so that what the node takes of it
stands here, as its documentation describes it: parameters, subscriptions, a timer, a publisher and four messages.

    ros2.py TEST PORT FOLDER
"""

import importlib.util
import sys
import time
import types
from pathlib import Path

import numpy as np

TEST, PORT, FOLDER = sys.argv[1], int(sys.argv[2]), sys.argv[3]
# Only what makes observations is taken of it.
sys.argv[1] = "nothing"
from client import GROUPS, HORIZON, expected, parts  # noqa: E402

GIVEN = {
    "server": f"tcp://127.0.0.1:{PORT}",
    "instruction": "pick up the squash",
    "groups": [f"{group}={','.join(f'{group}_{joint}' for joint in range(dim))}" for group, dim in GROUPS.items()],
}


class Message:
    def __init__(self, **fields):
        self.points = []
        self.__dict__.update(fields)


class Duration:
    def __init__(self, *, seconds):
        self.seconds = seconds

    def to_msg(self):
        return self.seconds


class Node:
    def __init__(self, name):
        self.parameters, self.callbacks, self.published, self.told = {}, {}, [], []

    def declare_parameter(self, name, value):
        self.parameters[name] = Message(value=GIVEN.get(name, value))

    def get_parameter(self, name):
        return self.parameters[name]

    def create_subscription(self, kind, topic, callback, profile):
        self.callbacks[topic] = callback

    def create_publisher(self, kind, topic, depth):
        return Message(publish=self.published.append)

    def create_timer(self, seconds, callback):
        self.period, self.tick = seconds, callback

    def get_logger(self):
        return Message(warning=self.told.append, error=self.told.append)


def module(name, **contents):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__dict__.update(contents)


module("rclpy")
module("rclpy.duration", Duration=Duration)
module("rclpy.node", Node=Node)
module("rclpy.qos", qos_profile_sensor_data=None)
module("sensor_msgs")
module("sensor_msgs.msg", Image=Message, JointState=Message)
module("trajectory_msgs")
module("trajectory_msgs.msg", JointTrajectory=Message, JointTrajectoryPoint=Message)
path = Path(__file__).parents[4] / "docs/ros2_node.py"
spec = importlib.util.spec_from_file_location("ros2_node", path)
ros2_node = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ros2_node)


def image(frame, encoding):
    """Rows are padded, as some drivers leave them."""
    if encoding == "bgr8":
        frame = frame[..., ::-1]
    height, width, _ = frame.shape
    rows = np.pad(frame.reshape(height, 3 * width), ((0, 0), (0, 4)))
    return Message(height=height, width=width, step=3 * width + 4, encoding=encoding, data=rows.tobytes())


def joints(states):
    names = [f"{group}_{joint}" for group, dim in GROUPS.items() for joint in range(dim)]
    values = [float(value) for state in states.values() for value in state]
    # Drivers name them in orders of their own, with others among them.
    return Message(name=["wheel", *reversed(names)], position=[1.0, *reversed(values)])


def wait(node):
    until = time.monotonic() + 60
    while node.asking and time.monotonic() < until:
        time.sleep(0.01)
    assert not node.asking


def ros2_node_drives():
    node = ros2_node.PolicyNode()
    assert node.period == 8 / 30
    node.tick()
    assert node.told == ["nothing new of ego_view, joints"] and not node.published, node.told
    # The server counts a client's inferences, so that only the first one has the noise of expected.f32.
    frame, states, _ = parts(1)
    node.callbacks["/camera/color/image_raw"](image(frame, "bgr8"))
    node.callbacks["/joint_states"](joints(states))
    node.tick()
    wait(node)
    [trajectory] = node.published
    steps = np.concatenate([values[0] for values in expected(1).values()], axis=-1)
    assert [len(trajectory.joint_names), len(trajectory.points)] == [sum(GROUPS.values()), 8]
    assert trajectory.joint_names[0] == "left_arm_0" and trajectory.joint_names[-1] == "right_hand_5"
    for number, point in enumerate(trajectory.points):
        assert np.float32(point.positions).tobytes() == steps[number].tobytes(), number
        assert point.time_from_start == (number + 1) / 30
    assert HORIZON > 8
    # What cannot be used is said, and nothing is published; the next one is.
    node.callbacks["/camera/color/image_raw"](image(frame, "mono8"))
    node.tick()
    wait(node)
    assert node.told[-1] == "expected an image in rgb8 or bgr8, found mono8" and len(node.published) == 1, node.told
    node.callbacks["/camera/color/image_raw"](image(frame, "rgb8"))
    node.callbacks["/joint_states"](joints(states))
    node.tick()
    wait(node)
    assert len(node.published) == 2, node.told
    time.sleep(node.max_age + 0.1)
    node.tick()
    assert len(node.published) == 2 and "nothing new of ego_view" in node.told[-1], node.told


def ros2_node_refuses():
    def refused(words, **given):
        before = dict(GIVEN)
        GIVEN.update(given)
        try:
            ros2_node.PolicyNode()
        except (ValueError, RuntimeError) as error:
            assert words in str(error), error
        else:
            raise AssertionError(f"not refused: {words}")
        GIVEN.clear()
        GIVEN.update(before)

    refused("groups: expected NAME=VALUE, found ''", groups=[""])
    refused("right_hand not given", groups=GIVEN["groups"][:3])
    refused("ego_view not given", views=["wrist=/camera"])


globals()[TEST]()
