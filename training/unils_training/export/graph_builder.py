"""ONNX graphs written node by node, where tracing would copy what a node can read in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

OPSET, IR_VERSION = 20, 9
"""The first with Gelu, and what ONNX Runtime 1.17 and TensorRT 10 read."""
NORM_EPS = 1e-5

Shape: TypeAlias = Sequence[int | str]
"""A dimension is a number, or the name of one that a call fixes."""
Array: TypeAlias = npt.NDArray[Any]


class GraphBuilder:
    """One graph; a value is its name. Weights are those of a model, by their names there.

    Linear layers take and give (rows, width).
    """

    def __init__(self, name: str, weights: Mapping[str, Array]) -> None:
        self.name = name
        self.inputs: dict[str, list[int | str]] = {}
        self.outputs: dict[str, list[int | str]] = {}
        self._weights = weights
        self._ports: dict[str, list[Any]] = {"input": [], "output": []}
        self._nodes: list[Any] = []
        self._constants: dict[str, Array] = {}

    def input(self, name: str, shape: Shape, dtype: type = np.float32) -> str:
        self.inputs[name] = list(shape)
        self._ports["input"].append(_port(name, shape, dtype))
        return name

    def output(self, name: str, value: str, shape: Shape) -> None:
        self.outputs[name] = list(shape)
        self._ports["output"].append(_port(name, shape, np.float32))
        self._nodes.append(_node("Identity", [value], [name]))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output."""
        (value,) = self.ops(1, kind, *inputs, **attributes)
        return value

    def ops(self, count: int, kind: str, *inputs: str, **attributes: Any) -> list[str]:
        """A node of `count` outputs."""
        name = f"{kind}_{len(self._nodes)}"
        values = [name] if count == 1 else [f"{name}.{i}" for i in range(count)]
        self._nodes.append(_node(kind, inputs, values, name=name, **attributes))
        return values

    def constant(self, array: npt.ArrayLike, name: str = "") -> str:
        value = np.asarray(array)
        if not name:
            name = f"{value.dtype}{list(value.shape)}:{value.tobytes().hex()}"
            name = name if len(name) < 64 else f"constant_{len(self._constants)}"
        self._constants.setdefault(name, np.ascontiguousarray(value))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.float32(value), f"number:{value:g}")

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64), f"integers:{','.join(map(str, values))}")

    def weight(self, name: str) -> str:
        return self.constant(self._weights[name], name)

    def array(self, name: str) -> Array:
        """A weight, for a constant made of it."""
        return self._weights[name]

    def reshape(self, value: str, *shape: int) -> str:
        return self.op("Reshape", value, self.integers(*shape))

    def split(self, value: str, axis: int, *parts: int) -> list[str]:
        if len(parts) == 1:
            return [value]
        return self.ops(len(parts), "Split", value, self.integers(*parts), axis=axis)

    def slice(self, value: str, begin: Sequence[int], end: Sequence[int], axes: Sequence[int]) -> str:
        """All axes at once, so that only what is read is copied."""
        return self.op("Slice", value, self.integers(*begin), self.integers(*end), self.integers(*axes))

    def gemm(self, x: str, weight: str, *bias: str) -> str:
        """x (rows, in), weight (out, in), bias (out) or none."""
        return self.op("Gemm", x, weight, *bias, transB=1)

    def linear(self, x: str, *names: str) -> str:
        """Linear layers of the model, their outputs behind each other; a bias that they do not have is left out."""
        parts = [part for part in ("weight", "bias") if f"{names[0]}.{part}" in self._weights]
        return self.gemm(x, *(self._stacked(names, part) for part in parts))

    def _stacked(self, names: Sequence[str], part: str) -> str:
        if len(names) == 1:
            return self.weight(f"{names[0]}.{part}")
        return self.constant(np.concatenate([self.array(f"{name}.{part}") for name in names]), f"{names[0]}…{part}")

    def norm(self, x: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=NORM_EPS)

    def gelu(self, x: str) -> str:
        return self.op("Gelu", x, approximate="tanh")

    def write(self, path: Path) -> None:
        """Writes the file, once the checker has found nothing; shapes are inferred strictly."""
        import onnx
        from onnx import helper, numpy_helper

        initializers = [numpy_helper.from_array(value, name) for name, value in self._constants.items()]
        graph = helper.make_graph(self._nodes, self.name, self._ports["input"], self._ports["output"], initializers)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="unils"
        )
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(path))


def _node(kind: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs, outputs, name=name or outputs[0], **attributes)


def _port(name: str, shape: Shape, dtype: type) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))
