"""Seams between blocks of frames, on motion whose seams are known."""

from __future__ import annotations

import numpy as np
import pytest

from unils_training.metrics import Motion, Side
from unils_training.metrics.seams import SeamMetrics
from unils_training.rigs import RIGS

CHANNELS = tuple(RIGS["arkit"])
JAW = CHANNELS.index("jawOpen")


def _side(prediction: np.ndarray, truth: np.ndarray) -> Side:
    frames = len(prediction)
    values = [np.zeros((frames, len(CHANNELS))) for _ in range(2)]
    for motion, jaw in zip(values, (truth, prediction), strict=True):
        motion[:, JAW] = jaw
    still = np.zeros(frames, np.bool_)
    return Side("clip", Motion(values[0], CHANNELS), Motion(values[1], CHANNELS), still, still, np.zeros(frames))


def _result(block_frames: int, *jaws: np.ndarray) -> dict:
    metrics = SeamMetrics(block_frames)
    for jaw in jaws:
        metrics.add(_side(jaw, 2.0 * np.arange(len(jaw)) % 8))
    return metrics.result()


def test_a_jump_between_blocks_shows_as_velocity_at_the_seam() -> None:
    jaw = np.arange(20.0) + 4.0 * (np.arange(20) // 5)  # 1 a frame, 5 from each block to the next
    result = _result(5, jaw)
    assert result["block_frames"] == 5
    assert result["velocity"]["jaw"]["to_inside"] == pytest.approx(5.0)
    # No acceleration but where the step from or to a seam is one of its two.
    assert np.isnan(result["acceleration"]["jaw"]["to_inside"])


def test_a_smooth_face_has_no_seams() -> None:
    jaw = np.arange(40.0) ** 2
    result = _result(10, jaw)
    assert result["acceleration"]["jaw"]["to_inside"] == pytest.approx(1.0)
    # Velocity grows, so what lies at seams differs from the rest by where it lies: 20 against the mean of the others.
    at = np.diff(jaw)[9::10].mean()
    rest = np.delete(np.diff(jaw), slice(9, None, 10)).mean()
    assert result["velocity"]["jaw"]["to_inside"] == pytest.approx(at / rest)


def test_speed_is_compared_with_truth() -> None:
    result = _result(5, np.arange(9.0))
    truth = np.abs(np.diff(2.0 * np.arange(9) % 8)).mean()
    assert result["velocity"]["jaw"]["to_truth"] == pytest.approx(1.0 / truth)


def test_where_every_frame_is_a_seam_or_none_there_is_nothing_to_compare() -> None:
    for block in (0, 1):
        assert np.isnan(_result(block, np.arange(9.0))["velocity"]["jaw"]["to_inside"])


def test_sums_of_parts_are_sums_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal(n) for n in (30, 17, 8)]
    parts = SeamMetrics(4)
    for jaw in clips:
        part = SeamMetrics(4)
        part.add(_side(jaw, jaw))
        parts += part
    whole = SeamMetrics(4)
    for jaw in clips:
        whole.add(_side(jaw, jaw))
    found, wanted = parts.result(), whole.result()
    for order in ("velocity", "acceleration"):
        for figure, value in wanted[order]["jaw"].items():
            assert found[order]["jaw"][figure] == pytest.approx(value)
    assert found["velocity"]["jaw"]["to_truth"] == pytest.approx(1.0)
