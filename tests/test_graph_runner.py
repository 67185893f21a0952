"""`OnnxRunner`: providers by name, and tensors that a graph takes in pieces. A module stands in for onnxruntime."""

from __future__ import annotations

import itertools
import sys
import threading
import time
import types
from typing import Any

import pytest

import unils_sdk as unils
from unils_sdk import doctor
from unils_sdk.graph_runner import OnnxRunner

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


class Session:
    """What is asked of an InferenceSession; `works` are the providers whose libraries load."""

    works: tuple[str, ...] = ()
    made: list[Session] = []  # noqa: RUF012

    def __init__(self, path: str, options: Any, providers: list[str]) -> None:
        self.path, self.options, self.asked = path, options, providers
        self.bound: list[tuple[Any, ...]] = []
        self.made.append(self)

    def get_providers(self) -> list[str]:
        return [name for name in self.asked if name in self.works]

    def get_inputs(self) -> list[Any]:
        return [
            types.SimpleNamespace(name=name) for name in ("style", "audio.0.0", "audio.0.1", "audio.1.0", "audio.1.1")
        ]

    def get_outputs(self) -> list[Any]:
        return [types.SimpleNamespace(name="logits")]

    def io_binding(self) -> Any:
        bind = lambda name, device, _, dtype, shape, address: self.bound.append((name, device, dtype, shape, address))  # noqa: E731
        return types.SimpleNamespace(bind_input=bind, bind_output=bind)

    def run_with_iobinding(self, binding: Any) -> None:
        pass


class Options:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """onnxruntime with every provider, all of which work."""
    module = types.SimpleNamespace(
        __version__="9.9",
        get_available_providers=lambda: [TENSORRT, CUDA, CPU],
        InferenceSession=Session,
        SessionOptions=Options,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    monkeypatch.setattr(Session, "works", (TENSORRT, CUDA, CPU))
    monkeypatch.setattr(Session, "made", [])
    return module


@pytest.mark.parametrize(
    ("backend", "providers"),
    [
        ("auto", [CPU]),
        ("onnxruntime", [CPU]),
        ("onnxruntime:cpu", [CPU]),
        ("onnxruntime:cuda", [CUDA, CPU]),
        ("onnxruntime:tensorrt", [TENSORRT, CUDA, CPU]),
    ],
)
@pytest.mark.usefixtures("runtime")
def test_a_device_is_its_providers(backend: str, providers: list[str]) -> None:
    name, runner = OnnxRunner.named(backend)
    assert name == backend.partition(":")[0]
    graphs = runner.load({"step": "step.onnx", "prefill": "prefill.onnx"}, threads=3)
    assert [(session.path, session.asked) for session in Session.made] == [
        ("step.onnx", providers),
        ("prefill.onnx", providers),
    ]
    assert graphs.detail == f"9.9 {providers[0]}"
    assert {session.options.intra_op_num_threads for session in Session.made} == {3}


def test_a_provider_that_is_not_there_says_what_to_install(runtime: types.SimpleNamespace) -> None:
    runtime.get_available_providers = lambda: [CPU]
    for device, provider in (("cuda", CUDA), ("tensorrt", TENSORRT)):
        with pytest.raises(RuntimeError, match=rf"9\.9 comes without {provider} .*install onnxruntime-gpu"):
            OnnxRunner(device).load({"step": "step.onnx"}, threads=1)
    assert not Session.made


@pytest.mark.usefixtures("runtime")
def test_a_provider_that_does_not_work_is_no_silent_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "works", (CPU,))
    with pytest.raises(RuntimeError, match=f"{CUDA} does not work here, .* run step.onnx on {CPU}"):
        OnnxRunner("cuda").load({"step": "step.onnx"}, threads=1)


def test_doctor_lists_the_devices_and_says_what_was_never_tried(
    runtime: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "9.9" if name == "onnxruntime-gpu" else None)
    devices = "onnxruntime, onnxruntime:cuda, onnxruntime:tensorrt"
    found = doctor._backend("onnxruntime", 1, "")
    assert found.ok
    assert found.detail.startswith(f"9.9, runs bundles that hold graphs: {devices}; cuda and tensorrt have never been")
    runtime.get_available_providers = lambda: [CPU]
    assert doctor._backend("onnxruntime", 1, "").detail.endswith("hold graphs: onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert doctor._backend("onnxruntime", 1, "").ok is False
    monkeypatch.setattr(doctor, "_version", lambda _: None)
    assert "pip install" in doctor._backend("onnxruntime", 1, "").detail


def test_devices_that_there_are_not_are_refused_by_name() -> None:
    for backend in ("onnxruntime:gpu", "onnxruntime:", "onnxruntime:cuda:0"):
        with pytest.raises(
            unils.InvalidArgumentError, match="it is onnxruntime, or onnxruntime:cpu or onnxruntime:cuda"
        ):
            unils.Model.load(backend=backend)
    with pytest.raises(unils.BackendError, match="cpu:cuda"):
        unils.Model.load(backend="cpu:cuda")


@pytest.mark.usefixtures("runtime")
def test_a_tensor_that_a_graph_takes_in_pieces_is_bound_where_it_lies() -> None:
    graphs = OnnxRunner().load({"step": "step.onnx"}, threads=1)
    inputs = [("style", "float32", (1, 2), 64), ("audio", "float32", (2, 2, 3, 5), 1000)]
    graphs.run("step", inputs, [("logits", "int64", (4,), 8)])
    bound = [(name, str(dtype), shape, address) for name, _, dtype, shape, address in Session.made[0].bound]
    assert bound == [
        ("style", "float32", (1, 2), 64),
        ("audio.0.0", "float32", (3, 5), 1000),
        ("audio.0.1", "float32", (3, 5), 1060),
        ("audio.1.0", "float32", (3, 5), 1120),
        ("audio.1.1", "float32", (3, 5), 1180),
        ("logits", "int64", (4,), 8),
    ]


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(("threads", "shapes"), [(1, [(2, 4)]), (2, [(1, 4), (1, 4)])])
def test_two_tracks_are_encoded_side_by_side_where_there_are_threads(
    threads: int, shapes: list[tuple[int, int]]
) -> None:
    graphs = OnnxRunner().load({"audio_encoder": "audio_encoder.onnx"}, threads)
    graphs.run("audio_encoder", [("waveform", "float32", (2, 4), 100)], [("features", "float32", (2, 3, 5), 1000)])
    bound = sorted((name, shape, address) for name, _, _, shape, address in Session.made[0].bound)
    assert [shape for name, shape, _ in bound if name == "waveform"] == shapes
    assert [address for name, _, address in bound if name == "waveform"] == [100, 116][: len(shapes)]
    assert [address for name, _, address in bound if name == "features"] == [1000, 1060][: len(shapes)]


@pytest.mark.usefixtures("runtime")
def test_a_track_that_fails_is_told_when_the_other_one_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, done = itertools.count(), threading.Event()

    def run(session: Session, binding: Any) -> None:
        del session, binding
        if next(turns) == 0:
            raise OSError("no more room\nat all")
        time.sleep(0.05)
        done.set()

    monkeypatch.setattr(Session, "run_with_iobinding", run)
    graphs = OnnxRunner().load({"audio_encoder": "audio_encoder.onnx"}, threads=2)
    with pytest.raises(RuntimeError, match="^no more room$"):
        graphs.run("audio_encoder", [("waveform", "float32", (2, 4), 100)], [("features", "float32", (2, 3, 5), 1000)])
    assert done.is_set()
