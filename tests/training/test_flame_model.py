"""The skinning layer against cases by hand, and against the same formula written out vertex by vertex."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flame_files import flame_arrays, write_flame, write_masks
from scipy.spatial.transform import Rotation

from unils_training.cli import main
from unils_training.config import Config, ConfigError, load_config
from unils_training.flame import FlameFileError, FlameModel, load_flame, load_masks, vertex_errors
from unils_training.flame.model import rotation_matrices
from unils_training.rigs import FLAME_CHANNELS
from unils_training.stages.published.codec import CodecStage as PublishedCodecStage
from unils_training.stages.stream.codec import CodecStage
from unils_training.stages.trainer import Draw


def model(tmp_path: Path, **changes: np.ndarray) -> FlameModel:
    return FlameModel.load(write_flame(tmp_path / "flame.pkl", {**flame_arrays(), **changes}))


def motion(**parts: object) -> torch.Tensor:
    """One frame (1, 1, 108) with these channels set."""
    values = torch.zeros(1, 1, 108)
    places = {"head": slice(100, 103), "jaw": 103, "eyes": slice(104, 108), "expression": slice(0, 100)}
    for name, value in parts.items():
        values[..., places[name]] = torch.as_tensor(value, dtype=torch.float32)
    return values


def by_hand(arrays: dict[str, np.ndarray], frame: np.ndarray) -> np.ndarray:
    """Vertices (V, 3) in float64: 4 x 4 matrices, one vertex after the other."""
    jaw, eyes = frame[103], frame[104:108]
    poses = [frame[100:103], np.zeros(3), [jaw, 0, 0], [eyes[0], eyes[1], 0], [eyes[2], eyes[3], 0]]
    rotations = [Rotation.from_rotvec(pose).as_matrix() for pose in poses]
    shaped = arrays["v_template"] + arrays["shapedirs"][:, :, -100:] @ frame[:100]
    joints = arrays["J_regressor"] @ shaped
    feature = np.concatenate([(r - np.eye(3)).ravel() for r in rotations[1:]])
    shaped = shaped + arrays["posedirs"] @ feature
    world: list[np.ndarray] = []
    for joint, parent in enumerate([None, 0, 1, 1, 1]):
        local = np.eye(4)
        local[:3, :3] = rotations[joint]
        local[:3, 3] = joints[joint] - (0 if parent is None else joints[parent])
        world.append(local if parent is None else world[parent] @ local)
    vertices = np.zeros_like(shaped)
    for v, point in enumerate(shaped):
        for joint in range(5):
            at_rest = np.append(point - joints[joint], 1.0)
            vertices[v] += arrays["weights"][v, joint] * (world[joint] @ at_rest)[:3]
    return vertices


def test_no_motion_is_the_mean_face(tmp_path: Path) -> None:
    vertices = model(tmp_path).vertices(motion())
    assert vertices.shape == (1, 1, 124, 3)
    assert np.allclose(vertices[0, 0], flame_arrays()["v_template"], atol=1e-7)


def test_a_blendshape_moves_vertices_along_its_direction(tmp_path: Path) -> None:
    expression = torch.zeros(100)
    expression[7] = 2.0
    arrays = flame_arrays()
    vertices = model(tmp_path).vertices(motion(expression=expression))
    # 4 identity blendshapes come first.
    assert np.allclose(vertices[0, 0], arrays["v_template"] + 2.0 * arrays["shapedirs"][:, :, 4 + 7], atol=1e-6)


def test_a_vertex_of_the_jaw_alone_turns_about_the_jaws_joint(tmp_path: Path) -> None:
    arrays = flame_arrays()
    weights = arrays["weights"].copy()
    weights[60], weights[61] = np.eye(5)[2], np.eye(5)[0]
    face = model(tmp_path, weights=weights, posedirs=np.zeros((124, 3, 36)))
    vertices = face.vertices(motion(jaw=0.3))[0, 0].numpy()
    y, z = arrays["v_template"][60, 1:] - arrays["v_template"][2, 1:]
    turned = np.array([
        arrays["v_template"][60, 0],
        arrays["v_template"][2, 1] + np.cos(0.3) * y - np.sin(0.3) * z,
        arrays["v_template"][2, 2] + np.sin(0.3) * y + np.cos(0.3) * z,
    ])  # fmt: skip
    assert np.allclose(vertices[60], turned, atol=1e-6)
    assert vertices[60, 1] < arrays["v_template"][60, 1]  # a positive jaw opens the mouth
    assert np.allclose(vertices[61], arrays["v_template"][61], atol=1e-7)


def test_pose_correctives_follow_rotations(tmp_path: Path) -> None:
    corrective = np.zeros((124, 3, 36))
    corrective[50, 0, 9 + 8] = 0.5  # the jaw is the second joint after the root; entry 8 is R[2, 2] - 1
    weights = flame_arrays()["weights"].copy()
    weights[50] = np.eye(5)[0]
    face = model(tmp_path, posedirs=corrective, weights=weights)
    shift = face.vertices(motion(jaw=0.4))[0, 0, 50] - face.vertices(motion())[0, 0, 50]
    assert shift.numpy() == pytest.approx([0.5 * (np.cos(0.4) - 1.0), 0.0, 0.0], abs=1e-6)


def test_vertices_equal_the_formula_written_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    frames = rng.normal(size=(2, 3, 108)) * np.where(np.arange(108) < 100, 1.0, 0.3)
    face = model(tmp_path)
    vertices = face.vertices(torch.from_numpy(frames)).numpy()
    for clip in range(2):
        for t in range(3):
            assert np.allclose(vertices[clip, t], by_hand(flame_arrays(), frames[clip, t]), atol=2e-6)
    still = frames.copy()
    still[..., 100:103] = 0.0
    without = face.vertices(torch.from_numpy(frames), head_pose=False).numpy()
    assert np.allclose(without, face.vertices(torch.from_numpy(still)).numpy(), atol=1e-7)
    assert not np.allclose(without, vertices, atol=1e-3)


def test_some_vertices_are_the_same_as_among_all(tmp_path: Path) -> None:
    frames = 0.2 * torch.randn(1, 4, 108, generator=torch.Generator().manual_seed(0))
    face = model(tmp_path)
    only = torch.tensor([3, 60, 99])
    assert torch.allclose(face.vertices(frames, only=only), face.vertices(frames)[:, :, only], atol=1e-7)


def test_gradients_are_finite_at_rest_and_right_away_from_it(tmp_path: Path) -> None:
    face = model(tmp_path)
    still = motion().requires_grad_()
    face.vertices(still)[..., 2].sum().backward()
    assert still.grad is not None
    assert torch.isfinite(still.grad).all()
    assert still.grad[..., 103].abs() > 0.0
    poses = torch.tensor(
        [[0.3, -0.2, 0.5], [0.0, 0.0, 0.0], [1e-3, 0.0, 2e-3]], dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(rotation_matrices, poses, atol=1e-5)
    assert np.allclose(rotation_matrices(poses).detach(), Rotation.from_rotvec(poses.detach().numpy()).as_matrix())


def test_the_users_file_stays_out_of_checkpoints(tmp_path: Path) -> None:
    assert model(tmp_path).state_dict() == {}


def test_identity_reshapes_the_face_and_its_joints(tmp_path: Path) -> None:
    arrays = flame_arrays()
    flame = load_flame(write_flame(tmp_path / "flame.pkl"))
    regions = load_masks(write_masks(tmp_path / "masks.pkl"), 124)
    face = FlameModel(flame, regions, identity=np.array([1.5, -1.0]))
    shaped = {**arrays, "v_template": arrays["v_template"] + arrays["shapedirs"][:, :, :2] @ [1.5, -1.0]}
    frame = motion(jaw=0.2, eyes=[0.1, 0.2, -0.1, 0.3])
    assert np.allclose(face.vertices(frame)[0, 0], by_hand(shaped, frame[0, 0].double().numpy()), atol=1e-6)
    with pytest.raises(ValueError, match="n up to 4"):
        FlameModel(flame, regions, identity=np.zeros(5))


def test_motion_of_another_rig_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not of rig flame"):
        model(tmp_path).vertices(torch.zeros(1, 2, 55))
    with pytest.raises(FlameFileError):
        FlameModel.load(tmp_path / "flame.pkl", tmp_path / "no_masks.pkl")


# Losses


def test_vertex_errors_by_hand_are_in_centimetres(tmp_path: Path) -> None:
    arrays = flame_arrays()
    directions = np.zeros_like(arrays["shapedirs"])
    directions[40, 1, 4] = 0.002  # a vertex of the lips rises by 2 mm
    directions[70, 0, 5] = -0.004  # another one goes right by 4 mm
    write_flame(tmp_path / "flame.pkl", {**arrays, "shapedirs": directions, "weights": np.eye(5)[np.zeros(124, int)]})
    face = FlameModel.load(tmp_path / "flame.pkl", write_masks(tmp_path / "masks.pkl"))
    expression = torch.zeros(100)
    expression[:2] = 1.0
    every, lips = vertex_errors(face, motion(expression=expression, head=[0.3, 0.1, 0.0]), motion())
    assert float(every) == pytest.approx((0.2 + 0.4) / (124 * 3), rel=1e-4)
    assert float(lips) == pytest.approx(0.2 / (12 * 3), rel=1e-4)


@pytest.fixture(scope="module")
def corpus(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small corpus, its motion replaced by some of rig flame."""
    folder = tmp_path_factory.mktemp("flame_corpus") / "corpus"
    shutil.copytree(small_corpus, folder)
    rng = np.random.default_rng(0)
    for path in sorted(folder.glob("*/motion.npz")):
        with np.load(path) as file:
            arrays = dict(file)
        walk = np.cumsum(rng.standard_normal((len(arrays["motion"]), 108)) * 0.05, axis=0)
        arrays |= {"motion": (0.3 * np.tanh(walk)).astype(np.float32), "channels": np.array(FLAME_CHANNELS)}
        np.savez(path, **arrays)
    info = json.loads((folder / "corpus.json").read_text()) | {"rig": "flame", "channels": FLAME_CHANNELS}
    (folder / "corpus.json").write_text(json.dumps(info))
    return folder


def overrides(tmp_path: Path, corpus: Path) -> list[str]:
    cache = corpus.with_name(f"{corpus.name}_cache")
    values = [f"corpus.path='{corpus}'", f"corpus.cache='{cache}'", f"run='{tmp_path / 'run'}'", "corpus.workers=1"]
    training = ("batch_clips=4", "clip_frames=32", "validation_clips=4", "precision='float32'")
    return [*values, *(f"codec.training.{value}" for value in training)]


def codec_config(tmp_path: Path, corpus: Path, *changes: str) -> Config:
    return load_config("tiny", [*overrides(tmp_path, corpus), *changes])


def draw() -> Draw:
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    return Draw(0, 0.0, rng, clips=4, device=torch.device("cpu"), generator=generator)


def published_config(tmp_path: Path, corpus: Path, *changes: str) -> Config:
    sizes = ("published.rig='flame'", "codec.training.clip_frames=24")
    return load_config("published_tiny", [*overrides(tmp_path, corpus), *sizes, *changes])


@pytest.mark.parametrize(
    ("stage_of", "config_of"), [(CodecStage, codec_config), (PublishedCodecStage, published_config)]
)
def test_the_codec_learns_vertices_and_lips_where_the_user_gives_a_flame_file(
    tmp_path: Path,
    corpus: Path,
    stage_of: type[CodecStage] | type[PublishedCodecStage],
    config_of: Callable[..., Config],
) -> None:
    write_flame(tmp_path / "flame.pkl")
    write_masks(tmp_path / "masks.pkl")
    files = [f"flame.model='{tmp_path / 'flame.pkl'}'", f"flame.masks='{tmp_path / 'masks.pkl'}'"]
    _, without = stage_of(config_of(tmp_path, corpus)).loss(draw())
    stage = stage_of(config_of(tmp_path, corpus, *files))
    total, parts = stage.loss(draw())
    assert set(parts) - set(without) == {"vertices", "lips"}
    assert total.item() == pytest.approx(sum(part.item() for part in parts.values()))
    heavier = config_of(tmp_path, corpus, *files, "codec.vertices=4.0", "codec.lips=0.4")
    twice = stage_of(heavier).loss(draw())[1]
    assert twice["vertices"].item() == pytest.approx(2.0 * parts["vertices"].item())
    assert twice["lips"].item() == pytest.approx(4.0 * parts["lips"].item())
    # The gradient reaches the decoder, and a step against it helps.
    optimiser = torch.optim.Adam(stage.module.parameters(), 3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        now = stage.loss(draw())[1]
        (now["vertices"] + now["lips"]).backward()
        optimiser.step()
    assert now["vertices"].item() < 0.7 * parts["vertices"].item()
    with torch.no_grad():
        figures = stage.validate()
    assert 0.0 < figures["vertices_mm"] < 100.0
    assert not [name for name in stage.result() if "template" in name]


def test_a_flame_file_for_another_rig_is_refused(tmp_path: Path, small_corpus: Path) -> None:
    config = codec_config(tmp_path, small_corpus, f"flame.model='{write_flame(tmp_path / 'flame.pkl')}'")
    with pytest.raises(ConfigError, match="another rig"):
        CodecStage(config)
    with pytest.raises(ConfigError, match=r"flame\.masks"):
        load_config("tiny", ["flame.masks='x.pkl'"])


def test_a_hostile_flame_file_ends_the_command_with_a_sentence(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "flame.pkl").write_bytes(b"cos\nsystem\n(Vecho run > " + str(ran).encode() + b"\ntR.")
    values = [*overrides(tmp_path, corpus), f"flame.model='{tmp_path / 'flame.pkl'}'"]
    arguments = [part for value in values for part in ("--set", value)]
    assert main(["codec", "--config", "tiny", *arguments]) == 2
    assert "'os.system'" in capsys.readouterr().err
    assert not ran.exists()
