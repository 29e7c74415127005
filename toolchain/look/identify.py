"""What any file is: a GGML model, or what comes before it: a checkpoint, an adapter, a tokenizer, an archive.

Opening is lazy and without trust; a bad file raises what its reader raises.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ggmlpy.files.errors import BadMagicError, FormatError
from ggmlpy.formats.importance import open_importance
from ggmlpy.formats.model_sizes import describe_shape
from ggmlpy.formats.opening import is_gguf, open_model
from ggmlpy.formats.tensor_names import is_derived, is_known, plain_name, rename, spelling_of
from ggmlpy.formats.vocabulary_names import vocabulary_name
from ggmlpy.look.finite import not_finite_problem
from ggmlpy.look.identify import Identification, identify, without_a_circle
from llama_ref.arithmetic.choosing import arithmetics_of
from llama_ref.checkpoint import LazyTensor, open_pth
from llama_ref.checkpoint.layout import origin_of
from llama_ref.checkpoint.params import read_config_json, read_params_json
from llama_ref.checkpoint.safetensors_file import SafetensorsFile
from llama_ref.vocabulary.tokenizer_file import load_vocabulary
from lora.exchange.reading import open_lora_file

from .foreign import foreign, foreign_gguf, identification
from .kinds import names_in_zip, other_kind
from .training_data import prepared_rows, training_data
from .values import not_finite_weights

__all__ = ["identify_any", "identify_other"]

WRITERS = {
    "torch-1.13": "torch 1.6 to 2.0",
    "torch-2.1": "torch 2.1 to 2.6",
    "torch-2.7+": "torch 2.7 or later (here --torch-format 2.6 to 2.13)",
    "legacy": "torch before 1.6, or its old format",
}
Progress = Callable[[int], object]
LAYOUTS = {"meta": "Meta's layout", "huggingface": "Hugging Face's layout", "gguf": "names of GGUF"}


def identify_any(path: str | os.PathLike[str], progress: Progress | None = None) -> Identification:
    """Look at a file of any kind that this toolchain knows.

    Args:
        progress: called with the number of bytes of values after each piece.

    Raises:
        FormatError: it is of one of these kinds, and bad; BadMagicError if it is of none.
    """
    found = _of_others(Path(path), progress)
    if found is not None:
        return found
    try:
        return _of_a_reader(path, progress)
    except FormatError as error:
        raise without_a_circle(error) from error.__cause__


def _of_a_reader(path: str | os.PathLike[str], progress: Progress | None) -> Identification:
    """A model file, or else a file of another kind."""
    try:
        return _with_arithmetic(identify(path, progress=progress))
    except BadMagicError:
        other = identify_other(path, progress)
        if other is None:
            raise
        return other


def _with_arithmetic(found: Identification) -> Identification:
    """What evaluates a whole model, and the next step that this leaves."""
    if found.problems:
        return found
    with open_model(found.path, any_architecture=True) as model:
        if model.as_stored:
            return found
        reasons = arithmetics_of(model)
    able, step = [name for name, reason in reasons.items() if not reason], found.next_step
    if not able:
        step = f"`inspect {found.path} --tensors --metadata`"
    elif "fast" not in able and step.startswith("`generate "):
        step = f"{step[:-1]} --numerics {able[0]}`"
    return replace(found, arithmetic=reasons, next_step=step)


def _of_others(path: Path, progress: Progress | None) -> Identification | None:
    try:
        return foreign(path) or (foreign_gguf(path, progress) if is_gguf(path) else None)
    except (OSError, FormatError):
        return None  # its reader says what is wrong


def identify_other(path: str | os.PathLike[str], progress: Progress | None = None) -> Identification | None:
    """Look at a checkpoint, an adapter, an archive, a tokenizer, training data or JSON; None if it is none of these.

    Args:
        progress: called with the number of bytes of values after each piece.

    Raises:
        FormatError: it is of one of these kinds, and bad.
    """
    path = Path(path)
    match other_kind(path):
        case "torch" | "pickle":
            return _pth(path, progress)
        case "zip":
            return _zip(path)
        case "safetensors":
            with SafetensorsFile(path) as file:
                writer = "any version of safetensors"
                return prepared_rows(path, file) or _tensors(path, file, "safetensors", writer, progress)
        case "tokenizer":
            return _tokenizer(path)
        case "ggla":
            return _ggla(path)
        case "imatrix":
            return _importance(path)
        case "json":
            from .json_files import json_file  # its readers of tokenizers and adapters take time to import

            return training_data(path) or json_file(path)
    return training_data(path)


def _ggla(path: Path) -> Identification:
    adapter = open_lora_file(path)
    rank = next(iter(adapter.pairs.values())).a.shape[0]
    return identification(
        path,
        "LoRA adapter of llama.cpp (ggla, version 1)",
        era="llama.cpp of 2023-04-17 to 2023-08-21, made by convert-lora-to-ggml.py",
        types={"f32 or f16": 2 * len(adapter.pairs)},
        model=f"{len(adapter.pairs)} matrices, rank {rank}, alpha {adapter.alpha:g}",
        readers="llama.cpp's main of that time, and here --lora",
        next_step=f"`generate -m MODEL --lora {path}`; or `merge --base BASE_DIR --lora {path} --output OUT_DIR`",
    )


def _importance(path: Path) -> Identification:
    matrix = open_importance(path)
    return identification(
        path,
        "importance matrix of llama-imatrix, the older format (.dat)",
        era="llama-imatrix of 2024-01 to mid-2025, or later with --output-format dat",
        types={"f32": len(matrix.entries)},
        model=f"{len(matrix.entries)} matrices, measured on {', '.join(matrix.datasets) or 'an unnamed text'}",
        readers="llama-quantize and `quantize`, as --imatrix",
        next_step=f"`quantize F16.gguf OUT.gguf Q4_K_M --imatrix {path}`",
    )


def _zip(path: Path) -> Identification:
    names = names_in_zip(path)
    adapter = "adapter_config.json" in names
    what = "zip archive of a LoRA adapter" if adapter else f"zip archive of {len(names)} files, no adapter among them"
    step = f"`merge --base BASE_DIR --lora {path} --output OUT_DIR`" if adapter else f"unzip {path}"
    return identification(path, what, next_step=f"`verify {path}`, then {step}")


def _pth(path: Path, progress: Progress | None) -> Identification:
    with open_pth(path) as file:
        writer = WRITERS.get(file.format, file.format)
        return _tensors(path, file.state_dict, f"{file.format} checkpoint", writer, progress)


def _tensors(
    path: Path, tensors: Mapping[str, LazyTensor], container: str, writer: str, progress: Progress | None
) -> Identification:
    ours = [tensor for name, tensor in tensors.items() if is_known(plain_name(name)) or "lora_" in name]
    unsound = list(not_finite_weights(ours, progress))
    bad = not_finite_problem(unsound, path) if unsound else None
    tensors = {plain_name(name): tensor for name, tensor in tensors.items()}
    known = {rename(name, "meta"): tensor for name, tensor in tensors.items() if is_known(name)}
    readers = "PyTorch, transformers, `convert` and merge"
    cause = origin_of(name for name in tensors if not is_known(name) and not is_derived(name))
    if any("lora_" in name for name in tensors):
        kind = "LoRA adapter"
        step = f"`merge --base BASE_DIR --lora {path.parent} --output OUT_DIR`"
    elif known and "quantized" in cause:
        kind, readers, step = "a quantized checkpoint", "the library that quantized it", cause
    elif known:
        spelling = spelling_of(next(name for name in tensors if is_known(name)))
        kind = f"LLaMA weights in {LAYOUTS[spelling]}"
        step = f"`doctor {path.parent}`"
    else:
        kind = "tensors of another kind of model" if tensors else "no tensors: the file was saved empty"
        step, readers = "start from the model's own files", "PyTorch"
    return identification(
        path,
        f"{container}, {kind}",
        era=writer,
        types=dict(Counter(tensor.dtype for tensor in tensors.values())),
        model=_model(path, known, tensors),
        vocabulary=_vocabulary(tensors),
        readers=readers,
        next_step=bad.next_step if bad else step,
        problems=[str(bad)] if bad else [],
    )


def _model(path: Path, known: Mapping[str, LazyTensor], tensors: Mapping[str, LazyTensor]) -> str:
    """The size, as far as one file tells: a part of a model has only some layers."""
    norm = next((tensor for name, tensor in known.items() if name.endswith("norm.weight")), None)
    layers = len({name.split(".")[1] for name in known if name.startswith("layers.")})
    if norm is None or not norm.shape:
        return "unknown"
    return describe_shape(norm.shape[0], layers, _n_head(path, norm.shape[0], layers, tensors))


def _n_head(path: Path, n_embd: int, n_layer: int, tensors: Mapping[str, LazyTensor]) -> int | None:
    """The number of heads, which no matrix tells: from the configuration beside, else from the rotary frequencies."""
    for name, read in (("params.json", read_params_json), ("config.json", read_config_json)):
        with contextlib.suppress(FormatError):
            params = read(path.parent / name)
            if (params.n_embd, params.n_layer) == (n_embd, n_layer):
                return params.n_head
    for name, tensor in tensors.items():
        if is_derived(name) and len(tensor.shape) == 1 and tensor.shape[0] and n_embd % (2 * tensor.shape[0]) == 0:
            return n_embd // (2 * tensor.shape[0])
    return None


def _vocabulary(tensors: Mapping[str, LazyTensor]) -> str:
    ends = ("tok_embeddings.weight", "embed_tokens.weight", "embed_tokens.modules_to_save.default.weight")
    rows = next((t.shape[0] for name, t in tensors.items() if name.endswith(ends) and t.shape), None)
    return vocabulary_name(rows) if rows else "no embedding in this file"


def _tokenizer(path: Path) -> Identification:
    vocabulary = load_vocabulary(path)
    added = f", and {len(vocabulary.added)} added tokens beside it" if vocabulary.added else ""
    return identification(
        path,
        "SentencePiece tokenizer",
        vocabulary=vocabulary_name(len(vocabulary.base)) + added,
        readers="sentencepiece, transformers, `tokenize` and convert",
        next_step=f'`tokenize -m {path} "text"`',
    )
