"""Every number of the page leads back to bytes of the file: those that ``explain`` says the same of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ggmlpy.formats.tensor_names import gguf_name
from ggmlpy.look.explain import explain
from tests.explore.harness import node
from tests.ggmlpy.test_later_types import LATER
from toolchain.explore.operations import OPERATIONS

ORIGINS = Path(__file__).with_name("origins.js").read_text("utf-8")


@pytest.fixture(scope="module")
def followed(
    random_models: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Path, list[dict[str, Any]]]]:
    """For models of every type: numbers of every operation, and where they come from."""
    return list(zip(random_models, node(tmp_path_factory.mktemp("page"), ORIGINS, *random_models), strict=True))


def test_every_operation_leads_to_the_file(followed):
    for path, numbers in followed:
        assert {each["number"]["key"] for each in numbers} == {operation.key for operation in OPERATIONS}, path.name
        assert all(each["all"] for each in numbers), path.name


def test_explain_says_the_same_of_the_bytes(followed):
    """A row begins where ``explain`` sees that row; a value's bytes are those that it depends on."""
    layouts = set()
    for path, numbers in followed:
        places = {str(place): place for each in numbers for place in each["direct"]}
        for place in _some(list(places.values())):
            for offset in place["bytes"] or [place["offset"]]:
                found = explain(path, offset).place
                assert found is not None, (path.name, place)
                assert (found.tensor, found.row) == (_spelled(place["name"], path), place["row"])
                assert place["column"] is None or place["column"] in found.columns, (path.name, place, offset)
                layouts.add(found.type.layout)
    assert {record.layout for record in LATER} | {"q2_K", "q6_K", "q4_0-2023-03", "q5_1-2023-05", "f16"} <= layouts


def _some(places: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One place of each kind: a value of a matrix, a value of a vector, rows of the first and the last matrix."""
    values = [place for place in places if place["column"] is not None]
    rows = [place for place in places if place["column"] is None]
    matrix = [place for place in values if place["name"] == "tok_embeddings.weight"]
    vector = [place for place in values if place["name"] == "norm.weight"]
    return [*matrix[-1:], *vector[-1:], rows[0], rows[-1]]


def _spelled(name: str, path: Path) -> str:
    return gguf_name(name) if path.suffix == ".gguf" else name
