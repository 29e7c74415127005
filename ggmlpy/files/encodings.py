"""In which encoding does a text file seem to be? Models read bytes, and expect UTF-8 without a mark in front.

Windows writes other things: PowerShell's ``>`` UTF-16, Notepad a byte order mark (BOM), Chinese programs GBK or
GB18030. The bytes are never changed here; whoever reads them says what was found.
"""

from __future__ import annotations

__all__ = ["encoding_doubt"]

# fmt: off
_MARKS = (  # first bytes -> encoding, and the name that iconv has for it
    (b"\xef\xbb\xbf",     "UTF-8 with a byte order mark (BOM)", ""),
    (b"\xff\xfe\x00\x00", "UTF-32",                             "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32",                             "UTF-32"),
    (b"\xff\xfe",         "UTF-16",                             "UTF-16"),
    (b"\xfe\xff",         "UTF-16",                             "UTF-16"),
)
# fmt: on
_SAMPLE = 1 << 16


def encoding_doubt(data: bytes) -> str:
    """Why a text is probably not plain UTF-8, and what to do; "" where it is.

    >>> encoding_doubt("介绍北京".encode()), encoding_doubt(b"")
    ('', '')
    >>> encoding_doubt("介绍北京".encode("gb18030")).partition(":")[0]
    'the text is not UTF-8 but seems to be GBK or GB18030'
    """
    for mark, encoding, name in _MARKS:
        if data.startswith(mark):
            if not name:
                return f"the text is {encoding}: three bytes that the model reads as text; save it without the mark"
            return _advice(f"the text is {encoding}, not UTF-8", name)
    name = _unmarked_utf16(data)
    if name:
        return _advice("the text is not UTF-8 but seems to be UTF-16", name)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _not_utf8(data, error)
    return ""


def _unmarked_utf16(data: bytes) -> str:
    """UTF-16 without a mark has a zero in every other byte of its ASCII; plain text has none."""
    sample = data[:_SAMPLE]
    for name, zeros, others in (("UTF-16LE", sample[1::2], sample[::2]), ("UTF-16BE", sample[::2], sample[1::2])):
        if len(sample) > 3 and zeros.count(0) > len(zeros) // 4 and others.count(0) * 8 < zeros.count(0):
            return name
    return ""


def _not_utf8(data: bytes, error: UnicodeDecodeError) -> str:
    if error.reason == "unexpected end of data" and error.start + 4 > len(data):
        return f"the text ends within a character of UTF-8 (byte {error.start}): it seems to be cut off"
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return f"the text is not UTF-8 (from byte {error.start} on): save it as UTF-8"
    return _advice("the text is not UTF-8 but seems to be GBK or GB18030", "GB18030")


def _advice(what: str, name: str) -> str:
    return f"{what}: the model sees other characters than you; iconv -f {name} -t UTF-8 FILE > NEW makes UTF-8 of it"
