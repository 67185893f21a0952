"""The paper's figures against cases by hand, against torchmetrics, and at bounded memory."""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flame_files import write_flame, write_masks
from torchmetrics.functional.multimodal import lip_vertex_error

from unils_training.flame import FlameMesh, FlameModel
from unils_training.metrics import Metrics, Motion, PaperMetrics, Side, paper_table, quality_lines, without_ruler
from unils_training.metrics import paper as paper_module
from unils_training.metrics.detect import nods, shakes
from unils_training.metrics.paper import correlation, dynamics_deviation, label_entropy
from unils_training.rigs import ARKIT_CHANNELS, FLAME_CHANNELS

FRAMES = 300
SPOKEN = 120


def noise(channels: tuple[str, ...], seed: int, frames: int = FRAMES, scale: float = 0.1) -> Motion:
    return Motion(scale * np.random.default_rng(seed).normal(size=(frames, len(channels))), channels)


def moved(motion: Motion, **channels: np.ndarray | float) -> Motion:
    values = motion.values.copy()
    for name, change in channels.items():
        values[:, motion.channels.index(name)] += change
    return Motion(values, motion.channels)


def side(truth: Motion, prediction: Motion, partner: Motion | None = None, name: str = "c0a") -> Side:
    """Speaks in the first 120 frames; the other speaks afterwards."""
    speaking = np.arange(len(truth)) < SPOKEN
    return Side(name, truth, prediction, speaking, ~speaking, np.full(len(truth), -20.0), partner=partner)


def measured(clip: Side, mesh: FlameMesh | None = None) -> dict:
    metrics = PaperMetrics()
    metrics.add(clip, mesh)
    return metrics.result()


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> FlameMesh:
    folder = tmp_path_factory.mktemp("flame")
    return FlameMesh(FlameModel.load(write_flame(folder / "flame.pkl"), write_masks(folder / "masks.pkl")))


class Plate:
    """Three vertices that expressions 0, 1, 2 push along x, y, z, in mm; the first is lips, the others upper face."""

    lips, upper_face, source = np.array([0]), np.array([1, 2]), "masks"

    def __call__(self, motion: np.ndarray) -> np.ndarray:
        vertices = np.zeros((len(motion), 3, 3))
        vertices[:, [0, 1, 2], [0, 1, 2]] = motion[:, :3]
        return vertices


# By hand


def test_vertex_figures_by_hand() -> None:
    truth = Motion(np.zeros((6, 108)), FLAME_CHANNELS)
    values = np.zeros((6, 108))
    values[:, 0] = [3.0, 4.0, 0.0, 9.0, 9.0, 9.0]  # lips, x
    values[:, 1] = [1.0, -1.0, 0.0, 5.0, 5.0, 5.0]  # upper face, y
    clip = replace(side(truth, Motion(values, FLAME_CHANNELS)), speaking=np.arange(6) < 3)
    result = measured(clip, Plate())
    assert result["unit"] == "mm"
    assert result["speaking"]["lve"] == pytest.approx(np.sqrt((9 + 16 + 0) / 3))
    assert result["speaking"]["mhd"] == pytest.approx(np.sqrt((9 + 16 + 1 + 1) / 9))
    # std (ddof 1) of 1, -1, 0 is 1; the other upper vertex does not move.
    assert result["speaking"]["fdd"] == pytest.approx(100 * (1.0 + 0.0) / 2)
    assert result["listening"]["fdd"] == 0.0
    assert result["listening"]["lve"] == pytest.approx(9.0)
    assert result["speaking"]["frames"] == result["listening"]["frames"] == 3


def test_dynamics_sum_the_axes_before_the_deviation() -> None:
    truth = np.zeros((3, 3))
    # x + y + z is 0, 2, 4: std 2. By axis the deviations would be 1, 0 and 1.
    turn = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [2.0, 0.0, 2.0]])
    assert dynamics_deviation(truth, turn) == pytest.approx(200.0)
    assert dynamics_deviation(truth, turn * [1.0, 1.0, -1.0]) == 0.0


@pytest.mark.parametrize(("channels", "pose", "jaw"), [
    (ARKIT_CHANNELS, ("headYaw", "headPitch", "headRoll"), "jawOpen"),
    (FLAME_CHANNELS, ("headX", "headY", "headZ"), "jaw"),
])  # fmt: skip
def test_pose_and_jaw_dynamics_need_no_vertices(channels: tuple[str, ...], pose: tuple[str, ...], jaw: str) -> None:
    still = Motion(np.zeros((FRAMES, len(channels))), channels)
    wave, open_mouth = np.sin(np.arange(FRAMES)), np.cos(np.arange(FRAMES))
    clip = side(still, moved(still, **dict.fromkeys(pose, wave), **{jaw: open_mouth}))
    result = measured(clip)
    for state, frames in (("speaking", slice(0, SPOKEN)), ("listening", slice(SPOKEN, None))):
        assert result[state]["pdd"] == pytest.approx(100 * 3 * wave[frames].std(ddof=1))
        assert result[state]["jdd"] == pytest.approx(100 * open_mouth[frames].std(ddof=1))


def test_blendshape_forms_by_hand() -> None:
    still = Motion(np.zeros((FRAMES, 55)), ARKIT_CHANNELS)
    step = np.where(np.arange(FRAMES) % 2 == 0, 0.4, 0.0)
    result = measured(side(still, moved(still, jawOpen=0.2, mouthPucker=step, browInnerUp=step, headYaw=5.0)))
    assert result["unit"] == "blendshapes"
    # Frames alternate between max(.2, .4) and .2; the head counts for nothing.
    assert result["speaking"]["lve"] == pytest.approx(np.sqrt((0.4**2 + 0.2**2) / 2))
    assert result["speaking"]["mhd"] == pytest.approx(np.sqrt((0.2**2 + (0.4**2 + 0.4**2) / 2) / 52))
    # 25 channels of upper face: 5 brows, 8 gaze, 6 lids, 6 cheeks.
    assert result["speaking"]["fdd"] == pytest.approx(100 * step[:SPOKEN].std(ddof=1) / 25)


def test_frechet_distances_by_hand() -> None:
    truth = noise(ARKIT_CHANNELS, 0)
    result = measured(side(truth, moved(truth, headYaw=0.3, headRoll=-0.4, jawOpen=0.1, browInnerUp=0.2)))
    assert result["fd"] == pytest.approx({"expression": 0.2**2, "jaw": 0.1**2, "pose": 0.3**2 + 0.4**2}, abs=1e-8)
    spread = Motion(truth.values * np.where(np.array(ARKIT_CHANNELS) == "jawOpen", 3.0, 1.0), ARKIT_CHANNELS)
    std, mean = truth["jawOpen"].std(ddof=1), truth["jawOpen"].mean()
    assert measured(side(truth, spread))["fd"]["jaw"] == pytest.approx((2 * std) ** 2 + (2 * mean) ** 2)


def test_only_the_paired_distance_sees_whose_face_it_is() -> None:
    partner = noise(FLAME_CHANNELS, 1)
    truth = Motion(0.8 * partner.values + noise(FLAME_CHANNELS, 2, scale=0.03).values, FLAME_CHANNELS)
    # The same frames in another order go with nobody.
    order = np.random.default_rng(3).permutation(FRAMES)
    result = measured(side(truth, Motion(truth.values[order], FLAME_CHANNELS), partner))
    assert result["fd"]["pose"] == pytest.approx(0.0, abs=1e-9)
    assert result["paired_fd"]["pose"] > 1e-3
    own = measured(side(truth, truth, partner))
    assert own["paired_fd"]["pose"] == pytest.approx(0.0, abs=1e-9)
    assert own["rpcc"] == {"expression": 0.0, "jaw": 0.0, "pose": 0.0}


def test_residual_correlation_by_hand() -> None:
    partner = noise(FLAME_CHANNELS, 4)
    opposite = Motion(-2.0 * partner.values, FLAME_CHANNELS)
    result = measured(side(partner, opposite, partner))
    assert result["rpcc"] == pytest.approx({"expression": 2.0, "jaw": 2.0, "pose": 2.0})
    assert np.isnan(measured(side(partner, opposite))["rpcc"]["jaw"])
    a = np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]])
    b = np.array([[2.0, 1.0], [4.0, 2.0], [3.0, 3.0]])
    assert correlation(a, b) == pytest.approx((0.5 + 0.0) / 2)  # a constant column has none


def test_entropy_of_labels_by_hand() -> None:
    truth = np.repeat(10.0 * np.eye(4), 50, axis=0) + 0.01 * np.random.default_rng(0).normal(size=(200, 4))
    assert label_entropy(truth, truth, 4) == pytest.approx(2.0)
    assert label_entropy(truth, truth[:100], 4) == pytest.approx(1.0)
    assert label_entropy(truth, truth[:50], 4) == 0.0
    # Frames are labelled by the clusters of truth, wherever they lie.
    assert label_entropy(truth, np.full((9, 4), 100.0) * [1, 0, 0, 0], 4) == 0.0
    assert label_entropy(np.zeros((50, 1)), np.zeros((50, 1)), 10) == 0.0
    assert np.isnan(label_entropy(truth[:0], truth, 4))


def test_a_face_that_does_less_has_less_entropy() -> None:
    truth = noise(FLAME_CHANNELS, 5, frames=1000)
    timid = Motion(0.2 * truth.values, FLAME_CHANNELS)
    result = measured(side(truth, timid))
    for part in ("expression", "jaw", "pose"):
        assert result["sid"][part] < result["sid_truth"][part] - 0.3
    assert 2.5 < result["sid_truth"]["jaw"] <= np.log2(10)
    assert 4.0 < result["sid_truth"]["expression"] <= np.log2(40)


# Against other code


def test_lip_error_is_that_of_torchmetrics(mesh: FlameMesh) -> None:
    truth, prediction = noise(FLAME_CHANNELS, 6), noise(FLAME_CHANNELS, 7)
    result = measured(side(truth, prediction), mesh)
    vertices = [torch.from_numpy(mesh(motion.values)) for motion in (prediction, truth)]
    for state, frames in (("speaking", slice(0, SPOKEN)), ("listening", slice(SPOKEN, None))):
        theirs = lip_vertex_error(*(v[frames] for v in vertices), mesh.lips.tolist())
        # theirs is the mean of squares; the paper's figure is the root of it.
        assert result[state]["lve"] == pytest.approx(float(theirs) ** 0.5, rel=1e-9)


def test_vertex_figures_in_pieces_equal_the_formulas_at_once(mesh: FlameMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, prediction = noise(FLAME_CHANNELS, 8), noise(FLAME_CHANNELS, 9)
    t, p = mesh(truth.values), mesh(prediction.values)
    for chunk in (7, 128, 1000):
        monkeypatch.setattr(paper_module, "CHUNK_FRAMES", chunk)
        result = measured(side(truth, prediction), mesh)
        for state, frames in (("speaking", slice(0, SPOKEN)), ("listening", slice(SPOKEN, None))):
            distance = np.linalg.norm(p[frames] - t[frames], axis=2)
            assert result[state]["mhd"] == pytest.approx(np.sqrt(np.mean(distance**2)))
            spread = [v[frames][:, mesh.upper_face].sum(axis=2).std(axis=0, ddof=1) for v in (t, p)]
            assert result[state]["fdd"] == pytest.approx(100 * np.mean(np.abs(spread[1] - spread[0])))


def test_vertices_are_in_millimetres_without_head_pose(mesh: FlameMesh) -> None:
    still = Motion(np.zeros((FRAMES, 108)), FLAME_CHANNELS)
    turned = measured(side(still, moved(still, headY=0.5)), mesh)
    assert turned["speaking"]["mhd"] == 0.0
    opened = measured(side(still, moved(still, jaw=0.1)), mesh)
    assert 0.5 < opened["speaking"]["lve"] < 50.0


# Clips add up


def clips(count: int, channels: tuple[str, ...] = FLAME_CHANNELS) -> list[Side]:
    return [
        side(noise(channels, 10 * i), noise(channels, 10 * i + 1), noise(channels, 10 * i + 2), name=f"c{i}a")
        for i in range(count)
    ]


def test_processes_add_up_in_any_order_and_through_pickles(mesh: FlameMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper_module, "SAMPLE_FRAMES", 500)
    at_once, apart = Metrics(), []
    for clip in clips(4):
        at_once.add(clip, mesh)
        apart.append(Metrics())
        apart[-1].add(clip, mesh)
    total = Metrics()
    for metrics in apart[::-1]:
        total += pickle.loads(pickle.dumps(metrics))
    whole, added = at_once.result()["paper"], total.result()["paper"]
    assert len(total.paper.sample.keys) == 500
    for part in ("speaking", "listening", "fd", "paired_fd", "rpcc", "sid", "sid_truth"):
        assert added[part] == pytest.approx(whole[part]), part
    assert (added["clips"], added["unit"], added["regions"]) == (4, "mm", "masks")


def test_a_figure_is_the_mean_over_clips() -> None:
    pair = clips(2, ARKIT_CHANNELS)
    metrics = PaperMetrics()
    for clip in pair:
        metrics.add(clip)
    alone = [measured(clip) for clip in pair]
    for where, key in (("speaking", "lve"), ("listening", "fdd"), ("fd", "pose"), ("rpcc", "jaw")):
        assert metrics.result()[where][key] == pytest.approx((alone[0][where][key] + alone[1][where][key]) / 2)


@pytest.mark.parametrize("channels", [ARKIT_CHANNELS, FLAME_CHANNELS])
def test_memory_does_not_grow_with_the_number_of_clips(
    channels: tuple[str, ...], mesh: FlameMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper_module, "SAMPLE_FRAMES", 400)
    metrics = Metrics()
    mesh_of_rig = mesh if channels is FLAME_CHANNELS else None

    def peak(numbers: range) -> int:
        tracemalloc.reset_peak()
        for i in numbers:
            clip = side(noise(channels, i), noise(channels, i + 1), noise(channels, i + 2), name=f"c{i}a")
            metrics.add(clip, mesh_of_rig)
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        early = peak(range(5))
        late = peak(range(5, 35))
    finally:
        tracemalloc.stop()
    one_clip = 3 * FRAMES * len(channels) * 8
    # A few counts are kept for each clip, for the bootstrap over clips: 30 clips' motion would be 20 million bytes.
    assert late - early < one_clip / 4


# What a rig does not have


def test_rig_flame_without_a_file_leaves_vertex_figures_unmeasured() -> None:
    result = measured(side(noise(FLAME_CHANNELS, 0), noise(FLAME_CHANNELS, 1)))
    for state in ("speaking", "listening"):
        assert all(np.isnan(result[state][name]) for name in ("lve", "mhd", "fdd"))
        assert result[state]["pdd"] > 0.0
        assert result[state]["jdd"] > 0.0
    assert result["unit"] == ""


def test_vertices_of_another_rig_are_refused(mesh: FlameMesh) -> None:
    with pytest.raises(ValueError, match="rig arkit, which has no FLAME vertices"):
        PaperMetrics().add(clips(1, ARKIT_CHANNELS)[0], mesh)


def test_a_state_of_one_frame_is_not_counted() -> None:
    clip = replace(clips(1)[0], speaking=np.arange(FRAMES) == 5)
    result = measured(clip)
    assert result["speaking"]["frames"] == 0
    assert np.isnan(result["speaking"]["pdd"])
    assert result["listening"]["frames"] == FRAMES - 1


def test_no_clips_give_no_figures() -> None:
    result = PaperMetrics().result()
    assert result["clips"] == 0
    assert np.isnan(result["speaking"]["lve"])
    assert np.isnan(result["sid"]["expression"])


def swings(axis: str) -> Motion:
    still = Motion(np.zeros((FRAMES, 108)), FLAME_CHANNELS)
    wave = np.zeros(FRAMES)
    wave[200:240] = 0.08 * np.sin(2 * np.pi * np.arange(40) / 20)
    return moved(still, **{axis: wave})


def test_nods_and_shakes_of_rig_flame_are_told_apart() -> None:
    assert len(nods(swings("headX"))) == 1
    assert len(shakes(swings("headX"))) == 0
    assert len(nods(swings("headY"))) == 0
    assert len(shakes(swings("headY"))) == 1


def test_every_part_of_the_metrics_takes_rig_flame_and_says_what_it_did_not_measure() -> None:
    metrics = Metrics()
    metrics.add(side(swings("headX"), swings("headX"), noise(FLAME_CHANNELS, 3)))
    result = metrics.result()
    assert result["listening"]["strict"]["nod"]["f1"] == 1.0
    assert "smile" not in result["listening"]["strict"]
    assert result["alive"]["events"]["nod"]["per_minute"]["listening"] == pytest.approx(60 / (180 / 25))
    assert "blink" not in result["alive"]["events"]
    assert result["lips"]["closures"]["truth"] == 0
    lines = [line.what for line in quality_lines(result, None)]
    assert lines[0] == "jaw correlation while speaking"
    assert len(lines) == 8
    for what in ("closures", "blinks", "brows", "jawOpen"):
        assert not any(what in line for line in lines)
        assert what in without_ruler("flame")
    assert result["alive"]["listening"]["std_ratio"]["head"] == pytest.approx(1.0)
    assert set(result["listening_spectrum"]["truth"]) == {"headX", "headY", "headZ", "jaw"}


def test_blink_statistics_by_hand() -> None:
    still = Motion(np.zeros((FRAMES, 55)), ARKIT_CHANNELS)
    shut, longer = np.zeros(FRAMES), np.zeros(FRAMES)
    shut[20:24], shut[150:156] = 1.0, 1.0
    longer[20:30] = 1.0
    metrics = Metrics()
    metrics.add(
        side(
            moved(still, eyeBlinkLeft=shut, eyeBlinkRight=shut), moved(still, eyeBlinkLeft=longer, eyeBlinkRight=longer)
        )
    )
    blink = metrics.result()["alive"]["events"]["blink"]
    assert blink["per_minute_truth"]["all"] == pytest.approx(2 / (FRAMES / 1500))
    assert blink["per_minute"]["speaking"] == pytest.approx(1 / (SPOKEN / 1500))
    assert blink["per_minute"]["listening"] == 0.0
    assert blink["seconds_truth"] == pytest.approx({"mean": 0.2, "std": np.sqrt(2) / 25})
    assert blink["seconds"]["mean"] == pytest.approx(0.4)
    assert np.isnan(blink["seconds"]["std"])


# The table


def test_the_table_has_the_papers_columns() -> None:
    result = measured(clips(1, ARKIT_CHANNELS)[0])
    result["speaking"] |= {"lve": 5.834, "mhd": 1.89, "fdd": 18.41, "pdd": 4.67, "jdd": 0.71}
    result["listening"] |= {"fdd": 17.12, "pdd": 4.75, "jdd": 0.98}
    result["fd"] |= {"expression": 4.3, "pose": 0.038}
    unmeasured = measured(side(noise(FLAME_CHANNELS, 0), noise(FLAME_CHANNELS, 0)))
    header, _, first, second = paper_table({"full": result, "no file": unmeasured}).split("\n")
    assert header == "|  | S-LVE | S-MHD | S-FDD | S-PDD | S-JDD | L-FDD | L-PDD | L-JDD | F-FID | P-FID |"
    assert first == "| full | 5.83 | 1.89 | 18.41 | 4.67 | 0.71 | 17.12 | 4.75 | 0.98 | 4.30 | 0.038 |"
    assert second.startswith("| no file |  |  |  | 0 | 0 |  | 0 | 0 |")


def test_masks_and_geometry_are_told_apart_in_the_result(tmp_path: Path) -> None:
    cut_out = FlameMesh(FlameModel.load(write_flame(tmp_path / "flame.pkl")))
    assert measured(clips(1)[0], cut_out)["regions"] == "geometry"
