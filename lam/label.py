"""Latent actions for every clip of a folder: one safetensors file per clip, and an index.

`latent_actions[t]` describes the change from frame t to frame t+1. Each clip is labelled by one rank, in batches that
never reach over its end, so the files do not depend on how many ranks there are.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from common.checkpoints import durable_file, find_checkpoint, weights_checksum, write_text
from common.errors import BadData, UserError
from common.folders import BadFile, Clip, VideoFolder, open_folder, printable
from common.frame_rate import FrameRate
from common.motion import CutDetector
from common.video import UnreadableVideo
from lam.checkpoint import Lam, load_lam
from lam.data import pair_batch

INDEX_NAME = "index.json"
_PAD = 16  # pairs per forward pass are a multiple of this: odd sizes take other kernels, with other rounding


@dataclass(frozen=True)
class LabelReport:
    """What lies in the output folder now."""

    clips: int
    frames: int
    bad: tuple[BadFile, ...]


@dataclass(frozen=True)
class Labeller:
    """One rank's part of `label`."""

    model: Lam
    out: Path
    identity: dict[str, Any]
    """What the labels depend on besides the clip; stored in each file and compared when going on."""
    batch_size: int
    fps: float | None

    def clip(self, clip: Clip) -> dict[str, Any]:
        """Label one clip, unless that is done; returns its entry in the index. Raises UnreadableVideo."""
        target = self.out / f"{clip.name}.safetensors"
        entry = self._finished(target) or self._write(clip, target)
        return {"clip": clip.name, "file": f"{clip.name}.safetensors", **entry}

    def _finished(self, target: Path) -> dict[str, Any] | None:
        try:
            with safe_open(target, framework="numpy") as file:
                if json.loads(file.metadata()["understudy"]) != self.identity:
                    return None
                scenes = file.get_tensor("scenes")
                return {"frames": len(scenes), "scenes": int(scenes[-1]) + 1}
        except (OSError, SafetensorError):
            return None

    def _write(self, clip: Clip, target: Path) -> dict[str, Any]:
        timestamps: list[float] = []
        scenes: list[int] = []
        latent_actions: list[np.ndarray] = []
        for part in _overlapping(self._frames(clip, timestamps, scenes), self.batch_size):
            latent_actions.append(encode_frames(self.model, part))
        if not latent_actions:
            raise UnreadableVideo(
                f"{clip.info.duration_seconds:.2f} s give fewer than two frames at {self.fps} frames/s"
            )
        arrays = {
            "latent_actions": np.concatenate(latent_actions),
            "timestamps": np.array(timestamps),
            "pair_gap_seconds": np.diff(timestamps),
            "scenes": np.array(scenes, dtype=np.int32),
        }
        with durable_file(target) as temporary:
            save_file(arrays, temporary, {"understudy": json.dumps(self.identity)})
        return {"frames": len(timestamps), "scenes": scenes[-1] + 1}

    def _frames(self, clip: Clip, timestamps: list[float], scenes: list[int]) -> Iterator[np.ndarray]:
        """The clip's frames at the wanted rate; notes the time and the scene of each."""
        rate = FrameRate(clip.info, self.fps)
        cuts, scene = CutDetector(), 0
        for frame in clip.decode(size=(self.model.config.height, self.model.config.width)):
            scene += cuts.is_cut(frame.image)  # looks at every frame, whatever the rate
            if rate.takes(frame.seconds):
                timestamps.append(frame.seconds)
                scenes.append(scene)
                yield frame.image


def label(checkpoint: Path, folder: Path, out: Path, *, batch_size: int = 64, fps: float | None = None) -> LabelReport:
    """Write OUT/NAME.safetensors for every clip NAME of the folder, and OUT/index.json.

    Each file holds `latent_actions` float32 (T-1, latent_dim + camera_dim), which is [z_act | z_cam], `timestamps`
    float64 (T,) in seconds, `pair_gap_seconds` float64 (T-1,) and `scenes` int32 (T,), which counts up at each hard
    cut: where it differs between t and t+1, row t describes no action. fps: take the frames nearest to this rate
    (None: every frame). Running it again goes on with the clips that are missing. Several ranks (`accelerate launch`)
    share the clips.
    UserError if OUT holds labels made otherwise; BadData if no clip can be labelled.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}")
    ranks = Accelerator()
    loaded = load_lam(checkpoint)
    identity = {"weights": weights_checksum(find_checkpoint(checkpoint)), "fps": fps}
    labeller = Labeller(loaded.model.to(ranks.device), out, identity, batch_size, fps)
    video = open_folder(folder)
    if ranks.is_main_process:
        _open_output(out, identity)
    ranks.wait_for_everyone()
    done, bad = _label_share(labeller, video, ranks)
    if not done:
        raise BadData(f"no clip of {folder} could be labelled", hint="`understudy data scan` explains a folder.")
    if ranks.is_main_process:
        index = {
            **identity,
            "latent_dim": loaded.config.model.latent_dim,
            "camera_dim": loaded.config.model.camera_dim,
            "clips": done,
            "bad": [{"clip": file.name, "reason": file.reason} for file in bad],
        }
        write_text(out / INDEX_NAME, json.dumps(index, indent=1))
    ranks.wait_for_everyone()
    return LabelReport(clips=len(done), frames=sum(entry["frames"] for entry in done), bad=tuple(bad))


def _label_share(
    labeller: Labeller, video: VideoFolder, ranks: Accelerator
) -> tuple[list[dict[str, Any]], list[BadFile]]:
    """Label every clip whose turn it is; returns the entries and failures of all ranks, sorted by name."""
    done: list[dict[str, Any]] = []
    bad: list[BadFile] = list(video.bad) if ranks.is_main_process else []
    mine = video.clips[ranks.process_index :: ranks.num_processes]
    for clip in tqdm(mine, desc="labelling", unit="clip", disable=None if ranks.is_main_process else True):
        try:
            done.append(labeller.clip(clip))
        except UnreadableVideo as error:
            bad.append(BadFile(clip.name, error.reason))
            print(f"left out: {printable(clip.name)}: {error.reason}", file=sys.stderr)
    if ranks.num_processes > 1:
        done, bad = gather_object(done), gather_object(bad)
    return sorted(done, key=lambda entry: entry["clip"]), sorted(bad, key=lambda file: file.name)


def _open_output(out: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder that holds labels of another checkpoint or rate; note in a new one what its labels depend on."""
    note = out / "made-with.json"
    if note.exists():
        before = json.loads(note.read_text())
        if before != identity:
            raise UserError(f"{out} holds labels made with {before}, not {identity}", hint="Choose another --out.")
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and holds no labels", hint="Choose another --out.")
    write_text(note, json.dumps(identity))


def _overlapping(frames: Iterable[np.ndarray], pairs: int) -> Iterator[np.ndarray]:
    """Runs of up to `pairs` + 1 frames (n + 1, H, W, 3); each starts with the last frame of the one before."""
    run: list[np.ndarray] = []
    for frame in frames:
        run.append(frame)
        if len(run) == pairs + 1:
            yield np.stack(run)
            run = [frame]
    if len(run) > 1:
        yield np.stack(run)


@torch.inference_mode()
def encode_frames(model: Lam, frames: np.ndarray) -> np.ndarray:
    """Code [z_act | z_cam] of each step: frames uint8 (T, H, W, 3) -> float32 (T-1, D), row t from frame t to t+1."""
    pairs = torch.from_numpy(np.stack((frames[:-1], frames[1:]), axis=1))  # (T-1, 2, H, W, 3)
    count = len(pairs)
    padded = torch.cat((pairs, pairs[-1:].expand(-count % _PAD, *pairs.shape[1:])))
    device = next(model.parameters()).device
    batch = pair_batch(padded, [""] * len(padded)).to(device)
    return model.encode(batch.frames).code[:count].float().cpu().numpy()
