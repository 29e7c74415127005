"""A LLaMA model as GGUF keeps it, seen as any other model file, and the way back.

GGUF spells things anew but computes the same: tensors have other names (``blk.0.attn_q.weight``), the vocabulary keeps
SentencePiece's own spelling (▁ for a space, ``<0x0A>`` for a byte) beside the type of each token, and the rows of wq
and wk are in Meta's order, so nothing is permuted on the way from or to the older containers.

What GGUF has no key for, and what is needed to get the old bytes back, stands under keys of our own that other
programs skip: ``ggmlpy.n_mult``, and ``ggmlpy.vocabulary`` where the pieces can't be told from GGUF's spelling.

Source: convert-llama-ggmlv3-to-gguf.py at llama.cpp dadbed99e, llama-vocab.cpp and llama-model.cpp at c392e5094.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.errors import ShapeError, UnsupportedError, UsageError, VocabularyError

from .byte_alphabet import from_alphabet
from .carrying import is_usual
from .containers import GGUF
from .fields import Cursor
from .file_types import FTYPES
from .gguf import ALIGNMENT, GgufFile, GgufTensor, open_splits
from .gguf_kinds import other_kind, text_of_key
from .gguf_values import Value
from .model_file import ListedVocabulary, ModelFile, Part, Piece, Tensor
from .model_params import LLAMA_EPS, ModelParams, RopeScaling, find_n_mult
from .tensor_names import meta_name
from .tensor_types import TensorType

__all__ = [
    "ARCHITECTURES",
    "EXPERTS",
    "architecture_of",
    "described",
    "from_gguf_token",
    "gguf_metadata",
    "gguf_tokens",
    "kept_metadata",
    "open_gguf_model",
    "to_gguf_token",
]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
TOKENIZERS = ("llama", "gpt2")  # SentencePiece, byte pairs
UNKNOWN_TEXT = " ⁇ ".encode()
SPACE, UNDERLINE = b" ", "▁".encode()
CONTROL_NAMES = (b"<unk>", b"<s>", b"</s>")
BYTES_BEGIN, BYTES_END = 3, 259
QUANTIZATION_VERSION = 2
SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
N = TypeVar("N", int, float)

EXPERTS = "_exps."  # in the name of a tensor of all experts
LARGEST_F32 = float(np.finfo(np.float32).max)


def open_gguf_model(path: Path, *, any_architecture: bool = False) -> ModelFile:
    """Open a GGUF file of one of :data:`ARCHITECTURES` with all its splits.

    Args:
        any_architecture: also one of another architecture, as it stands.

    Raises:
        UnsupportedError: it is of another architecture.
        FormatError: metadata that a LLaMA model needs is missing or contradicts itself.
    """
    files = open_splits(path)
    as_stored = any_architecture and not _is_read(files)
    hparams, vocab = _as_stored(files[0]) if as_stored else _described(files)
    spelled: Callable[[str], str] = str if as_stored else meta_name
    tensors: dict[str, Tensor] = {}
    parts = []
    for index, file in enumerate(files):
        own = _by_name(file, index, tensors, spelled)
        tensors |= {name: Tensor(name, kind, piece.shape, (piece,)) for name, (kind, piece) in own.items()}
        structure = (file.path, file.cursor, GGUF, file.version, hparams, vocab, own, 0, file.data_offset, file.end)
        parts.append(Part(*structure))
    if not as_stored and "output.weight" not in tensors and "tok_embeddings.weight" in tensors:
        tied = tensors["tok_embeddings.weight"]  # the output layer is the embedding
        tensors["output.weight"] = Tensor("output.weight", tied.type, tied.shape, tied.pieces)
    model = ModelFile(parts, tensors, [])
    model.metadata, model.as_stored = files[0].metadata, as_stored
    return model


def _by_name(
    file: GgufFile, index: int, before: Collection[str], spelled: Callable[[str], str]
) -> dict[str, tuple[TensorType, Piece]]:
    """The tensors of one file; a GGUF file may spell a name as Meta does, but not have both spellings."""
    own: dict[str, tuple[TensorType, Piece]] = {}
    for key, tensor in file.tensors.items():
        name = spelled(key)
        if name in own or name in before:
            raise ShapeError(
                f"two tensors are {name}: one of them is spelt {key!r}", path=file.path, offset=tensor.header,
                field="name", cause="a converter of its own, or a file made to be read differently",
            )  # fmt: skip
        own[name] = tensor.type, _piece(file, index, tensor)
    return own


def _is_read(files: Sequence[GgufFile]) -> bool:
    """Whether files are a model of one of :data:`ARCHITECTURES`, and neither an adapter for one nor a mixture of
    experts, which has its tensors in three dimensions."""
    first = files[0]
    is_model = architecture_of(first.metadata) in ARCHITECTURES and other_kind(first.metadata, first.path) is None
    return is_model and not any(EXPERTS in name for file in files for name in file.tensors)


def architecture_of(metadata: Mapping[str, Value]) -> str:
    """What a GGUF file says that it is; "none" if it says nothing."""
    return text_of_key(metadata, "general.architecture")


def _as_stored(file: GgufFile) -> tuple[ModelParams, ListedVocabulary]:
    """Nothing but the file type and the keys of a file that this library does not understand."""
    ftype, architecture = file.integer("general.file_type", 1), architecture_of(file.metadata)
    nothing = ModelParams(n_vocab=0, n_embd=0, n_layer=0, n_head=0, n_mult=0)
    other = {key: value for key, value in file.metadata.items() if key not in _UNDERSTOOD_OF_ANY}
    params = replace(nothing, ftype=ftype, architecture=architecture, other=other)
    return params, ListedVocabulary([], np.zeros(0, np.float32))


def _described(files: Sequence[GgufFile]) -> tuple[ModelParams, ListedVocabulary]:
    names = {name for file in files for name in file.tensors}
    return _params(files[0], _architecture(files[0]), names), _vocabulary(files[0])


def described(
    metadata: Mapping[str, Value], names: Iterable[str], path: Path = Path()
) -> tuple[ModelParams, ListedVocabulary]:
    """The numbers and the vocabulary of a model whose GGUF file has these keys, and tensors of these names.

    Raises as :func:`open_gguf_model`.
    """
    nothing = Cursor(memoryview(b""), str(path))
    file = GgufFile(path, nothing, 3, "<", ALIGNMENT, metadata, {}, 0, 0)
    return _params(file, _architecture(file), {*names}), _vocabulary(file)


def _architecture(file: GgufFile) -> str:
    """The model's family, which is the namespace of its keys too."""
    other = other_kind(file.metadata, file.path)
    if other:
        raise UnsupportedError(
            f"a GGUF file that holds no model: {other[0]}",
            path=file.path,
            field="general.type",
            expected="model",
            found=text_of_key(file.metadata, "general.type"),
            next_step=other[1],
        )
    name = architecture_of(file.metadata)
    if name not in ARCHITECTURES:
        raise UnsupportedError(
            f"architecture {name!r} is not supported",
            path=file.path,
            field="general.architecture",
            expected=", ".join(ARCHITECTURES),
            found=name,
            next_step="use a program for that architecture; this one reads LLaMA models",
        )
    return name


def _params(file: GgufFile, own: str, names: Set[str]) -> ModelParams:
    """What the metadata and the tensors' names say of the model; what nothing here reads is kept under its key."""
    n_embd, n_head = file.integer(f"{own}.embedding_length"), file.integer(f"{own}.attention.head_count")
    n_ff = file.integer(f"{own}.feed_forward_length")
    eos = _said(file, "tokenizer.ggml.eos_token_id", int)
    head_dim = _said(file, f"{own}.attention.key_length", int) or (n_embd // n_head if n_head > 0 else 0)
    understood = {*_UNDERSTOOD, *(f"{own}.{key}" for key in _OF_ARCHITECTURE)}
    return ModelParams(
        n_vocab=len(_array(file.metadata, "tokenizer.ggml.tokens", "string", file.path)),
        n_embd=n_embd,
        n_layer=file.integer(f"{own}.block_count"),
        n_head=n_head,
        n_head_kv=file.integer(f"{own}.attention.head_count_kv", n_head),
        head_dim=head_dim,
        n_ff=n_ff,
        n_mult=file.integer("ggmlpy.n_mult", 0) or find_n_mult(n_embd, n_ff, (256, 32, n_ff)) or 1,
        n_rot=file.integer(f"{own}.rope.dimension_count", head_dim),
        norm_eps=float(file.number(f"{own}.attention.layer_norm_rms_epsilon", LLAMA_EPS)),
        rope_theta=float(file.number(f"{own}.rope.freq_base", 10000.0)),
        rope_scaling=_rope_scaling(file, own),
        n_ctx_train=file.integer(f"{own}.context_length", 2048),
        sliding_window=_said(file, f"{own}.attention.sliding_window", int),
        attention_bias="blk.0.attn_q.bias" in names,
        mlp_bias="blk.0.ffn_gate.bias" in names,
        tied_embeddings=bool(names) and "output.weight" not in names,
        bos_id=_said(file, "tokenizer.ggml.bos_token_id", int),
        eos_ids=() if eos is None else (eos,),
        unk_id=_said(file, "tokenizer.ggml.unknown_token_id", int),
        pad_id=_said(file, "tokenizer.ggml.padding_token_id", int),
        ftype=file.integer("general.file_type", 1),
        architecture=own,
        other={key: value for key, value in file.metadata.items() if key not in understood},
    )


#: the families whose models are read: LLaMA (Mistral's files name it too), and two that differ from it in biases, in
#: the norms of heads, and in which dimensions rotary embedding pairs
ARCHITECTURES = ("llama", "qwen2", "qwen3")

# fmt: off
_ROPE_SCALING = {
    "factor":               ("rope.scaling.factor",                  float),
    "magnitude":            ("rope.scaling.attn_factor",             float),
    "original_context":     ("rope.scaling.original_context_length", int),
    "extrapolation_factor": ("rope.scaling.yarn_ext_factor",         float),
    "attention_factor":     ("rope.scaling.yarn_attn_factor",        float),
    "beta_fast":            ("rope.scaling.yarn_beta_fast",          float),
    "beta_slow":            ("rope.scaling.yarn_beta_slow",          float),
}
# fmt: on
_ROPE_SCALING_TYPE, _SCALE_LINEAR = "rope.scaling.type", "rope.scale_linear"  # the older name of factor
_OF_ARCHITECTURE = {  # in the namespace of the model's family
    *(key for key, _ in _ROPE_SCALING.values()),
    *("embedding_length", "block_count", "feed_forward_length", "context_length"),
    *(f"attention.{key}" for key in ("head_count", "head_count_kv", "key_length", "sliding_window")),
    *("attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base"),
    *(_ROPE_SCALING_TYPE, _SCALE_LINEAR),
}
_UNDERSTOOD_OF_ANY = {"general.architecture", "general.file_type"}
_UNDERSTOOD = {
    *_UNDERSTOOD_OF_ANY,
    *(f"tokenizer.ggml.{key}" for key in ("model", "tokens", "scores", "token_type")),
    *(f"tokenizer.ggml.{key}_token_id" for key in ("bos", "eos", "unknown", "padding")),
    *("ggmlpy.n_mult", "ggmlpy.vocabulary"),
}


def _rope_scaling(file: GgufFile, own: str) -> RopeScaling | None:
    """How the rotary frequencies are stretched; a factor without a type is linear, as in llama.cpp."""
    said: dict[str, Any] = {name: _said(file, f"{own}.{key}", kind) for name, (key, kind) in _ROPE_SCALING.items()}
    if said["factor"] is None:
        said["factor"] = _said(file, f"{own}.{_SCALE_LINEAR}", float)
    if f"{own}.{_ROPE_SCALING_TYPE}" in file.metadata:
        return RopeScaling(type=file.text(f"{own}.{_ROPE_SCALING_TYPE}"), **said)
    return RopeScaling(type="linear", **said) if any(value is not None for value in said.values()) else None


def _said(file: GgufFile, key: str, kind: type[N]) -> N | None:
    """A number, None where it is missing.

    Raises:
        FormatError: it is not a number, or not a whole one where it should be.
    """
    if key not in file.metadata:
        return None
    return kind(file.integer(key) if kind is int else file.number(key))


def _piece(file: GgufFile, index: int, tensor: GgufTensor) -> Piece:
    shape = tensor.shape
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return Piece(index, tensor.header, tensor.offset, shape, file.little_endian(tensor))


def _array(metadata: Mapping[str, Value], key: str, item: str, path: Path | None = None) -> Any:
    value = metadata.get(key)
    if value is None or value.type != "array" or value.item != item:
        raise VocabularyError(
            f"the metadata has no array {key!r} of {item}",
            path=path,
            field=key,
            found=f"{value.type} {value.item}".strip() if value else "nothing",
            cause="a file without vocabulary, or written by a faulty converter",
        )
    return value.value


def _vocabulary(file: GgufFile) -> ListedVocabulary:
    """The pieces as the older containers keep them: raw bytes, spaces as spaces."""
    model = file.text("tokenizer.ggml.model", b"llama")
    if model not in TOKENIZERS:
        raise UnsupportedError(
            f"tokenizer {model!r} is not supported",
            path=file.path,
            field="tokenizer.ggml.model",
            expected="llama (SentencePiece) or gpt2 (byte pairs)",
            found=model,
        )
    try:
        tokens, scores, kinds = gguf_tokens(file.metadata)
    except VocabularyError as error:
        error.name_file(file.path)
        raise
    kept = file.metadata.get("ggmlpy.vocabulary")
    if kept is not None and kept.item == "string" and len(kept.value) == len(tokens):
        return ListedVocabulary(kept.value, scores, kinds, tokens)
    in_bytes = model == "gpt2"
    pairs = zip(tokens, kinds.tolist(), strict=True)
    return ListedVocabulary(
        [from_gguf_token(token, kind, in_bytes=in_bytes) for token, kind in pairs], scores, kinds, tokens
    )


def gguf_tokens(metadata: Mapping[str, Value]) -> tuple[list[bytes], NDArray[np.float32], NDArray[np.int32]]:
    """The spelling of each token, its score (0 where none is stated) and its type (normal).

    Raises:
        VocabularyError: there is none, or the three do not belong together.
    """
    tokens = _array(metadata, "tokenizer.ggml.tokens", "string")
    scores = _parallel(metadata, "tokenizer.ggml.scores", "f32", len(tokens), 0.0)
    kinds = _parallel(metadata, "tokenizer.ggml.token_type", "i32", len(tokens), NORMAL)
    return tokens, np.asarray(scores, np.float32), np.asarray(kinds, np.int32)


def _parallel(metadata: Mapping[str, Value], key: str, item: str, count: int, default: float) -> Any:
    if key not in metadata:
        return [default] * count
    values = _array(metadata, key, item)
    if len(values) != count:
        raise VocabularyError(
            f"{key!r} does not belong to the vocabulary",
            field=key,
            expected=f"{count} items",
            found=len(values),
            cause="a faulty converter",
        )
    return values


def from_gguf_token(token: bytes, kind: int, *, in_bytes: bool = False) -> bytes:
    """The raw bytes of a token as the older containers keep them.

    Args:
        in_bytes: normal tokens are spelled in the alphabet of bytes.

    >>> from_gguf_token("▁the".encode(), NORMAL), from_gguf_token(b"<0x0A>", BYTE), from_gguf_token(b"<s>", CONTROL)
    (b' the', b'\\n', b'')
    """
    if kind == BYTE and len(token) == 6:
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            return token
    if in_bytes:
        spelled = from_alphabet(token.decode("utf-8", "surrogateescape")) if kind == NORMAL else None
        return token if spelled is None else spelled
    if kind == UNKNOWN:
        return UNKNOWN_TEXT
    if kind == CONTROL and token in CONTROL_NAMES:
        return b""
    return token.replace(UNDERLINE, SPACE)


def to_gguf_token(index: int, piece: bytes) -> tuple[bytes, int]:
    """GGUF's spelling of a piece, and its type.

    >>> to_gguf_token(13, b"\\n"), to_gguf_token(49953, b"[PAD]")
    ((b'<0x0A>', 6), (b'[PAD]', 3))
    """
    if index == 0 and piece == UNKNOWN_TEXT:
        return CONTROL_NAMES[0], UNKNOWN
    if index in (1, 2) and piece == b"":
        return CONTROL_NAMES[index], CONTROL
    if BYTES_BEGIN <= index < BYTES_END and len(piece) == 1:
        return b"<0x%02X>" % piece[0], BYTE
    if piece == b"[PAD]":
        return piece, CONTROL
    return piece.replace(SPACE, UNDERLINE), NORMAL


def gguf_metadata(params: ModelParams, vocab: Sequence[tuple[bytes, float]], name: str = "LLaMA") -> dict[str, Value]:
    """The metadata that a LLaMA model needs, in the order in which they are written.

    Args:
        vocab: piece and score of each token, as the older containers keep them.

    Raises:
        UsageError: a number does not fit into GGUF's types.
    """
    ftype = params.ftype
    pieces = [piece for piece, _ in vocab]
    scores = np.array([score for _, score in vocab], np.float32)
    tokens = [to_gguf_token(index, piece) for index, piece in enumerate(pieces)]
    eps = params.norm_eps or (params.size.norm_eps if params.size else LLAMA_EPS)
    quantized = FTYPES[ftype].type not in ("f32", "f16") if ftype in FTYPES else True
    kinds = np.array([kind for _, kind in tokens], np.int32)
    # fmt: off
    metadata = {
        "general.architecture":                    Value("string", b"llama"),
        "general.name":                            Value("string", name.encode()),
        "llama.context_length":                    Value("u32", params.context_length),
        "llama.embedding_length":                  Value("u32", params.n_embd),
        "llama.block_count":                       Value("u32", params.n_layer),
        "llama.feed_forward_length":               Value("u32", params.n_ff),
        "llama.rope.dimension_count":              Value("u32", params.n_rot),
        "llama.rope.freq_base":                    Value("f32", params.rope_freq_base),
        **_written_scaling(params.rope_scaling),
        "llama.attention.head_count":              Value("u32", params.n_head),
        "llama.attention.head_count_kv":           Value("u32", params.n_head_kv),
        "llama.attention.layer_norm_rms_epsilon":  Value("f32", eps),
        **({} if is_usual(params, "head_dim") else _head_lengths(params.head_dim)),
        "general.file_type":                       Value("u32", ftype),
        "tokenizer.ggml.model":                    Value("string", b"llama"),
        "tokenizer.ggml.tokens":                   Value("array", [token for token, _ in tokens], "string"),
        "tokenizer.ggml.scores":                   Value("array", scores, "f32"),
        "tokenizer.ggml.token_type":               Value("array", kinds, "i32"),
        "tokenizer.ggml.unknown_token_id":         Value("u32", params.unk_id or 0),
        "tokenizer.ggml.bos_token_id":             Value("u32", 1 if params.bos_id is None else params.bos_id),
        "tokenizer.ggml.eos_token_id":             Value("u32", params.eos_ids[0] if params.eos_ids else 2),
        "ggmlpy.n_mult":                           Value("u32", params.n_mult),
    }
    # fmt: on
    if quantized:
        metadata["general.quantization_version"] = Value("u32", QUANTIZATION_VERSION)
    if b"[PAD]" in pieces[-1:]:
        metadata["tokenizer.ggml.padding_token_id"] = Value("u32", len(pieces) - 1)
    elif params.pad_id is not None and not is_usual(params, "pad_id"):
        metadata["tokenizer.ggml.padding_token_id"] = Value("u32", params.pad_id)
    if any(from_gguf_token(token, kind) != piece for (token, kind), piece in zip(tokens, pieces, strict=True)):
        metadata["ggmlpy.vocabulary"] = Value("array", pieces, "string")
    return _checked(metadata)


def types_lost(model: ModelFile) -> Iterator[str]:
    """Which types of tokens the older containers can't say: they only know those of LLaMA's own vocabulary."""
    kinds = model.metadata.get("tokenizer.ggml.token_type")
    if kinds is None:
        return
    pairs = zip(model.vocab, np.asarray(kinds.value).tolist(), strict=True)
    lost = [piece for index, (piece, kind) in enumerate(pairs) if to_gguf_token(index, piece)[1] != kind]
    if lost:
        first = lost[0].decode("utf-8", "replace")
        yield f"the types of {len(lost)} tokens, {first!r} first: they become ordinary text"


def kept_metadata(metadata: Mapping[str, Value], ftype: int | None = None) -> dict[str, Value]:
    """All keys of a GGUF file for one made from it, in their order and to the byte; a split file is joined.

    Args:
        ftype: the file type if it was quantized: that and the version of quantization then stand at the end.

    Source: llama_model_quantize_impl at llama.cpp c392e5094.
    """
    set_anew = {} if ftype is None else {
        "general.quantization_version": Value("u32", QUANTIZATION_VERSION),
        "general.file_type": Value("u32", ftype),
    }  # fmt: skip
    dropped = {*set_anew, *SPLIT_KEYS}
    return {**{key: value for key, value in metadata.items() if key not in dropped}, **set_anew}


def _written_scaling(scaling: RopeScaling | None) -> dict[str, Value]:
    """The keys of a rope scaling, those that it states, in the order of gguf-py."""
    if scaling is None or scaling.type not in ("linear", "yarn"):  # LLaMA 3.1's is a tensor
        return {}
    numbers = {
        f"llama.{key}": Value("f32" if kind is float else "u32", getattr(scaling, name))
        for name, (key, kind) in _ROPE_SCALING.items()
        if getattr(scaling, name) is not None
    }
    return {f"llama.{_ROPE_SCALING_TYPE}": Value("string", scaling.type.encode()), **numbers}


def _head_lengths(head_dim: int) -> dict[str, Value]:
    return {f"llama.attention.{what}_length": Value("u32", head_dim) for what in ("key", "value")}


def _checked(metadata: Mapping[str, Value]) -> dict[str, Value]:
    """Numbers of a corrupt header that GGUF's types can't hold are refused by name."""
    for key, value in metadata.items():
        if value.type == "u32" and not 0 <= value.value < 1 << 32:
            raise UsageError(f"{key} is {value.value}, which GGUF can't hold")
        if value.type == "f32" and not abs(value.value) <= LARGEST_F32:
            raise UsageError(f"{key} is {value.value}, which GGUF can't hold")
    return dict(metadata)
