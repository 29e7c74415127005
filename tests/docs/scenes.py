"""Folders of tiny files in which the commands of the documentation run: one function a folder, named in the pages.

A page says ``<!-- in: NAME -->`` before a code block; ``NAME`` is a function here. The files stand under the names that
the page uses, so that what a command prints there is what it prints in the page.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ggmlpy import write_model
from llama_ref.checkpoint import LazyTensor, open_pth, write_pth
from llama_ref.conversion.checkpoints import plan_to_hf
from llama_ref.conversion.converting import plan_conversion
from toolchain.demo.default import default_model
from toolchain.demo.story import lay_out_today, lay_out_tutorial
from toolchain.verify.as_written import stored
from toolchain.verify.mistakes import mistakes
from toolchain.zoo.make import specimens

DATA = Path(__file__).resolve().parents[1] / "data"
GGML, MERGE = DATA / "ggml", DATA / "merge"


def empty(at: Path) -> None:
    """Nothing is there."""


def base(at: Path) -> None:
    """A LLaMA as Meta published it: two layers, 64 wide, 320 pieces."""
    (at / "models").mkdir()
    shutil.copytree(MERGE / "v11-llama" / "base" / "7B", at / "models" / "7B")
    shutil.copy(MERGE / "v11-llama" / "base" / "tokenizer.model", at / "models")


def merge(at: Path) -> None:
    """The base, and the adapters of Chinese-LLaMA (500 pieces) and Chinese-Alpaca (501, with ``[PAD]``)."""
    base(at)
    shutil.copytree(MERGE / "head-multi-lora" / "lora1", at / "llama-lora")
    shutil.copytree(MERGE / "head-multi-lora" / "lora2", at / "alpaca-lora")


def tutorial(at: Path) -> None:
    """What ``demo --output DIR`` lays out to follow the tutorial with."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(lay_out_tutorial(folder), at, dirs_exist_ok=True)


def today(at: Path) -> None:
    """What it lays out for the second half."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(lay_out_today(folder), at, dirs_exist_ok=True)


def merged(at: Path) -> None:
    """What merging gave."""
    merge(at)
    shutil.copytree(MERGE / "head-multi-lora" / "out", at / "merged")


def quantized(at: Path) -> None:
    """An f16 model and its q4_0, of 2023-03-31."""
    shutil.copy(GGML / "T1_convert_f16" / "T1.p2.f16.bin", at / "ggml-model-f16.bin")
    shutil.copy(GGML / "T1_quant_p2" / "T1.q4_0.bin", at / "ggml-model-q4_0.bin")
    shutil.copy(GGML / "T1_input" / "tokenizer.model", at)


def demo_model(at: Path) -> None:
    """The model that a command takes without ``-m``."""
    shutil.copy(default_model(), at / "ggml-model-q4_0.bin")


def old_files(at: Path) -> None:
    """The same model as five months of llama.cpp wrote it."""
    for pin in (0, 2, 5):
        shutil.copy(GGML / f"T1_quant_p{pin}" / "T1.q4_0.bin", at / f"p{pin}-q4_0.bin")
    shutil.copy(GGML / "T1_input" / "tokenizer.model", at)


def changed(path: Path, drop: tuple[str, ...] = (), **tensors: np.ndarray) -> None:
    """Drop tensors of a .pth file by a part of their names, or replace them."""
    with open_pth(path) as f:
        kept = {name: t.numpy().copy() for name, t in f.items() if not any(part in name for part in drop)}
    kept |= {name.replace("__", "."): array for name, array in tensors.items()}
    write_pth(path, [LazyTensor.of_array(*item) for item in kept.items()])


def edited(path: Path, **keys: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **keys}, indent=2), "utf-8")


def half_resized(at: Path) -> None:
    """Somebody resized the embedding, but not the output matrix."""
    merge(at)
    changed(at / "models/7B/consolidated.00.pth", tok_embeddings__weight=np.zeros((500, 64), "f2"))


def without_embeddings(at: Path) -> None:
    """An adapter whose modules_to_save got lost."""
    merge(at)
    changed(at / "llama-lora/adapter_model.bin", drop=("embed_tokens", "lm_head"))


def saved_empty(at: Path) -> None:
    """The 443-byte adapter."""
    merge(at)
    write_pth(at / "llama-lora/adapter_model.bin", [])


def wrong_tokenizer(at: Path) -> None:
    """Alpaca's weights with LLaMA's tokenizer."""
    merge(at)
    shutil.copy(at / "llama-lora/tokenizer.model", at / "alpaca-lora/tokenizer.model")


def untrained(at: Path) -> None:
    """An adapter whose lora_B is zero."""
    merge(at)
    path = at / "llama-lora/adapter_model.bin"
    with open_pth(path) as f:
        tensors = {name: t.numpy().copy() for name, t in f.items()}
    kept = {n: a * 0 if "lora_B" in n else a for n, a in tensors.items()}
    write_pth(path, [LazyTensor.of_array(*item) for item in kept.items()])


def huggingface(at: Path) -> None:
    """The base as transformers writes it, beside Meta's."""
    base(at)
    shutil.copytree(MERGE / "step1-hf-7b" / "hf", at / "llama-7b-hf")


def third_party(at: Path) -> None:
    """A conversion with the special ids of early transformers."""
    merge(at)
    with plan_to_hf(at / "models/7B", at / "llama-7b-hf", weights="bin") as plan:
        plan.write()
    edited(at / "llama-7b-hf/config.json", bos_token_id=0, eos_token_id=1)


def unpermuted(at: Path) -> None:
    """Somebody's conversion that left wq and wk in Hugging Face's order."""
    base(at)
    with plan_conversion(at / "models/7B", at / "unused.bin") as plan:
        (mistake,) = [m for m in mistakes(plan.checkpoint) if m.name.startswith("rows of wq and wk are in")]
        tensors = []
        for tensor in plan.parts[0]:
            wrong = mistake.apply(plan.checkpoint.tensors[tensor.name])
            tensors.append(tensor if wrong is None else stored(wrong, tensor.type))
        write_model(at / "theirs-f16.bin", "ggjt", 1, plan.hparams, plan.vocab, tensors)


def without_tokenizer(at: Path) -> None:
    """The weights alone."""
    base(at)
    (at / "models/tokenizer.model").unlink()


def web_page(at: Path) -> None:
    """A tokenizer that is a web page."""
    without_tokenizer(at)
    (at / "models/7B/tokenizer.model").write_text("<!DOCTYPE html>\n<html>Sign in</html>\n")


def other_tokenizer(at: Path) -> None:
    """LLaMA's weights with the tokenizer of Chinese-LLaMA beside them."""
    base(at)
    shutil.copy(MERGE / "head-multi-lora/lora1/tokenizer.model", at / "models/7B")


def with_gap(at: Path) -> None:
    """added_tokens.json whose ids do not follow on the tokenizer's."""
    huggingface(at)
    (at / "llama-7b-hf/added_tokens.json").write_text('{"<user>": 322, "<assistant>": 323}')


def more_rows(at: Path) -> None:
    """A model with more rows than pieces, as padding to a multiple of eight leaves them."""
    base(at)
    rows = np.zeros((328, 64), "f2")
    changed(at / "models/7B/consolidated.00.pth", tok_embeddings__weight=rows, output__weight=rows)


def two_shards(at: Path) -> None:
    """A merged 13B: an odd vocabulary over two files."""
    shutil.copytree(MERGE / "two-shard-13b" / "out", at / "merged")


def bfloat16(at: Path) -> None:
    """The base in bfloat16."""
    base(at)
    path = at / "models/7B/consolidated.00.pth"
    with open_pth(path) as f:
        bits = {name: (tensor.f32().view("<u4") >> 16).astype("<u2") for name, tensor in f.items()}
    write_pth(path, [_bfloat16(*item) for item in bits.items()])


def _bfloat16(name: str, bits: np.ndarray) -> LazyTensor:
    return LazyTensor(name, bits.shape, "bfloat16", lambda a, b: bits[a:b], "memory", None)


def unknown_storage(at: Path) -> None:
    """A tensor of a kind that numpy has no form for."""
    base(at)
    path = at / "models/7B/consolidated.00.pth"
    content = (MERGE / "parser/dtypes.legacy.t113.pth").read_bytes()
    assert content.count(b"ShortStorage") == 1
    path.write_bytes(content.replace(b"ShortStorage", b"QInt8Storage"))


def cut_off(at: Path) -> None:
    """A download that broke off."""
    content = (GGML / "T1_quant_p2" / "T1.q4_0.bin").read_bytes()
    (at / "ggml-model-q4_0.bin").write_bytes(content[:60000])


def not_models(at: Path) -> None:
    """Things that people take for models."""
    (at / "model.bin").write_text("<!DOCTYPE html>\n<html>Sign in</html>\n")
    (at / "model.tgz").write_bytes(b"\x1f\x8b\x08" + bytes(300))
    (at / "pointer.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def two_merges(at: Path) -> None:
    """The same merge, saved by two versions of torch."""
    for folder, torch in (("mine", "torch1.13.1"), ("theirs", "torch2.13.0")):
        (at / folder).mkdir()
        shutil.copy(MERGE / "pth-format" / torch / "consolidated.00.pth", at / folder)


def listed_json(at: Path) -> None:
    """A list of digests, and a JSON file that another version of a library wrote."""
    merge(at)
    path = at / "llama-lora/adapter_config.json"
    theirs = json.dumps(json.loads(path.read_text("utf-8")), indent=2, sort_keys=True) + "\n"
    path.write_text(json.dumps(json.loads(theirs), indent=4), "utf-8")
    (at / "llama-lora/SHA256SUMS").write_text(f"{sha256(theirs.encode()).hexdigest()}  adapter_config.json\n")


def prompts(at: Path) -> None:
    """A model, and a prompt in a file."""
    quantized(at)
    (at / "prompt.txt").write_text("介绍北京", "utf-8")


def one_pth(at: Path) -> None:
    """A checkpoint alone."""
    shutil.copy(MERGE / "v11-llama/base/7B/consolidated.00.pth", at)


def chinese_model(at: Path) -> None:
    """A q4_0 model in its folder."""
    (at / "zh-alpaca").mkdir()
    shutil.copy(GGML / "T1_quant_p2" / "T1.q4_0.bin", at / "zh-alpaca/ggml-model-q4_0.bin")


def tokenizers(at: Path) -> None:
    """A tiny LLaMA vocabulary, a Chinese one, and what Chinese-LLaMA-Alpaca's script made of the two."""
    for name in ("llama.model", "chinese_sp.model", "merged.model"):
        shutil.copy(MERGE / "tokenizer-tiny" / name, at)


def theirs(at: Path) -> None:
    """Somebody's q4_0 of an f16 model, by the quantizer of a month later; logits and a text of theirs."""
    from ggmlpy.quantizers.whole_file import quantize_file

    quantized(at)
    quantize_file(at / "ggml-model-f16.bin", at / "theirs-q4_0.bin", "q4_0", "2023-04-30")
    shutil.copy(GGML / "T1_logits_p2" / "T1.p2.q4_0.v2.kv16.batch.t1.f32", at / "theirs.f32")
    manifest = json.loads((GGML / "T1_logits_p2" / "manifest.json").read_text())
    (at / "tokens.txt").write_text(",".join(map(str, manifest["tokens"])))
    shutil.copy(GGML / "main_p2" / "plain.v2.stdout", at / "theirs.txt")
    shutil.copy(GGML / "T1x32_main_model" / "T1x32.p2.q4_0.bin", at / "main-model.bin")


def merged_twice(at: Path) -> None:
    """A merge in which the adapter was applied twice."""
    from lora.merging.merge import merge as merge_adapters

    merge(at)
    merge_adapters(at / "models/7B", [at / "llama-lora", at / "llama-lora"], at / "theirs")


def records(at: Path) -> None:
    """Instruction data."""
    record = {"instruction": "介绍北京", "input": "", "output": "北京是中国的首都。" * 200}
    (at / "records.json").write_text(json.dumps([record], ensure_ascii=False), "utf-8")


def zoo(at: Path) -> None:
    """Two animals."""
    for name in ("models/ggjt1/2023-03-31-q4_0.bin", "broken/gguf/alignment.gguf"):
        path = at / "animals" / name
        path.parent.mkdir(parents=True)
        next(specimens(name)).write(path)
