"""A vector space in which languages lie on top of one another.

Multilingual encoders put the language of a text into its vector beside its meaning, so a query prefers
any text of its own language to the right text of another. The directions in which the mean vectors of
languages differ carry that information; they are taken out of queries and passages alike. The method
is that of Xie et al., "Discovering Low-rank Subspaces for Language-agnostic Multilingual
Representations" (EMNLP 2022); the means come from parallel text of our own in `reference/`.

Only vectors that are compared are changed. The store keeps what the encoder gave, so a better profile
costs no embedding.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexer.errors import FatalError

if TYPE_CHECKING:
    from indexer.embed import Encoder, Vectors

_HERE = Path(__file__).parent
PROFILES = _HERE / "profiles"
REFERENCE = _HERE / "reference"
_PARTS = ("part_a.json", "part_b.json")
CODE = "code"
# Raised when the same means are made into another space.
_VERSION = 1
# What fewer directions may cost: part of the right passages that stand before wrong ones.
_NEARLY = 0.015
# How sharply a query's vector tells its language; at this value the guess is as sure as it is right.
_TEMPERATURE = 0.03


class LanguageSpace:
    """Maps an encoder's vectors to vectors whose cosine does not depend on languages.

    Args:
        profile: The content of a file that `compute_profile` made.

    Raises:
        FatalError: It is not such a file.
    """

    def __init__(self, profile: bytes) -> None:
        try:
            with np.load(io.BytesIO(profile), allow_pickle=False) as arrays:
                queries = arrays["queries"].astype(np.float32)
                passages = arrays["passages"].astype(np.float32)
                reference = arrays["reference"].astype(np.float32)
                low, high, spread = arrays["scale"].tolist()
                names = tuple(str(name) for name in arrays["languages"])
                rank = int(arrays["rank"]) if "rank" in arrays else len(queries) - 1
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise FatalError(
                "The language profile is damaged", f"{error}. Install Dragoman (or the model) again."
            ) from error
        #: How far above unrelated texts, in their standard deviations, one unrelated text in a hundred
        #: and the middle one of the right answers are.
        self.low, self.high = float(low), float(high)
        #: That standard deviation, as a cosine in this space. It is the model's and not each query's own: a
        #: query that means nothing is equally far from everything, and would seem near to what it hits by
        #: chance.
        self.spread = float(spread)
        #: Names the space; vectors of different keys must not be compared.
        self.key = hashlib.blake2b(bytes([_VERSION]) + profile, digest_size=6).hexdigest()
        self._query_centre = queries.mean(0)
        self._passage_centre = passages.mean(0)
        self._directions: Vectors = _directions(queries, passages)[:rank]
        spoken = queries - self._query_centre
        self._spoken: Vectors = spoken / np.maximum(np.linalg.norm(spoken, axis=1, keepdims=True), 1e-6)
        self._names = names[: len(queries)]
        #: Passages on everyday matters in many languages, as the encoder gave them, float32 (n, dim).
        self.reference_plain: Vectors = reference
        #: The same in this space.
        self.reference: Vectors = self.passages(reference)

    def queries(self, vectors: Vectors) -> Vectors:
        """Vectors of queries (n, dim) in this space, float32, unit length."""
        return self._neutral(vectors, self._query_centre)

    def passages(self, vectors: Vectors) -> Vectors:
        """Vectors of passages (n, dim) in this space, float32, unit length."""
        return self._neutral(vectors, self._passage_centre)

    def languages_of(self, query: Vectors) -> dict[str, float]:
        """In which language a query probably is, by its vector (dim,) as the encoder gave it.

        Returns:
            Probabilities of the profile's languages, adding up to 1.
        """
        moved = query - self._query_centre
        moved /= max(float(np.linalg.norm(moved)), 1e-6)
        odds = np.exp((self._spoken @ moved - 1.0) / _TEMPERATURE)
        return dict(zip(self._names, (odds / odds.sum()).tolist(), strict=True))

    @cached_property
    def translation(self) -> float:
        """Cosine, here, that four in ten translations of the reference passages reach."""
        rows = self.reference.reshape(len(self._names), -1, self.reference.shape[1])
        cosines = np.einsum("lid,mid->lmi", rows, rows)
        return float(np.percentile(cosines[~np.eye(len(rows), dtype=bool)], 60))

    def similarity(self, distance: float) -> float:
        """What a person is shown, 0 to 1.

        Args:
            distance: How much nearer than unrelated texts a passage is, in their standard deviations.

        Returns:
            A quarter for what one unrelated text in a hundred reaches, three quarters for what the middle
            one of right answers does; the same for every model, since both are measured for each.
        """
        return similarity(distance, self.low, self.high)

    def _neutral(self, vectors: Vectors, centre: Vectors) -> Vectors:
        moved = vectors - centre
        moved -= (moved @ self._directions.T) @ self._directions
        norms = np.linalg.norm(moved, axis=1, keepdims=True)
        # A text that is nothing but language is like no other, not infinitely far away.
        neutral: Vectors = (moved / np.maximum(norms, 1e-6)).astype(np.float32)
        return neutral


def _directions(queries: Vectors, passages: Vectors) -> Vectors:
    """The directions in which mean vectors of languages differ, (n - 1, dim), the strongest first."""
    spread = np.concatenate([passages - passages.mean(0), queries - queries.mean(0)])
    _, _, directions = np.linalg.svd(spread, full_matrices=False)
    # The means of n languages differ in n - 1 directions; a further row of passages (code) is none of them.
    found: Vectors = directions[: len(queries) - 1]
    return found


def _fewest(queries: Vectors, passages: Vectors) -> int:
    """How many of the directions have to be taken out.

    Each carries a little meaning, too, and encoders differ in how much they lean to a query's own
    language. So as few are taken as do nearly as well as the best number: of a question, the right passages
    in other languages that are nearer than the nearest wrong one in its own are counted, with directions
    from the other half of the topics.

    Args:
        queries: Vectors (languages, topics, dim) as the encoder gave them.
        passages: The same for the passages.
    """
    topics = np.arange(queries.shape[1])
    wrong, foreign = ~np.eye(len(topics), dtype=bool), ~np.eye(len(queries), dtype=bool)
    won = np.zeros(len(queries))
    for half in (0, 1):
        fit, asked = topics % 2 == half, topics[topics % 2 != half]
        means, answers = queries[:, fit].mean(1), passages[:, fit].mean(1)
        directions = _directions(means, answers)
        for rank in range(len(queries)):
            out = directions[:rank]
            near = np.einsum(
                "lid,mjd->ilmj", _without(queries, means, out)[:, asked], _without(passages, answers, out)
            )
            for cosines, topic in zip(near, asked, strict=True):
                own = np.diagonal(cosines).T[:, wrong[topic]].max(1)
                won[rank] += float((cosines[:, :, topic] > own[:, None])[foreign].mean())
    won /= len(topics)
    return int(np.flatnonzero(won >= won.max() - _NEARLY)[0])


def _without(vectors: Vectors, means: Vectors, directions: Vectors) -> Vectors:
    moved = vectors - means.mean(0)
    moved = moved - (moved @ directions.T) @ directions
    unit: Vectors = moved / np.maximum(np.linalg.norm(moved, axis=-1, keepdims=True), 1e-6)
    return unit


def similarity(distance: float, low: float = 2.4, high: float = 4.9) -> float:
    """What a person is shown, 0 to 1, for a distance from what is unrelated, in standard deviations.

    Args:
        distance: How much nearer than unrelated texts a passage is.
        low: What a quarter is shown for, `LanguageSpace.low`; the bundled model's stands in where a
            model has no profile.
        high: What three quarters are shown for, `LanguageSpace.high`.
    """
    slope = 2 * math.log(3) / max(high - low, 1e-6)
    return 1 / (1 + math.exp(-min(50.0, max(-50.0, slope * (distance - (low + high) / 2)))))


def space_of(model_key: str) -> LanguageSpace | None:
    """The space of a model whose profile is shipped or was installed, or None.

    Raises:
        FatalError: The shipped file is damaged.
    """
    shipped = PROFILES / f"{model_key}.npz"
    if shipped.exists():
        return LanguageSpace(shipped.read_bytes())
    try:
        return LanguageSpace(_installed(model_key).read_bytes())
    except (FileNotFoundError, FatalError):
        return None  # it is made again


def install_profile(encoder: Encoder) -> LanguageSpace:
    """Compute a new model's profile (some 40,000 tokens are embedded) and keep it in the cache.

    Raises:
        FatalError: It cannot be written.
    """
    from indexer.settings import private_folder

    profile = compute_profile(encoder)
    file = _installed(encoder.info.key)
    try:
        private_folder(file.parent)
        new = file.with_suffix(f".{os.getpid()}.new")
        new.write_bytes(profile)
        new.replace(file)
    except OSError as error:
        raise FatalError(
            "The language profile cannot be written", f"{file}: {error.strerror}. Make room on the disk."
        ) from error
    return LanguageSpace(profile)


def _installed(model_key: str) -> Path:
    # Here, so that training, where little else is installed, can use a space.
    from indexer.settings import cache_dir

    return cache_dir() / "profiles" / f"{model_key}.npz"


def compute_profile(encoder: Encoder) -> bytes:
    """Embed the reference texts (some 40,000 tokens) and return a model's profile, an .npz file.

    The file holds ``languages``, the mean vectors ``queries`` and ``passages`` (n, dim) float16, one row
    a language and for source code a last row of `passages` alone, the passages themselves as
    ``reference`` (m, dim) float16, ``rank``, how many directions are taken out, and ``scale``, the `low`,
    `high` and `spread` of the space.
    """
    languages = sorted({language for texts in _items() for language in texts})
    texts = [[item[language] for item in _items() if language in item] for language in languages]
    queries = [encoder.encode_queries([text["query"] for text in group]) for group in texts]
    passages = [encoder.encode_passages([text["passage"] for text in group]) for group in texts]
    code = encoder.encode_passages(_snippets())
    arrays = {
        "languages": np.array([*languages, CODE]),
        "queries": np.stack([rows.mean(0) for rows in queries]).astype(np.float16),
        "passages": np.stack([rows.mean(0) for rows in [*passages, code]]).astype(np.float16),
        "reference": np.concatenate(passages).astype(np.float16),
        "rank": np.array(_fewest(np.stack(queries), np.stack(passages))),
    }
    space = LanguageSpace(_packed(arrays, 0.0, 1.0, 1.0))
    asked = np.stack([space.queries(rows) for rows in queries])  # (languages, items, dim)
    answers = np.stack([space.passages(rows) for rows in passages])
    cosines = np.einsum("lid,mjd->ijlm", asked, answers)
    same = np.eye(cosines.shape[0], dtype=bool)
    # Of each question: its distance from the answers in all languages, in units of what is no answer.
    unrelated = np.moveaxis(cosines, 2, 1)[~same[:, None, :].repeat(len(languages), 1)]
    unrelated = unrelated.reshape(len(same), len(languages), -1)
    mean, spread = unrelated.mean(-1), float(np.sqrt(unrelated.var(-1).mean()))
    answered = (np.einsum("iilm->ilm", cosines) - mean[..., None]) / spread
    chance = (unrelated - mean[..., None]) / spread
    low, high = float(np.percentile(chance, 99)), float(np.median(answered))
    # A model that cannot tell answers from the rest must not seem sure of anything.
    return _packed(arrays, low, max(high, low + 1.0), spread)


def _packed(arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]], *scale: float) -> bytes:
    target = io.BytesIO()
    np.savez_compressed(target, allow_pickle=False, scale=np.array(scale), **arrays)
    return target.getvalue()


def _items() -> Iterator[dict[str, dict[str, str]]]:
    """For each topic its texts by language."""
    parts = [json.loads((REFERENCE / name).read_text(encoding="utf-8"))["items"] for name in _PARTS]
    for group in zip(*parts, strict=True):
        if len({item["id"] for item in group}) != 1:
            raise ValueError("the reference files have different topics")
        yield {language: texts for item in group for language, texts in item["texts"].items()}


def _snippets() -> list[str]:
    content = json.loads((REFERENCE / "code.json").read_text(encoding="utf-8"))
    return [snippet["code"] for snippet in content["snippets"]]


def main() -> None:
    """Compute the profile of the bundled model and put it where it is shipped from."""
    from indexer.embed.load import load_encoder
    from indexer.settings import Settings

    encoder = load_encoder(Settings())
    PROFILES.mkdir(exist_ok=True)
    file = PROFILES / f"{encoder.info.key}.npz"
    file.write_bytes(compute_profile(encoder))
    sys.stdout.write(f"{file}\n")


if __name__ == "__main__":
    main()
