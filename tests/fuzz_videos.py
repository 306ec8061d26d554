"""`python -m tests.fuzz_videos COUNT SEED`: damage good videos in COUNT ways; probe and decode each.

Made to run in a child process: a crash, a hang (8 seconds per file) or an exception other than UnreadableVideo ends it
with a code that is not 0. Prints one line of JSON: how many files were usable, unreadable, and failed on the way.
"""

import json
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from common.video import UnreadableVideo, decode, probe
from tests.bad_videos import encode

SECONDS_PER_FILE = 8


def seeds(folder: Path) -> list[tuple[str, bytes]]:
    """(suffix, content) of good files of many kinds."""
    encode(folder / "a.mp4", flags="faststart")
    encode(folder / "b.mp4", flags="frag_keyframe+empty_moov")
    encode(folder / "c.mkv", options={"bf": "2"})
    encode(folder / "d.avi", codec="mpeg4")
    encode(folder / "e.webm", codec="libvpx-vp9", count=12)
    encode(folder / "f.mp4", codec="libsvtav1", count=12, options={"preset": "12"})
    encode(folder / "g.gif", codec="gif", pixels="rgb8")
    encode(folder / "h.mts")
    return [(path.suffix, path.read_bytes()) for path in sorted(folder.iterdir())]


def flip_bits(data: bytearray, random: random.Random, limit: int) -> None:
    for _ in range(random.choice((1, 4, 40))):
        data[random.randrange(limit)] ^= 1 << random.randrange(8)


def cut(data: bytearray, random: random.Random, limit: int) -> None:
    del data[random.randrange(limit) :]


def zero_block(data: bytearray, random: random.Random, limit: int) -> None:
    start = random.randrange(limit)
    stop = min(len(data), start + random.choice((4, 64, 1024)))
    data[start:stop] = bytes(stop - start)


def remove_block(data: bytearray, random: random.Random, limit: int) -> None:
    start = random.randrange(limit)
    del data[start : start + random.choice((1, 16, 500))]


def huge_number(data: bytearray, random: random.Random, limit: int) -> None:
    start = random.randrange(limit)
    data[start : start + 4] = random.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\xff\xff"))


def noise_block(data: bytearray, random: random.Random, limit: int) -> None:
    start = random.randrange(limit)
    data[start : start + 32] = random.randbytes(32)


DAMAGES: tuple[Callable[[bytearray, random.Random, int], None], ...] = (
    flip_bits,
    cut,
    zero_block,
    remove_block,
    huge_number,
    noise_block,
)


def damaged(content: bytes, random: random.Random) -> bytes:
    """One or two damages; half of the time in the header, where they do most harm."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 2))):
        limit = random.choice((min(len(data), 2000), len(data)))
        if limit:
            random.choice(DAMAGES)(data, random, limit)
    return bytes(data)


def run(count: int, *, seed: int) -> dict[str, int]:
    tally = {"usable": 0, "unreadable": 0, "failed while decoding": 0}
    choice = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals = seeds(folder)
        for index in range(count):
            suffix, content = choice.choice(originals)
            path = folder / f"damaged{suffix}"
            path.write_bytes(damaged(content, choice))
            print(f"file {index}", file=sys.stderr)
            signal.alarm(SECONDS_PER_FILE)  # no handler: a hang ends the process, also inside a C library
            try:
                probe(path)
            except UnreadableVideo as error:
                assert error.reason and "\n" not in error.reason, error.reason
                tally["unreadable"] += 1
                continue
            try:
                for frame in islice(decode(path, size=(24, 32)), 200):
                    assert frame.image.shape == (24, 32, 3)
                tally["usable"] += 1
            except UnreadableVideo as error:
                assert error.reason and "\n" not in error.reason, error.reason
                tally["failed while decoding"] += 1
        signal.alarm(0)
    tally["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return tally


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), seed=int(sys.argv[2]))))
