"""convert, to-hf and from-hf on the command line: exit codes, JSON, talk on stderr, an example in every help."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cli

ROOT = Path(cli.__file__).parent


@pytest.fixture
def model(data, tmp_path):
    return shutil.copytree(data / "ggml" / "T1_input", tmp_path / "7B")


def test_convert_writes_the_golden_file(model, data, capsys):
    assert cli.main(["convert", str(model), "--outfile", str(model / "x.bin")]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"{model / 'x.bin'}: ggjt v1, 321,728 bytes\n"
    assert (model / "x.bin").read_bytes() == (data / "ggml" / "T1_convert_f16" / "T1.p2.f16.bin").read_bytes()


def test_underscores_and_dry_run_and_json(model, capsys):
    assert cli.main(["convert", str(model), "--dry_run", "--json", "--container", "ggmf1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["container"] == "ggmf v1"
    assert document["files"] == [{"path": str(model / "ggml-model-f16.bin"), "size": 321399}]
    assert not (model / "ggml-model-f16.bin").exists()


def test_quiet(model, capsys):
    assert cli.main(["convert", "-q", str(model)]) == 0
    assert capsys.readouterr() == ("", "")


def test_verbose_shows_the_size_of_the_vocabulary_by_each_file(model, capsys):
    assert cli.main(["convert", "-v", str(model), "--dry-run"]) == 0
    _, *lines, spent = capsys.readouterr().err.splitlines()
    assert re.match(r"\d+\.\d\d s", spent)
    assert [line.split()[:2] for line in lines] == [["tokenizer", "400"], ["embedding", "400"], ["output", "400"]]
    assert lines[0].endswith(str(model / "tokenizer.model"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--outtype", "q4_0"], 2, "choose f16 or f32"),
        (["--era", "1999-01-01"], 2, "unknown era"),
        (["--tokenizer", "none.model"], 3, "tokenizer.model not found"),
        (["--outfile", "no/such/directory/x.bin"], 3, "create the directory first"),
    ],
)
def test_exit_codes_and_one_line(arguments, code, words, model, capsys):
    assert cli.main(["convert", str(model), "-q", *arguments]) == code
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == (2 if code == 2 else 1)
    assert "Traceback" not in err


def test_there_and_back(model, tmp_path, capsys):
    hf, meta = tmp_path / "hf", tmp_path / "meta"
    assert cli.main(["to-hf", str(model), str(hf), "--shard-size", "100KB", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["sizes"]) > 1
    assert cli.main(["from-hf", str(hf), str(meta), "--params", str(model / "params.json")]) == 0
    assert "consolidated.00.pth" in capsys.readouterr().err
    assert cli.main(["convert", "-q", str(model), "--outfile", str(tmp_path / "a.bin")]) == 0
    assert cli.main(["convert", "-q", str(meta), "--outfile", str(tmp_path / "b.bin")]) == 0
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
    assert cli.main(["from-hf", str(hf), str(tmp_path / "x"), "--params", "7B"]) == 2
    assert "are not those of" in capsys.readouterr().err
    assert cli.main(["to-hf", str(model), str(hf), "--bin"]) == 2
    assert "holds other weights already" in capsys.readouterr().err
    assert cli.main(["to-hf", str(tmp_path / "nothing"), str(tmp_path / "y")]) == 3
    assert cli.main(["to-hf", str(model), str(tmp_path / "z"), "--bin", "--no-inv-freq", "--dry-run"]) == 0
    assert not (tmp_path / "z").exists()


@pytest.mark.parametrize("command", ["convert", "to-hf", "from-hf", "verify", "doctor"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"\n  python cli.py {command} " in out.partition("\nexample:")[2]


# VmHWM, not ru_maxrss: the latter is handed down from the process that forked.
MEASURED = """
import re, sys
import cli
code = cli.main(sys.argv[1:])
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
linux = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is read from Linux's /proc")


@linux
def test_a_process_of_its_own_stays_small(data, tmp_path):
    """convert needs neither Numba nor much memory; measured as the kernel reports it."""
    code = MEASURED + "print('numba' in sys.modules, peak); sys.exit(code)"
    arguments = ["convert", "-q", str(data / "ggml" / "T3_input"), "--outfile", str(tmp_path / "x.bin")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    numba, kilobytes = done.stdout.split()
    assert numba == "False"
    assert int(kilobytes) < 150_000


MAKE = """
import sys
import numpy as np
from llama_ref.checkpoint import write_pth
from ggmlpy.formats.model_params import ModelParams
from llama_ref.checkpoint.params import params_json
from dataclasses import replace
from ggmlpy.formats.tensor_names import expected_shapes, meta_names

params, target = ModelParams(n_embd=2048, n_mult=256, n_head=16, n_layer=16), sys.argv[1]
shapes = expected_shapes(replace(params, n_vocab=49953), meta_names(params.n_layer))
block = (np.random.default_rng(0).standard_normal(1 << 22) * 0.02).astype(np.float16)

def chunks(shape):
    left = int(np.prod(shape))
    while left:
        yield block[: min(left, block.size)]
        left -= min(left, block.size)

write_pth(target + "/consolidated.00.pth", [(n, "float16", shapes[n], chunks(shapes[n])) for n in meta_names(16)])
open(target + "/params.json", "w").write(params_json(params))
"""


@linux
@pytest.mark.slow
def test_a_billion_parameters_in_600_megabytes(tmp_path):
    """1.03 B parameters through to-hf, from-hf and convert: peak memory of each process, as the kernel reports it."""
    source = tmp_path / "1B"
    source.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", MAKE, str(source)], env=environment, check=True)
    code = MEASURED + "print(peak); sys.exit(code)"
    hf, meta = tmp_path / "hf", tmp_path / "meta"
    vocabulary = tmp_path / "tokenizer.model"
    for arguments in (
        ["to-hf", source, hf, "--weights-only"],
        ["from-hf", hf, meta, "--weights-only"],
        ["convert", hf, "--outfile", tmp_path / "x.bin", "--pad-vocab", "--tokenizer", vocabulary],
    ):
        if arguments[0] == "convert":
            shutil.copy(ROOT / "tests" / "data" / "ggml" / "T1_input" / "tokenizer.model", vocabulary)
        command = [sys.executable, "-c", code, *map(str, arguments), "-q"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert int(done.stdout) < 600_000, arguments[0]


def test_convert_takes_the_number_of_the_first_converters(model, data, capsys):
    assert cli.main(["convert", f"{model}/", "1"]) == 0
    golden = data / "ggml" / "T1_convert_f16" / "T1.p2.f16.bin"
    assert (model / "ggml-model-f16.bin").read_bytes() == golden.read_bytes()
    assert cli.main(["convert", str(model), "0", "--dry-run"]) == 0
    assert str(model / "ggml-model-f32.bin") in capsys.readouterr().err
    assert cli.main(["convert", str(model), "0", "--outtype", "f16"]) == 2
    assert "0 means f32, and --outtype says f16" in capsys.readouterr().err


def test_to_hf_takes_the_options_of_the_script(model, tmp_path, capsys):
    (tmp_path / "tokenizer.model").write_bytes((model / "tokenizer.model").read_bytes())
    (model / "tokenizer.model").unlink()
    script = ["--input_dir", str(tmp_path), "--model_size", "7B", "--output_dir", str(tmp_path / "hf")]
    assert cli.main(["to-hf", *script]) == 0
    assert cli.main(["to-hf", str(model), str(tmp_path / "same")]) == 0
    for path in (tmp_path / "hf").iterdir():
        assert path.read_bytes() == (tmp_path / "same" / path.name).read_bytes()


@pytest.mark.parametrize("arguments", [["x"], ["--input_dir", "x"], ["x", "y", "--output_dir", "z"], []])
def test_to_hf_says_how_it_is_called(arguments, capsys):
    assert cli.main(["to-hf", *arguments]) == 2
    assert "give META_DIR and OUT, or --input-dir, --model-size and --output-dir" in capsys.readouterr().err
