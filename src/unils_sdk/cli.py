"""The command `unils`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unils_sdk import __version__
from unils_sdk.errors import InvalidArgumentError, UnilsError

if TYPE_CHECKING:
    from unils_sdk.model import Model
    from unils_sdk.tensorrt.compiler import Engine

_OUTPUTS = (".npz", ".csv", ".mp4")
_Progress = Callable[[int, int], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `unils` and return its exit code: 0, or 1 after one sentence on stderr; argparse exits with 2."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except UnilsError as error:
        print(f"unils: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unils", description="Two audio tracks of a conversation in, a living face out."
    )
    parser.add_argument("--version", action="version", version=f"unils {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="let two faces hold a conversation and film it")
    demo.add_argument(
        "--out", type=Path, default=Path("unils-demo"), metavar="DIR", help="folder for its files (%(default)s)"
    )
    demo.add_argument("--seed", type=int, default=0, help="another seed, another performance (%(default)s)")
    _add_mode_options(demo)
    _add_model_options(demo)
    _add_precision(demo)
    demo.add_argument("--quiet", action="store_true", help="no progress bar")
    demo.set_defaults(run=_demo)

    animate = commands.add_parser("animate", help="animate recordings into .npz, Live Link .csv or .mp4")
    animate.add_argument("self", metavar="SELF", help="recording of the avatar's own voice; '-' for none: it listens")
    animate.add_argument("other", metavar="OTHER", nargs="?", help="recording of the other person's voice")
    animate.add_argument(
        *("-o", "--output"),
        type=_output,
        action="append",
        required=True,
        metavar="OUT",
        help="file to write, .npz, .csv or .mp4; may be given more than once",
    )
    animate.add_argument("--clock", choices=("both", "other", "self"), help="when a frame may be made")
    animate.add_argument("--look-ahead-self", type=int, metavar="N", help="frames of own future that a frame may see")
    animate.add_argument("--look-ahead-other", type=int, metavar="N", help="the same for the other track")
    animate.add_argument("--seed", type=int, default=0, help="another seed, another performance (%(default)s)")
    animate.add_argument("--temperature", type=float, metavar="T", help="liveliness; 0 takes the likeliest bits")
    animate.add_argument("--top-p", type=float, metavar="P", help="certainty above which a bit is not drawn")
    animate.add_argument("--cfg-scale", type=float, metavar="C", help="strength of guidance; 1 switches it off")
    animate.add_argument("--style", type=Path, metavar="NPZ", help="motion of 1 to 20 s whose manner the face takes on")
    animate.add_argument("--smooth", action="store_true", help="smooth the motion, a cubic over 9 frames")
    _add_mode_options(animate)
    animate.add_argument("--quiet", action="store_true", help="no progress bar, no notes")
    _add_model_options(animate)
    _add_precision(animate)
    animate.set_defaults(run=_animate)

    importer = commands.add_parser("import", help="make a bundle of a released UniLS checkpoint")
    importer.add_argument("checkpoint", metavar="CHECKPOINT", help="the file, as released or as unils-train wrote it")
    importer.add_argument(
        "--audio-encoder", required=True, metavar="DIR", help="folder of its wav2vec2 encoder, or a Hugging Face id"
    )
    importer.add_argument("-o", "--output", required=True, metavar="BUNDLE", help="folder of the bundle")
    importer.add_argument("--licence", metavar="TEXT", help="of the weights, where they are not the released ones")
    importer.add_argument(
        "--precision", choices=("fp32", "int8"), default="fp32", help="int8 is faster and not quite the same"
    )
    importer.set_defaults(run=_import)

    graphs = commands.add_parser("export-onnx", help="write a bundle of family stream again, with its ONNX graphs")
    graphs.add_argument("bundle", metavar="BUNDLE", nargs="?", help="its folder; the bundled model by default")
    graphs.add_argument("-o", "--output", required=True, metavar="OUT", help="folder of the bundle with graphs")
    graphs.set_defaults(run=_export_onnx)

    compiler = commands.add_parser("compile", help="build the engines that a backend runs a bundle with, on this card")
    compiler.add_argument("bundle", metavar="BUNDLE", nargs="?", help="its folder; the bundled model by default")
    compiler.add_argument(
        *("-o", "--output"), metavar="OUT", help="write the bundle here with graphs first, if it is a stream without"
    )
    compiler.add_argument("--backend", choices=("tensorrt",), required=True, help="what for")
    _add_precision(compiler)
    compiler.add_argument("--quiet", action="store_true", help="no progress bar")
    compiler.set_defaults(run=_compile)

    bench = commands.add_parser("bench", help="measure the engine on this machine")
    bench.add_argument("--seconds", type=float, default=60.0, help="audio of the single-session run (%(default)s)")
    bench.add_argument("--sessions", type=int, default=64, help="sessions run side by side (%(default)s)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    _add_model_options(bench)
    bench.set_defaults(run=_bench)

    doctor = commands.add_parser("doctor", help="say what is installed and what works")
    doctor.add_argument("--model", metavar="DIR", help="the bundle to try; the bundled model by default")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_mode_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mode",
        choices=("windowed", "rolling"),
        default="windowed",
        help="family published: whole windows, or a few frames at a time (%(default)s)",
    )
    parser.add_argument("--hop-frames", type=int, metavar="N", help="frames at a time in rolling mode; 5 by default")


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="DIR", help="a bundle; the bundled model by default")
    parser.add_argument("--backend", default="auto", help="auto, or the name of one (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of one step (%(default)s)")


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="of products of matrices (%(default)s)"
    )


def _output(text: str) -> Path:
    if Path(text).suffix.lower() not in _OUTPUTS:
        raise argparse.ArgumentTypeError(f"{text!r} must end in {', '.join(_OUTPUTS[:-1])} or {_OUTPUTS[-1]}")
    return Path(text)


@contextlib.contextmanager
def _progress_bar(label: str, quiet: bool) -> Iterator[_Progress]:
    from tqdm import tqdm

    with tqdm(desc=label, unit="frame", disable=True if quiet else None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = max(total, done)
            bar.update(done - bar.n)

        yield progress


def print_table(rows: Sequence[tuple[str, str]]) -> None:
    """Two columns on stdout."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _demo(options: argparse.Namespace) -> None:
    from unils_sdk.demo import run_demo

    model = _load_model(options)
    suffixes = (".mp4", ".npz", ".json") if model.info.rig == "arkit" else (".npz", ".json")
    figures = run_demo(
        options.out,
        seed=options.seed,
        model=model,
        mode=options.mode,
        hop_frames=options.hop_frames,
        progress=not options.quiet,
    )
    print_table(
        [
            (
                "frames",
                f"{figures['frames']} a face, of {len(figures['channels'])} channels: {figures['seconds']:.1f} s",
            ),
            ("step", _percentiles(figures["step_us"], "us")),
            ("first frame", f"{figures['first_frame_ms']:.1f} ms after its audio was complete"),
            ("real-time factor", f"{figures['real_time_factor']:.4f}"),
            ("latency", f"{figures['latency_ms']:.1f} ms, algorithmic"),
            ("backend", figures["backend"]),
            ("files", ", ".join(str(options.out / f"demo{suffix}") for suffix in suffixes)),
        ]
    )


def _animate(options: argparse.Namespace) -> None:
    from unils_sdk import io
    from unils_sdk.offline import animate

    paths = {name: path for name in ("self", "other") if (path := getattr(options, name)) not in (None, "-")}
    voices = {name: io.read_audio(path) for name, path in paths.items()}
    for name, voice in voices.items():
        if voice.source_channels > 1 and not options.quiet:
            print(f"unils: note: {paths[name]}: {voice.source_channels} channels mixed into one", file=sys.stderr)
    look_ahead = {"self": options.look_ahead_self, "other": options.look_ahead_other}
    model = _load_model(options)
    with _progress_bar("animating", options.quiet) as progress:
        frames = animate(
            voices.get("self"),
            voices.get("other"),
            model=model,
            clock=options.clock,
            look_ahead={track: count for track, count in look_ahead.items() if count is not None},
            temperature=options.temperature,
            top_p=options.top_p,
            cfg_scale=options.cfg_scale,
            seed=options.seed,
            style=io.read_npz(options.style) if options.style else None,
            smoothing=options.smooth,
            mode=options.mode,
            hop_frames=options.hop_frames,
            progress=progress,
        )
    for path in options.output:
        suffix = path.suffix.lower()
        if suffix == ".npz":
            io.write_npz(path, frames)
        elif suffix == ".csv":
            io.write_live_link_csv(path, frames)
        else:
            from unils_sdk.render import render_video

            with _progress_bar("filming", options.quiet) as progress:
                render_video(path, [frames], [voices.get("self"), voices.get("other")], progress=progress)


@contextlib.contextmanager
def _exporter(command: str, module: str) -> Iterator[Any]:
    """A module of the training code, where what needs PyTorch lives."""
    import importlib

    try:
        yield importlib.import_module(f"unils_training.export.{module}")
    except ImportError as error:
        raise UnilsError(f"unils {command} needs PyTorch ({error}): pip install 'unils-sdk[import]'") from error
    except (ValueError, OSError) as error:
        raise InvalidArgumentError(str(error)) from error


def _import(options: argparse.Namespace) -> None:
    wishes = {"precision": options.precision, **({"licence": options.licence} if options.licence else {})}
    with _exporter("import", "published") as exporter:
        size = exporter.import_checkpoint(options.checkpoint, options.audio_encoder, options.output, **wishes)
    print(f"{options.output}: {size / 1e6:.1f} MB")


def _export_onnx(options: argparse.Namespace) -> None:
    from unils_sdk.model import BUNDLED_MODEL

    with _exporter("export-onnx", "stream_graphs") as exporter:
        size = exporter.export_onnx(options.bundle or BUNDLED_MODEL, options.output)
    print(f"{options.output}: {size / 1e6:.1f} MB")


def _compile(options: argparse.Namespace) -> None:
    engines = _make_engines(_with_graphs(options), options.precision, options.quiet)
    print_table(
        [(engine.graph, f"{engine.bytes / 1e6:.1f} MB, {_origin(engine.seconds)}, {engine.path}") for engine in engines]
    )


def _with_graphs(options: argparse.Namespace) -> str:
    """The bundle, or the copy of it that has the graphs which it lacks."""
    from unils_sdk.model import BUNDLED_MODEL
    from unils_sdk.tensorrt import libraries
    from unils_sdk.tensorrt.bundle_graphs import BundleGraphs

    bundle: str = options.bundle or BUNDLED_MODEL
    if BundleGraphs.read(bundle).graphs:
        if options.output:
            raise InvalidArgumentError(
                f"{bundle} holds graphs already, so nothing would be written to {options.output}"
            )
        return bundle
    if not options.output:
        raise InvalidArgumentError(f"{bundle} holds no graphs; -o OUT names a folder to write it to with graphs")
    libraries.find()  # before PyTorch is asked for
    options.bundle = bundle
    _export_onnx(options)
    return str(options.output)


def _origin(seconds: float | None) -> str:
    return "was there" if seconds is None else f"built in {seconds:.0f} s"


def _make_engines(bundle: str, precision: str, quiet: bool) -> list[Engine]:
    from tqdm import tqdm

    from unils_sdk.tensorrt.compiler import compile_bundle

    with tqdm(total=100, unit="%", disable=True if quiet else None, leave=False, bar_format="{l_bar}{bar}") as bar:

        def progress(graph: str, phase: str, done: float) -> None:
            bar.set_description_str(f"{graph}: {phase}", refresh=False)
            bar.n = round(100 * done)
            bar.refresh()

        return compile_bundle(bundle, precision, say=lambda line: _note(line, bar.write), progress=progress)


def _note(line: str, write: Callable[..., None]) -> None:
    write(f"unils: note: {line}", file=sys.stderr)


def _load_model(options: argparse.Namespace) -> Model:
    """With `tensorrt`, engines that are missing are built first: the library itself would only say so."""
    from unils_sdk.model import TENSORRT, Model

    if options.backend == TENSORRT and options.model:
        for engine in _make_engines(options.model, options.precision, options.quiet):
            if engine.seconds is not None:
                print(f"unils: note: {engine.graph}: engine {_origin(engine.seconds)}", file=sys.stderr)
    return Model.load(options.model, options.backend, options.threads, options.precision)


def _bench(options: argparse.Namespace) -> None:
    from unils_sdk.bench import run_bench
    from unils_sdk.io import write_bytes

    if options.seconds < 1 or options.sessions < 1:
        raise InvalidArgumentError("--seconds and --sessions must be at least 1")
    figures = run_bench(
        options.model,
        backend=options.backend,
        threads=options.threads,
        seconds=options.seconds,
        sessions=options.sessions,
    )
    here, model = figures["machine"], figures["model"]
    print_table(
        [
            ("machine", f"{here['cpu']}, {here['cores']} cores, {here['system']}, Python {here['python']}"),
            (
                "model",
                f"{model['parameters'] / 1e6:.2f} M parameters, {model['weight_bytes'] / 1e6:.2f} MB read a step",
            ),
            ("backend", f"{model['backend']} {model['backend_detail']}, {model['threads']} thread(s)"),
            ("step", _percentiles(figures["step_us"], "us")),
            ("frame ready", _percentiles(figures["frame_ready_us"], "us") + " after the push that completes it"),
            (
                "reading weights",
                f"{figures['weight_read_us']:.0f} us; a step takes {figures['step_to_weight_read']:.2f} x",
            ),
            ("real-time factor", f"{figures['real_time_factor']:.4f}"),
            ("latency", f"{figures['latency_ms']:.1f} ms, algorithmic"),
            ("sessions per core", str(figures["sessions_per_core"])),
            *_pool_lines(figures.get("pool")),
            ("memory per session", f"{figures['session_bytes'] / 1e6:.2f} MB"),
            ("import", f"{figures['import_ms']:.0f} ms, of which NumPy {figures['import_numpy_ms']:.0f} ms"),
            (
                "model load",
                f"{figures['load_ms']:.0f} ms; to the first frame {figures['load_to_first_frame_ms']:.0f} ms",
            ),
        ]
    )
    if options.json:
        write_bytes(options.json, (json.dumps(figures, indent=2) + "\n").encode())


def _pool_lines(pool: dict[str, Any] | None) -> list[tuple[str, str]]:
    if pool is None:
        return []
    return [
        (
            "in a pool",
            f"{pool['sessions_per_core']} per core with {pool['sessions']} sessions, {pool['gain']:.2f} x; "
            f"{pool['session_bytes'] / 1e6:.2f} MB each",
        )
    ]


def _doctor(options: argparse.Namespace) -> None:
    from unils_sdk.doctor import examine

    findings = examine(options.model)
    marks = {True: "ok  ", False: "FAIL", None: "-   "}
    print_table([(f"{marks[finding.ok]} {finding.subject}", finding.detail) for finding in findings])
    broken = [finding.subject for finding in findings if finding.ok is False]
    if broken:
        raise UnilsError(f"not in order: {', '.join(broken)}")


def _percentiles(figures: dict[str, float], unit: str) -> str:
    return ", ".join(f"{name} {value:.0f} {unit}" for name, value in figures.items())
