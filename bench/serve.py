#!/usr/bin/env python3
"""Loads `steady serve` with clients for some minutes and says what it cost.

    bench/serve.py [--steady target/release/steady] [--clients 8] [--minutes 3] [--json FILE] [-- OPTIONS OF steady serve]

Several numbers of clients are tried one after the other, each on a server of its own. Frames and states are the demo's unless
--frame and --state-dim say otherwise, as for `-- --checkpoint synth:n1.6 --engine cuda`. Needs pyzmq, msgpack and NumPy. Every client sends an observation of its own with a seed of its own, so that all of its
replies must be the same to the bit, and those of no other client. Printed: requests, replies that were lost, crossed or
refused, latency of a request in the client, the same without the engine's time (with several clients that is mostly
waiting for each other), the mean time of each stage in the server, and its memory at the start and at the end.
"""

import argparse
import io
import json
import re
import socket
import subprocess
import threading
import time
import urllib.request

import msgpack
import numpy as np
import zmq


def encode(value):
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return {"__ndarray_class__": True, "as_npy": file.getvalue()}
    return value


class Robot(threading.Thread):
    def __init__(self, number, port, until):
        super().__init__()
        self.number, self.until = number, until
        self.latencies, self.inferences = [], []
        self.lost = self.refused = self.crossed = 0
        self.first = None
        self.socket = zmq.Context.instance().socket(zmq.REQ)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 60_000)
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def call(self, endpoint, data=None):
        self.socket.send(msgpack.packb({"endpoint": endpoint, "data": data}, default=encode))
        return msgpack.unpackb(self.socket.recv())

    def run(self):
        random = np.random.default_rng(self.number)
        config = self.call("get_modality_config")
        keys = {name: entry["as_json"] for name, entry in config.items()}
        state = {}
        for group in keys["state"]["modality_keys"]:
            rows, dim = len(keys["state"]["delta_indices"]), args.state_dim or DIMS[group]
            state[group] = random.random((1, rows, dim), np.float32) - 0.5
        frames = len(keys["video"]["delta_indices"])
        size = (1, frames, *args.frame, 3)
        observation = {
            "video": {view: random.integers(0, 256, size, np.uint8) for view in keys["video"]["modality_keys"]},
            "state": state,
            "language": {keys["language"]["modality_keys"][0]: [[f"robot {self.number}"]]},
        }
        while time.monotonic() < self.until:
            started = time.monotonic()
            try:
                reply = self.call("get_action", {"observation": observation, "options": {"seed": self.number}})
            except zmq.error.Again:
                self.lost += 1
                return
            if isinstance(reply, dict):
                self.refused += 1
                print("refused:", reply)
                continue
            self.latencies.append(time.monotonic() - started)
            self.inferences.append(reply[1]["inference_ms"] / 1e3)
            actions = b"".join(array["as_npy"] for array in reply[0].values())
            self.first = self.first or actions
            self.crossed += actions != self.first


def memory(process):
    with open(f"/proc/{process.pid}/status") as status:
        [line] = [line for line in status if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def stages(port):
    """Mean milliseconds of each stage, from /metrics."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    found = re.findall(r'stage_seconds_(sum|count)\{stage="(\w+)"\} (\S+)', page)
    values = {(what, stage): float(value) for what, stage, value in found}
    names = [stage for what, stage, _ in found if what == "sum"]
    return {stage: 1e3 * values["sum", stage] / max(1, values["count", stage]) for stage in names}


def milliseconds(values, percent):
    return 1e3 * float(np.percentile(values, percent))


def size(text):
    height, width = text.split("x")
    return int(height), int(width)


def load(clients):
    """Loads a server with so many clients; what it cost."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        pages = free.getsockname()[1]
    command = [args.steady, "serve", "--port", "0", "--http-port", str(pages), *args.options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        print(line, end="")
        port = int(line.split(":")[2].split()[0])
        until = time.monotonic() + 60 * args.minutes
        robots = [Robot(number, port, until) for number in range(clients)]
        [robot.start() for robot in robots]
        # After a tenth of the time every thread and buffer that is needed is there.
        time.sleep(6 * args.minutes)
        start = memory(server)
        [robot.join() for robot in robots]
        end, means = memory(server), stages(pages)
    finally:
        server.terminate()
    code = server.wait()
    latencies = np.concatenate([robot.latencies for robot in robots])
    overheads = latencies - np.concatenate([robot.inferences for robot in robots])
    counts = [len(robot.latencies) for robot in robots]
    return {
        "clients": clients,
        "options": args.options,
        "requests": len(latencies),
        "requests_per_second": len(latencies) / (60 * args.minutes),
        **{what: sum(getattr(robot, what) for robot in robots) for what in ("lost", "refused", "crossed")},
        "clients_with_replies_of_their_own": len({robot.first for robot in robots}),
        "requests_of_a_client": [min(counts), max(counts)],
        "latency_ms": {"p50": milliseconds(latencies, 50), "p99": milliseconds(latencies, 99)},
        "overhead_ms": {"p50": milliseconds(overheads, 50), "p99": milliseconds(overheads, 99)},
        "mean_stage_ms": means,
        "memory_mib": [start, end],
        "exit_code": code,
    }


def tell(found):
    print(f"requests: {found['requests']} by {found['clients']} clients in {args.minutes:g} minutes")
    for what in ("lost", "refused", "crossed"):
        print(f"{what}: {found[what]}")
    print(f"clients whose replies are theirs alone: {found['clients_with_replies_of_their_own']} of {found['clients']}")
    print("requests of each client: {} to {}".format(*found["requests_of_a_client"]))
    print("latency: median {p50:.1f} ms, p99 {p99:.1f} ms".format(**found["latency_ms"]))
    print("latency less the engine's time: median {p50:.2f} ms, p99 {p99:.2f} ms".format(**found["overhead_ms"]))
    print("mean of each stage:", ", ".join(f"{stage} {ms:.2f} ms" for stage, ms in found["mean_stage_ms"].items()))
    print("memory: {:.1f} MiB after a tenth of the time, {:.1f} MiB at the end".format(*found["memory_mib"]))
    print(f"exit code after SIGTERM: {found['exit_code']}")


parser = argparse.ArgumentParser()
parser.add_argument("--steady", default="target/release/steady")
parser.add_argument("--clients", type=int, nargs="+", default=[8])
parser.add_argument("--minutes", type=float, default=3)
parser.add_argument("--frame", type=size, default=(256, 256), metavar="HEIGHTxWIDTH")
parser.add_argument("--state-dim", type=int, help="of every group; the demo's without")
parser.add_argument("--json", metavar="FILE", help="where the numbers go")
parser.add_argument("options", nargs="*")
args = parser.parse_args()
# Those of the embedded demo.
DIMS = {"left_arm": 7, "right_arm": 7, "left_hand": 6, "right_hand": 6}

results = []
for clients in args.clients:
    results.append(load(clients))
    tell(results[-1])
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
