"""Downloads from a stand-in Hub: a real server, real connections, a real child process."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from indexer.embed import hub
from indexer.settings import Settings
from tests.hub_server import HubServer

NAME = "someone/tiny-model"
WEIGHTS = "model.safetensors"
BLOCK = 1 << 16  # what the download writes at once
CONFIG = json.dumps({"model_type": "bert", "hidden_size": 8}).encode()
MODULES = json.dumps(
    [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
).encode()


def weights(rows: int = 20_000) -> bytes:
    return save({"embeddings": np.random.default_rng(7).random((rows, 8), np.float32)})


def files() -> dict[str, bytes]:
    return {
        "config.json": CONFIG,
        "modules.json": MODULES,
        "tokenizer.json": b'{"version": "1.0"}' + b" " * 5000,
        "1_Pooling/config.json": b"{}",
        "2_Dense/config.json": b"{}",
        "2_Dense/model.safetensors": save({"linear.weight": np.eye(8, dtype=np.float32)}),
        WEIGHTS: weights(),
        "README.md": b"# card",
        "pytorch_model.bin": b"\x80\x04pickle",
        "modeling_evil.py": b"raise SystemExit",
        "onnx/model.onnx": b"onnx",
        "openvino/config.json": b"{}",
    }


TAKEN = {
    *("config.json", "modules.json", "tokenizer.json", "1_Pooling/config.json", "2_Dense/config.json"),
    *("2_Dense/model.safetensors", WEIGHTS),
}


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


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


def settings(server: HubServer) -> Settings:
    return Settings(hub_endpoint=server.url)


def test_a_model_is_installed_with_what_it_needs_and_nothing_else(server: HubServer, cache: Path) -> None:
    repository = server.add(NAME, files(), card={"license": "mit"})
    told: list[tuple[int, int, str]] = []
    path = hub.install(NAME, settings(server), lambda *now: told.append(now))
    assert path == cache / "models" / "hub" / "someone--tiny-model"
    assert {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()} == TAKEN | {hub.MANIFEST}
    for name in TAKEN:
        assert (path / name).read_bytes() == files()[name]
    model = hub.installed(NAME)
    assert model is not None
    assert model.manifest.commit == repository.commit("main")
    assert model.manifest.licence == "mit"
    assert model.manifest.files[WEIGHTS].sha256 == hashlib.sha256(files()[WEIGHTS]).hexdigest()
    assert model.manifest.bytes == sum(len(files()[name]) for name in TAKEN)
    assert hub.all_installed() == (model,)
    done = [done for done, _, _ in told]
    assert done == sorted(done)
    assert told[-1][:2] == (model.manifest.bytes, model.manifest.bytes)
    assert not any("torch" in agent or "agent/" in agent for agent in server.agents)
    # The second time there is nothing to ask.
    asked = len(server.asked)
    assert hub.install(NAME, settings(server)) == path
    assert len(server.asked) == asked
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_download_that_breaks_goes_on_by_itself(server: HubServer) -> None:
    server.add(NAME, files())
    server.break_after[WEIGHTS] = [3 * BLOCK, 2 * BLOCK]
    path = hub.install(NAME, settings(server))
    assert (path / WEIGHTS).read_bytes() == files()[WEIGHTS]
    assert [one.start for one in server.served if one.path == WEIGHTS] == [0, 3 * BLOCK, 5 * BLOCK]
    # Nothing that had arrived was sent again.
    assert server.bytes_of(WEIGHTS) == len(files()[WEIGHTS])


def test_a_cancelled_download_ends_at_once_and_is_resumed(server: HubServer) -> None:
    server.add(NAME, files())
    size = len(files()[WEIGHTS])
    cancel, waiting = threading.Event(), threading.Event()

    def hold(path: str, sent: int) -> None:
        if path == WEIGHTS and sent >= size // 2 and not cancel.is_set():
            waiting.set()
            cancel.wait(30)

    server.gate = hold
    begun: list[float] = []

    def cancelled() -> bool:
        if waiting.is_set() and partial() >= 4 * BLOCK and not begun:
            begun.append(time.monotonic())
        return bool(begun)

    def partial() -> int:
        return sum(p.stat().st_size for p in hub.partial_of(NAME).glob("*.part"))

    with pytest.raises(hub.CancelledError):
        hub.install(NAME, settings(server), cancelled=cancelled)
    assert time.monotonic() - begun[0] < 1.0
    assert hub.installed(NAME) is None
    kept = partial()
    assert kept >= 4 * BLOCK
    cancel.set()
    told: list[int] = []
    hub.install(NAME, settings(server), lambda done, total, file: told.append(done))
    again = [one for one in server.served if one.path == WEIGHTS][-1]
    assert (again.start, again.sent) == (kept, size - kept)
    assert told[0] > kept
    assert hub.installed(NAME) is not None
    assert not hub.partial_of(NAME).exists()
