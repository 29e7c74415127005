"""Which era of llama.cpp a file was written for."""

from __future__ import annotations

from .model_file import ModelFile


def natural_era(file: ModelFile) -> str:
    """The date of the llama.cpp that a file was made for: its container, and in ggjt v1 its tensor types, tell.

    GGUF has its own history; the last era before it is the nearest. A ggjt v1 file of f32, f16, q4_0 or q4_1 can be
    read at 2023-03-31 and at 2023-04-30; the earlier wins.
    """
    if file.container == "gguf":
        return "2023-08-21"
    if file.container != "ggjt":
        return "2023-03-19" if file.container == "ggml" else "2023-03-30"
    if file.version == 1:
        early = {"f32", "f16", "q4_0", "q4_1"}
        return "2023-03-31" if all(t.type.name in early for t in file.tensors.values()) else "2023-04-30"
    return "2023-05-19" if file.version == 2 else "2023-08-21"
