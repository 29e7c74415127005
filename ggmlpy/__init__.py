"""ggmlpy: every GGML and GGUF model file, read and written from declared tables. Knows no transformer.

==========================================  ==========================================================================
:func:`open_model`                          a file of any container: header, vocabulary, tensors
``tensor.numpy()``, ``np.asarray(tensor)``  the numbers of a tensor
:func:`write_arrays`                        a file from arrays
:func:`write_model`                         a file from tensors that are made while it is written
:func:`quantize`, :func:`dequantize`        numbers to blocks and back, as an *era* of llama.cpp did
:func:`quantize_file`                       a whole file, byte for byte as the ``quantize`` program of an era
:func:`migrate`                             an open file into another container
:func:`compare`, :func:`fingerprint`        whether two open files hold the same model; a digest of one's content
:func:`identify`, :func:`hexdump`           what a file is; what every byte of it means
:func:`explain`                             what the byte at an offset is: field, tensor, row, block, code, value
:class:`ProgressBar`                        what is shown while one of these, or a merge, takes long
==========================================  ==========================================================================

Ten lines that make a model file, quantize it, and read it again:

    >>> import tempfile, numpy as np, ggmlpy
    >>> folder = tempfile.mkdtemp()
    >>> matrix = np.linspace(-1, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    >>> params = ggmlpy.ModelParams(n_embd=32, n_layer=0, n_head=1, n_mult=32)
    >>> arrays = {"tok_embeddings.weight": matrix, "norm.weight": matrix[0], "output.weight": matrix}
    >>> size = ggmlpy.write_arrays(f"{folder}/f16.bin", arrays, params, [b"a", b"b"] * 16)
    >>> report = ggmlpy.quantize_file(f"{folder}/f16.bin", f"{folder}/q4_0.bin", "q4_0")
    >>> with ggmlpy.open_model(f"{folder}/q4_0.bin") as model:
    ...     print(model.format_name, model.tensors["output.weight"])
    ...     values = np.asarray(model.tensors["output.weight"])
    ggjt v1 output.weight: q4_0 [32, 32]
    >>> np.array_equal(values, ggmlpy.dequantize(ggmlpy.quantize(matrix.astype("<f2"), "q4_0"), "q4_0"))
    True

What is in a file, and where; carrying it into another container changes nothing that counts:

    >>> print(ggmlpy.identify(f"{folder}/q4_0.bin").what)
    ggjt v1
    >>> first = next(iter(ggmlpy.hexdump(f"{folder}/q4_0.bin")))
    >>> first.offset, first.data, first.path
    (0, b'tjgg', 'header.magic')
    >>> with ggmlpy.open_model(f"{folder}/q4_0.bin") as model:
    ...     report = ggmlpy.migrate(model, f"{folder}/q4_0.ggmf.bin", "ggmf", 1)
    ...     with ggmlpy.open_model(f"{folder}/q4_0.ggmf.bin") as other:
    ...         print(ggmlpy.compare(model, other).verdict, ggmlpy.fingerprint(model) == ggmlpy.fingerprint(other))
    same content True

Importing the package is cheap: what a name stands for is imported when the name is used, numpy included. Quantizers
are compiled by Numba.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bars import ProgressBar
    from .files.errors import FormatError, UsageError
    from .formats.containers import CONTAINERS, Container
    from .formats.dequantize import dequantize
    from .formats.eras import DEFAULT_ERA, ERAS, Era, era_of, tensor_type_of
    from .formats.model_file import ModelFile, Tensor, Vocabulary
    from .formats.model_params import ModelParams
    from .formats.opening import open_model
    from .formats.out_tensor import OutTensor, out_tensor
    from .formats.tensor_types import TENSOR_TYPES, TensorType, types_of
    from .formats.writer import write_model
    from .look.explain import Explanation, explain
    from .look.hexdump import hexdump
    from .look.identify import Identification, identify
    from .quantizers.arrays import quantize, write_arrays
    from .quantizers.migration import MigrationReport, migrate
    from .quantizers.reports import QuantizeReport
    from .quantizers.whole_file import quantize_file
    from .verify.compare import Comparison, compare
    from .verify.fingerprint import fingerprint

__version__ = "1.1.0"

__all__ = [
    "CONTAINERS",
    "DEFAULT_ERA",
    "ERAS",
    "TENSOR_TYPES",
    "Comparison",
    "Container",
    "Era",
    "Explanation",
    "FormatError",
    "Identification",
    "MigrationReport",
    "ModelFile",
    "ModelParams",
    "OutTensor",
    "ProgressBar",
    "QuantizeReport",
    "Tensor",
    "TensorType",
    "UsageError",
    "Vocabulary",
    "__version__",
    "compare",
    "dequantize",
    "era_of",
    "explain",
    "fingerprint",
    "hexdump",
    "identify",
    "migrate",
    "open_model",
    "out_tensor",
    "quantize",
    "quantize_file",
    "tensor_type_of",
    "types_of",
    "write_arrays",
    "write_model",
]

# fmt: off
_HOMES = {
    "bars":                  ("ProgressBar",),
    "files.errors":          ("FormatError", "UsageError"),
    "formats.containers":    ("CONTAINERS", "Container"),
    "formats.dequantize":    ("dequantize",),
    "formats.eras":          ("DEFAULT_ERA", "ERAS", "Era", "era_of", "tensor_type_of"),
    "formats.model_file":    ("ModelFile", "Tensor", "Vocabulary"),
    "formats.model_params":  ("ModelParams",),
    "formats.opening":       ("open_model",),
    "formats.out_tensor":    ("OutTensor", "out_tensor"),
    "formats.tensor_types":  ("TENSOR_TYPES", "TensorType", "types_of"),
    "formats.writer":        ("write_model",),
    "look.explain":          ("Explanation", "explain"),
    "look.hexdump":          ("hexdump",),
    "look.identify":         ("Identification", "identify"),
    "quantizers.arrays":     ("quantize", "write_arrays"),
    "quantizers.migration":  ("MigrationReport", "migrate"),
    "quantizers.reports":    ("QuantizeReport",),
    "quantizers.whole_file": ("quantize_file",),
    "verify.compare":        ("Comparison", "compare"),
    "verify.fingerprint":    ("fingerprint",),
}
# fmt: on
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what a name stands for when it is first used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
