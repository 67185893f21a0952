"""Two processes at the same global batch train the same weights as one, and only one of them writes."""

from __future__ import annotations

from pathlib import Path

import processes
import pytest

from unils_training.cli import main

STEPS = 6
TRAINING = (
    f"steps={STEPS} batch_clips=4 clip_frames=48 validation_clips=2 validation_steps=3 checkpoint_steps=4 "
    "log_steps=2 threads=1 precision=float32 warmup_steps=2"
).split()
STAGES = ("codec", "prior", "dialogue")

# Sums come in another order, and Adam's first steps divide small gradients by their own size.
TOLERANCE = 2e-5


def command(stage: str, corpus: Path, run: Path, *more: str) -> list[str]:
    values = [f"corpus.cache='{corpus / 'cache'}'", "device=cpu", *more]
    values += [f"{name}.training.{value}" for name in STAGES for value in TRAINING]
    arguments = [stage, "--config", "tiny", "--corpus", str(corpus), "--run-dir", str(run)]
    return [*arguments, *(part for value in values for part in ("--set", value))]


@pytest.fixture(scope="module")
def single(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("single")
    for stage in STAGES:
        assert main(command(stage, small_corpus, run)) == 0
    return run


@pytest.fixture(scope="module")
def double(single: Path, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("double")
    given = (f"codec_from='{single}'", f"prior_from='{single}'")
    processes.train(2, [command(stage, small_corpus, run, *given) for stage in STAGES])
    return run


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_the_weights_of_one(single: Path, double: Path, stage: str) -> None:
    assert processes.largest_difference(single / stage / "last.pt", double / stage / "last.pt") < TOLERANCE


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_write_one_log(double: Path, stage: str) -> None:
    assert len(list((double / stage / "logs").iterdir())) == 1


@pytest.mark.parametrize("stage", STAGES)
def test_passes_that_accumulate_gradients_train_the_weights_of_one_pass(
    single: Path, small_corpus: Path, tmp_path: Path, stage: str
) -> None:
    given = (f"codec_from='{single}'", f"prior_from='{single}'", f"{stage}.training.gradient_accumulation=2")
    # The entropy of the codebook is a statistic of one pass.
    assert main(command(stage, small_corpus, tmp_path, *given, "codec.entropy=0.0")) == 0
    plain = single
    if stage == "codec":
        plain = tmp_path / "plain"
        assert main(command(stage, small_corpus, plain, "codec.entropy=0.0")) == 0
    assert processes.largest_difference(plain / stage / "last.pt", tmp_path / stage / "last.pt") < TOLERANCE


def test_a_batch_that_cannot_be_divided_among_the_processes_is_refused_by_name(
    small_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("codec.training.gradient_accumulation=3",)
    assert main(command("codec", small_corpus, tmp_path, *given)) == 2
    assert "codec.training.batch_clips must be a multiple of gradient_accumulation" in capsys.readouterr().err
