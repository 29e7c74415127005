"""The directory to begin a project in: a start file, an example with its output, and a note of what to do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import UsageError

from .project import Project

__all__ = ["EXAMPLE_SEED", "start_project"]

EXAMPLE_SEED = 2023
START = Path(__file__).with_name("start")


def start_project(project: Project, directory: str | os.PathLike[str]) -> list[Path]:
    """Fill a new or empty directory, and return the files and directories in it.

    Raises:
        UsageError: the directory has something in it.
    """
    root = Path(directory)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"{root} is not an empty directory: name a new one")
    example = root / "example"
    example.mkdir(parents=True)
    source = project.make(np.random.RandomState(EXAMPLE_SEED), project.kinds[0], example)
    _write(example / project.output, project.answer(source))
    _write(root / "mine.py", (START / f"{project.slug.replace('-', '_')}.py").read_bytes())
    _write(root / "README.md", note_of(project, source.relative_to(root)).encode())
    return sorted(root.rglob("*"))


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path) as stream:
        stream.write(data)


def note_of(project: Project, source: Path) -> str:
    """What to do here."""
    return f"""# Project {project.number}: {project.title}

Read {project.page} (or its Chinese twin, .zh.md). Then write a program that takes the path of an input and the path of
its output, in any language; `mine.py` is a beginning in Python.

- `{source.as_posix()}`: an example of an input ({project.kinds[0]})
- `example/{project.output}`: what the output for it has to be

Try it: `python mine.py {source.as_posix()} {project.output}`

Have it graded, on inputs that nobody has seen:
`course check {project.number} --command 'python mine.py {{in}} {{out}}'`
"""
