"""Every matrix product of GR00T N1.6 by cuBLAS, as PyTorch calls it, and the device's ceilings."""

import statistics

import torch

# Weights that are used in turn, so that none of them is in the second-level cache (50 or 60 MB) when its turn comes.
ROTATED_BYTES = 256 << 20


def shapes(views, text):
    """[rows, inputs, outputs] of the products of one inference."""
    patches, images = 324 * views, 81 * views
    tokens, action = images + text, 51
    return [
        (patches, 1152, 3456), (patches, 1152, 1152), (patches, 1152, 4304), (patches, 4304, 1152),
        (images, 4608, 2048), (images, 2048, 2048),
        (tokens, 2048, 4096), (tokens, 2048, 2048), (tokens, 2048, 12288), (tokens, 6144, 2048),
        (text, 2048, 3072), (images, 2048, 3072),
        (action, 1536, 4608), (action, 1536, 1536), (action, 1536, 6144), (action, 6144, 1536), (action, 1536, 1024),
    ]


def median_us(run, calls, rounds=20):
    """Median over rounds of `calls` calls, for one call."""
    for _ in range(3):
        run()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)


def products(views, text):
    """"ROWSxINPUTSxOUTPUTS" -> microseconds of one bf16 product with bias, in a chain of products."""
    result = {}
    for rows, inputs, outputs in shapes(views, text):
        count = max(8, -(-ROTATED_BYTES // (inputs * outputs * 2)))
        weights = [torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16) for _ in range(count)]
        bias = torch.randn(outputs, device="cuda", dtype=torch.bfloat16)
        x = torch.randn(rows, inputs, device="cuda", dtype=torch.bfloat16)

        def run():
            for weight in weights:
                torch.nn.functional.linear(x, weight, bias)

        # A graph, so that no product waits for the host.
        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        result[f"{rows}x{inputs}x{outputs}"] = median_us(graph.replay, count)
    return result


def rates():
    """Bytes a second of a large copy, read and written, and bf16 operations a second of a large product."""
    a = torch.empty(1 << 30, device="cuda", dtype=torch.uint8).random_()
    b = torch.empty_like(a)
    copy = median_us(lambda: b.copy_(a), 1)
    n = 8192
    x, y = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = median_us(lambda: x @ y, 1)
    return {"copy_tb_per_s": 2 * a.numel() / copy / 1e6, "bf16_tflop_per_s": 2 * n**3 / product / 1e6}
