"""Where the rows and the pictures of an episode lie in the files of a LeRobot dataset."""

import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from align.lerobot_index import FilePlace, LeRobotEpisode
from align.robot_dataset import WHOLE
from common.errors import BadData


def find_file(
    root: Path,
    template: str,
    episode: LeRobotEpisode,
    place: FilePlace | None,
    *,
    chunk_size: int,
    suffix: str,
    where: str,
    camera: str = "",
) -> Path:
    """The file that a template of info.json names, or the only other one in the folder that can be meant.

    place: None in v2.x, where each episode has files of its own. where: the episode and field, for messages.
    """
    numbers: dict[str, Any] = {"episode_index": episode.index, "video_key": camera}
    numbers["episode_chunk"] = episode.index // chunk_size
    name, parts = f"episode_{episode.index:06d}{suffix}", {camera} if camera else set()
    if place is not None:
        chunk, file = place.file
        numbers |= {"chunk_index": chunk, "file_index": file}
        name, parts = f"file-{file:03d}{suffix}", parts | {f"chunk-{chunk:03d}"}
    try:
        path = root / template.format(**numbers)
    except (KeyError, IndexError, ValueError, AttributeError):  # v3.0 sets with templates of v2 exist, for one
        path = root / template
    if path.is_file():
        return path
    others = [other for other in root.rglob(name) if parts <= set(other.parts) and "meta" not in other.parts]
    if len(others) != 1:
        raise BadData(f"{where}: {path} is missing", hint=WHOLE)
    return others[0]


def first_frame(
    times: np.ndarray, episode: LeRobotEpisode, camera: str, *, listed: Sequence[LeRobotEpisode], fps: float, where: str
) -> int:
    """How many frames of a joined video come before an episode.

    times: seconds (frames,) at which the video shows its frames. listed: all episodes of the dataset.
    By counting, if the episodes in the file have as many frames as it shows: `from_timestamp` adds up durations,
    and writers drift from the file's own clock by up to a millisecond per episode (lerobot issue 3177). Else by time,
    to half a frame; BadData where the episodes then overlap, or leave frames between them though they touch in time.
    """
    place = episode.videos[camera]
    inside = [other for other in listed if camera in other.videos and other.videos[camera].file == place.file]
    inside.sort(key=lambda other: other.videos[camera].start)
    by_time = _nearest(times, place.start)
    if sum(other.length for other in inside) == len(times):
        counted = sum(other.length for other in inside if other.videos[camera].start < place.start)
        if counted != by_time:
            message = "from_timestamp is off by more than half a frame; frames are found by counting"
            warnings.warn(f"{where}: {message}", stacklevel=4)
        return counted
    says = f"the list of episodes says {episode.length} frames"
    if abs(times[by_time] - place.start) > 0.5 / fps:
        raise BadData(f"{where} has no frame at {place.start:.3f} s, where it should begin; {says}")
    if by_time + episode.length > len(times):
        raise BadData(f"{where} shows {len(times) - by_time} frames from {place.start:.3f} s on; {says}")
    # Once the starts have drifted by a frame, every later episode is off, though its own times look right.
    for before, after in pairwise(inside):
        start, end, following = before.videos[camera].start, before.videos[camera].end, after.videos[camera].start
        if start > place.start:
            break
        shown = _nearest(times, following) - _nearest(times, start)
        touching = end is not None and abs(end - following) < 0.5 / fps
        if shown < before.length or (touching and shown != before.length):
            message = f"from_timestamp drifts by more than half a frame: from {start:.3f} s to {following:.3f} s"
            frames = f"{shown} frames are shown, episode {before.index} has {before.length}"
            raise BadData(f"{where}: {message} {frames}")
    return by_time


def _nearest(times: np.ndarray, seconds: float) -> int:
    return int(np.abs(times - seconds).argmin())
