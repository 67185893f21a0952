"""Generates the clips of a split and measures them; one clip at a time is compared, and sums are all that remains."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from functools import lru_cache
from pathlib import Path

import numpy as np

from unils_training.data.dataset import Dataset
from unils_training.data.records import FRAME_RATE
from unils_training.evaluation.clips import Recording, heard_audio
from unils_training.evaluation.distributions import Distributions
from unils_training.evaluation.models import BATCH_FRAMES, Heard, Run, generate
from unils_training.metrics import Mesh, Metrics
from unils_training.metrics.seams import SeamMetrics
from unils_training.metrics.side import Side

LONG_RUN_BLOCK_MINUTES = 10.0


@dataclasses.dataclass(frozen=True)
class Task:
    """Clips to generate together and to compare.

    `voices` maps each id to that whose `other` track it hears; `keep` says where to write the motion of some; `flame`
    is the FLAME model file of rig `flame` and that of its masks, without which nothing is measured in millimetres.
    """

    run: Run
    dataset: Dataset
    voices: dict[str, str]
    keep: dict[str, Path] = dataclasses.field(default_factory=dict)
    flame: tuple[str, str] = ("", "")
    block_frames: int = 0
    """Frames that the model makes at a time; 0 where it makes each by itself."""


@dataclasses.dataclass
class Sums:
    """What is known after some clips."""

    seams: SeamMetrics = dataclasses.field(default_factory=SeamMetrics)
    metrics: Metrics = dataclasses.field(default_factory=Metrics)
    distributions: Distributions = dataclasses.field(default_factory=Distributions)

    def __iadd__(self, other: Sums) -> Sums:
        self.seams += other.seams
        self.metrics += other.metrics
        self.distributions += other.distributions
        return self


def work(task: Task) -> Sums:
    """Generates the clips of a task and measures them.

    Raises:
        RuntimeError: the model lost frames.
    """
    clips = [Recording(task.dataset, name) for name in task.voices]
    heard = [
        Heard(clip.self_audio, heard_audio(clip, task.voices[clip.name]), task.run.clip_seed(clip.name))
        for clip in clips
    ]
    mesh = flame_mesh(*task.flame)
    sums = Sums(SeamMetrics(task.block_frames))
    for clip, prediction in zip(clips, generate(task.run, heard), strict=True):
        side = clip.compare(prediction)
        if clip.name in task.keep:
            _keep(task.keep[clip.name], side)
        sums.seams.add(side)
        sums.metrics.add(side, mesh)
        sums.distributions.add(side)
    return sums


@lru_cache(maxsize=1)
def flame_mesh(model: str, masks: str = "") -> Mesh | None:
    """The vertices of a FLAME model file; None without one.

    Raises:
        FlameFileError: (a ValueError) it cannot be read, or the file of its masks cannot.
    """
    if not model:
        return None
    from unils_training.flame import FlameMesh, FlameModel

    return FlameMesh(FlameModel.load(model, masks))


def _keep(path: Path, side: Side) -> None:
    np.savez_compressed(
        path,
        truth=side.truth.values.astype(np.float32),
        prediction=side.prediction.values.astype(np.float32),
        channels=np.array(side.truth.channels),
        speaking=side.speaking,
        other_speaking=side.other_speaking,
    )


def divide(task: Task) -> Iterator[Task]:
    """The task in pieces that fit in memory.

    A single clip each for the native engine; for PyTorch clips of about equal length together, as many as make
    `BATCH_FRAMES`.
    """

    def part(names: Sequence[str]) -> Task:
        voices = {name: task.voices[name] for name in names}
        return dataclasses.replace(task, voices=voices, keep={n: p for n, p in task.keep.items() if n in voices})

    if task.run.backend == "native":
        yield from (part([name]) for name in task.voices)
        return
    group: list[str] = []
    for name in sorted(task.voices, key=lambda name: (-task.dataset.frames(name), name)):
        if group and task.dataset.frames(group[0]) * (len(group) + 1) > BATCH_FRAMES:
            yield part(group)
            group = []
        group.append(name)
    if group:
        yield part(group)


def measure(task: Task, pool: Executor | None, title: str) -> Sums:
    """The whole task; sums are taken in the order of its pieces, so that they do not depend on the pool."""
    from tqdm import tqdm

    pieces = list(divide(task))
    total = Sums(SeamMetrics(task.block_frames))
    made = map(work, pieces) if pool is None else pool.map(work, pieces)
    for sums in tqdm(made, total=len(pieces), desc=title, unit="piece", mininterval=2.0):
        total += sums
    return total


def long_run(run: Run, dataset: Dataset, names: Sequence[str], minutes: float) -> list[dict[str, float]]:
    """One session that goes on for `minutes`, conversation after conversation: figures of every ten minutes.

    A model that freezes or explodes in free running shows here and in no short clip.
    """
    clips: list[Recording] = []
    frames = 0
    while frames < minutes * 60 * FRAME_RATE:
        clips.append(Recording(dataset, names[len(clips) % len(names)]))
        frames += clips[-1].frames
    own = np.concatenate([clip.self_audio for clip in clips])
    other = np.concatenate([clip.other_audio for clip in clips])
    motion = generate(run, [Heard(own, other, run.clip_seed("long run"))])[0]
    blocks: list[tuple[Metrics, float]] = []
    at = 0
    for clip in clips:
        block = int(at / (LONG_RUN_BLOCK_MINUTES * 60 * FRAME_RATE))
        if block == len(blocks):
            blocks.append((Metrics(), 0.0))
        part = motion[at : at + clip.frames]
        blocks[-1][0].add(clip.compare(part))
        blocks[-1] = (blocks[-1][0], max(blocks[-1][1], float(np.abs(part).max())))
        at += clip.frames
    summary = []
    for index, (metrics, largest) in enumerate(blocks):
        lips, alive = metrics.lips.result(), metrics.alive.result()
        ratios = alive["all"].get("std_ratio", {})
        summary.append(
            {
                "from_minute": index * LONG_RUN_BLOCK_MINUTES,
                "jaw_correlation": lips["jaw_correlation"],
                **{f"{group}_std_ratio": ratios[group] for group in ("head", "brows", "gaze") if group in ratios},
                "jitter": alive["jitter"]["total"],
                "largest_value": largest,
            }
        )
    return summary
