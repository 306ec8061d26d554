"""Published video models as checkpoint folders of ours: Cosmos-Predict2.5 from diffusers, and DreamDojo's.

No weight changes but in name. A file with pickles is read for tensors and plain values only, never for code.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.checkpoints import save_model
from common.errors import BadData, UserError
from common.published import read_pickled, require_fit, some
from video_model.model import VideoModel

EMBODIMENT = "dreamdojo"
"""Whose actions DreamDojo's are: a layout of 384 values, with a part for each robot and one for latent actions."""

CONVENTIONS = {
    "timestep_scale": 0.001,
    "fps": None,
    "condition_channel": True,
}
"""What these weights take: published timesteps times a scale, positions without a rate, a condition mask channel."""

PUBLISHED_MODULES = {
    "patch_embed.proj": "x_embedder.proj.1",
    "time_embed.t_embedder.linear_1": "t_embedder.1.linear_1",
    "time_embed.t_embedder.linear_2": "t_embedder.1.linear_2",
    "time_embed.norm": "t_embedding_norm",
    "crossattn_proj.0": "crossattn_proj.0",
    "norm_out.linear_1": "final_layer.adaln_modulation.1",
    "norm_out.linear_2": "final_layer.adaln_modulation.2",
    "proj_out": "final_layer.linear",
    "action_embedder.to_time": "action_embedder_B_D.fc2",
    "action_embedder.to_modulation": "action_embedder_B_3D.fc2",
}
"""Our modules -> those of a published .pt, without its leading "net.", outside the blocks."""

PUBLISHED_IN_BLOCK = {
    "norm1.linear_1": "adaln_modulation_self_attn.1",
    "norm1.linear_2": "adaln_modulation_self_attn.2",
    "norm2.linear_1": "adaln_modulation_cross_attn.1",
    "norm2.linear_2": "adaln_modulation_cross_attn.2",
    "norm3.linear_1": "adaln_modulation_mlp.1",
    "norm3.linear_2": "adaln_modulation_mlp.2",
    "ff.net.0.proj": "mlp.layer1",
    "ff.net.2": "mlp.layer2",
} | {
    f"{ours}.{our_part}": f"{theirs}.{their_part}"
    for ours, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"))
    for our_part, their_part in (
        ("to_q", "q_proj"),
        ("to_k", "k_proj"),
        ("to_v", "v_proj"),
        ("to_out.0", "output_proj"),
        ("norm_q", "q_norm"),
        ("norm_k", "k_norm"),
    )
}
"""The same within a block."""

_PREFIX = "net."
_NO_WEIGHTS = ("accum_", "pos_embedder.")
_SHARDS = "diffusion_pytorch_model.safetensors"


def convert_cosmos(source: Path, target: Path) -> dict[str, Any]:
    """Write the folder `target` from a diffusers Cosmos-Predict2.5 folder; returns the model's config.

    `source` is the pipeline's folder or the `transformer` in it. UserError if it is neither; BadData if it holds
    another model, asks for parts that ours does not have, or has a missing, unexpected or misshapen tensor.
    """
    folder = source / "transformer" if (source / "transformer").is_dir() else source
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json", hint="Give a diffusers folder of Cosmos-Predict2.5.")
    published = _read_json(folder / "config.json")
    if published.get("_class_name") != "CosmosTransformer3DModel":
        raise BadData(f"{folder} holds a {published.get('_class_name')}, not a CosmosTransformer3DModel")
    config, tensors = _fit(published, _read_shards(folder), lambda name: (name,), folder)
    _save(target, config, tensors, preset="cosmos", source=source, origin="Cosmos-Predict2.5")
    return config


def convert_dreamdojo_video(source: Path, target: Path) -> dict[str, Any]:
    """Write the folder `target` from DreamDojo's published .pt file; returns the model's config.

    The sizes follow from the tensors. The actions become the embodiment 'dreamdojo'. UserError if the file is absent;
    BadData if it is not such a checkpoint, holds anything that would have to be executed, or has a missing,
    unexpected or misshapen tensor.
    """
    published = _read_pt(source)
    config, tensors = _fit(model_config(published), published, published_names, source)
    _save(target, config, tensors, preset="dreamdojo", source=source, origin="DreamDojo (arXiv 2602.06949)")
    return config


def published_names(name: str) -> tuple[str, ...]:
    """The published names of our tensor `name`: one, or two whose rows follow each other in ours."""
    module, kind = name.rsplit(".", 1)
    if module == f"action_embedder.inputs.{EMBODIMENT}":
        return f"action_embedder_B_D.fc1.{kind}", f"action_embedder_B_3D.fc1.{kind}"
    if module.startswith("transformer_blocks."):
        _, index, inner = module.split(".", 2)
        return (f"blocks.{index}.{PUBLISHED_IN_BLOCK[inner]}.{kind}",)
    return (f"{PUBLISHED_MODULES[module]}.{kind}",)


def model_config(published: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sizes of the network of these tensors (no leading "net."); BadData if one that tells them is missing."""

    def shape(module: str) -> torch.Size:
        if f"{module}.weight" not in published:
            raise BadData(
                f"no DreamDojo video model: the tensor {_PREFIX}{module}.weight is missing",
                hint="Cosmos-Predict2.5 itself, without actions: understudy convert cosmos, on its diffusers folder.",
            )
        return published[f"{module}.weight"].shape

    channels, patch_values = shape("x_embedder.proj.1")
    (head_dim,) = shape("blocks.0.self_attn.q_norm")
    text_channels, text_inputs = shape("crossattn_proj.0")
    return {
        "in_channels": patch_values // 4 - 1,
        "out_channels": shape("final_layer.linear")[0] // 4,
        "num_attention_heads": channels // head_dim,
        "attention_head_dim": head_dim,
        "num_layers": len({name.split(".")[1] for name in published if name.startswith("blocks.")}),
        "mlp_ratio": shape("blocks.0.mlp.layer1")[0] / channels,
        "text_embed_dim": shape("blocks.0.cross_attn.k_proj")[1],
        "adaln_lora_dim": shape("final_layer.adaln_modulation.1")[0],
        "patch_size": (1, 2, 2),
        "rope_scale": (1.0, 3.0, 3.0),
        "concat_padding_mask": True,
        "use_crossattn_projection": True,
        "crossattn_proj_in_channels": text_inputs,
        "encoder_hidden_states_channels": text_channels,
        "embodiments": {EMBODIMENT: shape("action_embedder_B_D.fc1")[1] // 4},
    }


def _fit(
    config: Mapping[str, Any],
    published: Mapping[str, Tensor],
    names: Callable[[str], tuple[str, ...]],
    source: Path,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Our config and tensors by our names; BadData unless each published tensor has its place and its shape."""
    try:
        with torch.device("meta"):
            model = cast(VideoModel, VideoModel.from_config(dict(config)))
    except ValueError as error:
        raise BadData(f"{source}: {error}") from error
    expected: dict[str, tuple[int, ...]] = {}
    for name, tensor in model.state_dict().items():
        parts = names(name)
        expected |= dict.fromkeys(parts, (tensor.shape[0] // len(parts), *tensor.shape[1:]))
    require_fit(published, expected, source)
    ours = {name: [published[part] for part in names(name)] for name in model.state_dict()}
    tensors = {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in ours.items()}
    return {key: value for key, value in model.config.items() if not key.startswith("_")}, tensors


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadData(f"{path} is missing or unreadable: {error}") from error


def _read_shards(folder: Path) -> dict[str, Tensor]:
    index = folder / f"{_SHARDS}.index.json"
    files = sorted(set(_read_json(index)["weight_map"].values())) if index.is_file() else [_SHARDS]
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(folder / file)
        except (OSError, SafetensorError) as error:
            raise BadData(f"{folder / file} is missing or damaged: {error}") from error
    return tensors


def _read_pt(source: Path) -> dict[str, Tensor]:
    checkpoint = read_pickled(source, example="model_ema_bf16.pt")
    foreign = [str(name) for name in checkpoint if not str(name).startswith(_PREFIX)]
    if foreign:
        raise BadData(f"{source} has {len(foreign)} entries outside '{_PREFIX}': {some(foreign)}")
    named = {name.removeprefix(_PREFIX): value for name, value in checkpoint.items()}
    weights = {n: v for n, v in named.items() if not n.startswith(_NO_WEIGHTS) and not n.endswith("_extra_state")}
    others = [name for name, value in weights.items() if not isinstance(value, Tensor)]
    if others:
        raise BadData(f"{source} has {len(others)} entries that are no tensors: {some(others)}")
    return weights


def _save(
    target: Path, config: dict[str, Any], tensors: dict[str, Tensor], *, preset: str, source: Path, origin: str
) -> None:
    described = {"stage": "video", "preset": preset, "model": config, "conventions": CONVENTIONS}
    millions = sum(tensor.numel() for tensor in tensors.values()) / 1e6
    channels = config["num_attention_heads"] * config["attention_head_dim"]
    bodies = ", ".join(f"`{name}` ({dim} values)" for name, dim in (config["embodiments"] or {}).items())
    card = f"""# Video model converted from {origin}

{millions:.1f} M values in {len(tensors)} tensors, from `{source.name}`, unchanged but for their names:
{config["num_layers"]} blocks of {channels} channels. Actions: {bodies or "none yet"}.

It takes noise levels from 0 to 1 (the published timesteps times {CONVENTIONS["timestep_scale"]}), normalised latents of
the Wan 2.1 tokenizer, and a channel that marks given latents. Positions do not depend on the frame rate.

The weights are NVIDIA's, under the NVIDIA Open Model License, which stays with them.
"""
    save_model(target, tensors=tensors, config=described, card=card)
