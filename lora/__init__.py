"""lora: adapters, merging, vocabulary growth and training for LLaMA. Builds on :mod:`llama_ref`.

=========================================================  ====================================================
:func:`open_adapter`, :func:`write_adapter`                a PEFT LoRA adapter: a directory, or the ZIP of one
:func:`merge`                                              adapters into a base, written in any layout
:func:`plan_merge`                                         the same, checked and described before it is run
:func:`read_sentencepiece`, :func:`write_sentencepiece`    a ``tokenizer.model``, without losing a byte
:func:`merge_vocabularies`, :func:`train_vocabulary`       more pieces for a vocabulary; a new vocabulary
:func:`train`                                              one stage of training: a base, or an adapter
=========================================================  ====================================================

    >>> from lora import merge                                                              # doctest: +SKIP
    >>> report = merge("llama-7b", ["chinese-llama-lora", "chinese-alpaca-lora"], "out")    # doctest: +SKIP
    >>> print(report.n_pairs, report.n_vocab)                                               # doctest: +SKIP
    224 49954

Importing the package is cheap: what a name stands for is imported when the name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llama_ref.vocabulary.sentencepiece_model import SentencePieceModel, read_sentencepiece, write_sentencepiece

    from .merging.adapter import Adapter, LoraPair, open_adapter
    from .merging.adapter_config import AdapterConfig
    from .merging.adapter_writer import write_adapter
    from .merging.merge import MergePlan, MergeReport, merge, plan_merge
    from .training.loop import Run, Settings
    from .training.model import Lora
    from .training.run_stage import StageInput, train
    from .vocabulary import Growth, merge_vocabularies, train_vocabulary

__all__ = [
    "Adapter",
    "AdapterConfig",
    "Growth",
    "Lora",
    "LoraPair",
    "MergePlan",
    "MergeReport",
    "Run",
    "SentencePieceModel",
    "Settings",
    "StageInput",
    "merge",
    "merge_vocabularies",
    "open_adapter",
    "plan_merge",
    "read_sentencepiece",
    "train",
    "train_vocabulary",
    "write_adapter",
    "write_sentencepiece",
]

# fmt: off
_HOMES = {
    "llama_ref.vocabulary.sentencepiece_model": ("SentencePieceModel", "read_sentencepiece", "write_sentencepiece"),
    "lora.merging.adapter":                     ("Adapter", "LoraPair", "open_adapter"),
    "lora.merging.adapter_config":              ("AdapterConfig",),
    "lora.merging.adapter_writer":              ("write_adapter",),
    "lora.merging.merge":                       ("MergePlan", "MergeReport", "merge", "plan_merge"),
    "lora.training.loop":                       ("Run", "Settings"),
    "lora.training.model":                      ("Lora",),
    "lora.training.run_stage":                  ("StageInput", "train"),
    "lora.vocabulary":                          ("Growth", "merge_vocabularies", "train_vocabulary"),
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
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
