"""Controls that are not the true ones begin where the robot is and change what they should; rows stay together."""

import numpy as np
import pytest

from align.control_group import ControlGroup
from align.embodiment import RobotEmbodiment
from align.recordings import Recording
from align.told_controls import RobotWindow, changes_of, controls_of, cut_windows, told_controls

BODY = RobotEmbodiment(
    name="all-kinds",
    columns=("x", "y", "qx", "qy", "qz", "qw", "lift", "drive", "grip"),
    rate=5.0,
    groups=(
        ControlGroup("place", 0, 2, "absolute"),
        ControlGroup("wrist", 2, 6, "absolute", rotation="quaternion_xyzw"),
        ControlGroup("lift", 6, 7, "delta"),
        ControlGroup("drive", 7, 8, "velocity"),
        ControlGroup("grip", 8, 9, "gripper"),
    ),
    seen=((-9, 9),) * 8 + ((0.0, 1.0),),
)


def episode(seed: int, *, rows: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Controls (T, A) and those before."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(rows + 1, 9))
    found[:, 2:6] /= np.linalg.norm(found[:, 2:6], axis=1, keepdims=True)
    found[:, 8] = random.uniform(0, 1, rows + 1)
    return found[1:].astype(np.float32), found[0].astype(np.float32)


def window(seed: int) -> RobotWindow:
    controls, before = episode(seed)
    return RobotWindow(f"episode {seed}", np.zeros((7, 4, 4, 3), np.uint8), controls, before)


def test_changes_and_back() -> None:
    controls, before = (np.stack(parts) for parts in zip(episode(0), episode(1), strict=True))
    changes = changes_of(BODY, controls, before)
    assert changes.shape == (2, 6, 8)
    back = controls_of(BODY, changes, before)
    rotation = slice(2, 6)  # a quaternion and its negative turn alike
    same = np.sign((back[..., rotation] * controls[..., rotation]).sum(-1, keepdims=True))
    back[..., rotation] *= same
    np.testing.assert_allclose(back, controls, atol=1e-5)
    np.testing.assert_allclose(changes[:, 1:, -1], np.diff(controls[..., 8], axis=1), atol=1e-6)


def test_another_episodes_controls_begin_where_this_one_is() -> None:
    here, other = window(0), window(1)
    told = told_controls(BODY, [here], [other])
    assert np.array_equal(told["true"][0], here.controls)
    shuffled = told["shuffled"][0]
    np.testing.assert_allclose(shuffled[:, :2] - here.before[:2], other.controls[:, :2] - other.before[:2], atol=1e-5)
    np.testing.assert_array_equal(shuffled[:, 6:8], other.controls[:, 6:8])
    turns = [
        BODY.relative(rows, before, chunk=1)[:, 2:5]
        for rows, before in ((shuffled, here.before), (other.controls, other.before))
    ]
    np.testing.assert_allclose(turns[0], turns[1], atol=1e-4)


def test_neutral_and_opposite() -> None:
    here = window(0)
    told = told_controls(BODY, [here], [window(1)])
    assert not changes_of(BODY, told["zero"], here.before[None]).round(6).any()
    opposite = told["opposite"][0]
    np.testing.assert_allclose(opposite[:, :2], 2 * here.before[:2] - here.controls[:, :2], atol=1e-5)
    np.testing.assert_allclose(opposite[:, 6:8], -here.controls[:, 6:8], atol=1e-6)
    turn = changes_of(BODY, opposite[None], here.before[None])[0, :, 2:5]
    np.testing.assert_allclose(turn, -changes_of(BODY, here.controls[None], here.before[None])[0, :, 2:5], atol=1e-4)


def test_openings_end_at_what_was_seen_and_come_back_at_once() -> None:
    before = np.zeros((1, 9), np.float32)
    before[:, 5], before[:, 8] = 1, 0.9
    changes = np.zeros((1, 3, 8))
    changes[0, :, 7] = (0.4, 0.4, -0.3)
    assert controls_of(BODY, changes, before)[0, :, 8] == pytest.approx([1.0, 1.0, 0.7])
    before[:, 8] = 1.2  # a held-out episode may be beyond what was seen: there it stays
    assert controls_of(BODY, changes, before)[0, :, 8] == pytest.approx([1.2, 1.2, 0.9])


def numbered(frames: int) -> Recording:
    """Frame t shows t; the control that leads to it is t; so is its state."""
    count = np.arange(frames)
    pictures = np.broadcast_to(count[:, None, None, None], (frames, 2, 2, 3)).astype(np.uint8)
    return Recording("numbered", pictures, count[1:, None].astype(np.float32), count[:, None].astype(np.float32))


def test_windows_keep_frames_controls_and_states_together() -> None:
    found = cut_windows([numbered(30), numbered(4), numbered(9)], steps=8, each=9)
    assert [int(one.frames[0, 0, 0, 0]) for one in found] == [1, 11, 21, 0]
    for one in found:
        first = int(one.frames[0, 0, 0, 0])
        assert one.controls[:, 0].tolist() == list(range(first + 1, first + 9))
        assert one.states is not None and one.states[:, 0].tolist() == list(range(first, first + 9))
        assert one.before[0] == max(first, 1)
    assert len(cut_windows([numbered(30)], steps=8, each=2)) == 2
    assert [int(one.frames[0, 0, 0, 0]) for one in cut_windows([numbered(30)], steps=8, each=1)] == [11]


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="7 frames, 5 rows of controls and no states"):
        RobotWindow("a", np.zeros((7, 4, 4, 3), np.uint8), np.zeros((5, 2)), np.zeros(2))
