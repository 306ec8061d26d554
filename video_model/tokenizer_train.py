"""Train a tokenizer on folders of video: build the stage, then `fit`; and what training follows on held-out clips."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.config import TrainingConfig, to_dict
from common.errors import UserError
from common.metrics import psnr
from common.sheets import write_sheet
from common.training import DataPosition, Stage, fit
from video_model.clip_batches import ClipBatch, evaluation_batches, open_split, stream
from video_model.clips import ClipWindows, WindowConfig
from video_model.presets import TokenizerAugmentConfig, TokenizerConfig, TokenizerDataConfig
from video_model.tokenizer import Tokenizer, build_tokenizer, checkpoint_config
from video_model.tokenizer_loss import loss

EVALUATION_BATCH = 8
"""Windows per batch where nothing is trained."""


def train(config: TokenizerConfig, *, preset: str, data: Sequence[Path], out: Path) -> Path:
    """Train until `config.training.steps` or go on there; returns the last checkpoint's folder. data: video folders."""
    training = config.training
    if training.checkpoint_activations:
        raise UserError("a tokenizer cannot recompute activations", hint="Train on a smaller --augment.crop instead.")
    torch.manual_seed(training.seed)
    model = build_tokenizer(config.model)
    clips = open_clips(config.data, training, data=data, out=out)

    @torch.no_grad()
    def evaluate(network: Tokenizer, step: int) -> dict[str, float]:
        device = next(network.parameters()).device
        batches = [batch.to(device) for batch in clips.held_out]
        sheets = out / "samples"
        sheets.mkdir(exist_ok=True)
        frames = batches[0].frames
        reconstruction_sheet(frames, network.decode(network.encode(frames)), sheets / f"step-{step}.png")
        return evaluate_tokenizer(network, batches)

    stage = Stage(
        name=f"train tokenizer {preset}",
        model=model,
        loss=lambda network, batch: loss(
            network, augment(batch, config.augment), config.loss, lead_in=config.data.lead_in
        ),
        batches=clips.batches,
        evaluate=evaluate,  # type: ignore[arg-type]
        config={"preset": preset, "folders": [str(path) for path in data], **to_dict(config)},
        checkpoint_config=checkpoint_config(config, preset=preset),
        card=lambda step, numbers: _card(config, preset=preset, data=data, out=out, step=step, numbers=numbers),
    )
    return fit(stage, training, out)


@dataclass(frozen=True)
class TrainingClips:
    """What a tokenizer, or a decoder of its latents, is trained on."""

    batches: Callable[[DataPosition], Iterator[ClipBatch]]
    held_out: list[ClipBatch]
    """Of files that training never sees."""


def open_clips(
    config: TokenizerDataConfig, training: TrainingConfig, *, data: Sequence[Path], out: Path
) -> TrainingClips:
    """data: video folders; out: the run's folder, for a log of files that cannot be read."""
    windows = window_config(config)
    clips, held_out_clips = open_split(data, validation_share=config.validation_share, seed=training.seed)
    held_out = evaluation_batches(
        held_out_clips, windows, windows=config.validation_windows, batch_size=EVALUATION_BATCH, seed=training.seed
    )

    def batches(position: DataPosition) -> Iterator[ClipBatch]:
        source = ClipWindows(
            clips,
            config=windows,
            batch_size=position.batch_size,
            seed=training.seed,
            rank=position.rank,
            world_size=position.world_size,
        )
        return stream(source, position, workers=training.workers, log=out / "quarantine.jsonl")

    return TrainingClips(batches, held_out)


def window_config(data: TokenizerDataConfig) -> WindowConfig:
    return WindowConfig(
        height=data.height,
        width=data.width,
        frames=data.frames + data.lead_in,
        fps=data.fps,
        windows_per_frame=data.windows_per_frame,
        buffer_windows=data.buffer_windows,
    )


def augment(batch: ClipBatch, config: TokenizerAugmentConfig) -> ClipBatch:
    """Mirror windows, change their colours, cut a square out of the batch: at random, drawn from torch's generators."""
    frames = batch.frames
    if config.colour:
        frames = _recoloured(frames)
    if config.mirror:
        mirrored = torch.rand(len(frames), device=frames.device) < 0.5
        frames = torch.where(mirrored[:, None, None, None, None], frames.flip(-1), frames)
    if config.crop:
        height, width = frames.shape[-2:]
        top = int(torch.randint(height - config.crop + 1, ()))
        left = int(torch.randint(width - config.crop + 1, ()))
        frames = frames[..., top : top + config.crop, left : left + config.crop]
    return ClipBatch(frames, batch.names)


def _recoloured(frames: Tensor) -> Tensor:
    """Each window (T, 3, H, W) with its channels in another order, each with a contrast and brightness of its own."""
    order = torch.rand(len(frames), 3, device=frames.device).argsort(dim=1)
    frames = frames.gather(2, order[:, None, :, None, None].expand_as(frames))
    contrast, brightness = torch.rand(2, len(frames), 1, 3, 1, 1, device=frames.device) * 2 - 1
    return (frames * (0.4 * contrast).exp() + 0.2 * brightness).clamp(-1, 1)


@torch.no_grad()
def evaluate_tokenizer(model: Tokenizer, batches: Sequence[ClipBatch]) -> dict[str, float]:
    """Means over the batches' windows of 5 frames or more, in evaluation mode. PSNR in dB, on pixels as shown.

    psnr: of the frames decoded from the posterior means, one frame at a time. psnr_first_frame: of the first frame
    alone, which has a latent of its own. psnr_copy: of the first frame in place of all later ones: what a tokenizer
    that ignores time would show. edges: mean difference of neighbouring pixels over that of the original;
    below 1 is blurred. noise_share: standard deviation of the posterior over that of the latents, mean over channels.
    """
    own, first, copy, edges, noise = [], [], [], [], []
    for batch in batches:
        frames = batch.frames
        output = model(frames, sample=False)
        shown = output.reconstruction.clamp(-1, 1)
        own.append(frame_psnr(shown, frames).flatten())
        first.append(frame_psnr(shown, frames)[:, 0])
        copy.append(frame_psnr(frames[:, :1].expand_as(frames[:, 1:]), frames[:, 1:]).flatten())
        edges.append(edges_of(shown) / edges_of(frames))
        deviation = (0.5 * output.log_variance).exp().mean((0, 2, 3, 4))
        noise.append((deviation / output.mean.std((0, 2, 3, 4))).mean(0, keepdim=True))
    parts = {"psnr": own, "psnr_first_frame": first, "psnr_copy": copy, "edges": edges, "noise_share": noise}
    return {name: torch.cat(values).double().mean().item() for name, values in parts.items()}


def frame_psnr(guess: Tensor, frames: Tensor) -> Tensor:
    """PSNR in dB of each frame, (B, T); both (B, T, 3, H, W) in [-1, 1]."""
    return psnr((guess.flatten(0, 1) + 1) / 2, (frames.flatten(0, 1) + 1) / 2).unflatten(0, frames.shape[:2])


def edges_of(frames: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of each clip: (B,)."""
    return frames.diff(dim=-1).abs().flatten(1).mean(1) + frames.diff(dim=-2).abs().flatten(1).mean(1)


def reconstruction_sheet(frames: Tensor, shown: Tensor, path: Path, *, windows: int = 3, columns: int = 9) -> None:
    """Write a PNG: for each of the first `windows` windows its frames, their reconstructions, and the error times 4.

    Both (B, T, 3, H, W) in [-1, 1].
    """
    quality = frame_psnr(shown, frames).mean(1)
    rows: list[tuple[str, Tensor]] = []
    for number in range(min(len(frames), windows)):
        original, guess = frames[number, :columns], shown[number, :columns]
        rows += [("frames", original), (f"decoded\n{quality[number]:.1f} dB", guess)]
        rows.append(("error x 4", (guess - original).abs() * 4 - 1))
    write_sheet(rows, path, label_width=70)


def _card(
    config: TokenizerConfig, *, preset: str, data: Sequence[Path], out: Path, step: int, numbers: dict[str, float]
) -> str:
    """Text of the checkpoint's README.md: what it is, how it was made, what it measures."""
    folders = " ".join(str(path) for path in data)
    factor, training = config.model.space_factor, config.training
    windows = f"{config.data.frames} frames, half of them after {config.data.lead_in} more"
    measured = "\n".join(f"| {name} | {value:.4g} |" for name, value in numbers.items())
    table = f"| on held-out clips | |\n|---|---|\n{measured}" if numbers else "Not validated yet."
    return f"""# Tokenizer `{preset}`, step {step}

Maps video to latents of {config.model.z_dim} channels and back: 1 frame, then 4 frames per latent, {factor} x {factor}
pixels per place. Causal, so it also works on a stream. Trained on {config.data.height} x {config.data.width} pixels at
{config.data.fps:g} frames per second by

    understudy train tokenizer {preset} --data {folders} --out {out}

({training.steps} steps of {training.batch_size} windows of {windows}, seed {training.seed}; every setting
is in `config.json`). The mean and the spread of the latents that training saw are among the weights;
`video_model.tokenizer.load_tokenizer` normalises by them.

psnr: decoded frames, in dB; psnr_first_frame: the frame that has a latent of its own; psnr_copy: the first frame in
place of the later ones; edges: contrast of neighbouring pixels over that of the original; noise_share: standard
deviation of the posterior over that of the latents.

{table}
"""
