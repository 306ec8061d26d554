"""Live sessions: step by step what a rollout is, at any depth, again from any moment, one beside another."""

import gc

import numpy as np
import pytest
import torch

from align.adapter import HISTORY, Adapter
from align.control_group import ControlGroup
from align.embodiment import RobotEmbodiment
from align.robot import Robot, video_embodiment
from lam.model import LatentActionModel
from simulator.session import LatestControls, Moment, QueuedControls, Session, Step, step_together
from simulator.takes import frame_hash
from tests.test_video_model import randomise
from tests.tiny_robot import CODE, DECODER, LAM, SIDE, TOKENIZER, VIDEO
from video_model.films import as_films, as_pictures
from video_model.forecast import Forecaster
from video_model.generator import LATENT, Embodiment, Generator, build_video_model
from video_model.rollout import joined, rollout
from video_model.tiny_decoder import TinyDecoder
from video_model.tokenizer import build_tokenizer

GROUPS = (
    ControlGroup("arm", 0, 2, "absolute"),
    ControlGroup("wrist", 2, 5, "absolute", rotation="axis_angle", unit="rad"),
    ControlGroup("lift", 5, 6, "delta"),
    ControlGroup("base", 6, 7, "velocity"),
    ControlGroup("hand", 7, 8, "gripper"),
)
WIDTH = 8
BEFORE = np.linspace(-0.2, 0.5, WIDTH, dtype=np.float32)
KINDS = ("latent", "latent with forecast", "adapter", "own network", "from scratch")


def controls(length: int, *, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """A walk at random: the rows differ, and so do their changes."""
    return np.random.default_rng(seed).normal(0, 0.2, (length, width)).cumsum(0).astype(np.float32)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def shuffle(model: torch.nn.Module, seed: int) -> None:
    """Every weight counts, but none so much that rounding grows from latent to latent."""
    randomise(model, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5 if parameter.ndim > 1 else 1)


def generator(*, forecast: bool, robot: bool = False) -> Generator:
    torch.manual_seed(0)
    model = build_video_model(VIDEO.model, latent_channels=4, action_dim=CODE, forecast=forecast).eval()
    bodies = {LATENT: Embodiment(scale=(0.5,) * CODE, fps=10.0, camera_dim=10)}
    if robot:
        model.add_embodiment("arm", ARM.relative_dim)
        bodies["arm"] = video_embodiment(ARM)
    lam = LatentActionModel(LAM)
    shuffle(model, 0)
    shuffle(lam, 1)
    tokenizer = build_tokenizer(TOKENIZER.model).eval()
    return Generator(model, tokenizer, bodies, VIDEO, Forecaster(lam, identity="", span=3) if forecast else None)


ARM = RobotEmbodiment("arm", tuple("xyabclvo"), 10.0, GROUPS).fitted([controls(40, seed=s) for s in range(3)])


def adapter() -> Adapter:
    """One that says something about each of the last rows and about the place."""
    random = np.random.default_rng(0)
    changes, places, weights = (random.normal(size=s) for s in ((20, HISTORY, WIDTH), (20, 6), (6, 20, CODE)))
    return Adapter(np.full(WIDTH, 0.5), np.full(CODE, 0.01), changes, places, weights)


@pytest.fixture(scope="module")
def driven() -> dict[str, Robot | Generator]:
    plain, forecasting = generator(forecast=False), generator(forecast=True)
    own, scratch = generator(forecast=True, robot=True), generator(forecast=False, robot=True)
    none: frozenset[str] = frozenset()
    return {
        "latent": plain,
        "latent with forecast": forecasting,
        "adapter": Robot(forecasting, ARM, adapter(), own_network=False, learned_from=none),
        "own network": Robot(own, ARM, adapter(), own_network=True, learned_from=none),
        "from scratch": Robot(scratch, ARM, None, own_network=True, learned_from=none),
    }


def begun(driven: Robot | Generator, *, seed: int = 0, steps: int | None = None) -> Session:
    session = Session(driven, steps=steps)
    session.reset(picture(), seed=seed, before=BEFORE if isinstance(driven, Robot) else None)
    return session


def last(session: Session) -> torch.Tensor:
    """The last frames as the model made them."""
    return session.snapshot().stream.last


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_rollout_bit_for_bit(driven: dict[str, Robot | Generator], kind: str):
    which = driven[kind]
    session, rows = begun(which, seed=3), controls(38, width=WIDTH if isinstance(which, Robot) else CODE)
    first = as_films([picture()[None]], "cpu")[:, 0]
    if isinstance(which, Robot):
        film = which.rollout(first, rows[None], BEFORE[None], seed=3)
    else:
        film = rollout(which, first, torch.from_numpy(rows)[None], seed=3)
    truth, number = as_pictures(film[0]), 1
    for start in range(0, len(rows), 4):  # nine times four rows, then two
        step = session.step(rows[start : start + 4])
        assert step.first == number
        shown = truth[number : number + 4]
        assert np.array_equal(step.frames[: len(shown)], shown)
        if len(shown) == 4:
            assert torch.equal(last(session)[0], film[0, number + 3])
        number += 4
    assert (np.abs(np.diff(truth.astype(int), axis=0)).mean((1, 2, 3)) > 1).all(), "the film moves"
    again = Session(which)
    shown = again.reset(picture(), seed=3, before=BEFORE if isinstance(which, Robot) else None)
    assert np.array_equal(shown, truth[0])


@pytest.mark.parametrize(("latent", "frame"), [(2, 7), (18, 70), (175, 700)])
def test_an_action_changes_the_frames_after_it_and_none_before(
    driven: dict[str, Robot | Generator], latent: int, frame: int
):
    rows = controls(4 * latent, width=CODE)
    changed = rows.copy()
    changed[frame - 1] += 0.5  # row t leads from frame t to frame t + 1
    shown: list[list[Step]] = []
    for told in (rows, changed):
        session, queue = begun(driven["latent"], steps=1), QueuedControls(CODE)
        queue.offer(told)
        shown.append([session.step(queue.take()) for _ in range(latent)])
        assert not queue
    plain, other = shown
    numbers = range(plain[-1].first, plain[-1].first + 4)
    assert frame in numbers
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(plain[:-1], other[:-1], strict=True))
    assert not np.array_equal(plain[-1].frames[frame - numbers[0]], other[-1].frames[frame - numbers[0]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_moment_goes_on_bit_for_bit(driven: dict[str, Robot | Generator], kind: str):
    session = begun(driven[kind])
    parts = controls(40, width=session.width).reshape(10, 4, -1)
    for part in parts[:5]:
        session.step(part)
    moment = session.snapshot()
    true = [session.step(part) for part in parts[5:]]
    session.step(-parts[0])
    for other in (session, Session(driven[kind]), session):  # in another session, too, and twice
        other.restore(moment)
        again = [other.step(part) for part in parts[5:]]
        assert all(np.array_equal(a.frames, b.frames) and a.first == b.first for a, b in zip(true, again, strict=True))


@pytest.mark.parametrize(("kind", "rounding"), [("latent", 1e-5), ("from scratch", 1e-5), ("adapter", 1e-4)])
def test_sessions_of_a_batch_are_those_alone(driven: dict[str, Robot | Generator], kind: str, rounding: float):
    """With a forecast, which moves pictures by what it computes, rounding counts for more."""
    which = driven[kind]
    robot = isinstance(which, Robot)
    together = Session(which)
    before = np.stack([BEFORE, BEFORE + 0.1, BEFORE - 0.1])
    shown = together.reset(np.stack([picture(n) for n in range(3)]), seed=5, before=before if robot else None)
    rows = [controls(20, width=together.width, seed=n).reshape(5, 4, -1) for n in range(3)]
    counts = [(4, 4, 4), (4, 1, 0), (2, 3, 4), (0, 0, 0), (4, 4, 4)]  # some have fewer rows to give
    films, ends = [], []
    for place, each in enumerate(counts):
        films.append(together.step([own[place][:count] for own, count in zip(rows, each, strict=True)]))
        ends.append(last(together))
    for n in range(3):
        alone = Session(which)
        frame = alone.reset(picture(n), seed=5 + n, before=before[n] if robot else None)
        assert np.abs(frame.astype(int) - shown[n]).max() <= 1
        for place, each in enumerate(counts):
            step = alone.step(rows[n][place][: each[n]])
            assert np.array_equal(step.controls, films[place].controls[n])
            assert np.abs(step.frames.astype(int) - films[place].frames[n]).max() <= 1
            torch.testing.assert_close(last(alone)[0], ends[place][n], atol=rounding, rtol=0)


def test_hashes_tell_seeds_apart(driven: dict[str, Robot | Generator]):
    rows = controls(8, width=CODE)
    parts = (rows[:4], rows[4:])

    def hashes(seed: int) -> list[str]:
        session = begun(driven["latent with forecast"], seed=seed)
        return [frame_hash(frame) for part in parts for frame in session.step(part).frames]

    assert hashes(1) == hashes(1)
    assert not set(hashes(1)) & set(hashes(2))
    assert len(set(hashes(1))) == 8 and len(hashes(1)[0]) == 64


def test_a_queue_gives_one_row_to_each_frame_and_then_nothing_is_done(driven: dict[str, Robot | Generator]):
    session, queue = begun(driven["adapter"]), QueuedControls(WIDTH)
    rows = controls(10)
    queue.offer(rows[:3])
    queue.offer(rows[3:])
    used = []
    for waiting in (6, 2, 0, 0):
        used.append(session.step(queue.take()).controls)
        assert len(queue) == waiting
    used = np.concatenate(used)
    assert np.array_equal(used[:10], rows)
    held = rows[-1].copy()
    held[5:7] = 0  # a delta and a velocity
    assert np.array_equal(used[10:], np.broadcast_to(held, (6, WIDTH)))
    queue.offer(rows[:1])
    assert np.array_equal(session.step(queue.take()).controls[0], rows[0])


def test_the_latest_row_is_held_and_before_any_nothing_is_done(driven: dict[str, Robot | Generator]):
    session, latest = begun(driven["adapter"]), LatestControls(WIDTH)
    still = BEFORE.copy()
    still[5:7] = 0
    assert np.array_equal(session.step(latest.take()).controls, np.broadcast_to(still, (4, WIDTH)))
    rows = controls(3)
    latest.offer(rows[0])
    latest.offer(rows[1])
    for _ in range(2):
        assert np.array_equal(session.step(latest.take()).controls, np.broadcast_to(rows[1], (4, WIDTH)))
    latest.offer(rows[2])
    assert np.array_equal(session.step(latest.take()).controls[0], rows[2])
    assert not begun(driven["latent"]).step(LatestControls(CODE).take()).controls.any()


@pytest.mark.parametrize(("kind", "latents"), [("latent", 750), ("adapter", 150)])
def test_a_long_session_keeps_its_size(driven: dict[str, Robot | Generator], kind: str, latents: int):
    session = begun(driven[kind], steps=1)
    rows = controls(1, width=session.width)

    def tensors() -> tuple[int, int]:
        gc.collect()
        alive = [found for found in gc.get_objects() if type(found) is torch.Tensor]
        return len(alive), sum(found.numel() for found in alive)

    sizes, hashes = [], []
    for number in range(1, latents + 1):
        step = session.step(rows)
        hashes.append(frame_hash(step.frames))
        if number in (30, latents):
            sizes.append(tensors())
    assert step.first == 4 * latents - 3
    assert sizes[0] == sizes[1]
    assert len(set(hashes)) == latents, "it never stands still or repeats"


@pytest.mark.parametrize("forecast", [False, True])
def test_a_session_in_bf16_is_close(forecast: bool):
    """As on a GPU: the network in bf16, the rest under autocast."""
    exact, rounded = generator(forecast=forecast), generator(forecast=forecast)
    torch.nn.Module.to(rounded.model, torch.bfloat16)
    true = begun(exact).step(controls(4, width=CODE)).frames.astype(int)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        session = begun(rounded)
        found = session.step(controls(4, width=CODE)).frames
    assert last(session).dtype == torch.float32
    assert np.abs(found - true).mean() < 0.1 * np.abs(true - true.mean()).mean()


def test_parts_are_timed_and_make_up_the_whole(driven: dict[str, Robot | Generator]):
    times = dict(begun(driven["adapter"]).step(controls(4)).milliseconds)
    whole = times.pop("total")
    assert set(times) == {"controls", "forecast", "denoise", "cache", "decode"}
    assert all(time > 0 for time in times.values())
    assert 0.5 * whole < sum(times.values()) <= whole


def test_what_cannot_be_is_refused_and_changes_nothing(driven: dict[str, Robot | Generator]):
    session = begun(driven["adapter"])
    moment = session.snapshot()
    bad = controls(4)
    bad[2, 3] = np.nan
    for wrong, message in (
        (bad, "must be finite, not nan"),
        (np.full((4, WIDTH), np.inf), "must be finite, not inf"),
        (controls(4)[:, 1:], r"rows of 8 numbers, not an array \(4, 7\)"),
        (controls(1)[0], r"rows of 8 numbers, not an array \(8,\)"),
        (controls(5), "takes 4 rows of controls, not 5"),
    ):
        with pytest.raises(ValueError, match=message):
            session.step(wrong)
    expected = begun(driven["adapter"]).step(controls(4)).frames
    assert np.array_equal(session.step(controls(4)).frames, expected)
    assert isinstance(moment, Moment) and moment.made == 0
    for offer in (LatestControls(WIDTH).offer, QueuedControls(WIDTH).offer):
        with pytest.raises(ValueError, match="rows of 8 numbers"):
            offer(np.zeros(3))
    with pytest.raises(ValueError, match="at least 1 step, not 0"):
        Session(driven["adapter"], steps=0)
    with pytest.raises(ValueError, match="call reset"):
        Session(driven["adapter"]).step(controls(4))


def test_what_no_session_begins_with_is_refused(driven: dict[str, Robot | Generator]):
    session, latent = Session(driven["adapter"]), Session(driven["latent"])
    with pytest.raises(ValueError, match=r"not float64 \(16, 16, 3\)"):
        session.reset(picture() / 255, seed=0, before=BEFORE)
    with pytest.raises(ValueError, match=r"must be \(B, 3, 16, 16\)"):
        session.reset(picture()[:8], seed=0, before=BEFORE)
    with pytest.raises(ValueError, match="controls in force"):
        session.reset(picture(), seed=0)
    with pytest.raises(ValueError, match="controls in force"):
        latent.reset(picture(), seed=0, before=BEFORE)
    with pytest.raises(ValueError, match="2 first frames and 1 rows"):
        session.reset(np.stack([picture()] * 2), seed=0, before=BEFORE[None])
    together = Session(driven["latent"])
    together.reset(np.stack([picture()] * 2), seed=0)
    with pytest.raises(ValueError, match="2 sessions need as many arrays of controls, not 1"):
        together.step([controls(4, width=CODE)])


@pytest.mark.parametrize("kind", KINDS)
def test_sessions_begun_at_any_time_step_together_as_each_does_alone(driven: dict[str, Robot | Generator], kind: str):
    which, width = driven[kind], WIDTH if isinstance(driven[kind], Robot) else CODE
    ages = (0, 1, 1, 5, 7)  # the cache is full from 3 latents on, and its ring and the forecast differ in phase
    told = [controls(4 * age + 12, width=width, seed=number) for number, age in enumerate(ages)]
    alone, together = ([begun(which, seed=number) for number in range(len(ages))] for _ in range(2))
    for sessions in (alone, together):
        for session, age, rows in zip(sessions, ages, told, strict=True):
            for latent in range(age):
                session.step(rows[4 * latent : 4 * latent + 4])
    for turn in range(3):
        now = [rows[4 * (age + turn) : 4 * (age + turn) + 4 - turn % 2] for age, rows in zip(ages, told, strict=True)]
        expected = [session.step(rows) for session, rows in zip(alone, now, strict=True)]
        made = step_together(together, now)
        for one, other, own, joint in zip(expected, made, alone, together, strict=True):
            assert np.array_equal(one.controls, other.controls) and one.first == other.first
            assert np.abs(one.frames.astype(int) - other.frames).max() <= 1
            # A warp jumps at a picture's edge, so that rounding may show at a pixel or two.
            assert ((last(own) - last(joint)).abs() > 1e-4).float().mean() < 0.01
    assert np.abs(made[3].frames.astype(int) - made[4].frames).mean() > 3, "their films differ"


@pytest.mark.parametrize("kind", ["latent", "adapter"])
def test_under_a_still_camera_what_looks_as_at_first_is_the_first_frame(
    driven: dict[str, Robot | Generator], kind: str
):
    which, robot = driven[kind], isinstance(driven[kind], Robot)
    rows = controls(20, width=WIDTH if robot else CODE)
    moving, still, other = (Session(which, still_camera=still) for still in (False, True, True))
    for number, session in enumerate((moving, still, other)):
        session.reset(picture(number // 2), seed=0, before=BEFORE if robot else None)
    free = [moving.step(rows[first : first + 4]).frames for first in range(0, 20, 4)]
    held = [still.step(rows[first : first + 4]).frames for first in range(0, 20, 4)]
    first = picture().astype(int)
    nearer = np.abs(held[-1] - first).mean((0, 3)) <= np.abs(free[-1] - first).mean((0, 3)) + 1
    assert not np.array_equal(free[-1], held[-1]) and nearer.mean() > 0.9
    other.step(rows[:4])
    joint = joined([other.snapshot().stream, other.snapshot().stream])
    alone = joint.video(1).first
    assert joint.first and alone and torch.equal(alone.frame[0], joint.first.frame[1])
    with pytest.raises(ValueError, match="same settings"):
        step_together([moving, still], [rows[:4], rows[:4]])


def test_what_cannot_step_together_is_refused(driven: dict[str, Robot | Generator]):
    session, rows = begun(driven["latent"]), controls(4, width=CODE)
    with pytest.raises(ValueError, match="over one model"):
        step_together([session, begun(driven["latent with forecast"])], [rows, rows])
    with pytest.raises(ValueError, match="same settings"):
        step_together([session, begun(driven["latent"], steps=1)], [rows, rows])
    many = Session(driven["latent"])
    many.reset(picture()[None], seed=0)
    with pytest.raises(ValueError, match="single ones"):
        step_together([session, many], [rows, rows])
    session.step(rows)
    with pytest.raises(ValueError, match=r"different ages, \[1, 2\]"):
        joined([session.snapshot().stream, begun(driven["latent"]).snapshot().stream])


def test_a_session_shows_what_the_tiny_decoder_makes_unless_it_is_asked_not_to():
    torch.manual_seed(0)
    with_tiny = generator(forecast=False)
    with_tiny.tiny_decoder = TinyDecoder(DECODER.model, latent_channels=4).eval()
    rows = controls(8, width=CODE)
    quick, full = begun(with_tiny), Session(with_tiny, decoder="full")
    full.reset(picture(), seed=0)
    assert not np.array_equal(quick.step(rows[:4]).frames, full.step(rows[:4]).frames)
    film = rollout(with_tiny, as_films([picture()[None]], "cpu")[:, 0], torch.from_numpy(rows)[None], seed=0)
    assert np.array_equal(full.step(rows[4:]).frames, as_pictures(film[0, 5:]))
    live = rollout(with_tiny.live(), as_films([picture()[None]], "cpu")[:, 0], torch.from_numpy(rows)[None], seed=0)
    assert np.array_equal(quick.step(rows[4:]).frames, as_pictures(live[0, 5:]))
    without = generator(forecast=False)
    assert without.live().decoder is without.tokenizer
