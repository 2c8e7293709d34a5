"""Erases what was deleted to the last trace, and gives old vectors their checksums, in the background.

A row that is deleted is overwritten at once (SQLite's `secure_delete`). Traces stay where SQLite moves rows
about, in the index of words, whose entries are only marked, in the matrix of a model that is not open, and in
the accelerator's files. Erasing them means writing files anew, so it waits: seconds, where a person removed
something, and up to a day where a file was merely deleted or edited by its owner.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol

from indexer.api import Notice
from indexer.errors import IndexerError
from indexer.store.catalog import Catalog
from indexer.store.traces import Traces
from indexer.store.types import Compaction

log = logging.getLogger(__name__)

# After a removal by a person: so long without a change of the catalog, or so long in all.
HURRY_QUIET_S = 3.0
HURRY_LATEST_S = 300.0
# After everything else.
LAZY_S = 86_400.0
LAZY_QUIET_S = 60.0
LAZY_LATEST_S = 2 * LAZY_S
# The accelerator has vectors and no text, and filling another takes minutes.
INDEX_LAZY_S = 7 * LAZY_S
# What is removed within this time of `hurry` was meant by it.
_MEANT_S = 600.0
_LOOK_S = 30.0
_LOOK_HURRY_S = 1.0
_RETRY_S = 120.0
_SUMMED = 2000
_PAUSE_S = 0.05


class Accelerated(Protocol):
    """What the keeper has to know of the indexes."""

    def forget_closed(self) -> None:
        """Delete the mirrors of models that are not open."""

    def compact(self) -> Compaction | None:
        """Begin a generation without what was deleted; None where that cannot be done now."""

    def compacted(self, begun: Compaction) -> bool | None:
        """Whether that one has taken over; None where it never will, as another model is searched by now."""


class Keeper:
    """One thread for one catalog.

    Args:
        catalog: Open.
        indexes: What lies beside it.
    """

    def __init__(self, catalog: Catalog, indexes: Accelerated) -> None:
        self._catalog = catalog
        self._traces = Traces(catalog)
        self._indexes = indexes
        self._wake = threading.Condition()
        self._stopping = self._woken = False
        self._hurry_until = 0.0
        self._pending = False  # a person waits for it
        self._compaction: Compaction | None = None
        self._compacted = 0.0  # the hurry that it is for, see `Traces.begin_index`
        self._version = -1
        self._changed_at = 0.0
        self._retry_at = 0.0
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Begin; later calls do nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """End soon; what is not done goes on at the next start."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.ident is not None:
            while self._thread.is_alive():
                self._catalog.interrupt()
                self._thread.join(0.1)

    def hurry(self) -> None:
        """A person removes something: its traces are erased within minutes."""
        with self._wake:
            self._hurry_until = time.monotonic() + _MEANT_S
            self._pending, self._retry_at, self._woken = True, 0.0, True
            self._wake.notify_all()

    @property
    def busy(self) -> bool:
        """Whether it is worth waiting for: traces of what a person removed are just being erased."""
        return self._pending and not self._trouble and time.monotonic() < self._hurry_until + _MEANT_S

    def notices(self) -> list[Notice]:
        """What a person should know."""
        if not self._pending:
            return []
        message = "What you removed is found no more. Its last traces leave the data folder within minutes."
        if self._compaction is not None:
            message = (
                "What you removed is found no more, and its text is erased. The search index is being filled "
                "anew without it, which takes a few minutes for a large library."
            )
        if self._trouble:
            message = f"What you removed is found no more, but traces are left on the disk: {self._trouble}"
        return [Notice(title="Removed files are being erased", message=message)]

    # --- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                delay = self._round()
                if time.monotonic() >= self._retry_at:  # else nothing was tried
                    self._trouble = ""
            except (IndexerError, OSError) as error:
                if self._stopping:
                    return
                title = error.title if isinstance(error, IndexerError) else str(error.strerror)
                log.warning("What was deleted could not be erased yet: %s", title)
                self._trouble = str(error)
                self._retry_at = time.monotonic() + _RETRY_S
                delay = _LOOK_S
            except Exception:
                log.exception("Erasing what was deleted failed")
                self._trouble = "This is a fault in Dragoman; its log says more."
                self._retry_at = time.monotonic() + _RETRY_S
                delay = _LOOK_S
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._woken, delay)
                self._woken = False

    def _quiet_s(self) -> float:
        """Seconds since the catalog changed."""
        now = time.monotonic()
        if self._catalog.version != self._version:
            self._version, self._changed_at = self._catalog.version, now
        return now - self._changed_at

    def _round(self) -> float:
        """Do what is due; seconds until the next look."""
        quiet = self._quiet_s()
        meant = time.monotonic() < self._hurry_until
        residue = self._traces.residue()
        if residue is not None and time.monotonic() >= self._retry_at:
            hurry = residue.hurry or meant
            self._pending = self._pending or hurry
            if _due(residue.since, hurry, quiet):
                began = time.monotonic()
                self._indexes.forget_closed()
                if not self._traces.scrub(everything=hurry, stop=lambda: self._stopping):
                    return 0.0
                log.info("the traces of what was deleted are erased; %.1f s", time.monotonic() - began)
                residue = self._traces.residue()
        waits = self._follow_index(ready=residue is None)
        with self._wake:
            if not self._woken:  # else more was removed a moment ago
                self._pending = waits or (residue is not None and (residue.hurry or meant))
        if self._traces.translate_some() or (quiet >= HURRY_QUIET_S and self._traces.sum_some(_SUMMED)):
            return _PAUSE_S
        return _LOOK_HURRY_S if self._pending or meant else _LOOK_S

    def _follow_index(self, *, ready: bool) -> bool:
        """Have the accelerator begin anew, where it is due, and see to it that it comes to its end.

        Returns:
            Whether a person waits for it.
        """
        if self._compaction is not None:
            done = self._indexes.compacted(self._compaction)
            if done is not None and not done:
                return True
            self._compaction = None
            if done:
                self._traces.index_is_clean(self._compacted)
        residue = self._traces.index_residue()
        if residue is not None and ready and (residue.hurry or _age_s(residue.since) >= INDEX_LAZY_S):
            # Noted before it begins: what is removed from here on is for the next one.
            self._compacted = self._traces.begin_index()
            self._compaction = self._indexes.compact()
        return self._compaction is not None or (residue is not None and residue.hurry)


def _age_s(since: float) -> float:
    # A clock that was set back must not keep anything for ever.
    age = time.time() - since
    return age if age > -LAZY_S else INDEX_LAZY_S


def _due(since: float, hurry: bool, quiet_s: float) -> bool:
    age = _age_s(since)
    if hurry:
        return quiet_s >= HURRY_QUIET_S or age >= HURRY_LATEST_S
    return age >= LAZY_LATEST_S or (age >= LAZY_S and quiet_s >= LAZY_QUIET_S)
