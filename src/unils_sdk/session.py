"""`Session`: one conversation. Audio of two tracks in, frames out."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import SupportsFloat, SupportsIndex, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from unils_sdk import _core
from unils_sdk.errors import InvalidArgumentError, InvalidTypeError
from unils_sdk.frames import DeviceFrames, FrameBatch, check_device
from unils_sdk.model import Model

Mono: TypeAlias = npt.NDArray[np.int16] | npt.NDArray[np.float32]
Samples: TypeAlias = Mono | bytes | bytearray | memoryview

TRACKS = ("self", "other")
CLOCKS = ("both", "other", "self")
MODES = ("windowed", "rolling")


@dataclass(frozen=True)
class Latency:
    """What must arrive before a frame can be made, in milliseconds; compute time is not counted."""

    hop_ms: float
    """A frame needs the whole hop that it covers."""
    look_ahead_self_ms: float
    look_ahead_other_ms: float
    resampler_self_ms: float
    """0 until the first push fixes the track's rate, and at 16 kHz."""
    resampler_other_ms: float
    block_ms: float
    """Frames are made this much audio at a time: one hop; in family `published` 4000, or `hop_frames` hops in rolling
    mode."""
    smoothing_ms: float
    """160 with smoothing, whose frame t waits for frame t + 4; else 0."""
    total_ms: float
    """From the first sample of a hop on the live track to its frame."""


@dataclass(frozen=True)
class Stats:
    """What a session has done since it was made or reset."""

    frames: int
    step_p50_us: float
    """Compute time of a frame in microseconds, over the last 4096."""
    step_p95_us: float
    step_p99_us: float
    samples_self: int
    """Samples taken, at 16 kHz."""
    samples_other: int
    skew_samples: int
    """samples_self - samples_other on the session's time line."""
    refused_samples: int
    """Samples offered but not taken because a ring was full."""
    silent_own_frames: int
    """Clock `other`: frames made with own audio missing."""
    session_bytes: int
    """Everything this session holds."""


class Session:
    """One conversation with one face.

    model: the model, which the session keeps alive.
    clock: when frame t may be made. `both`: both tracks have reached it. `other`: the live track has; own audio that is
        missing is silence, and own audio pushed early waits for its turn. `self`: speaking only; the other track is
        silence and refuses audio.
    look_ahead: frames of future that a frame may see, per track, `{"self": 1, "other": 0}` say; a track that is not
        named keeps the model's default. Each is a delay of 40 ms on its track. Family `published` takes it in rolling
        mode only.
    sample_rate: rate of pushes that do not name their own, 8000 to 96000 Hz.
    temperature: 0 is greedy. top_p: in (0, 1]. cfg_scale: strength of guidance by audio and style; 1 switches it off.
        None is the model's default.
    seed: the same model, audio, options and seed give bitwise the same frames.
    style: motion (n, D) of 1 to 20 seconds whose manner the face takes on: an array or a `FrameBatch`. Family
        `published` takes its first 4 seconds and refuses a shorter one.
    smoothing: each frame becomes its value on the least-squares cubic of the 9 frames around it (Savitzky and Golay,
        1964), as `scipy.signal.savgol_filter(clip, 9, 3, axis=0)` does to a whole clip. Frame t leaves when frame t + 4
        is made, so it costs 160 ms; the first four leave with frame 8, the last four after `finish()`.
    mode: `windowed` or `rolling`, for family `published`: the model's own windows of 100 frames, or `hop_frames` new
        frames at a time, in windows that begin with those shown before. A step costs what a window costs.
    hop_frames: frames of a step in rolling mode, 1 to the window less the longer look-ahead; 5 by default.
    faces: 2 (family `published`) makes the other person's face too, as a session of its own would with the tracks
        swapped and `seed + 1`, and costs less than two: `FrameBatch.other` has it. Look-ahead stays with its track.
    style_other: of the other face, as `style`; of two clips the shorter one decides how many frames count.

    One thread per track may push while one thread does everything else. Whatever else runs concurrently is refused with
    `BusyError`. The GIL is released while native code runs.
    """

    __slots__ = ("__weakref__", "_core", "_generation", "_model", "_sample_rate")

    def __init__(
        self,
        model: Model,
        *,
        clock: str = "both",
        look_ahead: Mapping[str, int] | None = None,
        sample_rate: int = 16000,
        temperature: float | None = None,
        top_p: float | None = None,
        cfg_scale: float | None = None,
        seed: int = 0,
        style: npt.ArrayLike | FrameBatch | None = None,
        smoothing: bool = False,
        mode: str = "windowed",
        hop_frames: int | None = None,
        faces: int = 1,
        style_other: npt.ArrayLike | FrameBatch | None = None,
    ) -> None:
        if not isinstance(model, Model):
            raise InvalidTypeError(f"model must be a Model, made by Model.load(), not {type(model).__name__}")
        if clock not in CLOCKS:
            raise InvalidArgumentError(f"clock must be 'both', 'other' or 'self', not {clock!r}")
        if mode not in MODES:
            raise InvalidArgumentError(f"mode must be 'windowed' or 'rolling', not {mode!r}")
        if hop_frames is not None:
            if mode != "rolling":
                raise InvalidArgumentError("hop_frames belongs to mode='rolling'; the model's own windows are not cut")
            hop_frames = _integer("hop_frames", hop_frames)
            if model.info.family == "published" and not 1 <= hop_frames <= model.info.window_frames:
                raise InvalidArgumentError(
                    f"hop_frames must be 1 to {model.info.window_frames}, the window of this model, not {hop_frames}"
                )
        faces = _integer("faces", faces)
        if faces not in (1, 2):
            raise InvalidArgumentError(f"faces must be 1 or 2, not {faces}")
        seed = _integer("seed", seed)
        if not 0 <= seed < 2**64:
            raise InvalidArgumentError(f"seed must be 0 to 2**64 - 1, not {seed}")
        if not isinstance(smoothing, (bool, np.bool_)):
            raise InvalidTypeError(f"smoothing must be True or False, not {type(smoothing).__name__}")
        ahead = _look_ahead(model, look_ahead)
        own_style, other_style = _styles(model, style, style_other)
        options = _core.SessionOptions(
            CLOCKS.index(clock),
            ahead["self"],
            ahead["other"],
            _number("temperature", temperature),
            _number("top_p", top_p),
            _number("cfg_scale", cfg_scale),
            seed,
            own_style,
            bool(smoothing),
            MODES.index(mode),
            hop_frames,
            faces,
            other_style,
        )
        self._model = model
        self._sample_rate = check_sample_rate(sample_rate)
        self._generation = 0
        self._core = self._open(options)

    def _open(self, options: _core.SessionOptions) -> _core.Session:
        return _core.Session(self._model._core, options)

    def close(self) -> None:
        """Give its memory, or its place in a pool, back now; every other call raises `StateError` from then on."""
        self._core.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    @property
    def model(self) -> Model:
        return self._model

    def push_audio(self, samples: Samples, track: str, sample_rate: int | None = None) -> int:
        """Hand over the next audio of a track and return how many samples were taken.

        samples: mono, any number of them: an int16 or float32 array (n,), (1, n) or (n, 1), or bytes of 16-bit
            little-endian PCM. float32 is in [-1, 1].
        track: `self` (the avatar's own voice) or `other` (the other person's).
        sample_rate: Hz, 8000 to 96000; the session's when None. The first push fixes a track's rate until `reset()`.

        It never blocks and computes no frame. When fewer are taken than were given, the track's ring is full: pull,
        then offer the rest again. NaN or infinity is refused with `NotFiniteError` and nothing of that push is taken.
        """
        if track not in TRACKS:
            raise InvalidArgumentError(
                f"track must be 'self' (the avatar's own voice) or 'other' (the other person's), not {track!r}"
            )
        rate = self._sample_rate if sample_rate is None else check_sample_rate(sample_rate)
        return self._core.push_audio(TRACKS.index(track), to_mono(samples), rate)

    @overload
    def pull_frames(self, max_frames: int | None = None, device: None = None) -> FrameBatch: ...
    @overload
    def pull_frames(self, max_frames: int | None = None, *, device: str) -> DeviceFrames: ...
    def pull_frames(self, max_frames: int | None = None, device: str | None = None) -> FrameBatch | DeviceFrames:
        """Make every frame that can be made now, up to `max_frames`. Never waits for audio; may return no frames.

        The frames of a batch are of one generation: after `interrupt()`, those that were made before it come alone.

        device: `cuda` for frames in the memory of the card that the model computes on, as DLPack; `BackendError` where
            it computes on the host. NumPy arrays otherwise.
        """
        check_device(device, self._model._core)
        if max_frames is not None:
            max_frames = _integer("max_frames", max_frames)
            if max_frames < 0:
                raise InvalidArgumentError(f"max_frames must be None or at least 0, not {max_frames}")
        values, index, pts_seconds, generation = self._core.pull_frames(max_frames)
        if len(generation):
            self._generation = int(generation[-1])
        info = self._model.info
        own, *others = (
            FrameBatch(np.ascontiguousarray(face), info.channels, index, pts_seconds, self._generation, info.rig)
            for face in values.swapaxes(0, 1)
        )
        batch = replace(own, other=others[0]) if others else own
        return batch if device is None else DeviceFrames.of(batch, self._model._core)

    @property
    def frames_ready(self) -> int:
        """How many frames pulls could hand over now."""
        return self._core.frames_ready()

    def interrupt(self) -> int:
        """Barge-in: forget own audio from the next frame on, and return the generation of the frames that follow.

        The other track and the face go on. Own audio pushed next starts at the next frame. Frames made before have an
        older generation, and may not have been shown or, with windows or smoothing, pulled yet: drop them.
        """
        self._generation = self._core.interrupt()
        return self._generation

    def finish(self) -> None:
        """No more audio: what is missing of the last hop, of look-ahead and of the shorter track is silence."""
        self._core.finish()

    def reset(self) -> None:
        """Start over at frame 0 with the same options, as if just made."""
        self._core.reset()
        self._generation = 0

    def snapshot(self) -> bytes:
        """Everything that changes, as bytes: for any session of the same model and options."""
        return self._core.snapshot()

    def restore(self, state: bytes) -> None:
        """Go on from a snapshot; the frames that follow are bitwise those that followed it."""
        if not isinstance(state, bytes):
            raise InvalidTypeError(f"state must be the bytes that snapshot() returned, not {type(state).__name__}")
        self._core.restore(state)

    @property
    def latency(self) -> Latency:
        return Latency(**self._core.latency())

    @property
    def stats(self) -> Stats:
        return Stats(**self._core.stats())


def _integer(name: str, value: SupportsIndex) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidTypeError(f"{name} must be an int, not {type(value).__name__}") from None


def _number(name: str, value: SupportsFloat | None) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidTypeError(f"{name} must be a number or None, not {type(value).__name__}") from None


def check_sample_rate(value: SupportsIndex) -> int:
    rate = _integer("sample_rate", value)
    if not 8000 <= rate <= 96000:
        raise InvalidArgumentError(f"sample_rate must be 8000 to 96000 Hz, not {rate}")
    return rate


def _look_ahead(model: Model, look_ahead: Mapping[str, int] | None) -> dict[str, int | None]:
    chosen: dict[str, int | None] = dict.fromkeys(TRACKS)
    if look_ahead is None:
        return chosen
    if not isinstance(look_ahead, Mapping):
        raise InvalidTypeError(
            f"look_ahead must be frames per track, {{'self': 1, 'other': 0}} say, not {type(look_ahead).__name__}"
        )
    for track, frames in look_ahead.items():
        if track not in TRACKS:
            raise InvalidArgumentError(f"look_ahead has the keys 'self' and 'other', not {track!r}")
        least, most = model.info.look_ahead[track]
        count = _integer(f"look_ahead[{track!r}]", frames)
        if not least <= count <= most:
            raise InvalidArgumentError(f"look_ahead[{track!r}] must be {least} to {most} frames, not {count}")
        chosen[track] = count
    return chosen


def _styles(model: Model, *styles: npt.ArrayLike | FrameBatch | None) -> Iterator[npt.NDArray[np.float32] | None]:
    clips = [None if style is None else _style(model, style) for style in styles]
    frames = min((len(clip) for clip in clips if clip is not None), default=0)
    return (None if clip is None else clip[:frames] for clip in clips)


def _style(model: Model, style: npt.ArrayLike | FrameBatch) -> npt.NDArray[np.float32]:
    try:
        motion = np.asarray(style.values if isinstance(style, FrameBatch) else style, dtype=np.float32)
    except (TypeError, ValueError):
        raise InvalidTypeError(
            f"style must be an array of numbers or a FrameBatch, not {type(style).__name__}"
        ) from None
    channels = len(model.info.channels)
    if motion.ndim != 2 or motion.shape[1] != channels:
        raise InvalidArgumentError(
            f"style must be motion of shape (n, {channels}), one row a frame, not {motion.shape}"
        )
    return np.ascontiguousarray(motion)


def to_mono(samples: Samples) -> Mono:
    """The samples as an aligned, contiguous array (n,): a view where that is possible."""
    if isinstance(samples, (bytes, bytearray, memoryview)):
        return _pcm16(samples)
    if not isinstance(samples, np.ndarray):
        raise InvalidTypeError(
            f"audio must be an int16 or float32 NumPy array or bytes of 16-bit PCM, not {type(samples).__name__}"
        )
    if samples.dtype not in (np.int16, np.float32):
        raise InvalidTypeError(
            f"audio must be int16 or float32 in [-1, 1], not {samples.dtype}; convert it first, "
            "with audio.astype(numpy.float32) when it is in [-1, 1] already"
        )
    if samples.ndim == 2 and 1 in samples.shape:
        samples = samples.reshape(-1)
    if samples.ndim != 1:
        shape = "x".join(map(str, samples.shape)) or "scalar"
        raise InvalidArgumentError(
            f"a track is mono: audio must have shape (n,), (1, n) or (n, 1), not {shape}; "
            "mix the channels into one or pick one, audio[:, 0] say"
        )
    return np.require(samples, requirements=["C", "A"])


def _pcm16(data: bytes | bytearray | memoryview) -> npt.NDArray[np.int16]:
    view = memoryview(data)
    if view.format not in ("B", "b", "c", "h", "<h"):
        raise InvalidTypeError(
            f"audio bytes must be 16-bit PCM, but this memoryview holds items of format {view.format!r}"
        )
    if view.nbytes % 2:
        raise InvalidArgumentError(
            f"16-bit PCM has two bytes a sample, but {view.nbytes} bytes were given; "
            "keep the odd byte for the next push"
        )
    if not view.nbytes:  # which NumPy refuses to view
        return np.empty(0, np.int16)
    pcm = np.frombuffer(view if view.c_contiguous else view.tobytes(), dtype="<i2")
    return np.require(pcm, dtype=np.int16, requirements=["C", "A"])
