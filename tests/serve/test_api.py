"""The API as OpenAI's reference has it, and what is refused."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("httpx", reason="comes with pip install '.[test]'")

from starlette.testclient import TestClient

from ggmlpy.files.errors import TruncatedError
from llama_ref.text.chat_prompt import prompt_of
from llama_ref.text.model import Model
from llama_ref.text.sampling import SamplingOptions, log_softmax_of
from toolchain.serve import app as app_module
from toolchain.serve.app import create_app
from toolchain.serve.engine import Engine
from toolchain.serve.guard import Guard
from toolchain.serve.work import Served


@pytest.fixture(scope="module")
def client(app) -> TestClient:
    return TestClient(app, base_url="http://localhost:8080")


def chat(client: TestClient, **more: object) -> dict:
    body = {"messages": [{"role": "user", "content": "介绍北京"}], "seed": 3, "max_tokens": 30, **more}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def streamed(client: TestClient, path: str, body: dict) -> list[dict]:
    lines = client.post(path, json={**body, "stream": True}).text.splitlines()
    data = [line[6:] for line in lines if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(each) for each in data[:-1]]


def test_chat(client, served):
    answer = chat(client)
    prompt = served.prompt.tokens([("user", "介绍北京")])
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert "北京" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    assert answer["usage"]["total_tokens"] == len(prompt) + answer["usage"]["completion_tokens"]
    assert chat(client)["choices"] == answer["choices"], "the same seed"


def test_a_stream_is_the_answer_in_pieces(client):
    whole = chat(client, logprobs=True, top_logprobs=2)["choices"][0]
    body = {"messages": [{"role": "user", "content": "介绍北京"}], "seed": 3, "max_tokens": 30, "logprobs": True}
    chunks = streamed(
        client, "/v1/chat/completions", {**body, "top_logprobs": 2, "stream_options": {"include_usage": True}}
    )
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == whole["message"]["content"]
    scores = [entry for choice in choices for entry in (choice.get("logprobs") or {}).get("content", ())]
    assert scores == whole["logprobs"]["content"]
    assert choices[-1]["finish_reason"] == whole["finish_reason"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len(scores)
    assert {chunk["usage"] for chunk in chunks[:-1]} == {None}


def test_choices_have_seeds_one_after_the_other(client):
    three = chat(client, n=3, temperature=2.0)["choices"]
    alone = [chat(client, seed=3 + index, temperature=2.0)["choices"][0]["message"] for index in range(3)]
    assert [choice["message"] for choice in three] == alone
    assert [choice["index"] for choice in three] == [0, 1, 2]


def test_stop_words_and_limits(client):
    whole = chat(client)["choices"][0]["message"]["content"]
    assert len(whole) > 12
    stopped = chat(client, stop=whole[8:11])["choices"][0]
    assert stopped["message"]["content"] == whole[: whole.index(whole[8:11])]
    assert stopped["finish_reason"] == "stop"
    assert chat(client, max_tokens=2)["choices"][0]["finish_reason"] == "length"
    assert chat(client, max_completion_tokens=0)["choices"][0]["message"]["content"] == ""


def test_log_probabilities_of_a_prompt_are_those_of_logits(client, engine):
    """What evaluation harnesses ask: context and continuation as tokens, echoed with their log-probabilities."""
    tokens = engine.tokenizer.encode_first("北京是中国的首都，也是全国的政治中心。")
    body = {"prompt": [tokens], "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0, "seed": 1234}
    choice = client.post("/v1/completions", json=body).json()["choices"][0]
    logits = engine.model.evaluate(tokens, 0, cache=engine.model.new_cache())
    wanted = [log_softmax_of(logits[place - 1], tokens[place]) for place in range(1, len(tokens))]
    scores = choice["logprobs"]
    assert scores["token_logprobs"][0] is None
    assert scores["token_logprobs"][1:-1] == pytest.approx(wanted, abs=1e-6)
    assert {len(column) for column in scores.values()} == {len(tokens) + 1}
    for word, top in zip(scores["tokens"][1:], scores["top_logprobs"][1:], strict=True):
        assert len(top) == 1
        assert isinstance(word, str)
    assert choice["text"].lstrip().startswith("北京是中国的首都")


@pytest.mark.parametrize("prompt", ["北京是", " 北京", "a€𠮷b", "€€"])
def test_offsets_say_where_tokens_are_in_the_text(client, prompt):
    """A part of a character is where that is; the space that the tokenizer puts in front is not in the text."""
    body = {"prompt": prompt, "max_tokens": 4, "logprobs": 0, "echo": True, "seed": 1}
    choice = client.post("/v1/completions", json=body).json()["choices"][0]
    text, scores = choice["text"], choice["logprobs"]
    begins = [place for place, word in zip(scores["text_offset"], scores["tokens"], strict=True) if word.strip()]
    assert begins == sorted(begins)
    assert begins[0] == len(prompt) - len(prompt.lstrip())
    for place, word in zip(scores["text_offset"], scores["tokens"], strict=True):
        if not word.startswith("bytes:") and word.strip():
            assert text[place:].startswith(word.strip() if place == 0 else word)


def test_prompts_of_all_shapes(client, engine):
    tokens = engine.tokenizer.encode_first("介绍")
    common = {"max_tokens": 4, "seed": 1}
    texts = client.post("/v1/completions", json={"prompt": ["介绍", "介绍"], **common}).json()["choices"]
    ids = client.post("/v1/completions", json={"prompt": [tokens, tokens], **common}).json()["choices"]
    assert [choice["text"] for choice in texts] == [choice["text"] for choice in ids]
    assert [choice["index"] for choice in ids] == [0, 1]


def test_tokens_and_back(client):
    tokens = client.post("/tokenize", json={"content": "你好, world", "add_special": True}).json()["tokens"]
    assert tokens[0] == 1
    assert client.post("/detokenize", json={"tokens": tokens[1:]}).json()["content"].strip() == "你好, world"
    pieces = client.post("/tokenize", json={"content": "€", "with_pieces": True}).json()["tokens"]
    assert pieces[-1]["piece"] in (["€"], [0xAC], "€")


def test_models_health_metrics_and_the_page(client):
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["demo"]
    assert client.get("/health").json() == {"status": "ok"}
    chat(client)
    metrics = client.get("/metrics").text
    assert 'ggmlpy_requests_total{path="/v1/chat/completions",status="200"}' in metrics
    page = client.get("/")
    assert "<textarea" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not any(word in page.text for word in ("innerHTML", "eval(", "https://"))


@pytest.mark.parametrize(
    ("body", "words", "param"),
    [
        (b"{", "Invalid JSON", None),
        (b"[]", "should be an object", None),
        (b'{"messages": []}', "messages: ", "messages"),
        (b'{"messages": [{"role": "robot", "content": "x"}]}', "messages.0.role", "messages.0.role"),
        (b'{"messages": [{"role": "user", "content": "x"}], "tools": []}', "tools is not supported", "tools"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": -1}', "greater than", "temperature"),
        (b'{"messages": [{"role": "user", "content": "x"}], "n": 1000}', "less than", "n"),
        (b'{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"x": 1}}', "not a token id", "logit_bias"),
        (b'{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"99999": 1}}', "outside", "logit_bias"),
        (b'{"messages": [{"role": "user", "content": "' + b"long " * 2000 + b'"}]}', "the context 256", "prompt"),
        (b'{"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}', "needs logprobs: true", None),
        (b'{"messages": [{"role": "user", "content": "x"}], "stream_options": {}}', "needs stream: true", None),
        (
            b'{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_object"}}',
            "should be 'text'",
            "response_format.type",
        ),
        (b'{"messages": [{"role": "user", "content": "a\\u0000b"}]}', "U+0000", "messages.0.content"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}',
            "'image_url' is not supported",
            "messages.0.content",
        ),
        (b'{"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}', "messages.0", "messages.0.role"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": "0.5"}', "valid number", "temperature"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', "less than", "temperature"),
        (b"[" * 50_000, "", None),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "", None),
    ],
)
def test_what_is_wrong_is_said_in_the_shape_of_the_api(client, body, words, param):
    response = client.post("/v1/chat/completions", content=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    if param:
        assert error["param"] == param


SHAPELESS = [b"1", b"[]", b"[[]]", b'["x", 1]', b"[[1], 2]", b"true", b"[true]", b'{"x": 1}', b"[99999]", b'"a\\u0000"']


@pytest.mark.parametrize("prompt", SHAPELESS)
def test_prompts_of_no_shape_are_refused(client, prompt):
    response = client.post("/v1/completions", content=b'{"prompt": ' + prompt + b"}")
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == "prompt"


def test_what_clients_send_without_meaning_it_is_taken(client):
    plain = chat(client)["choices"]
    neutral = {
        "user": "x", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "parallel_tool_calls": True,
        "response_format": {"type": "text"}, "modalities": ["text"], "tool_choice": "none", "tools": None, "stop": None,
        "logit_bias": None, "frequency_penalty": 0, "presence_penalty": 0, "logprobs": False, "stream": False,
    }  # fmt: skip
    assert chat(client, **neutral)["choices"] == plain


def test_an_answer_can_be_sent_back_as_it_came(client):
    said = chat(client)["choices"][0]["message"]
    question = [{"type": "text", "text": "介绍"}, {"type": "text", "text": "北京"}]
    again = {"role": "user", "content": "再说一次", "name": "a"}
    messages = [{"role": "developer", "content": "x"}, {"role": "user", "content": question}, said, again]
    assert chat(client, messages=messages)["usage"]["completion_tokens"]


def test_an_echo_in_pieces_is_the_echo(client):
    """Texts, log-probabilities and offsets of a stream, joined, are those of the whole answer."""
    body = {"prompt": ["北京是", "介绍"], "max_tokens": 6, "seed": 2, "echo": True}
    for more in ({}, {"logprobs": 2}):
        whole = client.post("/v1/completions", json={**body, **more}).json()["choices"]
        chunks = [chunk["choices"][0] for chunk in streamed(client, "/v1/completions", {**body, **more})]
        for choice in whole:
            mine = [chunk for chunk in chunks if chunk["index"] == choice["index"]]
            assert "".join(chunk["text"] for chunk in mine) == choice["text"]
            assert mine[-1]["finish_reason"] == choice["finish_reason"]
            scores = [chunk["logprobs"] for chunk in mine if chunk["logprobs"]]
            if not more:
                assert scores == []
                assert choice["logprobs"] is None
                continue
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                assert [each for score in scores for each in score[name]] == choice["logprobs"][name]


def test_several_prompts_are_counted_together_and_choices_of_one_prompt_once(client):
    def used(prompt: object, n: int) -> dict:
        return client.post("/v1/completions", json={"prompt": prompt, "n": n, "max_tokens": 2}).json()["usage"]

    one, other = used("北京", 1)["prompt_tokens"], used("The capital of France", 1)["prompt_tokens"]
    both = used(["北京", "The capital of France"], 3)
    assert both["prompt_tokens"] == one + other
    assert both["completion_tokens"] <= 12
    assert both["total_tokens"] == both["prompt_tokens"] + both["completion_tokens"]


def test_an_answer_that_takes_too_long_ends(served):
    hurried = TestClient(Guard(create_app([served], seconds=0.001)), base_url="http://localhost:8080")
    body = {"prompt": "讲一个故事", "max_tokens": 200, "logit_bias": {"2": -100}}
    late = hurried.post("/v1/completions", json=body)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
    assert "more than 0.001 seconds" in hurried.post("/v1/completions", json={**body, "stream": True}).text


def test_a_request_for_too_many_log_probabilities_is_refused(client, monkeypatch):
    monkeypatch.setattr(app_module, "MOST_SCORES", 1000)
    body = {"prompt": [[5] * 50], "max_tokens": 0, "echo": True, "logprobs": 18}
    assert client.post("/v1/completions", json=body).status_code == 200
    refused = client.post("/v1/completions", json={**body, "n": 2})
    assert refused.status_code == 400
    assert "more than 1,000 log-probabilities" in refused.json()["error"]["message"]


def test_what_is_wrong_with_a_model_is_told_without_the_places_of_files(client, engine, monkeypatch, capsys):
    """Whoever asks learns what is wrong, whoever runs the server also where; once, and not for every request."""

    def cut(*_: object, **__: object) -> None:
        raise TruncatedError("the model ends early", path="/home/me/model.bin", offset=5)

    for way in ("evaluate", "evaluate_each"):
        monkeypatch.setattr(engine.model, way, cut)
    for _ in range(2):
        answer = client.post("/v1/completions", json={"prompt": "x"})
        assert (answer.status_code, answer.json()["error"]["message"]) == (500, "the model ends early")
    assert capsys.readouterr().err.count("/home/me/model.bin: the model ends early (offset 5)") == 1


def test_no_line_of_a_stream_ends_where_some_clients_cut_lines(client, served):
    """U+0085, U+2028 and U+2029 end a line for Python's splitlines, though not for the format of events."""
    text = "a\x85b\u2028c\u2029d"
    chunks = streamed(client, "/v1/completions", {"prompt": text, "max_tokens": 1, "echo": True})
    assert chunks[0]["choices"][0]["text"] == text


def test_bodies_that_arrive_together_have_a_limit(served):
    small = TestClient(Guard(create_app([served]), room=1000), base_url="http://localhost:8080")
    full = small.post("/v1/completions", json={"prompt": "x" * 2000})
    assert (full.status_code, full.json()["error"]["code"]) == (503, "busy")
    assert small.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}).status_code == 200, "it is given back"


def test_other_paths_methods_and_models(client):
    assert client.get("/v1/engines").status_code == 404
    assert client.get("/v1/completions").status_code == 405
    assert client.get("/../pyproject.toml").status_code == 404
    assert client.get("/v1/models/demo").json() == client.get("/v1/models").json()["data"][0]
    assert client.get("/v1/models/gpt-4").status_code == 404
    missing = client.post("/v1/completions", json={"prompt": "x", "model": "gpt-4"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


OTHERS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "",
    "[::1",
    "192.168.0.7",
    "me@localhost",
    "localhost/x",
    "localhost:x",
]


@pytest.mark.parametrize("host", OTHERS)
def test_other_names_are_refused(client, host):
    assert client.get("/v1/models", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "localhost.:8080", "127.0.0.1", "[::1]:8080"])
def test_its_own_names_are_known(client, host):
    assert client.get("/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example", "null", "", "file://", "http://localhost.evil.example", "http://localhost:8080@evil.example",
        "chrome-extension://localhost:8080", "http://localhost:3000", "http://localhost", "http://127.0.0.1:80",
    ],
)  # fmt: skip
def test_pages_of_others_are_refused(client, origin):
    """Those of another server on this machine too."""
    assert client.get("/v1/models", headers={"origin": origin}).status_code == 403


def test_its_own_page_may_ask(client):
    for name in ("http://localhost:8080", "http://127.0.0.1:8080", "http://[::1]:8080"):
        assert client.get("/v1/models", headers={"origin": name}).status_code == 200
    assert client.get("/v1/models", headers={"host": "localhost", "origin": "http://localhost:80"}).status_code == 200


def test_a_packed_body_is_refused(client):
    packed = client.post("/v1/completions", content=b"x", headers={"content-encoding": "gzip"})
    assert (packed.status_code, "gzip" in packed.json()["error"]["message"]) == (415, True)


def test_the_name_behind_a_proxy_may_be_told(served):
    behind = TestClient(Guard(create_app([served]), hosts=["chat.example.org"]), base_url="https://chat.example.org")
    for origin in ("https://chat.example.org", "https://chat.example.org:8443"):
        assert behind.get("/v1/models", headers={"origin": origin}).status_code == 200
    assert behind.get("/v1/models", headers={"origin": "https://example.org"}).status_code == 403


def test_a_key(served):
    guarded = TestClient(Guard(create_app([served]), key="s3cret", any_address=True), base_url="http://192.168.0.7")
    assert guarded.get("/v1/models").status_code == 401
    assert guarded.get("/v1/models", headers={"authorization": "Bearer s3cre"}).status_code == 401
    assert guarded.get("/v1/models", headers={"authorization": "Basic s3cret"}).status_code == 401
    assert guarded.get("/v1/models", headers={"authorization": "Bearer s3cret"}).status_code == 200
    assert guarded.get("/metrics").status_code == 401
    assert guarded.get("/health").status_code == guarded.get("/").status_code == 200
    assert "s3cret" not in guarded.get("/v1/models").text


def test_a_large_body_is_refused_before_and_while_it_comes(client):
    body = json.dumps({"prompt": "x" * 200_000}).encode()
    assert client.post("/v1/completions", content=body).status_code == 413
    parts = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
    assert client.post("/v1/completions", content=parts).status_code == 413


def test_a_gguf_is_asked_in_its_own_template(golden):
    model = Model.from_file(golden("today-models/gguf/llama3-bpe.f16.gguf"), n_ctx=96, n_threads=1)
    engine = Engine(model, places=1)
    try:
        prompt = prompt_of(engine.tokenizer)
        one = TestClient(create_app([Served("llama3", engine, prompt, SamplingOptions())]))
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
        answer = one.post("/v1/chat/completions", json=body).json()
        assert answer["usage"]["prompt_tokens"] == len(prompt.tokens([("user", "hello")]))
        refused = one.post("/v1/chat/completions", json={**body, "messages": [{"role": "user", "content": "x" * 500}]})
        assert refused.status_code == 400
    finally:
        engine.close()
