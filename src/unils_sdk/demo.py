"""`unils demo`: a bundled conversation of two people, played through two streaming sessions and filmed."""

from __future__ import annotations

import io as memory
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unils_sdk import io
from unils_sdk.errors import FileError
from unils_sdk.frames import FrameBatch
from unils_sdk.model import Model
from unils_sdk.session import Session

CONVERSATION = Path(__file__).parent / "data" / "demo"
"""`a.flac` and `b.flac`: one voice each, of the same length."""
_PUSH_SECONDS = 0.02  # as voice stacks deliver audio


def run_demo(
    out_dir: str | os.PathLike[str],
    *,
    seed: int = 0,
    backend: str = "auto",
    progress: bool = True,
    model: Model | None = None,
    mode: str = "windowed",
    hop_frames: int | None = None,
) -> dict[str, Any]:
    """Let two faces hold the bundled conversation; write `demo.mp4`, `demo.npz` and `demo.json` into `out_dir`.

    Both voices arrive in pushes of 20 ms; each face hears its own as `self` and the other as `other`, and frames are
    pulled as they become ready. `model` is the bundled one by default, on `backend`; of family `published` one session
    has both faces, in `mode` and with `hop_frames` as `Session` has them. Returns what `demo.json` holds:

    frames, seconds: of each face. channels: names of a frame's numbers.
    step_us: p50, p95 and p99 of the time of a pull that made a frame, of both faces, in microseconds.
    first_frame_ms: from the push that completed the audio of the first frame to that frame.
    real_time_factor: time in the engine for both faces, by the length of the conversation.
    latency_ms: algorithmic, from the first sample of a frame to the frame. backend: what did the arithmetic.

    `demo.npz` holds `values_a` and `values_b` (frames, D) float32, `channels` (D,), `index` (frames,), `pts_seconds`
    (frames,), `names` (2,). Faces of rig `flame` are not filmed. Raises `FileError` where the folder cannot be written.
    """
    from unils_sdk.render import render_video

    folder = _make_folder(out_dir)
    model = model if model is not None else Model.load(None, backend)
    voices = [io.read_audio(CONVERSATION / f"{name}.flac") for name in "ab"]
    if model.info.family == "published":
        parts = [_Part(Session(model, seed=2 * seed, mode=mode, hop_frames=hop_frames, faces=2))]
    else:
        parts = [_Part(Session(model, seed=2 * seed + i, mode=mode, hop_frames=hop_frames)) for i in range(2)]
    with _progress_bar("talking", progress) as bar:
        _converse(parts, voices, bar)
    made = [FrameBatch.concatenate(part.batches) for part in parts]
    batches = [face for batch in made for face in (batch, batch.other) if face is not None]
    figures = _figures(model, parts, batches)
    _write_frames(folder / "demo.npz", batches)
    if model.info.rig == "arkit":
        with _progress_bar("filming", progress) as bar:
            bar.total = len(batches[0])
            render_video(folder / "demo.mp4", batches, voices, progress=lambda done, _: bar.update(done - bar.n))
    io.write_bytes(folder / "demo.json", (json.dumps(figures, indent=2) + "\n").encode())
    return figures


@dataclass
class _Part:
    """One session, of one face or both, and what it made in what time."""

    session: Session
    batches: list[FrameBatch] = field(default_factory=list)
    pull_seconds: list[float] = field(default_factory=list)  # of each frame
    engine_seconds: float = 0.0
    first_frame_seconds: float = 0.0

    def hear(self, own: io.Audio, other: io.Audio, begin: int, end: int) -> None:
        """Take the next audio of both tracks and make what can be made of it."""
        start = time.perf_counter()
        for track, voice in (("self", own), ("other", other)):
            self.session.push_audio(voice.samples[begin:end], track, voice.sample_rate)
        self.pull(start)

    def pull(self, start: float) -> None:
        asked = time.perf_counter()
        batch = self.session.pull_frames()
        done = time.perf_counter()
        self.engine_seconds += done - start
        if len(batch):
            if not self.pull_seconds:
                self.first_frame_seconds = done - start
            self.pull_seconds += [(done - asked) / len(batch)] * len(batch)
        self.batches.append(batch)


def _converse(parts: list[_Part], voices: list[io.Audio], bar: Any) -> None:
    step = round(_PUSH_SECONDS * voices[0].sample_rate)
    length = len(voices[0].samples)
    bar.total = length // step
    for begin in range(0, length, step):
        for index, part in enumerate(parts):
            part.hear(voices[index], voices[1 - index], begin, begin + step)
        bar.update(1)
    for part in parts:
        part.session.finish()
        while part.session.frames_ready:
            part.pull(time.perf_counter())


def _figures(model: Model, parts: list[_Part], batches: list[FrameBatch]) -> dict[str, Any]:
    frames, info = len(batches[0]), model.info
    seconds = frames / info.frame_rate
    pulls = np.concatenate([part.pull_seconds for part in parts]) * 1e6
    return {
        "frames": frames,
        "seconds": seconds,
        "channels": list(info.channels),
        "step_us": {f"p{p}": round(float(np.percentile(pulls, p)), 1) for p in (50, 95, 99)},
        "first_frame_ms": round(1e3 * parts[0].first_frame_seconds, 3),
        "real_time_factor": round(sum(part.engine_seconds for part in parts) / seconds, 5),
        "latency_ms": parts[0].session.latency.total_ms,
        "backend": info.backend,
        "backend_detail": info.backend_detail,
        "faces": len(batches),
    }


def _write_frames(path: Path, batches: list[FrameBatch]) -> None:
    from unils_sdk.render import CHARACTERS

    content = memory.BytesIO()
    np.savez(
        content,
        values_a=batches[0].values,
        values_b=batches[1].values,
        channels=np.array(batches[0].channels),
        index=batches[0].index,
        pts_seconds=batches[0].pts_seconds,
        names=np.array([character.name for character in CHARACTERS.values()]),
    )
    io.write_bytes(path, content.getvalue())


def _make_folder(out_dir: str | os.PathLike[str]) -> Path:
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {out_dir}: {error.strerror or error}") from error
    return folder


def _progress_bar(label: str, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(desc=label, disable=None if shown else True, leave=False)
