"""Spoiled files read in this process, what longer runs have found, and text that breaks rules."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.chunk import chunk, grammars
from indexer.chunk.grammars import parse
from indexer.document import Chunk, Document
from indexer.errors import FileError
from indexer.extract import extract
from indexer.extract.text import decode, normalise
from tests.fuzz import files
from tests.hostile import pdf
from tests.unit.test_chunk import counts
from tests.unit.test_extract_any import check


def test_spoiled_files() -> None:
    verdicts = set()
    for number in range(40):
        file = files.make(7, number)
        verdict, wrong = files.throw_here(file, counts, 200)
        assert not wrong, (number, file.name)
        verdicts.add(verdict)
    assert "indexed" in verdicts
    assert len(verdicts) > 4


def test_the_seeds_are_sound_and_a_number_names_a_file() -> None:
    for seed in files.seeds():
        assert files.throw_here(seed, counts, 200) == ("indexed", ""), seed.name
    assert [files.make(3, n) for n in range(9)] == [files.make(3, n) for n in range(9)]
    assert files.make(3, 1) != files.make(4, 1)


def test_what_is_wrong_with_chunks_and_words_is_found() -> None:
    document = extract(Path("a.txt"), b"One lamp.\n\nTwo lamps.\n")
    (piece,) = chunk(document, counts=counts, max_tokens=100)
    assert not files.sound([piece], document)
    import msgspec

    def changed(**more: object) -> list[Chunk]:
        return [msgspec.structs.replace(piece, **more)]

    assert files.sound(changed(text=" " * len(piece.text)), document)
    assert files.sound(changed(end=piece.end + 1), document)
    assert files.sound(changed(text="x" * len(piece.text)), document)
    assert files.sound(changed(context="\ud800"), document)
    assert files.sound([piece, piece], document)
    assert files.understandable(FileError(Path("a"), "", "It is."))
    assert files.understandable(FileError(Path("a"), "No", "no sentence"))
    assert files.understandable(FileError(Path("a"), "No", "A bell \a."))


# --- regressions ------------------------------------------------------------------------------------------

SLOW = {
    # Each took a minute and more: expressions that try every way to cut what has no end.
    "a.xhtml": '<?xml version="1.0"?><!DOCTYPE ' + "a" * 400_000 + "<p>text",
    "spaces.md": "---\ntitle: x" + " " * 200_000 + "y\n---\ntext",
    "brackets.md": "# " + "[" * 200_000 + "\n\ntext",
    "emphasis.md": "# *" + " *a" * 100_000 + "\n\ntext",
}


@pytest.mark.parametrize("name", SLOW)
def test_what_has_no_end_takes_no_time(name: str) -> None:
    began = time.process_time()
    document = extract(Path(name), SLOW[name].encode())
    assert time.process_time() - began < 4
    assert len(document.title) <= 500


@pytest.mark.parametrize(
    "run", ["!" * 60_000 + "a", "a?" + "!)" * 30_000 + "b", "." * 60_000 + "*" * 900 + "x"]
)
def test_a_line_of_stops_takes_no_time(run: str) -> None:
    began = time.process_time()
    assert files.throw_here(files.Seed("a.txt", run.encode()), counts, 200) == ("indexed", "")
    assert time.process_time() - began < 4


@pytest.mark.parametrize(
    ("matter", "title"),
    [
        ("title: A lamp", "A lamp"),
        ('title = "A lamp"', "A lamp"),
        ("title:'A lamp'  ", "A lamp"),
        ("title: \"A lamp'", "\"A lamp'"),
        ('title: ""', "Heading"),
        ("title:", "Heading"),
        ("titles: A", "Heading"),
    ],
)
def test_titles_of_notes(matter: str, title: str) -> None:
    assert extract(Path("a.md"), f"---\n{matter}\n---\n# Heading\n\ntext\n".encode()).title == title


@pytest.mark.parametrize(
    "dtd",
    [
        "<!DOCTYPE html>",
        '<!doctype a [<!ENTITY x "y">\n]\n>',
        '<!DOCTYPE a SYSTEM "b">',
        "<!DOCTYPE a [",
        "<!DOCTYPE a []",
        '<!DOCTYPE a [<!ENTITY x "]>">]>',
        '<!DOCTYPE a><!DOCTYPE b [<!ENTITY x SYSTEM "file:///etc/hostname">]>',
    ],
)
def test_a_dtd_is_left_out(dtd: str) -> None:
    body = "<html><body>\n<p>lamp &x;</p></body></html>"
    document = extract(Path("a.xhtml"), f'<?xml version="1.0"?>\n{dtd}{body}'.encode())
    assert "lamp" in document.text
    host = Path("/etc/hostname")
    assert not host.exists() or host.read_text(encoding="utf-8").strip() not in document.text


def test_a_tree_of_pages_without_sense_is_damage() -> None:
    loop = b"<< /Type /Pages /Parent 2 0 R /Kids [2 0 R] /Count 2147483647 >>"
    with pytest.raises(FileError, match="makes no sense") as caught:
        extract(Path("a.pdf"), pdf(b"<< /Type /Catalog /Pages 2 0 R >>", loop))
    assert caught.value.title == "The PDF is damaged"


# --- any text, any bytes ------------------------------------------------------------------------------------

ODD = st.sampled_from(
    [
        *"\u0301\u200d\u202e\u2066\ufeff\ufffe\x00\x0c\x85\u2028\ud800\udfff\U000e0001ﷺ字\t\r\n ",
        "\r\n",
        "a. ",
        "# ",
    ]
)
TEXTS = st.lists(ODD | st.characters(), max_size=80).map("".join)
SUFFIXES = ("txt", "md", "rst", "tex", "org", "csv", "py", "json", "html", "xml")
NAMES = st.sampled_from([f"a.{suffix}" for suffix in SUFFIXES])
ENCODINGS = st.sampled_from(["utf-8", "utf-16", "utf-32-be"])
HEADS = st.sampled_from([b"", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b$B", b"\x84\x31\x95\x33"])
SOUND = st.characters(codec="utf-8", exclude_characters="\ufeff\ufffe\0", exclude_categories=["Cc"])


def whole(name: str, data: bytes, most: int) -> None:
    try:
        document = extract(Path(name), data)
    except FileError:
        return
    check(document)
    pieces = chunk(document, counts=counts, max_tokens=most)
    _covered(document, pieces, most)


def _covered(document: Document, pieces: Sequence[Chunk], most: int) -> None:
    assert not files.sound(pieces, document)
    assert pieces
    for piece in pieces:
        assert piece.tokens == counts([piece.embed_text])[0]
        # One character that is more tokens than fit cannot be cut.
        assert piece.tokens <= most or piece.end - piece.start == 1
        assert piece.locator.line_start is None or piece.locator.line_start <= (piece.locator.line_end or 0)


@given(
    name=NAMES,
    text=TEXTS,
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-32-be"]),
    most=st.integers(32, 90),
)
@settings(max_examples=150, deadline=None)
def test_chunks_of_any_text(name: str, text: str, encoding: str, most: int) -> None:
    whole(name, text.encode(encoding, "surrogatepass"), most)


@given(name=NAMES, text=TEXTS, times=st.integers(100, 2000))
@settings(max_examples=25, deadline=None)
def test_chunks_of_anything_many_times(name: str, text: str, times: int) -> None:
    whole(name, (text * times)[:6000].encode("utf-8", "surrogatepass"), 40)


@given(data=st.binary(max_size=300), head=HEADS)
@settings(max_examples=200, deadline=None)
def test_decoding_gives_text_or_none(data: bytes, head: bytes) -> None:
    decoded = decode(head + data)
    if decoded is not None:
        text, encoding = decoded
        "".encode(encoding)
        assert "\r" not in normalise(text)


@given(text=st.text(SOUND, min_size=1), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
@settings(max_examples=150, deadline=None)
def test_unicode_comes_back_as_it_was(text: str, encoding: str) -> None:
    decoded = decode(text.encode(encoding))
    assert decoded is not None
    assert decoded[0] == text


_SEARCHES = (
    "local function f()\n  return 1\nend"
    + "s, la próxima en 2027. Como no sale de casa, no necesita la de leucemia.\n\n"
    "Llamar enseguida si lleva un día entero sin comer, si respira con la boca abierta.\n"
    "- Tres cuencos de agua lejos de la comida. Media por la mañana - se repite; no.\n" * 300
)


def test_a_parser_that_reads_the_file_again_and_again_is_stopped_and_keeps_nothing() -> None:
    source = _SEARCHES.encode()
    tracemalloc.start()
    try:
        assert parse("lua", source) is None
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Copies of what was read came to a thousand times the file, and stayed.
    assert most < 8 << 20
    assert kept < 8 << 20
    document = extract(Path("a.lua"), source)
    chunks = chunk(document, counts=counts, max_tokens=200)
    assert not files.sound(chunks, document)
    assert len(chunks) > 10


def test_functions_are_named_from_the_text_that_was_parsed() -> None:
    source = "".join(f"def größe_{n}(x):\n    return x + {n}\n\n" for n in range(200))
    found = chunk(extract(Path("a.py"), source.encode()), counts=counts, max_tokens=60)
    assert {piece.locator.symbol for piece in found} >= {"größe_1", "größe_199"}


def test_pieces_of_a_source_part_no_character() -> None:
    for shift in range(4):
        source = ("#" * shift + "#" + "灯" * 2000 + "\ndef 灯台守():\n    return 1\n" * 200).encode()
        root = parse("python", source)
        assert root is not None
        assert not root.has_error
        assert root.named_child_count == 201


def test_a_parser_out_of_memory_is_the_files_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Parser:
        def parse(self, read: Callable[[int, object], object], *, progress_callback: object) -> None:
            read(0, None)
            raise SystemError("returned a result with an exception set") from MemoryError()

        def reset(self) -> None:
            pass

    monkeypatch.setattr(grammars, "_parser", lambda language: Parser())
    with pytest.raises(MemoryError):
        parse("python", b"x = 1\n")
