"""Eras are ordered and asked by name; one function says which era a file belongs to; file types are one table."""

from __future__ import annotations

import pytest

from ggmlpy import ERAS, TENSOR_TYPES, open_model
from ggmlpy.files.errors import UsageError
from ggmlpy.formats.era_of_file import era_of_file
from ggmlpy.formats.eras import APRIL_30, AUGUST_21, GGUF_ERAS, MARCH_19, MARCH_31, TODAY, eras_writing
from ggmlpy.formats.file_types import FILE_TYPES, FTYPES, file_type_of, file_types
from ggmlpy.formats.model_params import ModelParams
from ggmlpy.look.check import problems_of
from ggmlpy.quantizers.migration import migrate
from tests.ggmlpy.models import write_tiny

ALONE = {("ggml", 0): "2023-03-19", ("ggmf", 1): "2023-03-30", ("ggjt", 2): "2023-05-19", ("ggjt", 3): "2023-08-21"}


def test_eras_are_ordered_by_date():
    assert sorted(ERAS.values(), key=lambda era: era.date) == sorted(ERAS.values()) == list(ERAS.values())
    assert MARCH_19 < MARCH_31 < APRIL_30 < AUGUST_21


@pytest.mark.parametrize(("place", "date"), ALONE.items())
def test_most_containers_have_one_era(place, date, tmp_path):
    with open_model(write_tiny(tmp_path / "m.bin", *place, "q4_1")) as file:
        assert era_of_file(file).date == date


@pytest.mark.parametrize("kind", ["f16", "q4_0", "q4_1", "q4_2", "q4_3", "q5_0", "q5_1", "q8_0"])
def test_the_first_ggjt_has_two_eras_which_its_types_tell_apart(kind, tmp_path):
    """q4_3 is in no pinned commit's quantizer, but nothing before 2023-04-30 reads a file that has it."""
    header = ModelParams.from_header(20, 32, 32, 2, 1, 16, 6 if kind == "q4_3" else 2)
    with open_model(write_tiny(tmp_path / "m.bin", "ggjt", 1, kind, hparams=header)) as file:
        assert era_of_file(file) == (MARCH_31 if kind in ("f16", "q4_0", "q4_1") else APRIL_30)


def test_without_a_file_there_is_the_default():
    assert era_of_file(None) == MARCH_31


def test_the_eras_that_write_a_type_are_those_that_have_it():
    for record in TENSOR_TYPES.values():
        for era in ERAS.values():
            assert era.writes(record) == (era in eras_writing(record)) == (record in era.types.values())
    assert eras_writing(TENSOR_TYPES["q4_3"]) == []
    last = {"iq1_s-2024-02": "2024-03-08", "iq1_s-2024-03": "2024-03-11T08", "iq3_s-2024-02": "2024-02-28"}
    assert {layout: [era.date for era in eras_writing(TENSOR_TYPES[layout])] for layout in last} == {
        layout: [date] for layout, date in last.items()
    }
    assert eras_writing(TENSOR_TYPES["bf16"]) == eras_writing(TENSOR_TYPES["iq4_nl"]) == [TODAY]


def test_every_file_type_is_found_by_name_and_by_number():
    assert [record for record in FILE_TYPES.values() if record.name != "Q3_K_XS"] == list(FTYPES.values())
    assert all(FTYPES[record.id] is FILE_TYPES[record.name] for record in FTYPES.values())
    wanted = {name for era in (*ERAS, *GGUF_ERAS) for name in file_types(era)}
    assert wanted == {record.name for record in FILE_TYPES.values() if record.first}
    assert {record.id for record in FTYPES.values() if not record.first} == {4, 6, 33, 34, 35, 39}  # never a target


def test_a_number_of_a_file_type_had_two_meanings():
    assert file_type_of("22", "2024-02-20").name == "Q3_K_XS"
    assert file_type_of("22", "2024-02-26").name == "IQ3_XS"
    with pytest.raises(UsageError, match="q3_k_xs needs --era 2024-01-22"):
        file_type_of("Q3_K_XS", "today")


def test_a_file_type_is_taken_from_its_first_era_on():
    for record in FILE_TYPES.values():
        eras = [era for era in (*ERAS.values(), *GGUF_ERAS.values()) if record.name in file_types(era)]
        assert record.first == (eras[0] if eras else None)


@pytest.mark.parametrize("version", [2, 3])
def test_a_mixed_file_of_any_gguf_version_is_whole(version, golden, tmp_path):
    """From August 2023 a file has matrices of several types, which is no mistake in its header."""
    with open_model(golden("ggml/T2_quant_p5_q4_K_M/T2.q4_K_M.bin")) as file:
        migrate(file, tmp_path / "m.gguf", "gguf", 3)
    data = bytearray((tmp_path / "m.gguf").read_bytes())
    data[4] = version  # the two differ in nothing else
    (tmp_path / "m.gguf").write_bytes(data)
    with open_model(tmp_path / "m.gguf") as file:
        assert file.version == version
        assert not list(problems_of(file))
