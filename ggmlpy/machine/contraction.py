"""Which products a compiler adds to a sum without rounding them first.

C lets a compiler contract ``x * y + z`` into one fused multiply-add, which rounds once; where the processor has such an
instruction (x86-64 with ``-mfma``, every arm64), gcc and clang do so unless they are told not to. The last bit of a sum
then differs, and so now and then a scale that is searched by comparing sums. What is contracted follows from rules:

* **clang** contracts within an expression, as the source has it; of two products the one on the left.
* **gcc** works on what is left of a function after inlining: it contracts a product of which every use is a sum in the
  same basic block, across statements, of two products the one that is computed later. A loop that it vectorizes but
  whose sums stay in order is left alone: the products are one vector, the sums are not.

So each place in a kernel where a product meets a sum says who contracts it there: ``both``, or ``gcc``, or ``clang``. A
form is part of the *type* of what a kernel is made with: machine code has only the form that was asked for.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BASELINE", "COMPILERS", "ROUNDED", "Contraction", "Fused", "Rounded"]


class Rounded(NamedTuple):
    """A product is rounded before it meets the sum."""

    roundings: int = 2


class Fused(NamedTuple):
    """Product and sum are rounded once."""

    roundings: int = 1


ROUNDED, FUSED = Rounded(), Fused()


class Contraction(NamedTuple):
    """What a compiler does where a product meets a sum that these contract."""

    both: Rounded | Fused
    gcc: Rounded | Fused
    clang: Rounded | Fused


BASELINE = "baseline"

#: by the name of the compiler and what it may use
COMPILERS: dict[str, Contraction] = {
    BASELINE: Contraction(both=ROUNDED, gcc=ROUNDED, clang=ROUNDED),
    "gcc-fma": Contraction(both=FUSED, gcc=FUSED, clang=ROUNDED),
    "clang-fma": Contraction(both=FUSED, gcc=ROUNDED, clang=FUSED),
}
