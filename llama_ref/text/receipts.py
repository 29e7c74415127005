"""Receipts of texts: what a text was made of and with, and what each of its tokens was chosen from.

A receipt is a JSON object. It names the model (by the fingerprint of its tensors) and adapters, holds the prompt, every
option that decides a token, and for each token its number and a digest of the logits that the sampler had:

    "made": [{"token": 372, "logits": "5b1c…"}, …]

The digest is the first half of the SHA256 of the float32 values, little-endian; so a receipt says more than its text:
who recomputes it has done the same arithmetic, to the last bit of every logit. ``sha256`` is that of the rest, as JSON
with sorted keys and without white space: it tells a receipt that was damaged. One that was forged is told by computing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.files.json_files import read_json

from .conversation import Conversation
from .main_loop import MainLoop, MainOptions
from .sampling import Sample, SamplingOptions

__all__ = ["FORMAT", "Adapter", "Arithmetic", "Made", "Receipt", "Recorder", "read_receipt", "write_receipt"]

FORMAT = "ggmlpy receipt 1"
LARGEST = 1 << 26  # bytes of a receipt; a token has about 100

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A file of a LoRA adapter, or the model that its matrices are taken from."""

    path: str
    sha256: str
    factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """How the logits were computed, as ``Model.from_file`` takes it.

    Attributes:
        threads: where results depend on them: in the exact arithmetic of 2023-03-19.
        machine: what the bits depend on beside; None: they are the same on every machine.
    """

    numerics: str
    era: str
    build: str | None
    memory_f32: bool
    norm_eps: float | None
    threads: int | None
    machine: str | None


@dataclass(frozen=True, kw_only=True)
class Made:
    """A token, and the digest of the logits that it was chosen from."""

    token: int
    logits: str


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """All that a text depends on, and its tokens.

    Attributes:
        model, adapters, base: files, by names that are relative to the receipt's directory.
        fingerprint: of the model's tensors, without adapters.
        prompt: bytes that are not UTF-8 are lone surrogates, as in Python's file names.
        draft: how many tokens were drafted at a time; no token depends on it.
    """

    program: str
    model: str
    fingerprint: str
    adapters: tuple[Adapter, ...] = ()
    base: Adapter | None = None
    arithmetic: Arithmetic
    prompt: str
    prompt_tokens: tuple[int, ...]
    n_ctx: int
    n_batch: int
    n_predict: int
    n_keep: int
    ignore_eos: bool
    draft: int
    sampling: SamplingOptions
    made: tuple[Made, ...]
    ended_by: str
    format: str = FORMAT

    def loop(self, model: Any, on_made: Callable[[Made], None]) -> MainLoop:
        """The loop of ``main`` that makes the text anew; ``on_made`` is called with each token."""
        conversation = Conversation(
            model,
            self.sampling,
            self.arithmetic.era,
            n_batch=self.n_batch,
            ignore_eos=self.ignore_eos,
            on_sample=lambda sample, logits: on_made(made_of(sample, logits)),
            draft=self.draft,
        )
        prompt = self.prompt.encode("utf-8", "surrogateescape")
        return MainLoop(
            conversation, MainOptions(prompt=prompt, n_predict=self.n_predict, n_keep=self.n_keep), _Nowhere()
        )


class _Nowhere:
    """A console that shows nothing, on which nobody types."""

    def text(self, data: bytes) -> None:
        pass

    raw = text

    def color(self, name: str) -> None:
        pass

    def read_line(self, prompt: bytes) -> bytes | None:
        return None


@dataclass
class Recorder:
    """Keeps what a conversation makes; what was called with its choices before is called still."""

    conversation: Conversation
    made: list[Made] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._before, self.conversation.on_sample = self.conversation.on_sample, self._sampled

    def _sampled(self, sample: Sample, logits: np.ndarray) -> None:
        self.made.append(made_of(sample, logits))
        if self._before is not None:
            self._before(sample, logits)


def made_of(sample: Sample, logits: np.ndarray) -> Made:
    """A choice as a receipt has it."""
    digest = hashlib.sha256(np.ascontiguousarray(logits, "<f4").data).hexdigest()
    return Made(token=int(sample.token), logits=digest[:32])


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_receipt(path: str | os.PathLike[str], receipt: Receipt) -> None:
    """Write a receipt, complete or not at all."""
    record = asdict(receipt)
    text = json.dumps({**record, "sha256": _digest(record)}, indent=1, ensure_ascii=False)
    with atomic_write(path) as stream:
        stream.write(text.encode("utf-8", "backslashreplace") + b"\n")  # a lone surrogate as JSON escapes it


def read_receipt(path: str | os.PathLike[str]) -> Receipt:
    """Read what :func:`write_receipt` wrote.

    Raises:
        MissingFileError: there is no such file.
        FormatError: it is not a receipt, or it was changed.
    """
    record = read_json(path, most=LARGEST)
    stated = record.pop("sha256", None)
    try:
        if record.get("format") != FORMAT:
            raise ValueError(f"its format is {record.get('format')!r:.60}, not {FORMAT!r}")
        receipt: Receipt = _built(Receipt, record)
        receipt.prompt.encode("utf-8", "surrogateescape")
    except (ValueError, UsageError) as error:
        raise FormatError(
            "is not a receipt of this program", path=path, found=str(error)[:160],
            cause="another JSON file, or a receipt of a later version",
            next_step="`generate --receipt R.json`",
        ) from error  # fmt: skip
    if stated != _digest(asdict(receipt)):
        raise FormatError(
            "the receipt was changed after it was written", path=path, field="sha256", expected=stated,
            found=_digest(asdict(receipt)), cause="somebody edited it, or it was damaged on its way",
            next_step="ask for the receipt that `generate` wrote",
        )  # fmt: skip
    return receipt


def _digest(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _built(cls: type[T], record: Any) -> T:
    """A dataclass from a JSON object with exactly its fields, each of its type.

    Raises:
        ValueError: a field is missing, unknown, or of another type.
    """
    names = [each.name for each in fields(cls)]  # type: ignore[arg-type]
    if not isinstance(record, dict) or set(record) != set(names):
        odd = set(record) ^ set(names) if isinstance(record, dict) else {type(record).__name__}
        raise ValueError(f"{cls.__name__.lower()}: {', '.join(sorted(odd))}")
    hints = get_type_hints(cls)
    return cls(**{name: _checked(name, hints[name], record[name]) for name in names})


def _checked(name: str, kind: Any, value: Any) -> Any:
    """A value of a field's type.

    Raises:
        ValueError: it is of another.
    """
    if get_origin(kind) is UnionType:  # "or None"
        return None if value is None else _checked(name, get_args(kind)[0], value)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{name} is not a list")
        return tuple(_checked(name, get_args(kind)[0], each) for each in value)
    if is_dataclass(kind):
        return _built(kind, value)  # type: ignore[arg-type]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is int and not -(2**53) < value < 2**53):
        raise ValueError(f"{name} is {value!r:.60}")
    return value
