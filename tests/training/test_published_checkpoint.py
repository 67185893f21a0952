"""The released checkpoint format: read and written back equal, refused by the first key or shape that does not fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unils_training.config import load_config
from unils_training.models.published.audio_encoder import AudioEncoder
from unils_training.models.published.checkpoint import CheckpointError, load_model, read_checkpoint, write_checkpoint
from unils_training.models.published.model import PublishedModel, Sampling
from unils_training.rigs import FLAME_CHANNELS

LAST = "attn_blocks.attn_blocks.1.ffn.3.weight"


@pytest.fixture(scope="module")
def model() -> PublishedModel:
    torch.manual_seed(0)
    config = dataclasses.replace(load_config("published_tiny").published, rig="flame")
    return PublishedModel(config, FLAME_CHANNELS, AudioEncoder.from_config(config.audio_encoder)).eval()


@pytest.fixture
def file(model: PublishedModel, tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "iter.pt", model)
    return tmp_path / "iter.pt"


def changed(file: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    stored = torch.load(file, weights_only=True)
    torch.save(change(stored) or stored, file)
    return file


def test_what_is_written_reads_back_equal_key_by_key(model: PublishedModel, file: Path, tmp_path: Path) -> None:
    model.audio_encoder.wav2vec.save_pretrained(tmp_path / "encoder")
    again = load_model(file, tmp_path / "encoder")
    assert again.channels == model.channels
    assert dataclasses.replace(again.config, audio_encoder=model.config.audio_encoder) == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    audio = torch.randn(1, model.window_samples + 900, generator=torch.Generator().manual_seed(0)) * 0.1
    made = [m.generate_batch(audio, audio.flip(1), Sampling(temperature=0.0), [0]) for m in (model, again)]
    assert torch.equal(made[0]["motion"], made[1]["motion"])


def test_a_checkpoint_keeps_what_its_meta_said_besides_sizes(model: PublishedModel, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.pt", model, {"MODEL": {"NAME": "Mine", "AUDIO_FREE": 0.2, "T_DEPTH": 99}, "SEED": 5})
    read = read_checkpoint(tmp_path / "a.pt")
    assert (read.meta["MODEL"]["NAME"], read.meta["MODEL"]["AUDIO_FREE"], read.meta["SEED"]) == ("Mine", 0.2, 5)
    assert read.meta["MODEL"]["T_DEPTH"] == read.config.depth == 2


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.module."])
def test_prefixes_of_wrappers_are_taken_away(file: Path, prefix: str) -> None:
    plain = read_checkpoint(file)
    changed(file, lambda s: {**s, "model": {f"{prefix}{name}": value for name, value in s["model"].items()}})
    wrapped = read_checkpoint(file)
    assert list(wrapped.weights) == list(plain.weights)
    assert wrapped.config == plain.config


def test_an_encoder_saved_along_is_left_out(file: Path) -> None:
    names = set(read_checkpoint(file).weights)
    changed(file, lambda s: s["model"].update({"audio_encoder.masked_spec_embed": torch.zeros(3)}))
    assert set(read_checkpoint(file).weights) == names


CHANGES: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("no model", lambda s: {"state": s["model"]}, "no table 'model'"),
    ("no meta", lambda s: {"model": s["model"]}, "no table 'meta_cfg'"),
    ("a list", lambda _: [1, 2], "no table 'model'"),
    ("foreign", lambda s: {**s, "model": {"conv.weight": torch.zeros(1)}}, "sos_embed is missing.*conv.weight"),
    ("strange wrapper", lambda s: {**s, "model": {f"net.{k}": v for k, v in s["model"].items()}}, "'net.'"),
    ("no tensor", lambda s: s["model"].update({"sos_embed": [1.0]}), r"model\['sos_embed'\] is not a tensor"),
    ("missing key", lambda s: s["model"].pop(LAST) is None, f"{LAST} is missing"),
    ("extra key", lambda s: s["model"].update({"zeta": torch.zeros(1)}), "zeta has no place"),
    (
        "shape",
        lambda s: s["model"].update({LAST: torch.zeros(3, 4)}),
        rf"{LAST} has the shape \(3, 4\), but .* \(32, 128\)",
    ),
    ("integers", lambda s: s["model"].update({"sos_embed": torch.zeros(1, 1, 32, dtype=torch.int8)}), "not floating"),
    ("not finite", lambda s: s["model"].update({"sos_embed": torch.full((1, 1, 32), torch.nan)}), "not finite"),
    ("depth", lambda s: s["meta_cfg"]["MODEL"].update(T_DEPTH=3), "attn_blocks.2.self_attn.norm.weight is missing"),
    ("huge depth", lambda s: s["meta_cfg"]["MODEL"].update(T_DEPTH=10**9), "MODEL.T_DEPTH must be an integer in 1"),
    ("heads", lambda s: s["meta_cfg"]["MODEL"].update(T_NUM_HEAD=5), "5 heads"),
    ("width", lambda s: s["meta_cfg"]["MODEL"].update(T_EMBED_DIM=36), "sos_embed has the shape"),
    ("no width", lambda s: s["meta_cfg"]["MODEL"].pop("T_EMBED_DIM") and None, "MODEL.T_EMBED_DIM must be"),
    ("scales", lambda s: s["meta_cfg"]["MODEL"]["VAE_CONFIG"].update(V_PATCH_NUMS=[1, 2, 24]), "lvl_embed.weight"),
    ("no scales", lambda s: s["meta_cfg"]["MODEL"].pop("VAE_CONFIG") and None, "V_PATCH_NUMS must be"),
    ("window", lambda s: s["meta_cfg"]["DATASET"].update(PREV_LENGTH=48), "PREV_LENGTH is 48, but CLIP_LENGTH is 24"),
    ("rate", lambda s: s["meta_cfg"]["DATASET"].update(MOTION_FPS=30), "MOTION_FPS is 30, not 25"),
]


@pytest.mark.parametrize(("change", "message"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_file_that_does_not_fit_is_refused_by_its_first_fault(
    file: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(changed(file, change))


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_a_truncated_file_is_refused(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(file)


class Runs:
    """What a hostile pickle holds."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/tmp/unils_was_executed").touch, ())


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    torch.save({"model": Runs(), "meta_cfg": {}}, tmp_path / "hostile.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path / "hostile.pt")
    assert not Path("/tmp/unils_was_executed").exists()


def test_a_missing_file_and_a_wrong_encoder_are_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        read_checkpoint(tmp_path / "nothing.pt")
    with pytest.raises(FileNotFoundError, match="no wav2vec2 encoder"):
        load_model(file, tmp_path / "nothing")
    encoder = load_config("published_tiny", ["published.audio_encoder.width=32"]).published.audio_encoder
    AudioEncoder.from_config(encoder).wav2vec.save_pretrained(tmp_path / "wide")
    with pytest.raises(CheckpointError, match="32 wide, but attn_blocks.self_pos .* 16"):
        load_model(file, tmp_path / "wide")
