"""The demo world: factors describe the frames they lie beside, motion is believable, seeds decide everything."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from common.errors import MissingDependency, UserError
from common.folders import open_folder
from common.video import decode, probe
from scripts.demo_behaviour import SKILLS
from scripts.demo_config import DemoConfig
from scripts.demo_data import clip_name, demo_set_path, episode_specs, make_demo
from scripts.demo_looks import Split
from scripts.demo_world import FACTORS, EpisodeSpec, make_tracks, render_episode

BODIES = ("human", "robot")


@pytest.fixture(scope="module")
def mujoco_works() -> None:
    try:
        render_episode(EpisodeSpec(0, "robot", "train", 0, frames=2, size=(16, 16)))
    except MissingDependency as error:
        pytest.skip(f"cannot render here: {error}")


def project(points: np.ndarray, camera: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """World points (T, 3) seen by camera poses (T, 6), as (T, 2) pixel column and row; written without the renderer."""
    pixels = []
    for point, (x, y, z, yaw, pitch, roll) in zip(points, camera, strict=True):
        forward = np.array([-math.sin(yaw) * math.cos(pitch), math.cos(yaw) * math.cos(pitch), math.sin(pitch)])
        level_right = np.array([math.cos(yaw), math.sin(yaw), 0.0])
        level_up = np.cross(level_right, forward)
        right = math.cos(roll) * level_right + math.sin(roll) * level_up
        up = math.cos(roll) * level_up - math.sin(roll) * level_right
        offset = point - np.array([x, y, z])
        focal = size[0] / 2 / math.tan(math.radians(47) / 2)
        depth = offset @ forward
        pixels.append([size[1] / 2 + focal * (offset @ right) / depth, size[0] / 2 - focal * (offset @ up) / depth])
    return np.array(pixels)


def slip_errors(track: np.ndarray, seen: np.ndarray) -> dict[int, float]:
    """Median distance between `seen` (T, 2) and `track` (T, 2) taken 1 frame early, in step, and 1 frame late."""
    middle = seen[1:-1]
    errors = {}
    for slip in (-1, 0, 1):
        gap = middle - track[1 + slip : len(track) - 1 + slip]
        errors[slip] = float(np.nanmedian(np.linalg.norm(gap - np.nanmedian(gap, axis=0), axis=1)))
    return errors


def colour_centres(frames: np.ndarray, colour: tuple[float, float, float], least: int) -> np.ndarray:
    """Centre (T, 2) of the pixels of a colour's hue, whatever the light; nan where fewer than `least` are seen."""
    wanted = np.array(colour) / np.linalg.norm(colour)
    centres = np.full((len(frames), 2), np.nan)
    for t, frame in enumerate(frames.astype(float)):
        likeness = frame @ wanted / (np.linalg.norm(frame, axis=-1) + 1e-6)
        rows, columns = np.nonzero(likeness > 0.985)
        if len(rows) >= least:
            centres[t] = columns.mean() + 0.5, rows.mean() + 0.5
    return centres


def test_camera_and_ball_factors_belong_to_their_frame(mujoco_works):
    """The ball is drawn where its factor, seen through the camera's factor, says; one frame off it is not."""
    size = (96, 96)
    for index in (0, 2):
        spec = EpisodeSpec(0, "human", "train", index, size=size)
        tracks, episode = make_tracks(spec), render_episode(spec)
        seen = colour_centres(episode.frames, tracks.look.distractor, least=12)
        errors = slip_errors(project(episode.factors["distractor"], episode.factors["camera"], size), seen)
        assert errors[0] < 0.4 and min(errors[-1], errors[1]) > 2, errors


def test_tool_factor_belongs_to_its_frame(mujoco_works):
    """The hand's colour moves with the projected tool position; one frame off it agrees much less."""
    size = (96, 96)
    for index in (0, 6):
        spec = EpisodeSpec(0, "human", "train", index, size=size, nuisance=0)
        tracks, episode = make_tracks(spec), render_episode(spec)
        seen = colour_centres(episode.frames, tracks.look.skin, least=30)
        track = project(episode.factors["tool"][:, :3], episode.factors["camera"], size)
        errors = slip_errors(track, seen)
        assert errors[0] < 0.6 * min(errors[-1], errors[1]), errors


def test_light_factor_belongs_to_its_frame(mujoco_works):
    """Changes of brightness follow changes of the lamp, and those of the frame before or after do not explain them."""
    best = []
    for index in range(3):
        episode = render_episode(EpisodeSpec(0, "human", "train", index, size=(32, 32)))
        brightness = np.diff(np.log(episode.frames.mean(axis=(1, 2, 3))))
        key, fill, _, _, elevation = episode.factors["light"].T
        lamp = np.diff(np.log(0.1 + fill + key * np.sin(elevation)))  # light that falls on the table top
        best.append([np.corrcoef(brightness[1:-1], np.roll(lamp, slip)[1:-1])[0, 1] for slip in (-1, 0, 1)])
    early, right, late = np.median(best, axis=0)
    assert right > 0.8 and max(early, late) < 0.5, best


def test_command_leads_from_its_frame_to_the_next():
    """Robot: state t+1 lies 90 % of the way from state t to command t; no other pairing of rows says so."""

    def residual(slip: int) -> float:
        left = []
        for index in range(6):
            factors = make_tracks(EpisodeSpec(0, "robot", "train", index)).factors
            tool, command = factors["tool"].astype(float), factors["command"].astype(float)
            here, there, asked = tool[1:-2], tool[2:-1], command[1 + slip : len(tool) - 2 + slip]
            left.append(np.linalg.norm((there - here - 0.9 * (asked - here))[:, :3], axis=1))
        return float(np.median(np.concatenate(left)))

    assert residual(0) < 0.002
    assert min(residual(-1), residual(1)) > 4 * residual(0)
    assert "command" not in make_tracks(EpisodeSpec(0, "human", "train", 0)).factors


def test_same_seed_same_episode_and_every_name_another(mujoco_works):
    spec = EpisodeSpec(3, "human", "validation", 5, frames=6)
    first, second = render_episode(spec), render_episode(spec)
    assert np.array_equal(first.frames, second.frames)
    assert all(np.array_equal(first.factors[name], second.factors[name]) for name in first.factors)
    others = [
        (4, "human", "validation", 5),
        (3, "robot", "validation", 5),
        (3, "human", "train", 5),
        (3, "human", "validation", 6),
    ]
    for seed, body, split, index in others:
        other = make_tracks(EpisodeSpec(seed, body, split, index, frames=6))  # pyright: ignore[reportArgumentType]
        assert not np.allclose(other.factors["tool"], first.factors["tool"])


def test_the_lamp_of_the_test_split_stands_where_training_never_has_it():
    """Behind the table in training, on the viewer's side in testing, at the strongest nuisance too."""
    sides: dict[Split, int] = {"train": 1, "validation": 1, "test": -1}
    for split, side in sides.items():
        for body in ("human", "robot"):
            for index in range(40):
                azimuth = make_tracks(EpisodeSpec(0, body, split, index, frames=40, nuisance=4)).factors["light"][:, 3]
                assert (side * np.cos(azimuth) > 0).all(), (split, body, index)


def test_nuisance_scales_camera_light_and_ball_and_nothing_else():
    steps = {}
    for nuisance in (0.0, 0.5, 1.0, 2.0, 4.0):
        tracks = [make_tracks(EpisodeSpec(0, "human", "train", index, nuisance=nuisance)) for index in range(5)]
        reference = [make_tracks(EpisodeSpec(0, "human", "train", index)) for index in range(5)]
        for one, other in zip(tracks, reference, strict=True):
            assert one.look == other.look
            assert all(np.array_equal(one.factors[name], other.factors[name]) for name in ("tool", "objects", "held"))
        steps[nuisance] = {
            name: np.mean([np.abs(np.diff(one.factors[name], axis=0)).mean() for one in tracks])
            for name in ("camera", "light", "distractor")
        }
    for name in ("camera", "light", "distractor"):
        assert steps[0.0][name] == 0
        sizes = [steps[nuisance][name] for nuisance in (0.5, 1.0, 2.0, 4.0)]
        assert all(after > 1.5 * before for before, after in pairwise(sizes)), (name, sizes)
    robot = make_tracks(EpisodeSpec(0, "robot", "train", 0)).factors
    assert all(np.ptp(robot[name], axis=0).max() == 0 for name in ("camera", "light", "distractor"))


@pytest.mark.parametrize("body", BODIES)
def test_objects_move_only_when_touched_and_never_overlap(body):
    pushed = grasped = 0
    for index in range(25):
        tracks = make_tracks(EpisodeSpec(1, body, "train", index))
        objects, tool, held, skill = (tracks.factors[name] for name in ("objects", "tool", "held", "skill"))
        radii = np.array([thing.radius for thing in tracks.look.things])
        for a in range(len(radii)):
            for b in range(a + 1, len(radii)):
                apart = np.linalg.norm(objects[:, a, :2] - objects[:, b, :2], axis=1)
                same_height = np.abs(objects[:, a, 2] - objects[:, b, 2]) < 0.05
                assert (apart[same_height] > radii[a] + radii[b] - 0.001).all()
        steps = np.linalg.norm(np.diff(objects[..., :2], axis=0), axis=-1)  # (T-1, objects)
        tool_steps = np.linalg.norm(np.diff(tool[:, :3], axis=0), axis=-1)
        assert (steps.max(axis=1) < tool_steps + 0.004).all(), "an object outran the tool"
        moved = steps > 0.002
        reach = np.linalg.norm(objects[:-1, :, :2] - tool[:-1, None, :2], axis=-1)
        loose = moved & (np.arange(len(radii)) != held[:-1, None]) & (np.arange(len(radii)) != held[1:, None])
        low = np.minimum(tool[:-1, 2], tool[1:, 2])
        assert (low[loose.any(axis=1)] < 0.118).all(), "an object moved under a raised tool"
        assert (reach[loose] < 0.30).all()
        pushed += int((loose.any(axis=1) & (skill[:-1] == SKILLS.index("push"))).sum())
        grasped += int(((held[1:] >= 0) & (held[:-1] < 0)).sum())
        for t in np.flatnonzero((held[:-1] >= 0) & (held[1:] == held[:-1])):
            before, after = (objects[u, held[t], :3] - tool[u, :3] for u in (t, t + 1))
            assert abs(np.linalg.norm(before[:2]) - np.linalg.norm(after[:2])) < 1e-4
    assert pushed > 40 and grasped > 8, (pushed, grasped)


def test_hand_moves_and_stays_in_view():
    in_view, steps = [], []
    for index in range(20):
        factors = make_tracks(EpisodeSpec(0, "human", "train", index)).factors
        pixels = project(factors["tool"][:, :3], factors["camera"], (64, 64))
        in_view.append(((pixels > 0) & (pixels < 64)).all(axis=1))
        steps.append(np.linalg.norm(np.diff(pixels, axis=0), axis=1))
    assert np.concatenate(in_view).mean() > 0.85
    assert np.median(np.concatenate(steps)) > 2  # pixels from frame to frame, at 64 pixels


def test_test_looks_are_never_trained_on():
    shown = [make_tracks(EpisodeSpec(0, "human", "train", index, frames=2)).look for index in range(60)]
    unseen = [make_tracks(EpisodeSpec(0, "human", "test", index, frames=2)).look for index in range(60)]
    assert {look.texture for look in shown}.isdisjoint(look.texture for look in unseen)
    shapes = [{thing.shape for look in looks for thing in look.things} for looks in (shown, unseen)]
    assert shapes[0].isdisjoint(shapes[1]) and min(map(len, shapes)) >= 3
    validation = [make_tracks(EpisodeSpec(0, "human", "validation", index, frames=2)).look for index in range(60)]
    assert {look.texture for look in validation} == {look.texture for look in shown}


def test_wrong_specifications_are_refused(tmp_path):
    right = EpisodeSpec(0, "human", "train", 0)
    for wrong in ({"frames": 1}, {"size": (8, 64)}, {"nuisance": 5.0}, {"nuisance": -1.0}, {"seed": -1}):
        (value,) = wrong.values()
        with pytest.raises(ValueError, match=re.escape(str(value))):
            replace(right, **wrong)
    with pytest.raises(UserError, match=r"9\.0"):
        make_demo(tmp_path / "demo", DemoConfig(nuisance=9.0))
    assert not list(tmp_path.iterdir())


def test_without_mujoco_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingDependency) as error:
        render_episode(EpisodeSpec(0, "human", "train", 0, frames=2))
    assert error.value.exit_code == 3 and "understudy[sim]" in error.value.hint


def test_make_demo_writes_the_whole_tree(mujoco_works, tmp_path):
    config = DemoConfig(frames=14, size=(32, 48), human_episodes=(2, 1, 1), robot_episodes=(1, 1, 1))
    make_demo(tmp_path / "demo", config=config)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"], "a temporary folder was left"
    names = [f"{clip_name(spec)}.mp4" for spec in episode_specs(config, "human")]
    human = tmp_path / "demo/human"
    assert sorted(path.relative_to(human).as_posix() for path in human.rglob("*.*")) == sorted(names)
    assert [clip.name for clip in open_folder(human).clips] == sorted(names)
    for spec in episode_specs(config, "human"):
        info = probe(human / f"{clip_name(spec)}.mp4")
        assert (info.frames, info.height, info.width, info.fps) == (14, 32, 48, pytest.approx(10))
        factors = np.load(tmp_path / f"demo/factors/human/{clip_name(spec)}.npz", allow_pickle=False)
        assert set(factors.files) == set(FACTORS) - {"command"}
        assert all(len(factors[name]) == 14 for name in factors.files)
        assert np.allclose(factors["time"], np.arange(14) * 0.1)
    info = json.loads((tmp_path / "demo/robot/meta/info.json").read_text())
    assert info["splits"] == {"train": "0:1", "validation": "1:2", "test": "2:3"}
    assert len(list((tmp_path / "demo/factors/robot").iterdir())) == 3
    described = json.loads((tmp_path / "demo/demo.json").read_text())
    assert described["command"].endswith("--size 32 48 --frames 14 --human-episodes 2 1 1 --robot-episodes 1 1 1")
    assert described["splits"]["human"] == {"train": 2, "validation": 1, "test": 1}
    with pytest.raises(UserError, match="already exists"):
        make_demo(tmp_path / "demo", config=config)


def test_shipped_set_is_small_and_complete():
    root = demo_set_path()
    described = json.loads((root / "demo.json").read_text())
    assert described["command"] == "understudy data demo OUT" and described["config"]["seed"] == 0
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 12e6
    for spec in episode_specs(DemoConfig(), "human"):
        assert (root / "human" / f"{clip_name(spec)}.mp4").is_file()
        assert (root / "factors/human" / f"{clip_name(spec)}.npz").is_file()


def test_shipped_robot_rows_are_its_factors():
    """State and action of every robot row are the tool and the command of the same frame of the same episode."""
    root = demo_set_path()
    rows = pq.read_table(root / "robot/data/chunk-000/file-000.parquet").to_pydict()
    starts = {episode: rows["episode_index"].index(episode) for episode in (0, 17, 39)}
    for episode, start in starts.items():
        factors = np.load(root / f"factors/robot/episode_{episode:06d}.npz", allow_pickle=False)
        for key, name in (("observation.state", "tool"), ("action", "command")):
            assert np.array_equal(np.array(rows[key][start : start + 80], np.float32), factors[name])


def test_shipped_episodes_can_be_rendered_anew(mujoco_works):
    """Shipped pictures and factors are those of a fresh rendering, frame by frame, and of no other episode."""
    root = demo_set_path()
    fresh = {index: render_episode(EpisodeSpec(0, "human", "test", index)) for index in (3, 4)}
    for index, other in ((3, 4), (4, 3)):
        shipped = np.stack([frame.image for frame in decode(root / f"human/test/test_{index:04d}.mp4")]).astype(float)
        frames = fresh[index].frames
        assert np.abs(shipped - frames).mean() < 5
        assert np.abs(shipped - fresh[other].frames).mean() > 20
        slipped = min(np.abs(shipped[1:] - frames[:-1]).mean(), np.abs(shipped[:-1] - frames[1:]).mean())
        assert slipped > 1.5 * np.abs(shipped - frames).mean()
        factors = np.load(root / f"factors/human/test/test_{index:04d}.npz", allow_pickle=False)
        for name in factors.files:
            assert np.allclose(factors[name], fresh[index].factors[name], atol=1e-5), name
        assert not np.allclose(factors["tool"], fresh[other].factors["tool"], atol=1e-2)


def test_demo_modules_import_neither_mujoco_nor_torch():
    code = "import sys, scripts.demo_data; print({'mujoco', 'torch'} & set(sys.modules))"
    root = Path(__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
