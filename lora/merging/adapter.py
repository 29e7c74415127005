"""Reading a PEFT LoRA adapter: a directory, or the ZIP as it was downloaded.

An adapter is ``adapter_config.json`` and ``adapter_model.bin`` (torch.save) or ``adapter_model.safetensors``, often
with the tokenizer that it needs. What its tensors are is decided by :mod:`lora.merging.adapter_tensors`, what the
configuration says by :mod:`lora.merging.adapter_config`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np

from ggmlpy.files.errors import UsageError
from ggmlpy.files.unpacked import shown
from ggmlpy.formats.tensor_names import rename
from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.weights import WeightFile, open_weights
from llama_ref.vocabulary.tokenizer_file import GgmlVocabulary, load_vocabulary

from .adapter_config import CONFIG, AdapterConfig, read_adapter_config
from .adapter_files import TOKENIZER_FILES, WEIGHTS, files_of_adapter, incomplete
from .adapter_tensors import LoraPair, sort_out

__all__ = ["FAN_IN_FAN_OUT", "Adapter", "LoraPair", "is_same_adapter", "open_adapter"]

FAN_IN_FAN_OUT = ("peft", "v1.1")  # what to do when adapter_config.json says true: ignore it, or transpose the change


@dataclass
class Adapter:
    """An open adapter; a context manager.

    Attributes:
        path: the directory or ZIP that was named.
        config: see :class:`AdapterConfig`.
        weights: the weights file.
        pairs: Meta name -> low-rank change.
        replaced: Meta name -> tensor that takes the place of the base's, rows in Hugging Face's order.
        tokenizer: its vocabulary, or None if it brings none.
        tokenizer_files: name -> path of tokenizer.model and its side files.
        notes: things worth telling the user.
        turned: whether its changes are added transposed, as the v1.1 script does with ``fan_in_fan_out: true``.
    """

    path: Path
    config: AdapterConfig
    weights: Path
    pairs: dict[str, LoraPair]
    replaced: dict[str, LazyTensor]
    tokenizer: GgmlVocabulary | None
    tokenizer_files: dict[str, Path]
    notes: list[str] = field(default_factory=list)
    turned: bool = False
    _file: WeightFile | None = field(default=None, repr=False)
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    def __enter__(self) -> Adapter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the weights; delete what was unpacked from a ZIP."""
        self._open.close()

    def release(self) -> None:
        """Give back the memory of the file pages read so far."""
        if self._file is not None:
            self._file.release()

    @property
    def n_vocab(self) -> int | None:
        """Rows of the embedding or output that it brings; None if it brings neither."""
        rows = [t.shape[0] for n, t in self.replaced.items() if n in ("tok_embeddings.weight", "output.weight")]
        return max(rows, default=None)

    @property
    def names(self) -> list[str]:
        """Meta names of all tensors that it changes."""
        return list(dict.fromkeys((*self.replaced, *self.pairs)))


def open_adapter(path: str | os.PathLike[str], *, fan_in_fan_out: str = "peft") -> Adapter:
    """Open an adapter.

    Args:
        path: a PEFT directory (or one with a single one below it), or a ZIP of one, which is unpacked among the
            system's temporary files until it is closed.
        fan_in_fan_out: what to do if the configuration says ``fan_in_fan_out: true``. "peft": nothing, as PEFT does for
            the linear layers of LLaMA; "v1.1": add the change transposed, as the merge script of Chinese-LLaMA-Alpaca
            v1.1 does.

    Raises:
        UsageError: an unknown ``fan_in_fan_out``.
        MissingFileError: there is no adapter; lists what there is.
        UnsupportedError: the adapter does more than add ``B @ A`` to weights; see :func:`read_adapter_config`.
        ShapeError: a tensor belongs to no LLaMA, lacks its partner, is empty, or contradicts the configuration.
        FormatError: a file is damaged.
    """
    if fan_in_fan_out not in FAN_IN_FAN_OUT:
        raise UsageError(f"unknown fan_in_fan_out {fan_in_fan_out!r}; choose one of {', '.join(FAN_IN_FAN_OUT)}")
    with contextlib.ExitStack() as stack:
        files = files_of_adapter(Path(path), stack)
        if CONFIG not in files:
            raise incomplete(path, CONFIG, files)
        weights = next((files[name] for name in WEIGHTS if name in files), None)
        if weights is None:
            raise incomplete(path, " or ".join(WEIGHTS), files)
        config = read_adapter_config(files[CONFIG])
        opened = open_weights(weights)
        stack.enter_context(opened)
        turned = config.fan_in_fan_out and fan_in_fan_out == "v1.1"
        found = sort_out(weights, config, opened, turned)
        tokenizer_files = {name: files[name] for name in TOKENIZER_FILES if name in files}
        model = tokenizer_files.get("tokenizer.model")
        adapter = Adapter(
            Path(path),
            config,
            weights,
            found.pairs,
            found.replaced,
            load_vocabulary(model) if model else None,
            tokenizer_files,
            [*config.notes, *found.notes],
            turned,
            _file=opened,
            _open=stack.pop_all(),
        )
    adapter.notes += [*_doubts(adapter), *_on_fan_in_fan_out(adapter.config, fan_in_fan_out)]
    return adapter


def is_same_adapter(a: Adapter, b: Adapter) -> bool:
    """Whether two adapters make the same low-rank changes, bit for bit, and bring the same sizes of what they replace:
    a ZIP and the directory that it was unpacked to."""
    facts = [
        (
            {name: (pair.shape, pair.rank, pair.scale, pair.transposed) for name, pair in adapter.pairs.items()},
            {name: tensor.shape for name, tensor in adapter.replaced.items()},
            adapter.turned,
        )
        for adapter in (a, b)
    ]
    return facts[0] == facts[1] and all(
        np.array_equal(ours.numpy(), theirs.numpy())
        for name in a.pairs
        for ours, theirs in ((a.pairs[name].a, b.pairs[name].a), (a.pairs[name].b, b.pairs[name].b))
    )


def _doubts(adapter: Adapter) -> Iterator[str]:
    """What is not an error, but rarely intended."""
    if not adapter.pairs:
        yield f"{shown(adapter.weights)} holds whole tensors only, no LoRA pairs: {', '.join(adapter.replaced)}"
    whole = {rename(name, "huggingface").split(".")[-2] for name in adapter.replaced}
    lost = [name for name in adapter.config.modules_to_save if name.split(".")[-1] not in whole]
    if lost:
        yield f"{shown(adapter.config.path)} promises {', '.join(lost)} whole (modules_to_save), which the weights lack"


def _on_fan_in_fan_out(config: AdapterConfig, way: str) -> Iterator[str]:
    if config.fan_in_fan_out:
        yield f"{shown(config.path)} says fan_in_fan_out: true. " + (
            "The changes are added transposed, as the v1.1 merge script does; PEFT ignores it"
            if way == "v1.1"
            else "LLaMA's layers are linear, so it is ignored, as PEFT does; the v1.1 merge script transposes the "
            "changes: --fan-in-fan-out v1.1"
        )
