#!/usr/bin/env python3
"""Loads `steady serve` with clients for some minutes and says what it cost.

    bench/serve.py [--steady target/release/steady] [--clients 8] [--minutes 3] [--devices 0 0,1] [--json FILE]
                   [-- OPTIONS OF steady serve]

Several numbers of clients, and several lists of GPUs, are tried one after the other, each on a server of its own; of lists of
GPUs it says how many times the replies of the first one the others give. Frames and states are the demo's unless --frame and
--state-dim say otherwise, as for `-- --checkpoint synth:n1.6 --engine cuda`. Needs msgpack and NumPy. Every client is a process,
which sends an observation of its own with a seed of its own, so that all of its replies must be the same to the bit, and those
of no other client. Printed: requests, replies that were lost, crossed or refused, latency of a request in the client, the same
without the engine's time (with several clients that is mostly waiting for each other), what of that passes in the server between
the whole request and its reply, the mean time of each stage in the server, the inferences of each engine, and its memory: all of it, and what is no file's. An inference takes and gives back a
part of it, so that one moment says little: medians of the second tenth of the time and of the last one, and the extremes of all
behind the first.
"""

import argparse
import io
import json
import multiprocessing
import re
import socket
import struct
import subprocess
import threading
import time
import urllib.request

import msgpack
import numpy as np


# Requests of each client before the time begins.
WARM_UP = 3


def encode(value):
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return {"__ndarray_class__": True, "as_npy": file.getvalue()}
    return value


class Client:
    """A REQ socket of ZeroMQ: its greeting, and messages of a delimiter and a body."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.socket.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48))
        self.read(64)
        self.socket.sendall(b"\x04\x19\x05READY\x0bSocket-Type" + struct.pack(">I", 3) + b"REQ")
        self.frame()

    def read(self, length):
        found = self.file.read(length)
        if len(found) < length:
            raise ConnectionError("the server let the client go")
        return found

    def frame(self):
        flags = self.read(1)[0]
        [length] = struct.unpack(">Q", self.read(8)) if flags & 2 else self.read(1)
        return flags, self.read(length)

    def ask(self, body):
        """The packed reply to a packed request."""
        self.socket.sendall(b"\x01\x00\x02" + struct.pack(">Q", len(body)) + body)
        flags = 1
        while flags & 5:
            flags, found = self.frame()
            if flags & 4:
                # A heartbeat: its context goes back behind its time to live.
                pong = b"\x04PONG" + found[7:]
                self.socket.sendall(struct.pack("BB", 4, len(pong)) + pong)
        return found

    def call(self, body):
        """The reply to a packed request."""
        return msgpack.unpackb(self.ask(body))


def pack(endpoint, data=None):
    return msgpack.packb({"endpoint": endpoint, "data": data}, default=encode)


def robot(number, port, begins, results):
    """A client until the end of the time, which begins when all are warm; puts what it met into `results`."""
    latencies, inferences, servers = [], [], []
    found = {"lost": 0, "refused": 0, "crossed": 0}
    first = None
    client = Client(port)
    random = np.random.default_rng(number)
    config = client.call(pack("get_modality_config"))
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
        "language": {keys["language"]["modality_keys"][0]: [[f"robot {number}"]]},
    }
    # Packed once: what is measured is the server.
    request = pack("get_action", {"observation": observation, "options": {"seed": number}})
    # An engine that compiles kernels for a shape does so at the first request.
    [client.call(request) for _ in range(WARM_UP)]
    begins.wait()
    until = time.monotonic() + 60 * args.minutes
    while time.monotonic() < until:
        started = time.monotonic()
        try:
            reply = client.ask(request)
        except OSError:
            found["lost"] += 1
            break
        # Reading it is the client's own time.
        latency = time.monotonic() - started
        reply = msgpack.unpackb(reply)
        if isinstance(reply, dict):
            found["refused"] += 1
            print("refused:", reply)
            continue
        latencies.append(latency)
        inferences.append(reply[1]["inference_ms"] / 1e3)
        servers.append(reply[1]["server_ms"] / 1e3)
        actions = b"".join(array["as_npy"] for array in reply[0].values())
        first = first or actions
        found["crossed"] += actions != first
    results.put({**found, "latencies": latencies, "inferences": inferences, "servers": servers, "first": first})


def memory(process):
    """Resident memory in MiB: all of it, and what is no file's."""
    with open(f"/proc/{process.pid}/status") as status:
        found = dict(line.split(":", 1) for line in status)
    # Not every kernel tells the second one.
    return [int(found[key].split()[0]) / 1024 if key in found else None for key in ("VmRSS", "RssAnon")]


class Sampler(threading.Thread):
    """Looks at a process's memory while it runs."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.samples = process, []
        self.ended = threading.Event()

    def run(self):
        while not self.ended.wait(min(0.5, 0.3 * args.minutes)):
            try:
                self.samples.append(memory(self.process))
            except OSError:
                return

    def shares(self, which):
        """Median of the second tenth and of the last, least and most behind the first."""
        self.ended.set()
        tenth = max(1, len(self.samples) // 10)
        found = [sample[which] for sample in self.samples[tenth:]]
        if not found or None in found:
            return None
        return [float(np.median(found[:tenth])), float(np.median(found[-tenth:])), min(found), max(found)]


def pages(port):
    """Mean milliseconds of each stage, and inferences of each engine, from /metrics."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    found = re.findall(r'stage_seconds_(sum|count)\{stage="(\w+)"[^}]*\} (\S+)', page)
    values = {(what, stage): float(value) for what, stage, value in found}
    names = [stage for what, stage, _ in found if what == "sum"]
    stages = {stage: 1e3 * values["sum", stage] / max(1, values["count", stage]) for stage in names}
    engines = re.findall(r'engine_seconds_count\{engine="\d+",device="([^"]*)"[^}]*\} (\S+)', page)
    return stages, [[device, int(count)] for device, count in engines]


def milliseconds(values, percent):
    return 1e3 * float(np.percentile(values, percent))


def size(text):
    height, width = text.split("x")
    return int(height), int(width)


def load(clients, devices):
    """Loads a server with so many clients; what it cost."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        http = free.getsockname()[1]
    options = [*args.options, *(["--device", devices] if devices else [])]
    command = [args.steady, "serve", "--port", "0", "--http-port", str(http), *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(command)}: ended with {server.wait()}")
        print(line, end="", flush=True)
        port = int(line.split(":")[2].split()[0])
        results, begins = multiprocessing.Queue(), multiprocessing.Barrier(clients + 1)
        robots = [multiprocessing.Process(target=robot, args=(n, port, begins, results)) for n in range(clients)]
        [process.start() for process in robots]
        begins.wait(timeout=300)
        sampler = Sampler(server)
        sampler.start()
        found = [results.get(timeout=60 * args.minutes + 120) for _ in robots]
        [process.join() for process in robots]
        stages, engines = pages(http)
    finally:
        server.terminate()
    code = server.wait()
    latencies = np.concatenate([one["latencies"] for one in found])
    inferences = np.concatenate([one["inferences"] for one in found])
    overheads, own = latencies - inferences, np.concatenate([one["servers"] for one in found]) - inferences
    counts = [len(one["latencies"]) for one in found]
    return {
        "clients": clients,
        "options": options,
        "requests": len(latencies),
        "requests_per_second": len(latencies) / (60 * args.minutes),
        **{what: sum(one[what] for one in found) for what in ("lost", "refused", "crossed")},
        "clients_with_replies_of_their_own": len({one["first"] for one in found}),
        "requests_of_a_client": [min(counts), max(counts)],
        "latency_ms": {"p50": milliseconds(latencies, 50), "p99": milliseconds(latencies, 99)},
        "overhead_ms": {"p50": milliseconds(overheads, 50), "p99": milliseconds(overheads, 99)},
        "server_overhead_ms": {"p50": milliseconds(own, 50), "p99": milliseconds(own, 99)},
        "mean_stage_ms": stages,
        "inferences": engines,
        "memory_mib": sampler.shares(0),
        "anonymous_memory_mib": sampler.shares(1),
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
    print("of it in the server: median {p50:.2f} ms, p99 {p99:.2f} ms".format(**found["server_overhead_ms"]))
    print("mean of each stage:", ", ".join(f"{stage} {ms:.2f} ms" for stage, ms in found["mean_stage_ms"].items()))
    print(f"replies a second: {found['requests_per_second']:.1f}")
    print("inferences:", ", ".join(f"{count} on {device}" for device, count in found["inferences"]))
    for what, key in (("memory", "memory_mib"), ("of it no file's", "anonymous_memory_mib")):
        if found[key]:
            text = "{}: {:.1f} MiB in the second tenth of the time, {:.1f} MiB in the last, {:.1f} to {:.1f} MiB in all"
            print(text.format(what, *found[key]))
    print(f"exit code after SIGTERM: {found['exit_code']}")


parser = argparse.ArgumentParser()
parser.add_argument("--steady", default="target/release/steady")
parser.add_argument("--clients", type=int, nargs="+", default=[8])
parser.add_argument("--minutes", type=float, default=3)
parser.add_argument("--devices", nargs="+", default=[None], metavar="NUMBERS", help="such as 0 0,1: --device of one server each")
parser.add_argument("--frame", type=size, default=(256, 256), metavar="HEIGHTxWIDTH")
parser.add_argument("--state-dim", type=int, help="of every group; the demo's without")
parser.add_argument("--json", metavar="FILE", help="where the numbers go")
parser.add_argument("options", nargs="*")
args = parser.parse_args()
# Those of the embedded demo.
DIMS = {"left_arm": 7, "right_arm": 7, "left_hand": 6, "right_hand": 6}

# Clients are forked, with the options that were read here.
multiprocessing.set_start_method("fork")
results = []
for clients in args.clients:
    first = None
    for devices in args.devices:
        found = load(clients, devices)
        results.append(found)
        tell(found)
        first = first or found
        if found is not first:
            times = found["requests_per_second"] / first["requests_per_second"]
            print(f"{clients} clients: devices {devices} give {times:.2f} times the replies of {args.devices[0]}")
        if args.json:
            with open(args.json, "w") as file:
                json.dump(results, file, indent=1)
                file.write("\n")
