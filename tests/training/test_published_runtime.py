"""Bundles of family `published`, imported or exported, and the native engine that runs them through ONNX Runtime."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file
from scipy.signal import savgol_filter

import unils_sdk as unils
from unils_sdk import _core
from unils_sdk.cli import main as unils_main
from unils_sdk.graph_runner import LoadedGraphs, OnnxRunner, Tensor
from unils_training.cli import main as train_main
from unils_training.config import (
    DefaultsConfig,
    PublishedAudioEncoderConfig,
    PublishedCodecConfig,
    PublishedConfig,
    load_config,
)
from unils_training.export.published import trained_model, write_bundle
from unils_training.models.published.audio_encoder import AudioEncoder
from unils_training.models.published.model import PublishedModel, Sampling
from unils_training.rigs import RIGS

pytest.importorskip("onnxruntime")

SHARED = Path(os.environ.get("UNILS_SHARED", Path(__file__).parents[2] / ".." / "shared"))
RELEASED = SHARED / "fixtures" / "published_unils_tiny"
CASES = {
    "nostyle_cfg1.5": {"cfg_scale": 1.5},
    "style_cfg1.5": {"cfg_scale": 1.5, "style": True},
    "style_cfg1.0": {"cfg_scale": 1.0, "style": True},
}
Floats = npt.NDArray[np.float32]


class Recorder:
    """ONNX Runtime, remembering what went in and out of every graph."""

    name = "onnxruntime"

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Floats], dict[str, Floats]]] = []
        self.detail = "recorded"
        self._graphs: LoadedGraphs | None = None
        self.fail_at: str | None = None
        self.failure: Exception = OSError("the accelerator is on fire")

    def load(self, paths: Mapping[str, str], threads: int) -> Recorder:
        self._graphs = OnnxRunner().load(paths, threads)
        return self

    def run(self, graph: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        assert self._graphs is not None
        if graph == self.fail_at:
            raise self.failure
        self._graphs.run(graph, inputs, outputs)
        self.calls.append((graph, _copies(inputs), _copies(outputs)))

    def outputs(self, graph: str, name: str) -> list[Floats]:
        return [outputs[name] for called, _, outputs in self.calls if called == graph]

    def inputs(self, graph: str, name: str) -> list[Floats]:
        return [inputs[name] for called, inputs, _ in self.calls if called == graph]


def _copies(tensors: Sequence[Tensor]) -> dict[str, Floats]:
    copies = {}
    for name, dtype, shape, address in tensors:
        kind = np.dtype(dtype)
        raw = ctypes.string_at(address, int(np.prod(shape)) * kind.itemsize)
        copies[name] = np.frombuffer(raw, kind).reshape(shape)
    return copies


class _Unspeakable(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise ValueError


def recorded(path: Path) -> tuple[unils.Model, Recorder]:
    recorder = Recorder()
    return unils.Model(_core.Model(os.fsencode(path), "auto", 1, recorder), str(path)), recorder


def guided_logits(recorder: Recorder, cfg_scale: float, scales: int) -> Floats:
    """(windows, N, d, 2), from what the graph `step` gave for each scale."""
    windows = []
    steps = recorder.outputs("step", "logits")
    for begin in range(0, len(steps), scales):
        logits = np.concatenate(steps[begin : begin + scales], axis=1)
        both = len(logits) == 2
        windows.append(cfg_scale * logits[0] + (1 - cfg_scale) * logits[1] if both else logits[0])
    return np.stack(windows)


# --- the released code's own numbers


needs_fixture = pytest.mark.skipif(not RELEASED.is_dir(), reason=f"no fixture of the released model at {RELEASED}")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "bundle"
    arguments = ["import", str(RELEASED / "iter_1.pt"), "--audio-encoder", str(RELEASED / "wav2vec2")]
    assert unils_main([*arguments, "-o", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(RELEASED / "expected.safetensors")


@needs_fixture
@pytest.mark.parametrize("case", CASES)
def test_an_imported_checkpoint_moves_as_the_released_code_does(
    released: Path, expected: dict[str, torch.Tensor], case: str
) -> None:
    model, recorder = recorded(released)
    own, other = expected["audio"][0].numpy()
    style = expected["style_motion"][0, 0].numpy() if CASES[case].get("style") else None
    cfg_scale = float(CASES[case]["cfg_scale"])
    frames = unils.animate(own, other, model=model, temperature=0, cfg_scale=cfg_scale, style=style)
    np.testing.assert_allclose(frames.values, expected[f"{case}.motion"].numpy(), rtol=0, atol=1e-4)

    logits, bits = expected[f"{case}.logits"].numpy(), expected[f"{case}.bits"].numpy() > 0
    ours = guided_logits(recorder, cfg_scale, scales=5)
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(ours[..., 1] > ours[..., 0], bits)
    # The latents that were decoded are those of the released bits, so the engine drew these bits.
    codec = PublishedModel.from_checkpoint(RELEASED / "iter_1.pt", RELEASED / "wav2vec2").codec
    latents = codec.latents(torch.from_numpy(bits))[-1].numpy()
    np.testing.assert_allclose(np.concatenate(recorder.inputs("codec_decode", "latent")), latents, rtol=0, atol=1e-5)


@needs_fixture
def test_smoothed_motion_is_that_of_the_released_code(released: Path, expected: dict[str, torch.Tensor]) -> None:
    own, other = expected["audio"][0].numpy()
    style = expected["style_motion"][0, 0].numpy()
    options = {"temperature": 0, "cfg_scale": 1.5, "style": style, "smoothing": True}
    frames = unils.animate(own, other, model=unils.Model.load(released), **options)
    np.testing.assert_allclose(frames.values, expected["style_cfg1.5.motion_savgol"].numpy(), rtol=0, atol=1e-5)


@needs_fixture
def test_audio_features_and_style_tokens_are_the_released_ones(
    released: Path, expected: dict[str, torch.Tensor]
) -> None:
    model, recorder = recorded(released)
    own, other = expected["audio"][0].numpy()
    unils.animate(own[:64000], other[:64000], model=model, style=expected["style_motion"][0, 0].numpy())
    features = recorder.outputs("audio_encoder", "features")[0][0]
    np.testing.assert_allclose(features, expected["audio_feat_self_chunk0"].numpy(), rtol=0, atol=1e-3)
    codec = PublishedModel.from_checkpoint(RELEASED / "iter_1.pt", RELEASED / "wav2vec2").codec
    style = codec.latents(expected["codec_bits_of_style"][None] > 0)[-1][0].numpy()
    np.testing.assert_allclose(recorder.inputs("prefill", "style")[0][0], style, rtol=0, atol=1e-5)


@needs_fixture
def test_the_bundle_says_where_it_comes_from_and_what_it_holds(released: Path) -> None:
    info = json.loads((released / "model.json").read_text())
    assert info["family"] == "published"
    assert info["rig"] == "flame"
    assert info["provenance"]["checkpoint"]["file"] == "iter_1.pt"
    digest = hashlib.sha256((RELEASED / "iter_1.pt").read_bytes()).hexdigest()
    assert info["provenance"]["checkpoint"]["sha256"] == digest
    assert "CC-BY-NC" in info["licence"]
    for graph in info["graphs"].values():
        assert hashlib.sha256((released / graph["file"]).read_bytes()).hexdigest() == graph["sha256"]
    model = unils.Model.load(released)
    assert (model.info.backend, model.info.window_frames, len(model.info.channels)) == ("onnxruntime", 100, 108)
    assert model.info.defaults.top_p == pytest.approx(0.97)


def _import(checkpoint: Path, encoder: Path, output: Path) -> int:
    return unils_main(["import", str(checkpoint), "--audio-encoder", str(encoder), "-o", str(output)])


@needs_fixture
def test_what_is_no_released_checkpoint_is_refused_by_name_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (RELEASED / "iter_1.pt").read_bytes()
    stored = torch.load(RELEASED / "iter_1.pt", weights_only=True)
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.pt")
    wrong = {**stored["model"], "logits_head.1.weight": torch.zeros(3, 4)}
    torch.save({**stored, "model": wrong}, tmp_path / "shape.pt")
    fewer = {name: value for name, value in stored["model"].items() if name != "base_codec.decoder.out_mapping.bias"}
    torch.save({**stored, "model": fewer}, tmp_path / "key.pt")
    cases = {
        "cut.pt": "cut.pt",
        "foreign.pt": "'model'",
        "shape.pt": "logits_head.1.weight has the shape (3, 4)",
        "key.pt": "base_codec.decoder.out_mapping.bias is missing",
        "absent.pt": "absent.pt",
    }
    capsys.readouterr()
    for name, sentence in cases.items():
        assert _import(tmp_path / name, RELEASED / "wav2vec2", tmp_path / "bundle") == 1, name
        printed = capsys.readouterr().err.strip().splitlines()[-1]
        assert printed.startswith("unils: error:"), name
        assert sentence in printed, name
    assert _import(RELEASED / "iter_1.pt", tmp_path / "nowhere", tmp_path / "bundle") == 1
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


# --- models of other sizes


def published(sizes: PublishedConfig, seed: int = 0) -> PublishedModel:
    """A random model whose bits follow audio, style and the window before."""
    torch.manual_seed(seed)
    model = PublishedModel(sizes, RIGS[sizes.rig], AudioEncoder.from_config(sizes.audio_encoder)).eval()
    with torch.no_grad():
        model.codec.motion_mean.normal_(0.3, 0.1)
        model.codec.motion_std.uniform_(0.05, 0.2)
        for name, parameter in model.generator.named_parameters():
            if parameter.dim() == 2 and "norm" not in name:
                parameter.normal_(0.0, 1.5 * parameter.shape[1] ** -0.5)
        model.generator.logits_head[1].weight.mul_(0.5)
    return model


ENCODER = PublishedAudioEncoderConfig(width=24, depth=1, heads=3, feed_forward=40, conv_width=8, position_groups=2)
SIZES = {
    "small": PublishedConfig(
        rig="arkit",
        width=42,
        heads=3,
        depth=3,
        codec=PublishedCodecConfig(width=30, heads=5, depth=1, bits=11, scales=(1, 25, 50, 100)),
        audio_encoder=ENCODER,
    ),
    "short window, one mixed cross-attention": PublishedConfig(
        rig="flame",
        window_frames=36,
        width=20,
        heads=1,
        depth=1,
        cross_attention="mixed",
        codec=PublishedCodecConfig(width=12, heads=1, depth=2, bits=32, scales=(2, 7, 36)),
        audio_encoder=ENCODER,
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[PublishedModel, Path]]:
    made = {}
    for name, sizes in SIZES.items():
        folder = tmp_path_factory.mktemp("published") / "bundle"
        model = published(sizes)
        write_bundle(folder, model, DefaultsConfig(top_p=0.97), {"made_by": "tests"}, "Apache-2.0")
        made[name] = (model, folder)
    return made


@pytest.fixture(scope="module")
def small(models: dict[str, tuple[PublishedModel, Path]]) -> Path:
    return models["small"][1]


@pytest.fixture(scope="module")
def loaded(small: Path) -> unils.Model:
    return unils.Model.load(small)


def voices(seconds: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Two tracks of bursts of noise."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * 16000)
    loudness = np.repeat(rng.random((2, samples // 3200 + 1)), 3200, axis=1)[:, :samples]
    own, other = (rng.standard_normal((2, samples)) * 0.2 * loudness).clip(-1, 1).astype(np.float32)
    return own, other


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("sampling", [Sampling(0.0, 0.97, 1.5), Sampling(1.0, 0.97, 1.5), Sampling(0.8, 0.9, 1.0)])
def test_models_of_any_size_make_the_frames_of_pytorch(
    models: dict[str, tuple[PublishedModel, Path]], name: str, sampling: Sampling
) -> None:
    reference, folder = models[name]
    own, other = voices(9.1)
    model, recorder = recorded(folder)
    style = np.random.default_rng(1).normal(0.3, 0.1, (reference.config.window_frames, len(model.info.channels)))
    options = {"temperature": sampling.temperature, "top_p": sampling.top_p, "cfg_scale": sampling.cfg_scale}
    for seed, clip in ((0, None), (2**63 + 5, style.astype(np.float32))):
        recorder.calls.clear()
        frames = unils.animate(own, other, model=model, seed=seed, style=clip, **options)
        wanted = reference.generate(own, other, sampling, seed, clip)
        # Frames of rig arkit are kept in range after the engine.
        motion = wanted["motion"].clip(0, 1) if model.info.rig == "arkit" else wanted["motion"]
        columns = slice(0, 52) if model.info.rig == "arkit" else slice(None)
        np.testing.assert_allclose(frames.values[:, columns], motion[:, columns], rtol=0, atol=1e-4)
        scales = len(reference.config.codec.scales)
        ours = guided_logits(recorder, sampling.cfg_scale, scales)
        np.testing.assert_allclose(ours, wanted["logits"], rtol=0, atol=1e-3)
        latents = reference.codec.latents(torch.from_numpy(wanted["bits"]))[-1].numpy()
        decoded = np.concatenate(recorder.inputs("codec_decode", "latent"))
        np.testing.assert_allclose(decoded, latents, rtol=0, atol=1e-5)


def test_random_models_speak_and_listen(loaded: unils.Model) -> None:
    """Guards the tests above: frames that depend on nothing would agree with anything."""
    own, other = voices(8)
    frames = unils.animate(own, other, model=loaded, seed=1).values
    assert np.abs(frames - unils.animate(own, other, model=loaded, seed=2).values).max() > 0.01
    assert np.abs(frames - unils.animate(own[::-1], other, model=loaded, seed=1).values).max() > 0.01
    assert np.abs(frames - unils.animate(own, other[::-1], model=loaded, seed=1).values).max() > 0.01
    assert np.abs(frames[:100] - frames[100:]).max() > 0.01


def test_the_random_export_of_the_trainer_runs(tmp_path: Path) -> None:
    arguments = ["export", "--config", "published_tiny", "--random-init", "-o", str(tmp_path / "bundle")]
    assert train_main(arguments) == 0
    model = unils.Model.load(tmp_path / "bundle")
    assert (model.info.family, model.info.rig, model.info.window_frames) == ("published", "arkit", 24)
    frames = unils.animate(*voices(2), model=model)
    assert len(frames) == 50
    assert frames.values[:, :52].min() >= 0
    assert frames.values[:, :52].max() <= 1


def test_a_model_trained_here_becomes_a_bundle_that_runs(small_corpus: Path, tmp_path: Path) -> None:
    common = ["--config", "published_tiny", "--corpus", str(small_corpus), "--run-dir", str(tmp_path / "run")]
    common += ["--set", f"corpus.cache='{tmp_path / 'cache'}'", "--set", "device=cpu"]
    stages = ("codec", "prior", "dialogue")
    for value in ("batch_clips=2", "validation_clips=2", "threads=1", "precision=float32", "steps=2"):
        common += [part for stage in stages for part in ("--set", f"{stage}.training.{value}")]
    for stage in stages:
        assert train_main([stage, *common]) == 0
    assert train_main(["export", *common, "-o", str(tmp_path / "bundle")]) == 0
    model = unils.Model.load(tmp_path / "bundle")
    assert model.info.provenance["stages"]["dialogue"]["step"] in (1, 2)
    assert str(tmp_path) not in (tmp_path / "bundle" / "model.json").read_text()
    own, other = voices(2)
    trained, _ = trained_model(load_config("published_tiny"), tmp_path / "run" / "dialogue" / "best.pt")
    wanted = trained.generate(own, other, Sampling(0.0, 1.0, 1.5))["motion"][:, :52].clip(0, 1)
    frames = unils.animate(own, other, model=model, temperature=0, top_p=1, cfg_scale=1.5)
    np.testing.assert_allclose(frames.values[:, :52], wanted, rtol=0, atol=1e-4)


def test_weights_too_large_for_a_graph_file_lie_beside_it(
    small: Path, loaded: unils.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unils_training.export.published.EXTERNAL_BYTES", 100_000)
    folder = tmp_path / "bundle"
    write_bundle(folder, published(SIZES["small"]), DefaultsConfig(top_p=0.97), {}, "")
    assert not (small / "step.onnx.data").exists()
    assert (folder / "step.onnx").stat().st_size < (small / "step.onnx").stat().st_size
    own, other = voices(4)
    frames = unils.animate(own, other, model=unils.Model.load(folder)).values
    np.testing.assert_array_equal(frames, unils.animate(own, other, model=loaded).values)
    data = bytearray((folder / "step.onnx.data").read_bytes())
    data[-1] ^= 1
    (folder / "step.onnx.data").write_bytes(data)
    with pytest.raises(unils.BundleError, match=r"step\.onnx\.data is not the file"):
        unils.Model.load(folder)


def test_a_window_is_heard_at_zero_mean_and_unit_deviation_and_silence_as_silence(small: Path) -> None:
    model, recorder = recorded(small)
    own, _ = voices(6)
    own += 0.1
    unils.animate(own, None, model=model)
    waveforms = recorder.inputs("audio_encoder", "waveform")
    padded = np.concatenate([own, np.zeros(128000 - len(own))]).reshape(2, -1)
    centred = padded - padded.mean(axis=1, keepdims=True)
    wanted = centred / (padded.std(axis=1, ddof=1, keepdims=True) + 1e-6)
    # The silent track costs nothing: its features are those that the bundle holds.
    np.testing.assert_allclose(np.concatenate(waveforms), wanted, rtol=1e-6, atol=1e-7)
    silence = load_file(small / "weights.safetensors")["audio.silence"].numpy()
    for features in recorder.inputs("prefill", "other_features"):
        np.testing.assert_array_equal(features[0], silence)


# --- windows and time


def push(session: unils.Session, own: Floats | None, other: Floats | None) -> None:
    for track, samples in (("self", own), ("other", other)):
        if samples is not None:
            assert session.push_audio(samples, track) == len(samples)


def drain(session: unils.Session) -> Floats:
    batches = []
    while session.frames_ready:
        batches.append(session.pull_frames().values)
    return np.concatenate(batches) if batches else np.empty((0, len(session.model.info.channels)), np.float32)


def test_frames_come_a_window_at_a_time_and_latency_says_so(loaded: unils.Model) -> None:
    session = unils.Session(loaded)
    assert (session.latency.hop_ms, session.latency.block_ms, session.latency.total_ms) == (40, 4000, 4000)
    own, other = voices(8)
    push(session, own[: 64000 - 1], other)
    assert session.frames_ready == 0
    push(session, own[64000 - 1 : 64000], None)
    assert session.frames_ready == 100
    first = session.pull_frames(max_frames=30)
    assert (len(first), session.frames_ready) == (30, 70)
    rest = session.pull_frames()
    assert rest.index.tolist() == list(range(30, 100))
    assert rest.pts_seconds[0] == 30 / 25
    push(session, own[64000:128000], None)
    assert len(session.pull_frames()) == 100
    assert session.stats.frames == 200
    assert session.stats.step_p50_us > 0


def test_frames_do_not_depend_on_how_audio_was_cut_or_frames_were_pulled(loaded: unils.Model) -> None:
    own, other = voices(9.3)
    whole = unils.animate(own, other, model=loaded, seed=3).values
    assert len(whole) == 233
    for sizes in ([160], [320, 17, 4001], [64000]):
        session = unils.Session(loaded, seed=3)
        pulled = []
        position = turn = 0
        while position < len(own):
            end = position + sizes[turn % len(sizes)]
            push(session, own[position:end], other[position:end])
            pulled.append(session.pull_frames(max_frames=[None, 7, 1][turn % 3]).values)
            position, turn = end, turn + 1
        session.finish()
        pulled.append(drain(session))
        np.testing.assert_array_equal(np.concatenate(pulled), whole)


@pytest.mark.parametrize("samples", [1, 640, 641, 6400, 64000, 64001])
def test_the_last_window_is_continued_by_silence(loaded: unils.Model, samples: int) -> None:
    own, other = voices(5)
    session = unils.Session(loaded)
    push(session, own[:samples], other[: samples // 2])
    session.finish()
    frames = drain(session)
    assert len(frames) == -(-samples // 640)
    padded = unils.Session(loaded)
    silence = np.zeros(128000, np.float32)
    push(padded, np.concatenate([own[:samples], silence])[:128000], None)
    push(padded, None, np.concatenate([other[: samples // 2], silence])[:128000])
    np.testing.assert_array_equal(frames, drain(padded)[: len(frames)])


def test_clock_other_hears_silence_where_own_audio_is_missing_and_late_audio_in_the_next_window(
    loaded: unils.Model,
) -> None:
    own, other = voices(8)
    session = unils.Session(loaded, clock="other")
    push(session, None, other[:64000])
    first = drain(session)
    assert session.stats.silent_own_frames == 100
    push(session, own[:64000], other[64000:128000])
    second = drain(session)
    assert session.stats.silent_own_frames == 100
    assert session.stats.skew_samples == 0
    quiet = np.concatenate([np.zeros(64000, np.float32), own[:64000]])
    np.testing.assert_array_equal(np.concatenate([first, second]), unils.animate(quiet, other, model=loaded).values)


def test_clock_self_hears_silence_on_the_other_track(loaded: unils.Model) -> None:
    own, _ = voices(4)
    session = unils.Session(loaded, clock="self")
    push(session, own, None)
    with pytest.raises(unils.InvalidArgumentError, match="takes no audio on track other"):
        session.push_audio(own, "other")
    np.testing.assert_array_equal(drain(session), unils.animate(own, np.zeros_like(own), model=loaded).values)


def test_look_ahead_is_refused_because_a_window_has_it_inside(loaded: unils.Model) -> None:
    assert loaded.info.look_ahead == {"self": (0, 50), "other": (0, 50)}
    with pytest.raises(unils.InvalidArgumentError, match="0 unless the mode is rolling"):
        unils.Session(loaded, look_ahead={"self": 1})


def test_interrupt_forgets_own_audio_that_no_window_has_heard(loaded: unils.Model) -> None:
    own, other = voices(8)
    session = unils.Session(loaded, clock="other")
    push(session, own, other[:64000])
    spoken = session.pull_frames(max_frames=40)
    assert spoken.generation == 0
    assert session.interrupt() == 1
    # The window that was made before keeps its generation, and comes alone.
    push(session, None, other[64000:128000])
    rest = session.pull_frames()
    assert (len(rest), rest.generation) == (60, 0)
    after = session.pull_frames()
    assert (len(after), after.generation, after.index[0]) == (100, 1, 100)
    quiet = np.concatenate([own[:64000], np.zeros(64000, np.float32)])
    wanted = unils.animate(quiet, other, model=loaded).values
    np.testing.assert_array_equal(np.concatenate([spoken.values, rest.values, after.values]), wanted)


def test_a_session_goes_on_from_a_snapshot_in_the_middle_of_a_window(loaded: unils.Model) -> None:
    own, other = voices(8, seed=4)
    style = unils.animate(other[:64000], own[:64000], model=loaded, seed=9)
    session = unils.Session(loaded, seed=5, style=style)
    push(session, own[:70000], other[:66000])
    session.pull_frames(max_frames=33)
    state = session.snapshot()
    push(session, own[70000:], other[66000:])
    wanted = drain(session)
    assert len(wanted) == 167
    restored = unils.Session(loaded, seed=5, style=style)
    restored.restore(state)
    push(restored, own[70000:], other[66000:])
    np.testing.assert_array_equal(drain(restored), wanted)
    with pytest.raises(unils.InvalidArgumentError, match="other options"):
        unils.Session(loaded, seed=6, style=style).restore(state)
    for byte in (100, len(state) // 2, len(state) - 1):
        damaged = bytearray(state)
        damaged[byte] ^= 0x40
        with pytest.raises(unils.InvalidArgumentError):
            unils.Session(loaded, seed=5, style=style).restore(bytes(damaged))


@pytest.mark.parametrize("frames", [*range(1, 45), 1000])
def test_windows_are_smoothed_as_scipy_smooths_a_clip(
    models: dict[str, tuple[PublishedModel, Path]], frames: int
) -> None:
    model = unils.Model.load(models["short window, one mixed cross-attention"][1])  # of 36 frames, whatever their range
    own, other = voices(frames / 25)
    raw = unils.animate(own, other, model=model).values
    wanted = raw if frames < 9 else savgol_filter(raw.astype(np.float64), 9, 3, axis=0)
    smooth = unils.animate(own, other, model=model, smoothing=True)
    assert smooth.index.tolist() == list(range(frames))
    np.testing.assert_allclose(smooth.values, wanted, rtol=0, atol=1e-5)
    assert frames < 9 or np.abs(smooth.values - raw).max() > 0.01


def test_smoothed_frames_of_a_window_leave_with_the_window_but_for_four(loaded: unils.Model) -> None:
    own, other = voices(8)
    session = unils.Session(loaded, smoothing=True)
    assert (session.latency.smoothing_ms, session.latency.total_ms) == (160, 4160)
    push(session, own[:64000], other[:64000])
    assert session.frames_ready == 96
    first = session.pull_frames(max_frames=50)
    assert session.interrupt() == 1
    push(session, own[64000:], other[64000:])
    rest, after = session.pull_frames(), session.pull_frames()
    assert ((len(rest), rest.generation), (len(after), after.generation)) == ((50, 0), (96, 1))
    state = session.snapshot()
    session.finish()
    last = session.pull_frames()
    assert last.index.tolist() == [196, 197, 198, 199]
    restored = unils.Session(loaded, smoothing=True)
    restored.restore(state)
    restored.finish()
    np.testing.assert_array_equal(restored.pull_frames().values, last.values)
    values = np.concatenate([first.values, rest.values, after.values, last.values])
    np.testing.assert_array_equal(values, unils.animate(own, other, model=loaded, smoothing=True).values)


def test_a_snapshot_is_of_its_own_model_only(loaded: unils.Model, tmp_path: Path) -> None:
    write_bundle(tmp_path / "other", published(SIZES["small"], seed=1), DefaultsConfig(), {}, "")
    state = unils.Session(loaded).snapshot()
    with pytest.raises(unils.InvalidArgumentError, match="another model"):
        unils.Session(unils.Model.load(tmp_path / "other")).restore(state)


def test_reset_begins_again(loaded: unils.Model) -> None:
    own, other = voices(4.5)
    session = unils.Session(loaded, seed=8)
    push(session, own[:64000], other[:64000])
    first = drain(session)
    session.reset()
    push(session, own[:64000], other[:64000])
    np.testing.assert_array_equal(drain(session), first)


def test_style_is_a_clip_of_one_window_and_of_a_longer_one_the_beginning(loaded: unils.Model) -> None:
    own, other = voices(4)
    style = np.random.default_rng(2).normal(0.3, 0.2, (130, 55)).astype(np.float32)
    plain = unils.animate(own, other, model=loaded).values
    short = unils.animate(own, other, model=loaded, style=style[:100]).values
    np.testing.assert_array_equal(unils.animate(own, other, model=loaded, style=style).values, short)
    assert np.abs(plain - short).max() > 0.01
    with pytest.raises(unils.InvalidArgumentError, match="takes a clip of 100"):
        unils.Session(loaded, style=style[:99])


def test_sessions_of_one_model_run_side_by_side(loaded: unils.Model) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def face(seed: int) -> Floats:
        return unils.animate(*voices(8, seed), model=loaded, seed=seed).values

    alone = [face(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for together, expected in zip(pool.map(face, range(4)), alone, strict=True):
            np.testing.assert_array_equal(together, expected)


def test_with_threads_two_tracks_are_heard_side_by_side_and_the_face_is_the_same(
    loaded: unils.Model, small: Path
) -> None:
    own, other = voices(8)
    frames = unils.animate(own, other, model=unils.Model.load(small, threads=2), seed=1).values
    np.testing.assert_allclose(frames, unils.animate(own, other, model=loaded, seed=1).values, rtol=0, atol=1e-5)


# --- what goes wrong


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "copy"))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    info = json.loads((folder / "model.json").read_text())
    change(info)
    (folder / "model.json").write_text(json.dumps(info))


@pytest.mark.parametrize("name", ["prefill.onnx", "step.onnx", "audio_encoder.onnx", "weights.safetensors"])
def test_files_that_are_cut_changed_or_missing_are_refused_by_name(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-100])
    with pytest.raises(unils.BundleError, match=name):
        unils.Model.load(copy)
    (copy / name).write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    with pytest.raises(unils.BundleError, match=name):
        unils.Model.load(copy)
    (copy / name).unlink()
    with pytest.raises(unils.FileError, match=name):
        unils.Model.load(copy)


def test_a_graph_that_is_none_is_refused_by_name(copy: Path) -> None:
    (copy / "step.onnx").write_bytes(b"not a graph")
    digest = hashlib.sha256(b"not a graph").hexdigest()
    edit(copy, lambda info: info["graphs"]["step"].update(sha256=digest))
    with pytest.raises(unils.BackendError, match=r"step\.onnx cannot be opened by ONNX Runtime"):
        unils.Model.load(copy)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("window_frames", 10**9, "window_frames"),
        ("window_frames", 99, "codec.scales"),
        ("codec.scales", [1, 50, 25, 100], "codec.scales"),
        ("codec.scales", [0, 100], "codec.scales"),
        ("codec.scales", [], "codec.scales"),
        ("codec.bits", 2**40, "codec.bits"),
        ("codec.bits", -1, "codec.bits"),
        ("generator.width", 10**7, "generator.width"),
        ("generator.heads", 5, "generator.heads"),
        ("generator.depth", 0, "generator.depth"),
        ("generator.cross_attention", "none", "generator.cross_attention"),
        ("audio_encoder.rows", 10**6, "audio_encoder.rows"),
        ("audio_encoder.width", 0.5, "audio_encoder.width"),
        ("parameters", 0, "parameters"),
        ("graphs", {}, "graphs.audio_encoder"),
        ("graphs.step.file", "../step.onnx", "graphs.step.file"),
        ("graphs.step.sha256", "abc", "graphs.step.sha256"),
        ("rig", "flame", "channels"),
        ("family", "unpublished", "family"),
        ("defaults.top_p", 2.0, "defaults.top_p"),
    ],
)
def test_a_description_that_cannot_be_is_refused_before_anything_is_allocated(
    copy: Path, key: str, value: object, sentence: str
) -> None:
    *path, last = key.split(".")

    def change(info: dict[str, Any]) -> None:
        for name in path:
            info = info[name]
        info[last] = value

    edit(copy, change)
    with pytest.raises(unils.BundleError, match=sentence):
        unils.Model.load(copy)


def test_sizes_that_are_legal_one_by_one_but_not_together_are_refused(copy: Path) -> None:
    edit(copy, lambda info: info["generator"].update(width=4096, heads=2, depth=64))
    with pytest.raises(unils.BundleError, match="cache"):
        unils.Model.load(copy)


def test_sizes_that_are_not_those_of_the_graphs_are_an_error_not_a_crash(copy: Path) -> None:
    edit(copy, lambda info: info["generator"].update(depth=2))
    session = unils.Session(unils.Model.load(copy))
    push(session, *voices(4))
    with pytest.raises(unils.BackendError, match="graph prefill failed"):
        session.pull_frames()


def test_without_onnxruntime_the_sentence_says_what_to_install(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(unils.BackendError, match=r"pip install 'unils-sdk\[onnx\]'"):
        unils.Model.load(small)


def test_backends_asked_for_by_name(small: Path, tiny_path: Path) -> None:
    assert unils.Model.load(small, backend="onnxruntime").info.backend == "onnxruntime"
    with pytest.raises(unils.BackendError, match="runs on onnxruntime, not on cpu"):
        unils.Model.load(small, backend="cpu")
    with pytest.raises(unils.BackendError, match="holds no graphs; make them with unils export-onnx"):
        unils.Model.load(tiny_path, backend="onnxruntime")


def test_a_window_that_fails_can_be_made_again(small: Path) -> None:
    model, recorder = recorded(small)
    own, other = voices(4)
    session = unils.Session(model, seed=2)
    push(session, own, other)
    recorder.fail_at = "step"
    for _ in range(2):
        with pytest.raises(unils.BackendError, match="graph step failed: the accelerator is on fire"):
            session.pull_frames()
    recorder.failure = _Unspeakable()
    with pytest.raises(unils.BackendError, match="exception that has no text"):
        session.pull_frames()
    recorder.fail_at = None
    np.testing.assert_array_equal(session.pull_frames().values, unils.animate(own, other, model=model, seed=2).values)


def test_caches_are_bound_where_they_lie(small: Path) -> None:
    """The keys and values of a scale are written right behind those that the next scale reads, in one buffer."""
    addresses = []

    class Watch(Recorder):
        def run(self, graph: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
            addresses.append((graph, {tensor[0]: tensor for tensor in (*inputs, *outputs)}))
            super().run(graph, inputs, outputs)

    model = unils.Model(_core.Model(os.fsencode(small), "auto", 1, Watch()), str(small))
    unils.animate(*voices(4), model=model)
    cache = next(tensors["cache"] for graph, tensors in addresses if graph == "prefill")
    token_bytes = 4 * int(np.prod(cache[2][1:]))
    written = 200
    for graph, tensors in addresses:
        if graph == "step":
            assert tensors["cache"][3] == cache[3]
            assert tensors["cache"][2][0] == written
            assert tensors["added"][3] == cache[3] + written * token_bytes
            written += tensors["added"][2][0]
    assert written == 200 + 176


def test_doctor_and_bench_take_such_a_bundle(
    models: dict[str, tuple[PublishedModel, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(models["short window, one mixed cross-attention"][1])
    assert unils_main(["doctor", "--model", folder]) == 0
    assert "backend onnxruntime (" in capsys.readouterr().out
    report = tmp_path / "bench.json"
    assert unils_main(["bench", "--model", folder, "--seconds", "3", "--sessions", "1", "--json", str(report)]) == 0
    figures = json.loads(report.read_text())
    assert figures["latency_ms"] == 36 * 40
    assert figures["frames"] == 72
    assert unils_main(["bench", "--model", folder, "--seconds", "1", "--sessions", "1"]) == 1
    assert "1.44 s at a time" in capsys.readouterr().err
