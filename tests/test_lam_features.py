"""Features of a frozen backbone: the right patch, the right frame, the right normalisation, and nothing that trains.

The backbones are tiny and random, and transformers itself writes them, so they are in the published format.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from common.errors import BadData, MissingDependency, UserError
from lam.features import FLOOR, calibrate, feature_change, feature_target, open_backbone
from lam.loss import PairBatch, loss
from lam.model import LatentActionModel
from lam.presets import LamLossConfig, LamModelConfig

KINDS = ("dinov2", "dinov2_with_registers", "dinov3_vit", "vjepa2")
GRIDS = {"dinov2": (2, 4), "dinov2_with_registers": (2, 4), "dinov3_vit": (2, 4), "vjepa2": (4, 4)}
"""The patches of a frame of 16x32 pixels; the video backbone sees every frame on the square of its config."""
PUBLISHED_NAMES = {
    "dinov2": "encoder.layer.0.attention.attention.query.weight",
    "dinov2_with_registers": "encoder.layer.0.attention.attention.query.weight",
    "dinov3_vit": "layer.0.attention.q_proj.weight",
    "vjepa2": "encoder.layer.0.attention.query.weight",
}
REGISTERS = 4


def tiny_network(kind: str) -> Any:
    transformers = pytest.importorskip("transformers", reason="the extra `features` is not installed")
    common = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    torch.manual_seed(0)
    if kind == "dinov2":
        return transformers.Dinov2Model(transformers.Dinov2Config(**common, mlp_ratio=2, image_size=32))
    if kind == "dinov2_with_registers":
        config = transformers.Dinov2WithRegistersConfig(
            **common, mlp_ratio=2, image_size=32, num_register_tokens=REGISTERS
        )
        return transformers.Dinov2WithRegistersModel(config)
    if kind == "dinov3_vit":
        config = transformers.DINOv3ViTConfig(
            **common, intermediate_size=48, image_size=32, num_register_tokens=REGISTERS
        )
        return transformers.DINOv3ViTModel(config)
    predictor = {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    return transformers.VJEPA2Model(transformers.VJEPA2Config(**common, **predictor, mlp_ratio=2, crop_size=32))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in folders.items():
        tiny_network(kind).save_pretrained(folder)
    return folders


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A DINOv3 folder that a test may damage."""
    for file in folders["dinov3_vit"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def frames_of(pairs: int = 1, *, height: int = 16, width: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((pairs, 2, 3, height, width), generator=generator) * 2 - 1


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_folders_are_in_the_published_format(folders: dict[str, Path], kind: str) -> None:
    assert PUBLISHED_NAMES[kind] in load_file(folders[kind] / "model.safetensors")
    assert json.loads((folders[kind] / "config.json").read_text())["model_type"] == kind


@pytest.mark.parametrize("kind", KINDS)
def test_shape_is_patches_of_both_frames(folders: dict[str, Path], kind: str) -> None:
    backbone = open_backbone(str(folders[kind]))
    rows, columns = backbone.grid(16, 32)
    assert (rows, columns) == GRIDS[kind]
    features = backbone(frames_of(3))
    assert features.shape == (3, 2, rows * columns, backbone.channels) == (3, 2, rows * columns, 24)
    assert features.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_frozen_and_training_mode_changes_nothing(folders: dict[str, Path], kind: str) -> None:
    backbone = open_backbone(str(folders[kind]))
    before = backbone(frames_of())
    nn.ModuleDict({"target": backbone}).train()
    assert not any(module.training for module in backbone.modules())
    assert torch.equal(backbone(frames_of()), before)
    assert not before.requires_grad
    frames = frames_of().requires_grad_()
    backbone(frames).square().sum().backward()
    assert frames.grad is not None and frames.grad.abs().sum() > 0
    assert all(not weight.requires_grad and weight.grad is None for weight in backbone.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_each_patch_answers_to_its_own_place_in_the_picture(folders: dict[str, Path], kind: str) -> None:
    backbone = open_backbone(str(folders[kind]))
    rows, columns = backbone.grid(16, 32)
    tall, wide = 16 // rows, 32 // columns
    for row in range(rows):
        for column in range(columns):
            frames = frames_of()[:, :1].repeat(1, 2, 1, 1, 1)
            frames[:, 1, :, row * tall : (row + 1) * tall, column * wide : (column + 1) * wide] *= -1
            change = feature_change(backbone(frames), torch.ones(24)).square().sum(-1)[0]
            assert divmod(int(change.argmax()), columns) == (row, column)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_and_pairs_keep_their_order(folders: dict[str, Path], kind: str) -> None:
    backbone = open_backbone(str(folders[kind]))
    frames = frames_of(3)
    features = backbone(frames)
    for pair in range(3):
        for frame in range(2):
            alone = frames[pair, frame].expand(1, 2, -1, -1, -1)
            assert close(features[pair, frame], backbone(alone)[0, 0])
            assert close(features[pair, frame], backbone(alone)[0, 1])
    assert not close(features[:, 0], features[:, 1])


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers", "dinov3_vit"])
def test_features_are_the_networks_own_without_class_token_and_registers(folders: dict[str, Path], kind: str) -> None:
    backbone, frames = open_backbone(str(folders[kind])), frames_of()
    pictures = ((frames[0] + 1) / 2 - backbone.mean) / backbone.std
    tokens = tiny_network(kind).eval()(pixel_values=pictures).last_hidden_state
    prefix = 1 if kind == "dinov2" else 1 + REGISTERS
    assert tokens.shape[1] == prefix + 8
    assert close(backbone(frames)[0], tokens[:, prefix:])


def test_video_backbone_sees_each_frame_as_a_still_clip_on_its_own_grid(folders: dict[str, Path]) -> None:
    """Positions of V-JEPA 2 are counted along the grid of its config: on another one, rows would pass for columns."""
    backbone, network = open_backbone(str(folders["vjepa2"])), tiny_network("vjepa2").eval()
    frames = frames_of(height=32, width=32)
    pictures = (frames[0] + 1) / 2
    pictures = (pictures - backbone.mean) / backbone.std
    for frame in range(2):
        clip = pictures[frame].repeat(1, 2, 1, 1, 1)
        tokens = network(pixel_values_videos=clip, skip_predictor=True).last_hidden_state
        assert close(backbone(frames)[0, frame], tokens[0])
    assert backbone.grid(240, 320) == backbone.grid(32, 32) == (4, 4)
    flat = torch.full((1, 2, 3, 24, 40), 0.5)
    square = torch.full((1, 2, 3, 32, 32), 0.5)
    assert close(backbone(flat), backbone(square))


@pytest.mark.parametrize("kind", ["dinov2", "dinov3_vit"])
@pytest.mark.parametrize(("size", "grid"), [((15, 33), (2, 4)), ((21, 28), (3, 4)), ((3, 3), (1, 1))])
def test_frames_of_any_size_are_resized_to_whole_patches(
    folders: dict[str, Path], kind: str, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    backbone = open_backbone(str(folders[kind]))
    assert backbone.grid(*size) == grid
    rows, columns = grid
    colour = frames_of(height=1, width=1)
    whole = backbone(colour.expand(-1, -1, -1, rows * 8, columns * 8))
    assert close(backbone(colour.expand(-1, -1, -1, *size)), whole)
    if grid != (1, 1):
        frames = frames_of(height=size[0], width=size[1])[:, :1].repeat(1, 2, 1, 1, 1)
        frames[:, 1, :, -6:, -6:] *= -1
        change = feature_change(backbone(frames), torch.ones(24)).square().sum(-1)[0]
        assert int(change.argmax()) == rows * columns - 1


@pytest.mark.parametrize("satellite", [False, True])
def test_normalisation_is_that_of_the_folders_processor(copied: Path, satellite: bool) -> None:
    """The processor of transformers on uint8 pictures, against ours on the same pictures in [-1, 1]."""
    transformers = pytest.importorskip("transformers", reason="the extra `features` is not installed")
    mean = [0.430, 0.411, 0.296] if satellite else [0.485, 0.456, 0.406]
    std = [0.213, 0.156, 0.143] if satellite else [0.229, 0.224, 0.225]
    settings = {"image_processor_type": "BitImageProcessor", "image_mean": mean, "image_std": std}
    settings |= {"do_resize": False, "do_center_crop": False, "do_rescale": True, "do_normalize": True}
    by_default = open_backbone(str(copied))  # while the folder has no file of settings
    (copied / "preprocessor_config.json").write_text(json.dumps(settings))
    backbone = open_backbone(str(copied)) if satellite else by_default
    processor = transformers.AutoImageProcessor.from_pretrained(copied)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 32, 3), dtype=np.uint8)
    expected = processor(list(pictures), return_tensors="pt")["pixel_values"]
    tokens = tiny_network("dinov3_vit").eval()(pixel_values=expected).last_hidden_state
    frames = torch.from_numpy(pictures).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    assert close(backbone(frames)[0], tokens[:, 1 + REGISTERS :])


def test_video_backbone_takes_its_normalisation_from_the_video_file(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["vjepa2"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [1, 0.5, 0.25]}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(settings))
    backbone = open_backbone(str(tmp_path))
    assert torch.equal(backbone.mean.flatten(), torch.tensor([0.5, 0.4, 0.3]))
    assert torch.equal(backbone.std.flatten(), torch.tensor([1.0, 0.5, 0.25]))
    assert not close(backbone(frames_of()), open_backbone(str(folders["vjepa2"]))(frames_of()))


def test_frames_of_another_shape_are_refused(folders: dict[str, Path]) -> None:
    backbone = open_backbone(str(folders["dinov2"]))
    for shape in [(2, 3, 16, 32), (1, 3, 3, 16, 32), (1, 2, 16, 32, 3)]:
        with pytest.raises(ValueError, match="expected frames"):
            backbone(torch.zeros(shape))


def test_bad_folders_are_refused(copied: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    weights = load_file(copied / "model.safetensors")
    config = json.loads((copied / "config.json").read_text())

    save_file({name: weight for name, weight in weights.items() if "q_proj" not in name}, copied / "model.safetensors")
    with pytest.raises(BadData, match="missing"):
        open_backbone(str(copied))

    (copied / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(BadData, match="cannot open"):
        open_backbone(str(copied))

    (copied / "model.safetensors").unlink()
    torch.save(weights, copied / "pytorch_model.bin")  # a pickle is never read
    with pytest.raises(BadData, match="cannot open"):
        open_backbone(str(copied))

    save_file(weights, copied / "model.safetensors")
    for change in ({"hidden_size": 32}, {"hidden_size": "wide"}, {"num_hidden_layers": 3}):
        (copied / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(BadData):
            open_backbone(str(copied))

    (copied / "config.json").write_text(json.dumps(config))
    for bad in ("{", "[]", '{"image_mean": [0.5]}', '{"image_mean": [0, 0, 0], "image_std": [0, 1, 1]}'):
        (copied / "preprocessor_config.json").write_text(bad)
        with pytest.raises(BadData, match="preprocessor"):
            open_backbone(str(copied))

    (copied / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(UserError, match="bert") as caught:
        open_backbone(str(copied))
    assert "dinov3_vit" in caught.value.hint
    with pytest.raises(BadData, match=r"config\.json"):
        open_backbone(str(tmp_path_factory.mktemp("empty")))


def test_a_name_is_looked_up_in_the_cache_of_the_hub(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0" * 40
    snapshot = tmp_path / "models--somebody--dinov3-tiny" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text(commit)
    for file in folders["dinov3_vit"].iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    assert close(
        open_backbone("somebody/dinov3-tiny")(frames_of()), open_backbone(str(folders["dinov3_vit"]))(frames_of())
    )
    for name in ("somebody/absent", "runs/no/such/folder"):
        with pytest.raises(UserError, match="neither a folder nor a model"):
            open_backbone(name)


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency) as caught:
        open_backbone(str(tmp_path))
    assert "features" in caught.value.hint


def test_change_is_second_minus_first_and_zero_for_equal_frames() -> None:
    first, second = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    scale = torch.tensor([1.0, 2.0, 4.0])
    change = feature_change(torch.stack((first, second), 1), scale)
    assert torch.allclose(change * scale, second - first, atol=1e-6)
    assert torch.equal(feature_change(torch.stack((first, first), 1), scale), torch.zeros(2, 5, 3))


def test_calibrated_change_costs_one_per_channel_however_it_is_batched() -> None:
    torch.manual_seed(0)
    features = 7 + torch.randn(12, 2, 5, 4) * torch.tensor([0.1, 1.0, 10.0, 1000.0])
    features[:, 1] += torch.tensor([3.0, 0.0, 0.0, 0.0])  # a steady drift counts as change, it has no offset to hide in
    scale = calibrate([features])
    assert torch.allclose(feature_change(features, scale).square().mean((0, 1)), torch.ones(4), atol=1e-4)
    assert torch.allclose(calibrate(features.split([1, 7, 4])), scale)
    assert scale.shape == (4,) and scale.dtype == torch.float32
    assert abs(float(scale[0]) - 3) < 0.1


def test_a_dead_channel_does_not_blow_up() -> None:
    torch.manual_seed(0)
    features = torch.randn(12, 2, 5, 4)
    features[..., 2] = features[:, :1, :, 2]  # the same in both frames, but for rounding
    features[:, 1, :, 2] += 1e-7
    scale = calibrate([features])
    assert float(scale[2]) == pytest.approx(FLOOR * float(calibrate([features]).median()), rel=0.5)
    assert feature_change(features, scale)[..., 2].abs().max() < 1e-3


def test_calibration_refuses_what_has_no_scale() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        calibrate([])
    with pytest.raises(BadData, match="do not change"):
        calibrate([torch.randn(2, 1, 5, 4).expand(-1, 2, -1, -1)])
    with pytest.raises(BadData, match="not finite"):
        calibrate([torch.full((1, 2, 5, 4), float("nan"))])


def test_a_model_learns_to_predict_how_features_change(folders: dict[str, Path]) -> None:
    """The whole way of `loss.target = features`: the error falls below that of predicting no change."""
    torch.manual_seed(0)
    backbone = open_backbone(str(folders["dinov3_vit"]))
    config = LamModelConfig(
        height=32, width=32, patch=8, channels=32, heads=2, encoder_blocks=1, decoder_blocks=1, feature_channels=24
    )
    weights = LamLossConfig(target="features", backbone="a folder", feature_weight=1.0, kl_weight=0.0)
    base = torch.nn.functional.interpolate(torch.rand(8, 3, 8, 8) * 2 - 1, size=32, mode="bilinear")
    frames = torch.stack((base, base.clone()), dim=1)
    for pair in frames:  # a bright square jumps somewhere
        for frame in pair:
            y, x = torch.randint(0, 20, (2,)).tolist()
            frame[:, y : y + 12, x : x + 12] = 0.9
    batch = PairBatch(frames, ("clip",) * 8)
    target = feature_target(backbone, [batch], config)
    assert target(frames[:, 0], frames[:, 1]).shape == (8, 16, 24)
    model = LatentActionModel(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    ratios = []
    for _ in range(60):
        optimizer.zero_grad()
        error, metrics = loss(model, batch, weights, features=target)
        error.backward()
        optimizer.step()
        ratios.append(float(metrics["mse"] / metrics["copy_mse"]))
    assert ratios[0] > 0.95
    assert ratios[-1] < 0.7, f"error over that of no change: {ratios[-1]:.2f}"
    assert not any(name.startswith("network") for name in model.state_dict())


def test_features_land_on_the_models_own_patches(folders: dict[str, Path]) -> None:
    """A change in one corner is asked for in that corner, also where backbone and model cut the frame differently."""
    backbone = open_backbone(str(folders["dinov2"]))
    config = LamModelConfig(height=32, width=64, patch=16, channels=32, heads=2, feature_channels=24)
    first = torch.zeros(1, 3, 32, 64)
    second = first.clone()
    second[:, :, 16:, 48:] = torch.rand(1, 3, 16, 16)
    target = feature_target(backbone, [PairBatch(frames_of(2, height=32, width=64), ("a", "b"))], config)
    change = target(first, second).square().sum(-1)[0]
    assert change.shape == (8,)
    assert int(change.argmax()) == 7
