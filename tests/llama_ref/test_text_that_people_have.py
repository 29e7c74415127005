"""Configurations, names and folders as other programs and systems leave them."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from ggmlpy.files.errors import MissingFileError, UnsupportedError, VocabularyError
from ggmlpy.files.json_files import read_json
from llama_ref.checkpoint import open_checkpoint
from llama_ref.checkpoint.pth import _wrapper as wrapper_of
from llama_ref.conversion.checkpoints import plan_to_hf
from llama_ref.vocabulary.tokenizer_file import find_tokenizer, load_vocabulary
from lora.merging.adapter import open_adapter
from lora.merging.merge import merge

RECORD = {"name": "骆驼", "dim": 64}


@pytest.fixture
def meta(data: Path) -> Path:
    return data / "merge" / "v11-llama" / "base" / "7B"


@pytest.fixture
def hf(meta: Path, tmp_path: Path) -> Path:
    with plan_to_hf(meta, tmp_path / "hf", weights="bin", shard_size="100KB") as plan:
        plan.write()
    return tmp_path / "hf"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_json_in_every_spelling_of_unicode(tmp_path: Path, encoding: str, newline: str) -> None:
    text = json.dumps(RECORD, ensure_ascii=False, indent=1).replace("\n", newline)
    (tmp_path / "x.json").write_bytes(text.encode(encoding))
    assert read_json(tmp_path / "x.json") == RECORD


@pytest.mark.parametrize("prefix", ["./", ".\\", ""])
def test_an_index_that_names_files_of_its_own_directory(hf: Path, prefix: str) -> None:
    path = hf / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = {name: prefix + file for name, file in index["weight_map"].items()}
    path.write_text(json.dumps(index))
    with open_checkpoint(hf) as model:
        assert len(model.files) > 1


def test_parts_that_are_counted_from_zero(hf: Path) -> None:
    (hf / "pytorch_model.bin.index.json").unlink()
    parts = sorted(hf.glob("pytorch_model-*.bin"))
    for number, path in enumerate(parts):
        path.rename(hf / f"pytorch_model-{number:05}-of-{len(parts):05}.bin")
    with open_checkpoint(hf) as model:
        assert len(model.files) == len(parts)
    (hf / f"pytorch_model-00001-of-{len(parts):05}.bin").unlink()
    with pytest.raises(MissingFileError, match="00001-of"):
        open_checkpoint(hf)


def test_the_last_shard_is_named_when_it_is_missing(meta: Path, data: Path, tmp_path: Path) -> None:
    merge(meta, [data / "merge" / "v11-llama" / "lora"], tmp_path / "two", n_shards=2)
    (tmp_path / "two" / "consolidated.01.pth").unlink()
    with pytest.raises(MissingFileError, match=r"consolidated\.01\.pth missing") as caught:
        open_checkpoint(tmp_path / "two")
    assert f"`doctor {tmp_path / 'two'}`" in str(caught.value.next_step)


def test_several_ids_that_end_a_text_are_no_wrong_conversion(hf: Path) -> None:
    path = hf / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [2, 7]}))
    with open_checkpoint(hf) as model:
        assert not any("third-party" in note for note in model.notes)


def test_a_model_beside_the_state_of_its_training() -> None:
    model = [("model", "tok_embeddings.weight"), ("model", "norm.weight")]
    assert wrapper_of([*model, ("best_val_loss",), ("optimizer", "state", "0", "exp_avg")]) == ("model",)
    assert wrapper_of([("norm.weight",), *model]) == ()
    assert wrapper_of([("tensor",)]) == ()


def tokens(folder: Path, name: str, first: int) -> None:
    made = ["<|im_start|>", "<|im_end|>"]
    if name == "added_tokens.json":
        record: dict = {text: first + i for i, text in enumerate(made)}
    elif name == "tokenizer_config.json":
        record = {"added_tokens_decoder": {"0": {"content": "<unk>"}}}
        record["added_tokens_decoder"] |= {str(first + i): {"content": text} for i, text in enumerate(made)}
    else:
        record = {"added_tokens": [{"id": 0, "content": "<unk>"}]}
        record["added_tokens"] += [{"id": first + i, "content": text} for i, text in enumerate(made)]
    (folder / name).write_text(json.dumps(record))


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json", "tokenizer.json"])
def test_added_tokens_stand_in_three_files(data: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(data / "merge" / "v11-llama" / "lora" / "tokenizer.model", tmp_path / "tokenizer.model")
    n_base = len(load_vocabulary(tmp_path / "tokenizer.model").base)
    tokens(tmp_path, name, n_base)
    assert load_vocabulary(tmp_path / "tokenizer.model").added == ("<|im_start|>", "<|im_end|>")
    tokens(tmp_path, name, n_base + 5)
    with pytest.raises(VocabularyError, match=name):
        load_vocabulary(tmp_path / "tokenizer.model")


def test_a_folder_with_tokenizer_json_alone_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(MissingFileError, match=r"only tokenizer\.json is there"):
        find_tokenizer(tmp_path / "model")


def test_a_zip_with_backslashes(data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "lora.zip", "w") as archive:
        for path in (data / "merge" / "v11-llama" / "lora").iterdir():
            entry = zipfile.ZipInfo("x")
            entry.filename = "lora\\" + path.name
            archive.writestr(entry, path.read_bytes())
    with open_adapter(tmp_path / "lora.zip") as adapter:
        assert len(adapter.pairs) == 14


def test_the_next_step_after_an_unsupported_model_is_not_about_its_json(hf: Path) -> None:
    path = hf / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": "gelu"}))
    with pytest.raises(UnsupportedError) as caught:
        open_checkpoint(hf)
    assert "identify" not in str(caught.value.next_step)
