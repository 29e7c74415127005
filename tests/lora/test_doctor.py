"""doctor: what a folder holds, what fits, what does not, and what comes next."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import cli
from ggmlpy.files.errors import MissingFileError
from llama_ref.conversion.converting import plan_vocabulary
from tests.today import huggingface_directory
from toolchain.demo.story import lay_out_today
from toolchain.look import doctor
from toolchain.look.doctor import examine

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(data, tmp_path):
    """Base, one adapter that grows its vocabulary; nothing merged yet."""
    source = data / "merge" / "v11-llama"
    for name in ("base", "lora"):
        shutil.copytree(source / name, tmp_path / "models" / name)
    return tmp_path / "models"


def kinds(diagnosis):
    return sorted((finding.kind, finding.path.name) for finding in diagnosis.found)


def commands(diagnosis):
    return [step.command.split()[0] for step in diagnosis.steps]


def test_a_base_and_an_adapter(folder):
    diagnosis = examine(folder)
    assert kinds(diagnosis) == [
        ("adapter", "lora"),
        ("model", "7B"),
        ("tokenizer", "tokenizer.model"),
        ("tokenizer", "tokenizer.model"),
    ]
    assert diagnosis.misfits == diagnosis.bad == []
    assert f"{folder / 'lora'} onto {folder / 'base' / '7B'}: vocabulary 320 -> 500" in diagnosis.fits
    assert commands(diagnosis) == ["merge", "generate"]
    base, lora, output = folder / "base" / "7B", folder / "lora", folder / "lora-q4_0.bin"
    assert [step.command for step in diagnosis.steps] == [
        f"merge --base {base} --lora {lora} --output {output} --output-type ggml-q4_0",
        f'generate -m {output} -p "..." -n 128',
    ]
    assert diagnosis.exit_code == 0


def test_the_commands_that_it_prints_run(folder, capsysbinary):
    """Follow the doctor until there is text to be made: merge; or convert and quantize, where no adapter is."""
    shutil.copytree(folder / "base", folder / "alone" / "base")
    for at, wanted in ((folder, "merge"), (folder / "alone", "convert"), (folder / "alone", "quantize")):
        step = next(step for step in examine(at).steps if step.command.startswith(f"{wanted} "))
        before = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert cli.main([*shlex.split(step.command), "-q"]) == 0
        written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) - before
        assert written <= step.disk * 1.2 + 30_000
    for at in (folder, folder / "alone"):
        assert cli.main([*shlex.split(examine(at).steps[-1].command), "-q", "-n", "2"]) == 0
    capsysbinary.readouterr()


def test_what_is_merged_already_is_not_merged_again(folder, data):
    shutil.copytree(data / "merge" / "v11-llama" / "out", folder / "out")
    diagnosis = examine(folder)
    assert "merge" not in commands(diagnosis)
    assert any("it is probably its result" in words for words in diagnosis.fits)
    assert diagnosis.misfits == []


def test_two_adapters_in_a_row(folder, data):
    """The Alpaca adapter has one row more than the LLaMA adapter: it may follow it."""
    shutil.copytree(data / "merge" / "v11-alpaca-pad" / "lora", folder / "alpaca")
    diagnosis = examine(folder)
    assert any("lora, then" in words and "alpaca onto" in words and "320 -> 501" in words for words in diagnosis.fits)
    assert not any("alpaca, then" in words for words in diagnosis.fits)
    assert any(f"--lora {folder / 'lora'},{folder / 'alpaca'} " in step.command for step in diagnosis.steps)


def test_one_chain_ends_in_a_conversation(folder, data):
    """The longest one; the adapters of ZIPs beside their folders are no others."""
    shutil.copytree(data / "merge" / "v11-alpaca-pad" / "lora", folder / "alpaca")
    for name in ("lora", "alpaca"):
        shutil.make_archive(str(folder / name), "zip", folder / name)
    diagnosis = examine(folder)
    assert commands(diagnosis) == ["merge", "chat"]
    assert sum("the same as" in finding.words for finding in diagnosis.found) == 2
    assert sum(" onto " in words for words in diagnosis.fits) == 3
    assert cli.main([*shlex.split(diagnosis.steps[0].command), "-q"]) == 0
    assert commands(examine(folder)) == ["chat"]


def test_an_adapter_for_another_model(folder, data):
    shutil.rmtree(folder / "lora")
    shutil.copytree(data / "merge" / "two-shard-13b" / "lora", folder / "lora")
    diagnosis = examine(folder)
    assert len(diagnosis.misfits) == 1
    assert diagnosis.misfits[0].startswith(f"{folder / 'lora'} does not go onto {folder / 'base' / '7B'}")
    assert diagnosis.exit_code == 1
    assert "merge" not in commands(diagnosis)


def test_a_tokenizer_that_does_not_fit_and_one_that_does(folder, data):
    out = shutil.copytree(data / "merge" / "v11-llama" / "out", folder / "out")
    shutil.copy(folder / "base" / "tokenizer.model", out / "tokenizer.model")
    diagnosis = examine(folder)
    (misfit,) = diagnosis.misfits
    assert "the tokenizer has 320 pieces, the weights 500 rows" in misfit
    assert f"Here is one that fits: {folder / 'lora' / 'tokenizer.model'}" in misfit


def test_bad_files_are_told_and_the_rest_is_looked_at(folder):
    (folder / "lora" / "adapter_model.bin").write_bytes(b"\x80\x02}q\x00.")
    (folder / "base" / "tokenizer.model").write_bytes(b"<html>")
    (folder / "x.zip").write_bytes(b"PK nothing")
    diagnosis = examine(folder)
    assert len(diagnosis.bad) >= 3
    for name in ("adapter_model.bin", "tokenizer.model", "x.zip"):
        assert any(name in words for words in diagnosis.bad), name
    assert ("model", "7B") in kinds(diagnosis)
    assert diagnosis.exit_code == 3


def test_archives(folder, monkeypatch):
    with zipfile.ZipFile(folder / "lora.zip", "w") as archive:
        for path in (folder / "lora").iterdir():
            archive.write(path, path.name)
    with zipfile.ZipFile(folder / "docs.zip", "w") as archive:
        archive.writestr("README.md", "x")
    shutil.rmtree(folder / "lora")
    diagnosis = examine(folder)
    assert ("adapter", "lora.zip") in kinds(diagnosis)
    assert ("archive", "docs.zip") in kinds(diagnosis)
    assert any(f"--lora {folder / 'lora.zip'}" in step.command for step in diagnosis.steps)
    monkeypatch.setattr(doctor, "LARGEST_ARCHIVE", 10)
    assert ("archive", "lora.zip") in kinds(examine(folder))


def test_ggml_files(data, tmp_path):
    shutil.copy(data / "ggml" / "T1_convert_f16" / "T1.p2.f16.bin", tmp_path / "my model.bin")
    diagnosis = examine(tmp_path)
    assert kinds(diagnosis) == [("GGML file", "my model.bin")]
    assert commands(diagnosis) == ["quantize", "generate"]
    assert (
        f"quantize '{tmp_path / 'my model.bin'}' '{tmp_path / 'my model-q4_0.bin'}' q4_0" in diagnosis.steps[0].command
    )
    content = (tmp_path / "my model.bin").read_bytes()
    (tmp_path / "my model.bin").write_bytes(content[:-100])
    diagnosis = examine(tmp_path)
    assert diagnosis.exit_code == 3
    assert diagnosis.steps == []


def test_a_vocabulary_file_is_not_bad(data, tmp_path):
    with plan_vocabulary(data / "ggml" / "T1_input", tmp_path / "ggml-vocab.bin") as plan:
        plan.write()
    diagnosis = examine(tmp_path)
    assert "the vocabulary only" in diagnosis.found[0].words
    assert diagnosis.bad == diagnosis.steps == []


def test_too_little_disk_or_memory(folder, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    merge, _ = examine(folder).steps
    assert "too little disk is free" in merge.obstacle
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "_free_memory", lambda: 1000)
    assert all("of memory are free" in step.obstacle for step in examine(folder).steps)
    monkeypatch.setattr(doctor, "_free_memory", lambda: None)
    assert not any(step.obstacle for step in examine(folder).steps)


def test_nothing_is_changed(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    examine(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_commands(folder, tmp_path, capsys):
    assert cli.main(["doctor", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "\nfits\n" in out
    assert "\nnext (" in out
    assert "python cli.py merge --base" in out
    assert cli.main(["doctor", "--json", str(folder)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [step["command"].split()[2] for step in document["steps"]] == ["merge", "generate"]
    (tmp_path / "empty").mkdir()
    assert cli.main(["doctor", str(tmp_path / "empty")]) == 0
    assert "no model, adapter, tokenizer or GGML file" in capsys.readouterr().out
    assert cli.main(["doctor", str(tmp_path / "none")]) == 3
    with pytest.raises(MissingFileError, match="no such directory"):
        examine(tmp_path / "none")


def test_the_programs_own_model_is_not_somebodys() -> None:
    """Who works in the folder that holds cli.py sees what is theirs; who asks for the demo model sees that."""
    own = Path(__file__).resolve().parents[2] / "toolchain" / "demo" / "model"
    assert not [found for found in examine(own.parent).found if "model" in found.path]
    assert [found for found in examine(own).found if found.kind == "model"]


@pytest.mark.parametrize("case", ["llama2-gqa", "tied"])
def test_a_model_of_today_fits_and_goes_to_gguf(case, vectors, tmp_path):
    huggingface_directory(vectors, case, tmp_path / case)
    diagnosis = examine(tmp_path / case)
    assert any("384 pieces each" in words for words in diagnosis.fits)
    assert any("--container gguf" in step.command for step in diagnosis.steps)


@pytest.mark.parametrize(("command", "usual_code"), [("merge", 97e6), ("generate", 71e6)])
def test_the_memory_that_a_command_takes_is_foretold(folder, command, usual_code):
    """Within a factor of 1.3 of what -v measures, for either of the steps that the doctor recommends.

    How much of the libraries' code is in memory is the system's affair, so what is usual stands for it.
    """
    pytest.importorskip("resource")
    steps = examine(folder).steps
    run = [sys.executable, str(ROOT / "cli.py")]
    for step in steps:
        argv = [*run, *shlex.split(step.command), "-v"]
        subprocess.run(argv, capture_output=True)  # compiles what no run has compiled before, which takes memory too
        if "--output" in argv:
            Path(argv[argv.index("--output") + 1]).unlink()
        done = subprocess.run(argv, capture_output=True)
        said = done.stderr.decode("utf-8", "replace")
        found = re.search(r"at most ([\d,]+) MB of memory(?:.*, (\d+) MB of it code of libraries)?", said)
        if step.command.startswith(command):
            assert found is not None
            measured = int(found[1].replace(",", "")) * 1e6
            if found[2]:
                measured += usual_code - int(found[2]) * 1e6
            assert 1 / 1.3 < step.memory / measured < 1.3, said
            return
    pytest.fail("the doctor recommends something else")


def test_a_model_of_today_is_merged_to_gguf(tmp_path, capsys):
    lay_out_today(tmp_path)
    cli.main(["doctor", "--json", str(tmp_path)])
    first, second = json.loads(capsys.readouterr().out)["steps"][:2]
    assert first["command"].endswith("--output-type gguf-q4_0")
    assert cli.main([*shlex.split(first["command"])[2:], "-q", "--pre-tokenizer", "llama-bpe"]) == 0
    assert str(tmp_path / "llama-3-lora-q4_0.gguf") in second["command"]
