"""`unils-train`: make a corpus, train the three stages, export a bundle, evaluate it."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

from unils_training.config import Config, ConfigError, load_config

STAGES = ("codec", "prior", "dialogue")
OWN_OPTIONS = {
    "synth": "unils_training.data.synth.corpus",
    "data": "unils_training.data.command",
    "eval": "unils_training.evaluate",
    "ablate": "unils_training.ablate",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # These own their options; nothing else is imported for them.
    if arguments[:1] and arguments[0] in OWN_OPTIONS:
        return int(importlib.import_module(OWN_OPTIONS[arguments[0]]).main(arguments[1:]) or 0)
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ConfigError, OSError, ValueError, FloatingPointError) as error:
        print(f"unils-train {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"unils-train {options.command}: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unils-train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("synth", help="make a corpus of synthetic conversations", add_help=False)
    commands.add_parser("data", help="check a dataset, make its features ahead, index a folder", add_help=False)
    helps = {
        "codec": "train the motion codec",
        "prior": "train the audio-free generator on a codec",
        "dialogue": "teach the frozen prior to hear both tracks",
    }
    for stage in STAGES:
        command = commands.add_parser(stage, help=helps[stage])
        _add_common(command)
        command.add_argument("--steps", type=int, help="end, and the schedule with it, after this many steps")
        command.add_argument("--minutes", type=float, help="end, and the schedule with it, after this much time")
        command.add_argument(
            "--resume",
            nargs="?",
            const=True,
            default=False,
            metavar="CHECKPOINT",
            help="go on from the stage's last checkpoint, or from the one named",
        )
        if stage == "dialogue":
            command.add_argument(
                "--from-bundle", metavar="DIR", help="go on from a bundle's weights, in place of a codec and a prior"
            )
        command.set_defaults(run=_train)
    average = commands.add_parser("average", help="average the weights of several checkpoints of a run")
    average.add_argument("checkpoints", nargs="+", help="copies of a stage's best.pt")
    average.add_argument("--shares", required=True, help="a number for each, 1,3 say")
    average.add_argument("-o", "--output", required=True, help="the checkpoint to write")
    average.set_defaults(run=_average)
    export = commands.add_parser("export", help="write a bundle")
    _add_common(export)
    export.add_argument("-o", "--output", required=True, help="folder of the bundle")
    export.add_argument("--checkpoint", help="a dialogue checkpoint; the run's last one when absent")
    export.add_argument(
        "--precision", choices=("fp32", "int8"), default="fp32", help="of family published's graphs (%(default)s)"
    )
    export.add_argument("--random-init", action="store_true", help="random weights, for testing engines")
    export.set_defaults(run=_export)
    commands.add_parser("eval", help="measure a model on a dataset", add_help=False)
    commands.add_parser("ablate", help="train and compare the variants of the paper's ablation", add_help=False)
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--family", choices=("stream", "published"), help="which model; without, what the file says")
    command.add_argument(
        "--config", help='a TOML file, or the name of a packaged one ("bundled", "tiny", "published", ...)'
    )
    command.add_argument("--corpus", help="folder of the corpus")
    command.add_argument("--run-dir", help="folder of checkpoints and logs")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a configuration value"
    )


def _config(options: argparse.Namespace) -> Config:
    named = {
        "corpus.path": options.corpus,
        "run": options.run_dir,
        "family": options.family,
        "dialogue.from_bundle": getattr(options, "from_bundle", None),
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in named.items() if value]
    limits = {name: getattr(options, name, None) for name in ("steps", "minutes")}
    if any(value is not None for value in limits.values()):
        overrides += [f"{options.command}.training.{name}={value or 0}" for name, value in limits.items()]
    source = options.config or ("published" if options.family == "published" else "bundled")
    return load_config(source, [*overrides, *options.set])


def _train(options: argparse.Namespace) -> int:
    config = _config(options)
    stage = importlib.import_module(f"unils_training.stages.{config.family}.{options.command}")
    stage.train(config, resume=options.resume)
    return 0


def _average(options: argparse.Namespace) -> int:
    from unils_training.stages.averaging import average

    average(options.checkpoints, [float(share) for share in options.shares.split(",")], options.output)
    return 0


def _export(options: argparse.Namespace) -> int:
    config = _config(options)
    if config.family != "published" and options.precision != "fp32":
        raise ValueError(f"--precision {options.precision} is for family published; a {config.family} bundle is fp32")
    exporter = importlib.import_module(f"unils_training.export.{config.family}")
    if options.random_init:
        model, provenance = exporter.random_model(config)
    else:
        model, provenance = exporter.trained_model(config, options.checkpoint)
    precision = {"precision": options.precision} if config.family == "published" else {}
    size = exporter.write_bundle(options.output, model, config.defaults, provenance, config.licence, **precision)
    print(f"{options.output}: {size / 1e6:.2f} MB, {sum(p.numel() for p in model.parameters())} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
