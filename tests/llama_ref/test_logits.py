"""The `logits` function and command."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import cli
from ggmlpy import open_model, out_tensor, write_model
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


def test_the_first_era_keeps_keys_in_f32_unless_told_otherwise(path, tmp_path):
    def run(*options):
        out = tmp_path / "l.npy"
        tokens = ",".join(map(str, TOKENS))
        words = ["logits", "-q", "-m", str(path), "--tokens", tokens, "--out", str(out), "--numerics", "exact"]
        assert cli.main([*words, "--era", "2023-03-19", *options]) == 0
        return np.load(out)

    np.testing.assert_array_equal(run(), run("--memory-f32"))
    assert not np.array_equal(run(), run("--memory-f16"))


def test_an_epsilon_counts_over_the_files_only_if_it_was_typed(golden, tmp_path):
    with open_model(golden("ggml/T1_convert_f16/T1.p2.f16.bin")) as model:
        tensors = [out_tensor(tensor) for tensor in model.tensors.values()]
        vocab = list(zip(model.vocab, model.vocab.scores.tolist(), strict=True))
        write_model(tmp_path / "m.gguf", "gguf", 3, replace(model.hparams, norm_eps=0.5), vocab, tensors)

    def run(*options):
        out = tmp_path / "l.npy"
        words = ["logits", "-q", "-m", str(tmp_path / "m.gguf"), "--tokens", "1,38,7", "--out", str(out)]
        assert cli.main([*words, "--numerics", "reference", *options]) == 0
        return np.load(out)

    np.testing.assert_array_equal(run(), run("--norm-eps", "0.5"))
    assert np.abs(run() - run("--norm-eps", "1e-6")).max() > 0.01


@pytest.mark.parametrize("eps", ["-1", "nan", "inf"])
def test_an_epsilon_is_a_number_from_0_on(path, tmp_path, capsys, eps):
    words = ["logits", "-m", str(path), "--tokens", "1", "--out", str(tmp_path / "l.npy"), f"--norm-eps={eps}"]
    assert cli.main(words) == 2
    assert "the epsilon of the norms must be a number from 0 on" in capsys.readouterr().err
