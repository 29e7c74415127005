"""The vector language for Numba kernels: each operation is one or a few LLVM instructions, defined once.

Numba compiles scalars and arrays; it knows neither vector registers nor fused multiply-adds. But it lets a module
register types and say which LLVM instructions an operation on them becomes. A kernel written with these operations is
ordinary Python that reads like its formula, and no operation may be reassociated or contracted: it rounds exactly where
it says. Addresses are plain integers (bytes), as in ``load(x + 64)``, and need no alignment: kernels walk over memory
maps whose bounds were checked when the file was opened.

======== =================== =========================================================================================
type     LLVM                what it holds
======== =================== =========================================================================================
f32x16   <16 x float>        sixteen numbers: what ``load``, ``store``, ``fill`` and ``zeros`` are about
i32x16   <16 x i32>          sixteen integers; also seen as 64 bytes, four per lane, by the dot products
f32x8    <8 x float>         an AVX register of floats
i32x8    <8 x i32>           eight integer sums
f64x16   <16 x double>       sixteen sums in double
i64x2    <2 x i64>           two polynomials of 64 bits
i8x16    <16 x i8>           sixteen codes
i8x32    <32 x i8>           the codes of one block of 32 values
======== =================== =========================================================================================

A register of 64 bytes exists in AVX-512 only. Elsewhere LLVM splits each operation into two (AVX2) or four (SSE2, NEON)
of the machine's own width, so a kernel written with these is written once, and gives the same bits everywhere: ``fma``
rounds once even where the processor has no instruction for it.

Names: a lane-by-lane operation (``add``, ``fma``, ``to_floats`` …) takes any of these types that make sense. Names that
end in a type say what lies in memory: ``load_f16x16`` reads sixteen float16, and widens them.

The rooms:

* ``language``: the types, how an operation is made (``op``, ``lanewise``), and building blocks for such functions.
* ``memory``: loads, stores, copies, prefetching; the columns of sixteen rows.
* ``halves``: float16, with or without the processor's help.
* ``arithmetic``: lane by lane.
* ``contracted``: products that meet sums, rounded before or not.
* ``totals``: across lanes, in the order that each name says.
* ``codes``: unpacking and packing the codes of quantized blocks.
* ``dots``: integer dot products of bytes.
* ``tiles``: AMX.
* ``polynomials``: multiplication without carries.
* ``shared``: counters that several threads use.
"""

# ruff: noqa: F403
from .arithmetic import *
from .codes import *
from .contracted import *
from .dots import *
from .halves import *
from .language import *
from .memory import *
from .polynomials import *
from .shared import *
from .tiles import *
from .totals import *
