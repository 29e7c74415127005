"""MIME types for desktops: a package of freedesktop.org's shared-mime-info."""

from __future__ import annotations

from collections.abc import Iterator

from ggmlpy.formats.containers import CONTAINERS, GGUF, Container

from .layouts import GENERATED

PRIORITY = 60  # above the usual 50: four bytes at the beginning leave no doubt


def mime_type(container: Container) -> str:
    """Not registered, hence with an x."""
    return f"application/x-{container.name}"


def text() -> str:
    """The package."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f"<!-- {GENERATED} -->"]
    lines.append('<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">')
    for container in (*CONTAINERS.values(), GGUF):
        lines += _container(container)
    return "\n".join([*lines, "</mime-info>", ""])


def _container(container: Container) -> Iterator[str]:
    yield f'  <mime-type type="{mime_type(container)}">'
    yield f"    <comment>{'GGUF' if container is GGUF else container.name} model</comment>"
    yield f'    <magic priority="{PRIORITY}">'
    yield f'      <match type="little32" offset="0" value="0x{container.magic:08x}"/>'
    yield "    </magic>"
    if container is GGUF:
        yield '    <glob pattern="*.gguf"/>'
    yield "  </mime-type>"
