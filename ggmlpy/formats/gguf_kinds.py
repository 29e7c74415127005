"""What a GGUF file holds that holds no model: an adapter, an importance matrix, the eyes of a model that sees.

``general.type`` says it; a type that is not known here counts as a model, as in llama.cpp, which does not look at it.
Files of llama-imatrix say it by their architecture.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from .gguf_values import Value

__all__ = ["other_kind", "text_of_key"]

# fmt: off
_KINDS = {  # general.type -> what it is, and what to do with it; {} is the architecture, {path} the file
    "adapter": ("LoRA adapter for {}",            "`generate -m MODEL --lora {path}`"),
    "imatrix": ("importance matrix",              "`quantize F16.gguf OUT.gguf Q4_K_M --imatrix {path}`"),
    "mmproj":  ("projector of images or sounds",  "name the language model that it belongs to"),
}
# fmt: on


def text_of_key(metadata: Mapping[str, Value], key: str, missing: str = "none") -> str:
    """The text of a key; ``missing`` where there is none."""
    value = metadata.get(key)
    return value.text() if value is not None and value.type == "string" else missing


def other_kind(metadata: Mapping[str, Value], path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """What a file is, and the next step, where it is not a model; None where it is.

    >>> other_kind({"general.type": Value("string", b"adapter")}, "a.gguf")
    ('LoRA adapter for none', '`generate -m MODEL --lora a.gguf`')
    """
    architecture = text_of_key(metadata, "general.architecture")
    kind = "imatrix" if architecture == "imatrix" else text_of_key(metadata, "general.type", "model")
    if kind not in _KINDS:
        return None
    what, step = _KINDS[kind]
    return what.format(architecture), step.format(path=os.fspath(path))
