"""`StreamModel.step` as PyTorch likes it best: every shape fixed and every position on the device, so that eager mode
never waits for the host, `torch.compile` compiles one graph, and a CUDA graph can replay it.

tests/training/test_gpu_bench.py holds it to `StreamModel` itself. Greedy, so that no random numbers are made on the
host. Shapes: B sessions, W width, e head width, S style tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unils_training.models.layers import ROPE_BASE
from unils_training.models.stream.generator import join_heads, split_heads
from unils_training.models.stream.model import TRACKS, StreamModel


class TorchStep(nn.Module):
    """B sessions of one model, all at the same frame. `forward` hears one row a track and makes one frame."""

    def __init__(self, model: StreamModel, batch: int, cfg_scale: float, look_ahead: dict[str, int]) -> None:
        super().__init__()
        self.model, self.batch, self.cfg_scale, self.look_ahead = model, batch, cfg_scale, look_ahead
        generator = model.generator
        self.rows = 2 * batch if cfg_scale != 1.0 else batch
        self.heads = generator.config.heads
        self.head_width = generator.config.width // self.heads
        state = model.init_state(batch)
        self.register_buffer("style", state.generator.style.repeat(1, 1, self.rows // batch, 1, 1))
        self.register_buffer("self_ring", state.generator.self_ring[:, :, : self.rows].clone())
        self.register_buffer("signs", state.generator.signs)
        self.register_buffer("decoder_history", state.decoder_history)
        for track in TRACKS:
            self.register_buffer(f"ring_{track}", state.generator.audio_rings[track])
            self.register_buffer(f"history_{track}", state.encoder_histories[track])
        device = state.generator.signs.device
        pairs = torch.arange(0, self.head_width, 2, dtype=torch.float64, device=device)
        self.register_buffer("frequencies", ROPE_BASE ** (-pairs / self.head_width))
        self.register_buffer("frame", torch.zeros((), dtype=torch.int64, device=device))

    def reset(self) -> None:
        """Back to frame 0, in place."""
        for name, buffer in self.named_buffers(recurse=False):
            if name not in ("style", "frequencies"):
                buffer.zero_()

    def prime(self, rows: Tensor, track: str) -> None:
        """Hears the rows (B, look-ahead, 256) that frame 0 sees beyond its own."""
        for position in range(self.look_ahead[track]):
            self.hear(track, rows[:, position], torch.tensor(position, device=rows.device))

    def hear(self, track: str, row: Tensor, position: Tensor) -> None:
        """Appends a log-mel row (B, 256) as row `position` of a track."""
        features = self.model.audio_encoder.step(row, getattr(self, f"history_{track}"))
        ring = getattr(self, f"ring_{track}")
        slot = (position % ring.shape[3])[None]
        for layer, block in zip(ring, self.model.generator.blocks, strict=True):
            cross = getattr(block, f"cross_{track}")
            layer[0].index_copy_(1, slot, self._rotated(cross.key(features)[:, None], position))
            layer[1].index_copy_(1, slot, cross.value(features)[:, None])

    def forward(self, rows: Tensor) -> Tensor:
        """rows (2, B, 256), by track, of frame + look-ahead -> motion (B, D)."""
        generator, frame = self.model.generator, self.frame
        for track, row in zip(TRACKS, rows, strict=True):
            self.hear(track, row, frame + self.look_ahead[track])
        token = torch.where(frame == 0, generator.start, generator.token(self.signs))
        x = token
        for track in TRACKS:
            x = x + getattr(generator, f"look_ahead_{track}").weight[self.look_ahead[track]]
        if self.rows > self.batch:
            x = torch.cat((x, token))
        for layer, block in enumerate(generator.blocks):
            x = x + self._self_attention(block, layer, x)
            cond = x[: self.batch]
            for track in TRACKS:
                cond = cond + self._cross_attention(block, track, layer, cond)
            x = torch.cat((cond, x[self.batch :]))
            x = x + block.feed_forward(block.feed_forward_norm(x))
        motion = self._sampled(generator.norm(x))
        frame.add_(1)
        return motion

    def _self_attention(self, block: nn.Module, layer: int, x: Tensor) -> Tensor:
        attention, frame = block.self_attention, self.frame
        q, k, v = attention.qkv(block.self_norm(x))[:, None].chunk(3, dim=-1)
        keys, values = self.self_ring[layer]
        window = keys.shape[1]
        slot = (frame % window)[None]
        keys.index_copy_(1, slot, self._rotated(k, frame))
        values.index_copy_(1, slot, v)
        prefix_keys, prefix_values = self.style[layer]
        scores = torch.cat(
            (
                self._scores(q, prefix_keys),
                self._scores(self._rotated(q, frame), keys) + self._mask(window, frame, frame - window + 1),
            ),
            dim=-1,
        )
        weights = scores.softmax(dim=-1)
        out = weights @ split_heads(torch.cat((prefix_values, values), dim=1), self.heads)
        return attention.output(join_heads(out)[:, 0])

    def _cross_attention(self, block: nn.Module, track: str, layer: int, x: Tensor) -> Tensor:
        cross, normed = block.cross(track, x)
        keys, values = getattr(self, f"ring_{track}")[layer]
        newest = self.frame + self.look_ahead[track]
        oldest = self.frame - self.model.generator.config.audio_window_frames + 1
        scores = self._scores(self._rotated(cross.query(normed)[:, None], self.frame), keys)
        weights = (scores + self._mask(keys.shape[1], newest, oldest)).softmax(dim=-1)
        return cross.output(join_heads(weights @ split_heads(values, self.heads))[:, 0])

    def _sampled(self, h: Tensor) -> Tensor:
        codec, signs, bits = self.model.codec, self.signs[:, :0], []
        for head in self.model.generator.head:
            logits = head(h, signs.repeat(self.rows // self.batch, 1))
            if self.rows > self.batch:
                logits = self.cfg_scale * logits[: self.batch] + (1.0 - self.cfg_scale) * logits[self.batch :]
            bits.append(logits > 0)
            signs = torch.cat((signs, bits[-1].to(h.dtype) * 2.0 - 1.0), dim=-1)
        self.signs.copy_(signs)
        return codec.decode_step(codec.latent(torch.stack(bits, dim=-2)), self.decoder_history)

    def _scores(self, q: Tensor, keys: Tensor) -> Tensor:
        """q (B, 1, W), keys (B, n, W) -> (B, H, 1, n)."""
        product = split_heads(q, self.heads) @ split_heads(keys, self.heads).transpose(-1, -2)
        return product * self.head_width**-0.5

    def _rotated(self, x: Tensor, position: Tensor) -> Tensor:
        """RoPE of (B, 1, W) at one position, without complex numbers: no compiler fuses them."""
        angles = position.to(torch.float64) * self.frequencies
        cos, sin = angles.cos().float(), angles.sin().float()
        even, odd = x.unflatten(-1, (self.heads, -1, 2)).unbind(-1)
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-3)

    def _mask(self, capacity: int, newest: Tensor, oldest: Tensor) -> Tensor:
        """0 for the slots that hold rows max(0, oldest) to newest, minus infinity for the others."""
        slots = torch.arange(capacity, device=newest.device)
        rows = newest - (newest - slots) % capacity
        return torch.where((rows >= 0) & (rows >= oldest), 0.0, -torch.inf)


def compiled(step: TorchStep, rows: Tensor, backend: str = "inductor") -> Callable[[Tensor], Tensor]:
    """Under `torch.compile`; on a card inside a CUDA graph besides, which is captured by hand: `reduce-overhead` leaves
    it out, without a word, where a graph writes to its inputs as rings must be written. Back at frame 0 afterwards."""
    fast = torch.compile(step, fullgraph=True, dynamic=False, backend=backend)
    if rows.device.type != "cuda":
        fast(rows)
        step.reset()
        return fast
    still = rows.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            fast(still)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        motion = fast(still)
    step.reset()

    def replay(new: Tensor) -> Tensor:
        still.copy_(new, non_blocking=True)
        graph.replay()
        return motion

    return replay
