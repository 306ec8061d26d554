"""Features of a frozen image or video backbone: the target of a model that predicts features instead of pixels.

DINOv2 (arXiv 2304.07193), DINOv3 (arXiv 2508.10104) and V-JEPA 2 (arXiv 2506.09985), in the format in which they are
published for transformers, which is the optional extra `features`.

Axes: B pairs, N = rows x columns patches of one frame, row by row, C channels.
"""

import importlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import BadData, MissingDependency, UserError
from lam.loss import FeatureTarget, PairBatch
from lam.presets import LamModelConfig

IMAGE_BACKBONES = ("dinov2", "dinov2_with_registers", "dinov3_vit")
VIDEO_BACKBONES = ("vjepa2",)
"""The `model_type` of the config.json of each backbone that is known."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""What all of them were published with, but for the satellite models of DINOv3, whose folder says otherwise."""

FLOOR = 1e-3
"""The smallest scale of a channel, as a share of the median one: rounding noise of a dead channel stays noise."""


class Backbone(nn.Module):
    """A frozen network that maps each frame of a pair to the features of its patches.

    It stays in evaluation mode whatever `train` is called with, since DINOv3 jitters its positions in training mode.
    An image backbone sees frames in their own size, resized to the nearest multiple of its patch, with its positions
    interpolated. V-JEPA 2 derives positions from the square grid of its config, so it sees frames resized to that
    square; and each frame is shown as a still clip of one tubelet, so that both frames of a pair are treated alike.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """`network`: a Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel or VJEPA2Model of transformers."""
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        config: Any = network.config
        self.video = config.model_type in VIDEO_BACKBONES
        self.patch: tuple[int, int] = _height_and_width(config.patch_size)
        self.channels: int = config.hidden_size
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def train(self, mode: bool = True) -> "Backbone":
        return super().train(False)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the patches of a frame of this size; N is their product."""
        if self.video:
            config: Any = self.network.config
            return config.crop_size // self.patch[0], config.crop_size // self.patch[1]
        return max(1, round(height / self.patch[0])), max(1, round(width / self.patch[1]))

    def forward(self, frames: Tensor) -> Tensor:
        """frames (B, 2, 3, H, W), float in [-1, 1] -> features of both frames, (B, 2, N, C) float32.

        The class token and the registers are left out. ValueError if the frames have another shape. Gradients reach
        the frames, never the weights.
        """
        if frames.ndim != 5 or frames.shape[1:3] != (2, 3):
            raise ValueError(f"expected frames of shape (B, 2, 3, H, W), got {tuple(frames.shape)}")
        rows, columns = self.grid(*frames.shape[-2:])
        pictures = self._normalised(frames.flatten(0, 1), height=rows * self.patch[0], width=columns * self.patch[1])
        if self.video:
            config: Any = self.network.config
            clips = pictures[:, None].expand(-1, config.tubelet_size, -1, -1, -1)  # (2B, tubelet, 3, height, width)
            tokens = self.network(pixel_values_videos=clips, skip_predictor=True).last_hidden_state  # (2B, N, C)
        else:
            tokens = self.network(pixel_values=pictures).last_hidden_state  # (2B, class token + registers + N, C)
        return tokens[:, -rows * columns :].float().unflatten(0, (-1, 2))

    def _normalised(self, pictures: Tensor, *, height: int, width: int) -> Tensor:
        """(2B, 3, H, W) in [-1, 1] -> (2B, 3, height, width) as the network was trained to see them."""
        pictures = (pictures + 1) / 2
        if pictures.shape[-2:] != (height, width):
            pictures = F.interpolate(pictures, (height, width), mode="bilinear", antialias=True)
        return (pictures - self.mean) / self.std


def open_backbone(name_or_folder: str) -> Backbone:
    """Open a folder with config.json and safetensors, or the model of that name on the Hugging Face hub.

    Only a name that is no folder reaches for the hub, and only for settings and safetensors. MissingDependency without
    transformers, UserError for a name that leads nowhere or a network of another kind, BadData for damaged files.
    """
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise MissingDependency(
            f"a feature target needs transformers: {error}", hint="pip install 'understudy[features]'"
        ) from error
    folder = Path(name_or_folder)
    if not folder.is_dir():
        folder = _download(name_or_folder)
    model_type = _read_json(folder / "config.json").get("model_type")
    if model_type not in IMAGE_BACKBONES + VIDEO_BACKBONES:
        raise UserError(
            f"{name_or_folder} is a network of type {model_type}, which is not a backbone that is known here",
            hint=f"Known types: {', '.join(IMAGE_BACKBONES + VIDEO_BACKBONES)}.",
        )
    mean, std = _normalisation(folder)
    return Backbone(_load(transformers, folder), mean=mean, std=std)


def feature_change(features: Tensor, scale: Tensor) -> Tensor:
    """What changed from the first frame to the second: features (B, 2, N, C), scale (C,) -> (B, N, C).

    Without an offset: a pair of equal frames gives exactly zero, and predicting "no change" costs 1 on average.
    """
    first, second = features.unbind(1)
    return (second - first) / scale


@torch.no_grad()
def feature_target(backbone: Backbone, held_out: Sequence[PairBatch], config: LamModelConfig) -> FeatureTarget:
    """What a model with this config is to predict: (first, second frame) -> (B, N, C), one row per patch of its own.

    The scale comes from pairs that are not trained on. The backbone moves to the frames' device and is not saved.
    """
    with torch.no_grad():
        scale = calibrate(backbone(batch.frames) for batch in held_out)
    rows, columns = config.height // config.patch, config.width // config.patch

    @torch.no_grad()
    def target(first: Tensor, second: Tensor) -> Tensor:
        seen = backbone.to(first.device)(torch.stack((first, second), dim=1))
        change = feature_change(seen, scale.to(first.device))  # (B, backbone's patches, C)
        picture = change.transpose(1, 2).unflatten(2, backbone.grid(config.height, config.width))
        picture = F.interpolate(picture, size=(rows, columns), mode="bilinear", align_corners=False)
        return picture.flatten(2).transpose(1, 2)

    return target


def calibrate(batches: Iterable[Tensor]) -> Tensor:
    """The scale (C,) for `feature_change`: root mean square change of each channel over batches of (B, 2, N, C).

    A channel that hardly changes gets `FLOOR` times the median scale. BadData if most channels never change, or if a
    feature is not finite; ValueError without a batch.
    """
    total, count = None, 0
    for features in batches:
        first, second = features.double().unbind(1)
        squares = (second - first).square().sum((0, 1))  # (C,)
        total = squares if total is None else total + squares
        count += first.shape[0] * first.shape[1]
    if total is None or count == 0:
        raise ValueError("calibration needs at least one pair of frames, got none")
    scale = (total / count).sqrt()
    if not scale.isfinite().all():
        raise BadData("the backbone gives features that are not finite", hint="Check its files, or name another one.")
    median = scale.median()
    if median == 0:
        raise BadData(
            "the backbone's features do not change between the frames of any pair",
            hint="Give clips in which something moves.",
        )
    return scale.clamp_min(FLOOR * median).float()


def _height_and_width(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _download(name: str) -> Path:
    """The folder of a model of the hub, from the local cache where it is there."""
    hub = importlib.import_module("huggingface_hub")
    wanted = ["config.json", "*preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json"]
    try:
        return Path(hub.snapshot_download(name, allow_patterns=wanted))
    except (OSError, ValueError) as error:  # no such name, not allowed, no network: all are one of these
        raise UserError(
            f"{name} is neither a folder nor a model that the Hugging Face hub gives: {_first_line(error)}",
            hint="Check the name, the network, and for DINOv3 that you accepted its licence and ran `hf auth login`.",
        ) from error


def _load(transformers: Any, folder: Path) -> nn.Module:
    """The network with every weight from the file: transformers would fill a missing one with random numbers."""
    safetensors = importlib.import_module("safetensors")
    hub = importlib.import_module("huggingface_hub.errors")
    try:
        network, loaded = transformers.AutoModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    except (
        OSError,
        ValueError,
        TypeError,
        RuntimeError,
        safetensors.SafetensorError,
        hub.StrictDataclassError,
    ) as error:
        raise BadData(
            f"{folder}: transformers {transformers.__version__} cannot open it: {_first_line(error)}",
            hint="The folder needs config.json and model.safetensors as published.",
        ) from error
    absent = sorted(loaded["missing_keys"])
    if absent:
        raise BadData(
            f"{folder}: {len(absent)} weights are missing, {absent[0]} among them",
            hint="Copy the folder again; its config.json and its weights may belong to different models.",
        )
    return network


def _normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of the three colours in [0, 1], from the folder's preprocessor file where it has one."""
    names = ("video_preprocessor_config.json", "preprocessor_config.json")
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        return IMAGENET_MEAN, IMAGENET_STD
    settings = _read_json(file)
    return _three_numbers(settings, "image_mean", file), _three_numbers(settings, "image_std", file)


def _three_numbers(settings: dict[str, Any], name: str, file: Path) -> tuple[float, ...]:
    values = settings.get(name)
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(value, int | float) for value in values):
        raise BadData(f"{file}: {name} should be three numbers, got {values}")
    if name == "image_std" and min(values) <= 0:
        raise BadData(f"{file}: {name} should be positive, got {values}")
    return tuple(values)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadData(f"{file.parent} holds no {file.name}", hint="Name a folder in transformers' format.") from error
    except ValueError as error:
        raise BadData(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadData(f"{file} does not hold an object")
    return content


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
