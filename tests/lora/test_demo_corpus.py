"""The demo's corpus: the same every time, with sums that are right and never those that are held out."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.makers.corpus import Corpus, make_corpus
from toolchain.makers.sums import ask_sum, held_out_sums, is_held_out, working

digits = st.integers(0, 99)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return make_corpus(5, n_english=60, n_chinese=60, n_instructions=400, n_sums=400)


def test_corpus_is_the_same_every_time(corpus: Corpus) -> None:
    assert corpus == make_corpus(5, n_english=60, n_chinese=60, n_instructions=400, n_sums=400)
    assert set(corpus.chinese).isdisjoint(corpus.held_out_chinese)
    assert set(corpus.english).isdisjoint(corpus.held_out_english)
    assert all(record["instruction"] and record["output"] for record in corpus.instructions)


def test_no_instruction_asks_for_a_sum_that_is_held_out(corpus: Corpus) -> None:
    asked = [re.findall(r"\d+", record["instruction"]) for record in (*corpus.instructions, *corpus.sums)]
    pairs = [(int(a), int(b)) for a, b in (numbers for numbers in asked if len(numbers) == 2)]
    assert len(pairs) > 400
    assert not any(is_held_out(a, b) for a, b in pairs)
    held = held_out_sums(200, 99, random.Random(1))
    assert len({task[0] for task in held}) == 200
    assert all(is_held_out(*map(int, re.findall(r"\d+", task[0]))) for task in held)


@given(digits, digits)
def test_sums_are_worked_out_rightly(a: int, b: int) -> None:
    """Each line of the working is true, and the lines together are the result."""
    for sign, first, second in (("+", a, b), ("-", max(a, b), min(a, b))):
        lines = [re.split(r" = ", line) for line in working(first, second, sign).splitlines()]
        value = first + second if sign == "+" else first - second
        totals = [int(total) for _, total in lines]
        assert totals == [eval(terms) for terms, _ in lines]
        assert bool(lines) == (first > 9 or second > 9)
        assert not totals or totals[0] % 10 == value % 10
        assert len(totals) < 2 or totals[1] == value // 10


@given(st.integers(0, 2**32), st.sampled_from((9, 20, 99)))
def test_what_is_asked_is_what_is_answered(seed: int, largest: int) -> None:
    instruction, given_too, output = ask_sum(random.Random(seed), largest)
    a, b = map(int, re.findall(r"\d+", instruction))
    numbers = list(map(int, re.findall(r"\d+", output.splitlines()[-1])))
    assert numbers == [a, b, a + b if re.search(r"[加+]", instruction) else a - b]
    assert not given_too
    assert max(a, b) <= largest
