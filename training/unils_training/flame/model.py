"""FLAME as a layer: coefficients in, vertices out (Li et al., "Learning a model of facial shape and expression from 4D
scans", 2017). Linear blendshapes, pose correctives, linear blend skinning over five joints.

Shapes: B clips, T frames, V vertices, J joints. Rig `flame`: 108 numbers a frame, 0-99 expression, 100-102 head
rotation (axis-angle), 103 jaw opening, 104-107 pitch and yaw of the left, then of the right eye; angles in radians.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unils_training.flame.flame_file import EXPRESSIONS, JOINTS, FlameFile, load_flame
from unils_training.flame.regions import FlameRegions, geometric_regions, load_masks

CHANNELS = 108
ROOT, _NECK, JAW, LEFT_EYE, RIGHT_EYE = range(len(JOINTS))


def rotation_matrices(axis_angle: Tensor) -> Tensor:
    """Rodrigues' formula: (..., 3) radians to (..., 3, 3). Differentiable at no rotation too."""
    square = axis_angle.square().sum(dim=-1)[..., None, None]
    small = square < 1e-8
    # Both branches of `where` are differentiated, and the root of 0 has no derivative.
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    sine = torch.where(small, 1.0 - square / 6.0, angle.sin() / angle)
    cosine = torch.where(small, 0.5 - square / 24.0, (1.0 - angle.cos()) / angle.square())
    x, y, z = axis_angle.unbind(dim=-1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).unflatten(-1, (3, 3))
    return torch.eye(3, dtype=cross.dtype, device=cross.device) + sine * cross + cosine * (cross @ cross)


def axis_angles(motion: Tensor, head_pose: bool = True) -> Tensor:
    """Rotations of the five joints (..., J, 3) of rig `flame` (..., 108); without head pose the root's is 0."""
    zero = torch.zeros_like(motion[..., :1])
    still = zero.expand(*zero.shape[:-1], 3)
    return torch.stack(
        (
            motion[..., 100:103] if head_pose else still,
            still,
            torch.cat((motion[..., 103:104], zero, zero), dim=-1),
            torch.cat((motion[..., 104:106], zero), dim=-1),
            torch.cat((motion[..., 106:108], zero), dim=-1),
        ),
        dim=-2,
    )


class FlameModel(nn.Module):
    """The face of one identity.

    Args:
        flame: the model's arrays.
        regions: its lips and upper face.
        identity: coefficients (n,) of its first n identity blendshapes; by default the mean face.
    """

    template: Tensor
    expression_directions: Tensor
    pose_directions: Tensor
    skinning_weights: Tensor
    joint_template: Tensor
    joint_directions: Tensor
    lips: Tensor  # indices

    def __init__(self, flame: FlameFile, regions: FlameRegions, identity: np.ndarray | None = None) -> None:
        super().__init__()
        template = flame.template
        if identity is not None:
            if identity.ndim != 1 or len(identity) > flame.shape_directions.shape[2]:
                known = flame.shape_directions.shape[2]
                raise ValueError(f"identity of shape {identity.shape} is not (n,) with n up to {known}")
            template = template + flame.shape_directions[:, :, : len(identity)] @ identity
        self.regions = regions
        self.parents = flame.parents
        arrays = {
            "template": template,
            "expression_directions": flame.expression_directions,
            "pose_directions": flame.pose_directions,
            "skinning_weights": flame.skinning_weights,
            # Joints are linear in the unposed vertices, so they are found without making those.
            "joint_template": flame.joint_regressor @ template,
            "joint_directions": np.einsum("jv,vce->jce", flame.joint_regressor, flame.expression_directions),
        }
        for name, array in arrays.items():
            # The user's file is not ours to pass on: it stays out of checkpoints and bundles.
            self.register_buffer(name, torch.from_numpy(np.array(array, np.float32)), persistent=False)
        self.register_buffer("lips", torch.from_numpy(regions.lips), persistent=False)

    @classmethod
    def load(cls, model: str | Path, masks: str | Path = "") -> FlameModel:
        """From the user's files; without `masks`, regions are cut out by geometry. Raises FlameFileError."""
        flame = load_flame(model)
        regions = load_masks(masks, len(flame.template)) if masks else geometric_regions(flame)
        return cls(flame, regions)

    def vertices(self, motion: Tensor, head_pose: bool = True, only: Tensor | None = None) -> Tensor:
        """Vertices (B, T, V, 3) in metres of rig `flame` (B, T, 108), or of any other leading axes.

        Args:
            head_pose: False leaves the head straight, as published figures have it.
            only: indices (n,) of the vertices wanted, in place of all V; the others cost nothing.
        """
        if motion.shape[-1] != CHANNELS:
            raise ValueError(
                f"motion of shape {tuple(motion.shape)} is not of rig flame, which has {CHANNELS} channels"
            )
        leading = motion.shape[:-1]
        # Half precision would cost a tenth of a millimetre.
        rows = motion.reshape(-1, CHANNELS).to(self.template.dtype)

        def chosen(values: Tensor) -> Tensor:
            return values if only is None else values[only]

        with torch.autocast(rows.device.type, enabled=False):
            rotations = rotation_matrices(axis_angles(rows, head_pose))  # (N, J, 3, 3)
            expression = rows[:, :EXPRESSIONS]
            bends = (rotations[:, 1:] - torch.eye(3, dtype=rows.dtype, device=rows.device)).flatten(1)
            shaped = chosen(self.template) + torch.einsum("ne,vce->nvc", expression, chosen(self.expression_directions))
            shaped = shaped + torch.einsum("np,vcp->nvc", bends, chosen(self.pose_directions))
            joints = self.joint_template + torch.einsum("ne,jce->njc", expression, self.joint_directions)
            turns, shifts = self._chain(rotations, joints)
            weights = chosen(self.skinning_weights)
            turn = torch.einsum("vj,njab->nvab", weights, turns)
            shift = torch.einsum("vj,nja->nva", weights, shifts)
            posed = (turn @ shaped[..., None])[..., 0] + shift
        return posed.unflatten(0, leading)

    def _chain(self, rotations: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Each joint's map of space, v -> turn v + shift, its parents' included: (N, J, 3, 3), (N, J, 3)."""
        turns: list[Tensor] = []
        shifts: list[Tensor] = []
        for joint, parent in enumerate(self.parents):
            turn = rotations[:, joint]
            at = joints[:, joint, :, None]
            shift = at - turn @ at  # a turn about the joint
            if parent >= 0:
                shift = turns[parent] @ shift + shifts[parent]
                turn = turns[parent] @ turn
            turns.append(turn)
            shifts.append(shift)
        return torch.stack(turns, dim=1), torch.stack(shifts, dim=1)[..., 0]


def vertex_errors(flame: FlameModel, prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Mean absolute error of coordinates in centimetres, head straight: of all vertices, and of the lips.

    prediction, truth (B, T, 108), not normalised. In centimetres the errors of a codec are near those of its normalised
    coefficients, so that published weights of the two make sense together.
    """
    error = 100.0 * (flame.vertices(prediction, head_pose=False) - flame.vertices(truth, head_pose=False)).abs()
    return error.mean(), error[..., flame.lips, :].mean()


class FlameMesh:
    """A face for the metrics: numpy in, numpy out, in mm and without head pose (metrics.Mesh)."""

    def __init__(self, model: FlameModel) -> None:
        self._model = model
        self.lips = model.regions.lips
        self.upper_face = model.regions.upper_face
        self.source: str = model.regions.source

    def __call__(self, motion: NDArray[np.float64]) -> NDArray[np.float64]:
        """Vertices (T, V, 3) of motion (T, 108)."""
        with torch.no_grad():
            vertices = self._model.vertices(torch.from_numpy(motion).to(self._model.template), head_pose=False)
        return 1000.0 * vertices.cpu().numpy().astype(np.float64)
