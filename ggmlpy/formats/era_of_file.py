"""Which era of llama.cpp a file was written for."""

from __future__ import annotations

from .eras import AUGUST_21, ERAS, MARCH_31, Era
from .model_file import ModelFile

__all__ = ["era_of_file"]


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
