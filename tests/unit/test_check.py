"""Each part of a library is damaged for real; the check sees and mends it. Only the damaged is embedded."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from indexer.api import DAMAGED
from indexer.errors import FatalError
from indexer.store import ModelKey, Store
from indexer.store.check import CancelledError
from indexer.store.database import CATALOG_FILE, Database
from indexer.store.salvage import ASIDE, salvage
from tests.unit.test_store import MODEL, ROOT, found, put, texts_of, update, vector

PLAIN = [
    update(f"{ROOT}/f{i}", *(f"a boat number {i} and a harbour {j}" for j in range(6))) for i in range(40)
]


def opened(folder: Path) -> Store:
    store = Store(folder)
    store._use_chroma = False
    store.use_model(MODEL)
    return store


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("library")
    store = opened(made)
    store.add_root(ROOT)
    put(store, *PLAIN)
    assert store.check() == []
    store.close()
    return made


@pytest.fixture
def folder(tmp_path: Path, library: Path) -> Path:
    """The data folder of a library that was closed in good order."""
    return shutil.copytree(library, tmp_path / "data")


@pytest.fixture
def catalog(folder: Path) -> Iterator[Database]:
    """Its catalog, for doing damage to it."""
    db = Database(str(folder / CATALOG_FILE))
    yield db
    db.close()


def embed_again(store: Store) -> int:
    """What the library does after a repair; how many texts that were."""
    texts = store.active.ledger.pending(0, 1000)
    store.active.ledger.fill(texts, np.array([vector(text.text) for text in texts]).reshape(-1, 16))
    return len(texts)


def see_and_mend(folder: Path, what: str, count: int = 1, *, embedded: int = 0) -> list[str]:
    """The check names the damage, mends it, and finds nothing afterwards; files to be read again."""
    store = opened(folder)
    seen = [(d.what, d.count, d.mended) for d in store.examine().differences]
    assert (what, count, 0) in seen
    assert store.examine().reread == []  # looking changes nothing
    outcome = store.examine(repair=True)
    assert (what, count, count) in [(d.what, d.count, d.mended) for d in outcome.differences]
    assert embed_again(store) == embedded
    for path in outcome.reread:
        put(store, next(u for u in PLAIN if u.path == path))
    assert embed_again(store) == 0
    assert store.check() == []
    text = PLAIN[7].chunks[3].text
    assert found(store, text, 1) == [(PLAIN[7].path, text, 1.0)]
    assert len(texts_of(store, PLAIN[7].path)) == 6
    store.close()
    return outcome.reread


def test_a_flipped_bit_in_a_vector_costs_one_embedding(folder: Path, catalog: Database) -> None:
    key, data = catalog.ask("SELECT key, data FROM vectors LIMIT 1 OFFSET 17")[0]
    catalog.execute("UPDATE vectors SET data = ? WHERE key = ?", (bytes([data[0] ^ 4]) + data[1:], key))
    see_and_mend(folder, "damaged vectors", embedded=1)


def test_swapped_vectors_are_seen(folder: Path, catalog: Database) -> None:
    (one, first), (other, second) = catalog.ask("SELECT key, data FROM vectors LIMIT 2")
    catalog.executemany("UPDATE vectors SET data = ? WHERE key = ?", [(first, other), (second, one)])
    see_and_mend(folder, "damaged vectors", 2, embedded=2)


@pytest.mark.parametrize("bad", [b"", b"x", bytes(32), b"\x00\x7c" * 16])
def test_what_is_no_vector_is_seen(folder: Path, catalog: Database, bad: bytes) -> None:
    catalog.execute(
        "UPDATE vectors SET data = ?, crc = NULL WHERE key = (SELECT max(key) FROM vectors)", (bad,)
    )
    what = "vectors of the wrong length" if len(bad) != 32 else "damaged vectors"
    see_and_mend(folder, what, embedded=1)


def test_a_lost_vector_is_embedded(folder: Path, catalog: Database) -> None:
    catalog.execute("DELETE FROM vectors WHERE key IN (SELECT key FROM vectors LIMIT 3)")
    see_and_mend(folder, "texts without a vector of the active model", 3, embedded=3)


def test_vectors_without_a_checksum_get_one(folder: Path, catalog: Database) -> None:
    catalog.execute("UPDATE vectors SET crc = NULL")
    see_and_mend(folder, "vectors of an earlier release without a checksum", 240)
    assert catalog.ask("SELECT count(*) FROM vectors WHERE crc IS NULL") == [(0,)]


def test_a_damaged_text_is_read_again_and_not_embedded(folder: Path, catalog: Database) -> None:
    catalog.execute("UPDATE chunks SET text = replace(text, 'boat', 'goat') WHERE slot = 2 AND file = 5")
    assert see_and_mend(folder, "passages whose text is damaged") == [f"{ROOT}/f4"]


def test_a_damaged_hash_is_known_by_the_vector(folder: Path, catalog: Database) -> None:
    catalog.execute("UPDATE texts SET hash = randomblob(16) WHERE id = 9")
    assert see_and_mend(folder, "damaged hashes of texts") == []


@pytest.mark.parametrize(
    ("damage", "what", "count"),
    [
        ("DELETE FROM text_terms WHERE rowid IN (3, 4)", "texts in use without their words", 2),
        (
            "DELETE FROM text_terms WHERE rowid = 3;"
            " INSERT INTO text_terms(rowid, body) VALUES(3, 'harbour boat')",
            "texts whose words in the index are not theirs",
            1,
        ),
        ("INSERT INTO text_terms(rowid, body) VALUES(9999, 'ghost')", "words of no text", 1),
        ("DELETE FROM concepts WHERE text_id IN (3, 4)", "texts in use without what they are about", 2),
        (
            "UPDATE concepts SET data = x'30120000' WHERE text_id = 5",
            "texts that are about something else than it says",
            1,
        ),
        ("INSERT INTO concepts VALUES(9999, x'30120000')", "what no text is about", 1),
        ("DELETE FROM file_terms WHERE rowid = 8", "indexed files without the words of their names", 1),
        (
            "UPDATE files SET path = CAST('/library/renamed' AS BLOB) WHERE id = 40",
            "files whose words in the index are not those of their names",
            1,
        ),
        (
            "UPDATE files SET path = CAST('/elsewhere/f39' AS BLOB) WHERE id = 40",
            "files that are not in their folder",
            1,
        ),
        (
            "INSERT INTO file_terms(rowid, name) VALUES(99, 'ghost')",
            "words of names of no indexed file",
            1,
        ),
        (
            "INSERT INTO vectors SELECT key + 5000, data, crc FROM vectors LIMIT 2",
            "vectors of no text",
            2,
        ),
        ("INSERT INTO free_texts VALUES(2)", "texts that are free and taken", 1),
        (
            "UPDATE texts SET unused_since = 1 WHERE id IN (4, 5)",
            "texts wrongly marked as used or unused",
            2,
        ),
        (
            "INSERT INTO problems VALUES(3, 'failed', 'x', 'y', 1)",
            "problems of indexed files",
            1,
        ),
        ("DELETE FROM chunks WHERE file = 3 AND slot = 1", "files with gaps or doubles in their chunks", 1),
        (
            "PRAGMA foreign_keys = OFF; UPDATE chunks SET text_id = 7777 WHERE file = 3 AND slot = 1",
            "chunks whose text is unknown",
            1,
        ),
        (
            "PRAGMA foreign_keys = OFF; UPDATE chunks SET file = 777 WHERE file = 3 AND slot = 1",
            "chunks of no file",
            1,
        ),
    ],
)
def test_rows_that_do_not_fit_are_mended(
    folder: Path, catalog: Database, damage: str, what: str, count: int
) -> None:
    catalog.execute(damage)
    see_and_mend(folder, what, count)


def test_a_wrong_row_of_the_matrix_is_written_again(folder: Path) -> None:
    file = folder / f"vectors-{MODEL.key}.f32"
    data = bytearray(file.read_bytes())
    data[4096 + 4 * 16 * 12 + 2] ^= 0x40
    file.write_bytes(data)
    see_and_mend(folder, "rows of the exact matrix that differ from the catalog")


def test_an_index_of_sqlites_own_is_made_again(folder: Path, catalog: Database) -> None:
    sql = catalog.ask("SELECT sql FROM sqlite_master WHERE name = 'chunks_by_text'")[0][0]
    change = "UPDATE sqlite_master SET sql = ? WHERE name = 'chunks_by_text'"
    for statement, then in ((sql.replace("text_id", "start"), "REINDEX chunks_by_text"), (sql, "SELECT 1")):
        db = Database(str(folder / CATALOG_FILE))
        db.pragma("writable_schema", True)
        db.execute(change, (statement,))
        db.close()
        db = Database(str(folder / CATALOG_FILE))
        db.execute(then)
        db.close()
    store = opened(folder)
    wrong = [d for d in store.examine(repair=True).differences if "own indexes" in d.what]
    assert [d.mended for d in wrong] == [d.count for d in wrong] != []
    assert store.check() == []
    store.close()


def test_a_damaged_index_of_words_is_made_again(folder: Path, catalog: Database) -> None:
    rows = catalog.ask("SELECT id, block FROM text_terms_data ORDER BY length(block) DESC LIMIT 1")
    catalog.execute(
        "UPDATE text_terms_data SET block = ? WHERE id = ?", (os.urandom(len(rows[0][1])), rows[0][0])
    )
    store = opened(folder)
    seen = {d.part for d in store.examine(repair=True).differences}
    assert seen == {"words"}
    assert store.check() == []
    assert embed_again(store) == 0
    store.close()


def test_files_that_nobody_needs_are_removed(folder: Path) -> None:
    for name in ("vectors-gone.f32", "settings.toml.new"):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (1, 1))
    see_and_mend(folder, "files in the data folder that nobody needs", 2)
    assert not list(folder.glob("vectors-gone.f32"))


def test_a_check_can_be_stopped(folder: Path) -> None:
    store = opened(folder)
    with pytest.raises(CancelledError):
        store.examine(stop=lambda: True)
    said: list[str] = []
    store.examine(tell=lambda what, *_: said.append(what))
    assert {"the database", "the texts", "the vectors", "the index of words"} <= set(said)
    store.close()


# --- a catalog that cannot be read ---------------------------------------------------------------


def page_of(db: Database, table: str, which: Callable[[list[int]], int]) -> int:
    """One of the leaf pages of a table."""
    pages = [
        row[0]
        for row in db.ask(
            "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path", (table,)
        )
    ]
    return which(pages)


def destroy(folder: Path, page: int, size: int) -> None:
    with (folder / CATALOG_FILE).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(os.urandom(size))


@pytest.mark.parametrize("table", ["vectors", "chunks", "texts", "files"])
def test_what_can_be_read_of_a_damaged_catalog_is_saved(folder: Path, catalog: Database, table: str) -> None:
    size = catalog.pragma("page_size")
    page = page_of(catalog, table, lambda pages: pages[len(pages) // 2])
    catalog.close()
    destroy(folder, page, size)
    saved = salvage(folder)
    assert saved.lost
    assert saved.kept["roots"] == 1
    assert (folder / ASIDE / CATALOG_FILE).is_file()
    store = opened(folder)
    known = {state.path for state in store.files(ROOT)}
    assert store.examine(repair=True).reread == []
    lost = {text.hash for text in store.active.ledger.pending(0, 1000)}
    wanted = {c.text_hash for u in PLAIN for c in u.chunks} & store.missing(
        {c.text_hash for u in PLAIN for c in u.chunks}
    )
    if table == "vectors":
        assert 0 < len(lost) < 240
        assert len(known) == 40
    elif table == "texts":
        assert 0 < len(wanted) <= 240
    else:
        # The vectors of what is read again are all there still.
        assert len(known) < 40
        assert not wanted
    put(store, *PLAIN)
    embed_again(store)
    assert store.check() == []
    assert store.counts().chunks == 240
    text = PLAIN[7].chunks[3].text
    assert found(store, text, 1) == [(PLAIN[7].path, text, 1.0)]
    store.close()


def test_a_catalog_that_is_no_database_is_replaced_and_kept(folder: Path) -> None:
    (folder / CATALOG_FILE).write_bytes(b"garbage" * 1000)
    with pytest.raises(FatalError) as caught:
        Store(folder)
    assert caught.value.title == DAMAGED
    assert "check --repair" in caught.value.message
    for noted in folder.glob(f"{CATALOG_FILE}-*"):
        noted.unlink()
    saved = salvage(folder)
    assert "the whole catalog" in saved.lines()[1]
    assert "add them again" in " ".join(saved.lines())
    assert (folder / ASIDE / CATALOG_FILE).read_bytes() == b"garbage" * 1000
    store = opened(folder)
    assert store.roots() == []
    store.close()


@pytest.mark.parametrize("how", ["garbage", "cut", "empty", "gone", "folder"])
def test_the_folders_are_known_though_nothing_of_the_catalog_can_be_read(folder: Path, how: str) -> None:
    file = folder / CATALOG_FILE
    if how == "garbage":
        file.write_bytes(os.urandom(file.stat().st_size))
    elif how in ("cut", "empty"):
        os.truncate(file, 3000 if how == "cut" else 0)
    else:
        file.unlink()
    if how == "folder":
        file.mkdir()
    with pytest.raises(FatalError) as caught:
        Store(folder)
    assert caught.value.title == DAMAGED
    saved = salvage(folder)
    assert saved.kept == {"roots": 1}
    assert (saved.aside is None) == (how == "gone")
    store = opened(folder)
    assert [root.path for root in store.roots()] == [ROOT]
    store.add_root("/another")
    store.remove_root(ROOT)
    store.close()
    file.unlink()
    salvage(folder)
    store = opened(folder)
    assert [root.path for root in store.roots()] == ["/another"]  # what was taken out does not come back
    store.close()


def test_a_catalog_that_lost_its_log_has_its_folders_again(
    folder: Path, catalog: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when somebody tidies up what lies beside it after a kill."""
    catalog.execute("PRAGMA foreign_keys = OFF; DELETE FROM roots; DELETE FROM files")
    catalog.close()
    store = opened(folder)
    assert [root.path for root in store.roots()] == [ROOT]
    store.add_root("/another")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("indexer.store.spare.synced", full)
    store.remove_root("/another")  # and is not to come back, though that cannot be noted
    store.close()
    monkeypatch.undo()
    store = opened(folder)
    assert [root.path for root in store.roots()] == [ROOT]
    store.close()


@pytest.mark.parametrize("length", [16, 4096])
def test_without_its_first_page_a_catalog_loses_nothing(folder: Path, length: int) -> None:
    file = folder / CATALOG_FILE
    spoiled = bytes(length) + file.read_bytes()[length:]
    file.write_bytes(spoiled)
    saved = salvage(folder)
    assert {name: saved.kept[name] for name in ("roots", "files", "vectors")} == {
        "roots": 1,
        "files": 40,
        "vectors": 240,
    }
    assert saved.lost == {}
    assert (folder / ASIDE / CATALOG_FILE).read_bytes() == spoiled
    store = opened(folder)
    assert store.examine(repair=True).reread == []
    assert store.active.ledger.pending(0, 10) == []
    store.close()


@pytest.mark.parametrize("table", ["vectors", "texts"])
def test_what_only_a_damaged_page_leads_to_is_found(folder: Path, catalog: Database, table: str) -> None:
    """The page above all leaves of a table: SQLite finds none of its rows any more."""
    size, kept = catalog.pragma("page_size"), catalog.ask("SELECT key, data, crc FROM vectors ORDER BY key")
    rows = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
    page = catalog.ask(rows, (table,))[0][0]
    assert catalog.ask("SELECT pagetype FROM dbstat WHERE pageno = ?", (page,)) == [("internal",)]
    catalog.close()
    destroy(folder, page, size)
    assert salvage(folder).kept["vectors"] == len(kept)
    store = opened(folder)
    put(store, *PLAIN)
    assert embed_again(store) == 0
    assert store.check() == []
    with store._catalog.read() as db:
        assert db.ask("SELECT key, data, crc FROM vectors ORDER BY key") == kept
    store.close()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_damaged_what_is_saved_is_sound(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    file = folder / CATALOG_FILE
    data = bytearray(file.read_bytes())
    for _ in range(rng.choice((1, 5, 40))):
        at, length = rng.randrange(len(data)), rng.choice((1, 100, 4096))
        length = len(data[at : at + length])
        # Other places of the same file lead further than noise does.
        other = rng.randrange(len(data) - length)
        noise = rng.random() < 0.5
        data[at : at + length] = rng.randbytes(length) if noise else data[other : other + length]
    file.write_bytes(data)
    saved = salvage(folder)
    assert saved.kept["roots"] == 1
    store = opened(folder)
    for path in store.examine(repair=True).reread:
        put(store, next(u for u in PLAIN if u.path == path))
    # What the sweep does: a path has no sum of its own.
    store.remove([state.path for state in store.files(ROOT) if state.path not in {u.path for u in PLAIN}])
    put(store, *PLAIN)
    embed_again(store)
    assert store.check() == []
    assert store.counts().chunks == 240
    store.close()


def test_a_model_that_is_let_go_during_a_check_is_left_out(folder: Path) -> None:
    store = opened(folder)
    other = store.open_index(ModelKey("other-model", 16), None)
    texts = other.ledger.pending(0, 1000)
    other.ledger.fill(texts, np.array([-vector(text.text) for text in texts]))

    def tell(what: str, done: int, total: int) -> None:
        if what == "the matrix" and other in store._indexes:
            store.close_index(other)
            store.forget_model("other-model")

    assert store.examine(repair=True, tell=tell).differences == []
    assert other not in store._indexes
    store.close()


def test_a_library_in_use_is_not_salvaged(folder: Path) -> None:
    store = opened(folder)
    with pytest.raises(FatalError, match="in use"):
        salvage(folder)
    store.close()
