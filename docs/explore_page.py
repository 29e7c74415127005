"""A hook of mkdocs: the page of the running demo model stands beside ``explore.md``."""

from __future__ import annotations

from typing import Any

from mkdocs.structure.files import File, Files

from toolchain.demo.default import default_model
from toolchain.demo.files import FOLDER
from toolchain.explore.assemble import page_of


def on_files(files: Files, config: Any) -> Files:
    """Add ``explore/page.html``, with the demo model in it."""
    page = page_of(default_model(), FOLDER / "base" / "tokenizer.model")
    files.append(File.generated(config, "explore/page.html", content=page))
    return files
