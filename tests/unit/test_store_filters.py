"""Filters: SQL, columns in memory and plain Python must agree, whatever the library went through."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import query
from indexer.api import Locator, Media
from indexer.document import Chunk
from indexer.query import (
    All,
    Any,
    Condition,
    Ext,
    In,
    Kind,
    Lang,
    Modified,
    Name,
    Not,
    Phrase,
    Size,
    parse,
)
from indexer.store import FileUpdate, ModelKey, Store, filters
from indexer.store.database import Database
from indexer.store.schema import MIGRATIONS

DIM = 16
MODEL = ModelKey("test-model", DIM)
ROOT = "/library"
S = 1_000_000_000


def vector(text: str) -> np.ndarray:
    seed = int.from_bytes(text.encode("utf-8", "replace"), "big")
    found = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return found / np.linalg.norm(found)


def update(
    path: str,
    *texts: str,
    langs: tuple[str, ...] = ("en",),
    at: int = 1,
    size: int = 1,
    media: Media = "text",
    code_language: str | None = None,
    root: str = ROOT,
) -> FileUpdate:
    chunks = tuple(
        Chunk(start=i, end=i + len(t), text=t, locator=Locator(), lang=langs[i % len(langs)], tokens=1)
        for i, t in enumerate(texts)
    )
    return FileUpdate(
        path=path,
        root=root,
        size=size,
        mtime_ns=at * S,
        content=os.fsencode(path).ljust(16, b"0")[-16:],
        media=media,
        code_language=code_language,
        title="",
        chunks=chunks,
    )


def put(store: Store, *updates: FileUpdate) -> None:
    texts = {c.text_hash: c.text for u in updates for c in u.chunks}
    store.replace(updates, {h: vector(texts[h]) for h in store.missing(texts)})


FILES = (
    update("/library/a/Report.PDF", "the old harbour", "second page", at=10, size=5000, media="pdf"),
    update("/library/a/report.tar.gz.txt", "same", langs=("de",), at=20, size=10),
    update(
        "/library/My Docs/猫 Notes.md", "die Katze schläft", langs=("de",), at=30, size=99, media="markdown"
    ),
    update("/library/My Docs/Ärger.txt", "same", "other", langs=("de", "en"), at=40, size=2000),
    update(
        "/library/" + unicodedata.normalize("NFD", "Ärger/Ö.txt"), "decomposed", langs=("",), at=50, size=1
    ),
    update(
        "/library/src/x.py",
        "def harbour(): old",
        langs=("code",),
        at=60,
        media="code",
        code_language="python",
    ),
    update("/library/src/deep/y.c", "int same;", langs=("code",), at=70, media="code", code_language="c"),
    update("/library/src/100%_sure", "percent", at=80, size=0),
    update("/library/src/broken\udcff.pdf", "broken name", at=90, media="pdf"),
    update("/library/.bashrc", "alias", langs=("code",), at=100, media="code", code_language="bash"),
    update("/library/empty.txt", at=110),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data")
    opened._use_chroma = False
    opened.use_model(MODEL)
    opened.add_root(ROOT)
    put(opened, *FILES)
    yield opened
    assert opened.check() == []
    opened.close()


def by_sql(store: Store, where: Condition) -> list[int]:
    sql, args = filters.compile(where)
    with store._catalog.read() as db:
        rows = db.ask(
            f"SELECT chunks.id FROM chunks JOIN files ON files.id = chunks.file WHERE {sql} ORDER BY 1", args
        )
    return [row[0] for row in rows]


def by_columns(store: Store, where: Condition) -> list[int]:
    """The chunks selected, those that are gone left out, as in a search."""
    with store._catalog.read() as db:
        found = store._filters.select(db, store._catalog.version, where)
    assert found.texts.tolist() == sorted(set(found.texts.tolist()))
    return sorted(store.chunks(found.chunks.tolist()))


def names(store: Store, where: Condition | None) -> list[str]:
    """What is listed, newest first, by file name."""
    chunks = store.listed(where, 100)
    stored = store.chunks(chunks)
    return [stored[chunk].path.rpartition("/")[2] for chunk in chunks]


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("ext:pdf", ["broken\udcff.pdf", "Report.PDF"]),
        ("ext:txt", [unicodedata.normalize("NFD", "Ö.txt"), "Ärger.txt", "report.tar.gz.txt"]),
        ("ext:gz.txt", ["report.tar.gz.txt"]),
        ("ext:tar.gz", []),
        ("ext:bashrc", [".bashrc"]),
        ("type:code", [".bashrc", "y.c", "x.py"]),
        ("type:python,c", ["y.c", "x.py"]),
        ("-type:python type:code", [".bashrc", "y.c"]),
        ("type:markdown", ["猫 Notes.md"]),
        ("lang:de", ["Ärger.txt", "猫 Notes.md", "report.tar.gz.txt"]),
        ("lang:ja", []),
        ("in:a", ["report.tar.gz.txt", "Report.PDF"]),
        ("in:A -ext:pdf", ["report.tar.gz.txt"]),
        ('in:"my docs"', ["Ärger.txt", "猫 Notes.md"]),
        ("in:ärger", [unicodedata.normalize("NFD", "Ö.txt")]),
        ("in:ÄRGER", [unicodedata.normalize("NFD", "Ö.txt")]),
        ("in:src/deep", ["y.c"]),
        ("in:/library/src", ["broken\udcff.pdf", "100%_sure", "y.c", "x.py"]),
        ("in:/library/sr", []),
        ("in:/library/src/x.py", ["x.py"]),
        ("name:REPORT", ["report.tar.gz.txt", "Report.PDF"]),
        ("name:ärg", ["Ärger.txt"]),
        ("name:猫", ["猫 Notes.md"]),
        ("name:0%_s", ["100%_sure"]),
        ("name:src", []),
        ("name:_", ["100%_sure"]),
        ("after:@60 before:@80", ["y.c", "x.py"]),
        ("size:1500..", ["Ärger.txt", "Report.PDF"]),
        ("size:<=0", ["100%_sure"]),
        ('"old harbour"', ["Report.PDF"]),
        ("-harbour type:code,pdf", [".bashrc", "broken\udcff.pdf", "y.c", "Report.PDF"]),
        ('has:katze', ["猫 Notes.md"]),
        ('has:"x py"', ["x.py"]),
    ],
)  # fmt: skip
def test_each_filter(store: Store, text: str, files: list[str]) -> None:
    where = parse(text).where
    assert where is not None
    assert names(store, where) == files
    assert by_sql(store, where) == by_columns(store, where)


def test_everything_is_listed_newest_first_without_a_condition(store: Store) -> None:
    found = names(store, None)
    assert found[:3] == [".bashrc", "broken\udcff.pdf", "100%_sure"]
    assert len(found) == len(FILES) - 1  # one has no chunks
    assert store.listed(None, 2) == store.listed(None, 100)[:2]
    assert store.listed(Ext("none"), 5) == store.listed(None, 0) == []


def test_a_file_is_listed_by_its_first_chunk_that_fulfils_the_condition(store: Store) -> None:
    texts = [store.chunks([c])[c].text for c in store.listed(All((Lang("en"), Name("Ärger"))), 5)]
    assert texts == ["other"]


_LEAVES = st.one_of(
    st.sampled_from([Ext("pdf"), Ext("txt"), Ext("gz.txt"), Kind("code"), Kind("python"), Kind("pdf")]),
    st.sampled_from([Lang("de"), Lang("en"), Lang("code"), Lang(""), Lang("xx")]),
    st.sampled_from(
        [In("/library/a"), In("src"), In("/"), Name("r"), Name("Ä"), Phrase("harbour"), Phrase("same")]
    ),
    st.sampled_from(
        [Modified(after=40.0), Modified(before=40.0), Modified(), Size(least=50), Size(), Phrase("!")]
    ),
    st.builds(Name, st.text(max_size=3)),
    st.builds(In, st.text(max_size=3)),
    st.builds(Phrase, st.text(max_size=5)),
    st.builds(Size, st.none() | st.integers(), st.none() | st.integers()),
)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.builds(All, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Any, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Not, inner),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = Store(tmp_path_factory.mktemp("library"))
    opened._use_chroma = False
    opened.use_model(MODEL)
    opened.add_root(ROOT)
    put(opened, *FILES)
    yield opened
    opened.close()


@settings(max_examples=150, deadline=None)
@given(_TREES)
def test_columns_and_sql_agree_on_any_condition(library: Store, where: Condition) -> None:
    kept = by_sql(library, where)
    assert by_columns(library, where) == kept
    assert set(kept) | set(by_sql(library, Not(where))) == set(by_sql(library, All(())))
    near = library.nearest(vector("same"), 100, where=where)
    assert sorted(c.chunk for c in near) == kept


def test_nearest_keeps_the_order_and_fills_up(store: Store) -> None:
    everything = store.nearest(vector("other"), 100)
    for where in (Kind("code"), Lang("de"), Not(Ext("txt")), In(ROOT)):
        kept = set(by_sql(store, where))
        wanted = [c.chunk for c in everything if c.chunk in kept]
        assert [c.chunk for c in store.nearest(vector("other"), 100, where=where)] == wanted
        assert [c.chunk for c in store.nearest(vector("other"), 2, where=where)] == wanted[:2]


def test_a_text_in_many_files_is_found_in_the_one_that_counts(store: Store) -> None:
    put(store, *(update(f"/library/copies/{i}.txt", "licence") for i in range(300)))
    put(store, update("/library/copies/last.md", "licence"))
    assert [c.cosine > 0.99 for c in store.nearest(vector("licence"), 3, where=Ext("md"))][:1] == [True]
    allowed = store.allowed(Ext("md"))
    assert allowed is not None
    found = [chunk for chunks in store.chunks_of(allowed.tolist(), Ext("md")).values() for chunk in chunks]
    paths = sorted(chunk.path for chunk in store.chunks(found).values())
    assert paths == ["/library/My Docs/猫 Notes.md", "/library/copies/last.md"]


def test_every_change_of_the_library_is_seen(store: Store) -> None:
    def kept(where: Condition) -> list[str]:
        found = by_columns(store, where)
        assert found == by_sql(store, where)
        return sorted({chunk.path for chunk in store.chunks(found).values()})

    assert kept(Lang("fr")) == []
    put(store, update("/library/new.txt", "bonjour", langs=("fr",), at=200))
    assert kept(Lang("fr")) == kept(Modified(after=150.0)) == ["/library/new.txt"]
    put(store, update("/library/new.txt", "bonjour", langs=("it",), at=200))
    assert kept(Lang("fr")) == []
    assert kept(Lang("it")) == ["/library/new.txt"]
    store.move("/library/new.txt", "/library/src/new.rst", ROOT)
    assert (
        kept(Lang("it"))
        == kept(Ext("rst"))
        == kept(All((In("src"), Name("new"))))
        == ["/library/src/new.rst"]
    )
    store.touch("/library/src/new.rst", 12345, 300 * S)
    assert kept(Size(least=10_000)) == kept(Modified(after=250.0)) == ["/library/src/new.rst"]
    store.remove(["/library/src/new.rst"])
    assert kept(Lang("it")) == kept(Ext("rst")) == []
    assert kept(Not(Lang("it"))) == kept(All(()))
    store.remove_root(ROOT)
    assert kept(All(())) == []
    assert store.listed(All(()), 10) == []
    assert store.nearest(vector("same"), 5, where=Not(Ext("x"))) == []


def test_columns_do_not_grow_with_churn(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "_CHUNKS_READ", 20)
    for turn in range(30):
        put(store, update("/library/churn.txt", *(f"{turn} {i}" for i in range(10))))
        assert len(by_columns(store, Name("churn"))) == 10
    assert len(store._filters._columns.ids) < 80


def test_allowed_texts(store: Store) -> None:
    assert store.allowed(None) is None
    allowed = store.allowed(Lang("de"))
    assert allowed is not None
    assert allowed.dtype == np.int64
    assert set(store.chunks_of(allowed.tolist())) == set(allowed.tolist())
    assert store.chunks_of([10**9]) == {}


def test_what_was_asked_before_is_not_worked_out_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    where = All((Ext("txt"), Phrase("same")))
    first = store.allowed(where)
    monkeypatch.setattr(filters, "_files", None)
    assert store.allowed(where) is first
    monkeypatch.undo()
    store.remove(["/library/a/report.tar.gz.txt"])
    assert len(by_columns(store, where)) == 1


def test_the_cache_has_a_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "_CACHE_BYTES", 2000)
    for number in range(200):
        store.allowed(Not(Name(f"n{number}")))
    assert len(store._filters._cache) < 30
    assert store._filters._cached_bytes == sum(map(filters._weight, store._filters._cache.values()))


def test_facts(store: Store) -> None:
    facts = store.facts()
    assert facts.extensions[:2] == (("txt", 4), ("pdf", 2))
    assert dict(facts.kinds) == {
        "text": 5,
        "code": 3,
        "pdf": 2,
        "markdown": 1,
        "python": 1,
        "c": 1,
        "bash": 1,
    }
    assert dict(facts.languages) == {"en": 5, "de": 3, "code": 3}
    folders = dict(facts.folders)
    assert facts.folders[0] == (ROOT, 11)
    assert (folders["/library/src"], folders["/library/src/deep"], folders["/library/My Docs"]) == (4, 1, 2)
    assert store.facts() is facts


def test_a_folder_name_that_is_no_text_can_be_completed(store: Store) -> None:
    put(store, update("/library/b\udcffd/x", "hi"))
    store._facts = None
    assert ("/library/b\udcffd", 1) in store.facts().folders


@pytest.mark.parametrize("text", ["\ud800", "\0", "%" * 500, "x" * 60_000, "\\", "'\"", "ÿ" * 3000])
def test_hostile_values_find_nothing_and_break_nothing(store: Store, text: str) -> None:
    for where in (Ext(text), Kind(text), Lang(text), In(text), In("/" + text), Name(text), Phrase(text)):
        assert by_sql(store, where) == by_columns(store, where)
        assert query.unparse(query.Query(texts=(), where=where)) is not None


def test_an_older_library_can_be_filtered(tmp_path: Path) -> None:
    db = Database(str(tmp_path / "catalog.sqlite"))
    for version in range(2):
        db.execute(MIGRATIONS[version])
    db.pragma("user_version", 2)
    db.execute("INSERT INTO meta VALUES('identity', '0011223344556677'), ('clean', 1)")
    db.execute("INSERT INTO roots(path) VALUES(?)", (b"/library",))
    db.execute(
        "INSERT INTO files(path, root, size, mtime_ns, content, status, media, chunks)"
        " VALUES(?, 1, 5, 5, x'00', 'indexed', 'pdf', 1)",
        (b"/library/Old.Pdf",),
    )
    db.execute("INSERT INTO texts(hash) VALUES(x'01')")
    db.execute(
        "INSERT INTO chunks(file, slot, text_id, start, end, lang, locator, context, text)"
        " VALUES(1, 0, 1, 0, 3, 'en', '{}', '', 'old words')"
    )
    db.close()
    store = Store(tmp_path)
    store._use_chroma = False
    for text in ("ext:pdf", "name:old", '"old words"', "lang:en -ext:txt"):
        assert names(store, parse(text).where) == ["Old.Pdf"]
    store.close()
