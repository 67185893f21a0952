"""A small corpus on disk (docs/corpus.md) whose mouths move with the loudness of their voices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unils_training.rigs import ARKIT_CHANNELS

HOP = 640


def write_small_corpus(folder: Path, conversations: int = 6, seconds: float = 8.0, seed: int = 0) -> Path:
    """Writes 2 x `conversations` ids of noise bursts; the last two conversations are the splits val and test."""
    rng = np.random.default_rng(seed)
    frames = round(seconds * 25)
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for conversation in range(conversations):
        split = {conversations - 1: "test", conversations - 2: "val"}.get(conversation, "train")
        loudness = np.repeat(rng.random((2, frames // 8 + 1)) * (rng.random((2, frames // 8 + 1)) > 0.5), 8, axis=1)
        loudness = loudness[:, :frames]
        voices = np.repeat(loudness, HOP, axis=1) * rng.standard_normal((2, frames * HOP)) * 0.2
        for side in range(2):
            name = f"c{conversation:06d}{'ab'[side]}"
            splits[split].append(name)
            (folder / name).mkdir(parents=True)
            for track, voice in (("self", voices[side]), ("other", voices[1 - side])):
                soundfile.write(folder / name / f"{track}.wav", voice.clip(-1, 1), 16000, subtype="PCM_16")
            walk = np.cumsum(rng.standard_normal((frames, len(ARKIT_CHANNELS))) * 0.02, axis=0)
            motion = (np.tanh(walk) * 0.1 + 0.1).astype(np.float32)
            motion[:, ARKIT_CHANNELS.index("jawOpen")] = loudness[side] * 0.5
            np.savez(
                folder / name / "motion.npz",
                motion=motion,
                channels=np.array(ARKIT_CHANNELS),
                frame_rate=25,
                speech_mask=loudness[side] > 0,
                person=f"p{side}",
            )
    info = {"format": "unils-corpus", "format_version": 1, "seed": seed, "rig": "arkit", "splits": splits}
    (folder / "corpus.json").write_text(json.dumps({**info, "channels": ARKIT_CHANNELS}))
    return folder


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_corpus(tmp_path_factory.mktemp("corpus"))
