"""What a JSON file that belongs to a model is: told by its keys, for people rename files.

=============================  =================================================
adapter_config.json            ``peft_type``, or ``r`` and ``lora_alpha``
\\*.index.json                  ``weight_map``
tokenizer.json                 ``model`` and ``added_tokens``
params.json                    ``dim`` and ``n_layers``
config.json                    ``model_type``, or ``architectures``
in-toto statement              ``_type``
receipt, saved chat            ``format``
generation_config.json         ``transformers_version``
tokenizer_config.json          ``tokenizer_class``
special_tokens_map.json        ``bos_token``, ``eos_token`` or ``pad_token``
added_tokens.json              every value is an id
=============================  =================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import BadMagicError, FormatError, UnsupportedError
from ggmlpy.files.json_files import LARGEST_TOKENIZER, read_json
from ggmlpy.files.kinds import begins_as_json, first_bytes
from ggmlpy.formats.model_sizes import describe_shape
from ggmlpy.look.identify import Identification
from llama_ref.checkpoint.params import params_of_huggingface, params_of_meta
from llama_ref.vocabulary.json_tokenizer import JsonTokenizer
from lora.merging.adapter_config import read_adapter_config

from .foreign import identification

__all__ = ["json_file"]

Record = Mapping[str, Any]
BESIDE = "`doctor {path.parent}`"
BASE = "`merge --base BASE_DIR --lora {path.parent} --output OUT_DIR`"


def json_file(path: Path) -> Identification:
    """What a file of JSON describes.

    Raises:
        BadMagicError: nothing that is known here.
        FormatError: it is not JSON, or has a key with two values.
    """
    if path.suffix == ".jsonl" or not begins_as_json(first_bytes(path)):
        raise _unknown(path, "lines" if path.suffix == ".jsonl" else "a list")
    record = read_json(path, most=LARGEST_TOKENIZER)
    for belongs, what, describe, readers, step in KINDS:
        if belongs(record):
            model, problems = _described(describe, path, record)
            return identification(
                path, what, model=model, problems=problems, readers=readers, next_step=step.format(path=path)
            )
    keys = ", ".join(map(str, list(record)[:5])) + (", …" if len(record) > 5 else "")
    raise _unknown(path, f"an object with the keys {keys}" if record else "an empty object")


def _unknown(path: Path, found: str) -> BadMagicError:
    return BadMagicError(
        "is JSON of no model, adapter or tokenizer, and no training data",
        path=path,
        found=found,
        cause="a file of another program",
        next_step=BESIDE.format(path=path),
    )


def _described(describe: Callable[[Path, Record], str], path: Path, record: Record) -> tuple[str, list[str]]:
    """What its reader makes of it; what no reader takes is a problem of a file whose kind is known."""
    try:
        return describe(path, record), []
    except (FormatError, UnsupportedError) as error:
        error.name_file(path)
        return "", [str(error).removeprefix(f"{path}: ")]


def _has(*keys: str) -> Callable[[Record], bool]:
    return lambda record: all(key in record for key in keys)


def _adapter(path: Path, record: Record) -> str:
    config = read_adapter_config(path)
    names = record.get("target_modules")
    targets = f" on {', '.join(map(str, names))}" if isinstance(names, list) else ""
    return f"rank {config.r}, alpha {config.alpha:g}{targets}"


def _index(path: Path, record: Record) -> str:
    names = record["weight_map"]
    if not isinstance(names, dict):
        raise FormatError("weight_map is not an object", path=path, field="weight_map")
    return f"{len(names):,} tensors in {len(set(map(str, names.values()))):,} files"


def _meta(path: Path, record: Record) -> str:
    params = params_of_meta(record, path)
    return describe_shape(params.n_embd, params.n_layer, params.n_head)


def _huggingface(path: Path, record: Record) -> str:
    params = params_of_huggingface(record, path)
    return f"{record.get('model_type')}, {describe_shape(params.n_embd, params.n_layer, params.n_head)}"


def _tokenizer(path: Path, record: Record) -> str:
    return f"{len(JsonTokenizer(path)):,} pieces"


def _settings(path: Path, record: Record) -> str:
    template = ", with a chat template" if "chat_template" in record else ""
    return f"{record['tokenizer_class']}{template}"


def _added(path: Path, record: Record) -> str:
    return ", ".join(f"{text} {number}" for text, number in list(record.items())[:4])


def _nothing(path: Path, record: Record) -> str:
    return ""


def _is_adapter(record: Record) -> bool:
    return "peft_type" in record or {"r", "lora_alpha"} <= record.keys()


def _is_added(record: Record) -> bool:
    return bool(record) and all(type(value) is int for value in record.values())


def _begins(key: str, words: str) -> Callable[[Record], bool]:
    return lambda record: isinstance(record.get(key), str) and record[key].startswith(words)


TRANSFORMERS = "transformers and `convert`"
KINDS: tuple[tuple[Callable[[Record], bool], str, Callable[[Path, Record], str], str, str], ...] = (
    (_is_adapter, "configuration of a LoRA adapter (adapter_config.json)", _adapter, "peft and `merge`", BASE),
    (_has("weight_map"), "index of a checkpoint in several files", _index, TRANSFORMERS, BESIDE),
    (_has("model", "added_tokens"), "tokenizer (tokenizer.json)", _tokenizer, "tokenizers and `tokenize`",
     '`tokenize -m {path} "text"`'),
    (_has("dim", "n_layers"), "description of a model in Meta's layout (params.json)", _meta, "`convert`", BESIDE),
    (lambda record: "model_type" in record or "architectures" in record,
     "description of a model in Hugging Face's layout (config.json)", _huggingface, TRANSFORMERS, BESIDE),
    (_begins("_type", "https://in-toto.io/"), "statement about a file (in-toto)", _nothing, "`verify`",
     "`verify FILE --statement {path}`"),
    (_begins("format", "ggmlpy receipt"), "receipt of a text", _nothing, "`verify`", "`verify MODEL --receipt {path}`"),
    (_begins("format", "ggmlpy chat"), "saved conversation", _nothing, "`chat`", "`chat -m MODEL`, then /load {path}"),
    (_has("transformers_version"), "defaults of sampling (generation_config.json)", _nothing, "transformers", BESIDE),
    (_has("tokenizer_class"), "settings of a tokenizer (tokenizer_config.json)", _settings, TRANSFORMERS, BESIDE),
    (lambda record: bool({"bos_token", "eos_token", "pad_token", "unk_token"} & record.keys()),
     "special tokens of a tokenizer (special_tokens_map.json)", _nothing, TRANSFORMERS, BESIDE),
    (_is_added, "added tokens of a tokenizer (added_tokens.json)", _added, TRANSFORMERS, BESIDE),
)  # fmt: skip
