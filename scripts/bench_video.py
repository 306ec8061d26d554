"""`understudy bench video`: a forward pass of the video model beside diffusers' network, and a training step.

Both networks have Cosmos-Predict2.5's flags, the same weights, a noise level for each latent and a text of 512 words,
and take turns in one run. Ours modulates per latent frame and projects the text once; diffusers' does both for every
token in every pass. The channel of zeros for padding is left out of both: diffusers needs torchvision for it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.bench_parts import device_name, peak_gigabytes, seconds_of, write_numbers
from video_model.presets import VIDEO_PRESETS, VideoConfig

if TYPE_CHECKING:
    import torch

    from video_model.model import VideoModel

WORDS = 512
ACTION_DIM = 40
COSMOS: dict[str, Any] = {
    "in_channels": 17,
    "out_channels": 16,
    "adaln_lora_dim": 256,
    "text_embed_dim": 1024,
    "rope_scale": (1.0, 3.0, 3.0),
    "concat_padding_mask": False,
    "encoder_hidden_states_channels": 1024,
}
ON_GPU = COSMOS | {
    "num_attention_heads": 16,
    "attention_head_dim": 128,
    "num_layers": 28,
    "crossattn_proj_in_channels": 100_352,
}
ON_CPU = COSMOS | {
    "num_attention_heads": 8,
    "attention_head_dim": 64,
    "num_layers": 6,
    "crossattn_proj_in_channels": 2048,
}


@dataclass(frozen=True)
class Training:
    """Steps of a preset, from latents on: loss, gradients, optimizer."""

    preset: str
    parameters_millions: float
    step_ms: float
    tokens_per_second: float
    """Of the windows; a causal step works on more."""
    peak_gigabytes: float
    """Of the device's memory; on a CPU, of the whole process."""


@dataclass(frozen=True)
class VideoBench:
    device: str
    precision: str
    threads: int
    parameters_millions: float
    latents: tuple[int, int, int]
    """Latent frames, rows, columns."""
    ours_ms: float
    diffusers_ms: float
    speedup: float
    """diffusers' median time over ours."""
    difference: float
    """Largest difference of the two predictions, over the mean size of diffusers'."""
    training: Training


def bench_video(
    *, repeats: int = 5, latents: tuple[int, int, int] | None = None, json_path: Path | None = None
) -> VideoBench:
    """Measure, print, and write JSON if asked.

    A GPU runs the 2B shape at 480x640 (4 latents) in bf16 and trains it; a CPU a reduced one in float32, and `tiny`.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    dtype = torch.bfloat16 if on_gpu else torch.float32
    latents = latents or ((4, 60, 80) if on_gpu else (4, 30, 40))
    ours, theirs, parameters, difference = _forward_times(
        ON_GPU if on_gpu else ON_CPU, latents, device, dtype, repeats=repeats
    )
    result = VideoBench(
        device=device_name(device),
        precision=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        parameters_millions=parameters / 1e6,
        latents=latents,
        ours_ms=1000 * ours,
        diffusers_ms=1000 * theirs,
        speedup=theirs / ours,
        difference=difference,
        training=_training("cosmos-2b" if on_gpu else "tiny", device, repeats=repeats),
    )
    _print(result)
    if json_path is not None:
        write_numbers(json_path, asdict(result))
    return result


def _forward_times(
    config: dict[str, Any], size: tuple[int, int, int], device: torch.device, dtype: torch.dtype, *, repeats: int
) -> tuple[float, float, int, float]:
    """(our median seconds, diffusers', parameters, relative difference)."""
    import torch
    from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel
    from torch import nn

    from video_model.model import VideoModel

    torch.manual_seed(0)
    published = CosmosTransformer3DModel(**config, extra_pos_embed_type=None, use_crossattn_projection=True)
    model = VideoModel(**config)
    model.load_state_dict(published.state_dict(), strict=True)
    for network in (published, model):
        nn.Module.to(network, device, dtype)
    x = torch.randn(1, 16, *size, device=device, dtype=dtype)
    times = torch.rand(1, size[0], device=device)
    words = torch.randn(1, WORDS, config["crossattn_proj_in_channels"], device=device, dtype=dtype)
    condition = torch.zeros(1, 1, *size, device=device, dtype=dtype)
    with torch.no_grad():
        text = model.project_text(words)

        def ours() -> torch.Tensor:
            return model(x, times, text=text)

        def theirs() -> torch.Tensor:
            per_frame = times[:, None, :, None, None].to(dtype)
            return published(x, per_frame, words, condition_mask=condition, return_dict=False)[0]

        difference = ((ours() - theirs()).abs().max() / theirs().abs().mean()).item()
        turns = [(seconds_of(ours, str(device)), seconds_of(theirs, str(device))) for _ in range(repeats)]
    own, other = (statistics.median(column) for column in zip(*turns, strict=True))
    return own, other, sum(parameter.numel() for parameter in model.parameters()), difference


def _training(preset: str, device: torch.device, *, repeats: int) -> Training:
    import torch
    from torch import nn

    from video_model.generator import build_video_model

    config = VIDEO_PRESETS[preset]()
    if device.type == "cuda":
        # One sample: what fits beside AdamW's moments on one large GPU.
        config = replace(config, training=replace(config.training, batch_size=1))
        torch.cuda.reset_peak_memory_stats(device)
    channels = 24 if preset == "tiny" else 16
    torch.manual_seed(0)
    model = build_video_model(config.model, latent_channels=channels, action_dim=ACTION_DIM)
    nn.Module.to(model, device)
    if config.training.checkpoint_activations:
        model.enable_gradient_checkpointing()
    step, tokens = _training_step(model, config, channels, device)
    step()
    seconds = statistics.median(seconds_of(step, str(device)) for _ in range(repeats))
    return Training(
        preset=preset,
        parameters_millions=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        step_ms=1000 * seconds,
        tokens_per_second=tokens / seconds,
        peak_gigabytes=peak_gigabytes(device),
    )


def _training_step(
    model: VideoModel, config: VideoConfig, channels: int, device: torch.device
) -> tuple[Callable[[], None], int]:
    """One causal step, and the tokens of its windows."""
    import torch

    from common.muon import Muon
    from video_model.generator import LATENT
    from video_model.latent_windows import LatentBatch
    from video_model.loss import loss

    data, training = config.data, config.training
    rows, columns = data.height // 8, data.width // 8
    batch = LatentBatch(
        torch.randn(training.batch_size, channels, data.latents + 1, rows, columns, device=device),
        torch.randn(training.batch_size, 4 * data.latents, ACTION_DIM, device=device),
        ("noise",) * training.batch_size,
    )
    causal = replace(config.loss, causal_share=1.0)
    make = Muon if training.optimizer == "muon" else torch.optim.AdamW
    optimizer = make(model.parameters(), lr=1e-5)

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=training.precision == "bf16"):
            scalar, _ = loss(model, batch, causal, embodiment=LATENT, patch=model.patch)
        scalar.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, training.batch_size * data.latents * rows * columns // model.patch**2


def _print(result: VideoBench) -> None:
    frames, rows, columns = result.latents
    print(
        f"forward, {result.parameters_millions:.0f} M parameters, {frames} latents of {rows}x{columns}, "
        f"{result.precision}, {result.device}, {result.threads} threads: ours {result.ours_ms:.1f} ms, "
        f"diffusers {result.diffusers_ms:.1f} ms, {result.speedup:.2f} times; predictions differ by "
        f"{result.difference:.1e}"
    )
    training = result.training
    print(
        f"training `{training.preset}`, {training.parameters_millions:.1f} M parameters: {training.step_ms:.0f} ms "
        f"a step, {training.tokens_per_second:.0f} tokens/s, {training.peak_gigabytes:.2f} GB"
    )
