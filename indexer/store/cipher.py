"""The key of a locked library, and what SQLite3 Multiple Ciphers is told with it.

Pages of the database, its log and its journal are encrypted with ChaCha20 and authenticated with Poly1305,
each with a nonce of its own: https://utelle.github.io/SQLite3MultipleCiphers/docs/ciphers/cipher_chacha20/
The key is given as it is ("raw"), because it was derived from the passphrase already; see `store.vault`.
"""

from __future__ import annotations

from pathlib import Path

import apsw

_CIPHER = "chacha20"
KEY_BYTES = 32


class Key:
    """A database's key. It shows itself to nobody by accident: not in a log, an error or a traceback."""

    __slots__ = ("_bytes",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        self._bytes = key

    def hex(self) -> str:
        """The key as hexadecimal digits."""
        return self._bytes.hex()

    def __repr__(self) -> str:
        return "Key(...)"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a key is not to be stored")


def available() -> bool:
    """Whether this installation's SQLite can encrypt: apsw-sqlite3mc can, plain apsw cannot."""
    return hasattr(apsw, "mc_version")


def unlock(db: apsw.Connection, key: Key) -> None:
    """Have a connection that was just opened read and write with a key. Whether it fits is seen later."""
    db.pragma("cipher", _CIPHER)
    db.pragma("key", f"raw:{key.hex()}")


def copy(db: apsw.Connection, target: Path, key: Key | None) -> None:
    """Write all of a database into a new file.

    Args:
        db: The source, opened with `apsw.SQLITE_OPEN_URI`: without it the key would be part of a file's name.
        target: The new file, missing or empty.
        key: What to encrypt it with; None for not at all.

    Raises:
        apsw.Error: It cannot be written. Its text may quote the key: show it to nobody.
    """
    secret = "" if key is None else f"raw:{key.hex()}"
    db.execute("VACUUM INTO ?", (f"{target.absolute().as_uri()}?cipher={_CIPHER}&key={secret}",))
