"""Models translated for OpenVINO, for real, against the same models in torch."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.embed import Encoder, ModelChoice, openvino
from indexer.embed.load import load_encoder
from indexer.embed.openvino import FINDINGS, OpenVinoEncoder
from indexer.embed.transformer import TransformerEncoder
from indexer.errors import FatalError
from indexer.settings import Settings
from tests import tiny_models
from tests.tiny_models import texts

ROOT = Path(__file__).parents[2]
TEXTS: dict[str, list[str]] = json.loads((ROOT / "tests/data/ten_scripts.json").read_text("utf-8"))
ALL = [text for group in TEXTS.values() for text in group]
CLS = {"pooling": "cls", "include_prompt": False}
RAGGED = [*texts(1, 23), "", "cat " * 150]


def load(reference: str = "", dimensions: int = 0, **more: Any) -> Encoder:
    return load_encoder(Settings(device="cpu", **more), ModelChoice(reference, dimensions))


def least_cosine(one: Any, other: Any) -> float:
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
    return float((one * other).sum(1).min())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_bundled_model_gives_the_vectors_of_torch() -> None:
    encoder, reference = load(), load(engine="torch")
    assert isinstance(reference, TransformerEncoder)
    wanted = reference.encode_passages(ALL)
    if isinstance(encoder, OpenVinoEncoder):  # where it was found to be faster
        assert least_cosine(encoder.encode_passages(ALL), wanted) > 0.998
        assert least_cosine(encoder.encode_queries(ALL[:9]), reference.encode_queries(ALL[:9])) > 0.998
    exact = load(engine="openvino", precision="float32")
    assert isinstance(exact, OpenVinoEncoder)
    assert least_cosine(exact.encode_passages(ALL), wanted) > 0.99999
    assert exact.count_tokens(ALL) == reference.count_tokens(ALL)
    for threads in (1, 2, 0):
        exact.set_threads(threads)
        assert least_cosine(exact.encode_passages(ALL[:5]), wanted[:5]) > 0.99999


@pytest.mark.parametrize(
    ("kind", "more", "dimensions"),
    [
        ("qwen3", {}, 32),
        (
            "xlm-roberta",
            {"modules": [("Pooling", {"pooling": "cls", "include_prompt": False}), ("Normalize", {})]},
            0,
        ),
    ],
)
def test_other_architectures(
    cache: Path, tmp_path: Path, kind: str, more: dict[str, Any], dimensions: int
) -> None:
    folder = str(tiny_models.sentence(kind, tmp_path / "model", **more))
    reference = load(folder, dimensions, engine="torch")
    encoder = load(folder, dimensions, engine="openvino", precision="float32")
    assert isinstance(encoder, OpenVinoEncoder)
    assert encoder.precision == "float32"
    wanted = reference.encode_passages(RAGGED)
    assert float((wanted @ wanted.T).min()) < 0.9, "agreeing would show nothing"
    assert least_cosine(encoder.encode_passages(RAGGED), wanted) > 0.99999
    assert least_cosine(encoder.encode_queries(RAGGED), reference.encode_queries(RAGGED)) > 0.99999
    assert encoder.encode_queries([]).shape == (0, wanted.shape[1])
    assert isinstance(load(folder, dimensions), TransformerEncoder), "one so small is not worth it"


def test_what_cannot_be_translated_is_remembered_and_run_by_torch(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It scales what it looks up in its vocabulary.
    folder = str(tiny_models.sentence("gemma", tmp_path / "model"))
    monkeypatch.setattr(openvino, "_SMALLEST_BYTES", 0)
    assert isinstance(load(folder), TransformerEncoder)
    (findings,) = cache.glob(f"engines/*/{FINDINGS}")
    assert "embeddings" in json.loads(findings.read_bytes())["reason"]
    monkeypatch.setattr(openvino, "_run_child", lambda order: pytest.fail("it was tried again"))
    assert isinstance(load(folder), TransformerEncoder)
    monkeypatch.undo()
    monkeypatch.setenv("DRAGOMAN_CACHE", str(cache))
    with pytest.raises(FatalError, match="OpenVINO cannot run"):
        load(folder, engine="openvino")


def test_a_damaged_translation_is_made_again(cache: Path, tmp_path: Path) -> None:
    folder = str(tiny_models.sentence("bert", tmp_path / "model"))
    before = load(folder, engine="openvino", precision="int8").encode_passages(RAGGED)
    (graph,) = cache.glob("engines/*/model.xml")
    graph.write_text("<net>")
    encoder = load(folder, engine="openvino", precision="int8")
    assert isinstance(encoder, OpenVinoEncoder)
    assert least_cosine(encoder.encode_passages(RAGGED), before) > 0.9999
    assert len(list(cache.glob("engines/*/model.xml"))) == 1


_LOAD = """
import sys
from indexer.embed.load import load_encoder
from indexer.settings import Settings
encoder = load_encoder(Settings(device="cpu", engine="openvino", precision="float32"))
assert encoder.encode_queries(["old bridge"]).shape == (1, 384)
assert not {"torch", "transformers"} & set(sys.modules), "it needs seconds and 300 MB"
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
assert sys.modules["openvino_telemetry"] is None
"""


def test_a_translated_model_needs_neither_torch_nor_telemetry() -> None:
    load(engine="openvino", precision="float32")
    subprocess.run([sys.executable, "-c", _LOAD], check=True, cwd=ROOT, timeout=120)


@pytest.mark.parametrize("more", [{"engine": "steam"}, {"engine": "openvino", "precision": "steam"}])
def test_unknown_names_are_told(more: dict[str, Any]) -> None:
    with pytest.raises(FatalError, match="steam"):
        load(**more)


def test_queries_beside_passages_have_the_same_vectors() -> None:
    encoder = load(engine="openvino", precision="float32")
    assert isinstance(encoder, OpenVinoEncoder)
    beside = encoder.beside()
    assert beside is not None
    # Windows of long texts make the tokenizer cut; a query must not be caught by that, nor undo it.
    passages = [" ".join(ALL) * 20, *ALL, "word " * 3000]
    queries = ["what is sought", " ".join(ALL) * 9, *ALL[:4]]
    wanted = encoder.encode_passages(passages), [encoder.encode_queries([query]) for query in queries]
    found: list[Any] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            found.append([beside.encode_queries([query]) for query in queries])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(3):
            assert least_cosine(encoder.encode_passages(passages), wanted[0]) > 0.99999
    finally:
        ended.set()
        thread.join()
    assert found
    for answers in found:
        for answer, vector in zip(answers, wanted[1], strict=True):
            assert least_cosine(answer, vector) > 0.99999
    encoder.set_threads(1)
    assert least_cosine(beside.encode_queries(queries[:1]), wanted[1][0]) > 0.99999
