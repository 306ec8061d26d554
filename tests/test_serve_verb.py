"""`understudy serve`: what it opens, what it prints and when, and how it fails."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from align.control_group import ControlGroup
from align.embodiment import RobotEmbodiment
from align.robot import video_embodiment, write_robot
from common.errors import BadData, UserError
from common.video import write_video
from scripts import cli
from scripts.serve import Served, open_engine, open_session
from scripts.serve_scenes import scenes_of
from simulator.client import Client
from simulator.engine import Engine
from simulator.protocol import Reset, Resume, Source
from tests.tiny_robot import CODE, FPS, NAMES, SIDE, VIDEO, robot_episodes, write_robot_dataset, write_video_model
from video_model.generator import build_video_model, load_video_model

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_robot_dataset(tmp_path_factory.mktemp("data") / "robot", 3, length=12)


@pytest.fixture(scope="module")
def latent_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video_model(tmp_path_factory.mktemp("latent"), forecast=False)


@pytest.fixture(scope="module")
def robot_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a robot that has a network of its own, and no adapter."""
    folder = write_video_model(tmp_path_factory.mktemp("robot"), forecast=False)
    groups = (ControlGroup("place", 0, 2, "absolute"), ControlGroup("grip", 2, 3, "gripper"))
    body = RobotEmbodiment("square", NAMES, FPS, groups).fitted([one.actions for one in robot_episodes(3)])
    torch.manual_seed(1)
    network = build_video_model(VIDEO.model, latent_channels=4, action_dim=CODE)
    network.add_embodiment("square", video_embodiment(body).act_dim)
    write_robot(folder, body, learned_from=[], adapter=None, network=network, base=load_video_model(folder)[0])
    return folder


def passes_of(engine: Engine, rows: int, *, scene: str | None = None) -> list[bytes]:
    """Played by its recorded controls."""
    passes: list[bytes] = []
    engine.subscribe(lambda event: None if isinstance(event, dict) else passes.append(event.data))
    engine.start()
    for message in (Reset(scene=scene), Source("recorded"), Resume()):
        engine.handle(message)
    end = time.monotonic() + 60
    while len(passes) < -(-rows // 4):
        assert time.monotonic() < end, engine.state()
        time.sleep(0.01)
    engine.close()
    return passes


def test_a_robot_with_a_network_of_its_own(
    robot_model: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    engine = open_engine(Served(robot_model, (dataset,), tmp_path, fps=200.0))
    assert re.search(
        r"ready: robot 'square', 3 scenes; 4 frames per pass at 200 frames/s \(20 times as fast as the model's 10\): "
        r"a control can matter every 20 ms",
        capsys.readouterr().out,
    )
    welcome = engine.welcome()
    assert [column["name"] for column in welcome["columns"]] == list(NAMES)
    assert (welcome["scenes"][0]["id"], welcome["scenes"][0]["name"]) == ("1-robot-episode-0", "robot episode 0")
    assert len(passes_of(engine, 11)) == 3


def test_latent_actions_and_their_files(latent_model: Path, tmp_path: Path):
    films = tmp_path / "films"
    films.mkdir()
    for name in ("one", "two"):
        write_video(films / f"{name}.mp4", np.random.default_rng(1).integers(0, 255, (5, 32, 48, 3), np.uint8), fps=10)
    Image.new("RGB", (40, 20), (200, 100, 50)).save(films / "three.png")
    (films / "notes.txt").write_text("no picture")
    labels = tmp_path / "labels" / "deeper"
    labels.mkdir(parents=True)
    save_file({"latent_actions": np.ones((7, CODE), np.float32)}, labels / "two.safetensors")
    engine = open_engine(Served(latent_model, (films,), tmp_path, actions=tmp_path / "labels", fps=400.0))
    welcome = engine.welcome()
    assert [scene["name"] for scene in welcome["scenes"]] == ["one", "three", "two"]
    assert welcome["robot"] is None and len(welcome["columns"]) == CODE
    assert welcome["sources"] == ["human", "recorded"]
    assert len(passes_of(engine, 7, scene="3-two")) == 2


def test_scenes_are_the_beginnings_of_episodes(robot_model: Path, latent_model: Path, dataset: Path, tmp_path: Path):
    robot, latent = (open_session(path, None, steps=None) for path in (robot_model, latent_model))
    scenes = scenes_of(robot.robot or robot.generator, (dataset,))
    assert len({scene.id for scene in scenes}) == 3
    for scene, episode in zip(scenes, robot_episodes(3, length=12), strict=True):
        assert scene.first_frame.shape == (SIDE, SIDE, 3)
        assert scene.rows is not None and np.allclose(scene.rows, episode.actions[:11], atol=1e-6)
        assert scene.before is not None and np.allclose(scene.before, episode.actions[0], atol=1e-6)
    beside = shutil.copytree(dataset, tmp_path / "recording")
    Image.new("RGB", (8, 8)).save(beside / "take-1.png")
    assert len(scenes_of(robot.robot or robot.generator, (beside,))) == 3, "as a recording is, with pictures"
    (one,) = scenes_of(robot.robot or robot.generator, (dataset,), split="1:2")
    assert np.array_equal(one.first_frame, scenes[1].first_frame)
    plain = scenes_of(latent.generator, (dataset,))
    assert len(plain) == 3 and plain[0].rows is None and plain[0].before is None
    assert np.array_equal(plain[0].first_frame, scenes[0].first_frame)


def test_a_picture_for_a_robot_begins_in_the_middle_of_its_data(robot_model: Path, tmp_path: Path):
    Image.new("RGB", (40, 20), (200, 100, 50)).save(tmp_path / "table.jpg")
    session = open_session(robot_model, "square", steps=1)
    assert session.robot and session.steps == 1
    (scene,) = scenes_of(session.robot, (tmp_path / "table.jpg",))
    middle = np.mean(session.robot.embodiment.seen, axis=1)
    assert scene.before is not None and np.allclose(scene.before, middle, atol=1e-6) and scene.rows is None
    with pytest.raises(UserError, match="action files"):
        scenes_of(session.robot, (tmp_path,), actions=tmp_path)
    with pytest.raises(UserError, match="no robot dataset"):
        (tmp_path / "empty").mkdir()
        scenes_of(session.robot, (tmp_path / "empty",))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(BadData, match=r"broken\.png cannot be read"):
        scenes_of(session.robot, (tmp_path / "broken.png",))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "serve what?"),
        (["--demo", "CHECKPOINT"], "serve what?"),
        (["--demo", "--data", "x"], "--demo brings its own data"),
        (["."], "where do sessions begin?"),
        (["/nowhere", "--data", "."], "/nowhere does not exist"),
        ([".", "--data", "/nowhere"], "/nowhere does not exist"),
        (["--demo", "--fps", "0"], "--fps must be above 0"),
        (["--demo", "--steps", "0"], "--steps at least 1"),
        (["--demo", "--policy", "http://x"], "--policy must be ws://"),
        (["--demo", "--token", "short"], "a token must have"),
        (["--demo", "--host", "not-a-host-anywhere.invalid"], "is no address of this machine"),
        (["--demo", "--allowed-host", "http://x"], "is no host"),
    ],
)
def test_mistakes_are_one_message(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve", *words]) == 2
    told = capsys.readouterr()
    assert message in told.err and "Traceback" not in told.err
    assert not list(tmp_path.iterdir())


def test_a_port_in_use_is_one_message(capsys: pytest.CaptureFixture[str]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert cli.main(["serve", "--demo", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be listened at" in capsys.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    assert cli.main(["serve", "--demo"]) == 3
    assert "pip install 'understudy[serve]'" in capsys.readouterr().err


def health_of(link: str) -> dict[str, str]:
    """The link is printed when the port is bound, a moment before connections are taken."""
    end = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(f"{link}healthz", timeout=10) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            assert time.monotonic() < end
            time.sleep(0.02)


@contextmanager
def running(*words: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", "serve", *words, "--port", "0"],
        cwd=folder,
        env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def test_the_demo_from_launch_to_ctrl_c(tmp_path: Path):
    launched = time.monotonic()
    with running("--demo", folder=tmp_path) as child:
        assert child.stdout
        line = child.stdout.readline()
        link = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert link, line
        health = health_of(link[0])
        answered = time.monotonic() - launched
        assert health == {"status": "loading"} and answered < 6, "before torch; 0.8 s on a quiet machine"
        assert "a control can matter every 200 ms" in child.stdout.readline()
        with Client(link[0]) as robot:
            first = robot.reset(seed=1)
            held = robot.step(robot.controls)[-1].astype(int)
            moved = robot.step(robot.controls + np.array([0.1, 0, 0, 0, 0]))[-1].astype(int)
            assert np.abs(held - first).mean() < 1 < np.abs(moved - first).mean()
        with urllib.request.urlopen(f"{link[0]}recordings", timeout=10) as listed:
            assert json.load(listed) == {"recordings": []}
        child.send_signal(signal.SIGINT)
        out, errors = child.communicate(timeout=20)
        assert child.returncode == 0 and not errors, (out, errors)
    assert not list(tmp_path.iterdir()), "nothing was recorded, so nothing is left"


def test_what_cannot_be_loaded_ends_the_server(tmp_path: Path):
    (tmp_path / "checkpoint").mkdir()
    with running("checkpoint", "--data", ".", folder=tmp_path) as child:
        out, errors = child.communicate(timeout=60)
    assert child.returncode in (2, 4), (out, errors)
    assert out.startswith("listening: ") and "checkpoint" in errors and "Traceback" not in errors
    assert errors.startswith("error: ")
