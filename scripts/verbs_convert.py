"""`understudy convert …`: published weights as checkpoint folders.

Modules that import torch, PyAV or pyarrow are imported inside the verb, so that help texts stay quick.
"""

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from scripts.verb_options import parse


def convert_dreamdojo_lam(words: list[str], program: str) -> None:
    """DreamDojo's published latent action model as a checkpoint folder"""

    def run(source: Positional[Path], target: Positional[Path], /) -> None:
        """Convert DreamDojo's published Lightning checkpoint.

        Args:
            source: LAM_400k.ckpt.
            target: Checkpoint folder to write.
        """
        from lam.convert import convert_dreamdojo_lam

        config = convert_dreamdojo_lam(source, target)
        print(f"{target}: {config.encoder_blocks}+{config.decoder_blocks} blocks, {config.channels} channels")

    parse(run, words, program)


def convert_dreamdojo_video(words: list[str], program: str) -> None:
    """DreamDojo's published video model as a checkpoint folder"""

    def run(source: Positional[Path], target: Positional[Path], /) -> None:
        """Convert DreamDojo's published 2B or 14B video model.

        Args:
            source: The downloaded model_ema_bf16.pt.
            target: Checkpoint folder to write.
        """
        from video_model.convert import convert_dreamdojo_video

        _describe_video(target, convert_dreamdojo_video(source, target))

    parse(run, words, program)


def convert_cosmos(words: list[str], program: str) -> None:
    """Cosmos-Predict2.5, from its diffusers folder, as a checkpoint folder"""

    def run(source: Positional[Path], target: Positional[Path], /) -> None:
        """Convert NVIDIA's Cosmos-Predict2.5 in the diffusers format.

        Args:
            source: The downloaded folder, or the `transformer` in it.
            target: Checkpoint folder to write.
        """
        from video_model.convert import convert_cosmos

        _describe_video(target, convert_cosmos(source, target))

    parse(run, words, program)


def _describe_video(target: Path, config: dict[str, Any]) -> None:
    channels = config["num_attention_heads"] * config["attention_head_dim"]
    print(f"{target}: {config['num_layers']} blocks, {channels} channels")
