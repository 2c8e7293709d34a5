"""A model without a shipped profile gets its own, once."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from indexer.api import Task
from indexer.embed import EncoderInfo, Vectors
from indexer.embed.space import _fewest, install_profile, space_of
from indexer.errors import FatalError


class Letters:
    """Counts pairs of letters: an encoder that knows languages and a little meaning."""

    device = "cpu"

    def __init__(self, tmp_path: Path) -> None:
        self.info = EncoderInfo(
            key="letters-1", name="letters", dim=64, max_tokens=512, tokenizer=tmp_path / "none"
        )
        self.texts = 0

    def encode_queries(self, texts: Sequence[str], task: Task = "notes") -> Vectors:
        self.texts += len(texts)
        rows = np.zeros((len(texts), 64), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for a, b in itertools.pairwise(text):
                row[(ord(a) * 31 + ord(b)) % 64] += 1
        unit: Vectors = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
        return unit

    encode_passages = encode_queries


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))


def test_a_new_model_gets_its_profile_and_keeps_it(tmp_path: Path) -> None:
    encoder = Letters(tmp_path)
    assert space_of("letters-1") is None
    installed = install_profile(encoder)
    assert encoder.texts > 600
    again = space_of("letters-1")
    assert again is not None
    assert again.key == installed.key
    file = tmp_path / "cache" / "profiles" / "letters-1.npz"
    assert file.parent.stat().st_mode & 0o077 == 0


def test_the_profile_is_about_this_model(tmp_path: Path) -> None:
    space = install_profile(Letters(tmp_path))
    assert space.low < space.high
    assert 0 < space.similarity(space.low) < space.similarity(space.high) < 1
    german = Letters(tmp_path).encode_queries(["Wie kündige ich die Versicherung für meine Wohnung?"])[0]
    odds = space.languages_of(german)
    assert sum(odds.values()) == pytest.approx(1, abs=1e-3)
    assert odds["de"] > 1 / len(odds)


def test_a_damaged_one_is_made_again(tmp_path: Path) -> None:
    install_profile(Letters(tmp_path))
    (tmp_path / "cache" / "profiles" / "letters-1.npz").write_bytes(b"PK\x03\x04 no longer")
    assert space_of("letters-1") is None


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(FatalError, match="cannot be written"):
        install_profile(Letters(tmp_path))


def test_no_more_directions_are_taken_out_than_languages_need() -> None:
    rng = np.random.default_rng(5)
    meanings = rng.normal(size=(12, 64)).astype(np.float32)
    leaning = np.zeros((9, 64), np.float32)
    leaning[:, :3] = 6 * rng.normal(size=(9, 3))  # nine languages that differ in three directions
    texts = meanings[None] + leaning[:, None] + 0.3 * rng.normal(size=(9, 12, 64)).astype(np.float32)
    unit = texts / np.linalg.norm(texts, axis=-1, keepdims=True)
    assert 2 <= _fewest(unit, unit) <= 4
    fair = meanings[None] + 0.3 * rng.normal(size=(9, 12, 64)).astype(np.float32)
    assert _fewest(fair, fair) == 0
