"""Every verdict has one shape: a short repr, a table that a notebook shows, JUnit XML, and causes that can be added."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ggmlpy import OutTensor, open_model, write_model
from ggmlpy.verify.compare import compare
from ggmlpy.verify.judge import Deviation, Expected, verify_model
from ggmlpy.verify.verdict import Verdict
from tests.ggmlpy.models import write_tiny


@dataclass(repr=False)
class Odd(Verdict):
    """A verdict with nothing but what it must have."""

    right: bool

    @property
    def exit_code(self) -> int:
        return 0 if self.right else 1

    def sentence(self) -> str:
        return "right" if self.right else "<unk> is & stays <wrong>"

    def as_dict(self) -> dict[str, Any]:
        return {}

    def table(self):
        return ["piece"], [["<s>"]] * 60


def test_a_small_verdict_gets_the_rest():
    assert repr(Odd(True)) == "<Odd: right>"
    assert 'failures="0"' in Odd(True).junit()
    assert 'failures="1"' in Odd(False).junit()
    assert "&lt;unk&gt; is &amp; stays" in Odd(False).junit()
    assert Odd(False).markdown().startswith("<unk> is & stays <wrong>\n\n| piece |")


def test_a_notebook_shows_a_table_with_everything_escaped():
    page = Odd(False)._repr_html_()
    assert page.startswith("<p>&lt;unk&gt; is &amp; stays &lt;wrong&gt;</p>\n<table><tr><th>piece</th></tr>")
    assert "<s>" not in page
    assert page.count("&lt;s&gt;") == 50
    assert "and 10 more" in page


def test_comparisons_in_a_notebook(tmp_path):
    a, b = write_tiny(tmp_path / "a.bin"), write_tiny(tmp_path / "b.bin", seed=1)
    with open_model(a) as first, open_model(b) as second:
        result = compare(first, second)
        assert repr(compare(first, first)) == "<Comparison: same content>"
        assert compare(first, first)._repr_html_() == "<p>same content</p>\n"
    assert repr(result).startswith("<Comparison: different: ") or "values differ" in repr(result)
    assert "<td>tok_embeddings.weight</td><td>differs</td>" in result._repr_html_()


def doubled(source, target):
    """A model whose norm.weight has twice its values."""
    with open_model(source) as model:
        tensors = [
            OutTensor(
                t.name,
                t.type,
                t.shape,
                lambda t=t: [t.numpy() * np.float32(2)] if t.name == "norm.weight" else [t.raw()],
            )
            for t in model.tensors.values()
        ]
        pairs = list(zip(model.vocab, model.vocab.scores.tolist(), strict=True))
        write_model(target, model.container, model.version, model.hparams, pairs, tensors)
    return target


class Factor:
    """A cause that is measured, not remade."""

    def explain(self, found, difference):
        ratio = difference.b.values[0] / difference.a.values[0]
        return f"{found.name} was multiplied by {ratio:g}" if ratio == round(ratio) else None


def test_a_cause_is_added_by_adding_an_explainer(tmp_path):
    source = write_tiny(tmp_path / "a.bin", type_name="f16")
    with open_model(source) as model, open_model(doubled(source, tmp_path / "b.bin")) as output:
        tensors = [OutTensor(t.name, t.type, t.shape, t.chunks) for t in model.tensors.values()]
        pairs = list(zip(model.vocab, model.vocab.scores.tolist(), strict=True))
        expected = Expected("copy", model.container, model.version, model.hparams, pairs, tensors)
        unexplained = verify_model(output, expected, "a.bin")
        never = Deviation("never", lambda name: None)
        explained = verify_model(output, replace(expected, explainers=[never, Factor()]), "a.bin")
    assert (unexplained.causes, unexplained.unexplained) == ([], ["norm.weight"])
    assert [str(cause) for cause in explained.causes] == [
        "norm.weight was multiplied by 2 (explains 1 of 1 differing tensors, norm.weight among them)"
    ]
    assert explained.unexplained == []
