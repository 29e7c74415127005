"""An arithmetic chosen by name."""

from __future__ import annotations

from typing import Any

from ggmlpy.files.errors import UsageError
from ggmlpy.formats.era_of_file import era_of_file
from ggmlpy.formats.model_file import ModelFile

from .transformer import Backend


def create_backend(
    numerics: str,
    file: ModelFile,
    *,
    era: str | None = None,
    build: str | None = None,
    n_threads: int | None = None,
) -> Backend:
    """Return the backend called `numerics`, made for the shapes, types and era of `file`.

    Raises:
        UsageError: no such numerics, era or build, or a combination that is not offered.
    """
    from ggmlpy.formats.eras import era_of

    date = (era_of_file(file) if era is None else era_of(era)).date
    make: Any = backend_class(numerics)
    if numerics == "reference":
        return make(file)
    if numerics == "exact":
        return make(file, era=date, build=build or "scalar", n_threads=n_threads)
    return make(file, era=date, n_threads=n_threads)


def backend_class(numerics: str) -> type[Backend]:
    """The class of the backend called `numerics`, imported with all that it needs.

    Raises:
        UsageError: no such numerics.
    """
    if numerics == "reference":
        from .reference import ReferenceBackend

        return ReferenceBackend
    if numerics == "exact":
        from .exact.backend import ExactBackend

        return ExactBackend
    if numerics == "fast":
        from .fast.backend import FastBackend

        return FastBackend
    raise UsageError(f"no numerics called {numerics!r}; there are fast, reference and exact")
