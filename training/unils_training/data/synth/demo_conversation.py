"""The conversation that `unils demo` plays: two friends plan a plum pie.

    python -m unils_training.data.synth.demo_conversation --out src/unils_sdk/data/demo

writes `a.flac` and `b.flac` (one voice each, mono, 16 kHz, of the same length) and `conversation.json` (who says what
when). The voices are espeak-ng variants of the test split, which no training conversation uses; the words are ours.
"""

from __future__ import annotations

import argparse
import ctypes
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from unils_training.data.synth.espeak import SAMPLE_RATE, Espeak, library_path
from unils_training.data.synth.people import VOICES

_HOP_SAMPLES = 640
_LEAD_SECONDS, _TAIL_SECONDS = 0.6, 1.2
_PEAK = 0.7


@dataclass(frozen=True)
class Speaker:
    """A voice of espeak-ng and how it speaks: words a minute, pitch and its range 0..100."""

    name: str
    accent: str
    variant: str
    rate: int
    pitch: int
    pitch_range: int


@dataclass(frozen=True)
class Line:
    """What a speaker says `gap` seconds after the line before has ended (negative overlaps it), and in what mood."""

    speaker: int
    gap: float
    text: str
    mood: str = "statement"


SPEAKERS = (
    Speaker("Ada", "en-us", "Andrea", 152, 44, 56),
    Speaker("Ben", "en-us", "Hugo", 165, 52, 58),
)
# Rate x, pitch +, range +, loudness x: moods sound as they do in the training conversations.
_MOODS = {
    "statement": (1.0, 0, 0, 1.0),
    "question": (1.0, 6, 8, 1.0),
    "happy": (1.12, 22, 28, 1.2),
    "laugh": (1.15, 28, 20, 1.1),
    "back_channel": (0.95, 0, 0, 0.6),
}
SCRIPT = (
    Line(0, 0.0, "Hi Ben! Would you help me bake a plum pie?", "question"),
    Line(1, 0.25, "A plum pie? Perfect! My mum picked a big bag of plums for us.", "happy"),
    Line(0, -0.55, "Mm-hm.", "back_channel"),
    Line(0, 0.35, "Wonderful! So first we warm up the oven, and then we mix butter, flour, and a bit of milk."),
    Line(1, -0.10, "Mm-hm.", "back_channel"),
    Line(1, 0.45, "And who puts all the plums on top?", "question"),
    Line(0, 0.20, "You do! And I am the one who tastes every piece.", "happy"),
    Line(1, -0.30, "Ha ha ha ha!", "laugh"),
    Line(1, 0.05, "Then there may be no plums left for the pie!", "happy"),
    Line(0, -0.25, "Ha ha ha!", "laugh"),
    Line(0, 0.30, "Maybe. Shall we begin?", "question"),
    Line(1, 0.20, "Of course. I'll wash my hands.", "statement"),
)


@dataclass(frozen=True)
class Conversation:
    """`voices` (2, n) float32 at 16 kHz, n a whole number of frames; `lines` say who speaks from when to when."""

    voices: NDArray[np.float32]
    lines: list[dict[str, object]]


def converse(seed: int = 0) -> Conversation:
    """Speak the script; `seed` varies the gaps a little. Repeatable in a fresh process only (see `espeak`)."""
    rng = np.random.default_rng(seed)
    espeak = Espeak()
    spoken = []
    end = _LEAD_SECONDS
    for line in SCRIPT:
        speaker = SPEAKERS[line.speaker]
        rate, pitch, pitch_range, loudness = _MOODS[line.mood]
        speech = espeak.speak(
            line.text,
            f"{speaker.accent}+{speaker.variant}",
            rate=round(speaker.rate * rate),
            pitch=speaker.pitch + pitch,
            pitch_range=speaker.pitch_range + pitch_range,
        )
        start = end + line.gap + float(rng.uniform(-0.03, 0.03))
        audio = speech.audio * (0.08 * loudness / float(np.sqrt(np.mean(speech.audio**2))))
        spoken.append((line, start, audio))
        finished = start + len(audio) / SAMPLE_RATE
        # A back-channel does not move the turn.
        end = max(end, finished) if line.mood == "back_channel" else finished
    hops = int(np.ceil((end + _TAIL_SECONDS) * SAMPLE_RATE / _HOP_SAMPLES))
    voices = np.zeros((2, hops * _HOP_SAMPLES), np.float32)
    lines: list[dict[str, object]] = []
    for line, start, audio in spoken:
        first = round(start * SAMPLE_RATE)
        voices[line.speaker, first : first + len(audio)] += audio
        times = {"start": round(start, 3), "end": round(start + len(audio) / SAMPLE_RATE, 3)}
        lines.append({"speaker": SPEAKERS[line.speaker].name, "mood": line.mood, "text": line.text, **times})
    voices *= _PEAK / np.abs(voices).max(axis=1, keepdims=True)
    return Conversation(voices, lines)


def espeak_version() -> str:
    """Of the installed library: other versions sound different."""
    information = ctypes.CDLL(library_path()).espeak_Info
    information.restype = ctypes.c_char_p
    return str(information(None).decode().split()[0])


def write(out: Path, seed: int = 0) -> None:
    """Make the conversation and write its three files."""
    held_out = VOICES["test"]["female"] + VOICES["test"]["male"]
    if any(speaker.variant not in held_out for speaker in SPEAKERS):
        raise ValueError("the demo's voices must be of the test split")
    conversation = converse(seed)
    out.mkdir(parents=True, exist_ok=True)
    for name, voice in zip("ab", conversation.voices, strict=True):
        soundfile.write(out / f"{name}.flac", np.round(voice * 32767).astype(np.int16), SAMPLE_RATE, subtype="PCM_16")
    about = {
        "seed": seed,
        "espeak_ng": espeak_version(),
        "voices": [f"{speaker.accent}+{speaker.variant}" for speaker in SPEAKERS],
        "names": [speaker.name for speaker in SPEAKERS],
        "lines": conversation.lines,
    }
    (out / "conversation.json").write_text(json.dumps(about, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the conversation of `unils demo`.")
    parser.add_argument("--out", type=Path, default=Path("src/unils_sdk/data/demo"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
