"""One self-contained HTML page that shows a model file: its bytes beside its fields, its tensors, its blocks.

The page needs no network and holds only what it shows: the header, the ends of long runs, and of each tensor a sample
of rows (the first, the middle, the last), so that a 4 GB file becomes a page of a few megabytes. With the unquantized
model given, quantization errors are computed over all values, and original values are shown beside decoded ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.errors import FormatError
from ggmlpy.files.foreign import visible
from ggmlpy.formats.codes import signed_codes, unpack_codes
from ggmlpy.formats.dequantize import scales_of
from ggmlpy.formats.model_file import ModelFile, Tensor
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.tensor_names import gguf_name
from ggmlpy.formats.tensor_types import TensorType

from .contents import metadata_rows, tensor_rows
from .hexdump import hexdump
from .identify import identify

__all__ = ["own_script_data", "report_data", "script_data", "write_report"]

BLOCKS_A_ROW = 8
ROWS_A_TENSOR = 3
BYTES_A_FIELD = 64
CHUNK_VALUES = 1 << 20
LOWEST_CODE = 128  # a code is not below -128


def write_report(
    path: str | os.PathLike[str],
    html: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Write the page for the model at ``path`` and return its size in bytes.

    Arguments:
        source: the unquantized model, to measure errors against.
        progress: called with the number of values read.

    Raises:
        FormatError: a file can't be read, or the source is not of the same model.
    """
    data = script_data(report_data(path, source, progress))
    page = files("ggmlpy.look").joinpath("report.html").read_text("utf-8")
    text = page.replace("/*DATA*/null", data).encode()
    with atomic_write(html, size=len(text)) as stream:
        stream.write(text)
    return len(text)


def script_data(value: object) -> str:
    """The value as a script in a page may hold it; unsafe characters of foreign texts become visible escapes.

    >>> print(script_data(["<!--<script>", "a\\x1bb"]))
    ["\\u003c!--\\u003cscript>", "a\\\\x1bb"]
    """
    return own_script_data(_visible_within(value))


def own_script_data(value: object) -> str:
    """The value as a script in a page may hold it, its texts being our own.

    A page's parser looks into scripts: ``</script`` ends one, and ``<!--<script`` keeps the page's own ``</script>``
    from ending it. So no ``<`` stands there.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _visible_within(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(key): _visible_within(item) for key, item in value.items()}
    return [_visible_within(item) for item in value] if isinstance(value, (list, tuple)) else value


def report_data(
    path: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Everything the page shows, as JSON-ready data."""
    with open_model(path, strict=False, any_architecture=True) as model:
        original = open_model(source, any_architecture=True) if source else None
        rows = tensor_rows(model)
        for row in rows:
            tensor = model.tensors[row["name"]]
            other = _original(original, tensor) if original else None
            row |= _statistics(tensor, other, progress)
            row["sample"] = _sample(model, tensor, other)
            row["stored"] = _stored_name(model, tensor)
        return {
            "file": os.path.basename(path),
            "source": os.path.basename(source) if source else None,
            "identity": identify(path).as_dict(),
            "metadata": _finite_within(metadata_rows(model.metadata or {})),
            "fields": [_field(model, line.as_dict()) for line in hexdump(path)],
            "tensors": rows,
        }


def _finite_within(value: Any) -> Any:
    """The value with NaN and infinities, which JSON does not have, as words."""
    if isinstance(value, dict):
        return {key: _finite_within(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite_within(item) for item in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value


def _stored_name(model: ModelFile, tensor: Tensor) -> str:
    """A tensor's name as the file has it."""
    return gguf_name(tensor.name) if model.container == "gguf" and not model.as_stored else tensor.name


def _field(model: ModelFile, line: dict[str, Any]) -> dict[str, Any]:
    """A line of the dump with a few more bytes than the terminal shows."""
    start = line["offset"]
    data = model.parts[0].cursor.buffer[start : start + min(line["size"], BYTES_A_FIELD)]
    return {**line, "hex": bytes(data).hex()}


def _original(model: ModelFile, tensor: Tensor) -> Tensor:
    other = model.tensors.get(tensor.name)
    if other is None or other.shape != tensor.shape:
        raise FormatError(
            f"the source has no tensor {tensor.name!r} of this shape",
            path=model.path,
            field=tensor.name,
            expected=list(tensor.shape),
            found=list(other.shape) if other else "no such tensor",
            cause="it is the source of another model",
            next_step="name the f16 file that this model was quantized from",
        )
    return other


def _statistics(tensor: Tensor, source: Tensor | None, progress: Callable[[int], object] | None) -> dict[str, Any]:
    """Histogram of codes and quantization error over the whole tensor."""
    counts = np.zeros(LOWEST_CODE + 256, np.int64)  # of the codes from -LOWEST_CODE on
    squares = largest = 0.0
    coded = tensor.type.quantized and tensor.type.code_width < 8
    step = max(1, CHUNK_VALUES // tensor.n_cols)
    for start in range(0, tensor.n_rows if coded or source else 0, step):
        stop = min(start + step, tensor.n_rows)
        if coded:
            blocks = np.ascontiguousarray(tensor.read_rows(start, stop)).view(tensor.type.block)
            codes = _shown_codes(blocks, tensor.type).reshape(-1).astype(np.int16) + np.int16(LOWEST_CODE)
            counts += np.bincount(codes, minlength=len(counts))
        if source:
            error = np.abs(tensor.rows(start, stop).astype(np.float64) - source.rows(start, stop))
            squares += float(np.square(error).sum())
            largest = max(largest, float(error.max(initial=0.0)))
        if progress:
            progress((stop - start) * tensor.n_cols)
    measured = {"rmse": (squares / (tensor.n_rows * tensor.n_cols)) ** 0.5, "max_error": largest} if source else {}
    return {**_histogram(counts, tensor.type), **{k: _number(v) for k, v in measured.items()}}


def _shown_codes(blocks: NDArray[Any], record: TensorType) -> NDArray[Any]:
    """The code of each value, or where no bits are a value's own, the value in units of its scale."""
    return unpack_codes(blocks, record) if record.codes else signed_codes(blocks, record)


def _histogram(counts: NDArray[np.int64], record: TensorType) -> dict[str, list[int]]:
    """How often each code occurs, and which codes these are: all from 0 on, or those that occur."""
    if record.codes:
        found = np.trim_zeros(counts[LOWEST_CODE:], "b")
        return {"histogram": found.tolist(), "histogram_codes": list(range(len(found)))}
    places = np.flatnonzero(counts)
    return {"histogram": counts[places].tolist(), "histogram_codes": (places - LOWEST_CODE).tolist()}


def _sample(model: ModelFile, tensor: Tensor, source: Tensor | None) -> list[dict[str, Any]]:
    """Some blocks: of the first, the middle and the last row, the first ones."""
    rows = sorted({0, tensor.n_rows // 2, tensor.n_rows - 1})[:ROWS_A_TENSOR]
    return [block for row in rows for block in _row_sample(model, tensor, source, row)]


def _row_sample(model: ModelFile, tensor: Tensor, source: Tensor | None, row: int) -> list[dict[str, Any]]:
    size = tensor.type.blck_size if tensor.type.quantized else min(32, tensor.n_cols)
    count = min(BLOCKS_A_ROW if size <= 32 else 1, tensor.n_cols // size)
    raw = np.ascontiguousarray(tensor.read_rows(row, row + 1))[0]
    values = tensor.rows(row, row + 1)[0]
    originals = source.rows(row, row + 1)[0] if source else None
    width = tensor.type.row_bytes(size)
    found = []
    for index in range(count):
        data, span = raw[index * width : (index + 1) * width], slice(index * size, (index + 1) * size)
        found.append(
            {
                "row": row,
                "block": index,
                "hex": data.tobytes().hex(),
                "scales": _scales(tensor, data),
                "codes": _codes(tensor, data),
                "values": _numbers(values[span]),
                "originals": _numbers(originals[span]) if originals is not None else None,
            }
        )
    return found


def _scales(tensor: Tensor, data: NDArray[np.uint8]) -> dict[str, Any]:
    if not tensor.type.quantized:
        return {}
    block, record = data.view(tensor.type.block), tensor.type
    scales: dict[str, Any] = {name: _number(block[name][0]) for name in record.scale_fields}
    if record.run < record.blck_size:
        runs, minimums = scales_of(block, record)
        scales[f"scale of each {record.run} values"] = _numbers(runs[0])
        if minimums is not None:
            scales[f"minimum of each {record.run} values"] = _numbers(minimums[0])
    return scales


def _codes(tensor: Tensor, data: NDArray[np.uint8]) -> list[int]:
    if not tensor.type.quantized:
        return []
    codes: list[int] = _shown_codes(data.view(tensor.type.block), tensor.type)[0].tolist()
    return codes


def _numbers(values: NDArray[np.float32]) -> list[float | str]:
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | str:
    """JSON has no nan and no infinity."""
    return float(f"{value:.7g}") if np.isfinite(value) else str(value)
