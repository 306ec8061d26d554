"""Our latent action VAE: the code of a frame pair is [z_act | z_cam], what was done and how the camera moved.

The camera's motion is computed (`common.camera`) and taken out, and so is its exposure (`common.exposure`), the light
of the whole picture; what moves by itself is computed too (`common.flow`).
Half of the latent action are its low frequencies, half is what a network adds; another network turns it and the first
frame into motion and change.
Light is not seen by the encoder (`common.texture`), so the latent action cannot hold it.

Axes: B pairs, N tokens, C channels, D latent dimensions, K camera parameters (motion, then exposure).
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from common.camera import CAMERA_DIM, estimate, move
from common.exposure import EXPOSURE_DIM, estimate_exposure, expose
from common.flow import local_flow, warp
from common.texture import grey, texture
from lam.blocks import ConditionedBlock, SpatialBlock, patchify, unpatchify
from lam.interface import LamOutput, Posterior, check_shape, resized
from lam.presets import FLOW_CELLS, LamModelConfig

_POOL = 8
"""Half of the latent action are low frequencies of the mean motion of 8 x 8 parts of the picture."""
_GAIN = 0.25
"""Brings them near a standard deviation of 1: a unit is half a pixel (of 64) for a motion of the whole picture. Where
the camera's motion is missed, everything seems to move, and asinh bounds what that gives."""


SQUARES_MOMENTUM = 0.01
"""Share of each training batch in `flow_squares`."""
MOST_GAIN = 2.0
"""A forecast's motions are at most so many times the decoder's, which early in training says next to nothing."""


@dataclass
class Stabilised:
    """A pair with the camera's motion and exposure taken out, and nothing learned yet."""

    camera: Tensor
    """(B, K)."""
    first: Tensor
    """(B, 3, H, W): the first frame as the camera of the second would have shown it."""
    seen: Tensor
    """(B, 1, H, W), 1 where the first frame showed that place, else 0."""
    flow: Tensor
    """(B, 2, rows, columns): from there to the second frame, see `common.flow.local_flow`; 0 where not seen."""


@dataclass
class MotionOutput(LamOutput):
    """What the loss compares, beside the prediction."""

    stabilised: Stabilised
    flow: Tensor
    """(B, 2, rows, columns): the motion that the decoder predicts, to compare with `stabilised.flow`."""
    feature_change: Tensor | None
    """(B, N, channels of the backbone), only with `feature_channels`."""
    labels: Tensor | None
    """(B, label_dim): what the linear action head reads from the mean, only with `label_dim`."""


class Carried(NamedTuple):
    """A frame, and what has become of it: where its places are now, what was added, in which light."""

    frame: Tensor
    """(B, 3, H, W) in [-1, 1], of any size."""
    places: Tensor
    """(B, 2, h, w), at the model's size: where in the frame each place was, from -1 to 1."""
    added: Tensor
    """(B, 3, h, w)."""
    tones: Tensor
    """(B, 2, 1, 1): what a brightness of 0 and of 1 have become."""


class LatentActionModel(nn.Module):
    """Encoder (pair -> posterior) and decoder (first frame, code -> second frame); frames are float in [-1, 1].

    By construction: equal frames give a code of zeros, a code of zeros gives an unchanged frame before training, and
    exchanging what the encoder sees of the two frames changes the sign of the latent action.
    """

    frequencies: Tensor
    """(D / 2, 2 * 8 * 8)."""
    flow_squares: Tensor
    """(2,): mean squares of the motion that the decoder predicts and of what is seen, as training goes."""

    def __init__(self, config: LamModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("frequencies", _GAIN * low_frequencies(config.latent_dim // 2), persistent=False)
        self.register_buffer("flow_squares", torch.ones(2))
        self.encoder = _Encoder(config, learned=config.latent_dim - len(self.frequencies))
        self.decoder = _Decoder(config)
        self.label_head = nn.Linear(config.latent_dim, config.label_dim) if config.label_dim else None

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each block in the backward pass: less memory, about a third more time."""
        self.encoder.gradient_checkpointing = True
        self.decoder.gradient_checkpointing = True

    def encode(self, frames: Tensor) -> Posterior:
        """frames (B, 2, 3, H, W) in [-1, 1], earlier frame first. ValueError if they are not of the config's size."""
        return self._posterior(self.stabilise(frames), frames[:, 1])

    def decode(self, first_frame: Tensor, code: Tensor) -> Tensor:
        """first_frame (B, 3, H, W) in [-1, 1], code (B, D + K) -> second frame (B, 3, H, W).

        What the model adds to a moved frame can leave [-1, 1] a little; it is not clamped, as a clamp has no gradient.
        """
        check_shape(first_frame, (3, self.config.height, self.config.width))
        action, camera = code.split((self.config.latent_dim, self.config.camera_dim), dim=-1)
        moved, _ = move(first_frame, camera[:, :CAMERA_DIM])
        moved = expose(moved, camera[:, CAMERA_DIM:])
        return _second(moved, *self.decoder(moved, action)[:2])

    def carry(self, frame: Tensor) -> Carried:
        """frame (B, 3, H, W) in [-1, 1] of any size, to be forecast from."""
        batch, frame = len(frame), frame.float()
        still = torch.eye(2, 3, device=frame.device).expand(batch, -1, -1)
        size = (batch, 3, self.config.height, self.config.width)
        places = F.affine_grid(still, list(size), align_corners=False).movedim(-1, 1)
        tones = frame.new_tensor([0.0, 1.0]).expand(batch, 2)[..., None, None]
        return Carried(frame, places, frame.new_zeros(size), tones)

    @torch.no_grad()
    def forecast(self, carried: Carried, codes: Tensor) -> tuple[Tensor, Carried]:
        """What has become of a frame, codes (B, T, D + K) -> the T next frames (B, T, 3, H, W), clamped, and the same.

        As `decode` time and again, with three differences, as small errors add up. Motions are composed, and the frame
        that is carried is resampled once, so that it stays sharp. What the decoder says to no action is taken from what
        it says to an action, so that codes of zeros leave the frame as it is. And its motions are made as large as what
        was seen in training: the mean of what may happen, which a decoder learns, is smaller, and what moves too little
        in one frame is not where the next latent action moves it.
        """
        config, frame = self.config, carried.frame
        predicted, measured = self.flow_squares.unbind()
        gain = (measured / predicted.clamp(min=1e-12)).sqrt().clamp(1, MOST_GAIN)
        size = (frame.shape[-2], frame.shape[-1])
        small = resized(frame, (config.height, config.width))
        places, added, tones, frames = carried.places, carried.added, carried.tones, []
        for code in codes.float().unbind(1):
            action, motion, exposure = code.split((config.latent_dim, CAMERA_DIM, EXPOSURE_DIM), dim=-1)
            before, _ = move(torch.cat((places, added), dim=1), motion)
            tones = expose(tones, exposure)
            moved = _at(small, before[:, :2], tones) + before[:, 2:]
            both = torch.cat((action, torch.zeros_like(action)))
            flow, change, _ = self.decoder(moved.repeat(2, 1, 1, 1), both)
            flow, change = (told - untold for told, untold in (flow.chunk(2), change.chunk(2)))
            places, added = warp(before, gain * flow).split((2, 3), dim=1)
            added = added + 2 * change
            frames.append((_at(frame, resized(places, size), tones) + resized(added, size)).clamp(-1, 1))
        return torch.stack(frames, dim=1), Carried(frame, places, added, tones)

    def forward(self, frames: Tensor, *, sample: bool) -> MotionOutput:
        """frames (B, 2, 3, H, W) in [-1, 1]; the decoder gets a sample of the posterior, or its mean."""
        stabilised = self.stabilise(frames)
        posterior = self._posterior(stabilised, frames[:, 1])
        code = posterior.sample() if sample else posterior.code
        flow, change, feature_change = self.decoder(stabilised.first, code[:, : self.config.latent_dim])
        if self.training:
            self._follow(flow.detach(), stabilised.flow)
        return MotionOutput(
            posterior=posterior,
            code=code,
            prediction=_second(stabilised.first, flow, change),
            stabilised=stabilised,
            flow=flow,
            feature_change=feature_change,
            labels=self.label_head(posterior.mean) if self.label_head else None,
        )

    def stabilise(self, frames: Tensor) -> Stabilised:
        """What is computed of pairs (B, 2, 3, H, W), before anything that is learned."""
        check_shape(frames, (2, 3, self.config.height, self.config.width))
        first, second = frames.unbind(1)
        motion = estimate(first, second)
        moved, seen = move(first, motion)
        seen = seen.to(moved.dtype)
        exposure = estimate_exposure(moved, second, seen)
        moved = expose(moved, exposure)
        flow = local_flow(moved, second, self.config.flow_grid)
        camera = torch.cat((motion, exposure), dim=1)
        return Stabilised(camera, moved, seen, flow * F.interpolate(seen, size=flow.shape[-2:]))

    @torch.no_grad()
    def _follow(self, predicted: Tensor, measured: Tensor) -> None:
        squares = torch.stack((predicted.float().square().mean(), measured.float().square().mean()))
        usable = squares.isfinite().all()
        self.flow_squares.copy_(
            torch.where(usable, self.flow_squares.lerp(squares, SQUARES_MOMENTUM), self.flow_squares)
        )

    def _posterior(self, pair: Stabilised, second: Tensor) -> Posterior:
        before, after = texture(grey(pair.first)) * pair.seen, texture(grey(second)) * pair.seen
        flow = F.interpolate(pair.flow, size=second.shape[-2:], mode="bilinear", align_corners=False)
        forth = self.encoder(torch.cat((before, after, after - before, flow), dim=1)).float()
        back = self.encoder(torch.cat((after, before, before - after, -flow), dim=1)).float()
        motion = F.adaptive_avg_pool2d(pair.flow, _POOL).flatten(1) @ self.frequencies.T
        mean = torch.cat((motion.float().asinh(), (forth - back)[:, : self.encoder.learned] / 2), dim=-1)
        log_variance = (forth + back)[:, self.encoder.learned :] / 2
        return Posterior(mean=mean, log_variance=log_variance.clamp(-8, 4), camera=pair.camera)


class _Encoder(nn.Module):
    """Five planes (B, 5, H, W) - both textures, their difference, flow - to (B, learned + D): means, log variances."""

    def __init__(self, config: LamModelConfig, *, learned: int) -> None:
        super().__init__()
        self.learned = learned
        channels = config.channels
        widths = (5, channels // 4, channels // 2, channels, channels)
        layers = [(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GELU()) for a, b in itertools.pairwise(widths)]
        self.stem = nn.Sequential(*itertools.chain(*layers))  # a 16th of the frame
        tokens = -(-config.height // 16) * -(-config.width // 16)
        self.query = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, tokens + 1, channels) * 0.02)
        self.blocks = nn.ModuleList(SpatialBlock(channels, heads=config.heads) for _ in range(config.encoder_blocks))
        self.norm = nn.LayerNorm(channels)
        self.out = nn.Linear(channels, learned + config.latent_dim)
        self.gradient_checkpointing = False

    def forward(self, planes: Tensor) -> Tensor:
        tokens = self.stem(planes).flatten(2).transpose(1, 2)  # (B, N, C)
        x = torch.cat((self.query.expand(len(tokens), -1, -1), tokens), dim=1) + self.positions
        for block in self.blocks:
            x = _run(block, x, recompute=self.gradient_checkpointing)
        return self.out(self.norm(x[:, 0]))


class _Decoder(nn.Module):
    """Stabilised first frame (B, 3, H, W) and latent action (B, D) to (flow, change, feature change or None)."""

    def __init__(self, config: LamModelConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.patches = nn.Linear(config.patch_values, channels)
        self.positions = nn.Parameter(torch.randn(1, config.tokens, channels) * 0.02)
        self.action = nn.Sequential(
            nn.Linear(config.latent_dim, channels), nn.SiLU(), nn.Linear(channels, channels), nn.SiLU()
        )
        blocks = (ConditionedBlock(channels, heads=config.heads) for _ in range(config.decoder_blocks))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(channels)
        self.change = nn.Linear(channels, config.patch_values)
        self.flow = nn.Linear(channels, 2 * FLOW_CELLS**2)
        for layer in (self.change, self.flow):  # training starts from "nothing moves"
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.features = nn.Linear(channels, config.feature_channels) if config.feature_channels else None
        self.gradient_checkpointing = False

    def forward(self, first: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        config = self.config
        x = self.patches(patchify(first[:, None], config.patch)[:, 0]) + self.positions  # (B, N, C)
        condition = self.action(action)  # (B, C)
        for block in self.blocks:
            x = _run(block, x, condition, recompute=self.gradient_checkpointing)
        x = self.norm(x)
        change = unpatchify(self.change(x).float(), patch=config.patch, height=config.height, width=config.width)
        rows, columns = config.flow_grid
        flow = 4 * unpatchify(self.flow(x).float(), patch=FLOW_CELLS, height=rows, width=columns)
        return flow, change, self.features(x).float() if self.features else None


def _second(first: Tensor, flow: Tensor, change: Tensor) -> Tensor:
    """The stabilised first frame (B, 3, H, W), moved, and the change, in units of [0, 1], added."""
    return warp(first.float(), flow) + 2 * change


def _at(frame: Tensor, places: Tensor, tones: Tensor) -> Tensor:
    """What `frame` (B, 3, H, W) shows at places (B, 2, h, w), both from -1 to 1, in another light.

    tones (B, 2, 1, 1): what a brightness of 0 and of 1 have become.
    """
    shown = F.grid_sample(frame, places.movedim(1, -1), padding_mode="border", align_corners=False)
    return shown * (tones[:, 1:] - tones[:, :1]) + tones[:, :1]


def low_frequencies(count: int) -> Tensor:
    """(count, 2 * 8 * 8), orthonormal rows: the cosine transform of the motion's x and y in turn, slow waves first.

    At most 128 rows, as there are no more.
    """
    places = (torch.arange(_POOL) + 0.5) * torch.pi / _POOL
    waves = torch.cos(torch.arange(_POOL)[:, None] * places)
    waves = waves / waves.norm(dim=1, keepdim=True)
    order = sorted(itertools.product(range(_POOL), repeat=2), key=lambda rates: (rates[0] ** 2 + rates[1] ** 2, rates))
    planes = torch.stack([torch.outer(waves[down], waves[across]).flatten() for down, across in order])
    return torch.stack((F.pad(planes, (0, _POOL**2)), F.pad(planes, (_POOL**2, 0))), dim=1).flatten(0, 1)[:count]


def _run(block: nn.Module, *inputs: Tensor, recompute: bool) -> Tensor:
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)  # type: ignore[return-value]
    return block(*inputs)
