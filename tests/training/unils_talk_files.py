"""A small UniLS-Talk on disk, written here without the project's own code."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

FRAMES = 60


def npz_bytes(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def record(rng: np.random.Generator, frames: int = FRAMES, sound: bool = True, **changes: Any) -> dict[str, Any]:
    """The arrays of one record: column c of `motioncode` is c / 100 plus a little noise, which no other column is."""
    code = (np.arange(112) / 100.0 + 0.001 * rng.standard_normal((frames, 112))).astype(np.float32)
    arrays: dict[str, Any] = {"motioncode": code}
    if sound:
        speech = np.repeat(rng.random(frames // 10) > 0.5, 10)
        loud = np.repeat(speech, 640)
        arrays["audio"] = (0.1 * rng.standard_normal(frames * 640) * loud).astype(np.float32)
        arrays["speech_mask"] = speech.astype(np.float32)
    return {name: value for name, value in {**arrays, **changes}.items() if value is not None}


def write_unils_talk(
    folder: Path,
    records: dict[str, dict[str, Any] | bytes],
    paired: dict[str, dict[str, list[Any]]],
    motion_only: dict[str, list[list[Any]]] | None = None,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    environment = lmdb.open(str(folder / "talk.lmdb"), map_size=1 << 28)
    with environment.begin(write=True) as transaction:
        for key, value in records.items():
            transaction.put(key.encode(), value if isinstance(value, bytes) else npz_bytes(**value))
    environment.close()
    (folder / "paired.json").write_text(json.dumps(paired))
    if motion_only is not None:
        (folder / "unpaired.json").write_text(json.dumps(motion_only))
    return folder
