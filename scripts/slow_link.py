"""A slow network on one machine: a TCP proxy with a rate and a delay, for measuring and for tests."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PART = 4096
"""Bytes that are on their way at a time."""
QUEUE = 64 * 1024
"""Bytes that the proxy takes in before they fit onto the link, like a router's queue."""


@contextmanager
def slow_link(port: int, *, megabits: float, round_trip: float) -> Iterator[int]:
    """A port that leads to `port` of this machine: so many megabits per second each way, `round_trip` in seconds."""
    loop = asyncio.new_event_loop()
    link = Link(port, megabits * 1e6 / 8, round_trip / 2)
    thread = threading.Thread(target=loop.run_forever, name="slow-link", daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(link.join, "127.0.0.1", 0, limit=QUEUE), loop)
    try:
        yield server.result().sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(link.close(server.result()), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Link:
    def __init__(self, port: int, bytes_per_second: float, delay: float) -> None:
        self.port = port
        self.bytes_per_second = bytes_per_second
        self.delay = delay
        self._tasks: set[asyncio.Task[None]] = set()

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, both ways."""
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.port, limit=QUEUE)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._carry(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self, server: asyncio.Server) -> None:
        server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arriving = asyncio.create_task(self._arrive(on_the_way, target))
        free = time.monotonic()
        try:
            while part := await source.read(PART):
                free = max(free, time.monotonic()) + len(part) / self.bytes_per_second
                await asyncio.sleep(free - time.monotonic())
                on_the_way.put_nowait((free + self.delay, part))
            await asyncio.sleep(self.delay)
        except ConnectionError:
            return  # that side is gone, and so is the other below
        finally:
            arriving.cancel()
            target.close()

    async def _arrive(self, on_the_way: "asyncio.Queue[tuple[float, bytes]]", target: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while True:
                at, part = await on_the_way.get()
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                target.write(part)
                await target.drain()
