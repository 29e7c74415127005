"""How the threads share the work: phases, each cut into units.

All threads make the same call, and come to the same phases. Within a phase each takes the next unit of work until none
is left, and then they meet. Units do not depend on each other, nor on the thread that does them; phases do.
"""

from __future__ import annotations

from typing import Any

from ggmlpy.machine.kernels import compiled

from .plan_fields import barrier_at, cancel_at, n_threads, scratch_at, scratch_bytes
from .threads import LINE, make_barrier, make_take

__all__ = ["meet", "phase", "scratch_of", "units"]

barrier, take = make_barrier(), make_take()


@compiled
def units(n, size):
    """How many units of `size` make n."""
    return (n + size - 1) // size


@compiled
def scratch_of(plan, thread):
    """The thread's own memory."""
    return scratch_at(plan) + thread * scratch_bytes(plan)


@compiled
def meet(plan, work):
    """All threads have come this far; returns the counters of the next phase."""
    barrier(barrier_at(plan), n_threads(plan))
    return work + LINE * n_threads(plan)


def phase(count: Any, do: Any) -> Any:
    """The compiled function run(plan, thread, work, layer) -> the counters of the next phase.

    Args:
        count: compiled count(plan) -> how many units there are.
        do: compiled do(plan, layer, unit, scratch), called for each unit by the thread that takes it.
    """

    @compiled
    def run(plan, thread, work, layer):
        scratch, n = scratch_of(plan, thread), count(plan)
        unit = take(work, cancel_at(plan), thread, n_threads(plan), n)
        while unit >= 0:
            do(plan, layer, unit, scratch)
            unit = take(work, cancel_at(plan), thread, n_threads(plan), n)
        return meet(plan, work)

    return run
