"""The study behind the numbers of alignment in docs/measurements.md, on the demo robot.

    python -m scripts.study_align OUT --base RUN RUN RUN [--against RUN RUN RUN] [--modes adapter posttrain scratch]

RUNs are video models of as many seeds, as `scripts.study_video` leaves them; `--against` others, told other latent
actions. For each seed and number of episodes it aligns in each mode and measures on the test episodes how far the robot
in the film is from where it really went: the state error of `understudy evaluate align`. Which episodes are learned
from differs by seed. It prints medians over the seeds, and goes on where it stopped.
"""

import functools
import json
import statistics
from dataclasses import replace
from pathlib import Path

import tyro

from align.align_card import AlignCard
from align.datasets import open_dataset
from align.evaluate import measure
from align.guess import guess_embodiment
from align.presets import AlignConfig, Mode
from align.recordings import read_recordings
from align.robot import load_robot
from align.state_probe import StateProbe, train_state_probe
from align.train import align
from common.checkpoints import write_text
from common.errors import UserError
from scripts.demo_data import demo_set_path
from scripts.evaluate_align import PROBE_STEPS, read_windows, subject_of
from video_model.presets import video_tiny

WINDOWS = 20
EPISODES_APART = 7
"""Seed k learns from the episodes 7 k and on."""


def study(
    out: Path,
    /,
    base: tuple[Path, ...],
    against: tuple[Path, ...] = (),
    modes: tuple[Mode, ...] = ("adapter", "posttrain", "scratch"),
    episodes: tuple[int, ...] = (2, 4, 8, 16),
    split: str = "test",
) -> None:
    """Align, measure, print. OUT gets a file of numbers for each alignment, and `study.json`.

    Args:
        out: Folder for everything.
        base: Video models, one for each seed.
        against: Others, for comparison, in the mode adapter alone.
        modes: Which to run, as one of several processes that share the work.
        episodes: How many to align with.
        split: Episodes to measure on.
    """
    if EPISODES_APART * (len(base) - 1) + max(episodes) > 30:
        raise UserError("the demo robot has 30 training episodes")
    found: dict[str, list[float]] = {}
    jobs: list[tuple[str, tuple[Path, ...], Mode]] = [("", base, mode) for mode in modes]
    if against and "adapter" in modes:
        jobs.append(("against, ", against, "adapter"))
    for prefix, runs, mode in jobs:
        for count in episodes:
            for seed, run in enumerate(runs):
                name = f"{prefix}{mode}, {count} episodes"
                kept = out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
                if not kept.exists():
                    write_text(kept, json.dumps(_measured(out, run, mode, count, split=split, seed=seed), indent=1))
                for key, value in json.loads(kept.read_text()).items():
                    found.setdefault(f"{name}: {key}", []).append(value)
    write_text(out / f"study-{'-'.join(modes)}.json", json.dumps(found, indent=1))
    for name, values in found.items():
        print(f"{name:60} {statistics.median(values):7.3f}   ({'  '.join(f'{value:7.3f}' for value in values)} )")


def _measured(out: Path, base: Path, mode: Mode, count: int, *, split: str, seed: int) -> dict[str, float]:
    """Align `base` with so many episodes and measure it: numbers by name."""
    first = EPISODES_APART * seed
    target = out / f"aligned-{mode}-{base.name}-{count}"
    config = AlignConfig()
    if not target.exists():
        align(
            base,
            demo_set_path() / "robot",
            mode=mode,
            out=target,
            config=replace(config, training=replace(config.training, seed=seed)),
            name="demo",
            episodes=f"{first}:{first + count}",
        )
    robot, dataset = load_robot(target), open_dataset(demo_set_path() / "robot")
    held_out = read_windows(robot, dataset, dataset.episodes_of(split), camera=None, limit=WINDOWS)
    subject = subject_of(robot, f"{mode} {count}", steps=None)
    measured = measure(subject, held_out, data=split, probe=_probe(), films=1, starts=1, seed=seed)
    return _numbers(measured.card)


@functools.cache
def _probe() -> StateProbe:
    """One for all alignments: it learns from all training episodes."""
    dataset = open_dataset(demo_set_path() / "robot")
    episodes = dataset.episodes_of("train")
    rows = guess_embodiment(dataset, name="demo", episodes=episodes)
    size = (video_tiny().data.height, video_tiny().data.width)
    recordings = read_recordings(dataset, episodes, rows, size=size, stride=1)
    return train_state_probe(recordings, dataset.state_names, seed=0, steps=PROBE_STEPS)


def _numbers(card: AlignCard) -> dict[str, float]:
    found = {f"PSNR, {kind}": values.psnr.mean.value for kind, values in card.fidelity.items()}
    for kind, error in (card.state.errors if card.state else {}).items():
        if error.overall:
            found[f"state error, {kind}"] = error.overall.value
    for kind, like in card.foreground.rows.items():
        if like.cosine:
            found[f"foreground cosine, {kind}"] = like.cosine.value
    return found


if __name__ == "__main__":
    tyro.cli(study)
