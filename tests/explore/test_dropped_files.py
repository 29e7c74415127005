"""Files that are dropped on the page, in Chromium: what can be shown is, what cannot is told, and the page lives on."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

import cli
from tests.explore.test_in_a_browser import dom_of
from tests.llama_ref.random_models import Shape, write_random_model
from toolchain.explore.assemble import page_of
from toolchain.zoo.make import specimens

DROP = Path(__file__).with_name("dropped.js").read_text("utf-8")
SPECIMENS = (  # in this order, after a GGUF file of a model that speaks
    "broken/ggml/cut-tensor.bin", "models/ggml/2023-03-19-f16.bin", "broken/gguf/shape.gguf",
    "broken/gguf/version.gguf", "models/gguf3/2026-10-f16.gguf", "tokenizers/base.model",
    "models/gguf3/big-endian-f16.gguf",
)  # fmt: skip


@pytest.fixture(scope="module")
def notes(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page said after each file."""
    folder, model = tmp_path_factory.mktemp("dropped"), data / "ggml" / "T1_quant_p2" / "T1.q4_0.bin"
    paths = [folder / "speaking.gguf"]
    source = data / "ggml" / "T1_convert_f16" / "T1.p2.f16.bin"
    assert cli.main(["migrate", "-q", str(source), str(paths[0])]) == 0
    for name in SPECIMENS:
        (specimen,) = specimens(name)
        paths.append(folder / Path(name).name)
        specimen.write(paths[-1])
    paths.append(write_random_model(folder / "no-bytes.bin", Shape(), "q4_0", "2023-05-19"))
    cases = [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths]
    script = f'<script type="module">\nconst CASES = {json.dumps(cases)};\n{DROP}</script></body>'
    page = folder / "page.html"
    page.write_text(page_of(model).replace("</body>", script), "utf-8")
    dom = dom_of(page, "lang=en", folder / "profile", budget=400_000)
    return json.loads(html.unescape(re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)[1]))


def test_the_browser_never_leaves_the_page(notes):
    assert all(note["taken"] for note in notes.values())
    assert not any(note["empty"] for note in notes.values())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("speaking.gguf", "gguf v3"),
        ("2023-03-19-f16.bin", "ggml (unversioned)"),
        ("2026-10-f16.gguf", "gguf v3"),
    ],
)
def test_a_model_that_is_dropped_takes_the_place_of_the_one_before(name, kind, notes):
    note = notes[name]
    assert (note["file"], note["error"]) == (name, False)
    assert note["kind"].startswith(kind)
    assert re.fullmatch(r"\d+ tokens computed", note["status"])


@pytest.mark.parametrize(
    ("name", "before", "words"),
    [
        ("cut-tensor.bin", "speaking.gguf", r"The file ends inside .+ bytes are needed, .+ are left\."),
        ("shape.gguf", "2023-03-19-f16.bin", "impossible shape"),
        ("version.gguf", "2023-03-19-f16.bin", "gguf has no version 9"),
        ("base.model", "2026-10-f16.gguf", "Not a GGML or GGUF file: it begins with 0x050a0e0a"),
        ("big-endian-f16.gguf", "2026-10-f16.gguf", "big-endian"),
        ("no-bytes.bin", "2026-10-f16.gguf", "The vocabulary has no token for byte"),
        ("huge.gguf", "2026-10-f16.gguf", r"huge\.gguf has 4,000,000,000 bytes; this page reads up to 1,250,000,000"),
        ("gone.bin", "2026-10-f16.gguf", r"gone\.bin cannot be read: it is gone"),
    ],
)
def test_what_cannot_be_shown_is_told_and_the_model_before_stays(name, before, words, notes):
    note = notes[name]
    assert note["error"]
    assert re.search(words, note["status"])
    assert note["file"] == before
    assert note["own"] == notes[before]["own"]


def test_after_all_that_the_next_character_is_made(notes):
    assert notes["nothing"]["file"] == "2026-10-f16.gguf"
    made = [int(re.match(r"\d+", notes[name]["status"])[0]) for name in ("2026-10-f16.gguf", "last")]
    assert made[1] == made[0] + 1
