"""The face: what a viewer must be able to see, measured on small pictures."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pytest

import unils_sdk as unils
from unils_sdk.render import CHARACTERS, render_frame
from unils_sdk.rigs import ARKIT_BLENDSHAPES, HEAD_POSE

CHANNELS = (*ARKIT_BLENDSHAPES, *HEAD_POSE)
Picture = npt.NDArray[np.int16]


@lru_cache(maxsize=64)
def draw(character: str = "ada", size: int = 200, **values: float) -> Picture:
    """A picture (size, size, 3); a name that ends in `_` sets both sides of a pair."""
    pose = np.zeros(len(CHANNELS))
    for name, value in values.items():
        for channel in [name[:-1] + "Left", name[:-1] + "Right"] if name.endswith("_") else [name]:
            pose[CHANNELS.index(channel)] = value
    return np.asarray(render_frame(pose, CHANNELS, character, size=size)).astype(np.int16)


def changed(a: Picture, b: Picture) -> npt.NDArray[np.bool_]:
    return np.abs(a - b).max(axis=2) > 12


def irises(picture: Picture) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and columns of the pixels of Ada's green irises."""
    size = len(picture)
    eyes = picture[int(0.3 * size) : int(0.6 * size)]
    rows, columns = np.nonzero(eyes[:, :, 1] > np.maximum(eyes[:, :, 0], eyes[:, :, 2]) + 12)
    return rows + int(0.3 * size), columns


def open_mouth(picture: Picture) -> int:
    """How many pixels about the mouth are darker than any skin or lip, or as white as teeth."""
    size = len(picture)
    mouth = picture[int(0.58 * size) : int(0.84 * size), int(0.42 * size) : int(0.58 * size)]
    light = mouth.sum(axis=2) / 3
    grey = mouth.max(axis=2) - mouth.min(axis=2)
    return int(((light < 52) | ((grey < 34) & (light > 130))).sum())


@pytest.mark.parametrize("character", CHARACTERS)
@pytest.mark.parametrize("shape", ARKIT_BLENDSHAPES)
def test_every_blendshape_can_be_seen(character: str, shape: str) -> None:
    jaw = {"jawOpen": 0.4} if shape in ("mouthClose", "mouthRollUpper") else {}
    assert changed(draw(character, **jaw), draw(character, **jaw, **{shape: 1.0})).sum() >= 12


@pytest.mark.parametrize("shape", [name[:-4] for name in ARKIT_BLENDSHAPES if name.endswith("Left")])
def test_a_left_shape_moves_the_left_of_the_face_which_is_right_for_the_viewer(shape: str) -> None:
    if shape in ("jaw", "mouth"):  # jawLeft and mouthLeft move the middle
        neutral = draw(jawOpen=0.3)
        to_left, to_right = draw(jawOpen=0.3, **{f"{shape}Left": 1.0}), draw(jawOpen=0.3, **{f"{shape}Right": 1.0})
        assert changed(to_left, neutral).any()
        assert changed(to_right, to_left).sum() > changed(to_left, neutral).sum()
        return
    neutral = draw()
    left = np.nonzero(changed(neutral, draw(**{f"{shape}Left": 1.0})))[1].mean()
    right = np.nonzero(changed(neutral, draw(**{f"{shape}Right": 1.0})))[1].mean()
    assert left > 100 > right


@pytest.mark.parametrize("character", CHARACTERS)
@pytest.mark.parametrize("jaw", [0.05, 0.12, 0.3, 0.6, 1.0])
def test_lips_close_when_mouth_close_matches_the_jaw(character: str, jaw: float) -> None:
    closed = draw(character, 400, jawOpen=jaw, mouthClose=jaw, mouthLowerDown_=0.1, mouthUpperUp_=0.05)
    assert open_mouth(closed) == 0


@pytest.mark.parametrize("character", CHARACTERS)
def test_an_open_mouth_shows_its_inside(character: str) -> None:
    assert open_mouth(draw(character, 400)) == 0
    assert open_mouth(draw(character, 400, jawOpen=0.15)) > 40
    assert open_mouth(draw(character, 400, jawOpen=0.6)) > 400


def test_a_blink_hides_the_iris() -> None:
    open_, half, shut = (len(irises(draw(size=400, eyeBlink_=blink))[0]) for blink in (0.0, 0.6, 1.0))
    assert open_ > 400
    assert 0 < half < 0.7 * open_
    assert shut == 0


def test_eyes_look_where_the_shapes_say() -> None:
    rows, columns = (axis.mean() for axis in irises(draw(size=400)))
    to_left = irises(draw(size=400, eyeLookOutLeft=0.6, eyeLookInRight=0.6))[1].mean()
    assert to_left > columns + 2
    assert irises(draw(size=400, eyeLookUp_=0.6))[0].mean() < rows - 1
    assert irises(draw(size=400, eyeLookDown_=0.6))[0].mean() > rows + 1


def test_the_head_turns_nods_and_tilts_to_the_right_side() -> None:
    def eyes(**pose: float) -> tuple[float, float, float]:
        """Mean row and column of the irises, and how much lower the viewer's right one is."""
        rows, columns = irises(draw(size=400, **pose))
        right = columns > columns.mean()
        return rows.mean(), columns.mean(), rows[right].mean() - rows[~right].mean()

    row, column, slope = eyes()
    assert eyes(headYaw=0.3)[1] > column + 15
    assert eyes(headYaw=-0.3)[1] < column - 15
    assert eyes(headPitch=0.2)[0] < row - 5
    assert eyes(headPitch=-0.2)[0] > row + 5
    assert eyes(headRoll=0.2)[2] > slope + 10
    assert abs(slope) < 3


@pytest.mark.parametrize("character", CHARACTERS)
@pytest.mark.parametrize("yaw", [-0.5, 0.0, 0.5])
@pytest.mark.parametrize("pitch", [-0.3, 0.0, 0.3])
def test_no_background_shows_through_the_head(character: str, yaw: float, pitch: float) -> None:
    pose = np.zeros(len(CHANNELS))
    pose[-3:-1] = yaw, pitch
    pictures = []
    for background in (((0, 60, 0), (0, 60, 0)), ((60, 0, 60), (60, 0, 60))):
        someone = replace(CHARACTERS[character], background=background)
        pictures.append(np.asarray(render_frame(pose, CHANNELS, someone, size=200)).astype(np.int16))
    backdrop = changed(*pictures)[:90]  # down to the eyes a head has no dents
    for row in backdrop[~backdrop.all(axis=1)]:
        head = np.flatnonzero(~row)
        assert not row[head[0] : head[-1]].any()


def test_channels_may_come_in_any_order_and_incomplete() -> None:
    some = {"jawOpen": 0.4, "headYaw": 0.2, "mouthSmileLeft": 0.5}
    names = list(some)[::-1]
    partial = render_frame([some[name] for name in names], names, size=128)
    assert np.array_equal(np.asarray(partial), draw(size=128, **some))


def test_values_out_of_range_are_clipped() -> None:
    assert np.array_equal(draw(jawOpen=1.7, mouthSmileLeft=-3.0, headYaw=9.0), draw(jawOpen=1.0, headYaw=1.2))


def test_a_picture_has_the_size_asked_for() -> None:
    picture = render_frame(np.zeros(len(CHANNELS), np.float32), CHANNELS, CHARACTERS["ben"], size=96)
    assert (picture.size, picture.mode) == ((96, 96), "RGB")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": np.zeros(54)}, "as channels"),
        ({"values": np.full(55, np.nan)}, "NaN"),
        ({"channels": [f"c{index}" for index in range(55)]}, "arkit"),
        ({"size": 20}, "64 to 2048"),
        ({"character": "zoe"}, "ada, ben"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(unils.InvalidArgumentError, match=message):
        render_frame(**{"values": np.zeros(55), "channels": CHANNELS, **arguments})  # type: ignore[arg-type]
