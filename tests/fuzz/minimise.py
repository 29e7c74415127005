"""Make an input that breaks a rule as small as it goes."""

from __future__ import annotations

from tests.fuzz.worker import Bench, Input

__all__ = ["minimise"]


def minimise(bench: Bench, given: Input, where: str, tries: int = 3000) -> Input:
    """Cut pieces out, then zero bytes, as long as the same rule breaks at the same place."""

    def breaks(data: bytes) -> bool:
        nonlocal tries
        tries -= 1
        return tries >= 0 and bench.judge(Input(given.scene, given.file, data)).where == where

    data = given.data
    size = len(data) // 2
    while size:
        at = 0
        while at < len(data):
            shorter = data[:at] + data[at + size :]
            if breaks(shorter):
                data = shorter
            else:
                at += size
        size //= 2
    return Input(given.scene, given.file, data)
