"""Compares the parts of a library with one another, says in words what differs, and mends it.

What is kept twice is compared, and what is wrong is made again from the other one: the index of words, the
matrix and the accelerator from the catalog. What is kept once has a sum to know it by: a text its hash, a
vector its checksum. A damaged text is read again from its file, and a damaged vector is embedded again;
nothing else is. `indexer.store.salvage` is for a catalog that SQLite itself cannot read any more.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from indexer.api import DAMAGED, Difference
from indexer.errors import FatalError, IndexerError
from indexer.store import concepts, lexical
from indexer.store.catalog import Catalog
from indexer.store.database import Database
from indexer.store.ledger import TEXT_BITS, TEXT_MASK, checksum, numbers
from indexer.store.vectors import VectorIndex

log = logging.getLogger(__name__)

Ids = npt.NDArray[np.int64]
Sums = npt.NDArray[np.uint64]

_PAGE = 2000
_MEND = 500
_AT_ONCE = 50  # texts analysed before others get a turn
_INSTANCES = 100_000
_HELD = 1000
# Chroma keeps float32 as it was given; what differs by more is another vector.
_SAME_COSINE = 1e-4
_STALE_S = 60.0
# An accelerator that lacks or distorts more than this share (and so many) is built anew.
_SHARE, _LEAST = 4, 100

# Damage to an index of SQLite's own, which it makes again from the table.
_INDEX = re.compile(r"row \d+ missing from index|wrong # of entries in index|non-unique entry in index")
_WORDS = re.compile(r"FTS5 table main\.(text_terms|file_terms)|fts5: .*(text_terms|file_terms)")

_REREAD = "Their files are read again"


class Outcome(NamedTuple):
    """What was found, and what was done about it.

    Attributes:
        differences: One for each kind of difference.
        reread: Files that have to be read again, whatever the catalog says of their size and time.
        texts: How many texts there are.
        compared: Whether the accelerator was compared; it is not while it is being filled.
        salvage: Whether the catalog has to be saved with `indexer.store.salvage`.
    """

    differences: list[Difference]
    reread: list[str]
    texts: int = 0
    compared: bool = True
    salvage: bool = False


class CancelledError(IndexerError):
    """Whoever asked wants no answer any more; what was mended stays so."""

    def __init__(self) -> None:
        super().__init__("Cancelled", "The check was stopped; what was mended until then stays so.")


class Question(NamedTuple):
    """What must have no rows.

    Attributes:
        what: The rows, in words.
        rows: Selects them: an id first and, where `files` says so, the id of a file second.
        mend: Statements for each, with its id as the argument.
        files: Whether the file is to be read again.
        harmless: Whether no search shows it.
    """

    what: str
    rows: str
    mend: tuple[str, ...] = ()
    files: bool = False
    harmless: bool = False


QUESTIONS = (
    Question(
        "chunks whose text is unknown",
        "SELECT id, file FROM chunks WHERE text_id NOT IN (SELECT id FROM texts)",
        ("DELETE FROM chunks WHERE id = ?",),
        files=True,
    ),
    Question(
        "chunks of no file",
        "SELECT id FROM chunks WHERE file NOT IN (SELECT id FROM files)",
        (
            "INSERT OR IGNORE INTO touched SELECT text_id FROM chunks WHERE id = ?",
            "DELETE FROM chunks WHERE id = ?",
        ),
    ),
    Question(
        "chunks of files that are not indexed",
        "SELECT chunks.id FROM chunks JOIN files ON files.id = file WHERE status != 'indexed'",
        (
            "INSERT OR IGNORE INTO touched SELECT text_id FROM chunks WHERE id = ?",
            "DELETE FROM chunks WHERE id = ?",
        ),
    ),
    Question(
        "files with gaps or doubles in their chunks",
        "SELECT id, id FROM (SELECT files.id, files.chunks AS stated, count(DISTINCT slot) AS slots,"
        " count(slot) AS rows, coalesce(max(slot) + 1, 0) AS top"
        " FROM files LEFT JOIN chunks ON chunks.file = files.id GROUP BY files.id)"
        " WHERE stated != slots OR stated != rows OR stated != top",
        files=True,
    ),
    Question(
        "files of no folder",
        "SELECT id FROM files WHERE root NOT IN (SELECT id FROM roots)",
        (
            "INSERT OR IGNORE INTO touched SELECT text_id FROM chunks WHERE file = ?",
            "DELETE FROM chunks WHERE file = ?",
            "DELETE FROM files WHERE id = ?",
        ),
    ),
    Question(
        "files that are not in their folder",
        "SELECT files.id FROM files JOIN roots ON roots.id = root"
        " WHERE substr(files.path, 1, length(roots.path)) != roots.path",
        (
            "INSERT OR IGNORE INTO touched SELECT text_id FROM chunks WHERE file = ?",
            "DELETE FROM chunks WHERE file = ?",
            "DELETE FROM files WHERE id = ?",
        ),
    ),
    Question(
        "problems of indexed files",
        "SELECT file FROM problems JOIN files ON files.id = file WHERE status != kind",
        ("DELETE FROM problems WHERE file = ?",),
    ),
    Question(
        "problems of no file",
        "SELECT file FROM problems WHERE file NOT IN (SELECT id FROM files)",
        ("DELETE FROM problems WHERE file = ?",),
        harmless=True,
    ),
    Question(
        "problem files without a reason",
        "SELECT id, id FROM files WHERE status != 'indexed' AND id NOT IN (SELECT file FROM problems)",
        files=True,
    ),
    Question(
        "texts wrongly marked as used or unused",
        "SELECT id FROM texts"
        " WHERE (unused_since IS NULL) != EXISTS(SELECT 1 FROM chunks WHERE text_id = texts.id)",
        ("INSERT OR IGNORE INTO touched VALUES(?)",),
    ),
    Question(
        "texts that are free and taken",
        "SELECT id FROM texts WHERE id IN (SELECT id FROM free_texts)",
        ("DELETE FROM free_texts WHERE id = ?",),
    ),
    Question(
        "vectors of no text",
        f"SELECT key FROM vectors WHERE key & {TEXT_MASK} NOT IN (SELECT id FROM texts)",
        ("DELETE FROM vectors WHERE key = ?",),
    ),
    Question(
        "vectors of no model",
        "SELECT key FROM vectors WHERE key >> 32 NOT IN (SELECT id FROM models)",
        ("DELETE FROM vectors WHERE key = ?",),
    ),
    Question(
        "vectors of the wrong length",
        "SELECT vectors.key FROM vectors JOIN models ON models.id = vectors.key >> 32"
        " WHERE length(data) != 2 * dim",
        ("DELETE FROM vectors WHERE key = ?",),
    ),
    Question(
        "outbox entries without a vector",
        "SELECT seq FROM outbox LEFT JOIN indexes ON indexes.id = index_id"
        " WHERE model IS NULL OR (model << 32 | text_id) NOT IN (SELECT key FROM vectors)",
        ("DELETE FROM outbox WHERE seq = ?",),
        harmless=True,
    ),
    Question(
        "index generations of no model",
        "SELECT id FROM indexes WHERE model NOT IN (SELECT id FROM models)",
        ("DELETE FROM indexes WHERE id = ?",),
        harmless=True,
    ),
)


class Examination:
    """One comparison of everything that a library keeps.

    Args:
        catalog: Open.
        indexes: Of every model that is open.
        folder: The library's data folder.
        repair: Whether to mend what is found.
        tell: Told what is done, and how much of it is done, of how much; called often.
        stop: Asked now and then whether to leave off.
    """

    def __init__(
        self,
        catalog: Catalog,
        indexes: Sequence[VectorIndex],
        folder: Path,
        *,
        repair: bool = False,
        tell: Callable[[str, int, int], None] = lambda *_: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._catalog = catalog
        self._indexes = indexes
        self._folder = folder
        self._repair = repair
        self._say = tell
        self._stop = stop
        self._found: list[Difference] = []
        self._reread: set[int] = set()

    def run(self) -> Outcome:
        """Compare, and mend.

        Raises:
            CancelledError: It was stopped.
            IndexerError: The disk is full or failing.
        """
        if not self._database():
            return Outcome(self._found, [], salvage=True)
        self._rows()
        self._texts()
        self._words()
        self._vectors()
        compared = True
        for index in self._indexes:
            self._matrix(index)
            compared = self._accelerator(index) and compared
        self._leftovers()
        return Outcome(self._found, self._mark_reread(), self._count("texts"), compared)

    # --- small things ----------------------------------------------------------------------

    def _tell(self, what: str, done: int = 0, total: int = 0) -> None:
        if self._stop():
            raise CancelledError
        self._say(what, done, total)

    def _note(
        self,
        part: str,
        what: str,
        count: int,
        *,
        mends: bool = True,
        advice: str = "",
        harmless: bool = False,
    ) -> None:
        if count:
            found = {
                "part": part,
                "what": what,
                "count": count,
                "mended": count if mends and self._repair else 0,
                "advice": advice,
                "harmless": harmless,
            }
            self._found.append(msgspec.convert(found, Difference))

    def _count(self, table: str) -> int:
        with self._catalog.read() as db:
            return int(db.ask(f"SELECT count(*) FROM {table}")[0][0])

    def _parts(self, items: Sequence[Any], what: str) -> Iterator[Sequence[Any]]:
        for low in range(0, len(items), _MEND):
            self._tell(what, low, len(items))
            yield items[low : low + _MEND]

    # --- SQLite ----------------------------------------------------------------------------

    def _database(self) -> bool:
        """Whether the database can be read as a whole."""
        self._tell("the database")
        try:
            with self._catalog.read() as db:
                # Asked first, because FTS5's part of the check believes what this connection remembers of the
                # index and only a search makes it look again.
                for table in ("text_terms", "file_terms"):
                    db.ask(f"SELECT 1 FROM {table} WHERE {table} MATCH 'a' LIMIT 1")
                said = [row[0] for row in db.ask("PRAGMA integrity_check(100)") if row[0] != "ok"]
        except FatalError as error:
            if error.title != DAMAGED:
                raise
            said = self._damage(error)
        lines = [line for text in said for line in text.splitlines()]
        words = [line for line in lines if _WORDS.search(line)]
        indexes = [line for line in lines if _INDEX.search(line)]
        others = [line for line in lines if line not in words and line not in indexes]
        if others:
            log.warning("the catalog's file is damaged: %s", others[0])
            self._note(
                "catalog",
                "places where the catalog's file is damaged",
                len(others),
                advice="`dragoman check --repair` saves what can be read into a new file.",
            )
            return False
        if indexes:
            if self._repair:
                with self._catalog.write() as (db, _):
                    db.execute("REINDEX")
            self._note(
                "catalog",
                "entries of the database's own indexes that are wrong",
                len(indexes),
            )
        if words:
            if self._repair:
                self._rebuild_words()
            self._note(
                "words",
                "damaged parts of the index of words",
                len(words),
                advice="It is made again from the texts.",
            )
        return True

    def _damage(self, error: FatalError) -> list[str]:
        """Where a search in the words failed: only in the index of words, or everywhere."""
        try:
            with self._catalog.read() as db:
                said = [row[0] for row in db.ask("PRAGMA integrity_check(100)") if row[0] != "ok"]
        except FatalError as again:
            return [again.message]
        return said or [f"fts5: {error.message} in text_terms"]

    def _rebuild_words(self) -> None:
        catalog = self._catalog
        with catalog.write() as (db, _):
            for table in ("text_words", "text_terms", "file_terms"):
                db.execute(f"DROP TABLE IF EXISTS {table}")
            for statement in lexical.VIRTUAL_TABLES:
                db.execute(statement)
            # A kill in between is no loss: the next start goes on with it.
            db.execute("INSERT OR REPLACE INTO meta VALUES('unanalysed', 1)")
        with catalog.read() as db:
            texts = numbers(db, "SELECT id FROM texts WHERE unused_since IS NULL ORDER BY id").tolist()
            files = numbers(db, "SELECT id FROM files").tolist()
        self._put_words(texts)
        self._put_names(files)
        with catalog.write() as (db, _):
            db.execute("DELETE FROM meta WHERE key = 'unanalysed'")

    # --- rows that belong together ---------------------------------------------------------

    def _rows(self) -> None:
        for at, question in enumerate(QUESTIONS):
            self._tell("the catalog", at, len(QUESTIONS))
            with self._catalog.read() as db:
                rows = db.ask(question.rows)
            if not rows:
                continue
            if self._repair:
                if question.files:
                    self._reread.update(row[1] for row in rows)
                for part in self._parts(rows, "the catalog"):
                    with self._catalog.write() as (db, _):
                        for statement in question.mend:
                            db.executemany(statement, ((row[0],) for row in part))
            self._note(
                "catalog",
                question.what,
                len(rows),
                advice=f"{_REREAD}." if question.files else "",
                harmless=question.harmless,
            )

    # --- texts -----------------------------------------------------------------------------

    def _texts(self) -> None:
        """Whether the chunks have the text that their hash is of."""
        total, done, last = self._count("chunks"), 0, 0
        bad_chunks: list[tuple[int, int, int]] = []
        bad_hashes: dict[int, bytes] = {}
        while True:
            self._tell("the texts", done, total)
            with self._catalog.read() as db:
                rows = db.ask(
                    "SELECT chunks.id, file, text_id, CAST(text AS BLOB), CAST(context AS BLOB), hash"
                    " FROM chunks JOIN texts ON texts.id = text_id WHERE chunks.id > ?"
                    " ORDER BY chunks.id LIMIT ?",
                    (last, _PAGE),
                )
                for chunk, file, text_id, text, context, known in rows:
                    embedded = context + b"\n" + text if context else text
                    now = hashlib.blake2b(embedded, digest_size=16).digest()
                    # What stands for a lone surrogate is not what was hashed.
                    if now == known or "\ufffd".encode() in embedded:
                        continue
                    if self._is_of(db, text_id, now):
                        bad_hashes[text_id] = now
                    else:
                        bad_chunks.append((chunk, file, text_id))
            if not rows:
                break
            last, done = rows[-1][0], done + len(rows)
        if self._repair:
            for part in self._parts(list(bad_hashes.items()), "the texts"):
                with self._catalog.write() as (db, _):
                    db.executemany(
                        "UPDATE OR IGNORE texts SET hash = ? WHERE id = ?", ((h, t) for t, h in part)
                    )
            self._reread.update(file for _, file, _ in bad_chunks)
            for part in self._parts(bad_chunks, "the texts"):
                with self._catalog.write() as (db, _):
                    db.executemany("INSERT OR IGNORE INTO touched VALUES(?)", ((t,) for _, _, t in part))
                    db.executemany("DELETE FROM chunks WHERE id = ?", ((c,) for c, _, _ in part))
        self._note(
            "catalog",
            "damaged hashes of texts",
            len(bad_hashes),
        )
        self._note(
            "catalog",
            "passages whose text is damaged",
            len(bad_chunks),
            advice=f"{_REREAD}.",
        )

    @staticmethod
    def _is_of(db: Database, text_id: int, text_hash: bytes) -> bool:
        """Whether a stored vector says that it is of the text with this hash."""
        rows = db.ask(
            "SELECT data, crc FROM models JOIN vectors ON vectors.key = (models.id << ? | ?)"
            " WHERE crc IS NOT NULL",
            (TEXT_BITS, text_id),
        )
        return any(checksum(text_hash, data) == crc for data, crc in rows)

    # --- words -----------------------------------------------------------------------------

    def _words(self) -> None:
        with self._catalog.read() as db:
            used = numbers(db, "SELECT id FROM texts WHERE unused_since IS NULL ORDER BY id")
            texts = numbers(db, "SELECT id FROM texts")
            indexed = numbers(db, "SELECT id FROM text_terms_docsize")
            # While they are still being made for a library of an earlier version, none is missed.
            making = concepts.missing(db)
            meant = used if making else numbers(db, "SELECT text_id FROM concepts")
            present = _sums(db, "text_terms", "body", self._tell)
            wrong, misunderstood = self._stale_texts(db, used, present, meant=not making)
            files = numbers(db, "SELECT id FROM files WHERE status = 'indexed' ORDER BY id")
            named = numbers(db, "SELECT id FROM file_terms_docsize")
            names = _sums(db, "file_terms", "name", self._tell)
            wrong_files = self._stale_files(db, files, names)
        lost = np.setdiff1d(used, indexed)
        stale = np.setdiff1d(wrong, lost)
        surplus = np.setdiff1d(indexed, texts)
        lost_meanings, surplus_meanings = np.setdiff1d(used, meant), np.setdiff1d(meant, texts)
        stale_meanings = np.setdiff1d(misunderstood, lost_meanings)
        lost_files, surplus_files = np.setdiff1d(files, named), np.setdiff1d(named, files)
        stale_files = np.setdiff1d(wrong_files, lost_files)
        if self._repair:
            renewed = np.concatenate([lost, stale, lost_meanings, stale_meanings])
            self._put_words(np.unique(renewed).tolist())
            for part in self._parts(np.union1d(surplus, surplus_meanings).tolist(), "the index of words"):
                with self._catalog.write() as (db, _):
                    self._catalog.lexicon.drop_texts(db, part)
            changed = np.unique(np.concatenate([lost_files, stale_files, surplus_files]))
            self._put_names(changed.tolist())
        for what, found in (
            ("texts in use without their words", lost),
            ("texts whose words in the index are not theirs", stale),
            ("words of no text", surplus),
            ("texts in use without what they are about", lost_meanings),
            ("texts that are about something else than it says", stale_meanings),
            ("what no text is about", surplus_meanings),
            ("indexed files without the words of their names", lost_files),
            ("files whose words in the index are not those of their names", stale_files),
            ("words of names of no indexed file", surplus_files),
        ):
            self._note("words", what, len(found))

    def _stale_texts(self, db: Database, used: Ids, present: Sums, *, meant: bool) -> tuple[Ids, Ids]:
        """Texts whose words, and those whose concepts, are not theirs; the latter only where `meant`."""
        wrong: list[int] = []
        misunderstood: list[int] = []
        for low in range(0, len(used), _AT_ONCE):
            self._tell("the index of words", low, len(used))
            for text_id in used[low : low + _AT_ONCE].tolist():
                rows = db.ask("SELECT text, context FROM chunks WHERE text_id = ? LIMIT 1", (text_id,))
                if not rows:
                    continue  # is told of elsewhere
                text, context = rows[0]
                own, above = lexical.analysed(text), lexical.analysed(context)
                if _sum(own, above) != _at(present, text_id):
                    wrong.append(text_id)
                if meant and not self._understood(db, text_id, text, context, [*above, *own]):
                    misunderstood.append(text_id)
            time.sleep(0.002)  # this thread holds the interpreter most of the time, and a search may wait
        return np.array(wrong, np.int64), np.array(misunderstood, np.int64)

    @staticmethod
    def _understood(db: Database, text_id: int, text: str, context: str, found: Sequence[str]) -> bool:
        """Whether a text's concepts are its own; files may take a short text for different languages."""
        stored = concepts.of(db, text_id)
        langs = db.ask(
            "SELECT lang FROM texts WHERE id = ? UNION SELECT lang FROM chunks WHERE text_id = ?",
            (text_id, text_id),
        )
        return any(concepts.made(text, context, lang, found) == stored for (lang,) in langs)

    def _stale_files(self, db: Database, files: Ids, present: Sums) -> Ids:
        wrong: list[int] = []
        for low in range(0, len(files), _AT_ONCE):
            self._tell("the names of files", low, len(files))
            for file in files[low : low + _AT_ONCE].tolist():
                named = lexical.names_of(db, file)
                if named is not None and _sum(*named) != _at(present, file):
                    wrong.append(file)
        return np.array(wrong, np.int64)

    def _put_words(self, text_ids: Sequence[int]) -> None:
        lexicon = self._catalog.lexicon
        for part in self._parts(text_ids, "the index of words"):
            with self._catalog.write() as (db, _):
                lexicon.drop_texts(db, part)
                for text_id in part:
                    for text, context, lang in db.ask(
                        "SELECT text, context, lang FROM chunks WHERE text_id = ? ORDER BY id LIMIT 1",
                        (text_id,),
                    ):
                        lexicon.put_text(db, text_id, text, context, lang)

    def _put_names(self, files: Sequence[int]) -> None:
        for part in self._parts(files, "the names of files"):
            with self._catalog.write() as (db, _):
                self._catalog.lexicon.put_files(db, part)

    # --- vectors ---------------------------------------------------------------------------

    def _vectors(self) -> None:
        """Whether the vectors are those that were stored for their texts."""
        total, done, last = self._count("vectors"), 0, -1
        damaged: list[int] = []
        unsummed: list[tuple[int, int]] = []
        while True:
            self._tell("the vectors", done, total)
            with self._catalog.read() as db:
                rows = db.ask(
                    "SELECT key, data, crc, hash FROM vectors JOIN texts ON texts.id = key & ?"
                    " WHERE key > ? ORDER BY key LIMIT ?",
                    (TEXT_MASK, last, _PAGE),
                )
            if not rows:
                break
            for key, data, crc, text_hash in rows:
                if _is_damaged(data, crc, text_hash):
                    damaged.append(key)
                elif crc is None:
                    unsummed.append((checksum(text_hash, data), key))
            last, done = rows[-1][0], done + len(rows)
        if self._repair:
            for keys in self._parts(damaged, "the vectors"):
                with self._catalog.write() as (db, _):
                    # Another text may have got the id, and its own vector, meanwhile.
                    part = [key for key in keys if _still_damaged(db, key)]
                    db.executemany("DELETE FROM vectors WHERE key = ?", ((key,) for key in part))
                    db.executemany(
                        "DELETE FROM outbox WHERE text_id = ?"
                        " AND index_id IN (SELECT id FROM indexes WHERE model = ?)",
                        ((key & TEXT_MASK, key >> TEXT_BITS) for key in part),
                    )
            for sums in self._parts(unsummed, "the vectors"):
                with self._catalog.write() as (db, _):
                    db.executemany("UPDATE vectors SET crc = ? WHERE key = ? AND crc IS NULL", sums)
        self._note(
            "vectors",
            "damaged vectors",
            len(damaged),
            advice="Their texts are embedded again.",
        )
        self._note(
            "vectors",
            "vectors of an earlier release without a checksum",
            len(unsummed),
            harmless=True,
        )
        for index in self._indexes:
            with self._catalog.read() as db:
                lacking = index.ledger.lacking(db)
            if self._catalog.active is index.ledger:
                lacking -= (
                    sum(key >> TEXT_BITS == index.ledger.number for key in damaged) if self._repair else 0
                )
                self._note(
                    "vectors",
                    "texts without a vector of the active model",
                    max(0, lacking),
                    advice="They are embedded.",
                )

    # --- the matrix and the accelerator ----------------------------------------------------

    def _matrix(self, index: VectorIndex) -> None:
        self._tell("the matrix", 0, 0)
        wrong = index.differing(self._stop, mend=self._repair)
        self._tell("the matrix", 1, 1)
        self._note(
            "matrix",
            "rows of the exact matrix that differ from the catalog",
            wrong,
        )

    def _accelerator(self, index: VectorIndex) -> bool:
        compared = index.compare_accelerator(lambda done, total: self._tell("the search index", done, total))
        if compared is None:
            return not index.accelerated
        broken = sum(map(len, (compared.lost, compared.wrong)))
        many = broken > compared.known // _SHARE + _LEAST
        if self._repair and (broken or len(compared.strange)):
            index.mend_accelerator(compared, anew=many or bool(len(compared.strange)))
        for what, ids, harmless in (
            ("vectors that the search index acknowledged and does not have", compared.lost, False),
            ("vectors in the search index that are not the catalog's", compared.wrong, False),
            ("vectors in the search index of texts that never were", compared.strange, False),
            ("vectors in the search index of texts that were deleted", compared.stale, True),
        ):
            self._note(
                "index",
                what,
                len(ids),
                mends=not harmless,
                advice="They go with its next compaction." if harmless else "",
                harmless=harmless,
            )
        return True

    # --- files beside the catalog ----------------------------------------------------------

    def _leftovers(self) -> None:
        """Files of ours that nobody needs any more."""
        self._tell("the data folder")
        known = {f"vectors-{model.key}.f32" for model in self._catalog.models()}
        now = time.time()
        left: list[Path] = []
        for file in self._folder.iterdir():
            name = file.name
            old = now - file.lstat().st_mtime > _STALE_S
            unknown = name.startswith("vectors-") and name.endswith(".f32") and name not in known
            if file.is_file() and (unknown or (name.endswith((".new", ".tmp")) and old)):
                left.append(file)
        if self._repair:
            for file in left:
                file.unlink(missing_ok=True)
        self._note(
            "leftovers",
            "files in the data folder that nobody needs",
            len(left),
            harmless=True,
        )

    def _mark_reread(self) -> list[str]:
        """Have the next sweep see that files are to be read, also when this process is killed before."""
        ids = sorted(self._reread)
        if not ids:
            return []
        return self._catalog.mark_unread(ids)


# --- the words of texts, summed up ---------------------------------------------------------------


def _mixed(crcs: npt.NDArray[np.uint64], places: npt.NDArray[np.uint64]) -> Sums:
    """A number for each word at its place, such that sums of them differ where texts do (as splitmix64)."""
    values = crcs << np.uint64(32) | places
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def _sum(first: Sequence[str], second: Sequence[str]) -> int:
    """The sum of a row's words, its columns given."""
    words = [*first, *second]
    places = [2 * at for at in range(len(first))] + [2 * at + 1 for at in range(len(second))]
    crcs = np.fromiter((zlib.crc32(word.encode()) for word in words), np.uint64, len(words))
    return int(_mixed(crcs, np.array(places, np.uint64)).sum(dtype=np.uint64))


def _at(sums: Sums, row: int) -> int:
    return int(sums[row]) if row < len(sums) else 0


def _sums(db: Database, table: str, first: str, tell: Callable[[str, int, int], None]) -> Sums:
    """The sum of each row's words as the index has them, by row id."""
    top = db.ask(f"SELECT coalesce(max(id), -1) FROM {table}_docsize")[0][0]
    sums = np.zeros(top + 1, np.uint64)
    db.pragma("query_only", False)  # a table of this connection's own, in memory
    try:
        db.execute(f"CREATE VIRTUAL TABLE temp.words_of USING fts5vocab('main', '{table}', 'instance')")
        try:
            for docs, crcs, places in _instances(db, first):
                tell("the index of words", 0, 0)
                kept = docs <= top
                np.add.at(sums, docs[kept], _mixed(crcs[kept], places[kept]))
        finally:
            db.execute("DROP TABLE temp.words_of")
    finally:
        db.pragma("query_only", True)
    return sums


def _instances(
    db: Database, first: str
) -> Iterable[tuple[Ids, npt.NDArray[np.uint64], npt.NDArray[np.uint64]]]:
    """Every word at every place: row ids, CRC-32 of the words, places (twice the offset, 1 in column 2)."""
    rows = db.execute("SELECT term, doc, col, offset FROM temp.words_of")
    term, crc = None, 0
    docs: list[int] = []
    crcs: list[int] = []
    places: list[int] = []
    for word, doc, column, offset in rows:
        if word != term:
            term, crc = word, zlib.crc32(word.encode())
        docs.append(doc)
        crcs.append(crc)
        places.append(2 * offset + (column != first))
        if len(docs) == _INSTANCES:
            yield np.array(docs, np.int64), np.array(crcs, np.uint64), np.array(places, np.uint64)
            docs, crcs, places = [], [], []
    yield np.array(docs, np.int64), np.array(crcs, np.uint64), np.array(places, np.uint64)


def _is_damaged(data: object, crc: int | None, text_hash: bytes) -> bool:
    if not isinstance(data, bytes) or not is_vector(data):
        return True
    return crc is not None and crc != checksum(text_hash, data)


def _still_damaged(db: Database, key: int) -> bool:
    query = "SELECT data, crc, hash FROM vectors JOIN texts ON texts.id = key & ? WHERE key = ?"
    return any(_is_damaged(*row) for row in db.ask(query, (TEXT_MASK, key)))


def is_vector(data: bytes) -> bool:
    """Whether stored bytes are a vector at all."""
    if len(data) % 2:
        return False
    values = np.frombuffer(data, "<f2")
    return bool(np.isfinite(values).all() and values.any())
