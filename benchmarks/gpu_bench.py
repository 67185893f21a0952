"""The engine on a card beside the same model in PyTorch: a lone session, many sessions, and what the card can reach.

    python benchmarks/gpu_bench.py --out DIR [--backend cuda] [--models bundled unils] [--sessions 1 16 256 ...]

A round is one hop of both tracks for every session and the frame that it makes: `SessionPool.push_audio` twice and
`pull`, from 16-bit samples in host memory to motion in host memory, log-mel and Python's part included. The time of a
round is what the last of its sessions waits from hop to frame where all hops come at the same instant; how much of it
goes by while samples are pushed is said besides. PyTorch gets log-mel rows ready made, in pinned memory,
and hands its motion back; it runs eagerly and under torch.compile with a CUDA graph. Both are greedy at the bundle's
guidance and look-ahead, hear the same audio and are compared frame by frame.

What the model moves and computes is counted by gpu_cost.py, and held against a copy and matrix products on this card.
A part that cannot run here is left out with a sentence. `--backend cpu` runs the same on the processor.
Tables go to the screen, figures to DIR/gpu_bench.json, after every part.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gpu_cost import TESTS, UNILS_SIZES, Cost, cost_of, read_config

import unils_sdk as unils
from unils_sdk.bench import machine
from unils_sdk.model import BUNDLED_MODEL

SESSIONS = (1, 16, 256, 1024, 4096, 10240)
PARTS = ("ceilings", "lone", "sweep", "pytorch")
COMPILED_SESSIONS = (1, 1024)
WARM_UP_ROUNDS = 8
LEAST_SESSIONS_A_THREAD = 64
MOST_ROUNDS = 2000
COMPARED_FRAMES = 40
SAME = 1e-3
HOP = 640
ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}

Figures = dict[str, Any]


class Report:
    """Figures so far, written after every part, and what was left out."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.models = folder, list(options.models)
        self.figures: Figures = {"machine": machine(), "card": card(), "options": vars(options) | {"out": str(folder)}}
        self.figures["left_out"] = self.left_out = []

    def put(self, name: str, figures: Figures) -> None:
        self.figures[name] = figures
        figures_json = json.dumps(self.figures, indent=1, default=str)
        (self.folder / "gpu_bench.json").write_text(figures_json + "\n", encoding="utf-8")
        (self.folder / "gpu_bench.md").write_text(tables(self.figures, self.models), encoding="utf-8")

    def leave_out(self, what: str, why: object) -> None:
        text = " ".join(str(why).split())
        print(f"left out: {what}: {text}", flush=True)
        self.left_out.append({"what": what, "why": text})


def card() -> str | None:
    """Name, driver and memory of the first card, as nvidia-smi has them."""
    return _nvidia_smi("name,driver_version,memory.total")


def card_memory_bytes() -> int | None:
    """In use on the first card, by everybody."""
    used = _nvidia_smi("memory.used")
    return int(used.split()[0]) << 20 if used else None


def _nvidia_smi(fields: str) -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip() or None if done.returncode == 0 else None


def summary(seconds: Sequence[float]) -> Figures:
    """Median and percentiles in milliseconds."""
    milliseconds = np.asarray(seconds) * 1e3
    return {
        "rounds": len(seconds),
        "p50_ms": float(np.percentile(milliseconds, 50)),
        "p99_ms": float(np.percentile(milliseconds, 99)),
        "max_ms": float(milliseconds.max()),
    }


def rounds_of(one: Callable[[int], Any], seconds: float) -> list[float]:
    """How long each call of `one` took, after some to warm up, until `seconds` are over (at least ten)."""
    times: list[float] = []
    begun = 0.0
    for number in range(WARM_UP_ROUNDS + MOST_ROUNDS):
        if number == WARM_UP_ROUNDS:
            begun = time.perf_counter()
        start = time.perf_counter()
        one(number)
        end = time.perf_counter()
        if number >= WARM_UP_ROUNDS:
            times.append(end - start)
            if len(times) >= 10 and end - begun > seconds:
                break
    return times


def voices(hops: int, seed: int) -> npt.NDArray[np.int16]:
    """Noise in syllables, both tracks: (2, 640 hops)."""
    samples = np.arange(hops * HOP)
    loudness = np.clip(np.sin(2 * np.pi * 3.0 * samples / 16000), 0.0, None)
    noise = np.random.default_rng(seed).normal(size=(2, len(samples)))
    return (3000.0 * loudness * noise).clip(-32768, 32767).astype(np.int16)


class Engine:
    """Sessions of our engine in a pool, fed a hop of both tracks a round, by `threads` threads at once as the
    connections of a server feed them."""

    def __init__(self, model: unils.Model, count: int, threads: int = 1) -> None:
        self.pool = unils.SessionPool(model, max_sessions=count)
        self.pushed_seconds: list[float] = []  # of each round, before its pull
        parts = min(threads, max(1, count // LEAST_SESSIONS_A_THREAD))
        self.parts = [slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)]
        self.pushers = ThreadPoolExecutor(parts) if parts > 1 else None
        self.sessions = [self.pool.session(temperature=0.0, seed=seed) for seed in range(count)]
        self.look_ahead = dict(model.info.defaults.look_ahead)
        audio = voices(64 + max(self.look_ahead.values()), seed=0)
        self.hops = np.ascontiguousarray(audio.reshape(2, -1, 1, HOP).repeat(count, axis=2))  # (2, hops, count, 640)
        for track, ahead in enumerate(self.look_ahead[name] for name in ("self", "other")):
            for hop in range(ahead):
                self._push(track, hop)

    def _push(self, track: int, hop: int) -> None:
        name, samples = ("self", "other")[track], self.hops[track, hop % self.hops.shape[1]]

        def push(part: slice) -> None:
            self.pool.push_audio(self.sessions[part], samples[part], name, 16000)

        if self.pushers is None:
            push(self.parts[0])
        else:
            list(self.pushers.map(push, self.parts))

    def round(self, number: int) -> npt.NDArray[np.float32]:
        """Motion (count, D) of frame `number`."""
        start = time.perf_counter()
        for track, ahead in enumerate(self.look_ahead[name] for name in ("self", "other")):
            self._push(track, number + ahead)
        self.pushed_seconds.append(time.perf_counter() - start)
        motion = self.pool.pull().motion
        if len(motion) != len(self.sessions):
            raise RuntimeError(f"a round of {len(self.sessions)} sessions made {len(motion)} frames")
        return motion

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        self.pool.close()
        if self.pushers is not None:
            self.pushers.shutdown()


def measure_engine(model: unils.Model, count: int, seconds: float, threads: int) -> Figures:
    """A line of the sweep."""
    before = card_memory_bytes()
    engine = Engine(model, count, threads)
    try:
        after = card_memory_bytes()
        times = rounds_of(engine.round, seconds)
        figures = summary(times)
        figures["push_p50_ms"] = statistics.median(engine.pushed_seconds[WARM_UP_ROUNDS:]) * 1e3
        figures["frames_per_second"] = count / statistics.median(times)
        figures["pool_bytes_a_session"] = engine.pool.stats.bytes // count
        if before is not None and after is not None:
            figures["card_bytes_a_session"] = (after - before) // count
        return figures
    finally:
        engine.close()


def measure_lone(model: unils.Model, seconds: float) -> Figures:
    """One session without a pool: push of a hop on both tracks to its frame."""
    session = unils.Session(model, temperature=0.0)
    ahead = dict(model.info.defaults.look_ahead)
    audio = dict(zip(("self", "other"), voices(256, seed=0), strict=True))
    for track, hops in ahead.items():
        session.push_audio(audio[track][: hops * HOP], track)

    def one(number: int) -> None:
        for track, hops in ahead.items():
            start = (number + hops) % 256 * HOP
            session.push_audio(audio[track][start : start + HOP], track)
        if len(session.pull_frames()) != 1:
            raise RuntimeError("a hop made no frame")

    figures = summary(rounds_of(one, seconds))
    stats = session.stats
    return figures | {"step_p50_us": stats.step_p50_us, "step_p99_us": stats.step_p99_us}


class Torch:
    """The same model in PyTorch, on the device that the engine computes on."""

    def __init__(self, bundle: Path, device: str, threads: int) -> None:
        import torch

        from unils_training.models.stream.model import StreamModel

        self.torch, self.device = torch, torch.device(device)
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        self.model = StreamModel.from_bundle(bundle).to(self.device).eval()
        defaults = read_config(bundle)["defaults"]
        self.cfg_scale, self.look_ahead = defaults["cfg_scale"], defaults["look_ahead"]

    def release_memory(self) -> None:
        """What PyTorch keeps for later, which the engine cannot have."""
        if self.device.type == "cuda":
            self.torch.cuda.empty_cache()

    def rows(self, hops: int) -> Any:
        """Log-mel rows (2, hops, 256) of what `Engine` hears, on the host."""
        from unils_training.models.stream.log_mel import log_mel_rows

        audio = self.torch.from_numpy(voices(64 + max(self.look_ahead.values()), seed=0).astype(np.float32) / 32768.0)
        return self.torch.stack([log_mel_rows(track) for track in audio])[:, :hops]

    def rounds(self, count: int, compiled: bool) -> Callable[[int], npt.NDArray[np.float32]]:
        """`Engine.round` for PyTorch."""
        from gpu_torch_step import TorchStep
        from gpu_torch_step import compiled as compile_step

        torch = self.torch
        step = TorchStep(self.model, count, self.cfg_scale, self.look_ahead)
        on_card = self.device.type == "cuda"
        rows = self.rows(10**6)[:, :, None].repeat(1, 1, count, 1)  # (2, hops, count, 256)
        heard = [rows[track].roll(-self.look_ahead[name], 0) for track, name in enumerate(("self", "other"))]
        ready = torch.stack(heard, 1)  # (hops, 2, count, 256): what a round hears
        if on_card:
            ready = ready.pin_memory()
        run: Callable[[Any], Any] = step
        with torch.inference_mode(not compiled), torch.no_grad():
            if compiled:
                run = compile_step(step, ready[0].to(self.device))
            for track, name in enumerate(("self", "other")):
                step.prime(rows[track, : self.look_ahead[name]].transpose(0, 1).to(self.device), name)

        def one(number: int) -> npt.NDArray[np.float32]:
            with torch.inference_mode(not compiled), torch.no_grad():
                now = ready[number % len(ready)].to(self.device, non_blocking=True)
                return run(now).cpu().numpy()  # type: ignore[no-any-return]

        return one


def equal_frames(engine: Engine, theirs: Callable[[int], npt.NDArray[np.float32]]) -> int:
    """How many of the first frames are alike: a logit within rounding of 0 parts the two faces for good."""
    from unils_training.evaluation.models import in_range

    flame = engine.pool.model.info.rig == "flame"
    for number in range(COMPARED_FRAMES):
        ours, made = engine.round(number), theirs(number)
        if float(np.abs(ours - (made if flame else in_range(made))).max()) > SAME:
            return number
    return COMPARED_FRAMES


def measure_ceilings(device: str) -> Figures:
    """What a copy and matrix products reach, in bytes and operations a second. ImportError without PyTorch."""
    import torch

    on_card = device == "cuda"
    megabytes, side = (2048, 8192) if on_card else (256, 1024)

    def wait() -> None:
        if on_card:
            torch.cuda.synchronize()

    def rate(work: float, one: Callable[[], Any]) -> float:
        times = []
        for _ in range(12):
            wait()
            start = time.perf_counter()
            one()
            wait()
            times.append(time.perf_counter() - start)
        return work / statistics.median(times[2:])

    torch.set_float32_matmul_precision("highest")
    source = torch.ones(megabytes << 18, device=device)
    target = torch.empty_like(source)
    figures = {"copy_bytes_s": rate(2 * 4 * source.numel(), lambda target=target, source=source: target.copy_(source))}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if not on_card and dtype is not torch.float32:
            continue
        a = torch.randn(side, side, device=device).to(dtype)
        b = torch.randn(side, side, device=device).to(dtype)
        figures[f"{name}_operations_s"] = rate(2.0 * side**3, lambda a=a, b=b: a @ b)  # type: ignore[misc]
    del source, target
    if on_card:
        torch.cuda.empty_cache()
    return figures


def against_the_floor(line: Figures, cost: Cost, count: int, precision: str, ceilings: Mapping[str, float]) -> Figures:
    """Bytes and operations of a round, and how many times the floor that the measured ceilings set it took."""
    moved = cost.bytes(count, ELEMENT_BYTES[precision])
    figures: Figures = {"bytes": moved, "operations": count * cost.operations}
    rate = ceilings.get(f"{precision}_operations_s")
    if rate and "copy_bytes_s" in ceilings:
        floor = cost.floor_seconds(count, ceilings["copy_bytes_s"], rate, ELEMENT_BYTES[precision]) * 1e3
        figures |= {"floor_ms": floor, "times_the_floor": line["p50_ms"] / floor}
    return figures


def measure_model(name: str, bundle: Path, options: argparse.Namespace, report: Report) -> None:
    """Our part, for one model."""
    cost = cost_of(read_config(bundle))
    ceilings = report.figures.get("ceilings", {})
    result: Figures = {"bundle": str(bundle), "lone": {}, "sweep": {}, "pytorch": {}}
    for precision in options.precisions:
        what = f"{name}, {precision}"
        try:
            model = unils.Model.load(bundle, options.backend, options.threads, precision)
        except unils.UnilsError as error:
            report.leave_out(what, error)
            continue
        result["parameters"] = model.info.parameters
        result["backend"] = f"{model.info.backend}: {model.info.backend_detail}"
        if "lone" in options.parts:
            result["lone"][precision] = measure_lone(model, options.seconds)
            report.put(name, result)
        for count in options.sessions if "sweep" in options.parts else ():
            try:
                line = measure_engine(model, count, options.seconds, options.threads)
            except (unils.UnilsError, MemoryError) as error:
                report.leave_out(f"{what}, {count} sessions", error)
                continue
            line |= against_the_floor(line, cost, count, precision, ceilings)
            result["sweep"].setdefault(precision, {})[str(count)] = line
            print(f"{what}, {count} sessions: {line['p50_ms']:.3f} ms", flush=True)
            report.put(name, result)
    report.put(name, result)


def measure_pytorch(name: str, bundle: Path, options: argparse.Namespace, report: Report) -> None:
    """The lines of PyTorch, and on how many frames it agrees with the engine."""
    result = report.figures[name]
    device = "cpu" if options.backend == "cpu" else "cuda"
    try:
        peer = Torch(bundle, device, options.threads)
    except Exception as error:  # no PyTorch, none for this card, no memory: each has an exception of its own
        report.leave_out(f"{name}, PyTorch", error)
        return
    for count in options.sessions:
        for way in ("eager", "compiled"):
            if way == "compiled" and count not in options.compiled_sessions:
                continue
            one = None  # its rings make room for the next
            peer.release_memory()
            try:
                one = peer.rounds(count, way == "compiled")
                line: Figures = {}
                if count == min(options.sessions):
                    engine = Engine(unils.Model.load(bundle, options.backend), count)
                    line["equal_frames"] = equal_frames(engine, one)
                    engine.close()
                times = rounds_of(lambda number, one=one: one(COMPARED_FRAMES + number), options.seconds)  # type: ignore[misc]
            except Exception as error:
                report.leave_out(f"{name}, PyTorch {way}, {count} sessions", error)
                continue
            line |= summary(times) | {"frames_per_second": count / statistics.median(times)}
            result["pytorch"].setdefault(way, {})[str(count)] = line
            print(f"{name}, PyTorch {way}, {count} sessions: {line['p50_ms']:.3f} ms", flush=True)
            report.put(name, result)


def tables(figures: Figures, models: Iterable[str]) -> str:
    """Everything measured, as Markdown."""
    lines = [f"card: {figures['card'] or 'none'}; {figures['machine']['cpu']}"]
    if "ceilings" in figures:
        lines += ["", "| ceiling of this device | measured |", "|---|---|"]
        for name, value in figures["ceilings"].items():
            unit, scale = ("GB/s", 1e9) if name == "copy_bytes_s" else ("TFLOP/s", 1e12)
            lines.append(f"| {name.rpartition('_')[0].replace('_', ' ')} | {value / scale:.4g} {unit} |")
    for name in models:
        if name not in figures:
            continue
        model = figures[name]
        parameters, backend = model.get("parameters", 0) / 1e6, model.get("backend", "not run")
        lines += ["", f"### {name}: {parameters:.1f} M parameters, {backend}"]
        if model["lone"]:
            lines += ["", "| a lone session | hop to frame, median | p99 | step, median |", "|---|---|---|---|"]
            for precision, line in model["lone"].items():
                times = [f"{line[key]:.3f} ms" for key in ("p50_ms", "p99_ms")]
                lines.append(f"| {precision} | {' | '.join(times)} | {line['step_p50_us']:.0f} us |")
        ways = [(f"ours, {precision}", lines_) for precision, lines_ in model["sweep"].items()]
        ways += [(f"PyTorch, {way}", lines_) for way, lines_ in model["pytorch"].items()]
        if ways:
            columns = [
                "sessions",
                "",
                "frames/s",
                "median",
                "p99",
                "of it pushing",
                "a session",
                "moved",
                "computed",
                "times the floor",
            ]
            lines += ["", f"| {' | '.join([*columns, 'equal frames'])} |", "|" + "---|" * 11]
        for count in sorted({int(count) for _, lines_ in ways for count in lines_}):
            for way, lines_ in ways:
                if str(count) in lines_:
                    lines.append(f"| {count} | {way} | {_sweep_line(lines_[str(count)])} |")
    lines += ["", *(f"left out: {item['what']}: {item['why']}" for item in figures["left_out"])]
    return "\n".join(lines).rstrip() + "\n"


def _sweep_line(line: Figures) -> str:
    def shown(key: str, form: str, scale: float = 1.0, unit: str = "") -> str:
        return f"{line[key] / scale:{form}}{unit}" if key in line else ""

    memory = "card_bytes_a_session" if line.get("card_bytes_a_session") else "pool_bytes_a_session"
    return " | ".join((
        shown("frames_per_second", ".0f"),
        shown("p50_ms", ".3f", 1.0, " ms"),
        shown("p99_ms", ".3f", 1.0, " ms"),
        shown("push_p50_ms", ".3f", 1.0, " ms"),
        shown(memory, ".2f", 1e6, " MB"),
        shown("bytes", ".3f", 1e9, " GB"),
        shown("operations", ".2f", 1e9, " GFLOP"),
        shown("times_the_floor", ".2f"),
        shown("equal_frames", ".0f"),
    ))  # fmt: skip


def bundles(names: Iterable[str], folder: Path) -> dict[str, Path]:
    """The bundled model; a random one of UniLS's size, written to `folder`; or any bundle by its path."""
    sys.path.append(str(TESTS))
    from bundles import TINY, random_bundle

    made: dict[str, Path] = {}
    for name in names:
        if name == "bundled":
            made[name] = Path(BUNDLED_MODEL)
        elif name == "unils":
            made[name] = random_bundle(folder / name, sizes=UNILS_SIZES, rig="flame")
        elif name == "tiny":
            made[name] = random_bundle(folder / name, sizes=TINY)
        else:
            made[name] = Path(name)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints the tables, and returns 0 unless nothing of ours could be measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures; made where it is missing")
    parser.add_argument("--backend", default="cuda", help="cuda, or cpu to try this where there is no card")
    parser.add_argument("--models", nargs="+", default=["bundled", "unils"], help="bundled, unils, tiny or a folder")
    parser.add_argument("--sessions", type=int, nargs="+", default=list(SESSIONS))
    parser.add_argument("--compiled-sessions", type=int, nargs="*", default=list(COMPILED_SESSIONS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--precisions", nargs="+", choices=list(ELEMENT_BYTES), default=["fp32", "bf16"])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--threads", type=int, help="on the processor; all beside a card, else 1")
    options = parser.parse_args(arguments)
    if options.threads is None:
        options.threads = 1 if options.backend == "cpu" else os.cpu_count() or 1
    options.out.mkdir(parents=True, exist_ok=True)
    report = Report(options.out, options)
    if "ceilings" in options.parts:
        try:
            report.put("ceilings", measure_ceilings("cpu" if options.backend == "cpu" else "cuda"))
        except Exception as error:
            report.leave_out("ceilings", error)
    with tempfile.TemporaryDirectory() as folder:
        made = bundles(options.models, Path(folder))
        # Ours first: PyTorch keeps the memory that it once had, and compiling takes long.
        for name, bundle in made.items():
            measure_model(name, bundle, options, report)
        for name, bundle in made.items() if "pytorch" in options.parts else ():
            measure_pytorch(name, bundle, options, report)
    report.put("left_out", report.left_out)
    print(f"\n{tables(report.figures, options.models)}", end="")
    measured = any(report.figures[name]["lone"] or report.figures[name]["sweep"] for name in options.models)
    return 0 if measured or set(options.parts) <= {"ceilings", "pytorch"} else 1


if __name__ == "__main__":
    sys.exit(main())
