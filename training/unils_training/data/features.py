"""Feature cache: what training reads of a corpus (docs/corpus.md), in flat memory-mapped arrays made on first use.

Shapes: N frames of all conversations of a split one after another, D channels, d bits of the codec.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from tqdm import tqdm

from unils_training.models.stream.log_mel import HOP_SAMPLES, ROW_VALUES, SAMPLE_RATE, log_mel_rows

VERSION = 1
ARRAYS = {"self_mel": np.float16, "other_mel": np.float16, "motion": np.float32, "speech_mask": np.bool_}


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """One split. Conversation i is frames [offsets[i], offsets[i+1]) of every array.

    `self_mel`, `other_mel` (N, 256) float16 natural-log mel rows, `motion` (N, D) float32 in the rig's units,
    `speech_mask` (N,) bool (all false where the corpus has none), `ids` and `persons` by conversation.
    """

    folder: Path
    split: str
    fingerprint: str
    channels: tuple[str, ...]
    ids: tuple[str, ...]
    persons: tuple[str, ...]
    offsets: npt.NDArray[np.int64]
    self_mel: npt.NDArray[np.float16]
    other_mel: npt.NDArray[np.float16]
    motion: npt.NDArray[np.float32]
    speech_mask: npt.NDArray[np.bool_]

    @property
    def frames(self) -> int:
        return int(self.offsets[-1])

    def latents(self, key: str, encode: Callable[[torch.Tensor], torch.Tensor]) -> npt.NDArray[np.float16]:
        """The codec's z of every frame, (N, d) float16, made once for each `key` (a digest of the codec's weights).

        `encode` maps motion (1, T, D) of one conversation to z (1, T, d).
        """
        path = self.folder / f"{self.split}.latent.{key[:16]}.npy"
        if not path.exists():
            parts = []
            with torch.inference_mode():
                bounds = list(itertools.pairwise(self.offsets))
                for begin, end in tqdm(bounds, desc=f"latents {self.split}"):
                    parts.append(encode(torch.from_numpy(self.motion[begin:end].copy())[None])[0].numpy())
            _save_atomically(path, np.concatenate(parts).astype(np.float16))
        return np.load(path, mmap_mode="r")


def load_features(corpus: str | Path, split: str, cache: str | Path, workers: int | None = None) -> FeatureCache:
    """Opens the cache of a split, and makes it first where it is missing or the corpus has changed.

    Raises:
        FileNotFoundError: no corpus.json, or a file of a conversation is missing.
        ValueError: the split does not exist or is empty, a wav is not 16 kHz mono, or motion has the wrong shape.
    """
    corpus, folder = Path(corpus), Path(cache)
    text = (corpus / "corpus.json").read_bytes()
    info = json.loads(text)
    ids = info["splits"].get(split, [])
    if not ids:
        raise ValueError(f"{corpus} has no conversations in split {split!r}; it has {sorted(info['splits'])}")
    fingerprint = hashlib.sha256(text).hexdigest()
    described = folder / f"{split}.json"
    description = json.loads(described.read_text()) if described.exists() else {}
    if (description.get("version"), description.get("fingerprint")) != (VERSION, fingerprint):
        _build(corpus, split, ids, info["channels"], fingerprint, folder, workers or os.cpu_count() or 1)
        description = json.loads(described.read_text())
    arrays = {name: np.load(folder / f"{split}.{name}.npy", mmap_mode="r") for name in ARRAYS}
    return FeatureCache(
        folder=folder,
        split=split,
        fingerprint=fingerprint,
        channels=tuple(info["channels"]),
        ids=tuple(ids),
        persons=tuple(description["persons"]),
        offsets=np.load(folder / f"{split}.offsets.npy"),
        **arrays,
    )


def _build(
    corpus: Path, split: str, ids: list[str], channels: list[str], fingerprint: str, folder: Path, workers: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    described = folder / f"{split}.json"
    described.unlink(missing_ok=True)  # an interrupted build must not look finished
    frames = [_frames(corpus / name) for name in ids]
    offsets = np.concatenate(([0], np.cumsum(frames))).astype(np.int64)
    widths = {"self_mel": (ROW_VALUES,), "other_mel": (ROW_VALUES,), "motion": (len(channels),), "speech_mask": ()}
    for name, dtype in ARRAYS.items():
        shape = (int(offsets[-1]), *widths[name])
        np.lib.format.open_memmap(folder / f"{split}.{name}.npy", "w+", dtype=dtype, shape=shape).flush()
    jobs = [
        (corpus / name, folder, split, int(a), int(b))
        for name, (a, b) in zip(ids, itertools.pairwise(offsets), strict=True)
    ]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        workers, context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        persons = list(tqdm(pool.map(_fill, jobs, chunksize=4), total=len(jobs), desc=f"features {split}"))
    np.save(folder / f"{split}.offsets.npy", offsets)
    described.write_text(json.dumps({"version": VERSION, "fingerprint": fingerprint, "persons": persons}))


def _frames(conversation: Path) -> int:
    lengths = []
    for track in ("self", "other"):
        header = soundfile.info(str(conversation / f"{track}.wav"))
        if header.samplerate != SAMPLE_RATE or header.channels != 1:
            raise ValueError(f"{conversation / track}.wav must be {SAMPLE_RATE} Hz mono")
        lengths.append(header.frames // HOP_SAMPLES)
    return min(lengths)


def _fill(job: tuple[Path, Path, str, int, int]) -> str:
    """Writes one conversation's frames [begin, end) of every array and returns its person."""
    conversation, folder, split, begin, end = job
    with np.load(conversation / "motion.npz") as stored:
        values: dict[str, Any] = {name: stored[name] for name in ("motion", "speech_mask", "person") if name in stored}
    motion = values["motion"]
    maps = {name: np.load(folder / f"{split}.{name}.npy", mmap_mode="r+") for name in ARRAYS}
    if motion.ndim != 2 or motion.shape[0] < end - begin or motion.shape[1] != maps["motion"].shape[1]:
        raise ValueError(f"{conversation}: motion {motion.shape} does not fit {end - begin} frames of audio")
    maps["motion"][begin:end] = motion[: end - begin]
    maps["speech_mask"][begin:end] = values.get("speech_mask", np.zeros(end - begin, np.bool_))[: end - begin]
    for track in ("self", "other"):
        audio, _ = soundfile.read(str(conversation / f"{track}.wav"), dtype="float32")
        maps[f"{track}_mel"][begin:end] = log_mel_rows(torch.from_numpy(audio)).numpy()[: end - begin]
    return str(values.get("person", conversation.name))


def _save_atomically(path: Path, array: npt.NDArray[Any]) -> None:
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        np.save(file, array)
    temporary.replace(path)
