"""Where an adapter's files are: in a directory, in the only directory below it that has them, or in a ZIP.

A ZIP is unpacked among the system's temporary files: only the files that are wanted, each at most as long as the
archive's directory says, and nothing that would expand further than deflate can.
"""

from __future__ import annotations

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ggmlpy.files.atomic import require_space
from ggmlpy.files.errors import IntegrityError, MissingFileError, OutputError, UsageError
from ggmlpy.files.kinds import FIRST_BYTES, lookalike
from ggmlpy.files.npy import ZIP_TROUBLE
from ggmlpy.files.unpacked import shown_as

from .adapter_config import CONFIG

__all__ = ["TOKENIZER_FILES", "WEIGHTS", "files_of_adapter", "incomplete"]

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
WANTED = (CONFIG, *WEIGHTS, *TOKENIZER_FILES)
LARGEST_EXPANSION = 1100  # deflate cannot do better than 1 : 1032


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
        next_step=f"`verify {path}`, then download it again",
    )


def files_of_adapter(path: Path, stack: contextlib.ExitStack) -> dict[str, Path]:
    """Name -> path of the adapter's files in a directory, in the one directory below that has them, or in a ZIP."""
    if path.is_dir():
        inner = [path, *sorted(p for p in path.iterdir() if p.is_dir())]
        homes = [home for home in inner if any((home / name).is_file() for name in (CONFIG, *WEIGHTS))]
        home = _the_one(path, homes, path)
        return {name: home / name for name in WANTED if (home / name).is_file()}
    if path.is_file() and path.name in WEIGHTS:
        return files_of_adapter(path.parent, stack)
    if path.is_file() and _is_zip(path):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="adapter-")))
        return _unpack(path, folder, stack)
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
    """Why a file is not a ZIP, and what to do."""
    try:
        with path.open("rb") as stream:
            first = stream.read(FIRST_BYTES)
    except OSError as error:
        return error.strerror, "check who may read it"
    if first.startswith(b"PK"):
        return "an interrupted download: the end of the ZIP is missing", "download it again"
    cause, next_step = lookalike(first, path) or (None, f"`identify {path}`")
    return cause, next_step


def _the_one(path: Path, homes: list[Any], default: Any) -> Any:
    if len(homes) > 1 and homes[0] != default:
        raise UsageError(f"{path} holds several adapters: name one of {', '.join(map(str, homes))}")
    return homes[0] if homes else default


def _unpack(path: Path, folder: Path, stack: contextlib.ExitStack) -> dict[str, Path]:
    """Unpack the wanted files of a ZIP into ``folder``, streamed; nothing else in it is touched."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _wanted_entries(path, archive)
            require_space(folder / WEIGHTS[-1], sum(entry.file_size for entry in entries.values()))
            for name, entry in entries.items():
                with archive.open(entry) as source, open(folder / name, "xb") as target:
                    _copy_bounded(path, source, target, entry)
            stack.enter_context(shown_as(folder, path, {name: entry.filename for name, entry in entries.items()}))
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
        inside = PurePosixPath(entry.filename.replace("\\", "/"))  # some programs for Windows write backslashes
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


def incomplete(path: Any, wanted: str, files: Mapping[str, Path]) -> MissingFileError:
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
