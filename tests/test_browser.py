"""The page in a real browser, over the real server and engine: what keys, sticks, fingers and buttons do."""

import io
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright", reason="the browser is driven by playwright")
pytest.importorskip("starlette", reason="the server needs the extra 'serve'")

from playwright.sync_api import sync_playwright

from common.errors import UserError
from scripts.serve import demo, open_engine
from simulator.engine import Engine
from simulator.guard import Security
from simulator.takes import Scene
from tests.browser_helpers import CHROMIUM, DESKTOP, FLAGS, PHONE, Tab, port_of, served
from tests.drawn_session import BEFORE, SIZE, DrawnSession, drawn_engine, drawn_scenes, middle, recorded_rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # a picture without a square has it at NaN
]

X, Y, OPENING, SWEEP = range(4)
FAKE_GAMEPAD = """
    window.pad = { connected: true, id: "Fake pad", axes: [0, 0, 0, 0],
                   buttons: Array.from({ length: 17 }, () => ({ value: 0, pressed: false })) };
    navigator.getGamepads = () => [null, window.pad];
"""


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


def window(browser: "Browser", options: dict[str, Any]) -> "Iterator[BrowserContext]":
    context = browser.new_context(**options)
    yield context
    context.close()


@pytest.fixture
def desktop(browser: "Browser") -> "Iterator[BrowserContext]":
    yield from window(browser, DESKTOP)


@pytest.fixture
def other(browser: "Browser") -> "Iterator[BrowserContext]":
    """Another window: a tab in the background shows nothing."""
    yield from window(browser, DESKTOP)


@pytest.fixture
def phone(browser: "Browser") -> "Iterator[BrowserContext]":
    yield from window(browser, PHONE)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with served(lambda: drawn_engine(tmp_path)) as found:
        yield found


@pytest.fixture
def tab(desktop: "BrowserContext", address: str) -> Iterator[Tab]:
    """A driver's page, paused at the first frame, that had nothing to complain of."""
    opened = Tab.open(desktop, address)
    yield opened
    assert opened.complaints == []


def place(tab: Tab) -> tuple[float, float]:
    return middle(tab.picture())


def notes_of(tab: Tab) -> list[str]:
    return tab.page.locator("#notes p").all_inner_texts()


# Controls


def test_keys_move_the_square(tab: Tab) -> None:
    tab.start()
    x, y = tab.value(X), tab.value(Y)
    assert (x, y) == (0.5, 0.5)
    for key, column, sign in (("d", X, 1), ("a", X, -1), ("s", Y, -1), ("w", Y, 1)):
        before, began = tab.value(column), time.monotonic()
        tab.press(key, 0.4)
        moved = sign * (tab.value(column) - before)
        assert 0.03 < moved < 0.05 + 0.3 * (time.monotonic() - began), f"{key} moved by {moved}"
    tab.hold("d", lambda tab: tab.value(X) > 0.65)
    tab.until(lambda tab: abs(place(tab)[0] - tab.value(X)) < 0.03 and abs(place(tab)[1] - tab.value(Y)) < 0.03)
    assert place(tab)[0] > 0.55


def test_a_key_stops_where_the_data_did_and_its_cap_is_lit_while_it_is_held(tab: Tab) -> None:
    cap = tab.page.get_by_role("button", name="x more", include_hidden=True)
    tab.start()
    tab.page.keyboard.down("d")
    tab.page.wait_for_function("cap => cap.classList.contains('lit')", arg=cap.element_handle())
    assert cap.inner_text() == "D"
    tab.until(lambda tab: tab.value(X) == pytest.approx(0.8, abs=1e-3))
    tab.page.keyboard.up("d")
    tab.page.wait_for_function("cap => !cap.classList.contains('lit')", arg=cap.element_handle())
    tab.page.fill("#control-0", "0.9")
    tab.press("d", 0.2)
    assert tab.value(X) == pytest.approx(0.9, abs=1e-3)


def test_a_gripper_has_keys_of_its_own_and_a_velocity_falls_back_to_nothing(tab: Tab) -> None:
    tab.start()
    tab.hold("f", lambda tab: tab.value(SWEEP) == pytest.approx(-1, abs=0.01))
    tab.until(lambda tab: tab.value(SWEEP) == 0)
    tab.hold("Space", lambda tab: tab.value(OPENING) > 0.2)
    assert tab.value(OPENING) < 0.9
    tab.hold("g", lambda tab: tab.value(OPENING) == 0)


def test_latent_actions_are_held_as_long_as_their_key(desktop: "BrowserContext", tmp_path: Path) -> None:
    with served(lambda: drawn_engine(tmp_path, robot=False)) as address:
        tab = Tab.open(desktop, address)
        tab.start()
        tab.press("d", 0.6)
        tab.until(lambda tab: tab.value(0) == 0)
        tab.until(lambda tab: place(tab)[0] > 0.6)
        assert place(tab)[1] == pytest.approx(0.5, abs=0.02)
        where = tab.settled()
        assert np.array_equal(tab.settled(), where)
        assert tab.complaints == []


def test_a_gamepad_moves_the_square_and_starts(desktop: "BrowserContext", address: str) -> None:
    desktop.add_init_script(FAKE_GAMEPAD)
    tab = Tab.open(desktop, address)
    tab.wait_for_text("#gamepad.on", "Fake pad")
    tab.page.evaluate("pad.buttons[9].value = 1")
    tab.wait_for_state("running")
    for _ in range(5):
        tab.page.wait_for_timeout(70)
        assert tab.state == "running", "a button that stays down is pressed once"
    tab.page.evaluate("pad.axes = [1, 0, 0, 0]")
    tab.until(lambda tab: place(tab)[0] > 0.6)
    tab.page.evaluate("pad.axes = [0.1, 0.1, 0, 0]")  # a stick that rests is never quite in its middle
    tab.page.wait_for_timeout(100)
    rested = tab.value(X)
    tab.page.wait_for_timeout(300)
    assert tab.value(X) == rested
    tab.page.evaluate("pad.axes = [0, -1, 0, 0]")
    tab.until(lambda tab: place(tab)[1] > 0.6)
    assert tab.value(X) == pytest.approx(rested, abs=0.05)
    tab.page.evaluate("pad.axes = [0, 0, 0, 0], pad.buttons[7].value = 0.5")
    tab.until(lambda tab: tab.value(OPENING) > 0.2)
    tab.page.evaluate("navigator.getGamepads = () => [null]")
    tab.wait_for_text("#gamepad", "No gamepad")
    assert tab.complaints == []


def test_sliders_put_targets_and_hold_velocities(tab: Tab) -> None:
    tab.start()
    tab.page.fill("#control-0", "0.7")
    tab.until(lambda tab: place(tab)[0] == pytest.approx(0.7, abs=0.02))
    box = tab.page.locator("#control-3").bounding_box()
    assert box
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2, steps=3)
    tab.until(lambda tab: tab.value(SWEEP) > 0.5)
    tab.page.mouse.up()
    tab.until(lambda tab: tab.value(SWEEP) == 0)
    tab.hold("d", lambda tab: tab.value(X) > 0.75)  # a slider that the mouse has left does not keep the keyboard


def test_a_finger_on_the_pad_moves_the_square(phone: "BrowserContext", address: str) -> None:
    tab = Tab.open(phone, address)
    tab.page.get_by_role("button", name="Start").tap()
    tab.wait_for_state("running")
    box = tab.page.locator("#pad").bounding_box()
    assert box
    finger = phone.new_cdp_session(tab.page)

    def touch(kind: str, across: float, up: float) -> None:
        spot = {"x": box["x"] + across * box["width"], "y": box["y"] + (1 - up) * box["height"]}
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [] if kind == "touchEnd" else [spot]})

    touch("touchStart", 0.2, 0.5)
    tab.page.wait_for_timeout(300)
    assert tab.value(X) == 0.5, "where a finger is put down does not matter"
    touch("touchMove", 0.5, 0.3)
    tab.until(lambda tab: place(tab)[0] == pytest.approx(0.5 + 0.3 * 0.9, abs=0.03))
    assert place(tab)[1] == pytest.approx(0.5 - 0.2 * 0.9, abs=0.03)
    touch("touchEnd", 0, 0)
    tab.page.wait_for_timeout(300)
    assert tab.value(X) == pytest.approx(0.77, abs=0.02)
    assert tab.complaints == []


# The session


def test_pause_step_reset_and_stop(tab: Tab) -> None:
    first = tab.settled()
    tab.start()
    tab.page.keyboard.down("d")
    tab.until(lambda tab: place(tab)[0] > 0.56)
    tab.page.keyboard.press("Enter")
    tab.page.keyboard.up("d")
    tab.wait_for_state("paused")
    still, passes = tab.settled(), tab.figure("pass")
    tab.press("d", 0.4)
    assert np.array_equal(tab.picture(), still)
    tab.page.keyboard.press(".")
    tab.until(lambda tab: tab.figure("pass") == passes + 1)
    tab.until(lambda tab: place(tab)[0] == pytest.approx(tab.value(X), abs=0.02))
    assert tab.state == "paused"
    tab.page.keyboard.press("Escape")
    tab.wait_for_state("stopped")
    assert tab.page.get_by_role("button", name="Start").is_disabled()
    tab.page.keyboard.press("Enter")
    tab.page.keyboard.press("Backspace")
    tab.wait_for_state("paused")
    tab.until(lambda tab: np.array_equal(tab.picture(), first) and tab.value(X) == 0.5)


def test_buttons_do_what_keys_do_and_give_the_keyboard_back(tab: Tab) -> None:
    tab.page.get_by_role("button", name="Start").click()
    tab.wait_for_state("running")
    tab.page.get_by_role("button", name="Pause").click()
    tab.wait_for_state("paused")
    tab.page.get_by_role("button", name="Reset").click()
    tab.start()  # Enter, which is the button's no longer
    tab.page.get_by_role("button", name="Stop").click()
    tab.wait_for_state("stopped")


def test_leaving_the_window_pauses_and_lets_go_of_keys(tab: Tab) -> None:
    tab.start()
    tab.page.keyboard.down("d")
    tab.until(lambda tab: tab.value(X) > 0.55)
    tab.page.evaluate("window.dispatchEvent(new Event('blur'))")
    tab.wait_for_state("paused")
    held = tab.value(X)
    tab.start()
    tab.page.wait_for_timeout(400)
    assert tab.value(X) == pytest.approx(held, abs=0.03), "a key that was down as the window was left is up"


def test_recorded_controls_play_to_their_end(tab: Tab) -> None:
    tab.page.keyboard.press("p")
    tab.wait_for_text("#transport", "Recorded controls")
    tab.start()
    tab.wait_for_state("paused")
    tab.wait_for_text("#state-reason", "at their end")
    last = float(recorded_rows()[-1][0])
    tab.until(lambda tab: place(tab)[0] == pytest.approx(last, abs=0.02))
    assert tab.value(X) == pytest.approx(last, abs=0.01), "sliders go along"
    tab.page.keyboard.press("p")
    tab.wait_for_text("#transport", "You drive")


def test_recording_and_keeping_say_what_was_saved(tab: Tab, tmp_path: Path) -> None:
    tab.start()
    tab.page.keyboard.press("o")
    tab.page.locator("#recording").wait_for()
    tab.wait_for_text("#recording-time", "0:01")
    tab.page.keyboard.press("o")
    tab.wait_for_text("#notes", "Recording saved")
    assert not tab.page.locator("#recording").is_visible()
    tab.page.keyboard.press("k")
    tab.until(lambda tab: len(notes_of(tab)) == 2)
    notes = [re.fullmatch(r"Recording saved: (\S+), \d+ frames", text) for text in notes_of(tab)]
    saved = [note[1] for note in notes if note]
    assert len(saved) == 2
    assert all((tmp_path / name).is_dir() for name in saved)


def test_a_scene_a_seed_and_a_key_that_is_typed(tab: Tab) -> None:
    first = tab.settled()
    tab.page.get_by_role("button", name="Tiles, the second").click()
    tab.until(lambda tab: not np.array_equal(tab.picture(), first))
    tab.page.get_by_label("Seed").fill("63")
    tab.press("d", 0.2)
    assert tab.value(X) == 0.5, "a letter in that field drives nothing"
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_timeout(300)
    assert tab.state == "paused"
    tab.page.locator("#picture").click()
    tab.start()
    tab.until(lambda tab: int(tab.picture()[SIZE // 2, SIZE // 2, 2]) == pytest.approx(63, abs=12))  # its tint
    tab.page.get_by_role("button", name="New seed").click()
    tab.wait_for_state("paused")
    assert tab.page.input_value("#seed") != "63"


def test_a_picture_of_ones_own_however_large(tab: Tab) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 40, (1500, 1000, 3), np.uint8)
    pixels[..., 1] += 200
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert len(file.getvalue()) > 2**20
    tab.page.set_input_files("#upload", {"name": "grass.png", "mimeType": "image/png", "buffer": file.getvalue()})
    tab.until(lambda tab: tab.picture()[..., 1].mean() > 180)
    tile = tab.page.get_by_role("button", name="grass.png")
    assert tile.get_attribute("aria-pressed") == "true"
    tab.start()
    tab.until(lambda tab: tab.figure("pass") > 1)


def test_no_picture_is_refused_in_words(desktop: "BrowserContext", address: str) -> None:
    tab = Tab.open(desktop, address)
    for name, kind, text in (
        ("a.png", "image/png", "that is no JPEG, PNG or WebP"),
        ("a.txt", "text/plain", "a.txt is no picture"),
    ):
        tab.page.set_input_files("#upload", {"name": name, "mimeType": kind, "buffer": b"nothing"})
        tab.wait_for_text("#notes", text)
    assert tab.state == "paused"


def test_a_model_that_fails_is_told_and_can_be_reset(desktop: "BrowserContext", tmp_path: Path) -> None:
    session = DrawnSession()

    with served(lambda: Engine(session, drawn_scenes(), fps=20, recordings=tmp_path)) as address:
        tab = Tab.open(desktop, address)
        tab.start()
        session.broken = "out of memory"
        tab.wait_for_state("stopped")
        tab.wait_for_text("#notes .error", "out of memory")
        tab.page.keyboard.press("Backspace")
        tab.wait_for_state("paused")
        tab.start()
        assert tab.complaints == []


# Figures


def test_figures_and_plot_say_what_happens(tab: Tab) -> None:
    tab.start()
    tab.page.wait_for_timeout(1500)
    assert 5 <= tab.figure("fps") <= 30
    assert tab.figure("granularity") == 200
    assert 0 < tab.figure("trip") < 200
    assert 0 < tab.figure("age") < 1000
    assert tab.page.locator("#legend li").all_inner_texts() == ["x", "y", "opening", "sweep"]
    inked = "() => plot.getContext('2d').getImageData(0, 0, plot.width, plot.height).data.some((value) => value > 0)"
    assert tab.page.evaluate(inked)
    tab.page.keyboard.press("Backspace")
    tab.page.wait_for_function(f"() => !({inked})()")


def test_frames_are_shown_evenly_and_never_pile_up(tab: Tab) -> None:
    """Four frames at once every 200 ms appear about 50 ms apart; of ten passes at once the last two are shown."""
    times, waiting, skipped = tab.page.evaluate(
        """async () => {
            const { Pacer } = await import("/pacer.js");
            const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
            const jpeg = await new Promise((done) => canvas.toBlob(done, "image/jpeg"));
            const bytes = new Uint8Array(await jpeg.arrayBuffer());
            const times = [];
            const pacer = new Pacer(canvas, () => times.push(performance.now()), console.error);
            pacer.configure({ width: 8, height: 8, fps: 20, frames_per_pass: 4 });
            const wait = (time) => new Promise((done) => setTimeout(done, time));
            for (let pass = 0; pass < 5; pass += 1) {
                pacer.add({}, [bytes, bytes, bytes, bytes]);
                await wait(200);
            }
            await wait(200);
            const even = [...times];
            for (let pass = 0; pass < 10; pass += 1) pacer.add({}, [bytes, bytes, bytes, bytes]);
            await pacer.decoding;
            await wait(0);
            return [even, pacer.queue.length, pacer.skipped];
        }"""
    )
    gaps = np.diff(times)
    assert len(times) == 20
    assert np.median(gaps) == pytest.approx(50, abs=12)
    assert (gaps < 25).sum() <= 5, "frames of one pass do not appear together"
    assert waiting <= 8 and skipped >= 31


def test_frames_that_a_slow_connection_left_out_are_counted_and_leave_a_gap(tab: Tab) -> None:
    times, dropped = tab.page.evaluate(
        """async () => {
            const { Pacer } = await import("/pacer.js");
            const { Hud } = await import("/hud.js");
            const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
            const jpeg = await new Promise((done) => canvas.toBlob(done, "image/jpeg"));
            const bytes = new Uint8Array(await jpeg.arrayBuffer());
            const times = [];
            const pacer = new Pacer(canvas, () => times.push(performance.now()), console.error);
            const place = document.createElement("dl");
            const hud = new Hud(place);
            pacer.configure({ width: 8, height: 8, fps: 20, frames_per_pass: 4 });
            hud.configure({ granularity_ms: 200, frames_per_pass: 4 });
            for (const number of [7, 8, 10]) {
                pacer.add({ kept: [1, 3] }, [bytes, bytes]);
                hud.received({ number, n: 2 });
            }
            await new Promise((done) => setTimeout(done, 900));
            hud.refresh(0);
            return [times, Number(place.querySelector("[data-figure=dropped]").textContent)];
        }"""
    )
    assert len(times) == 6
    assert np.median(np.diff(times)) == pytest.approx(90, abs=25), "100 ms, or 75 to catch up"
    assert dropped == 2 + 4 + 2, "of pass 8, all of 9, and of 10"


def test_every_control_has_keys_of_its_own(tab: Tab) -> None:
    """And none is a hot key's; controls that never moved in the data need none."""
    assigned, hot = tab.page.evaluate(
        """async () => {
            const { assign } = await import("/keys.js");
            const { Transport } = await import("/transport.js");
            const kinds = [...Array(14).fill("absolute"), "gripper", "gripper", "gripper"];
            const columns = kinds.map((kind, i) => ({ kind, live: i !== 1 }));
            const hot = new Transport(document.createElement("div"), () => {}).byCode;
            return [assign(columns), [...hot.keys()]];
        }"""
    )
    assert assigned.pop(1) is None
    codes = [code for pair in assigned for code in pair]
    assert len(set(codes)) == len(codes) == 32
    assert not set(codes) & set(hot)


# Others, and losses


def test_a_second_tab_is_told_and_can_watch(tab: Tab, other: "BrowserContext", address: str) -> None:
    second = Tab.open(other, address, state=None)
    second.wait_for_text("#banner", "Someone else is driving")
    assert second.page.get_by_role("button", name="Take over").count() == 0
    second.page.get_by_role("button", name="Watch").click()
    second.wait_for_text("#state", "you are watching")
    tab.start()
    tab.hold("d", lambda tab: place(tab)[0] > 0.6)
    tab.page.keyboard.press("Enter")
    second.wait_for_state("paused")
    assert np.array_equal(second.settled(), tab.settled())
    assert place(second)[0] > 0.55
    second.page.keyboard.press("Enter")
    second.page.wait_for_timeout(200)
    assert tab.state == "paused", "who watches does not drive"
    assert second.complaints == []


def test_who_is_invited_to_watch_sees_the_same_and_no_buttons(
    tab: Tab, desktop: "BrowserContext", other: "BrowserContext", address: str
) -> None:
    desktop.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.page.get_by_role("button", name="Copy viewer link").click()
    tab.wait_for_text("#notes", "copied")
    link = tab.page.evaluate("navigator.clipboard.readText()")
    assert link == address + "?view"
    viewer = Tab.open(other, link)
    assert not viewer.page.locator("#transport").is_visible()
    tab.page.keyboard.press(".")
    tab.until(lambda tab: tab.figure("pass") == 1)
    viewer.until(lambda viewer: viewer.figure("pass") == 1)
    assert np.array_equal(viewer.settled(), tab.settled())
    assert viewer.complaints == []


def test_a_driver_may_be_replaced_where_that_is_allowed(desktop: "BrowserContext", tmp_path: Path) -> None:
    security = Security.of("127.0.0.1", takeover=True)
    with served(lambda: drawn_engine(tmp_path), security=security) as address:
        first = Tab.open(desktop, address)
        second = Tab.open(desktop, address, state=None)
        second.page.get_by_role("button", name="Take over").click()
        second.wait_for_state("paused")
        first.wait_for_text("#banner", "Someone else is driving")
        second.start()


def test_a_lost_connection_comes_back_paused_where_it_was(desktop: "BrowserContext", tmp_path: Path) -> None:
    with served(lambda: drawn_engine(tmp_path)) as address:
        tab = Tab.open(desktop, address)
        tab.start()
        tab.hold("d", lambda tab: place(tab)[0] > 0.6)
        tab.page.evaluate(
            """() => {
                const make = WebSocket.prototype.send;
                WebSocket.prototype.send = function (text) { this.close(); WebSocket.prototype.send = make; };
            }"""
        )
        tab.wait_for_state("connecting")
        tab.wait_for_state("paused")
        tab.wait_for_text("#state-reason", "connection was lost")
        assert place(tab)[0] > 0.55, "the film goes on where it was"
        tab.start()
    tab.wait_for_text("#banner", "The connection is lost")
    with served(lambda: drawn_engine(tmp_path), port=port_of(address)):
        tab.wait_for_state("paused")
        assert not tab.page.locator("#banner").is_visible()
        tab.start()
        tab.hold("d", lambda tab: place(tab)[0] > 0.55)


def test_a_model_that_is_loading_or_cannot_be_loaded_is_told(desktop: "BrowserContext", tmp_path: Path) -> None:
    loaded = threading.Event()

    def load() -> Engine:
        loaded.wait(30)
        return drawn_engine(tmp_path)

    def fail() -> Engine:
        raise UserError("there is no checkpoint at /nowhere")

    with served(load) as address:
        tab = Tab.open(desktop, address, state="loading")
        tab.wait_for_text("#state", "being loaded")
        loaded.set()
        tab.wait_for_state("paused")
    with served(fail) as address:
        tab = Tab.open(desktop, address, state="failed")
        tab.wait_for_text("#state", "there is no checkpoint at /nowhere")
        assert tab.complaints == []


def test_a_token_is_taken_from_the_link_and_kept_out_of_it(desktop: "BrowserContext", tmp_path: Path) -> None:
    security = Security.of("127.0.0.1", token="correct-horse-battery")
    with served(lambda: drawn_engine(tmp_path), security=security) as address:
        without = Tab.open(desktop, address, state=None)
        without.wait_for_text("#banner", "asks for a token")
        tab = Tab.open(desktop, address + "#token=correct-horse-battery")
        assert tab.page.url == address
        tab.page.reload()
        tab.wait_for_state("paused")
        file = io.BytesIO()
        Image.new("RGB", (80, 80), (20, 220, 20)).save(file, "PNG")
        tab.page.set_input_files("#upload", {"name": "g.png", "mimeType": "image/png", "buffer": file.getvalue()})
        tab.until(lambda tab: tab.picture()[..., 1].mean() > 200)
        assert tab.complaints == []


# How it looks


def test_a_phone_shows_picture_and_pad_and_never_scrolls_sideways(phone: "BrowserContext", address: str) -> None:
    tab = Tab.open(phone, address)
    for selector in ("#picture", "#transport", "#pad"):
        box = tab.page.locator(selector).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390
        assert box["y"] >= 0 and box["y"] + box["height"] <= 844, f"{selector} ends at {box['y'] + box['height']}"
    assert not tab.page.locator("#hud").is_visible()
    tab.page.get_by_role("button", name="Figures").tap()
    tab.page.locator("#hud").wait_for()
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    small = tab.page.evaluate(
        """() => [...document.querySelectorAll("#transport button, #share, #help-button, .seed button, .tile")]
            .filter((button) => button.offsetParent && button.getBoundingClientRect().height < 43)
            .map((button) => button.textContent)"""
    )
    assert small == [], "too small for a finger"
    assert tab.complaints == []


@pytest.mark.parametrize("shape", [(SIZE, 3 * SIZE), (3 * SIZE, SIZE)])
def test_wide_and_tall_pictures_keep_their_shape_and_fit(
    desktop: "BrowserContext", tmp_path: Path, shape: tuple[int, int]
) -> None:
    scene = Scene("grey", "Grey", np.full((*shape, 3), 80, np.uint8), BEFORE, None)
    with served(lambda: Engine(DrawnSession(), [scene], fps=20, recordings=tmp_path)) as address:
        tab = Tab.open(desktop, address)
        tab.start()
        tab.until(lambda tab: tab.picture().shape == (*shape, 3) and tab.figure("pass") > 1)
        box, buttons = (tab.page.locator(name).bounding_box() for name in ("#picture", "#transport"))
        assert box and buttons
        assert box["height"] / box["width"] == pytest.approx(shape[0] / shape[1], rel=0.01)
        assert buttons["y"] + buttons["height"] <= 900
        assert tab.complaints == []


def test_help_names_keys_and_granularity_and_pauses(tab: Tab) -> None:
    tab.start()
    tab.page.keyboard.press("?")
    tab.wait_for_state("paused")
    text = tab.page.inner_text("#help")
    for words in ("A D x less, more", "G Space opening", "every 200 ms", "keep the last ten seconds"):
        assert words in " ".join(text.split())
    tab.page.keyboard.press("Escape")
    tab.page.locator("#help").wait_for(state="hidden")
    assert tab.state == "paused", "Escape has closed the help, no more"


def test_everything_has_a_name(tab: Tab) -> None:
    unnamed = tab.page.evaluate(
        """() => [...document.querySelectorAll("button, input")]
            .filter((found) => !(found.ariaLabel || found.textContent.trim() || found.labels?.length))
            .map((found) => found.outerHTML)"""
    )
    assert unnamed == []


# The demo


def test_the_demos_tool_goes_where_the_keys_say(desktop: "BrowserContext", tmp_path: Path) -> None:
    """`understudy serve --demo`, in a scene whose tool stands in the middle: x is to the right."""
    with served(lambda: open_engine(demo(tmp_path, fps=None, steps=None, policy=None, prompt=""))) as address:
        tab = Tab.open(desktop, address)
        tab.page.get_by_role("button", name="robot episode 37").click()
        tab.page.locator("[title='robot episode 37'][aria-pressed=true]").wait_for()
        start = tool(tab.settled())
        for key, sign in (("d", 1), ("a", -1)):
            tab.start()
            tab.press(key, 0.6)
            tab.page.keyboard.press("Enter")
            tab.wait_for_state("paused")
            moved = tool(tab.settled()) - start
            assert 2 < sign * moved < 30, f"{key} moved the tool by {moved:.1f} pixels"
            tab.page.keyboard.press("Backspace")
            tab.until(lambda tab: abs(tool(tab.picture()) - start) < 0.1)
        assert tab.complaints == []


def tool(picture: np.ndarray) -> float:
    """Where the robot's grey and brown pixels are above the middle of a green table, in pixels from the left."""
    red, green, blue = picture[: len(picture) // 2].astype(int).transpose(2, 0, 1)
    found = (red > green - 10) & (abs(red - blue) < 60) & (red > 50)
    return float(np.nonzero(found)[1].mean())
