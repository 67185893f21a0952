"""The stream model: streaming equals parallel, nothing sees beyond its look-ahead, windows are as the contract says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unils_training.config import ModelConfig, from_dict, load_config, to_dict
from unils_training.export import randomise
from unils_training.models.philox import philox4x32, uniforms
from unils_training.models.sampling import sample_bits
from unils_training.models.stream.generator import AudioContext
from unils_training.models.stream.log_mel import HOP_SAMPLES, log_mel_rows
from unils_training.models.stream.model import Sampling, StreamModel

CHANNELS = [f"c{i}" for i in range(7)]
FRAMES = 60  # nearly four windows of the tiny model's 16 frames


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return load_config("tiny").model


@pytest.fixture(scope="module")
def model(config: ModelConfig) -> StreamModel:
    model = StreamModel(config, CHANNELS).eval()
    randomise(model, 3)
    return model


@pytest.fixture(scope="module")
def mixed(config: ModelConfig) -> StreamModel:
    """A model of the ablation: one cross-attention over both tracks."""
    sizes = to_dict(config)
    sizes["generator"]["cross_attention"] = "mixed"
    model = StreamModel(from_dict(ModelConfig, sizes), CHANNELS).eval()
    randomise(model, 3)
    return model


def noise(frames: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(frames * HOP_SAMPLES) * 0.1).astype(np.float32)


def signs_of(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bits.reshape(1, len(bits), -1).astype(np.float32) * 2 - 1)


def parallel_logits(
    model: StreamModel, out: dict[str, np.ndarray], look_ahead: tuple[int, int], scale: float, style: np.ndarray | None
) -> np.ndarray:
    signs = signs_of(out["bits"])
    tokens = model.generator.null_style(1) if style is None else model.encode_style(torch.from_numpy(style))
    contexts = {
        track: AudioContext(model.audio_encoder(torch.from_numpy(out[f"{track}_rows"])[None]), torch.tensor([ahead]))
        for track, ahead in zip(("self", "other"), look_ahead, strict=True)
    }
    cond = model.generator.logits(model.generator(signs, tokens, contexts), signs)
    uncond = model.generator.logits(model.generator(signs, tokens), signs)
    return (scale * cond + (1 - scale) * uncond)[0].numpy()


@pytest.mark.parametrize("look_ahead", [(0, 0), (1, 0), (4, 3)])
@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("styled", [False, True])
def test_streaming_equals_parallel_over_three_windows(
    model: StreamModel, look_ahead: tuple[int, int], scale: float, styled: bool
) -> None:
    style = np.random.default_rng(5).random((40, len(CHANNELS)), dtype=np.float32) * 0.3 if styled else None
    out = model.generate(noise(FRAMES, 1), noise(FRAMES, 2), *look_ahead, cfg_scale=scale, seed=9, style=style)
    with torch.no_grad():
        np.testing.assert_allclose(
            out["logits"], parallel_logits(model, out, look_ahead, scale, style), atol=2e-5, rtol=1e-5
        )
        features = model.audio_encoder(torch.from_numpy(out["self_rows"])[None])[0]
        motion = model.codec.decode(model.codec.latent(torch.from_numpy(out["bits"]))[None])[0]
    np.testing.assert_allclose(out["self_features"], features, atol=1e-5)
    np.testing.assert_allclose(out["motion"], motion, atol=1e-5)


@pytest.mark.parametrize("look_ahead", [(0, 0), (4, 3)])
def test_streaming_equals_parallel_where_tracks_are_mixed(mixed: StreamModel, look_ahead: tuple[int, int]) -> None:
    out = mixed.generate(noise(FRAMES, 1), noise(FRAMES, 2), *look_ahead, cfg_scale=1.5, seed=9)
    with torch.no_grad():
        expected = parallel_logits(mixed, out, look_ahead, 1.5, None)
    np.testing.assert_allclose(out["logits"], expected, atol=2e-5, rtol=1e-5)


def test_a_mixed_attention_tells_tracks_apart_by_their_vectors_alone(mixed: StreamModel) -> None:
    generator = mixed.generator
    signs = torch.randint(0, 2, (1, 20, 16)).float() * 2 - 1
    own, other = (torch.randn(1, 20, generator.blocks[0].cross_mixed.key.in_features) for _ in range(2))

    def heard(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        none = torch.tensor([0])
        contexts = {"self": AudioContext(first, none), "other": AudioContext(second, none)}
        return generator(signs, generator.null_style(1), contexts)

    with torch.no_grad():
        right, swapped = heard(own, other), heard(other, own)
        assert not torch.allclose(right, swapped, atol=1e-3)
        first, second = generator.cross_track_self.clone(), generator.cross_track_other.clone()
        try:
            generator.cross_track_self.copy_(second)
            generator.cross_track_other.copy_(first)
            torch.testing.assert_close(heard(other, own), right, atol=1e-5, rtol=1e-5)
        finally:
            generator.cross_track_self.copy_(first)
            generator.cross_track_other.copy_(second)


def test_encoder_of_the_codec_in_steps_equals_at_once(model: StreamModel) -> None:
    motion = torch.randn(2, 30, len(CHANNELS))
    encoder = model.codec.encoder
    history = encoder.history(2)
    with torch.no_grad():
        stepped = torch.stack([encoder.step(motion[:, t], history) for t in range(30)], dim=1)
        torch.testing.assert_close(stepped, encoder(motion), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("track", ["self", "other"])
@pytest.mark.parametrize("ahead", [0, 2])
def test_audio_after_frame_plus_look_ahead_changes_nothing_before(model: StreamModel, track: str, ahead: int) -> None:
    audio = {"self": noise(30, 1), "other": noise(30, 2)}
    changed = {name: value.copy() for name, value in audio.items()}
    frame = 17
    changed[track][(frame + 1 + ahead) * HOP_SAMPLES :] = 0.3
    options = {
        f"look_ahead_{track}": ahead,
        f"look_ahead_{'other' if track == 'self' else 'self'}": 0,
        "cfg_scale": 1.5,
    }
    before = model.generate(audio["self"], audio["other"], **options)
    after = model.generate(changed["self"], changed["other"], **options)
    np.testing.assert_array_equal(before["logits"][: frame + 1], after["logits"][: frame + 1])
    assert not np.array_equal(before["logits"][frame + 1], after["logits"][frame + 1])


def test_a_frame_sees_exactly_its_windows(model: StreamModel, config: ModelConfig) -> None:
    generator, frame = model.generator, 50
    signs = torch.randint(0, 2, (1, FRAMES, 16)).float() * 2 - 1
    inputs = {"own": torch.randn(1, FRAMES + 4, 32), "other": torch.randn(1, FRAMES + 4, 32)}
    embedded = torch.randn(1, FRAMES, 16, requires_grad=True)
    features = {name: value.requires_grad_() for name, value in inputs.items()}
    contexts = {
        "self": AudioContext(features["own"], torch.tensor([3])),
        "other": AudioContext(features["other"], torch.tensor([0])),
    }
    generator(signs + 0 * embedded, generator.null_style(1), contexts)
    audio_window, window, depth = (
        config.generator.audio_window_frames,
        config.generator.window_frames,
        config.generator.depth,
    )
    h = generator(signs + embedded, generator.null_style(1), contexts)
    h[0, frame].sum().backward()
    assert embedded.grad is not None
    seen = embedded.grad.abs().sum(dim=-1)[0].nonzero().flatten()
    # `depth` layers of a window each, one token later than its bits.
    assert int(seen.max()) == frame - 1
    assert int(seen.min()) == max(0, frame - depth * (window - 1) - 1)
    grad = features["own"].grad
    assert grad is not None
    rows = grad.abs().sum(dim=-1)[0].nonzero().flatten()
    assert int(rows.max()) == frame + 3
    first_layer_reach = frame - (depth - 1) * (window - 1) - audio_window + 1
    assert int(rows.min()) == max(0, first_layer_reach)


def test_a_clip_without_condition_equals_the_prior(model: StreamModel) -> None:
    signs = torch.randint(0, 2, (2, 20, 16)).float() * 2 - 1
    contexts = {track: AudioContext(torch.randn(2, 24, 32), torch.tensor([1, 2])) for track in ("self", "other")}
    style = model.generator.null_style(2)
    with torch.no_grad():
        mixed = model.generator(signs, style, contexts, torch.tensor([True, False]))
        prior = model.generator(signs, style)
        heard = model.generator(signs, style, contexts)
    torch.testing.assert_close(mixed[1], prior[1])
    torch.testing.assert_close(mixed[0], heard[0])
    assert not torch.allclose(heard[1], prior[1])


def test_a_batch_gives_each_clip_what_it_gets_alone(model: StreamModel) -> None:
    rows = torch.stack([log_mel_rows(torch.from_numpy(noise(20, seed))) for seed in range(4)])
    sampling = Sampling(look_ahead_self=0, cfg_scale=1.5, top_p=0.97)
    together = model.generate_batch(rows[:2], rows[2:], sampling, [11, 12])
    alone = model.generate_batch(rows[1:2], rows[3:], sampling, [12])
    assert torch.equal(together["bits"][1], alone["bits"][0])
    torch.testing.assert_close(together["motion"][1], alone["motion"][0], atol=1e-5, rtol=1e-5)


def test_a_restored_stream_goes_on_as_it_did(model: StreamModel) -> None:
    rows = torch.randn(2, 30, 256)
    sampling, seeds = Sampling(0, 0, cfg_scale=1.5), np.array([1], dtype=np.uint64)
    state = model.init_state()
    motions, snapshot = [], None
    with torch.no_grad():
        for frame in range(30):
            if frame == 20:
                snapshot = state.snapshot()
            for track, track_rows in zip(("self", "other"), rows, strict=True):
                model.push_row(state, track, track_rows[None, frame])
            motions.append(model.step(state, sampling, seeds).motion)
        assert snapshot is not None
        model.restore(state, snapshot)
        for frame in range(20, 30):
            for track, track_rows in zip(("self", "other"), rows, strict=True):
                model.push_row(state, track, track_rows[None, frame])
            assert torch.equal(model.step(state, sampling, seeds).motion, motions[frame])


def test_a_step_without_its_audio_is_refused(model: StreamModel) -> None:
    with pytest.raises(ValueError, match="audio rows"):
        model.step(model.init_state(), Sampling(), np.array([0], dtype=np.uint64))


def test_look_ahead_and_style_beyond_what_was_trained_are_refused(model: StreamModel) -> None:
    with pytest.raises(ValueError, match="look-ahead"):
        model.generate(noise(3, 1), noise(3, 2), look_ahead_self=5)
    with pytest.raises(ValueError, match="style"):
        model.generate(noise(3, 1), noise(3, 2), style=np.zeros((10, len(CHANNELS))))


def test_philox_gives_the_published_answers() -> None:
    """kat_vectors of Random123 for philox4x32-10."""
    ones, zero = 0xFFFFFFFF, 0
    cases = [
        ((zero,) * 4, (zero,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ones,) * 4, (ones,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, answer in cases:
        words = philox4x32(
            tuple(np.array([word], dtype=np.uint64) for word in counter),  # type: ignore[arg-type]
            tuple(np.array([word], dtype=np.uint64) for word in key),  # type: ignore[arg-type]
        )
        assert tuple(int(word[0]) for word in words) == answer


def test_uniform_numbers_depend_on_every_part_of_the_counter_and_key() -> None:
    seeds = np.array([1, 1 + 2**32], dtype=np.uint64)
    base = uniforms(seeds, 5, 1, 8)
    assert base.shape == (2, 8)
    assert base.dtype == np.float32
    assert float(base.min()) >= 0.0
    assert float(base.max()) < 1.0
    assert not np.array_equal(base[0], base[1])
    assert not np.array_equal(base, uniforms(seeds, 5 + 2**32, 1, 8))
    assert not np.array_equal(base, uniforms(seeds, 5, 2, 8))


def test_sampling_is_greedy_at_zero_and_keeps_to_top_p() -> None:
    logits = torch.tensor([[4.0, -4.0, 0.1, -0.1]])
    u = np.array([[0.999, 0.0001, 0.9, 0.1]], dtype=np.float32)
    assert sample_bits(logits, Sampling(temperature=0.0), u).tolist() == [[True, False, True, False]]
    assert sample_bits(logits, Sampling(top_p=0.97), u).tolist() == [[True, False, False, True]]
    assert sample_bits(logits, Sampling(top_p=0.5), u).tolist() == [[True, False, True, False]]
    assert sample_bits(torch.zeros(1, 4), Sampling(top_p=0.5), u).tolist() == [[True, True, True, True]]
    assert sample_bits(logits, Sampling(top_p=1.0), u).tolist() == [[False, True, False, True]]


def test_log_mel_rows_are_causal_and_do_not_depend_on_what_follows() -> None:
    audio = torch.from_numpy(noise(10, 4))
    whole, part = log_mel_rows(audio), log_mel_rows(audio[: 6 * HOP_SAMPLES])
    assert whole.shape == (10, 256)
    torch.testing.assert_close(whole[:6], part)


def test_log_mel_rows_follow_their_definition() -> None:
    audio = np.random.default_rng(0).standard_normal(3 * HOP_SAMPLES) * 0.2
    rows = log_mel_rows(torch.from_numpy(audio)).numpy().reshape(3 * 4, 64)
    padded = np.concatenate((np.zeros(240), audio))
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([60.0, 7600.0]) / 700)), 66) / 2595) - 1)
    step = 7
    windowed = padded[160 * step : 160 * step + 400] * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400))
    power = np.abs(np.fft.rfft(windowed, 512)) ** 2
    hz = np.arange(257) * 16000 / 512
    for mel in (0, 20, 63):
        low, centre, high = edges[mel : mel + 3]
        triangle = np.interp(hz, [low, centre, high], [0.0, 1.0, 0.0])
        assert rows[step, mel] == pytest.approx(np.log(max(float(triangle @ power), 1e-5)), abs=1e-9)
