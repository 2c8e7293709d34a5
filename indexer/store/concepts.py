"""What the texts of the catalog are about: for each, the concepts of `indexer.pivot` that its words mean.

A row is made in the transaction that indexes a text's words. Rows of an earlier version's library, or of
other lexicons than today's, are made in the background; until that is done, nobody is told any.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from indexer.analysis import terms
from indexer.pivot import Passages, lexical_terms, opened, pivot

if TYPE_CHECKING:
    from indexer.store.database import Database
    from indexer.store.lexical import Ids

TABLES = "CREATE TABLE concepts(text_id INTEGER PRIMARY KEY, data BLOB NOT NULL);"
# So long an opening may take making them; what is left then is made in the background.
AT_OPENING_S = 2.0
_SOME = 400


def made(text: str, context: str, lang: str, found: Sequence[str] | None = None) -> bytes:
    """The concepts of a passage.

    Args:
        text: The passage.
        context: What stands above it.
        lang: Its language.
        found: The terms of what stands above, then its own, where they are known.
    """
    if found is None:
        found = [*terms(context), *terms(text)]
    return pivot().passage(lexical_terms(f"{context}\n{text}" if context else text, found), lang)


def put(db: Database, text_id: int, text: str, context: str, found: Sequence[str], lang: str) -> None:
    """Note what a text is about."""
    row = (text_id, made(text, context, lang, found))
    db.execute("INSERT OR REPLACE INTO concepts VALUES(?, ?)", row)


def drop(db: Database, text_ids: Sequence[int]) -> None:
    """Forget texts."""
    db.executemany("DELETE FROM concepts WHERE text_id = ?", ((t,) for t in text_ids))


def renew(db: Database) -> None:
    """See to it that all are of today's lexicons: at once what is made in no time, the rest by `fill`."""
    with db:
        stored = db.ask("SELECT value FROM meta WHERE key = 'pivot'")
        if not stored or stored[0][0] != pivot().key:
            db.execute("INSERT OR REPLACE INTO meta VALUES('pivot', ?)", (pivot().key,))
            db.execute(
                "INSERT OR REPLACE INTO meta SELECT 'untranslated', 0 WHERE EXISTS(SELECT 1 FROM texts)"
            )
    began = time.monotonic()
    while time.monotonic() - began < AT_OPENING_S:
        with db:
            if not fill(db):
                return


def missing(db: Database) -> bool:
    """Whether some are still to be made."""
    return bool(db.ask("SELECT 1 FROM meta WHERE key = 'untranslated'"))


def fill(db: Database) -> bool:
    """Make some of those that are missing; False when there are none. Inside a transaction."""
    rows = db.ask("SELECT value FROM meta WHERE key = 'untranslated'")
    if not rows:
        return False
    texts = db.ask(
        "SELECT texts.id, text, context, chunks.lang FROM texts"
        " JOIN chunks ON chunks.id = (SELECT min(id) FROM chunks WHERE text_id = texts.id)"
        " WHERE texts.id > ? ORDER BY texts.id LIMIT ?",
        (rows[0][0], _SOME),
    )
    db.executemany(
        "INSERT OR REPLACE INTO concepts VALUES(?, ?)",
        ((text_id, made(text, context, lang)) for text_id, text, context, lang in texts),
    )
    if len(texts) == _SOME:
        db.execute("UPDATE meta SET value = ? WHERE key = 'untranslated'", (texts[-1][0],))
        return True
    # A text out of use has no words any more; what is left of it here is of other lexicons.
    db.execute("DELETE FROM concepts WHERE text_id IN (SELECT id FROM texts WHERE unused_since IS NOT NULL)")
    db.execute("DELETE FROM meta WHERE key = 'untranslated'")
    return False


def has(db: Database, text_id: int) -> bool:
    """Whether a text's concepts are known."""
    return bool(db.ask("SELECT 1 FROM concepts WHERE text_id = ?", (text_id,)))


def of(db: Database, text_id: int) -> bytes:
    """What is stored of a text; nothing where it is not known."""
    rows = db.ask("SELECT data FROM concepts WHERE text_id = ?", (text_id,))
    return rows[0][0] if rows and isinstance(rows[0][0], bytes) else b""


def read(db: Database, text_ids: Ids) -> Passages | None:
    """The concepts of texts; None while some are still to be made.

    Returns:
        Rows are places in `text_ids`; a text that has none has no entry.
    """
    if missing(db):
        return None
    wanted, where = np.unique(text_ids, return_inverse=True)
    rows = db.ask_at_once(
        ("text_id", "hex(data)"),
        # A disk may have made something else of it.
        "FROM json_each(?) AS wanted JOIN concepts ON text_id = wanted.value WHERE typeof(data) = 'blob'",
        (json.dumps(wanted.tolist()),),
    )
    stored = [b""] * len(wanted)
    for place, (_, data) in zip(
        np.searchsorted(wanted, [row[0] for row in rows]).tolist(), rows, strict=True
    ):
        stored[place] = bytes.fromhex(data)
    return opened([stored[place] for place in where.tolist()])
