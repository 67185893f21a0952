"""Reader of a corpus on disk (docs/corpus.md): which ids it holds, and one id at a time, checked."""

from __future__ import annotations

import json
import wave
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = "unils-corpus"
FORMAT_VERSION = 1
SAMPLE_RATE = 16000
FRAME_RATE = 25
HOP_SAMPLES = SAMPLE_RATE // FRAME_RATE


class CorpusError(ValueError):
    """A corpus on disk is not what docs/corpus.md says; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Corpus:
    """The table of contents of a corpus: `splits` maps train, val and test to ids."""

    path: Path
    channels: tuple[str, ...]
    rig: str
    seed: int
    splits: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Clip:
    """One face in one conversation. S samples at 16 kHz, T = S / 640 frames at 25 a second, E events, P own phones.

    `self_audio` and `other_audio` (S,) int16; `motion` (T, D) float32; `speech_mask` (T,) bool or None; `event_kind`
    (E,) str with `event_start` and `event_end` (E,) in frames, end exclusive; `phone` (P,) str with `phone_start` and
    `phone_end` (P,) in seconds.
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


def open_corpus(path: Path) -> Corpus:
    """Read `corpus.json` of the corpus at `path`. Raises CorpusError."""
    file = path / "corpus.json"
    try:
        document = json.loads(file.read_text())
    except FileNotFoundError:
        raise CorpusError(
            f"{file} is missing: {path} is no corpus, or its making was interrupted (unils-train synth --resume)"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file} is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CorpusError(f'{file}: "format" must be "{FORMAT}"')
    if document.get("format_version") != FORMAT_VERSION:
        raise CorpusError(f"{file}: format_version {document.get('format_version')!r} is not {FORMAT_VERSION}")
    splits, channels = document.get("splits"), document.get("channels")
    if not isinstance(channels, list) or not all(isinstance(name, str) for name in channels):
        raise CorpusError(f'{file}: "channels" must be a list of names')
    if not isinstance(splits, dict) or not all(
        isinstance(ids, list) and all(isinstance(name, str) for name in ids) for ids in splits.values()
    ):
        raise CorpusError(f'{file}: "splits" must map names to lists of ids')
    for ids in splits.values():
        for name in ids:
            if not name or name in (".", "..") or "/" in name or "\\" in name:
                raise CorpusError(f"{file}: the id {name!r} is not the name of a folder")
    return Corpus(
        path,
        tuple(channels),
        str(document.get("rig", "arkit")),
        int(document.get("seed", 0)),
        {split: tuple(ids) for split, ids in splits.items()},
    )


def list_ids(path: Path, split: str) -> tuple[str, ...]:
    """The ids of `split` of the corpus at `path`. Raises CorpusError."""
    corpus = open_corpus(path)
    if split not in corpus.splits:
        raise CorpusError(f"{path} has no split {split!r}: it has {', '.join(corpus.splits)}")
    return corpus.splits[split]


def _read_wav(path: Path) -> NDArray[np.int16]:
    try:
        with wave.open(str(path), "rb") as file:
            layout = (file.getframerate(), file.getnchannels(), file.getsampwidth())
            data = file.readframes(file.getnframes())
            expected = file.getnframes()
    except FileNotFoundError:
        raise CorpusError(f"{path} is missing") from None
    except (wave.Error, EOFError) as error:
        raise CorpusError(f"{path} is no wav file: {error}") from None
    if layout != (SAMPLE_RATE, 1, 2):
        raise CorpusError(
            f"{path} must be 16000 Hz, mono, int16; it is {layout[0]} Hz, {layout[1]} channels, {8 * layout[2]} bits"
        )
    if len(data) != 2 * expected:
        raise CorpusError(f"{path} is truncated: {len(data) // 2} of {expected} samples")
    return np.frombuffer(data, dtype="<i2").astype(np.int16)


def _column(arrays: dict[str, Any], name: str, dtype: type, file: Path, length: int | None) -> NDArray[Any]:
    value = arrays.get(name)
    if value is None and not length:
        return np.empty(0, dtype=dtype)
    if value is None:
        raise CorpusError(f"{file} has no array named {name}")
    if value.ndim != 1 or (length is not None and len(value) != length):
        raise CorpusError(f"{file}: {name} has shape {value.shape}, expected ({'N' if length is None else length},)")
    column: NDArray[Any] = value.astype(dtype)
    return column


def read_clip(path: Path, name: str) -> Clip:
    """Read the clip `name` of the corpus at `path`. Raises CorpusError where a file is missing or not as documented."""
    folder = path / name
    own, other = _read_wav(folder / "self.wav"), _read_wav(folder / "other.wav")
    file = folder / "motion.npz"
    try:
        with np.load(file, allow_pickle=False) as loaded:
            arrays = {key: loaded[key] for key in loaded.files}
    except FileNotFoundError:
        raise CorpusError(f"{file} is missing") from None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise CorpusError(f"{file} cannot be read: {error}") from None
    if "motion" not in arrays:
        raise CorpusError(f"{file} has no array named motion")
    motion = arrays["motion"]
    if motion.ndim != 2 or motion.dtype != np.float32:
        raise CorpusError(f"{file}: motion must be (T, D) float32; it is {motion.shape} {motion.dtype}")
    if not np.isfinite(motion).all():
        raise CorpusError(
            f"{file}: motion holds NaN or infinity, first in frame {int(np.argwhere(~np.isfinite(motion))[0, 0])}"
        )
    if len(own) != len(other):
        raise CorpusError(
            f"{folder}: self.wav has {len(own)} samples and other.wav {len(other)}; they must be equally long"
        )
    if len(motion) != len(own) // HOP_SAMPLES:
        raise CorpusError(
            f"{file}: {len(motion)} frames of motion for {len(own)} samples; there must be {len(own) // HOP_SAMPLES}"
        )
    if int(arrays.get("frame_rate", FRAME_RATE)) != FRAME_RATE:
        raise CorpusError(f"{file}: frame_rate must be {FRAME_RATE}, it is {arrays['frame_rate']}")
    channels = (
        tuple(str(channel) for channel in arrays["channels"]) if "channels" in arrays else open_corpus(path).channels
    )
    if len(channels) != motion.shape[1]:
        raise CorpusError(f"{file}: {motion.shape[1]} columns of motion, but {len(channels)} channel names")
    mask = _column(arrays, "speech_mask", np.bool_, file, len(motion)) if "speech_mask" in arrays else None
    kinds = _column(arrays, "event_kind", np.str_, file, None)
    phones = _column(arrays, "phone", np.str_, file, None)
    starts, ends = (_column(arrays, f"event_{edge}", np.int64, file, len(kinds)) for edge in ("start", "end"))
    if np.any(ends < starts):
        raise CorpusError(f"{file}: an event ends before it starts")
    phone_start, phone_end = (
        _column(arrays, f"phone_{edge}", np.float64, file, len(phones)) for edge in ("start", "end")
    )
    return Clip(
        name, own, other, motion, channels, mask, kinds, starts, ends, phones, phone_start, phone_end,
        str(arrays.get("person", "")), str(arrays.get("voice", "")), str(arrays.get("language", "")),
    )  # fmt: skip
