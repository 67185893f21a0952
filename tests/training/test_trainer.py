"""The training loop by itself, around a stage small enough to be killed at every step."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unils_training.config import Config, ConfigError, load_config, to_dict, without_places
from unils_training.stages import distributed, trainer
from unils_training.stages.lora import ByteDropout
from unils_training.stages.trainer import CheckpointError, Draw, learning_rate, train_stage

STEPS = 8


class SmallStage:
    """Learns to undo a fixed matrix; random in every way that a stage can be."""

    name = "codec"

    def __init__(self, config: Config, before: Callable[[Draw], None] = lambda _draw: None) -> None:
        torch.manual_seed(config.seed)
        self.module = nn.Sequential(nn.Linear(6, 6), ByteDropout(0.2), nn.Dropout(0.1), nn.Linear(6, 6))
        self.before = before

    def loss(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        self.before(draw)
        x = torch.from_numpy(draw.mine(draw.rng.standard_normal((draw.clips, 6)).astype(np.float32)))
        noise = 0.1 * draw.randn(draw.clips, 6) + 0.1 * draw.rand(draw.clips, 1)
        loss = (self.module(x + noise) - x.flip(1)).square().mean()
        return loss, {"mean": x.mean()}

    def validate(self) -> dict[str, float]:
        x = torch.linspace(-1.0, 1.0, 18).view(3, 6)
        return {"loss": float((self.module(x) - x.flip(1)).square().mean())}

    def result(self) -> dict[str, Tensor]:
        return self.module.state_dict()


def config_of(run: Path, *more: str) -> Config:
    values = f"steps={STEPS} batch_clips=4 checkpoint_steps=3 validation_steps=2 log_steps=2 threads=1".split()
    return load_config("tiny", [f"run='{run}'", *(f"codec.training.{value}" for value in values), *more])


def train(run: Path, *more: str, resume: bool | str = False, **options: Any) -> Path:
    config = config_of(run, *more)
    train_stage(SmallStage(config, **options), config, config.codec.training, resume, {"channels": []})
    return run / "codec"


def stop_at(step: int) -> Callable[[Draw], None]:
    def before(draw: Draw) -> None:
        if draw.step == step:
            raise KeyboardInterrupt

    return before


def assert_same(folder: Path, other: Path) -> None:
    """Bitwise, but for the time that passed."""
    for name, parts in (("last.pt", ("module", "optimiser", "average", "progress")), ("best.pt", ("result", "step"))):
        a, b = (torch.load(path / name, weights_only=True) for path in (folder, other))
        for stored in (a, b):
            stored.get("progress", {}).pop("seconds", None)
        for part in parts:
            torch.testing.assert_close(a[part], b[part], atol=0.0, rtol=0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("step", range(3, STEPS))
def test_a_run_killed_at_any_step_and_resumed_is_the_run_that_was_not(whole: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, before=stop_at(step))
    assert_same(train(tmp_path, resume=True), whole)


@pytest.mark.parametrize("step", range(3))
def test_a_run_killed_before_its_first_checkpoint_has_to_start_anew(whole: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, before=stop_at(step))
    with pytest.raises(FileNotFoundError, match="start without --resume"):
        train(tmp_path, resume=True)
    assert_same(train(tmp_path), whole)


@pytest.mark.parametrize("number", range(7))
def test_a_run_killed_in_the_midst_of_writing_a_checkpoint_goes_on_from_the_one_before(
    whole: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, iter(range(100))

    def cut_short(values: Any, file: Any) -> None:
        if next(calls) != number:
            return save(values, file)
        file.write(b"PK\x03\x04 half a checkpoint")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", cut_short)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    assert_same(train(tmp_path, resume=(tmp_path / "codec" / "last.pt").exists()), whole)


def test_a_finished_run_resumed_stays_as_it_is(whole: Path) -> None:
    before = (whole / "last.pt").read_bytes()
    train(whole.parent, resume=True)
    assert (whole / "last.pt").read_bytes() == before


def test_kept_checkpoints_can_be_gone_on_from(whole: Path, tmp_path: Path) -> None:
    train(tmp_path, "codec.training.keep_steps=6")
    assert [path.name for path in (tmp_path / "codec").glob("step_*")] == ["step_6.pt"]
    (tmp_path / "codec" / "last.pt").unlink()
    folder = train(tmp_path, resume=str(tmp_path / "codec" / "step_6.pt"))
    a, b = (torch.load(path / "last.pt", weights_only=True)["module"] for path in (folder, whole))
    torch.testing.assert_close(a, b, atol=0.0, rtol=0.0)


def damage_by_cutting(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_by_emptying(path: Path) -> None:
    path.write_bytes(b"")


def damage_a_weight(path: Path) -> None:
    weight = torch.load(path, weights_only=True)["module"]["0.weight"].numpy().tobytes()
    data = path.read_bytes()
    at = data.index(weight)
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


@pytest.mark.parametrize("damage", [damage_by_cutting, damage_by_emptying, damage_a_weight])
def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    last = train(tmp_path) / "last.pt"
    damage(last)
    with pytest.raises(CheckpointError, match=r"last.pt is damaged .* without --resume"):
        train(tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="last.pt is damaged"):
        trainer.load_result(last)


def test_a_checkpoint_of_other_sizes_names_what_differs(tmp_path: Path) -> None:
    train(tmp_path)
    config = config_of(tmp_path, "model.codec.width=48")
    stage = SmallStage(config)
    stage.module = nn.Sequential(nn.Linear(6, 7))
    with pytest.raises(CheckpointError, match=r"model.codec.width was 32, is 48"):
        train_stage(stage, config, config.codec.training, True, {})


def test_a_result_is_not_a_checkpoint_to_resume(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="it lacks 'module'"):
        train(tmp_path, resume=str(whole / "best.pt"))


def test_a_gradient_that_is_not_finite_ends_the_run_with_stage_and_step(tmp_path: Path) -> None:
    stage_config = config_of(tmp_path)
    stage = SmallStage(stage_config)

    def poison(draw: Draw) -> None:
        if draw.step == 5:
            with torch.no_grad():
                stage.module[0].weight[0, 0] = float("nan")

    stage.before = poison
    with pytest.raises(FloatingPointError, match="codec: the gradient is not finite at step 5"):
        train_stage(stage, stage_config, stage_config.codec.training, False, {})
    saved = torch.load(tmp_path / "codec" / "last.pt", weights_only=True)
    assert saved["progress"]["step"] == 3
    assert all(bool(torch.isfinite(value).all()) for value in saved["module"].values())


def test_parts_of_a_draw_are_the_whole_draw() -> None:
    def draw(index: int, count: int) -> Draw:
        generator = torch.Generator().manual_seed(7)
        return Draw(0, 0.0, np.random.default_rng(0), 6, torch.device("cpu"), generator, index, count)

    whole = draw(0, 1)
    parts = [draw(index, 3) for index in range(3)]
    torch.testing.assert_close(torch.cat([part.rand(6, 4) for part in parts]), whole.rand(6, 4), atol=0.0, rtol=0.0)
    torch.testing.assert_close(torch.cat([part.randn(6) for part in parts]), whole.randn(6), atol=0.0, rtol=0.0)
    np.testing.assert_array_equal(np.concatenate([part.mine(np.arange(6)) for part in parts]), np.arange(6))
    with pytest.raises(ValueError, match="the 6 clips of the whole batch, not 2"):
        parts[0].mine(np.arange(2))


def test_a_clip_has_its_dropout_whichever_process_it_is_in() -> None:
    dropout, x = ByteDropout(0.5), torch.ones(6, 5, 7)
    torch.manual_seed(3)
    whole = dropout(x)
    parts = []
    for index in range(3):
        torch.manual_seed(3)
        with distributed.taking_part(index, 3):
            parts.append(dropout(x[:2]))
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(parts[0], parts[1])


def test_a_linear_schedule_warms_up_from_its_first_share_and_falls_to_its_last() -> None:
    given = ["learning_rate=1e-4", "warmup_steps=1000", "warmup_rate=0.1", "schedule='linear'", "final_rate=0.1"]
    training = load_config("tiny", [f"prior.training.{value}" for value in given]).prior.training
    assert learning_rate(training, 0, 0.0) == pytest.approx(1e-4 * (0.1 + 0.9 / 1000))
    assert learning_rate(training, 999, 0.0) == pytest.approx(1e-4)
    assert learning_rate(training, 5000, 0.5) == pytest.approx(1e-4 * 0.55)
    assert learning_rate(training, 9999, 1.0) == pytest.approx(1e-5)


def test_the_average_follows_the_weights_at_the_rate_of_its_decay(tmp_path: Path) -> None:
    history: list[Tensor] = []
    config = config_of(tmp_path, "codec.training.ema_decay=0.5")
    stage = SmallStage(config)
    stage.before = lambda _draw: history.append(stage.module[0].weight.detach().clone())
    train_stage(stage, config, config.codec.training, False, {})
    saved = torch.load(tmp_path / "codec" / "last.pt", weights_only=True)
    average = history[0]
    for step, weight in enumerate([*history[1:], saved["module"]["0.weight"]]):
        average = torch.lerp(average, weight, 1.0 - min(0.5, (1.0 + step) / (10.0 + step)))
    torch.testing.assert_close(saved["average"][0], average)


def test_weights_and_biases_gets_what_tensorboard_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[str, int]] = []
    started: dict[str, Any] = {}

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            logged.extend((name, step) for name in values)

        def finish(self) -> None:
            started["finished"] = True

    def init(**options: Any) -> Run:
        started.update(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    train(tmp_path, "wandb='faces'")
    assert started["project"] == "faces"
    assert started["config"]["codec"]["training"]["steps"] == STEPS
    assert started["finished"]
    assert {("training/loss", 2), ("training/frames_per_second", 8), ("validation/loss", 8)} <= set(logged)


def test_weights_and_biases_missing_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        train(tmp_path, "wandb='faces'")


def test_a_gpu_that_is_not_there_is_a_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="no CUDA device"):
        distributed.device("cuda")


def test_a_bundle_does_not_tell_the_folders_of_the_machine_that_trained() -> None:
    names = ["run", "codec_from", "prior_from", "wandb", "corpus.path", "corpus.cache", "flame.model", "flame.masks"]
    names += ["dialogue.from_bundle", "published.audio_encoder.source"]
    config = load_config("tiny", [f"{name}='/home/secret/{name}'" for name in names])
    assert "secret" not in str(to_dict(without_places(config)))
    assert without_places(config).model == config.model


def test_compiled_modules_train_the_same_weights(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def compile_in_place(module: nn.Module) -> None:
        compiled.append(module)
        # The tracing is what can go wrong; generating code takes a minute and is PyTorch's.
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compile_in_place)
    folder = train(tmp_path, "codec.training.compile=true")
    assert len(compiled) == 1
    assert_same(folder, whole)
