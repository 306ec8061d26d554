"""One door to robot datasets of every kind: each gives the same frames, states and actions, row by row.

In the made sets every picture spells its number in the whole set, and the state holds the same number.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align.datasets import open_dataset
from align.robot_dataset import RobotDataset
from common.errors import BadData, MissingDependency, UserError
from common.video import write_video
from tests.bad_datasets import DEMOS, STARTS, array, cut, encoded, h5, h5py, kind_of, make_all, replaced
from tests.test_lerobot_writer import FPS, LENGTHS, bars, read_bars

KINDS = ("v30", "v21", "images", "plain", "demos", "aloha")


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> Path:
    return make_all(tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def copied(good, tmp_path):
    return lambda kind: Path(shutil.copytree(kind_of(good, kind), tmp_path / kind))


def shown(dataset: RobotDataset[Any], index: int, **options: Any) -> list[int]:
    return [read_bars(frame) for frame in dataset.frames(dataset.episodes[index], (32, 64), **options)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same(good, kind) -> None:
    dataset = open_dataset(str(kind_of(good, kind)))
    camera = dataset.cameras[0]
    assert dataset.root == good / kind and dataset.fps == FPS
    assert [(episode.index, episode.length) for episode in dataset.episodes] == list(enumerate(LENGTHS))
    for index, episode in enumerate(dataset.episodes):
        numbers = np.arange(STARTS[index], STARTS[index + 1])
        assert shown(dataset, index, camera=camera) == numbers.tolist()
        states, actions = dataset.states(episode), dataset.actions(episode)
        assert np.array_equal(states, np.stack([numbers, numbers * 0.5], 1).astype(np.float32))
        assert len(actions) in (len(numbers), len(numbers) - 1) and actions.dtype == np.float32
        assert np.array_equal(actions[:, 0], numbers[: len(actions)] + 1)
        assert np.allclose(dataset.seconds(episode), np.arange(len(numbers)) / FPS)
        assert len(dataset.state_names) == 2 and len(dataset.action_names) == 1
    assert shown(dataset, 1, camera=camera, rows=np.array([2, 5, 11])) == [9, 12, 18]
    assert dataset.frames(dataset.episodes[0], None, camera=camera).shape == (7, 32, 64, 3)
    assert [episode.index for episode in dataset.episodes_of("1:3")] == [1, 2]
    with pytest.raises(UserError, match="no episodes 'nowhere'"):
        dataset.episodes_of("nowhere")
    with pytest.raises(UserError, match="no camera 'foot'"):
        shown(dataset, 0, camera="foot")


def test_what_is_no_dataset(tmp_path) -> None:
    with pytest.raises(UserError, match="is no robot dataset"):
        open_dataset(tmp_path)
    for place in ("/no/such/folder", "nothing", "./a/b", "../a", "a/b/c"):
        with pytest.raises(UserError, match=f"{place} does not exist"):
            open_dataset(place)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="is no robot dataset"):
        open_dataset(tmp_path / "notes.txt")


def test_plain_names_and_rate_from_info_json(copied) -> None:
    root = copied("plain")
    assert open_dataset(root).action_names == ("action_0",) and open_dataset(root).state_names == ("state_0", "state_1")
    (root / "info.json").write_text('{"fps": 10, "action_names": ["reach"], "state_names": ["reach", "lift"]}')
    dataset = open_dataset(root)
    assert (dataset.action_names, dataset.state_names) == (("reach",), ("reach", "lift"))
    with pytest.raises(UserError, match="no fields to choose from"):
        open_dataset(root, action_key="reach")


def test_plain_without_states(copied) -> None:
    root = copied("plain")
    for path in root.rglob("states.npy"):
        path.unlink()
    dataset = open_dataset(root)
    assert dataset.state_names == () and dataset.state_keys == ()
    with pytest.raises(BadData, match=r"no states\.npy"):
        dataset.states(dataset.episodes[0])


def test_plain_episodes_are_in_the_order_of_their_numbers(tmp_path) -> None:
    for number in (2, 10, 1):
        folder = tmp_path / f"episode_{number:03d}" if number == 1 else tmp_path / f"episode_{number}"
        folder.mkdir()
        write_video(folder / "video.mp4", [bars(number)] * 3, fps=30)
        np.save(folder / "actions.npy", np.zeros((2, 1)))
    dataset = open_dataset(tmp_path)
    assert [episode.index for episode in dataset.episodes] == [1, 2, 10] and dataset.fps == 30
    assert [shown(dataset, place) for place in range(3)] == [[1] * 3, [2] * 3, [10] * 3]


def test_plain_opens_though_its_first_episode_is_broken(copied) -> None:
    root = copied("plain")
    cut("episode_0/video.mp4", 0.1)(root)
    cut("episode_0/actions.npy", 0.1)(root)
    dataset = open_dataset(root)
    assert dataset.fps == FPS and shown(dataset, 1) == list(range(7, 19))
    with pytest.raises(BadData, match=r"episode 0: 'video.mp4'"):
        _ = dataset.episodes[0].length
    for index in (1, 2):
        array(f"episode_{index}/actions.npy", lambda: np.zeros(3))(root)
    with pytest.raises(BadData, match=r"episode 0: 'actions.npy' cannot be read"):
        open_dataset(root)


def test_demos_name_their_state_and_their_splits(good) -> None:
    dataset = open_dataset(kind_of(good, "demos") / DEMOS)
    assert dataset.cameras == ("front_image",)
    assert dataset.state_keys == ("obs/joint_states", "obs/gripper_states")
    assert dataset.state_names == ("joint_states_0", "gripper_states_0") and dataset.action_names == ("action_0",)
    assert [episode.index for episode in dataset.episodes_of("train")] == [0, 2]
    chosen = open_dataset(kind_of(good, "demos"), state_key="obs/object", action_key="obs/joint_states")
    assert len(chosen.state_names) == 9
    assert np.array_equal(chosen.actions(chosen.episodes[1])[:, 0], np.arange(7, 19))
    with pytest.raises(UserError, match="no array 'obs/torque'"):
        open_dataset(kind_of(good, "demos"), state_key="obs/torque")


def test_an_unusual_state_is_every_vector_but_the_simulators(copied) -> None:
    root = copied("demos")
    h5(lambda file: [file[f"data/demo_{index}/obs"].move("joint_states", "arm") for index in range(3)])(root)
    assert open_dataset(root).state_keys == ("obs/arm", "obs/gripper_states")


def test_demos_of_several_files_are_counted_through(copied) -> None:
    root = copied("demos")
    shutil.copy(root / DEMOS, root / "another.hdf5")
    dataset = open_dataset(root)
    assert [episode.index for episode in dataset.episodes] == list(range(6))
    assert shown(dataset, 4) == shown(dataset, 1) == list(range(7, 19))
    h5(replaced("data/demo_1/actions", lambda values: values[1:]))(root)
    with pytest.raises(BadData, match=rf"episode 4 \({DEMOS}/data/demo_1\): 'actions' has 11 rows"):
        dataset.actions(dataset.episodes[4])


@pytest.mark.parametrize(
    ("camera", "note", "turned"),
    [
        ("agentview_rgb", None, True),
        ("agentview_rgb", "opencv", False),
        ("front_image", "opengl", True),
        ("front_image", None, False),
    ],
)
def test_pictures_from_the_bottom_up_are_turned(tmp_path, camera, note, turned) -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:4, :, 0] = 255  # what is stored first
    with h5py().File(tmp_path / "libero.hdf5", "w") as file:
        file[f"data/demo_0/obs/{camera}"] = np.stack([picture] * 3)
        file["data/demo_0/actions"] = np.arange(3.0)[:, None]
        if note:
            file["data"].attrs["macros_image_convention"] = note
    (tmp_path / "info.json").write_text('{"fps": 20}')
    dataset = open_dataset(tmp_path / "libero.hdf5")
    frame = dataset.frames(dataset.episodes[0], (16, 16))[0]
    assert frame[0, 0, 0] == (0 if turned else 255) and frame[-1, 0, 0] == (255 if turned else 0)
    assert frame.flags.c_contiguous and dataset.state_names == ()


def test_aloha_reads_jpegs_in_padded_rows(good) -> None:
    dataset = open_dataset(kind_of(good, "aloha"))
    assert dataset.cameras == ("cam_high", "cam_low") and dataset.action_names == ("reach",)
    assert dataset.state_keys == ("observations/qpos",) and dataset.state_names == ("qpos_0", "qpos_1")
    for camera in dataset.cameras:
        assert shown(dataset, 1, camera=camera) == list(range(7, 19))
    with pytest.raises(UserError, match="cam_high, cam_low"):
        shown(dataset, 0)
    alone = open_dataset(kind_of(good, "aloha") / "episode_2.hdf5")
    assert [episode.index for episode in alone.episodes] == [2]
    assert shown(alone, 0, camera="cam_low") == list(range(19, 24))


def test_aloha_colours_and_jpegs_of_any_length(tmp_path) -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    with h5py().File(tmp_path / "episode_0.hdf5", "w") as file:
        rows = file.create_dataset("observations/images/top", (2,), h5py().vlen_dtype(np.uint8))
        for row in range(2):
            rows[row] = np.frombuffer(encoded(red, "JPEG"), np.uint8)
        file["observations/qpos"] = np.zeros((2, 3))
        file["action"] = np.zeros((2, 3))
    (tmp_path / "info.json").write_text(json.dumps({"fps": 50}))
    dataset = open_dataset(tmp_path)
    frame = dataset.frames(dataset.episodes[0], None)[1]
    assert frame[8, 8].tolist() == pytest.approx([200, 0, 0], abs=4)


def test_a_broken_first_file_does_not_hide_the_others(copied) -> None:
    root = copied("aloha")
    cut("episode_0.hdf5", 0.3)(root)
    dataset = open_dataset(root)
    assert shown(dataset, 1, camera="cam_high") == list(range(7, 19))
    with pytest.raises(BadData, match=r"episode 0 \(episode_0.hdf5\): .* cannot be read"):
        _ = dataset.episodes[0].length


def test_files_of_two_layouts_do_not_mix(copied, good) -> None:
    root = copied("demos")
    shutil.copy(good / "aloha/episode_0.hdf5", root)
    with pytest.raises(BadData, match="two layouts"):
        open_dataset(root)


def test_hdf5_says_what_it_needs(tmp_path, monkeypatch) -> None:
    (tmp_path / "episode_0.hdf5").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependency, match="h5py") as caught:
        open_dataset(tmp_path)
    assert caught.value.exit_code == 3 and "understudy[hdf5]" in caught.value.hint


def test_a_name_on_the_hub_is_fetched(good, monkeypatch) -> None:
    asked = []

    def download(name: str, *, repo_type: str) -> str:
        asked.append((name, repo_type))
        return str(good / "v30")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    dataset = open_dataset("some-lab/robot.set_2")
    assert asked == [("some-lab/robot.set_2", "dataset")]
    assert shown(dataset, 0) == list(range(7))


def test_a_folder_is_preferred_to_a_name_on_the_hub(good, monkeypatch) -> None:
    monkeypatch.chdir(good.parent)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    assert open_dataset(f"{good.name}/v21").fps == FPS


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no route"), r"cannot be fetched .*\(no route\)"),
        (TimeoutError(), r"cannot be fetched .*\(TimeoutError\)"),
        ("transport", "cannot be fetched"),
        ("unknown", "no dataset on the Hugging Face hub"),
    ],
)
def test_trouble_with_the_hub_is_one_message(monkeypatch, error, message) -> None:
    from huggingface_hub import errors

    if error == "transport":
        error = errors.HfHubHTTPError.__bases__[0]("the line is dead")
    if error == "unknown":
        # Its constructor wants a response of whichever HTTP client this version of the hub uses.
        error = errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError)

    def download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(UserError, match=message) as caught:
        open_dataset("some-lab/some-set")
    assert caught.value.exit_code == 2 and caught.value.hint


def test_opening_datasets_does_not_import_torch() -> None:
    code = (
        "import sys, align.datasets, align.check, align.modality; print('torch' in sys.modules, 'h5py' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
