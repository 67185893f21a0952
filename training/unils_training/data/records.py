"""What a dataset holds, whatever its form on disk: clips, and the checked reader of the `.npz` files they come in."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16000
FRAME_RATE = 25
HOP_SAMPLES = SAMPLE_RATE // FRAME_RATE

MAX_ARRAY_BYTES = 4 * 2**30
"""The largest array that is read: some five hours of float32 audio and as many of everything else."""


class CorpusError(ValueError):
    """A dataset on disk is not what docs/corpus.md says; the message names the file or record and what is wrong."""


@dataclass(frozen=True)
class Clip:
    """One face in one conversation. S samples at 16 kHz, T = S / 640 frames at 25 a second, E events, P own phones.

    `self_audio` and `other_audio` (S,) int16; `motion` (T, D) float32 in the units of the rig; `speech_mask` and
    `other_speech_mask` (T,) bool or None where unknown; `event_kind` (E,) str with `event_start` and `event_end` (E,)
    in frames, end exclusive; `phone` (P,) str with `phone_start` and `phone_end` (P,) in seconds.
    """

    id: str
    self_audio: NDArray[np.int16]
    other_audio: NDArray[np.int16]
    motion: NDArray[np.float32]
    channels: tuple[str, ...]
    speech_mask: NDArray[np.bool_] | None
    event_kind: NDArray[np.str_]
    event_start: NDArray[np.int64]
    event_end: NDArray[np.int64]
    phone: NDArray[np.str_]
    phone_start: NDArray[np.float64]
    phone_end: NDArray[np.float64]
    person: str
    voice: str
    language: str
    other_speech_mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class MotionClip:
    """A face without sound: `motion` (T, D) float32, `speech_mask` (T,) bool or None where unknown."""

    id: str
    motion: NDArray[np.float32]
    channels: tuple[str, ...]
    speech_mask: NDArray[np.bool_] | None
    person: str


def read_npz(source: Path | bytes, label: str, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz`, only those of `names` where given and only as far as it holds them.

    Nothing in the file is executed (object arrays are refused), and no size is believed before it was compared with
    the bytes that are there.

    Raises:
        CorpusError: it begins with `label`; the file is missing, truncated, too large or no archive of arrays.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if names is None or name in names:
                    with archive.open(member) as file:
                        arrays[name] = _read_array(file, member.file_size, f"{label}: {name}")
    except FileNotFoundError:
        raise CorpusError(f"{label} is missing") from None
    except CorpusError:
        raise
    except (
        *(ValueError, EOFError, OSError, RuntimeError, NotImplementedError, SyntaxError),
        *(zipfile.BadZipFile, zlib.error, struct.error),
    ) as error:
        raise CorpusError(f"{label} cannot be read: {error}") from None
    return arrays


def _read_array(file: IO[bytes], size: int, label: str) -> NDArray[Any]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise CorpusError(f"{label} is of npy version {version}, which is not read")
    shape, fortran_order, dtype = readers[version](file)
    if dtype.hasobject:
        raise CorpusError(f"{label} holds pickled objects, which are never loaded")
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or expected > MAX_ARRAY_BYTES:
        raise CorpusError(f"{label} claims the shape {shape}, more than the {MAX_ARRAY_BYTES >> 30} GiB that are read")
    if expected != size - file.tell():
        raise CorpusError(f"{label} claims {expected} bytes for shape {shape} and has {size - file.tell()}")
    data = file.read(expected)
    if len(data) != expected or file.read(1):  # reading to the end also checks the archive's checksum
        raise CorpusError(f"{label} is truncated: {len(data)} of {expected} bytes")
    if dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")


def read_mask(arrays: dict[str, NDArray[Any]], frames: int, label: str) -> NDArray[np.bool_] | None:
    """`speech_mask` as (frames,) bool, None where there is none. Raises CorpusError."""
    mask = arrays.get("speech_mask")
    if mask is None:
        return None
    if mask.ndim != 1 or len(mask) != frames or mask.dtype.kind not in "biuf":
        raise CorpusError(f"{label}: speech_mask has shape {mask.shape} {mask.dtype}, expected ({frames},)")
    if mask.dtype.kind == "f" and not np.isfinite(mask).all():
        raise CorpusError(f"{label}: speech_mask holds NaN or infinity")
    return np.asarray(mask > 0.5 if mask.dtype.kind == "f" else mask != 0)


def read_labels(arrays: dict[str, NDArray[Any]], label: str) -> dict[str, Any]:
    """The labels of a clip, all of them optional, by the names of `Clip`'s fields. Raises CorpusError."""
    kinds = _column(arrays, "event_kind", np.str_, label, None)
    phones = _column(arrays, "phone", np.str_, label, None)
    labels = {
        "event_kind": kinds,
        **{name: _column(arrays, name, np.int64, label, len(kinds)) for name in ("event_start", "event_end")},
        "phone": phones,
        **{name: _column(arrays, name, np.float64, label, len(phones)) for name in ("phone_start", "phone_end")},
    }
    if np.any(labels["event_end"] < labels["event_start"]):
        raise CorpusError(f"{label}: an event ends before it starts")
    return {**labels, **{name: read_text(arrays, name) for name in ("person", "voice", "language")}}


def _column(arrays: dict[str, NDArray[Any]], name: str, dtype: type, label: str, length: int | None) -> NDArray[Any]:
    value = arrays.get(name)
    if value is None and not length:
        return np.empty(0, dtype=dtype)
    if value is None:
        raise CorpusError(f"{label} has no array named {name}")
    if value.ndim != 1 or (length is not None and len(value) != length):
        raise CorpusError(f"{label}: {name} has shape {value.shape}, expected ({'N' if length is None else length},)")
    return np.asarray(value.astype(dtype))


def read_text(arrays: dict[str, NDArray[Any]], name: str, default: str = "") -> str:
    """A single string of the archive."""
    value = arrays.get(name)
    return default if value is None or value.size != 1 else str(value.reshape(-1)[0])


def check_finite(motion: NDArray[Any], label: str) -> None:
    """Raises CorpusError naming the first frame that holds NaN or infinity."""
    if not np.isfinite(motion).all():
        raise CorpusError(
            f"{label}: motion holds NaN or infinity, first in frame {int(np.argwhere(~np.isfinite(motion))[0, 0])}"
        )
