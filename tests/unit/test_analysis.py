"""Text to terms: what is typed has to meet what is written, in every script."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.analysis import MAX_TERM, QueryTerm, occurrences, phrase_forms, query_terms, terms

# All scripts that are treated apart, marks, joiners, control and lone surrogates.
ANY = st.text(
    st.one_of(
        st.characters(),
        st.characters(categories=["Cs"]),
        st.sampled_from("aA1_-./'’+#\u0301\u3099ภาษ학ㄱ学カガ\uff9e\u200c\u00adΣςİßﬁ½…"),
    ),
    max_size=60,
)


def forms(text: str) -> dict[str, tuple[tuple[str, ...], ...]]:
    return {term.word: term.forms for term in query_terms(text)}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Hello, World!", "hello world"),
        ("café cafe\u0301 CAFÉ", "cafe cafe cafe"),
        ("Straße STRASSE Œuvre Ærø Łódź", "strasse strasse oeuvre aero lodz"),
        ("Ёлка ёлка йод мо\u0301й Київ", "елка елка йод мой київ"),
        ("Άνθρωπος ΆΝΘΡΩΠΟΣ", "ανθρωποσ ανθρωποσ"),
        ("كِتَابٌ إسلام أحمد مكتبة", "كتاب اسلام احمد مكتبه"),
        ("שָׁלוֹם", "שלום"),
        ("हिन्दी में", "हिन्दी में"),
        ("ﬁle ＡＢＣ １２ ٣٤", "file abc 12 34"),
        ("Sil\u00adben می\u200cخواهم", "silben ميخواهم"),
        ("北京大学", "北京 京大 大学 学"),
        ("ｶﾞﾗｽ か\u3099", "ガラ ラス ス が"),
        ("ภาษาไทย", "ภาษา ษาไท ไทย ย"),
        ("학교 학교에서", "학교 학교에서 학교 교에 에서"),
        ("getUserName", "get user name getusername"),
        ("HTTPServer PDFs", "http server pdfs httpserver"),
        ("ERR_CONN_RESET", "err conn reset errconnreset"),
        ("/etc/fstab apt-get", "etc fstab apt get etcfstab aptget"),
        ("3.2.1 E1234 utf-8", "3 2 1 e1234 utf 8 3.2.1 1234 utf8"),
        ("1_23 12_3", "1 23 12 3 1_23 12_3"),
        ("C++ and C#", "c and c c++ c#"),
        ("l’homme don't", "l homme don t"),
        ("API를", "api 를"),
        ("", ""),
        ("!!! — …", ""),
    ],
)
def test_terms(written: str, expected: str) -> None:
    assert " ".join(terms(written)) == expected


def test_units_of_a_query() -> None:
    found = query_terms("find getUserName in /etc/fstab, please find it")
    words = " ".join(term.word for term in found)
    assert words == "find getUserName get User Name in etc/fstab etc fstab please it"
    whole = found[1]
    assert whole.forms == (("getusername",), ("get", "user", "name"))
    assert whole.span == (5, 16)
    assert [term.whole for term in found[:7]] == [-1, -1, 1, 1, 1, -1, -1]
    assert [term.word for term in found if term.universal] == ["getUserName", "etc/fstab"]


@pytest.mark.parametrize(
    ("query", "universal"),
    [
        ("how to fix E1234", ["E1234"]),
        ("NASA in the news", ["NASA"]),
        ("WHY IS IT BROKEN", []),
        ("如何安装 debian", ["debian"]),
        ("обновить systemd", ["systemd"]),
        ("a well-known author", []),
        ("version 3.2.1 of std::vector", ["3.2.1", "std::vector"]),
        ("open GitHub", ["GitHub"]),
        ("C++ templates", ["C++"]),
    ],
)
def test_what_is_the_same_in_every_language(query: str, universal: list[str]) -> None:
    assert [term.word for term in query_terms(query) if term.universal and term.whole < 0] == universal


def test_scripts_without_spaces_are_asked_for_by_pairs() -> None:
    assert forms("北京大学") == {"北京": (("北京",),), "京大": (("京大",),), "大学": (("大学",),)}
    assert forms("学") == {"学": (("学*",),)}


def test_korean_particles_are_no_part_of_what_is_asked_for() -> None:
    assert forms("데이터를") == {
        "데이터를": (("데이터를",), ("데이", "이터", "터를"), ("데이터",), ("데이", "이터"))
    }


def test_places_are_those_of_what_was_typed() -> None:
    text = "½ cafe\u0301 ﬁle ｶﾞ"
    assert [term.word for term in query_terms(text)] == ["½", "½", "cafe\u0301", "ﬁle", "ｶﾞ"]


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("exact phrase", [("exact", "phrase")]),
        ("大学", [("大学",)]),
        ("学", [("学*",)]),
        ("北京大学", [("北京", "京大", "大学")]),
        ("getUserName", [("get", "user", "name"), ("getusername",)]),
        ("C++", [("c++",)]),
        ("관계형 데이터", [("관계형", "데이터*")]),
        ("?!", []),
    ],
)
def test_phrases(phrase: str, expected: list[tuple[str, ...]]) -> None:
    assert phrase_forms(phrase) == expected


def test_occurrences_stand_where_they_are_written() -> None:
    text = "Un cafe\u0301: user.get_user_name() 大学の 데이터베이스가, API-Schlüssel; GitHub"
    query = query_terms("café getUserName 学 데이터베이스를 schlussel github")
    found = {(text[a:b], query[n].word) for a, b, n in occurrences(text, query)}
    assert found == {
        ("cafe\u0301", "café"),
        ("get_user_name", "getUserName"),
        ("get", "get"),
        ("user", "User"),
        ("name", "Name"),
        ("学の", "学"),
        ("데이터베이스", "데이터베이스를"),
        ("Schlüssel", "schlussel"),
        ("GitHub", "github"),
    }


@given(ANY)
def test_any_text_has_clean_terms(text: str) -> None:
    for term in terms(text):
        assert term
        assert not any(c.isspace() or c in "*\"'" for c in term)
        assert len(term) <= MAX_TERM + 2


@given(ANY)
def test_a_text_has_what_it_asks_for(text: str) -> None:
    """Whatever is typed is found, and marked, where just that is written."""
    query = query_terms(text)
    marked = {number for _, _, number in occurrences(text, query)}
    assert marked == set(range(len(query)))
    for term in query:
        start, end = term.span
        assert 0 <= start < end <= len(text)
        assert text[start:end] == term.word


@given(ANY, ANY)
def test_a_phrase_is_found_between_other_words(text: str, other: str) -> None:
    wanted = tuple(QueryTerm(text, (0, 0), (form,)) for form in phrase_forms(text))
    if wanted:
        assert occurrences(f"{other} ; {text} ; {other}", wanted)


@pytest.mark.parametrize(
    "piece",
    ["a", "A", "aA", "a.", "a_", "a1", "学", "ก", "เ", "ั", "학", "e\u0301", "\u0301", "a'", "-", "/", "ﬁ"],
)
def test_time_is_linear(piece: str) -> None:
    def taken(size: int) -> float:
        text = piece * (size // len(piece))
        best = 1e9
        for _ in range(3):
            began = time.perf_counter()
            terms(text)
            best = min(best, time.perf_counter() - began)
        return best

    taken(1000)
    assert taken(80_000) < 40 * taken(8_000) + 0.02
