"""How much the live server adds to the model: python -m scripts.bench_serve

A session that costs nothing pans over one picture, in a server process of its own; a driver and viewers listen here.
Printed for each case: passes and frames per second that the driver got, the time from a pass that is made (encoded) to
its having arrived, of encoding its frames, the server's CPU time per frame, and passes that were not sent.
"""

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import psutil
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect

from scripts.slow_link import slow_link
from simulator.protocol import Ack, Control, Hello, Message, Reset, Resume, Role, header_of, text_of

if TYPE_CHECKING:
    from simulator.session import Step

FRAMES = 4
LOOP = 8
"""Passes until the same frames come again."""
WARM_UP = 1.0
"""Seconds that are not measured."""
PICTURE = Path(__file__).parent.parent / "docs" / "transfer.jpg"


class Panning:
    """A session without a model: a window that pans over a picture."""

    robot = None
    width = 2
    generator = SimpleNamespace(embodiment=lambda name: SimpleNamespace(scale=[1.0, 1.0], camera_dim=0, fps=10.0))

    def __init__(self, picture: np.ndarray) -> None:
        steps = range(0, 16 * LOOP, 16)
        self.films = [np.stack([np.roll(picture, step + 4 * i, axis=1) for i in range(FRAMES)]) for step in steps]
        self.made = 0

    def reset(self, first_frame: np.ndarray, *, seed: int, before: np.ndarray | None = None) -> np.ndarray:
        self.made = 0
        return first_frame

    def step(self, controls: np.ndarray) -> "Step":
        from simulator.session import Step

        rows = np.zeros((FRAMES, 2), np.float32)
        rows[: len(controls)] = controls
        self.made += FRAMES
        return Step(self.films[self.made // FRAMES % LOOP], rows, self.made - FRAMES + 1, {"total": 0.0})


@dataclass
class Listened:
    """What one client got."""

    arrived: list[float] = field(default_factory=list)
    """Unix time of each pass, in seconds."""
    delays: list[float] = field(default_factory=list)
    """Milliseconds from a pass that is made to its having arrived."""
    encoding: list[float] = field(default_factory=list)
    """Milliseconds, of four frames."""
    numbers: list[int] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def half(self, which: int) -> "Listened":
        """The first half (0), or the second (1)."""
        middle = len(self.delays) // 2
        return Listened(*(values[middle:] if which else values[:middle] for values in vars(self).values()))


@dataclass(frozen=True)
class Measured:
    """One row of the table; milliseconds where nothing else is said."""

    frames_per_second: float
    megabits: float
    p50: float
    p95: float
    p95_first_half: float
    p95_second_half: float
    encode_p50: float
    cpu_per_frame: float
    """Of the server's process, encoding included."""
    not_sent: float
    """Share of passes that the driver did not get."""


@contextmanager
def serving(height: int, width: int, fps: float) -> Iterator[tuple[int, psutil.Process]]:
    """A server in a process of its own: its port, and the process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with tempfile.TemporaryDirectory() as recordings:
        process = context.Process(target=_serve, args=(height, width, fps, Path(recordings), there), daemon=True)
        process.start()
        try:
            port = here.recv()
            assert here.recv() == "loaded"
            assert process.pid is not None
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.join()


def _serve(height: int, width: int, fps: float, recordings: Path, there: Connection) -> None:
    from simulator.engine import Engine
    from simulator.guard import Security
    from simulator.server import build_app, serve
    from simulator.takes import Scene

    picture = np.asarray(Image.open(PICTURE).convert("RGB").resize((width, height)))
    scene = Scene("picture", "Picture", picture, None, None)

    def load() -> Engine:
        import simulator.session  # noqa: F401  torch, so that it is not measured

        there.send("loaded")
        return Engine(Panning(picture), [scene], fps=fps, recordings=recordings)

    serve(build_app(load, security=Security()), "127.0.0.1", 0, listening=there.send)


async def listen(port: int, role: Role, seconds: float, *, thin: bool = False) -> Listened:
    """Drive, or look on, for so long. thin: take fewer pictures on a slow link."""
    listened = Listened()
    async with AsyncExitStack() as stack:
        socket = await stack.enter_async_context(
            connect(f"ws://127.0.0.1:{port}/session", max_size=None, compression=None)
        )
        await say(socket, Hello(1, role, thin=thin))
        if role == "driver":
            await until(socket, "scene")
            await say(socket, Reset())
            await until(socket, "scene")
            await say(socket, Resume())
            steering = asyncio.create_task(steer(socket))
            stack.callback(steering.cancel)
        began = time.time()
        while time.time() < began + WARM_UP + seconds:
            message = await asyncio.wait_for(socket.recv(), 10)
            now = time.time()
            if isinstance(message, str):
                continue
            header = header_of(message)
            await say(socket, Ack(header["number"]))
            if now > began + WARM_UP:
                listened.arrived.append(now)
                listened.delays.append(1000 * now - header["made_at"])
                listened.encoding.append(header["t_encode_ms"])
                listened.numbers.append(header["number"])
                listened.pictures.append(header["n"])
                listened.sizes.append(len(message))
    return listened


async def say(socket: ClientConnection, message: Message) -> None:
    await socket.send(text_of(message))


async def until(socket: ClientConnection, kind: str) -> None:
    while True:
        message = await asyncio.wait_for(socket.recv(), 30)
        if isinstance(message, str) and json.loads(message)["type"] == kind:
            return


async def steer(socket: ClientConnection) -> None:
    """Controls, 30 times per second."""
    seq = 0
    while True:
        seq += 1
        await say(socket, Control(seq, (0.1, -0.1), 1000 * time.time()))
        await asyncio.sleep(1 / 30)


def measure(
    *,
    fps: float = 60.0,
    size: tuple[int, int] = (480, 640),
    seconds: float = 10.0,
    viewers: int = 0,
    link: tuple[float, float] | None = None,
    thin: bool = True,
) -> Measured:
    """link: the driver's, in Mbit/s and seconds of round trip; by default loopback. thin: as `Hello.thin`."""
    with serving(*size, fps) as (port, process):
        if link is None:
            return asyncio.run(_measure(port, port, process, seconds, viewers, thin))
        with slow_link(port, megabits=link[0], round_trip=link[1]) as near:
            return asyncio.run(_measure(near, port, process, seconds, viewers, thin))


async def _measure(near: int, port: int, process: psutil.Process, seconds: float, viewers: int, thin: bool) -> Measured:
    driving = asyncio.create_task(listen(near, "driver", seconds, thin=thin))
    looking = [asyncio.create_task(listen(port, "viewer", seconds)) for _ in range(viewers)]
    await asyncio.sleep(WARM_UP)
    before = process.cpu_times()
    listened = await driving
    after = process.cpu_times()
    await asyncio.gather(*looking)
    elapsed = listened.arrived[-1] - listened.arrived[0]
    made = listened.numbers[-1] - listened.numbers[0]
    got = len(listened.numbers) - 1
    p95 = [float(np.percentile(listened.half(which).delays, 95)) for which in (0, 1)]
    return Measured(
        frames_per_second=sum(listened.pictures[1:]) / elapsed,
        megabits=8e-6 * sum(listened.sizes[1:]) / elapsed,
        p50=float(np.percentile(listened.delays, 50)),
        p95=float(np.percentile(listened.delays, 95)),
        p95_first_half=p95[0],
        p95_second_half=p95[1],
        encode_p50=float(np.percentile(listened.encoding, 50)),
        cpu_per_frame=1000 * (after.user + after.system - before.user - before.system) / (FRAMES * made),
        not_sent=1 - got / made,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench_serve", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each case")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    options = parser.parse_args()
    size = tuple(options.size)
    cases = {
        "60 frames/s, loopback": {"fps": 60.0},
        "60 frames/s, 8 viewers": {"fps": 60.0, "viewers": 8},
        "30 frames/s, 8 Mbit/s and 20 ms": {"fps": 30.0, "link": (8.0, 0.02)},
        "the same, whole passes": {"fps": 30.0, "link": (8.0, 0.02), "thin": False},
        "30 frames/s, 4 Mbit/s and 40 ms": {"fps": 30.0, "link": (4.0, 0.04)},
    }
    print(f"{size[0]} x {size[1]} pixels, {FRAMES} frames per pass; milliseconds\n")
    print("| case | frames/s | Mbit/s | p50 | p95 | halves' p95 | encode p50 | CPU/frame | not sent |")
    print("|---|---|---|---|---|---|---|---|---|")
    numbers = {}
    for name, case in cases.items():
        row = measure(size=size, seconds=options.seconds, **case)
        numbers[name] = asdict(row)
        print(
            f"| {name} | {row.frames_per_second:.1f} | {row.megabits:.1f} | {row.p50:.1f} | {row.p95:.1f} "
            f"| {row.p95_first_half:.1f}, {row.p95_second_half:.1f} | {row.encode_p50:.1f} | {row.cpu_per_frame:.2f} "
            f"| {100 * row.not_sent:.0f} % |",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
