"""Low-rank adapters (LoRA, arXiv 2106.09685): train a small part of a large network, and load the sum of both.

peft adds them, and is needed for that alone: a checkpoint that was trained with them loads without it.
"""

import importlib
from collections.abc import Mapping

from torch import Tensor

from common.errors import MissingDependency
from video_model.model import VideoModel

ADAPTED = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]
"""The linear layers of attention and MLP. Norms, modulation and embeddings stay as they are."""
_BASE, _DOWN, _UP = ".base_layer.weight", ".lora_A.default.weight", ".lora_B.default.weight"


def add_lora(model: VideoModel, *, rank: int) -> None:
    """Freeze the network, but for its action embedding, and add adapters of this rank; they begin as zero.

    Where it takes a forecast its first layer is trained, too: it may never have seen one.

    MissingDependency without peft.
    """
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise MissingDependency(f"LoRA needs peft: {error}", hint="pip install 'understudy[lora]'") from error
    model.requires_grad_(False)
    model.add_adapter(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=ADAPTED))  # scale alpha / r = 1
    assert model.action_embedder
    model.action_embedder.requires_grad_(True)
    model.patch_embed.requires_grad_(model.config["forecast"])


def merged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network with adapters, as those of one without: each weight W becomes W + B A."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(_BASE):
            module = name.removesuffix(_BASE)
            step = tensors[module + _UP].float() @ tensors[module + _DOWN].float()
            found[f"{module}.weight"] = (tensor.float() + step).to(tensor.dtype)
        elif not name.endswith((_DOWN, _UP)):
            found[name] = tensor
    return found
