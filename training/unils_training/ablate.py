"""`unils-train ablate`: the paper's ablation on a corpus, for both families and several seeds, and its report.

Variants of a seed share a codec and, where it is the same, a prior. What is finished is kept, so that the command can
be stopped and started again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from unils_training.ablation.plan import VARIANTS, VariantRun, find_variants, plan
from unils_training.config import ConfigError, load_config


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 0 when everything that was asked for is finished."""
    options = _parser().parse_args(argv)
    try:
        runs = planned(options)
        from unils_training.ablation.run import train

        for run in runs:
            print(f"== {run.label}", flush=True)
            train(run)
    except (ConfigError, FileNotFoundError, ValueError) as error:
        print(f"unils-train ablate: {error}", file=sys.stderr)
        return 2
    return 0


def planned(options: argparse.Namespace) -> list[VariantRun]:
    """Every run in the order of running: a seed of every family before the next seed."""
    variants = find_variants(options.variants)
    places = [f"corpus.path={str(options.corpus)!r}", f"corpus.cache={str(options.out / 'cache')!r}"]
    configs = [load_config(source, [*places, *options.set]) for source in options.config]
    families = [config.family for config in configs]
    if len(set(families)) < len(families):
        raise ConfigError("each --config must be of another family")
    return [
        plan(config, variant, seed, options.out) for seed in options.seeds for config in configs for variant in variants
    ]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


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
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    return parser
