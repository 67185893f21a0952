"""The motion codec: residual binary spherical quantisation and what it promises."""

from __future__ import annotations

import pytest
import torch

from unils_training.config import load_config
from unils_training.models.stream.codec import Codec


@pytest.fixture(scope="module")
def codec() -> Codec:
    torch.manual_seed(0)
    return Codec(5, load_config("tiny").model.codec)


def test_latents_lie_on_the_sphere(codec: Codec) -> None:
    with torch.no_grad():
        z = codec.encode(torch.randn(2, 9, 5))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(2, 9))


def test_bits_are_the_signs_of_the_residuals_in_level_order(codec: Codec) -> None:
    z = torch.nn.functional.normalize(torch.randn(4, 3, 8), dim=-1)
    bits = codec.quantise(z)
    assert bits.shape == (4, 3, 2, 8)
    residual = z
    for level, gain in enumerate((1.0, 0.5)):
        assert torch.equal(bits[..., level, :], residual > 0)
        residual = residual - gain * torch.where(residual > 0, 1.0, -1.0) / 8**0.5
    torch.testing.assert_close(codec.latent(bits), z - residual)


def test_a_zero_counts_as_negative(codec: Codec) -> None:
    assert not codec.quantise(torch.zeros(8))[0].any()


def test_quantising_the_quantised_latent_gives_the_same_bits(codec: Codec) -> None:
    bits = torch.randint(0, 2, (50, 2, 8)).bool()
    assert torch.equal(codec.quantise(codec.latent(bits)), bits)


def test_later_levels_answer_for_flipped_bits(codec: Codec) -> None:
    z = torch.nn.functional.normalize(torch.randn(100, 8), dim=-1)
    flips = torch.zeros(100, 2, 8, dtype=torch.bool)
    flips[:, 0, 3] = True
    bits, targets = codec.quantise_with_flips(z, flips)
    clean = codec.quantise(z)
    assert torch.equal(targets[:, 0], clean[:, 0])
    assert torch.equal(bits[:, 0, 3], ~clean[:, 0, 3])
    # After a wrong sign the best that is left is to go back as far as possible.
    assert torch.equal(targets[:, 1, 3], clean[:, 0, 3])
    unchanged = torch.arange(8) != 3
    assert torch.equal(targets[:, 1][:, unchanged], clean[:, 1][:, unchanged])


def test_without_flips_targets_are_the_bits(codec: Codec) -> None:
    z = torch.randn(20, 8)
    bits, targets = codec.quantise_with_flips(z, torch.zeros(20, 2, 8, dtype=torch.bool))
    assert torch.equal(bits, targets)
    assert torch.equal(bits, codec.quantise(z))


def test_the_codec_is_causal_both_ways(codec: Codec) -> None:
    motion = torch.randn(1, 20, 5)
    changed = motion.clone()
    changed[:, 12:] += 1.0
    with torch.no_grad():
        torch.testing.assert_close(codec.encode(motion)[:, :12], codec.encode(changed)[:, :12])
        latent = torch.randn(1, 20, 8)
        later = latent.clone()
        later[:, 12:] += 1.0
        torch.testing.assert_close(codec.decode(latent)[:, :12], codec.decode(later)[:, :12])
