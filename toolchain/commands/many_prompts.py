"""``generate --prompts``: many prompts, each answered for itself, into a file that goes on where it was interrupted."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from toolchain.terminal.bars import progress_bar
from toolchain.terminal.talk import put_json, remark, say

from .loading import Loading
from .main_options import is_interactive, new_conversation, sampling_options, settled

if TYPE_CHECKING:
    from llama_ref.text.model import Model

# what decides an answer beside the prompt, the seed and the file of the model
SETTINGS = ("numerics", "era", "build", "norm_eps", "memory_f32", "ctx_size", "batch_size", "n_predict", "instruct")


def run_prompts(args: argparse.Namespace) -> int:
    from llama_ref.text.answer_file import AnswerFile, read_prompts

    _refuse(args)
    prompts = read_prompts(args.prompts)
    answers = AnswerFile(args.output) if args.output else None
    done = answers.done if answers else []
    if done and args.seed <= 0:
        args.seed = done[0]["seed"]  # the clock's of the first run
    loading = Loading(args)
    args = settled(args, loading.file)
    made_with = {"seed": args.seed, "settings": _digest(args, loading.file)}
    if answers:
        answers.check(prompts, args.seed, made_with["settings"])
        say(args, f"{len(done)} of {len(prompts)} answers are there" if done else f"{len(prompts)} prompts")
    failed = sum("error" in record for record in done)
    with loading.model(args) as model, answers or nullcontext(), progress_bar(args, len(prompts), "prompts", "") as bar:
        bar.update(len(done))
        for index, prompt in enumerate(prompts[len(done) :], start=len(done)):
            record = {"index": index, "prompt": prompt, **_answer(args, model, prompt), **made_with}
            answers.add(record) if answers else put_json(json.dumps(record, ensure_ascii=False) + "\n")
            failed += "error" in record
            bar.update()
    if failed:
        remark(f'error: {failed} of {len(prompts)} prompts have no answer. Next: look for "error" among the answers')
    return 3 if failed else 0


def _refuse(args: argparse.Namespace) -> None:
    """What many prompts exclude.

    Raises:
        UsageError: an option is for one text.
    """
    from ggmlpy.files.errors import UsageError

    if not args.prompts:
        raise UsageError("--output is the file of answers to --prompts FILE; for one text, redirect: > FILE")
    args.instruct, instruct = False, args.instruct
    others = ("prompt_parts", "random_prompt", "compare_with", "receipt", "mtest", "json", "trace_sampling", "keep")
    if is_interactive(args) or any(getattr(args, name) for name in others):
        raise UsageError("--prompts excludes -p, -f, interaction and all that is for one text")
    args.instruct = instruct


def _digest(args: argparse.Namespace, file: Any) -> str:
    """All that decides the answers, in short."""
    from llama_ref.text.answer_file import settings_digest

    settings = {name: getattr(args, name) for name in SETTINGS}
    model = {"model": os.path.basename(file.path), "size": os.path.getsize(file.path)}
    lora = {"lora": [str(adapter) for adapter in getattr(args, "lora", None) or ()], "ends": args.ignore_eos}
    chosen = {**vars(sampling_options(args)), "seed": None}
    return settings_digest({**settings, **model, **lora, **chosen})


def _answer(args: argparse.Namespace, model: Model, prompt: str) -> dict[str, Any]:
    """Text, why it ended, and its length; or why there is none."""
    from ggmlpy.files.errors import UsageError
    from llama_ref.text.chat_prompt import prompt_of
    from llama_ref.text.chat_session import ChatSession

    conversation = new_conversation(args, model)
    try:
        if args.instruct:
            session = ChatSession(conversation, prompt_of(conversation.tokenizer))
            text = "".join(session.ask(prompt, max_tokens=args.n_predict))
            return {"text": text, "ended_by": session.ended_by, "tokens": session.made}
        tokens = list(conversation.say(prompt, max_tokens=args.n_predict))
    except UsageError as error:
        return {"error": str(error)}
    text = b"".join(token.bytes for token in tokens).decode("utf-8", "backslashreplace")
    full = "context" if args.n_predict < 0 else "length"
    return {"text": text, "ended_by": "end of text" if conversation.has_ended else full, "tokens": len(tokens)}
