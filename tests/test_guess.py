"""Guesses of what controls mean, on robots whose controls are known: made ones, and recordings of real ones."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from align.column_names import read_name
from align.embodiment import RobotEmbodiment, describe, override
from align.guess import guess_embodiment, guess_from_rows
from align.lerobot_reader import open_lerobot
from common.errors import UserError
from tests.test_rotations import random_turns

REAL = Path(__file__).parent.parent.parent / "shared" / "data" / "robot"
DEMO = Path(__file__).parent.parent / "scripts/demo_set/robot"
ALOHA = [
    f"{side}_{joint}"
    for side in ("left", "right")
    for joint in (
        "waist",
        "shoulder",
        "elbow",
        "forearm_roll",
        "wrist_angle",
        "wrist_rotate",
        "gripper",
    )
]
EPISODES, ROWS = 4, 120


def walks(columns: int, *, step: float, seed: int = 0) -> list[np.ndarray]:
    """Smooth paths (ROWS + 1, columns) of several episodes."""
    random = np.random.default_rng(seed)
    noise = random.normal(0, step, (EPISODES, ROWS + 1 + 8, columns))
    smooth = np.stack([noise[:, shift : shift + ROWS + 1] for shift in range(8)]).mean(axis=0)
    return list(random.normal(0, 5 * step, (EPISODES, 1, columns)) + np.cumsum(smooth, axis=1))


def guessed(
    names: Sequence[str],
    actions: list[np.ndarray],
    states: Sequence[np.ndarray] = (),
    *,
    rate: float = 10,
    state_names: Sequence[str] | None = None,
    declared: dict | None = None,
) -> RobotEmbodiment:
    return guess_from_rows(
        name="robot",
        rate=rate,
        action_names=names,
        actions=actions,
        state_names=(names if state_names is None else state_names) if states else (),
        states=states,
        declared=declared,
    )


def short(embodiment: RobotEmbodiment) -> list[tuple[str, int, str]]:
    return [(group.name, group.width, group.kind) for group in embodiment.groups]


def real(name: str) -> RobotEmbodiment:
    if not (REAL / name).is_dir():
        pytest.skip(f"{REAL / name} is not here")
    return guess_embodiment(open_lerobot(REAL / name), name="robot")


@pytest.mark.parametrize("name", ["g1_inspire_v21", "g1_inspire_v30"])
def test_a_real_humanoid(name: str) -> None:
    embodiment = real(name)
    assert short(embodiment) == [
        ("left_arm", 7, "absolute"),
        ("right_arm", 7, "absolute"),
        ("left_hand", 6, "absolute"),
        ("right_hand", 6, "absolute"),
    ]
    assert [group.unit for group in embodiment.groups] == ["rad", "rad", "0 to 1", "0 to 1"]
    assert not any(group.rotation or group.wraps for group in embodiment.groups)
    assert all("where the state is" in group.reason for group in embodiment.groups)


def test_a_real_arm_with_deltas() -> None:
    embodiment = real("bridge_debug_v30")
    assert short(embodiment) == [("position", 3, "delta"), ("rotation", 3, "delta"), ("gripper", 1, "gripper")]
    position, rotation, _ = embodiment.groups
    assert (position.unit, rotation.unit, rotation.rotation, rotation.frame) == ("m", "rad", "euler_xyz", "world")
    assert "moves the state by 0.8" in position.reason


def test_the_demo_robot() -> None:
    embodiment = guess_embodiment(open_lerobot(DEMO), name="demo")
    assert short(embodiment) == [("position", 3, "absolute"), ("yaw", 1, "absolute"), ("gripper", 1, "gripper")]
    assert embodiment.rate == 10 and [group.unit for group in embodiment.groups] == ["m", "rad", "0 to 1"]
    fitted = embodiment.fitted(walks(5, step=0.01))
    assert fitted.normalisation and not fitted.normalisation.dead


def test_targets_that_are_reached_late() -> None:
    states = walks(7, step=0.02)
    targets = [np.concatenate([rows[3:], np.repeat(rows[-1:], 3, axis=0)]) for rows in states]
    names = [f"joint{index}.pos" for index in range(7)]
    embodiment = guessed(names, targets, states)
    assert short(embodiment) == [("joint", 7, "absolute")] and embodiment.groups[0].unit == "rad"


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_deltas_that_a_controller_scales(lag: int, scale: float) -> None:
    states = walks(3, step=0.01)
    deltas = [np.diff(rows[lag:], axis=0, append=rows[-lag - 1 :]) for rows in states]
    deltas = [scale * rows[: len(rows) - lag] for rows in deltas]
    embodiment = guessed(["x", "y", "z"], deltas, states)
    assert short(embodiment) == [("position", 3, "delta")]
    assert embodiment.groups[0].unit == ("m" if scale == 1 else ""), "what a controller scales has no unit"


def test_velocities_by_their_gain_and_by_their_name() -> None:
    states = walks(3, step=0.01)
    velocities = [20 * np.diff(rows, axis=0) for rows in states]
    unnamed = guessed(["motor_0", "motor_1", "motor_2"], velocities, states, rate=20)
    assert short(unnamed) == [("motor", 3, "velocity")] and "1 per second" in unnamed.groups[0].reason
    assert short(guessed(["vx", "vy", "vz"], velocities)) == [("position", 3, "velocity")]
    assert guessed(["x.vel", "y.vel", "theta.vel"], velocities).groups[0].unit == "m/s"


def test_a_mixed_vector_without_names() -> None:
    states = walks(7, step=0.02)
    grip = [np.where(np.arange(ROWS) % 40 < 20, 1.0, -1.0)[:, None] for _ in range(EPISODES)]
    actions = [np.concatenate([np.diff(rows[:, :6], axis=0), g], axis=1) for rows, g in zip(states, grip, strict=True)]
    embodiment = guessed([f"action_{index}" for index in range(7)], actions, states, state_names=list("abcdefg"))
    assert short(embodiment) == [("controls", 6, "delta"), ("gripper", 1, "gripper")]
    assert embodiment.groups[1].reason == "has two values only"


def test_neighbours_that_move_in_different_ways_are_parted() -> None:
    states = walks(4, step=0.02)
    actions = [np.concatenate([rows[1:, :2], np.diff(rows[:, 2:], axis=0)], axis=1) for rows in states]
    embodiment = guessed([f"motor_{index}" for index in range(4)], actions, states)
    assert short(embodiment) == [("motor", 2, "absolute"), ("motor_2", 2, "delta")]


def test_without_a_state_the_numbers_are_all_there_is() -> None:
    paths = walks(2, step=0.02)
    assert [
        short(guessed(["a_0", "a_1"], rows)) for rows in (paths, [np.random.default_rng(0).normal(size=(90, 2))])
    ] == [
        [("a", 2, "absolute")],
        [("a", 2, "delta")],
    ]
    assert guessed(["a_0", "a_1"], paths).groups[0].reason.startswith("unsure: no state")
    still = guessed(["a_0", "a_1"], [np.zeros((30, 2))])
    assert short(still) == [("a", 2, "absolute")] and "never moves" in still.groups[0].reason


def test_two_arms_of_seven_joints_with_grippers() -> None:
    states = walks(14, step=0.02)
    embodiment = guessed(ALOHA, [rows[1:] for rows in states], states, rate=50)
    assert short(embodiment) == [
        ("left_arm", 6, "absolute"),
        ("left_gripper", 1, "gripper"),
        ("right_arm", 6, "absolute"),
        ("right_gripper", 1, "gripper"),
    ]


def test_degrees_and_angles_that_go_round() -> None:
    names = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_roll.pos", "gripper.pos"]
    states = walks(5, step=10)
    embodiment = guessed(names, [rows[1:] for rows in states], states)
    assert short(embodiment) == [("arm", 4, "absolute"), ("gripper", 1, "gripper")]
    assert embodiment.groups[0].unit == "deg" and not embodiment.groups[0].wraps
    turning = [np.linspace(0, 20, ROWS)[:, None] for _ in range(EPISODES)]
    wrapped = [(rows + np.pi) % (2 * np.pi) - np.pi for rows in turning]
    assert guessed(["wheel"], wrapped, wrapped).groups[0].wraps
    assert not guessed(["wheel"], turning, turning).groups[0].wraps


@pytest.mark.parametrize("order", ["xyzw", "wxyz"])
def test_quaternions_by_their_names(order: str) -> None:
    turns = [random_turns(ROWS, seed=seed).as_quat() for seed in range(EPISODES)]
    turns = [np.roll(rows, 1, axis=1) if order == "wxyz" else rows for rows in turns]
    names = [f"left_eef_quat_{axis}" for axis in order]
    group = guessed(names, turns, turns).groups[0]
    assert (group.name, group.rotation, group.kind) == ("left_rotation", f"quaternion_{order}", "absolute")
    broken = guessed(names, [0 * rows for rows in turns], turns).groups[0]
    assert broken.rotation is None and "is no rotation" in broken.reason


@pytest.mark.parametrize("frame", ["world", "body"])
def test_the_frame_of_turns_by_what_they_do(frame: str) -> None:
    random = np.random.default_rng(0)
    actions, states = [], []
    for _ in range(EPISODES):
        turns = random.normal(0, 0.2, (ROWS, 3))
        current, measured = random_turns(1, seed=int(random.integers(100)))[0], []
        for turn in [*turns, None]:
            measured.append(current.as_quat())
            if turn is not None:
                step = Rotation.from_rotvec(turn)
                current = step * current if frame == "world" else current * step
        actions.append(turns)
        states.append(np.stack(measured))
    embodiment = guessed(["rx", "ry", "rz"], actions, states, state_names=["qx", "qy", "qz", "qw"])
    group = embodiment.groups[0]
    assert (group.rotation, group.kind, group.frame) == ("axis_angle", "delta", frame), group.reason
    assert "frame unsure" in guessed(["rx", "ry", "rz"], actions).groups[0].reason


def test_declared_groups_stand_above_all() -> None:
    states = walks(9, step=0.02)
    actions = [rows[1:] for rows in states]
    names = [f"action_{index}" for index in range(9)]
    declared = {
        "left_arm": (0, 3, True, None),
        "wrist": (3, 6, False, "euler_angles_rpy"),
        "left_hand": (6, 8, None, None),
        "gripper_close": (8, 9, False, None),
    }
    embodiment = guessed(names, actions, states, declared=declared)
    assert short(embodiment) == [
        ("left_arm", 3, "absolute"),
        ("wrist", 3, "delta"),
        ("left_hand", 2, "absolute"),
        ("gripper", 1, "gripper"),
    ]
    assert embodiment.groups[1].rotation == "euler_xyz" and "is that right?" in embodiment.groups[1].reason
    part = guessed(names, actions, states, declared={"arm": (2, 5, True, None)})
    assert [(group.start, group.stop) for group in part.groups] == [(0, 2), (2, 5), (5, 9)]


def test_declared_columns_of_one_go_together() -> None:
    """As in the modality.json of GR00T's Bridge: every column a group."""
    declared = {name: (column, column + 1, None, None) for column, name in enumerate(["x", "y", "z"])}
    declared |= {
        name: (3 + column, 4 + column, None, "euler_angles_rpy") for column, name in enumerate(["roll", "pitch", "yaw"])
    }
    declared |= {"gripper": (6, 7, None, None)}
    states = walks(7, step=0.01)
    deltas = [np.diff(rows, axis=0) for rows in states]
    state_names = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
    embodiment = guessed(
        [f"a{index}" for index in range(7)], deltas, states, state_names=state_names, declared=declared
    )
    assert short(embodiment) == [("position", 3, "delta"), ("rotation", 3, "delta"), ("gripper", 1, "gripper")]


@pytest.mark.parametrize(
    "declared, problem",
    [
        ({"a": (0, 2, None, None), "b": (1, 3, None, None)}, "column 1 belongs to the declared groups 'a' and 'b'"),
        ({"a": (1, 4, None, None)}, "columns 1 to 4 of 3"),
        ({"a": (0, 3, None, "euler_angles_ypr")}, "did you mean 'euler_angles_rpy'"),
        ({"a": (0, 3, None, "quaternion")}, "'a' has 3 columns; 'quaternion' takes 4"),
    ],
)
def test_declarations_that_cannot_be(declared: dict, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        guessed(["p", "q", "r"], walks(3, step=0.1), declared=declared)


def test_an_episode_of_one_frame_has_no_actions() -> None:
    states = walks(6, step=0.02)
    names = ["x", "y", "z", "rx", "ry", "rz"]
    deltas = [np.diff(rows, axis=0) for rows in states]
    whole = guessed(names, deltas, states)
    assert guessed(names, [*deltas, np.zeros((0, 6))], [*states, np.zeros((1, 6))]) == whole
    assert whole.fitted([*deltas, np.zeros((0, 6))]) == whole.fitted(deltas)


def test_parts_of_rotations() -> None:
    names = ["left_yaw", "right_yaw", "rx", "ry"]
    assert short(guessed(names, walks(4, step=0.02))) == [
        ("left_yaw", 1, "absolute"),
        ("right_yaw", 1, "absolute"),
        ("rotation", 2, "absolute"),
    ]


def test_nothing_to_guess_from() -> None:
    with pytest.raises(UserError, match="no actions"):
        guessed(["x"], [np.zeros((0, 1))])


def test_the_state_may_be_wider_and_in_another_order() -> None:
    states = walks(5, step=0.02)
    actions = [rows[1:, [4, 1]] for rows in states]
    embodiment = guessed(["e_target", "b_target"], actions, states, state_names=["a", "b", "c", "d", "e"])
    assert all(group.reason.startswith("is where the state is") for group in embodiment.groups)


def test_a_wrong_guess_is_set_right() -> None:
    embodiment = guessed(["a_0", "a_1"], walks(2, step=0.02))
    changed = override(embodiment, {"a": {"kind": "delta", "unit": "m"}})
    assert short(changed) == [("a", 2, "delta")]
    assert [row[2] for row in describe(changed)] == ["delta", "delta"]


@pytest.mark.parametrize(
    "name, part, role, kind",
    [
        ("kLeftHandThumbRotation", "left_hand", "joint", None),
        ("kRightWristYaw", "right_arm", "joint", None),
        ("droll", "rotation", "rotation", "delta"),
        ("delta_x", "position", "position", "delta"),
        ("right_eef_pos_z", "right_position", "position", None),
        ("L_gripper", "left_gripper", "gripper", None),
        ("joint_velocity.joint_velocity_3", "joint", "joint", "velocity"),
        ("left_rot6d_0", "left_rotation", "rotation", None),
        ("wz", "rotation", "rotation", "velocity"),
        ("rpy_1", "rotation", "rotation", None),
        ("action", "controls", "joint", None),
    ],
)
def test_names(name: str, part: str, role: str, kind: str | None) -> None:
    read = read_name(name)
    assert (read.part, read.role, read.kind) == (part, role, kind)
