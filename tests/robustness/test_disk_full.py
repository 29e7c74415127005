"""The disk is full in the middle of a file: one line says so, nothing half remains, and what was there stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import scenes
from tests.robustness.conftest import WRITERS, contents, largest_of, partials

FILES = [name for name, writer in WRITERS.items() if "." in writer.output]


@pytest.mark.parametrize(("name", "part"), [*((name, 0.02) for name in WRITERS), *((name, 0.97) for name in FILES)])
def test_no_room(name: str, part: float, nursery, right, tmp_path: Path) -> None:
    writer = WRITERS[name]
    expected = right(name)
    folder = tmp_path / "run"
    folder.mkdir()
    writer.scene(folder)
    before = contents(folder)
    code, said = nursery.run(list(writer.argv), folder, largest=max(500, int(largest_of(expected) * part)))
    assert "Traceback" not in said
    assert code == 3, said
    assert "cannot write: File too large" in said
    assert "Next: " in said
    assert partials(folder) == []
    assert contents(folder).items() >= before.items()
    left = contents(folder / writer.output) if (folder / writer.output).exists() else {}
    assert left.items() <= expected.items(), "no half file under a final name"
    code, said = nursery.run(list(writer.argv), folder)
    assert (code, contents(folder / writer.output)) == (0, expected), said


@pytest.mark.parametrize("name", FILES)
def test_the_old_file_stays(name: str, nursery, tmp_path: Path) -> None:
    writer = WRITERS[name]
    folder = tmp_path / "run"
    folder.mkdir()
    writer.scene(folder)
    (folder / writer.output).write_bytes(b"precious")
    argv = [*writer.argv, "--force"] if name.startswith("merge") else list(writer.argv)
    code, said = nursery.run(argv, folder, largest=2000)
    assert code == 3, said
    assert (folder / writer.output).read_bytes() == b"precious"
    assert partials(folder) == []


OTHERS = {
    "report": (scenes.quantized, "report ggml-model-q4_0.bin --html out.html"),
    "logits": (scenes.quantized, "logits -m ggml-model-q4_0.bin --tokens 1,2 --numerics reference --out out.npy"),
    "tokenizer": (scenes.tokenizers, "tokenizer merge llama.model chinese_sp.model out.model"),
    "instructions": (scenes.records, "instructions records.json --output out.json"),
    "trace": (
        scenes.quantized,
        "generate -m ggml-model-q4_0.bin -p x -n 3 --numerics reference --trace-sampling out.json",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_no_room_for_other_outputs(name: str, nursery, tmp_path: Path) -> None:
    scene, command = OTHERS[name]
    folder = tmp_path / "run"
    folder.mkdir()
    scene(folder)
    code, said = nursery.run(command.split(), folder, largest=2500)
    assert "Traceback" not in said
    assert code == 3, said
    assert "File too large" in said
    if name != "trace":  # a log that grows line by line
        assert [path for path in folder.iterdir() if path.name.startswith((".out", "out"))] == []
