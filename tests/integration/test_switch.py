"""Changing models through the service's own process: searched meanwhile, killed meanwhile, compared."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from typer.testing import CliRunner

from indexer import api
from indexer.cli import app
from indexer.client import IndexerClient
from indexer.errors import IndexerError
from tests import tiny_models

BUNDLED = "multilingual-e5-small"
_ids = itertools.count(10_000)
_R = TypeVar("_R", bound=api.Reply)

NOTES = {
    "cat.md": "Our cat goes to the vet every spring and gets its vaccination against rabies.",
    "wohnung.txt": "Der Mietvertrag läuft auf unbestimmte Zeit. Die Kündigungsfrist beträgt drei Monate.",
    "pancakes.md": "Mix flour, eggs and milk, let the batter rest, and fry thin pancakes in butter.",
    **{f"day-{n}.txt": f"On day {n} the weather was fine and {n * 3} ships passed." for n in range(60)},
}


class Service:
    """A library of its own, and the service that works on it."""

    def __init__(self, base: Path) -> None:
        self.data, self.files = base / "data", base / "files"
        self.files.mkdir()
        for name, text in NOTES.items():
            (self.files / name).write_text(text, encoding="utf-8")

    def __enter__(self) -> Service:
        self.client = IndexerClient(self.data, name="test")
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def again(self) -> None:
        """End the service and start it anew."""
        self.client.stop()
        self.client.close()
        self.client = IndexerClient(self.data, name="test")

    def ask(self, request: api.Request, kind: type[_R]) -> _R:
        return self.client._ask(request, kind)

    def found(self, query: str, model: str = "") -> str:
        """The first hit's name."""
        request = api.Search(id=next(_ids), query=query, model=model, mark=False)
        self.client._send(request)
        while True:
            reply = self.client._receive()
            assert not isinstance(reply, api.Failed), reply
            if isinstance(reply, api.SearchResult) and reply.id == request.id and reply.final:
                return Path(reply.hits[0].path).name

    def models(self) -> dict[str, api.Model]:
        return {m.reference: m for m in self.ask(api.ListModels(id=next(_ids)), api.Models).models}

    def use(self, reference: str, *, keep: bool = False) -> None:
        self.ask(api.UseModel(id=next(_ids), reference=reference, keep=keep), api.Done)

    def wait(self, done: Callable[[api.Status], bool]) -> api.Status:
        deadline = time.monotonic() + 120
        beat = threading.Event()
        while not done(status := self.client.status()):
            assert time.monotonic() < deadline, status
            beat.wait(0.05)
        return status


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.sentence("qwen3", tmp_path_factory.mktemp("models") / "tiny-qwen3")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    home = Service(tmp_path.resolve())
    with home:
        home.client.add_folder(home.files)
        home.wait(lambda s: s.state == "watching" and s.files == len(NOTES))
        yield home
        home.client.stop()


@pytest.mark.timeout(300)
def test_a_person_changes_the_model_compares_and_goes_back(service: Service, tiny: Path) -> None:
    reference = str(tiny)
    with pytest.raises(IndexerError, match="neither used nor kept"):
        service.client._ask(api.Search(id=next(_ids), query="x", model=reference), api.SearchResult)
    service.client._send(api.InstallModel(id=next(_ids), reference=reference))
    replies = list(_until_done(service.client))
    assert isinstance(replies[-1], api.Done)
    listed = service.models()
    assert listed[reference].state == "installed"
    assert listed[BUNDLED].state == "active"
    plan = service.ask(api.PlanModel(id=next(_ids), reference=reference), api.Plan)
    assert plan.texts >= len(NOTES)

    service.use(reference, keep=True)
    assert service.found("Wann muss der Kater zum Tierarzt?") == "cat.md"
    (service.files / "late.txt").write_text("The lighthouse keeper repaired the fog horn.", "utf-8")
    status = service.wait(lambda s: s.switch is None and s.encoder.model == "tiny-qwen3")
    assert status.encoder.dimensions == tiny_models.HIDDEN
    service.wait(lambda s: s.state == "watching" and s.files == len(NOTES) + 1)
    assert service.models()[reference].state == "active"

    # The model that is kept finds what came after the switch, too.
    service.wait(lambda _: service.models()[BUNDLED].vectors >= len(NOTES) + 1)
    assert service.found("Leuchtturm", BUNDLED) == "late.txt"
    assert service.found("mon chat et le vétérinaire", BUNDLED) == "cat.md"

    beside = CliRunner().invoke(app, ["--data-dir", str(service.data), "compare", "--json", "Leuchtturm"])
    assert beside.exit_code == 0, beside.output
    lists = json.loads(beside.stdout)
    assert list(lists) == [reference, BUNDLED]
    assert Path(lists[BUNDLED][0]["path"]).name == "late.txt"
    table = CliRunner().invoke(app, ["--data-dir", str(service.data), "compare", "Leuchtturm"])
    assert "in both" in table.stdout

    service.use(BUNDLED)
    service.wait(lambda s: s.switch is None and s.encoder.model == BUNDLED)
    assert service.found("mon chat et le vétérinaire") == "cat.md"
    service.wait(lambda _: service.models()[reference].state == "installed")
    service.ask(api.RemoveModel(id=next(_ids), reference=reference), api.Done)
    assert reference not in service.models()
    assert tiny.is_dir(), "a person's own folder stays"


def _until_done(client: IndexerClient) -> Iterator[api.Reply]:
    while True:
        reply = client._receive()
        yield reply
        if isinstance(reply, api.Done | api.Failed):
            return


@pytest.mark.timeout(300)
def test_a_model_that_was_moved_is_missed_and_another_one_helps(
    service: Service, tiny: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(tiny, here)
    service.use(str(here))
    service.wait(lambda s: s.switch is None and s.encoder.model == "here")
    here.rename(there)
    service.use(f"{there.parent}/here/../there")
    service.again()
    status = service.wait(lambda s: s.encoder.state != "loading")
    assert status.encoder.state in {"ready", "resting"}, status
    assert service.models()[str(there)].state == "active"

    there.rename(tmp_path / "gone")
    service.again()
    status = service.wait(lambda s: s.state != "starting")
    assert status.state == "failed"
    assert "dragoman models use" in status.notices[0].message
    service.use(BUNDLED)
    service.wait(lambda s: s.state == "watching" and s.switch is None and s.encoder.model == BUNDLED)
    assert service.found("mon chat et le vétérinaire") == "cat.md"


@pytest.mark.timeout(300)
def test_a_switch_survives_the_death_of_the_service(service: Service, tiny: Path) -> None:
    service.use(str(tiny))
    process = psutil.Process(service.client.pid)
    os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs([process], timeout=20)
    service.client.close()
    service.client = IndexerClient(service.data, name="test")
    status = service.wait(lambda s: s.switch is None and s.encoder.model == "tiny-qwen3")
    assert status.encoder.state in {"ready", "resting"}
    service.wait(lambda s: s.state == "watching" and s.files == len(NOTES))
    assert service.models()[BUNDLED].state == "installed"
    assert service.found("On day 7 the weather was fine and 21 ships passed.") == "day-7.txt"
