"""Text to the terms of the lexical index, alike for passages and queries, in every script.

A text becomes its words in order, then, behind them, what else it should be found by: identifiers in one
piece, the letters and digits they are made of, the syllable pairs of Korean words. Standing behind, they
never come between two words that stand side by side, so a phrase is found wherever it is written.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import msgspec

# A longer word is cut: nobody types it, and it would fill the index's pages.
MAX_TERM = 64
PREFIX = "*"
_MAX_PARTS = 24  # a token of more is data, not an identifier
_CACHED_TOKEN = 64


class QueryTerm(msgspec.Struct, frozen=True):
    """One thing a person typed: a word, an identifier, a number, two neighbouring characters of Chinese.

    Attributes:
        word: As typed.
        span: Its start and end in the query, in characters.
        forms: What counts as a match: each a term, or terms side by side; a last term that ends in ``*``
            stands for all terms that begin so.
        universal: Whether its shape says that it is the same in every language: numbers, identifiers,
            paths, abbreviations, Latin letters in a query of another script.
        whole: For a part of an identifier or hyphenated word, which term of the query is the whole
            (its place in the list); -1 for others. When the whole is matched its parts say nothing more.
    """

    word: str
    span: tuple[int, int]
    forms: tuple[tuple[str, ...], ...]
    universal: bool = False
    whole: int = -1


Piece = tuple[str, int, int]  # a term, and where it stands


# --- characters -----------------------------------------------------------------------------

# Written without spaces: Thai, Lao, Burmese, Khmer, Han and Kana with their marks.
_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u109a-\u109f\u1780-\u17d3\u17d7"
    "\u17dc\u17dd\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa7f\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035"
    "\u3038-\u303c\u3041-\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb"
# What a reader sees as one syllable or so of Thai, Lao, Burmese or Khmer: a vowel that is written in front,
# a base, its marks, stacked consonants, a vowel that is written behind.
_CLUSTER = re.compile(
    "[\u0e40-\u0e44\u0ec0-\u0ec4]?[\u0e01-\u0edf\u1000-\u109f\u1780-\u17dd\ua9e0-\uaa7f]"
    "[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u102b-\u1038\u103a-\u103e\u1056-\u1059"
    "\u105e-\u1060\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u109a-\u109d\u17b4-\u17d1\u17d3\u17dd]{0,8}"
    "(?:[\u1039\u17d2][\u1000-\u109f\u1780-\u17dd]"
    "[\u102b-\u1038\u103a-\u103e\u1056-\u1059\u17b4-\u17d1\u17d3]{0,8}){0,4}[\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3]?|.",
    re.DOTALL,
)
_MARKS = (
    (0x0300, 0x036F),  # Latin, Greek, Cyrillic
    (0x0483, 0x0489),
    (0x0591, 0x05C7),  # Hebrew points
    (0x0610, 0x061A),  # Arabic signs
    (0x064B, 0x065F),
    (0x0670, 0x0670),
    (0x06D6, 0x06ED),
    (0x1AB0, 0x1AFF),
    (0x1DC0, 0x1DFF),
    (0x20D0, 0x20FF),
    (0xFE00, 0xFE0F),
    (0xFE20, 0xFE2F),
)
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\u0640\ufeff"
# Letters that people type another way and that have no decomposition, or not the one wanted.
_LETTERS = {
    **dict(
        zip(
            "øłđħŧıæœþðŋßə",
            ("o", "l", "d", "h", "t", "i", "ae", "oe", "th", "d", "n", "ss", "ə"),
            strict=True,
        )
    ),
    **dict(zip("ёѐѝ", "ееи", strict=True)),
    **dict(zip("أإآٱىیيةۀہھکڪ", "اااايييههههكك", strict=True)),
    "ς": "σ",
}
# Here a letter with a mark is the letter: people leave accents out. Cyrillic й, ї, ў are keys of their own.
_ACCENTED = ((0x00C0, 0x024F), (0x0370, 0x03FF), (0x1E00, 0x1FFF))


def _within(code: int, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(low <= code <= high for low, high in ranges)


class _Fold(dict[int, str]):
    """For `str.translate`: a character of NFKC text to what is compared, worked out when first met."""

    def __missing__(self, code: int) -> str:
        found = self[code] = self._fold(chr(code), code)
        return found

    @staticmethod
    def _fold(char: str, code: int) -> str:
        category = unicodedata.category(char)
        if char in _INVISIBLE or (category[0] == "M" and _within(code, _MARKS)):
            return ""
        if category == "Nd":
            return str(unicodedata.digit(char))
        low = char.casefold()
        if _within(code, _ACCENTED):
            low = "".join(c for c in unicodedata.normalize("NFKD", low) if unicodedata.category(c) != "Mn")
        return "".join(_LETTERS.get(c, c) for c in low)


_fold = _Fold()


def _ranges(codes: Iterable[int]) -> str:
    """Code points as the inside of a character class."""
    parts = []
    for _, group in itertools.groupby(enumerate(codes), lambda pair: pair[1] - pair[0]):
        run = [code for _, code in group]
        parts.append(f"\\U{run[0]:08x}-\\U{run[-1]:08x}")
    return "".join(parts)


@functools.cache
def _tokens() -> re.Pattern[str]:
    """Matches runs without spaces (group 1), runs of Hangul (2) and words with what joins them (3).

    `re` counts no vowel sign of Devanagari as part of a word, hence the class of our own.
    """
    special = re.compile(f"[{_UNSPACED}{_HANGUL}]")
    letters = _ranges(
        code
        for code in range(0x30, 0x20000)
        if not 0xD800 <= code <= 0xDFFF
        and (unicodedata.category(chr(code))[0] in "LNM" or chr(code) == "_")
        and not special.match(chr(code))
    )
    word = f"[{letters}{_INVISIBLE}]"
    return re.compile(
        f"([{_UNSPACED}]+)|([{_HANGUL}]+)"
        f"|({word}+(?:(?:://|::|->|[-./\\\\:@'’&+\u2010\u2011]){word}+)*(?:(?:\\+\\+|#)(?!{word}))?)"
    )


_JOINER = re.compile(r"(://|::|->|[-./\\:@'’&+\u2010\u2011])")
_APOSTROPHES = "'’"
_SUFFIXES = ("++", "#")  # of the names of programming languages
# Humps of an identifier: HTTPServer is HTTP Server, PDFs stays one; letters and digits stay together.
_HUMP = re.compile(r"[A-Z]{2,}s(?![a-z])[0-9]*|[A-Z]+(?=[A-Z][a-z])[0-9]*|[A-Z]?[^A-Z_]+|[A-Z]+[^A-Z_]*")
_ALNUM_RUNS = re.compile(r"[0-9]+|[^0-9]+")


# --- one token ------------------------------------------------------------------------------


def _normal(token: str) -> str:
    return token.lower() if token.isascii() else token.translate(_fold)


def _humps(token: str, start: int, end: int) -> list[tuple[int, int]]:
    """Where the words of an identifier stand; at least one."""
    piece = token[start : min(end, start + MAX_TERM + 1)]
    if len(piece) <= MAX_TERM and ("_" in piece or not (piece.islower() or piece.isupper())):
        found = [(start + m.start(), start + m.end()) for m in _HUMP.finditer(piece)]
        if 0 < len(found) <= _MAX_PARTS:
            return found
    return [(start, end)]


def _word(token: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...], str]:
    """The words of a token in order, what else it is found by, and the term of all of it when there is one.

    Places are offsets in the token.
    """
    suffix = token[-2:] if token.endswith("++") else token[-1:] if token.endswith("#") else ""
    bare = token[: len(token) - len(suffix)]
    spans: list[tuple[int, int]] = []  # of the pieces between the joiners
    at = 0
    joined_by: list[str] = []
    for split in _JOINER.split(bare):
        if len(spans) > len(joined_by):
            joined_by.append(split)
        else:
            spans.append((at, at + len(split)))
        at += len(split)
    parts: list[Piece] = []
    extras: list[Piece] = []
    whole = ""
    for number, (start, end) in enumerate(spans):
        humps = _humps(bare, start, end)
        words = [(_normal(bare[a:b].strip("_"))[:MAX_TERM], a, b) for a, b in humps]
        words = [word for word in words if word[0]]
        parts.extend(words)
        piece = _joined(words)
        if len(words) > 1:
            extras.append((piece[:MAX_TERM], start, end))
        for term, a, b in words:
            extras.extend((run, a, b) for run in _alnum_runs(term))
        if len(whole) > MAX_TERM:
            continue
        if number and whole[-1:].isdigit() and piece[:1].isdigit():
            whole += joined_by[number - 1][0]
        whole += piece
    plain = any(joiner in _APOSTROPHES for joiner in joined_by)
    if plain or len(whole) > MAX_TERM:
        whole = ""
    if len(spans) > 1 and whole:
        extras.append((whole, 0, len(bare)))
    if suffix and parts:
        whole = parts[-1][0] + suffix
        extras.append((whole, parts[-1][1], len(token)))
    return tuple(parts), tuple(extras), whole


def _joined(words: Sequence[Piece]) -> str:
    """The words of an identifier in one piece; a mark stays between digits, else 1_23 would be 12_3."""
    text = ""
    for term, _, _ in words:
        text += "_" + term if text[-1:].isdigit() and term[:1].isdigit() else term
    return text


def _alnum_runs(term: str) -> list[str]:
    """The letters and the digits of such as ``e1234``, those that are worth finding by themselves."""
    if term.isalpha() or term.isdigit() or not any("0" <= c <= "9" for c in term):
        return []
    runs = _ALNUM_RUNS.findall(term)
    return [run for run in runs if len(run) > 1] if len(runs) <= 3 else []


def _pairs(units: Sequence[Piece]) -> list[Piece]:
    """Each unit with its neighbour."""
    return [(a[0] + b[0], a[1], b[2]) for a, b in itertools.pairwise(units)]


def _clusters(run: str) -> list[Piece]:
    if run[0] >= "\u2e80":
        return [(c, at, at + 1) for at, c in enumerate(run)]
    return [(m.group(), *m.span()) for m in _CLUSTER.finditer(run)]


def _unspaced(run: str) -> tuple[Piece, ...]:
    """All pairs of neighbours and the last one alone: so every one of them begins a term."""
    units = _clusters(run)
    return (*_pairs(units), units[-1])


def _hangul(run: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """The word, and its pairs of syllables: what particles are stuck to is found by them."""
    word = (run[:MAX_TERM], 0, len(run))
    pairs = _pairs([(c, at, at + 1) for at, c in enumerate(run)]) if len(run) > 2 else []
    return (word,), tuple(pairs)


def _token(kind: int, token: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    if kind == 1:
        return _unspaced(token), ()
    return _hangul(token) if kind == 2 else _word(token)[:2]


@functools.lru_cache(1 << 15)
def _token_terms(token: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    parts, extras, _ = _word(token)
    return tuple(p[0] for p in parts), tuple(p[0] for p in extras)


# --- whole texts ----------------------------------------------------------------------------


def terms(text: str) -> list[str]:
    """The terms that a passage is found by.

    Args:
        text: Any text.

    Returns:
        Its words in order, folded (case, width, ligatures, accents, Arabic and Hebrew points), text
        without spaces as pairs of characters; then identifiers in one piece and other second forms. No
        term contains white space or is empty; it takes time linear in the length.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    found: list[str] = []
    more: list[str] = []
    for unspaced, hangul, word in _tokens().findall(text):
        if word:
            if len(word) <= _CACHED_TOKEN:
                parts, extras = _token_terms(word)
                found += parts
                if extras:
                    more += extras
            else:
                long_parts, long_extras, _ = _word(word)
                found += [p[0] for p in long_parts]
                more += [p[0] for p in long_extras]
        elif unspaced:
            if unspaced[0] >= "\u2e80":
                found += map("".join, itertools.pairwise(unspaced))
                found.append(unspaced[-1])
            else:
                found += [p[0] for p in _unspaced(unspaced)]
        else:
            found.append(hangul[:MAX_TERM])
            if len(hangul) > 2:
                more += map("".join, itertools.pairwise(hangul))
    return found + more


class _Normal:
    """A text in NFKC, and where its characters came from."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._starts: list[int] | None = None
        self._ends: list[int] = []
        if text.isascii() or unicodedata.is_normalized("NFKC", text):
            return
        clusters: list[tuple[int, str]] = []
        for at, char in enumerate(text):
            first = unicodedata.normalize("NFKD", char)[0]
            # Marks, the vowels and last consonants of Korean syllables, voicing marks of half-width Kana.
            if clusters and (unicodedata.combining(first) or "\u1161" <= first <= "\u11ff"):
                clusters[-1] = (clusters[-1][0], clusters[-1][1] + char)
            else:
                clusters.append((at, char))
        pieces: list[str] = []
        self._starts = []
        for at, cluster in clusters:
            piece = unicodedata.normalize("NFKC", cluster)
            pieces.append(piece)
            self._starts.extend([at] * len(piece))
            self._ends.extend([at + len(cluster)] * len(piece))
        self.text = "".join(pieces)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where a stretch of `text` (not empty) stands in the text as it was given."""
        return (start, end) if self._starts is None else (self._starts[start], self._ends[end - 1])


def _placed(text: str) -> Iterator[tuple[int, str, int, tuple[Piece, ...], tuple[Piece, ...]]]:
    """Kind, text and place of each token of NFKC text, with its words and further terms."""
    for match in _tokens().finditer(text):
        kind = match.lastindex or 3
        yield kind, match.group(), match.start(), *_token(kind, match.group())


# --- queries --------------------------------------------------------------------------------

# Korean particles that a word of a query may carry and the passage may not; longest first.
_PARTICLES = tuple(
    "에서는 으로는 에게서 이라고 에서 으로 에게 한테 까지 부터 처럼 보다 마다 라고 이나 에는 와의 과의"  # noqa: SIM905
    " 은 는 이 가 을 를 의 에 로 와 과 도 만 나 께".split()
)
_UPPER_QUERY = 3  # so many words, all in capitals, and capitals say nothing
_PART_LETTERS = 3


def query_terms(text: str) -> list[QueryTerm]:
    """The units that a query is weighed by.

    Args:
        text: What a person typed, without filters; any text.

    Returns:
        In order; what was typed twice is there once.
    """
    normal = _Normal(text)
    tokens = list(_placed(normal.text))
    words = [token[1] for token in tokens if token[0] == 3]
    foreign = len(words) < len(tokens) or any(_other_script(word) for word in words)
    shouted = len(words) >= _UPPER_QUERY and all(not any(map(str.islower, word)) for word in words)
    found: list[QueryTerm] = []
    known: dict[tuple[tuple[str, ...], ...], int] = {}

    def add(start: int, end: int, forms: Iterable[tuple[str, ...]], universal: bool, whole: int = -1) -> int:
        key = tuple(dict.fromkeys(forms))
        if key in known:
            return known[key]
        span = normal.span(start, end)
        known[key] = len(found)
        found.append(QueryTerm(text[slice(*span)], span, key, universal, whole))
        return known[key]

    for kind, token, at, parts, _ in tokens:
        if kind == 1:
            if len(parts) == 1:
                add(at, at + len(token), [(parts[0][0] + PREFIX,)], False)
            for term, a, b in parts[:-1]:
                add(at + a, at + b, [(term,)], False)
        elif kind == 2:
            add(at, at + len(token), _hangul_forms(token), False)
        else:
            for a, b in _apart(token):
                piece = token[a:b]
                words_of, _, joined = _word(piece)
                if not words_of:
                    continue
                latin = not _other_script(piece)
                universal = _universal(piece, shouted) or (foreign and latin)
                forms: list[tuple[str, ...]] = [(joined,)] if joined else []
                if not joined.endswith(_SUFFIXES):
                    forms.append(tuple(p[0] for p in words_of[:_MAX_PARTS]))
                whole = add(at + a, at + b, forms, universal)
                if len(words_of) > 1:
                    for term, c, d in words_of:
                        if len(term) >= _PART_LETTERS and not term.isdigit():
                            add(at + a + c, at + a + d, [(term,)], foreign and latin, whole)
    return found


def _apart(token: str) -> Iterator[tuple[int, int]]:
    """The token, or, of one with apostrophes, what stands between them; elided articles are left out."""
    if not any(mark in token for mark in _APOSTROPHES):
        yield 0, len(token)
        return
    pieces = [m.span() for m in re.finditer(f"[^{_APOSTROPHES}]+", token)]
    longest = max(pieces, key=lambda span: span[1] - span[0])
    for a, b in pieces:
        if b - a > 2 or (a, b) == longest:
            yield a, b


def _hangul_forms(word: str) -> Iterator[tuple[str, ...]]:
    """The word, its pairs of syllables inside longer words, and both without a particle."""
    stems = [word]
    for particle in _PARTICLES:
        if word.endswith(particle) and len(word) - len(particle) >= 2:
            stems.append(word[: -len(particle)])
            break
    for stem in stems:
        yield (stem[:MAX_TERM],) if len(stem) > 1 else (stem + PREFIX,)
        if len(stem) > 2:
            yield tuple(map("".join, itertools.pairwise(stem[: _MAX_PARTS + 1])))


def _other_script(word: str) -> bool:
    """Whether it has letters and the first is not Latin."""
    for char in word:
        if char.isalpha():
            return not (char < "\u0250" or "\u1e00" <= char <= "\u1eff")
    return False


def _universal(word: str, shouted: bool) -> bool:
    if any(char.isdigit() for char in word) or any(mark in word for mark in "_/\\@:#"):
        return True
    if any(mark in word for mark in (".", "->", "+")):
        return True
    inner = any(len(_humps(word, *m.span())) > 1 for m in re.finditer(r"\w+", word))
    return inner or (len(word) > 1 and word.isupper() and not shouted)


def phrase_forms(text: str) -> list[tuple[str, ...]]:
    """What a text has that has these words side by side.

    Args:
        text: Words, in any script.

    Returns:
        As `QueryTerm.forms`: any of them is enough. Empty when there is no word.
    """
    normal = unicodedata.normalize("NFKC", text)
    words: list[str] = []
    kind, joined = 3, ""
    for kind, token, _, parts, _ in (tokens := list(_placed(normal))):
        words.extend(part[0] for part in parts)
        joined = _word(token)[2] if kind == 3 and len(tokens) == 1 else ""
    if not words:
        return []
    if kind == 1 and len(parts) > 1:
        words.pop()  # in the passage the last character may have a neighbour
    elif kind != 3:
        words[-1] += PREFIX  # and a Korean word a particle
    forms = [] if joined.endswith(_SUFFIXES) else [tuple(words)]
    if joined:
        forms.append((joined,))
    if kind == 2 and len(tokens) == 1 and len(token) > 2:
        forms.append(tuple(map("".join, itertools.pairwise(token))))
    return forms


def placed(text: str) -> list[Piece]:
    """The words of a text and where they stand, in order; of what is written without spaces, pairs."""
    normal = _Normal(text)
    return [
        (term, *normal.span(at + a, at + b))
        for _, _, at, parts, _ in _placed(normal.text)
        for term, a, b in parts
    ]


def occurrences(text: str, terms: Sequence[QueryTerm]) -> list[tuple[int, int, int]]:
    """Where the terms of a query stand in a passage.

    Args:
        text: Any text.
        terms: As `query_terms` gave them, or with more forms.

    Returns:
        Start, end and number of the term, in order of start; those of different terms may overlap.
    """
    normal = _Normal(text)
    words: list[Piece] = []
    more: list[Piece] = []
    for _, _, at, parts, extras in _placed(normal.text):
        words.extend((term, at + a, at + b) for term, a, b in parts)
        more.extend((term, at + a, at + b) for term, a, b in extras)
    found: set[tuple[int, int, int]] = set()
    for sequence in (words, more):
        where: dict[str, list[int]] = {}
        for number, piece in enumerate(sequence):
            where.setdefault(piece[0], []).append(number)
        for number, term in enumerate(terms):
            for form in term.forms:
                for first in _starts(where, form):
                    last = first + len(form) - 1
                    if _matches(sequence, first, form):
                        found.add((*normal.span(sequence[first][1], sequence[last][2]), number))
    return sorted(found)


def _starts(where: dict[str, list[int]], form: tuple[str, ...]) -> list[int]:
    if len(form) == 1 and form[0].endswith(PREFIX):
        begin = form[0].removesuffix(PREFIX)
        return [at for term, numbers in where.items() if term.startswith(begin) for at in numbers]
    return where.get(form[0], [])


def _matches(sequence: Sequence[Piece], first: int, form: tuple[str, ...]) -> bool:
    if first + len(form) > len(sequence):
        return False
    *exact, last = form
    if any(sequence[first + number][0] != term for number, term in enumerate(exact)):
        return False
    final = sequence[first + len(form) - 1][0]
    return final.startswith(last.removesuffix(PREFIX)) if last.endswith(PREFIX) else final == last
