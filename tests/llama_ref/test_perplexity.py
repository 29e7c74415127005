"""Perplexity against the digits that llama.cpp's tool of 2023-03-31 printed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cli
from ggmlpy.files.errors import UsageError
from llama_ref.text.model import Model
from llama_ref.text.perplexity import perplexity, surprises

BUILD_OF = {"s": "scalar", "v2": "avx2"}


@pytest.fixture
def command(golden):
    """The arguments for a type and a text."""

    def arguments(kind, *more):
        folder, name = ("T1_convert_f16", "T1.p2.f16.bin") if kind == "f16" else ("T1_quant_p2", f"T1.{kind}.bin")
        text = golden("ggml/perplexity_p2/ppl.txt")
        return ["perplexity", "-q", "-m", str(golden(f"ggml/{folder}") / name), "-f", str(text), *more]

    return arguments


@pytest.mark.parametrize("name", ["f16.s", "f16.v2", "q4_0.s", "q4_0.v2"])
def test_prints_the_same_digits(name, golden, command, capsys):
    kind, build = name.split(".")
    assert cli.main(command(kind, "-c", "128", "--numerics", "exact", "--build", BUILD_OF[build])) == 0
    assert capsys.readouterr().out == golden(f"ggml/perplexity_p2/{name}.txt").read_text()


def test_json_holds_every_figure(command, capsys):
    assert cli.main(command("q4_0", "-c", "128", "--numerics", "exact", "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["perplexity"] == result["running"][-1] == pytest.approx(1456.3099)
    assert (result["n_chunks"], result["n_tokens"]) == (16, 16 * 63)
    bits = result["nll"] / math.log(2)
    assert result["bits_per_byte"] == pytest.approx(bits / result["n_bytes"])
    assert result["bits_per_character"] == pytest.approx(bits / result["n_characters"])
    assert result["n_characters"] <= result["n_bytes"]


def test_a_short_text_is_refused(golden):
    path = golden("ggml/T1_quant_p2") / "T1.q4_0.bin"
    with (
        Model.from_file(path, numerics="exact", n_ctx=8) as model,
        pytest.raises(UsageError, match=r"the text has 7 tokens, fewer than one chunk of 8"),
    ):
        next(perplexity(model, [1, 2, 3, 4, 5, 6, 7]))


def test_a_missing_text_is_exit_code_3(command, capsys):
    arguments = command("q4_0", "--numerics", "exact")
    arguments[arguments.index("-f") + 1] = "no-such-text"
    assert cli.main(arguments) == 3
    assert "cannot read the text" in capsys.readouterr().err


@given(st.integers(1, 5), st.integers(2, 50), st.integers(0, 2**32 - 1))
def test_surprises_are_minus_log_softmax(n, n_vocab, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 5, (n, n_vocab)).astype(np.float32)
    tokens = rng.integers(0, n_vocab, n)
    wide = rows.astype(np.float64)
    expected = np.log(np.exp(wide).sum(1)) - wide[np.arange(n), tokens]
    np.testing.assert_allclose(surprises(rows, tokens), expected, rtol=1e-4, atol=1e-5)
