"""The transformer, written once.

`forward` is the model of the LLaMA paper from top to bottom: embed, for each layer attention and feed-forward, norm,
output. It owns no arithmetic: every operation is asked of a *backend* (`llama_ref.arithmetic.transformer.Backend`),
chosen by name: ``reference`` (numpy, the one to read), ``exact`` (the same bits as llama.cpp at a named era and build)
or ``fast``. A backend that fuses whole tokens overrides `Backend.forward`; the `forward` here stays the definition
that it is tested
against.

`Model` joins the three things an evaluation needs: the weights of a file, a backend, and the key/value cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggmlpy.files.errors import ShapeError, UsageError
from llama_ref.arithmetic.transformer import F32, LayerWeights, Weights

if TYPE_CHECKING:
    from ggmlpy.formats.containers import Hparams
    from ggmlpy.formats.model_file import ModelFile, Tensor, Vocabulary
    from llama_ref.arithmetic.transformer import Backend

    from .conversation import Token
    from .sampling import SamplingOptions

__all__ = ["Model"]

LLAMA_EPS = 1e-6


class Model:
    """A model file, the arithmetic chosen for it, and a key/value cache.

    Example:
        >>> model = Model.from_file("model.bin", numerics="exact", build="avx2")  # doctest: +SKIP
        >>> logits = model.evaluate([1, 15043], n_past=0)  # doctest: +SKIP
        >>> logits.shape  # doctest: +SKIP
        (2, 32000)
    """

    def __init__(self, file: ModelFile, backend: Backend, *, n_ctx: int = 512, memory_f32: bool = False) -> None:
        self.file = file
        self.hparams: Hparams = file.hparams
        self.vocab: Vocabulary = file.vocab
        self.backend = backend
        self.n_ctx = n_ctx
        self.n_vocab = file.hparams.n_vocab
        self.weights = load_weights(file, backend)
        self.cache = backend.new_cache(file.hparams, n_ctx, memory_f32)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str] | ModelFile,
        *,
        numerics: str = "fast",
        era: str | None = None,
        build: str | None = None,
        n_ctx: int = 512,
        memory_f32: bool = False,
        n_threads: int | None = None,
        norm_eps: float | None = None,
    ) -> Model:
        """Open a GGML file and prepare it for evaluation.

        Args:
            path: a ggml, ggmf or ggjt file; further parts (``.1``, ``.2``…) are found by themselves. Or one that
                `ggmlpy.open_model` has opened: it is then closed with the model.
            numerics: ``fast``, ``reference`` or ``exact``.
            era: date of the llama.cpp whose arithmetic ``exact`` follows; None means the era that wrote the file.
            build: ``scalar``, ``avx2``, ``avx512`` or ``cmake-avx2`` (``exact`` only); None means ``scalar``.
            n_ctx: positions that the cache holds.
            memory_f32: keep keys and values in float32 instead of float16.
            n_threads: threads to use; None means one for each processor. Results do not depend on it, except in the
                ``exact`` arithmetic of 2023-03-19, where they did in llama.cpp too (None means 1 there).
            norm_eps: what is added to the mean square in every norm; None means what a GGUF file says, else LLaMA's
                own 1e-6. (llama.cpp of 2023-08-21 took 5e-6 unless told otherwise.)

        Raises:
            FormatError: the file is bad or missing.
            UsageError: no such numerics, era or build, or that era does not know the file's tensor types.
        """
        import ggmlpy
        from llama_ref.arithmetic.choosing import create_backend

        if n_ctx < 1:
            raise UsageError(f"n_ctx must be at least 1, not {n_ctx}")
        file = path if isinstance(path, ggmlpy.ModelFile) else ggmlpy.open_model(path)
        try:
            backend = create_backend(numerics, file, era=era, build=build, n_threads=n_threads)
            backend.norm_eps = norm_eps or file.attributes.norm_eps or LLAMA_EPS
            backend.rope_freq_base = file.attributes.rope_freq_base
            model = cls(file, backend, n_ctx=n_ctx, memory_f32=memory_f32)
            backend.prepare(model.weights, model.cache)
            return model
        except BaseException:
            file.close()
            raise

    def evaluate(self, tokens: Sequence[int], n_past: int, *, last_only: bool = False) -> F32:
        """Evaluate one batch at positions n_past, n_past + 1, … and return its logits.

        Returns:
            float32 [n_tokens, n_vocab], or [n_vocab] of the last token if `last_only`.

        How tokens are split over calls changes the last bits in SIMD builds, as in llama.cpp: `main` evaluates a
        prompt n_batch tokens at a time.

        Raises:
            UsageError: a token is outside the vocabulary, or the positions are outside the cache.
        """
        batch = self._checked(tokens, n_past)
        logits = self.backend.forward(self.weights, self.cache, batch, n_past, last_only)
        self.cache.length = n_past + len(batch)
        return logits[-1] if last_only else logits

    def _checked(self, tokens: Sequence[int], n_past: int) -> npt.NDArray[np.int64]:
        batch = np.asarray(tokens, dtype=np.int64)
        if batch.ndim != 1 or len(batch) == 0:
            raise UsageError("nothing to evaluate: give at least one token")
        if batch.min() < 0 or batch.max() >= self.n_vocab:
            wrong = next(int(t) for t in batch if not 0 <= t < self.n_vocab)
            raise UsageError(f"token {wrong} is outside the vocabulary of {self.n_vocab} tokens")
        if not 0 <= n_past <= self.cache.length:
            raise UsageError(f"n_past is {n_past}, but the cache holds {self.cache.length} positions")
        if n_past + len(batch) > self.n_ctx:
            raise UsageError(f"{n_past} + {len(batch)} tokens do not fit the context of {self.n_ctx} (n_ctx)")
        return batch

    def generate(
        self, prompt: str | bytes | Sequence[int], *, max_tokens: int = 128, sampling: SamplingOptions | None = None
    ) -> Iterator[Token]:
        """Continue a prompt in a conversation of its own: yields tokens with .id, .bytes, .text and .logprob.

        Example:
            >>> for token in model.generate("你好", max_tokens=20):  # doctest: +SKIP
            ...     print(token.text, end="", flush=True)
        """
        from .conversation import Conversation
        from .sampling import SamplingOptions

        return Conversation(self, sampling or SamplingOptions()).say(prompt, max_tokens=max_tokens)

    def close(self) -> None:
        """Release the file; the model cannot be evaluated afterwards."""
        self.backend.close()
        self.file.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def load_weights(file: ModelFile, backend: Backend) -> Weights:
    """Hand every tensor of `file` to the backend, checked against the shapes that the header implies.

    Raises:
        ShapeError: a tensor is missing or of another shape.
    """
    h, n_ff = file.hparams, file.n_ff
    if min(h.n_head, h.n_embd) < 1 or h.n_layer < 0 or h.n_embd % (2 * h.n_head):
        raise ShapeError(
            "width and heads do not fit together",
            path=file.path,
            field="n_head",
            expected="a width that divides into heads of an even size",
            found=f"n_embd {h.n_embd}, n_head {h.n_head}, n_layer {h.n_layer}",
            cause="a corrupt header",
        )
    n_kv = h.n_embd // h.n_head * file.attributes.n_head_kv

    def shared(name: str) -> Any:
        """Keys or values: where several queries share a head, its rows are repeated for each of them."""
        tensor = _tensor(file, name, (n_kv, h.n_embd))
        return backend.matrix(tensor if n_kv == h.n_embd else _repeated(tensor, h.n_head, file.attributes.n_head_kv))

    def matrix(name: str, rows: int, cols: int) -> Any:
        return backend.matrix(_tensor(file, name, (rows, cols)))

    def norm(name: str) -> F32:
        return backend.vector(_tensor(file, name, (h.n_embd,)))

    def one_layer(at: str) -> LayerWeights:
        return LayerWeights(
            attention_norm=norm(f"{at}.attention_norm.weight"),
            wq=matrix(f"{at}.attention.wq.weight", h.n_embd, h.n_embd),
            wk=shared(f"{at}.attention.wk.weight"),
            wv=shared(f"{at}.attention.wv.weight"),
            wo=matrix(f"{at}.attention.wo.weight", h.n_embd, h.n_embd),
            ffn_norm=norm(f"{at}.ffn_norm.weight"),
            w1=matrix(f"{at}.feed_forward.w1.weight", n_ff, h.n_embd),
            w2=matrix(f"{at}.feed_forward.w2.weight", h.n_embd, n_ff),
            w3=matrix(f"{at}.feed_forward.w3.weight", n_ff, h.n_embd),
        )

    return Weights(
        tok_embeddings=matrix("tok_embeddings.weight", h.n_vocab, h.n_embd),
        layers=tuple(one_layer(f"layers.{i}") for i in range(h.n_layer)),
        norm=norm("norm.weight"),
        output=matrix("output.weight", h.n_vocab, h.n_embd),
    )


def _repeated(tensor: Tensor, n_head: int, n_head_kv: int) -> Tensor:
    """[n_head_kv * head_dim, n_embd] -> [n_head * head_dim, n_embd], each head as often as queries share it.

    This is what grouped-query attention means (Ainslie et al. 2023, figure 2), at the price of a copy of wk and wv; no
    backend needs to know of it.

    Raises:
        ShapeError: the queries can't be divided among the heads.
    """
    if n_head_kv <= 0 or n_head % n_head_kv:
        raise ShapeError(
            "heads of queries and keys do not fit together",
            field="llama.attention.head_count_kv",
            expected=f"a divisor of {n_head}",
            found=n_head_kv,
        )
    heads = tensor.raw().reshape(n_head_kv, -1)  # [n_head_kv, head_dim * row_bytes]
    data = np.repeat(heads, n_head // n_head_kv, axis=0).reshape(-1)
    shape = (tensor.n_rows * n_head // n_head_kv, tensor.n_cols)
    return replace(tensor, shape=shape, pieces=(replace(tensor.pieces[0], shape=shape, data=data),), axis=None)


def _tensor(file: ModelFile, name: str, shape: tuple[int, ...]) -> Any:
    tensor = file.tensors.get(name)
    if tensor is None:
        raise ShapeError(
            f"tensor {name} is missing",
            path=file.path,
            expected=f"{name} {list(shape)}",
            found=f"{len(file.tensors)} tensors without it",
            cause="a vocabulary-only or truncated file",
            next_step=f"`inspect {file.path} --tensors`",
        )
    if tuple(tensor.shape) != shape:
        raise ShapeError(
            f"tensor {name} has another shape than the header implies",
            path=file.path,
            offset=tensor.offset,
            field=name,
            expected=list(shape),
            found=list(tensor.shape),
        )
    return tensor
