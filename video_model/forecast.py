"""What the next frames will about look like, from an earlier one and the actions: the latent action model's decoder.

It was trained to turn one frame and one latent action into the next frame; here it does so time and again (`forecast`
of both designs in `lam`). The video model is shown the result before it makes a latent, and makes it right: what the
decoder smears, what comes into view, what it cannot know.

A forecast is carried on over some latents, from the frame that it began with, whatever the video model made of them: so
it stays as sharp as that frame, and is in a rollout what it was in training. Then it begins anew.

Axes: B samples, T frames, A values of an action.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from common.checkpoints import find_checkpoint, weights_checksum
from common.errors import UserError
from lam.checkpoint import Lam, load_lam
from video_model.labels import Labels
from video_model.presets import TIME_FACTOR
from video_model.tokenizer import EncoderState, Tokenizer, where_rows


@dataclass
class Forecast:
    """A forecast under way."""

    carried: tuple[Tensor, ...]
    """What has become of the frame that it began with, as the latent action model keeps it: a named tuple."""
    encoder: EncoderState
    """The tokenizer's, which has seen the true frames up to that one, then those that are forecast."""
    frames: Tensor
    """(B, 4, 3, H, W) in [-1, 1]: the last that were made; at the beginning that one frame, four times."""
    latents: tuple[int, ...]
    """Made since it began, of each of the B videos."""

    def where(self, rows: Tensor, other: Self) -> Self:
        """This forecast for the videos that rows, bool (B,), says, the other for the rest."""
        carried = [where_rows(rows, a, b) for a, b in zip(self.carried, other.carried, strict=True)]
        counts = zip(rows.tolist(), self.latents, other.latents, strict=True)
        return replace(
            self,
            carried=type(self.carried)(*carried),
            encoder=self.encoder.where(rows, other.encoder),
            frames=where_rows(rows, self.frames, other.frames),
            latents=tuple(own if chosen else others for chosen, own, others in counts),
        )

    def with_videos(self, *others: Self) -> Self:
        """The forecasts of all these videos, this one's first."""
        all_of = (self, *others)
        carried = [torch.cat(parts) for parts in zip(*(one.carried for one in all_of), strict=True)]
        return replace(
            self,
            carried=type(self.carried)(*carried),
            encoder=self.encoder.with_clips(*(other.encoder for other in others)),
            frames=torch.cat([one.frames for one in all_of]),
            latents=sum((one.latents for one in all_of), ()),
        )

    def videos(self, rows: slice) -> Self:
        """The forecast of some of the videos."""
        return replace(
            self,
            carried=type(self.carried)(*(part[rows] for part in self.carried)),
            encoder=self.encoder.clips(rows),
            frames=self.frames[rows],
            latents=self.latents[rows],
        )


class Forecaster:
    """A latent action model's decoder, in evaluation mode."""

    def __init__(self, model: Lam, *, identity: str, span: int) -> None:
        self.model = model.eval()
        self.identity = identity
        """Checksum of the weights: forecasts of another model are others."""
        self.span = span
        """Latents that a forecast is carried on for."""

    @classmethod
    def open(cls, path: Path, *, span: int) -> Self:
        """A checkpoint folder of a latent action model, or a run's newest one, on the CPU. BadData if it is none."""
        return cls(load_lam(path).model, identity=weights_checksum(find_checkpoint(path)), span=span)

    def require(self, labels: Labels) -> None:
        """UserError unless it was this model that wrote the labels: it alone knows what they mean."""
        if labels.identity["weights"] != self.identity:
            raise UserError(
                f"the labels in {labels.folder} were written by another latent action model than --lam",
                hint="Give the one that wrote them, or label again.",
            )

    def to(self, device: torch.device | str) -> Self:
        self.model.to(device)
        return self

    @property
    def code_dim(self) -> int:
        """Values of one latent action."""
        return self.model.config.latent_dim + self.model.config.camera_dim

    def __call__(self, first: Tensor, actions: Tensor) -> Tensor:
        """first (B, 3, H, W) in [-1, 1], actions (B, T, A), not scaled -> the T frames after it (B, T, 3, H, W)."""
        model: Any = self.model
        return model.forecast(model.carry(first), actions)[0]

    @torch.no_grad()
    def expect(
        self, forecast: Forecast | None, actions: Tensor, *, last: Tensor, seen: EncoderState, tokenizer: Tokenizer
    ) -> tuple[Tensor, Forecast]:
        """The latent (B, C, 1, h, w) that the next actions (B, 4, A), not scaled, lead to; and the forecast after it.

        last (B, 3, H, W) and seen: the frame before it, and the tokenizer's encoder after that frame. The forecast
        begins there if there is none (None), and for each video for which it has been carried on for `span` latents.
        """
        model: Any = self.model
        ended = [True] * len(last) if forecast is None else [made >= self.span for made in forecast.latents]
        if any(ended):
            begun = Forecast(
                model.carry(last), seen, last[:, None].expand(-1, TIME_FACTOR, -1, -1, -1), (0,) * len(last)
            )
            rows = torch.tensor(ended, device=last.device)
            forecast = begun if forecast is None or all(ended) else begun.where(rows, forecast)
        assert forecast
        frames, carried = model.forecast(forecast.carried, actions)
        latent, encoder = tokenizer.encode_next(frames, forecast.encoder)
        return latent, Forecast(carried, encoder, frames, tuple(made + 1 for made in forecast.latents))
