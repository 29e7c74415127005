"""The list of the projects."""

from __future__ import annotations

from ggmlpy.files.errors import UsageError

from .project import Project
from .tasks import attention, gguf, header, layer, lora, pth, q4_0, rope, sampling, tokenizer, vocabulary, whose

__all__ = ["PROJECTS", "project_named"]

_TASKS = (header, vocabulary, q4_0, tokenizer, pth, lora, rope, attention, layer, sampling, gguf, whose)
PROJECTS: dict[int, Project] = {task.PROJECT.number: task.PROJECT for task in _TASKS}


def project_named(name: str) -> Project:
    """A project by its number or its short name.

    Raises:
        UsageError: there is none.

    >>> project_named("3").title == project_named("q4_0").title
    True
    """
    for project in PROJECTS.values():
        if name in (str(project.number), f"{project.number:02}", project.slug):
            return project
    numbers = ", ".join(f"{project.number} {project.slug}" for project in PROJECTS.values())
    raise UsageError(f"no project {name!r}; there are {numbers}")
