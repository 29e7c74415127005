"""The HTML report: one file, no network, the figures of the model in it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ggmlpy import FormatError, ModelParams, open_model
from ggmlpy.files.foreign import visible
from ggmlpy.look.report import _finite_within, report_data, script_data, write_report
from tests.ggmlpy.models import write_tiny


def page_data(text: str) -> dict:
    return json.loads(re.search(r"const DATA = (.*);\n", text)[1])


def test_the_page_stands_alone_and_holds_the_data(golden, tmp_path):
    source = golden("ggml/T1_convert_f16/T1.p2.f16.bin")
    write_report(golden("ggml/T1_quant_p2/T1.q4_0.bin"), tmp_path / "r.html", source)
    text = (tmp_path / "r.html").read_text("utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org)|@import|<link|src=", text)
    data = page_data(text)
    assert data["file"] == "T1.q4_0.bin"
    assert len(data["tensors"]) == 21
    assert data["fields"][2]["field"] == "header.n_vocab"


def test_errors_and_histograms_are_over_all_values(golden):
    quantized, source = golden("ggml/T1_quant_p2/T1.q4_0.bin"), golden("ggml/T1_convert_f16/T1.p2.f16.bin")
    data = report_data(quantized, source)
    with open_model(quantized) as a, open_model(source) as b:
        for row in data["tensors"]:
            error = a.tensors[row["name"]].numpy().astype(np.float64) - b.tensors[row["name"]].numpy()
            assert row["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
            assert row["max_error"] == pytest.approx(np.abs(error).max())
            assert sum(row["histogram"]) == (error.size if row["type"] == "q4_0" else 0)


def test_sampled_blocks_are_those_of_the_file(golden):
    path = golden("ggml/T1_quant_p2/T1.q4_0.bin")
    (row,) = [row for row in report_data(path)["tensors"] if row["name"] == "output.weight"]
    with open_model(path) as model:
        raw = model.tensors["output.weight"].raw_rows(0, 400)
        for block in row["sample"]:
            assert bytes.fromhex(block["hex"]) == raw[block["row"], 20 * block["block"] :][:20].tobytes()


def test_nan_and_markup_in_a_file_do_not_break_the_page(tmp_path):
    path = write_tiny(tmp_path / "m.bin")
    data = bytearray(path.read_bytes())
    with open_model(path) as model:
        at = model.tensors["output.weight"].offset
    data[at : at + 4] = np.float32(np.nan).tobytes()
    data[40:44] = b"</sc"
    path.write_bytes(data)
    write_report(path, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8")
    assert text.count("</script>") == 1
    assert page_data(text)["tensors"]


class Scripts(HTMLParser):
    """The scripts of a page, each with the text that it ends after."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_data(self, data: str) -> None:
        if self.rawdata and self.cdata_elem == "script":
            self.texts.append(data)


@pytest.mark.parametrize("markup", ["<!--<script>", "</script><script>x()</script>", "<![CDATA[", "-->", "\u2028"])
def test_no_markup_of_a_file_reaches_the_parser(markup: str) -> None:
    data = script_data({"name": markup, markup: [markup]})
    assert "<" not in data
    page = Scripts()
    page.feed(f"<title>t</title><script>const DATA = {data};\n</script><p>end")
    assert "".join(page.texts) == f"const DATA = {data};\n"
    assert list(json.loads(data)) == ["name", visible(markup)]


def test_the_whole_page_has_the_scripts_of_a_plain_one(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "m.bin")
    write_report(path, tmp_path / "plain.html")
    data = bytearray(path.read_bytes())
    data[40:44] = b"<!--"
    (tmp_path / "<!--<script>.bin").write_bytes(data)
    write_report(tmp_path / "<!--<script>.bin", tmp_path / "odd.html")
    plain, odd = ((tmp_path / name).read_text("utf-8") for name in ("plain.html", "odd.html"))
    for mark in ("<script", "</script", "<!--"):
        assert odd.count(mark) == plain.count(mark)


def test_the_source_of_another_model_is_refused(tmp_path):
    a = write_tiny(tmp_path / "a.bin")
    b = write_tiny(tmp_path / "b.bin", hparams=ModelParams.from_header(24, 32, 32, 2, 1, 16, 2))
    with pytest.raises(FormatError, match=r"the source has no tensor 'tok_embeddings\.weight' of this shape"):
        report_data(a, b)


def test_keys_and_names_are_those_of_the_file(golden) -> None:
    data = report_data(golden("today-models/gguf/bias.f16.gguf"))
    keys = {row["key"]: row for row in data["metadata"]}
    assert keys["general.architecture"]["value"] == "llama"
    assert {"blk.0.attn_q.weight", "token_embd.weight"} <= {row["stored"] for row in data["tensors"]}


def test_a_key_that_is_no_number_does_not_break_the_page(tmp_path: Path) -> None:
    rows = _finite_within([{"key": "a", "value": float("nan")}, {"key": "b", "value": [float("inf"), 1.5]}])
    assert json.loads(script_data(rows)) == [{"key": "a", "value": "nan"}, {"key": "b", "value": ["inf", 1.5]}]
