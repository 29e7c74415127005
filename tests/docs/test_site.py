"""The pages as a site: it builds without a warning, asks the network for nothing, and shows the notebook."""

from __future__ import annotations

import ast
import html
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = ("ggmlpy", "llama_ref", "lora", "toolchain")


def test_the_site_builds_and_is_self_contained(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the site is built with pip install '.[docs]'")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    pages = {page.relative_to(tmp_path).as_posix(): page.read_text("utf-8") for page in tmp_path.rglob("*.html")}
    running = pages.pop("explore/page.html")
    assert not re.findall(r'<(?:script|img|link|iframe)[^>]* (?:src|href)="(?!data:)', running)
    for name, page in pages.items():
        fetched = re.findall(
            r'(?:<script[^>]* src|<img[^>]* src|<link[^>]* rel="stylesheet"[^>]* href)="([^"]*)"', page
        )
        assert fetched, name
        assert not [address for address in fetched if re.match("https?:|//", address)], name
    notebook = html.unescape(re.sub("<[^>]*>", "", pages["notebooks/build_a_ggjt_file/index.html"]))
    assert "MAGIC, VERSION, F32, F16 = 0x67676A74" in notebook
    assert "(b'tjgg" in notebook, "what a cell printed"
    assert 'href="notebooks/build_a_ggjt_file/"' in pages["index.html"]
    assert not [name for name in pages if name.endswith(".py")]
    assert '<html lang="zh-Hans"' in pages["verify.zh/index.html"]
    assert '<html lang="en"' in pages["verify/index.html"]
    assert "ggmlpy quantize" in html.unescape(re.sub("<[^>]*>", "", pages["reference/commands/index.html"]))
    for library, name in (("ggmlpy", "open_model"), ("llama_ref", "Model"), ("lora", "merge")):
        assert f'id="{library}.{name}"' in pages[f"reference/{library}/index.html"]
    searched = words_of(tmp_path / "search" / "search_index.json")
    chinese = "量化 对话 合并 下载 校验 词表 适配器 训练 采样 转换"
    english = "quantize merge lora tokenizer rotary ggjt imatrix serve verify temperature"
    assert searched.issuperset(f"{chinese} {english}".split())


@pytest.mark.parametrize("script", sorted((ROOT / "docs").glob("*.py")), ids=lambda path: path.name)
def test_what_makes_the_site_imports_names_that_are_there(script: Path) -> None:
    """Without mkdocs the scripts are not run, so that nobody would notice a name that has moved."""
    for node in ast.walk(ast.parse(script.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in (
            "ggmlpy",
            "llama_ref",
            "lora",
            "toolchain",
        ):
            there = vars(importlib.import_module(node.module))
            assert {alias.name for alias in node.names} <= there.keys(), node.module


def words_of(index: Path) -> set[str]:
    """The words that the site's search finds, cut as mkdocs.yml says, small letters."""
    separator = re.compile(r'[\s\u200b\-,:!=\[\]()"/|`]+|\.(?!\d)')
    sections = json.loads(index.read_bytes())["docs"]
    texts = (re.sub("<[^>]*>", "", f"{each['title']} {each['text']}") for each in sections)
    return {word.lower() for text in texts for word in separator.split(text)}


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "img").glob("*.svg")), ids=lambda path: path.name)
def test_pictures_are_legible_on_a_phone(picture: Path) -> None:
    """A phone shows a page about 350 pixels wide."""
    text = picture.read_text("utf-8")
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', text)[1])
    sizes = [
        float(size)
        for size in re.findall(r'font-size[:="]+([\d.]+)|font:(?:\d+ )?([\d.]+)px', text)
        for size in size
        if size
    ]
    assert min(sizes) * min(1, 350 / width) > 8, f"{width} wide"
