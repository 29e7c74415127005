"""Importance matrices: read in both formats, measured as llama-imatrix does, shown."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ggmlpy import UsageError, open_model
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.importance import is_importance, open_importance, write_importance
from llama_ref.text.importance import measure_importance
from llama_ref.text.model import Model
from tests.quantized_today import input_file
from toolchain.commands.main import main


@pytest.fixture(scope="module")
def folder(golden):
    return golden("today-quants/models")


@pytest.fixture(scope="module")
def source(folder, tmp_path_factory):
    return input_file(folder, "a4gqa.f16.gguf", tmp_path_factory.mktemp("source") / "a4gqa.f16.gguf")


@pytest.mark.parametrize("kind", ["gguf", "dat"])
def test_the_numbers_of_llama_imatrix(folder, source, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(folder)
    out = tmp_path / f"out.{kind}"
    words = ["-f", "calib.txt", "-c", "64", "--chunks", "12", "-o", str(out), "-q"]
    assert main(["imatrix", "-m", str(source), *words]) == 0
    ours, theirs = open_importance(out), open_importance(folder / f"a4gqa.imatrix.{kind}")
    assert list(ours.entries) == list(theirs.entries)
    assert (ours.datasets, ours.n_chunks, ours.chunk_size) == (theirs.datasets, theirs.n_chunks, theirs.chunk_size)
    for name, values in theirs.entries.items():
        np.testing.assert_allclose(ours.entries[name], values, rtol=2e-2, err_msg=name)
    assert out.stat().st_size == (folder / f"a4gqa.imatrix.{kind}").stat().st_size


def test_all_but_the_numbers_is_the_same_to_the_byte(folder, tmp_path):
    """Written anew from the numbers that the real file has."""
    wanted = folder / "a4gqa.imatrix.gguf"
    sums = {
        name.removesuffix(".in_sum2"): tensor.data.view("<f4")
        for name, tensor in open_gguf(wanted).tensors.items()
        if name.endswith(".in_sum2")
    }
    facts = {"format": "gguf", "dataset": "calib.txt", "n_chunks": 12, "chunk_size": 64}
    write_importance(tmp_path / "out.gguf", sums, 768, **facts)
    assert (tmp_path / "out.gguf").read_bytes() == wanted.read_bytes()
    write_importance(tmp_path / "out.dat", sums, 768, **facts | {"format": "dat"})
    assert (tmp_path / "out.dat").read_bytes() == (folder / "a4gqa.imatrix.dat").read_bytes()


@pytest.mark.parametrize("kind", ["gguf", "dat"])
def test_an_importance_matrix_is_shown(folder, kind, capsys):
    path = folder / f"a4gqa.imatrix.{kind}"
    assert is_importance(path)
    assert main(["identify", str(path)]) == 0
    assert "importance matrix" in capsys.readouterr().out
    assert main(["inspect", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["datasets"], shown["chunks"], len(shown["tensors"])) == (["calib.txt"], 12, 28)


def test_a_text_that_is_too_short_is_refused(source):
    words = pytest.raises(UsageError, match="fewer than one chunk of 64")
    with Model.from_file(open_model(source), n_ctx=64, numerics="reference") as model, words:
        measure_importance(model, [1, 2, 3])
