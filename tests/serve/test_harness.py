"""Evaluation harnesses: the log-likelihoods that they get are those of the model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_ref.text.conversation import Conversation
from llama_ref.text.model import Model
from llama_ref.text.sampling import log_softmax_of
from tests.serve.running import Running, httpx

#: in C-Eval's format
QUESTIONS = [
    {"question": "中国的首都是哪里？", "A": "上海", "B": "北京", "C": "广州", "D": "南京", "answer": "B"},
    {"question": "12加7等于多少？", "A": "17", "B": "18", "C": "19", "D": "21", "answer": "C"},
    {"question": "下列哪一项是健康的习惯？", "A": "早睡早起", "B": "熬夜", "C": "吸烟", "D": "不吃早饭", "answer": "A"},
]
TASK = """\
task: ceval_sample
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {questions}
output_type: multiple_choice
validation_split: validation
description: "以下是中国关于常识的单项选择题，请选出其中的正确答案。\\n\\n"
doc_to_text: "{{{{question.strip()}}}}\\nA. {{{{A}}}}\\nB. {{{{B}}}}\\nC. {{{{C}}}}\\nD. {{{{D}}}}\\n答案："
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: "{{{{['A', 'B', 'C', 'D'].index(answer)}}}}"
metric_list:
  - metric: acc
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def model(path: str) -> Iterator[Model]:
    with Model.from_file(path, n_ctx=256, n_threads=1) as model:
        yield model


def log_likelihood(model: Model, context: str, choice: str) -> float:
    """Of a choice behind a context, from the logits."""
    tokenizer = Conversation(model).tokenizer
    n_context, tokens = len(tokenizer.spaced(context)), tokenizer.spaced(context + choice)
    logits = model.evaluate(tokens, 0, cache=model.new_cache())
    return sum(log_softmax_of(logits[place - 1], tokens[place]) for place in range(n_context, len(tokens)))


def text_of(question: dict[str, str]) -> str:
    choices = "".join(f"{letter}. {question[letter]}\n" for letter in "ABCD")
    return f"{question['question']}\n{choices}答案："


def test_the_documented_request_sequence(server, model):
    """What lm-evaluation-harness's local-completions sends to score the choices of a question."""

    def tokens(text: str) -> list[int]:
        body = {"prompt": text, "add_special_tokens": False}
        return httpx.post(f"{server.address}/tokenize", json=body).json()["tokens"]

    info = httpx.get(f"{server.address}/tokenizer_info").json()
    assert [tokens(info[name]) for name in ("bos_token", "eos_token")] == [[1], [2]]
    for question in QUESTIONS:
        context = text_of(question)
        both = [tokens(context + letter) for letter in "ABCD"]
        body = {"prompt": both, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True, "temperature": 0}
        choices = httpx.post(f"{server.address}/v1/completions", json=body, timeout=60).json()["choices"]
        for letter, choice in zip("ABCD", choices, strict=True):
            score = sum(choice["logprobs"]["token_logprobs"][len(tokens(context)) : -1])
            assert score == pytest.approx(log_likelihood(model, context, letter), abs=1e-6)


def test_lm_eval(server, model, tmp_path: Path):
    """The harness itself, on multiple-choice questions in C-Eval's format; the tokenizer is the server's."""
    lm_eval = shutil.which("lm_eval") or pytest.skip("lm_eval (pip install 'lm_eval[api]') is not installed")
    questions, out = tmp_path / "questions.jsonl", tmp_path / "out"
    questions.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in QUESTIONS), "utf-8")
    (tmp_path / "ceval_sample.yaml").write_text(TASK.format(questions=questions), "utf-8")
    arguments = f"base_url={server.address}/v1/completions,model=ggml-model-q4_0.bin,num_concurrent=4"
    offline = {"HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    command = [lm_eval, "--model", "local-completions", "--model_args", arguments, "--include_path", str(tmp_path)]
    command += ["--tasks", "ceval_sample", "--output_path", str(out), "--log_samples"]
    done = subprocess.run(command, env={**os.environ, **offline}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    [samples] = out.rglob("samples_*.jsonl")
    scored = 0
    for sample in map(json.loads, samples.read_text("utf-8").splitlines()):
        for number, response in enumerate(sample["filtered_resps"]):
            context, choice = sample["arguments"][f"gen_args_{number}"].values()
            assert float(response[0]) == pytest.approx(log_likelihood(model, context, choice), abs=1e-6)
            scored += 1
    assert scored == 4 * len(QUESTIONS)
