"""The page's arithmetic, run by node, against the reference arithmetic: files, blocks, logits, tokens, choices."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cli
from ggmlpy import TENSOR_TYPES, open_model
from ggmlpy.formats.dequantize import dequantize
from ggmlpy.look.explain import _affected
from ggmlpy.look.hexdump import hexdump
from llama_ref.text.model import Model
from llama_ref.text.sampling import Sampler, SamplingOptions
from llama_ref.vocabulary.gguf_tokenizer import file_tokenizer
from tests.explore.harness import node
from tests.llama_ref.random_models import Shape, write_random_model
from tests.today import whole_gguf
from toolchain.explore.operations import OPERATIONS

LAYOUTS = list(TENSOR_TYPES)
TOKENS = [1, 15, 7, 12, 7, 3, 19]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


# ── blocks ───────────────────────────────────────────────────────────────────────────────────────────────────────────

READ = """
import { TABLES } from "./tables.js";
import { bytesOfValue, readRows } from "./blocks.js";
const [folder, blocks] = args;
const found = {};
for (const type of Object.values(TABLES.types)) {
  const bytes = bytesOfFile(`${folder}/${type.layout}`);
  const tensor = { type, offset: 0, columns: blocks * type.size, rowBytes: bytes.length };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const values = Buffer.from(readRows(view, tensor, 0, 1).buffer).toString("base64");
  found[type.layout] = { values, reached: Array.from({ length: type.size }, (_, i) => bytesOfValue(view, type, 0, i)) };
}
print(found);
"""
BLOCKS = 8


def random_blocks(layout: str) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, BLOCKS * TENSOR_TYPES[layout].type_size).astype(np.uint8)


@pytest.fixture(scope="module")
def blocks(page: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page makes of some blocks of every type."""
    folder = tmp_path_factory.mktemp("blocks")
    for layout in LAYOUTS:
        (folder / layout).write_bytes(random_blocks(layout).tobytes())
    return node(page, READ, folder, BLOCKS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_block_of_every_type_is_read_to_the_bit(layout, blocks):
    record = TENSOR_TYPES[layout]
    with np.errstate(over="ignore"):
        expected = dequantize(random_blocks(layout).view(record.block), record).astype(np.float32)
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(blocks[layout]["values"]), "<f4"), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_value_of_every_type_leads_back_to_its_bytes(layout, blocks):
    record = TENSOR_TYPES[layout]
    raw = random_blocks(layout)[: record.type_size]
    affected = [set(_affected(raw, byte, record)) if record.quantized else {0} for byte in range(record.type_size)]
    back = [[byte for byte, reached in enumerate(affected) if i in reached] for i in range(record.blck_size)]
    assert blocks[layout]["reached"] == back


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────

SPANS = """
import { readFile } from "./files.js";
const file = readFile(bytesOfFile(args[0]));
print({ spans: file.spans.map(({ offset, size, path }) => [offset, size, path]), title: file.title });
"""


def containers(data: Path, tmp_path: Path) -> list[Path]:
    old = [data / "ggml" / f"T1_quant_p{pin}" / "T1.q4_0.bin" for pin in (0, 1, 2, 5)]
    old.insert(3, write_random_model(tmp_path / "v2.bin", Shape(), "q4_0", "2023-05-19"))
    assert cli.main(["migrate", "-q", str(old[-1]), str(tmp_path / "m.gguf")]) == 0
    return [*old, tmp_path / "m.gguf"]


def test_every_container_is_read_field_by_field_as_hexdump_reads_it(page, data, tmp_path):
    titles = []
    for path in containers(data, tmp_path):
        got = node(page, SPANS, path)
        assert got["spans"] == [[line.offset, line.size, line.path] for line in hexdump(path, fold=False)]
        titles.append(got["title"])
    assert len(set(titles)) == len(titles)


DAMAGED = """
import { openModel } from "./model.js";
import { readFile } from "./files.js";
const bytes = bytesOfFile(args[0]);
const found = {};
for (let size = 0; size < bytes.length; size += Number(args[1])) {
  const cut = bytes.slice(0, size);
  try { openModel(readFile(cut), cut); found.fine = size; }
  catch (error) { found[error.key ?? `${error.name} ${error.message}`] = size; }
}
print(found);
"""


def test_a_file_cut_off_anywhere_is_refused_by_name(page, data, tmp_path):
    for path in containers(data, tmp_path):
        found = node(page, DAMAGED, path, path.stat().st_size // 97)
        assert found.keys() <= {"cut_off", "count", "no_tensor", "magic", "version", "no_tensors", "missing"}, path
        assert "cut_off" in found


# ── logits ───────────────────────────────────────────────────────────────────────────────────────────────────────────

EVALUATE = """
import { openModel } from "./model.js";
import { readFile } from "./files.js";
import { evaluate } from "./transformer.js";
print(JSON.parse(fs.readFileSync(args[0], "utf-8")).map(([path, tokens]) => {
  const bytes = bytesOfFile(path);
  const model = openModel(readFile(bytes), bytes);
  return [true, false].map((memoryF32) => {
    model.memoryF32 = memoryF32;
    const steps = [];
    for (const token of tokens) steps.push(evaluate(model, steps, token));
    return steps.map((step) => numbersOf(step.logits));
  });
}));
"""


def logits_of_the_page(page: Path, cases: list[tuple[Path, list[int]]]) -> list[dict[str, np.ndarray]]:
    """Of each case by how keys and values are kept."""
    (page / "cases.json").write_text(json.dumps([(str(path), tokens) for path, tokens in cases]))
    return [{"f32": np.array(f32), "f16": np.array(f16)} for f32, f16 in node(page, EVALUATE, page / "cases.json")]


@pytest.fixture(scope="module")
def logits(page: Path, random_models: list[Path]) -> list[dict[str, np.ndarray]]:
    return logits_of_the_page(page, [(path, TOKENS) for path in random_models])


def difference_from_the_reference(got: np.ndarray, path: Path, tokens: list[int], memory: str) -> float:
    """The largest, in units of a tenth of the largest logit where that is more than 1; the likeliest tokens agree."""
    with Model.from_file(path, numerics="reference", n_ctx=64, memory_f32=memory == "f32") as model:
        expected = model.evaluate(tokens, 0)
    np.testing.assert_array_equal(got.argmax(axis=1), expected.argmax(axis=1))
    largest = np.abs(expected).max()
    difference = float(np.abs(got - expected).max() / max(1, largest / 10))
    print(f"{path.name}, cache {memory}: {difference:.1e}, logits up to {largest:.1f}")
    return difference


@pytest.mark.parametrize(("memory", "most"), [("f32", 1e-4), ("f16", 1e-3)])
def test_logits_are_those_of_the_reference_for_every_type(memory, most, logits, random_models):
    """In a float16 cache a difference in the last bit of float32 may become one in the last bit of float16: so does the
    reference differ from itself where it computes the tokens one by one. See test_halves.py."""
    for path, got in zip(random_models, logits, strict=True):
        assert difference_from_the_reference(got[memory], path, TOKENS, memory) < most, path.name


WATCHED = """
import { readFile } from "./files.js";
import { openModel } from "./model.js";
import { evaluate } from "./transformer.js";
const bytes = bytesOfFile(args[0]);
const model = openModel(readFile(bytes), bytes);
model.memoryF32 = true;
const steps = [];
for (const token of args[1].split(",")) steps.push(evaluate(model, steps, Number(token)));
const inNumbers = (value) => (ArrayBuffer.isView(value) ? numbersOf(value) : value);
const lists = (value) => (Array.isArray(value) ? value.map(lists) : inNumbers(value));
const plain = (values) => Object.fromEntries(Object.entries(values).map(([key, value]) => [key, lists(value)]));
const { layers, ...rest } = steps.at(-1);
print({ ...plain(rest), layers: layers.map(({ cached, ...layer }) => plain(layer)) });
"""
NODE_OF = re.compile(r"→ (\w+)")


def test_every_intermediate_value_is_that_of_the_reference_under_the_name_that_the_page_shows(page, tmp_path):
    path = write_random_model(tmp_path / "m.bin", Shape(n_layer=2), "q4_0")
    step = node(page, WATCHED, path, ",".join(map(str, TOKENS)))
    seen: dict[str, list[np.ndarray]] = {}
    with Model.from_file(path, numerics="reference", n_ctx=64, memory_f32=True) as model:
        model.backend.watch = lambda name, x: seen.setdefault(name, []).append(x)
        model.evaluate(TOKENS, 0)
    compared = set()
    for each in OPERATIONS:
        for layer, values in [(None, step), *enumerate(step["layers"])]:
            if each.key in values:
                name = NODE_OF.search(each.llama_cpp)[1] + ("" if layer is None else f"-{layer}")
                expected = seen[name][-1 if each.place == "pair" else 0]
                in_heads = each.key in ("scores", "attention", "mixed")  # [n_head, n_tokens, …]
                expected = (expected[:, -1] if in_heads else expected[-1]).reshape(-1)
                expected = expected / np.sqrt(32) if each.key == "scores" else expected
                np.testing.assert_allclose(np.ravel(values[each.key]), expected, atol=2e-5, err_msg=name)
                compared.add(each.key)
    assert compared == {each.key for each in OPERATIONS}


FAMILIES = ("llama3-bpe", "llama3-new", "linear-new", "yarn-attn", "qwen2-tied", "qwen3", "bias", "llama2-gqa", "tied")


def test_logits_of_families_that_differ_in_heads_biases_and_rotation(page, vectors, tmp_path):
    manifest = json.loads((vectors / "today-models" / "logits" / "manifest.json").read_text())["cases"]
    paths = [whole_gguf(vectors, f"{case}.f32.gguf", tmp_path / f"{case}.gguf") for case in FAMILIES]
    cases = list(zip(paths, (manifest[case]["tokens"] for case in FAMILIES), strict=True))
    for (path, tokens), got in zip(cases, logits_of_the_page(page, cases), strict=True):
        assert difference_from_the_reference(got["f32"], path, tokens, "f32") < 1e-4, path.name


# ── texts ────────────────────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = [
    "介绍北京", "Hello world, it's 12345 ~ tests!\n\n  two  spaces", "é٣ naïve 你好\u3000世界\u00a0x\u2028y", "",
    "▁literal", "🚀👩\u200d🚀 <s> </s>", "a\tb\r\nc", "ĠÄ ~~~ $100 + 3.14",
]  # fmt: skip
ENCODE = """
import { readFile } from "./files.js";
import { tokenizerOf } from "./tokenizers.js";
const texts = JSON.parse(fs.readFileSync(args[0], "utf-8"));
print(args.slice(1).map((path) => {
  const tokenizer = tokenizerOf(readFile(bytesOfFile(path)));
  return texts.map((text) => {
    const tokens = tokenizer.encode(text);
    return [tokens, tokens.map((token) => tokenizer.piece(token)).join("")];
  });
}));
"""


def encoded_alike(page: Path, paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    for path, got in zip(paths, node(page, ENCODE, tmp_path / "texts.json", *paths), strict=True):
        with open_model(path) as file:
            tokenizer = file_tokenizer(file)
        for text, (tokens, shown) in zip(TEXTS, got, strict=True):
            assert tokens == tokenizer.encode_first(text), f"{path.name} {text!r}"
            assert shown.encode("latin-1") == b"".join(map(tokenizer.piece, tokens))


def test_texts_become_the_same_tokens(page, data, tmp_path):
    with_bytes = [path for path in containers(data, tmp_path) if path.name != "v2.bin"]  # it has no pieces for bytes
    encoded_alike(page, with_bytes, tmp_path)


def test_texts_become_the_same_tokens_in_vocabularies_of_today(page, vectors, tmp_path):
    cases = ("llama3-bpe", "qwen2", "qwen3", "llama2-gqa", "added-json")
    encoded_alike(
        page, [whole_gguf(vectors, f"{case}.f32.gguf", tmp_path / f"{case}.gguf") for case in cases], tmp_path
    )


# ── choices ──────────────────────────────────────────────────────────────────────────────────────────────────────────

CHOOSE = """
import { Twister, candidatesOf, choose } from "./sampler.js";
const cases = JSON.parse(fs.readFileSync(args[0], "utf-8"));
print(cases.map(({ logits, recent, options, draws }) => {
  const twister = new Twister(options.seed);
  return Array.from({ length: draws }, () => {
    const candidates = candidatesOf(Float32Array.from(logits), recent, options);
    const { candidate, draw } = choose(candidates, twister);
    const kept = candidates.filter((each) => each.dropped === null);
    return { token: candidate.token, draw, kept: kept.map((each) => [each.token, each.probability]) };
  });
}));
"""
OPTIONS = [
    {}, {"temp": 0.0}, {"top_k": 1}, {"top_k": 5, "top_p": 1.0}, {"top_p": 0.3, "temp": 1.5}, {"repeat_penalty": 3.0},
    {"repeat_last_n": 2, "repeat_penalty": 2.0}, {"top_k": 1000, "seed": 4294967295}, {"temp": 0.1, "seed": 7},
]  # fmt: skip


def test_choices_are_those_of_the_sampler_of_march_2023(page, tmp_path):
    rng, draws = np.random.default_rng(3), 20
    recent = [3, 1, 4, 1, 5, 9]
    cases = [
        {"logits": rng.normal(0, 3, 200).astype(np.float32).tolist(), "recent": recent, "draws": draws,
         "options": vars(SamplingOptions(**options))}
        for options in OPTIONS
    ]  # fmt: skip
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    for case, got in zip(cases, node(page, CHOOSE, tmp_path / "cases.json"), strict=True):
        sampler = Sampler(SamplingOptions(**case["options"]), "2023-03-31")
        for each in got:
            expected = sampler.choose(np.array(case["logits"], np.float32), recent)
            assert (each["token"], each["draw"]) == (expected.token, expected.draw)
            assert [token for token, _ in each["kept"]] == expected.candidates.tolist()
            probabilities = [probability for _, probability in each["kept"]]
            np.testing.assert_allclose(probabilities, expected.probabilities, rtol=1e-5)


# ── a text ───────────────────────────────────────────────────────────────────────────────────────────────────────────

GENERATE = """
import { openModel } from "./model.js";
import { readFile } from "./files.js";
import { Twister, candidatesOf, choose, lastTokens } from "./sampler.js";
import { tokenizerOf } from "./tokenizers.js";
import { evaluate } from "./transformer.js";
const bytes = bytesOfFile(args[0]);
const model = openModel(readFile(bytes), bytes);
model.memoryF32 = true;
const { prompt, options, n } = JSON.parse(fs.readFileSync(args[1], "utf-8"));
const tokens = tokenizerOf(model.file).encode(prompt);
const twister = new Twister(options.seed);
const steps = [];
const made = [];
while (made.length < n) {
  while (steps.length < tokens.length) steps.push(evaluate(model, steps, tokens[steps.length]));
  const { candidate } = choose(candidatesOf(steps.at(-1).logits, lastTokens(tokens, options), options), twister);
  tokens.push(candidate.token);
  made.push(candidate.token);
}
print(made);
"""


@pytest.mark.parametrize("options", [{"seed": 1}, {"seed": 2, "temp": 1.5, "top_k": 200, "top_p": 0.99}, {"temp": 0.0}])
def test_the_page_writes_the_text_that_generate_writes(options, page, data, tmp_path):
    path, sampling, n = data / "ggml" / "T1_quant_p2" / "T1.q4_0.bin", SamplingOptions(**options), 24
    prompt = "The 北京 of"
    (tmp_path / "case.json").write_text(json.dumps({"prompt": prompt, "options": vars(sampling), "n": n}))
    got = node(page, GENERATE, path, tmp_path / "case.json")
    with Model.from_file(path, numerics="reference", memory_f32=True) as model:
        expected = [token.id for token in model.generate(prompt, max_tokens=n, sampling=sampling)]
    assert got[: len(expected)] == expected
    assert len(expected) > 3
