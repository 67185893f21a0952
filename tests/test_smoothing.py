"""Smoothing as frames are made is SciPy's over the whole clip, four frames later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from scipy.signal import savgol_filter

import unils_sdk as unils
from conversation import RATES, TRACKS, assert_same_frames, drain, frames_of, stream, voice, voices
from test_frames import write_audio
from test_streaming import SCHEDULES, perform
from unils_sdk import cli, io

LENGTHS = [*range(1, 41), 1000]


def whole(clip: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    values = clip.astype(np.float64)
    return values if len(clip) < 9 else savgol_filter(values, 9, 3, axis=0)


def away_from_limits(clip: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Where no frame that is smoothed over was clipped into the range of rig arkit, (T, 55)."""
    inside = np.full(clip.shape, True)
    inside[:, :52] = (clip[:, :52] > 0) & (clip[:, :52] < 1)
    return np.stack([inside[max(0, t - 8) : t + 9].all(axis=0) for t in range(len(clip))])


@pytest.mark.parametrize("frames", LENGTHS)
def test_a_clip_of_any_length_is_smoothed_as_scipy_does(flame: unils.Model, frames: int) -> None:
    tracks = voices(frames / 25)
    raw = unils.animate(tracks["self"], tracks["other"], model=flame)
    smooth = unils.animate(tracks["self"], tracks["other"], model=flame, smoothing=True)
    assert len(smooth) == frames
    np.testing.assert_allclose(smooth.values, whole(raw.values), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(smooth.index, raw.index)
    np.testing.assert_array_equal(smooth.pts_seconds, raw.pts_seconds)
    assert frames < 9 or np.abs(smooth.values - raw.values).max() > 0.01


@pytest.mark.parametrize("frames", [8, 9, 40, 1000])
def test_the_bundled_model_is_smoothed_and_kept_in_range(bundled: unils.Model, frames: int) -> None:
    tracks = voices(frames / 25)
    raw = unils.animate(tracks["self"], tracks["other"], model=bundled).values
    smooth = unils.animate(tracks["self"], tracks["other"], model=bundled, smoothing=True).values
    assert smooth[:, :52].min() >= 0
    assert smooth[:, :52].max() <= 1
    wanted = whole(raw)
    wanted[:, :52] = wanted[:, :52].clip(0, 1)  # a cubic overshoots
    compared = away_from_limits(raw)
    assert compared.mean() > 0.3
    np.testing.assert_allclose(smooth[compared], wanted[compared], rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(schedule=SCHEDULES)
def test_frames_do_not_depend_on_how_they_were_pulled(
    flame: unils.Model, schedule: list[tuple[str, int | None]]
) -> None:
    rates = {"self": 24000, "other": 48000}
    tracks = {track: voice(1.5, rate, seed) for seed, (track, rate) in enumerate(rates.items())}
    at_once = perform(unils.Session(flame, smoothing=True), [], tracks, rates)
    assert len(at_once) == 38
    assert_same_frames(perform(unils.Session(flame, smoothing=True), schedule, tracks, rates), at_once)


def test_a_frame_leaves_four_frames_later(flame: unils.Model) -> None:
    tracks = voices(1.0)
    session = unils.Session(flame, smoothing=True, look_ahead={"self": 0, "other": 0})
    batches = []
    for hop in range(25):
        for track in TRACKS:
            session.push_audio(tracks[track][640 * hop : 640 * (hop + 1)], track)
        left = sum(map(len, batches))
        wanted = hop + 1 - 4 if hop >= 8 else 0
        assert session.frames_ready == wanted - left
        batches.append(session.pull_frames())
        assert len(batches[-1]) == wanted - left
        assert session.stats.frames == hop + 1
    session.finish()
    assert session.frames_ready == 4
    assert_same_frames(
        unils.FrameBatch.concatenate([*batches, drain(session)]),
        frames_of(flame, tracks, smoothing=True, look_ahead={"self": 0, "other": 0}),
    )


@pytest.mark.parametrize("rate", RATES)
def test_latency_counts_the_delay(tiny: unils.Model, rate: int) -> None:
    plain, smooth = unils.Session(tiny), unils.Session(tiny, smoothing=True)
    for session in (plain, smooth):
        session.push_audio(np.zeros(rate // 10, np.float32), "other", rate)
    assert (plain.latency.smoothing_ms, smooth.latency.smoothing_ms) == (0, 160)
    assert smooth.latency.total_ms == plain.latency.total_ms + 160


def test_frames_made_before_an_interrupt_keep_their_generation_and_come_alone(flame: unils.Model) -> None:
    tracks = voices(2.0)
    session = unils.Session(flame, smoothing=True)
    first = stream(session, tracks)
    assert session.interrupt() == 1
    session.finish()
    rest = session.pull_frames()
    assert (len(rest), rest.generation) == (4, 0)
    after = drain(session)
    assert (len(after), after.generation) == (1, 1)  # the last hop, which look-ahead waited for
    frames = unils.FrameBatch.concatenate([first, rest, after])
    assert frames.index.tolist() == list(range(50))
    plain = unils.Session(flame)
    raw = stream(plain, tracks)
    plain.interrupt()
    plain.finish()
    raw = unils.FrameBatch.concatenate([raw, drain(plain)])
    np.testing.assert_allclose(frames.values, whole(raw.values), rtol=0, atol=1e-5)


@pytest.mark.parametrize("seconds", [0.2, 0.36, 0.5, 1.0])
def test_a_session_goes_on_from_a_snapshot_in_the_middle_of_the_filter(flame: unils.Model, seconds: float) -> None:
    tracks = voices(2.0)
    cut = int(seconds * 16000)
    session = unils.Session(flame, smoothing=True)
    stream(session, {track: samples[:cut] for track, samples in tracks.items()})
    state = session.snapshot()
    restored = unils.Session(flame, smoothing=True)
    stream(restored, tracks)
    restored.restore(state)
    ends = []
    for each in (session, restored):
        end = stream(each, {track: samples[cut:] for track, samples in tracks.items()})
        each.finish()
        ends.append(unils.FrameBatch.concatenate([end, drain(each)]))
    assert_same_frames(*ends)
    assert ends[0].index[-1] == 49
    with pytest.raises(unils.InvalidArgumentError, match="other options"):
        unils.Session(flame).restore(state)


def test_reset_empties_the_filter(flame: unils.Model) -> None:
    session = unils.Session(flame, smoothing=True)
    stream(session, voices(1.0, seed=5))
    session.reset()
    tracks = voices(0.2)
    assert len(stream(session, tracks)) == 0
    session.finish()
    assert_same_frames(drain(session), frames_of(flame, tracks))  # fewer than 9 leave as they are


def test_smoothing_is_yes_or_no(tiny: unils.Model) -> None:
    for value in (1, "yes", None):
        with pytest.raises(unils.InvalidTypeError, match="smoothing must be True or False"):
            unils.Session(tiny, smoothing=value)  # type: ignore[arg-type]


def test_the_command_smooths(tiny_path: Path, tiny: unils.Model, tmp_path: Path) -> None:
    sources = []
    for track, samples in voices(1.0).items():
        sources.append(tmp_path / f"{track}.wav")
        write_audio(sources[-1], (samples * 32767).astype(np.int16)[None], 16000)
    out = tmp_path / "out.npz"
    arguments = ["animate", *map(str, sources), "-o", str(out), "--model", str(tiny_path), "--smooth", "--quiet"]
    assert cli.main(arguments) == 0
    assert_same_frames(io.read_npz(out), unils.animate(*sources, model=tiny, smoothing=True))
