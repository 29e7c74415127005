"""The verdict on a file of logits, and how far they are from one way of computing them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ggmlpy.verify.verdict import Table, Verdict

from .ways import Way

__all__ = ["Distance", "LogitsReport", "TokenDistance"]

SHOWN_TOKENS = 12  # in the text of a report
ROUNDING = 1e-4  # standard deviations: another order of sums in float32 is up to 1e-5 away


@dataclass(frozen=True)
class TokenDistance:
    """One token's logits: how many differ, and their distance in ulp (over all of them)."""

    different: int
    median_ulp: float
    max_ulp: int


@dataclass(frozen=True)
class Distance:
    """How far the logits are from one way of computing them.

    Attributes:
        changed: in words, which operation was done otherwise, if one was.
        different: values whose bits differ.
        rms: root of the mean squared difference, in standard deviations of the logits.
        tokens: one entry a row that was compared.
    """

    way: Way
    different: int
    median_ulp: float
    max_ulp: int
    rms: float
    tokens: tuple[TokenDistance, ...]
    changed: str = ""

    @property
    def identical(self) -> bool:
        return self.different == 0

    @property
    def same_tokens(self) -> int:
        return sum(token.different == 0 for token in self.tokens)

    @property
    def first_token(self) -> int | None:
        """The first row that differs."""
        return next((i for i, token in enumerate(self.tokens) if token.different), None)

    def __str__(self) -> str:
        return f"{self.way}" + (f", but {self.changed}" if self.changed else "")


@dataclass(repr=False)
class LogitsReport(Verdict):
    """What was found.

    Attributes:
        shape: of the logits in the file.
        identical: all ways that give exactly these bits.
        closest: the nearest way, where none does.
        causes: what was found by trying, the most telling first.
        reference_rms: distance from plain float32 arithmetic, in standard deviations of the logits.
        usual_rms: the largest such distance that llama.cpp's own ways have.
        tried: how many ways were computed.
        truths: by program, the distance from plain float32 arithmetic as that program reads the model, in standard
            deviations of the logits; transformers only where it reads it otherwise than llama.cpp.
    """

    path: str
    model: str
    shape: tuple[int, int]
    identical: list[Distance] = field(default_factory=list)
    closest: Distance | None = None
    causes: list[str] = field(default_factory=list)
    reference_rms: float = 0.0
    usual_rms: float = 0.0
    tried: int = 0
    truths: dict[str, float] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 if some way gives these bits, or no way can and they are a program's but for rounding; else 1."""
        return 0 if self.identical or (not self.tried and self.nearest_truth[1] <= ROUNDING) else 1

    @property
    def nearest_truth(self) -> tuple[str, float]:
        """The program whose reading of the model is nearest, and how near it is."""
        return min(self.truths.items(), key=lambda item: item[1], default=("", float("inf")))

    @property
    def plausible(self) -> bool:
        """Whether they are as near to plain arithmetic as llama.cpp's own results are (twice as far at most)."""
        return bool(self.reference_rms <= 2 * self.usual_rms)

    def sentence(self) -> str:
        """The verdict in words."""
        if self.identical:
            return "identical bit for bit to " + "; ".join(map(str, self.identical))
        near = self.closest
        if near is None:
            who, rms = self.nearest_truth
            what = f"what {who} computes, but for rounding" if rms <= ROUNDING else f"nearest to what {who} computes"
            return f"{what}: {rms:.2g} standard deviations away. No era and build on offer computes this model exactly"
        figures = (
            f"{near.different:,} of {self.shape[0] * self.shape[1]:,} values differ, median {near.median_ulp:g} ulp"
        )
        return f"differs; the closest is {near}: {figures}, at most {near.max_ulp:,} ulp"

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """The causes, and how far each token's logits are from the closest way."""
        yield from (f"likely cause: {cause}" for cause in self.causes)
        if len(self.truths) > 1:
            yield "llama.cpp and transformers compute this model differently (YaRN's factor or bounds):"
            yield from (f"{rms:.2g} standard deviations from what {who} computes" for who, rms in self.truths.items())
        if self.closest is not None:
            yield "token  different  median ulp       max ulp"
            rows = [(i, token) for i, token in enumerate(self.closest.tokens) if token.different]
            for index, token in rows[:SHOWN_TOKENS]:
                yield f"{index:5}  {token.different:9,}  {token.median_ulp:10g}  {token.max_ulp:12,}"
            if len(rows) > SHOWN_TOKENS:
                yield f"… and {len(rows) - SHOWN_TOKENS} more tokens"
            yield (
                f"{self.reference_rms:.2g} standard deviations from plain float32 arithmetic; "
                f"llama.cpp's own results for this model are up to {self.usual_rms:.2g} away"
            )

    def closing(self) -> str:
        """The verdict on these logits."""
        return f"logits: {self.sentence()}"

    def suite(self) -> str:
        """The model that they were computed with."""
        return f"logits of {self.model}"

    def cases(self) -> dict[str, str]:
        """One test case: the file."""
        return {self.path: self.problem()}

    def table(self) -> Table:
        """The tokens whose logits differ from the closest way's."""
        tokens = [] if self.closest is None else [(i, t) for i, t in enumerate(self.closest.tokens) if t.different]
        rows = [[str(i), f"{t.different:,}", f"{t.median_ulp:g}", f"{t.max_ulp:,}"] for i, t in tokens]
        return ["token", "different", "median ulp", "max ulp"], rows

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        ways = [{"words": str(found), **asdict(found.way)} for found in self.identical]
        closest = None
        if self.closest is not None:
            closest = {"words": str(self.closest), "first_token": self.closest.first_token, **asdict(self.closest)}
        return {
            "output": self.path,
            "model": self.model,
            "shape": list(self.shape),
            "verdict": "identical" if self.identical else "differs" if self.exit_code else "same but for rounding",
            "sentence": self.sentence(),
            "identical": ways,
            "closest": closest,
            "causes": self.causes,
            "reference_rms": self.reference_rms,
            "usual_rms": self.usual_rms,
            "plausible": self.plausible,
            "tried": self.tried,
            "truths": self.truths,
        }
