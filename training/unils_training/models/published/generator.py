"""The dual-track generator: style, previous window and audio in, logits of the bits of the next window out.

Without audio it is the prior of stage 1. Shapes: B clips, F frames of a window, P = 2 F prefix tokens (style,
previous), N current tokens of all scales, n those of one scale, W width, H heads, e head width, d bits a token, J audio
rows, A audio width, C audio contexts (own and other track; one when mixed), K blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unils_training.config import PublishedConfig
from unils_training.models.published.attention import SelfAttention, join_heads, rope, rope_table, split_heads

BLOCK_EPS = 1e-6
HEAD_EPS = 1e-5
OWN_OFFSETS = (0, 1, -1, -3)
OTHER_OFFSETS = (0, -2, -6, -12)
"""Where the first heads of an untrained cross-attention look, in frames from their token."""


class CrossAttention(nn.Module):
    """Attention of tokens over audio rows; both sides are normalised, q, k and v have biases."""

    def __init__(self, width: int, heads: int, audio_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(audio_width, width)
        self.v_proj = nn.Linear(audio_width, width)
        self.out_proj = nn.Linear(width, width)
        self.self_norm = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.context_norm = nn.LayerNorm(audio_width, eps=BLOCK_EPS)

    def keys_values(self, context: Tensor, table: Tensor) -> Tensor:
        """context (B, J, A) -> turned keys, and values, (2, B, H, J, e)."""
        context = self.context_norm(context)
        keys = rope(split_heads(self.k_proj(context), self.heads), table)
        return torch.stack((keys, split_heads(self.v_proj(context), self.heads)))

    def forward(self, x: Tensor, table: Tensor, keys_values: Tensor) -> Tensor:
        """x (B, n, W) -> (B, n, W), without the residual."""
        q = rope(split_heads(self.q_proj(self.self_norm(x)), self.heads), table)
        return self.out_proj(join_heads(functional.scaled_dot_product_attention(q, *keys_values.unbind(0))))


class Block(nn.Module):
    """Self-attention, cross-attention to each audio context, feed-forward; LayerNorm first, all residual."""

    def __init__(self, config: PublishedConfig, audio_width: int) -> None:
        super().__init__()
        width = config.width
        self.self_attn = SelfAttention(width, config.heads, BLOCK_EPS)
        if config.cross_attention == "mixed":
            self.audio_attn = CrossAttention(width, config.heads, audio_width)
        else:
            self.self_audio_attn = CrossAttention(width, config.heads, audio_width)
            self.other_audio_attn = CrossAttention(width, config.heads, audio_width)
        self.ffn = nn.Sequential(
            nn.LayerNorm(width, eps=BLOCK_EPS),
            nn.Linear(width, 4 * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * width, width),
        )

    def crosses(self) -> list[CrossAttention]:
        return [module for module in self.children() if isinstance(module, CrossAttention)]

    def finish(self, x: Tensor, table: Tensor, audio: Tensor | None) -> Tensor:
        """What follows self-attention: x (B, n, W), audio (C, 2, B, H, J, e)."""
        if audio is not None:
            for cross, keys_values in zip(self.crosses(), audio.unbind(0), strict=True):
                x = x + cross(x, table, keys_values)
        return x + self.ffn(x)


class Blocks(nn.Module):
    """The learned vectors and the blocks, under the names of the released checkpoint."""

    def __init__(self, config: PublishedConfig, audio_width: int) -> None:
        super().__init__()
        self.style_pos = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        self.prev_pos = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        self.self_pos = nn.Parameter(torch.randn(1, 1, audio_width) * 0.02)
        self.other_pos = nn.Parameter(torch.randn(1, 1, audio_width) * 0.02)
        self.attn_blocks = nn.ModuleList(Block(config, audio_width) for _ in range(config.depth))
        self.lvl_embed = nn.Embedding(len(config.codec.scales), config.width)
        nn.init.normal_(self.lvl_embed.weight, std=0.02)


class Generator(nn.Module):
    """docs/published-model.md, "Generator". Every method is a pure function of its tensors, of static shapes."""

    prefix_table: Tensor
    current_table: Tensor
    levels: Tensor
    mask: Tensor

    def __init__(self, config: PublishedConfig, audio_width: int) -> None:
        super().__init__()
        self.config, self.scales = config, config.codec.scales
        self.sos_embed = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        self.code_token_embed = nn.Linear(config.codec.bits, config.width)
        self.attn_blocks = Blocks(config, audio_width)
        self.logits_head = nn.Sequential(
            nn.LayerNorm(config.width, eps=HEAD_EPS), nn.Linear(config.width, 2 * config.codec.bits)
        )
        self._initialise()
        prefix = 2 * config.window_frames
        table = rope_table(torch.arange(prefix), self.head_width)
        self.register_buffer("prefix_table", table, persistent=False)
        table = rope_table(current_positions(self.scales, config.window_frames), self.head_width)
        self.register_buffer("current_table", table, persistent=False)
        levels = torch.tensor([level for level, n in enumerate(self.scales) for _ in range(n)])
        self.register_buffer("levels", levels, persistent=False)
        seen = functional.pad(levels[None, :] <= levels[:, None], (prefix, 0), value=True)
        self.register_buffer("mask", seen, persistent=False)

    @property
    def head_width(self) -> int:
        return self.config.width // self.config.heads

    def _initialise(self) -> None:
        scale = (4 * self.config.depth) ** -0.5
        for block in self.attn_blocks.attn_blocks:
            outputs = [block.self_attn.to_out, block.ffn[3], *(cross.out_proj for cross in block.crosses())]
            for output in outputs:
                output.weight.data.mul_(scale)
            for cross, offsets in zip(block.crosses(), (OWN_OFFSETS, OTHER_OFFSETS), strict=False):
                _look_near(cross, offsets)

    def audio(self, self_features: Tensor, other_features: Tensor) -> Tensor:
        """Features of both tracks, (B, J, A) each -> keys and values for `prefill` and `step`.

        Returns:
            (K, C, 2, B, H, J, e), keys turned; when mixed, C is 1 and the other track's J rows follow the own ones.
        """
        blocks = self.attn_blocks
        rows = self_features.shape[1]
        table = rope_table(audio_positions(rows, self.config.window_frames, self_features.device), self.head_width)
        contexts = [self_features + blocks.self_pos, other_features + blocks.other_pos]
        if self.config.cross_attention == "mixed":
            contexts, table = [torch.cat(contexts, dim=1)], table.repeat(1, 2, 1)
        return torch.stack(
            [
                torch.stack([cross.keys_values(x, table) for cross, x in zip(block.crosses(), contexts, strict=True)])
                for block in blocks.attn_blocks
            ]
        )

    def prefill(self, style: Tensor, previous: Tensor, audio: Tensor | None = None) -> Tensor:
        """Keys and values of the style and previous tokens, once a window.

        Args:
            style, previous: quantised latents, (B, F, d) each.
            audio: of `audio`; None is the prior.

        Returns:
            (K, 2, B, H, P, e), keys turned.
        """
        blocks = self.attn_blocks
        tokens = self.code_token_embed(torch.cat((style, previous), dim=1))
        frames = style.shape[1]
        x = torch.cat((tokens[:, :frames] + blocks.style_pos, tokens[:, frames:] + blocks.prev_pos), dim=1)
        caches = []
        # `unbind`, not indices: the gradient of each index would be a tensor of the whole.
        heard = [None] * len(blocks.attn_blocks) if audio is None else audio.unbind(0)
        for block, audio_layer in zip(blocks.attn_blocks, heard, strict=True):
            q, k, v = block.self_attn.project(x, self.prefix_table)
            caches.append(torch.stack((k, v)))
            # Nothing reads the last block's prefix rows, only its keys and values.
            if len(caches) < len(heard):
                x = x + block.self_attn.attend(q, k, v)
                x = block.finish(x, self.prefix_table, audio_layer)
        return torch.stack(caches)

    def step(
        self, tokens: Tensor, begin: int, cache: Tensor, audio: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One scale, or several under a mask, on top of what is cached.

        Args:
            tokens: (B, n, W), of `start` or `embed`.
            begin: index of the first of them among the N current tokens.
            cache: (K, 2, B, H, m, e), of `prefill` and of the scales before.
            mask: (n, m + n) true where a token sees; None is everything.

        Returns:
            Logits (B, n, d, 2), and the tokens' own keys and values (K, 2, B, H, n, e).
        """
        table = self.current_table[:, begin : begin + tokens.shape[1]]
        x, caches = tokens, []
        blocks = self.attn_blocks.attn_blocks
        heard = [None] * len(blocks) if audio is None else audio.unbind(0)
        for block, cached, audio_layer in zip(blocks, cache.unbind(0), heard, strict=True):
            q, k, v = block.self_attn.project(x, table)
            caches.append(torch.stack((k, v)))
            keys, values = (torch.cat(pair, dim=2) for pair in zip(cached.unbind(0), (k, v), strict=True))
            x = x + block.self_attn.attend(q, keys, values, mask)
            x = block.finish(x, table, audio_layer)
        return self.logits_head(x).unflatten(-1, (-1, 2)), torch.stack(caches)

    def start(self, batch: int) -> Tensor:
        """The tokens of the first scale, (B, n, W): the learned start token for each."""
        return self.sos_embed.expand(batch, self.scales[0], -1) + self.attn_blocks.lvl_embed.weight[0]

    def embed(self, latents: Tensor, level: int) -> Tensor:
        """The tokens of scale `level` > 0 from the latent of all scales before, averaged over its spans (B, n, d)."""
        return self.code_token_embed(latents) + self.attn_blocks.lvl_embed.weight[level]

    def forward(self, style: Tensor, previous: Tensor, inputs: Tensor, audio: Tensor | None = None) -> Tensor:
        """Teacher forcing: all scales of a window in one pass, each seeing itself and the coarser ones.

        Args:
            style, previous: quantised latents, (B, F, d) each.
            inputs: what `embed` reads, of every scale but the first, one after another: (B, N - n_0, d).
            audio: of `audio`; None is the prior.

        Returns:
            Logits (B, N, d, 2).
        """
        batch, first = inputs.shape[0], self.scales[0]
        levels = self.attn_blocks.lvl_embed(self.levels[first:])
        tokens = torch.cat((self.start(batch), self.code_token_embed(inputs) + levels), dim=1)
        return self.step(tokens, 0, self.prefill(style, previous, audio), audio, self.mask)[0]


def _look_near(cross: CrossAttention, offsets: tuple[int, ...], sharpness: float = 4.0) -> None:
    """Starts head i looking at audio `offsets[i]` frames from its token; heads beyond stay without preference.

    A constant key turned against a constant query peaks where RoPE undoes the turn. The slow pairs hardly turn and
    say nothing about near offsets, so only the fast ones are used.
    """
    nn.init.normal_(cross.q_proj.weight, std=0.02)
    nn.init.normal_(cross.k_proj.weight, std=0.02)
    width = cross.q_proj.bias.shape[0] // cross.heads
    pairs = min(width // 2, 6)
    amplitude = (sharpness * width**0.5 / pairs) ** 0.5
    query, key = torch.zeros(2, cross.heads, width).unbind(0)
    for head, offset in enumerate(offsets[: cross.heads]):
        cos, sin = rope_table(torch.tensor([-offset]), width)[:, 0, :pairs] * amplitude
        query[head, : 2 * pairs : 2] = amplitude
        key[head, : 2 * pairs] = torch.stack((cos, sin), dim=-1).flatten()
    with torch.no_grad():
        cross.q_proj.bias.copy_(query.flatten())
        cross.k_proj.bias.copy_(key.flatten())


def current_positions(scales: tuple[int, ...], frames: int) -> Tensor:
    """RoPE positions (N,) of the current tokens: behind the prefix, each at the rounded centre of its span."""
    centres = [torch.linspace(0, frames - 1, 2 * n + 1)[1::2].round().long() for n in scales]
    return torch.cat(centres) + 2 * frames


def audio_positions(rows: int, frames: int, device: torch.device | None = None) -> Tensor:
    """RoPE positions (J,) of audio rows: spread over the current window."""
    return torch.linspace(0, frames, rows + 1, device=device).floor().long()[:rows] + 2 * frames
