"""One client's connection: its hello, what it says, and what it is sent."""

import asyncio
import time
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect

from simulator.limits import Budget, ControlGate
from simulator.outbox import Outbox
from simulator.protocol import (
    BUSY,
    MISTAKEN,
    NO_HELLO,
    TOO_LATE,
    TOO_MANY,
    VERSION,
    WRONG_TOKEN,
    WRONG_VERSION,
    Ack,
    Control,
    Hello,
    Message,
    Ping,
    ProtocolError,
    parse,
)
from simulator.room import SOCKETS, Member, Room, tell
from simulator.thinning import Pace

HELLO_SECONDS = 3.0
FAREWELL_SECONDS = 5.0
"""For the last texts to be sent to one who is shown out."""
MISTAKES = 10
UNITS_PER_SECOND = 1000.0
"""Of a client's budget. Controls, and acknowledgements of something, cost 1; other messages 10; each KiB 1 more."""
UNUSUAL = 10.0


class Closed(Exception):
    """The connection is over, or is to be closed with `code` after a last text."""

    def __init__(self, code: int | None = None, text: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.text = text


async def attend(websocket: WebSocket, room: Room) -> None:
    """From the handshake to the end."""
    await websocket.accept()
    room.metrics.connections += 1
    room.sockets += 1
    connection = Connection(websocket, room)
    sending = asyncio.create_task(connection.send())
    try:
        if room.sockets > SOCKETS:
            raise Closed(TOO_MANY, f"{SOCKETS} are connected already")
        await connection.listen()
    except Closed as reason:
        if reason.text:
            connection.complain(reason.text)
        if reason.code is not None:
            connection.outbox.finish(reason.code)
    finally:
        room.sockets -= 1
        connection.leave()
        await _farewell(sending, connection.outbox)


async def _farewell(sending: "asyncio.Task[None]", outbox: Outbox) -> None:
    """Let the sender finish, where there is somebody to send to."""
    if outbox.closing is not None:
        await asyncio.wait([sending], timeout=FAREWELL_SECONDS)
    sending.cancel()
    with suppress(asyncio.CancelledError):
        await sending


class Connection:
    def __init__(self, websocket: WebSocket, room: Room) -> None:
        self.websocket = websocket
        self.room = room
        self.outbox = Outbox()
        self._member: Member | None = None
        self._mistakes = 0
        self._budget = Budget(UNITS_PER_SECOND)
        self._gate = ControlGate(self._handle)

    async def send(self) -> None:
        """What the outbox offers, for ever, or until it is to be closed."""
        with suppress(WebSocketDisconnect):  # the listener hears of it, too
            while True:
                self.outbox.changed.clear()
                while (item := self.outbox.next()) is not None:
                    if isinstance(item, str):
                        await self.websocket.send_text(item)
                    else:
                        await self.websocket.send_bytes(item)
                if self.outbox.closing is not None:
                    await self.websocket.close(self.outbox.closing)
                    return
                await self.outbox.changed.wait()

    async def listen(self) -> None:
        """Take what comes, until Closed."""
        try:
            hello = parse(await asyncio.wait_for(self._text(), HELLO_SECONDS))
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise Closed(TOO_LATE, f"a hello must come within {HELLO_SECONDS:g} seconds") from error
        except ProtocolError as error:
            raise Closed(NO_HELLO, str(error)) from error
        self._member = self._enter(hello)
        while True:
            text = await self._text()
            self.room.metrics.messages += 1
            try:
                message = parse(text)
            except ProtocolError as error:
                self._spend(UNUSUAL, text)
                self._mistake(str(error))
            else:
                self._take(message, text)

    def leave(self) -> None:
        self._gate.close()
        if self._member is not None:
            self.room.leave(self._member)
        else:
            self.room.metrics.refused += 1

    def complain(self, text: str) -> None:
        tell(self.outbox, {"type": "error", "message": text})

    async def _text(self) -> str:
        message = await self.websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise Closed
        if message.get("text") is None:
            raise Closed(1003, "messages must be text")
        return message["text"]

    def _enter(self, hello: Message) -> Member:
        if not isinstance(hello, Hello):
            raise Closed(NO_HELLO, "the first message must be a hello")
        if hello.version != VERSION:
            raise Closed(WRONG_VERSION, f"this server speaks version {VERSION}, not {hello.version}")
        if not self.room.security.knows(hello.token):
            raise Closed(WRONG_TOKEN, "the token is wrong or missing: open the link that the server printed")
        self.outbox.pace = Pace() if hello.thin else None
        member = self.room.enter(hello.role, self.outbox, takeover=hello.takeover)
        if member is not None:
            return member
        if hello.role == "viewer":
            raise Closed(TOO_MANY, f"{len(self.room.viewers)} look on already")
        tell(self.outbox, self.room.busy())
        raise Closed(BUSY)

    def _take(self, message: Message, text: str) -> None:
        assert self._member is not None
        useful = isinstance(message, Ack) and self.outbox.acknowledge(message.number)
        self._spend(1.0 if useful or isinstance(message, Control) else UNUSUAL, text)
        if isinstance(message, Ping):
            self._pong(message)
        elif isinstance(message, Hello):
            self._mistake("there was a hello already")
        elif isinstance(message, Ack):
            return
        elif self._member.role != "driver":
            self._mistake("a viewer may only acknowledge and ping")
        elif isinstance(message, Control):
            self._gate.offer(message)
        else:
            self._gate.flush()
            self._handle(message)

    def _handle(self, message: Message) -> None:
        """Hand it to the engine."""
        if self.room.engine is None:
            self.complain("the model is not loaded")
            return
        try:
            self.room.engine.handle(message)
        except ValueError as error:
            self.complain(str(error))

    def _pong(self, ping: Ping) -> None:
        """The client's time as it came, the server's in unix milliseconds, and how many passes this client was sent."""
        pong = {"type": "pong", "ts": ping.ts, "time": 1000 * time.time()}
        tell(self.outbox, {**pong, "sent": self.outbox.sent, "dropped": self.outbox.dropped})

    def _spend(self, units: float, text: str) -> None:
        if not self._budget.spend(units + len(text) // 1024):
            raise Closed(TOO_MANY, "too many messages")

    def _mistake(self, text: str) -> None:
        self.room.metrics.mistakes += 1
        self._mistakes += 1
        if self._mistakes > MISTAKES:
            raise Closed(MISTAKEN, "too many messages that make no sense")
        self.complain(text)
