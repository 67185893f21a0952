"""What codec and generator share: rotary tables, heads, self-attention with the names of the released checkpoint.

Shapes: B clips, n tokens, m cached tokens, W width, H heads, e head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ROPE_BASE = 10000.0


def rope_table(positions: Tensor, head_width: int) -> Tensor:
    """Cosines and sines (2, n, e/2) float32 for int64 positions (n,); the angles are computed in double."""
    exponents = torch.arange(0, head_width, 2, dtype=torch.float64, device=positions.device) / head_width
    angles = positions.to(torch.float64)[:, None] * ROPE_BASE**-exponents
    return torch.stack((angles.cos(), angles.sin())).float()


def rope(x: Tensor, table: Tensor) -> Tensor:
    """Turns the interleaved pairs of x (..., n, e) by table (2, n, e/2); in reals, so that it can be exported."""
    cos, sin = table[0], table[1]
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, n, W) -> (B, H, n, e)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(B, H, n, e) -> (B, n, W)."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Pre-norm self-attention; q, k and v without bias, RoPE on q and k."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=eps)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)

    def project(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, n, W), not yet normalised -> turned q, turned k and v, (B, H, n, e) each."""
        q, k, v = (split_heads(part, self.heads) for part in self.to_qkv(self.norm(x)).chunk(3, dim=-1))
        return rope(q, table), rope(k, table), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q (B, H, n, e), k and v (B, H, m, e), mask (n, m) true where seen -> (B, n, W)."""
        return self.to_out(join_heads(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(B, n, W) -> (B, n, W), every token seeing every token; without the residual."""
        return self.attend(*self.project(x, table))
