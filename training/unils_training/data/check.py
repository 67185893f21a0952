"""`unils-train data check`: what is wrong with a dataset, and what is in it.

Every clip is read once, by several processes, each of which keeps one clip in memory and hands back a few numbers.
T frames of a clip, D channels.
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from unils_training.data.dataset import Dataset
from unils_training.data.folder import Corpus, partner_id
from unils_training.data.records import FRAME_RATE, Clip, CorpusError, MotionClip
from unils_training.data.states import listening
from unils_training.data.workers import in_processes
from unils_training.metrics.side import STATES, frame_level, voice_mask
from unils_training.rigs import HEAD_CHANNELS, JAW_CHANNEL, RIGS

Severity = Literal["error", "warning"]
Floats = NDArray[np.float64]

LEVEL_EDGES = np.arange(-100.0, 5.0, 5.0)
"""Edges of the histogram of loudness, dB relative to full scale."""

SILENT_TRACK_DB = -60.0
CLIPPED_SHARE = 0.001
_CLIPPED = 32760
STUCK_SECONDS = 2.0
_MOVES = 1e-6
SYNC_LIMIT_MS = 80.0
"""Sound and picture further apart are a warning: people notice 45 ms early and 125 ms late (ITU-R BT.1359)."""
_LARGEST_LAG = 15
_SYNC_SECONDS = 4.0  # of speech, without which a clip says nothing about its lag
_SYNC_CORRELATION = 0.3
_SWAP_MARGIN = 0.1
MASK_MARGIN_DB = 3.0
HEAD_MEAN = 0.1
JUMP = 0.6
"""Radians that a head does not turn in 40 ms."""
_NAMED = 20

RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "arkit": {"head": (-1.6, 1.6), "": (-0.05, 1.05)},
    "flame": {"head": (-1.6, 1.6), "jaw": (-0.3, 1.0), "leftEye": (-1.2, 1.2), "rightEye": (-1.2, 1.2), "": (-30, 30)},
}
"""By rig and channel-name prefix, what a face does not leave; radians, shares of a blendshape, coefficients."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with clip `id`, or with the whole dataset where it is empty."""

    severity: Severity
    kind: str
    id: str
    message: str


@dataclass(frozen=True)
class ClipFacts:
    """What the report keeps of one clip; counts are of frames, `lag_ms` is how long after its sound the jaw moves."""

    id: str
    split: str
    person: str = ""
    frames: int = 0
    speaking: int = 0
    listening: int = 0
    digest: str = ""
    lag_ms: float | None = None
    levels: tuple[tuple[int, ...], ...] = ()
    lowest: tuple[float, ...] = ()
    highest: tuple[float, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def silent(self) -> int:
        return self.frames - self.speaking - self.listening


@dataclass
class Report:
    """What `data check` found. `by_split` counts clips, persons, hours and frames of every part of the dataset."""

    path: str
    rig: str
    channels: tuple[str, ...]
    by_split: dict[str, dict[str, float]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lags_ms: list[float] = field(default_factory=list)
    levels: dict[str, list[int]] = field(default_factory=dict)
    lowest: list[float] = field(default_factory=list)
    highest: list[float] = field(default_factory=list)

    def count(self, severity: Severity) -> int:
        return sum(problem.severity == severity for problem in self.problems)


def check_dataset(dataset: Dataset, workers: int = 1, limit: int | None = None) -> Report:
    """Looks at every clip of a dataset, or at the first `limit` of every split."""
    jobs = [(split, name, True) for split, ids in dataset.splits.items() for name in ids[:limit]]
    jobs += [(split, name, False) for split, ids in dataset.motion_only.items() for name in ids[:limit]]
    report = Report(str(dataset.path), dataset.rig, dataset.channels)
    report.problems += _check_lists(dataset)
    report.levels = {track: [0] * (len(LEVEL_EDGES) - 1) for track in ("self", "other")}
    seen: dict[str, tuple[str, str]] = {}
    splits_of: dict[str, set[str]] = collections.defaultdict(set)
    persons: dict[str, set[str]] = collections.defaultdict(set)
    results = in_processes(_Checker(dataset), jobs, workers)
    for (split, _, sound), facts in zip(jobs, tqdm(results, total=len(jobs), desc="check", unit="clip"), strict=True):
        part = split if sound else f"{split}, motion only"
        row = report.by_split.setdefault(part, dict.fromkeys(("clips", "unusable", "persons", "hours", *STATES), 0))
        row["clips"] += 1
        report.problems += facts.problems
        if not facts.frames:
            row["unusable"] += 1
            continue
        row["hours"] += facts.frames / FRAME_RATE / 3600
        for state in STATES if sound else ():
            row[state] += getattr(facts, state)
        persons[part].add(facts.person)
        splits_of[facts.person].add(split)
        report.seconds.append(facts.frames / FRAME_RATE)
        if facts.lag_ms is not None:
            report.lags_ms.append(facts.lag_ms)
        for track, counts in zip(("self", "other"), facts.levels, strict=False):
            report.levels[track] = [a + b for a, b in zip(report.levels[track], counts, strict=True)]
        report.lowest = [min(pair) for pair in zip(report.lowest or facts.lowest, facts.lowest, strict=True)]
        report.highest = [max(pair) for pair in zip(report.highest or facts.highest, facts.highest, strict=True)]
        report.problems += _duplicate(seen, facts)
    for part, found in persons.items():
        report.by_split[part]["persons"] = len(found)
    report.problems += [
        Problem("warning", "person in several splits", "", f"{person!r} is in {', '.join(sorted(splits))}")
        for person, splits in sorted(splits_of.items())
        if len(splits) > 1
    ]
    report.problems += _check_whole(report)
    return report


def _duplicate(seen: dict[str, tuple[str, str]], facts: ClipFacts) -> Iterable[Problem]:
    if facts.digest in seen:
        other, split = seen[facts.digest]
        severity: Severity = "warning" if split == facts.split else "error"
        where = "" if split == facts.split else f", which is in split {split} and not {facts.split}"
        yield Problem(severity, "duplicate", facts.id, f"its motion is that of {other}{where}")
    else:
        seen[facts.digest] = (facts.id, facts.split)


def _check_lists(dataset: Dataset) -> list[Problem]:
    """What the tables of contents show without a look at a clip."""
    problems = []
    for lists in (dataset.splits, dataset.motion_only):
        where: dict[str, str] = {}
        for split, ids in lists.items():
            for name in ids:
                if name in where:
                    severity: Severity = "warning" if where[name] == split else "error"
                    message = f"is listed in split {where[name]} and again in {split}"
                    problems.append(Problem(severity, "listed twice", name, message))
                where[name] = split
    if not any(dataset.splits.values()):
        problems.append(Problem("error", "empty", "", "no split holds a conversation"))
    if not isinstance(dataset, Corpus):
        return problems
    where = {name: split for split, ids in dataset.splits.items() for name in ids}
    sides = [name for name in where if partner_id(name)]
    # Names that merely happen to end in a or b have no partners anywhere.
    if 2 * sum(partner_id(name) in where for name in sides) >= len(sides):
        for name in sides:
            partner = partner_id(name)
            if partner not in where:
                problems.append(Problem("warning", "missing partner", name, f"{partner} is in no split"))
            elif where[partner] != where[name]:
                message = f"is in split {where[name]}, its partner {partner} in {where[partner]}"
                problems.append(Problem("error", "conversation in two splits", name, message))
    listed = where.keys() | {name for ids in dataset.motion_only.values() for name in ids}
    unlisted = [
        entry.parent.name
        for entry in sorted(dataset.path.glob("*/motion.npz"))
        if entry.parent.name not in listed and not entry.parent.name.startswith(".")
    ]
    if unlisted:
        message = f"{len(unlisted)} folders of clips are in no split, {unlisted[0]} first"
        problems.append(Problem("warning", "unlisted", "", message))
    return problems


def _check_whole(report: Report) -> list[Problem]:
    problems = []
    still = [
        name
        for name, low, high in zip(report.channels, report.lowest, report.highest, strict=False)
        if high - low <= _MOVES
    ]
    if still:
        message = f"{len(still)} channels never move: {', '.join(still[:_NAMED])}"
        problems.append(Problem("warning", "constant channel", "", message))
    known = RIGS.get(report.rig)
    if known is None or report.channels != known:
        wanted = f"one of {', '.join(RIGS)}" if known is None else f"the {len(known)} channels of that rig, in order"
        message = f"rig {report.rig!r} with {len(report.channels)} channels is not {wanted}"
        problems.append(Problem("warning", "rig", "", message))
    return problems


@dataclass(frozen=True)
class _Checker:
    """Looks at one clip."""

    dataset: Dataset

    def __call__(self, job: tuple[str, str, bool]) -> ClipFacts:
        split, name, sound = job
        try:
            clip = self.dataset.read(name) if sound else self.dataset.read_motion(name)
            if clip.channels != self.dataset.channels:
                raise CorpusError(f"{name}: its channels are not those of the dataset")
            if len(clip.motion) == 0:
                raise CorpusError(f"{name} is shorter than a frame")
        except CorpusError as error:
            return ClipFacts(name, split, problems=(Problem("error", "unusable", name, str(error)),))
        return check_clip(clip, self.dataset.rig, split)


def check_clip(clip: Clip | MotionClip, rig: str, split: str = "") -> ClipFacts:
    """What can be said of one clip that could be read."""
    problems = _check_motion(clip, rig)
    facts: dict[str, Any] = {
        "id": clip.id,
        "split": split,
        "person": clip.person or clip.id,
        "frames": len(clip.motion),
        "digest": hashlib.sha256(np.ascontiguousarray(clip.motion).tobytes()).hexdigest()[:24],
        "lowest": tuple(clip.motion.min(axis=0).tolist()),
        "highest": tuple(clip.motion.max(axis=0).tolist()),
    }
    if isinstance(clip, Clip):
        levels = [frame_level(audio) for audio in (clip.self_audio, clip.other_audio)]
        masks = [
            voice_mask(level) if mask is None else mask
            for level, mask in zip(levels, (clip.speech_mask, clip.other_speech_mask), strict=True)
        ]
        facts["speaking"] = int(masks[0].sum())
        facts["listening"] = int(listening(masks[0], masks[1]).sum())
        facts["levels"] = tuple(
            tuple(np.histogram(level.clip(LEVEL_EDGES[0], LEVEL_EDGES[-1] - 1), LEVEL_EDGES)[0].tolist())
            for level in levels
        )
        problems += _check_tracks(clip, levels)
        found, facts["lag_ms"] = _check_sync(clip, rig, levels)
        problems += found
    return ClipFacts(**facts, problems=tuple(problems))


def _check_motion(clip: Clip | MotionClip, rig: str) -> list[Problem]:
    problems = []

    def warn(kind: str, message: str, severity: Severity = "warning") -> None:
        problems.append(Problem(severity, kind, clip.id, message))

    motion = clip.motion
    moves = np.abs(np.diff(motion, axis=0)).max(axis=1, initial=0.0) > _MOVES
    if not moves.any():
        warn("stuck motion", "the face never moves", "error")
    else:
        longest, at = longest_run(~moves)
        if longest >= STUCK_SECONDS * FRAME_RATE:
            warn("stuck motion", f"no channel moves for {longest / FRAME_RATE:.1f} s from frame {at} on")
    outside: list[tuple[float, str]] = []
    for i, name in enumerate(clip.channels):
        limits = RANGES.get(rig, {})
        low, high = next((limits[p] for p in limits if p and name.startswith(p)), limits.get("", (-np.inf, np.inf)))
        beyond = max(low - motion[:, i].min(), motion[:, i].max() - high)
        if beyond > 0:
            frame = int(np.argmax(np.maximum(low - motion[:, i], motion[:, i] - high)))
            outside.append((beyond, f"{name} is {motion[frame, i]:.4g} in frame {frame}, outside {low:g} to {high:g}"))
    if outside:
        more = f"; {len(outside) - 1} more channels" if len(outside) > 1 else ""
        warn("out of range", f"{max(outside)[1]}{more}")
    head = [clip.channels.index(name) for name in HEAD_CHANNELS.get(rig, ()) if name in clip.channels]
    if head:
        mean = motion[:, head].mean(axis=0)
        worst = int(np.argmax(np.abs(mean)))
        if abs(mean[worst]) > HEAD_MEAN:
            warn("head not centred", f"{clip.channels[head[worst]]} has mean {mean[worst]:.2f} rad; subtract it")
        jumps = np.abs(np.diff(motion[:, head], axis=0)).max(axis=1, initial=0.0)
        if (jumps > JUMP).any():
            warn("head jumps", f"{jumps.max():.2f} rad from frame {int(np.argmax(jumps))} to the next")
    return problems


def _check_tracks(clip: Clip, levels: Sequence[Floats]) -> list[Problem]:
    problems = []
    audios = (("self", clip.self_audio, levels[0]), ("other", clip.other_audio, levels[1]))
    silent = [track for track, _, level in audios if level.max(initial=-100.0) < SILENT_TRACK_DB]
    if len(silent) == 2:
        message = f"both tracks stay under {SILENT_TRACK_DB:g} dB"
        problems.append(Problem("error", "silent track", clip.id, message))
    elif silent:
        message = f"the {silent[0]} track stays under {SILENT_TRACK_DB:g} dB"
        problems.append(Problem("warning", "silent track", clip.id, message))
    for track, audio, _ in audios:
        share = float(np.mean(np.abs(audio.astype(np.int32)) >= _CLIPPED))
        if share > CLIPPED_SHARE:
            message = f"{100 * share:.1f} % of the {track} track's samples are at full scale"
            problems.append(Problem("warning", "clipping", clip.id, message))
    mask, level = clip.speech_mask, levels[0]
    if mask is not None and "self" not in silent and mask.sum() >= FRAME_RATE and (~mask).sum() >= FRAME_RATE:
        margin = float(level[mask].mean() - level[~mask].mean())
        if margin < MASK_MARGIN_DB:
            message = f"its own track is {margin:.1f} dB louder where speech_mask says speech than where it does not"
            problems.append(Problem("warning", "speech mask", clip.id, message))
    return problems


def _check_sync(clip: Clip, rig: str, levels: Sequence[Floats]) -> tuple[list[Problem], float | None]:
    """Compares the jaw with the loudness of both tracks."""
    name = JAW_CHANNEL.get(rig, "")
    if name not in clip.channels:
        return [], None
    jaw = clip.motion[:, clip.channels.index(name)].astype(np.float64)
    fits = []
    for level in levels:
        spoken = voice_mask(level).sum() >= _SYNC_SECONDS * FRAME_RATE
        fits.append(best_lag(np.maximum(level, -50.0), jaw, _LARGEST_LAG) if spoken else (0.0, 0.0))
    (lag, own), (_, other) = fits
    if other > max(own, 0.0) + _SWAP_MARGIN and other >= _SYNC_CORRELATION:
        message = f"the jaw follows the other track (correlation {other:.2f}) and not its own ({own:.2f}): swapped?"
        return [Problem("warning", "swapped tracks", clip.id, message)], None
    if own < _SYNC_CORRELATION:
        return [], None
    milliseconds = 1000.0 * lag / FRAME_RATE
    if abs(milliseconds) <= SYNC_LIMIT_MS:
        return [], milliseconds
    side = "after" if milliseconds > 0 else "before"
    message = f"the jaw moves {abs(milliseconds):.0f} ms {side} its sound (correlation {own:.2f})"
    return [Problem("warning", "out of sync", clip.id, message)], milliseconds


def best_lag(sound: Floats, motion: Floats, largest: int) -> tuple[float, float]:
    """How many frames later `motion` (T,) fits `sound` (T,) best, within `largest` either way, and how well.

    How well is their correlation. The lag is refined by the parabola through the best value and its neighbours; (0, 0)
    where either is constant.
    """
    if len(sound) < 4 * largest or sound.std() < 1e-9 or motion.std() < 1e-9:
        return 0.0, 0.0
    core = slice(largest, len(sound) - largest)
    base = sound[core] - sound[core].mean()
    values = []
    for lag in range(-largest, largest + 1):
        shifted = motion[core.start + lag : core.stop + lag]
        shifted = shifted - shifted.mean()
        size = float(np.linalg.norm(base) * np.linalg.norm(shifted))
        values.append(float(base @ shifted) / size if size > 1e-12 else 0.0)
    best = int(np.argmax(values))
    offset = 0.0
    if 0 < best < len(values) - 1:
        left, middle, right = values[best - 1 : best + 2]
        bend = left - 2 * middle + right
        offset = 0.5 * (left - right) / bend if bend < -1e-12 else 0.0
    return best - largest + offset, values[best]


def longest_run(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Length and beginning of the longest run of true values (T,)."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    if len(edges) == 0:
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    return int(lengths.max()), int(edges[::2][np.argmax(lengths)])


def to_markdown(report: Report) -> str:
    """The report for people."""
    lines = [f"# {report.path}", "", f"Rig {report.rig}, {len(report.channels)} channels. "]
    lines[-1] += f"{report.count('error')} errors, {report.count('warning')} warnings."
    lines += [
        "",
        "| split | clips | unusable | persons | hours | speaking | listening | silent |",
        "|---|" + "---:|" * 7,
    ]
    for part, row in report.by_split.items():
        frames = sum(row[state] for state in STATES)
        shares = [f"{row[state] / frames:.0%}" if frames else "" for state in STATES]
        numbers = [f"{row[name]:.0f}" for name in ("clips", "unusable", "persons")]
        lines.append(f"| {part} | {' | '.join(numbers)} | {row['hours']:.2f} | {' | '.join(shares)} |")
    if report.lags_ms:
        low, middle, high = np.percentile(report.lags_ms, (5, 50, 95))
        lines += ["", f"The jaw moves {middle:.0f} ms after its sound (median; 5 to 95 %: {low:.0f} to {high:.0f})."]
    kinds: dict[tuple[str, str], list[Problem]] = collections.defaultdict(list)
    for problem in report.problems:
        kinds[problem.severity, problem.kind].append(problem)
    for (severity, kind), problems in sorted(kinds.items()):
        lines += ["", f"## {severity}: {kind} ({len(problems)})"]
        lines += [
            f"- {problem.id}: {problem.message}" if problem.id else f"- {problem.message}" for problem in problems
        ]
    return "\n".join(lines) + "\n"


def shorten(text: str) -> str:
    """The report with at most `_NAMED` lines a kind of problem, for a terminal."""
    lines, listed = [], 0
    for line in text.splitlines():
        listed = listed + 1 if line.startswith("- ") else 0
        if listed <= _NAMED:
            lines.append(line)
        elif listed == _NAMED + 1:
            lines.append("- ... (all of them are in report.md)")
    return "\n".join(lines)


def write_report(report: Report, out: Path) -> None:
    """Writes report.json, report.md and plots into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    document = asdict(report)
    document["errors"], document["warnings"] = report.count("error"), report.count("warning")
    (out / "report.json").write_text(json.dumps(document, indent=1) + "\n")
    (out / "report.md").write_text(to_markdown(report))
    plot(report, out)


def plot(report: Report, out: Path) -> None:
    """Durations, shares of states, loudness, channel ranges and lags, one PNG each."""
    from matplotlib.figure import Figure

    def save(name: str, draw: Any, size: tuple[float, float] = (6.0, 3.5)) -> None:
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        figure.savefig(out / f"{name}.png", dpi=120)

    def durations(axes: Any) -> None:
        axes.hist(report.seconds, bins=40)
        axes.set(xlabel="seconds", ylabel="clips", title="Length of clips")

    def states(axes: Any) -> None:
        rows = {part: row for part, row in report.by_split.items() if any(row[state] for state in STATES)}
        base = np.zeros(len(rows))
        for state in STATES:
            total = np.array([row["speaking"] + row["listening"] + row["silent"] for row in rows.values()])
            share = np.array([row[state] for row in rows.values()]) / total
            axes.barh(list(rows), share, left=base, label=state)
            base = base + share
        axes.set(xlabel="share of frames", title="Who speaks")
        axes.legend(loc="lower right")

    def loudness(axes: Any) -> None:
        for track, counts in report.levels.items():
            total = max(sum(counts), 1)
            axes.stairs(np.array(counts) / total, LEVEL_EDGES, label=track, fill=track == "self", alpha=0.6)
        axes.set(xlabel="dB relative to full scale", ylabel="share of frames", title="Loudness of the tracks")
        axes.legend()

    def ranges(axes: Any) -> None:
        at = np.arange(len(report.lowest))
        axes.vlines(at, report.lowest, report.highest, linewidth=2)
        step = max(1, len(at) // 55)
        axes.set_xticks(at[::step], report.channels[: len(at)][::step], rotation=90, fontsize=6)
        axes.set(ylabel="lowest to highest", title="Range of every channel")

    def lags(axes: Any) -> None:
        axes.hist(report.lags_ms, bins=np.arange(-610, 620, 20))
        for limit in (-SYNC_LIMIT_MS, SYNC_LIMIT_MS):
            axes.axvline(limit, color="black", linestyle=":")
        axes.set(xlabel="ms that the jaw moves after its sound", ylabel="clips", title="Sync of sound and picture")

    save("durations", durations)
    save("states", states)
    save("loudness", loudness)
    save("ranges", ranges, (11.0, 4.0))
    save("sync", lags)
