"""The parallel text that the bundled model's adapter is trained on: manuals in many languages, from Debian.

Manual pages (the manpages-* packages and the packages that hold the English originals), the help of
LibreOffice and the help of GNOME. None of them is part of a benchmark in tests/relevance. Packages are
fetched with ``apt-get download`` (no root) and unpacked; nothing in them is run.
"""

from __future__ import annotations

import gzip
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

_OFFICE = "cs da de el en-us es fi fr hu id it ja ko nl pl pt-br ru sv tr vi zh-cn zh-tw"
_MANUALS = "cs da de es fr it ja nl pl pt-br ro ru sv uk zh"
_DEV_MANUALS = "de es fr ja pt-br ru"
# These hold the English originals of what the packages above translate.
_ORIGINALS = (
    "manpages manpages-dev bash bc binutils-common bsdextrautils bsdutils bzip2 coreutils diffutils "
    "e2fsprogs ed findutils gdb gettext gettext-base ghostscript grep groff-base gzip hostname "
    "init-system-helpers less libc-bin libc-dev-bin libc-devtools libnss-systemd libpam-runtime "
    "libpam-systemd libpq-dev locales logsave make mount ncurses-bin net-tools netpbm openssl patch "
    "perl-base procps psmisc sed systemd systemd-sysv systemd-timesyncd sysvinit-utils tar time unzip "
    "util-linux util-linux-extra uuid-dev vim-runtime wget xxd xz-utils zstd"
)
PACKAGES = (
    "gnome-user-docs",
    *(f"libreoffice-help-{lang}" for lang in _OFFICE.split()),
    *(f"manpages-{lang}" for lang in _MANUALS.split()),
    *(f"manpages-{lang}-dev" for lang in _DEV_MANUALS.split()),
    *_ORIGINALS.split(),
)
_HELP = "usr/share/libreoffice/help"
_GNOME = "usr/share/help"
_MAN = "usr/share/man"
# How the packages write languages, where it is not how this script does.
_LANGS = {
    "C": "en",
    "en-US": "en",
    "pt_BR": "pt",
    "pt-BR": "pt",
    "zh_CN": "zh-CN",
    "zh_TW": "zh-TW",
    "": "en",
}
_SHORTEST = 12
_SHORTEST_MANUAL = 30
# More of its paragraphs than this standing in the English text: it was not translated.
_UNTRANSLATED = 0.3
_MALLARD = "{http://projectmallard.org/1.0/}"


@dataclass(frozen=True)
class Text:
    """A section in one language.

    Attributes:
        title: Its heading, or a manual page's description of itself; may be empty.
        paragraphs: By a name that is the same in all languages if `shape` is.
        shape: Paragraphs of two languages may be matched by name only where this is equal.
    """

    title: str
    paragraphs: tuple[tuple[str, str], ...]
    shape: str = ""

    def __len__(self) -> int:
        return sum(len(text) for _, text in self.paragraphs)


@dataclass(frozen=True)
class Section:
    """A section in all its languages; `source` is ``gnome``, ``lo`` or ``man``."""

    source: str
    page: str
    id: str
    texts: dict[str, Text]


_Found = tuple[str, str, Text]


def fetch(target: Path) -> Path:
    """Download and unpack the packages; about 250 MB, and 2 GB unpacked.

    Args:
        target: A folder; what an earlier run fetched is taken.

    Returns:
        Where the packages' root is.

    Raises:
        subprocess.CalledProcessError: A package is not to be had; apt-get says which.
    """
    archives, root = target / "archives", target / "root"
    archives.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not any(archives.glob(f"{name}_*.deb"))]
    if missing:
        subprocess.run(["apt-get", "download", "--quiet", *missing], cwd=archives, check=True)
    if not root.exists():
        for archive in sorted(archives.glob("*.deb")):
            subprocess.run(["dpkg-deb", "--extract", archive, root], check=True)
    return root


def versions(target: Path) -> dict[str, str]:
    """Version of each fetched package."""
    names = (archive.stem.split("_") for archive in sorted((target / "archives").glob("*.deb")))
    return {name: version.replace("%3a", ":") for name, version, *_ in names}


def sections(root: Path) -> list[Section]:
    """All sections that are there in at least two languages, in a fixed order."""
    found: dict[tuple[str, str, str], dict[str, Text]] = defaultdict(dict)
    with ProcessPoolExecutor() as pool:
        folders = [f for f in sorted((root / _GNOME).iterdir()) if (f / "gnome-help").is_dir()]
        for folder, pages in zip(folders, pool.map(_gnome_folder, folders), strict=True):
            _put(found, "gnome", folder.name, pages)
        folders = [f for f in sorted((root / _HELP).iterdir()) if (f / "text").is_dir()]
        for folder, pages in zip(folders, pool.map(_office_folder, folders), strict=True):
            _put(found, "lo", folder.name, pages)
        folders = [root / _MAN, *(f for f in sorted((root / _MAN).iterdir()) if _is_language(f.name))]
        for folder, pages in zip(folders, pool.map(_man_folder, folders), strict=True):
            _put(found, "man", folder.name if folder.name != "man" else "", pages)
    made = [Section(*key, _translated(texts)) for key, texts in found.items()]
    return [section for section in made if len(section.texts) >= 2]


def _is_language(name: str) -> bool:
    return re.fullmatch(r"[a-z]{2}(_[A-Z]{2})?", name) is not None


def _put(
    found: dict[tuple[str, str, str], dict[str, Text]], source: str, lang: str, pages: Iterable[_Found]
) -> None:
    for page, name, text in pages:
        if text.title or text.paragraphs:
            found[source, page, name][_LANGS.get(lang, lang)] = text


def _translated(texts: dict[str, Text]) -> dict[str, Text]:
    """Without the languages in which the text still is English."""
    english = {text for _, text in texts["en"].paragraphs} if "en" in texts else set()
    kept = {}
    for lang, text in texts.items():
        own = {paragraph for _, paragraph in text.paragraphs}
        if lang == "en" or not english or len(own & english) <= _UNTRANSLATED * len(text.paragraphs):
            kept[lang] = text
    return kept


def spaced(text: str) -> str:
    """With single spaces."""
    return " ".join(text.split())


def _office_folder(folder: Path) -> list[_Found]:
    pages = folder / "text"
    return [
        (file.relative_to(pages).as_posix(), name, text)
        for file in sorted(pages.rglob("*.html"))
        for name, text in office_page(file.read_bytes())
    ]


def office_page(data: bytes) -> Iterator[tuple[str, Text]]:
    """Sections of a page of LibreOffice's help, whose headings and paragraphs have lasting ids."""
    from lxml import html

    page = html.fromstring(data, parser=html.HTMLParser(encoding="utf-8"))
    name, title = "", ""
    paragraphs: list[tuple[str, str]] = []
    for element in page.iter("h1", "h2", "h3", "p"):
        here = element.get("id") or ""
        text = _content(element)
        if element.tag != "p" and here.startswith("hd_"):
            if title:
                yield name, Text(title, tuple(paragraphs))
            name, title, paragraphs = here, text, []
        elif element.tag == "p" and here.startswith("par_") and len(text) > _SHORTEST:
            paragraphs.append((here, text))
    if title:
        yield name, Text(title, tuple(paragraphs))


def _gnome_folder(folder: Path) -> list[_Found]:
    return [
        (file.name, name, text)
        for file in sorted((folder / "gnome-help").glob("*.page"))
        for name, text in mallard_page(file.read_bytes())
    ]


def mallard_page(data: bytes) -> Iterator[tuple[str, Text]]:
    """Sections of a page of GNOME's help; translations have the same elements in the same order."""
    from lxml import etree

    parser = etree.XMLParser(recover=True, no_network=True, resolve_entities=False)
    root = etree.fromstring(data, parser)
    if root is not None:
        yield from _mallard(root, "")


def _mallard(element: Element, name: str) -> Iterator[tuple[str, Text]]:
    title = element.find(_MALLARD + "title")
    description = element.find(f"{_MALLARD}info/{_MALLARD}desc")
    paragraphs = [] if description is None else [("desc", _content(description))]
    for number, paragraph in enumerate(_paragraphs(element), 1):
        text = _content(paragraph)
        if len(text) > _SHORTEST:
            paragraphs.append((str(number), text))
    yield name, Text("" if title is None else _content(title), tuple(paragraphs))
    for number, section in enumerate(element.findall(_MALLARD + "section")):
        yield from _mallard(section, f"{name}/{section.get('id') or number}")


def _paragraphs(element: Element) -> Iterator[Element]:
    for child in element:
        if child.tag == _MALLARD + "p":
            yield child
        elif child.tag not in (_MALLARD + "info", _MALLARD + "title", _MALLARD + "section"):
            yield from _paragraphs(child)


def _content(element: Element) -> str:
    return spaced("".join(str(part) for part in element.itertext()))


def _man_folder(folder: Path) -> list[_Found]:
    pages = []
    seen = set()
    for file in sorted(folder.glob("man*/*.gz")):
        if not file.is_symlink() and file.name not in seen:
            seen.add(file.name)
            data = gzip.decompress(file.read_bytes())
            text = manual_page(data)
            if text is not None:
                pages.append((file.name, "", text))
    return pages


_GLYPHS = {
    "-": "-", "&": "", "e": "\\", " ": " ", "|": "", "/": "", ",": "", "^": "", "%": "", ":": "", "~": " ",
    "0": " ", "c": "", "(co": "©", "(bu": "•", "(em": "—", "(en": "–", "(aq": "'", "(dq": '"', "(lq": '"',
    "(rq": '"', "(cq": "'", "(oq": "'", "(ti": "~", "(ha": "^", "(rs": "\\",
}  # fmt: skip
_FONT = re.compile(r"\\f(\[[^\]]*\]|\(..|.)|\\s[-+]?\d|\\\*\(?\[?[A-Za-z]+\]?|\\[mM]\[[^\]]*\]")
_ESCAPE = re.compile(r"\\(\[[^\]]*\]|\(..|.)?")
_MACRO = re.compile(r"[.']\s*(\w+)\s*(.*)")
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"|(\S+)')
_SPACED = frozenset({"B", "I", "SM", "SB"})
_FONTS = frozenset({"BR", "IR", "RB", "RI", "BI", "IB"}) | _SPACED
_BREAKS = frozenset({"PP", "P", "LP", "TP", "IP", "HP", "RS", "RE", "TQ", "br", "sp"})
_VERBATIM = frozenset({"TS", "nf", "EX"})
_VERBATIM_END = re.compile(r"\.\s*(TE|fi|EE)\b")
_DASH = re.compile(r"\s[-–—]+\s|——")


def manual_page(data: bytes) -> Text | None:
    """A manual page written with the macros of man(7), or None for another one.

    The title is what the page says of itself in its first section; tables and examples are left out.
    """
    try:
        source = data.decode("utf-8")
    except UnicodeDecodeError:
        source = data.decode("latin-1")
    if source.startswith(".so ") or "\n.so " in source[:300] or ".Dd " in source[:3000] or ".Sh " in source:
        return None
    parts = _man_sections(source)
    if len(parts) < 3:
        return None
    described = _DASH.split(" ".join(parts[0]), maxsplit=1)
    paragraphs = [
        (f"{section}.{number}", text)
        for section, texts in enumerate(parts[1:], 1)
        for number, text in enumerate(texts)
        if len(text) > _SHORTEST_MANUAL
    ]
    title = described[1].strip() if len(described) > 1 else ""
    return Text(title, tuple(paragraphs), "|".join(str(len(texts)) for texts in parts))


def _man_sections(source: str) -> list[list[str]]:
    """The paragraphs of each section."""
    parts: list[list[str]] = []
    lines: list[str] = []
    verbatim = False

    def end() -> None:
        if parts:
            parts[-1].append(spaced(" ".join(lines)))
        lines.clear()

    for line in source.split("\n"):
        if line.startswith(('.\\"', "'\\\"", '\\"')):
            continue
        if verbatim:
            verbatim = _VERBATIM_END.match(line) is None
            continue
        match = _MACRO.match(line)
        if match is None:
            lines.append(plain(line))
            if not line.strip():
                end()
            continue
        macro, rest = match[1], match[2]
        if macro in ("SH", "SS"):
            end()
            parts.append([])
        elif macro in _BREAKS:
            end()
        elif macro in _VERBATIM:
            end()
            verbatim = True
        elif macro in _FONTS:
            words = [quoted or word for quoted, word in _ARGUMENT.findall(rest)]
            lines.append(plain((" " if macro in _SPACED else "").join(words)))
    end()
    return parts


def plain(text: str) -> str:
    """Text of roff without its escapes."""
    return spaced(_ESCAPE.sub(_glyph, _FONT.sub("", text)))


def _glyph(match: re.Match[str]) -> str:
    return _GLYPHS.get(match[1] or "", "")
