"""``.data/serialization_id``: the digits by which torch 2.1 and later tell one file from another.

They are two hashes, and follow from the records' names and CRCs and from how libstdc++ orders a ``std::unordered_set``.

Source: caffe2/serialize/inline_container.cc; functional_hash and hashtable of libstdc++.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = ["serialization_id"]


def serialization_id(names: Sequence[str], crcs: Sequence[int]) -> bytes:
    """Two hashes of 20 digits each.

    Args:
        names: of the records written so far, without the prefix.
        crcs: of those of them that are not empty.
    """
    of_names = of_contents = 0
    for name in _unordered_set(names):
        of_names = _combine(of_names, _string_hash(name))
    for crc in crcs:
        of_contents = _combine(of_contents, crc)
    return b"%020d%020d" % (of_names, of_contents)


_MASK = (1 << 64) - 1


def _combine(seed: int, value: int) -> int:
    """c10::hash_combine."""
    return seed ^ ((value + 0x9E3779B9 + (seed << 6) + (seed >> 2)) & _MASK)


def _string_hash(text: str) -> int:
    """std::hash of libstdc++: 64-bit MurmurHash2 with the seed 0xc70f6907.

    >>> hex(_string_hash("version"))
    '0x15ba742bb08e0596'
    """
    data = text.encode()
    multiplier = 0xC6A4A7935BD1E995
    result = 0xC70F6907 ^ (len(data) * multiplier & _MASK)
    whole = len(data) & ~7
    for (word,) in struct.iter_unpack("<Q", data[:whole]):
        word = word * multiplier & _MASK
        result = (result ^ ((word ^ (word >> 47)) * multiplier & _MASK)) * multiplier & _MASK
    if len(data) > whole:
        result = (result ^ int.from_bytes(data[whole:], "little")) * multiplier & _MASK
    result = (result ^ (result >> 47)) * multiplier & _MASK
    return result ^ (result >> 47)


# Numbers of buckets that libstdc++ goes through as a set doubles (from the primes of its hashtable_c++0x.cc).
_BUCKETS = (13, 29, 59, 127, 257, 541, 1109, 2357, 5087, 10273, 20753, 42043, 85229, 172933)


def _unordered_set(names: Sequence[str]) -> list[str]:
    """``names`` in the order in which a std::unordered_set of libstdc++ hands them out.

    The set is one linked list: a new bucket goes to its front, a new member to the front of its bucket. When the
    members outnumber the buckets, the list is rebuilt over more buckets, in its order so far.
    """
    hashes = {name: _string_hash(name) for name in names}
    order: list[str] = []
    for fewer, buckets in zip((0, *_BUCKETS), _BUCKETS):
        groups: dict[int, list[str]] = {}
        for name in [*order, *names[fewer:buckets]]:
            groups.setdefault(hashes[name] % buckets, []).append(name)
        order = [name for group in reversed(groups.values()) for name in reversed(group)]
        if len(names) <= buckets:
            break
    return order
