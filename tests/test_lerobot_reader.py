"""The LeRobot reader against our writer, real datasets, every layout, and slips of labels against pictures.

In the made sets every picture spells its number in the whole set and the state holds the same number.
"""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from align.lerobot import write_lerobot
from align.lerobot_reader import LeRobotDataset, open_lerobot
from common.errors import BadData, UserError
from common.video import write_video
from tests.test_lerobot_writer import FPS, KEY, LENGTHS, bars, make_episodes, read_bars

REAL = Path(__file__).parent.parent.parent / "shared" / "data" / "robot"
STARTS = np.cumsum([0, *LENGTHS])
V3_EPISODES = "meta/episodes/chunk-000/file-000.parquet"
V3_DATA = "data/chunk-000/file-000.parquet"
V3_VIDEO = f"videos/{KEY}/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("reader") / "v3"
    write_lerobot(
        root,
        make_episodes(),
        fps=FPS,
        robot_type="test_arm",
        state_names=("reach", "lift"),
        action_names=("reach",),
        splits={"train": 2, "test": 1},
    )
    return root


@pytest.fixture
def v3(written, tmp_path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(written, tmp_path / "v3"))


@pytest.fixture
def v2(written, tmp_path) -> Path:
    """The same set in the layout of v2.1."""
    root = tmp_path / "v2"
    (root / "meta").mkdir(parents=True)
    rows = pq.read_table(written / V3_DATA)
    lines = []
    for index, episode in enumerate(make_episodes()):
        data = root / f"data/chunk-000/episode_{index:06d}.parquet"
        video = root / f"videos/chunk-000/{KEY}/episode_{index:06d}.mp4"
        data.parent.mkdir(parents=True, exist_ok=True)
        video.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows.slice(STARTS[index], LENGTHS[index]), data)
        write_video(video, episode.frames, fps=FPS, gop=4)
        lines.append(json.dumps({"episode_index": index, "tasks": [episode.task], "length": LENGTHS[index]}))
    (root / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    info = json.loads((written / "meta/info.json").read_text()) | {
        "codebase_version": "v2.1",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def shown(dataset: LeRobotDataset, index: int, **options) -> list[int]:
    return [read_bars(frame) for frame in dataset.frames(dataset.episodes[index], (32, 64), **options)]


def assert_aligned(dataset: LeRobotDataset) -> None:
    for index, episode in enumerate(dataset.episodes):
        numbers = np.arange(STARTS[index], STARTS[index + 1])
        assert shown(dataset, index) == numbers.tolist()
        assert np.array_equal(dataset.states(episode), np.stack([numbers, numbers * 0.5], 1).astype(np.float32))
        assert np.array_equal(dataset.actions(episode)[:, 0], numbers + 1)
        assert np.allclose(dataset.seconds(episode), np.arange(episode.length) / FPS)


def edit_info(root: Path, **changes) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_feature(root: Path, key: str, **changes) -> None:
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features[key] |= changes
    edit_info(root, features=features)


def edit_column(path: Path, key: str, values: list) -> None:
    table = pq.read_table(path)
    place = table.column_names.index(key)
    pq.write_table(table.set_column(place, key, pa.array(values, table.schema.field(key).type)), path)


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
    with pytest.raises(BadData, match=r"episode 2: its video has no frame at 99.000 s"):
        shown(open_lerobot(v3), 2)


def test_images_inside_parquet_and_beside_it(v3) -> None:
    table = pq.read_table(v3 / V3_DATA)
    pictures = [frame for episode in make_episodes() for frame in episode.frames]
    entries = []
    (v3 / "images").mkdir()
    for number, picture in enumerate(pictures):
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "PNG")
        if number % 2:
            (v3 / f"images/{number}.png").write_bytes(content.getvalue())
        entries.append({"bytes": None if number % 2 else content.getvalue(), "path": f"images/{number}.png"})
    pq.write_table(table.append_column(KEY, pa.array(entries)), v3 / V3_DATA)
    edit_feature(v3, KEY, dtype="image")
    edit_info(v3, video_path=None)
    shutil.rmtree(v3 / "videos")
    assert_aligned(open_lerobot(v3))
    assert open_lerobot(v3).frames(open_lerobot(v3).episodes[0], (16, 16)).shape == (7, 16, 16, 3)


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
        with pytest.raises(BadData, match=rf"episode 1: episode_000001.mp4 shows {len(wrong)} frames"):
            shown(open_lerobot(v2), 1)
        assert shown(open_lerobot(v2), 0) == list(range(7))


def test_a_video_that_lost_a_frame_in_the_middle(v3) -> None:
    """It still has a frame for each row, but by the table's clock one is missing between two of them."""
    table = pq.read_table(v3 / V3_DATA)
    times = np.array(table.column("timestamp").to_pylist())
    times[10:19] += 0.1  # the video shows them evenly
    edit_column(v3 / V3_DATA, "timestamp", times.tolist())
    with pytest.raises(
        BadData, match=r"episode 1: from frame 2 to the next the video takes 0.100 s, the table 0.200 s"
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
    with pytest.raises(BadData, match=r"'action' has 1 columns, info.json names 2"):
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
