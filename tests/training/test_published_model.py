"""The published model by itself: caches against the whole sequence, what a token sees and where, how bits fall."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from unils_training.config import ConfigError, PublishedConfig, load_config
from unils_training.models.philox import token_uniforms, uniforms
from unils_training.models.published.attention import rope, rope_table
from unils_training.models.published.audio_encoder import AudioEncoder, normalise_waveform
from unils_training.models.published.generator import Generator, audio_positions, current_positions
from unils_training.models.published.model import PublishedModel, Sampling
from unils_training.models.published.smoothing import smooth
from unils_training.rigs import ARKIT_CHANNELS


def tiny_config(**changes: object) -> PublishedConfig:
    return dataclasses.replace(load_config("published_tiny").published, **changes)


def tiny_model(config: PublishedConfig | None = None) -> PublishedModel:
    torch.manual_seed(0)
    config = config or tiny_config()
    model = PublishedModel(config, ARKIT_CHANNELS, AudioEncoder.from_config(config.audio_encoder))
    for parameter in model.parameters():
        if parameter.dim() == 1:  # trained biases and norms are not zeros and ones
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.codec.motion_mean.normal_(std=0.1)
    return model.eval()


def windows(model: PublishedModel, batch: int, seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    frames, bits, rows = model.config.window_frames, model.codec.config.bits, 12
    made = {name: torch.randn(batch, frames, bits, generator=rng) for name in ("style", "previous", "current")}
    audio = {name: torch.randn(batch, rows, model.audio_encoder.width, generator=rng) for name in ("self", "other")}
    return made | audio


def whole_sequence(generator: Generator, w: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """The released code's way, written down once more: one sequence, one mask, nothing cached, nothing left out."""
    blocks, frames = generator.attn_blocks, generator.config.window_frames
    current = generator.code_token_embed(inputs)
    start = generator.sos_embed.expand(len(inputs), generator.scales[0], -1)
    current = torch.cat((start, current), dim=1) + blocks.lvl_embed(generator.levels)
    style = generator.code_token_embed(w["style"]) + blocks.style_pos
    previous = generator.code_token_embed(w["previous"]) + blocks.prev_pos
    x = torch.cat((style, previous, current), dim=1)
    table = torch.cat((generator.prefix_table, generator.current_table), dim=1)
    level = torch.cat((torch.full((2 * frames,), -1), generator.levels))
    mask = level[None, :] <= level[:, None]
    audio = generator.audio(w["self"], w["other"])
    for i, block in enumerate(blocks.attn_blocks):
        q, k, v = block.self_attn.project(x, table)
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
        x = x + block.self_attn.to_out((weights @ v).transpose(1, 2).flatten(2))
        x = block.finish(x, table, audio[i])
    return generator.logits_head(x[:, 2 * frames :]).unflatten(-1, (-1, 2))


def teacher_inputs(model: PublishedModel, z: Tensor) -> tuple[Tensor, Tensor]:
    """What the generator reads of a window (B, N - n_0, d), and the bits (B, N, d)."""
    bits, _, latents = model.codec.quantise_with_flips(z, None)
    levels = range(1, len(model.codec.scales))
    return torch.cat([model.codec.down(latents[level - 1], level) for level in levels], dim=1), bits


@pytest.mark.parametrize("cross_attention", ["separate", "mixed"])
def test_one_pass_of_teacher_forcing_is_the_whole_sequence_under_one_mask(cross_attention: str) -> None:
    model = tiny_model(tiny_config(cross_attention=cross_attention))
    w = windows(model, 2)
    inputs, _ = teacher_inputs(model, w["current"])
    generator = model.generator
    with torch.inference_mode():
        logits = generator(w["style"], w["previous"], inputs, generator.audio(w["self"], w["other"]))
        torch.testing.assert_close(logits, whole_sequence(generator, w, inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cfg_scale", [1.0, 1.7])
def test_cached_generation_is_the_loop_that_computes_every_scale_anew(cfg_scale: float) -> None:
    model = tiny_model()
    w, seeds = windows(model, 3), np.array([1, 2, 3], dtype=np.uint64)
    codec, generator = model.codec, model.generator
    sampling = Sampling(temperature=0.8, top_p=0.9, cfg_scale=cfg_scale)
    made = model.generate_window((w["self"], w["other"]), w["style"], w["previous"], sampling, seeds, 5)
    with torch.inference_mode():
        latents = codec.latents(made.bits)
        inputs = torch.cat([codec.down(latents[i], i + 1) for i in range(len(codec.scales) - 1)], dim=1)
        silent = {"self": torch.zeros_like(w["self"]), "other": torch.zeros_like(w["other"])}
        rest = model.rest_latent().expand(3, -1, -1)
        for level, span in enumerate(codec.spans):
            known = inputs[:, : span.stop - codec.scales[0]] if level else inputs[:, :0]
            padded = functional.pad(known, (0, 0, 0, inputs.shape[1] - known.shape[1]))
            logits = whole_sequence(generator, w, padded)[:, span]
            if cfg_scale > 1.0:
                unheard = whole_sequence(generator, w | silent | {"style": rest}, padded)[:, span]
                logits = cfg_scale * logits + (1.0 - cfg_scale) * unheard
            torch.testing.assert_close(made.logits[:, span], logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made.latent, latents[-1])


def test_a_current_token_never_sees_a_finer_scale_and_the_prefix_sees_no_current_token() -> None:
    model = tiny_model()
    generator, spans = model.generator, model.codec.spans
    w = windows(model, 1)
    inputs, _ = teacher_inputs(model, w["current"])
    audio = generator.audio(w["self"], w["other"])
    with torch.inference_mode():
        before = generator(w["style"], w["previous"], inputs, audio)
        for level in range(1, len(spans)):
            changed = inputs.clone()
            changed[:, spans[level].start - spans[0].stop] += 1.0  # the first token of this scale, and nothing else
            after = generator(w["style"], w["previous"], changed, audio)
            moved = [bool((after[:, span] != before[:, span]).any()) for span in spans]
            assert not any(moved[:level])
            assert all(moved[level:])
            assert bool((after[:, spans[level]] != before[:, spans[level]]).any(dim=-1).all())  # of its own scale, all


def test_positions_are_those_of_the_released_code() -> None:
    positions = current_positions((1, 5, 25, 50, 100), 100).tolist()
    assert positions[:6] == [250, 210, 230, 250, 269, 289]  # 49.5 goes to the even side; 9.9, 29.7, 49.5, 69.3, 89.1
    assert positions[6:9] == [202, 206, 210]
    assert positions[81:84] == [200, 201, 202]  # 0.495, 1.485, 2.475
    assert positions[-1] == 299
    audio = audio_positions(199, 100).tolist()
    assert (len(audio), audio[0], audio[1], audio[2], audio[-1]) == (199, 200, 200, 201, 299)


def test_rope_turns_interleaved_pairs_so_that_only_distance_counts() -> None:
    q, k = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(1)).unbind(0)
    near = rope(q, rope_table(torch.tensor([7]), 8)) @ rope(k, rope_table(torch.tensor([3]), 8)).T
    far = rope(q, rope_table(torch.tensor([207]), 8)) @ rope(k, rope_table(torch.tensor([203]), 8)).T
    torch.testing.assert_close(near, far, atol=1e-5, rtol=1e-5)
    unit = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    turned = rope(unit, rope_table(torch.tensor([1]), 4))[0]
    torch.testing.assert_close(turned, torch.tensor([np.cos(1.0), np.sin(1.0), np.cos(0.01), np.sin(0.01)]).float())


def test_the_random_numbers_of_a_token_have_a_counter_of_their_own() -> None:
    seeds = np.array([3, 2**40 + 5], dtype=np.uint64)
    u = token_uniforms(seeds, 2**33 + 1, 6, 25, 32)
    assert u.shape == (2, 25, 32)
    np.testing.assert_array_equal(u[:, 4], uniforms(seeds, 2**33 + 1, 10, 32))
    assert len(np.unique(u)) > 0.99 * u.size


def test_a_batch_gives_each_clip_what_it_gets_alone() -> None:
    model = tiny_model()
    rng = np.random.default_rng(0)
    samples = 2 * model.window_samples - 5000
    audio = rng.standard_normal((2, 3, samples)).astype(np.float32) * 0.1
    style = rng.standard_normal((3, model.config.window_frames, len(ARKIT_CHANNELS))).astype(np.float32)
    sampling = Sampling(temperature=1.0)
    together = model.generate_batch(*torch.from_numpy(audio), sampling, [4, 5, 6], torch.from_numpy(style))
    assert together["motion"].shape == (3, -(-samples // 640), len(ARKIT_CHANNELS))
    for i in range(3):
        alone = model.generate(audio[0, i], audio[1, i], sampling, 4 + i, style[i])
        assert (alone["bits"] != together["bits"][i].numpy()).mean() < 1e-3
        np.testing.assert_allclose(alone["motion"][:10], together["motion"][i, :10].numpy(), atol=1e-4)
    other_seed = model.generate(audio[0, 0], audio[1, 0], sampling, 5, style[0])
    assert (other_seed["bits"] != together["bits"][0].numpy()).mean() > 0.01


def test_matrices_interpolate_as_the_field_does() -> None:
    codec = tiny_model().codec
    z = torch.randn(2, codec.encoder.table.shape[1], codec.config.bits)
    for level, tokens in enumerate(codec.scales):
        area = functional.interpolate(z.transpose(1, 2), tokens, mode="area").transpose(1, 2)
        torch.testing.assert_close(codec.down(z, level), area, atol=1e-6, rtol=1e-5)
        linear = functional.interpolate(area.transpose(1, 2), z.shape[1], mode="linear").transpose(1, 2)
        torch.testing.assert_close(codec.up(area, level), linear, atol=1e-6, rtol=1e-5)


def test_finer_scales_answer_for_flipped_bits_of_coarser_ones() -> None:
    codec = tiny_model().codec
    z = torch.randn(2, codec.encoder.table.shape[1], codec.config.bits)
    clean, targets, _ = codec.quantise_with_flips(z, None)
    assert torch.equal(clean, targets)
    flips = torch.zeros_like(clean)
    flips[:, codec.spans[0]] = True
    bits, targets, latents = codec.quantise_with_flips(z, flips)
    assert torch.equal(targets[:, codec.spans[0]], clean[:, codec.spans[0]])
    assert torch.equal(bits[:, codec.spans[0]], ~clean[:, codec.spans[0]])
    residual = z - codec.up(codec.code(bits[:, codec.spans[0]]), 0)
    assert torch.equal(targets[:, codec.spans[1]], codec.unit(residual, 1) > 0)
    assert bool((targets[:, codec.spans[1]] != clean[:, codec.spans[1]]).any())
    torch.testing.assert_close(latents, codec.latents(bits))


def test_a_value_of_zero_is_a_negative_bit() -> None:
    codec = tiny_model().codec
    assert not bool(codec.quantise(torch.zeros(1, codec.encoder.table.shape[1], codec.config.bits))[0][:, 0].any())


def test_smoothing_leaves_a_cubic_as_it_is_and_a_short_clip_alone() -> None:
    t = np.linspace(-1, 1, 30)[:, None]
    cubic = np.hstack((t**3 - t, 2 * t**2 + 1)).astype(np.float32)
    np.testing.assert_allclose(smooth(cubic), cubic, atol=1e-6)
    assert np.abs(smooth(cubic + np.resize([0.1, -0.1], (30, 1))) - cubic).max() < 0.08
    np.testing.assert_array_equal(smooth(cubic[:5]), cubic[:5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 7}, "7 heads"),
        ({"window_frames": 12}, "scales that end"),
        ({"heads": 0}, "heads must be more than 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(**changes)


def test_audio_and_style_that_do_not_fit_are_refused() -> None:
    model = tiny_model()
    track = torch.zeros(1, 6400)
    with pytest.raises(ValueError, match="one shape"):
        model.generate_batch(track, track[:, :-1], Sampling(), [0])
    with pytest.raises(ValueError, match="no audio"):
        model.generate_batch(track[:, :0], track[:, :0], Sampling(), [0])
    with pytest.raises(ValueError, match="style must be"):
        model.generate_batch(track, track, Sampling(), [0], torch.zeros(7, len(ARKIT_CHANNELS)))


def test_constants_that_the_fixture_is_too_coarse_for() -> None:
    model = tiny_model()
    eps = {name: module.eps for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    assert {value for name, value in eps.items() if ".attn_blocks." in name} == {1e-6}
    assert {value for name, value in eps.items() if name.startswith("codec") or "logits_head" in name} == {1e-5}
    samples = torch.tensor([[1.0, 2.0, 6.0]]).repeat(1, 320)  # mean 3, variance 14/3
    deviation = (14 / 3 * 960 / 959) ** 0.5 + 1e-6
    wanted = torch.tensor([[-2.0, -1.0, 3.0]]).repeat(1, 320) / deviation
    torch.testing.assert_close(normalise_waveform(samples), wanted, rtol=0, atol=1e-6)


def test_a_window_that_nobody_speaks_in_is_heard_as_silence() -> None:
    """Normalised, the hiss of a silent microphone would be as loud as speech."""
    floor = 10 ** (-50 / 20)
    square = torch.ones(640)
    square[1::2] = -1.0

    def heard(quiet: float, loud: float, begin: int = 640) -> torch.Tensor:
        window = quiet * square.repeat(4)
        window[begin : begin + 320] *= loud / quiet
        return normalise_waveform(window[None])[0]

    assert not heard(0.99 * floor, 0.99 * floor).any()
    assert not heard(0.1 * floor, 0.99 * floor).any()
    # One stretch of 20 ms is enough, and what is not louder than the threshold on the whole is not raised to it.
    loud = heard(0.1 * floor, 1.01 * floor)
    torch.testing.assert_close(loud[640], torch.tensor(1.01), rtol=1e-3, atol=0)
    torch.testing.assert_close(loud[0], torch.tensor(0.1), rtol=1e-3, atol=0)
    # Stretches are counted from the window's start: half of one in each of two is not enough.
    assert not heard(0.1 * floor, 1.2 * floor, begin=640 + 160).any()
    assert not normalise_waveform(torch.full((1, 640), 0.5)).any()  # an offset is no sound
