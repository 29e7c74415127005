"""The `logits` function and command."""

from __future__ import annotations

import numpy as np
import pytest

import cli
from ggmlpy.files.errors import UsageError
from llama_ref.text.logits import logits, parse_tokens
from llama_ref.text.model import Model

TOKENS = [1, 132, 38, 188, 171, 204]


@pytest.fixture
def path(golden):
    return golden("ggml/T1_quant_p2") / "T1.q4_0.bin"


@pytest.mark.parametrize("build", ["scalar", "avx2"])
def test_the_command_writes_what_llama_cpp_computes(path, golden, tmp_path, build):
    mode, pin = ("loop", "s") if build == "scalar" else ("batch", "v2")
    theirs = np.fromfile(golden(f"ggml/T1_logits_p2/T1.p2.q4_0.{pin}.kv16.{mode}.t1.f32"), np.float32).reshape(-1, 400)
    import json

    tokens = json.loads((golden("ggml/T1_logits_p2") / "manifest.json").read_text())["tokens"]
    out = tmp_path / "l.npy"
    command = ["logits", "-q", "-m", str(path), "--tokens", ",".join(map(str, tokens)), "--out", str(out)]
    assert (
        cli.main([*command, "--numerics", "exact", "--build", build, *(["--batch", "1"] if mode == "loop" else [])])
        == 0
    )
    ours = np.load(out)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs)


def test_batches_are_as_asked(path):
    with Model.from_file(path, numerics="exact", build="avx2") as model:
        done = []
        rows = logits(model, TOKENS, batch=4, progress=done.append)
        assert done == sorted(done)
        assert {2.0, 4.0, 5.0, 6.0} <= set(done), "after each of the two layers of each batch"
        np.testing.assert_array_equal(rows[:4], model.evaluate(TOKENS[:4], 0))
        np.testing.assert_array_equal(rows[4:], model.evaluate(TOKENS[4:], 4))


@pytest.mark.parametrize("text", ["1,2,3", "1 2 3", " 1, 2,,3 "])
def test_tokens_are_numbers_with_something_between(text):
    assert parse_tokens(text) == [1, 2, 3]


@pytest.mark.parametrize(("text", "message"), [("", "is empty"), ("1,b", "not 'b'"), ("1.5", "not '1.5'")])
def test_what_are_not_tokens(text, message):
    with pytest.raises(UsageError, match=message):
        parse_tokens(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokens", "1,400"], "token 400 is outside the vocabulary of 400 tokens"),
        (["--tokens", "1", "--batch", "0"], "--batch must be at least 1, not 0"),
        (["--tokens", "1", "--build", "neon"], "no build called 'neon'"),
        (["--tokens", "1", "--era", "2023-08-21"], "2023-08-21 could not read tok_embeddings.weight"),
    ],
)
def test_wrong_usage_is_exit_code_2(path, tmp_path, capsys, options, message):
    command = ["logits", "-m", str(path), "--out", str(tmp_path / "l.npy"), "--numerics", "exact", *options]
    assert cli.main(command) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
