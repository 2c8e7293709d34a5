"""HTML and EPUB."""

from __future__ import annotations

import time
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from indexer.document import Document
from indexer.errors import FileError
from indexer.extract import epub, extract

PAGE = """<!DOCTYPE html>
<html><head><title>A  garden
 page</title><style>p { color: red }</style><script>var hidden = 1;</script></head>
<body>
<nav><a href="/">Home</a></nav>
<div role="navigation">More links</div>
<h1>Roses &amp; thorns</h1>
<p>Water them <b>every</b>
day,<br>in the morning.</p>
<ul><li>spade</li><li><p>rake</p><p>second paragraph</p></li></ul>
<h2>Pruning<a class="headerlink" href="#x">¶</a></h2>
<pre>  cut  here
    and here</pre>
<blockquote><p>A quote.</p></blockquote>
<table><caption>Prices</caption><tr><th>Rose</th><th>€</th></tr>
<tr><td>red</td><td>2 <i>or</i> 3</td></tr></table>
<!-- a comment -->tail text
<div>left<div>inner</div>right</div>
<p>我们在
北京。</p><img alt="A red rose" src="http://127.0.0.1:9/never-fetched.png">
</body></html>"""


def read(data: bytes | str, name: str = "page.html") -> Document:
    return extract(Path(name), data.encode() if isinstance(data, str) else data)


def parts(document: Document) -> list[tuple[str, int, str]]:
    return [(b.kind, b.level, document.text[b.start : b.end]) for b in document.blocks]


def test_what_a_reader_sees() -> None:
    document = read(PAGE)
    assert document.title == "A garden page"
    assert parts(document) == [
        ("heading", 1, "Roses & thorns"),
        ("paragraph", 0, "Water them every day,\nin the morning."),
        ("list", 0, "- spade"),
        ("list", 0, "- rake"),
        ("list", 0, "second paragraph"),
        ("heading", 2, "Pruning"),
        ("code", 0, "  cut  here\n    and here"),
        ("quote", 0, "A quote."),
        ("table", 0, "Prices\nRose | €\nred | 2 or 3"),
        ("paragraph", 0, "tail text"),
        ("paragraph", 0, "left"),
        ("paragraph", 0, "inner"),
        ("paragraph", 0, "right"),
        ("paragraph", 0, "我们在北京。"),
        ("paragraph", 0, "A red rose"),
    ]
    lines = {document.text[b.start : b.end]: b.line for b in document.blocks}
    assert lines["Roses & thorns"] == 7
    assert lines["Pruning"] == 11


@pytest.mark.parametrize(
    "encoding", ["gb18030", "gb2312", "big5", "shift_jis", "windows-1251", "utf-8", "utf-16"]
)
@pytest.mark.parametrize(
    "form",
    [
        '<meta charset="{}">',
        "<META http-equiv=Content-Type content='text/html; charset={}'>",
        "",
    ],
)
def test_encodings(encoding: str, form: str) -> None:
    sentences = {
        "windows-1251": "Все счастливые семьи похожи друг на друга, несчастливая несчастлива по-своему.",
        "shift_jis": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
        "big5": "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。",
    }
    sentence = sentences.get(encoding, "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。")
    source = f"<html><head>{form.format(encoding)}</head><body><p>{sentence}</p></body></html>"
    assert read(source.encode(encoding)).text == sentence


XHTML = """<?xml version="1.0" encoding="{0}"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "http://127.0.0.1:9/xhtml1-strict.dtd"
 [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;">]>
<html xmlns="http://www.w3.org/1999/xhtml"><head><title/><script src="x.js"/></head>
<body><h1>标题</h1><p>caf&eacute;&nbsp;au lait &lol2; &#20013;<![CDATA[ <raw> ]]></p>{1}</body></html>"""


@pytest.mark.parametrize(("encoding", "extra"), [("utf-8", ""), ("gb18030", ""), ("utf-8", "<p>unclosed")])
def test_xhtml_also_where_it_is_not_well_formed(encoding: str, extra: str) -> None:
    document = read(XHTML.format(encoding, extra).encode(encoding), "page.xhtml")
    assert document.title == "标题"
    assert document.text.startswith("标题\n\ncafé au lait &lol2; 中")
    assert "unclosed" in document.text or not extra
    assert {block.line for block in document.blocks} == {5}


def test_a_layout_table_is_no_table() -> None:
    document = read("<table><tr><td><h2>Head</h2><p>one</p></td><td>two<table><tr><td>x")
    assert parts(document) == [
        ("heading", 2, "Head"),
        ("paragraph", 0, "one"),
        ("paragraph", 0, "two"),
        ("table", 0, "x"),
    ]


@pytest.mark.parametrize("tag", ["div", "b", "table><tr><td", "ul><li", "blockquote", "svg", "font"])
def test_deep_nesting_costs_neither_time_nor_what_follows(tag: str) -> None:
    source = "<p>before</p>" + f"<{tag}>" * 60_000 + "inside" + "<p>after</p>"
    began = time.monotonic()
    document = read(source)
    assert time.monotonic() - began < 20
    assert document.text.startswith("before")
    assert "after" in document.text or tag == "svg"


def test_many_siblings_and_unclosed_tags() -> None:
    document = read("<p>" + "<b>x " * 30_000 + "<i" * 1000 + "&#0;&#xD800;&#x10FFFF;\x00<p>last")
    assert document.text.endswith("last")
    document.text.encode()


# --- EPUB ---------------------------------------------------------------------------------

CONTAINER = (
    '<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<rootfiles><rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles>'
    "</container>"
)


def chapter(title: str, *paragraphs: str) -> str:
    body = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    return (
        '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><head>'
        f"<title>x</title></head><body><h1>{title}</h1>{body}</body></html>"
    )


def book(
    chapters: dict[str, str], spine: list[str], *, extra: dict[str, str] | None = None, title: str = "红楼梦"
) -> bytes:
    items = "".join(
        f'<item id="{name}" href="{name.replace(" ", "%20")}.xhtml" media-type="application/xhtml+xml"/>'
        for name in chapters
    )
    package = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
        f'<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></metadata>'
        f'<manifest><item id="cover" href="cover.png" media-type="image/png"/>{items}</manifest><spine>'
        + "".join(f'<itemref idref="{name}"/>' for name in spine)
        + "</spine></package>"
    )
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr("OEBPS/book.opf", package)
        for name, content in chapters.items():
            archive.writestr(f"OEBPS/{name}.xhtml", content)
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return stream.getvalue()


def test_chapters_in_reading_order() -> None:
    chapters = {
        "b one": chapter("Second", "middle &mdash; part"),
        "a": chapter("甄士隐梦幻识通灵", "此开卷第一回也。"),
        "blank": "<html xmlns='http://www.w3.org/1999/xhtml'><body/></html>",
        "z": chapter("Last"),
    }
    document = read(book(chapters, ["a", "blank", "b one", "z"]), "book.epub")
    assert document.title == "红楼梦"
    assert [(b.chapter, b.kind, document.text[b.start : b.end]) for b in document.blocks] == [
        (1, "heading", "甄士隐梦幻识通灵"),
        (1, "paragraph", "此开卷第一回也。"),
        (2, "heading", "Second"),
        (2, "paragraph", "middle — part"),
        (3, "heading", "Last"),
    ]
    assert all(block.line is None for block in document.blocks)


def failure(data: bytes) -> FileError:
    with pytest.raises(FileError) as caught:
        read(data, "book.epub")
    return caught.value


def test_a_truncated_or_empty_book_says_so() -> None:
    whole = book({"a": chapter("One", "text")}, ["a"])
    assert failure(whole[: len(whole) // 2]).title == "The book cannot be opened"
    assert failure(b"PK\x03\x04 no archive").kind == "failed"
    assert failure(book({"a": chapter("One")}, [])).title == "The book is damaged"
    assert failure(book({"a": "<html><body/></html>"}, ["a"])).kind == "skipped"


def test_a_broken_entry_says_so() -> None:
    whole = bytearray(book({"a": chapter("One", "text " * 500)}, ["a"]))
    where = whole.find(b"OEBPS/a.xhtml") + len("OEBPS/a.xhtml")
    whole[where + 5 : where + 40] = b"\xff" * 35
    assert failure(bytes(whole)).title == "The book is damaged"


def test_drm_is_named() -> None:
    encryption = (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" '
        'xmlns:e="http://www.w3.org/2001/04/xmlenc#">'
        '<e:EncryptedData><e:CipherData><e:CipherReference URI="OEBPS/a.xhtml"/>'
        "</e:CipherData></e:EncryptedData></encryption>"
    )
    data = book({"a": "\x12\x13"}, ["a"], extra={"META-INF/encryption.xml": encryption})
    assert failure(data).title == "The book is protected"


def test_a_bomb_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epub, "_MAX_ENTRY_BYTES", 1 << 20)
    bomb = book({"a": chapter("One", "0" * (2 << 20))}, ["a"])
    assert len(bomb) < 20_000
    assert failure(bomb).title == "Unpacks to too much"


def test_references_lead_nowhere_outside() -> None:
    chapters = {"../../../../etc/passwd": "root", "a": chapter("One", "text")}
    document = read(book(chapters, ["../../../../etc/passwd", "a"]), "book.epub")
    assert document.text == "One\n\ntext"
