"""What is wrong with an adapter in a ZIP is said of the ZIP and its member, not of a temporary file."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import cli
import toolchain.demo.files as demo
from ggmlpy.files.errors import FormatError
from lora.merging.adapter import open_adapter

CONFIG = "adapter_config.json"


def changed(**keys: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        record = json.loads((folder / CONFIG).read_bytes()) | keys
        (folder / CONFIG).write_text(json.dumps(record))

    return change


def spoiled(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def zipped(tmp_path: Path, spoil: Callable[[Path], None]) -> Path:
    """The demo's adapter in a folder of a ZIP, spoiled."""
    folder = tmp_path / "files" / "lora"
    shutil.copytree(demo.FOLDER / "chinese-llama-lora", folder)
    spoil(folder)
    shutil.make_archive(str(tmp_path / "lora"), "zip", tmp_path / "files")
    return tmp_path / "lora.zip"


BAD = {
    "no JSON": (spoiled(CONFIG, b"{"), CONFIG),
    "no rank": (changed(r="x"), CONFIG),
    "another method": (changed(peft_type="IA3"), CONFIG),
    "a bad pattern": (changed(rank_pattern={"(": 4}), CONFIG),
    "another rank": (changed(r=3), "adapter_model.bin"),
    "no weights": (spoiled("adapter_model.bin", b"<html>"), "adapter_model.bin"),
    "a cut tokenizer": (spoiled("tokenizer.model", b"\n\x0e\n\x05<unk>"), "tokenizer.model"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_error_names_the_member(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, member = BAD[case]
    path = zipped(tmp_path, spoil)
    with pytest.raises(FormatError) as caught:
        open_adapter(path)
    assert caught.value.path == f"{path}!lora/{member}"
    base = str(demo.FOLDER / "base")
    assert cli.main(["merge", "--base", base, "--lora", str(path), "--output", str(tmp_path / "o")]) == 3
    said = capsys.readouterr().err
    assert f"{path}!lora/{member}" in said
    assert f"{tempfile.gettempdir()}/adapter-" not in said
    step = said.rpartition("Next: ")[2]
    assert "!" not in step


def test_a_note_names_the_member(tmp_path: Path) -> None:
    path = zipped(tmp_path, changed(fan_in_fan_out=True, modules_to_save=["a.norm"]))
    with open_adapter(path) as adapter:
        assert next(note for note in adapter.notes if "fan_in_fan_out" in note).startswith(f"{path}!lora/{CONFIG} says")
        assert any(f"{path}!lora/{CONFIG} promises a.norm whole" in note for note in adapter.notes)
        assert not any("/adapter-" in note for note in adapter.notes)


def test_a_directory_is_named_as_it_is(tmp_path: Path) -> None:
    path = zipped(tmp_path, changed(r="x"))
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "x")
    with pytest.raises(FormatError) as caught:
        open_adapter(tmp_path / "x")
    assert caught.value.path == str(tmp_path / "x" / "lora" / CONFIG)
