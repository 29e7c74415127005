"""Merges in the base's own type have the bits of PEFT's merge_and_unload, whatever the types of base and adapter.

PEFT loads adapters in float32, adds ``scale * B @ A`` in float32 to the weight and rounds once to the base's type. The
digests are those of PEFT 0.21.2 with torch 2.13.0; where both are installed, they are asked again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from llama_ref.checkpoint import LazyTensor
from llama_ref.checkpoint.safetensors_file import open_safetensors
from llama_ref.checkpoint.weights import write_weights
from llama_ref.vocabulary.rebuilding import tokenizer_of_pieces
from llama_ref.vocabulary.sentencepiece_model import BYTE, CONTROL, UNKNOWN
from lora.merging.kernels import bfloat16_bits, rounded
from lora.merging.merge import merge

N_EMBD, N_FF, N_HEAD, N_HEAD_KV, N_VOCAB, RANK, ALPHA = 64, 96, 8, 2, 259, 8, 13
SHAPES = {
    "model.embed_tokens.weight": (N_VOCAB, N_EMBD),
    "model.layers.0.self_attn.q_proj.weight": (N_EMBD, N_EMBD),
    "model.layers.0.self_attn.k_proj.weight": (N_EMBD // 4, N_EMBD),
    "model.layers.0.self_attn.v_proj.weight": (N_EMBD // 4, N_EMBD),
    "model.layers.0.self_attn.o_proj.weight": (N_EMBD, N_EMBD),
    "model.layers.0.mlp.gate_proj.weight": (N_FF, N_EMBD),
    "model.layers.0.mlp.up_proj.weight": (N_FF, N_EMBD),
    "model.layers.0.mlp.down_proj.weight": (N_EMBD, N_FF),
    "model.layers.0.input_layernorm.weight": (N_EMBD,),
    "model.layers.0.post_attention_layernorm.weight": (N_EMBD,),
    "model.norm.weight": (N_EMBD,),
    "lm_head.weight": (N_VOCAB, N_EMBD),
}
CONFIG = {
    **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": N_VOCAB, "hidden_size": N_EMBD},
    **{"intermediate_size": N_FF, "num_hidden_layers": 1, "num_attention_heads": N_HEAD, "rms_norm_eps": 1e-5},
    **{"num_key_value_heads": N_HEAD_KV, "max_position_embeddings": 128, "hidden_act": "silu"},
    "tie_word_embeddings": False,
}
DIGESTS = {  # (type of the base, type of the adapter) -> digest of the merge
    ("float16", "float16"): "beb0be72f254aa9e382775a7185399cf988ba5f3655263cc40e1be9de6a10297",
    ("float16", "bfloat16"): "f3653125299e59ca51862065c730217aba933f59113fa1180062a0433d292568",
    ("bfloat16", "float16"): "9556cff9bb5dcf29c384906d9e27476e64ba5d44f7a8f254021ba67f6d12dfc5",
    ("bfloat16", "bfloat16"): "a1d71c49d6ce542159e5e265477fb2675b23c5f04035093c95343a64134e0e04",
    ("float32", "float16"): "6eacad61f0233ee669200d0bbbaba5553cbdb53f5bc254558d59407b93f5e2e1",
    ("float32", "bfloat16"): "233bf18130246236997eb95466c5d10b456162753429c68d0ad4fb440520153e",
}


def written(path: Path, tensors: dict[str, np.ndarray], dtype: str) -> None:
    """A safetensors file of these values, rounded to a type."""
    out = []
    for name, values in tensors.items():
        stored = rounded(values, dtype)
        if dtype == "bfloat16":
            stored = bfloat16_bits(stored)
            out.append(LazyTensor(name, stored.shape, dtype, lambda a, b, stored=stored: stored[a:b], "made"))
        else:
            out.append(LazyTensor.of_array(name, stored))
    write_weights(path, out)


def make(folder: Path, base_type: str, adapter_type: str) -> tuple[Path, Path]:
    """A base and an adapter: integers of a frozen generator, so that every machine has the same."""
    random, base, adapter = np.random.RandomState(5), folder / "base", folder / "adapter"
    base.mkdir()
    adapter.mkdir()
    weights = {name: random.randint(-1000, 1001, shape) / 577.0 for name, shape in SHAPES.items()}
    written(base / "model.safetensors", weights, base_type)
    (base / "config.json").write_text(json.dumps(CONFIG | {"torch_dtype": base_type}))
    texts = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % i for i in range(256))]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256]
    (base / "tokenizer.model").write_bytes(tokenizer_of_pieces(texts, [0.0] * len(texts), kinds))
    pairs = {}
    for name, shape in SHAPES.items():
        if "_proj" in name:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            pairs[f"{stem}.lora_A.weight"] = random.randint(-1000, 1001, (RANK, shape[1])) / 7001.0
            pairs[f"{stem}.lora_B.weight"] = random.randint(-1000, 1001, (shape[0], RANK)) / 7001.0
    written(adapter / "adapter_model.safetensors", pairs, adapter_type)
    targets = sorted({name.split(".")[-2] for name in SHAPES if "_proj" in name})
    said = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "target_modules": targets}
    (adapter / "adapter_config.json").write_text(json.dumps(said | {"bias": "none", "inference_mode": True}))
    return base, adapter


def digest(path: Path) -> str:
    """Of names, types and bytes of the tensors in a safetensors file."""
    found = hashlib.sha256()
    for name, tensor in sorted(open_safetensors(path).items()):
        found.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        found.update(np.ascontiguousarray(tensor.stored()).tobytes())
    return found.hexdigest()


def merged(folder: Path, base: Path, adapter: Path) -> str:
    merge(base, [adapter], folder / "merged", output_type="huggingface", dtype="auto")
    return digest(folder / "merged" / "model.safetensors")


@pytest.mark.parametrize(("base_type", "adapter_type"), DIGESTS)
def test_the_merge_has_the_bits_of_peft(base_type: str, adapter_type: str, tmp_path: Path) -> None:
    assert merged(tmp_path, *make(tmp_path, base_type, adapter_type)) == DIGESTS[base_type, adapter_type]


@pytest.mark.parametrize(("base_type", "adapter_type"), DIGESTS)
def test_peft_itself_gives_these_digests(base_type: str, adapter_type: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    base, adapter = make(tmp_path, base_type, adapter_type)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, base_type))
    peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(tmp_path / "theirs")
    assert digest(tmp_path / "theirs" / "model.safetensors") == DIGESTS[base_type, adapter_type]
