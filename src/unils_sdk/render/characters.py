"""The people the renderer can draw: colours, proportions and what they wear."""

from __future__ import annotations

from dataclasses import dataclass

from unils_sdk.errors import InvalidArgumentError
from unils_sdk.render.vector import Colour


@dataclass(frozen=True)
class Character:
    """How one person looks. Lengths are in half face widths; colours are sRGB."""

    name: str
    skin: tuple[Colour, ...]  # from deepest shade to full light
    blush: Colour
    hair: tuple[Colour, Colour, Colour]  # dark, middle, light
    brow: Colour
    iris: tuple[Colour, Colour]  # rim, inner
    lips: tuple[Colour, Colour, Colour]  # upper, lower, line between
    lid: Colour
    clothes: tuple[Colour, Colour]  # body, shade
    collar: Colour
    background: tuple[Colour, Colour]  # top, bottom
    accent: Colour  # speaking indicator
    hair_style: str = "bob"  # "bob" or "short"
    collar_style: str = "round"  # "round" or "shirt"
    jaw: float = 1.0  # width of the jaw
    eye: float = 1.0  # height of the eye's opening
    brow_thickness: float = 0.075
    lip_upper: float = 0.085
    lip_lower: float = 0.115
    mouth: float = 0.345  # half width
    lash: float = 1.0
    nose: float = 1.0  # width
    stubble: float = 0.0
    neck: float = 0.46  # half width
    brow_height: float = 0.0  # over the usual


ADA = Character(
    name="Ada",
    skin=((124, 62, 56), (178, 104, 84), (222, 156, 124), (242, 190, 158), (253, 216, 188)),
    blush=(232, 110, 96),
    hair=((46, 24, 28), (94, 48, 44), (158, 92, 70)),
    brow=(66, 36, 34),
    iris=((38, 74, 52), (132, 168, 92)),
    lips=((186, 78, 84), (214, 104, 106), (120, 40, 50)),
    lid=(178, 102, 96),
    clothes=((38, 138, 140), (22, 92, 104)),
    collar=(58, 164, 162),
    background=((250, 226, 204), (238, 178, 160)),
    accent=(32, 156, 152),
)

BEN = Character(
    name="Ben",
    skin=((138, 70, 60), (194, 124, 100), (234, 178, 148), (249, 206, 180), (255, 228, 208)),
    blush=(236, 124, 104),
    hair=((46, 30, 26), (98, 64, 44), (176, 124, 82)),
    brow=(62, 42, 34),
    iris=((28, 62, 110), (104, 164, 214)),
    lips=((186, 108, 96), (206, 132, 116), (122, 60, 54)),
    lid=(206, 138, 116),
    clothes=((62, 78, 132), (40, 50, 96)),
    collar=(236, 238, 244),
    background=((206, 226, 240), (150, 186, 214)),
    accent=(236, 142, 56),
    hair_style="short",
    collar_style="shirt",
    jaw=1.13,
    eye=0.84,
    brow_thickness=0.125,
    lip_upper=0.062,
    lip_lower=0.088,
    mouth=0.375,
    lash=0.2,
    nose=1.22,
    stubble=1.0,
    neck=0.60,
    brow_height=-0.035,
)

CHARACTERS: dict[str, Character] = {"ada": ADA, "ben": BEN}


def find_character(character: str | Character) -> Character:
    """The character of a name in `CHARACTERS`; one of your own passes through."""
    if isinstance(character, Character):
        return character
    if character not in CHARACTERS:
        raise InvalidArgumentError(f"there is no character {character!r}; take one of {', '.join(CHARACTERS)}")
    return CHARACTERS[character]
