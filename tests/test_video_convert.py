"""Conversion of published video models, with random weights under the published names."""

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel
from torch import Tensor
from torch.nn import functional as F

from common.checkpoints import load_model_folder
from common.errors import BadData, UserError
from scripts.cli import main
from tests.test_video_model import COSMOS_2B, NARROW, SIZE, levels, noise, randomise
from video_model.convert import convert_cosmos, convert_dreamdojo_video, model_config, published_names
from video_model.layers import Actions
from video_model.model import VideoModel


def published_shapes(
    *, channels: int, head_dim: int, blocks: int, lora: int, text: tuple[int, int], action_dim: int
) -> dict[str, tuple[int, ...]]:
    """The key table of a published .pt, written out by hand."""
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.1.weight": (channels, (16 + 1 + 1) * 2 * 2),
        "t_embedder.1.linear_1.weight": (channels, channels),
        "t_embedder.1.linear_2.weight": (3 * channels, channels),
        "t_embedding_norm.weight": (channels,),
        "crossattn_proj.0.weight": (text[1], text[0]),
        "crossattn_proj.0.bias": (text[1],),
        "final_layer.linear.weight": (16 * 2 * 2, channels),
        "final_layer.adaln_modulation.1.weight": (lora, channels),
        "final_layer.adaln_modulation.2.weight": (2 * channels, lora),
    }
    for i in range(blocks):
        for part, width in (("self_attn", channels), ("cross_attn", text[1])):
            shapes |= {
                f"blocks.{i}.adaln_modulation_{part}.1.weight": (lora, channels),
                f"blocks.{i}.adaln_modulation_{part}.2.weight": (3 * channels, lora),
                f"blocks.{i}.{part}.q_proj.weight": (channels, channels),
                f"blocks.{i}.{part}.k_proj.weight": (channels, width),
                f"blocks.{i}.{part}.v_proj.weight": (channels, width),
                f"blocks.{i}.{part}.output_proj.weight": (channels, channels),
                f"blocks.{i}.{part}.q_norm.weight": (head_dim,),
                f"blocks.{i}.{part}.k_norm.weight": (head_dim,),
            }
        shapes |= {
            f"blocks.{i}.adaln_modulation_mlp.1.weight": (lora, channels),
            f"blocks.{i}.adaln_modulation_mlp.2.weight": (3 * channels, lora),
            f"blocks.{i}.mlp.layer1.weight": (4 * channels, channels),
            f"blocks.{i}.mlp.layer2.weight": (channels, 4 * channels),
        }
    for name, outputs in (("B_D", channels), ("B_3D", 3 * channels)):
        shapes |= {
            f"action_embedder_{name}.fc1.weight": (4 * channels, 4 * action_dim),
            f"action_embedder_{name}.fc1.bias": (4 * channels,),
            f"action_embedder_{name}.fc2.weight": (outputs, 4 * channels),
            f"action_embedder_{name}.fc2.bias": (outputs,),
        }
    return {f"net.{name}": shape for name, shape in shapes.items()}


SMALL_SHAPES = published_shapes(channels=32, head_dim=16, blocks=3, lora=8, text=(40, 24), action_dim=6)


def random_state() -> dict[str, Any]:
    torch.manual_seed(0)
    tensors = {name: (torch.randn(s) * s[-1] ** -0.5).bfloat16() for name, s in SMALL_SHAPES.items()}
    others = {"net.accum_iteration": torch.tensor(3), "net.pos_embedder.seq": torch.arange(4.0)}
    return tensors | others | {"net.blocks.0.self_attn.q_norm._extra_state": None}


def save_pt(path: Path, state: dict[str, Any]) -> Path:
    torch.save(state, path)
    return path


def load(folder: Path) -> tuple[dict[str, Any], VideoModel]:
    config, tensors = load_model_folder(folder)
    model = cast(VideoModel, VideoModel.from_config(config["model"]))
    model.load_state_dict(tensors, strict=True, assign=True)
    return config, model.eval()


@pytest.fixture
def cosmos(tmp_path: Path) -> Path:
    model = CosmosTransformer3DModel(**NARROW)
    randomise(model)
    model.save_pretrained(tmp_path / "cosmos" / "transformer", max_shard_size="60KB")
    return tmp_path / "cosmos"


def test_the_verbs_convert_and_say_what_they_found(cosmos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["convert", "cosmos", str(cosmos), str(tmp_path / "a")]) == 0
    assert (
        main(["convert", "dreamdojo-video", str(save_pt(tmp_path / "x.pt", random_state())), str(tmp_path / "b")]) == 0
    )
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'a'}: {NARROW['num_layers']} blocks, " in printed
    assert f"{tmp_path / 'b'}: 3 blocks, 32 channels" in printed
    assert main(["convert", "cosmos", str(tmp_path / "b"), str(tmp_path / "c")]) == 4
    assert "not a CosmosTransformer3DModel" in capsys.readouterr().err


# Cosmos


@pytest.mark.parametrize("which", ["pipeline", "transformer"])
def test_a_sharded_diffusers_folder_converts_to_a_folder_that_loads(cosmos: Path, tmp_path: Path, which: str):
    source = cosmos if which == "pipeline" else cosmos / "transformer"
    assert len(list((cosmos / "transformer").glob("*.safetensors"))) > 1
    returned = convert_cosmos(source, tmp_path / "ours")
    described, model = load(tmp_path / "ours")
    expected = CosmosTransformer3DModel.from_pretrained(cosmos / "transformer").state_dict()
    assert dict.fromkeys(expected, True) == {
        name: torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items()
    }
    assert described["stage"] == "video"
    assert described["conventions"]["timestep_scale"] == 0.001 and described["conventions"]["fps"] is None
    assert described["model"] == json.loads(json.dumps(returned))
    assert returned["rope_scale"] == [1.0, 3.0, 3.0] and returned["embodiments"] is None
    assert source.name in (tmp_path / "ours" / "README.md").read_text()


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "WanTransformer3DModel"}, "holds a WanTransformer3DModel"),
        ({"controlnet_block_every_n": 7}, "controlnet_block_every_n = 7"),
        ({"num_layers": 4}, r"missing: transformer_blocks\.3\.norm1"),
        ({"num_layers": 2}, r"unexpected: transformer_blocks\.2"),
        ({"adaln_lora_dim": 9}, r"of another shape: .*norm1\.linear_1\.weight is \(8, 32\), not \(9, 32\)"),
    ],
)
def test_folders_of_other_models_are_refused(cosmos: Path, tmp_path: Path, changes: dict, message: str):
    edit_config(cosmos, **changes)
    with pytest.raises(BadData, match=message):
        convert_cosmos(cosmos, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_missing_and_damaged_shards_are_named(cosmos: Path, tmp_path: Path):
    shard = sorted((cosmos / "transformer").glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(BadData, match=f"{shard.name} is missing or damaged"):
        convert_cosmos(cosmos, tmp_path / "ours")
    shard.unlink()
    with pytest.raises(BadData, match=f"{shard.name} is missing or damaged"):
        convert_cosmos(cosmos, tmp_path / "ours")
    with pytest.raises(UserError, match=r"has no config\.json"):
        convert_cosmos(tmp_path / "nowhere", tmp_path / "ours")


# DreamDojo


def test_the_full_size_model_has_exactly_the_published_tensors():
    shapes = published_shapes(channels=2048, head_dim=128, blocks=28, lora=256, text=(100_352, 1024), action_dim=384)
    published = {name.removeprefix("net."): torch.empty(shape, device="meta") for name, shape in shapes.items()}
    config = model_config(published)
    assert (
        config.items() >= {k: v for k, v in COSMOS_2B.items() if k not in ("max_size", "extra_pos_embed_type")}.items()
    )
    assert config["embodiments"] == {"dreamdojo": 384}
    with torch.device("meta"):
        model = cast(VideoModel, VideoModel.from_config(config))
    names = [name for ours in model.state_dict() for name in published_names(ours)]
    assert sorted(names) == sorted(published)
    actions = sum(p.numel() for p in model.get_submodule("action_embedder").parameters())
    assert round(actions / 1e6, 1) == 92.3


def test_a_published_file_converts_to_a_folder_that_loads(tmp_path: Path):
    state = random_state()
    returned = convert_dreamdojo_video(save_pt(tmp_path / "model_ema_bf16.pt", state), tmp_path / "ours")
    described, model = load(tmp_path / "ours")
    assert described["model"] == json.loads(json.dumps(returned))
    tensors = model.state_dict()
    back = {}
    for name, tensor in tensors.items():
        theirs = published_names(name)
        back |= {f"net.{part}": half for part, half in zip(theirs, tensor.chunk(len(theirs)), strict=True)}
    assert back.keys() == SMALL_SHAPES.keys()
    assert all(torch.equal(tensor, state[name]) and tensor.dtype == torch.bfloat16 for name, tensor in back.items())
    assert "`dreamdojo` (6 values)" in (tmp_path / "ours" / "README.md").read_text()


def mlp(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    hidden = F.linear(x, state[f"net.{name}.fc1.weight"].float(), state[f"net.{name}.fc1.bias"].float())
    hidden = F.gelu(hidden, approximate="tanh")
    return F.linear(hidden, state[f"net.{name}.fc2.weight"].float(), state[f"net.{name}.fc2.bias"].float())


def test_the_published_mlps_of_actions_are_those_of_the_embodiment(tmp_path: Path):
    state = random_state()
    convert_dreamdojo_video(save_pt(tmp_path / "x.pt", state), tmp_path / "ours")
    model = load(tmp_path / "ours")[1].float()
    embedder = model.action_embedder
    assert embedder is not None
    values = noise(2, 8, 6)
    with torch.no_grad():
        time, modulation = embedder(Actions(values, "dreamdojo"), 3)
        words = model.project_text(noise(1, 5, 40))
        assert (
            model(noise(2, 16, 3, *SIZE), levels(2), text=words, actions=Actions(values, "dreamdojo")).isfinite().all()
        )
    chunks = torch.stack((torch.cat(values[:, :4].unbind(1), -1), torch.cat(values[:, 4:].unbind(1), -1)), dim=1)
    assert (time[:, 1:] - mlp(state, "action_embedder_B_D", chunks)).abs().max() < 1e-5
    assert (modulation[:, 1:] - mlp(state, "action_embedder_B_3D", chunks)).abs().max() < 1e-5


def test_missing_unexpected_and_misshapen_tensors_are_listed(tmp_path: Path):
    state = random_state()
    del state["net.blocks.1.mlp.layer2.weight"]
    state["net.logvar.0.freqs"] = torch.zeros(2)
    state["net.action_embedder_B_3D.fc1.weight"] = torch.zeros(128, 20)
    with pytest.raises(BadData) as failure:
        convert_dreamdojo_video(save_pt(tmp_path / "x.pt", state), tmp_path / "ours")
    message = str(failure.value)
    assert "1 missing: blocks.1.mlp.layer2.weight" in message
    assert "1 unexpected: logvar.0.freqs" in message
    assert "1 of another shape: action_embedder_B_3D.fc1.weight is (128, 20), not (128, 24)" in message
    assert not (tmp_path / "ours").exists()


def test_files_that_are_no_such_checkpoint_say_so(tmp_path: Path):
    with pytest.raises(UserError, match="is not a file"):
        convert_dreamdojo_video(tmp_path / "absent.pt", tmp_path / "ours")
    (tmp_path / "text.pt").write_text("no checkpoint at all")
    state = random_state()
    plain = {name: tensor for name, tensor in state.items() if "action" not in name}
    for content, message in (
        ([1, 2], "holds no tensors by name"),
        ({"model": {}, "net.x": torch.zeros(1)}, r"1 entries outside 'net\.': model"),
        (state | {"net.step": 3}, "1 entries that are no tensors: step"),
        (plain, r"net\.action_embedder_B_D\.fc1\.weight is missing"),
    ):
        with pytest.raises(BadData, match=message):
            convert_dreamdojo_video(save_pt(tmp_path / "x.pt", content), tmp_path / "ours")  # pyright: ignore
    with pytest.raises(BadData, match="not a PyTorch checkpoint"):
        convert_dreamdojo_video(tmp_path / "text.pt", tmp_path / "ours")


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch '{self.canary}'",)


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path: Path):
    canary = tmp_path / "canary"
    path = save_pt(tmp_path / "evil.pt", random_state() | {"net.callback": Payload(canary)})
    with pytest.raises(BadData, match="reading it could run code"):
        convert_dreamdojo_video(path, tmp_path / "ours")
    assert not canary.exists()
