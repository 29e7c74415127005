"""Which era of llama.cpp a file was written for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .eras import APRIL_26_24, AUGUST_21, ERAS, GGUF_ERAS, JANUARY_7_25, MARCH_31, OCTOBER_31_24, Era
from .gguf_values import Value
from .model_file import ModelFile

__all__ = ["era_of_file", "file_order", "quantizing_eras"]


def era_of_file(file: ModelFile | None) -> Era:
    """The era whose tools write such a file: its container, and in ggjt v1 its tensor types, tell.

    A ggjt v1 file of f32, f16, q4_0 or q4_1 can be of 2023-03-31 or of 2023-04-30; the earlier wins. A type that no
    era's quantizer writes (q4_3 lived for eight days in April) belongs to the last era of its container. GGUF has its
    own history; the last era before it is the nearest. No file: the default.
    """
    if file is None:
        return MARCH_31
    if file.container == "gguf":
        return AUGUST_21
    eras = [era for era in ERAS.values() if (era.container, era.version) == (file.container, file.version)]
    names = {tensor.type.name for tensor in file.tensors.values()}
    return next((era for era in eras if names <= set(era.type_names)), eras[-1])


SET_KEYS = {"general.quantization_version", "general.file_type"}
IMATRIX_KEYS = "quantize.imatrix."


def file_order(name: str) -> tuple[int, bytes]:
    """What llama-quantize sorts tensors by since 2024-10-31: GGUF's name, those outside of layers first."""
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else -1, name.encode()


def quantizing_eras(
    version: int, metadata: Mapping[str, Value], names: Sequence[str], type_names: set[str]
) -> list[Era]:
    """The eras whose llama-quantize may have written a GGUF file, as far as all but its tensors' bytes tell.

    Args:
        names, type_names: of its tensors, in the order of the file.
    """
    keys = [key for key in metadata if not key.startswith(IMATRIX_KEYS)]
    set_last = set(keys[-2:]) >= SET_KEYS
    weighted, is_sorted = len(keys) < len(metadata), list(names) == sorted(names, key=file_order)
    return [
        era
        for era in GGUF_ERAS.values()
        if era.version == version
        and type_names <= set(era.types)
        and (era < OCTOBER_31_24 or is_sorted)
        and set_last == (era >= JANUARY_7_25)
        and not (weighted and era < APRIL_26_24)
    ]
