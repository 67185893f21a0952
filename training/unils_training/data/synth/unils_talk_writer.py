"""Writes a corpus of the simulator in the form of UniLS-Talk (docs/corpus.md)."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from unils_training.data.folder import open_corpus, read_wav
from unils_training.data.records import CorpusError, read_npz
from unils_training.data.synth.motioncode import to_motioncode

DATABASE = "talk.lmdb"
PAIRED, MOTION_ONLY = "paired.json", "motion_only.json"
SPLITS = ("train", "val", "test")
_FIRST_MAP_BYTES = 1 << 26


def write_unils_talk(source: Path, out: Path) -> Path:
    """Writes the folder corpus `source` of rig `arkit`, both sides of every conversation in it, to the folder `out`.

    Motion becomes `motioncode` by `motioncode.to_motioncode`. A face hears the other's clean voice, where the folder
    form has its own `other.wav`. Labels, persons and voices go along as further arrays of a record, which the
    published data set does not have. The JSON files come last. Raises CorpusError.
    """
    import lmdb

    corpus = open_corpus(source)
    if corpus.rig != "arkit":
        raise CorpusError(f"{source} is of rig {corpus.rig}: only the simulator's own, arkit, is written in this form")
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f"{DATABASE}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    environment = lmdb.open(str(partial), map_size=_FIRST_MAP_BYTES)
    paired: dict[str, dict[str, list[Any]]] = {split: {} for split in SPLITS}
    motion_only: dict[str, list[list[Any]]] = {split: [] for split in SPLITS}
    clips = [(split, name, True) for split in SPLITS for name in corpus.splits.get(split, ())]
    clips += [(split, name, False) for split in SPLITS for name in corpus.motion_only.get(split, ())]
    for split, name, sound in tqdm(clips, desc="unils-talk", unit="clip"):
        arrays = _record(source / name, sound)
        _put(environment, name.encode(), arrays)
        frames = len(arrays["motioncode"])
        if not sound:
            motion_only[split].append([name, frames])
        elif name.endswith("a"):
            paired[split][name[:-1]] = [name, f"{name[:-1]}b", frames]
    environment.sync(True)
    environment.close()
    shutil.rmtree(out / DATABASE, ignore_errors=True)
    partial.rename(out / DATABASE)
    if any(motion_only.values()):
        (out / MOTION_ONLY).write_text(json.dumps(motion_only, indent=1) + "\n")
    (out / PAIRED).write_text(json.dumps(paired, indent=1) + "\n")
    return out


def _record(folder: Path, sound: bool) -> dict[str, NDArray[Any]]:
    arrays = read_npz(folder / "motion.npz", str(folder / "motion.npz"))
    kept = {name: array for name, array in arrays.items() if name not in ("motion", "channels", "frame_rate")}
    record = {"motioncode": to_motioncode(arrays["motion"]), **kept}
    if sound:
        record["audio"] = read_wav(folder / "self.wav").astype(np.float32) / 32768.0
    return record


def _put(environment: Any, key: bytes, arrays: dict[str, NDArray[Any]]) -> None:
    import lmdb

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    while True:
        try:
            with environment.begin(write=True) as transaction:
                transaction.put(key, buffer.getvalue())
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])
