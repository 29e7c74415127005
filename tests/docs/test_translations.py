"""A Chinese page says what its English one says: the same code, commands, names, figures, headings and links."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

DOCS = ROOT / "docs"
CHINESE = sorted(DOCS.glob("*.zh.md"))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FIGURE = re.compile(r"\d+(?:[.,:/-]\d+)*")


def english(page: Path) -> Path:
    return page.with_name(page.name.replace(".zh.md", ".md"))


def code(page: Path) -> list[tuple[str, str]]:
    """Language and content of each block, without comments; of plain text its figures only: both are translated."""
    return [
        (language, " ".join(_FIGURE.findall(content)) if language == "text" else re.sub(r"[ \t]*#.*", "", content))
        for language, content in _FENCE.findall(page.read_text("utf-8"))
    ]


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text("utf-8"))


def figures(page: Path) -> Counter[str]:
    return Counter(_FIGURE.findall(_LINK.sub("", _INLINE.sub("", prose(page)))))


@pytest.fixture(params=CHINESE, ids=lambda page: page.name)
def pair(request: pytest.FixtureRequest) -> tuple[Path, Path]:
    return english(request.param), request.param


def test_the_same_code(pair: tuple[Path, Path]) -> None:
    assert code(pair[0]) == code(pair[1])


def test_the_same_scenes(pair: tuple[Path, Path]) -> None:
    """How the blocks of a page are run."""
    assert len({tuple(re.findall("^<!-- (.*) -->$", page.read_text("utf-8"), re.MULTILINE)) for page in pair}) == 1


def test_no_name_or_option_is_missing(pair: tuple[Path, Path]) -> None:
    names = [Counter(_INLINE.findall(prose(page))) for page in pair]
    assert names[0] - names[1] == Counter()


def test_no_figure_is_missing(pair: tuple[Path, Path]) -> None:
    """Chinese writes more of them as digits: "eight bits" is 8 位."""
    of = [figures(page) for page in pair]
    assert of[0] - of[1] == Counter()


def test_the_same_parts(pair: tuple[Path, Path]) -> None:
    for pattern in (r"^# ", r"^## ", r"^### ", r"^\|", r"^\d+\. ", r"^- "):
        counts = [len(re.findall(pattern, prose(page), re.MULTILINE)) for page in pair]
        assert counts[0] == counts[1], f"{pattern}: {counts}"


def test_links_lead_to_the_chinese_page_where_there_is_one(pair: tuple[Path, Path]) -> None:
    def targets(page: Path) -> Counter[str]:
        found = Counter(target.partition("#")[0].replace(".zh.md", ".md") for target in _LINK.findall(prose(page)))
        found.pop("", None)
        found.pop(english(page).name, None)  # from one language to the other
        return found

    assert targets(pair[0]) == targets(pair[1])
    for target in _LINK.findall(prose(pair[1])):
        name = target.partition("#")[0]
        other = DOCS / name.replace(".md", ".zh.md")
        assert name == pair[0].name or name.endswith(".zh.md") or not other.exists(), target
