"""`unils compile`: TensorRT engines of a bundle's graphs, for the card of this machine."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unils_sdk.errors import BackendError, BundleError, InvalidArgumentError
from unils_sdk.tensorrt import libraries
from unils_sdk.tensorrt.bundle_graphs import BundleGraph, BundleGraphs
from unils_sdk.tensorrt.engine_cache import EngineCache, EngineKey, Rejected
from unils_sdk.tensorrt.libraries import Libraries
from unils_sdk.tensorrt.precision import PRECISIONS, Precision, write_graph
from unils_sdk.tensorrt.progress import Phases

Progress = Callable[[str, str, float], None]
"""Graph, what TensorRT is doing, and how far that is, 0 to 1."""


@dataclass(frozen=True)
class Engine:
    """One engine, as `compile_bundle` left it."""

    graph: str
    path: Path
    bytes: int
    seconds: float | None
    """That its building took; None where it was there."""


def engine_key(bundle: BundleGraphs, graph: BundleGraph, precision: Precision, found: Libraries) -> EngineKey:
    """What the engine of a graph goes by on this machine."""
    return EngineKey(
        model=bundle.sha256,
        graph=graph.name,
        graph_sha256=graph.sha256,
        precision=precision,
        profiles=graph.profiles_sha256,
        tensorrt=found.version,
        gpu=found.gpu.name,
        capability=found.gpu.capability,
    )


def compile_bundle(
    folder: str | os.PathLike[str],
    precision: str = "fp32",
    *,
    say: Callable[[str], None],
    progress: Progress | None = None,
) -> list[Engine]:
    """Builds the engines of a bundle that are not in the cache, or are stale or damaged.

    Args:
        folder: a bundle with graphs.
        precision: of products of matrices: `fp32`, `fp16` or `bf16`.
        say: gets one line for each engine that is built in the place of one that cannot be used, and for each wait.
        progress: is told how far the builder is, from any thread.

    Raises:
        BackendError: TensorRT, cuda-python or a GPU is missing, or TensorRT refuses a graph.
        BundleError, FileError: the bundle has no graphs or is broken; the cache cannot be written.
    """
    bundle = BundleGraphs.read(folder)
    checked = check_precision(bundle, precision)
    found = libraries.find()
    cache = EngineCache(found.version, found.gpu)
    with cache.building(say):
        missing: list[BundleGraph] = []
        for graph in bundle.graphs:
            key = engine_key(bundle, graph, checked, found)
            try:
                engine = cache.read(key)
                if engine is None:
                    missing.append(graph)
                else:
                    _try(found.trt, engine)
            except Rejected as why:
                say(f"{graph.name}: the engine in the cache is built again: {why}")
                missing.append(graph)
        if missing:
            bundle.verify()
        seconds = {
            graph.name: _build(bundle, graph, checked, found, cache, say, progress or (lambda *_: None))
            for graph in missing
        }
    paths = {graph.name: cache.path(engine_key(bundle, graph, checked, found)) for graph in bundle.graphs}
    return [Engine(name, path, path.stat().st_size, seconds.get(name)) for name, path in paths.items()]


def _try(trt: Any, engine: bytes) -> None:
    """`Rejected` where TensorRT itself cannot read a whole engine: of a build that calls itself by the same version."""
    log = make_log(trt)
    if trt.Runtime(log).deserialize_cuda_engine(engine) is None:
        raise Rejected(f"TensorRT cannot read it: {_sentence(log.errors)}")


def check_precision(bundle: BundleGraphs, precision: str) -> Precision:
    """The precision, where TensorRT can run the bundle's graphs in it."""
    wanted = next((name for name in PRECISIONS if name == precision), None)
    if wanted is None:
        raise InvalidArgumentError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    if not bundle.graphs:
        raise BundleError(f"{bundle.folder} holds no graphs; make them with unils export-onnx")
    if bundle.precision == "int8":
        raise BundleError(
            f"{bundle.folder} holds graphs in int8, of which TensorRT runs none: import it with --precision fp32"
        )
    return wanted


def _build(
    bundle: BundleGraphs,
    graph: BundleGraph,
    precision: Precision,
    found: Libraries,
    cache: EngineCache,
    say: Callable[[str], None],
    progress: Progress,
) -> float:
    """Builds one engine into the cache; returns the seconds it took."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="unils-compile-") as temporary:
        path = write_graph(graph.path, precision, Path(temporary))
        engine, timing = _build_engine(
            found.trt, graph, path, cache.read_timing(), say, lambda phase, done: progress(graph.name, phase, done)
        )
    cache.write(engine_key(bundle, graph, precision, found), engine)
    cache.write_timing(timing)
    return time.monotonic() - began


def _build_engine(
    trt: Any,
    graph: BundleGraph,
    path: Path,
    timing: bytes,
    say: Callable[[str], None],
    progress: Callable[[str, float], None],
) -> tuple[bytes, bytes]:
    """One ONNX file -> a serialised engine, and the timing cache with what was learnt."""
    log = make_log(trt)
    builder = trt.Builder(log)
    # From TensorRT 11 on every network is; the flag does no harm there.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise BackendError(f"TensorRT cannot read graph {graph.name}: {_sentence(errors or log.errors)}")

    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # which keeps 10 bits of a float32: fp32 is fp32
    config.max_aux_streams = 0  # a session's graphs run on one stream
    monitor = _make_monitor(trt, progress)
    config.progress_monitor = monitor
    cache = config.create_timing_cache(timing)
    if cache is None or not config.set_timing_cache(cache, False):
        say("the timing cache is of another card or driver, or damaged: begun anew")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    inputs = [network.get_input(i).name for i in range(network.num_inputs)]
    for shapes in graph.input_profiles(inputs):
        profile = builder.create_optimization_profile()
        for name, (least, usual, greatest) in shapes.items():
            profile.set_shape(name, least, usual, greatest)
        if config.add_optimization_profile(profile) < 0:
            raise BackendError(f"TensorRT refuses shapes of graph {graph.name}: {_sentence(log.errors)}")
    engine = builder.build_serialized_network(network, config)
    if monitor.failure is not None:
        raise monitor.failure
    if engine is None:
        raise BackendError(f"TensorRT cannot build graph {graph.name}: {_sentence(log.errors)}")
    return bytes(engine), bytes(cache.serialize())


def make_log(trt: Any) -> Any:
    """A logger that keeps errors for a sentence: a library does not print."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(msg)

    return Log()


def _make_monitor(trt: Any, progress: Callable[[str, float], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """No exception may leave these, Ctrl-C's included: TensorRT calls them where it would end the process."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None
            self._phases = Phases()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._tell(phase_name, self._phases.start, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, self._phases.step, step)
            return self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name, self._phases.finish)

        def _tell(self, phase: str, event: Callable[..., float], *facts: Any) -> None:
            try:
                progress(phase, event(phase, *facts))
            except BaseException as failure:
                self.failure = failure  # the next step ends the build, and it is raised behind that

    return Monitor()


def _sentence(errors: Sequence[str]) -> str:
    return " ".join(errors[0].split()) if errors else "it does not say why"
