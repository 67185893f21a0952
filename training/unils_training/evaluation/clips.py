"""The clips of a dataset as evaluation sees them: two tracks to hear, and the true face to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from unils_training.data.dataset import Dataset
from unils_training.data.records import FRAME_RATE, HOP_SAMPLES, Clip, CorpusError, MotionClip
from unils_training.metrics.events import Bools, Events
from unils_training.metrics.side import Motion, Side, frame_level, voice_mask

AnyClip = TypeVar("AnyClip", Clip, MotionClip)


@dataclass(frozen=True)
class Recording:
    """One id of a dataset, read when it is asked for. T frames, as many as motion and both tracks have."""

    dataset: Dataset
    name: str

    @cached_property
    def _clip(self) -> Clip:
        return _of_the_rig(self.dataset, self.dataset.read(self.name))

    @cached_property
    def _partner(self) -> MotionClip | None:
        partner = self.dataset.partner(self.name)
        return None if partner is None else _of_the_rig(self.dataset, self.dataset.read_motion(partner))

    def check(self) -> None:
        """Reads all that is compared. Raises CorpusError where it cannot be read."""
        if self.frames == 0:
            raise CorpusError(f"{self.name} is shorter than a frame")
        _ = self._partner

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
            CorpusError: this clip, or its partner's motion, cannot be read.
            RuntimeError: there are fewer frames of it; a model that loses frames has failed.
        """
        if len(prediction) < self.frames:
            raise RuntimeError(f"{self.name}: {len(prediction)} frames came out of {self.frames} frames of audio")
        frames, truth = self.frames, self.motion
        level = frame_level(self.other_audio)
        other_mask = self._clip.other_speech_mask
        partner = None
        if self._partner is not None and len(self._partner.motion) >= frames:
            partner = Motion(self._partner.motion[:frames].astype(np.float64), truth.channels)
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


def _of_the_rig(dataset: Dataset, clip: AnyClip) -> AnyClip:
    """The clip. Raises CorpusError where its channels are not those that the dataset names."""
    if tuple(clip.channels) != tuple(dataset.channels):
        raise CorpusError(f"{clip.id}: its channels are not those of the dataset")
    return clip


def heard_audio(clip: Recording, voice: str) -> NDArray[np.int16]:
    """The `other` track of id `voice`, cut or repeated to the length of `clip`."""
    if voice == clip.name:
        return clip.other_audio
    return np.resize(Recording(clip.dataset, voice).other_audio, clip.frames * HOP_SAMPLES)


def choose(
    dataset: Dataset, names: Sequence[str], max_minutes: float | None, seed: int
) -> tuple[list[str], dict[str, str]]:
    """All ids that can be read, or a random choice of about `max_minutes`, in the dataset's order.

    Every clip is read for it: a corrupt one is found before hours of generation, not in the middle of them. Second
    come the ids that were met and cannot be read, with the reason.
    """
    order = range(len(names)) if max_minutes is None else np.random.default_rng(seed).permutation(len(names)).tolist()
    chosen: list[int] = []
    skipped: dict[str, str] = {}
    minutes = 0.0
    for index in tqdm(order, desc="reading", unit="clip", mininterval=2.0):
        clip = Recording(dataset, names[index])
        try:
            clip.check()
        except CorpusError as error:
            skipped[clip.name] = str(error)
            continue
        chosen.append(index)
        minutes += clip.frames / (60.0 * FRAME_RATE)
        if max_minutes is not None and minutes >= max_minutes:
            break
    return [names[index] for index in sorted(chosen)], skipped


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
