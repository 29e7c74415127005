"""The table of types: the same figures as the other commands give, resumed where a run stopped."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cli
from ggmlpy.files.errors import UsageError
from llama_ref.text import quality
from llama_ref.text.model import Model
from llama_ref.text.perplexity import perplexity
from llama_ref.text.quality import Study, divergences, markdown


@pytest.fixture
def study(golden, tmp_path, monkeypatch):
    """A study of the golden model, two chunks long; speed is not measured."""
    monkeypatch.setattr(quality, "measure", lambda *_: type("Measured", (), {"generate": 7.0}))
    source = shutil.copy(golden("ggml/T1_convert_f16") / "T1.p2.f16.bin", tmp_path / "f16.bin")
    text = golden("ggml/perplexity_p2/ppl.txt").read_bytes()

    def made(**options):
        return Study(source, text, tmp_path / "study", n_ctx=64, chunks=2, threads=1, **options)

    return made


def test_the_figures_are_those_of_perplexity_and_of_the_logits(study, tmp_path):
    source, row = study(types=["q4_0"], keep=True).rows()
    assert (source.type, source.divergence, source.agreement) == ("F16", 0.0, 1.0)
    assert row.n_bytes == (tmp_path / "study" / "f16-Q4_0.bin").stat().st_size
    tokens, logits = study()._tokens(), []
    for figures, path in ((source, tmp_path / "f16.bin"), (row, tmp_path / "study" / "f16-Q4_0.bin")):
        with Model.from_file(path, n_ctx=64, n_threads=1) as model:
            *_, last = perplexity(model, tokens)
            logits.append(model.evaluate(tokens[:63], 0)[32:].astype(np.float64))
        assert figures.perplexity == pytest.approx(last.value, rel=1e-6)
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in logits)
    assert divergences(*(x.astype(np.float32) for x in logits)) == pytest.approx((p * np.log(p / q)).sum(1), abs=1e-6)
    assert 0 < row.divergence < 1
    assert 4.9 < row.bits_per_weight < 6


def test_what_is_known_is_not_found_again(study, tmp_path, monkeypatch):
    first = list(study(types=["q4_0"]).rows())
    assert not list((tmp_path / "study").glob("*.bin"))
    monkeypatch.setattr(quality, "quantize_file", lambda *_, **__: pytest.fail("quantized again"))
    assert list(study(types=["q4_0"]).rows()) == first
    with pytest.raises(pytest.fail.Exception):
        list(study(types=["q4_1"]).rows())


def test_an_interrupted_reading_goes_on(study, tmp_path, monkeypatch):
    whole = next(study(types=["q4_0"]).rows())
    shutil.rmtree(tmp_path / "study")
    read, evaluate = [], Model.evaluate

    def interrupted(model, tokens, n_past, **options):
        if len(read) == 1:
            read.append("stopped")
            raise KeyboardInterrupt
        read.append("chunk")
        return evaluate(model, tokens, n_past, **options)

    monkeypatch.setattr(Model, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(study(types=["q4_0"]).rows())
    row = next(study(types=["q4_0"]).rows())
    assert read == ["chunk", "stopped", "chunk"]
    assert row == whole


def test_another_text_is_another_study(study, tmp_path):
    list(study(types=["q4_0"]).rows())
    other = study(types=["q4_0"])
    other.text = other.text[200:]
    assert quality.Notes.of(tmp_path / "study" / "quality.json", other._facts()).rows == {}


def test_a_quantized_source_is_refused(study, golden):
    other = study()
    other.source = golden("ggml/T1_quant_p2") / "T1.q4_0.bin"
    with pytest.raises(UsageError, match="is quantized itself"):
        list(other.rows())


@given(st.integers(0, 2**32))
def test_divergences_are_never_negative_and_zero_of_the_same(seed):
    x, y = np.random.default_rng(seed).normal(0, 8, (2, 3, 50)).astype(np.float32)
    assert (divergences(x, y) >= 0).all()
    assert divergences(x, x).tolist() == [0, 0, 0]
    assert divergences(x, x + np.float32(3)) == pytest.approx([0, 0, 0], abs=1e-5)  # logits are known up to a constant


def test_the_command_prints_the_table(study, tmp_path, capsys, golden):
    text = golden("ggml/perplexity_p2/ppl.txt")
    command = ["quality", str(tmp_path / "f16.bin"), "-f", str(text), "-c", "64", "--chunks", "1", "-t", "1"]
    assert cli.main([*command, "--types", "q4_0,q4_1", "-o", str(tmp_path / "here")]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines()[2:]] == ["F16", "Q4_0", "Q4_1"]
    assert (tmp_path / "here" / "quality.md").read_text() == out
    assert str(tmp_path / "here") in err
    assert cli.main([*command, "--types", "q4_0", "-o", str(tmp_path / "here"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["type"] for row in rows] == ["F16", "Q4_0"]
    assert all(math.isfinite(value) for row in rows for value in row.values() if not isinstance(value, str | list))
    assert markdown([quality.Quality(**row) for row in rows]).splitlines() == out.splitlines()[:4]
    assert cli.main([*command, "--types", "q9_9"]) == 2
    assert cli.main([*command, "--chunks", "0"]) == 2


def test_a_row_of_another_type_than_its_name_says_so(study, tmp_path, capsys):
    """The golden model is too narrow for k-quants: GGUF's quantizer takes others, and every run of the table tells."""
    assert cli.main(["migrate", "-q", str(study().source), str(tmp_path / "f16.gguf")]) == 0
    command = ["quality", str(tmp_path / "f16.gguf"), "-f", str(tmp_path / "text"), "-c", "64", "--chunks", "1"]
    (tmp_path / "text").write_bytes(study().text)
    for _ in range(2):
        assert cli.main([*command, "--types", "q4_K_M"]) == 0
        assert "note: Q4_K_M: " in (said := capsys.readouterr().err)
        assert "became q5_0 instead of q4_K" in said
