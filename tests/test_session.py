"""The session's verbs: options, clocks, interrupt, finish, threads."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

import unils_sdk as unils
from bundles import random_bundle
from conversation import TRACKS, assert_same_frames, drain, first_difference, frames_of, stream, voice, voices

BLIND = {"self": 0, "other": 0}


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "error", "says"),
        [
            ({"clock": "mine"}, ValueError, "'both', 'other' or 'self'"),
            ({"clock": None}, ValueError, "'both'"),
            ({"look_ahead": {"self": 9}}, ValueError, "0 to 8"),
            ({"look_ahead": {"other": -1}}, ValueError, "0 to 8"),
            ({"look_ahead": {"mine": 1}}, ValueError, "'self' and 'other'"),
            ({"look_ahead": 1}, TypeError, "look_ahead"),
            ({"look_ahead": {"self": 1.0}}, TypeError, "look_ahead"),
            ({"temperature": -0.1}, ValueError, "temperature"),
            ({"temperature": float("nan")}, ValueError, "temperature"),
            ({"temperature": "hot"}, TypeError, "temperature"),
            ({"top_p": 0}, ValueError, "top_p"),
            ({"top_p": 1.01}, ValueError, "top_p"),
            ({"cfg_scale": -1}, ValueError, "cfg_scale"),
            ({"cfg_scale": float("inf")}, ValueError, "cfg_scale"),
            ({"seed": -1}, ValueError, "seed"),
            ({"seed": 2**64}, ValueError, "seed"),
            ({"seed": 0.5}, TypeError, "seed"),
            ({"style": np.zeros((50, 54))}, ValueError, r"\(n, 55\)"),
            ({"style": np.zeros(55)}, ValueError, r"\(n, 55\)"),
            ({"style": np.zeros((24, 55))}, ValueError, "25"),
            ({"style": np.zeros((501, 55))}, ValueError, "500"),
            ({"style": np.full((50, 55), np.nan)}, ValueError, "(?i)style.*(nan|finite)"),
            ({"style": "happy"}, TypeError, "style"),
        ],
    )
    def test_an_option_that_cannot_be_used_is_refused_by_name(
        self, tiny: unils.Model, options: dict[str, object], error: type[Exception], says: str
    ) -> None:
        with pytest.raises(error, match=says) as raised:
            unils.Session(tiny, **options)  # type: ignore[arg-type]
        assert isinstance(raised.value, unils.UnilsError)

    def test_a_session_needs_a_model(self) -> None:
        with pytest.raises(TypeError, match="Model.load"):
            unils.Session("model")  # type: ignore[arg-type]

    def test_none_is_the_models_default(self, tiny: unils.Model) -> None:
        tracks = voices(1.0)
        defaults = dataclasses.asdict(tiny.info.defaults)
        assert_same_frames(frames_of(tiny, tracks, **defaults), frames_of(tiny, tracks))
        assert_same_frames(frames_of(tiny, tracks, look_ahead={}), frames_of(tiny, tracks))

    def test_a_style_changes_the_face_from_the_first_frames(self, tiny: unils.Model) -> None:
        tracks = voices(2.0)
        plain = frames_of(tiny, tracks)
        clip = np.random.default_rng(0).uniform(0, 1, (120, 55))
        styled = frames_of(tiny, tracks, style=clip)
        assert first_difference(styled, plain) < 10
        assert_same_frames(frames_of(tiny, tracks, style=clip.astype(np.float32)), styled)
        assert first_difference(frames_of(tiny, tracks, style=plain), plain) < len(plain)

    def test_a_session_keeps_its_model_alive(self, tiny_path: str) -> None:
        session = unils.Session(unils.Model.load(tiny_path))
        assert len(stream(session, voices(1.0))) == 24


class TestFinish:
    @pytest.mark.parametrize("samples", [1, 639, 640, 641, 6400, 6401])
    def test_every_sample_gets_its_frame(self, tiny: unils.Model, samples: int) -> None:
        tracks = {track: voice(1.0)[:samples] for track in TRACKS}
        assert len(frames_of(tiny, tracks)) == -(-samples // 640)

    def test_nothing_pushed_is_nothing_made(self, tiny: unils.Model) -> None:
        session = unils.Session(tiny)
        session.finish()
        assert session.frames_ready == 0
        assert len(session.pull_frames()) == 0

    def test_what_is_missing_is_silence(self, tiny: unils.Model) -> None:
        tracks = voices(2.0)
        short = {"self": tracks["self"], "other": tracks["other"][:10000]}
        padded = {**short, "other": np.pad(short["other"], (0, 22000))}
        assert_same_frames(frames_of(tiny, short), frames_of(tiny, padded))

    def test_finishing_twice_is_finishing_once(self, tiny: unils.Model) -> None:
        session = unils.Session(tiny)
        stream(session, voices(0.5))
        session.finish()
        session.finish()
        assert len(drain(session)) == 2


class TestPull:
    def test_frames_ready_is_what_a_pull_returns(self, tiny: unils.Model) -> None:
        session = unils.Session(tiny)
        for samples in voices(1.0).values():
            session.push_audio(samples, "self" if session.stats.samples_self == 0 else "other")
        assert session.frames_ready == 24
        assert len(session.pull_frames(0)) == 0
        assert len(session.pull_frames(10)) == 10
        assert session.frames_ready == 14
        assert len(session.pull_frames(10**12)) == 14
        assert session.frames_ready == 0

    @pytest.mark.parametrize(("count", "error"), [(-1, ValueError), (1.5, TypeError), ("all", TypeError)])
    def test_a_count_that_is_none_is_refused(self, tiny: unils.Model, count: object, error: type[Exception]) -> None:
        with pytest.raises(error, match="max_frames"):
            unils.Session(tiny).pull_frames(count)  # type: ignore[arg-type]

    def test_frames_belong_to_the_caller(self, tiny: unils.Model) -> None:
        session = unils.Session(tiny)
        first = stream(session, voices(1.0))
        values = first.values.copy()
        stream(session, voices(1.0, seed=1))
        first_again = first.values
        np.testing.assert_array_equal(first_again, values)
        first.values[:] = 7
        session.snapshot()


class TestClock:
    def test_both_waits_for_both(self, tiny: unils.Model) -> None:
        session = unils.Session(tiny, look_ahead=BLIND)
        session.push_audio(voice(1.0), "self")
        assert session.frames_ready == 0
        session.push_audio(voice(0.5), "other")
        assert session.frames_ready == 12

    def test_other_takes_missing_own_audio_as_silence(self, tiny: unils.Model) -> None:
        tracks = voices(3.0)
        session = unils.Session(tiny, clock="other")
        frames = stream(session, {"other": tracks["other"]})
        assert len(frames) == 75
        assert session.stats.silent_own_frames == 75
        silent = {"self": np.zeros(len(tracks["other"]) + 640, np.float32), "other": tracks["other"]}
        assert_same_frames(frames, frames_of(tiny, silent, finish=False))

    def test_other_lets_own_audio_pushed_early_wait_for_its_turn(self, tiny: unils.Model) -> None:
        tracks = voices(3.0)
        session = unils.Session(tiny, clock="other")
        session.push_audio(tracks["self"], "self")
        assert session.frames_ready == 0
        frames = stream(session, {"other": tracks["other"]})
        assert session.stats.silent_own_frames == 0
        padded = {**tracks, "self": np.pad(tracks["self"], (0, 640))}
        assert_same_frames(frames, frames_of(tiny, padded, finish=False))

    @pytest.mark.parametrize("rate", [16000, 24000])
    def test_other_starts_late_own_audio_at_the_next_frame(self, tiny: unils.Model, rate: int) -> None:
        other = voice(4.0, seed=1)
        own = voice(2.0, rate, seed=2)
        session = unils.Session(tiny, clock="other", look_ahead=BLIND)
        before = stream(session, {"other": other[:16300]})
        assert len(before) == 25
        session.push_audio(own, "self", rate)
        after = stream(session, {"other": other[16300:]})
        late = {"self": np.concatenate([np.zeros(rate, own.dtype), own]), "other": other}
        expected = unils.Session(tiny, clock="other", look_ahead=BLIND)
        expected.push_audio(late["self"], "self", rate)
        assert_same_frames(unils.FrameBatch.concatenate([before, after]), stream(expected, {"other": late["other"]}))

    def test_self_speaks_only_and_refuses_the_other_track(self, tiny: unils.Model) -> None:
        own = voice(2.0)
        session = unils.Session(tiny, clock="self")
        with pytest.raises(unils.UnilsError, match="other"):
            session.push_audio(own, "other")
        frames = stream(session, {"self": own})
        both = frames_of(tiny, {"self": own, "other": np.zeros_like(own)}, finish=False)
        assert_same_frames(frames, both)

    @pytest.mark.parametrize("clock", ["both", "other", "self"])
    def test_one_long_burst_gives_the_frames_of_real_time(self, tiny: unils.Model, clock: str) -> None:
        tracks = voices(10.0)
        if clock == "self":
            del tracks["other"]
        options = {"clock": clock, "look_ahead": BLIND}
        burst = frames_of(tiny, tracks, finish=False, **options)
        assert_same_frames(stream(unils.Session(tiny, **options), tracks), burst)

    def test_tracks_that_drift_apart_are_measured_and_keep_their_frames(self, tiny: unils.Model) -> None:
        """A clock 1 % fast: skew grows by 160 samples a second, and a frame still pairs the samples of its number."""
        session = unils.Session(tiny)
        tracks = {"self": voice(20.2), "other": voice(20.0, seed=1)}
        batches = []
        for i in range(1000):
            session.push_audio(tracks["self"][i * 323 : (i + 1) * 323], "self")
            session.push_audio(tracks["other"][i * 320 : (i + 1) * 320], "other")
            batches.append(session.pull_frames())
        assert session.stats.skew_samples == 3000
        assert session.stats.refused_samples == 0
        frames = unils.FrameBatch.concatenate(batches)
        assert_same_frames(frames, unils.animate(*tracks.values(), model=tiny)[: len(frames)])


class TestInterrupt:
    def test_generations_count_interruptions(self, tiny: unils.Model) -> None:
        session = unils.Session(tiny, clock="other")
        generations = []
        for expected in range(4):
            batch = stream(session, {"other": voice(0.2)})
            generations.append(batch.generation)
            assert [frame.generation for frame in batch] == [expected] * 5
            assert session.interrupt() == expected + 1
            assert session.pull_frames().generation == expected + 1
        assert generations == [0, 1, 2, 3]

    def test_own_audio_pushed_next_starts_at_the_next_frame(self, tiny: unils.Model) -> None:
        tracks, reply = voices(4.0), voice(2.0, seed=9)
        session = unils.Session(tiny, look_ahead=BLIND)
        for track, samples in tracks.items():
            session.push_audio(samples, track)
        before = session.pull_frames(20)
        session.interrupt()
        assert session.frames_ready == 0
        session.push_audio(reply, "self")
        after = session.pull_frames()
        heard = {"self": np.concatenate([tracks["self"][: 20 * 640], reply]), "other": tracks["other"]}
        assert_same_frames(
            unils.FrameBatch.concatenate([before, after]), frames_of(tiny, heard, look_ahead=BLIND, finish=False)
        )
        np.testing.assert_array_equal(after.index, np.arange(20, 20 + len(after)))

    @pytest.mark.parametrize("rate", [16000, 24000, 48000])
    @pytest.mark.parametrize("look_ahead", [1, 8])
    def test_what_look_ahead_had_heard_is_forgotten(self, tiny: unils.Model, rate: int, look_ahead: int) -> None:
        """Two sessions that differ only in own audio after the interruption's frame go on alike."""
        other, reply = voice(4.0, seed=1), voice(2.0, rate, seed=9)
        rests = []
        for seed in (2, 3):
            own = voice(3.0, rate, seed=2)
            cut = round((20 + look_ahead) / 25 * rate) + rate // 100
            own[cut:] = voice(3.0, rate, seed=seed)[cut:]
            session = unils.Session(tiny, look_ahead={"self": look_ahead, "other": 0})
            session.push_audio(own, "self", rate)
            session.push_audio(other, "other")
            session.pull_frames(20)
            session.interrupt()
            session.push_audio(reply, "self", rate)
            rests.append(session.pull_frames())
        assert len(rests[0]) >= 40
        assert_same_frames(rests[1], rests[0])

    def test_the_face_goes_on_while_nobody_speaks(self, tiny: unils.Model) -> None:
        session = unils.Session(tiny, clock="other", look_ahead=BLIND)
        tracks = voices(4.0)
        session.push_audio(tracks["self"], "self")
        before = stream(session, {"other": tracks["other"][:16000]})
        session.interrupt()
        after = stream(session, {"other": tracks["other"][16000:]})
        silent_after = np.concatenate([tracks["self"][:16000], np.zeros(48000, np.float32)])
        expected = frames_of(tiny, {"self": silent_after, "other": tracks["other"]}, look_ahead=BLIND, finish=False)
        assert_same_frames(unils.FrameBatch.concatenate([before, after]), expected)

    def test_barge_ins_in_any_number_keep_time(self, tiny: unils.Model) -> None:
        session = unils.Session(tiny, clock="other")
        random = np.random.default_rng(0)
        indices = []
        for _ in range(200):
            session.push_audio(voice(0.1), "self")
            session.push_audio(voice(float(random.uniform(0, 0.1))), "other")
            indices.extend(session.pull_frames().index.tolist())
            if random.random() < 0.5:
                session.interrupt()
        assert indices == list(range(len(indices)))


class TestThreads:
    def test_a_pusher_for_each_track_and_a_puller_get_the_frames_of_one_thread(self, tiny: unils.Model) -> None:
        tracks = voices(40.0)
        session = unils.Session(tiny)
        finished = threading.Event()
        batches = []

        def push(track: str) -> None:
            position = 0
            while position < len(tracks[track]):
                taken = session.push_audio(tracks[track][position : position + 1000], track)
                position += taken
                if not taken:
                    time.sleep(0.001)

        def pull() -> None:
            while not finished.is_set() or session.frames_ready:
                batches.append(session.pull_frames())

        pushers = [threading.Thread(target=push, args=(track,)) for track in TRACKS]
        puller = threading.Thread(target=pull)
        for thread in (*pushers, puller):
            thread.start()
        for thread in pushers:
            thread.join()
        finished.set()
        puller.join()
        session.finish()
        frames = unils.FrameBatch.concatenate([*batches, drain(session)])
        assert_same_frames(frames, unils.animate(*tracks.values(), model=tiny))

    def _refusals(self, work: Callable[[], None], threads: int = 4, seconds: float = 1.0) -> int:
        """How often BusyError met threads that do the same work on one session; any other error fails the test."""
        refused = []
        errors = []
        end = time.monotonic() + seconds

        def loop() -> None:
            while time.monotonic() < end and not errors:
                try:
                    work()
                except unils.BusyError:
                    refused.append(1)
                except Exception as error:
                    errors.append(error)

        workers = [threading.Thread(target=loop) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not errors, errors
        return len(refused)

    def test_two_pullers_at_once_are_refused_and_nothing_is_lost(self, tiny: unils.Model) -> None:
        tracks = voices(10.0)
        session = unils.Session(tiny)
        for track, samples in tracks.items():
            session.push_audio(samples, track)
        batches = []
        self._refusals(lambda: batches.append(session.pull_frames(3)))
        session.finish()
        batches.append(drain(session))
        batches.sort(key=lambda batch: int(batch.index[0]) if len(batch) else -1)
        assert_same_frames(unils.FrameBatch.concatenate(batches), frames_of(tiny, tracks))

    def test_a_second_puller_is_told_that_the_session_is_busy(self, tmp_path: object) -> None:
        """A model slow enough that two pulls are sure to meet."""
        sizes = {
            "audio_encoder": {"width": 64, "depth": 2, "kernel": 3, "expansion": 2},
            "codec": {"width": 64, "depth": 2, "kernel": 3, "expansion": 2, "bits": 16, "levels": 2, "gains": [1, 0.5]},
            "generator": {
                **{"width": 512, "depth": 4, "heads": 8, "feed_forward": 2048, "head_width": 128},
                **{"window_frames": 128, "audio_window_frames": 64, "style_tokens": 4},
            },
        }
        session = unils.Session(unils.Model.load(random_bundle(tmp_path / "slow", sizes=sizes)))  # type: ignore[operator]
        for track in TRACKS:
            session.push_audio(voice(10.0), track)
        assert self._refusals(lambda: session.pull_frames(8), threads=2) > 0

    def test_native_code_runs_without_the_gil(self, tiny: unils.Model) -> None:
        """Python switches threads only when a thread lets go: here, that is the counter's sleep and the native call."""
        counted = 0
        stop = threading.Event()

        def count() -> None:
            nonlocal counted
            while not stop.is_set():
                counted += 1
                time.sleep(0)

        interval = sys.getswitchinterval()
        counter = threading.Thread(target=count)
        counter.start()
        try:
            sys.setswitchinterval(1000)
            for attempt in range(50):
                session = unils.Session(tiny, seed=attempt)
                for track in TRACKS:
                    session.push_audio(voice(10.0), track)
                before = counted
                session.pull_frames()
                if counted > before:
                    break
            else:
                pytest.fail("no other thread ran while frames were made")
        finally:
            sys.setswitchinterval(interval)
            stop.set()
            counter.join()


class TestStats:
    def test_stats_tell_what_was_done(self, tiny: unils.Model) -> None:
        session = unils.Session(tiny)
        stream(session, voices(2.0))
        stats = session.stats
        assert stats.frames == 49
        assert (stats.samples_self, stats.samples_other, stats.skew_samples) == (32000, 32000, 0)
        assert (stats.refused_samples, stats.silent_own_frames) == (0, 0)
        assert 0 < stats.step_p50_us <= stats.step_p95_us <= stats.step_p99_us
        assert stats.session_bytes > 0

    def test_a_session_of_the_bundled_model_fits_in_4_mb(self, bundled: unils.Model) -> None:
        assert unils.Session(bundled).stats.session_bytes <= 4 * 2**20

    def test_sessions_are_freed(self, tiny: unils.Model) -> None:
        def resident() -> int:
            with open("/proc/self/statm", encoding="ascii") as fields:
                return int(fields.read().split()[1]) * 4096

        def use() -> None:
            session = unils.Session(tiny)
            stream(session, voices(0.2))

        for _ in range(20):
            use()
        before = resident()
        for _ in range(200):
            use()
        assert resident() - before < 20 * unils.Session(tiny).stats.session_bytes
