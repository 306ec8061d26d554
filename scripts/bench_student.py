"""`understudy bench student`: a student's live session beside its teacher's, and beside DreamDojo's way to stream.

They make one latent each, four frames, in turns in one run, under random latent actions and with a full cache. A
figure is the median over the latents; the first frame is there when the first four are made from the first picture.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from common.errors import UserError
from distill.card import Latency, WayCost
from scripts.bench_parts import device_name, peak_gigabytes, seconds_of, write_numbers
from scripts.bench_video import ACTION_DIM
from simulator.session import Session, Step, Stopwatch
from video_model.cache import KVCache
from video_model.films import as_films, as_pictures
from video_model.generator import LATENT, Embodiment, Generator, build_video_model, load_generator
from video_model.layers import Actions
from video_model.presets import TIME_FACTOR, TOKENIZER_PRESETS, VIDEO_PRESETS
from video_model.rollout import Stream, denoise, next_request
from video_model.tokenizer import DecoderState, build_tokenizer

KEPT_FRAMES, KEPT_LATENTS = 9, 3
"""Of the past, in DreamDojo's way."""
FIRST_FRAMES = 3
"""Beginnings that the first frame's median is taken of."""


@dataclass(frozen=True)
class Target:
    aim: str
    met: bool


@dataclass(frozen=True)
class StudentBench:
    student_name: str
    teacher_name: str
    device: str
    precision: str
    threads: int
    parameters_millions: float
    """Of the student's network."""
    size: tuple[int, int]
    """Rows and columns of a frame."""
    student: WayCost
    teacher: WayCost
    re_encoding: WayCost
    """The student, streamed in DreamDojo's way, with the tokenizer's decoder."""
    full_decoder: WayCost | None
    """The student's session with the tokenizer's decoder, where it has a tiny one."""
    times_the_teacher: float
    """The student's frames per second over the teacher's."""
    times_re_encoding: float
    peak_gigabytes: float
    """Of all three together: of the device's memory; on a CPU, of the whole process."""
    targets: tuple[Target, ...]


class ReEncoding:
    """DreamDojo's way to stream: nothing is kept but pixels (`interactive/inference/action_video2world.py` there).

    For each latent the last nine frames, as uint8, are encoded anew, with four frames of zeros in place of those to
    come. Their three latents fill a new cache, the next is made, all four are decoded, and the last four frames kept. A
    stream begins with nine times the first frame. A forecast begins anew each time, and adds no detail.
    """

    def __init__(self, generator: Generator, *, steps: int) -> None:
        self.generator, self.steps = generator, steps

    def reset(self, first_frame: np.ndarray, *, seed: int) -> None:
        """first_frame: uint8 (H, W, 3)."""
        self.frames = np.repeat(first_frame[None], KEPT_FRAMES, axis=0)
        width = len(self.generator.embodiment(LATENT).scale)
        self.actions = np.zeros((KEPT_FRAMES - 1, width), np.float32)
        self.random, self.made = torch.Generator().manual_seed(seed), 0

    @torch.inference_mode()
    def step(self, actions: np.ndarray) -> Step:
        """The next four frames under the latent actions, float32 (4, A)."""
        generator, watch = self.generator, Stopwatch(self.generator.device)
        tokenizer = generator.tokenizer
        with watch("total"):
            with watch("encode"):
                past = as_films([self.frames], generator.device)
                latents, encoder = tokenizer.encode_next(past, None)  # (1, C, 3, h, w)
                tokenizer.encode_next(torch.zeros_like(past[:, :TIME_FACTOR]), encoder)
            with watch("cache"):
                cache = self._filled_cache(latents)
            stream = Stream(
                cache,
                DecoderState(()),
                encoder,
                forecast=None,
                shown=None,
                last=past[:, -1],
                first=None,
                random=[self.random],
                shape=latents[0, :, :1].shape,
            )
            with watch("forecast"):
                request = next_request(generator, stream, torch.from_numpy(actions)[None], embodiment=LATENT)
            with watch("denoise"):
                latent = denoise(generator, request, stream, steps=self.steps)
            with watch("decode"):
                film = tokenizer.decode(torch.cat((latents, latent), dim=2))
                frames = as_pictures(film[0, -TIME_FACTOR:])
        self.frames = np.concatenate((self.frames[TIME_FACTOR:], frames))
        self.actions = np.concatenate((self.actions[TIME_FACTOR:], actions))
        self.made += TIME_FACTOR
        return Step(frames, actions, self.made - TIME_FACTOR + 1, watch.milliseconds)

    def _filled_cache(self, latents: torch.Tensor) -> KVCache:
        """A new cache with the clean latents (1, C, 3, h, w), of which the first stands for one frame."""
        model, config = self.generator.model, self.generator.embodiment(LATENT)
        scaled = config.scaled(torch.from_numpy(self.actions)[None].to(latents.device)).to(model.dtype)
        cache = model.empty_cache(batch=1, height=latents.shape[3], width=latents.shape[4], window=KEPT_LATENTS, sink=0)
        given = latents.new_ones(1, 1)
        for number, latent in enumerate(latents.to(model.dtype).split(1, dim=2)):
            chunk = scaled[:, TIME_FACTOR * (number - 1) : TIME_FACTOR * number]
            model(
                latent,
                0 * given,
                actions=Actions(chunk, LATENT, mid_clip=True) if number else None,
                conditioned=given,
                cache=cache,
                append=True,
                forecast=torch.zeros_like(latent) if self.generator.forecaster else None,
            )
        return cache


def bench_student(
    checkpoint: Path | None = None,
    *,
    size: str | None = None,
    teacher: Path | None = None,
    steps: int | None = None,
    teacher_steps: int = 16,
    latents: int = 40,
    json_path: Path | None = None,
) -> StudentBench:
    """Measure, print, and write JSON if asked. On a GPU in bf16.

    size: of a preset, with random weights, in place of a checkpoint. teacher: by default the student's own network.
    steps: by default those of the student's config. latents: that each way makes under the clock.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if checkpoint and not size:
        name, student = str(checkpoint), load_generator(checkpoint)
    elif size and not checkpoint:
        name, student = f"{size}, random weights", untrained(size, device)
    else:
        raise UserError("which student?", hint="Give a checkpoint, or --size for random weights of that size.")
    steps = student.config.sampling_steps if steps is None else steps
    if min(steps, teacher_steps, latents) < 1:
        raise UserError(f"steps and latents must be at least 1, not {steps}, {teacher_steps} and {latents}")
    other = load_generator(teacher) if teacher else student
    for generator in (student, other):
        generator.to(device)
    ways = [
        Session(student, steps=steps),
        Session(other, steps=teacher_steps, decoder="full"),
        ReEncoding(student, steps=steps),
        *([Session(student, steps=steps, decoder="full")] if student.tiny_decoder else []),
    ]
    own, teachers, re_encoding, *rest = time_ways(ways, latents=latents)
    over_teacher = own.frames_per_second / teachers.frames_per_second
    over_re_encoding = own.frames_per_second / re_encoding.frames_per_second
    result = StudentBench(
        student_name=name,
        teacher_name=str(teacher or "the student's own network"),
        device=device_name(device),
        precision=precision_on(device),
        threads=torch.get_num_threads(),
        parameters_millions=sum(parameter.numel() for parameter in student.model.parameters()) / 1e6,
        size=(student.config.data.height, student.config.data.width),
        student=own,
        teacher=teachers,
        re_encoding=re_encoding,
        full_decoder=rest[0] if rest else None,
        times_the_teacher=over_teacher,
        times_re_encoding=over_re_encoding,
        peak_gigabytes=peak_gigabytes(device),
        targets=(
            Target("8 times the teacher's frames/s", over_teacher >= 8),
            Target("2.5 times the frames/s of DreamDojo's way at equal steps", over_re_encoding >= 2.5),
            Target("15 frames/s", own.frames_per_second >= 15),
            Target("the first frame within 0.5 s", own.first_frame_ms <= 500),
        ),
    )
    _print(result)
    if json_path is not None:
        write_numbers(json_path, asdict(result))
    return result


def untrained(preset: str, device: torch.device) -> Generator:
    """A preset's sizes with random weights and without a forecast; its tokenizer is `tiny` for `tiny`, else Wan's."""
    config = VIDEO_PRESETS[preset]()
    torch.manual_seed(0)
    with device:
        tokenizer = build_tokenizer(TOKENIZER_PRESETS["tiny" if preset == "tiny" else "wan21"]().model).eval()
        model = build_video_model(config.model, latent_channels=tokenizer.z_dim, action_dim=ACTION_DIM).eval()
    bodies = {LATENT: Embodiment(scale=(1.0,) * ACTION_DIM, fps=config.data.fps)}
    return Generator(model, tokenizer, bodies, config)


def precision_on(device: torch.device) -> str:
    return "bfloat16" if device.type == "cuda" else "float32"


def time_ways(ways: Sequence[Session | ReEncoding], *, latents: int) -> list[WayCost]:
    """What each way costs, in turns with the others. On a GPU its network is in bf16 from then on."""
    device = ways[0].generator.device
    on_gpu = device.type == "cuda"
    if on_gpu:
        for way in ways:
            nn.Module.to(way.generator.model, torch.bfloat16)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=on_gpu):
        measured = _measured(ways, latents=latents)
    return [_cost(way, first, times) for way, first, times in zip(ways, *measured, strict=True)]


def _measured(
    ways: Sequence[Session | ReEncoding], *, latents: int
) -> tuple[list[list[float]], list[list[dict[str, float]]]]:
    """Of each way: milliseconds until the first frame, and of each latent's parts."""
    first: list[list[float]] = [[] for _ in ways]
    times: list[list[dict[str, float]]] = [[] for _ in ways]
    random = np.random.default_rng(0)
    pictures, actions = [], []
    for way in ways:
        data, scale = way.generator.config.data, way.generator.embodiment(LATENT).scale
        pictures.append(random.integers(0, 256, (data.height, data.width, 3), np.uint8))
        actions.append((random.normal(size=(TIME_FACTOR, len(scale))) * scale).astype(np.float32))

    def begin(number: int) -> None:
        ways[number].reset(pictures[number], seed=0)
        ways[number].step(actions[number])

    for turn in range(FIRST_FRAMES + 1):
        for number, way in enumerate(ways):
            seconds = seconds_of(lambda number=number: begin(number), str(way.generator.device))
            if turn:  # the first is slower: much is made ready then
                first[number].append(1000 * seconds)
    full = max(way.generator.config.loss.window + way.generator.config.loss.sink for way in ways)
    for turn in range(full + latents):
        for number, way in enumerate(ways):
            step = way.step(actions[number])
            if turn >= full:
                times[number].append(step.milliseconds)
    return first, times


def _cost(way: Session | ReEncoding, first: list[float], times: list[dict[str, float]]) -> WayCost:
    parts = {part: _latency([of_latent[part] for of_latent in times]) for part in times[0]}
    whole = parts.pop("total")
    return WayCost(
        steps=way.steps,
        frames_per_second=1000 * TIME_FACTOR / whole.p50,
        first_frame_ms=float(np.median(first)),
        latent=whole,
        parts=parts,
    )


def _latency(milliseconds: list[float]) -> Latency:
    return Latency(*(float(value) for value in np.percentile(milliseconds, (50, 99))))


def _print(result: StudentBench) -> None:
    rows, columns = result.size
    table = Table(
        title=f"{result.student_name}: {result.parameters_millions:.1f} M parameters, {rows}x{columns}, "
        f"{result.precision}, {result.device}, {result.threads} threads",
        caption="milliseconds: median / 99th percentile of one latent (4 frames)",
    )
    ways = {"student": result.student, "teacher": result.teacher, "DreamDojo's way": result.re_encoding}
    if result.full_decoder:
        ways["student, full decoder"] = result.full_decoder
    table.add_column("")
    for name, cost in ways.items():
        table.add_column(f"{name}, {cost.steps} step{'s' if cost.steps > 1 else ''}", justify="right")
    table.add_row("frames/s", *(f"{cost.frames_per_second:.1f}" for cost in ways.values()))
    table.add_row("first frame, ms", *(f"{cost.first_frame_ms:.0f}" for cost in ways.values()))
    table.add_row("one latent", *(str(cost.latent) for cost in ways.values()))
    for part in dict.fromkeys(part for cost in ways.values() for part in cost.parts):
        table.add_row(part, *(str(cost.parts.get(part, "")) for cost in ways.values()))
    Console().print(table)
    print(
        f"{result.times_the_teacher:.2f} times the teacher ({result.teacher_name}), {result.times_re_encoding:.2f} "
        f"times DreamDojo's way at equal steps; {result.peak_gigabytes:.2f} GB at most"
    )
    for target in result.targets:
        print(f"{'met' if target.met else 'not met'}: {target.aim}")
