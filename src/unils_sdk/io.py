"""Files: audio in (any format that FFmpeg reads), frames out and in (`.npz`, Live Link `.csv`).

What is written appears whole or not at all: into a temporary file beside the target, renamed when it is complete.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unils_sdk.errors import FileError
from unils_sdk.frames import FrameBatch
from unils_sdk.rigs import ARKIT_BLENDSHAPES, HEAD_POSE

EYE_FULL_LOOK_RADIANS = np.pi / 6
"""Eye rotation written to a Live Link CSV for an eyeLook shape of 1: our choice, as ARKit states none."""


@dataclass(frozen=True, eq=False)
class Audio:
    """One track of a recording."""

    samples: npt.NDArray[np.float32]
    """(n,), mono, in [-1, 1]."""
    sample_rate: int
    """Hz."""
    source_channels: int
    """How many channels the file has; they were mixed into one with equal weights."""


def read_audio(path: str | os.PathLike[str]) -> Audio:
    """The first audio stream of a file, mixed into one channel, at the file's own rate (kept within 8 to 96 kHz).

    Raises `FileError` when it is missing, is no audio or is empty.
    """
    import av

    try:
        with av.open(os.fspath(path)) as container:
            if not container.streams.audio:
                raise FileError(f"{path} holds no audio stream")
            stream = container.streams.audio[0]
            channels = stream.channels
            rate = min(max(stream.rate, 8000), 96000)
            resampler = av.AudioResampler(format="fltp", rate=rate)
            decoded = [
                part.to_ndarray()
                for source in (container.decode(stream), (None,))
                for frame in source
                for part in resampler.resample(frame)
            ]
    except (av.FFmpegError, OSError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"cannot read audio from {path}: {error.strerror or error}") from error
    if not decoded:
        raise FileError(f"{path} holds no audio samples")
    samples = np.concatenate(decoded, axis=1).mean(axis=0, dtype=np.float32)
    return Audio(samples, rate, channels)


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `target`, of the same suffix; renamed to it at the end, removed after an exception.

    A full disk or a missing permission is a `FileError` with a sentence, and what was at `target` stays as it was.
    """
    final = Path(target).resolve()  # so that a link stays one
    temporary = final.with_name(f".{final.stem}.{os.urandom(4).hex()}{final.suffix}")
    try:
        if final.exists() and not final.is_file():
            raise FileError(f"cannot write {target}: it exists and is not a regular file")
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())  # a full disk may show only here
        os.replace(temporary, final)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_npz(path: str | os.PathLike[str], batch: FrameBatch) -> None:
    """`values` (n, D) float32, `channels` (D,), `index` (n,) int64, `pts_seconds` (n,) float64, `generation`, `rig`."""
    content = io.BytesIO()
    np.savez(
        content,
        values=batch.values,
        channels=np.array(batch.channels),
        index=batch.index,
        pts_seconds=batch.pts_seconds,
        generation=np.int64(batch.generation),
        rig=np.array(batch.rig),
    )
    write_bytes(path, content.getvalue())


def read_npz(path: str | os.PathLike[str]) -> FrameBatch:
    """Frames as `write_npz` wrote them, or the `motion` of a corpus (`motion`, `channels`)."""
    import zipfile

    try:
        archive = np.load(os.fspath(path), allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise FileError(f"{path} holds a single array and no frames")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise FileError(f"cannot read frames from {path}: {error}") from error
    values = arrays.get("values", arrays.get("motion"))
    channels = arrays.get("channels")
    if values is None or channels is None or values.ndim != 2 or channels.shape != values.shape[1:]:
        raise FileError(f"{path} holds no frames: it needs values or motion (n, D), and channels (D,)")
    names = tuple(str(name) for name in channels)
    index = arrays.get("index", np.arange(len(values), dtype=np.int64)).astype(np.int64)
    return FrameBatch(
        values=values.astype(np.float32),
        channels=names,
        index=index,
        pts_seconds=arrays.get("pts_seconds", index / 25).astype(np.float64),
        generation=int(arrays.get("generation", 0)),
        rig=str(arrays.get("rig", "arkit" if "jawOpen" in names else "flame")),
    )


def _live_link_columns() -> list[str]:
    """The blendshapes as the Live Link Face app writes them: its CSV, unlike its wire, has right before left twice."""
    names = list(ARKIT_BLENDSHAPES)
    for left, right in (("jawLeft", "jawRight"), ("mouthLeft", "mouthRight")):
        i, j = names.index(left), names.index(right)
        names[i], names[j] = right, left
    return names


def write_live_link_csv(path: str | os.PathLike[str], batch: FrameBatch) -> None:
    """Frames of rig `arkit` as a Live Link Face CSV: `Timecode,BlendShapeCount,` and 61 names.

    Blendshapes and head rotation (radians, signs as in `rigs.HEAD_POSE`) are the frame's own. Eye rotations, which the
    rig does not hold, are derived from the eyeLook shapes with the same signs; eye roll is 0. Time codes count 25
    frames a second from 00:00:00:00.
    """
    blendshapes = _live_link_columns()
    arkit = dict(zip(ARKIT_BLENDSHAPES, batch.arkit.T.astype(np.float64), strict=True))
    columns = {name[0].upper() + name[1:]: arkit[name] for name in blendshapes}
    columns |= {name[0].upper() + name[1:]: pose for name, pose in zip(HEAD_POSE, batch.head_pose.T, strict=True)}
    # Outwards is to the face's own left for its left eye and to its right for its right eye.
    for side, towards_left, towards_right in (("Left", "Out", "In"), ("Right", "In", "Out")):
        yaw = arkit[f"eyeLook{towards_left}{side}"] - arkit[f"eyeLook{towards_right}{side}"]
        pitch = arkit[f"eyeLookUp{side}"] - arkit[f"eyeLookDown{side}"]
        columns[f"{side}EyeYaw"] = yaw * EYE_FULL_LOOK_RADIANS
        columns[f"{side}EyePitch"] = pitch * EYE_FULL_LOOK_RADIANS
        columns[f"{side}EyeRoll"] = np.zeros(len(batch))
    rows = ["Timecode,BlendShapeCount," + ",".join(columns)]
    table = np.stack(list(columns.values()), axis=1) if len(batch) else np.empty((0, len(columns)))
    for index, values in zip(batch.index.tolist(), table.tolist(), strict=True):
        rows.append(f"{_timecode(index)},{len(columns)}," + ",".join(f"{value:.8f}" for value in values))
    write_bytes(path, ("\n".join(rows) + "\n").encode())


def _timecode(index: int) -> str:
    seconds, frame = divmod(index, 25)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}:{frame:02d}.000"
