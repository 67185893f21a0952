"""`unils-train data`: check a dataset, make its features ahead of training, write a table of contents."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from unils_training.data.dataset import open_dataset


def main(argv: list[str]) -> int:
    """The command line of `unils-train data`; returns the exit status: 2 for a dataset that cannot be opened."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return int(options.run(options))
    except (ValueError, OSError) as error:
        print(f"unils-train data {options.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unils-train data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="validate a dataset: exit status 1 where it has errors")
    check.add_argument("path", type=Path, help="folder of a dataset in either form")
    check.add_argument("--out", type=Path, help="folder of report.md, report.json and plots")
    check.add_argument("--limit", type=int, help="look at this many clips of every split only")
    check.set_defaults(run=_check)
    cache = commands.add_parser("cache", help="make the features that training reads")
    cache.add_argument("path", type=Path, help="folder of a dataset in either form")
    cache.add_argument("--cache", type=Path, default=Path("cache"), help="where to (default: cache)")
    cache.add_argument("--split", action="append", help="a split; may be repeated (default: train and val)")
    cache.add_argument(
        "--family", choices=("stream", "published"), default="stream", help="whose features (default: stream)"
    )
    cache.add_argument("--strict", action="store_true", help="a clip that cannot be read is an error")
    cache.set_defaults(run=_cache)
    index = commands.add_parser("index", help="write corpus.json for a folder of clips, persons kept apart by split")
    index.add_argument("path", type=Path, help="the folder")
    index.add_argument("--val-share", type=float, default=0.05, help="share to validate on (default 0.05)")
    index.add_argument("--test-share", type=float, default=0.05, help="share to test on (default 0.05)")
    index.set_defaults(run=_index)
    for command in (check, cache):
        command.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    return parser


def _check(options: argparse.Namespace) -> int:
    from unils_training.data import check

    report = check.check_dataset(open_dataset(options.path), max(1, options.workers), options.limit)
    print(check.shorten(check.to_markdown(report)))
    if options.out:
        check.write_report(report, options.out)
        print(f"\n{options.out}: report.md, report.json and plots")
    return 1 if report.count("error") else 0


def _cache(options: argparse.Namespace) -> int:
    from unils_training.data.features import MotionCache, load_features, load_motion

    dataset = open_dataset(options.path)
    on_corrupt = "error" if options.strict else "skip"
    for split in options.split or ("train", "val"):
        stream = options.family == "stream"
        common = {"workers": max(1, options.workers), "on_corrupt": on_corrupt}
        made: list[MotionCache] = [
            load_features(options.path, split, options.cache, mel=stream, audio=not stream, **common)
        ]
        if split == "train":
            made.append(load_motion(options.path, split, options.cache, **common))
        for cache in made:
            hours = cache.frames / 25 / 3600
            print(f"{cache.folder}: {len(cache.ids)} clips, {hours:.2f} h, {cache.skipped.count} skipped")
    print(f"rig {dataset.rig}, {len(dataset.channels)} channels")
    return 0


def _index(options: argparse.Namespace) -> int:
    from unils_training.data.index import write_index

    splits = write_index(options.path, options.val_share, options.test_share)
    print(f"{options.path / 'corpus.json'}: {', '.join(f'{len(ids)} {split}' for split, ids in splits.items())}")
    return 0
