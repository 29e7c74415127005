"""What the processor can do, and what code is compiled for. Needs llvmlite, not Numba.

Everything that depends on an instruction set asks `MACHINE`. Code is compiled for the processor at hand, unless one of
two environment variables says otherwise:

* ``LLAMA_SIMD`` names another target: ``vnni`` (where there is ``amx``), ``avxvnni``, ``avx2`` or ``portable``.
* ``NUMBA_CPU_FEATURES`` and ``NUMBA_CPU_NAME`` are Numba's own, for code that another machine is to load.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass

import llvmlite.binding as llvm

from ggmlpy.files.errors import UsageError

__all__ = ["MACHINE", "Machine"]

#: LLAMA_SIMD -> (LLVM's name of a processor, features beyond it)
TARGETS = {
    "avxvnni": ("haswell", "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+avxvnni,+sse2"),
    "avx2": ("haswell", "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+sse2"),
    "portable": ("x86-64", "+sse2"),
}
#: the name of the byte dot product -> the features it needs; the first that fits is taken
SIMD: tuple[tuple[str, set[str]], ...] = (
    ("amx", {"amx-tile", "amx-int8", "avx512vnni", "avx512bw", "avx512f"}),
    ("vnni", {"avx512vnni", "avx512bw", "avx512f"}),
    ("avxvnni", {"avxvnni", "avx2"}),
    ("avx2", {"avx2"}),
    ("neon", {"dotprod", "neon"}),
    ("portable", set()),
)


@dataclass(frozen=True)
class Machine:
    """A compilation target.

    Attributes:
        cpu: LLVM's name of the processor.
        features: the instruction sets it has, by LLVM's names.
        simd: which byte dot product the kernels use (see `ggmlpy.machine.vectors.dots`).
        override: whether ``LLAMA_SIMD`` asks for another than the processor at hand.
    """

    cpu: str
    features: frozenset[str]
    override: bool = False
    triple: str = ""
    llvm_version: int = 0

    @property
    def simd(self) -> str:
        return next(name for name, needs in SIMD if needs <= self.features)

    @property
    def wide(self) -> bool:
        """Whether a register holds 64 bytes and multiplies them at once."""
        return self.simd in ("amx", "vnni")

    @property
    def fetch_distance(self) -> int:
        """How many bytes ahead a loop over rows asks for memory; 0: leave it to the processor."""
        intel = self.is_x86 and not llvm.get_host_cpu_name().startswith(("znver", "bdver", "btver"))
        return 3072 if intel else 0

    @property
    def has_f16(self) -> bool:
        """Whether float16 is converted by single instructions (F16C on x86; always on 64-bit Arm)."""
        return self.has("f16c") or self.is_arm

    @property
    def has_fma(self) -> bool:
        """Whether there is a fused multiply-add."""
        return self.has("fma") or self.is_arm

    @property
    def is_x86(self) -> bool:
        return self.triple.startswith(("x86_64", "i686", "amd64"))

    @property
    def is_arm(self) -> bool:
        return self.triple.startswith(("aarch64", "arm64"))

    def has(self, feature: str) -> bool:
        return feature in self.features

    @property
    def feature_string(self) -> str:
        """As LLVM takes it: "+avx2,+fma"."""
        return ",".join(f"+{name}" for name in sorted(self.features))


def detect(wish: str | None = None, named: str | None = None) -> Machine:
    """The machine at hand, or the one that `wish` (LLAMA_SIMD) names.

    Args:
        named: features to assume instead of the processor's, as LLVM takes them (NUMBA_CPU_FEATURES).

    Raises:
        UsageError: no such name, or the processor lacks what it needs.
    """
    triple, version = llvm.get_process_triple(), llvm.llvm_version_info[0]
    if named is None:
        have = frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)
    else:
        have = frozenset(word[1:] for word in named.split(",") if word.startswith("+"))
    without_tiles = frozenset(name for name in have if not name.startswith("amx"))
    if have != without_tiles and (wish == "vnni" or not tiles_allowed()):
        have = without_tiles
    host = Machine(os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name(), have, False, triple, version)
    if not wish or wish == host.simd:
        return host
    if wish not in TARGETS or not host.is_x86:
        raise UsageError(f"LLAMA_SIMD={wish} is not offered here; there are {host.simd}, {', '.join(TARGETS)}")
    cpu, features = TARGETS[wish]
    wanted = frozenset(name.lstrip("+") for name in features.split(","))
    if wanted - have:
        raise UsageError(f"LLAMA_SIMD={wish} needs {', '.join(sorted(wanted - have))}, which this processor lacks")
    return Machine(cpu, wanted, True, triple, version)


def tiles_allowed() -> bool:
    """Ask Linux for the use of AMX, which it grants to a process at a time: each thread then keeps 8 KB more state."""
    request_permission, tile_data = 0x1023, 18  # of the system call arch_prctl
    if not sys.platform.startswith("linux"):
        return False
    return ctypes.CDLL(None).syscall(158, request_permission, tile_data) == 0


MACHINE = detect(os.environ.get("LLAMA_SIMD"), os.environ.get("NUMBA_CPU_FEATURES"))
