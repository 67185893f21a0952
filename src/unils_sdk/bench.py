"""`unils bench`: what the engine costs on this machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from unils_sdk.errors import InvalidArgumentError
from unils_sdk.model import Model
from unils_sdk.pool import SessionPool
from unils_sdk.session import Session

_RATE = 16000
_PUSH = _RATE // 50  # 20 ms, as voice stacks deliver audio
_STARTS = 5
_WEIGHT_READS = 200
_HOP_ROUNDS, _WINDOW_ROUNDS = 50, 3

# Measured in a process of its own, which has nothing loaded yet.
_START_UP = """
import json, sys, time
start = time.perf_counter()
import numpy as np
numpy_imported = time.perf_counter()
import unils_sdk as unils
imported = time.perf_counter()
path, backend, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
loading = time.perf_counter()
model = unils.Model.load(path, backend, threads)
loaded = time.perf_counter()
session = unils.Session(model)
silence = np.zeros(640, np.float32)
while not session.frames_ready:
    session.push_audio(silence, "self")
    session.push_audio(silence, "other")
session.pull_frames()
made = time.perf_counter()
print(json.dumps({"import_ms": (imported - start) * 1e3, "import_numpy_ms": (numpy_imported - start) * 1e3,
                  "load_ms": (loaded - loading) * 1e3,
                  "load_to_first_frame_ms": (made - loading) * 1e3}))
"""


def run_bench(
    model_path: str | None = None,
    *,
    backend: str = "auto",
    threads: int = 1,
    seconds: float = 60.0,
    sessions: int = 64,
) -> dict[str, Any]:
    """Measure a model and return the figures, ready for JSON; times are medians unless they name a percentile.

    seconds: audio of the single-session run. sessions: how many run side by side to find how many a core can carry.
    """
    model = Model.load(model_path, backend, threads)
    info = model.info
    window_seconds = info.window_frames / info.frame_rate
    if seconds < window_seconds:
        raise InvalidArgumentError(f"this model makes frames {window_seconds:g} s at a time; measure at least as much")
    many = _many_sessions(model, sessions)
    return {
        "machine": machine(),
        "model": {
            "path": info.path,
            "parameters": info.parameters,
            "weight_bytes": info.weight_bytes,
            "backend": info.backend,
            "backend_detail": info.backend_detail,
            "threads": threads,
        },
        **_start_up(info.path, backend, threads),
        **_one_session(model, seconds),
        **many,
    }


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _start_up(path: str, backend: str, threads: int) -> dict[str, float]:
    command = [sys.executable, "-c", _START_UP, path, backend, str(threads)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(_STARTS)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _noise(samples: int, seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.1, samples).clip(-1, 1).astype(np.float32)


def _one_session(model: Model, seconds: float) -> dict[str, Any]:
    """A conversation in 20 ms pushes, and how long the caller waits for each frame."""
    samples = int(seconds * _RATE)
    own, other = _noise(samples, 0), _noise(samples, 1)
    session = Session(model)
    ready_us = []
    begun = time.perf_counter()
    for start in range(0, samples, _PUSH):
        session.push_audio(own[start : start + _PUSH], "self", _RATE)
        pushed = time.perf_counter()
        session.push_audio(other[start : start + _PUSH], "other", _RATE)
        if len(session.pull_frames()):
            ready_us.append((time.perf_counter() - pushed) * 1e6)
    elapsed = time.perf_counter() - begun
    stats = session.stats
    read_us = _weight_read_us(model.info.weight_bytes)
    return {
        "frames": stats.frames,
        "step_us": {"p50": stats.step_p50_us, "p95": stats.step_p95_us, "p99": stats.step_p99_us},
        "frame_ready_us": {f"p{q}": float(np.percentile(ready_us, q)) for q in (50, 95, 99)},
        "weight_read_us": read_us,
        "step_to_weight_read": stats.step_p50_us * model.info.window_frames / read_us,
        "real_time_factor": elapsed / seconds,
        "latency_ms": session.latency.total_ms,
    }


def _weight_read_us(weight_bytes: int) -> float:
    """One pass over as many bytes as a step reads, as warm in the caches as they can be."""
    weights = np.ones(max(weight_bytes // 4, 1), np.float32)
    times = []
    for _ in range(_WEIGHT_READS):
        start = time.perf_counter()
        weights.max()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as fields:
            return int(fields.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _many_sessions(model: Model, count: int) -> dict[str, Any]:
    """Sessions that take turns step by step, as a server runs them: each finds the caches full of the others; and, of
    a model that can, as many in a pool, a round of the ones after a round of the others. A session's part of a core is
    processor time, of all threads, pushes and pulls from Python included."""
    frames = model.info.window_frames
    step = frames * model.info.hop_samples
    samples = step * (2 + (_HOP_ROUNDS if frames == 1 else _WINDOW_ROUNDS))
    own, other = _noise(samples, 2), _noise(samples, 3)

    def push(session: Session, start: int) -> None:
        session.push_audio(own[start : start + step], "self", _RATE)
        session.push_audio(other[start : start + step], "other", _RATE)

    before = _resident_bytes()
    sessions = [Session(model, seed=seed) for seed in range(count)]
    pool = SessionPool(model, max_sessions=count) if model.info.family == "stream" else None
    pooled = [pool.session(seed=seed) for seed in range(count)] if pool else []
    resident = _resident_bytes() - before
    seconds: dict[str, list[float]] = {"alone": [], "pool": []}
    for start in range(0, samples, step):
        begun = time.process_time()
        for session in sessions:
            push(session, start)
            session.pull_frames()
        seconds["alone"].append(time.process_time() - begun)
        if pool:
            parts = [np.tile(track[start : start + step], (count, 1)) for track in (own, other)]
            begun = time.process_time()
            for track, part in zip(("self", "other"), parts, strict=True):
                pool.push_audio(pooled, part, track, _RATE)
            pool.pull()
            seconds["pool"].append(time.process_time() - begun)
    per_frame = {way: statistics.median(times[2:]) / count / frames for way, times in seconds.items() if times}
    per_core = {way: int(1 / model.info.frame_rate / each) for way, each in per_frame.items()}
    figures: dict[str, Any] = {
        "sessions_per_core": per_core["alone"],
        "session_bytes": sessions[0].stats.session_bytes,
        "session_resident_bytes": resident // (count + len(pooled)),
    }
    if pool:
        figures["pool"] = {
            "sessions": count,
            "sessions_per_core": per_core["pool"],
            "gain": per_frame["alone"] / per_frame["pool"],
            "session_bytes": pool.stats.bytes // count,
        }
    return figures
