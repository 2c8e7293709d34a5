"""Real documents in six languages, indexed and asked through the command line in other languages.

The floors are what was measured (the figures are printed by ``pytest -s``), less a margin for another
version of the documents; they guard against a step back.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import pytest

from indexer.extract import extract
from tests.end2end import corpus

QUESTIONS = corpus.questions()
FILE_AT_1 = 0.4
FILE_AT_10 = 0.75
PASSAGE_AT_3 = 0.6


def dragoman(library: Path, *words: str) -> str:
    """Run one command on a library and return what it prints."""
    command = [sys.executable, "-m", "indexer.cli", *words, "--data-dir", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def mixed() -> Path:
    """The documents: every chapter in one language only."""
    return corpus.fetch() / "mixed"


@pytest.fixture(scope="module")
def library(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder in which all of them are indexed."""
    data = tmp_path_factory.mktemp("end2end") / "library"
    try:
        dragoman(data, "index", str(mixed), "--wait")
        yield data
    finally:
        dragoman(data, "stop")


def test_every_question_has_its_answer_in_the_corpus(mixed: Path) -> None:
    files = [file for file in mixed.rglob("*") if file.is_file()]
    texts = {file.relative_to(mixed).as_posix(): extract(file, file.read_bytes()).text for file in files}
    lost = [q for q in QUESTIONS if not any(q.answered_by(path, text) for path, text in texts.items())]
    assert not lost


def test_all_files_are_in_the_index(library: Path, mixed: Path) -> None:
    status = json.loads(dragoman(library, "status", "--json"))
    assert json.loads(dragoman(library, "problems", "--json")) == []
    assert status["files"] == sum(file.is_file() for file in mixed.rglob("*"))


def test_questions_find_their_passage_across_languages(library: Path, mixed: Path, tmp_path: Path) -> None:
    asked = tmp_path / "questions.txt"
    asked.write_text("".join(f"{question.query}\n" for question in QUESTIONS), encoding="utf-8")
    lines = dragoman(library, "search", "--batch", str(asked), "--json", "--limit", "10").splitlines()
    answers = [json.loads(line) for line in lines]
    files: list[int | None] = []
    passages: list[int | None] = []
    for question, hits in zip(QUESTIONS, answers, strict=True):
        file, passage = _rank(question, hits, mixed)
        files.append(file)
        passages.append(passage)
        print(
            f"{file or '-':>2} {passage or '-':>2}  {question.lang}  {question.path_glob:44} {question.query}"
        )
    at = {n: _share(files, n) for n in (1, 3, 10)}
    exact = _share(passages, 3)
    print(", ".join(f"file@{n} {share:.2f}" for n, share in at.items()), f"passage@3 {exact:.2f}")
    assert at[1] >= FILE_AT_1
    assert at[10] >= FILE_AT_10
    assert exact >= PASSAGE_AT_3


def test_the_page_of_a_pdf_is_named(library: Path) -> None:
    """A Chinese question whose answer stands on one page of an English PDF."""
    pages = [
        hit["locator"]["page"]
        for hit in json.loads(
            dragoman(library, "search", "怎样彻底擦除整个硬盘上的数据", "--json", "--limit", "10")
        )
        if hit["path"].endswith("ch09.en.pdf")
    ]
    assert pages
    assert pages[0] > 1


def _share(ranks: list[int | None], best: int) -> float:
    return sum(1 for rank in ranks if rank is not None and rank <= best) / len(ranks)


def _rank(
    question: corpus.Question, hits: list[dict[str, Any]], folder: Path
) -> tuple[int | None, int | None]:
    """Ranks, from 1, of the first right file and of the first file with the right passage."""
    paths = [PurePath(hit["path"]).relative_to(folder.resolve()).as_posix() for hit in hits]
    right = [rank for rank, path in enumerate(paths, 1) if question.fits(path)]
    exact = [
        rank
        for rank, (path, hit) in enumerate(zip(paths, hits, strict=True), 1)
        if any(question.answered_by(path, passage["text"]) for passage in (hit, *hit["passages"]))
    ]
    return (right[0] if right else None), (exact[0] if exact else None)
