"""Ranking, on evidence made by hand. What holds for any sensible weights; no weight is fixed here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from indexer import rank
from indexer.analysis import QueryTerm
from indexer.store import Lexical, Pool, TermMatch

Ids = npt.NDArray[np.int64]
LANGS = ("de", "en", "zh")
SIZES = {"de": 100, "en": 100, "zh": 100}


def ids(numbers: Sequence[int] = ()) -> Ids:
    return np.array(sorted(numbers), np.int64)


def pool(
    langs: Sequence[str],
    neutral: Sequence[float] | None = None,
    *,
    plain: Sequence[float] | None = None,
    files: Sequence[int] | None = None,
    of_file: Sequence[int] | None = None,
) -> Pool:
    """Passages 0, 1, ... in these languages, each in a file of its own unless `files` says otherwise."""
    n = len(langs)
    names = tuple(dict.fromkeys(langs))
    own = np.array(list(range(n)) if files is None else files, np.int64)
    counted = np.ones(n, np.int64) if of_file is None else np.array(of_file, np.int64)
    return Pool(
        np.arange(n) + 1000,
        np.arange(n),
        own,
        counted,
        np.array([names.index(lang) for lang in langs], np.int64),
        names,
        np.array([0.0] * n if neutral is None else neutral, np.float32),
        np.array([0.0] * n if plain is None else plain, np.float32),
    )


def match(
    word: str,
    texts: Sequence[int] = (),
    df: dict[str, int] | None = None,
    *,
    near: Sequence[int] = (),
    files: Sequence[int] = (),
    universal: bool = False,
    whole: int = -1,
    common: bool = False,
) -> TermMatch:
    term = QueryTerm(word, (0, len(word)), ((word,),), universal, whole)
    return TermMatch(term, ids(texts), ids(near), ids(files), df or {}, common)


def lexical(*matches: TermMatch, sizes: dict[str, int] | None = None) -> Lexical:
    return Lexical(matches, SIZES if sizes is None else sizes)


def around(**means: float) -> rank.Background:
    mean = float(np.mean(list(means.values()))) if means else 0.0
    return rank.Background(means, mean, 0.0, 0.05, 0.8, 0.02)


def silent(candidates: Pool) -> rank.Words:
    return rank.words(lexical(), candidates)


# --- words ----------------------------------------------------------------------------------


def test_a_word_that_stands_there_speaks_for_a_passage_and_one_that_does_not_against_it() -> None:
    found = rank.words(lexical(match("kündigung", [0], {"de": 3})), pool(["de", "de"]))
    assert found.evidence[0] > 0 > found.evidence[1]
    assert found.found.tolist() == [[True], [False]]


def test_a_word_of_one_language_says_nothing_of_a_passage_in_another() -> None:
    found = rank.words(lexical(match("kündigung", [0], {"de": 30})), pool(["de", "de", "zh"]))
    assert abs(found.evidence[2]) < 0.15 * abs(found.evidence[1])
    assert abs(found.evidence[2]) < 0.15 * found.evidence[0]


def test_a_stray_german_word_in_a_chinese_passage_is_worth_less_than_in_a_german_one() -> None:
    found = rank.words(lexical(match("kündigung", [0, 2], {"de": 30, "zh": 1})), pool(["de", "de", "zh"]))
    assert found.evidence[2] < found.evidence[0]


def test_what_is_the_same_in_every_language_speaks_everywhere() -> None:
    candidates = pool(["de", "zh", "zh"])
    here = match("0x80070005", [0, 1], {"de": 3, "zh": 1}, universal=True)
    found = rank.words(lexical(here), candidates)
    assert found.evidence[1] > 0
    assert found.evidence[1] >= 0.9 * found.evidence[0], "rarer there, so worth no less"
    assert found.evidence[2] < found.evidence[1]


def test_a_rare_word_is_worth_more_than_a_frequent_one() -> None:
    candidates = pool(["en"])
    rare = rank.words(lexical(match("x", [0], {"en": 1})), candidates).evidence[0]
    frequent = rank.words(lexical(match("x", [0], {"en": 30})), candidates).evidence[0]
    everywhere = rank.words(lexical(match("x", [0], {"en": 100})), candidates).evidence[0]
    assert rare > frequent > everywhere >= 0


def test_a_word_that_no_text_has_says_nothing() -> None:
    found = rank.words(lexical(match("qwxz"), match("qwxz2", universal=True)), pool(["en", "zh"]))
    assert found.evidence.tolist() == [0, 0]


def test_a_common_word_says_nothing() -> None:
    found = rank.words(lexical(match("the", df={"en": 90}, common=True)), pool(["en", "de"]))
    assert found.evidence.tolist() == [0, 0]
    assert not found.found.any()


def test_inside_a_longer_word_or_in_the_name_of_the_file_counts_less_than_itself() -> None:
    term = match("vertrag", [0], {"de": 3}, near=[1], files=[2])
    exact, inside, named, without = rank.words(lexical(term), pool(["de"] * 4)).evidence
    assert exact > inside > without
    assert exact > named > without


def test_the_name_of_one_file_is_worth_more_than_a_name_that_many_have_and_plain_words_in_names() -> None:
    def order(term: TermMatch) -> tuple[list[int], float]:
        candidates = pool(["en", "de"], [0.3, 0.25])
        ranked = rank.rank(candidates, around(en=0.2, de=0.2), rank.words(lexical(term), candidates), {})
        return [rows[0] for rows in ranked.order], float(ranked.words[1])

    only, worth = order(match("router_setup.txt", files=[1], universal=True))
    assert only == [1, 0]
    assert order(match("README.md", files=range(1, 500), universal=True))[1] < worth / 2
    assert order(match("router", files=[1]))[1] < worth / 2
    assert order(match("router_setup.txt", universal=True))[1] <= 0


def test_parts_say_nothing_more_where_the_whole_stands_and_something_where_it_does_not() -> None:
    whole = match("read_file", [0], {"en": 1}, universal=True)
    parts = [match("read", [0, 1], {"en": 5}, whole=0), match("file", [0, 1], {"en": 5}, whole=0)]
    candidates = pool(["en", "en", "en"])
    alone = rank.words(lexical(whole), candidates).evidence
    found = rank.words(lexical(whole, *parts), candidates).evidence
    assert found[0] == pytest.approx(alone[0])
    assert found[0] > found[1] > found[2]


def test_many_words_do_not_drown_the_meaning() -> None:
    """Evidence of ever more words of the same rarity grows slower than their number."""
    candidates = pool(["en"])

    def of(number: int) -> float:
        terms = (match(f"w{n}", [0], {"en": 2}) for n in range(number))
        return float(rank.words(lexical(*terms), candidates).evidence[0])

    assert of(1) < of(4) < of(16) < 8 * of(1)


@pytest.mark.parametrize("sizes", [{}, {"": 0}, {"en": 1}, {"en": 0, "zh": 0}, {"en": 3, "": 10**9}])
def test_counts_that_lag_behind_give_no_infinity(sizes: dict[str, int]) -> None:
    terms = (
        match("a", [0, 1], {"en": 5, "de": 2}),
        match("b", [0], {"xx": 1}, universal=True),
        match("c", df={"": 10**9}, common=True),
        match("d", near=[1], df={"en": 1}, whole=1),
    )
    found = rank.words(lexical(*terms, sizes=sizes), pool(["en", ""]))
    assert np.isfinite(found.evidence).all()
    here, missing = rank.gains(lexical(*terms, sizes=sizes), LANGS)
    assert np.isfinite(here).all()
    assert np.isfinite(missing).all()
    assert (here >= 0).all()
    assert (missing <= 0).all()


# --- candidates of the words -------------------------------------------------------------------


def test_texts_with_more_and_rarer_words_come_first_and_no_more_than_wanted() -> None:
    terms = (match("rare", [3, 7], {"en": 2}), match("usual", [3, 4, 5, 6], {"en": 40}))
    found = rank.lexical_candidates(lexical(*terms), 3)
    assert found.tolist()[:2] == [3, 7]
    assert len(found) == 3
    assert rank.lexical_candidates(lexical(match("x", common=True, df={"en": 9})), 3).tolist() == []
    assert rank.lexical_candidates(lexical(), 3).tolist() == []


def test_a_word_found_inside_others_brings_candidates_behind_those_that_have_it() -> None:
    found = rank.lexical_candidates(lexical(match("steuer", [5], {"de": 2}, near=[2])), 9)
    assert found.tolist() == [5, 2]


def test_files_whose_names_have_more_of_the_words_come_first() -> None:
    terms = (match("invoice", files=[1, 2, 3]), match("2024", files=[3]), match("x"))
    assert rank.lexical_files(lexical(*terms), 2)[0] == 3
    assert len(rank.lexical_files(lexical(*terms), 2)) == 2
    assert rank.lexical_files(lexical(), 2).tolist() == []


# --- the background -----------------------------------------------------------------------------


def unit(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    scaled: npt.NDArray[np.float32] = rows.astype(np.float32)
    scaled /= np.linalg.norm(scaled, axis=-1, keepdims=True)
    return scaled


def test_the_background_is_that_of_each_language_and_little_moved_by_few_passages() -> None:
    rng = np.random.default_rng(1)
    query = unit(rng.standard_normal(32))
    reference = unit(rng.standard_normal((200, 32)))
    near = unit(rng.standard_normal((90, 32)) + 4 * query)
    sample = {"en": unit(rng.standard_normal((90, 32))), "de": near, "zh": near[:1], "fr": near[:0]}
    found = rank.background(query, query, sample, reference, reference)
    assert found.by_language["de"] > found.by_language["zh"] > found.by_language["en"]
    assert abs(found.by_language["zh"] - found.mean) < 0.5 * abs(found.by_language["de"] - found.mean)
    assert "fr" not in found.by_language
    assert found.spread > 0


@pytest.mark.parametrize("rows", [np.zeros((0, 8)), np.zeros((3, 8))])
def test_an_empty_library_has_a_background_without_nan(rows: npt.NDArray[np.float64]) -> None:
    zero = np.zeros(8, np.float32)
    reference = np.zeros((1, 8), np.float32)
    found = rank.background(zero, zero, {"en": rows.astype(np.float32)}, reference, reference)
    numbers = [found.mean, found.foreign, found.spread, found.plain_mean, found.plain_spread]
    assert np.isfinite([*numbers, *found.by_language.values()]).all()
    assert found.spread > 0
    assert found.plain_spread > 0


# --- the order ------------------------------------------------------------------------------------


def test_no_language_is_nearer_than_another_by_itself() -> None:
    candidates = pool(["en", "zh", "zh"], [0.30, 0.29, 0.10])
    means = around(en=0.25, zh=0.05)
    fair = rank.rank(candidates, means, silent(candidates), {})
    assert [rows[0] for rows in fair.order] == [1, 0, 2]
    raw = rank.rank(candidates, means, silent(candidates), {}, rank.Options(by_language=False))
    assert [rows[0] for rows in raw.order] == [0, 1, 2]


def test_a_language_that_was_not_sampled_is_held_to_the_mean() -> None:
    candidates = pool(["xx", "yy"], [0.3, 0.3])
    ranked = rank.rank(candidates, around(en=0.2, zh=0.1), silent(candidates), {})
    assert np.isfinite(ranked.score).all()
    assert ranked.score[0] == ranked.score[1]


def test_words_lift_a_passage_and_the_part_due_to_them_is_told() -> None:
    candidates = pool(["en", "en"], [0.3, 0.3])
    words = rank.words(lexical(match("x", [1], {"en": 1})), candidates)
    ranked = rank.rank(candidates, around(en=0.2), words, {})
    without = rank.rank(candidates, around(en=0.2), silent(candidates), {})
    assert ranked.order[0] == [1]
    assert ranked.score - ranked.words == pytest.approx(without.score, abs=1e-5)
    assert ranked.words[1] > 0


def test_the_plain_cosine_counts_for_passages_in_the_language_of_the_query_only() -> None:
    candidates = pool(["de", "zh"], [0.3, 0.3], plain=[0.9, 0.9])
    means = around(de=0.2, zh=0.2)
    told = rank.rank(candidates, means, silent(candidates), {"de": 1.0})
    assert told.score[0] > told.score[1]
    untold = rank.rank(candidates, means, silent(candidates), {})
    assert untold.score[0] == untold.score[1] == told.score[1]


def test_a_file_is_as_good_as_its_best_passage_and_a_little_better_with_others_that_fit() -> None:
    #       one good passage of a long file | the same and two fair ones | three fair ones | many poor ones
    neutral = [0.5, *[0.5, 0.4, 0.4], *[0.4, 0.4, 0.4], *[0.1] * 20]
    files = [1, *[2] * 3, *[3] * 3, *[4] * 20]
    of_file = [40, *[3] * 3, *[3] * 3, *[20] * 20]
    candidates = pool(["en"] * len(files), neutral, files=files, of_file=of_file)
    ranked = rank.rank(candidates, around(en=0.0), silent(candidates), {})
    assert [int(candidates.files[rows[0]]) for rows in ranked.order] == [2, 1, 3, 4]
    assert ranked.order[0] == [1, 2, 3], "and in it the best passage first"
    assert ranked.file_scores == sorted(ranked.file_scores, reverse=True)
    for rows, score in zip(ranked.order, ranked.file_scores, strict=True):
        assert ranked.score[rows].min() - 1e-4 <= score <= ranked.score[rows[0]] + 1e-4 or len(rows) == 1


def test_a_short_file_is_not_held_back_for_having_one_passage() -> None:
    candidates = pool(["en"] * 3, [0.5, 0.5, 0.1], files=[1, 2, 3], of_file=[1, 500, 1])
    ranked = rank.rank(candidates, around(en=0.0), silent(candidates), {})
    assert int(candidates.files[ranked.order[0][0]]) == 1


def test_every_passage_is_in_the_order_once() -> None:
    rng = np.random.default_rng(5)
    n = 300
    files = rng.integers(0, 40, n)
    of_file = np.bincount(files)[files] + rng.integers(0, 5, n)
    langs = [LANGS[i] for i in rng.integers(0, 3, n)]
    candidates = pool(langs, rng.normal(size=n).tolist(), files=files.tolist(), of_file=of_file.tolist())
    ranked = rank.rank(candidates, around(en=0.1, de=0.2, zh=0.3), silent(candidates), {"en": 0.5})
    assert sorted(row for rows in ranked.order for row in rows) == list(range(n))
    assert all(len({int(candidates.files[row]) for row in rows}) == 1 for rows in ranked.order)
    for rows in ranked.order:
        assert ranked.score[rows].tolist() == sorted(ranked.score[rows].tolist(), reverse=True)


def test_no_candidates_are_no_order() -> None:
    nothing = pool([])
    words = rank.words(lexical(match("x", [1], {"en": 1})), nothing)
    ranked = rank.rank(nothing, around(en=0.1), words, {"en": 1.0})
    assert (ranked.order, ranked.file_scores, len(ranked.score)) == ([], [], 0)
    assert np.isfinite(ranked.level)
