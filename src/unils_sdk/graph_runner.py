"""Who runs the ONNX graphs of a bundle for the native engine: ONNX Runtime here, TensorRT in unils_sdk.tensorrt.

The engine owns every buffer; a tensor arrives here as its name, dtype, shape and address, and is bound as it is, so
nothing is copied on the way in or out. Where a graph takes it in pieces (`audio.3.0.1` is `audio[3, 0, 1]`), each is
bound where it lies. onnxruntime is imported when the first such bundle is loaded, not before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from unils_sdk.errors import InvalidArgumentError

_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
"""Of ONNX Runtime, by device: the first one runs what it can, the next ones the rest."""

_MOST_BOUND = 1024
"""Bindings that are kept; a session has a few."""

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

    @property
    def has_memory(self) -> bool:
        """Whether what `load` returns has memory for tensors that graphs alone touch: `allocate(size)`, which returns
        an address, and `release(address)`."""

    def load(self, paths: Mapping[str, str], threads: int) -> LoadedGraphs:
        """Open the graphs, given by name and path of an .onnx file."""


def available_devices() -> tuple[str, list[str]]:
    """The version of the installed onnxruntime, and names of the devices whose provider it holds; whether a provider
    works, loading shows. ImportError where there is none."""
    import onnxruntime

    found = onnxruntime.get_available_providers()
    return onnxruntime.__version__, [device for device, (wanted, *_) in _PROVIDERS.items() if wanted in found]


class OnnxRunner:
    """ONNX Runtime on one device: `cpu`, `cuda` or `tensorrt`."""

    name = "onnxruntime"
    has_memory = False

    def __init__(self, device: str = "cpu") -> None:
        if device not in _PROVIDERS:
            raise InvalidArgumentError(
                f"backend onnxruntime has no device {device!r}; it is onnxruntime, or "
                f"{' or '.join(f'onnxruntime:{name}' for name in _PROVIDERS)}"
            )
        self._device = device

    @classmethod
    def named(cls, backend: str) -> tuple[str, OnnxRunner]:
        """`onnxruntime:cuda` is backend `onnxruntime` with its CUDA provider; of any other name, the CPU's."""
        name, colon, device = backend.partition(":")
        return (name, cls(device)) if name == cls.name and colon else (backend, cls())

    def load(self, paths: Mapping[str, str], threads: int) -> LoadedGraphs:
        return _OnnxGraphs(paths, threads, self._device)


class _OnnxGraphs:
    def __init__(self, paths: Mapping[str, str], threads: int, device: str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeError(
                f"the graphs of a bundle need ONNX Runtime ({error}): pip install 'unils-sdk[onnx]'"
            ) from error
        from concurrent.futures import ThreadPoolExecutor

        wanted, *_ = providers = _PROVIDERS[device]
        found = onnxruntime.get_available_providers()
        if wanted not in found:
            raise RuntimeError(
                f"ONNX Runtime {onnxruntime.__version__} comes without {wanted} (it has {', '.join(found)}): install "
                "onnxruntime-gpu in the place of onnxruntime"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # a library does not print; failures are raised
        # A thread that waits for the next window must not burn a core.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Two tracks are encoded side by side: a thread each waits less than all threads for one after another.
        self._apart = ThreadPoolExecutor(2, "unils-track") if threads > 1 and device == "cpu" else None
        self._sessions: dict[str, Any] = {}
        self._pieces: dict[str, dict[str, int]] = {}
        for name, path in paths.items():
            try:
                session = onnxruntime.InferenceSession(path, options, providers=list(providers))
            except Exception as error:  # ONNX Runtime has no common base
                raise RuntimeError(f"{path} cannot be opened by ONNX Runtime: {_one_line(error)}") from error
            # A provider whose libraries do not load is left out without a word.
            if wanted not in session.get_providers():
                raise RuntimeError(
                    f"{wanted} does not work here, ONNX Runtime would run {path} on {session.get_providers()[0]}: are "
                    "the driver and the libraries that this onnxruntime-gpu was built for installed?"
                )
            self._sessions[name] = session
            ports = [port.name for port in (*session.get_inputs(), *session.get_outputs())]
            self._pieces[name] = {port.partition(".")[0]: port.count(".") for port in ports if "." in port}
        # A stream's memory stays where it is, and to bind it takes as long as to run a small graph. Only on the CPU: a
        # device reads an input when it is bound.
        self._bound: dict[tuple[Any, ...], Any] | None = {} if device == "cpu" else None
        self.detail = f"{onnxruntime.__version__} {wanted}"

    def run(self, graph: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        tracks = inputs[0][2][0] if graph == "audio_encoder" else 1
        if self._apart is None or tracks == 1:
            self._run(graph, inputs, outputs)
            return
        from concurrent.futures import wait

        runs = [
            self._apart.submit(self._run, graph, *([_row(tensor, i) for tensor in part] for part in (inputs, outputs)))
            for i in range(tracks)
        ]
        wait(runs)  # for all of them: the memory is borrowed
        for run in runs:
            run.result()

    def _run(self, graph: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        try:
            self._sessions[graph].run_with_iobinding(self._binding(graph, inputs, outputs))
        except Exception as error:
            raise RuntimeError(_one_line(error)) from error

    def _binding(self, graph: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Any:
        """Nobody else uses this memory during the call, so nobody else has this binding."""
        key = (graph, *inputs, None, *outputs)
        bound = None if self._bound is None else self._bound.get(key)
        if bound is not None:
            return bound
        pieces = self._pieces[graph]
        binding = self._sessions[graph].io_binding()
        for tensors, bind in ((inputs, binding.bind_input), (outputs, binding.bind_output)):
            for tensor in tensors:
                for name, dtype, shape, address in in_pieces(tensor, pieces.get(tensor[0], 0)):
                    bind(name, "cpu", 0, np.dtype(dtype), shape, address)
        if self._bound is not None:
            if len(self._bound) >= _MOST_BOUND:
                self._bound.clear()
            self._bound[key] = binding
        return binding


def _row(tensor: Tensor, index: int) -> Tensor:
    """One entry of the first axis, which stays as an axis of one."""
    name, dtype, (_, *rest), address = tensor
    return name, dtype, (1, *rest), address + index * np.dtype(dtype).itemsize * math.prod(rest)


def in_pieces(tensor: Tensor, axes: int) -> Iterator[Tensor]:
    """A tensor, cut along its first `axes`; each piece lies where it did."""
    name, dtype, shape, address = tensor
    cut, piece = shape[:axes], shape[axes:]
    size = np.dtype(dtype).itemsize * math.prod(piece)
    for i, index in enumerate(np.ndindex(*cut)):
        yield ".".join((name, *map(str, index))), dtype, piece, address + i * size


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
