"""Known models, this computer, names of models, and what measuring remembers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.api import Task
from indexer.embed import EncoderInfo, ModelChoice, Vectors, catalogue, hub, measure, verify
from indexer.embed.bundled import NAME
from indexer.embed.catalogue import KNOWN, REFERENCE_MODEL, Hardware, InLibrary, hardware, models
from indexer.errors import IndexerError
from indexer.settings import EmbeddingServer, Settings

GPU = Hardware(memory_bytes=16 << 30, gpu="A GPU", gpu_bytes=8 << 30)
NO_GPU = Hardware(memory_bytes=16 << 30)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Encoder:
    """Vectors by the letters of a text; counts calls."""

    device = "cpu"
    precision = "float32"

    def __init__(self, key: str = "letters-1", name: str = "letters") -> None:
        self.info = EncoderInfo(key=key, name=name, dim=26, max_tokens=100, tokenizer=Path("none"))
        self.calls: list[int] = []

    def encode_queries(self, texts: Sequence[str], task: Task = "notes") -> Vectors:
        raise AssertionError("sentences are compared as passages, without an instruction")

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(len(texts))
        rows = [[1 + text.lower().count(chr(97 + at)) for at in range(26)] for text in texts]
        found = np.array(rows, np.float32)
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [100 for _ in texts]


# --- known models -----------------------------------------------------------------------------


def test_known_models_are_named_once_and_make_sense() -> None:
    wanted = {
        NAME,
        "Qwen/Qwen3-Embedding-0.6B",
        "Qwen/Qwen3-Embedding-4B",
        "Qwen/Qwen3-Embedding-8B",
        "BAAI/bge-m3",
        "google/embeddinggemma-300m",
        "intfloat/multilingual-e5-base",
        "intfloat/multilingual-e5-large",
    }
    assert {model.reference for model in KNOWN} == wanted
    assert len(KNOWN) == len(wanted)
    for model in KNOWN:
        assert list(model.choices) == sorted(model.choices, reverse=True)
        assert all(0 < choice < model.dimensions for choice in model.choices)
        if model.reference != NAME:
            assert hub.is_hub_reference(model.reference)
            # Published in 16 or 32 bits a weight, and a tokenizer of some megabytes.
            surplus = min(abs(model.download_bytes - size * model.parameters) for size in (2, 4))
            assert surplus < 50_000_000
    assert [model.reference for model in KNOWN if model.gated] == ["google/embeddinggemma-300m"]


def test_what_is_known_agrees_with_the_programs_that_read_models() -> None:
    """The bundled model's figures are those of the model itself; lengths are those that the reader offers."""
    from indexer.embed.bundled import MODEL
    from indexer.embed.sentence import matryoshka

    bundled = catalogue.known("")
    assert bundled is not None
    assert (bundled.reference, bundled.dimensions, bundled.max_tokens) == (NAME, MODEL.dim, MODEL.max_length)
    for reference in (REFERENCE_MODEL, "Qwen/Qwen3-Embedding-4B", "Qwen/Qwen3-Embedding-8B"):
        qwen = catalogue.known(reference)
        assert qwen is not None
        assert qwen.choices == matryoshka("Instruct: {}\nQuery:", "qwen3", qwen.dimensions)
    gemma = catalogue.known("google/embeddinggemma-300m")
    assert gemma is not None
    assert gemma.choices == matryoshka("task: {} | query: ", "gemma3_text", gemma.dimensions)


def test_names_are_taken_in_any_case() -> None:
    assert catalogue.choice_of("qwen/qwen3-embedding-0.6b", 256) == ModelChoice(REFERENCE_MODEL, 256)
    assert catalogue.choice_of(NAME) == catalogue.choice_of("") == ModelChoice()
    assert catalogue.choice_of("Someone/Else") == ModelChoice("Someone/Else")


# --- this computer ----------------------------------------------------------------------------


def fake_nvidia(folder: Path, says: str, *, code: int = 0) -> str:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\nexit {code}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("says", "code", "name", "size"),
    [
        ("NVIDIA RTX 4070, 12282", 0, "NVIDIA RTX 4070", 12282 << 20),
        ("GeForce, the small one, 2048\nNVIDIA A, B, 24564", 0, "NVIDIA A, B", 24564 << 20),
        ("NVIDIA-SMI has failed because it couldn't communicate with the driver", 9, "", 0),
        ("NVIDIA GB10, [N/A]", 0, "", 0),
        ("", 0, "", 0),
    ],
)
def test_a_gpu_is_found_by_nvidias_own_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, code: int, name: str, size: int
) -> None:
    program = fake_nvidia(tmp_path, says, code=code)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(catalogue, "_torch_has_cuda", lambda: True)
    found = hardware(Settings(), nvidia_smi=program)
    assert (found.gpu, found.gpu_bytes) == (name, size)
    assert hardware(Settings(device="cpu"), nvidia_smi=program).gpu == ""
    assert hardware(Settings(), nvidia_smi=str(tmp_path / "none")).gpu == ""
    # A torch that was built without CUDA cannot use it.
    monkeypatch.setattr(catalogue, "_torch_has_cuda", lambda: False)
    assert hardware(Settings(), nvidia_smi=program).gpu == ""


def test_what_torch_was_built_for_is_read_from_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('it was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "torch", raising=False)
    for text, has in (
        ("__version__ = '2.13.0+cu128'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", True),
        ("__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n", False),
        ("", False),
    ):
        (package / "version.py").write_text(text)
        assert catalogue._torch_has_cuda() is has


@pytest.mark.parametrize(
    ("found", "reference"),
    [
        (NO_GPU, NAME),
        (GPU, REFERENCE_MODEL),
        (Hardware(memory_bytes=64 << 30, gpu="old", gpu_bytes=2 << 30), NAME),
        (Hardware(memory_bytes=8 << 30, gpu="Apple", gpu_bytes=8 << 30, shared=True), NAME),
        (Hardware(memory_bytes=16 << 30, gpu="Apple", gpu_bytes=16 << 30, shared=True), REFERENCE_MODEL),
    ],
)
def test_what_is_recommended(found: Hardware, reference: str) -> None:
    assert catalogue.recommended(found) == reference
    listed = models(Settings(), {}, found=found)
    assert [model.reference for model in listed if model.recommended] == [reference]
    assert listed[0].reference == reference


def test_memory_goes_by_the_precision() -> None:
    size = 595_776_512
    on_cpu = catalogue.memory_bytes(size, Settings(), NO_GPU)
    on_gpu = catalogue.memory_bytes(size, Settings(), GPU)
    assert on_cpu > 4 * size > on_gpu > 2 * size
    assert catalogue.memory_bytes(size, Settings(precision="float32"), GPU) == on_cpu
    assert catalogue.memory_bytes(0, Settings(), GPU) == 0


# --- the list ---------------------------------------------------------------------------------


def test_the_list_joins_what_is_known_set_and_used(tmp_path: Path) -> None:
    server = EmbeddingServer(name="desk", url="http://127.0.0.1:1/v1", model="served", key="secret")
    folder = tmp_path / "own-model"
    folder.mkdir()
    (folder / "weights").write_bytes(bytes(10))
    library = {
        NAME: InLibrary(state="active", vectors=7, vector_bytes=700, dimensions=384),
        str(folder): InLibrary(state="building", dimensions=64),
        "server:gone": InLibrary(state="kept", dimensions=99),
    }
    listed = {m.reference: m for m in models(Settings(servers=(server,)), library, found=NO_GPU)}
    assert set(listed) == {m.reference for m in KNOWN} | {"server:desk", "server:gone", str(folder)}
    assert (listed[NAME].state, listed[NAME].vectors, listed[NAME].vector_bytes) == ("active", 7, 700)
    assert (listed[REFERENCE_MODEL].state, listed[REFERENCE_MODEL].vectors) == ("available", 0)
    own = listed[str(folder)]
    assert (own.kind, own.state, own.dimensions, own.installed_bytes) == ("folder", "building", 64, 10)
    assert (listed["server:desk"].kind, listed["server:desk"].name) == ("server", "served")
    assert (listed["server:gone"].kind, listed["server:gone"].state) == ("server", "kept")
    assert "secret" not in str(listed)


# --- names that strangers choose --------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["Qwen/Qwen3-Embedding-0.6B", "BAAI/bge-m3", "a/b", "user_1/some.model-v1.5_x", "0x/9", "a/_b"],
)
def test_names_of_repositories(name: str) -> None:
    assert hub.is_hub_reference(name)
    assert hub.folder_of(name).parent == hub.hub_dir()


@pytest.mark.parametrize(
    "name",
    [
        *("", "bert", "a/b/c", "/a/b", "a/", "/b", "../b", "a/..", "a/.", "./b", "a/b.", "a/-b", "-a/b"),
        *("a--b/c", "a/b--c", "a/b..c", "a/b c", "a\\b/c", "a/b\n", "a/b\0", "ä/b", "a/%2e", "server:x/y"),
        *("a/" + "b" * 200, "C:/x", "a/b?c", "a/b#c", "a/b@main", "~/b", "a/.b"),
    ],
)
def test_what_is_no_name_of_a_repository(name: str) -> None:
    assert not hub.is_hub_reference(name)
    with pytest.raises(IndexerError):
        hub.folder_of(name)


@given(st.text(max_size=60))
def test_any_name_stays_inside_the_folder(name: str) -> None:
    if hub.is_hub_reference(name):
        path = hub.folder_of(name)
        assert Path(os.path.normpath(path)).parent == hub.hub_dir()
        assert not path.name.startswith(".")


@given(st.text(max_size=60), st.text(max_size=60))
def test_two_names_never_share_a_folder(one: str, other: str) -> None:
    if one != other and hub.is_hub_reference(one) and hub.is_hub_reference(other):
        assert hub.folder_of(one) != hub.folder_of(other)


@given(st.text(max_size=80))
def test_any_file_name_stays_inside_the_model(name: str) -> None:
    if hub.safe_path(name):
        path = Path(os.path.normpath(Path("/model") / name))
        assert path == Path("/model") / name
        assert path.is_relative_to("/model")
        assert path != Path("/model")


@pytest.mark.parametrize(
    "name",
    [
        *("", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\\b", "a:b", ".hidden", "a/.git/b"),
        *("a\nb", "a\0b", "con ", "a.", "x" * 501, "a/" * 300 + "b"),
    ],
)
def test_files_that_are_not_taken(name: str) -> None:
    assert not hub.safe_path(name)


@pytest.mark.parametrize(
    "modules",
    [
        None,
        [],
        {},
        "text",
        [1],
        [{"type": 1}],
        [{"path": ""}],
        [{"type": "sentence_transformers.models.Transformer", "path": "../../etc"}],
        [{"type": "sentence_transformers.models.Transformer", "path": "/etc"}],
        [{"type": "sentence_transformers.models.Transformer", "path": None}],
    ],
)
def test_damaged_modules(modules: object) -> None:
    with pytest.raises(IndexerError, match="damaged"):
        hub.module_folders(modules, "here")


def test_modules_that_are_code() -> None:
    with pytest.raises(IndexerError, match="code of its own"):
        hub.module_folders([{"type": "custom_st.Transformer", "path": ""}], "here")


@pytest.mark.parametrize(
    "index",
    [
        None,
        [],
        {},
        {"weight_map": {}},
        {"weight_map": []},
        {"weight_map": {"a": 1}},
        {"weight_map": {"a": []}},
        {"weight_map": {"a": "../x.safetensors"}},
        {"weight_map": {"a": "sub/x.safetensors"}},
        {"weight_map": {"a": "pytorch_model.bin"}},
        {"weight_map": {"a": "good.safetensors", "b": "bad.pt"}},
    ],
)
def test_damaged_indices(index: object) -> None:
    with pytest.raises(IndexerError, match="damaged"):
        hub.shards(index, "here")


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://hf-mirror.com", True),
        ("https://hub.example.org:8443/path/", True),
        ("http://127.0.0.1:8080", True),
        ("http://localhost:8080", True),
        ("http://[::1]:8080", True),
        ("http://hf-mirror.com", False),
        ("http://127.0.0.1.example.org", False),
        ("http://localhost.example.org", False),
        ("https://name:word@hub.example.org", False),
        ("ftp://127.0.0.1", False),
        ("file:///etc/passwd", False),
        ("hf-mirror.com", False),
        ("https://", False),
        ("https://hub.example.org?x=1", False),
    ],
)
def test_mirrors(url: str, good: bool) -> None:
    settings = Settings(hub_endpoint=url)
    if good:
        assert hub.endpoint_of(settings) == url.rstrip("/")
    else:
        with pytest.raises(IndexerError) as caught:
            hub.endpoint_of(settings)
        assert "word" not in caught.value.message


def test_the_environments_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert hub.endpoint_of(Settings()) == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org/")
    assert hub.endpoint_of(Settings()) == "https://mirror.example.org"
    assert hub.endpoint_of(Settings(hub_endpoint="https://other.example.org")) == "https://other.example.org"


def test_a_foreign_folder_in_the_cache_is_no_model() -> None:
    for name, manifest in (
        ("a--b", '{"reference": "c/d", "repository": "c/d", "commit": "", "files": {}}'),
        ("c--d", "not json"),
        (
            "e--f",
            '{"reference":"e/f","repository":"e/f","commit":"","files":{"../../x":{"size":1,"sha256":""}}}',
        ),
    ):
        folder = hub.hub_dir() / name
        folder.mkdir(parents=True)
        (folder / hub.MANIFEST).write_text(manifest)
    (hub.hub_dir().parent / "x").write_bytes(b"1")
    assert hub.all_installed() == ()
    hub.remove("a/b")
    assert not (hub.hub_dir() / "a--b").exists()


# --- measuring and verifying ------------------------------------------------------------------


def test_speeds_are_remembered_by_model_device_and_precision() -> None:
    encoder = Encoder()
    speed = measure.measure(encoder, seconds=0)
    assert speed > 0
    assert len(encoder.calls) == 2  # once to warm up
    measure.remember(encoder, "some/model", 100.0)
    measure.remember(encoder, "some/model", 200.0)
    assert len(measure._read()) == 1
    encoder.device = "cuda:0"
    measure.remember(encoder, "some/model", 3000.0)
    assert len(measure._read()) == 2
    last = measure.last_measured("some/model")
    assert last is not None
    assert (last.tokens_per_s, last.device) == (3000.0, "cuda:0")
    assert measure.last_measured("letters-1") == last
    assert measure.last_measured("other/model") is None
    listed = {
        m.reference: m for m in models(Settings(), {"some/model": InLibrary(state="kept")}, found=NO_GPU)
    }
    assert (listed["some/model"].tokens_per_s, listed["some/model"].device) == (3000.0, "cuda:0")


def test_a_damaged_memory_of_speeds_is_begun_anew(cache: Path) -> None:
    cache.mkdir()
    (cache / measure.MEASURES).write_text("[{]")
    assert measure.last_measured("x") is None
    measure.remember(Encoder(), "x", 5.0)
    assert measure.last_measured("x") is not None


def test_pairs_are_compared_as_they_stand() -> None:
    encoder = Encoder()
    answer = verify.verified(3, encoder, "some/model")
    assert (answer.id, answer.device, answer.is_reference) == (3, "cpu", False)
    for pair in answer.pairs:
        first, second = encoder.encode_passages([pair.first, pair.second])
        assert pair.similarity == pytest.approx(float(first @ second), abs=1e-6)
    same = [pair.similarity for pair in answer.pairs if pair.published > 0.8]
    other = [pair.similarity for pair in answer.pairs if pair.published < 0.3]
    assert (len(same), len(other), len(answer.pairs)) == (3, 2, 7)
    speed = measure.last_measured("some/model")
    assert speed is not None
    assert speed.tokens_per_s == pytest.approx(answer.tokens_per_s, abs=0.1)


@pytest.mark.parametrize(
    ("reference", "name", "is_it"),
    [
        (REFERENCE_MODEL, "Qwen3-Embedding-0.6B", True),
        ("/models/Qwen3-Embedding-0.6B-Q8_0.gguf", "x", True),
        ("server:desk", "Qwen/Qwen3-Embedding-0.6B", True),
        ("server:desk", "qwen3-embedding:0.6b", True),
        ("Qwen/Qwen3-Embedding-4B", "Qwen3-Embedding-4B", False),
        (NAME, NAME, False),
    ],
)
def test_the_reference_model_is_known_by_name(reference: str, name: str, is_it: bool) -> None:
    assert verify.is_reference(Encoder(name=name), reference) is is_it


def test_a_path_is_known_by_one_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    plain = catalogue.choice_of(str(tmp_path / "b"))
    assert catalogue.choice_of(f"{tmp_path}/a/../b/") == plain
    assert catalogue.choice_of(f"{tmp_path}/b/") == plain
    assert catalogue.choice_of(str(tmp_path / "link")).reference == str(tmp_path / "link")
