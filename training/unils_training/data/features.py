"""Feature caches: what training reads of a dataset, in flat memory-mapped arrays made on first use.

Shapes: N frames of all clips of a split one after another, D channels, d bits of the codec.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from unils_training.data.dataset import Dataset, open_dataset
from unils_training.data.records import HOP_SAMPLES, Clip, CorpusError, MotionClip
from unils_training.data.workers import in_processes
from unils_training.metrics.side import frame_level, voice_mask
from unils_training.models.stream.log_mel import ROW_VALUES, log_mel_rows

VERSION = 2
OnCorrupt = Literal["skip", "error"]
_LOG = logging.getLogger(__name__)
_MOTION = ("motion", "speech_mask")
_MASKS = (*_MOTION, "other_speech_mask")
_MEL = ("self_mel", "other_mel")
_AUDIO = ("self_audio", "other_audio")
_COPY_FRAMES = 1 << 16
_NAMED_IN_LOG = 5


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Clips that the cache was made without: `reasons` holds their ids and what was wrong with them."""

    reasons: tuple[tuple[str, str], ...] = ()

    @property
    def count(self) -> int:
        return len(self.reasons)

    def __str__(self) -> str:
        named = "; ".join(reason for _, reason in self.reasons[:_NAMED_IN_LOG])
        more = f"; and {self.count - _NAMED_IN_LOG} more" if self.count > _NAMED_IN_LOG else ""
        return f"{self.count} of the clips cannot be used: {named}{more}"


@dataclasses.dataclass(frozen=True)
class MotionCache:
    """Faces of one split. Clip i is frames [offsets[i], offsets[i+1]) of every array.

    `motion` (N, D) float32 in the rig's units; `speech_mask` (N,) bool, all false where unknown; `ids` and `persons` by
    clip; `skipped`: which clips of the split are not in it, and why.
    """

    folder: Path
    split: str
    fingerprint: str
    rig: str
    channels: tuple[str, ...]
    ids: tuple[str, ...]
    persons: tuple[str, ...]
    offsets: npt.NDArray[np.int64]
    skipped: Skipped
    motion: npt.NDArray[np.float32]
    speech_mask: npt.NDArray[np.bool_]

    @property
    def frames(self) -> int:
        return int(self.offsets[-1])

    def latents(self, key: str, encode: Callable[[torch.Tensor], torch.Tensor]) -> npt.NDArray[np.float16]:
        """The codec's z of every frame, (N, d) float16, made once for each `key` (a digest of the codec's weights).

        `encode` maps motion (1, T, D) of one clip to z (1, T, d).
        """
        path = self.folder / f"latent.{key[:16]}.npy"
        with _locked(self.folder):
            if not path.exists():
                partial = path.with_suffix(".part")
                array: Any = None
                with torch.inference_mode():
                    bounds = list(itertools.pairwise(self.offsets))
                    for begin, end in tqdm(bounds, desc=f"latents {self.split}"):
                        z = encode(torch.from_numpy(self.motion[begin:end].copy())[None])[0].float().cpu().numpy()
                        if array is None:
                            array = np.lib.format.open_memmap(
                                partial, "w+", dtype=np.float16, shape=(self.frames, z.shape[1])
                            )
                        array[begin:end] = z
                array.flush()
                partial.replace(path)
        stored: npt.NDArray[np.float16] = np.load(path, mmap_mode="r")
        return stored


@dataclasses.dataclass(frozen=True)
class FeatureCache(MotionCache):
    """Faces and both their tracks. `speech_mask` and `other_speech_mask` (N,) are by level where the dataset has none.

    `self_mel`, `other_mel` (N, 256) float16 are natural-log mel rows, `self_audio`, `other_audio` (N * 640,) int16 the
    waveforms at 16 kHz, of which frame t is [640 t, 640 (t + 1)). Those that were not asked for are None.
    """

    other_speech_mask: npt.NDArray[np.bool_]
    self_mel: npt.NDArray[np.float16] | None = None
    other_mel: npt.NDArray[np.float16] | None = None
    self_audio: npt.NDArray[np.int16] | None = None
    other_audio: npt.NDArray[np.int16] | None = None


def load_features(
    source: str | Path,
    split: str,
    cache: str | Path,
    *,
    mel: bool = True,
    audio: bool = False,
    workers: int | None = None,
    on_corrupt: OnCorrupt = "skip",
) -> FeatureCache:
    """Opens the cache of a split of conversations, and makes what is missing of it or is older than the dataset.

    Args:
        source: the folder of a dataset in either form (docs/corpus.md).
        mel, audio: whether log-mel rows and waveforms are wanted; only what is wanted is made.
        workers: processes that make it; all cores where None.
        on_corrupt: whether clips that cannot be read are left out, named in the log and counted, or are an error.

    Raises:
        CorpusError (a ValueError): no dataset, no such split or nothing in it can be read; with `on_corrupt="error"`
            also when a single clip cannot be.
    """
    dataset = open_dataset(source)
    ids = dataset.splits.get(split, ())
    if not ids:
        raise CorpusError(
            f"{source} has no conversations in split {split!r}; it has {', '.join(sorted(dataset.splits))}"
        )
    names = (*_MASKS, *(_MEL if mel else ()), *(_AUDIO if audio else ()))
    part = _Part(dataset, split, ids, names, Path(cache) / split)
    return FeatureCache(**part.open(workers, on_corrupt))


def load_motion(
    source: str | Path,
    split: str,
    cache: str | Path,
    *,
    motion_only: bool = True,
    paired: bool = True,
    workers: int | None = None,
    on_corrupt: OnCorrupt = "skip",
) -> MotionCache:
    """Opens a cache of faces without sound: those of conversations (`paired`), those without sound, or both.

    A dataset without a motion-only part gives the paired one alone. For the rest see `load_features`.
    """
    dataset = open_dataset(source)
    parts = {"motion_only": dataset.motion_only.get(split, ()) if motion_only else ()}
    parts["paired"] = dataset.splits.get(split, ()) if paired else ()
    used = [name for name, ids in parts.items() if ids]
    if not used:
        asked = " or ".join(name for name, wanted in (("motion-only", motion_only), ("paired", paired)) if wanted)
        raise CorpusError(f"{source} has nothing in the {asked} split {split!r}")
    part = _Part(
        dataset, split, (*parts["paired"], *parts["motion_only"]), _MOTION, Path(cache) / f"{split}.{'_'.join(used)}"
    )
    return MotionCache(**part.open(workers, on_corrupt))


@dataclasses.dataclass(frozen=True)
class _Part:
    """A cache to be: the arrays `names` of the clips `ids`, in `folder`."""

    dataset: Dataset
    split: str
    ids: tuple[str, ...]
    names: tuple[str, ...]
    folder: Path

    def open(self, workers: int | None, on_corrupt: OnCorrupt) -> dict[str, Any]:
        """The fields of the cache; makes it first where it is not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        workers = workers or os.cpu_count() or 1
        with _locked(self.folder):
            described = self._description()
            if described is None:
                described = self._make(workers, on_corrupt)
            elif missing := [name for name in self.names if name not in described["arrays"]]:
                described = self._add(missing, described, workers)
        skipped = Skipped(tuple((name, reason) for name, reason in described["skipped"]))
        if skipped.count:
            if on_corrupt == "error":
                raise CorpusError(f"{self.dataset.path}, split {self.split}: {skipped}")
            _LOG.warning("%s, split %s: %s", self.dataset.path, self.split, skipped)
        return {
            "folder": self.folder,
            "split": self.split,
            "fingerprint": described["fingerprint"],
            "rig": self.dataset.rig,
            "channels": self.dataset.channels,
            "ids": tuple(described["ids"]),
            "persons": tuple(described["persons"]),
            "offsets": np.load(self.folder / "offsets.npy"),
            "skipped": skipped,
            **{name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in self.names},
        }

    def _description(self) -> dict[str, Any] | None:
        try:
            described: dict[str, Any] = json.loads((self.folder / "cache.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        current = (described.get("version"), described.get("fingerprint")) == (VERSION, self.dataset.fingerprint)
        return described if current else None

    def _describe(self, **values: Any) -> dict[str, Any]:
        values = {"version": VERSION, "fingerprint": self.dataset.fingerprint, **values}
        partial = self.folder / "cache.json.part"
        partial.write_text(json.dumps(values))
        partial.replace(self.folder / "cache.json")
        return values

    def _make(self, workers: int, on_corrupt: OnCorrupt) -> dict[str, Any]:
        # Files are unlinked, never overwritten: another process may have the old ones mapped.
        for stale in (self.folder / "cache.json", *self.folder.glob("*.npy"), *self.folder.glob("*.part")):
            stale.unlink(missing_ok=True)
        skipped: dict[str, str] = {}
        ids, frames = [], []
        for name in self.ids:
            try:
                length = self._frames(name)
                if length == 0:
                    raise CorpusError(f"{name} is shorter than a frame")
            except CorpusError as error:
                skipped[name] = str(error)
                continue
            ids.append(name)
            frames.append(length)
        offsets = np.concatenate(([0], np.cumsum(frames))).astype(np.int64)
        persons = {}
        for name, (person, reason) in zip(ids, self._fill(ids, offsets, self.names, workers), strict=True):
            if reason:
                skipped[name] = reason
            else:
                persons[name] = person
        if not persons:
            raise CorpusError(f"{self.dataset.path}, split {self.split}: {Skipped(tuple(skipped.items()))}")
        if on_corrupt == "error" and skipped:
            raise CorpusError(f"{self.dataset.path}, split {self.split}: {Skipped(tuple(skipped.items()))}")
        kept = [name in persons for name in ids]
        if not all(kept):
            for name in self.names:
                _keep(self.folder / f"{name}.npy", offsets, kept, _rows(name))
            offsets = np.concatenate(([0], np.cumsum(np.diff(offsets)[kept]))).astype(np.int64)
        np.save(self.folder / "offsets.npy", offsets)
        return self._describe(
            arrays=list(self.names), ids=list(persons), persons=list(persons.values()), skipped=list(skipped.items())
        )

    def _add(self, missing: Sequence[str], described: dict[str, Any], workers: int) -> dict[str, Any]:
        """Makes arrays that an earlier call did not ask for, of the clips that are in the cache."""
        for name in missing:
            (self.folder / f"{name}.npy").unlink(missing_ok=True)
        offsets = np.load(self.folder / "offsets.npy")
        for _, reason in self._fill(described["ids"], offsets, missing, workers):
            if reason:
                raise CorpusError(f"{reason} (it was readable before; has the dataset changed?)")
        return self._describe(**{**described, "arrays": [*described["arrays"], *missing]})

    def _frames(self, name: str) -> int:
        return self.dataset.motion_frames(name) if self.names == _MOTION else self.dataset.frames(name)

    def _fill(
        self, ids: Sequence[str], offsets: npt.NDArray[np.int64], names: Sequence[str], workers: int
    ) -> Iterator[tuple[str, str]]:
        """Writes arrays of clips at their places; yields person and reason for not being used of each."""
        widths = {"motion": (len(self.dataset.channels),), **dict.fromkeys(_MEL, (ROW_VALUES,))}
        for name in names:
            shape = (int(offsets[-1]) * _rows(name), *widths.get(name, ()))
            np.lib.format.open_memmap(self.folder / f"{name}.npy", "w+", dtype=_dtype(name), shape=shape).flush()
        jobs = [(name, int(a), int(b)) for name, (a, b) in zip(ids, itertools.pairwise(offsets), strict=True)]
        sound = self.names != _MOTION
        worker = _Worker(self.dataset, self.folder, tuple(names), sound)
        yield from tqdm(
            in_processes(worker, jobs, workers), total=len(jobs), desc=f"features {self.folder.name}", unit="clip"
        )


@dataclasses.dataclass(frozen=True)
class _Worker:
    """Reads one clip and writes its frames."""

    dataset: Dataset
    folder: Path
    names: tuple[str, ...]
    sound: bool

    def __call__(self, job: tuple[str, int, int]) -> tuple[str, str]:
        """The clip's person, and why it cannot be used: empty where it can."""
        name, begin, end = job
        try:
            clip = self.dataset.read(name) if self.sound else self.dataset.read_motion(name)
            if clip.channels != self.dataset.channels:
                raise CorpusError(f"{name}: its channels are not those of the dataset")
            if len(clip.motion) != end - begin:
                raise CorpusError(f"{name}: {len(clip.motion)} frames where {end - begin} were announced")
        except CorpusError as error:
            return "", str(error)
        for array_name in self.names:
            array = np.load(self.folder / f"{array_name}.npy", mmap_mode="r+")
            rows = _rows(array_name)
            array[begin * rows : end * rows] = _values(clip, array_name)
        return clip.person or name, ""


def _values(clip: Clip | MotionClip, name: str) -> npt.NDArray[Any]:
    if name == "motion":
        return clip.motion
    if isinstance(clip, MotionClip):
        return np.zeros(len(clip.motion), np.bool_) if clip.speech_mask is None else clip.speech_mask
    track, _, what = name.rpartition("_") if not name.endswith("speech_mask") else (name, "", "mask")
    audio = clip.other_audio if track.startswith("other") else clip.self_audio
    audio = audio[: len(clip.motion) * HOP_SAMPLES]
    if what == "mask":
        mask = clip.other_speech_mask if track.startswith("other") else clip.speech_mask
        return voice_mask(frame_level(audio)) if mask is None else mask
    if what == "audio":
        return audio
    return log_mel_rows(torch.from_numpy(audio.astype(np.float32) / 32768.0)).numpy()


def _dtype(name: str) -> type:
    if name.endswith("mask"):
        return np.bool_
    return {"motion": np.float32, "mel": np.float16, "audio": np.int16}[name.rpartition("_")[2]]


def _rows(name: str) -> int:
    return HOP_SAMPLES if name in _AUDIO else 1


def _keep(path: Path, offsets: npt.NDArray[np.int64], kept: Sequence[bool], rows: int) -> None:
    """Rewrites a flat array without the clips that are not kept."""
    old = np.load(path, mmap_mode="r")
    spans = [span for span, keep in zip(itertools.pairwise(offsets * rows), kept, strict=True) if keep]
    partial = path.with_suffix(".part")
    length = int(sum(end - begin for begin, end in spans))
    new = np.lib.format.open_memmap(partial, "w+", dtype=old.dtype, shape=(length, *old.shape[1:]))
    at = 0
    for begin, end in spans:
        for first in range(int(begin), int(end), _COPY_FRAMES):
            piece = old[first : min(first + _COPY_FRAMES, int(end))]
            new[at : at + len(piece)] = piece
            at += len(piece)
    new.flush()
    partial.replace(path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a cache folder: of several processes that need it made, one makes it."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
