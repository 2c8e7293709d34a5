"""The training of the lexicons: catalogues and manuals brought to pairs, and what is learnt from pairs."""

from __future__ import annotations

import gzip
import importlib
import itertools
import json
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from indexer.lexicon import stem
from indexer.pivot import Pivot

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def corpus(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "packaging"))
    return importlib.import_module("lexicon_corpus")


@pytest.fixture
def training(corpus: ModuleType) -> ModuleType:
    return importlib.import_module("train_lexicon")


def compiled(entries: Sequence[tuple[str, str]], order: str = "<", charset: str = "UTF-8") -> bytes:
    """A catalogue as msgfmt writes it."""
    head = ("", f"Language: de\nContent-Type: text/plain; charset={charset}\n")
    coded = [(name.encode(charset), text.encode(charset)) for name, text in sorted([head, *entries])]
    data = struct.pack(f"{order}7I", 0x950412DE, 0, len(coded), 28, 28 + 8 * len(coded), 0, 0)
    at = 28 + 16 * len(coded)
    places, texts = b"", b""
    for column in zip(*coded, strict=True):
        for text in column:
            places += struct.pack(f"{order}2I", len(text), at + len(texts))
            texts += text + b"\0"
    return data + places + texts


# --- catalogues -----------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("charset", ["UTF-8", "ISO-8859-1"])
def test_a_catalogue_gives_its_entries(corpus: ModuleType, order: str, charset: str) -> None:
    entries = [
        ("Save", "Speichern"),
        ("menu\x04Open", "Öffnen"),
        ("%d file\0%d files", "%d Datei\0%d Dateien"),
    ]
    assert sorted(corpus.catalogue(compiled(entries, order, charset))) == [
        ("%d file", "%d Datei"),
        ("%d file", "%d Dateien"),
        ("Open", "Öffnen"),
        ("Save", "Speichern"),
    ]


def test_what_is_no_catalogue_is_refused(corpus: ModuleType) -> None:
    whole = compiled([("Save", "Größe")])
    for damaged in (b"", b"PK\x03\x04", whole[:20], whole[:30], whole.replace(b"UTF-8", b"UTF-9")):
        with pytest.raises(ValueError, match=r"catalogue|cut off|encoding"):
            list(corpus.catalogue(damaged))
    with pytest.raises(ValueError, match="codec"):
        list(
            corpus.catalogue(
                compiled([("Save", "Größe")], "<", "ISO-8859-1").replace(b"ISO-8859-1", b"UTF-8     ")
            )
        )


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("ファイル(&F)", "ファイル"),
        ("檔案 ( _F )...", "檔案..."),
        ("Save _As", "Save As"),
        ("E&xit", "Exit"),
        ("~Datei", "Datei"),
        ("<b>Size</b>: %1$s of %-5.2lf", "Size : of"),
        ("50% der Größe", "50% der Größe"),
        ("{0} files in ${folder} and $(ARG1)", "files in and"),
        ("About %PRODUCTNAME %1", "About"),
        ("&lt;i&gt;Never&lt;/i&gt; &amp; always", "Never & always"),
        ("%(name)s is not\\na  file", "is not a file"),
        ("The variable file_name may hold the name of one file only", None),
    ],
)
def test_texts_of_programs_are_cleaned(corpus: ModuleType, text: str, plain: str | None) -> None:
    assert corpus.clean(text) == (text if plain is None else plain)


def test_entries_that_teach_nothing_are_left_out(corpus: ModuleType) -> None:
    assert corpus.useful("_Open", "Ö_ffnen") == ("Open", "Öffnen")
    assert corpus.useful("Enter your name", "Name") is not None
    for english, other in (
        ("translator-credits", "Jemand"),
        ("_: NAME OF TRANSLATORS\nYour names", "Jemand"),
        ("Yes", "Yes"),
        ("Yes", "_Yes"),
        ("Yes", ""),
        ("%s", "%s:"),
        ("One.\n\nTwo.", "Eins."),
        ("no " * 200, "nein"),
    ):
        assert corpus.useful(english, other) is None


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="packages are read with dpkg-deb")
def test_a_package_gives_what_its_catalogues_say(corpus: ModuleType, tmp_path: Path) -> None:
    files = {
        "DEBIAN/control": b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\n"
        b"Description: x\n",
        "usr/share/locale/de/LC_MESSAGES/x.mo": compiled([("_Open", "Ö_ffnen")]),
        "usr/share/locale/zh_HK/LC_MESSAGES/x.mo": compiled([("_Open", "開啟(_O)")]),
        "usr/share/locale/en_GB/LC_MESSAGES/x.mo": compiled([("Color", "Colour")]),
        "usr/share/locale/fr/LC_MESSAGES/x.mo": b"damaged",
        "usr/share/locale/fr/LC_TIME/x.mo": compiled([("May", "mai")]),
    }
    for name, content in files.items():
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(content)
    archive = tmp_path / "x_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", tmp_path / "x", archive], check=True, capture_output=True)
    assert sorted(corpus.said(archive)) == [("de", ("Open", "Öffnen")), ("zh", ("Open", "開啟"))]


def test_packages_are_chosen_by_their_languages(corpus: ModuleType) -> None:
    locales = ("de", "es", "fr", "it", "ja", "pt_BR", "ru", "zh_CN", "zh_TW")
    spoken = [f"usr/share/locale/{name}/LC_MESSAGES/{{}}.mo   {{}}" for name in locales]
    lines = [
        *(line.format("gedit", "gnome/gedit-common,contrib/gnome/other") for line in spoken),
        *(line.format("apt", "admin/apt") for line in spoken),
        *(line.format("menulibre", "x11/menulibre") for line in spoken),
        *(line.format("menu", "admin/menu") for line in spoken),
        *(line.format("few", "utils/few") for line in spoken[1:]),
        *(line.format(n, "utils/parts") for n, line in enumerate(spoken)),
        "usr/share/doc/gedit/a b.mo   gnome/gedit-common",
    ]
    assert corpus.chosen(lines) == {"gedit-common", "other", "menulibre"}


@pytest.mark.parametrize(
    ("locale", "lang"),
    [
        *(("pt_BR", "pt"), ("zh-TW", "zh"), ("zh_HK", "zh"), ("nb", "no"), ("nn", "no"), ("sr@latin", "sr")),
        *(("de", "de"), ("en_GB", ""), ("en@quot", ""), ("eo", ""), ("", "")),
    ],
)
def test_locales_are_brought_to_languages(corpus: ModuleType, locale: str, lang: str) -> None:
    assert corpus.language_of(locale) == lang


# --- manuals --------------------------------------------------------------------------------


def test_manuals_are_paired_by_sentence(corpus: ModuleType) -> None:
    def text(title: str, *paragraphs: str, shape: str = "2") -> object:
        return corpus.adapter_corpus.Text(title, tuple(enumerate(paragraphs)), shape)

    texts = {
        "en": text("Folders", "Open it. Close it.", "One: two."),
        "de": text("Ordner", "Öffne ihn. Schließe ihn.", "Eins."),
        "zh-CN": text("文件夹", "打开它。关闭它。", "一：二。"),
        "fr": text("Dossiers", "Ouvrez-le.", shape="1"),
        "es": text("Folders", "Open it. Ciérrelo."),
        "eo": text("Dosierujoj", "Malfermu ĝin."),
    }
    section = corpus.Section("kde", "page", "id", texts)
    alone = corpus.Section("kde", "page", "id", {"de": texts["de"], "fr": texts["fr"]})
    assert list(corpus.told([section, alone])) == [
        ("de", ("Folders", "Ordner")),
        ("de", ("Open it.", "Öffne ihn.")),
        ("de", ("Close it.", "Schließe ihn.")),
        ("de", ("One: two.", "Eins.")),
        ("zh", ("Folders", "文件夹")),
        ("zh", ("Open it.", "打开它。")),
        ("zh", ("Close it.", "关闭它。")),
        ("zh", ("One:", "一：")),
        ("zh", ("two.", "二。")),
        ("fr", ("Folders", "Dossiers")),
        ("es", ("Close it.", "Ciérrelo.")),
    ]


def test_what_a_book_says_is_not_learnt(corpus: ModuleType) -> None:
    book = "Nobody will ever read this sentence of nine words."
    books = corpus.adapter_books.runs(book, "en")
    assert corpus._overlaps((f"As I said, {book}", "Nein"), "de", books)
    assert corpus._overlaps(("No", book), "de", books)
    assert not corpus._overlaps(("Nobody will ever read this", "Nein"), "de", books)


# --- learning -------------------------------------------------------------------------------

_VERBS = {"Open": "öffnen", "Save": "speichern", "Close": "schließen", "Print": "drucken", "Find": "suchen"}
_NOUNS = {"files": "Datei", "folders": "Ordner", "windows": "Fenster", "pictures": "Bild", "folder": "Ordner"}
PAIRS = [
    (f"{verb} the {noun}", f"{_NOUNS[noun]} {_VERBS[verb]}")
    for verb, noun in itertools.product(_VERBS, _NOUNS)
]


def kept(work: Path, **languages: Sequence[tuple[str, str]]) -> None:
    """Pairs as `collect` leaves them."""
    (work / "pairs").mkdir(parents=True)
    for lang, found in languages.items():
        lines = "".join(json.dumps(pair) + "\n" for pair in found)
        (work / "pairs" / f"{lang}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))


def test_the_right_translations_are_learnt(training: ModuleType) -> None:
    learnt = training.train(PAIRS, "de")
    assert learnt.pairs == len(PAIRS)
    assert {term: several[0][0] for term, several in learnt.meanings.items()} == {
        **{other.replace("ö", "o").replace("ß", "ss"): stem(verb.lower()) for verb, other in _VERBS.items()},
        **{other.lower(): stem(noun) for noun, other in _NOUNS.items()},
    }
    assert learnt.meanings["ordner"][0][1] > 0.5
    assert learnt.uses["datei"] == 5
    assert learnt.uses["ordner"] == 10
    assert learnt.english["folder"] == 10
    assert learnt.forms["folders"] == 5


def test_rare_words_are_not_learnt(training: ModuleType) -> None:
    learnt = training.train([*PAIRS, ("Window", "Luke"), ("Windows", "Luke")], "de")
    assert "luke" not in learnt.meanings
    assert training.train([], "de").meanings == {}


def test_compounds_in_katakana_are_divided(training: ModuleType) -> None:
    texts = [
        *["ファイル"] * 10,
        *["システム"] * 10,
        "ﾌｧｲﾙシステムの型",
        *["デスクトップ"] * 20,
        *["デスク", "トップ"] * 10,
    ]
    divide = training.katakana_divider(texts)
    assert divide("ﾌｧｲﾙシステムの型") == "ファイル システムの型"
    assert divide("デスクトップの型") == "デスクトップの型"
    assert divide("ファイルン") == "ファイルン"


def test_lexicons_are_written_and_read(
    training: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "FEWEST_PAIRS", len(PAIRS))
    kept(tmp_path, de=[*PAIRS, *PAIRS], fr=PAIRS[:3])

    def made(out: Path, *more: str) -> dict[str, bytes]:
        arguments = ["train_lexicon.py", "--work", str(tmp_path), "--out", str(out), "--languages", *more]
        monkeypatch.setattr("sys.argv", arguments)
        training.main()
        return {file.name: file.read_bytes() for file in out.iterdir()}

    first = made(tmp_path / "one", "de", "fr")
    assert sorted(first) == ["de.npz", "en.npz"]
    # What was learnt has been kept, so the pairs are not needed; and it comes to the same anew.
    (tmp_path / "pairs").rename(tmp_path / "away")
    assert made(tmp_path / "two", "de") == first
    (tmp_path / "away").rename(tmp_path / "pairs")
    shutil.rmtree(tmp_path / "trained")
    assert made(tmp_path / "two", "fr", "de") == first

    pivot = Pivot(tmp_path / "one")
    assert pivot.languages == {"de", "en"}
    meant = pivot.query("Ordner öffnen", {"de": 1.0})
    likely = set(meant.ids[meant.weights > 0.5].tolist())
    assert likely == set(pivot.query("open folder", {"en": 1.0}).ids.tolist())
    assert pivot.languages_of("Bild und Ordner", "")["de"] > 0.9
    asked = pivot.query("Ordner?", {"de": 1.0})
    answer = pivot.query("folder", {"en": 1.0})
    assert asked.ids[asked.weights.argmax()] == answer.ids[0]

    (tmp_path / "one" / "ja.npz").touch()
    with pytest.raises(SystemExit, match="lexicons of ja"):
        made(tmp_path / "one", "de")


def test_rarer_words_are_left_out_of_a_large_file(
    training: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt = training.train([*PAIRS, *[(f"Window {n}", "Luke") for n in range(3)]], "de")
    assert "luke" in learnt.meanings
    larger = training.pack({"de": learnt})["de"]
    monkeypatch.setattr(training, "_LARGEST_FILE", len(larger) - 1)
    assert len(training.pack({"de": learnt})["de"]) < len(larger)
