"""`understudy evaluate align`: opens a robot and its held-out episodes, has it measured, writes the card."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from align.align_card import AlignCard
from align.datasets import open_dataset
from align.evaluate import measure
from align.recordings import Recording, stride_of
from align.robot import Robot, load_robot
from align.robot_dataset import RobotDataset, episode_name
from align.robot_recordings import robot_recordings
from align.state_probe import StateProbe, held_names, train_state_probe, with_held_controls
from align.subject import RobotSubject
from align.told_controls import RobotWindow, cut_windows
from common.checkpoints import write_text
from common.errors import BadData, UserError
from scripts.align_page import align_page
from scripts.align_table import print_card
from scripts.verb_options import check_outputs

PROBE_FRAMES, PROBE_STEPS = 6000, 1200
"""That the state probe learns from, about, and optimizer steps for which it learns."""


def evaluate_align(
    checkpoint: Path,
    dataset: str,
    *,
    robot: str | None = None,
    episodes: str | None = None,
    probe_episodes: str | None = None,
    windows: int = 64,
    camera: str | None = None,
    steps: int | None = None,
    batch_size: int = 8,
    json_path: Path | None = None,
    html_path: Path | None = None,
    seed: int = 0,
) -> AlignCard:
    """Measure a robot of a checkpoint; print the card, then write what was asked for.

    episodes, probe_episodes: measured, and for the state probe to learn from; splits of the dataset or first:end, by
    default "test" and "train", or else those that the robot was not aligned with, and those that it was. windows: about
    so many. steps: sampling steps, by default the checkpoint's. UserError and BadData before anything is written.
    """
    if min(windows, batch_size) < 1:
        raise UserError("--windows and --batch-size must be at least 1")
    check_outputs(json_path, html_path)
    known, opened = load_robot(checkpoint, robot), open_dataset(dataset)
    held_out = _held_out(opened, known, episodes)
    teaching = _teaching(opened, known, probe_episodes, held_out)
    known.generator.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    cut = read_windows(known, opened, held_out, camera=camera, limit=windows)
    with tqdm(desc="learning to read the state", unit=" batches", disable=None, leave=False) as bar:

        def progress(what: str) -> None:
            bar.set_description(what)
            bar.update()

        probe = _probe(known, opened, teaching, camera=camera, seed=seed)
        found = measure(
            subject_of(known, str(checkpoint), steps=steps),
            cut,
            data=opened.root.resolve().name,
            probe=probe,
            source="measured" if opened.state_keys else "controls",
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
    text, page = found.card.to_json(), align_page(found) if html_path else ""
    print_card(found.card)
    if json_path:
        write_text(json_path, text)
    if html_path:
        write_text(html_path, page)
    return found.card


def _held_out(dataset: RobotDataset[Any], robot: Robot, split: str | None) -> tuple[Any, ...]:
    """What is measured. UserError if the robot was aligned with any of it, or if nothing is left."""
    learned, others = _by_use(dataset, robot)
    chosen = _episodes(dataset, split, default="test", otherwise=others if learned else ())
    if not chosen:
        raise UserError(
            f"{dataset.root} has no split 'test', and no episode that says what the robot was not aligned with",
            hint="--episodes FIRST:END, of episodes that were held out.",
        )
    _refuse_both("the robot was aligned with episodes that would be measured", learned, chosen, option="--episodes")
    return chosen


def _by_use(dataset: RobotDataset[Any], robot: Robot) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The dataset's episodes that the robot was aligned with, and the others."""
    learned, others = [], []
    for episode in dataset.episodes:
        (learned if episode_name(dataset.root, episode) in robot.learned_from else others).append(episode)
    return tuple(learned), tuple(others)


def _episodes(
    dataset: RobotDataset[Any], split: str | None, *, default: str, otherwise: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Those that are named; else the split `default`; where there is none, `otherwise`."""
    if split is not None:
        return dataset.episodes_of(split)
    try:
        return dataset.episodes_of(default)
    except UserError:
        return otherwise


def _refuse_both(what: str, one: Sequence[Any], other: Sequence[Any], *, option: str) -> None:
    """UserError if an episode is in both."""
    both = sorted({episode.index for episode in one} & {episode.index for episode in other})
    if both:
        listed = ", ".join(map(str, both[:10])) + (", …" if len(both) > 10 else "")
        raise UserError(f"{what}: {listed}", hint=f"Name others with {option} FIRST:END.")


def _teaching(dataset: RobotDataset[Any], robot: Robot, split: str | None, held_out: Sequence[Any]) -> tuple[Any, ...]:
    """What the state probe learns from; none where there is no state to read. UserError if any is measured, too."""
    if not dataset.state_keys and not held_names(robot.embodiment):
        return ()
    teaching = _episodes(dataset, split, default="train", otherwise=_by_use(dataset, robot)[0])
    if split is None:
        measured = {episode.index for episode in held_out}
        teaching = tuple(episode for episode in teaching if episode.index not in measured)
    if not teaching:
        raise UserError(f"{dataset.root} leaves no episodes for the state probe", hint="--probe-episodes FIRST:END.")
    what = "the state probe would learn from episodes that are measured"
    _refuse_both(what, teaching, held_out, option="--probe-episodes")
    return teaching


def _read(robot: Robot, dataset: RobotDataset[Any], episodes: Sequence[Any], camera: str | None) -> Iterator[Recording]:
    """At the model's size and rate; with what stands for the state where the dataset has none."""
    for recording in robot_recordings(robot, dataset, episodes, camera=camera):
        if recording.states is None and held_names(robot.embodiment):
            yield with_held_controls(recording, robot.embodiment)
        else:
            yield recording


def read_windows(
    robot: Robot, dataset: RobotDataset[Any], episodes: Sequence[Any], *, camera: str | None, limit: int
) -> list[RobotWindow]:
    """About `limit` windows as long as those of training. BadData unless two episodes are so long."""
    chosen, steps = _spread(episodes, limit), robot.generator.config.data.frames - 1
    windows = cut_windows(_read(robot, dataset, chosen, camera), steps=steps, each=max(1, round(limit / len(chosen))))
    if not windows:
        raise BadData(
            f"none of the {len(chosen)} episodes has the {steps + 1} frames of a window at the model's rate",
            hint="Name longer episodes: --episodes FIRST:END.",
        )
    if len({window.episode for window in windows}) < 2:
        raise BadData(
            f"another episode's controls are needed to compare with; only {windows[0].episode} can be measured",
            hint="Name two episodes or more that are long enough: --episodes FIRST:END.",
        )
    return windows


def _probe(
    robot: Robot, dataset: RobotDataset[Any], episodes: Sequence[Any], *, camera: str | None, seed: int
) -> StateProbe | None:
    """None without episodes to learn from."""
    if not episodes:
        return None
    frames = sum(episode.length for episode in episodes) / stride_of(dataset.fps, robot.generator.config.data.fps)
    chosen = _spread(episodes, max(1, round(len(episodes) * PROBE_FRAMES / frames)))
    names = dataset.state_names if dataset.state_keys else held_names(robot.embodiment)
    recordings = _read(robot, dataset, chosen, camera)
    return train_state_probe(recordings, names, seed=seed, device=robot.generator.device, steps=PROBE_STEPS)


def _spread(episodes: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of them, evenly."""
    places = np.linspace(0, len(episodes) - 1, min(count, len(episodes))).round().astype(int)
    return [episodes[place] for place in places]


def subject_of(robot: Robot, name: str, *, steps: int | None) -> RobotSubject:
    def drive(first: Tensor, controls: np.ndarray, before: np.ndarray, seed: int) -> Tensor:
        return robot.rollout(first, controls, before, steps=steps, seed=seed)

    @torch.inference_mode()
    def reconstruct(films: Tensor) -> Tensor:
        return robot.generator.tokenizer.decode(robot.generator.tokenizer.encode(films))

    return RobotSubject(name, robot.embodiment, drive, reconstruct, device=robot.generator.device)
