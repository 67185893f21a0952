"""What `push_audio` takes, what it refuses, and that the session goes on after either."""

from __future__ import annotations

import numpy as np
import pytest

import unils_sdk as unils
from conversation import TRACKS, assert_same_frames, drain, frames_of, stream, voice, voices

RAMP = np.linspace(-1, 1, 64000, dtype=np.float32)


def pcm16(samples: np.ndarray) -> np.ndarray:
    return (samples * 32767).round().astype(np.int16)


def unaligned(samples: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"\0" + samples.tobytes(), samples.dtype, offset=1)


def big_step(samples: np.ndarray) -> np.ndarray:
    return np.repeat(samples, 3)[::3]


def read_only(samples: np.ndarray) -> np.ndarray:
    copy = samples.copy()
    copy.flags.writeable = False
    return copy


@pytest.mark.parametrize(
    "form",
    [
        lambda s: s[None, :],
        lambda s: s[:, None],
        lambda s: s[::-1][::-1],
        lambda s: np.asfortranarray(s[:, None]),
        lambda s: np.stack([s, s], axis=1)[:, 0],
        big_step,
        unaligned,
        read_only,
    ],
)
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_every_form_of_mono_gives_the_same_frames(tiny: unils.Model, form: object, dtype: type) -> None:
    tracks = voices(1.0)
    if dtype == np.int16:
        tracks = {track: pcm16(samples) for track, samples in tracks.items()}
    session = unils.Session(tiny)
    for track, samples in tracks.items():
        assert session.push_audio(form(samples), track) == len(samples)
    session.finish()
    assert_same_frames(drain(session), frames_of(tiny, tracks))


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda b: memoryview(b).cast("h")])
def test_bytes_are_little_endian_pcm16(tiny: unils.Model, wrap: object) -> None:
    tracks = {track: pcm16(samples) for track, samples in voices(1.0).items()}
    session = unils.Session(tiny)
    for track, samples in tracks.items():
        assert session.push_audio(wrap(samples.astype("<i2").tobytes()), track) == len(samples)
    session.finish()
    assert_same_frames(drain(session), frames_of(tiny, tracks))


def test_odd_slices_of_a_byte_buffer_are_read_correctly(tiny: unils.Model) -> None:
    samples = pcm16(voice(0.5))
    buffer = b"x" + samples.astype("<i2").tobytes()
    tracks = {"self": samples, "other": samples}
    session = unils.Session(tiny)
    for track in TRACKS:
        assert session.push_audio(memoryview(buffer)[1:], track) == len(samples)
    session.finish()
    assert_same_frames(drain(session), frames_of(tiny, tracks))


def test_int16_and_float32_of_the_same_sound_give_the_same_frames(tiny: unils.Model) -> None:
    tracks = {track: pcm16(samples) for track, samples in voices(2.0).items()}
    as_float = {track: (samples / np.float32(32768)).astype(np.float32) for track, samples in tracks.items()}
    assert_same_frames(frames_of(tiny, as_float, 44100), frames_of(tiny, tracks, 44100))


def test_formats_may_change_between_pushes(tiny: unils.Model) -> None:
    samples = pcm16(voice(1.0))
    session = unils.Session(tiny)
    session.push_audio(samples, "other")
    session.push_audio(samples[:5000], "self")
    session.push_audio(samples[5000:9001].tobytes(), "self")
    session.push_audio((samples[9001:] / np.float32(32768)).astype(np.float32), "self")
    session.finish()
    assert_same_frames(drain(session), frames_of(tiny, {"self": samples, "other": samples}))


@pytest.mark.parametrize(
    "nothing",
    [
        b"",
        bytearray(),
        memoryview(b""),
        np.empty(0, np.int16),
        np.empty((1, 0), np.float32),
        np.empty((0, 1), np.int16),
    ],
)
def test_an_empty_push_takes_nothing_and_does_no_harm(tiny: unils.Model, nothing: object) -> None:
    session = unils.Session(tiny)
    for track in TRACKS:
        assert session.push_audio(nothing, track) == 0
    assert session.frames_ready == 0
    assert len(session.pull_frames()) == 0
    tracks = voices(0.5)
    assert_same_frames(stream(session, tracks), frames_of(tiny, tracks, finish=False))


@pytest.mark.parametrize(
    ("audio", "error", "says"),
    [
        (np.zeros(100), TypeError, "float64.*astype"),
        (np.zeros(100, np.int32), TypeError, "int32"),
        (np.zeros(100, np.uint8), TypeError, "uint8"),
        (np.zeros(100, ">i2"), TypeError, ">i2"),
        (np.zeros(100, np.complex64), TypeError, "complex64"),
        (np.zeros(100, object), TypeError, "object"),
        ([0.0] * 100, TypeError, "list"),
        ("audio.wav", TypeError, "str"),
        (None, TypeError, "NoneType"),
        (memoryview(np.zeros(100, np.float32)), TypeError, "'f'"),
        (np.zeros((100, 2), np.float32), ValueError, "100x2.*mix.*pick"),
        (np.zeros((2, 100), np.int16), ValueError, "2x100"),
        (np.zeros((1, 1, 100), np.int16), ValueError, "1x1x100"),
        (np.zeros((), np.float32), ValueError, "scalar"),
        (b"\0\0\0", ValueError, "3 bytes"),
    ],
)
def test_audio_of_another_kind_is_refused_with_advice(
    tiny: unils.Model, audio: object, error: type[Exception], says: str
) -> None:
    session = unils.Session(tiny)
    with pytest.raises(error, match=says) as raised:
        session.push_audio(audio, "self")  # type: ignore[arg-type]
    assert isinstance(raised.value, unils.UnilsError)
    assert session.stats.samples_self == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_audio_that_is_not_finite_is_refused_whole_and_the_session_goes_on(
    tiny: unils.Model, bad: float, rate: int
) -> None:
    tracks = voices(1.0, rate)
    session = unils.Session(tiny)
    for track, samples in tracks.items():
        session.push_audio(samples[:5000], track, rate)
        poisoned = samples[5000:].copy()
        poisoned[-1] = bad
        with pytest.raises(unils.NotFiniteError, match=f"(?i){track}.*(NaN|inf|finite)|(NaN|inf|finite)"):
            session.push_audio(poisoned, track, rate)
        assert session.push_audio(samples[5000:], track, rate) == len(samples) - 5000
    session.finish()
    assert_same_frames(drain(session), frames_of(tiny, tracks, rate))


@pytest.mark.parametrize("track", ["mic", "Self", "", 0, None, b"self"])
def test_an_unknown_track_is_refused_by_naming_the_two(tiny: unils.Model, track: object) -> None:
    with pytest.raises(ValueError, match="'self'.*'other'"):
        unils.Session(tiny).push_audio(RAMP, track)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0, -16000, 7999, 96001, 2**31, 2**70])
def test_rates_beyond_8_to_96_khz_are_refused(tiny: unils.Model, rate: int) -> None:
    session = unils.Session(tiny)
    with pytest.raises(ValueError, match="8000 to 96000"):
        session.push_audio(RAMP, "self", rate)
    with pytest.raises(ValueError, match="8000 to 96000"):
        unils.Session(tiny, sample_rate=rate)


@pytest.mark.parametrize("rate", [16000.0, "16000", [16000]])
def test_a_rate_is_an_integer(tiny: unils.Model, rate: object) -> None:
    with pytest.raises(TypeError, match="sample_rate"):
        unils.Session(tiny).push_audio(RAMP, "self", rate)  # type: ignore[arg-type]


def test_a_track_keeps_its_rate_until_reset(tiny: unils.Model) -> None:
    session = unils.Session(tiny, sample_rate=24000)
    session.push_audio(RAMP[:100], "self")
    session.push_audio(RAMP[:100], "other", 8000)
    with pytest.raises(ValueError, match="24000"):
        session.push_audio(RAMP[:100], "self", 48000)
    with pytest.raises(ValueError, match="8000"):
        session.push_audio(RAMP[:100], "other")
    session.reset()
    assert session.push_audio(RAMP[:100], "self", 48000) == 100


def test_audio_after_finish_is_refused_until_reset(tiny: unils.Model) -> None:
    session = unils.Session(tiny)
    session.push_audio(RAMP[:100], "self")
    session.finish()
    with pytest.raises(unils.StateError, match="finish"):
        session.push_audio(RAMP[:100], "self")
    assert len(drain(session)) == 1
    session.reset()
    assert session.push_audio(RAMP[:100], "self") == 100


def test_a_full_ring_takes_what_fits_and_says_so(tiny: unils.Model) -> None:
    """Clock `both`: the track that is ahead waits for the other, and nothing is lost."""
    tracks = voices(30.0)
    session = unils.Session(tiny)
    taken = session.push_audio(tracks["self"], "self")
    assert 160000 <= taken < len(tracks["self"])
    assert session.stats.refused_samples == len(tracks["self"]) - taken
    assert session.stats.skew_samples == taken
    batches = []
    position = {"self": taken, "other": 0}
    while position["self"] < len(tracks["self"]) or position["other"] < len(tracks["other"]):
        for track in TRACKS:
            position[track] += session.push_audio(tracks[track][position[track] :], track)
        batches.append(session.pull_frames())
    session.finish()
    frames = unils.FrameBatch.concatenate([*batches, drain(session)])
    assert_same_frames(frames, unils.animate(tracks["self"], tracks["other"], model=tiny))


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(48000, np.float32),
        np.ones(48000, np.float32),
        np.full(48000, -32768, np.int16),
        np.where(np.random.default_rng(0).random(48000) < 0.5, -32768, 32767).astype(np.int16),
        np.full(48000, 1e-42, np.float32),
        np.random.default_rng(1).normal(0, 1e-39, 48000).astype(np.float32),
        np.full(48000, np.finfo(np.float32).max, np.float32),
        np.eye(1, 48000, 24000, dtype=np.float32)[0],
    ],
    ids=["silence", "dc", "int16-dc", "full-scale-noise", "denormal-dc", "denormal-noise", "huge", "click"],
)
@pytest.mark.parametrize("rate", [16000, 48000])
def test_no_sound_breaks_the_face(tiny: unils.Model, sound: np.ndarray, rate: int) -> None:
    frames = frames_of(tiny, {"self": sound, "other": sound}, rate)
    assert len(frames) == len(sound) * 25 // rate
    assert np.isfinite(frames.values).all()
    assert frames.arkit.min() >= 0
    assert frames.arkit.max() <= 1
    assert np.abs(frames.head_pose).max() < np.pi


def test_a_face_that_listens_to_silence_still_moves(bundled: unils.Model) -> None:
    frames = frames_of(bundled, {"other": np.zeros(160000, np.float32)}, clock="other")
    moving = frames.values[25:].std(axis=0)
    assert (moving > 1e-4).sum() > 20
