"""What the command line says to those who mistype, and to those who have not installed it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("arguments", "error", "see"),
    [
        ("quantise a b c", "no command 'quantise'; did you mean quantize?", ""),
        ("frobnicate", "no command 'frobnicate'; there are generate, chat, tokenize, merge", ""),
        ("tokenizer mrege", "no command 'mrege'; did you mean merge?", "tokenizer "),
        ("generate -p hi --tempp 3", "no option or argument '--tempp' here; did you mean --temp?", "generate "),
        ("generate -p hi --top_kk=3", "no option or argument '--top-kk' here; did you mean --top-k?", "generate "),
        ("convert models extra", "no option or argument 'extra' here", "convert "),
        ("generate -n abc", "argument -n/--n-predict: invalid int value: 'abc'", "generate "),
        ("merge --base x", "the following arguments are required: --lora/--lora-model", "merge "),
        ("generate -p", "argument -p/--prompt: expected one argument", "generate "),
    ],
)
def test_a_mistyped_command_is_one_line_and_where_help_is(capsys, arguments, error, see):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments.split())
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"error: {error}")
    assert lines[1:] == [f"see: python cli.py {see}--help"]


def test_no_command_at_all_shows_them(capsys):
    assert cli.main([]) == 2
    assert "COMMAND --help explains a command" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_way_to_it(tmp_path):
    (tmp_path / "tqdm.py").write_text("raise ModuleNotFoundError(\"No module named 'tqdm'\", name='tqdm')")
    command = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    run = subprocess.run([sys.executable, "-c", command, "fingerprint", "x.bin"], capture_output=True, text=True)
    assert run.returncode == 3
    assert run.stderr.startswith("error: the package tqdm is not installed. Next: python -m pip install .")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("name", "container", "magic"),
    [("m.gguf", [], b"GGUF"), ("m.bin", [], b"tjgg"), ("m.bin", ["--container", "gguf"], b"GGUF")],
)
def test_migrate_goes_by_the_name_of_the_output(name, container, magic, data, tmp_path):
    source = data / "ggml" / "T1_convert_f16" / "T1.p2.f16.bin"
    assert cli.main(["migrate", "-q", str(source), str(tmp_path / name), *container]) == 0
    assert (tmp_path / name).read_bytes()[:4] == magic


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("generate -ngl 32 -p x", "no option '-ngl' here; there is no GPU here, everything is computed"),
        ("generate --max-tokens 3", "no option '--max-tokens' here; the number of tokens is -n"),
        ("generate -model x", "a dash is missing: --model"),
        ("chat theirs.bin", "no option or argument 'theirs.bin' here; did you mean -m theirs.bin?"),
        ("generate -m x.bin hello", "no option or argument 'hello' here; did you mean -p \"hello …\"?"),
        ("demo files", "no option or argument 'files' here; did you mean -o files?"),
        ("merge --base a --lora a, b", "no option or argument 'b' here; separate adapters by commas, without blanks"),
        ("quantize f16.bin q4_0", "the following arguments are required: TYPE; the order is IN OUT TYPE"),
        ("generate -p “介绍 北京”", "no option or argument '北京”' here; its quotes or dashes are those of a text"),
        ("generate —m x", "no option or argument '—m' here; its quotes or dashes are those of a text"),
    ],
)
def test_habits_from_other_programs_are_answered(capsys, arguments, error):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments.split())
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {error}")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["help"], "COMMAND --help explains a command"),
        (["help", "chat"], "usage: python cli.py chat "),
        (["version"], "ggmlpy "),
        (["--version", "-v"], "kernels "),
    ],
)
def test_words_that_other_programs_have_as_commands(capsys, arguments, shown):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    assert shown in capsys.readouterr().out


def test_the_environment_names_the_usual_model(monkeypatch, capsys, data, tmp_path):
    monkeypatch.setenv("GGMLPY_MODEL", str(tmp_path / "none.bin"))
    assert cli.main(["generate", "-p", "x"]) == 3
    assert "none.bin: no such file" in capsys.readouterr().err
    model = str(data / "ggml" / "T1_convert_f16" / "T1.p2.f16.bin")
    monkeypatch.setenv("GGMLPY_MODEL", model)
    assert cli.main(["tokenize", "Hello"]) == 0
    by_default = capsys.readouterr().out
    monkeypatch.delenv("GGMLPY_MODEL")
    for words in (["-m", model, "Hello"], [model, "Hello"]):
        assert cli.main(["tokenize", *words]) == 0
        assert capsys.readouterr().out == by_default


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands_and_their_options(capsys, shell):
    pytest.importorskip("shtab")
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for name in ("quantize", "temp", "ggmlpy"):
        assert name in script
    assert "python cli.py" not in script


def test_bash_completes_a_command(tmp_path, capsys):
    pytest.importorskip("shtab")
    assert cli.main(["completion", "bash"]) == 0
    script = tmp_path / "ggmlpy.bash"
    script.write_text(capsys.readouterr().out)
    asked = f"source {script}; COMP_WORDS=(ggmlpy genera); COMP_CWORD=1; _shtab_ggmlpy; echo ${{COMPREPLY[@]}}"
    assert subprocess.run(["bash", "-c", asked], capture_output=True, text=True).stdout.strip() == "generate"
