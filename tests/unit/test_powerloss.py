"""The power is cut in the middle of a library's life; see `tests.end2end.powerloss` for many more cuts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from indexer import settings
from indexer.store import matrix
from tests.end2end.powerloss import cut


def test_what_was_acknowledged_is_there_after_a_power_cut() -> None:
    result = cut(seed=11, cuts=25, changes=60)
    assert result.faults == []
    assert result.events > 1000


def test_without_waiting_for_the_disk_it_would_not_be() -> None:
    """Else the test above would prove nothing."""
    assert cut(seed=11, cuts=12, changes=60, synchronous="off").faults


def test_a_matrix_is_only_believed_when_its_rows_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.f32"
    mirror = matrix.Matrix(file, "0" * 16, 4)
    mirror.put([0, 1], np.eye(2, 4, dtype=np.float32))
    synced: list[int] = []
    fsync = os.fsync

    def note(handle: int) -> None:
        fsync(handle)
        synced.append(matrix._FIELDS.unpack(file.read_bytes()[: matrix._FIELDS.size])[3])

    monkeypatch.setattr(os, "fsync", note)
    mirror.close(good=True)
    # First with a header that says "in use", then with one that says how many rows there are.
    assert synced == [0, 1024]


def test_settings_are_on_the_disk_before_they_take_the_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.save(tmp_path, settings.Settings(max_file_mb=7))
    seen: list[tuple[str, int]] = []
    fsync = os.fsync

    def note(handle: int) -> None:
        fsync(handle)
        seen.append((Path(f"/proc/self/fd/{handle}").readlink().name, settings.load(tmp_path).max_file_mb))

    monkeypatch.setattr(os, "fsync", note)
    settings.save(tmp_path, settings.Settings(max_file_mb=9))
    assert seen == [("settings.toml.new", 7), (tmp_path.name, 9)]
