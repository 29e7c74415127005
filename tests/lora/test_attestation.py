"""Statements of what was derived from what, and deriving it again."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest

from ggmlpy import open_model
from ggmlpy.files.errors import FormatError
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
