"""The video model against diffusers' network, its actions, and the rest of a network's life."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from diffusers.models.transformers import transformer_cosmos
from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel
from torch import Tensor
from torch.nn import functional as F

from video_model.cache import attention_mask, visible_frames
from video_model.flow import flow_to
from video_model.layers import Actions
from video_model.model import VideoModel

COSMOS_2B: dict[str, Any] = {
    "in_channels": 17,
    "out_channels": 16,
    "num_attention_heads": 16,
    "attention_head_dim": 128,
    "num_layers": 28,
    "mlp_ratio": 4.0,
    "text_embed_dim": 1024,
    "adaln_lora_dim": 256,
    "max_size": (128, 240, 240),
    "patch_size": (1, 2, 2),
    "rope_scale": (1.0, 3.0, 3.0),
    "concat_padding_mask": True,
    "extra_pos_embed_type": None,
    "use_crossattn_projection": True,
    "crossattn_proj_in_channels": 100_352,
    "encoder_hidden_states_channels": 1024,
}
NARROW: dict[str, Any] = COSMOS_2B | {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 3,
    "text_embed_dim": 24,
    "adaln_lora_dim": 8,
    "crossattn_proj_in_channels": 40,
    "encoder_hidden_states_channels": 24,
}
SMALL: dict[str, Any] = {
    "in_channels": 5,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "text_embed_dim": 0,
    "adaln_lora_dim": 8,
    "rope_scale": (1.0, 1.0, 1.0),
    "concat_padding_mask": False,
    "use_crossattn_projection": False,
}
SIZE, TOKENS = (4, 6), 6


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Every weight counts: nothing stays at its initial zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            centre = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(centre + spread * torch.randn(parameter.shape, generator=generator))


def small(seed: int = 0, **changes: Any) -> VideoModel:
    model = VideoModel(**{**SMALL, **changes}).eval()
    randomise(model, seed)
    return model


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def levels(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(2))


def greatest(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def loaded(folder: Path) -> tuple[VideoModel, dict[str, Any]]:
    return cast(tuple, VideoModel.from_pretrained(folder, output_loading_info=True))


# Against diffusers


@pytest.fixture
def nearest_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    """What diffusers takes from torchvision to bring the padding mask to the size of the latents."""

    def resize(mask: Tensor, size: list[int], interpolation: str) -> Tensor:
        assert interpolation == "nearest"
        return F.interpolate(mask, size=size, mode="nearest")

    stand_in = SimpleNamespace(
        functional=SimpleNamespace(resize=resize), InterpolationMode=SimpleNamespace(NEAREST="nearest")
    )
    monkeypatch.setattr(transformer_cosmos, "transforms", stand_in, raising=False)


@pytest.fixture(scope="module")
def published() -> CosmosTransformer3DModel:
    model = CosmosTransformer3DModel(**NARROW).eval()
    randomise(model)
    return model


@pytest.fixture(scope="module")
def folder(published: CosmosTransformer3DModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cosmos")
    published.save_pretrained(path)
    return path


def test_the_2b_model_has_exactly_the_tensors_of_diffusers():
    with torch.device("meta"):
        ours = {name: tuple(tensor.shape) for name, tensor in VideoModel().state_dict().items()}
        theirs = CosmosTransformer3DModel(**COSMOS_2B).state_dict()
    assert ours == {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    assert len(ours) == 569


@pytest.mark.usefixtures("nearest_resize")
@pytest.mark.parametrize("per_frame", [False, True])
def test_equals_diffusers_with_the_flags_of_predict_2_5(
    published: CosmosTransformer3DModel, folder: Path, per_frame: bool
):
    model, info = loaded(folder)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    latents, words, condition = noise(2, 16, 5, *SIZE), noise(2, 7, 40, seed=3), torch.zeros(2, 5)
    condition[0, 0], condition[1, :2] = 1, 1
    timesteps = levels(2, 5) if per_frame else levels(2)
    with torch.no_grad():
        ours = model(latents, timesteps, text=model.project_text(words), conditioned=condition)
        theirs = published(
            latents,
            timesteps[:, None, :, None, None] if per_frame else timesteps,
            words,
            condition_mask=condition[:, None, :, None, None].expand(-1, -1, -1, *SIZE),
            padding_mask=torch.zeros(1, 1, 32, 48),
            return_dict=False,
        )[0]
    assert theirs.abs().mean() > 0.1
    assert greatest(ours, theirs) < 1e-5


@pytest.mark.usefixtures("nearest_resize")
def test_positions_in_24_frames_per_second_are_the_fps_of_diffusers(published: CosmosTransformer3DModel, folder: Path):
    model = VideoModel.from_pretrained(folder)
    latents, words, timesteps = noise(1, 16, 4, *SIZE), noise(1, 7, 40, seed=3), levels(1)
    positions = torch.arange(4) * 24 / 10
    arguments = {"condition_mask": torch.zeros(1, 1, 4, *SIZE), "padding_mask": torch.zeros(1, 1, *SIZE)}
    with torch.no_grad():
        ours = model(latents, timesteps, text=model.project_text(words), positions=positions)
        theirs = published(latents, timesteps, words, fps=10, return_dict=False, **arguments)[0]
        without = published(latents, timesteps, words, fps=None, return_dict=False, **arguments)[0]
    assert greatest(ours, theirs) < 1e-5
    assert greatest(ours, without) > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra_pos_embed_type": "learnable"}, "extra_pos_embed_type = 'learnable'"),
        ({"controlnet_block_every_n": 7}, "controlnet_block_every_n = 7"),
        ({"img_context_dim_in": 1152}, "img_context_dim_in = 1152"),
        ({"image_size": 3}, "does not know: image_size"),
        ({"patch_size": (2, 2, 2)}, "one latent frame"),
        ({"in_channels": 18}, "not 18 for 16"),
        ({"attention_head_dim": 15}, "attention_head_dim"),
        ({"predicts": "noise"}, "predicts must be one of flow, clean"),
        ({"text_embed_dim": 25}, "projected text has 24"),
    ],
)
def test_configs_of_other_models_are_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        VideoModel.from_config(NARROW | {"_class_name": "CosmosTransformer3DModel"} | change)


def test_a_fixed_text_is_part_of_the_model(folder: Path, tmp_path: Path):
    model = VideoModel.from_pretrained(folder)
    latents, words = noise(2, 16, 2, *SIZE), noise(1, 7, 40, seed=3)
    with pytest.raises(ValueError, match="fix_text"):
        model(latents, levels(2))
    with torch.no_grad():
        before = model(latents, levels(2), text=model.project_text(words))
        model.fix_text(words[0])
        model.save_pretrained(tmp_path)
        model = VideoModel.from_pretrained(tmp_path)
        assert torch.equal(model(latents, levels(2)), before)
        other = model.project_text(2 * model.text[None])
        assert greatest(model(latents, levels(2), text=other), before) > 1e-4, "a text that is given goes first"
    model.train()(latents, levels(2)).sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "attn2.to_k" in name)
    with pytest.raises(ValueError, match="no projection"):
        model.fix_text()


def test_by_default_the_fixed_text_is_any_number_of_zeros(folder: Path):
    model = VideoModel.from_pretrained(folder)
    latents = noise(2, 16, 2, *SIZE)
    with torch.no_grad():
        zeros = model(latents, levels(2), text=model.project_text(torch.zeros(1, 512, 40)))
        model.fix_text()
        assert greatest(model(latents, levels(2)), zeros) < 1e-5


# Actions


def acting(**changes: Any) -> VideoModel:
    return small(embodiments={"latent": 3, "arm": 2}, **changes)


@pytest.mark.parametrize("mid_clip", [False, True])
def test_an_action_reaches_the_latent_of_the_frame_it_leads_to_and_no_earlier(mid_clip: bool):
    model = acting()
    mask = attention_mask(visible_frames(4), tokens=TOKENS)
    latents, timesteps = noise(1, 4, 4, *SIZE), levels(1)
    values = noise(1, 16 if mid_clip else 12, 3, seed=5)

    def run(actions: Tensor) -> Tensor:
        given = Actions(actions, "latent", mid_clip=mid_clip)
        return model(latents, timesteps, actions=given, mask=mask)

    with torch.no_grad():
        before = run(values)
        for t in range(values.shape[1]):
            changed = values.clone()
            changed[:, t] += 1
            difference = (run(changed) - before).abs().amax(dim=(0, 1, 3, 4))
            # In a clip, latent 0 is frame 0 and latent k is frames 4 k - 3 .. 4 k; action t makes frame t + 1.
            first = t // 4 if mid_clip else (t + 4) // 4
            assert difference[:first].eq(0).all()
            assert difference[first:].gt(1e-5).all()


def test_actions_enter_as_in_dreamdojo():
    model = acting()
    embedder, time_embed = model.action_embedder, model.time_embed
    assert embedder is not None
    values, timesteps = noise(2, 8, 3, seed=5), levels(2)
    with torch.no_grad():
        added = embedder(Actions(values, "latent"), 3)
        time, shared = time_embed(timesteps[:, None], torch.float32, added)
        hidden = F.gelu(embedder.inputs["latent"](values[:, 4:8].flatten(1)), approximate="tanh")
        angles = timesteps[:, None] * 10_000 ** (-torch.arange(16) / 16)
        sinusoids = torch.cat((angles.cos(), angles.sin()), dim=1)
        a_time, a_modulation = embedder.to_time(hidden[:, :128]), embedder.to_modulation(hidden[:, 128:])
    assert greatest(time[:, 2], time_embed.norm(sinusoids + a_time)) < 1e-5
    assert greatest(shared[:, 2], time_embed.t_embedder(sinusoids) + a_modulation) < 1e-5
    assert greatest(time[:, 0], time_embed.norm(sinusoids)) < 1e-5
    assert added[0][:, 0].eq(0).all() and added[1][:, 0].eq(0).all()


def test_a_window_in_mid_clip_has_actions_for_its_first_latent():
    embedder = acting().action_embedder
    assert embedder is not None
    values = noise(2, 12, 3, seed=5)
    with torch.no_grad():
        clip = embedder(Actions(values, "latent"), 4)
        window = embedder(Actions(values[:, 4:], "latent", mid_clip=True), 2)
        first = embedder(Actions(values[:, :0], "latent"), 1)
    for whole, part in zip(clip, window, strict=True):  # not bit for bit: more rows can take another kernel
        torch.testing.assert_close(whole[:, 2:], part)
    assert all(part.shape[1] == 1 and part.eq(0).all() for part in first)


def test_no_actions_a_new_embedding_and_dropped_samples_are_exactly_the_same():
    model, latents, timesteps, values = small(), noise(2, 4, 3, *SIZE), levels(2, 3), noise(2, 8, 3, seed=5)
    with torch.no_grad():
        without = model(latents, timesteps)
        model.add_embodiment("latent", 3)
        assert torch.equal(model(latents, timesteps, actions=Actions(values, "latent")), without)
        randomise(model.get_submodule("action_embedder"))
        kept = torch.tensor([True, False])
        actions = Actions(values, "latent", kept=kept)
        some = model(latents, timesteps, actions=actions)
        everyone = model(latents, timesteps, actions=Actions(values, "latent"))
    assert torch.equal(some[1], without[1])
    assert torch.equal(some[0], everyone[0])
    assert greatest(some[0], without[0]) > 1e-3


def test_a_new_embodiment_changes_nothing_for_the_others(tmp_path: Path):
    model, latents, timesteps = acting(), noise(1, 4, 3, *SIZE), levels(1)
    actions = Actions(noise(1, 8, 3, seed=5), "latent")
    with torch.no_grad():
        before = model(latents, timesteps, actions=actions)
        model.add_embodiment("hand", 7)
        assert torch.equal(model(latents, timesteps, actions=actions), before)
        assert model.config["embodiments"] == {"latent": 3, "arm": 2, "hand": 7}
        hand = Actions(noise(1, 8, 7, seed=6), "hand")
        expected = model(latents, timesteps, actions=hand)
        model.save_pretrained(tmp_path)
        again, info = loaded(tmp_path)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
        assert greatest(again(latents, timesteps, actions=hand), expected) < 1e-5


@pytest.mark.parametrize("name", ["latent", "a.b", "", "keys", "half"])
def test_names_that_cannot_be_are_refused(name: str):
    with pytest.raises(ValueError, match="embodiment"):
        acting().add_embodiment(name, 3)


def test_actions_that_do_not_fit_are_refused():
    model, latents = acting(), noise(1, 4, 3, *SIZE)
    for actions, message in (
        (Actions(noise(1, 12, 3), "latent"), "take 8 actions of 3 values for 'latent', not 12 of 3"),
        (Actions(noise(1, 8, 3), "latent", mid_clip=True), "take 12 actions"),
        (Actions(noise(1, 8, 3), "arm"), "of 2 values for 'arm', not 8 of 3"),
        (Actions(noise(1, 8, 3), "leg"), "no embodiment 'leg'; there are: latent, arm"),
    ):
        with pytest.raises(ValueError, match=message):
            model(latents, levels(1), actions=actions)
    with pytest.raises(ValueError, match="takes no actions"):
        small()(latents, levels(1), actions=Actions(noise(1, 8, 3), "latent"))


# The rest of a network's life


def test_shapes_that_do_not_fit_are_refused():
    model = small()
    for latents, timesteps, message in (
        (noise(1, 5, 2, *SIZE), levels(1), "4 channels"),
        (noise(1, 4, 2, 4, 5), levels(1), "multiples of 2, not 4 of 4x5"),
        (noise(2, 4, 3, *SIZE), levels(3), r"\(2,\) or \(2, 3\), not \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model(latents, timesteps)
    with pytest.raises(ValueError, match="no channel for `conditioned`"):
        small(in_channels=4)(noise(1, 4, 2, *SIZE), levels(1), conditioned=torch.zeros(1, 2))


def test_positions_are_relative_and_have_no_limit():
    model, latents, timesteps = small(), noise(1, 4, 4, *SIZE), levels(1)
    with torch.no_grad():
        start = model(latents, timesteps)
        assert greatest(model(latents, timesteps, positions=torch.arange(500, 504)), start) < 1e-4
        assert greatest(model(latents, timesteps, positions=2 * torch.arange(4)), start) > 1e-4


def test_recomputing_activations_gives_the_same_gradients():
    def gradients(recompute: bool) -> list[Tensor]:
        model = acting()
        if recompute:
            model.enable_gradient_checkpointing()
        mask = attention_mask(visible_frames(3), tokens=TOKENS)
        actions = Actions(noise(1, 8, 3, seed=5), "latent")
        model(noise(1, 4, 3, *SIZE), levels(1, 3), mask=mask, actions=actions).square().mean().backward()
        return [p.grad for name, p in model.named_parameters() if "arm" not in name and p.grad is not None]

    plain, recomputed = gradients(False), gradients(True)
    assert len(plain) == len(recomputed) == len(list(acting().parameters())) - 2
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))


@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_is_close(autocast: bool):
    model, latents, timesteps, values = acting(), noise(1, 4, 4, *SIZE), levels(1, 4), noise(1, 12, 3, seed=5)
    with torch.no_grad():
        exact = model(latents, timesteps, actions=Actions(values, "latent"))
        if autocast:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rounded = model(latents, timesteps, actions=Actions(values, "latent"))
        else:
            model = model.bfloat16()
            rounded = model(latents.bfloat16(), timesteps, actions=Actions(values.bfloat16(), "latent"))
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).square().mean() < 3e-3 * exact.square().mean()


def test_a_model_from_scratch_starts_at_zero_and_every_weight_learns():
    torch.manual_seed(0)
    model = VideoModel(**SMALL, embodiments={"latent": 3})
    latents, timesteps, target = noise(2, 4, 3, *SIZE), levels(2), noise(2, 4, 3, *SIZE, seed=9)
    actions = Actions(noise(2, 8, 3, seed=5), "latent")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with torch.no_grad():
        assert model(latents, timesteps, actions=actions).eq(0).all()
    start = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for _ in range(8):
        loss = (model(latents, timesteps, actions=actions) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.9
    weights = [(name, p) for name, p in model.named_parameters() if p.ndim > 1]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for _, p in weights)
    assert all(not torch.equal(p, start[name]) for name, p in weights)


def test_lora():
    peft = pytest.importorskip("peft")
    model, latents, timesteps = small(), noise(1, 4, 2, *SIZE), levels(1)
    with torch.no_grad():
        before = model(latents, timesteps)
        model.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"]))
        assert torch.equal(model(latents, timesteps), before)
    model(latents, timesteps).sum().backward()
    assert any("lora" in name and p.grad is not None for name, p in model.named_parameters())


def test_a_forecast_is_looked_at_where_latents_are_made():
    model, x = small(forecast=True), noise(2, 4, 3, *SIZE)
    forecast, given = noise(2, 4, 3, *SIZE, seed=5), torch.tensor([[1, 0, 0], [1, 1, 0]])
    with torch.no_grad():
        plain = model(x, levels(2), conditioned=given, forecast=forecast)
        elsewhere = forecast + 5 * given[:, None, :, None, None]
        assert torch.equal(model(x, levels(2), conditioned=given, forecast=elsewhere), plain)
        for row, frame in ((0, 1), (0, 2), (1, 2)):
            changed = forecast.clone()
            changed[row, :, frame] += 1
            assert (model(x, levels(2), conditioned=given, forecast=changed) - plain).abs().max() > 1e-3
    with pytest.raises(ValueError, match="needs a forecast"):
        model(x, levels(2))
    with pytest.raises(ValueError, match="takes no forecast"):
        small()(x, levels(2), forecast=forecast)


def test_the_flow_of_a_model_that_predicts_clean_latents():
    x, times, forecast = noise(2, 4, 3, *SIZE), torch.tensor([[0.2, 0.5, 0.02], [1.0, 1.0, 0.0]]), noise(2, 4, 3, *SIZE)
    for changes, expected in (({}, torch.zeros(())), ({"forecast": True}, forecast)):
        told = {"forecast": forecast} if changes else {}
        says, flow = (small(**changes, predicts=what) for what in ("clean", "flow"))
        with torch.no_grad():
            added = flow(x, times, **told)  # what the last layer says
            clean = expected + added
            t = times.clamp(min=0.05)[:, None, :, None, None]
            torch.testing.assert_close(says(x, times, **told), (x - clean) / t)
    exact = (x - flow_to(forecast, x, times) * times[:, None, :, None, None])[:1, :, :2]
    torch.testing.assert_close(exact, forecast[:1, :, :2])  # back along the flow: x_t - t v = x_0


def test_a_model_that_gets_a_forecast_says_the_same_until_it_is_trained():
    model, x = small(), noise(2, 4, 3, *SIZE)
    with torch.no_grad():
        before = model(x, levels(2))
        model.add_forecast()
        torch.testing.assert_close(model(x, levels(2), forecast=noise(2, 4, 3, *SIZE, seed=5)), before)
        model.patch_embed.proj.weight[:, -4:] = noise(len(model.patch_embed.proj.weight), 4)
        assert (model(x, levels(2), forecast=noise(2, 4, 3, *SIZE, seed=5)) - before).abs().max() > 1e-3
    saved = {key: value for key, value in model.config.items() if not key.startswith("_")}
    again = cast(VideoModel, VideoModel.from_config(saved))
    assert again.state_dict()["patch_embed.proj.weight"].shape == model.patch_embed.proj.weight.shape
    with pytest.raises(ValueError, match="has a forecast already"):
        model.add_forecast()
