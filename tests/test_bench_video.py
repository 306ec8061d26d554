"""`understudy bench video`: both networks do the same work, and what is measured adds up."""

import json
from pathlib import Path

import pytest
import torch

from scripts import bench_video as bench


def test_the_two_networks_agree_and_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "crossattn_proj_in_channels": 32}
    monkeypatch.setattr(bench, "ON_CPU", bench.COSMOS | small)
    found = bench.bench_video(repeats=1, latents=(2, 8, 8), json_path=tmp_path / "bench.json")
    assert found.difference < 1e-4
    assert found.speedup == pytest.approx(found.diffusers_ms / found.ours_ms)
    assert found.training.preset == "tiny"
    # 16 windows of 5 latents of 4 x 4 tokens
    assert found.training.tokens_per_second == pytest.approx(16 * 5 * 16 / (found.training.step_ms / 1000))
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["torch"] == torch.__version__ and written["ours_ms"] == found.ours_ms
