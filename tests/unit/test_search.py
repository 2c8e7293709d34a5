"""A query's way, with a real store and encoder thread, and an encoder of a known mind."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from indexer import api, rank, search
from indexer.api import Locator, Task
from indexer.document import Chunk
from indexer.embed import EncoderInfo, Vectors
from indexer.embed.thread import EncoderThread
from indexer.errors import FatalError, IndexerError
from indexer.query import Condition
from indexer.search import Searcher, WordSearcher
from indexer.segment import sentences
from indexer.store import FileUpdate, ModelKey, Pool, Store, StoredChunk

DIM = 96
ROOT = "/library"
# What the encoder understands: words of the same meaning, wherever they stand.
MEANINGS = (
    ("cat", "katze", "猫", "feline"),
    ("boiler", "heizkessel", "锅炉"),
    ("train", "zug", "火车"),
    ("coffee", "kaffee", "咖啡"),
    ("harbour", "hafen", "港口"),
    ("deviation", "spread", "abweichung"),
)


def seeded(name: str) -> npt.NDArray[np.float32]:
    seed = int.from_bytes(
        hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
    found = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    scaled: npt.NDArray[np.float32] = found / np.linalg.norm(found)
    return scaled


def vector(text: str) -> npt.NDArray[np.float32]:
    """The meanings in a text, and a little of the text itself."""
    lower = text.lower()
    found = 0.4 * seeded(text)
    for words in MEANINGS:
        if any(word in lower for word in words):
            found = found + seeded(words[0])
    scaled: npt.NDArray[np.float32] = found / np.linalg.norm(found)
    return scaled


class Mind:
    """The encoder. With `gate` cleared it waits; what it was given is kept."""

    info = EncoderInfo(key="test", name="test", dim=DIM, max_tokens=500, tokenizer=Path("none"))
    device = "cpu"

    def __init__(self) -> None:
        self.queries: list[str] = []
        self.passages: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.working = threading.Event()
        self.broken = False

    def encode_queries(self, texts: Sequence[str], task: Task = "notes") -> Vectors:
        self.queries += texts
        self.working.set()
        assert self.gate.wait(30)
        return np.stack([vector(text) for text in texts])

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        self.passages += texts
        if self.broken:
            raise RuntimeError("the device is gone")
        return np.stack([vector(text) for text in texts])


def update(path: str, *texts: str, lang: str = "en", content: bytes = b"", at: int = 1) -> FileUpdate:
    chunks, start = [], 0
    for text in texts:
        chunks.append(
            Chunk(start=start, end=start + len(text), text=text, locator=Locator(), lang=lang, tokens=5)
        )
        start += len(text) + 2
    return FileUpdate(
        path=f"{ROOT}/{path}",
        root=ROOT,
        size=len(texts),
        mtime_ns=at * 1_000_000_000,
        content=content or hashlib.blake2b(path.encode(), digest_size=16).digest(),
        media="code" if lang == "code" else "text",
        code_language="python" if lang == "code" else None,
        title="",
        chunks=tuple(chunks),
    )


def put(store: Store, *updates: FileUpdate) -> None:
    texts = {c.text_hash: c.text for u in updates for c in u.chunks}
    store.replace(updates, {h: vector(texts[h]) for h in store.missing(texts)})


LIBRARY = (
    update("cat.txt", "The cat goes to the vet. It sleeps all day.", at=10),
    update("katze.txt", "Die Katze schläft auf dem Sofa.", lang="de", at=20),
    update("猫.txt", "我们的猫每年去兽医那里打疫苗。", lang="zh", at=30),
    update("boiler.md", "Nothing here. Bleed the boiler with the brass key! Call 0171 otherwise.", at=40),
    update("de/zug.txt", "Der Zug nach Wien fährt um neun.", lang="de", at=50),
    update("de/kaffee.txt", "Kaffee kochen. Fehler 0x80070005 bei der Kaffeemaschine.", lang="de", at=60),
    update("stats.py", "def standard_deviation(values):\n    return spread(values)", lang="code", at=70),
    *(update(f"filler/{n}.txt", f"Filler number {n} about some other thing.", at=n) for n in range(80, 120)),
)


@pytest.fixture
def mind() -> Mind:
    return Mind()


@pytest.fixture
def encoder(mind: Mind) -> Iterator[EncoderThread]:
    thread = EncoderThread(lambda: mind)
    thread.start()
    yield thread
    mind.gate.set()
    thread.stop()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(Store, "_use_chroma", False)
    opened = Store(tmp_path / "data")
    opened.use_model(ModelKey("test", DIM))
    opened.add_root(ROOT)
    put(opened, *LIBRARY)
    yield opened
    opened.close()


@pytest.fixture
def searcher(store: Store, encoder: EncoderThread) -> Searcher:
    return Searcher(store, encoder)


@pytest.fixture
def literal(store: Store, encoder: EncoderThread) -> Searcher:
    """One for which words count more than this encoder's chance likenesses."""
    return Searcher(store, encoder, options=rank.Options(words=10.0))


_ids = itertools.count(1)


async def answers(searcher: Searcher, query: str, **more: object) -> list[api.SearchResult]:
    request = api.Search(id=next(_ids), query=query, **more)  # type: ignore[arg-type]
    return [result async for result in searcher.search(request)]


def ask(searcher: Searcher, query: str, **more: object) -> api.SearchResult:
    """The last answer."""
    results = asyncio.run(answers(searcher, query, **more))
    assert [result.final for result in results] == [False] * (len(results) - 1) + [True]
    for result in results:
        sane(result.hits)
    return results[-1]


def sane(hits: Sequence[api.Hit]) -> None:
    for hit in hits:
        assert 0 <= hit.similarity <= 1, "and no NaN"
        shown = [passage.similarity for passage in hit.passages]
        assert max(shown) == shown[0] == hit.similarity
        for passage in hit.passages:
            assert np.isfinite([passage.why.cosine, passage.why.meaning, passage.why.words]).all()
            for start, end in (*passage.words, *([passage.mark] if passage.mark else [])):
                assert 0 <= start < end <= len(passage.text)
    assert len({hit.path for hit in hits}) == len(hits)


def names(hits: Sequence[api.Hit]) -> list[str]:
    return [hit.path.removeprefix(f"{ROOT}/") for hit in hits]


# --- what is found --------------------------------------------------------------------------


def test_words_of_another_language_find_and_are_shown(store: Store, searcher: Searcher) -> None:
    put(
        store,
        update("disk.txt", "Every week I copy all my files to an external disk."),
        update("platte.txt", "Die Festplatte ist voll.", lang="de"),
        update("copy.py", "def copy_files(source, disk): pass", lang="code"),
    )
    found = ask(searcher, "把文件复制到外部磁盘", limit=60)
    # This encoder knows none of these words: their meaning is all there is.
    assert names(found.hits)[0] == "disk.txt"
    assert {"copy.py", "platte.txt"} <= set(names(found.hits))
    shown = {name: hit.passages[0] for name, hit in zip(names(found.hits), found.hits, strict=True)}
    marked = {name: {p.text[a:b] for a, b in p.words} for name, p in shown.items()}
    assert {"copy", "files", "external", "disk"} <= marked["disk.txt"]
    assert marked["platte.txt"] == {"Festplatte"}
    assert "disk" in marked["copy.py"]
    assert shown["platte.txt"].why.terms == ("festplatte",)
    assert shown["disk.txt"].why.words > shown["platte.txt"].why.words > 0


def test_a_query_is_asked_with_its_gloss_beside_it(searcher: Searcher, mind: Mind) -> None:
    ask(searcher, "把文件复制到外部磁盘")
    assert mind.queries[0] == "把文件复制到外部磁盘"
    assert {"file", "copy", "external", "disk"} <= set(mind.queries[1].split())
    mind.queries.clear()
    ask(searcher, "copy the files to an external disk")
    assert mind.queries == ["copy the files to an external disk"]


def test_without_concepts_and_gloss_neither_counts(store: Store, encoder: EncoderThread, mind: Mind) -> None:
    put(store, update("disk.txt", "Every week I copy all my files to an external disk."))
    plain = Searcher(store, encoder, options=rank.Options(concepts=0.0, gloss=0.0))
    found = ask(plain, "把文件复制到外部磁盘", limit=50)
    assert mind.queries == ["把文件复制到外部磁盘"]
    assert not any(passage.words for hit in found.hits for passage in hit.passages)


def test_the_meaning_finds_it_in_every_language(searcher: Searcher) -> None:
    found = ask(searcher, "feline", limit=3)
    assert set(names(found.hits)) == {"cat.txt", "katze.txt", "猫.txt"}


def test_the_hits_come_at_once_and_then_with_their_sentence_and_words(searcher: Searcher) -> None:
    first, last = asyncio.run(answers(searcher, "brass key of the boiler", limit=4))
    assert not first.final
    assert last.final
    assert names(first.hits) == names(last.hits)
    assert first.hits[0].path.endswith("boiler.md")
    assert first.hits[0].passages[0].mark is None
    passage = last.hits[0].passages[0]
    assert passage.mark is not None
    assert passage.text[slice(*passage.mark)] == "Bleed the boiler with the brass key!"
    assert {passage.text[a:b] for a, b in passage.words} >= {"boiler", "brass", "key"}
    assert set(passage.why.terms) >= {"boiler", "brass", "key"}
    assert passage.why.words > 0
    assert 0 < last.encode_ms <= last.took_ms


def test_without_marks_the_first_answer_is_the_last(searcher: Searcher, mind: Mind) -> None:
    (only,) = asyncio.run(answers(searcher, "boiler", mark=False))
    assert only.final
    assert only.hits
    assert mind.passages == []


@pytest.mark.parametrize("query", ["", "   ", "\n\t", '""'])
def test_nothing_asked_is_nothing_found_at_once(searcher: Searcher, mind: Mind, query: str) -> None:
    (only,) = asyncio.run(answers(searcher, query))
    assert (only.final, only.hits) == (True, ())
    assert mind.queries == []


def test_an_error_number_is_found_to_the_letter_in_any_language(literal: Searcher) -> None:
    found = ask(literal, "0x80070005", limit=3)
    assert names(found.hits)[0] == "de/kaffee.txt"
    assert found.hits[0].passages[0].why.terms == ("0x80070005",)


def test_two_chinese_characters_and_a_part_of_a_compound_are_found(literal: Searcher) -> None:
    assert names(ask(literal, "疫苗", limit=3).hits)[0] == "猫.txt"
    assert names(ask(literal, "Maschine", limit=3).hits)[0] == "de/kaffee.txt"


def test_the_name_of_a_file_finds_it(literal: Searcher) -> None:
    assert names(ask(literal, "stats.py", limit=3).hits)[0] == "stats.py"


def test_either_side_of_or_is_found_and_marked_by_itself(searcher: Searcher, mind: Mind) -> None:
    found = ask(searcher, "vet feline OR brass boiler", limit=10)
    assert sorted(mind.queries) == ["brass boiler", "vet feline"]
    top = names(found.hits)[:4]
    assert {"cat.txt", "boiler.md"} <= set(top)
    by_name = dict(zip(names(found.hits), found.hits, strict=True))
    for name, sentence in (("cat.txt", "The cat goes"), ("boiler.md", "Bleed the boiler")):
        passage = by_name[name].passages[0]
        assert passage.mark is not None
        assert passage.text[slice(*passage.mark)].startswith(sentence)
    assert "brass" not in by_name["cat.txt"].passages[0].why.terms


def test_filters_alone_list_the_newest_first_and_embed_nothing(searcher: Searcher, mind: Mind) -> None:
    found = ask(searcher, "lang:de")
    assert names(found.hits) == ["de/kaffee.txt", "de/zug.txt", "katze.txt"]
    assert mind.queries == mind.passages == []
    assert not any(hit.weak for hit in found.hits)


def test_filters_folders_and_exclusions_narrow(searcher: Searcher) -> None:
    assert set(names(ask(searcher, "feline -sofa", limit=2).hits)) == {"cat.txt", "猫.txt"}
    below = ask(searcher, "feline", folders=(f"{ROOT}/de",))
    assert set(names(below.hits)) == {"de/zug.txt", "de/kaffee.txt"}
    both = ask(searcher, "feline ext:txt", folders=(f"{ROOT}/de/zug.txt", f"{ROOT}/stats.py"))
    assert names(both.hits) == ["de/zug.txt"]
    assert ask(searcher, "feline", folders=("/nowhere",)).hits == ()
    assert names(ask(searcher, '"auf dem Sofa"').hits) == ["katze.txt"]


def test_a_word_is_found_inside_a_filter_though_many_files_outside_have_it(
    store: Store, literal: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "NEAR", 8)
    put(store, *(update(f"log/{n}.txt", f"E4711 line {n}") for n in range(search.BY_WORDS + 10)))
    put(store, *(update(f"notes/{n}.md", f"Note {n} of no concern.") for n in range(400)))
    put(store, update("notes/one.md", "What we did about E4711 in the end."))
    assert names(ask(literal, "E4711 ext:md", limit=2).hits)[0] == "notes/one.md"


def test_a_phrase_that_nobody_has_is_told_and_hides_nothing(searcher: Searcher) -> None:
    found = ask(searcher, '"feline astronaut"', limit=3)
    assert found.hits
    assert found.problems


# --- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [-3, 0, 1, 7, 10**9])
def test_no_more_files_than_asked_for(searcher: Searcher, limit: int) -> None:
    found = ask(searcher, "filler feline", limit=limit)
    assert len(found.hits) == min(max(limit, 1), len(LIBRARY))


def test_no_more_passages_than_asked_for_and_the_best_first(store: Store, searcher: Searcher) -> None:
    put(store, update("long.txt", *(f"The cat of day {n}." for n in range(30))))
    for asked, shown in ((-1, 1), (1, 1), (4, 4), (999, search.MAX_PASSAGES)):
        hit = next(h for h in ask(searcher, "feline", passages=asked).hits if h.path.endswith("long.txt"))
        assert len(hit.passages) == shown
        levels = [p.similarity for p in hit.passages]
        assert levels == sorted(levels, reverse=True)


def test_a_file_of_many_passages_leaves_room_for_others(
    store: Store, searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "NEAR", 20)
    put(store, update("long.txt", *(f"The cat of day {n}." for n in range(300))))
    assert len(ask(searcher, "feline", limit=5).hits) == 5


# --- find similar -----------------------------------------------------------------------------


def test_what_is_similar_to_a_file_leaves_out_itself_and_its_copies(store: Store, searcher: Searcher) -> None:
    same = update("cat.txt").content
    put(store, update("copy/cat.txt", "The cat goes to the vet. It sleeps all day.", content=same))
    found = ask(searcher, "", like=api.Like(path=f"{ROOT}/cat.txt"), limit=2)
    assert set(names(found.hits)) == {"katze.txt", "猫.txt"}
    narrowed = ask(searcher, "lang:zh", like=api.Like(path=f"{ROOT}/cat.txt"))
    assert names(narrowed.hits) == ["猫.txt"]


def test_what_is_similar_to_a_passage_leaves_out_its_file(searcher: Searcher) -> None:
    chunk = ask(searcher, "boiler", limit=1).hits[0].passages[0].chunk
    found = ask(searcher, "", like=api.Like(chunk=chunk))
    assert found.hits
    assert "boiler.md" not in names(found.hits)


def test_what_is_similar_to_a_file_larger_than_all_that_is_looked_at(
    store: Store, searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "NEAR", 20)
    monkeypatch.setattr(store, "_use_chroma", False)
    put(store, update("book.txt", *(f"The cat, page {n}." for n in range(5000))))
    found = ask(searcher, "", like=api.Like(path=f"{ROOT}/book.txt"), limit=3)
    assert set(names(found.hits)) == {"cat.txt", "katze.txt", "猫.txt"}


def test_what_is_similar_to_a_text_of_any_length(searcher: Searcher, mind: Mind) -> None:
    assert set(names(ask(searcher, "", like=api.Like(text="cat"), limit=3).hits)) == {
        "cat.txt",
        "katze.txt",
        "猫.txt",
    }
    mind.passages.clear()
    pasted = "We looked after the harbour. " * 30_000
    asyncio.run(answers(searcher, "", like=api.Like(text=pasted), mark=False))
    assert 0 < len(mind.passages) <= search.MAX_PIECES


@pytest.mark.parametrize(
    "like", [api.Like(), api.Like(path="/nowhere"), api.Like(chunk=10**12), api.Like(text=" \n")]
)
def test_nothing_to_compare_with_is_said(searcher: Searcher, like: api.Like) -> None:
    with pytest.raises(IndexerError, match="Nothing to compare with"):
        ask(searcher, "", like=like)


# --- what says the same --------------------------------------------------------------------------


def test_copies_and_versions_are_folded_unless_not_wanted(store: Store, searcher: Searcher) -> None:
    pages = [f"The harbour at hour {n}, with {n} ships." for n in range(6)]
    put(store, update("a.txt", *pages), update("b.txt", *pages, content=update("a.txt").content))
    put(store, update("c.txt", *pages[:5], "The harbour changed."))
    found = ask(searcher, "harbour", limit=5)
    together = [hit for hit in found.hits if hit.variants]
    assert len(together) == 1
    kinds = {Path(variant.path).name: variant.kind for variant in together[0].variants}
    assert sorted([Path(together[0].path).name, *kinds]) == ["a.txt", "b.txt", "c.txt"]
    assert "copy" in kinds.values() or Path(together[0].path).name == "c.txt"
    assert "version" in kinds.values()
    assert all(p.words for variant in together[0].variants for p in variant.passages)
    apart = ask(searcher, "harbour", limit=3, fold=False)
    assert sorted(names(apart.hits)) == ["a.txt", "b.txt", "c.txt"]


def test_folded_files_do_not_take_the_place_of_others(store: Store, searcher: Searcher) -> None:
    page, content = "The cat walks in the harbour.", b"1" * 16
    put(store, *(update(f"same/{n}.txt", page, content=content) for n in range(6)))
    found = ask(searcher, "feline harbour", limit=4)
    assert len(found.hits) == 4
    assert len(found.hits[0].variants) == 5


def test_a_text_that_very_many_files_have_hides_no_other(store: Store, searcher: Searcher) -> None:
    page, content = "The cat may be copied under this licence.", b"2" * 16
    for first in range(0, 21_000, 3000):
        copies = (update(f"pkg{n}/LICENSE", page, content=content) for n in range(first, first + 3000))
        put(store, *copies)
    found = ask(searcher, "feline", limit=4)
    assert len(found.hits) == 4
    assert {"katze.txt", "猫.txt"} <= set(names(found.hits))
    assert 0 < max(len(hit.variants) for hit in found.hits) <= search.SHOWN_COPIES
    narrowed = ask(searcher, "feline in:pkg7", limit=4)
    assert names(narrowed.hits) == ["pkg7/LICENSE"]
    assert "katze.txt" in names(ask(searcher, "feline -lang:zh", limit=6).hits)


# --- odd questions ---------------------------------------------------------------------------------

ODD = [
    "?",
    "!!! ... ???",
    "😀",
    "😀🐈‍⬛👨‍👩‍👧",
    "\x00",
    "a\x00b",
    "\ud83d",
    "cat \udcff\ud800",
    "\u202e\u200b\ufeff",
    "猫",
    "x",
    "a" * 20_000,
    "猫" * 20_000,
    "cat " * 25_000,
    "\n" * 5000 + "cat",
    "(" * 5000,
    '"' * 4999,
    "ext:" * 3000,
    "cat OR " * 3000,
    "-" * 3000 + "cat",
    "def f(x):\n    return {k: v for k, v in x.items() if k != '__init__'}  # TODO",
    "SELECT * FROM x; DROP TABLE files; --",
    'NEAR(cat) AND "x" * ^ {text}: cat',
    "\u0e01\u0e33" * 300,
    "ᄀ" * 3000,
    "e\u0301" * 3000,
    "1" * 5000,
    "a_b" * 3000,
    "camelCase" * 3000,
]


@pytest.mark.parametrize("query", ODD, ids=range(len(ODD)))
def test_any_question_has_an_answer(searcher: Searcher, query: str) -> None:
    ask(searcher, query, limit=5)
    if query.strip():
        ask(searcher, "", like=api.Like(text=query), limit=5)


def test_a_pasted_text_of_five_hundred_words_finds_what_it_is_about(searcher: Searcher, mind: Mind) -> None:
    draw = random.Random(3)
    words = [draw.choice(["of", "the", "and", "to", "in", "that", "we", "had"]) for _ in range(500)]
    words[::40] = ["boiler"] * len(words[::40])
    found = ask(searcher, " ".join(words), limit=3)
    assert names(found.hits)[0] == "boiler.md"
    assert mind.queries == [], "it is no question"


def test_a_long_question_is_taken_apart_beside_the_loop(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[threading.Thread]] = {}

    def watched(name: str) -> None:
        real = getattr(search, name)

        def work(*args: object) -> object:
            seen.setdefault(name, set()).add(threading.current_thread())
            return real(*args)

        monkeypatch.setattr(search, name, work)

    for name in ("parse", "query_terms", "language", "_pieces", "occurrences"):
        watched(name)
    ask(searcher, "the cat went to the harbour " * 3000)
    assert set(seen) == {"parse", "query_terms", "language", "_pieces", "occurrences"}
    assert threading.current_thread() not in set.union(*seen.values())


# --- while things change ----------------------------------------------------------------------------


def test_passages_that_vanish_on_the_way_are_left_out(
    store: Store, searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.active.pool

    def pool(*args: object, **more: object) -> Pool:
        found = real(*args, **more)  # type: ignore[arg-type]
        store.remove([f"{ROOT}/cat.txt"])
        return found

    monkeypatch.setattr(store.active, "pool", pool)
    found = ask(searcher, "feline", limit=10)
    assert "cat.txt" not in names(found.hits)
    assert "katze.txt" in names(found.hits)


def test_everything_vanishing_on_the_way_is_nothing_found(
    store: Store, searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = store.chunks

    def chunks(ids: Sequence[int]) -> dict[int, StoredChunk]:
        store.remove_below(ROOT)
        return real(ids)

    monkeypatch.setattr(store, "chunks", chunks)
    assert ask(searcher, "feline").hits == ()
    assert ask(searcher, "feline").hits == (), "and so is an empty library"


def test_searching_while_files_are_written_and_removed(store: Store, searcher: Searcher) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for turn in itertools.count():
                if stop.is_set():
                    return
                put(store, update("moving.txt", *(f"The cat of turn {turn}, {n}." for n in range(12))))
                put(store, update(f"coming/{turn % 5}.txt", f"A feline {turn}."))
                store.remove([f"{ROOT}/coming/{(turn + 2) % 5}.txt"])
                if turn % 7 == 0:
                    store._catalog.collect(older_than_s=0)
        except BaseException as error:
            failures.append(error)
            raise

    async def read() -> None:
        for turn in range(12):
            several = (
                answers(searcher, "feline", limit=8),
                answers(searcher, f"cat turn {turn} ext:txt", limit=8),
                answers(searcher, "", like=api.Like(path=f"{ROOT}/cat.txt"), limit=8),
                answers(searcher, "feline OR boiler", limit=8),
            )
            for results in await asyncio.gather(*several):
                assert results[-1].final
                assert results[-1].hits
                for result in results:
                    sane(result.hits)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        asyncio.run(read())
    finally:
        stop.set()
        writer.join()
    assert failures == []
    assert store.check() == []


def test_searches_beside_one_another_mark_right_with_a_small_memory(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SENTENCE_CACHE", 2)
    alone = {q: ask(searcher, q).hits for q in ("vet", "brass key", "kochen", "sleeps")}

    async def together() -> None:
        asked = list(alone) * 6
        for query, results in zip(
            asked, await asyncio.gather(*(answers(searcher, query) for query in asked)), strict=True
        ):
            assert results[-1].hits == alone[query]

    asyncio.run(together())
    assert len(searcher._sentences) <= 2


# --- while there is no model ----------------------------------------------------------------------------


def loading(store: Store, load: Callable[[], Mind]) -> Iterator[Searcher]:
    thread = EncoderThread(load)
    thread.start()
    try:
        yield Searcher(store, thread)
    finally:
        thread.stop()


async def one_by_one(searcher: Searcher, query: str, between: Callable[[], None]) -> list[api.SearchResult]:
    results: list[api.SearchResult] = []
    async for result in searcher.search(api.Search(id=next(_ids), query=query)):
        if not results:
            between()
        results.append(result)
    return results


def test_the_words_answer_while_the_model_is_loading(store: Store, mind: Mind) -> None:
    ready = threading.Event()

    def load() -> Mind:
        assert ready.wait(30)
        return mind

    for searcher in loading(store, load):
        first, *others = asyncio.run(one_by_one(searcher, "kochen cat", ready.set))
        assert first.by_words
        assert not first.final
        assert set(names(first.hits)) == {"cat.txt", "de/kaffee.txt"}
        cat = next(hit.passages[0] for hit in first.hits if hit.path.endswith("cat.txt"))
        assert [cat.text[a:b] for a, b in cat.words] == ["cat"]
        assert cat.why == api.Why(cosine=0.0, meaning=0.0, words=cat.why.words, terms=("cat",))
        assert cat.why.words > 0
        assert not any(hit.weak for hit in first.hits)
        assert not any(result.by_words for result in others)
        assert [result.final for result in others] == [False, True]
        # The cat in other languages is found by meaning only.
        assert {"cat.txt", "katze.txt", "猫.txt"} <= set(names(others[-1].hits))
        again = asyncio.run(answers(searcher, "cat"))
        assert not any(result.by_words for result in again)


def test_words_are_compared_within_what_filters_leave(store: Store) -> None:
    searcher = WordSearcher(store)

    def found(query: str, **more: object) -> api.SearchResult | None:
        request = api.Search(id=1, query=query, **more)  # type: ignore[arg-type]
        return asyncio.run(searcher.answer(request))

    def named(query: str, **more: object) -> list[str]:
        result = found(query, **more)
        assert result is not None
        assert result.by_words
        return names(result.hits)

    assert named("filler number") != []
    assert named("cat ext:md") == []
    assert set(named("kochen OR sofa lang:de")) == {"de/kaffee.txt", "katze.txt"}
    assert named("schläft", folders=(f"{ROOT}/de",)) == []
    assert named("", like=api.Like(text="The vet saw the cat."))[0] == "cat.txt"
    assert named("boiler.md") == ["boiler.md"]
    assert named("the", limit=0) != []
    assert named("qqqq") == []
    assert found("cat", like=api.Like(path=f"{ROOT}/cat.txt")) is None
    listed = found("ext:md")
    assert listed is not None
    assert (names(listed.hits), listed.final, listed.by_words) == (["boiler.md"], True, False)


def test_without_a_model_the_words_are_the_answer_and_say_why(store: Store) -> None:
    def load() -> Mind:
        raise FatalError("The model is gone", "Look for it.")

    for searcher in loading(store, load):
        # The failure may come before the first answer or after it.
        *early, found = asyncio.run(answers(searcher, "cat xyzzy:"))
        assert not any(answer.final for answer in early)
        assert found.final
        assert found.by_words
        assert names(found.hits) == ["cat.txt"]
        assert "The model is gone" in found.problems[-1].message
        assert asyncio.run(answers(searcher, "ext:md"))[-1].problems == ()
        # Another model was asked for, not whatever answers.
        with pytest.raises(FatalError, match="The model is gone"):
            ask(searcher, "cat", model="other")


def test_a_model_that_is_late_is_not_waited_for_with_nothing_to_show(
    searcher: Searcher, mind: Mind, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(searcher, "boiler")
    monkeypatch.setattr(search, "LATE_S", 0.0)
    mind.gate.clear()
    first, *others = asyncio.run(one_by_one(searcher, "cat", mind.gate.set))
    assert first.by_words
    assert names(first.hits) == ["cat.txt"]
    assert others[-1].final
    assert not others[-1].by_words


# --- giving up, failing, keeping quiet ------------------------------------------------------------------


def test_a_search_that_nobody_waits_for_is_not_embedded(searcher: Searcher, mind: Mind) -> None:
    ask(searcher, "boiler", mark=False)

    async def give_up() -> None:
        mind.gate.clear()
        mind.working.clear()
        first = asyncio.create_task(answers(searcher, "in hand"))
        assert await asyncio.to_thread(mind.working.wait, 30)
        second = asyncio.create_task(answers(searcher, "given up OR given up too"))
        while len(searcher._encoder._lanes["query"]) < 2:
            await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        mind.gate.set()
        assert (await first)[-1].final

    asyncio.run(give_up())
    ask(searcher, "train", mark=False)
    assert not [text for text in mind.queries if "given up" in text]


def test_hits_are_right_without_their_marks(searcher: Searcher, mind: Mind) -> None:
    mind.broken = True
    found = ask(searcher, "brass key boiler", limit=3)
    assert names(found.hits)[0] == "boiler.md"
    assert found.hits[0].passages[0].words


def test_no_log_tells_what_was_asked_or_found(
    searcher: Searcher, mind: Mind, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    ask(searcher, "zebrasecret cat lang:en -secretzebra in:secretfolder OR secretlang lang:zebrasecret")
    ask(searcher, "zebrasecret", like=api.Like(text="secretzebra the cat"))
    mind.broken = True
    ask(searcher, "brass zebrasecret boiler")
    with pytest.raises(IndexerError):
        ask(searcher, "", like=api.Like(path="/home/zebrasecret"))
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert "zebrasecret" not in said
    assert "secretzebra" not in said
    assert "Bleed the" not in said


def test_what_the_store_cannot_answer_is_raised(
    searcher: Searcher, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(where: Condition | None) -> None:
        raise IndexerError("The disk fails", "")

    monkeypatch.setattr(store, "allowed", broken)
    with pytest.raises(IndexerError, match="The disk fails"):
        ask(searcher, "cat")


def test_a_search_may_be_left_after_any_of_its_answers(searcher: Searcher) -> None:
    async def leave() -> None:
        results: AsyncIterator[api.SearchResult] = searcher.search(api.Search(id=1, query="boiler"))
        async for result in results:
            assert not result.final
            break
        await results.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    assert ask(searcher, "boiler").hits


def test_the_sentence_that_is_marked_is_one_of_the_passage(searcher: Searcher) -> None:
    for query in ("brass", "vet", "sleeps", "otherwise"):
        for hit in ask(searcher, query, limit=search.MARKED_HITS).hits:
            passage = hit.passages[0]
            if passage.lang == "code":
                assert passage.mark is None
            else:
                assert passage.mark in sentences(passage.text)
