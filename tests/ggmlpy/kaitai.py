"""As much of Kaitai Struct as the generated specification uses: an independent reader of the files."""

from __future__ import annotations

import re
import struct
from typing import Any

import yaml

CODES = {"u1": "B", "s1": "b", "u2": "H", "s2": "h", "u4": "I", "s4": "i", "u8": "Q", "s8": "q", "f4": "f", "f8": "d"}


def parse(specification: str, data: bytes) -> dict[str, Any]:
    """The fields of a file, as nested dictionaries; ``left`` holds the bytes that nothing described."""
    spec = yaml.safe_load(specification)
    reader = _Reader(data, spec["types"])
    return {**reader.record(spec), "left": data[reader.at :]}


class _Reader:
    def __init__(self, data: bytes, types: dict[str, Any]) -> None:
        self.data, self.types, self.at = data, types, 0

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self.data) - self.at:
            raise EOFError(f"{size} bytes at {self.at} of {len(self.data)}")
        self.at += size
        return self.data[self.at - size : self.at]

    def record(self, of: dict[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for field in of["seq"]:
            known = {**values, **_Instances(of.get("instances", {}), values)}
            values[field["id"]] = self.repeated(field, known)
        return values

    def repeated(self, field: dict[str, Any], known: dict[str, Any]) -> Any:
        if field.get("repeat") == "expr":
            return [self.one(field, known) for _ in range(self.number(field["repeat-expr"], known))]
        if field.get("repeat") == "eos":
            found = []
            while self.at < len(self.data):
                found.append(self.one(field, known))
            return found
        return self.one(field, known)

    def one(self, field: dict[str, Any], known: dict[str, Any]) -> Any:
        if field.get("size-eos"):
            return self.take(len(self.data) - self.at)
        if "size" in field:
            return self.take(self.number(field["size"], known))
        kind = field["type"]
        if isinstance(kind, dict):
            kind = kind["cases"][known[kind["switch-on"]]]
        if kind in CODES:
            code = "<" + CODES[kind]
            return struct.unpack(code, self.take(struct.calcsize(code)))[0]
        return self.record(self.types[kind])

    def number(self, expression: Any, known: dict[str, Any]) -> int:
        return evaluated(str(expression), {**known, "_io": type("Stream", (), {"pos": self.at})})


class _Instances(dict[str, Any]):
    """Values that follow from fields, where those are known."""

    def __init__(self, instances: dict[str, Any], values: dict[str, Any]) -> None:
        names = {name for name in instances if {"dims", "type"} <= set(values)}
        super().__init__({name: evaluated(instances[name]["value"], values) for name in names})


def evaluated(expression: str, names: dict[str, Any]) -> Any:
    """An expression of Kaitai Struct; its ``a ? b : c`` is Python's ``b if a else c``.

    >>> evaluated("2 * (n > 1 ? 10 : 20)", {"n": 3})
    20
    """
    inner = re.compile(r"\(([^()]*\?[^()]*)\)")
    while inner.search(expression):
        expression = inner.sub(lambda match: str(evaluated(match[1], names)), expression)
    condition, asks, rest = expression.partition(" ? ")
    if asks:
        then, _, otherwise = rest.partition(" : ")
        return evaluated(then if evaluated(condition, names) else otherwise, names)
    return eval(expression.replace(" / ", " // "), {"__builtins__": {}}, names)
