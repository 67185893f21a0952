"""Building blocks shared by the codec, the audio encoder and the generator.

Shapes: B clips, T frames, C channels, n positions, e head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-5
ROPE_BASE = 10000.0


def gelu(x: Tensor) -> Tensor:
    """The tanh form, everywhere."""
    return functional.gelu(x, approximate="tanh")


class CausalBlock(nn.Module):
    """Residual block: causal depthwise convolution over frames, LayerNorm, feed-forward. Same width in and out."""

    def __init__(self, width: int, kernel: int, expansion: int) -> None:
        super().__init__()
        self.conv = DepthwiseConv(width, kernel)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C); frames before the first are zero."""
        return x + self.down(gelu(self.up(self.norm(self.conv(x)))))

    def step(self, x: Tensor, history: Tensor) -> Tensor:
        """One frame: x (B, C), history (B, K-1, C) of the block's earlier inputs, changed in place."""
        window = torch.cat((history, x[:, None]), dim=1)
        history.copy_(window[:, 1:])
        conv = (window * self.conv.weight.t()).sum(dim=1) + self.conv.bias
        return x + self.down(gelu(self.up(self.norm(conv))))


class DepthwiseConv(nn.Module):
    """`sum_i weight[c, i] x[t - (K-1) + i, c] + bias[c]`."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, kernel).uniform_(-1.0, 1.0) * kernel**-0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        width, kernel = self.weight.shape
        padded = functional.pad(x.transpose(1, 2), (kernel - 1, 0))
        return functional.conv1d(padded, self.weight[:, None], self.bias, groups=width).transpose(1, 2)


class CausalStack(nn.Module):
    """`input` linear, causal blocks, `norm`: the trunk of the audio encoder and of both halves of the codec."""

    def __init__(self, inputs: int, width: int, depth: int, kernel: int, expansion: int) -> None:
        super().__init__()
        self.input = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(CausalBlock(width, kernel, expansion) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def trunk(self, x: Tensor) -> Tensor:
        """(B, T, inputs) -> (B, T, width)."""
        x = self.input(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def trunk_step(self, x: Tensor, history: Tensor) -> Tensor:
        """One frame: x (B, inputs) -> (B, width). history (depth, B, K-1, width), changed in place."""
        x = self.input(x)
        for block, block_history in zip(self.blocks, history, strict=True):
            x = block.step(x, block_history)
        return self.norm(x)

    def history(self, batch: int) -> Tensor:
        """The state of a fresh stream: zeros (depth, batch, K-1, width)."""
        weight = self.blocks[0].conv.weight
        width, kernel = weight.shape
        return torch.zeros(len(self.blocks), batch, kernel - 1, width, device=weight.device)


def rope_table(positions: Tensor, head_width: int) -> Tensor:
    """Unit complex numbers (n, e/2) complex64 for int64 positions (n,); the angles are computed in double."""
    inverse = ROPE_BASE ** (-torch.arange(0, head_width, 2, dtype=torch.float64, device=positions.device) / head_width)
    angles = positions.to(torch.float64)[:, None] * inverse
    return torch.complex(angles.cos().float(), angles.sin().float())


def rope(x: Tensor, table: Tensor) -> Tensor:
    """Rotates the interleaved pairs of x (..., n, e) by table (n, e/2); float32 out."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table).flatten(-2)
