"""Does all of it fit together? Every check of a merge that needs no weights, before a byte is written.

The vocabulary is a chain, 32000 -> 49953 -> 49954 in Chinese-LLaMA-Alpaca: the base, then each adapter in order, each
with its own embedding, output and tokenizer. :func:`check_chain` walks it and returns one :class:`Link` per step;
whatever does not fit is refused with both numbers, both files, the cause and the next command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggmlpy.files.errors import FormatError, MissingFileError, ShapeError, VocabularyError
from ggmlpy.files.paths import refuse_directory, refuse_overwriting
from ggmlpy.files.unpacked import shown
from ggmlpy.formats.vocabulary_names import vocabulary_name
from llama_ref.checkpoint.layout import Checkpoint
from llama_ref.conversion.exported_tokenizer import JSON_TOKENIZER_FILES
from llama_ref.vocabulary.json_tokenizer import JsonTokenizer
from llama_ref.vocabulary.tokenizer_file import GgmlVocabulary, find_tokenizer, load_vocabulary

from .adapter import Adapter, LoraPair

__all__ = ["Chain", "Link", "check_chain"]

EMBEDDING, OUTPUT = "tok_embeddings.weight", "output.weight"


@dataclass(frozen=True)
class Link:
    """One step of the chain: what a base or an adapter brings, in rows and pieces; None where it brings nothing."""

    who: str  # "base", "adapter 1", …
    path: Path
    embedding: int | None
    output: int | None
    tokenizer: int | None
    n_vocab: int  # after this step

    @property
    def cells(self) -> tuple[str, ...]:
        """For a table: who, embedding, output, tokenizer, vocabulary afterwards, path."""
        numbers = (self.embedding, self.output, self.tokenizer, self.n_vocab)
        return (self.who, *("-" if n is None else str(n) for n in numbers), str(self.path))


@dataclass(frozen=True)
class Chain:
    """A checked chain: its steps, the tokenizer of the result, and what is worth telling."""

    links: tuple[Link, ...]
    tokenizer: GgmlVocabulary
    tokenizer_files: dict[str, Path]
    base_tokenizer: GgmlVocabulary | None
    notes: tuple[str, ...]

    @property
    def n_vocab(self) -> int:
        return self.links[-1].n_vocab

    @property
    def has_json_tokenizer(self) -> bool:
        """Whether the tokenizer is a tokenizer.json, as LLaMA 3's and Qwen's are."""
        return self.tokenizer.path.name == "tokenizer.json"


def check_chain(
    base: Checkpoint, adapters: Sequence[Adapter], *, init: str | None = None, tokenizer: Path | None = None
) -> Chain:
    """Check that base, adapters and tokenizers fit together, in this order.

    Args:
        init: the initialization for rows that no adapter brings; None refuses such growth.
        tokenizer: a tokenizer.model (or its directory) to take instead of the last adapter's.

    Raises:
        ShapeError: a tensor that the base lacks or has in another shape.
        VocabularyError: the numbers of rows and pieces contradict each other.
        MissingFileError: there is no tokenizer for the result.
    """
    base_tokenizer = _base_tokenizer(base)
    links = [_first_link(base, base_tokenizer)]
    for number, adapter in enumerate(adapters, 1):
        _check_tensors(base, adapter, links[-1].n_vocab)
        links.append(_next_link(base, links, number, adapter, init))
        _check_same_pieces(links, base_tokenizer, adapter)
    explicit = None if tokenizer is None else _explicit(base, tokenizer)
    home = explicit or _home_of_tokenizer(links, adapters, base_tokenizer) or _json_home(links)
    if home is not None and _has_its_padding(base, links, len(home)):
        home = home.padded(links[-1].n_vocab)
    if home is None or len(home) != links[-1].n_vocab:
        raise _no_tokenizer(links, home)
    files = _tokenizer_files(home, links)
    return Chain(tuple(links), home, files, base_tokenizer, tuple(_notes(base, adapters, links)))


# ── the links ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _has_its_padding(base: Checkpoint, links: Sequence[Link], n_pieces: int) -> bool:
    """Whether the embedding has more rows than the tokenizer has tokens because the base has them, as transformers pads
    it; no adapter changes that."""
    own, n_vocab = links[0].tokenizer, links[0].n_vocab
    kept = all(link.n_vocab == n_vocab and link.embedding is link.output is None for link in links[1:])
    return base.layout == "huggingface" and kept and own is not None and n_pieces == own < n_vocab


def _first_link(base: Checkpoint, tokenizer: GgmlVocabulary | None) -> Link:
    embedding, output = base.tensors[EMBEDDING].shape[0], base.tensors[OUTPUT].shape[0]
    if embedding != output:
        raise VocabularyError(
            "the base's embedding and output matrix differ in rows",
            path=base.path,
            expected=f"{embedding} rows of output.weight, as of tok_embeddings.weight",
            found=output,
            cause="one of the two was resized and the other was not",
            next_step="start from the original base",
        )
    pieces = len(tokenizer) if tokenizer else None
    return Link("base", base.path, embedding, output, pieces, embedding)


def _next_link(base: Checkpoint, links: Sequence[Link], number: int, adapter: Adapter, init: str | None) -> Link:
    before = links[-1].n_vocab
    rows = {name: adapter.replaced[name].shape[0] for name in (EMBEDDING, OUTPUT) if name in adapter.replaced}
    pieces = len(adapter.tokenizer) if adapter.tokenizer else None
    after = max(rows.values(), default=before)
    if init is not None and not rows and pieces is not None and pieces > before:
        after = pieces
    link = Link(f"adapter {number}", adapter.path, rows.get(EMBEDDING), rows.get(OUTPUT), pieces, after)
    if not _has_its_padding(base, [*links, link], pieces or 0):
        _check_rows(links, link, adapter, init)
    return link


def _check_rows(links: Sequence[Link], link: Link, adapter: Adapter, init: str | None) -> None:
    before = links[-1]
    brought = {link.embedding, link.output} - {None}
    if len(brought) == 2 or (brought and brought != {before.n_vocab} and None in (link.embedding, link.output)):
        raise _uneven(before, link)
    if link.n_vocab < before.n_vocab:
        raise _shrinking(links, link)
    if link.tokenizer is None or link.tokenizer == link.n_vocab:
        return
    if link.tokenizer > link.n_vocab and not brought:
        raise _untrained_growth(before, link)
    raise _wrong_tokenizer(link, adapter)


def _uneven(before: Link, link: Link) -> VocabularyError:
    def rows(n: int | None) -> str:
        return "none" if n is None else str(n)

    return VocabularyError(
        f"{link.who} brings an embedding of {rows(link.embedding)} rows and an lm_head of {rows(link.output)}",
        path=link.path,
        expected=f"both with the same rows; the model so far has {before.n_vocab} ({before.path})",
        found=f"{rows(link.embedding)} and {rows(link.output)}",
        cause="modules_to_save named only one of embed_tokens and lm_head, or a saving bug dropped one",
        next_step="save the adapter again with modules_to_save = embed_tokens, lm_head",
    )


def _shrinking(links: Sequence[Link], link: Link) -> VocabularyError:
    before = links[-1]
    is_order = any(earlier.n_vocab <= link.n_vocab for earlier in links[:-1])
    return VocabularyError(
        f"{link.who} is for a vocabulary of {vocabulary_name(link.n_vocab)}, "
        f"but the model has {vocabulary_name(before.n_vocab)} by then",
        path=link.path,
        expected=f"at least {before.n_vocab} rows, as after {before.who} ({before.path})",
        found=link.n_vocab,
        cause="the adapters are in the wrong order" if is_order else "the base was grown already",
        next_step=f"--lora {link.path},{before.path}" if is_order else "start from the original base",
    )


def _untrained_growth(before: Link, link: Link) -> VocabularyError:
    return VocabularyError(
        f"{link.who}'s tokenizer is {vocabulary_name(link.tokenizer or 0)}, but the embedding stays at "
        f"{before.n_vocab} rows: the adapter brings no embed_tokens and lm_head for the new tokens",
        path=link.path,
        expected=f"embed_tokens and lm_head of {link.tokenizer} rows, or a tokenizer of {before.n_vocab} pieces",
        found=f"{before.n_vocab} rows in {before.path}, {link.tokenizer} pieces",
        cause="modules_to_save was dropped when the adapter was saved, or the tokenizer belongs to another adapter",
        next_step="get the complete adapter, or fill new rows untrained: --init-embeddings pieces|mean|normal|zeros",
    )


def _wrong_tokenizer(link: Link, adapter: Adapter) -> VocabularyError:
    return VocabularyError(
        f"the tokenizer is {vocabulary_name(link.tokenizer or 0)}; {link.who} needs {vocabulary_name(link.n_vocab)}",
        path=adapter.tokenizer.path if adapter.tokenizer else adapter.path,
        expected=f"{link.n_vocab} pieces, as {shown(adapter.weights)} has rows",
        found=link.tokenizer,
        cause="the tokenizers of Chinese-LLaMA (49953) and Chinese-Alpaca (49954) were mixed up",
        next_step=f"copy the tokenizer.model that was published with this adapter into {adapter.path}",
    )


# ── the tensors ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_tensors(base: Checkpoint, adapter: Adapter, n_vocab: int) -> None:
    """Every tensor of the adapter must be in the base, in the same shape but for rows of the vocabulary."""
    absent = [name for name in adapter.names if name not in base.tensors]
    if absent:
        raise ShapeError(
            f"{len(absent)} of the adapter's {len(adapter.names)} tensors match nothing in the base: "
            + ", ".join(absent[:8])
            + (" …" if len(absent) > 8 else ""),
            path=adapter.weights,
            expected=f"tensors of {base.path} ({base.params.n_layer} layers)",
            cause="the adapter was trained on a larger model",
            next_step="name the base that the adapter was trained on"
            + (f" ({adapter.config.base_model})" if adapter.config.base_model else ""),
        )
    for pair in adapter.pairs.values():
        _check_pair(base, adapter, pair, n_vocab)
    for name, tensor in adapter.replaced.items():
        shape = base.tensors[name].shape
        free = 1 if name in (EMBEDDING, OUTPUT) else 0
        if len(tensor.shape) != len(shape) or tensor.shape[free:] != shape[free:]:
            raise _wrong_base(base, adapter, name, tensor.shape)


def _check_pair(base: Checkpoint, adapter: Adapter, pair: LoraPair, n_vocab: int) -> None:
    shape = base.tensors[pair.name].shape
    if pair.name in (EMBEDDING, OUTPUT):
        rows = adapter.replaced[pair.name].shape[0] if pair.name in adapter.replaced else n_vocab
        shape = (rows, *shape[1:])
    if pair.shape != shape:
        raise _wrong_base(base, adapter, pair.name, pair.shape)


def _wrong_base(base: Checkpoint, adapter: Adapter, name: str, shape: Sequence[int]) -> ShapeError:
    return ShapeError(
        f"the adapter's change of {name} has another shape than the base's tensor",
        path=adapter.weights,
        field=name,
        expected=f"{list(base.tensors[name].shape)} ({base.path})",
        found=list(shape),
        cause=f"the adapter was trained on a model of another size than {base.params.published or 'this'}"
        + (", or fan_in_fan_out, which only square matrices survive" if adapter.turned else ""),
        next_step="name the base that the adapter was trained on"
        + (f" ({adapter.config.base_model})" if adapter.config.base_model else ""),
    )


# ── the tokenizers ────────────────────────────────────────────────────────────────────────────────────────────────────


def _base_tokenizer(base: Checkpoint) -> GgmlVocabulary | None:
    try:
        return load_vocabulary(find_tokenizer(base.path), fill=base.layout == "huggingface")
    except MissingFileError:
        return None  # needed only if no adapter brings one


def _explicit(base: Checkpoint, path: Path) -> GgmlVocabulary:
    return load_vocabulary(find_tokenizer(base.path, path))


def _home_of_tokenizer(
    links: Sequence[Link], adapters: Sequence[Adapter], base_tokenizer: GgmlVocabulary | None
) -> GgmlVocabulary | None:
    """The last tokenizer along the chain."""
    brought = [adapter.tokenizer for adapter in adapters if adapter.tokenizer is not None]
    return brought[-1] if brought else base_tokenizer


def _json_home(links: Sequence[Link]) -> GgmlVocabulary | None:
    """A tokenizer.json, the last along the chain, as LLaMA 3 has; rows beyond its tokens are the model's own.

    What lies beside an adapter's archive is not the adapter's.
    """
    base, *adapters = (link.path for link in links)
    folders = [*(path for path in reversed(adapters) if path.is_dir()), base if base.is_dir() else base.parent]
    for path in (folder / "tokenizer.json" for folder in folders):
        if path.is_file():
            pieces = tuple((piece, 0.0) for piece in JsonTokenizer(path).pieces)
            return GgmlVocabulary(path, pieces).padded(links[-1].n_vocab)
    return None


def _tokenizer_files(home: GgmlVocabulary, links: Sequence[Link]) -> dict[str, Path]:
    """The tokenizer and its side files; those of later adapters, which have a chat template of their own, count."""
    files: dict[str, Path] = {}
    folders = [link.path for link in links if link.path.is_dir()]
    own = folders.index(home.path.parent) if home.path.parent in folders else -1
    for folder in dict.fromkeys([home.path.parent, *folders[own + 1 :]]):
        fits = _has_json_of(folder, len(home))
        if folder == home.path.parent or fits:
            names = JSON_TOKENIZER_FILES if fits else [n for n in JSON_TOKENIZER_FILES if n != "tokenizer.json"]
            files |= {name: folder / name for name in names if (folder / name).is_file()}
    return files | {"tokenizer.json" if home.path.name == "tokenizer.json" else "tokenizer.model": home.path}


def _has_json_of(folder: Path, n_tokens: int) -> bool:
    """Whether there is a tokenizer.json with so many tokens."""
    path = folder / "tokenizer.json"
    return path.is_file() and len(JsonTokenizer(path).pieces) == n_tokens


def _no_tokenizer(links: Sequence[Link], found: GgmlVocabulary | None) -> FormatError:
    n_vocab = links[-1].n_vocab
    next_step = f"--tokenizer PATH of the tokenizer.model with {n_vocab} pieces"
    if found is None:
        return MissingFileError(
            "no tokenizer.model for the merged model",
            path=links[-1].path,
            expected=f"{vocabulary_name(n_vocab)} in one of: {', '.join(str(link.path) for link in reversed(links))}",
            found="none there",
            next_step=next_step,
        )
    return VocabularyError(
        f"the tokenizer is {vocabulary_name(len(found))}; the merged model has {vocabulary_name(n_vocab)}",
        path=found.path,
        expected=f"{n_vocab} pieces, as the embedding has rows ({links[-1].path})",
        found=len(found),
        cause="the adapter's own tokenizer.model is missing beside it",
        next_step=next_step,
    )


def _check_same_pieces(links: Sequence[Link], base: GgmlVocabulary | None, adapter: Adapter) -> None:
    """Ids that the base knows must mean the same to an adapter that leaves the embedding as it is."""
    if base is None or adapter.tokenizer is None or EMBEDDING in adapter.replaced or links[0].n_vocab != len(base):
        return
    pairs = zip(base.base, adapter.tokenizer.base)
    for i, ((old, _), (new, _)) in enumerate(pairs):
        if old != new:
            raise VocabularyError(
                f"piece {i} is {old.decode('utf-8', 'replace')!r} in the base and "
                f"{new.decode('utf-8', 'replace')!r} in the adapter",
                path=adapter.tokenizer.path,
                expected=f"the pieces of {base.path}",
                found=f"another vocabulary of {len(adapter.tokenizer)} pieces",
                cause="the tokenizer belongs to another model",
                next_step="copy the tokenizer.model that was published with this adapter beside it",
            )


def _notes(base: Checkpoint, adapters: Sequence[Adapter], links: Sequence[Link]) -> list[str]:
    notes = [*base.notes, *(note for adapter in adapters for note in adapter.notes)]
    if links[0].tokenizer not in (None, links[0].n_vocab):
        notes.append(
            f"the base's tokenizer has {links[0].tokenizer} pieces, its embedding {links[0].n_vocab} rows: not a pair"
        )
    return notes


def check_output(base: Checkpoint, adapters: Sequence[Adapter], output: Path) -> None:
    """The result must not land among its own sources.

    Raises:
        UsageError: it would.
    """
    refuse_directory(output, [base.path, *(adapter.path for adapter in adapters)])
    of_adapters = (path for adapter in adapters for path in (adapter.path, adapter.config.path, adapter.weights))
    refuse_overwriting(output, [*base.files, base.params_path, *of_adapters])
