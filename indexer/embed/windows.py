"""How texts that are longer than a model takes become windows, and their vectors one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from indexer.embed import Vectors
from indexer.embed.tokens import clean

# A token is at least a character, but white space and dropped characters are none: this much of a
# text is tokenized to fill a window, so that a text of any length costs about the same.
_CHARACTERS_A_TOKEN = 40
# Of a passage longer than the model takes, so many windows and tokens are embedded; the rest is not.
_WINDOWS = 32
_TOKENS = 65_536


def most_windows(max_length: int) -> int:
    """How many windows of a passage are embedded by a model that takes so many tokens."""
    return max(1, min(_WINDOWS, _TOKENS // max_length))


def beginning(text: str, tokens: int) -> str:
    """Of an endless text as much as could fill so many tokens, without lone surrogates."""
    cut = tokens * _CHARACTERS_A_TOKEN
    # White space in front stands for no token, but could fill all of the cut.
    return clean(text[:cut] if text[:1].strip() else text.lstrip()[:cut])


def even_cuts(count: int, room: int) -> list[tuple[int, int]]:
    """First and last (excluded) of as few parts as possible of at most `room`, of about the same size.

    Parts of the same size weigh the same in a mean; a short rest at the end would weigh too much.
    """
    parts = max(1, -(-count // room))
    edges = [count * at // parts for at in range(parts + 1)]
    return list(pairwise(edges))


def means(vectors: Vectors, counts: Sequence[int]) -> Vectors:
    """The mean of each text's windows, of unit length.

    Args:
        vectors: Float32 (sum of counts, dim), rows of unit length, one text's after the other's.
        counts: Windows of each text, at least 1.

    Returns:
        Float32 (len(counts), dim).
    """
    if len(vectors) == len(counts):
        return vectors
    first = np.cumsum([0, *counts])[:-1]
    sums = np.add.reduceat(vectors, first, axis=0, dtype=np.float32)
    unit: Vectors = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return unit
