"""The whole zoo: a directory with every specimen, its story in README.md, and all of it for programs in zoo.json."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import UsageError

from .broken_models import broken_models
from .broken_others import broken_others
from .checkpoints import checkpoints
from .model_files import model_files
from .specimen import Specimen, save

__all__ = ["Zoo", "make_zoo", "specimens"]

LIST, PAGE = "zoo.json", "README.md"
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Zoo:
    """What :func:`make_zoo` made."""

    directory: Path
    specimens: Sequence[Specimen]

    @property
    def n_broken(self) -> int:
        return sum(specimen.broken for specimen in self.specimens)


def specimens(match: str = "*") -> Iterator[Specimen]:
    """All that there are, or those whose names fit a pattern such as ``broken/gguf/*``."""
    for all_of_a_kind in (model_files(), checkpoints(), broken_models(), broken_others()):
        yield from (specimen for specimen in all_of_a_kind if fnmatch(specimen.name, match))


def make_zoo(directory: str | os.PathLike[str], match: str = "*", *, progress: Progress | None = None) -> Zoo:
    """Fill a new or empty directory; the same bytes on every machine.

    Args:
        match: only specimens whose names fit this pattern.
        progress: called with the specimens made so far and their number.

    Raises:
        UsageError: the directory has something in it, or no specimen fits.
    """
    root = Path(directory)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"{root} is not an empty directory: name a new one")
    chosen = list(specimens(match))
    if not chosen:
        raise UsageError(f"no specimen is named {match}; there are models/…, torch/…, broken/gguf/… and others")
    for done, specimen in enumerate(chosen, 1):
        path = root / specimen.name
        path.parent.mkdir(parents=True, exist_ok=True)
        specimen.write(path)
        if progress:
            progress(done, len(chosen))
    zoo = Zoo(root, chosen)
    save(root / LIST, (json.dumps([_as_dict(one) for one in chosen], indent=1, ensure_ascii=False) + "\n").encode())
    save(root / PAGE, page_of(zoo).encode())
    return zoo


def _as_dict(specimen: Specimen) -> dict[str, Any]:
    return {
        "name": specimen.name,
        "story": specimen.story,
        "look": specimen.look.replace("{}", specimen.name),
        "says": specimen.says,
        "broken": specimen.broken,
    }


def page_of(zoo: Zoo) -> str:
    """The stories, a table for each directory."""
    lines = [
        "# The zoo",
        "",
        f"{len(zoo.specimens)} tiny files, {zoo.n_broken} of them broken. `identify FILE` tells what one is or what is "
        "wrong with it; `hexdump FILE` shows its fields.",
    ]
    folder = ""
    for specimen in zoo.specimens:
        name = Path(specimen.name)
        if name.parent.as_posix() != folder:
            folder = name.parent.as_posix()
            lines += ["", f"## {folder}", "", "| | |", "|---|---|"]
        said = f" Says: {specimen.says}" if specimen.broken else ""
        lines.append(f"| `{name.name}` | {specimen.story}{'.' * bool(said)}{said} |")
    return "\n".join([*lines, ""])
