"""Search with the bundled model, the real store and real files in four languages."""

from __future__ import annotations

import asyncio
import itertools
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from indexer import api
from indexer.embed.rerank import RerankCancelledError, Reranker, RerankThread, Scores, load_reranker
from indexer.library import Library
from indexer.search import Searcher
from tests.integration.test_rerank import _build

BOILER = """# Heating

If the radiators stay cold, bleed the air out of them with the small brass key.
Begin on the ground floor. When water comes instead of air, close the valve again.
Afterwards read the pressure on the boiler: it should be between one and two bar.
"""
BREAD_EN = """# Sourdough bread

Feed the sourdough starter in the evening and leave it in a warm place overnight.

In the morning mix it with five hundred grams of rye flour, salt and lukewarm water.

Let the dough rise for three hours in a basket, then bake it for fifty minutes in a very hot oven.
"""
BREAD_DE = """# Sauerteigbrot

Den Sauerteig am Abend füttern und über Nacht an einem warmen Ort stehen lassen.

Am Morgen mit fünfhundert Gramm Roggenmehl, Salz und lauwarmem Wasser mischen.

Den Teig drei Stunden im Korb gehen lassen, dann fünfzig Minuten im sehr heißen Ofen backen.
"""
# As near to one another as translations are; others do not differ less than two texts of one kind.
MOON = {
    "en/moon.md": (
        "The Moon orbits the Earth in 27 days. It is the only natural satellite of the Earth, "
        "and always shows it the same side.\n"
    ),
    "de/mond.md": (
        "Der Mond umkreist die Erde in 27 Tagen. Er ist der einzige natürliche Satellit der Erde "
        "und zeigt ihr immer dieselbe Seite.\n"
    ),
}
FILES = {
    **MOON,
    "en/heating.md": BOILER,
    "en/heating-old.md": BOILER.replace("one and two bar", "one and three bar"),
    "backup/heating.md": BOILER,
    "en/bread.md": BREAD_EN,
    "de/brot.md": BREAD_DE,
    "de/wohnung.txt": (
        "Der Mietvertrag für die Wohnung in der Lindenstraße läuft auf unbestimmte Zeit. Die Kündigungsfrist "
        "beträgt drei Monate zum Monatsende. Die Kaution von zwei Monatsmieten liegt auf einem Sparkonto.\n"
    ),
    "zh/小猫.md": (
        "# 小猫\n\n我们家的猫每年春天都要去看兽医，打一次狂犬病的疫苗。"
        "兽医说，猫的体重太重了，应该少吃零食。\n"
    ),
    "ja/onsen.txt": (
        "来月、家族で箱根の温泉旅館に泊まります。露天風呂からは富士山が見えるそうです。夕食は部屋でいただきます。\n"
    ),
    "en/router_setup_2024.txt": (
        "The update of the office computer stopped with error 0x80070643. "
        "Deleting the old recovery partition and making a larger one helped.\n"
    ),
    "code/statistics_tools.py": (
        "def standard_deviation(values):\n"
        '    """How far numbers spread around their mean."""\n'
        "    mean = sum(values) / len(values)\n"
        "    return (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5\n"
    ),
}
PAGES = 220
DETAIL = "The lighthouse keeper repaired the broken fog horn with a bicycle pump and a strip of leather."


def _long_pdf(path: Path) -> None:
    import pymupdf

    things = ("ships", "rain", "letters", "bread", "sails", "visitors", "gulls")
    with pymupdf.open() as book:  # type: ignore[no-untyped-call]
        for number in range(1, PAGES + 1):
            page = book.new_page(width=300, height=200)
            thing = things[number % len(things)]
            text = f"Day {number} on the island. Nothing much happened, we counted {thing} and went to bed."
            page.insert_textbox((20, 20, 280, 180), DETAIL if number == 200 else text)
        book.save(path)


class World:
    """A library whose files are indexed, and ways to ask it."""

    def __init__(self, library: Library, files: Path) -> None:
        self.library, self.files = library, files
        self._ids = itertools.count(1)

    def request(self, query: str, **more: object) -> api.Search:
        return api.Search(id=next(self._ids), query=query, **more)  # type: ignore[arg-type]

    async def answers(self, request: api.Search) -> list[api.SearchResult]:
        # What the words alone find comes first while the model is being loaded; see test_start.py.
        found = [result async for result in self.library.searcher().search(request)]
        return [result for result in found if not result.by_words]

    def ask(self, query: str, **more: object) -> tuple[api.Hit, ...]:
        results = asyncio.run(self.answers(self.request(query, **more)))
        for hit in (hit for result in results for hit in result.hits):
            shown = [hit.similarity, *(passage.similarity for passage in hit.passages)]
            assert all(0 <= value <= 1 for value in shown), "and none is NaN"
            assert all(math.isfinite(passage.why.meaning) for passage in hit.passages)
        return results[-1].hits

    def names(self, hits: Sequence[api.Hit]) -> list[str]:
        return [str(Path(hit.path).relative_to(self.files)) for hit in hits]

    def first(self, query: str, **more: object) -> str:
        return self.names(self.ask(query, **more))[0]

    def wait(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        tick = threading.Event()
        while not done():
            assert time.monotonic() < deadline
            tick.wait(0.05)

    def settled(self, files: int) -> bool:
        status = self.library.status(0)
        assert not status.notices
        return status.state == "watching" and status.files == files


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    base = tmp_path_factory.mktemp("real")
    files = (base / "files").resolve()
    for name, text in FILES.items():
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_text(text, encoding="utf-8")
    _long_pdf(files / "en/island.pdf")
    library = Library(base / "data")
    library.start()
    try:
        made = World(library, files)
        library.add_folder(str(files))
        made.wait(lambda: made.settled(len(FILES) + 1))
        yield made
    finally:
        library.close()


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("暖气片不热，怎么放气", "en/heating.md"),
        ("Heizkörper werden nicht warm, wie entlüften?", "en/heating.md"),
        ("How much notice must I give before moving out of the flat?", "de/wohnung.txt"),
        ("退租要提前多久通知房东", "de/wohnung.txt"),
        ("When does the cat get its vaccination?", "zh/小猫.md"),
        ("猫の予防接種はいつですか", "zh/小猫.md"),
        ("hot spring hotel with a view of Mount Fuji", "ja/onsen.txt"),
        ("计算一组数字的标准差的函数", "code/statistics_tools.py"),
    ],
)
def test_a_question_in_one_language_has_its_answer_in_another_first(
    world: World, question: str, name: str
) -> None:
    hit = world.ask(question)[0]
    files = {hit.path, *(variant.path for variant in hit.variants)}
    assert str(world.files / name) in files


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("0x80070643", "en/router_setup_2024.txt"),
        ("router_setup_2024.txt", "en/router_setup_2024.txt"),
        ("standard_deviation", "code/statistics_tools.py"),
        ("疫苗", "zh/小猫.md"),
        ("温泉", "ja/onsen.txt"),
        ("Frist", "de/wohnung.txt"),
        ("Mietkaution", "de/wohnung.txt"),
        ("Lindenstrasse", "de/wohnung.txt"),
        ("return (sum((v - mean) ** 2 for v in values) / n) ** 0.5", "code/statistics_tools.py"),
    ],
)
def test_words_names_and_numbers_are_found(world: World, words: str, name: str) -> None:
    assert world.first(words) == name


def test_the_words_in_common_are_told(world: World) -> None:
    passage = world.ask("0x80070643")[0].passages[0]
    assert passage.why.terms == ("0x80070643",)
    assert passage.why.words > 0
    assert [passage.text[a:b] for a, b in passage.words] == ["0x80070643"]
    chinese = world.ask("疫苗")[0].passages[0]
    assert [chinese.text[a:b] for a, b in chinese.words] == ["疫苗"]


@pytest.mark.parametrize(
    "question",
    ["repairing the fog horn of the lighthouse", "Wie wurde das Nebelhorn repariert?", "雾号是怎么修好的"],
)
def test_a_detail_on_page_200_is_found_there(world: World, question: str) -> None:
    hit = world.ask(question)[0]
    assert hit.path.endswith("island.pdf")
    assert hit.passages[0].locator.page == 200
    assert hit.passages[0].text.split() == DETAIL.split()


def test_the_sentence_that_answers_is_marked_across_languages(world: World) -> None:
    passage = world.ask("猫为什么要少吃", limit=1)[0].passages[0]
    other = world.ask("the cat is too heavy", limit=1)[0].passages[0]
    for found in (passage, other):
        assert found.mark is not None
        assert "体重" in found.text[slice(*found.mark)]


def test_phrases_and_exclusions_are_to_the_letter(world: World) -> None:
    assert set(world.names(world.ask('"small brass key"', fold=False))) == {
        "en/heating.md",
        "en/heating-old.md",
        "backup/heating.md",
    }
    assert "de/brot.md" not in world.names(world.ask("bread -Roggenmehl"))
    assert world.names(world.ask("bread -Roggenmehl"))[0] == "en/bread.md"
    assert world.names(world.ask("cold radiators lang:zh")) == ["zh/小猫.md"]
    assert world.names(world.ask("type:python")) == ["code/statistics_tools.py"]


def test_copies_versions_and_translations_are_folded(world: World) -> None:
    heating = world.ask("radiators stay cold")[0]
    kinds = {str(Path(v.path).relative_to(world.files)): v.kind for v in heating.variants}
    names = {*kinds, str(Path(heating.path).relative_to(world.files))}
    assert names == {"en/heating.md", "en/heating-old.md", "backup/heating.md"}
    assert "version" in kinds.values()
    moon = world.ask("satellite of the Earth")[0]
    assert [(v.kind, v.lang) for v in moon.variants] == [("translation", "de")]
    assert not any(hit.variants for hit in world.ask("radiators stay cold", fold=False)), (
        "each by itself when that is wanted"
    )


def test_what_is_not_the_same_is_not_folded(world: World) -> None:
    for question in ("bread", "cat", "the flat", "温泉"):
        for hit in world.ask(question, limit=50):
            together = {Path(hit.path).stem, *(Path(v.path).stem for v in hit.variants)}
            same = ({"heating", "heating-old"}, {"bread", "brot"}, {"moon", "mond"})
            assert len(together) == 1 or any(together <= stems for stems in same)


def test_what_is_similar_to_a_file_a_passage_and_a_text(world: World) -> None:
    like = api.Like(path=str(world.files / "en/bread.md"))
    assert world.first("", like=like) == "de/brot.md"
    assert "en/bread.md" not in world.names(world.ask("", like=like, limit=50))
    heating = world.ask("", like=api.Like(path=str(world.files / "en/heating.md")), limit=50)
    assert world.names(heating)[0] == "en/heating-old.md"
    assert "backup/heating.md" not in world.names(heating)
    chunk = world.ask("Sauerteig", limit=1)[0].passages[0].chunk
    assert world.first("", like=api.Like(chunk=chunk)) in ("de/brot.md", "en/bread.md")
    pasted = "昨晚我把酸面团喂好，今天早上加了黑麦面粉和盐，放进很热的烤箱里烤面包。" * 20
    assert world.first("", like=api.Like(text=pasted)) in ("de/brot.md", "en/bread.md")
    assert world.names(world.ask("lang:de", like=api.Like(text=pasted)))[0] == "de/brot.md"


def test_a_pasted_text_of_five_hundred_words_finds_what_it_is_about(world: World) -> None:
    pasted = (
        "Last winter our living room never got warm although the heating was running day and night. A friend "
        "told us that there is air in the pipes and that it has to be let out of every radiator. "
    ) * 14
    assert len(pasted.split()) > 500
    hit = world.ask(pasted)[0]
    assert Path(hit.path).name.startswith("heating")


@pytest.mark.parametrize("nonsense", ["zorgle blimfrob quaxintly", "asdf qwer zxcv hjkl", "😀😀😀", "?!?!"])
def test_nonsense_is_near_to_nothing(world: World, nonsense: str) -> None:
    assert all(hit.weak for hit in world.ask(nonsense))


@pytest.mark.parametrize(
    "question",
    [
        "bleeding air out of a cold radiator",
        "Wie lange ist die Kündigungsfrist der Wohnung?",
        "猫什么时候打疫苗",
        "Sauerteigbrot backen",
    ],
)
def test_a_good_question_has_a_strong_answer(world: World, question: str) -> None:
    best = world.ask(question)[0]
    nonsense = max(hit.similarity for hit in world.ask("zorgle blimfrob quaxintly"))
    assert not best.weak
    assert best.similarity > nonsense


def test_a_file_that_is_written_anew_is_found_by_its_new_words_only(world: World) -> None:
    note = world.files / "en/dentist.txt"
    note.write_text("The dentist has an appointment free on Thursday.\n", encoding="utf-8")
    world.wait(lambda: world.names(world.ask("Zahnarzttermin", limit=1)) == ["en/dentist.txt"])
    note.write_text("Our neighbour plays the accordion at weddings.\n", encoding="utf-8")
    world.wait(lambda: "accordion" in world.ask("Akkordeon", limit=1)[0].passages[0].text)
    assert all("appointment" not in hit.passages[0].text for hit in world.ask("dentist appointment"))
    note.unlink()
    world.wait(lambda: "en/dentist.txt" not in world.names(world.ask("accordion", limit=50)))


# --- the reranker ---------------------------------------------------------------------------------


class _Held:
    """A reranker that takes as long as nobody cancels it."""

    def __init__(self, real: Reranker) -> None:
        self.real = real
        self.working, self.cancelled = threading.Event(), threading.Event()
        self.hold = True
        self.name, self.device = real.name, real.device

    def scores(
        self, query: str, passages: Sequence[str], *, cancelled: Callable[[], bool] = lambda: False
    ) -> Scores:
        self.working.set()
        tick = threading.Event()
        while self.hold and not cancelled():
            tick.wait(0.01)
        if cancelled():
            self.cancelled.set()
            raise RerankCancelledError
        return self.real.scores(query, passages, cancelled=cancelled)

    def close(self) -> None:
        self.real.close()


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of random weights."""
    return _build("bert", tmp_path_factory.mktemp("reranker") / "bert")


def test_the_reranker_orders_anew_after_the_first_hits(world: World, reranker: Path) -> None:
    library = world.library
    settings = library.settings
    library.put_settings(msgspec.structs.replace(settings, rerank=True, reranker=str(reranker), device="cpu"))
    try:
        first, *_, last = asyncio.run(world.answers(world.request("bread that rises", limit=30)))
        assert not first.final
        assert not first.reranked
        assert (last.final, last.reranked) == (True, True)
        assert sorted(world.names(first.hits)) == sorted(world.names(last.hits))
        assert world.names(first.hits) != world.names(last.hits)
        judged = [hit.passages[0].why.reranked for hit in last.hits]
        assert None not in judged
        assert judged == sorted(judged, key=lambda score: -(score or 0))
        assert [hit.similarity for hit in sorted(first.hits, key=lambda h: h.path)] == [
            hit.similarity for hit in sorted(last.hits, key=lambda h: h.path)
        ]
        unwanted = asyncio.run(world.answers(world.request("bread that rises", rerank=False)))
        assert not any(result.reranked for result in unwanted)
        either = asyncio.run(world.answers(world.request("bread that rises OR cold radiators")))
        assert either[-1].reranked
        listed = asyncio.run(world.answers(world.request("type:markdown")))
        assert [(result.final, result.reranked) for result in listed] == [(True, False)]
    finally:
        library.put_settings(settings)


def test_a_reranker_that_is_gone_leaves_the_hits_as_they_were(
    world: World, reranker: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(reranker, broken)
    (broken / "config.json").write_text("{}", encoding="utf-8")
    settings = world.library.settings
    world.library.put_settings(
        msgspec.structs.replace(settings, rerank=True, reranker=str(broken), device="cpu")
    )
    try:
        results = asyncio.run(world.answers(world.request("cold radiators")))
        assert [result.reranked for result in results] == [False] * len(results)
        assert results[-1].final
        assert world.names(results[0].hits) == world.names(results[-1].hits)
        assert any("reranker" in notice.title for notice in world.library.status(0).notices)
    finally:
        world.library.put_settings(settings)
        world.library._stop_reranker()


def test_a_search_that_is_cancelled_stops_the_reranker(world: World, reranker: Path) -> None:
    held = _Held(load_reranker(reranker, device="cpu"))
    thread = RerankThread(lambda: held)
    library = world.library
    searcher = Searcher(
        library.store, library.encoder, space=library.searcher()._space, reranker=lambda _: thread
    )

    async def ask(seen: list[api.SearchResult]) -> None:
        async for result in searcher.search(world.request("cold radiators")):
            seen.append(result)  # noqa: PERF401  what came before it was cancelled counts

    async def cancel() -> None:
        seen: list[api.SearchResult] = []
        task = asyncio.create_task(ask(seen))
        assert await asyncio.to_thread(held.working.wait, 60)
        assert seen, "the hits come before the reranker has done"
        assert seen[0].hits
        assert not seen[-1].final
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(held.cancelled.wait, 60)
        held.hold = False
        again: list[api.SearchResult] = []
        await ask(again)
        assert again[-1].reranked

    try:
        asyncio.run(cancel())
    finally:
        thread.stop()
