"""Files that were made to do harm, and what has to become of each.

    python -m tests.hostile

writes them, has a service index them and says what became of each that should have ended otherwise.

`write` lays them out in a folder; `tests/integration/test_hostile.py` gives that to a real service. Next
to the folder lies what no file in it may bring into the index: `MARKER`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil

from indexer.api import local_path
from tests import sockets
from tests.fuzz.files import book, epub

MARKER = "xenolithmarker"
"""Stands in files outside, and nowhere else."""
TEXT = "The keeper of the lighthouse trims the lamp at dusk and writes the weather down."

UNSUPPORTED, TOO_LARGE, NO_TEXT = "Not a supported format", "Too large", "No text"
NO_FILE = "Not a plain file"
SLOW = ("Took too long", "Needs too much memory")


class Hostile(NamedTuple):
    """A file and how it has to end.

    Attributes:
        path: Below the folder.
        ends: ``out`` for what is neither indexed nor listed: gone, in a folder that is, or a link inside.
        titles: Of the problem, one of these.
    """

    path: str
    ends: Literal["indexed", "skipped", "failed", "out"]
    titles: tuple[str, ...] = ()


def secrets(outside: Path) -> None:
    """What lies outside of the folder."""
    outside.mkdir()
    (outside / "secret.txt").write_text(f"A {MARKER} that nobody asked for.\n", encoding="utf-8")
    (outside / "secret.xhtml").write_text(_page(f"<p>{MARKER}</p>"), encoding="utf-8")
    (outside / "evil.dtd").write_text(
        f"<!ENTITY % all \"<!ENTITY send SYSTEM '{(outside / 'secret.txt').as_uri()}'>\">%all;",
        encoding="utf-8",
    )


def write(folder: Path, outside: Path, url: str, *, deep: int = 100_000) -> list[Hostile]:
    """Make them all.

    Args:
        folder: To be indexed; it is made.
        outside: What `secrets` made.
        url: A server that must hear nothing.
        deep: How many times what is nested or repeated is.
    """
    folder.mkdir()
    made: list[Hostile] = []
    for part in (_pdfs, _books, _markup, _texts, _archives):
        for (name, ends, *titles), data in part(outside, url, deep):
            (folder / name).write_bytes(data)
            made.append(Hostile(name, ends, tuple(titles)))
    made += _names(folder)
    made += _kinds(folder, outside)
    return made


Made = Iterable[tuple[tuple[Any, ...], bytes]]


def _page(body: str, before: str = "") -> str:
    return (
        f'<?xml version="1.0"?>{before}<html xmlns="http://www.w3.org/1999/xhtml"><body>{body}</body></html>'
    )


# --- PDF ------------------------------------------------------------------------------------------------


def pdf(*objects: bytes) -> bytes:
    """A PDF of these objects, the first its catalog; nothing is checked."""
    body, places = bytearray(b"%PDF-1.7\n"), []
    for number, content in enumerate(objects, start=1):
        places.append(len(body))
        body += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    start = len(body)
    body += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    body += b"".join(b"%010d 00000 n \n" % place for place in places)
    body += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(body)


def _stream(content: bytes, more: bytes = b"") -> bytes:
    return b"<< /Length %d %b >>\nstream\n%b\nendstream" % (len(content), more, content)


_FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
_SHOWN = b"BT /F1 12 Tf 72 720 Td (%b) Tj ET" % TEXT.encode()


def one_page(content: bytes, *, catalog: bytes = b"", more: bytes = b"", page: bytes = b"") -> bytes:
    """A PDF of one page with this stream of content."""
    return pdf(
        b"<< /Type /Catalog /Pages 2 0 R %b >>" % catalog,
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> /XObject << /X 6 0 R >> >> %b >>" % page,
        _stream(content, more),
        _FONT,
        # A form that draws itself, twice.
        _stream(
            b"/X Do /X Do",
            b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X 6 0 R >> >>",
        ),
    )


def many_pages(count: int, content: bytes = _SHOWN) -> bytes:
    """A PDF of so many pages with the same content."""
    kids = b" ".join(b"%d 0 R" % (5 + number) for number in range(count))
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 3 0 R "
    page += b"/Resources << /Font << /F1 4 0 R >> >> >>"
    return pdf(
        b"<< /Type /Catalog /Pages 2 0 R /OpenAction << /S /JavaScript /JS (app.alert\\(1\\)) >> >>",
        b"<< /Type /Pages /Kids [%b] /Count %d >>" % (kids, count),
        _stream(content),
        _FONT,
        *([page] * count),
    )


def _bomb(size: int, times: int = 1) -> tuple[bytes, bytes]:
    """Content of `size` bytes, packed `times` times, and its filters."""
    packer = zlib.compressobj(9)
    block = b"0 0 1 1 re f\n" * 80_000
    data = b"".join(packer.compress(block) for _ in range(size // len(block))) + packer.flush()
    for _ in range(times - 1):
        data = zlib.compress(data, 9)
    return data, b"/Filter [%b]" % (b"/FlateDecode " * times)


def _pdfs(outside: Path, url: str, deep: int) -> Made:
    pymupdf: Any = importlib.import_module("pymupdf")
    sound = one_page(_SHOWN)
    for name, user, ends in (
        ("locked", "secret", ("failed", "Protected by a password")),
        ("unlocked", "", ("indexed",)),
    ):
        opened = pymupdf.open(stream=sound, filetype="pdf")
        locked = opened.tobytes(encryption=pymupdf.PDF_ENCRYPT_AES_256, owner_pw="owner", user_pw=user)
        yield (f"{name}.pdf", *ends), locked
    yield ("truncated.pdf", "failed", "The PDF is damaged"), sound[:300]
    yield ("head.pdf", "failed", "The PDF is damaged"), b"%PDF-1.7\n"
    yield ("not.pdf", "failed", "Not a PDF"), b"MZ\x90\0" * 100
    yield ("nothing.pdf", "skipped", "Empty"), b""
    data, filters = _bomb(1 << 30, 2)
    yield ("bomb.pdf", "failed", *SLOW), one_page(data, more=filters)
    yield ("forms.pdf", "indexed"), one_page(_SHOWN + b" /X Do")
    loop = b"<< /Type /Pages /Parent 2 0 R /Kids [2 0 R 2 0 R 3 0 R] /Count 2147483647 >>"
    page = b"<< /Type /Page /Parent 3 0 R /MediaBox [0 0 1e38 1e38] /Contents 3 0 R >>"
    yield (
        ("tree.pdf", "failed", "The PDF is damaged"),
        pdf(b"<< /Type /Catalog /Pages 2 0 R >>", loop, page),
    )
    chain = (b"%d 0 R" % (number + 1) for number in range(2, 5000))
    yield (
        ("chain.pdf", "failed", "The PDF is damaged"),
        pdf(b"<< /Type /Catalog /Pages 2 0 R >>", *chain, b"2 0 R"),
    )
    acts = b"/OpenAction << /S /JavaScript /JS (app.launchURL\\('%b'\\)) >> " % url.encode()
    acts += b"/AA << /WC << /S /Launch /F (/bin/sh) >> >> "
    acts += b"/Names << /EmbeddedFiles << /Names [(a) << /F (%b) >>] >> >>"
    yield (
        ("javascript.pdf", "indexed"),
        one_page(
            _SHOWN,
            catalog=acts.replace(b"%b", os.fsencode(outside / "secret.txt")),
            page=b"/AA << /O << /S /URI /URI (%b) >> >>" % url.encode(),
        ),
    )
    yield ("deep.pdf", "failed", "The PDF is damaged"), pdf(b"[" * 200_000)


# --- EPUB, archives -------------------------------------------------------------------------------------


def _books(outside: Path, url: str, deep: int) -> Made:
    fine = _page(f"<h1>One</h1><p>{TEXT}</p>")
    secret, near = (outside / "secret.txt").as_uri(), os.path.relpath(outside, "/")
    entity = f'<!DOCTYPE html [<!ENTITY x SYSTEM "{secret}"><!ENTITY y SYSTEM "{url}/y">]>'
    yield (
        ("bomb.epub", "failed", "Unpacks to too much"),
        epub(fine, "<p>" + "a" * (80 << 20)),
    )
    yield (
        ("bombs.epub", "failed", "Unpacks to too much"),
        epub(*[f"<!--{'a' * (20 << 20)}--><p>{number}" for number in range(14)]),
    )
    yield ("crowd.epub", "failed", "Unpacks to too much"), book({f"{n}": b"" for n in range(20_500)})
    up = "../" * 40
    package = (
        '<package><manifest><item id="a" media-type="text/html" href="/etc/passwd"/>'
        f'<item id="b" media-type="text/html" href="{up}{near}/secret.xhtml"/>'
        f'<item id="c" media-type="text/html" href="{(outside / "secret.xhtml").as_uri()}"/>'
        f'<item id="d" media-type="text/html" href="{url}/d"/></manifest>'
        '<spine><itemref idref="a"/><itemref idref="b"/><itemref idref="c"/>'
        '<itemref idref="d"/></spine></package>'
    )
    container = b'<container><rootfile full-path="b.opf"/></container>'
    yield (
        ("outward.epub", "failed", "The book is damaged"),
        book({"META-INF/container.xml": container, "b.opf": package.encode()}),
    )
    yield (
        ("climbing.epub", "indexed"),
        epub(fine, **{"../../climbed.txt": b"x", "/tmp/climbed.txt": b"x", "a\\..\\b": b"x"}),
    )
    yield (
        ("nested.epub", "indexed"),
        epub(fine, **{"inner.epub": epub(fine), "bomb.zip": book({"a": bytes(1 << 24)})}),
    )
    yield ("entity.epub", "indexed"), epub(_page(f"<p>{TEXT} &x; &y;</p>", entity))
    described = (
        f'<?xml version="1.0"?>{entity.replace("html", "package")}<package><metadata>'
        "<title>&x;&y;</title></metadata>"
        '<manifest><item id="a" media-type="text/html" href="a.html"/></manifest>'
        '<spine><itemref idref="a"/></spine></package>'
    )
    yield (
        ("described.epub", "indexed"),
        book({"META-INF/container.xml": container, "b.opf": described.encode(), "a.html": TEXT.encode()}),
    )
    laughing = _laughs("container").replace("</container>", '<rootfile full-path="b.opf"/></container>')
    yield (
        ("laughing.epub", "failed", "The book is damaged"),
        book(
            {
                "META-INF/container.xml": laughing.encode(),
                "b.opf": described.encode(),
                "a.html": TEXT.encode(),
            }
        ),
    )
    broken = bytearray(epub(fine))
    broken[broken.rfind(b"PK\x01\x02") + 16] ^= 0x7F
    yield ("sum.epub", "failed", "The book is damaged"), bytes(broken)
    yield ("cut.epub", "failed", "The book cannot be opened"), epub(fine)[:-40]


def _archives(outside: Path, url: str, deep: int) -> Made:
    inner = book({"a.txt": bytes(1 << 20)})
    for _ in range(6):
        inner = book({f"{number}.zip": inner for number in range(4)})
    yield ("nested.zip", "skipped", UNSUPPORTED), inner
    macros = book({"[Content_Types].xml": b"<Types/>", "word/vbaProject.bin": b"Sub AutoOpen()\nShell"})
    for suffix in ("docm", "docx", "xlsm", "pptm", "doc", "xls"):
        yield (f"macros.{suffix}", "skipped", UNSUPPORTED), macros
    yield (
        ("image.svg", "skipped", UNSUPPORTED),
        f'<svg><script href="{url}/s"/><image href="{url}/i"/></svg>'.encode(),
    )


# --- HTML and XML -------------------------------------------------------------------------------------------


def _laughs(root: str) -> str:
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    return f'<?xml version="1.0"?><!DOCTYPE {root} [<!ENTITY a0 "ha">{entities}]><{root}>&a11;</{root}>'


def _markup(outside: Path, url: str, deep: int) -> Made:
    secret, dtd = (outside / "secret.txt").as_uri(), (outside / "evil.dtd").as_uri()
    remote = (
        f'<html><head><meta http-equiv="refresh" content="0; url={url}/m"><base href="{url}/">'
        f'<link rel="stylesheet" href="{url}/c"><script src="{url}/s"></script></head>'
        '<body onload="alert(1)">'
        f'<p>{TEXT}</p><img src="{url}/i.png"><iframe src="{secret}"></iframe>'
        f'<iframe srcdoc="<img src={url}/j>"></iframe><object data="{secret}"></object>'
        f'<embed src="{url}/e"><svg><image href="{url}/k"/>'
        "</svg></body>"
    )
    yield ("remote.html", "indexed"), remote.encode()
    kinds = {
        "xxe": f'<!DOCTYPE html [<!ENTITY x SYSTEM "{secret}">]>',
        "xxe-http": f'<!DOCTYPE html [<!ENTITY x SYSTEM "{url}/x">]>',
        "external": f'<!DOCTYPE html SYSTEM "{dtd}">',
        "external-http": f'<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0//EN" "{url}/xhtml1-strict.dtd">',
        "twice": f'<!DOCTYPE a [<!ENTITY x "]>">]><!DOCTYPE html [<!ENTITY x SYSTEM "{secret}">]>',
        "parameter": f'<!DOCTYPE html [<!ENTITY % p SYSTEM "{dtd}"> %p; <!ENTITY x "&send;">]>',
        "stylesheet": f'<?xml-stylesheet href="{url}/x.xsl" type="text/xsl"?>',
    }
    included = f'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" parse="text" href="{secret}"/>'
    for name, before in kinds.items():
        page = _page(f"<p>{TEXT}</p><p>&x;&send;</p>{included}", before)
        yield (f"{name}.xhtml", "indexed"), page.encode()
        yield (f"{name}.html", "indexed"), page.encode("utf-16")
        yield (f"{name}.xml", "indexed"), page.encode()
    yield ("laughs.xhtml", "indexed"), _laughs("html").encode()
    yield ("laughs.xml", "indexed"), _laughs("lolz").encode()
    blown = f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "{"a" * 50_000}">]><a>{"&a;" * 50_000}</a>'
    yield ("blown.xhtml", "indexed"), blown.encode()
    yield (
        ("doctypes.xhtml", "indexed"),
        f'<?xml version="1.0"?>{"<!DOCTYPE " + "a" * (3 * deep)}<p>{TEXT}'.encode(),
    )
    for tag in ("div", "table><tr><td", "ul><li", "b", "blockquote"):
        name = tag.partition(">")[0]
        yield (f"deep-{name}.html", "indexed"), (f"<{tag}>" * (deep // 2) + TEXT).encode()
    yield ("deep.xhtml", "indexed"), _page("<p>" * (deep // 2) + TEXT + "</p>" * (deep // 2)).encode()
    yield ("attributes.html", "indexed"), ("<p " + "a=b " * (2 * deep) + f">{TEXT}</p>").encode()


# --- text and code ------------------------------------------------------------------------------------------


def _texts(outside: Path, url: str, deep: int) -> Made:
    yield ("deep.json", "indexed"), b"[" * deep + b"]" * deep
    yield ("deep.py", "indexed"), b"(" * deep
    yield ("deep.c", "indexed"), b"{" * deep
    yield ("deep.js", "indexed"), b"(function(){\n" * (deep // 5)
    yield ("deep.java", "indexed"), b"class A {\n" * (deep // 5)
    yield ("deep.rb", "indexed"), b"class A\n" * (deep // 5)
    yield ("deep.md", "indexed"), b"> " * (deep // 5) + TEXT.encode()
    yield ("brackets.md", "indexed"), b"# " + b"[" * deep + b"\n\n" + TEXT.encode()
    yield ("emphasis.md", "indexed"), b"# " + b"*a" * deep + b"\n\n" + TEXT.encode()
    yield ("front.md", "indexed"), b"---\ntitle: x" + b" " * deep + b"y\n---\n" + TEXT.encode()
    yield ("line.txt", "indexed"), b"a" * (10 * deep)
    yield ("words.txt", "indexed"), b"lamp " * deep
    yield ("tiny.txt", "indexed"), b"a\n\n" * (deep // 2)
    yield ("combining.txt", "indexed"), "\u0301".encode() * (deep // 3)
    yield ("joined.txt", "indexed"), "👩\u200d".encode() * (deep // 5)
    yield ("bidirectional.txt", "indexed"), ("\u202e\u2066" * (deep // 10) + TEXT).encode()
    yield ("surrogates.txt", "indexed"), b"\xed\xa0\x80\xed\xbf\xbf" * (deep // 10)
    yield ("nul.txt", "skipped", "Not a text file"), b"\0" * 100_000
    yield ("nuls.txt", "indexed"), b"".join(b"%b\0\n" % TEXT.encode() for _ in range(3))
    yield ("marks.txt", "skipped", NO_TEXT), b"\xef\xbb\xbf"
    yield ("many-marks.txt", "indexed"), b"\xef\xbb\xbf" * (deep // 10)
    yield ("binary", "skipped", "Not a text file"), bytes(range(256)) * 400
    yield ("minified.js", "skipped", "Minified code"), b"a=1;" * 20_000


# --- names and things that are no files -----------------------------------------------------------------


def _names(folder: Path) -> list[Hostile]:
    made = []
    names = [
        "new\nline.txt",
        "\u202egpj.txt",
        "tab\tand\x1b[31mred.txt",
        "quote'\"`$(id);&.txt",
        " space .txt",
        "-rf.txt",
        "*?[a].txt",
        "a" * 251 + ".txt",
        "cafe\u0301.txt",
        "caf\u00e9.txt",
    ]
    if sys.platform == "linux":
        names += [os.fsdecode(b"caf\xe9.txt"), os.fsdecode(b"\xff\xfe\xf0\x9f.md")]
        made.append(Hostile(os.fsdecode(b"broken\xff.pdf"), "failed", ("Not a PDF",)))
        made.append(Hostile(os.fsdecode(b"sub\xe9/inner\xff.txt"), "indexed"))
        made.append(Hostile(os.fsdecode(b"office\xff.\xe9docx"), "indexed"))
    made.append(Hostile("evil\u202e\nname.docx", "skipped", (UNSUPPORTED,)))
    made += [Hostile(name, "indexed") for name in names]
    for number, item in enumerate(made):
        file = folder / item.path
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{TEXT} {number}\n", encoding="utf-8")
    return made


def _deep(folder: Path, length: int, text: str) -> str:
    """A file whose whole path has so many bytes; below the folder."""
    room = length - len(os.fsencode(folder)) - len("/note.txt")
    parts = ["d" * 199] * (room // 200)
    parts.append("d" * max(room % 200 - 1, 1))
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for part in parts:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, dir_fd=here)
        inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    file = os.open("note.txt", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    os.write(file, text.encode())
    os.close(file)
    os.close(here)
    return "/".join((*parts, "note.txt"))


def _kinds(folder: Path, outside: Path) -> list[Hostile]:
    made = []
    for name in ("sparse.txt", "sparse.pdf", "sparse.epub"):
        with (folder / name).open("wb") as file:
            file.truncate(10 << 30)
        made.append(Hostile(name, "skipped", (TOO_LARGE,)))
    (folder / "linked.txt").write_text(f"{TEXT} Twice.\n", encoding="utf-8")
    (folder / "again.txt").hardlink_to(folder / "linked.txt")
    made += [Hostile("linked.txt", "indexed"), Hostile("again.txt", "indexed")]
    for name, goal in (
        ("loop", "."),
        ("self.txt", "self.txt"),
        ("leaves.txt", str(outside / "secret.txt")),
        ("leaves", str(outside)),
        ("missing.txt", "nowhere"),
        ("inside.txt", "linked.txt"),
        ("proc.txt", "/proc/self/environ"),
    ):
        (folder / name).symlink_to(goal)
        out = goal.startswith("/")
        made.append(Hostile(name, "skipped", ("A link",)) if out else Hostile(name, "out"))
    os.mkfifo(folder / "fifo.txt")
    made.append(Hostile("fifo.txt", "skipped", (NO_FILE,)))
    with socket.socket(socket.AF_UNIX) as bound:
        here = Path.cwd()
        os.chdir(folder)  # a socket's name has to be short
        try:
            bound.bind("socket.txt")
        finally:
            os.chdir(here)
    made.append(Hostile("socket.txt", "skipped", (NO_FILE,)))
    if os.geteuid() == 0:
        try:
            os.mknod(folder / "device.txt", stat.S_IFCHR | 0o600, os.makedev(1, 5))  # zeros without an end
            made.append(Hostile("device.txt", "skipped", (NO_FILE,)))
        except PermissionError:
            pass
    else:
        (folder / "closed.txt").write_text(TEXT, encoding="utf-8")
        (folder / "closed.txt").chmod(0)
        made.append(Hostile("closed.txt", "failed", ("No permission",)))
    if sys.platform == "linux":
        made.append(Hostile(_deep(folder, 4090, f"{TEXT} Deep.\n"), "indexed"))
        deeper = Path(_deep(folder, 4600, f"{TEXT} Deeper.\n"))
        made.append(Hostile(str(deeper), "out"))
        # The first folder that cannot be looked into stands for all that is in it.
        far = [above for above in deeper.parents if len(os.fsencode(folder / above)) > 4095]
        made.append(Hostile(str(far[-1]), "skipped", ("Path too long",)))
    return made


# --- through a service --------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 10.0
LIMITS = {"max_file_mb": 16, "extraction_deadline_s": DEADLINE_S, "extraction_workers": 2}


@dataclass
class Ended:
    """What became of it all.

    Attributes:
        files: By path below the folder: ``indexed``, or the problem's kind, title and message.
        refused: Uses of sockets other than the service's own; None where they cannot be watched.
        heard: What reached the server that files refer to.
        leaked: Files of the data folder in which the marker stands.
        found: Those in which a word of the files stands.
        service, child: Most MiB that the service, and any process of it, have held.
    """

    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    made: list[Hostile] = field(default_factory=list)
    refused: list[sockets.Attempt] | None = None
    heard: list[bytes] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    service: int = 0
    child: int = 0
    seconds: float = 0.0

    def wrong(self) -> list[str]:
        """What ended otherwise than it has to."""
        found = []
        for file in self.made:
            end = self.files.get(file.path, ("out",))
            if end[0] != file.ends or (file.titles and end[1:2] not in [(title,) for title in file.titles]):
                found.append(f"{file.path[:100]!r}: {end} instead of {file[1:]}")
        known = {file.path for file in self.made}
        found += [
            f"{path[:100]!r}: {end}, of which nobody knew"
            for path, end in self.files.items()
            if path not in known
        ]
        return found


def inside(base: Path, wanted: int) -> dict[str, Any]:
    """Have everything in `base` indexed while some files do not keep still; run where sockets are watched."""
    import msgspec

    from indexer.client import IndexerClient

    data, folder = base / "data", base / "files"
    with IndexerClient(data) as client:
        client.put_settings(msgspec.structs.replace(client.settings(), **LIMITS))
        service = psutil.Process(client.pid)
        done = threading.Event()
        most = {"service": 0, "child": 0}

        def watch() -> None:
            while not done.wait(0.2):
                with contextlib.suppress(psutil.Error):
                    most["service"] = max(most["service"], service.memory_info().rss >> 20)
                    for child in service.children():
                        with contextlib.suppress(psutil.Error):
                            most["child"] = max(most["child"], child.memory_info().rss >> 20)

        watcher = threading.Thread(target=watch)
        watcher.start()
        restless = threading.Thread(target=_restless, args=(folder, base / "outside", done))
        restless.start()
        try:
            client.add_folder(folder)
            with IndexerClient(data) as watching:
                for status in watching.watch():
                    there = status.files + status.failed + status.skipped >= wanted
                    if status.state == "watching" and there and not restless.is_alive():
                        break
            problems = client.problems(limit=500).problems
        finally:
            done.set()
            watcher.join()
            client.stop()
    listed = {problem.path: (problem.kind, problem.title, problem.message) for problem in problems}
    return {"problems": listed, **most}


def _restless(folder: Path, outside: Path, done: threading.Event) -> None:
    """Write, grow, shrink, remove and swap files for some seconds, and leave them in a known state."""
    swapped = folder / "swapped"
    for _ in range(20):
        (folder / "growing.txt").write_text(TEXT * 4000, encoding="utf-8")
        (folder / "vanishing.txt").write_text(TEXT, encoding="utf-8")
        with (folder / "growing.txt").open("a", encoding="utf-8") as file:
            file.write(TEXT * 100)
        (folder / "growing.txt").write_text(TEXT, encoding="utf-8")
        (folder / "vanishing.txt").unlink()
        swapped.mkdir()
        (swapped / "secret.txt").write_text(TEXT, encoding="utf-8")
        (swapped / "secret.txt").unlink()
        swapped.rmdir()
        swapped.symlink_to(outside)
        if done.wait(0.1):
            return
        swapped.unlink()
    swapped.symlink_to(outside)
    (folder / "growing.txt").write_text(f"{TEXT} At rest.\n", encoding="utf-8")


def run(base: Path, *, deep: int = 100_000, timeout: float = 300) -> Ended:
    """Write them below `base`, have them indexed, and see."""
    from tests.end2end.private import Stranger

    began = time.monotonic()
    stranger = Stranger()
    ended = Ended()
    secrets(base / "outside")
    ended.made = write(base / "files", base / "outside", stranger.url, deep=deep)
    ended.made += [
        Hostile("growing.txt", "indexed"),
        Hostile("vanishing.txt", "out"),
        Hostile("swapped", "skipped", ("A link",)),
    ]
    wanted = sum(file.ends != "out" for file in ended.made)
    command = [sys.executable, "-m", "tests.hostile", "--inside", str(base), str(wanted)]
    said = base / "said.json"
    try:
        with said.open("wb") as output:
            more: dict[str, Any] = {"stdout": output, "cwd": ROOT}
            if sockets.unavailable():
                status = subprocess.run(command, timeout=timeout, check=False, **more).returncode
            else:
                own = str(base / "data" / "service.sock")
                status, attempts = sockets.run(
                    command, lambda use: use.address == own, timeout=timeout, **more
                )
                ended.refused = [attempt for attempt in attempts if not attempt.allowed]
    finally:
        stranger.close()
    if status:
        raise RuntimeError(f"it ended with {status}")
    ended.heard = stranger.heard
    result = json.loads(said.read_bytes())
    ended.service, ended.child = result["service"], result["child"]
    problems = {os.fsencode(local_path(path)): words for path, words in result["problems"].items()}
    top = os.fsencode(base / "files") + b"/"
    with contextlib.closing(sqlite3.connect(base / "data" / "catalog.sqlite")) as catalog:
        for path, state in catalog.execute("SELECT path, status FROM files"):
            name = os.fsdecode(path.removeprefix(top))
            words = problems.get(path, ())
            ended.files[name] = (state, *words[1:])
    ended.leaked = [str(file) for file in _holding(base / "data", MARKER.encode())]
    ended.found = [str(file) for file in _holding(base / "data", b"lighthouse")]
    ended.seconds = time.monotonic() - began
    return ended


def _holding(folder: Path, word: bytes) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and word in file.read_bytes():
            yield file


def main() -> int:
    """Run it and tell."""
    if sys.argv[1:2] == ["--inside"]:
        sys.stdout.write(json.dumps(inside(Path(sys.argv[2]), int(sys.argv[3]))))
        return 0
    with tempfile.TemporaryDirectory(prefix="hostile-") as base:
        ended = run(Path(base))
    tell = sys.stdout.write
    tell(f"{len(ended.made)} files in {ended.seconds:.0f} s; the service held {ended.service} MiB, ")
    tell(f"a process that reads {ended.child} MiB\n")
    counts: dict[tuple[str, ...], int] = {}
    for end in ended.files.values():
        counts[end[:2]] = counts.get(end[:2], 0) + 1
    for words, count in sorted(counts.items()):
        tell(f"{count:5} {': '.join(words)}\n")
    wrong = (
        ended.wrong()
        + [f"leaked into {name}" for name in ended.leaked]
        + [str(use) for use in ended.refused or ()]
    )
    for line in (*wrong, *map(repr, ended.heard)):
        tell(f"  {line!r}\n")
    return 1 if wrong or ended.heard else 0


if __name__ == "__main__":
    sys.exit(main())
