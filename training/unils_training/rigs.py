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

FLAME_CHANNELS: tuple[str, ...] = (
    *(f"expression{i}" for i in range(100)),
    "headX", "headY", "headZ",
    "jaw",
    "leftEyePitch", "leftEyeYaw", "rightEyePitch", "rightEyeYaw",
)  # fmt: skip
"""100 expression coefficients, global head rotation (axis-angle, radians), jaw opening (radians; its axis-angle is
[jaw, 0, 0]) and the eyes (radians; [pitch, yaw, 0] each): the layout of `unils_sdk.rigs.FLAME_*`."""

RIGS: dict[str, tuple[str, ...]] = {"arkit": ARKIT_CHANNELS, "flame": FLAME_CHANNELS}
"""Channels of every rig, by its name."""

CHANNEL_GROUPS: dict[str, tuple[str, ...]] = {
    "expression": ("expression",),
    "lips": ("jaw", "mouth", "tongue"),
    "blink": ("eyeBlink",),
    "gaze": ("eyeLook", "leftEye", "rightEye"),
    "eyes": ("eyeSquint", "eyeWide"),
    "brows": ("brow",),
    "cheeks": ("cheek", "nose"),
    "head": ("head",),
}
"""Channel-name prefixes of the groups that errors are reported for; `lips` of rig `flame` is its jaw, the rest of its
lips is in `expression`."""

JAW_CHANNEL: dict[str, str] = {"arkit": "jawOpen", "flame": "jaw"}
"""The channel of each rig that says how far the mouth is open."""

HEAD_CHANNELS: dict[str, tuple[str, ...]] = {
    "arkit": ("headYaw", "headPitch", "headRoll"),
    "flame": ("headX", "headY", "headZ"),
}
"""The channels of each rig that turn the head, in radians."""


def group_channels(channels: tuple[str, ...]) -> dict[str, list[int]]:
    """Indices of the channels of every group that has any."""
    groups = {
        group: [i for i, name in enumerate(channels) if name.startswith(prefixes)]
        for group, prefixes in CHANNEL_GROUPS.items()
    }
    return {group: indices for group, indices in groups.items() if indices}
