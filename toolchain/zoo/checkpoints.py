"""What comes before a GGML file: checkpoints, tokenizers, adapters; and importance matrices."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy.formats.importance import write_importance
from ggmlpy.formats.tensor_names import gguf_name
from llama_ref.checkpoint import LazyTensor, write_pth
from llama_ref.checkpoint.safetensors_file import write_safetensors
from llama_ref.conversion.checkpoints import plan_to_hf
from lora.exchange.ggla import write_ggla
from lora.exchange.gguf_adapter import write_gguf_adapter
from lora.merging.adapter import open_adapter

from .pickles import PROTO, STOP, dictionary, integer, storage, tensor, text
from .specimen import Specimen, save
from .tiny_models import (
    random_array,
    tensor_shapes,
    tiny_shape,
    tiny_tokenizers,
    write_adapter,
    write_checkpoint,
    zip_directory,
)

__all__ = [
    "CONVERT",
    "MERGE",
    "SMALL",
    "checkpoints",
    "edit_json",
    "legacy_pth",
    "small_tensors",
    "write_base_and_adapter",
    "write_bin_adapter",
    "write_ggla_adapter",
    "write_gguf_adapter_file",
    "write_huggingface",
    "write_meta",
    "write_small_pth",
    "write_small_safetensors",
    "write_tokenizer",
]

SMALL = tiny_shape(n_embd=32, n_layer=1)
CONVERT = "convert {} --outfile {}/unused.bin --dry-run"
MERGE = "merge --base {}/base --lora {}/adapter --output {}/unused --dry-run"
SEED = 2023
Writer = Callable[[Path], object]


def checkpoints() -> Iterator[Specimen]:
    """Every kind of file that is no model file yet."""
    for place, story, write, says in (*_torch_files(), *_other_files()):
        yield Specimen(place, story, write, says)
    for place, story, write in _directories():
        yield Specimen(place, story, write, "ggjt v1", CONVERT)
    for place, story, write in _adapters():
        yield Specimen(place, story, write, "pairs: 7", MERGE)


# ── torch.save and safetensors ───────────────────────────────────────────────────────────────────────────────────────


def small_tensors() -> list[LazyTensor]:
    """Three tensors of a model, of a few hundred bytes."""
    shapes = {"tok_embeddings.weight": (8, 4), "norm.weight": (4,), "output.weight": (8, 4)}
    return [LazyTensor.of_array(n, random_array(SEED, n, s).astype(np.float16)) for n, s in shapes.items()]


def write_small_pth(path: Path, torch_format: str = "1.13") -> None:
    write_pth(path, small_tensors(), torch_format)


def write_small_safetensors(path: Path) -> None:
    write_safetensors(path, small_tensors(), {"format": "pt"})


MAGIC = 0x1950A86A20F9469CFC6C


def legacy_pth(version: int = 1001, little_endian: bytes = b"\x88", magic: int = MAGIC) -> bytes:
    """A checkpoint as torch saved it before 1.6: five pickles, one behind the other, and then the data."""
    values = np.arange(16, dtype=np.float16)
    system = dictionary([("protocol_version", integer(version)), ("little_endian", little_endian)])
    main = dictionary([("w", tensor(storage(view=b"N")))])
    parts = [integer(magic), integer(version), system, main, b"](" + text("0") + b"e"]
    return b"".join(PROTO + part + STOP for part in parts) + np.int64(16).tobytes() + values.tobytes()


def views_pth() -> tuple[bytes, bytes]:
    """The pickle of three tensors in one storage, and the storage: a part of it, and its transpose."""
    whole = storage(key="0", numel=16)
    three = [
        ("whole", tensor(whole)),
        ("second_row", tensor(whole, 4, (4,), (1,))),
        ("transposed", tensor(whole, 0, (4, 4), (1, 4))),
    ]
    return PROTO + dictionary(three) + STOP, np.arange(16, dtype=np.float16).tobytes()


def write_views(path: Path) -> None:
    """A checkpoint of torch whose tensors share their data."""
    pickle, data = views_pth()
    records = {"data.pkl": pickle, "data/0": data, "version": b"3\n"}
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in records.items():
            archive.writestr(zipfile.ZipInfo(f"{path.stem}/{member}", (1980, 1, 1, 0, 0, 0)), content)


def _torch_files() -> Iterator[tuple[str, str, Writer, str]]:
    for torch_format, words, says in (
        (
            "1.13",
            "what torch.save of 1.6 to 2.0 writes: a ZIP of a pickle and raw data, nothing compressed",
            "torch-1.13",
        ),
        ("2.5", "torch 2.1 to 2.6 also say their byte order, and end with a hash", "torch-2.1"),
        ("2.13", "torch since 2.7 counts its records as numbers, and says how it aligns them", "torch-2.7+"),
    ):
        yield f"torch/{torch_format}.pth", words, partial(write_small_pth, torch_format=torch_format), says
    old = "torch before 1.6: five pickles in a row, then the data; no ZIP"
    yield "torch/legacy.pth", old, lambda path: save(path, legacy_pth()), "legacy"
    shared = "tensors that share one storage: a part of it, and its transpose, which only strides tell"
    yield "torch/views.pth", shared, write_views, "torch-1.13"


def _every_dtype(path: Path) -> None:
    """One tensor of each type that safetensors and numpy both have."""
    names = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
    write_safetensors(path, [LazyTensor.of_array(n, np.ones(3, n)) for n in names], {"format": "pt"})


def _other_files() -> Iterator[tuple[str, str, Writer, str]]:
    safe = "safetensors: the length of a JSON header, the header, the data; nothing in it can run"
    yield "safetensors/small.safetensors", safe, write_small_safetensors, "safetensors"
    yield "safetensors/types.safetensors", "a tensor of every type", _every_dtype, "safetensors"
    base, grown = tiny_tokenizers()
    pieces = "a SentencePiece model as LLaMA's: protobuf, one message a piece"
    yield "tokenizers/base.model", pieces, partial(write_tokenizer, grown=False), f"{len(base)} pieces"
    chinese = "the same with Chinese pieces appended, score 0, and [PAD]: what a vocabulary merge writes"
    yield "tokenizers/chinese.model", chinese, partial(write_tokenizer, grown=True), f"{len(grown)} pieces"
    archive = "an adapter as it is downloaded"
    yield "adapters/zipped.zip", archive, _write_zip, "zip archive of a LoRA adapter"
    ggla = "an adapter of llama.cpp's main of April to August 2023: pairs of matrices, rank and alpha, no tokenizer"
    yield "adapters/ggml-adapter-model.bin", ggla, write_ggla_adapter, "ggla"
    gguf = "an adapter of llama.cpp today: GGUF without a model"
    yield "adapters/adapter.gguf", gguf, write_gguf_adapter_file, "adapter"
    for form, words in (("dat", "until mid-2025"), ("gguf", "today")):
        story = f"an importance matrix as llama-imatrix writes it {words}: how much each column counts"
        yield f"imatrix/imatrix.{form}", story, partial(_write_imatrix, form=form), "importance matrix"


def write_tokenizer(path: Path, grown: bool = False) -> None:
    save(path, tiny_tokenizers()[int(grown)].to_bytes())


def _write_imatrix(path: Path, form: str) -> None:
    names = [n for n, s in tensor_shapes(SMALL, 8).items() if n.startswith("layers.") and len(s) == 2]
    sums = {gguf_name(n): np.full(s[1], 2.0, np.float32) for n, s in tensor_shapes(SMALL, 8).items() if n in names}
    write_importance(path, sums, 16, format=form, dataset="zoo.txt", n_chunks=1, chunk_size=16)


# ── directories ──────────────────────────────────────────────────────────────────────────────────────────────────────


def write_meta(path: Path, **how: Any) -> None:
    """A model in Meta's layout."""
    write_checkpoint(path, SMALL, SEED, **how)


def write_huggingface(path: Path, weights: str = "safetensors") -> None:
    """The same in Hugging Face's."""
    source = path.with_name(f"{path.name}.meta")
    write_meta(source)
    with plan_to_hf(source, path, weights=weights) as plan:
        plan.write()
    _remove(source)


def _remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def _directories() -> Iterator[tuple[str, str, Writer]]:
    yield "checkpoints/meta", "a model as Meta published it: params.json, and rows of wq in Meta's order", write_meta
    for dtype in ("float32", "bfloat16"):
        yield f"checkpoints/meta-{dtype}", f"the same in {dtype}", partial(write_meta, dtype=dtype)
    yield "checkpoints/meta-two-shards", "the same in two shards, as the 13B", partial(write_meta, shards=2)
    for weights in ("safetensors", "bin"):
        story = "the same as transformers writes it: config.json, other names, rows of wq in another order"
        yield f"checkpoints/huggingface-{weights}", story, partial(write_huggingface, weights=weights)


def write_bin_adapter(path: Path, **how: Any) -> None:
    """An adapter of PEFT."""
    write_adapter(path, SMALL, SEED, **how)


def write_base_and_adapter(path: Path, **how: Any) -> None:
    """A directory with a base and an adapter that fits it."""
    path.mkdir()
    write_meta(path / "base")
    write_bin_adapter(path / "adapter", **how)


def _adapters() -> Iterator[tuple[str, str, Writer]]:
    story = "a LoRA adapter as PEFT of 2023 saves it, beside its base: thin matrices A and B for each of seven"
    yield "adapters/peft", story, write_base_and_adapter
    by_hand = "a state dict saved by hand has .default. in its keys; here as safetensors"
    write = partial(write_base_and_adapter, spelling="by-hand", weights="safetensors")
    yield "adapters/by-hand", by_hand, write
    grown = "an adapter of a grown vocabulary brings whole embeddings and its own tokenizer"
    yield "adapters/grown", grown, partial(write_base_and_adapter, grown=True)


def _beside(path: Path, write: Callable[[Path, Path], object]) -> None:
    """Have something made of an adapter in a directory that is removed again."""
    folder = path.with_name(f"{path.name}.adapter")
    write_bin_adapter(folder)
    write(folder, path)
    _remove(folder)


def _write_zip(path: Path) -> None:
    _beside(path, zip_directory)


def write_ggla_adapter(path: Path) -> None:
    def write(folder: Path, out: Path) -> None:
        with open_adapter(folder) as adapter:
            write_ggla(adapter, out)

    _beside(path, write)


def write_gguf_adapter_file(path: Path) -> None:
    base = path.with_name(f"{path.name}.base")
    write_huggingface(base)

    def write(folder: Path, out: Path) -> None:
        with open_adapter(folder) as adapter:
            write_gguf_adapter(adapter, base, out)

    _beside(path, write)
    _remove(base)


def edit_json(path: Path, **keys: Any) -> None:
    """Change keys of a JSON file; None takes a key away."""
    document = {**json.loads(path.read_text("utf-8")), **keys}
    save(path, json.dumps({key: value for key, value in document.items() if value is not None}).encode())
