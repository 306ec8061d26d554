"""Rotations as robots write them down: in six ways, all read into and out of scipy's `Rotation`.

    axis_angle         3   the axis, as long as the angle (also called rotation vector)
    quaternion_xyzw    4   the real part last (scipy, ROS, robosuite)
    quaternion_wxyz    4   the real part first (MuJoCo, Isaac, pytorch3d)
    euler_xyz          3   roll, pitch, yaw about fixed x, y, z: R = Rz(yaw) Ry(pitch) Rx(roll), as in URDF
    rotation_6d        6   the first two rows of the matrix (Zhou et al. 2019, as pytorch3d lays it out)
    matrix             9   row by row

A rotation has two quaternions, two sets of Euler angles and, at half a turn, two axes: what comes out is equal as a
rotation to what went in, and not always in its numbers.
"""

import warnings
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from common.errors import BadData

RotationName = Literal["axis_angle", "quaternion_xyzw", "quaternion_wxyz", "euler_xyz", "rotation_6d", "matrix"]
WIDTHS: dict[RotationName, int] = {
    "axis_angle": 3,
    "quaternion_xyzw": 4,
    "quaternion_wxyz": 4,
    "euler_xyz": 3,
    "rotation_6d": 6,
    "matrix": 9,
}
ANGLES: tuple[RotationName, ...] = ("axis_angle", "euler_xyz")
"""Those whose numbers are angles, and so have a unit."""
_ROUGH = 0.1
"""How far the lengths and right angles of a rotation's numbers may be off, before they are none."""


def read_rotations(values: np.ndarray, name: RotationName, *, degrees: bool = False) -> Rotation:
    """The rotations in values (N, W). BadData if some are none: a zero quaternion, a matrix that mirrors or shears."""
    values = np.asarray(values, np.float64)
    assert values.ndim == 2 and values.shape[1] == WIDTHS[name], f"{values.shape} cannot hold {name}"
    if name == "axis_angle":
        return Rotation.from_rotvec(values, degrees=degrees)
    if name == "euler_xyz":
        return Rotation.from_euler("xyz", values, degrees=degrees)
    if name in ("quaternion_xyzw", "quaternion_wxyz"):
        _check(np.abs(np.linalg.norm(values, axis=1) - 1), values, name)
        return Rotation.from_quat(np.roll(values, -1, axis=1) if name == "quaternion_wxyz" else values)
    rows = values.reshape(len(values), -1, 3)
    lengths = np.abs(rows @ rows.swapaxes(1, 2) - np.eye(rows.shape[1])).max(axis=(1, 2), initial=0)
    _check(lengths, values, name)
    if name == "rotation_6d":
        first = rows[:, 0] / np.linalg.norm(rows[:, 0], axis=1, keepdims=True)
        second = rows[:, 1] - (first * rows[:, 1]).sum(axis=1, keepdims=True) * first
        second /= np.linalg.norm(second, axis=1, keepdims=True)
        rows = np.stack([first, second, np.cross(first, second)], axis=1)
    _check((np.linalg.det(rows) < 0).astype(float), values, name)
    return Rotation.from_matrix(rows)


def write_rotations(rotation: Rotation, name: RotationName, *, degrees: bool = False) -> np.ndarray:
    """N rotations as numbers, float64 (N, W); quaternions with a real part of at least 0."""
    if name == "axis_angle":
        return rotation.as_rotvec(degrees=degrees)
    if name == "euler_xyz":
        with warnings.catch_warnings():
            # At a pitch of a quarter turn roll and yaw are one; scipy takes yaw 0, which is an equal rotation.
            warnings.filterwarnings("ignore", message="Gimbal lock")
            return rotation.as_euler("xyz", degrees=degrees)
    if name in ("quaternion_xyzw", "quaternion_wxyz"):
        values = rotation.as_quat(canonical=True)
        return np.roll(values, 1, axis=1) if name == "quaternion_wxyz" else values
    values = rotation.as_matrix().reshape(-1, 9)
    return values[:, :6] if name == "rotation_6d" else values


def _check(errors: np.ndarray, values: np.ndarray, name: str) -> None:
    bad = np.flatnonzero(~(errors <= _ROUGH))
    if len(bad):
        numbers = ", ".join(f"{value:.3g}" for value in values[bad[0]])
        raise BadData(f"{numbers} is no rotation as {name}", hint="Is it another representation?")
