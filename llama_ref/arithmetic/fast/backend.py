"""The fast arithmetic: whole batches in compiled code, straight from the blocks of the mapped file.

The model's definition is `llama_ref.arithmetic.transformer.forward`; this backend gives the same numbers to within
rounding (its vectors are quantized to 8 bits in blocks of 32 before they meet quantized weights, as llama.cpp has done
since April 2023, or in blocks of 256 before they meet k-quants), and the same bits for any number of threads and any
split of the tokens over calls. `docs/kernels.md` explains how it works.

Matrices of the simple types (q4_0 … q8_0, iq4_nl), k-quants, iq4_xs, f32, f16 and bf16 are used where they lie. q4_2,
q4_3 and other later types are first widened in memory to a form that the kernels know; their values stay exactly the
same, but take more room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggmlpy.files.errors import UnsupportedError, UsageError
from ggmlpy.files.processors import checked_threads
from ggmlpy.formats.dequantize import dequantize
from ggmlpy.formats.model_file import as_blocks
from llama_ref.arithmetic.reference import Matrix, ReferenceBackend
from llama_ref.arithmetic.transformer import KVCache

from .arrays import address_of, aligned
from .layouts import (
    AS_FLOATS,
    DIRECT,
    IN_BLOCKS,
    IN_SUPERBLOCKS,
    form_of,
    matrix_bytes,
    rounded,
    score_bytes,
    widen,
    work_sizes,
)
from .machine_code import Kernels, load_kernels
from .offered import LANES
from .plan import LAYER, MATRICES, PLACE_BYTES, PLAN, TOKENS_A_CALL
from .threads import BARRIER_BYTES, LINE, Team

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile, Tensor
    from ggmlpy.formats.model_params import ModelParams
    from llama_ref.arithmetic.transformer import Weights

__all__ = ["FastBackend"]

ANGLES_AT_ONCE = 256  # positions
BYTES_A_THREAD = 1 << 20  # of a model: with less, threads wait for each other longer than they work
F32 = npt.NDArray[np.float32]


class FastCache(KVCache):
    """Keys and values as [n_layer][n_head_kv][n_ctx][head_pad] in memory, seen as `KVCache` shows them.

    Attributes:
        addresses: of the keys and of the values.
        form: how both lie; those of one model are alike.
    """

    def __init__(self, h: ModelParams, n_ctx: int, memory_f32: bool) -> None:
        super().__init__(h.n_layer, 0, h.n_head_kv, h.head_dim, memory_f32)
        shape, dtype = (h.n_layer, h.n_head_kv, n_ctx, rounded(h.head_dim, LANES)), self.k.dtype
        self.k, self.v = (aligned(shape, dtype)[..., : h.head_dim].transpose(0, 2, 1, 3) for _ in "kv")
        self.addresses = address_of(self.k), address_of(self.v)
        self.form = shape, self.k.strides, dtype


class FastMatrix(Matrix):
    """A matrix where it lies in the file, or widened.

    Attributes:
        kind: the name of its layout for the kernels.
        blocks: uint8, kept because the kernels are given its address.
    """

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor, keep=False)
        self.rows, self.cols = tensor.shape
        if tensor.type.layout in DIRECT:
            self.kind, self.blocks = tensor.type.layout, np.ascontiguousarray(tensor.raw())
        else:
            self.kind, self.blocks = "sixteens", widen(tensor)
        needed = self.rows * matrix_bytes(self.kind, self.cols)
        if self.blocks.nbytes != needed:  # the kernels check nothing
            raise UnsupportedError(
                f"tensor {tensor.name} holds {self.blocks.nbytes} bytes instead of {needed}", field=tensor.name
            )

    def rows_at(self, places: list[int]) -> F32:
        """Some rows as numbers, f32 [places, cols], from where the kernels read them."""
        if self.kind == "sixteens":
            return self.tensor.rows_at(places)
        raw = self.blocks.reshape(self.rows, -1)[places]
        return dequantize(as_blocks(raw, self.tensor.type), self.tensor.type)


class FastBackend(ReferenceBackend):
    """Fused evaluation; its single operations are those of `reference`."""

    name = "fast"

    def __init__(self, file: ModelFile, era: str, n_threads: int | None = None) -> None:
        """Args:
            n_threads: None means one for each processor that this process may use, but no more than one for each
                megabyte of the model.

        Raises:
            UsageError: n_threads is not positive, or absurd.
        """
        super().__init__(file)
        self.n_threads = checked_threads(n_threads)
        if n_threads is None:
            self.n_threads = min(self.n_threads, max(1, file.size // BYTES_A_THREAD))
        self.hparams, self.n_ff = file.hparams, file.n_ff
        self.team = Team(self.n_threads)
        self.kernels: Kernels | None = None
        self.plan = np.zeros(1, PLAN)
        self.plan_at = address_of(self.plan)
        self.kinds: list[str] = []
        self.kept: list[Any] = []  # arrays whose addresses are in the plan
        self._weights: Weights | None = None
        self._n_ctx = 0

    def matrix(self, tensor: Tensor) -> FastMatrix:
        return FastMatrix(tensor)

    def new_cache(self, hparams: ModelParams, n_ctx: int, memory_f32: bool) -> KVCache:
        return FastCache(hparams, n_ctx, memory_f32)

    def prepare(self, weights: Weights, n_ctx: int) -> None:
        """Load (or compile) the kernels, fill in the plan, and take working memory."""
        if weights is not self._weights:
            self._use_weights(weights)
        if n_ctx != self._n_ctx:
            self._use_context(n_ctx)

    def forward(
        self, weights: Weights, cache: KVCache, tokens: npt.NDArray[np.int64], n_past: int, last_only: bool = False
    ) -> F32:
        self.prepare(weights, cache.k.shape[1])
        n = len(tokens)
        logits = np.empty((1 if last_only else n, self.hparams.n_vocab), np.float32)
        for start in range(0, n, TOKENS_A_CALL):
            stop = min(start + TOKENS_A_CALL, n)
            if last_only:
                wanted = logits if stop == n else logits[:0]
            else:
                wanted = logits[start:stop]
            positions = range(n_past + start, n_past + stop)
            self._evaluate(weights.tok_embeddings, tokens[start:stop], positions, [cache], wanted)
            if self.progress:
                self.progress(stop / n)
        return logits

    def forward_each(
        self, weights: Weights, caches: Sequence[KVCache], tokens: npt.NDArray[np.int64], positions: Sequence[int]
    ) -> F32:
        self.prepare(weights, caches[0].k.shape[1])
        logits = np.empty((len(tokens), self.hparams.n_vocab), np.float32)
        for start in range(0, len(tokens), len(self.x)):
            here = slice(start, start + len(self.x))
            self._evaluate(weights.tok_embeddings, tokens[here], positions[here], caches[here], logits[here])
        return logits

    def _evaluate(
        self,
        embeddings: FastMatrix,
        tokens: npt.NDArray[np.int64],
        positions: Sequence[int],
        caches: Sequence[KVCache],
        logits: F32,
    ) -> None:
        """One call of the kernels: logits, [0 … n_tokens, n_vocab], of the last tokens.

        Args:
            caches: of each token's text, or the one of all tokens.
        """
        assert self.kernels is not None
        n, plan = len(tokens), self.plan[0]
        self._fill_angles(max(positions) + 1)
        self.places[:n, 0] = positions
        self.places[:n, 1:] = self._use_caches(caches)
        self.x[:n] = embeddings.rows_at(tokens.tolist())  # [n_tokens, n_embd]
        self.shared[:] = 0
        plan["n_tokens"], plan["one_text"] = n, len(caches) == 1
        plan["n_logits"], plan["logits_at"] = len(logits), address_of(logits)
        kernel = self.kernels.token if n == 1 and len(logits) == 1 else self.kernels.batch
        self.team.run(lambda thread: kernel(self.plan_at, thread), cancel=self._cancel)

    def _cancel(self) -> None:
        self.shared[0] = 1

    def close(self) -> None:
        self.team.close()
        self.kept.clear()
        self._weights, self._n_ctx = None, 0

    def in_forked_child(self) -> None:
        self.team.forget()

    def matrices(self, weights: Weights) -> list[FastMatrix]:
        """Every matrix that a token needs all of."""
        return [m for layer in weights.layers for m in matrices_of(layer).values()] + [weights.output]

    # Filling in the plan.

    def _use_weights(self, weights: Weights) -> None:
        h, plan = self.hparams, self.plan[0]
        self.kinds = sorted({m.kind for m in self.matrices(weights)})
        self.kernels = kernels = load_kernels(self.kinds)

        def entry(matrix: FastMatrix) -> tuple[int, ...]:
            ahead = kernels.read_ahead[matrix.kind]
            functions, form = kernels.products[matrix.kind], form_of(matrix.kind)
            return address_of(matrix.blocks), *functions, form, ahead.far, ahead.near, ahead.shape

        layers = np.zeros(h.n_layer, LAYER)
        for record, layer in zip(layers, weights.layers):
            record["attention_norm_at"] = address_of(layer.attention_norm)
            record["ffn_norm_at"] = address_of(layer.ffn_norm)
            for name, matrix in matrices_of(layer).items():
                record[name] = entry(matrix)
                bias = layer.biases.get(name)
                record[f"bias_{name}"] = 0 if bias is None else address_of(bias)
            for name, norm in layer.head_norms.items():
                record[f"head_norm_{name}"] = address_of(norm)
        head_dim, apart, forms = h.head_dim, self.rotation.apart, {form_of(kind) for kind in self.kinds}
        shapes = {
            "n_threads": self.n_threads, "n_vocab": h.n_vocab, "n_embd": h.n_embd, "n_ff": self.n_ff, "n_q": h.n_q,
            "n_head": h.n_head, "n_head_kv": h.n_head_kv, "n_group": h.n_head // h.n_head_kv, "n_kv": h.n_kv,
            "n_layer": h.n_layer, "head_dim": head_dim, "head_pad": rounded(head_dim, LANES),
            "pair_step": 8 if apart == 1 else 4, "pair_apart": 4 * apart,
            "eps_bits": np.float32(self.norm_eps).view(np.uint32), "layers_at": address_of(layers),
            "norm_at": address_of(weights.norm),
            "output": entry(weights.output),
            "any_floats": AS_FLOATS in forms, "any_blocks": IN_BLOCKS in forms,
            "any_superblocks": IN_SUPERBLOCKS in forms,
        }  # fmt: skip
        for name, value in shapes.items():
            plan[name] = value
        self.kept = [layers]
        self._weights, self._n_ctx = weights, 0

    def _use_caches(self, caches: Sequence[KVCache]) -> list[tuple[int, int]]:
        """Say how the keys and values of this evaluation lie, all alike; the addresses of each conversation's own."""
        first, addresses = caches[0], []
        for cache in caches:
            if not isinstance(cache, FastCache) or cache.form != getattr(first, "form", None):
                raise UsageError("these caches were not made by new_cache of the same model")
            addresses.append(cache.addresses)
        plan = self.plan[0]
        plan["memory_f32"] = first.k.dtype == np.float32
        plan["layer_bytes"], plan["position_bytes"], plan["head_bytes"] = first.k.strides[:3]
        return addresses

    def _use_context(self, n_ctx: int) -> None:
        """Everything else whose size depends on the context, and the working memory."""
        plan, h = self.plan[0], self.hparams
        head_dim = h.head_dim
        n = min(TOKENS_A_CALL, n_ctx)
        sizes = work_sizes(h.n_embd, self.n_ff, h.n_q, h.n_kv, head_dim, n_ctx, n, self.kinds)
        self.angles, self.n_angles = aligned((n_ctx, head_dim // 2, 2), np.float32), 0
        phases = 10 * h.n_layer + 4
        self.shared = aligned((LINE + BARRIER_BYTES + phases * LINE * self.n_threads) // 8, np.int64)
        base = address_of(self.shared)
        plan["cancel_at"], plan["barrier_at"], plan["counters_at"] = base, base + LINE, base + LINE + BARRIER_BYTES
        self.x, self.places = aligned((n, h.n_embd), np.float32), aligned((n, PLACE_BYTES // 8), np.int64)
        plan["places_at"] = address_of(self.places)
        plan["x_at"], plan["rope_at"] = address_of(self.x), address_of(self.angles)
        working = {name: aligned(size, np.uint8) for name, size in sizes.shared.items()}
        for name, array in working.items():
            plan[name] = address_of(array)
        scratch = aligned(sizes.scratch_bytes * self.n_threads, np.uint8)
        plan["scratch_at"], plan["scratch_bytes"] = address_of(scratch), sizes.scratch_bytes
        plan["score_bytes"] = score_bytes(n_ctx)
        for name, offset in sizes.scratch.items():
            plan[name] = offset
        self.kept = [*self.kept[:1], working, scratch]
        self._n_ctx = n_ctx

    def _fill_angles(self, n: int) -> None:
        """The angles of the first n positions, and of some more so that this is rarely asked."""
        if n > self.n_angles:
            first, last = self.n_angles, min(rounded(n, ANGLES_AT_ONCE), len(self.angles))
            self.angles[first:last] = self.rotation.table(first, last)
            self.n_angles = last


def matrices_of(layer: Any) -> dict[str, FastMatrix]:
    return {name: getattr(layer, name) for name in MATRICES}
