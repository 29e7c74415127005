"""The cache in float16: the page rounds as the reference does, so their logits part only where a number was all but
halfway between two that float16 holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llama_ref.text.model import Model
from tests.explore.harness import node

TOKENS = [1, 15, 7, 12, 7, 3, 19]
CLOSE = 2e-6  # how near the middle such a number is, as a part of the largest of its vector

ROUND = """
import { roundedToHalf } from "./halves.js";
const bytes = bytesOfFile(args[0]);
const numbers = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
print(Array.from(numbers, (x) => String(roundedToHalf(x))));
"""


def test_float32_is_rounded_to_float16_as_numpy_rounds_it(tmp_path):
    """Anything, ties between two neighbors, what is too small and what is too large."""
    rng = np.random.default_rng(5)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[:-1] + halves[1:]) / 2
    near = np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(np.inf))
    some = [each[::7] for each in (halves, ties, *near)]
    anything = rng.integers(0, 1 << 32, 20_000, dtype=np.uint32).view(np.float32)
    edges = np.array([65504, 65519.996, 65520, 1e9, np.inf, 2.0**-25, 2.0**-24, 1e-30, 0], np.float32)
    numbers = np.concatenate([*some, anything[~np.isnan(anything)], edges])
    numbers = np.concatenate([numbers, -numbers]).astype("<f4")
    (tmp_path / "numbers").write_bytes(numbers.tobytes())
    with np.errstate(over="ignore"):
        expected = numbers.astype(np.float16).astype(np.float64)
    got = [float(each.replace("Infinity", "inf")) for each in node(tmp_path, ROUND, tmp_path / "numbers")]
    np.testing.assert_array_equal(got, expected)


REMEMBERED = """
import { openModel } from "./model.js";
import { readFile } from "./files.js";
import { evaluate } from "./transformer.js";
import { floatOfHalf, roundedToHalf } from "./halves.js";
const largest = (numbers) => numbers.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
print(JSON.parse(fs.readFileSync(args[0], "utf-8")).map(({ path, tokens, cache }) => {
  const bytes = bytesOfFile(path);
  const model = openModel(readFile(bytes), bytes);
  const halves = bytesOfFile(cache);
  const theirs = new Uint16Array(halves.buffer, halves.byteOffset, halves.byteLength / 2);
  const found = { numbers: 0, others: 0, farthest: 0 };
  model.remembered = (numbers) => numbers.map((x) => {
    const [mine, other] = [roundedToHalf(x), floatOfHalf(theirs[found.numbers++])];
    if (mine !== other) {
      found.others += 1;
      found.farthest = Math.max(found.farthest, Math.abs(x - (mine + other) / 2) / largest(numbers));
    }
    return other;
  });
  const steps = [];
  for (const token of tokens) steps.push(evaluate(model, steps, token));
  return { ...found, logits: steps.map((step) => numbersOf(step.logits)) };
}));
"""


def remembered(model: Model) -> np.ndarray:
    """Keys and values in the order in which the page keeps them: of each token, of each of its layers."""
    k, v = (each[:, : len(TOKENS)] for each in (model.cache.k, model.cache.v))
    assert k.dtype == np.float16
    return np.stack([k, v], axis=2).transpose(1, 0, 2, 3, 4)  # [tokens, layers, 2, heads, head_dim]


@pytest.fixture(scope="module")
def cases(random_models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, np.ndarray, dict]]:
    """Of each model the reference's logits, and what the page has where it keeps what the reference keeps."""
    folder, asked, expected = tmp_path_factory.mktemp("halves"), [], []
    for number, path in enumerate(random_models):
        with Model.from_file(path, numerics="reference", n_ctx=64) as model:
            expected.append(model.evaluate(TOKENS, 0).copy())
            remembered(model).tofile(folder / f"{number}.f16")
        asked.append({"path": str(path), "tokens": TOKENS, "cache": str(folder / f"{number}.f16")})
    (folder / "cases.json").write_text(json.dumps(asked))
    return list(zip(random_models, expected, node(folder, REMEMBERED, folder / "cases.json"), strict=True))


def test_with_the_same_cache_the_logits_are_those_of_the_reference_for_every_type(cases):
    for path, expected, got in cases:
        logits, largest = np.array(got["logits"]), np.abs(expected).max()
        difference = np.abs(logits - expected).max() / max(1, largest / 10)
        print(f"{path.name}: {difference:.1e}; {got['others']} of {got['numbers']} others, {got['farthest']:.1e}")
        np.testing.assert_array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
        assert difference < 1e-4, path.name


def test_what_is_kept_differs_only_where_a_number_is_all_but_halfway(cases):
    for path, _, got in cases:
        assert got["farthest"] < CLOSE, path.name
    others, numbers = (sum(got[name] for _, _, got in cases) for name in ("others", "numbers"))
    print(f"{others} of {numbers}")
    assert others < numbers / 200
