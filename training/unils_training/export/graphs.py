"""The graphs of a bundle of family `published`, laid out so that little is copied while they run.

The same numbers as the modules of `models.published` (docs/published-model.md), up to the order of sums. Shapes: T
tracks, B clips, R rows of a batch, F frames of a window, S samples of it, D channels, d bits a token, n tokens of a
scale, m cached tokens, W width, h heads, e head width, G = R h, A audio width, J audio rows, K blocks, C contexts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from unils_training.models.published.attention import rope_table
from unils_training.models.published.audio_encoder import AudioEncoder
from unils_training.models.published.codec import Codec
from unils_training.models.published.generator import Block, Generator, audio_positions


class FrontEnd(nn.Module):
    """The convolutions of a wav2vec2 encoder with a LayerNorm behind each: waveform (T, S) -> (T, J, c).

    Channels last: each is one product with a matrix, and nothing is transposed.
    """

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers
        # (out, in, taps) -> (out, taps * in), as `forward` lays the taps of a row side by side.
        self.matrices = nn.ParameterList(layer.conv.weight.detach().transpose(1, 2).flatten(1) for layer in layers)

    def forward(self, waveform: Tensor) -> Tensor:
        x = waveform.unsqueeze(-1)
        for layer, matrix in zip(self.layers, self.matrices, strict=True):
            (taps,), (stride,) = layer.conv.kernel_size, layer.conv.stride
            last = (x.shape[1] - taps) // stride * stride
            rows = torch.cat([x[:, tap : tap + last + 1 : stride] for tap in range(taps)], dim=-1)
            x = layer.activation(layer.layer_norm(functional.linear(rows, matrix, layer.conv.bias)))
        return x


class AudioGraph(nn.Module):
    """waveform (T, S), of zero mean and unit deviation -> features (T, J, A)."""

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.wav2vec = encoder.wav2vec
        # The base form of wav2vec2 has one GroupNorm instead: over time, so it stays as it is.
        layered = self.wav2vec.config.feat_extract_norm == "layer"
        self.front = FrontEnd(self.wav2vec.feature_extractor.conv_layers) if layered else None

    def forward(self, waveform: Tensor) -> Tensor:
        extracted = (
            self.wav2vec.feature_extractor(waveform).transpose(1, 2) if self.front is None else self.front(waveform)
        )
        features: Tensor = self.wav2vec.encoder(self.wav2vec.feature_projection(extracted)[0]).last_hidden_state
        return features


class BlockGraph(nn.Module):
    """A block of the generator over tokens x (n, R, W): tokens first, as in the caches.

    RoPE turns pairs of numbers that lie side by side in a head of the model. Here the rows of the weights are laid so
    that a head holds the first numbers of all pairs, then the second ones, and queries are scaled already.
    """

    def __init__(self, block: Block, heads: int) -> None:
        super().__init__()
        self.block, self.heads = block, heads
        q, k, v = block.self_attn.to_qkv.weight.chunk(3)
        self.scale = (len(q) // heads) ** -0.5
        self.qkv = _linear(torch.cat((self._parted(q) * self.scale, self._parted(k), v)))
        self.q = nn.ModuleList(
            _linear(self._parted(cross.q_proj.weight) * self.scale, self._parted(cross.q_proj.bias) * self.scale)
            for cross in block.crosses()
        )
        self.kv = nn.ModuleList(
            _linear(
                torch.cat((self._parted(cross.k_proj.weight), cross.v_proj.weight)),
                torch.cat((self._parted(cross.k_proj.bias), cross.v_proj.bias)),
            )
            for cross in block.crosses()
        )

    def _parted(self, rows: Tensor) -> Tensor:
        return rows.unflatten(0, (self.heads, -1, 2)).transpose(1, 2).flatten(0, 2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))

    def hear(self, context: int, features: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (R, h, J, e) of one context's features (R, J, A); table (2, J, e/2)."""
        normal = self.block.crosses()[context].context_norm(features)
        keys, values = (self._split(part) for part in self.kv[context](normal).chunk(2, dim=-1))
        return _turn(keys, table.unsqueeze(2)).transpose(1, 2), values.transpose(1, 2)

    def project(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (n, R, W), table (2, n, e/2) -> queries, keys and values (n, G, e)."""
        table = table[:, :, None, None]
        q, k, v = (self._split(part) for part in self.qkv(self.block.self_attn.norm(x)).chunk(3, dim=-1))
        return _turn(q, table).flatten(1, 2), _turn(k, table).flatten(1, 2), v.flatten(1, 2)

    def forward(
        self, x: Tensor, q: Tensor, keys: Tensor, values: Tensor, table: Tensor, audio: Sequence[Tensor]
    ) -> Tensor:
        """x (n, R, W), queries (n, G, e), all keys and values (m, G, e); audio: keys and values (R, h, J, e) of each
        context, in turn -> x (n, R, W)."""
        x = x + self.block.self_attn.to_out(self._attend(q, keys.permute(1, 2, 0), values.transpose(0, 1)))
        for i, cross in enumerate(self.block.crosses()):
            q = _turn(self._split(self.q[i](cross.self_norm(x))), table[:, :, None, None]).flatten(1, 2)
            x = x + cross.out_proj(
                self._attend(q, audio[2 * i].flatten(0, 1).transpose(1, 2), audio[2 * i + 1].flatten(0, 1))
            )
        return x + self.block.ffn(x)

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """q (n, G, e), keys (G, e, m), values (G, m, e) -> (n, R, W)."""
        heard = torch.softmax(q.transpose(0, 1) @ keys, dim=-1) @ values
        return heard.transpose(0, 1).unflatten(1, (-1, self.heads)).flatten(2)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach())
    return layer


def _turn(x: Tensor, table: Tensor) -> Tensor:
    """x (..., e), of parted pairs; table (2, ..., e/2)."""
    cos, sin = table.unbind(0)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def generator_blocks(generator: Generator) -> nn.ModuleList:
    """The blocks that `PrefillGraph` and `StepGraph` share."""
    return nn.ModuleList(BlockGraph(block, generator.config.heads) for block in generator.attn_blocks.attn_blocks)


class PrefillGraph(nn.Module):
    """style, previous (R, F, d), self_features, other_features (R, J, A) -> cache (2F, K, 2, R, h, e), then K C 2 times
    (R, h, J, e): keys and values of audio."""

    prefix_table: Tensor
    audio_table: Tensor

    def __init__(self, generator: Generator, blocks: nn.ModuleList, rows: int) -> None:
        super().__init__()
        self.generator, self.blocks = generator, blocks
        frames = generator.config.window_frames
        # Constants of the graph, computed in double.
        table = rope_table(audio_positions(rows, frames), generator.head_width)
        self.mixed = generator.config.cross_attention == "mixed"
        self.register_buffer("audio_table", table.repeat(1, 2, 1) if self.mixed else table, persistent=False)
        table = rope_table(torch.arange(2 * frames), generator.head_width)
        self.register_buffer("prefix_table", table, persistent=False)

    def forward(
        self, style: Tensor, previous: Tensor, self_features: Tensor, other_features: Tensor
    ) -> tuple[Tensor, ...]:
        generator, vectors = self.generator, self.generator.attn_blocks
        contexts = [self_features + vectors.self_pos, other_features + vectors.other_pos]
        if self.mixed:
            contexts = [torch.cat(contexts, dim=1)]
        # (R, F, d) -> (F, R, W), of style and of the window before, one behind the other.
        latents = ((style, vectors.style_pos), (previous, vectors.prev_pos))
        x = torch.cat([generator.code_token_embed(latent.transpose(0, 1)) + vector for latent, vector in latents])
        cached, audio = [], []
        for i, block in enumerate(self.blocks):
            heard = [part for c, features in enumerate(contexts) for part in block.hear(c, features, self.audio_table)]
            q, k, v = block.project(x, self.prefix_table)
            cached += [k, v]
            audio += heard
            # Nothing reads the last block's prefix rows, only its keys and values.
            if i + 1 < len(self.blocks):
                x = block(x, q, k, v, self.prefix_table, heard)
        return _stacked(cached, generator.config.heads), *audio


class StepGraph(nn.Module):
    """One scale: latents (R, n, d), level (1,) int64, rope (2, n, e/2), cache (m, K, 2, R, h, e), keys and values of
    audio as above -> logits (R, n, d, 2) and added (n, K, 2, R, h, e). Level 0 does not read latents."""

    def __init__(self, generator: Generator, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.generator, self.blocks = generator, blocks

    def forward(
        self, latents: Tensor, level: Tensor, rope: Tensor, cache: Tensor, *audio: Tensor
    ) -> tuple[Tensor, Tensor]:
        generator = self.generator
        tokens = generator.code_token_embed(latents.transpose(0, 1))
        x = torch.where(level == 0, generator.sos_embed.expand_as(tokens), tokens)
        x = x + generator.attn_blocks.lvl_embed(level)
        past = cache.flatten(3, 4).flatten(1, 2).unbind(1)
        added: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            q, k, v = block.project(x, rope)
            added += [k, v]
            keys, values = torch.cat((past[2 * i], k)), torch.cat((past[2 * i + 1], v))
            each = len(audio) // len(self.blocks)
            x = block(x, q, keys, values, rope, audio[each * i : each * (i + 1)])
        logits = generator.logits_head(x).transpose(0, 1).unflatten(-1, (-1, 2))
        return logits, _stacked(added, generator.config.heads)


def _stacked(parts: list[Tensor], heads: int) -> Tensor:
    """Keys and values of each block in turn, (n, G, e) each -> (n, K, 2, R, h, e)."""
    return torch.stack(parts, dim=1).unflatten(2, (-1, heads)).unflatten(1, (-1, 2))


class EncodeGraph(nn.Module):
    """motion (B, F, D), normalised -> z (B, F, d), to be quantised."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.encoder = codec.encoder

    def forward(self, motion: Tensor) -> Tensor:
        z: Tensor = self.encoder(motion)
        return z


class DecodeGraph(nn.Module):
    """latent (B, F, d) -> motion (B, F, D), normalised."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.decoder = codec.decoder

    def forward(self, latent: Tensor) -> Tensor:
        motion: Tensor = self.decoder(latent)
        return motion
