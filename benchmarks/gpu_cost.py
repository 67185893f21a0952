"""What one frame of a `stream` model costs, by formula: bytes that must move and operations that must be done.

    python benchmarks/gpu_cost.py [--sessions 1024] [--copy-gb-s 3900 --fp32-tflop-s 50 --bf16-tflop-s 700]

Weights are read once a step, whatever the number of sessions; rings are read and written once a session. A frame is one
hop on each track and one step with guidance, that is two rows of the generator. An operation is a multiplication or an
addition. Log-mel and everything that is not a product of matrices or an attention is left out: it is some percent.
Given what a card reaches, the floor of a step is the larger of bytes / bandwidth and operations / rate.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLOAT = 4
TESTS = Path(__file__).resolve().parent.parent / "tests"
"""Whose makers of random bundles the benchmarks share."""
UNILS_SIZES: dict[str, Any] = {
    "audio_encoder": {"width": 256, "depth": 4, "kernel": 5, "expansion": 4},
    "codec": {
        "width": 512,
        "depth": 7,
        "kernel": 5,
        "expansion": 4,
        "bits": 24,
        "levels": 4,
        "gains": [1.0, 0.5, 0.25, 0.125],
    },
    "generator": {
        "width": 512,
        "depth": 10,
        "heads": 8,
        "feed_forward": 2048,
        "window_frames": 128,
        "audio_window_frames": 64,
        "style_tokens": 16,
        "head_width": 512,
    },
}
"""A `stream` model of about the size of UniLS as published: 49 M parameters of generator, 30 M of codec."""


@dataclass(frozen=True)
class Cost:
    """Of one step with guidance."""

    matrix_weights: int
    """Numbers in matrices that a step reads: what the precision of a model halves."""
    other_weights: int
    """Numbers in biases, norms and convolutions, always float32."""
    state_bytes_read: int
    """A session."""
    state_bytes_written: int
    """A session."""
    operations: int
    """A session."""

    def bytes(self, sessions: int, element: int = FLOAT) -> int:
        """Moved by a step of `sessions` sessions, with matrices of `element` bytes a number."""
        weights = element * self.matrix_weights + FLOAT * self.other_weights
        return weights + sessions * (self.state_bytes_read + self.state_bytes_written)

    def floor_seconds(self, sessions: int, bytes_s: float, operations_s: float, element: int = FLOAT) -> float:
        """The larger of what memory and what arithmetic allow."""
        return max(self.bytes(sessions, element) / bytes_s, sessions * self.operations / operations_s)


class _Count:
    def __init__(self) -> None:
        self.matrix = self.other = self.operations = self.read = self.written = 0

    def linear(self, out: int, into: int, rows: int, *, bias: bool = True) -> None:
        self.matrix += out * into
        self.other += out if bias else 0
        self.operations += rows * 2 * out * into

    def norm(self, width: int) -> None:
        self.other += 2 * width

    def attention(self, width: int, keys: int, rows: int, rings: int) -> None:
        """`rows` queries over `keys` keys; `rings` different rings are read, whose newest row the step has written."""
        self.operations += rows * 4 * width * keys
        self.read += FLOAT * rings * 2 * width * keys

    def causal_stack(self, sizes: Mapping[str, int], into: int, rows: int) -> None:
        width, kernel = sizes["width"], sizes["kernel"]
        self.linear(width, into, rows)
        for _ in range(sizes["depth"]):
            self.other += width * (kernel + 1)
            self.operations += rows * 2 * width * kernel
            self.read += FLOAT * rows * width * (kernel - 1)
            self.written += FLOAT * rows * width
            self.norm(width)
            self.linear(sizes["expansion"] * width, width, rows)
            self.linear(width, sizes["expansion"] * width, rows)
        self.norm(width)


def cost_of(config: Mapping[str, Any]) -> Cost:
    """Of a `model.json` of family `stream`, as docs/stream-model.md describes it."""
    audio, codec, generator = config["audio_encoder"], config["codec"], config["generator"]
    width, tracks, guided = generator["width"], 2, 2
    signs = codec["levels"] * codec["bits"]
    count = _Count()

    count.other += 2 * config["features"]["mels"]
    row_values = config["features"]["mels"] * config["hop_samples"] // config["features"]["step_samples"]
    count.causal_stack(audio, row_values, tracks)

    count.linear(width, signs, 1)
    count.other += 2 * width + width  # a row of each table of look-aheads, and the start token
    for _ in range(generator["depth"]):
        count.norm(width)
        count.linear(3 * width, width, guided, bias=False)
        count.attention(width, generator["style_tokens"], guided, rings=1)
        count.attention(width, generator["window_frames"], guided, rings=guided)
        count.written += FLOAT * guided * 2 * width
        count.linear(width, width, guided)
        for _ in range(tracks):
            count.norm(width)
            count.linear(width, width, 1)
            for _ in ("key", "value"):
                count.linear(width, audio["width"], 1)
            count.written += FLOAT * 2 * width
            count.attention(width, generator["audio_window_frames"], 1, rings=1)
            count.linear(width, width, 1)
        count.norm(width)
        count.linear(generator["feed_forward"], width, guided)
        count.linear(width, generator["feed_forward"], guided)
    count.norm(width)
    for level in range(codec["levels"]):
        count.linear(generator["head_width"], width, guided)
        if level:
            count.linear(generator["head_width"], level * codec["bits"], guided, bias=False)
        count.linear(codec["bits"], generator["head_width"], guided)

    count.causal_stack(codec, codec["bits"], 1)
    channels = len(config["channels"])
    count.linear(channels, codec["width"], 1)
    count.other += 2 * channels
    return Cost(count.matrix, count.other, count.read, count.written, count.operations)


def read_config(bundle: Path) -> dict[str, Any]:
    """Its `model.json`."""
    config: dict[str, Any] = json.loads((bundle / "model.json").read_text(encoding="utf-8"))
    return config


def random_config() -> dict[str, Any]:
    """The `model.json` of UniLS's size that gpu_bench.py makes a random bundle of."""
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    from bundles import bundle_config

    return bundle_config(UNILS_SIZES, rig="flame")


def table(configs: Mapping[str, Mapping[str, Any]], sessions: list[int], options: argparse.Namespace) -> str:
    """Markdown: a line for each model and number of sessions."""
    columns = ["model", "sessions", "weights, fp32", "moved a session", "moved a step", "operations a step"]
    lines = [f"| {' | '.join([*columns, 'floor, fp32', 'floor, bf16'])} |", "|" + "---|" * 8]
    for name, config in configs.items():
        cost = cost_of(config)
        weights = FLOAT * (cost.matrix_weights + cost.other_weights)
        for count in sessions:
            floors = [
                cost.floor_seconds(count, options.copy_gb_s * 1e9, rate * 1e12, element) * 1e3
                for rate, element in ((options.fp32_tflop_s, 4), (options.bf16_tflop_s, 2))
            ]
            lines.append(
                f"| {name} | {count} | {weights / 1e6:.1f} MB "
                f"| {(cost.state_bytes_read + cost.state_bytes_written) / 1e6:.2f} MB "
                f"| {cost.bytes(count) / 1e9:.3f} GB | {count * cost.operations / 1e9:.2f} GFLOP "
                f"| {floors[0]:.3f} ms | {floors[1]:.3f} ms |"
            )
    return "\n".join(lines)


def main() -> None:
    """Prints the table of both models."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 1024])
    parser.add_argument("--copy-gb-s", type=float, default=3900.0, help="memory, counting bytes read and written")
    parser.add_argument("--fp32-tflop-s", type=float, default=50.0)
    parser.add_argument("--bf16-tflop-s", type=float, default=700.0)
    options = parser.parse_args()
    from unils_sdk.model import BUNDLED_MODEL

    print(
        table({"bundled": read_config(Path(BUNDLED_MODEL)), "UniLS's size": random_config()}, options.sessions, options)
    )


if __name__ == "__main__":
    main()
