"""Training: gradients against finite differences and torch, packing, masks, resuming, and what is published."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cli
from ggmlpy.files.errors import FormatError, ShapeError, UsageError
from ggmlpy.formats.model_params import ModelParams
from llama_ref.conversion.converting import plan_conversion
from llama_ref.text.model import Model
from llama_ref.vocabulary.prompts import TRAINING_TEMPLATE, alpaca_prompt
from llama_ref.vocabulary.sentencepiece_model import SentencePieceModel, write_sentencepiece
from lora.merging.adapter import open_adapter
from lora.merging.merge import merge
from lora.training.data import Document, Packing, encode, stack, text_document
from lora.training.instructions import write_instructions
from lora.training.loop import Run, Settings, evaluate, read_log
from lora.training.model import Dropout, Lora, Weights, add_lora, initial_weights, loss_and_gradients
from lora.training.optim import AdamW, clip, warmup_cosine
from lora.training.plot import plot_losses
from lora.training.recipe import load_recipe
from lora.training.run_stage import StageInput, train, usual_recipe
from lora.training.stages import (
    ALL_TEMPLATES,
    conversation_documents,
    grow_weights,
    instruction_documents,
    load_weights,
    publish_adapter,
    publish_base,
)
from lora.vocabulary import merge_vocabularies, train_vocabulary

SHAPE = ModelParams(n_embd=16, n_mult=8, n_head=2, n_layer=2)
LORA = Lora(r=4, alpha=8.0, dropout=0.1)


def documents(n: int, n_vocab: int = 20, seed: int = 0, longest: int = 9) -> list[Document]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest, n)
    return [Document(rng.integers(0, n_vocab, k).astype(np.int32), rng.random(k, np.float32)) for k in lengths]


def model(dtype: type = np.float64, *, lora: bool = True, n_vocab: int = 20, shape: ModelParams = SHAPE) -> Weights:
    """Weights that are far from their beginnings, so that no derivative vanishes."""
    rng = np.random.default_rng(3)
    weights = initial_weights(shape, n_vocab, 0, dtype)
    if lora:
        add_lora(weights, LORA, 1)
    for name, tensor in weights.items():
        weights[name] = (tensor * (8 if tensor.ndim > 1 else 1) + rng.normal(size=tensor.shape) * 0.1).astype(dtype)
    return weights


def test_gradients_agree_with_finite_differences() -> None:
    weights, batch, rng = model(), Packing(documents(6), rows=3, length=12).batch(0), np.random.default_rng(5)
    step = 1e-5

    def loss() -> float:
        return loss_and_gradients(weights, SHAPE, batch, lora=LORA, dropout=Dropout(LORA.dropout, 5))[0]

    _, gradients = loss_and_gradients(
        weights, SHAPE, batch, frozenset(weights), lora=LORA, dropout=Dropout(LORA.dropout, 5)
    )
    assert set(gradients) == set(weights)
    for name, tensor in weights.items():
        for _ in range(3):
            at = tuple(rng.integers(0, n) for n in tensor.shape)
            before = tensor[at]
            tensor[at] = before + step
            above = loss()
            tensor[at] = before - step
            below = loss()
            tensor[at] = before
            assert gradients[name][at] == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-7), name


def test_gradients_agree_with_torch() -> None:
    torch = pytest.importorskip("torch")
    weights, batch = model(), stack([[d] for d in documents(3, longest=12)], 12)
    _, gradients = loss_and_gradients(weights, SHAPE, batch, frozenset(weights), lora=LORA)
    t = {name: torch.tensor(tensor, requires_grad=True) for name, tensor in weights.items()}

    def linear(x, name):
        y = x @ t[name].T
        a, b = t.get(name.replace(".weight", ".lora_A")), t.get(name.replace(".weight", ".lora_B"))
        return y if a is None else y + LORA.scale * (x @ a.T @ b.T)

    def norm(x, name):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + SHAPE.eps) * t[name]

    rows, length = batch.tokens.shape
    halves = torch.arange(0, SHAPE.n_rot, 2, dtype=torch.float64)
    angles = torch.arange(length)[:, None] * 10000.0 ** (-halves / SHAPE.n_rot)
    turn = torch.polar(torch.ones_like(angles), angles)

    def rope(x):  # [rows, n_head, length, n_rot]
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turn).reshape(x.shape)

    x = t["tok_embeddings.weight"][torch.tensor(batch.tokens.astype(np.int64))]
    split = lambda y: y.reshape(rows, length, SHAPE.n_head, -1).transpose(1, 2)  # noqa: E731
    for layer in range(SHAPE.n_layer):
        at = f"layers.{layer}."
        h = norm(x, at + "attention_norm.weight")
        q, k, v = (split(linear(h, f"{at}attention.w{c}.weight")) for c in "qkv")
        y = torch.nn.functional.scaled_dot_product_attention(rope(q), rope(k), v, is_causal=True)
        x = x + linear(y.transpose(1, 2).reshape(rows, length, -1), at + "attention.wo.weight")
        h = norm(x, at + "ffn_norm.weight")
        gate = torch.nn.functional.silu(linear(h, at + "feed_forward.w1.weight"))
        x = x + linear(gate * linear(h, at + "feed_forward.w3.weight"), at + "feed_forward.w2.weight")
    logits = linear(norm(x, "norm.weight"), "output.weight").flatten(0, 1)
    each = torch.nn.functional.cross_entropy(
        logits, torch.tensor(batch.targets.ravel().astype(np.int64)), reduction="none"
    )
    counts = torch.tensor(batch.weights.ravel())
    ((each * counts).sum() / counts.sum()).backward()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, t[name].grad.numpy(), rtol=1e-6, atol=1e-9, err_msg=name)


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_packing_changes_nothing() -> None:
    weights, several = model(), documents(5)
    packed = Packing(several, rows=1, length=40).batch(0)
    assert packed.documents.max() == 4  # all in one row
    alone = [loss_and_gradients(weights, SHAPE, stack([[d]], 16), frozenset(weights), n_targets=1.0) for d in several]
    loss, gradients = loss_and_gradients(weights, SHAPE, packed, frozenset(weights), n_targets=1.0)
    assert loss == pytest.approx(sum(part for part, _ in alone), rel=1e-12)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, sum(g[name] for _, g in alone), rtol=1e-9, atol=1e-12)


def test_parts_without_a_target_are_left_out() -> None:
    weights = np.array([0] * 9 + [1, 1, 1], np.float32)
    packing = Packing([Document(np.arange(12, dtype=np.int32), weights)], rows=1, length=4)
    assert [document.tokens.tolist() for document in packing.documents] == [[8, 9, 10, 11]]
    with pytest.raises(UsageError, match="nothing to train on"):
        Packing([Document(np.arange(12, dtype=np.int32), np.zeros(12, np.float32))], rows=1, length=4)


@settings(max_examples=50)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=40), st.integers(4, 16), st.integers(1, 4))
def test_every_target_is_packed_once(lengths: list[int], length: int, rows: int) -> None:
    several = [Document(np.arange(n, dtype=np.int32), np.ones(n, np.float32)) for n in lengths]
    packing = Packing(several, rows=rows, length=length)
    batches = list(packing.epoch())
    assert sum(batch.n_targets for batch in batches) == sum(n - 1 for n in lengths)
    for batch in batches:
        there = batch.documents >= 0
        assert (batch.targets[there] == batch.tokens[there] + 1).all()
        assert not batch.weights[~there].any()
        assert batch.visible()[:, np.arange(length), np.arange(length)].all()  # no softmax over nothing


def test_an_epoch_is_another_order_of_the_same() -> None:
    packing = Packing(documents(40), rows=2, length=16, seed=1)
    first, second = packing.batch(0), packing.batch(packing.n_batches)
    assert not np.array_equal(first.tokens, second.tokens)
    assert np.array_equal(first.tokens, Packing(documents(40), rows=2, length=16, seed=1).batch(0).tokens)


def test_nothing_to_train_on() -> None:
    with pytest.raises(UsageError, match="nothing to train on"):
        Packing([Document(np.array([1], np.int32), np.ones(1, np.float32))], rows=1, length=8)


def test_a_masked_prompt_is_read_but_not_learnt() -> None:
    weights = model(lora=False)
    answer = np.array([0, 0, 0, 1, 1], np.float32)
    batch = stack([[Document(np.array([1, 5, 6, 7, 2], np.int32), answer)]], 4)
    loss, gradients = loss_and_gradients(weights, SHAPE, batch, frozenset(weights))
    every = stack([[Document(np.array([1, 5, 6, 7, 2], np.int32), np.ones(5, np.float32))]], 4)
    parts = [
        loss_and_gradients(weights, SHAPE, replace(every, weights=np.eye(4, dtype=np.float32)[i][None]))[0]
        for i in range(4)
    ]
    assert loss == pytest.approx((parts[2] + parts[3]) / 2, rel=1e-12)
    assert gradients["tok_embeddings.weight"][5].any()  # the prompt's tokens were read
    with pytest.raises(UsageError, match="no position"):
        loss_and_gradients(weights, SHAPE, replace(every, weights=np.zeros((1, 4), np.float32)))


# ── optimization ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_adamw_follows_the_paper() -> None:
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 4)), rng.normal(size=(5, 3, 4))
    weights = {"w": start.copy(), "norm": np.ones(3)}
    optimizer = AdamW(weights, ("w", "norm"), (0.9, 0.95), weight_decay=0.1)
    for gradient in gradients:
        optimizer.update({"w": gradient.copy(), "norm": gradient[:, 0].copy()}, 0.01)
    theta, m, v = start.copy(), 0.0, 0.0
    for t, gradient in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * gradient, 0.95 * v + 0.05 * gradient**2
        theta = theta - 0.01 * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8) + 0.1 * theta)
    np.testing.assert_allclose(weights["w"], theta, rtol=1e-6)


def test_adamw_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(3, 4))}
    parameter = torch.nn.Parameter(torch.tensor(weights["w"]))
    theirs = torch.optim.AdamW([parameter], lr=0.01, betas=(0.9, 0.999), weight_decay=0.1)
    ours = AdamW(weights, ("w",), weight_decay=0.1)
    for gradient in rng.normal(size=(5, 3, 4)):
        parameter.grad = torch.tensor(gradient)
        theirs.step()
        ours.update({"w": gradient}, 0.01)
    np.testing.assert_allclose(weights["w"], parameter.detach().numpy(), rtol=1e-9)


def test_norms_do_not_decay() -> None:
    weights = {"norm": np.ones(3), "w": np.ones((1, 3))}
    AdamW(weights, ("norm", "w"), weight_decay=0.5).update({"norm": np.zeros(3), "w": np.zeros((1, 3))}, 0.1)
    assert weights["norm"].tolist() == [1, 1, 1]
    assert weights["w"][0].tolist() == pytest.approx([0.95] * 3)


def test_schedule_and_clipping() -> None:
    rates = [warmup_cosine(step, 100, 10) for step in range(101)]
    assert max(rates) == rates[10] == 1
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    gradients = {"a": np.full(4, 3.0), "b": np.full((2, 2), 4.0)}
    assert clip(gradients, 1.0) == pytest.approx(10.0)
    assert clip(gradients, 1.0) == pytest.approx(1.0, rel=1e-5)


def test_accumulated_batches_are_one_large_batch() -> None:
    several = documents(4)

    def trained(rows: int, accumulation: int) -> Weights:
        weights = model(np.float64)
        packing = Packing(several, rows=rows, length=8, seed=2)
        run = Run(weights, list(weights), SHAPE, packing, Settings(1e-3, 1, accumulation=accumulation, clip=1e9))
        run.train()
        return weights

    large, small = trained(2, 1), trained(1, 2)
    for name, tensor in large.items():
        np.testing.assert_allclose(tensor, small[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("trains", ["all", "lora"])
def test_one_batch_can_be_learnt_by_heart(trains: str) -> None:
    shape = ModelParams(n_embd=32, n_mult=16, n_head=2, n_layer=2)
    weights = initial_weights(shape, 20, 0)
    pairs = add_lora(weights, LORA, 1) if trains == "lora" else []
    trained = [*pairs, "tok_embeddings.weight", "output.weight"] if pairs else list(weights)
    rng = np.random.default_rng(0)  # other first tokens, and each token once: every continuation is decided
    several = [
        Document(np.array([i, *rng.permutation(16)[:7] + 4], np.int32), np.ones(8, np.float32)) for i in range(4)
    ]
    packing = Packing(several, rows=4, length=8)
    run = Run(weights, trained, shape, packing, Settings(1e-2, 150), lora=LORA if trains == "lora" else None)
    run.train()
    assert run.log[0].loss > 2.5
    assert evaluate(weights, shape, packing, lora=LORA if trains == "lora" else None) < 0.05


# ── resuming ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def small_run(folder: Path | None, **changes: object) -> Run:
    weights = initial_weights(SHAPE, 20, 0)
    trained = [*add_lora(weights, LORA, 1), "tok_embeddings.weight", "output.weight"]
    chosen = replace(Settings(1e-2, 12, accumulation=2, weight_decay=0.1), **changes)
    packing = Packing(documents(30), rows=2, length=12, seed=4)
    return Run(weights, trained, SHAPE, packing, chosen, lora=LORA, folder=folder, checkpoint_every=5)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = small_run(tmp_path / "whole")
    whole.train()
    small_run(tmp_path / "cut").train(until=7)
    resumed = small_run(tmp_path / "cut")
    assert resumed.resume()
    assert resumed.step == 7
    resumed.train()
    for name, tensor in whole.weights.items():
        assert tensor.tobytes() == resumed.weights[name].tobytes(), name
    same = [(line.step, line.loss, line.gradient) for line in read_log(tmp_path / "cut" / "log.jsonl")]
    assert same == [(line.step, line.loss, line.gradient) for line in read_log(tmp_path / "whole" / "log.jsonl")]


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(progress: object) -> None:
        if run.step == 9:
            raise Killed

    run = small_run(tmp_path)
    with pytest.raises(Killed):
        run.train(report=kill)
    resumed, whole = small_run(tmp_path), small_run(None)
    assert resumed.resume()
    assert resumed.step == 5
    resumed.train()
    whole.train()
    assert all(t.tobytes() == whole.weights[n].tobytes() for n, t in resumed.weights.items())


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    small_run(tmp_path).train()
    with pytest.raises(UsageError, match=r"belongs to another run \(settings differ\)"):
        small_run(tmp_path, learning_rate=0.5).resume()
    (tmp_path / "checkpoint.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(FormatError, match="not a training checkpoint"):
        small_run(tmp_path).resume()
    assert not small_run(tmp_path / "elsewhere").resume()


# ── what is published ────────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = ["The cat sat on the mat.", "A dog ran in the park.", "你好，世界。", "北京是中国的首都。"]


@pytest.fixture(scope="module")
def tokenizers() -> tuple[SentencePieceModel, SentencePieceModel]:
    recipe = {"character_coverage": 1.0, "model_type": "bpe", "normalization_rule_name": "identity"}
    english = train_vocabulary(iter(TEXTS[:2] * 9), vocab_size=290, **recipe)
    chinese = train_vocabulary(iter(TEXTS[2:] * 9), vocab_size=280, **recipe)
    return english, merge_vocabularies(english, chinese)[0]


def processor(tokenizer: SentencePieceModel):
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_proto=tokenizer.to_bytes())


def test_published_base_is_the_model_that_was_trained(
    tmp_path: Path, tokenizers: tuple[SentencePieceModel, SentencePieceModel]
) -> None:
    shape, (english, _) = ModelParams(n_embd=32, n_mult=16, n_head=2, n_layer=2), tokenizers
    weights = {n: t.astype(np.float16).astype(np.float32) for n, t in initial_weights(shape, len(english), 0).items()}
    publish_base(tmp_path / "base", weights, shape, english)
    with plan_conversion(tmp_path / "base", tmp_path / "f32.bin", outtype="f32") as plan:
        plan.write()
    read = Model.from_file(tmp_path / "f32.bin", numerics="reference")
    ids = text_document(processor(english), TEXTS[0])
    logits = read.evaluate(ids.tokens[:-1].tolist(), 0).astype(np.float64)
    chosen = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    wanted = -chosen[np.arange(len(ids) - 1), ids.tokens[1:]].mean()
    loss, _ = loss_and_gradients(weights, shape, stack([[ids]], len(ids)))
    assert loss == pytest.approx(wanted, rel=2e-4)  # the reference keeps keys and values in half precision


def test_merged_adapter_is_the_model_that_was_trained(
    tmp_path: Path, tokenizers: tuple[SentencePieceModel, SentencePieceModel]
) -> None:
    shape, (english, grown) = ModelParams(n_embd=32, n_mult=16, n_head=2, n_layer=2), tokenizers
    base = initial_weights(shape, len(english), 0)
    publish_base(tmp_path / "base", base, shape, english)
    weights, shape = load_weights(tmp_path / "base")
    grow_weights(weights, len(grown), seed=1)
    rng = np.random.default_rng(0)
    for name in add_lora(weights, LORA, 1):
        weights[name] = rng.normal(size=weights[name].shape).astype(np.float16).astype(np.float32)
    publish_adapter(tmp_path / "lora", weights, shape, LORA, grown)
    merge(tmp_path / "base", [tmp_path / "lora"], tmp_path / "merged")
    merged, _ = load_weights(tmp_path / "merged")
    batch = stack([[text_document(processor(grown), text)] for text in TEXTS], 64)
    before = loss_and_gradients(weights, shape, batch, lora=LORA)[0]
    assert loss_and_gradients(merged, shape, batch)[0] == pytest.approx(before, rel=2e-3)
    for name in (a.replace(".lora_A", ".weight") for a in weights if a.endswith(".lora_A")):
        a, b = (weights[name.replace(".weight", side)] for side in (".lora_A", ".lora_B"))
        changed = weights[name] + LORA.scale * (b @ a)
        np.testing.assert_allclose(merged[name], changed, rtol=1e-3, atol=1e-4, err_msg=name)
        assert np.abs(changed - weights[name]).max() > 0.1


def test_a_tokenizer_of_another_size_is_refused(
    tmp_path: Path, tokenizers: tuple[SentencePieceModel, SentencePieceModel]
) -> None:
    weights = initial_weights(SHAPE, len(tokenizers[0]), 0)
    with pytest.raises(ShapeError, match=f"{len(tokenizers[1])} rows"):
        publish_base(tmp_path, weights, SHAPE, tokenizers[1])


def test_peft_computes_what_was_trained(
    tmp_path: Path, tokenizers: tuple[SentencePieceModel, SentencePieceModel]
) -> None:
    """PEFT's model of our base with our adapter has the logits that our own forward pass has."""
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    shape, (_, grown) = ModelParams(n_embd=32, n_mult=16, n_head=2, n_layer=2), tokenizers
    weights = initial_weights(shape, len(grown), 0)
    publish_base(tmp_path / "base", weights, shape, grown)
    assert cli.main(["to-hf", str(tmp_path / "base"), str(tmp_path / "hf"), "-q"]) == 0
    weights, _ = load_weights(tmp_path / "base")
    rng = np.random.default_rng(0)
    for name in (*add_lora(weights, LORA, 1), "tok_embeddings.weight", "output.weight"):
        weights[name] = rng.normal(size=weights[name].shape).astype(np.float16).astype(np.float32)
    publish_adapter(tmp_path / "lora", weights, shape, LORA, grown)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", torch_dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(base, str(tmp_path / "lora")).eval()
    document = text_document(processor(grown), TEXTS[3])
    ids = torch.tensor(document.tokens.astype(np.int64))[None]
    with torch.no_grad():
        theirs = adapted(input_ids=ids, labels=ids).loss.item()
    loss, _ = loss_and_gradients(weights, shape, stack([[document]], len(document)), lora=LORA)
    assert loss == pytest.approx(theirs, rel=1e-4)


def test_stages_hand_on_to_each_other(
    tmp_path: Path, tokenizers: tuple[SentencePieceModel, SentencePieceModel]
) -> None:
    english, grown = tokenizers
    write_sentencepiece(tmp_path / "english.model", english)
    write_sentencepiece(tmp_path / "grown.model", grown)
    (tmp_path / "en.txt").write_text("\n\n".join(TEXTS[:2]), "utf-8")
    (tmp_path / "zh.txt").write_text("\n\n".join(TEXTS[2:]), "utf-8")
    write_instructions(tmp_path / "data.json", [{"instruction": "你好", "input": "", "output": "你好，世界。"}])

    def run(name: str, data: str, tokenizer: str, output: str | None = None, **more: object) -> Run:
        given, recipe = StageInput([str(tmp_path / data)], str(tmp_path / tokenizer), **more), usual_recipe(name)
        usual = load_recipe(recipe).stage(name)
        lora = usual.lora and replace(LORA, targets=usual.lora.targets)
        length = 400 if name == "instruct" else 64  # a prompt of words of one letter, and its answer
        numbers = replace(usual, rows=1, length=length, lora=lora, settings=replace(usual.settings, n_steps=3))
        return train(name, given, tmp_path / (output or name), numbers)

    run("pretrain", "en.txt", "english.model", shape=SHAPE)
    base = str(tmp_path / "pretrain")
    assert run("stage1", "zh.txt", "grown.model", base=base).optimizer.trained == ("tok_embeddings.weight",)
    run("stage2", "zh.txt", "grown.model", base=base, adapter=str(tmp_path / "stage1"))
    with open_adapter(tmp_path / "stage2") as adapter:
        assert len(adapter.pairs) == 4 * SHAPE.n_layer
        assert set(adapter.replaced) == {"tok_embeddings.weight", "output.weight"}
    with pytest.raises(UsageError, match="merge it into the base first"):
        run("stage2", "zh.txt", "grown.model", "again", base=base, adapter=str(tmp_path / "stage2"))
    merge(base, [tmp_path / "stage2"], tmp_path / "merged")
    run("instruct", "data.json", "grown.model", base=str(tmp_path / "merged"))
    merge(tmp_path / "merged", [tmp_path / "instruct"], tmp_path / "alpaca")
    with pytest.raises(UsageError, match="--base"):
        run("stage1", "zh.txt", "grown.model")


def test_stages_have_the_originals_numbers() -> None:
    stages = load_recipe("original").stages
    assert {name: stage.settings.learning_rate for name, stage in stages.items()} == {
        **{"stage1": 2e-4, "stage2": 1e-4, "instruct": 1e-4}
    }
    assert [stage.batch for stage in stages.values()] == [1024, 1024, 512]
    assert stages["stage1"].lora is None
    assert stages["stage2"].lora == Lora(8, 32, 0.05, ("wq", "wk", "wv", "wo"))
    assert stages["instruct"].lora == Lora(8, 32, 0.05)


def test_documents_of_instructions(tokenizers: tuple[SentencePieceModel, SentencePieceModel]) -> None:
    pieces = processor(tokenizers[1])
    records = [{"instruction": "你好", "input": "", "output": "世界。"}] * 4
    first, _, chat, bare = instruction_documents(pieces, records, ALL_TEMPLATES)
    answer = pieces.decode([int(t) for t, w in zip(first.tokens, first.weights) if w])
    assert answer == "世界。"
    assert first.tokens[0] == 1
    assert (first.tokens[-1], first.weights[-1]) == (2, 1)
    prompt = pieces.decode([int(t) for t, w in zip(first.tokens, first.weights) if not w])
    assert prompt.strip() == alpaca_prompt("你好", template=TRAINING_TEMPLATE).strip()
    assert chat.tokens.tolist().count(1) == 2  # <s> in front of the heading, as llama.cpp's -ins
    assert pieces.decode(bare.tokens.tolist()) == "你好\n世界。"
    (talk,) = conversation_documents(pieces, records, n_turns=4)
    assert talk.tokens.tolist().count(1) == 5
    assert talk.tokens.tolist().count(2) == 4


def test_parts_are_cut_as_llama_cpp_cuts_turns(tokenizers: tuple[SentencePieceModel, SentencePieceModel]) -> None:
    pieces = processor(tokenizers[0])
    document = encode(pieces, [("The cat", True), ("The", False), ("", True)])
    assert document.tokens.tolist() == [1, *pieces.encode("The cat"), *pieces.encode("\nThe")[2:], 2]
    assert math.isclose(document.weights.sum(), len(pieces.encode("The cat")) + 1)


def test_loss_curve(tmp_path: Path) -> None:
    small_run(tmp_path / "one").train()
    plot_losses([tmp_path / "one", tmp_path / "one" / "log.jsonl"], tmp_path / "loss.svg")
    root = ElementTree.parse(tmp_path / "loss.svg").getroot()
    assert root.tag.endswith("svg")
    assert len(root.findall("{*}polyline")) == 1  # the same log under the same name
    with pytest.raises(FormatError, match="no such log"):
        plot_losses([tmp_path / "two"], tmp_path / "loss.svg")
