"""What stands beside the weights of a checkpoint: its configuration, its tokenizer, and the smaller files.

A merged or converted directory is as good as its weights only if these say what they should. Configurations are
compared as what they mean (:mod:`ggmlpy.verify.numbers`), tokenizers piece by piece.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.files.errors import FormatError, MissingFileError
from ggmlpy.files.json_files import read_json
from ggmlpy.formats.carrying import unstated
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.verify.numbers import Difference, key_differences, params_differences
from ggmlpy.verify.terms import AGAINST, Terms
from ggmlpy.verify.vocabularies import vocabulary_differences
from llama_ref.checkpoint import Checkpoint
from llama_ref.vocabulary.tokenizer_file import find_tokenizer, load_vocabulary

__all__ = ["folder_differences", "tokenizer_differences", "vocabulary_beside"]

Pieces = Sequence[tuple[bytes, float]]
CONFIGURATIONS = ("config.json", "params.json")
DECISIVE = ("add_bos_token", "add_eos_token", "chat_template", "add_prefix_space")  # of tokenizer_config.json


def folder_differences(
    theirs: Checkpoint, params: ModelParams, layout: str, vocab: Pieces | None, files: Mapping[str, bytes]
) -> Iterator[Difference]:
    """How what stands beside the weights differs from what should.

    Args:
        theirs: the open output.
        params, layout: of the source: the numbers that the output should say too, and whose keys ``params.other`` has.
        vocab: the pieces that the tokenizer should have; None if the source has none to compare with.
        files: the small files that we would write, by name.
    """
    ours = params if layout == theirs.layout else replace(params, other={})  # keys of another layout
    skip = {*unstated(theirs.layout), "ftype"}
    numbers = list(params_differences(ours, theirs.params, AGAINST, skip))
    yield from numbers
    if vocab is not None:
        yield from _tokenizer(theirs, vocab)
    for name, content in files.items():
        if not name.endswith(".index.json") and name.endswith(".json"):
            yield from _small_file(theirs.path / name, content, told=bool(numbers))


def vocabulary_beside(directory: Path, layout: str) -> list[tuple[bytes, float]] | None:
    """The pieces of the tokenizer in a directory (of Meta's layout also above it); None if there is none."""
    try:
        path = find_tokenizer(directory)
    except MissingFileError:
        return None
    inside = path.resolve().parent == directory.resolve()
    return list(load_vocabulary(path, fill=layout == "huggingface")) if inside or layout == "meta" else None


def _tokenizer(theirs: Checkpoint, vocab: Pieces) -> Iterator[Difference]:
    try:
        found = vocabulary_beside(theirs.path, theirs.layout)
    except FormatError as error:
        yield Difference(f"the tokenizer cannot be read: {error}")
        return
    if found is None:
        yield Difference("no tokenizer.model beside the weights", False)
        return
    yield from tokenizer_differences(vocab, found, AGAINST)


def tokenizer_differences(a: Pieces, b: Pieces, terms: Terms) -> Iterator[Difference]:
    """How two tokenizers differ."""
    scores = tuple(np.array([score for _, score in side], np.float32) for side in (a, b))
    pieces = [text for text, _ in a], [text for text, _ in b]
    yield from map(Difference, vocabulary_differences(*pieces, (scores[0], scores[1]), terms))


def _small_file(path: Path, content: bytes, *, told: bool) -> Iterator[Difference]:
    if not path.is_file():
        yield Difference(f"no {path.name}", False)
        return
    if path.read_bytes() == content:
        return
    try:
        expected, found = json.loads(content), read_json(path)
    except (ValueError, FormatError) as error:
        yield Difference(f"{path.name} cannot be read: {error}", False)
        return
    if path.name in CONFIGURATIONS:
        if not told:
            yield Difference(f"{path.name} says the same in other bytes", False)
        return
    decisive = path.name == "tokenizer_config.json"
    differences = [
        _named(path.name, item, decisive) for item in key_differences(_flat(expected), _flat(found), AGAINST)
    ]
    yield from differences or [Difference(f"{path.name} says the same in other bytes", False)]


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    return {f" {key}": value for key, value in record.items()}  # the blank keeps them from rules for configurations


def _named(name: str, difference: Difference, decisive: bool) -> Difference:
    words = difference.words.removeprefix("header: ").strip()
    counts = decisive and words.split(" ")[0] in DECISIVE
    return replace(difference, words=f"{name}: {words}", changes_results=counts)
