"""Are two models the same, whatever containers they lie in? If not, where do they part?

Tensors are compared by the values they decode to, a few rows at a time (:mod:`.tensors`). The first difference is
decoded on both sides down to the block: where it stands, its scale, its codes, its values. For quantized tensors that
differ, :mod:`.whose_quantizer` says which era's quantizer each side looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ggmlpy.formats.carrying import unstated
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.row_reader import RowSource

from .numbers import NUMBERS, Difference, params_differences
from .tables import figures, first_difference, headings, tensor_table
from .tensors import Found, TensorDifference, compare_tensors
from .terms import BETWEEN, DIFFERS, OTHER_BEHAVIOR, SAME, Terms
from .verdict import Table, Verdict
from .vocabularies import type_differences, vocabulary_differences
from .whose_quantizer import quantizer_signs

__all__ = ["Comparison", "compare", "missing_tensors"]

WIDTHS = {"different": 12, "of": 12, "max ulp": 14, "max error": 12}


@dataclass(repr=False)
class Comparison(Verdict):
    """The result of :func:`compare`.

    Attributes:
        verdict: "same content", "same tensors, other behavior", "values differ" or "different".
        header, vocabulary: what else differs, in words.
        behavior: those of these words that change what a reader computes.
        tensors: one entry per tensor.
        missing: what only one of them holds, in words; it is not compared then.
        explained: for each side, "A" or "B", how many of its differing tensors each era's quantizer explains.
    """

    header: list[str] = field(default_factory=list)
    vocabulary: list[str] = field(default_factory=list)
    behavior: list[str] = field(default_factory=list)
    tensors: list[TensorDifference] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    explained: dict[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def differing(self) -> list[TensorDifference]:
        return [tensor for tensor in self.tensors if tensor.status != SAME]

    @property
    def n_different(self) -> int:
        return sum(tensor.n_different for tensor in self.tensors)

    @property
    def max_ulp(self) -> int:
        return max((tensor.max_ulp for tensor in self.tensors), default=0)

    @property
    def verdict(self) -> str:
        if any(tensor.odd for tensor in self.tensors) or self.vocabulary:
            return "different"
        if self.differing:
            return "values differ"
        return OTHER_BEHAVIOR if self.behavior else "same content"

    @property
    def exit_code(self) -> int:
        """0 if the content is the same, 1 if not."""
        return 0 if self.verdict == "same content" else 1

    def sentence(self) -> str:
        """The verdict in words."""
        match self.verdict:
            case "same content" if self.missing:
                return f"same tokenizer; {'; '.join(self.missing)}"
            case "same content":
                return "same content"
            case _ if self.verdict == OTHER_BEHAVIOR:
                return f"{OTHER_BEHAVIOR}: " + "; ".join(self.behavior)
            case "values differ":
                count = len(self.differing)
                return f"{self.n_different:,} values differ in {count} tensors, at most {self.max_ulp:,} ulp"
        strange = [f"{tensor.name} {tensor.status}" for tensor in self.tensors if tensor.odd]
        return "different: " + "; ".join(self.header + self.vocabulary + strange[:5] + self.missing)

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """The table of tensors, the first difference, who quantized which side, and the header."""
        if self.differing:
            yield f"{'tensor':<40} {'types':<28} {headings(WIDTHS)}"
        for item in self.tensors if verbose else self.differing:
            types = " / ".join(dict.fromkeys(item.types))
            yield f"{item.name:<40} {types:<28} {item.status if item.odd else figures(item, WIDTHS)}"
        yield from first_difference(self.differing, BETWEEN)
        count = sum(item.status == DIFFERS for item in self.differing)
        yield from (
            f"  {side}: {_explanation(eras)} of {count} differing tensors" for side, eras in self.explained.items()
        )
        yield from (f"header: {note}" for note in self.header)

    def table(self) -> Table:
        """The tensors that differ."""
        return tensor_table(self.differing)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"verdict": self.verdict, "sentence": self.sentence(), **asdict(self)}


def _explanation(eras: Mapping[str, int]) -> str:
    most = max(eras.values(), default=0)
    names = ", ".join(era for era, explains in eras.items() if explains == most)
    return f"the quantizer of {names} explains {most}" if most else "no era's quantizer explains any"


def compare(
    a: ModelFile,
    b: ModelFile,
    *,
    tolerance: float = 0.0,
    progress: Callable[[int], object] | None = None,
) -> Comparison:
    """Compare two models independently of their containers.

    Args:
        tolerance: absolute differences up to this count as equal.
        progress: called with the number of values compared after each chunk.
    """
    terms = replace(BETWEEN, tolerance=tolerance)
    scores = (a.vocab.scores, b.vocab.scores) if a.declared.scored and b.declared.scored else None
    result = Comparison()
    numbers = list(params_differences(a.hparams, b.hparams, terms, _unstated(a, b)))
    differ = () if a.as_stored or b.as_stored else vocabulary_differences(a.vocab, b.vocab, scores, terms)
    pieces = [Difference(words) for words in differ]
    types = () if a.vocab.types is None or b.vocab.types is None else (a.vocab.types, b.vocab.types)
    kinds = list(type_differences(a.vocab, *types, terms)) if types else []
    result.header = [difference.words for difference in [*numbers, *kinds]]
    result.vocabulary = [difference.words for difference in pieces]
    result.behavior = [difference.words for difference in [*numbers, *kinds, *pieces] if difference.changes_results]
    result.missing = missing_tensors(a.tensors, b.tensors)
    names = [*a.tensors, *(name for name in b.tensors if name not in a.tensors)]
    for name in [] if result.missing else names:
        result.tensors.append(_compared(name, a, b, terms, progress))
    return result


def missing_tensors(a: Collection[str], b: Collection[str]) -> list[str]:
    """Which of two sides holds no tensors, if the other does: a vocabulary alone is compared with a model's.

    >>> missing_tensors([], ["norm.weight"])
    ['A holds no tensors']
    """
    return [f"{side} holds no tensors" for side, ours, theirs in (("A", a, b), ("B", b, a)) if theirs and not ours]


def _unstated(a: ModelFile, b: ModelFile) -> Collection[str]:
    """What one of the two containers has no place for, or nothing here understands."""
    if a.as_stored != b.as_stored:
        return {*NUMBERS, "other"} - {"architecture"}
    gguf = [model.container == "gguf" for model in (a, b)]
    if all(gguf):
        return ()
    return {*unstated("ggml"), "other"} - {"n_mult"} if any(gguf) else {*NUMBERS, "other"} - {*a.hparams.header()}


def _compared(
    name: str, a: ModelFile, b: ModelFile, terms: Terms, progress: Callable[[int], object] | None
) -> TensorDifference:
    ours, theirs = _tensor_of(a, name), _tensor_of(b, name)
    passed = (lambda n_rows: progress(n_rows * ours.shape[-1])) if progress and ours else None
    result = compare_tensors(ours, theirs, terms, passed)
    if result.status == DIFFERS:
        result.signs = (quantizer_signs(a.tensors[name]), quantizer_signs(b.tensors[name]))
    return result


def _tensor_of(model: ModelFile, name: str) -> Found | None:
    return Found.of(RowSource(model.tensors[name]), str(model.path)) if name in model.tensors else None
