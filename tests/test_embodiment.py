"""A robot's controls and the changes they make: against plain loops, there and back, and one row off."""

import json
import typing
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from align.control_group import ControlGroup, Frame, Kind
from align.embodiment import HEADER, RobotEmbodiment, describe, load_embodiment, override
from align.rotations import WIDTHS, RotationName, read_rotations, write_rotations
from common.errors import BadData, UserError
from tests.test_rotations import random_turns

RATE = 5.0
ROTATIONS = typing.get_args(RotationName)


def one_group(kind: Kind, width: int = 2, **fields: typing.Any) -> RobotEmbodiment:
    group = ControlGroup("group", 0, width, kind, **fields)
    return RobotEmbodiment("robot", tuple(f"column {index}" for index in range(width)), RATE, (group,))


def arm() -> RobotEmbodiment:
    """Position, quaternion, velocity and gripper: 9 columns, 8 numbers of change."""
    groups = (
        ControlGroup("position", 0, 2, "absolute", unit="m"),
        ControlGroup("wrist", 2, 6, "absolute", rotation="quaternion_xyzw"),
        ControlGroup("base", 6, 8, "velocity", unit="m/s"),
        ControlGroup("gripper", 8, 9, "gripper", limits=((0.0, 1.0),)),
    )
    return RobotEmbodiment("arm", ("x", "y", "qx", "qy", "qz", "qw", "forward", "side", "opening"), RATE, groups)


def arm_actions(rows: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    turns = Rotation.from_rotvec(np.cumsum(random.normal(0, 0.2, (rows, 3)), axis=0)).as_quat()
    for row in range(1, rows):  # a recording does not change signs from one row to the next
        turns[row] *= np.sign(turns[row] @ turns[row - 1])
    parts = [np.cumsum(random.normal(size=(rows, 2)), axis=0), turns, random.normal(size=(rows, 2))]
    return np.concatenate([*parts, random.uniform(0, 1, (rows, 1))], axis=1).astype(np.float32)


def test_targets_are_seen_from_the_row_before_their_chunk() -> None:
    targets = np.array([[1.0], [2], [4], [8], [16], [32], [64], [128]])
    changes = one_group("absolute", 1).relative(targets, np.array([0.5]))
    assert changes[:, 0].tolist() == [0.5, 1.5, 3.5, 7.5, 8, 24, 56, 120], "row 4 is seen from row 3, not from row 0"


def test_deltas_are_summed_within_their_chunk() -> None:
    deltas = np.array([[1.0], [2], [4], [8], [16], [32], [64], [128]])
    embodiment = one_group("delta", 1)
    for before in (0.0, 9.0):
        changes = embodiment.relative(deltas, np.array([before]))
        assert changes[:, 0].tolist() == [1, 3, 7, 15, 16, 48, 112, 240], "not over the episode, and not without row 0"


def test_velocities_are_summed_over_the_time_that_rows_take() -> None:
    velocities = np.array([[5.0], [10], [0], [-5], [1], [0], [0], [0]])
    changes = one_group("velocity", 1).relative(velocities, np.array([7.0]))
    assert np.allclose(changes[:, 0], [1, 3, 3, 2, 0.2, 0.2, 0.2, 0.2])


def test_openings_are_never_differenced() -> None:
    openings = np.array([[0.0, 1], [1, 1], [1, 0], [0.5, 0]])
    assert (one_group("gripper").relative(openings, np.array([1.0, 1])) == openings).all()


def test_each_row_alone() -> None:
    targets = np.array([[1.0], [2], [4], [8], [16]])
    changes = one_group("absolute", 1).relative(targets, np.array([0.5]), chunk=1)
    assert changes[:, 0].tolist() == [0.5, 1, 2, 4, 8]
    assert (one_group("delta", 1).relative(targets, np.array([0.5]), chunk=1) == targets).all()


def test_angles_that_wrap_go_the_short_way_and_others_do_not() -> None:
    angles = np.deg2rad(np.array([[170.0], [179], [-179], [-170]]))
    before = np.deg2rad(np.array([160.0]))
    wrapping = one_group("absolute", 1, wraps=True, unit="rad")
    assert np.allclose(np.rad2deg(wrapping.relative(angles, before)[:, 0]), [10, 19, 21, 30])
    assert np.allclose(np.rad2deg(one_group("absolute", 1).relative(angles, before)[:, 0]), [10, 19, -339, -330])
    assert np.allclose(wrapping.controls(wrapping.relative(angles, before), before), angles)
    degrees = one_group("absolute", 1, wraps=True, unit="deg", limits=((0.0, 360.0),))
    turning = np.array([[350.0], [359], [1], [10]])
    changes = degrees.relative(turning, np.array([340.0]))
    assert np.allclose(changes[:, 0], [10, 19, 21, 30])
    assert np.allclose(degrees.controls(changes, np.array([340.0])), turning), "from the lower limit on"


def turns_by_loop(
    steps: list[np.ndarray], before: np.ndarray, *, kind: str, frame: str, chunk: int
) -> list[np.ndarray]:
    """Matrices (3, 3) of the changes, with nothing but products and transposes."""
    changes = []
    for row, step in enumerate(steps):
        first = row // chunk * chunk
        if kind == "absolute":
            start = steps[first - 1] if first else before
            changes.append(start.T @ step if frame == "body" else step @ start.T)
            continue
        turn = np.eye(3)
        for earlier in steps[first : row + 1]:
            turn = turn @ earlier if frame == "body" else earlier @ turn
        changes.append(turn)
    return changes


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("frame", ["body", "world"])
@pytest.mark.parametrize("kind", ["absolute", "delta"])
@pytest.mark.parametrize("chunk", [1, 4])
def test_turns_are_composed_on_the_right_side(rotation: RotationName, frame: Frame, kind: Kind, chunk: int) -> None:
    embodiment = one_group(kind, WIDTHS[rotation], rotation=rotation, frame=frame, unit="rad")
    steps = random_turns(9, seed=3)
    values = write_rotations(steps, rotation)
    changes = embodiment.relative(values[1:], values[0], chunk=chunk)
    matrices = list(steps.as_matrix())
    expected = turns_by_loop(matrices[1:], matrices[0], kind=kind, frame=frame, chunk=chunk)
    assert changes.shape == (8, 3)
    assert np.allclose(Rotation.from_rotvec(changes).as_matrix(), expected)
    other = turns_by_loop(
        matrices[1:], matrices[0], kind=kind, frame="world" if frame == "body" else "body", chunk=chunk
    )
    if (kind, chunk) != ("delta", 1):
        assert not np.allclose(Rotation.from_rotvec(changes).as_matrix(), other)


def test_angular_velocities_turn_by_rate_and_time() -> None:
    embodiment = one_group("velocity", 3, rotation="axis_angle", unit="rad/s", frame="world")
    values = np.array([[0, 0, 1.0], [0, 0, 1], [2, 0, 0], [0, 0, 0]])
    changes = embodiment.relative(values, np.zeros(3))
    about_z, about_x = Rotation.from_rotvec([0, 0, 2 / RATE]), Rotation.from_rotvec([2 / RATE, 0, 0])
    assert np.allclose(changes[:2], [[0, 0, 1 / RATE], [0, 0, 2 / RATE]])
    assert np.allclose(changes[3], (about_x * about_z).as_rotvec()), "in the room's axes the later turn stands left"
    assert np.allclose(embodiment.controls(changes, np.zeros(3)), values)


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("frame", ["body", "world"])
@pytest.mark.parametrize("kind", ["absolute", "delta"])
@pytest.mark.parametrize("unit", ["rad", "deg"])
def test_turns_there_and_back(rotation: RotationName, frame: Frame, kind: Kind, unit: str) -> None:
    embodiment = one_group(kind, WIDTHS[rotation], rotation=rotation, frame=frame, unit=unit)
    half = Rotation.from_rotvec([[np.pi - 1e-4, 0, 0], [0, -np.pi, 0], [0, 1e-7, 0], [0, 0, np.pi / 2]])
    steps = Rotation.concatenate([random_turns(9, seed=5), half])
    values = write_rotations(steps, rotation, degrees=unit == "deg").astype(np.float32)
    before, rows = values[0], values[1:]
    back = embodiment.controls(embodiment.relative(rows, before), before)
    degrees = unit == "deg"
    error = read_rotations(rows, rotation, degrees=degrees).inv() * read_rotations(back, rotation, degrees=degrees)
    assert error.magnitude().max() < 1e-5
    assert back.dtype == np.float32


def test_quaternions_come_back_with_their_signs() -> None:
    embodiment = one_group("absolute", 4, rotation="quaternion_wxyz")
    turning = Rotation.from_rotvec(np.linspace(0, 4 * np.pi, 41)[:, None] * [0.6, 0, 0.8])
    values = np.roll(turning.as_quat(canonical=True), 1, axis=1)
    for row in range(1, 41):  # continuous: through both signs
        values[row] *= np.sign(values[row] @ values[row - 1])
    assert (values[:, 0] < -0.5).any()
    back = embodiment.controls(embodiment.relative(values[1:], values[0]), values[0])
    assert np.allclose(back, values[1:], atol=1e-6)


def test_everything_there_and_back_in_a_batch() -> None:
    embodiment = arm()
    actions = np.stack([arm_actions(41, seed) for seed in range(3)])
    before, rows = actions[:, 0], actions[:, 1:]
    for chunk in (1, 4, 8):
        relative = embodiment.relative(rows, before, chunk=chunk)
        assert relative.shape == (3, 40, embodiment.relative_dim) == (3, 40, 8)
        assert np.allclose(embodiment.controls(relative, before, chunk=chunk), rows, atol=1e-5)
        for index in range(3):
            alone = embodiment.relative(rows[index], before[index], chunk=chunk)
            assert np.allclose(alone, relative[index], atol=1e-6), "samples of a batch do not mix"


def test_no_drift_in_a_long_episode_of_float32() -> None:
    embodiment = one_group("absolute", 2)
    targets = np.random.default_rng(0).uniform(-np.pi, np.pi, (4001, 2)).astype(np.float32)
    back = embodiment.controls(embodiment.relative(targets[1:], targets[0]), targets[0])
    assert np.abs(back - targets[1:]).max() < 1e-4


def test_a_row_shifted_by_one_makes_other_changes() -> None:
    embodiment = arm()
    actions = arm_actions(42)
    right = embodiment.relative(actions[1:41], actions[0])
    late = embodiment.relative(actions[2:42], actions[1])
    assert np.allclose(right[0, :2], actions[1, :2] - actions[0, :2])
    assert np.abs(right[:, :7] - late[:, :7]).mean(axis=0).min() > 0.03
    stale = embodiment.relative(actions[2:42], actions[0])
    assert np.allclose(stale[4:, :7], late[4:, :7]) and not np.allclose(stale[:4, :2], late[:4, :2])


def test_doing_nothing() -> None:
    embodiment = arm()
    before = arm_actions(1)[0]
    held = embodiment.neutral(before, rows=8)
    changes = embodiment.relative(held, before)
    assert held.shape == (8, 9) and held.dtype == np.float32
    assert np.abs(changes[:, :7]).max() < 1e-6
    assert (changes[:, 7] == before[8]).all()
    turning = one_group("delta", 4, rotation="quaternion_wxyz")
    assert turning.neutral(np.zeros((2, 4)), rows=1).tolist() == [[[1, 0, 0, 0]]] * 2, "a zero quaternion is no turn"


def test_longer_rows_do_what_their_short_ones_do() -> None:
    embodiment = arm()
    actions = arm_actions(40)
    long = embodiment.strided(actions, 4)
    assert np.allclose(long[:, :6], actions[3::4, :6], atol=1e-5), "the last targets"
    assert np.allclose(long[:, 6:8], actions[:, 6:8].reshape(10, 4, 2).mean(axis=1), atol=1e-6)
    assert np.allclose(long[:, 8], actions[3::4, 8])
    assert embodiment.at_stride(4).rate == RATE / 4
    before = actions[3]
    short = embodiment.relative(actions[4:], before, chunk=4)[3::4]
    assert np.allclose(embodiment.at_stride(4).relative(long[1:], before, chunk=1), short, atol=1e-5)
    assert np.allclose(one_group("delta").strided(np.ones((8, 2)), 4), 4)


def test_changes_are_scaled_by_their_quantiles() -> None:
    random = np.random.default_rng(0)
    deltas = np.stack([random.normal(0.5, 1, 4000), random.normal(0, 1e-3, 4000)], axis=1)
    opening = random.uniform(0.2, 0.8, (4000, 1))
    groups = (ControlGroup("arm", 0, 2, "delta"), ControlGroup("hand", 2, 3, "gripper"))
    embodiment = RobotEmbodiment("robot", ("a", "b", "hand"), RATE, groups)
    actions = np.concatenate([deltas, opening], axis=1)
    for chunk in (1, 4):
        fitted = embodiment.fitted([actions[:2000], actions[2000:]], chunk=chunk)
        assert fitted.normalisation and fitted.normalisation.chunk == chunk and not fitted.normalisation.dead
        relative = embodiment.relative(actions, actions[0], chunk=chunk)
        values = fitted.normalised(relative)
        assert np.allclose(np.quantile(np.abs(values[:, 0]), 0.99), 1, atol=0.15)
        assert np.allclose(np.quantile(values[:, 2], [0.01, 0.99]), [-1, 1], atol=0.02)
        assert (fitted.normalised(np.zeros((1, 3)))[0, :2] == 0).all(), "no change stays no change"
        assert np.allclose(fitted.denormalised(values), relative), "nothing here is beyond 3"
    scale_of = {chunk: np.array(embodiment.fitted([actions], chunk=chunk).normalisation.scale) for chunk in (1, 4)}  # pyright: ignore[reportOptionalMemberAccess]
    assert scale_of[4][0] > 1.5 * scale_of[1][0], "four rows move further than one"


@pytest.mark.parametrize(("unit", "compared"), [("rad", True), ("", False)])
def test_an_arm_that_only_trembled_is_scaled_by_the_one_that_moved(unit: str, compared: bool) -> None:
    moves = np.random.default_rng(0).normal(size=(2000, 2)) * (1.0, 1e-4)
    groups = (ControlGroup("right", 0, 1, "delta", unit=unit), ControlGroup("left", 1, 2, "delta", unit=unit))
    fitted = RobotEmbodiment("robot", ("right", "left"), RATE, groups).fitted([moves])
    command = fitted.normalised(np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]))[1]
    right, left = command.tolist()
    assert left == pytest.approx(min(3, 10 * right) if compared else 3), "without a unit nothing says what is much"
    trembling = fitted.normalised(moves[:4])[:, 1]
    assert (np.abs(trembling).max() < 0.01) == compared


def test_outliers_end_at_three() -> None:
    embodiment = one_group("delta", 1).fitted([np.random.default_rng(0).uniform(-1, 1, (500, 1))], chunk=1)
    values = embodiment.normalised(np.array([[50.0], [-50], [0.5]]))
    assert values[:2, 0].tolist() == [3, -3] and 0.5 < values[2, 0] < 0.52


def test_controls_that_never_move_and_controls_that_rarely_do() -> None:
    actions = np.zeros((1000, 4))
    actions[:, 0], actions[500:, 1], actions[:, 2] = 0.7, -0.3, 1.0
    actions[990:, 3] = 1.0
    groups = (ControlGroup("arm", 0, 2, "absolute"), ControlGroup("hands", 2, 4, "gripper"))
    embodiment = RobotEmbodiment("robot", ("still", "once", "open", "rarely"), RATE, groups).fitted([actions])
    normalisation = embodiment.normalisation
    assert normalisation and normalisation.dead == ("still", "open")
    assert np.allclose(normalisation.scale, [1, 0.3, 1, 0.5])
    values = embodiment.normalised(embodiment.relative(actions[1:997], actions[0]))
    assert np.isfinite(values).all()
    assert (values[:, [0, 2]] == 0).all() and np.allclose(values[[0, -1], 3], [-1, 1])
    why = [row[-1] for row in describe(embodiment)]
    assert ["never moves" in reason for reason in why] == [True, False, True, False]


def test_fitting_sees_chunks_that_begin_at_every_row() -> None:
    embodiment = one_group("absolute", 1)
    episodes = [np.random.default_rng(seed).normal(size=(9 + seed, 1)) for seed in range(4)]
    changes = []
    for rows in episodes:
        for offset in range(4):  # row `offset` is the one before a chunk, then the fourth row after it, and so on
            for before in range(offset, len(rows) - 4, 4):
                changes.extend(rows[before + 1 : before + 5, 0] - rows[before, 0])
    expected = np.abs(np.quantile(changes, [0.01, 0.99])).max()
    normalisation = embodiment.fitted(episodes).normalisation
    assert normalisation and np.allclose(normalisation.scale, expected)
    with pytest.raises(UserError, match="no episode has more than the 4 rows"):
        embodiment.fitted([episodes[0][:4], episodes[0][:2]])


def test_every_column_belongs_to_one_group() -> None:
    def groups(*spans: tuple[int, int]) -> tuple[ControlGroup, ...]:
        return tuple(ControlGroup(f"g{index}", *span, "delta") for index, span in enumerate(spans))

    for spans, problem in [
        (((0, 2),), "column 2 belongs to no"),
        (((1, 3),), "column 0 belongs to no"),
        (((0, 1), (2, 3)), "column 1 belongs to no"),
        (((0, 2), (1, 3)), "column 1 belongs to more"),
        (((1, 3), (0, 1)), "column 0 belongs to no"),
        (((0, 4),), "ends at column 4; there are 3"),
        (((0, 3), (2, 3)), "column 2 belongs to more"),
    ]:
        with pytest.raises(UserError, match=problem):
            RobotEmbodiment("robot", ("a", "b", "c"), RATE, groups(*spans))
    with pytest.raises(UserError, match="two control groups 'g0'"):
        RobotEmbodiment("robot", ("a", "b"), RATE, (*groups((0, 1)), ControlGroup("g0", 1, 2, "delta")))


@pytest.mark.parametrize(
    "fields, problem",
    [
        ({"kind": "gripper", "rotation": "euler_xyz", "unit": "rad"}, "a gripper and a rotation"),
        ({"kind": "delta", "rotation": "matrix"}, "has 3 columns; matrix takes 9"),
        ({"kind": "velocity", "rotation": "euler_xyz", "unit": "rad"}, "must be axis_angle"),
        ({"kind": "delta", "wraps": True, "unit": "rad"}, "only absolute angles do"),
        ({"kind": "absolute", "wraps": True, "unit": "m"}, "angles in 'm'"),
        ({"kind": "delta", "rotation": "euler_xyz"}, "angles in ''"),
        ({"kind": "absolute", "limits": ((0.0, 1.0),)}, "3 columns, 1 limits"),
        ({"kind": "absolute", "limits": ((0.0, 1.0),) * 2 + ((1.0, 1.0),)}, "limits 1.0 to 1.0"),
        ({"kind": "absolute", "start": 3}, "so none"),
    ],
)
def test_groups_that_cannot_be(fields: dict[str, typing.Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        ControlGroup(**{"name": "group", "start": 0, "stop": 3, **fields})


def test_arrays_that_do_not_fit() -> None:
    embodiment, actions = arm(), arm_actions(8)
    for rows, before, problem in [
        (actions[:6], actions[0], "6 rows are no whole number of chunks of 4"),
        (actions[:0], actions[0], "0 rows are no whole number"),
        (actions[:, :8], actions[0], "takes rows of 9 numbers"),
        (actions, actions[:1], "one for each batch"),
        (actions[None], actions[0], "one for each batch"),
    ]:
        with pytest.raises(UserError, match=problem):
            embodiment.relative(rows, before)
    actions[5, 2:6] = 0
    with pytest.raises(BadData, match=r"control group 'wrist': .* is no rotation"):
        embodiment.relative(actions[:8], actions[0])
    with pytest.raises(UserError, match="no normalisation"):
        embodiment.normalised(np.zeros((4, 8)))


def test_saved_and_loaded(tmp_path) -> None:
    embodiment = arm().fitted([arm_actions(50)])
    path = embodiment.save(tmp_path)
    assert path == tmp_path / "controls/arm.json"
    assert load_embodiment(path) == embodiment
    assert load_embodiment(arm().save(tmp_path)) == arm()


def test_files_are_read_strictly(tmp_path) -> None:
    path = arm().fitted([arm_actions(50)]).save(tmp_path)
    saved = json.loads(path.read_text())
    for spoil, problem in [
        (lambda content: content.update(rates=3), "unknown field 'rates'; did you mean 'rate'"),
        (lambda content: content["groups"][0].update(units="m"), "unknown field 'units'; did you mean 'unit'"),
        (lambda content: content["groups"][0].update(kind="absolut"), "must be one of absolute"),
        (lambda content: content.pop("columns"), "lacks the field 'columns'"),
        (lambda content: content["normalisation"]["scale"].pop(), "8 centres and 7 scales"),
        (lambda content: content["normalisation"]["scale"].__setitem__(0, 0.0), "scales from 0.0 on"),
        (lambda content: content.update(seen=content["seen"][1:]), "9 columns, 8 ranges"),
        (lambda content: content.update(name="../arm"), "cannot name an embodiment"),
    ]:
        content = json.loads(json.dumps(saved))
        spoil(content)
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=problem):
            load_embodiment(path)
    for text in ("{", "[]"):
        path.write_text(text)
        with pytest.raises(BadData):
            load_embodiment(path)
    with pytest.raises(UserError, match="is missing"):
        load_embodiment(tmp_path / "controls/other.json")


def test_set_by_hand() -> None:
    fitted = arm().fitted([arm_actions(50)])
    changed = override(fitted, {"position": {"kind": "delta", "unit": "cm"}, "side": {"kind": "delta"}})
    assert changed.normalisation is None and changed.seen == fitted.seen
    assert [group.name for group in changed.groups] == ["position", "wrist", "base", "side", "gripper"]
    assert changed.groups[0].kind == "delta" and changed.groups[0].reason == "set by hand"
    assert [(group.start, group.stop) for group in changed.groups[2:4]] == [(6, 7), (7, 8)]
    first = override(arm(), {"x": {"kind": "delta"}})
    assert [(group.name, group.kind) for group in first.groups[:2]] == [("x", "delta"), ("position", "absolute")]
    for changes, problem in [
        ({"positon": {"kind": "delta"}}, "no control group or column 'positon'; did you mean 'position'"),
        ({"position": {"kinds": "delta"}}, "unknown field 'kinds'; did you mean 'kind'"),
        ({"position": {"kind": "deltas"}}, "must be one of"),
        ({"position": {"stop": 3}}, "column 2 belongs to more"),
        ({"qx": {"kind": "delta"}}, "part of the rotation 'wrist'"),
    ]:
        with pytest.raises(UserError, match=problem):
            override(arm(), changes)


def test_the_table() -> None:
    rows = describe(arm().fitted([arm_actions(50)]))
    assert len(rows) == 9 and all(len(row) == len(HEADER) for row in rows)
    assert rows[0][:4] == ("x", "position", "absolute", "m") and " to " in rows[0][4]
    assert rows[3][2] == "absolute quaternion_xyzw (body)"
    assert describe(replace(arm(), groups=arm().groups))[0][4] == "", "no data, no range"
