"""Look at a whole folder: what is in it, what fits together, what does not, and the commands to run next.

A folder of this toolchain holds some of four kinds of things: models (Meta's layout or Hugging Face's), adapters
(directories or archives), tokenizers, and GGML files. The doctor opens each of them lazily, tries which belong
together by the same checks that ``merge`` and ``convert`` make, and estimates the disk and memory that the next step
needs. It changes nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ggmlpy import open_model
from ggmlpy.files.errors import FormatError, MissingFileError, UsageError
from ggmlpy.files.kinds import is_ggml_file
from ggmlpy.files.npy import ZIP_TROUBLE
from ggmlpy.formats.vocabulary_names import known_vocabulary, vocabulary_name
from ggmlpy.look.identify import Identification, identify
from llama_ref.checkpoint import Checkpoint, open_checkpoint
from llama_ref.checkpoint.folder import is_weight_file
from llama_ref.conversion.ggml import plan_conversion
from llama_ref.vocabulary.tokenizer_file import GgmlVocabulary, load_vocabulary
from lora.merging.adapter import Adapter, open_adapter
from lora.merging.checks import check_chain

__all__ = ["Diagnosis", "Finding", "Step", "examine", "in_words"]

DEEPEST = 3
LARGEST_ARCHIVE = 1 << 27  # archives up to this size are unpacked (to a temporary folder) to be looked at
MOST_CHAINS = 12
CONTEXT = 512
MERGE_MEMORY = 600 << 20  # what merge and convert stay under, whatever the model


@dataclass(frozen=True)
class Finding:
    """One thing in the folder.

    Attributes:
        kind: "model", "adapter", "tokenizer", "GGML file", or "archive".
        path: where it is.
        words: what it is.
    """

    kind: str
    path: Path
    words: str


@dataclass(frozen=True)
class Step:
    """A command that makes sense now.

    Attributes:
        command: with its arguments quoted for a shell, without the program's name.
        why: what it gives.
        disk, memory: bytes that it needs.
        obstacle: why it cannot work here, or "".
    """

    command: str
    why: str
    disk: int
    memory: int
    obstacle: str = ""


@dataclass
class Diagnosis:
    """What :func:`examine` found.

    Attributes:
        found: the things in the folder.
        fits: what belongs together, in sentences.
        misfits: what does not, and why.
        bad: files that are broken or incomplete.
        steps: what to run next.
        free_disk, free_memory: bytes; memory is None where the system does not say.
    """

    found: list[Finding] = field(default_factory=list)
    fits: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    free_disk: int = 0
    free_memory: int | None = None

    @property
    def exit_code(self) -> int:
        """0, or 3 where a file is bad, else 1 where things do not fit."""
        return 3 if self.bad else 1 if self.misfits else 0


@dataclass
class _Folder:
    """Everything that could be opened."""

    models: list[Checkpoint] = field(default_factory=list)
    adapters: list[Adapter] = field(default_factory=list)
    tokenizers: list[GgmlVocabulary] = field(default_factory=list)
    ggml: list[Identification] = field(default_factory=list)


def examine(directory: str | os.PathLike[str]) -> Diagnosis:
    """Examine a folder and what lies up to three levels below it.

    Raises:
        MissingFileError: there is no such directory.
    """
    root = Path(directory)
    if not root.is_dir():
        if root.is_file():
            step = f"`identify {root}`"
            raise MissingFileError("is a file: doctor looks at directories", path=root, next_step=step)
        raise MissingFileError("no such directory", path=root, next_step="name a directory")
    diagnosis = Diagnosis(free_disk=shutil.disk_usage(root).free, free_memory=_free_memory())
    folder = _Folder()
    with contextlib.ExitStack() as stack:
        for place in _directories(root):
            _look_into(place, folder, diagnosis, stack)
        _check_models(folder, diagnosis)
        chains = _check_chains(folder, diagnosis)
        diagnosis.steps = [
            *_merge_steps(root, folder, chains, diagnosis),
            *_convert_steps(folder, diagnosis),
            *_ggml_steps(folder, diagnosis),
        ]
    return diagnosis


# ── what is there ─────────────────────────────────────────────────────────────────────────────────────────────────────


_OWN = Path(__file__).resolve().parents[1] / "demo" / "model"  # our demo model; nobody who runs doctor asks about it


def _directories(root: Path, depth: int = 0) -> Iterator[Path]:
    yield root
    for path in sorted(root.iterdir()):
        ours = path.name == _OWN.name and path.resolve() == _OWN
        if path.is_dir() and not (path.is_symlink() or path.name.startswith(".") or ours) and depth < DEEPEST:
            yield from _directories(path, depth + 1)


def _look_into(place: Path, folder: _Folder, diagnosis: Diagnosis, stack: contextlib.ExitStack) -> None:
    names = {path.name for path in place.iterdir() if path.is_file()}
    if any(map(is_weight_file, names)):
        _try(diagnosis, partial(_add_model, place, folder, diagnosis, stack))
    if names & {"adapter_config.json", "adapter_model.bin", "adapter_model.safetensors"}:
        _try(diagnosis, partial(_add_adapter, place, folder, diagnosis, stack))
    for name in sorted(names):
        path = place / name
        if path.suffix == ".model":
            _try(diagnosis, partial(_add_tokenizer, path, folder, diagnosis))
        elif path.suffix == ".zip":
            _try(diagnosis, partial(_add_archive, path, folder, diagnosis, stack))
        elif path.suffix in (".bin", ".gguf", ".ggml") and is_ggml_file(path):
            _try(diagnosis, partial(_add_ggml, path, folder, diagnosis))


def _try(diagnosis: Diagnosis, look: Callable[[], None]) -> None:
    try:
        look()
    except (FormatError, UsageError) as error:
        diagnosis.bad.append(str(error))


def _add_model(place: Path, folder: _Folder, diagnosis: Diagnosis, stack: contextlib.ExitStack) -> None:
    model = stack.enter_context(open_checkpoint(place))
    folder.models.append(model)
    layout = {"meta": "Meta's layout", "huggingface": "Hugging Face's layout"}[model.layout]
    files = f"{len(model.files)} files" if len(model.files) > 1 else model.files[0].name
    words = f"{_size_name(model)}, {layout}, {model.dtype}, vocabulary {vocabulary_name(model.n_vocab)}, {files}"
    diagnosis.found.append(Finding("model", place, f"{words}, {in_words(model.nbytes)}"))


def _size_name(model: Checkpoint) -> str:
    p = model.params
    return f"LLaMA-{p.published}" if p.published else f"a LLaMA {p.name}"


def _add_adapter(path: Path, folder: _Folder, diagnosis: Diagnosis, stack: contextlib.ExitStack) -> None:
    adapter = stack.enter_context(open_adapter(path))
    folder.adapters.append(adapter)
    words = f"LoRA of rank {adapter.config.r}, {len(adapter.pairs)} pairs"
    if adapter.n_vocab:
        words += f", brings embeddings of {vocabulary_name(adapter.n_vocab)}"
    words += f", tokenizer of {len(adapter.tokenizer)}" if adapter.tokenizer else ", no tokenizer"
    diagnosis.found.append(Finding("adapter", path, words))


def _add_archive(path: Path, folder: _Folder, diagnosis: Diagnosis, stack: contextlib.ExitStack) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).name for name in archive.namelist()}
    except ZIP_TROUBLE as error:
        raise FormatError(
            f"the archive is damaged: {error}", path=path, next_step=f"fetch it again, then `verify {path}`"
        ) from error
    if "adapter_config.json" not in names:
        diagnosis.found.append(Finding("archive", path, f"{len(names)} files, no adapter"))
    elif path.stat().st_size <= LARGEST_ARCHIVE:
        _add_adapter(path, folder, diagnosis, stack)
    else:
        words = "an adapter; unpack it to have it looked at, or give it to merge as it is"
        diagnosis.found.append(Finding("archive", path, words))


def _add_tokenizer(path: Path, folder: _Folder, diagnosis: Diagnosis) -> None:
    vocabulary = load_vocabulary(path)
    folder.tokenizers.append(vocabulary)
    added = f" and {len(vocabulary.added)} added tokens" if vocabulary.added else ""
    diagnosis.found.append(Finding("tokenizer", path, vocabulary_name(len(vocabulary.base)) + added))


def _add_ggml(path: Path, folder: _Folder, diagnosis: Diagnosis) -> None:
    found = identify(path)
    folder.ggml.append(found)
    types = ", ".join(f"{count} {name}" for name, count in found.types.items()) or "the vocabulary only"
    words = f"{found.what}, {found.model}, vocabulary {found.vocabulary}, {types}, {in_words(found.size)}"
    diagnosis.found.append(Finding("GGML file", path, words))
    if found.problems and found.types:
        more = f" (and {len(found.problems) - 1} more: `identify {path}`)" if len(found.problems) > 1 else ""
        diagnosis.bad.append(found.problems[0] + more)


# ── what fits together ────────────────────────────────────────────────────────────────────────────────────────────────


def _check_models(folder: _Folder, diagnosis: Diagnosis) -> None:
    """Does each model have a tokenizer that fits?"""
    for model in folder.models:
        try:
            with plan_conversion(model.path) as plan:
                diagnosis.fits.append(f"{model.path} and {plan.vocab.path}: {len(plan.vocab)} pieces each")
                diagnosis.misfits += plan.notes
        except FormatError as error:
            diagnosis.misfits.append(str(error) + _alternative(model, folder))


def _alternative(model: Checkpoint, folder: _Folder) -> str:
    fitting = [str(vocabulary.path) for vocabulary in folder.tokenizers if len(vocabulary) == model.n_vocab]
    return f". Here is one that fits: {', '.join(fitting)}" if fitting else ""


Chain = tuple[Checkpoint, tuple[Adapter, ...], int]


def _check_chains(folder: _Folder, diagnosis: Diagnosis) -> list[Chain]:
    """Which adapters go onto which model, alone or two in a row; (model, adapters, vocabulary afterwards)."""
    chains: list[Chain] = []
    reasons: dict[int, str] = {}
    for model in folder.models:
        onto = [adapter for adapter in folder.adapters if not _is_merged_with(model, adapter)]
        alone = [adapter for adapter in onto if _try_chain(model, (adapter,), chains, reasons)]
        for first, second in itertools.islice(itertools.permutations(onto, 2), MOST_CHAINS):
            if first in alone and (second not in alone or _grows_further(first, second)):
                _try_chain(model, (first, second), chains, {})
    used = {id(adapter) for _, adapters, _ in chains for adapter in adapters}
    diagnosis.misfits += [reason for who, reason in reasons.items() if who not in used]
    for model, adapters, size in chains:
        names = ", then ".join(str(adapter.path) for adapter in adapters)
        diagnosis.fits.append(f"{names} onto {model.path}: vocabulary {model.n_vocab} -> {size}")
    return chains


def _grows_further(first: Adapter, second: Adapter) -> bool:
    """49953, then 49954: the two adapters of the Plus models."""
    return first.n_vocab is not None and second.n_vocab is not None and second.n_vocab > first.n_vocab


def _is_merged_with(model: Checkpoint, adapter: Adapter) -> bool:
    """A model that has the adapter's grown vocabulary already was most likely merged with it."""
    return adapter.n_vocab is not None and adapter.n_vocab == model.n_vocab


def _try_chain(model: Checkpoint, adapters: tuple[Adapter, ...], chains: list[Chain], reasons: dict[int, str]) -> bool:
    """Add the chain if it holds together; otherwise note why its last adapter does not go."""
    try:
        chains.append((model, adapters, check_chain(model, adapters).n_vocab))
        return True
    except FormatError as error:
        reasons[id(adapters[-1])] = f"{adapters[-1].path} does not go onto {model.path}: {error}"
        return False


# ── what to do next ───────────────────────────────────────────────────────────────────────────────────────────────────


def _merge_steps(root: Path, folder: _Folder, chains: Sequence[Chain], diagnosis: Diagnosis) -> Iterator[Step]:
    for model, adapters, size in chains:
        merged = [m for m in folder.models if m.n_vocab == size and m.params.n_embd == model.params.n_embd]
        if size != model.n_vocab and merged:
            words = f"{merged[0].path} has the vocabulary of such a merge: it is probably its result"
            diagnosis.fits += [words] if words not in diagnosis.fits else []
            continue
        loras = ",".join(shlex.quote(str(adapter.path)) for adapter in adapters)
        output = root / f"merged-{adapters[-1].path.stem}"
        disk = model.nbytes + 2 * (size - model.n_vocab) * model.params.n_embd * 2
        command = f"merge --base {_quoted(model.path)} --lora {loras} --output {_quoted(output)}"
        yield _step(command, "the merged model in Meta's layout", disk, MERGE_MEMORY, diagnosis)


def _convert_steps(folder: _Folder, diagnosis: Diagnosis) -> Iterator[Step]:
    for model in folder.models:
        try:
            with plan_conversion(model.path) as plan:
                target = next(iter(plan.files))
                made = any(Path(found.path).parent == target.parent for found in folder.ggml)
                if not made:
                    command = f"convert {_quoted(model.path)}"
                    yield _step(command, f"{target.name} for llama.cpp", plan.nbytes, MERGE_MEMORY, diagnosis)
        except FormatError:
            continue  # said among the misfits


def _ggml_steps(folder: _Folder, diagnosis: Diagnosis) -> Iterator[Step]:
    for found in folder.ggml:
        if found.problems or not found.types:
            continue
        path = Path(found.path)
        with open_model(path) as model:
            p, cache = model.hparams, 2 * model.hparams.n_layer * CONTEXT * model.hparams.n_embd * 2
            tensors = list(model.tensors.values())
        if all(name in ("f16", "f32") for name in found.types):
            smaller = path.with_name(path.stem.replace("-f16", "").replace("-f32", "") + "-q4_0.bin")
            matrices = sum(tensor.n_rows * tensor.n_cols for tensor in tensors if len(tensor.shape) == 2)
            if not smaller.exists() and p.n_embd % 32 == 0:
                disk = matrices * 20 // 32 + found.size // 1000
                command = f"quantize {_quoted(path)} {_quoted(smaller)} q4_0"
                yield _step(command, "a quarter of the size", disk, MERGE_MEMORY, diagnosis)
        known = known_vocabulary(len(model.vocab))
        command = (
            f"chat -m {_quoted(path)}"
            if known and known.instructions
            else f'generate -m {_quoted(path)} -p "..." -n 128'
        )
        yield _step(command, "text", 0, found.size + cache, diagnosis)


def _step(command: str, why: str, disk: int, memory: int, diagnosis: Diagnosis) -> Step:
    obstacle = ""
    if disk > diagnosis.free_disk:
        obstacle = f"{in_words(disk - diagnosis.free_disk)} too little disk is free"
    elif diagnosis.free_memory is not None and memory > diagnosis.free_memory:
        obstacle = f"only {in_words(diagnosis.free_memory)} of memory are free; it would be slow"
    return Step(command, why, disk, memory, obstacle)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def in_words(n: int) -> str:
    """Bytes for people.

    >>> in_words(13_476_939_516), in_words(640_000)
    ('13.48 GB', '0.64 MB')
    """
    return f"{n / 1e9:.2f} GB" if n >= 10**8 else f"{n / 1e6:.2f} MB"


def _free_memory() -> int | None:
    """Memory that can be had without swapping, where the system says (Linux)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            return next((int(line.split()[1]) * 1024 for line in stream if line.startswith("MemAvailable:")), None)
    except OSError:
        return None
