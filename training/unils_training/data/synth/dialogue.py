"""Who says what when: turns, gaps, overlaps, back-channels, laughter, long pauses, monologues and silence.

Gaps follow the figures for human conversation (mean about 200 ms, negative for overlaps).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unils_training.data.synth.espeak import SAMPLE_RATE, Espeak, Speech
from unils_training.data.synth.people import Person
from unils_training.data.synth.sentences import sentence

MANNERS = {"chat": 0.72, "monologue": 0.14, "sparse": 0.14}
_KIND_WEIGHTS = {"statement": 0.47, "question": 0.18, "happy": 0.16, "sad": 0.12, "negation": 0.07}
# What a mood does to a voice: rate x, pitch +, range +, loudness x. It is what a listener can hear.
_MOODS = {
    "statement": (1.0, 0, 0, 1.0),
    "question": (1.0, 6, 8, 1.0),
    "happy": (1.13, 24, 30, 1.25),
    "sad": (0.80, -16, -26, 0.6),
    "negation": (0.97, 0, 6, 1.1),
    "greeting": (1.03, 10, 12, 1.1),
    "back_channel": (0.95, 0, 0, 0.6),
    "laugh": (1.2, 30, 20, 1.1),
}
_RMS = 0.07
_LAST_WORD_SECONDS = 1.5


@dataclass(frozen=True)
class Utterance:
    """What one speaker says in one go: one of `sentences.KINDS`, from `start` seconds on; phones count from there.

    `intensity` 0..1 is how strong the mood is, `loudness` the factor it is spoken at.
    """

    speaker: int
    kind: str
    start: float
    intensity: float
    loudness: float
    speech: Speech

    @property
    def end(self) -> float:
        """Seconds at which the sound ends."""
        return self.start + len(self.speech.audio) / SAMPLE_RATE


class _Stage:
    """The conversation while it is being made."""

    def __init__(self, rng: np.random.Generator, espeak: Espeak, people: tuple[Person, Person], seconds: float) -> None:
        self.rng, self.espeak, self.people, self.seconds = rng, espeak, people, seconds
        self.utterances: list[Utterance] = []
        self.free = [0.0, 0.0]

    def say(self, speaker: int, kind: str, start: float, intensity: float = 0.6) -> Utterance | None:
        """Speak one sentence at `start` or once the speaker's mouth is free; None where it would not fit any more."""
        person, rng = self.people[speaker], self.rng
        start = max(start, self.free[speaker] + 0.06, 0.1)
        if start > self.seconds - _LAST_WORD_SECONDS:
            return None
        rate, pitch, pitch_range, loudness = _MOODS[kind]
        strength = 0.6 + 0.6 * intensity
        speech = self.espeak.speak(
            sentence(rng, person.language, kind),
            f"{person.accent}+{person.voice}",
            rate=int(
                np.clip(person.rate * (1 + (rate - 1) * strength) * np.exp(0.06 * rng.standard_normal()), 90, 300)
            ),
            pitch=int(np.clip(person.pitch + pitch * strength + 3 * rng.standard_normal(), 0, 99)),
            pitch_range=int(np.clip(person.pitch_range + pitch_range * strength + 5 * rng.standard_normal(), 5, 99)),
        )
        if len(speech.audio) < 0.05 * SAMPLE_RATE or len(speech.phones) == 0:
            return None
        loudness = float(loudness**strength * np.exp(0.12 * rng.standard_normal()))
        utterance = Utterance(speaker, kind, start, intensity, loudness, self._level(speech, loudness))
        if utterance.end > self.seconds:
            return None
        self.utterances.append(utterance)
        self.free[speaker] = utterance.end
        return utterance

    @staticmethod
    def _level(speech: Speech, loudness: float) -> Speech:
        rms = float(np.sqrt(np.mean(speech.audio**2)) + 1e-6)
        audio = (speech.audio * (_RMS * loudness / rms)).astype(np.float32)
        return Speech(audio, speech.phones, speech.phone_start, speech.phone_end)

    def respond(self, utterance: Utterance, talkative: float) -> None:
        """What the listener lets be heard of it: laughter after something very happy, now and then a back-channel."""
        listener = 1 - utterance.speaker
        if utterance.kind == "happy" and utterance.intensity > 0.6:
            self.say(listener, "laugh", utterance.end + self.rng.uniform(-0.4, 0.1), 0.9)
        elif utterance.end - utterance.start > 1.2 and self.rng.random() < talkative:
            self.say(listener, "back_channel", utterance.end + self.rng.uniform(-0.15, 0.3))


def converse(
    rng: np.random.Generator, espeak: Espeak, people: tuple[Person, Person], seconds: float
) -> tuple[str, list[Utterance]]:
    """Make a conversation of `seconds`: its manner (a key of `MANNERS`) and its utterances in order of their start."""
    manner = str(rng.choice(list(MANNERS), p=list(MANNERS.values())))
    stage = _Stage(rng, espeak, people, seconds)
    kinds, weights = list(_KIND_WEIGHTS), np.array(list(_KIND_WEIGHTS.values()))
    now = rng.uniform(0.3, 2.5)
    speaker = int(rng.integers(2))
    narrator = speaker
    if manner != "monologue" and rng.random() < 0.5:
        for who in (speaker, 1 - speaker):
            greeting = stage.say(who, "greeting", now)
            now = (greeting.end if greeting else now) + rng.normal(0.25, 0.15)
    while now < seconds - _LAST_WORD_SECONDS:
        count = (
            int(rng.integers(4, 9))
            if manner == "monologue" and speaker == narrator
            else min(1 + int(rng.geometric(0.5)), 5)
        )
        for i in range(count):
            kind = str(rng.choice(kinds, p=weights))
            if kind == "question" and i < count - 1 and rng.random() < 0.7:
                kind = "statement"
            utterance = stage.say(speaker, kind, now, float(rng.uniform(0.2, 1.0)))
            if utterance is None:
                now = seconds
                break
            stage.respond(utterance, 0.18)
            now = utterance.end + (rng.uniform(1.0, 3.0) if rng.random() < 0.06 else 0.12 + rng.exponential(0.3))
            if kind == "question":
                break
        now = max(stage.free) if now < seconds else now
        if manner == "sparse" and rng.random() < 0.5:
            now += rng.uniform(3.0, 10.0)
        else:
            now += float(np.clip(rng.normal(0.2, 0.35), -0.9, 1.6))
        if manner != "monologue" or rng.random() < 0.3 or speaker != narrator:
            speaker = 1 - speaker
    return manner, sorted(stage.utterances, key=lambda utterance: utterance.start)


def track(utterances: list[Utterance], speaker: int, samples: int) -> NDArray[np.float32]:
    """The clean voice of `speaker` alone: (samples,) float32."""
    audio = np.zeros(samples, dtype=np.float32)
    for utterance in utterances:
        if utterance.speaker == speaker:
            begin = round(utterance.start * SAMPLE_RATE)
            part = utterance.speech.audio[: samples - begin]
            audio[begin : begin + len(part)] += part
    return audio
