"""Links between pages lead somewhere, and every page can be found from the index and in the site's navigation."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT

_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]+)?\)")
DOCS = ROOT / "docs"


def outside_code(page: Path) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """As GitHub and mkdocs make them from headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for target, anchor in _LINK.findall(outside_code(page)):
        found = page.parent / target if target else page
        assert found.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor[1:] in anchors(found), f"{page.name}: {target}{anchor}"


def test_the_index_and_the_navigation_know_every_page() -> None:
    index, navigation = (DOCS / "index.md").read_text("utf-8"), (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in [*DOCS.glob("*.md"), *DOCS.glob("notebooks/*.ipynb")]:
        name = page.relative_to(DOCS).as_posix()
        page_of_it = name.replace(".ipynb", ".md")  # docs/notebook_pages.py
        assert f": {page_of_it}\n" in navigation, name
        assert name == "index.md" or f"({name})" in index, name


def test_the_chinese_readme_has_the_parts_of_the_english_one() -> None:
    english, chinese = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh.md"))
    for pattern in (r"^## ", r"^\*\*", r"^\|", r"^```", r"^- "):
        counts = [len(re.findall(pattern, text, re.MULTILINE)) for text in (english, chinese)]
        assert counts[0] == counts[1], f"{pattern}: {counts}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem.endswith(".zh")], ids=lambda page: page.name)
def test_chinese_lines_are_not_broken(page: Path) -> None:
    """A line break becomes a space when the page is shown, and there is none between Chinese characters."""
    for line, after in pairwise(outside_code(page).splitlines()):
        assert not (line and after and re.search(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]$", line)
                    and re.match(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]", after)), line  # fmt: skip
