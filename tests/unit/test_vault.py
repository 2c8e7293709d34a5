"""An encrypted catalog: its key, its file, what is left to be read, and a change that is killed."""

from __future__ import annotations

import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import apsw
import msgspec
import pytest

from indexer import api
from indexer.errors import FatalError, IndexerError
from indexer.settings import VAULT_FILE
from indexer.store import cipher, vault
from indexer.store.cipher import Key
from indexer.store.database import Database
from indexer.workers import ChunkFile, ChunkMemory
from tests.end2end.vault import CHEAP, fill, inspect, opened, secrets_in, text_of, vector

needs_ciphers = pytest.mark.skipif(not cipher.available(), reason="apsw without ciphers is installed")


def test_a_key_shows_itself_to_nobody() -> None:
    key = Key(bytes(range(32)))
    assert key.hex()[:8] not in f"{key!r} {key} {[key]}"
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(ValueError, match="32"):
        Key(b"short")


def test_the_passphrase_gives_the_key_and_no_other_does() -> None:
    header, key = vault.new_header("Grüße aus Köln", cost=CHEAP)
    assert vault.key_of(header, "Grüße aus Köln").hex() == key.hex()
    assert vault.key_of(header, "Gru\u0308ße aus Ko\u0308ln").hex() == key.hex()  # composed otherwise
    for wrong in ("grüße aus köln", "Grüße aus Köln ", "", "\udc80"):
        with pytest.raises(IndexerError) as refused:
            vault.key_of(header, wrong)
        assert refused.value.title == api.WRONG_PASSPHRASE
    assert key.hex() not in msgspec.json.encode(header).decode()
    again, other = vault.new_header("Grüße aus Köln", cost=CHEAP)
    assert again.salt != header.salt
    assert other.hex() != key.hex()


def test_passphrases_that_are_too_short_or_long_are_refused() -> None:
    for passphrase in ("", "1234567", "x" * 1025):
        with pytest.raises(IndexerError, match=r"too (short|long)"):
            vault.new_header(passphrase, cost=CHEAP)


def test_a_passphrase_costs_what_it_should() -> None:
    header = msgspec.structs.replace(vault.new_header("eight or more", cost=CHEAP)[0], cost=vault.COST)
    assert 128 * header.cost * header.block >= 128 << 20  # bytes of memory for each try


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"version": 2}', b"[1]"])
def test_a_damaged_header_is_said_and_nothing_is_opened_or_changed(tmp_path: Path, content: bytes) -> None:
    fill(tmp_path, 3)
    (tmp_path / VAULT_FILE).write_bytes(content)
    before = (tmp_path / "catalog.sqlite").read_bytes()
    with pytest.raises(FatalError, match="damaged"), opened(tmp_path):
        pass
    assert (tmp_path / "catalog.sqlite").read_bytes() == before


def test_a_header_cannot_ask_for_any_amount_of_memory() -> None:
    header = msgspec.json.encode(vault.new_header("eight or more", cost=CHEAP)[0])
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(header.replace(b'"cost":16', b'"cost":1073741824'), type=vault.Header)


def test_a_library_that_is_not_encrypted_stays_as_it_is(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    names = {file.name for file in tmp_path.iterdir()}
    vault.settle(tmp_path)
    with opened(tmp_path) as store:
        assert store.counts().files == 3
    assert {file.name for file in tmp_path.iterdir()} == names
    assert VAULT_FILE not in names
    assert any(name.startswith("vectors-") for name in names)
    assert (tmp_path / "catalog.sqlite").read_bytes().startswith(b"SQLite format 3\0")
    assert "text in catalog.sqlite" in secrets_in(tmp_path)  # else the search for secrets finds nothing ever


@needs_ciphers
def test_on_another_passphrase_and_off_again(tmp_path: Path) -> None:
    first = vault.new_header("the first one", cost=CHEAP)
    second = vault.new_header("the second one", cost=CHEAP)
    fill(tmp_path, 30)
    vault.convert(tmp_path, None, *first)
    assert inspect(tmp_path, None, first, 30) == "as wanted"
    with opened(tmp_path, first[1]) as store:  # what comes later is no more to be read
        store.remove([f"/home/somebody/Geheimordner/4/{'steuer-erklaerung.txt'}"])
        assert secrets_in(tmp_path) == []
    fill(tmp_path, 30, first[1])
    assert secrets_in(tmp_path) == []
    assert (tmp_path / "logs" / "service.log").read_bytes() == b""
    vault.convert(tmp_path, first[1], *second)
    assert inspect(tmp_path, first, second, 30) == "as wanted"
    with pytest.raises(FatalError), opened(tmp_path, first[1]):
        pass
    vault.convert(tmp_path, second[1], None, None)
    assert inspect(tmp_path, second, None, 30) == "as wanted"
    with opened(tmp_path) as store:
        best = store.nearest(vector(text_of(7)), 1)[0]
        assert store.chunks([best.chunk])[best.chunk].text == text_of(7)


@needs_ciphers
def test_a_wrong_key_harms_nothing(tmp_path: Path) -> None:
    lock = vault.new_header("the right one", cost=CHEAP)
    fill(tmp_path, 5)
    vault.convert(tmp_path, None, *lock)
    before = (tmp_path / "catalog.sqlite").read_bytes()
    wrong = Key(bytes(32))
    assert not vault.fits(tmp_path, wrong)
    with pytest.raises(FatalError), opened(tmp_path, wrong):
        pass
    with pytest.raises(IndexerError):
        vault.convert(tmp_path, wrong, None, None)
    assert (tmp_path / "catalog.sqlite").read_bytes() == before
    assert vault.fits(tmp_path, lock[1])
    assert inspect(tmp_path, lock, None, 5) == "as before"


@needs_ciphers
def test_the_key_is_in_no_error_and_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 5)
    header, key = vault.new_header("a passphrase", cost=CHEAP)

    def full(*_: object) -> None:
        raise apsw.FullError(f"cannot write file:x?key=raw:{key.hex()}")

    monkeypatch.setattr(cipher, "copy", full)
    with pytest.raises(IndexerError) as failure:
        vault.convert(tmp_path, None, header, key)
    said = "".join(traceback.format_exception(failure.value))
    assert key.hex() not in said
    assert "disk is full" in said
    assert inspect(tmp_path, None, (header, key), 5) == "as before"
    monkeypatch.undo()
    odd = tmp_path / "name with ?key=1&cipher=none#é% .d"
    odd.mkdir()
    fill(odd, 2)
    vault.convert(odd, None, header, key)
    assert secrets_in(odd) == []
    assert not [file for file in tmp_path.rglob("*") if key.hex() in file.name]


@needs_ciphers
def test_nothing_is_begun_where_the_disk_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 5)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 1000})())
    lock = vault.new_header("a passphrase", cost=CHEAP)
    with pytest.raises(IndexerError, match="too little room"):
        vault.convert(tmp_path, None, *lock)
    assert inspect(tmp_path, None, lock, 5) == "as before"


@needs_ciphers
def test_an_open_library_is_not_written_anew(tmp_path: Path) -> None:
    fill(tmp_path, 5)
    lock = vault.new_header("a passphrase", cost=CHEAP)
    with opened(tmp_path), pytest.raises(FatalError, match="in use"):
        vault.convert(tmp_path, None, *lock)
    assert inspect(tmp_path, None, lock, 5) == "as before"


def test_without_ciphers_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 2)
    monkeypatch.setattr(cipher, "available", lambda: False)
    with pytest.raises(IndexerError, match="cannot encrypt"):
        vault.convert(tmp_path, None, *vault.new_header("a passphrase", cost=CHEAP))
    assert not vault.unfinished(tmp_path)


@needs_ciphers
def test_deleted_text_leaves_nothing_in_a_catalog_that_is_decrypted_later(tmp_path: Path) -> None:
    lock = vault.new_header("a passphrase", cost=CHEAP)
    fill(tmp_path, 3)
    vault.convert(tmp_path, None, *lock)
    db = Database(str(tmp_path / "catalog.sqlite"), key=lock[1])
    assert db.pragma("secure_delete") == 1
    assert db.pragma("cipher") == "chacha20"
    db.close()


@needs_ciphers
def test_an_installation_without_ciphers_takes_no_encrypted_library_for_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = vault.new_header("a passphrase", cost=CHEAP)
    fill(tmp_path, 3)
    vault.convert(tmp_path, None, *lock)
    monkeypatch.setattr(cipher, "available", lambda: False)
    for key in (lock[1], None):
        with pytest.raises(FatalError, match="nothing is wrong with the library"), opened(tmp_path, key):
            pass
    monkeypatch.undo()
    assert inspect(tmp_path, None, lock, 3) == "as wanted"


@needs_ciphers
def test_what_could_not_be_removed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = vault.new_header("a passphrase", cost=CHEAP)
    fill(tmp_path, 3)
    wipe = vault._wipe

    def refuse(file: Path, *, keep: bool = False) -> None:
        if file.name == "data_level0.bin":
            raise PermissionError(13, "Permission denied")
        wipe(file, keep=keep)

    monkeypatch.setattr(vault, "_wipe", refuse)
    vault.convert(tmp_path, None, *lock)
    assert vault.unfinished(tmp_path)  # which the person is told
    with opened(tmp_path, lock[1]) as store:
        assert store.counts().files == 3
    monkeypatch.undo()
    assert secrets_in(tmp_path) != []
    assert inspect(tmp_path, None, lock, 3) == "as wanted"


def test_erasing_overwrites_and_passes_over_holes(tmp_path: Path) -> None:
    sparse = tmp_path / "chroma" / "link_lists.bin"
    sparse.parent.mkdir()
    with sparse.open("wb") as file:
        file.write(b"secret")
        file.truncate(1 << 40)  # a terabyte of holes, as a damaged index of Chroma's may claim
    beside = tmp_path / "vectors-a.f32"
    beside.write_bytes(b"secret" * 1000)
    twin = tmp_path / "twin"
    twin.hardlink_to(beside)
    link = tmp_path / "chroma" / "link"
    outside = tmp_path / "mine.txt"
    outside.write_text("not yours")
    link.symlink_to(outside)
    assert vault._wipe_all(vault.readable(tmp_path))
    assert not beside.exists()
    assert not sparse.parent.exists()
    assert set(twin.read_bytes()) <= {0}
    assert outside.read_text() == "not yours"


def test_chunks_in_memory_are_those_of_a_file(tmp_path: Path) -> None:
    kept, held = ChunkFile(tmp_path), ChunkMemory()
    for part in (kept, held):
        assert (len(part), part.pieces, list(part)) == (0, 0, [])
    assert list(tmp_path.iterdir()) == []


@needs_ciphers
def test_killed_on_the_way_it_is_as_before_or_as_wanted() -> None:
    run = [sys.executable, "-m", "tests.end2end.vault", "--kills", "12", "--seed", "7", "--files", "100"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "nothing lost" in done.stdout
