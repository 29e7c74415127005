"""The containers before GGUF: unversioned ggml, ggmf v1, and ggjt v1, v2, v3.

All three are a header, a vocabulary, and tensors one after the other until the file ends; every integer is
little-endian.

=========  ==========  ==================  ================================  ==========================================
container  magic       after the magic     an entry of the vocabulary        the data of a tensor begins
=========  ==========  ==================  ================================  ==========================================
ggml       0x67676d6c  7 hyper-parameters  u32 length, bytes                 right after its name
ggmf v1    0x67676d66  version, 7          u32 length, bytes, f32 score      right after its name
ggjt v1-3  0x67676a74  version, 7          u32 length, bytes, f32 score      at the next multiple of 32 of the **file**
=========  ==========  ==================  ================================  ==========================================

A tensor's header is the number of dimensions, the length of the name, the type id, the dimensions (**reversed**:
columns first) and the name. Nothing follows the last tensor. The versions of ggjt differ only in what the type ids
mean (:mod:`ggmlpy.formats.tensor_types`). ggml and ggmf models may be split over several files
(:mod:`ggmlpy.formats.multipart`); ggjt is always one file.

Sources: llama.cpp at da5303c1e (ggml), ed3c680bc (ggmf), 352589927, 6986c7835 and dadbed99e (ggjt v1, v2, v3).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ggmlpy.files.errors import UsageError

from .fields import F32, I32, U32, Align, Array, Number, Numbers, Record, Text

__all__ = [
    "CONTAINERS",
    "GGJT",
    "GGMF",
    "GGML",
    "GGUF",
    "HISTORY",
    "Container",
    "container_named",
    "container_of_name",
    "refuse_name",
]

ALIGNMENT = 32

HPARAMS = (
    I32("n_vocab", "entries in the vocabulary, and rows of tok_embeddings and output"),
    I32("n_embd", "width of the residual stream (dim)"),
    I32("n_mult", "n_ff is rounded up to a multiple of this (multiple_of)"),
    I32("n_head", "attention heads"),
    I32("n_layer", "transformer layers"),
    I32("n_rot", "dimensions of a head that are rotated: n_embd / n_head"),
    I32("ftype", "the type that most 2-D tensors have, see the file types"),
)
MAGIC = U32("magic", "the container, as a little-endian integer")
VERSION = U32("version", "the version of the container")
TOKEN = (U32("length", "bytes of the text"), Text("text", "the piece; a byte piece is its one raw byte", "length"))
SCORE = F32("score", "the SentencePiece score; a higher one is merged first")
TENSOR = (
    I32("n_dims", "1 or 2"),
    I32("name_length", "bytes of the name"),
    I32("type", "tensor type id, see the tensor types"),
    Array("dims", "columns first, then rows", "<i", "n_dims"),
    Text("name", "the tensor's Meta name", "name_length"),
)


@dataclass(frozen=True)
class Container:
    """The declared layout of one container.

    Attributes:
        name: "ggml", "ggmf" or "ggjt".
        magic: its first four bytes as a little-endian integer.
        versions: the versions there are; (0,) where the file carries none.
        header, token, tensor: the records of the file, in order.
        multipart: whether a model may be split over several files.
    """

    name: str
    magic: int
    versions: tuple[int, ...]
    header: Record
    token: Record
    tensor: Record
    multipart: bool

    @property
    def alignment(self) -> int:
        """What a tensor's data is aligned to in the file; 1 where it is not."""
        return next((field.multiple for field in self.tensor if isinstance(field, Align)), 1)

    @cached_property
    def tensor_numbers(self) -> Numbers:
        """The part of a tensor's header before its dimensions."""
        return Numbers([field for field in self.tensor if isinstance(field, Number)])

    @property
    def scored(self) -> bool:
        """Whether vocabulary entries carry a score (GGUF keeps them in an array of their own)."""
        return SCORE in self.token or self is GGUF

    def __repr__(self) -> str:
        return f"<Container {self.name}: {', '.join(map(self.title, self.versions))}>"

    def title(self, version: int) -> str:
        """What people call it: "ggml (unversioned)" or "ggjt v1"."""
        return f"{self.name} v{version}" if VERSION in self.header else f"{self.name} (unversioned)"


# fmt: off
GGML = Container("ggml", 0x67676D6C, (0,),      (MAGIC, *HPARAMS),          TOKEN,          TENSOR, multipart=True)
GGMF = Container("ggmf", 0x67676D66, (1,),      (MAGIC, VERSION, *HPARAMS), (*TOKEN, SCORE), TENSOR, multipart=True)
GGJT = Container("ggjt", 0x67676A74, (1, 2, 3), (MAGIC, VERSION, *HPARAMS), (*TOKEN, SCORE),
                 (*TENSOR, Align("padding", "zeros up to the alignment", ALIGNMENT)), multipart=False)
GGUF = Container("gguf", 0x46554747, (1, 2, 3), (MAGIC, VERSION), (), (), multipart=False)  # the rest: .gguf
# fmt: on

CONTAINERS: dict[str, Container] = {container.name: container for container in (GGML, GGMF, GGJT)}
BY_MAGIC: dict[int, Container] = {container.magic: container for container in CONTAINERS.values()}


class Use(NamedTuple):
    """When a version of a container was written, and what reads it."""

    written: str
    readers: str


# fmt: off
HISTORY: dict[tuple[str, int], Use] = {
    ("ggml", 0): Use("until 2023-03-20",        "llama.cpp until 2023-03-20, alpaca.cpp, this program"),
    ("ggmf", 1): Use("2023-03-20 – 2023-03-30", "llama.cpp 2023-03-20 to 2023-03-30, this program"),
    ("ggjt", 1): Use("2023-03-31 – 2023-05-11", "llama.cpp 2023-03-31 to 2023-05-11, this program"),
    ("ggjt", 2): Use("2023-05-12 – 2023-05-18", "llama.cpp 2023-05-12 to 2023-05-18, this program"),
    ("ggjt", 3): Use("2023-05-19 – 2023-08-20",
                     "llama.cpp 2023-05-19 to 2023-08-21, llama-cpp-python 0.1, this program"),
    ("gguf", 1): Use("2023-08",           "llama.cpp since 2023-08-21 (today's refuses version 1), this program"),
    ("gguf", 2): Use("2023-08 – 2023-10", "llama.cpp, Ollama, LM Studio and others of today, this program"),
    ("gguf", 3): Use("since 2023-10",     "llama.cpp, Ollama, LM Studio and others of today, this program"),
}
# fmt: on


def container_named(name: str) -> tuple[Container, int]:
    """The container and version of a name as the command line takes it: "ggjt1", "ggmf1", "ggml".

    Raises:
        UsageError: no such container.

    >>> container, version = container_named("ggjt3")
    >>> container.title(version)
    'ggjt v3'
    """
    names = {
        f"{container.name}{version or ''}": (container, version)
        for container in CONTAINERS.values()
        for version in container.versions
    }
    names["gguf"] = (GGUF, 3)
    aliases = {"ggmf": "ggmf1", "ggjt": "ggjt1", "gguf3": "gguf"}
    wanted = name.lower().replace(" ", "").replace("_", "").replace("v", "")
    found = names.get(aliases.get(wanted, wanted))
    if found is None:
        raise UsageError(f"unknown container {name!r}; choose one of {', '.join(names)}")
    return found


def container_of_name(path: str | os.PathLike[str], usual: str) -> str:
    """The container that a file's name asks for: "gguf" if it ends in .gguf, else the usual one.

    >>> container_of_name("7b.gguf", "ggjt1"), container_of_name("7b.bin", "ggjt1")
    ('gguf', 'ggjt1')
    """
    return "gguf" if os.fspath(path).lower().endswith(".gguf") else usual


def refuse_name(path: str | os.PathLike[str], container: str, instead: str = "") -> None:
    """Refuse to write another container under a name that says GGUF: every reader of today would call it damaged.

    Args:
        instead: how GGUF is asked for.

    Raises:
        UsageError: the name ends in .gguf and the container is another.
    """
    if container_of_name(path, container) != container:
        asked = f", or ask for GGUF: {instead}" if instead else ""
        raise UsageError(f"{os.fspath(path)} is named as GGUF, but {container} was asked for: name it .bin{asked}")
