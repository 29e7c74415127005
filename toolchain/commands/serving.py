"""serve: a chat page and an API that tools know."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from toolchain.terminal.talk import remark, say

from .options import (
    Commands,
    arithmetic_of,
    arithmetic_options,
    chat_template_option,
    command,
    model_option,
    model_or_demo,
    number,
    say_passed_over,
    whole,
)

if TYPE_CHECKING:
    from llama_ref.text.model import Model
    from toolchain.serve.work import Served

USUAL_CONTEXT = 2048


def add_serve(commands: Commands) -> None:
    parser = command(
        commands,
        "serve",
        run_serve,
        "Serve a chat page and OpenAI's API for completions. Needs: pip install '.[serve]'",
        "serve\nserve -m ggml-model-q4_0.bin --port 8080\n"
        "serve -m chinese.bin --compare-with original.bin\n"
        "serve -m ggml-model-q4_0.bin --host 0.0.0.0 --api-key SECRET",
    )
    model_option(parser, "a GGML or GGUF file (default: $GGMLPY_MODEL, else the demo model)", required=False)
    parser.add_argument("--compare-with", metavar="MODEL_B", help="a second model, shown beside the first")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen at (default %(default)s)")
    parser.add_argument(
        "--port", type=whole(0, 65535), default=8080, metavar="P", help="default %(default)s; 0: any free one"
    )
    key = "what clients must send as Authorization: Bearer KEY (default: $GGMLPY_API_KEY, else nothing)"
    parser.add_argument("--api-key", default=os.environ.get("GGMLPY_API_KEY") or None, metavar="KEY", help=key)
    name = "another name by which the server may be called, as behind a reverse proxy (several times)"
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help=name)
    places = "answers at a time (default: 8; 4 where the caches of 8 would be more than a quarter of the memory)"
    parser.add_argument("--parallel", type=whole(1, 1024), metavar="N", help=places)
    parser.add_argument(
        "--queue", type=whole(1), default=64, metavar="N", help="how many may wait (default %(default)s)"
    )
    parser.add_argument("--timeout", type=number, default=600.0, metavar="S", help="seconds an answer may take (600)")
    context = f"positions of each answer's context (default: the model's, at most {USUAL_CONTEXT})"
    parser.add_argument("-c", "--ctx-size", type=int, metavar="N", help=context)
    chat_template_option(parser)
    chosen = parser.add_argument_group("how tokens are chosen where a request does not say")
    for option, value, what in (
        ("--temp", 0.8, "temperature"),
        ("--top-p", 0.95, "share of the probability that is kept"),
        ("--repeat-penalty", 1.1, "makes the last 64 tokens less likely"),
    ):
        chosen.add_argument(option, type=number, default=value, metavar="N", help=f"{what} (default %(default)s)")
    chosen.add_argument("--top-k", type=int, default=40, metavar="N", help="tokens that are kept (default %(default)s)")
    arithmetic_options(parser)


def run_serve(args: argparse.Namespace) -> int:
    from ggmlpy.files.errors import UsageError
    from toolchain.serve.run import Settings, serve

    if args.timeout <= 0:
        raise UsageError("--timeout must be more than 0")
    paths = [model_or_demo(args), *([args.compare_with] if args.compare_with else [])]
    models: list[Served] = []
    try:
        for path in paths:
            models.append(_served(args, path, {model.name for model in models}))
        settings = Settings(args.host, args.port, args.api_key, args.allow_host, args.timeout, verbose=args.verbose)
        serve(models, settings, lambda address: _announce(args, address, models))
    except BaseException:
        for model in models:
            model.engine.close()
        raise
    return 0


def _announce(args: argparse.Namespace, address: str, models: list[Any]) -> None:
    names = ", ".join(model.name for model in models)
    remark(f"serving {names} at {address}")
    say(args, f"chat page: {address}/   API: {address}/v1   Ctrl-C stops")


def _served(args: argparse.Namespace, path: str, taken: set[str]) -> Served:
    from ggmlpy import open_model
    from llama_ref.text.chat_prompt import prompt_of
    from llama_ref.text.model import Model
    from llama_ref.text.sampling import SamplingOptions
    from toolchain.serve.engine import Engine
    from toolchain.serve.work import Served

    file = open_model(path)
    n_ctx = args.ctx_size or min(file.hparams.context_length, USUAL_CONTEXT)
    say_passed_over(args, file, n_ctx)
    model = Model.from_file(file, n_ctx=n_ctx, **arithmetic_of(args))
    engine = Engine(model, places=args.parallel or _usual_places(model), queue=args.queue)
    stem = os.path.basename(path)
    name = next(each for each in (stem, *(f"{stem} ({n})" for n in range(2, 10))) if each not in taken)
    sampling = SamplingOptions(top_k=args.top_k, top_p=args.top_p, temp=args.temp, repeat_penalty=args.repeat_penalty)
    return Served(name, engine, prompt_of(engine.tokenizer, args.chat_template), sampling)


def _usual_places(model: Model) -> int:
    """How many answers are written at a time unless somebody says; caches take their memory as they are filled."""
    from ggmlpy.files.mapping import physical_memory

    cache = model.new_cache()
    return 8 if 8 * (cache.k.nbytes + cache.v.nbytes) <= physical_memory() // 4 else 4
