"""DreamDojo's published latent action checkpoint as one of our checkpoint folders."""

import math
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from common.checkpoints import save_model
from common.errors import BadData, UserError
from lam.checkpoint import checkpoint_config
from lam.dreamdojo import DreamDojoLam
from lam.presets import LamModelConfig, dreamdojo

_PREFIX = "lam."


def convert_dreamdojo_lam(source: Path, target: Path) -> LamModelConfig:
    """Read a Lightning checkpoint such as LAM_400k.ckpt and write the folder `target`; returns the model's config.

    Only tensors and plain values are read, never code. The sizes follow from the tensors, but for the picture size,
    which is not in them: 240x320 as published. UserError if the file is absent; BadData if it is not such a
    checkpoint, holds anything that would have to be executed, or has a missing or unexpected tensor.
    """
    tensors = _read(source)
    config = model_config(tensors)
    with torch.device("meta"):
        expected = DreamDojoLam(config).state_dict()
    _compare(tensors, expected, source)
    described = checkpoint_config(replace(dreamdojo(), model=config), preset="dreamdojo")
    save_model(target, tensors=tensors, config=described, card=_card(source, tensors, config))
    return config


def _read(source: Path) -> dict[str, Tensor]:
    if not source.is_file():
        raise UserError(f"{source} is not a file", hint="Give the path of the downloaded LAM_400k.ckpt.")
    try:
        # Memory-mapped, so that the optimizer's state beside the weights is not read.
        checkpoint = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise BadData(
            f"{source} holds more than tensors and plain values, and was not opened because reading it could run code: "
            f"{str(error).splitlines()[0]}",
            hint="If you trust its origin, save it again with nothing but its 'state_dict', then convert that file.",
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise BadData(f"{source} is not a PyTorch checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("state_dict"), Mapping):
        raise BadData(f"{source} has no 'state_dict': it is not a Lightning checkpoint")
    state = checkpoint["state_dict"]
    foreign = [name for name in state if not name.startswith(_PREFIX)]
    if foreign:
        raise BadData(f"{source} has {len(foreign)} tensors outside '{_PREFIX}': {_some(foreign)}")
    return {name.removeprefix(_PREFIX): tensor for name, tensor in state.items()}


def model_config(tensors: Mapping[str, Tensor]) -> LamModelConfig:
    """The sizes of the network that these tensors belong to; BadData if a tensor that tells them is missing."""

    def shape(name: str) -> torch.Size:
        if name not in tensors:
            raise BadData(f"no latent action model: the tensor {_PREFIX}{name} is missing")
        return tensors[name].shape

    def blocks(part: str) -> int:
        prefix = f"{part}.transformer_blocks."
        return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})

    channels, latent_dim = shape("action_up.weight")
    head_channels = 2 * shape("encoder.transformer_blocks.0.temporal_attn.rotary_embedding.freqs")[0]
    published = dreamdojo().model
    return LamModelConfig(
        height=published.height,
        width=published.width,
        patch=math.isqrt(shape("action_prompt")[-1] // 3),
        channels=channels,
        heads=channels // head_channels,
        encoder_blocks=blocks("encoder"),
        decoder_blocks=blocks("decoder"),
        latent_dim=latent_dim,
        design="dreamdojo",
    )


def _compare(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: Path) -> None:
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    misshapen = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    complaints = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if complaints:
        raise BadData(f"{source} does not fit the published network; tensors {'; '.join(complaints)}")


def _some(names: list[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _card(source: Path, tensors: Mapping[str, Tensor], config: LamModelConfig) -> str:
    millions = sum(tensor.numel() for tensor in tensors.values()) / 1e6
    return f"""# Latent action model converted from DreamDojo

{millions:.1f} M values in {len(tensors)} tensors, from `{source.name}`, unchanged but for their names (no leading
`{_PREFIX}`). Frames of {config.height}x{config.width}; latent actions of {config.latent_dim} values.

The weights are NVIDIA's (DreamDojo, arXiv 2602.06949), under the NVIDIA Open Model License, which stays with
them.
"""
