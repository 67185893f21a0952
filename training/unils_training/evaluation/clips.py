"""The clips of a dataset as evaluation sees them: two tracks to hear, and the true face to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from unils_training.data.dataset import Dataset
from unils_training.data.records import FRAME_RATE, HOP_SAMPLES, Clip
from unils_training.metrics.events import Bools, Events
from unils_training.metrics.side import Motion, Side, frame_level, voice_mask


@dataclass(frozen=True)
class Recording:
    """One id of a dataset, read when it is asked for. T frames, as many as motion and both tracks have."""

    dataset: Dataset
    name: str

    @cached_property
    def _clip(self) -> Clip:
        return self.dataset.read(self.name)

    @cached_property
    def frames(self) -> int:
        """T."""
        clip = self._clip
        return min(len(clip.motion), len(clip.self_audio) // HOP_SAMPLES, len(clip.other_audio) // HOP_SAMPLES)

    @property
    def self_audio(self) -> NDArray[np.int16]:
        """The voice of the person whose face this is (640 T,)."""
        return self._clip.self_audio[: self.frames * HOP_SAMPLES]

    @property
    def other_audio(self) -> NDArray[np.int16]:
        """The other person's voice (640 T,)."""
        return self._clip.other_audio[: self.frames * HOP_SAMPLES]

    @property
    def motion(self) -> Motion:
        """The true face (T, D)."""
        return Motion(self._clip.motion[: self.frames].astype(np.float64), self._clip.channels)

    @property
    def speaking(self) -> Bools:
        """This person speaks (T,): as the dataset says, else by level."""
        mask = self._clip.speech_mask
        return voice_mask(frame_level(self.self_audio)) if mask is None else mask[: self.frames]

    @property
    def labels(self) -> dict[str, Events]:
        """True events by kind, empty for a dataset without."""
        clip = self._clip
        spans = np.minimum(np.stack((clip.event_start, clip.event_end), axis=1).astype(np.int64), self.frames)
        spans_by_kind = {str(kind): spans[clip.event_kind == kind] for kind in np.unique(clip.event_kind)}
        return {kind: part[np.argsort(part[:, 0], kind="stable")] for kind, part in spans_by_kind.items()}

    def compare(self, prediction: NDArray[np.float32]) -> Side:
        """This side's truth beside a prediction (T or more, D).

        Raises:
            RuntimeError: there are fewer frames of it; a model that loses frames has failed.
        """
        if len(prediction) < self.frames:
            raise RuntimeError(f"{self.name}: {len(prediction)} frames came out of {self.frames} frames of audio")
        frames, truth = self.frames, self.motion
        level = frame_level(self.other_audio)
        other_mask = self._clip.other_speech_mask
        partner_id = self.dataset.partner(self.name)
        partner = None
        if partner_id is not None:
            values = self.dataset.read_motion(partner_id).motion
            partner = Motion(values[:frames].astype(np.float64), truth.channels) if len(values) >= frames else None
        return Side(
            name=self.name,
            truth=truth,
            prediction=Motion(prediction[:frames].astype(np.float64), truth.channels),
            speaking=self.speaking,
            other_speaking=voice_mask(level) if other_mask is None else other_mask[:frames],
            other_level=level,
            labels=self.labels,
            partner=partner,
        )


def heard_audio(clip: Recording, voice: str) -> NDArray[np.int16]:
    """The `other` track of id `voice`, cut or repeated to the length of `clip`."""
    if voice == clip.name:
        return clip.other_audio
    return np.resize(Recording(clip.dataset, voice).other_audio, clip.frames * HOP_SAMPLES)


def choose(dataset: Dataset, names: Sequence[str], max_minutes: float | None, seed: int) -> list[str]:
    """All ids, or a random choice of about `max_minutes`, in the dataset's order."""
    if max_minutes is None:
        return list(names)
    chosen, minutes = set(), 0.0
    for index in np.random.default_rng(seed).permutation(len(names)):
        chosen.add(int(index))
        minutes += dataset.frames(names[index]) / (60.0 * FRAME_RATE)
        if minutes >= max_minutes:
            break
    return [name for i, name in enumerate(names) if i in chosen]


def shuffled_partners(dataset: Dataset, names: Sequence[str]) -> dict[str, str]:
    """For every id, an id of another conversation: the one half the list further on, or the next that will do."""
    partners = {}
    for i, name in enumerate(names):
        own = (name, dataset.partner(name))
        candidates = (names[(i + len(names) // 2 + k) % len(names)] for k in range(len(names)))
        partner = next((other for other in candidates if other not in own), None)
        if partner is None:
            raise ValueError("a shuffled partner needs at least two conversations in the split")
        partners[name] = partner
    return partners
