"""Model folders: whole or made again."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from indexer.embed.folder import Model, ModelFolder, open_folder, publish
from indexer.errors import FatalError

MODEL = Model(
    key="test-1", name="test", dim=3, max_length=9, max_passage=5, query_prefix="q: ", passage_prefix="p: ",
)  # fmt: skip


def write(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "tokenizer.json").write_text("{}")


def made(tmp_path: Path) -> ModelFolder:
    return publish(tmp_path / "models" / "test-1", MODEL, write)


def test_a_published_folder_says_what_it_holds(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert folder.info.max_tokens == 5
    assert folder.info.tokenizer.read_text() == "{}"
    assert [file.name for file in folder.path.parent.iterdir()] == ["test-1"]


def test_a_checked_folder_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path)

    def refuse(file: Path) -> str:
        raise AssertionError(f"{file} was read")

    monkeypatch.setattr("indexer.embed.folder._blake2b", refuse)
    assert open_folder(folder.path) == folder


def test_a_folder_that_was_only_touched_is_checked_and_kept(tmp_path: Path) -> None:
    folder = made(tmp_path)
    os.utime(folder.path / "model.safetensors")
    assert open_folder(folder.path) == folder


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "manifest.json"])
def test_a_damaged_folder_is_seen_and_made_again(tmp_path: Path, damage: object, name: str) -> None:
    folder = made(tmp_path)
    assert callable(damage)
    damage(folder.path / name)
    seen = open_folder(folder.path)
    # A flipped bit in the manifest may still be JSON, but then it is another model or other files.
    assert seen is None or seen.model != MODEL
    if seen is None:
        assert made(tmp_path) == folder
        assert (folder.path / "model.safetensors").read_bytes() == b"weights" * 1000
        assert [file.name for file in folder.path.parent.iterdir()] == ["test-1"]


def test_several_at_once_all_get_the_same_folder(tmp_path: Path) -> None:
    barrier = threading.Barrier(4, timeout=30)

    def write_together(folder: Path) -> None:
        write(folder)
        barrier.wait()

    results: list[ModelFolder] = []
    path = tmp_path / "models" / "test-1"
    threads = [
        threading.Thread(target=lambda: results.append(publish(path, MODEL, write_together)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 4
    assert all(result == results[0] for result in results)
    assert [file.name for file in path.parent.iterdir()] == ["test-1"]


def test_a_folder_that_cannot_be_written_is_a_fatal_error(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(FatalError, match="cannot be written"):
        made(tmp_path)


def test_a_failed_conversion_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise FatalError("Damaged", "No.")

    with pytest.raises(FatalError, match="Damaged"):
        publish(tmp_path / "models" / "test-1", MODEL, fail)
    assert list((tmp_path / "models").iterdir()) == []
