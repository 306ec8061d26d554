"""Recordings: what is in them, what a kill leaves of them, and that nothing else waits for them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from align.datasets import open_dataset
from common.errors import BadData
from scripts import cli
from simulator import recorder, recording
from simulator.protocol import Keep, Record, Source
from simulator.recording import RecordingWriter, finish, read_recording
from simulator.takes import Pass, Shown, Take
from tests.drawn_session import SIZE, middle, recorded_rows
from tests.test_engine import HELD, drive
from tests.watched_engine import Watched

REPOSITORY = Path(__file__).parent.parent


def recorded(watched: Watched) -> Path:
    """The folder of the recording that was finished last."""
    watched.wait(lambda: watched.of("recorded"))
    folder = watched.engine._recorder._folder
    return folder / watched.of("recorded")[-1]["id"]


def film(folder: Path) -> np.ndarray:
    with av.open(str(folder / "film.mp4")) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_recording_is_the_film_and_a_dataset_of_it(tmp_path: Path):
    with Watched(tmp_path) as watched:
        watched.begin(seed=3)
        watched.say(Record(True))
        assert watched.engine.state()["recording"]
        places = [(0.1 * number, 0.9 - 0.1 * number, 0.5, 0.0) for number in range(1, 8)]
        shown = [watched.step(*place).frames for place in places]
        watched.say(Record(False))
        assert not watched.engine.state()["recording"]
        folder = recorded(watched)
    assert watched.of("recorded")[-1]["frames"] == 1 + 4 * 7
    frames = film(folder)
    assert np.abs(frames[1:].astype(int) - np.concatenate(shown)).mean() < 8
    dataset = open_dataset(folder)
    (episode,) = dataset.episodes
    assert (dataset.fps, dataset.action_names) == (10, ("x", "y", "opening", "sweep"))
    pictures, actions = dataset.frames(episode, None), dataset.actions(episode)
    assert len(pictures) == len(actions) == 29
    for row in range(28):  # row t leads from frame t to frame t+1
        assert np.allclose(middle(pictures[row + 1]), actions[row, :2], atol=0.03), row
    session = json.loads((folder / "session.json").read_text())
    assert session["finished"] and session["frames"] == 29 and session["fps"] == 20
    assert cli.main(["data", "check", str(folder)]) == 0


def test_a_pass_is_logged_with_what_made_it(tmp_path: Path):
    with Watched(tmp_path) as watched:
        watched.begin()
        watched.say(Record(True))
        watched.step(*HELD)
        watched.say(Source("recorded"))
        watched.step()
        watched.say(Record(False))
        (take,) = read_recording(recorded(watched)).takes
    by_hand, by_data = take.take.passes
    assert (by_hand.source, by_hand.seq, by_hand.ts, by_hand.first) == ("human", 1, 0.0, 1)
    assert (by_data.source, by_data.seq, by_data.ts, by_data.first) == ("recorded", None, None, 5)
    assert np.array_equal(by_data.controls, recorded_rows()[:4]), "to the last bit"
    assert len(set(by_data.hashes)) == 4
    assert by_hand.at == pytest.approx(1000 * time.time(), abs=60_000)


def test_each_reset_begins_an_episode(tmp_path: Path):
    with Watched(tmp_path) as watched:
        watched.begin(seed=1)
        watched.say(Record(True))
        watched.step(*HELD)
        watched.begin(seed=2, scene="tiles-2")
        watched.begin(seed=3, scene="tiles-2")  # nothing comes of it
        watched.begin(seed=4, scene="tiles-1")
        watched.step(*HELD)
        watched.step(*HELD)
        watched.say(Record(False))
        folder = recorded(watched)
    assert [(take.take.scene, take.take.seed) for take in read_recording(folder).takes] == [
        ("tiles-1", 1),
        ("tiles-2", 2),
        ("tiles-2", 3),
        ("tiles-1", 4),
    ]
    assert [episode.length for episode in open_dataset(folder).episodes] == [5, 9]
    assert len(film(folder)) == 5 + 1 + 1 + 9


def test_one_that_begins_late_holds_every_row_since_the_reset(tmp_path: Path):
    with Watched(tmp_path) as watched:
        watched.begin()
        for number in range(5):
            watched.step(0.1 * number, *HELD[1:])
        watched.say(Record(True))
        watched.step(*HELD)
        watched.say(Record(False))
        folder = recorded(watched)
    (take,) = read_recording(folder).takes
    assert take.shown_from == 20
    assert [made.first for made in take.take.passes] == [1, 5, 9, 13, 17, 21]
    assert len(film(folder)) == 5
    (episode,) = open_dataset(folder).episodes
    assert np.allclose(open_dataset(folder).actions(episode), HELD, atol=1e-6), "only of what was shown"


def test_the_last_ten_seconds_are_kept(tmp_path: Path):
    with Watched(tmp_path, fps=4) as watched:  # a pass is a second
        watched.begin(seed=1)
        watched.step(*HELD)
        watched.begin(seed=2)
        for number in range(13):
            watched.step(0.05 * number, *HELD[1:])
        watched.say(Keep())
        folder = recorded(watched)
        (take,) = read_recording(folder).takes
        assert take.take.seed == 2 and take.shown_from == 13 and len(take.take.passes) == 13
        assert len(film(folder)) == watched.of("recorded")[0]["frames"] == 40
        watched.begin(seed=3)
        watched.step(*HELD)
        watched.say(Keep())  # across a reset
        watched.wait(lambda: len(watched.of("recorded")) == 2)
        assert [take.take.seed for take in read_recording(recorded(watched)).takes] == [2, 3]
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_grows_with_the_length_of_a_session_but_rows_and_hashes(tmp_path: Path):
    with Watched(tmp_path, fps=4) as watched:
        watched.begin()
        for _ in range(30):
            watched.step(*HELD)
        recorder = watched.engine._recorder
        assert len(recorder._ring) == 10
        assert watched.engine._last is not None
        assert len(watched.engine._last.take.passes) == 30


def test_a_recording_without_a_pass_is_none(tmp_path: Path):
    with Watched(tmp_path) as watched:
        watched.begin()
        watched.say(Record(True), Record(True), Record(False), Record(False))
        watched.wait(lambda: watched.of("error"))
        assert watched.of("error")[0]["message"].startswith("nothing was recorded")
        assert not list(tmp_path.iterdir())
        watched.step(*HELD)


def test_a_full_disk_ends_the_recording_and_nothing_else(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with Watched(tmp_path / "file") as watched:
        watched.begin()
        watched.say(Record(True))
        watched.wait(lambda: watched.of("error"))
        assert "the recording has failed" in watched.of("error")[0]["message"]
        watched.wait(lambda: not watched.engine.state()["recording"])
        assert watched.step(*HELD).header["first"] == 1


def test_a_slow_disk_never_holds_up_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    add = RecordingWriter.add

    def slowly(self: RecordingWriter, shown: Shown) -> None:
        time.sleep(0.3)
        add(self, shown)

    monkeypatch.setattr(RecordingWriter, "add", slowly)
    monkeypatch.setattr(recorder, "MOST_WAITING", 3)
    with Watched(tmp_path) as watched:
        watched.begin()
        watched.say(Record(True))
        began = time.monotonic()
        for _ in range(8):
            watched.step(*HELD)
        assert time.monotonic() - began < 2
        watched.wait(lambda: watched.of("error"))
        assert "slower than the model" in watched.of("error")[0]["message"]
        assert not watched.engine.state()["recording"]
        folder = recorded(watched)
    assert read_recording(folder).finished, "what there was of it is whole"


def test_closing_the_engine_finishes_the_recording(tmp_path: Path):
    with Watched(tmp_path) as watched:
        watched.begin()
        watched.say(Record(True))
        drive(watched, HELD, passes=3)
    (folder,) = tmp_path.iterdir()
    found = read_recording(folder)
    assert found.finished
    assert len(found.takes[0].take.passes) == len(watched.session.steps), "the last pass, too"


KILLED = """
import sys, time
from pathlib import Path
from simulator.protocol import Control, Record, Reset, Resume
from tests.drawn_session import drawn_engine

engine = drawn_engine(Path(sys.argv[1]), fps=40)
engine.subscribe(lambda event: None if isinstance(event, dict) else print(event.number, flush=True))
engine.start()
for message in (Reset(1), Record(True), Control(0, (0.5,) * 4), Resume()):
    engine.handle(message)
for seq in range(100000):
    engine.handle(Control(seq, (0.2 + 0.001 * (seq % 600), 0.5, 0.5, 0.1)))
    time.sleep(0.02)
"""


def kill_while_recording(folder: Path, *, passes: int) -> int:
    """Number of the last pass that was shown before a process was killed, at once after it."""
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    last = 0
    try:
        for line in child.stdout:
            last = int(line)
            if last >= passes:
                break
    finally:
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read().split()
        child.wait()
    return int(rest[-1]) if rest else last


@pytest.mark.parametrize("passes", [25, *[pytest.param(n, marks=pytest.mark.slow) for n in (12, 18, 31, 37, 44, 60)]])
def test_a_kill_costs_at_most_a_second(tmp_path: Path, passes: int):
    last = kill_while_recording(tmp_path, passes=passes)
    (folder,) = tmp_path.iterdir()
    cut = read_recording(folder)
    assert not cut.finished
    assert last - len(cut.takes[0].take.passes) <= 10, "ten passes are a second"
    frames = finish(folder)
    assert frames >= 4 * last - 40
    assert read_recording(folder).finished
    (episode,) = open_dataset(folder).episodes
    pictures, actions = open_dataset(folder).frames(episode, None), open_dataset(folder).actions(episode)
    assert len(pictures) == frames
    assert np.allclose(middle(pictures[-1]), actions[-2, :2], atol=0.03)


def take_of(frames: np.ndarray, *, seed: int = 0) -> tuple[Take, list[Shown]]:
    """A take that showed frames (1 + 4 n, H, W, 3); each row says which frame it leads to."""
    take = Take("scene", "a scene", seed, frames[0], np.zeros(1, np.float32))
    shown = [Shown(take, 0, frames[:1], None)]
    for first in range(1, len(frames), 4):
        rows = np.arange(first, first + 4, dtype=np.float32)[:, None]
        take.passes.append(Pass(first, rows, ("hash",) * 4, "human", None, None, 0.0))
        shown.append(Shown(take, first, frames[first : first + 4], take.passes[-1]))
    return take, shown


def write(folder: Path, parts: list[Shown]) -> Path:
    from simulator.columns import Column

    folder.mkdir()
    writer = RecordingWriter(
        folder, columns=[Column("frame", "frame", "absolute", "", 0, 99)], fps=20, rate=10, origin=None
    )
    for part in parts:
        writer.add(part)
    writer.close()
    return folder


def numbered(length: int, *, height: int = 16, width: int = 16) -> np.ndarray:
    """Frame n is of the grey 5 n."""
    levels = 5 * np.arange(length, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (length, height, width, 3)).copy()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31)])
def test_long_takes_become_several_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int):
    monkeypatch.setattr(recording, "EPISODE_BYTES", 10 * height * width * 3)
    folder = write(tmp_path / "long", take_of(numbered(25, height=height, width=width))[1])
    assert finish(folder) == 25
    dataset = open_dataset(folder)
    assert [episode.length for episode in dataset.episodes] == [10, 10, 5]
    for episode, start in zip(dataset.episodes, (0, 10, 20), strict=True):
        pictures, actions = dataset.frames(episode, None), dataset.actions(episode)
        shown = np.rint(pictures[:, :height, :width].mean((1, 2, 3)) / 5)
        assert np.array_equal(shown, start + np.arange(episode.length))
        assert np.array_equal(actions[:, 0], np.minimum(start + 1 + np.arange(episode.length), 24))


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path):
    folder = write(tmp_path / "cut", take_of(numbered(9))[1])
    whole = (folder / "passes.jsonl").read_text()
    (folder / "passes.jsonl").write_text(whole[:-30])
    assert [made.first for made in read_recording(folder).takes[0].take.passes] == [1]
    assert finish(folder) == 5, "no frame without its row"
    assert finish(folder) == 5, "and again"


def changed_line(folder: Path, number: int, change: Callable[[dict[str, Any]], object]) -> None:
    lines = [json.loads(line) for line in (folder / "passes.jsonl").read_text().splitlines()]
    change(lines[number])
    (folder / "passes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def picture_from_elsewhere(folder: Path) -> None:
    (folder / "take-1.png").rename(folder.parent / "take-1.png")
    changed_line(folder, 0, lambda line: line.update(picture="../take-1.png"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "session.json").unlink(),
        lambda folder: (folder / "session.json").write_text("[]"),
        lambda folder: (folder / "session.json").write_text('{"version": 99}'),
        lambda folder: (folder / "passes.jsonl").write_text("{}\n"),
        lambda folder: (folder / "passes.jsonl").write_text("not JSON\n"),
        lambda folder: (folder / "take-1.png").write_bytes(b"none"),
        lambda folder: picture_from_elsewhere(folder),
        lambda folder: changed_line(folder, 1, lambda line: line.update(unknown=1)),
        lambda folder: changed_line(folder, 1, lambda line: line.pop("hashes")),
    ],
)
def test_a_damaged_recording_is_bad_data(tmp_path: Path, damage: Callable[[Path], object]):
    folder = write(tmp_path / "whole", take_of(numbered(5))[1])
    read_recording(folder)
    damage(folder)
    with pytest.raises(BadData, match="recording"):
        read_recording(folder)


def test_a_recording_without_frames_cannot_be_finished(tmp_path: Path):
    folder = write(tmp_path / "none", take_of(numbered(1))[1])
    with pytest.raises(BadData, match="nothing was recorded"):
        finish(folder)
    for length in (300, 0):  # killed before the film's first fragment, or before its head
        (folder / "film.mp4").write_bytes((folder / "film.mp4").read_bytes()[:length])
        with pytest.raises(BadData, match="nothing was recorded"):
            finish(folder)
    (folder / "film.mp4").unlink()
    with pytest.raises(BadData, match="nothing was recorded"):
        finish(folder)


def test_two_recordings_of_one_second_have_two_names(tmp_path: Path):
    with Watched(tmp_path) as watched:
        watched.begin()
        watched.step(*HELD)
        for _ in range(3):
            watched.say(Keep())
        watched.wait(lambda: len(watched.of("recorded")) == 3)
    assert len({event["id"] for event in watched.of("recorded")}) == 3
    assert film(next(tmp_path.iterdir())).shape == (5, SIZE, SIZE, 3)
