"""What a merge is made from: its options, and the inputs that were opened and checked.

:mod:`lora.merging.targets` writes a :class:`CheckedMerge`; :class:`lora.merging.merge.MergePlan` is one that can be
described and run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.eras import TODAY
from ggmlpy.formats.file_types import file_type_of
from llama_ref.checkpoint import pth_size
from llama_ref.checkpoint.layout import Checkpoint
from llama_ref.conversion.huggingface_to_gguf.tensors import FILE_TYPES

from .adapter import Adapter
from .checks import Chain
from .resize import INITIALIZATIONS
from .stream import MergedModel

__all__ = ["DTYPES", "OUTPUT_TYPES", "CheckedMerge", "MergeOptions", "check_options"]

# and ggml- or gguf- with any type that the era can quantize to
OUTPUT_TYPES = ("pth", "huggingface", "ggml-f16", "ggml-q4_0", "gguf-f16", "gguf-q4_0")


# --dtype -> type of the merged tensors; None: each tensor's own in the base
DTYPES = {"auto": None, "f16": "float16", "bf16": "bfloat16", "f32": "float32"}


@dataclass(frozen=True)
class MergeOptions:
    """How to merge; :func:`lora.merging.merge.merge` explains each and has the defaults."""

    output_type: str
    torch_format: str
    n_shards: int | None
    init: str | None
    seed: int
    tokenizer: Path | None
    era: str
    weights: str | None
    shard_size: str | int | None
    check_base: bool
    n_threads: int | None
    dtype: str
    fan_in_fan_out: str
    pre_tokenizer: str | None = None

    @property
    def merged_dtype(self) -> str | None:
        """The type of the merged tensors; None: each has the base's."""
        return DTYPES[self.dtype]


def check_options(options: MergeOptions) -> None:
    """Check the values of the options that need no file to be opened.

    Raises:
        UsageError: an unknown output type, era, initialization or torch format, or a number out of range.
    """
    kind = options.output_type
    family, _, type_name = kind.partition("-")
    if family == "gguf" and type_name in FILE_TYPES:
        pass  # what the converter writes
    elif family in ("ggml", "gguf") and type_name not in ("", "f16"):
        file_type_of(type_name, TODAY if family == "gguf" else options.era)
    elif kind not in OUTPUT_TYPES:
        raise UsageError(f"unknown output type {options.output_type!r}; choose one of {', '.join(OUTPUT_TYPES)}")
    if options.dtype not in DTYPES:
        raise UsageError(f"unknown type {options.dtype!r}; choose one of {', '.join(DTYPES)}")
    if options.dtype != "f16" and family in ("ggml", "gguf"):
        raise UsageError(f"--dtype {options.dtype} is for pth and huggingface; {kind} says the type itself")
    if options.init not in (None, *INITIALIZATIONS):
        raise UsageError(f"unknown initialization {options.init!r}; choose one of {', '.join(INITIALIZATIONS)}")
    if options.n_shards is not None and not 1 <= options.n_shards <= 64:
        raise UsageError(f"{options.n_shards} shards: choose 1 to 64")
    if options.n_threads is not None and not 1 <= options.n_threads <= 1024:
        raise UsageError(f"{options.n_threads} threads: choose 1 to 1024")
    if options.seed < 0:
        raise UsageError(f"the seed must not be negative: {options.seed}")
    pth_size("consolidated.00.pth", [], options.torch_format)  # refuses an unknown format


@dataclass
class CheckedMerge:
    """The open inputs of a merge that fit together.

    Attributes:
        base: the open base.
        adapters: the open adapters, in the order of application.
        output: a directory; for GGML types a file.
        options: see :class:`MergeOptions`.
        chain: the vocabulary, step by step, and the tokenizer of the result.
        model: the merged tensors, computed as they are read.
    """

    base: Checkpoint
    adapters: list[Adapter]
    output: Path
    options: MergeOptions
    chain: Chain
    model: MergedModel

    @property
    def n_shards(self) -> int:
        """Number of .pth files."""
        if self.options.n_shards is not None:
            return self.options.n_shards
        return len(self.base.files) if self.base.layout == "meta" else self.base.params.n_shards
