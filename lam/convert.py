"""DreamDojo's published latent action checkpoint as one of our checkpoint folders."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from common.checkpoints import save_model
from common.errors import BadData
from common.published import read_pickled, require_fit, some
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
    require_fit(tensors, {name: tensor.shape for name, tensor in expected.items()}, source)
    described = checkpoint_config(replace(dreamdojo(), model=config), preset="dreamdojo")
    save_model(target, tensors=tensors, config=described, card=_card(source, tensors, config))
    return config


def _read(source: Path) -> dict[str, Tensor]:
    state = read_pickled(source, example="LAM_400k.ckpt").get("state_dict")
    if not isinstance(state, Mapping):
        raise BadData(f"{source} has no 'state_dict': it is not a Lightning checkpoint")
    foreign = [name for name in state if not name.startswith(_PREFIX)]
    if foreign:
        raise BadData(f"{source} has {len(foreign)} tensors outside '{_PREFIX}': {some(foreign)}")
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


def _card(source: Path, tensors: Mapping[str, Tensor], config: LamModelConfig) -> str:
    millions = sum(tensor.numel() for tensor in tensors.values()) / 1e6
    return f"""# Latent action model converted from DreamDojo

{millions:.1f} M values in {len(tensors)} tensors, from `{source.name}`, unchanged but for their names (no leading
`{_PREFIX}`). Frames of {config.height}x{config.width}; latent actions of {config.latent_dim} values.

The weights are NVIDIA's (DreamDojo, arXiv 2602.06949), under the NVIDIA Open Model License, which stays with
them.
"""
