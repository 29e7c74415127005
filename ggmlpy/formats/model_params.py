"""What a model is, in numbers: the one description that every container is read into and written from.

:class:`ModelParams` holds all that the configuration of a LLaMA-family model can say. No container holds everything:

==================  =================================================================================================
container           what it says
==================  =================================================================================================
ggml, ggmf, ggjt    seven integers (:meth:`ModelParams.header`); the rest is what every LLaMA of the time agreed on
GGUF                ``llama.*`` and ``tokenizer.ggml.*`` keys (:mod:`ggmlpy.formats.gguf_model`)
``params.json``     Meta's: width, heads, layers, multiple_of, eps; since LLaMA 2 and 3 also n_kv_heads,
                    ffn_dim_multiplier, rope_theta, use_scaled_rope (:mod:`llama_ref.checkpoint.params`)
``config.json``     Hugging Face's: all of it, under other names (:mod:`llama_ref.checkpoint.params`)
==================  =================================================================================================

A field that a source may leave out is None when it did; a property of a similar name then gives what such a model
computes with (:attr:`~ModelParams.eps`, :attr:`~ModelParams.rope_freq_base`, :attr:`~ModelParams.context_length`).
What a source says and nothing here understands is kept by name in :attr:`~ModelParams.other`.

Sources: llama/model.py of facebookresearch/llama (57b0eb62) and of llama3, configuration_llama.py of transformers
4.28.1 and 5.24, gguf-py and llama-model.cpp of llama.cpp (c392e5094).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from .containers import HPARAMS
from .model_sizes import PublishedSize, describe_shape, n_shards_of, size_named, size_of_shape

__all__ = [
    "LLAMA_EPS",
    "LLAMA_ROPE_THETA",
    "META_LLAMA3",
    "ModelParams",
    "RopeScaling",
    "feed_forward_width",
    "find_n_mult",
    "model_named",
    "multiples_for",
]

LLAMA_EPS = 1e-6  # of LLaMA 1, except the 65B; what a container means that does not say
LLAMA_ROPE_THETA = 10000.0  # of LLaMA 1 and 2
LLAMA_CONTEXT = 2048  # tokens that LLaMA 1 was trained with
FROM_TOKENIZER = -1  # n_vocab as params.json has it: the size of the vocabulary is the tokenizer's

_DERIVED: Any = None  # computed from other fields where it is not given
_HEADER = tuple(entry.name for entry in HPARAMS)


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How the rotary frequencies are stretched for contexts longer than those of the training.

    Attributes:
        type: "linear", "dynamic", "yarn", "llama3", "longrope", or a name that is not known here.
        factor: by how much the context grows.
        original_context: tokens of the context before it was stretched.
        low_freq_factor, high_freq_factor: llama3: between original_context over these two wavelengths it interpolates.
        attention_factor: yarn: factor on cos and sin; None where it follows from ``factor``.
        beta_fast, beta_slow: yarn: rotations within the original context where interpolation ends and begins.
        mscale, mscale_all_dim: yarn, as DeepSeek states the attention factor.
        magnitude: a further factor on cos and sin, of whatever type (GGUF ``rope.scaling.attn_factor``).
        extrapolation_factor: yarn: weight of the unscaled frequencies.
        truncate: yarn: whether the two bounds are rounded to whole dimensions.
        other: what else the source says, by its name there.
    """

    type: str
    factor: float | None = None
    original_context: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    magnitude: float | None = None
    extrapolation_factor: float | None = None
    truncate: bool | None = None
    other: Mapping[str, Any] = field(default_factory=dict, compare=False)


META_LLAMA3 = RopeScaling(
    type="llama3", factor=8.0, original_context=8192, low_freq_factor=1.0, high_freq_factor=4.0
)  # what use_scaled_rope means in Meta's llama3/model.py, and what a configuration means that leaves numbers out


@dataclass(frozen=True, kw_only=True, repr=False)
class ModelParams:
    """The shape and the numbers of a LLaMA-family model.

    Four fields follow from others where they are not given: ``n_head_kv``, ``head_dim``, ``n_ff`` and ``n_rot``.
    :func:`dataclasses.replace` keeps them as they are; :meth:`changed` derives them anew.

    >>> seven = ModelParams(n_vocab=32000, n_embd=4096, n_layer=32, n_head=32, n_mult=256)
    >>> seven.n_ff, seven.head_dim, seven.n_head_kv, seven.name
    (11008, 128, 32, '7B')
    """

    n_embd: int
    """Width of the residual stream (Meta ``dim``, Hugging Face ``hidden_size``)."""
    n_layer: int
    """Transformer blocks."""
    n_head: int
    """Heads of queries."""
    n_vocab: int = FROM_TOKENIZER
    """Rows of the embedding and of the output matrix; -1 leaves it to the tokenizer, as Meta's params.json does."""
    n_head_kv: int = _DERIVED
    """Heads of keys and values, each shared by n_head / n_head_kv queries; as many as ``n_head`` before LLaMA 2 70B."""
    head_dim: int = _DERIVED
    """Width of one head; n_embd / n_head unless the model says otherwise (Mistral Nemo, Qwen 3)."""
    n_ff: int = _DERIVED
    """Width of the feed-forward layer (``intermediate_size``); Meta and GGML state ``n_mult`` and compute it."""
    n_mult: int = 256
    """``n_ff`` is rounded up to a multiple of this (``multiple_of``); 256 in the published LLaMA 1."""
    ffn_dim_multiplier: float | None = None
    """LLaMA 2 70B and LLaMA 3 multiply 8/3 of the width by this before rounding."""
    n_rot: int = _DERIVED
    """Dimensions of a head that are rotated; all of them in a LLaMA."""
    norm_eps: float | None = None
    """Added to the mean square in each norm; 1e-6 in LLaMA 1, 1e-5 in its 65B and since LLaMA 2."""
    rope_theta: float | None = None
    """Base of the rotary frequencies; 10000 in LLaMA 1 and 2, 500000 in LLaMA 3."""
    rope_scaling: RopeScaling | None = None
    """How these frequencies are stretched for longer contexts; None: not at all."""
    n_ctx_train: int | None = None
    """Tokens of the longest context that the model was trained for (``max_position_embeddings``)."""
    sliding_window: int | None = None
    """How many of the last tokens a query sees (Mistral); None: all of them."""
    attention_bias: bool = False
    """Whether wq, wk and wv have biases (and wo, except in Qwen 2)."""
    mlp_bias: bool = False
    """Whether w1, w2 and w3 have biases."""
    tied_embeddings: bool = False
    """Whether the output matrix is the embedding (``tie_word_embeddings``)."""
    bos_id: int | None = None
    """Token that begins a text; 1 in LLaMA 1 and 2."""
    eos_ids: tuple[int, ...] = ()
    """Tokens that end a text; LLaMA 3 has several."""
    unk_id: int | None = None
    """Token for what the vocabulary cannot spell; 0 in LLaMA 1 and 2."""
    pad_id: int | None = None
    """Token that fills up a batch in training; Chinese-Alpaca's is its last."""
    ftype: int = 1
    """File type of GGML headers and of GGUF: the type of most matrices (:mod:`ggmlpy.formats.file_types`); 1 is f16."""
    dtype: str | None = None
    """Element type that a checkpoint's configuration names (``torch_dtype``)."""
    architecture: str = "llama"
    """Family of the model (Hugging Face ``model_type``, GGUF ``general.architecture``)."""
    other: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What the source says beyond all this, by its name there."""

    def __post_init__(self) -> None:
        for name, value in self._derived().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _derived(self) -> dict[str, int]:
        """What the four fields are where nothing else is said (0 where a corrupt header leaves nothing to say)."""
        head_dim = self.n_embd // self.n_head if self.n_head > 0 else 0
        return {
            "n_head_kv": self.n_head,
            "head_dim": head_dim,
            "n_ff": feed_forward_width(self.n_embd, self.n_mult, self.ffn_dim_multiplier),
            "n_rot": head_dim if self.head_dim is None else self.head_dim,
        }

    @classmethod
    def from_header(
        cls, n_vocab: int, n_embd: int, n_mult: int, n_head: int, n_layer: int, n_rot: int, ftype: int
    ) -> ModelParams:
        """The model that a GGML header describes, its seven numbers in the order of the file.

        >>> ModelParams.from_header(32000, 4096, 256, 32, 32, 128, 1).n_ff
        11008
        """
        return cls(
            n_vocab=n_vocab, n_embd=n_embd, n_mult=n_mult, n_head=n_head, n_layer=n_layer, n_rot=n_rot, ftype=ftype
        )

    def header(self) -> dict[str, int]:
        """The seven numbers of a GGML header by name, in the order of the file."""
        return {name: getattr(self, name) for name in _HEADER}

    def changed(self, **changes: Any) -> ModelParams:
        """A copy with other values, in which what is derived and not given follows anew.

        >>> ModelParams(n_embd=64, n_layer=2, n_head=4, n_mult=32).changed(n_head=2).head_dim
        32
        """
        return replace(self, **{**dict.fromkeys(self._derived()), **changes})

    @property
    def eps(self) -> float:
        """What is added to the mean square in each norm."""
        return LLAMA_EPS if self.norm_eps is None else self.norm_eps

    @property
    def rope_freq_base(self) -> float:
        """The base of the rotary frequencies."""
        return LLAMA_ROPE_THETA if self.rope_theta is None else self.rope_theta

    @property
    def context_length(self) -> int:
        """Tokens of the longest context that the model was trained for."""
        return LLAMA_CONTEXT if self.n_ctx_train is None else self.n_ctx_train

    @property
    def n_q(self) -> int:
        """Rows of wq and columns of wo: all heads of queries side by side."""
        own = self.n_head > 0 and self.head_dim == self.n_embd // self.n_head
        return self.n_embd if own or self.n_head <= 0 else self.n_head * self.head_dim

    @property
    def n_kv(self) -> int:
        """Rows of wk and wv: all heads of keys side by side."""
        return self.head_dim * self.n_head_kv if self.n_head > 0 else self.n_embd

    @property
    def wo_bias(self) -> bool:
        """Whether wo has a bias, too: as the others of attention, except in Qwen 2."""
        return self.attention_bias and self.architecture != "qwen2"

    @property
    def qk_norm(self) -> bool:
        """Whether each head of queries and keys is normalized before it is rotated: in Qwen 3."""
        return self.architecture == "qwen3"

    @property
    def size(self) -> PublishedSize | None:
        """The published LLaMA of this shape."""
        return size_of_shape(self.n_embd, self.n_layer, self.n_head)

    @property
    def published(self) -> str | None:
        """The name of the published LLaMA of this shape, None for other shapes."""
        return self.size.name if self.size else None

    @property
    def name(self) -> str:
        """ "7B", "13B", "33B", "65B", or the shape in words."""
        return describe_shape(self.n_embd, self.n_layer, self.n_head)

    @property
    def n_shards(self) -> int:
        """How many files Meta spread a model of this width over; 1 for an unpublished width."""
        return n_shards_of(self.n_embd)

    def __repr__(self) -> str:
        usual = {entry.name: entry.default for entry in fields(self)} | {"other": {}} | self._derived()
        said = [(entry.name, getattr(self, entry.name)) for entry in fields(self)]
        return f"ModelParams({', '.join(f'{name}={value!r}' for name, value in said if value != usual[name])})"


def feed_forward_width(n_embd: int, n_mult: int, multiplier: float | None = None) -> int:
    """8/3 of the width (times LLaMA 2's multiplier), rounded up to a multiple of ``n_mult``; 0 if that is not positive.

    >>> feed_forward_width(4096, 256), feed_forward_width(8192, 4096, 1.3)
    (11008, 28672)
    """
    if n_mult <= 0:
        return 0
    width = 8 * n_embd // 3
    if multiplier is not None:
        width = int(multiplier * width)
    return (width + n_mult - 1) // n_mult * n_mult


def find_n_mult(n_embd: int, n_ff: int, candidates: Iterable[int]) -> int | None:
    """The first of the candidates from which this feed-forward width follows; None if it follows from none.

    A width does not determine its ``n_mult``, so the order of the candidates decides, and each source has its own: what
    wrote the file chose one, and only that one gives the file's bytes again.

    >>> find_n_mult(4096, 11008, (256, 128)), find_n_mult(64, 192, (256, 128, 64)), find_n_mult(64, 160, (256, 160))
    (256, 64, None)
    """
    return next((n_mult for n_mult in candidates if 0 < n_ff == feed_forward_width(n_embd, n_mult)), None)


def multiples_for(n_embd: int, n_ff: int, grouped: bool) -> dict[str, Any]:
    """``multiple_of`` and, where it takes one, ``ffn_dim_multiplier`` from which Meta computes this width.

    Arguments:
        grouped: whether heads are grouped, as only in models whose params.json may have a multiplier.

    >>> multiples_for(4096, 11008, False), multiples_for(8192, 28672, True)
    ({'n_mult': 256}, {'n_mult': 4096, 'ffn_dim_multiplier': 1.3})
    """
    plain = [(n_mult, None) for n_mult in (256, 128, 64, 32)]
    published = [(4096, 1.3), (1024, 1.3), (256, 1.5)] if grouped else []  # LLaMA 2 and 3 70B; 3 8B; 3.2 1B
    smaller = [(n_ff, 0.5**i) for i in range(1, 32)]  # one of them leaves at least 1 and at most n_ff
    for n_mult, multiplier in (*plain, *published, (n_ff, None), *smaller):
        if n_ff == feed_forward_width(n_embd, n_mult, multiplier):
            return {"n_mult": n_mult} if multiplier is None else {"n_mult": n_mult, "ffn_dim_multiplier": multiplier}
    return {"n_mult": n_ff}


def model_named(name: str) -> ModelParams:
    """The published model of that name ("7B", "13B", "33B" or "30B", "65B").

    Raises:
        UsageError: no published model has that name.

    >>> model_named("30b").n_layer
    60
    """
    size = size_named(name)
    return ModelParams(
        n_embd=size.n_embd, n_layer=size.n_layer, n_head=size.n_head, n_mult=size.n_mult, norm_eps=size.norm_eps
    )
