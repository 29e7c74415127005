"""Files of other programs that are taken for models of this one, and GGUF files of any architecture.

ggml's magic and bare numbers begin files of many programs. What follows them tells whose: each has other numbers.

=============  =====================================================================================================
gpt-j, gpt-2   a second n_vocab before the vocabulary
gpt-neox       eight numbers, the width in the third place: RedPajama, StableLM, Pythia
mpt            five numbers, then two floats
whisper        eleven numbers, the second 1500
llama2.c       no magic: seven numbers, dim to seq_len, or the magic "ak42"
=============  =====================================================================================================

Sources: examples of ggml at 2023-07 (gpt-j, gpt-neox, mpt, whisper); karpathy/llama2.c export.py.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from ggmlpy.files.errors import FormatError
from ggmlpy.formats.gguf import GgufFile, open_gguf, part_of_split
from ggmlpy.formats.gguf_kinds import other_kind
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.look.finite import NotFinite, not_finite, not_finite_problem
from ggmlpy.look.identify import Identification, keys_in_words

__all__ = ["foreign", "foreign_gguf", "identification"]

OTHER = "the program that it was made for"
_PIECE = re.compile(r"(?P<stem>.+)\.(?:part|split-?)(?P<number>\d+|[a-z]{1,2})(?:of(?P<total>\d+))?")


def identification(path: Path, what: str, **known: object) -> Identification:
    """An identification of a file that holds no GGML model."""
    size = path.stat().st_size
    usual = {"era": "", "types": {}, "model": "", "vocabulary": "", "readers": "unzip", "next_step": "", "problems": []}
    return Identification(path=str(path), what=what, size=size, expected_size=size, **(usual | known))  # type: ignore[arg-type]


def foreign(path: Path) -> Identification | None:
    """Another program's file, or a piece of one; None if it does not look like any."""
    with path.open("rb") as stream:
        head = stream.read(64)
    piece = _PIECE.fullmatch(path.name)
    if piece:
        stem, total = piece["stem"], piece["total"]
        what = f"raw piece {piece['number']}{f' of {total}' if total else ''} of a larger file"
        step = f"join the pieces in order, cat {stem}.part* > {stem}, then `identify {path.with_name(stem)}`"
        return identification(path, what, readers="none before they are joined", next_step=step)
    whose = _whose(head)
    if whose is None:
        return None
    return identification(path, whose, readers=OTHER, next_step=f"run it with {OTHER}, or get a LLaMA in its place")


def _whose(head: bytes) -> str | None:
    if head[:4] == b"nsgg":
        return "a session (prompt cache) of llama.cpp: states of a conversation, not a model"
    if head[:2] == b"MZ" or head[:4] == b"\x7fELF":
        llamafile = head.startswith(b"MZqFpD")
        return "a llamafile: an executable with a model inside" if llamafile else "an executable program, not a model"
    if head[:4] == b"lmgg" and len(head) >= 48:
        return _of_ggml(struct.unpack("<11i", head[4:48]), struct.unpack("<11f", head[4:48]))
    return "a model of llama2.c (.bin)" if head[:4] == b"24ka" or _is_llama2c(head) else None


def _of_ggml(n: tuple[int, ...], floats: tuple[float, ...]) -> str | None:
    """Whose numbers follow ggml's magic; None if they are a LLaMA's or nobody's."""
    if n[1] == 1500 and n[9] in (80, 128):
        return "a model of whisper.cpp: speech recognition, another architecture"
    if n[0] == n[7] > 0:
        return "a GPT-J model of ggml (gpt4all-j), another architecture"
    if n[0] == n[6] > 0:
        return "a GPT-2 model of ggml (Cerebras, StarCoder), another architecture"
    if 0 < n[2] <= 256 and 0 < n[3] <= 256 and n[4] > 1000 and (floats[5] == 0 or 0.5 <= floats[5] <= 256):
        return "an MPT model of ggml, another architecture"
    is_llama = n[3] > 0 and n[1] % n[3] == 0 and n[5] == n[1] // n[3]
    is_neox = n[3] > 0 and n[2] > 0 and n[2] % n[3] == 0 and 0 < n[5] <= n[2] // n[3] and n[6] in (0, 1)
    if is_neox and not is_llama:
        return "a GPT-NeoX model of ggml (RedPajama, StableLM, Pythia), another architecture"
    return None


def _is_llama2c(head: bytes) -> bool:
    if len(head) < 28:
        return False
    dim, hidden, layers, heads, kv_heads, vocab, length = struct.unpack("<7i", head[:28])
    sizes = 16 <= dim <= 16384 and dim < hidden <= 16 * dim and 0 < layers <= 256 and 32 <= abs(vocab) <= 300_000
    return sizes and 0 < kv_heads <= heads and dim % heads == 0 and heads % kv_heads == 0 and 16 <= length <= 1 << 20


def foreign_gguf(path: Path, progress: Callable[[int], object] | None = None) -> Identification | None:
    """A GGUF file that is no whole model: an adapter, a part; None if it is one.

    Args:
        progress: called with the number of bytes of values after each piece.
    """
    try:
        gguf = open_gguf(path)
    except (FormatError, OSError):
        return None  # its reader says what is wrong
    found = other_kind(gguf.metadata, path) or part_of_split(gguf)
    if not found:
        return None
    unsound = list(_not_finite(gguf, progress))
    return _described(path, gguf, *found, not_finite_problem(unsound, path) if unsound else None)


def _not_finite(gguf: GgufFile, progress: Callable[[int], object] | None) -> Iterator[NotFinite]:
    """The tensors with values that are NaN or infinite; big-endian files, which no program here reads, go unseen."""
    for tensor in gguf.tensors.values() if gguf.order == "<" else ():
        found = not_finite(OutTensor(tensor.name, tensor.type, tensor.shape, tensor.chunks), progress)
        if found is not None:
            yield found


def _described(path: Path, gguf: GgufFile, what: str, step: str, bad: FormatError | None) -> Identification:
    return identification(
        path,
        f"GGUF v{gguf.version}, {what}",
        types=dict(Counter(tensor.type.name for tensor in gguf.tensors.values())),
        model=keys_in_words(gguf.metadata),
        readers="llama.cpp",
        next_step=bad.next_step if bad else step,
        problems=[str(bad)] if bad else [],
    )
