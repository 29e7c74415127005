"""Which type each tensor gets, at every commit of llama.cpp that changed a rule, against its own function compiled.

``data/eras/plans.json`` has, by date and file type, the start of the SHA256 of what the function of that day answered
for the models below: the number of each tensor's type ("X" where it refuses), for one model and matrix a line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggmlpy import FormatError
from ggmlpy.formats.eras import APRIL_3_24, FEBRUARY_28_24, JANUARY_14_24, JANUARY_16_24, Era, quantizing_era
from ggmlpy.formats.file_types import file_type_of
from ggmlpy.formats.gguf_mixes import MixChooser, ModelShape
from ggmlpy.formats.tensor_types import TENSOR_TYPES

PLANS = json.loads((Path(__file__).parents[1] / "data" / "eras" / "plans.json").read_text())

# layers, experts, key heads (of 8), whether the embedding is the output too, columns, whether layers are in text order
MODELS = (
    (16, 0, 8, False, 256, True),
    (16, 0, 2, True, 256, False),
    (4, 0, 2, False, 288, False),
    (16, 8, 8, False, 256, False),
    (8, 4, 2, False, 256, True),
)


def tensors(
    era: Era, layers: int, experts: int, tied: bool, columns: int, as_text: bool
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes of a model, in the order of its file. Until April 2024 each expert had tensors of its own."""
    yield "token_embd.weight", (512, columns)
    if not tied:
        yield "output.weight", (512, columns)
    feed_forward = ["ffn_gate", "ffn_down", "ffn_up"]
    if experts and era < APRIL_3_24:
        feed_forward = [f"{part}.{expert}" for expert in range(experts) for part in feed_forward]
    elif experts:
        feed_forward = [f"{part}_exps" for part in feed_forward]
    gate = ["ffn_gate_inp"] if experts and era < FEBRUARY_28_24 else []
    for layer in sorted(range(layers), key=str if as_text else int):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", *gate, *feed_forward):
            yield f"blk.{layer}.{part}.weight", (experts if part == "ffn_gate_inp" else columns, columns)


def answers(date: str, asked: str) -> Iterator[str]:
    """The types of all models as a day's function gives them: one line a model, without a matrix and with."""
    era = quantizing_era(date)
    for layers, experts, n_head_kv, tied, columns, as_text in MODELS:
        if (experts and date < "2023-12-13") or (columns % 256 and asked.startswith("IQ2") and era < JANUARY_16_24):
            continue  # there were no experts yet; and what comes of such rows the function did not say
        every = list(tensors(era, layers, experts, tied, columns, as_text))
        n_ffn = {part: sum(part in name for name, _ in every) for part in ("ffn_down", "ffn_gate", "ffn_up")}
        gates = 0 if era < FEBRUARY_28_24 else layers * bool(experts)  # are there, but stay as they are
        n_ffn["ffn_gate"] += gates
        shape = ModelShape(layers, 8, n_head_kv, experts, tied, layers, n_ffn)
        for weighted in (False, True) if era >= JANUARY_14_24 else (False,):
            choose = MixChooser(file_type_of(asked, date), era, shape, weighted=weighted)
            yield " ".join(answer(choose, name, size) for name, size in every)


def answer(choose: MixChooser, name: str, shape: tuple[int, int]) -> str:
    try:
        found = choose(name, shape, TENSOR_TYPES["f32"])
    except FormatError:
        return "X"
    return str(found.id) if found else "-"


@pytest.mark.parametrize("date", PLANS)
def test_the_types_of_tensors(date):
    wrong = [
        asked
        for asked, digest in PLANS[date].items()
        if hashlib.sha256("\n".join(answers(date, asked)).encode()).hexdigest()[:12] != digest
    ]
    assert not wrong
