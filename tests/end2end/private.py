"""Index, search, look at everything and leave by every door, with each use of a socket seen and refused.

    python -m tests.end2end.private [--sample] [--debug]

A library of files that want to load something from elsewhere (and, with --sample, the whole sample library)
is indexed, searched, previewed and served, by the command line, a client and the window. `tests.sockets`
watches all of it from below, an audit hook watches Python from within, and a web server on this machine that
the files refer to must hear nothing. Afterwards all logs are searched for the words of the questions, of the
files and of their names. Prints figures; exits with 1 where anything is not as it should be.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

from tests import sockets

ROOT = Path(__file__).resolve().parents[2]
HOOKS = ROOT / "tests" / "hooks"
# Words that nobody else writes: of questions, of what stands in files, and of their names.
ASKED, WRITTEN, NAMED = "quxzphrase", "zyxwvtext", "wvutsname"
BROKEN = 4


class Stranger:
    """A web server that files refer to; it only counts who comes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.heard: list[bytes] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            with caller:
                caller.settimeout(2)
                with contextlib.suppress(OSError):
                    self.heard.append(caller.recv(4096))
                    caller.sendall(
                        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    )

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()


def write_files(folder: Path, url: str) -> int:
    """Files that load something from `url` if they are let, and broken ones; how many can be read."""
    import pymupdf

    folder.mkdir(parents=True)
    text = f"The lighthouse keeper {WRITTEN} trims the lamp at dusk and notes the weather in the book."
    remote = (
        f'<img src="{url}/a.png"><script src="{url}/b.js"></script><link rel="stylesheet" href="{url}/c.css">'
        f'<style>@import url({url}/d.css); body {{ background: url("{url}/e.png") }}</style>'
        f'<iframe src="{url}/f.html"></iframe><object data="{url}/g.svg"></object>'
        f'<video poster="{url}/h.png" src="{url}/i.mp4"></video><img src="file:///etc/hostname">'
        f'<meta http-equiv="refresh" content="0;url={url}/j"><base href="{url}/">'
    )
    readable = {
        "page.html": (
            f"<html><head>{remote}</head><body onload=\"fetch('{url}/k')\"><p>{text}</p></body></html>"
        ),
        "page.xhtml": (
            f'<?xml version="1.0"?><!DOCTYPE html SYSTEM "{url}/l.dtd"><?xml-stylesheet href="{url}/m.xsl"?>'
            f'<html xmlns="http://www.w3.org/1999/xhtml"><body><p>{text}</p></body></html>'
        ),
        "note.md": (
            f"# Lighthouse\n\n![remote]({url}/n.png) ![local](file:///etc/hostname) "
            f"<img src='{url}/o.png'>\n\n"
            f"{text} [link]({url}/p)\n\n![data](data:image/svg+xml,<svg><image href='{url}/q.png'/></svg>)\n"
        ),
        "lamp.txt": f"{text}\n{url}/r.png\n",
        "lamp.py": f'def trim(lamp):\n    """{text} {url}/s"""\n    return lamp\n',
        "lamp.json": f'{{"$schema": "{url}/t.json", "text": "{text}"}}',
        "lamp.csv": f"keeper,note\nfirst,{text}\n",
    }
    for name, content in readable.items():
        # Each has something of its own, or they would be copies of each other.
        (folder / f"{NAMED}-{name}").write_text(content.replace("dusk", f"dusk in {name}"), encoding="utf-8")
    with pymupdf.open() as pdf:  # type: ignore[no-untyped-call]
        page = pdf.new_page()
        page.insert_text((72, 72), text[:90])
        place = pymupdf.Rect(72, 60, 300, 80)  # type: ignore[no-untyped-call]
        page.insert_link({"kind": pymupdf.LINK_URI, "from": place, "uri": f"{url}/u"})
        pdf.save(folder / f"{NAMED}-lamp.pdf")
    with zipfile.ZipFile(folder / f"{NAMED}-lamp.epub", "w") as book:
        for name, content in _epub(text, url).items():
            book.writestr(name, content)
    # What cannot be read is told about as well, with what it holds in the exceptions' words.
    (folder / f"{NAMED}-broken.pdf").write_bytes(b"%PDF-1.7\n" + WRITTEN.encode() * 50)
    (folder / f"{NAMED}-broken.docx").write_bytes(b"PK\3\4" + WRITTEN.encode() * 50)
    (folder / f"{NAMED}-broken.epub").write_bytes(b"PK\3\4" + WRITTEN.encode() * 50)
    (folder / f"{NAMED}-broken.ipynb").write_text(f'{{"cells": "{WRITTEN}"', encoding="utf-8")
    return len(readable) + 2


def _epub(text: str, url: str) -> dict[str, str]:
    container = "urn:oasis:names:tc:opendocument:xmlns:container"
    package = "http://www.idpf.org/2007/opf"
    return {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": (
            f'<container version="1.0" xmlns="{container}"><rootfiles><rootfile full-path="book.opf" '
            'media-type="application/oebps-package+xml"/></rootfiles></container>'
        ),
        "book.opf": (
            f'<package xmlns="{package}" version="2.0" unique-identifier="i"><metadata '
            'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Lamp</dc:title><dc:identifier id="i">1'
            '</dc:identifier></metadata><manifest><item id="one" href="one.xhtml" '
            f'media-type="application/xhtml+xml"/><item id="two" href="{url}/v.xhtml" '
            'media-type="application/xhtml+xml"/></manifest><spine><itemref idref="one"/></spine></package>'
        ),
        "one.xhtml": (
            f'<!DOCTYPE html SYSTEM "{url}/w.dtd"><html xmlns="http://www.w3.org/1999/xhtml"><head>'
            f'<link rel="stylesheet" href="{url}/x.css"/></head><body><img src="{url}/y.png"/><p>{text}</p>'
            "</body></html>"
        ),
    }


# --- what is done, inside -----------------------------------------------------------------------------


def use(data: Path, files: Path, wanted: int) -> None:
    """Index, search, preview and list by the client."""
    from indexer import api
    from indexer.client import IndexerClient
    from indexer.errors import IndexerError

    with IndexerClient(data) as client:
        client.add_folder(files)
    with IndexerClient(data) as client:
        for status in client.watch():
            if (
                status.state == "watching"
                and status.files + status.failed + status.skipped >= wanted + BROKEN
            ):
                assert status.files == wanted, (status, client_problems(data))
                break
    with IndexerClient(data) as client:
        found = client.search(f"who {ASKED} trims the lamp of the lighthouse", limit=50)
        assert found.hits, "nothing was found"
        for hit in found.hits:
            passage = hit.passages[0]
            client.preview(hit.path, start=passage.start, end=passage.start + len(passage.text))
        best = found.hits[0]
        like = api.Like(path=best.path)
        client.search("", like=like)
        client.complete(f"{ASKED} ext:")
        client.search(f'ext:pdf "{ASKED}" -lamp in:nowhere lang:xx {ASKED} after:{ASKED}')
        problems = client.problems().problems
        assert len(problems) >= 4, problems
        client.retry()
        client.models()
        client.folders()
        client.put_settings(client.settings())
        for wrong in (
            lambda: client.preview(str(files / f"{NAMED}-{WRITTEN}-missing.pdf")),
            lambda: client.preview(str(files / f"{NAMED}-broken.pdf")),
            lambda: client.add_folder(files / NAMED / "missing"),
            lambda: client.search(ASKED, model=f"{ASKED}/{ASKED}"),
            lambda: client.search("", like=api.Like(path=f"/{NAMED}/{ASKED}")),
            lambda: client.plan_model(f"/{NAMED}/{ASKED}"),
        ):
            with contextlib.suppress(IndexerError):
                wrong()
    _mistakes(data)


def client_problems(data: Path) -> list[str]:
    """What could not be read, and why."""
    from indexer.client import IndexerClient

    with IndexerClient(data) as client:
        return [f"{problem.path}: {problem.message}" for problem in client.problems().problems]


def _mistakes(data: Path) -> None:
    """Say to the service what it cannot understand, in words that a log must not repeat."""
    from indexer import api
    from indexer.client import find_service

    endpoint = find_service(data)
    assert endpoint is not None
    for line in (
        f'{{"type":"Search","id":1,"query":["{ASKED}"]}}\n',
        f'{{"type":"Search","id":1,"query":"{ASKED}","task":"{ASKED}"}}\n',
        f'{{"type":"{ASKED}"}}\n',
        f'{{"type":"PutSettings","id":1,"settings":{{"{ASKED}":"{ASKED}"}}}}\n',
        f'{{"type":"Search","id":1,"query":"{ASKED}',
    ):
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(endpoint.address)
            wire.sendall(
                api.encode(api.Hello(key=endpoint.key, version=api.PROTOCOL_VERSION)) + line.encode()
            )
            wire.shutdown(socket.SHUT_WR)
            while wire.recv(1 << 16):
                pass


def look(data: Path) -> None:
    """Search in the window, look into every hit and open every dialog."""
    from PySide6.QtCore import QEventLoop
    from PySide6.QtTest import QTest

    from desktop.app import build_window, log_to_file, make_application

    app = make_application(["dragoman"])
    log_to_file(data)
    window = build_window(app, data, "light")
    window.show()

    def until(what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(what)
            app.processEvents(QEventLoop.ProcessEventsFlag.WaitForMoreEvents, 100)

    until("connected", lambda: window._connection.is_ready and window._folders is not None)
    preview = window.preview

    def ready() -> bool:
        if preview._walk.isActive() or preview._request:
            return False
        return preview.stack.currentWidget() is not preview.note or bool(preview.note_title.text())

    media = set()
    endings = ("html", "xhtml", "md", "txt", "py", "json", "csv", "pdf", "epub")
    for question in (
        f"who {ASKED} trims the lamp of the lighthouse",
        *(f"ext:{ending}" for ending in endings),
    ):
        window.field.clear()
        QTest.keyClicks(window.field, question)
        until(question, lambda: window._wanted() == window._shown and window._final)
        until("a row", lambda: window.current_row() is not None)
        until("a preview", ready)
        row = window.current_row()
        assert row is not None
        media.add(row.hit.media)
        window.grab()
    assert {"pdf", "markdown", "html", "code"} <= media, media
    for tab in range(3):
        window.show_library(tab)
        QTest.qWait(50)
        window.grab()
    assert window._library is not None
    until("settings", lambda: window._library is not None and window._library.settings._stored is not None)
    window._library.close()
    window.show_models()
    QTest.qWait(50)
    logging.getLogger("desktop").warning("The window has a log")
    window.close()


def inside(data: Path, files: Path, wanted: int, port: int) -> None:
    """All of it, in the order of a person's day, and with a mask that protects no file."""
    os.umask(0)
    dragoman = [sys.executable, "-m", "indexer.cli"]
    place = ["--data-dir", str(data)]

    def say(*words: str, good: Sequence[int] = (0,)) -> None:
        done = subprocess.run([*dragoman, *words], capture_output=True, text=True, check=False)
        assert done.returncode in good, (words, done.stdout, done.stderr)

    try:
        use(data, files, wanted)
        look(data)
    except BaseException:
        say("stop", *place)
        raise
    say("search", *place, "--json", f"{ASKED} lighthouse lamp")
    say("status", *place)
    say("similar", *place, str(files / f"{NAMED}-lamp.txt"))
    with subprocess.Popen(
        [*dragoman, "serve", *place, "--port", str(port)], stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert b"Serving" in line, line
        # Whoever asks it is outside; it comes in through its standard input that it is done.
        sys.stdout.write("serving\n")
        sys.stdout.flush()
        sys.stdin.readline()
        server.terminate()
    for part in (data, *data.rglob("*")):
        if stat.S_IMODE(part.lstat().st_mode) & 0o077 and not part.is_symlink():
            sys.stdout.write(f"open {stat.filemode(part.lstat().st_mode)} {part.relative_to(data)}\n")
    sys.stdout.flush()
    say("stop", *place)


# --- and watched, outside ---------------------------------------------------------------------------------


@dataclass
class Seen:
    """What came of it."""

    attempts: list[sockets.Attempt] = field(default_factory=list)
    audited: list[Mapping[str, object]] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    open_to_others: list[str] = field(default_factory=list)
    served: int = 0
    seconds: float = 0.0

    @property
    def refused(self) -> list[sockets.Attempt]:
        """What must not have been."""
        return [attempt for attempt in self.attempts if not attempt.allowed]

    @property
    def suspicious(self) -> list[Mapping[str, object]]:
        """What Python did with the network, the service's own socket and the door left out."""
        return [note for note in self.audited if not _is_ours(note)]

    def quoting(self, *words: str) -> list[str]:
        """Lines of logs that hold one of the words."""
        return [
            f"{name}: {line}"
            for name, text in self.logs.items()
            for line in text.splitlines()
            if any(word in line for word in words)
        ]


def _is_ours(note: Mapping[str, object]) -> bool:
    event, arguments = note["event"], str(note["arguments"])
    if event in {"began", "subprocess.Popen", "os.posix_spawn"}:
        return True
    if "family=1," in arguments or ("AF_UNIX" in arguments) or "service.sock" in arguments:
        return True
    if event == "socket.__new__":  # (socket, family, type, ...)
        # A family of -1 wraps a descriptor that is there already; the call that made it was seen as well.
        return ", 1, " in arguments or ", -1, " in arguments or "serve" in str(note["program"])
    return "serve" in str(note["program"]) and "127.0.0.1" in arguments


def allowed(attempt: sockets.Attempt, data: Path, port: int) -> bool:
    """The service's own socket, and the door that the person has opened on this machine."""
    if attempt.family == "AF_UNIX":
        return attempt.address == str(data / "service.sock")
    door = " serve " in f" {attempt.program} " and attempt.family == "AF_INET"
    return door and ((attempt.call, attempt.address) in {("socket", ""), ("bind", f"127.0.0.1 {port}")})


def watch(base: Path, *, sample: bool = False, debug: bool = False, timeout: float = 150) -> Seen:
    """Do all of it below `base` and see what happens.

    Args:
        base: An empty folder, of a short path.
        sample: Whether the sample library is indexed too.
        debug: Whether the service logs all it can.
        timeout: Seconds it may take.
    """
    stranger = Stranger()
    data, files = base / "data", base / f"{NAMED}-files"
    wanted = write_files(files, stranger.url)
    if sample:
        shutil.copytree(ROOT / "assets" / "sample-library", files / "sample")
        wanted += sum(path.is_file() for path in (files / "sample").rglob("*"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    audit, said = base / "audit.jsonl", base / "said"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        "PYTHONPATH": os.pathsep.join([str(HOOKS), str(ROOT)]),
        "DRAGOMAN_AUDIT": str(audit),
        "QT_QPA_PLATFORM": "offscreen",
        "DRAGOMAN_LANG": "en",
        "TMPDIR": str(base),
    }
    if debug:
        environment["DRAGOMAN_DEBUG"] = "1"
    command = [sys.executable, "-X", "dev", "-m", "tests.end2end.private", "--inside", str(base)]
    seen = Seen()
    began = time.monotonic()
    with said.open("wb") as errors, _talk() as (theirs, ours):
        asker = threading.Thread(target=_ask, args=(ours, port, seen), daemon=True)
        asker.start()
        status, seen.attempts = sockets.run(
            [*command, str(wanted), str(port)],
            lambda attempt: allowed(attempt, data, port),
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=errors.fileno(),
            timeout=timeout,
        )
        os.close(theirs)
        asker.join(10)
    seen.seconds = time.monotonic() - began
    stranger.close()
    seen.heard = stranger.heard
    if audit.exists():
        seen.audited = [json.loads(line) for line in audit.read_text(encoding="utf-8").splitlines()]
    for file in [said, *sorted((data / "logs").iterdir())]:
        seen.logs[file.name] = file.read_text(encoding="utf-8", errors="replace")
    if status:
        raise RuntimeError(f"it ended with {status}:\n{seen.logs['said'][-4000:]}")
    return seen


@contextlib.contextmanager
def _talk() -> Iterator[tuple[int, socket.socket]]:
    theirs, ours = socket.socketpair()
    with ours:
        yield theirs.detach(), ours


def _ask(ours: socket.socket, port: int, seen: Seen) -> None:
    """Ask the door for embeddings, from outside, when it is open."""
    with contextlib.suppress(OSError):
        ours.settimeout(300)
        if b"serving" in ours.recv(100):
            body = json.dumps({"input": [ASKED], "model": ASKED}).encode()
            request = Request(f"http://127.0.0.1:{port}/v1/embeddings", body)
            with build_opener(ProxyHandler({})).open(request, timeout=60) as answer:
                seen.served = len(json.loads(answer.read())["data"])
        ours.sendall(b"done\n")
        with ours.makefile() as lines:
            seen.open_to_others = [line.strip() for line in lines if line.startswith("open ")]


def main() -> int:
    """Do all of it and print what was seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.end2end.private", description=__doc__)
    parser.add_argument("--sample", action="store_true", help="index the sample library, too")
    parser.add_argument("--debug", action="store_true", help="let the service log all it can")
    parser.add_argument("--inside", nargs=3, metavar=("BASE", "FILES", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        base = Path(options.inside[0])
        inside(base / "data", base / f"{NAMED}-files", int(options.inside[1]), int(options.inside[2]))
        return 0
    with tempfile.TemporaryDirectory(prefix="private-") as folder:
        seen = watch(Path(folder), sample=options.sample, debug=options.debug)
    tell = sys.stdout.write
    tell(f"{seen.seconds:.0f} s, {len(seen.attempts)} uses of sockets, {len(seen.refused)} refused\n")
    counted: dict[tuple[str, str, str, bool], int] = {}
    for attempt in seen.attempts:
        key = (attempt.call, attempt.family, attempt.address.rpartition("/")[2], attempt.allowed)
        counted[key] = counted.get(key, 0) + 1
    for key, count in sorted(counted.items()):
        tell(f"  {count:5} {' '.join(map(str, key))}\n")
    for attempt in seen.refused:
        tell(f"  refused: {attempt.call} {attempt.family} {attempt.address} by {attempt.program[:200]}\n")
    programs = {tuple(note["program"][1:4]) for note in seen.audited}  # type: ignore[index]
    tell(f"{len(programs)} Python programs audited, {len(seen.suspicious)} suspicious events\n")
    for note in seen.suspicious:
        tell(f"  {note}\n")
    tell(f"the stranger heard {len(seen.heard)} requests\n")
    words = (ASKED, WRITTEN) if options.debug else (ASKED, WRITTEN, NAMED)
    quoting = seen.quoting(*words)
    tell(f"{sum(map(len, seen.logs.values())):,} characters of logs ({', '.join(seen.logs)}), ")
    tell(f"{len(quoting)} lines quote a question, a file or a name\n")
    for line in quoting:
        tell(f"  {line[:300]}\n")
    tell(f"{len(seen.open_to_others)} files are open to others\n")
    for line in seen.open_to_others:
        tell(f"  {line}\n")
    return 1 if seen.refused or seen.suspicious or seen.heard or quoting or seen.open_to_others else 0


if __name__ == "__main__":
    sys.exit(main())
