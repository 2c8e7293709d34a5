"""A library of real documents, fetched from Debian and PyPI, for the end-to-end tests and the benchmarks.

``python -m tests.end2end.corpus [FOLDER]`` fetches it and lays out two libraries:

``full``
    Everything as it is shipped: the Debian Reference (HTML, text, PDF) and the Developer's Reference
    (HTML, text, PDF, EPUB) in five languages each, and Django's source.
``mixed``
    The same matter, but every chapter in one language and one format only, so that a question in
    another language has one right place. `questions.json` holds such questions.

Needs a Debian or Ubuntu with package lists (`apt-get update`), not root. A second call only
prints what is there.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from indexer import settings
from tests import debian

LANGUAGES = ("en", "zh-cn", "ja", "de", "fr")
# The Developer's Reference has no Chinese edition.
DEVELOPERS = ("en", "ja", "de", "fr", "ru")
DJANGO = "django==5.2.19"
# Part of Django: a megabyte of source, enough to lose a function in.
DJANGO_PARTS = (
    "core/*.py",
    "core/cache/**/*.py",
    "core/files/**/*.py",
    "http/*.py",
    "middleware/*.py",
    "utils/**/*.py",
    "contrib/auth/**/*.py",
)
# Chapter of the Debian Reference: its language and format in the mixed library.
MIXED = {
    "pr01": ("fr", "html"),
    "ch01": ("zh-cn", "html"),
    "ch02": ("en", "pdf"),
    "ch03": ("ja", "html"),
    "ch04": ("de", "txt"),
    "ch05": ("fr", "html"),
    "ch06": ("zh-cn", "pdf"),
    "ch07": ("zh-cn", "pdf"),
    "ch08": ("fr", "html"),
    "ch09": ("en", "pdf"),
    "ch10": ("zh-cn", "html"),
    "ch11": ("ja", "pdf"),
    "ch12": ("ja", "txt"),
}
# Raise it when the layout changes: an older folder is then made anew.
LAYOUT = 1
_STAMP = "corpus.json"
_QUESTIONS = Path(__file__).with_name("questions.json")
_CHAPTER_LINE = re.compile(r"^(?:Kapitel |第 ?)(\d+)(?:\.| ?章)", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """A question with one right place in the mixed library.

    Attributes:
        query: What a person would ask, in language `lang`, which is not the language of the place.
        path_glob: Files that count as right, relative to the library.
        text: Regular expression, case ignored, that the right passage has.
    """

    query: str
    lang: str
    path_glob: str
    text: str

    def fits(self, path: str) -> bool:
        """Whether a file, relative to the library, counts as right."""
        return fnmatch(PurePosixPath(path).as_posix(), self.path_glob)

    def answered_by(self, path: str, passage: str) -> bool:
        """Whether a passage of a file is the expected one; line breaks in the passage count as spaces."""
        return self.fits(path) and bool(re.search(self.text, " ".join(passage.split()), re.IGNORECASE))


def questions() -> list[Question]:
    """The hand-checked questions on the mixed library."""
    return [Question(**entry) for entry in json.loads(_QUESTIONS.read_text(encoding="utf-8"))]


def default_folder() -> Path:
    """Where the corpus is kept unless told otherwise: beside the product's cache, which is never indexed."""
    return settings.cache_dir().with_name("dragoman-corpus")


def fetch(folder: Path | None = None) -> Path:
    """Make sure that the corpus is there.

    Args:
        folder: Where to keep it; `default_folder` unless given.

    Returns:
        The folder, which holds the libraries ``full`` and ``mixed``.

    Raises:
        RuntimeError: This machine has no apt, or apt or pip could not fetch something.
    """
    folder = folder or default_folder()
    stamp = folder / _STAMP
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8"))["layout"] == LAYOUT:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        work = Path(scratch)
        versions = _packages(work)
        _full(work, work / "full")
        _mixed(work, work / "mixed")
        for name in ("full", "mixed"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (work / name).rename(folder / name)
    stamp.write_text(json.dumps({"layout": LAYOUT, "packages": versions}, indent=1), encoding="utf-8")
    return folder


def _run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")


def _packages(work: Path) -> list[str]:
    """Fetch and unpack everything below `work`; names and versions of the packages."""
    names = [f"debian-reference-{lang}" for lang in LANGUAGES]
    names += [
        "developers-reference",
        *(f"developers-reference-{lang}" for lang in DEVELOPERS if lang != "en"),
    ]
    downloads, root = work / "downloads", work / "root"
    downloads.mkdir()
    root.mkdir()
    packages = debian.fetch(names, root)
    pip = (sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary", ":all:")
    _run(*pip, "-d", str(downloads), DJANGO, cwd=work)
    for wheel in downloads.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root, [name for name in archive.namelist() if name.endswith(".py")])
    wheels = [file.name for file in downloads.iterdir()]
    return sorted([*(f"{name} {version}" for name, version in packages.items()), *wheels])


def _copy(source: Path, target: Path) -> None:
    """Copy one file, unpacked where it is compressed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".gz":
        with gzip.open(source) as packed, target.with_suffix("").open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    else:
        shutil.copyfile(source, target)


def _full(work: Path, target: Path) -> None:
    share = work / "root/usr/share"
    for lang in LANGUAGES:
        for source in sorted((share / "debian-reference").glob(f"*.{lang}.*")):
            _copy(source, target / "debian-reference" / lang / source.name)
    for lang in DEVELOPERS:
        book = share / "developers-reference" / (lang if lang != "en" else "")
        for source in sorted(book.iterdir()):
            # The book in one page would be there twice.
            if (
                source.suffix in {".html", ".pdf", ".epub", ".gz"}
                and source.name != "developers-reference.html"
            ):
                _copy(source, target / "developers-reference" / lang / source.name)
    _django(work, target / "django", parts=("**/*.py",))


def _django(work: Path, target: Path, parts: tuple[str, ...]) -> None:
    source = work / "root/django"
    for part in parts:
        for file in sorted(source.glob(part)):
            # Translations of dates and empty package files teach nothing.
            if "locale" not in file.parts and file.stat().st_size > 200:
                _copy(file, target / file.relative_to(source))


def _mixed(work: Path, target: Path) -> None:
    share = work / "root/usr/share"
    for chapter, (lang, form) in MIXED.items():
        name = f"debian-reference/{chapter}.{lang}.{form}"
        book = share / "debian-reference" / f"debian-reference.{lang}"
        if form == "html":
            _copy(share / name, target / name)
        elif form == "pdf":
            _pdf_chapter(Path(f"{book}.pdf"), int(chapter[2:]), target / name)
        else:
            _text_chapter(Path(f"{book}.txt.gz"), int(chapter[2:]), target / name)
    _copy(
        share / "developers-reference/de/developers-reference.epub",
        target / "developers-reference/developers-reference.de.epub",
    )
    _django(work, target / "django", parts=DJANGO_PARTS)


def _pdf_chapter(book: Path, number: int, target: Path) -> None:
    """Write the pages of one chapter, found by the book's outline, as a PDF of its own."""
    import pymupdf

    target.parent.mkdir(parents=True, exist_ok=True)
    # PyMuPDF has no types of its own for this.
    open_pdf: Any = pymupdf.open
    with open_pdf(book) as whole, open_pdf() as part:
        pages = [page for level, _, page in whole.get_toc() if level == 1]
        part.insert_pdf(whole, from_page=pages[number - 1] - 1, to_page=pages[number] - 2)
        part.save(target, garbage=3, deflate=True)


def _text_chapter(book: Path, number: int, target: Path) -> None:
    """Write one chapter, found by the headings that start in the first column, as a text file."""
    text = gzip.decompress(book.read_bytes()).decode()
    starts = {int(match[1]): match.start() for match in _CHAPTER_LINE.finditer(text)}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text[starts[number] : starts.get(number + 1, len(text))], encoding="utf-8")


def describe(folder: Path) -> str:
    """What is in the corpus, a line for each folder of each library."""
    lines = [str(folder)]
    for library in ("full", "mixed"):
        for part in sorted((folder / library).iterdir()):
            files = [file for file in part.rglob("*") if file.is_file()]
            kinds = ", ".join(
                f"{sum(file.suffix == suffix for file in files)} {suffix[1:]}"
                for suffix in sorted({file.suffix for file in files})
            )
            size = sum(file.stat().st_size for file in files) / 1e6
            lines.append(f"{library:6} {part.name:22} {len(files):5} files {size:7.1f} MB   {kinds}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe(fetch(Path(sys.argv[1]) if len(sys.argv) > 1 else None)))
