"""Opens any data folder for measuring a latent action model: the demo world, a LeRobot dataset, or plain video.

What is known of each frame comes along as factor groups (see `lam.sequences`): the demo world's true factors, a robot's
states and commands, nothing for plain video. Labels that do not fit the pictures are BadData, never trimmed to fit.
"""

import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from align.lerobot_index import LeRobotEpisode
from align.lerobot_reader import LeRobotDataset, is_lerobot, open_lerobot
from common.errors import BadData, UserError
from common.folders import Clip, open_folder, printable
from common.motion import STATIC_DIFFERENCE, difference, thumbnail
from common.shard_pairs import ShardClip, ShardFolder
from common.shards import is_shard_folder
from lam.labelled import LabelledPairs
from lam.presets import LamConfig
from lam.sequences import SHORTEST, EvaluationSet, continuous, plan_windows, read_sequences
from lam.sequences import Sequence as Frames
from scripts.demo_behaviour import FRAME_SECONDS
from scripts.demo_world import FACTORS, EpisodeSpec, render_episode

# Factor group -> the demo world's factor and which of its fields. The probes are judged group by group.
LABELLED_FRAMES = 20_000  # of a labelled dataset, at most, spread over its clips: they stay in memory
DEMO_GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "hand": ("tool", ("x", "y", "z")),
    "turn": ("tool", ("yaw",)),
    "opening": ("tool", ("opening",)),
    "camera": ("camera", ("yaw", "pitch", "roll")),
    "sway": ("camera", ("x", "y", "z")),
    "light": ("light", ("key", "fill", "warmth", "azimuth", "elevation")),
    "distractor": ("distractor", ("x", "y")),
}
TOOL_GROUPS = ("hand", "turn", "opening")  # what the demo's human and robot have in common
MOVING_SHARE = 0.01  # of all pairs; with less, there is nothing to measure


def open_evaluation_set(
    path: Path, *, size: tuple[int, int], gap_seconds: float, limit: int, split: str | None = None
) -> EvaluationSet:
    """The frames of a folder `gap_seconds` apart, at most `limit` of them, with all that is known of them.

    path: a LeRobot dataset (kind "robot"; that of a demo set also gets the groups of TOOL_GROUPS), a folder below the
    `human` folder of a demo set (kind "demo", all of DEMO_GROUPS), or any folder of video or shards (kind "video").
    size: (height, width) of the frames. gap_seconds: for a robot, its nearest whole number of frames, at least one.
    split: only these episodes of a LeRobot dataset: a name in its info.json, or first:end.
    UserError for wrong usage; BadData where nothing moves, where there is one clip only, and where labels are missing,
    not finite, or do not fit the frames.
    """
    path = Path(path)
    demo, below = _demo_set_above(path)
    if demo and not below:
        raise UserError(f"{path} is a whole demo set", hint=f"Give one part: {path}/human/test or {path}/robot")
    if is_lerobot(path):
        factors = demo / "factors/robot" if demo and below == ("robot",) else None
        found = _open_robot(path, size=size, gap_seconds=gap_seconds, limit=limit, split=split, factors=factors)
    elif split is not None:
        raise UserError(f"{path} is no LeRobot dataset, so it has no split {split!r}")
    else:
        clips = _open_clips(path)
        sequences = read_sequences(clips, size=size, gap_seconds=gap_seconds, limit=limit)
        found = EvaluationSet(path.resolve().name, "video", sequences, {})
        if demo and below[0] == "human":
            found = _with_demo_factors(found, clips, demo.joinpath("factors", *below))
    _check(found, path)
    return found


def render_demo_set(
    nuisance: float, *, episodes: int, gap_seconds: float, size: tuple[int, int], seed: int = 0
) -> EvaluationSet:
    """Human episodes of the demo world's test split, rendered in memory at a strength of head motion, light and ball.

    The hand does the same at every strength. seed 0 gives the episodes of the shipped demo set (there compressed).
    Raises MissingDependency without MuJoCo or off-screen OpenGL.
    """
    step = max(1, round(gap_seconds / FRAME_SECONDS))
    sequences = []
    for index in range(episodes):
        episode = render_episode(EpisodeSpec(seed, "human", "test", index, size=size, nuisance=nuisance))
        factors = {group: values[::step] for group, values in _demo_groups(episode.factors, DEMO_GROUPS).items()}
        seconds = episode.factors["time"].astype(np.float64)[::step]
        sequences.append(Frames(f"test_{index:04d}", episode.frames[::step], seconds, factors))
    return EvaluationSet(f"demo world at nuisance {nuisance:g}", "demo", tuple(sequences), _demo_fields(DEMO_GROUPS))


def _demo_set_above(path: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The demo set that a folder is part of, and the way down to the folder; (None, ()) for other folders."""
    path = path.resolve()
    for root in (path, *path.parents):
        if (root / "demo.json").is_file() and (root / "factors").is_dir():
            return root, path.relative_to(root).parts
    return None, ()


def _open_clips(path: Path) -> Sequence[Clip | ShardClip]:
    if is_shard_folder(path):
        return ShardFolder(path).clips
    folder = open_folder(path)
    for file in folder.bad:
        print(f"left out: {printable(file.name)}: {file.reason}", file=sys.stderr)
    return folder.clips


def _check(found: EvaluationSet, path: Path) -> None:
    """BadData where no split by clip is possible or there is nothing to see."""
    if len(found.clips) < 2:
        raise BadData(
            f"{path} has one clip only ({printable(found.sequences[0].clip)}); probes are split by clip and need two",
            hint="Cut a long video into several files, or give a folder with more.",
        )
    moving = [moves for sequence in found.sequences for moves in _moving(sequence.frames)]
    if np.mean(moving) < MOVING_SHARE:
        raise BadData(
            f"nothing moves in {path}: {len(moving) - sum(moving)} of {len(moving)} frame pairs are near-identical",
            hint="`understudy data scan` shows what a folder holds.",
        )


def _moving(frames: np.ndarray) -> list[bool]:
    """Of each pair of neighbours (T-1), whether more changes than noise does."""
    thumbs = [thumbnail(frame) for frame in frames]
    return [difference(*pair) >= STATIC_DIFFERENCE for pair in pairwise(thumbs)]


def demo_factors(folder: Path, clip: Clip, seconds: np.ndarray) -> dict[str, np.ndarray]:
    """What the demo world knows of a clip at these times (T,): each of DEMO_GROUPS (T, d), angles continuous.

    folder: with the clip's factors, under the same name. BadData if they are absent or do not fit.
    """
    path = (folder / clip.name).with_suffix(".npz")
    factors = _load_factors(path, length=clip.info.frames)
    rows = _rows_at(factors["time"], seconds - clip.info.start_seconds, path)
    return {group: values[rows] for group, values in _demo_groups(factors, DEMO_GROUPS).items()}


def _with_demo_factors(found: EvaluationSet, clips: Sequence[Clip | ShardClip], folder: Path) -> EvaluationSet:
    """A set of demo video with the factors that lie in `folder` under the same names, matched by time."""
    by_name = {clip.name: clip for clip in clips}
    sequences = []
    for sequence in found.sequences:
        clip = by_name[sequence.clip]
        if not isinstance(clip, Clip):
            raise UserError("the demo world's factors belong to its videos, not to shards")
        sequences.append(replace(sequence, factors=demo_factors(folder, clip, sequence.seconds)))
    return EvaluationSet(found.name, "demo", tuple(sequences), _demo_fields(DEMO_GROUPS))


def _rows_at(times: np.ndarray, seconds: np.ndarray, path: Path) -> np.ndarray:
    """The row (T,) of each frame: the one whose time is nearest. BadData if one is off by more than half a row."""
    rows = np.abs(times[None] - seconds[:, None]).argmin(axis=1)
    off = np.abs(times[rows] - seconds)
    if not off.max() <= 0.5 * np.median(np.diff(times)):
        at = int(off.argmax())
        raise BadData(
            f"{path} has no factors for the frame at {seconds[at]:.3f} s; the nearest are {off[at]:.3f} s away"
        )
    return rows


def _load_factors(path: Path, *, length: int) -> dict[str, np.ndarray]:
    """The factors of an episode of `length` frames. BadData if they are absent or of another length."""
    try:
        with np.load(path) as file:
            factors = {name: file[name] for name in ("time", "tool", "camera", "light", "distractor")}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BadData(f"the factors in {path} cannot be read ({error})", hint="Render the demo set anew.") from error
    for name, values in factors.items():
        expected = (length, len(FACTORS[name][0])) if FACTORS[name][0] else (length,)
        if values.shape != expected:
            raise BadData(f"{path}: '{name}' has the shape {values.shape}; the video's {length} frames need {expected}")
    return factors


def _demo_groups(factors: Mapping[str, np.ndarray], groups: Sequence[str] | Mapping) -> dict[str, np.ndarray]:
    """The demo world's factors sorted into groups, each float64 (T, d), angles continuous."""
    sorted_out = {}
    for group in groups:
        factor, fields = DEMO_GROUPS[group]
        columns = [FACTORS[factor][0].index(field) for field in fields]
        sorted_out[group] = continuous(factors[factor][:, columns], fields)
    return sorted_out


def _demo_fields(groups: Sequence[str] | Mapping) -> dict[str, tuple[str, ...]]:
    return {group: DEMO_GROUPS[group][1] for group in groups}


def _open_robot(
    path: Path, *, size: tuple[int, int], gap_seconds: float, limit: int, split: str | None, factors: Path | None
) -> EvaluationSet:
    """Episodes of a LeRobot dataset. factors: the folder with what the demo world knows of them."""
    dataset = open_lerobot(path)
    camera = next(iter(dataset.cameras), None)
    if camera is None:
        raise BadData(f"{path} has no camera", hint="A latent action is what happens between two pictures.")
    if len(dataset.cameras) > 1:
        print(f"{path} has {len(dataset.cameras)} cameras; {camera} is looked at", file=sys.stderr)
    step = max(1, round(gap_seconds * dataset.fps))
    if abs(step / dataset.fps - gap_seconds) > 0.25 * gap_seconds:
        print(f"{path} has {dataset.fps:g} frames/s: frames are {step / dataset.fps:.3f} s apart", file=sys.stderr)
    episodes = dataset.episodes if split is None else dataset.episodes_of(split)
    windows = plan_windows([(episode.length - 1) // step + 1 for episode in episodes], limit=limit)
    sequences = []
    for episode, parts in zip(episodes, windows, strict=True):
        labels = _labels(dataset, episode, factors) if parts else {}
        for first, frames in parts:
            rows = np.arange(first * step, episode.length, step)[:frames]
            if len(rows) >= SHORTEST:
                pictures = dataset.frames(episode, size, camera=camera, rows=rows)
                known = {group: values[rows] for group, values in labels.items()}
                seconds = dataset.seconds(episode)[rows]
                sequences.append(Frames(f"episode_{episode.index:06d}", pictures, seconds, known))
    if not sequences:
        raise BadData(f"no episode of {path} has {SHORTEST} frames that are {step / dataset.fps:.3f} s apart")
    vectors = {"state": dataset.state_names, "command": dataset.action_names}
    fields = {group: names for group, names in vectors.items() if names}
    return EvaluationSet(
        path.resolve().name, "robot", tuple(sequences), fields | (_demo_fields(TOOL_GROUPS) if factors else {})
    )


def _labels(dataset: LeRobotDataset, episode: LeRobotEpisode, factors: Path | None) -> dict[str, np.ndarray]:
    """What is known of every frame of an episode: group -> (T, d)."""
    labels = {}
    if dataset.state_names:
        labels["state"] = continuous(dataset.states(episode), dataset.state_names)
    if dataset.action_names:
        labels["command"] = continuous(dataset.actions(episode), dataset.action_names)
    if factors:
        known = _load_factors(factors / f"episode_{episode.index:06d}.npz", length=episode.length)
        labels |= _demo_groups(known, TOOL_GROUPS)
    return labels


def labelled_pairs(path: Path, config: LamConfig, *, share: float) -> LabelledPairs:
    """The labelled pairs of a dataset for training with this config, at its shortest time gap."""
    size = (config.model.height, config.model.width)
    data = open_evaluation_set(path, size=size, gap_seconds=config.data.gap_seconds[0], limit=LABELLED_FRAMES)
    return LabelledPairs.of(data, share=share)
