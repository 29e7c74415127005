"""The bytes of a ``tokenizer.model`` with what they mean: protobuf, field by field."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from ggmlpy.formats.fields import Cursor
from ggmlpy.look.lines import Line, line_at, run_lines, said_text

from .sentencepiece_model import (
    BYTE,
    BYTES,
    CONTROL,
    FIXED32,
    NORMAL,
    PIECE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    VARINT,
    fields_of,
    parse_sentencepiece,
    tokenizer_bytes,
    varint_at,
)

__all__ = ["tokenizer_lines"]

Form = dict[int, str]  # the names of a message's fields
PIECE_FIELDS: Form = {1: "text", 2: "score", 3: "type"}
# fmt: off
MESSAGES: dict[int, tuple[str, Form]] = {  # of ModelProto, beside the pieces
    2: ("trainer", {
        1: "input", 2: "model_prefix", 3: "model_type", 4: "vocab_size", 5: "accept_language",
        6: "self_test_sample_size", 7: "input_format", 10: "character_coverage", 11: "input_sentence_size",
        12: "mining_sentence_size", 13: "training_sentence_size", 14: "seed_sentencepiece_size",
        15: "shrinking_factor", 16: "num_threads", 17: "num_sub_iterations", 18: "max_sentence_length",
        19: "shuffle_input_sentence", 20: "max_sentencepiece_length", 21: "split_by_unicode_script",
        22: "split_by_whitespace", 23: "split_by_number", 24: "treat_whitespace_as_suffix", 25: "split_digits",
        26: "allow_whitespace_only_pieces", 30: "control_symbols", 31: "user_defined_symbols",
        32: "vocabulary_output_piece_score", 33: "hard_vocab_limit", 34: "use_all_vocab", 35: "byte_fallback",
        36: "required_chars", 40: "unk_id", 41: "bos_id", 42: "eos_id", 43: "pad_id", 44: "unk_surface",
        45: "unk_piece", 46: "bos_piece", 47: "eos_piece", 48: "pad_piece",
    }),
    3: ("normalizer", {
        1: "name", 2: "precompiled_charsmap", 3: "add_dummy_prefix", 4: "remove_extra_whitespaces",
        5: "escape_whitespaces", 6: "normalization_rule_tsv",
    }),
}
KINDS = {
    NORMAL: "normal", UNKNOWN: "unknown", CONTROL: "control", USER_DEFINED: "user-defined", UNUSED: "unused",
    BYTE: "byte",
}
# fmt: on
DOCS = {
    "text": "the piece, in UTF-8; ▁ stands for a space",
    "score": "a higher one is merged first",
    "type": "absent: normal",
}


def tokenizer_lines(path: str | os.PathLike[str], fold: bool = True) -> Iterator[Line]:
    """A ``tokenizer.model``.

    Raises:
        FormatError: the file can't be read.
    """
    data = tokenizer_bytes(path)
    pieces = parse_sentencepiece(data, path).pieces
    cursor = Cursor(data, os.fspath(path))
    found = list(fields_of(data, 0, len(data), path))
    numbers = [index for index, (number, *_) in enumerate(found) if number == PIECE]
    ids = {index: piece for piece, index in enumerate(numbers)}

    def lines_of(index: int) -> Iterator[Line]:
        number, wire, start, value, end = found[index]
        if index in ids:
            name, form = f"piece[{ids[index]}]", PIECE_FIELDS
            doc = f"piece {ids[index]:,} of {len(pieces):,} begins: the tag of field 1, and its length"
        else:
            name, form = MESSAGES.get(number, (f"field_{number}", {}))
            doc = f"the tag of field {number}, and its length"
        if wire != BYTES:
            yield from _value_lines(cursor, (number, wire, start, value, end), name)
            return
        yield line_at(cursor, start, value - start, f"{name}.begin", f"{end - value:,} bytes follow", doc)
        if form:
            for field in fields_of(data, value, end, path):
                yield from _value_lines(cursor, field, f"{name}.{form.get(field[0], f'field_{field[0]}')}")
        elif end > value:
            yield line_at(cursor, value, end - value, name, said_text(data[value:end]), "")

    yield from run_lines(len(found), "pieces", fold, lines_of)


def _value_lines(cursor: Cursor, field: tuple[int, int, int, int, int], name: str) -> Iterator[Line]:
    """One field: its tag, with the length of a text, and its value."""
    number, wire, start, value, end = field
    words = f"field {number}" + (f", {end - value:,} bytes follow" if wire == BYTES else "")
    yield line_at(cursor, start, value - start, f"{name}.tag", words, "number and kind of the field that follows")
    if end > value:
        yield line_at(
            cursor, value, end - value, name, _said(cursor, field, name), DOCS.get(name.rpartition(".")[2], "")
        )


def _said(cursor: Cursor, field: tuple[int, int, int, int, int], name: str) -> str:
    _, wire, _, value, end = field
    data = bytes(cursor.buffer[value:end])
    if wire == FIXED32:
        return f"{struct.unpack('<f', data)[0]:g}"
    if wire == VARINT:
        found, _ = varint_at(data, 0, len(data), cursor.path)
        return f"{found} {KINDS.get(found, '')}".strip() if name.endswith("].type") else str(found)
    return said_text(data)
