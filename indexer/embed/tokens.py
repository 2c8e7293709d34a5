"""Tokens of texts, counted by the model's own tokenizer without loading the model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.errors import FatalError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Above this many characters a text is counted in slices: the tokenizer's memory and, past the
# processor's caches, its time a character grow with the longest text it is given (1 MB of Chinese
# without a break: 0.8 s and 180 MB in one piece, 0.25 s and 20 MB in slices).
_SLICE = 65_536
# A slice ends at the last of these in its last part, so that no word is cut.
_LOOK_BACK = 2_048
_BREAK = re.compile(r"\s(?=\S)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BATCH = 256


def open_tokenizer(tokenizer_json: Path) -> Tokenizer:
    """Load a ``tokenizer.json`` with truncation and padding off.

    The environment variable TOKENIZERS_PARALLELISM is set to false unless it is set already: one
    thread counts faster than it is fed, and threads of a pool would not survive a fork.

    Raises:
        FatalError: The file is missing or damaged.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer

    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(tokenizer_json))
    except Exception as error:  # the library raises plain Exception for all it finds wrong
        raise FatalError(
            "The model's tokenizer cannot be read",
            f"{tokenizer_json}: {error}. Remove the folder it is in; it is made again at the next start.",
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def clean(text: str) -> str:
    """The text with each lone surrogate, which no tokenizer takes, replaced by U+FFFD.

    The length stays the same, so that offsets stay true.
    """
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


class TokenCounter:
    """Counts tokens of passages; special tokens and the model's prefix are not counted.

    Not for use by several threads at once.
    """

    def __init__(self, tokenizer_json: Path) -> None:
        """Load the tokenizer, which takes about half a second for a large vocabulary.

        Raises:
            FatalError: The file is missing or damaged.
        """
        self._tokenizer = open_tokenizer(tokenizer_json)

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text.

        Exact up to 65,536 characters. Longer texts are counted in slices that end at white space
        where there is some; where there is none, each cut may add a token or two.
        """
        totals = [0] * len(texts)
        parts = ((at, part) for at, text in enumerate(texts) for part in _slices(clean(text)))
        while batch := list(islice(parts, _BATCH)):
            encodings = self._tokenizer.encode_batch_fast(
                [part for _, part in batch], add_special_tokens=False
            )
            for (at, _), encoding in zip(batch, encodings, strict=True):
                totals[at] += len(encoding)
        return totals

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each token in `text`, in characters, in order.

        Starts never go back. A token that stands for nothing in the text (the word mark in front
        of a text) is empty; one character may belong to several tokens.
        """
        found: list[tuple[int, int]] = []
        first = 0
        for part in _slices(clean(text)):
            encoding = self._tokenizer.encode(part, add_special_tokens=False)
            found.extend((first + start, first + end) for start, end in encoding.offsets)
            first += len(part)
        return found


def _slices(text: str) -> Iterator[str]:
    """Cut a text into slices of at most `_SLICE` characters whose sum is the text."""
    first = 0
    while len(text) - first > _SLICE:
        end = first + _SLICE
        breaks = [match.start() for match in _BREAK.finditer(text, end - _LOOK_BACK, end)]
        if breaks:
            end = breaks[-1]
        yield text[first:end]
        first = end
    yield text[first:] if first else text
