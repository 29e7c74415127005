"""Which builds of llama-quantize there are, and what each contracts in the quantizer of a type.

Until 2024-11-14 cmake built the quantizers for the processor at hand, with fused multiply-add, and make did not. Since
then x86-64 builds are the baseline, and fused are those for arm64 or with compiler flags of one's own. So k-quants (and
what is searched alike) have several legitimate forms. What is contracted was read from gcc 12 at ``-O3`` for x86-64
with AVX2 and from clang 14, and proven against both.
"""

from __future__ import annotations

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.eras import AUGUST_22, Era
from ggmlpy.machine.contraction import BASELINE, COMPILERS, Contraction

__all__ = ["contraction_of", "is_known"]

#: the types of grids, whose contracted forms are not known
UNKNOWN = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s")


def is_known(compiler: str, name: str) -> bool:
    """Whether what it makes of a type is known."""
    return compiler == BASELINE or name not in UNKNOWN


def contraction_of(compiler: str, name: str, era: Era) -> Contraction:
    """What a compiler contracts in an era's quantizer of a type.

    Raises:
        UsageError: there is no such build, or its bytes are not known.
    """
    if compiler not in COMPILERS:
        raise UsageError(f"no compiler {compiler!r}; there are {', '.join(COMPILERS)}")
    if compiler != BASELINE and era < AUGUST_22:
        raise UsageError(f"what {compiler} made of the quantizers of {era} is not known; it is from 2023-08-22 on")
    if not is_known(compiler, name):
        raise UsageError(f"what {compiler} makes of {name} is not known; leave --compiler out, or take another type")
    return COMPILERS[compiler]
