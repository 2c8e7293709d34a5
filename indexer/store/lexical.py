"""The words of texts and of file names: two full-text tables in the catalog, and what is counted beside them.

`text_terms` has a row for every row of `texts`, `file_terms` one for every indexed file. Both hold the terms
of `indexer.analysis` and no text of their own, and change in the transaction that changes what they are
made of. Which language a text is in, and whether a chunk uses it, is kept in memory too, so that counting
a term's texts by language takes no look at the catalog.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import logging
import os
import string
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from indexer.analysis import PREFIX, QueryTerm, phrase_forms, terms
from indexer.errors import IndexerError
from indexer.store import concepts

if TYPE_CHECKING:
    from indexer.store.database import Database

log = logging.getLogger(__name__)

Ids = npt.NDArray[np.int64]

# Terms come ready, so whatever is not white space is part of one: SQLite's own tokenizer does, without a
# call into Python. An apostrophe or quotation mark is in no term.
_MARKS = "".join(c for c in string.punctuation if c not in "'\"")
_OPTIONS = f"content='', contentless_delete=1, tokenize=\"ascii tokenchars '{_MARKS}'\""
VIRTUAL_TABLES = (
    f"CREATE VIRTUAL TABLE text_terms USING fts5(body, head, {_OPTIONS})",
    f"CREATE VIRTUAL TABLE file_terms USING fts5(name, title, {_OPTIONS})",
    "CREATE VIRTUAL TABLE text_words USING fts5vocab(text_terms, row)",
)
TABLES = f"""
    {"; ".join(VIRTUAL_TABLES)};
    ALTER TABLE texts ADD COLUMN lang TEXT NOT NULL DEFAULT '';
    INSERT INTO meta SELECT 'unanalysed', 1 WHERE EXISTS(SELECT 1 FROM files);
"""

# A term in more texts than this says little; its texts are counted and not named.
_COMMON = 0.05
_COMMON_LEAST = 2000
_STALE = 0.05  # a library that grew or shrank by this share is counted anew
_GROW = 1 << 14
_FILL = 1000

# A word in so few texts is also looked for inside other words, and with other endings.
_RARE = 20
_INSIDE = 5  # letters that it must have for that
_MOST_TERMS = 48  # other terms taken for one word
_SCANNED = 400  # words looked at for them
_FRESH = 20_000  # new words after which all are put in order again
_LONG = 24  # a query of more terms has enough of them, and no more are looked for
_AT_ONCE = 5_000  # so many texts are surveyed while a search waits, more of them behind its back
# Endings that words of the Latin script put in the place of one another. Others are as likely another word.
_ENDINGS = frozenset(
    (
        *(
            "",
            "a",
            "d",
            "e",
            "ed",
            "em",
            "en",
            "er",
            "ern",
            "es",
            "i",
            "ing",
            "is",
            "m",
            "n",
            "ns",
            "o",
            "os",
        ),
        *("r", "as", "s", "st", "t", "te", "ten", "x", "y", "ies", "ied", "ar", "ir", "re", "ai", "ou", "an"),
    )
)
_PART = 4  # letters of the parts of a compound
_LINKS = ("", "s", "es", "n", "en", "er", "e")  # between the parts of German, Dutch, Nordic compounds


@dataclasses.dataclass(frozen=True, eq=False)
class TermMatch:
    """Where one term of a query is found.

    Attributes:
        term: The term; `forms` has grown by what else was looked for, for the sake of `occurrences`.
        texts: int64, sorted: texts in use that have it in passage or headings. Empty when `common`.
        near: int64, sorted: further texts in use that have it inside a longer word, with another ending,
            or as the two halves of a compound.
        files: int64, sorted: indexed files whose name, folders or title have it; of very many only some.
        df: How many texts in use have it (`texts` and `near`), by language; those with none are left out.
        common: It is in so many texts that it says little.
    """

    term: QueryTerm
    texts: Ids
    near: Ids
    files: Ids
    df: dict[str, int]
    common: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Lexical:
    """Where the terms of a query are found, all from one state of the catalog.

    Which texts are in use, and so the counts, may be of a moment later while files are being written.

    Attributes:
        matches: One for each term, in their order.
        sizes: How many texts are in use, by language.
    """

    matches: tuple[TermMatch, ...]
    sizes: dict[str, int]


class Scored(NamedTuple):
    """A text and its BM25 score, higher is better."""

    text: int
    score: float


def phrase(text: str) -> tuple[str, list[str]]:
    """What a passage must fulfil to have these words side by side in its text, headings, file name or title.

    Returns:
        A condition on rows of `chunks` joined with `files`, both by those names, and its arguments. The
        condition is empty when the text has no words: then nothing can be asked for.
    """
    expression = _match(phrase_forms(text))
    if not expression:
        return "", []
    return (
        "(chunks.text_id IN (SELECT rowid FROM text_terms WHERE text_terms MATCH ?)"
        " OR files.id IN (SELECT rowid FROM file_terms WHERE file_terms MATCH ?))",
        [expression, expression],
    )


def phrase_ids(db: Database, text: str) -> tuple[Ids, Ids] | None:
    """Sorted ids of the texts and of the files that fulfil `phrase`; None when the text has no words."""
    expression = _match(phrase_forms(text))
    if not expression:
        return None
    return _ids(db, "text_terms", expression), _ids(db, "file_terms", expression)


def _match(forms: Iterable[tuple[str, ...]]) -> str:
    """Terms side by side, in the words of FTS5."""
    return " OR ".join(
        f'"{" ".join(form).removesuffix(PREFIX)}"' + (" *" if form[-1].endswith(PREFIX) else "")
        for form in forms
    )


def _ids(db: Database, table: str, expression: str, limit: int = -1) -> Ids:
    """The rows that match, sorted. One string is read, since a Python object for each row takes long."""
    found = db.ask(
        f"SELECT group_concat(rowid, ' ') FROM (SELECT rowid FROM {table} WHERE {table} MATCH ? LIMIT ?)",
        (expression, limit),
    )[0][0]
    return np.fromstring(found or "", np.int64, sep=" ")


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def analysed(text: str) -> list[str]:
    """The words of a passage, or of what stands above it, as they are indexed, in order."""
    return terms(_clean(text))


def names_of(db: Database, file: int) -> tuple[list[str], list[str]] | None:
    """The words of a file's name and folders, and those of its title; None when it is not indexed."""
    for path, root, title in db.ask(
        "SELECT files.path, roots.path, title FROM files JOIN roots ON roots.id = root"
        " WHERE files.id = ? AND status = 'indexed'",
        (file,),
    ):
        below = os.fsdecode(path.removeprefix(root)) or os.fsdecode(path)
        # The file's name before its folders', with a mark between that no phrase crosses.
        parts = [part for part in reversed(Path(below).parts) if part != os.sep]
        names = [word for part in parts for word in ("/", *terms(_clean(part)))]
        return names[1:], terms(_clean(title))
    return None


class Lexicon:
    """The lexical index of one catalog. Methods that take a connection see that connection's state.

    Writing is done by the catalog's one writer; reading by any thread.
    """

    def __init__(self, read: Callable[[], contextlib.AbstractContextManager[Database]]) -> None:
        """Make an empty one; `read` gives a connection to a thread that has none."""
        self._read = read
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._langs = np.zeros(0, np.uint16)
        self._live = np.zeros(0, np.bool_)
        self._sizes = np.zeros(0, np.int64)  # how many are in use, by number of language
        self._common: dict[str, tuple[int, dict[str, int]]] = {}
        self._words = _Words()
        self._survey_lock = threading.Lock()
        self._ended = threading.Event()

    def close(self) -> None:
        """Let a survey that runs end soon, so that nobody waits for its connection."""
        self._ended.set()

    # --- writing ---------------------------------------------------------------------------

    def put_text(self, db: Database, text_id: int, body: str, head: str, lang: str) -> None:
        """Index a new text. It is not in use before `enliven`."""
        found, above = analysed(body), analysed(head)
        db.execute("DELETE FROM text_terms WHERE rowid = ?", (text_id,))  # one without its concepts
        db.execute(
            "INSERT INTO text_terms(rowid, body, head) VALUES(?, ?, ?)",
            (text_id, " ".join(found), " ".join(above)),
        )
        concepts.put(db, text_id, body, head, [*above, *found], lang)
        self._place(text_id, lang)
        self._words.add(found)
        self._words.add(above)

    @staticmethod
    def has_text(db: Database, text_id: int) -> bool:
        """Whether a text is indexed; one that was out of use when the index was made is not."""
        indexed = bool(db.ask("SELECT 1 FROM text_terms WHERE rowid = ?", (text_id,)))
        return indexed and concepts.has(db, text_id)

    @staticmethod
    def drop_texts(db: Database, text_ids: Sequence[int]) -> None:
        """Forget texts."""
        db.executemany("DELETE FROM text_terms WHERE rowid = ?", ((t,) for t in text_ids))
        concepts.drop(db, text_ids)

    @staticmethod
    def put_files(db: Database, ids: Sequence[int]) -> None:
        """Bring the entries of files up to date with their rows (or the lack of them)."""
        for number in ids:
            db.execute("DELETE FROM file_terms WHERE rowid = ?", (number,))
            named = names_of(db, number)
            if named is not None:
                db.execute(
                    "INSERT INTO file_terms(rowid, name, title) VALUES(?, ?, ?)",
                    (number, *map(" ".join, named)),
                )

    def fill(self, db: Database) -> None:
        """Index what was stored before there was a lexical index, in transactions of their own.

        An end in between costs nothing: the next call goes on there.
        """
        if not db.ask("SELECT 1 FROM meta WHERE key = 'unanalysed'"):
            return
        while True:
            with db:
                last = db.ask("SELECT coalesce(max(rowid), -1) FROM text_terms")[0][0]
                rows = db.ask(
                    "SELECT texts.id, text, context, chunks.lang FROM texts"
                    " JOIN chunks ON chunks.id = (SELECT min(id) FROM chunks WHERE text_id = texts.id)"
                    " WHERE texts.id > ? ORDER BY texts.id LIMIT ?",
                    (last, _FILL),
                )
                for text_id, text, context, lang in rows:
                    self.put_text(db, text_id, text, context, lang)
                    db.execute("UPDATE texts SET lang = ? WHERE id = ?", (lang, text_id))
                if len(rows) < _FILL:
                    self.put_files(db, [row[0] for row in db.ask("SELECT id FROM files")])
                    db.execute("DELETE FROM meta WHERE key = 'unanalysed'")
                    return

    # --- which texts are in use, and their languages ------------------------------------------

    def load(self, db: Database) -> None:
        """Take up the state of the catalog, at its opening."""
        for lang, joined in db.ask(
            "SELECT lang, group_concat(id, ' ') FROM texts WHERE unused_since IS NULL GROUP BY lang"
        ):
            ids = np.fromstring(joined, np.int64, sep=" ")
            self._reserve(int(ids.max()))
            self._langs[ids] = self._number(lang)
            self._live[ids] = True
            self._sizes[self._number(lang)] = len(ids)
        for text_id, lang in db.ask("SELECT id, lang FROM texts WHERE unused_since IS NOT NULL"):
            self._place(text_id, lang)

    def enliven(self, text_ids: Sequence[int]) -> None:
        """These texts are in use from now on; called before the commit that makes it so."""
        if text_ids:
            self._reserve(max(text_ids))
            self._use(text_ids, use=True)

    def retire(self, text_ids: Sequence[int]) -> None:
        """These texts are no longer in use; called after the commit that makes it so."""
        if text_ids:
            self._use(text_ids, use=False)

    def _use(self, text_ids: Sequence[int], *, use: bool) -> None:
        ids = np.unique(np.array(text_ids, np.int64))
        ids = ids[self._live[ids] != use]
        self._live[ids] = use
        counts = np.bincount(self._langs[ids], minlength=len(self._sizes))
        self._sizes = self._sizes + counts if use else self._sizes - counts

    def in_use(self) -> Ids:
        """All texts that some chunk uses."""
        return np.flatnonzero(self._live)

    def _place(self, text_id: int, lang: str) -> None:
        self._reserve(text_id)
        self._langs[text_id] = self._number(lang)

    def _number(self, lang: str) -> int:
        if lang not in self._numbers:
            self._names.append(lang)
            self._numbers[lang] = len(self._names) - 1
            self._sizes = np.append(self._sizes, 0)
        return self._numbers[lang]

    def _reserve(self, text_id: int) -> None:
        if text_id >= len(self._live):
            more = max(text_id + 1 - len(self._live), _GROW, len(self._live) // 4)
            self._langs = np.concatenate([self._langs, np.zeros(more, np.uint16)])
            self._live = np.concatenate([self._live, np.zeros(more, np.bool_)])

    def _used(self, ids: Ids) -> Ids:
        live = self._live
        if len(ids) and ids[-1] >= len(live):
            ids = ids[ids < len(live)]
        return ids[live[ids]]

    def _by_language(self, ids: Ids) -> dict[str, int]:
        counts = np.bincount(self._langs[ids])
        return {self._names[n]: int(counts[n]) for n in np.flatnonzero(counts)}

    def sizes(self) -> tuple[int, dict[str, int]]:
        """How many texts are in use, in all and by language."""
        counts = self._sizes.tolist()
        return sum(counts), {self._names[n]: count for n, count in enumerate(counts) if count}

    def picked(self, most: int) -> dict[str, Ids]:
        """Up to `most` texts in use of each language, at even distances, by language."""
        used = np.flatnonzero(self._live)
        numbers = self._langs[used]
        found = {}
        for number in np.unique(numbers).tolist():
            ids = used[numbers == number]
            found[self._names[number]] = ids[:: max(1, -(-len(ids) // most))]
        return found

    # --- reading ---------------------------------------------------------------------------

    def match(self, db: Database, query: Sequence[QueryTerm]) -> Lexical:
        """Where the terms of a query are found."""
        size, by_language = self.sizes()
        self._look_around(db, size)
        widen = len(query) <= _LONG
        matches = tuple(self._one(db, term, size, widen=widen) for term in query)
        return Lexical(matches, by_language)

    def _look_around(self, db: Database, size: int) -> None:
        """Have the words of the index in order, and its commonest ones counted.

        In a large library that takes a second or more, so it happens behind the first search, which goes
        without.
        """
        if not self._words.stale or not self._survey_lock.acquire(blocking=size <= _AT_ONCE):
            return
        if size <= _AT_ONCE:
            try:
                if self._words.stale:
                    self._survey(db)
            finally:
                self._survey_lock.release()
            return

        def survey() -> None:
            try:
                with self._read() as own:
                    self._survey(own)
            except IndexerError as error:  # closed meanwhile; or the disk fails, which others will report
                log.info("the words of the index were not read: %s", error.title)
            finally:
                self._survey_lock.release()

        threading.Thread(target=survey, name="lexical survey", daemon=True).start()

    def _survey(self, db: Database) -> None:
        size, _ = self.sizes()
        limit = _limit(size)
        for term in self._words.read(db, limit, self._ended):
            if self._ended.is_set():
                return
            expression = _match([(term,)])
            df = self._by_language(self._used(_ids(db, "text_terms", expression)))
            if sum(df.values()) > limit:
                self._common[expression] = (size, df)

    def _one(self, db: Database, term: QueryTerm, size: int, *, widen: bool) -> TermMatch:
        limit = _limit(size)
        none = np.zeros(0, np.int64)
        expression = _match(term.forms)
        files = _ids(db, "file_terms", expression, limit)
        counted = self._common.get(expression)
        if counted is not None and abs(counted[0] - size) <= _STALE * counted[0]:
            return TermMatch(term, none, none, files, counted[1], common=True)
        texts = self._used(_ids(db, "text_terms", expression, limit + 1))
        if len(texts) > limit:
            df = self._by_language(self._used(_ids(db, "text_terms", expression)))
            self._common[expression] = (size, df)
            return TermMatch(term, none, none, files, df, common=True)
        near = none
        wider = self._wider(term, rare=len(texts) <= _RARE) if widen else []
        if wider:
            found = self._used(_ids(db, "text_terms", _match(wider), limit))
            near = np.setdiff1d(found, texts, assume_unique=True)
            if len(files) == 0:
                files = _ids(db, "file_terms", _match(wider), limit)
            term = msgspec.structs.replace(term, forms=(*term.forms, *wider))
        elif widen and not len(texts):
            near, parts = self._halves(db, term, limit)
            term = msgspec.structs.replace(term, forms=(*term.forms, *parts))
        df = self._by_language(np.concatenate([texts, near]))
        return TermMatch(term, texts, near, files, df, common=False)

    def _wider(self, term: QueryTerm, *, rare: bool) -> list[tuple[str, ...]]:
        """Other terms that mean much the same: other endings and, of a rare word, what contains it."""
        word = _plain(term)
        if not word:
            return []
        words = self._words.snapshot()
        found = words.inflected(word)
        if rare:
            found += words.containing(word)
            folded = word.replace("ae", "a").replace("oe", "o").replace("ue", "u")
            if folded != word and words.has(folded):
                found.append(folded)
        others = [other for other in dict.fromkeys(found) if other != word]
        return [(other,) for other in others[:_MOST_TERMS]]

    def _halves(self, db: Database, term: QueryTerm, limit: int) -> tuple[Ids, list[tuple[str, ...]]]:
        """Texts that have both parts of a compound that no text has."""
        word = _plain(term)
        if word:
            words = self._words.snapshot()
            for at in range(len(word) - _PART, _PART - 1, -1):
                right = word[at:]
                if not words.has(right):
                    continue
                for link in _LINKS:
                    left = word[:at].removesuffix(link) if word[:at].endswith(link) else ""
                    if len(left) < _PART or not words.has(left):
                        continue
                    both = self._used(_ids(db, "text_terms", f'"{left}" AND "{right}"', limit))
                    if len(both):
                        return both, [(left,), (right,)]
        return np.zeros(0, np.int64), []

    def bm25(self, db: Database, query: Sequence[QueryTerm], k: int) -> list[Scored]:
        """The texts in use that score best by plain BM25 over all of the terms."""
        expression = _match(dict.fromkeys(form for term in query for form in term.forms))
        if not expression:
            return []
        rows = db.ask(
            "SELECT rowid, -bm25(text_terms) FROM text_terms WHERE text_terms MATCH ? ORDER BY 2 DESC, 1",
            (expression,),
        )
        used = set(self._used(np.array(sorted(row[0] for row in rows), np.int64)).tolist())
        return [Scored(*row) for row in rows if row[0] in used][:k]


def _limit(size: int) -> int:
    """In how many of so many texts a term may be before it is common."""
    return max(_COMMON_LEAST, int(_COMMON * size))


def _plain(term: QueryTerm) -> str:
    """The word of a term that is one word of letters and long enough to be looked for within others."""
    form = term.forms[-1] if term.forms else ()
    if len(term.forms) != 1 or len(form) != 1 or len(form[0]) < _INSIDE or not _is_word(form[0]):
        return ""
    return form[0]


def _is_word(term: str) -> bool:
    # Korean and what is written without spaces have their pairs, which serve better.
    return term.isalpha() and (
        term[0] < "\u0e00" or "\u1e00" <= term[0] < "\u2000" or "\u10a0" <= term[0] < "\u1100"
    )


class _Vocabulary:
    """Words in the order of their UTF-8 bytes, in one string with a line feed around each."""

    def __init__(self, words: bytes) -> None:
        self._text = b"\n" + words + b"\n" if words else b"\n"
        breaks = np.flatnonzero(np.frombuffer(self._text, np.uint8) == 10)
        self._breaks = breaks.astype(np.int64)

    def __len__(self) -> int:
        return len(self._breaks) - 1

    def _at(self, number: int) -> bytes:
        return self._text[self._breaks[number] + 1 : self._breaks[number + 1]]

    def _from(self, word: bytes) -> int:
        return bisect.bisect_left(range(len(self)), word, key=self._at)

    def has(self, word: bytes) -> bool:
        number = self._from(word)
        return number < len(self) and self._at(number) == word

    def beginning(self, prefix: bytes, most: int) -> Iterator[bytes]:
        first = self._from(prefix)
        for number in range(first, min(first + most, len(self))):
            word = self._at(number)
            if not word.startswith(prefix):
                return
            yield word

    def containing(self, part: bytes, most: int) -> Iterator[bytes]:
        at = self._text.find(part)
        while at >= 0 and most:
            start, end = self._text.rfind(b"\n", 0, at) + 1, self._text.index(b"\n", at)
            yield self._text[start:end]
            most -= 1
            at = self._text.find(part, end)


class _Snapshot:
    """The words of the index: those at some time, and those that came since."""

    def __init__(self, vocabulary: _Vocabulary, fresh: frozenset[str]) -> None:
        self._vocabulary = vocabulary
        self._fresh = fresh

    def has(self, word: str) -> bool:
        return word in self._fresh or self._vocabulary.has(word.encode())

    def inflected(self, word: str) -> list[str]:
        """Words that differ from this one in their ending only."""
        ending = 3 if word.endswith(("ies", "ied")) else 2 if len(word) > _INSIDE else 1
        stem = word[: max(_PART, len(word) - ending)]
        found = [b.decode() for b in self._vocabulary.beginning(stem.encode(), _SCANNED)]
        found += (other for other in self._fresh if other.startswith(stem))
        return [other for other in found if _differ_in_ending(word, other)]

    def containing(self, part: str) -> list[str]:
        """Words that have this one inside, the shortest first."""
        found = {b.decode() for b in self._vocabulary.containing(part.encode(), _SCANNED)}
        found.update(other for other in self._fresh if part in other)
        return sorted(found, key=lambda other: (len(other), other))


def _differ_in_ending(one: str, other: str) -> bool:
    pairs = enumerate(zip(one, other, strict=False))
    same = next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
    # The border of stem and ending may stand before the first letter that differs (apply, applies).
    for border in (same, same - 1):
        mine, its = one[border:], other[border:]
        if one[0] >= "\u0370":
            return max(len(mine), len(its)) <= 2  # Greek, Cyrillic and so on
        if mine in _ENDINGS and its in _ENDINGS and border >= _PART:
            return True
    return False


class _Words:
    """The distinct words of the index, for finding one inside another; read when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._vocabulary: _Vocabulary | None = None
        self._seen: set[str] = set()
        self._fresh: set[str] = set()  # those of `_seen` that are kept
        self._snapshot: _Snapshot | None = None

    @property
    def stale(self) -> bool:
        """Whether `read` is due."""
        return self._vocabulary is None or len(self._fresh) > _FRESH

    def add(self, found: Iterable[str]) -> None:
        """Words of a text that is being written."""
        with self._lock:
            new = set(found) - self._seen
            if new and self._vocabulary is not None:
                self._fresh.update(filter(_is_kept, new))
                self._snapshot = None
            if len(self._seen) > 10 * _FRESH:
                # Long that nobody searched: the words are in the catalog, to be read when somebody does.
                self._seen, self._fresh, self._vocabulary = set(), set(), None
            self._seen |= new

    def read(self, db: Database, limit: int, ended: threading.Event) -> list[str]:
        """Read the words of all texts; returns the terms that are in more than `limit` of them."""
        with self._lock:
            known = frozenset(self._seen)  # with those of texts that are just being written
        words = set(known)
        common = []
        for term, texts in db.execute(
            "SELECT term, doc FROM text_words WHERE length(term) >= ? OR doc > ?", (_PART, limit)
        ):
            if ended.is_set():
                return []
            words.add(term)
            if texts > limit:
                common.append(term)
        vocabulary = _Vocabulary(b"\n".join(sorted(w.encode() for w in words if _is_kept(w))))
        with self._lock:
            self._vocabulary = vocabulary
            self._seen -= known
            self._fresh = set(filter(_is_kept, self._seen))
            self._snapshot = None
        return common

    def snapshot(self) -> _Snapshot:
        """The words of all texts: none before the first `read`, afterwards all that any reader sees."""
        with self._lock:
            if self._snapshot is None:
                self._snapshot = _Snapshot(self._vocabulary or _Vocabulary(b""), frozenset(self._fresh))
            return self._snapshot


def _is_kept(word: str) -> bool:
    return len(word) >= _PART and _is_word(word)
