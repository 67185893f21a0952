"""Backend `tensorrt` with a real bundle and the whole native engine; stand-ins for TensorRT and CUDA run the engines.

What only a card can tell (what TensorRT builds, and how fast it is) is in test_tensorrt_gpu.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from published_models import published_bundle, voices

import unils_sdk as unils
from fake_tensorrt import Status, TensorRt, pretend
from unils_sdk.cli import main as unils_main

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_bundle(tmp_path_factory.mktemp("tensorrt") / "bundle")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TensorRt:
    return pretend(monkeypatch, tmp_path / "cache")


@pytest.fixture
def compiled(bundle: Path, card: TensorRt) -> TensorRt:
    assert unils_main(["compile", str(bundle), "--backend", "tensorrt", "--quiet"]) == 0
    return card


def test_a_step_has_a_profile_for_each_scale(compiled: TensorRt) -> None:
    assert len(compiled.built) == 5
    step = next(plan["profiles"] for plan in compiled.built if "latents" in plan["profiles"][0])
    cached = [100, 101, 106, 131]
    assert [profile["latents"] for profile in step] == [
        [[1, tokens, 8], [2, tokens, 8], [4, tokens, 8]] for tokens in (1, 5, 25, 50)
    ]
    assert [profile["cache"][1] for profile in step] == [[tokens, 2, 2, 2, 2, 16] for tokens in cached]
    # A piece of `audio`, as the file has it.
    assert step[0]["audio.1.0.1"] == [[rows, 2, 99, 16] for rows in (1, 2, 4)]
    assert step[0]["level"] == [[1], [1], [1]]
    (encoder,) = next(plan["profiles"] for plan in compiled.built if "waveform" in plan["profiles"][0])
    assert encoder == {"waveform": [[1, 32000], [2, 32000], [2, 32000]]}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "rolling", "hop_frames": 5, "temperature": 0},
        {"faces": 2, "cfg_scale": 1.5},
        {"cfg_scale": 1.0, "seed": 3},
    ],
)
def test_frames_are_those_of_onnxruntime(bundle: Path, compiled: TensorRt, options: dict[str, object]) -> None:
    own, other = voices(5)

    def frames(backend: str) -> Floats:
        model = unils.Model.load(bundle, backend=backend)
        assert model.info.backend == backend
        session = unils.Session(model, **options)  # type: ignore[arg-type]
        session.push_audio(own, "self", 16000)
        session.push_audio(other, "other", 16000)
        session.finish()
        values = session.pull_frames().values
        if backend == "tensorrt":
            assert model.info.backend_detail == "11.4.0.106 NVIDIA Pretend 9000 fp32"
        return values

    np.testing.assert_array_equal(frames("tensorrt"), frames("onnxruntime"))
    assert compiled.cuda.launches > 0


def test_keys_and_values_never_leave_the_card(bundle: Path, compiled: TensorRt) -> None:
    """Of a window: audio, features, latents, logits and motion are copied; caches of megabytes are not."""
    cuda = compiled.cuda
    model = unils.Model.load(bundle, backend="tensorrt")
    session = unils.Session(model)
    own, other = voices(8)
    session.push_audio(own, "self", 16000)
    session.push_audio(other, "other", 16000)
    session.pull_frames(50)
    copied, graphs = cuda.copied_bytes, len(cuda.graphs)
    assert len(session.pull_frames(50)) == 50
    once = cuda.copied_bytes - copied
    cache_bytes = 4 * (100 + 81) * 2 * 2 * 2 * 32
    audio_bytes = 4 * 2 * 2 * 2 * 2 * 99 * 32
    assert session.stats.session_bytes > cache_bytes + audio_bytes
    features = 4 * 99 * 24
    tokens = 81 * 2
    others = 2 * 128000 + 2 * features + 4 * features + 3 * 50 * 60 * 4 + 10 * 50 * 8 * 4 + tokens * (8 + 16 + 16) * 4
    assert once < others < once + cache_bytes  # so not even once are they copied
    # The same window again, at the same addresses, is nothing but launches of what was captured.
    assert len(session.pull_frames(50)) == 50
    assert len(cuda.graphs) == graphs + 1  # `codec_encode`, which the first window had no use for


def test_what_a_session_had_of_the_card_is_given_back(bundle: Path, compiled: TensorRt) -> None:
    cuda = compiled.cuda
    model = unils.Model.load(bundle, backend="tensorrt")
    own, other = voices(2)
    wanted = unils.animate(own, other, model=model).values  # buffers and activations stay with the model
    blocks, graphs = len(cuda.allocated), len(cuda.graphs)
    with_session = unils.Session(model)
    assert len(cuda.allocated) == blocks + 2
    with_session.push_audio(own, "self", 16000)
    with_session.push_audio(other, "other", 16000)
    np.testing.assert_array_equal(with_session.pull_frames().values, wanted)
    # What touches no keys or values (the encoder and the codec) was captured once for all sessions.
    assert len(cuda.graphs) == graphs + 5
    del with_session
    assert (len(cuda.allocated), len(cuda.graphs)) == (blocks, graphs)
    del model
    assert (len(cuda.allocated), len(cuda.graphs), len(cuda.streams)) == (0, 0, 0)


def test_a_card_that_is_full_is_an_error_of_the_session_and_the_model_goes_on(bundle: Path, compiled: TensorRt) -> None:
    model = unils.Model.load(bundle, backend="tensorrt")
    compiled.cuda.full_at = 100_000
    with pytest.raises(unils.BackendError, match="no memory for a session: CUDA failed: it is cudaErrorMemoryAlloc"):
        unils.Session(model)
    compiled.cuda.full_at = None
    assert len(unils.animate(*voices(2), model=model)) == 50


def test_by_name_each_thing_that_is_missing_is_said_in_turn(
    bundle: Path, card: TensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal() -> str:
        with pytest.raises(unils.BackendError) as refused:
            unils.Model.load(bundle, backend="tensorrt")
        return str(refused.value)

    why = "graph audio_encoder has no engine for TensorRT 11.4.0.106 on NVIDIA Pretend 9000"
    assert f"{why}: run unils compile {bundle} --backend tensorrt --precision fp32" in refusal()
    card.cuda.driver = Status.cudaErrorInsufficientDriver
    assert "no NVIDIA GPU that CUDA can use" in refusal()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert "cuda-python is not installed" in refusal()
    card.__version__ = "10.7.0"
    assert "TensorRT 10.7.0 is installed and 10.8 or newer needed" in refusal()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "TensorRT is not installed" in refusal()
    assert "pip install 'unils-sdk[tensorrt]'" in refusal()


def test_auto_takes_engines_of_the_precision_asked_for(bundle: Path, compiled: TensorRt) -> None:
    del compiled
    with pytest.raises(unils.InvalidArgumentError, match="precision of family published is that of its graphs"):
        unils.Model.load(bundle, precision="bf16")
    assert unils_main(["compile", str(bundle), "--backend", "tensorrt", "--precision", "fp16", "--quiet"]) == 0
    assert unils.Model.load(bundle, precision="fp16").info.backend_detail.endswith("fp16")


def test_auto_takes_engines_that_there_are_and_else_says_why_not(
    bundle: Path, card: TensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = unils.Model.load(bundle).info
    assert info.backend == "onnxruntime"
    assert f"; not tensorrt: no engines of this bundle: unils compile {bundle} makes them" in info.backend_detail
    assert unils_main(["compile", str(bundle), "--backend", "tensorrt", "--quiet"]) == 0
    assert unils.Model.load(bundle).info.backend == "tensorrt"
    card.fail_at = "deserialize"
    info = unils.Model.load(bundle).info
    assert info.backend == "onnxruntime"
    why = "TensorRT cannot read the engine of graph audio_encoder: Serialization assertion"
    assert f"; not tensorrt: {why}" in info.backend_detail
    card.cuda.driver = Status.cudaErrorInsufficientDriver
    assert "; not tensorrt: there is no NVIDIA GPU" in unils.Model.load(bundle).info.backend_detail
    monkeypatch.delitem(sys.modules, "tensorrt")  # not installed: nobody expects it
    info = unils.Model.load(bundle).info
    assert info.backend == "onnxruntime"
    assert "tensorrt" not in info.backend_detail
    assert len(unils.animate(*voices(2), model=unils.Model.load(bundle))) == 50


def test_commands_build_what_is_missing_and_say_so(
    bundle: Path, card: TensorRt, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import wave

    with wave.open(str(tmp_path / "voice.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((voices(2)[0] * 30000).astype("<i2").tobytes())
    command = ["animate", str(tmp_path / "voice.wav"), "-o", str(tmp_path / "frames.npz"), "--model", str(bundle)]
    for precision in ("fp32", "fp16"):
        for first in (True, False):
            built = len(card.built)
            assert unils_main([*command, "--backend", "tensorrt", "--precision", precision, "--quiet"]) == 0
            notes = capsys.readouterr().err
            assert ("note: step: engine built in" in notes) == first
            assert len(card.built) == built + 5 * first


def test_frames_in_16_bits_are_close(bundle: Path, compiled: TensorRt) -> None:
    assert unils_main(["compile", str(bundle), "--backend", "tensorrt", "--precision", "fp16", "--quiet"]) == 0
    assert len(compiled.built) == 10
    audio = voices(2)
    exact, close = (
        unils.animate(*audio, model=unils.Model.load(bundle, "tensorrt", precision=precision), temperature=0).values
        for precision in ("fp32", "fp16")
    )
    difference = np.abs(exact - close)
    assert difference.max() > 0
    assert np.median(difference) < 0.02


def test_int8_graphs_are_refused_with_what_to_do(bundle: Path, card: TensorRt, tmp_path: Path) -> None:
    copy = tmp_path / "int8"
    copy.mkdir()
    info = json.loads((bundle / "model.json").read_text()) | {"precision": "int8"}
    (copy / "model.json").write_text(json.dumps(info))
    for file in bundle.iterdir():
        if file.name != "model.json":
            (copy / file.name).symlink_to(file)
    assert not card.built
    with pytest.raises(unils.BackendError, match="int8, of which TensorRT runs none: import it with --precision fp32"):
        unils.Model.load(copy, backend="tensorrt")
    assert unils.Model.load(copy).info.backend == "onnxruntime"
