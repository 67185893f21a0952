"""Runs the engines of a bundle for the native engine: a `GraphRunner` (unils_sdk.graph_runner).

One stream carries everything. A tensor in memory that `allocate` made is bound where it lies, so keys and values never
leave the card; any other is copied to a buffer on the card before, or from one after. Each graph with its shapes and
addresses is captured into a CUDA graph when it is first run, with an execution context to itself, since a context that
changes breaks what was captured from it. All contexts share one block for activations: the stream runs one at a time.
"""

from __future__ import annotations

import bisect
import contextlib
import math
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unils_sdk.errors import BackendError, UnilsError
from unils_sdk.graph_runner import LoadedGraphs, Tensor, in_pieces
from unils_sdk.tensorrt import libraries
from unils_sdk.tensorrt.bundle_graphs import BundleGraphs, Shape, distance, fits
from unils_sdk.tensorrt.compiler import check_precision, engine_key, make_log
from unils_sdk.tensorrt.engine_cache import EngineCache, Rejected
from unils_sdk.tensorrt.libraries import Libraries

if TYPE_CHECKING:
    import tensorrt as trt

_ALIGNMENT = 256
"""Of an address that TensorRT takes; cudaMalloc's are."""


class TensorRtRunner:
    """TensorRT on the first card, with products of matrices in one precision."""

    name = "tensorrt"
    has_memory = True

    def __init__(self, precision: str = "fp32") -> None:
        self._precision = precision

    def load(self, paths: Mapping[str, str], threads: int) -> LoadedGraphs:
        """Read the engines of a bundle's graphs from the cache; `threads` are the host's and say nothing here."""
        del threads
        folder = Path(next(iter(paths.values()))).parent
        found, engines = read_engines(folder, self._precision)
        return _TensorRtGraphs(found, engines, self._precision)


def read_engines(folder: str | os.PathLike[str], precision: str) -> tuple[Libraries, dict[str, bytes]]:
    """The serialised engines of a bundle, by graph; `BackendError` with the first reason why this cannot be."""
    bundle = BundleGraphs.read(folder)
    checked = check_precision(bundle, precision)
    found = libraries.find()
    cache = EngineCache(found.version, found.gpu)
    command = f"run unils compile {bundle.folder} --backend tensorrt --precision {checked}"
    engines = {}
    for graph in bundle.graphs:
        try:
            engine = cache.read(engine_key(bundle, graph, checked, found))
        except Rejected as why:
            raise BackendError(f"the engine of graph {graph.name} cannot be used: {why}; {command}") from why
        if engine is None:
            raise BackendError(
                f"graph {graph.name} has no engine for TensorRT {found.version} on {found.gpu.name}: {command}"
            )
        engines[graph.name] = engine
    return found, engines


def why_not(folder: str | os.PathLike[str], precision: str) -> str | None:
    """Why `auto` would not take TensorRT for a bundle; None where it would try."""
    try:
        bundle = BundleGraphs.read(folder)
        checked = check_precision(bundle, precision)
        found = libraries.find()
        cache = EngineCache(found.version, found.gpu)
        paths = [cache.path(engine_key(bundle, graph, checked, found)) for graph in bundle.graphs]
    except UnilsError as error:
        return str(error)
    return (
        f"no engines of this bundle: unils compile {bundle.folder} makes them"
        if not all(path.exists() for path in paths)
        else None
    )


@dataclass(frozen=True)
class _Copy:
    """A tensor of the caller's that has a buffer on the card in its place."""

    place: int
    """Among the tensors of a call, pieces counted each by itself."""
    buffer: int
    bytes: int


@dataclass(frozen=True)
class _Launch:
    """One graph, captured with its shapes and addresses."""

    context: trt.IExecutionContext
    executable: Any
    bound: tuple[int, ...]
    """Addresses in memory of `allocate`."""
    before: tuple[_Copy, ...]
    after: tuple[_Copy, ...]


class _TensorRtGraphs:
    """The engines of one bundle, on the card."""

    def __init__(self, found: Libraries, engines: Mapping[str, bytes], precision: str) -> None:
        self._found = found
        # Calls come from any thread, and share the stream, the activations and the buffers.
        self._lock = threading.Lock()
        self._memory: dict[int, int] = {}  # address -> bytes, of allocate
        self._starts: list[int] = []  # its addresses, in order
        self._released: deque[int] = deque()  # of which these are not needed any more
        self._buffers: dict[tuple[str, str, Shape], int] = {}
        self._launches: dict[tuple[Any, ...], _Launch] = {}
        self._activations = 0
        self._engines: dict[str, trt.ICudaEngine] = {}
        self._log = make_log(found.trt)
        self._stream = self._cuda(found.cudart.cudaStreamCreateWithFlags(found.cudart.cudaStreamNonBlocking))
        self._stream_handle = int(self._stream)
        runtime = found.trt.Runtime(self._log)
        self._runtime = runtime
        for name, serialised in engines.items():
            engine = runtime.deserialize_cuda_engine(serialised)
            if engine is None:
                raise BackendError(f"TensorRT cannot read the engine of graph {name}: {self._why()}")
            self._check_types(name, engine)
            self._engines[name] = engine
        self._activation_bytes = max(
            _ALIGNMENT, *(int(engine.device_memory_size_v2) for engine in self._engines.values())
        )
        self._activations = self._cuda(found.cudart.cudaMalloc(self._activation_bytes))
        self._ports = {name: self._ports_of(engine) for name, engine in self._engines.items()}
        self._pieces = {
            name: {port.partition(".")[0]: port.count(".") for port in ports if "." in port}
            for name, ports in self._ports.items()
        }
        self.detail = f"{found.version} {found.gpu.name} {precision}"

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter may be gone by half
            self.close()

    def close(self) -> None:
        """Give the card's memory back. Afterwards nothing else may be called."""
        cudart = self._found.cudart
        for launch in self._launches.values():
            self._drop(launch)
        self._launches.clear()
        addresses = [*self._buffers.values(), *self._memory, self._activations]
        self._buffers.clear()
        self._memory.clear()
        self._activations = 0
        for address in addresses:
            cudart.cudaFree(address)
        self._engines.clear()
        cudart.cudaStreamDestroy(self._stream)

    def allocate(self, size: int) -> int:
        """Memory of the card for tensors that only graphs read and write; its address."""
        with self._lock:
            address: int = self._cuda(self._found.cudart.cudaMalloc(max(size, 1)))
            self._memory[address] = size
            bisect.insort(self._starts, address)
            return address

    def release(self, address: int) -> None:
        """Take back what `allocate` gave, and whatever was captured with an address within it.

        A session may go while this very thread runs a graph, since its end can be the garbage collector's work: then
        the card's memory is given back behind that.
        """
        self._released.append(address)
        self._give_back()

    def run(self, graph: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Run one graph and wait for it."""
        try:
            self._run(graph, inputs, outputs)
        except BackendError:
            self._found.cudart.cudaStreamSynchronize(self._stream)  # nothing may still write to what was lent
            raise
        finally:
            self._give_back()

    def _run(self, graph: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        pieces = self._pieces[graph]
        tensors = [piece for tensor in (*inputs, *outputs) for piece in in_pieces(tensor, pieces.get(tensor[0], 0))]
        with self._lock:
            resident = tuple(address if self._is_bound(address) else None for *_, address in tensors)
            key = (graph, tuple(shape for _, _, shape, _ in tensors), resident)
            launch = self._launches.get(key)
            if launch is None:
                launch = self._launches[key] = self._capture(graph, tensors)
            cudart = self._found.cudart
            for copy in launch.before:
                self._copy(copy.buffer, tensors[copy.place][3], copy.bytes)
            self._cuda(cudart.cudaGraphLaunch(launch.executable, self._stream))
            for copy in launch.after:
                self._copy(tensors[copy.place][3], copy.buffer, copy.bytes)
            self._cuda(cudart.cudaStreamSynchronize(self._stream))

    def _give_back(self) -> None:
        while self._released and self._lock.acquire(blocking=False):
            try:
                while self._released:
                    address = self._released.popleft()
                    size = self._memory.pop(address)
                    self._starts.remove(address)
                    for key, launch in list(self._launches.items()):
                        if any(address <= bound < address + size for bound in launch.bound):
                            self._drop(self._launches.pop(key))
                    self._cuda(self._found.cudart.cudaFree(address))
            finally:
                self._lock.release()

    def _capture(self, graph: str, tensors: Sequence[Tensor]) -> _Launch:
        trt, cudart = self._found.trt, self._found.cudart
        engine = self._engines[graph]
        shapes = {name: shape for name, _, shape, _ in tensors}
        missing = [name for name in self._ports[graph] if name not in shapes]
        if missing:
            raise BackendError(f"the engine of graph {graph} has a tensor {missing[0]} that nobody gives it")
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise BackendError(f"TensorRT cannot make a context of graph {graph}: {self._why()}")
        context.set_device_memory(self._activations, self._activation_bytes)
        self._expect(graph, context.set_optimization_profile_async(self._profile(graph, shapes), self._stream_handle))
        bound: list[int] = []
        before: list[_Copy] = []
        after: list[_Copy] = []
        for place, (name, dtype, shape, address) in enumerate(tensors):
            mode = self._ports[graph].get(name)
            if mode is None:  # the graph does not need it
                continue
            size = np.dtype(dtype).itemsize * math.prod(shape)
            if mode:
                self._expect(graph, context.set_input_shape(name, shape))
            if self._is_bound(address):
                bound.append(address)
                self._expect(graph, context.set_tensor_address(name, address))
            else:
                copy = _Copy(place, self._buffer(graph, name, shape, size), size)
                (before if mode else after).append(copy)
                self._expect(graph, context.set_tensor_address(name, copy.buffer))
        unset = context.infer_shapes()
        if unset:
            raise BackendError(f"graph {graph} does not know the shape of {unset[0]}")
        for copy in before:
            self._copy(copy.buffer, tensors[copy.place][3], copy.bytes)
        # TensorRT finishes what it puts off for new shapes in the first run, which may not be captured.
        self._expect(graph, context.execute_async_v3(self._stream_handle))
        self._cuda(cudart.cudaStreamSynchronize(self._stream))
        self._cuda(
            cudart.cudaStreamBeginCapture(self._stream, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed)
        )
        captured = context.execute_async_v3(self._stream_handle)
        recorded = self._cuda(cudart.cudaStreamEndCapture(self._stream))
        self._expect(graph, captured)
        executable = self._cuda(cudart.cudaGraphInstantiate(recorded, 0))
        self._cuda(cudart.cudaGraphDestroy(recorded))
        return _Launch(context, executable, tuple(bound), tuple(before), tuple(after))

    def _profile(self, graph: str, shapes: Mapping[str, Shape]) -> int:
        """The profile that was made for these shapes; of several, the one whose usual shapes are nearest."""
        engine = self._engines[graph]
        best: tuple[float, int] | None = None
        for index in range(engine.num_optimization_profiles):
            ranges = {
                name: tuple(tuple(bounds) for bounds in engine.get_tensor_profile_shape(name, index))
                for name, is_input in self._ports[graph].items()
                if is_input
            }
            if all(fits(shapes[name], bounds) for name, bounds in ranges.items()):  # type: ignore[arg-type]
                far = sum(distance(shapes[name], usual) for name, (_, usual, _) in ranges.items())
                best = min(best, (far, index)) if best is not None else (far, index)
        if best is None:
            asked = ", ".join(f"{name} {shapes[name]}" for name, is_input in self._ports[graph].items() if is_input)
            raise BackendError(f"the engine of graph {graph} was not built for these shapes: {asked}")
        return best[1]

    def _is_bound(self, address: int) -> bool:
        if address % _ALIGNMENT != 0:
            return False
        before = bisect.bisect_right(self._starts, address) - 1
        return before >= 0 and address < self._starts[before] + self._memory[self._starts[before]]

    def _buffer(self, graph: str, name: str, shape: Shape, size: int) -> int:
        key = (graph, name, shape)
        if key not in self._buffers:
            self._buffers[key] = self._cuda(self._found.cudart.cudaMalloc(size))
        return self._buffers[key]

    def _copy(self, target: int, source: int, size: int) -> None:
        cudart = self._found.cudart
        # Which side is the card's, the addresses say.
        kind = cudart.cudaMemcpyKind.cudaMemcpyDefault
        self._cuda(cudart.cudaMemcpyAsync(target, source, size, kind, self._stream))

    def _drop(self, launch: _Launch) -> None:
        self._cuda(self._found.cudart.cudaGraphExecDestroy(launch.executable))

    def _check_types(self, graph: str, engine: trt.ICudaEngine) -> None:
        trt = self._found.trt
        for name in self._ports_of(engine):
            if engine.get_tensor_dtype(name) not in (trt.DataType.FLOAT, trt.DataType.INT64):
                raise BackendError(f"tensor {name} of graph {graph} is neither float32 nor int64")
            if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
                raise BackendError(f"TensorRT wants tensor {name} of graph {graph} on the host, where it is not put")

    def _ports_of(self, engine: trt.ICudaEngine) -> dict[str, bool]:
        """Names of an engine's tensors, and whether each is an input."""
        mode = self._found.trt.TensorIOMode
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        return {name: engine.get_tensor_mode(name) == mode.INPUT for name in names}

    def _expect(self, graph: str, happened: bool) -> None:
        if not happened:
            raise BackendError(f"TensorRT failed in graph {graph}: {self._why()}")

    def _why(self) -> str:
        errors, self._log.errors = self._log.errors, []
        return " ".join(errors[-1].split()) if errors else "it does not say why"

    def _cuda(self, answer: tuple[Any, ...]) -> Any:
        return libraries.checked(self._found.cudart, answer)
