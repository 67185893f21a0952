"""The generator: motion tokens of the past and both tracks' audio in, logits of the next frame's bits out.

Shapes: B clips, T frames, J audio rows, W width, H heads, e head width, S style tokens, d bits a level, L levels,
A audio-encoder width. "cond" is the conditional row, "uncond" the one without audio.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from unils_training.config import AudioEncoderConfig, CodecConfig, GeneratorConfig, LookAheadConfig
from unils_training.models.layers import NORM_EPS, gelu, rope, rope_table

MASKED = -1e30

HEARD: dict[str, dict[str, tuple[str, ...]]] = {
    "separate": {"self": ("self",), "other": ("other",)},
    "mixed": {"mixed": ("self", "other")},
}
"""Cross-attentions of a block, and the tracks that each one hears, by `GeneratorConfig.cross_attention`."""

FIRST_LOOK = {"self": (1, 0, -1, -3), "other": (0, -2, -6, -12), "mixed": (1, 0, -1, -2, -3, -6, -12)}
"""Where the heads of a cross-attention look at first: audio rows from the frame."""


@dataclasses.dataclass
class AudioContext:
    """Encoded audio of a batch of clips.

    `features` (B, J, A), row j for frame j of the clip; `look_ahead` (B,) int64 frames that each clip may see.
    """

    features: Tensor
    look_ahead: Tensor


class SelfAttention(nn.Module):
    """Attention over a sliding window of past frames with the style prefix in front.

    Prefix scores use neither side's rotation: the prefix has no place in time.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.output = nn.Linear(config.width, config.width)

    def forward(self, h: Tensor, prefix: Tensor, table: Tensor, mask: Tensor) -> Tensor:
        """h (B, T, W) and prefix (B, S, W), both normalised; mask (T, S + T) to be added to the scores."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(h).chunk(3, dim=-1))
        _, prefix_k, prefix_v = (split_heads(part, self.heads) for part in self.qkv(prefix).chunk(3, dim=-1))
        # Twice as wide heads make both kinds of score come out of one product: [rotated | plain] against
        # [rotated | 0] for frames and [0 | plain] for the prefix.
        rotated_q, rotated_k = rope(q, table).to(q.dtype), rope(k, table).to(k.dtype)
        queries = torch.cat((rotated_q, q), dim=-1)
        keys = torch.cat(
            (functional.pad(prefix_k, (prefix_k.shape[-1], 0)), functional.pad(rotated_k, (0, k.shape[-1]))), dim=2
        )
        values = torch.cat((prefix_v, v), dim=2)
        return self.output(join_heads(attend(queries, keys, values, mask, q.shape[-1] ** -0.5)))

    def prefix_keys_values(self, prefix: Tensor) -> Tensor:
        """prefix (B, S, W), normalised -> (2, B, S, W), keys un-rotated."""
        _, k, v = self.qkv(prefix).chunk(3, dim=-1)
        return torch.stack((k, v))

    def step(self, h: Tensor, frame: int, prefix: Tensor, ring: Tensor) -> Tensor:
        """One frame: h (B, W), prefix (2, B, S, W), ring (2, B, window, W) of keys and values, changed in place."""
        window = ring.shape[2]
        q, k, v = self.qkv(h).chunk(3, dim=-1)
        table = rope_table(torch.tensor([frame], device=h.device), h.shape[-1] // self.heads)
        ring[0, :, frame % window] = _rope_row(k, self.heads, table)
        ring[1, :, frame % window] = v
        oldest_first = torch.arange(max(0, frame - window + 1), frame + 1, device=h.device) % window
        keys, values = ring[:, :, oldest_first]
        plain_q = split_heads(q[:, None], self.heads)
        rotated_q = rope(plain_q, table)
        scores = torch.cat(
            (
                plain_q @ split_heads(prefix[0], self.heads).transpose(-1, -2),
                rotated_q @ split_heads(keys, self.heads).transpose(-1, -2),
            ),
            dim=-1,
        )
        weights = (scores * plain_q.shape[-1] ** -0.5).softmax(dim=-1)
        out = weights @ split_heads(torch.cat((prefix[1], values), dim=1), self.heads)
        return self.output(join_heads(out)[:, 0])


class CrossAttention(nn.Module):
    """Attention of a frame over a sliding window of audio rows, up to the look-ahead; one track's, or both mixed."""

    def __init__(self, config: GeneratorConfig, audio_width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(audio_width, config.width)
        self.value = nn.Linear(audio_width, config.width)
        self.output = nn.Linear(config.width, config.width)

    def forward(self, h: Tensor, features: Tensor, query_table: Tensor, key_table: Tensor, mask: Tensor) -> Tensor:
        """h (B, T, W), features (B, J, A), mask (B, 1, T, J) to be added to the scores."""
        q = rope(split_heads(self.query(h), self.heads), query_table).to(h.dtype)
        k = rope(split_heads(self.key(features), self.heads), key_table).to(h.dtype)
        v = split_heads(self.value(features), self.heads).to(h.dtype)
        return self.output(join_heads(attend(q, k, v, mask, q.shape[-1] ** -0.5)))

    def push_row(self, features: Tensor, row: int, ring: Tensor) -> None:
        """Stores keys and values of one row: features (B, A), ring (2, B, capacity, W), changed in place."""
        slot = row % ring.shape[2]
        table = rope_table(torch.tensor([row], device=ring.device), ring.shape[-1] // self.heads)
        ring[0, :, slot] = _rope_row(self.key(features), self.heads, table)
        ring[1, :, slot] = self.value(features)

    def step(self, h: Tensor, frame: int, first_row: int, rings: Sequence[tuple[Tensor, int]]) -> Tensor:
        """One frame: h (B, W) over rows [first_row, end_row) of each ring; rings are (ring, end_row)."""
        seen = [
            ring[:, :, torch.arange(first_row, end_row, device=h.device) % ring.shape[2]] for ring, end_row in rings
        ]
        keys, values = torch.cat(seen, dim=2)
        q = split_heads(self.query(h)[:, None], self.heads)
        q = rope(q, rope_table(torch.tensor([frame], device=h.device), q.shape[-1]))
        scores = q @ split_heads(keys, self.heads).transpose(-1, -2)
        weights = (scores * q.shape[-1] ** -0.5).softmax(dim=-1)
        return self.output(join_heads(weights @ split_heads(values, self.heads))[:, 0])


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(gelu(self.up(x)))


class Block(nn.Module):
    """Self-attention, cross-attention to the audio, feed-forward; LayerNorm first, all residual.

    `cross_self` and `cross_other` where tracks are heard apart, one `cross_mixed` where they are mixed.
    """

    def __init__(self, config: GeneratorConfig, audio_width: int) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.self_attention = SelfAttention(config)
        for name in HEARD[config.cross_attention]:
            setattr(self, f"cross_{name}_norm", nn.LayerNorm(config.width, eps=NORM_EPS))
            setattr(self, f"cross_{name}", CrossAttention(config, audio_width))
        self.feed_forward_norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.feed_forward = FeedForward(config.width, config.feed_forward)

    def cross(self, name: str, x: Tensor) -> tuple[CrossAttention, Tensor]:
        """The cross-attention of that name and its normalised input (…, W)."""
        return getattr(self, f"cross_{name}"), getattr(self, f"cross_{name}_norm")(x)


class HeadLevel(nn.Module):
    """Logits of one level, given the frame's hidden row and the bits of the levels before."""

    def __init__(self, config: GeneratorConfig, bits: int, level: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(config.width, config.head_width)
        if level > 0:
            self.bits = nn.Linear(level * bits, config.head_width, bias=False)
        self.output = nn.Linear(config.head_width, bits)

    def forward(self, h: Tensor, signs: Tensor) -> Tensor:
        """h (…, W), signs (…, l*d) of +-1 -> (…, d)."""
        hidden = self.hidden(h)
        if signs.shape[-1]:
            hidden = hidden + self.bits(signs)
        return self.output(gelu(hidden))


class Style(nn.Module):
    """Pooled latents of a style clip -> style tokens."""

    def __init__(self, bits: int, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(bits, width)
        self.down = nn.Linear(width, width)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.down(gelu(self.up(pooled)))


@dataclasses.dataclass
class GeneratorState:
    """What a stream of B clips remembers; rows [0, B) of the self-attention ring are cond, [B, 2B) uncond.

    `style` (layers, 2, B, S, W), `self_ring` (layers, 2, 2B, window, W), `audio_rings[track]` (layers, 2, B, capacity,
    W), `rows[track]` audio rows pushed, `signs` (B, L*d) the last frame's bits as +-1, `frame` the next frame's index.
    """

    style: Tensor
    self_ring: Tensor
    audio_rings: dict[str, Tensor]
    rows: dict[str, int]
    signs: Tensor
    frame: int


class Generator(nn.Module):
    """docs/stream-model.md, "Generator". Without audio contexts it is the prior."""

    def __init__(
        self, config: GeneratorConfig, codec: CodecConfig, audio: AudioEncoderConfig, look_ahead_max: LookAheadConfig
    ) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.level_bits, self.levels = codec.bits, codec.levels
        self.look_ahead_max = {"self": look_ahead_max.self, "other": look_ahead_max.other}
        self.token = nn.Linear(codec.levels * codec.bits, width)
        self.start = nn.Parameter(torch.randn(width) * 0.5)
        self.look_ahead_self = nn.Embedding(look_ahead_max.self + 1, width)
        self.look_ahead_other = nn.Embedding(look_ahead_max.other + 1, width)
        self.style_null = nn.Parameter(torch.randn(config.style_tokens, width) * 0.5)
        self.style = Style(codec.bits, width)
        self.blocks = nn.ModuleList(Block(config, audio.width) for _ in range(config.depth))
        self.heard = HEARD[config.cross_attention]
        if config.cross_attention == "mixed":
            # The only way for a mixed attention to know whose voice a row is.
            self.cross_track_self = nn.Parameter(torch.randn(audio.width) * 0.5)
            self.cross_track_other = nn.Parameter(torch.randn(audio.width) * 0.5)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.head = nn.ModuleList(HeadLevel(config, codec.bits, level) for level in range(codec.levels))
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.look_ahead_self.weight, std=0.02)
        nn.init.normal_(self.look_ahead_other.weight, std=0.02)
        scale = (4 * self.config.depth) ** -0.5
        for block in self.blocks:
            for output in (block.self_attention.output, block.feed_forward.down):
                output.weight.data.mul_(scale)
            for name in self.heard:
                cross = getattr(block, f"cross_{name}")
                cross.output.weight.data.mul_(scale)
                _look_near(cross, FIRST_LOOK[name])

    def style_tokens(self, latents: Tensor) -> Tensor:
        """Quantised latents of a style clip (B, n, d) -> (B, S, W)."""
        pooled = functional.adaptive_avg_pool1d(latents.transpose(1, 2), self.config.style_tokens).transpose(1, 2)
        return self.style(pooled)

    def null_style(self, batch: int) -> Tensor:
        """The style tokens of "no style", (B, S, W)."""
        return self.style_null.expand(batch, -1, -1)

    def forward(
        self,
        signs: Tensor,
        style: Tensor,
        audio: dict[str, AudioContext] | None = None,
        conditional: Tensor | None = None,
    ) -> Tensor:
        """The parallel form, from frame 0 of each clip.

        Args:
            signs: (B, T, L*d) of +-1, the bits of frames 0..T-1; frame t is made from those of frame t-1, and the last
                row is not used.
            style: (B, S, W).
            audio: contexts by track, "self" and "other"; None is the prior.
            conditional: (B,) bool, which clips hear the audio; None is all of them.

        Returns:
            h (B, T, W), what the depth head reads.
        """
        batch, frames, _ = signs.shape
        tokens = self.token(signs[:, :-1])
        x = torch.cat((self.start.to(tokens.dtype).expand(batch, 1, -1), tokens), dim=1)
        table = self._rope_table(frames, x.device)
        self_mask = _window_mask(frames, frames, self.config.window_frames, x.new_zeros(1), x.dtype)[0, 0]
        self_mask = functional.pad(self_mask, (style.shape[1], 0))
        heard = []
        if audio is not None:
            gate = x.new_ones(batch, 1, 1) if conditional is None else conditional.to(x.dtype)[:, None, None]
            for track, context in audio.items():
                x = x + gate * getattr(self, f"look_ahead_{track}")(context.look_ahead)[:, None]
            for name, tracks in self.heard.items():
                features, key_tables, masks = [], [], []
                for track in tracks:
                    context = audio[track]
                    rows = context.features.shape[1]
                    features.append(self._of_track(track, context.features))
                    key_tables.append(self._rope_table(rows, x.device))
                    masks.append(
                        _window_mask(frames, rows, self.config.audio_window_frames, context.look_ahead, x.dtype)
                    )
                heard.append((name, torch.cat(features, dim=1), torch.cat(key_tables), torch.cat(masks, dim=-1)))
        for block in self.blocks:
            x = x + block.self_attention(block.self_norm(x), block.self_norm(style), table, self_mask)
            for name, rows_heard, key_table, mask in heard:
                cross, normed = block.cross(name, x)
                x = x + gate * cross(normed, rows_heard, table, key_table, mask)
            x = x + block.feed_forward(block.feed_forward_norm(x))
        return self.norm(x)

    def _rope_table(self, positions: int, device: torch.device) -> Tensor:
        return rope_table(torch.arange(positions, device=device), self.config.width // self.config.heads)

    def logits(self, h: Tensor, signs: Tensor) -> Tensor:
        """The depth head under teacher forcing: h (…, W), signs (…, L*d) of the same frames -> (…, L, d)."""
        levels = [head(h, signs[..., : level * self.level_bits]) for level, head in enumerate(self.head)]
        return torch.stack(levels, dim=-2)

    def init_state(self, style: Tensor) -> GeneratorState:
        """A fresh stream for style tokens (B, S, W)."""
        batch, depth, width = style.shape[0], self.config.depth, self.config.width
        return GeneratorState(
            style=torch.stack([b.self_attention.prefix_keys_values(b.self_norm(style)) for b in self.blocks]),
            self_ring=style.new_zeros(depth, 2, 2 * batch, self.config.window_frames, width),
            audio_rings={
                track: style.new_zeros(depth, 2, batch, self.config.audio_window_frames + most, width)
                for track, most in self.look_ahead_max.items()
            },
            rows={"self": 0, "other": 0},
            signs=style.new_zeros(batch, self.levels * self.level_bits),
            frame=0,
        )

    def push_row(self, state: GeneratorState, track: str, features: Tensor) -> None:
        """Appends one encoded audio row (B, A) of a track."""
        features = self._of_track(track, features)
        name = next(name for name, tracks in self.heard.items() if track in tracks)
        for block, ring in zip(self.blocks, state.audio_rings[track], strict=True):
            getattr(block, f"cross_{name}").push_row(features, state.rows[track], ring)
        state.rows[track] += 1

    def _of_track(self, track: str, features: Tensor) -> Tensor:
        """Features (…, A) as a cross-attention reads them: with the track's vector where tracks are mixed."""
        return features + getattr(self, f"cross_track_{track}") if "mixed" in self.heard else features

    def step(self, state: GeneratorState, look_ahead: dict[str, int], guided: bool) -> Tensor:
        """The hidden rows of the next frame: (B, W), or (2B, W) with the unconditional ones behind when `guided`.

        The audio rows pushed must be exactly those the frame may see. `finish_step` ends the frame.
        """
        batch = state.signs.shape[0]
        for track, ahead in look_ahead.items():
            if state.rows[track] != state.frame + 1 + ahead:
                needed = state.frame + 1 + ahead
                raise ValueError(f"frame {state.frame} needs {needed} audio rows of {track}, not {state.rows[track]}")
        token = self.start.expand(batch, -1) if state.frame == 0 else self.token(state.signs)
        x = token + sum(getattr(self, f"look_ahead_{track}").weight[ahead] for track, ahead in look_ahead.items())
        if guided:
            x = torch.cat((x, token))
        count = x.shape[0]
        first_row = max(0, state.frame - self.config.audio_window_frames + 1)
        for layer, block in enumerate(self.blocks):
            prefix = state.style[layer].repeat(1, count // batch, 1, 1)
            ring = state.self_ring[layer, :, :count]
            x = x + block.self_attention.step(block.self_norm(x), state.frame, prefix, ring)
            for name, tracks in self.heard.items():
                cross, normed = block.cross(name, x[:batch])
                rings = [(state.audio_rings[track][layer], state.rows[track]) for track in tracks]
                cond = x[:batch] + cross.step(normed, state.frame, first_row, rings)
                x = torch.cat((cond, x[batch:]))
            x = x + block.feed_forward(block.feed_forward_norm(x))
        return self.norm(x)

    def finish_step(self, state: GeneratorState, signs: Tensor) -> None:
        """Remembers the frame's bits (B, L*d) as +-1 and goes on to the next frame."""
        state.signs.copy_(signs)
        state.frame += 1


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, n, W) -> (B, H, n, e)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, H, n, e) -> (B, n, W)."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """softmax(q k^T scale + mask) v."""
    return ((q @ k.transpose(-1, -2)) * scale + mask).softmax(dim=-1).to(v.dtype) @ v


def _rope_row(x: Tensor, heads: int, table: Tensor) -> Tensor:
    """Rotates one row of every clip: (B, W) -> (B, W)."""
    return join_heads(rope(split_heads(x[:, None], heads), table))[:, 0]


def _window_mask(frames: int, rows: int, window: int, look_ahead: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where frame t may see row j in (t - window, t + look-ahead (B,)], else hugely negative; (B, 1, T, J)."""
    row, frame = (torch.arange(n, device=look_ahead.device) for n in (rows, frames))
    offset = row[None, :] - frame[:, None]
    seen = (offset > -window)[None] & (offset[None] <= look_ahead[:, None, None])
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, MASKED)[:, None]


def _look_near(cross: CrossAttention, offsets: tuple[int, ...], sharpness: float = 4.0) -> None:
    """Starts head i looking at rows `offsets[i]` from its frame; heads beyond stay without preference.

    A constant key turned against a constant query peaks where RoPE undoes the turn. The slow pairs hardly turn and
    say nothing about near offsets, so only the fast ones are used.
    """
    nn.init.normal_(cross.query.weight, std=0.02)
    nn.init.normal_(cross.key.weight, std=0.02)
    width = cross.query.bias.shape[0] // cross.heads
    pairs = min(width // 2, 6)
    amplitude = (sharpness * width**0.5 / pairs) ** 0.5
    query = torch.zeros(cross.heads, width)
    key = torch.zeros(cross.heads, width)
    for head, offset in enumerate(offsets[: cross.heads]):
        turned = rope_table(torch.tensor([-offset]), width)[0, :pairs] * amplitude
        query[head, : 2 * pairs : 2] = amplitude
        key[head, : 2 * pairs] = torch.view_as_real(turned).flatten()
    with torch.no_grad():
        cross.query.bias.copy_(query.flatten())
        cross.key.bias.copy_(key.flatten())
