"""Small texts made of data: places, paths, counts, times; and offsets as Qt counts them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from PySide6.QtCore import QT_TRANSLATE_NOOP, QCoreApplication, QDateTime, QLocale

from indexer import api

_SURROGATE = re.compile("[\ud800-\udfff]")
# Scripts that are written without spaces between words: Chinese, Japanese, Thai and its neighbours.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
# Where Qt names the speech of one country instead.
_NAMES = {"en": "English", "es": "español", "pt": "português", "zh": "中文"}
# Filters of a query, each with an example.
FILTERS = {
    "ext": "pdf",
    "type": "code",
    "lang": "zh",
    "in": "Projects",
    "name": "report",
    "after": "2025-01",
    "before": "2025-06-30",
    "size": ">1mb",
}
SERVER = "server:"
# What the service says of the models it knows by name; translated here.
KNOWN_MODELS = (
    QT_TRANSLATE_NOOP("Models", "100 languages"),
    QT_TRANSLATE_NOOP("Models", "over 100 languages"),
    QT_TRANSLATE_NOOP(
        "Models", "Comes with Dragoman: small and quick on any processor, tuned here across languages."
    ),
    QT_TRANSLATE_NOOP("Models", "Best for its size: long texts, code, told what to look for. Wants a GPU."),
    QT_TRANSLATE_NOOP(
        "Models", "More exact than 0.6B at eight times the work; for a GPU with 12 GB or more."
    ),
    QT_TRANSLATE_NOOP(
        "Models", "First on the multilingual MTEB when it came out (June 2025); for a GPU with 24 GB."
    ),
    QT_TRANSLATE_NOOP(
        "Models", "Long texts in many languages, without instructions; only its dense vectors are used."
    ),
    QT_TRANSLATE_NOOP(
        "Models",
        "Strong for a laptop. Google's licence must be accepted on the Hub, with a token (HF_TOKEN).",
    ),
    QT_TRANSLATE_NOOP("Models", "The bundled model's larger sister: somewhat better at four times the work."),
    QT_TRANSLATE_NOOP(
        "Models", "The largest of the E5 family; fourteen times the work of the bundled model."
    ),
)
VERIFY_NOTE = QT_TRANSLATE_NOOP(
    "Models",
    "The sentences are Dragoman's own, of the kinds that the article describes: those of the article are not "
    "known. The published numbers belong to those, so expect about the same, not the same.",
)
ICONS: dict[str, str] = {
    "text": "file-text",
    "markdown": "file-markdown",
    "code": "file-code",
    "html": "file-html",
    "pdf": "file-pdf",
    "epub": "file-epub",
}


def printable(text: str) -> str:
    """Text that Qt can show: undecodable bytes of a file name become U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def file_name(path: str) -> str:
    """The last part of a path."""
    return printable(Path(api.local_path(path)).name or path)


def folder_of(path: str) -> str:
    """The folder a file is in, with ``~`` for the person's home."""
    return tilde(str(Path(path).parent))


def tilde(path: str) -> str:
    """A path with ``~`` for the person's home."""
    path = api.local_path(path)
    home = str(Path.home())
    if path == home:
        return "~"
    if len(home) > 1 and path.startswith(home.rstrip("/\\") + ("\\" if sys.platform == "win32" else "/")):
        return printable("~" + path[len(home.rstrip("/\\")) :])
    return printable(path)


def place(locator: api.Locator) -> str:
    """Where a passage stands in its file, in the person's language."""
    parts = []
    if locator.page is not None:
        parts.append(QCoreApplication.translate("Wording", "page %1").replace("%1", number(locator.page)))
    if locator.chapter is not None:
        text = QCoreApplication.translate("Wording", "chapter %1")
        parts.append(text.replace("%1", number(locator.chapter)))
    if locator.line_start is not None:
        first, last = locator.line_start, locator.line_end
        if last is None or last == first:
            text = QCoreApplication.translate("Wording", "line %1")
            parts.append(text.replace("%1", str(first)))
        else:
            text = QCoreApplication.translate("Wording", "lines %1–%2")
            parts.append(text.replace("%1", str(first)).replace("%2", str(last)))
    if locator.symbol:
        parts.append(locator.symbol)
    elif locator.heading:
        parts.append(" › ".join(h.strip() for h in locator.heading[-2:]))
    return printable(" · ".join(parts))


def number(n: int) -> str:
    """A whole number with the separators of the person's language."""
    return QLocale().toString(n)


def size(n: int) -> str:
    """A file size, such as ``3.4 MB``."""
    return QLocale().formattedDataSize(n, 1, QLocale.DataSizeFormat.DataSizeTraditionalFormat)


def room(n: int) -> str:
    """Memory or disk, as roughly as it is known: ``490 MB``, ``1.1 GB``."""
    return QLocale().formattedDataSize(
        n, 1 if n >= 1 << 30 else 0, QLocale.DataSizeFormat.DataSizeTraditionalFormat
    )


def files(n: int) -> str:
    """So many files."""
    return QCoreApplication.translate("Wording", "%n file(s)", "", n)


def passages(n: int) -> str:
    """So many passages."""
    return QCoreApplication.translate("Wording", "%n passage(s)", "", n)


def counted(text: str, n: int) -> str:
    """A text that counts `n` things, with the separators of the person's language in the number."""
    return text.replace(str(n), number(n))


def problems(n: int) -> str:
    """So many problems."""
    return QCoreApplication.translate("Wording", "%n problem(s)", "", n)


def relation(kind: str) -> str:
    """How a folded file is related to the one it is under."""
    names = {
        "copy": QCoreApplication.translate("Wording", "Copy"),
        "version": QCoreApplication.translate("Wording", "Version"),
        "translation": QCoreApplication.translate("Wording", "Translation"),
    }
    return names.get(kind, kind)


def folded(variants: tuple[api.Variant, ...]) -> str:
    """What is folded under a file, such as ``2 translations, 1 copy``."""
    parts = []
    if n := sum(v.kind == "translation" for v in variants):
        parts.append(QCoreApplication.translate("Wording", "%n translation(s)", "", n))
    if n := sum(v.kind == "version" for v in variants):
        parts.append(QCoreApplication.translate("Wording", "%n version(s)", "", n))
    if n := sum(v.kind == "copy" for v in variants):
        parts.append(QCoreApplication.translate("Wording", "%n copy(ies)", "", n))
    return QCoreApplication.translate("Wording", ", ").join(parts)


def percent(part: float) -> str:
    """A part of 1 as a whole number of 100."""
    return str(max(0, min(100, round(part * 100))))


def compared(passage: api.Passage) -> bool:
    """Whether a passage was compared with anything; not so when filters alone were asked for."""
    return bool(passage.why.cosine or passage.why.meaning)


def pasted(text: str) -> str:
    """What a pasted text is called, with its length in words, or in characters where words are not apart."""
    unspaced = len(_UNSPACED.findall(text))
    if unspaced > len(text.split()):
        n = sum(not c.isspace() for c in text)
        label = QCoreApplication.translate("Wording", "pasted text (%n character(s))", "", n)
    else:
        n = len(text.split())
        label = QCoreApplication.translate("Wording", "pasted text (%n word(s))", "", n)
    return label.replace(str(n), number(n))


def filter_text(key: str) -> str:
    """What a filter of a query is about."""
    texts = {
        "ext": QCoreApplication.translate("Wording", "end of the file's name"),
        "type": QCoreApplication.translate("Wording", "kind of file, or programming language"),
        "lang": QCoreApplication.translate("Wording", "language of the passage"),
        "in": QCoreApplication.translate("Wording", "folder"),
        "name": QCoreApplication.translate("Wording", "part of the file's name"),
        "after": QCoreApplication.translate("Wording", "changed then or later"),
        "before": QCoreApplication.translate("Wording", "changed before then"),
        "size": QCoreApplication.translate("Wording", "size of the file"),
        "has": QCoreApplication.translate("Wording", "words to the letter"),
    }
    return texts[key]


def completion_detail(one: api.Completion) -> str:
    """What a completion does, in the person's language as far as it is known to say it."""
    key = one.insert.rstrip(":")
    if one.insert.endswith(":") and (key in FILTERS or key == "has"):
        return filter_text(key)
    if found := re.fullmatch(r"([\d,]+) (file|passage)s?", one.detail):
        n = int(found[1].replace(",", ""))
        counted = files(n) if found[2] == "file" else passages(n)
        return counted.replace(str(n), number(n))
    if found := re.fullmatch(r"(more|less) than (\d+ [KM]B)", one.detail):
        more = QCoreApplication.translate("Wording", "more than %1")
        less = QCoreApplication.translate("Wording", "less than %1")
        return (more if found[1] == "more" else less).replace("%1", found[2])
    if found := re.fullmatch(r"from (\d+) to (\d+ MB)", one.detail):
        text = QCoreApplication.translate("Wording", "from %1 to %2")
        return text.replace("%1", found[1]).replace("%2", found[2])
    return one.detail


def query_problem(problem: api.QueryProblem, query: str) -> str:
    """What was not understood in a query, in the person's language as far as it is known to say it."""
    said = query[problem.start : problem.end].strip()
    texts = (
        (r'there is no language ".*"', QCoreApplication.translate("Wording", "“%1” is no language")),
        (r'there is no kind of file ".*"', QCoreApplication.translate("Wording", "“%1” is no kind of file")),
        (
            r'".*" is no size; try (.*)',
            QCoreApplication.translate("Wording", "“%1” is no size; try >1mb, <100k or 1mb..5mb"),
        ),
        (
            r'".*" is no date; try (.*)',
            QCoreApplication.translate(
                "Wording", "“%1” is no date; try 2025-06-30, 2025-06, 2025, yesterday or 7d"
            ),
        ),
        (
            r"the quotation mark is not closed",
            QCoreApplication.translate("Wording", "The quotation mark is not closed"),
        ),
        (
            r"[a-z]+: what\? For example .*",
            QCoreApplication.translate("Wording", "A value is missing after “%1”"),
        ),
        (
            r"only the first \d+ alternatives are searched",
            QCoreApplication.translate("Wording", "Too many alternatives; only the first are searched"),
        ),
        (
            r"only words were compared, because there is no language model.*",
            QCoreApplication.translate(
                "Wording", "Only words were compared, since the language model cannot be used"
            ),
        ),
        (
            r"a filter beside OR narrows nothing.*",
            QCoreApplication.translate(
                "Wording", "A filter beside OR narrows nothing when free words are the other choice"
            ),
        ),
    )
    short = said if len(said) <= 40 else said[:39] + "…"
    for pattern, text in texts:
        if re.fullmatch(pattern, problem.message, re.DOTALL):
            return printable(text.replace("%1", short))
    message = problem.message[:1].upper() + problem.message[1:]
    return printable(f"“{short}”: {message}" if short and short != query.strip() else message)


def found(strong: int, count: int, took_ms: float) -> str:
    """How many files were found, how many of them only weakly, and how long that took."""
    parts = [files(strong or count)]
    weak = count - strong
    if strong and weak:
        parts.append(QCoreApplication.translate("Wording", "%n weaker", "", weak))
    return "  ·  ".join([*parts, took(took_ms)])


def took(ms: float) -> str:
    """How long an answer took, in milliseconds or seconds."""
    if ms < 1000:
        return QCoreApplication.translate("Wording", "%1 ms").replace("%1", number(max(1, round(ms))))
    seconds = QLocale().toString(ms / 1000, "f", 1)
    return QCoreApplication.translate("Wording", "%1 s").replace("%1", seconds)


def remaining(seconds: float) -> str:
    """How long something will still take, roughly."""
    if seconds < 50:
        return QCoreApplication.translate("Wording", "less than a minute left")
    if seconds < 90 * 60:
        minutes = max(1, round(seconds / 60))
        return QCoreApplication.translate("Wording", "about %n min left", "", minutes)
    hours = max(2, round(seconds / 3600))
    return QCoreApplication.translate("Wording", "about %n h left", "", hours)


def duration(seconds: float) -> str:
    """How long something takes, roughly."""
    if seconds < 50:
        return QCoreApplication.translate("Wording", "less than a minute")
    if seconds < 90 * 60:
        minutes = max(1, round(seconds / 60))
        return QCoreApplication.translate("Wording", "about %n min", "", minutes)
    if seconds < 36 * 3600:
        hours = max(2, round(seconds / 3600))
        return QCoreApplication.translate("Wording", "about %n h", "", hours)
    days = max(2, round(seconds / 86400))
    return QCoreApplication.translate("Wording", "about %n day(s)", "", days)


def model_name(reference: str) -> str:
    """What a model is called, by its reference alone."""
    if reference.startswith(SERVER):
        return printable(reference.removeprefix(SERVER))
    if Path(api.local_path(reference)).is_absolute():
        return file_name(reference)
    return printable(reference.rpartition("/")[2])


def model_summary(model: api.Model) -> str:
    """What a model is good for, in the person's language as far as it is known to say it."""
    if found := re.fullmatch(r"Embeds at (.*)\.", model.summary):
        return QCoreApplication.translate("Models", "Server at %1").replace("%1", printable(found[1]))
    if not model.summary and model.kind in ("folder", "gguf"):
        return tilde(model.reference)
    if not model.summary and model.kind == "hub":
        return printable(model.reference)  # its name alone does not say whose it is
    return printable(QCoreApplication.translate("Models", model.summary) if model.summary else "")


def model_languages(model: api.Model) -> str:
    """The languages that a model knows."""
    return printable(QCoreApplication.translate("Models", model.languages) if model.languages else "")


def switch_state(switch: api.SwitchStatus) -> str:
    """How far the index that is being built is."""
    if switch.state == "loading":
        return QCoreApplication.translate("Wording", "loading the model…")
    if switch.state == "waiting":
        return printable(switch.message) or QCoreApplication.translate("Wording", "waiting")
    text = QCoreApplication.translate("Wording", "%1 of %2 texts")
    parts = [text.replace("%1", number(switch.done)).replace("%2", number(switch.total))]
    if switch.state == "paused":
        parts.append(QCoreApplication.translate("Wording", "paused"))
    elif switch.remaining_s is not None:
        parts.append(remaining(switch.remaining_s))
    return QCoreApplication.translate("Wording", ", ").join(parts)


def verify_note(note: str) -> str:
    """What is to be known of verifying a model, in the person's language as far as it is known to say it."""
    return printable(QCoreApplication.translate("Models", note)) if note else ""


def millions(n: int) -> str:
    """So many parameters."""
    if n >= 1_000_000_000:
        billions = QLocale().toString(n / 1e9, "f", 1)
        return QCoreApplication.translate("Wording", "%1 billion parameters").replace("%1", billions)
    text = QCoreApplication.translate("Wording", "%1 million parameters")
    return text.replace("%1", number(max(1, round(n / 1e6))))


def speed(tokens_per_s: float, device: str) -> str:
    """How fast a model was here."""
    text = QCoreApplication.translate("Wording", "%1 tokens/s on %2")
    rate = number(round(tokens_per_s)) if tokens_per_s >= 10 else QLocale().toString(tokens_per_s, "f", 1)
    names = {"cpu": QCoreApplication.translate("Wording", "the processor")}
    kind = device.partition(":")[0]
    if kind in ("cuda", "mps"):
        names[device] = QCoreApplication.translate("Wording", "the graphics card")
    if kind == "server" or not device:
        return QCoreApplication.translate("Wording", "%1 tokens/s").replace("%1", rate)
    return text.replace("%1", rate).replace("%2", names.get(device, printable(device)))


def when(timestamp: float) -> str:
    """A moment, as a short date and time, or the time alone today."""
    moment = QDateTime.fromSecsSinceEpoch(int(timestamp))
    short = QLocale.FormatType.ShortFormat
    if moment.date() == QDateTime.currentDateTime().date():
        return QLocale().toString(moment.time(), short)
    return QLocale().toString(moment, short)


def language_chip(passage: api.Passage, hit: api.Hit) -> str:
    """What the language chip of a passage says."""
    if passage.lang == "code":
        return (hit.code_language or "code").upper()
    return passage.lang.upper()


def language_name(code: str) -> str:
    """The language of an ISO 639-1 code in that language itself, or the code."""
    if code in _NAMES:
        return _NAMES[code]
    locale = QLocale(code)
    return locale.nativeLanguageName() if locale.language() != QLocale.Language.C else code


def utf16(text: str, offset: int) -> int:
    """The offset that Qt uses for the character `offset` of `text`."""
    head = text[:offset]
    return len(head) if head.isascii() else len(head.encode("utf-16-le", "surrogatepass")) // 2
