"""Files made to do harm, through a real service; and spoiled ones, through real processes."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import hostile
from tests.fuzz import files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="devices, sockets and names of bytes")


@pytest.fixture(scope="module")
def ended() -> Iterator[hostile.Ended]:
    # Not pytest's folder: a socket's path has to be short, and that of a deep folder may not be removed.
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        yield hostile.run(Path(folder), deep=3_000)


def test_each_ends_as_it_has_to(ended: hostile.Ended) -> None:
    assert ended.wrong() == []
    assert {file.ends for file in ended.made} == {"indexed", "skipped", "failed", "out"}


def test_problems_are_told_in_sentences(ended: hostile.Ended) -> None:
    for end in ended.files.values():
        if end[0] != "indexed":
            _, title, message = end
            assert title
            assert message.endswith(".")
            assert message.isprintable()


def test_nothing_from_outside_is_in_the_index(ended: hostile.Ended) -> None:
    assert ended.leaked == []
    assert ended.found  # what is inside is found in the same way


def test_nobody_is_called(ended: hostile.Ended) -> None:
    assert ended.heard == []
    assert not ended.refused


def test_memory_is_bounded(ended: hostile.Ended) -> None:
    assert 0 < ended.service < 1500
    assert 0 < ended.child < 1500


def test_spoiled_files_through_real_processes(tmp_path: Path) -> None:
    figures = files.run(range(25), 7, tmp_path, tell=lambda _: None)
    assert figures.findings == []
    assert not figures.lost
    assert figures.files == 25
    assert figures.verdicts["indexed"] > 12
    assert figures.previews > 0
    assert figures.largest[0] < 1500 << 10
