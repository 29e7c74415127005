"""Merge, convert and quantize the demo model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ggmlpy.quantizers.whole_file import quantize_file
from llama_ref.conversion.converting import plan_conversion
from lora.merging.merge import MergeReport, merge

from .files import ADAPTERS, Announce, DemoFiles, demo_files

__all__ = ["build", "convert_base"]


def build(files: DemoFiles, announce: Announce = lambda words: None) -> MergeReport:
    """Merge, convert and quantize the demo model into ``files.folder``; says each step with its time."""
    source = demo_files()
    with _step(announce) as said:
        report = merge(source / "base", [source / name for name in ADAPTERS], files.merged)
        said(f"merge     base + {len(ADAPTERS)} adapters: {report.n_pairs} pairs, {report.n_vocab:,} tokens")
    with _step(announce) as said, plan_conversion(files.merged, files.f16) as plan:
        plan.write()
        said(f"convert   {files.f16.name}, {files.f16.stat().st_size:,} bytes")
    with _step(announce) as said:
        quantize_file(files.f16, files.q4_0, "q4_0")
        said(f"quantize  {files.q4_0.name}, {files.q4_0.stat().st_size:,} bytes")
    return report


@contextmanager
def _step(announce: Announce) -> Iterator[Announce]:
    """Collects the words of a step and announces them with the time it took."""
    began, words = time.perf_counter(), []  # type: tuple[float, list[str]]
    yield words.append
    announce(f"  {words[0]} ({time.perf_counter() - began:.1f} s)")


def convert_base(files: DemoFiles) -> Path:
    """The English base as a GGML file, to ask it the same questions."""
    with plan_conversion(demo_files() / "base", files.base_f16) as plan:
        plan.write()
    return files.base_f16
