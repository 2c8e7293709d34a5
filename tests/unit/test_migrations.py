"""A library of every earlier version, with data in it, is brought up to date; one of a newer is refused."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from indexer.errors import FatalError
from indexer.store import Store
from indexer.store.database import CATALOG_FILE, Database
from indexer.store.ledger import checksum
from indexer.store.schema import MIGRATIONS, SCHEMA_VERSION
from tests.unit.test_store import MODEL, ROOT, chunk, found, put, texts_of, update, vector

# What made the libraries that people have. A released step is never edited: add another one.
RELEASED = {
    1: "5aaf7c9dc9897547",
    2: "f23dce2a2960b59d",
    3: "1f930fa5fc2769d3",
    4: "5b295fa3d8ad5e41",
    5: "36fe10f80b49f1fd",
    6: "4cf7f609fa7d28a1",
    7: "10a7059400615145",
    8: "8b2ac11a4a87c51a",
}
TEXTS = [f"a boat number {number}" for number in range(12)]


def test_released_migrations_are_as_they_were() -> None:
    made = {
        version: hashlib.sha256(" ".join(sql.split()).encode()).hexdigest()[:16]
        for version, sql in enumerate(MIGRATIONS, 1)
    }
    assert made == RELEASED


def made_by(version: int, folder: Path) -> Path:
    """A library as a program of that version left it: files, a copy, problems, texts out of use, vectors."""
    folder.mkdir()
    db = Database(str(folder / CATALOG_FILE))
    db.pragma("journal_mode", "wal")
    for sql in MIGRATIONS[:version]:
        db.execute(sql)
    db.pragma("user_version", version)
    db.execute("INSERT INTO meta VALUES('identity', '0123456789abcdef'), ('clean', 0)")
    if version >= 4:
        db.execute("INSERT INTO meta VALUES('unanalysed', 1)")  # as after a kill while it was filled
    db.execute("INSERT INTO roots(id, path) VALUES(1, ?)", (os.fsencode(ROOT),))
    for number in range(4):
        db.execute(
            "INSERT INTO files(id, path, root, size, mtime_ns, content, status, media, title, chunks)"
            " VALUES(?, ?, 1, 10, 11, ?, 'indexed', 'text', 'On boats', 3)",
            (number + 1, f"{ROOT}/folder/f{number}.txt".encode(), bytes([number]) * 16),
        )
    db.execute(
        "INSERT INTO files(id, path, root, size, mtime_ns, content, status)"
        " VALUES(9, ?, 1, 1, 1, x'', 'failed')",
        (f"{ROOT}/broken.pdf".encode(),),
    )
    db.execute("INSERT INTO problems VALUES(9, 'failed', 'Cannot be read', 'It is broken.', 1.0)")
    db.execute("INSERT INTO models(id, key, dim) VALUES(1, ?, ?)", (MODEL.key, MODEL.dim))
    if version >= 5:
        db.execute("UPDATE models SET role = 'active', name = 'Test'")
    for number, text in enumerate([*TEXTS, "out of use"], 1):
        unused = 1.0 if text == "out of use" else None
        db.execute(
            "INSERT INTO texts(id, hash, unused_since) VALUES(?, ?, ?)",
            (number, chunk(text).text_hash, unused),
        )
        if version >= 4:
            db.execute("UPDATE texts SET lang = 'en'")
        half = vector(text).astype("<f2").tobytes()
        db.execute("INSERT INTO vectors(key, data) VALUES(?, ?)", (1 << 32 | number, half))
        if version >= 6:
            crc = checksum(chunk(text).text_hash, bytes(half))
            db.execute("UPDATE vectors SET crc = ? WHERE key = ?", (crc, 1 << 32 | number))
    for number, text in enumerate(TEXTS):
        db.execute(
            "INSERT INTO chunks(file, slot, text_id, start, end, lang, locator, context, text)"
            " VALUES(?, ?, ?, 0, 9, 'en', '{\"page\":1}', '', ?)",
            (number // 3 + 1, number % 3, number + 1, text),
        )
    db.execute("INSERT INTO indexes(id, model, generation, state) VALUES(1, 1, 1, 'active')")
    db.execute("INSERT INTO outbox(index_id, text_id) VALUES(1, 2)")
    db.execute("INSERT INTO free_texts VALUES(40)")
    if version >= SCHEMA_VERSION:
        raise ValueError("that is the present one")
    db.close()
    return folder


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_library_of_every_version_is_brought_up_to_date(version: int, tmp_path: Path) -> None:
    folder = made_by(version, tmp_path / "data")
    store = Store(folder)
    store._use_chroma = False
    store.use_model(MODEL)
    assert store.check() == []
    counts = store.counts()
    assert (counts.files, counts.chunks, counts.failed) == (4, 12, 1)
    assert store.missing([chunk(text).text_hash for text in (*TEXTS, "out of use")]) == set()
    assert found(store, TEXTS[5], 1) == [(f"{ROOT}/folder/f1.txt", TEXTS[5], 1.0)]
    assert [text for _, text in texts_of(store, f"{ROOT}/folder/f3.txt")] == TEXTS[9:]
    put(store, update(f"{ROOT}/new", "something new", TEXTS[0]))
    assert store.check() == []
    deadline = time.monotonic() + 20
    while store._keeper._round() and _unsummed(store):
        assert time.monotonic() < deadline
        store._keeper._changed_at -= 60  # nothing changed for long
    with store._catalog.read() as db:
        rows = db.ask("SELECT data, crc, hash FROM vectors JOIN texts ON texts.id = key & 4294967295")
        assert db.pragma("user_version") == SCHEMA_VERSION
    assert [crc for data, crc, text_hash in rows if crc != checksum(text_hash, data)] == []
    assert len(rows) == 14
    store.close()
    again = Store(folder)
    assert again.counts().chunks == 14
    again.close()


def _unsummed(store: Store) -> int:
    with store._catalog.read() as db:
        return int(db.ask("SELECT count(*) FROM vectors WHERE crc IS NULL")[0][0])


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_an_upgrade_that_is_killed_after_any_step_goes_on(version: int, tmp_path: Path) -> None:
    folder = made_by(1, tmp_path / "data")
    db = Database(str(folder / CATALOG_FILE))
    for step in range(1, version):
        with db:
            db.execute(MIGRATIONS[step])
            db.pragma("user_version", step + 1)
    db.close()
    store = Store(folder)
    store._use_chroma = False
    store.use_model(MODEL)
    assert store.check() == []
    assert store.counts().chunks == 12
    store.close()


def test_a_step_that_fails_leaves_the_version_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made_by(3, tmp_path / "data")
    before = MIGRATIONS
    broken = (*before[:4], before[4] + "; INSERT INTO nowhere VALUES(1);", *before[5:])
    monkeypatch.setattr("indexer.store.schema.MIGRATIONS", broken)
    with pytest.raises(Exception, match="nowhere"):
        Store(folder)
    monkeypatch.setattr("indexer.store.schema.MIGRATIONS", before)
    db = Database(str(folder / CATALOG_FILE))
    assert db.pragma("user_version") == 4
    assert "role" not in {row[1] for row in db.ask("PRAGMA table_info(models)")}
    db.close()
    store = Store(folder)
    assert store.counts().chunks == 12
    store.close()


def test_a_library_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    folder = made_by(SCHEMA_VERSION - 1, tmp_path / "data")
    db = Database(str(folder / CATALOG_FILE))
    db.pragma("user_version", SCHEMA_VERSION + 1)
    db.close()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(FatalError) as caught:
        Store(folder)
    assert caught.value.title == "The library was made by a newer Dragoman"
    assert "Upgrade Dragoman" in caught.value.message
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert after[CATALOG_FILE] == before[CATALOG_FILE]


def test_vectors_are_compared_as_before(tmp_path: Path) -> None:
    """No step changes what a vector is: the nearest texts of the oldest library are those of a new one."""
    store = Store(made_by(1, tmp_path / "old"))
    store._use_chroma = False
    store.use_model(MODEL)
    rows = [store.nearest(vector("a boat"), 12)]
    store.close()
    fresh = Store(tmp_path / "new")
    fresh._use_chroma = False
    fresh.use_model(MODEL)
    fresh.add_root(ROOT)
    put(fresh, *(update(f"{ROOT}/folder/f{n}.txt", *TEXTS[3 * n : 3 * n + 3]) for n in range(4)))
    rows.append(fresh.nearest(vector("a boat"), 12))
    fresh.close()
    cosines = [[round(hit.cosine, 5) for hit in found] for found in rows]
    assert json.dumps(cosines[0]) == json.dumps(cosines[1])
    assert np.isfinite(cosines).all()
