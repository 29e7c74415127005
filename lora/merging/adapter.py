"""Reading a PEFT LoRA adapter: a directory, or the ZIP as it was downloaded.

An adapter is ``adapter_config.json`` and ``adapter_model.bin`` (torch.save) or ``adapter_model.safetensors``, often
with the tokenizer that it needs. PEFT's versions spell the same tensors differently::

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight            PEFT files, the seed's among them
    base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight    a state dict saved by hand
    model.layers.0.self_attn.q_proj.lora_A.weight                             after conversion tools
    base_model.model.model.embed_tokens.weight                                modules_to_save, saved by PEFT
    base_model.model.model.embed_tokens.modules_to_save.default.weight        modules_to_save, saved by hand
    base_model.model.lm_head.0.weight                                         after prepare_model_for_int8_training

All of them are read. What one module's pair means is decided by ``adapter_config.json``::

    W' = W + scale * (B @ A)          B [rows, r], A [r, columns]; transposed as a whole if fan_in_fan_out
    scale = alpha / r                 alpha / sqrt(r) with use_rslora; rank_pattern and alpha_pattern per module

A tensor that is saved whole (embeddings and output of a grown vocabulary) replaces the base's. Whatever is in the file
or the config and would be ignored by this arithmetic (DoRA, biases, PiSSA, …) is refused, never dropped.

Sources: peft 0.2.0 and 0.3.0 ``tuners/lora.py``, ``utils/save_and_load.py``; peft 0.14 ``tuners/lora/config.py``.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np

from ggmlpy.files.atomic import require_space
from ggmlpy.files.errors import (
    FormatError,
    IntegrityError,
    MissingFileError,
    OutputError,
    ShapeError,
    UnsupportedError,
    UsageError,
)
from ggmlpy.files.kinds import FIRST_BYTES, lookalike
from ggmlpy.files.npy import ZIP_TROUBLE
from ggmlpy.formats.tensor_names import is_derived, is_known, rename
from llama_ref.checkpoint import LazyTensor, PthFile, open_pth
from llama_ref.checkpoint.params import read_json
from llama_ref.checkpoint.safetensors_file import SafetensorsFile
from llama_ref.vocabulary.tokenizer_file import GgmlVocabulary, load_vocabulary

__all__ = ["Adapter", "AdapterConfig", "LoraPair", "open_adapter"]

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
WANTED = (CONFIG, *WEIGHTS, *TOKENIZER_FILES)
LARGEST_PATTERN = 200  # characters of a key of rank_pattern; real ones name a module
_SLOW = re.compile(r"\)\s*[*+{]|(?:[*+{].*){5}")  # repeated groups, many repetitions: a match could take for ever
LARGEST_EXPANSION = 1100  # deflate cannot do better than 1 : 1032


# ── the configuration ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class AdapterConfig:
    """What ``adapter_config.json`` says about the arithmetic."""

    path: Path
    r: int
    alpha: float
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    modules_to_save: tuple[str, ...] = ()
    base_model: str = ""

    def rank_of(self, module: str) -> int:
        """The rank of a module: rank_pattern's if one of its keys is the module's name or its end, else ``r``."""
        return _by_pattern(self.rank_pattern, module, self.r)

    def scale_of(self, module: str) -> float:
        """What ``B @ A`` is multiplied with.

        >>> config = AdapterConfig(Path(), r=8, alpha=32, alpha_pattern={"q_proj": 4})
        >>> config.scale_of("model.layers.0.self_attn.q_proj"), config.scale_of("model.layers.0.self_attn.k_proj")
        (0.5, 4.0)
        """
        rank, alpha = self.rank_of(module), _by_pattern(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule: a key is a regular expression for the whole name or its end behind a dot; the first one counts."""
    return next((value for key, value in patterns.items() if re.fullmatch(rf"(?:.*\.)?(?:{key})", module)), default)


# What changes the arithmetic in a way that W + scale * B @ A does not cover: value of the key -> whether it is active.
_REFUSED = {
    "use_dora": (bool, "DoRA scales each column by a learnt magnitude"),
    "use_qalora": (bool, "QALoRA groups the input"),
    "enable_lora": (lambda value: value is not None, "MergedLinear adapts slices of one matrix"),
    "lora_bias": (bool, "biases that LLaMA does not have"),
    "layer_replication": (bool, "the adapted model has repeated layers"),
    "trainable_token_indices": (bool, "single rows of the embedding are replaced"),
    "init_lora_weights": (
        lambda value: str(value).lower().startswith(("pissa", "olora", "loftq", "corda", "lora_ga")),
        "the base itself was changed when training began",
    ),
}


def read_adapter_config(path: str | os.PathLike[str]) -> AdapterConfig:
    """Read and check ``adapter_config.json``.

    Raises:
        MissingFileError: there is none.
        FormatError: it is not JSON, or lacks r or lora_alpha.
        UnsupportedError: another method than LoRA, or a variant of it that cannot be merged by addition.
    """
    record = read_json(path)
    method = record.get("peft_type", "LORA")
    if method != "LORA":
        raise _refused(path, f"peft_type {method}", "only LoRA adapters are added to weights")
    for key, (is_active, reason) in _REFUSED.items():
        if is_active(record.get(key)):
            raise _refused(path, f"{key} = {record[key]!r}", reason)
    return AdapterConfig(
        path=Path(path),
        r=int(_number(path, record, "r", whole=True)),
        alpha=_number(path, record, "lora_alpha"),
        fan_in_fan_out=bool(record.get("fan_in_fan_out")),
        use_rslora=bool(record.get("use_rslora")),
        rank_pattern=_patterns(path, record, "rank_pattern", whole=True),
        alpha_pattern=_patterns(path, record, "alpha_pattern"),
        modules_to_save=_names(path, record, "modules_to_save"),
        base_model=str(record.get("base_model_name_or_path") or ""),
    )


def _number(path: Any, record: Mapping[str, Any], key: str, *, whole: bool = False) -> Any:
    value = record.get(key)
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < abs(value) < 1 << 20 or (whole and value < 0):
        raise FormatError(
            "the adapter's configuration is incomplete",
            path=path,
            field=key,
            expected="a positive whole number" if whole else "a number other than 0",
            found=repr(value)[:80],
            next_step=f"copy {CONFIG} again from where the adapter was published",
        )
    return value


def _names(path: Any, record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    names = record.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError("not a list of modules", path=path, field=key, found=repr(names)[:80])
    return tuple(names)


def _patterns(path: Any, record: Mapping[str, Any], key: str, *, whole: bool = False) -> dict[str, Any]:
    patterns = record.get(key) or {}
    if not isinstance(patterns, dict):
        raise FormatError("not a table of modules", path=path, field=key, found=repr(patterns)[:80])
    for pattern in patterns:
        try:
            if len(pattern) > LARGEST_PATTERN or _SLOW.search(pattern):
                raise ValueError(f"too long or too complicated: {pattern[:80]!r}")
            re.compile(pattern)
        except (re.error, ValueError) as error:
            raise FormatError("not a pattern for modules", path=path, field=key, found=str(error)) from error
    return {pattern: _number(path, patterns, pattern, whole=whole) for pattern in patterns}


def _refused(path: Any, found: str, reason: str) -> UnsupportedError:
    return UnsupportedError(
        "this adapter cannot be merged by adding B @ A",
        path=path,
        found=found,
        cause=reason,
        next_step="merge it with the PEFT version that made it, then start from the merged model",
    )


# ── the tensors ──────────────────────────────────────────────────────────────────────────────────────────────────────


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
    _file: Mapping[str, LazyTensor] = field(default_factory=dict, repr=False)
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
        if isinstance(self._file, PthFile):
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

    Arguments:
        path: a PEFT directory (or one with a single one below it), or a ZIP of one, which is unpacked among the
            system's temporary files until it is closed.

    Raises:
        MissingFileError: there is no adapter; lists what there is.
        UnsupportedError: the adapter does more than add ``B @ A`` to weights; see :func:`read_adapter_config`.
        ShapeError: a tensor belongs to no LLaMA, lacks its partner, is empty, or contradicts the configuration.
        FormatError: a file is damaged.
    """
    with contextlib.ExitStack() as stack:
        files = _files_of(Path(path), stack)
        if CONFIG not in files:
            raise _incomplete(path, CONFIG, files)
        weights = next((files[name] for name in WEIGHTS if name in files), None)
        if weights is None:
            raise _incomplete(path, " or ".join(WEIGHTS), files)
        config = read_adapter_config(files[CONFIG])
        opened: Mapping[str, LazyTensor] = stack.enter_context(
            SafetensorsFile(weights) if weights.suffix == ".safetensors" else open_pth(weights)
        )
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
    """What is no error and yet rarely meant."""
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


# ── where the files are ──────────────────────────────────────────────────────────────────────────────────────────────


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:  # it has the end of one, but a damaged one
        raise _broken_zip(path, error) from error


def _broken_zip(path: Path, error: Exception) -> IntegrityError:
    return IntegrityError(
        f"the ZIP cannot be read: {error}",
        path=path,
        cause="an interrupted download",
        next_step=f"python cli.py verify {path}, then download it again",
    )


def _files_of(path: Path, stack: contextlib.ExitStack) -> dict[str, Path]:
    """Name -> path of the adapter's files in a directory, in the one directory below that has them, or in a ZIP."""
    if path.is_dir():
        inner = [path, *sorted(p for p in path.iterdir() if p.is_dir())]
        homes = [home for home in inner if any((home / name).is_file() for name in (CONFIG, *WEIGHTS))]
        home = _the_one(path, homes, path)
        return {name: home / name for name in WANTED if (home / name).is_file()}
    if path.is_file() and path.name in WEIGHTS:
        return _files_of(path.parent, stack)
    if path.is_file() and _is_zip(path):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="adapter-")))
        return _unpack(path, folder)
    cause, next_step = _other_kind(path) if path.is_file() else (None, "check the path")
    raise MissingFileError(
        "no adapter here",
        path=path,
        expected="a directory with adapter_config.json, or a ZIP of one",
        found="another kind of file" if path.exists() else "nothing",
        cause=cause,
        next_step=next_step,
    )


def _other_kind(path: Path) -> tuple[str | None, str]:
    """Why a file is no ZIP, and what to do."""
    try:
        with path.open("rb") as stream:
            first = stream.read(FIRST_BYTES)
    except OSError as error:
        return error.strerror, "check who may read it"
    if first.startswith(b"PK"):
        return "an interrupted download: the end of the ZIP is missing", "download it again"
    cause, next_step = lookalike(first, path) or (None, f"python cli.py identify {path}")
    return cause, next_step


def _the_one(path: Path, homes: list[Any], default: Any) -> Any:
    if len(homes) > 1 and homes[0] != default:
        raise UsageError(f"{path} holds several adapters: name one of {', '.join(map(str, homes))}")
    return homes[0] if homes else default


def _unpack(path: Path, folder: Path) -> dict[str, Path]:
    """Unpack the wanted files of a ZIP into ``folder``, streamed; nothing else in it is touched."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _wanted_entries(path, archive)
            require_space(folder / WEIGHTS[-1], sum(entry.file_size for entry in entries.values()))
            for name, entry in entries.items():
                with archive.open(entry) as source, open(folder / name, "xb") as target:
                    _copy_bounded(path, source, target, entry)
            return {name: folder / name for name in entries}
    except UsageError:
        raise  # a ValueError, too
    except ZIP_TROUBLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise OutputError(
                f"the ZIP cannot be unpacked: {error.strerror}",
                path=folder,
                next_step="free space there, or choose another place with the environment variable TMPDIR",
            ) from error
        raise _broken_zip(path, error) from error


def _wanted_entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The adapter's entries by plain name: those of the one folder that has adapter_config.json or weights."""
    by_folder: dict[str, dict[str, zipfile.ZipInfo]] = {}
    for entry in archive.infolist():
        inside = PurePosixPath(entry.filename)
        if inside.name in WANTED and not entry.is_dir() and "__MACOSX" not in inside.parts:
            by_folder.setdefault(str(inside.parent), {})[inside.name] = entry
    homes = [folder for folder, names in by_folder.items() if CONFIG in names or set(WEIGHTS) & set(names)]
    if len(homes) > 1:
        raise UsageError(f"{path} holds several adapters ({', '.join(sorted(homes))}): unpack it and name one")
    found = by_folder[homes[0]] if homes else {}
    for name, entry in found.items():
        if entry.file_size > LARGEST_EXPANSION * max(entry.compress_size, 1):
            raise IntegrityError(
                f"{name} would expand {entry.compress_size:,} bytes to {entry.file_size:,}",
                path=path,
                cause="a ZIP bomb",
            )
    return found


def _copy_bounded(path: Path, source: Any, target: Any, entry: zipfile.ZipInfo) -> None:
    """At most the announced bytes; zipfile itself checks the CRC at the end."""
    for chunk in _chunks(source):
        if target.tell() + len(chunk) > entry.file_size:
            raise IntegrityError(f"{entry.filename} is longer than the ZIP's directory says", path=path)
        target.write(chunk)
    if target.tell() != entry.file_size:
        raise IntegrityError(f"{entry.filename} is shorter than the ZIP's directory says", path=path)


def _chunks(source: Any) -> Iterator[bytes]:
    return iter(lambda: source.read(1 << 20), b"")


def _names_in(path: Path) -> list[str]:
    if path.is_dir():
        return sorted(inner.name for inner in path.iterdir())
    with zipfile.ZipFile(path) as archive:
        return sorted(archive.namelist())


def _incomplete(path: Any, wanted: str, files: Mapping[str, Path]) -> MissingFileError:
    given = Path(path)
    there = sorted(files) or _names_in(given)[:8]
    return MissingFileError(
        f"the adapter has no {wanted}",
        path=path,
        found=", ".join(there) or "an empty archive",
        cause="this is a model, not an adapter"
        if any(name.endswith((".pth", ".index.json")) for name in there)
        else None,
        next_step="name the directory or ZIP that holds adapter_config.json and adapter_model.bin",
    )
