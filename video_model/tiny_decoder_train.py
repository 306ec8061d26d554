"""Train a tiny decoder to show the latents of a tokenizer, which stays as it is: build the stage, then `fit`."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from common.config import to_dict
from common.errors import UserError
from common.training import Stage, fit
from video_model.clip_batches import ClipBatch
from video_model.presets import TinyDecoderConfig
from video_model.tiny_decoder import TinyDecoder, checkpoint_config
from video_model.tokenizer import Tokenizer, load_tokenizer
from video_model.tokenizer_loss import charbonnier, sharpness_error
from video_model.tokenizer_train import augment, edges_of, frame_psnr, open_clips, reconstruction_sheet


def train(config: TinyDecoderConfig, *, preset: str, tokenizer: Path, data: Sequence[Path], out: Path) -> Path:
    """Train until `config.training.steps` or go on there; returns the last checkpoint's folder.

    tokenizer: its folder, or that of a published autoencoder. data: video folders. UserError if the sizes do not fit.
    """
    training, full = config.training, load_tokenizer(tokenizer)
    if training.checkpoint_activations:
        raise UserError("a decoder cannot recompute activations", hint="Train on a smaller --augment.crop instead.")
    if config.model.space_factor != full.space_factor:
        raise UserError(
            f"one place of a latent is {full.space_factor} pixels wide in {tokenizer}, {config.model.space_factor} in "
            f"the decoder '{preset}'",
            hint="Choose another preset, or --model.channels and --model.patch-size that fit.",
        )
    torch.manual_seed(training.seed)
    clips = open_clips(config.data, training, data=data, out=out)

    def evaluate(decoder: TinyDecoder, step: int) -> dict[str, float]:
        sheets = out / "samples"
        sheets.mkdir(exist_ok=True)
        return evaluate_decoder(decoder, full, clips.held_out, sheet=sheets / f"step-{step}.png")

    given = {"tokenizer": str(tokenizer), "folders": [str(path) for path in data]}
    stage = Stage(
        name=f"train decoder {preset}",
        model=TinyDecoder(config.model, latent_channels=full.z_dim),
        loss=lambda network, batch: loss(
            network, augment(batch, config.augment), full, sharpness_weight=config.sharpness_weight
        ),
        batches=clips.batches,
        evaluate=evaluate,  # type: ignore[arg-type]
        config={"preset": preset, **given, **to_dict(config)},
        checkpoint_config=checkpoint_config(config, preset=preset, latent_channels=full.z_dim),
        card=lambda step, numbers: _card(
            config, preset=preset, tokenizer=tokenizer, data=data, out=out, step=step, numbers=numbers
        ),
    )
    return fit(stage, training, out)


def loss(
    decoder: nn.Module, batch: ClipBatch, tokenizer: Tokenizer, *, sharpness_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Charbonnier error of the pixels, plus the weighted sharpness error, against the true frames (B, 1 + 4k, 3, H, W).

    They are encoded and decoded from the first latent on.
    """
    with torch.no_grad():
        latents = tokenizer.to(batch.frames.device).encode(batch.frames)
    frames = decoder(latents, None)[0].float()
    pixels, sharpness = charbonnier(frames - batch.frames), sharpness_error(frames, batch.frames)
    mse = ((frames.detach() - batch.frames) / 2).square().mean()
    metrics = {"pixels": pixels.detach(), "sharpness": sharpness.detach(), "mse": mse}
    return pixels + sharpness_weight * sharpness, metrics


@torch.no_grad()
def evaluate_decoder(
    decoder: TinyDecoder, tokenizer: Tokenizer, batches: Sequence[ClipBatch], *, sheet: Path
) -> dict[str, float]:
    """Means over the batches' windows, on pixels as shown; and a PNG of some of the first batch's.

    psnr, in dB, and edges (mean difference of neighbouring pixels over that of the original) of the decoder's frames;
    the same of the tokenizer's own.
    """
    device = next(decoder.parameters()).device
    found: dict[str, list[Tensor]] = {"psnr": [], "edges": [], "psnr_tokenizer": [], "edges_tokenizer": []}
    for number, batch in enumerate(batches):
        frames = batch.frames.to(device)
        latents = tokenizer.to(device).encode(frames)
        shown = {"": decoder.decode(latents), "_tokenizer": tokenizer.decode(latents)}
        for name, film in shown.items():
            found[f"psnr{name}"].append(frame_psnr(film, frames).flatten())
            found[f"edges{name}"].append(edges_of(film) / edges_of(frames))
        if not number:
            reconstruction_sheet(frames, shown[""], sheet)
    return {name: torch.cat(values).double().mean().item() for name, values in found.items()}


def _card(
    config: TinyDecoderConfig,
    *,
    preset: str,
    tokenizer: Path,
    data: Sequence[Path],
    out: Path,
    step: int,
    numbers: dict[str, float],
) -> str:
    """Text of the checkpoint's README.md: what it is, how it was made, what it measures."""
    folders, training = " ".join(str(path) for path in data), config.training
    measured = "\n".join(f"| {name} | {value:.4g} |" for name, value in numbers.items())
    table = f"| on held-out clips | |\n|---|---|\n{measured}" if numbers else "Not validated yet."
    return f"""# Tiny decoder `{preset}`, step {step}

Shows the latents of a tokenizer, for live use: quicker than the tokenizer's own decoder, and less sharp. Trained by

    understudy train decoder {preset} --tokenizer {tokenizer} --data {folders} --out {out}

({training.steps} steps of {training.batch_size} windows of {config.data.frames + config.data.lead_in} frames, seed
{training.seed}; every setting is in `config.json`).

psnr: in dB, of the frames it makes of encoded ones; edges: contrast of neighbouring pixels over that of the original;
psnr_tokenizer, edges_tokenizer: the same of the tokenizer's own decoder.

{table}
"""
