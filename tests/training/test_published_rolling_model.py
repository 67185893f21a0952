"""Rolling generation in PyTorch: what a step hears, which tokens it fixes, and how its frames join those shown."""

from __future__ import annotations

import pytest
import torch
from test_published_model import tiny_model

from unils_training.models.published import rolling
from unils_training.models.published.model import HOP_SAMPLES, PublishedModel, Sampling, Window
from unils_training.models.published.rolling import Rolling, Shown, roll, roll_batch

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def model() -> PublishedModel:
    return tiny_model()


def _audio(frames: int, seed: int = 0, batch: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [0.1 * torch.randn(batch, frames * HOP_SAMPLES, generator=generator) for _ in range(2)]


def test_a_hop_of_a_whole_window_is_windowed_generation(model: PublishedModel) -> None:
    window = model.config.window_frames
    own, other = _audio(2 * window + 3)
    made = roll(model, own[0], other[0], Rolling(window), Sampling(), seed=5)
    released = model.generate(own[0], other[0], Sampling(), seed=5)
    for name in ("motion", "bits", "logits"):
        assert (made[name] == released[name]).all()


@pytest.mark.parametrize("look_ahead", [(0, 0), (3, 0), (1, 2)])
@pytest.mark.parametrize("hop", [1, 5])
def test_frames_hear_their_hop_and_its_look_ahead_and_nothing_later(
    model: PublishedModel, hop: int, look_ahead: tuple[int, int]
) -> None:
    frames = model.config.window_frames + 13

    def run(audio: list[torch.Tensor]) -> tuple[torch.Tensor, list[Window]]:
        windows: list[Window] = []
        return roll_batch(model, *audio, GREEDY, [0], Rolling(hop, look_ahead), windows=windows), windows

    wanted, windows = run(_audio(frames))
    for track, ahead in enumerate(look_ahead):
        for at in (7, frames - 6):
            audio = _audio(frames)
            audio[track][:, at * HOP_SAMPLES :] += 0.3  # a step, from the first sample of frame `at` on
            made, heard = run(audio)
            first = max(0, at - ahead) // hop  # of the steps that hear the sample
            same = [torch.equal(a.logits, b.logits) for a, b in zip(heard, windows, strict=True)]
            assert same.index(False) == first
            assert torch.equal(made[:, : first * hop], wanted[:, : first * hop])


def test_fixed_tokens_say_what_the_codec_says_of_shown_frames(model: PublishedModel) -> None:
    codec, frames = model.codec, model.config.window_frames
    motion = torch.randn(2, frames, len(model.channels), generator=torch.Generator().manual_seed(1))
    # All shown: nothing is left to sample.
    bits, wanted = codec.quantise(codec.encode(motion))
    shown, latent = Shown(codec, motion), torch.zeros_like(wanted)
    found = []
    for level, tokens in enumerate(codec.scales):
        found.append(shown.fix(level, latent, torch.zeros(2, tokens, codec.config.bits, dtype=torch.bool)))
        latent = latent + codec.up(codec.code(found[-1]), level)
    assert torch.equal(torch.cat(found, dim=1), bits)
    assert torch.equal(latent, wanted)


@pytest.mark.parametrize("new", [1, 5, 13])
def test_only_tokens_all_of_whose_frames_are_shown_are_fixed(model: PublishedModel, new: int) -> None:
    codec, frames = model.codec, model.config.window_frames
    shown = Shown(codec, torch.randn(1, frames - new, len(model.channels)))
    latent = torch.zeros(1, frames, codec.config.bits)
    for level, tokens in enumerate(codec.scales):
        sampled = [torch.full((1, tokens, codec.config.bits), value) for value in (False, True)]
        low, high = (shown.fix(level, latent, bits) for bits in sampled)
        fixed = (low == high).all(dim=-1)[0]
        for token in range(tokens):
            end = -(-(token + 1) * frames // tokens)  # of its span, as the codec averages it
            assert fixed[token] == (end <= frames - new)


def test_finer_tokens_of_shown_frames_answer_for_what_was_sampled(model: PublishedModel) -> None:
    codec, frames = model.codec, model.config.window_frames
    shown = Shown(codec, torch.randn(1, frames - 1, len(model.channels)))
    last = len(codec.scales) - 1
    pushed = shown.z + 1.0  # the coarser levels went too far: every bit of the shown frames pulls back
    bits = shown.fix(last, pushed, torch.ones(1, frames, codec.config.bits, dtype=torch.bool))
    assert not bits[:, :-1].any()
    assert bits[:, -1].all()


def test_new_frames_join_those_shown(model: PublishedModel) -> None:
    hop, frames = 5, 2 * model.config.window_frames
    windows: list[Window] = []
    motion = roll_batch(model, *_audio(frames), Sampling(), [3], Rolling(hop), windows=windows)[0]
    for step in range(1, len(windows)):
        first = step * hop
        begin = max(0, first + hop - model.config.window_frames)
        decoded = windows[step].motion[0]
        offset = motion[first - 1] - decoded[first - 1 - begin]
        head = torch.tensor([name.startswith("head") for name in model.channels])
        decay = torch.where(head, rolling.HEAD_SEAM_DECAY, rolling.SEAM_DECAY)
        for i in range(min(hop, len(motion) - first)):
            joined = decoded[first - begin + i] + offset * decay ** (i + 1)
            torch.testing.assert_close(motion[first + i], joined)


def test_a_batch_gives_each_clip_what_it_gets_alone(model: PublishedModel) -> None:
    own, other = _audio(model.config.window_frames + 9, batch=3)
    together = roll_batch(model, own, other, Sampling(), [1, 2, 3], Rolling(7))
    for clip in range(3):
        part = slice(clip, clip + 1)
        alone = roll_batch(model, own[part], other[part], Sampling(), [clip + 1], Rolling(7))
        torch.testing.assert_close(together[part], alone, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("refused", [Rolling(0), Rolling(25), Rolling(20, (5, 0)), Rolling(1, (0, -1))])
def test_steps_that_a_window_cannot_hold_are_refused(model: PublishedModel, refused: Rolling) -> None:
    with pytest.raises(ValueError, match="at most 24"):
        roll_batch(model, *_audio(3), Sampling(), [0], refused)
