"""The check of a real library: real model, real Chroma, real service, with damage done to each part."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from indexer import api
from indexer.client import IndexerClient
from indexer.errors import FatalError
from indexer.store import Store
from indexer.store.database import CATALOG_FILE, Database
from indexer.store.ledger import checksum
from indexer.store.schema import SCHEMA_VERSION
from tests.unit.test_store import MODEL, ROOT, put, update, vector

VECTORS = "SELECT hash, data FROM vectors JOIN texts ON texts.id = key & 4294967295"


def checked(client: IndexerClient, *, repair: bool = False) -> api.Checked:
    with contextlib.closing(client.check(repair=repair)) as messages:
        for message in messages:
            if isinstance(message, api.Checked):
                return message
    raise AssertionError("no answer")


def dragoman(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from indexer.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def wait(client: IndexerClient) -> None:
    for status in client.watch():
        if status.state == "watching" and status.index == "chroma":
            return


def test_only_what_is_damaged_is_embedded_again(tmp_path: Path) -> None:
    files, data = tmp_path / "files", tmp_path / "data"
    files.mkdir()
    for number in range(20):
        text = f"The boat number {number} lies in the harbour of island {number}."
        (files / f"note {number}.txt").write_text(text, encoding="utf-8")
    with IndexerClient(data) as client:
        client.add_folder(files)
        wait(client)
    with IndexerClient(data) as client:
        assert checked(client).differences == ()
        client.stop()
    db = Database(str(data / CATALOG_FILE))
    rows = db.ask("SELECT key, data FROM vectors ORDER BY key")
    for at in (3, 5):
        flipped = bytearray(rows[at][1])
        flipped[100] ^= 0x10
        db.execute("UPDATE vectors SET data = ? WHERE key = ?", (bytes(flipped), rows[at][0]))
    db.execute("DELETE FROM text_terms WHERE rowid = 7")
    db.execute("UPDATE chunks SET text = replace(text, 'boat', 'goat') WHERE id = 9")
    gone = db.ask("SELECT path FROM files JOIN chunks ON file = files.id WHERE text_id = 12")[0][0]
    db.close()
    Path(os.fsdecode(gone)).unlink()
    (data / "settings.toml").write_text("ignore = [", encoding="utf-8")
    with pytest.raises(FatalError, match="settings"):
        IndexerClient(data)
    done = dragoman("check", "--json", "--repair", "--data-dir", str(data))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "settings" in " ".join(answer["saved"])
    found = {d["what"]: d["count"] for d in answer["differences"]}
    assert found["damaged vectors"] == 2
    assert found["texts in use without their words"] == 1
    assert found["passages whose text is damaged"] == 1
    assert answer["embedded"] == 2
    assert answer["ok"]
    assert {"type", "id"}.isdisjoint({*answer, *answer["differences"][0]})
    with IndexerClient(data) as client:
        wait(client)
    with IndexerClient(data) as client:
        assert checked(client).differences == ()
        status = client.status()
        assert (status.files, status.chunks) == (19, 19)
        assert client.search("goat").hits[0].passages[0].why.terms == ()
        client.stop()
    again = Database(str(data / CATALOG_FILE))
    assert [row for row in again.ask("SELECT key, data FROM vectors ORDER BY key") if row not in rows] == []
    sums = again.ask("SELECT hash, data, crc FROM vectors JOIN texts ON texts.id = key & 4294967295")
    again.close()
    assert len(sums) >= 19
    assert all(checksum(text_hash, data) == crc for text_hash, data, crc in sums)


def test_a_destroyed_catalog_is_salvaged_and_filled_again_from_the_files(tmp_path: Path) -> None:
    files, data = tmp_path / "files", tmp_path / "data"
    files.mkdir()
    for number in range(30):
        (files / f"{number}.txt").write_text(f"A boat, number {number}. " + "x y " * 200, encoding="utf-8")
    with IndexerClient(data) as client:
        client.add_folder(files)
        wait(client)
    with IndexerClient(data) as client:
        client.stop()
    db = Database(str(data / CATALOG_FILE))
    before = dict(db.ask(VECTORS))
    leaves = "SELECT pageno FROM dbstat WHERE name = 'chunks' AND pagetype = 'leaf'"
    page = db.ask(f"{leaves} LIMIT 1 OFFSET 3")[0][0]
    size = db.pragma("page_size")
    db.close()
    with (data / CATALOG_FILE).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(os.urandom(size))
    looked = dragoman("check", "--json", "--data-dir", str(data))
    assert looked.returncode == 1
    assert not json.loads(looked.stdout)["ok"]
    done = dragoman("check", "--repair", "--json", "--data-dir", str(data))
    assert done.returncode == 0, done.stderr
    assert "Saved: 1 folders" in json.loads(done.stdout)["saved"][0]
    with IndexerClient(data) as client:
        wait(client)
    with IndexerClient(data) as client:
        assert client.status().files == 30
        assert checked(client).differences == ()
        client.stop()
    db = Database(str(data / CATALOG_FILE))
    after = dict(db.ask(VECTORS))
    db.close()
    assert after == before  # to the last bit: nothing was embedded again


def test_a_library_of_a_newer_version_is_refused_in_words(tmp_path: Path) -> None:
    Store(tmp_path).close()
    db = Database(str(tmp_path / CATALOG_FILE))
    db.pragma("user_version", SCHEMA_VERSION + 1)
    db.close()
    done = dragoman("status", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert "The library was made by a newer Dragoman" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_search_index_that_differs_is_put_right(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.use_model(MODEL)
    store.add_root(ROOT)
    put(store, update(f"{ROOT}/a", *(f"text {i}" for i in range(300))))
    assert store.wait_accelerator(60)
    assert store.check() == []
    accelerator = store.active._accelerator
    assert accelerator is not None
    serving = accelerator.serving()
    assert serving is not None
    wrong = np.stack([vector("something else"), vector("and more")])
    serving.engine.upsert([5, 6], wrong)
    serving.engine.upsert([900_001], wrong[:1])
    seen = {d.what: d.count for d in store.examine().differences}
    assert seen == {
        "vectors in the search index that are not the catalog's": 2,
        "vectors in the search index of texts that never were": 1,
    }
    outcome = store.examine(repair=True)
    assert [d.mended for d in outcome.differences] == [2, 1]
    assert store.wait_accelerator(60)
    assert store.check() == []
    assert store.active.ledger.pending(0, 10) == []
    after = accelerator.serving()
    assert after is not None
    assert after.index.generation == serving.index.generation + 1
    store.close()
