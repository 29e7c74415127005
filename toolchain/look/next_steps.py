"""What to run next on a model, an adapter or a GGML file, and the disk and memory that it needs."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggmlpy import open_model
from ggmlpy.formats.vocabulary_names import known_vocabulary
from ggmlpy.look.identify import Identification
from llama_ref.checkpoint import Checkpoint
from llama_ref.conversion.plan import Plan
from lora.merging.adapter import Adapter

__all__ = ["Chain", "Step", "chain_steps", "convert_steps", "ggml_steps", "in_words"]

CONTEXT = 512

# What a command takes in bytes beside the weights that it holds at a time, as -v measures it: Python, numpy, and Numba
# where it computes. Weights stream through merge, convert and quantize, so that these need no more for a larger model
# than the second figure: measured with models of 7B's shapes, 3 layers, and of 1B's, 16 layers, on two processors.
PROGRAM = {"merge": 160_000_000, "convert": 50_000_000, "quantize": 155_000_000, "text": 93_000_000}
STREAMING = {"merge": 255_000_000, "convert": 170_000_000, "quantize": 215_000_000}


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
    of_today: bool = False
    """Whether only GGUF has a place for all of the model."""

    @property
    def instructs(self) -> bool:
        """Whether the result follows instructions: by its vocabulary, else by what its adapters are called."""
        known = known_vocabulary(self.n_vocab)
        if known is not None and known.instructions is not None:
            return known.instructions
        return len(self.adapters) > 1 or "alpaca" in self.adapters[-1].path.name.lower()


def streaming(command: str, nbytes: int) -> int:
    """The memory of a command through which so many bytes of weights stream.

    >>> streaming("merge", 2_600_000), streaming("merge", 13_500_000_000)
    (162600000, 255000000)
    """
    return min(PROGRAM[command] + nbytes, STREAMING[command])


def chain_steps(root: Path, chain: Chain) -> Iterator[Step]:
    """From a base and adapters to a chat by the shortest way: what is merged is quantized at once, byte for byte the
    file of the long way."""
    model, last = chain.model, chain.adapters[-1]
    loras = ",".join(_quoted(adapter.path) for adapter in chain.adapters)
    merge = f"merge --base {_quoted(model.path)} --lora {loras} --output"
    nbytes = model.nbytes + 2 * (chain.n_vocab - model.n_vocab) * model.params.n_embd * 2
    memory = streaming("merge", nbytes)
    if model.params.n_embd % 32:
        yield Step(f"{merge} {_quoted(root / f'merged-{last.path.stem}')}", "the merged model", nbytes, memory)
        return
    family, suffix = ("gguf", ".gguf") if chain.of_today else ("ggml", ".bin")
    file = root / f"{last.path.stem}-q4_0{suffix}"
    disk = nbytes // 2 * 20 // 32
    yield Step(f"{merge} {_quoted(file)} --output-type {family}-q4_0", "the merged model in four bits", disk, memory)
    cache = 2 * model.params.n_layer * CONTEXT * model.params.n_embd * 2
    command, why = _talk(file, chain.instructs)
    yield Step(command, why, 0, PROGRAM["text"] + disk + cache)


def _talk(path: Path, instructed: bool) -> tuple[str, str]:
    """The command that runs a model, and what it gives."""
    if instructed:
        return f"chat -m {_quoted(path)}", "a conversation"
    return f'generate -m {_quoted(path)} -p "..." -n 128', "text"


def convert_steps(conversions: Sequence[tuple[Checkpoint, Plan]], ggml: Sequence[Identification]) -> Iterator[Step]:
    """Convert the models beside which there is no GGML file yet; each comes with its checked plan."""
    for model, plan in conversions:
        target = next(iter(plan.files))
        if not any(Path(found.path).parent == target.parent for found in ggml):
            what = f"{target.name} for llama.cpp"
            container = " --container gguf" if plan.container.name == "gguf" else ""
            yield Step(
                f"convert {_quoted(model.path)}{container}", what, plan.nbytes, streaming("convert", plan.nbytes)
            )


def ggml_steps(ggml: Sequence[Identification], instructed: Collection[str] = ()) -> Iterator[Step]:
    """Quantize what is in half precision; run the smallest of the files of a model.

    Args:
        instructed: vocabularies whose models follow instructions, as far as the folder tells.
    """
    whole = [found for found in ggml if found.types and not found.problems]
    for found in whole:
        yield from _quantize_step(found)
    smallest: dict[tuple[Path, str, str], Identification] = {}
    for found in sorted(whole, key=lambda each: each.size):
        smallest.setdefault((Path(found.path).parent, found.model, found.vocabulary), found)
    for found in smallest.values():
        yield _text_step(found, instructed)


def _quantize_step(found: Identification) -> Iterator[Step]:
    path = Path(found.path)
    stem = path.stem.replace("-bf16", "").replace("-f16", "").replace("-f32", "")
    smaller = path.with_name(f"{stem}-q4_0{'.gguf' if path.suffix == '.gguf' else '.bin'}")
    if not {"bf16", "f16", "f32"}.issuperset(found.types) or smaller.exists():
        return
    with open_model(path) as model:
        n_embd = model.hparams.n_embd
        weights = sum(tensor.n_rows * tensor.n_cols for tensor in model.tensors.values() if len(tensor.shape) == 2)
    if n_embd % 32 == 0:
        disk = weights * 20 // 32 + found.size // 1000
        yield Step(
            f"quantize {_quoted(path)} {_quoted(smaller)} q4_0",
            "a quarter of the size",
            disk,
            streaming("quantize", found.size),
        )


def _text_step(found: Identification, instructed: Collection[str]) -> Step:
    path = Path(found.path)
    with open_model(path) as model:
        known = known_vocabulary(len(model.vocab))
        cache = 2 * model.hparams.n_layer * CONTEXT * model.hparams.n_embd * 2  # keys and values, two bytes each
    command, why = _talk(path, found.vocabulary in instructed or bool(known and known.instructions))
    return Step(command, why, 0, PROGRAM["text"] + found.size + cache)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def in_words(n: int) -> str:
    """Bytes for people.

    >>> in_words(13_476_939_516), in_words(640_000)
    ('13.48 GB', '0.64 MB')
    """
    return f"{n / 1e9:.2f} GB" if n >= 10**8 else f"{n / 1e6:.2f} MB"
