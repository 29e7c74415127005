"""How many processors this process may use, which is how many threads it starts unless told otherwise.

Three things limit it, and the smallest wins:

=================  =====================================================================================================
processors         those of the machine
affinity           those that the process is bound to (``taskset``, ``docker run --cpuset-cpus``, a batch system)
quota of a cgroup  the share of processor time that a container may use (``docker run --cpus 2``, Kubernetes limits);
                   half a processor counts as one
=================  =====================================================================================================

A cgroup is limited by its ancestors, too. Version 2 keeps quota and period in one file, version 1 in two::

    /sys/fs/cgroup/GROUP/cpu.max                 "200000 100000" microseconds, or "max 100000"
    /sys/fs/cgroup/cpu/GROUP/cpu.cfs_quota_us    "200000", or "-1" for no limit
    /sys/fs/cgroup/cpu/GROUP/cpu.cfs_period_us   "100000"

Sources: Documentation/admin-guide/cgroup-v2.rst and Documentation/scheduler/sched-bwc.rst of Linux.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from .errors import UsageError

__all__ = ["available_processors", "checked_threads", "others_at_work"]

MOST_THREADS = 1024  # more than any one machine's processors; each costs working memory and a stack


def checked_threads(n_threads: int | None) -> int:
    """The number of threads that was asked for; None means one for each processor.

    Raises:
        UsageError: it is not positive, or absurd.
    """
    if n_threads is None:
        return available_processors()
    if n_threads < 1:
        raise UsageError(f"the number of threads must be at least 1, not {n_threads}")
    if n_threads > MOST_THREADS:
        raise UsageError(f"the number of threads must be at most {MOST_THREADS}, not {n_threads}")
    return n_threads


def available_processors(root: str | os.PathLike[str] = "/") -> int:
    """The number of processors that this process may use, at least 1.

    Args:
        root: where ``proc`` and ``sys`` are mounted.

    >>> available_processors() >= 1
    True
    """
    quotas = [math.ceil(quota) for quota in _quotas(Path(root))]
    return max(1, min([_in_affinity(), *quotas]))


def others_at_work() -> bool:
    """Whether other programs keep so much of the machine busy that what is measured now says little about it."""
    try:
        load, _, _ = os.getloadavg()
    except (AttributeError, OSError):  # Windows has no such number
        return False
    return load > 1 + (os.cpu_count() or 1) / 2


def _in_affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """The limits of this process's cgroups and their ancestors, in processors."""
    for controllers, group in _cgroups(root):
        mount = root / "sys/fs/cgroup" / controllers
        for ancestor in (group, *group.parents):
            folder = mount / ancestor.relative_to("/")
            quota = _version_1(folder) if controllers else _version_2(folder)
            if quota is not None:
                yield quota


def _cgroups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """The groups that can limit processor time: their controllers (none: version 2), and their path.

    Each line of ``/proc/self/cgroup`` is "hierarchy:controllers:path".
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        limits = not controllers or "cpu" in controllers.split(",")
        if limits and path.startswith("/") and ".." not in path.split("/"):
            yield controllers, PurePosixPath(path)


def _version_2(folder: Path) -> float | None:
    return _share(*_words(folder / "cpu.max"))


def _version_1(folder: Path) -> float | None:
    return _share(*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us"))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return []


def _share(*words: str) -> float | None:
    """Quota divided by period; None if there is no limit, or no two numbers.

    >>> _share("150000", "100000"), _share("max", "100000"), _share("-1", "100000")
    (1.5, None, None)
    """
    try:
        quota, period = map(int, words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None
