"""Both languages of a page have the same commands and figures, and its figures are those of the example."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.docs.blocks import ROOT, blocks_of
from toolchain.course.projects import PROJECTS
from toolchain.course.starting import start_project

COURSE = ROOT / "docs" / "course"
PAGES = sorted(page for page in COURSE.glob("*.md") if not page.name.endswith(".zh.md"))


def chinese(page: Path) -> Path:
    return page.with_name(page.name.replace(".md", ".zh.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_both_languages_have_the_same_commands_and_figures(page: Path) -> None:
    english, other = (one.read_text("utf-8") for one in (page, chinese(page)))
    blocks = [[(block.language, block.code, block.how) for block in blocks_of(one)] for one in (page, chinese(page))]
    assert blocks[0] == blocks[1]
    prose = [re.sub(r"```.*?```", "", text, flags=re.DOTALL) for text in (english, other)]
    joined = [re.sub(r"(?<!\n)\n *(?=\S)", " ", text) for text in prose]  # a span may go on in the next line
    spans = [sorted(re.findall(r"`[^`\n]+`", text)) for text in joined]
    assert spans[0] == spans[1]
    for pattern in (r"^## ", r"^\|", r"^\d+\. ", r"^<details", r"\]\("):
        counts = [len(re.findall(pattern, text, re.MULTILINE)) for text in prose]
        assert counts[0] == counts[1], (pattern, counts)


def test_every_project_has_its_page_and_the_index_lists_it() -> None:
    for name in ("index.md", "index.zh.md"):
        index = (COURSE / name).read_text("utf-8")
        for project in PROJECTS.values():
            page = ROOT / project.page
            page = page if name == "index.md" else chinese(page)
            assert page.is_file()
            assert f"({page.name})" in index
    assert len(PAGES) == len(PROJECTS) + 1


@pytest.mark.parametrize("project", PROJECTS.values(), ids=lambda project: project.slug)
def test_titles_are_those_of_the_list(project) -> None:
    page = ROOT / project.page
    assert page.read_text("utf-8").startswith(f"# {project.number}. {project.title}\n")
    assert chinese(page).read_text("utf-8").startswith(f"# {project.number}. {project.chinese}\n")
    assert f"course check {project.number} --command" in page.read_text("utf-8")
    assert len(re.findall("<details", page.read_text("utf-8"))) >= 2


@pytest.mark.parametrize("project", PROJECTS.values(), ids=lambda project: project.slug)
def test_figures_are_those_of_the_example(project, tmp_path: Path) -> None:
    start_project(project, tmp_path / "begun")
    files = [path.read_bytes() for path in (tmp_path / "begun" / "example").rglob("*") if path.is_file()]
    text = "\n".join(data.decode("utf-8", "replace") for data in files)
    hexes = " ".join(data.hex() for data in files)
    example = (ROOT / project.page).read_text("utf-8").partition("## An example")[2]
    shown = [line for block in re.findall(r"```text\n(.*?)```", example, re.DOTALL) for line in block.splitlines()]
    assert shown or project.slug in ("q4_0", "gguf")
    for line in shown:
        assert line in text or line.replace(" ", "") in hexes, line


@pytest.mark.parametrize("project", PROJECTS.values(), ids=lambda project: project.slug)
def test_the_real_thing_agrees_with_itself(project, tmp_path: Path) -> None:
    for index, kind in enumerate(project.kinds):
        if kind not in project.refused:
            (tmp_path / str(index)).mkdir()
            source = project.make(np.random.RandomState(index), kind, tmp_path / str(index))
            assert project.answer(source) == project.answer(source)
