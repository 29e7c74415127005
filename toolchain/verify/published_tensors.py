"""What is inside a file of weights, whatever container is around it: is it whole, and whose tensors are they?

A model of a published shape is written once more, into a digest instead of a file, as the merge script with torch 1.13
would have written it in Meta's layout. If that digest is in the table of published files, the tensors are theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ggmlpy.files.errors import FormatError
from ggmlpy.files.kinds import is_ggml_file
from ggmlpy.formats.model_sizes import n_shards_of
from ggmlpy.formats.tensor_names import meta_names
from ggmlpy.formats.vocabulary_names import KNOWN_VOCABULARIES
from llama_ref.checkpoint import Checkpoint, LazyTensor, known_files, open_pth
from llama_ref.checkpoint.folder import Folder
from llama_ref.checkpoint.known_files import KnownFile
from llama_ref.checkpoint.layout import shard_of
from llama_ref.checkpoint.pth_writer import stream_pth
from llama_ref.checkpoint.safetensors_file import SafetensorsFile
from llama_ref.checkpoint.weights import is_safetensors

__all__ = ["published_model_of", "published_shard_of", "structure_of", "weight_files"]

Progress = Callable[[int], object]


def weight_files(directory: Path) -> list[Path]:
    """The weight files of the model in a directory; an empty list where there is none, or not a whole one."""
    try:
        folder = Folder.of(directory)
        return folder.shards or folder.parts
    except FormatError:
        return []


def published_model_of(checkpoint: Checkpoint, progress: Progress | None = None) -> list[KnownFile]:
    """The published files whose tensors these are; an empty list if no published model has them."""
    names, count = meta_names(checkpoint.params.n_layer), checkpoint.params.n_shards
    found: list[KnownFile] = []
    for i in range(count):
        tensors = [shard_of(checkpoint.tensors[name], i, count) for name in names]
        known = _as_published(f"consolidated.{i:02}.pth", tensors, checkpoint.n_vocab, checkpoint.release, progress)
        if known is None or (found and known.model != found[0].model):
            return []
        found.append(known)
    return found


def _as_published(
    name: str, tensors: Sequence[LazyTensor], n_vocab: int, release: Callable[[], object], progress: Progress | None
) -> KnownFile | None:
    """The published file with these tensors: by the SHA256 that the merge script with torch 1.13 gives them."""
    if n_vocab not in _merged_vocabularies() or any(tensor.dtype != "float16" for tensor in tensors):
        return None
    sink = _Digest(release, progress)
    stream_pth(sink, name, tensors)  # type: ignore[arg-type]
    return known_files.BY_SHA256.get(sink.sha.hexdigest())


def _merged_vocabularies() -> list[int]:
    """Rows of the embeddings of the published merged models."""
    return [known.size for known in KNOWN_VOCABULARIES if known.merged]


class _Digest:
    """A sink with the ``write`` of a file."""

    def __init__(self, release: Callable[[], object], progress: Progress | None) -> None:
        self.sha = hashlib.sha256()
        self._release = release
        self._progress = progress

    def write(self, data: Any) -> int:
        self.sha.update(data)
        size = memoryview(data).nbytes
        if size > 1 << 20:
            self._release()
        if self._progress:
            self._progress(size)
        return size


def published_shard_of(path: Path, progress: Progress | None = None) -> KnownFile | None:
    """The published ``consolidated.NN.pth`` that has the tensors of this one.

    Raises:
        FormatError: the file is bad.
    """
    if path.suffix != ".pth":
        return None
    with open_pth(path) as pth:
        tensors = pth.state_dict
        names = meta_names(sum(name.endswith(".attention.wq.weight") for name in tensors))
        if any(name not in tensors for name in names):
            return None
        ordered = [tensors[name] for name in names]
        for file_name, n_vocab in _candidates(path, tensors):
            known = _as_published(file_name, ordered, n_vocab, pth.release, progress)
            if known:
                return known
    return None


def _candidates(path: Path, tensors: Mapping[str, LazyTensor]) -> Iterator[tuple[str, int]]:
    """Which shard of which vocabulary a file can be, by its name and by the rows of its output matrix."""
    rows = tensors["output.weight"].shape[0]
    count = n_shards_of(tensors["norm.weight"].size)
    for n_vocab in _merged_vocabularies():
        for i in range(count):
            name = f"consolidated.{i:02}.pth"
            of_shard = n_vocab // count + (n_vocab % count if i == count - 1 else 0)
            if rows == of_shard and (path.name == name or not path.name.startswith("consolidated.")):
                yield name, n_vocab


def structure_of(path: Path) -> str:
    """What a whole file of weights is, in words; "" for other files.

    Raises:
        FormatError: it is damaged.
    """
    if path.suffix in (".pth", ".pt", ".bin"):
        if is_ggml_file(path):
            from ggmlpy import open_model

            with open_model(path, any_architecture=True) as model:
                return f"{model.format_name}, {len(model.tensors)} tensors"
        with open_pth(path) as pth:
            pth.verify()
            return f"{pth.format}, {len(pth)} tensors, every CRC-32 holds"
    if is_safetensors(path):
        with SafetensorsFile(path) as file:
            return f"safetensors, {len(file)} tensors"
    return ""
