"""The training of the bundled model's adapter: manuals parsed alike in all languages, and pairs of them."""

from __future__ import annotations

import gzip
import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def corpus(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "packaging"))
    return importlib.import_module("adapter_corpus")


@pytest.fixture
def training(corpus: ModuleType) -> ModuleType:
    return importlib.import_module("train_adapter")


MANUAL = r"""'\" t
.\" A comment
.TH LS 1 "September 2022" "GNU" "Dienstprogramme"
.SH BEZEICHNUNG
ls \- Verzeichnisinhalte auflisten
.SH BESCHREIBUNG
.PP
Auflistung von \fBInformationen\fP über die \fIDATEIen\fP (Standardvorgabe
ist das aktuelle Verzeichnis); siehe auch
.BR stat (1).
.TP
.B \-a, \-\-all
Einträge nicht ignorieren, die mit \(bu beginnen
.TS
ein Bild aus Zeichen, das nichts bedeutet und lang genug wäre
.TE
.SH "SIEHE AUCH"
stat(1)
"""


def test_a_manual_page_gives_its_description_and_paragraphs(corpus: ModuleType) -> None:
    text = corpus.manual_page(MANUAL.encode())
    assert text.title == "Verzeichnisinhalte auflisten"
    assert [paragraph for _, paragraph in text.paragraphs] == [
        "Auflistung von Informationen über die DATEIen (Standardvorgabe ist das aktuelle Verzeichnis); "
        "siehe auch stat(1).",
        "-a, --all Einträge nicht ignorieren, die mit • beginnen",
    ]
    assert corpus.manual_page(MANUAL.encode("latin-1")) == text
    assert corpus.manual_page(b".so man1/ls.1\n") is None
    assert corpus.manual_page(b".Dd 1999\n.Sh NAME\n") is None


def test_pages_of_help_give_sections_with_lasting_names(corpus: ModuleType) -> None:
    page = "<h1 id='hd_1'>Linguistik</h1><p id='par_1'>Legt die <b>Eigenschaften</b> fest.</p>"
    page += "<p>Werbung ohne Kennung</p>"
    page += "<h2 id='hd_2'>Module</h2><p id='par_2'>Zeigt die installierten Sprachmodule.</p>"
    assert [(name, text.title, text.paragraphs) for name, text in corpus.office_page(page.encode())] == [
        ("hd_1", "Linguistik", (("par_1", "Legt die Eigenschaften fest."),)),
        ("hd_2", "Module", (("par_2", "Zeigt die installierten Sprachmodule."),)),
    ]
    mallard = """<page xmlns="http://projectmallard.org/1.0/"><info><desc>同じキーを二度押したとき無視します。</desc></info>
      <title>バウンスキー</title><p>short</p><steps><item><p>設定を開いてアクセシビリティを選びます。</p></item></steps>
      <section id="more"><title>詳細</title><p>もう一度押すと元の設定に戻ります。</p></section></page>"""
    assert [(name, text.title, text.paragraphs) for name, text in corpus.mallard_page(mallard.encode())] == [
        (
            "",
            "バウンスキー",
            (
                ("desc", "同じキーを二度押したとき無視します。"),
                ("2", "設定を開いてアクセシビリティを選びます。"),
            ),
        ),
        ("/more", "詳細", (("1", "もう一度押すと元の設定に戻ります。"),)),
    ]


def test_sections_are_found_in_unpacked_packages(corpus: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "usr/share/libreoffice/help").mkdir(parents=True)
    (tmp_path / "usr/share/help").mkdir()
    english = MANUAL.replace("Verzeichnisinhalte auflisten", "list directory contents")
    english = english.replace("Auflistung von", "List of").replace(
        "Einträge nicht ignorieren", "Do not ignore entries"
    )
    pages = {"": english, "de": MANUAL, "fr": english}
    for lang, page in pages.items():
        folder = tmp_path / "usr/share/man" / lang / "man1"
        folder.mkdir(parents=True)
        (folder / "ls.1.gz").write_bytes(gzip.compress(page.encode()))
    (section,) = corpus.sections(tmp_path)
    assert (section.source, section.page) == ("man", "ls.1.gz")
    assert {lang: text.title for lang, text in section.texts.items()} == {
        "en": "list directory contents",
        "de": "Verzeichnisinhalte auflisten",
    }, "the French page was not translated"


def test_pairs_match_and_come_again_with_the_same_seed(corpus: ModuleType, training: ModuleType) -> None:
    texts = {
        lang: {
            number: corpus.Text(
                f"{lang} title of {number}",
                tuple((str(at), f"{lang} text {number}.{at}. " * 6) for at in range(4)),
                "4",
            )
            for number in range(120)
        }
        for lang in ("en", "de", "ja", "fr", "xx")
    }
    found = [
        corpus.Section(source, f"{source}{number}", "", {lang: texts[lang][number] for lang in texts})
        for source in ("man", "lo", "gnome")
        for number in range(120)
    ]
    pairs = training.Pairs(found, 7)
    batch = pairs.batch(40, 0.3)
    assert len({pair.topic for pair in batch}) == len(batch) == 40
    for pair in batch:
        number = pair.topic.strip("manloge#")
        assert pair.query.startswith(f"{pair.asked} ")
        assert f"{pair.answered} text {number}." in pair.passage
        assert f" {number}" in pair.query
        assert "xx" not in (pair.asked, pair.answered)
    assert 3 <= sum(pair.asked == pair.answered for pair in batch) <= 25
    assert len({pair.answered for pair in batch}) > 1
    assert training.Pairs(found, 7).batch(40, 0.3) == batch
    assert training.Pairs(found, 8).batch(40, 0.3) != batch
    held_out = training.Pairs(found, 7, held_out=True)
    pages = [
        {section.page for group in drawn.sections.values() for section in group}
        for drawn in (pairs, held_out)
    ]
    assert pages[0].isdisjoint(pages[1])
    assert len(pages[0] | pages[1]) == len(found)
