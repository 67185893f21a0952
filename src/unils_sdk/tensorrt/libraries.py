"""Finds TensorRT, cuda-python and the card, in this order, and says which of them is missing and how to get it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from unils_sdk.errors import BackendError

INSTALL = "pip install 'unils-sdk[tensorrt]'"
OLDEST_TENSORRT = (10, 8)
"""The first whose names are those used here; tests/test_tensorrt_names.py holds them to the bindings."""


@dataclass(frozen=True)
class Gpu:
    """The card that engines are built for, and run on nothing else."""

    name: str
    """As the driver has it, `NVIDIA H100 80GB HBM3` say."""
    capability: str
    """Compute capability, `9.0` say."""


@dataclass(frozen=True)
class Libraries:
    """The modules that the rest of the layer calls."""

    trt: Any
    """`tensorrt`"""
    cudart: Any
    """`cuda.bindings.runtime`"""
    gpu: Gpu

    @property
    def version(self) -> str:
        """Of TensorRT; engines of another are not read."""
        return str(self.trt.__version__)


def import_tensorrt() -> Any:
    """The module; `BackendError` where there is none, or an older one than this layer knows."""
    try:
        import tensorrt as trt
    except ImportError as error:
        raise BackendError(f"TensorRT is not installed ({error}): {INSTALL}") from error
    found = re.match(r"(\d+)\.(\d+)", trt.__version__)
    if found is None or tuple(map(int, found.groups())) < OLDEST_TENSORRT:
        oldest = ".".join(map(str, OLDEST_TENSORRT))
        raise BackendError(f"TensorRT {trt.__version__} is installed and {oldest} or newer needed: {INSTALL}")
    return trt


def find() -> Libraries:
    """TensorRT, cuda-python and the first card, or a `BackendError` with the first of them that is missing.

    The card is looked for before TensorRT makes anything: without a driver, TensorRT prints and then crashes.
    """
    trt = import_tensorrt()
    try:
        from cuda.bindings import runtime as cudart
    except ImportError as error:
        raise BackendError(f"cuda-python is not installed ({error}): {INSTALL}") from error
    status, count = cudart.cudaGetDeviceCount()
    if status != cudart.cudaError_t.cudaSuccess or count == 0:
        why = _text(cudart, status) if status != cudart.cudaError_t.cudaSuccess else "the driver counts none"
        raise BackendError(f"there is no NVIDIA GPU that CUDA can use ({why}): is its driver installed and new enough?")
    properties = checked(cudart, cudart.cudaGetDeviceProperties(0))
    name = properties.name
    text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    return Libraries(trt, cudart, Gpu(text.strip("\0 "), f"{properties.major}.{properties.minor}"))


def checked(cudart: Any, answer: tuple[Any, ...]) -> Any:
    """What a call of the CUDA runtime returned behind its status; a status that is not success is a `BackendError`."""
    status, *values = answer
    if status != cudart.cudaError_t.cudaSuccess:
        raise BackendError(f"CUDA failed: {_text(cudart, status)}")
    return values[0] if len(values) == 1 else tuple(values) or None


def _text(cudart: Any, status: Any) -> str:
    _, text = cudart.cudaGetErrorString(status)
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
