"""Aligning: what each mode writes, that a robot changes nothing of what was there, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from align.presets import AlignConfig, Mode
from align.robot import Robot, load_robot, robot_names
from align.train import align
from common.checkpoints import save_model, weights_checksum
from common.config import TrainingConfig
from common.errors import BadData, UserError
from common.video import write_video
from lam.checkpoint import checkpoint_config as lam_config
from lam.label import label
from lam.model import LatentActionModel
from lam.presets import LamConfig, LamModelConfig
from tests.counted_clips import write_clip
from tests.test_video_train import SIDE, SMALL, TOKENIZER
from video_model.generator import load_generator
from video_model.rollout import rollout
from video_model.tokenizer import build_tokenizer
from video_model.tokenizer import checkpoint_config as tokenizer_config
from video_model.train import train

LAM = LamModelConfig(
    height=SIDE, width=SIDE, patch=8, channels=16, heads=2, encoder_blocks=1, decoder_blocks=1, latent_dim=2
)
CODE = 2 + 10
CONFIG = AlignConfig(
    window_every=4,
    training=TrainingConfig(steps=2, batch_size=4, warmup_steps=1, workers=0, evaluate_every=0, ema_decay=0.0),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`: a video model with a forecast, hardly trained; `without`: one that has none; `robot`: its episodes."""
    root = tmp_path_factory.mktemp("align")
    torch.manual_seed(0)
    lam, tokenizer = LatentActionModel(LAM), build_tokenizer(TOKENIZER.model)
    with torch.no_grad():
        torch.nn.init.normal_(lam.decoder.flow.weight, std=0.2)
    config = lam_config(LamConfig(model=LAM), preset="tiny")
    save_model(root / "lam", tensors=lam.state_dict(), config=config, card="")
    config = tokenizer_config(TOKENIZER, preset="tiny")
    save_model(root / "tokenizer", tensors=tokenizer.state_dict(), config=config, card="")
    for number in range(4):
        write_clip(root / "clips" / f"{number}.mp4", [i / 10 for i in range(30)], gop=10)
    label(root / "lam", root / "clips", root / "labels")
    made = {"data": root / "clips", "actions": root / "labels", "tokenizer": root / "tokenizer"}
    video = replace(SMALL, model=replace(SMALL.model, predicts="clean"))
    train(video, preset="tiny", out=root / "base", lam=root / "lam", **made)
    train(video, preset="tiny", out=root / "without", **made)
    make_robot(root / "robot")
    return root


def make_robot(root: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(4):
        folder = root / f"episode_{number:03d}"
        folder.mkdir(parents=True)
        states = random.normal(size=(40, 2)).cumsum(0).astype(np.float32)
        actions = np.concatenate((states[1:], states[-1:])) + 0.01 * random.normal(size=(40, 2)).astype(np.float32)
        frames = random.integers(0, 255, (1, SIDE, SIDE, 3)).repeat(40, 0).astype(np.uint8)
        for frame, (x, y) in zip(frames, np.clip((states * 2 + 6).astype(int), 0, SIDE - 5), strict=True):
            frame[y : y + 4, x : x + 4] = (255, 0, 0)
        write_video(folder / "video.mp4", frames, fps=10, gop=4)
        np.save(folder / "states.npy", states)
        np.save(folder / "actions.npy", actions.astype(np.float32))


def aligned(world: Path, out: Path, mode: Mode = "adapter", *, base: str = "base", name: str = "arm") -> Path:
    return align(world / base, world / "robot", mode=mode, out=out, config=CONFIG, name=name, episodes="0:3")


def film(robot: Robot, controls: np.ndarray, *, seed: int = 0) -> Tensor:
    first = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return robot.rollout(first, controls[None], controls[:1] * 0, seed=seed)


@pytest.mark.parametrize("mode", ["adapter", "posttrain", "scratch"])
def test_each_mode_gives_a_checkpoint_that_answers_to_the_controls(world: Path, tmp_path: Path, mode: Mode) -> None:
    out = aligned(world, tmp_path / "out", mode, base="without" if mode == "scratch" else "base")
    robot = load_robot(out)
    assert robot.embodiment.name == "arm" and robot.embodiment.rate == 10
    assert (robot.adapter is None) == (mode == "scratch") and robot.own_network == (mode != "adapter")
    assert robot.generator.forecaster is None or mode != "scratch"
    controls = np.random.default_rng(3).normal(size=(10, 2)).cumsum(0).astype(np.float32)
    made = film(robot, controls)
    assert made.shape == (1, 11, 3, SIDE, SIDE) and made.isfinite().all()
    torch.testing.assert_close(film(load_robot(out, "arm"), controls), made)
    if robot.adapter:  # what it learned of noise is nothing
        weights = np.random.default_rng(0).normal(size=robot.adapter.weights.shape)
        robot.adapter = replace(robot.adapter, weights=weights)
        made = film(robot, controls)
    changed = controls.copy()
    changed[6] += 3
    other = film(robot, changed)
    assert torch.equal(other[:, :5], made[:, :5]), "row 6 is in the second chunk, which leads to frames 5 to 8"
    assert not torch.equal(other[:, 5:], made[:, 5:])
    card = (out / "README.md").read_text()
    assert f"--mode {mode} --name arm --episodes 0:3" in card and "| action_0 |" in card


def test_a_robot_changes_nothing_of_what_was_there(world: Path, tmp_path: Path) -> None:
    """Neither the films under latent actions nor those of a robot that was there before, bit for bit."""
    first = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    codes = torch.randn(2, 8, CODE)
    before = rollout(load_generator(world / "base"), first, codes)
    one = aligned(world, tmp_path / "one", "posttrain", name="one")
    controls = np.random.default_rng(3).normal(size=(8, 2)).cumsum(0).astype(np.float32)
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
        aligned(world, tmp_path / "out", base="without")
    with pytest.raises(UserError, match="has no episodes '9:12'"):
        align(world / "base", world / "robot", mode="adapter", out=tmp_path / "out", config=CONFIG, episodes="9:12")
    with pytest.raises(UserError, match="'absolut'; it must be one of absolute"):
        align(world / "base", world / "robot", mode="adapter", out=tmp_path / "out", config=CONFIG,
              changes={"action_0": {"kind": "absolut"}})  # fmt: skip
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="exists already"):
        aligned(world, world / "robot")
    with pytest.raises(UserError, match="knows no robot"):
        load_robot(world / "base")


def test_a_bad_episode_is_named_and_left_out(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(world / "robot", tmp_path / "robot")
    actions = np.load(tmp_path / "robot/episode_001/actions.npy")
    actions[7, 1] = np.nan
    np.save(tmp_path / "robot/episode_001/actions.npy", actions)
    align(world / "base", tmp_path / "robot", mode="adapter", out=tmp_path / "out", config=CONFIG)
    said = capsys.readouterr().err
    assert "left out: " in said and "episode 1" in said and "frame 7 is nan" in said
    assert "Aligned with 3 episodes" in (tmp_path / "out/README.md").read_text()
    with pytest.raises(BadData, match="none of the 1 episodes"):
        align(world / "base", tmp_path / "robot", mode="adapter", out=tmp_path / "none", config=CONFIG, episodes="1:2")
