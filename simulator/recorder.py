"""Records while a session goes on, off the model's thread, and keeps the last ten seconds in case they are wanted.

The engine says what was shown, under its lock and in order. Each recording has a thread that appends to it and, at its
end, finishes it, which takes longer; the next may begin meanwhile.
"""

import itertools
import logging
import math
import queue
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from simulator.columns import Column
from simulator.recording import Origin, RecordingWriter, finish
from simulator.takes import Shown

KEPT_SECONDS = 10.0
MOST_WAITING = 32
"""Passes that may wait for the disk. Where it is slower than the model for longer, the recording ends."""


@dataclass(frozen=True)
class UnderWay:
    """A recording that goes on until None comes."""

    waiting: "queue.Queue[Shown | None]"
    thread: threading.Thread


class Recorder:
    """`close` aside, nothing here waits for a disk. What went well or wrong is told by events."""

    def __init__(
        self,
        folder: Path,
        *,
        columns: Sequence[Column],
        fps: float,
        rate: float,
        origin: Origin | None,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self._folder, self._columns, self._fps, self._rate, self._origin = folder, tuple(columns), fps, rate, origin
        self._tell = tell
        self._ring: deque[Shown] = deque(maxlen=math.ceil(KEPT_SECONDS * fps / 4))
        self._under_way: UnderWay | None = None
        self._threads: list[threading.Thread] = []

    @property
    def recording(self) -> bool:
        return self._under_way is not None and self._under_way.thread.is_alive()

    def begin(self, last: Shown | None) -> None:
        """From the frame that is shown now, the last of `last`; or from the next one on."""
        if self.recording:
            return
        waiting: queue.Queue[Shown | None] = queue.Queue(MOST_WAITING)
        if last:
            waiting.put(Shown(last.take, last.end, last.frames[-1:], None))
        self._under_way = UnderWay(waiting, self._start(iter(waiting.get, None)))

    def end(self) -> None:
        if self._under_way:
            waiting = self._under_way.waiting
            # The last word may have to wait until there is room for it.
            threading.Thread(target=waiting.put, args=(None,), name="recorder's end", daemon=True).start()
        self._under_way = None

    def shown(self, shown: Shown) -> None:
        self._ring.append(shown)
        if self._under_way and self.recording:
            try:
                self._under_way.waiting.put_nowait(shown)
            except queue.Full:
                self.end()
                self._tell({"type": "error", "message": "the recording has ended: the disk is slower than the model"})

    def keep(self) -> None:
        """Save the last seconds as a recording of their own. ValueError if nothing was shown yet."""
        if not any(shown.made for shown in self._ring):
            raise ValueError("there is nothing to keep yet")
        self._start(list(self._ring))

    def close(self) -> None:
        """Ends the recording under way, and waits until all are finished."""
        self.end()
        while self._threads:
            self._threads.pop(0).join()

    def _start(self, parts: Iterable[Shown]) -> threading.Thread:
        thread = threading.Thread(target=self._write, args=(parts,), name="recorder")
        self._threads = [thread, *(other for other in self._threads if other.is_alive())]
        thread.start()
        return thread

    def _write(self, parts: Iterable[Shown]) -> None:
        try:
            folder = self._new_folder()
            writer = RecordingWriter(folder, columns=self._columns, fps=self._fps, rate=self._rate, origin=self._origin)
            with closing(writer):
                for shown in parts:
                    writer.add(shown)
            if writer.passes:
                self._tell({"type": "recorded", "id": folder.name, "frames": finish(folder)})
            else:
                shutil.rmtree(folder)
                self._tell({"type": "error", "message": "nothing was recorded, since nothing was shown"})
        except Exception as error:  # a full disk, above all: what is there of the recording stays
            logging.exception("recording failed")
            self._tell({"type": "error", "message": f"the recording has failed: {error}"})

    def _new_folder(self) -> Path:
        """A name that no recording has, made of the time."""
        name = f"{datetime.now():%Y%m%d-%H%M%S}"
        for number in itertools.count(1):
            folder = self._folder / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                continue
        raise AssertionError("unreachable")
