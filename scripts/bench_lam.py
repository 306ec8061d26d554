"""`understudy bench lam`: what a training step of the latent action model costs, beside the published attention.

One step is forward, backward and AdamW. The baseline is the same network with the same weights, but with attention as
the published code computes it: explicit logits, softmax and matrix products, also over the two frames of a pair. Both
are timed in turns in one run. "Attention" is what lies between the projections; its time is that of the attention
functions alone, forward and backward on tensors of a step's shapes, times the number of blocks.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lam.presets import PRESETS, LamModelConfig, dreamdojo
from scripts.bench_parts import device_name, seconds_of, write_numbers

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lam.blocks import SelfAttention
    from lam.checkpoint import Lam
    from lam.dreamdojo import DreamDojoLam

ON_CPU = LamModelConfig(design="dreamdojo", channels=512, heads=8, encoder_blocks=8, decoder_blocks=8)
"""DreamDojo's network at half the width and a third of the depth, 240x320."""


@dataclass(frozen=True)
class StepCost:
    """Median times of one step."""

    step_ms: float
    attention_ms: float
    attention_share: float
    pairs_per_second: float


@dataclass(frozen=True)
class PresetCost:
    """Training speed of a preset; all presets of a run take their steps in turns."""

    preset: str
    parameters_millions: float
    samples_per_second: float


@dataclass(frozen=True)
class LamBench:
    device: str
    precision: str
    threads: int
    parameters_millions: float
    batch: int
    ours: StepCost
    published_attention: StepCost
    prediction_difference: float
    """Largest difference between the two predictions before any step, in units of the [-1, 1] range."""
    step_teraflop: float
    """Multiplications and additions in the matrix products of one step, times 10^-12."""
    matmul_teraflops: float
    """What the device reaches in one large matrix product of that precision, in this run."""
    share_of_matmul_rate: float
    """Our step's matrix products per second over `matmul_teraflops`."""
    presets: tuple[PresetCost, ...]
    """Our design and DreamDojo's at about the same number of parameters."""


def bench_lam(
    *,
    device: str | None = None,
    model: LamModelConfig | None = None,
    batch: int | None = None,
    repeats: int = 5,
    json_path: Path | None = None,
) -> LamBench:
    """Measure, print a table, and write it as JSON if asked.

    By default a GPU runs the published size in bf16 with 16 pairs, a CPU a reduced one in float32 with 4.
    """
    import torch

    from lam.dreamdojo import DreamDojoLam

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.startswith("cuda")
    config = model or (dreamdojo().model if on_gpu else ON_CPU)
    batch = batch or (16 if on_gpu else 4)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    torch.manual_seed(0)
    network = DreamDojoLam(config).to(device)
    frames = torch.rand(batch, 2, 3, config.height, config.width, device=device) * 2 - 1
    step = _training_step(network, frames, dtype)

    with torch.no_grad(), torch.autocast(torch.device(device).type, dtype=dtype, enabled=on_gpu):
        ours = network(frames, sample=False).prediction
        with published_attention(network):
            difference = (network(frames, sample=False).prediction - ours).abs().max().item()
    flop = _count_flop(network, step)
    step()  # with the own attention, too, before the clock runs
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repeats):
        times[False].append(seconds_of(step, device))
        with published_attention(network):
            times[True].append(seconds_of(step, device))
    attention = _attention_seconds(network, batch, dtype, repeats)
    rate = _matmul_rate(device, dtype)
    costs = {published: _cost(statistics.median(times[published]), attention[published], batch) for published in times}
    result = LamBench(
        device=device_name(torch.device(device)),
        precision=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        parameters_millions=sum(parameter.numel() for parameter in network.parameters()) / 1e6,
        batch=batch,
        ours=costs[False],
        published_attention=costs[True],
        prediction_difference=difference,
        step_teraflop=flop / 1e12,
        matmul_teraflops=rate / 1e12,
        share_of_matmul_rate=flop / statistics.median(times[False]) / rate,
        presets=_preset_costs(("tiny", "dreamdojo-tiny"), device, dtype, repeats),
    )
    _print_table(result)
    if json_path is not None:
        write_numbers(json_path, {"model": asdict(config), **asdict(result)})
    return result


@contextmanager
def published_attention(network: DreamDojoLam) -> Iterator[None]:
    """Inside the block, the network attends as the published code does, with the same weights."""
    from lam.blocks import SelfAttention

    modules = [module for module in network.modules() if isinstance(module, SelfAttention)]
    for module in modules:
        module.attend = _explicit(module)
    try:
        yield
    finally:
        for module in modules:
            del module.attend  # the instance's, so that the class's shows again


def _explicit(module: SelfAttention) -> Any:
    """The published way to do what `module.attend` does."""
    import torch

    from lam.blocks import TemporalAttention

    def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
        return weights @ v

    def spatial(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # (B, N, H, D)
        return softmax_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)

    if not isinstance(module, TemporalAttention):
        return spatial
    freqs = module.rotary_embedding.freqs

    def rotate(x: Tensor) -> Tensor:  # (..., 2, D)
        angles = torch.arange(2, device=x.device)[:, None] * freqs.repeat_interleave(2)
        swapped = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
        return (x * angles.cos() + swapped * angles.sin()).to(x.dtype)

    def temporal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # (B, 2, N, H, D)
        q, k, v = (x.permute(0, 2, 3, 1, 4) for x in (q, k, v))  # (B, N, H, 2, D)
        return softmax_attention(rotate(q), rotate(k), v).permute(0, 3, 1, 2, 4)

    return temporal


def _preset_costs(names: Sequence[str], device: str, dtype: torch.dtype, repeats: int) -> tuple[PresetCost, ...]:
    import torch

    from lam.checkpoint import build

    configs = {name: PRESETS[name]() for name in names}
    networks = {name: build(config.model).to(device) for name, config in configs.items()}
    steps = {}
    for name, config in configs.items():
        shape = (config.training.batch_size, 2, 3, config.model.height, config.model.width)
        steps[name] = _training_step(networks[name], torch.rand(shape, device=device) * 2 - 1, dtype)
        steps[name]()
    times = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            times[name].append(seconds_of(steps[name], device))
    return tuple(
        PresetCost(
            preset=name,
            parameters_millions=sum(parameter.numel() for parameter in networks[name].parameters()) / 1e6,
            samples_per_second=configs[name].training.batch_size / statistics.median(times[name]),
        )
        for name in names
    )


def _training_step(network: Lam, frames: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    import torch

    from lam.loss import PairBatch, loss
    from lam.presets import LamLossConfig

    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    batch = PairBatch(frames=frames, names=("noise",) * len(frames))

    def step() -> None:
        with torch.autocast(frames.device.type, dtype=dtype, enabled=dtype != torch.float32):
            scalar, _ = loss(network, batch, LamLossConfig())
        optimizer.zero_grad()
        scalar.backward()
        optimizer.step()

    return step


def _count_flop(network: DreamDojoLam, step: Callable[[], None]) -> int:
    """Of the published form, whose attention is all matrix products that torch counts."""
    from torch.utils.flop_counter import FlopCounterMode

    with published_attention(network), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def _attention_seconds(network: DreamDojoLam, batch: int, dtype: torch.dtype, repeats: int) -> dict[bool, float]:
    """{published?: seconds in attention of one step}: each kind of attention alone, times its number of blocks."""
    import torch

    config = network.config
    encoder, decoder = network.encoder.transformer_blocks[0], network.decoder.transformer_blocks[0]
    kinds = [
        (encoder.spatial_attn, (2 * batch, config.tokens + 1), config.encoder_blocks),
        (encoder.temporal_attn, (batch, 2, config.tokens + 1), config.encoder_blocks),
        (decoder.spatial_attn, (batch, config.tokens), config.decoder_blocks),
    ]
    device = network.action_prompt.device
    totals = {False: 0.0, True: 0.0}
    for module, shape, blocks in kinds:
        shape = (*shape, config.heads, config.channels // config.heads)
        q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
        gradient = torch.randn(shape, device=device, dtype=dtype)
        for published, attend in ((False, module.attend), (True, _explicit(module))):

            def run(attend=attend, q=q, k=k, v=v, gradient=gradient) -> None:
                torch.autograd.grad(attend(q, k, v), (q, k, v), gradient)

            run()
            totals[published] += blocks * statistics.median(seconds_of(run, str(device)) for _ in range(repeats))
    return totals


def _matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second of one large matrix product."""
    import torch

    size = 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * size**3 / min(seconds_of(lambda: torch.mm(a, b), device) for _ in range(10))


def _cost(step: float, attention: float, batch: int) -> StepCost:
    return StepCost(
        step_ms=1000 * step,
        attention_ms=1000 * attention,
        attention_share=attention / step,
        pairs_per_second=batch / step,
    )


def _print_table(result: LamBench) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"one training step: {result.parameters_millions:.1f} M parameters, {result.batch} pairs, "
        f"{result.precision}, {result.device}, {result.threads} threads"
    )
    for heading in ("attention", "ms per step", "of it in attention, ms", "share", "pairs/s"):
        table.add_column(heading, justify="left" if heading == "attention" else "right")
    for name, cost in (("ours", result.ours), ("as published", result.published_attention)):
        numbers = (f"{cost.step_ms:.0f}", f"{cost.attention_ms:.1f}", f"{cost.attention_share:.1%}")
        table.add_row(name, *numbers, f"{cost.pairs_per_second:.2f}")
    Console().print(table)
    print(
        f"{result.step_teraflop:.3f} TFLOP a step: {result.share_of_matmul_rate:.0%} of this device's "
        f"{result.matmul_teraflops:.2f} TFLOP/s in one large matrix product"
    )
    for cost in result.presets:
        print(f"{cost.preset}: {cost.parameters_millions:.2f} M parameters, {cost.samples_per_second:.1f} pairs/s")
