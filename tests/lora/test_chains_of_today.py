"""Chinese-Alpaca-2's chain and its like: a base of today and two adapters, the first of which grows the vocabulary.

LLaMA 2 in Hugging Face's layout, the adapter of the second pre-training with embeddings of more tokens, the adapter of
the instructions; models for 16K scale positions linearly, those for 64K as YaRN does. LLaMA 3's has a tokenizer.json.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.formats.containers import GGUF
from ggmlpy.formats.eras import TODAY
from ggmlpy.formats.file_types import file_type_of
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_types import TENSOR_TYPES
from ggmlpy.quantizers.whole_file import quantize_file
from llama_ref.conversion.converting import convert, plan_conversion
from llama_ref.conversion.plan import Plan
from llama_ref.conversion.quantizing import quantized_plan
from llama_ref.vocabulary.rebuilding import tokenizer_of_pieces
from llama_ref.vocabulary.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN
from lora.merging.merge import merge
from tests.lora import test_merge_as_peft
from tests.lora.test_merge_as_peft import ALPHA, CONFIG, RANK, SHAPES, digest, written
from tests.today import huggingface_directory
from toolchain.verify.outputs import verify_output

VOCABULARY = ("model.embed_tokens", "lm_head")
GROWN = 296  # tokens of the chain's second link, of 259
SCALINGS = {
    "4K": {},
    "16K": {"max_position_embeddings": 512, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "64K": {
        "max_position_embeddings": 2048,
        "rope_scaling": {"type": "yarn", "factor": 16.0, "finetuned": True, "original_max_position_embeddings": 128},
    },
}
AS_PEFT = "7e1dc84d1cc7c0c7725b501131c32d1346f6e692807fa3c05e7fff7c594df430"  # of the merged model


def make_tokenizer(path: Path, n_pieces: int) -> None:
    texts = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % i for i in range(256))]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256]
    more = [chr(0x4E00 + i).encode() for i in range(n_pieces - len(texts))]
    path.write_bytes(tokenizer_of_pieces([*texts, *more], [0.0] * n_pieces, [*kinds, *[NORMAL] * len(more)]))


def make_adapter(folder: Path, random: np.random.RandomState) -> Path:
    folder.mkdir()
    pairs = {}
    for name, shape in SHAPES.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if "_proj" in name:
            pairs[f"{stem}.lora_A.weight"] = random.randint(-1000, 1001, (RANK, shape[1])) / 7001.0
            pairs[f"{stem}.lora_B.weight"] = random.randint(-1000, 1001, (shape[0], RANK)) / 7001.0
        elif "embed" in name or "head" in name:
            pairs[f"{stem}.weight"] = random.randint(-1000, 1001, (GROWN, shape[1])) / 577.0
    written(folder / "adapter_model.safetensors", pairs, "float16")
    targets = sorted({name.split(".")[-2] for name in SHAPES if "_proj" in name})
    said = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "target_modules": targets}
    said |= {"bias": "none", "inference_mode": True, "modules_to_save": ["embed_tokens", "lm_head"]}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    make_tokenizer(folder / "tokenizer.model", GROWN)
    template = "{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True, "chat_template": template}))
    return folder


def make_chain(folder: Path, scaling: str = "4K") -> tuple[Path, list[Path]]:
    """A base and its two adapters."""
    random, base = np.random.RandomState(7), folder / "Llama-2-7b"
    base.mkdir()
    weights = {name: random.randint(-1000, 1001, shape) / 577.0 for name, shape in SHAPES.items()}
    written(base / "model.safetensors", weights, "float16")
    (base / "config.json").write_text(json.dumps(CONFIG | {"torch_dtype": "float16"} | SCALINGS[scaling]))
    (base / "generation_config.json").write_text(json.dumps({"temperature": 0.9, "top_p": 0.6}))
    make_tokenizer(base / "tokenizer.model", 259)
    return base, [make_adapter(folder / name, random) for name in ("llama-2-lora", "alpaca-2-lora")]


@pytest.fixture
def chain(tmp_path):
    return make_chain(tmp_path)


@pytest.fixture
def llama3(vectors, tmp_path):
    base, pre = huggingface_directory(vectors, "llama3-bpe", tmp_path / "llama3-bpe")
    return base, [vectors / "today-models" / "lora" / name for name in ("all-r4", "all-r4-f16")], pre


def test_two_adapters_at_once_have_the_bits_of_peft(chain, tmp_path):
    merge(*chain, tmp_path / "merged", output_type="huggingface", dtype="auto")
    assert digest(tmp_path / "merged" / "model.safetensors") == AS_PEFT


def test_peft_itself_gives_these_bits(chain, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    base, adapters = chain
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16)
    for adapter in adapters:
        model.resize_token_embeddings(GROWN)
        model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model.save_pretrained(tmp_path / "theirs")
    assert digest(tmp_path / "theirs" / "model.safetensors") == AS_PEFT


@pytest.mark.parametrize(
    ("kind", "scaling"), [*(("f16", name) for name in SCALINGS), ("q8_0", "4K"), ("q4_0", "16K"), ("q4_K_M", "64K")]
)
def test_straight_to_gguf_is_the_long_way(kind, scaling, tmp_path):
    base, adapters = make_chain(tmp_path, scaling)
    merge(base, adapters, tmp_path / "Alpaca-2", output_type="huggingface", dtype="auto")
    long_way, straight = tmp_path / "long.gguf", tmp_path / "Alpaca-2.gguf"
    convert(tmp_path / "Alpaca-2", long_way, outtype="q8_0" if kind == "q8_0" else "f16", container="gguf")
    if kind.startswith("q4"):
        quantize_file(long_way, tmp_path / "quantized.gguf", kind)
        long_way = tmp_path / "quantized.gguf"
    merge(base, adapters, straight, output_type=f"gguf-{kind}")
    assert straight.read_bytes() == long_way.read_bytes()
    with open_model(straight) as model:
        stated = model.metadata
        assert (len(model.vocab), model.hparams.n_vocab) == (GROWN, GROWN)
    assert "tokenizer.chat_template" in stated
    assert ("llama.rope.scaling.factor" in stated) == (scaling != "4K")
    report = verify_output(straight, base, adapters)
    assert (report.verdict, report.exit_code) == ("identical bytes", 0)


@pytest.mark.parametrize("kind", ["f16", "bf16", "q4_0"])
def test_llama_3_straight_to_gguf_is_verified_in_one_step(kind, llama3, tmp_path):
    base, adapters, pre = llama3
    merge(base, adapters, tmp_path / "m.gguf", output_type=f"gguf-{kind}", pre_tokenizer=pre)
    report = verify_output(tmp_path / "m.gguf", base, adapters)
    assert (report.verdict, report.exit_code) == ("identical bytes", 0)
    assert verify_output(tmp_path / "m.gguf", base, adapters[:1]).exit_code == 1


def test_a_forgotten_adapter_is_told(chain, tmp_path):
    base, adapters = chain
    merge(base, adapters[:1], tmp_path / "m.gguf", output_type="gguf-f16")
    report = verify_output(tmp_path / "m.gguf", base, adapters)
    assert report.exit_code == 1
    assert len(report.differing) == 9  # all matrices


def test_the_directory_converted_and_a_file_of_2023_have_the_right_content(chain, tmp_path):
    base, adapters = chain
    for kind in ("huggingface", "pth"):
        merge(base, adapters, tmp_path / kind, output_type=kind, dtype="f16")
        with plan_conversion(tmp_path / kind, tmp_path / f"{kind}.gguf", container="gguf") as plan:
            plan.write()
        report = verify_output(tmp_path / f"{kind}.gguf", base, adapters)
        assert report.exit_code == 0, report


def test_what_is_no_type_of_gguf_is_refused(chain, tmp_path):
    for kind in ("q9", "iq2_zzz"):
        with pytest.raises(UsageError, match="type"):
            merge(*chain, tmp_path / "m.gguf", output_type=f"gguf-{kind}")


def test_types_that_need_an_importance_matrix_are_refused(tmp_path):
    tensor = OutTensor("layers.0.attention.wq.weight", TENSOR_TYPES["f16"], (256, 256), list)
    plan = Plan({tmp_path / "m.gguf": 0}, GGUF, 3, None, [], [[tensor]], keys=[{}])
    with pytest.raises(FormatError, match="can't be made iq2_xxs without an importance matrix"):
        quantized_plan(plan, file_type_of("iq2_xxs", TODAY))


@pytest.mark.parametrize("added", [{}, {"<|x|>": 260, "[PAD]": 259}, {"<|x|>": 270}], ids=["none", "some", "gap"])
def test_a_base_whose_embedding_is_padded_keeps_its_padding(added, tmp_path, monkeypatch):
    padded = {name: (288, *size[1:]) if name.startswith(VOCABULARY) else size for name, size in SHAPES.items()}
    monkeypatch.setattr(test_merge_as_peft, "SHAPES", padded)
    monkeypatch.setattr(test_merge_as_peft, "CONFIG", CONFIG | {"vocab_size": 288})
    base, adapter = test_merge_as_peft.make(tmp_path, "float16", "float16")
    if added:
        (base / "added_tokens.json").write_text(json.dumps(added))
    for name in ("tokenizer.model", *["added_tokens.json"] * bool(added)) if 270 not in added.values() else ():
        shutil.copy(base / name, adapter / name)
    for kind, output in (("huggingface", tmp_path / "hf"), ("gguf-f16", tmp_path / "m.gguf")):
        merge(base, [adapter], output, output_type=kind, dtype="auto" if kind == "huggingface" else "f16")
        report = verify_output(output, base, [adapter])
        assert (report.verdict, report.exit_code) == ("identical bytes", 0)
    with open_model(tmp_path / "m.gguf") as model:
        assert len(model.vocab) == 288
    with pytest.raises(UsageError, match="has no place for them: --output-type huggingface or gguf-f16"):
        merge(base, [adapter], tmp_path / "m.bin", output_type="ggml-f16")
