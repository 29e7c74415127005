"""A merged model as a stream: every tensor of the base under its name, with the adapters applied as its rows are read.

A :class:`MergedModel` looks like an opened checkpoint: the writers of all formats read it as they read any other.
Nothing is computed until rows are asked for, and no more than those rows. The rows of a tensor are computed by several
threads ahead of the writer and handed out in order.

For each row panel: the base's rows as half precision (a wider base is rounded once, as it is on loading), then for each
adapter in order either its whole tensor in their place or its change added, rounded to half precision each time.
Instead of half precision it can be another type that is asked for, or each tensor's own.

Adapters speak of Hugging Face's order of rows, the stream is in Meta's. Instead of permuting weights, the rows of the
left factor of wq and wk are permuted once: the sums stay the same to the bit.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from ggmlpy.files.ordered import Workers
from ggmlpy.formats.tensor_names import find
from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.layout import Checkpoint, in_layout
from llama_ref.checkpoint.tensor import PANEL

from .adapter import Adapter, LoraPair
from .kernels import Delta, bfloat16_bits, rounded

__all__ = ["Changes", "MergedModel", "MergedTensor"]

RELEASE_EVERY = 48 << 20  # bytes read before mapped pages are given back


@dataclass
class Changes:
    """What a merge did to the tensors that adapters change: the largest ``|new - old|`` of each, by Meta name."""

    largest: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def record(self, name: str, value: float) -> None:
        """Keep the larger one; NaN, once met, stays."""
        with self._lock:
            known = self.largest.get(name, 0.0)
            self.largest[name] = value if value != value or value > known else known


@dataclass(frozen=True)
class MergedTensor(LazyTensor):
    """A tensor whose rows are computed by several threads when it is read from end to end."""

    workers: Workers | None = None
    consumed: Callable[[int], object] | None = None  # called with the bytes of each piece that was read

    def chunks(self, limit: int = PANEL) -> Iterator[np.ndarray]:
        """See :meth:`LazyTensor.chunks`; the threads are ahead of the reader."""
        ranges = self.row_ranges(limit)
        work = self.workers.ordered if self.workers else map
        for panel in work(lambda rows: self.stored(*rows), ranges):
            yield panel.reshape(-1).view(np.uint8)
            self.taken(panel.nbytes)

    def taken(self, nbytes: int) -> None:
        """See :meth:`LazyTensor.taken`."""
        if self.consumed:
            self.consumed(nbytes)


@dataclass
class MergedModel:
    """A base with adapters applied, to be read like a checkpoint.

    Attributes:
        base: the open base.
        adapters: open adapters in the order of application.
        fill: adds rows to an embedding or output matrix that is too short for the vocabulary; None: there is none.
        dtype: of the merged tensors: "float16", "bfloat16" or "float32"; None: each has the base's.
        workers: who computes.
        changes: filled in as tensors are read.
        progress: called with the number of bytes after each piece that was read.
    """

    base: Checkpoint
    adapters: Sequence[Adapter]
    fill: Callable[[LazyTensor], LazyTensor] | None = None
    dtype: str | None = "float16"
    workers: Workers | None = None
    changes: Changes = field(default_factory=Changes)
    progress: Callable[[int], object] | None = None

    def __post_init__(self) -> None:
        self._deltas = lru_cache(maxsize=4)(self._make_deltas)
        self._starting_point = lru_cache(maxsize=None)(self._find_starting_point)
        self._unreleased = 0

    @property
    def checkpoint(self) -> Checkpoint:
        """The merged model as the writers take it; the base keeps the files open."""
        tensors: dict[str, LazyTensor] = {name: self.tensor(name) for name in self.base.tensors}
        return dataclasses.replace(self.base, tensors=tensors, shard_sizes={}, notes=[])

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The merged tensor's shape."""
        return self._starting_point(name)[0].shape

    def dtype_of(self, name: str) -> str:
        """The merged tensor's type."""
        own = self.base.tensors[name].dtype
        return self.dtype or ("float32" if own == "float64" else own)

    def tensor(self, name: str, rows: slice = slice(None), columns: slice = slice(None)) -> MergedTensor:
        """A merged tensor by its Meta name, in Meta layout and the wanted type; or a block of it.

        Args:
            rows, columns: the block; only its values are computed.
        """
        shape = self.shape_of(name)
        first, last, _ = rows.indices(shape[0])
        wide = len(range(*columns.indices(shape[1]))) if len(shape) == 2 else 0
        part = (last - first, *([wide] if len(shape) == 2 else []))
        return MergedTensor(
            name,
            part,
            self.dtype_of(name),
            lambda start, stop: self._panel(name, first + start, first + stop, columns),
            self._source(name),
            "meta",
            self.workers,
            self._consumed,
        )

    def _panel(self, name: str, start: int, stop: int, columns: slice) -> np.ndarray:
        """Rows ``start:stop`` of the merged tensor."""
        whole, later = self._starting_point(name)
        values = whole.rows(start, stop)
        dtype = self.dtype_of(name)
        panel = rounded(values[:, columns] if values.ndim == 2 else values, dtype)
        for delta in self._deltas(name, later, columns.start, columns.stop):
            self.changes.record(name, delta.add_to(panel, start, dtype))
        return bfloat16_bits(panel) if dtype == "bfloat16" else panel

    def _find_starting_point(self, name: str) -> tuple[LazyTensor, int]:
        """The last whole tensor (an adapter's, or the base's) and the adapter from which on changes are added."""
        whole, later = self.base.tensors[name], 0
        for i, adapter in enumerate(self.adapters):
            if name in adapter.replaced:
                whole, later = self._in_meta_layout(name, adapter.replaced[name]), i
        is_vocabulary = find(name)[0].shape[0] == "n_vocab"
        return (self.fill(whole) if self.fill and is_vocabulary else whole), later

    def _in_meta_layout(self, name: str, tensor: LazyTensor) -> LazyTensor:
        return in_layout(tensor.with_(name=name, layout="huggingface"), "meta", self.base.params)

    def _make_deltas(self, name: str, later: int, first: int | None, last: int | None) -> list[Delta]:
        pairs = [adapter.pairs[name] for adapter in self.adapters[later:] if name in adapter.pairs]
        return [self._delta(pair, slice(first, last)) for pair in pairs]

    def _delta(self, pair: LoraPair, columns: slice) -> Delta:
        left, right = pair.factors()  # [rows, r], [r, columns]
        if find(pair.name)[0].rotary:
            left = self._in_meta_layout(pair.name, LazyTensor.of_array(pair.name, left)).numpy()
        return Delta.of(left, right[:, columns], pair.scale)

    def _consumed(self, nbytes: int) -> None:
        """Count what the writer has taken; give mapped pages back from time to time."""
        self._unreleased += nbytes
        if self._unreleased >= RELEASE_EVERY:
            self.release()
        if self.progress:
            self.progress(nbytes)

    def release(self) -> None:
        """Give back the memory of the pages of base and adapters read so far."""
        self._unreleased = 0
        self.base.release()
        for adapter in self.adapters:
            adapter.release()

    def _source(self, name: str) -> str:
        return ", ".join(
            [self.base.tensors[name].source]
            + [f"replaced by {a.path.name}" for a in self.adapters if name in a.replaced]
            + [f"changed by {a.path.name}" for a in self.adapters if name in a.pairs]
        )
