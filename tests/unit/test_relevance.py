"""The benchmark of relevance on pages, libraries and answers small enough to check by hand."""

from __future__ import annotations

import ast
import gzip
import json
import math
import textwrap
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from indexer.embed import Vectors
from tests import debian
from tests.relevance import books, code, library, methods, product
from tests.relevance.books import Book, Section
from tests.relevance.library import Question
from tests.relevance.methods import BM25, Passages, best_files, plain_terms
from tests.relevance.scores import report
from tests.relevance.tables import pairs, table, ways

LONG = "long enough to be found by, " * 8


def words(lang: str, count: int = 40) -> str:
    """A text that shares no word with the same in another language."""
    return " ".join(f"{lang}{number}" for number in range(count))


# --- pages --------------------------------------------------------------------------------


def docbook(*sections: str) -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title>'
        '<meta http-equiv="Content-Type" content="text/html; charset=UTF-8"/></head><body>'
        '<div class="navheader"><h2>Not a section</h2></div>'
        '<div class="chapter"><div class="titlepage"><h1 class="title"><a id="top"/>Chapter 1. Top</h1></div>'
        '<div class="toc"><a href="#one">1.1. One</a></div>' + "".join(sections) + "</div></body></html>"
    )


def section(anchor: str, title: str, body: str) -> str:
    return (
        '<div class="section"><div class="titlepage"><div><div><h2 class="title">'
        f'<a id="{anchor}"/>{title}</h2></div></div></div>{body}</div>'
    )


def parsed(
    tmp_path: Path, pages: dict[str, str], form: str = "docbook", *, tuned: bool = False
) -> list[Section]:
    """The sections of a book with these pages, by language."""
    for lang, page in pages.items():
        (tmp_path / f"page.{lang}.html").write_text(page, encoding="utf-8")
    names = {lang: f"page.{lang}.html" for lang in pages}
    return books.parse(Book("book", dict.fromkeys(pages, "package"), names, form, tuned), tmp_path)


def test_sections_of_docbook_have_their_own_text_only(tmp_path: Path) -> None:
    inner = section("two", "1.1.1.\u00a0Two", f"<p>Inner\n  {LONG}</p>")
    english = docbook(
        section("one", "1.1. One &amp; <code>all</code>", f"<p>Outer<br/>{LONG}</p>{inner}<p>End</p>")
    )
    german = docbook(
        section("one", "1.1. Eins", f"<p>Aussen {words('de')}</p>"),
        section("two", "1.1.1. Zwei", f"<p>Innen {words('de')}</p>"),
    )
    found = parsed(tmp_path, {"en": english, "de": german})
    assert [(s.id, s.lang, s.title) for s in found] == [
        ("one", "de", "Eins"),
        ("one", "en", "One & all"),
        ("two", "de", "Zwei"),
        ("two", "en", "Two"),
    ]
    assert found[1].body == f"Outer {LONG}End"
    assert found[3].body == f"Inner {LONG}".strip()


def test_sections_of_sphinx_are_named_by_their_ids(tmp_path: Path) -> None:
    page = (
        '<html><head><meta charset="utf-8"></head><body>'
        '<section id="book"><h1>1. Book</h1><section id="part">'
        '<h2><span class="section-number">1.2. </span>{title}<a class="headerlink" href="#part">¶</a></h2>'
        "<p>{body}</p><section id='sub'><h3>1.2.1. Sub</h3><p>short</p></section>"
        "</section></section></body></html>"
    )
    found = parsed(
        tmp_path,
        {
            "en": page.format(title="Part", body=LONG),
            "ja": page.format(title="部分", body="日本語の本文です。" * 10),
        },
        "sphinx",
    )
    assert [(s.id, s.lang, s.title, s.body) for s in found] == [
        ("part", "en", "Part", LONG.strip()),
        ("part", "ja", "部分", "日本語の本文です。" * 10),
    ]


def test_numbered_anchors_are_named_by_file_and_position(tmp_path: Path) -> None:
    pages = {
        "en": docbook(section("idm7", "A", f"<p>{LONG}</p>"), section("idm9", "B", f"<p>{LONG}</p>")),
        "fr": docbook(
            section("idm8", "C", f"<p>{words('fr')}</p>"), section("idm11", "D", f"<p>{words('f', 60)}</p>")
        ),
    }
    (tmp_path / "en").mkdir()
    (tmp_path / "fr").mkdir()
    for lang, page in pages.items():
        (tmp_path / lang / "ch01.html").write_text(page, encoding="utf-8")
    names = {lang: f"{lang}/*.html" for lang in pages}
    book = Book("book", dict.fromkeys(pages, "package"), names, "docbook-numbered")
    found = books.parse(book, tmp_path)
    assert [(s.id, s.lang, s.title) for s in found] == [
        ("ch01.0", "en", "A"),
        ("ch01.0", "fr", "C"),
        ("ch01.1", "en", "B"),
        ("ch01.1", "fr", "D"),
    ]


def test_an_anchor_stays_open_until_the_next_link_outside_of_tables(tmp_path: Path) -> None:
    link, table_ = '<a href="x">y</a>', '<table><tr><td><a href="x">y</a></td></tr></table>'
    page = docbook(
        section("one", "1. One", f"<p>{link} 1 {LONG}</p>"),  # after the chapter's anchor, which is open
        section("two", "2. Two", f"<p>2 {LONG}</p>{table_}"),  # its predecessor's was ended by a link
        section("three", "3. Three", f"<p>3 {LONG}</p>{link}<a id='t'/>{table_}"),
        section("four", "4. Four", "<p>too short</p>"),
        section("five", "5. Five", f"<p>5 {LONG}</p>"),
    )
    found = parsed(
        tmp_path, {"en": page.replace('<a href="#one">1.1. One</a>', "")}, "docbook-open", tuned=True
    )
    # Three carries Two's name and takes its place, Five carries Four's; Four would have been called t.
    assert {s.id: s.title for s in found} == {"top": "One", "two": "Three", "four": "Five"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.2.3. Unix files", "Unix files"),
        ("Chapter 12. Tips", "Tips"),
        ("Anhang A. Anhang", "Anhang"),
        ("第2章 パッケージ", "パッケージ"),
        ("付録A 上級パッケージング", "上級パッケージング"),
        ("B.1. The maze", "The maze"),
        ("3.5-inch disks", "3.5-inch disks"),
        ("Version 5.10 of Perl", "Version 5.10 of Perl"),
        ("/etc/fstab", "/etc/fstab"),
    ],
)
def test_heading(text: str, expected: str) -> None:
    assert books.heading(text) == expected


def test_what_is_not_fit_is_left_out() -> None:
    def of(name: str, lang: str, title: str, body: str) -> Section:
        return Section(name, lang, title, body)

    english = [
        of("a", "en", "Apples and pears", words("en")),
        of("b", "en", "tmpfs", words("b")),
        of("c", "en", "Only here", words("c")),
        of("d", "en", "Twice", words("d")),
        of("e", "en", "Twice", words("e")),
        of("f", "en", "First one", words("f")),
        of("f", "en", "Second one", words("g")),
    ]
    german = [
        of("a", "de", "Äpfel und Birnen", words("de")),
        of("b", "de", "tmpfs", words("deb")),
        of("d", "de", "Einmal", words("ded")),
        of("f", "de", "Noch einmal", words("def")),
    ]
    french = [
        of("a", "fr", "Pommes et poires", words("en")),  # the text is still English
        of("b", "fr", "tmpfs", words("b", 24) + " " + words("frb", 16)),  # most of it is
        of("d", "fr", "Twice", words("frd")),
    ]
    spanish = [
        of("a", "es", "Apples and pears", words("es")),  # the heading is still English
        of("b", "es", "tmpfs", words("b", 10) + " " + words("esb", 30)),  # commands stay as they are
    ]
    kept = {(s.id, s.lang) for s in books.fit([*english, *german, *french, *spanish])}
    assert kept == {
        *{("a", "en"), ("a", "de")},
        *{("b", "en"), ("b", "de"), ("b", "es")},
        *{("d", "de"), ("d", "fr")},
    }


def test_sections_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_BENCH_CACHE", str(tmp_path))
    fetched = []

    def fetch(packages: list[str], root: Path) -> dict[str, str]:
        fetched.append(packages)
        for lang in ("en", "de"):
            page = docbook(section("one", f"1. In {lang}", f"<p>{words(lang)}</p>"))
            (root / f"page.{lang}.html").write_text(page, encoding="utf-8")
        return dict.fromkeys(packages, "1.0-1")

    monkeypatch.setattr(debian, "fetch", fetch)
    names = {lang: f"page.{lang}.html" for lang in ("en", "de")}
    book = Book("book", {"en": "book", "de": "book-de"}, names, "docbook")
    first = books.sections(book)
    assert books.sections(book) == first
    assert fetched == [["book", "book-de"]]
    assert books.versions(book) == {"book": "1.0-1", "book-de": "1.0-1"}
    with gzip.open(tmp_path / "sections/book.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert rows[1] == {"id": "one", "lang": "en", "title": "In en", "body": words("en")}
    monkeypatch.setattr(books, "LAYOUT", books.LAYOUT + 1)
    books.sections(book)
    assert len(fetched) == 2


def test_without_apt_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="Debian"):
        debian.fetch(["hello"], tmp_path)


# --- libraries ----------------------------------------------------------------------------


SECTIONS = [
    Section(name, lang, f"{name} in {lang}", f"body {name} {lang}")
    for name in ("s1", "s2", "s3")
    for lang in ("de", "en", "ja")
] + [Section("s4", "en", "s4 in en", "body s4 en")]


def test_a_mixed_library_has_every_section_once(tmp_path: Path) -> None:
    questions = library.mixed(SECTIONS, tmp_path, seed=0)
    files = {file.relative_to(tmp_path / "library").as_posix(): file for file in tmp_path.rglob("*.txt")}
    assert len(files) == 4
    bodies = [file.read_text(encoding="utf-8") for file in files.values()]
    assert {body.split()[1] for body in bodies} == {"s1", "s2", "s3", "s4"}
    assert all("in" not in body.split() for body in bodies)  # not its title
    assert [question.mode for question in questions].count("same") == 4
    assert [question.mode for question in questions].count("cross") == 3
    for question in questions:
        name, lang = question.query.split(" in ")
        assert files[question.path].read_text(encoding="utf-8") == f"body {name} {question.file_lang}\n"
        assert lang == question.lang
        assert (question.lang == question.file_lang) == (question.mode == "same")


def test_the_draw_of_a_seed_never_changes(tmp_path: Path) -> None:
    # Computed with the protocol's own script; another draw would make other libraries of the same name.
    questions = library.mixed(SECTIONS, tmp_path, seed=7, limit=2)
    assert [(q.query, q.file_lang, q.path) for q in questions] == [
        ("s4 in en", "en", "5/5978bfcf1164.txt"),
        ("s2 in de", "de", "c/cb1f3e15c75d.txt"),
        ("s2 in en", "de", "c/cb1f3e15c75d.txt"),
    ]


def test_one_language(tmp_path: Path) -> None:
    questions = library.single(SECTIONS, tmp_path, "ja", limit=2)
    assert [(q.query, q.lang, q.file_lang) for q in questions] == [
        ("s1 in ja", "ja", "ja"),
        ("s2 in ja", "ja", "ja"),
    ]
    assert (tmp_path / "library" / questions[1].path).read_text(encoding="utf-8") == "body s2 ja\n"


def test_a_library_is_made_once_and_again_when_it_would_be_another(tmp_path: Path) -> None:
    made = []

    def make(target: Path) -> list[Question]:
        made.append(target)
        (target / "library").mkdir()
        return [Question("a\u2028title", "en", "de", f"{len(made)}.txt", "cross")]

    first = library.prepare(tmp_path / "x", "one", make)
    assert (
        library.prepare(tmp_path / "x", "one", make)
        == first
        == [Question("a\u2028title", "en", "de", "1.txt", "cross")]
    )
    assert library.prepare(tmp_path / "x", "two", make)[0].path == "2.txt"
    assert len(made) == 2


def test_an_index_is_made_again_only_when_it_would_be_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, data_dir, commands, cutting = tmp_path / "files", tmp_path / "index", [], ["one"]

    def dragoman(*arguments: str) -> str:
        commands.append(arguments[0])
        data_dir.mkdir(exist_ok=True)
        return ""

    def broken(*_: str) -> str:
        raise RuntimeError("the disk is full")

    def commands_of(content: str) -> list[str]:
        commands.clear()
        product.index(folder, data_dir, content)
        return list(commands)

    monkeypatch.setattr(product, "_dragoman", dragoman)
    monkeypatch.setattr(product, "cutting", lambda: cutting[0])
    assert commands_of("book 1") == ["index"]
    assert commands_of("book 1") == []
    cutting[0] = "another"
    assert commands_of("book 1") == ["remove", "index"]  # the vectors of unchanged passages stay
    (data_dir / "old").touch()
    assert commands_of("book 2") == ["index"]
    assert not (data_dir / "old").exists()
    monkeypatch.setattr(product, "_dragoman", broken)
    with pytest.raises(RuntimeError, match="full"):
        product.index(folder, data_dir, "book 3")
    monkeypatch.setattr(product, "_dragoman", dragoman)
    assert commands_of("book 3") == ["index"]  # it was not finished


# --- scores -------------------------------------------------------------------------------


QUESTIONS = [
    Question("q1", "de", "de", "a.txt", "same"),
    Question("q2", "en", "de", "a.txt", "cross"),
    Question("q3", "en", "en", "b.txt", "same"),
    Question("q4", "de", "en", "b.txt", "cross"),
    Question("q5", "ja", "en", "b.txt", "cross"),
]


def test_scores_by_hand() -> None:
    found = report(
        QUESTIONS,
        [
            ["a.txt", "b.txt"],  # first
            ["b.txt", "b.txt", "a.txt"],  # second: a path that comes twice counts once; first merely English
            [f"{n}.txt" for n in range(10)] + ["b.txt"],  # eleventh: not found
            ["c.txt", "x.txt", "y.txt", "b.txt"],  # fourth; nobody knows the language of c.txt
            [],  # nothing
        ],
    )
    assert found.same.figures() == {"queries": 2, "hit@1": 0.5, "mrr@10": 0.5, "recall@10": 0.5}
    assert found.cross.figures() == {
        "queries": 3,
        "hit@1": 0.0,
        "mrr@10": round((1 / 2 + 1 / 4) / 3, 4),
        "recall@10": 0.6667,
    }
    assert found.bias == 0.5
    assert found.pairs["en", "de"].mrr == 0.5
    twice = found + found
    assert twice.cross.queries == 6
    assert twice.cross.mrr == pytest.approx(found.cross.mrr)
    assert twice.bias == found.bias
    with pytest.raises(ValueError, match="shorter"):
        report(QUESTIONS, [["a.txt"]])


def test_tables_line_up() -> None:
    text = table([["name", "1"], ["中文", "10"], ["x", "2"]])
    assert text == "| name |  1 |\n| :--- | -: |\n| 中文 | 10 |\n| x    |  2 |"
    answers = [["a.txt"], ["a.txt"], ["a.txt"], ["a.txt", "b.txt"], ["b.txt"]]
    found = report(QUESTIONS, answers)
    assert "| best        |       0.500 |" in ways({"best": found})
    assert pairs(found).splitlines()[2] == "| de       | 1.00 | 0.50 |  - |      0.500 |"


# --- ways to rank -------------------------------------------------------------------------


def test_plain_terms() -> None:
    assert plain_terms("Ein ERR_x, größer als 中文字 und 字") == [
        "ein",
        "err_x",
        "grösser",
        "als",
        "中文",
        "文字",
        "und",
        "字",
    ]


def test_bm25_by_hand() -> None:
    index = BM25([["a", "b"], ["a", "a", "c", "d"], ["e"]])
    mean = 7 / 3
    weight = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))

    def saturated(count: int, length: int) -> float:
        return count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / mean))

    assert index.scores(["a", "a", "unknown"]) == pytest.approx(
        [weight * saturated(1, 2), weight * saturated(2, 4), 0.0]
    )


def some_passages() -> Passages:
    vectors = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)
    return Passages(
        "m", ["x", "y", "z"], np.array([0, 1, 1, 2]), ["apple", "pear pear", "fig", "pear"], vectors
    )


def test_a_file_is_as_good_as_its_best_passage() -> None:
    held = some_passages()
    assert best_files(np.array([0.5, 0.1, 0.9, -np.inf]), held) == ["y", "x"]
    assert best_files(np.array([0.5, 0.5, 0.1, 0.7]), held, depth=2) == ["z", "x"]


class OneDirection:
    """An encoder that sees the same in every query."""

    def query(self, texts: list[str]) -> Future[Vectors]:
        future: Future[Vectors] = Future()
        future.set_result(np.tile(np.array([1, 0], np.float32), (len(texts), 1)))
        return future


def test_the_usual_ways_by_hand() -> None:
    usual = methods.Usual(some_passages(), OneDirection())  # type: ignore[arg-type]
    assert usual.bm25(["pear"]) == [["y", "z"]]
    assert usual.bm25(["plum"]) == [[]]
    assert usual.cosine(["anything"]) == [["x", "y", "z"]]
    # By places: apple is first by meaning only, "pear pear" second by meaning and first by words.
    assert usual.reciprocal(["pear"]) == [["y", "z", "x"]]
    assert usual.reciprocal(["plum"]) == usual.cosine(["plum"])
    assert usual.standardised(["plum"]) == usual.cosine(["plum"])
    assert usual.standardised(["apple"]) == [["x", "y", "z"]]


# --- code ---------------------------------------------------------------------------------


def function(source: str) -> tuple[ast.FunctionDef, list[str]]:
    text = textwrap.dedent(source)
    node = next(node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef))
    return node, text.splitlines()


def test_a_docstring_is_taken_out() -> None:
    node, lines = function('''
        class A:
            @property
            def f(self, x=1):
                """Say how many there
                are of it. And more.

                Much more.
                """
                # counted before
                y = x + 1
                return y
        ''')
    assert code.description(node) == "Say how many there are of it."
    assert code.without_docstring(node, lines) == (
        "@property\ndef f(self, x=1):\n    # counted before\n    y = x + 1\n    return y\n"
    )


@pytest.mark.parametrize(
    "source",
    [
        'def f():\n    """Do what has to be done here."""\n',
        'def f():\n    """Do what has to be done here."""\n    raise NotImplementedError\n',
        'def f():\n    """Do what has to be done here."""\n    pass\n',
    ],
)
def test_a_function_that_does_nothing_is_no_answer(source: str) -> None:
    node, lines = function(source)
    assert code.without_docstring(node, lines) == ""


@pytest.mark.parametrize("docstring", ["", "Too short.", ">>> f(1) and so on and on", "x " * 60])
def test_what_describes_nothing_is_no_question(docstring: str) -> None:
    node, _ = function(f"def f():\n    {docstring!r}\n    return 1\n")
    assert code.description(node) == ""
