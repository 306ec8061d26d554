"""Difficult and broken videos: each is handled, each is named with a reason, none ends the work on the others."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from common.errors import BadData
from common.folders import open_folder
from common.video import UnreadableVideo, decode, probe
from tests.bad_videos import BAD, CASES, USABLE, WARNED, Case, encode, make_all, zeroed_middle

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """name -> (outcome, reason or warnings) of one folder that holds all cases."""
    folder = tmp_path_factory.mktemp("all")
    make_all(folder)
    found = open_folder(folder)
    usable = {
        clip.name: (WARNED if clip.info.warnings else USABLE, "; ".join(clip.info.warnings)) for clip in found.clips
    }
    return {**usable, **{file.name: (BAD, file.reason) for file in found.bad}}


def test_there_are_many_cases() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 50


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name))
def test_each_file_is_handled_as_expected(case: Case, outcomes: dict[str, tuple[str, str]]) -> None:
    outcome, text = outcomes[case.name]
    assert outcome == case.outcome and case.text in text, (outcome, text)
    assert (outcome == USABLE) == (not text) and "\n" not in text and len(text) < 250


def test_every_file_is_accounted_for(outcomes: dict[str, tuple[str, str]]) -> None:
    assert set(outcomes) == {case.name for case in CASES}


@pytest.mark.parametrize("case", [case for case in CASES if case.outcome == WARNED], ids=lambda case: case.name)
def test_what_is_left_of_a_damaged_file_can_be_decoded(case: Case, tmp_path: Path) -> None:
    case.make(tmp_path / case.name)
    info = probe(tmp_path / case.name)
    assert len(list(decode(tmp_path / case.name, size=(24, 32)))) == info.frames


def test_a_damaged_middle_raises_after_the_good_frames_or_is_concealed(tmp_path: Path) -> None:
    zeroed_middle(tmp_path / "clip.mp4")
    count = 0
    with pytest.raises(UnreadableVideo, match="damaged"):
        for _ in decode(tmp_path / "clip.mp4"):
            count += 1
    assert 10 < count < 60


def test_only_bad_files_end_with_their_reasons(tmp_path: Path) -> None:
    cases = make_all(tmp_path, outcomes=(BAD,))
    with pytest.raises(BadData) as error:
        open_folder(tmp_path)
    assert error.value.exit_code == 4
    assert f"{len(cases)} tried" in str(error.value) and "empty.mp4: empty file (0 bytes)" in str(error.value)


@pytest.mark.parametrize("bad", [1, 10, 100])
def test_a_share_of_bad_files_costs_only_those(tmp_path: Path, bad: int) -> None:
    encode(tmp_path / "good.mp4", count=5)
    for index in range(100):
        (tmp_path / f"{index:03d}.mp4").write_bytes(
            b"<html>" if index < bad else (tmp_path / "good.mp4").read_bytes(),
        )
    found = open_folder(tmp_path)
    assert len(found.clips) == 101 - bad and len(found.bad) == bad


def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(UnreadableVideo, match="pipe"):
        probe(tmp_path / "pipe.mp4")
    with pytest.raises(UnreadableVideo, match="pipe"):
        next(decode(tmp_path / "pipe.mp4"))


def test_files_without_permission_are_named() -> None:
    """In a child that gives up its rights: the tests may run as root, who may read everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encode(folder / "good.mp4", count=5)
        encode(folder / "secret.mp4", count=5)
        (folder / "closed").mkdir()
        encode(folder / "closed/inside.mp4", count=5)
        (folder / "secret.mp4").chmod(0)
        (folder / "closed").chmod(0)
        folder.chmod(0o755)
        code = (
            "import json, os, sys; from common.folders import open_folder;"
            "os.getuid() or os.seteuid(65534); found = open_folder(sys.argv[1]);"
            "print(json.dumps([[c.name for c in found.clips], {f.name: f.reason for f in found.bad}]))"
        )
        try:
            result = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code, name],
                cwd=ROOT,
                env={**os.environ, "HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"},
                capture_output=True,
                text=True,
                timeout=60,
            )
        finally:
            (folder / "closed").chmod(0o755)
        assert result.returncode == 0, result.stderr
        good, bad = json.loads(result.stdout)
        assert good == ["good.mp4"] and set(bad) == {"secret.mp4", "closed"}
        assert "permission" in bad["secret.mp4"] and "ermission denied" in bad["closed"]


def fuzz(count: int, *, seed: int) -> dict[str, int]:
    result = subprocess.run(
        [sys.executable, "-m", "tests.fuzz_videos", str(count), str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60 + count,
    )
    assert result.returncode == 0, f"ended with {result.returncode}: {result.stderr[-500:]}"
    return json.loads(result.stdout.splitlines()[-1])


def test_random_damage_never_crashes_or_hangs() -> None:
    tally = fuzz(300, seed=0)
    assert tally["usable"] + tally["unreadable"] + tally["failed while decoding"] == 300
    assert min(tally["usable"], tally["unreadable"]) > 30, "the damage is too mild or too hard to test anything"
    assert tally["peak MB"] < 1000


@pytest.mark.slow
def test_much_random_damage_never_crashes_or_hangs() -> None:
    tally = fuzz(3000, seed=1)
    assert tally["usable"] + tally["unreadable"] + tally["failed while decoding"] == 3000
    assert tally["peak MB"] < 1000
