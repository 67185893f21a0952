"""Models and stages make every tensor on the device that they run on.

There is no GPU here, so the meta device stands in for one: it computes nothing, and refuses to mix with the CPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unils_training.config import Config, load_config
from unils_training.models.stream.model import Sampling, StreamModel
from unils_training.rigs import ARKIT_CHANNELS
from unils_training.stages.stream.codec import CodecStage
from unils_training.stages.stream.dialogue import DialogueStage
from unils_training.stages.stream.generation import LatentClips
from unils_training.stages.stream.prior import PriorStage
from unils_training.stages.trainer import Draw

META = torch.device("meta")


def config_of(corpus: Path, *more: str) -> Config:
    values = [f"corpus.path='{corpus}'", f"corpus.cache='{corpus / 'cache'}'", "device='cpu'"]
    for stage in ("codec", "prior", "dialogue"):
        values += [f"{stage}.training.{value}" for value in ("batch_clips=2", "clip_frames=48", "validation_clips=2")]
    return load_config("tiny", [*values, *more])


def to_meta(stage: object) -> None:
    for value in vars(stage).values():
        if isinstance(value, nn.Module):
            value.to(META)
        elif isinstance(value, LatentClips):
            value.device = META
    for name, value in list(vars(stage).items()):
        if isinstance(value, Tensor):
            setattr(stage, name, value.to(META))


@pytest.mark.parametrize("cross_attention", ["separate", "mixed"])
@pytest.mark.parametrize("kind", ["codec", "prior", "dialogue"])
def test_a_stage_computes_its_loss_and_gradients_on_the_device_of_the_draw(
    small_corpus: Path, kind: str, cross_attention: str
) -> None:
    config = config_of(small_corpus, f"model.generator.cross_attention={cross_attention}")
    if kind == "codec":
        stage = CodecStage(config)
    else:
        model = StreamModel(config.model, ARKIT_CHANNELS)
        model.codec.requires_grad_(False)
        stage = {"prior": PriorStage, "dialogue": DialogueStage}[kind](config, model)
    to_meta(stage)
    draw = Draw(
        step=1,
        progress=0.5,
        rng=np.random.default_rng(0),
        clips=2,
        device=META,
        generator=torch.Generator().manual_seed(0),
    )
    loss, figures = stage.loss(draw)
    assert loss.device == META
    assert all(value.device == META for value in figures.values())
    loss.backward()
    trained = [p for p in stage.module.parameters() if p.requires_grad and p.grad is not None]
    assert trained
    assert all(p.grad.device == META for p in trained)


@pytest.mark.parametrize("cross_attention", ["separate", "mixed"])
def test_free_running_generation_stays_on_the_models_device(cross_attention: str) -> None:
    config = load_config("tiny", [f"model.generator.cross_attention={cross_attention}"]).model
    model = StreamModel(config, ARKIT_CHANNELS).to(META)
    rows = torch.zeros(2, 20, 256, device=META)
    style = torch.zeros(2, 30, len(ARKIT_CHANNELS), device=META)
    made = model.generate_batch(rows, rows, Sampling(0, 0, cfg_scale=1.5), [1, 2], style)
    assert {name: value.device for name, value in made.items()} == dict.fromkeys(made, META)
