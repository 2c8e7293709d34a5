r"""The query language: words, "phrases", -words, filters such as ext:pdf, OR and parentheses; one grammar.

::

    query   = { item }                         all items count together; AND between them may be written
    item    = alternative { "OR" alternative }
    alternative = run | filter | group         a run is all words and phrases up to the next other thing
    run     = { word | phrase }                searched by meaning, phrases also to the letter
    phrase  = "…" | “…” | „…“ | «…» | 「…」 | 『…』 | ＂…＂
    exclude = "-" ( word | phrase | filter | group )     holds for the whole group it stands in
    group   = "(" query ")"
    filter  = key ":" value { "," value }      several values are alternatives
    value   = characters without white space | phrase

So ``red wine OR white beer ext:pdf`` finds PDFs about either, and ``ext:pdf OR type:code budget``
is about the budget. The keys: ``ext type lang in name after before size has``, in any case, with
``:`` or ``：``. ``ext:`` given several times are alternatives; everything else given several times
must all be fulfilled.

What only looks like this stays a word: a key with nothing behind its colon, any other ``word:``,
``http://x``, ``C:\x``, ``std::vector``, ``12:30``; a hyphen inside a word or before anything but a
letter (``-5``, ``--all``) or before fewer than three Latin letters (``rm -rf``); a bullet at the
start of one of several lines; parentheses around nothing but words, or without a partner; ``"``
inside a word (``27"``) and quotation marks inside a sentence without spaces (``什么是“进程”呢``); OR
and AND with nothing to join. A word whose special meaning is not wanted gets a backslash in front:
``\OR``, ``\ext:pdf``.
"""

from __future__ import annotations

import calendar
import functools
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import NamedTuple

import msgspec

from indexer.api import Completion, QueryProblem

MAX_TEXTS = 4
# A person writes a handful; what is pasted must not make the catalog work without end.
MAX_CONDITIONS = 100
MAX_DEPTH = 16
MAX_VALUE = 1000
MAX_ITEMS = 12


class Condition(msgspec.Struct, frozen=True, tag=True):
    """What a chunk must fulfil to be found at all; one of the classes below."""


class All(Condition, frozen=True):
    """Every one of the conditions."""

    of: tuple[Condition, ...]


class Any(Condition, frozen=True):
    """At least one of the conditions."""

    of: tuple[Condition, ...]


class Not(Condition, frozen=True):
    """Not the condition."""

    of: Condition


class Phrase(Condition, frozen=True):
    """The passage (or its headings, or the file's name) has these words side by side.

    Upper and lower case, diacritics and width of characters do not matter.
    """

    text: str


class Ext(Condition, frozen=True):
    """The file's name ends in this, lower case, without the dot: ``pdf``, ``tar.gz``."""

    suffix: str


class Kind(Condition, frozen=True):
    """The file is of this kind: a media of `indexer.api.Media`, or a programming language (``python``)."""

    name: str


class Lang(Condition, frozen=True):
    """The passage is in this language (ISO 639-1), or is source code (``code``)."""

    code: str


class In(Condition, frozen=True):
    """The file is at or below this path, or, when `path` is not absolute, below a folder so named."""

    path: str


class Name(Condition, frozen=True):
    """The file's name contains this, in any case."""

    part: str


class Modified(Condition, frozen=True):
    """The file was last changed at or after `after` and before `before` (seconds since 1970)."""

    after: float | None = None
    before: float | None = None


class Size(Condition, frozen=True):
    """The file has at least `least` and at most `most` bytes."""

    least: int | None = None
    most: int | None = None


class Query(msgspec.Struct, frozen=True):
    """What a query means.

    Attributes:
        texts: What is searched by meaning and by words: one text, or one for each side of an OR between
            free words; the best of them counts for each passage. Phrases are part of it, without their
            quotes; filters and what is excluded are not. Empty when the query is made of filters only:
            then everything that fulfils them is found, newest files first.
        where: What must be fulfilled; None for nothing.
        problems: What was not understood.
    """

    texts: tuple[str, ...]
    where: Condition | None = None
    problems: tuple[QueryProblem, ...] = ()


def without_phrases(where: Condition | None) -> Condition | None:
    """A condition that asks for no phrase any more; what is excluded stays excluded."""
    if isinstance(where, Phrase):
        return None
    if isinstance(where, All):
        return _all(without_phrases(part) for part in where.of)
    if isinstance(where, Any):
        parts = [without_phrases(part) for part in where.of]
        return None if None in parts else _any([part for part in parts if part is not None])
    return where


class Facts(msgspec.Struct, frozen=True):
    """What a library holds, as far as completions need it; each list has the most frequent first.

    Attributes:
        extensions: Ends of file names without the dot, and how many files have them.
        kinds: Media and programming languages, and how many files are of them.
        languages: Languages of passages, and how many passages are in them.
        folders: Folders of the library and folders in them, and how many files are below.
    """

    extensions: tuple[tuple[str, int], ...] = ()
    kinds: tuple[tuple[str, int], ...] = ()
    languages: tuple[tuple[str, int], ...] = ()
    folders: tuple[tuple[str, int], ...] = ()


# --- words of the language ------------------------------------------------------------------

# What may be asked for, an example of it, and what it does.
_KEYS = {
    "ext": ("pdf", "end of the file's name"),
    "type": ("code", "kind of file"),
    "lang": ("en", "language of the passage"),
    "in": ("Documents", "folder"),
    "name": ("report", "part of the file's name"),
    "after": ("2025-01", "changed then or later"),
    "before": ("2025-06-30", "changed before then"),
    "size": (">1mb", "size of the file"),
    "has": ('"annual report"', "words to the letter"),
}
_KEY = re.compile(rf"({'|'.join(_KEYS)})[:：]", re.IGNORECASE)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MEDIA = ("text", "markdown", "code", "html", "pdf", "epub")
CODE_LANGUAGES = _words(
    """
    ada asm awk bash batch c clojure cmake cpp csharp css cython d dart diff docker elixir elm
    emacs-lisp erlang fish fortran fsharp gdscript glsl go graphql groovy haskell html+php ini java
    javascript json julia kotlin less lua make matlab meson nim nix objective-c ocaml pascal perl php
    powershell prolog protobuf python qml r racket ruby rust sass scala scheme scss solidity sql
    starlark swift systemverilog tcl terraform toml tsx typescript verilog vhdl vim vue xml yaml zig
    """
)
_KIND_ALIASES = {
    "c#": "csharp",
    "c++": "cpp",
    "ebook": "epub",
    "golang": "go",
    "js": "javascript",
    "makefile": "make",
    "md": "markdown",
    "objc": "objective-c",
    "objectivec": "objective-c",
    "plain": "text",
    "py": "python",
    "rb": "ruby",
    "rs": "rust",
    "sh": "bash",
    "shell": "bash",
    "source": "code",
    "ts": "typescript",
    "txt": "text",
    "web": "html",
    "yml": "yaml",
}
# Code, what the language calls itself, and further names; English names first.
_LANGUAGES = """
    af=Afrikaans|Afrikaans  ar=Arabic|العربية|عربي  az=Azerbaijani|Azərbaycanca
    be=Belarusian|Беларуская  bg=Bulgarian|Български  bn=Bengali|বাংলা  bs=Bosnian|Bosanski
    ca=Catalan|Català  cs=Czech|Čeština|český  cy=Welsh|Cymraeg  da=Danish|Dansk
    de=German|Deutsch|ger|deu  el=Greek|Ελληνικά  en=English|English|eng  eo=Esperanto|Esperanto
    es=Spanish|Español|Castellano|spa  et=Estonian|Eesti  eu=Basque|Euskara  fa=Persian|فارسی|Farsi
    fi=Finnish|Suomi  fr=French|Français|fra|fre  ga=Irish|Gaeilge  gl=Galician|Galego
    gu=Gujarati|ગુજરાતી  he=Hebrew|עברית  hi=Hindi|हिन्दी|हिंदी  hr=Croatian|Hrvatski
    hu=Hungarian|Magyar  hy=Armenian|Հայերեն  id=Indonesian|Bahasa_Indonesia  is=Icelandic|Íslenska
    it=Italian|Italiano|ita  ja=Japanese|日本語|jpn  ka=Georgian|ქართული  kk=Kazakh|Қазақша
    km=Khmer|ខ្មែរ  kn=Kannada|ಕನ್ನಡ  ko=Korean|한국어|kor  la=Latin|Latina
    lb=Luxembourgish|Lëtzebuergesch  lo=Lao|ລາວ  lt=Lithuanian|Lietuvių  lv=Latvian|Latviešu
    mk=Macedonian|Македонски  ml=Malayalam|മലയാളം  mn=Mongolian|Монгол  mr=Marathi|मराठी
    ms=Malay|Bahasa_Melayu  my=Burmese|မြန်မာ  ne=Nepali|नेपाली  nl=Dutch|Nederlands|nld|dut
    no=Norwegian|Norsk|bokmål|nb|nn  pa=Punjabi|ਪੰਜਾਬੀ  pl=Polish|Polski|pol
    pt=Portuguese|Português|por  ro=Romanian|Română  ru=Russian|Русский|rus  si=Sinhala|සිංහල
    sk=Slovak|Slovenčina  sl=Slovenian|Slovenščina|Slovene  sq=Albanian|Shqip
    sr=Serbian|Српски|Srpski  sv=Swedish|Svenska  sw=Swahili|Kiswahili  ta=Tamil|தமிழ்
    te=Telugu|తెలుగు  th=Thai|ไทย|ภาษาไทย  tl=Tagalog|Tagalog|Filipino  tr=Turkish|Türkçe
    uk=Ukrainian|Українська  ur=Urdu|اردو  uz=Uzbek|Ozbekcha  vi=Vietnamese|Tiếng_Việt
    zh=Chinese|中文|汉语|漢語|简体中文|繁體中文|Mandarin|zho|chi  code=Code|Code|source
"""
# Codes the detector may give beyond those with a name.
_OTHER_CODES = _words(
    """
    am als an arz as av ba bar bo br ce ceb ckb co cv dsb dv fy gd gn hsb ht ia ie io jv ku kv kw ky li
    mg mt mzn nap nds oc or os pam pms pnb ps qu rm sa sc scn sd sh so su tg tk tt ug vec vo wa war xmf
    yi yo yue
    """
)


@functools.cache
def _language_names() -> dict[str, tuple[str, ...]]:
    """English name, own name and further names of each language, by code."""
    found = {}
    for entry in _LANGUAGES.split():
        code, _, names = entry.partition("=")
        found[code] = tuple(name.replace("_", " ") for name in names.split("|"))
    return found


@functools.cache
def _language_codes() -> dict[str, str]:
    named = {_plain(name): code for code, names in _language_names().items() for name in names}
    return named | {code: code for code in (*_language_names(), *_OTHER_CODES)}


def language_name(code: str) -> str:
    """What a language calls itself; the code when that is not known."""
    names = _language_names().get(code)
    return names[1] if names else code


def _plain(text: str) -> str:
    """For comparing names: without case, diacritics and width."""
    folded = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in folded if unicodedata.category(c) != "Mn")


# --- the scanner ------------------------------------------------------------------------------

_CLOSERS = {'"': '"”', "“": "”", "„": "“”", "«": "»", "「": "」", "『": "』", "＂": "＂"}
_CLOSING = {opener: re.compile(f"[{closers}]") for opener, closers in _CLOSERS.items()}
_PAIRED = "“„«「『"
_HYPHENS = "-－"
_COMMAS = ",，"
_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"\S[^\s“„«「『]*")
_BARE = re.compile(r"[^\s,，]*")
_BARE_WITH_COMMA = re.compile(r"\S*")
_SPECIAL = re.compile(r"""["“”„«»「」『』＂()]""")
_WITH_COMMA = frozenset(("after", "before", "size"))


class _Value(NamedTuple):
    text: str
    start: int
    end: int


class _Token(NamedTuple):
    """One piece of a query: ``word``, ``phrase``, ``filter``, ``(``, ``)``, ``OR`` or ``AND``.

    Attributes:
        text: Of a word or phrase what it says, of a filter its key.
        negated: Whether a hyphen stands in front (of a word, phrase, filter or opening parenthesis).
    """

    kind: str
    start: int
    end: int
    text: str = ""
    values: tuple[_Value, ...] = ()
    negated: bool = False
    closed: bool = True


class _Scanner:
    """Cuts a query into tokens, once, from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.tokens: list[_Token] = []
        self._open = 0
        self._several_lines = "\n" in text.strip()
        self._last = {
            opener: max(text.rfind(closer) for closer in closers) for opener, closers in _CLOSERS.items()
        }

    def run(self) -> list[_Token]:
        text, size = self.text, len(self.text)
        while True:
            before = self.at
            found = _SPACE.match(text, self.at)
            assert found is not None
            self.at = found.end()
            if self.at >= size:
                return self.tokens
            fresh = before == 0 or self.at > before
            self._next(fresh or (bool(self.tokens) and self.tokens[-1].kind != "word"))

    def _next(self, fresh: bool) -> None:
        """One token; `fresh` when it does not follow a word without a space."""
        text, at = self.text, self.at
        char = text[at]
        if not fresh:
            self._word(at)
            return
        if char == "\\" and self._escaped(at):
            return
        if char in _HYPHENS and self._negated(at):
            return
        if char == "(" and self._opening(at, at, negated=False):
            return
        if char in _CLOSERS and self._phrase(at, at, negated=False):
            return
        if not self._filter(at, at, negated=False):
            self._word(at)

    def _put(self, token: _Token) -> None:
        self.tokens.append(token)
        self.at = token.end

    def _escaped(self, at: int) -> bool:
        """A word with backslashes in front of something special loses one of them and is a word."""
        found = _BARE_WITH_COMMA.match(self.text, at)
        assert found is not None
        word = found[0]
        if not _special(word.lstrip("\\")):
            return False
        self._put(_Token("word", at, found.end(), word[1:]))
        return True

    def _negated(self, at: int) -> bool:
        text = self.text
        if self._several_lines and not text[text.rfind("\n", 0, at) + 1 : at].strip():
            return False  # a list
        after = at + 1
        if after >= len(text):
            return False
        if text[after] == "(":
            return self._opening(at, after, negated=True)
        if text[after] in _CLOSERS:
            return self._phrase(at, after, negated=True)
        if self._filter(at, after, negated=True):
            return True
        if not text[after].isalpha():
            return False
        found = _WORD.match(text, after)
        assert found is not None
        word, end = self._without_closing(found[0], found.end())
        if "=" in word or (word.isascii() and sum(map(str.isalpha, word)) < 3):
            return False
        self._put(_Token("word", at, end, word, negated=True))
        self._closing(found.end())
        return True

    def _opening(self, start: int, at: int, *, negated: bool) -> bool:
        if self._open >= MAX_DEPTH:
            return False
        self._open += 1
        self._put(_Token("(", start, at + 1, "(", negated=negated))
        return True

    def _phrase(self, start: int, at: int, *, negated: bool) -> bool:
        """A phrase from its opening mark at `at`; without a closing one it goes to the end of the query."""
        text, opener = self.text, self.text[at]
        inside = at + 1
        end = self._close(opener, inside)
        closed = end is not None
        if end is not None and opener in _PAIRED and text[end + 1 : end + 2].isalnum() and not negated:
            return False  # quotation marks inside a sentence without spaces
        if end is None:
            if start > 0 and opener != '"' and not text[start - 1].isspace():
                return False
            end = len(text)
        said = text[inside:end].strip()
        if not said and not closed:
            return False
        self._put(_Token("phrase", start, end + closed, said, negated=negated, closed=closed))
        return True

    def _close(self, opener: str, inside: int) -> int | None:
        if self._last[opener] < inside:
            return None
        found = _CLOSING[opener].search(self.text, inside)
        return found.start() if found else None

    def _filter(self, start: int, at: int, *, negated: bool) -> bool:
        text = self.text
        key = _KEY.match(text, at)
        if key is None:
            return False
        name, end = key[1].lower(), key.end()
        values: list[_Value] = []
        closed = True
        end_of_word = end
        while True:
            if end < len(text) and text[end] in _CLOSERS:
                stop = self._close(text[end], end + 1)
                closed = stop is not None
                last = len(text) if stop is None else stop
                values.append(_Value(text[end + 1 : last].strip(), end, last + closed))
                end = end_of_word = last + closed
            else:
                found = (_BARE_WITH_COMMA if name in _WITH_COMMA else _BARE).match(text, end)
                assert found is not None
                value, stop = self._without_closing(found[0], found.end())
                values.append(_Value(value, end, stop))
                end, end_of_word = stop, found.end()
            if name in _WITH_COMMA or end >= len(text) or text[end] not in _COMMAS:
                break
            end += 1
        if not any(value.text for value in values) and end < len(text.rstrip()):
            return False
        self._put(_Token("filter", start, end, name, tuple(values), negated, closed))
        self._closing(end_of_word)
        return True

    def _word(self, at: int) -> None:
        found = _WORD.match(self.text, at)
        assert found is not None
        word, end = self._without_closing(found[0], found.end())
        kind = word if word in ("OR", "AND") else "word"
        if word:
            self._put(_Token(kind, at, end, word))
        self._closing(found.end())

    def _without_closing(self, word: str, end: int) -> tuple[str, int]:
        """A word without the parentheses at its end that close a group."""
        if not self._open or not word.endswith(")"):
            return word, end
        bare = word.rstrip(")")
        # Those that close one inside the word belong to it: f(x).
        own = max(0, bare.count("(") - bare.count(")"))
        surplus = max(0, min(self._open, len(word) - len(bare) - own))
        return word[: len(word) - surplus], end - surplus

    def _closing(self, end: int) -> None:
        while self._open and self.at < end and self.text[self.at] == ")":
            self._open -= 1
            self._put(_Token(")", self.at, self.at + 1, ")"))


def _special(word: str) -> bool:
    """Whether a word without white space might be taken for something else."""
    return bool(
        word in ("OR", "AND")
        or (word[:1] and word[0] in _HYPHENS and len(word) > 1)
        or _KEY.match(word)
        or _SPECIAL.search(word)
    )


# --- the parser -------------------------------------------------------------------------------


class _Part(NamedTuple):
    """What a stretch of a query means: its texts (one empty text for none) and what it demands."""

    texts: tuple[str, ...]
    where: Condition | None


class _Parser:
    def __init__(self, text: str, now: datetime) -> None:
        self.text = text
        self.now = now
        self.problems: list[QueryProblem] = []
        self.conditions = 0
        self.tokens = _Scanner(text).run()
        self.partner = self._partners()

    def _partners(self) -> dict[int, int]:
        """Opening and closing parentheses that belong together, by number of the token."""
        stack: list[int] = []
        found: dict[int, int] = {}
        for number, token in enumerate(self.tokens):
            if token.kind == "(":
                stack.append(number)
            elif token.kind == ")":
                found[stack.pop()] = number
        return found

    def problem(self, start: int, end: int, message: str) -> None:
        if len(self.problems) < 20:
            self.problems.append(QueryProblem(start=start, end=end, message=message))

    def query(self) -> Query:
        part = self.group(0, len(self.tokens), excluded=False)
        texts = tuple(dict.fromkeys(text for text in part.texts if text))
        return Query(texts=texts, where=part.where, problems=tuple(self.problems))

    def group(self, at: int, end: int, *, excluded: bool) -> _Part:
        """The tokens from `at` to before `end`; with `excluded`, words are demanded to the letter."""
        items: list[list[_Part | list[_Token]]] = []  # each with its alternatives
        excludes: list[Condition] = []
        extensions: list[tuple[int, Condition]] = []  # (item, condition) of every ext: filter
        joined = False
        run: list[_Token] | None = None
        while at < end:
            token = self.tokens[at]
            part: _Part | None = None
            after = at + 1
            if token.kind in ("OR", "AND") and self._joins(at, end, bool(items)):
                joined = joined or token.kind == "OR"
                run = None
                at = after
                continue
            if token.kind == "(":
                close = self.partner.get(at)
                if close is not None and (token.negated or not self._literal(at, close)):
                    part = self.group(at + 1, close, excluded=excluded or token.negated)
                    after = close + 1
            elif token.kind == "filter":
                part = _Part(("",), self.filter(token))
            elif token.negated:
                part = _Part(("",), self.phrase(token))
            if part is None:
                piece = token
                if run is None:
                    run = [piece]
                    if joined:
                        items[-1].append(run)
                    else:
                        items.append([run])
                else:
                    run.append(piece)
                joined = False
            elif token.negated:
                if part.where is not None:
                    excludes.append(_negation(part.where))
                run = None
            else:
                run = None
                if part.where is not None or any(part.texts):
                    if joined:
                        items[-1].append(part)
                    else:
                        items.append([part])
                        if token.kind == "filter" and token.text == "ext" and part.where is not None:
                            extensions.append((len(items) - 1, part.where))
                joined = False
            at = after
        # ext: filters beside each other are alternatives, unless OR made them part of something else.
        lone = [(item, where) for item, where in extensions if len(items[item]) == 1]
        if len(lone) > 1:
            first = lone[0][0]
            items[first] = [_Part(("",), _any(where for _, where in lone))]
            dropped = {item for item, _ in lone[1:]}
            items = [item for number, item in enumerate(items) if number not in dropped]
        parts = [self._alternatives(item, excluded) for item in items]
        texts = self._combined([part.texts for part in parts])
        return _Part(texts, _all([*(part.where for part in parts), *excludes]))

    def _joins(self, at: int, end: int, something_before: bool) -> bool:
        """Whether OR or AND stands between two things of the same group."""
        return something_before and at + 1 < end and self.tokens[at + 1].kind not in ("OR", "AND")

    def _literal(self, at: int, close: int) -> bool:
        """Whether parentheses hold nothing but words, as in prose."""
        return all(
            token.kind in ("word", "phrase", "(", ")") and not token.negated
            for token in self.tokens[at + 1 : close]
        )

    def _alternatives(self, item: Sequence[_Part | list[_Token]], excluded: bool) -> _Part:
        parts = [part if isinstance(part, _Part) else self._run(part, excluded) for part in item]
        if len(parts) == 1:
            return parts[0]
        texts = tuple(text for part in parts for text in part.texts)
        free = [part for part in parts if part.where is None]
        if not free:
            return _Part(texts, _any(part.where for part in parts if part.where is not None))
        if len(free) < len(parts) and not all(any(part.texts) for part in parts):
            self.problem(
                0, len(self.text), "a filter beside OR narrows nothing when free words are the other choice"
            )
        return _Part(texts, None)

    def _run(self, run: Sequence[_Token], excluded: bool) -> _Part:
        demanded = [
            self.phrase(token) for token in run if excluded or (token.kind == "phrase" and token.text)
        ]
        where = _all(demanded)
        if excluded:
            return _Part(("",), where)
        pieces: list[str] = []
        for number, token in enumerate(run):
            if number:
                gap = self.text[run[number - 1].end : token.start]
                if gap.strip():
                    gap = " "  # something else stood between
                elif not gap and _needs_space(run[number - 1], token):
                    gap = " "
                pieces.append(gap)
            pieces.append(token.text)
        return _Part(("".join(pieces).strip(),), where)

    def _combined(self, choices: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        total = 1
        for choice in choices:
            total = min(total * len(choice), MAX_TEXTS + 1)
        if total > MAX_TEXTS:
            self.problem(0, len(self.text), f"only the first {MAX_TEXTS} alternatives are searched")
        found: list[str] = []
        for combination in product(*choices):
            if len(found) == MAX_TEXTS:
                break
            found.append(" ".join(filter(None, combination)))
        return tuple(found)

    # --- values -----------------------------------------------------------------------------

    def _counted(self, condition: Condition | None, start: int, end: int) -> Condition | None:
        if condition is None:
            return None
        self.conditions += 1
        if self.conditions > MAX_CONDITIONS:
            if self.conditions == MAX_CONDITIONS + 1:
                self.problem(start, end, f"more than {MAX_CONDITIONS} filters; the rest is left out")
            return None
        return condition

    def phrase(self, token: _Token) -> Condition | None:
        if not token.closed and any(map(_special, token.text.split()[1:])):
            self.problem(token.start, token.start + 1, "the quotation mark is not closed")
        if not any(map(str.isalnum, token.text)) or len(token.text) > MAX_VALUE:
            return None
        return self._counted(Phrase(token.text), token.start, token.end)

    def filter(self, token: _Token) -> Condition | None:
        found = []
        for value in token.values:
            if not value.text:
                continue
            made = self._condition(token.text, value) if len(value.text) <= MAX_VALUE else "this is too long"
            if isinstance(made, str):
                self.problem(value.start, value.end, made)
            else:
                counted = self._counted(made, value.start, value.end)
                if counted is not None:
                    found.append(counted)
        if not any(value.text for value in token.values):
            example = _KEYS[token.text][0]
            self.problem(token.start, token.end, f"{token.text}: what? For example {token.text}:{example}")
        if not token.closed and any(map(_special, token.values[-1].text.split()[1:])):
            start = token.values[-1].start
            self.problem(start, start + 1, "the quotation mark is not closed")
        return _any(found)

    def _condition(self, key: str, value: _Value) -> Condition | str:
        """The condition, or in words why there is none."""
        said = value.text
        if key == "in":
            return _folder(said)
        if key == "name":
            return Name(said)
        if key == "has":
            return Phrase(said) if any(map(str.isalnum, said)) else "there is no word in this"
        plain = unicodedata.normalize("NFKC", said).strip()
        low = plain.lower()
        if key == "ext":
            suffix = low.removeprefix("*").strip(f".{string.whitespace}\u3000")
            return Ext(suffix) if suffix else "an end of a file's name is wanted, such as pdf"
        if key == "type":
            name = _KIND_ALIASES.get(low, low)
            known = name in MEDIA or name in CODE_LANGUAGES
            return Kind(name) if known else f'there is no kind of file "{said}"'
        if key == "lang":
            codes = _language_codes()
            code = codes.get(_plain(plain)) or codes.get(re.split("[-_]", low)[0])
            return Lang(code) if code else f'there is no language "{said}"'
        if key == "size":
            return _size(low) or f'"{said}" is no size; try >1mb, <100k or 1mb..5mb'
        when = _moment(low, self.now)
        if when is None:
            return f'"{said}" is no date; try 2025-06-30, 2025-06, 2025, yesterday or 7d'
        return Modified(after=when) if key == "after" else Modified(before=when)


def _needs_space(before: _Token, after: _Token) -> bool:
    """Whether two things that touch were held apart by a quotation mark only, which is gone."""
    ends = f"{before.text[-1:]}{after.text[:1]}"
    return "phrase" in (before.kind, after.kind) and len(ends) == 2 and ends.isascii() and ends.isalnum()


def _all(conditions: Iterable[Condition | None]) -> Condition | None:
    found: dict[Condition, None] = {}
    for condition in conditions:
        if isinstance(condition, All):
            found.update(dict.fromkeys(condition.of))
        elif condition is not None:
            found[condition] = None
    kept = tuple(found)
    return All(kept) if len(kept) > 1 else kept[0] if kept else None


def _any(conditions: Iterable[Condition]) -> Condition | None:
    found: dict[Condition, None] = {}
    for condition in conditions:
        found.update(dict.fromkeys(condition.of if isinstance(condition, Any) else (condition,)))
    kept = tuple(found)
    return Any(kept) if len(kept) > 1 else kept[0] if kept else None


def _negation(condition: Condition) -> Condition:
    return condition.of if isinstance(condition, Not) else Not(condition)


def _folder(said: str) -> Condition | str:
    path = said.strip()
    if path == "~" or path.startswith("~/"):
        try:
            path = str(Path(path).expanduser())
        except RuntimeError:
            return "there is no home folder"
    if path.startswith("/"):
        return In("/" + path.strip("/"))
    path = path.removeprefix("./").strip("/")
    return In(path) if path else "a folder is wanted"


_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d{1,15})(?:[.,](\d{1,6}))?\s*([kmgt]?)i?b?(?:ytes?)?")
_MAX_SIZE = (1 << 63) - 1


def _bytes(text: str) -> tuple[int, int] | None:
    """A size and half a unit of its last digit, in bytes."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    unit = _UNITS[found[3]]
    digits = found[2] or ""
    scale = 10 ** len(digits)
    size = int(found[1] + digits) * unit // scale
    return (size, unit // scale // 2) if size <= _MAX_SIZE else None


def _size(text: str) -> Size | None:
    low, dots, high = text.partition("..")
    if dots:
        least, most = _bytes(low), _bytes(high)
        if (low and not least) or (high and not most) or not (least or most):
            return None
        return Size(least[0] if least else None, most[0] if most else None)
    found = re.fullmatch(r"(>=|<=|=|≥|≤|>|<)?(.*)", text)
    size = _bytes(found[2]) if found else None
    if found is None or size is None:
        return None
    match found[1]:
        case ">":
            return Size(least=size[0] + 1)
        case "<":
            return Size(most=max(0, size[0] - 1))
        case ">=" | "≥":
            return Size(least=size[0])
        case "<=" | "≤":
            return Size(most=size[0])
    # As sizes are shown: what rounds to this.
    return Size(max(0, size[0] - size[1]), size[0] + size[1])


_DATE = re.compile(r"(\d{4})(?:[-/.](\d{1,2})(?:[-/.](\d{1,2})(?:t(\d{1,2}):(\d{2})(?::(\d{2}))?)?)?)?")
_AGO = re.compile(r"(\d{1,5})\s*(h|d|w|m|y|hours?|days?|weeks?|months?|years?)(?: ago)?")
_EPOCH = re.compile(r"@(-?\d{1,12}(?:\.\d{1,9})?)")


def _moment(text: str, now: datetime) -> float | None:
    """A point in time in seconds since 1970: the first moment of what is named."""
    epoch = _EPOCH.fullmatch(text)
    if epoch:
        return float(epoch[1])
    try:
        when = _datetime(text, now)
        return when.timestamp() if when is not None else None
    except (ValueError, OverflowError, OSError):
        return None


def _datetime(text: str, now: datetime) -> datetime | None:
    found = _DATE.fullmatch(text)
    if found:
        year, month, day, hour, minute, second = (int(part) if part else None for part in found.groups())
        assert year is not None
        return datetime(year, month or 1, day or 1, hour or 0, minute or 0, second or 0, tzinfo=now.tzinfo)
    ago = _AGO.fullmatch(text)
    if ago:
        number, unit = int(ago[1]), ago[2][0]
        if unit in "my":
            months = now.year * 12 + now.month - 1 - number * (12 if unit == "y" else 1)
            year, month = divmod(months, 12)
            day = min(now.day, calendar.monthrange(year, month + 1)[1])
            return now.replace(year=year, month=month + 1, day=day)
        return now - timedelta(hours=number * {"h": 1, "d": 24, "w": 168}[unit])
    today = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    monday = today - timedelta(days=today.weekday())
    first = today.replace(day=1)
    match re.sub(r"[-_\s]", "", text):
        case "now":
            return now
        case "today":
            return today
        case "yesterday":
            return today - timedelta(days=1)
        case "thisweek" | "week":
            return monday
        case "lastweek":
            return monday - timedelta(days=7)
        case "thismonth" | "month":
            return first
        case "lastmonth":
            return (first - timedelta(days=1)).replace(day=1)
        case "thisyear" | "year":
            return first.replace(month=1)
        case "lastyear":
            return first.replace(year=first.year - 1, month=1)
    return None


def parse(text: str, *, now: datetime | None = None) -> Query:
    """What a query means, by the grammar above; any text means something.

    Args:
        text: What a person typed or pasted. Takes time linear in its length.
        now: What "yesterday" is counted from, and the time zone of dates; local time when it has none.

    Returns:
        The meaning. Whatever was not understood is in `Query.problems` and left out of account.
    """
    return _Parser(text, now or datetime.now()).query()


# --- back to text -----------------------------------------------------------------------------


def unparse(query: Query) -> str:
    """A query that `parse` understands as this one (its problems apart).

    Holds for whatever `parse` returns; conditions that no query can express are written as near as can be.
    """
    for careful in (False, True):
        texts = [_literal_words(text) if careful else text for text in query.texts]
        where = _top(query.where, careful) if query.where is not None else []
        said = " ".join(filter(None, (" OR ".join(texts), *where)))
        again = parse(said)
        if (again.texts, again.where) == (query.texts, query.where):
            break
    return said


def _literal_words(text: str) -> str:
    """A text with a backslash before each word that might be taken for something else."""
    return re.sub(r"\S+", lambda word: ("\\" if _special(word[0].lstrip("\\")) else "") + word[0], text)


def _top(where: Condition, careful: bool) -> list[str]:
    parts = where.of if isinstance(where, All) else (where,)
    extensions = sum(isinstance(part, Ext) or _only_extensions(part) for part in parts)
    said = []
    for part in parts:
        if _only_extensions(part) and isinstance(part, Any) and extensions == 1 and not careful:
            said.append("ext:" + ",".join(_value(e.suffix) for e in part.of if isinstance(e, Ext)))
        elif extensions > 1 and isinstance(part, Ext):
            said.append(f"({_said(part)})")
        else:
            said.append(_said(part))
    return said


def _only_extensions(part: Condition) -> bool:
    return isinstance(part, Any) and all(isinstance(one, Ext) for one in part.of)


def _said(condition: Condition) -> str:
    match condition:
        case All(of=parts):
            return f"({' '.join(_top(condition, True))})" if parts else "()"
        case Any(of=parts):
            return f"({' OR '.join(f'({_said(p)})' if isinstance(p, Not) else _said(p) for p in parts)})"
        case Not(of=part):
            return f"-{_said(part)}"
        case Phrase(text=text):
            return f"has:{_quoted(text)}"
        case Ext(suffix=suffix):
            return f"ext:{_value(suffix)}"
        case Kind(name=name):
            return f"type:{_value(name)}"
        case Lang(code=code):
            return f"lang:{_value(code)}"
        case In(path=path):
            return f"in:{_value(path)}"
        case Name(part=part_of_name):
            return f"name:{_value(part_of_name)}"
        case Modified(after=after, before=before):
            moments = (("after", after), ("before", before))
            return " ".join(f"{key}:{_date(when)}" for key, when in moments if when is not None)
        case Size(least=least, most=most):
            return f"size:{'' if least is None else least}..{'' if most is None else most}"
    raise TypeError(f"no condition: {condition!r}")


def _date(when: float) -> str:
    try:
        day = date.fromtimestamp(when)
        midnight = datetime(day.year, day.month, day.day).timestamp() == when
    except (ValueError, OverflowError, OSError):
        midnight = False
    return day.isoformat() if midnight else f"@{when:.9f}".rstrip("0").rstrip(".")


def _value(text: str) -> str:
    plain = text and not re.search(r"[\s,，()]", text) and text[0] not in _CLOSERS
    return text if plain else _quoted(text)


def _quoted(text: str) -> str:
    for opener, closers in _CLOSERS.items():
        if not any(closer in text for closer in closers):
            return f"{opener}{text}{closers[0]}"
    return f'"{text}'


# --- completions ------------------------------------------------------------------------------


class Suggestions(NamedTuple):
    """What may take the place of a query from `start` to `end`, best first."""

    start: int
    end: int
    items: tuple[Completion, ...]


def complete(query: str, cursor: int, facts: Facts, *, now: datetime | None = None) -> Suggestions:
    """Ways to go on with the filter that is being written at the cursor.

    Args:
        query: The whole query.
        cursor: Place of the cursor in it, in characters.
        facts: What the library holds.
        now: What "yesterday" is counted from.

    Returns:
        Nothing (no items) while a plain word is being written; two letters of a key count as a key.
    """
    cursor = max(0, min(cursor, len(query)))
    tokens = _Scanner(query[:cursor]).run()
    last = tokens[-1] if tokens else None
    if last is None or last.end != cursor:
        return Suggestions(cursor, cursor, ())
    if last.kind == "filter":
        value = last.values[-1]
        quoted = query[value.start : value.start + 1] in _CLOSERS and value.end > value.start
        if quoted and last.closed:
            return Suggestions(cursor, cursor, ())
        end = _end_of_value(query, cursor, query[value.start] if quoted else "")
        items = _values(last.text, value.text, facts, now or datetime.now())
        return Suggestions(value.start, end, tuple(items[:MAX_ITEMS]))
    start = last.start
    if last.kind == "word" and not last.negated and query[start] in _HYPHENS:
        start += 1  # "-ex", which is no word to exclude as it is
    elif last.negated:
        start += 1
    typed = query[start:cursor]
    if last.kind != "word" or (typed != ":" and not (len(typed) >= 2 and typed.isascii())):
        return Suggestions(cursor, cursor, ())
    rest = _WORD.match(query, cursor) if cursor < len(query) else None
    if rest is not None:
        return Suggestions(cursor, cursor, ())  # in the middle of a word
    keys = [key for key in _KEYS if typed == ":" or key.startswith(typed.lower())]
    found = tuple(
        Completion(
            insert=f"{key}:", label=f"{key}:", detail=f"{_KEYS[key][1]}, such as {key}:{_KEYS[key][0]}"
        )
        for key in keys
    )
    return Suggestions(start, cursor, found)


def _end_of_value(query: str, cursor: int, opener: str) -> int:
    """Where the value that the cursor is in ends."""
    if opener:
        found = _CLOSING[opener].search(query, cursor)
        return found.end() if found else cursor
    bare = _BARE.match(query, cursor)
    assert bare is not None
    return cursor + len(bare[0].rstrip(")"))


def _values(key: str, typed: str, facts: Facts, now: datetime) -> list[Completion]:
    match key:
        case "ext":
            low = typed.lower().lstrip("*.")
            return _counted(_matching(facts.extensions, low), "file")
        case "type":
            return _counted(_matching(facts.kinds, typed.lower()), "file")
        case "lang":
            return _language_items(_plain(typed), facts)
        case "in":
            return _folder_items(typed, facts)
        case "after" | "before":
            return list(_date_items(_plain(typed), now))
        case "size":
            sizes = {
                ">1mb": "more than 1 MB", ">10mb": "more than 10 MB", ">100mb": "more than 100 MB",
                "<10k": "less than 10 KB", "<100k": "less than 100 KB", "1mb..10mb": "from 1 to 10 MB",
            }  # fmt: skip
            return [_item(size, words) for size, words in sizes.items() if size.startswith(typed.lower())]
    return []


def _item(value: str, detail: str, label: str = "") -> Completion:
    return Completion(insert=_value(value), label=label or value, detail=detail)


def _matching(known: Iterable[tuple[str, int]], typed: str) -> Iterator[tuple[str, int]]:
    return ((value, number) for value, number in known if value.startswith(typed))


def _counted(known: Iterable[tuple[str, int]], unit: str) -> list[Completion]:
    return [_item(value, _number(number, unit)) for value, number in known]


def _number(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def _language_items(typed: str, facts: Facts) -> list[Completion]:
    found = []
    for code, number in facts.languages:
        names = _language_names().get(code, ())
        if code.startswith(typed) or any(_plain(name).startswith(typed) for name in names):
            name = "" if code == "code" else language_name(code)
            label = f"{code} {name}" if name and name != code else code
            found.append(_item(code, _number(number, "passage"), label))
    return found


def _folder_items(typed: str, facts: Facts) -> list[Completion]:
    """Folders by their own name where it says enough, else by their path."""
    names = [path.rpartition("/")[2] for path, _ in facts.folders]
    often: dict[str, int] = {}
    for name in names:
        often[_plain(name)] = often.get(_plain(name), 0) + 1
    sought = _plain(typed)
    found = []
    for (path, number), name in zip(facts.folders, names, strict=True):
        if typed.startswith(("/", "~")):
            wanted = _folder(typed)
            fits = isinstance(wanted, In) and path.startswith(wanted.path)
        else:
            fits = _plain(name).startswith(sought)
        if fits:
            short = name and often[_plain(name)] == 1 and not typed.startswith(("/", "~"))
            found.append(_item(name if short else path, _number(number, "file")))
    return found


def _date_items(typed: str, now: datetime) -> Iterator[Completion]:
    named = (
        "today",
        "yesterday",
        "this week",
        "last week",
        "this month",
        "last month",
        "this year",
        "last year",
    )
    relative = ("7d", "3m", "1y")
    years = [str(now.year - back) for back in range(4)]
    months = []
    if re.fullmatch(r"\d{4}-\d?", typed):
        months = [f"{typed[:4]}-{month:02}" for month in range(1, 13)]
    for value in (*named, *relative, *years, *months):
        if value.startswith(typed):
            when = _datetime(value, now)
            yield _item(value, "" if when is None else when.date().isoformat())
