"""The commands train, instructions and crawl."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

import cli
from ggmlpy.formats.model_params import ModelParams
from llama_ref.checkpoint import open_checkpoint
from llama_ref.vocabulary.sentencepiece_model import write_sentencepiece
from lora.merging.adapter import open_adapter
from lora.vocabulary import train_vocabulary
from toolchain.makers import recipe

TEXTS = ["The cat sat on the mat.", "A dog ran in the park.", "Birds sing in the trees."]


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    write_sentencepiece(tmp_path / "t.model", train_vocabulary(iter(TEXTS * 9), vocab_size=300, character_coverage=1.0))
    return str(tmp_path / "t.model")


def test_pretrain_resumes_and_is_plotted(tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS))
    options = ["--n-embd", "16", "--n-mult", "8", "--n-head", "2", "--n-layer", "1", "--length", "32", "--rows", "1"]
    argv = ["train", "pretrain", str(tmp_path / "texts.txt"), "--tokenizer", tokenizer, *options, "--steps", "4"]
    assert cli.main([*argv, "--output", str(tmp_path / "base")]) == 0
    assert "pretrain: loss" in capsys.readouterr().err
    with open_checkpoint(tmp_path / "base") as checkpoint:
        assert (checkpoint.params.n_embd, checkpoint.params.n_layer) == (16, 1)
    assert cli.main([*argv, "--output", str(tmp_path / "base"), "--resume"]) == 0
    plot = ["train", "plot", str(tmp_path / "base" / "work"), "-o", str(tmp_path / "loss.svg")]
    assert cli.main(plot) == 0
    assert (tmp_path / "loss.svg").read_text().startswith("<svg")


def test_missing_base_is_a_missing_file(tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text(TEXTS[0])
    argv = ["train", "stage1", str(tmp_path / "texts.txt"), "--tokenizer", tokenizer, "--output", str(tmp_path / "a")]
    assert cli.main([*argv, "--base", str(tmp_path / "nowhere")]) == 3
    assert "nowhere" in capsys.readouterr().err


def test_demo_recipe_from_beginning_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step a stage on a small corpus: what is made is complete, and a second run keeps it."""
    whole = recipe.DemoRecipe
    sizes = {"n_english": 500, "n_chinese": 1100, "n_texts": 400, "n_instructions": 400, "n_sums": 200, "rows": 2}
    small = functools.partial(whole, shape=ModelParams(n_embd=32, n_mult=16, n_head=2, n_layer=2), **sizes)
    monkeypatch.setattr(recipe, "DemoRecipe", lambda **given: small(**given) if given.get("steps") else whole(**given))
    argv = ["train", "demo", "--output", str(tmp_path / "demo"), "--steps", "1"]
    assert cli.main(argv) == 0
    assert "done in" in capsys.readouterr().err
    sums = (tmp_path / "demo" / "SHA256SUMS").read_text()
    for name in recipe.ADAPTERS:
        with open_adapter(tmp_path / "demo" / name) as adapter:
            assert len(adapter.pairs) == 7 * 2
        assert f"{name}/adapter_model.bin" in sums
    assert cli.main(argv) == 0
    assert (tmp_path / "demo" / "SHA256SUMS").read_text() == sums
    assert "instruct: loss" not in capsys.readouterr().err


def test_instructions_are_cleaned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "replies.txt").write_text('[{"instruction": "a", "output": "b",},][{"instruction": "c')
    out = tmp_path / "clean.json"
    assert cli.main(["instructions", str(tmp_path / "replies.txt"), "--output", str(out), "-v"]) == 0
    err = capsys.readouterr().err
    assert "1 of 1 records kept" in err
    assert "line 1: cut off" in err
    assert json.loads(out.read_text()) == [{"instruction": "a", "input": "", "output": "b"}]
    assert cli.main(["instructions", str(tmp_path / "replies.txt"), "--output", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[str(tmp_path / "replies.txt")]["counts"]["cut off"] == 1
    assert cli.main(["instructions", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["output"] == "b"
    assert cli.main(["instructions", str(out), "--json"]) == 2


def test_mixes_of_given_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kinds of Chinese-LLaMA-Alpaca's table, each with its share."""
    kinds = {
        "translation": [{"english": f"{i}.", "chinese": f"{i}。"} for i in range(30)],
        "pclue": [{"input": f"问 {i}", "target": f"答 {i}"} for i in range(30)],
        "alpaca": [{"instruction": f"Say {i}.", "input": "", "output": f"{i}"} for i in range(5)],
    }
    for name, records in kinds.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    files, out = [str(tmp_path / f"{name}.json") for name in kinds], tmp_path / "mix.json"
    assert cli.main(["instructions", *files, "--take", "10,40,all", "--output", str(out)]) == 0
    assert "has 30 records, 40 were asked for" in capsys.readouterr().err
    mixed = json.loads(out.read_text())
    assert len(mixed) == 10 + 30 + 5
    drawn = [int(record["input"][:-1]) for record in mixed[:10]]
    assert drawn == sorted(set(drawn))
    assert drawn != list(range(10))
    again = tmp_path / "again.json"
    assert cli.main(["instructions", *files, "--take", "10,40,all", "--output", str(again), "-q"]) == 0
    assert again.read_bytes() == out.read_bytes()
    for wrong in ("x,4,all", "0,4,all", "1,,all", "-1,4,all"):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["instructions", *files, f"--take={wrong}", "--output", str(out)])
        assert "must be a number or all for each file" in capsys.readouterr().err
    assert cli.main(["instructions", *files, "--take", "10", "--output", str(out)]) == 2
    assert "1 size for 3 files" in capsys.readouterr().err


def test_crawl_refuses_what_is_no_endpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["crawl", str(tmp_path / "data.json"), "--url", "ftp://x", "--model", "m"]) == 2
    assert "not an endpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read the texts: No such file"),
        (b"", "holds no text"),
        ("中文".encode("gb18030"), "is not UTF-8 text"),
    ],
)
def test_texts_that_cannot_be_read(
    tmp_path: Path, tokenizer: str, capsys: pytest.CaptureFixture[str], content: bytes | None, words: str
) -> None:
    texts = tmp_path / "texts.txt"
    if content is not None:
        texts.write_bytes(content)
    command = ["train", "pretrain", str(texts), "--tokenizer", tokenizer, "-o", str(tmp_path / "out")]
    assert cli.main(command) == 3
    error = capsys.readouterr().err
    assert f"{texts}: {words}" in error
    assert "Next: " in error
    assert not (tmp_path / "out").exists()
