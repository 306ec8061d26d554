"""`understudy bench decode`: what one training pair costs, by the usual way and by ours, measured in one run.

Each method runs in a fresh process of its own with one decoding thread: CPU time is then that method's alone, and so is
its peak memory. Pairs are counted once however often a block repeats them.
"""

import datetime
import importlib
import importlib.util
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from common.errors import BadData
from common.folders import Clip
from common.pairs import PairBlock, PairConfig, VideoPairs
from common.shard_pairs import ShardFolder, ShardPairs
from common.shards import write_shards
from common.video import UnreadableVideo, decode, probe

SEEK, SEEK_CV2 = "seek and decode (PyAV)", "seek and decode (OpenCV)"
SPARSE, DENSE = "streaming, 1 pair per 4 frames", "streaming, 1 pair per frame"
WRITE, SHARDS = "writing shards, per frame", "JPEG shards"
METHODS = (SEEK, SEEK_CV2, SPARSE, DENSE, WRITE, SHARDS)
GOLDEN_RATIO = 0.6180339887
LARGEST_STEP = 4  # the second frame of a pair is 1 to 4 frames after the first


@dataclass(frozen=True)
class Task:
    """What a child process measures."""

    method: str
    files: list[str]
    height: int
    width: int
    seconds: float
    shards: str  # folder for the shards


@dataclass(frozen=True)
class Result:
    """One method. Writing shards counts frames as pairs. times_cheaper compares CPU time with SEEK."""

    method: str
    milliseconds: float | None  # CPU time per pair; None: could not be measured, see note
    pairs: int
    peak_megabytes: float
    times_cheaper: float | None
    note: str = ""


def bench_decode(
    files: Sequence[Path], *, size: tuple[int, int] = (240, 320), seconds: float = 10.0, json_path: Path | None = None
) -> list[Result]:
    """Measure every method for about `seconds` of CPU time on the files, print a table, and write it as JSON if asked.

    Raises BadData when a file cannot be read.
    """
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        for method in METHODS:
            shards = str(Path(folder, "shards"))
            task = Task(method, [str(Path(file).resolve()) for file in files], *size, seconds, shards)
            results.append(_measure(task, baseline=results[0].milliseconds if results else None))
    _print_table(results, files)
    if json_path is not None:
        about = {
            "files": [{"name": Path(file).name, **_about(Path(file))} for file in files],
            "size": list(size),
            "processor": _processor(),
            "python": platform.python_version(),
            "date": datetime.date.today().isoformat(),
        }
        json_path.write_text(json.dumps({**about, "results": [asdict(result) for result in results]}, indent=2) + "\n")
    return results


def _measure(task: Task, *, baseline: float | None) -> Result:
    if task.method == SEEK_CV2 and not importlib.util.find_spec("cv2"):
        return Result(task.method, None, 0, 0.0, None, "not installed")
    measured = _run_child(task)
    if not measured["pairs"]:
        return Result(task.method, None, 0, measured["peak_megabytes"], None, "cannot decode this")
    cost = 1000 * measured["cpu_seconds"] / measured["pairs"]
    cheaper = baseline / cost if baseline and task.method != WRITE else None
    return Result(task.method, cost, measured["pairs"], measured["peak_megabytes"], cheaper)


def make_test_file(out: Path, clips: Sequence[Path], *, frames_each: int = 180) -> None:
    """Write 1080p H.264 (8 Mbit/s, B-frames, a key frame every 250 frames) from the starts of clips, upscaled."""
    noise = np.random.default_rng(0).integers(0, 7, (4, 1080, 1920, 3), dtype=np.uint8)  # upscaling leaves none
    options = {"preset": "veryfast", "bf": "3", "sc_threshold": "0"}
    with av.open(str(out), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        stream.bit_rate, stream.gop_size = 8_000_000, 250
        images = (f.image for clip in clips for f in itertools.islice(decode(clip, size=(1080, 1920)), frames_each))
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.minimum(image, 249) + noise[index % 4], format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _about(file: Path) -> dict[str, object]:
    info = probe(file)
    return {
        "codec": info.codec,
        "width": info.width,
        "height": info.height,
        "fps": round(info.fps, 3),
        "frames": info.frames,
        "longest_gop": info.longest_gop,
        "bytes": file.stat().st_size,
    }


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _print_table(results: Sequence[Result], files: Sequence[Path]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"one training pair from {', '.join(Path(file).name for file in files)}")
    for heading in ("method", "CPU ms per pair", "pairs", "x cheaper", "peak memory, MB"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for result in results:
        if result.milliseconds is None:
            table.add_row(result.method, result.note)
            continue
        cheaper = "" if result.times_cheaper is None else f"{result.times_cheaper:,.1f}"
        numbers = (f"{result.milliseconds:,.2f}", f"{result.pairs:,}", cheaper, f"{result.peak_megabytes:,.0f}")
        table.add_row(result.method, *numbers)
    Console().print(table)


def _run_child(task: Task) -> dict[str, Any]:
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    single = {"OMP_NUM_THREADS": "1", "OPENCV_FFMPEG_CAPTURE_OPTIONS": "threads;1"}
    child = subprocess.run(
        [sys.executable, "-m", "scripts.bench_decode", json.dumps(asdict(task))],
        env={**os.environ, **single, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise BadData(f"'{task.method}' failed: {last}")
    return json.loads(child.stdout.splitlines()[-1])


def _child(task: Task) -> dict[str, Any]:
    """Run one method until its CPU time is up; importing and looking at the files come before the clock starts."""
    clips = []
    for file in map(Path, task.files):
        try:
            clips.append(Clip(file.parent, file.name, probe(file)))
        except UnreadableVideo as error:
            raise BadData(f"{file}: {error.reason}") from error
    work = {
        SEEK: lambda: _seek(task, clips),
        SEEK_CV2: lambda: _seek_cv2(task, clips),
        SPARSE: lambda: _blocks(task, clips, pairs_per_frame=0.25),
        DENSE: lambda: _blocks(task, clips, pairs_per_frame=1.0),
        WRITE: lambda: _write(task, clips),
        SHARDS: lambda: _blocks(task, clips, pairs_per_frame=None),
    }[task.method]()
    next(work)
    start = time.process_time()
    pairs, cpu_seconds = 0, 0.0
    while cpu_seconds < task.seconds and (made := next(work, 0)):
        pairs += made
        cpu_seconds = time.process_time() - start
    torch = "torch" in sys.modules
    return {"pairs": pairs, "cpu_seconds": cpu_seconds, "peak_megabytes": _peak_megabytes(), "torch": torch}


def _peak_megabytes() -> float:
    if sys.platform == "linux":  # ru_maxrss would include what the parent held when it started this process
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


# Each method yields 0 when it is ready, then the number of pairs (frames, for the writer) it made since.


def _seek(task: Task, clips: Sequence[Clip]) -> Iterator[int]:
    """A random pair at a time: open, seek to the key frame before it, decode up to it. What most loaders do."""
    yield 0
    for clip, first, step in _scattered_pairs(clips):
        start = clip.info.start_seconds + (first - 0.5) / clip.info.fps
        frames = decode(clip.path, size=(task.height, task.width), start=start)
        if len([*itertools.islice(frames, step + 1)]) > 1:
            yield 1


def _seek_cv2(task: Task, clips: Sequence[Clip]) -> Iterator[int]:
    """The same with OpenCV, as DreamDojo's loader does it. Ends at a frame that OpenCV cannot decode (AV1)."""
    cv2 = importlib.import_module("cv2")  # by name, since it is optional and type checks run without it
    cv2.setNumThreads(1)
    yield 0
    for clip, first, step in _scattered_pairs(clips):
        capture = cv2.VideoCapture(str(clip.path))
        capture.set(cv2.CAP_PROP_POS_FRAMES, first)
        images = [capture.read()[1] for _ in range(step + 1)]
        capture.release()
        for image in (images[0], images[-1]):
            if image is None:
                return
            height, width = image.shape[:2]
            side = min(width, height * task.width // task.height) // 2
            middle = image[:, width // 2 - side : width // 2 + side]
            cv2.cvtColor(cv2.resize(middle, (task.width, task.height), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        yield 1


def _scattered_pairs(clips: Sequence[Clip]) -> Iterator[tuple[Clip, int, int]]:
    """(clip, first frame, frames to the second): spread evenly in any number, so that few give a steady mean."""
    for count in itertools.count():
        clip = clips[count % len(clips)]
        step = 1 + count // len(clips) % LARGEST_STEP
        yield clip, int(count * GOLDEN_RATIO % 1 * max(1, clip.info.frames - step)), step


def _blocks(task: Task, clips: Sequence[Clip], *, pairs_per_frame: float | None) -> Iterator[int]:
    """Blocks of training pairs from the files, or from the shards (None)."""
    fps = clips[0].info.fps
    config = PairConfig(task.height, task.width, (1 / fps, LARGEST_STEP / fps), pairs_per_frame=pairs_per_frame or 0.25)
    if pairs_per_frame is None:
        pairs = ShardPairs([ShardFolder(Path(task.shards)).clips], config=config, batch_size=32, seed=0)
    else:
        pairs = VideoPairs([clips], config=config, batch_size=32, seed=0)
    yield 0
    for number in itertools.count():
        yield _distinct(pairs.block(number))


def _distinct(block: PairBlock) -> int:
    """Pairs of a block, repeats not counted."""
    return len(np.unique(np.column_stack([block.clip, block.seconds]), axis=0))


def _write(task: Task, clips: Sequence[Clip]) -> Iterator[int]:
    yield 0
    yield write_shards(clips, Path(task.shards), size=(task.height, task.width)).frames


if __name__ == "__main__":
    print(json.dumps(_child(Task(**json.loads(sys.argv[1])))))
