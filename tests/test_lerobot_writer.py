"""The LeRobot v3.0 writer against the written layout, against a real dataset, and against slips by one frame."""

import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align.lerobot import RobotEpisode, episode_spans, write_lerobot
from common.errors import UserError
from common.video import decode

REAL = Path(__file__).parent.parent / "../shared/data/robot/g1_inspire_v30"
KEY = "observation.images.head"
LENGTHS = (7, 12, 5)
FPS = 10


def bars(number: int) -> np.ndarray:
    """A picture (32, 64, 3) that spells a number 0..63 in six bars, which survive compression."""
    picture = np.full((32, 64, 3), 40, np.uint8)
    for bit in range(6):
        if number >> bit & 1:
            picture[:, 10 * bit + 2 : 10 * bit + 10] = 215
    return picture


def read_bars(picture: np.ndarray) -> int:
    return sum(1 << bit for bit in range(6) if picture[:, 10 * bit + 4 : 10 * bit + 8].mean() > 128)


def make_episodes() -> list[RobotEpisode]:
    """Episodes whose frame, state and action all carry the frame's number in the whole dataset."""
    episodes, start = [], 0
    for index, length in enumerate(LENGTHS):
        numbers = np.arange(start, start + length)
        states = np.stack([numbers, numbers * 0.5], axis=1)
        task = "stack the cups" if index == 1 else "wipe the table"
        episodes.append(
            RobotEpisode(
                np.stack([bars(number) for number in range(start, start + length)]), states, states[:, :1] + 1, task
            )
        )
        start += length
    return episodes


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("lerobot") / "set"
    write_lerobot(
        root,
        iter(make_episodes()),
        fps=FPS,
        robot_type="test_arm",
        state_names=("reach", "lift"),
        action_names=("reach",),
        splits={"train": 2, "test": 1},
    )
    return root


def test_exactly_the_files_of_the_layout(root):
    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()) == [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        f"videos/{KEY}/chunk-000/file-000.mp4",
    ]


def test_info_describes_the_set(root):
    info = json.loads((root / "meta/info.json").read_text())
    features = info.pop("features")
    assert info == {
        "codebase_version": "v3.0",
        "robot_type": "test_arm",
        "total_episodes": 3,
        "total_frames": 24,
        "total_tasks": 2,
        "chunks_size": 1000,
        "fps": 10,
        "splits": {"train": "0:2", "test": "2:3"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
    }
    assert features["observation.state"] == {"dtype": "float32", "shape": [2], "names": ["reach", "lift"], "fps": 10}
    assert features["action"] == {"dtype": "float32", "shape": [1], "names": ["reach"], "fps": 10}
    assert features[KEY]["dtype"] == "video" and features[KEY]["shape"] == [32, 64, 3]
    assert features["frame_index"] == {"dtype": "int64", "shape": [1], "names": None, "fps": 10}
    assert list(features)[3:] == ["timestamp", "frame_index", "episode_index", "index", "task_index"]


def test_data_rows(root):
    file = pq.ParquetFile(root / "data/chunk-000/file-000.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == list(LENGTHS)
    table = file.read()
    assert {field.name: str(field.type) for field in table.schema} == {
        "observation.state": "fixed_size_list<element: float>[2]",
        "action": "fixed_size_list<element: float>[1]",
        "timestamp": "float",
        "frame_index": "int64",
        "episode_index": "int64",
        "index": "int64",
        "task_index": "int64",
    }
    described = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert described["action"] == {"feature": {"dtype": "float32", "_type": "Value"}, "length": 1, "_type": "Sequence"}
    assert described["index"] == {"dtype": "int64", "_type": "Value"}
    rows = table.to_pydict()
    frame_index = [j for length in LENGTHS for j in range(length)]
    assert rows["index"] == list(range(24)) and rows["frame_index"] == frame_index
    assert rows["episode_index"] == [0] * 7 + [1] * 12 + [2] * 5
    assert rows["task_index"] == [0] * 7 + [1] * 12 + [0] * 5
    assert rows["timestamp"] == pytest.approx([j / 10 for j in frame_index])
    assert [state[0] for state in rows["observation.state"]] == list(range(24))
    assert [action[0] for action in rows["action"]] == list(range(1, 25))


def test_tasks_and_episodes(root):
    assert pq.read_table(root / "meta/tasks.parquet").to_pydict() == {
        "task_index": [0, 1],
        "task": ["wipe the table", "stack the cups"],
    }
    pandas = json.loads(pq.read_schema(root / "meta/tasks.parquet").metadata[b"pandas"])
    assert pandas["index_columns"] == ["task"]
    rows = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pydict()
    assert rows["length"] == list(LENGTHS) and rows["episode_index"] == [0, 1, 2]
    assert rows["dataset_from_index"] == [0, 7, 19] and rows["dataset_to_index"] == [7, 19, 24]
    assert rows["tasks"] == [["wipe the table"], ["stack the cups"], ["wipe the table"]]
    assert rows[f"videos/{KEY}/from_timestamp"] == pytest.approx([0.0, 0.7, 1.9])
    assert rows[f"videos/{KEY}/to_timestamp"] == pytest.approx([0.7, 1.9, 2.4])
    assert rows["stats/action/min"] == [[1.0], [8.0], [20.0]] and rows["stats/action/count"] == [[7], [12], [5]]


def test_the_episode_table_is_that_of_the_specification(root):
    """Every column of LeRobot v3.0, its type and, but for the statistics, what it says."""
    table = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    stats = [name for name in types if name.startswith("stats/")]
    assert {name: kind for name, kind in types.items() if name not in stats} == {
        "episode_index": "int64",
        "tasks": "list<element: string>",
        "length": "int64",
        "dataset_from_index": "int64",
        "dataset_to_index": "int64",
        "data/chunk_index": "int64",
        "data/file_index": "int64",
        f"videos/{KEY}/chunk_index": "int64",
        f"videos/{KEY}/file_index": "int64",
        f"videos/{KEY}/from_timestamp": "double",
        f"videos/{KEY}/to_timestamp": "double",
        "meta/episodes/chunk_index": "int64",
        "meta/episodes/file_index": "int64",
    }
    features = json.loads((root / "meta/info.json").read_text())["features"]
    kinds = ("min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99")
    assert set(stats) == {f"stats/{feature}/{kind}" for feature in features for kind in kinds}
    rows = table.to_pydict()
    places = [name for name in types if name.endswith(("chunk_index", "file_index"))]
    assert len(places) == 6 and all(rows[name] == [0, 0, 0] for name in places)
    for feature, values in features.items():
        shape = (3, 1, 1) if values["dtype"] == "video" else tuple(values["shape"])
        assert all(np.shape(mean) == shape for mean in rows[f"stats/{feature}/mean"])
        assert rows[f"stats/{feature}/count"] == [[length] for length in LENGTHS]


def test_every_row_finds_its_picture(root):
    """from_timestamp + timestamp leads to the frame that carries the row's own number: any slip changes the number."""
    rows = pq.read_table(root / "data/chunk-000/file-000.parquet").to_pydict()
    starts = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet")[
        f"videos/{KEY}/from_timestamp"
    ].to_pylist()
    pictures = {}
    with av.open(str(root / f"videos/{KEY}/chunk-000/file-000.mp4")) as container:
        for frame in container.decode(video=0):
            pictures[round(frame.time * FPS, 6)] = read_bars(frame.to_ndarray(format="rgb24"))
    assert len(pictures) == 24
    for episode, timestamp, state in zip(
        rows["episode_index"], rows["timestamp"], rows["observation.state"], strict=True
    ):
        assert pictures[round((starts[episode] + timestamp) * FPS, 5)] == state[0]


def test_statistics_by_hand(root):
    stats = json.loads((root / "meta/stats.json").read_text())
    names = ["min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"]
    assert all(list(values) == names for values in stats.values())
    assert set(stats) == {
        "observation.state",
        "action",
        KEY,
        "timestamp",
        "frame_index",
        "episode_index",
        "index",
        "task_index",
    }
    lift = stats["observation.state"]
    assert (lift["min"], lift["max"], lift["count"]) == ([0.0, 0.0], [23.0, 11.5], [24])
    assert lift["mean"] == pytest.approx([11.5, 5.75])
    assert lift["std"] == pytest.approx([np.sqrt((24**2 - 1) / 12), np.sqrt((24**2 - 1) / 12) / 2])
    assert lift["q10"] == pytest.approx([2.3, 1.15]) and lift["q50"] == pytest.approx([11.5, 5.75])
    pixels = np.concatenate([episode.frames for episode in make_episodes()]) / 255
    image = stats[KEY]
    assert np.shape(image["mean"]) == (3, 1, 1) and image["count"] == [24]
    assert np.ravel(image["mean"]) == pytest.approx(pixels.mean(axis=(0, 1, 2)))
    assert np.ravel(image["std"]) == pytest.approx(pixels.std(axis=(0, 1, 2)))
    assert np.ravel(image["q10"]) == pytest.approx(np.full(3, 40 / 255))
    assert np.ravel(image["q99"]) == pytest.approx(np.full(3, 215 / 255))
    assert np.ravel(image["max"]) == pytest.approx(np.full(3, 215 / 255))


def test_spans_follow_the_presentation_times():
    """Times of a joined video drift from frame count / fps; the spans keep to what is in the file."""
    times = np.array([0.0, 0.1, 0.2, 0.302, 0.402, 0.504])
    assert episode_spans(times, [3, 2, 1], fps=10) == [(0.0, 0.302), (0.302, 0.504), (0.504, pytest.approx(0.604))]
    with pytest.raises(ValueError, match="6 frames, the episodes 7"):
        episode_spans(times, [3, 4], fps=10)


def test_what_does_not_fit_is_refused(root, tmp_path):
    episode = make_episodes()[0]
    names = {"fps": 10, "robot_type": "x", "state_names": ("a", "b"), "action_names": ("a",)}
    short = RobotEpisode(episode.frames, episode.states[:-1], episode.actions, "t")
    with pytest.raises(ValueError, match=r"observation.state is \(6, 2\).*\(7, 2\)"):
        write_lerobot(tmp_path / "short", [short], **names)
    with pytest.raises(ValueError, match="3 episodes; 1 were written"):
        write_lerobot(tmp_path / "splits", [episode], splits={"train": 2, "test": 1}, **names)
    with pytest.raises(UserError, match="already holds a dataset"):
        write_lerobot(root, [episode], **names)


def test_same_columns_and_types_as_a_real_dataset(root):
    if not REAL.exists():
        pytest.skip("the real LeRobot v3.0 dataset (../shared/data) is not here")

    def shape(path: str, base: Path) -> dict[str, str]:
        schema: pa.Schema = pq.read_schema(base / path)
        types = {field.name.replace("cam_high", "head"): str(field.type) for field in schema}
        return {
            name: kind.replace("[26]", "[n]").replace("[2]", "[n]").replace("[1]", "[n]")
            for name, kind in types.items()
        }

    for path in ("data/chunk-000/file-000.parquet", "meta/tasks.parquet"):
        assert list(shape(path, root).items()) == list(shape(path, REAL).items())
    ours, theirs = (shape("meta/episodes/chunk-000/file-000.parquet", base) for base in (root, REAL))
    assert {name: ours[name] for name in theirs} == theirs  # ours adds statistics of the remaining features
    assert all(name.startswith("stats/") for name in set(ours) - set(theirs))

    ours, theirs = (json.loads((base / "meta/info.json").read_text()) for base in (root, REAL))
    assert list(ours) == list(theirs)
    assert set(ours["features"][KEY]) == set(theirs["features"]["observation.images.cam_high"])
    assert set(ours["features"][KEY]["info"]) == set(theirs["features"]["observation.images.cam_high"]["info"])
    for key in ("observation.state", "action", "timestamp", "index"):
        assert list(ours["features"][key]) == list(theirs["features"][key])
    for path, key in (("data/chunk-000/file-000.parquet", b"huggingface"), ("meta/tasks.parquet", b"pandas")):
        described, real = (json.loads(pq.read_schema(base / path).metadata[key]) for base in (root, REAL))
        assert list(described) == list(real)
    stats, real = (json.loads((base / "meta/stats.json").read_text()) for base in (root, REAL))
    assert set(stats["action"]) == set(real["action"])
    assert np.shape(stats[KEY]["q50"]) == np.shape(real["observation.images.cam_high"]["q50"])


def test_pandas_and_datasets_read_it(root):
    pandas = pytest.importorskip("pandas")
    tasks = pandas.read_parquet(root / "meta/tasks.parquet")
    assert tasks.loc["stack the cups", "task_index"] == 1
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_parquet(
        str(root / "data/chunk-000/file-000.parquet"), cache_dir=str(root.parent / "cache")
    )
    assert rows[20]["action"] == [21.0] and rows[20]["episode_index"] == 2


def test_our_own_decoder_reads_every_frame(root):
    numbers = [read_bars(frame.image) for frame in decode(root / f"videos/{KEY}/chunk-000/file-000.mp4")]
    assert numbers == list(range(24))
