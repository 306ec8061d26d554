"""Conversion of a Lightning checkpoint in the published format, with random weights."""

import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from common.errors import BadData, UserError
from lam.checkpoint import load_lam
from lam.convert import convert_dreamdojo_lam, model_config
from lam.dreamdojo import DreamDojoLam
from lam.presets import LamModelConfig, dreamdojo

SMALL = LamModelConfig(
    design="dreamdojo",
    height=240,
    width=320,
    patch=16,
    channels=48,
    heads=3,
    encoder_blocks=3,
    decoder_blocks=2,
    latent_dim=7,
)


def published_shapes(channels: int, head_channels: int, patch: int, latent: int, blocks: tuple[int, int]) -> dict:
    """The key table of the published checkpoint, written out by hand."""
    values = 3 * patch**2

    def with_bias(name: str, *shape: int) -> dict:
        return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    def attention(name: str) -> dict:
        square = {f"{name}.to_{part}.weight": (channels, channels) for part in "qkv"}
        return square | with_bias(f"{name}.to_out.0", channels, channels)

    shapes: dict = {"lam.action_prompt": (1, 1, 1, values)}
    for part, inputs, outputs, count in (
        ("encoder", values, channels, blocks[0]),
        ("decoder", channels, values, blocks[1]),
    ):
        shapes |= with_bias(f"lam.{part}.ffn.0", inputs)
        shapes |= with_bias(f"lam.{part}.ffn.1", channels, inputs)
        shapes |= with_bias(f"lam.{part}.ffn.2", channels)
        shapes |= with_bias(f"lam.{part}.out", outputs, channels)
        for i in range(count):
            block = f"lam.{part}.transformer_blocks.{i}"
            shapes |= attention(f"{block}.spatial_attn")
            if part == "encoder":
                shapes |= attention(f"{block}.temporal_attn") | with_bias(f"{block}.norm3", channels)
                shapes[f"{block}.temporal_attn.rotary_embedding.freqs"] = (head_channels // 2,)
            shapes |= with_bias(f"{block}.ffn.0", 4 * channels, channels)
            shapes |= with_bias(f"{block}.ffn.3", channels, 4 * channels)
            shapes |= with_bias(f"{block}.norm1", channels) | with_bias(f"{block}.norm2", channels)
    shapes |= with_bias("lam.fc", 2 * latent, channels)
    shapes |= with_bias("lam.patch_up", channels, values) | with_bias("lam.action_up", channels, latent)
    return shapes


SMALL_SHAPES = published_shapes(48, 16, 16, 7, (3, 2))


def save_lightning(path: Path, state: dict[str, Tensor], **extra: object) -> Path:
    checkpoint = {
        "epoch": 6,
        "global_step": 400_000,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": OrderedDict(state),
        "loops": {"fit_loop": {"epoch_progress": {"total": {"ready": 7}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "epoch=6.ckpt"}},
        "optimizer_states": [
            {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(4)}}, "param_groups": []}
        ],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"image_channels": 3, "lam_model_dim": 48, "beta": 1e-6},
    }
    torch.save(checkpoint | extra, path)
    return path


def random_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(shape) for name, shape in SMALL_SHAPES.items()}


def test_the_full_size_model_has_exactly_the_published_tensors():
    with torch.device("meta"):
        model = DreamDojoLam(dreamdojo().model)
    ours = {f"lam.{name}": tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == published_shapes(1024, 64, 16, 32, (24, 24))
    assert len(ours) == 839


def test_sizes_follow_from_the_full_size_tensors():
    shapes = published_shapes(1024, 64, 16, 32, (24, 24))
    tensors = {name.removeprefix("lam."): torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert model_config(tensors) == dreamdojo().model


def test_a_checkpoint_converts_to_a_folder_that_loads(tmp_path: Path):
    state = random_state()
    returned = convert_dreamdojo_lam(save_lightning(tmp_path / "LAM_400k.ckpt", state), tmp_path / "lam")
    loaded = load_lam(tmp_path / "lam")
    assert loaded.config.model == returned == SMALL
    tensors = loaded.model.state_dict()
    assert {f"lam.{name}" for name in tensors} == set(state)
    assert all(torch.equal(tensors[name.removeprefix("lam.")], tensor) for name, tensor in state.items())
    assert "LAM_400k.ckpt" in (tmp_path / "lam" / "README.md").read_text()


def test_missing_unexpected_and_misshapen_tensors_are_listed(tmp_path: Path):
    state = random_state()
    del state["lam.encoder.transformer_blocks.1.norm2.bias"]
    state["lam.vq.codebook"] = torch.zeros(2)
    state["lam.fc.bias"] = torch.zeros(15)
    with pytest.raises(BadData) as failure:
        convert_dreamdojo_lam(save_lightning(tmp_path / "x.ckpt", state), tmp_path / "lam")
    message = str(failure.value)
    assert "1 missing: encoder.transformer_blocks.1.norm2.bias" in message
    assert "1 unexpected: vq.codebook" in message
    assert "1 of another shape: fc.bias is (15,), not (14,)" in message
    assert not (tmp_path / "lam").exists()


def test_tensors_of_another_model_are_refused(tmp_path: Path):
    state = random_state() | {"net.weight": torch.zeros(1)}
    with pytest.raises(BadData, match=r"1 tensors outside 'lam\.': net\.weight"):
        convert_dreamdojo_lam(save_lightning(tmp_path / "x.ckpt", state), tmp_path / "lam")


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch '{self.canary}'",)


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path: Path):
    canary = tmp_path / "canary"
    path = save_lightning(tmp_path / "evil.ckpt", random_state(), callbacks=Payload(canary))
    with pytest.raises(BadData, match="reading it could run code"):
        convert_dreamdojo_lam(path, tmp_path / "lam")
    assert not canary.exists()
    torch.load(path, weights_only=False)  # the payload is live: unguarded reading runs it
    assert canary.exists()


def test_files_that_are_no_checkpoint_say_so(tmp_path: Path):
    with pytest.raises(UserError, match="is not a file"):
        convert_dreamdojo_lam(tmp_path / "absent.ckpt", tmp_path / "lam")
    (tmp_path / "text.ckpt").write_text("no checkpoint at all")
    with pytest.raises(BadData, match="not a PyTorch checkpoint"):
        convert_dreamdojo_lam(tmp_path / "text.ckpt", tmp_path / "lam")
    for content, message in (([1, 2], "holds no tensors by name"), ({"model": {}}, "no 'state_dict'")):
        torch.save(content, tmp_path / "other.ckpt")
        with pytest.raises(BadData, match=message):
            convert_dreamdojo_lam(tmp_path / "other.ckpt", tmp_path / "lam")
    save_lightning(tmp_path / "other.ckpt", {"lam.fc.weight": torch.zeros(2, 2)})
    with pytest.raises(BadData, match=r"lam\.action_up\.weight is missing"):
        convert_dreamdojo_lam(tmp_path / "other.ckpt", tmp_path / "lam")
