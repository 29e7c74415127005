"""Which lines of the readers were reached, and which steps from line to line: enough to guide a search.

``sys.settrace`` costs a reader about ten times its speed, so only the first inputs of a target are traced. Steps,
rather than lines, tell apart the ways through a function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

__all__ = ["Tracer", "lines_of", "reached_lines"]

ROOT = str(Path(__file__).resolve().parents[2])
Step = tuple[str, int, int]  # file, from line, to line


class Tracer:
    """Steps seen in the modules of a target: ``with tracer: …`` notes them, ``fresh`` are those of the last time."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self.wanted = {f"{ROOT}/{module}": module for module in modules}
        self.seen: set[Step] = set()
        self.fresh: set[Step] = set()
        self._local: dict[CodeType, str | None] = {}

    def __enter__(self) -> Tracer:
        self.fresh = set()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        self.fresh -= self.seen
        self.seen |= self.fresh

    def _called(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if code not in self._local:
            self._local[code] = self.wanted.get(code.co_filename)
        module = self._local[code]
        if module is None:
            return None
        before, fresh = frame.f_lineno, self.fresh

        def step(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
            nonlocal before
            if event == "line":
                fresh.add((module, before, frame.f_lineno))
                before = frame.f_lineno
            elif event == "exception":
                fresh.add((module, frame.f_lineno, -1))
            return step

        return step


def reached_lines(steps: set[Step]) -> dict[str, set[int]]:
    """Lines by module."""
    reached: dict[str, set[int]] = {}
    for module, _, line in steps:
        if line > 0:
            reached.setdefault(module, set()).add(line)
    return reached


def lines_of(module: str, reached: set[int]) -> tuple[set[int], set[int]]:
    """Lines inside the module's functions: all of them, and those of functions in which any was reached."""
    source = Path(ROOT, module).read_text("utf-8")
    every: set[int] = set()
    entered: set[int] = set()
    for code in _functions(compile(source, module, "exec")):
        lines = {line for _, _, line in code.co_lines() if line and line != code.co_firstlineno}
        every |= lines
        entered |= lines if lines & reached else set()
    return every, entered


def _functions(code: CodeType) -> Iterator[CodeType]:
    """Code of functions, not of modules and classes, which run when they are imported."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & 0x2:  # has local variables of its own: CO_NEWLOCALS
                yield constant
            yield from _functions(constant)
