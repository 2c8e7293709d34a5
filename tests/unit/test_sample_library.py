"""The sample library is what its questions and assets/README.md say it is."""

from __future__ import annotations

import codecs
import functools
import html
import importlib
import importlib.util
import json
import re
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pymupdf: Any = importlib.import_module("pymupdf")  # it has no types worth the name

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "assets" / "sample-library"
FILES = sorted(path for path in LIBRARY.rglob("*") if path.is_file())
NAMES = [path.relative_to(LIBRARY).as_posix() for path in FILES]
CONTENT: dict[str, list[dict[str, Any]]] = json.loads(
    (ROOT / "assets" / "sample-library-questions.json").read_text(encoding="utf-8")
)
QUESTIONS = CONTENT["questions"]
LANGUAGES = {"en", "zh", "ja", "ko", "de", "fr", "es", "ru", "ar"}
ENCODINGS = {
    "notes/租房合同.txt": "gb18030",
    "notes/gomi.txt": "shift_jis",
    "notes/akvarium.txt": "cp1251",
    "notes/first-aid-burns.txt": "utf-16",
}
# Words that every ordinary text of that language and script contains, and its neighbours do not.
TELLTALES = {
    "de": r"\b(und|nicht|wird|einmal)\b",
    "fr": r"\b(les|une|dans|avec)\b",
    "es": r"\b(los|una|con|para)\b",
    "en": r"\b(the|and|with|that)\b",
}


def pages(name: str) -> list[str]:
    """Text of each page, of each chapter, or of the whole file."""
    path = LIBRARY / name
    if path.suffix == ".pdf":
        with pymupdf.open(path) as document:
            return [page.get_text() for page in document]
    if path.suffix == ".epub":
        with zipfile.ZipFile(path) as archive:
            chapters = sorted(entry for entry in archive.namelist() if "chapter" in entry)
            texts = [archive.read(entry).decode("utf-8") for entry in chapters]
        return [html.unescape(re.sub(r"<[^>]+>", "", text)) for text in texts]
    return [path.read_bytes().decode(ENCODINGS.get(name, "utf-8"))]


@functools.cache
def squeezed(name: str, part: int | None = None) -> str:
    texts = pages(name)
    return squeeze("".join(texts if part is None else texts[part - 1 : part]))


def squeeze(text: str) -> str:
    # A PDF breaks lines anywhere and has ligatures.
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", text))


def language(name: str) -> str:
    text = re.sub(r"<[^>]+>", "", "".join(pages(name)))
    letters = Counter(unicodedata.name(char, "?").split()[0] for char in text if char.isalpha())
    if letters["HANGUL"] > len(text) / 5:
        return "ko"
    if letters["HIRAGANA"] + letters["KATAKANA"] > len(text) / 10:
        return "ja"
    scripts = {"CJK": "zh", "CYRILLIC": "ru", "ARABIC": "ar"}
    most = letters.most_common(1)[0][0]
    if most in scripts:
        return scripts[most]
    return max(TELLTALES, key=lambda lang: len(re.findall(TELLTALES[lang], text)))


def test_it_has_enough_small_files_of_every_kind() -> None:
    assert 45 <= len(FILES) <= 55
    sizes = [path.stat().st_size for path in FILES]
    assert max(sizes) < 200_000
    assert sum(sizes) < 1_500_000
    kinds = Counter(path.suffix for path in FILES)
    assert kinds[".html"] >= 2
    assert kinds[".pdf"] == 2
    assert kinds[".epub"] == 1
    assert {".py", ".ts", ".go", ".rs", ".c", ".sql", ".js", ".sh", ".md", ".txt"} <= set(kinds)


def test_every_language_has_at_least_four_files_besides_the_code() -> None:
    found = Counter(language(name) for name in NAMES if not name.startswith("code/"))
    assert set(found) == LANGUAGES
    assert min(found.values()) >= 4, found


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_old_encodings_are_real(name: str) -> None:
    data = (LIBRARY / name).read_bytes()
    with pytest.raises(UnicodeDecodeError):
        data.decode("utf-8")
    assert data.startswith(codecs.BOM_UTF16_LE) == (ENCODINGS[name] == "utf-16")


def test_code_parses() -> None:
    for path in FILES:
        if path.suffix == ".py":
            compile(path.read_bytes(), path, "exec")


def test_there_are_questions_in_every_language_and_about_every_file() -> None:
    assert len(QUESTIONS) >= 60
    assert {question["lang"] for question in QUESTIONS} == LANGUAGES
    assert {question["path"] for question in QUESTIONS} == set(NAMES)
    prose = [question for question in QUESTIONS if not question["path"].startswith("code/")]
    crossing = [question for question in prose if question["lang"] != language(question["path"])]
    assert len(crossing) > 0.9 * len(prose)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["query"])
def test_the_expected_passage_is_in_the_file(question: dict[str, Any]) -> None:
    part = question.get("page", question.get("chapter"))
    expected = squeeze(question["expect"])
    assert expected
    assert expected in squeezed(question["path"], part)
    assert question["path"].endswith(".pdf") == ("page" in question)
    if "symbol" in question:
        assert re.search(rf"\b{question['symbol']}\b", "".join(pages(question["path"])))


def test_one_example_for_each_language_whose_answer_is_in_another() -> None:
    examples = CONTENT["examples"]
    assert sorted(example["lang"] for example in examples) == sorted(LANGUAGES)
    for example in examples:
        assert example["query"].strip() == example["query"] != ""
        assert language(example["path"]) != example["lang"]


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_sample", ROOT / "packaging" / "build_sample.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_build_script_makes_the_committed_files(builder: ModuleType, tmp_path: Path) -> None:
    built = builder.build(tmp_path)
    assert {path.suffix for path in built} == {".pdf", ".epub"}
    for path in built:
        committed = LIBRARY / path.relative_to(tmp_path)
        if path.suffix == ".epub":
            with zipfile.ZipFile(path) as new, zipfile.ZipFile(committed) as old:
                assert new.namelist() == old.namelist()
                assert all(new.read(entry) == old.read(entry) for entry in old.namelist())
            continue
        with pymupdf.open(path) as new, pymupdf.open(committed) as old:
            assert new.get_toc() == old.get_toc()
            assert [page.get_text() for page in new] == [page.get_text() for page in old]


def test_building_twice_gives_the_same_bytes(builder: ModuleType, tmp_path: Path) -> None:
    first = builder.build(tmp_path / "first")
    second = builder.build(tmp_path / "second")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_page_that_is_too_long_is_refused(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "long.html").write_text("<p>word</p>" * 200, encoding="utf-8")
    monkeypatch.setattr(builder, "SOURCES", tmp_path)
    with pytest.raises(ValueError, match="too long"):
        builder.build_manual(builder.Manual("long.html", "long.pdf", "Long", "en"), tmp_path)


def test_the_epub_begins_with_its_kind() -> None:
    data = (LIBRARY / "reading" / "the-tide-clock.epub").read_bytes()
    assert data[30:58] == b"mimetypeapplication/epub+zip"
    with pymupdf.open(stream=data, filetype="epub") as book:
        assert book.chapter_count >= 4
        assert [title for _, title, _ in book.get_toc()][-1] == "4. Letters"
