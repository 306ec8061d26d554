"""Makes one small good robot dataset of every kind, and spoils copies of them, each in one way.

In the good ones every picture spells its number in the whole set (`bars`), the state holds the same number, and the
action the next one, so that any slip changes a number.
"""

import importlib.util
import io
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from align.lerobot import write_lerobot
from common.video import write_video
from tests.test_lerobot_writer import FPS, KEY, LENGTHS, bars, make_episodes

STARTS = np.cumsum([0, *LENGTHS])
V3_EPISODES = "meta/episodes/chunk-000/file-000.parquet"
V3_DATA = "data/chunk-000/file-000.parquet"
V3_VIDEO = f"videos/{KEY}/chunk-000/file-000.mp4"
V2_DATA = "data/chunk-000/episode_000001.parquet"
V2_VIDEO = f"videos/chunk-000/{KEY}/episode_000001.mp4"
DEMOS = "set.hdf5"

Spoil = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """One way to spoil a good dataset."""

    name: str
    kind: str
    """Which of `make_all` is spoilt."""
    spoil: Spoil
    message: str
    """Part of what the error must say, as a regular expression."""
    episode: int | None = None
    """The only episode that is lost; None where the whole dataset is."""
    field: str = ""
    """What the error must name."""


def make_all(root: Path) -> Path:
    """root/{v30, v21, images, plain, demos, aloha}: the same episodes in every kind of dataset, HDF5 if it can be."""
    written = make_v30(root / "v30")
    make_v21(written, root / "v21")
    make_image_set(written, root / "images")
    make_plain(root / "plain")
    if importlib.util.find_spec("h5py"):
        make_demos(root / "demos")
        make_aloha(root / "aloha")
    return root


def h5py() -> Any:
    """The package, which only the extra `hdf5` brings: tests that need it are skipped without it."""
    return pytest.importorskip("h5py", reason="the extra `hdf5` is not installed")


def kind_of(good: Path, kind: str) -> Path:
    """One of `make_all`; skips where that could not be made."""
    if kind in ("demos", "aloha"):
        h5py()
    return good / kind


def make_v30(root: Path) -> Path:
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


def make_v21(written: Path, root: Path) -> Path:
    """The set that `make_v30` wrote in the layout of v2.1."""
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


def make_image_set(written: Path, root: Path) -> Path:
    """The set that `make_v30` wrote with pictures inside the parquet file, every other one in a file beside it."""
    shutil.copytree(written, root)
    pictures = [frame for episode in make_episodes() for frame in episode.frames]
    entries = []
    (root / "images").mkdir()
    for number, picture in enumerate(pictures):
        content = encoded(picture, "PNG")
        if number % 2:
            (root / f"images/{number}.png").write_bytes(content)
        entries.append({"bytes": None if number % 2 else content, "path": f"images/{number}.png"})
    pq.write_table(pq.read_table(root / V3_DATA).append_column(KEY, pa.array(entries)), root / V3_DATA)
    edit_feature(root, KEY, dtype="image")
    edit_info(root, video_path=None)
    shutil.rmtree(root / "videos")
    return root


def make_plain(root: Path) -> Path:
    """Episode 1 has an action less than frames."""
    for index, episode in enumerate(make_episodes()):
        folder = root / f"episode_{index}"
        folder.mkdir(parents=True)
        write_video(folder / "video.mp4", episode.frames, fps=FPS, gop=4)
        np.save(folder / "actions.npy", episode.actions[: -1 if index == 1 else None])
        np.save(folder / "states.npy", episode.states)
    return root


def make_demos(root: Path) -> Path:
    """robomimic's layout in one file, with a rate and a mask."""
    root.mkdir(parents=True)
    with h5py().File(root / DEMOS, "w") as file:
        for index, episode in enumerate(make_episodes()):
            demo = file.create_group(f"data/demo_{index}")
            demo["actions"] = episode.actions.astype(np.float64)
            demo["obs/front_image"] = episode.frames
            demo["obs/depth"] = np.zeros((*episode.frames.shape[:3], 1), np.float32)
            demo["obs/joint_states"] = episode.states[:, :1].astype(np.float64)
            demo["obs/gripper_states"] = episode.states[:, 1:].astype(np.float64)
            demo["obs/object"] = np.zeros((len(episode.states), 9))
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": FPS}})
        file["mask/train"] = np.array([b"demo_0", b"demo_2"])
    return root


def make_aloha(root: Path) -> Path:
    """ALOHA's layout, a file for each episode, with one camera of pixels and one of padded JPEGs."""
    root.mkdir(parents=True)
    for index, episode in enumerate(make_episodes()):
        with h5py().File(root / f"episode_{index}.hdf5", "w") as file:
            files = [np.frombuffer(encoded(frame, "JPEG"), np.uint8) for frame in episode.frames]
            longest = max(map(len, files))
            file["observations/images/cam_high"] = episode.frames
            file["observations/images/cam_low"] = np.stack([np.pad(row, (0, longest - len(row))) for row in files])
            file["observations/qpos"] = episode.states
            file["observations/qvel"] = episode.states
            file["action"] = episode.actions
    (root / "info.json").write_text(json.dumps({"fps": FPS, "action_names": ["reach"]}))
    return root


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


def encoded(picture: np.ndarray, format: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format, **({"quality": 95} if format == "JPEG" else {}))
    return content.getvalue()


def gone(name: str) -> Spoil:
    return lambda root: (root / name).unlink()


def cut(name: str, share: float) -> Spoil:
    """Only the first part of a file is left."""

    def spoil(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(share * len(content))])

    return spoil


def text(name: str, content: str) -> Spoil:
    return lambda root: (root / name).write_text(content)


def info(**changes: Any) -> Spoil:
    return lambda root: edit_info(root, **changes)


def feature(key: str, **changes: Any) -> Spoil:
    return lambda root: edit_feature(root, key, **changes)


def without_features(*keys: str) -> Spoil:
    def spoil(root: Path) -> None:
        features = json.loads((root / "meta/info.json").read_text())["features"]
        edit_info(root, features={key: value for key, value in features.items() if key not in keys})

    return spoil


def number(name: str, key: str, row: int, value: Any) -> Spoil:
    """One entry of a column is another."""

    def spoil(root: Path) -> None:
        values = pq.read_table(root / name).column(key).to_pylist()
        values[row] = value
        edit_column(root / name, key, values)

    return spoil


def column(name: str, key: str, make: Callable[[pa.Table], pa.Array | None]) -> Spoil:
    """A column is another array, or gone."""

    def spoil(root: Path) -> None:
        table = pq.read_table(root / name)
        values = make(table)
        rest = table.drop_columns([key])
        pq.write_table(rest if values is None else rest.append_column(key, values), root / name)

    return spoil


def rows(name: str, choose: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Only some rows of a table, or some of them twice."""

    def spoil(root: Path) -> None:
        table = pq.read_table(root / name)
        pq.write_table(table.take(pa.array(choose(np.arange(table.num_rows)))), root / name)

    return spoil


def video(name: str, frames: Callable[[np.ndarray], Any], *, fps: float = FPS) -> Spoil:
    """The video of episode 1 with other frames, or at another rate."""
    return lambda root: write_video(root / name, frames(make_episodes()[1].frames), fps=fps, gop=4)


def array(name: str, make: Callable[[], np.ndarray]) -> Spoil:
    return lambda root: np.save(root / name, make(), allow_pickle=True)


def h5(edit: Callable[[Any], object], *, name: str = DEMOS) -> Spoil:
    def spoil(root: Path) -> None:
        with h5py().File(root / name, "a") as file:
            edit(file)

    return spoil


def replaced(key: str, values: Callable[[Any], np.ndarray]) -> Callable[[Any], None]:
    """An array of an HDF5 file is another."""

    def edit(file: Any) -> None:
        other = values(file[key][()])
        del file[key]
        file[key] = other

    return edit


class Bomb:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


def bomb(root: Path) -> None:
    """An array of objects that runs code when it is loaded with pickle; it would make root/unpickled."""
    objects = np.empty(12, object)
    objects[:] = [Bomb(root / "unpickled")] * 12
    np.save(root / "episode_1/actions.npy", objects, allow_pickle=True)
    pickle.loads(pickle.dumps(Bomb(root / "armed")))
    assert (root / "armed").exists()


def all_actions_equal(root: Path) -> None:
    for path in (root / "data").rglob("*.parquet"):
        count = pq.read_metadata(path).num_rows
        edit_column(path, "action", [[0.25]] * count)


def states_only_named(root: Path) -> None:
    for path in root.rglob("states.npy"):
        path.unlink()
    (root / "info.json").write_text('{"state_names": ["reach", "lift"]}')


def listed_twice(root: Path) -> None:
    path = root / "meta/episodes.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")


def empty_episode(root: Path) -> None:
    path = root / "meta/episodes.jsonl"
    path.write_text(path.read_text().replace('"length": 12', '"length": 0'))


def drifting_starts(root: Path) -> None:
    """A file that also shows four frames of no episode, so that counting does not help, and starts that drift."""
    pictures = [frame for episode in make_episodes() for frame in episode.frames] + [bars(63)] * 4
    write_video(root / V3_VIDEO, pictures, fps=FPS, gop=5)
    for end, first in (("from_timestamp", 0), ("to_timestamp", 1)):
        key = f"videos/{KEY}/{end}"
        right = pq.read_table(root / V3_EPISODES).column(key).to_pylist()
        edit_column(root / V3_EPISODES, key, [time + 0.06 * (first + place) for place, time in enumerate(right)])


def no_demos(file: Any) -> None:
    for name in list(file["data"]):
        del file[f"data/{name}"]


def pictures_of(entry: Any) -> Spoil:
    """The first picture of episode 1 is stored as another entry."""
    return number(V3_DATA, KEY, int(STARTS[1]), entry)


BAD = (
    # LeRobot: files
    Case("missing parquet", "v21", gone(V2_DATA), "000001.parquet is missing", 1, "action"),
    Case("parquet that is none", "v21", text(V2_DATA, "PAR1 no more"), "cannot be read", 1, "action"),
    Case("truncated parquet", "v21", cut(V2_DATA, 0.5), "cannot be read", 1, "observation.state"),
    Case("missing video", "v21", gone(V2_VIDEO), "000001.mp4 is missing", 1, KEY),
    Case("truncated video", "v21", cut(V2_VIDEO, 0.6), "no frame of it is whole|frames", 1, KEY),
    Case("video without its index", "v21", cut(V2_VIDEO, 0.02), "cut off|damaged", 1, KEY),
    Case("zero-byte video", "v21", text(V2_VIDEO, ""), r"empty file \(0 bytes\)", 1, KEY),
    Case("Git-LFS pointer", "v21", text(V2_VIDEO, "version https://git-lfs.github.com/spec/v1"), "LFS", 1, KEY),
    # LeRobot: numbers
    Case("NaN action", "v21", number(V2_DATA, "action", 3, [np.nan]), "'reach' of frame 3 is nan", 1, "action"),
    Case(
        "infinite state",
        "v21",
        number(V2_DATA, "observation.state", 4, [0.0, np.inf]),
        "'lift' of frame 4 is inf",
        1,
        "observation.state",
    ),
    Case(
        "action beyond float32",
        "v21",
        column(V2_DATA, "action", lambda table: pa.array([[1e300]] * 12)),
        "of frame 0 is inf",
        1,
        "action",
    ),
    Case("empty action", "v21", number(V2_DATA, "action", 5, None), "no table of numbers", 1, "action"),
    Case(
        "actions in words",
        "v21",
        column(V2_DATA, "action", lambda table: pa.array([["left"]] * 12)),
        "no table of numbers",
        1,
        "action",
    ),
    Case("constant actions", "v21", all_actions_equal, "'action' never changes in any episode", None, "action"),
    Case(
        "other width in one episode",
        "v21",
        column(V2_DATA, "action", lambda table: pa.array([[1.0, 2.0]] * 12)),
        "'action' has 2 columns, the dataset names 1",
        1,
        "action",
    ),
    Case(
        "width that changes within an episode",
        "v21",
        column(V2_DATA, "action", lambda table: pa.array([[1.0], *[[1.0, 2.0]] * 11])),
        "no table of numbers",
        1,
        "action",
    ),
    Case(
        "column that is not there",
        "v21",
        column(V2_DATA, "action", lambda table: None),
        "has no column 'action'",
        1,
        "action",
    ),
    Case("more rows than listed", "v21", rows(V2_DATA, lambda at: at[[*at, -1]]), "has 13 rows; .* says 12", 1),
    Case("fewer rows than listed", "v21", rows(V2_DATA, lambda at: at[:-2]), "has 10 rows; .* says 12", 1),
    Case("rows in another order", "v21", rows(V2_DATA, lambda at: at[::-1]), "not frames 0 to 11 in order", 1),
    # LeRobot: time
    Case("video at another rate", "v21", video(V2_VIDEO, lambda frames: frames, fps=20), "rate", 1, KEY),
    Case("video a little fast", "v21", video(V2_VIDEO, lambda frames: frames, fps=11), "frame rates", 1, KEY),
    Case("video a frame short", "v21", video(V2_VIDEO, lambda frames: frames[1:]), "shows 11 frames", 1),
    Case("timestamps go back", "v21", number(V2_DATA, "timestamp", 6, 0.1), "does not increase", 1, "timestamp"),
    Case("no time", "v21", number(V2_DATA, "timestamp", 6, None), "no table of numbers|is nan", 1, "timestamp"),
    Case(
        "timestamps off against the video",
        "v21",
        column(V2_DATA, "timestamp", lambda table: pa.array([*np.arange(6) / 10, *np.arange(7, 13) / 10])),
        "from frame 5 to the next the video takes 0.100 s, the table 0.200 s",
        1,
        KEY,
    ),
    Case(
        "timestamps that begin late",
        "v21",
        column(V2_DATA, "timestamp", lambda table: pa.array(5 + np.arange(12) / 10)),
        "begins at 5.000 s",
        1,
        "timestamp",
    ),
    # LeRobot: tables of contents
    Case("empty episode", "v21", empty_episode, "episode 1 has a length of 0", 1, "length"),
    Case("unknown version", "v21", info(codebase_version="v1.6"), "version v1.6"),
    Case("no version", "v21", info(codebase_version=None), "version None"),
    Case("no action feature", "v21", without_features("action"), "has no action", None, "action"),
    Case("no camera", "v21", without_features(KEY), "has no camera", None, "camera"),
    Case("no features", "v21", info(features=[]), "no features", None, "info.json"),
    Case("feature without a type", "v21", info(features={"action": {"shape": [1]}}), "no dtype", None, "action"),
    Case("shape in words", "v21", feature("action", shape=["one"]), "has the shape", None, "action"),
    Case("info.json is no JSON", "v21", text("meta/info.json", "{fps: 10"), "cannot be read", None, "info.json"),
    Case("info.json is a list", "v21", text("meta/info.json", "[]"), "holds no object", None, "info.json"),
    Case("info.json is missing", "v21", gone("meta/info.json"), "info.json is missing", None, "info.json"),
    Case("no list of episodes", "v21", gone("meta/episodes.jsonl"), "episodes.jsonl", None, "list of episodes"),
    Case("list of episodes is cut off", "v21", cut("meta/episodes.jsonl", 0.9), "cannot be read", None, "episodes"),
    Case("no episodes", "v21", text("meta/episodes.jsonl", ""), "is empty", None, "list of episodes"),
    Case("episode listed twice", "v21", listed_twice, "episode 1 .*twice", 1, "list of episodes"),
    Case("other number of episodes", "v21", info(total_episodes=5), "lists 3 episodes, its info.json says 5"),
    Case(
        "more names than numbers", "v21", feature("action", names=["a", "b"]), "1 numbers and 2 names", None, "action"
    ),
    Case("fps in words", "v21", info(fps="ten"), "no fps", None, "fps"),
    Case("chunks of no size", "v21", info(chunks_size=0), "chunks_size of 0", None, "chunks_size"),
    Case("splits as a list", "v21", info(splits=["train"]), "the splits", None, "splits"),
    # LeRobot v3.0: many episodes in a file
    Case("v3.0 starts drift", "v30", drifting_starts, "episode 1: .*drifts by more than half a frame", None, KEY),
    Case(
        "v3.0 place of the video is not given",
        "v30",
        column(V3_EPISODES, f"videos/{KEY}/from_timestamp", lambda table: None),
        "does not say where",
        None,
        KEY,
    ),
    Case("v3.0 episodes that are no table", "v30", text(V3_EPISODES, "?"), "cannot be read", None, "list of episodes"),
    Case("v3.0 missing data", "v30", gone(V3_DATA), "file-000.parquet is missing", None, "action"),
    Case("v3.0 row of another episode", "v30", number(V3_DATA, "episode_index", 7, 2), "has 11 rows; .* says 12", 1),
    Case("v3.0 broken picture", "images", pictures_of({"bytes": b"\x89PNG none", "path": ""}), "picture 0", 1, KEY),
    Case("v3.0 picture that is not there", "images", pictures_of(None), "picture 0 cannot be read", 1, KEY),
    Case("v3.0 picture in no file", "images", gone("images/7.png"), "picture 0 cannot be read", 1, KEY),
    # Plain folders
    Case("plain without actions", "plain", gone("episode_1/actions.npy"), "is missing", 1, "actions.npy"),
    Case("plain without states", "plain", gone("episode_1/states.npy"), "is missing", 1, "states.npy"),
    Case("plain without video", "plain", gone("episode_1/video.mp4"), "no such file", 1, "video.mp4"),
    Case("plain with pickled objects", "plain", bomb, "cannot be read", 1, "actions.npy"),
    Case(
        "plain, two actions short",
        "plain",
        array("episode_1/actions.npy", lambda: np.arange(10.0)[:, None]),
        "has 10 rows, video.mp4 has 12 frames",
        1,
        "actions.npy",
    ),
    Case(
        "plain, an action too many",
        "plain",
        array("episode_1/actions.npy", lambda: np.arange(13.0)[:, None]),
        "has 13 rows, video.mp4 has 12 frames",
        1,
        "actions.npy",
    ),
    Case(
        "plain, a state short",
        "plain",
        array("episode_1/states.npy", lambda: np.zeros((11, 2))),
        "has 11 rows",
        1,
        "states.npy",
    ),
    Case(
        "plain, other width",
        "plain",
        array("episode_1/actions.npy", lambda: np.zeros((12, 4))),
        "has 4 columns",
        1,
        "actions.npy",
    ),
    Case("plain, one number per frame", "plain", array("episode_1/actions.npy", lambda: np.zeros(12)), "shape", 1),
    Case("plain, empty array file", "plain", text("episode_1/actions.npy", ""), "cannot be read", 1, "actions.npy"),
    Case("plain, cut-off array", "plain", cut("episode_1/actions.npy", 0.9), "cannot be read", 1, "actions.npy"),
    Case("plain at another rate", "plain", text("info.json", '{"fps": 25}'), "rate", None, "fps"),
    Case(
        "plain with unknown keys", "plain", text("info.json", '{"rate": 25}'), "unknown key 'rate'", None, "info.json"
    ),
    Case("plain with no rate", "plain", text("info.json", '{"fps": 0}'), "fps is 0", None, "info.json"),
    Case("plain with states named", "plain", states_only_named, "states.npy' is missing", None, "states.npy"),
    Case("plain with names too many", "plain", text("info.json", '{"action_names": ["a", "b"]}'), "names 2", None),
    Case("plain, a number twice", "plain", lambda root: (root / "episode_01").mkdir(), "episode 1 is there twice", 1),
    Case("plain, no number", "plain", lambda root: (root / "episode_x").mkdir(), "episode_x has no number"),
    # HDF5
    Case("HDF5 without actions", "demos", h5(lambda file: file["data/demo_1"].pop("actions")), "missing", 1, "actions"),
    Case(
        "HDF5 demo with other lengths",
        "demos",
        h5(replaced("data/demo_1/actions", lambda values: values[:-1])),
        "has 11 rows, the episode has 12",
        1,
        "actions",
    ),
    Case(
        "HDF5 state of another length",
        "demos",
        h5(replaced("data/demo_1/obs/gripper_states", lambda values: values[1:])),
        "has 11 rows, the episode has 12",
        1,
        "obs/gripper_states",
    ),
    Case(
        "HDF5 with NaN",
        "demos",
        h5(replaced("data/demo_1/actions", lambda values: values * np.nan)),
        "of frame 0 is nan",
        1,
        "actions",
    ),
    Case("HDF5 without its rate", "demos", h5(lambda file: file["data"].attrs.pop("env_args")), "frames it has per"),
    Case(
        "HDF5 mask of no demo",
        "demos",
        h5(replaced("mask/train", lambda names: np.array([b"demo_9"]))),
        "demo_9, which is not there",
        None,
        "train",
    ),
    Case("HDF5 cut off", "demos", cut(DEMOS, 0.5), "cannot be read", None, DEMOS),
    Case("HDF5 of another kind", "demos", h5(lambda file: file.move("data", "stuff")), "holds .*stuff"),
    Case("HDF5 without demos", "demos", h5(no_demos), "no episodes"),
    Case("ALOHA file cut off", "aloha", cut("episode_1.hdf5", 0.5), "cannot be read", 1, "episode_1.hdf5"),
    Case(
        "ALOHA without actions",
        "aloha",
        h5(lambda file: file.pop("action"), name="episode_1.hdf5"),
        "'action' is missing",
        1,
        "action",
    ),
    Case(
        "ALOHA with a broken JPEG",
        "aloha",
        h5(replaced("observations/images/cam_low", lambda files: files * 0), name="episode_1.hdf5"),
        "picture 0 cannot be read",
        1,
        "cam_low",
    ),
    Case(
        "ALOHA camera of another length",
        "aloha",
        h5(replaced("observations/images/cam_low", lambda files: files[1:]), name="episode_1.hdf5"),
        "has 11 rows, the episode has 12",
        1,
        "cam_low",
    ),
)
