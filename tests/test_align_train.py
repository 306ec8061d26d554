"""Aligning: what each mode writes, that a robot changes nothing of what was there, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from align.presets import AlignConfig, Mode
from align.robot import Robot, load_robot, robot_names
from align.train import PAIRS_AT_ONCE, align, frame_codes
from common.checkpoints import weights_checksum
from common.config import TrainingConfig
from common.errors import BadData, UserError
from common.video import write_video
from lam.label import encode_frames
from tests.tiny_robot import CODE, FPS, SIDE, robot_episodes, write_robot_dataset, write_video_model
from video_model.generator import load_generator
from video_model.rollout import rollout

CONFIG = AlignConfig(
    window_every=4,
    training=TrainingConfig(steps=2, batch_size=4, warmup_steps=1, workers=0, evaluate_every=0, ema_decay=0.0),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`video`: a model with a forecast; `without/video`: one that has none; `robot`: its episodes."""
    root = tmp_path_factory.mktemp("align")
    write_video_model(root)
    (root / "without").mkdir()
    write_video_model(root / "without", forecast=False)
    write_robot_dataset(root / "robot")
    return root


def aligned(world: Path, out: Path, mode: Mode = "adapter", *, base: str = "video", name: str = "arm") -> Path:
    return align(world / base, world / "robot", mode=mode, out=out, config=CONFIG, name=name, episodes="0:3")


def film(robot: Robot, controls: np.ndarray, *, seed: int = 0) -> Tensor:
    first = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return robot.rollout(first, controls[None], controls[:1] * 0, seed=seed)


@pytest.mark.parametrize("mode", ["adapter", "posttrain", "scratch"])
def test_each_mode_gives_a_checkpoint_that_answers_to_the_controls(world: Path, tmp_path: Path, mode: Mode) -> None:
    out = aligned(world, tmp_path / "out", mode, base="without/video" if mode == "scratch" else "video")
    robot = load_robot(out)
    assert robot.embodiment.name == "arm" and robot.embodiment.rate == 10
    assert (robot.adapter is None) == (mode == "scratch") and robot.own_network == (mode != "adapter")
    assert robot.generator.forecaster is None or mode != "scratch"
    controls = np.random.default_rng(3).normal(size=(10, 3)).cumsum(0).astype(np.float32)
    made = film(robot, controls)
    assert made.shape == (1, 11, 3, SIDE, SIDE) and made.isfinite().all()
    torch.testing.assert_close(film(load_robot(out, "arm"), controls), made)
    if robot.adapter:  # what it learned of noise is nothing
        weights = np.random.default_rng(0).normal(size=robot.adapter.weights.shape) * 1e-4
        robot.adapter = replace(robot.adapter, weights=weights)
        made = film(robot, controls)
    changed = controls.copy()
    changed[6] += 3
    other = film(robot, changed)
    assert torch.equal(other[:, :5], made[:, :5]), "row 6 is in the second chunk, which leads to frames 5 to 8"
    assert not torch.equal(other[:, 5:], made[:, 5:])
    card = (out / "README.md").read_text()
    assert f"--mode {mode} --name arm --episodes 0:3" in card and "| opening |" in card


def test_a_robot_changes_nothing_of_what_was_there(world: Path, tmp_path: Path) -> None:
    """Neither the films under latent actions nor those of a robot that was there before, bit for bit."""
    first = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    codes = torch.randn(2, 8, CODE)
    before = rollout(load_generator(world / "video"), first, codes)
    one = aligned(world, tmp_path / "one", "posttrain", name="one")
    controls = np.random.default_rng(3).normal(size=(8, 3)).cumsum(0).astype(np.float32)
    own = film(load_robot(one), controls)
    two = align(one, world / "robot", mode="posttrain", out=tmp_path / "two", config=CONFIG, name="two", episodes="1:4")
    assert robot_names(two) == ["one", "two"]
    assert torch.equal(rollout(load_generator(two), first, codes), before)
    assert torch.equal(film(load_robot(two, "one"), controls), own)
    assert (film(load_robot(two, "two"), controls) - own).abs().max() > 1e-4
    assert weights_checksum(two) == weights_checksum(one)
    with pytest.raises(UserError, match="knows the robots one, two"):
        load_robot(two)
    with pytest.raises(UserError, match="no robot 'tow'; did you mean 'two'"):
        load_robot(two, "tow")
    with pytest.raises(UserError, match="knows a robot 'one' already"):
        align(two, world / "robot", mode="adapter", out=tmp_path / "again", config=CONFIG, name="one")


def test_of_the_network_only_what_differs_is_kept(world: Path, tmp_path: Path) -> None:
    out = aligned(world, tmp_path / "out", "posttrain")
    with safe_open(out / "networks/arm.safetensors", framework="pt") as file:
        kept = set(file.keys())
    assert any("arm" in name for name in kept)
    assert kept <= set(load_robot(out).generator.model.state_dict())
    assert not any(".latent." in name for name in kept), "nobody gave it latent actions"


def test_what_does_not_fit_is_refused_before_anything_is_written(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was trained without --lam"):
        aligned(world, tmp_path / "out", base="without/video")
    with pytest.raises(UserError, match="has no episodes '9:12'"):
        align(world / "video", world / "robot", mode="adapter", out=tmp_path / "out", config=CONFIG, episodes="9:12")
    with pytest.raises(UserError, match="'absolut'; it must be one of absolute"):
        align(world / "video", world / "robot", mode="adapter", out=tmp_path / "out", config=CONFIG,
              changes={"opening": {"kind": "absolut"}})  # fmt: skip
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="exists already"):
        aligned(world, world / "robot")
    with pytest.raises(UserError, match="knows no robot"):
        load_robot(world / "video")


def test_a_bad_episode_is_named_and_left_out(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, episode in enumerate(robot_episodes(4)):
        folder = tmp_path / f"robot/episode_{number:03d}"
        folder.mkdir(parents=True)
        write_video(folder / "video.mp4", episode.frames, fps=FPS, gop=4)
        actions = episode.actions.astype(np.float32)
        actions[7, 1] = np.nan if number == 1 else actions[7, 1]
        np.save(folder / "actions.npy", actions)
    align(world / "video", tmp_path / "robot", mode="adapter", out=tmp_path / "out", config=CONFIG)
    said = capsys.readouterr().err
    assert "left out: " in said and "episode 1" in said and "frame 7 is nan" in said
    assert "Aligned with 3 episodes" in (tmp_path / "out/README.md").read_text()
    with pytest.raises(BadData, match="none of the 1 episodes"):
        align(world / "video", tmp_path / "robot", mode="adapter", out=tmp_path / "none", config=CONFIG, episodes="1:2")


def test_latent_actions_of_long_episodes_are_the_same_in_parts(world: Path) -> None:
    generator = load_generator(world / "video")
    assert generator.forecaster
    frames = np.random.default_rng(0).integers(0, 255, (PAIRS_AT_ONCE + 7, SIDE, SIDE, 3), dtype=np.uint8)
    whole = encode_frames(generator.forecaster.model, frames)
    np.testing.assert_allclose(frame_codes(generator, frames), whole, atol=1e-5)
