"""More parallel text for the adapter: KDE's handbooks, GIMP's help, and Debian's descriptions of packages.

As `adapter_corpus`, whose sections these are: fetched with ``apt-get`` (no root); nothing in them is run.
`without` drops what overlaps the books that search is measured on.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_corpus import Section, Text, spaced

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

_GIMP = "ca cs da de el en es fi fr hu it ja ko nl pt-br ro ru sv uk zh-cn"
_KDE = (
    "akregator ark blinken cantor cervisia choqok dolphin dragonplayer filelight gwenview juk k3b-data "
    "kaddressbook kalarm kalzium-data kamoso kanagram kate5-data katomic kbackup kbibtex-data kbruch kcalc "
    "kcharselect kde-cli-tools-data kdenlive-data kdiff3-doc kexi-data kfind kfloppy kgeography-data kget "
    "khelpcenter kig kile-doc kinfocenter kio kleopatra klettres-data kmahjongg kmail kmix kmousetool kmplot "
    "kmymoney-common knotes kolourpaint kompare konqueror konsole kontact konversation-data korganizer kpat "
    "krdc krfb kronometer kruler krusader ksystemlog kteatime ktorrent-data ktouch-data kturtle "
    "kwalletmanager kwave kwordquiz libkf5kdelibs4support-data lokalize marble-data okular palapeli-data "
    "parley-data plasma-desktop-data plasma-workspace-data rocs skrooge-common step sweeper systemsettings "
    "tellico-doc"
)
PACKAGES = (*(f"gimp-help-{lang}" for lang in _GIMP.split()), *_KDE.split())
# Of Brazilian and European Portuguese there is more in the one, so the other is left out.
_DESCRIBED = "cs da de en es fi fr hu it ja ko nl pl pt_BR ru sk sv uk zh_CN zh_TW"
_HANDBOOKS = "usr/share/doc/HTML"
_GIMP_HELP = "usr/share/gimp/2.0/help"
_LANGS = {"pt_BR": "pt", "zh_CN": "zh-CN", "zh_TW": "zh-TW"}
_SHORTEST = 12
_UNTRANSLATED = 0.3
# Descriptions of the books that search is measured on, and of others on Debian itself.
_LEFT_OUT = re.compile(
    r"debian-|developers-reference|aptitude-doc|maint-guide|debmake-doc|.*-dbgsym$", re.IGNORECASE
)

_Pages = dict[tuple[str, str], Text]


def fetch(target: Path) -> tuple[Path, Path]:
    """Download the packages and the descriptions, and unpack what is read: 1.5 GB, and 0.7 GB unpacked.

    Args:
        target: A folder; what an earlier run fetched is taken.

    Returns:
        Where the packages' root is, and where the lists of descriptions are.

    Raises:
        subprocess.CalledProcessError: Something is not to be had; apt-get says what.
    """
    archives, root, lists = target / "book-archives", target / "book-root", target / "lists"
    archives.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not any(archives.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", "--quiet", *missing], cwd=archives, check=True)
    if not root.exists():
        root.mkdir()
        for archive in sorted(archives.glob("*.deb")):
            _unpack(archive, root)
    if not any(lists.glob("*_Translation-*")):
        _descriptions(lists)
    return root, lists


def _unpack(archive: Path, root: Path) -> None:
    wanted = (f"./{_HANDBOOKS}/*", f"./{_GIMP_HELP}/*.html")
    # A pattern that nothing in this package matches makes tar end with an error.
    command = ["tar", "-x", "-C", str(root), "--wildcards", "--wildcards-match-slash", *wanted]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as source:
        subprocess.run(command, stdin=source.stdout, stderr=subprocess.DEVNULL, check=False)


def _descriptions(lists: Path) -> None:
    """The descriptions of all packages, by an apt of its own that asks for these languages."""
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    (lists / "none").mkdir(exist_ok=True)
    settings = lists / "apt.conf"
    languages = " ".join(f'"{lang}";' for lang in _DESCRIBED.split())
    # Images for containers ship a file of settings that turns translations off, so none is read.
    settings.write_text(
        f"#clear Acquire::Languages;\nAcquire::Languages {{ {languages} }};\n"
        f'Dir::Etc::Parts "{lists}/none";\nDir::State::Lists "{lists}";\n',
        encoding="utf-8",
    )
    subprocess.run(["env", f"APT_CONFIG={settings}", "apt-get", "update", "--quiet"], check=True)


def sections(root: Path, lists: Path) -> list[Section]:
    """All sections that are there in at least two languages, English among them, in a fixed order."""
    found = [
        *_joined("kde", root / _HANDBOOKS, _handbook_folder),
        *_joined("gimp", root / _GIMP_HELP, _gimp_folder),
        *described({_language(file): file.read_text(encoding="utf-8") for file in _lists(lists)}),
    ]
    return [section for section in found if len(section.texts) >= 2]


def _lists(lists: Path) -> list[Path]:
    return sorted(lists.glob("*_Translation-*"))


def _language(file: Path) -> str:
    lang = file.name.rpartition("Translation-")[2].replace("%5f", "_")
    return _LANGS.get(lang, lang)


def _joined(source: str, base: Path, read: Callable[[Path], _Pages]) -> Iterator[Section]:
    folders = [base / "en", *(f for f in sorted(base.iterdir()) if f.name != "en" and "@" not in f.name)]
    found: dict[tuple[str, str], dict[str, Text]] = defaultdict(dict)
    with ProcessPoolExecutor() as pool:
        for folder, pages in zip(folders, pool.map(read, folders), strict=True):
            if folder.name not in ("pt", "en_GB"):
                for place, text in pages.items():
                    found[place][_LANGS.get(folder.name, folder.name)] = text
    for (page, name), texts in sorted(found.items()):
        if "en" in texts:
            yield Section(source, f"{source}/{page}", name, _translated(texts))


def _translated(texts: dict[str, Text]) -> dict[str, Text]:
    """Without the languages in which the text still is English, or has other sections than the English."""
    english = {text for _, text in texts["en"].paragraphs}
    return {
        lang: text
        for lang, text in texts.items()
        if lang == "en"
        or len({own for _, own in text.paragraphs} & english) <= _UNTRANSLATED * len(text.paragraphs)
    }


def _numbered(title: str, paragraphs: Sequence[str]) -> Text:
    named = tuple((str(number), text) for number, text in enumerate(paragraphs))
    return Text(title, named, str(len(named)))


# --- KDE's handbooks ------------------------------------------------------------------------

_ENTITY = re.compile(rb"&(?!amp;|lt;|gt;|quot;|apos;|#)([\w.-]{1,24});")
_DOCTYPE = re.compile(rb"<!DOCTYPE[^\[>]*(\[.*?\]\s*)?>", re.DOTALL)
_DIVISIONS = ("chapter", "sect1", "sect2", "sect3", "section", "appendix", "refsect1")
_NOT_TEXT = frozenset({*_DIVISIONS, "sect4", "title", "screenshot", "programlisting", "screen"})


def _handbook_folder(folder: Path) -> _Pages:
    return {
        (file.relative_to(folder).as_posix(), name): text
        for file in sorted(folder.rglob("*.docbook"))
        for name, text in handbook(file.read_bytes())
    }


def handbook(data: bytes) -> Iterator[tuple[str, Text]]:
    """Sections of a handbook in DocBook by their ids, which are the same in all languages."""
    from lxml import etree

    # Names of programs are entities, declared in files that no package holds: their names stand for them.
    source = _ENTITY.sub(rb"\1", _DOCTYPE.sub(b"", data, count=1))
    parser = etree.XMLParser(recover=True, no_network=True, resolve_entities=False)
    root = etree.fromstring(source, parser)
    for element in () if root is None else root.iter(*_DIVISIONS):
        name, title = element.get("id"), element.find("title")
        paragraphs = [text for text in map(_content, _paragraphs(element)) if len(text) > _SHORTEST]
        if name and title is not None and paragraphs:
            yield name, _numbered(_content(title), paragraphs)


def _paragraphs(element: Element) -> Iterator[Element]:
    for child in element:
        if child.tag in ("para", "simpara"):
            yield child
        elif isinstance(child.tag, str) and child.tag not in _NOT_TEXT:
            yield from _paragraphs(child)


def _content(element: Element) -> str:
    return spaced("".join(str(part) for part in element.itertext()))


# --- GIMP's help ----------------------------------------------------------------------------

_NUMBER = re.compile(r"^([A-Z]?[\d.]+\s*)?[\s.]*")


def _gimp_folder(folder: Path) -> _Pages:
    pages: _Pages = {}
    for file in sorted(folder.glob("*.html")):
        found = headed(file.read_bytes())
        # Headings are matched by their number, which is of use where all pages have the same.
        pages |= {(file.name, f"{at} of {len(found)}"): text for at, text in enumerate(found)}
    return {place: text for place, text in pages.items() if text.paragraphs}


def headed(data: bytes) -> list[Text]:
    """Sections of a page of HTML that was made from DocBook, without the headings' numbers."""
    from lxml import html

    found: list[tuple[str, list[str]]] = []
    for element in html.fromstring(data, parser=html.HTMLParser(encoding="utf-8")).iter(
        "h1", "h2", "h3", "h4", "p"
    ):
        text = _content(element)
        if element.tag != "p":
            if "title" in (element.get("class") or ""):
                found.append((_NUMBER.sub("", text), []))
        elif found and len(text) > _SHORTEST:
            found[-1][1].append(text)
    return [_numbered(title, paragraphs) for title, paragraphs in found]


# --- descriptions of packages ----------------------------------------------------------------

_RECORD = re.compile(r"Package: (\S+)\nDescription-md5: (\S+)\nDescription-\S+: (.*)\n([\s\S]*)")


def described(lists: dict[str, str]) -> Iterator[Section]:
    """Descriptions of packages: the short one is the title, the long one the text.

    Args:
        lists: Debian's ``Translation-*`` files by language.
    """
    found: dict[tuple[str, str], dict[str, Text]] = defaultdict(dict)
    for lang, content in lists.items():
        for record in map(_RECORD.match, content.split("\n\n")):
            if record is not None and _LEFT_OUT.match(record[1]) is None:
                paragraphs = [text for text in _long(record[4], lang) if len(text) > _SHORTEST]
                if paragraphs:
                    found[record[1], record[2]][lang] = _numbered(spaced(record[3]), paragraphs)
    # A source's packages often share their description; one of them is enough.
    seen: set[str] = set()
    for (package, digest), texts in sorted(found.items()):
        english = texts.get("en")
        if english is None or {english.title, english.paragraphs[0][1]} & seen:
            continue
        seen |= {english.title, english.paragraphs[0][1]}
        yield Section("ddtp", package, digest, _translated(texts))


def _long(text: str, lang: str) -> Iterator[str]:
    between = "" if lang in ("ja", "zh-CN", "zh-TW") else " "
    lines: list[str] = []
    for line in [*text.split("\n"), " ."]:
        if line.strip() in ("", "."):
            yield spaced(between.join(lines))
            lines = []
        else:
            lines.append(line.strip())


# --- what must not be learnt -----------------------------------------------------------------

# Runs of so many words, or characters where words are not set apart; three in common are an overlap.
_RUN, _DENSE_RUN, _COMMON = 8, 16, 3


def runs(text: str, lang: str) -> set[int]:
    """Digests of all runs of words in a text, good within one process only."""
    dense = lang[:2].lower() in ("ja", "zh")
    parts: Sequence[str] = re.sub(r"[\W_]+", "", text) if dense else re.findall(r"\w+", text.lower())
    size = _DENSE_RUN if dense else _RUN
    return {hash(tuple(parts[at : at + size])) for at in range(len(parts) - size + 1)}


def without(found: Iterable[Section], measured: set[int]) -> tuple[list[Section], Counter[str]]:
    """Sections that share no sentence with the texts that search is measured on.

    Args:
        found: Any sections.
        measured: `runs` of those texts.

    Returns:
        The sections that are left, and how many of each source were dropped.
    """
    kept, dropped = [], Counter[str]()
    overlap = partial(_overlaps, measured=measured)
    for section in found:
        if any(overlap(text, lang) for lang, text in section.texts.items()):
            dropped[section.source] += 1
        else:
            kept.append(section)
    return kept, dropped


def _overlaps(text: Text, lang: str, measured: set[int]) -> bool:
    whole = f"{text.title}. {' '.join(paragraph for _, paragraph in text.paragraphs)}"
    return len(runs(whole, lang) & measured) >= _COMMON
