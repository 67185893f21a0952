"""`unils-train ablate`: the paper's ablation on a corpus, for both families and several seeds, and its report.

Variants of a seed share a codec and, where it is the same, a prior. What is finished is kept, so that the command can
be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from unils_training.ablation.collect import collect
from unils_training.ablation.plan import MODEL_KEYS, VARIANTS, VariantRun, find_variants, plan
from unils_training.ablation.report import write
from unils_training.ablation.run import evaluate, train
from unils_training.config import ConfigError, load_config
from unils_training.data.dataset import open_dataset


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when everything that was asked for is finished and reported."""
    options = _parser().parse_args(argv)
    try:
        runs = planned(options)
        if not options.report_only:
            options.out.mkdir(parents=True, exist_ok=True)
            for run in runs:
                print(f"== {run.label}", flush=True)
                train(run)
                evaluate(run, options.corpus, options.split, options.max_minutes)
        report = options.report or options.out / "ablation.md"
        report.parent.mkdir(parents=True, exist_ok=True)
        text = write(collect(runs), report, commands(options))
    except (FileNotFoundError, ValueError) as error:
        print(f"unils-train ablate: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


def commands(options: argparse.Namespace) -> list[str]:
    """What makes the corpus, as far as it says, and the ablation once more."""
    described = options.corpus / "corpus.json"
    facts = json.loads(described.read_text(encoding="utf-8")) if described.exists() else {}
    flags = {"train": "--hours", "val": "--val-hours", "test": "--test-hours", "motion": "--motion-only-hours"}
    lines = []
    if isinstance(facts.get("hours"), dict):
        amounts = [f"{flags[name]} {amount:g}" for name, amount in facts["hours"].items() if name in flags]
        lines.append(" ".join(["unils-train synth --out CORPUS", *amounts, f"--seed {facts.get('seed', 0)}"]))
    words = ["unils-train ablate", *(f"--config {Path(source).name}" for source in options.config)]
    words += ["--corpus CORPUS --out RUNS", f"--seeds {','.join(map(str, options.seeds))}"]
    words += [f"--stage-1-seed {family}={seed}" for family, seed in options.stage_1_seed]
    words += [f"--variants {','.join(options.variants)}"] if options.variants else []
    words += [f"--max-minutes {options.max_minutes:g}"] if options.max_minutes else []
    words += [f"--set {value}" for value in options.set]
    return [*lines, " ".join([*words, "--report docs/ablation.md"])]


def planned(options: argparse.Namespace) -> list[VariantRun]:
    """Every run in the order of running: a seed of every family before the next seed."""
    variants = find_variants(options.variants)
    open_dataset(options.corpus)  # before anything is trained
    places = [f"corpus.path={str(options.corpus)!r}", f"corpus.cache={str(options.out / 'cache')!r}"]
    configs = [load_config(source, [*places, *options.set]) for source in options.config]
    families = [config.family for config in configs]
    if len(set(families)) < len(families):
        raise ConfigError("each --config must be of another family")
    stage_1_seeds = dict(options.stage_1_seed)
    return [
        plan(config, variant, seed, options.out, stage_1_seeds.get(config.family))
        for seed in options.seeds
        for config in configs
        for variant in variants
    ]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _family_seed(text: str) -> tuple[str, int]:
    family, _, seed = text.partition("=")
    if family not in MODEL_KEYS or not seed.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form stream=N or published=N")
    return family, int(seed)


def _names(text: str) -> list[str]:
    return text.split(",")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unils-train ablate", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--config", action="append", required=True, help="a configuration, by file or name; one for each family"
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder of runs, evaluations and caches")
    parser.add_argument("--seeds", type=_numbers, default=[0, 1], metavar="N,N,...")
    parser.add_argument(
        "--variants", type=_names, default=[], metavar="NAME,...", help=", ".join(v.name for v in VARIANTS)
    )
    parser.add_argument(
        "--stage-1-seed",
        type=_family_seed,
        action="append",
        default=[],
        metavar="FAMILY=N",
        help="one codec and prior, of this seed, for all seeds of a family (default: one for each)",
    )
    parser.add_argument("--split", default="test", help="what is evaluated (default: test)")
    parser.add_argument("--max-minutes", type=float, help="evaluate a random choice of clips of about this length")
    parser.add_argument("--report", type=Path, help="where the report goes (default: OUT/ablation.md)")
    parser.add_argument("--report-only", action="store_true", help="train nothing; report what is finished")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    return parser
