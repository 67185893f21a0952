"""The reader of corpora says what is wrong with a corpus."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unils_training.data.folder import CorpusError, list_ids, open_corpus, read_clip

NAME = "c000000a"


@pytest.fixture
def corpus(small_corpus: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "corpus"
    shutil.copytree(small_corpus, copy)
    return copy


def rewrite_motion(corpus: Path, **changes: Any) -> None:
    path = corpus / NAME / "motion.npz"
    arrays = {name: array for name, array in np.load(path).items() if changes.get(name, 0) is not None}
    np.savez(path, **{**arrays, **{name: value for name, value in changes.items() if value is not None}})


def rewrite_wav(path: Path, samples: int, rate: int = 16000, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * channels * samples))


def test_ids_are_listed_by_split_and_read(corpus: Path) -> None:
    assert NAME in list_ids(corpus, "train")
    clip = read_clip(corpus, NAME)
    assert clip.id == NAME
    assert clip.motion.shape == (len(clip.self_audio) // 640, len(clip.channels))
    assert len(clip.event_kind) == len(clip.phone) == 0


def test_only_motion_and_wavs_are_required(corpus: Path) -> None:
    rewrite_motion(corpus, channels=None, frame_rate=None, speech_mask=None, person=None)
    clip = read_clip(corpus, NAME)
    assert clip.speech_mask is None
    assert clip.channels == open_corpus(corpus).channels


@pytest.mark.parametrize("missing", ["corpus.json", f"{NAME}/self.wav", f"{NAME}/other.wav", f"{NAME}/motion.npz"])
def test_a_missing_file_is_named(corpus: Path, missing: str) -> None:
    (corpus / missing).unlink()
    read = open_corpus if missing == "corpus.json" else lambda path: read_clip(path, NAME)
    with pytest.raises(CorpusError, match="missing"):
        read(corpus)


def test_an_unknown_split_is_refused_with_the_known_ones(corpus: Path) -> None:
    with pytest.raises(CorpusError, match="train, val, test"):
        list_ids(corpus, "dev")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "zip"}, "format"),
        ({"format_version": 2}, "format_version"),
        ({"splits": {"train": "c1"}}, "splits"),
        ({"splits": {"train": ["../secret"]}}, "not the name of a folder"),
        ({"channels": 55}, "channels"),
    ],
)
def test_a_wrong_table_of_contents_is_refused(corpus: Path, change: dict[str, Any], message: str) -> None:
    path = corpus / "corpus.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CorpusError, match=message):
        open_corpus(corpus)


def test_a_table_of_contents_that_is_not_json_is_refused(corpus: Path) -> None:
    (corpus / "corpus.json").write_text("{")
    with pytest.raises(CorpusError, match="not JSON"):
        open_corpus(corpus)


def test_wrong_wavs_are_refused(corpus: Path) -> None:
    samples = len(read_clip(corpus, NAME).self_audio)
    path = corpus / NAME / "self.wav"
    rewrite_wav(path, samples, rate=48000)
    with pytest.raises(CorpusError, match="48000 Hz"):
        read_clip(corpus, NAME)
    rewrite_wav(path, samples, channels=2)
    with pytest.raises(CorpusError, match="2 channels"):
        read_clip(corpus, NAME)
    rewrite_wav(path, samples - 1)
    with pytest.raises(CorpusError, match="equally long"):
        read_clip(corpus, NAME)
    rewrite_wav(path, samples)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorpusError, match="truncated"):
        read_clip(corpus, NAME)
    path.write_bytes(b"RIFF")
    with pytest.raises(CorpusError, match="no wav file"):
        read_clip(corpus, NAME)


def test_wrong_motion_is_refused(corpus: Path) -> None:
    motion = read_clip(corpus, NAME).motion
    broken = motion.copy()
    broken[7, 3] = np.nan
    for changes, message in (
        ({"motion": broken}, "frame 7"),
        ({"motion": motion[:-1]}, "frames of motion"),
        ({"motion": motion.astype(np.float64)}, "float32"),
        ({"motion": motion[:, :5]}, "channel names"),
        ({"motion": motion, "frame_rate": 30}, "frame_rate"),
        ({"frame_rate": 25, "speech_mask": np.zeros(3, bool)}, "speech_mask"),
        (
            {"speech_mask": None, "event_kind": np.array(["nod"]), "event_start": np.array([5])},
            "no array named event_end",
        ),
    ):
        rewrite_motion(corpus, **changes)
        with pytest.raises(CorpusError, match=message):
            read_clip(corpus, NAME)
    (corpus / NAME / "motion.npz").write_bytes(b"no archive")
    with pytest.raises(CorpusError, match="cannot be read"):
        read_clip(corpus, NAME)
