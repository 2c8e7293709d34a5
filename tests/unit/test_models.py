"""Models of a library: built beside one another, switched, kept, dropped; with encoders of a known mind."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from indexer import api
from indexer.api import Locator, Task
from indexer.document import Chunk
from indexer.embed import Encoder, EncoderInfo, ModelChoice, Vectors, devices
from indexer.embed.thread import EncoderThread
from indexer.errors import FatalError, IndexerError
from indexer.models import Live, Models
from indexer.search import Searcher
from indexer.settings import Settings
from indexer.store import FileUpdate, Store, VectorIndex

ROOT = "/library"
BUNDLED = "multilingual-e5-small"
DIMS = {"": 48, "org/large": 96, "org/other": 24, "far/large": 96, "server:desk": 32}


def wait(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    beat = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        beat.wait(0.01)


class Mind:
    """An encoder whose vectors are chance, but the same for the same text."""

    device = "cpu"

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.info = info(reference)
        self.passages: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        rows = []
        for text in texts:
            seed = hashlib.blake2b(f"{self.reference}:{text}".encode(), digest_size=8).digest()
            rows.append(np.random.default_rng(int.from_bytes(seed, "big")).standard_normal(self.info.dim))
        found = np.array(rows, np.float32).reshape(len(texts), self.info.dim)
        unit: Vectors = found / np.linalg.norm(found, axis=1, keepdims=True)
        return unit

    def encode_queries(self, texts: Sequence[str], task: Task = "notes") -> Vectors:
        return self._vectors(texts)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        self.passages += texts
        return self._vectors(texts)


def info(reference: str) -> EncoderInfo:
    name = reference.rpartition("/")[2] or BUNDLED
    return EncoderInfo(
        key=f"{name}-1", name=name, dim=DIMS[reference], max_tokens=500, tokenizer=Path("none")
    )


class Home:
    """A library's store and models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.minds = {reference: Mind(reference) for reference in DIMS}
        self.missing: set[str] = set()
        self.infos: dict[str, EncoderInfo] = {}
        self.loading: Callable[[Settings], object] = lambda settings: None
        self.settings = Settings()
        self.switched: list[str] = []

    def __enter__(self) -> Home:
        self.store = Store(self.folder / "data")
        self.models = Models(
            self.store, lambda: self.settings, open_searcher=self._searcher, changed=self._changed
        )
        return self

    def __exit__(self, *_: object) -> None:
        for mind in self.minds.values():
            mind.gate.set()
        self.models.close()
        self.store.close()

    def change(self, **new: object) -> None:
        """Set settings, and have them followed."""
        old, self.settings = self.settings, msgspec.structs.replace(self.settings, **new)
        self.models.follow(old)

    def _searcher(self, encoder: EncoderThread, index: VectorIndex) -> Searcher:
        return Searcher(self.store, encoder, index=index)

    def _changed(self, live: Live) -> None:
        self.switched.append(live.choice.reference)

    def info_of(self, settings: Settings, choice: ModelChoice = ModelChoice()) -> EncoderInfo:  # noqa: B008
        if choice.reference in self.missing or choice.reference not in DIMS:
            raise FatalError("There is no such model here", choice.reference)
        return self.infos.get(choice.reference) or info(choice.reference)

    def load(self, settings: Settings, choice: ModelChoice = ModelChoice()) -> Encoder:  # noqa: B008
        self.loading(settings)
        return self.minds[choice.reference]

    def put(self, *texts: str) -> None:
        """Index a file for each text, as the pipeline does."""
        live = self.models.live
        mind = self.minds[live.choice.reference]
        for text in texts:
            chunk = Chunk(start=0, end=len(text), text=text, locator=Locator(), lang="en", tokens=5)
            update = FileUpdate(
                path=f"{ROOT}/{text.replace(' ', '-')}.txt",
                root=ROOT,
                size=1,
                mtime_ns=1,
                content=hashlib.blake2b(text.encode(), digest_size=16).digest(),
                media="text",
                code_language=None,
                title="",
                chunks=(chunk,),
            )
            vectors = {h: mind._vectors([text])[0] for h in self.store.missing([chunk.text_hash])}
            self.store.replace([update], vectors, model=live.info.key)

    def ask(self, query: str, model: str = "") -> list[str]:
        """The texts that are found, best first."""

        async def run() -> list[api.SearchResult]:
            request = api.Search(id=1, query=query, mark=False)
            return [result async for result in self.models.searcher(model).search(request)]

        return [hit.passages[0].text for hit in asyncio.run(run())[-1].hits]

    @property
    def keys(self) -> dict[str, str]:
        return {model.key: model.role for model in self.store.models()}


TEXTS = [f"passage number {n} on matter {n * 7}" for n in range(150)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    made = Home(tmp_path)
    monkeypatch.setattr(Store, "_use_chroma", False)
    monkeypatch.setattr("indexer.models.info_of", made.info_of)
    monkeypatch.setattr("indexer.models.load_encoder", made.load)
    monkeypatch.setattr("indexer.models.bundled_info", lambda: info(""))
    monkeypatch.setattr(Models, "space_for", staticmethod(lambda encoder, info: None))
    monkeypatch.setattr("indexer.models._FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr("indexer.models.KEEP_S", 0.02)
    with made:
        made.models.open()
        made.store.add_root(ROOT)
        made.put(*TEXTS)
        yield made


def test_the_old_model_serves_until_the_new_index_is_complete(home: Home) -> None:
    large = home.minds["org/large"]
    large.gate.clear()
    home.models.use("org/large")
    wait(lambda: home.models.switch is not None and home.models.switch.state == "building")
    switch = home.models.switch
    assert switch is not None
    assert (switch.reference, switch.dimensions, switch.done, switch.total) == ("org/large", 96, 0, 150)
    assert home.ask(TEXTS[7])[0] == TEXTS[7]
    assert home.models.live.info.dim == 48
    home.put("a text that came while it was built")
    large.gate.set()
    wait(lambda: home.switched == ["org/large"])
    assert home.models.switch is None
    assert sorted(large.passages) == sorted([*TEXTS, "a text that came while it was built"])
    assert home.models.live.info.dim == 96
    assert home.ask(TEXTS[7])[0] == TEXTS[7]
    assert home.ask("a text that came while it was built")[0].startswith("a text that came")
    wait(lambda: home.keys == {"large-1": "active"})
    assert home.store.check() == []
    assert [path.name for path in (home.folder / "data").glob("vectors-*")] == ["vectors-large-1.f32"]


def test_searches_never_fail_nor_come_back_empty_while_models_change(home: Home) -> None:
    stop = threading.Event()
    wrong: list[object] = []

    def search() -> None:
        number = 0
        while not stop.is_set():
            number = (number + 11) % len(TEXTS)
            try:
                if home.ask(TEXTS[number])[0] != TEXTS[number]:
                    wrong.append(number)
            except Exception as error:  # noqa: BLE001  any is one too many
                wrong.append(error)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number, reference in enumerate(("org/large", BUNDLED, "org/other", "org/large")):
            home.models.use(reference)
            wait(lambda number=number: len(home.switched) == number + 1)  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    wait(lambda: home.keys == {"large-1": "active"})


def test_an_interrupted_switch_goes_on_and_embeds_nothing_twice(home: Home) -> None:
    large = home.minds["org/large"]
    first = threading.Event()
    real = large.encode_passages

    def some(texts: Sequence[str]) -> Vectors:
        if large.passages:
            first.set()
            assert large.gate.wait(30)
        return real(texts)

    large.encode_passages = some  # type: ignore[method-assign]
    large.gate.set()
    home.models.use("org/large")
    assert first.wait(20)
    home.__exit__()
    before = len(large.passages)
    assert before > 0
    large.encode_passages = real  # type: ignore[method-assign]
    home.__enter__()
    home.models.open()
    wait(lambda: home.models.live.info.dim == 96)
    assert len(large.passages) <= len(TEXTS) + 64, "at most the batch in hand is embedded again"
    assert home.store.check() == []


def test_a_kept_index_is_searched_beside_and_kept_up_to_date(home: Home) -> None:
    home.models.use("org/large", keep=True)
    wait(lambda: home.switched == ["org/large"])
    wait(lambda: home.keys == {"large-1": "active", f"{BUNDLED}-1": "kept"})
    home.put("a late one")
    wait(lambda: home.store.model_counts(f"{BUNDLED}-1")[1] == 0)
    assert home.ask("a late one", BUNDLED)[0] == "a late one"
    assert home.ask("a late one", "org/large")[0] == "a late one"
    with pytest.raises(IndexerError, match="neither used nor kept"):
        home.ask("a late one", "org/other")
    home.models.use(BUNDLED, keep=True)
    wait(lambda: home.switched == ["org/large", ""])
    wait(lambda: home.keys == {"large-1": "kept", f"{BUNDLED}-1": "active"})
    home.models.cancel("org/large")
    wait(lambda: home.keys == {f"{BUNDLED}-1": "active"})


def test_a_switch_can_be_cancelled_and_leaves_nothing(home: Home) -> None:
    home.minds["org/large"].gate.clear()
    home.models.use("org/large")
    wait(lambda: home.models.switch is not None and home.models.switch.state == "building")
    canceller = threading.Thread(target=home.models.cancel)
    canceller.start()
    home.minds["org/large"].gate.set()
    canceller.join(20)
    wait(lambda: home.keys == {f"{BUNDLED}-1": "active"})
    assert home.switched == []
    assert home.ask(TEXTS[3])[0] == TEXTS[3]
    with pytest.raises(IndexerError, match="Nothing to cancel"):
        home.models.cancel()


def test_another_choice_takes_the_place_of_the_one_that_is_built(home: Home) -> None:
    home.minds["org/large"].gate.clear()
    home.models.use("org/large")
    wait(lambda: home.models.switch is not None and home.models.switch.state == "building")
    opener = threading.Timer(0.1, home.minds["org/large"].gate.set)
    opener.start()
    home.models.use("org/other")
    wait(lambda: home.switched == ["org/other"])
    wait(lambda: home.keys == {"other-1": "active"})


def test_what_is_in_the_way_is_told_and_waited_for(home: Home) -> None:
    large = home.minds["org/large"]
    large.error = IndexerError("The server is away", "It is tried again.")
    home.models.use("org/large")
    wait(lambda: home.models.switch is not None and home.models.switch.state == "waiting")
    switch = home.models.switch
    assert switch is not None
    assert "The server is away" in switch.message
    large.error = None
    wait(lambda: home.switched == ["org/large"])


def test_building_pauses_with_indexing(home: Home) -> None:
    home.settings = Settings(paused=True)
    home.models.use("org/large")
    wait(lambda: home.models.switch is not None and home.models.switch.state == "paused")
    assert home.minds["org/large"].passages == []
    home.change(paused=False)
    wait(lambda: home.switched == ["org/large"])


def test_a_model_that_is_gone_is_replaced_at_once(home: Home) -> None:
    home.models.use("org/large")
    wait(lambda: home.switched == ["org/large"])
    home.__exit__()
    home.missing.add("org/large")
    home.__enter__()
    with pytest.raises(FatalError, match="no such model"):
        home.models.open()
    home.models.use(BUNDLED)
    home.models.open()
    assert home.models.live.info.dim == 48
    wait(lambda: home.models.switch is None and home.store.model_counts(f"{BUNDLED}-1")[1] == 0)
    assert home.ask(TEXTS[9])[0] == TEXTS[9]


def test_a_model_that_is_not_there_is_refused(home: Home) -> None:
    with pytest.raises(IndexerError, match="no such model"):
        home.models.use("org/none")
    assert home.keys == {f"{BUNDLED}-1": "active"}


def test_a_plan_says_what_it_costs(home: Home) -> None:
    plan = home.models.plan("org/large", 0, 0.001)
    assert plan.texts == 150
    assert 150 * 96 * 10 < plan.disk_bytes < 150 * 96 * 10 + 150 * 1000
    assert plan.free_bytes > 0
    assert plan.seconds is not None
    assert 0.5 < plan.seconds < 5


def test_vectors_of_a_model_that_is_not_active_any_more_are_refused(home: Home) -> None:
    old = home.models.live
    home.models.use("org/large")
    wait(lambda: home.switched == ["org/large"])
    with pytest.raises(IndexerError, match="changed"):
        home.store.replace([], {}, model=old.info.key)


def test_another_model_under_the_same_name_is_refused(home: Home) -> None:
    home.models.use("org/large")
    wait(lambda: home.switched == ["org/large"])
    home.__exit__()
    home.minds["org/large"].info = msgspec.structs.replace(info("org/large"), key="large-2")
    home.__enter__()
    home.models.open()
    with pytest.raises(FatalError, match="changed since"):
        home.models.live.encoder.query(["x"]).result(20)
    wait(lambda: home.keys == {"large-1": "active"})


def _fill_the_active(home: Home) -> Mind:
    """Make a model active that has no vectors yet, and that is in trouble."""
    home.__exit__()
    large = home.minds["org/large"]
    large.error = IndexerError("The server is away", "It is tried again.")
    home.__enter__()
    home.models.use("org/large")
    home.models.open()
    wait(lambda: home.models.switch is not None and home.models.switch.state == "waiting")
    return large


def test_filling_the_active_index_goes_on_with_new_settings(home: Home) -> None:
    large = _fill_the_active(home)
    old = home.models.live.encoder
    home.models.reload()
    wait(lambda: not old._thread.is_alive())
    large.error = None
    wait(lambda: home.models.switch is None)
    assert sorted(large.passages) == sorted(TEXTS)
    assert home.ask(TEXTS[9])[0] == TEXTS[9]


def test_filling_the_active_index_ends_when_another_model_takes_over(home: Home) -> None:
    _fill_the_active(home)
    home.models.use(BUNDLED)
    wait(lambda: home.switched == [""])
    assert home.models.switch is None, "who waits for the new model waits for nothing else"
    wait(lambda: home.keys == {f"{BUNDLED}-1": "active"})
    assert not [t for t in threading.enumerate() if t.name == "build-large-1"]
    assert home.ask(TEXTS[9])[0] == TEXTS[9]


class Gate:
    """Stands in for the space of a model, which takes minutes to be computed the first time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        monkeypatch.setattr(Models, "space_for", staticmethod(self._pass))

    def _pass(self, encoder: EncoderThread, info: EncoderInfo) -> None:
        self.entered.set()
        assert self.open.wait(30)


def elsewhere(work: Callable[[], object], seconds: float = 10.0) -> object:
    """What comes of work in a thread, or the error that it raised; it must not take long."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001  it is looked at by the caller
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, "it waits"
    return outcome[0]


def test_a_search_with_a_model_that_is_being_prepared_is_answered_at_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    try:
        home.models.use("org/large")
        assert gate.entered.wait(20)
        error = elsewhere(lambda: home.models.searcher("org/large"))
        assert isinstance(error, IndexerError)
        assert error.title == "large is still being prepared"
        assert error.message.startswith("0 of 150 texts have their vector.")
        assert home.models.switch is not None
        assert home.ask(TEXTS[7])[0] == TEXTS[7], "the active one serves"
    finally:
        gate.open.set()
    wait(lambda: home.switched == ["org/large"])


def test_a_kept_model_that_was_unloaded_is_loaded_for_a_search(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.models.use("org/large", keep=True)
    wait(lambda: home.keys == {"large-1": "active", f"{BUNDLED}-1": "kept"})
    wait(lambda: f"{BUNDLED}-1" in home.models._sides)
    assert home.ask(TEXTS[3], BUNDLED)[0] == TEXTS[3]
    side = home.models._sides[f"{BUNDLED}-1"]
    first = side._encoder
    assert first is not None
    monkeypatch.setattr("indexer.models.UNLOAD_S", 0.0)
    wait(lambda: side._encoder is None)
    wait(lambda: not first._thread.is_alive())
    monkeypatch.setattr("indexer.models.UNLOAD_S", 600.0)
    assert home.ask(TEXTS[5], BUNDLED)[0] == TEXTS[5]


def test_what_is_built_is_built_with_the_settings_of_now(home: Home) -> None:
    large = home.minds["org/large"]
    large.gate.clear()
    seen: list[str] = []
    home.loading = lambda settings: seen.append(settings.precision)
    home.models.use("org/large")
    wait(lambda: home.models.switch is not None and home.models.switch.state == "building")
    old = home.models._sides["large-1"]._encoder
    assert old is not None
    home.change(precision="bfloat16")
    wait(lambda: seen.count("bfloat16") == 2)  # the active one, too
    large.gate.set()
    wait(lambda: home.switched == ["", "org/large"])
    assert home.models.live.encoder is not old
    wait(lambda: not old._thread.is_alive())
    assert seen[0] == "auto"


def test_settings_that_do_not_concern_a_model_leave_it_loaded(home: Home) -> None:
    live = home.models.live
    home.change(max_file_mb=7)
    assert home.models.live is live
    home.change(precision="float16")
    assert home.models.live is not live


def _built_and_gone(home: Home) -> None:
    """Begin to build, end the program, and start it without the model that is built."""
    home.minds["org/large"].gate.clear()
    home.models.use("org/large")
    wait(lambda: home.models.switch is not None and home.models.switch.state == "building")
    home.__exit__()
    home.missing.add("org/large")
    home.__enter__()
    home.models.open()
    wait(lambda: home.models.switch is not None and home.models.switch.state == "waiting")


def test_a_model_that_is_built_and_gone_is_shown_and_can_be_cancelled(home: Home) -> None:
    _built_and_gone(home)
    switch = home.models.switch
    assert switch is not None
    assert (switch.reference, switch.total) == ("org/large", 150)
    assert "no such model" in switch.message
    error = elsewhere(lambda: home.models.searcher("org/large"))
    assert isinstance(error, IndexerError)
    assert "no such model" in error.message
    home.models.cancel()
    wait(lambda: home.keys == {f"{BUNDLED}-1": "active"})


def test_a_model_that_is_built_goes_on_when_it_is_back(home: Home) -> None:
    _built_and_gone(home)
    home.missing.clear()
    wait(lambda: home.switched == ["org/large"])
    assert home.ask(TEXTS[9])[0] == TEXTS[9]


def test_a_model_that_changed_while_it_was_built_waits_until_it_is_chosen_again(home: Home) -> None:
    _built_and_gone(home)
    home.missing.clear()
    home.minds["org/large"].info = home.infos["org/large"] = msgspec.structs.replace(
        info("org/large"), key="large-2"
    )
    wait(lambda: home.models.switch is not None and "changed since" in home.models.switch.message)
    home.models.use("org/large")
    wait(lambda: home.switched == ["org/large"])
    wait(lambda: home.keys == {"large-2": "active"})


def test_a_choice_in_need_ends_what_was_being_built(home: Home) -> None:
    home.models.use("org/other")
    wait(lambda: home.switched == ["org/other"])
    home.minds["org/large"].gate.clear()
    home.models.use("org/large")
    wait(lambda: home.models.switch is not None and home.models.switch.state == "building")
    home.__exit__()
    home.missing.add("org/other")
    home.__enter__()
    with pytest.raises(FatalError, match=r"choose it where it is now.* dragoman models use"):
        home.models.open()
    home.models.use(BUNDLED)
    home.models.open()
    wait(lambda: home.keys == {f"{BUNDLED}-1": "active"})


def test_what_was_being_built_can_be_cancelled_when_nothing_could_be_started(home: Home) -> None:
    home.models.use("org/other")
    wait(lambda: home.switched == ["org/other"])
    home.minds["org/large"].gate.clear()
    home.models.use("org/large")
    wait(lambda: home.models.switch is not None and home.models.switch.state == "building")
    home.__exit__()
    home.missing.add("org/other")
    home.__enter__()
    home.models.cancel("org/large")
    wait(lambda: "large-1" not in home.keys)


def test_the_same_model_at_another_place_is_remembered_there(home: Home) -> None:
    home.models.use("org/large")
    wait(lambda: home.switched == ["org/large"])
    home.models.use("far/large")
    assert home.models.live.choice.reference == "far/large"
    home.__exit__()
    home.missing.add("org/large")
    home.__enter__()
    assert home.models.open().choice.reference == "far/large"
    assert home.models.states()["far/large"][0] == "active"


def test_a_kept_model_that_is_gone_is_told_when_it_is_needed(home: Home) -> None:
    home.models.use("org/large", keep=True)
    wait(lambda: home.keys == {"large-1": "active", f"{BUNDLED}-1": "kept"})
    home.models.use(BUNDLED, keep=True)
    wait(lambda: home.keys == {"large-1": "kept", f"{BUNDLED}-1": "active"})
    home.__exit__()
    home.missing.add("org/large")
    home.__enter__()
    home.models.open()
    assert home.models.notices() == []
    home.put("a late one")
    wait(lambda: home.models.notices() != [])
    assert home.models.role_of("org/large") == "kept"
    assert "large" in home.models.notices()[0].title
    home.models.cancel("org/large")
    assert home.models.notices() == []


def test_trouble_with_the_server_in_use_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble = IndexerError("The embedding server is away", "Is it running?")
    monkeypatch.setattr("indexer.embed.server._troubles", {"desk": trouble})
    assert home.models.notices() == []
    home.models.use("server:desk")
    wait(lambda: home.switched == ["server:desk"])
    assert [notice.title for notice in home.models.notices()] == [trouble.title]


def test_a_device_that_failed_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.embed.devices._lost", {})
    devices.lose("cuda:0", RuntimeError("CUDA error: unspecified launch failure\nand much more"))
    (notice,) = home.models.notices()
    assert notice.title == "The graphics card failed"
    assert "unspecified launch failure" in notice.message
    assert "much more" not in notice.message
    assert devices.lost("cuda:0")
    assert not devices.lost("cuda:1")


def test_a_server_is_asked_once_for_plan_and_choice(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def info_of(settings: Settings, choice: ModelChoice) -> EncoderInfo:
        asked.append(choice.reference)
        return home.info_of(settings, choice)

    monkeypatch.setattr("indexer.models.info_of", info_of)
    home.models.plan("server:desk", 0, None)
    home.models.use("server:desk")
    assert asked == ["server:desk"]
    wait(lambda: home.switched == ["server:desk"])
    home.models.use("server:desk")
    assert asked == ["server:desk"] * 2, "what a plan was made for long ago may be another model now"


def test_a_plan_says_that_a_model_gives_other_vectors_than_its_index_has(home: Home) -> None:
    home.models.use("server:desk")
    wait(lambda: home.switched == ["server:desk"])
    assert not home.models.plan("server:desk", 0, None).anew
    home.infos["server:desk"] = msgspec.structs.replace(info("server:desk"), key="desk-2")
    assert home.models.plan("server:desk", 0, None).anew
    assert not home.models.plan("org/large", 0, None).anew
