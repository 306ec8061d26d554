"""From a first frame and actions to video, one latent at a time, as long as there are actions.

Each latent is made from noise in a few steps (`denoise`), seeing the past through a `KVCache` and, in a model that has
one, a forecast; then it is shown to the network once more, clean, and kept. A forecast also gives the decoded frames
the detail that the tokenizer lost (`video_model.detail`).

Axes: B samples, T frames, A values of one action, H x W pixels.
"""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import Self

from video_model.cache import KVCache
from video_model.detail import FirstFrame, with_detail
from video_model.flow import at_level, sampling_times
from video_model.forecast import Forecast
from video_model.generator import LATENT, Generator
from video_model.layers import Actions
from video_model.presets import TIME_FACTOR
from video_model.tokenizer import DecoderState, EncoderState

STILL_LATENTS = 2
"""Latents after the first that a still film is shown for, to see how it looks."""
DECODED_ALIKE = 3
"""Latents after which a decoder's or encoder's state has the form that it keeps."""

Timed = Callable[[str], AbstractContextManager[object]]
"""From the name of a part of the work to what is entered around it."""


def untimed(part: str) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass
class Stream:
    """B videos in the making. Many streams share one generator."""

    cache: KVCache
    decoder: DecoderState
    encoder: EncoderState | None
    """What has seen the frames that were made, to begin forecasts with; None in a model without."""
    forecast: Forecast | None
    shown: DecoderState | None
    """What has decoded the latents up to where the forecast began, and then the forecast's."""
    last: Tensor
    """(B, 3, H, W): the last frames."""
    first: FirstFrame | None
    """None where the camera may move."""
    random: list[torch.Generator]
    """One for each video, so that a video does not depend on which others are made with it."""
    shape: torch.Size
    """Of one latent, (C, 1, h, w)."""

    def noise(self, device: torch.device) -> Tensor:
        """(B, C, 1, h, w), drawn for each video by itself."""
        return torch.stack([torch.randn(self.shape, generator=random) for random in self.random]).to(device)

    @property
    def age(self) -> int:
        """Latents so far, or the number from which on all streams of this model are of one form."""
        return min(self.cache.written, max(self.cache.sink + self.cache.window, DECODED_ALIKE))

    def video(self, row: int) -> Self:
        """One of the B videos, as a stream of its own."""
        rows = slice(row, row + 1)
        cache = replace(self.cache, keys=self.cache.keys[:, rows], values=self.cache.values[:, rows])
        return replace(
            self,
            cache=cache.copy(),
            decoder=self.decoder.clips(rows),
            encoder=self.encoder and self.encoder.clips(rows),
            forecast=self.forecast and self.forecast.videos(rows),
            shown=self.shown and self.shown.clips(rows),
            last=self.last[rows],
            first=self.first and FirstFrame(self.first.frame[rows], self.first.shown[rows]),
            random=self.random[rows],
        )

    def copy(self) -> Self:
        """The same moment, to go on from as often as one likes: everything else in a stream is never written to."""
        random = [torch.Generator() for _ in self.random]
        for new, old in zip(random, self.random, strict=True):
            new.set_state(old.get_state())
        return replace(self, cache=self.cache.copy(), random=random)


def joined(streams: Sequence[Stream]) -> Stream:
    """Streams of one generator as one, in a batch: their videos one after the other. ValueError if their ages differ.

    From the age on at which the cache is full it does not matter when each began.
    """
    first, *others = streams
    if any(stream.age != first.age for stream in others):
        raise ValueError(f"streams of different ages, {sorted({stream.age for stream in streams})}, cannot be joined")
    caches = [stream.cache for stream in streams]
    if len({cache.written for cache in caches}) > 1:
        caches = [cache.turned() for cache in caches]
    cache = replace(
        caches[0],
        keys=torch.cat([cache.keys for cache in caches], dim=1),
        values=torch.cat([cache.values for cache in caches], dim=1),
    )
    return replace(
        first,
        cache=cache,
        decoder=first.decoder.with_clips(*(stream.decoder for stream in others)),
        encoder=first.encoder and first.encoder.with_clips(*(stream.encoder for stream in others if stream.encoder)),
        forecast=first.forecast
        and first.forecast.with_videos(*(stream.forecast for stream in others if stream.forecast)),
        shown=first.shown and first.shown.with_clips(*(stream.shown for stream in others if stream.shown)),
        last=torch.cat([stream.last for stream in streams]),
        first=_joined_first([stream.first for stream in streams if stream.first]),
        random=[random for stream in streams for random in stream.random],
    )


def _joined_first(parts: list[FirstFrame]) -> FirstFrame | None:
    if not parts:
        return None
    return FirstFrame(torch.cat([part.frame for part in parts]), torch.cat([part.shown for part in parts]))


@torch.inference_mode()
def start(
    generator: Generator, first_frames: Tensor, *, seeds: list[int], still_camera: bool = False
) -> tuple[Stream, Tensor]:
    """first_frames (B, 3, H, W) in [-1, 1] -> a stream, and the same frames as its film shows them.

    still_camera: it does not move, so that what looks as in the first frames is shown as in these, for ever.
    ValueError if the pictures have another size than those of training.
    """
    size, model = (generator.config.data.height, generator.config.data.width), generator.model
    if first_frames.shape[1:] != (3, *size):
        raise ValueError(f"first frames must be (B, 3, {size[0]}, {size[1]}), not {tuple(first_frames.shape)}")
    first_frames = first_frames.to(generator.device)
    latents, encoder = generator.tokenizer.encode_next(first_frames[:, None], None)  # (B, C, 1, h, w)
    batch, _, _, height, width = latents.shape
    loss = generator.config.loss
    cache = model.empty_cache(batch=batch, height=height, width=width, window=loss.window, sink=loss.sink)
    given = latents.new_ones(batch, 1)
    forecast = torch.zeros_like(latents) if generator.forecaster else None
    model(latents.to(model.dtype), 0 * given, conditioned=given, cache=cache, append=True, forecast=forecast)
    shown, decoder = generator.decoder.decode_next(latents, None)
    random = [torch.Generator().manual_seed(seed) for seed in seeds]
    forecasting = generator.forecaster is not None
    stream = Stream(
        cache,
        decoder,
        encoder if forecasting else None,
        forecast=None,
        shown=None,
        last=first_frames,
        first=_first_frame(generator, first_frames) if still_camera else None,
        random=random,
        shape=latents.shape[1:],
    )
    return stream, first_frames if forecasting else shown[:, 0]


@torch.inference_mode()
def advance(
    generator: Generator,
    stream: Stream,
    actions: Tensor,
    *,
    embodiment: str,
    steps: int,
    told: Tensor | None = None,
    timed: Timed = untimed,
) -> Tensor:
    """The next four frames (B, 4, 3, H, W) under the actions (B, 4, A), which are not scaled yet.

    told (B, 4, D): the latent actions that the forecaster is told, by default the actions, if they are that. timed:
    entered around each of the parts "forecast", "denoise", "cache" and "decode".
    """
    with timed("forecast"):
        request = next_request(generator, stream, actions, embodiment=embodiment, told=told)
    with timed("denoise"):
        latent = denoise(generator, request, stream, steps=steps)
    return keep(generator, stream, request, latent, timed=timed)


@dataclass(frozen=True)
class Request:
    """What the network is given to make one latent."""

    actions: Actions
    expected: Tensor | None
    """(B, C, 1, h, w): the forecast, in a model that has one."""


def next_request(
    generator: Generator, stream: Stream, actions: Tensor, *, embodiment: str, told: Tensor | None = None
) -> Request:
    """What `advance` begins with; the stream's forecast is carried on."""
    actions = actions.to(generator.device)
    scaled = generator.embodiment(embodiment).scaled(actions).to(generator.model.dtype)
    chunk = Actions(scaled, embodiment=embodiment, mid_clip=True)
    if not (generator.forecaster and stream.encoder):
        return Request(chunk, None)
    if told is None and embodiment == LATENT:
        told = actions
    if told is None:  # of another body's actions the latent action model knows nothing: nothing is done, then
        told = actions.new_zeros(*actions.shape[:2], generator.forecaster.code_dim)
    expected, stream.forecast = generator.forecaster.expect(
        stream.forecast,
        told.to(generator.device),
        last=stream.last,
        seen=stream.encoder,
        tokenizer=generator.tokenizer,
    )
    return Request(chunk, expected)


def denoise(generator: Generator, request: Request, stream: Stream, *, steps: int) -> Tensor:
    """A latent (B, C, 1, h, w) from noise, as the model's config samples: see `VideoConfig.sampler`."""
    model, config = generator.model, generator.config
    x = stream.noise(generator.device)
    level = x.new_ones(len(x), 1)
    times = sampling_times(steps, shift=config.loss.shift, device=generator.device)
    for now, then in itertools.pairwise(times):
        v = model(
            x.to(model.dtype), now * level, actions=request.actions, cache=stream.cache, forecast=request.expected
        ).float()
        if config.sampler == "euler" or then == 0:
            x = x + (then - now) * v
        else:
            x = at_level(x - now * v, stream.noise(generator.device), then * level)
    return x


def remember(generator: Generator, stream: Stream, request: Request, latent: Tensor) -> None:
    """Show the network a latent (B, C, 1, h, w), clean: from then on it is a part of the stream's past."""
    level = latent.new_ones(len(latent), 1)
    generator.model(
        latent.to(generator.model.dtype),
        0 * level,
        actions=request.actions,
        conditioned=level,
        cache=stream.cache,
        append=True,
        forecast=request.expected,
    )


def _first_frame(generator: Generator, frames: Tensor) -> FirstFrame:
    """frames (B, 3, H, W), and what becomes of them where nothing happens."""
    still = frames[:, None].expand(-1, 1 + STILL_LATENTS * TIME_FACTOR, -1, -1, -1)
    return FirstFrame(frames, generator.decoder.decode(generator.tokenizer.encode(still))[:, -1])


def keep(generator: Generator, stream: Stream, request: Request, latent: Tensor, *, timed: Timed = untimed) -> Tensor:
    """Take a latent (B, C, 1, h, w) into the stream, as a part of its past; returns its frames (B, 4, 3, H, W)."""
    with timed("cache"):
        remember(generator, stream, request, latent)
    with timed("decode"):
        decoder, before = generator.decoder, stream.decoder
        if stream.encoder and stream.forecast and request.expected is not None:
            anew = torch.tensor([made == 1 for made in stream.forecast.latents], device=latent.device)
            begun = before.where(anew, stream.shown) if stream.shown else before
            both = before.with_clips(begun)
            # In one batch: a small network takes no longer for two clips than for one.
            films, both = decoder.decode_next(torch.cat((latent, request.expected)), both)
            made, shown = films.chunk(2)
            stream.decoder, stream.shown = both.clips(slice(len(latent))), both.clips(slice(len(latent), None))
            frames = with_detail(made, shown=shown, forecast=stream.forecast.frames)
            frames = stream.first.seen_in(frames, made=made) if stream.first else frames
            _, stream.encoder = generator.tokenizer.encode_next(frames, stream.encoder)
        else:
            made, stream.decoder = decoder.decode_next(latent, before)
            frames = stream.first.seen_in(made, made=made) if stream.first else made
        stream.last = frames[:, -1]
    return frames


def rollout(
    generator: Generator,
    first_frames: Tensor,
    actions: Tensor,
    *,
    embodiment: str = LATENT,
    told: Tensor | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Video (B, 1 + T, 3, H, W), where the generator is, from first_frames (B, 3, H, W) and actions (B, T, A), T >= 1.

    Pictures are in [-1, 1]. actions[:, t] leads from frame t to frame t + 1. Frame 0 is the first frame; where nothing
    forecasts, as the tokenizer shows it. The network takes four actions at a time: where T is no multiple of 4, zeros
    fill the last four, and what follows frame T is not shown. told (B, T, D): the latent actions that the forecaster is
    told, by default the actions, if they are that. steps: Euler steps for each latent, by default those of the model's
    config. Video i of the batch depends on seed + i and on nothing else in the batch.
    """
    if actions.ndim != 3 or len(actions) != len(first_frames) or not actions.shape[1]:
        raise ValueError(f"actions must be ({len(first_frames)}, T, A), not {tuple(actions.shape)}")
    length = actions.shape[1]
    chunks = _chunks(actions)
    told_chunks = [None] * len(chunks) if told is None else _chunks(told)
    stream, shown = start(generator, first_frames, seeds=[seed + i for i in range(len(first_frames))])
    parts = [shown[:, None]]
    steps = steps or generator.config.sampling_steps
    for chunk, said in zip(chunks, told_chunks, strict=True):
        parts.append(advance(generator, stream, chunk, embodiment=embodiment, steps=steps, told=said))
    return torch.cat(parts, dim=1)[:, : 1 + length]


def _chunks(actions: Tensor) -> list[Tensor]:
    """(B, T, A) in parts of four, the last filled with zeros."""
    missing = -actions.shape[1] % TIME_FACTOR
    padded = torch.cat((actions, actions.new_zeros(len(actions), missing, actions.shape[2])), dim=1)
    return list(padded.split(TIME_FACTOR, dim=1))
