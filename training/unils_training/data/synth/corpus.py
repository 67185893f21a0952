"""`unils-train synth`: make a corpus of conversations.

Every conversation is a function of (seed, split, index) alone and is made in a process of its own, so that the corpus
does not depend on the number of workers. Its folder appears under its final name only when it is complete;
`corpus.json` comes last.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from unils_training.data.synth.acoustics import hear_other, hear_self
from unils_training.data.synth.dialogue import converse, track
from unils_training.data.synth.espeak import SAMPLE_RATE, Espeak, library_path
from unils_training.data.synth.face import FRAME_RATE, perform
from unils_training.data.synth.people import MOTION_ONLY, SPLITS, make_person, pool_number
from unils_training.data.synth.prosody import analyse
from unils_training.data.synth.unils_talk_writer import write_unils_talk
from unils_training.rigs import ARKIT_CHANNELS

FORMAT_VERSION = 1
SHORTEST_SECONDS, LONGEST_SECONDS = 60, 120
FORMATS = ("folder", "unils-talk")
_PREFIX = {"train": "c", "val": "v", "test": "t", MOTION_ONLY: "m"}
_PARTS = ".folder-form"


@dataclass(frozen=True)
class Task:
    """One conversation to make: `seconds` long, between persons drawn from `people` persons of `split`."""

    out: Path
    seed: int
    split: str
    index: int
    seconds: int
    people: int

    @property
    def name(self) -> str:
        """The id of the conversation."""
        return f"{_PREFIX[self.split]}{self.index:06d}"

    @property
    def sides(self) -> tuple[str, str]:
        """The ids of its two faces."""
        return f"{self.name}a", f"{self.name}b"


def plan(out: Path, seed: int, hours: dict[str, float]) -> list[Task]:
    """The conversations that make up `hours` of each split, and of `MOTION_ONLY` where it is among them."""
    tasks = []
    for split, wanted in hours.items():
        rng = np.random.default_rng([seed, 0, pool_number(split)])
        lengths: list[int] = []
        # Hours without sound are hours of faces, of which a conversation has two.
        while sum(lengths) * (2 if split == MOTION_ONLY else 1) < wanted * 3600:
            lengths.append(int(rng.integers(SHORTEST_SECONDS, LONGEST_SECONDS + 1)))
        people = max(4, len(lengths) // 2)
        tasks += [Task(out, seed, split, index, seconds, people) for index, seconds in enumerate(lengths)]
    return tasks


def _write_wav(path: Path, audio: NDArray[np.float32]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(audio * 32767.0).astype("<i2").tobytes())


def make_conversation(task: Task) -> str:
    """Make and write one conversation; call it in a fresh process (see `espeak`). Returns its name."""
    rng = np.random.default_rng([task.seed, 2, pool_number(task.split), task.index])
    first, second = rng.choice(task.people, 2, replace=False)
    people = (make_person(task.seed, task.split, int(first)), make_person(task.seed, task.split, int(second)))
    manner, utterances = converse(rng, Espeak(), people, float(task.seconds))
    samples = task.seconds * SAMPLE_RATE
    voices = [track(utterances, speaker, samples) for speaker in (0, 1)]
    prosody = [analyse(voice) for voice in voices]
    for me, side in enumerate(task.sides):
        own = [utterance for utterance in utterances if utterance.speaker == me]
        other = [utterance for utterance in utterances if utterance.speaker != me]
        result = perform(rng, people[me], own, other, prosody[me], prosody[1 - me], task.seconds * FRAME_RATE)
        folder = task.out / side
        partial = task.out / f".{side}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if task.split != MOTION_ONLY:
            _write_wav(partial / "self.wav", hear_self(rng, voices[me]))
            _write_wav(partial / "other.wav", hear_other(rng, voices[1 - me], voices[me]))
        phones = [
            (phone, utterance.start + begin, utterance.start + end)
            for utterance in own
            for phone, begin, end in zip(
                utterance.speech.phones, utterance.speech.phone_start, utterance.speech.phone_end, strict=True
            )
            if phone
        ]
        np.savez_compressed(
            partial / "motion.npz",
            motion=result.motion,
            channels=np.array(ARKIT_CHANNELS),
            frame_rate=np.int64(FRAME_RATE),
            speech_mask=result.speech,
            event_kind=np.array([kind for kind, _, _ in result.events], dtype=np.str_),
            event_start=np.array([int(begin * FRAME_RATE) for _, begin, _ in result.events], dtype=np.int64),
            event_end=np.array([int(np.ceil(end * FRAME_RATE)) for _, _, end in result.events], dtype=np.int64),
            phone=np.array([phone for phone, _, _ in phones], dtype=np.str_),
            phone_start=np.array([begin for _, begin, _ in phones]),
            phone_end=np.array([end for _, _, end in phones]),
            person=np.str_(people[me].name),
            voice=np.str_(people[me].voice),
            language=np.str_(people[me].accent),
            manner=np.str_(manner),
        )
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    return task.name


def _is_complete(task: Task) -> bool:
    return all((task.out / side / "motion.npz").is_file() for side in task.sides)


def generate(
    out: Path,
    seed: int,
    hours: dict[str, float],
    workers: int = 2,
    resume: bool = False,
    motion_only_hours: float = 0.0,
    form: str = "folder",
) -> Path:
    """Make the corpus at `out` and return it; `hours` of conversation per split (each is seen from both sides).

    `motion_only_hours` of faces come without sound, from persons of their own; they change nothing in the rest. `form`
    is one of `FORMATS`. With `resume`, conversations already complete are kept.

    Raises FileExistsError where `out` holds something and `resume` is not set, ValueError where it holds a corpus of
    other settings.
    """
    if form == "unils-talk":
        if out.exists() and any(out.iterdir()) and not (resume and (out / _PARTS).is_dir()):
            raise FileExistsError(f"{out} is not empty: choose another folder, or continue it with --resume")
        generate(out / _PARTS, seed, hours, workers, resume, motion_only_hours)
        write_unils_talk(out / _PARTS, out)
        shutil.rmtree(out / _PARTS)
        return out
    hours = {split: hours[split] for split in SPLITS}
    if motion_only_hours > 0:
        hours[MOTION_ONLY] = motion_only_hours
    settings = {"seed": seed, "hours": hours}
    marker = out / "settings.json"
    if out.exists() and any(out.iterdir()):
        if not resume:
            raise FileExistsError(f"{out} is not empty: choose another folder, or continue it with --resume")
        if not marker.is_file() or json.loads(marker.read_text()) != settings:
            raise ValueError(
                f"{out} was begun with other settings: continue it with the same --seed and hours, or choose another"
                " folder"
            )
    out.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(settings))
    tasks = plan(out, seed, hours)
    missing = [task for task in tasks if not _is_complete(task)]
    # A server process forks the workers: the caller may hold threads, and each conversation needs a fresh synthesiser.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(workers, maxtasksperchild=1) as pool:
        for _ in tqdm(
            pool.imap_unordered(make_conversation, missing),
            total=len(tasks),
            initial=len(tasks) - len(missing),
            unit="conversation",
            desc="synth",
        ):
            pass
    document = {
        "format": "unils-corpus",
        "format_version": FORMAT_VERSION,
        "seed": seed,
        "rig": "arkit",
        "channels": list(ARKIT_CHANNELS),
        "frame_rate": FRAME_RATE,
        "sample_rate": SAMPLE_RATE,
        "hours": hours,
        "splits": {split: [name for task in tasks if task.split == split for name in task.sides] for split in SPLITS},
    }
    if MOTION_ONLY in hours:
        faces = [name for task in tasks if task.split == MOTION_ONLY for name in task.sides]
        document["motion_only"] = {"train": faces}
    (out / "corpus.json").write_text(json.dumps(document, indent=1) + "\n")
    return out


def main(argv: list[str]) -> int:
    """The command line of `unils-train synth`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="unils-train synth", description="Make a corpus of simulated conversations with espeak-ng."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus")
    parser.add_argument(
        "--hours", type=float, default=12.0, help="hours of conversation to train on; each gives two faces (default 12)"
    )
    parser.add_argument("--val-hours", type=float, default=0.5, help="hours to validate on (default 0.5)")
    parser.add_argument("--test-hours", type=float, default=0.75, help="hours to test on (default 0.75)")
    parser.add_argument(
        "--motion-only-hours",
        type=float,
        default=0.0,
        help="hours of faces without sound, of other persons, for the codec and the prior (default 0)",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="folder",
        help="folders of wav and npz, or the LMDB and JSON files of UniLS-Talk (default folder)",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same corpus (default 0)")
    parser.add_argument("--workers", type=int, default=2, help="processes; they do not change the result (default 2)")
    parser.add_argument("--resume", action="store_true", help="continue a corpus that was interrupted")
    arguments = parser.parse_args(argv)
    if library_path() is None:
        print(
            "unils-train synth: libespeak-ng.so.1 was not found: install espeak-ng"
            " (Debian and Ubuntu: apt install espeak-ng)",
            file=sys.stderr,
        )
        return 1
    hours = {"train": arguments.hours, "val": arguments.val_hours, "test": arguments.test_hours}
    try:
        generate(
            arguments.out,
            arguments.seed,
            hours,
            arguments.workers,
            arguments.resume,
            arguments.motion_only_hours,
            arguments.format,
        )
    except (FileExistsError, ValueError) as error:
        print(f"unils-train synth: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
