"""Golden vectors: the same seed gives the same bytes, each command makes its file again, other programs are judged."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest

import cli
from ggmlpy.files.errors import FormatError, IntegrityError, UsageError
from ggmlpy.formats.eras import ERAS
from ggmlpy.formats.opening import open_model
from tests.llama_ref.test_main_p2 import Stdio
from toolchain.makers.vector_cases import KINDS, cases
from toolchain.makers.vector_checks import check_vectors
from toolchain.makers.vectors import MANIFEST, make_vectors, read_manifest

PYTHON = f'"{sys.executable}"'
COPY = f'{PYTHON} -c "import shutil, sys; shutil.copy(*sys.argv[1:])"'
INPUTS_OF_SEED_0 = "ea2706aedfee90b7d32b39b9e890cb302765239287da3e0a4aa4db5c30fa2ed0"
OUTPUTS_OF_SEED_0 = "a63043143d00f8aef0c491f8a40519639e3142d7e0bccb4194e3e21f7a8d374a"


@pytest.fixture(scope="module")
def vectors_dir(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("golden") / "v"
    make_vectors(root)
    return root


def digest_of(files: dict) -> str:
    return sha256("".join(f"{it['sha256']}  {name}\n" for name, it in sorted(files.items())).encode()).hexdigest()


def test_the_same_seed_gives_the_same_bytes_everywhere(vectors_dir):
    manifest = json.loads((vectors_dir / MANIFEST).read_text())
    assert digest_of(manifest["inputs"]) == INPUTS_OF_SEED_0
    made = {name: it for case in manifest["cases"] for name, it in case["files"].items()}
    assert digest_of(made) == OUTPUTS_OF_SEED_0
    there = {path.relative_to(vectors_dir).as_posix() for path in vectors_dir.rglob("*") if path.is_file()}
    assert there == {*manifest["inputs"], *made, MANIFEST}


def test_another_seed_gives_other_weights(vectors_dir, tmp_path):
    other = make_vectors(tmp_path / "v", 1)
    ours = json.loads((vectors_dir / MANIFEST).read_text())
    name = "base/f16/consolidated.00.pth"
    assert other["inputs"][name]["sha256"] != ours["inputs"][name]["sha256"]


def test_every_container_type_and_era_is_there(vectors_dir):
    found = Counter(case.kind for case in cases())
    assert set(found) == set(KINDS)
    containers, types = set(), set()
    for path in [*vectors_dir.rglob("*.bin"), *vectors_dir.rglob("*.gguf")]:
        if path.parent.name in (*ERAS, "gguf"):
            with open_model(path) as model:
                containers.add((model.container, model.version))
                types |= {tensor.type.layout for tensor in model.tensors.values()}
    assert containers == {("ggml", 0), ("ggmf", 1), ("ggjt", 1), ("ggjt", 2), ("ggjt", 3), ("gguf", 3)}
    wanted = {record.layout for era in ERAS.values() for record in era.types.values()}
    assert types == wanted


def test_each_command_makes_its_file_again(vectors_dir, tmp_path, monkeypatch):
    shutil.copytree(vectors_dir, tmp_path / "v")
    monkeypatch.chdir(tmp_path / "v")
    for case in read_manifest("."):
        words = shlex.split(case.command)[2:]
        target = Path(case.output)
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        if case.kind == "text":
            out = Stdio()
            monkeypatch.setattr(sys, "stdout", out)
            assert cli.main(words) == 0
            target.write_bytes(out.buffer.getvalue())
            monkeypatch.undo()
            monkeypatch.chdir(tmp_path / "v")
        else:
            assert cli.main([*words, "-q"]) == 0, case.command
    read_manifest(".")  # compares every digest


def test_a_right_program_is_right(vectors_dir):
    program = f"{PYTHON} {Path(cli.__file__)} quantize {{in}} {{out}} {{type}} --era {{era}} -q"
    report = check_vectors(vectors_dir, program, era="2023-03-31")
    assert [result.status for result in report.results] == ["identical bytes"] * 2
    assert (report.exit_code, report.sentence()) == (0, "2 of 2 right, 2 of them byte for byte")


def test_a_program_of_another_era_is_named(vectors_dir):
    program = f"{PYTHON} {Path(cli.__file__)} quantize {{in}} {{out}} {{type}} --era 2023-04-30 -q"
    report = check_vectors(vectors_dir, program, match="quantize/2023-03-31/q4_0.bin")
    assert (report.exit_code, report.results[0].status) == (1, "differs")
    assert report.results[0].causes[0].startswith("the quantizer of 2023-04-30 (explains 16 of 16")


def test_another_container_or_type_than_was_asked_for_is_wrong(vectors_dir):
    copied = vectors_dir / "convert/2023-03-30/f16.bin"
    asked = {"kind": "convert", "match": "convert/2023-03-31/f16.bin"}
    report = check_vectors(vectors_dir, f'{COPY} "{copied}" {{out}}', **asked)
    assert report.results[0].words == "container ggmf v1 instead of ggjt v1"
    copied = vectors_dir / "convert/2023-03-31/f32.bin"
    report = check_vectors(vectors_dir, f'{COPY} "{copied}" {{out}}', **asked)
    assert report.results[0].words == "tok_embeddings.weight is f32 instead of f16"
    assert report.exit_code == 1


def test_stdout_is_the_output_where_none_is_named(vectors_dir):
    program = f"{PYTHON} {Path(cli.__file__)} generate -m {{in}} -p {{prompt}} -s {{seed}} -n {{n_predict}} -q"
    program += " --temp {temp} --top_k {top_k} --numerics exact --build"
    asked = {"kind": "text", "match": "text/2023-03-31-avx2.txt"}
    assert check_vectors(vectors_dir, f"{program} avx2", **asked).exit_code == 0
    report = check_vectors(vectors_dir, f"{program} scalar", **asked)
    assert report.exit_code == 1
    assert "parts at byte" in report.results[0].words


def test_logits_of_another_cache_are_told(vectors_dir):
    other = vectors_dir / "logits/2023-03-31-scalar-kv32-batch.npy"
    program = f'{COPY} "{other}" {{out}}'
    report = check_vectors(vectors_dir, program, kind="logits", match="logits/2023-03-31-scalar-kv16-*")
    assert (report.exit_code, report.results[0].status) == (1, "differs")
    assert report.results[0].causes


@pytest.mark.parametrize("kind", ["merge", "to-hf", "migrate"])
def test_our_own_steps_pass(kind, vectors_dir):
    words = {
        "merge": "merge --base {in} --lora {lora} --output {out} --output-type {output_type}",
        "to-hf": "to-hf {in} {out}",
        "migrate": "migrate {in} {out} --container {container}",
    }
    program = f"{PYTHON} {Path(cli.__file__)} {words[kind]} -q"
    report = check_vectors(vectors_dir, program, kind=kind, match=f"{kind}/[fgpt]*")
    assert {result.status for result in report.results} == {"identical bytes"}


def test_failures_are_said(vectors_dir):
    def status(program: str, **options):
        report = check_vectors(vectors_dir, program, match="quantize/2023-03-31/q4_0.bin", **options)
        assert report.exit_code == 1
        return report.results[0].status, report.results[0].words

    assert status(f"{PYTHON} -c \"raise SystemExit('no such type')\"") == ("failed", "exit code 1: no such type")
    assert status(f'{PYTHON} -c "pass" {{out}}') == ("no output", "q4_0.bin was not written")
    assert status(f'{PYTHON} -c "import time; time.sleep(9)"', timeout=0.5) == ("timed out", "after 0.5 s")
    assert status("/no/such/program {in} {out}")[0] == "failed"
    assert status(f"{COPY} {{in}} {{out}}")[0] == "differs"
    assert status("echo nonsense > {out}", shell=True)[0] == "differs"


def test_wrong_requests_are_refused(vectors_dir, tmp_path):
    with pytest.raises(UsageError, match=re.escape("no {kind}")):
        check_vectors(vectors_dir, "x {kind}")
    with pytest.raises(UsageError, match="no convert cases of era 2022-01-01"):
        check_vectors(vectors_dir, "x", kind="convert", era="2022-01-01")
    with pytest.raises(UsageError, match="no step called 'train'"):
        check_vectors(vectors_dir, "x", kind="train")
    with pytest.raises(UsageError, match="not empty"):
        make_vectors(vectors_dir)
    with pytest.raises(FormatError, match="no manifest"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text("[1]")
    with pytest.raises(FormatError, match="not a manifest"):
        read_manifest(tmp_path)


def test_a_changed_file_is_noticed(vectors_dir, tmp_path):
    shutil.copytree(vectors_dir, tmp_path / "v")
    (tmp_path / "v/base/f16/params.json").write_text("{}")
    with pytest.raises(IntegrityError, match="not the file that was made"):
        read_manifest(tmp_path / "v")


def test_the_command(tmp_path, capsys):
    assert cli.main(["vectors", "make", str(tmp_path / "v"), "--seed", "3", "-q"]) == 0
    asked = ["vectors", "check", str(tmp_path / "v"), "--match", "quantize/2023-03-19/*", "-q"]
    program = f"{COPY} {{in}} {{out}}"
    assert cli.main([*asked, "--command", program, "--junit", str(tmp_path / "out.xml")]) == 1
    assert "0 of 2 right" in capsys.readouterr().out
    assert 'tests="2" failures="2"' in (tmp_path / "out.xml").read_text()
    assert cli.main([*asked, "--command", program, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["sentence"].startswith("0 of 2")
