"""Products of matrices in 16 bits, written into the ONNX graph: a strongly typed network computes what its graph says.

Operands of every product are cast to 16 bits and its result back to float32. Everything else (softmax, norms, RoPE,
residual sums, inputs and outputs) stays float32, so every precision takes and gives the same tensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from unils_sdk.errors import BackendError, BundleError

Precision: TypeAlias = Literal["fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# ONNX gives bfloat16 to convolutions in opset 22, and bundles are of opset 17: in bf16 theirs stay float32.
_PRODUCTS = {"fp16": {"MatMul", "Gemm", "Conv", "ConvTranspose"}, "bf16": {"MatMul", "Gemm"}}
_LARGEST_INSIDE = 1 << 30
"""Bytes of a graph that is written as one file: a protocol buffer ends at 2 GB."""


def write_graph(source: Path, precision: Precision, folder: Path) -> Path:
    """Writes the graph at `source` with its products in `precision` to `folder`; returns its path there.

    `fp32` is the graph as it is, at its own path. Raises `BackendError` without the package onnx, `BundleError` where a
    weight is too large for 16 bits.
    """
    if precision == "fp32":
        return source
    try:
        import onnx
    except ImportError as error:
        raise BackendError(f"precision {precision} needs the package onnx ({error}): pip install onnx") from error
    model = onnx.load(str(source))
    lower_products(model, precision)
    path = folder / source.name
    onnx.save(
        model,
        str(path),
        save_as_external_data=model.ByteSize() > _LARGEST_INSIDE,
        all_tensors_to_one_file=True,
        location=f"{source.name}.data",
    )
    return path


def lower_products(model: Any, precision: Precision) -> int:
    """Puts the products of an `onnx.ModelProto`, whose weights are inside, in 16 bits, in place; returns how many."""
    from onnx import TensorProto, helper

    kind = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    graph = model.graph
    weights = {item.name: item for item in graph.initializer if item.data_type == TensorProto.FLOAT}
    lowered: dict[str, str] = {}
    constants: list[Any] = []
    nodes: list[Any] = []
    count = 0
    for node in graph.node:
        if node.op_type not in _PRODUCTS[precision]:
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            if not name:
                continue
            if name not in lowered:
                lowered[name] = f"{name}.{precision}"
                if name in weights:
                    constants.append(_lowered(weights[name], lowered[name], precision, kind))
                else:
                    nodes.append(helper.make_node("Cast", [name], [lowered[name]], f"{lowered[name]}/Cast", to=kind))
            node.input[i] = lowered[name]
        (result,) = node.output
        narrow = f"{result}.{precision}.product"
        node.output[0] = narrow
        nodes += [node, helper.make_node("Cast", [narrow], [result], f"{narrow}/Cast", to=TensorProto.FLOAT)]
        count += 1
    read = {name for node in nodes for name in node.input} | {item.name for item in graph.output}
    kept = [item for item in graph.initializer if item.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *constants])
    del graph.value_info[:]  # of the names that were there before
    return count


def _lowered(weight: Any, name: str, precision: Precision, kind: int) -> Any:
    from onnx import TensorProto, numpy_helper

    values: npt.NDArray[np.float32] = numpy_helper.to_array(weight)
    if precision == "fp16":
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise BundleError(
                f"weight {weight.name} reaches {np.abs(values).max():.3g}, and fp16 ends at 65504: compile with bf16"
            )
        raw = half.tobytes()
    else:
        raw = _bfloat16(values).tobytes()
    return TensorProto(name=name, data_type=kind, dims=weight.dims, raw_data=raw)


def _bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The upper half of each float32, rounded to nearest, ties to even. Weights are finite."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    upper: npt.NDArray[np.uint16] = (rounded >> np.uint32(16)).astype(np.uint16)
    return upper
