"""Passages: what always holds, and where they begin and end."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.api import Media, Rect
from indexer.chunk import chunk
from indexer.document import Block, BlockKind, Chunk, Document

TOKEN = re.compile(r"[a-zA-Z]{1,5}|[0-9]{1,3}|\S")


def counts(texts: Sequence[str]) -> list[int]:
    """About what a multilingual tokenizer counts: pieces of words, single signs of everything else."""
    return [len(TOKEN.findall(text)) for text in texts]


def whole(text: str, kind: BlockKind = "paragraph") -> Document:
    return Document(media="text", text=text, blocks=(Block(kind=kind, start=0, end=len(text)),))


def build(*parts: tuple[str, str] | tuple[str, str, dict[str, object]], title: str = "") -> Document:
    """A document of (kind, text, more) blocks; "h2" is a heading of level 2."""
    text, blocks = "", []
    for part in parts:
        kind, more = part[0], dict(part[2]) if len(part) > 2 else {}
        if kind[0] == "h" and kind[1:].isdigit():
            more["level"], kind = int(kind[1:]), "heading"
        blocks.append(Block(kind=kind, start=len(text), end=len(text) + len(part[1]), **more))  # type: ignore[arg-type]
        text += part[1] + "\n\n"
    return Document(media="html", text=text, blocks=tuple(blocks), title=title)


def check(document: Document, chunks: Sequence[Chunk], max_tokens: int) -> None:
    """What holds for every document."""
    covered = bytearray(len(document.text))
    for before, after in itertools.pairwise(chunks):
        assert before.start < after.start
        assert before.end <= after.end
    for piece in chunks:
        assert piece.text.strip()
        assert document.text[piece.start : piece.end] == piece.text
        assert piece.tokens == counts([piece.embed_text])[0] <= max_tokens
        covered[piece.start : piece.end] = b"\1" * (piece.end - piece.start)
    contexts = "\n".join(piece.context for piece in chunks)
    for block in document.blocks:
        text = document.text[block.start : block.end]
        if block.kind == "heading" and " ".join(text.split()) in contexts:
            continue
        for at, char in enumerate(text, block.start):
            assert covered[at] or char.isspace(), (at, char)


SIGNS = st.sampled_from(
    [*"ab cd. \n。字😀\u200d\u0301\ud800\0-|#,\t", "word ", "Sentence one. ", "\n\n", "def f():\n  x\n"]
)
TEXTS = st.lists(SIGNS, min_size=1, max_size=120).map("".join)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    kinds = st.sampled_from(["heading", "paragraph", "paragraph", "code", "list", "table", "quote"])
    text, blocks = "", []
    for _ in range(draw(st.integers(1, 12))):
        part, kind = draw(TEXTS), draw(kinds)
        blocks.append(
            Block(
                kind=kind,  # type: ignore[arg-type]
                start=len(text),
                end=len(text) + len(part),
                level=draw(st.integers(1, 6)) if kind == "heading" else 0,
                page=draw(st.sampled_from([None, 1, 2, 3])),
            )
        )
        text += part + draw(st.sampled_from(["", "\n", "\n\n"]))
    media: Media = draw(st.sampled_from(["text", "html", "pdf", "epub"]))
    return Document(
        media=media, text=text, blocks=tuple(blocks), title=draw(st.sampled_from(["", "A title"]))
    )


@settings(max_examples=150, deadline=None)
@given(documents(), st.sampled_from([32, 60, 200]), st.sampled_from([8, 20, 100]))
def test_every_document(document: Document, max_tokens: int, target: int) -> None:
    check(document, chunk(document, counts=counts, max_tokens=max_tokens, target_tokens=target), max_tokens)


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.sampled_from([None, "python", "c", "no such language"]), st.sampled_from([32, 60, 200]))
def test_every_source_file(text: str, language: str | None, max_tokens: int) -> None:
    blocks = (Block(kind="code", start=0, end=len(text)),)
    document = Document(media="code", text=text, blocks=blocks, code_language=language)
    check(document, chunk(document, counts=counts, max_tokens=max_tokens, target_tokens=20), max_tokens)


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "字",
        "😀",
        "👩‍👩‍👧",
        "\ud800",
        "\x01",
        '{"k":[1,2]},',
        "ﷺ",
        "e\u0301",
        "2026-11-22 INFO started job 17\n",
        "。",
    ],
)
def test_a_megabyte_of_anything(part: str) -> None:
    document = whole(part * (300_000 // len(part)))
    work = 0

    def counting(texts: Sequence[str]) -> list[int]:
        nonlocal work
        work += sum(map(len, texts))
        return counts(texts)

    started = time.process_time()
    chunks = chunk(document, counts=counting, max_tokens=506)
    assert time.process_time() - started < 15
    assert work < 4 * len(document.text)
    check(document, chunks, 506)
    assert len(chunks) < 20 + counts([document.text])[0] / 60


def test_an_empty_document_has_no_chunks() -> None:
    assert chunk(Document(media="text", text=" \n", blocks=()), counts=counts, max_tokens=100) == []


def test_windows_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        chunk(whole("a"), counts=counts, max_tokens=31)


def test_headings_are_context_and_sections_do_not_mix() -> None:
    long = "The disk is read by the kernel in blocks. " * 10
    document = build(
        ("h1", "Guide"), ("h2", "Disks"), ("paragraph", long), ("h2", "Screens"), ("paragraph", long)
    )
    first, second = chunk(document, counts=counts, max_tokens=500, target_tokens=130)
    assert first.context == "Guide › Disks"
    assert first.locator.heading == ("Guide", "Disks")
    assert first.text == long.strip()
    assert second.context == "Guide › Screens"


def test_the_title_stands_above_the_headings_unless_it_is_one() -> None:
    parts = [("h1", "Guide"), ("paragraph", "Some text about it.")]
    assert chunk(build(*parts, title="Manual"), counts=counts, max_tokens=500)[0].context == "Manual › Guide"
    assert chunk(build(*parts, title="guide"), counts=counts, max_tokens=500)[0].context == "Guide"


def test_short_sections_below_one_heading_are_merged_with_their_headings_in_the_text() -> None:
    document = build(
        ("h1", "Glossary"), ("h2", "Disk"), ("paragraph", "It stores."),
        ("h2", "Screen"), ("paragraph", "It shows."),
        ("h1", "Other"), ("paragraph", "Nothing of the above is meant here. " * 24),
    )  # fmt: skip
    first, second = chunk(document, counts=counts, max_tokens=500)
    assert first.context == "Glossary"
    assert first.text == "Disk\n\nIt stores.\n\nScreen\n\nIt shows."
    assert second.context == "Other"


def test_a_heading_without_text_is_not_lost() -> None:
    document = build(("paragraph", "Text."), ("h2", "Empty"), ("h2", "Last"))
    chunks = chunk(document, counts=counts, max_tokens=500)
    assert "Empty" in chunks[-1].text
    assert "Last" in chunks[-1].text


def test_a_heading_too_long_for_the_context_is_text() -> None:
    heading = "word " * 200
    document = build(("h1", heading), ("paragraph", "Short text."))
    chunks = chunk(document, counts=counts, max_tokens=300)
    check(document, chunks, 300)
    assert all(counts([piece.context])[0] <= 48 for piece in chunks)


def test_chunks_end_at_paragraphs_then_at_sentences() -> None:
    sentence = "Here are exactly nine words of text for you."
    paragraph = " ".join([sentence] * 6)
    document = build(*[("paragraph", paragraph)] * 4)
    for piece in chunk(document, counts=counts, max_tokens=400, target_tokens=100):
        assert piece.text.startswith("Here")
        assert piece.text.endswith(paragraph)
    for piece in chunk(whole(paragraph * 4), counts=counts, max_tokens=400, target_tokens=40):
        assert piece.text.startswith("Here")
        assert piece.text.endswith(("you.", "you"))


def test_chinese_chunks_begin_at_sentences() -> None:
    document = whole("内核保存着所有正在等待磁盘的进程的列表。" * 200)
    chunks = chunk(document, counts=counts, max_tokens=506)
    assert all(piece.text.startswith("内核") and piece.lang == "zh" for piece in chunks)
    assert all(piece.tokens <= 250 for piece in chunks)


def test_code_fences_and_tables_stay_whole_when_they_fit_and_are_cut_at_rows_when_not() -> None:
    rows = "\n".join(f"| {number} | some words in a row |" for number in range(200))
    fence = "\n".join(f"call({number})" for number in range(60))
    document = build(("paragraph", "Before it."), ("code", fence), ("paragraph", "Between."), ("table", rows))
    chunks = chunk(document, counts=counts, max_tokens=506, target_tokens=150)
    check(document, chunks, 506)
    assert any(fence in piece.text for piece in chunks)
    for piece in chunks:
        if piece.start > document.text.index("| 0 |"):
            assert piece.text.startswith("| ")
            assert piece.text.endswith(" |")


def test_pages_part_chunks_but_not_sentences() -> None:
    def on(page: int, x: float) -> dict[str, object]:
        return {"page": page, "rect": Rect(x0=x, y0=0, x1=9, y1=9)}

    document = build(
        ("paragraph", "One thing is told here. A second one goes on", on(1, 1)),
        ("paragraph", "over the page. Then comes more.", on(2, 2)),
        ("paragraph", "All of page three.", on(3, 3)),
        ("paragraph", "More of page three.", on(3, 4)),
    )
    first, second, third = chunk(document, counts=counts, max_tokens=400)
    assert first.text.endswith("over the page.")
    assert (first.locator.page, [rect.x0 for rect in first.locator.rects]) == (1, [1])
    assert second.text == "Then comes more."
    assert second.locator.page == 2
    assert (third.locator.page, [rect.x0 for rect in third.locator.rects]) == (3, [3, 4])


def test_lines_are_the_files_own() -> None:
    text = "One.\n\nTwo\nis longer.\n\n\nThree."
    blocks = (Block(kind="paragraph", start=0, end=4), Block(kind="paragraph", start=6, end=20))
    document = Document(media="text", text=text, blocks=(*blocks, Block(kind="paragraph", start=23, end=29)))
    (only,) = chunk(document, counts=counts, max_tokens=100)
    assert (only.locator.line_start, only.locator.line_end) == (1, 7)
    document = build(("paragraph", "A.", {"line": 7}), ("paragraph", "B.", {"line": 19}))
    (only,) = chunk(document, counts=counts, max_tokens=100)
    assert (only.locator.line_start, only.locator.line_end) == (7, 19)


def test_the_language_of_a_short_chunk_is_the_documents() -> None:
    german = "Der Kern führt eine Liste aller Prozesse, die auf die Festplatte warten müssen. " * 8
    document = build(
        ("h1", "Eins"), ("paragraph", german), ("h1", "Zwei"), ("h2", "2.1"), ("paragraph", "OK 42."),
        ("h1", "Drei"), ("code", "x = 1"),
    )  # fmt: skip
    chunks = chunk(document, counts=counts, max_tokens=300, target_tokens=100)
    assert {piece.lang for piece in chunks[:-1]} == {"de"}
    assert chunks[-2].text == "OK 42."
    assert chunks[-1].lang == "code"


def test_a_short_table_does_not_change_the_language_but_another_script_does() -> None:
    german = "Der Kern führt eine Liste aller Prozesse, die auf die Festplatte warten müssen. " * 8
    table = "| Zutat | Menge |\n|---|---|\n| Wasser | 1 l |\n| Salz | 5 g |"
    document = build(
        ("paragraph", german),
        ("h1", "Tabelle"),
        ("table", table),
        ("h1", "中文"),
        ("quote", "内核保存列表。"),
    )
    chunks = chunk(document, counts=counts, max_tokens=300, target_tokens=30)
    assert {piece.lang for piece in chunks if "内核" not in piece.text} == {"de"}
    assert chunks[-1].lang == "zh"
    chinese = "内核保存着所有正在等待磁盘的进程的列表，然后逐一处理。" * 8
    document = build(("paragraph", chinese), ("h1", "二"), ("paragraph", "42: 17"))
    chunks = chunk(document, counts=counts, max_tokens=300, target_tokens=30)
    assert {piece.lang for piece in chunks} == {"zh"}


def test_equal_passages_have_equal_hashes_in_other_places() -> None:
    one = chunk(build(("h1", "A"), ("paragraph", "Same text.")), counts=counts, max_tokens=100)
    two = chunk(
        build(("paragraph", "New first. " * 40), ("h1", "A"), ("paragraph", "Same text.")),
        counts=counts,
        max_tokens=100,
    )
    assert one[0].text_hash == two[-1].text_hash
