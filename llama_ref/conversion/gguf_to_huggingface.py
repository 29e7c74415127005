"""The small files of a Hugging Face directory from the keys of a GGUF file: the way back of huggingface_to_gguf.

=========================  ==========================================================================================
file                       from
=========================  ==========================================================================================
``config.json``            the model's numbers, LLaMA 3.1's scaling from ``rope_freqs.weight``, the ids of tokens
``generation_config.json`` ``general.sampling.*``
``tokenizer.model``        SentencePiece: the tokens with their scores and types
``added_tokens.json``      SentencePiece: the tokens that were added to it
``tokenizer.json``         byte-level BPE: tokens, merges, the expressions of ``tokenizer.ggml.pre``, what is added
``tokenizer_config.json``  names of special tokens, what is added to a text, chat templates
``README.md``              ``general.*``; an empty field says that a name says nothing of it
=========================  ==========================================================================================

What the converter to GGUF makes of such a directory is the file that it came from, where that was lossless.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ggmlpy.formats.gguf_model import gguf_tokens
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.model_params import ModelParams
from llama_ref.vocabulary.json_document import BYTES, byte_level_document, template
from llama_ref.vocabulary.pre_tokenizers import pre_tokenizer
from llama_ref.vocabulary.rebuilding import tokenizer_of_pieces
from llama_ref.vocabulary.sentencepiece_model import CONTROL, NORMAL, UNUSED, USER_DEFINED

from .huggingface_to_gguf.metadata import SAMPLING
from .huggingface_to_gguf.model_card import card_from_metadata, is_on_card
from .huggingface_to_gguf.special_tokens import KEYS, KINDS

__all__ = ["as_written", "is_of_today", "model_files"]

_NFC = ("qwen2", "qwen35")  # whose tokenizers compose characters first, which no key says


def is_of_today(metadata: Mapping[str, Value]) -> bool:
    """Whether a GGUF file was made from a directory as it is rather than from the numbers of a GGML file."""
    return bool(metadata) and "ggmlpy.n_mult" not in metadata


def without_files_beside(params: ModelParams) -> ModelParams:
    """The numbers without the keys that go into generation_config.json, the tokenizer's files and the card; and without
    how blocks are laid out, which no directory has."""
    beside = {*(f"general.sampling.{key}" for key, _, _ in SAMPLING), *_OF_THE_TOKENIZER}
    other = {
        key: value
        for key, value in params.other.items()
        if not (key in beside or is_on_card(key) or key.startswith("tokenizer.chat_template"))
    }
    return replace(params, other=other)


_OF_THE_TOKENIZER = {  # and what says how blocks are laid out
    "general.quantization_version",
    *("tokenizer.ggml.merges", "tokenizer.ggml.add_space_prefix"),
    *(f"tokenizer.ggml.add_{kind}_token" for kind in ("bos", "eos", "sep")),
}


def as_written(params: ModelParams) -> ModelParams:
    """Numbers of 32 bits as a person wrote them: 1e-05 rather than 9.999999747378752e-06.

    >>> as_written(ModelParams(n_embd=64, n_layer=1, n_head=4, norm_eps=9.999999747378752e-06)).norm_eps
    1e-05
    """
    scaling = params.rope_scaling
    if scaling:
        fields = {name: _shortest(getattr(scaling, name)) for name in scaling.__dataclass_fields__ if name != "other"}
        scaling = replace(scaling, **fields)
    changes = {name: _shortest(getattr(params, name)) for name in ("norm_eps", "rope_theta")}
    return replace(params, rope_scaling=scaling, **changes)


def _shortest(value: Any) -> Any:
    return float(str(np.float32(value))) if isinstance(value, float) else value


def model_files(metadata: Mapping[str, Value], config: dict[str, Any]) -> tuple[dict[str, str], dict[str, bytes]]:
    """The texts and the other files by name.

    Args:
        metadata: of the GGUF file.
        config: what config.json says of the numbers; the ids of tokens are set here.
    """
    ids = {kind: v.value for kind in KINDS if (v := metadata.get(f"tokenizer.ggml.{KEYS.get(kind)}_token_id"))}
    for kind in KINDS:
        config.pop(f"{kind}_token_id", None)
    config |= {f"{kind}_token_id": id for kind, id in ids.items()}
    if width := metadata.get(f"{_text(metadata, 'general.architecture')}.attention.key_length"):
        config["head_dim"] = width.value
    if "llama.vocab_size" in metadata:
        config["vocab_size"] = metadata["llama.vocab_size"].value
    texts = {"config.json": config, "generation_config.json": _generation(metadata, config)}
    spoken = _Tokenizer.of(metadata, ids)
    made = {}
    if _text(metadata, "tokenizer.ggml.model") == "gpt2":
        texts["tokenizer.json"] = spoken.bpe()
    else:
        made["tokenizer.model"] = tokenizer_of_pieces(spoken.tokens, spoken.scores, spoken.types)
        if added := spoken.added():
            texts["added_tokens.json"] = added
    texts["tokenizer_config.json"] = spoken.config()
    written = {name: json.dumps(record, indent=2, ensure_ascii=False) + "\n" for name, record in texts.items()}
    return written | {"README.md": card_from_metadata(metadata)}, made


def _generation(metadata: Mapping[str, Value], config: Mapping[str, Any]) -> dict[str, Any]:
    ids = {key: value for key, value in config.items() if key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    said = {names[-1]: metadata.get(f"general.sampling.{key}") for key, _, names in SAMPLING}
    sampling = {name: value.text() if value.type == "string" else value.value for name, value in said.items() if value}
    return {"_from_model_config": True, **ids, **{name: _shortest(value) for name, value in sampling.items()}}


def _text(metadata: Mapping[str, Value], key: str) -> str:
    value = metadata.get(key)
    return value.text() if value and value.type == "string" else ""


@dataclass(frozen=True)
class _Tokenizer:
    """A vocabulary of GGUF, about to be written as transformers has it.

    Attributes:
        ids: kind of a special token -> its id, in the order of the file.
    """

    metadata: Mapping[str, Value]
    tokens: list[bytes]
    scores: Any
    types: Any
    ids: Mapping[str, int]

    @classmethod
    def of(cls, metadata: Mapping[str, Value], ids: Mapping[str, int]) -> _Tokenizer:
        in_order = [key.split(".")[-1].removesuffix("_token_id") for key in metadata if key.endswith("_token_id")]
        kinds = {name: kind for kind, name in KEYS.items()}
        ordered = {kinds[name]: ids[kinds[name]] for name in in_order if kinds.get(name) in ids}
        return cls(metadata, *gguf_tokens(metadata), ordered)

    def text(self, index: int) -> str:
        return self.tokens[index].decode("utf-8", "replace")

    def adds(self, kind: str) -> bool | None:
        """Whether a token is added to every text; None where the file does not say."""
        value = self.metadata.get(f"tokenizer.ggml.add_{kind}_token")
        return None if value is None else bool(value.value)

    def added(self) -> dict[str, int]:
        """The tokens that stand beside a SentencePiece model."""
        return {self.text(i): i for i in np.flatnonzero(np.asarray(self.types) == USER_DEFINED).tolist()}

    def config(self) -> dict[str, Any]:
        """tokenizer_config.json."""
        is_bpe = _text(self.metadata, "tokenizer.ggml.model") == "gpt2"
        named = self._named_first() if is_bpe else list(self.ids)
        config: dict[str, Any] = {f"{kind}_token": self.text(self.ids[kind]) for kind in named if self._fits(kind)}
        config["tokenizer_class"] = "PreTrainedTokenizerFast" if is_bpe else "LlamaTokenizer"
        config["clean_up_tokenization_spaces"] = False
        if not is_bpe or self._frame() is None:
            config |= {
                f"add_{kind}_token": self.adds(kind) for kind in ("bos", "eos", "sep") if self.adds(kind) is not None
            }
        prefix = self.metadata.get("tokenizer.ggml.add_space_prefix")
        if prefix is not None:
            config["add_prefix_space"] = bool(prefix.value)
        templates = self._templates()
        return config | ({"chat_template": templates} if templates else {})

    def _fits(self, kind: str) -> bool:
        return 0 <= self.ids[kind] < len(self.tokens)

    def _named_first(self) -> list[str]:
        """The kinds whose ids come from the tokenizer: the file has them first, in order; others come from config.json.

        What it has before the first that is out of order; all, where none is.
        """
        ranks = [KINDS.index(kind) for kind in self.ids]
        fall = next((i for i in range(1, len(ranks)) if ranks[i] < ranks[i - 1]), len(ranks))
        return list(self.ids)[:fall]

    def _templates(self) -> Any:
        """One chat template, or a list of named ones."""
        key = "tokenizer.chat_template"
        names = self.metadata.get("tokenizer.chat_templates")
        listed = [bytes(name).decode("utf-8", "replace") for name in names.value] if names else []
        named = [{"name": name, "template": _text(self.metadata, f"{key}.{name}")} for name in listed]
        usual = _text(self.metadata, key)
        if not named:
            return usual
        return [*named, *([{"name": "default", "template": usual}] if usual else [])]

    def bpe(self) -> dict[str, Any]:
        """tokenizer.json."""
        types = np.asarray(self.types)
        rules = pre_tokenizer(_text(self.metadata, "tokenizer.ggml.pre") or "default")
        merges = self.metadata.get("tokenizer.ggml.merges")
        beside = np.flatnonzero((types != NORMAL) & (types != UNUSED)).tolist()
        return byte_level_document(
            {self.text(i): i for i in np.flatnonzero(types == NORMAL).tolist()},
            [bytes(merge).decode("utf-8", "replace") for merge in merges.value] if merges else [],
            [(i, self.text(i), bool(types[i] == CONTROL)) for i in beside],
            rules.sources,
            self._frame(),
            ignore_merges=rules.ignore_merges,
            normalizer={"type": "NFC"} if rules.name in _NFC else None,
        )

    def _frame(self) -> dict[str, Any] | None:
        """The post-processor, which says what is put around a text."""
        begins, ends, between = (self.adds(kind) for kind in ("bos", "eos", "sep"))
        if begins is False and ends is False and between is None:
            return dict(BYTES)
        first = [self._spelled("bos")] if begins and "bos" in self.ids else []
        last = [self._spelled("eos")] if ends and "eos" in self.ids else []
        if not (first or last):
            return None
        around = template(first, last, [] if between is None else last or first)
        return {"type": "Sequence", "processors": [BYTES, around]} if ends is False else around

    def _spelled(self, kind: str) -> tuple[int, str]:
        return self.ids[kind], self.text(self.ids[kind])
