"""Prepared data against the original scripts' blocks, instructions and orders; going on, and files that are bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cli
from ggmlpy.files.errors import FormatError, UsageError
from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.safetensors_file import open_safetensors, write_safetensors
from llama_ref.vocabulary.sentencepiece_model import SentencePieceModel, read_sentencepiece
from lora.training import prepare as preparing
from lora.training.order import split_order, torch_order
from lora.training.prepare import Preparation, prepare_data
from lora.training.prepared import IGNORED, KIND, Blocks, is_prepared, open_prepared
from lora.training.tokens import TrainingTokenizer, cut_lines
from lora.vocabulary import merge_vocabularies

Golden = Callable[[str], Path]
DEMO = {"demo 1961": "tokenizer-llama", "demo 1962": "tokenizer-alpaca"}


def tokenizer(golden: Golden, folder: str = "tokenizer-llama") -> str:
    return str(golden(f"recipe/{folder}/tokenizer.model"))


# ── tokens ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_tokens(model: SentencePieceModel, cases: list[dict]) -> None:
    encoder, texts = TrainingTokenizer(model), [case["text"] for case in cases]
    assert encoder.lines(texts) == [case["original"] for case in cases]
    assert encoder.encode(texts) == [case["original_without_bos"] for case in cases]


@pytest.mark.parametrize("name", DEMO)
def test_odd_texts(name: str, golden: Golden) -> None:
    cases = json.loads(golden("recipe/data/tokens.json").read_bytes())[name]
    check_tokens(read_sentencepiece(tokenizer(golden, DEMO[name])), cases)


def test_odd_texts_with_the_published_tokenizers(golden: Golden, tokenizers: Path) -> None:
    cases = json.loads(golden("recipe/data/tokens.json").read_bytes())
    llama, chinese = (read_sentencepiece(tokenizers / f"{name}.model") for name in ("llama", "chinese_sp"))
    check_tokens(merge_vocabularies(llama, chinese)[0], cases["published 49953"])
    check_tokens(merge_vocabularies(llama, chinese, "[PAD]")[0], cases["published 49954"])


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(2, 9))
def test_blocks_are_whole_and_lose_less_than_one(lengths: list[int], length: int) -> None:
    lines = [list(range(n)) for n in lengths]
    rows, n = list(cut_lines(lines, length)), sum(lengths)
    assert [i for row in rows for i in row.ids] == [i for line in lines for i in line][: sum(len(r.ids) for r in rows)]
    assert {len(row.ids) for row in rows} <= {length if n >= length else n}
    assert sum(len(row.ids) for row in rows) == (n // length * length if n >= length else n)


# ── order ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_orders_are_torchs(golden: Golden) -> None:
    for case in json.loads(golden("recipe/data/order.json").read_bytes()):
        assert torch_order(case["n"], case["seed"]).tolist() == case["order"]


@given(st.integers(0, 50), st.floats(0, 0.9), st.integers(0, 2**32 - 1))
def test_a_split_is_a_partition(n: int, share: float, seed: int) -> None:
    train, held = split_order(n, share, seed)
    assert sorted([*train, *held]) == list(range(n))


# ── the original's blocks and records ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n_workers", [1, 3])
def test_blocks_are_the_originals(n_workers: int, golden: Golden, tmp_path: Path) -> None:
    wanted = json.loads(golden(f"recipe/data/blocks-workers{n_workers}.json").read_bytes())
    files = [golden(f"recipe/data/pt/{name}") for name in wanted["order_of_files"]]
    share = wanted["validation_split_percentage"]
    how = Preparation("texts", "original", wanted["block_size"], n_workers, share, wanted["seed"], n_threads=2)
    prepare_data(files, tokenizer(golden), tmp_path / "out.safetensors", how)
    with open_prepared(tmp_path / "out.safetensors") as data:
        assert [data.row(number).tolist() for number in data.train] == wanted["train"]
        assert data.labels(0).tolist() == data.row(0).tolist()
    assert not (tmp_path / "out.safetensors.part").exists()


def test_records_are_the_originals(golden: Golden, tmp_path: Path) -> None:
    wanted, out = json.loads(golden("recipe/data/instructions.json").read_bytes()), str(tmp_path / "out.safetensors")
    options = ["--tokenizer", tokenizer(golden, "tokenizer-alpaca"), "--length", str(wanted["max_seq_length"])]
    assert cli.main(["train", "prepare", str(golden("recipe/data/sft/c.json")), "--records", *options, "-o", out]) == 0
    with open_prepared(out) as data:
        assert [data.row(number).tolist() for number in data.train] == wanted["input_ids"]
        assert [data.labels(number).tolist() for number in data.train] == wanted["labels"]


def test_a_prompt_that_fills_the_row_leaves_no_target(
    golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long, vocabulary = golden("recipe/data/long.json"), tokenizer(golden, "tokenizer-alpaca")
    prepare_data([long], vocabulary, tmp_path / "out.safetensors", Preparation("records", length=64))
    with open_prepared(tmp_path / "out.safetensors") as data:
        assert set(data.labels(0).tolist()) == {IGNORED}
        with pytest.raises(UsageError, match="has no token to learn: each row, of at most 64 tokens, ends before"):
            Blocks(data, rows=1)
    data, output = str(tmp_path / "out.safetensors"), str(tmp_path / "export")
    words = ["train", "export", data, "--stage", "instruct", "--cards", "4", "-o", output]
    assert cli.main(words) == 2
    assert "has no token to learn" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()


def test_rows_that_teach_nothing_are_counted(
    golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in the original, whose loss of such a batch is not a number and whose weights stay."""
    records = [{"instruction": "好" * n, "input": "", "output": "是"} for n in (1, 200, 200)]
    (tmp_path / "r.json").write_text(json.dumps(records))
    options = ["--records", "--length", "100", "--tokenizer", tokenizer(golden, "tokenizer-alpaca")]
    out = str(tmp_path / "out.safetensors")
    assert cli.main(["train", "prepare", str(tmp_path / "r.json"), *options, "-o", out]) == 0
    assert "2 rows without a target" in capsys.readouterr().err
    with open_prepared(out) as data:
        blocks = Blocks(data, rows=1)
        assert blocks.without_target == 2
        assert sorted(blocks.batch(at).n_targets > 0 for at in range(3)) == [False, False, True]


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 6), st.integers(0, 9))
def test_updates_take_every_row_once_an_epoch(n: int, rows: int, accumulation: int, seed: int) -> None:
    data = SimpleNamespace(train=np.arange(n), path="x", targets=np.ones(n, int), longest=2)
    for epoch_end in ("carried over", "smaller update"):
        blocks = Blocks(data, rows=rows, seed=seed, epoch_end=epoch_end)  # type: ignore[arg-type]
        updates = [blocks.of_update(step, accumulation) for step in range(2 * n)]
        assert [number for update in updates for number in update] == list(range(updates[-1].stop))
        batches = [blocks.rows_of(number) for number in range(2 * blocks.n_batches)]
        assert max(map(len, batches)) == min(rows, n)
        for epoch in range(2):
            own = batches[epoch * blocks.n_batches : (epoch + 1) * blocks.n_batches]
            assert [row for batch in own for row in batch] == torch_order(n, seed + epoch).tolist()
        if epoch_end == "carried over":
            assert {len(update) for update in updates} == {accumulation}
        else:
            assert all(update.start // blocks.n_batches == (update.stop - 1) // blocks.n_batches for update in updates)


# ── going on ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_interrupted_run_goes_on(golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, vocabulary, how = [golden("recipe/data/pt/a.txt")], tokenizer(golden), Preparation(length=16, validation=0.1)
    monkeypatch.setattr(preparing, "NOTE_EVERY", 1)
    prepare_data(texts, vocabulary, tmp_path / "whole.safetensors", how)
    usual, done = preparing.cut_lines, []

    def killed(*args: object) -> object:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(args)
        return usual(*args)

    monkeypatch.setattr(preparing, "cut_lines", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_data(texts, vocabulary, tmp_path / "cut.safetensors", how)
    with open(tmp_path / "cut.safetensors.part" / "ids", "ab") as stream:
        stream.write(b"half a batch")
    done[:] = [None] * 2
    prepare_data(texts, vocabulary, tmp_path / "cut.safetensors", how)
    assert (tmp_path / "cut.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


# ── bad files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"[]", "no array of records"), (b"{", "Expecting"), (b'[{"instruction": "a"}]', "record 1"), (b"\xff", "codec")],
)
def test_files_without_records(content: bytes, words: str, golden: Golden, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_bytes(content)
    with pytest.raises(FormatError, match=words):
        prepare_data([tmp_path / "data.json"], tokenizer(golden), tmp_path / "out", Preparation("records"))


def test_texts_in_another_encoding_and_none(golden: Golden, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"a\n" + "中文".encode("gb18030"))
    with pytest.raises(FormatError, match="is not UTF-8 text"):
        prepare_data([tmp_path / "t.txt"], tokenizer(golden), tmp_path / "out")
    (tmp_path / "t.txt").write_bytes(b"")
    with pytest.raises(UsageError, match="nothing to train on"):
        prepare_data([tmp_path / "t.txt"], tokenizer(golden), tmp_path / "out")


def test_the_files_name_does_not_matter(
    golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("The sun is far.\n" * 40, "utf-8")
    vocabulary = ["--tokenizer", tokenizer(golden)]
    assert cli.main(["train", "prepare", "t.txt", *vocabulary, "-o", "rows", "--length", "8", "-q"]) == 0
    assert cli.main(["identify", "rows"]) == 0
    assert "texts of the recipe original" in capsys.readouterr().out
    sizes = ["--base", str(golden("recipe/base")), "--length", "8", "--steps", "1", "--rows", "1", "-o", "a"]
    assert cli.main(["train", "stage1", "rows", *vocabulary, *sizes]) == 0
    Path("r.json").write_text('[      {"instruction": "Add.", "output": "2"}]', "utf-8")
    assert not is_prepared("r.json")


def test_another_tokenizers_data_and_damaged_data(golden: Golden, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    (tmp_path / "t.txt").write_text("你好\n" * 40, "utf-8")
    prepare_data([tmp_path / "t.txt"], tokenizer(golden), out, Preparation(length=8))
    with pytest.raises(FormatError, match="another tokenizer"):
        open_prepared(out, 49953)
    with open_safetensors(out) as file:
        arrays, metadata = {name: tensor.numpy().copy() for name, tensor in file.items()}, file.metadata
    for name, at, value in (("starts", 0, 1), ("starts", 1, 9**9), ("train", 0, -1), ("first_targets", 0, 9)):
        broken = {**arrays, name: arrays[name].copy()}
        broken[name][at] = value
        write_safetensors(out, [LazyTensor.of_array(key, array) for key, array in broken.items()], metadata)
        with pytest.raises(FormatError, match="do not fit together"):
            open_prepared(out)
    write_safetensors(out, [LazyTensor.of_array("ids", np.zeros(1, np.float32))])
    with pytest.raises(FormatError, match="not prepared data"):
        open_prepared(out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": np.zeros((1, 1), np.int64)}, "tensor train is not a list of int64"),
        ({"starts": np.array([0.0, 1.0])}, "tensor starts is not a list of int64"),
        ({"starts": np.array([0, 2**63 - 1, -2, 8]), "first_targets": np.zeros(3, "<i4")}, "do not fit together"),
        ({"n_vocab": "many"}, "size of the tokenizer"),
        ({"n_vocab": "9" * 5000}, "size of the tokenizer"),
    ],
)
def test_prepared_data_of_other_types(change: dict, words: str, tmp_path: Path) -> None:
    write_prepared(tmp_path / "x.safetensors", change)
    with pytest.raises(FormatError, match=words):
        open_prepared(tmp_path / "x.safetensors")


def test_a_token_that_the_tokenizer_does_not_have(tmp_path: Path) -> None:
    write_prepared(tmp_path / "x.safetensors", {"ids": np.arange(5, 13, dtype="<u2")})
    with open_prepared(tmp_path / "x.safetensors") as data, pytest.raises(FormatError, match="row 0 has a token"):
        Blocks(data, rows=1).batch(0)


@pytest.mark.parametrize("where", ["ids", "lengths"])
def test_a_batch_that_was_stopped_half_way_is_made_anew(
    where: str, golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C, or a full disk, between the two files of a batch: the next run gives the same bytes."""
    (tmp_path / "t.txt").write_text("The sun is far.\n" * 5000, "utf-8")
    how = Preparation(length=8)
    prepare_data([tmp_path / "t.txt"], tokenizer(golden), tmp_path / "whole", how)
    add, count = preparing._Draft.add, [0]

    def stopped(draft: preparing._Draft, *arrays: np.ndarray) -> None:
        count[0] += 1
        if count[0] == 3:
            ids, lengths = draft._streams
            ids.write(bytes(10 if where != "lengths" else 0))
            lengths.write(bytes(8 if where == "lengths" else 0))
            raise KeyboardInterrupt
        add(draft, *arrays)

    monkeypatch.setattr(preparing._Draft, "add", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare_data([tmp_path / "t.txt"], tokenizer(golden), tmp_path / "out", how)
    monkeypatch.undo()
    prepare_data([tmp_path / "t.txt"], tokenizer(golden), tmp_path / "out", how)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


def write_prepared(path: Path, change: dict) -> None:
    arrays = {
        "ids": np.arange(8, dtype="<u2"),
        "starts": np.array([0, 8]),
        "first_targets": np.zeros(1, "<i4"),
        "train": np.array([0]),
        "validation": np.empty(0, np.int64),
    }
    said = {"kind": KIND, "n_vocab": "12"} | {key: text for key, text in change.items() if isinstance(text, str)}
    arrays |= {key: array for key, array in change.items() if not isinstance(array, str)}
    write_safetensors(path, [LazyTensor.of_array(key, array) for key, array in arrays.items()], said)
