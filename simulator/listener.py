"""uvicorn, made patient with nobody: what it leaves to good manners has a limit here.

A connection that asks for nothing, floods with WebSocket's own frames, or no longer reads, is ended. HTTP is read by
h11, which limits how long headers may be; uvicorn's other parser does not.
"""

import socket
from asyncio import Task, TimerHandle, Transport
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from common.errors import UserError
from simulator.limits import Budget
from simulator.protocol import MESSAGE_BYTES

REQUEST_SECONDS = 5.0
"""For a request's headers to arrive."""
PING_SECONDS = 10.0
"""Between pings, and for each answer."""
CLOSE_SECONDS = 2.0
"""For a client to agree to an end."""
WAITING = 128
"""Connections that may wait to be accepted."""
MOST_SOCKETS = 24
"""WebSockets at a time. `simulator.room` has fewer places, and refuses with a reason."""
FRAMES_PER_SECOND = 100.0
"""Of pings, pongs and further parts of one message: clients need next to none."""


class HttpConnection(H11Protocol):
    _patience: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._patience = self.loop.call_later(REQUEST_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or self.transport.get_protocol() is not self:  # which has become a WebSocket
            self._calm()
        elif self._patience is None:
            self._patience = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def handle_websocket_upgrade(self, event: Any) -> None:
        sockets = sum(isinstance(other, SocketConnection) for other in self.connections)
        if sockets < MOST_SOCKETS:
            super().handle_websocket_upgrade(event)
        else:
            self.transport.abort()  # at once: in a flood, even a refusal costs those who are here

    def _calm(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class SocketConnection(WebSocketsSansIOProtocol):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.close_timeout = CLOSE_SECONDS
        self._budget = Budget(FRAMES_PER_SECOND)

    def handle_ping(self) -> None:
        self._spend()
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        self._spend()
        super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        self._spend()
        super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        if self.close_sent:  # it goes on talking, and nobody listens
            self._spend()
        super().send_receive_event_to_app()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()  # closing alone waits for ever for one who does not read

    def on_task_complete(self, task: "Task[None]") -> None:
        super().on_task_complete(task)
        self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def _spend(self) -> None:
        if not self._budget.spend(1):
            self.transport.abort()


def configuration(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn serves the app."""
    return uvicorn.Config(
        app,
        http=HttpConnection,
        ws=SocketConnection,
        ws_max_size=MESSAGE_BYTES,
        ws_ping_interval=PING_SECONDS,
        ws_ping_timeout=PING_SECONDS,
        ws_per_message_deflate=False,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=3,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens: whoever connects waits for the server. UserError if the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"{host} is no address of this machine: {error.strerror or error}") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(WAITING)
    except OSError as error:
        listener.close()
        raise UserError(
            f"{host}:{port} cannot be listened at: {error.strerror}", hint="--port 0 takes any that is free."
        ) from error
    return listener
