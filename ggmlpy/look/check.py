"""Whether a file holds a whole LLaMA model: what llama.cpp's loader checks, and what it lets pass.

:func:`ggmlpy.open_model` has proven by then that the bytes are a container; this compares the tensors with what the
header implies. llama.cpp at 352589927 does not notice a last tensor that is cut off, a tensor whose type is not the
header's, or bytes after the end, and it crashes on a file without tensors; each has a message here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ggmlpy.files.errors import FormatError, ShapeError, UnsupportedError, VocabularyError
from ggmlpy.formats.era_of_file import era_of_file
from ggmlpy.formats.file_types import FTYPES
from ggmlpy.formats.model_file import ModelFile, Tensor
from ggmlpy.formats.tensor_names import expected_shapes, is_derived, optional_shapes
from ggmlpy.formats.vocabulary_names import known_vocabulary

__all__ = ["check_model", "problems_of"]

CUT = "the conversion was interrupted, or the file is cut off exactly between two tensors"
AGAIN = "convert the checkpoint again, or fetch the file again"


def check_model(model: ModelFile) -> None:
    """Raise the first thing that is wrong with ``model``.

    Raises:
        FormatError: it is no complete LLaMA model.
    """
    for problem in problems_of(model):
        raise problem


def problems_of(model: ModelFile) -> Iterator[FormatError]:
    """Everything that is wrong with ``model``, worst first."""
    yield from model.problems
    yield from _header(model)
    if not model.tensors:
        yield ShapeError(
            "no tensors: this file holds a vocabulary only",
            path=model.path,
            offset=model.size,
            field="tensors",
            expected=f"{len(_expected(model)):,} tensors",
            found=0,
            cause="it was made with --vocab-only (llama.cpp ships one to test tokenizers), or the conversion stopped",
            next_step="`convert MODEL_DIR`",
        )
        return
    yield from _tensors(model)
    yield from _types(model)


def _expected(model: ModelFile) -> dict[str, tuple[int, ...]]:
    if not 0 < model.hparams.n_layer <= 10_000:
        return {}
    return expected_shapes(model.hparams)


def _header(model: ModelFile) -> Iterator[FormatError]:
    hparams = model.hparams
    offsets: dict[str, int | None] = dict.fromkeys(hparams.header())  # GGUF keeps them as metadata
    offsets |= {field.name: 4 * index for index, field in enumerate(model.declared.header)}
    for name, value in hparams.header().items():
        if name != "ftype" and value <= 0:
            yield ShapeError(
                f"{name} must be positive",
                path=model.path,
                offset=offsets[name],
                field=name,
                found=value,
                cause="a corrupt header",
            )
            return
    width = hparams.n_embd // hparams.n_head
    head_dim = hparams.head_dim if model.container == "gguf" else width  # which alone can state another
    if (head_dim == width and hparams.n_embd % hparams.n_head) or hparams.n_rot != head_dim:
        yield ShapeError(
            "width and heads do not fit together",
            path=model.path,
            offset=offsets["n_rot"],
            field="n_rot",
            expected=f"n_embd / n_head = {hparams.n_embd} / {hparams.n_head}" if head_dim == width else head_dim,
            found=hparams.n_rot,
            cause="a corrupt header, or the params.json of another model at conversion",
        )
    known = [ftype for ftype in FTYPES.values() if model.container == "gguf" or not ftype.only_in_gguf]
    if hparams.ftype not in {ftype.id for ftype in known}:
        yield UnsupportedError(
            f"bad ftype value {hparams.ftype} (llama.cpp says: bad f16 value {hparams.ftype})",
            path=model.path,
            offset=offsets["ftype"],
            field="ftype",
            expected=", ".join(f"{ftype.id} {ftype.title}" for ftype in known),
            found=hparams.ftype,
            cause="a corrupt header, or a file of a later version than its magic says",
        )


def _tensors(model: ModelFile) -> Iterator[FormatError]:
    expected = _expected(model)
    allowed = expected | (optional_shapes(model.hparams) if expected and model.container == "gguf" else {})
    for name, tensor in model.tensors.items():
        if name not in allowed and not is_derived(name):
            yield ShapeError(
                f"unknown tensor {name!r} in model file",
                path=model.path,
                offset=tensor.pieces[0].header,
                field="name",
                expected=f"the names of a {model.hparams.n_layer}-layer LLaMA model",
                found=repr(name),
                cause="a corrupt name, n_layer too small in the header, or a model of another architecture",
            )
        elif tensor.shape != allowed.get(name, tensor.shape):
            yield _wrong_shape(model, tensor, allowed[name])
    missing = [name for name in expected if name not in model.tensors]
    if missing:
        yield ShapeError(
            f"not all tensors are in the model file: {', '.join(missing[:3])}{' …' * (len(missing) > 3)} missing",
            path=model.path,
            offset=model.size,
            field="tensors",
            expected=f"{len(expected):,}",
            found=f"{len(expected) - len(missing):,}",
            cause=CUT,
            next_step=AGAIN,
        )


def _wrong_shape(model: ModelFile, tensor: Tensor, expected: tuple[int, ...]) -> FormatError:
    details: dict[str, Any] = {
        "path": model.path,
        "offset": tensor.pieces[0].header,
        "field": "dims",
        "expected": f"{list(expected)} ([rows, columns], from the header)",
        "found": list(tensor.shape),
    }
    if tensor.name in ("tok_embeddings.weight", "output.weight") and tensor.shape[1:] == expected[1:]:
        rows, n_vocab = tensor.shape[0], model.hparams.n_vocab
        return VocabularyError(
            f"tensor {tensor.name!r} has {_named(rows)} rows, but the vocabulary has {_named(n_vocab)} entries",
            **details,
            cause="it was converted with the tokenizer.model of another model (base and merged mixed up)",
            next_step=f"convert again with the tokenizer.model that has {rows} pieces",
        )
    return ShapeError(
        f"tensor {tensor.name!r} has a wrong shape in the model file",
        **details,
        cause="the params.json of another model at conversion, or one part of a multi-part model opened alone",
        next_step=AGAIN,
    )


def _named(count: int) -> str:
    known = known_vocabulary(count)
    return f"{count} ({known.name})" if known else str(count)


def _types(model: ModelFile) -> Iterator[FormatError]:
    """The header's ftype against the types that the 2-D tensors really have."""
    ftype = FTYPES.get(model.hparams.ftype)
    matrices = [tensor for tensor in model.tensors.values() if len(tensor.shape) == 2]
    mixed = ftype is not None and (ftype.words is not None or era_of_file(model).has_k_quants)
    if ftype is None or (mixed and any(tensor.type.name == ftype.type for tensor in matrices)):
        return
    strangers = [tensor for tensor in matrices if tensor.type.name != ftype.type]
    if strangers:
        yield ShapeError(
            f"{len(strangers)} of {len(matrices)} matrices are not of the type the header names, "
            f"the first is {strangers[0].name!r}",
            path=model.path,
            offset=strangers[0].pieces[0].header + 8,
            field="type",
            expected=f"{ftype.type} (ftype {ftype.id})",
            found=strangers[0].type.name,
            cause="a header patched by hand, or a corrupt type id (llama.cpp does not notice and computes nonsense)",
            next_step=AGAIN,
        )
