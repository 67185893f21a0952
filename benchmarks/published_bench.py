"""Family `published` at its real sizes with random weights, beside the straightforward PyTorch loop: one run.

    python benchmarks/published_bench.py --folder DIR [--sizes full small] [--rounds 3] [--threads 2] [--json FILE]

The loop does what the released code does: every scale runs the whole sequence [style | window before | current tokens
so far] anew, keys and values of audio included, with the guidance rows as a batch of two; each track's audio is encoded
once a window. It is built of the same modules, draws the same bits (which is checked), and gets as many threads.
Variants take turns, so that what else the machine does falls on all of them alike. Audio is loud on both tracks:
silence costs nothing. Bundles are made in DIR where it has none, 1.7 and 0.6 GB for a size.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor

import unils_sdk as unils
from unils_sdk import _core
from unils_sdk.bench import machine
from unils_sdk.graph_runner import LoadedGraphs, OnnxRunner
from unils_sdk.graph_runner import Tensor as TensorView
from unils_training.config import (
    DefaultsConfig,
    PublishedAudioEncoderConfig,
    PublishedCodecConfig,
    PublishedConfig,
)
from unils_training.export.precision import PRECISIONS, Precision
from unils_training.export.published import write_bundle
from unils_training.models.published.attention import rope_table
from unils_training.models.published.audio_encoder import AudioEncoder
from unils_training.models.published.model import HOP_SAMPLES, PublishedModel
from unils_training.rigs import RIGS

XLS_R_300M = PublishedAudioEncoderConfig(
    width=1024, depth=24, heads=16, feed_forward=4096, conv_width=512, position_kernel=128, position_groups=16
)
SIZES = {
    "full": PublishedConfig(
        rig="flame", width=512, heads=8, depth=8, codec=PublishedCodecConfig(512, 8, 8), audio_encoder=XLS_R_300M
    ),
    "small": PublishedConfig(
        rig="flame",
        width=384,
        heads=6,
        depth=6,
        codec=PublishedCodecConfig(384, 6, 6, scales=(1, 25, 50, 100)),
        audio_encoder=XLS_R_300M,
    ),
}
GREEDY = {"temperature": 0.0, "top_p": 1.0, "cfg_scale": 1.5}
FRAME_RATE = 25
PAUSE_SECONDS = 0.2
"""Between two variants: PyTorch's threads spin for a while after their work."""
Floats = npt.NDArray[np.float32]


class StraightforwardLoop:
    """Windows of one face, greedily, with nothing kept between two scales."""

    def __init__(self, model: PublishedModel) -> None:
        self.model = model
        self.style = self.previous = model.rest_latent()
        self.latent = self.style
        prefix = rope_table(torch.arange(2 * model.config.window_frames), model.generator.head_width)
        self.table = torch.cat((prefix, model.generator.current_table), dim=1)
        size, tokens = prefix.shape[1], model.codec.tokens
        self.mask = torch.ones(size + tokens, size + tokens, dtype=torch.bool)
        self.mask[:size, size:] = False
        self.mask[size:] = model.generator.mask

    @torch.inference_mode()
    def window(self, own: Floats, other: Floats) -> Floats:
        """Both tracks (S,) -> motion (F, D)."""
        model, codec = self.model, self.model.codec
        features = [model.audio_encoder(torch.from_numpy(track)[None]) for track in (own, other)]
        heard = [torch.cat((track, torch.zeros_like(track))) for track in features]
        style, previous = torch.cat((self.style, model.rest_latent())), self.previous.repeat(2, 1, 1)
        latents: list[Tensor] = []
        latent = torch.zeros_like(self.style)
        for level in range(len(codec.scales)):
            logits = self._scale(style, previous, latents, heard)
            conditional, unconditional = logits.chunk(2)
            logits = GREEDY["cfg_scale"] * conditional + (1.0 - GREEDY["cfg_scale"]) * unconditional
            bits = logits[..., 1] > logits[..., 0]
            latent = latent + codec.up(codec.code(bits), level)
            if level + 1 < len(codec.scales):
                latents.append(codec.down(latent, level + 1))
        motion = codec.decode(latent)
        self.previous, self.latent = codec.quantise(codec.encode(motion))[1], latent
        return motion[0].numpy()

    def _scale(self, style: Tensor, previous: Tensor, latents: list[Tensor], heard: list[Tensor]) -> Tensor:
        """Logits (2, n, d, 2) of the next scale's tokens, from everything before."""
        generator, vectors = self.model.generator, self.model.generator.attn_blocks
        current = [generator.start(2)]
        current += [generator.embed(latent, level + 1).repeat(2, 1, 1) for level, latent in enumerate(latents)]
        prefix = (
            generator.code_token_embed(style) + vectors.style_pos,
            generator.code_token_embed(previous) + vectors.prev_pos,
        )
        x = torch.cat((*prefix, *current), dim=1)
        end = x.shape[1]
        table, mask = self.table[:, :end], self.mask[:end, :end]
        audio = generator.audio(heard[0], heard[1])
        for block, keys_values in zip(vectors.attn_blocks, audio.unbind(0), strict=True):
            x = x + block.self_attn.attend(*block.self_attn.project(x, table), mask)
            x = block.finish(x, table, keys_values)
        logits: Tensor = generator.logits_head(x[:, end - current[-1].shape[1] :]).unflatten(-1, (-1, 2))
        return logits


class Stopwatch:
    """ONNX Runtime with a watch on every graph; it remembers the latent that was decoded last.

    One for all sessions of a model: whoever runs one clears `seconds` before.
    """

    name = OnnxRunner.name

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.decoded: Floats | None = None
        self.detail = ""
        self._graphs: LoadedGraphs | None = None

    def load(self, paths: Mapping[str, str], threads: int) -> Stopwatch:
        self._graphs = OnnxRunner().load(paths, threads)
        self.detail = self._graphs.detail
        return self

    def run(self, graph: str, inputs: Sequence[TensorView], outputs: Sequence[TensorView]) -> None:
        assert self._graphs is not None
        start = time.perf_counter()
        self._graphs.run(graph, inputs, outputs)
        seconds = time.perf_counter() - start
        name, _, shape, address = inputs[0]
        if graph == "codec_decode":
            raw = ctypes.string_at(address, 4 * math.prod(shape))
            self.decoded = np.frombuffer(raw, np.float32).reshape(shape)
        tokens = f" of {shape[1]} tokens" if name == "latents" else ""
        self.seconds[graph + tokens] += seconds


class Variant:
    """One way to make frames: `step` makes those of `hop` frames of both tracks."""

    def __init__(
        self,
        name: str,
        hop: int,
        step: Callable[[Floats, Floats], object],
        faces: int = 1,
        watch: Stopwatch | None = None,
    ) -> None:
        self.name, self.hop, self.step, self.faces = name, hop, step, faces
        self.watch = watch
        self.graphs: dict[str, float] = defaultdict(float)
        self.times: list[float] = []
        self.frame = 0

    def run(self, audio: Floats) -> None:
        """Makes the next frames without counting the time."""
        begin = self.frame * HOP_SAMPLES
        own, other = audio[:, begin : begin + self.hop * HOP_SAMPLES]
        self.frame += self.hop
        self.step(own, other)

    def measure(self, audio: Floats) -> None:
        """Makes the next frames; their time, and that of each graph, in seconds, is kept."""
        if self.watch is not None:
            self.watch.seconds.clear()
        start = time.perf_counter()
        self.run(audio)
        self.times.append(time.perf_counter() - start)
        if self.watch is not None:
            for graph, seconds in self.watch.seconds.items():
                self.graphs[graph] += seconds


def make_model(size: str) -> PublishedModel:
    """With the same random weights every time."""
    torch.manual_seed(0)
    sizes = SIZES[size]
    return PublishedModel(sizes, RIGS[sizes.rig], AudioEncoder.from_config(sizes.audio_encoder)).eval()


def make_bundle(folder: Path, size: str, precision: Precision, model: PublishedModel) -> Path:
    """The bundle's folder, made if it is not there."""
    path = folder / f"{size}-{precision}"
    if not path.exists():
        write_bundle(path, model, DefaultsConfig(top_p=0.97, cfg_scale=1.5), {}, "", precision)
    return path


def speech_like(frames: int) -> Floats:
    """Noise in syllables, another on each track: (2, 640 frames)."""
    samples = frames * HOP_SAMPLES
    loudness = 0.05 + np.clip(np.sin(2 * np.pi * 3.0 * np.arange(samples) / 16000), 0.0, None)
    noise = np.random.default_rng(0).normal(size=(2, samples))
    return (0.2 * loudness * noise).clip(-1, 1).astype(np.float32)


def session_variants(precision: Precision, path: Path, threads: int) -> list[Variant]:
    """Every mode of one bundle."""
    watch = Stopwatch()
    model = unils.Model(_core.Model(os.fsencode(path), "auto", threads, watch), str(path))
    modes: dict[str, dict[str, Any]] = {
        "windowed": {},
        "windowed, two faces": {"faces": 2},
        **{f"rolling, hop {hop}": {"mode": "rolling", "hop_frames": hop} for hop in (1, 5, 25)},
    }
    variants = []
    for mode, options in modes.items():
        session = unils.Session(model, **GREEDY, **options)

        def step(own: Floats, other: Floats, session: unils.Session = session) -> None:
            session.push_audio(own, "self")
            session.push_audio(other, "other")
            if len(session.pull_frames()) * HOP_SAMPLES != len(own):
                raise RuntimeError("a session did not make the frames of its audio")

        hop, faces = options.get("hop_frames", model.info.window_frames), options.get("faces", 1)
        variants.append(Variant(f"{precision}, {mode}", hop, step, faces, watch))
    return variants


def compare(folder: Path, size: str, rounds: int, threads: int) -> dict[str, Any]:
    """Medians of every variant of one size; RuntimeError where loop and engine do not draw the same bits."""
    torch.set_num_threads(threads)
    model = make_model(size)
    bundles = {precision: make_bundle(folder, size, precision, model) for precision in PRECISIONS}
    loop = StraightforwardLoop(model)
    variants = [Variant("PyTorch loop", model.config.window_frames, loop.window)]
    for precision, path in bundles.items():
        variants += session_variants(precision, path, threads)
    audio = speech_like((rounds + 1) * model.config.window_frames)
    for variant in variants:
        variant.run(audio)
        if variant.name == "fp32, windowed":
            decoded = variant.watch.decoded if variant.watch is not None else None
            if decoded is None or not np.allclose(decoded[0], loop.latent[0].numpy(), atol=1e-5):
                raise RuntimeError(f"{size}: loop and engine drew other bits: these are not times of the same work")
    for done in range(rounds):
        for variant in variants:
            time.sleep(PAUSE_SECONDS)
            variant.measure(audio)
        print(f"{size}: round {done + 1} of {rounds}", file=sys.stderr, flush=True)
    return {variant.name: figures(variant, variants[0]) for variant in variants}


def figures(variant: Variant, loop: Variant) -> dict[str, Any]:
    """Of one variant: medians over the rounds; the graphs are means."""
    step = statistics.median(variant.times)
    window = variant.hop * variant.faces
    reference = loop.hop / statistics.median(loop.times)
    graphs = {name: 1e3 * seconds / len(variant.times) for name, seconds in variant.graphs.items()}
    return {
        "step_ms": 1e3 * step,
        "step_ms_all": [round(1e3 * seconds, 1) for seconds in variant.times],
        "frames_per_second": window / step,
        "real_time": variant.hop / step / FRAME_RATE,
        "to_loop": window / step / reference,
        "graphs_ms": {**graphs, "all else": 1e3 * statistics.mean(variant.times) - sum(graphs.values())}
        if graphs
        else {},
    }


def print_table(size: str, table: Mapping[str, Mapping[str, Any]]) -> None:
    """Markdown, as docs/published.md has it."""
    print(f"\n| {size} | ms a step | frames/s | x real time | x PyTorch loop |\n|---|---|---|---|---|")
    for name, row in table.items():
        print(
            f"| {name} | {row['step_ms']:.0f} | {row['frames_per_second']:.1f} | {row['real_time']:.2f} "
            f"| {row['to_loop']:.2f} |"
        )
    windowed = {name: row["graphs_ms"] for name, row in table.items() if name.endswith("windowed")}
    print(f"\n| {size}: ms a window | {' | '.join(windowed)} |\n|---|{'---|' * len(windowed)}")
    for graph in next(iter(windowed.values())):
        print(f"| {graph} | {' | '.join(f'{graphs[graph]:.0f}' for graphs in windowed.values())} |")


def main() -> None:
    """Runs the comparison, prints it, and writes it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the bundles are, or will be")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if hasattr(os, "sched_setaffinity"):  # as many cores as threads, for both sides
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    here = {
        "machine": machine(),
        "threads": options.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "rounds": options.rounds,
    }
    sizes = {}
    for size in options.sizes:
        sizes[size] = compare(options.folder, size, options.rounds, options.threads)
        print_table(size, sizes[size])
    if options.json is not None:
        options.json.write_text(json.dumps({**here, "sizes": sizes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
