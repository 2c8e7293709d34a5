"""The pool of extraction processes, with real processes, real signals and hostile files."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pymupdf
import pytest

from indexer.api import GetPreview
from indexer.errors import FatalError, FileError, IndexerError
from indexer.settings import Settings
from indexer.workers import (
    LARGE_CHUNKS,
    PIECE_CHUNKS,
    ChunkFile,
    FileChangedError,
    FileGoneError,
    NoAnswerError,
    PoolClosedError,
    WorkerPool,
)
from indexer.workers import (
    pool as pools_module,
)
from indexer.workers.child import PREVIEW_CHARACTERS
from indexer.workers.patience import Patience
from indexer.workers.reading import open_file, read

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals, FIFOs and links")

MakePool = Callable[..., WorkerPool]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real tokenizer file: one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    file = tmp_path_factory.mktemp("model") / "tokenizer.json"
    words.save(str(file))
    return file


@pytest.fixture
def make_pool(tokenizer: Path) -> Iterator[MakePool]:
    pools: list[WorkerPool] = []

    def make(size: int = 1, scratch: Path | None = None, **settings: Any) -> WorkerPool:
        pools.append(
            WorkerPool(
                size, tokenizer=tokenizer, max_tokens=100, settings=Settings(**settings), scratch=scratch
            )
        )
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    assert not children()


def children() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one too
            if "indexer.workers" in " ".join(child.cmdline()):
                found.append(child)
    return found


def only_child() -> psutil.Process:
    (child,) = children()
    return child


def wait_until(condition: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.01)
    pytest.fail("it did not come to pass in 30 seconds")


def at_work(pool: WorkerPool) -> bool:
    """Whether the request is on its way to a child that was found alive."""
    return any(child.deadline is not None for child in pool._indexing.children)


def note(folder: Path, name: str = "note.txt", text: str = "A short note about the sea.\n") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def failure(call: Callable[[], object]) -> FileError:
    with pytest.raises(FileError) as caught:
        call()
    return caught.value


# --- what it gives ------------------------------------------------------------------------


def test_a_file_becomes_chunks(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    source = "# Harbour\n\n" + "The old harbour lies below the town. " * 60
    source += "\n\n## 码头\n\n船在码头等待。\n"
    file = note(tmp_path, "harbour.md", source)
    prepared = pool.prepare(file)
    assert (prepared.media, prepared.title) == ("markdown", "Harbour")
    assert len(prepared.chunks) > 2
    for chunk in prepared.chunks:
        assert source[chunk.start : chunk.end] == chunk.text
        assert 0 < chunk.tokens <= 100
    assert "船在码头等待" in prepared.chunks[-1].text
    assert (prepared.size, prepared.mtime_ns) == (file.stat().st_size, file.stat().st_mtime_ns)
    hashed = pool.hash(file)
    assert (hashed.key, hashed.size, hashed.mtime_ns) == (prepared.key, prepared.size, prepared.mtime_ns)
    assert len(children()) == 1


def test_the_key_names_content_and_kind(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    keys = {name: pool.hash(note(tmp_path, name)).key for name in ("a.txt", "b.txt", "a.py", "a.md")}
    assert keys["a.txt"] == keys["b.txt"]
    assert len(set(keys.values())) == 3
    assert len(keys["a.txt"]) == 16
    assert pool.hash(note(tmp_path, "a.txt", "other\n")).key != keys["a.txt"]


def test_names_that_are_no_text(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    file = tmp_path / os.fsdecode(b"caf\xe9 \xff.txt")
    try:
        note(tmp_path, file.name)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    assert pool.prepare(file).chunks[0].text.startswith("A short note")
    odd = tmp_path / os.fsdecode(b"x.\xff\xfe")
    odd.write_bytes(bytes(range(256)) * 9)
    error = failure(lambda: pool.prepare(odd))
    assert error.path == odd
    error.message.encode()


def test_children_start_late_are_polite_and_few(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(2)
    assert children() == []
    files = [note(tmp_path, f"{number}.txt", f"Note number {number}.\n") for number in range(40)]
    with ThreadPoolExecutor(6) as threads:
        prepared = list(threads.map(pool.prepare, files))
    assert [p.chunks[0].text for p in prepared] == [f"Note number {number}." for number in range(40)]
    assert 1 <= len(children()) <= 2
    assert {child.nice() for child in children()} == {min(psutil.Process().nice() + 10, 19)}


def test_importing_the_pool_is_light() -> None:
    heavy = "{'torch', 'chromadb', 'transformers', 'pymupdf', 'lxml', 'numpy', 'chardet', 'http'}"
    code = f"import sys, indexer.workers; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# --- what it refuses ----------------------------------------------------------------------


def test_only_plain_files_inside_the_limits(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(max_file_mb=1)
    target = note(tmp_path)
    (tmp_path / "link.txt").symlink_to(target)
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "large.txt").write_bytes(b"word " * 300_000)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.txt"))
        for name in ("link.txt", "pipe.txt", "folder.txt", "loop.txt", "socket.txt"):
            for call in (pool.prepare, pool.hash):
                assert failure(partial(call, tmp_path / name)).title == "Not a plain file"
    assert failure(lambda: pool.prepare(tmp_path / "empty.txt")).title == "Empty"
    assert failure(lambda: pool.prepare(tmp_path / "large.txt")).title == "Too large"
    assert failure(lambda: pool.hash(tmp_path / "large.txt")).kind == "skipped"
    assert failure(lambda: pool.hash(tmp_path / "picture.png")).kind == "skipped"
    with pytest.raises(FileGoneError):
        pool.prepare(tmp_path / "missing.txt")
    with pytest.raises(FileGoneError):
        pool.hash(target / "below-a-file.txt")
    assert len(children()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permissions_are_named(make_pool: MakePool, tmp_path: Path) -> None:
    file = note(tmp_path)
    file.chmod(0)
    assert failure(lambda: make_pool().prepare(file)).title == "No permission"


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    file = note(tmp_path)

    def append(_: bytes) -> None:
        if file.stat().st_size < 2000:
            with file.open("a") as stream:
                stream.write("more" * 100)

    descriptor = open_file(file, tmp_path)
    with pytest.raises(FileChangedError):
        read(file, descriptor, 1 << 20, append)
    with pytest.raises(FileError, match="Too large"):
        read(file, descriptor, 100, append)
    os.close(descriptor)


# --- what it survives ---------------------------------------------------------------------


def test_a_disk_that_does_not_answer_costs_a_while_and_one_thread(
    make_pool: MakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs does so inside of the call; here the call is one that waits."""
    pool, file, other = make_pool(), note(tmp_path), tmp_path / "other.txt"
    other.write_text("The lamp is lit.\n")
    answers, opened = threading.Event(), []

    def hang(path: Path, root: Path | None) -> int:
        if path == file:
            assert answers.wait(60)
        opened.append(open_file(path, root))
        return opened[-1]

    monkeypatch.setattr("indexer.workers.pool.open_file", hang)
    monkeypatch.setattr("indexer.workers.pool.PATIENCE", Patience(0.3, most_left=2))
    for call in (pool.prepare, pool.hash):
        error = failure(partial(call, file))
        assert isinstance(error, NoAnswerError)
        assert (error.title, error.kind) == ("Did not answer", "failed")
        if call == pool.prepare:
            assert pool.prepare(other).chunks  # the rest goes on
    began = time.monotonic()
    assert failure(lambda: pool.prepare(other)).title == "Did not answer"  # enough hang already
    assert time.monotonic() - began < 0.3
    answers.set()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            assert pool.prepare(file).chunks
            break
        except NoAnswerError:
            continue
    assert len(opened) == 4
    for descriptor in opened:  # what came back late was closed too
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(descriptor)
    assert len(children()) == 1


def test_a_pipe_swapped_in_between_look_and_opening_does_not_block(
    make_pool: MakePool, tmp_path: Path
) -> None:
    file = note(tmp_path)
    pool = make_pool()
    assert pool.prepare(file).chunks
    file.unlink()
    os.mkfifo(file)
    began = time.monotonic()
    assert failure(lambda: pool.prepare(file)).title == "Not a plain file"
    assert time.monotonic() - began < 5


def test_a_child_has_only_so_much_time_of_the_processor(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(extraction_deadline_s=7.0)
    pool.prepare(note(tmp_path))
    limit, _ = only_child().rlimit(psutil.RLIMIT_CPU)
    used = only_child().cpu_times()
    assert 10 < limit <= used.user + used.system + 19


def test_a_hanging_file_costs_its_deadline(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(extraction_deadline_s=2.5)
    file = note(tmp_path)
    pool.hash(file)
    child = only_child()
    child.suspend()
    error = failure(lambda: pool.hash(file))
    assert (error.title, error.kind) == ("Took too long", "failed")
    assert "2.5 seconds" in error.message
    pool.update(Settings())
    assert pool.prepare(file).chunks
    assert only_child().pid != child.pid


def test_a_child_killed_once_costs_nothing(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    file = note(tmp_path)
    pool.prepare(file)
    child = only_child()
    child.suspend()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(pool.prepare, file)
        wait_until(lambda: at_work(pool))
        os.kill(child.pid, signal.SIGKILL)
        assert call.result().chunks


def test_a_crash_that_comes_again_costs_one_file(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    file = note(tmp_path)
    pool.prepare(file)
    slow = tmp_path / "slow.txt"
    slow.write_text("A sentence that is read for a while. " * 100_000, encoding="utf-8")
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(pool.prepare, slow)
        while not call.done():
            for child in children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    # Past its start, which takes a tenth of that; reading the file takes longer.
                    if child.cpu_times().user > 0.5:
                        child.kill()
        error = failure(call.result)
    assert error.title == "Crashed while being read"
    assert "SIGKILL" in error.message
    assert pool.prepare(file).chunks


def test_a_death_between_files_costs_nothing(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    file = note(tmp_path)
    pool.hash(file)
    child = only_child()
    child.kill()
    wait_until(lambda: not children())
    assert pool.prepare(file).chunks


def test_a_file_that_needs_too_much_memory(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(extraction_memory_mb=400)
    large = tmp_path / "large.txt"
    large.write_bytes(("单字 " * 10 + "\n").encode() * 900_000)
    file = note(tmp_path)
    pool.prepare(file)
    error = failure(lambda: pool.prepare(large))
    assert error.title == "Needs too much memory"
    assert "400 MiB" in error.message
    assert pool.prepare(file).chunks


def test_children_are_renewed(make_pool: MakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make_pool()
    file = note(tmp_path)
    monkeypatch.setattr(pools_module, "_RETIRE_AFTER_FILES", 2)
    pids: list[int] = []
    for _ in range(4):
        pool.prepare(file)
        pool.hash(file)  # takes nothing apart, and does not count
        pids.extend(child.pid for child in children())
    assert len(pids) == 4
    assert len(set(pids)) == 3, "a new one after every second"
    monkeypatch.setattr(pools_module, "_RETIRE_RSS_BYTES", 1)
    pool.prepare(file)
    assert children() == []


def test_idle_children_are_ended(
    make_pool: MakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools_module, "_IDLE_S", 0.05)
    pool = make_pool()
    pool.hash(note(tmp_path))
    wait_until(lambda: not children())
    assert pool.hash(note(tmp_path))


def test_new_settings_are_followed(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(max_file_mb=1)
    file = tmp_path / "large.txt"
    file.write_bytes(b"word " * 300_000)
    assert failure(lambda: pool.hash(file)).title == "Too large"
    pool.update(Settings(max_file_mb=2))
    assert pool.hash(file).size == 1_500_000


def test_a_damaged_tokenizer_is_no_files_fault(tmp_path: Path) -> None:
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}")
    pool = WorkerPool(1, tokenizer=broken, max_tokens=100, settings=Settings())
    try:
        with pytest.raises(FatalError):
            pool.prepare(note(tmp_path))
    finally:
        pool.close()


def test_closing_ends_what_is_under_way(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    file = note(tmp_path)
    pool.hash(file)
    only_child().suspend()
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(pool.prepare, file) for _ in range(2)]  # one at work, one waiting
        wait_until(lambda: at_work(pool))
        pool.close()
        for call in calls:
            with pytest.raises(PoolClosedError):
                call.result()
    assert children() == []
    with pytest.raises(PoolClosedError):
        pool.hash(file)
    pool.close()


@pytest.mark.parametrize("busy", [False, True])
def test_children_end_with_their_parent(tokenizer: Path, tmp_path: Path, busy: bool) -> None:
    file = note(tmp_path)
    large = note(tmp_path, "large.txt", "many words that take a while to count. " * 500_000)
    code = (
        "import sys, threading, psutil; from pathlib import Path\n"
        "from indexer.settings import Settings; from indexer.workers import WorkerPool\n"
        "pool = WorkerPool(1, tokenizer=Path(sys.argv[1]), max_tokens=50, settings=Settings())\n"
        "pool.hash(Path(sys.argv[2]))\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "pool.prepare(Path(sys.argv[3])) if sys.argv[4] == 'True' else threading.Event().wait()\n"
    )
    arguments = [sys.executable, "-c", code, str(tokenizer), str(file), str(large), str(busy)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        spent = child.cpu_times().user
        if busy:
            wait_until(lambda: child.cpu_times().user > spent + 0.3)
        parent.kill()
    child.wait(timeout=20)


# --- previews -----------------------------------------------------------------------------


def ask(path: Path, **more: Any) -> GetPreview:
    return GetPreview(id=7, path=str(path), **more)


def test_a_preview_does_not_wait_for_indexing(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    file = note(tmp_path)
    pool.hash(file)
    child = only_child()
    child.suspend()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(pool.prepare, file)
        wait_until(lambda: at_work(pool))
        preview = pool.preview(ask(file, start=2, end=7))
        assert not call.done()
        child.resume()
        assert call.result().chunks
    assert (preview.id, preview.path, preview.media) == (7, str(file), "text")
    assert preview.text[preview.start : preview.end] == "short"


@pytest.mark.parametrize("line", [40_000, 0, 79_999])
def test_a_long_text_is_shown_around_the_passage(make_pool: MakePool, tmp_path: Path, line: int) -> None:
    lines = [f"line {number} 行" for number in range(1, 80_001)]
    source = "\n".join(lines)
    file = note(tmp_path, "long.py", source)
    start = sum(len(before) + 1 for before in lines[:line])
    preview = make_pool().preview(ask(file, start=start, end=start + len(lines[line])))
    assert preview.text[preview.start : preview.end] == lines[line]
    assert preview.truncated
    assert 100_000 < len(preview.text) <= PREVIEW_CHARACTERS
    shown = preview.text.split("\n")
    assert shown == lines[preview.first_line - 1 : preview.first_line - 1 + len(shown)]
    assert preview.code_language == "python"


def test_previews_of_odd_places(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    file = note(tmp_path, "one-line.txt", "word " * 100_000)
    preview = pool.preview(ask(file, start=400_000, end=400_004))
    assert preview.text[preview.start : preview.end] == "word"
    assert len(preview.text) <= PREVIEW_CHARACTERS
    everything = pool.preview(ask(file, start=0, end=500_000))
    assert (everything.start, everything.end) == (0, len(everything.text))
    beyond = pool.preview(ask(file, start=10**9, end=10**9 + 5))
    assert beyond.start == beyond.end == len(beyond.text)
    backwards = pool.preview(ask(file, start=-5, end=-9))
    assert backwards.start == backwards.end == 0


def test_a_pdf_is_shown_as_its_page(make_pool: MakePool, tmp_path: Path) -> None:
    pdf: Any = pymupdf.open()  # type: ignore[no-untyped-call]
    for number in (1, 2, 3):
        pdf.new_page(width=600 + number).insert_text((72, 72), f"This is page number {number}")
    file = tmp_path / "three.pdf"
    pdf.save(file)
    pool = make_pool()
    chunks = pool.prepare(file).chunks
    whole = "\n\n".join(f"This is page number {number}" for number in (1, 2, 3))
    start = whole.index("number 2")
    assert chunks[0].locator.page == 1
    marked = pool.preview(ask(file, start=start, end=start + 8, width=300))
    assert (marked.media, marked.page, marked.pages) == ("pdf", 2, 3)
    assert marked.page_width == 602
    plain = pool.preview(ask(file, page=2, width=300))
    assert plain.page_width == 602
    assert marked.png.startswith(b"\x89PNG")
    assert plain.png.startswith(b"\x89PNG")
    assert plain.png != marked.png
    assert failure(lambda: pool.preview(ask(file, page=4))).title == "No such page"
    assert failure(lambda: pool.preview(ask(tmp_path / "gone.pdf", page=1))).kind == "failed"


def test_a_large_file_comes_in_pieces_that_are_kept_on_disk(make_pool: MakePool, tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_text("\n\n".join(f"Chapter {n}. " + f"word{n} " * 90 + "end." for n in range(700)))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    pool = make_pool(scratch=scratch)
    prepared = pool.prepare(file)
    chunks = prepared.chunks
    assert isinstance(chunks, ChunkFile)
    assert len(chunks) > LARGE_CHUNKS
    whole = list(chunks)
    assert len(whole) == len(chunks)
    assert prepared.tokens == sum(chunk.tokens for chunk in whole)
    text = file.read_text()
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in whole)
    assert "Chapter 0." in whole[0].text
    assert "word699" in whole[-1].text
    assert (chunks[0], chunks[-1], chunks[3:5]) == (whole[0], whole[-1], tuple(whole[3:5]))
    assert [len(chunks.piece(n)) for n in range(chunks.pieces - 1)] == [PIECE_CHUNKS] * (chunks.pieces - 1)
    assert list(scratch.iterdir()) == [], "a file without a name, which no kill can leave behind"
    assert pool.prepare(file).chunks[0] == whole[0], "the child goes on"


def test_no_room_for_the_pieces_of_a_large_file_is_no_fault_of_the_file(
    make_pool: MakePool, tmp_path: Path
) -> None:
    file = tmp_path / "book.txt"
    file.write_text("\n\n".join(f"Chapter {n}. " + f"word{n} " * 150 for n in range(700)))
    pool = make_pool(scratch=tmp_path / "not there")
    with pytest.raises(IndexerError) as caught:
        pool.prepare(file)
    assert not isinstance(caught.value, FileError)
    small = tmp_path / "small.txt"
    small.write_text("A note.")
    assert pool.prepare(small).chunks[0].text == "A note."


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's")
def test_children_are_confined(make_pool: MakePool, tmp_path: Path) -> None:
    make_pool().hash(note(tmp_path))
    status = Path(f"/proc/{only_child().pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
