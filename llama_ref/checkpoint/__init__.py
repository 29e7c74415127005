"""Checkpoints: what ``torch.save`` writes, Meta's layout and Hugging Face's."""

from .pth import PthFile, open_pth
from .tensor import DTYPES, LazyTensor, widen_bfloat16

__all__ = ["DTYPES", "LazyTensor", "PthFile", "open_pth", "widen_bfloat16"]
