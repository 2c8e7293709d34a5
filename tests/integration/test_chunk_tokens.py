"""Chunks counted by the bundled model's own tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.chunk import chunk
from indexer.document import Block, Document
from indexer.embed.bundled import ensure_bundled
from indexer.embed.tokens import TokenCounter
from indexer.extract import extract

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return TokenCounter(ensure_bundled().tokenizer)


@pytest.mark.parametrize("name", ["README.md", "indexer/api.py", "indexer/chunk/code.py"])
def test_own_files(counter: TokenCounter, name: str) -> None:
    path = ROOT / name
    if not path.exists():
        pytest.skip("not in this checkout")
    document = extract(path, path.read_bytes())
    chunks = chunk(document, counts=counter.counts, max_tokens=ensure_bundled().max_tokens)
    assert chunks
    for piece in chunks:
        assert document.text[piece.start : piece.end] == piece.text
        assert piece.tokens == counter.counts([piece.embed_text])[0] <= ensure_bundled().max_tokens


@pytest.mark.parametrize("part", ["字", "👩‍👩‍👧", "\ud800", "ﷺ", "ab3", "\x01\u200b", '{"k":[1,2]},', "a "])
def test_hostile_texts(counter: TokenCounter, part: str) -> None:
    text = part * (60_000 // len(part))
    document = Document(media="text", text=text, blocks=(Block(kind="paragraph", start=0, end=len(text)),))
    chunks = chunk(document, counts=counter.counts, max_tokens=100, target_tokens=60)
    assert all(piece.tokens == counter.counts([piece.embed_text])[0] <= 100 for piece in chunks)
    assert "".join(piece.text for piece in chunks).replace(" ", "") == text.replace(" ", "")
