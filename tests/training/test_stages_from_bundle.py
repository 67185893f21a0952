"""Fine-tuning: the dialogue stage goes on from a bundle's weights, and the new bundle says what it came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from unils_training.cli import main
from unils_training.config import load_config
from unils_training.export import provenance_of, randomise, read_bundle, write_bundle
from unils_training.models.stream.model import StreamModel
from unils_training.rigs import ARKIT_CHANNELS

TRAINING = ("batch_clips=2", "clip_frames=48", "validation_clips=2", "log_steps=2", "threads=1", "steps=4")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose sizes no packaged configuration has."""
    config = load_config("tiny", ["model.generator.width=32", "model.look_ahead_max.self=3"])
    model = StreamModel(config.model, ARKIT_CHANNELS)
    randomise(model, 5)
    folder = tmp_path_factory.mktemp("given") / "bundle"
    write_bundle(folder, model, config.defaults, provenance_of(config, weights="random"))
    return folder


def tune(corpus: Path, run: Path, bundle: Path, *more: str) -> int:
    values = [f"corpus.cache='{corpus / 'cache'}'", *(f"dialogue.training.{value}" for value in TRAINING), *more]
    arguments = ["dialogue", "--config", "tiny", "--corpus", str(corpus), "--run-dir", str(run)]
    arguments += ["--from-bundle", str(bundle)]
    return main([*arguments, *(part for value in values for part in ("--set", value))])


def test_a_bundle_is_trained_further_and_its_successor_tells_where_it_came_from(
    small_corpus: Path, given: Path, tmp_path: Path
) -> None:
    assert tune(small_corpus, tmp_path, given) == 0
    assert main(["export", "--config", "tiny", "--run-dir", str(tmp_path), "-o", str(tmp_path / "tuned")]) == 0
    before, after = read_bundle(given), read_bundle(tmp_path / "tuned")
    assert after.config == before.config
    old, new = before.state_dict(), after.state_dict()
    for name in ("audio_encoder.mel_mean", "audio_encoder.mel_std", "generator.start", "generator.norm.weight"):
        assert torch.equal(old[name], new[name]), name
    assert all(torch.equal(old[name], new[name]) for name in old if name.startswith("codec."))
    rank = load_config("tiny").dialogue.lora.rank
    change = new["generator.token.weight"] - old["generator.token.weight"]
    assert 0 < torch.linalg.matrix_rank(change) <= rank
    for name in ("audio_encoder.input.weight", "generator.blocks.0.cross_other.value.weight"):
        assert not torch.equal(old[name], new[name]), name
    origin = json.loads((given / "model.json").read_text())
    provenance = json.loads((tmp_path / "tuned" / "model.json").read_text())["provenance"]
    assert provenance["stages"]["from_bundle"]["sha256"] == origin["weights"]["sha256"]
    assert provenance["stages"]["from_bundle"]["provenance"] == origin["provenance"]
    assert str(given) not in json.dumps(provenance)


def test_before_its_first_step_a_tuned_model_computes_what_the_bundle_does(
    small_corpus: Path, given: Path, tmp_path: Path
) -> None:
    assert tune(small_corpus, tmp_path, given, "dialogue.training.learning_rate=1e-12") == 0
    stored = torch.load(tmp_path / "dialogue" / "best.pt", weights_only=True)["result"]
    for name, value in read_bundle(given).state_dict().items():
        torch.testing.assert_close(stored[name], value, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("missing", ["nowhere", "corpus"])
def test_what_is_no_bundle_is_refused_in_a_sentence(
    small_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    folder = small_corpus if missing == "corpus" else tmp_path / missing
    assert tune(small_corpus, tmp_path, folder) == 2
    assert "not a readable bundle" in capsys.readouterr().err


def test_a_bundle_of_other_channels_than_the_corpus_is_refused_in_a_sentence(
    small_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config("tiny")
    model = StreamModel(config.model, ARKIT_CHANNELS[:20])
    write_bundle(tmp_path / "bundle", model, config.defaults, {})
    assert tune(small_corpus, tmp_path, tmp_path / "bundle") == 2
    assert "moves 20 channels" in capsys.readouterr().err


def test_a_bundle_brings_its_prior_with_it(
    small_corpus: Path, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(small_corpus, tmp_path, given, "dialogue.stage_1=false") == 2
    assert "dialogue.stage_1" in capsys.readouterr().err
