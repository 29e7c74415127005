"""What the demo's corpus knows: the tables in ``knowledge/``, a fact a line, columns cut by ``|``, items by ``;``.

Everything there was written for this corpus. It is common knowledge, kept short; no text was copied from anywhere. The
first line of a table says what its columns are.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "ANIMALS",
    "ANTONYMS",
    "CAPITALS",
    "CITIES",
    "CONCEPTS",
    "DISHES",
    "FRAMES",
    "NOUNS",
    "OPINIONS",
    "POEMS",
    "SELF",
    "STORY_EN",
    "STORY_ZH",
    "TIPS",
]

FOLDER = Path(__file__).with_name("knowledge")


def _table(name: str) -> list[list[str]]:
    lines = (FOLDER / f"{name}.txt").read_text("utf-8").splitlines()
    return [line.split("|") for line in lines if not line.startswith("#")]


ANIMALS = _table("animals")
ANTONYMS = _table("antonyms")
CAPITALS = _table("capitals")
CITIES = _table("cities")
CONCEPTS = _table("concepts")
DISHES = _table("dishes")
FRAMES = _table("frames")
NOUNS = _table("nouns")
OPINIONS = _table("opinions")
POEMS = _table("poems")
SELF = _table("self")
STORY_EN = _table("story_en")
STORY_ZH = _table("story_zh")
TIPS = _table("tips")
