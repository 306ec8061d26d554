"""Folders that are on disk whole or not at all."""

import json
import zlib
from pathlib import Path

import pytest
import torch

from common import checkpoints
from common.checkpoints import durable_folder, find_checkpoint, load_model_folder, newest_checkpoint, save_model, verify
from common.errors import BadData, UserError

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}


def save(folder: Path, tensors: dict[str, torch.Tensor] = TENSORS) -> None:
    save_model(folder, tensors=tensors, config={"stage": "test"}, card="# a card\n")


def test_round_trip(tmp_path: Path) -> None:
    save(tmp_path / "model")
    config, tensors = load_model_folder(tmp_path / "model")
    assert config == {"stage": "test"}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensor.dtype == tensors[name].dtype and torch.equal(tensor, tensors[name])
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
        "manifest.json",
    }


def test_shared_and_strided_tensors_are_saved_by_value(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    save(tmp_path / "model", {"whole": base, "transposed": base.T, "part": base[1]})
    _, tensors = load_model_folder(tmp_path / "model")
    assert torch.equal(tensors["transposed"], base.T) and torch.equal(tensors["part"], base[1])


def test_failed_write_leaves_the_old_folder(tmp_path: Path) -> None:
    save(tmp_path / "model")
    with pytest.raises(RuntimeError, match="disk on fire"), durable_folder(tmp_path / "model") as temporary:
        (temporary / "half").write_text("x")
        raise RuntimeError("disk on fire")
    verify(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_replacing_is_whole(tmp_path: Path) -> None:
    save(tmp_path / "model")
    save(tmp_path / "model", {"a": torch.zeros(1)})
    assert list(load_model_folder(tmp_path / "model")[1]) == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_kill_between_the_two_renames_of_a_replacement_is_mended(tmp_path: Path) -> None:
    save(tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / ".model.old-99999")
    (tmp_path / ".model.tmp-99999").mkdir()
    with pytest.raises(KeyboardInterrupt), durable_folder(tmp_path / "model"):
        raise KeyboardInterrupt
    assert torch.equal(load_model_folder(tmp_path / "model")[1]["a"], TENSORS["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_any_damage_is_named(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path / "model")
    victim = tmp_path / "model" / name
    data = bytearray(victim.read_bytes())
    if damage == "delete":
        victim.unlink()
    elif damage == "truncate":
        victim.write_bytes(bytes(data[:-3]))
    else:
        data[len(data) // 2] ^= 0x10
        victim.write_bytes(bytes(data))
    with pytest.raises(BadData) as caught:
        verify(tmp_path / "model")
    # A flipped bit in the manifest can only be told as some file that no longer fits it.
    assert name in str(caught.value) or name == "manifest.json"


def test_newest_whole_checkpoint_of_a_run(tmp_path: Path) -> None:
    for step in (5, 20, 100):
        save(tmp_path / "checkpoints" / f"step-{step}")
    (tmp_path / "checkpoints" / "step-100" / "model.safetensors").write_bytes(b"")
    newest, damaged = newest_checkpoint(tmp_path)
    assert newest == tmp_path / "checkpoints" / "step-20", "by number, not by name; the damaged one is passed over"
    assert len(damaged) == 1 and "step-100" in damaged[0]
    assert find_checkpoint(tmp_path) == newest


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    for step in (9, 10, 11):
        save(tmp_path / "checkpoints" / f"step-{step}")
    (tmp_path / "checkpoints" / ".step-7.tmp-99999").mkdir()  # of a writer that was killed at a step never saved again
    checkpoints.prune(tmp_path, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-10", "step-11"]


def test_a_folder_from_elsewhere_needs_no_manifest(tmp_path: Path) -> None:
    save(tmp_path / "model")
    (tmp_path / "model" / "manifest.json").unlink()
    assert load_model_folder(tmp_path / "model")[0] == {"stage": "test"}


def test_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_model_folder(tmp_path / "nothing")
    (tmp_path / "some").mkdir()
    with pytest.raises(UserError, match="is not a checkpoint"):
        load_model_folder(tmp_path / "some")
    save(tmp_path / "model")
    (tmp_path / "model" / "manifest.json").unlink()
    (tmp_path / "model" / "config.json").write_text("{")
    with pytest.raises(BadData, match="is not a checkpoint"):
        load_model_folder(tmp_path / "model")


def test_manifest_lists_size_and_checksum(tmp_path: Path) -> None:
    save(tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["README.md"] == {"bytes": 9, "crc32": zlib.crc32(b"# a card\n")}


def test_full_disk_is_told_in_megabytes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MB of free disk"):
        checkpoints.require_space(tmp_path / "new" / "folder", 10**18)
