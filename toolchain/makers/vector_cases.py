"""The cases of the golden vectors: which outputs there are, from what each is made, and the command that makes it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ggmlpy.formats.eras import AUGUST_21, DEFAULT_ERA, ERAS, GGUF_ERA
from ggmlpy.formats.file_types import file_type_of, file_types
from llama_ref.arithmetic.exact.offered import SUPPORTED
from llama_ref.text.sampling import SamplingOptions
from toolchain.terminal.program import SOURCE_TREE

__all__ = ["ADAPTERS", "CHECKPOINTS", "KINDS", "N_PREDICT", "PROMPT", "TOKENS", "ZIPPED", "Case", "cases"]

KINDS = ("convert", "quantize", "migrate", "merge", "to-hf", "logits", "text")
TOKENS = (1, *range(259, 283))
PROMPT, SEED, N_PREDICT = "hello world", 2, 100
TEMP, TOP_K, PENALTY = 1.5, 200, 1.1  # hot enough for the builds' texts to part


@dataclass(frozen=True)
class Case:
    """One output that a step must make.

    Attributes:
        kind: the step, one of :data:`KINDS`.
        output, source: paths below the directory; a file or a directory each.
        options: what the step is asked for: era, type, container, outtype, build, batch, memory_f32 …
        adapters: of a merge, in order.
        files: digest and size of each file of the output, once it is made.
    """

    kind: str
    output: str
    source: str
    options: dict[str, Any] = field(default_factory=dict)
    adapters: tuple[str, ...] = ()
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """The command of ours that makes it, to be run in the directory."""
        return f"{SOURCE_TREE} " + shlex.join(_COMMANDS[self.kind](self))

    def sampling(self) -> SamplingOptions:
        """How a text's tokens are chosen."""
        return SamplingOptions(**{name: self.options[name] for name in ("seed", "temp", "top_k", "repeat_penalty")})

    def placeholders(self) -> dict[str, str]:
        """What a check's command may name in braces, beside {in} and {out}."""
        words = {name: str(value) for name, value in self.options.items() if name != "memory_f32"}
        if self.kind == "logits":
            words["batch"] = str(self.options["batch"] or len(TOKENS))
            words["kv"] = "32" if self.options["memory_f32"] else "16"
        if self.kind == "quantize":
            words["ftype"] = str(file_type_of(words["type"], words["era"]).id)
        return words


def _era_words(case: Case) -> list[str]:
    return ["--era", case.options["era"]]


def _arithmetic_words(case: Case) -> list[str]:
    cache = "--memory-f32" if case.options["memory_f32"] else "--memory-f16"
    return [*_era_words(case), "--numerics", "exact", "--build", case.options["build"], cache]


def _logits_words(case: Case) -> list[str]:
    batch = ["--batch", str(case.options["batch"])] if case.options["batch"] else []
    return ["logits", "-m", case.source, "--tokens", case.options["tokens"], "--out", case.output, *batch,
            *_arithmetic_words(case), "-t", "1"]  # fmt: skip


def _text_words(case: Case) -> list[str]:
    asked = case.options
    sampling = [word for name in ("seed", "n_predict", "temp", "top_k", "repeat_penalty")
                for word in (f"--{name}", str(asked[name]))]  # fmt: skip
    return ["generate", "-m", case.source, "-p", asked["prompt"], *sampling, *_arithmetic_words(case),
            "-t", "1", "-q"]  # fmt: skip


_COMMANDS: dict[str, Callable[[Case], list[str]]] = {
    "convert": lambda case: ["convert", case.source, "--outfile", case.output, *_era_words(case),
                             "--outtype", case.options["outtype"], "--container", case.options["container"]],
    "quantize": lambda case: ["quantize", case.source, case.output, case.options["type"], *_era_words(case)],
    "migrate": lambda case: ["migrate", case.source, case.output, "--container", case.options["container"]],
    "merge": lambda case: ["merge", "--base", case.source, "--lora", ",".join(case.adapters), "--output", case.output,
                           "--output-type", case.options["output_type"]],
    "to-hf": lambda case: ["to-hf", case.source, case.output],
    "logits": _logits_words,
    "text": _text_words,
}  # fmt: skip


# ── which cases there are ─────────────────────────────────────────────────────────────────────────────────────────────

CHECKPOINTS: dict[str, dict[str, Any]] = {
    "base/f16": {"shape": "tiny"},
    "base/f32": {"shape": "tiny", "dtype": "float32"},
    "base/bf16": {"shape": "tiny", "dtype": "bfloat16"},
    "base/two-shards": {"shape": "tiny", "shards": 2},
    "base/wide": {"shape": "wide"},
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "adapters/peft": {},
    "adapters/by-hand": {"spelling": "by-hand", "weights": "safetensors", "dtype": "float32", "alpha": 6},
    "adapters/bare": {"spelling": "bare", "rank": 3},
    "adapters/grown": {"grown": True},
}
ZIPPED = "adapters/peft.zip"


def cases() -> list[Case]:
    """Every case, in an order in which each source is made before it is used."""
    return [*_conversions(), *_quantizations(), *_migrations(), *_merges(), *_logits(), *_texts()]


def _conversions() -> Iterator[Case]:
    yield Case("to-hf", "to-hf/f16", "base/f16")
    for era in ERAS.values():
        container = {"ggml": "ggml", "ggmf": "ggmf1"}.get(era.container, "ggjt1")  # convert.py never wrote ggjt v2, v3
        yield _conversion(f"convert/{era.date}/f16.bin", "base/f16", era.date, container)
    yield _conversion("convert/gguf/f16.gguf", "base/f16", GGUF_ERA, "gguf")
    yield _conversion("convert/2023-08-21/wide-f16.bin", "base/wide", AUGUST_21.date, "ggjt1")
    for name in ("f32", "bf16", "two-shards"):
        yield _conversion(f"convert/{DEFAULT_ERA}/from-{name}.bin", f"base/{name}", DEFAULT_ERA, "ggjt1")
    yield _conversion(f"convert/{DEFAULT_ERA}/from-hf.bin", "to-hf/f16", DEFAULT_ERA, "ggjt1")
    yield _conversion(f"convert/{DEFAULT_ERA}/f32.bin", "base/f32", DEFAULT_ERA, "ggjt1", "f32")


def _conversion(output: str, source: str, era: str, container: str, outtype: str = "f16") -> Case:
    return Case("convert", output, source, {"era": era, "container": container, "outtype": outtype})


def _quantizations() -> Iterator[Case]:
    for era in ERAS:
        for record in file_types(era).values():
            source = f"convert/{era}/{'wide-' if record.is_k_quant else ''}f16.bin"
            if record.name not in ("F32", "F16"):
                name = record.name.lower()
                yield Case("quantize", f"quantize/{era}/{name}.bin", source, {"era": era, "type": name})
    for name in ("q4_0", "q5_1", "q8_0"):
        asked = {"era": AUGUST_21.date, "type": name}
        yield Case("quantize", f"quantize/gguf/{name}.gguf", "convert/gguf/f16.gguf", asked)


def _migrations() -> Iterator[Case]:
    for container in ("ggmf1", "ggjt1"):
        yield Case("migrate", f"migrate/{container}.bin", "quantize/2023-03-19/q4_0.bin", {"container": container})
    yield Case("migrate", "migrate/gguf.gguf", "quantize/2023-08-21/q4_0.bin", {"container": "gguf"})


def _merges() -> Iterator[Case]:
    for name in (*ADAPTERS, ZIPPED):
        short = name.partition("/")[2].replace(".", "-")
        yield Case("merge", f"merge/{short}", "base/f16", {"output_type": "pth", "era": DEFAULT_ERA}, (name,))
    both = ("adapters/by-hand", "adapters/grown")
    yield Case("merge", "merge/two-adapters", "base/f16", {"output_type": "pth", "era": DEFAULT_ERA}, both)
    yield Case("merge", "merge/huggingface", "base/f16", {"output_type": "huggingface", "era": DEFAULT_ERA}, both)
    q4_0 = {"output_type": "ggml-q4_0", "era": DEFAULT_ERA}
    yield Case("merge", "merge/q4_0.bin", "base/f16", q4_0, ("adapters/grown",))


def _logits() -> Iterator[Case]:
    for era, builds in SUPPORTED.items():
        for build in builds:
            for memory_f32 in (False, True):
                for batch in (1, None) if build != "scalar" else (None,):
                    cache, how = "kv32" if memory_f32 else "kv16", "loop" if batch else "batch"
                    asked = {"era": era, "build": build, "memory_f32": memory_f32, "batch": batch}
                    asked["tokens"] = ",".join(map(str, TOKENS))
                    yield Case("logits", f"logits/{era}-{build}-{cache}-{how}.npy", f"quantize/{era}/q4_0.bin", asked)


def _texts() -> Iterator[Case]:
    for era, builds in SUPPORTED.items():
        for build in builds if era == DEFAULT_ERA else builds[:1]:
            asked = {"era": era, "build": build, "memory_f32": False, "prompt": PROMPT, "seed": SEED}
            asked |= {"n_predict": N_PREDICT, "temp": TEMP, "top_k": TOP_K, "repeat_penalty": PENALTY}
            yield Case("text", f"text/{era}-{build}.txt", f"quantize/{era}/q4_0.bin", asked)
