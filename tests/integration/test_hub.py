"""Downloads from a stand-in Hub: a real server, real connections, a real child process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from indexer import api
from indexer import settings as settings_module
from indexer.cli import app
from indexer.client import IndexerClient
from indexer.embed import ModelChoice, catalogue, hub
from indexer.embed.bundled import ensure_bundled
from indexer.embed.bundled import key as bundled_key
from indexer.embed.load import info_of, load_encoder
from indexer.embed.measure import last_measured
from indexer.embed.verify import verified
from indexer.errors import FatalError, IndexerError
from indexer.settings import Settings
from tests.hub_server import HubServer
from tests.terminal import started
from tests.tiny_models import sentence

NAME = "someone/tiny-model"
WEIGHTS = "model.safetensors"
BLOCK = 1 << 16  # what the download writes at once
UNWANTED = {
    "pytorch_model.bin": b"\x80\x04pickle",
    "training_args.pt": b"\x80\x04pickle",
    "modeling_evil.py": b"raise SystemExit",
    "onnx/model.onnx": b"onnx",
    "openvino/config.json": b"{}",
    "pytorch_model.bin.index.json": b"{}",
    hub.MANIFEST: b"{}",
    ".gitattributes": b"",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A model as it is published, with two megabytes of weights and two Dense modules."""
    folder = sentence("gemma", tmp_path_factory.mktemp("model"), intermediate_size=2048)
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))  # nobody's real token
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub, "_OFFLINE_BY_ENVIRONMENT", False)
    # What the service does to its own process must not reach the download.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def bundled() -> Path:
    """The bundled model's folder in the usual cache."""
    ensure_bundled()
    return settings_module.cache_dir() / "models" / bundled_key()


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def settings(server: HubServer) -> Settings:
    # Torch: the cache is new, and nothing here is worth half a minute of translating a model for OpenVINO.
    return Settings(hub_endpoint=server.url, device="cpu", engine="torch")


def partial() -> int:
    return sum(p.stat().st_size for p in hub.partial_of(NAME).glob("*.part"))


def hold_at(server: HubServer, at: int) -> tuple[threading.Event, threading.Event]:
    """Make the weights stop coming at a byte: an event for when it is reached, and one that lets go."""
    reached, go = threading.Event(), threading.Event()

    def hold(path: str, sent: int) -> None:
        if path == WEIGHTS and sent >= at and not go.is_set():
            reached.set()
            go.wait(60)

    server.gate = hold
    return reached, go


# --- what is downloaded -----------------------------------------------------------------------


def test_a_model_is_installed_with_what_it_needs_and_nothing_else(
    server: HubServer, files: dict[str, bytes], cache: Path
) -> None:
    repository = server.add(NAME, files | UNWANTED, card={"license": "mit"})
    told: list[tuple[int, int, str]] = []
    path = hub.install(NAME, settings(server), lambda *now: told.append(now))
    assert path == cache / "models" / "hub" / "someone--tiny-model"
    found = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert found == set(files) | {hub.MANIFEST}
    for name, content in files.items():
        assert (path / name).read_bytes() == content
    model = hub.installed(NAME)
    assert model is not None
    assert model.manifest.commit == repository.commit("main")
    assert model.manifest.licence == "mit"
    assert model.manifest.files[WEIGHTS].sha256 == hashlib.sha256(files[WEIGHTS]).hexdigest()
    assert model.manifest.files["config.json"].sha256 == hashlib.sha256(files["config.json"]).hexdigest()
    assert model.manifest.bytes == sum(map(len, files.values()))
    assert hub.all_installed() == (model,)
    done = [done for done, _, _ in told]
    assert done == sorted(done)
    assert told[-1][:2] == (model.manifest.bytes, model.manifest.bytes)
    assert not any("torch" in agent or "agent/" in agent for agent in server.agents)
    assert not any(one.authorization for one in server.served)
    # The second time there is nothing to ask.
    asked = len(server.asked)
    assert hub.install(NAME, settings(server)) == path
    assert len(server.asked) == asked
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_installed_model_is_loaded_verified_and_removed(
    server: HubServer, files: dict[str, bytes]
) -> None:
    server.add(NAME, files)
    here, choice = settings(server), ModelChoice(NAME)
    with pytest.raises(FatalError, match="dragoman models install someone/tiny-model"):
        info_of(here, choice)
    hub.install(NAME, here)
    info = info_of(here, choice)
    encoder = load_encoder(here, choice)
    assert encoder.info == info
    vectors = encoder.encode_passages(["the cat sat on a mat", "rain"])
    assert vectors.shape == (2, info.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    listed = {model.reference: model for model in catalogue.models(here, {})}[NAME]
    assert (listed.kind, listed.state, listed.dimensions, listed.max_tokens) == ("hub", "installed", 48, 64)
    assert listed.installed_bytes == sum(map(len, files.values()))
    assert listed.parameters == pytest.approx(len(files[WEIGHTS]) / 4, rel=0.1)
    answer = verified(7, encoder, NAME)
    assert len(answer.pairs) == 7
    assert [pair.published for pair in answer.pairs] == [0.862, 0.214, 0.891, 0.187, 0.835, 0.77, 0.75]
    first = encoder.encode_passages([answer.pairs[0].first, answer.pairs[0].second])
    assert answer.pairs[0].similarity == pytest.approx(float(first[0] @ first[1]), abs=1e-5)
    assert not answer.is_reference
    assert answer.note
    speed = last_measured(NAME)
    assert speed is not None
    assert (speed.key, speed.device, speed.precision) == (info.key, "cpu", "float32")
    assert speed.tokens_per_s == pytest.approx(answer.tokens_per_s, abs=0.1)
    hub.remove(NAME)
    assert hub.installed(NAME) is None
    with pytest.raises(IndexerError, match="nothing of someone/tiny-model"):
        hub.remove(NAME)


def test_what_installing_means_is_told_before(server: HubServer, files: dict[str, bytes]) -> None:
    repository = server.add(NAME, files | UNWANTED, card={"license": "other", "license_name": "tiny"})
    plan = hub.plan(NAME, settings(server))
    assert (plan.total_bytes, plan.files) == (sum(map(len, files.values())), len(files))
    assert plan.commit == repository.commit("main")
    assert plan.licence == "tiny"
    assert plan.free_bytes > 0
    assert WEIGHTS not in [one.path for one in server.served]
    assert hub.installed(NAME) is None


def test_weights_in_several_files(server: HubServer, files: dict[str, bytes]) -> None:
    from safetensors.numpy import load, save

    tensors = load(files[WEIGHTS])
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    index = {"weight_map": {name: part for part, own in parts.items() for name in own}}
    split = {part: save({name: tensors[name] for name in own}) for part, own in parts.items()}
    rest = {name: content for name, content in files.items() if name != WEIGHTS}
    server.add(NAME, rest | split | {hub.INDEX: json.dumps(index).encode(), "model-99.safetensors": b"no"})
    path = hub.install(NAME, settings(server))
    assert {p.name for p in path.glob("*.safetensors")} == set(parts)
    assert info_of(settings(server), ModelChoice(NAME)).dim == 48


def test_weights_come_from_the_hubs_own_conversion(server: HubServer, files: dict[str, bytes]) -> None:
    """As bge-m3 is published: pickled weights, and safetensors in the converter's request to merge only."""
    pickled = {name: content for name, content in files.items() if name != WEIGHTS}
    pickled["pytorch_model.bin"] = b"\x80\x04pickle"
    repository = server.add(NAME, pickled)
    with pytest.raises(IndexerError, match="no safe weights"):
        hub.install(NAME, settings(server))
    evil = json.dumps({"model_type": "evil"}).encode()
    repository.revisions["refs/pr/3"] = pickled | {WEIGHTS: b"from a stranger"}
    repository.revisions["refs/pr/4"] = pickled | {WEIGHTS: files[WEIGHTS], "config.json": evil}
    for number, author in ((3, "a-stranger"), (4, "SFconvertbot")):
        request = {"num": number, "title": "Adding `safetensors` variant of this model", "status": "open"}
        request |= {"isPullRequest": True, "createdAt": "2024-01-01T00:00:00.000Z"}
        request |= {"author": {"name": author}, "repo": {"name": NAME, "type": "model"}}
        repository.requests.append(request)
    path = hub.install(NAME, settings(server))
    assert (path / WEIGHTS).read_bytes() == files[WEIGHTS]
    assert (path / "config.json").read_bytes() == files["config.json"]
    model = hub.installed(NAME)
    assert model is not None
    assert model.manifest.weights_commit == repository.commit("refs/pr/4")
    assert model.manifest.commit == repository.commit("main")


# --- breaking, stopping, going on -------------------------------------------------------------


def test_a_download_that_breaks_goes_on_by_itself(server: HubServer, files: dict[str, bytes]) -> None:
    server.add(NAME, files)
    server.break_after[WEIGHTS] = [3 * BLOCK, 2 * BLOCK]
    path = hub.install(NAME, settings(server))
    assert (path / WEIGHTS).read_bytes() == files[WEIGHTS]
    assert [one.start for one in server.served if one.path == WEIGHTS] == [0, 3 * BLOCK, 5 * BLOCK]
    # Nothing that had arrived was sent again.
    assert server.bytes_of(WEIGHTS) == len(files[WEIGHTS])


def test_a_cancelled_download_ends_at_once_and_is_resumed(server: HubServer, files: dict[str, bytes]) -> None:
    server.add(NAME, files)
    size = len(files[WEIGHTS])
    reached, go = hold_at(server, size // 2)
    begun: list[float] = []

    def cancelled() -> bool:
        if reached.is_set() and partial() >= 4 * BLOCK and not begun:
            begun.append(time.monotonic())
        return bool(begun)

    with pytest.raises(hub.CancelledError):
        hub.install(NAME, settings(server), cancelled=cancelled)
    assert time.monotonic() - begun[0] < 1.0
    assert hub.installed(NAME) is None
    kept = partial()
    assert kept >= 4 * BLOCK
    go.set()
    assert hub.plan(NAME, settings(server)).have_bytes >= kept
    told: list[int] = []
    hub.install(NAME, settings(server), lambda done, total, file: told.append(done))
    again = [one for one in server.served if one.path == WEIGHTS][-1]
    assert (again.start, again.sent) == (kept, size - kept)
    assert told[0] > kept
    assert hub.installed(NAME) is not None
    assert not hub.partial_of(NAME).exists()


def test_when_the_one_who_asked_is_killed_the_download_ends_too(
    server: HubServer, files: dict[str, bytes]
) -> None:
    server.add(NAME, files)
    reached, go = hold_at(server, 8 * BLOCK)
    program = (
        "from indexer.embed import hub; from indexer.settings import Settings; "
        f"hub._OFFLINE_BY_ENVIRONMENT = False; hub.install({NAME!r}, Settings(hub_endpoint={server.url!r}))"
    )
    asker = subprocess.Popen([sys.executable, "-c", program])
    try:
        assert reached.wait(30)
        children = psutil.Process(asker.pid).children()
        assert len(children) == 1
        asker.send_signal(signal.SIGKILL)
        asker.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive
    finally:
        asker.kill()
        asker.wait()
        go.set()
    kept = partial()
    hub.install(NAME, settings(server))
    assert [one.start for one in server.served if one.path == WEIGHTS][-1] == kept
    assert server.bytes_of(WEIGHTS) >= len(files[WEIGHTS])


def test_a_newer_commit_keeps_what_did_not_change(server: HubServer, files: dict[str, bytes]) -> None:
    """The half-downloaded weights are known by their checksum, not by the commit they were begun with."""
    repository = server.add(NAME, files)
    reached, go = hold_at(server, 8 * BLOCK)
    with pytest.raises(hub.CancelledError):
        hub.install(NAME, settings(server), cancelled=lambda: reached.is_set() and partial() > 0)
    go.set()
    kept = partial()
    repository.revisions["main"] = files | {"README.md": b"# A word was corrected"}
    path = hub.install(NAME, settings(server))
    assert [one.start for one in server.served if one.path == WEIGHTS][-1] == kept
    assert (path / "README.md").read_bytes() == b"# A word was corrected"


def test_a_server_without_ranges_gives_the_file_anew(server: HubServer, files: dict[str, bytes]) -> None:
    server.add(NAME, files)
    server.no_ranges = True
    server.break_after[WEIGHTS] = [4 * BLOCK]
    path = hub.install(NAME, settings(server))
    assert (path / WEIGHTS).read_bytes() == files[WEIGHTS]


def test_two_at_once(server: HubServer, files: dict[str, bytes]) -> None:
    server.add(NAME, files)
    reached, go = hold_at(server, BLOCK)
    first = threading.Thread(target=hub.install, args=(NAME, settings(server)))
    first.start()
    try:
        assert reached.wait(30)
        with pytest.raises(IndexerError, match="Another program is downloading"):
            hub.install(NAME, settings(server))
    finally:
        go.set()
        first.join()
    assert hub.installed(NAME) is not None


# --- bytes that are not what they should be ---------------------------------------------------


def test_a_damaged_file_is_noticed_and_fetched_again(server: HubServer, files: dict[str, bytes]) -> None:
    server.add(NAME, files)
    server.corrupt = {WEIGHTS: 1, "config.json": 1}
    path = hub.install(NAME, settings(server))
    for name in (WEIGHTS, "config.json"):
        assert (path / name).read_bytes() == files[name]
        assert server.bytes_of(name) == 2 * len(files[name])


@pytest.mark.parametrize("name", [WEIGHTS, "modules.json"])
def test_a_file_that_stays_damaged_is_never_installed(
    server: HubServer, files: dict[str, bytes], name: str
) -> None:
    server.add(NAME, files)
    server.corrupt = {name: 99}
    with pytest.raises(IndexerError, match="other bytes") as caught:
        hub.install(NAME, settings(server))
    assert name in caught.value.message
    assert hub.all_installed() == ()
    assert not hub.folder_of(NAME).exists()


def test_what_was_damaged_before_the_break_is_noticed(server: HubServer, files: dict[str, bytes]) -> None:
    server.add(NAME, files)
    reached, go = hold_at(server, 8 * BLOCK)
    with pytest.raises(hub.CancelledError):
        hub.install(NAME, settings(server), cancelled=lambda: reached.is_set() and partial() > 0)
    go.set()
    (part,) = hub.partial_of(NAME).glob("*.part")
    part.write_bytes(b"x" * part.stat().st_size)
    path = hub.install(NAME, settings(server))
    assert (path / WEIGHTS).read_bytes() == files[WEIGHTS]


def test_more_bytes_than_there_should_be_are_not_taken(server: HubServer, files: dict[str, bytes]) -> None:
    server.add(NAME, files)
    server.more_bytes[WEIGHTS] = 50 * BLOCK
    with pytest.raises(IndexerError, match="longer than"):
        hub.install(NAME, settings(server))
    assert partial() <= len(files[WEIGHTS])
    assert hub.installed(NAME) is None


def test_a_model_that_lost_a_file_is_installed_again(server: HubServer, files: dict[str, bytes]) -> None:
    server.add(NAME, files)
    path = hub.install(NAME, settings(server))
    (path / "1_Pooling" / "config.json").unlink()
    assert hub.installed(NAME) is None
    assert hub.install(NAME, settings(server)) == path
    assert hub.installed(NAME) is not None
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# --- refusals ---------------------------------------------------------------------------------


def test_a_licence_that_has_to_be_accepted(
    server: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.add(NAME, files, gated=True, token="secret-1")
    with pytest.raises(IndexerError, match="HF_TOKEN"):
        hub.install(NAME, settings(server))
    # A login that is stored goes to no mirror.
    (tmp_path / "hf").mkdir(exist_ok=True)
    (tmp_path / "hf" / "token").write_text("secret-1")
    with pytest.raises(IndexerError, match="HF_TOKEN"):
        hub.install(NAME, settings(server))
    monkeypatch.setenv("HF_TOKEN", "secret-2")
    with pytest.raises(IndexerError, match="of nobody who did") as caught:
        hub.install(NAME, settings(server))
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "secret-1")
    assert server.served == []
    hub.install(NAME, settings(server))
    # The storage host is another one and is told no token.
    large = [one for one in server.served if one.path == WEIGHTS]
    assert [one.authorization for one in large] == [""]
    assert {one.authorization for one in server.served if one.path == "config.json"} == {"Bearer secret-1"}


def test_a_model_for_all_is_fetched_without_the_token(
    server: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(NAME, files)
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.install(NAME, settings(server))
    assert {one.authorization for one in server.served} == {""}


def test_code_is_never_wanted(server: HubServer, files: dict[str, bytes]) -> None:
    modules = json.loads(files["modules.json"])
    modules[0]["type"] = "custom_st.Transformer"
    evil = {"model_type": "evil", "auto_map": {"AutoModel": "modeling_evil.Evil"}}
    for changed in (
        {"modules.json": json.dumps(modules).encode()},
        {"config.json": json.dumps(evil).encode()},
    ):
        server.add(NAME, files | UNWANTED | changed)
        with pytest.raises(IndexerError, match="code of its own"):
            hub.install(NAME, settings(server))
    assert {one.path for one in server.served} == {"modules.json", "config.json"}


def test_a_model_that_cannot_be_used_does_not_stay(server: HubServer, files: dict[str, bytes]) -> None:
    config = json.loads(files["2_Dense/config.json"]) | {"activation_function": "of.ones.own"}
    server.add(NAME, files | {"2_Dense/config.json": json.dumps(config).encode()})
    with pytest.raises(IndexerError, match="removed again"):
        hub.install(NAME, settings(server))
    assert not hub.folder_of(NAME).exists()


def test_there_is_no_such_model_and_no_hub(server: HubServer, cache: Path) -> None:
    with pytest.raises(IndexerError, match="no public model"):
        hub.install(NAME, settings(server))
    server.status = 500
    with pytest.raises(IndexerError, match="answered 500"):
        hub.install(NAME, settings(server))
    here = settings(server)
    server.close()
    with pytest.raises(IndexerError, match="cannot be reached"):
        hub.install(NAME, here)


def test_the_storage_host_has_to_be_reached_by_https(server: HubServer, files: dict[str, bytes]) -> None:
    server.add(NAME, files)
    server.cdn = "http://storage.example.org"
    with pytest.raises(IndexerError, match="not encrypted") as caught:
        hub.install(NAME, settings(server))
    assert "storage.example.org" in caught.value.message


def test_offline_asks_nobody(
    server: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add(NAME, files)
    with pytest.raises(IndexerError, match="in the settings"):
        hub.install(NAME, Settings(hub_endpoint=server.url, offline=True))
    monkeypatch.setattr(hub, "_OFFLINE_BY_ENVIRONMENT", True)
    with pytest.raises(IndexerError, match="HF_HUB_OFFLINE"):
        hub.plan(NAME, settings(server))
    assert server.asked == []
    monkeypatch.setattr(hub, "_OFFLINE_BY_ENVIRONMENT", False)
    path = hub.install(NAME, settings(server))
    assert hub.install(NAME, Settings(offline=True)) == path


def test_a_full_disk_is_told_before(
    server: HubServer, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.add(NAME, files)
    (tmp_path / "sitecustomize.py").write_text(
        "import shutil, collections\n"
        "Usage = collections.namedtuple('Usage', 'total used free')\n"
        "shutil.disk_usage = lambda path: Usage(10**9, 10**9 - 66 * 10**6, 66 * 10**6)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(IndexerError, match="Not enough room") as caught:
        hub.install(NAME, settings(server))
    assert "66 MB are free" in caught.value.message
    assert WEIGHTS not in [one.path for one in server.served]


# --- as an answer to a request ----------------------------------------------------------------


async def collect(server: HubServer, reference: str) -> list[api.Progress]:
    return [progress async for progress in hub.installing(5, reference, settings(server))]


def test_progress_is_told(server: HubServer, files: dict[str, bytes]) -> None:
    server.add(NAME, files)
    told = asyncio.run(collect(server, NAME))
    total = sum(map(len, files.values()))
    assert (told[-1].id, told[-1].done, told[-1].total) == (5, total, total)
    assert {progress.total for progress in told} == {total}
    assert all(progress.current for progress in told)
    assert hub.installed(NAME) is not None


def test_failure_is_told(server: HubServer) -> None:
    with pytest.raises(IndexerError, match="no public model"):
        asyncio.run(collect(server, NAME))


def test_cancelling_the_task_ends_the_child(server: HubServer, files: dict[str, bytes]) -> None:
    server.add(NAME, files)
    reached, go = hold_at(server, 4 * BLOCK)

    async def run() -> float:
        task = asyncio.create_task(collect(server, NAME))
        assert await asyncio.to_thread(reached.wait, 30)
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - begun

    try:
        assert asyncio.run(run()) < 1.0
    finally:
        go.set()
    children = psutil.Process(os.getpid()).children(recursive=True)
    assert not [child for child in children if "hub_child" in " ".join(child.cmdline())]
    assert partial() > 0
    # Its lock is gone with it.
    asyncio.run(collect(server, NAME))


def test_a_folder_or_file_is_checked_instead(
    server: HubServer, files: dict[str, bytes], tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_bytes(content)
    (told,) = asyncio.run(collect(server, str(tmp_path / "own")))
    assert told.done == told.total > 0
    assert server.asked == []
    local = hub.check_local(tmp_path / "own")
    assert local.kind == "folder"
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"GGUF" + bytes(60))
    assert hub.check_local(gguf) == hub.LocalModel(path=gguf, kind="gguf", bytes=64)
    gguf.write_bytes(b"PK\x03\x04")
    (tmp_path / "own" / "modules.json").unlink()
    (tmp_path / "own" / "config.json").unlink()
    for wrong in (gguf, tmp_path / "own", tmp_path / "nowhere", Path("relative/path/of/three")):
        with pytest.raises(IndexerError) as caught:
            hub.check_local(wrong)
        assert not isinstance(caught.value, FatalError)


# --- through the program ----------------------------------------------------------------------


def dragoman(data: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "indexer.cli", "models", *arguments, "--data-dir", str(data)]
    return started(command)


def said(data: Path, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["models", *arguments, "--data-dir", str(data)])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output + str(result.exception or "")


@pytest.mark.timeout(240)
def test_from_download_to_search_by_the_command_line(
    server: HubServer,
    files: dict[str, bytes],
    bundled: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):  # from its start they are the person's word
        monkeypatch.delenv(name)
    (cache / "models").mkdir(parents=True)
    (cache / "models" / bundled.name).symlink_to(bundled)
    data, notes = tmp_path / "data", tmp_path / "notes"
    notes.mkdir()
    (notes / "cat.txt").write_text("the cat sat on a mat while rain fell over old stone bridges")
    settings_module.save(data, settings(server))
    server.add("Qwen/Qwen3-Embedding-0.6B", files)
    reference = "Qwen/Qwen3-Embedding-0.6B"
    reached, go = hold_at(server, 4 * BLOCK)
    with IndexerClient(data) as client:
        try:
            client.add_folder(notes)
            deadline, beat = time.monotonic() + 60, threading.Event()
            while client.status().files != 1:
                assert time.monotonic() < deadline
                beat.wait(0.05)
            with dragoman(data, "install", "qwen3-embedding-0.6b") as shell:
                stopped = reached.wait(60)
                shell.send_signal(signal.SIGINT)
                out, err = shell.communicate(timeout=30)
            assert stopped, (out, err)
            assert shell.returncode == 130
            assert "What was downloaded is kept" in err
            children = psutil.Process(client.pid).children(recursive=True)
            assert not [child for child in children if "hub_child" in " ".join(child.cmdline())]
            assert "available" in said(data, "info", reference)
            assert "not installed" in said(data, "use", reference, "--yes", code=1)
            go.set()
            assert "is installed" in said(data, "install", reference)
            assert [one.start for one in server.served if one.path == WEIGHTS][-1] > 0
            asked = len(server.asked)
            verdict = json.loads(said(data, "verify", reference, "--json"))
            assert verdict["is_reference"]
            assert [pair["published"] for pair in verdict["pairs"]][:2] == [0.862, 0.214]
            assert "Time" in said(data, "plan", reference)
            assert "Searches now use" in said(data, "use", reference, "--yes", "--wait")
            assert "in use" in said(data, "remove", reference, "--yes", code=1)
            listed = {model["reference"]: model for model in json.loads(said(data, "list", "--json"))}
            assert listed[reference]["state"] == "active"
            assert listed[reference]["tokens_per_s"] > 0
            assert [Path(hit.path).name for hit in client.search("cat").hits] == ["cat.txt"]
            said(data, "use", "multilingual-e5-small", "--yes", "--wait")
            assert "was removed" in said(data, "remove", reference, "--yes")
            assert not (cache / "models" / "hub" / "Qwen--Qwen3-Embedding-0.6B").exists()
            # Nothing but the download asked the Hub for anything.
            assert len(server.asked) == asked
        finally:
            go.set()
            client.stop()
