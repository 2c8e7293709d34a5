"""What a locked library is on the disk, and how it becomes one.

`vault.json` says that the library is locked, and how its key is derived from the passphrase (scrypt, RFC
7914): one half of what scrypt gives is the key of the catalog, the other half is kept to tell whether a
passphrase is right. The key itself is stored nowhere here.

Turning encryption on or off and changing the passphrase are one thing: the catalog is written anew under the
new key (or none), beside the old one, and takes its place. `vault.next` says how far that is, so that a
process that is killed on the way leaves the library as it was or as it was to be:

- ``writing``: `catalog.next` is being written. Killed here, it is removed; the library is as it was.
- ``ready``: it is complete, checked and on the disk. Whoever opens the library now finishes the change.
- ``wiping``: the new catalog is in place; the old one, and what else was readable, is overwritten, removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import shutil
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import apsw
import msgspec
from msgspec import Meta

from indexer import api
from indexer.errors import FatalError, IndexerError
from indexer.settings import VAULT_FILE, synced
from indexer.store import cipher
from indexer.store.cipher import KEY_BYTES, Key
from indexer.store.database import CATALOG_FILE, LOCK_FILE, Database, errors, take_lock

log = logging.getLogger(__name__)
_T = TypeVar("_T")

PENDING_FILE = "vault.next"
NEXT_FILE = "catalog.next"
OLD_FILE = "catalog.old"
SHORTEST = 8
_LONGEST = 1024
# 128 MiB and about half a second on a laptop; what OWASP's password storage cheat sheet asks for with scrypt.
COST = 1 << 17
_BLOCK = 8
# What can hold text, names or vectors in a library that is not locked. Nothing else is removed: it may be a
# person's own.
_LOGS = "logs"
_READABLE = (
    OLD_FILE,
    "catalog.damaged",
    f"{CATALOG_FILE}?*",
    "catalog-*",
    "vectors-*",
    "chunks-*",
    "chroma",
    _LOGS,
)
_KEPT = frozenset({CATALOG_FILE, CATALOG_FILE + "-wal", CATALOG_FILE + "-shm"})


class LockedError(FatalError):
    """The library is locked and no key was given."""

    def __init__(self) -> None:
        super().__init__(
            api.LOCKED, "It opens with its passphrase: `dragoman lock open`, or enter it in the window."
        )


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the key is derived; no secret.

    Attributes:
        name: Under which the system's keyring knows this library.
        check: The half of what scrypt gives that is not the key, as hexadecimal digits.
        remembered: Whether the key was put into the system's keyring.
    """

    version: Literal[1] = 1
    name: str
    salt: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    cost: Annotated[int, Meta(ge=2, le=1 << 22)] = COST
    block: Annotated[int, Meta(ge=1, le=32)] = _BLOCK
    check: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    remembered: bool = False


class _Pending(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    stage: Literal["writing", "ready", "wiping"]
    to: Header | None = None


def header(data_dir: Path) -> Header | None:
    """How the library is locked; None when it is not.

    Raises:
        FatalError: It is locked and that cannot be read.
    """
    return _read(data_dir / VAULT_FILE, Header)


def unfinished(data_dir: Path) -> bool:
    """Whether a change of the lock is not complete yet."""
    return (data_dir / PENDING_FILE).exists()


def _read(file: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FatalError("The library cannot be opened", f"{file}: {error.strerror}.") from error
    except ValueError as error:
        raise FatalError(
            "The library cannot be opened",
            f"{file} is damaged, and without it no passphrase opens the library. Restore it from a backup, "
            "or move the data folder away; your folders will be indexed again.",
        ) from error


def _write(file: Path, value: msgspec.Struct) -> None:
    new = file.with_name(file.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
        handle.write(msgspec.json.format(msgspec.json.encode(value)))
        handle.flush()
        os.fsync(handle.fileno())
    new.replace(file)
    synced(file.parent)


# --- keys ----------------------------------------------------------------------------------


def key_of(found: Header, passphrase: str) -> Key:
    """The key that a passphrase gives; takes about half a second and 128 MiB, on purpose.

    Raises:
        IndexerError: It is not the library's passphrase.
    """
    key, check = _derive(found, passphrase)
    if not hmac.compare_digest(check, found.check):
        raise IndexerError(
            api.WRONG_PASSPHRASE, "Nothing was changed. Mind capital letters and the keyboard."
        )
    return key


def fits(data_dir: Path, key: Key) -> bool:
    """Whether a key that was kept elsewhere opens the catalog."""
    try:
        db = Database(str(data_dir / CATALOG_FILE), apsw.SQLITE_OPEN_READONLY, key)
    except apsw.Error:
        return False
    try:
        db.ask("SELECT count(*) FROM sqlite_schema")
    except apsw.NotADBError:
        return False
    finally:
        db.close()
    return True


def new_header(passphrase: str, *, cost: int = COST) -> tuple[Header, Key]:
    """A new salt for a new passphrase, and its key.

    Raises:
        IndexerError: The passphrase is too short or too long.
    """
    if len(passphrase) < SHORTEST:
        raise IndexerError(
            "The passphrase is too short",
            f"It needs {SHORTEST} characters; several words that do not belong together are better still.",
        )
    found = Header(name=secrets.token_hex(8), salt=secrets.token_hex(16), cost=cost, check="0" * 64)
    key, check = _derive(found, passphrase)
    return msgspec.structs.replace(found, check=check), key


def _derive(found: Header, passphrase: str) -> tuple[Key, str]:
    if len(passphrase) > _LONGEST:
        raise IndexerError("The passphrase is too long", f"It has at most {_LONGEST:,} characters.")
    # The same characters are the same passphrase, however a keyboard composes them.
    secret = unicodedata.normalize("NFKC", passphrase).encode("utf-8", "surrogatepass")
    memory = 128 * found.cost * found.block
    try:
        derived = hashlib.scrypt(
            secret,
            salt=bytes.fromhex(found.salt),
            n=found.cost,
            r=found.block,
            p=1,
            maxmem=memory + (1 << 20),
            dklen=2 * KEY_BYTES,
        )
    except (ValueError, MemoryError) as error:
        raise IndexerError(
            "The passphrase cannot be checked",
            f"That takes {memory >> 20} MiB of memory. Close other programs and try again.",
        ) from error
    return Key(derived[:KEY_BYTES]), derived[KEY_BYTES:].hex()


# --- changing it ---------------------------------------------------------------------------


def convert(data_dir: Path, key: Key | None, to: Header | None, new_key: Key | None) -> None:
    """Write the catalog anew under another key, or none. Nobody else may have it open.

    Takes about as long as copying it twice, and its size again of the disk meanwhile. Killed on the way, the
    library is as it was, or is finished by the next `settle`.

    Args:
        data_dir: The library's data folder.
        key: The present key; None when it is not locked.
        to: From `new_header`; None to leave it unlocked.
        new_key: From `new_header`.

    Raises:
        IndexerError: It cannot be done; the library is as it was.
        FatalError: Somebody has the library open.
    """
    if not cipher.available():
        raise IndexerError(
            "This installation cannot encrypt",
            "Its SQLite has no ciphers. Install them: pip uninstall apsw, then pip install apsw-sqlite3mc.",
        )
    with take_lock(data_dir / LOCK_FILE):
        _settle(data_dir)
        file, new = data_dir / CATALOG_FILE, data_dir / NEXT_FILE
        try:
            make_sure_of_room(data_dir)
            _write(data_dir / PENDING_FILE, _Pending(stage="writing", to=to))
            with errors():
                _rewrite(file, key, new, new_key)
            _write(data_dir / PENDING_FILE, _Pending(stage="ready", to=to))
        except (OSError, IndexerError) as error:
            with contextlib.suppress(OSError):
                _settle(data_dir)
            if isinstance(error, IndexerError):
                raise
            raise IndexerError(
                "The library could not be written anew", f"{error.strerror or error}. It is as it was."
            ) from error
        _settle(data_dir)


def make_sure_of_room(data_dir: Path) -> None:
    """See whether a library can be written anew beside what is there.

    Raises:
        IndexerError: There is too little room on its disk.
    """
    file = data_dir / CATALOG_FILE
    size = sum(part.stat().st_size for part in (file, _beside(file, "-wal")) if part.exists())
    free = shutil.disk_usage(file.parent).free
    if free < size * 1.1 + (16 << 20):
        raise IndexerError(
            "There is too little room on the disk",
            f"The library is written anew beside the old one: that takes {size >> 20:,} MiB, "
            f"{free >> 20:,} MiB are free.",
        )


def _rewrite(file: Path, key: Key | None, new: Path, new_key: Key | None) -> None:
    new.touch(mode=0o600)
    try:
        db = Database(str(file), apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI, key)
        try:
            db.set_busy_timeout(5000)
            db.pragma("temp_store", "memory")
            # So that no log lies beside the file when it is renamed.
            if db.pragma("journal_mode", "delete") != "delete":
                raise FatalError("The library is in use", "Another program reads it. End that first.")
            cipher.copy(db, new, new_key)
        finally:
            db.close()
        copied = Database(str(new), apsw.SQLITE_OPEN_READWRITE, new_key)
        try:
            wrong = copied.ask("PRAGMA quick_check(1)")[0][0]
        finally:
            copied.close()
    except apsw.FullError:
        raise IndexerError("The disk is full", "The library is as it was. Make room on the disk.") from None
    except apsw.Error as error:
        # Not chained: what SQLite says may quote the name of the new file, to which the key belongs.
        raise IndexerError(
            "The library could not be written anew",
            f"SQLite says {type(error).__name__}. It is as it was; `dragoman check` may say more.",
        ) from None
    if wrong != "ok":
        raise IndexerError(
            "The library could not be written anew",
            "What was written does not read back. It is as it was; `dragoman check` may say more.",
        )
    synced(new)


def progress(data_dir: Path) -> tuple[int, int]:
    """How far `convert` is: bytes written, and about how many there will be."""
    with contextlib.suppress(OSError):
        return (data_dir / NEXT_FILE).stat().st_size, (data_dir / CATALOG_FILE).stat().st_size
    return 0, 0


def remember(data_dir: Path, remembered: bool) -> None:
    """Note whether the key is in the system's keyring."""
    found = header(data_dir)
    if found is not None and found.remembered != remembered:
        _write(data_dir / VAULT_FILE, msgspec.structs.replace(found, remembered=remembered))


def admit(data_dir: Path, key: Key | None) -> None:
    """Let whoever has the library's lock open the catalog, after what was interrupted is settled.

    Raises:
        LockedError: It is locked, and no key is given.
        FatalError: It cannot be read how it is locked, or this installation has no ciphers.
        IndexerError: The files cannot be renamed.
    """
    settle(data_dir, owned=True)
    if header(data_dir) is None:
        return
    if not cipher.available():
        raise FatalError(
            "This installation cannot open an encrypted library",
            "Its SQLite has no ciphers; nothing is wrong with the library. Install them: pip uninstall apsw, "
            "then pip install apsw-sqlite3mc.",
        )
    if key is None:
        raise LockedError


def settle(data_dir: Path, *, owned: bool = False) -> None:
    """Finish or undo a change that was interrupted. Costs nothing where there was none.

    Args:
        data_dir: The library's data folder.
        owned: Whether the caller has the library's lock already.

    Raises:
        FatalError: Somebody has the library open, or what was under way cannot be read.
        IndexerError: The files cannot be renamed.
    """
    if not unfinished(data_dir):
        return
    with contextlib.nullcontext() if owned else take_lock(data_dir / LOCK_FILE):
        try:
            _settle(data_dir)
        except OSError as error:
            raise IndexerError(
                "The library cannot be read or written", f"{data_dir}: {error.strerror}."
            ) from error


def _settle(data_dir: Path) -> None:
    note = data_dir / PENDING_FILE
    pending = _read(note, _Pending)
    if pending is None:
        return
    file, new, old = (data_dir / name for name in (CATALOG_FILE, NEXT_FILE, OLD_FILE))
    if pending.stage == "writing":
        log.info("A change of the lock did not get far; the library is as it was")
        _wipe_all([new, _beside(new, "-journal")])
        note.unlink()
        synced(data_dir)
        return
    if pending.stage == "ready":
        if new.exists():
            if file.exists() and not old.exists():
                file.replace(old)
            for suffix in ("-wal", "-shm", "-journal"):
                _wipe(_beside(file, suffix))
            new.replace(file)
        synced(data_dir)
        if pending.to is not None:
            _write(data_dir / VAULT_FILE, pending.to)
        else:
            (data_dir / VAULT_FILE).unlink(missing_ok=True)
        pending = msgspec.structs.replace(pending, stage="wiping")
        _write(note, pending)
    if _wipe_all([old] if pending.to is None else readable(data_dir)):
        note.unlink()
        synced(data_dir)


def readable(data_dir: Path) -> list[Path]:
    """What a locked library must not have in its data folder."""
    found = {path for pattern in _READABLE for path in data_dir.glob(pattern)}
    return sorted(path for path in found if path.name not in _KEPT)


# --- erasing -------------------------------------------------------------------------------


def _wipe_all(paths: Iterable[Path]) -> bool:
    """Overwrite and remove files and folders; False when some could not be."""
    done = True
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                inside = sorted(path.rglob("*"), key=lambda inner: len(inner.parts), reverse=True)
                for inner in inside:
                    if inner.is_dir() and not inner.is_symlink():
                        inner.rmdir()
                    else:
                        _wipe(inner, keep=path.name == _LOGS)
                if path.name != _LOGS:
                    path.rmdir()
            else:
                _wipe(path)
        except OSError as error:
            log.warning("Something that can be read could not be removed: %s", error.strerror)
            done = False
    return done


def _wipe(file: Path, *, keep: bool = False) -> None:
    """Overwrite a file with zeros and remove it. What a disk or file system keeps besides is out of reach.

    Args:
        file: It may be missing.
        keep: Leave it there, empty, for who has it open.
    """
    if file.is_file() and not file.is_symlink():
        with file.open("r+b", buffering=0) as handle:
            for start, end in _extents(handle.fileno()):
                handle.seek(start)
                zeros = bytes(1 << 20)
                while start < end:
                    start += handle.write(zeros[: end - start])
            os.fsync(handle.fileno())
            handle.truncate(0)
    if not keep:
        file.unlink(missing_ok=True)


def _extents(handle: int) -> Iterable[tuple[int, int]]:
    """Where a file has data: a damaged one of Chroma's may claim terabytes of holes."""
    size = os.fstat(handle).st_size
    if not hasattr(os, "SEEK_DATA"):
        return [(0, size)]
    found, at = [], 0
    while at < size:
        try:
            start = os.lseek(handle, at, os.SEEK_DATA)
        except OSError:  # only holes are left
            break
        at = os.lseek(handle, start, os.SEEK_HOLE)
        found.append((start, at))
    return found


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)
