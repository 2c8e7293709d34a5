"""Files that say the same, one under the other: copies, versions with small differences, translations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from indexer import api
from indexer.store import Outline, VectorIndex

if TYPE_CHECKING:
    from indexer.embed.space import LanguageSpace

Kind = Literal["copy", "version", "translation"]

# Versions share at least this part of their passages to the letter, or are this near in all of them.
_SHARED = 0.5
_VERSION = 0.86
# A translation has about as many passages: of 371 sections in nine languages 98 in 100 were within this.
_RATIO = 2.0
# Without a profile to measure it on. Of those sections 85 in 100 translations are at least so near, and of
# 100 sections 2 have another one, in another language, that is.
_TRANSLATION = 0.65
_ALIKE = 0.5
# Files beyond this place are not compared; nobody looks there, and each costs reading its vectors.
_COMPARED = 60


class Folder:
    """Folds hits.

    Args:
        index: Where the files' vectors are.
        space: The space these are compared in; None for the encoder's own, where languages lie apart and
            no translation is recognised.
    """

    def __init__(self, index: VectorIndex, space: LanguageSpace | None) -> None:
        self._index = index
        self._space = space

    def fold(self, hits: Sequence[api.Hit], files: Sequence[int]) -> list[api.Hit]:
        """Put hits under the best hit that says the same.

        Args:
            hits: Best first.
            files: The file's id of each.

        Returns:
            The hits that remain, in their order, with the others as their `variants`.
        """
        outlines = self._index.outlines(list(files[:_COMPARED]))
        # Files that say the same are alike on the whole, which is quick to tell.
        known = list(outlines)
        place = {file: n for n, file in enumerate(known)}
        means = np.array([outlines[file].vectors.mean(0) for file in known])
        means /= np.maximum(np.linalg.norm(means, axis=-1, keepdims=True), 1e-6)
        likeness = means @ means.T if known else np.zeros((0, 0), np.float32)
        alike = [set(np.flatnonzero(row >= _ALIKE).tolist()) for row in likeness]
        leaders: list[int] = []
        under: dict[int, list[api.Variant]] = {}
        for at, (hit, file) in enumerate(zip(hits, files, strict=True)):
            for leader in leaders if file in place else ():
                other = files[leader]
                if place.get(other) not in alike[place[file]]:
                    continue
                alone = len(outlines[other].vectors) == len(outlines[file].vectors) == 1
                near = float(likeness[place[other], place[file]]) if alone else None
                kind = self._relation(hits[leader], outlines[other], hit, outlines[file], near)
                if kind is not None:
                    under.setdefault(leader, []).append(_variant(kind, hit))
                    break
            else:
                leaders.append(at)
        return [
            msgspec.structs.replace(hits[at], variants=tuple(under[at])) if at in under else hits[at]
            for at in leaders
        ]

    def _relation(
        self, one: api.Hit, first: Outline, other: api.Hit, second: Outline, near: float | None
    ) -> Kind | None:
        """How two files are related; `near` is how near they are where that is known already."""
        if first.texts == second.texts:
            return "copy"
        a, b = set(first.texts), set(second.texts)
        if len(a & b) >= _SHARED * len(a | b):
            return "version"
        if not 1 / _RATIO <= len(first.texts) / len(second.texts) <= _RATIO:
            return None
        languages = {one.passages[0].lang, other.passages[0].lang}
        kind: Kind = "version" if len(languages) == 1 else "translation"
        if kind == "translation" and (self._space is None or not languages.isdisjoint({"", "code"})):
            return None
        least = _VERSION if kind == "version" else self._translation
        return kind if (_nearness(first, second) if near is None else near) >= least else None

    @cached_property
    def _translation(self) -> float:
        """How near translations of one another are: what four in ten pairs of the reference passages are."""
        if self._space is None:
            return _TRANSLATION
        return max(0.5, self._space.translation)


def _nearness(first: Outline, second: Outline) -> float:
    """How well each passage of one file has a counterpart in the other, both ways; the worse of the two."""
    cosines = first.vectors @ second.vectors.T
    return float(np.minimum(cosines.max(0).mean(), cosines.max(1).mean()))


def _variant(kind: Kind, hit: api.Hit) -> api.Variant:
    return api.Variant(
        kind=kind,
        path=hit.path,
        root=hit.root,
        media=hit.media,
        title=hit.title,
        lang=hit.passages[0].lang,
        similarity=hit.similarity,
        passages=hit.passages,
        code_language=hit.code_language,
        online=hit.online,
    )
