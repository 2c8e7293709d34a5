"""What is no file, cannot be looked into or does not answer: in the list with a reason, and never opened."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from indexer import pipeline
from indexer.workers import lstat
from indexer.workers.patience import NoAnswerError, Patience
from tests.unit import test_pipeline
from tests.unit.test_store import store

__all__ = ["store"]
bench = test_pipeline.bench
Bench = test_pipeline.Bench


def titles(bench: Bench) -> dict[str, tuple[str, str]]:
    """Kind and title of each problem, by path."""
    problems, _ = bench.store.problems()
    return {str(Path(p.path).relative_to(bench.root)): (p.kind, p.title) for p in problems}


def look(bench: Bench) -> None:
    bench.pipeline.rescan(str(bench.root))
    bench.rest()


def test_what_is_no_file_is_listed_and_becomes_one(bench: Bench, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("a secret")
    inside = bench.write("a.txt", "a")
    (bench.root / "out.txt").symlink_to(outside)
    (bench.root / "folder").symlink_to(tmp_path)
    (bench.root / "in.txt").symlink_to(inside)
    os.mkfifo(bench.root / "pipe.txt")
    bench.pipeline.start()
    look(bench)
    assert bench.known == {"a.txt": "indexed"} | dict.fromkeys(("out.txt", "folder", "pipe.txt"), "skipped")
    link = ("skipped", "A link")
    assert titles(bench) == {"out.txt": link, "folder": link, "pipe.txt": ("skipped", "Not a plain file")}
    for name in ("out.txt", "pipe.txt"):
        (bench.root / name).unlink()
        bench.write(name, name)
    (bench.root / "folder").unlink()
    (bench.root / "folder").symlink_to(bench.root)
    look(bench)
    assert bench.known == dict.fromkeys(("a.txt", "out.txt", "pipe.txt"), "indexed")
    assert titles(bench) == {}


def test_a_folder_that_may_not_be_looked_into_is_listed_until_it_may(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("closed/a.txt", "a")
    real = os.scandir

    def refuse(path: str | Path) -> object:
        if str(path) == str(bench.root / "closed"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path)

    bench.pipeline.start()
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        look(bench)
        look(bench)
        assert bench.known == {"closed": "failed"}
        assert titles(bench) == {"closed": ("failed", "No permission")}
    look(bench)
    assert bench.known == {"closed/a.txt": "indexed"}


def test_what_does_not_answer_is_a_problem_only_where_nothing_is_known(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = bench.write("known.txt", "known")
    bench.pipeline.start()
    look(bench)
    new = bench.write("new.txt", "new")

    def hang(path: Path) -> os.stat_result:
        raise NoAnswerError(path, "Did not answer", "The disk gave no answer.")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "lstat", hang)
        bench.changed(known)
        bench.changed(new)
        bench.rest()
        assert bench.known == {"known.txt": "indexed", "new.txt": "failed"}
    look(bench)
    assert bench.known == {"known.txt": "indexed", "new.txt": "indexed"}


def test_errors_of_a_call_are_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lstat(tmp_path / "none")
    assert Patience().call(tmp_path, lambda: 3) == 3
