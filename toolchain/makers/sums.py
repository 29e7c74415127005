"""The demo's sums: their wordings, how they are worked out, and the pairs of numbers that no instruction asks about.

A tenth of the instructions ask for a sum, too few to learn adding from; so the last stage has an exercise of sums in
it. Where a number has two digits the answer works the sum out as children do, units first: a model of this size can
learn the table of single digits by heart and what to do with it, but not ten thousand results.
"""

from __future__ import annotations

import random

__all__ = ["ask_sum", "exercise", "held_out_sums", "is_held_out", "sum_en", "sum_zh"]

IN_TEXTS = 20  # the largest number of the texts
IN_EXERCISE = (9, 20, 99, 99)  # and those of the exercise: in half of it, up to 99
ONE_PAIR_IN = 8  # is held out, where a number has two digits

Random = random.Random
Task = tuple[str, str, str]  # instruction, input, output

PAIRS = [(a, b) for b in range(10, max(IN_EXERCISE) + 1) for a in range(b + 1)]
HELD_OUT = {(7, 12), *random.Random(2023).sample(PAIRS, len(PAIRS) // ONE_PAIR_IN)}  # 12 + 7: what `demo` asks


def numbers(rng: Random, largest: int = IN_TEXTS) -> tuple[int, int, str]:
    """Two numbers up to ``largest`` and "+" or "-", with a result that is not negative."""
    a, b, sign = rng.randint(0, largest), rng.randint(0, largest), rng.choice("++-")
    return (max(a, b), min(a, b), sign) if sign == "-" else (a, b, sign)


def result(a: int, b: int, sign: str) -> int:
    return a + b if sign == "+" else a - b


def is_held_out(a: int, b: int) -> bool:
    """Whether no instruction asks about the pair, in either order.

    >>> is_held_out(7, 12), is_held_out(12, 7), is_held_out(3, 4)
    (True, True, False)
    """
    return (min(a, b), max(a, b)) in HELD_OUT


# ── texts ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def sum_en(rng: Random) -> str:
    a, b, sign = numbers(rng)
    word = "plus" if sign == "+" else "minus"
    return rng.choice((f"{a} {sign} {b} = {result(a, b, sign)}.", f"{a} {word} {b} is {result(a, b, sign)}."))


def sum_zh(rng: Random) -> str:
    a, b, sign = numbers(rng)
    word = "加" if sign == "+" else "减"
    return rng.choice((f"{a} {sign} {b} = {result(a, b, sign)}。", f"{a}{word}{b}等于{result(a, b, sign)}。"))


# ── instructions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def working(a: int, b: int, sign: str) -> str:
    r"""The units, then the tens with what is carried or borrowed, a line each; nothing for two single digits.

    >>> working(47, 38, "+"), working(42, 8, "-"), working(12, 7, "+"), working(8, 9, "+")
    ('7 + 8 = 15\n4 + 3 + 1 = 8\n', '12 - 8 = 4\n4 - 1 = 3\n', '2 + 7 = 9\n', '')
    """
    if max(a, b) < 10:
        return ""
    units_a, units_b = a % 10, b % 10
    if sign == "-" and units_a < units_b:
        units_a += 10
    units = result(units_a, units_b, sign)
    tens = [n // 10 for n in (a, b) if n >= 10] + [1] * (max(units_a, units) >= 10)
    lines = f"{units_a} {sign} {units_b} = {units}\n"
    if len(tens) > 1:
        total = result(tens[0], sum(tens[1:]), sign)
        lines += f" {sign} ".join(map(str, tens)) + f" = {total}\n"
    return lines


def wordings(a: int, b: int, sign: str) -> tuple[Task, ...]:
    """The three ways to ask for a sum, and its answer, worked out."""
    word, value, work = "加" if sign == "+" else "减", result(a, b, sign), working(a, b, sign)
    return (
        (f"{a}{word}{b}等于多少？", "", f"{work}{a}{word}{b}等于{value}。"),
        (f"{a} {sign} {b} = ?", "", f"{work}{a} {sign} {b} = {value}。"),
        (f"计算{a}{word}{b}。", "", f"{work}{a}{word}{b}等于{value}。"),
    )


def ask_sum(rng: Random, largest: int = IN_TEXTS) -> Task:
    """A sum that is not held out; where it would be, the second number is the nearest with which it is not."""
    a, b, sign = numbers(rng, largest)
    b = next(n for n in (*range(b, -1, -1), *range(b, 10)) if not is_held_out(a, n))
    return rng.choice(wordings(a, b, sign))


def exercise(n: int, rng: Random) -> list[Task]:
    """``n`` sums, none of them held out."""
    return [ask_sum(rng, rng.choice(IN_EXERCISE)) for _ in range(n)]


def held_out_sums(n: int, largest: int, rng: Random) -> list[Task]:
    """``n`` different questions for sums of numbers up to ``largest`` that no instruction asks for."""
    pairs = sorted(pair for pair in HELD_OUT if pair[1] <= largest)
    sums = {(a, b, "+"): None for low, high in pairs for a, b in ((low, high), (high, low))}
    sums |= {(high, low, "-"): None for low, high in pairs}
    return rng.sample([task for each in sums for task in wordings(*each)], n)
