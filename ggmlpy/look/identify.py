"""What a file is: container, era, size, vocabulary, whether it is whole, who can read it, and what to do next."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ggmlpy.files.errors import FormatError
from ggmlpy.formats.containers import HISTORY
from ggmlpy.formats.era_of_file import era_of_file, quantizing_eras
from ggmlpy.formats.eras import GGUF_ERAS, MARCH_31, Era
from ggmlpy.formats.file_types import FTYPES
from ggmlpy.formats.gguf_model import ARCHITECTURES, EXPERTS, architecture_of
from ggmlpy.formats.gguf_values import Value
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.opening import open_model
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_names import expected_shapes, gguf_name
from ggmlpy.formats.tensor_types import TENSOR_TYPES
from ggmlpy.formats.vocabulary_names import vocabulary_name
from ggmlpy.formats.writer import file_size
from ggmlpy.verify.whose_quantizer import quantizer_signs

from .check import problems_of
from .finite import not_finite_problem, not_finite_tensors

__all__ = ["Identification", "expected_size", "identify", "keys_in_words", "without_a_circle"]


# fmt: off
TYPE_SINCE = {  # tensor types that llama.cpp learned later than the first container that can hold them
    **dict.fromkeys(("q2_K", "q3_K", "q4_K", "q5_K", "q6_K"), "2023-06-05"),  # 99009e72f
    "bf16":                                                  "2024-05-08",   # 385541602
}
# fmt: on


@dataclass(frozen=True)
class Identification:
    """What is known of one file.

    Attributes:
        what: container and version in words.
        era: which era's tools wrote it, as far as its bytes tell.
        types: number of tensors of each type.
        model: "7B" … or the shape.
        vocabulary: its size and whose it is.
        size, expected_size: bytes that are there, and that the header implies.
        readers: programs that can read it.
        problems: what is wrong with it.
        next_step: the command that makes most sense now.
        arithmetic: by the name of each way to evaluate it, why that way can't; "" where it can. This library evaluates
            nothing, so whoever does says it.
    """

    path: str
    what: str
    era: str
    types: dict[str, int]
    model: str
    vocabulary: str
    size: int
    expected_size: int
    readers: str
    problems: list[str]
    next_step: str
    arithmetic: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def identify(
    path: str | os.PathLike[str], *, values: bool = True, progress: Callable[[int], object] | None = None
) -> Identification:
    """Look at a file of any kind.

    Args:
        values: whether to look for values that are NaN or infinite, which reads the whole file.
        progress: called with the number of bytes of values after each piece.

    Raises:
        FormatError: it is no GGML file; the message says what it probably is.
    """
    with open_model(path, strict=False, any_architecture=True) as model:
        problems = [without_a_circle(found) for found in (model.problems if model.as_stored else problems_of(model))]
        if values and (found := list(not_finite_tensors(model, progress))):
            problems.append(not_finite_problem(found, model.path))
        parts = f", {len(model.paths)} parts" if len(model.paths) > 1 else ""
        return Identification(
            path=str(path),
            what=_title(model) + parts,
            era=_era(model),
            types=dict(Counter(tensor.type.name for tensor in model.tensors.values())),
            model=keys_in_words(model.metadata) if model.as_stored else model.hparams.name,
            vocabulary=vocabulary_name(len(model.vocab)) if len(model.vocab) else "",
            size=model.size,
            expected_size=expected_size(model),
            readers="llama.cpp" if model.as_stored else HISTORY[model.container, model.version].readers,
            problems=[str(problem) for problem in problems],
            next_step=_next_step(model, problems),
        )


def without_a_circle(error: FormatError) -> FormatError:
    """The error without the advice to identify the file, which was just done."""
    if str(error.next_step).startswith("`identify "):
        error.next_step = "compare its size and SHA256 with its source, and fetch it again"
    return error


def _title(model: ModelFile) -> str:
    if not model.as_stored:
        return model.format_name
    kind = " with experts" if any(EXPERTS in name for name in model.tensors) else ""
    return f"{model.format_name}, {architecture_of(model.metadata)} model{kind}"


def keys_in_words(metadata: Mapping[str, Value]) -> str:
    """What a GGUF file of any architecture says of itself: the first numbers of its own namespace."""
    architecture = architecture_of(metadata)
    said = [f"{key} {value.value}" for key, value in metadata.items() if key.startswith(f"{architecture}.")
            and value.type not in ("string", "array")]  # fmt: skip
    return f"{architecture}; {len(metadata)} metadata keys" + (f": {', '.join(said[:12])}" if said else "")


def expected_size(model: ModelFile) -> int:
    """Bytes of the whole model that the header implies: the tensors that are there, and the missing ones as if of the
    header's type."""
    if model.container == "gguf" or (not model.tensors and not model.problems):
        return model.size  # a GGUF file that is cut off does not open
    return sum(
        file_size(part.container, part.tensors_offset, _implied(model, index)) for index, part in enumerate(model.parts)
    )


def _implied(model: ModelFile, index: int) -> Iterator[OutTensor]:
    present = model.parts[index].tensors
    for name, (tensor_type, piece) in present.items():
        yield OutTensor(name, tensor_type, piece.shape, tuple)
    if len(model.parts) > 1 or model.container == "gguf" or not 0 < model.hparams.n_layer <= 10_000:
        return
    main = FTYPES[model.hparams.ftype].type if model.hparams.ftype in FTYPES else "f16"
    known = {record.name: record for record in model.types.values()}
    for name, shape in expected_shapes(model.hparams).items():
        record = known.get(main) if len(shape) == 2 else TENSOR_TYPES["f32"]
        if name not in present and record and _possible(shape) and shape[-1] % record.blck_size == 0:
            yield OutTensor(name, record, shape, tuple)


def _possible(shape: tuple[int, ...]) -> bool:
    """Whether a header can hold these dimensions."""
    return min(shape) > 0 and max(shape) < 1 << 31


def _era(model: ModelFile) -> str:
    written = HISTORY[model.container, model.version].written
    if model.container == "gguf" and any(tensor.type.quantized for tensor in model.stored):
        return _dates_of_quantizing(model) or written
    if (model.container, model.version) != ("ggjt", 1):
        return _not_before(written, {tensor.type.name for tensor in model.tensors.values()})
    later = {tensor.type.name for tensor in model.tensors.values()} - set(MARCH_31.type_names)
    if later:
        return f"{era_of_file(model)} ({', '.join(sorted(later))} exist since April)"
    signs = {quantizer_signs(tensor, 8) for tensor in model.tensors.values() if tensor.type.name == "q4_0"}
    told = sorted(sign for sign in signs if sign.startswith("quantizer"))
    return written + (f"; {' and '.join(told)}" if told else "")


def _dates_of_quantizing(model: ModelFile) -> str:
    """Which llama-quantize may have written a GGUF file; "" if none, as where another program did."""
    spelled = str if model.as_stored else gguf_name
    names, types = [spelled(tensor.name) for tensor in model.stored], {tensor.type.name for tensor in model.stored}
    eras = quantizing_eras(model.version, model.metadata, names, types)
    if not eras:
        return ""
    after = [era.date for era in GGUF_ERAS.values() if era > eras[-1]]
    dates = f"quantized by llama-quantize of {eras[0]} " + (f"to before {after[0]}" if after else "or later")
    return dates + _other_blocks(eras, types)


def _other_blocks(eras: Sequence[Era], types: set[str]) -> str:
    """Types whose blocks were others in the first of some eras; "" if there are none."""
    since = {}
    for name in types:
        layouts = {era.types[name].layout: era for era in reversed(eras)}
        if len(layouts) > 1:
            since[name] = layouts[name].date.partition("T")[0]
    warnings = [
        f"{name} of before {date} has blocks that no later program reads" for name, date in sorted(since.items())
    ]
    return f"; {' and '.join(warnings)}: `verify` with --source tells them apart" if warnings else ""


def _not_before(written: str, types: set[str]) -> str:
    """When a container was written, with the day of its youngest tensor type where that is later than the container.

    >>> _not_before("2023-05-19 – 2023-08-20", {"f32", "q4_K", "q6_K"})
    '2023-06-05 – 2023-08-20 (q4_K, q6_K exist since 2023-06-05)'
    """
    since = max((TYPE_SINCE[name] for name in types & TYPE_SINCE.keys()), default="")
    begin, dash, end = written.removeprefix("since ").partition(" – ")
    if since <= begin:
        return written
    young = sorted(name for name in types if TYPE_SINCE.get(name) == since)
    when = f"{since}{dash}{end}" if dash else f"since {since}"
    return f"{when} ({', '.join(young)} exist{'s' * (len(young) == 1)} since {since})"


def _next_step(model: ModelFile, problems: list[FormatError]) -> str:
    advice = next((problem.next_step for problem in problems if problem.next_step), None)
    if problems:
        return advice or "convert the checkpoint again"
    if model.as_stored:
        return f"run it with llama.cpp; this program computes {', '.join(ARCHITECTURES)} without experts"
    if all(not tensor.type.quantized for tensor in model.tensors.values()):
        return f"`quantize {model.path} OUT q4_0`"
    if model.container not in ("ggjt", "gguf"):
        return f"`migrate {model.path} OUT --container ggjt1`"
    return f"`generate -m {model.path} -p TEXT`"
