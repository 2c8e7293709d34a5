"""The query language: what people type, what only looks like a filter, and the way back to text."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from indexer import query
from indexer.extract import kinds
from indexer.query import (
    All,
    Any,
    Condition,
    Ext,
    Facts,
    In,
    Kind,
    Lang,
    Modified,
    Name,
    Not,
    Phrase,
    Size,
    complete,
    parse,
    unparse,
)

NOW = datetime(2026, 3, 31, 15, 30, tzinfo=UTC)  # a Tuesday


def at(year: int, month: int = 1, day: int = 1, hour: int = 0) -> float:
    return datetime(year, month, day, hour, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "texts", "where"),
    [
        ("", (), None),
        ("  annual \t report ", ("annual \t report",), None),
        ("notice period ext:pdf", ("notice period",), Ext("pdf")),
        ("what ext:pdf did I ask", ("what did I ask",), Ext("pdf")),
        ("EXT:.PDF", (), Ext("pdf")),
        ("ext:*.tar.gz", (), Ext("tar.gz")),
        ("ext:pdf,md", (), Any((Ext("pdf"), Ext("md")))),
        ("ext:pdf, md", ("md",), Ext("pdf")),
        ("ext:pdf x ext:md", ("x",), Any((Ext("pdf"), Ext("md")))),
        ("ext:pdf -ext:md", (), All((Ext("pdf"), Not(Ext("md"))))),
        ("ext：pdf，md", (), Any((Ext("pdf"), Ext("md")))),
        ("type:code type:python", (), All((Kind("code"), Kind("python")))),
        ("type:C++,js", (), Any((Kind("cpp"), Kind("javascript")))),
        ("lang:zh lang:zh", (), Lang("zh")),
        ("lang:german,Español", (), Any((Lang("de"), Lang("es")))),
        ("lang:中文", (), Lang("zh")),
        ("lang:pt-BR", (), Lang("pt")),
        ("lang:code", (), Lang("code")),
        ('in:"My Documents"', (), In("My Documents")),
        ("in:/home/me/", (), In("/home/me")),
        ("in:work/2024", (), In("work/2024")),
        ("name:Report_1", (), Name("Report_1")),
        ('"annual report" Germany', ("annual report Germany",), Phrase("annual report")),
        ('the "annual report"', ("the annual report",), Phrase("annual report")),
        ("“annual report”", ("annual report",), Phrase("annual report")),
        ("„Jahresbericht 2024“", ("Jahresbericht 2024",), Phrase("Jahresbericht 2024")),
        ("« rapport annuel »", ("rapport annuel",), Phrase("rapport annuel")),
        ("关于 「租房合同」 的文件", ("关于 租房合同 的文件",), Phrase("租房合同")),
        ("“租房合同” lang:zh", ("租房合同",), All((Phrase("租房合同"), Lang("zh")))),
        # Inside a sentence they are punctuation: as a filter they would hide all other languages.
        ("关于“租房合同”的文件", ("关于“租房合同”的文件",), None),
        ("“预依赖”是什么意思？", ("“预依赖”是什么意思？",), None),
        ("＂年度报告＂", ("年度报告",), Phrase("年度报告")),
        ('"one""two"', ("one two",), All((Phrase("one"), Phrase("two")))),
        ('"unclosed phrase', ("unclosed phrase",), Phrase("unclosed phrase")),
        ("report -draft", ("report",), Not(Phrase("draft"))),
        ("-草稿 报告", ("报告",), Not(Phrase("草稿"))),
        ('report -"first draft"', ("report",), Not(Phrase("first draft"))),
        ("-(draft OR ext:md) x", ("x",), Not(Any((Phrase("draft"), Ext("md"))))),
        ("-(old draft) x", ("x",), Not(All((Phrase("old"), Phrase("draft"))))),
        ('has:"annual report" x', ("x",), Phrase("annual report")),
        ("red wine OR white beer", ("red wine", "white beer"), None),
        ("red wine OR white beer ext:pdf", ("red wine", "white beer"), Ext("pdf")),
        ("cat OR cat", ("cat",), None),
        ("cat -old OR dog", ("cat", "dog"), Not(Phrase("old"))),
        ("(cat OR dog) food", ("cat food", "dog food"), None),
        ("ext:pdf OR type:code budget", ("budget",), Any((Ext("pdf"), Kind("code")))),
        ("a AND ext:pdf AND b", ("a b",), Ext("pdf")),
        (
            "(budget ext:pdf) OR (Haushalt ext:docx)",
            ("budget", "Haushalt"),
            Any((Ext("pdf"), Ext("docx"))),
        ),
        ('"a b" OR "c d"', ("a b", "c d"), Any((Phrase("a b"), Phrase("c d")))),
        ('"a b" OR c', ("a b", "c"), None),
        ("size:>1mb", (), Size(least=(1 << 20) + 1)),
        ("size:<=10k", (), Size(most=10 << 10)),
        ("size:1mb..5mb", (), Size(1 << 20, 5 << 20)),
        ("size:1,5MB..", (), Size(least=3 << 19)),
        ("size:＞1ｋ", (), Size(least=1025)),
        ("size:2mb", (), Size(3 << 19, 5 << 19)),
        ("after:2025", (), Modified(after=at(2025))),
        ("after:2025-02", (), Modified(after=at(2025, 2))),
        ("before:2025-06-30", (), Modified(before=at(2025, 6, 30))),
        ("before:2025/6/3", (), Modified(before=at(2025, 6, 3))),
        ("after:today", (), Modified(after=at(2026, 3, 31))),
        ("after:yesterday", (), Modified(after=at(2026, 3, 30))),
        ('after:"last week"', (), Modified(after=at(2026, 3, 23))),
        ("after:last-month", (), Modified(after=at(2026, 2))),
        ("after:last_year", (), Modified(after=at(2025))),
        ("after:7d", (), Modified(after=(NOW - timedelta(days=7)).timestamp())),
        ("after:1m", (), Modified(after=NOW.replace(month=2, day=28).timestamp())),
        ("after:2024 before:2025", (), All((Modified(after=at(2024)), Modified(before=at(2025))))),
    ],
)
def test_what_people_type(text: str, texts: tuple[str, ...], where: Condition | None) -> None:
    found = parse(text, now=NOW)
    assert (found.texts, found.where, found.problems) == (texts, where, ())


@pytest.mark.parametrize(
    "text",
    [
        "e-mail",
        "rm -rf /tmp",
        "-5 °C",
        "git log --all",
        "x -> y",
        "cmake -DFOO=bar",
        "std::vector",
        "http://example.org/x?a=b",
        "C:\\Users\\me",
        r"\d+ \\server\share",
        "at 12:30",
        "note: this",
        "name: bob",
        "Betreff:Miete",
        '27" monitor',
        'print("hello")',
        "f(x) or g(y)",
        "how (quickly) to cook",
        "int main() { return (a + b); }",
        "(open",
        "closed)",
        "()",
        '"!!!"'[1:-1],
        "OR gate",
        "Portland OR",
        "AND",
        "- one\n- two",
        "-one thing\n-another thing",
        "it’s the dog's",
        "类型：代码",
    ],
)
def test_what_only_looks_like_a_filter_is_words(text: str) -> None:
    assert parse(text) == query.Query(texts=(text,))


@pytest.mark.parametrize(
    ("text", "spans", "words"),
    [
        ("x lang:klingon", ["klingon"], 'no language "klingon"'),
        ("type:foo", ["foo"], 'no kind of file "foo"'),
        ("after:tomorrowish", ["tomorrowish"], "no date"),
        ("after:2025-02-30", ["2025-02-30"], "no date"),
        ("after:0000", ["0000"], "no date"),
        ("after:99999y", ["99999y"], "no date"),
        ("size:huge", ["huge"], "no size"),
        ("size:..", [".."], "no size"),
        ("x ext:", ["ext:"], "for example ext:pdf".capitalize()[1:]),
        ("ext:. x", ["."], "such as pdf"),
        ('"a ext:pdf', ['"'], "not closed"),
        ('in:"My Docs ext:pdf', ['"'], "not closed"),
        ("cat OR ext:pdf", ["cat OR ext:pdf"], "narrows nothing"),
    ],
)
def test_what_is_not_understood_is_told_and_left_out(text: str, spans: list[str], words: str) -> None:
    found = parse(text, now=NOW)
    assert [text[p.start : p.end] for p in found.problems] == spans
    assert words in found.problems[0].message
    assert not any("lang:" in said or "size:" in said for said in found.texts)


def test_a_backslash_takes_a_special_meaning_away() -> None:
    assert parse(r"\ext:pdf \-dog \OR \\ext:x").texts == (r"ext:pdf -dog OR \ext:x",)


def test_at_most_four_texts_and_a_hundred_conditions() -> None:
    found = parse("(a OR b OR c) (d OR e)")
    assert found.texts == ("a d", "a e", "b d", "b e")
    assert "first 4" in found.problems[0].message
    many = parse(" ".join(f"name:n{i}" for i in range(5000)))
    assert isinstance(many.where, All)
    assert len(many.where.of) == query.MAX_CONDITIONS
    assert len(many.problems) == 1
    assert parse("(" * 5000 + "ext:a OR ext:b" + ")" * 5000).texts


def test_times_are_local_without_a_zone_and_of_the_zone_given() -> None:
    local = parse("after:2025-01-01").where
    assert local == Modified(after=datetime(2025, 1, 1).timestamp())
    zone = timezone(timedelta(hours=8))
    there = parse("after:2025-01-01", now=NOW.astimezone(zone)).where
    assert there == Modified(after=at(2025) - 8 * 3600)


def test_a_folder_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parse("in:~/x").where == In("/home/me/x")
    assert parse("in:~").where == In("/home/me")


def test_every_programming_language_that_files_may_have_can_be_asked_for() -> None:
    names = {*kinds._CODE, *kinds._NAMES, *kinds._INTERPRETERS.values()}
    assert {parse(f"type:{name}").where for name in names} == {Kind(name) for name in names}


_PIECES = """
    cat dog OR AND ( ) -( " “ ” „ « » 「 」 ＂ - － ext: ext： lang: de in: ~/x "/a b" name: , ， size: >1mb
    1..2 after: 2025-01 7d @12.5 \\ type: code has: 猫 . 5 ! f(x) tar.gz 😀 before: it's \0 \ud800
"""
_TYPED = st.lists(
    st.one_of(st.sampled_from(_PIECES.split()), st.sampled_from([" ", " ", " ", "\n", "\u3000"])), max_size=16
).map("".join)


@settings(max_examples=400, deadline=None)
@given(st.one_of(_TYPED, st.text(max_size=60)))
@example("/a b\next：«.\u3000“\ud800before: (in:)")
@example("x” (a“b OR c)")
@example("(ext:a OR ext:b) ext:c")
def test_a_query_is_the_same_after_a_trip_through_text(text: str) -> None:
    found = parse(text, now=NOW)
    again = parse(unparse(found), now=NOW)
    assert (again.texts, again.where) == (found.texts, found.where)
    for problem in found.problems:
        assert 0 <= problem.start <= problem.end <= len(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.integers(-5, 50))
def test_completions_of_any_text_are_inside_it(text: str, cursor: int) -> None:
    facts = Facts(extensions=(("pdf", 2),), languages=(("de", 3),), folders=(("/a/b c", 1),))
    found = complete(text, cursor, facts, now=NOW)
    assert 0 <= found.start <= found.end <= len(text)


@pytest.mark.parametrize(
    "piece",
    [
        "“a ",
        '"a',
        "(",
        "(a ",
        "-(",
        "ext:,",
        "„a”",
        "a(",
        '\\"',
        "a OR ",
        "(a OR ",
        'in:"',
        "«",
        " ",
        "a)",
        "-a ",
        "a-",
    ],
)
def test_long_input_takes_linear_time(piece: str) -> None:
    def seconds(times: int) -> float:
        began = time.thread_time()
        parse(piece * times)
        return time.thread_time() - began

    short = min(seconds(1000) for _ in range(3))
    # Quadratic would be 64 times as long.
    assert min(seconds(8000) for _ in range(3)) < 30 * short + 0.05


FACTS = Facts(
    extensions=(("pdf", 1200), ("md", 7), ("py", 1)),
    kinds=(("pdf", 1200), ("code", 1), ("python", 1)),
    languages=(("en", 9000), ("de", 40), ("zh", 1), ("code", 3)),
    folders=(("/home/me/Docs", 90), ("/home/me/Docs/Old Stuff", 5), ("/srv/a/src", 4), ("/srv/b/src", 3)),
)


def completed(text: str, cursor: int | None = None) -> list[str]:
    """The whole query after each completion."""
    found = complete(text, len(text) if cursor is None else cursor, FACTS, now=NOW)
    return [text[: found.start] + item.insert + text[found.end :] for item in found.items]


def test_completions_of_keys() -> None:
    assert completed("rent la") == ["rent lang:"]
    assert completed("-ex") == ["-ext:"]
    assert "size:" in completed(":")
    assert completed("rent") == completed("r") == completed("") == completed("ext ") == []
    assert completed("later", 2) == []


def test_completions_of_values() -> None:
    assert completed("ext:") == ["ext:pdf", "ext:md", "ext:py"]
    assert completed("x ext:pdf,m y", 11) == ["x ext:pdf,md y"]
    assert completed("ext:pq y", 5) == ["ext:pdf y", "ext:py y"]
    assert completed("(ext:p)", 6) == ["(ext:pdf)", "(ext:py)"]
    assert completed("lang:deu") == completed("lang:ger") == completed("lang:de") == ["lang:de"]
    assert completed("lang:中") == ["lang:zh"]
    assert completed("type:py") == ["type:python"]
    assert completed("in:old") == completed('in:"Old St') == ['in:"Old Stuff"']
    assert completed('in:"Old St" x', 10) == ['in:"Old Stuff" x']
    assert completed("in:src") == ["in:/srv/a/src", "in:/srv/b/src"]
    assert completed("in:/home") == ["in:/home/me/Docs", 'in:"/home/me/Docs/Old Stuff"']
    assert completed("after:last") == ['after:"last week"', 'after:"last month"', 'after:"last year"']
    assert completed("after:2025-")[:2] == ["after:2025-01", "after:2025-02"]
    assert completed("size:>")[0] == "size:>1mb"
    assert completed('in:"Docs"') == []


def test_completions_say_how_much_there_is() -> None:
    items = {item.label: item.detail for item in complete("lang:", 5, FACTS).items}
    assert items == {
        "en English": "9,000 passages",
        "de Deutsch": "40 passages",
        "zh 中文": "1 passage",
        "code": "3 passages",
    }
    assert complete("ext:", 4, FACTS).items[0].detail == "1,200 files"


@pytest.mark.parametrize("text", ["lang:", "ext:", "type:", "in:", "after:", "size:"])
def test_whatever_is_completed_is_understood(text: str) -> None:
    for whole in completed(text):
        found = parse(whole, now=NOW)
        assert found.where is not None
        assert found.problems == ()


def test_the_page_for_people_tells_of_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "QUERY.md").read_text(encoding="utf-8")
    assert all(f"`{key}:" in page for key in query._KEYS)
