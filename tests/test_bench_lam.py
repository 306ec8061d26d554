"""The benchmark in tiny form: the baseline computes the same, and the numbers agree with each other."""

import json
from pathlib import Path

import pytest
import torch

from lam.dreamdojo import DreamDojoLam
from lam.presets import LamModelConfig
from scripts.bench_lam import bench_lam, published_attention

SMALL = LamModelConfig(
    design="dreamdojo",
    height=32,
    width=32,
    patch=8,
    channels=32,
    heads=2,
    encoder_blocks=2,
    decoder_blocks=3,
    latent_dim=4,
)


def test_the_published_attention_is_the_same_function_and_goes_away_after_the_block():
    torch.manual_seed(0)
    model = DreamDojoLam(SMALL)
    frames = torch.rand(3, 2, 3, 32, 32) * 2 - 1
    state = list(model.state_dict())
    with torch.no_grad():
        ours = model(frames, sample=False).prediction
        with published_attention(model):
            published = model(frames, sample=False).prediction
        after = model(frames, sample=False).prediction
    torch.testing.assert_close(published, ours, atol=1e-5, rtol=1e-5)
    assert not torch.equal(published, ours)  # it did take another way
    assert torch.equal(after, ours)
    assert list(model.state_dict()) == state


def test_a_tiny_run_gives_consistent_numbers_and_its_json(tmp_path: Path, capsys: pytest.CaptureFixture):
    path = tmp_path / "bench.json"
    result = bench_lam(device="cpu", model=SMALL, batch=2, repeats=2, json_path=path)
    written = json.loads(path.read_text())
    assert written["ours"]["step_ms"] == result.ours.step_ms
    assert written["model"]["channels"] == 32
    assert result.parameters_millions == sum(p.numel() for p in DreamDojoLam(SMALL).parameters()) / 1e6
    assert result.prediction_difference < 1e-5
    for cost in (result.ours, result.published_attention):
        assert cost.attention_ms > 0
        assert cost.attention_share == pytest.approx(cost.attention_ms / cost.step_ms)
        assert cost.pairs_per_second == pytest.approx(2 / (cost.step_ms / 1000))
    assert result.share_of_matmul_rate == pytest.approx(
        result.step_teraflop / (result.ours.step_ms / 1000) / result.matmul_teraflops
    )
    # forward: a multiplication and an addition per weight and token; backward: twice that
    weights_encoder = 2 * (4 * 32**2 * 2 + 8 * 32**2) + 192 * 32 + 32 * 32
    weights_decoder = 3 * (4 * 32**2 + 8 * 32**2) + 32 * 32 + 32 * 192 + 192 * 32
    linear = 6 * 2 * (weights_encoder * 2 * 17 + weights_decoder * 16)
    assert linear < result.step_teraflop * 1e12 < 1.3 * linear
    ours, theirs = result.presets
    assert (ours.preset, theirs.preset) == ("tiny", "dreamdojo-tiny")
    assert ours.parameters_millions == pytest.approx(theirs.parameters_millions, rel=0.05)
    assert min(ours.samples_per_second, theirs.samples_per_second) > 0
    assert "as published" in capsys.readouterr().out
