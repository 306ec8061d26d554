"""`understudy data episodes`: the episodes of a LeRobot dataset as plain videos, as the other verbs take them."""

from pathlib import Path

from tqdm import tqdm

from align.lerobot_reader import open_lerobot
from common.errors import UserError
from common.video import write_video


def write_episodes(dataset: Path, out: Path, *, camera: str | None, splits: tuple[str, ...]) -> int:
    """Write OUT/SPLIT/episode_NNNNNN.mp4 for every episode of these splits; returns how many there are.

    UserError for a camera or split that the dataset does not have, or without a choice where there are several cameras.
    """
    source = open_lerobot(dataset)
    chosen = [(split, episode) for split in splits or tuple(source.splits) for episode in source.episodes_of(split)]
    if not chosen:
        raise UserError(f"{dataset} names no splits", hint="Choose episodes: --splits 0:10 10:12")
    for split, episode in tqdm(chosen, desc="writing videos", unit="episode", disable=None):
        target = out / split.replace(":", "-") / f"episode_{episode.index:06d}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_video(target, source.frames(episode, None, camera=camera), fps=source.fps)
    return len(chosen)
