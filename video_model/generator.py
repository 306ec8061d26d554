"""A video model with all it needs to make video: tokenizer, forecaster, how each embodiment's actions enter.

On disk one folder: the network (`config.json`, `model.safetensors`), the tokenizer in `tokenizer/` and, for a model
with a forecast, the latent action model in `lam/`, both as given, and one `embodiments/NAME.json` for each embodiment.
In `decoder/` there may be a quick decoder for live use.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from common.checkpoints import MANIFEST, find_checkpoint, load_model_folder, write_text
from common.config import from_dict, to_dict
from common.errors import BadData, UserError
from common.published import require_fit
from video_model.forecast import Forecaster
from video_model.lora import merged
from video_model.model import VideoModel
from video_model.presets import VideoConfig, VideoModelConfig
from video_model.tiny_decoder import TinyDecoder, load_tiny_decoder
from video_model.tokenizer import Tokenizer, load_tokenizer

LATENT = "latent"
"""The embodiment of latent actions."""


@dataclass(frozen=True)
class Embodiment:
    """One body's actions: what they are, and how they are scaled for the network."""

    scale: tuple[float, ...]
    """Root mean square of each value in training; a change of this size is 1 to the network."""
    fps: float
    """Actions per second: the frame rate of the video that they make."""
    camera_dim: int = 0
    """So many of the last values are the camera's motion (z_cam)."""

    @property
    def act_dim(self) -> int:
        """So many of the first values are what was done (z_act)."""
        return len(self.scale) - self.camera_dim

    def scaled(self, actions: Tensor) -> Tensor:
        """(..., A) as the network takes them: 0 stays 0, small ones are linear, outliers are bent down (asinh)."""
        return (actions.float() / torch.tensor(self.scale, device=actions.device)).asinh()


@dataclass
class Generator:
    """A video model ready for use, in evaluation mode."""

    model: VideoModel
    tokenizer: Tokenizer
    embodiments: dict[str, Embodiment]
    config: VideoConfig
    forecaster: Forecaster | None = None
    """Where the network takes a forecast."""
    tiny_decoder: TinyDecoder | None = None
    """A quicker decoder of the tokenizer's latents, if there is one."""
    quick: bool = False
    """Frames are decoded by it, not by the tokenizer: see `live`."""

    @property
    def decoder(self) -> Tokenizer | TinyDecoder:
        """What turns the network's latents into frames."""
        return self.tiny_decoder if self.quick and self.tiny_decoder else self.tokenizer

    def live(self) -> Self:
        """The same networks; frames are decoded by the tiny decoder, if there is one."""
        return replace(self, quick=True)

    @property
    def device(self) -> torch.device:
        return self.model.proj_out.weight.device

    def to(self, device: torch.device | str) -> Self:
        """Moves all networks."""
        nn.Module.to(self.model, device)
        self.tokenizer.to(device)
        if self.tiny_decoder:
            self.tiny_decoder.to(device)
        if self.forecaster:
            self.forecaster.to(device)
        return self

    def embodiment(self, name: str) -> Embodiment:
        """UserError if this model does not know it."""
        if name not in self.embodiments:
            raise UserError(f"this model has no embodiment '{name}'; it has: {', '.join(self.embodiments)}")
        return self.embodiments[name]


def build_video_model(
    config: VideoModelConfig,
    *,
    latent_channels: int,
    action_dim: int,
    embodiment: str = LATENT,
    forecast: bool = False,
) -> VideoModel:
    """A new network without text, with random weights, for an embodiment's actions of `action_dim` values."""
    return VideoModel(
        in_channels=latent_channels + 1,
        out_channels=latent_channels,
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        num_layers=config.layers,
        mlp_ratio=config.mlp_ratio,
        text_embed_dim=0,
        adaln_lora_dim=config.modulation_dim,
        patch_size=(1, config.patch, config.patch),
        rope_scale=(1.0, 1.0, 1.0),
        concat_padding_mask=False,
        use_crossattn_projection=False,
        embodiments={embodiment: action_dim},
        forecast=forecast,
        predicts=config.predicts,
    )


def checkpoint_config(model: VideoModel, config: VideoConfig, *, preset: str) -> dict[str, Any]:
    """config.json of a video model's checkpoint: the network's arguments, and how it was trained."""
    network = {key: value for key, value in model.config.items() if not key.startswith("_")}
    return {"stage": "video", "preset": preset, "model": network, "settings": to_dict(config)}


def write_companions(
    folder: Path, *, tokenizer: Path, embodiments: Mapping[str, Embodiment], lam: Path | None = None
) -> None:
    """What a checkpoint holds beside the network: copies of the folders of tokenizer and forecast, the embodiments."""
    # Their manifests would miss the training state; the new folder's own covers what is copied.
    left_out = shutil.ignore_patterns("training", MANIFEST)
    shutil.copytree(find_tokenizer(tokenizer), folder / "tokenizer", ignore=left_out)
    if lam:
        shutil.copytree(find_checkpoint(lam), folder / "lam", ignore=left_out)
    for name, embodiment in embodiments.items():
        write_text(folder / "embodiments" / f"{name}.json", json.dumps(asdict(embodiment), indent=1))


def write_decoder(folder: Path, decoder: Path) -> None:
    """Copy a tiny decoder's checkpoint, or a run's newest one, into a video model's, in place of one that is there.

    BadData if it does not fit the tokenizer there.
    """
    require_decoder_fits(load_tiny_decoder(decoder), load_tokenizer(folder / "tokenizer"), decoder)
    shutil.rmtree(folder / "decoder", ignore_errors=True)
    shutil.copytree(find_checkpoint(decoder), folder / "decoder", ignore=shutil.ignore_patterns("training", MANIFEST))


def find_tokenizer(path: Path) -> Path:
    """The folder that holds the tokenizer's files: of a checkpoint, a run or a published autoencoder."""
    for folder in (path, path / "vae"):
        if any(folder.glob("diffusion_pytorch_model*.safetensors")):
            return folder
    return find_checkpoint(path)


def load_video_model(path: Path) -> tuple[VideoModel, dict[str, Any]]:
    """The network of a checkpoint folder, or of a run's newest one, and its config.json. BadData if it is none."""
    data, tensors = load_model_folder(path)
    if data.get("stage") != "video":
        raise BadData(f"{path} holds a '{data.get('stage')}' checkpoint, not a video model")
    model, tensors = cast(VideoModel, VideoModel.from_config(data["model"])), merged(tensors)
    require_fit(tensors, {name: tensor.shape for name, tensor in model.state_dict().items()}, path)
    model.load_state_dict(tensors, strict=True)
    return model.eval(), data


def load_generator(path: Path) -> Generator:
    """Load a checkpoint folder that `understudy train video` made, or a run's newest checkpoint, on the CPU.

    UserError for a network without tokenizer and actions, such as `understudy convert` writes; BadData if it is
    damaged or something else.
    """
    model, data = load_video_model(path)
    folder = find_checkpoint(path)
    if not (folder / "tokenizer").is_dir():
        raise UserError(
            f"{path} is a network without a tokenizer and without trained actions",
            hint=f"Train it first: understudy train video PRESET --init {path} ...",
        )
    config = from_dict(VideoConfig, data["settings"], where=f"{path}/config.json")
    embodiments = {}
    for file in sorted((folder / "embodiments").glob("*.json")):
        embodiments[file.stem] = from_dict(Embodiment, json.loads(file.read_text()), where=str(file))
    tokenizer = load_tokenizer(folder / "tokenizer")
    return Generator(
        model=model,
        tokenizer=tokenizer,
        tiny_decoder=_tiny_decoder(folder / "decoder", tokenizer) if (folder / "decoder").is_dir() else None,
        forecaster=Forecaster.open(folder / "lam", span=config.data.forecast_span)
        if model.config["forecast"]
        else None,
        embodiments=embodiments,
        config=config,
    )


def _tiny_decoder(path: Path, tokenizer: Tokenizer) -> TinyDecoder:
    decoder = load_tiny_decoder(path)
    require_decoder_fits(decoder, tokenizer, path)
    return decoder


def require_decoder_fits(decoder: TinyDecoder, tokenizer: Tokenizer, path: Path) -> None:
    """BadData unless the decoder in `path` takes latents of the tokenizer's size."""
    own, given = (decoder.z_dim, decoder.space_factor), (tokenizer.z_dim, tokenizer.space_factor)
    if own != given:
        raise BadData(
            f"the decoder in {path} takes latents of {own[0]} channels, {own[1]} pixels wide a place; the tokenizer's "
            f"have {given[0]} and {given[1]}",
            hint="Train one for this tokenizer: understudy train decoder PRESET --tokenizer TOKENIZER ...",
        )
