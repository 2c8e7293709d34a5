"""The language-neutral space, on vectors made of a known meaning and a known language."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from indexer.embed.space import PROFILES, LanguageSpace, similarity, space_of
from indexer.errors import FatalError

DIM, LANGUAGES, TEXTS = 64, 6, 40
Rows = npt.NDArray[np.float32]


def unit(rows: Rows) -> Rows:
    scaled: Rows = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


@pytest.fixture(scope="module")
def world() -> tuple[Rows, Rows, LanguageSpace]:
    """Meanings, (TEXTS, DIM); languages, (LANGUAGES, DIM), stronger than they; a space that knows these."""
    rng = np.random.default_rng(7)
    meanings = rng.normal(size=(TEXTS, DIM)).astype(np.float32)
    languages = 3 * rng.normal(size=(LANGUAGES, DIM)).astype(np.float32)
    means = unit(languages + meanings.mean(0))
    target = io.BytesIO()
    names = [*(f"l{n}" for n in range(LANGUAGES)), "code"]
    reference = np.concatenate([unit(meanings[:12] + language) for language in languages])
    np.savez(
        target,
        languages=names,
        queries=means,
        passages=np.vstack([means, means[:1]]),
        reference=reference,
        scale=[2.0, 5.0, 0.1],
    )
    return meanings, languages, LanguageSpace(target.getvalue())


def test_the_right_text_is_found_whatever_its_language(world: tuple[Rows, Rows, LanguageSpace]) -> None:
    meanings, languages, space = world
    rng = np.random.default_rng(8)
    written = rng.integers(LANGUAGES, size=TEXTS)
    asked = (written + 1 + rng.integers(LANGUAGES - 1, size=TEXTS)) % LANGUAGES
    passages, queries = unit(meanings + languages[written]), unit(meanings + languages[asked])
    raw = (queries @ passages.T).argmax(1)
    neutral = (space.queries(queries) @ space.passages(passages).T).argmax(1)
    right = np.arange(TEXTS)
    assert (raw == right).mean() < 0.5
    assert (neutral == right).mean() > 0.95


def test_vectors_have_unit_length_and_keep_their_type(world: tuple[Rows, Rows, LanguageSpace]) -> None:
    meanings, languages, space = world
    rows = space.passages(unit(meanings + languages[0]))
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert space.passages(np.empty((0, DIM), np.float32)).shape == (0, DIM)


def test_similarity_runs_from_unrelated_to_answer(world: tuple[Rows, Rows, LanguageSpace]) -> None:
    space = world[2]
    assert [space.similarity(d) for d in (space.low, 3.5, space.high)] == pytest.approx([0.25, 0.5, 0.75])
    shown = [space.similarity(d) for d in (-1e9, -3.0, 0.0, 2.0, 5.0, 9.0, 1e9)]
    assert shown == sorted(shown)
    assert 0 <= shown[0] < 0.01
    assert 0.99 < shown[-1] <= 1


def test_similarity_has_a_value_where_there_is_no_profile() -> None:
    assert similarity(-1e9) == pytest.approx(0, abs=1e-6)
    assert similarity(1e9) == pytest.approx(1, abs=1e-6)
    assert 0 <= similarity(3.0, 2.0, 2.0) <= 1, "also where the scale has no width"


def test_the_language_of_a_query_is_told_by_its_vector(world: tuple[Rows, Rows, LanguageSpace]) -> None:
    meanings, languages, space = world
    for number, language in enumerate(languages):
        odds = space.languages_of(unit(meanings[3] + language))
        assert sum(odds.values()) == pytest.approx(1)
        assert max(odds, key=odds.__getitem__) == f"l{number}"
    blank = space.languages_of(np.zeros(DIM, np.float32))
    assert sum(blank.values()) == pytest.approx(1)
    assert "code" not in blank


def test_translations_of_the_reference_are_nearer_than_other_texts(
    world: tuple[Rows, Rows, LanguageSpace],
) -> None:
    space = world[2]
    rows = space.reference.reshape(LANGUAGES, -1, DIM)
    other = np.einsum("lid,mid->lmi", rows, np.roll(rows, 1, axis=1))
    assert other.max() < space.translation <= 1


@pytest.mark.parametrize("size", [0, 10, 2000, -1])
def test_a_damaged_profile_is_refused(size: int) -> None:
    good = next(PROFILES.glob("*.npz")).read_bytes()
    with pytest.raises(FatalError):
        LanguageSpace(good[:size])


def test_a_model_without_profile_has_no_space() -> None:
    assert space_of("no-such-model") is None


def test_the_key_names_the_content(tmp_path: Path) -> None:
    good = next(PROFILES.glob("*.npz")).read_bytes()
    assert LanguageSpace(good).key == LanguageSpace(good).key
    target = io.BytesIO()
    with np.load(io.BytesIO(good)) as arrays:
        np.savez(target, **{**arrays, "scale": [0.5, 1.0, 0.1]})
    assert LanguageSpace(target.getvalue()).key != LanguageSpace(good).key
