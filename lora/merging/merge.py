"""Merging adapters into a base: any layout in, any layout out, streamed.

    merge(base, adapters, output)      ->  plan_merge (all checks)  ->  MergePlan.run (all writing)

Outputs: Meta's ``consolidated.NN.pth`` with ``params.json``, the original tools' files to the byte; Hugging Face's
layout; or a GGML file, f16 or quantized, without intermediate files. Beside a checkpoint go the tokenizer's files.

Everything is checked before anything is written (:mod:`lora.merging.checks`), the weights stream through row by row
(:mod:`lora.merging.stream`), and a run that is killed leaves no partial file under a final name
(:mod:`lora.merging.targets`).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from ggmlpy.files.errors import UsageError
from ggmlpy.files.foreign import visible
from ggmlpy.files.ordered import Workers
from ggmlpy.files.unpacked import shown_as
from ggmlpy.formats.containers import refuse_name
from ggmlpy.formats.eras import DEFAULT_ERA
from llama_ref.checkpoint import Checkpoint, LazyTensor
from llama_ref.checkpoint.opening import open_checkpoint
from lora.exchange.reading import is_lora_file, open_lora_file
from lora.exchange.to_peft import write_peft

from .adapter import Adapter, open_adapter
from .checks import Chain, check_chain, check_output
from .gguf_target import is_of_today, target_of
from .plan import CheckedMerge, MergeOptions, check_options
from .published import identify_inputs
from .resize import grow, spellings
from .stream import MergedModel
from .targets import Target

__all__ = ["MergePlan", "MergeReport", "merge", "plan_merge"]

MEMORY = "0.4 GB"  # measured: panels in flight, numba, and the pages of 64 MB of each mapped file
Progress = Callable[[int], object]


@dataclass(frozen=True)
class MergeReport:
    """What a merge did."""

    files: tuple[Path, ...]
    nbytes: int
    n_pairs: int  # pairs found in the adapters, all of them applied
    n_replaced: int
    n_changed: int  # tensors in which at least one value changed by a pair
    n_with_pairs: int
    largest: float  # largest |new - old| of one step
    largest_in: str
    n_vocab: int
    resumed: tuple[str, ...]
    seconds: float
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "files": [{"path": str(path), "size": path.stat().st_size} for path in self.files]}

    def __str__(self) -> str:
        lines = [
            f"{self.n_pairs} LoRA pairs found and applied, {self.n_replaced} whole tensors replaced; "
            f"{self.n_changed} of {self.n_with_pairs} tensors changed"
            + (f", at most by {self.largest:.6g} ({self.largest_in})" if self.n_changed else ""),
            f"vocabulary {self.n_vocab}; {self.nbytes:,} bytes in {len(self.files)} files, {self.seconds:.1f} s",
        ]
        if self.resumed:
            lines.append(f"taken from the interrupted run, and not counted above: {', '.join(self.resumed)}")
        return "\n".join(map(visible, [*lines, *(f"note: {note}" for note in self.notes)]))


@dataclass
class MergePlan(CheckedMerge):
    """A checked merge that has not begun; a context manager over the open base and adapters."""

    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    def __enter__(self) -> MergePlan:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._open.close()

    @property
    def nbytes(self) -> int:
        """Bytes of the merged tensors: how much is computed and (but for GGML types) written."""
        return sum(self.model.tensor(name).nbytes for name in self.base.tensors)

    def target(self) -> Target:
        """What will be written."""
        return target_of(self)

    def summary(self) -> str:
        """The plan in one line: the vocabulary along the chain, the disk and the memory that it takes."""
        vocabulary = " -> ".join(str(link.n_vocab) for link in self.chain.links)
        disk = sum(self.target().sizes().values())
        return f"vocabulary {vocabulary}; writes {disk:,} bytes, takes about {MEMORY} of memory"

    def describe(self) -> str:
        """The plan in words and a table, for ``--dry-run``."""
        heads = ("", "embedding", "output", "tokenizer", "vocabulary", "path")
        rows = [heads, *(link.cells for link in self.chain.links)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        target = self.target()
        shape = self.base.params
        words = [
            f"base: {shape.published or 'LLaMA'} ({shape.n_layer} layers of {shape.n_embd}), {self.base.layout} layout",
            *table,
            f"tokenizer: {self.chain.tokenizer.path} ({len(self.chain.tokenizer)} pieces)",
            f"pairs: {sum(len(a.pairs) for a in self.adapters)}, whole tensors: "
            f"{sum(len(a.replaced) for a in self.adapters)}",
            *(f"writes: {path} ({size:,} bytes)" for path, size in target.sizes().items()),
            f"disk: {sum(target.sizes().values()):,} bytes; memory: about {MEMORY}, whatever the size of the model",
        ]
        return "\n".join(map(visible, [*words, *(f"note: {note}" for note in self.chain.notes)]))

    def run(self, *, force: bool = False, resume: bool = False, progress: Progress | None = None) -> MergeReport:
        """Write everything.

        Args:
            force: replace existing files of the final names.
            resume: continue from what an interrupted run of the same merge left.
            progress: called with bytes of merged weights as they pass.

        Raises:
            UsageError: the output exists, or what is to be resumed was another merge.
            DiskSpaceError, OutputError: it cannot be written.
        """
        started = time.monotonic()
        target = self.target()
        with Workers(self.options.n_threads) as workers:
            self.model.workers, self.model.progress = workers, progress
            files, resumed = target.write(force=force, resume=resume)
            self.model.workers = None
        return self._report(files, resumed, time.monotonic() - started)

    def _report(self, files: Sequence[Path], resumed: Sequence[str], seconds: float) -> MergeReport:
        largest = self.model.changes.largest
        name, value = max(largest.items(), key=lambda item: (item[1] != item[1], item[1]), default=("", 0.0))
        changed = [n for n, v in largest.items() if v != 0]
        return MergeReport(
            files=tuple(files),
            nbytes=sum(path.stat().st_size for path in files),
            n_pairs=sum(len(adapter.pairs) for adapter in self.adapters),
            n_replaced=len({n for adapter in self.adapters for n in adapter.replaced}),
            n_changed=len(changed),
            n_with_pairs=len(largest),
            largest=value,
            largest_in=name,
            n_vocab=self.chain.n_vocab,
            resumed=tuple(resumed),
            seconds=seconds,
            notes=(*self.chain.notes, *_findings(largest, changed)),
        )


def _findings(largest: dict[str, float], changed: Sequence[str]) -> Iterator[str]:
    """What a reader should doubt about the result."""
    if largest and not changed:
        yield "no tensor changed: lora_B is zero everywhere, the adapter was never trained or was reset when saved"
    elif len(changed) < len(largest):
        unchanged = [name for name in largest if name not in set(changed)]
        yield f"{len(unchanged)} tensors with LoRA pairs did not change, {unchanged[0]} among them"
    beyond = [name for name, value in largest.items() if not value < float("inf")]
    if beyond:
        yield (
            f"{len(beyond)} tensors have values beyond half precision now, {beyond[0]} among them: this is unusable. "
            "`merge` with --dtype auto keeps the base's type"
        )


def merge(
    base: str | os.PathLike[str],
    adapters: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    force: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    output_type: str = "pth",
    torch_format: str = "1.13",
    n_shards: int | None = None,
    init: str | None = None,
    seed: int = 0,
    tokenizer: Path | None = None,
    era: str = DEFAULT_ERA,
    weights: str | None = None,
    shard_size: str | int | None = None,
    check_base: bool = False,
    n_threads: int | None = None,
    dtype: str = "f16",
    fan_in_fan_out: str = "peft",
    pre_tokenizer: str | None = None,
) -> MergeReport:
    """Merge ``adapters``, in this order, into ``base`` and write the result.

    Args:
        base: directory of a checkpoint, in Meta's or Hugging Face's layout.
        adapters: PEFT directories or ZIPs.
        output: a directory; for GGML types a file.
        force: replace existing files of the same names.
        resume: continue an interrupted run of the same merge.
        progress: called with the number of bytes of merged weights after each piece.
        output_type: one of :data:`lora.merging.plan.OUTPUT_TYPES`, or ``ggml-`` and any type that the era can quantize
            to, or ``gguf-`` and any of today's.
        torch_format: which release of ``torch.save`` to imitate byte for byte, for .pth and .bin.
        n_shards: number of .pth files; None: as Meta split a model of this width.
        init: how to fill rows that no adapter brings (:mod:`lora.merging.resize`); None refuses.
        seed: of the random numbers of ``init="normal"``.
        tokenizer: a tokenizer.model to take instead of the last adapter's.
        era: for GGML types: whose container, order of tensors and quantizer.
        weights: for Hugging Face's layout: "bin" or "safetensors"; None: as the base's, else bin like the scripts.
        shard_size: for Hugging Face's layout: start a new file before one would grow beyond this; None: as the base's
            files, else 10GB.
        check_base: first read all of the base and say whether it is an original one, by SHA256.
        n_threads: number of threads that compute; None: one per processor.
        dtype: of the merged tensors, for pth and huggingface: "f16" as the scripts, "bf16", "f32", or "auto": each
            tensor as in the base. Sums are rounded to it once per adapter.
        fan_in_fan_out: "peft" or "v1.1", see :func:`lora.merging.adapter.open_adapter`.
        pre_tokenizer: for GGUF of a model with a tokenizer.json: the name of the rules that split a text into words,
            if they are not recognized.

    Raises as :func:`plan_merge` and :meth:`MergePlan.run` do.
    """
    with plan_merge(
        base,
        adapters,
        output,
        output_type=output_type,
        torch_format=torch_format,
        n_shards=n_shards,
        init=init,
        seed=seed,
        tokenizer=tokenizer,
        era=era,
        weights=weights,
        shard_size=shard_size,
        check_base=check_base,
        n_threads=n_threads,
        dtype=dtype,
        fan_in_fan_out=fan_in_fan_out,
        pre_tokenizer=pre_tokenizer,
    ) as plan:
        return plan.run(force=force, resume=resume, progress=progress)


def plan_merge(
    base: str | os.PathLike[str],
    adapters: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    progress: Progress | None = None,
    *,
    output_type: str = "pth",
    torch_format: str = "1.13",
    n_shards: int | None = None,
    init: str | None = None,
    seed: int = 0,
    tokenizer: Path | None = None,
    era: str = DEFAULT_ERA,
    weights: str | None = None,
    shard_size: str | int | None = None,
    check_base: bool = False,
    n_threads: int | None = None,
    dtype: str = "f16",
    fan_in_fan_out: str = "peft",
    pre_tokenizer: str | None = None,
) -> MergePlan:
    """Open everything and check that it fits together; nothing is written.

    Args:
        progress: called with bytes of adapters and, with ``check_base``, of the base, whose SHA256 is computed.

    The other arguments are those of :func:`merge`.

    Raises:
        UsageError: an unknown output type or initialization, an output among the inputs.
        FormatError: see :func:`lora.merging.checks.check_chain`, :func:`lora.merging.adapter.open_adapter` and
            :func:`llama_ref.checkpoint.opening.open_checkpoint`.
    """
    chosen = MergeOptions(
        output_type=output_type,
        torch_format=torch_format,
        n_shards=n_shards,
        init=init,
        seed=seed,
        tokenizer=tokenizer,
        era=era,
        weights=weights,
        shard_size=shard_size,
        check_base=check_base,
        n_threads=n_threads,
        dtype=dtype,
        fan_in_fan_out=fan_in_fan_out,
        pre_tokenizer=pre_tokenizer,
    )
    check_options(chosen)
    family, _, kind = output_type.partition("-")
    refuse_name(output, family, f"--output-type gguf-{kind or 'f16'}")
    if not adapters:
        raise UsageError("no adapter to merge; name at least one with --lora")
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(open_checkpoint(base))
        readers = [_open_any(path, opened, stack, fan_in_fan_out) for path in adapters]
        check_output(opened, readers, Path(output))
        chain = check_chain(opened, readers, init=chosen.init, tokenizer=chosen.tokenizer)
        known = identify_inputs(opened, readers, check_base=chosen.check_base, progress=progress)
        chain = replace(chain, notes=(*known, *chain.notes))
        filler = _filler(readers, chain, chosen) if chosen.init else None
        in_own_types = is_of_today(output_type, opened, chain)  # and converted afterwards
        model = MergedModel(opened, readers, filler, None if in_own_types else chosen.merged_dtype)
        plan = MergePlan(opened, readers, Path(output), chosen, chain, model)
        plan.chain = replace(chain, notes=(*chain.notes, *plan.target().notes()))
        plan._open = stack.pop_all()
        return plan


def _open_any(path: str | os.PathLike[str], base: Checkpoint, stack: contextlib.ExitStack, way: str) -> Adapter:
    """An adapter of PEFT, or one of llama.cpp's files, which becomes PEFT's among the system's temporary files."""
    home = Path(path)
    if is_lora_file(path):
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="adapter-")))
        stack.enter_context(shown_as(home, path, {}))
        write_peft(open_lora_file(path), base.params, home)
    adapter = stack.enter_context(open_adapter(home, fan_in_fan_out=way))
    adapter.path = Path(path)
    return adapter


def _filler(adapters: Sequence[Adapter], chain: Chain, options: MergeOptions) -> Callable[[LazyTensor], LazyTensor]:
    """What adds untrained rows to a matrix that is shorter than the vocabulary."""
    tokenizers = [chain.base_tokenizer, *(adapter.tokenizer for adapter in adapters)]

    def fill(tensor: LazyTensor) -> LazyTensor:
        n_old = tensor.shape[0]
        if n_old >= chain.n_vocab:
            return tensor
        pieces: list[list[int]] = []
        if options.init == "pieces":
            old = next((t for t in tokenizers if t is not None and len(t) == n_old), None)
            if old is None:
                raise UsageError(f"--init-embeddings pieces needs the tokenizer.model with {n_old} pieces of the base")
            texts = [text.replace(b" ", "▁".encode()) for text, _ in chain.tokenizer]
            pieces = spellings(old.path, texts[n_old:])
        return grow(tensor, chain.n_vocab, options.init or "", seed=options.seed, pieces=pieces)

    return fill
