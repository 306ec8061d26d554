"""What browser tests need: a server in a thread, and a page whose complaints are kept."""

import base64
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import uvicorn

from simulator.engine import Engine
from simulator.guard import Security
from simulator.listener import configuration, listen
from simulator.server import build_app

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP: dict[str, Any] = {"viewport": {"width": 1440, "height": 900}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
PATIENCE = 15_000
"""Milliseconds that anything may take on a busy machine."""


@contextmanager
def served(load: Callable[[], Engine], *, security: Security | None = None, port: int = 0) -> Iterator[str]:
    """The address of a server on this machine, which ends with the block."""
    app = build_app(load, security=security or Security.of("127.0.0.1"))
    with listen("127.0.0.1", port) as listener:
        server = uvicorn.Server(configuration(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server has ended before it began"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def port_of(address: str) -> int:
    port = urlsplit(address).port
    assert port
    return port


@dataclass
class Tab:
    """A page of ours in a browser."""

    page: "Page"
    complaints: list[str] = field(default_factory=list)
    """Errors, and violations of the content security policy."""

    @staticmethod
    def open(context: "BrowserContext", address: str, *, state: str | None = "paused") -> "Tab":
        """state: to wait for."""
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        tab = Tab(page)
        page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        page.on("console", lambda said: tab.complaints.append(said.text) if said.type == "error" else None)
        page.goto(address)
        if state:
            tab.wait_for_state(state)
        return tab

    @property
    def state(self) -> str:
        return self.page.evaluate("document.body.dataset.state")

    def wait_for_state(self, state: str) -> None:
        self.page.wait_for_function("state => document.body.dataset.state === state", arg=state)

    def wait_for_text(self, selector: str, text: str) -> None:
        """That is somewhere in an element that can be seen."""
        self.page.locator(selector).filter(has_text=text).first.wait_for()

    def start(self) -> None:
        self.page.keyboard.press("Enter")
        self.wait_for_state("running")

    def press(self, key: str, seconds: float) -> None:
        self.page.keyboard.down(key)
        self.page.wait_for_timeout(1000 * seconds)
        self.page.keyboard.up(key)

    def hold(self, key: str, until: "Callable[[Tab], bool]") -> None:
        self.page.keyboard.down(key)
        self.until(until)
        self.page.keyboard.up(key)

    def figure(self, name: str) -> float:
        """NaN before there is one."""
        text = self.page.inner_text(f"[data-figure={name}]").removesuffix(" ms")
        return float("nan") if text == "–" else float(text)

    def value(self, column: int) -> float:
        """Of a control, as its slider stands."""
        return float(self.page.input_value(f"#control-{column}"))

    def picture(self) -> np.ndarray:
        """What the canvas shows, uint8 RGB (H, W, 3)."""
        width, height, pixels = self.page.evaluate(
            """() => {
                const { width, height } = document.getElementById("picture");
                const { data } = document.getElementById("picture").getContext("2d").getImageData(0, 0, width, height);
                return [width, height, btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""))];
            }"""
        )
        return np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(height, width, 4)[..., :3]

    def until(self, true: Callable[["Tab"], bool]) -> None:
        """AssertionError if that does not come about."""
        deadline = time.monotonic() + PATIENCE / 1000
        while not true(self):
            assert time.monotonic() < deadline, "what was waited for never came"
            self.page.wait_for_timeout(50)

    def settled(self) -> np.ndarray:
        """The picture once nothing changes any more."""
        before = self.picture()
        while True:
            self.page.wait_for_timeout(300)
            if np.array_equal(before, now := self.picture()):
                return now
            before = now
