"""Words of many languages brought to English stems, with the lexicons that are shipped."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import FatalError
from indexer.lexicon import save_concepts, save_lexicon, stem
from indexer.pivot import (
    LEXICONS,
    NO_GLOSS,
    Concepts,
    Pivot,
    lexical_terms,
    opened,
    pivot,
    usage,
)
from indexer.rank import concepts

_ENDINGS = ("y", "al", "ing", "ed", "ation", "s", "ies", "er", "able", "ive", "ization")


def shared(query: str, passages: list[tuple[str, str]]) -> list[float]:
    """What each passage (text, language) has of a query's concepts."""
    stored = [pivot().passage(lexical_terms(text), lang) for text, lang in passages]
    found = opened(stored)
    asked = pivot().query(query, pivot().languages_of(query, ""))
    evidence: list[float] = concepts(asked, found, len(passages), usage(found, len(passages))).tolist()
    return evidence


# Two matters in each language: copies that are kept safe, and printers.
BACKUP = [
    ("Copy your files to an external disk every week, so that a broken computer costs no work.", "en"),
    ("Kopieren Sie Ihre Dateien jede Woche auf eine externe Festplatte.", "de"),
    ("Copiez vos fichiers chaque semaine sur un disque externe.", "fr"),
    ("Copie seus arquivos para um disco externo toda semana.", "pt"),
    ("每周将文件复制到外部磁盘。", "zh"),
    ("毎週、ファイルを外部ディスクにコピーしてください。", "ja"),
    ("Каждую неделю копируйте файлы на внешний диск.", "ru"),
]
PRINTER = [
    ("The printer shows a message when there is no paper left.", "en"),
    ("Der Drucker zeigt eine Meldung, wenn kein Papier mehr da ist.", "de"),
    ("L'imprimante affiche un message quand il n'y a plus de papier.", "fr"),
    ("A impressora mostra uma mensagem quando não há mais papel.", "pt"),
    ("打印机没有纸时会显示一条消息。", "zh"),
    ("用紙がなくなると、プリンターにメッセージが表示されます。", "ja"),
    ("Принтер показывает сообщение, когда закончилась бумага.", "ru"),
]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("copy files to an external disk", BACKUP),
        ("Dateien auf eine externe Festplatte kopieren", BACKUP),
        ("将文件复制到外部磁盘", BACKUP),
        ("ファイルを外部ディスクにコピー", BACKUP),
        ("imprimante sans papier", PRINTER),
        ("打印机纸张", PRINTER),
        ("бумага в принтере", PRINTER),
    ],
)
def test_what_is_about_a_query_has_more_of_it_in_every_language(
    query: str, wanted: list[tuple[str, str]]
) -> None:
    found = shared(query, [*BACKUP, *PRINTER])
    right = found[:7] if wanted is BACKUP else found[7:]
    wrong = found[7:] if wanted is BACKUP else found[:7]
    assert min(right) > max(wrong)


def test_code_is_found_by_what_its_names_mean() -> None:
    functions = [
        ("def copy_files(source, target):\n    shutil.copytree(source, target)", "code"),
        ("def print_page(paper):\n    printer.send(paper)", "code"),
    ]
    copied, printed = shared("文件复制", functions)
    assert copied > printed
    copied, printed = shared("Seite drucken", functions)
    assert printed > copied


def test_the_language_of_a_short_query_is_told_by_its_words() -> None:
    told = {
        "Permessi per gruppi di utenti": "it",
        "Dateien auf die Festplatte kopieren": "de",
        "copier les fichiers sur le disque": "fr",
        "Permissions for groups of users": "en",
        "copiar los archivos al disco": "es",
    }
    for text, lang in told.items():
        odds = pivot().languages_of(text, "")
        assert max(odds, key=lambda name: odds[name]) == lang
        assert sum(odds.values()) == pytest.approx(1)
    assert pivot().languages_of("文件", "zh") == {"zh": 1.0}
    assert pivot().languages_of("", "") == {}
    # What nobody knows is in no language, least of all for sure in English.
    assert pivot().languages_of("Blorfenkrump", "") == {}
    # A language without a lexicon is none of the others.
    assert pivot().languages_of("Habari za asubuhi", "sw") == {}


def test_a_query_is_glossed_word_by_word_and_english_is_left_alone() -> None:
    gloss = pivot().gloss("将文件复制到外部磁盘", {"zh": 1.0})
    assert {"file", "copy", "external", "disk"} <= set(gloss.text.split())
    assert 0.5 < gloss.sure <= 1
    for text, lang in (
        ("copy files", "en"),
        ("?!", "de"),
        ("der die das", "de"),
        ("的", "zh"),
        ("Datei", "de"),
    ):
        assert pivot().gloss(text, {lang: 1.0}) == NO_GLOSS
    assert pivot().gloss("copy files", {}) == NO_GLOSS
    assert pivot().gloss("Dateien auf der Platte", {"de": 0.5, "nl": 0.5}) == NO_GLOSS


def test_unknown_compounds_are_taken_apart() -> None:
    # Nobody wrote these in what the lexicons learnt from.
    gloss = pivot().gloss("Druckerverschlüsselung", {"de": 1.0}).text.split()
    assert {"printer", "encryption"} <= set(gloss)
    gloss = pivot().gloss("プリンターフォルダー", {"ja": 1.0}).text.split()
    assert {"printer", "folder"} <= set(gloss)


def test_a_word_that_english_has_is_english() -> None:
    # All of these are also words of other languages, which have them much more often.
    for word in ("pasta", "oven", "visa", "dog", "court", "die hard"):
        odds = pivot().languages_of(word, "", {"en", "fr", "de"})
        assert pivot().gloss(word, odds).text == "", word
    for word in ("pasta", "visa", "dog"):
        odds = pivot().languages_of(word, "")
        assert pivot().gloss(word, odds).text == "", word


def test_words_in_chinese_characters_may_be_japanese_where_there_is_any() -> None:
    assert pivot().languages_of("請求書", "zh") == {"zh": 1.0}
    odds = pivot().languages_of("自動車保険", "zh", {"ja", "en"})
    assert max(odds, key=lambda name: odds[name]) == "ja"


def test_unknown_words_are_in_no_small_language() -> None:
    german = "Der Drucker druckt die Datei auf das Papier und die Festplatte ist voll. "
    made_up = " ".join(
        f"ver{chr(97 + n % 26)}{n // 26:b}x".replace("0", "q").replace("1", "z") for n in range(40)
    )
    odds = pivot().languages_of(german + made_up, "")
    assert max(odds, key=lambda name: odds[name]) == "de"


def test_stems_are_right_in_many_threads() -> None:
    words = [f"{start}{end}" for start in ("arm", "nation", "install", "relat") for end in _ENDINGS] * 40
    expected = {word: stem(word) for word in words}
    wrong: list[str] = []

    def work() -> None:
        try:
            wrong.extend(word for word in words if stem(word) != expected[word])
        except IndexError as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_endless_word_is_no_compound() -> None:
    # Each of them took all memory, or a minute.
    for endless in ("ア" * 300_000, "donau" * 60_000):
        for lang in ("de", "ja"):
            pivot().passage(lexical_terms(endless), lang)
            pivot().passage([endless], lang)


def test_names_stand_for_themselves_in_every_language() -> None:
    named, other = shared(
        "iproute2", [("Das Paket iproute2 ist dabei.", "de"), ("Das Paket ist dabei.", "de")]
    )
    assert named > other


def test_inflected_forms_meet() -> None:
    assert stem("installing") == stem("installation") == stem("installed")
    assert stem("ext4") == "ext4"
    one, other = shared("installing packages", [("Package installation", "en"), ("Printing paper", "en")])
    assert one > other


def test_how_often_a_concept_is_there_is_kept_roughly() -> None:
    passage = opened([pivot().passage(["file"] * 5 + ["disk"], "en")])
    weights = dict(zip(passage.ids.tolist(), passage.weights.tolist(), strict=True))
    assert sorted(weights.values()) == pytest.approx([1, 5], rel=0.25)


@given(st.text(max_size=200), st.sampled_from(["en", "de", "ja", "zh", "ko", "th", "code", ""]))
def test_any_text_has_concepts(text: str, lang: str) -> None:
    stored = pivot().passage(lexical_terms(text), lang)
    found = opened([stored, b""])
    assert (np.diff(found.ids.astype(np.int64)) > 0).all()
    assert (found.weights > 0).all()
    asked = pivot().query(text, pivot().languages_of(text, ""))
    assert ((asked.weights > 0) & (asked.weights <= 1)).all()
    pivot().gloss(text, {lang: 1.0})


def test_damaged_bytes_of_a_row_are_survived() -> None:
    row = pivot().passage(lexical_terms("Copy the files"), "en")
    assert len(opened([row[:-1]]).ids) == len(opened([row]).ids) - 1


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "en.npz").write_bytes(save_concepts(["house", "boat"], [10, 3]))
    meanings = {"haus": [(0, 0.9)], "boot": [(1, 0.8), (0, 0.1)]}
    content = save_lexicon(meanings, {"haus": 7, "boot": 2})
    assert content == save_lexicon(dict(reversed(meanings.items())), {"haus": 7, "boot": 2})
    (tmp_path / "de.npz").write_bytes(content)
    small = Pivot(tmp_path)
    assert small.languages == {"de", "en"}
    assert small.query("Boot am Haus", {"de": 1.0}).ids.tolist()[:2] == [0, 1]
    asked = small.query("boot", {"de": 1.0})
    assert asked.ids.tolist() == [0, 1]
    assert asked.weights[1] > asked.weights[0] > 0
    # Houses in English are the same concept.
    assert small.query("houses", {"en": 1.0}).ids.tolist() == [0]


def test_after_a_rest_all_is_as_before() -> None:
    resting = Pivot()
    resting.load()
    before = resting.gloss("Drucker ohne Papier", {"de": 1.0})
    assert resting.loaded
    resting.rest()
    assert not resting.loaded
    assert resting.gloss("Drucker ohne Papier", {"de": 1.0}) == before


def test_what_is_made_during_a_rest_is_the_same() -> None:
    resting, found = Pivot(), lexical_terms("Der Drucker hat kein Papier mehr.")
    expected = resting.passage(found, "de")
    ended = threading.Event()

    def rest() -> None:
        while not ended.is_set():
            resting.rest()

    thread = threading.Thread(target=rest)
    thread.start()
    try:
        assert {resting.passage(found, "de") for _ in range(40)} == {expected}
    finally:
        ended.set()
        thread.join()


def test_another_lexicon_has_another_key(tmp_path: Path) -> None:
    shutil.copytree(LEXICONS, tmp_path / "lexicons")
    assert Pivot(tmp_path / "lexicons").key == pivot().key
    (tmp_path / "lexicons" / "de.npz").unlink()
    assert Pivot(tmp_path / "lexicons").key != pivot().key


@pytest.mark.parametrize("content", [b"", b"no archive", save_concepts(["a"], [1])])
def test_a_damaged_lexicon_is_told(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copy(LEXICONS / "en.npz", tmp_path)
    (tmp_path / "de.npz").write_bytes(content)
    with caplog.at_level("ERROR"):
        damaged = Pivot(tmp_path)
        damaged.load()
    assert "lexicon is damaged" in caplog.text
    assert damaged.key
    # That language is then one without a lexicon, and the others are as they were.
    assert damaged.gloss("Datei auf der Platte", {"de": 1.0}) == NO_GLOSS
    assert damaged.query("Datei", {"de": 1.0}).ids.tolist()
    assert damaged.query("files", {"en": 1.0}).ids.tolist() == pivot().query("file", {"en": 1.0}).ids.tolist()


def test_without_english_there_are_no_concepts(tmp_path: Path) -> None:
    (tmp_path / "en.npz").write_bytes(b"")
    with pytest.raises(FatalError, match="lexicon is damaged"):
        Pivot(tmp_path).query("file", {"en": 1.0})


def test_nothing_is_evidence_of_nothing() -> None:
    nothing = opened([])
    empty = Concepts(np.zeros(0, np.uint32), np.zeros(0, np.float32))
    assert concepts(empty, nothing, 3, usage(nothing, 0)).tolist() == [0, 0, 0]
    asked = pivot().query("file", {"en": 1.0})
    assert concepts(asked, opened([b"", b""]), 2, usage(nothing, 0)).tolist() == [0, 0]
