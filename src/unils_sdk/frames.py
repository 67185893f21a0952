"""Frames of facial motion: `FrameBatch` (what a pull returns) and `Frame` (one of them)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import numpy.typing as npt

from unils_sdk import _core, rigs
from unils_sdk.errors import InvalidArgumentError, UnilsError

Float32Array = npt.NDArray[np.float32]


class _RigFields:
    """The named parts of a frame. They are views of `values`, whose last axis is the channels."""

    __slots__ = ()
    values: Float32Array
    rig: str

    def _part(self, rig: str, part: slice) -> Float32Array:
        if self.rig != rig:
            raise InvalidArgumentError(f"these frames are of rig {self.rig!r} and have no {rig} fields; read .values")
        return self.values[..., part]

    @property
    def arkit(self) -> Float32Array:
        """The 52 ARKit blendshapes, 0 to 1, in Live Link order (rig `arkit`)."""
        return self._part("arkit", slice(0, 52))

    @property
    def head_pose(self) -> Float32Array:
        """Head yaw, pitch and roll in radians (rig `arkit`)."""
        return self._part("arkit", slice(52, 55))

    @property
    def expression(self) -> Float32Array:
        """100 FLAME expression coefficients (rig `flame`)."""
        return self._part("flame", rigs.FLAME_EXPRESSION)

    @property
    def global_pose(self) -> Float32Array:
        """Head rotation, axis-angle, 3 numbers in radians (rig `flame`)."""
        return self._part("flame", rigs.FLAME_GLOBAL_POSE)

    @property
    def jaw_pose(self) -> Float32Array:
        """Jaw opening, 1 number in radians (rig `flame`)."""
        return self._part("flame", rigs.FLAME_JAW_POSE)

    @property
    def eye_pose(self) -> Float32Array:
        """Pitch and yaw of the left, then of the right eye, 4 numbers in radians (rig `flame`)."""
        return self._part("flame", rigs.FLAME_EYE_POSE)


@dataclass(frozen=True, eq=False, slots=True)
class Frame(_RigFields):
    """One motion vector, 1/25 s. Frame `index` covers samples [640 index, 640 (index + 1)) at 16 kHz."""

    values: Float32Array
    """(D,)"""
    channels: tuple[str, ...]
    """D names."""
    index: int
    pts_seconds: float
    """index / 25: where the frame's audio begins."""
    generation: int
    """How often the session had been interrupted when the frame was made; drop a frame older than the last."""
    rig: str


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class FrameBatch(_RigFields):
    """Frames in order, n of them, perhaps none. Iterate over it for single frames; a slice is a batch of views."""

    values: Float32Array
    """(n, D)"""
    channels: tuple[str, ...]
    """D names."""
    index: npt.NDArray[np.int64]
    """(n,)"""
    pts_seconds: npt.NDArray[np.float64]
    """(n,), index / 25"""
    generation: int
    """How often the session had been interrupted when these frames were made; all of one pull are of one generation."""
    rig: str
    other: FrameBatch | None = None
    """The other person's face in the same frames, of a session with two."""

    def __repr__(self) -> str:
        span = f" {self.index[0]}..{self.index[-1]}" if len(self) else ""
        return f"FrameBatch({len(self)} frames{span}, rig={self.rig!r}, generation={self.generation})"

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Frame]:
        for i in range(len(self)):
            yield self[i]

    @overload
    def __getitem__(self, key: int) -> Frame: ...
    @overload
    def __getitem__(self, key: slice) -> FrameBatch: ...
    def __getitem__(self, key: int | slice) -> Frame | FrameBatch:
        if isinstance(key, slice):
            return replace(
                self,
                values=self.values[key],
                index=self.index[key],
                pts_seconds=self.pts_seconds[key],
                other=None if self.other is None else self.other[key],
            )
        return Frame(
            values=self.values[key],
            channels=self.channels,
            index=int(self.index[key]),
            pts_seconds=float(self.pts_seconds[key]),
            generation=self.generation,
            rig=self.rig,
        )

    @staticmethod
    def concatenate(batches: Sequence[FrameBatch]) -> FrameBatch:
        """One batch of all the frames (a copy). Its generation is that of the last batch."""
        if not batches:
            raise InvalidArgumentError("there is no batch to concatenate; pass at least one, which may be empty")
        if any(batch.channels != batches[0].channels for batch in batches):
            raise InvalidArgumentError("the batches have different channels; concatenate frames of one rig only")
        others = [batch.other for batch in batches if batch.other is not None]
        if len(others) not in (0, len(batches)):
            raise InvalidArgumentError("some of the batches have a second face and some have not")
        return FrameBatch(
            values=np.concatenate([batch.values for batch in batches]),
            channels=batches[0].channels,
            index=np.concatenate([batch.index for batch in batches]),
            pts_seconds=np.concatenate([batch.pts_seconds for batch in batches]),
            generation=batches[-1].generation,
            rig=batches[0].rig,
            other=FrameBatch.concatenate(others) if others else None,
        )


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class DeviceFrames:
    """Frames whose values lie on a device, for renderers that live there: `torch.from_dlpack(frames.values)`. The
    other fields are those of `FrameBatch`."""

    values: _core.DeviceArray
    """(n, D), float32"""
    channels: tuple[str, ...]
    index: npt.NDArray[np.int64]
    pts_seconds: npt.NDArray[np.float64]
    generation: int
    rig: str
    other: DeviceFrames | None = None

    def __repr__(self) -> str:
        return f"DeviceFrames({len(self)} frames, rig={self.rig!r}, generation={self.generation})"

    def __len__(self) -> int:
        return len(self.index)

    @staticmethod
    def of(batch: FrameBatch, model: _core.Model) -> DeviceFrames:
        """A copy on the device that `model` computes on. Raises `BackendError` where that is the host, and when the
        copy fails; the error's `frames` are then the batch, so that nothing is lost."""
        try:
            return DeviceFrames(
                values=model.device_put(batch.values),
                channels=batch.channels,
                index=batch.index,
                pts_seconds=batch.pts_seconds,
                generation=batch.generation,
                rig=batch.rig,
                other=None if batch.other is None else DeviceFrames.of(batch.other, model),
            )
        except UnilsError as error:
            error.frames = batch
            raise


def check_device(device: str | None, model: _core.Model) -> None:
    """`BackendError` before anything is pulled, unless frames of this model can be on `device`."""
    if device is None:
        return
    if device != "cuda":
        raise InvalidArgumentError(f"device must be None (NumPy) or 'cuda', not {device!r}")
    model.device_put(np.empty(0, np.float32))
