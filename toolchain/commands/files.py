"""migrate, quantize: one model file to another."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from toolchain.terminal.bars import progress_bar
from toolchain.terminal.foreign import one_line
from toolchain.terminal.program import spoken
from toolchain.terminal.talk import in_terminal, print_json, put, say, warn_of_values

from .options import Commands, command, era_option, json_option, threads_option, tokenizer_option, writes

if TYPE_CHECKING:
    from ggmlpy.quantizers.gguf_plan import GgufOptions

COMPILERS = ("baseline", "gcc-fma", "clang-fma")  # as in ggmlpy.machine.contraction; help starts without it


def add_migrate(commands: Commands) -> None:
    parser = command(
        commands,
        "migrate",
        run_migrate,
        "Carry a model into another container: parts are joined; tensor bytes change only with --requantize.",
        "migrate files/ggml-model-f16.bin model.gguf --container gguf\n"
        "migrate old.bin new.bin --container ggjt3 --requantize",
    )
    parser.add_argument("input", metavar="IN", help="the model, or the first file of a multi-part one")
    writes(parser.add_argument("output", metavar="OUT", help="the file to write"))
    parser.add_argument(
        "--container",
        metavar="C",
        help="ggml, ggmf1, ggjt1, ggjt2, ggjt3, gguf (default: gguf where OUT is named so, else ggjt1)",
    )
    parser.add_argument(
        "--requantize",
        nargs="?",
        const=True,
        default=False,
        metavar="TYPE",
        help="let quantized bytes change where the layouts differ; with TYPE, quantize anew to it",
    )
    tokenizer_option(parser, "tokenizer.model with the scores that an unversioned file lacks")
    parser.add_argument("--parts", type=int, default=1, metavar="N", help="spread over N files (ggml and ggmf only)")
    json_option(parser, "the report")


def run_migrate(args: argparse.Namespace) -> int:

    from ggmlpy import open_model
    from ggmlpy.formats.containers import container_named, container_of_name
    from ggmlpy.quantizers.migration import migrate

    container, version = container_named(args.container or container_of_name(args.output, "ggjt1"))
    scores = _scores_of(args.tokenizer) if args.tokenizer else None
    with open_model(args.input, any_architecture=True) as model, progress_bar(args, model.size, "migrate") as bar:
        report = migrate(
            model,
            args.output,
            container.name,
            version,
            requantize=args.requantize,
            scores=scores,
            n_parts=args.parts,
            progress=bar.update,
        )
        source = model.format_name
    if report.derived_scores:
        say(args, "note: the file has no scores; they were derived from the order of the pieces (exact for LLaMA's)")
    for note in report.notes:
        say(args, f"note: {spoken(note)}")
    for loss in report.losses:
        say(
            args,
            f"{loss.name:<40} {loss.source} -> {loss.target}  RMSE {loss.rmse:.6g}  max error {loss.max_error:.6g}",
        )
    say(args, f"{source} -> {container.title(version)}: {', '.join(map(str, report.paths))}, {report.size:,} bytes")
    warn_of_values(args, report.paths[0])
    if args.json:
        losses = [loss.as_dict() for loss in report.losses]
        print_json({"files": report.paths, "size": report.size, "losses": losses, "notes": report.notes})
    return 0


def _scores_of(tokenizer: str) -> list[float]:
    from llama_ref.vocabulary.tokenizer_file import load_vocabulary

    return [score for _, score in load_vocabulary(tokenizer)]


def add_quantize(commands: Commands) -> None:
    parser = command(
        commands,
        "quantize",
        run_quantize,
        "Quantize an f32, f16 or bf16 model, byte for byte as llama.cpp's quantize of an era did. For a GGUF file that "
        "is today's llama-quantize, with its options.",
        "quantize files/ggml-model-f16.bin q4_0.bin q4_0\n"
        "quantize ggml-model-f16.bin ggml-model-q4_0.bin 2\n"
        "quantize model-f16.bin model-q4_k_m.bin q4_k_m --era 2023-08-21\n"
        "quantize model-f16.gguf model-Q4_K_M.gguf Q4_K_M --imatrix model.imatrix.gguf",
    )
    parser.add_argument("input", metavar="IN", help="the model, or the first file of a multi-part one")
    writes(parser.add_argument("output", metavar="OUT", help="the file to write; GGUF if IN is, or if named .gguf"))
    parser.add_argument("type", metavar="TYPE", help="as llama.cpp takes it (2, 3) or by name (q4_0, q4_k_m)")
    era_option(
        parser, "whose quantizer: 2023-03-19 … 2023-08-21 (default 2023-03-31); of GGUF, any date (default today)"
    )
    threads_option(parser)
    parser.add_argument("--allow-requantize", action="store_true", help="accept a model that is already quantized")
    parser.add_argument("--leave-output-tensor", action="store_true", help="keep output.weight as it is")
    _gguf_options(parser)
    json_option(parser, "the report")


def _gguf_options(parser: argparse.ArgumentParser) -> None:
    """What llama-quantize of GGUF's eras takes."""
    group = parser.add_argument_group("GGUF")
    group.add_argument("--imatrix", metavar="F", help="importance matrix (.gguf or .dat): which errors count more")
    for word, what in (("include", "use the importance of"), ("exclude", "don't use the importance of")):
        group.add_argument(
            f"--{word}-weights", action="append", default=[], metavar="S", help=f"{what} tensors named so"
        )
    group.add_argument("--pure", action="store_true", help="no mix: the same type for all matrices")
    group.add_argument("--output-tensor-type", metavar="TYPE", help="the type of output.weight")
    group.add_argument("--token-embedding-type", metavar="TYPE", help="the type of token_embd.weight")
    group.add_argument(
        "--tensor-type",
        action="append",
        default=[],
        metavar="REGEX=TYPE",
        help="the type of tensors whose names match, such as attn_v=q8_0; may be given several times",
    )
    group.add_argument(
        "--override-kv",
        action="append",
        default=[],
        metavar="KEY=TYPE:VALUE",
        help="set a key; TYPE is int, float, bool or str; may be given several times",
    )
    group.add_argument("--prune-layers", metavar="L0,L1,…", help="leave out these layers")
    group.add_argument("--keep-split", action="store_true", help="write as many files as the input has")
    group.add_argument(
        "--compiler",
        choices=COMPILERS,
        default=COMPILERS[0],
        help="what built llama-quantize (default baseline, as today's on x86-64): with fused multiply-add, as cmake "
        "did until 2024-11 and builds for arm64 do, scales of k-quants differ a little; types iq1, iq2, iq3: baseline",
    )


def _options_of_gguf(args: argparse.Namespace) -> GgufOptions:
    from ggmlpy.files.errors import UsageError
    from ggmlpy.quantizers.gguf_plan import GgufOptions

    tensors = [word.rpartition("=") for word in args.tensor_type]
    if not all(pattern and kind for pattern, _, kind in tensors):
        raise UsageError("--tensor-type takes REGEX=TYPE, such as attn_v=q8_0")
    layers = (args.prune_layers or "").split(",") if args.prune_layers else []
    if not all(layer.strip().isdecimal() for layer in layers):
        raise UsageError(f"--prune-layers takes numbers separated by commas, not {args.prune_layers!r}")
    return GgufOptions(
        pure=args.pure,
        output=args.output_tensor_type,
        embedding=args.token_embedding_type,
        tensors=tuple((pattern, kind) for pattern, _, kind in tensors),
        importance=args.imatrix,
        include=tuple(args.include_weights),
        exclude=tuple(args.exclude_weights),
        overrides=tuple(args.override_kv),
        prune=tuple(int(layer) for layer in layers),
        keep_split=args.keep_split,
        compiler=args.compiler,
    )


def run_quantize(args: argparse.Namespace) -> int:
    from ggmlpy.quantizers.whole_file import quantize_file

    start = time.perf_counter()

    with progress_bar(args, 0, "quantize") as bar:

        def advanced(size: int, total: int) -> None:
            bar.total = total
            bar.update(size)

        def finished(report: Any, index: int) -> None:
            if not (args.json or args.quiet):
                bar.write(in_terminal(one_line(report.tensor_line(index)), sys.stdout))

        report = quantize_file(
            args.input,
            args.output,
            args.type,
            args.era,
            threads=args.threads,
            progress=advanced,
            on_tensor=finished,
            allow_requantize=args.allow_requantize,
            leave_output=args.leave_output_tensor,
            options=_options_of_gguf(args),
        )
    if args.json:
        print_json(report.as_dict())
    elif not args.quiet:
        put(*report.closing_lines())
    for note in report.notes:
        say(args, f"note: {spoken(note)}")
    warn_of_values(args, args.input, *report.paths)
    say(args, f"quantize time = {1000 * (time.perf_counter() - start):8.2f} ms")
    return 0
