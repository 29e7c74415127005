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
