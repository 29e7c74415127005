"""The page in Chromium, without a head and without a network: it comes up whole in both languages and schemes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from toolchain.explore.assemble import write_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
STAGES = ("bytes", "block", "tokens", "embedding", "layers", "logits", "choice")


@pytest.fixture(scope="module")
def page(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("page") / "page.html"
    write_page(data / "ggml" / "T1_quant_p2" / "T1.q4_0.bin", target, data / "ggml" / "T1_input" / "tokenizer.model")
    return target


def dom_of(page: Path, question: str, profile: Path, budget: int = 20_000) -> str:
    """What the page has become once its work is done, or after so many milliseconds of its own clock."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: the page is not opened")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--virtual-time-budget={budget}",
        f"--user-data-dir={profile}",
    ]
    command = [CHROMIUM, *options, "--dump-dom", f"{page.as_uri()}?{question}"]
    run = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120)
    return re.sub(r"<script.*?</script>", "", run.stdout, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("question", "lang", "done"),
    [("lang=en&scheme=light", "en", "tokens computed"), ("lang=zh&scheme=dark", "zh-CN", "个词元")],
)
def test_the_page_comes_up_whole(question, lang, done, page, tmp_path):
    dom = dom_of(page, question, tmp_path)
    assert f'<html lang="{lang}" data-scheme="{question.rpartition("=")[2]}">' in dom
    assert done in re.search(r'id="status"[^>]*>([^<]*)', dom)[1]
    for stage in STAGES:
        section = re.search(rf'<section id="{stage}"[^>]*>(.*?)</section>', dom, re.DOTALL)[1]
        assert len(section) > 1000, f"{stage} is empty"
    for sign in ("[object", "undefined", "NaN"):
        assert sign not in dom
    for drawn in ("<svg", "<canvas", "ggml_rope", "sin φ"):
        assert drawn in dom
