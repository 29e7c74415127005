"""convert, to-hf, from-hf: checkpoints to GGML files, and between the two layouts."""

from __future__ import annotations

import argparse
import os
from typing import Any

from toolchain.terminal.bars import progress_bar
from toolchain.terminal.program import spoken, spoken_within
from toolchain.terminal.talk import print_json, say, warn_of_values

from .adapters import add_adapter_options, convert_adapter, is_adapter
from .options import (
    Commands,
    command,
    dry_run_option,
    era_option,
    json_option,
    tokenizer_option,
    torch_format_option,
    whole,
    writes,
)

FTYPES = {"0": "f32", "1": "f16"}


def add_convert(commands: Commands) -> None:
    parser = command(
        commands,
        "convert",
        run_convert,
        "Turn a checkpoint (Meta's layout or Hugging Face's) into a GGML or GGUF file.",
        "convert files/merged --outfile f16.bin\nconvert models/7B\nconvert zh-models/7B/ 1\n"
        "convert models/7B --vocab-only --outfile ggml-vocab.bin\n"
        "convert Llama-3.2-1B --container gguf --outtype bf16\n"
        "convert my-lora --container gguf --base Llama-3.2-1B",
    )
    parser.add_argument(
        "model", metavar="MODEL_DIR", help="holds consolidated.*.pth, *.safetensors or *.bin; or an adapter"
    )
    number = "as convert-pth-to-ggml.py takes it: 0 for f32, 1 for f16"
    parser.add_argument("ftype", metavar="0|1", nargs="?", help=number)
    parser.add_argument(
        "--outtype",
        metavar="TYPE",
        help="f16 (default) or f32; from Hugging Face's layout to GGUF also bf16, q8_0 or auto",
    )
    writes(parser.add_argument("--outfile", metavar="FILE", help="default: ggml-model-TYPE.bin in MODEL_DIR"))
    parser.add_argument(
        "--container",
        metavar="C",
        help="ggml, ggmf1, ggjt1, ggjt2, ggjt3, gguf (default: as FILE is named, or the era's)",
    )
    era_option(parser, "whose container and order of tensors (default 2023-03-31)", "2023-03-31")
    tokenizer_option(parser)
    parser.add_argument("--vocab-only", action="store_true", help="header and vocabulary only; needs no weights")
    parser.add_argument("--params", metavar="7B", help="with --vocab-only: the model's size, in place of params.json")
    parser.add_argument("--pad-vocab", action="store_true", help="fill missing pieces with <dummy00001> and so on")
    parser.add_argument(
        "--guess-params", action="store_true", help="n_mult and n_head as converters of spring 2023 guessed them"
    )
    _add_gguf_options(parser)
    add_adapter_options(parser)
    dry_run_option(parser)
    json_option(parser)


def _add_gguf_options(parser: argparse.ArgumentParser) -> None:
    """Those of llama.cpp's convert_hf_to_gguf.py, and what has to be told about a tokenizer that it does not know."""
    gguf = parser.add_argument_group("from Hugging Face's layout to GGUF")
    name = "rules that split a text into words, such as llama-bpe or qwen2, for a byte-level BPE that is unknown here"
    gguf.add_argument("--pre-tokenizer", metavar="NAME", help=name)
    gguf.add_argument(
        "--split-max-tensors", type=whole(), default=0, metavar="N", help="begin a new file after N tensors"
    )
    gguf.add_argument("--split-max-size", metavar="SIZE", help="begin a new file before one grows over SIZE: 500M, 4G")
    only_keys = "write the first file without tensors"
    gguf.add_argument("--no-tensor-first-split", action="store_true", help=only_keys)


def run_convert(args: argparse.Namespace) -> int:
    if is_adapter(args.model):
        return convert_adapter(args)
    from llama_ref.conversion.converting import plan_conversion, plan_vocabulary
    from llama_ref.conversion.ggml import vocabulary_counts
    from llama_ref.conversion.huggingface_to_gguf.shards import Splitting, parse_split_size
    from llama_ref.vocabulary.tokenizer_file import GgmlVocabulary

    common = {
        "outtype": _outtype(args),
        "era": args.era,
        "container": args.container,
        "tokenizer": args.tokenizer,
        "pre_tokenizer": args.pre_tokenizer,
    }
    if args.vocab_only:
        plan = plan_vocabulary(args.model, args.outfile, model=args.params, **common)
    else:
        size = parse_split_size(args.split_max_size) if args.split_max_size else 0
        common["splitting"] = Splitting(args.split_max_tensors, size, not args.no_tensor_first_split)
        plan = plan_conversion(
            args.model, args.outfile, pad_vocab=args.pad_vocab, guess_params=args.guess_params, **common
        )
    with plan:
        for path, size in plan.files.items():
            say(args, f"{path}: {plan.container.title(plan.version)}, {size:,} bytes")
        if args.verbose and plan.checkpoint and isinstance(plan.vocab, GgmlVocabulary):
            for count in vocabulary_counts(plan.checkpoint, plan.vocab):
                say(args, f"  {count.what:<14} {count.size:>6}  {count.path}")
        if not args.dry_run:
            with progress_bar(args, plan.tensor_bytes, "convert") as bar:
                plan.write(bar.update)
        for note in plan.notes:
            say(args, f"note: {spoken(note)}")
        if not args.dry_run:
            warn_of_values(args, next(iter(plan.files)))
        if args.json:
            files = [{"path": str(path), "size": size} for path, size in plan.files.items()]
            print_json(
                {"files": files, "container": plan.container.title(plan.version), "notes": spoken_within(plan.notes)}
            )
        return 0


def _outtype(args: argparse.Namespace) -> str:
    """The type of the matrices, by name or by the number of the first converters."""
    if args.ftype not in (None, *FTYPES):
        args.parser.error(f"no option or argument {args.ftype!r} here")
    by_number = FTYPES.get(args.ftype)
    if by_number and args.outtype not in (None, by_number):
        from ggmlpy.files.errors import UsageError

        raise UsageError(f"{args.ftype} means {by_number}, and --outtype says {args.outtype}: give one of them")
    return args.outtype or by_number or "f16"


def add_to_hf(commands: Commands) -> None:
    parser = command(
        commands,
        "to-hf",
        run_to_hf,
        "Write a Meta checkpoint in Hugging Face's layout: weights, config.json, tokenizer files.",
        "to-hf files/merged merged-hf\nto-hf models/13B llama-13b-hf --bin --shard-size 5GB\n"
        "to-hf --input_dir models --model_size 7B --output_dir llama-7b-hf\n"
        "to-hf files/ggml-model-f16.bin back-hf",
    )
    parser.add_argument("source", metavar="META_DIR|FILE", nargs="?", help="a GGML or GGUF file goes, too")
    writes(parser.add_argument("output", metavar="OUT", nargs="?", help="a directory of its own"))
    _add_script_options(parser)
    parser.add_argument("--bin", action="store_true", help="pytorch_model.bin rather than model.safetensors")
    parser.add_argument(
        "--shard-size", default="10GB", metavar="SIZE", help="the largest size of a weight file (default 10GB)"
    )
    parser.add_argument(
        "--inv-freq", action=argparse.BooleanOptionalAction, help="rotary frequencies (default: with --bin only)"
    )
    _add_export_options(parser)


def _add_script_options(parser: argparse.ArgumentParser) -> None:
    """The options of transformers' convert_llama_weights_to_hf.py, in place of META_DIR and OUT."""
    script = parser.add_argument_group("as convert_llama_weights_to_hf.py takes them")
    folder = "the folder that holds tokenizer.model and 7B/, 13B/ …"
    script.add_argument("--input-dir", metavar="DIR", help=folder)
    script.add_argument("--model-size", metavar="7B", help="which of its folders")
    script.add_argument("--output-dir", metavar="DIR", help="the same as OUT")


def _source_and_output(args: argparse.Namespace) -> tuple[str, str]:
    """What to read and where to write, in either way of saying so."""
    from ggmlpy.files.errors import UsageError

    if args.source and args.output_dir and not args.output:
        return args.source, args.output_dir
    if (args.source or args.output) and (args.input_dir or args.output_dir):
        raise UsageError("give META_DIR and OUT, or --input-dir, --model-size and --output-dir, not both")
    source, output = args.source or args.input_dir, args.output or args.output_dir
    if not source or not output:
        raise UsageError("give META_DIR and OUT, or --input-dir, --model-size and --output-dir")
    if args.input_dir and args.model_size:
        inner = os.path.join(source, args.model_size)
        return (inner if os.path.isdir(inner) or not _holds_model(source) else source), output
    return source, output


def _holds_model(directory: str) -> bool:
    return os.path.isfile(os.path.join(directory, "consolidated.00.pth"))


def add_from_hf(commands: Commands) -> None:
    parser = command(
        commands,
        "from-hf",
        run_from_hf,
        "Write a Hugging Face model in Meta's layout: consolidated.NN.pth and params.json.",
        "to-hf files/merged merged-hf\nfrom-hf merged-hf merged-meta\nfrom-hf llama-13b-hf models/13B --params 13B",
    )
    parser.add_argument("source", metavar="HF_DIR|FILE", help="a GGML or GGUF file goes, too")
    _add_meta_options(parser)


def _add_meta_options(parser: argparse.ArgumentParser) -> None:
    writes(parser.add_argument("output", metavar="OUT", help="a directory of its own"))
    parser.add_argument(
        "--shards", type=int, metavar="N", help="number of weight files (default: as Meta had for this width)"
    )
    parser.add_argument("--params", metavar="7B", help="a model's size or a params.json (default: derived)")
    _add_export_options(parser)


def add_to_meta(commands: Commands) -> None:
    parser = command(
        commands,
        "to-meta",
        run_from_hf,
        "Write a GGML or GGUF file, or a Hugging Face model, in Meta's layout: consolidated.NN.pth and params.json.",
        "to-meta files/ggml-model-f16.bin back\nto-meta files/ggml-model-q4_0.bin dequantized",
    )
    parser.add_argument("source", metavar="FILE|HF_DIR")
    _add_meta_options(parser)


def add_ggml_to_pth(commands: Commands) -> None:
    parser = command(
        commands,
        "ggml-to-pth",
        run_ggml_to_pth,
        "Save a GGML or GGUF file as llama.cpp's convert-ggml-to-pth.py of March 2023 did: weights, header and "
        "vocabulary in one .pth. (to-meta and to-hf write what today's programs load.)",
        "ggml-to-pth files/ggml-model-f16.bin\nggml-to-pth files/ggml-model-q4_0.bin back.pth --hf",
    )
    parser.add_argument("source", metavar="FILE")
    output = parser.add_argument("output", metavar="OUT.pth", nargs="?", help="default: FILE's name with -to-torch.pth")
    writes(output)
    parser.add_argument("--hf", action="store_true", help="names, order and rows of Hugging Face's layout")
    torch_format_option(parser)


def run_ggml_to_pth(args: argparse.Namespace) -> int:
    from llama_ref.conversion.ggml_to_pth import ggml_to_pth

    path = ggml_to_pth(args.source, args.output, huggingface=args.hf, torch_format=args.torch_format)
    say(args, f"{path}: {path.stat().st_size:,} bytes")
    return 0


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=("float16", "float32"), help="round the weights (default: keep)")
    tokenizer_option(parser)
    parser.add_argument("--weights-only", action="store_true", help="leave the tokenizer out")
    torch_format_option(parser)
    dry_run_option(parser)
    json_option(parser)


def _export_options(args: argparse.Namespace) -> dict[str, Any]:
    """What :func:`_add_export_options` says, as both plans take it."""
    return {name: getattr(args, name) for name in ("dtype", "tokenizer", "weights_only", "torch_format")}


def run_to_hf(args: argparse.Namespace) -> int:
    from llama_ref.conversion.checkpoints import plan_to_hf

    source, output = _source_and_output(args)
    plan = plan_to_hf(
        source,
        output,
        weights="bin" if args.bin else "safetensors",
        shard_size=args.shard_size,
        inv_freq=args.inv_freq,
        **_export_options(args),
    )
    return _run_export(args, plan)


def run_from_hf(args: argparse.Namespace) -> int:
    from ggmlpy.formats.model_params import model_named
    from llama_ref.checkpoint.params import read_params_json
    from llama_ref.conversion.checkpoints import plan_from_hf

    params = args.params
    if params:
        params = read_params_json(params) if os.path.isfile(params) else model_named(params)
    plan = plan_from_hf(
        args.source,
        args.output,
        shards=args.shards,
        params=params,
        **_export_options(args),
    )
    return _run_export(args, plan)


def _run_export(args: argparse.Namespace, plan: Any) -> int:
    with plan:
        for name, size in plan.sizes.items():
            say(args, f"{plan.directory / name}: {size:,} bytes")
        paths = []
        if not args.dry_run:
            with progress_bar(args, plan.tensor_bytes, args.command) as bar:
                paths = plan.write(bar.update)
        for note in plan.notes:
            say(args, f"note: {spoken(note)}")
        if args.json:
            print_json(
                {"files": [str(path) for path in paths], "sizes": plan.sizes, "notes": spoken_within(plan.notes)}
            )
        return 0
