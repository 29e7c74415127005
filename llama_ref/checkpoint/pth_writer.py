"""Writing checkpoints with the very bytes of ``torch.save``, one tensor at a time, without torch.

A merged model is recognized by its SHA256, so the container must come out as torch's does. Which bytes those are
depends on the version of torch (:mod:`.torch_formats`); the pickle is written by :mod:`.pth_pickle`, the archive around
it by :mod:`.pth_archive`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO

from ggmlpy.files.atomic import atomic_write
from ggmlpy.files.ordered import Workers
from ggmlpy.files.segments import write_segments

from .pth_archive import archive_segments, archive_size, plan_archive
from .pth_pickle import Plain, Tensor, TensorToWrite, pickle_of
from .torch_formats import Layout, layout_of, prefix_of

__all__ = ["TensorToWrite", "pth_size", "stream_pth", "write_pth"]


def write_pth(
    path: str | os.PathLike[str],
    tensors: Iterable[TensorToWrite],
    torch_format: str = "1.13",
    *,
    ordered: bool = False,
    beside: Mapping[str, Plain] | None = None,
    progress: Callable[[int], object] | None = None,
    workers: Workers | None = None,
) -> None:
    """Write what ``torch.save({name: tensor, ...}, path)`` writes, atomically.

    Args:
        path: the file; its base name without the last extension stands inside the file, too.
        tensors: in the order of the dict; :class:`.LazyTensor` or ``(name, dtype, shape, chunks)``, where ``chunks``
            are buffers or arrays that together hold the stored bytes (bfloat16 as uint16). All names and shapes are
            taken first; the chunks are asked for when their turn comes, a tensor at a time, **in the order of the
            file**, which before torch 2.7 is the order of the numbers as text: 0, 1, 10, 11, ..., 2, 20.
        torch_format: the version of torch whose bytes to write: a key of :data:`TORCH_FORMATS`, or a full version such
            as ``"1.13.1"``.
        ordered: save an OrderedDict, as a module's ``state_dict()`` is, rather than a plain dict.
        beside: save ``{"state_dict": {name: tensor, ...}, **beside}``.
        progress: called with the number of bytes when a piece of a tensor is written.
        workers: who makes and writes lazy tensors; by default one thread per processor.

    Raises:
        UsageError: an unknown ``torch_format``, a name given twice, a dtype that this torch does not have.
        ShapeError: the chunks of a tensor hold more or fewer bytes than its shape.
        DiskSpaceError, OutputError: see :func:`ggmlpy.files.atomic.atomic_write`.

    >>> import tempfile, os, numpy as np
    >>> from llama_ref.checkpoint import LazyTensor, open_pth
    >>> path = os.path.join(tempfile.mkdtemp(), "consolidated.00.pth")
    >>> write_pth(path, [LazyTensor.of_array("w", np.eye(2, dtype=np.float16))])
    >>> with open_pth(path) as f:
    ...     f["w"].numpy(), os.path.getsize(path)
    (array([[1., 0.],
           [0., 1.]], dtype=float16), 771)
    """
    layout = layout_of(torch_format)
    pickle, wanted = _pickled(tensors, layout, ordered, beside)
    places = plan_archive(prefix_of(path, layout), layout, len(pickle), wanted)
    with atomic_write(path, size=archive_size(places)) as stream:
        write_segments(stream, archive_segments(layout, places, pickle, wanted, progress), workers)


def _pickled(
    tensors: Iterable[TensorToWrite], layout: Layout, ordered: bool, beside: Mapping[str, Plain] | None = None
) -> tuple[bytes, list[Tensor]]:
    """The pickle, and the tensors that are saved beside it."""
    wanted = [Tensor.of(tensor, layout) for tensor in tensors]
    return pickle_of(wanted, ordered, beside), [tensor for tensor in wanted if not tensor.same_as]


def stream_pth(
    stream: BinaryIO, name: str, tensors: Iterable[TensorToWrite], torch_format: str = "1.13", *, ordered: bool = False
) -> None:
    """What :func:`write_pth` writes, into anything that has a ``write`` method: to learn the digest of a file that
    does not exist, for instance. ``name`` is the file's name, whose stem stands inside.
    """
    layout = layout_of(torch_format)
    pickle, wanted = _pickled(tensors, layout, ordered)
    places = plan_archive(prefix_of(name, layout), layout, len(pickle), wanted)
    write_segments(stream, archive_segments(layout, places, pickle, wanted))


def pth_size(
    path: str | os.PathLike[str],
    tensors: Iterable[tuple[str, str, Sequence[int]]],
    torch_format: str = "1.13",
    *,
    ordered: bool = False,
) -> int:
    """The size in bytes of the file that :func:`write_pth` would write; ``tensors`` are (name, dtype, shape).

    >>> pth_size("consolidated.00.pth", [("w", "float16", (2, 2))])
    771
    """
    layout = layout_of(torch_format)
    wanted = [Tensor.of((*tensor, ()), layout) for tensor in tensors]
    return archive_size(plan_archive(prefix_of(path, layout), layout, len(pickle_of(wanted, ordered)), wanted))
