"""Reads one side of a conversation from a corpus on disk (docs/corpus.md) for evaluation."""

from __future__ import annotations

import json
import wave
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unils_training.metrics.events import Bools, Events
from unils_training.metrics.side import HOP_SAMPLES, Motion, Side, frame_level, voice_mask

SAMPLE_RATE = 16000


def read_wav(path: Path) -> NDArray[np.int16]:
    """Mono 16-bit audio at 16 kHz (n,); ValueError for any other."""
    with wave.open(str(path), "rb") as file:
        if (file.getnchannels(), file.getsampwidth(), file.getframerate()) != (1, 2, SAMPLE_RATE):
            raise ValueError(f"{path} is not 16-bit mono audio at {SAMPLE_RATE} Hz")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)


def read_corpus(corpus: Path) -> dict[str, Any]:
    """What `corpus.json` says."""
    info: dict[str, Any] = json.loads((corpus / "corpus.json").read_text())
    return info


def read_split(corpus: Path, split: str) -> list[str]:
    """The ids of one split; ValueError where the corpus has none of that name."""
    splits = read_corpus(corpus)["splits"]
    if split not in splits:
        raise ValueError(f"{corpus} has no split {split!r}; it has {', '.join(sorted(splits))}")
    return list(splits[split])


def partner_id(conversation_side: str) -> str:
    """`c000012a` and `c000012b` talk to each other."""
    return conversation_side[:-1] + {"a": "b", "b": "a"}.get(conversation_side[-1:], "")


@dataclass(frozen=True)
class CorpusSide:
    """One id of a corpus. Files are read when they are asked for."""

    corpus: Path
    name: str

    @cached_property
    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        with np.load(self.corpus / self.name / "motion.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    @cached_property
    def self_audio(self) -> NDArray[np.int16]:
        """The voice of the person whose face this is (n,)."""
        return read_wav(self.corpus / self.name / "self.wav")

    @cached_property
    def other_audio(self) -> NDArray[np.int16]:
        """The other person's voice (n,)."""
        return read_wav(self.corpus / self.name / "other.wav")

    @property
    def frames(self) -> int:
        """T: whole frames that motion and both tracks have."""
        audio = min(len(self.self_audio), len(self.other_audio))
        return min(len(self._arrays["motion"]), audio // HOP_SAMPLES)

    @property
    def motion(self) -> Motion:
        """True motion (T, D)."""
        values = self._arrays["motion"][: self.frames].astype(np.float64)
        return Motion(values, tuple(str(name) for name in self._arrays["channels"]))

    @property
    def speaking(self) -> Bools:
        """This person speaks (T,): as the corpus says, else by level."""
        if "speech_mask" in self._arrays:
            return self._arrays["speech_mask"][: self.frames].astype(np.bool_)
        return voice_mask(frame_level(self.self_audio))[: self.frames]

    @property
    def labels(self) -> dict[str, Events]:
        """True events by kind, empty for a corpus without."""
        if "event_kind" not in self._arrays:
            return {}
        kinds = self._arrays["event_kind"].astype(str)
        spans = np.stack((self._arrays["event_start"], self._arrays["event_end"]), axis=1).astype(np.int64)
        spans = np.minimum(spans, self.frames)
        spans_by_kind = {str(kind): spans[kinds == kind] for kind in np.unique(kinds)}
        return {kind: part[np.argsort(part[:, 0], kind="stable")] for kind, part in spans_by_kind.items()}

    @property
    def partner(self) -> CorpusSide | None:
        """The other person's side, where the corpus holds it."""
        name = partner_id(self.name)
        return CorpusSide(self.corpus, name) if (self.corpus / name / "motion.npz").is_file() else None

    def compare(self, prediction: NDArray[np.float32]) -> Side:
        """This side's truth beside a prediction (T or more, D)."""
        frames, partner = self.frames, self.partner
        truth = self.motion
        level = frame_level(self.other_audio)[:frames]
        partner_fits = partner is not None and partner.frames >= frames
        return Side(
            name=self.name,
            truth=truth,
            prediction=Motion(prediction[:frames].astype(np.float64), truth.channels),
            speaking=self.speaking,
            other_speaking=partner.speaking[:frames] if partner and partner_fits else voice_mask(level),
            other_level=level,
            labels=self.labels,
            partner=Motion(partner.motion.values[:frames], truth.channels) if partner and partner_fits else None,
        )
