"""llama_ref: checkpoints, tokenizers, the transformer, sampling and conversations. Builds on :mod:`ggmlpy`.

===================================================  ==========================================================
:func:`open_checkpoint`                              a model as Meta or Hugging Face publish it
:func:`open_pth`, :func:`write_pth`                  one file of ``torch.save``
:func:`open_safetensors`, :func:`write_safetensors`  one safetensors file
:func:`open_tokenizer`                               a ``tokenizer.model``, a ``tokenizer.json``, or that of a GGUF
:func:`convert`                                      a checkpoint as a GGML or GGUF file
:func:`convert_to_huggingface`                       Meta's layout as Hugging Face's
:func:`convert_from_huggingface`                     Hugging Face's layout as Meta's
:class:`Model`                                       a GGML or GGUF file that evaluates and continues texts
:class:`SamplingOptions`, :class:`Conversation`      how tokens are chosen; a text that can be saved and resumed
===================================================  ==========================================================

    >>> from llama_ref import Model, SamplingOptions                                        # doctest: +SKIP
    >>> with Model.from_file("ggml-model-q4_0.bin") as model:                               # doctest: +SKIP
    ...     for token in model.generate("Once upon", sampling=SamplingOptions(seed=7)):
    ...         print(token.text, end="")

Importing the package is cheap: what a name stands for is imported when the name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoint.layout import Checkpoint
    from .checkpoint.opening import open_checkpoint
    from .checkpoint.pth import PthFile, open_pth
    from .checkpoint.pth_writer import write_pth
    from .checkpoint.safetensors_file import SafetensorsFile, open_safetensors, write_safetensors
    from .checkpoint.tensor import LazyTensor
    from .conversion.checkpoints import convert_from_huggingface, convert_to_huggingface
    from .conversion.converting import convert
    from .text.conversation import Conversation, Token
    from .text.model import Model
    from .text.sampling import SamplingOptions
    from .vocabulary.opening import open_tokenizer
    from .vocabulary.tokenizer import Tokenizer

__all__ = [
    "Checkpoint",
    "Conversation",
    "LazyTensor",
    "Model",
    "PthFile",
    "SafetensorsFile",
    "SamplingOptions",
    "Token",
    "Tokenizer",
    "convert",
    "convert_from_huggingface",
    "convert_to_huggingface",
    "open_checkpoint",
    "open_pth",
    "open_safetensors",
    "open_tokenizer",
    "write_pth",
    "write_safetensors",
]

# fmt: off
_HOMES = {
    "checkpoint.layout":           ("Checkpoint",),
    "checkpoint.opening":          ("open_checkpoint",),
    "checkpoint.pth":              ("PthFile", "open_pth"),
    "checkpoint.pth_writer":       ("write_pth",),
    "checkpoint.safetensors_file": ("SafetensorsFile", "open_safetensors", "write_safetensors"),
    "checkpoint.tensor":           ("LazyTensor",),
    "conversion.checkpoints":      ("convert_from_huggingface", "convert_to_huggingface"),
    "conversion.converting":       ("convert",),
    "text.conversation":           ("Conversation", "Token"),
    "text.model":                  ("Model",),
    "text.sampling":               ("SamplingOptions",),
    "vocabulary.opening":          ("open_tokenizer",),
    "vocabulary.tokenizer":        ("Tokenizer",),
}
# fmt: on
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what a name stands for when it is first used."""
    if name == "__version__":
        from ggmlpy import __version__

        return __version__
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
