"""Products of matrices in 8 bits: what `--precision int8` does to an ONNX graph.

Of the standard ONNX operators only (DynamicQuantizeLinear, MatMulInteger), which ONNX Runtime fuses. Weights have one
scale a column; the activations of one product share one, found as the graph runs.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np

Precision: TypeAlias = Literal["fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

LARGEST_WEIGHT = 64
"""Not 127: CPUs without VNNI add two products of 8 bits in 16, and 2 * 255 * 64 is the most that fits."""
SHORTEST_SUM = 64
"""Products over fewer terms save nothing."""


def to_int8(proto: Any, in_float: str) -> int:
    """Puts every product with a constant matrix of an ONNX model in 8 bits, in place.

    Args:
        proto: an `onnx.ModelProto` with its weights inside.
        in_float: nodes whose names begin so stay float32; "" is all of them.

    Returns:
        How many products there are now in 8 bits.
    """
    from onnx import numpy_helper

    graph = proto.graph
    constants = {item.name: item for item in graph.initializer}
    nodes: list[Any] = []
    weights: dict[str, Any] = {}
    quantised: dict[str, list[str]] = {}
    for node in graph.node:
        narrow = node.op_type == "MatMul" and not node.name.startswith(in_float)
        weight = constants.get(node.input[1]) if narrow else None
        if weight is None or len(weight.dims) != 2 or weight.dims[0] < SHORTEST_SUM:
            nodes.append(node)
            continue
        activation, name = node.input
        if name not in weights:
            weights[name] = _quantise(numpy_helper.to_array(weight))
        if activation not in quantised:
            quantised[activation] = [f"{activation}.{part}" for part in ("int8", "scale", "zero")]
            nodes.append(_node("DynamicQuantizeLinear", [activation], quantised[activation]))
        nodes += _product(name, quantised[activation], node.output[0])
    read = {name for node in nodes for name in node.input}
    initializers = [item for item in graph.initializer if item.name in read]
    for name, (whole, scale) in weights.items():
        initializers += [
            numpy_helper.from_array(whole, f"{name}.int8"),
            numpy_helper.from_array(scale, f"{name}.scale"),
        ]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)
    return sum(node.op_type == "MatMulInteger" for node in nodes)


def _quantise(weight: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[Any, Any]:
    """(k, n) float32 -> (k, n) int8 and scales (n,)."""
    largest = np.abs(weight).max(axis=0)
    scale = np.where(largest > 0, largest / LARGEST_WEIGHT, 1.0).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale


def _product(weight: str, activation: list[str], output: str) -> list[Any]:
    """In the order and form that ONNX Runtime makes one kernel of."""
    whole, scale, zero = activation
    return [
        _node("MatMulInteger", [whole, f"{weight}.int8", zero], [f"{output}.sum"]),
        _node("Cast", [f"{output}.sum"], [f"{output}.float"], to=1),  # TensorProto.FLOAT
        _node("Mul", [scale, f"{weight}.scale"], [f"{output}.scale"]),
        _node("Mul", [f"{output}.float", f"{output}.scale"], [output]),
    ]


def _node(kind: str, inputs: list[str], outputs: list[str], **attributes: int) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs, outputs, name=f"{outputs[0]}.{kind}", **attributes)
