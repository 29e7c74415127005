"""Receipts of texts, made and verified: the same tokens from the same logits, or the first that parts.

What a receipt is, :mod:`llama_ref.text.receipts` says. :func:`verify_receipt` believes none of it: it looks at the
model and the adapters, makes the text anew, and compares the logits of each token and the token.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy import __version__, open_model
from ggmlpy.files.checksums import digests
from ggmlpy.files.errors import MissingFileError
from ggmlpy.files.paths import relative_to
from ggmlpy.formats.eras import MARCH_19, era_of
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.verify.verdict import Verdict
from llama_ref.text.main_loop import MainLoop
from llama_ref.text.model import Model
from llama_ref.text.receipts import Adapter, Arithmetic, Made, Receipt, read_receipt
from lora.exchange.applying import apply_adapters

from .fingerprint import content_fingerprint

__all__ = ["PROGRAM", "ReceiptReport", "arithmetic_record", "receipt_of", "verify_receipt"]

PROGRAM = f"ggmlpy {__version__}"
Files = Sequence[tuple[str, float]]  # adapters and their factors


def receipt_of(
    loop: MainLoop,
    made: Sequence[Made],
    arithmetic: Arithmetic,
    path: str | os.PathLike[str],
    *,
    adapters: Files = (),
    base: str | None = None,
) -> Receipt:
    """The receipt of a text that a loop has just made, to be written to ``path``.

    Args:
        made: what a recorder kept of it.
        adapters, base: the files that were added to the model.
    """
    conversation, home = loop.conversation, Path(path).resolve().parent
    model = str(conversation.model.file.path)
    return Receipt(
        program=PROGRAM,
        model=relative_to(model, home),
        fingerprint=content_fingerprint(model),
        adapters=tuple(_adapter(name, factor, home) for name, factor in adapters),
        base=_adapter(base, 1.0, home) if base else None,
        arithmetic=arithmetic,
        prompt=loop.options.prompt.decode("utf-8", "surrogateescape"),
        prompt_tokens=tuple(map(int, loop.prompt_tokens)),
        n_ctx=conversation.model.n_ctx,
        n_batch=conversation.n_batch,
        n_predict=loop.options.n_predict,
        n_keep=loop.options.n_keep,
        ignore_eos=conversation.ignore_eos,
        draft=conversation.draft,
        sampling=conversation.sampling,
        made=tuple(made),
        ended_by=loop.ended_by,
    )


def _adapter(path: str, factor: float, home: Path) -> Adapter:
    return Adapter(path=relative_to(path, home), sha256=digests(path)["sha256"], factor=float(factor))


def arithmetic_record(
    numerics: str, era: str, *, build: str | None, memory_f32: bool, norm_eps: float | None, n_threads: int | None
) -> Arithmetic:
    """How logits are computed on this machine."""
    depends = numerics == "exact" and era_of(era) == MARCH_19
    return Arithmetic(
        numerics=numerics,
        era=era,
        build=build,
        memory_f32=memory_f32,
        norm_eps=norm_eps,
        threads=(n_threads or 1) if depends else None,
        machine=_machine() if numerics == "reference" else None,
    )


def _machine() -> str:
    """What the products of the reference arithmetic depend on."""
    return f"numpy {np.__version__}, {_blas()}, {platform.machine()}"


def _blas() -> str:
    """The library that multiplies matrices for numpy; before numpy 1.25 it has a name only."""
    try:
        built: Any = np.show_config(mode="dicts")
    except TypeError:
        infos = (getattr(np.__config__, f"{name}_info", {}) for name in ("blas_ilp64_opt", "blas_opt"))
        return next((info["libraries"][0] for info in infos if info.get("libraries")), "")
    found = built["Build Dependencies"]["blas"] if built else {}
    return " ".join(str(found[key]) for key in ("name", "version") if key in found)


# ── verifying ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(repr=False)
class ReceiptReport(Verdict):
    """Whether a text is what its receipt says.

    Attributes:
        path: the receipt.
        model: the file that was computed with.
        n_made, n_same: tokens of the receipt, and those that came out the same with the same logits.
        wrong: in words, what is not as the receipt says; "" if all is.
        causes: what may have led to it.
    """

    path: str
    model: str
    n_made: int
    n_same: int = 0
    wrong: str = ""
    causes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return 1 if self.wrong else 0

    def sentence(self) -> str:
        """The verdict in words."""
        return self.wrong or f"same: {self.n_same} tokens, and the logits of each, bit for bit"

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """What may be the cause."""
        yield from (f"possible cause: {cause}" for cause in self.causes)

    def closing(self) -> str:
        """The verdict on this receipt."""
        return f"receipt: {self.sentence()}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        facts = {"path": self.path, "model": self.model, "tokens": self.n_made, "same": self.n_same}
        return {"sentence": self.sentence(), **facts, "causes": self.causes}


class _PartedError(Exception):
    """A token is not as the receipt says."""


def verify_receipt(
    path: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    adapters: Sequence[str | os.PathLike[str]] = (),
    *,
    n_threads: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> ReceiptReport:
    """Make the text of a receipt anew, and compare token by token.

    Args:
        path: the receipt.
        model, adapters: where they are now; by default where the receipt says.
        n_threads: how many to use; no result depends on it.
        progress: called with 1 for each token.

    Raises:
        FormatError: the receipt was changed or is none, or a file that it names is missing or damaged.
        UsageError: this program cannot compute so.
    """
    receipt, home = read_receipt(path), Path(path).resolve().parent
    where = Path(model) if model else home / receipt.model
    report = ReceiptReport(os.fspath(path), str(where), len(receipt.made))
    given = [*map(Path, adapters)] or [home / each.path for each in receipt.adapters]
    base = home / receipt.base.path if receipt.base else None
    report.wrong = _other_files(receipt, where, given, base)
    if report.wrong:
        return report
    with open_model(where) as file:
        _add(file, receipt, given, base)
        _compare(report, receipt, file, n_threads, progress)
    if report.wrong:
        report.causes += _causes(receipt, report)
    return report


def _other_files(receipt: Receipt, model: Path, adapters: Sequence[Path], base: Path | None) -> str:
    """In words, the first file that is another than the receipt's."""
    for file in (model, *adapters, *([base] if base else [])):
        if not file.is_file():
            raise MissingFileError(
                "the receipt names a file that is not here", path=file,
                cause="the receipt was moved without it",
                next_step="name it: `verify --receipt R.json -m MODEL`, and --lora FILE for an adapter",
            )  # fmt: skip
    found = content_fingerprint(model)
    if found != receipt.fingerprint:
        return f"another model: the fingerprint of {model} is {found}, the receipt's {receipt.fingerprint}"
    if len(adapters) != len(receipt.adapters):
        return f"{len(adapters)} adapters are given; the receipt has {len(receipt.adapters)}"
    stated = [*receipt.adapters, *([receipt.base] if receipt.base else [])]
    for file, each in zip([*adapters, *([base] if base else [])], stated, strict=True):
        if digests(file)["sha256"] != each.sha256:
            return f"another adapter: the SHA256 of {file} is not {each.sha256}"
    return ""


def _add(file: ModelFile, receipt: Receipt, adapters: Sequence[Path], base: Path | None) -> None:
    factors = [(str(path), each.factor) for path, each in zip(adapters, receipt.adapters, strict=True)]
    if base is None:
        list(apply_adapters(file, factors))
        return
    with open_model(base) as finer:
        list(apply_adapters(file, factors, finer))


def _compare(
    report: ReceiptReport,
    receipt: Receipt,
    file: ModelFile,
    n_threads: int | None,
    progress: Callable[[int], object] | None,
) -> None:
    """Make the text anew until it ends or parts."""
    how = receipt.arithmetic
    with Model.from_file(
        file,
        numerics=how.numerics,
        era=how.era,
        build=how.build,
        n_ctx=receipt.n_ctx,
        memory_f32=how.memory_f32,
        n_threads=how.threads or n_threads,
        norm_eps=how.norm_eps,
    ) as model:

        def compare(made: Made) -> None:
            report.wrong = _parted(receipt, report.n_same, made, model.vocab)
            if report.wrong:
                raise _PartedError
            report.n_same += 1
            if progress:
                progress(1)

        loop = receipt.loop(model, compare)
        if tuple(loop.prompt_tokens) != receipt.prompt_tokens:
            report.wrong = "the prompt has other tokens here: another vocabulary, or another tokenizer"
            return
        try:
            loop.run()
        except _PartedError:
            return
        if report.n_same < len(receipt.made) or loop.ended_by != receipt.ended_by:
            found = f"{report.n_same} tokens, {loop.ended_by}"
            report.wrong = f"the text ends otherwise: {found}; the receipt has {len(receipt.made)}, {receipt.ended_by}"


def _parted(receipt: Receipt, place: int, made: Made, vocab: Sequence[bytes]) -> str:
    """In words, how a token is not as the receipt says; "" if it is."""
    if place >= len(receipt.made):
        return f"the text goes on after the {place} tokens of the receipt"
    stated = receipt.made[place]
    if made == stated:
        return ""
    where = f"parts at token {place + 1} of {len(receipt.made)}"
    if made.logits == stated.logits:
        return (
            f"{where}: the same logits give {_shown(vocab, made.token)}; the receipt has {_shown(vocab, stated.token)}"
        )
    chosen = f"{_shown(vocab, made.token)} for {_shown(vocab, stated.token)}"
    token = "the token is the same" if made.token == stated.token else chosen
    return f"{where}: its logits have the digest {made.logits}; the receipt has {stated.logits}; {token}"


def _shown(vocab: Sequence[bytes], token: int) -> str:
    piece = vocab[token] if 0 <= token < len(vocab) else b""
    return f"{token} {piece.decode('utf-8', 'backslashreplace')!r}"


def _causes(receipt: Receipt, report: ReceiptReport) -> Iterator[str]:
    if receipt.program != PROGRAM:
        yield f"it was made by {receipt.program}; this is {PROGRAM}"
    machine = receipt.arithmetic.machine
    if machine is not None and machine != _machine():
        yield f"the reference arithmetic's last bits depend on numpy: it was made with {machine}; here is {_machine()}"
    elif "logits" in report.wrong and not report.n_same:
        yield "a key of the model that no fingerprint covers (rope, eps), or an option in the receipt, is another"
    elif "logits" in report.wrong:
        yield "the receipt was forged from this token on, or the token before it was"
