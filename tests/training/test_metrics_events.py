"""Events: runs, hysteresis, one-to-one matching and its scores."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from unils_training.metrics import events
from unils_training.metrics.events import Counts


def of(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, np.int64).reshape(-1, 2)


def test_runs_reach_both_ends() -> None:
    assert events.runs(np.array([1, 1, 0, 1, 0, 0, 1], bool)).tolist() == [[0, 2], [3, 4], [6, 7]]
    assert events.runs(np.zeros(3, bool)).shape == (0, 2)


def test_hysteresis_keeps_a_run_that_reaches_on_until_it_falls_under_off() -> None:
    signal = np.array([0.0, 0.4, 0.6, 0.4, 0.2, 0.4, 0.4, 0.0])
    assert events.hysteresis(signal, on=0.5, off=0.3).tolist() == [[1, 4]]
    with pytest.raises(ValueError, match="on >= off"):
        events.hysteresis(signal, on=0.2, off=0.3)


def test_join_bridges_short_gaps_only() -> None:
    assert events.join(of((0, 2), (4, 5), (9, 10)), gap=2).tolist() == [[0, 5], [9, 10]]
    assert events.join(of(), gap=2).shape == (0, 2)


def test_an_event_belongs_to_the_state_of_its_middle_frame() -> None:
    mask = np.array([0, 0, 1, 1, 0, 0], bool)
    assert events.within(of((0, 2), (1, 5), (2, 4), (4, 6)), mask).tolist() == [[1, 5], [2, 4]]


def test_iou_by_hand() -> None:
    # [0,10) and [5,15): 5 shared of 15.
    assert events.iou(of((0, 10)), of((5, 15), (0, 10), (10, 12))) == pytest.approx(np.array([[1 / 3, 1.0, 0.0]]))


def test_one_prediction_cannot_answer_two_truths() -> None:
    pairs = events.match_by_overlap(of((0, 10), (10, 20)), of((0, 20)), 0.5)
    assert len(pairs) == 1


def test_more_pairs_beat_a_better_single_pair() -> None:
    # Truth at 10 and 13, prediction at 12 and 15, tolerance 3: (10,12) and (13,15) beat the nearest pair (13,12).
    truth, prediction = of((10, 11), (13, 14)), of((12, 13), (15, 16))
    assert events.match_by_time(truth, prediction, 3.0).tolist() == [[0, 0], [1, 1]]


def test_matching_equals_the_best_of_all_assignments() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        truth, prediction = (np.sort(rng.choice(30, size=rng.integers(0, 5), replace=False)) for _ in range(2))
        found = events.match_by_time(
            np.stack((truth, truth + 1), axis=1), np.stack((prediction, prediction + 1), axis=1), 4.0
        )
        best = (0, 0.0)
        for size in range(1, min(len(truth), len(prediction)) + 1):
            for rows in itertools.combinations(range(len(truth)), size):
                for columns in itertools.permutations(range(len(prediction)), size):
                    distance = np.abs(truth[list(rows)] - prediction[list(columns)])
                    if distance.max() <= 4:
                        best = max(best, (size, -float(distance.sum())))
        cost = float(np.abs(truth[found[:, 0]] - prediction[found[:, 1]]).sum())
        assert (len(found), -cost) == best


def test_counts_by_hand() -> None:
    counts = Counts(3, 4, 6) + Counts(1, 1, 2)
    assert (counts.recall, counts.precision) == (0.8, 0.5)
    assert counts.f1 == pytest.approx(2 * 0.8 * 0.5 / 1.3)
    assert np.isnan(Counts().f1)
    assert Counts(0, 0, 3).f1 == 0.0
