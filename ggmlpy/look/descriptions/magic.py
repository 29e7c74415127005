"""Lines for file(1), which says of a file what it is: ``file -m ggml.magic model.bin``."""

from __future__ import annotations

from collections.abc import Iterator

from ggmlpy.formats.containers import CONTAINERS, GGUF, HISTORY, Container
from ggmlpy.formats.fields import Number
from ggmlpy.formats.gguf import records_of

from .layouts import GENERATED, offsets_of
from .mime import mime_type

TOLD = {"n_layer": "%d layers", "n_embd": "%d wide", "n_vocab": "vocabulary of %d", "ftype": "file type %d"}
KINDS = {"<I": "lelong", "<i": "lelong", "<Q": "lequad"}


def text() -> str:
    """The lines."""
    parts = [f"# The containers of GGML models, for file(1). {GENERATED}"]
    for container in (*CONTAINERS.values(), GGUF):
        parts += ["", *_container(container)]
    return "\n".join([*parts, ""])


def _container(container: Container) -> Iterator[str]:
    title = "GGUF" if container is GGUF else container.name
    yield f"0\tlelong\t0x{container.magic:08x}\t{title} model"
    yield f"!:mime\t{mime_type(container)}"
    yield f"!:ext\t{'gguf' if container is GGUF else 'bin'}"
    for version in container.versions:
        yield from _version(container, version)


def _version(container: Container, version: int) -> Iterator[str]:
    record = records_of(version).header if container is GGUF else container.header
    places, codes = offsets_of(record), {field.name: field.code for field in record if isinstance(field, Number)}
    told = {"n_tensors": "%lld tensors" if version > 1 else "%d tensors"} if container is GGUF else TOLD
    written = HISTORY[container.name, version].written.replace("–", "to")
    if version:
        yield f">{places['version']}\tlelong\t{version}\t\\b v{version}, written {written}"
    else:
        yield f">0\tlelong\tx\t\\b (unversioned), written {written}"
    level = ">>" if version else ">"
    for name, words in told.items():
        yield f"{level}{places[name]}\t{KINDS[codes[name]]}\tx\t\\b, {words}"
    if container is GGUF and version == max(container.versions):
        yield f">{places['version']}\tbelong\t{version}\t\\b v{version}, big-endian"
