"""Does a model give the similarities that were published for it?

The article that this program follows gives seven cosines of Qwen3-Embedding-0.6B: five of pairs of sentences
(0.862, 0.214, 0.891, 0.187, 0.835: three pairs that say the same, two that have nothing in common) and two of
pairs in two languages (0.77, 0.75). The sentences themselves are not known here. The pairs below are OURS, of
the same kinds in the same order; so the published numbers say about what to expect of a pair, not what a pair
must give. A right model puts every pair that says the same far above every pair that does not.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from indexer import api
from indexer.embed import Encoder
from indexer.embed.measure import measure, remember

NOTE = (
    "The sentences are Dragoman's own, of the kinds that the article describes: those of the article are not "
    "known. The published numbers belong to those, so expect about the same, not the same."
)
# Any way to run it: the Hub's files, a GGUF, a server's model of that name.
_REFERENCE = re.compile(r"qwen3[-_.]embedding[-_.:]0\.6b", re.IGNORECASE)


class _Published(NamedTuple):
    first: str
    second: str
    similarity: float


_PAIRS = (
    _Published(
        "How do I reset the password of my account?", "I forgot my login password. What can I do?", 0.862
    ),
    _Published(
        "How do I reset the password of my account?", "The bakery sells fresh bread from six o'clock.", 0.214
    ),
    _Published("明天上午的会议改到下午三点。", "原定明天上午的会推迟到下午三点开。", 0.891),
    _Published("明天上午的会议改到下午三点。", "这种蘑菇只生长在潮湿的松树林里。", 0.187),
    _Published("The train was late because of heavy snow.", "Heavy snowfall delayed the train.", 0.835),
    _Published(
        "机器学习模型需要大量的训练数据。", "Machine learning models need a lot of training data.", 0.77
    ),
    _Published("The museum is closed on Mondays.", "Das Museum ist montags geschlossen.", 0.75),
)


def verify(encoder: Encoder) -> list[api.Pair]:
    """Embed the pairs, all as passages and so without an instruction, and compare them.

    Args:
        encoder: Loaded; this thread must own it.

    Returns:
        Seven pairs in the article's order, each with its cosine and the published one.
    """
    first = encoder.encode_passages([pair.first for pair in _PAIRS])
    second = encoder.encode_passages([pair.second for pair in _PAIRS])
    cosines = np.sum(first * second, axis=1)
    return [
        api.Pair(first=pair.first, second=pair.second, similarity=float(cosine), published=pair.similarity)
        for pair, cosine in zip(_PAIRS, cosines, strict=True)
    ]


def is_reference(encoder: Encoder, reference: str) -> bool:
    """Whether a model is the one that the published numbers are of, as far as its names say."""
    return any(_REFERENCE.search(name) for name in (reference, encoder.info.name))


def verified(request_id: int, encoder: Encoder, reference: str) -> api.Verified:
    """The answer to `api.VerifyModel` with a loaded model; its speed is remembered."""
    pairs = verify(encoder)
    speed = measure(encoder)
    remember(encoder, reference, speed)
    return api.Verified(
        id=request_id,
        pairs=tuple(pairs),
        is_reference=is_reference(encoder, reference),
        tokens_per_s=speed,
        device=encoder.device,
        note=NOTE,
    )
