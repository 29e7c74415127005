"""What the fuzz found, each as the smallest file that showed it."""

from __future__ import annotations

import contextlib
import json
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("resource", reason="Windows has no limits of address space")

from ggmlpy import FormatError, ModelParams, open_model
from ggmlpy.files.checksums import read_list, same_json_meaning
from ggmlpy.files.errors import MissingFileError, UsageError, VocabularyError
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.look.identify import identify
from ggmlpy.quantizers.migration import migrate
from llama_ref.checkpoint import open_checkpoint
from llama_ref.conversion.tokenizer_json import tokenizer_json
from llama_ref.text.conversation import Conversation
from llama_ref.text.model import Model
from llama_ref.text.sampling import SamplingOptions
from llama_ref.vocabulary.sentencepiece_model import NORMAL, UNKNOWN
from llama_ref.vocabulary.tokenizer_file import load_vocabulary
from lora.merging.adapter import open_adapter
from lora.merging.targets import _prepare_stage
from lora.training.crawl import _read_replies
from lora.training.instructions import clean, write_instructions
from lora.training.loop import read_log
from tests.docs.blocks import run
from tests.fuzz import scenes
from tests.ggmlpy.models import write_tiny
from tests.llama_ref.attacks import forge
from toolchain.look.doctor import examine
from toolchain.look.identify import identify_other
from toolchain.look.tokens import compare_tokenizers
from toolchain.makers.vectors import read_manifest
from toolchain.verify.logits import read_logits
from toolchain.verify.published import verify

# ── GGML ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_corrupt_width_does_not_make_millions_of_parts(tmp_path: Path) -> None:
    """Two thousand million columns over a tensor of 32 are 67 million files, each of which was looked for."""
    path = write_tiny(tmp_path / "m.bin", "ggml", 0)
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack("<i", 32 << 25)
    path.write_bytes(data)
    began = time.process_time()
    assert identify(path).problems
    assert time.process_time() - began < 2


@pytest.mark.parametrize("hparams", [{"n_head": 0}, {"n_head": -2}, {"n_layer": -1}, {"n_embd": 0}, {"n_head": 5}])
def test_a_header_without_heads_is_no_model(hparams: dict[str, int], tmp_path: Path) -> None:
    values = {**ModelParams.from_header(20, 32, 32, 2, 1, 16, 2).header(), **hparams}
    path = write_tiny(tmp_path / "m.bin")
    data = path.read_bytes()
    path.write_bytes(data[:8] + struct.pack("<7i", *values.values()) + data[36:])
    with pytest.raises(FormatError, match=r"fit|cannot"):
        Model.from_file(path, numerics="reference")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.block_count", Value("f32", float("nan"))),
        ("llama.embedding_length", Value("f64", float("inf"))),
        ("llama.attention.head_count_kv", Value("f32", 1.5)),
        ("llama.feed_forward_length", Value("string", b"24")),
        ("llama.rope.freq_base", Value("f32", float("nan"))),
        ("split.count", Value("f32", float("-inf"))),
        ("general.file_type", Value("array", np.ones(2, "<u4"), "u32")),
        ("tokenizer.ggml.model", Value("f32", 1.5)),
        ("tokenizer.ggml.model", Value("i32", -1)),
        ("general.architecture", Value("u64", 1 << 40)),
    ],
)
def test_metadata_of_other_types(key: str, value: Value, tmp_path: Path) -> None:
    scenes.gguf(3, kind="f16", hparams=scenes.SMALL)(tmp_path)
    file = open_gguf(tmp_path / "m.gguf")
    write_gguf(tmp_path / "n.gguf", {**file.metadata, key: value}, [])
    with pytest.raises(FormatError, match=r"the metadata has no|is not supported"):
        open_model(tmp_path / "n.gguf")


@pytest.mark.parametrize(
    ("key", "value"),
    [("llama.block_count", Value("u32", (1 << 32) - 1)), ("llama.rope.freq_base", Value("f64", 1e300))],
)
@pytest.mark.parametrize("container", [("ggjt", 3), ("gguf", 3)])
def test_numbers_that_a_container_can_not_hold(key: str, value: Value, container: Any, tmp_path: Path) -> None:
    """migrate ended in a struct.error."""
    scenes.gguf(3, kind="f16", hparams=scenes.SMALL)(tmp_path)
    file = open_gguf(tmp_path / "m.gguf")
    tensors = [OutTensor(n, t.type, t.shape, lambda d=t.data: [d]) for n, t in file.tensors.items()]
    write_gguf(tmp_path / "n.gguf", {**file.metadata, key: value}, tensors)
    with open_model(tmp_path / "n.gguf") as model:
        if container[0] == "gguf":  # keys go on as the bytes that they are
            migrate(model, tmp_path / "o.gguf", *container)
            assert open_gguf(tmp_path / "o.gguf").metadata[key].value == value.value
            return
        with pytest.raises((UsageError, FormatError), match=r"can't hold|has no place"):
            migrate(model, tmp_path / "o.bin", *container)
    assert not (tmp_path / "o.bin").exists()


def test_a_feed_forward_width_is_not_searched_for(tmp_path: Path) -> None:
    """Each of a million multiples was tried for a width that none of them gives."""
    scenes.gguf(3, kind="f16", hparams=scenes.SMALL)(tmp_path)
    file = open_gguf(tmp_path / "m.gguf")
    odd = {"llama.embedding_length": Value("u32", 1 << 20), "llama.feed_forward_length": Value("u32", 1 << 20)}
    write_gguf(tmp_path / "n.gguf", {**file.metadata, **odd, "ggmlpy.n_mult": Value("u32", 0)}, [])
    began = time.process_time()
    assert open_model(tmp_path / "n.gguf").hparams.n_mult == 1
    assert time.process_time() - began < 0.5


# ── archives ─────────────────────────────────────────────────────────────────────────────────────────────────────────

BROKEN_STREAM = forge.Member("adapter_model.bin", b"x" * 400, method=8, packed=b"\x05\xff\xff\xff")
ARCHIVES = {
    "made by a later version": forge.archive([forge.Member("x/data.pkl", b"x")]).replace(b"\x14\0", b"\xff\0"),
    "a name that is not UTF-8": forge.archive([forge.Member(b"\x92.bin", b"x", flags=0x800)]),
    "a broken stream": forge.archive([BROKEN_STREAM]),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_damaged_archives_are_told_by_everything_that_looks(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(ARCHIVES[kind])
    assert {verdict.status for verdict in verify([path]).verdicts} & {"bad", "unknown"}
    examine(tmp_path)
    with contextlib.suppress(FormatError):
        identify_other(path)


# ── tokenizers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def tokenizer(folder: Path, old: bytes, new: bytes) -> Path:
    path = folder / "tokenizer.model"
    path.write_bytes(scenes.tokenizer_bytes(scenes.small_pieces()).replace(old, new))
    return path


def test_a_piece_that_is_not_text(tmp_path: Path) -> None:
    path = tokenizer(tmp_path, "好".encode(), b"\xff\xfe\xfd")
    with pytest.raises(VocabularyError, match="a piece is not text"):
        load_vocabulary(path)
    with pytest.raises(VocabularyError, match="a piece is not text"):
        tokenizer_json(path)
    with pytest.raises(FormatError):
        identify_other(path)


def test_two_unknown_pieces_can_not_be_compared(tmp_path: Path) -> None:
    pieces = [("<unk>", 0.0, UNKNOWN), ("<what>", 0.0, UNKNOWN), ("a", -1.0, NORMAL)]
    path = tmp_path / "t.model"
    path.write_bytes(scenes.tokenizer_bytes(pieces))
    with pytest.raises(VocabularyError, match="not a SentencePiece model"):
        compare_tokenizers([path], "a")


def test_half_a_character_is_no_token(tmp_path: Path) -> None:
    scenes.tokenizer_small(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"\\ud800": 12}')
    with pytest.raises(VocabularyError, match="an added token is not text"):
        load_vocabulary(tmp_path / "tokenizer.model")


# ── JSON, lists ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["x" * 300, "中" * 100, "a\0b", "../x", "/etc/passwd", ""])
def test_names_in_an_index_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    scenes.huggingface("safetensors")(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    record = json.loads(index.read_text())
    record["weight_map"]["lm_head.weight"] = name
    index.write_text(json.dumps(record))
    with pytest.raises(FormatError):
        open_checkpoint(tmp_path)


def test_a_matrix_of_one_dimension_is_told_with_its_folder(tmp_path: Path) -> None:
    scenes.huggingface("safetensors")(tmp_path)
    path = next(path for path in sorted(tmp_path.glob("*.safetensors")) if b"q_proj" in path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"[8,8]", b"[64] ", 99))
    with pytest.raises(FormatError) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "../x", "/x"])
def test_names_in_a_list_of_digests(name: str, tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(FormatError, match="outside its directory"):
        read_list(tmp_path / "SHA256SUMS")
    verify([tmp_path])


def test_the_meaning_of_json_with_half_characters_or_without_end(tmp_path: Path) -> None:
    path = tmp_path / "params.json"
    path.write_text('{"\\ud800": 1}')
    assert not same_json_meaning(path, "md5", "0" * 32)
    path.write_text("[" + ",".join(["[" * 400 + "]" * 400] * 100) + "]")
    assert not same_json_meaning(path, "md5", "0" * 32)
    path.write_text(json.dumps([{"a": 1.5}] * 100_000))
    began = time.process_time()
    assert not same_json_meaning(path, "md5", "0" * 32)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": {"../secret": {"sha256": "0"}}},
        {"inputs": {"/etc/passwd": {"sha256": "0"}}},
        {"inputs": {"x" * 300: {"sha256": "0"}}},
        {"cases": [{"kind": "no such", "output": "a", "source": "b", "adapters": []}]},
        {"cases": [{"kind": "convert", "output": ["a"], "source": "b", "adapters": []}]},
    ],
)
def test_manifests_that_lead_elsewhere(change: dict[str, Any], tmp_path: Path) -> None:
    scenes.digest_lists(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(FormatError, match="not a manifest"):
        read_manifest(tmp_path)


def test_a_manifest_without_end(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"cases": ' + "[" * 100_000)
    with pytest.raises(FormatError, match="not a manifest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "line", ["[" * 5000 + "]" * 5000, '{"content": ' + "[" * 5000 + "]" * 5000 + "}", "[]", "\xff"]
)
def test_replies_that_are_none(line: str, tmp_path: Path) -> None:
    (tmp_path / "x.raw.jsonl").write_bytes(line.encode("latin-1") + b"\n")
    with pytest.raises(FormatError, match="not the replies of a crawl"):
        _read_replies(tmp_path / "x.raw.jsonl")


@pytest.mark.parametrize("content", ["[1]", "[" * 5000, "\xff", "7", '"x"'])
def test_a_stage_of_a_merge_that_says_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "merge.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match="holds another merge"):
        _prepare_stage(tmp_path, {"base": "x"}, resume=True)


# ── texts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("piece", ['{"a":', "{", '{"instruction": "', '[{"a": {', '{"}'])
def test_braces_that_are_never_closed_are_searched_once(piece: str) -> None:
    began = time.process_time()
    clean(piece * (20_000 // len(piece)))
    assert time.process_time() - began < 3


def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    records, report = clean('[{"instruction": "a\\ud800", "output": "\\ud83d\\ude00"}]')
    assert records == [{"instruction": "a\ufffd", "input": "", "output": "😀"}]
    assert report.counts == {"half a character": 1}
    write_instructions(tmp_path / "x.json", records)


# ── what was saved ───────────────────────────────────────────────────────────────────────────────────────────────────


def resaved(path: Path, header: dict[str, Any], **arrays: np.ndarray | None) -> None:
    """The archive with keys of its header and arrays replaced, or left out where they are None."""
    with np.load(path) as archive:
        before = {name: archive[name] for name in archive.files}
    text = {**json.loads(before.pop("header").tobytes()), **header}
    kept = {name: array for name, array in {**before, **arrays}.items() if array is not None}
    np.savez(path, header=np.frombuffer(json.dumps(text).encode(), np.uint8), **kept)


@pytest.mark.parametrize(
    ("header", "arrays"),
    [
        ({"model": 5}, {}),
        ({"sampling": {"no such": 1}}, {}),
        ({"sampling": {"top_k": "many"}}, {}),
        ({"sampling": {"top_k": 1.5}}, {}),
        ({"sampling": 7}, {}),
        ({"n_past": -1}, {}),
        ({"n_past": 99}, {}),
        ({"n_past": "2"}, {}),
        ({"n_batch": None}, {}),
        ({"n_batch": 2.5}, {}),
        ({"n_keep": "1"}, {}),
        ({"ignore_eos": 1}, {}),
        ({"era": ["2023-03-31"]}, {}),
        ({}, {"rng": np.full(625, 2**32 - 1, np.uint32)}),  # a position behind the twister's words
        ({}, {"rng": np.zeros(3, np.uint32)}),
        ({}, {"recent": np.zeros((2, 2), np.int32)}),
        ({}, {"recent": np.full(12, 1000, np.int32)}),
        ({}, {"waiting": np.full(2, -1, np.int32)}),
        ({}, {"waiting": np.float32(1)}),
        ({}, {"cache_k": None}),
    ],
)
def test_conversations_that_make_no_sense(header: dict, arrays: dict, tmp_path: Path) -> None:
    scenes.conversation(tmp_path)
    resaved(tmp_path / "talk.npz", header, **arrays)
    with pytest.raises(FormatError, match="not a saved conversation"):
        Conversation.resume(tmp_path / "talk.npz", scenes.Answerer())  # type: ignore[arg-type]


def test_a_conversation_that_makes_sense(tmp_path: Path) -> None:
    scenes.conversation(tmp_path)
    resaved(tmp_path / "talk.npz", {"n_past": 1})
    assert Conversation.resume(tmp_path / "talk.npz", scenes.Answerer()).n_past == 1  # type: ignore[arg-type]
    resaved(tmp_path / "talk.npz", {}, cache_k=np.zeros((1, 1, 1, 5), np.float16))
    with pytest.raises(UsageError, match="does not fit this model"):
        Conversation.resume(tmp_path / "talk.npz", scenes.Answerer())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "arrays"),
    [
        ({"identity": "x"}, {}),
        ({"step": "3"}, {}),
        ({"step": -1}, {}),
        ({"log": 5}, {}),
        ({"log": [{"step": 1}]}, {}),
        ({"log": [["step"]]}, {}),
        ({}, {"weight/a": None}),
        ({}, {"first/a": np.ones(6, np.float32)}),
    ],
)
def test_training_checkpoints_that_make_no_sense(header: dict, arrays: dict, tmp_path: Path) -> None:
    scenes.training(tmp_path)
    resaved(tmp_path / "checkpoint.npz", header, **arrays)
    run = scenes.training_run(tmp_path)
    with pytest.raises(FormatError, match="not a training checkpoint"):
        run.resume()
    assert run.step == 0
    assert (run.weights["a"] == 1).all()


@pytest.mark.parametrize("line", ["{}", "[]", "{", "\xff", '{"step": "1"}', "9" * 5000, "[" * 100_000])
def test_logs_of_training_that_are_none(line: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(line.encode("latin-1"))
    with pytest.raises(FormatError, match="not the log of a training run"):
        read_log(tmp_path / "log.jsonl")
    with pytest.raises(MissingFileError):
        read_log(tmp_path / "none.jsonl")


def test_logits_with_a_broken_header(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 9), np.float32))
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(data.replace(b"(2, 9)", b", 9)  "))
    with pytest.raises(FormatError, match="the logits cannot be read"):
        read_logits(tmp_path / "x.npy", 2, 9)


def test_the_valid_scenes_are_valid(tmp_path: Path) -> None:
    """The fuzz begins with files that are read."""
    for name, scene in (("ggml", scenes.ggml_parts), ("split", scenes.gguf_split), ("all", scenes.gguf_of_all_types)):
        (tmp_path / name).mkdir()
        first = next(iter(scene(tmp_path / name)))
        with open_model(tmp_path / name / first) as model:
            assert len(model.tensors) == 12


def test_a_zip_over_several_disks_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "adapter.zip"
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0)
    path.write_bytes(bytes(60) + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 7) + end)  # the seventh disk of a ZIP64
    with pytest.raises(FormatError, match="cannot be read"):
        open_adapter(path)


def test_a_number_beyond_all_floats_is_none() -> None:
    with pytest.raises(UsageError, match="temp must be a finite number"):
        SamplingOptions(temp=10**400)


def test_a_model_of_another_width_than_its_header_is_not_cut_into_parts(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.bin", type_name="f32")
    with open_model(path) as model:
        model.hparams = replace(model.hparams, n_embd=64, n_ff=192, head_dim=32)
        with pytest.raises(UsageError, match="32 columns but the header says 64"):
            migrate(model, tmp_path / "x.bin", "ggmf", 1, n_parts=2)


def test_a_gguf_without_vocabulary_is_named(tmp_path: Path) -> None:
    scenes.gguf(3)(tmp_path)
    path = tmp_path / "m.gguf"
    path.write_bytes(path.read_bytes().replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"))
    with pytest.raises(FormatError, match=r"m\.gguf: the metadata has no array 'tokenizer\.ggml\.tokens'"):
        open_model(path)


def test_a_model_without_embedding_does_not_go_into_parts(tmp_path: Path) -> None:
    def without(tensors: list[OutTensor]) -> list[OutTensor]:
        return [tensor for tensor in tensors if tensor.name != "tok_embeddings.weight"]

    path = write_tiny(tmp_path / "m.bin", change=without)
    with open_model(path) as model, pytest.raises(FormatError, match=r"tok_embeddings\.weight is missing"):
        migrate(model, tmp_path / "n.bin", "ggml", 0, n_parts=2)
    assert [each.name for each in tmp_path.iterdir()] == ["m.bin"]


@pytest.mark.parametrize("command", ["quantize FILE OUT q4_0", "identify FILE", "migrate FILE OUT"])
def test_a_tensor_in_two_files_of_a_split_model(command: str, tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in scenes.gguf_split(tmp_path))
    file, other = open_gguf(first), open_gguf(second)
    name = next(iter(file.tensors))
    both = [*other.tensors.values(), file.tensors[name]]
    write_gguf(second, dict(other.metadata), [OutTensor(t.name, t.type, t.shape, lambda d=t.data: [d]) for t in both])
    words = {"FILE": str(first), "OUT": str(tmp_path / "out.gguf")}
    code, said = run([words.get(word, word) for word in command.split()])
    assert code == 3
    assert f"tensor {name!r} lies in an earlier file of this split model" in said
    assert not (tmp_path / "out.gguf").exists()


def test_a_tensor_in_both_spellings(tmp_path: Path) -> None:
    scenes.gguf(3)(tmp_path)
    file = open_gguf(tmp_path / "m.gguf")
    tensors = [OutTensor(t.name, t.type, t.shape, lambda d=t.data: [d]) for t in file.tensors.values()]
    twin = replace(next(each for each in tensors if each.name == "output.weight"), name="tok_embeddings.weight")
    write_gguf(tmp_path / "m.gguf", file.metadata, [*tensors, twin])
    with pytest.raises(FormatError, match=r"two tensors are tok_embeddings\.weight"):
        open_model(tmp_path / "m.gguf")
