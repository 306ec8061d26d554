"""A robot in a video model's checkpoint: what its controls mean, and how they become films.

Beside the checkpoint's own files, which stay as they are, so that no robot changes what another does:

    controls/NAME.json          the controls (`align.embodiment`), at the model's rate
    adapters/NAME.safetensors   from controls to latent actions (`align.adapter`), unless it was trained from scratch
    networks/NAME.safetensors   the tensors in which the robot's own network differs, if it was trained for it
    learned_from/NAME.json      the names of the episodes that it was aligned with

Axes: B videos, T steps, A columns of controls.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from align.adapter import Adapter, adapter_inputs
from align.embodiment import RobotEmbodiment, load_embodiment
from common.checkpoints import find_checkpoint
from common.config import nearest
from common.errors import BadData, UserError
from common.published import require_fit
from video_model.generator import LATENT, Embodiment, Generator, load_generator
from video_model.model import VideoModel
from video_model.presets import TIME_FACTOR
from video_model.rollout import rollout


@dataclass
class Robot:
    """Ready for use, in evaluation mode."""

    generator: Generator
    """With the robot's own network, where it has one."""
    embodiment: RobotEmbodiment
    adapter: Adapter | None
    own_network: bool
    """The network takes the robot's controls; else it takes the latent actions that the adapter makes of them."""
    learned_from: frozenset[str]
    """Names of the episodes (`align.robot_dataset.episode_name`) that it was aligned with."""

    def latent_actions(self, controls: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Controls (T, A) after those in force (A,) -> latent actions float32 (T, D). UserError without an adapter."""
        if self.adapter is None:
            raise UserError(f"'{self.embodiment.name}' was trained from scratch and knows no latent actions")
        return self.adapter.codes(adapter_inputs(self.embodiment, controls, before))

    def rollout(
        self,
        first_frames: Tensor,
        controls: np.ndarray,
        before: np.ndarray,
        *,
        steps: int | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Video (B, 1 + T, 3, H, W) from first_frames (B, 3, H, W) in [-1, 1] and controls float32 (B, T, A).

        controls[:, t] leads from frame t to frame t + 1; before (B, A) are those in force at the first frame.
        """
        padding = -controls.shape[1] % TIME_FACTOR
        rest = [self.embodiment.neutral(controls[:, -1], rows=padding)] if padding else []
        padded = np.concatenate([controls, *rest], axis=1)
        told = None
        if self.adapter is not None:
            pairs = zip(padded, before, strict=True)
            told = torch.from_numpy(np.stack([self.latent_actions(rows, held) for rows, held in pairs]))
        if self.own_network:
            name, actions = self.embodiment.name, self._changes(padded, before)
        else:
            assert told is not None
            name, actions = LATENT, told
        film = rollout(self.generator, first_frames, actions, embodiment=name, told=told, steps=steps, seed=seed)
        return film[:, : 1 + controls.shape[1]]

    def _changes(self, controls: np.ndarray, before: np.ndarray) -> Tensor:
        relative = self.embodiment.relative(controls, before)
        return torch.from_numpy(self.embodiment.normalised(relative)).float()


def robot_names(path: Path) -> list[str]:
    """The robots that a checkpoint knows."""
    return sorted(file.stem for file in (find_checkpoint(path) / "controls").glob("*.json"))


def load_robot(path: Path, name: str | None = None) -> Robot:
    """A robot of a checkpoint that `understudy align` made, on the CPU. name: may be left out where there is only one.

    UserError if it has no such robot, BadData if something is damaged.
    """
    folder, names = find_checkpoint(path), robot_names(path)
    if not names:
        raise UserError(f"{path} knows no robot", hint="Align it first: understudy align CHECKPOINT DATASET --out OUT")
    if name is None and len(names) > 1:
        raise UserError(f"{path} knows the robots {', '.join(names)}", hint="Name one of them: --robot NAME")
    name = names[0] if name is None else name
    if name not in names:
        raise UserError(f"{path} knows no robot '{name}'; {nearest(name, names)}")
    generator = load_generator(path)
    embodiment = load_embodiment(folder / "controls" / f"{name}.json")
    own = folder / "networks" / f"{name}.safetensors"
    if own.exists():
        add_network(generator, embodiment, *_read(own))
    adapter_file = folder / "adapters" / f"{name}.safetensors"
    adapter = _adapter(_read(adapter_file)[0], path=adapter_file) if adapter_file.exists() else None
    if adapter is None and not own.exists():
        raise BadData(f"{folder} has neither an adapter nor a network for '{name}'")
    return Robot(generator, embodiment, adapter, own.exists(), _learned_from(folder / "learned_from" / f"{name}.json"))


def add_network(
    generator: Generator, embodiment: RobotEmbodiment, tensors: dict[str, Tensor], config: dict[str, Any]
) -> None:
    """Give a generator, which is changed, the robot's own network, and the robot as an embodiment."""
    model = cast(VideoModel, VideoModel.from_config(config))
    both = {**generator.model.state_dict(), **tensors}
    merged = {name: both[name] for name in model.state_dict() if name in both}
    require_fit(merged, {name: tensor.shape for name, tensor in model.state_dict().items()}, Path(embodiment.name))
    model.load_state_dict(merged, strict=True)
    generator.model = model.eval()
    generator.embodiments[embodiment.name] = video_embodiment(embodiment)
    if not model.config["forecast"]:
        generator.forecaster = None


def video_embodiment(embodiment: RobotEmbodiment) -> Embodiment:
    """The robot as the video model sees it: normalised changes, so of scale 1."""
    return Embodiment(scale=(1.0,) * embodiment.relative_dim, fps=embodiment.rate)


def write_robot(
    folder: Path,
    embodiment: RobotEmbodiment,
    *,
    learned_from: Sequence[str],
    adapter: Adapter | None,
    network: VideoModel | None,
    base: VideoModel,
) -> None:
    """Add the robot's files to a checkpoint's folder. network: its own, of which what differs from `base` is kept."""
    embodiment.save(folder)
    names = folder / "learned_from" / f"{embodiment.name}.json"
    names.parent.mkdir(exist_ok=True)
    names.write_text(json.dumps(list(learned_from), indent=1), encoding="utf-8")
    if adapter is not None:
        tensors = {name: torch.from_numpy(array) for name, array in vars(adapter).items()}
        _write(folder / "adapters" / f"{embodiment.name}.safetensors", tensors, {})
    if network is not None:
        before = base.state_dict()
        changed = {
            name: tensor
            for name, tensor in network.state_dict().items()
            if name not in before or before[name].shape != tensor.shape or not torch.equal(before[name], tensor)
        }
        config = {key: value for key, value in network.config.items() if not key.startswith("_")}
        _write(folder / "networks" / f"{embodiment.name}.safetensors", changed, config)


def _write(path: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(content, path, {"config": json.dumps(config)})


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["config"])  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadData(f"{path} cannot be read ({error})") from error


def _learned_from(path: Path) -> frozenset[str]:
    try:
        return frozenset(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise BadData(f"{path} cannot be read ({error})") from error


def _adapter(tensors: dict[str, Tensor], *, path: Path) -> Adapter:
    wanted = [field.name for field in fields(Adapter)]
    if sorted(tensors) != sorted(wanted):
        raise BadData(f"{path} holds {', '.join(sorted(tensors))}, not {', '.join(wanted)}")
    return Adapter(**{name: tensor.numpy() for name, tensor in tensors.items()})
