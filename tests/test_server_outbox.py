"""What waits for a client, how fast one may talk, and which pictures one gets: without any sockets."""

import asyncio
import json

import numpy as np
import pytest

from simulator.engine import PassMessage
from simulator.limits import CONTROLS_PER_SECOND, Budget, ControlGate
from simulator.metrics import EDGES, Histogram, Metrics
from simulator.outbox import LONGEST, Outbox
from simulator.protocol import TOO_SLOW, WINDOW, Control, pack, unpack
from simulator.thinning import Pace, thinned


def made(number: int, pictures: int = 4) -> PassMessage:
    header = {"number": number, "first": 4 * number + 1, "n": pictures}
    return PassMessage(number, pack(header, [bytes([number, place]) for place in range(pictures)]))


def number_of(item: str | bytes | None) -> int:
    assert isinstance(item, bytes)
    return unpack(item)[0]["number"]


def test_the_newest_pass_waits_and_older_ones_are_dropped() -> None:
    outbox = Outbox()
    for number in range(1, 3):
        outbox.show(made(number))
        assert number_of(outbox.next()) == number
    for number in range(3, 8):
        outbox.show(made(number))
        assert outbox.next() is None
    assert outbox.dropped == 4
    assert not outbox.acknowledge(0) and not outbox.acknowledge(7)
    assert outbox.acknowledge(2)
    assert number_of(outbox.next()) == 7
    assert outbox.sent == WINDOW + 1


def test_everybody_gets_the_same_bytes() -> None:
    one = made(1)
    boxes = [Outbox() for _ in range(9)]
    for box in boxes:
        box.show(one)
    assert all(box.next() is one.data for box in boxes)


def test_texts_keep_their_order_but_overtake_a_pass_that_is_held_back() -> None:
    outbox = Outbox()
    outbox.say("error", "first")
    outbox.show(made(1))
    outbox.say("recorded", "second")
    assert outbox.next() == "first" and number_of(outbox.next()) == 1 and outbox.next() == "second"
    outbox.show(made(2))
    outbox.next()
    outbox.show(made(3))
    outbox.say("error", "third")
    assert outbox.next() == "third" and outbox.next() is None


def test_a_state_replaces_one_that_waits_and_a_scene_the_pass_before_it() -> None:
    outbox = Outbox()
    for text in ("a", "b"):
        outbox.say("state", text)
    outbox.show(made(1))
    outbox.say("scene", "s")
    assert [outbox.next(), outbox.next(), outbox.next()] == ["b", "s", None]
    assert outbox.dropped == 1


def test_who_does_not_take_texts_is_given_up() -> None:
    outbox = Outbox()
    for _ in range(10 * LONGEST):
        outbox.say("error", "again")
    assert outbox.closing == TOO_SLOW
    assert [outbox.next(), outbox.next()] == ["again", None]


def test_a_budget_can_be_saved_for_a_second() -> None:
    now = [0.0]
    budget = Budget(10, clock=lambda: now[0])
    assert [budget.spend(1) for _ in range(11)] == [True] * 10 + [False]
    now[0] = 0.25
    assert [budget.spend(1) for _ in range(3)] == [True, True, False]
    now[0] = 100.0
    assert budget.spend(10) and not budget.spend(1)


def test_controls_go_through_at_once_or_the_newest_soon() -> None:
    came: list[int] = []

    async def talk() -> None:
        gate = ControlGate(lambda control: came.append(control.seq))
        for seq in range(1, 101):
            gate.offer(Control(seq, ()))
        assert came == [1]
        await asyncio.sleep(3 / CONTROLS_PER_SECOND)
        assert came == [1, 100]
        gate.offer(Control(101, ()))
        gate.offer(Control(102, ()))
        gate.flush()
        assert came == [1, 100, 101, 102]
        gate.flush()
        gate.close()
        await asyncio.sleep(3 / CONTROLS_PER_SECOND)
        assert came == [1, 100, 101, 102]

    asyncio.run(talk())


@pytest.mark.parametrize(("pictures", "kept"), [(2, [1, 3]), (1, [3])])
def test_a_thinned_pass_ends_as_the_whole_one(pictures: int, kept: list[int]) -> None:
    header, left = unpack(thinned(made(5).data, pictures))
    assert header == {"number": 5, "first": 21, "n": pictures, "kept": kept}
    assert left == [bytes([5, place]) for place in kept]


def drive(pace: Pace, *, bytes_per_picture: int, rate: float, delay: float, period: float, passes: int) -> list[int]:
    """Pictures of each pass that was sent over a link, in a simulation with a window of two."""
    under_way: list[tuple[float, float, int]] = []
    counts, free, waits = [], 0.0, False
    for tick in range(int(passes * period / 0.001)):
        now = 0.001 * tick
        for arrival, since, pictures in [entry for entry in under_way if entry[0] <= now]:
            under_way.remove((arrival, since, pictures))
            pace.arrived(arrival - since, pictures=pictures)
        if tick % int(period / 0.001) == 0:
            pace.made(now, room=len(under_way) < WINDOW)
            waits = True
        if waits and len(under_way) < WINDOW:
            free = max(free, now) + pace.pictures * bytes_per_picture / rate
            under_way.append((free + delay, now, pace.pictures))
            counts.append(pace.pictures)
            waits = False
    return counts


def test_a_narrow_link_gets_fewer_pictures_and_a_long_one_all() -> None:
    narrow = drive(Pace(), bytes_per_picture=47_000, rate=1.2e6, delay=0.02, period=0.133, passes=200)
    narrower = drive(Pace(), bytes_per_picture=80_000, rate=1e6, delay=0.02, period=0.133, passes=200)
    wide = drive(Pace(), bytes_per_picture=47_000, rate=1e8, delay=0.001, period=0.066, passes=200)
    long_way = drive(Pace(), bytes_per_picture=47_000, rate=1e8, delay=0.3, period=0.066, passes=200)
    assert set(narrow[10:]) <= {1, 2} and set(narrower[10:]) == {1}
    assert set(wide) == {4} and set(long_way[-50:]) == {4}


def test_when_there_is_room_again_all_pictures_come_back() -> None:
    pace = Pace()
    drive(pace, bytes_per_picture=80_000, rate=1e6, delay=0.02, period=0.133, passes=20)
    assert pace.pictures == 1
    counts = drive(pace, bytes_per_picture=80_000, rate=1e8, delay=0.001, period=0.133, passes=60)
    assert counts[-1] == 4


def test_a_histogram_counts_what_is_below_each_edge() -> None:
    histogram = Histogram()
    values = [0.5, 1.0, 3.0, 99.0, 1e9]
    for value in values:
        histogram.add(value)
    lines = dict(line.rsplit(" ", 1) for line in histogram.lines("x"))
    for edge in EDGES:
        assert int(lines[f'x_bucket{{le="{edge}"}}']) == np.sum(np.array(values) <= edge)
    assert lines['x_bucket{le="+Inf"}'] == lines["x_count"] == "5"
    assert float(lines["x_sum"]) == pytest.approx(sum(values))


def test_metrics_are_in_prometheus_form() -> None:
    metrics = Metrics()
    metrics.count({"n": 4, "t_model_ms": 7.0, "t_encode_ms": 1.5, "age_ms": None})
    lines = metrics.text(drivers=1, viewers=2, sockets=3, dropped=4).splitlines()
    values = [line for line in lines if not line.startswith("#")]
    assert all(float(line.rsplit(" ", 1)[1]) >= 0 for line in values)
    assert {"understudy_frames_total 4", "understudy_viewers 2", "understudy_dropped_passes_total 4"} <= set(values)
    assert json.loads(json.dumps(values)) == values
