"""bench: the numbers fit together, in the library and on the command line."""

from __future__ import annotations

import json

import pytest

import cli
from benchmarks.make_model import FTYPES, random_model
from ggmlpy.files.errors import UsageError
from ggmlpy.formats.model_params import ModelParams
from llama_ref.text.bench import bench


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("m") / "m.bin"
    random_model(path, ModelParams.from_header(100, 64, 32, 2, 1, 32, FTYPES["q4_0"]))
    return path


def test_the_numbers_fit_together(path):
    one, two = bench(path, [1, 2], n_prompt=16, rounds=2)
    n_ff = 192
    n_weights = 4 * 64 * 64 + 3 * n_ff * 64 + 100 * 64
    for m, threads in ((one, 1), (two, 2)):
        assert m.threads == threads
        assert m.bandwidth == pytest.approx(m.generate * n_weights / 32 * 20)
        assert m.multiplications == pytest.approx(m.prompt * n_weights)
        assert 0 < m.share <= 1
        assert m.limit >= m.bandwidth
        (of_type,) = m.types
        assert (of_type.type, of_type.n_bytes) == ("q4_0-2023-03", n_weights // 32 * 20)
        assert 0 < of_type.read_share <= 1
        assert 0 < of_type.multiply_share <= 1
        assert of_type.multiply_limit >= of_type.multiplications > 0


def test_a_prompt_need_not_be_measured(path):
    (m,) = bench(path, [1], n_prompt=0, rounds=1)
    assert m.prompt == 0
    assert m.types[0].multiplications == 0


def test_rounds_must_be_positive(path):
    with pytest.raises(UsageError, match="positive"):
        bench(path, [1], rounds=0)


def test_the_command_prints_a_table_or_json(path, capsys):
    assert cli.main(["bench", "-m", str(path), "-t", "1", "-r", "1", "-n", "8", "-q"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 5
    assert "of the limit" in out[0]
    assert "of the arithmetic" in out[3]
    assert "q4_0-2023-03" in out[4]
    assert cli.main(["bench", "-m", str(path), "-t", "2", "-r", "1", "-n", "8", "-q", "--json"]) == 0
    (m,) = json.loads(capsys.readouterr().out)
    assert m["threads"] == 2
    assert m["types"][0]["type"] == "q4_0-2023-03"


def test_a_missing_model_is_told(capsys):
    assert cli.main(["bench", "-m", "nowhere.bin", "-q"]) == 3
    assert "nowhere.bin: no such file" in capsys.readouterr().err
