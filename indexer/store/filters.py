"""What a query's conditions leave of the library.

Two ways to the same answer. `compile` says a condition in SQL. `Filters` answers it for all chunks at
once: file, text and language of every chunk are columns in memory (a chunk never changes them under its
id), each plain condition is asked of the catalog by itself, for files or terms only, and the rest is
arithmetic on rows of bits. So nothing is slow because it is true for half of the library, and what was
asked for lately is known until the library changes.
"""

from __future__ import annotations

import json
import os
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from indexer import query
from indexer.query import Condition, Facts
from indexer.store import lexical

if TYPE_CHECKING:
    from indexer.store.database import Database

Ids = npt.NDArray[np.int64]
Bits = npt.NDArray[np.bool_]

_CACHE_BYTES = 64 << 20
_CHUNKS_READ = 50_000
_FILES_READ = 2000
_STALE_SHARE = 0.5
_FILES_NAMED = 10_000
_FACTS = 300
_LONGEST_PATH = 4096  # no system has longer ones, and SQLite refuses patterns of some length
_LEVELS = 4


# --- as SQL -----------------------------------------------------------------------------------


def compile(condition: Condition) -> tuple[str, list[Any]]:
    """A condition as SQL over rows of `chunks` and of `files`, by these names, that belong together.

    Returns:
        The expression and its arguments.
    """
    match condition:
        case query.All(of=parts) | query.Any(of=parts):
            if not parts:
                return str(int(isinstance(condition, query.All))), []
            compiled = [compile(part) for part in parts]
            word = " AND " if isinstance(condition, query.All) else " OR "
            return f"({word.join(sql for sql, _ in compiled)})", [arg for _, args in compiled for arg in args]
        case query.Not(of=part):
            sql, args = compile(part)
            return f"NOT {sql}", args
        case query.Lang(code=code):
            return "(chunks.lang = ?)", [_storable(code)]
        case query.Phrase(text=text):
            said, terms = lexical.phrase(text)
            return (said, list(terms)) if said else ("1", [])
    return _of_file(condition)


def _of_file(condition: Condition) -> tuple[str, list[Any]]:
    """A condition that only `files` decides."""
    match condition:
        case query.Ext(said) | query.In(said) | query.Name(said) if len(said) > _LONGEST_PATH:
            return "0", []
        case query.Ext(suffix=suffix):
            suffix = _storable(suffix.lower())
            last = suffix.rpartition(".")[2]
            if last == suffix:
                return "(files.suffix = ?)", [suffix]
            return "(files.suffix = ? AND files.name LIKE ? ESCAPE '\\')", [last, "%." + _like(suffix)]
        case query.Kind(name=name):
            column = "media" if name in query.MEDIA else "code_language"
            return f"(files.{column} IS ?)", [_storable(name)]
        case query.In(path=path) if path.startswith("/"):
            try:
                return below(path)
            except UnicodeEncodeError:
                return "0", []  # no path has these characters
        case query.In(path=path):
            return _any_like("CAST(files.path AS TEXT)", [f"%/{p}/%" for p in _spellings(path)])
        case query.Name(part=part):
            # Most names can be told by their path, which is cheaper to look at.
            found = [f"%{p}%" for p in _spellings(part)]
            in_path, args = _any_like("CAST(files.path AS TEXT)", found)
            in_name, _ = _any_like("files.name", found)
            return f"({in_path} AND {in_name})", [*args, *args]
        case query.Modified(after=after, before=before):
            return _between("files.mtime_ns", _ns(after), _ns(before), "<")
        case query.Size(least=least, most=most):
            return _between("files.size", least, most, "<=")
    raise TypeError(f"no condition: {condition!r}")


def below(path: str) -> tuple[str, list[Any]]:
    """Files at or below an absolute path, as SQL.

    Raises:
        UnicodeEncodeError: The file system can have no such path.
    """
    at, separator = os.fsencode(path), os.fsencode(os.sep)
    low = at.rstrip(separator) + separator
    high = low[:-1] + bytes([low[-1] + 1])
    return "(files.path = ? OR files.path >= ? AND files.path < ?)", [at, low, high]


def _between(column: str, low: int | None, high: int | None, until: str) -> tuple[str, list[Any]]:
    said, args = [], []
    for sign, bound in ((">=", low), (until, high)):
        if bound is not None:
            said.append(f"{column} {sign} ?")
            args.append(max(-(1 << 63), min((1 << 63) - 1, bound)))
    return (f"({' AND '.join(said)})" if said else "1"), args


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000_000) * 1000


def _any_like(column: str, patterns: Sequence[str]) -> tuple[str, list[Any]]:
    return "(" + " OR ".join([f"{column} LIKE ? ESCAPE '\\'"] * len(patterns)) + ")", list(patterns)


def _spellings(text: str) -> list[str]:
    """Patterns for LIKE that together match a text in upper and lower case, composed and decomposed.

    LIKE itself knows that A is a, but not of any letter beyond; the first letter of a word may be large.
    """
    text = _storable(text)
    cases = (text, text.lower(), text.upper(), text.title()) if not text.isascii() else (text,)
    return list(
        dict.fromkeys(_like(unicodedata.normalize(form, t)) for t in cases for form in ("NFC", "NFD"))
    )


def _like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _storable(text: str) -> str:
    """Text without lone surrogates, which SQLite cannot be asked for."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


# --- for all chunks at once -------------------------------------------------------------------


class Columns(NamedTuple):
    """File, text and language of chunks, in order of id. It may hold chunks that are gone."""

    ids: Ids
    files: Ids
    texts: Ids
    langs: npt.NDArray[np.int16]
    names: tuple[str, ...]  # of the languages, by number


class Selection(NamedTuple):
    """What fulfils a condition.

    Attributes:
        chunks: Ids, sorted; some of them may be gone from the catalog.
        texts: The texts they have, sorted.
    """

    chunks: Ids
    texts: Ids

    def among(self, numbers: Ids, known: Ids | None = None) -> Ids:
        """Those of some texts that fulfil the condition, in their order.

        Args:
            numbers: Texts, or whatever `known` has.
            known: What to look for them in, sorted; None for `texts`.
        """
        known = self.texts if known is None else known
        if not len(known):
            return numbers[:0]
        at = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
        kept: Ids = numbers[known[at] == numbers]
        return kept


class Filters:
    """Answers conditions for one catalog. Every method may be called from any thread.

    Each takes a connection, and the catalog's version as it was before that connection took its
    snapshot. What one state of the catalog answered serves all readers of that state.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._columns = _no_columns()
        self._version = -1
        self._cache: OrderedDict[Condition, tuple[Bits | None, Selection | None]] = OrderedDict()
        self._cached_bytes = 0

    def select(self, db: Database, version: int, condition: Condition) -> Selection:
        """The chunks that fulfil a condition, and their texts."""
        with self._lock:
            return self._select(db, self._current(db, version), condition)

    def _select(self, db: Database, columns: Columns, condition: Condition) -> Selection:
        known = self._cache.get(condition)
        if known is not None and known[1] is not None:
            self._cache.move_to_end(condition)
            return known[1]
        bits = self._bits(db, columns, condition)
        kept = columns.texts[bits]
        seen = np.zeros(int(kept.max()) + 1 if len(kept) else 0, np.bool_)
        seen[kept] = True
        selection = Selection(columns.ids[bits], np.flatnonzero(seen))
        self._remember(condition, (bits, selection))
        return selection

    def rest(self) -> None:
        """Forget answers; what they are made from stays."""
        with self._lock:
            self._cache.clear()
            self._cached_bytes = 0

    def newest(self, db: Database, version: int, condition: Condition | None, limit: int) -> list[int]:
        """The first chunk of each of the `limit` newest files that have one which fulfils the condition."""
        found: list[int] = []
        files = "SELECT id FROM files ORDER BY mtime_ns DESC, id"
        args: tuple[Any, ...] = ()
        kept = None
        if condition is not None:
            with self._lock:
                columns = self._current(db, version)
                kept = self._select(db, columns, condition)
            wanted = np.unique(columns.files[np.searchsorted(columns.ids, kept.chunks)])
            if len(wanted) <= _FILES_NAMED:
                files = (
                    "SELECT id FROM files WHERE id IN (SELECT value FROM json_each(?))"
                    " ORDER BY mtime_ns DESC, id"
                )
                args = (json.dumps(wanted.tolist()),)
        for (file,) in db.execute(files, args):
            if len(found) >= limit:
                break
            rows = db.ask("SELECT id FROM chunks WHERE file = ? ORDER BY slot", (file,))
            chunks = np.array([row[0] for row in rows], np.int64)
            if kept is not None:
                chunks = kept.among(chunks, kept.chunks)
            found.extend(chunks[:1].tolist())
        return found

    def facts(self, db: Database, version: int) -> Facts:
        """What the library holds."""
        with self._lock:
            columns = self._current(db, version)
        spoken = np.bincount(columns.langs, minlength=len(columns.names)).tolist()
        kinds: dict[str, int] = {}
        for media, code_language, number in db.ask(
            "SELECT media, code_language, count(*) FROM files WHERE media IS NOT NULL GROUP BY 1, 2"
        ):
            for name in filter(None, (media, code_language)):
                kinds[name] = kinds.get(name, 0) + number
        suffixes = db.ask(
            "SELECT suffix, count(*) FROM files WHERE suffix != '' AND media IS NOT NULL GROUP BY suffix"
        )
        folder = "rtrim(CAST(path AS TEXT), replace(CAST(path AS TEXT), '/', ''))"
        below = db.ask(
            f"SELECT CAST({folder} AS BLOB), count(*) FROM files WHERE media IS NOT NULL GROUP BY 1"
        )
        roots = [os.fsdecode(row[0]) for row in db.ask("SELECT path FROM roots")]
        return Facts(
            extensions=_most(suffixes),
            kinds=_most(kinds.items()),
            languages=_most((n, k) for n, k in zip(columns.names, spoken, strict=True) if n),
            folders=_folders(roots, [(os.fsdecode(path), number) for path, number in below]),
        )

    def _current(self, db: Database, version: int) -> Columns:
        if version <= self._version:  # what another reader has seen since is as good
            return self._columns
        columns = self._columns
        last = int(columns.ids[-1]) if len(columns.ids) else 0
        total = int(db.ask("SELECT total(chunks) FROM files")[0][0])
        if len(columns.ids) > total * (1 + _STALE_SHARE) + _CHUNKS_READ:
            columns, last = _no_columns(), 0
        numbers = {name: number for number, name in enumerate(columns.names)}
        rows = _rows_after(db, last) if last else _all_rows(db)
        fresh = [_columns(part, numbers) for part in rows if part[0]]
        if fresh:
            parts = [columns, *fresh] if last else fresh
            joined = [np.concatenate([part[at] for part in parts]) for at in range(4)]
            if not last:  # they came file by file
                order = np.argsort(joined[0], kind="stable")
                joined = [column[order] for column in joined]
            columns = Columns(joined[0], joined[1], joined[2], joined[3], tuple(numbers))
        self._columns, self._version = columns, version
        self._cache.clear()
        self._cached_bytes = 0
        return columns

    def _remember(self, condition: Condition, found: tuple[Bits | None, Selection | None]) -> None:
        self._forget(self._cache.pop(condition, None))
        self._cache[condition] = found
        self._cached_bytes += _weight(found)
        while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
            self._forget(self._cache.popitem(last=False)[1])

    def _forget(self, found: tuple[Bits | None, Selection | None] | None) -> None:
        if found is not None:
            self._cached_bytes -= _weight(found)

    def _bits(self, db: Database, columns: Columns, condition: Condition) -> Bits:
        """One bit for each row of the columns."""
        known = self._cache.get(condition)
        if known is not None and known[0] is not None:
            self._cache.move_to_end(condition)
            return known[0]
        match condition:
            case query.All(of=parts):
                bits = np.ones(len(columns.ids), np.bool_)
                for part in parts:
                    bits &= self._bits(db, columns, part)
            case query.Any(of=parts):
                bits = np.zeros(len(columns.ids), np.bool_)
                for part in parts:
                    bits |= self._bits(db, columns, part)
            case query.Not(of=part):
                bits = ~self._bits(db, columns, part)
            case query.Lang(code=code):
                wanted = columns.names.index(code) if code in columns.names else -1
                bits = columns.langs == wanted
            case query.Phrase():
                bits = self._phrase(db, columns, condition)
            case _:
                sql, args = _of_file(condition)
                bits = _among(columns.files, _files(db, sql, args))
        if not isinstance(condition, query.All | query.Any | query.Not):
            self._remember(condition, (bits, None))
        return bits

    @staticmethod
    def _phrase(db: Database, columns: Columns, condition: query.Phrase) -> Bits:
        found = lexical.phrase_ids(db, condition.text)
        if found is None:
            return np.ones(len(columns.ids), np.bool_)
        texts, files = found
        return _among(columns.texts, texts) | _among(columns.files, files)


def _most(counts: Iterable[tuple[str, int]], limit: int = _FACTS) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts, key=lambda pair: (-pair[1], pair[0]))[:limit])


def _folders(roots: Sequence[str], files: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """The library's folders, and those of the first levels in them, with the number of files below.

    Args:
        roots: The folders of the library.
        files: Folders (with a slash at their end) and how many files are in each itself.
    """
    counts = dict.fromkeys(roots, 0)
    for path, number in files:
        root = next((r for r in roots if path.startswith(r.rstrip("/") + "/")), None)
        if root is None:
            continue
        counts[root] += number
        at = root.rstrip("/")
        for name in path[len(at) + 1 : -1].split("/")[:_LEVELS]:
            if name:
                at = f"{at}/{name}"
                counts[at] = counts.get(at, 0) + number
    return _most(counts.items())


def _no_columns() -> Columns:
    nothing = np.zeros(0, np.int64)
    return Columns(nothing, nothing, nothing, np.zeros(0, np.int16), ())


# As one string each: a Python object for every number would take longer.
_JOINED = (
    "group_concat(id, ' '), group_concat(file, ' '), group_concat(text_id, ' '), group_concat(lang, char(31))"
)


def _rows_after(db: Database, last: int) -> Iterator[tuple[str, str, str, str]]:
    """Ids, files, texts and languages of the chunks after one, in order of id."""
    while True:
        query = f"SELECT {_JOINED}, max(id) FROM (SELECT * FROM chunks WHERE id > ? ORDER BY id LIMIT ?)"
        *row, top = db.ask(query, (last, _CHUNKS_READ))[0]
        if top is None:
            return
        yield row[0], row[1], row[2], row[3]
        last = top


def _all_rows(db: Database) -> Iterator[tuple[str, str, str, str]]:
    """The same of all chunks, some files at a time, along the index that holds all that is wanted."""
    place = "FROM chunks INDEXED BY chunks_by_place WHERE file >= ?"
    first = 0
    while (low := db.ask(f"SELECT min(file) {place}", (first,))[0][0]) is not None:
        first = low + _FILES_READ
        yield db.ask(f"SELECT {_JOINED} {place} AND file < ?", (low, first))[0]


def _columns(row: tuple[str, str, str, str], numbers: dict[str, int]) -> Columns:
    """What one of these says; languages that are new get the next numbers."""
    ids, files, texts = (np.fromstring(joined, np.int64, sep=" ") for joined in row[:3])
    langs = [numbers.setdefault(lang, len(numbers)) for lang in row[3].split("\x1f")]
    return Columns(ids, files, texts, np.array(langs, np.int16), ())


def _weight(found: tuple[Bits | None, Selection | None]) -> int:
    bits, selection = found
    size = 0 if bits is None else bits.nbytes
    return size if selection is None else size + selection.chunks.nbytes + selection.texts.nbytes


def _files(db: Database, sql: str, args: Sequence[Any]) -> Ids:
    """The files that fulfil an expression, read as one string: a Python object for each takes longer."""
    found = db.ask(f"SELECT group_concat(id, ' ') FROM files WHERE {sql}", args)
    return np.fromstring(found[0][0] or "", np.int64, sep=" ")


def _among(values: Ids, wanted: Ids) -> Bits:
    """Where `values` (none below 0) are among `wanted`."""
    if not len(values):
        return np.zeros(0, np.bool_)
    table = np.zeros(int(values.max()) + 1, np.bool_)
    table[wanted[wanted < len(table)]] = True
    found: Bits = table[values]
    return found
