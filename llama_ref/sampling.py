"""A path that version 1.1 documented; scripts import it. New code: ``from llama_ref import SamplingOptions``."""

from .text.sampling import SamplingOptions

__all__ = ["SamplingOptions"]
