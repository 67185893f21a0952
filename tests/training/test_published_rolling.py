"""Rolling mode and two faces: the native engine against PyTorch's rolling generation, and its promises of time."""

from __future__ import annotations

import dataclasses
import resource
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.signal import savgol_filter
from test_published_runtime import published

import unils_sdk as unils
from unils_training.config import DefaultsConfig, PublishedAudioEncoderConfig, PublishedCodecConfig, PublishedConfig
from unils_training.export.published import write_bundle
from unils_training.models.published.model import PublishedModel, Sampling
from unils_training.models.published.rolling import Rolling, roll

pytest.importorskip("onnxruntime")

HOP = 640
WINDOW = 40
Floats = npt.NDArray[np.float32]
SIZES = PublishedConfig(
    rig="flame",
    window_frames=WINDOW,
    width=20,
    heads=2,
    depth=2,
    codec=PublishedCodecConfig(width=24, heads=2, depth=1, bits=9, scales=(1, 5, 13, 40)),
    audio_encoder=PublishedAudioEncoderConfig(
        width=16, depth=1, heads=2, feed_forward=24, conv_width=8, position_groups=2
    ),
)


@pytest.fixture(scope="module")
def reference() -> PublishedModel:
    """A random model whose bits follow audio, style, the window before and the frames shown."""
    return published(SIZES)


@pytest.fixture(scope="module")
def model(reference: PublishedModel, tmp_path_factory: pytest.TempPathFactory) -> unils.Model:
    folder: Path = tmp_path_factory.mktemp("rolling") / "bundle"
    write_bundle(folder, reference, DefaultsConfig(top_p=0.97), {"made_by": "tests"}, "Apache-2.0")
    return unils.Model.load(folder)


def voices(seconds: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Two tracks of bursts of noise, with silence between."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * 16000)
    loudness = np.repeat(rng.random((2, samples // 3200 + 1)), 3200, axis=1)[:, :samples]
    loudness = loudness * (loudness > 0.3)
    own, other = (rng.standard_normal((2, samples)) * 0.2 * loudness).clip(-1, 1).astype(np.float32)
    return own, other


SAMPLINGS = {"greedy": Sampling(0.0, 0.97, 1.5), "sampled": Sampling(1.0, 0.97, 1.5), "plain": Sampling(0.8, 0.9, 1.0)}


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("ahead", [(0, 0), (3, 0), (3, 5)])
@pytest.mark.parametrize("hop", [1, 5, 25])
def test_rolling_frames_are_those_of_pytorch(
    reference: PublishedModel, model: unils.Model, hop: int, ahead: tuple[int, int], sampling: str
) -> None:
    own, other = voices(2.5 if hop == 1 else 4.1, seed=hop)
    if sampling == "plain":
        own[:] = 0.0  # one silent track
    how = SAMPLINGS[sampling]
    clip = None
    if sampling == "sampled":
        clip = np.random.default_rng(1).normal(0.3, 0.1, (WINDOW, 108)).astype(np.float32)
    wanted = roll(reference, own, other, Rolling(hop, ahead), how, seed=3, style=clip)["motion"]
    frames = unils.animate(
        own,
        other,
        model=model,
        mode="rolling",
        hop_frames=hop,
        look_ahead=dict(zip(("self", "other"), ahead, strict=True)),
        seed=3,
        style=clip,
        temperature=how.temperature,
        top_p=how.top_p,
        cfg_scale=how.cfg_scale,
    )
    assert len(frames) == len(wanted)
    np.testing.assert_allclose(frames.values, wanted, rtol=0, atol=2e-4)


def test_a_hop_of_a_whole_window_is_the_windowed_mode(model: unils.Model) -> None:
    own, other = voices(5)
    windowed = unils.animate(own, other, model=model, seed=4)
    rolling = unils.animate(own, other, model=model, seed=4, mode="rolling", hop_frames=WINDOW)
    np.testing.assert_array_equal(rolling.values, windowed.values)


def test_rolling_frames_depend_on_audio_style_and_seed(model: unils.Model) -> None:
    """Guards the tests above: frames that depend on nothing would agree with anything."""

    def face(own: Floats, other: Floats, seed: int = 0) -> Floats:
        return unils.animate(own, other, model=model, mode="rolling", seed=seed).values

    own, other = voices(3)
    frames = face(own, other)
    assert np.abs(frames - face(own[::-1].copy(), other)).max() > 0.01
    assert np.abs(frames - face(own, other[::-1].copy())).max() > 0.01
    assert np.abs(frames - face(own, other, seed=1)).max() > 0.01


def feed(session: unils.Session, own: Floats, other: Floats) -> list[tuple[int, unils.FrameBatch]]:
    """Plays both tracks hop by hop; what came, and after how many hops."""
    came = []
    for hop in range(len(own) // HOP):
        for track, samples in (("self", own), ("other", other)):
            assert session.push_audio(samples[hop * HOP : (hop + 1) * HOP], track) == HOP
        batch = session.pull_frames()
        if len(batch):
            came.append((hop + 1, batch))
    return came


@pytest.mark.parametrize("track", ["self", "other"])
@pytest.mark.parametrize(("hop", "ahead"), [(1, (0, 0)), (5, (0, 0)), (5, (3, 0)), (4, (0, 6)), (0, (0, 0))], ids=str)
def test_a_sound_moves_the_frames_that_may_hear_it_and_these_come_as_soon_as_promised(
    model: unils.Model, hop: int, ahead: tuple[int, int], track: str
) -> None:
    """hop 0: the model's own windows."""
    options: dict[str, Any] = {
        "mode": "rolling",
        "hop_frames": hop,
        "look_ahead": {"self": ahead[0], "other": ahead[1]},
    }
    block, spoken_at = hop or WINDOW, 47
    voice, _ = voices(80 / 25, seed=1)
    sound = (0.3 * np.random.default_rng(0).standard_normal(len(voice))).clip(-1, 1).astype(np.float32)
    sound[: spoken_at * HOP] = 0.0

    def play(heard: Floats, seed: int) -> Floats:
        session = unils.Session(model, seed=seed, **(options if hop else {}))
        assert session.latency.block_ms == 40 * block
        assert session.latency.total_ms == 40 * (block + max(ahead))
        came = feed(session, *((heard, voice) if track == "self" else (voice, heard)))
        for hops, batch in came:
            # The block's last frame comes with its own hop and look-ahead, its first one block - 1 hops after its own.
            assert hops == batch.index[-1] + 1 + max(ahead)
            assert len(batch) == block
        return unils.FrameBatch.concatenate([batch for _, batch in came]).values

    hearing = (spoken_at - ahead[("self", "other").index(track)]) // block * block
    # A bit need not change with the first sample of a sound; no frame is moved sooner, and with some seed this one is.
    for seed in range(8):
        moved = np.flatnonzero(np.abs(play(sound, seed) - play(np.zeros_like(sound), seed)).max(axis=1) > 1e-4)
        assert moved[0] >= hearing
        if moved[0] == hearing:
            return
    pytest.fail(f"frame {hearing} hears nothing of a sound that it should hear")


@pytest.mark.parametrize("rolling", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_two_faces_are_two_sessions_with_the_tracks_swapped(
    model: unils.Model, rolling: bool, temperature: float
) -> None:
    own, other = voices(4.2, seed=2)
    rng = np.random.default_rng(3)
    styles = [rng.normal(0.3, 0.1, (frames, 108)).astype(np.float32) for frames in (WINDOW, WINDOW + 7)]
    options: dict[str, Any] = {"model": model, "temperature": temperature}
    ahead, swapped = None, None
    if rolling:
        options |= {"mode": "rolling", "hop_frames": 4}
        ahead, swapped = {"self": 2, "other": 1}, {"self": 1, "other": 2}
    both = unils.animate(
        own, other, faces=2, seed=6, look_ahead=ahead, style=styles[0], style_other=styles[1], **options
    )
    first = unils.animate(own, other, seed=6, look_ahead=ahead, style=styles[0], **options)
    second = unils.animate(other, own, seed=7, look_ahead=swapped, style=styles[1], **options)
    assert both.other is not None
    np.testing.assert_allclose(both.values, first.values, rtol=0, atol=1e-4)
    np.testing.assert_allclose(both.other.values, second.values, rtol=0, atol=1e-4)
    assert np.abs(both.values - both.other.values).max() > 0.01
    # Both faces are of the same frames, and are cut and joined together.
    half = both[10:20]
    assert half.other is not None
    np.testing.assert_array_equal(half.other.values, both.other.values[10:20])
    joined = unils.FrameBatch.concatenate([both[:10], half])
    assert joined.other is not None
    np.testing.assert_array_equal(joined.other.values, both.other.values[:20])
    assert both[3].values.shape == (108,)
    with pytest.raises(unils.InvalidArgumentError, match="second face"):
        unils.FrameBatch.concatenate([both, first])


def test_frames_do_not_depend_on_how_audio_was_cut(model: unils.Model) -> None:
    own, other = voices(4.3, seed=5)
    options = {"mode": "rolling", "hop_frames": 3, "look_ahead": {"self": 4}, "seed": 3, "faces": 2}
    whole = unils.animate(own, other, model=model, **options)
    assert whole.other is not None
    for step in (160, 641, 9000):
        session = unils.Session(model, **options)
        batches = []
        for begin in range(0, len(own), step):
            for track, samples in (("other", other), ("self", own)):
                session.push_audio(samples[begin : begin + step], track)
            batches.append(session.pull_frames())
        session.finish()
        while session.frames_ready:
            batches.append(session.pull_frames(max_frames=2))
        frames = unils.FrameBatch.concatenate(batches)
        assert frames.other is not None
        np.testing.assert_array_equal(frames.values, whole.values)
        np.testing.assert_array_equal(frames.other.values, whole.other.values)


def test_a_session_goes_on_from_a_snapshot(model: unils.Model) -> None:
    own, other = voices(4, seed=6)
    options = {"mode": "rolling", "hop_frames": 5, "look_ahead": {"self": 1}, "faces": 2}
    session = unils.Session(model, **options)
    feed(session, own[: 61 * HOP], other[: 61 * HOP])
    state = session.snapshot()
    wanted = feed(session, own[61 * HOP :], other[61 * HOP :])
    restored = unils.Session(model, **options)
    restored.restore(state)
    went_on = feed(restored, own[61 * HOP :], other[61 * HOP :])
    assert [hops for hops, _ in went_on] == [hops for hops, _ in wanted]
    for (_, batch), (_, expected) in zip(went_on, wanted, strict=True):
        np.testing.assert_array_equal(batch.values, expected.values)
    with pytest.raises(unils.InvalidArgumentError, match="other options"):
        unils.Session(model, **{**options, "hop_frames": 4}).restore(state)


@pytest.mark.parametrize("hop", [4, 5, 25])
def test_smoothing_follows_both_faces_over_every_seam_four_frames_behind(model: unils.Model, hop: int) -> None:
    own, other = voices(80 / 25, seed=7)
    options: dict[str, Any] = {"mode": "rolling", "hop_frames": hop, "look_ahead": {"self": 1}, "faces": 2}
    raw = unils.animate(own, other, model=model, **options)
    session = unils.Session(model, smoothing=True, **options)
    came = feed(session, own, other)
    waits = [hops - index for hops, batch in came for index in batch.index if index >= 4]  # 0 to 3 leave with frame 8
    assert session.latency.total_ms == 40 * (hop + 1 + 4) == 40 * max(waits)
    session.finish()
    while len(batch := session.pull_frames()):
        came.append((0, batch))
    frames = unils.FrameBatch.concatenate([batch for _, batch in came])
    assert frames.index.tolist() == list(range(80))
    for smooth, rough in ((frames, raw), (frames.other, raw.other)):
        assert smooth is not None
        assert rough is not None
        wanted = savgol_filter(rough.values.astype(np.float64), 9, 3, axis=0)
        np.testing.assert_allclose(smooth.values, wanted, rtol=0, atol=1e-5)


def test_options_that_cannot_be_are_refused(model: unils.Model) -> None:
    clip = np.zeros((WINDOW, 108), np.float32)
    for options, sentence in (
        ({"mode": "streaming"}, "mode must be 'windowed' or 'rolling'"),
        ({"hop_frames": 5}, "belongs to mode='rolling'"),
        ({"mode": "rolling", "hop_frames": 0}, "1 to 40"),
        ({"mode": "rolling", "hop_frames": 41}, "1 to 40"),
        ({"mode": "rolling", "hop_frames": 30, "look_ahead": {"other": 11}}, "hop_frames is 30 and the look-ahead 11"),
        ({"mode": "rolling", "look_ahead": {"other": 21}}, "0 to 20"),
        ({"faces": 3}, "faces must be 1 or 2"),
        ({"style_other": clip}, "faces is 1"),
        ({"faces": 2, "style_other": clip[:30]}, "takes a clip of 40"),
    ):
        with pytest.raises(unils.InvalidArgumentError, match=sentence):
            unils.Session(model, **options)
    for options in ({"mode": "rolling", "hop_frames": 5.0}, {"faces": "two"}):
        with pytest.raises(unils.InvalidTypeError):
            unils.Session(model, **options)
    stream = unils.Model.load()
    for options, sentence in (({"mode": "rolling"}, "no rolling mode"), ({"faces": 2}, "one face a session")):
        with pytest.raises(unils.InvalidArgumentError, match=sentence):
            unils.Session(stream, **options)


def test_memory_does_not_grow(model: unils.Model) -> None:
    own, other = voices(12, seed=8)
    session = unils.Session(model, mode="rolling", hop_frames=1, faces=2)
    size = session.stats.session_bytes
    feed(session, own[: 50 * HOP], other[: 50 * HOP])  # arenas of ONNX Runtime grow to their size
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    feed(session, own[50 * HOP :], other[50 * HOP :])
    assert session.stats.frames == 300
    assert session.stats.session_bytes == size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024  # KiB


def test_the_demo_has_both_faces_in_one_session(
    model: unils.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unils_sdk import demo
    from unils_sdk.cli import main

    read = demo.io.read_audio

    def two_seconds(path: Path) -> demo.io.Audio:
        voice = read(path)
        return dataclasses.replace(voice, samples=voice.samples[: 2 * voice.sample_rate])

    monkeypatch.setattr(demo.io, "read_audio", two_seconds)
    arguments = ["--model", model.info.path, "--mode", "rolling", "--hop-frames", "10", "--quiet"]
    assert main(["demo", "--out", str(tmp_path), *arguments]) == 0
    a, b = (demo.io.read_audio(demo.CONVERSATION / f"{name}.flac") for name in "ab")
    wanted = unils.animate(a, b, model=model, mode="rolling", hop_frames=10, faces=2)
    assert wanted.other is not None
    with np.load(tmp_path / "demo.npz") as made:
        np.testing.assert_array_equal(made["values_a"], wanted.values)
        np.testing.assert_array_equal(made["values_b"], wanted.other.values)
