"""From latent actions back to controls: what is learned, how far it is trusted, and its file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from align.control_group import ControlGroup
from align.embodiment import RobotEmbodiment
from align.inverse import Inverse, learn_inverse, read_inverse, write_inverse
from align.recordings import Recording
from align.told_controls import changes_of
from common.errors import BadData, UserError

BODY = RobotEmbodiment(
    "arm",
    ("x", "y", "grip"),
    10.0,
    (ControlGroup("position", 0, 2, "absolute"), ControlGroup("grip", 2, 3, "gripper")),
    seen=((-9.0, 9.0), (-9.0, 9.0), (0.0, 1.0)),
)
SCALE = (1.0, 0.5, 2.0, 1.0)


def world(*, lag: int = 0, episodes: int = 4, rows: int = 50) -> tuple[list[Recording], list[np.ndarray]]:
    """Recordings, and latent actions (rows, 4) that show x and the grip `lag` steps later, and y never."""
    random = np.random.default_rng(0)
    recordings, codes = [], []
    for episode in range(episodes):
        steps = random.normal(0, 0.1, (rows, 3))
        controls = (np.cumsum(steps, axis=0) + 0.5).astype(np.float32)
        recordings.append(Recording(f"episode {episode}", np.zeros((rows + 1, 2, 2, 3), np.uint8), controls, None))
        shown = np.zeros((rows, 4))
        changes = changes_of(BODY, controls[None], controls[:1])[0]
        shown[lag:, 0] = changes[: rows - lag, 0]
        shown[lag:, 1] = -3 * changes[: rows - lag, 2]
        shown[:, 2:] = random.normal(size=(rows, 2))
        codes.append((shown + 0.001 * random.normal(size=shown.shape)).astype(np.float32))
    return recordings, codes


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_it_reads_what_the_frames_show_even_some_steps_later(lag: int) -> None:
    recordings, codes = world(lag=lag)
    inverse = learn_inverse(BODY, recordings, codes, code_scale=SCALE)
    assert inverse.names == ("x", "y", "grip")
    x, y, grip = inverse.readable
    assert x and grip and y is not None and x > 0.95 and grip > 0.9 and y < 0.1
    true = changes_of(BODY, recordings[0].controls[None], recordings[0].controls[:1])[0]
    read = inverse.changes(codes[0])
    assert read.shape == true.shape
    inside = slice(5, -5)
    assert np.corrcoef(read[inside, 0], true[inside, 0])[0, 1] > 0.97
    assert np.corrcoef(read[inside, 0], np.roll(true[:, 0], 1)[inside])[0, 1] < 0.5, "no step earlier or later"


def test_it_is_a_function_of_its_arguments_and_linear_in_bent_codes() -> None:
    recordings, codes = world()
    one, two = (learn_inverse(BODY, recordings, codes, code_scale=SCALE, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.weights, two.weights)
    at_rest = one.changes(np.zeros((5, 4)))
    np.testing.assert_allclose(at_rest, np.tile(one.bias, (5, 1)), atol=1e-6)


def test_one_episode_can_be_learned_from_but_not_judged() -> None:
    recordings, codes = world(episodes=1)
    inverse = learn_inverse(BODY, recordings, codes, code_scale=SCALE)
    assert inverse.readable == (None, None, None)


def test_what_never_changes_is_read_as_still() -> None:
    recordings, codes = world()
    for recording in recordings:
        recording.controls[:, 1] = 0.25
    inverse = learn_inverse(BODY, recordings, codes, code_scale=SCALE)
    assert inverse.readable[1] is None
    np.testing.assert_allclose(inverse.changes(codes[0])[:, 1], 0, atol=1e-6)


def checkpoint(folder: Path) -> Path:
    folder.mkdir()
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def test_its_file_gives_it_back(tmp_path: Path) -> None:
    recordings, codes = world(episodes=2)
    inverse = learn_inverse(BODY, recordings, codes, code_scale=SCALE)
    folder = checkpoint(tmp_path / "model")
    assert write_inverse(folder, "arm", inverse) == folder / "inverses/arm.safetensors"
    again = read_inverse(folder, "arm")
    np.testing.assert_array_equal(again.changes(codes[1]), inverse.changes(codes[1]))
    assert (again.names, again.readable) == (inverse.names, inverse.readable)
    with pytest.raises(UserError, match=r"no way back .* 'leg'"):
        read_inverse(folder, "leg")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    one = Inverse(
        np.zeros((19, 2), np.float32), np.zeros(2, np.float32), np.ones(4, np.float32), ("x", "y"), (1.0, 1.0)
    )
    path = write_inverse(folder, "arm", one)
    with pytest.raises(BadData, match="does not fit itself"):
        read_inverse(folder, "arm")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadData, match=r"arm\.safetensors cannot be read"):
        read_inverse(folder, "arm")
