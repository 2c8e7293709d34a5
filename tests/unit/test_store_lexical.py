"""The lexical index through the store's door: what is found by its words, and what keeps it right."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from indexer.analysis import occurrences, query_terms
from indexer.api import Locator
from indexer.document import Chunk
from indexer.errors import FileError
from indexer.store import FileUpdate, ModelKey, Store
from indexer.store.database import Database
from indexer.store.lexical import TABLES, phrase
from indexer.store.schema import MIGRATIONS, SCHEMA_VERSION

ROOT = "/library"
VECTOR = np.ones(4, np.float32)


def update(path: str, *texts: str, lang: str = "en", context: str = "", title: str = "") -> FileUpdate:
    return FileUpdate(
        path=path,
        root=ROOT,
        size=1,
        mtime_ns=1,
        content=os.urandom(16),
        media="text",
        code_language=None,
        title=title,
        chunks=tuple(
            Chunk(start=0, end=len(t), text=t, locator=Locator(), lang=lang, tokens=1, context=context)
            for t in texts
        ),
    )


def put(store: Store, *updates: FileUpdate) -> None:
    store.replace(updates, {c.text_hash: VECTOR for u in updates for c in u.chunks})


def opened(folder: Path) -> Store:
    store = Store(folder)
    store._use_chroma = False
    store.use_model(ModelKey("test", 4))
    return store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    library = opened(tmp_path / "data")
    library.add_root(ROOT)
    yield library
    assert library.check() == []
    library.close()


def texts(store: Store, query: str) -> set[str]:
    """Texts that have every term of the query, in whatever form."""
    found: set[int] | None = None
    for match in store.lexical(query_terms(query)).matches:
        if match.term.whole < 0:
            here = set(match.texts.tolist()) | set(match.near.tolist())
            found = here if found is None else found & here
    return _texts(store, found or set())


def _texts(store: Store, ids: set[int]) -> set[str]:
    with store._catalog.read() as db:
        rows = db.ask("SELECT DISTINCT text_id, text FROM chunks")
    return {text for number, text in rows if number in ids}


def files(store: Store, query: str) -> set[str]:
    """Names of the files whose name, folders or title have every term of the query."""
    matches = [m for m in store.lexical(query_terms(query)).matches if m.term.whole < 0]
    found = set.intersection(*(set(m.files.tolist()) for m in matches)) if matches else set()
    with store._catalog.read() as db:
        rows = db.ask("SELECT id, path FROM files")
    return {Path(os.fsdecode(path)).name for number, path in rows if number in found}


# What is asked for, what has it, what does not.
PROBES = [
    ("安装", "如何安装软件包", "装修安全"),
    ("软件包", "请安装软件包。", "软件和面包"),
    ("学", "他在北京大学读书", "他在读书"),
    ("大学", "北京大学", "大家学习"),
    ("資料庫", "關聯式資料庫管理系統", "資料與倉庫"),
    ("データベース", "このデータベースを使う", "データとベース"),
    ("設定", "ネットワークの設定ファイル", "設計の定義"),
    ("ひらがな", "ひらがなで書く", "カタカナで書く"),
    ("ﾃﾞｰﾀ", "データを保存する", "保存する"),
    ("ภาษาไทย", "เขาเรียนภาษาไทยทุกวัน", "เขาเรียนทุกวัน"),
    ("ข้อมูล", "ฐานข้อมูลขนาดใหญ่", "ขนาดใหญ่มาก"),
    ("ພາສາລາວ", "ຂ້ອຍຮຽນພາສາລາວ", "ຂ້ອຍຮຽນ"),
    ("ភាសាខ្មែរ", "ខ្ញុំរៀនភាសាខ្មែរ", "ខ្ញុំរៀន"),
    ("မြန်မာ", "ကျွန်တော်မြန်မာစာဖတ်တယ်", "ကျွန်တော်ဖတ်တယ်"),
    ("데이터베이스", "관계형데이터베이스를 사용한다", "데이터를 사용한다"),
    ("데이터를", "데이터가 많다", "데이트가 많다"),
    ("학교", "우리학교에서 배운다", "우리 학원에서 배운다"),
    ("kündigung", "Die Kündigungsfrist beträgt drei Monate", "Die Frist endet"),
    ("Kündigungsfrist", "Bei Kündigung gilt eine Frist von drei Monaten", "Bei Kündigung gilt nichts"),
    ("Rechtsschutz", "Eine Rechtsschutzversicherung lohnt sich", "Eine Versicherung lohnt sich"),
    ("mueller", "Herr Müller ist da", "Herr Maier ist da"),
    ("Strasse", "In dieser Straße wohnt niemand", "In dieser Stadt"),
    ("Verträge", "Der Vertrag wurde unterzeichnet", "Der Betrag wurde bezahlt"),
    ("applies", "They apply the patch", "They appear patched"),
    ("сервера", "Настройка сервером почты", "Настройка почты"),
    ("елка", "Новогодняя ёлка", "Новогодний бал"),
    ("cafe", "Un café noir", "Un cape noir"),
    ("café", "the cafe on the corner", "the cave on the corner"),
    ("Łódź", "hotel w lodz centrum", "hotel w centrum"),
    ("homme", "C’est l’homme idéal", "C’est la femme"),
    ("مكتبة", "ذهبت إلى مَكْتَبَةٍ كبيرة", "ذهبت إلى كبيرة"),
    ("हिन्दी", "मैं हिन्दी सीखता हूँ", "मैं सीखता हूँ"),
    ("getUserName", "name = self.get_user_name()", "user, get a name"),
    ("getusername", "call getUserName(x)", "call getUser(name)"),
    ("user name", "def getUserName(): pass", "def getGroup(): pass"),
    ("foo.getUserName", "self.foo.getUserName()", "foo and getUserName"),
    ("ERR_CONN_RESET", "failed: ERR_CONN_RESET (-101)", "err: the conn had no reset"),
    ("E1234", "compiler says error[E1234]: mismatch", "error[E1235] at line 1234"),
    ("0x80070005", "Error 0x80070005: access denied", "Error 0x80070006"),
    ("3.2.1", "since version 3.2.1 of it", "in 3, 21 and 32.1"),
    ("/etc/fstab", "edit /etc/fstab first", "etc. and the fstab"),
    ("apt-get", "run apt-get update", "get the apt repository"),
    ("utf-8", "encoding=utf8", "utf and others"),
    ("C++", "templates in C++ are", "templates in C are"),
    ("std::vector", "use std::vector here", "a vector in std form"),
    ("email", "Send an E-Mail to us", "Send a letter mail"),
    ("ﬁle", "open the file", "open the fire"),
]


@pytest.mark.parametrize(("query", "hit", "miss"), PROBES, ids=[probe[0] for probe in PROBES])
def test_probe(store: Store, query: str, hit: str, miss: str) -> None:
    put(store, update("/library/a", hit), update("/library/b", miss))
    assert texts(store, query) == {hit}
    # What was found can be shown.
    matches = store.lexical(query_terms(query)).matches
    wanted = [match.term for match in matches]
    marked = {number for _, _, number in occurrences(hit, wanted)}
    assert {number for number, term in enumerate(wanted) if term.whole < 0} <= marked


def test_names_folders_and_titles_count(store: Store) -> None:
    put(
        store,
        update("/library/Steuer 2024/Rechnung_ACME-4711.pdf", "x"),
        update("/library/src/fooBar.py", "y"),
        update("/library/z.txt", "z", title="Die Verwandlung"),
        update("/library/北京大学.md", "w"),
    )
    assert files(store, "Rechnung_ACME-4711.pdf") == {"Rechnung_ACME-4711.pdf"}
    assert files(store, "acme") == {"Rechnung_ACME-4711.pdf"}
    assert files(store, "steuer 2024") == {"Rechnung_ACME-4711.pdf"}
    assert files(store, "foobar.py") == {"fooBar.py"}
    assert files(store, "foo_bar") == {"fooBar.py"}
    assert files(store, "Verwandlung") == {"z.txt"}
    assert files(store, "大学") == {"北京大学.md"}
    assert files(store, "library") == set()  # above the root everything is the same


def test_headings_count(store: Store) -> None:
    put(store, update("/library/a", "body", context="Chapter on whales"), update("/library/b", "else"))
    assert texts(store, "whales") == {"body"}


def test_names_follow_every_change(store: Store) -> None:
    put(store, update("/library/old/alpha.txt", "x"), update("/library/beta.txt", "y"))
    store.move("/library/old", "/library/fresh", ROOT)
    assert files(store, "old") == set()
    assert files(store, "fresh") == {"alpha.txt"}
    store.remove(["/library/beta.txt"])
    assert files(store, "beta") == set()
    store.fail("/library/fresh/alpha.txt", ROOT, 1, 1, FileError(Path("x"), "a", "b"))
    assert files(store, "alpha") == set()
    put(store, update("/library/fresh/alpha.txt", "x", title="gamma"))
    assert files(store, "gamma") == {"alpha.txt"}
    store.remove_root(ROOT)
    assert files(store, "alpha") == set()


def test_only_texts_in_use_are_found_and_counted(store: Store) -> None:
    put(store, update("/library/a", "walrus one", "walrus two"), update("/library/b", "walrus one"))
    found = store.lexical(query_terms("walrus"))
    assert found.matches[0].df == {"en": 2}
    assert found.sizes == {"en": 2}
    put(store, update("/library/a", "walrus two"))
    store.remove(["/library/b"])
    found = store.lexical(query_terms("walrus"))
    assert _texts(store, set(found.matches[0].texts.tolist())) == {"walrus two"}
    assert found.matches[0].df == found.sizes == {"en": 1}
    put(store, update("/library/b", "walrus one"))  # comes back without being analysed again
    assert store.lexical(query_terms("walrus")).matches[0].df == {"en": 2}


def test_places_used_again_keep_nothing_of_what_was_there(store: Store) -> None:
    put(store, update("/library/a", "walrus", lang="fr"))
    put(store, update("/library/a", "penguin", lang="de"))
    store._catalog.collect(older_than_s=0)
    put(store, update("/library/a", "heron", lang="es"))
    store._catalog.collect(older_than_s=0)
    found = store.lexical(query_terms("walrus penguin heron"))
    assert [match.df for match in found.matches] == [{}, {}, {"es": 1}]
    assert found.sizes == {"es": 1}


def test_frequencies_are_by_language(store: Store) -> None:
    put(
        store,
        update("/library/a", "debian eins", "debian zwei", lang="de"),
        update("/library/b", "debian one", lang="en"),
        update("/library/c", "import debian", lang="code"),
        update("/library/d", "nothing", lang="en"),
    )
    found = store.lexical(query_terms("debian"))
    assert found.matches[0].df == {"de": 2, "en": 1, "code": 1}
    assert found.sizes == {"de": 2, "en": 2, "code": 1}
    ids = found.matches[0].texts
    assert ids.dtype == np.int64
    assert (np.diff(ids) > 0).all()


def test_common_terms_are_counted_and_not_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.store.lexical._COMMON_LEAST", 10)
    put(store, update("/library/a", *(f"the number{i}" for i in range(40))))
    match = store.lexical(query_terms("the")).matches[0]
    assert match.common
    assert len(match.texts) == 0
    assert match.df == {"en": 40}
    put(store, update("/library/b", *(f"the letter{i}" for i in range(40)), lang="de"))
    assert store.lexical(query_terms("the")).matches[0].df == {"en": 40, "de": 40}


def test_a_large_library_is_surveyed_behind_the_search(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.store.lexical._AT_ONCE", 0)
    put(store, update("/library/a", "Kündigungsfrist"))
    store.lexical(query_terms("kündigung"))
    with store._catalog.lexicon._survey_lock:  # held by the survey until it ends
        pass
    assert texts(store, "kündigung") == {"Kündigungsfrist"}
    put(store, update("/library/b", "Kündigungsschutz"))
    assert texts(store, "kündigung") == {"Kündigungsfrist", "Kündigungsschutz"}


def test_nothing_is_found_for_no_words_or_unknown_ones(store: Store) -> None:
    assert store.lexical(query_terms("whatever")).matches[0].df == {}
    put(store, update("/library/a", "one"))
    assert store.lexical(query_terms("?!")).matches == ()
    assert store.bm25(query_terms("?!"), 3) == []
    assert texts(store, 'x" OR one') == set()


def test_bm25_prefers_what_has_more_of_the_rare_words(store: Store) -> None:
    put(
        store, update("/library/a", "the heron and the walrus", "the heron", "the fish", "the sea", "the end")
    )
    best = store.bm25(query_terms("heron walrus"), 2)
    assert [_texts(store, {row.text}) for row in best] == [{"the heron and the walrus"}, {"the heron"}]
    assert best[0].score > best[1].score > 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("well known author", {"the well-known author"}),
        ("the well", {"the well-known author"}),
        ("author known", set()),
        ("Über Wale", {"body"}),
        ("notes.txt", {"the well-known author", "body", "北京大学"}),
        ("京大", {"北京大学"}),
        ("学", {"北京大学"}),
        ("北大", set()),
        ('"quoted', set()),
    ],
)
def test_phrase(store: Store, words: str, expected: set[str]) -> None:
    put(
        store,
        update("/library/notes.txt", "the well-known author", "北京大学"),
    )
    put(store, update("/library/more notes.txt", "body", context="Alles über Wale"))
    condition, args = phrase(words)
    with store._catalog.read() as db:
        rows = db.ask(f"SELECT text FROM chunks JOIN files ON files.id = chunks.file WHERE {condition}", args)
    assert {row[0] for row in rows} == expected


def test_a_phrase_without_words_is_no_condition() -> None:
    assert phrase("?!") == ("", [])


def test_an_old_library_is_filled_on_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    db = Database(str(folder / "catalog.sqlite"))
    before = MIGRATIONS.index(TABLES)
    for migration in MIGRATIONS[:before]:
        db.execute(migration)
    db.execute("INSERT INTO meta VALUES('identity', 'x'), ('clean', 1)")
    db.execute("INSERT INTO roots(id, path) VALUES(1, ?)", (b"/library",))
    db.execute(
        "INSERT INTO files(id, path, root, size, mtime_ns, content, status, chunks)"
        " VALUES(1, ?, 1, 1, 1, x'', 'indexed', 5)",
        (b"/library/heron.txt",),
    )
    for number in range(5):
        text_hash = hashlib.blake2b(b"Birds\nwalrus %d" % number, digest_size=16).digest()
        db.execute("INSERT INTO texts VALUES(?, ?, NULL)", (number, text_hash))
        db.execute(
            "INSERT INTO chunks(file, slot, text_id, start, end, lang, locator, context, text)"
            " VALUES(1, ?, ?, 0, 1, 'en', '{}', 'Birds', ?)",
            (number, number, f"walrus {number}"),
        )
    db.execute("INSERT INTO texts VALUES(9, x'99', 1.0)")
    db.pragma("user_version", before)
    db.close()

    monkeypatch.setattr("indexer.store.lexical._FILL", 2)
    store = Store(folder)  # without a model: nothing is embedded
    assert store.check() == []
    found = store.lexical(query_terms("walrus birds heron"))
    assert [match.df for match in found.matches] == [{"en": 5}, {"en": 5}, {}]
    assert found.matches[2].files.tolist() == [1]
    store.close()
    db = Database(str(folder / "catalog.sqlite"))
    assert db.pragma("user_version") == SCHEMA_VERSION
    db.close()


def test_a_filling_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    store = opened(tmp_path / "data")
    store.add_root(ROOT)
    put(store, update("/library/a", *(f"walrus {i}" for i in range(6))))
    store.close()
    db = Database(str(tmp_path / "data" / "catalog.sqlite"))
    db.execute("DELETE FROM text_terms WHERE rowid > 3; DELETE FROM file_terms")
    db.execute("INSERT INTO meta VALUES('unanalysed', 1)")
    db.close()
    store = opened(tmp_path / "data")
    assert store.check() == []
    assert store.lexical(query_terms("walrus")).matches[0].df == {"en": 6}
    store.close()


def test_check_names_what_is_wrong(store: Store) -> None:
    put(store, update("/library/a", "walrus"))
    with store._catalog.write() as (db, _):
        db.execute("DELETE FROM text_terms; DELETE FROM file_terms")
        db.execute("INSERT INTO text_terms(rowid, body) VALUES(77, 'x')")
        db.execute("INSERT INTO file_terms(rowid, name) VALUES(78, 'x')")
    assert store.check() == [
        "texts in use without their words: 1",
        "words of no text: 1",
        "indexed files without the words of their names: 1",
        "words of names of no indexed file: 1",
    ]
    with store._catalog.write() as (db, _):
        db.execute("DELETE FROM text_terms; DELETE FROM file_terms")
        store._catalog.lexicon.put_text(db, db.ask("SELECT id FROM texts")[0][0], "walrus", "", "en")
        db.execute("UPDATE files SET title = 'new'")


def test_a_failed_write_leaves_no_words(store: Store) -> None:
    put(store, update("/library/a", "walrus"))
    bad = update("/library/b", "penguin", "heron")
    with pytest.raises(ValueError, match="no vector"):
        store.replace([bad], {bad.chunks[0].text_hash: VECTOR})
    found = store.lexical(query_terms("penguin walrus"))
    assert [match.df for match in found.matches] == [{}, {"en": 1}]
    assert found.sizes == {"en": 1}


@pytest.mark.parametrize("seed", range(4))
def test_any_history_ends_in_the_right_counts(store: Store, seed: int) -> None:
    """Random changes; then what is counted is what a look at every chunk counts."""
    dice = random.Random(seed)
    words = ["walrus", "heron", "naïve", "大学", "getName", "E42"]
    paths = [f"/library/{folder}/{name}.txt" for folder in ("x", "y") for name in words]
    for _ in range(60):
        path, other = dice.sample(paths, 2)
        match dice.randrange(7):
            case 0 | 1 | 2:
                written = [" ".join(dice.choices(words, k=2)) for _ in range(dice.randrange(4))]
                put(store, update(path, *written, lang=dice.choice(["en", "de"]), title=dice.choice(words)))
            case 3:
                store.move(path, other, ROOT)
            case 4:
                store.remove([path])
            case 5:
                store._catalog.collect(older_than_s=0)
            case _:
                store.move("/library/x", "/library/y", ROOT)
    assert store.check() == []
    with store._catalog.read() as db:
        rows = db.ask("SELECT DISTINCT text_id, text FROM chunks")
        titles = db.ask("SELECT id, path, title FROM files WHERE status = 'indexed'")
    found = store.lexical(query_terms(" ".join(words)))
    assert sum(found.sizes.values()) == len(rows)
    for match in found.matches:
        if match.term.whole < 0:
            word = match.term.word
            wanted = {number for number, text in rows if word in text.split() or word in text}
            assert set(match.texts.tolist()) == wanted
            assert sum(match.df.values()) == len(wanted)
            named = {n for n, path, title in titles if word in os.fsdecode(path) or word in title}
            assert set(match.files.tolist()) == named


def test_closing_does_not_wait_for_a_survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.store.lexical._AT_ONCE", 0)
    library = opened(tmp_path / "data")
    library.add_root(ROOT)
    put(library, *(update(f"/library/{n}", *(f"walrus{n * 100 + i}" for i in range(100))) for n in range(20)))
    library.lexical(query_terms("walrus"))
    library.close()
    assert library._catalog.lexicon._survey_lock.acquire(timeout=10)
