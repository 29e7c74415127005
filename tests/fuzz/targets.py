"""The readers: what each is given, how it is read, and which modules' lines count as its own."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import cli
from ggmlpy import open_model
from ggmlpy.files.checksums import read_list
from ggmlpy.files.errors import FormatError, UsageError, VocabularyError
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.opening import is_gguf
from ggmlpy.look.check import check_model, problems_of
from ggmlpy.look.contents import summarize
from ggmlpy.look.hexdump import hexdump
from ggmlpy.look.identify import identify
from ggmlpy.look.report import report_data
from ggmlpy.verify.compare import compare
from llama_ref.checkpoint import LazyTensor, open_checkpoint, open_pth
from llama_ref.checkpoint.safetensors_file import SafetensorsFile
from llama_ref.conversion.converting import plan_conversion
from llama_ref.conversion.tokenizer_json import tokenizer_json
from llama_ref.text.conversation import Conversation
from llama_ref.vocabulary.sentencepiece_model import parse_sentencepiece, read_sentencepiece
from llama_ref.vocabulary.tokenizer import SentencePieceTokenizer
from llama_ref.vocabulary.tokenizer_file import load_vocabulary
from lora.merging.adapter import open_adapter
from lora.training.crawl import _read_replies
from lora.training.instructions import read_instructions
from lora.training.loop import read_log
from lora.vocabulary import merge_vocabularies
from tests.fuzz import scenes
from tests.fuzz.damage_bytes import Spans, damaged
from tests.fuzz.damage_gguf import damaged_gguf
from tests.fuzz.damage_json import damaged_json
from tests.fuzz.damage_protobuf import damaged_protobuf
from tests.fuzz.damage_zip import damaged_names, repacked, zip_spans
from tests.fuzz.rules import Broken, Limits
from tests.fuzz.scenes import Scene
from tests.fuzz.targets_of_training import (
    FILE_ADAPTERS,
    IMPORTANCE,
    PREPARED,
    file_damage,
    read_file_adapter,
    read_importance,
    read_prepared,
)
from tests.fuzz.targets_of_words import (
    REQUESTS,
    TEMPLATES,
    TOKENIZERS,
    read_requests,
    read_template,
    read_words,
    request_damage,
    template_damage,
    word_damage,
)
from tests.llama_ref.attacks import forge, test_pth_pickle_attacks
from toolchain.look.doctor import examine
from toolchain.look.identify import identify_other
from toolchain.look.json_files import json_file  # now, not in the middle of an input
from toolchain.makers.vectors import read_manifest
from toolchain.verify.fingerprint import content_fingerprint
from toolchain.verify.logits import read_logits
from toolchain.verify.published import verify
from toolchain.verify.sides import compare_anything  # noqa: F401 - imported now, not in the middle of an input

__all__ = ["TARGETS", "Target"]


def no_spans(path: Path) -> Spans:
    return ()


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
        name: as the command line spells it.
        share: of all inputs, in thousandths.
        scenes: folders of valid files by name.
        read: reads what lies in a folder; its second argument names the damaged file.
        damage: a damaged copy of a file, from its path (for its kind), its bytes, other inputs' bytes, and its fields.
        modules: whose lines are counted.
        spans: where the fields of a file are.
        events: audit events that it needs beyond those of every reader.
        rehearse: does once with a valid file what happens only once.
        needs: packages beyond those of every reader.
    """

    name: str
    share: int
    scenes: dict[str, Scene]
    read: Callable[[Path, str], object]
    damage: Callable[[random.Random, str, bytes, Sequence[bytes], Spans], bytes]
    modules: tuple[str, ...]
    spans: Callable[[Path], Spans] = no_spans
    events: frozenset[str] = frozenset()
    limits: Limits = field(default_factory=Limits)
    rehearse: Callable[[Path, str], None] | None = None
    needs: tuple[str, ...] = ()


class Looks:
    """Several readers look at one input, each though another refused it; the first refusal is the input's."""

    def __init__(self) -> None:
        self.refusal: FormatError | UsageError | None = None

    def __call__(self, look: Callable[..., object], *arguments: object) -> Any:
        try:
            return look(*arguments)
        except (FormatError, UsageError) as error:
            str(error)
            self.refusal = self.refusal or error
            return None

    def close(self) -> None:
        if self.refusal:
            raise self.refusal


# ── GGML and GGUF ────────────────────────────────────────────────────────────────────────────────────────────────────


def first_part(folder: Path, name: str) -> Path:
    return folder / ("m.bin" if name == "m.bin.1" else name)


def read_model(folder: Path, name: str) -> None:
    """The structure, what is wrong with it, every tensor's numbers; then strictly."""
    path = first_part(folder, name)
    with open_model(path, strict=False) as model:
        for problem in problems_of(model):
            str(problem)
        summarize(model)
        len(model.vocab.scores)
        for tensor in model.tensors.values():
            if tensor.numpy().shape != tensor.shape:
                raise Broken("another shape than the header's")
            tensor.raw_rows(0, 1)
    with open_model(path) as model:
        check_model(model)


def look_at_model(folder: Path, name: str) -> None:
    """Everything that shows a file to people."""
    path, looks = first_part(folder, name), Looks()
    looks(identify, path)
    for fold in (True, False):
        looks(lambda fold: [line.as_dict() for line in hexdump(path, fold=fold)], fold)
    looks(report_data, path)
    looks(content_fingerprint, path)
    looks(lambda: compare(open_model(path), open_model(path)).sentence())
    looks.close()


def model_spans(path: Path) -> list[tuple[int, int]]:
    """The fields of a model file as far as the dump can tell them."""
    spans: list[tuple[int, int]] = []
    with contextlib.suppress(FormatError):
        for line in hexdump(path, fold=False):
            if line.size and not line.path.endswith((".data", "unread")):
                spans.append((line.offset, line.size))
    return spans


def model_damage(rng: random.Random, name: str, data: bytes, donors: Sequence[bytes], spans: Spans) -> bytes:
    if data[:4] == b"GGUF" and rng.random() < 0.45:
        return damaged_gguf(rng, data)
    return damaged(rng, data, donors, spans=spans, fragments=MODEL_PIECES)


MODEL_PIECES = (b"GGUF", b"tjgg\1\0\0\0", b"\0" * 64, b"\xff" * 8, b"\xff\xff\xff\x7f", b"norm.weight", b"\xc3\x28")
MODEL_PIECES += (b"\x01\0\0\0\x20\0\0\0\x02\0\0\0", b"\0\0\xc0\x7f", b"\x09\0\0\0" * 6)

GGML_SCENES: dict[str, Scene] = {
    "ggml": scenes.ggml("ggml", 0, "q4_0"),
    "ggml f16": scenes.ggml("ggml", 0, "f16", scenes.SMALL),
    "ggmf": scenes.ggml("ggmf", 1, "q4_1"),
    "ggjt1": scenes.ggml("ggjt", 1, "q4_0"),
    "ggjt1 f32": scenes.ggml("ggjt", 1, "f32", scenes.SMALL_F32),
    "ggjt2": scenes.ggml("ggjt", 2, "q5_1"),
    "ggjt3": scenes.ggml("ggjt", 3, "q8_0"),
    "parts": scenes.ggml_parts,
    "edge p0": scenes.golden("ggml/edge_quant/edge.p0.t2.s.bin"),
    "edge p2": scenes.golden("ggml/edge_quant/edge.p2.t3.s.bin"),
}
GGUF_SCENES: dict[str, Scene] = {
    "v1": scenes.gguf(1, kind="f16", hparams=scenes.SMALL),
    "v2": scenes.gguf(2, kind="f16", hparams=scenes.SMALL),
    "v3": scenes.gguf(3, kind="f16", hparams=scenes.SMALL),
    "v3 q4_0": scenes.gguf(3),
    "big-endian": scenes.gguf(3, ">", kind="f16", hparams=scenes.SMALL),
    "all types": scenes.gguf_of_all_types,
    "split": scenes.gguf_split,
}
GGML_MODULES = (
    "ggmlpy/formats/model_file.py",
    "ggmlpy/formats/ggml_reader.py",
    "ggmlpy/formats/fields.py",
    "ggmlpy/formats/multipart.py",
    "ggmlpy/look/check.py",
    "ggmlpy/look/contents.py",
)
GGML_MODULES += (
    "ggmlpy/formats/dequantize.py",
    "ggmlpy/formats/tensor_names.py",
    "ggmlpy/formats/model_params.py",
    "ggmlpy/formats/containers.py",
)


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────────


def read_torch(folder: Path, name: str) -> None:
    with open_pth(folder / name) as file:
        consume(file.values())
        file.verify()
        len(file.state_dict)


def consume(tensors: Iterable[LazyTensor]) -> None:
    for tensor in tensors:
        tensor.numpy()
        for _ in tensor.chunks(limit=64):
            pass


def torch_damage(rng: random.Random, name: str, data: bytes, donors: Sequence[bytes], spans: Spans) -> bytes:
    def pickled(record: str, content: bytes) -> bytes:
        return damaged(rng, content, donors, fragments=PICKLE_PIECES)

    if data[:2] == b"PK" and rng.random() < 0.6:
        return repacked(rng, data, pickled, first=0.85)
    return damaged(rng, data, donors, fragments=PICKLE_PIECES)


def _pickle_pieces() -> tuple[bytes, ...]:
    """Whole attacks, parts of honest pickles, and single opcodes."""
    attacks = test_pth_pickle_attacks.CODE | test_pth_pickle_attacks.OUT_OF_BOUNDS
    pieces = [piece for piece, _ in attacks.values()]
    pieces += [forge.tensor(), forge.storage(), forge.HOOKS, b"(" * 60, b"]" * 5000, b"}q\x00", b"h\x00" * 50]
    return (*pieces, *(bytes([code]) for code in (*range(0x28, 0x7E), *range(0x80, 0x99))))


PICKLE_PIECES = _pickle_pieces()


def read_archive(folder: Path, name: str) -> None:
    looks = Looks()
    if name.endswith(".pth"):
        looks(read_torch, folder, name)
    else:
        looks(read_adapter, folder / name)
        looks(lambda: str(examine(folder)))
    looks(lambda: verify([folder / name]))
    looks(identify_other, folder / name)
    looks.close()


def zip_damage(rng: random.Random, name: str, data: bytes, donors: Sequence[bytes], spans: Spans) -> bytes:
    kind = rng.random()
    if kind < 0.35:
        return damaged_names(rng, data)
    if kind < 0.8:
        return damaged(
            rng, data, donors, spans=spans, fragments=(b"PK\3\4", b"PK\1\2", b"PK\5\6" + b"\0" * 18, b"PK\7\x08")
        )
    return repacked(rng, data, lambda record, content: damaged(rng, content, donors))


def read_safetensors(folder: Path, name: str) -> None:
    with SafetensorsFile(folder / name) as file:
        consume(file.values())
        for tensor in file.values():
            if tensor.dtype in ("float16", "bfloat16", "float32"):
                tensor.f32()
    identify_other(folder / name)


def safetensors_damage(rng: random.Random, name: str, data: bytes, donors: Sequence[bytes], spans: Spans) -> bytes:
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8 or rng.random() < 0.25:
        return damaged(rng, data, donors)
    words = ("dtype", "shape", "data_offsets", "__metadata__", "F16", "BF16", "F8_E4M3", "I64", "BOOL", "U64")
    header = damaged_json(rng, data[8 : 8 + length], words)
    stated = len(header) if rng.random() < 0.95 else rng.choice((0, 1, len(header) - 1, len(header) + 1, 1 << 63))
    return stated.to_bytes(8, "little") + header + data[8 + length :]


def read_checkpoint(folder: Path, name: str) -> None:
    looks = Looks()

    def weights() -> None:
        with open_checkpoint(folder) as model:
            for tensor in model.tensors.values():
                tensor.f32()
            list(model.notes)

    def conversion() -> None:
        with plan_conversion(folder, folder / "never-written.bin") as plan:
            list(plan.vocab)

    looks(weights)
    looks(conversion)
    looks.close()


JSON_WORDS = ("dim", "multiple_of", "n_heads", "n_layers", "norm_eps", "vocab_size", "n_kv_heads", "ffn_dim_multiplier")
JSON_WORDS += ("model_type", "llama", "num_key_value_heads", "hidden_act", "weight_map", "tie_word_embeddings")
JSON_WORDS += (
    "bos_token_id",
    "intermediate_size",
    "model-00001-of-00002.safetensors",
    "pytorch_model-00001-of-00002.bin",
)
JSON_WORDS += (
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "peft_type",
    "use_dora",
    "enable_lora",
    "pissa",
    "x" * 300,
)
JSON_WORDS += (
    "instruction",
    "input",
    "output",
    "inputs",
    "cases",
    "adapters",
    "files",
    "sha256",
    "command",
    "kind",
    "content",
)


def by_kind(rng: random.Random, name: str, data: bytes, donors: Sequence[bytes], spans: Spans) -> bytes:
    """The damage that suits the file's name."""
    if rng.random() < 0.1:
        return damaged(rng, data, donors, spans=spans)
    if name.endswith((".json", ".jsonl")):
        return damaged_json(rng, data, JSON_WORDS)
    if name.endswith(".safetensors"):
        return safetensors_damage(rng, name, data, donors, spans)
    if name.endswith(".model"):
        return tokenizer_damage(rng, name, data, donors, spans)
    if name.endswith((".pth", ".bin")) and data[:2] == b"PK":
        return torch_damage(rng, name, data, donors, spans)
    if name.endswith((".npz", ".zip")):
        return saved_damage(rng, name, data, donors, spans)
    return damaged(rng, data, donors, spans=spans)


# ── tokenizers and adapters ──────────────────────────────────────────────────────────────────────────────────────────


def read_tokenizer_file(folder: Path, name: str) -> None:
    path, looks = folder / "tokenizer.model", Looks()
    model = looks(read_sentencepiece, path)
    if model is not None:
        with contextlib.suppress(VocabularyError):  # of pieces, not of a file: it names no path
            merge_vocabularies(BASE, model)[0].to_bytes()
    vocabulary = looks(load_vocabulary, path)
    if vocabulary is not None:
        list(vocabulary)
        looks(tokenizer_json, path)
        looks(lambda: SentencePieceTokenizer(path).encode("hello 你好 ab"))
    looks.close()


BASE = parse_sentencepiece(scenes.tokenizer_bytes(scenes.small_pieces()))


def tokenizer_damage(rng: random.Random, name: str, data: bytes, donors: Sequence[bytes], spans: Spans) -> bytes:
    if name.endswith(".json"):
        return damaged_json(rng, data)
    if rng.random() < 0.3:
        return damaged(rng, data, donors)
    return damaged_protobuf(rng, data)


def read_adapter(path: Path) -> None:
    with open_adapter(path) as adapter:
        for pair in adapter.pairs.values():
            pair.factors()
            abs(pair.scale)
        for tensor in adapter.replaced.values():
            tensor.f32()
        if adapter.tokenizer:
            list(adapter.tokenizer)


# ── texts, and what our own programs saved ───────────────────────────────────────────────────────────────────────────


def read_text(folder: Path, name: str) -> None:
    if name.endswith(".raw.jsonl"):
        _read_replies(folder / name)
    else:
        read_instructions(folder / name)


def text_damage(rng: random.Random, name: str, data: bytes, donors: Sequence[bytes], spans: Spans) -> bytes:
    if rng.random() < 0.45:
        return damaged_json(rng, data, JSON_WORDS)
    return damaged(rng, data, donors, fragments=TEXT_PIECES)


TEXT_PIECES = (
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b'"',
    b"\\",
    b"\\u",
    b"\\ud800",
    b":",
    b"\n",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
)
TEXT_PIECES += (
    b'{"a":' * 2000,
    b"[" * 3000,
    b'{"instruction":"',
    b'"output":',
    b"```",
    b"{" * 500 + b"}" * 500,
    b'"' * 99,
)


def read_json_file(folder: Path, name: str) -> None:
    """What identify says of it."""
    json_file(folder / name)


def read_saved(folder: Path, name: str) -> None:
    if name == "talk.npz":
        talk = Conversation.resume(folder / name, scenes.Answerer())  # type: ignore[arg-type]
        talk.evaluate()
        list(talk.say([3], max_tokens=2))
    elif name == "log.jsonl":
        read_log(folder / name)
    elif name == "checkpoint.npz":
        run = scenes.training_run(folder)
        run.resume()
        run.save()
    else:
        read_logits(folder / name, 2, 9)


def saved_damage(rng: random.Random, name: str, data: bytes, donors: Sequence[bytes], spans: Spans) -> bytes:
    def record(inside: str, content: bytes) -> bytes:
        start = content.find(b"{", 100)  # the JSON behind an array's own header
        if inside.startswith("header") and start > 0 and rng.random() < 0.8:
            text = damaged_json(rng, content[start:], SAVED_WORDS)
            return npy(text)
        return damaged(rng, content, donors, fragments=NPY_PIECES)

    if data[:2] == b"PK" and rng.random() < 0.75:
        return repacked(rng, data, record, first=0.6, methods=(0,))
    return damaged(rng, data, donors, fragments=NPY_PIECES)


def npy(text: bytes) -> bytes:
    """An array of bytes as numpy saves it."""
    out = io.BytesIO()
    np.save(out, np.frombuffer(text, np.uint8))
    return out.getvalue()


SAVED_WORDS = ("model", "sampling", "era", "n_batch", "n_keep", "ignore_eos", "n_past", "identity", "log", "step")
SAVED_WORDS += ("top_k", "top_p", "temp", "seed", "2023-03-31", "p2", "ggmlpy conversation 1", "settings", "loss")
NPY_PIECES = (
    b"(1,)",
    b"(99999999999,)",
    b"(-1,)",
    b"()",
    b"'|O'",
    b"'<f4'",
    b"'<U4'",
    b"'<M8[s]'",
    b"True",
    b"\x93NUMPY\2\0",
)
NPY_PIECES += (b"(1000000000,)", b"[('a','<f8')]", b"'|V9'", b"((1,),)", b"'<c16'", b"(" * 300)


def read_listed(folder: Path, name: str) -> None:
    looks = Looks()
    if name == "manifest.json":
        looks(read_manifest, folder)
    elif name != "params.json":
        looks(read_list, folder / name)
    looks(lambda: verify([folder]))
    looks.close()


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────

MODEL_LOOKS = (
    "identify F", "identify --json F", "inspect F", "inspect F --json --tensors", "hexdump F", "hexdump F --all",
    "hexdump F --json", "hexdump F --field n_vocab", "explain F 99", "report F --html OUT.html",
    "report F --html OUT.html --source O", "compare F O",
    "compare O F --json", "compare F O --source O", "fingerprint F", "verify F", "verify F --json",
    "tokenize -m F hello", "tokenize -m F --json hello", "doctor D", "doctor D --json", "verify F --source O",
    "generate -m F -p a -n 1 -q --numerics reference -s 1",
)  # fmt: skip
OTHER_LOOKS = (
    "identify F", "identify --json F", "verify F", "verify D --json", "doctor D", "doctor D --json", "hexdump F",
    "hexdump F --all", "explain F 99", "explain F 600",
)  # fmt: skip
CHECKPOINT_LOOKS = (*OTHER_LOOKS, "fingerprint D", "convert D --dry-run --outfile OUT.bin", "to-hf D OUT --dry-run")
ADAPTER_LOOKS = (*OTHER_LOOKS, "merge --base B --lora D --output OUT --dry-run", "identify D/adapter_model.bin")
TOKENIZER_LOOKS = (*OTHER_LOOKS, "tokenizer stats F O hello", "tokenize -m F hello", "tokenize -m F --compare hello")
TEXT_LOOKS = (
    "instructions F --output OUT.json",
    "instructions F",
    "instructions F O --output OUT.json --json",
    "identify F",
)
MODEL_WRITES = (
    "quantize F OUT.bin q4_0 -t 1 -q", "quantize F OUT.bin 3 -t 1 -q --allow-requantize", "migrate F OUT.bin -q",
    "migrate F OUT.gguf -q --container gguf", "migrate F OUT.bin -q --container ggjt3 --requantize",
    "migrate F OUT.bin -q --container ggmf1 --parts 2", "quantize F OUT.gguf q5_1 -t 1 -q --era 2023-08-21",
    "report F --html OUT.html -q",
)  # fmt: skip
META_WRITES = (
    "convert D --outfile OUT.bin -q", "convert D --outfile OUT.gguf -q --container gguf --outtype f32",
    "convert D --outfile OUT.bin -q --vocab-only", "to-hf D OUT -q", "to-hf D OUT -q --bin",
    "tokenizer merge D/tokenizer.model B/tokenizer.model OUT.model -q",
)  # fmt: skip
HF_WRITES = (*META_WRITES[:3], "from-hf D OUT -q", META_WRITES[-1])
ADAPTER_WRITES = (
    "merge --base B --lora D --output OUT -q -t 1",
    "merge --base D --lora B --output OUT -q -t 1",
    "merge --base B --lora D --output OUT.bin --output-type ggml-f16 -q -t 1",
    "merge --base B --lora D --output OUT --output-type huggingface -q -t 1",
)


def command(table_of: Callable[[Path, str], Sequence[str]]) -> Callable[[Path, str], None]:
    def read(folder: Path, name: str) -> None:
        data, table = (folder / name).read_bytes(), table_of(folder, name)
        chosen = sum(data[:: max(1, len(data) // 64)])  # the bytes choose: an input is the whole of it
        perform(table[chosen % len(table)], folder, name)

    return read


def every(table_of: Callable[[Path, str], Sequence[str]]) -> Callable[[Path, str], None]:
    """Run all commands once on a valid file, so that every kernel is compiled and bound before the guard looks."""

    def rehearse(folder: Path, name: str) -> None:
        for line in table_of(folder, name):
            with contextlib.suppress(UsageError):
                perform(line, folder, name)

    return rehearse


def perform(line: str, folder: Path, name: str) -> None:
    path = first_part(folder, name)
    words = {"F": str(path), "O": f"{folder}.valid/{path.name}", "D": str(folder), "B": f"{folder}.valid"}
    code, said = spoken([_worded(word, words, folder) for word in line.split()])
    _check_outputs(folder, code, line)
    if code not in (0, 1):  # fine, or: the compared things differ
        raise UsageError(f"exit code {code}: {said.strip().splitlines()[0] if said.strip() else ''}")


def _worded(word: str, words: dict[str, str], folder: Path) -> str:
    if word in words:
        return words[word]
    if word.startswith(("D/", "B/")):
        return words[word[0]] + word[1:]
    return f"{folder}/{word}" if word.startswith("OUT") else word


def spoken(argv: list[str]) -> tuple[int, str]:
    """Run a command here; its exit code and what it said on stderr. No warnings, no traceback."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(3)]
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin, sys.stdout, sys.stderr = streams
    try:
        code = cli.main(argv)
    except SystemExit as leaving:
        raise Broken(f"{argv[0]} left with {leaving.code}: {_written(streams[2])[-200:]}") from leaving
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
    said = _written(streams[2])
    if code not in (0, 1, 2, 3) or "Traceback" in said or "Warning:" in said:
        raise Broken(f"{argv[0]} ended with {code} and said {said[-300:]}")
    return code, said


def _written(stream: io.TextIOWrapper) -> str:
    return stream.buffer.getvalue().decode("utf-8")  # type: ignore[attr-defined]


def _check_outputs(folder: Path, code: int, line: str) -> None:
    """What was written is whole, and where the command failed nothing was."""
    made = [path for path in folder.iterdir() if path.name.startswith((".OUT", "OUT"))]
    try:
        unfinished = list(folder.rglob("*.partial"))
        if unfinished:
            raise Broken(f"{line}: exit code {code} left {unfinished[0].name}")
        written = [path for path in made if not path.is_dir() or any(_finished(path))]
        if code not in (0, 1) and written:
            raise Broken(f"{line}: exit code {code} left {written[0].name}")
        for path in made if code == 0 else ():
            _check_readable(path, line)
    finally:
        for path in made:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _finished(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and ".merge-partial" not in path.parts)


def _check_readable(path: Path, line: str) -> None:
    """Our own readers take what our own writers wrote."""
    try:
        if path.is_dir():
            with open_checkpoint(path):
                pass
        elif is_gguf(path):
            open_gguf(path)  # quantize takes GGUF files of every kind, and keeps what their metadata say
        elif path.suffix == ".bin":
            with open_model(path):
                pass
        elif path.suffix == ".model":
            read_sentencepiece(path)
    except (FormatError, UsageError) as error:
        raise Broken(f"{line} wrote what can't be read: {error}") from error


MODEL_NAMES = (".gguf", "m.bin", "m.bin.1")


def looks_for(folder: Path, name: str) -> Sequence[str]:
    if name.endswith(MODEL_NAMES):
        return MODEL_LOOKS
    if (folder / "array.json").exists():
        return TEXT_LOOKS
    if name.endswith(".model"):
        return TOKENIZER_LOOKS
    return ADAPTER_LOOKS if (folder / "adapter_config.json").exists() else CHECKPOINT_LOOKS


def writes_for(folder: Path, name: str) -> Sequence[str]:
    if name.endswith(MODEL_NAMES):
        return MODEL_WRITES
    if (folder / "adapter_config.json").exists():
        return ADAPTER_WRITES
    return META_WRITES if (folder / "params.json").exists() else HF_WRITES


def command_damage(rng: random.Random, name: str, data: bytes, donors: Sequence[bytes], spans: Spans) -> bytes:
    if name.endswith(MODEL_NAMES):
        return model_damage(rng, name, data, donors, spans)
    if name.endswith((".txt", ".jsonl")):
        return text_damage(rng, name, data, donors, spans)
    return by_kind(rng, name, data, donors, spans)


CHECKPOINT_SCENES: dict[str, Scene] = {
    "meta": scenes.meta_model,
    "safetensors": scenes.huggingface("safetensors"),
    "bin": scenes.huggingface("bin"),
}
ADAPTER_SCENES: dict[str, Scene] = {
    "bin": scenes.adapter("bin"),
    "safetensors": scenes.adapter("safetensors"),
    "grown": scenes.adapter("safetensors", grown=True),
}


def with_base(scene: Scene) -> Scene:
    """An adapter in the folder of its base, so that one folder is both."""

    def fill(at: Path) -> list[str]:
        scenes.meta_model(at)
        files = [name for name in scene(at) if name != "added_tokens.json"]  # the adapter has no rows for them
        (at / "added_tokens.json").unlink()
        return [*files, "params.json", "consolidated.00.pth", "tokenizer.model"]

    return fill


def only_json(scene: Scene) -> Scene:
    """Of a folder, the files of JSON are damaged."""
    return lambda at: [name for name in scene(at) if name.endswith(".json")]


COMMAND_SCENES = {name: GGML_SCENES[name] for name in ("ggml f16", "ggjt1", "parts")}
COMMAND_SCENES |= {"wide": scenes.ggml("ggjt", 1, "f16"), "speaks": scenes.ggml("ggjt", 1, "f32", scenes.SPEAKING)}
COMMAND_SCENES |= {name: GGUF_SCENES[name] for name in ("v3", "split", "all types")} | CHECKPOINT_SCENES
COMMAND_SCENES |= {f"adapter {name}": with_base(scene) for name, scene in ADAPTER_SCENES.items()}
LOOK_SCENES = {**COMMAND_SCENES, "zip": scenes.adapter_zip(8), "tokenizer": scenes.tokenizer_small}
LOOK_SCENES |= {"instructions": scenes.instructions}
JSON_SCENES: dict[str, Scene] = {
    name: only_json(scene) for name, scene in {**CHECKPOINT_SCENES, **ADAPTER_SCENES, **TOKENIZERS}.items()
}
TEMPORARY = frozenset({"tempfile.mkdtemp", "shutil.rmtree"})
THREADS = frozenset({"_thread.start_new_thread", "os.posix_fallocate", "os.putenv"})

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("ggml", 60, GGML_SCENES, read_model, model_damage, GGML_MODULES, model_spans),
        Target(
            "gguf", 70, GGUF_SCENES, read_model, model_damage,
            ("ggmlpy/formats/gguf.py", "ggmlpy/formats/gguf_values.py", "ggmlpy/formats/gguf_model.py",
                *GGML_MODULES[:6]), model_spans,
        ),
        Target(
            "look", 55, GGML_SCENES | GGUF_SCENES, look_at_model, model_damage,
            ("ggmlpy/look/identify.py", "ggmlpy/look/hexdump.py", "ggmlpy/look/report.py", "ggmlpy/verify/compare.py",
             "ggmlpy/verify/tensors.py", "ggmlpy/verify/vocabularies.py", "ggmlpy/formats/codes.py",
             "toolchain/verify/published_tensors.py"), model_spans,
        ),
        Target(
            "pth", 65, scenes.torch_files(), read_torch, torch_damage,
            ("llama_ref/checkpoint/pth.py", "llama_ref/checkpoint/pickle_reader.py",
             "llama_ref/checkpoint/pickle_values.py",
             "llama_ref/checkpoint/legacy.py", "llama_ref/checkpoint/torch_zip.py", "llama_ref/checkpoint/tensor.py"),
        ),
        Target(
            "zip", 55,
            {"stored": scenes.adapter_zip(0), "deflated": scenes.adapter_zip(8), **scenes.torch_files()},
            read_archive, zip_damage,
            ("llama_ref/checkpoint/torch_zip.py", "lora/merging/adapter.py", "toolchain/verify/published.py",
             "toolchain/look/identify.py"), lambda path: zip_spans(path.read_bytes()), TEMPORARY,
        ),
        Target(
            "safetensors", 50, {"types": scenes.safetensors_of_all_types, "model": scenes.safetensors_model},
            read_safetensors, safetensors_damage,
            ("llama_ref/checkpoint/safetensors_file.py", "llama_ref/checkpoint/tensor.py"),
        ),
        Target(
            "tokenizer", 50,
            {"small": scenes.tokenizer_small, "bytes": scenes.tokenizer_with_bytes, "golden": scenes.tokenizer_golden},
            read_tokenizer_file, tokenizer_damage,
            ("lora/vocabulary.py", "llama_ref/vocabulary/tokenizer_file.py", "llama_ref/conversion/tokenizer_json.py"),
        ),
        Target(
            "words", 50, TOKENIZERS, read_words, word_damage,
            ("llama_ref/vocabulary/json_tokenizer.py", "llama_ref/vocabulary/json_steps.py",
             "llama_ref/vocabulary/expressions.py", "llama_ref/vocabulary/merging.py"),
        ),
        Target(
            "templates", 20, TEMPLATES, read_template, template_damage, ("llama_ref/vocabulary/chat_template.py",),
            events=frozenset({"compile", "exec", "code.__new__", "sys.settrace"}),
            limits=Limits(seconds=6.0, python=128 << 20),
        ),
        Target("requests", 30, REQUESTS, read_requests, request_damage, ("toolchain/serve/bodies.py",),
               needs=("pydantic",)),
        Target(
            "checkpoint", 65, CHECKPOINT_SCENES, read_checkpoint, by_kind,
            ("llama_ref/checkpoint/params.py", "llama_ref/checkpoint/huggingface.py", "llama_ref/checkpoint/meta.py",
             "llama_ref/checkpoint/layout.py", "llama_ref/checkpoint/opening.py", "llama_ref/checkpoint/folder.py",
                 "llama_ref/vocabulary/tokenizer_file.py"),
        ),
        Target(
            "adapter", 65, ADAPTER_SCENES, lambda folder, name: read_adapter(folder), by_kind,
            ("lora/merging/adapter.py", "llama_ref/checkpoint/params.py"),
        ),
        Target(
            "importance", 30, IMPORTANCE, read_importance, file_damage, ("ggmlpy/formats/importance.py",), model_spans,
        ),
        Target(
            "file-adapter", 35, FILE_ADAPTERS, read_file_adapter, file_damage,
            ("lora/exchange/reading.py", "lora/exchange/ggla.py", "lora/exchange/applying.py",
             "lora/exchange/to_peft.py"), model_spans,
        ),
        Target(
            "json", 20, JSON_SCENES, read_json_file, by_kind, ("toolchain/look/json_files.py",),
            limits=Limits(seconds=2.0),
        ),
        Target("prepared", 25, PREPARED, read_prepared, by_kind, ("lora/training/prepared.py",)),
        Target(
            "instructions", 45, {"texts": scenes.instructions}, read_text, text_damage,
            ("lora/training/instructions.py", "lora/training/crawl.py"), limits=Limits(seconds=3.0),
        ),
        Target(
            "saved", 60, {"talk": scenes.conversation, "training": scenes.training, "logits": scenes.logits},
            read_saved, by_kind, ("llama_ref/text/conversation.py", "lora/training/loop.py"),
            events=frozenset({"compile", "os.posix_fallocate"}),
        ),
        Target(
            "lists", 40, {"lists": scenes.digest_lists}, read_listed, by_kind,
            ("ggmlpy/files/checksums.py", "toolchain/makers/vectors.py", "toolchain/verify/published.py"),
                limits=Limits(seconds=4.0),
        ),
        Target(
            "commands", 55, LOOK_SCENES, command(looks_for), command_damage, ("cli.py", "toolchain/look/doctor.py"),
                model_spans,
            TEMPORARY | THREADS, Limits(seconds=2.0, headroom=512 << 20, python=64 << 20), every(looks_for), ("tqdm",),
        ),
        Target(
            "writers", 55, COMMAND_SCENES, command(writes_for), command_damage,
            ("ggmlpy/quantizers/migration.py", "ggmlpy/quantizers/whole_file.py", "ggmlpy/formats/writer.py",
                "llama_ref/conversion/ggml.py",
             "llama_ref/conversion/checkpoints.py", "lora/merging/merge.py", "lora/merging/targets.py",
                 "lora/merging/stream.py"), model_spans,
            TEMPORARY | THREADS, Limits(seconds=4.0, headroom=1 << 30, python=64 << 20), every(writes_for), ("tqdm",),
        ),
    )
}  # fmt: skip
