import logging
import threading
import time
from functools import cached_property
from typing import Any

import numpy as np
from lerobot.robots import Robot  # pyright: ignore[reportMissingImports]
from websockets.exceptions import ConnectionClosed

from simulator.client import Client, Passed
from simulator.protocol import Pause, Resume

from .config_understudy import UnderstudyConfig

FIRST_SECONDS = 60.0
"""For the server to load its model."""


class Understudy(Robot):
    """Drives the session at the server's pace: an action holds until the next, an observation is what is shown now."""

    config_class = UnderstudyConfig
    name = "understudy"

    def __init__(self, config: UnderstudyConfig) -> None:
        super().__init__(config)
        self.config = config
        self._client: Client | None = None
        self._reader: threading.Thread | None = None
        self._shown = np.empty(0, np.uint8)
        """The frames (T, H, W, 3) of the last pass."""
        self._shown_at = 0.0
        self._failure = ""

    @cached_property
    def _welcome(self) -> dict[str, Any]:
        """What the server says of its session; asked for by a viewer where nobody drives yet."""
        if self._client:
            return self._client.welcome
        with Client(self.config.url, token=self.config.token, role="viewer", timeout=FIRST_SECONDS) as viewer:
            return viewer.welcome

    @property
    def action_features(self) -> dict[str, type]:
        return {column["name"]: float for column in self._welcome["columns"]}

    @property
    def observation_features(self) -> dict[str, Any]:
        return {**self.action_features, self.config.camera: (self._welcome["height"], self._welcome["width"], 3)}

    @property
    def is_connected(self) -> bool:
        return self._client is not None and not self._failure

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None:
        """There is nothing to calibrate."""

    def configure(self) -> None:
        """There is nothing to configure."""

    def connect(self, calibrate: bool = True) -> None:
        """Become the session's driver and begin at the scene."""
        if self.is_connected:
            raise ConnectionError(f"{self} is connected already")
        self.disconnect()
        client = Client(self.config.url, token=self.config.token, timeout=FIRST_SECONDS)
        first = client.reset(seed=self.config.seed, scene=self.config.scene)
        self._client, self._failure = client, ""
        self._shown, self._shown_at = first[None], time.monotonic()
        self._reader = threading.Thread(target=self._read, args=(client,), name="understudy", daemon=True)
        self._reader.start()

    def get_observation(self) -> dict[str, Any]:
        client = self._require_client()
        since = time.monotonic() - self._shown_at
        frame = self._shown[min(int(since * client.welcome["fps"]), len(self._shown) - 1)]
        return {**dict(zip(client.names, client.controls.tolist(), strict=True)), self.config.camera: frame}

    def send_action(self, action: dict[str, Any]) -> dict[str, float]:
        """ValueError unless it has each of the controls. Returns them within their limits."""
        client = self._require_client()
        if missing := [name for name in client.names if name not in action]:
            raise ValueError(f"an action needs {', '.join(client.names)}; {missing[0]} is missing")
        row = [
            min(max(float(action[column["name"]]), column["low"]), column["high"])
            for column in client.welcome["columns"]
        ]
        client.control(row)
        if client.state["state"] == "paused":
            client.send(Resume())
        return dict(zip(client.names, row, strict=True))

    def disconnect(self) -> None:
        """Leave the session, paused."""
        client, self._client = self._client, None
        if client:
            if not self._failure:
                client.send(Pause())
            client.close()
        if self._reader:
            self._reader.join()
            self._reader = None

    def _require_client(self) -> Client:
        if self._client is None:
            raise ConnectionError(f"{self} is not connected")
        if self._failure:
            raise ConnectionError(self._failure)
        return self._client

    def _read(self, client: Client) -> None:
        """Keep what is shown, until the connection ends or the model fails."""
        while not self._failure:
            try:
                message = client.next_message()
            except TimeoutError:
                continue  # a paused session says nothing
            except ValueError as error:
                logging.warning("understudy: %s", error)
            except (ConnectionClosed, OSError) as error:
                self._failure = f"the session was lost: {error}"
            else:
                self._take(message)

    def _take(self, message: Passed | dict[str, Any]) -> None:
        if isinstance(message, Passed):
            self._shown, self._shown_at = message.frames, time.monotonic()
        elif message["type"] == "state" and message["state"] == "stopped":
            self._failure = f"the session has stopped: {message['reason'] or 'somebody stopped it'}"
