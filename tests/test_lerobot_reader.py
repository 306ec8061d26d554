"""The LeRobot reader against our writer, real datasets, every layout, and slips of labels against pictures.

In the made sets every picture spells its number in the whole set and the state holds the same number.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align.lerobot_reader import LeRobotDataset, open_lerobot
from common.errors import BadData, UserError
from common.video import write_video
from tests.bad_datasets import (
    STARTS,
    V3_DATA,
    V3_EPISODES,
    V3_VIDEO,
    edit_column,
    edit_feature,
    edit_info,
    make_image_set,
    make_v21,
    make_v30,
)
from tests.test_lerobot_writer import FPS, KEY, LENGTHS, bars, make_episodes, read_bars

REAL = Path(__file__).parent.parent.parent / "shared" / "data" / "robot"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return make_v30(tmp_path_factory.mktemp("reader") / "v3")


@pytest.fixture
def v3(written, tmp_path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(written, tmp_path / "v3"))


@pytest.fixture
def v2(written, tmp_path) -> Path:
    """The same set in the layout of v2.1."""
    return make_v21(written, tmp_path / "v2")


def shown(dataset: LeRobotDataset, index: int, **options) -> list[int]:
    return [read_bars(frame) for frame in dataset.frames(dataset.episodes[index], (32, 64), **options)]


def assert_aligned(dataset: LeRobotDataset) -> None:
    for index, episode in enumerate(dataset.episodes):
        numbers = np.arange(STARTS[index], STARTS[index + 1])
        assert shown(dataset, index) == numbers.tolist()
        assert np.array_equal(dataset.states(episode), np.stack([numbers, numbers * 0.5], 1).astype(np.float32))
        assert np.array_equal(dataset.actions(episode)[:, 0], numbers + 1)
        assert np.allclose(dataset.seconds(episode), np.arange(episode.length) / FPS)


def test_what_our_writer_writes_is_read_back_equal(written) -> None:
    dataset = open_lerobot(written)
    assert (dataset.version, dataset.fps, dataset.robot_type, dataset.cameras) == ("v3.0", FPS, "test_arm", (KEY,))
    assert dataset.state_names == ("reach", "lift") and dataset.action_names == ("reach",)
    assert [episode.length for episode in dataset.episodes] == list(LENGTHS)
    assert [episode.tasks for episode in dataset.episodes] == [(episode.task,) for episode in make_episodes()]
    assert {name: [e.index for e in part] for name, part in dataset.splits.items()} == {"train": [0, 1], "test": [2]}
    assert [e.index for e in dataset.episodes_of("test")] == [2]
    assert [e.index for e in dataset.episodes_of("1:3")] == [1, 2]
    assert_aligned(dataset)


def test_v2_gives_the_same(v2) -> None:
    dataset = open_lerobot(v2)
    assert dataset.version == "v2.1"
    assert_aligned(dataset)


def test_chosen_rows_are_those_of_the_whole(written, v2) -> None:
    for root in (written, v2):
        dataset = open_lerobot(root)
        assert shown(dataset, 1, rows=np.array([2, 5, 11])) == [9, 12, 18]


def test_a_file_that_is_not_where_the_template_says_is_found_by_its_name(v2, v3) -> None:
    (v2 / "videos").rename(v2 / "video")
    assert_aligned(open_lerobot(v2))
    edit_info(v3, video_path="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4")
    edit_info(v3, data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet")
    assert_aligned(open_lerobot(v3))


def test_drifting_starts_do_not_slip_a_frame(v3) -> None:
    """Sums of durations drift from the file's clock; by counting the frames stay right, whatever the drift."""
    column = f"videos/{KEY}/from_timestamp"
    right = pq.read_table(v3 / V3_EPISODES).column(column).to_pylist()
    edit_column(v3 / V3_EPISODES, column, [start + 0.0008 * index for index, start in enumerate(right)])
    assert_aligned(open_lerobot(v3))
    edit_column(v3 / V3_EPISODES, column, [start + 0.09 * index for index, start in enumerate(right)])
    with pytest.warns(UserWarning, match="found by counting"):
        assert_aligned(open_lerobot(v3))


def test_without_a_matching_count_the_time_decides_to_half_a_frame(v3) -> None:
    """A file that also shows frames of no episode (here: four more, at its end)."""
    pictures = [frame for episode in make_episodes() for frame in episode.frames] + [bars(63)] * 4
    write_video(v3 / V3_VIDEO, pictures, fps=FPS, gop=5)
    assert_aligned(open_lerobot(v3))
    column = f"videos/{KEY}/from_timestamp"
    right = pq.read_table(v3 / V3_EPISODES).column(column).to_pylist()
    edit_column(v3 / V3_EPISODES, column, [right[0], right[1] + 0.04, right[2]])
    assert_aligned(open_lerobot(v3))
    edit_column(v3 / V3_EPISODES, column, [right[0], right[1], 99.0])
    with pytest.raises(BadData, match=rf"episode 2: '{KEY}' has no frame at 99.000 s"):
        shown(open_lerobot(v3), 2)


def test_images_inside_parquet_and_beside_it(written, tmp_path) -> None:
    root = make_image_set(written, tmp_path / "images")
    assert_aligned(open_lerobot(root))
    assert open_lerobot(root).frames(open_lerobot(root).episodes[0], (16, 16)).shape == (7, 16, 16, 3)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([["a", "b"]], ("a", "b")),
        ({"motors": ["a", "b"]}, ("a", "b")),
        ({"a": 0, "b": 1}, ("a", "b")),
        (None, ("observation.state_0", "observation.state_1")),
        (["state"], ("state_0", "state_1")),
    ],
)
def test_names_in_the_ways_that_files_give_them(v3, names, expected) -> None:
    edit_feature(v3, "observation.state", names=names)
    assert open_lerobot(v3).state_names == expected


def test_other_keys_and_a_state_in_parts(v3) -> None:
    features = json.loads((v3 / "meta/info.json").read_text())["features"]
    vector, action = features.pop("observation.state"), features.pop("action")
    part = vector | {"shape": [1], "names": None}
    edit_info(
        v3, features=features | {"observation.state.arm": part, "observation.state.hand": part, "actions": action}
    )
    table = pq.read_table(v3 / V3_DATA)
    numbers = pa.array(np.arange(24, dtype=np.float32))
    halves = pa.array([[number / 2] for number in range(24)])  # lists of one double
    table = table.append_column("observation.state.arm", numbers).append_column("observation.state.hand", halves)
    names = ["actions" if name == "action" else name for name in table.column_names]
    pq.write_table(table.rename_columns(names).drop_columns(["observation.state"]), v3 / V3_DATA)
    assert open_lerobot(v3).state_names == ("arm.observation.state.arm_0", "hand.observation.state.hand_0")
    assert_aligned(open_lerobot(v3))


def test_a_declared_rate_that_the_timestamps_contradict(written, v3) -> None:
    """oxe-aug's info.json says 3 frames per second where rows and video have 30."""
    assert open_lerobot(written).fps == FPS
    edit_info(v3, fps=3)
    edit_feature(v3, KEY, info={"video.fps": 30})
    with pytest.warns(UserWarning, match="10 per second by their timestamps, not 3 as declared"):
        dataset = open_lerobot(v3)
    assert dataset.fps == FPS
    assert_aligned(dataset)


def test_short_keys_doubles_and_features_that_are_no_numbers(v2) -> None:
    """Keys as in openpi's conversions; float64 actions; bool and string features, which are passed over."""
    features = json.loads((v2 / "meta/info.json").read_text())["features"]
    renamed = {"observation.state": "state", "action": "actions", KEY: "image"}
    features = {renamed.get(key, key): feature for key, feature in features.items()}
    features["actions"] |= {"dtype": "float64"}
    flags = {"next.done": {"dtype": "bool", "shape": [1]}, "note": {"dtype": "string", "shape": [1], "names": None}}
    edit_info(v2, features=features | flags)
    (v2 / f"videos/chunk-000/{KEY}").rename(v2 / "videos/chunk-000/image")
    for path in (v2 / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        table = table.rename_columns([renamed.get(name, name) for name in table.column_names])
        doubles = pa.array(table.column("actions").to_pylist(), pa.list_(pa.float64()))
        table = table.set_column(table.column_names.index("actions"), "actions", doubles)
        table = table.append_column("next.done", pa.array([False] * len(table)))
        pq.write_table(table.append_column("note", pa.array(["good"] * len(table))), path)
    dataset = open_lerobot(v2)
    assert (dataset.state_keys, dataset.action_keys, dataset.cameras) == (("state",), ("actions",), ("image",))
    assert dataset.actions(dataset.episodes[0]).dtype == np.float32
    assert_aligned(dataset)


def test_fields_that_are_named(v3) -> None:
    """DROID and others hold several kinds of actions."""
    features = json.loads((v3 / "meta/info.json").read_text())["features"]
    double = features["action"] | {"names": ["speed"]}
    edit_info(v3, features=features | {"action_dict.joint_velocity": double, "action_dict.note": {"dtype": "string"}})
    speeds = pa.array([[2.0 * row] for row in range(24)])
    pq.write_table(pq.read_table(v3 / V3_DATA).append_column("action_dict.joint_velocity", speeds), v3 / V3_DATA)
    assert open_lerobot(v3).action_names == ("reach",)
    for key in ("action_dict", "action_dict.joint_velocity"):
        dataset = open_lerobot(v3, action_key=key)
        assert dataset.action_keys == ("action_dict.joint_velocity",)
        assert dataset.actions(dataset.episodes[1])[:, 0].tolist() == list(range(14, 38, 2))
    swapped = open_lerobot(v3, state_key="action", action_key="observation.state")
    assert (swapped.state_names, swapped.action_names) == (("reach",), ("reach", "lift"))
    with pytest.raises(UserError, match="no feature 'torque'"):
        open_lerobot(v3, state_key="torque")


def test_older_and_other_info(v2) -> None:
    """v2.0 by name, no totals or chunk size, the picture's shape channel first, video_info, tasks as one string."""
    info = json.loads((v2 / "meta/info.json").read_text())
    for key in ("total_tasks", "total_episodes", "total_frames", "chunks_size", "splits"):
        del info[key]
    info["codebase_version"] = "v2.0"
    camera = info["features"][KEY]
    info["features"][KEY] = {"dtype": "video", "shape": [3, 32, 64], "video_info": camera["info"]}
    (v2 / "meta/info.json").write_text(json.dumps(info))
    lines = [json.loads(line) for line in (v2 / "meta/episodes.jsonl").read_text().splitlines()]
    lines = [line | {"tasks": line["tasks"][0]} for line in lines]
    (v2 / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = open_lerobot(v2)
    assert dataset.version == "v2.0" and dataset.splits == {}
    assert dataset.episodes[1].tasks == ("stack the cups",)
    assert_aligned(dataset)


def test_later_chunks_of_v2(v2) -> None:
    """With two episodes to a folder, the third lies in the second one."""
    edit_info(v2, chunks_size=2)
    for part, name in (("data", "episode_000002.parquet"), ("videos", f"{KEY}/episode_000002.mp4")):
        target = v2 / part / "chunk-001" / name
        target.parent.mkdir(parents=True)
        (v2 / part / "chunk-000" / name).rename(target)
    assert_aligned(open_lerobot(v2))


def test_timestamps_left_at_zero_are_taken_from_the_rate(v3) -> None:
    edit_column(v3 / V3_DATA, "timestamp", [0.0] * 24)
    assert_aligned(open_lerobot(v3))


def test_depth_cameras_are_passed_over_and_a_second_camera_must_be_named(v3) -> None:
    features = json.loads((v3 / "meta/info.json").read_text())["features"]
    depth = features[KEY] | {"info": {"video.is_depth_map": True}}
    edit_info(v3, features=features | {"depth": depth})
    assert open_lerobot(v3).cameras == (KEY,)
    edit_info(v3, features=features | {"wrist": features[KEY]})
    dataset = open_lerobot(v3)
    with pytest.raises(UserError, match="wrist"):
        shown(dataset, 0)
    with pytest.raises(UserError, match="no camera 'foot'"):
        shown(dataset, 0, camera="foot")
    with pytest.raises(BadData, match="does not say where 'wrist' is"):
        shown(dataset, 0, camera="wrist")
    assert shown(dataset, 0, camera=KEY) == list(range(7))


def test_a_video_with_other_frames_than_rows(v2) -> None:
    video = v2 / f"videos/chunk-000/{KEY}/episode_000001.mp4"
    frames = make_episodes()[1].frames
    for wrong in (frames[1:], frames[:-1], np.concatenate([frames[:1], frames])):
        write_video(video, wrong, fps=FPS)
        with pytest.raises(BadData, match=rf"episode 1: .*episode_000001.mp4 shows {len(wrong)} frames"):
            shown(open_lerobot(v2), 1)
        assert shown(open_lerobot(v2), 0) == list(range(7))


def test_a_video_that_lost_a_frame_in_the_middle(v3) -> None:
    """It still has a frame for each row, but by the table's clock one is missing between two of them."""
    table = pq.read_table(v3 / V3_DATA)
    times = np.array(table.column("timestamp").to_pylist())
    times[10:19] += 0.1  # the video shows them evenly
    edit_column(v3 / V3_DATA, "timestamp", times.tolist())
    with pytest.raises(
        BadData, match=rf"episode 1: '{KEY}': from frame 2 to the next the video takes 0.100 s, the table 0.200 s"
    ):
        shown(open_lerobot(v3), 1)


def test_missing_files_and_cut_off_files(v2, v3) -> None:
    (v2 / f"videos/chunk-000/{KEY}/episode_000002.mp4").unlink()
    (v2 / "data/chunk-000/episode_000001.parquet").unlink()
    dataset = open_lerobot(v2)
    with pytest.raises(BadData, match=r"episode_000002.mp4 is missing"):
        shown(dataset, 2)
    with pytest.raises(BadData, match=r"episode_000001.parquet is missing"):
        dataset.states(dataset.episodes[1])
    for name in (V3_VIDEO, V3_DATA):
        (v3 / name).write_bytes((v3 / name).read_bytes()[:300])
    dataset = open_lerobot(v3)
    with pytest.raises(BadData):
        shown(dataset, 0)
    with pytest.raises(BadData, match="cannot be read"):
        dataset.states(dataset.episodes[0])


def test_rows_that_do_not_fit(v3) -> None:
    table = pq.read_table(v3 / V3_DATA)
    pq.write_table(table.slice(0, 23), v3 / V3_DATA)
    dataset = open_lerobot(v3)
    with pytest.raises(BadData, match=r"episode 2: its table has 4 rows; the list of episodes says 5 frames"):
        dataset.states(dataset.episodes[2])
    pq.write_table(table.slice(1), v3 / V3_DATA)
    edit_column(v3 / V3_EPISODES, "length", [6, 12, 5])
    with pytest.raises(BadData, match="rows are not frames 0 to 5 in order"):
        open_lerobot(v3).states(open_lerobot(v3).episodes[0])
    states = [[float(row), 0.0] for row in range(24)]
    states[9][1] = float("nan")
    pq.write_table(table, v3 / V3_DATA)
    edit_column(v3 / V3_DATA, "observation.state", states)
    with pytest.raises(BadData, match=r"episode 1: 'lift' of frame 2 is nan"):
        open_lerobot(v3).states(open_lerobot(v3).episodes[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebase_version": "v1.6"}, "version v1.6"),
        ({"fps": 0}, "no fps"),
        ({"features": None}, "no features"),
        ({"data_path": None}, "no data_path"),
        ({"total_episodes": 4}, "lists 3 episodes, its info.json says 4"),
        ({"splits": {"train": "0:9"}}, "'train' is 0:9, there are 3 episodes"),
        ({"splits": {"train": "all"}}, "'train' is 'all'"),
    ],
)
def test_contents_that_make_no_sense(v3, changes, message) -> None:
    edit_info(v3, **changes)
    with pytest.raises(BadData, match=message):
        open_lerobot(v3)


def test_other_contents_that_make_no_sense(v3, tmp_path) -> None:
    edit_feature(v3, "action", names=["a", "b", "c"], shape=[2])
    with pytest.raises(BadData, match="'action' has 2 numbers and 3 names"):
        open_lerobot(v3)
    edit_feature(v3, "action", names=["a", "b"])
    with pytest.raises(BadData, match=r"episode 0: 'action' has 1 columns, the dataset names 2"):
        open_lerobot(v3).actions(open_lerobot(v3).episodes[0])
    with pytest.raises(UserError, match="no episodes 'nowhere'"):
        open_lerobot(v3).episodes_of("nowhere")
    (v3 / V3_EPISODES).unlink()
    with pytest.raises(BadData, match="list of episodes"):
        open_lerobot(v3)
    (v3 / "meta/info.json").write_text("{")
    with pytest.raises(BadData, match=r"info.json cannot be read"):
        open_lerobot(v3)
    with pytest.raises(UserError, match="no LeRobot dataset"):
        open_lerobot(tmp_path)


def real(name: str) -> LeRobotDataset:
    if not (REAL / name).is_dir():
        pytest.skip(f"../shared/data/robot/{name} is not here")
    return open_lerobot(REAL / name)


def test_a_real_set_is_the_same_in_both_versions() -> None:
    """The v3.0 copy joins five AV1 files, whose starts drift by up to a millisecond."""
    old, new = real("g1_inspire_v21"), real("g1_inspire_v30")
    assert old.state_names == new.state_names and len(old.state_names) == 26
    for index in (1, 4):
        rows = np.array([0, 1, 2, 60])
        pictures = [set_.frames(set_.episodes[index], (48, 64), rows=rows) for set_ in (old, new)]
        assert np.array_equal(pictures[0], pictures[1]) and pictures[0].std() > 20
        assert np.array_equal(old.states(old.episodes[index]), new.states(new.episodes[index]))
        assert np.array_equal(old.actions(old.episodes[index]), new.actions(new.episodes[index]))


def test_real_images_inside_parquet() -> None:
    dataset = real("bridge_debug_v30")
    assert len(dataset.episodes) == 25 and dataset.action_names[:3] == ("dx", "dy", "dz")
    for episode in dataset.episodes:
        frames = dataset.frames(episode, (64, 64))
        assert frames.shape == (10, 64, 64, 3) and frames.std() > 10
        assert np.isfinite(dataset.states(episode)).all()
