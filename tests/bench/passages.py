"""What is measured: files of many kinds and the passages that the product makes of them."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from indexer.chunk import chunk
from indexer.embed import EncoderInfo
from indexer.embed.tokens import TokenCounter
from indexer.errors import FileError
from indexer.extract import extract, kind_of

# So that one book does not make up the whole library.
_LARGEST_SHARE = 0.25


@dataclass(frozen=True)
class Library:
    """A folder of copied files and what they hold.

    Attributes:
        texts: What is embedded, a passage each.
        tokens: Tokens of all `texts`, special tokens and prefixes not counted.
    """

    folder: Path
    files: int
    size: int
    texts: list[str]
    tokens: int


def make_library(source: Path, target: Path, info: EncoderInfo, tokens: int) -> Library:
    """Copy files from `source`, always the same ones, until they hold about `tokens` tokens."""
    counter = TokenCounter(info.tokenizer)
    # What the indexer would leave out is no work for it: an environment in .venv, builds.
    candidates = sorted(
        file
        for file in source.rglob("*")
        if file.is_file()
        and kind_of(file)
        and not any(part.startswith(".") or part == "build" for part in file.relative_to(source).parts)
    )
    random.Random(1).shuffle(candidates)
    texts: list[str] = []
    total = files = size = 0
    for file in candidates:
        if total >= tokens:
            break
        try:
            document = extract(file, file.read_bytes())
        except FileError:
            continue
        found = chunk(document, counts=counter.counts, max_tokens=info.max_tokens)
        share = sum(piece.tokens for piece in found)
        if share > tokens * _LARGEST_SHARE:
            continue
        # Side by side: below folders such as site-packages the indexer would leave them out.
        copy = target / f"{files:05}-{file.name}"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        texts += [piece.embed_text for piece in found]
        total, files, size = total + share, files + 1, size + file.stat().st_size
    return Library(folder=target, files=files, size=size, texts=texts, tokens=total)
