"""The study behind the numbers of alignment in docs/measurements.md, on the demo robot.

    python -m scripts.study_align OUT --base RUN RUN RUN [--against RUN RUN RUN] [--modes adapter posttrain scratch]

RUNs are video models of as many seeds, as `scripts.study_video` leaves them; `--against` others, told other latent
actions. For each seed and number of episodes it aligns in each mode and measures on the test episodes how far the robot
in the film is from where it really went: the state error of `understudy evaluate align`. Which episodes are learned
from differs by seed. With `--late -1 0 1` it is also told its controls a row too early and a row too late. It prints
medians over the seeds, and goes on where it stopped.
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
from align.recordings import Recording, read_recordings
from align.robot import load_robot
from align.robot_recordings import robot_recordings
from align.state_probe import StateProbe, train_state_probe
from align.told_controls import cut_windows
from align.train import align
from common.checkpoints import write_text
from common.errors import UserError
from scripts.demo_data import demo_set_path
from scripts.evaluate_align import PROBE_STEPS, subject_of
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
    steps: int = AlignConfig().training.steps,
    late: tuple[int, ...] = (0,),
    split: str = "test",
) -> None:
    """Align, measure, print. OUT gets a file of numbers for each alignment, and `study.json`.

    Args:
        out: Folder for everything.
        base: Video models, one for each seed.
        against: Others, for comparison, in the mode adapter alone.
        modes: Which to run, as one of several processes that share the work.
        episodes: How many to align with.
        steps: Of the network, in the modes that train it.
        late: Rows by which the controls come too late when measured.
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
                aligned = _aligned(out, run, mode, count, steps=steps, seed=seed)
                for rows in late:
                    slip = f", {rows:+d} rows" if rows else ""
                    kept = out / f"{aligned.name}-{split}{rows:+d}.json"
                    if not kept.exists():
                        write_text(kept, json.dumps(_measured(aligned, split, late=rows, seed=seed), indent=1))
                    for key, value in json.loads(kept.read_text()).items():
                        found.setdefault(f"{prefix}{mode}, {count} episodes{slip}: {key}", []).append(value)
    write_text(out / f"study-{'-'.join(modes)}.json", json.dumps(found, indent=1))
    for name, values in found.items():
        print(f"{name:60} {statistics.median(values):7.3f}   ({'  '.join(f'{value:7.3f}' for value in values)} )")


def _aligned(out: Path, base: Path, mode: Mode, count: int, *, steps: int, seed: int) -> Path:
    """`base`, aligned with so many episodes."""
    first = EPISODES_APART * seed
    target = out / f"{mode}-{base.name}-{count}{'' if mode == 'adapter' else f'-{steps}'}"
    config = AlignConfig()
    if not target.exists():
        align(
            base,
            demo_set_path() / "robot",
            mode=mode,
            out=target,
            config=replace(config, training=replace(config.training, steps=steps, seed=seed)),
            name="demo",
            episodes=f"{first}:{first + count}",
        )
    return target


def _measured(aligned: Path, split: str, *, late: int, seed: int) -> dict[str, float]:
    """Numbers by name."""
    robot, dataset = load_robot(aligned), open_dataset(demo_set_path() / "robot")
    episodes, steps = dataset.episodes_of(split), robot.generator.config.data.frames - 1
    recordings = (slipped(recording, late) for recording in robot_recordings(robot, dataset, episodes))
    windows = cut_windows(recordings, steps=steps, each=round(WINDOWS / len(episodes)))
    subject = subject_of(robot, aligned.name, steps=None)
    return _numbers(measure(subject, windows, data=split, probe=_probe(), films=1, starts=1, seed=seed).card)


def slipped(recording: Recording, late: int) -> Recording:
    """The same with each row of controls so many rows too late; what has no partner at the ends is left out."""
    frames = slice(max(late, 0), len(recording.frames) + min(late, 0))
    rows = slice(max(-late, 0), len(recording.controls) - max(late, 0))
    states = None if recording.states is None else recording.states[frames]
    return replace(recording, frames=recording.frames[frames], controls=recording.controls[rows], states=states)


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
        if kind == "true":
            found |= {f"state error of {column}": one.value for column, one in error.columns.items()}
    for kind, like in card.foreground.rows.items():
        if like.cosine:
            found[f"foreground cosine, {kind}"] = like.cosine.value
    return found


if __name__ == "__main__":
    tyro.cli(study)
