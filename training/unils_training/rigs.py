"""Channel names of the rigs that a model can be trained for."""

from __future__ import annotations

_EYE = ("Blink", "LookDown", "LookIn", "LookOut", "LookUp", "Squint", "Wide")

ARKIT_CHANNELS: tuple[str, ...] = (
    *(f"eye{name}Left" for name in _EYE),
    *(f"eye{name}Right" for name in _EYE),
    "jawForward", "jawLeft", "jawRight", "jawOpen",
    "mouthClose", "mouthFunnel", "mouthPucker", "mouthLeft", "mouthRight",
    "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight",
    "mouthDimpleLeft", "mouthDimpleRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthPressLeft", "mouthPressRight", "mouthLowerDownLeft", "mouthLowerDownRight",
    "mouthUpperUpLeft", "mouthUpperUpRight",
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
    "headYaw", "headPitch", "headRoll",
)  # fmt: skip
"""52 blendshapes (0..1) in Live Link order, then head yaw, pitch and roll in radians."""

CHANNEL_GROUPS: dict[str, tuple[str, ...]] = {
    "lips": ("jaw", "mouth", "tongue"),
    "blink": ("eyeBlink",),
    "gaze": ("eyeLook",),
    "eyes": ("eyeSquint", "eyeWide"),
    "brows": ("brow",),
    "cheeks": ("cheek", "nose"),
    "head": ("head",),
}
"""Channel-name prefixes of the groups that errors are reported for."""


def group_channels(channels: tuple[str, ...]) -> dict[str, list[int]]:
    """Indices of the channels of every group that has any."""
    groups = {
        group: [i for i, name in enumerate(channels) if name.startswith(prefixes)]
        for group, prefixes in CHANNEL_GROUPS.items()
    }
    return {group: indices for group, indices in groups.items() if indices}
