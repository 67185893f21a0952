"""Backend `tensorrt` without TensorRT: what engines are kept by, when they are built again, shapes and precisions.

Stand-ins for TensorRT and CUDA (fake_tensorrt.py) run the engines; test_tensorrt_names.py holds every call of theirs to
the real bindings, and test_tensorrt_gpu.py runs where the real thing is.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import fake_tensorrt
import unils_sdk as unils
from fake_tensorrt import Status, TensorRt, pretend
from unils_sdk.cli import main as unils_main
from unils_sdk.tensorrt import compiler, libraries
from unils_sdk.tensorrt.bundle_graphs import BundleGraphs
from unils_sdk.tensorrt.compiler import compile_bundle
from unils_sdk.tensorrt.engine_cache import EngineCache, EngineKey, Rejected, default_root
from unils_sdk.tensorrt.libraries import Gpu
from unils_sdk.tensorrt.precision import lower_products
from unils_sdk.tensorrt.progress import Phases
from unils_sdk.tensorrt.runner import TensorRtRunner

KEY = EngineKey("a" * 64, "step", "b" * 64, "fp32", "c" * 64, "11.4.0.106", "NVIDIA Pretend 9000", "9.0")
GPU = Gpu("NVIDIA Pretend 9000", "9.0")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TensorRt:
    return pretend(monkeypatch, tmp_path / "cache")


def graph(seed: int = 0, scale: float = 1.0) -> onnx.ModelProto:
    """x (B, 6) -> y (B, 4): two products, one of them of two activations, between things that are none."""
    random = np.random.default_rng(seed)
    first = numpy_helper.from_array((scale * random.standard_normal((6, 5))).astype(np.float32), "first")
    bias = numpy_helper.from_array(random.standard_normal(5).astype(np.float32), "bias")
    third = numpy_helper.from_array(random.standard_normal((5, 4)).astype(np.float32), "third")
    nodes = [
        helper.make_node("Gemm", ["x", "first", "bias"], ["h"], "gemm"),
        helper.make_node("Softmax", ["h"], ["p"], axis=-1),
        helper.make_node("Transpose", ["p"], ["q"], perm=[1, 0]),
        helper.make_node("MatMul", ["p", "q"], ["s"]),
        helper.make_node("MatMul", ["s", "h"], ["t"]),
        helper.make_node("MatMul", ["t", "third"], ["u"]),
        helper.make_node("Add", ["u", "u"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", n]) for name, n in (("x", 6), ("y", 4))]
    made = helper.make_graph(nodes, "g", ports[:1], ports[1:], [first, bias, third])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_bundle(folder: Path, names: tuple[str, ...] = ("one", "two"), **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    entries = {}
    for seed, name in enumerate(names):
        (folder / f"{name}.onnx").write_bytes(graph(seed).SerializeToString())
        digest = hashlib.sha256((folder / f"{name}.onnx").read_bytes()).hexdigest()
        entries[name] = {
            "file": f"{name}.onnx",
            "sha256": digest,
            "inputs": {"x": ["R", 6]},
            "outputs": {"y": ["R", 4]},
        }
    description = {"family": "published", "graphs": entries} | changes
    (folder / "model.json").write_text(json.dumps(description))
    return folder


def build(folder: Path, precision: str = "fp32") -> tuple[list[compiler.Engine], list[str]]:
    """Compiles, and gives the lines that were said."""
    said: list[str] = []
    return compile_bundle(folder, precision, say=said.append), said


def run(folder: Path, name: str, x: np.ndarray, precision: str = "fp32") -> np.ndarray:
    paths = {graph.name: str(graph.path) for graph in BundleGraphs.read(folder).graphs}
    graphs = TensorRtRunner(precision).load(paths, 1)
    y = np.full((len(x), 4), np.nan, np.float32)
    graphs.run(name, [("x", "float32", x.shape, x.ctypes.data)], [("y", "float32", y.shape, y.ctypes.data)])
    return y


# --- the cache


def test_an_engine_is_kept_under_model_version_and_card(tmp_path: Path) -> None:
    cache = EngineCache("11.4.0.106", Gpu("NVIDIA GeForce RTX 4090 (x/y)", "8.9"), tmp_path)
    assert cache.read(KEY) is None
    cache.write(KEY, b"plan")
    assert cache.read(KEY) == b"plan"
    path = tmp_path / "tensorrt" / ("a" * 16) / "11.4.0.106" / "NVIDIA-GeForce-RTX-4090-x-y-sm89" / "step.fp32.engine"
    assert path.is_file()
    assert path.stat().st_mode & 0o777 == 0o600
    assert EngineCache("11.4.0.107", GPU, tmp_path).read(KEY) is None
    assert EngineCache("11.4.0.106", Gpu("NVIDIA H100", "9.0"), tmp_path).read(KEY) is None


def test_the_cache_is_in_the_folder_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UNILS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "unils"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_root() == tmp_path / "xdg" / "unils"
    monkeypatch.setenv("UNILS_CACHE", str(tmp_path / "own"))
    assert default_root() == tmp_path / "own"


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda content: content[:0], "not an engine file of this version"),
        (lambda content: b"unils-engine 2\n" + content[15:], "not an engine file of this version"),
        (lambda content: content[:17], "not an engine file"),
        (lambda content: content[:40], "its header is damaged"),
        (lambda content: content[:15] + b"\xff" * 4 + content[19:], "its header is damaged"),
        (lambda content: content[:19] + b"[" + content[20:], "its header is damaged"),
        (lambda content: content[:-3], "it is cut short: 997 of 1000 bytes"),
        (lambda content: content + b"x", "it is cut short: 1001 of 1000 bytes"),
        (lambda content: content[:-1] + b"!", "its bytes have changed"),
        (lambda content: content.replace(b"11.4", b"11.3"), r"built for tensorrt 11.3.0.106, and this is 11.4.0.106"),
        (lambda content: content.replace(b"ccc", b"cdc"), "built for profiles cdc.*, and this is ccc"),
        (lambda content: content.replace(b'"9.0"', b'"8.9"'), "built for capability 8.9, and this is 9.0"),
    ],
)
def test_an_engine_that_is_stale_or_damaged_is_never_handed_out(
    tmp_path: Path, damage: Callable[[bytes], bytes], why: str
) -> None:
    cache = EngineCache("11.4.0.106", GPU, tmp_path)
    cache.write(KEY, bytes(range(250)) * 4)
    path = cache.path(KEY)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(Rejected, match=why):
        cache.read(KEY)


def test_an_engine_that_others_may_write_to_is_not_trusted(tmp_path: Path) -> None:
    cache = EngineCache("11.4.0.106", GPU, tmp_path)
    cache.write(KEY, b"plan")
    cache.path(KEY).chmod(0o666)
    with pytest.raises(Rejected, match="others may write to it"):
        cache.read(KEY)


def test_an_engine_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = EngineCache("11.4.0.106", GPU, tmp_path)
    cache.write(KEY, b"first")

    def full(descriptor: int) -> None:
        raise OSError(28, f"No space left on device for {descriptor}")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(unils.FileError, match="No space left"):
        cache.write(KEY, b"second")
    assert cache.read(KEY) == b"first"
    assert [path.name for path in cache.path(KEY).parent.iterdir()] == ["step.fp32.engine"]


def test_a_cache_that_cannot_be_made_says_how_to_name_another(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(unils.FileError, match="UNILS_CACHE names another"):
        EngineCache("11", GPU, tmp_path / "file").write(KEY, b"plan")


def _hold(root: Path, held: Any, release: Any) -> None:
    with EngineCache("11", GPU, root).building(lambda _: None):
        held.set()
        release.wait(60)


def test_two_processes_build_for_one_card_in_turn(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held, release))
    other.start()
    try:
        assert held.wait(60)
        said: list[str] = []
        entered = threading.Event()

        def wait() -> None:
            with EngineCache("11", GPU, tmp_path).building(said.append):
                entered.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(0.3)
        with EngineCache("11", Gpu("another", "8.0"), tmp_path).building(pytest.fail):
            pass  # of another card
        release.set()
        assert entered.wait(60)
        waiting.join()
        assert said == ["another process is building engines for this card; waiting for it"]
    finally:
        release.set()
        other.join()


# --- compile


def test_engines_are_built_once(tmp_path: Path, card: TensorRt) -> None:
    folder = write_bundle(tmp_path / "bundle")
    engines, said = build(folder)
    assert [(engine.graph, engine.seconds is not None) for engine in engines] == [("one", True), ("two", True)]
    assert all(engine.path.stat().st_size == engine.bytes for engine in engines)
    assert said == []
    assert [plan["profiles"] for plan in card.built] == [[{"x": [[1, 6], [2, 6], [4, 6]]}]] * 2
    engines, said = build(folder)
    assert [engine.seconds for engine in engines] == [None, None]
    assert (len(card.built), said) == (2, [])
    build(folder, "fp16")  # beside them
    assert len(card.built) == 4
    assert [engine.seconds for engine in build(folder)[0]] == [None, None]


def test_the_same_graphs_in_another_folder_have_the_same_engines(tmp_path: Path, card: TensorRt) -> None:
    build(write_bundle(tmp_path / "here"))
    build(write_bundle(tmp_path / "there"))
    assert len(card.built) == 2
    build(write_bundle(tmp_path / "other", names=("two", "one")))  # whose graphs are others
    assert len(card.built) == 4


def test_one_line_says_why_an_engine_is_built_again(tmp_path: Path, card: TensorRt) -> None:
    folder = write_bundle(tmp_path / "bundle")
    engines, _ = build(folder)
    engines[1].path.write_bytes(engines[1].path.read_bytes()[:-10])
    engines, said = build(folder)
    assert [engine.seconds is not None for engine in engines] == [False, True]
    assert len(said) == 1
    assert said[0].startswith("two: the engine in the cache is built again: it is cut short")
    assert build(folder)[1] == []
    # Other shapes of the same graphs.
    text = (folder / "model.json").read_text()
    (folder / "model.json").write_text(text.replace('"R"', '"T"'))
    engines, said = build(folder)
    assert len(said) == 2
    assert "it was built for profiles" in said[0]
    assert len(card.built) == 5


def test_an_engine_that_tensorrt_itself_cannot_read_is_built_again(tmp_path: Path, card: TensorRt) -> None:
    folder = write_bundle(tmp_path / "bundle")
    build(folder)
    card.fail_at = "deserialize"
    with pytest.raises(unils.BackendError, match="TensorRT cannot read the engine of graph one: Serialization"):
        run(folder, "one", np.zeros((1, 6), np.float32))
    assert not card.cuda.allocated
    _, said = build(folder)
    why = "the engine in the cache is built again: TensorRT cannot read it: Serialization assertion"
    assert [line.startswith(f"{name}: {why}") for name, line in zip(("one", "two"), said, strict=True)] == [True, True]
    card.fail_at = ""
    assert build(folder)[1] == []


def test_what_was_learnt_about_kernels_serves_the_next_build(tmp_path: Path, card: TensorRt) -> None:
    build(write_bundle(tmp_path / "bundle"))
    assert [plan["timing_given"] for plan in card.built] == [b"", card.timing]
    card.timing = b"timing of a newer driver"
    card.built.clear()
    _, said = build(write_bundle(tmp_path / "bundle", names=("three",)))
    assert said == ["the timing cache is of another card or driver, or damaged: begun anew"]
    assert [plan["timing_given"] for plan in card.built] == [b""]
    assert EngineCache(card.__version__, GPU).read_timing() == card.timing


@pytest.mark.usefixtures("card")
def test_progress_is_the_builders_own(tmp_path: Path) -> None:
    told: list[tuple[str, str, float]] = []
    compile_bundle(
        write_bundle(tmp_path / "bundle", names=("one",)), say=pytest.fail, progress=lambda *facts: told.append(facts)
    )
    assert {name for name, _, _ in told} == {"one"}
    assert {phase for _, phase, _ in told} == {"Building Engine", "Timing"}
    fractions = [done for _, _, done in told]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[2], fractions[-1]) == (0.0, 0.125, 1.0)


def test_phases_nest_and_a_phase_that_ends_early_counts_as_done() -> None:
    phases = Phases()
    assert phases.start("all", None, 4) == 0.0
    assert phases.step("all", 0) == 0.25
    assert phases.start("part", "all", 2) == 0.25
    assert phases.start("piece", "part", 10) == 0.25
    assert phases.step("piece", 4) == pytest.approx(0.25 + 0.25 * 0.25)
    assert phases.finish("piece") == pytest.approx(0.25 + 0.25 * 0.5)
    assert phases.finish("part") == 0.5
    assert phases.step("nobody", 3) == 0.0
    assert phases.finish("all") == 1.0
    assert phases.start("all", None, 1) == 0.0  # a name may come again


def test_an_interrupted_build_ends_at_the_next_step_and_leaves_no_engine(tmp_path: Path, card: TensorRt) -> None:
    folder = write_bundle(tmp_path / "bundle", names=("one",))
    steps = 0

    def progress(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_bundle(folder, say=pytest.fail, progress=progress)
    assert not card.built
    assert not list((tmp_path / "cache").rglob("*.engine"))
    assert build(folder)[0][0].seconds is not None  # nothing is locked


@pytest.mark.parametrize(
    ("fail_at", "sentence"),
    [
        ("parse", "TensorRT cannot read graph one: no importer for this operator"),
        ("build", r"TensorRT cannot build graph one: Could not find any implementation for node \{Foreign"),
    ],
)
def test_what_tensorrt_refuses_is_told_in_its_words(
    tmp_path: Path, card: TensorRt, fail_at: str, sentence: str
) -> None:
    card.fail_at = fail_at
    with pytest.raises(unils.BackendError, match=sentence):
        build(write_bundle(tmp_path / "bundle"))
    assert not list((tmp_path / "cache").rglob("*.engine"))


@pytest.mark.usefixtures("card")
def test_bundles_that_cannot_be_compiled_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "bare": ({"graphs": {}}, "holds no graphs; -o OUT names a folder to write it to with graphs"),
        "int8": ({"precision": "int8"}, "import it with --precision fp32"),
        "vague": ({"graphs": {"one": {"file": "one.onnx"}}}, "does not describe its graphs"),
        "outside": (
            {"graphs": {"one": {"file": "../one.onnx", "sha256": "", "inputs": {}}}},
            "does not describe its graphs",
        ),
        "nameless": (
            {"graphs": {"one": {"file": "one.onnx", "sha256": "", "inputs": {"x": ["Q", 6]}}}},
            "does not describe its graphs (KeyError('Q'))",
        ),
    }
    for name, (changes, sentence) in cases.items():
        folder = write_bundle(tmp_path / name, **changes)
        assert unils_main(["compile", str(folder), "--backend", "tensorrt"]) == 1
        printed = capsys.readouterr().err.strip()
        assert printed.startswith("unils: error:"), printed
        assert sentence in printed
    folder = write_bundle(tmp_path / "whole")
    assert unils_main(["compile", str(folder), "--backend", "tensorrt", "-o", str(tmp_path / "out")]) == 1
    assert "holds graphs already" in capsys.readouterr().err
    with pytest.raises(unils.BundleError, match="holds no graphs; make them with unils export-onnx"):
        build(tmp_path / "bare")
    assert unils_main(["compile", str(tmp_path / "nowhere"), "--backend", "tensorrt"]) == 1
    assert "cannot read" in capsys.readouterr().err
    folder = write_bundle(tmp_path / "changed")
    (folder / "two.onnx").write_bytes(graph(7).SerializeToString())
    with pytest.raises(unils.BundleError, match=r"two\.onnx is not the file that model\.json describes"):
        build(folder)


def test_compile_says_what_is_missing_of_the_machine(
    tmp_path: Path, card: TensorRt, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(write_bundle(tmp_path / "bundle"))
    for driver, cards, why in (
        (Status.cudaErrorInsufficientDriver, 1, "it is cudaErrorInsufficientDriver"),
        (Status.cudaSuccess, 0, "the driver counts none"),
    ):
        card.cuda.driver, card.cuda.cards = driver, cards
        assert unils_main(["compile", folder, "--backend", "tensorrt"]) == 1
        assert f"there is no NVIDIA GPU that CUDA can use ({why})" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        unils_main(["compile", folder, "--backend", "cpu"])


def test_the_command_tells_where_each_engine_is(
    tmp_path: Path, card: TensorRt, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_bundle(tmp_path / "bundle")
    arguments = ["compile", str(folder), "--backend", "tensorrt", "--precision", "fp16"]
    assert unils_main(arguments) == 0
    printed = capsys.readouterr().out
    assert "one  0.0 MB, built in 0 s, " in printed
    assert str(tmp_path / "cache") in printed
    (path,) = (tmp_path / "cache").rglob("two.fp16.engine")
    path.write_bytes(b"")
    assert unils_main(arguments) == 0
    printed, noted = capsys.readouterr()
    assert "one  0.0 MB, was there, " in printed
    assert "unils: note: two: the engine in the cache is built again: it is not an engine file" in noted
    assert len(card.built) == 3


# --- precisions


def lowered(precision: str, scale: float = 1.0) -> onnx.ModelProto:
    model = graph(scale=scale)
    assert lower_products(model, precision) == 4
    onnx.checker.check_model(model, full_check=True)  # every type fits
    return model


@pytest.mark.parametrize(("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_products_take_16_bits_and_everything_else_float32(precision: str, kind: int) -> None:
    model = onnx.shape_inference.infer_shapes(lowered(precision), strict_mode=True)
    types = {item.name: item.type.tensor_type.elem_type for item in (*model.graph.value_info, *model.graph.output)}
    types |= {item.name: item.data_type for item in model.graph.initializer}
    types |= {item.name: item.type.tensor_type.elem_type for item in model.graph.input}
    for node in model.graph.node:
        wide = node.op_type not in ("MatMul", "Gemm", "Cast")
        if node.op_type != "Cast":
            names = (*node.input, *node.output)
            assert {types[name] for name in names} == {TensorProto.FLOAT if wide else kind}, node
    assert (types["x"], types["y"]) == (TensorProto.FLOAT, TensorProto.FLOAT)
    # Each tensor is cast once, however many products read it, and weights are stored in 16 bits alone.
    casts = [node.input[0] for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts))
    assert {item.name for item in model.graph.initializer} == {f"{n}.{precision}" for n in ("first", "bias", "third")}


def test_a_graph_in_16_bits_computes_nearly_the_same() -> None:
    x = np.random.default_rng(5).standard_normal((3, 6)).astype(np.float32)
    exact, half = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        for model in (graph(), lowered("fp16"))
    )
    assert 0 < np.abs(half - exact).max() < 0.02 * np.abs(exact).max()


def test_bfloat16_is_rounded_to_nearest_and_ties_to_even() -> None:
    model = graph()
    values = np.array([1.0, 1.00390625, 1.01171875, 1.004, -2.5, 3.3895314e38, 0.0], np.float32)
    weight = np.zeros((6, 5), np.float32)
    weight.flat[: len(values)] = values
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "first"))
    lower_products(model, "bf16")
    stored = next(item for item in model.graph.initializer if item.name == "first.bf16")
    bits = np.frombuffer(stored.raw_data, "<u2")[: len(values)].tolist()
    assert bits == [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0xC020, 0x7F7F, 0]


def test_a_weight_that_fp16_cannot_hold_is_refused() -> None:
    with pytest.raises(unils.BundleError, match=r"weight first reaches .*e\+0.*: compile with bf16"):
        lowered("fp16", scale=1e5)
    lowered("bf16", scale=1e5)


def test_16_bits_need_the_package_onnx(
    tmp_path: Path, card: TensorRt, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(write_bundle(tmp_path / "bundle"))
    del card
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert unils_main(["compile", folder, "--backend", "tensorrt", "--precision", "bf16"]) == 1
    assert "precision bf16 needs the package onnx" in capsys.readouterr().err


# --- the runner


def test_engines_run_with_any_shape_that_they_were_built_for(tmp_path: Path, card: TensorRt) -> None:
    folder = write_bundle(tmp_path / "bundle")
    build(folder)
    for count in (1, 3, 4):
        x = np.random.default_rng(count).standard_normal((count, 6)).astype(np.float32)
        wanted = onnxruntime.InferenceSession(str(folder / "two.onnx")).run(None, {"x": x})[0]
        np.testing.assert_array_equal(run(folder, "two", x), wanted)
    with pytest.raises(unils.BackendError, match=r"graph two was not built for these shapes: x \(5, 6\)"):
        run(folder, "two", np.zeros((5, 6), np.float32))
    assert not card.cuda.allocated  # nor after a failure


def test_memory_of_the_card_is_bound_where_it_lies_unless_it_is_not_aligned(tmp_path: Path, card: TensorRt) -> None:
    folder = write_bundle(tmp_path / "bundle")
    build(folder)
    paths = {graph.name: str(graph.path) for graph in BundleGraphs.read(folder).graphs}
    graphs: Any = TensorRtRunner().load(paths, 1)
    block = graphs.allocate(1024)
    x = np.ones((2, 6), np.float32)
    cuda = card.cuda
    for offset, copies in ((256, 0), (64, 1)):
        before = cuda.copied_bytes
        for _ in range(2):
            graphs.run(
                "one",
                [("x", "float32", x.shape, x.ctypes.data)],
                [("y", "float32", (2, 4), block + offset)],
            )
        captures = 1  # copies its inputs once more
        assert cuda.copied_bytes - before == (2 + captures) * x.nbytes + 2 * copies * 32
    y = np.empty((2, 4), np.float32)
    graphs.run("one", [("x", "float32", x.shape, x.ctypes.data)], [("y", "float32", y.shape, y.ctypes.data)])
    for offset in (256, 64):
        found = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * 8).from_address(block + offset)).reshape(2, 4)
        np.testing.assert_array_equal(found, y)
    assert len(cuda.graphs) == 2  # the address that is not aligned goes by shape, as the host's does
    graphs.release(block)
    assert len(cuda.graphs) == 1


def test_memory_that_is_released_while_a_graph_runs_is_given_back_behind_it(
    tmp_path: Path, card: TensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the garbage collector may do on the thread that runs it."""
    folder = write_bundle(tmp_path / "bundle")
    build(folder)
    paths = {graph.name: str(graph.path) for graph in BundleGraphs.read(folder).graphs}
    graphs: Any = TensorRtRunner().load(paths, 1)
    blocks = [graphs.allocate(256) for _ in range(2)]
    x = np.ones((2, 6), np.float32)
    where = [("x", "float32", x.shape, x.ctypes.data)]
    for block in blocks:
        graphs.run("one", where, [("y", "float32", (2, 4), block)])
    launch = card.cuda.cudaGraphLaunch
    seen: list[bool] = []

    def collected(*arguments: Any) -> tuple[Any, ...]:
        graphs.release(blocks[1])
        seen.append(blocks[1] in card.cuda.allocated)
        return launch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(card.cuda, "cudaGraphLaunch", collected)
        graphs.run("one", where, [("y", "float32", (2, 4), blocks[0])])
    assert seen == [True]
    assert blocks[1] not in card.cuda.allocated
    assert len(card.cuda.graphs) == 1
    graphs.run("one", where, [("y", "float32", (2, 4), blocks[0])])


def test_threads_take_turns_on_the_card(tmp_path: Path, card: TensorRt) -> None:
    folder = write_bundle(tmp_path / "bundle")
    build(folder)
    paths = {graph.name: str(graph.path) for graph in BundleGraphs.read(folder).graphs}
    graphs = TensorRtRunner().load(paths, 1)
    session = onnxruntime.InferenceSession(str(folder / "one.onnx"))
    wrong: list[int] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(50):
            x = random.standard_normal((1 + seed % 3, 6)).astype(np.float32)
            y = np.empty((len(x), 4), np.float32)
            graphs.run("one", [("x", "float32", x.shape, x.ctypes.data)], [("y", "float32", y.shape, y.ctypes.data)])
            if not np.array_equal(y, session.run(None, {"x": x})[0]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(card.cuda.graphs) == 3


def test_an_engine_with_tensors_of_another_type_is_refused(
    tmp_path: Path, card: TensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bundle(tmp_path / "bundle")
    build(folder)
    monkeypatch.setattr(fake_tensorrt.Engine, "get_tensor_dtype", lambda *_: card.DataType.HALF)
    with pytest.raises(unils.BackendError, match="tensor x of graph one is neither float32 nor int64"):
        run(folder, "one", np.zeros((1, 6), np.float32))


def test_an_engine_that_fails_as_it_runs_is_an_error(
    tmp_path: Path, card: TensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bundle(tmp_path / "bundle")
    build(folder)
    with monkeypatch.context() as broken:
        broken.setattr(fake_tensorrt.Context, "execute_async_v3", lambda *_: False)
        with pytest.raises(unils.BackendError, match="TensorRT failed in graph one: it does not say why"):
            run(folder, "one", np.zeros((1, 6), np.float32))
    with monkeypatch.context() as broken:
        broken.setattr(card.cuda, "cudaGraphLaunch", lambda *_: (Status.cudaErrorIllegalAddress,))
        with pytest.raises(unils.BackendError, match="CUDA failed: it is cudaErrorIllegalAddress"):
            run(folder, "one", np.zeros((1, 6), np.float32))


def test_the_card_is_looked_for_before_tensorrt_makes_anything(card: TensorRt, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT crashes where there is no driver."""
    card.cuda.driver = Status.cudaErrorInsufficientDriver
    for name in ("Runtime", "Builder"):
        monkeypatch.setattr(card, name, lambda *_: pytest.fail("was made"))
    with pytest.raises(unils.BackendError, match="there is no NVIDIA GPU"):
        libraries.find()
