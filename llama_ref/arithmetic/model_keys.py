"""The keys and tensors of a model that the arithmetic does not read: harmless by name, or refused.

A key of the model's own namespace says how to compute, so one that nobody here knows may not be passed over. This is
the table of those that are known to change nothing, with the reason; what is not in it (and is not read into
:class:`~ggmlpy.formats.model_params.ModelParams`) is refused by name before anything is computed. So is a tensor that
no LLaMA has. Keys of other namespaces (``general.*``, a converter's own) say nothing about the arithmetic.

Sources: docs/gguf.md of ggml, load_hparams in llama-model.cpp of llama.cpp c392e5094.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from ggmlpy.files.errors import FormatError, ShapeError, UnsupportedError
from ggmlpy.formats.tensor_names import expected_shapes, is_derived, optional_shapes

from .rotation import ROPE_FREQS

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile

__all__ = ["HARMLESS", "check_keys", "passed_over"]

ANY = None  # whatever the value
OFF = (0, False)

# fmt: off
HARMLESS: dict[str, tuple[Collection[Any] | None, str]] = {
    #                                         values        why they change no result
    "llama.vocab_size":                      (ANY,          "the list of tokens counts, and the tensors must fit it"),
    "llama.rope.scaling.finetuned":          (ANY,          "says how the model was trained, not how it computes"),
    "llama.rope.scaling.yarn_log_multiplier": (ANY,         "llama.cpp reads it for other families only"),
    "llama.rope.scale":                      ((0, 1),       "of GGUF's first draft; 1 does not scale"),
    "llama.rope.dimension_sections":         ((),           "sections of a multimodal model; none"),
    "llama.tensor_data_layout":              (("Meta AI original pth",), "the rows of wq and wk as GGUF has them"),
    "llama.use_parallel_residual":           (OFF,          "one after the other, as in every LLaMA"),
    "llama.expert_count":                    (OFF,          "no experts"),
    "llama.expert_used_count":               (OFF,          "no experts"),
    "llama.attention.max_alibi_bias":        (OFF,          "no ALiBi"),
    "llama.attention.clamp_kqv":             (OFF,          "nothing is clamped"),
    "llama.attention.scale":                 (OFF,          "1 / sqrt(head_dim), as it is computed here"),
    "llama.attention.causal":                ((1, True),    "causal, as every LLaMA"),
    "llama.logit_scale":                     ((0, 1),       "logits as they are"),
    "llama.residual_scale":                  ((0, 1),       "the residual as it is"),
    "llama.embedding_scale":                 ((0, 1),       "embeddings as they are"),
    "llama.pooling_type":                    (OFF,          "no pooling"),
}
NAMESPACES = ("llama.", "rope.", "attention.")  # as keys are spelt here: of whatever architecture
QUANTIZATION_VERSION, VALUE_LENGTH = "general.quantization_version", "llama.attention.value_length"
# fmt: on


def check_keys(file: ModelFile) -> None:
    """Refuse a model that says something of its arithmetic that nothing here does.

    Raises:
        UnsupportedError: a key that is not known, or a value that is not.
        ShapeError: a tensor that no LLaMA has.
    """
    if file.container == "gguf":
        for key, value in file.hparams.other.items():
            spelt = _as_of_llama(file, key)
            if spelt.startswith(NAMESPACES) and spelt != VALUE_LENGTH:
                _check_key(file, key, HARMLESS.get(spelt, ((), ""))[0], getattr(value, "value", value))
        _check_values(file)
    _check_tensors(file)


def passed_over(file: ModelFile, n_ctx: int) -> Iterator[str]:
    """What a file says that llama.cpp does not look at in files of its family, nor is it looked at here; in words."""
    window, family = file.hparams.sliding_window, file.hparams.architecture
    if file.container == "gguf" and window and window < n_ctx:
        yield (
            f"the file says sliding_window {window}; llama.cpp does not look at it in {family} files, and neither does "
            f"this program. The model that it was made from computes otherwise from token {window} on"
        )


def _as_of_llama(file: ModelFile, key: str) -> str:
    """A key of the model's own architecture as LLaMA's are spelt: they have the same meanings."""
    own = f"{file.hparams.architecture}."
    return f"llama.{key.removeprefix(own)}" if key.startswith(own) else key


def _check_key(file: ModelFile, key: str, allowed: Collection[Any] | None, value: Any) -> None:
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if allowed is ANY:
        return
    plain = isinstance(value, str | int | float)
    if plain and value in allowed:
        return
    raise UnsupportedError(
        f"the key {key!r} says how the model computes, and this program does not do that",
        path=file.path,
        field=key,
        expected=f"a model without it, or {' or '.join(map(str, allowed))}" if allowed else "a model without it",
        found=value if plain else "an array",
        cause="a model of a later family, or a key of a converter's own",
        next_step=f"`inspect {file.path} --metadata`",
    )


def _number(file: ModelFile, key: str) -> Any:
    """The value of a key that no description of a model has a field for; None where it is missing."""
    found = next((value for other, value in file.hparams.other.items() if _as_of_llama(file, other) == key), None)
    if found is None or isinstance(found.value, int | float):
        return None if found is None else found.value
    raise FormatError(
        f"the key {key!r} is not a number",
        path=file.path,
        field=key,
        expected="a number",
        found=f"{found.type} {found.item}".strip(),
        cause="a faulty converter",
        next_step=f"`inspect {file.path} --metadata`",
    )


def _check_values(file: ModelFile) -> None:
    """Numbers that are read, and of which only some values can be computed with."""
    h = file.hparams
    value_dim = _number(file, VALUE_LENGTH)
    if value_dim not in (None, h.head_dim):
        raise UnsupportedError(
            "values are not as wide as keys, which no LLaMA does",
            path=file.path,
            field=VALUE_LENGTH,
            expected=h.head_dim,
            found=value_dim,
        )
    version = _number(file, QUANTIZATION_VERSION)
    quantized = any(tensor.type.quantized for tensor in file.tensors.values())
    if quantized and version not in (None, 2):
        raise UnsupportedError(
            f"quantized blocks of version {version} are not known",
            path=file.path,
            field=QUANTIZATION_VERSION,
            expected=2,
            found=version,
        )


def _check_tensors(file: ModelFile) -> None:
    known = set()
    if 0 <= file.hparams.n_layer <= len(file.tensors):
        known = {*expected_shapes(file.hparams), *optional_shapes(file.hparams), ROPE_FREQS}
    for name, tensor in file.tensors.items():
        if known and name not in known and not is_derived(name):
            raise ShapeError(
                f"unknown tensor {name!r}, which no LLaMA has",
                path=file.path,
                offset=tensor.offset,
                field="name",
                expected=f"the names of a {file.hparams.n_layer}-layer LLaMA model",
                found=name,
                cause="a model of another architecture, or n_layer too small in the header",
                next_step=f"`inspect {file.path} --tensors`",
            )
