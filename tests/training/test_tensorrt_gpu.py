"""Backend `tensorrt` with TensorRT itself: held to ONNX Runtime wherever a GPU and TensorRT are, skipped elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from published_models import SCALES, WINDOW_FRAMES, published_bundle, voices

import unils_sdk as unils
from unils_sdk.cli import main as unils_main
from unils_sdk.graph_runner import OnnxRunner
from unils_sdk.tensorrt import libraries
from unils_sdk.tensorrt.bundle_graphs import BundleGraphs
from unils_sdk.tensorrt.compiler import compile_bundle
from unils_sdk.tensorrt.engine_cache import EngineCache
from unils_sdk.tensorrt.runner import TensorRtRunner

try:
    libraries.find()
except unils.BackendError as missing:
    pytest.skip(str(missing), allow_module_level=True)

Arrays = dict[str, npt.NDArray[Any]]

# Largest difference from ONNX Runtime, as a part of the largest value of a tensor.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("UNILS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = published_bundle(tmp_path_factory.mktemp("tensorrt") / "bundle")
    for precision in TOLERANCES:
        engines = compile_bundle(folder, precision, say=pytest.fail)
        assert all(engine.path.is_relative_to(cache) for engine in engines)
    return folder


def shapes(sizes: dict[str, int], named: dict[str, list[Any]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(sizes.get(axis, axis) for axis in shape) for name, shape in named.items()}


def calls(description: dict[str, Any], graph: str) -> Iterator[tuple[Arrays, dict[str, tuple[int, ...]]]]:
    """Inputs, and shapes of the outputs, of every kind of call that the engine makes of a graph."""
    random = np.random.default_rng(0)
    sizes = [{"T": 1}, {"T": 2}] if graph == "audio_encoder" else [{"B": 1}, {"B": 2}]
    if graph in ("prefill", "step"):
        sizes = [{"R": 1}, {"R": 2}, {"R": 4}]
    if graph == "step":
        cached = [2 * WINDOW_FRAMES + sum(SCALES[:i]) for i in range(len(SCALES))]
        scales = [{"n": n, "m": m, "level": i} for i, (n, m) in enumerate(zip(SCALES, cached, strict=True))]
        sizes = [rows | scale for rows in sizes for scale in scales]
    entry = description["graphs"][graph]
    for size in sizes:
        inputs: Arrays = {
            name: np.array([size["level"]]) if name == "level" else random.standard_normal(shape).astype(np.float32)
            for name, shape in shapes(size, entry["inputs"]).items()
        }
        yield inputs, shapes(size, entry["outputs"])


def run(graphs: Any, graph: str, inputs: Arrays, outputs: dict[str, tuple[int, ...]]) -> Arrays:
    results: Arrays = {name: np.full(shape, np.nan, np.float32) for name, shape in outputs.items()}

    def tensors(arrays: Arrays) -> list[tuple[str, str, tuple[int, ...], int]]:
        return [(name, str(value.dtype), value.shape, value.ctypes.data) for name, value in arrays.items()]

    graphs.run(graph, tensors(inputs), tensors(results))
    return results


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("graph", ["audio_encoder", "prefill", "step", "codec_encode", "codec_decode"])
def test_engines_agree_with_onnxruntime(bundle: Path, graph: str, precision: str) -> None:
    description = json.loads((bundle / "model.json").read_text())
    paths = {item.name: str(item.path) for item in BundleGraphs.read(bundle).graphs}
    ours, reference = TensorRtRunner(precision).load(paths, 1), OnnxRunner().load(paths, 1)
    for inputs, outputs in calls(description, graph):
        wanted = run(reference, graph, inputs, outputs)
        for _ in range(2):  # as it is captured, and as it is replayed
            found = run(ours, graph, inputs, outputs)
            for name, values in wanted.items():
                limit = TOLERANCES[precision] * np.abs(values).max()
                np.testing.assert_allclose(found[name], values, rtol=0, atol=limit, err_msg=f"{graph} {name}")


def frames(bundle: Path, backend: str, **options: Any) -> npt.NDArray[np.float32]:
    return unils.animate(*voices(5), model=unils.Model.load(bundle, backend=backend), temperature=0, **options).values


@pytest.mark.parametrize("options", [{}, {"mode": "rolling", "hop_frames": 5}, {"cfg_scale": 1.0}])
def test_a_conversation_looks_as_with_onnxruntime(bundle: Path, options: dict[str, Any]) -> None:
    found, wanted = (frames(bundle, backend, **options) for backend in ("tensorrt", "onnxruntime"))
    assert found.shape == wanted.shape
    # A logit that is all but 0 may fall on either side; that moves some frames, not a conversation.
    assert np.median(np.abs(found - wanted)) < 1e-4
    assert np.mean(np.abs(found - wanted).max(axis=-1) < 1e-2) > 0.9


def test_a_stream_looks_as_on_the_cpu(tmp_path: Path) -> None:
    folder = tmp_path / "graphs"
    assert unils_main(["compile", "--backend", "tensorrt", "-o", str(folder), "--quiet"]) == 0
    found, wanted = (frames(folder, backend) for backend in ("tensorrt", "cpu"))
    assert found.shape == wanted.shape
    assert np.median(np.abs(found - wanted)) < 1e-4
    assert np.mean(np.abs(found - wanted).max(axis=-1) < 1e-2) > 0.9


def test_the_same_conversation_has_the_same_frames(bundle: Path) -> None:
    np.testing.assert_array_equal(frames(bundle, "tensorrt"), frames(bundle, "tensorrt"))


def test_auto_takes_the_engines(bundle: Path) -> None:
    info = unils.Model.load(bundle).info
    assert (info.backend, info.backend_detail.split()[-1]) == ("tensorrt", "fp32")


def test_the_host_reads_nothing_of_the_cards_memory(bundle: Path) -> None:
    """Memory that is allocated is the card's: a graph reads there what another one wrote there."""
    description = json.loads((bundle / "model.json").read_text())
    paths = {item.name: str(item.path) for item in BundleGraphs.read(bundle).graphs}
    graphs: Any = TensorRtRunner().load(paths, 1)
    inputs, outputs = next(calls(description, "codec_encode"))
    wanted = run(graphs, "codec_encode", inputs, outputs)["z"]
    address = graphs.allocate(wanted.nbytes)
    motion = inputs["motion"]
    where = [("motion", "float32", motion.shape, motion.ctypes.data)]
    graphs.run("codec_encode", where, [("z", "float32", wanted.shape, address)])
    back = np.empty_like(wanted)
    found = libraries.find()
    kind = found.cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
    libraries.checked(found.cudart, found.cudart.cudaMemcpy(back.ctypes.data, address, back.nbytes, kind))
    np.testing.assert_array_equal(back, wanted)
    decoded = run(graphs, "codec_decode", {"latent": wanted}, {"motion": motion.shape})["motion"]
    again = np.empty_like(decoded)
    graphs.run(
        "codec_decode",
        [("latent", "float32", wanted.shape, address)],
        [("motion", "float32", again.shape, again.ctypes.data)],
    )
    np.testing.assert_array_equal(again, decoded)
    graphs.release(address)


def test_an_engine_that_is_damaged_is_built_again(bundle: Path) -> None:
    found = libraries.find()
    cache = EngineCache(found.version, found.gpu)
    assert cache.read_timing()
    (engine, *_) = compile_bundle(bundle, say=pytest.fail)
    content = bytearray(engine.path.read_bytes())
    content[-1] ^= 1
    engine.path.write_bytes(content)
    with pytest.raises(unils.BackendError, match="its bytes have changed"):
        unils.Model.load(bundle, backend="tensorrt")
    said: list[str] = []
    compile_bundle(bundle, say=said.append)
    assert len(said) == 1
    assert unils.Model.load(bundle, backend="tensorrt").info.backend == "tensorrt"
