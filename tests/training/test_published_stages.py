"""The three stages of the published family at tiny size: they learn, resume exactly, and divide their batch."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import processes
import pytest
import torch

from unils_training.config import Config, ConfigError, load_config
from unils_training.data.features import load_features
from unils_training.data.records import CorpusError
from unils_training.models.published.audio_encoder import AudioEncoder
from unils_training.models.published.codec import Codec
from unils_training.models.published.generator import Generator
from unils_training.models.published.model import Sampling
from unils_training.stages.lora import PUBLISHED_TARGETS, add_lora, merged
from unils_training.stages.published import codec, dialogue, prior
from unils_training.stages.published.features import GridFeatures, gather_audio
from unils_training.stages.published.losses import bsq_losses, derivative_error, token_losses
from unils_training.stages.published.windows import Windows, hears
from unils_training.stages.stage_1 import load_prior
from unils_training.stages.trainer import Draw, load_result

STAGES = {"codec": codec, "prior": prior, "dialogue": dialogue}
CLASSES = {"codec": codec.CodecStage, "prior": prior.PriorStage, "dialogue": dialogue.DialogueStage}
TRAINING = [
    "batch_clips=4",
    "validation_clips=2",
    "validation_steps=3",
    "checkpoint_steps=4",
    "log_steps=2",
    "threads=1",
    "warmup_steps=2",
    "precision=float32",
]

# Sums come in another order, the sharp entropy of bits steepens that, and Adam's first steps divide small gradients by
# their own size; a wrong division of the batch shows as 1e-3.
TOLERANCE = 1e-4


def values(steps: int = 6) -> list[str]:
    each = (*TRAINING, f"steps={steps}")
    return ["device=cpu", "corpus.workers=1", *(f"{stage}.training.{value}" for stage in STAGES for value in each)]


def command(stage: str, corpus: Path, run: Path, *more: str) -> list[str]:
    given = [f"corpus.cache='{corpus / 'cache'}'", *values(), *more]
    arguments = [stage, "--config", "published_tiny", "--corpus", str(corpus), "--run-dir", str(run)]
    return [*arguments, *(part for value in given for part in ("--set", value))]


def small_config(corpus: Path, run: Path, *more: str, steps: int = 6) -> Config:
    places = [f"corpus.path='{corpus}'", f"corpus.cache='{corpus / 'cache'}'", f"run='{run}'"]
    return load_config("published_tiny", [*places, *values(steps), *more])


@pytest.fixture(scope="module")
def trained(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = small_config(small_corpus, tmp_path_factory.mktemp("run"))
    for stage in STAGES.values():
        stage.train(config)
    return config


def test_the_trained_model_generates(trained: Config) -> None:
    model, facts = dialogue.load_for_export(trained)
    assert facts["dialogue"]["step"] in (3, 6)
    made = model.generate(np.zeros(20_000), np.zeros(20_000), Sampling(), seed=1)
    assert made["motion"].shape == (32, 55)
    assert np.isfinite(made["motion"]).all()
    figures = load_result(Path(trained.run) / "dialogue" / "best.pt")["figures"]
    assert {"loss", "level_0", "level_3", "jaw_correlation", "std_ratio_head"} <= set(figures)


def test_dialogue_leaves_the_prior_as_it_was_except_for_adapters(trained: Config) -> None:
    before = load_result(Path(trained.run) / "prior" / "best.pt")["result"]
    after = load_result(Path(trained.run) / "dialogue" / "best.pt")["result"]
    blocks = "attn_blocks.attn_blocks.1"
    frozen = ("sos_embed", "attn_blocks.style_pos", "attn_blocks.lvl_embed.weight", f"{blocks}.ffn.0.weight")
    for name in (*frozen, f"{blocks}.self_attn.norm.weight", f"{blocks}.ffn.1.bias", "logits_head.0.bias"):
        assert torch.equal(before[name], after[f"generator.{name}"]), name
    adapted = ("self_attn.to_qkv", "self_attn.to_out", "ffn.1", "ffn.3")
    for name in ("code_token_embed", "logits_head.1", *(f"{blocks}.{layer}" for layer in adapted)):
        change = after[f"generator.{name}.weight"] - before[f"{name}.weight"]
        assert change.abs().max() > 0, name
    for name in ("attn_blocks.self_pos", f"{blocks}.self_audio_attn.v_proj.weight"):
        assert not torch.equal(before[name], after[f"generator.{name}"]), name
    kept = load_result(Path(trained.run) / "codec" / "best.pt")["result"]
    for name, value in kept.items():
        assert torch.equal(value, after[f"codec.{name}"]), name


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_run_killed_and_resumed_gives_the_same_weights(
    trained: Config, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(trained, run=str(tmp_path), codec_from=trained.run, prior_from=trained.run)
    cls = CLASSES[stage]
    original = cls.loss

    def killed(self, draw):  # type: ignore[no-untyped-def]
        if draw.step == 5:
            raise KeyboardInterrupt
        return original(self, draw)

    with monkeypatch.context() as patch:
        patch.setattr(cls, "loss", killed)
        with pytest.raises(KeyboardInterrupt):
            STAGES[stage].train(config)
    STAGES[stage].train(config, resume=True)
    assert processes.largest_difference(Path(trained.run) / stage / "last.pt", tmp_path / stage / "last.pt") == 0.0


@pytest.fixture(scope="module")
def in_two_processes(trained: Config, small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("double")
    given = (f"codec_from='{trained.run}'", f"prior_from='{trained.run}'")
    processes.train(2, [command(stage, small_corpus, run, *given) for stage in STAGES])
    return run


@pytest.mark.parametrize("stage", list(STAGES))
def test_two_processes_train_the_weights_of_one(trained: Config, in_two_processes: Path, stage: str) -> None:
    one, two = (Path(run) / stage / "last.pt" for run in (trained.run, in_two_processes))
    assert processes.largest_difference(one, two) < TOLERANCE


def test_the_codec_learns_and_its_latents_stay_within_reach_of_the_bits(small_corpus: Path, tmp_path: Path) -> None:
    more = ["codec.training.learning_rate=3e-3", "codec.training.validation_steps=150", "codec.training.batch_clips=8"]
    config = small_config(small_corpus, tmp_path, *more, steps=150)
    stage = codec.CodecStage(config)
    with torch.no_grad():
        before = stage.validate()["loss"]
    codec.train(config)
    stored = load_result(tmp_path / "codec" / "best.pt")
    assert stored["figures"]["loss"] < 0.88 * before
    stage.module.load_state_dict(stored["result"])
    with torch.no_grad():
        z = stage.module.encode(stage.val_motion)
    furthest = len(stage.module.scales) * stage.module.config.bits**-0.5  # where every scale's bit agrees
    assert float(z.square().mean().sqrt()) < furthest


@pytest.mark.parametrize("stage", list(STAGES))
def test_every_stage_can_refuse_a_corpus_with_corrupt_clips(
    trained: Config, small_corpus: Path, tmp_path: Path, stage: str
) -> None:
    damaged = tmp_path / "corpus"
    shutil.copytree(small_corpus, damaged, ignore=shutil.ignore_patterns("cache"))
    (damaged / "c000001a" / "motion.npz").write_bytes(b"no archive")
    corpus = dataclasses.replace(
        trained.corpus, path=str(damaged), cache=str(tmp_path / "cache"), on_corrupt="error", workers=1
    )
    run = {"run": str(tmp_path / "run"), "codec_from": trained.run, "prior_from": trained.run}
    with pytest.raises(CorpusError, match="c000001a"):
        STAGES[stage].train(dataclasses.replace(trained, corpus=corpus, **run))


def test_without_stage_1_the_whole_generator_is_trained(trained: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(trained, run=str(tmp_path), codec_from=trained.run)
    config = dataclasses.replace(config, dialogue=dataclasses.replace(config.dialogue, stage_1=False))
    dialogue.train(config)
    stored = load_result(tmp_path / "dialogue" / "best.pt")
    assert "prior" not in stored["facts"]
    learned = load_result(Path(trained.run) / "prior" / "best.pt")["result"]
    assert not torch.equal(stored["result"]["generator.sos_embed"], learned["sos_embed"])


def test_a_model_without_the_other_track_does_not_hear_it(trained: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(trained, run=str(tmp_path), codec_from=trained.run, prior_from=trained.run)
    config = dataclasses.replace(config, dialogue=dataclasses.replace(config.dialogue, other_track=False))
    dialogue.train(config)
    model, _ = dialogue.load_for_export(config)
    rng = np.random.default_rng(0)
    own, other, another = rng.standard_normal((3, 16_000)) * 0.1
    made = [model.generate(own, audio, Sampling(temperature=0.0))["logits"] for audio in (other, another)]
    np.testing.assert_array_equal(made[0], made[1])
    changed = model.generate(another, other, Sampling(temperature=0.0))["logits"]
    assert np.abs(changed - made[0]).max() > 1e-4


def test_mixed_cross_attention_takes_over_a_prior_of_separate_ones(trained: Config, tmp_path: Path) -> None:
    published = dataclasses.replace(trained.published, cross_attention="mixed")
    config = dataclasses.replace(
        trained, published=published, run=str(tmp_path), codec_from=trained.run, prior_from=trained.run
    )
    dialogue.train(config)
    model, _ = dialogue.load_for_export(config)
    names = [name for name, _ in model.generator.named_parameters() if "audio_attn" in name]
    assert names
    assert all(".audio_attn." in name for name in names)
    deaf = dataclasses.replace(config, dialogue=dataclasses.replace(config.dialogue, other_track=False))
    with pytest.raises(ConfigError, match="'separate'"):
        dialogue.train(deaf)


def test_merged_adapters_compute_what_unmerged_ones_do() -> None:
    config = load_config("published_tiny")
    torch.manual_seed(0)
    generator = Generator(config.published, 16)
    names = set(generator.state_dict())
    add_lora(generator, config.dialogue.lora, PUBLISHED_TARGETS)
    adapted = {name.split(".lora_B")[0] for name, p in generator.named_parameters() if "lora_B" in name}
    assert len(adapted) == 4 * config.published.depth + 2
    for name, parameter in generator.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    plain = merged(generator.eval())
    assert set(plain.state_dict()) == names
    style, previous = torch.randn(2, 3, 24, 8).unbind(0)
    inputs = torch.randn(3, 41, 8)
    audio = torch.randn(2, 3, 9, 16).unbind(0)
    with torch.no_grad():
        made = [g(style, previous, inputs, g.audio(*audio)) for g in (generator, plain)]
    torch.testing.assert_close(made[0], made[1], atol=1e-5, rtol=1e-4)


def draw(clips: int, step: int = 0) -> Draw:
    rng, generator = np.random.default_rng(step), torch.Generator().manual_seed(step)
    return Draw(step, 0.0, rng, clips, torch.device("cpu"), generator)


@pytest.fixture
def windows(trained: Config) -> Windows:
    model, _ = dialogue.load_for_export(trained)
    return Windows(model, load_features(trained.corpus.path, "train", trained.corpus.cache, workers=1))


def test_what_is_taught_is_what_generation_meets(windows: Windows, trained: Config) -> None:
    """Style, window before and targets are the codec's of those very frames; nothing is before a first window."""
    frames, codec_, offsets = windows.frames, windows.codec, windows.cache.offsets
    chosen = np.array([0, 1, 1])
    begins = offsets[chosen] + np.array([frames, 0, frames - 1])
    rng = np.random.default_rng(3)
    teacher = windows.teacher(rng, chosen, begins)
    with torch.no_grad():
        bits, latent = codec_.quantise(codec_.encode(windows.motion(begins)))
        before = codec_.quantise(codec_.encode(windows.motion(begins[:1] - frames)))[1]
    assert torch.equal(teacher.targets, bits)
    torch.testing.assert_close(teacher.previous[:1], before)
    torch.testing.assert_close(teacher.previous[1:], windows.rest.expand(2, -1, -1))
    assert not torch.equal(teacher.style, windows.rest.expand(3, -1, -1))
    assert teacher.inputs.shape == (3, codec_.tokens - codec_.scales[0], codec_.config.bits)
    last = codec_.up(codec_.code(bits[:, codec_.spans[-1]]), len(codec_.scales) - 1)
    torch.testing.assert_close(teacher.inputs[:, -frames:], latent - last, atol=1e-6, rtol=1e-5)
    history = dataclasses.replace(trained.prior.history, style_drop=1.0, previous_drop=1.0)
    dropped = windows.teacher(rng, chosen, begins, history, draw(3))
    for context in (dropped.style, dropped.previous):
        torch.testing.assert_close(context, windows.rest.expand(3, -1, -1))


def test_flips_change_what_is_read_and_what_finer_scales_answer(windows: Windows, trained: Config) -> None:
    rng = np.random.default_rng(3)
    chosen, begins = windows.draw(rng, 4)
    clean = windows.teacher(np.random.default_rng(0), chosen, begins)
    history = dataclasses.replace(trained.prior.history, max_flip_rate=0.3, clean_clips=0.0)
    noisy = windows.teacher(np.random.default_rng(0), chosen, begins, history, draw(4))
    first = windows.codec.spans[0]
    assert torch.equal(clean.targets[:, first], noisy.targets[:, first])
    assert 0.0 < float((clean.targets != noisy.targets).float().mean()) < 0.5
    assert float((clean.inputs - noisy.inputs).abs().mean()) > 0.01
    again = windows.teacher(np.random.default_rng(0), chosen, begins, history, draw(4))
    assert torch.equal(noisy.inputs, again.inputs)
    all_clean = dataclasses.replace(history, clean_clips=1.0)
    untouched = windows.teacher(np.random.default_rng(0), chosen, begins, all_clean, draw(4))
    assert torch.equal(clean.inputs, untouched.inputs)


def test_features_of_the_grid_are_those_made_on_the_fly(trained: Config, tmp_path: Path) -> None:
    model, _ = dialogue.load_for_export(trained)
    cache = dataclasses.replace(
        load_features(trained.corpus.path, "train", trained.corpus.cache, mel=False, audio=True), folder=tmp_path
    )
    grid, windows = GridFeatures(model, cache, 7), Windows(model, cache, grid=7)
    _, begins = windows.draw(np.random.default_rng(0), 20)
    assert len(set(begins.tolist())) > 10
    with torch.no_grad():
        for track in ("self", "other"):
            expected = model.audio_encoder(gather_audio(cache, track, begins, windows.frames))
            torch.testing.assert_close(grid(track, begins), expected, atol=2e-3, rtol=1e-3)
    stored = {path: path.stat().st_mtime_ns for path in tmp_path.glob("wav2vec.*")}
    GridFeatures(model, cache, 7)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("wav2vec.*")} == stored
    with pytest.raises(ValueError, match="multiples of 7"):
        grid("self", begins + 1)


def test_a_pretrained_encoder_stays_as_it_is(trained: Config, tmp_path: Path) -> None:
    torch.manual_seed(5)
    AudioEncoder.from_config(trained.published.audio_encoder).wav2vec.save_pretrained(tmp_path / "encoder")
    encoder = dataclasses.replace(
        trained.published.audio_encoder, source=str(tmp_path / "encoder"), cache_grid_frames=8
    )
    config = dataclasses.replace(
        trained,
        published=dataclasses.replace(trained.published, audio_encoder=encoder),
        run=str(tmp_path),
        codec_from=trained.run,
        prior_from=trained.run,
    )
    dialogue.train(config)
    stored = load_result(tmp_path / "dialogue" / "best.pt")["result"]
    assert not any(name.startswith("audio_encoder") for name in stored)
    model, _ = dialogue.load_for_export(config)
    kept = AudioEncoder.from_pretrained(tmp_path / "encoder").state_dict()
    for name, value in model.audio_encoder.state_dict().items():
        assert torch.equal(value, kept[name]), name


def test_a_prior_of_other_sizes_is_refused_by_name(trained: Config) -> None:
    learned = load_result(Path(trained.run) / "prior" / "best.pt")["result"]
    deeper = Generator(dataclasses.replace(trained.published, depth=3), 16)
    with pytest.raises(ConfigError, match=r"attn_blocks\.2"):
        load_prior(deeper, learned, hears, "published")
    wider = Generator(dataclasses.replace(trained.published, width=64), 16)
    with pytest.raises(ConfigError, match="does not fit published"):
        load_prior(wider, learned, hears, "published")


def test_wrong_settings_are_refused_by_name(small_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="clip_frames must be published.window_frames, 24, not 48"):
        codec.train(small_config(small_corpus, tmp_path, "codec.training.clip_frames=48"))
    with pytest.raises(ConfigError, match="published.rig is 'flame'"):
        codec.train(small_config(small_corpus, tmp_path, "published.rig='flame'"))
    with pytest.raises(ConfigError, match="cache_grid_frames"):
        small_config(small_corpus, tmp_path, "published.audio_encoder.cache_grid_frames=5")


@pytest.mark.parametrize(
    ("name", "millions", "tokens"), [("published", (29.5, 50.5), 181), ("published_small", (12.5, 23.7), 176)]
)
def test_packaged_sizes_are_those_of_the_released_models(name: str, millions: tuple[float, float], tokens: int) -> None:
    config = load_config(name).published
    with torch.device("meta"):
        parts = Codec(108, config.window_frames, config.codec), Generator(config, audio_width=1024)
    counted = tuple(sum(p.numel() for p in part.parameters()) / 1e6 for part in parts)
    assert counted == pytest.approx(millions, abs=0.05)
    assert parts[0].tokens == tokens
    assert load_config(name).codec.training.clip_frames == config.window_frames


def test_losses_are_those_written_down() -> None:
    unit = torch.tensor([[[0.6, -0.8]], [[-0.6, -0.8]]])  # sharp bits, the first one used evenly, the second never
    entropy, commitment = bsq_losses([unit])
    assert float(entropy) == pytest.approx(-np.log(2.0) / 100.0, abs=1e-4)
    assert float(commitment) == pytest.approx((0.6 - 0.5**0.5) ** 2 + (0.8 - 0.5**0.5) ** 2, abs=1e-6)
    unsure, _ = bsq_losses([torch.zeros(1, 1, 4)])
    assert float(unsure) == pytest.approx(0.0, abs=1e-6)
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 0, :, 1] = 100.0
    targets = torch.tensor([[[True, True], [True, False], [False, False]]])
    loss, levels = token_losses(logits, targets, [slice(0, 1), slice(1, 3)])
    assert float(levels[0]) == pytest.approx(0.0, abs=1e-6)
    assert float(levels[1]) == pytest.approx(np.log(2.0))
    assert float(loss) == pytest.approx(2.0 / 3.0 * np.log(2.0))
    cubic = (torch.arange(8.0) ** 3)[None, :, None]
    assert derivative_error(cubic, torch.zeros_like(cubic), 3).unique().tolist() == [6.0]
