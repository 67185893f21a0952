"""Who runs the ONNX graphs of a bundle of family `published` for the native engine: ONNX Runtime.

The engine owns every buffer; a tensor arrives here as its name, dtype, shape and address, and is bound as it is, so
nothing is copied on the way in or out. onnxruntime is imported when the first such bundle is loaded, not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

_PROVIDER = "CPUExecutionProvider"

Tensor: TypeAlias = tuple[str, str, tuple[int, ...], int]
"""Name, dtype (`float32` or `int64`), shape, and address of dense memory that is borrowed for one call."""


class LoadedGraphs(Protocol):
    """The graphs of one bundle."""

    @property
    def detail(self) -> str:
        """What they run on, for `ModelInfo.backend_detail`."""

    def run(self, graph: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Run one graph, from any thread; what it raises becomes a `BackendError`."""


class GraphRunner(Protocol):
    """`unils_graph_runner` of unils.h, for Python."""

    @property
    def name(self) -> str:
        """Of the backend."""

    def load(self, paths: Mapping[str, str], threads: int) -> LoadedGraphs:
        """Open the graphs, given by name and path of an .onnx file."""


class OnnxRunner:
    """ONNX Runtime, on its CPU provider."""

    name = "onnxruntime"

    def load(self, paths: Mapping[str, str], threads: int) -> LoadedGraphs:
        return _OnnxGraphs(paths, threads)


class _OnnxGraphs:
    def __init__(self, paths: Mapping[str, str], threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeError(
                f"a bundle of family published needs ONNX Runtime ({error}): pip install 'unils-sdk[onnx]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # a library does not print; failures are raised
        # A thread that waits for the next window must not burn a core.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._sessions: dict[str, Any] = {}
        for name, path in paths.items():
            try:
                self._sessions[name] = onnxruntime.InferenceSession(path, options, providers=[_PROVIDER])
            except Exception as error:  # ONNX Runtime has no common base
                raise RuntimeError(f"{path} cannot be opened by ONNX Runtime: {_one_line(error)}") from error
        self.detail = f"{onnxruntime.__version__} {_PROVIDER}"

    def run(self, graph: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        session = self._sessions[graph]
        binding = session.io_binding()
        for name, dtype, shape, address in inputs:
            binding.bind_input(name, "cpu", 0, np.dtype(dtype), shape, address)
        for name, dtype, shape, address in outputs:
            binding.bind_output(name, "cpu", 0, np.dtype(dtype), shape, address)
        try:
            session.run_with_iobinding(binding)
        except Exception as error:
            raise RuntimeError(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
