"""`SessionPool`: many sessions of a model whose frames are made together."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from unils_sdk import _core
from unils_sdk.errors import InvalidArgumentError, InvalidTypeError, UnilsError, from_status
from unils_sdk.frames import FrameBatch, check_device
from unils_sdk.model import Model, ModelInfo
from unils_sdk.session import TRACKS, Mono, Session, check_sample_rate

MAX_SESSIONS = 16384


@dataclass(frozen=True)
class PoolStats:
    """What a pool holds."""

    max_sessions: int
    sessions: int
    """Places that are taken."""
    bytes: int
    """All memory of the pool, its sessions included; taken when it was made."""


class PoolFrames(Mapping[Session, FrameBatch]):
    """What one pull made, n frames: a mapping from session to `FrameBatch`, and the same frames as whole arrays, for
    callers that serve thousands of sessions. A session's frames lie together and in order."""

    __slots__ = ("_info", "_spans", "generation", "index", "motion", "on_device", "pts_seconds", "sessions")

    sessions: tuple[Session, ...]
    """Those with frames."""
    motion: npt.NDArray[np.float32]
    """(n, D)"""
    index: npt.NDArray[np.int64]
    """(n,)"""
    pts_seconds: npt.NDArray[np.float64]
    """(n,), index / 25"""
    generation: npt.NDArray[np.int64]
    """(n,)"""
    on_device: _core.DeviceArray | None
    """`motion` on the card, as DLPack, of a pull with a device; a session's part is `on_device.rows(start, stop)` of
    its span."""

    def __init__(self, spans: dict[Session, slice], info: ModelInfo, *arrays: npt.NDArray[Any]) -> None:
        self.sessions = tuple(spans)
        self.motion, self.index, self.pts_seconds, self.generation = arrays
        self.on_device = None
        self._spans = spans
        self._info = info

    def span(self, session: Session) -> slice:
        """Where a session's frames lie in the arrays. KeyError when it has none."""
        return self._spans[session]

    def __getitem__(self, session: Session) -> FrameBatch:
        span = self._spans[session]
        return FrameBatch(
            self.motion[span],
            self._info.channels,
            self.index[span],
            self.pts_seconds[span],
            int(self.generation[span.start]),
            self._info.rig,
        )

    def __iter__(self) -> Iterator[Session]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def __repr__(self) -> str:
        return f"PoolFrames({len(self.index)} frames of {len(self)} sessions)"


class SessionPool:
    """Room for sessions of family `stream` whose frames are made together, so that each reading of the weights serves
    many of them. A session's frames are those that it would make alone, bit for bit.

    model: the model, which the pool keeps alive; `Model.load(threads=...)` says how many threads share a batch.
    max_sessions: 1 to 16384. Memory for all of them is taken now, and none later.
    backend: the one to run on when it is not the model's own; the bundle is then loaded again, with the same
        threads and precision.

    One thread pulls. Sessions are made, pushed to and closed from any thread; their other calls are refused with
    `BusyError` while a pull has the session, so make them on the pulling thread or try again.
    """

    __slots__ = ("_core", "_model", "_sessions")

    def __init__(self, model: Model, *, max_sessions: int, backend: str | None = None) -> None:
        if not isinstance(model, Model):
            raise InvalidTypeError(f"model must be a Model, made by Model.load(), not {type(model).__name__}")
        try:
            room = operator.index(max_sessions)
        except TypeError:
            raise InvalidTypeError(f"max_sessions must be an int, not {type(max_sessions).__name__}") from None
        if not 1 <= room <= MAX_SESSIONS:
            raise InvalidArgumentError(f"max_sessions must be 1 to {MAX_SESSIONS}, not {room}")
        if backend is not None:
            model = model.on(backend)
        self._model = model
        self._sessions: weakref.WeakValueDictionary[int, Session] = weakref.WeakValueDictionary()
        self._core = _core.Pool(model._core, room)

    @property
    def model(self) -> Model:
        return self._model

    def session(self, **options: Any) -> Session:
        """A new session in a free place, with the options of `Session`. Its place is free again when it is closed
        (`Session.close()`, or a `with` block) or nobody refers to it any more.

        Its frames come from `pull()`. Raises `PoolFullError` when every place is taken, and what `Session` raises.
        """
        session = _PooledSession(self, **options)
        self._sessions[session._core.id()] = session
        return session

    def push_audio(
        self, sessions: Sequence[Session], samples: Mono, track: str, sample_rate: int = 16000
    ) -> npt.NDArray[np.int64]:
        """A chunk of one track for each of some sessions of this pool, in one call: what `Session.push_audio` does with
        each, for servers of thousands.

        samples: (len(sessions), n), int16 or float32 in [-1, 1]. Returns how many samples each took, (len(sessions),).
        Where a push fails, the others are made all the same, and the error of the first that failed is raised, with
        what each took as its `taken`.
        """
        if track not in TRACKS:
            raise InvalidArgumentError(f"track must be 'self' or 'other', not {track!r}")
        if not isinstance(samples, np.ndarray) or samples.dtype not in (np.int16, np.float32):
            raise InvalidTypeError("samples must be an int16 or float32 NumPy array (sessions, n)")
        if samples.ndim != 2 or len(samples) != len(sessions):
            raise InvalidArgumentError(
                f"samples must have shape (sessions, n), here ({len(sessions)}, n), not {samples.shape}"
            )
        for session in sessions:
            if not isinstance(session, _PooledSession) or session._pool is not self:
                raise InvalidArgumentError("sessions must be sessions of this pool")
        taken, failed, status, message = self._core.push_audio(
            [session._core for session in sessions],
            TRACKS.index(track),
            np.require(samples, requirements=["C", "A"]),
            check_sample_rate(sample_rate),
        )
        if failed >= 0:
            error = from_status(status, f"session {failed} of {len(sessions)}: {message}")
            error.taken = taken
            raise error
        return taken

    def pull(self, max_frames: int | None = None, device: str | None = None) -> PoolFrames:
        """Make every frame that can be made now, up to `max_frames` of all sessions, and return them by session.

        It never waits for audio, and a session without a whole hop costs nothing. Where `max_frames` cuts, the next
        pull begins with the session whose turn it is. The frames of a session are of one generation. A session that
        fails is left out of the rest of the pull; the next pull, or this one when it has no frame, raises the failure.

        device: `cuda` for frames in the memory of the card that the model computes on (`PoolFrames.on_device`).
        """
        check_device(device, self._model._core)
        if max_frames is not None:
            try:
                max_frames = operator.index(max_frames)
            except TypeError:
                raise InvalidTypeError(f"max_frames must be an int or None, not {type(max_frames).__name__}") from None
            if max_frames < 0:
                raise InvalidArgumentError(f"max_frames must be None or at least 0, not {max_frames}")
        ids, motion, index, pts_seconds, generation = self._core.pull(max_frames)
        order = np.argsort(ids, kind="stable")
        generation = generation[order]
        numbers, starts = np.unique(ids[order], return_index=True)
        ends = np.append(starts, len(ids))[1:]
        spans: dict[Session, slice] = {}
        for number, start, end in zip(numbers.tolist(), starts.tolist(), ends.tolist(), strict=True):
            session = self._sessions.get(number)
            if session is not None:  # else it was closed while its frames were made
                session._generation = int(generation[start])
                spans[session] = slice(start, end)
        frames = PoolFrames(spans, self._model.info, motion[order], index[order], pts_seconds[order], generation)
        if device is not None:
            try:
                frames.on_device = self._model._core.device_put(frames.motion)
            except UnilsError as error:
                error.frames = frames
                raise
        return frames

    @property
    def stats(self) -> PoolStats:
        return PoolStats(**self._core.stats())

    def close(self) -> None:
        """No more pulls and new sessions. The memory goes back when the last session is closed."""
        self._core.close()

    def __enter__(self) -> SessionPool:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class _PooledSession(Session):
    __slots__ = ("_pool",)

    def __init__(self, pool: SessionPool, **options: Any) -> None:
        self._pool = pool
        super().__init__(pool.model, **options)

    def _open(self, options: _core.SessionOptions) -> _core.Session:
        return self._pool._core.session(options)
