"""Stand-ins for `tensorrt` and `cuda.bindings.runtime`, whose card is the host's memory and whose engines are graphs.

What they are asked is what the real ones would be asked, and they mind what those mind: an engine runs its ONNX graph
with ONNX Runtime at the addresses it was given; a stream only records while it is captured, and a captured graph runs
with the addresses it was captured with; shapes must lie within the profile that a context has. Memory of the card is
filled with NaN, and a copy beyond an allocation or a call on freed memory fails.
"""

from __future__ import annotations

import ctypes
import enum
import importlib.machinery
import itertools
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest


def pretend(monkeypatch: pytest.MonkeyPatch, cache: Path) -> TensorRt:
    """Makes this a machine with a card, TensorRT and cuda-python, whose cache is an empty folder."""
    trt = TensorRt(Cuda())
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["cuda.bindings"], "runtime", trt.cuda, raising=False)
    monkeypatch.setenv("UNILS_CACHE", str(cache))
    return trt


# The operators of our graphs, all of which are read as docs/operators.md of github.com/onnx/onnx-tensorrt has it.
OPERATORS = (
    "Add Cast Concat Constant Conv Div Equal Erf Expand Gather GatherElements Gelu Gemm Greater Identity "
    "LayerNormalization LeakyRelu MatMul Mod Mul ReduceSum Reshape Shape Slice Softmax Split Sqrt Squeeze Sub Tanh "
    "Transpose Unsqueeze Where"
)
# Of TensorRT 10.0; later ones read more.
OPSETS = range(9, 21)

_DTYPES = {"tensor(float)": np.dtype(np.float32), "tensor(int64)": np.dtype(np.int64)}


class Status(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorIllegalAddress = 700  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815


class Cuda:
    """`cuda.bindings.runtime` of a machine with one card, or with none."""

    cudaError_t = Status  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyDefault=4)  # noqa: N815
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeRelaxed=2)  # noqa: N815

    def __init__(self) -> None:
        self.cards = 1
        self.driver = Status.cudaSuccess
        self.name = "NVIDIA Pretend 9000"
        self.capability = (9, 0)
        self.allocated: dict[int, ctypes.Array[Any]] = {}
        self.full_at: int | None = None
        self.copied_bytes = 0
        self.launches = 0
        self.graphs: dict[int, list[Callable[[], bool]]] = {}
        self.streams: set[int] = set()
        self.recording: list[Callable[[], bool]] | None = None
        self._numbers = itertools.count(1)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:  # noqa: N802
        return (self.driver, self.cards) if self.driver == Status.cudaSuccess else (self.driver, None)

    def cudaGetErrorString(self, status: Status) -> tuple[Any, ...]:  # noqa: N802
        return Status.cudaSuccess, f"it is {status.name}".encode()

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:  # noqa: N802
        assert device == 0
        major, minor = self.capability
        name = self.name.encode().ljust(256, b"\0")
        return Status.cudaSuccess, types.SimpleNamespace(name=name, major=major, minor=minor)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        assert size > 0
        if self.full_at is not None and size >= self.full_at:
            return Status.cudaErrorMemoryAllocation, None
        block = ctypes.create_string_buffer(b"\xff" * (size + 256), size + 256)  # NaN
        address = -(-ctypes.addressof(block) // 256) * 256
        self.allocated[address] = block
        self.__dict__.setdefault("sizes", {})[address] = size
        return Status.cudaSuccess, address

    def cudaFree(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        if address:
            del self.allocated[address]
        return (Status.cudaSuccess,)

    def on_card(self, address: int, size: int) -> bool:
        return any(start <= address and address + size <= start + self.sizes[start] for start in self.allocated)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: Any) -> tuple[Any, ...]:  # noqa: N802
        assert kind == 4
        assert int(stream) in self.streams
        assert self.recording is None
        if not (self.on_card(target, size) or self.on_card(source, size)):
            return (Status.cudaErrorIllegalAddress,)
        ctypes.memmove(target, source, size)
        self.copied_bytes += size
        return (Status.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        assert flags == 1
        number = next(self._numbers)
        self.streams.add(number)
        return Status.cudaSuccess, number

    def cudaStreamDestroy(self, stream: Any) -> tuple[Any, ...]:  # noqa: N802
        self.streams.remove(int(stream))
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: Any) -> tuple[Any, ...]:  # noqa: N802
        assert int(stream) in self.streams
        return (Status.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: Any, mode: int) -> tuple[Any, ...]:  # noqa: N802
        assert mode == 2
        assert int(stream) in self.streams
        self.recording = []
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Any) -> tuple[Any, ...]:  # noqa: N802
        assert int(stream) in self.streams
        recorded, self.recording = self.recording, None
        return Status.cudaSuccess, recorded

    def cudaGraphInstantiate(self, graph: list[Callable[[], bool]], flags: int) -> tuple[Any, ...]:  # noqa: N802
        assert flags == 0
        assert graph
        number = next(self._numbers)
        self.graphs[number] = list(graph)
        return Status.cudaSuccess, number

    def cudaGraphDestroy(self, graph: list[Callable[[], bool]]) -> tuple[Any, ...]:  # noqa: N802
        graph.clear()
        return (Status.cudaSuccess,)

    def cudaGraphLaunch(self, executable: int, stream: Any) -> tuple[Any, ...]:  # noqa: N802
        assert int(stream) in self.streams
        self.launches += 1
        done = all(work() for work in self.graphs[executable])
        return (Status.cudaSuccess if done else Status.cudaErrorIllegalAddress,)

    def cudaGraphExecDestroy(self, executable: int) -> tuple[Any, ...]:  # noqa: N802
        del self.graphs[executable]
        return (Status.cudaSuccess,)


class Engine:
    """An ICudaEngine."""

    device_memory_size_v2 = 4096

    def __init__(self, trt: TensorRt, plan: dict[str, Any]) -> None:
        self.trt, self.profiles = trt, plan["profiles"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(bytes.fromhex(plan["onnx"]), options)
        self.inputs = {port.name: _DTYPES[port.type] for port in self.session.get_inputs()}
        self.outputs = {port.name: _DTYPES[port.type] for port in self.session.get_outputs()}
        self.num_optimization_profiles = len(self.profiles)
        self.num_io_tensors = len(self.inputs) + len(self.outputs)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.trt.TensorIOMode.INPUT if name in self.inputs else self.trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        dtype = (self.inputs | self.outputs)[name]
        return self.trt.DataType.FLOAT if dtype == np.float32 else self.trt.DataType.INT64

    def get_tensor_location(self, name: str) -> Any:
        del name
        return self.trt.TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        return self.profiles[profile_index][name]

    def create_execution_context(self, strategy: Any) -> Context:
        assert strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return Context(self)


class Context:
    """An IExecutionContext."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.cuda = engine, engine.trt.cuda
        self.profile = -1
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.ran = False
        self.captured = False

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        assert self.cuda.on_card(memory, size)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle in self.cuda.streams
        self.profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self.captured, "a context that was captured changes"
        least, _, greatest = self.engine.profiles[self.profile][name]
        self.shapes[name] = shape
        return all(low <= size <= high for low, size, high in zip(least, shape, greatest, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert not self.captured, "a context that was captured changes"
        assert memory % 256 == 0
        self.addresses[name] = memory
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.inputs if name not in self.shapes]

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle in self.cuda.streams
        addresses, shapes = dict(self.addresses), dict(self.shapes)
        work = lambda: self._run(addresses, shapes)  # noqa: E731
        if self.cuda.recording is None:
            self.ran = True
            return work()
        assert self.ran, "the first run of new shapes may not be captured"
        self.captured = True
        self.cuda.recording.append(work)
        return True

    def _run(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> bool:
        feeds = {}
        for name, dtype in self.engine.inputs.items():
            size = int(np.prod(shapes[name])) * dtype.itemsize
            if not self.cuda.on_card(addresses[name], size):
                return False
            feeds[name] = np.frombuffer(ctypes.string_at(addresses[name], size), dtype).reshape(shapes[name])
        for name, values in zip(self.engine.outputs, self.engine.session.run(None, feeds), strict=True):
            if not self.cuda.on_card(addresses[name], values.nbytes):
                return False
            ctypes.memmove(addresses[name], np.ascontiguousarray(values).ctypes.data, values.nbytes)
        return True


class TensorRt:
    """`tensorrt`. `fail_at` names the call that fails: parse, build or deserialize."""

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = range(3)

        def __init__(self) -> None:
            pass

    class IProgressMonitor:
        def __init__(self) -> None:
            pass

    NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
    BuilderFlag = enum.Enum("BuilderFlag", ["TF32"])
    TensorIOMode = enum.Enum("TensorIOMode", ["INPUT", "OUTPUT"])
    TensorLocation = enum.Enum("TensorLocation", ["DEVICE", "HOST"])
    DataType = enum.Enum("DataType", ["FLOAT", "INT64", "HALF"])
    ExecutionContextAllocationStrategy = enum.Enum("ExecutionContextAllocationStrategy", ["STATIC", "USER_MANAGED"])

    def __init__(self, cuda: Cuda, version: str = "11.4.0.106") -> None:
        self.__version__ = version
        self.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)  # others look whether there is one
        self.cuda = cuda
        self.fail_at = ""
        self.built: list[dict[str, Any]] = []
        self.timing = b"timing of this card"
        self.on_step: Callable[[], None] = lambda: None

    def Builder(self, log: Any) -> Builder:  # noqa: N802
        return Builder(self, log)

    def OnnxParser(self, network: types.SimpleNamespace, log: Any) -> Parser:  # noqa: N802
        del log
        return Parser(self, network)

    def Runtime(self, log: Any) -> types.SimpleNamespace:  # noqa: N802
        def deserialize(serialized: bytes) -> Engine | None:
            if self.fail_at == "deserialize":
                log.log(self.ILogger.ERROR, "Serialization assertion plan->header.magicTag failed\n  and more")
                return None
            return Engine(self, json.loads(serialized))

        return types.SimpleNamespace(deserialize_cuda_engine=deserialize)


class Parser:
    def __init__(self, trt: TensorRt, network: types.SimpleNamespace) -> None:
        self.trt, self.network = trt, network
        self.num_errors = 0

    def parse_from_file(self, path: str) -> bool:
        if self.trt.fail_at == "parse":
            self.num_errors = 1
            return False
        with open(path, "rb") as file:
            self.network.onnx = file.read()
        import onnx

        model = onnx.load_model_from_string(self.network.onnx)
        graph = model.graph
        assert all(item.domain == "" and item.version in OPSETS for item in model.opset_import)
        assert {node.op_type for node in graph.node} <= set(OPERATORS.split())
        constants = {item.name for item in graph.initializer}
        constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
        assert all(node.input[1] in constants for node in graph.node if node.op_type == "ReduceSum")
        self.network.inputs = [types.SimpleNamespace(name=port.name) for port in graph.input]
        self.network.num_inputs = len(graph.input)
        self.network.get_input = self.network.inputs.__getitem__
        return True

    def get_error(self, index: int) -> types.SimpleNamespace:
        assert index == 0
        return types.SimpleNamespace(desc=lambda: "no importer for\nthis operator")


class Builder:
    def __init__(self, trt: TensorRt, log: Any) -> None:
        self.trt, self.log = trt, log
        self.timing_given: bytes | None = None

    def create_network(self, flags: int) -> types.SimpleNamespace:
        assert flags == 2, "a network that is not strongly typed"
        return types.SimpleNamespace()

    def create_builder_config(self) -> types.SimpleNamespace:
        profiles: list[dict[str, Any]] = []
        cleared: list[Any] = []

        def set_timing_cache(cache: Any, ignore_mismatch: bool) -> bool:
            assert ignore_mismatch is False
            self.timing_given = cache.content
            return cache.content in (b"", self.trt.timing)

        def add_optimization_profile(profile: Any) -> int:
            profiles.append(profile.shapes)
            return len(profiles) - 1

        def create_timing_cache(content: bytes) -> Any:
            return types.SimpleNamespace(content=content, serialize=lambda: self.trt.timing)

        return types.SimpleNamespace(
            clear_flag=cleared.append,
            cleared=cleared,
            profiles=profiles,
            progress_monitor=None,
            max_aux_streams=-1,
            create_timing_cache=create_timing_cache,
            set_timing_cache=set_timing_cache,
            add_optimization_profile=add_optimization_profile,
        )

    def create_optimization_profile(self) -> types.SimpleNamespace:
        shapes: dict[str, Any] = {}

        def set_shape(name: str, least: Any, usual: Any, greatest: Any) -> None:
            assert all(low <= mid <= high for low, mid, high in zip(least, usual, greatest, strict=True))
            shapes[name] = [list(least), list(usual), list(greatest)]

        return types.SimpleNamespace(shapes=shapes, set_shape=set_shape)

    def build_serialized_network(self, network: types.SimpleNamespace, config: types.SimpleNamespace) -> bytes | None:
        assert config.max_aux_streams == 0
        assert self.trt.BuilderFlag.TF32 in config.cleared
        monitor = config.progress_monitor
        monitor.phase_start("Building Engine", None, 2)
        monitor.phase_start("Timing", "Building Engine", 4)
        for step in range(4):
            self.trt.on_step()
            if not monitor.step_complete("Timing", step):
                monitor.phase_finish("Timing")
                monitor.phase_finish("Building Engine")
                return None
        monitor.phase_finish("Timing")
        monitor.step_complete("Building Engine", 0)
        monitor.step_complete("Building Engine", 1)
        monitor.phase_finish("Building Engine")
        if self.trt.fail_at == "build":
            self.log.log(self.trt.ILogger.ERROR, "Could not find any implementation for node {ForeignNode[step]}.")
            return None
        plan = {"onnx": network.onnx.hex(), "profiles": config.profiles}
        self.trt.built.append({**plan, "timing_given": self.timing_given})
        return json.dumps(plan).encode()
