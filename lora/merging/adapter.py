"""Reading a PEFT LoRA adapter: a directory, or the ZIP as it was downloaded.

An adapter is ``adapter_config.json`` and ``adapter_model.bin`` (torch.save) or ``adapter_model.safetensors``, often
with the tokenizer that it needs. PEFT's versions spell the same tensors differently::

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight            PEFT, as in Chinese-LLaMA-Alpaca
    base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight    a state dict saved by hand
    model.layers.0.self_attn.q_proj.lora_A.weight                             after conversion tools
    base_model.model.model.embed_tokens.weight                                modules_to_save, saved by PEFT
    base_model.model.model.embed_tokens.modules_to_save.default.weight        modules_to_save, saved by hand
    base_model.model.lm_head.0.weight                                         after prepare_model_for_int8_training

All of them are read. What one module's pair means is decided by :mod:`lora.merging.adapter_config`.

A tensor that is saved whole (embeddings and output of a grown vocabulary) replaces the base's. Whatever is in the file
or the config and would be ignored by this arithmetic (DoRA, biases, PiSSA, …) is refused, never dropped.

Sources: peft 0.2.0 and 0.3.0 ``tuners/lora.py``, ``utils/save_and_load.py``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np

from ggmlpy.files.errors import ShapeError
from ggmlpy.formats.tensor_names import is_derived, is_known, rename
from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.weights import WeightFile, open_weights
from llama_ref.vocabulary.tokenizer_file import GgmlVocabulary, load_vocabulary

from .adapter_config import CONFIG, AdapterConfig, read_adapter_config
from .adapter_files import TOKENIZER_FILES, WEIGHTS, files_of_adapter, incomplete

__all__ = ["Adapter", "LoraPair", "open_adapter"]


@dataclass(frozen=True)
class LoraPair:
    """The low-rank change of one matrix: ``scale * (b @ a)``, or its transpose if ``transposed``.

    ``b`` is [rows, r] and ``a`` [r, columns], in Hugging Face's order of rows.
    """

    name: str  # Meta name of the matrix
    a: LazyTensor
    b: LazyTensor
    scale: float
    transposed: bool = False

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix that it changes."""
        rows, columns = self.b.shape[0], self.a.shape[1]
        return (columns, rows) if self.transposed else (rows, columns)

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 ``left`` [rows, r] and ``right`` [r, columns] whose product, scaled, is the change.

        A transposed change is ``a.T @ b.T``: the same products in the same order, so the same bits.
        """
        a, b = self.a.f32(), self.b.f32()
        return (a.T, b.T) if self.transposed else (b, a)


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
    """

    path: Path
    config: AdapterConfig
    weights: Path
    pairs: dict[str, LoraPair]
    replaced: dict[str, LazyTensor]
    tokenizer: GgmlVocabulary | None
    tokenizer_files: dict[str, Path]
    notes: list[str] = field(default_factory=list)
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


def open_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Open an adapter.

    Args:
        path: a PEFT directory (or one with a single one below it), or a ZIP of one, which is unpacked among the
            system's temporary files until it is closed.

    Raises:
        MissingFileError: there is no adapter; lists what there is.
        UnsupportedError: the adapter does more than add ``B @ A`` to weights; see :func:`read_adapter_config`.
        ShapeError: a tensor belongs to no LLaMA, lacks its partner, is empty, or contradicts the configuration.
        FormatError: a file is damaged.
    """
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
        pairs, replaced = _sort_out(weights, config, opened)
        tokenizer_files = {name: files[name] for name in TOKENIZER_FILES if name in files}
        model = tokenizer_files.get("tokenizer.model")
        adapter = Adapter(
            Path(path),
            config,
            weights,
            pairs,
            replaced,
            load_vocabulary(model) if model else None,
            tokenizer_files,
            _file=opened,
            _open=stack.pop_all(),
        )
    adapter.notes += _doubts(adapter)
    return adapter


def _doubts(adapter: Adapter) -> Iterator[str]:
    """What is not an error, but rarely intended."""
    if not adapter.pairs:
        yield f"{adapter.weights} holds whole tensors only, no LoRA pairs: {', '.join(adapter.replaced)}"
    whole = {rename(name, "huggingface").split(".")[-2] for name in adapter.replaced}
    lost = [name for name in adapter.config.modules_to_save if name.split(".")[-1] not in whole]
    if lost:
        yield f"{adapter.config.path} promises {', '.join(lost)} whole (modules_to_save), which the weights lack"


_KEY = re.compile(
    r"(?P<module>.+?)\.(?:"
    r"lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.(?P<adapter>\w+))?(?:\.weight)?"
    r"|modules_to_save\.\w+\.weight(?P<saved>)"
    r"|original_module\.weight(?P<original>)"
    r"|weight(?P<whole>)"
    r")"
)


def _sort_out(
    path: Path, config: AdapterConfig, tensors: Mapping[str, LazyTensor]
) -> tuple[dict[str, LoraPair], dict[str, LazyTensor]]:
    """The pairs and the whole tensors of a weights file, by Meta name."""
    sides: dict[tuple[str, bool], dict[str, LazyTensor]] = {}
    replaced: dict[str, LazyTensor] = {}
    unknown = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        name = _meta_name(match["module"]) if match else None
        if is_derived(key) or (match and match["original"] is not None):
            continue  # recomputed, or a copy of the base
        if match is None or name is None:
            unknown.append(key)
            continue
        _check_not_empty(path, key, tensor)
        taken = sides.setdefault((name, bool(match["embedding"])), {}) if match["side"] else replaced
        slot = match["side"] or name
        if slot in taken:
            raise _bad_tensor(path, key, "the tensor is there twice", cause="a file with more than one adapter in it")
        taken[slot] = tensor
    _refuse_unknown(path, unknown)
    pairs = {name: _pair(path, config, name, on_embedding, pair) for (name, on_embedding), pair in sides.items()}
    if not pairs and not replaced:
        raise _saved_empty(path, f"{len(tensors)} tensors, {path.stat().st_size:,} bytes")
    return pairs, replaced


def _meta_name(module: str) -> str | None:
    """``base_model.model.model.layers.0.self_attn.q_proj`` -> ``layers.0.attention.wq.weight``; None if no LLaMA's."""
    stem = re.sub(r"^(?:base_model\.)?(?:model\.)*|(?<=lm_head)\.0$", "", module)
    spellings = (f"{prefix}{stem}.weight" for prefix in ("", "model."))
    return next((rename(spelling, "meta") for spelling in spellings if is_known(spelling)), None)


def _pair(
    path: Path, config: AdapterConfig, name: str, on_embedding: bool, sides: Mapping[str, LazyTensor]
) -> LoraPair:
    if len(sides) != 2:
        raise _bad_tensor(path, name, f"lora_{next(iter(sides))} without its partner", cause="the file is incomplete")
    a, b = sides["A"], sides["B"]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise _bad_tensor(path, name, f"lora_A {list(a.shape)} and lora_B {list(b.shape)} do not fit together")
    module = rename(name, "huggingface").removesuffix(".weight")
    if a.shape[0] != config.rank_of(module):
        raise ShapeError(
            f"lora_A of {module} has another rank than {CONFIG} says",
            path=path,
            field=module,
            expected=f"r = {config.rank_of(module)} ({config.path})",
            found=f"r = {a.shape[0]}",
            cause=f"{CONFIG} belongs to another adapter",
            next_step="copy both files again from the same place",
        )
    return LoraPair(name, a, b, config.scale_of(module), config.fan_in_fan_out != on_embedding)


def _check_not_empty(path: Path, key: str, tensor: LazyTensor) -> None:
    if tensor.size == 0:
        raise _saved_empty(path, f"{key} has shape {list(tensor.shape)}")
    if tensor.dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise _bad_tensor(path, key, f"holds {tensor.dtype}", cause="a quantized adapter, or no adapter")


def _saved_empty(path: Path, found: str) -> ShapeError:
    return ShapeError(
        "0 LoRA pairs: this file was saved empty",
        path=path,
        found=found,
        cause="a saving bug of early PEFT with DeepSpeed ZeRO-3 or a replaced state_dict: training ran, the tensors "
        "never reached the file",
        next_step="extract the adapter from the training checkpoint (pytorch_model.bin) or download it again",
    )


def _bad_tensor(path: Path, key: str, problem: str, cause: str | None = None) -> ShapeError:
    return ShapeError(f"{key}: {problem}", path=path, field=key, cause=cause, next_step="download the adapter again")


def _refuse_unknown(path: Path, keys: list[str]) -> None:
    if not keys:
        return
    dora = any("lora_magnitude" in key for key in keys)
    shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
    raise ShapeError(
        f"{len(keys)} tensors cannot be applied to a LLaMA: {shown}",
        path=path,
        cause="a DoRA adapter" if dora else "an adapter for another architecture, or one that does more than LoRA",
        next_step="merge it with the PEFT version that made it, then start from the merged model",
    )
