"""Checkpoints: what ``torch.save`` writes, safetensors, and the layouts of Meta and Hugging Face.

From the folder down to the bytes; a file imports only what stands below it:

=========================================  ============================================================================
who                                        does what
=========================================  ============================================================================
:mod:`.opening`                            opens a model of either layout: the way in
:mod:`.fingerprint`                        one digest of a model's content
:mod:`.meta`, :mod:`.huggingface`          each layout: joins shards, maps names, permutes rows
:mod:`.layout`                             an open model, the checks of its tensors, the rotary permutation
:mod:`.folder`                             one look at a directory: its weight files, its layout, its JSON
:mod:`.params`                             a model's shape, from ``params.json`` and ``config.json``
:mod:`.weights`                            one weight file of either kind, opened or written
:mod:`.safetensors_file`                   safetensors, read lazily and written
:mod:`.pth`                                reads ``torch.save``'s files, with the two walls:
:mod:`.torch_zip`                          … the zip archive, every offset checked
:mod:`.pickle_reader`                      … the pickle, interpreted by an allow-list of opcodes
:mod:`.pickle_values`                      … the allow-list of names, and the values they stand for
:mod:`.legacy`                             the files of torch before 1.6
:mod:`.pth_writer`                         writes ``torch.save``'s very bytes:
:mod:`.pth_pickle`, :mod:`.pth_archive`    … the pickle, and the archive around it
:mod:`.torch_formats`                      … what differs between the versions of torch
:mod:`.serialization_id`                   … the digits that torch 2.1 and later add
:mod:`.crc32`                              CRC-32, faster than zlib's where the processor can
:mod:`.tensor`                             one tensor, read when it is asked for; element types
:mod:`.known_files`                        SHA256 of published files
=========================================  ============================================================================
"""

from .layout import Checkpoint, Heads, in_layout
from .opening import open_checkpoint
from .pth import PthFile, open_pth
from .pth_writer import pth_size, write_pth
from .tensor import DTYPES, LazyTensor, widen_bfloat16
from .torch_formats import TORCH_FORMATS

__all__ = [
    "DTYPES",
    "TORCH_FORMATS",
    "Checkpoint",
    "Heads",
    "LazyTensor",
    "PthFile",
    "in_layout",
    "open_checkpoint",
    "open_pth",
    "pth_size",
    "widen_bfloat16",
    "write_pth",
]
