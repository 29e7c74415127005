"""Whatever a request says, it is answered, or told what is wrong with it: never is the server at fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="the server comes with pip install '.[serve]'")
pytest.importorskip("httpx", reason="comes with pip install '.[test]'")

from starlette.testclient import TestClient

from llama_ref.text.chat_prompt import AlpacaPrompt
from llama_ref.text.model import Model
from llama_ref.text.sampling import SamplingOptions
from tests.ggmlpy.models import write_tiny
from toolchain.serve.app import create_app
from toolchain.serve.engine import Engine
from toolchain.serve.guard import Guard
from toolchain.serve.work import Served

PATHS = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")
REFUSALS = {400, 404, 413}


@pytest.fixture(scope="module")
def client(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The demo model, and one whose twenty pieces lack most bytes."""
    model = Model.from_file(write_tiny(tmp_path_factory.mktemp("poor") / "poor.bin"), n_ctx=64, n_threads=1)
    engine = Engine(model, places=2)
    poor = Served("poor", engine, AlpacaPrompt(engine.tokenizer), SamplingOptions())
    yield TestClient(Guard(create_app([served, poor])), base_url="http://localhost:8080")
    engine.close()


texts = st.text(max_size=8) | st.sampled_from(["你好", "\u2028", "a\0b", "</s>", "🦙" * 30])
wholes = st.integers(-3, 40) | st.sampled_from([2**31, 2**63, -(2**64), 10**30])
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0, 1, 1e-44, 5e-324, 0.7, 100, 1e300])
tokens = st.lists(wholes, max_size=6)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | wholes | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": texts | anything},
        optional={"name": texts},
    ),
    max_size=3,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "prompt": texts | tokens | st.lists(texts | tokens, max_size=3),
    "messages": messages,
    "content": texts,
    "tokens": tokens,
    "model": st.sampled_from(["", "poor", "demo", "other", "\ud7ff"]),
    "max_tokens": st.integers(0, 3) | wholes,
    "stream": st.booleans(),
    "echo": st.booleans(),
    "n": st.integers(1, 3),
    "logprobs": st.booleans() | wholes,
    "top_logprobs": wholes,
    "seed": wholes,
    "stop": texts | st.lists(texts, max_size=3),
    "temperature": numbers,
    "top_p": numbers,
    "top_k": wholes,
    "repeat_penalty": numbers,
    "frequency_penalty": numbers,
    "presence_penalty": numbers,
    "logit_bias": st.dictionaries(wholes.map(str) | texts, numbers | st.sampled_from([-100, 100]), max_size=3),
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}) | anything,
    "with_pieces": st.booleans(),
    "add_special": st.booleans(),
}
few = st.sets(st.sampled_from(sorted(FIELDS)), max_size=5)
ASKED = {PATHS[0]: "prompt", PATHS[1]: "messages", PATHS[2]: "content", PATHS[3]: "tokens"}


@st.composite
def bodies(draw: st.DrawFn, path: str) -> dict[str, Any]:
    names = sorted({ASKED[path], "model", *draw(few)})
    body = {name: draw(FIELDS[name]) for name in names}
    if draw(st.integers(0, 9)) == 0:
        body[draw(st.sampled_from(names))] = draw(anything)
    if "max_tokens" not in body and path.endswith("completions"):
        body["max_tokens"] = 2
    return body


@pytest.mark.parametrize("where", PATHS)
@settings(max_examples=80)
@given(data=st.data())
def test_no_body_is_a_fault_of_the_server(client, where, data) -> None:
    body = data.draw(bodies(where))
    answer = client.post(where, content=json.dumps(body).encode())
    assert answer.status_code in {200, *REFUSALS}, (body, answer.text)
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
    elif body.get("stream") and where.startswith("/v1"):
        assert answer.text.endswith("data: [DONE]\n\n"), (body, answer.text)
        assert '"error"' not in answer.text.replace('\\"', "")


@given(st.sampled_from(PATHS), st.binary(max_size=20) | anything.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_are(client, where, body) -> None:
    assert client.post(where, content=body).status_code in {200, *REFUSALS}


@pytest.mark.parametrize(
    ("where", "body", "field"),
    [
        ("/v1/completions", {"prompt": "ab"}, "prompt"),
        ("/v1/completions", {"prompt": "你好", "stream": True, "echo": True}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "messages"),
        ("/tokenize", {"content": "ab"}, "content"),
        ("/tokenize", {"prompt": "ab"}, "prompt"),
    ],
)
def test_a_text_that_the_vocabulary_cannot_write(client, where, body, field) -> None:
    answer = client.post(where, json={"model": "poor", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", field)
    assert "vocabulary of 20 pieces cannot write the text" in error["message"]
