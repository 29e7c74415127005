"""Keys of rank_pattern and alpha_pattern: Python's ``re`` is the oracle, and no key takes longer than a moment."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggmlpy.files.errors import FormatError
from lora.merging import module_patterns
from lora.merging.adapter_config import read_adapter_config
from lora.merging.module_patterns import ModulePatterns

MODULES = [
    f"model.layers.{layer}.{part}"
    for layer in (0, 1, 7, 10, 31)
    for part in (*(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{x}_proj" for x in ("gate", "up", "down")))
] + ["lm_head", "model.embed_tokens", "model.norm"]


def by_re(key: str, module: str) -> bool:
    return re.fullmatch(rf"(?:.*\.)?(?:{key})", module) is not None


PEOPLE_WRITE = [
    "q_proj",
    "self_attn.q_proj",
    r"model\.layers\.0\.self_attn\.q_proj",
    "model.layers.1.mlp.up_proj",
    r".*\.q_proj",
    r"layers\.\d+\.mlp\..*",
    r"layers\.(0|1|31)\.self_attn\.[qk]_proj",
    r"layers\.[0-9]\..*_proj",
    r"layers\.[^01]\..*",
    r"^model\.layers\.7\..*$",
    r"(?:q|k|v|o)_proj",
    r"(^lm_head|norm)$",
    r"layers\.\d{2}\.mlp\.(gate|up|down)_proj",
    r"\w+_proj",
    r"layers\.(?P<layer>[1-3]?\d)\.mlp.*?",
    r"mlp\b.*",
    r"\Alm_head\Z",
    r".*|x",
    "",
]


@pytest.mark.parametrize("key", PEOPLE_WRITE)
def test_keys_that_people_write_mean_what_they_mean_to_python(key: str) -> None:
    patterns = ModulePatterns([key])
    assert [patterns.first(module) is not None for module in MODULES] == [by_re(key, module) for module in MODULES]


def test_the_first_key_counts() -> None:
    assert ModulePatterns(["k_proj", "q_proj", r".*_proj"]).first("model.layers.0.self_attn.q_proj") == 1
    assert ModulePatterns([]).first("lm_head") is None


atoms = st.sampled_from(
    ["a", "b", r"\.", ".", "[ab]", "[^a]", r"\d", r"\w", r"\W", "0", "^", "$", r"\b", "_", "[a-b.]"]
)
keys = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=4).map("".join)
        | st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})")
        | st.tuples(inner, st.sampled_from(["?", "*", "+", "{2}", "{1,2}", "{,2}", "*?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        )
    ),
    max_leaves=8,
)


@given(st.lists(keys, min_size=1, max_size=3), st.lists(st.text("ab.0_\n", max_size=8), max_size=6))
def test_any_key_means_what_it_means_to_python(some: list[str], names: list[str]) -> None:
    patterns = ModulePatterns(some)
    for name in names:
        assert patterns.first(name) == next((i for i, key in enumerate(some) if by_re(key, name)), None)


@given(st.text(r"ab.*+?{}[]()|^$\d,0-1:=!<P\n", max_size=12))
def test_any_text_is_read_as_python_reads_it_or_refused(key: str) -> None:
    try:
        patterns = ModulePatterns([key])
    except ValueError:
        return
    assert (patterns.first("a.b0") == 0) == by_re(key, "a.b0")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("(", r"\( without \)"),
        ("a)", r"\) without \("),
        ("*a", "nothing to repeat"),
        ("^*", "nothing to repeat"),
        ("a**", "repeated repetition"),
        ("[ab", r"\[ without \]"),
        ("[b-a]", "range"),
        ("a{3,1}", "repetition"),
        (r"(a)\1", r"\\1 is not supported"),
        ("(?=a)", r"\(\? other than"),
        ("(?i)a", r"\(\? other than"),
        ("a" * 5000, "5,000 characters"),
        ("(?:){999999}" * 2, "too complicated"),
        ("((((a{999}){999}){999}){999}){999}", "too complicated"),
        ("(" * 200 + ")" * 200, "too many groups"),
    ],
)
def test_what_is_refused_is_named(key: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ModulePatterns([key])


@pytest.mark.parametrize(
    "key", [".?" * 95 + "!", "(a|a)*" * 30 + "!", "(.*.*)*" * 30 + "!", r"(\w+\.?)+!", "(a?){50}a{50}"]
)
def test_the_work_grows_with_the_name_alone(key: str) -> None:
    patterns = ModulePatterns([key])
    for module in MODULES:
        patterns.first(module)
    assert patterns._work < 400_000  # states looked at


def test_a_key_per_matrix_of_a_large_model_is_little_work() -> None:
    names = [
        f"model.layers.{n}.{m}_proj" for n in range(80) for m in ("self_attn.q", "self_attn.v", "mlp.up", "mlp.down")
    ]
    patterns = ModulePatterns(names)
    assert [patterns.first(name) for name in names] == list(range(len(names)))
    assert patterns._work < module_patterns.LARGEST_WORK / 4


def test_an_adapter_whose_keys_are_too_much_is_refused(tmp_path: Path) -> None:
    keys = {f"{'(.?.?.?.?)*' * 60}{n}!": 8 for n in range(60)}
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"r": 8, "lora_alpha": 32, "rank_pattern": keys}))
    config = read_adapter_config(path)
    with pytest.raises(FormatError, match=r"rank_pattern, found too complicated"):
        [config.rank_of(f"model.layers.{number}.mlp.up_proj") for number in range(1000)]
