"""Latent action models on disk: what their config.json and model card hold, and loading one from a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.checkpoints import load_model_folder
from common.config import from_dict, to_dict
from common.errors import BadData
from lam.dreamdojo import DreamDojoLam
from lam.model import LatentActionModel
from lam.presets import LamConfig, LamModelConfig

Lam = LatentActionModel | DreamDojoLam


def build(config: LamModelConfig) -> Lam:
    """A new network of the config's design, with random weights."""
    return LatentActionModel(config) if config.design == "default" else DreamDojoLam(config)


@dataclass(frozen=True)
class LoadedLam:
    model: Lam
    """In evaluation mode, on the CPU."""
    config: LamConfig
    preset: str


def checkpoint_config(config: LamConfig, *, preset: str) -> dict[str, Any]:
    """config.json of a latent action model's checkpoint."""
    return {"stage": "lam", "preset": preset, **to_dict(config)}


def load_lam(path: Path) -> LoadedLam:
    """Load a checkpoint folder, or the newest checkpoint of a run. BadData if it is not one."""
    data, tensors = load_model_folder(path)
    if data.get("stage") != "lam":
        raise BadData(f"{path} holds a '{data.get('stage')}' checkpoint, not a latent action model")
    fields = {key: value for key, value in data.items() if key not in ("stage", "preset")}
    config = from_dict(LamConfig, fields, where=f"{path}/config.json")
    model = build(config.model)
    expected = model.state_dict()
    wrong = sorted(set(expected) ^ set(tensors)) or [n for n, t in expected.items() if t.shape != tensors[n].shape]
    if wrong:
        raise BadData(f"{path}: {len(wrong)} tensors do not fit its config, among them {wrong[0]}")
    model.load_state_dict(tensors, strict=True)
    return LoadedLam(model=model.eval(), config=config, preset=data["preset"])


def model_card(
    config: LamConfig, *, preset: str, data: Sequence[Path], out: Path, step: int, numbers: dict[str, float]
) -> str:
    """Text of the checkpoint's README.md: what it is, how it was made, what it measures."""
    folders = " ".join(str(path) for path in data)
    low, high = config.data.gap_seconds
    camera = f" and {config.model.camera_dim} of the camera" if config.model.camera_dim else ""
    measured = "\n".join(f"| {name} | {value:.4g} |" for name, value in numbers.items())
    table = f"| on held-out clips | |\n|---|---|\n{measured}" if numbers else "Not validated yet."
    return f"""# Latent action model `{preset}`, step {step}

Maps two frames of {config.model.height} x {config.model.width} pixels, {low:.3g} to {high:.3g} seconds apart, to a
latent action of {config.model.latent_dim} values{camera}. Trained by

    understudy train lam {preset} --data {folders} --out {out}

({config.training.steps} steps of {config.training.batch_size} pairs, seed {config.training.seed}; every setting is in
`config.json`). PSNR in dB, mean over pairs: with the pair's own latent action, another clip's, none, and of the first
frame itself (copy).

{table}

Use it with `understudy label` and `understudy evaluate lam`.
"""
