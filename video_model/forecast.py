"""What the next frames will about look like, from the last one and the actions: the latent action model's decoder.

It was trained to turn one frame and one latent action into the next frame; here it does so four times in a row
(`forecast` of both designs in `lam`). The video model is shown the result before it makes a latent, and makes it right:
what the decoder smears, what comes into view, what it cannot know.

Axes: B samples, A values of an action.
"""

from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import Self

from common.checkpoints import find_checkpoint, weights_checksum
from common.errors import UserError
from lam.checkpoint import Lam, load_lam
from video_model.labels import Labels


class Forecaster:
    """A latent action model's decoder, in evaluation mode."""

    def __init__(self, model: Lam, *, identity: str) -> None:
        self.model = model.eval()
        self.identity = identity
        """Checksum of the weights: forecasts of another model are others."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """A checkpoint folder of a latent action model, or a run's newest one, on the CPU. BadData if it is none."""
        return cls(load_lam(path).model, identity=weights_checksum(find_checkpoint(path)))

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

    def __call__(self, last: Tensor, actions: Tensor) -> Tensor:
        """last (B, 3, H, W) in [-1, 1], actions (B, T, A), not scaled -> the T frames after it (B, T, 3, H, W)."""
        return self.model.forecast(last, actions)
