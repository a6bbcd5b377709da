#!/usr/bin/env python3
"""What an expert gets out of PyTorch for GR00T N1.6: the peer that the CUDA engine is measured against.

Plain bf16 modules of the published size with random weights. What does not depend on the input or the Euler step is
hoisted as the engine does it: AdaLN modulations are tables, position tables are resized and RoPE tables made beforehand,
keys and values of cross-attention are computed once an inference. Query, key and value are one product, gate and up
another. Every kind of layer is compiled by `torch.compile`, and the whole inference, from pixels and token ids on the
device to actions on the device, is one CUDA graph. Stages are timed as graphs of their own.

Beside it: every matrix product of the model by cuBLAS, and what the device's copies and products reach in this run.

    python3 bench/peers/pytorch.py --workload W1 W2 --json OUT

The exit code is 1 where the compiled graph does not give what the plain modules give.
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

import cublas

DEVICE, DTYPE = "cuda", torch.bfloat16
STEPS, HORIZON, STATE, ACTION = 4, 50, 128, 128
# Views of 252x252 (18x18 patches, 81 tokens each) and text tokens, as in SPEED.md.
WORKLOADS = {"W1": {"views": 1, "text": 40}, "W2": {"views": 2, "text": 40}}
SIDE, TEXT_EVERY = 18, 4


def linear(inputs, outputs, bias=True):
    return nn.Linear(inputs, outputs, bias=bias, device=DEVICE, dtype=DTYPE)


def heads(x, count):
    """[batch, tokens, features] -> [batch, heads, tokens, head_dim]"""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def attend(q, k, v, **options):
    return F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2)


class VisionLayer(nn.Module):
    def __init__(self, hidden=1152, mlp=4304):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(hidden, 1e-6, device=DEVICE, dtype=DTYPE) for _ in range(2))
        self.qkv, self.out = linear(hidden, 3 * hidden), linear(hidden, hidden)
        self.fc1, self.fc2 = linear(hidden, mlp), linear(mlp, hidden)

    def forward(self, x):
        q, k, v = (heads(part, 16) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(attend(q, k, v))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))


class Vision(nn.Module):
    """[views, 324, 588] -> [1, views * 81, 2048]: SigLIP2, 2x2 patches joined, the connector."""

    def __init__(self, hidden=1152, layers=27, width=2048):
        super().__init__()
        self.patches = linear(588, hidden)
        self.positions = nn.Parameter(torch.empty(SIDE * SIDE, hidden, device=DEVICE, dtype=DTYPE))
        self.layers = nn.ModuleList(VisionLayer() for _ in range(layers))
        self.norm = nn.LayerNorm(hidden, 1e-6, device=DEVICE, dtype=DTYPE)
        self.join_norm = nn.LayerNorm(4 * hidden, 1e-5, device=DEVICE, dtype=DTYPE)
        self.fc1, self.fc2 = linear(4 * hidden, width), linear(width, width)

    def embed(self, pixels):
        return self.patches(pixels) + self.positions

    def connect(self, x):
        x = self.norm(x).unflatten(1, (SIDE // 2, 2, SIDE // 2, 2))
        x = self.join_norm(x.permute(0, 1, 3, 5, 2, 4).reshape(1, -1, 4 * x.shape[-1]))
        return self.fc2(F.gelu(self.fc1(x)))

    def forward(self, pixels):
        x = self.embed(pixels)
        for layer in self.layers:
            x = layer(x)
        return self.connect(x)


class LanguageLayer(nn.Module):
    def __init__(self, hidden=2048, mlp=6144):
        super().__init__()
        self.norm1, self.norm2 = (nn.RMSNorm(hidden, 1e-6, device=DEVICE, dtype=DTYPE) for _ in range(2))
        self.q_norm, self.k_norm = (nn.RMSNorm(128, 1e-6, device=DEVICE, dtype=DTYPE) for _ in range(2))
        self.qkv, self.out = linear(hidden, 4096, False), linear(2048, hidden, False)
        self.gate_up, self.down = linear(hidden, 2 * mlp, False), linear(mlp, hidden, False)

    def forward(self, x, cos, sin):
        def turn(h):
            low, high = h.chunk(2, -1)
            return h * cos + torch.cat((-high, low), -1) * sin

        q, k, v = self.qkv(self.norm1(x)).split((2048, 1024, 1024), -1)
        q, k = turn(self.q_norm(heads(q, 16))), turn(self.k_norm(heads(k, 8)))
        x = x + self.out(attend(q, k, heads(v, 8), is_causal=True, enable_gqa=True))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Language(nn.Module):
    """Qwen3's first 16 layers: image tokens and ids of text -> [1, tokens, 2048]."""

    def __init__(self, tokens, layers=16, hidden=2048, vocabulary=151680):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden, device=DEVICE, dtype=DTYPE)
        self.layers = nn.ModuleList(LanguageLayer() for _ in range(layers))
        self.norm = nn.RMSNorm(hidden, 1e-6, device=DEVICE, dtype=DTYPE)
        angles = torch.outer(torch.arange(tokens), 1e6 ** (-torch.arange(0, 128, 2) / 128)).repeat(1, 2).to(DEVICE)
        self.register_buffer("cos", angles.cos().to(DTYPE))
        self.register_buffer("sin", angles.sin().to(DTYPE))

    def forward(self, images, ids):
        x = torch.cat((images, self.embedding(ids)), 1)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return self.norm(x)


class DitBlock(nn.Module):
    """A block with its modulations of all steps as a table, scale (one already added) and shift."""

    def __init__(self, cross, hidden=1536, mlp=6144):
        super().__init__()
        self.own = linear(hidden, hidden if cross else 3 * hidden)
        self.memory = linear(2048, 2 * hidden) if cross else None
        self.out, self.fc1, self.fc2 = linear(hidden, hidden), linear(hidden, mlp), linear(mlp, hidden)
        self.modulation = nn.Parameter(torch.empty(STEPS, 2, hidden, device=DEVICE, dtype=DTYPE))

    def forward(self, x, scale, shift, k=None, v=None):
        own = self.own(F.layer_norm(x, x.shape[-1:], eps=1e-5) * scale + shift)
        if k is None:
            own, k, v = own.chunk(3, -1)
            k, v = heads(k, 32), heads(v, 32)
        x = x + self.out(attend(heads(own, 32), k, v))
        return x + self.fc2(F.gelu(self.fc1(F.layer_norm(x, x.shape[-1:], eps=1e-5)), approximate="tanh"))


class ActionHead(nn.Module):
    """Features of all tokens, state and noise -> actions [1, 50, 128]. One embodiment's layers."""

    def __init__(self, hidden=1536, blocks=32):
        super().__init__()
        self.norm = nn.LayerNorm(2048, 1e-5, device=DEVICE, dtype=DTYPE)
        self.state1, self.state2 = linear(STATE, 1024), linear(1024, hidden)
        self.encode1, self.encode2, self.encode3 = linear(ACTION, hidden), linear(2 * hidden, hidden), linear(hidden, hidden)
        self.times = nn.Parameter(torch.empty(STEPS, HORIZON, hidden, device=DEVICE, dtype=DTYPE))
        self.positions = nn.Parameter(torch.empty(HORIZON, hidden, device=DEVICE, dtype=DTYPE))
        self.blocks = nn.ModuleList(DitBlock(index % 2 == 0) for index in range(blocks))
        self.modulation = nn.Parameter(torch.empty(STEPS, 2, hidden, device=DEVICE, dtype=DTYPE))
        self.output = linear(hidden, 1024)
        self.decode1, self.decode2 = linear(1024, 1024), linear(1024, ACTION)

    def prepare(self, features, images, state):
        """Keys and values of the cross-attention blocks, and the state's token: once an inference."""
        features = self.norm(features)
        memory = []
        for index in range(0, len(self.blocks), 2):
            seen = features[:, images:] if index % TEXT_EVERY == 0 else features[:, :images]
            memory.append([heads(part, 32).contiguous() for part in self.blocks[index].memory(seen).chunk(2, -1)])
        return memory, self.state2(F.relu(self.state1(state)))

    def encode(self, actions, times):
        x = torch.cat((self.encode1(actions), times.unsqueeze(0)), -1)
        return self.encode3(F.silu(self.encode2(x))) + self.positions

    def transform(self, x, memory, step):
        for index, block in enumerate(self.blocks):
            scale, shift = block.modulation[step]
            x = block(x, scale, shift, *(memory[index // 2] if index % 2 == 0 else ()))
        return x

    def decode(self, x, scale, shift):
        x = self.output(F.layer_norm(x, x.shape[-1:], eps=1e-6) * scale + shift)
        return self.decode2(F.relu(self.decode1(x)))[:, -HORIZON:]

    def forward(self, memory, state, actions):
        for step in range(STEPS):
            x = torch.cat((state, self.encode(actions, self.times[step])), 1)
            x = self.transform(x, memory, step)
            actions = actions + self.decode(x, *self.modulation[step]) / STEPS
        return actions


class Policy:
    """The whole inference of a workload, its inputs in place."""

    def __init__(self, views, text):
        self.images = views * (SIDE // 2) ** 2
        with torch.device(DEVICE):
            self.vision, self.language, self.head = Vision(), Language(self.images + text), ActionHead()
            self.pixels = torch.randn(views, SIDE * SIDE, 588).to(DTYPE)
            self.ids = torch.randint(0, 151680, (1, text))
            self.state, self.noise = torch.randn(1, 1, STATE).to(DTYPE), torch.randn(1, HORIZON, ACTION).to(DTYPE)
        for module in (self.vision, self.language, self.head):
            randomize(module)

    def compile(self):
        """Every kind of layer once: layers of a kind share what was compiled."""
        torch._dynamo.config.recompile_limit = 64
        for layer in (*self.vision.layers, *self.language.layers, *self.head.blocks):
            layer.compile(dynamic=False)
        for owner, name in ((self.vision, "embed"), (self.vision, "connect"), (self.head, "encode"), (self.head, "decode")):
            setattr(owner, name, torch.compile(getattr(owner, name), dynamic=False))

    def stages(self):
        """Name -> what runs it on the results of the stages before it, which are kept."""
        kept = {}

        def keep(name, run):
            def call():
                kept[name] = run()
                return kept[name]
            return name, call

        return dict((
            keep("vision", lambda: self.vision(self.pixels)),
            keep("language", lambda: self.language(kept["vision"], self.ids)),
            keep("action_prefix", lambda: self.head.prepare(kept["language"], self.images, self.state)),
            keep("action_steps", lambda: self.head(*kept["action_prefix"], self.noise)),
        ))

    def infer(self):
        features = self.language(self.vision(self.pixels), self.ids)
        return self.head(*self.head.prepare(features, self.images, self.state), self.noise)


def randomize(module):
    """Norms are ones and zeros, a modulation's scale about one, everything else as after initialization."""
    for name, parameter in module.named_parameters():
        if "norm" in name and parameter.dim() == 1:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.0)
        elif parameter.dim() == 1:
            parameter.data.normal_(0.0, 0.02)
        else:
            parameter.data.normal_(0.0, 0.6 / math.sqrt(parameter.shape[-1]))
        if name.endswith("modulation"):
            parameter.data[:, 0] += 1.0


def capture(run):
    """The graph of what `run` does, and its result."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph, result


def times_ms(graph, iterations):
    for _ in range(10):
        graph.replay()
    torch.cuda.synchronize()
    times = []
    for _ in range(iterations):
        before = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - before) * 1e3)
    times.sort()
    return {"median": statistics.median(times), "p99": times[int(0.99 * (len(times) - 1))], "min": times[0]}


def measure(name, iterations):
    """Times of one workload, and how far the compiled graph's actions lie from the plain modules'."""
    torch.manual_seed(0)
    policy = Policy(**WORKLOADS[name])
    expected = policy.infer().float()
    started = time.perf_counter()
    policy.compile()
    graph, actions = capture(policy.infer)
    compiled = time.perf_counter() - started
    result = {"inference_ms": times_ms(graph, iterations), "compile_s": compiled, "stages_ms": {}}
    error = (actions.float() - expected).norm() / expected.norm()
    result["relative_l2_to_plain_modules"] = error.item()
    for stage, run in policy.stages().items():
        stage_graph, _ = capture(run)
        result["stages_ms"][stage] = times_ms(stage_graph, iterations)["median"]
    return result


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--json", metavar="FILE", help="where the numbers go")
    return parser.parse_args()


@torch.inference_mode()
def main():
    arguments = parse()
    results = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rates": cublas.rates(), "workloads": {}}
    good = True
    for name in arguments.workload:
        result = measure(name, arguments.iterations)
        result["cublas_us"] = cublas.products(**WORKLOADS[name])
        results["workloads"][name] = result
        stages = ", ".join(f"{stage} {value:.2f}" for stage, value in result["stages_ms"].items())
        error = result["relative_l2_to_plain_modules"]
        # Two bf16 runs that round at different places, through 75 layers and four steps.
        if not error < 0.05:
            good = False
        print(f"{name}: inference {result['inference_ms']['median']:.2f} ms (p99 {result['inference_ms']['p99']:.2f}), {stages}; "
              f"compiled in {result['compile_s']:.0f} s, {error:.1e} from the plain modules")
        for shape, value in result["cublas_us"].items():
            print(f"{name}: cuBLAS {shape}: {value:.1f} us")
        torch.cuda.empty_cache()
    print(json.dumps(results["rates"]))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
