"""The arithmetic of the transformer, chosen by name.

| name        | module      | what it promises                                                                |
|-------------|-------------|---------------------------------------------------------------------------------|
| `reference` | `reference` | plain numpy, the textbook; any tensor type                                      |
| `exact`     | `exact`     | every float as llama.cpp computed it, for an era and a build                    |
| `fast`      | `fast`      | kernels straight on the quantized blocks; the same text for any thread count    |

All three offer the operations of `Backend` under the same names and shapes, so `llama_ref.text.model.forward` runs on
each. A backend that wants to fuse operations overrides `Backend.forward` — one batch in, logits out, the cache filled
as a side effect — and may give `matrix` and `new_cache` layouts of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggmlpy.files.errors import UsageError

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import Hparams, ModelFile, Tensor
    from llama_ref.text.model import KVCache, LayerCache, Weights

__all__ = ["Backend", "backend_class", "create_backend", "natural_era"]

F32 = npt.NDArray[np.float32]


class Backend(ABC):
    """The operations that the transformer is made of. Activations are C-contiguous float32 arrays."""

    name: str
    #: added to the mean square in `rms_norm`: LLaMA's 1e-6. llama.cpp had it fixed until mid-2023; at 2023-08-21 it was
    #: the option --rms-norm-eps, which started at 5e-6 for the sake of LLaMA 2
    norm_eps: float = 1e-6
    #: base of the rotary frequencies; GGUF files may name another
    rope_freq_base: float = 10000.0
    #: called while a batch is evaluated, with the part of it that is done, 0 to 1
    progress: Callable[[float], object] | None = None

    # Weights: what a matrix becomes is the backend's own business.

    @abstractmethod
    def matrix(self, tensor: Tensor) -> Any:
        """Prepare a two-dimensional tensor [rows, cols] for `embed` and `matmul`."""

    def vector(self, tensor: Tensor) -> F32:
        """Prepare a one-dimensional tensor: float32 [n]."""
        return np.ascontiguousarray(tensor.numpy(), dtype=np.float32)

    def new_cache(self, hparams: Hparams, n_ctx: int, memory_f32: bool) -> KVCache:
        """Return an empty key/value cache for `n_ctx` positions."""
        from llama_ref.text.model import KVCache

        head_dim = hparams.n_embd // hparams.n_head
        return KVCache(hparams.n_layer, n_ctx, hparams.n_head, head_dim, memory_f32)

    def prepare(self, weights: Weights, cache: KVCache) -> None:
        """Do now what the first evaluation with these would have to do before it can begin."""
        return None

    # Operations.

    @abstractmethod
    def embed(self, w: Any, tokens: npt.NDArray[np.int64]) -> F32:
        """Rows of the embedding matrix: [n_tokens] -> [n_tokens, n_embd]."""

    @abstractmethod
    def rms_norm(self, x: F32, weight: F32) -> F32:
        """x / sqrt(mean(x²) + eps) * weight, row by row: [n_tokens, n_embd]."""

    @abstractmethod
    def matmul(self, w: Any, x: F32) -> F32:
        """x · wᵀ: [n_tokens, cols] -> [n_tokens, rows]."""

    @abstractmethod
    def rope(self, x: F32, n_past: int) -> F32:
        """Rotate the pairs (2i, 2i+1) of every head by its position: [n_tokens, n_head, head_dim]."""

    @abstractmethod
    def remember(self, cache: LayerCache, k: F32, v: F32, n_past: int) -> None:
        """Rope the keys and put keys and values [n_tokens, n_head, head_dim] at n_past… (when is history's choice)."""

    @abstractmethod
    def attention(self, q: F32, cache: LayerCache, n_past: int) -> F32:
        """Causal attention of roped queries over the cache: [n_tokens, n_head, head_dim] -> [n_tokens, n_embd]."""

    @abstractmethod
    def silu_mul(self, gate: F32, up: F32) -> F32:
        """silu(gate) * up, element by element; silu(x) = x / (1 + exp(-x))."""

    def add(self, x: F32, y: F32) -> F32:
        """x + y, the residual connection."""
        return x + y

    def forward(
        self, weights: Weights, cache: KVCache, tokens: npt.NDArray[np.int64], n_past: int, last_only: bool = False
    ) -> F32:
        """Evaluate one batch: logits [n_tokens, n_vocab], or [1, n_vocab] if `last_only`. Override to fuse."""
        from llama_ref.text.model import forward

        return forward(self, weights, cache, tokens, n_past, last_only)

    def close(self) -> None:
        """Release threads and maps, if the backend holds any."""
        return None


def natural_era(file: ModelFile) -> str:
    """The date of the llama.cpp that a file was made for: its container, and in ggjt v1 its tensor types, tell.

    GGUF has its own history; the last era before it is the nearest. A ggjt v1 file of f32, f16, q4_0 or q4_1 can be
    read at 2023-03-31 and at 2023-04-30; the earlier wins.
    """
    if file.container == "gguf":
        return "2023-08-21"
    if file.container != "ggjt":
        return "2023-03-19" if file.container == "ggml" else "2023-03-30"
    if file.version == 1:
        early = {"f32", "f16", "q4_0", "q4_1"}
        return "2023-03-31" if all(t.type.name in early for t in file.tensors.values()) else "2023-04-30"
    return "2023-05-19" if file.version == 2 else "2023-08-21"


def create_backend(
    numerics: str,
    file: ModelFile,
    *,
    era: str | None = None,
    build: str | None = None,
    n_threads: int | None = None,
) -> Backend:
    """Return the backend called `numerics`, made for the shapes, types and era of `file`.

    Raises:
        UsageError: no such numerics, era or build, or a combination that is not offered.
    """
    from ggmlpy.formats.eras import era_of

    date = natural_era(file) if era is None else era_of(era).date
    make: Any = backend_class(numerics)
    if numerics == "reference":
        return make(file)
    if numerics == "exact":
        return make(file, era=date, build=build or "scalar", n_threads=n_threads)
    return make(file, era=date, n_threads=n_threads)


def backend_class(numerics: str) -> type[Backend]:
    """The class of the backend called `numerics`, imported with all that it needs.

    Raises:
        UsageError: no such numerics.
    """
    if numerics == "reference":
        from .reference import ReferenceBackend

        return ReferenceBackend
    if numerics == "exact":
        from .exact.backend import ExactBackend

        return ExactBackend
    if numerics == "fast":
        from .fast.backend import FastBackend

        return FastBackend
    raise UsageError(f"no numerics called {numerics!r}; there are fast, reference and exact")
