"""Every bad dataset gives one precise error, and a look over a whole dataset finds all of them."""

import shutil
from pathlib import Path

import pytest

from align.check import check_dataset
from align.datasets import open_dataset
from common.errors import BadData
from tests.bad_datasets import BAD, V2_DATA, V2_VIDEO, Case, gone, kind_of, make_all, number
from tests.test_lerobot_writer import KEY, LENGTHS


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> Path:
    return make_all(tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def copied(good, tmp_path):
    """Copies one of the good datasets, to be spoilt."""
    return lambda kind: Path(shutil.copytree(kind_of(good, kind), tmp_path / kind))


@pytest.mark.parametrize("kind", ["v30", "v21", "images", "plain", "demos", "aloha"])
def test_the_good_ones_are_good(good, kind) -> None:
    check = check_dataset(open_dataset(kind_of(good, kind)))
    assert check.problems == () and check.good == check.episodes == (0, 1, 2)
    assert check.frames == sum(LENGTHS)
    check.require()


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_each_bad_one_is_named(copied, case: Case) -> None:
    root = copied(case.kind)
    case.spoil(root)
    with pytest.raises(BadData, match=case.message) as caught:
        check_dataset(open_dataset(root)).require()
    assert caught.value.exit_code == 4
    assert case.field in str(caught.value)
    assert case.episode is None or f"episode {case.episode}" in str(caught.value)
    assert not (root / "unpickled").exists()


@pytest.mark.parametrize("case", [case for case in BAD if case.episode is not None], ids=lambda case: case.name)
def test_only_the_spoilt_episode_is_lost(copied, case: Case) -> None:
    """Where the dataset opens; a list of episodes that makes no sense stops that."""
    root = copied(case.kind)
    case.spoil(root)
    try:
        dataset = open_dataset(root)
    except BadData:
        return
    check = check_dataset(dataset)
    assert {problem.episode for problem in check.problems} >= {case.episode}
    later = (2,) if case.name == "v3.0 row of another episode" else ()  # which then has a row too many
    assert check.good == tuple(index for index in (0, 1, 2) if index not in (case.episode, *later))


def test_all_losses_are_listed_at_once(copied) -> None:
    root = copied("v21")
    gone(V2_VIDEO)(root)
    number(V2_DATA, "action", 2, [float("nan")])(root)
    gone(V2_DATA.replace("000001", "000002"))(root)
    check = check_dataset(open_dataset(root))
    assert [(problem.episode, problem.field) for problem in check.problems] == [
        (1, "action"),
        (1, KEY),
        (2, "timestamp"),
        (2, "observation.state"),
        (2, "action"),
    ]
    assert check.good == (0,) and check.frames == LENGTHS[0]
    with pytest.raises(BadData, match="2 of 3 episodes cannot be used") as caught:
        check.require()
    assert caught.value.hint == "Leave out the episodes 1, 2, or mend them."


def test_statistics_are_not_needed(copied) -> None:
    root = copied("v30")
    gone("meta/stats.json")(root)
    assert check_dataset(open_dataset(root)).problems == ()


def test_only_the_cameras_asked_for_are_looked_at(copied) -> None:
    root = copied("v21")
    gone(V2_VIDEO)(root)
    assert check_dataset(open_dataset(root), cameras=()).problems == ()
