"""The loss curve as an SVG picture."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import MissingFileError, UsageError

from .loop import Progress, read_log

__all__ = ["plot_losses", "smoothed", "svg_of"]

COLORS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7")
WIDTH, HEIGHT, MARGIN = 480, 320, 44
SMALLEST = 1e-3  # a loss below it is drawn at its height: the axis is logarithmic


def plot_losses(logs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> None:
    """Plot ``log.jsonl`` files (or the folders they are in), one after the other on the same axis of steps.

    Raises:
        MissingFileError: there is no such log.
        UsageError: another ending than .svg.
    """
    if Path(out).suffix != ".svg":
        raise UsageError(f"{out}: the picture is an SVG; name a file that ends in .svg")
    curves = {_name(path): _read(path) for path in logs}
    with atomic_write(out) as stream:
        stream.write(svg_of(curves).encode())


def _name(path: str | os.PathLike[str]) -> str:
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return folder.parent.name if folder.name == "work" else folder.name


def _read(path: str | os.PathLike[str]) -> list[Progress]:
    log = Path(path) / "log.jsonl" if Path(path).is_dir() else Path(path)
    if not log.is_file():
        raise MissingFileError("no such log", path=log, next_step="name a log.jsonl, or the folder that it is in")
    return read_log(log)


def smoothed(losses: Sequence[float], window: int = 20) -> list[float]:
    """Means over the last ``window`` steps.

    >>> smoothed([4.0, 2.0, 0.0], 2)
    [4.0, 3.0, 1.0]
    """
    return [sum(losses[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(losses))]


def svg_of(curves: Mapping[str, Sequence[Progress]]) -> str:
    """The curves as a picture: loss in nats per target, smoothed over twenty steps, on a logarithmic axis."""
    steps = max(1, sum(len(curve) for curve in curves.values()))
    lines = {name: smoothed([progress.loss for progress in curve]) for name, curve in curves.items()}
    axes = _Axes.around(steps, [value for line in lines.values() for value in line])
    parts, first = _grid(axes), 0
    for number, ((name, line), color) in enumerate(zip(lines.items(), COLORS * (1 + len(lines)))):
        parts += _curve(axes, line, first, color)
        last = f" {line[-1]:.2f}" if line else ""
        height = MARGIN - 8 - 16 * (number % 2)  # so that the name of a short stage does not run into the next one
        parts.append(f'<text x="{axes.x(first) + 4:.1f}" y="{height}" fill="{color}">{escape(name)}{last}</text>')
        first += len(line)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">loss in nats per target, mean of '
        f"twenty steps; {steps} steps</text></svg>\n"
    )


@dataclass(frozen=True)
class _Axes:
    """Where a step and a loss are in the picture; ``low`` and ``high`` are logarithms of losses."""

    steps: int
    low: float
    high: float

    @classmethod
    def around(cls, steps: int, losses: Sequence[float]) -> _Axes:
        values = [max(loss, SMALLEST) for loss in losses] or [1.0]
        return cls(steps, math.log(min(values) * 0.9), math.log(max(values) * 1.1))

    def x(self, step: int) -> float:
        return MARGIN + step / self.steps * (WIDTH - 2 * MARGIN)

    def y(self, loss: float) -> float:
        share = (self.high - math.log(max(loss, SMALLEST))) / (self.high - self.low)
        return MARGIN + share * (HEIGHT - 2 * MARGIN)


def _grid(axes: _Axes) -> list[str]:
    return [
        f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{axes.y(value):.1f}" y2="{axes.y(value):.1f}" stroke="#ddd"/>'
        f'<text x="{MARGIN - 6}" y="{axes.y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        for value in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
        if axes.low <= math.log(value) <= axes.high
    ]


def _curve(axes: _Axes, line: Sequence[float], first: int, color: str) -> list[str]:
    thinned = range(0, len(line), max(1, axes.steps // WIDTH))  # no more points than the picture is wide
    points = " ".join(f"{axes.x(first + i):.1f},{axes.y(line[i]):.1f}" for i in thinned)
    return [f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.8"/>']
