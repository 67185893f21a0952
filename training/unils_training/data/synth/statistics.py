"""Statistics of a corpus beside published ones, as Markdown: `python -m unils_training.data.synth.statistics CORPUS`.

Everything is measured on what is on disk (motion, masks, event labels, audio), not read from the simulator's settings.
T: frames of a clip at 25 a second.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt
from tqdm import tqdm

from unils_training.data.folder import FRAME_RATE, HOP_SAMPLES, Clip, CorpusError, open_corpus, read_clip
from unils_training.data.states import Mask, listening, within_last
from unils_training.data.synth.face import EYE_RANGE
from unils_training.data.synth.prosody import close_gaps, runs

REACTIONS = ("nod", "shake", "smile", "laugh", "frown")
_HEAD = ("headYaw", "headPitch", "headRoll")
# A listener goes on listening through pauses of the other of up to 2 s.
_HANGOVER_FRAMES = 50
_TURN_FRAMES = 25
_LONGEST_GAP_SECONDS = 3.0
_CUE_SECONDS = (0.35, 0.75)
_LARGEST_LAG_FRAMES = 50


@dataclass
class Statistics:
    """Sums over the clips of a corpus; `row`s are what is printed."""

    clips: int = 0
    frames: int = 0
    state_frames: dict[str, int] = field(default_factory=dict)
    blinks: dict[str, int] = field(default_factory=dict)
    reactions: dict[str, int] = field(default_factory=dict)
    seconds_of: dict[str, list[float]] = field(default_factory=dict)
    gaps: list[float] = field(default_factory=list)
    after_cue: int = 0
    after_wrong_cue: int = 0
    listener_nods: int = 0
    nods_aloud: int = 0
    head_std: list[NDArray[np.float64]] = field(default_factory=list)
    eye_std: list[tuple[float, float]] = field(default_factory=list)
    rest_jaw: list[float] = field(default_factory=list)
    speaking_jaw: list[tuple[float, float]] = field(default_factory=list)
    gap_at_closure: list[float] = field(default_factory=list)
    closures: int = 0
    lag: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_LARGEST_LAG_FRAMES + 1))
    lag_clips: int = 0
    persons: set[str] = field(default_factory=set)
    voices: set[str] = field(default_factory=set)
    languages: set[str] = field(default_factory=set)


def turn_gaps(first: Mask, second: Mask) -> Iterator[float]:
    """Seconds between turns of two people (negative: overlap); turns are stretches of at least 1 s."""
    turns = sorted(
        (begin, end, who)
        for who, mask in enumerate((first, second))
        for begin, end in runs(close_gaps(mask, 20))
        if end - begin >= _TURN_FRAMES
    )
    for (_, end, who), (begin, _, next_who) in itertools.pairwise(turns):
        gap = (begin - end) / FRAME_RATE
        if who != next_who and abs(gap) < _LONGEST_GAP_SECONDS:
            yield gap


def _phrase_ends(mask: Mask) -> NDArray[np.float64]:
    return np.array([end / FRAME_RATE for begin, end in runs(close_gaps(mask, 5)) if end - begin >= 36])


def _follows(at: float, ends: NDArray[np.float64]) -> bool:
    return bool(np.any((at - ends >= _CUE_SECONDS[0]) & (at - ends <= _CUE_SECONDS[1])))


def _events(clip: Clip, kind: str) -> list[tuple[int, int]]:
    chosen = clip.event_kind == kind
    return list(zip(clip.event_start[chosen].tolist(), clip.event_end[chosen].tolist(), strict=True))


def _band(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    filtered: NDArray[np.float64] = sosfiltfilt(butter(2, [0.2, 1.1], "bandpass", fs=FRAME_RATE, output="sos"), signal)
    return filtered


def add(total: Statistics, clip: Clip, partner: Clip, wrong_partner: Clip) -> None:
    """Add one clip, with its partner's clip and, to compare with, that of somebody from another conversation."""
    if clip.speech_mask is None or partner.speech_mask is None or wrong_partner.speech_mask is None:
        raise CorpusError(f"{clip.id}: statistics need a speech_mask")
    own, other = clip.speech_mask, partner.speech_mask
    hears = listening(own, other)
    # Blinks gather where phrases end; those belong to the speech before them, not to the silence after.
    speaks = within_last(own, 15)
    listens = ~speaks & hears
    states = {"speaking": speaks, "listening": listens, "silent": ~speaks & ~listens}
    values = {name: clip.motion[:, i].astype(np.float64) for i, name in enumerate(clip.channels)}
    total.clips += 1
    total.frames += len(clip.motion)
    total.persons.add(clip.person)
    total.voices.add(clip.voice)
    total.languages.add(clip.language)
    for state, mask in states.items():
        total.state_frames[state] = total.state_frames.get(state, 0) + int(mask.sum())
        total.blinks[state] = total.blinks.get(state, 0) + sum(bool(mask[begin]) for begin, _ in _events(clip, "blink"))
    total.state_frames["hears"] = total.state_frames.get("hears", 0) + int(hears.sum())
    for kind in REACTIONS:
        # Laughter is heard: it counts as a reaction though it is one's own voice.
        reacts = within_last(other, _HANGOVER_FRAMES) if kind == "laugh" else hears
        middles = [min((begin + end) // 2, len(own) - 1) for begin, end in _events(clip, kind)]
        total.reactions[kind] = total.reactions.get(kind, 0) + sum(bool(reacts[middle]) for middle in middles)
    for kind in ("nod", "blink", "smile", "shake"):
        total.seconds_of.setdefault(kind, []).extend((end - begin) / FRAME_RATE for begin, end in _events(clip, kind))
    total.gaps.extend(turn_gaps(own, other))
    ends, wrong_ends = _phrase_ends(other), _phrase_ends(wrong_partner.speech_mask)
    for begin, end in _events(clip, "nod"):
        if own[max(0, begin - 5) : end + 5].any():
            total.nods_aloud += 1
            continue
        total.listener_nods += 1
        total.after_cue += _follows(begin / FRAME_RATE, ends)
        total.after_wrong_cue += _follows(begin / FRAME_RATE, wrong_ends)
    total.head_std.append(np.array([values[name].std() for name in _HEAD]))
    yaw = values["eyeLookOutLeft"] - values["eyeLookInLeft"]
    pitch = values["eyeLookUpLeft"] - values["eyeLookDownLeft"]
    total.eye_std.append((float(yaw.std()), float(pitch.std())))
    quiet = ~np.convolve(own, np.ones(11), mode="same").astype(bool)
    if quiet.any():
        total.rest_jaw.append(float(values["jawOpen"][quiet].mean()))
    if own.any():
        total.speaking_jaw.append((float(values["jawOpen"][own].mean()), float(values["jawOpen"][own].std())))
    apart = values["jawOpen"] - values["mouthClose"]
    for begin, end in _events(clip, "lip_closure"):
        total.closures += 1
        total.gap_at_closure.append(float(apart[begin:end].min()))
    if hears.sum() > 20 * FRAME_RATE:
        samples = partner.self_audio[: len(own) * HOP_SAMPLES].astype(np.float64).reshape(len(own), HOP_SAMPLES)
        energy = _band(np.sqrt(np.sqrt(np.mean(samples**2, axis=1))))
        head = _band(values["headPitch"])
        for lag in range(_LARGEST_LAG_FRAMES + 1):
            heard = hears[lag:]
            total.lag[lag] += np.corrcoef(energy[: len(energy) - lag][heard], head[lag:][heard])[0, 1]
        total.lag_clips += 1


def _conversation(corpus: Path, name: str) -> tuple[Clip, Clip]:
    return read_clip(corpus, name), read_clip(corpus, name[:-1] + "b")


def measure(corpus: Path, split: str, limit: int | None = None) -> Statistics:
    """Statistics of a split (its first `limit` clips). Raises CorpusError."""
    contents = open_corpus(corpus)
    if split not in contents.splits:
        raise CorpusError(f"{corpus} has no split {split!r}: it has {', '.join(contents.splits)}")
    ids = set(contents.splits[split])
    names = [name for name in contents.splits[split][:limit] if name[-1:] == "a" and name[:-1] + "b" in ids]
    if not names:
        raise CorpusError(f"{corpus}: no two ids of {split} are the two sides (a and b) of one conversation")
    total = Statistics()
    strangers = _conversation(corpus, names[-1])
    for name in tqdm(names, desc="statistics", unit="conversation"):
        pair = _conversation(corpus, name)
        for me in (0, 1):
            add(total, pair[me], pair[1 - me], strangers[me])
        strangers = pair
    return total


def table(total: Statistics) -> str:
    """The statistics as a Markdown table beside the published ones (sources: docs/corpus.md)."""
    minutes = {state: max(count, 1) / (60 * FRAME_RATE) for state, count in total.state_frames.items()}
    hears = minutes["hears"]
    gaps = np.array(total.gaps or [np.nan])
    head = np.mean(total.head_std, axis=0)
    eye = np.mean(total.eye_std, axis=0) * EYE_RANGE
    jaw = np.mean(total.speaking_jaw, axis=0)
    lag = total.lag / max(total.lag_clips, 1)
    met = np.array(total.gap_at_closure or [np.nan]) <= 0.03
    blink = np.percentile(total.seconds_of["blink"] or [np.nan], [5, 95])
    nod = np.array(total.seconds_of["nod"] or [np.nan])
    nods = max(total.listener_nods, 1)

    counts = (total.clips, len(total.persons), len(total.voices), len(total.languages))
    shares = [f"{total.state_frames[state] / total.frames:.0%}" for state in ("speaking", "listening", "silent")]
    rows = [
        ("hours of faces (two per conversation)", f"{total.frames / FRAME_RATE / 3600:.2f}", ""),
        ("clips; persons; voices; accents", "; ".join(str(count) for count in counts), ""),
        ("share of time speaking; listening; nobody speaks", "; ".join(shares), ""),
        ("gap between turns, mean; median (s)", f"{np.mean(gaps):.2f}; {np.median(gaps):.2f}", "about 0.2"),
        ("turns that begin in overlap", f"{np.mean(gaps < 0):.0%}", ""),
        *(
            (f"blinks a minute, {state}", f"{total.blinks[state] / minutes[state]:.1f}", published)
            for state, published in (("silent", "19"), ("speaking", "25"), ("listening", "28"))
        ),
        ("closing and opening of a blink (s), 5 to 95 %", " to ".join(f"{b:.2f}" for b in blink), "0.2 to 0.6"),
        *(
            (f"{kind}s a minute of listening", f"{total.reactions[kind] / hears:.2f}", published)
            for kind, published in zip(REACTIONS, ("1.16", "1.45", "1.79", "0.94", "1.13"), strict=True)
        ),
        ("reactions a minute of listening, all five", f"{sum(total.reactions.values()) / hears:.2f}", "7.3"),
        ("length of a nod (s), mean", f"{np.mean(nod):.2f}", "about 0.5"),
        ("nods with own voice", f"{total.nods_aloud / max(total.nods_aloud + total.listener_nods, 1):.0%}", ""),
        (
            "silent nods 0.35 to 0.75 s after the end of the partner's phrase; of a stranger's",
            f"{total.after_cue / nods:.0%}; {total.after_wrong_cue / nods:.0%}",
            "about 0.7 after the fall of pitch",
        ),
        (
            "lag of a listener's head behind the speaker's energy at 0.2-1.1 Hz (s); correlation",
            f"{np.argmax(lag) / FRAME_RATE:.2f}; {lag.max():.2f}",
            "0.6",
        ),
        ("head, std of yaw; pitch; roll (rad)", "; ".join(f"{value:.3f}" for value in head), "0.17; 0.12; 0.12"),
        ("eyes, std of yaw; pitch (rad)", "; ".join(f"{value:.3f}" for value in eye), "0.156; 0.13"),
        ("jawOpen while speaking, mean; std", "; ".join(f"{value:.3f}" for value in jaw), ""),
        ("jawOpen in own silence, mean", f"{np.mean(total.rest_jaw):.4f}", ""),
        ("lip closures a minute of own speech", f"{total.closures / minutes['speaking']:.0f}", ""),
        ("closures in which jawOpen - mouthClose <= 0.03", f"{np.mean(met):.1%}", ""),
    ]  # fmt: skip
    lines = ["| quantity | this corpus | published |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {measured} | {published} |" for name, measured, published in rows)])


def main(argv: list[str]) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m unils_training.data.synth.statistics", description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--limit", type=int, help="look at this many clips only")
    arguments = parser.parse_args(argv)
    try:
        print(table(measure(arguments.corpus, arguments.split, arguments.limit)))
    except CorpusError as error:
        print(f"statistics: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
