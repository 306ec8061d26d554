"""The engine's rules: what a pass reads and when, how a session pauses and stops, what it does when something fails."""

import json
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from align.control_group import ControlGroup
from align.embodiment import RobotEmbodiment
from common.errors import UserError
from simulator import protocol, sources
from simulator.columns import latent_columns, robot_columns
from simulator.engine import Engine, next_due, small_picture
from simulator.protocol import Control, Keep, Pause, Record, Reset, Resume, SingleStep, Source, Stop
from tests.drawn_session import BEFORE, BODY, FPS, SIDE, SIZE, DrawnSession, drawn_scenes, ground, middle, recorded_rows
from tests.watched_engine import Watched, picture_of

PERIOD = 4 / FPS
HELD = (0.3, 0.6, 1.0, 0.5)


@pytest.fixture
def watched(tmp_path: Path):
    with Watched(tmp_path) as engine:
        yield engine


def drive(watched: Watched, values: tuple[float, ...], *, passes: int) -> None:
    """Run, with a control message every 20 ms, until so many passes more are made."""
    end = len(watched.passes) + passes
    watched.say(Control(1, values), Resume())
    seq = 1
    while len(watched.passes) < end:
        seq += 1
        watched.say(Control(seq, values), Resume())  # again, where this machine was too busy for 250 ms
        time.sleep(0.02)


def test_a_newcomer_is_told_what_there_is(watched: Watched):
    welcome = watched.engine.welcome()
    assert json.loads(json.dumps(welcome)) == welcome
    assert (welcome["version"], welcome["robot"], welcome["granularity_ms"]) == (1, "square", 200)
    assert [column["name"] for column in welcome["columns"]] == ["x", "y", "opening", "sweep"]
    assert welcome["sources"] == ["human", "recorded"]
    first = welcome["scenes"][0]
    assert (first["id"], first["name"]) == ("tiles-1", "Tiles, the first")
    assert np.abs(picture_of(first).astype(int) - ground(1)).mean() < 5
    assert max(picture_of({"picture": small_picture(np.zeros((480, 640, 3), np.uint8))}).shape) == 160
    assert (welcome["height"], welcome["width"], welcome["frames_per_pass"]) == (SIZE, SIZE, 4)
    assert welcome["state"]["state"] == "stopped"
    scene = watched.engine.scene()  # before any reset: what one would begin from
    assert scene["controls"] == BEFORE.tolist()
    assert np.abs(picture_of(scene).astype(int) - ground(1)).mean() < 5


def test_limits_are_wider_than_the_data_but_for_grippers_and_hard_ones():
    found = {column.name: (round(column.low, 6), round(column.high, 6), column.live) for column in robot_columns(BODY)}
    assert found == {
        "x": (0.05, 0.95, True),  # 0.2 to 0.8, half as wide again
        "y": (0.05, 0.95, True),
        "opening": (0, 1, True),
        "sweep": (-1.5, 1.5, True),
    }
    groups = (ControlGroup("arm", 0, 2, "absolute", limits=((0, 1), (-9, 9))),)
    arm = RobotEmbodiment("arm", ("a", "b"), 10, groups, seen=((0.2, 1), (3, 3)))
    low, still = robot_columns(arm)
    assert (low.low, low.high, low.live) == (0, 1, True)
    assert (still.low, still.high, still.live) == (3, 3, False)
    with pytest.raises(UserError, match="fitted to no data"):
        robot_columns(RobotEmbodiment("arm", ("a", "b"), 10, groups))
    act, camera = latent_columns((0.1, 2.0), camera_dim=1)
    assert (act.name, act.group, act.low, act.high) == ("act 1", "act", -3 * 0.1, 3 * 0.1)
    assert (camera.name, camera.group, camera.high) == ("camera 1", "camera", 6.0)


def test_nothing_goes_on_before_a_reset(watched: Watched):
    for message in (Resume(), SingleStep()):
        with pytest.raises(ValueError, match="reset first"):
            watched.say(message)
    watched.say(Control(1, HELD), Pause())
    assert watched.state == "stopped" and not watched.passes


def test_a_reset_shows_the_scene_and_pauses(watched: Watched):
    watched.begin(seed=5, scene="tiles-2")
    (scene,) = watched.of("scene")
    assert (scene["scene"], scene["seed"], scene["controls"]) == ("tiles-2", 5, BEFORE.tolist())
    assert np.abs(picture_of(scene).astype(int) - ground(2)).mean() < 5
    state = watched.engine.state()
    assert (state["state"], state["scene"], state["seed"], state["made"]) == ("paused", "tiles-2", 5, 0)
    time.sleep(2 * PERIOD)
    assert not watched.passes


def test_a_single_step_makes_one_pass_of_four_rows(watched: Watched):
    watched.begin(seed=7)
    made = watched.step(*HELD)
    header = made.header
    assert (header["number"], header["first"], header["n"], header["seed"]) == (1, 1, 4, 7)
    assert (header["scene"], header["state"], header["source"]) == ("tiles-1", "paused", "human")
    assert (header["action_seq"], header["action_ts"]) == (1, 0)
    assert 0 <= header["age_ms"] < 5000
    assert np.allclose(made.controls, np.tile(HELD, (4, 1)))
    assert len(made.jpegs) == 4
    assert np.allclose(middle(made.frames[-1]), (0.3, 0.6), atol=0.03)
    assert header["sim_time"] == pytest.approx(0.4)  # the robot's ten rows a second, not the twenty frames shown
    assert header["made_at"] == pytest.approx(1000 * time.time(), abs=10_000)
    assert header["t_model_ms"] >= 0 and header["t_encode_ms"] > 0 and "total" in header["parts"]
    assert watched.engine.state()["made"] == 4
    assert watched.step(*HELD).header["first"] == 5
    assert len(watched.session.steps) == 2


def test_one_row_is_used_for_each_frame(watched: Watched):
    watched.begin()
    watched.say(Source("recorded"))
    for _ in range(3):
        watched.step()
    used = np.concatenate([made.controls for made in watched.passes])
    assert np.allclose(used[:10], recorded_rows())
    assert np.allclose(used[10:], np.tile(recorded_rows()[-1], (2, 1))), "then nothing is done"


def test_a_pass_uses_the_controls_that_came_last_before_it_began(tmp_path: Path):
    """They come all the time, also while a pass is under way; each names the newest at its beginning."""
    with Watched(tmp_path, seconds=0.15, fps=200) as watched:
        watched.begin()
        watched.say(Control(0, HELD, 0.0), Resume())
        sent = {0: time.time()}
        for seq in range(1, 60):
            time.sleep(0.015)
            watched.say(Control(seq, HELD, 10.0 * seq))
            sent[seq] = time.time()
        watched.say(Pause())
    assert len(watched.passes) >= 3
    for made in watched.passes:
        began = made.header["made_at"] / 1000 - (made.header["t_model_ms"] + made.header["t_encode_ms"]) / 1000
        newest = max(seq for seq, at in sent.items() if at <= began + 0.002)
        assert newest - 1 <= made.header["action_seq"] <= newest + 1
        assert made.header["action_ts"] == 10.0 * made.header["action_seq"]


def test_passes_are_evenly_spaced_and_never_catch_up(tmp_path: Path):
    with Watched(tmp_path) as watched:
        watched.begin()
        drive(watched, HELD, passes=8)
    gaps = np.diff(watched.times[:8])
    assert np.median(gaps) == pytest.approx(PERIOD, abs=0.03)
    assert gaps.min() > 0.7 * PERIOD
    due = next_due(0.0, 100.0, period=1.0)
    assert due == 101.0, "the first is followed one period later"
    assert next_due(due, 101.1, period=1.0) == 102.0, "a little delay is no reason to drift"
    assert next_due(due, 107.5, period=1.0) == 108.5, "what was missed is not made up for"


def test_a_slow_model_goes_as_fast_as_it_can(tmp_path: Path):
    with Watched(tmp_path, seconds=0.05, fps=400) as watched:
        watched.begin()
        drive(watched, HELD, passes=6)
    assert np.median(np.diff(watched.times)) < 0.12


def test_pause_and_resume_lose_no_frame(watched: Watched):
    watched.begin()
    for _ in range(3):
        drive(watched, HELD, passes=2)
        watched.say(Pause())
        made = len(watched.session.steps)
        time.sleep(1.5 * PERIOD)
        assert len(watched.session.steps) <= made + 1, "the pass under way, at most"
        assert watched.state == "paused" and watched.reason == ""
    assert watched.firsts() == list(range(1, 4 * len(watched.passes), 4))
    assert [made.header["number"] for made in watched.passes] == list(range(1, len(watched.passes) + 1))


def test_what_is_asked_for_during_a_pass_happens_before_the_next(tmp_path: Path):
    with Watched(tmp_path, seconds=0.4, fps=400) as watched:
        watched.begin(seed=1)
        watched.say(Control(1, HELD), Resume())
        time.sleep(0.1)  # a pass is under way
        asked = time.monotonic()
        watched.say(Reset(seed=2))
        assert time.monotonic() - asked < 0.1, "nobody waits for the model"
        assert watched.engine.state()["made"] == 0
        watched.wait(lambda: len(watched.of("scene")) == 2)
        assert [made.header["seed"] for made in watched.passes] == [1]
        watched.step(*HELD)
        assert watched.passes[-1].header["seed"] == 2 and watched.passes[-1].header["first"] == 1


def test_a_stop_stops_and_only_a_reset_goes_on(watched: Watched):
    watched.begin()
    drive(watched, HELD, passes=1)
    watched.say(Stop())
    made = len(watched.session.steps)
    time.sleep(1.5 * PERIOD)
    assert len(watched.session.steps) <= made + 1 and watched.state == "stopped"
    with pytest.raises(ValueError, match="reset first"):
        watched.say(Resume())
    watched.begin()
    assert watched.step(*HELD).header["first"] == 1


def test_a_stop_before_a_reset_was_done_takes_it_back(tmp_path: Path):
    with Watched(tmp_path, seconds=0.3, fps=400) as watched:
        watched.begin()
        watched.say(SingleStep())
        time.sleep(0.1)
        watched.say(Reset(3), Stop())
        watched.wait(lambda: watched.passes)
        time.sleep(0.1)
        assert watched.state == "stopped" and len(watched.of("scene")) == 1


def test_without_controls_for_250_ms_it_does_nothing_once_and_pauses(watched: Watched):
    watched.begin()
    drive(watched, HELD, passes=2)
    silent = time.monotonic()
    watched.wait(lambda: watched.of("state")[-1]["state"] == "paused")
    assert time.monotonic() - silent > 0.2
    assert watched.reason == "no controls came for 250 ms"
    used = np.concatenate([made.controls for made in watched.passes])
    still = np.array([*HELD[:3], 0], np.float32)  # places and opening are held, the sweep ends
    assert np.allclose(used[-4:], still)
    assert np.allclose(used[:-4], HELD)
    assert watched.passes[-1].header["action_seq"] is None
    time.sleep(1.5 * PERIOD)
    assert np.allclose(watched.session.steps[-1], still) and len(watched.session.steps) == len(watched.passes)


def test_nothing_is_done_until_controls_come_after_a_pause(watched: Watched):
    """What was held before the pause is no longer asked for."""
    watched.begin()
    watched.step(*HELD)
    watched.say(Control(9, HELD), Resume(), Pause())
    made = watched.step()
    assert np.allclose(made.controls, [*HELD[:3], 0])
    assert made.header["action_seq"] is None


def test_the_driver_is_lost_and_may_come_back(watched: Watched):
    watched.begin()
    drive(watched, HELD, passes=1)
    watched.engine.driver_lost("the driver left")
    watched.wait(lambda: watched.of("state")[-1]["reason"] == "the driver left")
    assert watched.state == "paused"
    assert np.allclose(watched.passes[-1].controls, [*HELD[:3], 0])
    made = len(watched.passes)
    drive(watched, HELD, passes=2)
    assert watched.firsts()[made] == 4 * made + 1, "it goes on where it was"
    watched.say(Pause())
    watched.engine.driver_lost("the driver left again")
    time.sleep(0.1)
    assert watched.reason == "", "a paused session has nobody to miss"


def test_controls_are_clipped_and_counted(watched: Watched):
    watched.begin()
    used = watched.step(9.0, -9.0, 2.0, 100.0).controls[0]
    assert np.allclose(used, (0.95, 0.05, 1.0, 1.5))
    for values in ((0.5,) * 3, (0.5,) * 5, ()):
        with pytest.raises(ValueError, match=f"4 values here, not {len(values)}"):
            watched.say(Control(1, values))


def test_recorded_controls_play_and_pause_at_their_end(watched: Watched):
    watched.begin()
    watched.say(Source("recorded"), Resume())
    watched.wait(lambda: len(watched.passes) == 3)
    watched.wait(lambda: watched.of("state")[-1]["state"] == "paused")
    assert watched.reason == "the recorded controls are at their end"
    assert [made.header["source"] for made in watched.passes] == ["recorded"] * 3
    assert watched.passes[0].header["age_ms"] is None
    used = np.concatenate([made.controls for made in watched.passes])[:10]
    assert np.allclose(used, recorded_rows()), "as they are: they are the data's own"
    assert np.allclose(middle(watched.passes[1].frames[0]), middle_of(used[4]), atol=0.03)
    for message in (Resume(), SingleStep()):
        with pytest.raises(ValueError, match="at their end"):
            watched.say(message)
    watched.say(Source("human"))
    assert watched.step(*HELD).header["first"] == 13
    watched.say(Source("recorded"))
    watched.begin()
    assert np.allclose(watched.step().controls, recorded_rows()[:4]), "a reset begins them anew"


def middle_of(row: np.ndarray) -> tuple[float, float]:
    """Where a square is drawn: at whole pixels."""
    reach = SIZE - SIDE
    return round(float(row[0]) * reach) / reach, round(float(row[1]) * reach) / reach


def test_a_scene_without_recorded_controls_is_driven_by_hand(watched: Watched):
    watched.begin(scene="tiles-2")
    with pytest.raises(ValueError, match="no recorded controls"):
        watched.say(Source("recorded"))
    with pytest.raises(ValueError, match="human, recorded, not 'policy'"):
        watched.say(Source("policy"))
    watched.begin(scene="tiles-1")
    watched.say(Source("recorded"))
    watched.begin(scene="tiles-2")
    state = watched.engine.state()
    assert (state["source"], state["reason"]) == ("human", "this scene has no recorded controls")


def test_an_unknown_scene_is_named(watched: Watched):
    for scene in ("../../etc/passwd", "", "tiles-3"):
        with pytest.raises(ValueError, match="no scene"):
            watched.say(Reset(0, scene))
    assert watched.state == "stopped"


def test_a_picture_becomes_a_scene(watched: Watched):
    picture = ground(9)
    scene = watched.engine.add_scene("my table", picture)
    assert (scene.id, "my table") in [(one["id"], one["name"]) for one in watched.engine.welcome()["scenes"]]
    watched.begin(scene=scene.id)
    assert watched.of("scene")[-1]["controls"] == pytest.approx([0.5, 0.5, 0.5, 0.0])  # the middle of the data
    with pytest.raises(ValueError, match="must be uint8"):
        watched.engine.add_scene("large", np.zeros((SIZE, SIZE + 1, 3), np.uint8))
    for number in range(40):
        watched.engine.add_scene(f"{number}", picture)
    names = [scene["name"] for scene in watched.engine.welcome()["scenes"]]
    assert len(names) == 2 + 32 and names[-1] == "39" and "my table" not in names
    assert watched.step(*HELD).header["scene"] == scene.id, "the one that is played goes on"


def test_a_failing_model_stops_the_session_and_nothing_else(watched: Watched):
    watched.begin()
    watched.session.broken = "CUDA out of memory"
    watched.say(Control(1, HELD), Resume())
    watched.wait(lambda: watched.of("error"))
    assert watched.of("error")[0]["message"] == "the model failed: CUDA out of memory"
    watched.wait(lambda: watched.of("state")[-1]["state"] == "stopped")
    assert not watched.passes and "out of memory" in watched.reason
    watched.session.broken = "again"
    watched.say(Reset(0))
    watched.wait(lambda: len(watched.of("error")) == 2)
    assert watched.state == "stopped"
    watched.begin()
    assert watched.step(*HELD).header["first"] == 1


def test_a_listener_that_fails_hurts_nobody(watched: Watched):
    heard = []

    def fail(event: object) -> None:
        heard.append(event)
        raise RuntimeError("the loop is closed")

    watched.engine.subscribe(fail)
    watched.begin()
    watched.step(*HELD)
    assert len(heard) == 1


def test_who_has_unsubscribed_hears_nothing(watched: Watched):
    heard: list[object] = []
    end = watched.engine.subscribe(heard.append)
    watched.begin()
    end()
    end()
    known = len(heard)
    watched.step(*HELD)
    assert len(heard) == known > 0


def test_all_hear_the_same_bytes(watched: Watched):
    heard: list[list[object]] = [[], []]
    for each in heard:
        watched.engine.subscribe(each.append)
    watched.begin()
    watched.step(*HELD)
    time.sleep(0.05)
    first, second = ([event for event in each if not isinstance(event, dict)] for each in heard)
    assert len(first) == 1 and first[0] is second[0]


def test_a_newcomer_sees_where_things_stand(watched: Watched):
    watched.begin(seed=4)
    made = watched.step(*HELD)
    watched.wait(lambda: watched.engine.state()["made"] == 4)
    scene = watched.engine.scene()
    assert np.allclose(scene["controls"], HELD) and scene["seed"] == 4
    assert np.array_equal(picture_of(scene), made.frames[-1])


def test_single_steps_that_wait_are_limited(tmp_path: Path):
    with Watched(tmp_path, seconds=0.2) as watched:
        watched.begin()
        with pytest.raises(ValueError, match="8 single steps are waiting"):
            watched.say(*[SingleStep()] * 20)
        watched.say(Pause(), Resume())
        with pytest.raises(ValueError, match="needs a pause"):
            watched.say(SingleStep())


def test_latent_actions_are_driven_too(tmp_path: Path):
    with Watched(tmp_path, robot=False) as watched:
        welcome = watched.engine.welcome()
        assert welcome["robot"] is None and welcome["sources"] == ["human"]
        assert [column["kind"] for column in welcome["columns"]] == ["latent"] * 3
        watched.begin()
        used = watched.step(1.0, 0.02, 0.0).controls
        assert np.allclose(used, [[0.15, 0.02, 0]] * 4), "three scales are the limit"
        x, y = middle(watched.passes[-1].frames[-1])
        assert x == pytest.approx(1.0, abs=0.03) and y == pytest.approx(0.58, abs=0.03)
        watched.say(Control(5, (0.1, 0.1, 0.1)), Pause(), Resume())
        watched.wait(lambda: watched.of("state")[-1]["reason"].startswith("no controls"))
        assert not watched.passes[-1].controls.any()


class SlowPolicy:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[np.ndarray, np.ndarray]] = []
        self.answers: list[Future[np.ndarray]] = []
        self.closed = False

    def ask(self, frame: np.ndarray, controls: np.ndarray) -> Future[np.ndarray]:
        self.asked.append((frame, controls))
        self.answers.append(Future())
        return self.answers[-1]

    def close(self) -> None:
        self.closed = True


def test_a_policy_is_asked_when_its_rows_are_used_up(tmp_path: Path):
    policy = SlowPolicy()
    with Watched(tmp_path, policy=policy) as watched:
        assert watched.engine.welcome()["sources"] == ["human", "recorded", "policy"]
        watched.begin()
        watched.say(Source("policy"), Resume())
        rows = np.linspace(0.2, 0.9, 40).reshape(10, 4)
        for number in range(2):
            watched.wait(lambda number=number: len(policy.answers) == number + 1)
            policy.answers[number].set_result(rows)
            watched.wait(lambda number=number: len(watched.passes) == 2 * number + 2)
        assert np.allclose(policy.asked[0][0], ground(1)) and np.allclose(policy.asked[0][1], BEFORE)
        assert np.allclose(middle(policy.asked[1][0]), middle_of(rows[7]), atol=0.01), "it sees the last frame"
        assert np.allclose(policy.asked[1][1], rows[7], atol=1e-6)
        used = np.concatenate([made.controls for made in watched.passes])
        assert np.allclose(used[:8], rows[:8]), "whole passes of its ten rows"
        assert np.allclose(used[8:16], rows[:8])
    assert policy.closed


def test_a_thinking_policy_holds_up_nothing(tmp_path: Path):
    policy = SlowPolicy()
    with Watched(tmp_path, policy=policy) as watched:
        watched.begin()
        watched.say(Source("policy"), Resume())
        watched.wait(lambda: policy.answers)
        watched.say(Pause())
        watched.wait(lambda: watched.of("state")[-1]["state"] == "paused")
        watched.begin(seed=1)  # while it still thinks
        policy.answers[0].set_result(np.full((4, 4), 0.9))  # about a film that is over
        watched.say(Resume())
        watched.wait(lambda: len(policy.answers) == 2)
        assert not watched.passes
        policy.answers[1].set_result(np.full((4, 4), 0.3))
        watched.wait(lambda: watched.passes)
        assert np.allclose(watched.passes[0].controls, 0.3)
        watched.say(Source("human"))
        watched.step(*HELD) if watched.state == "paused" else watched.say(Pause())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (OSError("ws://x was lost"), "the policy failed: ws://x was lost"),
        (np.zeros((4, 3)), "finite rows of 4 numbers"),
        (np.full((4, 4), np.nan), "not nan"),
        (np.zeros((0, 4)), "finite rows of 4 numbers"),
    ],
)
def test_a_policy_that_fails_pauses_the_session(tmp_path: Path, answer: object, reason: str):
    policy = SlowPolicy()
    with Watched(tmp_path, policy=policy) as watched:
        watched.begin()
        watched.say(Source("policy"), Resume())
        watched.wait(lambda: policy.answers)
        if isinstance(answer, Exception):
            policy.answers[0].set_exception(answer)
        else:
            policy.answers[0].set_result(np.asarray(answer))
        watched.wait(lambda: watched.of("error"))
        assert reason in watched.reason and watched.state == "paused" and not watched.passes
        watched.say(Resume())
        watched.wait(lambda: len(policy.answers) == 2)


def test_a_policy_that_never_answers_pauses_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "POLICY_SECONDS", 0.2)
    with Watched(tmp_path, policy=SlowPolicy()) as watched:
        watched.begin()
        watched.say(Source("policy"), Resume())
        watched.wait(lambda: watched.of("error"))
        assert "not answered in time" in watched.reason and not watched.passes


def test_a_policy_keeps_to_the_limits(tmp_path: Path):
    policy = SlowPolicy()
    with Watched(tmp_path, policy=policy) as watched:
        watched.begin()
        watched.say(Source("policy"), SingleStep())
        watched.wait(lambda: policy.answers)
        policy.answers[0].set_result(np.full((2, 4), 50.0))
        watched.wait(lambda: watched.passes)
        assert np.allclose(watched.passes[0].controls[:2], (0.95, 0.95, 1.0, 1.5))
        assert np.allclose(watched.passes[0].controls[2:], (0.95, 0.95, 1.0, 0.0)), "a short chunk, then nothing"


def test_a_session_needs_a_scene(tmp_path: Path):
    with pytest.raises(ValueError, match="a scene"):
        Engine(DrawnSession(), [], fps=FPS, recordings=tmp_path)


def test_what_is_no_wish_of_a_driver_is_refused(watched: Watched):
    for message in (protocol.Ack(1), protocol.Ping(), protocol.Hello(1)):
        with pytest.raises(ValueError, match="nothing to ask"):
            watched.say(message)
    with pytest.raises(ValueError, match="nothing to keep"):
        watched.say(Keep())


def test_closing_ends_in_good_order_and_may_be_done_twice(tmp_path: Path):
    watched = Watched(tmp_path)
    watched.engine.close()  # it was never started
    with Watched(tmp_path) as watched:
        watched.begin()
        watched.say(Record(True))
        drive(watched, HELD, passes=2)
    watched.engine.close()
    (recording,) = tmp_path.iterdir()
    assert json.loads((recording / "session.json").read_text())["finished"]
    made = len(watched.session.steps)
    time.sleep(1.5 * PERIOD)
    assert len(watched.session.steps) == made


def test_every_scene_is_of_one_size():
    assert {scene.first_frame.shape for scene in drawn_scenes()} == {(SIZE, SIZE, 3)}
