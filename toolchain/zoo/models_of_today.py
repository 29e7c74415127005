"""A Hugging Face directory in the shape of LLaMA 3.1, of a few megabytes, made from a seed; what it says is noise.

It has what is new since 2023: grouped heads, bfloat16, scaled positions, byte-level BPE, a chat template. An adapter
for it is made as for any other model (:func:`.tiny_models.write_adapter`).
"""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path

from ggmlpy.formats.model_params import ModelParams, RopeScaling
from llama_ref.checkpoint import write_pth
from llama_ref.checkpoint.params import params_json
from llama_ref.conversion.checkpoints import plan_to_hf

from .tiny_models import CHINESE, WORDS, random_array, stored, tensor_shapes

__all__ = ["LLAMA_3", "N_TOKENS", "write_llama_3"]

N_SPECIAL = 256
RANKS = [bytes([i]) for i in range(256)]
RANKS += dict.fromkeys(
    part
    for word in WORDS
    for spelled in (word.encode(), b" " + word.encode())
    for part in (spelled[:n] for n in range(2, len(spelled) + 1))
)  # each is a token and a byte more
RANKS += dict.fromkeys(part for character in CHINESE for part in (character.encode()[:2], character.encode()))
N_TOKENS = len(RANKS) + N_SPECIAL
LLAMA_3 = ModelParams(
    n_embd=256, n_head=4, n_head_kv=2, n_layer=2, n_mult=256, n_vocab=N_TOKENS, rope_theta=500000.0, norm_eps=1e-5,
    rope_scaling=RopeScaling(type="llama3", factor=8.0),
)  # fmt: skip
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def write_llama_3(folder: Path, seed: int) -> None:
    """The directory, as the Hub has it."""
    with tempfile.TemporaryDirectory() as above:
        meta = Path(above)
        shapes = tensor_shapes(LLAMA_3, N_TOKENS)
        tensors = [stored(name, random_array(seed, name, size), "bfloat16") for name, size in shapes.items()]
        write_pth(meta / "consolidated.00.pth", tensors)
        (meta / "params.json").write_text(params_json(LLAMA_3))
        lines = (b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(RANKS))
        (meta / "tokenizer.model").write_bytes(b"".join(lines))
        with plan_to_hf(meta, folder) as plan:
            plan.write()
    _add(folder / "tokenizer_config.json", {"chat_template": TEMPLATE, "eos_token": "<|eot_id|>"})
    _add(folder / "generation_config.json", {"do_sample": True, "temperature": 0.6, "top_p": 0.9})


def _add(path: Path, more: dict[str, object]) -> None:
    record = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(record | more, indent=2, ensure_ascii=False) + "\n", "utf-8")
