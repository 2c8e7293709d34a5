"""What SQLite is asked, and in what form it answers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from indexer.store.database import Database


@pytest.fixture
def db(tmp_path: Path) -> Database:
    found = Database(os.fspath(tmp_path / "some.sqlite"))
    found.execute("CREATE TABLE things(id INTEGER PRIMARY KEY, name, size)")
    rows = [(1, 'quote " and \\ and \u732b', 2**62), (2, None, -1.5), (3, "", 0), (4, "\x00\n", 7)]
    found.executemany("INSERT INTO things VALUES(?, ?, ?)", rows)
    return found


def test_rows_at_once_are_those_that_come_one_by_one(db: Database) -> None:
    source = "FROM things JOIN json_each(?) AS wanted ON things.id = wanted.value WHERE size < ?"
    for args in (("[1, 2, 3, 4]", 2**63 - 1), ("[2, 3]", 0), ("[]", 0)):
        one_by_one = db.ask(f"SELECT things.id, name, size * 1 {source}", args)
        at_once = db.ask_at_once(("things.id", "name", "size * 1"), source, args)
        assert [tuple(row) for row in at_once] == one_by_one
