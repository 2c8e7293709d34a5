"""`dragoman models ...` against a service of the test's, over the real protocol."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from indexer import api
from indexer.cli import app
from indexer.client import ENDPOINT_FILE, IndexerClient
from indexer.errors import IndexerError
from tests.fakes import FakeService
from tests.terminal import started

QWEN = "Qwen/Qwen3-Embedding-0.6B"
MODELS = (
    api.Model(
        reference=QWEN,
        name="Qwen3-Embedding-0.6B",
        kind="hub",
        state="available",
        summary="Good.",
        languages="over 100 languages",
        licence="Apache-2.0",
        parameters=595_776_512,
        download_bytes=1_207_000_000,
        memory_bytes=1_800_000_000,
        dimensions=1024,
        choices=(512, 256),
        max_tokens=32_768,
        recommended=True,
    ),
    api.Model(
        reference="multilingual-e5-small",
        name="multilingual-e5-small",
        kind="bundled",
        state="active",
        installed_bytes=478_827_648,
        dimensions=384,
        tokens_per_s=1476.35,
        device="cpu",
        vectors=12_345,
        vector_bytes=9_480_960,
    ),
    api.Model(reference="a/same", name="same", kind="hub", state="available"),
    api.Model(reference="b/same", name="same", kind="hub", state="available"),
)
PLAN = api.Plan(id=0, texts=12_345, disk_bytes=75_000_000, free_bytes=20_000_000_000, seconds=3725.0)
VERIFIED = api.Verified(
    id=0,
    pairs=(api.Pair(first="one", second="\x1b[31mtwo[red]", similarity=0.8581, published=0.862),),
    is_reference=False,
    tokens_per_s=1500.0,
    device="cpu",
    note="Ours.",
)


class ModelService(FakeService):
    """Answers what is asked about models."""

    def __init__(self) -> None:
        super().__init__()
        self.progress: list[tuple[int, int, str]] = [
            (10, 100, "model.safetensors"),
            (100, 100, "model.safetensors"),
        ]
        self.stuck = False
        self.cost = PLAN
        self.listed = MODELS
        self.refused = False
        self.waiting = threading.Event()

    def _install(self, connection: socket.socket, request: api.InstallModel) -> None:
        for reply in self._answer(connection, request):
            self._send(connection, reply)

    def _answer(self, connection: socket.socket, request: api.Request) -> list[api.Reply]:
        if type(request) in self.fail:
            return super()._answer(connection, request)
        match request:
            case api.ListModels(id=i):
                return [api.Models(id=i, models=self.listed)]
            case api.InstallModel(id=i):
                told: list[api.Reply] = [
                    api.Progress(id=i, done=done, total=total, current=current, remaining_s=65.0)
                    for done, total, current in self.progress
                ]
                self.waiting.set()
                return told if self.stuck else [*told, api.Done(id=i)]
            case api.UseModel(id=i) | api.CancelSwitch(id=i) | api.RemoveModel(id=i):
                return [api.Done(id=i)]
            case api.PlanModel(id=i) if self.refused:
                return [api.Failed(id=i, title="The embedding server is away", message="Is it running?")]
            case api.PlanModel(id=i):
                return [api.Plan(id=i, **{n: getattr(self.cost, n) for n in PLAN.__struct_fields__[1:]})]
            case api.VerifyModel(id=i):
                return [
                    api.Verified(id=i, **{n: getattr(VERIFIED, n) for n in VERIFIED.__struct_fields__[1:]})
                ]
            case _:
                return super()._answer(connection, request)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ModelService]:
    service = ModelService()
    (tmp_path / ENDPOINT_FILE).write_text(json.dumps(service.endpoint._asdict()))
    yield service
    service.close()


def run(data_dir: Path, *arguments: str, answer: str | None = None, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["models", *arguments, "--data-dir", str(data_dir)], input=answer)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def out_json(data_dir: Path, *arguments: str) -> Any:
    return json.loads(run(data_dir, *arguments, "--json").stdout)


def test_the_list_names_every_model(service: ModelService, tmp_path: Path) -> None:
    lines = run(tmp_path, "list").output.splitlines()
    qwen = next(line for line in lines if QWEN in line)
    assert qwen.startswith("*")
    for part in ("available", "over 100", "Apache-2.0", "1.2 GB", "1.8 GB", "1,024", "32,768"):
        assert part in qwen
    bundled = next(line for line in lines if "multilingual-e5-small" in line)
    assert not bundled.startswith("*")
    for part in ("active", "479 MB", "384", "1,476"):
        assert part in bundled
    assert [model["reference"] for model in out_json(tmp_path, "list")] == [m.reference for m in MODELS]


@pytest.mark.parametrize("name", [QWEN, QWEN.lower(), "qwen3-embedding-0.6b"])
def test_a_model_is_found_by_its_name(service: ModelService, tmp_path: Path, name: str) -> None:
    assert out_json(tmp_path, "info", name)["reference"] == QWEN
    text = run(tmp_path, "info", name).output
    for part in ("596 million", "about 1.2 GB", "1,024 (or 512, 256)", "Apache-2.0", "not measured"):
        assert part in text


def test_what_is_not_there_or_not_clear(service: ModelService, tmp_path: Path) -> None:
    for name, why in (("nobody/knows", "models install nobody/knows"), ("same", "a/same, b/same")):
        result = run(tmp_path, "info", name, code=1)
        assert isinstance(result.exception, IndexerError)
        assert why in result.exception.message


def test_installing_tells_how_far_it_is(service: ModelService, tmp_path: Path) -> None:
    text = run(tmp_path, "install", "qwen3-embedding-0.6b").output
    assert f"{QWEN} is installed" in text
    assert f"dragoman models use {QWEN}" in text
    assert [request.reference for request in service.asked(api.InstallModel)] == [QWEN]
    assert out_json(tmp_path, "install", "some/other") == {"reference": "some/other", "bytes": 100}
    service.fail[api.InstallModel] = ("There is no such model", "Check the name.")
    result = run(tmp_path, "install", "some/other", code=1)
    assert isinstance(result.exception, IndexerError)
    assert result.exception.message == "Check the name."


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("./here", "here"),
        ("here/tiny.GGUF", "here/tiny.GGUF"),
        ("../x", "../x"),
        ("~", "~"),
        ("/a/b", "/a/b"),
    ],
)
def test_paths_are_made_absolute(
    service: ModelService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run(tmp_path, "install", given)
    path = Path(meant).expanduser().absolute()
    assert service.asked(api.InstallModel)[0].reference == str(path.resolve() if ".." in given else path)


def test_a_client_that_stops_consuming_cancels(service: ModelService, tmp_path: Path) -> None:
    service.stuck = True
    with IndexerClient(tmp_path, start=False) as client:
        told = client.install_model(QWEN)
        assert next(told).done == 10
        told.close()
        assert [c.target for c in service.asked(api.Cancel)] == [service.asked(api.InstallModel)[0].id]
        # The connection is still good.
        assert client.models() == MODELS


def test_ctrl_c_cancels_the_download(service: ModelService, tmp_path: Path) -> None:
    service.stuck = True
    command = [sys.executable, "-m", "indexer.cli", "models", "install", QWEN, "--data-dir", str(tmp_path)]
    shell = started(command)
    try:
        assert service.waiting.wait(30)
        shell.send_signal(signal.SIGINT)
        _, said = shell.communicate(timeout=30)
    finally:
        shell.kill()
        shell.wait()
    assert shell.returncode == 130
    assert "What was downloaded is kept" in said
    assert "Traceback" not in said
    assert len(service.asked(api.Cancel)) == 1


def test_the_costs_are_shown_before_a_switch(service: ModelService, tmp_path: Path) -> None:
    text = run(tmp_path, "use", QWEN, "--dimensions", "512", answer="n\n", code=1).output
    for part in ("12,345", "75 MB of 20.0 GB", "1 h 02 min"):
        assert part in text
    assert service.asked(api.UseModel) == []
    run(tmp_path, "use", "qwen3-embedding-0.6b", "--dimensions", "512", "--keep", answer="y\n")
    (used,) = service.asked(api.UseModel)
    assert (used.reference, used.dimensions, used.keep) == (QWEN, 512, True)
    assert [(p.reference, p.dimensions) for p in service.asked(api.PlanModel)] == [(QWEN, 512)] * 2
    run(tmp_path, "use", QWEN, "--yes")
    assert len(service.asked(api.UseModel)) == 2
    service.cost = api.Plan(id=0, texts=0, disk_bytes=0, free_bytes=1, seconds=None)
    run(tmp_path, "use", QWEN)  # nothing to ask where it costs nothing
    assert len(service.asked(api.UseModel)) == 3


def test_waiting_for_the_switch(service: ModelService, tmp_path: Path) -> None:
    result = run(tmp_path, "use", QWEN, "--yes", "--wait", code=1)
    assert isinstance(result.exception, IndexerError)
    assert "cancelled, or another model was chosen" in result.exception.message
    service.listed = (msgspec.structs.replace(MODELS[0], state="active"), *MODELS[1:])
    text = run(tmp_path, "use", QWEN, "--yes", "--wait").output
    assert "Searches now use" in text
    switch = api.SwitchStatus(
        reference=QWEN, dimensions=1024, done=1, total=9, remaining_s=None, state="paused"
    )
    service.push(switch=switch)
    result = run(tmp_path, "use", QWEN, "--yes", "--wait", code=1)
    assert isinstance(result.exception, IndexerError)
    assert "dragoman resume" in result.exception.message


def test_the_plan_alone(service: ModelService, tmp_path: Path) -> None:
    assert out_json(tmp_path, "plan", QWEN)["texts"] == 12_345
    service.cost = api.Plan(id=0, texts=5, disk_bytes=10, free_bytes=10**9, seconds=None)
    assert "models verify" in run(tmp_path, "plan", QWEN).output


def test_nothing_is_removed_without_a_yes(service: ModelService, tmp_path: Path) -> None:
    run(tmp_path, "remove", QWEN, answer="n\n", code=1)
    run(tmp_path, "remove", QWEN, answer="", code=1)
    assert service.asked(api.RemoveModel) == []
    run(tmp_path, "remove", QWEN, answer="y\n")
    run(tmp_path, "remove", QWEN, "--yes")
    assert [r.reference for r in service.asked(api.RemoveModel)] == [QWEN, QWEN]


def test_a_server_is_stored_when_it_answers(service: ModelService, tmp_path: Path) -> None:
    service.refused = True
    result = run(tmp_path, "server", "desk", "http://127.0.0.1:9/v1", code=1)
    assert isinstance(result.exception, IndexerError)
    assert service.asked(api.PutSettings) == []
    service.refused = False
    service.cost = api.Plan(id=0, texts=7, disk_bytes=1, free_bytes=1, seconds=None, anew=True)
    text = run(tmp_path, "server", "desk", "http://127.0.0.1:9/v1", "--passage-prefix", "p: ").output
    assert "server:desk answers" in text
    assert "cannot be searched" in " ".join(text.split())
    tried = service.asked(api.PlanModel)[-1].server
    assert tried is not None
    assert tried.passage_prefix == "p: "
    assert service.asked(api.PutSettings)[0].settings.servers == (tried,)
    assert "half a minute" in run(tmp_path, "use", "server:desk", "--yes").output


def test_a_build_is_cancelled(service: ModelService, tmp_path: Path) -> None:
    run(tmp_path, "cancel")
    run(tmp_path, "cancel", "qwen3-embedding-0.6b")
    assert [r.reference for r in service.asked(api.CancelSwitch)] == ["", QWEN]


def test_verifying_shows_both_numbers(service: ModelService, tmp_path: Path) -> None:
    text = run(tmp_path, "verify", QWEN, "--dimensions", "256").output
    assert service.asked(api.VerifyModel)[0].dimensions == 256
    row = next(line for line in text.splitlines() if "one" in line and "two" in line)
    assert "0.858" in row
    assert "0.862" in row
    assert "\x1b" not in text
    assert "[red]" in text
    assert "another model than the one" in text
    assert "Ours." in text
    assert out_json(tmp_path, "verify", QWEN)["pairs"][0]["published"] == 0.862
