"""The published LLaMA models of February 2023: one row each.

Everything that has to know that a 13B is 5120 wide, has 40 layers, or comes in two files asks this table. Whatever has
another shape is described in words.

Source: table 2 of "LLaMA: Open and Efficient Foundation Language Models" (arXiv 2302.13971) and the params.json files
that were published with the weights; LLAMA_N_PARTS of llama.cpp at ed3c680bc.
"""

from __future__ import annotations

from dataclasses import dataclass

from ggmlpy.files.errors import UsageError

__all__ = ["PUBLISHED_SIZES", "PublishedSize", "describe_shape", "n_shards_of", "size_named", "size_of_shape"]


@dataclass(frozen=True)
class PublishedSize:
    """One published model.

    Attributes:
        name: what people call it.
        n_embd, n_layer, n_head, n_ff: its shape.
        n_shards: how many files Meta spread it over, and how many parts the first converters made of it.
        norm_eps: the ``norm_eps`` in its params.json.
        n_mult: the ``multiple_of`` in its params.json, from which ``n_ff`` follows.
    """

    name: str
    n_embd: int
    n_layer: int
    n_head: int
    n_ff: int
    n_shards: int
    norm_eps: float
    n_mult: int = 256


# fmt: off
PUBLISHED_SIZES = (
    #             name   n_embd n_layer n_head n_ff  n_shards norm_eps
    PublishedSize("7B",  4096,  32,     32,    11008, 1,      1e-6),
    PublishedSize("13B", 5120,  40,     40,    13824, 2,      1e-6),
    PublishedSize("33B", 6656,  60,     52,    17920, 4,      1e-6),  # Meta's folder is called 30B
    PublishedSize("65B", 8192,  80,     64,    22016, 8,      1e-5),
)
# fmt: on

OTHER_NAMES = {"30B": "33B"}


def size_named(name: str) -> PublishedSize:
    """The published model of that name: "7B", "13B", "33B" or "30B", "65B", in either case.

    Raises:
        UsageError: no published model has that name.

    >>> size_named("30b").n_layer
    60
    """
    wanted = OTHER_NAMES.get(name.upper(), name.upper())
    for size in PUBLISHED_SIZES:
        if size.name == wanted:
            return size
    names = ", ".join(size.name for size in PUBLISHED_SIZES)
    raise UsageError(f"unknown model {name!r}; the published ones are {names}")


def size_of_shape(n_embd: int, n_layer: int, n_head: int | None = None) -> PublishedSize | None:
    """The published model of this shape; ``n_head`` None where a file does not tell."""
    for size in PUBLISHED_SIZES:
        if (size.n_embd, size.n_layer) == (n_embd, n_layer) and n_head in (None, size.n_head):
            return size
    return None


def describe_shape(n_embd: int, n_layer: int, n_head: int | None = None) -> str:
    """What a model of this shape is called: "7B", or its shape in words.

    >>> describe_shape(4096, 32, 32), describe_shape(64, 2, 4), describe_shape(64, 2)
    ('7B', '64 wide, 2 layers, 4 heads', '64 wide, 2 layers')
    """
    size = size_of_shape(n_embd, n_layer, n_head)
    if size:
        return size.name
    return f"{n_embd} wide, {n_layer} layers" + ("" if n_head is None else f", {n_head} heads")


def n_shards_of(n_embd: int) -> int:
    """Over how many files Meta, and after it the first converters, spread a model of this width; 1 for other widths.

    >>> n_shards_of(5120), n_shards_of(64)
    (2, 1)
    """
    return next((size.n_shards for size in PUBLISHED_SIZES if size.n_embd == n_embd), 1)
