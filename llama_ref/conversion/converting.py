"""From a checkpoint to one file that llama.cpp reads: which converter makes it.

======================================  ==============================================================================
from                                    what is written, and by whose rules
======================================  ==============================================================================
Hugging Face's layout, to GGUF          what convert_hf_to_gguf.py of today's llama.cpp writes
                                        (:mod:`llama_ref.conversion.huggingface_to_gguf`)
Meta's layout of LLaMA 3, to GGUF       the same, of what ``to-hf`` makes of it (:mod:`.through_huggingface`)
Meta's layout, or to GGML, ggmf, ggjt   what the converters of 2023 wrote, and in GGUF the same
                                        (:mod:`llama_ref.conversion.ggml`)
======================================  ==============================================================================
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.containers import container_named, container_of_name
from ggmlpy.formats.eras import DEFAULT_ERA, Era
from llama_ref.checkpoint.folder import Folder, directory_of

from .exported_tokenizer import ranks_beside
from .ggml import plan_ggml, plan_ggml_vocabulary
from .huggingface_to_gguf.plan import plan_gguf
from .huggingface_to_gguf.shards import Splitting
from .plan import Plan, Progress
from .through_huggingface import plan_from_meta

__all__ = ["convert", "plan_conversion", "plan_vocabulary"]

WHOLE = Splitting()


def plan_conversion(
    source: str | os.PathLike[str],
    outfile: str | os.PathLike[str] | None = None,
    *,
    outtype: str = "f16",
    era: str | Era = DEFAULT_ERA,
    container: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    pad_vocab: bool = False,
    guess_params: bool = False,
    pre_tokenizer: str | None = None,
    splitting: Splitting = WHOLE,
) -> Plan:
    """Check a conversion completely, without writing anything.

    Arguments:
        source: directory of the model, Meta's layout or Hugging Face's.
        outfile: the file (or directory) to write; by default ``ggml-model-f16.bin`` in ``source``.
        outtype: "f16" or "f32", the type of two-dimensional tensors; from Hugging Face's layout to GGUF also "bf16",
            "q8_0" and "auto", the type that the checkpoint has.
        era: whose order of tensors and container to take; GGUF from Hugging Face's layout is always today's.
        container: another container than the era's: "ggml", "ggmf1", "ggjt1", "ggjt2", "ggjt3", "gguf".
        tokenizer: the tokenizer.model, if it is neither in the directory nor in its parent.
        pad_vocab, guess_params: as for :func:`.ggml.plan_ggml`; GGUF from Hugging Face's layout needs neither.
        pre_tokenizer: of a byte-level BPE, the name of the rules that split a text into words, if it is unknown here.
        splitting: of GGUF from Hugging Face's layout, when a new file begins.

    Raises:
        MissingFileError: no model, no tokenizer, a shard missing.
        VocabularyError: tokenizer, embedding and output differ; names the file to fix.
        FormatError: anything else that is wrong with the source.
        UsageError: an unknown outtype, era or container.

    >>> with plan_conversion("models/7B") as plan:                       # doctest: +SKIP
    ...     plan.write()
    [PosixPath('models/7B/ggml-model-f16.bin')]
    """
    common: dict[str, Any] = {"outtype": outtype, "tokenizer": tokenizer}
    if _is_gguf(container, outfile):
        folder = Folder.of(directory_of(source))
        of_today: dict[str, Any] = {"pre_tokenizer": pre_tokenizer, "splitting": splitting}
        if folder.layout == "huggingface":
            _refuse_options_of_2023(guess_params)
            return plan_gguf(folder, outfile, **of_today, **common)
        if folder.layout == "meta" and ranks_beside(folder.path, tokenizer):
            _refuse_options_of_2023(guess_params)
            return plan_from_meta(folder.path, outfile, **of_today, **common)
    _refuse_options_of_today(pre_tokenizer, splitting)
    common |= {"era": era, "container": container}
    return plan_ggml(source, outfile, pad_vocab=pad_vocab, guess_params=guess_params, **common)


def plan_vocabulary(
    source: str | os.PathLike[str],
    outfile: str | os.PathLike[str] | None = None,
    *,
    outtype: str = "f16",
    era: str | Era = DEFAULT_ERA,
    container: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    model: str | None = None,
    pre_tokenizer: str | None = None,
) -> Plan:
    """A file with the header and the vocabulary only; the weights need not be there.

    Arguments:
        source: directory with params.json or config.json and the tokenizer.
        model: "7B" … "65B", in place of params.json; not for GGUF from Hugging Face's layout.
        outfile, outtype, era, container, tokenizer, pre_tokenizer: as for :func:`plan_conversion`.

    Raises:
        MissingFileError: no tokenizer, or no parameters.
    """
    common: dict[str, Any] = {"outtype": outtype, "tokenizer": tokenizer}
    if _is_gguf(container, outfile) and model is None:
        folder = Folder.of(directory_of(source))
        if "config.json" in folder.files and "params.json" not in folder.files:
            return plan_gguf(folder, outfile, pre_tokenizer=pre_tokenizer, vocab_only=True, **common)
    _refuse_options_of_today(pre_tokenizer, WHOLE)
    return plan_ggml_vocabulary(source, outfile, era=era, container=container, model=model, **common)


def convert(
    source: str | os.PathLike[str],
    outfile: str | os.PathLike[str] | None = None,
    *,
    outtype: str = "f16",
    container: str | None = None,
    era: str | Era = DEFAULT_ERA,
    progress: Progress | None = None,
) -> list[Path]:
    """Convert the checkpoint in ``source`` into a GGML or GGUF file and return the paths of what was written.

    Everything is checked before the first byte is written; :func:`plan_conversion` takes the same arguments and more,
    raises the same errors, and leaves the writing to you.

    >>> convert("models/7B")                                             # doctest: +SKIP
    [PosixPath('models/7B/ggml-model-f16.bin')]
    >>> convert("models/7B", "7b.gguf", container="gguf")                # doctest: +SKIP
    [PosixPath('7b.gguf')]
    """
    with plan_conversion(source, outfile, outtype=outtype, container=container, era=era) as plan:
        return plan.write(progress)


def _is_gguf(container: str | None, outfile: str | os.PathLike[str] | None) -> bool:
    return container_named(container or container_of_name(outfile or "", "ggjt1"))[0].name == "gguf"


def _refuse_options_of_2023(guess_params: bool) -> None:
    if guess_params:
        raise UsageError("--guess-params is for GGML files: GGUF states the numbers of the model itself")


def _refuse_options_of_today(pre_tokenizer: str | None, splitting: Splitting) -> None:
    if pre_tokenizer or splitting.is_asked_for:
        raise UsageError(
            "--pre-tokenizer and --split-max-tensors, --split-max-size are for GGUF files made from a Hugging Face "
            "directory: name one, and --container gguf"
        )
