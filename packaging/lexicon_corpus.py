"""The translated text that lexicons are learnt from: what programs say, and parallel manuals, from Debian.

Programs come with catalogues of gettext (``.mo``): what they say in English, and what they say instead in
other languages. Of a thousand packages these are a few hundred thousand short texts a language. The manuals
are those of `adapter_corpus` and `adapter_books`, by title and by sentence.

Everything is fetched with ``apt-get`` (no root). Packages are read as streams, only the catalogues of them,
and nothing in them is run. What overlaps the books that search is measured on is left out, as is the
software that those books are about.
"""

from __future__ import annotations

import gzip
import html
import logging
import re
import shutil
import struct
import subprocess
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import adapter_books
import adapter_corpus
import msgspec
from adapter_corpus import Section, spaced

_log = logging.getLogger("lexicon_corpus")

# As indexer.segment.language names them.
LANGUAGES = (
    *("ar", "bg", "ca", "cs", "da", "de", "el", "es", "fa", "fi", "fr", "he", "hi", "hr", "hu", "id", "it"),
    *("ja", "ko", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sr", "sv", "th", "tr", "uk", "vi", "zh"),
)
_SAME = {"nb": "no", "nn": "no", "iw": "he", "in": "id"}
_OFFICE = (
    "ar bg ca cs da de el es fa fi fr he hi hr hu id it ja ko nb nl nn pl pt pt-br ro ru sk sl sr sv th tr "
    "uk vi zh-cn zh-tw"
)
# A program that is there in all of these is mostly there in the others, too.
_REQUIRED = frozenset({"de", "es", "fr", "it", "ja", "pt_BR", "ru", "zh_CN", "zh_TW"})
# Software that is Debian's own, which the books that search is measured on are about.
_LEFT_OUT = re.compile(
    r"adequate|apper|apt|cdebconf|console-setup|dctrl|debconf|debhelper|debian|deborphan|debsums|devscripts"
    r"|dpkg|dselect|gdebi|gnome-software|kbd|live-|menu$|muon|needrestart|packagekit|packagesearch"
    r"|pacman-package|pbuilder|plasma-discover|po4a|popularity|python-apt|reportbug|sbuild"
    r"|software-properties|synaptic|tasksel|unattended|update-"
)
# Packages of more bytes hold pictures and sounds; these hold so much text that they are fetched nevertheless.
_LARGEST = 5_000_000
_LARGE = re.compile(
    r"calligra-data|darktable|evolution-common|freeciv-data|gimp-data|gnucash-common|gramps|inkscape"
    r"|marble-data|plasma-(desktop|workspace)-data|r-base-core|vlc-l10n|wesnoth-[\d.]+-data"
)
_CATALOGUE = re.compile(r"/([\w@.-]+)/LC_MESSAGES/([^/]+)\.mo$")

Pair = tuple[str, str]
"""A text in English, and the same in another language."""


# --- packages -------------------------------------------------------------------------------


def fetch(target: Path) -> list[Path]:
    """Download the packages with catalogues: 1.1 GB.

    Args:
        target: A folder; what an earlier run fetched is taken.

    Returns:
        The packages, in a fixed order; some of them are those that `adapter_books.fetch` fetches anyway.

    Raises:
        subprocess.CalledProcessError: Something is not to be had; apt-get says what.
    """
    adapter_books.fetch(target)
    archives, books = target / "catalogue-archives", target / "book-archives"
    archives.mkdir(parents=True, exist_ok=True)
    with_catalogues = chosen(_contents(target / "contents"))
    sizes = _sizes(with_catalogues)
    wanted = {f"libreoffice-l10n-{lang}" for lang in _OFFICE.split()}
    wanted |= {name for name, size in sizes.items() if size <= _LARGEST or _LARGE.fullmatch(name)}
    there = with_catalogues & {*adapter_books.PACKAGES}
    wanted -= there
    missing = sorted(wanted - {_package(archive) for archive in archives.glob("*.deb")})
    if missing:
        subprocess.run(["apt-get", "download", "--quiet", *missing], cwd=archives, check=True)
    found = [archive for archive in archives.glob("*.deb") if _package(archive) in wanted]
    found += [archive for archive in books.glob("*.deb") if _package(archive) in there]
    return sorted(found, key=lambda archive: archive.name)


def _package(archive: Path) -> str:
    return archive.name.partition("_")[0]


def chosen(contents: Iterable[str]) -> set[str]:
    """The packages with a catalogue that is there in all of the languages that most programs speak.

    Args:
        contents: Lines of Debian's ``Contents-*`` files: a path, and the packages that have it.
    """
    there: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line in contents:
        path, _, packages = line.rstrip().rpartition(" ")
        match = _CATALOGUE.search(path.rstrip())
        if match:
            for package in packages.split(","):
                there[package.rpartition("/")[2], match[2]].add(match[1])
    return {name for (name, _), found in there.items() if found >= _REQUIRED and not _LEFT_OUT.match(name)}


def _contents(lists: Path) -> Iterator[str]:
    """Which package has which file, by an apt of its own that asks for that."""
    lists = lists.resolve()
    if not any(lists.glob("*_Contents-*.gz")):
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        (lists / "none").mkdir(exist_ok=True)
        settings = lists / "apt.conf"
        settings.write_text(
            '#clear Acquire::Languages;\nAcquire::Languages "none";\n'
            f'Dir::Etc::Parts "{lists}/none";\nDir::State::Lists "{lists}";\n'
            'Acquire::IndexTargets::deb::Packages::DefaultEnabled "false";\n'
            "Acquire::IndexTargets::deb::Contents-deb {\n"
            '  MetaKey "$(COMPONENT)/Contents-$(ARCHITECTURE)";\n'
            '  ShortDescription "Contents-$(ARCHITECTURE)";\n'
            '  Description "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Contents";\n'
            '  KeepCompressed "true"; KeepCompressedAs "gz";\n'
            "};\n",
            encoding="utf-8",
        )
        subprocess.run(["env", f"APT_CONFIG={settings}", "apt-get", "update", "--quiet"], check=True)
    for file in sorted(lists.glob("*_Contents-*.gz")):
        with gzip.open(file, "rt", encoding="utf-8", errors="replace") as lines:
            yield from lines


def _sizes(packages: Iterable[str]) -> dict[str, int]:
    """Bytes of each package that is to be had for this machine."""
    command = ["apt-cache", "show", "--no-all-versions", *sorted(packages)]
    # It ends with an error where one of them is for other machines only.
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    sizes: dict[str, int] = {}
    for record in told.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Size): (.+)$", record, re.MULTILINE))
        if fields:
            sizes[fields["Package"]] = int(fields["Size"])
    return sizes


def language_of(locale: str) -> str:
    """The language of a locale, all countries and scripts together; empty for one that is not learnt."""
    lang = re.split(r"[_@.-]", locale, maxsplit=1)[0]
    lang = _SAME.get(lang, lang)
    return lang if lang in LANGUAGES else ""


# --- catalogues -----------------------------------------------------------------------------

_LONGEST = 400
# What translators put their names in.
_CREDITS = re.compile(r"(?:.*\n)?(?:translat\w+[-_ ]credits|your names|your emails)", re.IGNORECASE)
_CHARSET = re.compile(rb"charset=([\w.:-]+)")

# A letter in brackets behind the text: how it is chosen by a key in languages without Latin letters.
_BRACKETED_KEY = re.compile(r"\s*\(\s*[&_~]\s*\w\s*\)")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[A-Za-z]\w{1,20});")
_TAG = re.compile(r"<[^>]{1,80}>")
_PLACEHOLDER = re.compile(
    r"%[A-Z_]{3,}\d*|%(?:\d+\$)?[-+#0']*\d*(?:\.\d+)?(?:hh?|ll?|[jqtz])?[a-zA-Z]|%\d+|%\(\w+\)[a-z]"
    r"|\{[^}]*\}|\$(?:\(\w+\)|\{?\w+\}?)|\\[nt]"
)
_KEY, _KEY_IN_A_SENTENCE = re.compile(r"[&_~](?=\w)"), re.compile(r"&(?=\w)")
_SENTENCE_SPACES = 8  # a text with so many is no label, and an underscore in it is part of a name


def said(archive: Path) -> Iterator[tuple[str, Pair]]:
    """The language and the texts of each entry of a package's catalogues, as far as they are of use.

    The package is read as a stream: nothing of it is unpacked.
    """
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as source,
        tarfile.open(fileobj=source.stdout, mode="r|") as members,
    ):
        for member in members:
            match = _CATALOGUE.search(member.name)
            lang = language_of(match[1]) if match and member.isfile() else ""
            file = members.extractfile(member) if lang else None
            if file is None:
                continue
            try:
                entries = list(catalogue(file.read()))
            except ValueError as error:
                _log.info("%s: %s: %s", archive.name, member.name, error)
                continue
            for english, other in entries:
                pair = useful(english, other)
                if pair is not None:
                    yield lang, pair


def catalogue(data: bytes) -> Iterator[Pair]:
    """The entries of a compiled catalogue of gettext; of plurals, every form with the English singular.

    Raises:
        ValueError: It is none, or not in a known encoding.
    """
    order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}.get(data[:4])
    if order is None:
        raise ValueError("it is no catalogue")
    try:
        number, ours, theirs = struct.unpack_from(f"{order}8x3I", data)
        places = list(struct.iter_unpack(f"{order}2I", data[ours : ours + 8 * number]))
        others = list(struct.iter_unpack(f"{order}2I", data[theirs : theirs + 8 * number]))
    except struct.error as error:
        raise ValueError("it is cut off") from error
    if not len(places) == len(others) == number:
        raise ValueError("it is cut off")
    charset = "utf-8"
    for (size, start), (other_size, other_start) in zip(places, others, strict=True):
        name = data[start : start + size]
        told = data[other_start : other_start + other_size]
        if not name:
            # The head, which comes first.
            declared = _CHARSET.search(told)
            charset = declared[1].decode("ascii") if declared else charset
            continue
        try:
            # Context, then \4, then the text, then \0 and the plural.
            english = name.rpartition(b"\x04")[2].partition(b"\0")[0].decode(charset)
            forms = told.decode(charset).split("\0")
        except LookupError as error:
            raise ValueError(f"its encoding {charset} is unknown") from error
        for form in forms:
            yield english, form


def useful(english: str, other: str) -> Pair | None:
    """An entry as plain text, or None where nothing is to be learnt from it."""
    if not english or english == other or len(english) > _LONGEST or "\n\n" in english:
        return None
    if _CREDITS.fullmatch(english):
        return None
    english, other = clean(english), clean(other)
    return (english, other) if len(english) > 1 and other and english != other else None


def clean(text: str) -> str:
    """A text of a program without marks for keys, tags and placeholders."""
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), _BRACKETED_KEY.sub("", text))
    text = _PLACEHOLDER.sub(" ", _TAG.sub(" ", text))
    key = _KEY if text.count(" ") < _SENTENCE_SPACES else _KEY_IN_A_SENTENCE
    return spaced(key.sub("", text))


# --- manuals --------------------------------------------------------------------------------

_SENTENCES = re.compile(r"(?<=[.!?;:])\s+|(?<=[。！？；：])\s*")


def told(sections: Iterable[Section]) -> Iterator[tuple[str, Pair]]:
    """The language, and the title or a sentence or paragraph, of what manuals have in English and another."""
    for section in sections:
        texts = section.texts
        if "en" not in texts:
            continue
        ours, english = texts["en"], dict(texts["en"].paragraphs)
        for locale, text in texts.items():
            lang = language_of(locale)
            if not lang:
                continue
            if ours.title and text.title and ours.title != text.title:
                yield lang, (ours.title, text.title)
            if text.shape != ours.shape:
                continue
            for name, paragraph in text.paragraphs:
                if name in english:
                    for pair in _aligned(english[name], paragraph):
                        yield lang, pair


def _aligned(english: str, other: str) -> Iterator[Pair]:
    """Sentences, where there are as many; else the whole of it."""
    ours, theirs = ([part for part in _SENTENCES.split(text) if part] for text in (english, other))
    pairs = zip(ours, theirs, strict=True) if len(ours) == len(theirs) else [(english, other)]
    yield from (pair for pair in pairs if pair[0] != pair[1])


# --- all of it ------------------------------------------------------------------------------


def collect(work: Path) -> Path:
    """Fetch everything, and keep the pairs of each language in a file, since that takes ten minutes.

    Args:
        work: A folder; what an earlier run fetched or made is taken.

    Returns:
        The folder with the files, gzip of a JSON list a line: English, and the other language.
    """
    folder = work / "pairs"
    if folder.exists():
        return folder
    # It brings torch with it.
    from refine_adapter import measured

    archives = fetch(work)
    sections = adapter_corpus.sections(adapter_corpus.fetch(work))
    sections += adapter_books.sections(*adapter_books.fetch(work))
    books = measured()
    sections, dropped = adapter_books.without(sections, books)
    _log.info("%s sections overlap the books and are left out", dict(dropped))
    new = work / "pairs.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    with ExitStack() as stack:
        # Most of it is written once and read once, so it need not be small.
        files = {
            lang: stack.enter_context(gzip.open(new / f"{lang}.jsonl.gz", "wb", compresslevel=2))
            for lang in LANGUAGES
        }
        overlaps = Counter[str]()
        for number, archive in enumerate(archives):
            if number % 50 == 0:
                _log.info("package %d of %d: %s", number, len(archives), archive.name)
            for lang, pair in dict.fromkeys(said(archive)):
                if _overlaps(pair, lang, books):
                    overlaps[lang] += 1
                else:
                    files[lang].write(msgspec.json.encode(pair) + b"\n")
        _log.info("%s texts overlap the books and are left out", dict(overlaps))
        for lang, pair in told(sections):
            files[lang].write(msgspec.json.encode(pair) + b"\n")
    return new.rename(folder)


def _overlaps(pair: Pair, lang: str, books: set[int]) -> bool:
    """Whether a text has a run of words that a book has, too; they are too short for more than one."""
    ours, theirs = adapter_books.runs(pair[0], "en"), adapter_books.runs(pair[1], lang)
    return not (books.isdisjoint(ours) and books.isdisjoint(theirs))


def pairs(folder: Path, lang: str) -> list[Pair]:
    """The distinct pairs of a language, in the order in which they were first met."""
    with gzip.open(folder / f"{lang}.jsonl.gz", "rb") as lines:
        return list(dict.fromkeys(msgspec.json.decode(line, type=Pair) for line in lines))
