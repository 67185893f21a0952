"""Every figure against a case computed by hand, and against a prediction that is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from unils_training.metrics import Metrics, Motion, Side, contingency, frame_level, quality_lines, voice_mask
from unils_training.metrics.accumulate import Moments, frechet_distance, pearson
from unils_training.metrics.alive import difference
from unils_training.metrics.detect import blinks, lip_closures, lip_gap, nods, shakes, smiles
from unils_training.metrics.lips import LipMetrics
from unils_training.metrics.listening import ListeningMetrics
from unils_training.rigs import ARKIT_CHANNELS

FRAMES = 1000


def still(frames: int = FRAMES) -> Motion:
    return Motion(np.zeros((frames, len(ARKIT_CHANNELS))), ARKIT_CHANNELS)


def moved(motion: Motion, **channels: np.ndarray | float) -> Motion:
    values = motion.values.copy()
    for name, signal in channels.items():
        values[:, ARKIT_CHANNELS.index(name)] = signal
    return Motion(values, ARKIT_CHANNELS)


def bumps(at: list[int], width: int, height: float, frames: int = FRAMES) -> np.ndarray:
    """Raised cosines of `width` frames centred on `at`."""
    signal = np.zeros(frames)
    shape = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(width) + 0.5) / width)
    for centre in at:
        signal[centre - width // 2 : centre - width // 2 + width] += height * shape
    return signal


def side(truth: Motion, prediction: Motion, speaking: slice = slice(0, 500), **more: object) -> Side:
    """Speaks in `speaking`; the other speaks in frames 500 to 1000, the second half of it loudly."""
    frames = len(truth)
    own, other, level = np.zeros(frames, bool), np.zeros(frames, bool), np.full(frames, -60.0)
    own[speaking] = True
    other[500:] = True
    level[500:750], level[750:] = -30.0, -10.0
    return Side("c0a", truth, prediction, own, other, level, **more)


def living(seed: int = 0) -> Motion:
    """Smoothed noise on every channel, with some nods, smiles, closures and blinks."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(FRAMES + 20, len(ARKIT_CHANNELS)))
    kernel = np.hanning(21) / np.hanning(21).sum()
    values = 0.2 + 0.1 * np.stack([np.convolve(column, kernel, mode="valid") for column in noise.T], axis=1)
    motion = Motion(values, ARKIT_CHANNELS)
    jaw = 0.3 + 0.2 * np.sin(np.arange(FRAMES) / 3.0)
    jaw[500:] = 0.01
    bump = bumps([40, 100, 160, 220, 300, 380], 8, 1.0)
    shut = {name: 0.0 for name in ARKIT_CHANNELS if name.startswith("mouth") and "Smile" not in name}
    return moved(
        motion,
        **{**shut, "mouthPressLeft": 0.4 * bump, "mouthPressRight": 0.4 * bump},
        jawOpen=jaw * (1.0 - bump),
        eyeBlinkLeft=bumps(list(range(50, FRAMES, 100)), 8, 1.0),
        eyeBlinkRight=bumps(list(range(50, FRAMES, 100)), 8, 1.0),
        headPitch=-bumps([560, 700, 820, 940], 14, 0.15),
        mouthSmileLeft=bumps([600, 780], 50, 0.6),
        mouthSmileRight=bumps([600, 780], 50, 0.6),
    )


def measured(truth: Motion, prediction: Motion, **more: object) -> dict[str, dict]:
    metrics = Metrics()
    metrics.add(side(truth, prediction, **more))
    return metrics.result()


# Accumulators


def test_moments_in_parts_equal_moments_at_once() -> None:
    rows = np.random.default_rng(0).normal(size=(97, 3)) * [1.0, 10.0, 0.1] + 5.0
    parts = Moments()
    for piece in np.split(rows, [0, 1, 40, 41]):
        parts += Moments.of(piece)
    assert parts.covariance == pytest.approx(np.cov(rows.T))
    assert parts.mean == pytest.approx(rows.mean(axis=0))


def test_pearson_by_hand() -> None:
    assert pearson(Moments.of(np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 3.0]]))) == pytest.approx(0.5)
    assert np.isnan(pearson(Moments.of(np.array([[1.0, 2.0], [1.0, 4.0]]))))


def test_frechet_distance_by_hand() -> None:
    # Diagonal Gaussians: |m1 - m2|^2 + sum of (s1 - s2)^2.
    first = Moments(101, np.array([0.0, 1.0]), 100 * np.diag([4.0, 1.0]))
    second = Moments(101, np.array([3.0, 1.0]), 100 * np.diag([1.0, 9.0]))
    assert frechet_distance(first, second) == pytest.approx(9.0 + 1.0 + 4.0)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-9)


# States


def test_a_listener_listens_on_for_two_seconds_and_not_while_speaking() -> None:
    frames = 200
    own, other = np.zeros(frames, bool), np.zeros(frames, bool)
    other[20:40], own[60:70] = True, True
    clip = Side("x", still(frames), still(frames), own, other, np.zeros(frames))
    expected = np.zeros(frames, bool)
    expected[20:90] = True
    expected[60:70] = False
    assert np.array_equal(clip.listening, expected)
    states = np.stack([clip.state(s) for s in ("speaking", "listening", "silent")])
    assert np.array_equal(states.sum(axis=0), np.ones(frames))


def test_loud_is_the_louder_half_of_what_is_heard_in_own_silence() -> None:
    clip = side(still(), still())
    assert np.flatnonzero(clip.other_loud)[[0, -1]].tolist() == [750, 999]


def test_frame_level_by_hand() -> None:
    samples = np.zeros(640 * 3 + 5, np.int16)
    samples[640:1280] = 16384  # half of full scale: -6.02 dB
    assert frame_level(samples) == pytest.approx([-100.0, 20 * np.log10(0.5), -100.0])


def test_voice_mask_finds_speech_over_a_noise_floor() -> None:
    level = np.full(200, -55.0)
    level[50:80] = -25.0
    level[84:100] = -20.0
    mask = voice_mask(level)
    assert np.flatnonzero(mask)[[0, -1]].tolist() == [50, 99]
    assert mask[50:100].all()
    assert not voice_mask(np.full(200, -90.0)).any()


def test_motion_that_is_not_finite_has_no_score() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        moved(still(), jawOpen=np.nan)


def test_truth_and_prediction_must_be_of_one_length() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        side(still(), still(FRAMES - 1))


# Detectors


def test_lips_close_when_the_jaw_or_mouth_close_lets_them_and_they_press() -> None:
    talk = moved(still(), jawOpen=0.3)
    assert lip_closures(talk).shape == (0, 2)
    bump = bumps([300, 600], 8, 1.0)
    pressed = moved(talk, mouthPressLeft=0.4 * bump, mouthPressRight=0.4 * bump)
    assert lip_closures(pressed).shape == (0, 2)
    closed = moved(pressed, mouthClose=0.3 * bump)
    assert [int(sum(run) // 2) for run in lip_closures(closed)] == [300, 600]
    assert len(lip_closures(moved(pressed, jawOpen=0.3 - 0.3 * bump))) == 2


def test_lip_gap_by_hand() -> None:
    # (.5 - .2) + .4 x mean(.1, .3) + .4 x .1 - .3 x mean(.2, .4) - .3 x mean(0, .2)
    face = moved(
        still(1),
        **{"jawOpen": 0.5, "mouthClose": 0.2, "mouthLowerDownLeft": 0.1, "mouthLowerDownRight": 0.3},
        **{"mouthUpperUpLeft": 0.1, "mouthUpperUpRight": 0.1, "mouthPressLeft": 0.2, "mouthPressRight": 0.4},
        mouthRollLower=0.2,
    )
    assert lip_gap(face) == pytest.approx([0.3 + 0.08 + 0.04 - 0.09 - 0.03])


def test_lips_at_rest_or_pressed_for_long_are_not_closing() -> None:
    quiet = np.arange(FRAMES) >= 500
    rest = moved(still(), jawOpen=np.where(quiet, 0.0, 0.3))
    assert lip_closures(rest).shape == (0, 2)
    tight = np.where(quiet, 0.5, 0.0)
    assert lip_closures(moved(rest, mouthPressLeft=tight, mouthPressRight=tight)).shape == (0, 2)


def test_a_blink_needs_both_lids_and_a_wobble_at_the_threshold_is_one_blink() -> None:
    lids = bumps([100, 400], 8, 1.0)
    lids[395:405] = [0.1, 0.4, 0.6, 0.45, 0.6, 0.45, 0.6, 0.4, 0.2, 0.0]
    assert len(blinks(moved(still(), eyeBlinkLeft=lids, eyeBlinkRight=lids))) == 2
    assert len(blinks(moved(still(), eyeBlinkLeft=lids))) == 0


def test_a_nod_is_not_a_shake_and_sway_is_neither() -> None:
    dips = -bumps([200, 500], 13, 0.15)
    nodding = moved(still(), headPitch=dips)
    found = nods(nodding)
    assert len(found) == 2
    assert len(shakes(nodding)) == 0
    assert np.all(np.abs(found.mean(axis=1) - [200, 500]) <= 2)
    t = np.arange(FRAMES)
    turn = np.where((t >= 300) & (t < 325), 0.12 * np.sin(2 * np.pi * (t - 300) / 12.5), 0.0)
    shaking = moved(still(), headYaw=turn)
    assert len(shakes(shaking)) == 1
    assert len(nods(shaking)) == 0
    sway = moved(still(), headPitch=0.1 * np.sin(2 * np.pi * t / 125.0), headYaw=0.1 * np.sin(2 * np.pi * t / 140.0))
    assert len(nods(sway)) == 0
    assert len(shakes(sway)) == 0


def test_a_smile_is_a_lasting_rise_over_the_baseline() -> None:
    face = moved(still(), mouthSmileLeft=0.3 + bumps([300], 60, 0.5), mouthSmileRight=0.3 + bumps([300], 60, 0.5))
    found = smiles(face)
    assert len(found) == 1
    assert found[0][0] <= 290
    assert found[0][1] >= 310
    assert len(smiles(moved(still(), mouthSmileLeft=0.6, mouthSmileRight=0.6))) == 0


# Lips


def test_the_truth_scores_full_marks() -> None:
    result = measured(living(), living())
    lips, alive, listening = result["lips"], result["alive"], result["listening"]
    assert lips["jaw_correlation"] == pytest.approx(1.0)
    assert lips["jaw_correlation_pooled"] == pytest.approx(1.0)
    assert lips["closures"] == {"truth": 6, "predicted": 6, "hits": 6, "recall": 1.0, "precision": 1.0, "f1": 1.0}
    assert lips["closure_timing_median_frames"] == 0.0
    assert lips["closure_timing_share_within_1"] == 1.0
    for figure in ("lve", "mhd", "fdd", "pdd", "jdd"):
        assert result["paper"]["speaking"][figure] == 0.0
    assert result["paper"]["sid"] == result["paper"]["sid_truth"]
    assert alive["stuck_channels"] == []
    assert alive["jitter"]["total"] == pytest.approx(1.0)
    for state in ("speaking", "listening"):
        assert all(alive[state]["std_ratio"][g] == pytest.approx(1.0) for g in ("head", "brows", "gaze", "lids", "jaw"))
        assert alive[state]["fdd"] == 0.0
        assert alive[state]["frechet"] == pytest.approx(0.0, abs=1e-6)
    assert listening["strict"]["reactions"]["f1"] == 1.0
    assert listening["strict"]["nod"]["truth"] == 4
    assert listening["strict"]["smile"]["truth"] == 2


def test_jaw_correlation_is_a_mean_over_clips_and_a_still_jaw_earns_nothing() -> None:
    truth = living()
    lips = LipMetrics()
    lips.add(side(truth, truth))
    lips.add(side(truth, moved(truth, jawOpen=0.1)))
    assert lips.result()["jaw_correlation"] == pytest.approx(0.5)
    inverted = LipMetrics()
    inverted.add(side(truth, moved(truth, jawOpen=0.6 - truth["jawOpen"])))
    assert inverted.result()["jaw_correlation"] == pytest.approx(-1.0)


def closing(at: list[int]) -> Motion:
    bump = bumps(at, 8, 1.0)
    return moved(still(), jawOpen=0.3 * (1.0 - bump), mouthPressLeft=0.4 * bump, mouthPressRight=0.4 * bump)


def test_late_closures_are_measured_late_and_missing_ones_are_missed() -> None:
    at = [40, 100, 160, 220, 300, 380]
    lips = LipMetrics()
    lips.add(side(closing(at), closing([frame + 2 for frame in at])))
    result = lips.result()
    assert result["closure_timing_median_frames"] == 2.0
    assert result["closure_timing_bias_frames"] == 2.0
    assert result["closure_timing_share_within_1"] == 0.0
    assert result["closures"]["recall"] == 1.0
    half = LipMetrics()
    half.add(side(closing(at), closing([*at[:3], 430])))
    assert half.result()["closures"]["recall"] == 0.5
    assert half.result()["closures"]["precision"] == 0.75


def test_labels_are_scored_where_the_corpus_has_them() -> None:
    truth = living()
    labels = {"lip_closure": np.array([[39, 41], [99, 101], [130, 132]])}
    result = measured(truth, truth, labels=labels)["lips"]["closures_against_labels"]
    assert (result["truth"], result["hits"], result["predicted"]) == (3, 2, 6)


def test_rest_is_the_mean_jaw_in_own_silence() -> None:
    jaw = np.zeros(FRAMES)
    jaw[:500], jaw[500:750], jaw[750:] = 0.9, 0.02, 0.10
    lips = measured(still(), moved(still(), jawOpen=jaw))["lips"]
    assert lips["rest_jaw"] == pytest.approx(0.06)
    assert lips["rest_jaw_other_loud"] == pytest.approx(0.10)
    assert lips["rest_jaw_truth"] == 0.0


# Alive


def test_std_ratio_by_hand() -> None:
    wave = np.tile([1.0, -1.0], FRAMES // 2)
    truth = moved(still(), headYaw=0.3 * wave, headPitch=0.4 * wave)
    prediction = moved(still(), headYaw=0.3 * wave)
    alive = measured(truth, prediction)["alive"]
    assert alive["listening"]["std_ratio"]["head"] == pytest.approx(0.3 / 0.5)
    assert alive["listening"]["std_ratio_pooled"]["head"] == pytest.approx(0.3 / 0.5)
    assert np.isnan(alive["listening"]["std_ratio"]["brows"])


def test_std_within_clips_does_not_see_that_clips_differ_but_the_pooled_one_does() -> None:
    wave = 0.1 * np.tile([1.0, -1.0], FRAMES // 2)
    metrics = Metrics()
    for offset in (-0.5, 0.5):
        metrics.add(side(moved(still(), headYaw=wave), moved(still(), headYaw=wave + offset)))
    alive = metrics.result()["alive"]["speaking"]
    assert alive["std_ratio"]["head"] == pytest.approx(1.0)
    assert alive["std_ratio_pooled"]["head"] == pytest.approx(np.sqrt(0.01 + 0.25) / 0.1, rel=1e-3)


def test_speed_ratio_halves_with_half_the_movement() -> None:
    truth = living()
    calm = moved(
        truth, headPitch=0.5 * truth["headPitch"], headYaw=0.5 * truth["headYaw"], headRoll=0.5 * truth["headRoll"]
    )
    assert measured(truth, calm)["alive"]["listening"]["speed_ratio"]["head"] == pytest.approx(0.5)


def test_head_and_jaw_dynamics_deviation_by_hand() -> None:
    wave = np.tile([1.0, -1.0], FRAMES // 2)
    truth = moved(still(), headYaw=0.3 * wave, jawOpen=0.2 * wave)
    alive = measured(truth, moved(still(), headYaw=0.1 * wave))["alive"]["speaking"]
    scale = np.sqrt(500 / 499)  # unbiased
    assert alive["pdd"] == pytest.approx(100 * 0.2 * scale / 3)
    assert alive["jdd"] == pytest.approx(100 * 0.2 * scale / 4)
    assert alive["fdd"] == 0.0


def test_blinks_a_minute_by_hand() -> None:
    lids = bumps([50, 250, 450, 650, 850], 8, 1.0)
    blinking = moved(still(), eyeBlinkLeft=lids, eyeBlinkRight=lids)
    alive = measured(still(), blinking)["alive"]
    # 3 in the 20 s spoken, 2 in the 20 s listened to.
    assert alive["blinks_per_minute"]["speaking"] == pytest.approx(9.0)
    assert alive["blinks_per_minute"]["listening"] == pytest.approx(6.0)
    assert alive["blinks_per_minute"]["all"] == pytest.approx(7.5)
    assert alive["blinks_per_minute_truth"]["all"] == 0.0
    assert np.isnan(alive["blinks_per_minute"]["silent"])


def test_a_frozen_channel_is_named_and_one_that_never_moves_is_not() -> None:
    truth = moved(living(), tongueOut=0.0)
    prediction = moved(truth, browInnerUp=0.2, headRoll=0.05 * truth["headRoll"])
    assert measured(truth, prediction)["alive"]["stuck_channels"] == ["browInnerUp", "headRoll"]


def test_jitter_by_hand() -> None:
    impulse = np.array([[0.0], [1.0], [0.0], [0.0]])
    assert difference(impulse, 2).tolist() == [[2.0], [1.0]]
    assert difference(impulse, 3).tolist() == [[3.0]]
    t = np.arange(FRAMES, dtype=float)
    truth, shaky = moved(still(), headYaw=t**2 / 2), moved(still(), headYaw=1.5 * t**2 / 2)
    assert measured(truth, shaky)["alive"]["jitter"]["head"] == pytest.approx(1.5)
    noisy = moved(living(), headYaw=np.random.default_rng(0).normal(size=FRAMES))
    assert measured(living(), noisy)["alive"]["jitter"]["total"] > 1.3


def test_frechet_of_shifted_frames_is_the_shift_in_true_deviations() -> None:
    truth = living()
    std = truth["headYaw"][:500].std(ddof=1)
    shifted = moved(truth, headYaw=truth["headYaw"] + 3 * std)
    alive = measured(truth, shifted, partner=living(5))["alive"]["speaking"]
    assert alive["frechet"] == pytest.approx(9.0, rel=1e-6)
    assert alive["paired_frechet"] == pytest.approx(9.0, rel=1e-6)


def test_the_paired_distance_sees_a_face_that_ignores_its_partner() -> None:
    truth, partner = living(1), living(2)
    mirror = Motion(0.5 * (truth.values + partner.values), ARKIT_CHANNELS)
    independent = living(3)
    near = measured(mirror, Motion(mirror.values + 1e-4, ARKIT_CHANNELS), partner=partner)["alive"]["listening"]
    far = measured(mirror, independent, partner=partner)["alive"]["listening"]
    assert near["paired_frechet"] < far["paired_frechet"]


# Listening


def test_reactions_elsewhere_are_no_reactions() -> None:
    truth = living()
    moved_away = moved(
        truth,
        headPitch=-bumps([600, 740, 860, 980], 14, 0.15),
        mouthSmileLeft=bumps([680, 900], 50, 0.6),
        mouthSmileRight=bumps([680, 900], 50, 0.6),
    )
    scores = measured(truth, moved_away)["listening"]["strict"]
    assert scores["reactions"]["f1"] == 0.0
    assert (scores["reactions"]["truth"], scores["reactions"]["predicted"]) == (6, 6)


def test_a_nod_half_a_second_late_counts_loosely_only() -> None:
    truth, at = living(), [560, 700, 820, 940]
    late = moved(truth, headPitch=-bumps([a + 10 for a in at], 14, 0.15))
    listening = measured(truth, late)["listening"]
    assert listening["strict"]["nod"]["hits"] == 0
    assert listening["loose"]["nod"]["hits"] == 4


def test_reactions_while_speaking_do_not_count() -> None:
    nodding = moved(still(), headPitch=-bumps([100, 200, 700], 14, 0.15))
    listening = measured(nodding, nodding)["listening"]
    assert listening["strict"]["nod"]["truth"] == 1
    assert listening["per_minute"]["nod"] == pytest.approx(3.0)


def test_contingency_compares_with_the_shuffled_partner() -> None:
    at = [560, 700, 820, 940]
    truth = moved(still(), headPitch=-bumps(at, 14, 0.15))
    # With the right partner 4 of 4, with the wrong one 1 of 4: F1 1 against 0.25.
    wrong = moved(still(), headPitch=-bumps([560, 620, 760, 880], 14, 0.15))
    right_metrics, shuffled_metrics = ListeningMetrics(), ListeningMetrics()
    for name in ("c0a", "c1a", "c2a"):
        right_metrics.add(replace(side(truth, truth), name=name))
        shuffled_metrics.add(replace(side(truth, wrong), name=name))
    figures = contingency(right_metrics, shuffled_metrics)
    assert figures["f1"] == 1.0
    assert figures["f1_shuffled"] == 0.25
    assert figures["ratio"] == 4.0
    assert figures["ratio_low"] == figures["ratio_high"] == 4.0
    assert contingency(right_metrics, right_metrics)["ratio"] == 1.0


def test_a_shuffled_partner_without_a_hit_counts_as_half_a_hit() -> None:
    truth = moved(still(), headPitch=-bumps([560, 700], 14, 0.15))
    right, shuffled, nothing = ListeningMetrics(), ListeningMetrics(), ListeningMetrics()
    right.add(side(truth, moved(still(), headPitch=-bumps([560, 630], 14, 0.15))))
    shuffled.add(side(truth, moved(still(), headPitch=-bumps([620, 760], 14, 0.15))))
    nothing.add(side(still(), still()))
    # 1 hit of 2 and 2, against half a hit of 2 and 2.
    assert contingency(right, shuffled)["ratio"] == pytest.approx(2.0)
    assert contingency(right, shuffled)["f1_shuffled"] == 0.0
    assert np.isnan(contingency(nothing, nothing)["ratio"])
    assert np.isnan(contingency(ListeningMetrics(), ListeningMetrics())["ratio"])


# All together


def test_two_processes_add_up_to_one() -> None:
    clips = [replace(side(living(i), living(i + 10)), name=f"c{i}a") for i in range(4)]
    together, first, second = Metrics(), Metrics(), Metrics()
    for i, clip in enumerate(clips):
        together.add(clip)
        (first if i < 2 else second).add(clip)
    total = Metrics()
    total += first
    total += second

    def numbers(value: object) -> list[float]:
        if isinstance(value, dict):
            return [n for key in sorted(value) for n in numbers(value[key])]
        return [float(value)] if isinstance(value, (int, float)) else []

    assert numbers(total.result()) == pytest.approx(numbers(together.result()), nan_ok=True)


def test_quality_lines_say_met_missed_and_not_measured() -> None:
    figures = {"ratio": 2.5, "ratio_low": 1.9, "ratio_high": 3.3}
    good = {line.what: line for line in quality_lines(measured(living(), living()), figures)}
    assert len(good) == 16
    assert all(line.met for line in good.values())
    assert good["reaction F1 / with a shuffled partner"].figure == "2.5 times (1.9 to 3.3)"
    bad = {line.what: line.met for line in quality_lines(measured(living(), still()), None)}
    assert bad["jaw correlation while speaking"] is False
    assert bad["lip closures: recall"] is False
    assert bad["std of head / truth, listening"] is False
    assert bad["blinks a minute"] is False
    assert bad["channels stuck"] is False
    assert bad["reaction F1 / with a shuffled partner"] is None


# Detectors against labels


def test_detectors_are_scored_against_labels_in_the_state_they_are_judged_in() -> None:
    labels = {
        "nod": np.array([[553, 567], [620, 640]]),
        "blink": np.array([[frame - 4, frame + 4] for frame in range(50, FRAMES, 100)]),
    }
    check = measured(living(), living(1), labels=labels)["detectors"]
    assert (check["blink"]["truth"], check["blink"]["hits"], check["blink"]["f1"]) == (10, 10, 1.0)
    assert (check["nod"]["truth"], check["nod"]["predicted"], check["nod"]["hits"]) == (2, 4, 1)
    assert (check["smile"]["truth"], check["smile"]["predicted"], check["smile"]["hits"]) == (0, 2, 0)
    assert measured(living(), living())["detectors"] == {}
