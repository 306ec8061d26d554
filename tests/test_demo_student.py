"""The student that ships: small enough, and its robot goes where a held-out episode's controls say."""

import numpy as np
import torch

from align.datasets import open_dataset
from align.robot import load_robot
from align.robot_recordings import robot_recordings
from align.told_controls import cut_windows
from scripts.demo_data import demo_set_path, demo_student_path
from simulator.session import Session
from video_model.films import as_films
from video_model.following import cosine, motion_of
from video_model.tiny_decoder import TinyDecoder

LARGEST = 15e6


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in demo_student_path().rglob("*")) < LARGEST


def test_its_robot_follows_controls_that_it_never_saw_and_stands_still_without() -> None:
    robot, dataset = load_robot(demo_student_path()), open_dataset(demo_set_path() / "robot")
    episodes = dataset.episodes_of("test")
    assert robot.generator.config.sampling_steps == 2
    assert not {f"robot episode {episode.index}" for episode in episodes} & robot.learned_from
    windows = cut_windows(robot_recordings(robot, dataset, episodes), steps=8, each=2)
    session = Session(robot)
    assert isinstance(session.generator.decoder, TinyDecoder)
    truth = as_films([window.frames for window in windows], "cpu")
    controls, before = (np.stack([getattr(window, name) for window in windows]) for name in ("controls", "before"))

    def film(controls: np.ndarray) -> torch.Tensor:
        shown = session.reset(np.stack([window.frames[0] for window in windows]), seed=0, before=before)
        steps = [session.step(controls[:, first : first + 4]).frames for first in (0, 4)]
        return as_films(list(np.concatenate([shown[:, None], *steps], axis=1)), "cpu")

    followed = cosine(motion_of(film(controls)).path, motion_of(truth).path).mean()
    still = film(robot.embodiment.neutral(before, rows=8))
    assert followed > 0.6, "chance is 0"
    assert still.diff(dim=1).abs().mean() < 0.05 * truth.diff(dim=1).abs().mean()
