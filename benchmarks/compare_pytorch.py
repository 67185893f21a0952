"""Our step beside the same model stepped by PyTorch in eager mode: one run, interleaved, frame by frame.

    python benchmarks/compare_pytorch.py [--bundle BUNDLE] [--seconds 40] [--json FILE]

Both hear the same audio with the same options and seed, on one thread, and their frames are compared: this is the same
work done twice. The native time is a whole `push_audio` of two hops and `pull_frames` of one frame, with log-mel and
the binding; the PyTorch time leaves log-mel out, so it is, if anything, flattered.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

import unils_sdk
from unils_sdk.model import BUNDLED_MODEL
from unils_training.evaluation.models import in_range
from unils_training.models.stream.log_mel import HOP_SAMPLES, log_mel_rows
from unils_training.models.stream.model import TRACKS, Sampling, StreamModel

WARM_UP_FRAMES = 25
SAME = 1e-4


def speech_like(hops: int, seed: int) -> np.ndarray:
    """Noise in syllables: (640 hops,) int16."""
    samples = hops * HOP_SAMPLES
    loudness = np.clip(np.sin(2 * np.pi * 3.0 * np.arange(samples) / 16000), 0.0, None)
    noise = np.random.default_rng(seed).normal(size=samples)
    return (3000.0 * loudness * noise).clip(-32768, 32767).astype(np.int16)


def compare(bundle: Path, frames: int, seed: int = 0) -> dict[str, object]:
    """Medians in microseconds of `frames` frames; RuntimeError where the two do not do the same work."""
    torch.set_num_threads(1)
    native, reference = unils_sdk.Model.load(bundle), StreamModel.from_bundle(bundle)
    defaults = native.info.defaults
    ahead = dict(defaults.look_ahead)
    sampling = Sampling(ahead["self"], ahead["other"], defaults.temperature, defaults.top_p, defaults.cfg_scale)
    hops = frames + max(ahead.values())
    audio = {track: speech_like(hops, seed + i) for i, track in enumerate(TRACKS)}
    rows = {track: log_mel_rows(torch.from_numpy(audio[track].astype(np.float32) / 32768.0)) for track in TRACKS}

    session = unils_sdk.Session(native, look_ahead=ahead, seed=seed)
    state, seeds = reference.init_state(), np.array([seed], np.uint64)
    pushed = dict.fromkeys(TRACKS, 0)
    native_us: list[float] = []
    pytorch_us: list[float] = []
    equal_frames = frames
    with torch.inference_mode():
        for frame in range(frames):
            heard = {track: (pushed[track], frame + 1 + ahead[track]) for track in TRACKS}
            start = time.perf_counter()
            for track, (first, end) in heard.items():
                session.push_audio(audio[track][first * HOP_SAMPLES : end * HOP_SAMPLES], track)
            ours = session.pull_frames().values
            native_us.append((time.perf_counter() - start) * 1e6)
            start = time.perf_counter()
            for track, (first, end) in heard.items():
                for row in range(first, end):
                    reference.push_row(state, track, rows[track][None, row])
            theirs = in_range(reference.step(state, sampling, seeds).motion.numpy())
            pytorch_us.append((time.perf_counter() - start) * 1e6)
            pushed = {track: end for track, (_, end) in heard.items()}
            if float(np.abs(ours - theirs).max()) > SAME:
                equal_frames = min(equal_frames, frame)
    # A draw that falls between two roundings of one probability flips a bit, and from there on the faces part.
    if equal_frames < WARM_UP_FRAMES:
        raise RuntimeError(f"the two part at frame {equal_frames}: these are not times of the same work")
    medians = [statistics.median(times[WARM_UP_FRAMES:]) for times in (native_us, pytorch_us)]
    return {
        "bundle": str(bundle),
        "backend": f"{native.info.backend} {native.info.backend_detail}".strip(),
        "torch": torch.__version__,
        "frames": frames - WARM_UP_FRAMES,
        "native_us": medians[0],
        "pytorch_us": medians[1],
        "ratio": medians[1] / medians[0],
        "equal_frames": equal_frames,
    }


def main() -> None:
    """Runs the comparison, prints it, and writes it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, default=Path(BUNDLED_MODEL))
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    frames = int(options.seconds * 25)
    if frames <= WARM_UP_FRAMES:
        parser.error(f"--seconds must be more than {WARM_UP_FRAMES / 25:g}, which are warm-up")
    figures = compare(options.bundle, frames)
    for name, value in figures.items():
        print(f"{name:20} {value:.4g}" if isinstance(value, float) else f"{name:20} {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
