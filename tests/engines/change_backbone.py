"""A graph of NVIDIA's `vit` or `llm` that computes something else.

usage: change_backbone.py GRAPH.onnx halve|swap CHANGED.onnx

halve: the last output is half of what it should be. swap: the first two deepstack features change places, where an `llm`
takes them or where a `vit` gives them.
"""

import sys

import onnx
from onnx import helper


def halve(graph):
    last = graph.output[-1].name
    node = next(node for node in graph.node if last in node.output)
    node.op_type = "Mul"
    node.input.append("half")
    graph.initializer.append(helper.make_tensor("half", onnx.TensorProto.FLOAT, [], [0.5]))


def swap(graph):
    taken = {"deepstack_0": "deepstack_1", "deepstack_1": "deepstack_0"}
    stacked = [node for node in graph.node if node.op_type == "Concat" and node.name.startswith("layout.stack")]
    if stacked:
        # The last holds the stack of the others and the last feature.
        stacked[0].input[:] = reversed(stacked[0].input)
        return
    readers = [node for node in graph.node if taken.keys() & set(node.input)]
    if len(readers) < 2:
        raise SystemExit(f"expected nodes that read {' and '.join(taken)}, found {len(readers)}")
    for node in readers:
        node.input[:] = [taken.get(name, name) for name in node.input]


def main(path, change, changed):
    model = onnx.load(path)
    {"halve": halve, "swap": swap}[change](model.graph)
    onnx.save(model, changed)


main(*sys.argv[1:])
