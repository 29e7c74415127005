"""A hook of mkdocs: each notebook becomes a page of the site, its cells and what they printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files


def on_files(files: Files, config: Any) -> Files:
    """Add ``notebooks/x.md`` for each ``notebooks/x.ipynb``, which stays to be fetched."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        name = file.src_uri.rpartition("/")[2]
        page = "\n\n".join(cells_of(json.loads(file.content_string)))
        words = f"{page}\n\nThe notebook itself, to be run: [{name}]({name})\n"
        files.append(File.generated(config, file.src_uri.replace(".ipynb", ".md"), content=words))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to a notebook lead to its page."""
    return markdown if page.file.src_uri.startswith("notebooks/") else markdown.replace(".ipynb)", ".md)")


def cells_of(notebook: dict[str, Any]) -> Iterator[str]:
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for output in cell.get("outputs", ()):
            text = "".join(output.get("text") or output["data"]["text/plain"])
            yield f"```text\n{text.rstrip()}\n```"
