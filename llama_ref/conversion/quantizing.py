"""A conversion to GGUF, quantized on the way: the file that ``quantize`` would make of the converted one.

Types, order and keys are those of today's llama-quantize (:mod:`ggmlpy.quantizers.gguf_plan`).
"""

from __future__ import annotations

from dataclasses import replace

from ggmlpy.files.errors import FormatError
from ggmlpy.files.ordered import Workers
from ggmlpy.formats.era_of_file import file_order
from ggmlpy.formats.eras import TODAY
from ggmlpy.formats.file_types import FileType, fallback_notes
from ggmlpy.formats.gguf_mixes import MixChooser, needs_importance
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.tensor_names import gguf_name
from ggmlpy.formats.writer import written_size
from ggmlpy.quantizers.gguf_plan import GgufRequest, model_shape, output_metadata
from ggmlpy.quantizers.streamed import quantized

from .plan import Plan

__all__ = ["quantized_plan"]


def quantized_plan(plan: Plan, file_type: FileType, workers: Workers | None = None) -> Plan:
    """A planned conversion to one GGUF file in f32 or f16, quantized.

    Args:
        file_type: one of today's.
        workers: who computes.

    Raises:
        FormatError: rows can't be cut into blocks, or the type needs an importance matrix.
    """
    (path,), (metadata,), (converted,) = plan.files, plan.keys, plan.parts
    keys = output_metadata(metadata, GgufRequest(file_type))
    ordered = sorted(converted, key=lambda tensor: file_order(gguf_name(tensor.name)))
    choose = MixChooser(file_type, TODAY, model_shape(metadata, [gguf_name(tensor.name) for tensor in ordered]))
    tensors = [_quantized(tensor, choose, workers) for tensor in ordered]
    notes = [*plan.notes, *fallback_notes(choose.fallbacks.values())]
    hparams = replace(plan.hparams, ftype=file_type.id)
    size = written_size("gguf", plan.version, hparams, plan.vocab, tensors, keys)
    return replace(plan, files={path: size}, hparams=hparams, parts=[tensors], keys=[keys], notes=notes)


def _quantized(tensor: OutTensor, choose: MixChooser, workers: Workers | None) -> OutTensor:
    name = gguf_name(tensor.name)
    target = choose(name, tensor.shape, tensor.type)
    if target is None:
        return tensor
    if needs_importance(target.name, choose.file_type, name, choose.era):
        raise FormatError(
            f"tensor {name!r} can't be made {target.name} without an importance matrix",
            field=name,
            cause="llama-quantize refuses it, because the result would be of no use",
            next_step="make f16 first, then `imatrix -m MODEL -f TEXT -o F` and `quantize` with --imatrix F",
        )
    return quantized(tensor, target, TODAY, workers)
