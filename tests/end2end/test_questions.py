"""Real documents in six languages, indexed by the real service and asked in other languages than they are in.

The floors are what was measured, less a margin for another version of the documents; they guard
against a step back, and the figures themselves are printed (``pytest -s``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest

from indexer import api
from indexer.client import IndexerClient
from indexer.extract import extract
from tests.end2end import corpus

QUESTIONS = corpus.questions()


@pytest.fixture(scope="module")
def mixed() -> Path:
    """The library in which every chapter is in one language only."""
    return corpus.fetch() / "mixed"


@pytest.fixture(scope="module")
def client(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IndexerClient]:
    """A client of a service that has indexed all of it."""
    data = tmp_path_factory.mktemp("end2end") / "library"
    with IndexerClient(data) as asking:
        try:
            asking.add_folder(mixed)
            with IndexerClient(data) as watcher:
                for status in watcher.watch():
                    assert not status.notices, status.notices
                    if status.state == "watching":
                        break
            yield asking
        finally:
            asking.stop()


def test_every_question_has_its_answer_in_the_corpus(mixed: Path) -> None:
    files = [file for file in mixed.rglob("*") if file.is_file()]
    texts = {file.relative_to(mixed).as_posix(): extract(file, file.read_bytes()).text for file in files}
    lost = [q for q in QUESTIONS if not any(q.answered_by(path, text) for path, text in texts.items())]
    assert not lost


def test_all_files_are_in_the_index(client: IndexerClient, mixed: Path) -> None:
    assert client.problems().total == 0
    assert client.status().files == sum(file.is_file() for file in mixed.rglob("*"))


def test_questions_find_their_passage_across_languages(client: IndexerClient, mixed: Path) -> None:
    ranks = {
        question: _rank(question, client.search(question.query, limit=10), mixed) for question in QUESTIONS
    }
    for question, (file, passage) in ranks.items():
        print(
            f"{file or '-':>2} {passage or '-':>2}  {question.lang}  {question.path_glob:44} {question.query}"
        )
    at = {n: sum(1 for file, _ in ranks.values() if file and file <= n) / len(ranks) for n in (1, 3, 10)}
    exact = sum(1 for _, passage in ranks.values() if passage and passage <= 3) / len(ranks)
    print(", ".join(f"file@{n} {share:.2f}" for n, share in at.items()), f"passage@3 {exact:.2f}")
    assert at[1] >= FILE_AT_1
    assert at[10] >= FILE_AT_10
    assert exact >= PASSAGE_AT_3


FILE_AT_1 = 0.5
FILE_AT_10 = 0.8
PASSAGE_AT_3 = 0.5


def _rank(question: corpus.Question, found: api.SearchResult, library: Path) -> tuple[int | None, int | None]:
    """Ranks, from 1, of the first right file and of the first file one of whose passages is the right one."""
    paths = [PurePath(hit.path).relative_to(library.resolve()).as_posix() for hit in found.hits]
    right = [rank for rank, path in enumerate(paths, 1) if question.fits(path)]
    exact = [
        rank
        for rank, (path, hit) in enumerate(zip(paths, found.hits, strict=True), 1)
        if any(question.answered_by(path, passage.text) for passage in hit.passages)
    ]
    return (right[0] if right else None), (exact[0] if exact else None)
