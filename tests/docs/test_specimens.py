"""The page of the zoo's files shows what the files hold: of some always, of all where slow tests are asked for."""

from __future__ import annotations

import os
import re

import pytest

from docs import specimens as generator
from toolchain.zoo.make import specimens

PAGE = generator.PAGE.read_text("utf-8").splitlines()
QUICK = (
    "models/*-f16.*", "models/*-f32.*", "models/*-bf16.*", "models/ggml/*-q4_0.bin", "models/ggjt2/*-q4_0.bin",
    "models/gguf2/*-q4_0.gguf", "models/*/split", "models/*parts", "torch/*", "safetensors/*", "tokenizers/*",
    "imatrix/*", "adapters/*.*",
)  # fmt: skip


def test_every_whole_specimen_has_its_line():
    parts = dict(part.partition("\n")[::2] for part in "\n".join(PAGE).split("\n## ")[1:])
    for specimen in specimens():
        directory = specimen.look in generator.DIRECTORIES
        title, name = ("Directories", specimen.name) if directory else os.path.split(specimen.name)
        if not specimen.broken:
            assert re.search(rf"^\| `{re.escape(name)}[`/]", parts[title], re.MULTILINE), specimen.name


@pytest.mark.parametrize("pattern", QUICK)
def test_the_lines_are_what_explain_says(pattern, tmp_path):
    found = list(specimens(pattern))
    assert found
    for specimen in found:
        if specimen.look not in generator.DIRECTORIES:
            line = generator.row(specimen, tmp_path)
            assert line in PAGE, f"python -m docs.specimens writes the page anew: {line}"


def test_the_headers_are_what_hexdump_shows(tmp_path):
    for folder in ("models/ggml", "models/ggmf1", "models/ggjt3", "models/gguf3"):
        first = next(specimens(f"{folder}/*"))
        assert "\n".join(generator.heading(folder, first, tmp_path)) in "\n".join(PAGE)


@pytest.mark.slow
def test_the_whole_page_is_written_from_the_files():
    assert "\n".join(generator.page()).rstrip().splitlines() == PAGE
