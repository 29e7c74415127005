"""Powers, logarithms, cosines and sines whose bits are the same on every machine.

numpy takes them from the C library, or from vector code of its own where a processor has AVX-512, and these differ in
the last bit. Here they are made of operations that IEEE 754 rounds one way only (and of Python's ``decimal``), so that
what is computed with them is the same everywhere.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal

import numpy as np
import numpy.typing as npt

__all__ = ["cosines_and_sines", "logarithm", "powers"]

F64 = npt.NDArray[np.float64]

PRECISE = Context(prec=40)  # decimal digits; a float64 has 17

# π/2 in three parts; the first two have 33 bits, so that their products with the number of a quarter turn are exact up
# to 2²⁰ quarter turns. The cosine's and the sine's series are Taylor's; |r| < π/4 leaves an error of 1e-18.
QUARTER = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21)
COSINE = tuple((-1) ** k / math.factorial(2 * k) for k in range(9))
SINE = tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(9))


def powers(base: float, exponents: F64) -> F64:
    """``base`` to each of the exponents, float64 [n].

    >>> powers(10000.0, np.array([0.0, -0.5, -1.0])).tolist()
    [1.0, 0.01, 0.0001]
    """
    number = Decimal(base)
    return np.array([float(PRECISE.power(number, Decimal(exponent))) for exponent in exponents.tolist()])


def logarithm(x: float) -> float:
    """The natural logarithm of a positive number.

    >>> logarithm(8.0)
    2.0794415416798357
    """
    return float(PRECISE.ln(Decimal(x)))


def cosines_and_sines(angle: F64) -> tuple[F64, F64]:
    """Cosine and sine of angles from 0 to about a million, each to about 1e-16.

    >>> cosine, sine = cosines_and_sines(np.array([0.0, 1.0, 100.0]))
    >>> bool(np.abs(cosine - np.cos([0.0, 1.0, 100.0])).max() < 2e-16)
    True
    """
    quarters = np.rint(angle * (2 / math.pi))
    r = ((angle - quarters * QUARTER[0]) - quarters * QUARTER[1]) - quarters * QUARTER[2]  # |r| <= π/4
    cosine, sine = _series(COSINE, r * r), r * _series(SINE, r * r)
    turned = quarters.astype(np.int64)
    swapped = (turned & 1).astype(bool)
    of_cosine, of_sine = np.where(swapped, sine, cosine), np.where(swapped, cosine, sine)
    negative_cosine, negative_sine = ((turned + 1) & 2).astype(bool), (turned & 2).astype(bool)
    return np.where(negative_cosine, -of_cosine, of_cosine), np.where(negative_sine, -of_sine, of_sine)


def _series(coefficients: tuple[float, ...], x: F64) -> F64:
    total = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return total
