"""Directories that differ from a golden one in a key or a file, and the digests of what llama.cpp makes of them.

``more-directories.json`` has a row per directory: the golden one, what is changed in it (null: the file is removed),
and the SHA-256 of the file that convert_hf_to_gguf.py of October 2026 writes with ``--outtype auto``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from llama_ref.conversion.converting import plan_conversion
from tests.conftest import ROOT
from tests.today import huggingface_directory

ROWS = json.loads((ROOT / "tests/data/today-models/more-directories.json").read_text())


def change(path: Path, change: Any) -> None:
    """Remove a file, write a text, or set and remove keys of a JSON object."""
    if change is None:
        path.unlink()
    elif isinstance(change, str):
        path.write_bytes(change.encode())
    else:
        record = json.loads(path.read_text()) if path.exists() else {}
        kept = {key: value for key, value in record.items() if key not in change.get("remove", ())}
        path.write_text(json.dumps({**kept, **change["set"]}))


@pytest.mark.parametrize("name", ROWS)
def test_the_file_is_that_of_llama_cpp(name, vectors, tmp_path):
    model, pre = huggingface_directory(vectors, ROWS[name]["base"], tmp_path / "Org-Model-7B")
    for file, changes in ROWS[name]["files"].items():
        change(model / file, changes)
    with plan_conversion(model, tmp_path / "m.gguf", outtype="auto", pre_tokenizer=pre) as plan:
        plan.write()
    assert hashlib.sha256((tmp_path / "m.gguf").read_bytes()).hexdigest() == ROWS[name]["sha256"]
