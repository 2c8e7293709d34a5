"""Sentences and languages."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.segment import language, sentences


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    "expected",
    [
        ["It rains.", "We stay at home!", "Do you?", "Yes…", "Then go."],
        ["Use a tool, e.g. a hammer, or i.e. this.", "Dr. Smith and J. K. Rowling agree."],
        ["Das gilt z. B. für Wasser usw. und Öl.", "Am 3. Oktober ist frei.", "Danach nicht."],
        ["Version 3.14 costs 1.50 euros.", "See https://example.org/a.b?c=d! for more.", "Good."],
        ["Wait... there is more.", "«Vraiment ?»", "Oui."],
        ["Идёт дождь.", "Мы живём на ул. Ленина.", "Правда?"],
        ["Βρέχει σήμερα.", "Γιατί;", "Δεν ξέρω."],
        ["أين الكتاب؟", "إنه هنا."],
        ["यह एक वाक्य है।", "यह दूसरा है।"],
        ['He said "Stop!" and left.', '"Why?" she asked.', "(Nobody knew.)", "End."],
    ],
    ids=[
        "plain",
        "english",
        "german",
        "numbers",
        "ellipsis",
        "russian",
        "greek",
        "arabic",
        "hindi",
        "quotes",
    ],
)
def test_sentences(expected: list[str]) -> None:
    assert split(" ".join(expected)) == expected


def test_chinese_and_japanese_need_no_spaces() -> None:
    assert split("今天下雨。我们在家！你呢？“好。”他说。") == [
        "今天下雨。",
        "我们在家！",
        "你呢？",
        "“好。”",
        "他说。",
    ]
    assert split("雨です。「はい。」と言った。") == ["雨です。", "「はい。」", "と言った。"]


def test_wrapped_lines_go_on_and_items_do_not() -> None:
    text = (
        "This paragraph was wrapped by an editor at\nforty or fifty columns and goes on here\nto its end.\n\n"
        "- first item\n- second item that is\n  wrapped as well\n1. numbered\n2. too"
    )
    assert split(text) == [
        "This paragraph was wrapped by an editor at\nforty or fifty columns and goes on here\nto its end.",
        "- first item",
        "- second item that is\n  wrapped as well",
        "1. numbered",
        "2. too",
    ]


def test_short_lines_are_sentences_of_their_own() -> None:
    log = "10:01 started\n10:02 a much longer line about what the program was doing then\n10:03 ended"
    assert split(log) == log.split("\n")


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from(" \n.!?。;:\"')1aA-\ud800\u200d"))))
def test_sentences_cover_every_text(text: str) -> None:
    spans = sentences(text)
    at = 0
    for start, end in spans:
        assert at <= start < end <= len(text)
        assert text[at:start].strip() == ""
        assert not text[start].isspace()
        assert not text[end - 1].isspace()
        at = end
    assert text[at:].strip() == ""


@pytest.mark.parametrize(
    "part", ["a", "字", "a ", ". ", "\n", "a\n", "。", '"', "...!?", "z. B. ", "- ", " ", "1. a\n", ".a"]
)
def test_sentences_take_linear_time(part: str) -> None:
    started = time.process_time()
    sentences(part * (1_000_000 // len(part)))
    assert time.process_time() - started < 12


SAMPLES = {
    "en": "The kernel keeps a list of all processes that are waiting for the disk.",
    "de": "Der Kern führt eine Liste aller Prozesse, die auf die Festplatte warten.",
    "fr": "Le noyau tient une liste de tous les processus qui attendent le disque.",
    "es": "El núcleo mantiene una lista de todos los procesos que esperan al disco.",
    "pt": "O núcleo mantém uma lista de todos os processos que estão à espera do disco.",
    "it": "Il kernel tiene un elenco di tutti i processi che sono in attesa del disco.",
    "ru": "Ядро хранит список всех процессов, которые ждут диска.",
    "uk": "Ядро зберігає перелік усіх процесів, які чекають на диск.",
    "ar": "تحتفظ النواة بقائمة بجميع العمليات التي تنتظر القرص.",
    "hi": "कर्नेल उन सभी प्रक्रियाओं की सूची रखता है जो डिस्क की प्रतीक्षा कर रही हैं।",
    "zh": "内核保存着所有正在等待磁盘的进程的列表。",
    "ja": "カーネルは、ディスクを待っているすべてのプロセスの一覧を保持します。",
    "ko": "커널은 디스크를 기다리는 모든 프로세스의 목록을 유지합니다.",
    "th": "เคอร์เนลเก็บรายการของกระบวนการทั้งหมด",
    "el": "Ο πυρήνας διατηρεί μια λίστα με όλες τις διεργασίες.",
    "he": "הליבה שומרת רשימה של כל התהליכים הממתינים לדיסק.",
}


@pytest.mark.parametrize("code", SAMPLES)
def test_language(code: str) -> None:
    assert language(SAMPLES[code]) == code


def test_traditional_and_simplified_are_both_chinese() -> None:
    assert language("核心保存著所有正在等待磁碟的程序的清單。") == "zh"
    assert language("用 apt-get install vim 命令安装软件包。") == "zh"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "42",
        "x = f(y)",
        "\ud800\udfff\0",
        "https://example.org/some/long/path/to/a/page.html",
        "OK",
        "😀" * 50,
    ],
)
def test_language_unknown(text: str) -> None:
    assert language(text) == ""


def test_language_of_two_halves_is_unknown() -> None:
    assert language(SAMPLES["ru"] + SAMPLES["en"]) == ""


@settings(max_examples=50)
@given(st.text())
def test_language_takes_any_text(text: str) -> None:
    code = language(text)
    assert code == "" or (len(code) == 2 and code.isalpha())


def test_the_model_comes_from_the_package_and_not_from_the_network() -> None:
    program = (
        "import sys\n"
        "def refuse(event, args):\n"
        "    if event.startswith('socket.') and event != 'socket.gethostname':\n"
        "        raise RuntimeError(event)\n"
        "sys.addaudithook(refuse)\n"
        "from indexer.segment import language\n"
        f"assert language({SAMPLES['fr']!r}) == 'fr'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
