"""Grading: a person's command on inputs that are made for this check, and what is wrong with each of its outputs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.files.errors import UsageError
from ggmlpy.verify.verdict import Table, Verdict
from toolchain.verify.programs import run_program, words_of

from .differences import shown
from .project import Difference, Project

__all__ = ["Grade", "Graded", "check_project"]

TIMEOUT = 30.0
LARGEST = 16 << 20
MEMORY = 4 << 30  # a hundred times what a project needs, and less than a machine has
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Graded:
    """One input.

    Attributes:
        kind: of the input.
        words: "" if the output is right; else what is wrong.
        hint: what to look at.
    """

    kind: str
    words: str = ""
    hint: str = ""

    def lines(self) -> Iterator[str]:
        yield f"{'wrong' if self.words else 'right':<7} {self.kind}" + (f": {self.words}" if self.words else "")
        if self.hint:
            yield f"{'':<7} hint: {self.hint}"


@dataclass(repr=False)
class Grade(Verdict):
    """What :func:`check_project` found."""

    project: Project
    seed: int
    results: list[Graded] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 if every output is right, 1 if one is not."""
        return int(any(result.words for result in self.results))

    def sentence(self) -> str:
        right = sum(not result.words for result in self.results)
        done = "; solved" if right == len(self.results) else f"; the same inputs again: --seed {self.seed}"
        return f"project {self.project.number}: {right} of {len(self.results)} inputs right{done}"

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        for result in self.results:
            yield from result.lines()

    def suite(self) -> str:
        return f"course {self.project.number}"

    def cases(self) -> dict[str, str]:
        return {result.kind: "\n".join(result.lines()) if result.words else "" for result in self.results}

    def table(self) -> Table:
        return ["input", "verdict", "hint"], [[r.kind, r.words or "right", r.hint] for r in self.results]

    def as_dict(self) -> dict[str, Any]:
        results = [{"kind": r.kind, "right": not r.words, "words": r.words, "hint": r.hint} for r in self.results]
        return {"project": self.project.number, "seed": self.seed, "sentence": self.sentence(), "results": results}


def check_project(
    project: Project,
    command: str,
    *,
    seed: int | None = None,
    timeout: float = TIMEOUT,
    keep: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Grade:
    """Run a command on one new input of each kind.

    Args:
        command: with {in} and {out} where the paths go; without {out}, what it prints is its output.
        seed: makes the same inputs again.
        timeout: seconds for each input.
        keep: a new directory for the inputs and the outputs of the command; they are removed otherwise.
        progress: called with the inputs done so far and their number.

    Raises:
        UsageError: the command has no {in}, or another name in braces; ``keep`` is in use.
    """
    if "{in}" not in command:
        raise UsageError("the command has no {in}, where the input's path goes: --command './mine {in} {out}'")
    words_of(command, {"in": "", "out": ""})
    seed = int.from_bytes(os.urandom(3), "little") if seed is None else seed
    grade = Grade(project, seed)
    with nullcontext(_new(keep)) if keep else tempfile.TemporaryDirectory(prefix="course-") as name:
        for index, kind in enumerate(project.kinds):
            folder = Path(name).resolve() / f"{index + 1}-{kind.replace(' ', '-')}"
            folder.mkdir(parents=True)
            source = project.make(np.random.RandomState((seed * 101 + index) % 2**32), kind, folder)
            grade.results.append(_graded(project, kind, source, folder / project.output, command, timeout))
            if progress:
                progress(index + 1, len(project.kinds))
    return grade


def _new(keep: str | os.PathLike[str]) -> str:
    path = Path(keep)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} is in use: name a new directory")
    return os.fspath(path)


def _graded(project: Project, kind: str, source: Path, out: Path, command: str, timeout: float) -> Graded:
    before = _contents(source)
    ended = run_program(words_of(command, {"in": str(source), "out": str(out)}), timeout, out, LARGEST, MEMORY)
    if seen := project.watch(source):
        return Graded(kind, seen)
    if _contents(source) != before:
        return Graded(kind, "the program changed its input", "{in} is only read; what it makes goes to {out}")
    if kind in project.refused:
        refused = ended.status == "failed"
        return Graded(kind) if refused else Graded(kind, "the program took an input that it has to refuse, exit code 0")
    if ended.status:
        return Graded(kind, f"{ended.status}: {shown(ended.problem)}", _hint_for_end(ended.status))
    if "{out}" not in command:
        out.write_bytes(ended.stdout)
    if not out.is_file():
        return Graded(kind, "no output: the program wrote no file at the path that it got for {out}")
    try:
        found = out.read_bytes()
    except OSError as error:
        return Graded(kind, f"the output cannot be read: {error.strerror}")
    difference = project.differ(source, project.answer(source), found)
    return _told(project, kind, source, found, difference) if difference else Graded(kind)


def _contents(source: Path) -> dict[str, bytes]:
    """The bytes of an input, or of the files in it."""
    files = source.rglob("*") if source.is_dir() else [source]
    return {path.relative_to(source).as_posix(): path.read_bytes() for path in files if path.is_file()}


def _told(project: Project, kind: str, source: Path, found: bytes, difference: Difference) -> Graded:
    return Graded(kind, difference.words, difference.hint or project.hint_for(source, found))


def _hint_for_end(status: str) -> str:
    if status == "failed":
        return "run it on the kept input (--keep DIR) to see all that it says"
    return "a loop that does not move on? Compare each length with what is left of the file" if status else ""
