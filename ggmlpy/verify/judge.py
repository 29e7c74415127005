"""Is an output what it should be, and if not, what was done instead?

The expected output is recomputed a few rows at a time and compared while it passes; nothing is written and no tensor is
held whole. What differs is explained by trying: each *explainer* is one known mistake (or another era), and is named
if it accounts for exactly what is there. Most are a :class:`Deviation`, which says what the mistake would have written
for a tensor; to add a cause, add one to the table of the step that it belongs to.

:func:`verify_model` judges a model file. Whoever knows a step hands it an :class:`Expected`: quantizing and migrating
in :mod:`.quantization`, conversions and merges in the packages that know checkpoints. What else of a file is looked at
(numbers, vocabulary, order, structure) is the table :data:`.aspects.ASPECTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ggmlpy.files.foreign import visible
from ggmlpy.formats.model_file import ModelFile
from ggmlpy.formats.out_tensor import OutTensor
from ggmlpy.formats.row_reader import RowSource

from .aspects import container_differences
from .exchanged import Exchanged
from .expected import Deviation, Expected, Explainer
from .numbers import Difference
from .plain_causes import EXACT, SEEN
from .tables import figures, first_difference, headings, tensor_table
from .tensors import Found, TensorDifference, compare_tensors
from .terms import AGAINST, OTHER_BEHAVIOR, SAME
from .verdict import Table, Verdict, markdown_table

__all__ = [
    "Cause",
    "Deviation",
    "Expected",
    "Explainer",
    "OutputReport",
    "compare_tensor",
    "explain",
    "settle",
    "verify_model",
]

Progress = Callable[[int], object]
IDENTICAL, CONTENT, OTHER_ERA, DIFFERS = "identical bytes", "identical content", "identical to another era", "differs"
ROUNDING = "identical within rounding"
WIDTHS = {"different": 12, "of": 12, "median ulp": 11, "max ulp": 14, "max error": 11}


@dataclass(frozen=True)
class Cause:
    """What explains differing tensors exactly."""

    name: str
    explains: int
    of: int
    example: str = ""
    era: str | None = None

    def __str__(self) -> str:
        return f"{self.name} (explains {self.explains} of {self.of} differing tensors, {self.example} among them)"


@dataclass(repr=False)
class OutputReport(Verdict):
    """The verdict on an output.

    Attributes:
        verdict: "identical bytes", "identical content", "identical to another era", "identical within rounding", "same
            tensors, other behavior" or "differs".
        behavior: differences of numbers, keys or vocabulary with which a reader computes something else, in words.
        container: how header, order or layout differ beside that, in words.
        tensors: one entry per tensor.
        causes: what explains differing tensors, the most telling first.
        unexplained: differing tensors that no single cause explains.
        era: the era whose way it is, if not the expected one's.
        rounding: how far values are off, in words, if rounding accounts for all that differs.
        warnings: what is no difference, and yet should be known.
        made_by: which program makes the expected output of this source, with which options, if that was found out.
    """

    output: str
    source: str
    step: str
    verdict: str = IDENTICAL
    behavior: list[str] = field(default_factory=list)
    container: list[str] = field(default_factory=list)
    tensors: list[TensorDifference] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    era: str | None = None
    rounding: str = ""
    warnings: list[str] = field(default_factory=list)
    made_by: str = ""

    @property
    def differing(self) -> list[TensorDifference]:
        return [tensor for tensor in self.tensors if tensor.status != SAME]

    @property
    def exit_code(self) -> int:
        """0 if it is what it should be, in whatever container; 1 if not."""
        return 1 if self.verdict in (OTHER_BEHAVIOR, DIFFERS) else 0

    def sentence(self) -> str:
        """The verdict in words."""
        if self.verdict == OTHER_ERA:
            return f"identical to what era {self.era} would write"
        if self.verdict == ROUNDING:
            return f"{ROUNDING}: " + "; ".join([self.rounding, *self.container])
        if self.verdict == CONTENT:
            return "identical content, other container: " + "; ".join(self.container)
        if self.verdict == OTHER_BEHAVIOR:
            return f"{OTHER_BEHAVIOR}: " + "; ".join(self.behavior + self.container)
        if self.verdict == IDENTICAL:
            return f"{IDENTICAL}: these are what {self.made_by} makes of this source" if self.made_by else IDENTICAL
        values = sum(tensor.n_different for tensor in self.differing)
        farthest = max((tensor.max_ulp for tensor in self.differing), default=0)
        words = [f"{len(self.differing)} of {len(self.tensors)} tensors, {values:,} values, at most {farthest:,} ulp"]
        if not values and all(tensor.n_values for tensor in self.differing):
            kinds = {tensor.status for tensor in self.differing if tensor.odd}
            words = [f"{len(self.differing)} of {len(self.tensors)} tensors, same values, {'; '.join(sorted(kinds))}"]
        return "differs: " + "; ".join((words if self.differing else []) + self.behavior + self.container)

    def note(self, differences: Iterable[Difference]) -> None:
        """Keep what differs beside the tensors."""
        for difference in differences:
            (self.behavior if difference.changes_results else self.container).append(difference.words)

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """The table of tensors, the first difference, and the causes."""
        if self.differing:
            yield f"{'tensor':<44} {headings(WIDTHS)}"
        for item in self.tensors if verbose else self.differing:
            yield f"{item.name:<44} {figures(item, WIDTHS)}" + (f"  {item.status}" if item.odd else "")
        yield from first_difference(self.differing, AGAINST)
        yield from (f"warning: {warning}" for warning in self.warnings)
        yield from (f"likely cause: {cause}" for cause in self.causes)
        if self.unexplained:
            yield f"unexplained: {len(self.unexplained)} tensors, {self.unexplained[0]} among them"

    def closing(self) -> str:
        """The step and the verdict."""
        return f"{self.step}: {self.sentence()}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"sentence": self.sentence(), **asdict(self)}

    def table(self) -> Table:
        """The tensors that differ."""
        return tensor_table(self.differing)

    def markdown(self) -> str:
        """A summary for a CI job: the verdict, the causes, and a table of the tensors that differ."""
        lines = [f"**{self.output}** against {self.source} ({self.step}): {self.sentence()}", ""]
        lines += [f"- warning: {warning}" for warning in self.warnings]
        lines += [f"- likely cause: {cause}" for cause in self.causes]
        lines += [f"- no known mistake explains {name}" for name in self.unexplained[:5]]
        table = markdown_table(*self.table(), n_words=2)
        return "\n".join(map(visible, lines)) + "\n" + ("\n" + table if table else "")

    def suite(self) -> str:
        """The step and its source."""
        return f"{self.step} of {self.source}"

    def cases(self) -> dict[str, str]:
        """One test case per tensor, and one for the container."""
        because = "; ".join(map(str, self.causes)) or "no known mistake explains it"
        words = f"{self.sentence()}\nlikely cause: {because}"
        wrong = bool(self.exit_code)
        cases = {"container": "; ".join(self.behavior + self.container) if wrong else ""}
        for t in self.tensors:
            problem = f"{t.status}: {t.n_different:,} of {t.n_values:,} values, at most {t.max_ulp:,} ulp\n{words}"
            cases[t.name] = problem if wrong and t.status != SAME else ""
        return cases


def verify_model(output: ModelFile, expected: Expected, source: str, progress: Progress | None = None) -> OutputReport:
    """Compare an output with what it should be.

    Args:
        source: what to call the source in the report.
        progress: called with the number of expected bytes after each piece, and with 0 while a cause is looked for.
    """
    report = OutputReport(str(output.path), source, expected.step)
    report.note(container_differences(output, expected))
    found = {tensor.name: Found.of(RowSource(tensor), str(output.path)) for tensor in output.stored}
    report.tensors = [compare_tensor(tensor, found.get(tensor.name), progress) for tensor in expected.tensors]
    known = {tensor.name for tensor in expected.tensors}
    report.tensors += [compare_tensor(None, tensor) for name, tensor in found.items() if name not in known]
    exchanged = Exchanged({tensor.name: tensor for tensor in expected.tensors})
    explain(report, found, [*expected.explainers, exchanged], progress)
    return settle(report)


def compare_tensor(
    expected: OutTensor | None, found: Found | None, progress: Progress | None = None
) -> TensorDifference:
    """One tensor as it is against how it should be, byte for byte.

    Args:
        progress: called with the number of expected bytes after each piece.
    """
    if progress is None or expected is None:
        return compare_tensors(expected, found, AGAINST)
    row_bytes = expected.type.row_bytes(expected.shape[-1])
    return compare_tensors(expected, found, AGAINST, lambda n_rows: progress(n_rows * row_bytes))


def settle(report: OutputReport) -> OutputReport:
    """Draw the verdict from what was found."""
    report.verdict = _verdict(report)
    return report


def _verdict(report: OutputReport) -> str:
    if not report.differing:
        return OTHER_BEHAVIOR if report.behavior else CONTENT if report.container else IDENTICAL
    if report.rounding and not report.behavior:
        return ROUNDING
    if report.era and not report.unexplained and not report.container and not report.behavior:
        return OTHER_ERA
    return DIFFERS


# ── causes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def explain(
    report: OutputReport,
    found: Mapping[str, Found],
    explainers: Iterable[Explainer],
    progress: Progress | None = None,
) -> None:
    """Name the causes of exactly what is there; what none explains is left as unexplained.

    Args:
        progress: called with 0 before each tensor that an explainer looks at, so that a progress bar can show activity.
    """
    if not report.differing:
        return
    explained = list(_explained(report, found, [*map(_Plain, EXACT), *explainers, *map(_Seen, SEEN)], progress))
    report.unexplained = [tensor.name for tensor in report.differing]
    chosen: list[Explainer] = []
    for words, explainer, names in sorted(explained, key=lambda item: -len(item[2])):
        new = [name for name in names if name in report.unexplained]
        if new:
            era = explainer.era if isinstance(explainer, Deviation) else None
            report.causes.append(Cause(words, len(names), len(report.differing), names[0], era))
            report.unexplained = [name for name in report.unexplained if name not in new]
            chosen.append(explainer)
    if len(chosen) == 1 and not report.unexplained:
        report.era = _era(report, found, chosen[0])


@dataclass(frozen=True)
class _Plain:
    """The explainer of a cause that is seen at once."""

    see: Callable[[Found, TensorDifference], str | None]

    def explain(self, found: Found, difference: TensorDifference) -> str | None:
        return self.see(found, difference)


class _Seen(_Plain):
    """The explainer of what a person sees in the values, where no mistake explains them."""


def _explained(
    report: OutputReport, found: Mapping[str, Found], explainers: Iterable[Explainer], progress: Progress | None
) -> Iterator[tuple[str, Explainer, list[str]]]:
    """What each explainer says, and of which tensors; none is asked after one that explains all."""
    differing = [tensor for tensor in report.differing if tensor.name in found]
    explained: set[str] = set()
    for explainer in explainers:
        said: dict[str, list[str]] = {}
        for tensor in differing:
            if isinstance(explainer, _Seen) and tensor.name in explained:
                continue
            if progress:
                progress(0)
            words = explainer.explain(found[tensor.name], tensor)
            if words:
                said.setdefault(words, []).append(tensor.name)
        yield from ((words, explainer, names) for words, names in said.items())
        if isinstance(explainer, _Seen):
            continue
        explained.update(name for names in said.values() for name in names)
        if isinstance(explainer, _Plain):  # what is as plain as this is no mistake's
            told = {name for names in said.values() for name in names}
            differing = [tensor for tensor in differing if tensor.name not in told]
        elif sum(map(len, said.values())) == len(differing):
            return
        if not differing:
            return


def _era(report: OutputReport, found: Mapping[str, Found], explainer: Explainer) -> str | None:
    """The era whose way the whole output is, the tensors included that are as expected."""
    if not isinstance(explainer, Deviation) or explainer.era is None:
        return None
    same = [tensor.name for tensor in report.tensors if tensor.status == SAME]
    return explainer.era if all(explainer.allows(found[name]) for name in same) else None
