"""The path that the README of version 1.1 documented; scripts import it. New code: ``from llama_ref import Model``."""

from .text.model import Model

__all__ = ["Model"]
