"""What the host of the `stream` graphs does, in NumPy: docs/onnx.md as code. Rings lie as in csrc/engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from unils_training.export.stream_graphs import REWIND_ROWS, RingShape, rings
from unils_training.models.layers import rope_table
from unils_training.models.philox import uniforms
from unils_training.models.stream.generator import MASKED
from unils_training.models.stream.model import TRACKS, Sampling, StreamModel

Floats = npt.NDArray[np.float32]


class Host:
    """B sessions that go in step, with rings of their own."""

    def __init__(self, bundle: Path, seeds: Sequence[int], styles: Sequence[Floats | None]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._graphs = {
            name: onnxruntime.InferenceSession(bundle / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
            for name in ("encode", "step", "decode")
        }
        self.model = StreamModel.from_bundle(bundle)
        config, batch = self.model.config, len(seeds)
        self.config, self.batch, self.seeds = config, batch, np.array(seeds, np.uint64)
        self.shapes = rings(config)
        self.style = np.zeros((batch, self.shapes.style.floats), np.float32)
        self.past = np.zeros((batch, 2, self.shapes.past.floats), np.float32)
        self.audio = {track: np.zeros((batch, shape.floats), np.float32) for track, shape in self.shapes.audio.items()}
        encoder, codec = config.audio_encoder, config.codec
        slots = encoder.kernel + REWIND_ROWS
        self.histories = {track: np.zeros((batch, encoder.depth, slots, encoder.width), np.float32) for track in TRACKS}
        self.decoder = np.zeros((batch, codec.depth, codec.kernel, codec.width), np.float32)
        self.bits = np.zeros((batch, codec.levels * codec.bits), np.float32)
        self.rows, self.frame = dict.fromkeys(TRACKS, 0), 0
        self._write_style(styles)

    def push_row(self, track: str, log_mel: Floats) -> None:
        """log_mel (B, 256)"""
        encoder, row, history = self.config.audio_encoder, self.rows[track], self.histories[track]
        made = self._run(
            "encode",
            log_mel=log_mel,
            history=history.reshape(self.batch, -1),
            **self._taps(row, encoder.kernel, history.shape[2]),
            track=np.full(self.batch, TRACKS.index(track), np.int64),
            **self._angles(row),
        )
        history[:, :, row % history.shape[2]] = made["rows"]
        write(self.audio[track], self.shapes.audio[track], row, made["keys"], made["values"])
        self.rows[track] += 1

    def step(self, sampling: Sampling) -> tuple[Floats, Floats]:
        """Motion (B, D) and guided logits (B, L * d)."""
        config, frame, shapes = self.config, self.frame, self.shapes
        window, audio_window = config.generator.window_frames, config.generator.audio_window_frames
        first_row = max(0, frame - audio_window + 1)
        ahead = sampling.look_ahead
        made = self._run(
            "step",
            bits=self.bits,
            first=np.full(self.batch, frame == 0, np.int64),
            **{f"look_ahead_{track}": np.full(self.batch, ahead[track], np.int64) for track in TRACKS},
            **self._angles(frame),
            style_ring=self.style,
            past_rings=self.past,
            **{f"audio_{track}_ring": self.audio[track] for track in TRACKS},
            past_mask=self._mask(shapes.past, max(0, frame - window + 1), frame),
            **{
                f"audio_{track}_mask": self._mask(shapes.audio[track], first_row, frame + ahead[track] + 1)
                for track in TRACKS
            },
            cfg_scale=np.full(self.batch, sampling.cfg_scale, np.float32),
            thresholds=self._thresholds(sampling),
        )
        guided = sampling.cfg_scale != 1.0
        for row in range(1 + guided):
            write(self.past[:, row], shapes.past, frame, made["keys"][:, row], made["values"][:, row])
        self.bits = made["next_bits"]
        codec = self.config.codec
        decoded = self._run(
            "decode",
            bits=self.bits,
            history=self.decoder.reshape(self.batch, -1),
            **self._taps(frame, codec.kernel, codec.kernel),
        )
        self.decoder[:, :, frame % codec.kernel] = decoded["rows"]
        self.frame += 1
        return decoded["motion"], made["logits"]

    def generate(self, rows: Mapping[str, Floats], sampling: Sampling) -> dict[str, Floats]:
        """rows (B, T + look-ahead, 256) by track -> motion (B, T, D), logits and bits (B, T, L * d)."""
        steps: list[tuple[Floats, Floats, Floats]] = []
        for frame in range(rows["self"].shape[1] - sampling.look_ahead_self):
            for track in TRACKS:
                while self.rows[track] < frame + 1 + sampling.look_ahead[track]:
                    self.push_row(track, rows[track][:, self.rows[track]])
            steps.append((*self.step(sampling), self.bits))
        return {
            name: np.stack(parts, axis=1)
            for name, parts in zip(("motion", "logits", "bits"), zip(*steps, strict=True), strict=True)
        }

    def _run(self, graph: str, **inputs: npt.NDArray[Any]) -> dict[str, Floats]:
        session = self._graphs[graph]
        names = [port.name for port in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    def _write_style(self, styles: Sequence[Floats | None]) -> None:
        with torch.inference_mode():
            for b, clip in enumerate(styles):
                state = self.model.init_state(1, None if clip is None else torch.from_numpy(clip))
                parts = state.generator.style[:, :, 0].numpy()  # (layers, 2, S, W)
                for j in range(parts.shape[2]):
                    write(self.style[b : b + 1], self.shapes.style, j, parts[None, :, 0, j], parts[None, :, 1, j])

    def _angles(self, position: int) -> dict[str, Floats]:
        generator = self.config.generator
        table = rope_table(torch.tensor([position]), generator.width // generator.heads).numpy()
        both = {"cosines": table.real, "sines": table.imag}
        return {name: np.repeat(part, self.batch, axis=0).astype(np.float32) for name, part in both.items()}

    def _taps(self, position: int, kernel: int, slots: int) -> dict[str, npt.NDArray[Any]]:
        rows = np.arange(position - kernel + 1, position + 1)
        there = (rows >= 0) & (rows < position)
        return {
            "slots": np.tile(np.where(there, rows % slots, 0), (self.batch, 1)),
            "mask": np.tile(there.astype(np.float32), (self.batch, 1)),
        }

    def _mask(self, shape: RingShape, begin: int, end: int) -> Floats:
        mask = np.full((self.batch, shape.slots), MASKED, np.float32)
        mask[:, np.arange(begin, end) % shape.slots] = 0.0
        return mask

    def _thresholds(self, sampling: Sampling) -> Floats:
        """The logit above which a bit is 1, within rounding: the engine's own are exact."""
        codec = self.config.codec
        if sampling.temperature == 0.0:
            return np.zeros((self.batch, codec.levels * codec.bits), np.float32)
        u = np.concatenate(
            [uniforms(self.seeds, self.frame, level, codec.bits) for level in range(codec.levels)], axis=1
        ).astype(np.float64)
        p = np.clip(u, 1.0 - sampling.top_p, sampling.top_p)
        with np.errstate(divide="ignore"):
            return (sampling.temperature * (np.log(p) - np.log1p(-p))).astype(np.float32)


def write(ring: Floats, shape: RingShape, position: int, keys: Floats, values: Floats) -> None:
    """ring (B, floats), changed in place; keys and values (B, layers, W)."""
    batch, slot = len(ring), position % shape.slots
    heads = ring.reshape(batch, shape.layers, shape.heads, shape.head_floats)
    parts = (batch, shape.layers, shape.heads, shape.head_width)
    heads[..., slot : shape.key_floats : shape.slots] = keys.reshape(parts)
    begin = shape.key_floats + slot * shape.stride
    heads[..., begin : begin + shape.head_width] = values.reshape(parts)
