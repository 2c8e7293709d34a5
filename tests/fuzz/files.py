"""Spoiled files, thrown at the processes that read files.

    python -m tests.fuzz.files [--count 20000] [--seed 1] [--workers 2] [--only NUMBER] [--keep FOLDER]

Takes real files of every format that is read (the sample library and some made here), spoils them (bytes,
pieces, two files in one; entries of archives, tokens of PDFs and of markup where that reaches deeper) and
hands them to `WorkerPool` as the product does, with its limits and its tokenizer. Each must end in a verdict
that a person understands, and the chunks of what can be read must stand in its text where they say. Prints
figures; ends with 1 at a finding. File NUMBER is the same in every run with the same seed; --keep writes what
ended a process, or was a finding.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import random
import re
import resource
import shutil
import sys
import tempfile
import threading
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from indexer.api import GetPreview
from indexer.chunk import chunk
from indexer.document import Chunk, Document
from indexer.errors import FileError
from indexer.extract import extract
from indexer.settings import Settings
from indexer.workers import CrashedError, Prepared, WorkerPool
from indexer.workers.messages import Failed

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "assets" / "sample-library"
USUAL, LARGEST = 200_000, 8 << 20
Counts = Callable[[Sequence[str]], list[int]]


# --- what is spoiled ------------------------------------------------------------------------------------


class Seed(NamedTuple):
    """A sound file."""

    name: str
    data: bytes


def book(entries: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive with these entries, in this order."""
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return stream.getvalue()


def epub(*pages: str, **more: bytes) -> bytes:
    """A book of XHTML pages; `more` are other entries."""
    items = "".join(
        f'<item id="p{n}" href="p{n}.xhtml" media-type="application/xhtml+xml"/>' for n in range(len(pages))
    )
    spine = "".join(f'<itemref idref="p{n}"/>' for n in range(len(pages)))
    package = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf"><metadata>'
        '<title xmlns="http://purl.org/dc/elements/1.1/">The lamp</title></metadata>'
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    return book(
        {
            "mimetype": b"application/epub+zip",
            "META-INF/container.xml": b'<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
            b'<rootfiles><rootfile full-path="b.opf"/></rootfiles></container>',
            "b.opf": package.encode(),
            **{f"p{n}.xhtml": page.encode() for n, page in enumerate(pages)},
            **more,
        }
    )


def _pdfs() -> list[Seed]:
    pymupdf: Any = importlib.import_module("pymupdf")  # it has no types worth the name
    made = []
    for name, options in (
        ("plain.pdf", {}),
        ("packed.pdf", {"deflate": True, "use_objstms": 1, "garbage": 3}),
        ("locked.pdf", {"encryption": pymupdf.PDF_ENCRYPT_AES_256, "owner_pw": "o", "user_pw": ""}),
    ):
        pdf = pymupdf.open()
        for page in range(3):
            sheet = pdf.new_page()
            for line in range(12):
                sheet.insert_text(
                    (72, 72 + 20 * line), f"Line {line} of page {page} about the tide and the lamp."
                )
            sheet.draw_rect((50, 400, 200, 500))
            sheet.insert_link({"kind": pymupdf.LINK_GOTO, "from": pymupdf.Rect(1, 1, 9, 9), "page": 0})
            sheet.add_text_annot((300, 300), "A remark")
        pdf.set_toc([[1, "The tide", 1], [2, "The lamp", 2], [1, "The end", 3]])
        pdf.embfile_add("a.txt", b"attached")
        made.append(Seed(name, pdf.tobytes(**options)))
    return made


_SENTENCES = {
    "latin-1": "Der Leuchtturmwärter prüft größere Lampen früh.\n\nÜber dem Meer kreist eine Möwe.\n",
    "cp1251": "Смотритель маяка чистит лампу на рассвете.\n\nНад морем кружит чайка.\n",
    "koi8-r": "Смотритель маяка чистит лампу на рассвете, и над морем кружит чайка.\n",
    "shift_jis": "灯台守は夜明けにランプを磨く。\n\n海の上をカモメが飛ぶ。\n",
    "euc-kr": "등대지기는 새벽에 등을 닦는다.\n\n바다 위로 갈매기가 난다.\n",
    "gb18030": "守塔人黎明时擦拭灯具。\n\n海面上飞着海鸥。\n",
    "big5": "守塔人黎明時擦拭燈具。\n\n海面上飛著海鷗。\n",
    "iso2022_jp": "灯台守は夜明けにランプを磨く。\n",
    "utf-16": "The keeper trims the lamp. 灯台守 смотритель\n\nA gull circles.\n",
    "utf-16-be": "The keeper trims the lamp and writes the weather down.\n",
    "utf-32-le": "The keeper trims the lamp.\n",
    "utf-8-sig": "حارس المنارة ينظف المصباح. שומר המגדלור 👩‍👩‍👧 e\u0301\n",
}
_TEXTS = {
    "a.rst": "Title\n=====\n\nA paragraph.\n\nPart\n----\n\n* item\n* item\n\n.. code::\n\n   x = 1\n",
    "a.org": "* One\n** Two\nText.\n#+BEGIN_SRC python\nx = 1\n#+END_SRC\n",
    "a.tex": "\\documentclass{a}\n\\section{One}\nText $x^2$.\n\\subsection[s]{Two}\nMore {of} it.\n",
    "a.adoc": "= Title\n\n== Part\n\nText.\n\n----\ncode\n----\n",
    "a.csv": "name,age\n" + "".join(f"person {n},{n}\n" for n in range(40)),
    "a.eml": "From: a@example.org\nSubject: The lamp\n\nThe lamp is out.\n",
    "a.ipynb.md": "---\ntitle: A\n---\n# One\n\n> quote\n\n"
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n```py\nx\n```\n\n- a\n  - b\n",
    "a.json": '{"lamps": [{"name": "north", "lit": true}, {"name": "south", "lit": null}]}\n',
    "a.xml": '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a><b c="d">&b;</b></a>\n',
    "a.yaml": "lamps:\n  - name: north\n    lit: true\n",
    "a.toml": '[lamp]\nname = "north"\nlit = [1, 2]\n',
    "a.py": "import os\n\n\nclass Lamp:\n    '''A lamp.'''\n\n"
    "    def light(self, at: int) -> bool:\n        return at > 3\n",
    "a.java": "package a;\npublic class Lamp {\n  /** Lights. */\n  public void light() { int x = 1; }\n}\n",
    "a.cpp": "#include <a>\nnamespace n { template <class T> class L { void f() { for (;;) {} } }; }\n",
    "a.cs": "namespace N { class L { public int F() => 1; } }\n",
    "a.rb": "module A\n  class L\n    def f\n      1\n    end\n  end\nend\n",
    "a.php": "<?php\nclass L { function f() { return <<<E\nx\nE; } }\n",
    "a.kt": "class L { fun f(): Int { return 1 } }\n",
    "a.swift": "struct L { func f() -> Int { 1 } }\n",
    "a.scala": "object L { def f: Int = 1 }\n",
    "a.lua": "local function f()\n  return 1\nend\n",
    "a.tsx": "export const A = (p: {a: number}) => <div>{p.a}</div>;\n",
    "a.hs": "module A where\nf :: Int -> Int\nf x = x + 1\n",
    "strange": "No suffix, only words about a lamp.\n",
    "script": "#!/usr/bin/env python3\nprint('lamp')\n",
}
_PAGE = (
    "<html><head><title>Lamps</title><style>a{}</style></head><body><nav>n</nav><h1>One</h1><p>Text &amp; "
    "more<br/>of <b>it</b></p><table><tr><td>1</td><td>2</td></tr></table><ul><li>a</li><li>b</li></ul>"
    "<pre>code\n  more</pre><blockquote>q</blockquote><script>x</script></body></html>"
)
_XHTML = '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html>' + _PAGE.replace(
    "<html>", '<html xmlns="http://www.w3.org/1999/xhtml">'
)


@functools.cache
def seeds() -> tuple[Seed, ...]:
    """Sound files of every format."""
    found = [Seed(file.name, file.read_bytes()) for file in sorted(SAMPLES.rglob("*")) if file.is_file()]
    found += _pdfs()
    found += [Seed("a.html", _PAGE.encode()), Seed("a.xhtml", _XHTML.encode())]
    found += [Seed("small.epub", epub(_XHTML, _XHTML.replace("One", "Two")))]
    found += [Seed(name, text.encode()) for name, text in _TEXTS.items()]
    found += [Seed(f"{encoding}.txt", (text * 4).encode(encoding)) for encoding, text in _SENTENCES.items()]
    return tuple(found)


# --- how it is spoiled ----------------------------------------------------------------------------------

_BYTES = (
    b"\0",
    b"\xff",
    b"\xff" * 4,
    b"\0" * 8,
    b"\x7f\xff\xff\xff",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\x1b$B",
    b"\xef\xbb\xbf",
    b"\xff\xfe\0\0",
    b"\r",
    b"\n" * 50,
    b"\xe2\x80\xae",
    b"\xcc\x81" * 40,
    b"\xf3\xa0\x81\xbf",
)
_PDF = (
    b"0 R",
    b"1 0 R",
    b"<<",
    b">>",
    b"[" * 30,
    b"(" * 30,
    b"endobj",
    b"obj",
    b"stream\r\n",
    b"endstream",
    b"/Length 99999999",
    b"/Length -1",
    b"/Kids [1 0 R 2 0 R]",
    b"/Parent 3 0 R",
    b"/Count 2147483647",
    b"/Count -5",
    b"/Type /Page",
    b"/Type /Pages",
    b"/Filter [/FlateDecode /FlateDecode]",
    b"/Filter /LZWDecode",
    b"/Filter /JBIG2Decode",
    b"/Predictor 15 /Columns 2147483647",
    b"/MediaBox [0 0 1e30 -1e30]",
    b"/Rotate 45",
    b"/OpenAction << /S /JavaScript /JS (app.alert(1)) >>",
    b"/Encrypt 5 0 R",
    b"xref\n0 99999999\n",
    b"startxref\n0\n",
    b"trailer",
    b"%%EOF",
    b"-2147483648",
    b"1e400",
    b" Tj ",
    b" q " * 200,
    b" Do ",
    b"BT /F1 1e9 Tf",
)
_MARKUP = (
    b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/hostname'>]>",
    b"<!ENTITY % p '&#37;q;'>",
    b"&b;",
    b"&#xD800;",
    b"&#0;",
    b"<![CDATA[",
    b"]]>",
    b"<!--",
    b"--",
    b"<?",
    b"<table>",
    b"</table>",
    b"<tr><td>",
    b"<li>",
    b"</li>" * 9,
    b"<pre>",
    b"<script>",
    b"<svg><style><math>",
    b"<h1>",
    b"<template>",
    b"<p " + b"a=b " * 99,
    b"<" * 99,
    b"<plaintext>",
    b"<frameset>",
)
_WRITTEN = (
    b"# ",
    b"=====\n",
    b"```\n",
    b"    ",
    b"> " * 60,
    b"- " * 60,
    b"* * *\n",
    b"|---|" * 40,
    b"[a]: <b>\n",
    b"---\n",
    b"{" * 90,
    b"(" * 90,
    b"}" * 9,
    b'"""',
    b"'",
    b"/*",
    b"//",
    b"<<<E\n",
    b"def f(:\n",
    b"class {\n",
    b"\\section{",
    b"`" * 60,
    b"!" * 60,
    b"${" * 30,
)
_TOKEN = re.compile(rb"/?[A-Za-z][A-Za-z0-9]*|-?\d+(?:\.\d+)?|<<|>>|<[^<>]*>|[\[\](){}]|&\w+;")
_NUMBERS = (
    b"0",
    b"-1",
    b"1",
    b"7",
    b"65536",
    b"2147483647",
    b"-2147483648",
    b"99999999999",
    b"1e9",
    b"0.00001",
)


def _family(name: str) -> tuple[bytes, ...]:
    if name.endswith(".pdf"):
        return _PDF
    return _MARKUP if name.endswith(("html", "xml")) else _WRITTEN


def spoil(chance: random.Random, data: bytes, words: Sequence[bytes], other: bytes) -> bytes:
    """The bytes with something wrong with them; `words` mean something in the format."""
    spoiled = bytearray(data)
    # Few are large: with all of them most time would go into cutting text.
    largest = LARGEST if chance.random() < 0.01 else USUAL
    for _ in range(chance.choice((1, 1, 2, 3, 6, 20))):
        at = chance.randrange(len(spoiled) + 1)
        match chance.randrange(12):
            case 0 if spoiled:
                del spoiled[at if chance.random() < 0.3 else -chance.randrange(1, 200) :]
            case 1:
                del spoiled[at : at + chance.choice((1, 2, 8, 100, 2000))]
            case 2:
                spoiled[at : at + 4] = chance.choice(_BYTES)
            case 3:
                spoiled[at:at] = chance.choice(_BYTES) * chance.choice((1, 1, 300))
            case 4 if at < len(spoiled):
                spoiled[at] ^= 1 << chance.randrange(8)
            case 5:
                block = bytes(spoiled[at : at + chance.choice((3, 40, 1000))])
                spoiled[at:at] = block * chance.choice((1, 5, 100, 1000))
            case 6 if other:
                start = chance.randrange(len(other))
                spoiled[at:] = other[start:]
            case 7 if other:
                start = chance.randrange(len(other))
                spoiled[at:at] = other[start : start + chance.choice((10, 500, 5000))]
            case 8 | 9:
                spoiled[at:at] = chance.choice(words) * chance.choice((1, 1, 1, 4, 500))
            case 10:
                spoiled = _retoken(chance, spoiled)
            case 11:
                block = bytes(spoiled[at : at + chance.choice((4, 64, 700))])
                goal = chance.randrange(len(spoiled) + 1)
                spoiled[goal : goal + len(block)] = block
        del spoiled[largest:]
    return bytes(spoiled)


def _retoken(chance: random.Random, data: bytearray) -> bytearray:
    """One token in the place of another, or a number changed."""
    start = chance.randrange(len(data) + 1)
    tokens = list(itertools.islice(_TOKEN.finditer(data, start), 400))
    if not tokens:
        return data
    goal = chance.choice(tokens)
    number = goal[0].lstrip(b"-")[:1].isdigit()
    new = chance.choice(_NUMBERS) if number and chance.random() < 0.6 else bytes(chance.choice(tokens)[0])
    return data[: goal.start()] + new + data[goal.end() :]


def _spoil_archive(chance: random.Random, data: bytes, other: Seed) -> bytes:
    """An archive that is sound itself, with spoiled, missing, strange or doubled entries."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        victim = chance.randrange(len(entries))
        for number, (name, content) in enumerate(entries):
            if number == victim:
                match chance.randrange(6):
                    case 0:
                        continue
                    case 1:
                        name = chance.choice(
                            ("../../a", "/etc/passwd", "a" * 3000, "p0.xhtml", "", "\u202e", "META-INF/")
                        )
                    case 2:
                        content = other.data
                    case 3:
                        content = chance.choice((b"\0" * 2_000_000, _PAGE.encode() * 500))
                    case _:
                        content = spoil(chance, content, _MARKUP, other.data)
            method = chance.choice(
                (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            )
            info = zipfile.ZipInfo(name or "x")
            archive.writestr(info, content, compress_type=method if number else zipfile.ZIP_STORED)
    whole = stream.getvalue()
    return spoil(chance, whole, _BYTES, other.data) if chance.random() < 0.2 else whole


def _spoil_stream(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """A PDF one of whose streams was unpacked, spoiled and packed again, its length made right or not."""
    streams = list(re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL))
    if not streams:
        return spoil(chance, data, _PDF, other)
    found = chance.choice(streams)
    try:
        content = zlib.decompress(found[1])
        pack: Callable[[bytes], bytes] = zlib.compress
    except zlib.error:
        content, pack = found[1], bytes
    content = pack(spoil(chance, content, _PDF, other))
    head = data[: found.start(1)]
    if chance.random() < 0.8:
        place = head.rfind(b"/Length")
        head = head[:place] + re.sub(rb"/Length \d+", b"/Length %d" % len(content), head[place:], count=1)
    return head + content + data[found.end(1) :]


def make(seed: int, number: int) -> Seed:
    """File `number` of a run."""
    chance = random.Random(f"{seed} {number}")
    sound = seeds()
    # Formats with a parser of their own are as likely as the many of plain text.
    group = chance.randrange(4)
    groups: tuple[Callable[[Seed], bool], ...] = (
        lambda file: file.name.endswith(".pdf"),
        lambda file: file.name.endswith(".epub"),
        lambda file: file.name.endswith(("html", "md", ".xml", ".rst", ".tex", ".org")),
        lambda file: True,
    )
    chosen = chance.choice([file for file in sound if groups[group](file)])
    other = chance.choice(sound)
    name, data = chosen
    if chance.random() < 0.03:
        name = other.name  # what it is not
    if chosen.name.endswith(".epub") and chance.random() < 0.7:
        return Seed(name, _spoil_archive(chance, data, other))
    if chosen.name.endswith(".pdf") and chance.random() < 0.4:
        return Seed(name, _spoil_stream(chance, data, other.data))
    return Seed(name, spoil(chance, data, _family(name), other.data))


# --- what must come of it -------------------------------------------------------------------------------


def sound(chunks: Sequence[Chunk], document: Document | None = None) -> str:
    """What is wrong with the chunks of a file (and of the document they are said to be of); or nothing."""
    last = -1
    for piece in chunks:
        if not piece.text.strip():
            return "a chunk is empty"
        if piece.end - piece.start != len(piece.text) or piece.start <= last:
            return (
                f"a chunk of {len(piece.text)} characters goes from {piece.start} to {piece.end} after {last}"
            )
        if document is not None and document.text[piece.start : piece.end] != piece.text:
            return f"the text at {piece.start} is not the chunk's"
        last = piece.start
        try:
            piece.embed_text.encode()
        except UnicodeEncodeError:
            return "a chunk holds half a character"
    return ""


def understandable(error: FileError) -> str:
    """What is wrong with the words of an error; or nothing."""
    said = f"{error.title} {error.message}"
    if not error.title or len(said) > 600 or not said.isprintable():
        return f"nobody understands {said[:300]!r}"
    return "" if error.message.endswith((".", "?")) else f"no sentence: {error.message!r}"


def throw_here(file: Seed, counts: Counts, max_tokens: int) -> tuple[str, str]:
    """Read a file in this process: the verdict, and what is wrong (or nothing)."""
    try:
        document = extract(Path(file.name), file.data)
    except FileError as error:
        return f"{error.kind}: {error.title}", understandable(error)
    chunks = chunk(document, counts=counts, max_tokens=max_tokens)
    wrong = sound(chunks, document)
    if not wrong and any(piece.tokens > max_tokens for piece in chunks):
        wrong = "a chunk has too many tokens"
    return "indexed", wrong


@dataclass
class Figures:
    """What came of it."""

    verdicts: Counter[str] = field(default_factory=Counter)
    by_kind: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    files: int = 0
    previews: int = 0
    chunks: int = 0
    children: int = 0
    slowest: tuple[float, int] = (0.0, -1)
    largest: tuple[int, int] = (0, -1)  # KiB a child ever held in memory
    service: int = 0  # KiB that this process came to hold in addition


class _Pool(WorkerPool):
    """Tells of each child that is lost, also where the file is read again and the second try is well."""

    def __init__(self, lost: Callable[[str], None], **more: Any) -> None:
        super().__init__(**more)
        self._tell = lost

    def _ask_once(self, lane: Any, path: Path, job: Any) -> Any:
        try:
            answer = super()._ask_once(lane, path, job)
        except CrashedError as error:
            self._tell(f"crashed: {error.message.partition('(')[2].partition(')')[0]}")
            raise
        except FileError as error:
            if error.title == "Took too long":
                self._tell("took too long")
            raise
        if isinstance(answer, Failed) and answer.cause == "memory":
            self._tell("memory")
        return answer


class Thrower:
    """Hands files to real children and keeps the figures."""

    def __init__(
        self, folder: Path, seed: int, *, size: int = 2, keep: Path | None = None, **limits: Any
    ) -> None:
        from indexer.embed.load import bundled_info

        info = bundled_info()
        self.figures = Figures()
        self._folder, self._seed, self._keep = folder, seed, keep
        self._max_tokens = info.max_tokens
        self._lock = threading.Lock()
        self._now = threading.local()
        self._pids: set[int] = set()
        self.pool = _Pool(
            self._lost,
            size=size,
            tokenizer=info.tokenizer,
            max_tokens=info.max_tokens,
            settings=Settings(**limits),
        )

    def _lost(self, why: str) -> None:
        number = self._now.number
        with self._lock:
            self.figures.lost[f"{why} ({Path(self._now.name).suffix})"] += 1
        self._save(number)

    def _save(self, number: int) -> None:
        if self._keep is not None:
            file = make(self._seed, number)
            (self._keep / f"{self._seed}-{number}-{file.name}").write_bytes(file.data)

    def _find(self, number: int, name: str, what: object) -> None:
        with self._lock:
            if len(self.figures.findings) < 50:
                self.figures.findings.append(f"{number} ({name}): {what}")
        self._save(number)

    def throw(self, number: int) -> None:
        """File `number`: prepare it, check what came of it, and for some look at a preview."""
        file = make(self._seed, number)
        self._now.number, self._now.name = number, file.name
        folder = self._folder / str(number)
        folder.mkdir()
        path = folder / file.name
        path.write_bytes(file.data)
        began = time.monotonic()
        try:
            verdict, wrong = self._attempt(path, file, number)
        except Exception:  # noqa: BLE001  anything else is what is looked for
            verdict, wrong = "finding", traceback.format_exc()[-600:]
        took = time.monotonic() - began
        shutil.rmtree(folder)
        memory = self._memory()
        with self._lock:
            figures = self.figures
            figures.files += 1
            figures.verdicts[verdict] += 1
            figures.by_kind[f"{path.suffix or 'none'} {verdict.partition(':')[0]}"] += 1
            figures.slowest = max(figures.slowest, (took, number))
            if memory > figures.largest[0]:
                figures.largest = memory, number
        if wrong:
            self._find(number, file.name, wrong)

    def _attempt(self, path: Path, file: Seed, number: int) -> tuple[str, str]:
        try:
            prepared = self.pool.prepare(path)
        except FileError as error:
            return f"{error.kind}: {error.title}", understandable(error)
        with self._lock:
            self.figures.chunks += len(prepared.chunks)
        if wrong := sound(prepared.chunks):
            return "indexed", wrong
        if any(piece.tokens > self._max_tokens for piece in prepared.chunks):
            return "indexed", "a chunk has too many tokens"
        if number % 4 == 0 and len(prepared.chunks):
            return "indexed", self._preview(path, prepared, number)
        if number % 4 == 1:
            if self.pool.hash(path).key != prepared.key:
                return "indexed", "another content key"
            # A second look, here, at what a child could read.
            return "indexed", sound(prepared.chunks, extract(Path(file.name), file.data))
        return "indexed", ""

    def _preview(self, path: Path, prepared: Prepared, number: int) -> str:
        piece = prepared.chunks[number % len(prepared.chunks)]
        request = GetPreview(
            id=1,
            path=str(path),
            start=piece.start,
            end=piece.end,
            page=piece.locator.page,
            rects=piece.locator.rects,
        )
        with self._lock:
            self.figures.previews += 1
        try:
            shown = self.pool.preview(request)
        except FileError as error:  # a page may be past drawing
            return "" if prepared.media == "pdf" else f"no preview: {error.message}"
        if prepared.media == "pdf":
            return "" if shown.png.startswith(b"\x89PNG") else "no picture"
        return "" if shown.text[shown.start : shown.end] == piece.text else "the preview marks something else"

    def _memory(self) -> int:
        """KiB, the most that a child now alive has held."""
        most = 0
        for child in [*self.pool._indexing.children, *self.pool._previews.children]:
            try:
                status = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii")
            except OSError:
                continue
            with self._lock:
                self._pids.add(child.pid)
                self.figures.children = len(self._pids)
            if found := re.search(r"VmHWM:\s+(\d+)", status):
                most = max(most, int(found[1]))
        return most


def run(
    numbers: Sequence[int],
    seed: int,
    folder: Path,
    *,
    size: int = 2,
    tell: Callable[[str], object],
    **more: Any,
) -> Figures:
    """Throw these files at real children, `size` at a time; `more` goes to `Thrower`."""
    seeds()
    thrower = Thrower(folder, seed, size=size, **more)
    began = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with ThreadPoolExecutor(size) as threads:
            for done, _ in enumerate(threads.map(thrower.throw, numbers), start=1):
                if done % 1000 == 0:
                    tell(f"{done:,} in {time.monotonic() - began:.0f} s, lost {dict(thrower.figures.lost)}\n")
    finally:
        thrower.pool.close()
    thrower.figures.service = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return thrower.figures


def main() -> int:
    """Throw files and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.files", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, help="this file alone")
    parser.add_argument("--keep", type=Path, help="where files go that ended a process or were a finding")
    options = parser.parse_args()
    tell = sys.stdout.write
    began = time.monotonic()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    numbers = range(options.count) if options.only is None else [options.only]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        figures = run(
            numbers,
            options.seed,
            Path(folder),
            size=options.workers,
            tell=sys.stderr.write,
            keep=options.keep,
        )
    for verdict, count in figures.verdicts.most_common():
        tell(f"{count:8,} {verdict}\n")
    suffixes = sorted({key.partition(" ")[0] for key in figures.by_kind})
    tell("by suffix: indexed, skipped, failed\n")
    for suffix in suffixes:
        counts = [figures.by_kind[f"{suffix} {verdict}"] for verdict in ("indexed", "skipped", "failed")]
        tell(f"  {suffix:8} {counts[0]:7,} {counts[1]:7,} {counts[2]:7,}\n")
    tell(f"{figures.files:,} files in {time.monotonic() - began:.0f} s, {figures.chunks:,} chunks, ")
    tell(f"{figures.previews:,} previews, {figures.children} processes\n")
    tell(f"slowest {figures.slowest[0]:.1f} s (file {figures.slowest[1]}); ")
    tell(f"largest process {figures.largest[0] >> 10} MiB (file {figures.largest[1]}); ")
    tell(f"this one grew by {figures.service >> 10} MiB\n")
    tell(f"processes lost: {dict(figures.lost) or 'none'}\n{len(figures.findings)} findings\n")
    for finding in figures.findings:
        tell(f"  {finding}\n")
    return 1 if figures.findings else 0


if __name__ == "__main__":
    sys.exit(main())
