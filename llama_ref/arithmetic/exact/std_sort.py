"""The order in which libstdc++ leaves equal elements: ``std::partial_sort`` and ``std::sort``.

Neither is stable, so what they do with ties is their algorithm. Both are written here over indices and "larger comes
first"; :func:`partial_sort` is the heap of bits/stl_heap.h, :func:`sort` the introsort of bits/stl_algo.h.

Compiled by Numba, which takes a moment to load: ask only where there are ties.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ggmlpy.machine.kernels import kernel

__all__ = ["partial_sort", "sort"]

SMALL = 16  # libstdc++'s _S_threshold: ranges of this size are left to the insertion sort
STRIP = 64  # values that are looked at together: most have none that belongs to the largest


def partial_sort(scores: Iterable[float], k: int) -> NDArray[np.int64]:
    """Indices of the ``k`` largest scores in falling order.

    The first ``k`` make a heap with the smallest on top; each later larger one replaces the top; the heap is sorted.

    >>> partial_sort([1.0, 2.0, 2.0, 0.5], 3).tolist()
    [2, 1, 0]
    """
    order = np.arange(k)
    _heap_order(_doubles(scores), order)
    return order


def sort(scores: Iterable[float]) -> NDArray[np.int64]:
    """Indices of all scores in falling order; NaN, of which C++ makes nothing sensible, go last.

    >>> sort([1.0, 3.0, 2.0]).tolist()
    [1, 2, 0]
    """
    values = _doubles(scores)
    if np.isnan(values).any():
        return np.argsort(-values, kind="stable")
    order = np.arange(len(values))
    _intro_order(values, order)
    return order


def _doubles(scores: Iterable[float]) -> NDArray[np.float64]:
    """Every float is a double, and they compare alike."""
    return np.array(scores if isinstance(scores, np.ndarray) else list(scores), np.float64)


@kernel
def _sift(values, heap, base, hole, size, item):
    """``__adjust_heap`` of the heap at ``base``: let the hole sink to a leaf, then let ``item`` rise from there."""
    top = hole
    child = hole
    while child < (size - 1) // 2:
        child = 2 * (child + 1)
        if values[heap[base + child]] > values[heap[base + child - 1]]:
            child -= 1
        heap[base + hole] = heap[base + child]
        hole = child
    if size % 2 == 0 and child == (size - 2) // 2:
        child = 2 * (child + 1)
        heap[base + hole] = heap[base + child - 1]
        hole = child - 1
    while hole > top and values[heap[base + (hole - 1) // 2]] > values[item]:
        heap[base + hole] = heap[base + (hole - 1) // 2]
        hole = (hole - 1) // 2
    heap[base + hole] = item


@kernel
def _any_above(values, least):
    found = False
    for i in range(len(values)):
        found |= values[i] > least
    return found


@kernel
def _heap_order(values, heap):
    k = len(heap)
    for hole in range(k // 2 - 1, -1, -1):
        _sift(values, heap, 0, hole, k, heap[hole])
    for start in range(k, len(values), STRIP):
        stop = min(start + STRIP, len(values))
        if _any_above(values[start:stop], values[heap[0]]):
            for index in range(start, stop):
                if values[index] > values[heap[0]]:
                    _sift(values, heap, 0, 0, k, index)
    for size in range(k - 1, 0, -1):
        last = heap[size]
        heap[size] = heap[0]
        _sift(values, heap, 0, 0, size, last)


@kernel
def _heap_sort(values, items, first, last):
    size = last - first
    for hole in range(size // 2 - 1, -1, -1):
        _sift(values, items, first, hole, size, items[first + hole])
    for rest in range(size - 1, 0, -1):
        item = items[first + rest]
        items[first + rest] = items[first]
        _sift(values, items, first, 0, rest, item)


@kernel
def _median_first(values, items, to, a, b, c):
    x, y, z = values[items[a]], values[items[b]], values[items[c]]
    if x > y:
        chosen = b if y > z else c if x > z else a
    else:
        chosen = a if x > z else c if y > z else b
    items[to], items[chosen] = items[chosen], items[to]


@kernel
def _partition(values, items, first, last):
    """``__unguarded_partition_pivot``: the median of three becomes the pivot, and stays in front."""
    _median_first(values, items, first, first + 1, first + (last - first) // 2, last - 1)
    pivot = values[items[first]]
    low, high = first + 1, last
    while True:
        while values[items[low]] > pivot:
            low += 1
        high -= 1
        while pivot > values[items[high]]:
            high -= 1
        if not low < high:
            return low
        items[low], items[high] = items[high], items[low]
        low += 1


@kernel
def _rise(values, items, at):
    """``__unguarded_linear_insert``: something before is known to be no smaller."""
    item = items[at]
    while values[item] > values[items[at - 1]]:
        items[at] = items[at - 1]
        at -= 1
    items[at] = item


@kernel
def _insertion(values, items):
    n = len(items)
    for i in range(1, n):
        item = items[i]
        if i < SMALL and values[item] > values[items[0]]:
            for j in range(i, 0, -1):
                items[j] = items[j - 1]
            items[0] = item
        else:
            _rise(values, items, i)


@kernel
def _intro_order(values, items):
    """``__introsort_loop`` with a stack of its own, then ``__final_insertion_sort``."""
    n = len(items)
    depth = 0
    while (n >> (depth + 1)) > 0:
        depth += 1
    pending = [(0, n, 2 * depth)]
    while len(pending) > 0:
        first, last, depth = pending.pop()
        while last - first > SMALL:
            if depth == 0:
                _heap_sort(values, items, first, last)
                break
            depth -= 1
            cut = _partition(values, items, first, last)
            pending.append((cut, last, depth))
            last = cut
    _insertion(values, items)
