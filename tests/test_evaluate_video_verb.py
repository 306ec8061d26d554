"""`understudy evaluate video` from a checkpoint folder to the files it writes, and what it refuses."""

import json
from pathlib import Path

import pytest

from scripts.cli import main
from tests.counted_clips import write_clip
from tests.labelled_clips import write_labels
from tests.test_rollout import generator, write  # noqa: F401 (a fixture)
from video_model.generator import Generator


@pytest.fixture
def world(generator: Generator, tmp_path: Path) -> Path:  # noqa: F811
    for name in ("a", "b", "c"):
        write_clip(tmp_path / "clips" / f"{name}.mp4", [i / 10 for i in range(40)], gop=10)
    write_labels(tmp_path / "labels", tmp_path / "clips")
    write(generator, tmp_path)
    return tmp_path


def run(world: Path, *options: str, labels: str = "labels") -> int:
    words = [world / "video", world / "clips", "--actions", world / labels]
    return main(["evaluate", "video", *map(str, words), *options])


def test_a_checkpoint_is_measured(world: Path, capsys: pytest.CaptureFixture[str]):
    assert run(world, "--windows", "3", "--json", str(world / "card.json"), "--html", str(world / "card.html")) == 0
    card = json.loads((world / "card.json").read_text())
    assert card["clips"] == 3 and card["steps"] == 8 and len(card["fidelity"]["own"]["psnr"]["frames"]) == 8
    assert card["drift"]["windows"] == 3 and len(card["drift"]["seconds"]) == 32
    assert {"own", "opposite", "zero", "shuffled", "camera alone"} <= card["foreground"]["rows"].keys()
    assert "not known" in card["missing"]["hand"]
    page = (world / "card.html").read_text()
    assert page.count("data:image") >= 3 and "http" not in page.replace("http://www.w3.org", "")
    assert f"{card['fidelity']['own']['psnr']['mean']['value']:.2f}" in capsys.readouterr().out


def test_labels_of_another_kind_are_refused(world: Path, capsys: pytest.CaptureFixture[str]):
    index = json.loads((world / "labels" / "index.json").read_text())
    (world / "labels" / "index.json").write_text(json.dumps({**index, "latent_dim": 5}))
    assert run(world) == 2
    assert "the model learned from 2 + 1" in capsys.readouterr().err
    assert run(world, labels="clips") == 2
    assert "understudy label" in capsys.readouterr().err
