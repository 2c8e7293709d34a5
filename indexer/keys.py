"""The system's keyring, which may keep a library's key, and what keeps keys out of core dumps."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import sys
from importlib import import_module
from typing import Protocol

from indexer.errors import IndexerError

log = logging.getLogger(__name__)

_SERVICE = "dragoman"
# Those of the system, which keep what they are given encrypted with the person's login. There are others that
# write it to a plain file: https://pypi.org/project/keyrings.alt/
_TRUSTED = {
    "keyring.backends.SecretService": "Secret Service",
    "keyring.backends.libsecret": "Secret Service",
    "keyring.backends.kwallet": "KWallet",
    "keyring.backends.macOS": "Keychain",
    "keyring.backends.Windows": "Credential Manager",
}
_PR_SET_DUMPABLE = 4


class _Backend(Protocol):
    """What is used of `keyring.backend.KeyringBackend`."""

    priority: float

    def get_password(self, service: str, username: str) -> str | None: ...

    def set_password(self, service: str, username: str, password: str) -> None: ...

    def delete_password(self, service: str, username: str) -> None: ...


def keyring_name() -> str:
    """How the system's keyring is called; empty when there is none. May take a second and ask the person."""
    backend = _backend()
    return "" if backend is None else _TRUSTED[type(backend).__module__]


def keep(name: str, key: str) -> None:
    """Put a key into the keyring.

    Args:
        name: Whose it is.
        key: Hexadecimal digits.

    Raises:
        IndexerError: There is no keyring, or it refuses.
    """
    backend = _backend()
    if backend is None:
        raise IndexerError(
            "There is no keyring",
            "This system has none that Dragoman trusts, so the passphrase is asked for.",
        )
    try:
        backend.set_password(_SERVICE, name, key)
    except Exception as error:  # each backend has errors of its own
        raise IndexerError(
            "The keyring refused", f"The passphrase was not remembered ({type(error).__name__})."
        ) from error


def recall(name: str) -> str | None:
    """The key that was kept, or None. May wait for the person to unlock the keyring."""
    backend = _backend()
    if backend is not None:
        try:
            return backend.get_password(_SERVICE, name)
        except Exception:
            log.exception("The keyring did not give the key")
    return None


def forget(name: str) -> None:
    """Take a key out of the keyring, if it is there."""
    backend = _backend()
    if backend is not None:
        try:
            if backend.get_password(_SERVICE, name) is not None:
                backend.delete_password(_SERVICE, name)
        except Exception:
            log.exception("The keyring did not forget the key")


def _backend() -> _Backend | None:
    try:
        keyring, backends = import_module("keyring"), import_module("keyring.backend")
    except ImportError:
        return None
    try:
        # What the person has turned off (by PYTHON_KEYRING_BACKEND or keyring's own configuration) stays off.
        if type(keyring.get_keyring()).__module__ in {"keyring.backends.null", "keyring.backends.fail"}:
            return None
        found = [b for b in backends.get_all_keyring() if type(b).__module__ in _TRUSTED]
        return max(found, key=lambda backend: backend.priority, default=None)
    except Exception:
        log.exception("The keyring cannot be used")
        return None


def harden() -> None:
    """Keep this process's memory from being written to a file: no core dump, and no debugger of another user.

    Its memory may still be written to swap; see docs/ENCRYPTION.md.
    """
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        log.warning("Core dumps could not be turned off")
