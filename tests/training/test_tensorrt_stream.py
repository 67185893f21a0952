"""Backend `tensorrt` with the `stream` model: stand-ins for TensorRT and CUDA run its engines (fake_tensorrt.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import unils_sdk as unils
from bundles import random_bundle
from conversation import voices
from fake_tensorrt import TensorRt, pretend
from unils_sdk.cli import main as unils_main


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TensorRt:
    return pretend(monkeypatch, tmp_path / "cache")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("stream") / "plain", seed=3)


@pytest.fixture(scope="module")
def bundle(plain: Path) -> Path:
    folder = plain.parent / "graphs"
    assert unils_main(["export-onnx", str(plain), "-o", str(folder)]) == 0
    return folder


@pytest.fixture
def compiled(bundle: Path, card: TensorRt) -> TensorRt:
    assert unils_main(["compile", str(bundle), "--backend", "tensorrt", "--quiet"]) == 0
    return card


def test_frames_are_those_of_onnxruntime_over_several_wraps_of_the_rings(bundle: Path, compiled: TensorRt) -> None:
    own, other = voices(15).values()
    options = {"look_ahead": {"self": 2, "other": 1}, "seed": 5}
    made = {
        backend: unils.animate(own, other, model=unils.Model.load(bundle, backend=backend), **options).values
        for backend in ("tensorrt", "onnxruntime", "cpu")
    }
    np.testing.assert_array_equal(made["tensorrt"], made["onnxruntime"])
    np.testing.assert_allclose(made["tensorrt"], made["cpu"], rtol=0, atol=1e-4)
    # One at a time, as they were built for.
    for plan in compiled.built:
        for profile in plan["profiles"]:
            assert {bounds[which][0] for bounds in profile.values() for which in range(3)} == {1}


def test_a_frame_is_launches_of_three_captured_graphs_whoever_it_is_made_for(bundle: Path, compiled: TensorRt) -> None:
    cuda = compiled.cuda
    model = unils.Model.load(bundle, backend="tensorrt")
    assert (model.info.backend, model.info.backend_detail) == ("tensorrt", "11.4.0.106 NVIDIA Pretend 9000 fp32")
    own, other = voices(2).values()
    for seed in range(3):
        launches = cuda.launches
        assert len(unils.animate(own, other, model=model, seed=seed, look_ahead={"self": 0, "other": 0})) == 50
        assert cuda.launches - launches == 50 * 4  # two tracks are encoded
        assert len(cuda.graphs) == 3
    del model
    assert not cuda.allocated


def test_a_stream_without_graphs_gets_them_first(
    plain: Path, card: TensorRt, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(unils.BackendError, match="holds no graphs; make them with unils export-onnx"):
        unils.Model.load(plain, backend="tensorrt")
    assert unils_main(["compile", str(plain), "--backend", "tensorrt"]) == 1
    assert "-o OUT names a folder" in capsys.readouterr().err
    out = tmp_path / "out"
    assert unils_main(["compile", str(plain), "--backend", "tensorrt", "-o", str(out), "--quiet"]) == 0
    assert len(card.built) == 3
    assert unils.Model.load(out, backend="tensorrt").info.backend == "tensorrt"
    assert unils.Model.load(out).info.backend == "cpu"  # auto
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert unils_main(["compile", str(plain), "--backend", "tensorrt", "-o", str(tmp_path / "another")]) == 1
    assert "TensorRT is not installed" in capsys.readouterr().err
    assert not (tmp_path / "another").exists()


def test_products_in_16_bits_are_the_runners(bundle: Path, compiled: TensorRt) -> None:
    assert unils_main(["compile", str(bundle), "--backend", "tensorrt", "--precision", "fp16", "--quiet"]) == 0
    assert len(compiled.built) == 6
    audio = voices(3).values()
    exact, close = (
        unils.animate(*audio, model=unils.Model.load(bundle, "tensorrt", precision=precision), temperature=0).values
        for precision in ("fp32", "fp16")
    )
    difference = np.abs(exact - close)
    assert difference.max() > 0
    assert np.median(difference) < 0.02


def test_a_session_goes_on_from_a_snapshot_of_another_backend(bundle: Path, compiled: TensorRt) -> None:
    del compiled
    own, other = voices(4).values()
    models = {name: unils.Model.load(bundle, backend=name) for name in ("cpu", "tensorrt")}
    wanted = unils.animate(own, other, model=models["cpu"], look_ahead={"self": 0, "other": 0}).values
    for first, then in (("cpu", "tensorrt"), ("tensorrt", "cpu")):
        begun = unils.Session(models[first], look_ahead={"self": 0, "other": 0})
        for name, voice in (("self", own), ("other", other)):
            begun.push_audio(voice[:32000], name, 16000)
        half = begun.pull_frames().values
        on = unils.Session(models[then], look_ahead={"self": 0, "other": 0})
        on.restore(begun.snapshot())
        for name, voice in (("self", own), ("other", other)):
            on.push_audio(voice[32000:], name, 16000)
        np.testing.assert_allclose(np.concatenate([half, on.pull_frames().values]), wanted, rtol=0, atol=1e-4)
