"""Numbers that pages tell of the real vocabularies."""

from __future__ import annotations

from pathlib import Path

from llama_ref.vocabulary.sentencepiece_model import read_sentencepiece
from lora.vocabulary import merge_vocabularies


def test_appended_pieces_that_no_text_is_cut_into(tokenizers: Path) -> None:
    """docs/vocabulary.md, "Why merged pieces have score 0"."""
    from sentencepiece import SentencePieceProcessor

    llama = read_sentencepiece(tokenizers / "llama.model")
    merged, growth = merge_vocabularies(llama, read_sentencepiece(tokenizers / "chinese_sp.model"))
    assert (growth.base, growth.added, growth.total) == (32000, 17953, 49953)
    scores = {piece.score for piece in llama.pieces if piece.type == 1}
    assert sorted(scores)[:2] == [-1e9, -31740.0]
    assert max(scores) == -1.0
    processor = SentencePieceProcessor(model_proto=merged.to_bytes())
    appended = [piece.text.decode() for piece in merged.pieces[32000:]]
    around = [("", ""), ("a", ""), ("7", ""), ("一", ""), ("\n", ""), ("x", "x")]
    cuts = [processor.encode([left + text + right for text in appended]) for left, right in around]
    lost = [text for i, text in enumerate(appended) if not any(32000 + i in cut[i] for cut in cuts)]
    assert len(lost) == 345
    assert {"意大利", "越来越", "西班牙", "中华人民共和国"} <= set(lost)
    assert processor.encode("a意大利", out_type=str) == ["▁a", "意", "大", "利"]
