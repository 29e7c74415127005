"""One file or directory of the zoo, and how a broken one is made from a whole one: by changing declared fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ggmlpy.files.atomic import atomic_write
from ggmlpy.look.hexdump import hexdump

__all__ = ["IDENTIFY", "Change", "Specimen", "append", "changed", "cut", "put", "save"]

IDENTIFY = "identify {}"


@dataclass(frozen=True)
class Specimen:
    """A file or a directory, and what there is to say of it.

    Attributes:
        name: its path below the zoo.
        story: what it is, and where such files come from, in one line.
        write: makes it at a path; its directory exists.
        says: words that ``look`` prints: what the file is, or what is wrong with it.
        look: the command that looks at it, with {} in place of its path.
        broken: whether that command refuses it, with exit code 3.
    """

    name: str
    story: str
    write: Callable[[Path], object]
    says: str
    look: str = IDENTIFY
    broken: bool = False


# ── changing a file ──────────────────────────────────────────────────────────────────────────────────────────────────

Fields = dict[str, tuple[int, int]]  # offset and size of each field, by the name that hexdump gives it
Change = Callable[[bytes, Fields], bytes]


def changed(whole: Callable[[Path], object], *changes: Change) -> Callable[[Path], None]:
    """A writer of the file that ``whole`` writes, with changes; offsets are those of the whole file, so cut last."""

    def write(path: Path) -> None:
        whole(path)
        data, fields = path.read_bytes(), {}
        if any(getattr(change, "by_field", False) for change in changes):
            fields = {line.path: (line.offset, line.size) for line in hexdump(path, fold=False)}
        for change in changes:
            data = change(data, fields)
        save(path, data)

    return write


def put(field: str | int, value: int | bytes, at: int = 0) -> Change:
    """Write a number over a field, as many bytes as it has, or bytes over its beginning.

    Args:
        field: its name as hexdump prints it, or an offset, where a number takes four bytes.
        at: how many bytes behind its beginning.
    """

    def change(data: bytes, fields: Fields) -> bytes:
        offset, size = fields[field] if isinstance(field, str) else (field, 4)
        new = value if isinstance(value, bytes) else (value % (1 << 8 * size)).to_bytes(size, "little")
        return data[: offset + at] + new + data[offset + at + len(new) :]

    return _marked(change, field)


def cut(field: str | int, after: int = 0) -> Change:
    """Let the file end at a field, or at so many bytes behind its beginning."""

    def change(data: bytes, fields: Fields) -> bytes:
        return data[: (fields[field][0] if isinstance(field, str) else field) + after]

    return _marked(change, field)


def append(data: bytes) -> Change:
    """Put bytes behind the end."""
    return lambda old, fields: old + data


def _marked(change: Change, field: str | int) -> Change:
    change.by_field = isinstance(field, str)  # type: ignore[attr-defined]
    return change


def save(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file."""
    with atomic_write(path) as stream:
        stream.write(data if isinstance(data, bytes) else b"".join(data))
