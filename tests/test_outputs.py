"""No command writes over what it was given to read, under whatever name; a name that says GGUF holds GGUF."""

from __future__ import annotations

import os
import shutil

import pytest

from ggmlpy.files.errors import UsageError
from ggmlpy.files.paths import refuse_overwriting
from toolchain.commands.main import main

COMMANDS = (
    "quantize MODEL OUT q4_0",
    "migrate MODEL OUT --container ggjt1",
    "report MODEL --html OUT",
    "logits -m MODEL --tokens 1,2 --out OUT",
    "generate -m MODEL -p a -n 1 --trace-sampling OUT",
    "verify MODEL --junit OUT",
    "tokenizer merge MODEL MODEL OUT",
    "instructions MODEL -o OUT",
    "train plot MODEL -o OUT",
)


@pytest.mark.parametrize("how", ["itself", "symbolic link", "hard link"])
@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_is_an_input_is_refused(command, how, golden, tmp_path, capsys):
    model, output = tmp_path / "model.bin", tmp_path / "out.bin"
    shutil.copyfile(golden("ggml/T1_convert_f16/T1.p2.f16.bin"), model)
    match how:
        case "itself":
            output = model
        case "symbolic link":
            output.symlink_to(model)
        case "hard link":
            os.link(model, output)
    before = model.read_bytes()
    try:
        code = main([{"MODEL": str(model), "OUT": str(output)}.get(word, word) for word in command.split()])
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr().err
    assert (code, model.read_bytes()) == (2, before)
    assert "is the input" in said
    assert "write beside it" in said


def test_other_files_may_be_replaced(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("x")
    refuse_overwriting(tmp_path / "a", [tmp_path / "b", tmp_path / "missing", tmp_path])
    with pytest.raises(UsageError, match="is the input"):
        refuse_overwriting(tmp_path / "a", [tmp_path / "b", tmp_path / "a"])


def test_converting_takes_the_container_from_the_name(data, tmp_path):
    model = shutil.copytree(data / "ggml" / "T1_input", tmp_path / "7B")
    assert main(["convert", str(model), "--outfile", str(tmp_path / "x.gguf"), "-q"]) == 0
    assert (tmp_path / "x.gguf").read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("convert 7B --container ggjt1 --outfile x.gguf", "named as GGUF, but ggjt was asked for"),
        ("migrate f16.bin x.gguf --container ggjt1", "named as GGUF, but ggjt was asked for"),
        ("merge --base 7B --lora a --output x.gguf --output-type ggml-f16", "ask for GGUF: --output-type gguf-f16"),
        ("merge --base 7B --lora a --output x.gguf", "named as GGUF, but pth was asked for"),
        ("quantize f16.bin x.gguf q4_0 --era 2023-03-31", "is quantized as of 2023-08-21"),
        ("convert 7B --outfile 7B/consolidated.00.pth", "is the input"),
    ],
)
def test_other_containers_do_not_get_the_name(command, words, data, golden, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data / "ggml" / "T1_input", tmp_path / "7B")
    shutil.copyfile(golden("ggml/T1_convert_f16/T1.p2.f16.bin"), "f16.bin")
    assert main(command.split()) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "x.gguf").exists()


INTO_FOLDERS = (
    "merge --base BASE --lora lora --output OUT",
    "to-hf BASE OUT",
    "from-hf BASE OUT",
    "train instruct data.json --base BASE --tokenizer lora/tokenizer.model --steps 1 -o OUT",
)


@pytest.mark.parametrize("is_link", [False, True])
@pytest.mark.parametrize("command", INTO_FOLDERS)
def test_a_folder_that_is_an_input_is_refused(command, is_link, golden, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(golden("merge/v11-llama/base/7B"), "BASE")
    shutil.copy(golden("merge/v11-llama/base") / "tokenizer.model", "BASE")
    shutil.copytree(golden("merge/v11-llama/lora"), "lora")
    (tmp_path / "data.json").write_text('[{"instruction": "a", "input": "", "output": "b"}]')
    (tmp_path / "OUT").symlink_to("BASE")
    before = {path: path.read_bytes() for path in (tmp_path / "BASE").iterdir()}
    words = command.split() if is_link else command.replace("OUT", "BASE").split()
    assert main([words[0], *words[1:], "-q"]) == 2
    assert "is the input" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "BASE").iterdir()} == before
