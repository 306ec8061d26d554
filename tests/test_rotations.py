"""Rotations in and out of the ways in which robots write them."""

import typing
import warnings

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from align.rotations import ANGLES, WIDTHS, RotationName, read_rotations, write_rotations
from common.errors import BadData

NAMES = typing.get_args(RotationName)
QUARTER_ABOUT_Z = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
WRITTEN: dict[RotationName, list[float]] = {
    "axis_angle": [0, 0, np.pi / 2],
    "quaternion_xyzw": [0, 0, np.sqrt(0.5), np.sqrt(0.5)],
    "quaternion_wxyz": [np.sqrt(0.5), 0, 0, np.sqrt(0.5)],
    "euler_xyz": [0, 0, np.pi / 2],
    "rotation_6d": [0, -1, 0, 1, 0, 0],
    "matrix": [0, -1, 0, 1, 0, 0, 0, 0, 1],
}


def random_turns(count: int, *, seed: int) -> Rotation:
    return Rotation.from_quat(np.random.default_rng(seed).normal(size=(count, 4)))


@pytest.mark.parametrize("name", NAMES)
def test_a_known_turn(name: RotationName) -> None:
    values = np.array([WRITTEN[name]])
    assert np.allclose(read_rotations(values, name).as_matrix()[0], QUARTER_ABOUT_Z)
    assert np.allclose(write_rotations(Rotation.from_matrix(QUARTER_ABOUT_Z[None]), name), values)
    assert WIDTHS[name] == values.shape[1]


def test_roll_pitch_and_yaw_are_about_fixed_axes_in_that_order() -> None:
    roll, pitch, yaw = 0.3, -0.5, 1.1
    about_x, about_y, about_z = (
        Rotation.from_rotvec(axis * angle).as_matrix()
        for axis, angle in zip(np.eye(3), (roll, pitch, yaw), strict=True)
    )
    read = read_rotations(np.array([[roll, pitch, yaw]]), "euler_xyz").as_matrix()[0]
    assert np.allclose(read, about_z @ about_y @ about_x)
    assert not np.allclose(read, about_x @ about_y @ about_z)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("degrees", [False, True])
def test_what_is_written_is_read_as_the_same_turn(name: RotationName, degrees: bool) -> None:
    turns = random_turns(50, seed=0)
    near_half = Rotation.from_rotvec([[np.pi - 1e-9, 0, 0], [0, np.pi, 0], [2.2, 2.2, -0.4]])
    upright = Rotation.from_euler("xyz", [[0.2, np.pi / 2, 0.4], [0.2, -np.pi / 2, 0.4], [0, 0, 0]])
    for rotation in (turns, near_half, upright):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            back = read_rotations(write_rotations(rotation, name, degrees=degrees), name, degrees=degrees)
        assert (rotation.inv() * back).magnitude().max() < 1e-6


@pytest.mark.parametrize("name", ANGLES)
def test_degrees(name: RotationName) -> None:
    radians = np.array([[0.1, -0.2, 0.3]])
    same = read_rotations(np.rad2deg(radians), name, degrees=True)
    assert np.allclose(same.as_matrix(), read_rotations(radians, name).as_matrix())


def test_numbers_a_little_off_are_made_right() -> None:
    exact = random_turns(20, seed=1)
    rough = write_rotations(exact, "rotation_6d") + np.random.default_rng(0).normal(0, 0.003, (20, 6))
    read = read_rotations(rough, "rotation_6d")
    assert (exact.inv() * read).magnitude().max() < 0.03


@pytest.mark.parametrize(
    "name, values",
    [
        ("quaternion_xyzw", [0, 0, 0, 0]),
        ("quaternion_wxyz", [0.5, 0, 0, 0]),
        ("rotation_6d", [1, 0, 0, 1, 0, 0]),
        ("rotation_6d", [0, 0, 0, 0, 1, 0]),
        ("matrix", [1, 0, 0, 0, 1, 0, 0, 0, -1]),
        ("matrix", [0.2, 0.4, 0.1, 0.3, 0.2, 0.7, 0.1, 0.2, 0.3]),
        ("matrix", [np.nan] * 9),
    ],
)
def test_numbers_that_are_no_rotation(name: RotationName, values: list[float]) -> None:
    with pytest.raises(BadData, match=f"is no rotation as {name}"):
        read_rotations(np.array([WRITTEN[name], values]), name)
