"""The tokenizer that goes with an exported model: the one beside it, the one that was named, or one that is made.

A checkpoint has its tokenizer.model beside it. A GGML or GGUF file has its vocabulary inside; a tokenizer.model with
the same pieces and scores is as good, and without one a tokenizer is made (:mod:`llama_ref.vocabulary.rebuilding`).
"""

from __future__ import annotations

import os

from ggmlpy.files.errors import MissingFileError, VocabularyError
from ggmlpy.formats.model_file import Vocabulary
from llama_ref.checkpoint import Checkpoint
from llama_ref.vocabulary.rebuilding import rebuilt_tokenizer, same_vocabulary
from llama_ref.vocabulary.tokenizer_file import GgmlVocabulary, find_tokenizer, load_vocabulary

from .ggml import check_vocabulary

__all__ = ["fitting_vocabulary", "made_tokenizer"]


def fitting_vocabulary(
    checkpoint: Checkpoint, tokenizer: str | os.PathLike[str] | None, notes: list[str]
) -> GgmlVocabulary | None:
    """The tokenizer to go with the model; None where one has to be made from the file's own vocabulary."""
    if checkpoint.vocabulary is not None:
        return _tokenizer_of_file(checkpoint, checkpoint.vocabulary, tokenizer, notes)
    try:
        path = find_tokenizer(checkpoint.path, tokenizer)
    except MissingFileError as error:
        error.next_step = f"{error.next_step}; or write the weights alone: --weights-only"
        raise
    return check_vocabulary(checkpoint, load_vocabulary(path), notes=notes)


def _tokenizer_of_file(
    checkpoint: Checkpoint, vocabulary: Vocabulary, tokenizer: str | os.PathLike[str] | None, notes: list[str]
) -> GgmlVocabulary | None:
    """A tokenizer.model, named or beside a GGML file, that has the file's pieces and scores."""
    try:
        path = find_tokenizer(checkpoint.path.parent, tokenizer)
    except MissingFileError:
        if tokenizer:
            raise
        return None
    found = load_vocabulary(path)
    if same_vocabulary(vocabulary, found):
        notes.append(f"{path} has the pieces and scores of the file, and was taken")
        return found
    if tokenizer:
        raise VocabularyError(
            "the tokenizer is not that of the file",
            path=path,
            expected=f"the {len(vocabulary)} pieces and scores of {checkpoint.path}",
            found=f"{len(found)} pieces",
            next_step="leave --tokenizer out: one is made from the file's own vocabulary",
        )
    return None


def made_tokenizer(checkpoint: Checkpoint, notes: list[str]) -> dict[str, bytes]:
    """A tokenizer.model from the vocabulary of a GGML file, by its name; ``notes`` gets what it lacks.

    Raises:
        VocabularyError: the file has other pieces than rows in its embedding.
    """
    vocabulary, rows = checkpoint.vocabulary or (), checkpoint.n_vocab
    if not isinstance(vocabulary, Vocabulary) or len(vocabulary) != rows:
        raise VocabularyError(
            "the file's vocabulary does not fit its embedding",
            path=checkpoint.path,
            expected=f"{rows} pieces",
            found=len(vocabulary),
            next_step="name the model's tokenizer.model with --tokenizer, or write the weights alone: --weights-only",
        )
    notes.append(
        "tokenizer.model was made from the file's vocabulary: the same pieces and scores, LLaMA's settings. What the "
        "file does not have (how it was trained, tokenizer.json) is missing, and its SHA256 is no published one; name "
        "the original with --tokenizer where you have it"
    )
    return {"tokenizer.model": rebuilt_tokenizer(vocabulary).to_bytes()}
