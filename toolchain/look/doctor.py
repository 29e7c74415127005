"""Look at a whole folder: what is in it, what fits together, what does not, and the commands to run next.

A folder of this toolchain holds some of five kinds of things: models (Meta's layout or Hugging Face's), adapters
(directories or archives), tokenizers, GGML files, and training data. The doctor opens each of them lazily, tries which
belong together by the same checks that ``merge`` and ``convert`` make, and estimates the disk and memory that the next
step needs. It changes nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import FormatError, MissingFileError, UnsupportedError, UsageError
from ggmlpy.files.kinds import is_ggml_file
from ggmlpy.files.leftovers import abandoned
from ggmlpy.files.npy import ZIP_TROUBLE
from ggmlpy.formats.vocabulary_names import vocabulary_name
from ggmlpy.look.identify import Identification, identify
from ggmlpy.verify.verdict import Table, Verdict
from llama_ref.checkpoint import Checkpoint, open_checkpoint
from llama_ref.checkpoint.folder import Folder, is_weight_file
from llama_ref.conversion.converting import plan_conversion
from llama_ref.conversion.plan import Plan
from llama_ref.vocabulary.tokenizer_file import GgmlVocabulary, load_vocabulary
from lora.merging.adapter import Adapter, is_same_adapter, open_adapter
from lora.merging.adapter_config import CONFIG
from lora.merging.adapter_files import WEIGHTS
from lora.merging.checks import check_chain

from .next_steps import Chain, Step, chain_steps, convert_steps, ggml_steps, in_words
from .training_data import training_data

__all__ = ["Diagnosis", "Finding", "examine"]

DEEPEST = 3
LARGEST_ARCHIVE = 1 << 27  # archives up to this size are unpacked (to a temporary folder) to be looked at
MOST_CHAINS = 12
DEMO_MODEL = Path(__file__).resolve().parents[1] / "demo" / "model"  # ours; nobody who runs doctor asks about it
DATA = (".json", ".jsonl", ".safetensors", ".txt")  # names that training data ends in


@dataclass(frozen=True)
class Finding:
    """One thing in the folder.

    Attributes:
        kind: "model", "adapter", "tokenizer", "GGML file", "data", or "archive".
        path: where it is.
        words: what it is.
    """

    kind: str
    path: Path
    words: str


@dataclass(repr=False)
class Diagnosis(Verdict):
    """What :func:`examine` found.

    Attributes:
        found: the things in the folder.
        fits: what belongs together, in sentences.
        misfits: what does not, and why.
        bad: files that are broken or incomplete.
        leftovers: what killed runs left, and how to remove it.
        steps: what to run next.
        free_disk, free_memory: bytes; memory is None where the system does not say.
    """

    found: list[Finding] = field(default_factory=list)
    fits: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    free_disk: int = 0
    free_memory: int | None = None

    @property
    def exit_code(self) -> int:
        """0, or 3 where a file is bad, else 1 where things do not fit."""
        return 3 if self.bad else 1 if self.misfits else 0

    def sentence(self) -> str:
        """How much was found, and how much of it is wrong."""
        return f"{len(self.found)} found, {len(self.misfits)} do not fit, {len(self.bad)} bad"

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """What belongs together, what does not, and what is broken."""
        yield from (*self.fits, *self.misfits, *self.bad, *self.leftovers)

    def table(self) -> Table:
        """The things in the folder."""
        return ["kind", "path", "what it is"], [[item.kind, str(item.path), item.words] for item in self.found]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


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
    with _Examination(diagnosis) as examination:
        for folder in _folders(root):
            examination.look_into(folder)
        examination.check_tokenizers()
        examination.check_chains()
        diagnosis.steps = [*examination.steps(root)]
    diagnosis.steps = [step.checked(diagnosis.free_disk, diagnosis.free_memory) for step in diagnosis.steps]
    return diagnosis


def _folders(root: Path, depth: int = 0) -> Iterator[Folder]:
    """The folder and those below it, each looked at once."""
    folder = Folder.of(root)
    yield folder
    for path in (root / name for name in folder.directories if depth < DEEPEST):
        ours = path.name == DEMO_MODEL.name and path.resolve() == DEMO_MODEL
        if not (path.is_symlink() or path.name.startswith(".") or ours):
            yield from _folders(path, depth + 1)


def _leftover(path: Path) -> str:
    with contextlib.suppress(OSError):
        return f"{path}: {in_words(path.stat().st_size)} that a killed run left. Next: rm {shlex.quote(str(path))}"
    return f"{path}: a killed run left it"


def _free_memory() -> int | None:
    """Memory that can be had without swapping, where the system says (Linux)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            return next((int(line.split()[1]) * 1024 for line in stream if line.startswith("MemAvailable:")), None)
    except OSError:
        return None


class _Examination(contextlib.ExitStack):
    """Everything in a folder that could be opened, open until the examination ends; findings go into ``diagnosis``."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        super().__init__()
        self.diagnosis = diagnosis
        self.models: list[Checkpoint] = []
        self.adapters: list[Adapter] = []
        self.tokenizers: list[GgmlVocabulary] = []
        self.ggml: list[Identification] = []
        self.conversions: list[tuple[Checkpoint, Plan]] = []
        self.chains: list[Chain] = []

    # ── what is there ─────────────────────────────────────────────────────────────────────────────────────────────────

    def look_into(self, folder: Folder) -> None:
        """Open what is in one directory, but not in those below it."""
        self.diagnosis.leftovers += map(_leftover, abandoned(folder.path))
        if any(map(is_weight_file, folder.files)):
            self._try(partial(self._add_model, folder))
        if folder.files & {CONFIG, *WEIGHTS}:
            self._try(partial(self._add_adapter, folder.path))
        for path in (folder.path / name for name in sorted(folder.files)):
            if path.suffix == ".model":
                self._try(partial(self._add_tokenizer, path))
            elif path.suffix == ".zip":
                self._try(partial(self._add_archive, path))
            elif path.suffix in (".bin", ".gguf", ".ggml") and is_ggml_file(path):
                self._try(partial(self._add_ggml, path))
            elif path.suffix in DATA and not is_weight_file(path.name):
                self._try(partial(self._add_training_data, path))

    def _try(self, look: Callable[[], None]) -> None:
        try:
            look()
        except (FormatError, UsageError) as error:
            self.diagnosis.bad.append(str(error))

    def _found(self, kind: str, path: Path, words: str) -> None:
        self.diagnosis.found.append(Finding(kind, path, words))

    def _add_model(self, folder: Folder) -> None:
        model = self.enter_context(open_checkpoint(folder))
        self.models.append(model)
        layout = {"meta": "Meta's layout", "huggingface": "Hugging Face's layout"}[model.layout]
        files = f"{len(model.files)} files" if len(model.files) > 1 else model.files[0].name
        words = f"{_size_name(model)}, {layout}, {model.dtype}, vocabulary {vocabulary_name(model.n_vocab)}, {files}"
        self._found("model", folder.path, f"{words}, {in_words(model.nbytes)}")

    def _add_adapter(self, path: Path) -> None:
        adapter = self.enter_context(open_adapter(path))
        twin = next((other for other in self.adapters if is_same_adapter(other, adapter)), None)
        if twin is not None:
            self._found("adapter", path, f"the same as {twin.path}")
            return
        self.adapters.append(adapter)
        words = f"LoRA of rank {adapter.config.r}, {len(adapter.pairs)} pairs"
        if adapter.n_vocab:
            words += f", brings embeddings of {vocabulary_name(adapter.n_vocab)}"
        words += f", tokenizer of {len(adapter.tokenizer)}" if adapter.tokenizer else ", no tokenizer"
        self._found("adapter", path, words)

    def _add_archive(self, path: Path) -> None:
        try:
            with zipfile.ZipFile(path) as archive:
                names = {Path(name).name for name in archive.namelist()}
        except ZIP_TROUBLE as error:
            step = f"fetch it again, then `verify {path}`"
            raise FormatError(f"the archive is damaged: {error}", path=path, next_step=step) from error
        if CONFIG not in names:
            self._found("archive", path, f"{len(names)} files, no adapter")
        elif path.stat().st_size <= LARGEST_ARCHIVE:
            self._add_adapter(path)
        else:
            self._found("archive", path, "an adapter; unpack it to have it looked at, or give it to merge as it is")

    def _add_tokenizer(self, path: Path) -> None:
        vocabulary = load_vocabulary(path)
        self.tokenizers.append(vocabulary)
        added = f" and {len(vocabulary.added)} added tokens" if vocabulary.added else ""
        self._found("tokenizer", path, vocabulary_name(len(vocabulary.base)) + added)

    def _add_ggml(self, path: Path) -> None:
        found = identify(path, values=False)  # whole folders of models are looked at here
        self.ggml.append(found)
        types = ", ".join(f"{count} {name}" for name, count in found.types.items()) or "the vocabulary only"
        words = f"{found.what}, {found.model}, vocabulary {found.vocabulary}, {types}, {in_words(found.size)}"
        self._found("GGML file", path, words)
        if found.problems and found.types:
            more = f" (and {len(found.problems) - 1} more: `identify {path}`)" if len(found.problems) > 1 else ""
            self.diagnosis.bad.append(found.problems[0] + more)

    def _add_training_data(self, path: Path) -> None:
        found = training_data(path)
        if found:
            self._found("data", path, f"{found.what.removeprefix('safetensors, ')}, {found.model}")

    # ── what fits together ────────────────────────────────────────────────────────────────────────────────────────────

    def check_tokenizers(self) -> None:
        """Does each model have a tokenizer that fits?"""
        for model in self.models:
            try:
                with _conversion_of(model) as plan:
                    self.conversions.append((model, plan))
                    words = f"{model.path} and {_beside(model.path, plan.vocab.path)}: {len(plan.vocab)} pieces each"
                    self.diagnosis.fits.append(words)
                    self.diagnosis.misfits += plan.notes
            except FormatError as error:
                fitting = [str(vocab.path) for vocab in self.tokenizers if len(vocab) == model.n_vocab]
                here = f". Here is one that fits: {', '.join(fitting)}" if fitting else ""
                self.diagnosis.misfits.append(str(error) + here)

    def check_chains(self) -> None:
        """Which adapters go onto which model, alone or two in a row?"""
        reasons: dict[int, str] = {}
        for model in self.models:
            onto = [adapter for adapter in self.adapters if not _is_merged_with(model, adapter)]
            alone = [adapter for adapter in onto if self._try_chain(model, (adapter,), reasons)]
            for first, second in itertools.islice(itertools.permutations(onto, 2), MOST_CHAINS):
                if first in alone and (second not in alone or _grows_further(first, second)):
                    self._try_chain(model, (first, second), {})
        used = {id(adapter) for chain in self.chains for adapter in chain.adapters}
        self.diagnosis.misfits += [reason for who, reason in reasons.items() if who not in used]
        for chain in self.chains:
            names = ", then ".join(str(adapter.path) for adapter in chain.adapters)
            growth = f"vocabulary {chain.model.n_vocab} -> {chain.n_vocab}"
            self.diagnosis.fits.append(f"{names} onto {chain.model.path}: {growth}")

    def _try_chain(self, model: Checkpoint, adapters: tuple[Adapter, ...], reasons: dict[int, str]) -> bool:
        """Add the chain if it holds together; otherwise note why its last adapter does not go."""
        try:
            checked = check_chain(model, adapters)
            plan = next((plan for converted, plan in self.conversions if converted is model), None)
            is_gguf = plan is not None and plan.container.name == "gguf"
            only_gguf = is_gguf or checked.has_json_tokenizer or checked.tokenizer.padding > 0
            self.chains.append(Chain(model, adapters, checked.n_vocab, only_gguf))
            return True
        except FormatError as error:
            reasons[id(adapters[-1])] = f"{adapters[-1].path} does not go onto {model.path}: {error}"
            return False

    def steps(self, root: Path) -> Iterator[Step]:
        """What to run next: the one chain of each base that ends in a conversation, then what is converted already."""
        best = self._best_chains()
        for chain in best:
            if not self._is_merged(chain):
                yield from chain_steps(root, chain)
        bases = {chain.model.path for chain in best}
        yield from convert_steps(
            [(model, plan) for model, plan in self.conversions if model.path not in bases], self.ggml
        )
        plain = {vocabulary_name(chain.model.n_vocab) for chain in best}  # a base is on the way, and not the aim
        instructed = {vocabulary_name(chain.n_vocab) for chain in best if chain.instructs}
        yield from ggml_steps([found for found in self.ggml if found.vocabulary not in plain], instructed)

    def _best_chains(self) -> list[Chain]:
        """For each base the chain that makes most of it; the same base in two layouts counts once."""
        best: dict[tuple[int, int], Chain] = {}
        for chain in self.chains:
            size = (chain.model.params.n_embd, chain.model.params.n_layer)
            if size not in best or _merit(chain) > _merit(best[size]):
                best[size] = chain
        return list(best.values())

    def _is_merged(self, chain: Chain) -> bool:
        """Whether the result of a chain is in the folder already, which is said."""
        if chain.n_vocab == chain.model.n_vocab:
            return False
        width, name = chain.model.params.n_embd, vocabulary_name(chain.n_vocab)
        here = [model.path for model in self.models if (model.n_vocab, model.params.n_embd) == (chain.n_vocab, width)]
        here += [Path(found.path) for found in self.ggml if found.vocabulary == name and not found.problems]
        if here:
            self.diagnosis.fits.append(f"{here[0]} has the vocabulary of such a merge: it is probably its result")
        return bool(here)


def _merit(chain: Chain) -> tuple[bool, int, int]:
    return chain.instructs, len(chain.adapters), chain.n_vocab


def _beside(model: Path, path: Path) -> Path:
    """A path as the model's is written: relative to here, if that one is."""
    return path if model.is_absolute() or not path.is_absolute() else Path(os.path.relpath(path))


def _size_name(model: Checkpoint) -> str:
    p = model.params
    return f"LLaMA-{p.published}" if p.published else f"a LLaMA {p.name}"


def _grows_further(first: Adapter, second: Adapter) -> bool:
    """49953, then 49954: the two adapters of the Plus models."""
    return first.n_vocab is not None and second.n_vocab is not None and second.n_vocab > first.n_vocab


def _is_merged_with(model: Checkpoint, adapter: Adapter) -> bool:
    """A model that has the adapter's grown vocabulary already was most likely merged with it."""
    return adapter.n_vocab is not None and adapter.n_vocab == model.n_vocab


def _conversion_of(model: Checkpoint) -> Plan:
    """The conversion that suits a model: to ggjt, and of models of today, for which that has no place, to GGUF."""
    try:
        return plan_conversion(model.path)
    except (UnsupportedError, MissingFileError) as error:
        no_tokenizer = isinstance(error, MissingFileError) and not (model.path / "tokenizer.json").is_file()
        if model.layout != "huggingface" or no_tokenizer:
            raise
        return plan_conversion(model.path, container="gguf")
