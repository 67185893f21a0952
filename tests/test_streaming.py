"""The same frames, always: however the audio is cut, however the frames are pulled, however long it goes on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unils_sdk as unils
from conversation import (
    RATES,
    TRACKS,
    assert_same_frames,
    drain,
    first_difference,
    frames_of,
    pieces,
    stream,
    voice,
    voices,
)

SECONDS = 1.5

# The order in which a caller does things: push that many samples of a track, or pull at most that many frames.
SCHEDULES = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(TRACKS), st.integers(0, 9000)),
        st.tuples(st.just("pull"), st.none() | st.integers(0, 4)),
    ),
    max_size=40,
)


def perform(
    session: unils.Session, schedule: list[tuple[str, int | None]], tracks: dict[str, np.ndarray], rates: dict[str, int]
) -> unils.FrameBatch:
    """Follow the schedule, push what is left, finish and pull the rest."""
    position = dict.fromkeys(TRACKS, 0)
    batches = []

    def push(track: str, count: int) -> None:
        piece = tracks[track][position[track] : position[track] + count]
        position[track] += session.push_audio(piece, track, rates[track])

    for action, count in schedule:
        if action == "pull":
            batches.append(session.pull_frames(count))
            assert count is None or len(batches[-1]) <= count
        else:
            push(action, count)
    for track in TRACKS:
        push(track, len(tracks[track]))
        assert position[track] == len(tracks[track])
    session.finish()
    return unils.FrameBatch.concatenate([*batches, drain(session)])


@settings(max_examples=60, deadline=None)
@given(schedule=SCHEDULES, own_rate=st.sampled_from(RATES), other_rate=st.sampled_from(RATES))
def test_frames_do_not_depend_on_how_audio_was_cut(
    tiny: unils.Model, schedule: list[tuple[str, int | None]], own_rate: int, other_rate: int
) -> None:
    rates = {"self": own_rate, "other": other_rate}
    tracks = {track: voice(SECONDS, rate, seed) for seed, (track, rate) in enumerate(rates.items())}
    at_once = perform(unils.Session(tiny), [], tracks, rates)
    assert len(at_once) == 38
    assert_same_frames(perform(unils.Session(tiny), schedule, tracks, rates), at_once)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_every_rate_gives_the_same_frames_sample_by_sample(tiny: unils.Model, rate: int, dtype: type) -> None:
    tracks = voices(0.2, rate)
    if dtype == np.int16:
        tracks = {track: (samples * 32767).astype(np.int16) for track, samples in tracks.items()}
    at_once = frames_of(tiny, tracks, rate)
    one_by_one = unils.Session(tiny)
    for track, samples in tracks.items():
        for i in range(len(samples)):
            assert one_by_one.push_audio(samples[i : i + 1], track, rate) == 1
    one_by_one.finish()
    assert_same_frames(drain(one_by_one), at_once)


@given(cuts=st.lists(st.integers(0, 24000), max_size=8), own_first=st.booleans())
@settings(max_examples=25, deadline=None)
def test_clock_other_takes_own_audio_pushed_early_however_it_was_cut(
    tiny: unils.Model, cuts: list[int], own_first: bool
) -> None:
    tracks = voices(SECONDS)
    expected = frames_of(tiny, tracks, clock="other")
    session = unils.Session(tiny, clock="other")
    own = pieces(tracks["self"], cuts if own_first else [])
    for piece in own:
        session.push_audio(piece, "self")
    batches = []
    for piece in pieces(tracks["other"], cuts):
        session.push_audio(piece, "other")
        batches.append(session.pull_frames())
    session.finish()
    assert_same_frames(unils.FrameBatch.concatenate([*batches, drain(session)]), expected)


def test_the_stream_is_the_one_shot_over_many_ring_wraps(tiny: unils.Model) -> None:
    """40 s: eight turns of the 128-frame attention ring, two and a half of the audio ring."""
    tracks = voices(40.0)
    session = unils.Session(tiny)
    streamed = stream(session, tracks)
    session.finish()
    streamed = unils.FrameBatch.concatenate([streamed, drain(session)])
    at_once = unils.animate(tracks["self"], tracks["other"], model=tiny)
    assert len(at_once) == 1000
    assert_same_frames(streamed, at_once)


def test_pushes_of_ten_seconds_are_taken_whole_on_both_tracks(tiny: unils.Model) -> None:
    for rate in RATES:
        frames = frames_of(tiny, voices(10.0, rate), rate)
        assert len(frames) == 250
        np.testing.assert_array_equal(frames.index, np.arange(250))
        np.testing.assert_allclose(frames.pts_seconds, np.arange(250) / 25, rtol=0, atol=1e-12)


def test_bundled_model_streams_as_it_plays_at_once(bundled: unils.Model) -> None:
    tracks = voices(20.0)
    session = unils.Session(bundled)
    streamed = stream(session, tracks)
    session.finish()
    streamed = unils.FrameBatch.concatenate([streamed, drain(session)])
    assert_same_frames(streamed, unils.animate(tracks["self"], tracks["other"], model=bundled))


def test_seed_model_and_options_decide_the_frames(tiny: unils.Model) -> None:
    tracks = voices(2.0)
    base = frames_of(tiny, tracks, seed=7)
    assert_same_frames(frames_of(tiny, tracks, seed=7), base)
    for options in ({"seed": 8}, {"seed": 7 + 2**40}, {"seed": 7, "temperature": 0.5}, {"seed": 7, "cfg_scale": 3.0}):
        assert first_difference(frames_of(tiny, tracks, **options), base) < len(base)


def test_greedy_frames_do_not_depend_on_the_seed(tiny: unils.Model) -> None:
    tracks = voices(2.0)
    assert_same_frames(
        frames_of(tiny, tracks, temperature=0, seed=1), frames_of(tiny, tracks, temperature=0, seed=2**64 - 1)
    )


def test_sessions_that_share_a_model_do_not_hear_each_other(tiny: unils.Model) -> None:
    conversations = [voices(2.0, seed=seed) for seed in range(3)]
    alone = [frames_of(tiny, tracks, seed=seed) for seed, tracks in enumerate(conversations)]
    sessions = [unils.Session(tiny, seed=seed) for seed in range(3)]
    together: list[list[unils.FrameBatch]] = [[] for _ in sessions]
    for start in range(0, 32000, 700):
        for session, tracks, batches in zip(sessions, conversations, together, strict=True):
            for track, samples in tracks.items():
                session.push_audio(samples[start : start + 700], track)
            batches.append(session.pull_frames(1))
    for session, batches, expected in zip(sessions, together, alone, strict=True):
        session.finish()
        assert_same_frames(unils.FrameBatch.concatenate([*batches, drain(session)]), expected)


def test_reset_starts_over(tiny: unils.Model) -> None:
    tracks = voices(1.0, 48000)
    session = unils.Session(tiny, seed=3)
    stream(session, voices(3.0, 24000, seed=5), 24000)
    session.interrupt()
    session.finish()
    session.reset()
    assert session.stats.frames == 0
    for track, samples in tracks.items():
        session.push_audio(samples, track, 48000)
    session.finish()
    again = drain(session)
    assert again.generation == 0
    assert_same_frames(again, frames_of(tiny, tracks, 48000, seed=3))


class TestSnapshot:
    def test_restored_sessions_go_on_bitwise(self, tiny: unils.Model) -> None:
        before, after = voices(3.1, 44100, seed=1), voices(7.0, 44100, seed=2)
        session = unils.Session(tiny, seed=5)
        stream(session, before, 44100)
        state = session.snapshot()
        expected = stream(session, after, 44100)
        session.restore(state)
        assert_same_frames(stream(session, after, 44100), expected)
        elsewhere = unils.Session(tiny, seed=5)
        elsewhere.restore(state)
        assert_same_frames(stream(elsewhere, after, 44100), expected)

    @given(pushed=st.integers(0, 40000), pulled=st.integers(0, 60))
    @settings(max_examples=20, deadline=None)
    def test_audio_that_waits_is_part_of_it(self, tiny: unils.Model, pushed: int, pulled: int) -> None:
        tracks = voices(3.0, 24000)
        session = unils.Session(tiny)
        session.push_audio(tracks["self"][:pushed], "self", 24000)
        session.push_audio(tracks["other"], "other", 24000)
        session.pull_frames(pulled)
        state = session.snapshot()
        restored = unils.Session(tiny)
        restored.restore(state)
        rests = []
        for each in (session, restored):
            each.push_audio(tracks["self"][pushed:], "self", 24000)
            each.finish()
            rests.append(drain(each))
        assert_same_frames(rests[1], rests[0])

    def test_a_snapshot_is_the_same_bytes_for_the_same_state(self, tiny: unils.Model) -> None:
        sessions = [unils.Session(tiny), unils.Session(tiny)]
        for session in sessions:
            stream(session, voices(2.0))
        assert sessions[0].snapshot() == sessions[1].snapshot()

    def test_a_broken_or_foreign_snapshot_is_refused_and_the_session_goes_on(
        self, tiny: unils.Model, flame: unils.Model
    ) -> None:
        tracks = voices(1.0)
        session = unils.Session(tiny)
        state = session.snapshot()
        foreign = unils.Session(flame).snapshot()
        for broken in (b"", state[:-1], state + b"\0", bytes(len(state)), b"\xff" * len(state), foreign):
            with pytest.raises(unils.UnilsError):
                session.restore(broken)
        with pytest.raises(unils.UnilsError):
            unils.Session(tiny, seed=1).restore(state)
        with pytest.raises(TypeError):
            session.restore(bytearray(state))  # type: ignore[arg-type]
        for track, samples in tracks.items():
            session.push_audio(samples, track)
        session.finish()
        assert_same_frames(drain(session), frames_of(tiny, tracks))


class TestCausality:
    """A sample may change the frame that covers it, those that look ahead to it, and those after: none before."""

    @pytest.mark.parametrize("track", TRACKS)
    @pytest.mark.parametrize("look_ahead", [0, 1, 4, 8])
    def test_a_sound_moves_the_face_first_in_the_frame_that_may_hear_it(
        self, tiny: unils.Model, track: str, look_ahead: int
    ) -> None:
        options = {"look_ahead": {"self": 0, "other": 0, track: look_ahead}, "cfg_scale": 4.0}
        tracks = {name: np.zeros(16000, np.float32) for name in TRACKS}
        position = 12 * 640 + 100
        noise = np.random.default_rng(0).uniform(-1, 1, 16000 - position).astype(np.float32)
        struck = {**tracks, track: tracks[track].copy()}
        struck[track][position:] = noise
        moved = [
            first_difference(
                frames_of(tiny, struck, seed=seed, **options), frames_of(tiny, tracks, seed=seed, **options)
            )
            for seed in range(24)
        ]
        assert min(moved) == 12 - look_ahead

    @pytest.mark.parametrize("track", TRACKS)
    @pytest.mark.parametrize("rate", RATES)
    def test_no_rate_lets_a_frame_hear_the_future(self, tiny: unils.Model, track: str, rate: int) -> None:
        """The resampler may look ahead by no more than the latency it states."""
        tracks = voices(1.0, rate)
        ahead = {"self": 1, "other": 0}
        session = unils.Session(tiny, look_ahead=ahead)
        for name, samples in tracks.items():
            session.push_audio(samples, name, rate)
        delay = getattr(session.latency, f"resampler_{track}_ms") / 1000
        for cut_frame in (5, 12):
            begin = int(np.ceil((cut_frame / 25 + delay) * rate))
            struck = {**tracks, track: tracks[track].copy()}
            struck[track][begin:] = np.random.default_rng(1).uniform(-1, 1, len(tracks[track]) - begin)
            changed = first_difference(
                frames_of(tiny, struck, rate, look_ahead=ahead), frames_of(tiny, tracks, rate, look_ahead=ahead)
            )
            assert changed >= cut_frame - ahead[track]

    @pytest.mark.parametrize("rate", RATES)
    @pytest.mark.parametrize("ahead", [{"self": 0, "other": 0}, {"self": 1, "other": 0}, {"self": 3, "other": 2}])
    def test_a_frame_is_ready_as_soon_as_the_stated_latency_has_passed(
        self, tiny: unils.Model, rate: int, ahead: dict[str, int]
    ) -> None:
        session = unils.Session(tiny, look_ahead=ahead)
        needed = []
        for track in TRACKS:
            # The other track is far ahead, so this one alone decides.
            ready = unils.Session(tiny, look_ahead=ahead)
            ready.push_audio(np.zeros(rate, np.float32), TRACKS[1 - TRACKS.index(track)], rate)
            count = 0
            while ready.frames_ready == 0:
                count += ready.push_audio(np.zeros(1, np.float32), track, rate)
            session.push_audio(np.zeros(1, np.float32), track, rate)
            latency = session.latency
            stated = (
                latency.hop_ms + getattr(latency, f"look_ahead_{track}_ms") + getattr(latency, f"resampler_{track}_ms")
            )
            assert count <= int(np.ceil(stated / 1000 * rate)) + 1
            assert count >= int((latency.hop_ms + getattr(latency, f"look_ahead_{track}_ms")) / 1000 * rate)
            needed.append(stated)
        assert session.latency.resampler_self_ms <= 4.0
        assert session.latency.hop_ms == 40.0
        assert session.latency.look_ahead_self_ms == 40.0 * ahead["self"]
        assert session.latency.look_ahead_other_ms == 40.0 * ahead["other"]
        assert session.latency.total_ms == pytest.approx(max(needed))
