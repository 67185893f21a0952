"""Makes `demo.png`, four moments of the demo, from what `unils demo --out DIR` wrote: `python demo_picture.py DIR`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unils_sdk.demo import CONVERSATION
from unils_sdk.render import render_frame

FACE, GAP, CAPTION = 300, 10, 34
WALL, INK = (30, 33, 43), (236, 238, 244)


def speaking(lines: list[dict[str, object]], names: list[str], frames: int) -> np.ndarray:
    """(2, frames): who speaks when."""
    mask = np.zeros((2, frames), bool)
    for line in lines:
        if line["mood"] != "back_channel":
            begin, end = (int(25 * float(str(line[edge]))) for edge in ("start", "end"))
            mask[names.index(str(line["speaker"])), begin:end] = True
    return mask


def main() -> None:
    folder = Path(sys.argv[1])
    about = json.loads((CONVERSATION / "conversation.json").read_text())
    with np.load(folder / "demo.npz") as archive:
        faces = [archive["values_a"], archive["values_b"]]
        channels = [str(name) for name in archive["channels"]]
    names = about["names"]
    speaks = speaking(about["lines"], names, len(faces[0]))

    def track(face: int, name: str) -> np.ndarray:
        return faces[face][:, channels.index(name)]

    alone = [speaks[0] & ~speaks[1], speaks[1] & ~speaks[0]]
    smiles = track(0, "mouthSmileLeft") + track(1, "mouthSmileLeft")
    moments = (
        (np.where(alone[0], track(0, "jawOpen"), -1), f"{names[0]} speaks, {names[1]} listens"),
        (np.where(alone[1], track(1, "mouthClose"), -1), f"{names[1]}'s lips close on a p, b or m"),
        (smiles * (speaks[0] | speaks[1]), "a laugh is shared"),
        (np.where(alone[1], track(0, "eyeBlinkLeft") - track(0, "jawOpen"), -1), f"{names[0]} blinks as she listens"),
    )
    width, height = 2 * FACE + 3 * GAP, FACE + 2 * GAP + CAPTION
    picture = Image.new("RGB", (2 * width, 2 * height), WALL)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(20)
    for index, (score, caption) in enumerate(moments):
        frame = int(np.argmax(score))
        left, top = (index % 2) * width, (index // 2) * height
        for face, character in enumerate(("ada", "ben")):
            portrait = render_frame(faces[face][frame], channels, character, size=2 * FACE).reduce(2)
            picture.paste(portrait, (left + GAP + face * (FACE + GAP), top + GAP))
        at = (left + GAP, top + GAP + FACE + CAPTION // 2)
        draw.text(at, f"{frame / 25:.2f} s   {caption}", font=font, fill=INK, anchor="lm")
    target = Path(__file__).parent / "demo.png"
    # 64 levels a colour halve the file, and nobody sees it.
    picture.point([value & 0xFC | value >> 6 for value in range(256)] * 3).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
