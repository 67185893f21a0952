"""`unils-train eval`: how good is a model on conversations that it was never trained on?

The model is a bundle, run by the native engine exactly as it ships (streaming, clock `both`), or a checkpoint of the
dialogue stage, run by PyTorch over many clips at once. Every figure of docs/metrics.md is computed from what comes out:
`eval.json`, `eval.md` with the paper's table, plots, and the motion of a few clips. Clips are compared one at a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

from unils_training.data.dataset import Dataset, open_dataset
from unils_training.evaluation.clips import choose, shuffled_partners
from unils_training.evaluation.measure import Task, flame_mesh, long_run, measure
from unils_training.evaluation.models import Description, Run, block_frames, describe
from unils_training.evaluation.plots import plot_distributions, plot_spectra, plot_trace
from unils_training.evaluation.report import plain, report
from unils_training.metrics import contingency, markdown_table, quality_lines


@dataclasses.dataclass(frozen=True)
class Job:
    """What to evaluate, on what, and how. `backend` "" is native for bundles and torch for checkpoints.

    A model is run at every look-ahead on the own track; () is the family's own, 1 frame in `stream` and none in
    `published`. A `published` one is run with every one of `hop_frames`, where 0 is window by window as released.
    """

    model: Path
    dataset: Path
    out: Path
    split: str = "test"
    max_minutes: float | None = None
    look_ahead: tuple[int, ...] = ()
    look_ahead_other: int = 0
    temperature: float = 1.0
    top_p: float | None = None
    cfg_scale: float | None = None
    shuffle_partner: tuple[int, ...] = ()
    """Look-aheads at which the model is also run with the other track of another conversation."""
    long_run: float = 0.0
    backend: str = ""
    flame: str = ""
    flame_masks: str = ""
    keep: int = 3
    jobs: int = 1
    seed: int = 0
    hop_frames: tuple[int, ...] = (0,)


def evaluate(job: Job) -> dict[str, Any]:
    """Evaluates and leaves `eval.json`, `eval.md`, plots and the motion of a few clips in `job.out`.

    Raises:
        FileNotFoundError, ValueError: the model, the dataset or the split cannot be used.
    """
    started = time.perf_counter()
    model = describe(job.model)
    dataset = open_dataset(job.dataset)
    _check_fit(job, model, dataset)
    job = dataclasses.replace(job, backend=job.backend or ("native" if job.model.is_dir() else "torch"))
    runs = _runs(job, model)
    names, skipped = choose(dataset, dataset.splits[job.split], job.max_minutes, job.seed)
    if not names:
        raise ValueError(f"no clip of split {job.split!r} of {job.dataset} can be read: {next(iter(skipped.values()))}")
    if job.shuffle_partner:
        shuffled_partners(dataset, names)  # where there is no other conversation, that is said before generation
    job.out.mkdir(parents=True, exist_ok=True)
    kept = {name: job.out / f"{quote(name, safe='')}.npz" for name in names[: job.keep]}
    results = []
    long_blocks: list[dict[str, float]] = []
    with _pool(job) as pool:
        for order, run in enumerate(runs):
            results.append(_result(job, run, dataset, names, kept if order == 0 else {}, pool))
            suffix = f"_{run.look_ahead_self}" if model.family == "stream" else f"_{run.hop_frames}"
            plot_spectra(results[-1]["listening_spectrum"], job.out / f"listening_spectra{suffix}.png")
            plot_distributions(results[-1]["distributions"], job.out / f"distributions{suffix}.png")
        if job.long_run > 0.0:
            long_blocks = long_run(runs[0], dataset, names, job.long_run)
    for path in kept.values():
        plot_trace(path, path.with_suffix(".png"))
    evaluation = plain(
        {
            "format": "unils-eval",
            "format_version": 1,
            "family": model.family,
            "bundle": {"path": str(job.model), "sha256": model.sha256, "provenance": model.provenance},
            "corpus": _facts(job.dataset, dataset),
            "split": job.split,
            "ids": names,
            "skipped": skipped,
            "minutes": sum(results[0]["alive"]["minutes"].values()),
            "backend": job.backend,
            "options": {
                "look_ahead_other": job.look_ahead_other,
                "temperature": job.temperature,
                "top_p": model.defaults["top_p"] if job.top_p is None else job.top_p,
                "cfg_scale": model.defaults["cfg_scale"] if job.cfg_scale is None else job.cfg_scale,
                "seed": job.seed,
            },
            "results": results,
            "long_run": long_blocks,
            "wall_seconds": time.perf_counter() - started,
        }
    )
    text = json.dumps(evaluation, indent=1, allow_nan=False) + "\n"
    (job.out / "eval.md").write_text(report(evaluation), encoding="utf-8")
    temporary = job.out / "eval.json.part"  # a killed evaluation must not look finished
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(job.out / "eval.json")
    return evaluation  # type: ignore[no-any-return]


def _check_fit(job: Job, model: Description, dataset: Dataset) -> None:
    if job.split not in dataset.splits:
        raise ValueError(f"{job.dataset} has no split {job.split!r}; it has {', '.join(sorted(dataset.splits))}")
    if not dataset.splits[job.split]:
        raise ValueError(f"split {job.split!r} of {job.dataset} is empty")
    if tuple(model.channels) != tuple(dataset.channels):
        raise ValueError(
            f"{job.model} makes motion of rig {model.rig} and {job.dataset} holds motion of rig {dataset.rig}: they "
            "must have the same channels"
        )
    if job.flame and dataset.rig != "flame":
        raise ValueError(f"--flame is for rig flame, and {job.dataset} holds motion of rig {dataset.rig}")
    if job.flame_masks and not job.flame:
        raise ValueError("--flame-masks names regions of a FLAME model: give that by --flame")
    flame_mesh(job.flame, job.flame_masks)
    if not set(job.shuffle_partner) <= set(job.look_ahead or _own_look_ahead(model)):
        raise ValueError("a shuffled partner is heard at look-aheads that are evaluated")
    if model.family == "stream" and any(job.hop_frames):
        raise ValueError("--hop-frames is for family published: family stream makes every frame by itself")
    if model.family != "stream" and not any(job.hop_frames) and (any(job.look_ahead) or job.look_ahead_other):
        raise ValueError("family published looks ahead in rolling generation only: give --hop-frames too")
    if job.backend == "native" and not job.model.is_dir():
        raise ValueError(f"{job.model} is a checkpoint, which the native engine does not run: export it, or use torch")


def _pool(job: Job) -> Any:
    """Processes for the native engine; PyTorch takes all clips at once in this one."""
    # Processes share the cores; a BLAS with threads of its own in each of them would only get in the way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if job.backend != "native" or job.jobs <= 1:
        return nullcontext()
    return ProcessPoolExecutor(job.jobs, mp_context=multiprocessing.get_context("spawn"))


def _own_look_ahead(model: Description) -> tuple[int, ...]:
    return (1,) if model.family == "stream" else (0,)


def _runs(job: Job, model: Description) -> list[Run]:
    """Every way in which the model is run; a window has no look-ahead, so that it is run once."""
    ahead = job.look_ahead or _own_look_ahead(model)
    ways = [(hop, (own, job.look_ahead_other)) for hop in job.hop_frames for own in ahead]
    if model.family != "stream":
        ways = list(dict.fromkeys((hop, look_ahead if hop else (0, 0)) for hop, look_ahead in ways))
    return [
        Run(
            *(job.model, job.backend, *look_ahead, job.temperature, job.top_p, job.cfg_scale, job.seed),
            hop_frames=hop,
        )
        for hop, look_ahead in ways
    ]


def _result(
    job: Job, run: Run, dataset: Dataset, names: Sequence[str], keep: dict[str, Path], pool: Executor | None
) -> dict[str, Any]:
    voices = {name: name for name in names}
    task = Task(run, dataset, voices, keep, (job.flame, job.flame_masks), block_frames(run))
    title = f"hop {run.hop_frames}" if run.hop_frames else f"look-ahead {run.look_ahead_self}"
    right = measure(task, pool, title)
    figures = None
    if run.look_ahead_self in job.shuffle_partner:
        other = dataclasses.replace(task, voices=shuffled_partners(dataset, names), keep={})
        shuffled = measure(other, pool, f"{title}, shuffled partner")
        figures = contingency(right.metrics.listening, shuffled.metrics.listening)
    result = right.metrics.result()
    lines = quality_lines(result, figures)
    return {
        "look_ahead_self": run.look_ahead_self,
        "hop_frames": run.hop_frames,
        **result,
        "seams": right.seams.result(),
        "distributions": right.distributions.result(),
        "contingency": figures,
        "lines": [line.as_dict() for line in lines],
        "table": markdown_table(lines),
    }


def _facts(path: Path, dataset: Dataset) -> dict[str, Any]:
    """What the evaluation remembers of the dataset: all that corpus.json says but the ids."""
    described = path / "corpus.json"
    facts = json.loads(described.read_text(encoding="utf-8")) if described.exists() else {}
    facts = {key: value for key, value in facts.items() if key not in ("splits", "motion_only", "channels")}
    return {"rig": dataset.rig, "fingerprint": dataset.fingerprint, **facts}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unils-train eval", description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="folder of a bundle, or a dialogue checkpoint such as best.pt")
    parser.add_argument("dataset", type=Path, help="folder of a dataset in either form")
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, required=True, help="folder for eval.json, eval.md and plots")
    parser.add_argument("--max-minutes", type=float, help="a random choice of clips of about this length in all")
    parser.add_argument("--look-ahead", type=_numbers, default=(), help="frames on the own track: 0,1,2,4 say")
    parser.add_argument("--look-ahead-other", type=int, default=0)
    parser.add_argument(
        "--hop-frames",
        type=_numbers,
        default=(0,),
        metavar="N,N",
        help="family published: rolling, so many frames at a time; 0 (the default) is window by window",
    )
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, help="default: the model's")
    parser.add_argument("--cfg-scale", type=float, help="default: the model's")
    parser.add_argument("--shuffle-partner", action="store_true", help="also with another conversation's other track")
    parser.add_argument("--long-run", type=float, default=0.0, metavar="MINUTES", help="also one session this long")
    parser.add_argument("--backend", choices=("native", "torch"), default="", help="default: native for bundles")
    parser.add_argument("--flame", default="", help="your FLAME model file: figures of rig flame in millimetres")
    parser.add_argument("--flame-masks", default="", help="your FLAME_masks.pkl; without, regions by geometry")
    parser.add_argument("--keep", type=int, default=3, help="clips whose motion is written and drawn")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes of the native engine")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when the evaluation was written, whether or not its targets were met."""
    values = vars(_parser().parse_args(argv))
    shuffle = values.pop("shuffle_partner")
    try:
        if shuffle:
            values["shuffle_partner"] = values["look_ahead"] or _own_look_ahead(describe(values["model"]))
        evaluation = evaluate(Job(**values))
    except (FileNotFoundError, ValueError) as error:
        print(f"unils-train eval: {error}", file=sys.stderr)
        return 2
    print(report(evaluation))
    return 0
