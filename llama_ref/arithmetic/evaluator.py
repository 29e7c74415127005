"""The weights of a file, an arithmetic, and a key/value cache, joined into what evaluates tokens.

:class:`Evaluator` knows tokens and logits only. What makes texts of them stands above it: a
:class:`~llama_ref.text.conversation.Conversation` drives any evaluator, and :class:`llama_ref.text.model.Model` is the
evaluator that can also :meth:`~llama_ref.text.model.Model.generate`.

An evaluator may be used by several threads and in a forked child. Evaluations take turns; what each of them reads and
writes is a cache, and whoever wants a text that nobody else continues has a cache of its own
(:meth:`Evaluator.new_cache`).
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from ggmlpy.files.errors import UsageError

from .finite_numbers import FiniteNumbers
from .model_keys import check_keys
from .transformer import F32
from .weights import load_weights

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile, Vocabulary
    from ggmlpy.formats.model_params import ModelParams

    from .transformer import Backend, KVCache

__all__ = ["Evaluator"]

E = TypeVar("E", bound="Evaluator")

MOST_POSITIONS = 1 << 24  # the longest context that any model of this family was published with is 10,485,760


class Evaluator:
    """A model file, the arithmetic chosen for it, and a key/value cache.

    Attributes:
        cache: where :meth:`evaluate` keeps keys and values unless it is given another; all callers share it.

    Example:
        >>> model = Evaluator.from_file("model.bin", numerics="exact", build="avx2")  # doctest: +SKIP
        >>> logits = model.evaluate([1, 15043], n_past=0)  # doctest: +SKIP
        >>> logits.shape  # doctest: +SKIP
        (2, 32000)
    """

    def __init__(self, file: ModelFile, backend: Backend, *, n_ctx: int = 512, memory_f32: bool = False) -> None:
        self.file = file
        self.hparams: ModelParams = file.hparams
        self.vocab: Vocabulary = file.vocab
        self.backend = backend
        self.n_ctx = n_ctx
        self.n_vocab = file.hparams.n_vocab
        self.memory_f32 = memory_f32
        check_keys(file)
        self.weights = load_weights(file, backend)
        self._finite = FiniteNumbers(file)
        self._turn = threading.Lock()  # held while the backend, which has one working memory, evaluates
        self._closed = False
        _OPEN.add(self)

    @classmethod
    def from_file(
        cls: type[E],
        path: str | os.PathLike[str] | ModelFile,
        *,
        numerics: str = "fast",
        era: str | None = None,
        build: str | None = None,
        n_ctx: int = 512,
        memory_f32: bool = False,
        n_threads: int | None = None,
        norm_eps: float | None = None,
    ) -> E:
        """Open a GGML file and prepare it for evaluation.

        Args:
            path: a ggml, ggmf or ggjt file; further parts (``.1``, ``.2``…) are found automatically. Or one that
                ``ggmlpy.open_model`` has opened: it is then closed with the model.
            numerics: ``fast``, ``reference`` or ``exact``.
            era: date of the llama.cpp whose arithmetic ``exact`` follows; None means the era that wrote the file.
            build: ``scalar``, ``avx2``, ``avx512`` or ``cmake-avx2`` (``exact`` only); None means ``scalar``.
            n_ctx: positions that the cache holds.
            memory_f32: keep keys and values in float32 instead of float16.
            n_threads: threads to use; None means one for each processor, but in ``fast`` no more than one for each
                megabyte of the model. Results do not depend on it, except in the ``exact`` arithmetic of 2023-03-19,
                where they did in llama.cpp too (None means 1 there).
            norm_eps: what is added to the mean square in every norm; None means what a GGUF file says, else LLaMA's
                own 1e-6. (llama.cpp of 2023-08-21 took 5e-6 unless told otherwise.)

        Raises:
            FormatError: the file is bad or missing.
            UsageError: no such numerics, era or build, or that era does not know the file's tensor types.
        """
        import ggmlpy

        from .choosing import create_backend

        if n_ctx < 1:
            raise UsageError(f"n_ctx must be at least 1, not {n_ctx}")
        if n_ctx > MOST_POSITIONS:
            raise UsageError(f"n_ctx must be at most {MOST_POSITIONS:,}, not {n_ctx:,}: no model has a longer context")
        file = path if isinstance(path, ggmlpy.ModelFile) else ggmlpy.open_model(path)
        try:
            backend = create_backend(numerics, file, era=era, build=build, n_threads=n_threads)
            backend.norm_eps = file.hparams.eps if norm_eps is None else _checked_eps(norm_eps)
            model = cls(file, backend, n_ctx=n_ctx, memory_f32=memory_f32)
            with _room_for(n_ctx):
                backend.prepare(model.weights, n_ctx)
            return model
        except BaseException:
            file.close()
            raise

    @cached_property
    def cache(self) -> KVCache:
        return self.new_cache()

    def new_cache(self) -> KVCache:
        """An empty cache of ``n_ctx`` positions, for a text of one's own. Memory is taken as positions are filled."""
        self._check_open()
        with _room_for(self.n_ctx):
            return self.backend.new_cache(self.hparams, self.n_ctx, self.memory_f32)

    def evaluate(
        self, tokens: Sequence[int], n_past: int, *, last_only: bool = False, cache: KVCache | None = None
    ) -> F32:
        """Evaluate one batch at positions n_past, n_past + 1, … and return its logits.

        Args:
            tokens: token ids.
            n_past: how many positions of the cache come before them.
            last_only: only the last token's logits are wanted.
            cache: one that :meth:`new_cache` made; None means the evaluator's own.

        Returns:
            float32 [n_tokens, n_vocab], or [n_vocab] of the last token if ``last_only``.

        How tokens are split over calls changes the last bits in SIMD builds, as in llama.cpp: ``main`` evaluates a
        prompt n_batch tokens at a time.

        Raises:
            UsageError: a token is outside the vocabulary, the positions are outside the cache, or the model was closed.
            FormatError: weights or logits are NaN or infinite.
            TruncatedError: another program made the file shorter. (One that does so during an evaluation ends the
                process, for the kernels read the map, unless :mod:`ggmlpy.files.bus_errors` was asked to prevent it.)
        """
        cache = self.cache if cache is None else cache
        with self._turn:
            self._check_open()
            batch = self._checked(tokens, n_past, cache.length)
            self.file.check_length()
            with np.errstate(all="ignore"):  # weights that are not finite give logits that are not, and no warnings
                logits = self.backend.forward(self.weights, cache, batch, n_past, last_only)
            self.file.check_length()
            self._finite.check(logits)
            cache.length = n_past + len(batch)
        return logits[-1] if last_only else logits

    def evaluate_each(self, steps: Sequence[tuple[int, int, KVCache]]) -> F32:
        """Evaluate one token of each of several texts; the fast arithmetic reads the weights once for all of them.

        Args:
            steps: a token, its position and the cache of its text, which :meth:`new_cache` made.

        Returns:
            float32 [n_texts, n_vocab]: the same bits as from one :meth:`evaluate` each.

        Raises:
            UsageError: as for :meth:`evaluate`, or two tokens have the same cache.
        """
        caches = [cache for _, _, cache in steps]
        if not steps or len({id(cache) for cache in caches}) < len(caches):
            raise UsageError("evaluate_each takes at least one token, and each token needs a cache of its own")
        with self._turn:
            self._check_open()
            for token, n_past, cache in steps:
                if not (0 <= token < self.n_vocab and 0 <= n_past <= cache.length and n_past < self.n_ctx):
                    self._checked([token], n_past, cache.length)  # says what is wrong
            tokens = np.array([token for token, _, _ in steps], np.int64)
            self.file.check_length()
            with np.errstate(all="ignore"):
                logits = self.backend.forward_each(self.weights, caches, tokens, [n_past for _, n_past, _ in steps])
            self.file.check_length()
            self._finite.check(logits)
            for _, n_past, cache in steps:
                cache.length = n_past + 1
        return logits

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this model was closed; open its file again to evaluate with it")

    def _checked(self, tokens: Sequence[int], n_past: int, length: int) -> npt.NDArray[np.int64]:
        if np.ndim(tokens) != 1 or len(tokens) == 0:
            raise UsageError("nothing to evaluate: give at least one token")
        if min(tokens) < 0 or max(tokens) >= self.n_vocab:
            wrong = next(int(t) for t in tokens if not 0 <= t < self.n_vocab)
            raise UsageError(f"token {wrong} is outside the vocabulary of {self.n_vocab} tokens")
        batch = np.asarray(tokens, dtype=np.int64)
        if not 0 <= n_past <= length:
            raise UsageError(f"n_past is {n_past}, but the cache holds {length} positions")
        if n_past + len(batch) > self.n_ctx:
            raise UsageError(f"{n_past} + {len(batch)} tokens do not fit the context of {self.n_ctx} (n_ctx)")
        return batch

    def close(self) -> None:
        """Release the file, once nobody is evaluating; the model cannot be evaluated afterwards."""
        with self._turn:
            self._closed = True
            self._finite.stop()
            self.backend.close()
            self.file.close()

    def _in_forked_child(self) -> None:
        """A child has the memory of its parent, but neither its threads nor whoever held the lock."""
        self._turn = threading.Lock()
        self.backend.in_forked_child()

    def __enter__(self: E) -> E:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextmanager
def _room_for(n_ctx: int) -> Iterator[None]:
    """Memory that grows with the context.

    Raises:
        UsageError: the machine does not have as much.
    """
    try:
        yield
    except MemoryError as error:
        raise UsageError(
            f"a context of {n_ctx:,} positions takes more memory than there is; choose a smaller one (-c)"
        ) from error


def _checked_eps(norm_eps: float) -> float:
    """What a person asked to add in every norm.

    Raises:
        UsageError: it is negative, or not a number.
    """
    if not 0 <= norm_eps < math.inf:
        raise UsageError(f"the epsilon of the norms must be a number from 0 on, not {norm_eps}")
    return norm_eps


_OPEN: WeakSet[Evaluator] = WeakSet()


def _in_forked_child() -> None:
    for evaluator in list(_OPEN):
        evaluator._in_forked_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)
