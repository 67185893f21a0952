"""Backend `cuda` through Python on a card. Where there is none, tests/test_cuda_on_host.py runs these tests on a device
that the host plays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import unils_sdk as unils
from conversation import TRACKS, frames_of, voices
from unils_sdk import _core

NEAR = 1e-4  # between float32 on the card and float32 on the processor, whose sums have another order


def cuda_works() -> bool:
    return any(name == "cuda" and score > 0 for name, score, *_ in _core.backends())


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not cuda_works(), reason="no NVIDIA GPU that backend cuda can use")]


@pytest.fixture(scope="module")
def on_card(tiny_path: Path) -> unils.Model:
    return unils.Model.load(tiny_path, "cuda")


@pytest.fixture(scope="module")
def on_host(tiny_path: Path) -> unils.Model:
    return unils.Model.load(tiny_path, "cpu")


def test_auto_takes_the_card(tiny_path: Path) -> None:
    info = unils.Model.load(tiny_path).info
    assert info.backend == "cuda"
    assert "sm_" in info.backend_detail


@pytest.mark.parametrize("cfg_scale", [1.0, 1.5])
def test_frames_are_those_of_the_processor(on_card: unils.Model, on_host: unils.Model, cfg_scale: float) -> None:
    heard, options = voices(9.0), {"temperature": 0.0, "cfg_scale": cfg_scale, "look_ahead": {"self": 3, "other": 1}}
    ours, theirs = (frames_of(model, heard, **options) for model in (on_card, on_host))
    assert len(ours) == 225
    np.testing.assert_allclose(ours.values, theirs.values, rtol=0, atol=NEAR)


def test_the_same_frames_always(on_card: unils.Model) -> None:
    first, second = (frames_of(on_card, voices(4.0), seed=5).values for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_session_goes_on_from_a_snapshot_on_the_other_backend(on_card: unils.Model, on_host: unils.Model) -> None:
    heard = voices(6.0)
    whole = frames_of(on_host, heard, finish=False, temperature=0.0)
    for first, second in ((on_card, on_host), (on_host, on_card)):
        session = unils.Session(first, temperature=0.0)
        for track in TRACKS:
            session.push_audio(heard[track][:48000], track)
        made = [session.pull_frames().values]
        taken_over = unils.Session(second, temperature=0.0)
        taken_over.restore(session.snapshot())
        for track in TRACKS:
            taken_over.push_audio(heard[track][48000:], track)
        made.append(taken_over.pull_frames().values)
        np.testing.assert_allclose(np.concatenate(made), whole.values, rtol=0, atol=NEAR)


def test_sessions_of_a_pool_make_the_frames_that_they_make_alone(on_card: unils.Model) -> None:
    count = 33
    heard = [voices(1.0, seed=seed) for seed in range(count)]
    with unils.SessionPool(on_card, max_sessions=count) as pool:
        sessions = [pool.session(temperature=0.0, seed=seed) for seed in range(count)]
        for track in TRACKS:
            pool.push_audio(sessions, np.stack([each[track] for each in heard]), track, 16000)
        frames = pool.pull()
        for number in (0, 16, 32):
            alone = frames_of(on_card, heard[number], finish=False, temperature=0.0, seed=number)
            np.testing.assert_allclose(frames[sessions[number]].values, alone.values, rtol=0, atol=NEAR)


def test_frames_can_stay_on_the_card(on_card: unils.Model) -> None:
    session = unils.Session(on_card)
    for track, samples in voices(1.0).items():
        session.push_audio(samples, track)
    frames = session.pull_frames(device="cuda")
    assert frames.values.shape == (len(frames), len(on_card.info.channels))
    assert frames.values.rows(2, 5).shape == (3, len(on_card.info.channels))
    assert frames.values.__dlpack_device__() == (2, 0)  # CUDA, the first card
    assert '"dltensor"' in repr(frames.values.__dlpack__(stream=None))

    torch = pytest.importorskip("torch", reason="PyTorch is in the [training] extra")
    if not torch.cuda.is_available():  # a build for the processor alone: who runs this has seen the rest
        return
    values = torch.from_dlpack(frames.values)
    assert values.device.type == "cuda"
    assert values.shape == frames.values.shape
    assert bool(torch.isfinite(values).all())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_near_float32(tiny_path: Path, on_card: unils.Model, precision: str) -> None:
    half = unils.Model.load(tiny_path, "cuda", precision=precision)
    heard = voices(1.0)
    ours, theirs = (frames_of(model, heard, finish=False, temperature=0.0).values for model in (half, on_card))
    # A logit near zero flips a bit in lower precision, and from there on the faces part: most frames stay near.
    assert np.isfinite(ours).all()
    assert np.median(np.abs(ours - theirs)) < 0.05
