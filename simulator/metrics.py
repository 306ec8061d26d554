"""Counts of a server's life, as text that Prometheus reads (its exposition format, version 0.0.4)."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
EDGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Upper edges of a histogram's bins, in milliseconds."""


@dataclass
class Histogram:
    """How many values were at most each of EDGES."""

    bins: list[int] = field(default_factory=lambda: [0] * (len(EDGES) + 1))
    total: float = 0.0

    def add(self, value: float) -> None:
        self.bins[bisect_left(EDGES, value)] += 1
        self.total += value

    def lines(self, name: str) -> Iterator[str]:
        below = 0
        for edge, count in zip((*EDGES, "+Inf"), self.bins, strict=True):
            below += count
            yield f'{name}_bucket{{le="{edge}"}} {below}'
        yield f"{name}_sum {self.total:.3f}"
        yield f"{name}_count {below}"


@dataclass
class Metrics:
    """What was counted since the server began."""

    passes: int = 0
    frames: int = 0
    dropped: int = 0
    """Passes that clients who have left did not see."""
    messages: int = 0
    mistakes: int = 0
    """Messages that the protocol does not know, or that were not theirs to send."""
    connections: int = 0
    refused: int = 0
    """Connections without a proper hello, or without a place."""
    drivers_lost: int = 0
    pictures: int = 0
    model: Histogram = field(default_factory=Histogram)
    encode: Histogram = field(default_factory=Histogram)
    age: Histogram = field(default_factory=Histogram)
    """Of controls, when a pass began with them."""

    def count(self, header: dict[str, Any]) -> None:
        """A pass, by its header."""
        self.passes += 1
        self.frames += header["n"]
        self.model.add(header["t_model_ms"])
        self.encode.add(header["t_encode_ms"])
        if header["age_ms"] is not None:
            self.age.add(header["age_ms"])

    def text(self, *, drivers: int, viewers: int, sockets: int, dropped: int) -> str:
        """dropped: passes that clients who are there did not see."""
        counters = {
            "passes": self.passes,
            "frames": self.frames,
            "dropped_passes": self.dropped + dropped,
            "messages": self.messages,
            "mistakes": self.mistakes,
            "connections": self.connections,
            "refused_connections": self.refused,
            "drivers_lost": self.drivers_lost,
            "pictures": self.pictures,
        }
        gauges = {"drivers": drivers, "viewers": viewers, "sockets": sockets}
        histograms = {"model": self.model, "encode": self.encode, "control_age": self.age}
        lines = []
        for name, value in counters.items():
            lines += [f"# TYPE understudy_{name}_total counter", f"understudy_{name}_total {value}"]
        for name, value in gauges.items():
            lines += [f"# TYPE understudy_{name} gauge", f"understudy_{name} {value}"]
        for name, histogram in histograms.items():
            full = f"understudy_{name}_milliseconds"
            lines += [f"# TYPE {full} histogram", *histogram.lines(full)]
        return "\n".join(lines) + "\n"
