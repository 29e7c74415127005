"""Statements of what was derived from what, and deriving it again."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest

from ggmlpy import open_model
from ggmlpy.files.errors import FormatError
from ggmlpy.formats.tensor_names import gguf_name
from ggmlpy.quantizers.migration import migrate
from ggmlpy.quantizers.whole_file import quantize_file
from toolchain.commands.main import main
from toolchain.verify.attestation import verify_statement


@pytest.fixture
def attested(golden, tmp_path, monkeypatch):
    """A quantized GGUF file, its source, and a statement."""
    monkeypatch.chdir(tmp_path)
    with open_model(golden("ggml/T1_convert_f16/T1.p2.f16.bin")) as model:
        migrate(model, "f16.gguf", "gguf", 3)
    quantize_file("f16.gguf", "q4_0.gguf", "Q4_0")
    assert main(["verify", "q4_0.gguf", "--source", "f16.gguf", "--attest", "s.json", "-q"]) == 0
    return tmp_path


def test_a_statement_has_the_form_of_in_toto(attested):
    statement = json.loads((attested / "s.json").read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    digest = hashlib.sha256((attested / "q4_0.gguf").read_bytes()).hexdigest()
    assert statement["subject"] == [{"name": "q4_0.gguf", "digest": {"sha256": digest}}]
    definition = statement["predicate"]["buildDefinition"]
    assert [file["name"] for file in definition["resolvedDependencies"]] == ["f16.gguf"]
    assert definition["externalParameters"]["step"] == "quantize"
    assert "llama-quantize" in definition["externalParameters"]["madeBy"]


def test_it_holds_elsewhere_too(attested, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other") / "copy"
    shutil.copytree(attested, other)
    monkeypatch.chdir("/")
    assert main(["verify", "--statement", str(other / "s.json")]) == 0


def test_flipped_bits_are_refused(attested):
    data = (attested / "q4_0.gguf").read_bytes()
    generator = np.random.default_rng(7)
    for place, bit in zip(generator.integers(0, len(data), 100), generator.integers(0, 8, 100), strict=True):
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        (attested / "q4_0.gguf").write_bytes(flipped)
        report = verify_statement(attested / "s.json")
        assert report.exit_code == 1
        assert "q4_0.gguf is another file" in report.sentence()


@pytest.mark.slow
def test_a_thousand_flipped_bits_are_refused_even_where_digests_were_fitted(attested):
    """With the digest in the statement fitted to the change, only deriving the output anew finds it out."""
    data, statement = (attested / "q4_0.gguf").read_bytes(), json.loads((attested / "s.json").read_text())
    assert _refused(attested, data, statement, 1000) == 1000


def test_fifty_flipped_bits_are_refused_even_where_digests_were_fitted(attested):
    data, statement = (attested / "q4_0.gguf").read_bytes(), json.loads((attested / "s.json").read_text())
    assert _refused(attested, data, statement, 50) == 50


def _refused(folder, data: bytes, statement: dict, count: int) -> int:
    generator, refused = np.random.default_rng(11), 0
    for place, bit in zip(generator.integers(0, len(data), count), generator.integers(0, 8, count), strict=True):
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        (folder / "q4_0.gguf").write_bytes(flipped)
        statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(flipped).hexdigest()
        (folder / "s.json").write_text(json.dumps(statement))
        try:
            refused += verify_statement(folder / "s.json").exit_code == 1
        except FormatError:  # not a whole model any more
            refused += 1
    return refused


def test_a_statement_that_was_changed_to_fit_is_refused(attested):
    """Digests alone prove nothing: the output is derived anew."""
    quantize_file("f16.gguf", "q4_0.gguf", "Q4_1")
    statement = json.loads((attested / "s.json").read_text())
    digest = hashlib.sha256((attested / "q4_0.gguf").read_bytes()).hexdigest()
    statement["subject"][0]["digest"]["sha256"] = digest
    (attested / "s.json").write_text(json.dumps(statement))
    report = verify_statement(attested / "s.json")
    assert (report.exit_code, "Q4_1) makes; stated: " in report.sentence()) == (1, True)
    data = bytearray((attested / "q4_0.gguf").read_bytes())
    data[-100] ^= 1
    (attested / "q4_0.gguf").write_bytes(data)
    statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(data).hexdigest()
    (attested / "s.json").write_text(json.dumps(statement))
    report = verify_statement(attested / "s.json")
    assert (report.exit_code, "derived anew" in report.sentence()) == (1, True)


def test_nothing_is_attested_of_what_differs(attested, capsys):
    data = bytearray((attested / "q4_0.gguf").read_bytes())
    data[-100] ^= 1
    (attested / "q4_0.gguf").write_bytes(data)
    (attested / "s.json").unlink()
    assert main(["verify", "q4_0.gguf", "--source", "f16.gguf", "--attest", "s.json"]) == 1
    assert "nothing is attested" in capsys.readouterr().err
    assert not (attested / "s.json").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", "[" * 5000, '{"_type": "https://in-toto.io/Statement/v1"}'])
def test_other_files_are_no_statements(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(FormatError, match="is not a statement of this program"):
        verify_statement(tmp_path / "s.json")


@pytest.fixture
def weighted(golden, tmp_path, monkeypatch):
    """A checkpoint's directory, what llama-quantize makes of it with an importance matrix, and the matrix."""
    from ggmlpy.formats.importance import write_importance
    from ggmlpy.quantizers.gguf_plan import GgufOptions
    from toolchain.commands.main import main as run

    monkeypatch.chdir(tmp_path)
    source = golden("today-models/hf/llama1-mha")
    shutil.copytree(source, tmp_path / "hf")
    shutil.copy(golden("today-models/hf/tokenizer.model"), tmp_path / "hf" / "tokenizer.model")
    assert run(["convert", "hf", "--outtype", "f16", "--outfile", "f16.gguf", "--container", "gguf", "-q"]) == 0
    with open_model("f16.gguf") as model:
        named = {gguf_name(t.name): t.shape for t in model.tensors.values() if len(t.shape) == 2}
    generator = np.random.default_rng(5)
    sums = {name: generator.random(shape[1]).astype("f4") for name, shape in named.items() if name.startswith("blk.")}
    write_importance("im.gguf", sums, 64, format="gguf", dataset="x", n_chunks=1, chunk_size=64)
    quantize_file("f16.gguf", "q4_0.gguf", "Q4_0", options=GgufOptions(importance="im.gguf"))
    (tmp_path / "f16.gguf").unlink()
    return tmp_path


def test_a_checkpoint_and_its_importance_matrix_prove_a_file(weighted, capsys):
    command = ["verify", "q4_0.gguf", "--source", "hf", "-q"]
    assert main([*command, "--imatrix", "im.gguf", "--attest", "s.json"]) == 0
    assert "--imatrix im.gguf" in capsys.readouterr().out
    assert main(["verify", "--statement", "s.json", "-q"]) == 0
    capsys.readouterr()
    assert main(command) == 1
    assert "likely cause: " in capsys.readouterr().out
    data = bytearray((weighted / "q4_0.gguf").read_bytes())
    data[-100] ^= 1
    (weighted / "q4_0.gguf").write_bytes(data)
    assert main([*command, "--imatrix", "im.gguf"]) == 1
