"""A progress bar for whoever calls the libraries: in a notebook, or in a script on a terminal.

    with ggmlpy.ProgressBar("quantize") as bar:
        ggmlpy.quantize_file("f16.bin", "q4_0.bin", "q4_0", progress=bar)
    with ggmlpy.ProgressBar("merge") as bar:
        lora.merge("llama-7b", ["chinese-llama-lora", "chinese-alpaca-lora"], "out", progress=bar)
    with ggmlpy.ProgressBar("load"):
        model = llama_ref.Model.from_file("q4_0.bin")  # the first time, kernels are compiled

The bars are tqdm's, which draws them as Jupyter does where ``ipywidgets`` is installed (``pip install
'ggmlpy[notebook]'``). Without one, the libraries show nothing.
"""

from __future__ import annotations

from typing import Any

from .machine.compiling import watch_compiling

__all__ = ["ProgressBar"]


class ProgressBar:
    """A bar on stderr or in a notebook, to be used with ``with``; what kernels are being compiled stands beside it.

    It is what the ``progress`` of a function may be: it adds up the amounts it is called with, and shows of how much,
    where it is told. Functions that say how far they are, and not by how much they went on, take `up_to`.

    Args:
        what: in front of the bar.
        total: the amount at the end, if it is known.
        unit: of what: "B" for bytes.

    >>> import io
    >>> out = io.StringIO()
    >>> with ProgressBar("quantize", file=out, ascii=True) as bar:
    ...     bar(256, 1024)
    ...     bar(512, 1024)
    >>> out.getvalue().rpartition("\\r")[2][:14]
    'quantize:  75%'
    """

    def __init__(self, what: str, total: float | None = None, unit: str = "B", **of_tqdm: Any) -> None:
        self._options = {
            "desc": what,
            "total": total,
            "unit": unit,
            "unit_scale": True,
            "unit_divisor": 1024 if unit == "B" else 1000,
            **of_tqdm,
        }
        self._n_compiled = 0

    def __enter__(self) -> ProgressBar:
        from tqdm.auto import tqdm

        self._bar = tqdm(**self._options)
        self._watcher = watch_compiling(self._compiles)
        return self

    def __exit__(self, *_: object) -> None:
        watch_compiling(self._watcher)
        self._bar.close()

    def __call__(self, amount: float, total: float | None = None) -> None:
        """Go on by an amount, out of a total."""
        self._bar.total = self._bar.total if total is None else total
        self._bar.update(amount)

    def up_to(self, done: float) -> None:
        """Go as far as this."""
        self._bar.update(done - self._bar.n)

    def _compiles(self, name: str) -> None:
        self._n_compiled += bool(name)
        self._bar.set_postfix_str(f"compiling {name}: {self._n_compiled} functions" if name else "")
