"""Checkpoints: what ``torch.save`` writes, Meta's layout and Hugging Face's."""

from .layout import Checkpoint, in_layout
from .opening import open_checkpoint
from .pth import PthFile, open_pth
from .pth_writer import TORCH_FORMATS, pth_size, write_pth
from .tensor import DTYPES, LazyTensor, widen_bfloat16

__all__ = [
    "DTYPES",
    "TORCH_FORMATS",
    "Checkpoint",
    "LazyTensor",
    "PthFile",
    "in_layout",
    "open_checkpoint",
    "open_pth",
    "pth_size",
    "widen_bfloat16",
    "write_pth",
]
