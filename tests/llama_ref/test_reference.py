"""The reference backend against the formulas of the papers, computed in double with nothing shared."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import ggmlpy
from llama_ref.arithmetic import reference
from llama_ref.text.model import Model
from tests.llama_ref.random_models import Shape, write_random_model


def textbook(path, tokens):
    """Logits of a LLaMA in float64, one token after another, written out."""
    with ggmlpy.open_model(path) as file:
        w = {name: tensor.numpy().astype(np.float64) for name, tensor in file.tensors.items()}
        h = file.hparams
    head_dim = h.n_embd // h.n_head
    keys = [[] for _ in range(h.n_layer)]
    values = [[] for _ in range(h.n_layer)]

    def norm(x, name):
        return x / np.sqrt((x**2).mean() + 1e-6) * w[f"{name}.weight"]

    def rotated(x, position):
        pairs = x.reshape(h.n_head, head_dim // 2, 2)
        turn = np.exp(1j * position / 10000 ** (2 * np.arange(head_dim // 2) / head_dim))
        z = (pairs[..., 0] + 1j * pairs[..., 1]) * turn
        return np.stack([z.real, z.imag], -1).reshape(h.n_head, head_dim)

    rows = []
    for position, token in enumerate(tokens):
        x = w["tok_embeddings.weight"][token]
        for i in range(h.n_layer):
            at = f"layers.{i}"
            y = norm(x, f"{at}.attention_norm")
            q = rotated(w[f"{at}.attention.wq.weight"] @ y, position)
            keys[i].append(rotated(w[f"{at}.attention.wk.weight"] @ y, position))
            values[i].append((w[f"{at}.attention.wv.weight"] @ y).reshape(h.n_head, head_dim))
            scores = np.einsum("hd,thd->ht", q, np.array(keys[i])) / np.sqrt(head_dim)
            p = np.exp(scores - scores.max(1, keepdims=True))
            mixed = np.einsum("ht,thd->hd", p / p.sum(1, keepdims=True), np.array(values[i]))
            x = x + w[f"{at}.attention.wo.weight"] @ mixed.ravel()
            y = norm(x, f"{at}.ffn_norm")
            gate = w[f"{at}.feed_forward.w1.weight"] @ y
            x = x + w[f"{at}.feed_forward.w2.weight"] @ (
                gate / (1 + np.exp(-gate)) * (w[f"{at}.feed_forward.w3.weight"] @ y)
            )
        rows.append(w["output.weight"] @ norm(x, "norm"))
    return np.array(rows)


@settings(max_examples=25)
@given(
    st.builds(
        Shape,
        n_head=st.integers(1, 4),
        head_dim=st.sampled_from([2, 8, 20, 32]),
        n_layer=st.integers(1, 3),
        n_vocab=st.integers(3, 40),
        n_mult=st.sampled_from([1, 32]),
    ),
    st.data(),
)
def test_is_the_textbook(tmp_path_factory, shape, data):
    path = write_random_model(tmp_path_factory.mktemp("m") / "m.bin", shape)
    tokens = data.draw(st.lists(st.integers(0, shape.n_vocab - 1), min_size=1, max_size=12))
    split = data.draw(st.integers(0, len(tokens) - 1))
    with Model.from_file(path, numerics="reference", n_ctx=12, memory_f32=True) as model:
        batches = [part for part in (tokens[:split], tokens[split:]) if part]
        ours = np.concatenate([model.evaluate(part, 0 if part is batches[0] else split) for part in batches])
    np.testing.assert_allclose(ours, textbook(path, tokens), rtol=1e-3, atol=1e-3)


def test_matrices_that_are_not_kept_give_the_same(tmp_path, monkeypatch):
    path = write_random_model(tmp_path / "m.bin", Shape(n_layer=2, n_vocab=300), "q4_1")
    with Model.from_file(path, numerics="reference") as model:
        kept = model.evaluate([1, 2, 3], 0)
    monkeypatch.setattr(reference, "CACHE_BYTES", 0)
    monkeypatch.setattr(reference, "CHUNK_ROWS", 17)
    with Model.from_file(path, numerics="reference") as model:
        np.testing.assert_allclose(model.evaluate([1, 2, 3], 0), kept, rtol=1e-4, atol=1e-4)
