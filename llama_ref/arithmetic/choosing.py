"""An arithmetic chosen by name, and which of them can evaluate a model."""

from __future__ import annotations

from typing import Any

from ggmlpy.files.errors import FormatError, UsageError
from ggmlpy.files.foreign import visible
from ggmlpy.formats.era_of_file import era_of_file
from ggmlpy.formats.eras import era_of
from ggmlpy.formats.model_file import ModelFile

from .exact.offered import check_exact
from .fast.offered import check_rows
from .model_keys import check_keys
from .rotation import rotation_of
from .transformer import Backend
from .weights import check_heads, check_weights

__all__ = ["NUMERICS", "arithmetics_of", "backend_class", "create_backend"]

NUMERICS = ("fast", "reference", "exact")


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
        FormatError: the arithmetic can't compute with the numbers of this model.
    """
    date = _date(file, era)
    make: Any = backend_class(numerics)
    _check(numerics, file, date, build)
    if numerics == "reference":
        return make(file)
    if numerics == "exact":
        return make(file, era=date, build=build or "scalar", n_threads=n_threads)
    return make(file, era=date, n_threads=n_threads)


def arithmetics_of(file: ModelFile) -> dict[str, str]:
    """By the name of each arithmetic, why it does not evaluate this model; "" where it does.

    It is what :meth:`.Evaluator.from_file` checks, for the era that wrote the file, before anything is computed.
    """
    return {numerics: _refusal(numerics, file) for numerics in NUMERICS}


def _refusal(numerics: str, file: ModelFile) -> str:
    try:
        _check(numerics, file, _date(file, None), None)
        check_keys(file)
        check_weights(file)
    except FormatError as error:
        return visible(error.problem)
    except UsageError as error:
        return str(error).removeprefix(f"{file.path} ").partition("; ")[0]  # whose file and what to take is known
    return ""


def _date(file: ModelFile, era: str | None) -> str:
    return (era_of_file(file) if era is None else era_of(era)).date


def _check(numerics: str, file: ModelFile, date: str, build: str | None) -> None:
    """What a single arithmetic asks of a model; what all of them ask stands in `model_keys` and `weights`."""
    check_heads(file)
    if numerics == "exact":
        check_exact(file, date, build or "scalar")
        return
    rotation_of(file)
    if numerics == "fast":
        check_rows(file)


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
