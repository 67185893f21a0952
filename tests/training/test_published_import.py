"""`unils import` of checkpoints of other sizes than the fixture's: from the file to the frames of the native engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_published_runtime import guided_logits, published, recorded, voices

import unils_sdk as unils
from unils_sdk.cli import main as unils_main
from unils_training.config import PublishedAudioEncoderConfig, PublishedCodecConfig, PublishedConfig
from unils_training.models.published.checkpoint import write_checkpoint
from unils_training.models.published.model import PublishedModel, Sampling

SIZES = {
    "the small form's scales": PublishedConfig(
        width=40,
        heads=5,
        depth=3,
        codec=PublishedCodecConfig(width=36, heads=3, depth=3, bits=24, scales=(1, 25, 50, 100)),
        audio_encoder=PublishedAudioEncoderConfig(
            width=32, depth=3, heads=2, feed_forward=48, conv_width=12, position_kernel=9, position_groups=4
        ),
    ),
    "a window of two seconds": PublishedConfig(
        window_frames=50,
        width=64,
        heads=2,
        depth=1,
        codec=PublishedCodecConfig(width=20, heads=1, depth=1, bits=9, scales=(2, 3, 10, 33, 50)),
        audio_encoder=PublishedAudioEncoderConfig(
            width=20, depth=1, heads=5, feed_forward=24, conv_width=16, position_kernel=16, position_groups=1
        ),
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_checkpoint_of_any_size_goes_through_import_to_its_frames(name: str, tmp_path: Path) -> None:
    published(SIZES[name]).audio_encoder.wav2vec.save_pretrained(tmp_path / "encoder")
    write_checkpoint(tmp_path / "iter.pt", published(SIZES[name]))
    arguments = ["import", str(tmp_path / "iter.pt"), "--audio-encoder", str(tmp_path / "encoder")]
    assert unils_main([*arguments, "-o", str(tmp_path / "bundle")]) == 0

    reference = PublishedModel.from_checkpoint(tmp_path / "iter.pt", tmp_path / "encoder")
    model, recorder = recorded(tmp_path / "bundle")
    assert (model.info.rig, len(model.info.channels)) == ("flame", 108)
    own, other = voices(9.3, seed=3)
    style = np.random.default_rng(2).normal(0, 0.1, (reference.config.window_frames, 108)).astype(np.float32)
    for cfg_scale, clip in ((1.5, None), (1.5, style), (1.0, style)):
        recorder.calls.clear()
        frames = unils.animate(own, other, model=model, temperature=0, cfg_scale=cfg_scale, style=clip)
        wanted = reference.generate(own, other, Sampling(0.0, cfg_scale=cfg_scale), style=clip)
        logits = guided_logits(recorder, cfg_scale, len(reference.config.codec.scales))
        np.testing.assert_allclose(logits, wanted["logits"], rtol=0, atol=1e-3)
        np.testing.assert_array_equal(logits[..., 1] > logits[..., 0], wanted["bits"])
        np.testing.assert_allclose(frames.values, wanted["motion"], rtol=0, atol=1e-4)
