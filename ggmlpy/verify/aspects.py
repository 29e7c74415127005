"""What is looked at beside the tensors of a model file: one function an aspect, in the table :data:`ASPECTS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ggmlpy.formats.carrying import unstated
from ggmlpy.formats.containers import CONTAINERS
from ggmlpy.formats.fields import write
from ggmlpy.formats.gguf_model import to_gguf_token
from ggmlpy.formats.gguf_writer import prefix
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.writer import gguf_prefix

from .expected import Expected
from .numbers import Difference, params_differences
from .terms import AGAINST
from .vocabularies import type_differences, vocabulary_differences

__all__ = ["ASPECTS", "container_differences"]


def _container(output: ModelFile, expected: Expected) -> Iterator[Difference]:
    if (output.container, output.version) != (expected.container, expected.version):
        name = f"{expected.container} v{expected.version}" if expected.version else expected.container
        yield Difference(f"container {output.format_name} instead of {name}", False)


def _numbers(output: ModelFile, expected: Expected) -> Iterator[Difference]:
    """GGUF states every number, the older containers seven."""
    skip = {"n_mult"} if output.container == "gguf" else {*unstated("ggml"), "other"} - {"n_mult"}
    return params_differences(expected.hparams, output.hparams, AGAINST, skip)


def _vocabulary(output: ModelFile, expected: Expected) -> Iterator[Difference]:
    pieces = [text for text, _ in expected.vocab]
    scores = np.array([score for _, score in expected.vocab], np.float32)
    both = (scores, output.vocab.scores) if output.container != "ggml" else None
    yield from map(Difference, vocabulary_differences(pieces, output.vocab, both, AGAINST))
    if output.vocab.types is not None:
        types = expected.token_types
        if types is None:
            types = np.array([to_gguf_token(index, piece)[1] for index, piece in enumerate(pieces)], np.int32)
        yield from type_differences(pieces, types, output.vocab.types, AGAINST)


def _order(output: ModelFile, expected: Expected) -> Iterator[Difference]:
    names, there = [tensor.name for tensor in expected.tensors], [tensor.name for tensor in output.stored]
    if there != names and set(there) == set(names):
        first = next(i for i, (x, y) in enumerate(zip(there, names, strict=True)) if x != y)
        yield Difference(f"order of tensors: number {first} is {there[first]} instead of {names[first]}", False)


def _structure(output: ModelFile, expected: Expected) -> Iterator[Difference]:
    """Bytes before and between the tensors that differ from what our writer puts there."""
    if len(output.parts) > 1:
        if output.container == "gguf":
            yield Difference(f"{len(output.parts)} files instead of one", False)
    elif output.container == expected.container == "gguf":
        yield from _gguf_header(output, expected)
    elif output.container == expected.container and expected.container in CONTAINERS:
        yield from _paddings(output, expected)


def _gguf_header(output: ModelFile, expected: Expected) -> Iterator[Difference]:
    buffer, content = output.parts[0].cursor.buffer, (expected.hparams, expected.vocab, expected.tensors)
    if output.as_stored and expected.metadata is not None:
        ours: bytes | None = prefix(expected.metadata, expected.tensors, output.version)[0]
    else:
        ours = gguf_prefix(output.version, *content, expected.metadata)
    if ours is None or buffer[: len(ours)] != ours:
        yield Difference("the header's keys, or their order or types, are not ours", False)


def _paddings(output: ModelFile, expected: Expected) -> Iterator[Difference]:
    container, part = CONTAINERS[expected.container], output.parts[0]
    values = {"magic": container.magic, "version": output.version}
    for name, (record, piece) in part.tensors.items():
        here = {**values, "type": record.id, "dims": piece.shape[::-1], "name": name.encode()}
        if part.cursor.buffer[piece.header : piece.offset] != write(container.tensor, here, piece.header):
            yield Difference(f"padding before the data of {name} is not zero", False)
            return


ASPECTS: tuple[Callable[[ModelFile, Expected], Iterable[Difference]], ...] = (
    _container,
    _numbers,
    _vocabulary,
    _order,
)


def container_differences(output: ModelFile, expected: Expected) -> list[Difference]:
    """How numbers, vocabulary, order of tensors and file structure differ from the expected file's."""
    found = [difference for aspect in ASPECTS for difference in aspect(output, expected)]
    return found or list(_structure(output, expected))
