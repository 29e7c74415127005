"""The loss curve: as SVG without any dependency, or with matplotlib into whatever it can write."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import MissingFileError, UsageError

from .loop import Progress, read_log

__all__ = ["plot_losses", "smoothed", "svg_of"]

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7")
WIDTH, HEIGHT, MARGIN = 480, 320, 44


def plot_losses(logs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> None:
    """Plot ``log.jsonl`` files (or the folders they are in), one after the other on the same axis of steps.

    Raises:
        MissingFileError: there is no such log.
        UsageError: another ending than .svg, and matplotlib is not installed.
    """
    curves = {_name(path): _read(path) for path in logs}
    if Path(out).suffix == ".svg":
        with atomic_write(out) as stream:
            stream.write(svg_of(curves).encode())
        return
    _with_matplotlib(curves, out)


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
    """The curves as a picture: loss in nats a token, smoothed over twenty steps, on a logarithmic axis."""
    steps = max(1, sum(len(curve) for curve in curves.values()))
    lines = {name: smoothed([progress.loss for progress in curve]) for name, curve in curves.items()}
    values = [max(value, 1e-3) for line in lines.values() for value in line] or [1.0]
    low, high = math.log(min(values) * 0.9), math.log(max(values) * 1.1)
    x = lambda step: MARGIN + step / steps * (WIDTH - 2 * MARGIN)  # noqa: E731
    y = lambda loss: MARGIN + (high - math.log(max(loss, 1e-3))) / (high - low) * (HEIGHT - 2 * MARGIN)  # noqa: E731
    parts, at = [], 0
    for value in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10):
        if low <= math.log(value) <= high:
            parts.append(
                f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>'
                f'<text x="{MARGIN - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
            )
    for number, ((name, line), colour) in enumerate(zip(lines.items(), COLOURS * (1 + len(lines)))):
        thinned = range(0, len(line), max(1, steps // WIDTH))  # no more points than the picture is wide
        points = " ".join(f"{x(at + i):.1f},{y(line[i]):.1f}" for i in thinned)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        last = f" {line[-1]:.2f}" if line else ""
        height = MARGIN - 8 - 16 * (number % 2)  # a short stage's name would run into the next one's
        parts.append(f'<text x="{x(at) + 4:.1f}" y="{height}" fill="{colour}">{escape(name)}{last}</text>')
        at += len(line)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">loss in nats a target, mean of '
        f"twenty steps; {steps} steps</text></svg>\n"
    )


def _with_matplotlib(curves: Mapping[str, Sequence[Progress]], out: str | os.PathLike[str]) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        words = 'only .svg is written without matplotlib; install it with: pip install "ggmlpy[plot]"'
        raise UsageError(words) from error
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    at = 0
    for name, curve in curves.items():
        axes.plot(range(at, at + len(curve)), smoothed([progress.loss for progress in curve]), label=name)
        at += len(curve)
    axes.set(xlabel="step", ylabel="loss in nats a target", yscale="log")
    axes.legend()
    figure.savefig(os.fspath(out))
