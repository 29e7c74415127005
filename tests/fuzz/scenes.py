"""The valid files that damage begins with: folders of small files, one function a folder."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterable
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy import ModelParams, open_model
from ggmlpy.files.errors import UsageError
from ggmlpy.formats.gguf import open_gguf
from ggmlpy.formats.gguf_values import TYPE_IDS, VALUE_TYPES, Value
from ggmlpy.formats.gguf_writer import write_gguf
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.quantizers.migration import migrate
from llama_ref.arithmetic.transformer import KVCache
from llama_ref.checkpoint import LazyTensor, write_pth
from llama_ref.checkpoint.params import params_json
from llama_ref.checkpoint.safetensors_file import CODE_OF, write_safetensors
from llama_ref.checkpoint.tensor import DTYPES
from llama_ref.text.conversation import Conversation
from llama_ref.text.sampling import SamplingOptions
from llama_ref.vocabulary.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN
from lora.training.data import Document, Packing
from lora.training.loop import Progress, Run, Settings
from tests.ggmlpy.models import write_tiny
from tests.llama_ref.attacks import forge
from toolchain.zoo import tiny_models
from toolchain.zoo.tiny_models import tensor_shapes, tiny_shape

DATA = Path(__file__).resolve().parents[1] / "data"
SMALL = ModelParams.from_header(12, 8, 8, 2, 1, 4, 1)
SMALL_F32 = ModelParams.from_header(12, 8, 8, 2, 1, 4, 0)
SPEAKING = ModelParams.from_header(300, 8, 8, 2, 1, 4, 0)  # with a token for every byte
TINY = tiny_shape(n_embd=8, n_head=2, n_layer=1, n_mult=8)

Scene = Callable[[Path], Iterable[str]]  # fills a folder and names the files in it that are to be damaged


# ── GGML and GGUF ────────────────────────────────────────────────────────────────────────────────────────────────────


def ggml(container: str, version: int, kind: str, hparams: ModelParams | None = None) -> Scene:
    def fill(at: Path) -> list[str]:
        write_tiny(at / "m.bin", container, version, kind, hparams=hparams)
        return ["m.bin"]

    return fill


def ggml_parts(at: Path) -> list[str]:
    """A model over two files."""
    write_tiny(at / "whole.bin", "ggmf", 1, "f16", hparams=SMALL)
    with open_model(at / "whole.bin") as model:
        migrate(model, at / "m.bin", "ggmf", 1, n_parts=2)
    (at / "whole.bin").unlink()
    return ["m.bin", "m.bin.1"]


def golden(name: str) -> Scene:
    """A file that llama.cpp itself wrote."""

    def fill(at: Path) -> list[str]:
        shutil.copy(DATA / name, at / "m.bin")
        return ["m.bin"]

    return fill


def _as_gguf(at: Path, container: str = "ggjt", version: int = 3, kind: str = "q4_0", **more: Any) -> Path:
    write_tiny(at / "source.bin", container, version, kind, **more)
    with open_model(at / "source.bin") as model:
        migrate(model, at / "m.gguf", "gguf", 3)
    (at / "source.bin").unlink()
    return at / "m.gguf"


def gguf(version: int, order: str = "<", kind: str = "q4_0", hparams: ModelParams | None = None) -> Scene:
    def fill(at: Path) -> list[str]:
        path = _as_gguf(at, kind=kind, hparams=hparams)
        if version != 3 or order != "<":
            path.write_bytes(rewritten_gguf(path, version, order))
        return ["m.gguf"]

    return fill


def gguf_of_all_types(at: Path) -> list[str]:
    """Metadata of every type, arrays of arrays too."""
    path = _as_gguf(at, kind="f16", hparams=SMALL)
    file = open_gguf(path)
    odd = {f"x.{name}": Value(name, 1.5 if code in ("<f", "<d") else 1) for name, code in VALUE_TYPES.values() if code}
    odd |= {f"a.{name}": Value("array", np.ones(3, code), name) for name, code in VALUE_TYPES.values() if code}
    nested = Value(
        "array", [Value("array", [b"x", b"yy"], "string"), Value("array", np.ones(2, "<f4"), "f32")], "array"
    )
    tensors = [OutTensor(n, t.type, t.shape, lambda d=t.data: [d]) for n, t in file.tensors.items()]
    write_gguf(at / "n.gguf", {**file.metadata, **odd, "nested": nested}, tensors)
    (at / "n.gguf").replace(path)
    return ["m.gguf"]


def gguf_split(at: Path) -> list[str]:
    """A model over two files, as gguf-split names them."""
    file = open_gguf(_as_gguf(at, kind="f16", hparams=SMALL))
    tensors = [OutTensor(n, t.type, t.shape, lambda d=t.data: [d]) for n, t in file.tensors.items()]
    for number, share in enumerate((tensors[::2], tensors[1::2])):
        metadata = {**(file.metadata if not number else {"general.architecture": Value("string", b"llama")})}
        split = {"split.no": Value("u16", number), "split.count": Value("u16", 2)}
        write_gguf(at / f"m-0000{number + 1}-of-00002.gguf", {**metadata, **split}, share)
    (at / "m.gguf").unlink()
    return ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]


def rewritten_gguf(path: Path, version: int, order: str) -> bytes:
    """The file as another version, or with every number the other way round."""
    file, wide = open_gguf(path), order + ("I" if version == 1 else "Q")

    def string(text: bytes) -> bytes:
        return struct.pack(wide, len(text)) + text

    def value(item: Value) -> bytes:
        if item.type == "string":
            return string(item.value)
        if item.type != "array":
            return struct.pack(order + VALUE_TYPES[TYPE_IDS[item.type]][1][1:], item.value)
        head = struct.pack(order + "I", TYPE_IDS[item.item]) + struct.pack(wide, len(item.value))
        if item.item == "string":
            return head + b"".join(map(string, item.value))
        return head + np.asarray(item.value).astype(order + VALUE_TYPES[TYPE_IDS[item.item]][1][1:]).tobytes()

    out = b"GGUF" + struct.pack(order + "I", version) + struct.pack(wide, len(file.tensors))
    out += struct.pack(wide, len(file.metadata))
    for key, item in file.metadata.items():
        out += string(key.encode()) + struct.pack(order + "I", TYPE_IDS[item.type]) + value(item)
    for name, tensor in file.tensors.items():
        dims = tensor.shape[::-1] + (1,) * (version == 2 and len(tensor.shape) == 2)  # three dimensions are legal, too
        out += string(name.encode()) + struct.pack(order + "I", len(dims))
        out += b"".join(struct.pack(wide, n) for n in dims)
        out += struct.pack(order + "IQ", tensor.type.id, tensor.offset - file.data_offset)
    out += b"\0" * (-len(out) % 32)
    for tensor in file.tensors.values():
        data = tensor.data
        if order == ">":
            data = data.view(tensor.type.block).byteswap().view(np.uint8)
        out += data.tobytes() + b"\0" * (-len(data) % 32)
    return out


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────────


def torch_file(data: bytes) -> Scene:
    def fill(at: Path) -> list[str]:
        (at / "x.pth").write_bytes(data)
        return ["x.pth"]

    return fill


def torch_files() -> dict[str, Scene]:
    """torch's own golden files, and forged ones."""
    folder = DATA / "merge"
    paths = [*sorted((folder / "parser").glob("*.pth"))]
    paths += [path for path in sorted((folder / "malicious").glob("*.pth")) if path.stat().st_size < 5000]
    scenes = {path.stem: torch_file(path.read_bytes()) for path in paths}
    scenes["forged"] = torch_file(forge.checkpoint())
    scenes["forged, deflated"] = torch_file(forge.checkpoint(data=forge.Member("x/data/0", forge.DATA, method=8)))
    return scenes


def safetensors_of_all_types(at: Path) -> list[str]:
    shape = {"int64": (), "uint8": (0,), "float16": (2, 3), "bfloat16": (2, 2), "float32": (4,)}
    tensors = [
        LazyTensor.of_array(f"t.{name}", np.ones(shape.get(name, (2,)), DTYPES[name].stored))
        for name in CODE_OF
        if name != "bfloat16"
    ]
    write_safetensors(at / "x.safetensors", tensors, {"format": "pt", "中": "文"})
    return ["x.safetensors"]


def safetensors_model(at: Path) -> list[str]:
    write_safetensors(at / "x.safetensors", list(_tensors("float16")), {"format": "pt"})
    return ["x.safetensors"]


def _tensors(dtype: str, spelling: str = "meta") -> Iterable[LazyTensor]:
    from ggmlpy.formats.tensor_names import rename

    for name, size in tensor_shapes(TINY, len(small_pieces())).items():
        values = tiny_models.random_array(1, name, size).astype(dtype)
        yield LazyTensor.of_array(rename(name, spelling), values, layout="meta")


def meta_model(at: Path) -> list[str]:
    """Meta's layout in a folder, with its tokenizer and added tokens."""
    write_pth(at / "consolidated.00.pth", list(_tensors("float16")))
    (at / "params.json").write_text(params_json(TINY))
    _tokenizer(at)
    return ["params.json", "params.json", "consolidated.00.pth", "tokenizer.model", "added_tokens.json"]


def _config() -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": TINY.n_embd, "initializer_range": 0.02, "intermediate_size": TINY.n_ff, "model_type": "llama",
        "num_attention_heads": TINY.n_head, "num_hidden_layers": TINY.n_layer, "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False, "torch_dtype": "float16", "vocab_size": len(small_pieces()),
    }  # fmt: skip


def huggingface(kind: str) -> Scene:
    """Hugging Face's layout in two parts with an index."""

    def fill(at: Path) -> list[str]:
        stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
        tensors, names = list(_tensors("float16", "huggingface")), {}
        for number, share in enumerate((tensors[::2], tensors[1::2]), 1):
            name = f"{stem}-0000{number}-of-00002.{suffix}"
            (write_safetensors if kind == "safetensors" else write_pth)(at / name, share)
            names |= {tensor.name: name for tensor in share}
        index = {"metadata": {"total_size": 1}, "weight_map": names}
        (at / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
        (at / "config.json").write_text(json.dumps(_config()))
        _tokenizer(at)
        return ["config.json", f"{stem}.{suffix}.index.json", f"{stem}-00001-of-00002.{suffix}", "added_tokens.json"]

    return fill


# ── tokenizers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def small_pieces() -> list[tuple[str, float, int]]:
    """A vocabulary of an even number of pieces; without the byte pieces that make others long."""
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    texts = ["▁", "a", "b", "ab", "▁a", "你", "好", "你好", "hello"]
    return pieces + [(text, -float(i), NORMAL) for i, text in enumerate(texts)]


def tokenizer_bytes(pieces: list[tuple[str, float, int]], rest: bytes | None = None) -> bytes:
    rest = tiny_models._TRAINER[:4].replace(b"\x05", b"\x02") + tiny_models._NORMALIZER if rest is None else rest
    return b"".join(tiny_models._piece(*piece).encoded for piece in pieces) + rest


def _tokenizer(at: Path) -> None:
    (at / "tokenizer.model").write_bytes(tokenizer_bytes(small_pieces()))
    (at / "added_tokens.json").write_text(json.dumps({"[PAD]": 12, "<x>": 13, "中": 14}))


def tokenizer_small(at: Path) -> list[str]:
    _tokenizer(at)
    return ["tokenizer.model"] * 3 + ["added_tokens.json"]


def tokenizer_with_bytes(at: Path) -> list[str]:
    pieces = small_pieces()
    pieces[3:3] = [(f"<0x{i:02X}>", 0.0, BYTE) for i in range(256)]
    (at / "tokenizer.model").write_bytes(tokenizer_bytes(pieces, tiny_models._TRAINER + tiny_models._NORMALIZER))
    return ["tokenizer.model"]


def tokenizer_golden(at: Path) -> list[str]:
    """One that sentencepiece itself trained: trainer and normalizer specifications, a character map."""
    shutil.copy(DATA / "ggml" / "T1_input" / "tokenizer.model", at)
    return ["tokenizer.model"]


# ── adapters ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def adapter(weights: str, grown: bool = False) -> Scene:
    def fill(at: Path) -> list[str]:
        tiny_models.write_adapter(at / "x", TINY, 1, weights=weights, grown=grown, rank=2)
        for path in (at / "x").iterdir():
            path.replace(at / path.name)
        (at / "x").rmdir()
        config = json.loads((at / "adapter_config.json").read_text())
        config |= {"rank_pattern": {"w9": 4}, "alpha_pattern": {"q_proj": 4, ".*1.k_proj": 2.5}, "use_rslora": True}
        config |= {"use_dora": False, "init_lora_weights": True, "base_model_name_or_path": "x"}
        (at / "adapter_config.json").write_text(json.dumps(config))
        if grown:
            (at / "added_tokens.json").write_text("{}")
        else:
            _tokenizer(at)
        return ["adapter_config.json"] * 3 + [f"adapter_model.{weights}", "added_tokens.json"]

    return fill


def adapter_zip(method: int) -> Scene:
    """The ZIP as it is downloaded."""

    def fill(at: Path) -> list[str]:
        (at / "inner").mkdir()
        adapter("bin")(at / "inner")
        with zipfile.ZipFile(at / "x.zip", "w", method) as archive:
            for path in sorted((at / "inner").iterdir()):
                archive.writestr(zipfile.ZipInfo(f"lora/{path.name}"), path.read_bytes(), method)
        shutil.rmtree(at / "inner")
        return ["x.zip"]

    return fill


# ── texts ────────────────────────────────────────────────────────────────────────────────────────────────────────────

RECORDS = [{"instruction": f"说 {i}", "input": "" if i % 2 else "x", "output": f'好 \\ " {i}'} for i in range(4)]


def instructions(at: Path) -> list[str]:
    text = json.dumps(RECORDS, ensure_ascii=False)
    (at / "array.json").write_text(text, "utf-8")
    (at / "reply.txt").write_text(f"Sure!\n```json\n{text[:-1]},]```\n[{text[1:90]}", "utf-8")
    (at / "lines.jsonl").write_text("\n".join(json.dumps(record) for record in RECORDS))
    (at / "wrapped.json").write_text(json.dumps({"data": RECORDS, "n": 4}))
    replies = [json.dumps({"request": i, "content": text}) for i in range(2)]
    (at / "x.raw.jsonl").write_text("\n".join(replies) + "\n")
    return ["array.json", "reply.txt", "lines.jsonl", "wrapped.json", "x.raw.jsonl"]


def digest_lists(at: Path) -> list[str]:
    (at / "a.bin").write_bytes(b"a")
    (at / "params.json").write_text(params_json(TINY))
    lines = [f"{sha256(b'a').hexdigest()}  a.bin", f"{md5(b'a').hexdigest()} *a.bin", f"SHA256 (b c.bin) = {'0' * 64}"]
    (at / "SHA256SUMS").write_text("# digests\n" + "\n".join(lines) + "\n")
    (at / "checklist.chk").write_text(f"{'0' * 32}  params.json\n")
    files = {"a.bin": {"sha256": sha256(b"a").hexdigest(), "size": 1}}
    case = {
        "kind": "convert",
        "output": "a.bin",
        "source": "x",
        "adapters": [],
        "options": {},
        "files": files,
        "command": "",
    }
    (at / "manifest.json").write_text(json.dumps({"made_by": "x", "inputs": files, "cases": [case]}))
    return ["SHA256SUMS", "checklist.chk", "manifest.json", "manifest.json", "params.json"]


# ── what our own programs saved ──────────────────────────────────────────────────────────────────────────────────────


class Answerer:
    """A model of nine tokens for conversations to resume with: the last token's successor is the likeliest."""

    def __init__(self) -> None:
        self.vocab = _Pieces([b" ", b"", b"", b"a", b"b", b"c", b"ab", b" a", b"!"])
        self.hparams = ModelParams.from_header(len(self.vocab), 4, 4, 1, 1, 4, 0)
        self.n_ctx, self.n_vocab = 12, len(self.vocab)

    def new_cache(self) -> KVCache:
        return KVCache(1, self.n_ctx, 1, 4)

    def evaluate(self, tokens: Any, n_past: int, *, last_only: bool = False, cache: Any = None) -> np.ndarray:
        if not all(0 <= token < self.n_vocab for token in tokens) or n_past + len(tokens) > self.n_ctx or n_past < 0:
            raise UsageError("tokens or positions that the model does not have")  # as Model.evaluate refuses them
        cache.length = n_past + len(tokens)
        return np.eye(self.n_vocab, dtype=np.float32)[(tokens[-1] + 1) % self.n_vocab] * 9


class _Pieces(list[bytes]):
    @property
    def scores(self) -> np.ndarray:
        return -np.arange(len(self), dtype=np.float32)


def conversation(at: Path) -> list[str]:
    talk = Conversation(Answerer(), SamplingOptions(seed=1), "2023-03-31")  # type: ignore[arg-type]
    list(talk.say("ab", max_tokens=2))
    talk.save(at / "talk.npz")
    return ["talk.npz"]


def training(at: Path) -> list[str]:
    """A checkpoint of a run, and its log."""
    run = training_run(at)
    run.log = [Progress(i + 1, 1.5, 1e-3, 0.1, 9, 0.01) for i in range(3)]
    run.optimizer.step = 3
    run.save()
    return ["checkpoint.npz", "checkpoint.npz", "log.jsonl"]


def training_run(folder: Path) -> Run:
    weights = {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)}
    documents = [Document(np.arange(4, dtype=np.int32), np.ones(4, np.float32))]
    packing = Packing(documents, rows=1, length=4)
    return Run(
        weights, ["a"], ModelParams(n_embd=4, n_mult=4, n_head=1, n_layer=1), packing, Settings(1e-3, 10), folder=folder
    )


def logits(at: Path) -> list[str]:
    np.save(at / "x.npy", np.ones((2, 9), np.float32))
    np.ones((2, 9), "<f4").tofile(at / "x.bin")
    return ["x.npy", "x.npy", "x.bin"]
