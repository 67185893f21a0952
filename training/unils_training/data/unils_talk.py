"""UniLS-Talk as published (docs/corpus.md): one LMDB of `.npz` records and JSON files that say which belong together.

T frames at 25 a second. A record holds `motioncode` (T, 112), and for conversations `audio` (640 T) float at 16 kHz
and `speech_mask` (T). The paired JSON maps every conversation of a split to [path, path, frames], the motion-only JSON
lists [key, frames]; the base names of paths are keys of the LMDB.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unils_training.data.records import (
    HOP_SAMPLES,
    Clip,
    CorpusError,
    MotionClip,
    check_finite,
    read_labels,
    read_mask,
    read_npz,
    read_text,
)
from unils_training.rigs import FLAME_CHANNELS

MOTIONCODE_COLUMNS = 112
COLUMNS: tuple[int, ...] = (*range(104), 106, 107, 109, 110)
"""The columns of `motioncode` that are the channels of rig `flame`, in order: the jaw and each eye are stored as three
numbers of which the model has one and two."""
HEAD = slice(100, 103)
SIDES = ("a", "b")

LENGTH_TOLERANCE_FRAMES = 5
"""How far the lengths of the arrays of one record may be apart; what its JSON says must be there of each."""

_LOUDEST = 4.0  # of float audio, whose full scale is 1; resampling overshoots a little, int16 values as float a lot


@dataclass(frozen=True)
class _Side:
    """One face of a conversation: the keys of its own and of the other's record."""

    own: str
    other: str
    frames: int


@dataclass(frozen=True)
class UnilsTalk:
    """The dataset, read-only; see `dataset.Dataset`. A conversation `c` gives the ids `ca` and `cb`.

    Instances can be sent to worker processes: the database is opened where it is read.
    """

    path: Path
    database: Path
    documents: tuple[Path, ...]
    splits: dict[str, tuple[str, ...]]
    motion_only: dict[str, tuple[str, ...]]
    sides: dict[str, _Side] = field(repr=False)
    motion_lengths: dict[str, int] = field(repr=False)
    rig: str = "flame"
    channels: tuple[str, ...] = FLAME_CHANNELS

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the JSON files and of how many records of how many bytes the database holds."""
        environment = self._environment()
        with environment.begin() as transaction:
            digest = hashlib.sha256(repr((transaction.stat()["entries"], environment.info()["last_txnid"])).encode())
        for document in self.documents:
            digest.update(document.read_bytes())
        return digest.hexdigest()

    def frames(self, name: str) -> int:
        """Frames of clip `name` as its JSON says. Raises CorpusError."""
        return self._side(name).frames

    def motion_frames(self, name: str) -> int:
        """Frames of the motion of `name`, of a conversation or of the motion-only part. Raises CorpusError."""
        return self.motion_lengths[name] if name in self.motion_lengths else self._side(name).frames

    def partner(self, name: str) -> str | None:
        """The id of the other side of the conversation."""
        return name[:-1] + SIDES[1 - SIDES.index(self._side(name) and name[-1])]

    def read(self, name: str) -> Clip:
        """Clip `name`; its head rotation has zero mean. Raises CorpusError."""
        side = self._side(name)
        own, other = self._record(side.own), self._record(side.other, ("audio", "speech_mask", "motioncode"))
        labels = [self._label(key) for key in (side.own, side.other)]
        motion = _channels_of(own, side.frames, labels[0])
        for arrays, label in zip((own, other), labels, strict=True):
            _check_lengths(arrays, label)
        audio = [_audio(arrays, side.frames, label) for arrays, label in zip((own, other), labels, strict=True)]
        masks = [_mask(arrays, side.frames, label) for arrays, label in zip((own, other), labels, strict=True)]
        return Clip(
            id=name,
            self_audio=audio[0],
            other_audio=audio[1],
            motion=motion,
            channels=self.channels,
            speech_mask=masks[0],
            other_speech_mask=masks[1],
            **{**(found := read_labels(own, labels[0])), "person": found["person"] or side.own},
        )

    def read_motion(self, name: str) -> MotionClip:
        """The motion of `name`, of a conversation or of the motion-only part; zero-mean head. Raises CorpusError."""
        key = name if name in self.motion_lengths else self._side(name).own
        frames, label = self.motion_frames(name), self._label(key)
        arrays = self._record(key, ("motioncode", "speech_mask", "person"))
        return MotionClip(
            id=name,
            motion=_channels_of(arrays, frames, label),
            channels=self.channels,
            speech_mask=_mask(arrays, frames, label) if "speech_mask" in arrays else None,
            person=read_text(arrays, "person") or key,
        )

    def _side(self, name: str) -> _Side:
        if name not in self.sides:
            raise CorpusError(f"{self.path} has no clip {name!r}")
        return self.sides[name]

    def _label(self, key: str) -> str:
        return f"{self.database}: record {key!r}"

    def _record(self, key: str, names: tuple[str, ...] | None = None) -> dict[str, NDArray[Any]]:
        stem = PurePosixPath(key).stem
        with self._environment().begin() as transaction:
            data = transaction.get(key.encode()) if key else None
            if data is None and stem:
                data = transaction.get(stem.encode())
        if data is None:
            raise CorpusError(f"{self._label(key)} is missing")
        return read_npz(data, self._label(key), names)

    def _environment(self) -> Any:
        return _open_database(self.database)


_OPEN: dict[Path, tuple[tuple[int, ...], Any]] = {}


def _open_database(path: Path) -> Any:
    """The LMDB environment at `path`, opened once in each process (LMDB's rule) and anew after a fork or a change."""
    import lmdb

    data = path / "data.mdb" if path.is_dir() else path
    status = data.stat()
    stamp = (os.getpid(), status.st_ino, status.st_mtime_ns, status.st_size)
    opened = _OPEN.get(path.resolve())
    if opened is not None and opened[0] == stamp:
        return opened[1]
    if opened is not None:
        opened[1].close()
    try:
        environment = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise CorpusError(f"{path} cannot be opened as an LMDB: {error}") from None
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if status.st_size < expected:  # touching a mapped page beyond the file's end would kill the process
        environment.close()
        raise CorpusError(f"{data} is truncated: {status.st_size} of {expected} bytes")
    _OPEN[path.resolve()] = (stamp, environment)
    return environment


def _channels_of(arrays: dict[str, NDArray[Any]], frames: int, label: str) -> NDArray[np.float32]:
    """The 108 channels of the first `frames` frames, head rotation centred: (frames, 108)."""
    code = arrays.get("motioncode")
    if code is None or code.ndim != 2 or code.shape[1] != MOTIONCODE_COLUMNS or code.dtype.kind != "f":
        found = "missing" if code is None else f"{code.shape} {code.dtype}"
        raise CorpusError(f"{label}: motioncode must be (T, {MOTIONCODE_COLUMNS}) of floats; it is {found}")
    _check_length(len(code), frames, label, "motioncode")
    motion = code[:frames, list(COLUMNS)].astype(np.float32)
    check_finite(motion, label)
    motion[:, HEAD] -= motion[:, HEAD].mean(axis=0, dtype=np.float64).astype(np.float32)
    return motion


def _audio(arrays: dict[str, NDArray[Any]], frames: int, label: str) -> NDArray[np.int16]:
    """The audio of the first `frames` frames as int16, (640 frames,)."""
    audio = arrays.get("audio")
    if audio is None or audio.size != max(audio.shape, default=0) or audio.dtype.kind not in "fi":
        found = "missing" if audio is None else f"{audio.shape} {audio.dtype}"
        raise CorpusError(f"{label}: audio must be (samples,) of floats; it is {found}")
    audio = audio.reshape(-1)
    _check_length(len(audio) // HOP_SAMPLES, frames, label, "audio at 16 kHz")
    audio = audio[: frames * HOP_SAMPLES]
    if audio.dtype == np.int16:
        return audio
    if audio.dtype.kind == "i":
        raise CorpusError(f"{label}: audio must be float or int16, it is {audio.dtype}")
    if not np.isfinite(audio).all():
        raise CorpusError(f"{label}: audio holds NaN or infinity, first at sample {np.argmin(np.isfinite(audio))}")
    if np.abs(audio).max(initial=0) > _LOUDEST:
        raise CorpusError(f"{label}: audio reaches {np.abs(audio).max():.6g}, where full scale is 1")
    return np.clip(np.round(audio.astype(np.float64) * 32768.0), -32768, 32767).astype(np.int16)


def _mask(arrays: dict[str, NDArray[Any]], frames: int, label: str) -> NDArray[np.bool_] | None:
    if "speech_mask" not in arrays:
        return None
    length = arrays["speech_mask"].reshape(-1).shape[0]
    _check_length(length, frames, label, "speech_mask")
    mask = read_mask({"speech_mask": arrays["speech_mask"].reshape(-1)}, length, label)
    return None if mask is None else mask[:frames]


def _check_length(found: int, frames: int, label: str, what: str) -> None:
    if found < frames:
        raise CorpusError(f"{label}: {what} has {found} frames, its JSON says {frames}")


def _check_lengths(arrays: dict[str, NDArray[Any]], label: str) -> None:
    lengths = {name: arrays[name].size for name in ("speech_mask",) if name in arrays}
    if "audio" in arrays:
        lengths["audio"] = arrays["audio"].size // HOP_SAMPLES
    if "motioncode" in arrays:
        lengths["motioncode"] = len(arrays["motioncode"]) if arrays["motioncode"].ndim else 0
    if max(lengths.values(), default=0) - min(lengths.values(), default=0) > LENGTH_TOLERANCE_FRAMES:
        found = ", ".join(f"{name} {frames}" for name, frames in lengths.items())
        raise CorpusError(f"{label}: its arrays differ in length, in frames of 25 a second: {found}")


def find_databases(path: Path) -> list[Path]:
    """LMDBs in the folder `path`: itself, folders that hold a `data.mdb`, and files named `.lmdb` or `.mdb`."""
    if (path / "data.mdb").is_file():
        return [path]
    return sorted(
        entry
        for entry in path.iterdir()
        if entry.suffix != ".partial"
        and ((entry / "data.mdb").is_file() or (entry.is_file() and entry.suffix in (".lmdb", ".mdb")))
    )


def open_unils_talk(path: Path) -> UnilsTalk:
    """Opens the folder `path` that holds the LMDB and the JSON files, whatever their names. Raises CorpusError."""
    databases = find_databases(path)
    if len(databases) != 1:
        raise CorpusError(f"{path} must hold one LMDB, it holds {len(databases)}: {', '.join(map(str, databases))}")
    documents: list[Path] = []
    splits: dict[str, tuple[str, ...]] = {}
    motion_only: dict[str, tuple[str, ...]] = {}
    sides: dict[str, _Side] = {}
    motion_lengths: dict[str, int] = {}
    for file in sorted(path.glob("*.json")):
        parts = _read_parts(file)
        if parts is None:
            continue
        documents.append(file)
        for split, part in parts.items():
            if isinstance(part, dict):
                splits[split] = (*splits.get(split, ()), *_add_pairs(part, sides, f"{file}: {split}"))
            else:
                motion_only[split] = (
                    *motion_only.get(split, ()),
                    *_add_motions(part, motion_lengths, f"{file}: {split}"),
                )
    if not documents:
        raise CorpusError(
            f"{path} holds an LMDB, but no JSON with the keys train, val, test that map to conversations"
            " [path, path, frames] or to lists of [key, frames]"
        )
    if clashes := sorted(sides.keys() & motion_lengths.keys()):
        raise CorpusError(f"{path}: {clashes[0]!r} is both a side of a conversation and a motion without sound")
    return UnilsTalk(path, databases[0], tuple(documents), splits, motion_only, sides, motion_lengths)


def _read_parts(file: Path) -> dict[str, Any] | None:
    """The splits of a JSON file of either kind, None for a file of another purpose."""
    try:
        document = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file} is not JSON: {error}") from None
    if not isinstance(document, dict) or "train" not in document:
        return None
    parts = {split: part for split, part in document.items() if split in ("train", "val", "test")}
    kinds = {type(part) for part in parts.values()}
    if kinds not in ({dict}, {list}):
        raise CorpusError(f"{file}: train, val and test must all be mappings of conversations, or all lists of motions")
    return parts


def _key(path: Any, frames: Any, where: str) -> str:
    if not isinstance(path, str) or not PurePosixPath(path).name:
        raise CorpusError(f"{where}: {path!r} is no path")
    if not isinstance(frames, int) or isinstance(frames, bool) or not 0 < frames < 2**31:
        raise CorpusError(f"{where}: {frames!r} is no number of frames")
    return PurePosixPath(path).name


def _add_pairs(part: dict[str, Any], sides: dict[str, _Side], where: str) -> list[str]:
    names = []
    for conversation, entry in part.items():
        if not isinstance(entry, list) or len(entry) != 3:
            raise CorpusError(f"{where}: {conversation!r} must be [path, path, frames], not {entry!r}")
        keys = [_key(path, entry[2], f"{where}: {conversation!r}") for path in entry[:2]]
        for letter, own, other in (("a", *keys), ("b", *reversed(keys))):
            name = conversation + letter
            if name in sides:
                raise CorpusError(f"{where}: the conversation {conversation!r} is there twice")
            sides[name] = _Side(own, other, entry[2])
            names.append(name)
    return names


def _add_motions(part: list[Any], lengths: dict[str, int], where: str) -> list[str]:
    names = []
    for entry in part:
        if not isinstance(entry, list) or len(entry) != 2:
            raise CorpusError(f"{where}: an entry must be [key, frames], not {entry!r}")
        key = _key(entry[0], entry[1], f"{where}: {entry[0]!r}")
        if key in lengths:
            raise CorpusError(f"{where}: the motion {key!r} is there twice")
        lengths[key] = entry[1]
        names.append(key)
    return names
