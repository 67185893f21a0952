"""`unils-train eval`: how good is a bundle on conversations that it was never trained on?

The native engine runs over the ids of a split exactly as it ships (streaming, clock `both`), and every figure of
docs/metrics.md is computed from what comes out. Results are `eval.json`, `eval.md`, plots, and the motion of a few
clips. Clips are worked on in parallel processes, and one clip a process is in memory at a time.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unils_training.metrics import Metrics, contingency, markdown_table, quality_lines
from unils_training.metrics.corpus_side import CorpusSide, partner_id, read_corpus, read_split
from unils_training.metrics.side import FRAME_RATE, GROUPS, HOP_SAMPLES
from unils_training.rigs import ARKIT_CHANNELS

CHUNK_SAMPLES = 320  # 20 ms, as a microphone delivers
LONG_RUN_BLOCK_MINUTES = 10.0


@dataclass(frozen=True)
class Run:
    """How motion is generated: the same for every clip but for its seed."""

    bundle: Path
    backend: str  # native or torch
    look_ahead_self: int
    look_ahead_other: int = 0
    temperature: float = 1.0
    top_p: float | None = None
    cfg_scale: float | None = None
    seed: int = 0

    def clip_seed(self, name: str) -> int:
        """A seed of its own for every clip, so that no two clips share their random numbers."""
        return (self.seed << 32) | zlib.crc32(name.encode())


@dataclass(frozen=True)
class Task:
    """One clip to generate and to compare; `voice` names the id whose `other` track is heard."""

    run: Run
    corpus: Path
    name: str
    voice: str
    keep: Path | None = None  # where to write the motion


@lru_cache(maxsize=1)
def _native_model(bundle: Path) -> Any:
    import unils_sdk

    return unils_sdk.Model.load(bundle)


@lru_cache(maxsize=1)
def _torch_model(bundle: Path) -> Any:
    import torch

    from unils_training.models.stream.model import StreamModel

    torch.set_num_threads(1)
    return StreamModel.from_bundle(bundle).eval()


def generate(run: Run, self_audio: NDArray[np.int16], other_audio: NDArray[np.int16], seed: int) -> NDArray[np.float32]:
    """Motion (T, D) of whole recordings of equal length at 16 kHz."""
    if run.backend == "torch":
        defaults = json.loads((run.bundle / "model.json").read_text())["defaults"]
        motion: NDArray[np.float32] = _torch_model(run.bundle).generate(
            self_audio.astype(np.float32) / 32768.0,
            other_audio.astype(np.float32) / 32768.0,
            look_ahead_self=run.look_ahead_self,
            look_ahead_other=run.look_ahead_other,
            temperature=run.temperature,
            top_p=defaults["top_p"] if run.top_p is None else run.top_p,
            cfg_scale=defaults["cfg_scale"] if run.cfg_scale is None else run.cfg_scale,
            seed=seed,
        )["motion"]
        return in_range(motion)
    import unils_sdk

    session = unils_sdk.Session(
        _native_model(run.bundle),
        clock="both",
        look_ahead={"self": run.look_ahead_self, "other": run.look_ahead_other},
        temperature=run.temperature,
        top_p=run.top_p,
        cfg_scale=run.cfg_scale,
        seed=seed,
    )
    batches = []
    for start in range(0, len(self_audio), CHUNK_SAMPLES):
        for track, samples in (("self", self_audio), ("other", other_audio)):
            session.push_audio(samples[start : start + CHUNK_SAMPLES], track, 16000)
        batches.append(session.pull_frames().values)
    session.finish()
    batches.append(session.pull_frames().values)
    return np.concatenate(batches)


def in_range(motion: NDArray[np.float32]) -> NDArray[np.float32]:
    """Motion (T, D) of rig `arkit` as the engine lets it out: blendshapes in 0..1, angles in a quarter turn."""
    angles = [ARKIT_CHANNELS.index(name) for name in GROUPS["head"]]
    low, high = np.zeros(len(ARKIT_CHANNELS), np.float32), np.ones(len(ARKIT_CHANNELS), np.float32)
    low[angles], high[angles] = -np.pi / 2, np.pi / 2
    return np.clip(motion, low, high)


def heard_audio(clip: CorpusSide, voice: str) -> NDArray[np.int16]:
    """The `other` track of id `voice`, cut or repeated to the length of `clip`."""
    length = clip.frames * HOP_SAMPLES
    return np.resize(CorpusSide(clip.corpus, voice).other_audio, length)


def work(task: Task) -> Metrics:
    """Generates one clip and measures it."""
    clip = CorpusSide(task.corpus, task.name)
    own = clip.self_audio[: clip.frames * HOP_SAMPLES]
    prediction = generate(task.run, own, heard_audio(clip, task.voice), task.run.clip_seed(task.name))
    if len(prediction) < clip.frames:
        raise RuntimeError(f"{task.name}: {len(prediction)} frames came out of {clip.frames} frames of audio")
    side = clip.compare(prediction)
    if task.keep is not None:
        np.savez_compressed(
            task.keep,
            truth=side.truth.values.astype(np.float32),
            prediction=side.prediction.values.astype(np.float32),
            channels=np.array(side.truth.channels),
            speaking=side.speaking,
            other_speaking=side.other_speaking,
        )
    metrics = Metrics()
    metrics.add(side)
    return metrics


def choose(corpus: Path, names: Sequence[str], max_minutes: float | None, seed: int) -> list[str]:
    """All ids, or a random choice of about `max_minutes`, in the corpus' order."""
    if max_minutes is None:
        return list(names)
    chosen, minutes = set(), 0.0
    for index in np.random.default_rng(seed).permutation(len(names)):
        chosen.add(int(index))
        minutes += CorpusSide(corpus, names[index]).frames / (60.0 * FRAME_RATE)
        if minutes >= max_minutes:
            break
    return [name for i, name in enumerate(names) if i in chosen]


def shuffled_partners(names: Sequence[str]) -> dict[str, str]:
    """For every id, an id of another conversation: the one half the list further on, or the next that will do."""
    partners = {}
    for i, name in enumerate(names):
        candidates = (names[(i + len(names) // 2 + k) % len(names)] for k in range(len(names)))
        foreign = (other for other in candidates if other not in (name, partner_id(name)))
        partner = next(foreign, None)
        if partner is None:
            raise ValueError("a shuffled partner needs at least two conversations in the split")
        partners[name] = partner
    return partners


def measure(tasks: Sequence[Task], pool: ProcessPoolExecutor, title: str) -> Metrics:
    """All tasks together; sums are taken in the order of the tasks, so that they do not depend on the pool."""
    from tqdm import tqdm

    total = Metrics()
    for metrics in tqdm(pool.map(work, tasks), total=len(tasks), desc=title, unit="clip"):
        total += metrics
    return total


def long_run(run: Run, corpus: Path, names: Sequence[str], minutes: float) -> list[dict[str, float]]:
    """One session that goes on for `minutes`, conversation after conversation: figures of every ten minutes.

    A model that freezes or explodes in free running shows here and in no short clip.
    """
    clips: list[CorpusSide] = []
    frames = 0
    while frames < minutes * 60 * FRAME_RATE:
        clips.append(CorpusSide(corpus, names[len(clips) % len(names)]))
        frames += clips[-1].frames
    own = np.concatenate([clip.self_audio[: clip.frames * HOP_SAMPLES] for clip in clips])
    other = np.concatenate([clip.other_audio[: clip.frames * HOP_SAMPLES] for clip in clips])
    motion = generate(run, own, other, run.clip_seed("long run"))
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
        summary.append(
            {
                "from_minute": index * LONG_RUN_BLOCK_MINUTES,
                "jaw_correlation": lips["jaw_correlation"],
                "head_std_ratio": alive["all"]["std_ratio"]["head"],
                "brows_std_ratio": alive["all"]["std_ratio"]["brows"],
                "gaze_std_ratio": alive["all"]["std_ratio"]["gaze"],
                "jitter": alive["jitter"]["total"],
                "largest_value": largest,
            }
        )
    return summary


def plot_spectra(spectrum: dict[str, Any], path: Path) -> None:
    """Power of the listening face over frequency, truth beside prediction."""
    from matplotlib.figure import Figure

    channels = list(spectrum["truth"])
    figure = Figure(figsize=(3.2 * len(channels), 3.2), layout="constrained")
    for axis, channel in zip(figure.subplots(1, len(channels)), channels, strict=True):
        for name, style in (("truth", "k-"), ("prediction", "C1-")):
            axis.semilogy(spectrum["hz"][1:], np.maximum(spectrum[name][channel][1:], 1e-9), style, label=name)
        axis.set_title(channel)
        axis.set_xlabel("Hz")
    figure.axes[0].set_ylabel("power density while listening")
    figure.axes[0].legend()
    figure.savefig(path, dpi=100)


def plot_trace(motion: Path, path: Path, seconds: float = 40.0) -> None:
    """The first `seconds` of a kept clip, truth beside prediction, with who speaks when."""
    from matplotlib.figure import Figure

    channels = ("jawOpen", "mouthSmileLeft", "eyeBlinkLeft", "browInnerUp", "headPitch", "headYaw")
    with np.load(motion) as clip:
        names = clip["channels"].tolist()
        count = min(len(clip["truth"]), int(seconds * FRAME_RATE))
        t = np.arange(count) / FRAME_RATE
        figure = Figure(figsize=(16, 2.0 * len(channels)), layout="constrained")
        for axis, channel in zip(figure.subplots(len(channels), 1, sharex=True), channels, strict=True):
            for name, style in (("truth", "k-"), ("prediction", "C1-")):
                axis.plot(t, clip[name][:count, names.index(channel)], style, linewidth=1.0, label=name)
            low, high = axis.get_ylim()
            axis.fill_between(t, low, high, where=clip["speaking"][:count], color="C0", alpha=0.12, label="speaks")
            axis.fill_between(t, low, high, where=clip["other_speaking"][:count], color="C2", alpha=0.12, label="other")
            axis.set_ylim(low, high)
            axis.set_ylabel(channel)
        figure.axes[0].legend(ncols=4, loc="upper right")
        figure.axes[-1].set_xlabel("seconds")
        figure.savefig(path, dpi=80)


def plain(value: Any) -> Any:
    """The value with NaN and infinity as None, for JSON that every reader takes."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report(evaluation: dict[str, Any]) -> str:
    """The evaluation as Markdown: every quality line for every look-ahead, then what it was measured on."""
    parts = [f"# Evaluation of `{Path(evaluation['bundle']['path']).name}`\n"]
    parts.append(
        f"{evaluation['minutes']:.1f} minutes, {len(evaluation['ids'])} sides of split `{evaluation['split']}`, "
        f"{evaluation['backend']} engine, temperature {evaluation['options']['temperature']:g}, "
        f"look-ahead {evaluation['options']['look_ahead_other']} on the other track.\n"
    )
    for result in evaluation["results"]:
        parts.append(f"## Look-ahead {result['look_ahead_self']} on the own track\n")
        parts.append(result["table"] + "\n")
    if evaluation["long_run"]:
        parts.append("## One session going on\n")
        keys = list(evaluation["long_run"][0])
        parts.append("| " + " | ".join(key.replace("_", " ") for key in keys) + " |\n|" + "---|" * len(keys))
        parts += ["| " + " | ".join(f"{block[key]:.3g}" for key in keys) + " |" for block in evaluation["long_run"]]
    return "\n".join(parts).rstrip() + "\n"


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unils-train eval", description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path, help="folder with model.json and weights.safetensors")
    parser.add_argument("corpus", type=Path, help="folder with corpus.json")
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, required=True, help="folder for eval.json, eval.md and plots")
    parser.add_argument("--max-minutes", type=float, help="a random choice of clips of about this length in all")
    parser.add_argument("--look-ahead", type=_numbers, default=[1], help="frames on the own track: 0,1,2,4 say")
    parser.add_argument("--look-ahead-other", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, help="default: the bundle's")
    parser.add_argument("--cfg-scale", type=float, help="default: the bundle's")
    parser.add_argument("--shuffle-partner", action="store_true", help="also with another conversation's other track")
    parser.add_argument("--long-run", type=float, default=0.0, metavar="MINUTES", help="also one session this long")
    parser.add_argument("--backend", choices=("native", "torch"), default="native")
    parser.add_argument("--keep", type=int, default=3, help="clips whose motion is written and drawn")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _tasks(run: Run, corpus: Path, voices: dict[str, str], keep: dict[str, Path]) -> list[Task]:
    return [Task(run, corpus, name, voice, keep.get(name)) for name, voice in voices.items()]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when the evaluation was written, whether or not its targets were met."""
    arguments = _parser().parse_args(argv)
    started = time.perf_counter()
    names = read_split(arguments.corpus, arguments.split)
    names = choose(arguments.corpus, names, arguments.max_minutes, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    bundle = json.loads((arguments.bundle / "model.json").read_text())

    def run_with(look_ahead: int) -> Run:
        return Run(
            *(arguments.bundle, arguments.backend, look_ahead, arguments.look_ahead_other),
            *(arguments.temperature, arguments.top_p, arguments.cfg_scale, arguments.seed),
        )

    # Processes share the cores; a BLAS with threads of its own in each of them would only get in the way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    own = {name: name for name in names}
    kept = {name: arguments.out / f"{name}.npz" for name in names[: arguments.keep]}
    results: list[dict[str, Any]] = []
    long_blocks: list[dict[str, float]] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, arguments.jobs), mp_context=context) as pool:
        for order, look_ahead in enumerate(arguments.look_ahead):
            run = run_with(look_ahead)
            tasks = _tasks(run, arguments.corpus, own, kept if order == 0 else {})
            right = measure(tasks, pool, f"look-ahead {look_ahead}")
            figures = None
            if arguments.shuffle_partner:
                voices = shuffled_partners(names)
                tasks = _tasks(run, arguments.corpus, voices, {})
                shuffled = measure(tasks, pool, f"look-ahead {look_ahead}, shuffled partner")
                figures = contingency(right.listening, shuffled.listening)
            result = right.result()
            lines = quality_lines(result, figures)
            results.append(
                {
                    "look_ahead_self": look_ahead,
                    **result,
                    "contingency": figures,
                    "lines": [line.as_dict() for line in lines],
                    "table": markdown_table(lines),
                }
            )
            plot_spectra(result["listening_spectrum"], arguments.out / f"listening_spectra_{look_ahead}.png")
        if arguments.long_run > 0.0:
            run = run_with(arguments.look_ahead[0])
            long_blocks = pool.submit(long_run, run, arguments.corpus, names, arguments.long_run).result()
    for path in kept.values():
        plot_trace(path, path.with_suffix(".png"))

    evaluation = {
        "format": "unils-eval",
        "format_version": 1,
        "bundle": {
            "path": str(arguments.bundle),
            "sha256": bundle["weights"]["sha256"],
            "provenance": bundle.get("provenance", {}),
        },
        "corpus": {key: value for key, value in read_corpus(arguments.corpus).items() if key != "splits"},
        "split": arguments.split,
        "ids": names,
        "minutes": sum(results[0]["alive"]["minutes"].values()),
        "backend": arguments.backend,
        "options": {
            "look_ahead_other": arguments.look_ahead_other,
            "temperature": arguments.temperature,
            "top_p": bundle["defaults"]["top_p"] if arguments.top_p is None else arguments.top_p,
            "cfg_scale": bundle["defaults"]["cfg_scale"] if arguments.cfg_scale is None else arguments.cfg_scale,
            "seed": arguments.seed,
        },
        "results": results,
        "long_run": long_blocks,
        "wall_seconds": time.perf_counter() - started,
    }
    (arguments.out / "eval.json").write_text(json.dumps(plain(evaluation), indent=1, allow_nan=False) + "\n")
    text = report(evaluation)
    (arguments.out / "eval.md").write_text(text)
    print(text)
    return 0
