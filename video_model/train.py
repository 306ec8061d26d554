"""Train a video model on a folder of video and its latent actions: build the stage, then `fit`."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn

from common.config import to_dict
from common.errors import UserError
from common.folders import Clip, printable
from common.training import DataPosition, Stage, fit
from video_model.clip_batches import open_split
from video_model.clips import ClipWindows, WindowConfig
from video_model.forecast import Forecaster
from video_model.generator import (
    LATENT,
    Embodiment,
    Generator,
    build_video_model,
    checkpoint_config,
    load_video_model,
    write_companions,
)
from video_model.labels import Labels
from video_model.latent_cache import LatentCache
from video_model.latent_windows import LatentBatch, encoded_batches
from video_model.lora import add_lora
from video_model.loss import loss
from video_model.model import VideoModel
from video_model.presets import VideoConfig, VideoDataConfig
from video_model.rollout import rollout
from video_model.tokenizer import Tokenizer, load_tokenizer
from video_model.validation import follow, held_out_windows, make_rollouts, rollout_sheet

ENCODING_BATCH = 16
"""Windows that are turned into latents at once."""
SPLIT_SEED = 0
"""Runs with other seeds have the same validation clips: their numbers compare, and they can share encoded latents."""


def train(
    config: VideoConfig,
    *,
    preset: str,
    data: Path,
    actions: Path,
    tokenizer: Path,
    out: Path,
    lam: Path | None = None,
    init: Path | None = None,
    latents: Path | None = None,
) -> Path:
    """Train until `config.training.steps` or go on there; returns the last checkpoint's folder.

    data: a folder of video. actions: its latent actions, as `understudy label` writes them. tokenizer: a folder that
    `load_tokenizer` takes. lam: the latent action model that wrote the labels, to show the network what its decoder
    expects (`video_model.forecast`). init: a video model's checkpoint to start from, in place of random weights and of
    the sizes in `config.model`. latents: folder for the windows that `config.data.encode_once` encodes, by default in
    the run; runs on the same data may share it, whatever their seeds.
    """
    training = config.training
    torch.manual_seed(training.seed)
    labels, tokens = Labels.open(actions), load_tokenizer(tokenizer)
    forecaster = lam and Forecaster.open(lam, span=config.data.forecast_span)
    if forecaster:
        forecaster.require(labels)
    model = _network(config, latent_channels=tokens.z_dim, action_dim=labels.dim, init=init, forecast=bool(lam))
    _check_size(config.data, tokens, model)
    if config.lora_rank:
        add_lora(model, rank=config.lora_rank)
    if training.checkpoint_activations:
        model.enable_gradient_checkpointing()
    training_clips, validation_clips = open_split(
        [data], validation_share=config.data.validation_share, seed=SPLIT_SEED
    )
    training_clips, validation_clips = labelled(training_clips, labels), labelled(validation_clips, labels)
    scale = labels.rms([clip.name for clip in training_clips])
    embodiment = Embodiment(tuple(scale.tolist()), fps=config.data.fps, camera_dim=labels.camera_dim)
    held_out = held_out_windows(
        validation_clips,
        labels,
        window_config(config.data, frames=config.data.frames),
        windows=config.data.validation_windows,
        seed=SPLIT_SEED,
    )

    def batches(position: DataPosition) -> Iterator[LatentBatch]:
        return latent_batches(position, training_clips, labels, tokens, forecaster, config, out=out, latents=latents)

    def scaled_loss(network: nn.Module, batch: LatentBatch) -> tuple[Tensor, dict[str, Tensor]]:
        scaled = replace(batch, actions=embodiment.scaled(batch.actions))
        return loss(network, scaled, config.loss, embodiment=LATENT, patch=model.patch)

    def evaluate(network: VideoModel, step: int) -> dict[str, float]:
        generator = Generator(network, tokens, {LATENT: embodiment}, config, forecaster)
        shown = held_out.to(generator.device)
        made = make_rollouts(lambda first, acts: rollout(generator, first, acts), shown)
        sheets = out / "samples"
        sheets.mkdir(exist_ok=True)
        rollout_sheet(made, shown, sheets / f"step-{step}.png")
        return follow(made, shown)

    given = {"data": str(data), "actions": str(actions), "tokenizer": str(tokenizer)}
    given |= {name: path and str(path) for name, path in (("lam", lam), ("init", init))}
    stage = Stage(
        name=f"train video {preset}",
        model=model,
        loss=scaled_loss,
        batches=batches,
        evaluate=evaluate,  # type: ignore[arg-type]
        config={"preset": preset, **given, **to_dict(config)},
        checkpoint_config=checkpoint_config(model, config, preset=preset),
        card=lambda step, numbers: _card(
            config, model, preset=preset, given=given, out=out, step=step, numbers=numbers
        ),
        companions=lambda folder: write_companions(
            folder, tokenizer=tokenizer, lam=lam, embodiments={LATENT: embodiment}
        ),
    )
    return fit(stage, training, out)


def window_config(data: VideoDataConfig, *, frames: int) -> WindowConfig:
    """Windows of so many frames, otherwise as in training."""
    return WindowConfig(
        height=data.height,
        width=data.width,
        frames=frames,
        fps=data.fps,
        windows_per_frame=data.windows_per_frame,
        buffer_windows=data.buffer_windows,
    )


def latent_batches(
    position: DataPosition,
    clips: Sequence[Clip],
    labels: Labels,
    tokenizer: Tokenizer,
    forecaster: Forecaster | None,
    config: VideoConfig,
    *,
    out: Path,
    latents: Path | None,
) -> Iterator[LatentBatch]:
    """Endless batches from `position` on: from latents that are encoded here first, or encoded as it goes."""
    device: torch.device = PartialState().device  # type: ignore[assignment]
    tokenizer.to(device)
    if forecaster:
        forecaster.to(device)
    windows, training = window_config(config.data, frames=config.data.frames_read), config.training
    ranks = {"rank": position.rank, "world_size": position.world_size}
    if config.data.encode_once:
        folder = latents or out / "latents"
        cache = LatentCache(
            folder,
            clips,
            windows,
            labels=labels,
            tokenizer=tokenizer,
            forecaster=forecaster,
            still_share=config.data.still_share,
        )
        cache.write(batch_size=ENCODING_BATCH, workers=training.workers, **ranks)
        PartialState().wait_for_everyone()
        return cache.batches(position, seed=training.seed)
    source = ClipWindows(
        clips, config=windows, batch_size=position.batch_size, seed=training.seed, labels=labels, **ranks
    )
    log = out / "quarantine.jsonl"
    return encoded_batches(
        source,
        tokenizer,
        position,
        workers=training.workers,
        log=log,
        forecaster=forecaster,
        still_share=config.data.still_share,
    )


def _network(
    config: VideoConfig, *, latent_channels: int, action_dim: int, init: Path | None, forecast: bool
) -> VideoModel:
    if init is None:
        return build_video_model(
            config.model, latent_channels=latent_channels, action_dim=action_dim, forecast=forecast
        )
    model, _ = load_video_model(init)
    if model.config["use_crossattn_projection"]:
        model.fix_text()
    if model.latent_channels != latent_channels:
        raise UserError(f"{init} makes latents of {model.latent_channels} channels, the tokenizer of {latent_channels}")
    known = model.config["embodiments"] or {}
    if LATENT not in known:
        model.add_embodiment(LATENT, action_dim)
    elif known[LATENT] != action_dim:
        raise UserError(f"{init} takes latent actions of {known[LATENT]} values; these labels have {action_dim}")
    if forecast and not model.config["forecast"]:
        model.add_forecast()
    elif model.config["forecast"] and not forecast:
        raise UserError(f"{init} was trained with a forecast", hint="Give --lam the model that wrote the labels.")
    return model


def labelled(clips: Sequence[Clip], labels: Labels) -> list[Clip]:
    """Those that could be labelled; says which could not. BadData if one has no labels for another reason."""
    for clip in clips:
        if clip.name in labels.bad:
            print(f"left out: {printable(clip.name)}: it has no labels: {labels.bad[clip.name]}", file=sys.stderr)
    found = [clip for clip in clips if clip.name not in labels.bad]
    labels.require(found)
    return found


def _check_size(data: VideoDataConfig, tokenizer: Tokenizer, model: VideoModel) -> None:
    token = tokenizer.space_factor * model.patch
    if data.height % token or data.width % token:
        raise UserError(
            f"data.height {data.height} and data.width {data.width} must be multiples of {token}: "
            f"the tokenizer's {tokenizer.space_factor} times the patch of {model.patch}"
        )


def _card(
    config: VideoConfig,
    model: VideoModel,
    *,
    preset: str,
    given: Mapping[str, str | None],
    out: Path,
    step: int,
    numbers: dict[str, float],
) -> str:
    """Text of the checkpoint's README.md: what it is, how it was made, what it measures."""
    options = " ".join(f"--{name} {value}" for name, value in given.items() if value)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    measured = "\n".join(f"| {name} | {value:.4g} |" for name, value in numbers.items())
    table = f"| on held-out clips | |\n|---|---|\n{measured}" if numbers else "Not validated yet."
    return f"""# Video model `{preset}`, step {step}

From a first frame and latent actions to video of {config.data.height} x {config.data.width} pixels at
{config.data.fps:g} frames per second; {millions:.1f} M parameters. Trained by

    understudy train video {preset} {options} --out {out}

({config.training.steps} steps of {config.training.batch_size} windows of {config.data.latents} latents, seed
{config.training.seed}; every setting is in `config.json`). The folder holds the tokenizer, too, and the latent action
model where one forecasts.

psnr, psnr_shuffled, psnr_zero: of rollouts of {config.data.frames - 1} frames from one frame, in dB, with
the clip's own latent actions, another clip's, none; psnr_copy: the first frame all along; drift: dB lost from the first
four frames to the last four; response: what actions change, over what changes in truth.

{table}

Use it with `understudy rollout` and `understudy evaluate video`.
"""
