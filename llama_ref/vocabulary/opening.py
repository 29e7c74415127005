"""Any tokenizer, by what its file is: SentencePiece's, Hugging Face's, or the vocabulary of a model file."""

from __future__ import annotations

import os
from pathlib import Path

from ggmlpy.files.errors import FormatError
from ggmlpy.files.kinds import begins_as_json, first_bytes, is_ggml_file, kind_of

from .tokenizer import PieceTokenizer, SentencePieceTokenizer

__all__ = ["is_tokenizer_json", "open_tokenizer"]

JSON = "tokenizer.json"


def open_tokenizer(path: str | os.PathLike[str]) -> PieceTokenizer:
    """The tokenizer in a file or a folder.

    Args:
        path: a ``tokenizer.model``, a ``tokenizer.json``, a GGML or GGUF file (a GGUF may be of any architecture, or
            hold a vocabulary alone), or a folder, whose ``tokenizer.model`` is taken before its ``tokenizer.json``.

    Raises:
        MissingFileError: there is no such file.
        VocabularyError: it is not a tokenizer, or a damaged one.
        UnsupportedError: a kind that is not known here.

    >>> open_tokenizer("tokenizer.model").encode("Hello", bos=True)  # doctest: +SKIP
    [1, 15043]
    """
    if is_tokenizer_json(path):
        from .json_tokenizer import JsonTokenizer

        return JsonTokenizer(path)
    if not is_ggml_file(path):
        return SentencePieceTokenizer(path)
    from .gguf_tokenizer import file_tokenizer, gguf_tokenizer

    kind = kind_of(first_bytes(path))
    if kind is not None and kind.name == "gguf":
        from ggmlpy.formats.gguf import open_gguf, split_paths

        try:
            gguf = open_gguf(path)
            if "tokenizer.ggml.tokens" not in gguf.metadata:  # of several files the first has the keys
                gguf = open_gguf(split_paths(gguf)[0])
            return gguf_tokenizer(gguf.metadata)
        except FormatError as error:
            error.name_file(path)
            raise
    from ggmlpy.formats.opening import open_model

    with open_model(path) as file:
        return file_tokenizer(file)


def is_tokenizer_json(path: str | os.PathLike[str]) -> bool:
    """Whether a tokenizer has to be read from Hugging Face's format: the file itself, or a folder with no other."""
    path = Path(path)
    if path.is_dir():
        return (path / JSON).is_file() and not (path / "tokenizer.model").is_file()
    return path.is_file() and begins_as_json(first_bytes(path))
