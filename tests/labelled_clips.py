"""Labels without a model: each row holds the numbers of the two frames that it leads between."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from common.folders import Clip, open_folder
from common.frame_rate import FrameRate
from tests.counted_clips import SIZE, number_of

LATENT_DIM, CAMERA_DIM = 2, 1


def write_labels(
    out: Path, folder: Path, *, fps: float | None = None, scene_frames: int = 10**6, weights: str = "0123abcd"
) -> Path:
    """Label every clip of a folder, in the form of `understudy label`, with a cut every `scene_frames` frames.

    Row t of clip c is [number of labelled frame t, number of labelled frame t+1, c].
    """
    identity = {"weights": weights, "fps": fps}
    clips = open_folder(folder).clips
    for index, clip in enumerate(clips):
        write_clip_labels(out, clip, identity, index=index, scene_frames=scene_frames)
    entries = [{"clip": clip.name, "file": f"{clip.name}.safetensors"} for clip in clips]
    sizes = {"latent_dim": LATENT_DIM, "camera_dim": CAMERA_DIM}
    (out / "index.json").write_text(json.dumps({**identity, **sizes, "clips": entries, "bad": []}))
    return out


def write_clip_labels(out: Path, clip: Clip, identity: dict, *, index: int, scene_frames: int) -> None:
    rate = FrameRate(clip.info, identity["fps"])
    kept = [frame for frame in clip.decode(size=SIZE) if rate.takes(frame.seconds)]
    numbers = np.array([number_of(frame.image) for frame in kept])
    rows = np.stack((numbers[:-1], numbers[1:], np.full(len(kept) - 1, index)), axis=1)
    save_labels(
        out / f"{clip.name}.safetensors",
        identity,
        actions=rows.astype(np.float32),
        seconds=np.array([frame.seconds for frame in kept]),
        scenes=(numbers // scene_frames).astype(np.int32),
    )


def save_labels(path: Path, identity: dict, *, actions: np.ndarray, seconds: np.ndarray, scenes: np.ndarray) -> None:
    arrays = {"latent_actions": actions, "timestamps": seconds, "pair_gap_seconds": np.diff(seconds), "scenes": scenes}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, path, {"understudy": json.dumps(identity)})
