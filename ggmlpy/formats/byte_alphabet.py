"""GPT-2's alphabet of bytes: one printable character for each, so that any bytes are a text without spaces.

Bytes that print in Latin-1 are themselves; the other 68 are U+0100 and on, in order: a space is Ġ, a newline Ċ.
Byte-pair vocabularies spell their tokens in it, in ``tokenizer.json`` and in GGUF.

>>> in_alphabet("é!\\n".encode()), from_alphabet("Ġthe")
('Ã©!Ċ', b' the')

Source: ``bytes_to_unicode`` of encoder.py, GPT-2.
"""

from __future__ import annotations

__all__ = ["ALPHABET", "from_alphabet", "in_alphabet"]

_AS_THEY_ARE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _AS_THEY_ARE]
ALPHABET = "".join(chr(byte if byte in _AS_THEY_ARE else 0x100 + _OTHERS.index(byte)) for byte in range(256))
_LETTERS = frozenset(ALPHABET)
_TO = str.maketrans({chr(byte): letter for byte, letter in enumerate(ALPHABET)})
_FROM = str.maketrans({letter: chr(byte) for byte, letter in enumerate(ALPHABET)})


def in_alphabet(data: bytes) -> str:
    """Bytes, spelled."""
    return data.decode("latin-1").translate(_TO)


def from_alphabet(text: str) -> bytes | None:
    """The bytes of a spelling; None where it has characters that stand for no byte."""
    return text.translate(_FROM).encode("latin-1") if _LETTERS.issuperset(text) else None
