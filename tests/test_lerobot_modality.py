"""GR00T's modality.json: named columns of the state and action vectors."""

import json
import shutil
from pathlib import Path

import pytest

from align.datasets import open_dataset
from align.modality import Group, groups
from common.errors import BadData
from tests.bad_datasets import edit_info, make_plain, make_v30

WHOLE = {
    "state": {"reach": {"start": 0, "end": 1, "dtype": "float32"}, "both": {"start": 0, "end": 2}},
    "action": {"reach": {"start": 0, "end": 1, "absolute": True, "rotation_type": "axis_angle"}},
    "video": {"head": {"original_key": "observation.images.head"}},
    "annotation": {"human.validity": {}},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return make_v30(tmp_path_factory.mktemp("modality") / "set")


@pytest.fixture
def root(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "set"))


def note(root: Path, content) -> None:
    (root / "meta/modality.json").write_text(content if isinstance(content, str) else json.dumps(content))


def test_groups_are_columns_with_what_is_said_of_them(root) -> None:
    assert groups(open_dataset(root)).state == {}
    note(root, WHOLE)
    dataset = open_dataset(root)
    found = groups(dataset)
    assert found.state == {"reach": Group(0, 1), "both": Group(0, 2)} and list(found.state) == ["reach", "both"]
    assert found.action == {"reach": Group(0, 1, absolute=True, rotation_type="axis_angle")}
    lift = dataset.states(dataset.episodes[1])[:, found.state["both"].columns]
    assert lift.shape == (12, 2) and lift[0].tolist() == [7.0, 3.5]
    assert found.elsewhere == ()


def test_groups_of_other_fields(root) -> None:
    """A range counts in the field that it names: here in the second part of a state in parts, and in one not taken."""
    features = json.loads((root / "meta/info.json").read_text())["features"]
    whole = features.pop("observation.state")
    parts = {f"observation.state.{name}": whole | {"shape": [2], "names": None} for name in ("arm", "hand")}
    edit_info(root, features=features | parts | {"observation.tool": whole})
    grip = {"start": 1, "end": 2, "original_key": "observation.state.hand"}
    tool = {"start": 0, "end": 9, "original_key": "observation.tool"}
    note(root, {"state": {"grip": grip, "tool": tool}})
    found = groups(open_dataset(root))
    assert found.state == {"grip": Group(3, 4)} and found.elsewhere == ("state.tool",)


@pytest.mark.parametrize(
    ("part", "entry", "message"),
    [
        ("state", {"start": 0, "end": 3}, "state 'x' is 0:3, its vector has 2 columns"),
        ("action", {"start": 1, "end": 2}, "action 'x' is 1:2, its vector has 1 columns"),
        ("state", {"start": 2, "end": 0}, "2:0, which is reversed"),
        ("state", {"start": 1, "end": 1}, "1:1, which is empty"),
        ("state", {"start": -1, "end": 1}, "start is -1"),
        ("state", {"start": 0}, "end is None"),
        ("state", {"start": 0.0, "end": 1}, r"start is 0\.0"),
        ("state", {"start": False, "end": True}, "start is False"),
        ("action", {"start": 0, "end": 1, "absolute": "yes"}, "absolute is 'yes'"),
        ("action", {"start": 0, "end": 1, "rotation_type": "euler"}, "unknown rotation_type 'euler'"),
        ("action", {"start": 0, "end": 1, "relative": True}, "unknown key 'relative'"),
        ("action", {"start": 0, "end": 1, "original_key": "act"}, "names the field 'act'"),
    ],
)
def test_what_is_not_understood_is_bad_data(root, part, entry, message) -> None:
    note(root, {part: {"x": entry}})
    with pytest.raises(BadData, match=message):
        groups(open_dataset(root))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "modality.json cannot be read"),
        ([], "holds no object"),
        ({"actions": {}}, "unknown part 'actions'"),
        ({"state": ["x"]}, "state does not give each group an object"),
        ({"state": {"x": [0, 7]}}, "state does not give each group an object"),
    ],
)
def test_a_file_that_makes_no_sense(root, content, message) -> None:
    note(root, content)
    with pytest.raises(BadData, match=message):
        groups(open_dataset(root))


def test_other_kinds_have_no_groups(tmp_path) -> None:
    make_plain(tmp_path)
    assert groups(open_dataset(tmp_path)).action == {}
