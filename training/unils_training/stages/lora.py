"""Low-rank adapters on the frozen prior (Hu et al., 2021), by way of `peft`; merged away before a bundle is written."""

from __future__ import annotations

import copy

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from unils_training.config import LoraConfig
from unils_training.stages import distributed

STREAM_TARGETS = (
    r"token|blocks\.\d+\.self_attention\.(qkv|output)|blocks\.\d+\.feed_forward\.(up|down)"
    r"|head\.\d+\.(hidden|bits|output)"
)
PUBLISHED_TARGETS = (
    r"code_token_embed|attn_blocks\.attn_blocks\.\d+\.(self_attn\.(to_qkv|to_out)|ffn\.[13])|logits_head\.1"
)
"""Names of the layers that get adapters: self-attention, feed-forward, token embedding and head."""


class ByteDropout(nn.Module):
    """Dropout that spends one random byte an element: on a CPU, drawing Bernoulli numbers costs a third of a step.

    The mask is drawn for the step's whole batch, so that a clip has the same however they are divided among processes.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.kept = round(256 * (1.0 - rate))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (self._mask(x).to(x.dtype) * (256.0 / self.kept))

    @torch.compiler.disable
    def _mask(self, x: Tensor) -> Tensor:
        """Which elements of x (clips, ...) are kept."""
        index, count = distributed.part()
        words = torch.empty(count * x.numel() // 8 + 1, dtype=torch.int64, device=x.device).random_(-(2**63), None)
        return words.view(torch.uint8)[index * x.numel() : (index + 1) * x.numel()].view(x.shape) < self.kept


def add_lora(generator: nn.Module, config: LoraConfig, targets: str = STREAM_TARGETS) -> None:
    """Freezes the generator and puts adapters on the layers whose names are, as a whole, `targets`, a pattern.

    With rank 0 there are no adapters, and the generator is trained itself.
    """
    if config.rank == 0:
        return
    generator.requires_grad_(False)
    peft_config = PeftLoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=0.0, target_modules=targets)
    inject_adapter_in_model(peft_config, generator)
    if config.dropout > 0.0:
        for layer in generator.modules():
            if isinstance(layer, LoraLayer):
                layer.lora_dropout = nn.ModuleDict({name: ByteDropout(config.dropout) for name in layer.lora_dropout})


def merged(module: nn.Module) -> nn.Module:
    """A copy with every adapter folded into the layer that it adapts, and the names from before."""
    module = copy.deepcopy(module)
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()  # type: ignore[attr-defined]
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, layer.get_base_layer())
    return module
