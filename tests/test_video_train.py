"""Training a video model: both ways of getting latents, resume, what a run holds, and what is refused."""

import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from common.checkpoints import save_model, weights_checksum
from common.config import TrainingConfig
from common.errors import BadData, MissingDependency, UserError
from lam.checkpoint import checkpoint_config as lam_config
from lam.dreamdojo import DreamDojoLam
from lam.presets import LamConfig, LamModelConfig
from tests.counted_clips import write_clip
from tests.labelled_clips import LATENT_DIM, write_labels
from tests.test_video_model import NARROW
from video_model.convert import convert_cosmos
from video_model.generator import build_video_model, load_generator, load_video_model
from video_model.generator import checkpoint_config as video_config
from video_model.lora import add_lora
from video_model.model import VideoModel
from video_model.presets import (
    VIDEO_PRESETS,
    TokenizerConfig,
    TokenizerDataConfig,
    TokenizerModelConfig,
    VideoConfig,
    VideoDataConfig,
    VideoLossConfig,
    VideoModelConfig,
)
from video_model.rollout import rollout
from video_model.tokenizer import build_tokenizer
from video_model.tokenizer import checkpoint_config as tokenizer_config
from video_model.train import train

SIDE = 16
TOKENIZER = TokenizerConfig(
    model=TokenizerModelConfig(base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=(1, 1, 1), num_res_blocks=1),
    data=TokenizerDataConfig(height=SIDE, width=SIDE),
)
SMALL = VideoConfig(
    model=VideoModelConfig(heads=2, head_dim=12, layers=2, modulation_dim=8),
    loss=VideoLossConfig(window=2, sink=1, shift=2.0),
    data=VideoDataConfig(
        height=SIDE,
        width=SIDE,
        latents=3,
        buffer_windows=16,
        encode_once=True,
        validation_share=0.3,
        validation_windows=4,
    ),
    sampling_steps=2,
    training=TrainingConfig(
        steps=3, batch_size=4, warmup_steps=1, workers=0, log_every=1, save_every=2, evaluate_every=2, keep=9
    ),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, their labels and a tokenizer."""
    root = tmp_path_factory.mktemp("world")
    for number in range(5):
        write_clip(root / "clips" / f"{number}.mp4", [i / 10 for i in range(30)], gop=10)
    write_labels(root / "labels", root / "clips")
    torch.manual_seed(0)
    tokens = build_tokenizer(TOKENIZER.model).state_dict()
    save_model(root / "tokens", tensors=tokens, config=tokenizer_config(TOKENIZER, preset="tiny"), card="")
    return root


def start(config: VideoConfig, world: Path, out: Path, **options: Path) -> Path:
    given = {"data": world / "clips", "actions": world / "labels", "tokenizer": world / "tokens"} | options
    return train(config, preset="tiny", out=out, **given)


def numbers(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("samples_per_second", "data_wait_share")} for line in lines]


@pytest.mark.parametrize("encode_once", [True, False])
def test_a_run_makes_video_and_tells_how_well(world: Path, tmp_path: Path, encode_once: bool):
    straight = tmp_path / "straight"
    last = start(replace(SMALL, data=replace(SMALL.data, encode_once=encode_once)), world, straight)
    assert (straight / "latents").exists() is encode_once

    generator = load_generator(straight)
    embodiment = generator.embodiments["latent"]
    assert embodiment.camera_dim == 1 and len(embodiment.scale) == LATENT_DIM + 1
    video = rollout(generator, torch.zeros(2, 3, SIDE, SIDE), torch.ones(2, 9, LATENT_DIM + 1))
    assert video.shape == (2, 10, 3, SIDE, SIDE) and video.isfinite().all()

    found = [line for line in numbers(straight) if "validation/psnr" in line]
    assert [line["step"] for line in found] == [2, 3]
    for name in ("psnr_shuffled", "psnr_zero", "psnr_copy", "drift", "response"):
        assert f"validation/{name}" in found[-1]
    assert f"{found[-1]['validation/psnr']:.4g}" in (last / "README.md").read_text()
    with Image.open(straight / "samples" / "step-3.png") as sheet:
        assert sheet.height > 4 * 96


def test_a_stopped_run_goes_on_bit_for_bit(world: Path, tmp_path: Path):
    last = start(SMALL, world, tmp_path / "straight")
    start(SMALL, world, tmp_path / "cut", latents=tmp_path / "straight" / "latents")
    for path in sorted((tmp_path / "cut" / "checkpoints" / "step-3").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "cut" / "checkpoints" / "step-3").rmdir()
    resumed = start(SMALL, world, tmp_path / "cut", latents=tmp_path / "straight" / "latents")
    for name in ("model", "training/weights", "training/optimizer"):
        one, other = (load_file(folder / f"{name}.safetensors") for folder in (last, resumed))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert numbers(tmp_path / "straight") == numbers(tmp_path / "cut")


def test_training_begins_with_another_models_weights(world: Path, tmp_path: Path):
    sizes = VideoModelConfig(heads=2, head_dim=16, layers=1, modulation_dim=8)
    torch.manual_seed(7)
    base = build_video_model(sizes, latent_channels=4, action_dim=LATENT_DIM + 1)
    config = video_config(base, SMALL, preset="tiny")
    save_model(tmp_path / "base", tensors=base.state_dict(), config=config, card="")
    still = replace(SMALL, training=replace(SMALL.training, steps=1, learning_rate=1e-12, ema_decay=0.0))
    made = load_generator(start(still, world, tmp_path / "run", init=tmp_path / "base")).model
    for name, tensor in base.state_dict().items():
        torch.testing.assert_close(made.state_dict()[name], tensor, msg=name)


@pytest.mark.parametrize("encode_once", [True, False])
def test_a_run_with_a_forecast_holds_what_makes_it(world: Path, tmp_path: Path, encode_once: bool):
    torch.manual_seed(0)
    sizes = LamModelConfig(
        design="dreamdojo", height=SIDE, width=SIDE, patch=8, channels=16, heads=2, encoder_blocks=1, decoder_blocks=1
    )
    lam = DreamDojoLam(replace(sizes, latent_dim=LATENT_DIM + 1))
    config = lam_config(LamConfig(model=lam.config), preset="tiny")
    save_model(tmp_path / "lam", tensors=lam.state_dict(), config=config, card="")
    with pytest.raises(UserError, match="written by another latent action model"):
        start(SMALL, world, tmp_path / "refused", lam=tmp_path / "lam")
    labels = write_labels(tmp_path / "labels", world / "clips", weights=weights_checksum(tmp_path / "lam"))
    told = replace(SMALL, data=replace(SMALL.data, encode_once=encode_once))
    told = replace(told, model=replace(SMALL.model, predicts="clean"))
    last = start(told, world, tmp_path / "run", actions=labels, lam=tmp_path / "lam")
    assert f"--lam {tmp_path / 'lam'}" in (last / "README.md").read_text()

    generator = load_generator(last)
    assert generator.forecaster is not None
    before = {name: tensor.clone() for name, tensor in lam.state_dict().items()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.forecaster.model.state_dict().items())
    first, actions = torch.zeros(1, 3, SIDE, SIDE), torch.ones(1, 8, LATENT_DIM + 1)
    made = rollout(generator, first, actions)
    assert made.isfinite().all()
    with torch.no_grad():
        for parameter in generator.forecaster.model.parameters():
            parameter += 0.1
    assert (rollout(generator, first, actions) - made).abs().max() > 1e-3

    with pytest.raises(UserError, match="was trained with a forecast"):
        start(told, world, tmp_path / "without", actions=labels, init=last)
    plain = start(SMALL, world, tmp_path / "plain", actions=labels)
    gained = start(SMALL, world, tmp_path / "gained", actions=labels, init=plain, lam=tmp_path / "lam")
    assert load_generator(gained).model.config["forecast"] is True


def test_training_begins_with_published_weights(world: Path, tmp_path: Path):
    """A network with Cosmos' flags and names, without actions: converted, trained, loaded, rolled out."""
    torch.manual_seed(0)
    model = cast(VideoModel, VideoModel.from_config(NARROW | {"in_channels": 5, "out_channels": 4}))
    model.save_pretrained(tmp_path / "published")
    config = json.loads((tmp_path / "published" / "config.json").read_text())
    for key in ("embodiments", "fixed_words", "forecast", "predicts"):  # ours alone
        del config[key]
    config["_class_name"] = "CosmosTransformer3DModel"
    (tmp_path / "published" / "config.json").write_text(json.dumps(config))
    convert_cosmos(tmp_path / "published", tmp_path / "converted")
    with pytest.raises(UserError, match="without a tokenizer"):
        load_generator(tmp_path / "converted")
    generator = load_generator(start(SMALL, world, tmp_path / "run", init=tmp_path / "converted"))
    assert generator.model.config["fixed_words"] == 1 and not hasattr(generator.model, "crossattn_proj")
    assert rollout(generator, torch.zeros(1, 3, SIDE, SIDE), torch.ones(1, 4, LATENT_DIM + 1)).isfinite().all()


@pytest.mark.parametrize("forecast", [False, True])
def test_lora_trains_the_first_layer_where_there_is_a_forecast(forecast: bool):
    pytest.importorskip("peft")
    model = build_video_model(SMALL.model, latent_channels=4, action_dim=3, forecast=forecast)
    add_lora(model, rank=2)
    assert model.patch_embed.proj.weight.requires_grad is forecast
    assert not model.proj_out.weight.requires_grad


def test_lora_trains_adapters_and_actions_alone_and_loads_without_peft(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("peft")
    first = start(SMALL, world, tmp_path / "base")  # three steps: after one, zero layers still stop all gradients
    adapted = replace(SMALL, lora_rank=2, training=replace(SMALL.training, learning_rate=1e-2, ema_decay=0.0))
    last = start(adapted, world, tmp_path / "run", init=first)
    again = start(adapted, world, tmp_path / "run", init=first)
    assert again == last
    monkeypatch.setitem(sys.modules, "peft", None)
    base, made = (load_video_model(folder)[0].state_dict() for folder in (first, last))
    changed = {name for name in base if not torch.equal(base[name], made[name])}
    assert changed == {
        name for name in base if ("attn" in name and "norm" not in name) or "ff" in name or "action" in name
    }
    step = made["transformer_blocks.0.ff.net.2.weight"] - base["transformer_blocks.0.ff.net.2.weight"]
    assert torch.linalg.matrix_rank(step, rtol=1e-3) == 2
    with pytest.raises(MissingDependency, match="peft"):
        start(adapted, world, tmp_path / "without", init=first)


def test_a_clip_that_could_not_be_labelled_is_left_out_and_named(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    labels = write_labels(tmp_path / "labels", world / "clips")
    index = json.loads((labels / "index.json").read_text())
    index["bad"] = [{"clip": "3.mp4", "reason": "damaged"}]
    (labels / "index.json").write_text(json.dumps(index))
    (labels / "3.mp4.safetensors").unlink()
    short = replace(SMALL, training=replace(SMALL.training, steps=1))
    start(short, world, tmp_path / "run", actions=labels)
    assert "left out: 3.mp4: it has no labels: damaged" in capsys.readouterr().err
    (labels / "2.mp4.safetensors").unlink()
    with pytest.raises(BadData, match=r"2\.mp4"):
        start(short, world, tmp_path / "again", actions=labels)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("data", {"height": 20}, "multiples of 8"),
        ("data", {"fps": 30.0}, "too slow"),
    ],
)
def test_what_does_not_fit_is_refused(world: Path, tmp_path: Path, part: str, change: dict[str, float], message: str):
    config = replace(SMALL, **{part: dataclasses.replace(getattr(SMALL, part), **change)})
    with pytest.raises((UserError, BadData), match=message):
        start(config, world, tmp_path / "run")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VideoModelConfig(head_dim=10), "at least 12"),
        (lambda: VideoLossConfig(hold_share=1.5), "hold_share must lie"),
        (lambda: VideoLossConfig(context_noise=1.0), "context_noise"),
        (lambda: VideoDataConfig(latents=1), "latents must be at least 2"),
        (lambda: VideoConfig(sampling_steps=0), "sampling_steps"),
    ],
)
def test_wrong_settings_are_refused(make: Callable[[], object], message: str):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(("preset", "millions"), [("tiny", 2), ("small", 119), ("cosmos-2b", 1615)])
def test_presets_have_the_sizes_that_they_say(preset: str, millions: float):
    config = VIDEO_PRESETS[preset]()
    with torch.device("meta"):
        model = build_video_model(config.model, latent_channels=16, action_dim=40)
    assert isinstance(model, VideoModel)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.1)
