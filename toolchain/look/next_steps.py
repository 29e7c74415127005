"""What to run next on a model, an adapter or a GGML file, and the disk and memory that it needs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggmlpy import open_model
from ggmlpy.formats.vocabulary_names import known_vocabulary
from ggmlpy.look.identify import Identification
from llama_ref.checkpoint import Checkpoint
from llama_ref.conversion.plan import Plan
from lora.merging.adapter import Adapter

__all__ = ["Chain", "Step", "convert_steps", "ggml_steps", "in_words", "merge_step"]

CONTEXT = 512
MERGE_MEMORY = 600 << 20  # what merge and convert stay under, whatever the model


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

    def checked(self, free_disk: int, free_memory: int | None) -> Step:
        """The step with its obstacle, if so many bytes are free; ``free_memory`` is None if unknown."""
        if self.disk > free_disk:
            return replace(self, obstacle=f"{in_words(self.disk - free_disk)} too little disk is free")
        if free_memory is not None and self.memory > free_memory:
            return replace(self, obstacle=f"only {in_words(free_memory)} of memory are free; it would be slow")
        return self


@dataclass(frozen=True)
class Chain:
    """Adapters that go onto a model in this order, and the vocabulary afterwards."""

    model: Checkpoint
    adapters: tuple[Adapter, ...]
    n_vocab: int


def merge_step(root: Path, chain: Chain) -> Step:
    """Merge a chain into a folder below ``root``."""
    model, last = chain.model, chain.adapters[-1]
    loras = ",".join(_quoted(adapter.path) for adapter in chain.adapters)
    disk = model.nbytes + 2 * (chain.n_vocab - model.n_vocab) * model.params.n_embd * 2
    command = f"merge --base {_quoted(model.path)} --lora {loras} --output {_quoted(root / f'merged-{last.path.stem}')}"
    return Step(command, "the merged model in Meta's layout", disk, MERGE_MEMORY)


def convert_steps(conversions: Sequence[tuple[Checkpoint, Plan]], ggml: Sequence[Identification]) -> Iterator[Step]:
    """Convert the models beside which there is no GGML file yet; each comes with its checked plan."""
    for model, plan in conversions:
        target = next(iter(plan.files))
        if not any(Path(found.path).parent == target.parent for found in ggml):
            what = f"{target.name} for llama.cpp"
            container = " --container gguf" if plan.container.name == "gguf" else ""
            yield Step(f"convert {_quoted(model.path)}{container}", what, plan.nbytes, MERGE_MEMORY)


def ggml_steps(ggml: Sequence[Identification]) -> Iterator[Step]:
    """Quantize what is in half precision; run what is whole."""
    for found in ggml:
        if found.types and not found.problems:
            yield from _quantize_step(found)
            yield _text_step(found)


def _quantize_step(found: Identification) -> Iterator[Step]:
    path = Path(found.path)
    smaller = path.with_name(path.stem.replace("-f16", "").replace("-f32", "") + "-q4_0.bin")
    if not {"f16", "f32"}.issuperset(found.types) or smaller.exists():
        return
    with open_model(path) as model:
        n_embd = model.hparams.n_embd
        weights = sum(tensor.n_rows * tensor.n_cols for tensor in model.tensors.values() if len(tensor.shape) == 2)
    if n_embd % 32 == 0:
        disk = weights * 20 // 32 + found.size // 1000
        yield Step(f"quantize {_quoted(path)} {_quoted(smaller)} q4_0", "a quarter of the size", disk, MERGE_MEMORY)


def _text_step(found: Identification) -> Step:
    path = Path(found.path)
    with open_model(path) as model:
        known = known_vocabulary(len(model.vocab))
        cache = 2 * model.hparams.n_layer * CONTEXT * model.hparams.n_embd * 2  # keys and values, two bytes each
    chats = known is not None and known.instructions
    command = f"chat -m {_quoted(path)}" if chats else f'generate -m {_quoted(path)} -p "..." -n 128'
    return Step(command, "text", 0, found.size + cache)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def in_words(n: int) -> str:
    """Bytes for people.

    >>> in_words(13_476_939_516), in_words(640_000)
    ('13.48 GB', '0.64 MB')
    """
    return f"{n / 1e9:.2f} GB" if n >= 10**8 else f"{n / 1e6:.2f} MB"
