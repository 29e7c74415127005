"""Pages that are generated from tables say what the tables say; code blocks of the other pages run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ggmlpy import types_of

ROOT = Path(__file__).resolve().parents[2]


def test_formats_page_is_generated_from_the_tables(tmp_path):
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    generate.write_all(tmp_path)
    names = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert len(names) == 11 + len([record for record in types_of("gguf", 3).values() if record.quantized])
    for name in names:
        assert (tmp_path / name).read_text("utf-8") == (ROOT / "docs" / name).read_text("utf-8"), (
            f"python -m docs.generate writes {name} anew"
        )
