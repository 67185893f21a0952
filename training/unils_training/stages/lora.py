"""Low-rank adapters on the frozen prior (Hu et al., 2021), by way of `peft`; merged away before a bundle is written."""

from __future__ import annotations

import copy

from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from unils_training.config import LoraConfig

TARGETS = (
    r"token|blocks\.\d+\.self_attention\.(qkv|output)|blocks\.\d+\.feed_forward\.(up|down)|head\.\d+\.(hidden|bits|output)"
)


def add_lora(generator: nn.Module, config: LoraConfig) -> None:
    """Freezes the generator and puts adapters on its self-attention, feed-forward, token embedding and head, in place."""
    generator.requires_grad_(False)
    peft_config = PeftLoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=TARGETS
    )
    inject_adapter_in_model(peft_config, generator)


def merged(module: nn.Module) -> nn.Module:
    """A copy with every adapter folded into the layer that it adapts, and the names from before."""
    module = copy.deepcopy(module)
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()  # type: ignore[attr-defined]
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, layer.get_base_layer())
    return module
