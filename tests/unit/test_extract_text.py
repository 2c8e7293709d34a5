"""Encodings, and the families whose text is the file itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.document import Document
from indexer.errors import FileError
from indexer.extract import extract, kind_of
from indexer.extract.text import decode

CHINESE = (
    "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。我们在北京的图书馆里读书，下午一起去公园散步。"
    "这个程序可以在本地查找文件，不需要连接互联网。\n"
)
TRADITIONAL = (
    "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。我們在臺北的圖書館裡讀書，下午一起去公園散步。\n"
)
JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。今日は図書館で本を読みました。\n"
)
KOREAN = (
    "나라의 말이 중국과 달라 문자와 서로 통하지 아니하므로 어리석은 백성이 이르고자 할 바가 있어도 못한다.\n"
)
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n"
GERMAN = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich – für 5 € die Straße entlang.\n"
FRENCH = "Dès Noël, où un zéphyr haï me vêt de glaçons würmiens, je dîne d’exquis rôtis de bœuf.\n"
POLISH = "Zażółć gęślą jaźń. W Szczebrzeszynie chrząszcz brzmi w trzcinie i Szczebrzeszyn z tego słynie.\n"
GREEK = "Μῆνιν ἄειδε θεά. Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια.\n"
MODERN_GREEK = "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.\n"
HEBREW = "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון.\n"
ARABIC = "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق، وقد وهبوا عقلاً وضميراً.\n"


def read(name: str, data: bytes) -> Document:
    return extract(Path(name), data)


@pytest.mark.parametrize(
    ("sentence", "encoding"),
    [
        (CHINESE, "utf-8"),
        (CHINESE, "utf-8-sig"),
        (CHINESE, "utf-16"),
        (CHINESE, "utf-16-le"),
        (CHINESE, "utf-16-be"),
        (CHINESE, "utf-32"),
        (CHINESE, "utf-32-le"),
        (GERMAN, "utf-16-le"),
        (GERMAN, "utf-16-be"),
        (GREEK, "utf-16-le"),
        (CHINESE, "gb18030"),
        (CHINESE, "gb2312"),
        (TRADITIONAL, "big5"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (JAPANESE, "iso2022_jp"),
        (KOREAN, "euc_kr"),
        (KOREAN, "iso2022_kr"),
        (RUSSIAN, "windows-1251"),
        (RUSSIAN, "koi8-r"),
        (GERMAN, "windows-1252"),
        (FRENCH, "windows-1252"),
        (POLISH, "windows-1250"),
        (MODERN_GREEK, "windows-1253"),
        (HEBREW, "windows-1255"),
        (ARABIC, "windows-1256"),
    ],
)
def test_every_common_encoding_is_read(sentence: str, encoding: str) -> None:
    text = sentence * 4
    assert read("letter.txt", text.encode(encoding)).text == text


def test_the_encoding_is_found_behind_a_long_ascii_head() -> None:
    text = "plain words\n" * 9000 + RUSSIAN * 20
    assert read("long.txt", text.encode("koi8-r")).text == text


def test_an_ascii_head_does_not_hide_broken_utf8() -> None:
    data = (CHINESE * 40).encode() + b"\xff\xfe tail\n"
    document = read("log.txt", data)
    assert document.encoding == "utf-8"
    assert document.text.startswith(CHINESE)
    assert document.text.endswith("\ufffd\ufffd tail\n")


def test_a_declared_encoding_counts_only_where_it_fits() -> None:
    assert decode(GERMAN.encode("cp1252"), "ISO-8859-1") == (GERMAN, "cp1252")
    assert decode(CHINESE.encode(), "gb2312") == (CHINESE, "utf-8")
    text = (CHINESE * 3, "gb18030")
    assert decode(text[0].encode("gbk"), "gb2312") == text


@pytest.mark.parametrize("label", ["rot13", "base64", "utf-7", "unicode_escape", "idna", "no such"])
def test_a_declared_encoding_that_is_none_is_ignored(label: str) -> None:
    assert decode(GERMAN.encode("cp1252") * 3, label) == (GERMAN * 3, "cp1252")


def test_line_ends_become_newlines_and_count_as_in_the_file() -> None:
    assert read("a.txt", b"one\r\ntwo\r\n\r\nthree").text == "one\ntwo\n\nthree"
    assert read("mac.txt", b"one\rtwo").text == "one\ntwo"
    # grep and editors see two lines here
    progress = read("a.log", b"10%\r20%\r30%\ndone\n")
    assert progress.text == "10% 20% 30%\ndone\n"
    form_feed = read("a.txt", "one\ftwo\u2028three\x85four\n\nnext".encode())
    assert form_feed.blocks[1].line == 3


def test_paragraphs_know_their_lines() -> None:
    document = read("notes.txt", b"\n\nfirst\nstill first  \n \t\nsecond\n")
    assert [(document.text[b.start : b.end], b.line) for b in document.blocks] == [
        ("first\nstill first", 3),
        ("second", 6),
    ]


@pytest.mark.parametrize(
    "data",
    [bytes(range(256)) * 8, b"\x7fELF\x02\x01\x01" + b"\0" * 900, b"\x89PNG\r\n\x1a\n" + b"\0\1\2" * 99],
)
def test_binary_data_under_a_text_name_is_skipped(data: bytes) -> None:
    for name in ("notes.txt", "script.py", "page.html", "README.md", "unknown.xyz"):
        with pytest.raises(FileError) as caught:
            read(name, data)
        assert caught.value.kind == "skipped"


def test_a_file_of_white_space_is_skipped() -> None:
    for name in ("a.txt", "a.md", "a.py", "a.html"):
        with pytest.raises(FileError) as caught:
            read(name, b" \n\t\n")
        assert (caught.value.kind, caught.value.title) == ("skipped", "No text")


@pytest.mark.parametrize(
    ("name", "media", "language"),
    [
        ("a.py", "code", "python"),
        ("A.PY", "code", "python"),
        ("lib.rs", "code", "rust"),
        ("x.tsx", "code", "tsx"),
        ("Makefile", "code", "make"),
        ("Dockerfile", "code", "docker"),
        ("Dockerfile.test", "code", "docker"),
        ("CMakeLists.txt", "code", "cmake"),
        ("settings.yaml.example", "code", "yaml"),
        ("configure.in", "text", None),
        (".bashrc", "code", "bash"),
        ("README", "text", None),
        ("notes.TXT", "text", None),
        ("page.rst.txt", "text", None),
        ("page.md", "markdown", None),
        ("page.htm", "html", None),
        ("p.pdf", "pdf", None),
        ("p.epub", "epub", None),
        ("手册.md", "markdown", None),
    ],
)
def test_kinds_by_name(name: str, media: str, language: str | None) -> None:
    kind = kind_of(Path("/somewhere") / name)
    assert kind is not None
    assert (kind.media, kind.code_language) == (media, language)


@pytest.mark.parametrize("name", ["a.png", "a.zip", "a.tar.gz", "a.pyc", "a.docx", "a.mp4", "a.so"])
def test_formats_that_are_no_text_are_told_by_name(name: str) -> None:
    assert kind_of(Path(name)) is None
    with pytest.raises(FileError) as caught:
        read(name, b"whatever")
    assert caught.value.kind == "skipped"


def test_every_language_has_a_highlighter() -> None:
    from pygments.lexers import get_lexer_by_name

    from indexer.extract.kinds import _BY_EXTENSION, _BY_NAME, _INTERPRETERS

    kinds = [*_BY_EXTENSION.values(), *_BY_NAME.values()]
    languages = {kind.code_language for kind in kinds if kind and kind.code_language}
    for language in languages | set(_INTERPRETERS.values()):
        get_lexer_by_name(language)
    assert len(languages) >= 30


@pytest.mark.parametrize(
    ("line", "language"),
    [
        ("#!/usr/bin/env python3", "python"),
        ("#!/usr/bin/python3.11 -I", "python"),
        ("#!/bin/sh", "bash"),
        ("#!/usr/bin/env -S node --no-warnings", "javascript"),
        ("#! /usr/bin/perl -w", "perl"),
    ],
)
def test_scripts_without_an_extension_are_code(line: str, language: str) -> None:
    document = read("tool", f"{line}\n\nx = 1\n".encode())
    assert (document.media, document.code_language) == ("code", language)
    assert document.blocks[1].line == 3


def test_text_without_an_extension_is_text() -> None:
    assert read("README", b"Read me first.\n").media == "text"
    assert read("tool", b"#!/opt/strange\nx\n").media == "text"


def test_minified_code_is_skipped() -> None:
    with pytest.raises(FileError) as caught:
        read("app.js", b"function f(a,b){return a+b};" * 2000)
    assert caught.value.kind == "skipped"
    assert read("app.js", b"function f(a, b) { return a + b }\n" * 2000).media == "code"


def headings(document: Document) -> list[tuple[int, str, int | None]]:
    return [
        (block.level, document.text[block.start : block.end], block.line)
        for block in document.blocks
        if block.kind == "heading"
    ]


def test_rst_headings() -> None:
    source = (
        "=====\nTitle\n=====\n\nIntro.\n\nPart\n====\nText follows.\n\nSub\n---\n\nx\n\n1. a\n\nNext\n====\n"
    )
    document = read("page.rst", source.encode())
    assert headings(document) == [
        (1, "=====\nTitle\n=====", 1),
        (2, "Part\n====", 7),
        (3, "Sub\n---", 11),
        (2, "Next\n====", 18),
    ]
    assert document.title == "Title"
    assert headings(read("page.rst.txt", source.encode())) == headings(document)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a.org", "* Top\ntext\n** Sub\nmore\n"),
        ("a.adoc", "= Top\ntext\n== Sub\nmore\n"),
        ("a.tex", "\\section{Top}\ntext\n\\subsection{Sub}\nmore\n"),
    ],
)
def test_headings_of_other_markups(name: str, source: str) -> None:
    document = read(name, source.encode())
    found = headings(document)
    assert [line for _, _, line in found] == [1, 3]
    assert found[0][0] + 1 == found[1][0]
    assert document.title == "Top"
    assert [block.line for block in document.blocks] == [1, 2, 3, 4]


def test_csv_is_a_table() -> None:
    document = read("a.csv", "name;city\n张伟;北京\n".encode())
    assert [block.kind for block in document.blocks] == ["table"]


MARKDOWN = """---
title: "Field notes"
tags: [a]
---

# Heading *one*

A paragraph
over two lines.

Second title
------------

- first item

  its second paragraph
- second item
  1. nested

```python
# not a heading
x = 1
```

> quoted
> # not a heading of ours

| a | b |
|---|---|
| 1 | 2 |

[ref]: https://example.org
### 中文标题 ###
"""


def test_markdown_blocks() -> None:
    document = read("notes.md", MARKDOWN.encode())
    assert document.text == MARKDOWN
    assert document.title == "Field notes"
    assert headings(document) == [
        (1, "# Heading *one*", 6),
        (2, "Second title\n------------", 11),
        (3, "### 中文标题 ###", 33),
    ]
    found = {(block.kind, block.line) for block in document.blocks}
    assert found >= {
        ("paragraph", 8),
        ("list", 14),
        ("list", 16),
        ("list", 17),
        ("list", 18),
        ("code", 20),
        ("quote", 25),
        ("table", 28),
    }
    lines = MARKDOWN.split("\n")
    for block in document.blocks:
        assert block.line is not None
        assert document.text[block.start : block.end].split("\n")[0] == lines[block.line - 1]


def test_markdown_title_from_the_first_heading() -> None:
    assert read("a.md", b"text\n\n# The `real` **title** #\n").title == "The real title"
    assert read("a.md", b"+++\ntitle = 'Toml'\n+++\n# Other\n").title == "Toml"
    assert read("a.md", b"no heading\n").title == ""


def test_markdown_with_deep_nesting_keeps_its_text() -> None:
    source = (
        "".join("  " * depth + f"- level {depth}\n" for depth in range(200)) + "\n" + ">" * 5000 + " deep\n"
    )
    document = read("deep.md", source.encode())
    assert "".join(source.split()) == "".join(
        "".join(document.text[block.start : block.end].split()) for block in document.blocks
    )
