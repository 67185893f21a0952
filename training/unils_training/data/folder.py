"""The folder form of a dataset (docs/corpus.md): `corpus.json`, and a folder of two wavs and a `motion.npz` an id."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import wave
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unils_training.data.records import (
    FRAME_RATE,
    HOP_SAMPLES,
    SAMPLE_RATE,
    Clip,
    CorpusError,
    MotionClip,
    check_finite,
    read_labels,
    read_mask,
    read_npz,
    read_text,
)

FORMAT = "unils-corpus"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Corpus:
    """A folder of clips; see `dataset.Dataset`. `splits` and `motion_only` map train, val and test to ids."""

    path: Path
    channels: tuple[str, ...]
    rig: str
    seed: int
    splits: dict[str, tuple[str, ...]]
    motion_only: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the table of contents."""
        return hashlib.sha256((self.path / "corpus.json").read_bytes()).hexdigest()

    def frames(self, name: str) -> int:
        """Frames of clip `name` by the header of its voice. Raises CorpusError."""
        return _wav_samples(self.path / name / "self.wav") // HOP_SAMPLES

    def motion_frames(self, name: str) -> int:
        """Frames of the motion of `name`. Raises CorpusError."""
        return len(self.read_motion(name).motion)

    def partner(self, name: str) -> str | None:
        """The id of the other person's side: `c000012a` and `c000012b` talk to each other; None where it is absent."""
        other = partner_id(name)
        return other if other and (self.path / other / "motion.npz").is_file() else None

    def read(self, name: str) -> Clip:
        """Clip `name`, with the partner's speech mask where the corpus has it. Raises CorpusError."""
        clip, partner = read_clip(self.path, name), self.partner(name)
        if partner is None:
            return clip
        file = self.path / partner / "motion.npz"
        mask = read_npz(file, str(file), ("speech_mask",)).get("speech_mask")
        if mask is None or mask.shape != (len(clip.motion),):
            return clip
        return dataclasses.replace(clip, other_speech_mask=mask != 0)

    def read_motion(self, name: str) -> MotionClip:
        """The motion of `name` alone: its wavs are not looked at. Raises CorpusError."""
        file = self.path / name / "motion.npz"
        arrays = read_npz(file, str(file), ("motion", "channels", "frame_rate", "speech_mask", "person"))
        motion = _motion(arrays, file)
        mask = read_mask(arrays, len(motion), str(file))
        return MotionClip(
            name, motion, _channels(arrays, file, self.channels), mask, read_text(arrays, "person") or name
        )


def partner_id(name: str) -> str:
    """The id of the other side of a conversation by its name, empty where the name has no side."""
    return name[:-1] + {"a": "b", "b": "a"}[name[-1]] if name[-1:] in ("a", "b") else ""


def open_corpus(path: Path) -> Corpus:
    """Read `corpus.json` of the corpus at `path`. Raises CorpusError."""
    file = path / "corpus.json"
    try:
        document = json.loads(file.read_text())
    except FileNotFoundError:
        raise CorpusError(
            f"{file} is missing: {path} is no corpus, its making was interrupted (unils-train synth --resume), or it"
            " is a folder of clips that has no table of contents yet (unils-train data index)"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file} is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CorpusError(f'{file}: "format" must be "{FORMAT}"')
    if document.get("format_version") != FORMAT_VERSION:
        raise CorpusError(f"{file}: format_version {document.get('format_version')!r} is not {FORMAT_VERSION}")
    channels = document.get("channels")
    if not isinstance(channels, list) or not all(isinstance(name, str) for name in channels):
        raise CorpusError(f'{file}: "channels" must be a list of names')
    return Corpus(
        path,
        tuple(channels),
        str(document.get("rig", "arkit")),
        int(document.get("seed", 0)),
        _id_lists(document.get("splits"), "splits", file),
        _id_lists(document.get("motion_only", {}), "motion_only", file),
    )


def _id_lists(lists: Any, key: str, file: Path) -> dict[str, tuple[str, ...]]:
    if not isinstance(lists, dict) or not all(
        isinstance(ids, list) and all(isinstance(name, str) for name in ids) for ids in lists.values()
    ):
        raise CorpusError(f'{file}: "{key}" must map names to lists of ids')
    for ids in lists.values():
        for name in ids:
            if not name or name in (".", "..") or "/" in name or "\\" in name:
                raise CorpusError(f"{file}: the id {name!r} is not the name of a folder")
    return {split: tuple(ids) for split, ids in lists.items()}


def list_ids(path: Path, split: str) -> tuple[str, ...]:
    """The ids of `split` of the corpus at `path`. Raises CorpusError."""
    corpus = open_corpus(path)
    if split not in corpus.splits:
        raise CorpusError(f"{path} has no split {split!r}: it has {', '.join(corpus.splits)}")
    return corpus.splits[split]


def _open_wav(path: Path) -> wave.Wave_read:
    try:
        file = wave.open(str(path), "rb")  # noqa: SIM115
    except FileNotFoundError:
        raise CorpusError(f"{path} is missing") from None
    except (wave.Error, EOFError) as error:
        raise CorpusError(f"{path} is no wav file: {error}") from None
    layout = (file.getframerate(), file.getnchannels(), file.getsampwidth())
    if layout != (SAMPLE_RATE, 1, 2):
        file.close()
        raise CorpusError(
            f"{path} must be 16000 Hz, mono, int16; it is {layout[0]} Hz, {layout[1]} channels, {8 * layout[2]} bits"
        )
    return file


def _wav_samples(path: Path) -> int:
    with _open_wav(path) as file:
        return file.getnframes()


def read_wav(path: Path) -> NDArray[np.int16]:
    """The samples (n,) of a 16 kHz mono int16 wav file. Raises CorpusError."""
    with _open_wav(path) as file:
        expected = file.getnframes()
        if 2 * expected > path.stat().st_size:
            raise CorpusError(f"{path} is truncated: it claims {expected} samples in {path.stat().st_size} bytes")
        data = file.readframes(expected)
    if len(data) != 2 * expected:
        raise CorpusError(f"{path} is truncated: {len(data) // 2} of {expected} samples")
    return np.frombuffer(data, dtype="<i2").astype(np.int16)


def _motion(arrays: dict[str, NDArray[Any]], file: Path) -> NDArray[np.float32]:
    if "motion" not in arrays:
        raise CorpusError(f"{file} has no array named motion")
    motion = arrays["motion"]
    if motion.ndim != 2 or motion.dtype != np.float32:
        raise CorpusError(f"{file}: motion must be (T, D) float32; it is {motion.shape} {motion.dtype}")
    check_finite(motion, str(file))
    if read_text(arrays, "frame_rate", str(FRAME_RATE)).removesuffix(".0") != str(FRAME_RATE):
        raise CorpusError(f"{file}: frame_rate must be {FRAME_RATE}, it is {arrays['frame_rate']}")
    return motion


def _channels(arrays: dict[str, NDArray[Any]], file: Path, default: tuple[str, ...]) -> tuple[str, ...]:
    channels = tuple(str(name) for name in arrays["channels"].reshape(-1)) if "channels" in arrays else default
    if len(channels) != arrays["motion"].shape[1]:
        raise CorpusError(f"{file}: {arrays['motion'].shape[1]} columns of motion, but {len(channels)} channel names")
    return channels


def read_clip(path: Path, name: str) -> Clip:
    """Read the clip `name` of the corpus at `path`. Raises CorpusError where a file is missing or not as documented."""
    folder = path / name
    own, other = read_wav(folder / "self.wav"), read_wav(folder / "other.wav")
    file = folder / "motion.npz"
    arrays = read_npz(file, str(file))
    motion = _motion(arrays, file)
    if len(own) != len(other):
        raise CorpusError(
            f"{folder}: self.wav has {len(own)} samples and other.wav {len(other)}; they must be equally long"
        )
    if len(motion) != len(own) // HOP_SAMPLES:
        raise CorpusError(
            f"{file}: {len(motion)} frames of motion for {len(own)} samples; there must be {len(own) // HOP_SAMPLES}"
        )
    channels = _channels(arrays, file, () if "channels" in arrays else open_corpus(path).channels)
    return Clip(
        id=name,
        self_audio=own,
        other_audio=other,
        motion=motion,
        channels=channels,
        speech_mask=read_mask(arrays, len(motion), str(file)),
        **read_labels(arrays, str(file)),
    )
