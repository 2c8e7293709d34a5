"""Which files say the same, on outlines made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from indexer import api
from indexer.fold import Folder
from indexer.store import Outline

DIM = 64
Rows = npt.NDArray[np.float32]
rng = np.random.default_rng(11)


class Space:
    """Stands for a space in which languages lie on top of one another."""

    translation = 0.7


class Outlines:
    """Stands for the store; what was asked for is kept."""

    def __init__(self, known: dict[int, Outline]) -> None:
        self.known = known
        self.asked: list[int] = []

    def outlines(self, files: Sequence[int]) -> dict[int, Outline]:
        self.asked += files
        return {file: self.known[file] for file in files if file in self.known}


def rows(number: int) -> Rows:
    return unit(rng.standard_normal((number, DIM)))


def unit(made: npt.NDArray[np.floating]) -> Rows:
    scaled: Rows = made.astype(np.float32)
    scaled /= np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), 1e-6)
    return scaled


def blurred(like: Rows, cosine: float) -> Rows:
    """Rows about so near to those."""
    other = rng.standard_normal(like.shape)
    other -= (other * like).sum(-1, keepdims=True) * like
    return unit(cosine * like + (1 - cosine**2) ** 0.5 * unit(other))


def hit(name: str, lang: str = "en", passages: int = 1) -> api.Hit:
    made = tuple(
        api.Passage(
            chunk=n + 1,
            text=name,
            start=0,
            locator=api.Locator(),
            lang=lang,
            similarity=0.5,
            why=api.Why(cosine=0.5, meaning=1.0),
        )
        for n in range(passages)
    )
    return api.Hit(path=f"/{name}", root="/", media="text", title=name, similarity=0.5, passages=made)


def fold(
    files: Sequence[tuple[api.Hit, Outline | None]], *, space: bool = True
) -> list[tuple[str, list[tuple[str, str]]]]:
    """The names that remain, each with the names and kinds folded under it."""
    known = {n: outline for n, (_, outline) in enumerate(files) if outline is not None}
    folder = Folder(Outlines(known), Space() if space else None)  # type: ignore[arg-type]
    left = folder.fold([hit for hit, _ in files], list(range(len(files))))
    return [(h.title, [(v.title, v.kind) for v in h.variants]) for h in left]


def test_copies_go_under_the_first() -> None:
    same, other = Outline((1, 2), rows(2)), Outline((3,), rows(1))
    found = fold([(hit("a"), same), (hit("x"), other), (hit("b"), same), (hit("c"), same)])
    assert found == [("a", [("b", "copy"), ("c", "copy")]), ("x", [])]


def test_the_same_passages_in_another_order_are_a_version() -> None:
    vectors = rows(3)
    found = fold([(hit("a"), Outline((1, 2, 3), vectors)), (hit("b"), Outline((3, 2, 1), vectors[::-1]))])
    assert found == [("a", [("b", "version")])]


def test_most_passages_in_common_are_a_version_and_few_are_not() -> None:
    vectors = rows(12)
    most = Outline((0, 1, 2, 3, 9), vectors[[0, 1, 2, 3, 9]])
    few = Outline((0, 10, 11, 12, 13), vectors[[0, 10, 11, 8, 7]])
    whole = Outline((0, 1, 2, 3, 4), vectors[:5])
    assert fold([(hit("a"), whole), (hit("b"), most), (hit("c"), few)]) == [
        ("a", [("b", "version")]),
        ("c", []),
    ]


def test_every_passage_a_little_different_is_a_version() -> None:
    vectors = rows(4)
    found = fold(
        [
            (hit("a"), Outline((1, 2, 3, 4), vectors)),
            (hit("b"), Outline((5, 6, 7, 8), blurred(vectors, 0.97))),
            (hit("c"), Outline((9, 10, 11, 12), blurred(vectors, 0.6))),
        ]
    )
    assert found == [("a", [("b", "version")]), ("c", [])], "what is on the same matter says something else"


@pytest.mark.parametrize(
    ("lang", "cosine", "folded"),
    [("de", 0.85, True), ("de", 0.5, False), ("code", 0.85, False), ("", 0.85, False)],
)
def test_another_language_and_every_passage_near_is_a_translation(
    lang: str, cosine: float, folded: bool
) -> None:
    vectors = rows(6)
    files = [
        (hit("a"), Outline(tuple(range(6)), vectors)),
        (hit("b", lang), Outline(tuple(range(6, 12)), blurred(vectors, cosine))),
    ]
    assert fold(files) == ([("a", [("b", "translation")])] if folded else [("a", []), ("b", [])])
    assert fold(files, space=False) == [("a", []), ("b", [])], "where languages lie apart nothing is told"


def test_a_part_of_a_file_is_no_translation_of_it() -> None:
    vectors = rows(9)
    found = fold(
        [
            (hit("long"), Outline(tuple(range(9)), vectors)),
            (hit("part", "de"), Outline((20, 21), blurred(vectors[:2], 0.95))),
            (
                hit("half", "de"),
                Outline(tuple(range(30, 39)), np.vstack([blurred(vectors[:4], 0.95), rows(5)])),
            ),
        ]
    )
    assert [name for name, _ in found] == ["long", "part", "half"]


def test_files_that_nothing_is_known_of_remain() -> None:
    found = fold([(hit("a"), None), (hit("b"), Outline((1,), rows(1))), (hit("c"), None)])
    assert found == [("a", []), ("b", []), ("c", [])]
    assert fold([]) == []
    assert fold([(hit("a"), None)]) == [("a", [])]


def test_vectors_that_are_zero_are_like_nothing() -> None:
    zero = np.zeros((1, DIM), np.float32)
    found = fold(
        [(hit("a"), Outline((1,), zero)), (hit("b"), Outline((2,), zero)), (hit("c"), Outline((3,), rows(1)))]
    )
    assert [name for name, _ in found] == ["a", "b", "c"]


def test_a_variant_is_all_that_its_hit_was() -> None:
    same = Outline((1, 2), rows(2))
    second = hit("b", passages=2)
    folder = Folder(Outlines({7: same, 3: same}), None)  # type: ignore[arg-type]
    (left,) = folder.fold([hit("a"), second], [7, 3])
    variant = left.variants[0]
    assert (variant.path, variant.root, variant.media) == (second.path, second.root, second.media)
    assert (variant.passages, variant.similarity, variant.lang) == (second.passages, 0.5, "en")


def test_far_down_nothing_is_compared_and_nothing_lost() -> None:
    same = Outline((1,), rows(1))
    store = Outlines(dict.fromkeys(range(300), same))
    left = Folder(store, None).fold([hit(str(n)) for n in range(300)], list(range(300)))  # type: ignore[arg-type]
    assert len(store.asked) < 300
    assert len(left) + sum(len(h.variants) for h in left) == 300
    assert len(left[0].variants) == len(store.asked) - 1
