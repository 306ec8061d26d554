"""The adapter: which row it looks at, that nothing gives nothing, and that it trusts no more than it can predict."""

from dataclasses import replace

import numpy as np
import pytest

from align.adapter import HISTORY, Adapter, adapter_inputs, learn_adapter
from align.control_group import ControlGroup
from align.embodiment import RobotEmbodiment
from align.recordings import Recording

ARM = RobotEmbodiment(
    name="arm",
    columns=("x", "y", "opening"),
    rate=10.0,
    groups=(ControlGroup("arm", 0, 2, "absolute"), ControlGroup("hand", 2, 3, "gripper")),
)


def episodes(count: int, *, seed: int = 0, rows: int = 60) -> list[Recording]:
    """Absolute targets and an opening that walk at random."""
    random = np.random.default_rng(seed)
    walks = random.normal(size=(count, rows, 3)).cumsum(1).astype(np.float32) * 0.1
    frames = np.zeros((rows + 1, 2, 2, 3), dtype=np.uint8)
    return [Recording(f"episode {number}", frames, walk, None) for number, walk in enumerate(walks)]


def fitted(recordings: list[Recording]) -> RobotEmbodiment:
    return ARM.fitted([recording.controls for recording in recordings])


def shown(recordings: list[Recording], *, late: int = 0) -> list[np.ndarray]:
    """Latent actions of a known world: a change, one that depends on the place, one of the step before, and noise."""
    codes = []
    for number, recording in enumerate(recordings):
        controls = recording.controls.astype(np.float64)
        in_force = np.concatenate((controls[:1], controls[:-1]))
        change = controls - in_force
        before = np.concatenate((np.zeros((1, 3)), change[:-1]))
        noise = np.random.default_rng(number).normal(size=len(change)) * 0.1
        values = np.stack((change[:, 0], change[:, 1] * in_force[:, 0], before[:, 2], noise), axis=1)
        codes.append(np.roll(values, late, axis=0).astype(np.float32))
    return codes


def error(
    adapter: Adapter, embodiment: RobotEmbodiment, recordings: list[Recording], codes: list[np.ndarray]
) -> list[float]:
    """Share of each value's squares that is not predicted."""
    made = np.concatenate([adapter.codes(adapter_inputs(embodiment, r.controls, r.before(0))) for r in recordings])
    true = np.concatenate(codes)
    return (((made - true) ** 2).sum(0) / (true**2).sum(0)).tolist()


def learned(recordings: list[Recording], codes: list[np.ndarray]) -> tuple[Adapter, RobotEmbodiment]:
    embodiment = fitted(recordings)
    return learn_adapter(embodiment, recordings, codes, code_scale=(0.1, 0.1, 0.1, 0.1)), embodiment


def test_it_learns_what_controls_look_like_where_the_robot_is_and_just_before() -> None:
    training, held_out = episodes(8), episodes(4, seed=1)
    adapter, embodiment = learned(training, shown(training))
    change, product, before, noise = error(adapter, embodiment, held_out, shown(held_out))
    assert change < 0.02 and product < 0.1 and before < 0.02
    assert noise == 1, "what cannot be predicted is zero"
    again, _ = learned(training, shown(training))
    assert np.array_equal(again.weights, adapter.weights)


@pytest.mark.parametrize("late", [1, -1])
def test_a_slip_by_one_row_shows(late: int) -> None:
    training, held_out = episodes(8), episodes(4, seed=1)
    adapter, embodiment = learned(training, shown(training))
    assert error(adapter, embodiment, held_out, shown(held_out, late=late))[0] > 1
    if late < 0:  # the frames show it before it is asked for
        slipped, _ = learned(training, shown(training, late=late))
        assert error(slipped, embodiment, held_out, shown(held_out, late=late))[0] > 0.8


def test_controls_that_change_nothing_give_zeros_whatever_the_weights() -> None:
    training = episodes(3)
    adapter, embodiment = learned(training, shown(training))
    wild = replace(adapter, weights=np.random.default_rng(0).normal(size=adapter.weights.shape))
    held = embodiment.neutral(training[0].controls[20], rows=8)
    assert not wild.codes(adapter_inputs(embodiment, held, held[0])).any()
    moved = held.copy()
    moved[2:] += 0.1
    codes = wild.codes(adapter_inputs(embodiment, moved, held[0]))
    assert [bool(row.any()) for row in codes] == [False] * 2 + [True] * HISTORY + [False] * 2


def test_a_command_to_an_arm_that_only_trembled_is_no_earthquake() -> None:
    recordings = episodes(8)
    for recording in recordings:
        recording.controls[:, 1] *= 1e-5
    adapter, embodiment = learned(recordings, shown(recordings))
    usual = np.abs(np.concatenate(shown(recordings))).max()
    command = np.repeat([[0.0, 0.3, 0.0]], 4, axis=0).astype(np.float32)
    made = adapter.codes(adapter_inputs(embodiment, command, np.zeros(3, np.float32)))
    assert np.abs(made).max() < 0.01 * usual


def test_few_episodes_are_not_learned_by_heart() -> None:
    """The codes are noise: after two episodes, or a single one, nothing is said rather than something wrong."""
    for count in (1, 2):
        training = episodes(count)
        noise = [np.random.default_rng(n).normal(size=(60, 4)).astype(np.float32) for n in range(count)]
        adapter, embodiment = learned(training, noise)
        said = [adapter.codes(adapter_inputs(embodiment, r.controls, r.before(0))) for r in episodes(4, seed=1)]
        assert np.mean(np.square(said)) < 0.2, "of 1, the noise that was learned"


def test_inputs_are_changes_and_places_before_each_row() -> None:
    embodiment = fitted(episodes(2))
    controls = np.array([[1, 0, 0.5], [3, 0, 0.5], [3, 1, 0.25]], dtype=np.float32)
    inputs = adapter_inputs(embodiment, controls, np.array([0, 0, 0.5], dtype=np.float32))
    np.testing.assert_allclose(inputs.changes[:, -1], [[1, 0, 0], [2, 0, 0], [0, 1, -0.25]])
    np.testing.assert_allclose(inputs.changes[:, -2], [[0, 0, 0], [1, 0, 0], [2, 0, 0]])
    low, high = np.array(embodiment.seen).T
    in_force = np.array([[0, 0, 0.5], [1, 0, 0.5], [3, 0, 0.5]])
    np.testing.assert_allclose(inputs.places, (2 * (in_force - low) / (high - low) - 1).clip(-1.5, 1.5), atol=1e-6)
