"""A hook of mkdocs: pages in Chinese say so, for a browser chooses its characters and breaks lines by it."""

from __future__ import annotations

from typing import Any


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The finished HTML of a page, ``html lang`` corrected."""
    chinese = page.file.src_uri.endswith(".zh.md")
    return output.replace('<html lang="en"', '<html lang="zh-Hans"', 1) if chinese else output
