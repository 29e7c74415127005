"""A model as generate and chat want it: opened, with its adapters, and what should be known of it said."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from toolchain.terminal.talk import say

from .adapters import add_lora
from .options import arithmetic_of, model_or_demo, say_passed_over

if TYPE_CHECKING:
    from ggmlpy.formats.model_file import ModelFile
    from llama_ref.text.model import Model

__all__ = ["Loading"]


class Loading:
    """A model's file that is open, and the time that loading took. Without a name, it is the demo model's.

    The file is opened first, so that it is read ahead while the rest is imported.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        from ggmlpy import open_model

        path = model_or_demo(args)
        self.began = time.perf_counter()
        self.file = add_lora(args, open_model(path))
        if args.numerics == "fast":
            self.file.touch_ahead()
        self.seconds = time.perf_counter() - self.began

    def model(self, args: argparse.Namespace) -> Model:
        """The model; it closes the file."""
        from llama_ref.arithmetic.choosing import backend_class
        from llama_ref.text.model import Model

        n, params = args.ctx_size, self.file.hparams
        if n > params.context_length:
            of = "LLaMA" if params.n_ctx_train is None else "this model"
            beyond = f"{of} was trained on {params.context_length} positions; expect poor results beyond them (-c {n})"
            say(args, f"warning: {beyond}")
        if params.rope_scaling is not None and params.rope_scaling.type != "none":
            by = "" if params.rope_scaling.factor is None else f", factor {params.rope_scaling.factor:g}"
            say(args, f"rope scaling: {params.rope_scaling.type}{by}")
        say_passed_over(args, self.file, n)
        if args.numerics == "fast":
            _say_widened(args, self.file)
        backend_class(args.numerics)  # importing is not part of loading
        began = time.perf_counter()
        model = Model.from_file(self.file, n_ctx=n, **arithmetic_of(args))
        self.seconds += time.perf_counter() - began
        return model


def _say_widened(args: argparse.Namespace, file: ModelFile) -> None:
    """What memory a model takes whose types the fast kernels don't read where they lie."""
    from llama_ref.arithmetic.fast.layouts import widened

    names, size = widened(file)
    if names:
        say(args, f"widening {', '.join(names)} in memory: {size / 1e6:,.0f} MB, with the same values")
