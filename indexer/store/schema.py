"""The catalog's tables, and how a library of an earlier version is brought up to date.

A migration is never edited once it was released: version n of a library is what the first n of them made.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import cast

from indexer.errors import FatalError
from indexer.store import concepts, lexical
from indexer.store.database import Database

MIGRATIONS = (
    """
    CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE roots(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        path BLOB NOT NULL UNIQUE,
        online INTEGER NOT NULL DEFAULT 1
    );
    CREATE TABLE files(
        id INTEGER PRIMARY KEY,
        path BLOB NOT NULL UNIQUE,
        root INTEGER NOT NULL REFERENCES roots(id),
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        content BLOB NOT NULL,
        status TEXT NOT NULL CHECK(status IN ('indexed', 'failed', 'skipped')),
        media TEXT,
        code_language TEXT,
        title TEXT NOT NULL DEFAULT '',
        chunks INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX files_by_root ON files(root, status, size, chunks);
    CREATE INDEX files_by_content ON files(content) WHERE status = 'indexed';
    CREATE TABLE problems(
        file INTEGER PRIMARY KEY REFERENCES files(id) ON DELETE CASCADE,
        kind TEXT NOT NULL CHECK(kind IN ('failed', 'skipped')),
        title TEXT NOT NULL,
        message TEXT NOT NULL,
        at REAL NOT NULL
    );
    CREATE INDEX problems_by_time ON problems(at);
    CREATE TABLE texts(
        id INTEGER PRIMARY KEY,
        hash BLOB NOT NULL UNIQUE,
        unused_since REAL
    );
    CREATE INDEX texts_unused ON texts(unused_since) WHERE unused_since IS NOT NULL;
    CREATE TABLE free_texts(id INTEGER PRIMARY KEY);
    CREATE TABLE chunks(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        file INTEGER NOT NULL REFERENCES files(id) ON DELETE CASCADE,
        slot INTEGER NOT NULL,
        text_id INTEGER NOT NULL REFERENCES texts(id),
        start INTEGER NOT NULL,
        end INTEGER NOT NULL,
        lang TEXT NOT NULL,
        locator TEXT NOT NULL,
        context TEXT NOT NULL,
        text TEXT NOT NULL
    );
    CREATE INDEX chunks_by_file ON chunks(file, slot);
    CREATE INDEX chunks_by_text ON chunks(text_id);
    CREATE TABLE models(id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, dim INTEGER NOT NULL);
    -- key: model << 32 | text; data: float16, little endian, as the encoder gave it
    CREATE TABLE vectors(key INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE indexes(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        model INTEGER NOT NULL REFERENCES models(id),
        generation INTEGER NOT NULL,
        state TEXT NOT NULL CHECK(state IN ('building', 'active')),
        UNIQUE(model, generation)
    );
    CREATE TABLE outbox(
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        index_id INTEGER NOT NULL REFERENCES indexes(id) ON DELETE CASCADE,
        text_id INTEGER NOT NULL,
        UNIQUE(index_id, text_id)
    );
    """,
    "ALTER TABLE roots ADD COLUMN device INTEGER;",
    # What filters ask for. A name begins behind the last slash of the path, a suffix behind the last dot of
    # the name; the one is computed when asked for, the other kept in its index.
    """
    ALTER TABLE files ADD COLUMN name TEXT GENERATED ALWAYS AS (
        substr(CAST(path AS TEXT),
            1 + length(rtrim(CAST(path AS TEXT), replace(CAST(path AS TEXT), '/', ''))))) VIRTUAL;
    ALTER TABLE files ADD COLUMN suffix TEXT GENERATED ALWAYS AS (
        CASE WHEN instr(name, '.') THEN
            lower(substr(name, 1 + length(rtrim(name, replace(name, '.', ''))))) ELSE '' END) VIRTUAL;
    CREATE INDEX files_by_suffix ON files(suffix);
    CREATE INDEX files_by_kind ON files(media, code_language);
    CREATE INDEX files_by_time ON files(mtime_ns, size);
    CREATE INDEX chunks_by_place ON chunks(file, lang, text_id);
    """,
    lexical.TABLES,
    # How a model is chosen and what it is for. A library from before had one model, the bundled one.
    """
    ALTER TABLE models ADD COLUMN reference TEXT NOT NULL DEFAULT '';
    ALTER TABLE models ADD COLUMN dimensions INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE models ADD COLUMN name TEXT NOT NULL DEFAULT '';
    ALTER TABLE models ADD COLUMN role TEXT NOT NULL DEFAULT ''
        CHECK(role IN ('', 'active', 'building', 'kept'));
    ALTER TABLE models ADD COLUMN keep INTEGER NOT NULL DEFAULT 0;
    """,
    # A disk may give back other bytes than it was given, without saying so: `ledger.checksum` of the vector.
    # NULL for those from before, which get theirs in the background. Texts have their hash already.
    """
    ALTER TABLE vectors ADD COLUMN crc INTEGER;
    INSERT INTO meta SELECT 'unsummed', -1 WHERE EXISTS(SELECT 1 FROM vectors);
    """,
    # Disks that are mounted inside a folder, and come and go without it.
    """
    CREATE TABLE volumes(
        id INTEGER PRIMARY KEY,
        root INTEGER NOT NULL REFERENCES roots(id) ON DELETE CASCADE,
        path BLOB NOT NULL,
        online INTEGER NOT NULL DEFAULT 1,
        UNIQUE(root, path)
    );
    """,
    # What texts are about, across languages.
    concepts.TABLES,
)
SCHEMA_VERSION = len(MIGRATIONS)

# What a write transaction touched, for its end. Triggers note the files, so that no statement can forget to.
TOUCHED = """
    CREATE TEMP TABLE touched(id INTEGER PRIMARY KEY);
    CREATE TEMP TABLE touched_files(id INTEGER PRIMARY KEY);
    CREATE TEMP TRIGGER file_came AFTER INSERT ON main.files
        BEGIN INSERT OR IGNORE INTO touched_files VALUES(new.id); END;
    CREATE TEMP TRIGGER file_changed AFTER UPDATE OF path, root, status, title ON main.files
        WHEN (old.path, old.root, old.status, old.title) != (new.path, new.root, new.status, new.title)
        BEGIN INSERT OR IGNORE INTO touched_files VALUES(new.id); END;
    CREATE TEMP TRIGGER file_went AFTER DELETE ON main.files BEGIN
        INSERT OR IGNORE INTO touched_files VALUES(old.id);
        INSERT OR IGNORE INTO meta VALUES('residue', unixepoch('subsec'));
    END;
"""


def check_version(db: Database, file: Path) -> None:
    """Refuse a library that a newer program made; the connection is then closed.

    Raises:
        FatalError: It is newer.
    """
    found = cast(int, db.pragma("user_version"))
    if found > SCHEMA_VERSION:
        db.close()
        raise FatalError(
            "The library was made by a newer Dragoman",
            f"{file} has version {found}, this program knows up to {SCHEMA_VERSION}. "
            "Upgrade Dragoman, or choose another data folder.",
        )


def upgrade(db: Database) -> None:
    """Bring a library up to the present version, each step in a transaction of its own."""
    for version in range(cast(int, db.pragma("user_version")), SCHEMA_VERSION):
        with db:
            db.execute(MIGRATIONS[version])
            if version == 0:
                identity = [("identity", secrets.token_hex(8)), ("clean", 1)]
                db.executemany("INSERT INTO meta VALUES(?, ?)", identity)
            db.pragma("user_version", version + 1)


def stain(db: Database) -> None:
    """Note, in the transaction that deletes something, that its traces are to be erased (`Catalog.scrub`)."""
    db.execute("INSERT OR IGNORE INTO meta VALUES('residue', unixepoch('subsec'))")
